//! Where a task's context was shortened. Originals stay in `conversations`.

use crate::{Result, Tx};
use contract::event::CompactionStrategy;
use contract::{TaskId, Timestamp, TurnId};
use rusqlite::{OptionalExtension, params};

/// A boundary: messages up to `up_to_position` are represented by `summary`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Boundary {
    /// The last message position the summary covers.
    pub up_to_position: i64,
    /// What stands for them in the context; empty for a bare note.
    pub summary: String,
}

/// Records a compaction.
#[allow(clippy::too_many_arguments, reason = "one row, eight columns")]
pub fn record(
    tx: &Tx<'_>,
    task: &TaskId,
    turn: &TurnId,
    boundary: &Boundary,
    strategy: CompactionStrategy,
    before_tokens: u64,
    after_tokens: u64,
    now: Timestamp,
) -> Result<()> {
    tx.conn()
        .prepare_cached(
            "INSERT INTO compactions (task_id, turn_id, up_to_position, summary, strategy, before_tokens, after_tokens, created_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?
        .execute(params![
            task.as_str(),
            turn.as_str(),
            boundary.up_to_position,
            boundary.summary,
            strategy.as_str(),
            i64::try_from(before_tokens).unwrap_or(i64::MAX),
            i64::try_from(after_tokens).unwrap_or(i64::MAX),
            now.millis(),
        ])?;
    Ok(())
}

/// Records that some tool calls and results are shown shortened from now on: which, in the words of `detail`, the
/// last of them at `up_to_position`.
#[allow(clippy::too_many_arguments, reason = "one row, eight columns")]
pub fn shrink(
    tx: &Tx<'_>,
    task: &TaskId,
    turn: &TurnId,
    up_to_position: i64,
    detail: String,
    before_tokens: u64,
    after_tokens: u64,
    now: Timestamp,
) -> Result<()> {
    let marks = Boundary { up_to_position, summary: detail };
    record(tx, task, turn, &marks, CompactionStrategy::Shrink, before_tokens, after_tokens, now)
}

/// What is shown shortened at or after a position: each row of [`shrink`], oldest first. An empty detail, as earlier
/// builds wrote it, means every result up to the row's position.
pub fn shrunk(tx: &Tx<'_>, task: &TaskId, after_position: i64) -> Result<Vec<Boundary>> {
    let mut statement = tx.conn().prepare_cached(
        "SELECT up_to_position, summary FROM compactions
         WHERE task_id = ?1 AND strategy = 'shrink' AND up_to_position > ?2 ORDER BY id",
    )?;
    let rows = statement.query_map(params![task.as_str(), after_position], |r| {
        Ok(Boundary { up_to_position: r.get(0)?, summary: r.get(1)? })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// The boundary in force.
pub fn latest(tx: &Tx<'_>, task: &TaskId) -> Result<Option<Boundary>> {
    Ok(tx
        .conn()
        .prepare_cached(
            "SELECT up_to_position, summary FROM compactions WHERE task_id = ?1 AND strategy <> 'shrink' ORDER BY id DESC LIMIT 1",
        )?
        .query_row([task.as_str()], |r| Ok(Boundary { up_to_position: r.get(0)?, summary: r.get(1)? }))
        .optional()?)
}

/// Forgets boundaries that cover messages at or after `position` (an edit went back before them).
pub fn drop_from(tx: &Tx<'_>, task: &TaskId, position: i64) -> Result<()> {
    tx.conn()
        .prepare_cached("DELETE FROM compactions WHERE task_id = ?1 AND up_to_position >= ?2")?
        .execute(params![task.as_str(), position])?;
    Ok(())
}
