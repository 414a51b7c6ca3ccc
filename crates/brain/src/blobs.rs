//! Large bytes, stored once by their SHA-256 and referred to from messages and tool outcomes.

use crate::{Result, Tx};
use contract::conversation::{Block, Source};
use contract::{TaskId, Timestamp};
use rusqlite::{OptionalExtension, params};
use sha2::{Digest, Sha256};

/// The name of these bytes: SHA-256, 64 hex digits.
pub fn name_of(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// Stores bytes (or finds them stored) and returns their name. Without a reference they go at the next
/// retention run.
pub fn put(tx: &Tx<'_>, bytes: &[u8], media_type: &str, now: Timestamp) -> Result<String> {
    let name = name_of(bytes);
    tx.conn()
        .prepare_cached(
            "INSERT INTO blobs (sha256, media_type, size, data, created_at) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (sha256) DO NOTHING",
        )?
        .execute(params![
            name,
            media_type,
            i64::try_from(bytes.len()).unwrap_or(i64::MAX),
            bytes,
            now.millis()
        ])?;
    Ok(name)
}

/// The bytes of a blob.
pub fn get(tx: &Tx<'_>, sha256: &str) -> Result<Option<Vec<u8>>> {
    Ok(tx
        .conn()
        .prepare_cached("SELECT data FROM blobs WHERE sha256 = ?1")?
        .query_row([sha256], |r| r.get(0))
        .optional()?)
}

/// Notes that a row needs a blob.
pub fn refer(tx: &Tx<'_>, sha256: &str, owner_table: &str, owner_id: &str) -> Result<()> {
    tx.conn()
        .prepare_cached(
            "INSERT INTO blob_refs (sha256, owner_table, owner_id)
             SELECT ?1, ?2, ?3 WHERE EXISTS (SELECT 1 FROM blobs WHERE sha256 = ?1)
             ON CONFLICT DO NOTHING",
        )?
        .execute(params![sha256, owner_table, owner_id])?;
    Ok(())
}

/// The names of the blobs of one type that a row holds, in no order.
pub fn held(tx: &Tx<'_>, owner_table: &str, owner_id: &str, media_type: &str) -> Result<Vec<String>> {
    Ok(tx
        .conn()
        .prepare_cached(
            "SELECT r.sha256 FROM blob_refs r JOIN blobs b ON b.sha256 = r.sha256
             WHERE r.owner_table = ?1 AND r.owner_id = ?2 AND b.media_type = ?3",
        )?
        .query_map(params![owner_table, owner_id, media_type], |r| r.get(0))?
        .collect::<rusqlite::Result<_>>()?)
}

/// Notes that a row needs the blobs its blocks name, nested tool results included.
pub fn refer_blocks(tx: &Tx<'_>, blocks: &[Block], owner_table: &str, owner_id: &str) -> Result<()> {
    for block in blocks {
        if let Some(Source::Blob { sha256, .. }) = block.source() {
            refer(tx, sha256, owner_table, owner_id)?;
        }
        if let Block::ToolResult { content, .. } = block {
            refer_blocks(tx, content, owner_table, owner_id)?;
        }
    }
    Ok(())
}

/// Deletes up to `limit` rows that `find` names and `delete` removes, drops the references they hold, and
/// every blob that nothing refers to any more. Returns how many rows went.
pub(crate) fn release_owners(
    tx: &Tx<'_>,
    owner_table: &str,
    find: &str,
    delete: &str,
    task: &TaskId,
    limit: u32,
) -> Result<u64> {
    let owners: Vec<String> = tx
        .conn()
        .prepare_cached(find)?
        .query_map(params![task.as_str(), limit], |r| r.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    for owner in &owners {
        let held: Vec<String> = tx
            .conn()
            .prepare_cached(
                "DELETE FROM blob_refs WHERE owner_table = ?1 AND owner_id = ?2 RETURNING sha256",
            )?
            .query_map([owner_table, owner], |r| r.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        for sha256 in held {
            tx.conn()
                .prepare_cached(
                    "DELETE FROM blobs WHERE sha256 = ?1
                       AND NOT EXISTS (SELECT 1 FROM blob_refs WHERE blob_refs.sha256 = blobs.sha256)",
                )?
                .execute([sha256])?;
        }
        tx.conn().prepare_cached(delete)?.execute([owner])?;
    }
    Ok(owners.len() as u64)
}

/// Drops up to `limit` references that a row holds, and every blob that nothing refers to any more. Returns how many
/// references went; call it until that is 0.
pub fn release(tx: &Tx<'_>, owner_table: &str, owner_id: &str, limit: u32) -> Result<usize> {
    let held: Vec<String> = tx
        .conn()
        .prepare_cached(
            "DELETE FROM blob_refs WHERE (sha256, owner_table, owner_id) IN
               (SELECT sha256, owner_table, owner_id FROM blob_refs
                WHERE owner_table = ?1 AND owner_id = ?2 LIMIT ?3)
             RETURNING sha256",
        )?
        .query_map(params![owner_table, owner_id, limit], |r| r.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    for sha256 in &held {
        tx.conn()
            .prepare_cached(
                "DELETE FROM blobs WHERE sha256 = ?1
                   AND NOT EXISTS (SELECT 1 FROM blob_refs WHERE blob_refs.sha256 = blobs.sha256)",
            )?
            .execute([sha256])?;
    }
    Ok(held.len())
}
