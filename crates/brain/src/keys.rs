//! Rotated application keys: only their SHA-256, never the keys.

use crate::{Result, Tx};
use contract::Timestamp;
use rusqlite::{OptionalExtension, params};

/// The stored rotation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotation {
    /// Hash of the key in force since the rotation, 64 lower-case hex digits.
    pub current: String,
    /// Hash of the key it replaced.
    pub previous: String,
    /// The environment's hash at the time.
    pub env_hash: String,
    /// Until when the previous key is valid.
    pub valid_until: Timestamp,
    /// Until when the previous key is told that it was rotated.
    pub forget_after: Timestamp,
}

/// The rotation in force, when there was one.
pub fn get(tx: &Tx<'_>) -> Result<Option<Rotation>> {
    let current: Option<(String, String)> = tx
        .conn()
        .prepare_cached(
            "SELECT key_hash, env_hash FROM engine_keys WHERE state = 'current' ORDER BY id DESC LIMIT 1",
        )?
        .query_row([], |r| Ok((r.get(0)?, r.get(1)?)))
        .optional()?;
    let Some((current, env_hash)) = current else { return Ok(None) };
    let previous: Option<(String, i64, i64)> = tx
        .conn()
        .prepare_cached(
            "SELECT key_hash, valid_until, forget_after FROM engine_keys WHERE state = 'previous' ORDER BY id DESC LIMIT 1",
        )?
        .query_row([], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))
        .optional()?;
    let (previous, valid_until, forget_after) = previous.unwrap_or_default();
    Ok(Some(Rotation {
        current,
        previous,
        env_hash,
        valid_until: Timestamp::from_millis(valid_until),
        forget_after: Timestamp::from_millis(forget_after),
    }))
}

/// Replaces the stored rotation.
pub fn put(tx: &Tx<'_>, rotation: &Rotation, now: Timestamp) -> Result<()> {
    clear(tx)?;
    let mut insert = tx.conn().prepare_cached(
        "INSERT INTO engine_keys (key_hash, env_hash, state, valid_until, forget_after, created_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?;
    insert.execute(params![
        rotation.current,
        rotation.env_hash,
        "current",
        None::<i64>,
        None::<i64>,
        now.millis()
    ])?;
    insert.execute(params![
        rotation.previous,
        rotation.env_hash,
        "previous",
        rotation.valid_until.millis(),
        rotation.forget_after.millis(),
        now.millis()
    ])?;
    Ok(())
}

/// Drops the stored rotation: the environment's key alone counts again.
pub fn clear(tx: &Tx<'_>) -> Result<()> {
    tx.conn().prepare_cached("DELETE FROM engine_keys")?.execute([])?;
    Ok(())
}
