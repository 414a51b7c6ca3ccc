//! Checkpoints: where a turn stands, in enough detail to go on after `kill -9`.

use crate::{Error, Result, Tx};
use contract::{TaskId, Timestamp, TurnId};
use rusqlite::{OptionalExtension, params};
use serde_json::Value;
use std::collections::BTreeSet;

/// Which step of the loop a turn is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// Gathering the context.
    Assemble,
    /// Streaming a model call.
    Model,
    /// Running tool calls.
    Tools,
    /// Writing down the end.
    Finish,
}

impl Step {
    /// Every step.
    pub const ALL: [Step; 4] = [Step::Assemble, Step::Model, Step::Tools, Step::Finish];

    /// The word in the brain.
    pub const fn as_str(self) -> &'static str {
        match self {
            Step::Assemble => "assemble",
            Step::Model => "model",
            Step::Tools => "tools",
            Step::Finish => "finish",
        }
    }

    /// Reads the word back.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.as_str() == text)
    }
}

/// A stored checkpoint; `state` is the engine's own document, versioned by it.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// The step the turn is in.
    pub step: Step,
    /// What the step needs to go on.
    pub state: Value,
}

/// Version of `state` documents; a later format reads older ones or refuses with bad data.
pub const STATE_VERSION: i64 = 1;

/// Writes the checkpoint of a turn; `expires_at` is when it and the turn's events may go once the turn is over.
pub fn put(
    tx: &Tx<'_>,
    turn: &TurnId,
    task: &TaskId,
    snapshot: &Snapshot,
    now: Timestamp,
    expires_at: Timestamp,
) -> Result<()> {
    tx.conn()
        .prepare_cached(
            "INSERT INTO channel_state_snapshots (turn_id, task_id, step, state_json, version, updated_at, expires_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
             ON CONFLICT (turn_id) DO UPDATE SET step = excluded.step, state_json = excluded.state_json,
                version = excluded.version, updated_at = excluded.updated_at, expires_at = excluded.expires_at",
        )?
        .execute(params![
            turn.as_str(),
            task.as_str(),
            snapshot.step.as_str(),
            snapshot.state.to_string(),
            STATE_VERSION,
            now.millis(),
            expires_at.millis()
        ])?;
    Ok(())
}

/// Moves only the expiry of a turn's checkpoint and events.
pub fn set_expiry(tx: &Tx<'_>, turn: &TurnId, expires_at: Timestamp) -> Result<()> {
    tx.conn()
        .prepare_cached("UPDATE channel_state_snapshots SET expires_at = ?2 WHERE turn_id = ?1")?
        .execute(params![turn.as_str(), expires_at.millis()])?;
    Ok(())
}

/// Empties the checkpoint of a turn that is over and says until when its events stay. Nobody goes on from it, and what
/// was recalled into it would outlive the memory it came from.
pub fn close(tx: &Tx<'_>, turn: &TurnId, expires_at: Timestamp) -> Result<()> {
    tx.conn()
        .prepare_cached(
            "UPDATE channel_state_snapshots SET state_json = '{}', expires_at = ?2 WHERE turn_id = ?1",
        )?
        .execute(params![turn.as_str(), expires_at.millis()])?;
    Ok(())
}

/// Blanks what was recalled of these memories into turns that are not over: neither the file nor the next call of the
/// model may bring back what was erased or edited.
pub fn forget_recalled(tx: &Tx<'_>, ids: &BTreeSet<&str>) -> Result<()> {
    let mut statement = tx.conn().prepare_cached(OPEN_AND_RECALLED)?;
    let mut rows = statement.query([])?;
    let mut blanked = Vec::new();
    while let Some(row) = rows.next()? {
        let (turn, recalled, state): (String, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
        // The ids are ours: none is a part of another.
        if !ids.iter().any(|id| recalled.contains(id)) {
            continue;
        }
        let mut state: Value = serde_json::from_str(&state)
            .map_err(|_| Error::bad_data("channel_state_snapshots.state_json", &turn))?;
        if blank(&mut state, ids) {
            blanked.push((turn, state));
        }
    }
    for (turn, state) in blanked {
        tx.conn()
            .prepare_cached("UPDATE channel_state_snapshots SET state_json = ?2 WHERE turn_id = ?1")?
            .execute(params![turn, state.to_string()])?;
    }
    Ok(())
}

pub(crate) const OPEN_AND_RECALLED: &str = "SELECT t.turn_id, t.recalled_ids, s.state_json
      FROM turns t CROSS JOIN channel_state_snapshots s ON s.turn_id = t.turn_id
     WHERE t.state IN ('queued', 'running', 'paused', 'cancelling') AND t.recalled_ids IS NOT NULL";

/// Takes the recalled block out of a loop's document and of those below it, where it shows one of these; whether any did.
fn blank(state: &mut Value, ids: &BTreeSet<&str>) -> bool {
    let mut changed = false;
    if let Some(block) = state.get_mut("memory")
        && block.as_str().is_some_and(|text| ids.iter().any(|id| text.contains(id)))
    {
        *block = Value::Null;
        changed = true;
    }
    if let Some(nested) = state.get_mut("nested").and_then(Value::as_object_mut) {
        for inner in nested.values_mut().filter_map(|inner| inner.get_mut("state")) {
            changed |= blank(inner, ids);
        }
    }
    changed
}

/// The checkpoint of a turn.
pub fn get(tx: &Tx<'_>, turn: &TurnId) -> Result<Option<Snapshot>> {
    let row: Option<(String, String, i64)> = tx
        .conn()
        .prepare_cached("SELECT step, state_json, version FROM channel_state_snapshots WHERE turn_id = ?1")?
        .query_row([turn.as_str()], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))
        .optional()?;
    let Some((step, state, version)) = row else { return Ok(None) };
    if version != STATE_VERSION {
        return Err(Error::bad_data("channel_state_snapshots.version", version.to_string()));
    }
    Ok(Some(Snapshot {
        step: Step::parse(&step).ok_or_else(|| Error::bad_data("channel_state_snapshots.step", &step))?,
        state: serde_json::from_str(&state)
            .map_err(|_| Error::bad_data("channel_state_snapshots.state_json", turn.as_str()))?,
    }))
}
