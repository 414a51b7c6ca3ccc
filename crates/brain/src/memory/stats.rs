//! Numbers about a store for GET /memory/stats. Reads every row's standing once; no texts.

use super::vectors::{self, Model};
use super::{counters, table};
use crate::{Result, Tx};
use contract::Timestamp;
use contract::memory::Store;

/// What there is in one store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Rows.
    pub total: u64,
    /// Writes merged or refused as duplicates so far.
    pub duplicate: u64,
    /// Faded below what counts.
    pub stale: u64,
    /// No longer valid.
    pub superseded: u64,
    /// From sources nobody vouches for.
    pub untrusted: u64,
    /// Without a vector of the present model.
    pub unembedded: u64,
}

/// Counts a store. `is_stale` judges a confidence and when it was last confirmed; without a model nothing
/// counts as unembedded, because nothing will be.
pub fn of(
    tx: &Tx<'_>,
    store: Store,
    now: Timestamp,
    model: Option<&Model>,
    is_stale: &dyn Fn(f64, Timestamp) -> bool,
) -> Result<Stats> {
    let valid_until = match store {
        Store::Knowledge => "valid_until",
        Store::Episodes | Store::Social => "NULL",
    };
    let table = table(store);
    let sql = format!(
        "SELECT confidence, last_confirmed_at, trust = 'untrusted', {valid_until} <= ?1 FROM {table}"
    );
    let mut stats = Stats { duplicate: counters::get(tx, store)?.duplicate, ..Stats::default() };
    let mut statement = tx.conn().prepare_cached(&sql)?;
    let mut rows = statement.query([now.millis()])?;
    while let Some(row) = rows.next()? {
        stats.total += 1;
        stats.stale += u64::from(is_stale(row.get(0)?, super::time(row, 1)?));
        stats.untrusted += u64::from(row.get::<_, bool>(2)?);
        stats.superseded += u64::from(row.get::<_, Option<bool>>(3)?.unwrap_or(false));
    }
    if let Some(model) = model {
        stats.unembedded = stats.total.saturating_sub(vectors::count(tx, store, model)?);
    }
    Ok(stats)
}
