//! Long-term memory at rest: episodes, facts, people and their relations, where each comes from, and what was
//! learned from turns.
//!
//! Rows, not rules: what is worth keeping, what is a duplicate, what ranks first is decided by the crate
//! `memory`; it hands over normalised texts and hashes and gets rows back. The invariant: a row, its full-text
//! entry, its vector and its lineage are one; whatever changes the row changes them in the same transaction.

mod columns;
mod id;
mod age;

// What is kept.
pub mod episodes;
pub mod knowledge;
pub mod nodes;
pub mod edges;
pub mod chunks;

// What every memory has.
pub mod standing;
pub mod lineage;
pub mod vectors;

// Finding, forgetting, counting.
pub mod search;
pub mod erase;
pub mod counters;
pub mod stats;
pub mod index;
pub mod marks;

// Learning from turns, and long work.
pub mod trajectories;
pub mod signals;
pub mod batches;
pub mod jobs;

#[cfg(test)]
mod plans;

pub use age::Age;
pub use id::MemoryId;

use crate::{Error, Result, Tx};
use contract::Timestamp;
use contract::memory::{Store, Trust};
use rusqlite::Row;

/// A memory and the number of its row, by which the full-text index, vectors and RAM codes know it.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored<T> {
    /// The row; never given to another memory.
    pub row: i64,
    /// The memory.
    pub item: T,
}

/// What every memory carries.
#[derive(Debug, Clone, PartialEq)]
pub struct Provenance {
    /// 0..1.
    pub confidence: f64,
    /// How far its sources may be trusted.
    pub trust: Trust,
    /// `user:api`, `message:<id>`, `trajectory:<turn_id>`, `import:<bundle>`, `catalog`.
    pub source: String,
    /// Why it was kept.
    pub rationale: String,
    /// When it was last said again.
    pub last_confirmed_at: Timestamp,
    /// When it was first kept.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

/// Whether a change met what it was about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It was made.
    Changed,
    /// There is no such row.
    Missing,
}

impl Change {
    /// From the number of rows that were changed.
    pub(crate) fn of(rows: usize) -> Self {
        if rows == 0 { Self::Missing } else { Self::Changed }
    }
}

/// The columns of [`Provenance`], in the order that [`provenance`] reads.
pub(crate) const PROVENANCE: &str =
    "confidence, trust, source, rationale, last_confirmed_at, created_at, updated_at";

/// Reads the seven columns of [`PROVENANCE`] from position `first` on.
pub(crate) fn provenance(row: &Row<'_>, first: usize) -> Result<Provenance> {
    let trust: String = row.get(first + 1)?;
    Ok(Provenance {
        confidence: row.get(first)?,
        trust: Trust::parse(&trust).ok_or_else(|| Error::bad_data("memory.trust", &trust))?,
        source: row.get(first + 2)?,
        rationale: row.get(first + 3)?,
        last_confirmed_at: time(row, first + 4)?,
        created_at: time(row, first + 5)?,
        updated_at: time(row, first + 6)?,
    })
}

pub(crate) fn time(row: &Row<'_>, column: usize) -> Result<Timestamp> {
    Ok(Timestamp::from_millis(row.get(column)?))
}

pub(crate) fn time_or_none(row: &Row<'_>, column: usize) -> Result<Option<Timestamp>> {
    Ok(row.get::<_, Option<i64>>(column)?.map(Timestamp::from_millis))
}

/// Every row that a query finds.
pub(crate) fn all<T>(
    tx: &Tx<'_>,
    sql: &str,
    parameters: impl rusqlite::Params,
    read: impl Fn(&Row<'_>) -> Result<T>,
) -> Result<Vec<T>> {
    let mut statement = tx.conn().prepare_cached(sql)?;
    let mut rows = statement.query(parameters)?;
    let mut out = Vec::new();
    while let Some(row) = rows.next()? {
        out.push(read(row)?);
    }
    Ok(out)
}

/// The first row that a query finds.
pub(crate) fn first<T>(
    tx: &Tx<'_>,
    sql: &str,
    parameters: impl rusqlite::Params,
    read: impl Fn(&Row<'_>) -> Result<T>,
) -> Result<Option<T>> {
    let mut statement = tx.conn().prepare_cached(sql)?;
    let mut rows = statement.query(parameters)?;
    rows.next()?.map(read).transpose()
}

/// The rows with these numbers, in the order asked for; those that are gone are left out.
pub(crate) fn each<T>(
    tx: &Tx<'_>,
    sql: &str,
    rows: &[i64],
    read: impl Fn(&Row<'_>) -> Result<T>,
) -> Result<Vec<T>> {
    let mut statement = tx.conn().prepare_cached(sql)?;
    let mut out = Vec::with_capacity(rows.len());
    for id in rows {
        let mut found = statement.query([id])?;
        if let Some(row) = found.next()? {
            out.push(read(row)?);
        }
    }
    Ok(out)
}

/// The table of a store's searched rows.
pub(crate) const fn table(store: Store) -> &'static str {
    match store {
        Store::Episodes => "episodes",
        Store::Knowledge => "knowledge_store",
        Store::Social => "social_graph_nodes",
    }
}

/// The column of [`table`] that holds the public id.
pub(crate) const fn id_column(store: Store) -> &'static str {
    match store {
        Store::Episodes => "episode_id",
        Store::Knowledge => "fact_id",
        Store::Social => "node_id",
    }
}

pub(crate) fn unsigned(row: &Row<'_>, column: usize) -> Result<u64> {
    Ok(row.get::<_, i64>(column)?.unsigned_abs())
}
