//! What has become of rows of a bundle that got no row of their own, because a memory says the same already.
//!
//! Other rows of the bundle refer to them: what took the place of a fact, what a memory stems from, who is related to
//! whom. Those references are handed over: rows that were written before at once, those that come later when they are
//! written. The ids are kept in the brain with the job, in the transaction that merged them, so that an import that is
//! killed knows them afterwards.
//!
//! The invariant: no reference leads to a row that was merged.

use super::job::OWNER;
use brain::memory::{MemoryId, knowledge, lineage};
use brain::{Tx, blobs};
use contract::Timestamp;
use std::collections::HashMap;

/// What the ids are, among the blobs of a job; its pieces are of another type.
const TYPE: &str = "application/json";

/// The memories that stand for rows of the bundle.
#[derive(Debug, Default)]
pub struct Survivors {
    by_row: HashMap<String, MemoryId>,
    /// Those that are not stored yet.
    new: Vec<(String, String)>,
}

impl Survivors {
    /// Those that the steps of a job have stored.
    pub fn load(tx: &Tx<'_>, job: &str) -> brain::Result<Self> {
        let mut by_row = HashMap::new();
        let wrong = || brain::Error::bad_data("blobs.data", "merged rows of a bundle");
        for name in blobs::held(tx, OWNER, job, TYPE)? {
            let bytes = blobs::get(tx, &name)?.ok_or_else(wrong)?;
            let pairs: Vec<(String, String)> = serde_json::from_slice(&bytes).map_err(|_| wrong())?;
            for (row, into) in pairs {
                by_row.insert(row, MemoryId::parse(&into).ok_or_else(wrong)?);
            }
        }
        Ok(Self { by_row, new: Vec::new() })
    }

    /// The memory that stands for a row; `None` when the row stands for itself.
    pub fn of(&self, row: &str) -> Option<&MemoryId> {
        self.by_row.get(row)
    }

    /// Notes that a row was merged into a memory, which takes over what refers to it.
    pub fn merged(&mut self, tx: &Tx<'_>, row: &MemoryId, into: &MemoryId) -> brain::Result<()> {
        lineage::hand_over(tx, row, into)?;
        if let (MemoryId::Fact(row), MemoryId::Fact(into)) = (row, into) {
            knowledge::hand_over(tx, row, into)?;
        }
        self.new.push((row.as_str().to_owned(), into.as_str().to_owned()));
        self.by_row.insert(row.as_str().to_owned(), into.clone());
        Ok(())
    }

    /// Stores what a step has merged; belongs into its transaction.
    pub fn store(&mut self, tx: &Tx<'_>, job: &str, now: Timestamp) -> brain::Result<()> {
        if self.new.is_empty() {
            return Ok(());
        }
        let bytes = serde_json::to_vec(&std::mem::take(&mut self.new)).expect("texts always serialise");
        let blob = blobs::put(tx, &bytes, TYPE, now)?;
        blobs::refer(tx, &blob, OWNER, job)
    }
}
