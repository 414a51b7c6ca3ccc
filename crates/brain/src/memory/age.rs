//! Where a memory stands among the others of its store by age, so that a list of the newest can be gone through in pages.
//!
//! The place outlives what is written meanwhile: it is the memory's own instant and row, not a count from the top.

use super::{MemoryId, first, time};
use crate::{Result, Tx};
use contract::Timestamp;

/// When a memory was first kept, and its row for those of the same instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Age {
    at: i64,
    row: i64,
}

impl Age {
    /// Of a memory; `None` when there is none of this id.
    pub fn of(tx: &Tx<'_>, id: &MemoryId) -> Result<Option<Self>> {
        let (table, column) = id.place();
        let sql = format!("SELECT id, created_at FROM {table} WHERE {column} = ?1");
        let found = first(tx, &sql, [id.as_str()], |row| Ok((row.get(0)?, time(row, 1)?)))?;
        Ok(found.map(|(row, at): (i64, Timestamp)| Self { at: at.millis(), row }))
    }

    /// The parameters of [`OLDER`]: without a place everything is older.
    pub(crate) fn bounds(before: Option<Self>) -> (i64, i64) {
        before.map_or((i64::MAX, i64::MAX), |age| (age.at, age.row))
    }
}

pub(crate) const OLDER: &str = "WHERE (created_at, id) < (?1, ?2) ORDER BY created_at DESC, id DESC LIMIT ?3";
