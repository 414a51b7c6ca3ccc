//! A memory as a file: `september-memory/1`, the portable form of what a brain knows (specification 3.6).
//!
//! In reading order: [`rows`] and [`kinds`] what a bundle holds; [`pages`] writing one; [`read`] reading one ([`place`]: what stands where), [`check`]
//! judging a row of it, [`survey`] judging the whole; [`job`] an import from beginning to end, over [`stage`] pieces in
//! the brain, [`settle`] what a replacement must not learn any more, [`apply`] their rows, [`survivors`] what has become of
//! rows that were merged, [`remove`] what was there before, and [`progress`] how far it is.
//!
//! A bundle holds no conversation, no credential and no vector. It may come from anybody: it is typed, bounded and
//! checked as a whole before anything is written.
//!
//! The invariant: exported, imported into an empty brain and exported again, a memory is the same, ids and order
//! included.

mod kinds;
mod rows;
mod check;
mod pages;
mod place;
mod read;
mod survey;
mod progress;
mod stage;
mod settle;
mod survivors;
mod apply;
mod remove;
mod job;

pub(super) use apply::STEP;
pub use job::{ImportError, Importer, judged};
pub use pages::export;
pub use progress::{Counts, Mode};
pub use read::{FORMAT, Refusal};

/// Largest bundle. Larger needs memory that a small machine does not have, since a bundle is looked at as a whole;
/// smaller refuses a long life. (specification 3.6)
pub const MAX_BYTES: usize = 256 * 1024 * 1024;

/// What an import did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Imported {
    /// merge or replace.
    pub mode: Mode,
    /// Rows that were written.
    pub counts: Counts,
    /// Rows of the bundle that were there already.
    pub skipped_duplicates: u64,
}
