//! Pieces of documents a person attached, for searching within their task. They go with the task or the blob.

use super::all;
use crate::{Result, Tx};
use contract::{TaskId, Timestamp};
use rusqlite::params;

/// One piece of a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// The document.
    pub sha256: String,
    /// Its place in the document, from 0.
    pub position: i64,
    /// What it says.
    pub text: String,
}

/// Stores pieces of a document of a task; pieces that are stored already stay. `Error::Constraint` when the
/// blob or the task does not exist.
pub fn put(tx: &Tx<'_>, task: &TaskId, chunks: &[Chunk], now: Timestamp) -> Result<usize> {
    let mut insert = tx.conn().prepare_cached(
        "INSERT INTO ingestion_chunks (sha256, task_id, position, text, created_at) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (task_id, sha256, position) DO NOTHING",
    )?;
    let mut stored = 0;
    for chunk in chunks {
        stored +=
            insert.execute(params![chunk.sha256, task.as_str(), chunk.position, chunk.text, now.millis()])?;
    }
    Ok(stored)
}

/// Pieces of a document in their order, after `after`.
pub fn of_document(tx: &Tx<'_>, task: &TaskId, sha256: &str, after: i64, limit: u32) -> Result<Vec<Chunk>> {
    let sql = "SELECT sha256, position, text FROM ingestion_chunks
               WHERE task_id = ?1 AND sha256 = ?2 AND position > ?3 ORDER BY position LIMIT ?4";
    all(tx, sql, params![task.as_str(), sha256, after, limit], |row| {
        Ok(Chunk { sha256: row.get(0)?, position: row.get(1)?, text: row.get(2)? })
    })
}

/// Pieces of a task's documents that match an FTS5 expression, best first.
pub fn matching(tx: &Tx<'_>, task: &TaskId, expression: &str, limit: u32) -> Result<Vec<Chunk>> {
    let sql = "SELECT c.sha256, c.position, c.text FROM ingestion_chunks_fts f
               JOIN ingestion_chunks c ON c.id = f.rowid
               WHERE ingestion_chunks_fts MATCH ?2 AND c.task_id = ?1 ORDER BY bm25(ingestion_chunks_fts), c.id LIMIT ?3";
    all(tx, sql, params![task.as_str(), expression, limit], |row| {
        Ok(Chunk { sha256: row.get(0)?, position: row.get(1)?, text: row.get(2)? })
    })
}

/// Pieces of one document of a task that match an FTS5 expression, best first, without the first `skip`.
pub fn matching_in(
    tx: &Tx<'_>,
    task: &TaskId,
    sha256: &str,
    expression: &str,
    skip: u32,
    limit: u32,
) -> Result<Vec<Chunk>> {
    let sql = "SELECT c.sha256, c.position, c.text FROM ingestion_chunks_fts f
               JOIN ingestion_chunks c ON c.id = f.rowid
               WHERE ingestion_chunks_fts MATCH ?3 AND c.task_id = ?1 AND c.sha256 = ?2
               ORDER BY bm25(ingestion_chunks_fts), c.id LIMIT ?5 OFFSET ?4";
    all(tx, sql, params![task.as_str(), sha256, expression, skip, limit], |row| {
        Ok(Chunk { sha256: row.get(0)?, position: row.get(1)?, text: row.get(2)? })
    })
}

/// The documents with pieces that a message of a task holds.
pub fn documents_of(tx: &Tx<'_>, task: &TaskId, message: &str) -> Result<Vec<String>> {
    let sql = "SELECT r.sha256 FROM blob_refs r
               WHERE r.owner_table = 'conversations' AND r.owner_id = ?2
                 AND EXISTS (SELECT 1 FROM ingestion_chunks c WHERE c.task_id = ?1 AND c.sha256 = r.sha256)
               ORDER BY r.sha256";
    all(tx, sql, params![task.as_str(), message], |row| Ok(row.get(0)?))
}

/// Removes up to `limit` pieces, each with its full-text entry; how many went.
pub(crate) fn remove(tx: &Tx<'_>, of: Owner<'_>, limit: impl Into<i64>) -> Result<usize> {
    let (condition, value) = match of {
        Owner::Task(task) => ("task_id = ?1", task.as_str()),
        Owner::ForgottenBlob(name) => {
            ("sha256 = ?1 AND NOT EXISTS (SELECT 1 FROM blob_refs WHERE sha256 = ?1)", name)
        }
    };
    let sql = format!(
        "DELETE FROM ingestion_chunks WHERE id IN (SELECT id FROM ingestion_chunks WHERE {condition} LIMIT ?2)"
    );
    Ok(tx.conn().prepare_cached(&sql)?.execute(params![value, limit.into()])?)
}

/// Whether a document has pieces.
pub(crate) fn any(tx: &Tx<'_>, sha256: &str) -> Result<bool> {
    Ok(tx
        .conn()
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM ingestion_chunks WHERE sha256 = ?1)")?
        .query_row([sha256], |r| r.get(0))?)
}

/// Whose pieces are removed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Owner<'a> {
    /// All of a task.
    Task(&'a TaskId),
    /// Those of a blob, if nothing refers to it.
    ForgottenBlob(&'a str),
}
