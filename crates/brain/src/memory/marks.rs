//! Which rows there are at one instant: a row that comes later has a higher number, in each table.
//!
//! An export reads page by page and must not hold an instant of the brain for as long as a client takes; an import
//! must know what was there before it. The invariant: rows are never numbered again, so a mark never moves.

use crate::{Result, Tx};
use serde::{Deserialize, Serialize};

/// The last row of each table, 0 for an empty one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marks {
    /// Of `episodes`.
    pub episodes: i64,
    /// Of `knowledge_store`.
    pub facts: i64,
    /// Of `social_graph_nodes`.
    pub nodes: i64,
    /// Of `social_graph_edges`.
    pub edges: i64,
}

/// The marks of this instant.
pub fn now(tx: &Tx<'_>) -> Result<Marks> {
    let last = |table: &str| -> Result<i64> {
        let sql = format!("SELECT coalesce(max(id), 0) FROM {table}");
        Ok(tx.conn().prepare_cached(&sql)?.query_row([], |r| r.get(0))?)
    };
    Ok(Marks {
        episodes: last("episodes")?,
        facts: last("knowledge_store")?,
        nodes: last("social_graph_nodes")?,
        edges: last("social_graph_edges")?,
    })
}
