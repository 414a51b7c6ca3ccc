//! Turns: one user message plus everything done until the answer, an error or a cancel.

use crate::memory::MemoryId;
use crate::{Error, Result, Tx};
use contract::conversation::StopReason;
use contract::{ErrorCode, MessageId, TaskId, Timestamp, TurnId};
use rusqlite::{OptionalExtension, Row, params};
use serde_json::Value;

/// Column `turns.state`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TurnState {
    /// Committed, waiting for a slot.
    Queued,
    /// Owns a slot.
    Running,
    /// Waits for a person; owns no slot.
    Paused,
    /// A cancel is committed; work is being stopped.
    Cancelling,
    /// Over, with a stop reason.
    Completed,
    /// Over, with an error.
    Errored,
}

impl TurnState {
    /// Every state.
    pub const ALL: [TurnState; 6] = [
        TurnState::Queued,
        TurnState::Running,
        TurnState::Paused,
        TurnState::Cancelling,
        TurnState::Completed,
        TurnState::Errored,
    ];
    /// States that block another turn of the same task.
    pub const OPEN: [TurnState; 4] =
        [TurnState::Queued, TurnState::Running, TurnState::Paused, TurnState::Cancelling];
    /// States that count as activity in /health.
    pub const IN_FLIGHT: [TurnState; 3] = [TurnState::Queued, TurnState::Running, TurnState::Cancelling];
    /// States nothing leaves.
    pub const TERMINAL: [TurnState; 2] = [TurnState::Completed, TurnState::Errored];

    /// The word in the brain and on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            TurnState::Queued => "queued",
            TurnState::Running => "running",
            TurnState::Paused => "paused",
            TurnState::Cancelling => "cancelling",
            TurnState::Completed => "completed",
            TurnState::Errored => "errored",
        }
    }

    /// Reads the word back.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.as_str() == text)
    }

    /// True when the turn is over.
    pub fn is_terminal(self) -> bool {
        Self::TERMINAL.contains(&self)
    }
}

/// A turn to be accepted.
#[derive(Debug, Clone)]
pub struct NewTurn {
    /// Its id.
    pub turn_id: TurnId,
    /// Its task.
    pub task_id: TaskId,
    /// The agent that answers.
    pub agent: String,
    /// The plan tool is not offered.
    pub direct: bool,
    /// Extended thinking was asked for.
    pub super_thinking: bool,
    /// The caller's key, when sent.
    pub idempotency_key: Option<String>,
    /// SHA-256 of the request, to tell a re-send from a different request.
    pub request_hash: String,
    /// The request with media as blob references.
    pub request: Value,
    /// JSON Schema for the final answer.
    pub output_schema: Option<Value>,
    /// The stored user message.
    pub user_message_id: MessageId,
    /// Now.
    pub at: Timestamp,
}

/// A stored turn.
#[derive(Debug, Clone, PartialEq)]
pub struct Turn {
    /// Its id.
    pub turn_id: TurnId,
    /// Its task.
    pub task_id: TaskId,
    /// Counts the task's turns from 1.
    pub number: i64,
    /// The agent that answers.
    pub agent: String,
    /// Where it stands.
    pub state: TurnState,
    /// True once it went on after a restart.
    pub resumed: bool,
    /// The plan tool is not offered.
    pub direct: bool,
    /// Extended thinking was asked for.
    pub super_thinking: bool,
    /// SHA-256 of the request.
    pub request_hash: String,
    /// The request with media as blob references.
    pub request: Value,
    /// JSON Schema for the final answer.
    pub output_schema: Option<Value>,
    /// The validated answer.
    pub output: Option<Value>,
    /// The user message.
    pub user_message_id: MessageId,
    /// The final assistant message.
    pub message_id: Option<MessageId>,
    /// Why it completed.
    pub stop_reason: Option<StopReason>,
    /// Why it errored.
    pub error: Option<TurnError>,
    /// Model calls of the main loop.
    pub iterations: u32,
    /// Unclean process deaths in a row while this turn was in flight.
    pub crash_count: u32,
    /// First event.
    pub first_seq: i64,
    /// Last event; 0 while open.
    pub last_seq: i64,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// When it first got a slot.
    pub started_at: Option<Timestamp>,
    /// When it was over.
    pub ended_at: Option<Timestamp>,
}

/// The stored error of a turn.
#[derive(Debug, Clone, PartialEq)]
pub struct TurnError {
    /// Stable code.
    pub code: ErrorCode,
    /// For people.
    pub message: String,
    /// Structured facts.
    pub details: Option<Value>,
}

/// What a guarded change did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The row was in one of the expected states and is now in the new one.
    Changed,
    /// The row is in another state.
    Unchanged(TurnState),
    /// No such row.
    Missing,
}

const COLUMNS: &str = "turn_id, task_id, number, agent, state, resumed, direct, super_thinking, request_hash,
    request_json, output_schema, output, user_message_id, message_id, stop_reason, error_code, error_message,
    error_details, iterations, crash_count, first_seq, last_seq, created_at, started_at, ended_at";

fn read(row: &Row<'_>) -> Result<Turn> {
    let text = |i: usize| -> Result<String> { Ok(row.get(i)?) };
    let json = |i: usize, column: &'static str| -> Result<Option<Value>> {
        row.get::<_, Option<String>>(i)?
            .map(|t| serde_json::from_str(&t).map_err(|_| Error::bad_data(column, &t)))
            .transpose()
    };
    let time = |i: usize| -> Result<Option<Timestamp>> {
        Ok(row.get::<_, Option<i64>>(i)?.map(Timestamp::from_millis))
    };
    let state = text(4)?;
    let stop: Option<String> = row.get(14)?;
    let code: Option<String> = row.get(15)?;
    let error = match code {
        None => None,
        Some(c) => Some(TurnError {
            code: ErrorCode::parse(&c).ok_or_else(|| Error::bad_data("turns.error_code", &c))?,
            message: row.get::<_, Option<String>>(16)?.unwrap_or_default(),
            details: json(17, "turns.error_details")?,
        }),
    };
    let turn_id = text(0)?;
    let task_id = text(1)?;
    let user = text(12)?;
    let message: Option<String> = row.get(13)?;
    let message_id = message
        .map(|m| MessageId::parse(&m).map_err(|_| Error::bad_data("turns.message_id", &m)))
        .transpose()?;
    Ok(Turn {
        turn_id: TurnId::parse(&turn_id).map_err(|_| Error::bad_data("turns.turn_id", &turn_id))?,
        task_id: TaskId::parse(&task_id).map_err(|_| Error::bad_data("turns.task_id", &task_id))?,
        number: row.get(2)?,
        agent: text(3)?,
        state: TurnState::parse(&state).ok_or_else(|| Error::bad_data("turns.state", &state))?,
        resumed: row.get(5)?,
        direct: row.get(6)?,
        super_thinking: row.get(7)?,
        request_hash: text(8)?,
        request: json(9, "turns.request_json")?.unwrap_or(Value::Null),
        output_schema: json(10, "turns.output_schema")?,
        output: json(11, "turns.output")?,
        user_message_id: MessageId::parse(&user)
            .map_err(|_| Error::bad_data("turns.user_message_id", &user))?,
        message_id,
        stop_reason: stop
            .map(|s| StopReason::parse(&s).ok_or_else(|| Error::bad_data("turns.stop_reason", &s)))
            .transpose()?,
        error,
        iterations: row.get(18)?,
        crash_count: row.get(19)?,
        first_seq: row.get(20)?,
        last_seq: row.get(21)?,
        created_at: time(22)?.unwrap_or(Timestamp::from_millis(0)),
        started_at: time(23)?,
        ended_at: time(24)?,
    })
}

fn one(tx: &Tx<'_>, condition: &str, value: &str) -> Result<Option<Turn>> {
    let sql = format!("SELECT {COLUMNS} FROM turns WHERE {condition}");
    let mut statement = tx.conn().prepare_cached(&sql)?;
    let mut rows = statement.query([value])?;
    rows.next()?.map(read).transpose()
}

/// Stores a new turn, queued. Fails with `Error::Constraint` when the task has an open turn.
pub fn insert(tx: &Tx<'_>, turn: &NewTurn) -> Result<()> {
    tx.conn()
        .prepare_cached(
            "INSERT INTO turns (turn_id, task_id, number, agent, state, direct, super_thinking, idempotency_key,
                                request_hash, request_json, output_schema, user_message_id, created_at)
             VALUES (?1, ?2, 1 + coalesce((SELECT max(number) FROM turns WHERE task_id = ?2), 0), ?3, 'queued',
                     ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
        )?
        .execute(params![
            turn.turn_id.as_str(),
            turn.task_id.as_str(),
            turn.agent,
            turn.direct,
            turn.super_thinking,
            turn.idempotency_key,
            turn.request_hash,
            turn.request.to_string(),
            turn.output_schema.as_ref().map(Value::to_string),
            turn.user_message_id.as_str(),
            turn.at.millis(),
        ])?;
    Ok(())
}

/// One turn.
pub fn get(tx: &Tx<'_>, id: &TurnId) -> Result<Option<Turn>> {
    one(tx, "turn_id = ?1", id.as_str())
}

/// The turn of a task that is not over.
pub fn open_of(tx: &Tx<'_>, task: &TaskId) -> Result<Option<Turn>> {
    one(tx, "task_id = ?1 AND state IN ('queued', 'running', 'paused', 'cancelling')", task.as_str())
}

/// The newest turn of a task.
pub fn last_of(tx: &Tx<'_>, task: &TaskId) -> Result<Option<Turn>> {
    one(tx, "task_id = ?1 ORDER BY number DESC LIMIT 1", task.as_str())
}

/// The turn an Idempotency-Key already started.
pub fn by_idempotency_key(tx: &Tx<'_>, key: &str) -> Result<Option<Turn>> {
    one(tx, "idempotency_key = ?1", key)
}

/// Whether any turn is not over; reads only the partial index.
pub fn any_open(tx: &Tx<'_>) -> Result<bool> {
    Ok(tx
        .conn()
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM turns WHERE state IN ('queued', 'running', 'paused', 'cancelling'))",
        )?
        .query_row([], |r| r.get(0))?)
}

/// All turns that are not over, oldest first; reads only the partial index.
pub fn open(tx: &Tx<'_>) -> Result<Vec<Turn>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM turns WHERE state IN ('queued', 'running', 'paused', 'cancelling') ORDER BY created_at, turn_id"
    );
    let mut statement = tx.conn().prepare_cached(&sql)?;
    let mut rows = statement.query([])?;
    let mut out = Vec::new();
    while let Some(row) = rows.next()? {
        out.push(read(row)?);
    }
    Ok(out)
}

/// Moves a turn from one of `from` to `to`.
pub fn set_state(
    tx: &Tx<'_>,
    id: &TurnId,
    from: &[TurnState],
    to: TurnState,
    now: Timestamp,
) -> Result<Change> {
    let actual: Option<String> = tx
        .conn()
        .prepare_cached("SELECT state FROM turns WHERE turn_id = ?1")?
        .query_row([id.as_str()], |r| r.get(0))
        .optional()?;
    let Some(actual) = actual else { return Ok(Change::Missing) };
    let actual = TurnState::parse(&actual).ok_or_else(|| Error::bad_data("turns.state", &actual))?;
    if !from.contains(&actual) {
        return Ok(Change::Unchanged(actual));
    }
    tx.conn()
        .prepare_cached(
            "UPDATE turns SET state = ?2,
                started_at = CASE WHEN ?2 = 'running' THEN coalesce(started_at, ?3) ELSE started_at END
             WHERE turn_id = ?1",
        )?
        .execute(params![id.as_str(), to.as_str(), now.millis()])?;
    Ok(Change::Changed)
}

/// Notes the first event of a turn.
pub fn set_first_seq(tx: &Tx<'_>, id: &TurnId, seq: i64) -> Result<()> {
    tx.conn()
        .prepare_cached("UPDATE turns SET first_seq = ?2 WHERE turn_id = ?1")?
        .execute(params![id.as_str(), seq])?;
    Ok(())
}

/// Notes that a turn has read what somebody else wrote.
pub fn taint(tx: &Tx<'_>, id: &TurnId) -> Result<()> {
    tx.conn()
        .prepare_cached("UPDATE turns SET tainted = 1 WHERE turn_id = ?1 AND tainted = 0")?
        .execute([id.as_str()])?;
    Ok(())
}

/// True when any turn of the task has read what somebody else wrote: it still stands in the context that later
/// turns read.
pub fn is_tainted(tx: &Tx<'_>, task: &TaskId) -> Result<bool> {
    Ok(tx
        .conn()
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM turns WHERE task_id = ?1 AND tainted = 1)")?
        .query_row([task.as_str()], |r| r.get(0))?)
}

/// The same for what a turn of the task could have read: what came in after it does not taint it.
pub fn was_tainted(tx: &Tx<'_>, turn: &Turn) -> Result<bool> {
    Ok(tx
        .conn()
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM turns WHERE task_id = ?1 AND tainted = 1 AND number <= ?2)",
        )?
        .query_row(params![turn.task_id.as_str(), turn.number], |r| r.get(0))?)
}

/// Notes that a turn was shown words of somebody other than the person. It is never taken back: what was shown may be
/// deleted, and the assistant may repeat it all the same.
pub fn hear_others(tx: &Tx<'_>, id: &TurnId) -> Result<()> {
    tx.conn()
        .prepare_cached("UPDATE turns SET others_heard = 1 WHERE turn_id = ?1 AND others_heard = 0")?
        .execute([id.as_str()])?;
    Ok(())
}

/// True when this turn or an earlier one of its task was shown words of somebody other than the person.
pub fn has_heard_others(tx: &Tx<'_>, turn: &Turn) -> Result<bool> {
    Ok(tx
        .conn()
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM turns WHERE task_id = ?1 AND others_heard = 1 AND number <= ?2)",
        )?
        .query_row(params![turn.task_id.as_str(), turn.number], |r| r.get(0))?)
}

/// Notes which memories were recalled into the turn.
pub fn set_recalled(tx: &Tx<'_>, id: &TurnId, memories: &[MemoryId]) -> Result<()> {
    let ids: Vec<&str> = memories.iter().map(MemoryId::as_str).collect();
    tx.conn()
        .prepare_cached("UPDATE turns SET recalled_ids = ?2 WHERE turn_id = ?1")?
        .execute(params![id.as_str(), Value::from(ids).to_string()])?;
    Ok(())
}

/// Which memories were recalled into the turn; some may be gone by now.
pub fn recalled(tx: &Tx<'_>, id: &TurnId) -> Result<Vec<MemoryId>> {
    let text: Option<Option<String>> = tx
        .conn()
        .prepare_cached("SELECT recalled_ids FROM turns WHERE turn_id = ?1")?
        .query_row([id.as_str()], |r| r.get(0))
        .optional()?;
    let Some(text) = text.flatten() else { return Ok(Vec::new()) };
    let wrong = || Error::bad_data("turns.recalled_ids", id);
    let ids: Vec<String> = serde_json::from_str(&text).map_err(|_| wrong())?;
    ids.iter().map(|id| MemoryId::parse(id).ok_or_else(wrong)).collect()
}

/// Earlier turns of a turn's task whose message or answer was replaced by an edit or a retry, as far as something is
/// still kept of them: an episode, or a trajectory that nobody has learned from.
pub fn superseded_by(tx: &Tx<'_>, turn: &Turn) -> Result<Vec<TurnId>> {
    let mut statement = tx.conn().prepare_cached(
        "SELECT t.turn_id FROM turns t WHERE t.task_id = ?1 AND t.number < ?2
           AND (EXISTS (SELECT 1 FROM turns n WHERE n.task_id = t.task_id AND n.number > t.number
                          AND n.user_message_id = t.user_message_id)
             OR EXISTS (SELECT 1 FROM conversations c
                         WHERE c.message_id = t.user_message_id AND c.status = 'superseded'))
           AND (EXISTS (SELECT 1 FROM trajectories j WHERE j.turn_id = t.turn_id AND j.state = 'pending')
             OR EXISTS (SELECT 1 FROM episodes e
                         WHERE e.task_id = t.task_id AND e.turn_id = t.turn_id AND e.kind = 'turn'))
         ORDER BY t.number",
    )?;
    let mut rows = statement.query(params![turn.task_id.as_str(), turn.number])?;
    let mut ids = Vec::new();
    while let Some(row) = rows.next()? {
        let id: String = row.get(0)?;
        ids.push(TurnId::parse(&id).map_err(|_| Error::bad_data("turns.turn_id", &id))?);
    }
    Ok(ids)
}

/// True when an edit or a retry has replaced the message of this turn or its answer.
pub fn is_superseded(tx: &Tx<'_>, turn: &Turn) -> Result<bool> {
    Ok(tx
        .conn()
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM turns WHERE task_id = ?1 AND number > ?2 AND user_message_id = ?3)
                 OR EXISTS (SELECT 1 FROM conversations WHERE message_id = ?3 AND status = 'superseded')",
        )?
        .query_row(params![turn.task_id.as_str(), turn.number, turn.user_message_id.as_str()], |r| {
            r.get(0)
        })?)
}

/// Notes how many model calls the turn has made.
pub fn set_iterations(tx: &Tx<'_>, id: &TurnId, iterations: u32) -> Result<()> {
    tx.conn()
        .prepare_cached("UPDATE turns SET iterations = ?2 WHERE turn_id = ?1")?
        .execute(params![id.as_str(), iterations])?;
    Ok(())
}

/// After a restart: marks the turn as resumed and counts the death it lived through.
pub fn mark_resumed(tx: &Tx<'_>, id: &TurnId, counts_as_crash: bool) -> Result<()> {
    tx.conn()
        .prepare_cached("UPDATE turns SET resumed = 1, crash_count = crash_count + ?2 WHERE turn_id = ?1")?
        .execute(params![id.as_str(), counts_as_crash])?;
    Ok(())
}

/// A turn that made progress after a restart starts counting deaths from zero again.
pub fn reset_crash_count(tx: &Tx<'_>, id: &TurnId) -> Result<()> {
    tx.conn()
        .prepare_cached("UPDATE turns SET crash_count = 0 WHERE turn_id = ?1 AND crash_count <> 0")?
        .execute([id.as_str()])?;
    Ok(())
}

/// How a turn ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Ending {
    /// With an answer (or none, when cancelled early).
    Completed {
        /// The final assistant message.
        message_id: Option<MessageId>,
        /// Why.
        stop_reason: StopReason,
        /// The validated answer.
        output: Option<Value>,
    },
    /// With an error.
    Errored(TurnError),
}

/// Ends a turn; `last_seq` is its final event.
pub fn finish(tx: &Tx<'_>, id: &TurnId, ending: &Ending, last_seq: i64, now: Timestamp) -> Result<()> {
    let (state, message, stop, output, error) = match ending {
        Ending::Completed { message_id, stop_reason, output } => {
            (TurnState::Completed, message_id.as_ref(), Some(*stop_reason), output.as_ref(), None)
        }
        Ending::Errored(error) => (TurnState::Errored, None, None, None, Some(error)),
    };
    tx.conn()
        .prepare_cached(
            "UPDATE turns SET state = ?2, message_id = ?3, stop_reason = ?4, output = ?5, error_code = ?6,
                    error_message = ?7, error_details = ?8, last_seq = ?9, ended_at = ?10 WHERE turn_id = ?1",
        )?
        .execute(params![
            id.as_str(),
            state.as_str(),
            message.map(MessageId::as_str),
            stop.map(StopReason::as_str),
            output.map(Value::to_string),
            error.map(|e| e.code.as_str()),
            error.map(|e| e.message.as_str()),
            error.and_then(|e| e.details.as_ref()).map(Value::to_string),
            last_seq,
            now.millis(),
        ])?;
    Ok(())
}
