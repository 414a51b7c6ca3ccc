//! What operators may want to know later. Never prompt text, never keys.

use crate::{Result, Tx};
use contract::{TaskId, Timestamp, TurnId};
use rusqlite::params;
use serde_json::Value;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq)]
pub struct Observation {
    /// A documented kind, e.g. `slow_tool_call`.
    pub kind: &'static str,
    /// Error code, when there is one.
    pub code: Option<String>,
    /// Its task.
    pub task_id: Option<TaskId>,
    /// Its turn.
    pub turn_id: Option<TurnId>,
    /// A short sentence.
    pub message: String,
    /// Structured facts.
    pub data: Option<Value>,
    /// Now.
    pub at: Timestamp,
}

/// A stored observation.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    /// When (milliseconds).
    pub ts: i64,
    /// Its kind.
    pub kind: String,
    /// Error code.
    pub code: Option<String>,
    /// Its turn.
    pub turn_id: Option<String>,
    /// A short sentence.
    pub message: String,
}

/// Writes one down.
pub fn note(tx: &Tx<'_>, observation: &Observation) -> Result<()> {
    tx.conn()
        .prepare_cached(
            "INSERT INTO observability_events (ts, kind, code, task_id, turn_id, message, data_json)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute(params![
            observation.at.millis(),
            observation.kind,
            observation.code,
            observation.task_id.as_ref().map(TaskId::as_str),
            observation.turn_id.as_ref().map(TurnId::as_str),
            observation.message,
            observation.data.as_ref().map(Value::to_string),
        ])?;
    Ok(())
}

/// The newest observations of a kind (or of all kinds), newest first.
pub fn recent(tx: &Tx<'_>, kind: Option<&str>, limit: u32) -> Result<Vec<Stored>> {
    let mut statement = tx.conn().prepare_cached(
        "SELECT ts, kind, code, turn_id, message FROM observability_events
         WHERE ?1 IS NULL OR kind = ?1 ORDER BY id DESC LIMIT ?2",
    )?;
    let rows = statement.query_map(params![kind, limit], |r| {
        Ok(Stored { ts: r.get(0)?, kind: r.get(1)?, code: r.get(2)?, turn_id: r.get(3)?, message: r.get(4)? })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}
