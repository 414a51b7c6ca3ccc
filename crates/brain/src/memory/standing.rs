//! How sure a memory is: confirmed when it is said again, moved by what the person thinks of it.

use super::{Change, MemoryId};
use crate::{Result, Tx};
use contract::Timestamp;
use rusqlite::params;

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
