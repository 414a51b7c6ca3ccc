//! The full-text indexes: making them anew from their tables, and asking whether they agree.
//!
//! One index is made anew in one transaction: half an index would lose memories, and a writer in between
//! would damage it. So this is for the `vacuum` command, which has the brain to itself.

use super::{first, search, table, unsigned};
use crate::{Brain, Error, Result, Tx};
use contract::memory::Store;

/// Every full-text index.
pub(crate) const INDEXES: [&str; 4] =
    ["episodes_fts", "knowledge_store_fts", "social_graph_nodes_fts", "ingestion_chunks_fts"];

/// How many memories each store has.
const COUNTS: &str = "memory_rows";

/// Makes every full-text index anew; returns their names.
pub async fn rebuild(brain: &Brain) -> Result<Vec<&'static str>> {
    for index in INDEXES {
        brain
            .write("index.rebuild", move |tx| {
                tx.conn().execute_batch(&format!("INSERT INTO {index} ({index}) VALUES ('rebuild')"))?;
                // A rebuilt index starts with ordinary deletions.
                let secure = format!("INSERT INTO {index} ({index}, rank) VALUES ('secure-delete', 1)");
                Ok(tx.conn().execute_batch(&secure)?)
            })
            .await?;
    }
    Ok(INDEXES.to_vec())
}

/// The indexes that do not hold exactly the words of their tables, and `memory_rows` when it does not say how many rows
/// these have. Compares every row; needs a write.
pub fn differing(tx: &Tx<'_>) -> Result<Vec<&'static str>> {
    let mut found = Vec::new();
    for index in INDEXES {
        let check = format!("INSERT INTO {index} ({index}, rank) VALUES ('integrity-check', 1)");
        match tx.conn().execute_batch(&check).map_err(Error::from) {
            Ok(()) => {}
            Err(Error::Corrupt(_)) => found.push(index),
            Err(other) => return Err(other),
        }
    }
    for store in Store::ALL {
        let sql = format!("SELECT count(*) FROM {}", table(*store));
        let rows = first(tx, &sql, [], |row| unsigned(row, 0))?.unwrap_or_default();
        if search::count(tx, *store)? != rows && !found.contains(&COUNTS) {
            found.push(COUNTS);
        }
    }
    Ok(found)
}
