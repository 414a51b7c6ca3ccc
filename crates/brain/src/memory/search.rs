//! Finding by words: what the full-text index knows about a store. Ranking is the caller's.

use super::{Stored, all, table, unsigned};
use crate::{Result, Tx};
use contract::memory::Store;
use rusqlite::params;
use std::collections::HashMap;

/// Best matches by keywords that are ranked further. The number is the specification's.
pub const KEYWORD_ROWS: u32 = 200;

pub(crate) fn keyword_sql(store: Store) -> String {
    let table = table(store);
    // Not `rank`: sorting by it makes FTS5 go to every row again, which took three to six times as long.
    format!(
        "SELECT rowid, -bm25({table}_fts) AS k FROM {table}_fts WHERE {table}_fts MATCH ?1
         AND rowid >= ?3 ORDER BY k DESC, rowid DESC LIMIT ?2"
    )
}

/// Rows that match an FTS5 expression and how well (bm25, larger is better), best first, then newest.
///
/// The expression is bound text: it can ask for nothing but rows of this store. What FTS5 cannot parse is
/// `Error::Sql`, so terms from people must be quoted by the caller.
pub fn keyword(tx: &Tx<'_>, store: Store, expression: &str, limit: u32) -> Result<Vec<Stored<f64>>> {
    keyword_since(tx, store, expression, i64::MIN, limit)
}

/// The same among the rows from `first` on: what is weighed grows with the rows that match, and not with those asked for.
pub fn keyword_since(
    tx: &Tx<'_>,
    store: Store,
    expression: &str,
    first: i64,
    limit: u32,
) -> Result<Vec<Stored<f64>>> {
    all(tx, &keyword_sql(store), params![expression, limit, first], |row| {
        Ok(Stored { row: row.get(0)?, item: row.get(1)? })
    })
}

pub(crate) fn matching_sql(store: Store) -> String {
    let table = table(store);
    format!("SELECT rowid FROM {table}_fts WHERE {table}_fts MATCH ?1 ORDER BY rowid DESC LIMIT 1 OFFSET ?2")
}

/// The `n`th newest row (from 0) that matches an expression, if there are so many. Nothing is weighed.
pub fn nth_newest(tx: &Tx<'_>, store: Store, expression: &str, n: u64) -> Result<Option<i64>> {
    let skipped = i64::try_from(n).unwrap_or(i64::MAX);
    Ok(all(tx, &matching_sql(store), params![expression, skipped], |row| Ok(row.get(0)?))?.pop())
}

pub(crate) fn frequency_sql(store: Store) -> String {
    format!("SELECT doc FROM {}_terms WHERE term = ?1", table(store))
}

/// In how many rows of the store each of these terms occurs. Terms must be as the index holds them: lower
/// case, without diacritics, stemmed.
pub fn document_frequencies(tx: &Tx<'_>, store: Store, stems: &[String]) -> Result<HashMap<String, u64>> {
    let sql = frequency_sql(store);
    let mut statement = tx.conn().prepare_cached(&sql)?;
    let mut out = HashMap::with_capacity(stems.len());
    for stem in stems {
        let mut rows = statement.query([stem])?;
        let count = rows.next()?.map_or(Ok(0), |row| unsigned(row, 0))?;
        out.insert(stem.clone(), count);
    }
    Ok(out)
}

/// How many rows a store has. Kept up by triggers: counting would read an index from end to end.
pub fn count(tx: &Tx<'_>, store: Store) -> Result<u64> {
    let sql = "SELECT rows FROM memory_rows WHERE store = ?1";
    Ok(super::first(tx, sql, [store.as_str()], |row| unsigned(row, 0))?.unwrap_or_default())
}

/// The public ids of these rows, in this order; rows that are gone are left out.
pub fn ids(tx: &Tx<'_>, store: Store, rows: &[i64]) -> Result<Vec<Stored<super::MemoryId>>> {
    let sql = format!("SELECT id, {} FROM {} WHERE id = ?1", super::id_column(store), table(store));
    super::each(tx, &sql, rows, |row| {
        Ok(Stored { row: row.get(0)?, item: super::MemoryId::stored(&row.get::<_, String>(1)?)? })
    })
}

/// The searched texts of these rows, in this order; rows that are gone are left out.
pub fn texts(tx: &Tx<'_>, store: Store, rows: &[i64]) -> Result<Vec<Stored<String>>> {
    let sql = format!("SELECT id, search_text FROM {} WHERE id = ?1", table(store));
    super::each(tx, &sql, rows, |row| Ok(Stored { row: row.get(0)?, item: row.get(1)? }))
}
