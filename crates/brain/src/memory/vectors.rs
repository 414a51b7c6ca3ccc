//! Vectors of memories: f32 little-endian bytes, made later than the text and only for the text they are of.
//!
//! Only vectors of the present model count. Which rows lack one is counted from an index, so asking costs
//! nothing when nothing is missing.

use super::{Stored, all, table, unsigned};
use crate::{Result, Tx};
use contract::Timestamp;
use contract::memory::Store;
use rusqlite::params;

/// Texts embedded per call of the embedder and stored per write. More would hold up other writes behind one
/// commit; fewer would spend a call and an fsync on fewer rows.
pub const BATCH: u32 = 64;

/// Who made a vector: vectors of different models are never compared.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Model {
    /// Its name.
    pub name: String,
    /// Numbers per vector.
    pub dim: u32,
}

/// Stores the vector of a row, if the row still has the text that was embedded; true when stored.
/// `Error::Constraint` when `vector` is not `4 * dim` bytes.
pub fn put(
    tx: &Tx<'_>,
    store: Store,
    row: i64,
    text: &str,
    model: &Model,
    vector: &[u8],
    now: Timestamp,
) -> Result<bool> {
    let table = table(store);
    let sql = format!(
        "INSERT INTO {table}_vec (id, model, dim, vector, created_at)
         SELECT id, ?3, ?4, ?5, ?6 FROM {table} WHERE id = ?1 AND search_text = ?2
         ON CONFLICT (id) DO UPDATE SET model = excluded.model, dim = excluded.dim, vector = excluded.vector,
            created_at = excluded.created_at"
    );
    let parameters = params![row, text, model.name, model.dim, vector, now.millis()];
    Ok(tx.conn().prepare_cached(&sql)?.execute(parameters)? == 1)
}

/// What `read` makes of the vectors of these rows, in this order; rows without one of this model are left out. The bytes
/// are lent, because a search rescores two hundred of them.
pub fn of_rows<T>(
    tx: &Tx<'_>,
    store: Store,
    model: &Model,
    rows: &[i64],
    read: impl Fn(i64, &[u8]) -> Result<T>,
) -> Result<Vec<T>> {
    let table = table(store);
    let sql = format!("SELECT vector FROM {table}_vec WHERE id = ?1 AND model = ?2 AND dim = ?3");
    let mut statement = tx.conn().prepare_cached(&sql)?;
    let mut out = Vec::with_capacity(rows.len());
    for row in rows {
        let mut found = statement.query(params![row, model.name, model.dim])?;
        if let Some(vector) = found.next()? {
            out.push(read(*row, vector.get_ref(0)?.as_blob().map_err(rusqlite::Error::from)?)?);
        }
    }
    Ok(out)
}

pub(crate) fn page_sql(store: Store) -> String {
    let table = table(store);
    format!(
        "SELECT id, vector FROM {table}_vec WHERE model = ?1 AND dim = ?2 AND id > ?3 ORDER BY id LIMIT ?4"
    )
}

/// A page of all vectors of this model in the order of their rows, after row `after`.
pub fn page(
    tx: &Tx<'_>,
    store: Store,
    model: &Model,
    after: i64,
    limit: u32,
) -> Result<Vec<Stored<Vec<u8>>>> {
    all(tx, &page_sql(store), params![model.name, model.dim, after, limit], |row| {
        Ok(Stored { row: row.get(0)?, item: row.get(1)? })
    })
}

pub(crate) fn count_sql(store: Store) -> String {
    format!("SELECT count(*) FROM {}_vec WHERE model = ?1 AND dim = ?2", table(store))
}

/// How many vectors of this model there are.
pub fn count(tx: &Tx<'_>, store: Store, model: &Model) -> Result<u64> {
    let sql = count_sql(store);
    let mut statement = tx.conn().prepare_cached(&sql)?;
    let mut rows = statement.query(params![model.name, model.dim])?;
    rows.next()?.map_or(Ok(0), |row| unsigned(row, 0))
}

/// How many rows have no vector of this model.
pub fn missing(tx: &Tx<'_>, store: Store, model: &Model) -> Result<u64> {
    Ok(super::search::count(tx, store)?.saturating_sub(count(tx, store, model)?))
}

pub(crate) fn unembedded_sql(store: Store) -> String {
    let table = table(store);
    format!(
        "SELECT p.id, p.search_text FROM {table} p
         WHERE NOT EXISTS (SELECT 1 FROM {table}_vec v INDEXED BY {table}_vec_by_model
                           WHERE v.model = ?1 AND v.dim = ?2 AND v.id = p.id)
         ORDER BY p.id DESC LIMIT ?3"
    )
}

/// Rows without a vector of this model and their texts, newest first: at most [`BATCH`].
///
/// The newest are looked at first and no further than the last missing one, so a store that lacks only what
/// was just written is not searched to its beginning.
pub fn unembedded(tx: &Tx<'_>, store: Store, model: &Model) -> Result<Vec<Stored<String>>> {
    let wanted = missing(tx, store, model)?.min(u64::from(BATCH));
    if wanted == 0 {
        return Ok(Vec::new());
    }
    let limit = i64::try_from(wanted).unwrap_or(i64::from(BATCH));
    all(tx, &unembedded_sql(store), params![model.name, model.dim, limit], |row| {
        Ok(Stored { row: row.get(0)?, item: row.get(1)? })
    })
}
