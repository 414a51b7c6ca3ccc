//! Finished turns for the Learning Centre: pending, processed, or given up.

use super::{Change, all, first, time, time_or_none, unsigned};
use crate::turns::Turn;
use crate::{Error, Result, Tx};
use contract::memory::Trust;
use contract::{TaskId, Timestamp, TurnId};
use rusqlite::{Row, params};
use serde_json::Value;

/// Column `trajectories.state`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Nobody has learned from it yet.
    Pending,
    /// Looked at.
    Processed,
    /// Given up after several attempts.
    Failed,
}

impl State {
    /// Every state.
    pub const ALL: [State; 3] = [State::Pending, State::Processed, State::Failed];

    /// The word in the brain.
    pub const fn as_str(self) -> &'static str {
        match self {
            State::Pending => "pending",
            State::Processed => "processed",
            State::Failed => "failed",
        }
    }

    /// Reads the word back.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.as_str() == text)
    }
}

/// A finished turn.
#[derive(Debug, Clone, PartialEq)]
pub struct New {
    /// The turn.
    pub turn_id: TurnId,
    /// Its task.
    pub task_id: TaskId,
    /// The agent that answered.
    pub agent: String,
    /// How it ended.
    pub outcome: String,
    /// Message and call ids, tools, durations, tokens.
    pub trace: Value,
    /// The least trusted thing it read.
    pub trust: Trust,
    /// When it ended.
    pub at: Timestamp,
}

/// A stored trajectory.
#[derive(Debug, Clone, PartialEq)]
pub struct Trajectory {
    /// The turn.
    pub turn: New,
    /// Where it stands.
    pub state: State,
    /// Batches that failed on it.
    pub attempts: u32,
    /// When it was processed or given up.
    pub processed_at: Option<Timestamp>,
}

/// A pending trajectory, by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// The turn.
    pub turn_id: TurnId,
    /// Its task.
    pub task_id: TaskId,
    /// When it ended.
    pub at: Timestamp,
}

const COLUMNS: &str =
    "turn_id, task_id, agent, outcome, trace_json, trust, created_at, state, attempts, processed_at";

fn read(row: &Row<'_>) -> Result<Trajectory> {
    let turn: String = row.get(0)?;
    let task: String = row.get(1)?;
    let trace: String = row.get(4)?;
    let trust: String = row.get(5)?;
    let state: String = row.get(7)?;
    let wrong = |column| Error::bad_data(column, &turn);
    Ok(Trajectory {
        turn: New {
            turn_id: TurnId::parse(&turn).map_err(|_| wrong("trajectories.turn_id"))?,
            task_id: TaskId::parse(&task).map_err(|_| wrong("trajectories.task_id"))?,
            agent: row.get(2)?,
            outcome: row.get(3)?,
            trace: serde_json::from_str(&trace).map_err(|_| wrong("trajectories.trace_json"))?,
            trust: Trust::parse(&trust).ok_or_else(|| wrong("trajectories.trust"))?,
            at: time(row, 6)?,
        },
        state: State::parse(&state).ok_or_else(|| wrong("trajectories.state"))?,
        attempts: row.get(8)?,
        processed_at: time_or_none(row, 9)?,
    })
}

/// Outcome of a turn that [`pass_over`] noted and that has not ended yet.
const UNDER_WAY: &str = "under_way";

/// Stores a finished turn as pending; a second time changes nothing. One that was passed over stays so.
pub fn insert(tx: &Tx<'_>, new: &New) -> Result<()> {
    tx.conn()
        .prepare_cached(
            "INSERT INTO trajectories (turn_id, task_id, agent, outcome, trace_json, trust, state, created_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, 'pending', ?7)
             ON CONFLICT (turn_id) DO UPDATE
             SET outcome = excluded.outcome, trust = excluded.trust, created_at = excluded.created_at,
                 trace_json = json_set(excluded.trace_json, '$.taken_back', json('true'))
             WHERE outcome = ?8",
        )?
        .execute(params![
            new.turn_id.as_str(),
            new.task_id.as_str(),
            new.agent,
            new.outcome,
            new.trace.to_string(),
            new.trust.as_str(),
            new.at.millis(),
            UNDER_WAY,
        ])?;
    Ok(())
}

/// Notes that something a turn said was taken back: nobody learns from it any more, and later feedback on it counts only
/// for what the feedback itself says. What it showed goes, too. Whether it waited to be learned from.
pub fn take_back(tx: &Tx<'_>, turn: &TurnId, now: Timestamp) -> Result<bool> {
    tx.conn()
        .prepare_cached(
            "UPDATE trajectories
             SET trace_json = json_set(json_remove(trace_json, '$.shown'), '$.taken_back', json('true'))
             WHERE turn_id = ?1",
        )?
        .execute([turn.as_str()])?;
    tx.forget();
    Ok(processed(tx, turn, now)? == Change::Changed)
}

/// Whether something that a turn said was taken back.
pub fn is_taken_back(tx: &Tx<'_>, turn: &TurnId) -> Result<bool> {
    let sql = "SELECT 1 FROM trajectories
               WHERE turn_id = ?1 AND json_type(trace_json, '$.taken_back') IS NOT NULL";
    Ok(first(tx, sql, [turn.as_str()], |_| Ok(()))?.is_some())
}

/// The pending trajectories that were written after row `after`, oldest first.
pub fn written_since(tx: &Tx<'_>, after: i64, limit: u32) -> Result<Vec<TurnId>> {
    let sql =
        "SELECT turn_id FROM trajectories WHERE rowid > ?1 AND state = 'pending' ORDER BY rowid LIMIT ?2";
    all(tx, sql, params![after, limit], |row| {
        let turn: String = row.get(0)?;
        TurnId::parse(&turn).map_err(|_| Error::bad_data("trajectories.turn_id", &turn))
    })
}

/// The row that was written last; 0 when there is none.
pub fn last_row(tx: &Tx<'_>) -> Result<i64> {
    Ok(first(tx, "SELECT coalesce(max(rowid), 0) FROM trajectories", [], |row| Ok(row.get(0)?))?.unwrap_or(0))
}

/// Nobody learns from a turn that is still under way, whatever comes of it; a second time changes nothing.
pub fn pass_over(tx: &Tx<'_>, turn: &Turn, now: Timestamp) -> Result<()> {
    tx.conn()
        .prepare_cached(
            "INSERT INTO trajectories (turn_id, task_id, agent, outcome, trace_json, trust, state, created_at, processed_at)
             VALUES (?1, ?2, ?3, ?4, json_object('taken_back', json('true')), ?5, 'processed', ?6, ?6)
             ON CONFLICT (turn_id) DO NOTHING",
        )?
        .execute(params![
            turn.turn_id.as_str(),
            turn.task_id.as_str(),
            turn.agent,
            UNDER_WAY,
            Trust::Untrusted.as_str(),
            now.millis(),
        ])?;
    Ok(())
}

/// One trajectory.
pub fn get(tx: &Tx<'_>, turn: &TurnId) -> Result<Option<Trajectory>> {
    first(tx, &format!("SELECT {COLUMNS} FROM trajectories WHERE turn_id = ?1"), [turn.as_str()], read)
}

pub(crate) const PENDING: &str = "WHERE state = 'pending' ORDER BY created_at, turn_id LIMIT ?1";
pub(crate) const PENDING_OF_TASK: &str =
    "WHERE state = 'pending' AND task_id = ?2 ORDER BY created_at, turn_id LIMIT ?1";

/// The oldest pending trajectories, of one task or of all.
pub fn pending(tx: &Tx<'_>, task: Option<&TaskId>, limit: u32) -> Result<Vec<Trajectory>> {
    let select = |rest| format!("SELECT {COLUMNS} FROM trajectories {rest}");
    match task {
        None => all(tx, &select(PENDING), [limit], read),
        Some(task) => all(tx, &select(PENDING_OF_TASK), params![limit, task.as_str()], read),
    }
}

/// The oldest pending ones by name only, for a batch that reads each when its turn comes.
pub fn waiting(tx: &Tx<'_>, limit: u32) -> Result<Vec<Waiting>> {
    all(tx, &format!("SELECT turn_id, task_id, created_at FROM trajectories {PENDING}"), [limit], |row| {
        let (turn, task): (String, String) = (row.get(0)?, row.get(1)?);
        Ok(Waiting {
            turn_id: TurnId::parse(&turn).map_err(|_| Error::bad_data("trajectories.turn_id", &turn))?,
            task_id: TaskId::parse(&task).map_err(|_| Error::bad_data("trajectories.task_id", &turn))?,
            at: time(row, 2)?,
        })
    })
}

/// Takes the pending trajectories of a task away: nobody learns from what is being forgotten.
pub fn forget_pending(tx: &Tx<'_>, task: &TaskId) -> Result<usize> {
    Ok(tx
        .conn()
        .prepare_cached("DELETE FROM trajectories WHERE state = 'pending' AND task_id = ?1")?
        .execute([task.as_str()])?)
}

/// Keeps with a trajectory what it showed beside memories: patterns and procedures, which count only when several
/// turns show them. [`Change::Missing`] when there is no such trajectory.
pub fn note_shown(tx: &Tx<'_>, turn: &TurnId, shown: &Value) -> Result<Change> {
    let rows = tx
        .conn()
        .prepare_cached(
            "UPDATE trajectories SET trace_json = json_set(trace_json, '$.shown', json(?2)) WHERE turn_id = ?1",
        )?
        .execute(params![turn.as_str(), shown.to_string()])?;
    Ok(Change::of(rows))
}

/// What trajectories showed, the newest first.
pub fn shown(tx: &Tx<'_>, limit: u32) -> Result<Vec<(TurnId, Value)>> {
    let sql = "SELECT turn_id, json_extract(trace_json, '$.shown') FROM trajectories
               WHERE processed_at IS NOT NULL AND json_type(trace_json, '$.shown') = 'object'
               ORDER BY processed_at DESC, turn_id DESC LIMIT ?1";
    all(tx, sql, [limit], |row| {
        let (turn, shown): (String, String) = (row.get(0)?, row.get(1)?);
        let wrong = |column| Error::bad_data(column, &turn);
        Ok((
            TurnId::parse(&turn).map_err(|_| wrong("trajectories.turn_id"))?,
            serde_json::from_str(&shown).map_err(|_| wrong("trajectories.trace_json"))?,
        ))
    })
}

/// What a trajectory shows; `None` when it shows nothing, or nothing any more.
pub fn shown_by(tx: &Tx<'_>, turn: &TurnId) -> Result<Option<Value>> {
    let sql = "SELECT json_extract(trace_json, '$.shown') FROM trajectories
               WHERE turn_id = ?1 AND json_type(trace_json, '$.shown') = 'object'";
    first(tx, sql, [turn.as_str()], |row| {
        let shown: String = row.get(0)?;
        serde_json::from_str(&shown).map_err(|_| Error::bad_data("trajectories.trace_json", turn.as_str()))
    })
}

/// What trajectories show under one name, in the order of ids after `after`; those that show nothing under it are left out.
pub fn showing(tx: &Tx<'_>, what: &str, after: Option<&TurnId>, limit: u32) -> Result<Vec<(TurnId, Value)>> {
    let sql = "SELECT turn_id, json_extract(trace_json, '$.shown') FROM trajectories
               WHERE turn_id > ?1 AND json_array_length(trace_json, '$.shown.' || ?2) > 0
               ORDER BY turn_id LIMIT ?3";
    all(tx, sql, params![after.map_or("", TurnId::as_str), what, limit], |row| {
        let (turn, shown): (String, String) = (row.get(0)?, row.get(1)?);
        let wrong = |column| Error::bad_data(column, &turn);
        Ok((
            TurnId::parse(&turn).map_err(|_| wrong("trajectories.turn_id"))?,
            serde_json::from_str(&shown).map_err(|_| wrong("trajectories.trace_json"))?,
        ))
    })
}

/// Takes away what a page of trajectories showed, and takes back what they said, in the order of ids after `after`. The
/// last one that was looked at; `None` when there is no more of them.
pub fn forget_shown(tx: &Tx<'_>, after: Option<&TurnId>, limit: u32) -> Result<Option<TurnId>> {
    let after = after.map_or("", TurnId::as_str);
    let page = "SELECT max(turn_id) FROM
                (SELECT turn_id FROM trajectories WHERE turn_id > ?1 ORDER BY turn_id LIMIT ?2)";
    let last: Option<String> =
        tx.conn().prepare_cached(page)?.query_row(params![after, limit], |r| r.get(0))?;
    let Some(last) = last else { return Ok(None) };
    let rows = tx
        .conn()
        .prepare_cached(
            "UPDATE trajectories
             SET trace_json = json_set(json_remove(trace_json, '$.shown'), '$.taken_back', json('true'))
             WHERE turn_id > ?1 AND turn_id <= ?2
               AND (json_type(trace_json, '$.shown') IS NOT NULL OR json_type(trace_json, '$.taken_back') IS NULL)",
        )?
        .execute(params![after, last])?;
    if rows > 0 {
        tx.forget();
    }
    TurnId::parse(&last).map(Some).map_err(|_| Error::bad_data("trajectories.turn_id", &last))
}

/// How many are pending.
pub fn pending_count(tx: &Tx<'_>) -> Result<u64> {
    let sql = "SELECT count(*) FROM trajectories WHERE state = 'pending'";
    Ok(first(tx, sql, [], |row| unsigned(row, 0))?.unwrap_or(0))
}

/// Tasks with pending trajectories, and when the last of these ended, the latest first.
pub fn quiet_since(tx: &Tx<'_>, limit: u32) -> Result<Vec<(TaskId, Timestamp)>> {
    let sql = "SELECT task_id, max(created_at) FROM trajectories WHERE state = 'pending'
               GROUP BY task_id ORDER BY 2 DESC, 1 LIMIT ?1";
    all(tx, sql, [limit], |row| {
        let task: String = row.get(0)?;
        let task = TaskId::parse(&task).map_err(|_| Error::bad_data("trajectories.task_id", &task))?;
        Ok((task, time(row, 1)?))
    })
}

/// Notes that a trajectory was learned from. [`Change::Missing`] when it is not pending.
pub fn processed(tx: &Tx<'_>, turn: &TurnId, now: Timestamp) -> Result<Change> {
    let rows = tx
        .conn()
        .prepare_cached(
            "UPDATE trajectories SET state = 'processed', processed_at = ?2
             WHERE turn_id = ?1 AND state = 'pending'",
        )?
        .execute(params![turn.as_str(), now.millis()])?;
    Ok(Change::of(rows))
}

/// Takes back up to `limit` pending trajectories, without learning from them; how many there were.
pub fn end_pending(tx: &Tx<'_>, limit: u32, now: Timestamp) -> Result<usize> {
    let sql = format!(
        "UPDATE trajectories
         SET state = 'processed', processed_at = ?2,
             trace_json = json_set(trace_json, '$.taken_back', json('true'))
         WHERE turn_id IN (SELECT turn_id FROM trajectories {PENDING})"
    );
    Ok(tx.conn().prepare_cached(&sql)?.execute(params![limit, now.millis()])?)
}

/// Counts a failed attempt; after `attempts` of them the trajectory is given up. Where it stands then;
/// `None` when it is not pending.
pub fn failed(tx: &Tx<'_>, turn: &TurnId, attempts: u32, now: Timestamp) -> Result<Option<State>> {
    let sql = "UPDATE trajectories SET attempts = attempts + 1,
                      state = CASE WHEN attempts + 1 >= ?2 THEN 'failed' ELSE state END,
                      processed_at = CASE WHEN attempts + 1 >= ?2 THEN ?3 END
               WHERE turn_id = ?1 AND state = 'pending' RETURNING state";
    first(tx, sql, params![turn.as_str(), attempts, now.millis()], |row| {
        let state: String = row.get(0)?;
        State::parse(&state).ok_or_else(|| Error::bad_data("trajectories.state", &state))
    })
}
