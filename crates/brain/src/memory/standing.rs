//! How a memory stands: how sure it is, and since when it is so. Confirmed when it is said again, moved by what the person
//! thinks of it, and read by ranking without the texts.

use super::{Change, MemoryId, Stored, each, id_column, table, time, time_or_none};
use crate::{Result, Tx};
use contract::Timestamp;
use contract::memory::Store;
use rusqlite::params;

/// What ranking needs to know of a memory.
#[derive(Debug, Clone, PartialEq)]
pub struct Standing {
    /// Which memory.
    pub id: MemoryId,
    /// 0..1.
    pub confidence: f64,
    /// When it was last said again.
    pub last_confirmed_at: Timestamp,
    /// When it happened (episodes), began to be so (knowledge), or was first kept (social).
    pub at: Timestamp,
    /// When it ceased to be so.
    pub valid_until: Option<Timestamp>,
}

/// How these rows stand, in this order; those that are gone are left out. Reads the first page of a row and no text: a
/// search looks at hundreds of rows to show twenty.
pub fn of_rows(tx: &Tx<'_>, store: Store, rows: &[i64]) -> Result<Vec<Stored<Standing>>> {
    let (at, until) = match store {
        Store::Episodes => ("occurred_at", "NULL"),
        Store::Knowledge => ("valid_from", "valid_until"),
        Store::Social => ("created_at", "NULL"),
    };
    let sql = format!(
        "SELECT id, {}, confidence, last_confirmed_at, {at}, {until} FROM {} WHERE id = ?1",
        id_column(store),
        table(store)
    );
    each(tx, &sql, rows, |row| {
        Ok(Stored {
            row: row.get(0)?,
            item: Standing {
                id: MemoryId::stored(row.get_ref(1)?.as_str().map_err(rusqlite::Error::from)?)?,
                confidence: row.get(2)?,
                last_confirmed_at: time(row, 3)?,
                at: time(row, 4)?,
                valid_until: time_or_none(row, 5)?,
            },
        })
    })
}

/// Raises the confidence by `raise`, at most to 1, and notes that the memory was said again.
pub fn confirm(tx: &Tx<'_>, id: &MemoryId, raise: f64, now: Timestamp) -> Result<Change> {
    let (table, column) = id.place();
    let sql = format!(
        "UPDATE {table} SET confidence = round(min(1.0, confidence + ?2), 4), last_confirmed_at = max(last_confirmed_at, ?3),
                updated_at = ?3 WHERE {column} = ?1"
    );
    let rows = tx.conn().prepare_cached(&sql)?.execute(params![id.as_str(), raise, now.millis()])?;
    Ok(Change::of(rows))
}

/// Moves the confidence by `delta`, within 0 and 1. When the memory was last said stays as it is.
pub fn adjust(tx: &Tx<'_>, id: &MemoryId, delta: f64, now: Timestamp) -> Result<Change> {
    let (table, column) = id.place();
    let sql = format!(
        "UPDATE {table} SET confidence = round(max(0.0, min(1.0, confidence + ?2)), 4), updated_at = ?3
         WHERE {column} = ?1"
    );
    let rows = tx.conn().prepare_cached(&sql)?.execute(params![id.as_str(), delta, now.millis()])?;
    Ok(Change::of(rows))
}

/// Whether there is such a memory.
pub fn exists(tx: &Tx<'_>, id: &MemoryId) -> Result<bool> {
    let (table, column) = id.place();
    let sql = format!("SELECT EXISTS (SELECT 1 FROM {table} WHERE {column} = ?1)");
    Ok(tx.conn().prepare_cached(&sql)?.query_row([id.as_str()], |r| r.get(0))?)
}
