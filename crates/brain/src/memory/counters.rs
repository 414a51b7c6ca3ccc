//! How many writes were refused: numbers for people, so that "nothing was kept" can be explained.

use super::{first, unsigned};
use crate::{Result, Tx};
use contract::memory::Store;
use rusqlite::params;

/// Writes of one store that made no row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Merged into, or refused as, what was there already.
    pub duplicate: u64,
    /// Refused because they repeat what was recalled in the same turn.
    pub recalled_rejected: u64,
}

/// Adds to the counters of a store.
pub fn add(tx: &Tx<'_>, store: Store, more: Counters) -> Result<()> {
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    tx.conn()
        .prepare_cached(
            "INSERT INTO memory_counters (store, duplicate, recalled_rejected) VALUES (?1, ?2, ?3)
             ON CONFLICT (store) DO UPDATE SET duplicate = duplicate + excluded.duplicate,
                recalled_rejected = recalled_rejected + excluded.recalled_rejected",
        )?
        .execute(params![store.as_str(), number(more.duplicate), number(more.recalled_rejected)])?;
    Ok(())
}

/// The counters of a store.
pub fn get(tx: &Tx<'_>, store: Store) -> Result<Counters> {
    let sql = "SELECT duplicate, recalled_rejected FROM memory_counters WHERE store = ?1";
    let found = first(tx, sql, [store.as_str()], |row| {
        Ok(Counters { duplicate: unsigned(row, 0)?, recalled_rejected: unsigned(row, 1)? })
    })?;
    Ok(found.unwrap_or_default())
}
