//! Working memory: key/value notes of one task, append-only, with a life of their own.

use crate::{Result, Tx};
use contract::{TaskId, Timestamp, TurnId};
use rusqlite::params;
use serde_json::Value;

/// The present value of one key.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Its name.
    pub key: String,
    /// Its value.
    pub value: Value,
    /// When it fades.
    pub expires_at: Timestamp,
}

/// Writes (`Some`) or deletes (`None`) a key.
pub fn write(
    tx: &Tx<'_>,
    task: &TaskId,
    turn: &TurnId,
    key: &str,
    value: Option<&Value>,
    now: Timestamp,
    expires_at: Timestamp,
) -> Result<()> {
    tx.conn()
        .prepare_cached(
            "INSERT INTO working_memory_log (task_id, turn_id, key, value, op, created_at, expires_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute(params![
            task.as_str(),
            turn.as_str(),
            key,
            value.map(Value::to_string),
            if value.is_some() { "set" } else { "delete" },
            now.millis(),
            expires_at.millis(),
        ])?;
    Ok(())
}

/// The unexpired entries of a task, by key.
pub fn present(tx: &Tx<'_>, task: &TaskId, now: Timestamp) -> Result<Vec<Entry>> {
    let mut statement = tx.conn().prepare_cached(
        "SELECT key, value, expires_at FROM working_memory_log w
         WHERE task_id = ?1 AND op = 'set' AND expires_at > ?2
           AND id = (SELECT max(id) FROM working_memory_log m WHERE m.task_id = w.task_id AND m.key = w.key)
         ORDER BY key",
    )?;
    let mut rows = statement.query(params![task.as_str(), now.millis()])?;
    let mut out = Vec::new();
    while let Some(row) = rows.next()? {
        let key: String = row.get(0)?;
        let text: String = row.get(1)?;
        let value = serde_json::from_str(&text)
            .map_err(|_| crate::Error::bad_data("working_memory_log.value", &key))?;
        out.push(Entry { key, value, expires_at: Timestamp::from_millis(row.get(2)?) });
    }
    Ok(out)
}
