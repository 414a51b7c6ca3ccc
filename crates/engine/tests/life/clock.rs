//! A day passes: every time in a brain at rest moves a day into the past.
//!
//! The Engine has no clock that could be set, and gets none for a test. To it, a brain whose times lie a day further
//! back is a brain a day later. Dates written out for the full-text index move along; vectors stay, since no date is
//! embedded. Texts that name a date (event payloads, messages) stay as they are; no rule of memory reads them.
//!
//! The invariant: all times of the brain move by the same amount, so that no order and no distance changes.

use contract::Timestamp;
use memory::search_text::written_out;
use rusqlite::Connection;

/// Milliseconds of a day.
pub const DAY_MS: i64 = 86_400_000;
/// Stores whose search text ends with a date, and the column it comes from.
const DATED: [(&str, &str); 2] = [("episodes", "occurred_at"), ("knowledge_store", "valid_from")];

/// Moves everything a day back.
pub fn a_day_passes(brain: &mut Connection) -> rusqlite::Result<()> {
    let tx = brain.transaction()?;
    for (table, column) in DATED {
        // a vector goes with its text by trigger, but the date is not part of what was embedded
        tx.execute_batch(&format!("CREATE TEMP TABLE kept_{table} AS SELECT * FROM {table}_vec"))?;
        let rows: Vec<(i64, i64, String)> = tx
            .prepare(&format!("SELECT id, {column}, search_text FROM {table}"))?
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
            .collect::<Result<_, _>>()?;
        for (id, at, text) in rows {
            let (old, new) =
                (written_out(Timestamp::from_millis(at)), written_out(Timestamp::from_millis(at - DAY_MS)));
            let said = text.strip_suffix(&old).expect("a search text ends with its date");
            tx.execute(
                &format!("UPDATE {table} SET search_text = ?1 WHERE id = ?2"),
                (format!("{said}{new}"), id),
            )?;
        }
        tx.execute_batch(&format!(
            "INSERT OR REPLACE INTO {table}_vec SELECT * FROM kept_{table}; DROP TABLE kept_{table}"
        ))?;
    }
    let columns: Vec<(String, String)> = tx
        .prepare(
            "SELECT t.name, c.name FROM pragma_table_list t JOIN pragma_table_info(t.name) c \
             WHERE t.schema = 'main' AND t.type = 'table' AND c.type = 'INTEGER' \
             AND (c.name LIKE '%\\_at' ESCAPE '\\' OR c.name IN ('valid_from', 'valid_until'))",
        )?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<_, _>>()?;
    assert!(columns.len() > 40, "the brain has times: {columns:?}");
    for (table, column) in columns {
        tx.execute(
            &format!(
                "UPDATE \"{table}\" SET \"{column}\" = \"{column}\" - {DAY_MS} WHERE \"{column}\" > {DAY_MS}"
            ),
            [],
        )?;
    }
    tx.commit()
}
