//! Questions to a person. A row survives disconnects and restarts and is answered exactly once.

use crate::{Error, Result, Tx};
use contract::event::HitlKind;
use contract::{Block, CallId, HitlId, TaskId, Timestamp, TurnId};
use rusqlite::{Row, params};
use serde_json::Value;

/// Column `hitl_requests.state`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PromptState {
    /// Nobody has answered yet.
    Pending,
    /// Answered.
    Answered,
    /// Nobody answered in time.
    Expired,
    /// The turn was cancelled.
    Cancelled,
}

impl PromptState {
    /// Every state.
    pub const ALL: [PromptState; 4] =
        [PromptState::Pending, PromptState::Answered, PromptState::Expired, PromptState::Cancelled];

    /// The word in the brain.
    pub const fn as_str(self) -> &'static str {
        match self {
            PromptState::Pending => "pending",
            PromptState::Answered => "answered",
            PromptState::Expired => "expired",
            PromptState::Cancelled => "cancelled",
        }
    }

    /// Reads the word back.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.as_str() == text)
    }
}

/// A stored question.
#[derive(Debug, Clone, PartialEq)]
pub struct Prompt {
    /// Its id.
    pub request_id: HitlId,
    /// Its task.
    pub task_id: TaskId,
    /// Its turn.
    pub turn_id: TurnId,
    /// The call that waits.
    pub call_id: CallId,
    /// Which question of that call it is, from 1: a call asks again when its meaning changed after the answer.
    pub round: u32,
    /// permission or question.
    pub kind: HitlKind,
    /// What is asked.
    pub question: String,
    /// Offered answers.
    pub options: Vec<String>,
    /// For a permission: `tool`, `input`, `reason`, `rule`, and the `scope` a yes is for.
    pub details: Value,
    /// Where it stands.
    pub state: PromptState,
    /// yes, no, always, or free text.
    pub answer: Option<String>,
    /// Comment for the agent.
    pub feedback: Option<String>,
    /// Blocks for the agent.
    pub content_blocks: Vec<Block>,
    /// When it was asked.
    pub created_at: Timestamp,
    /// When it counts as "no".
    pub expires_at: Timestamp,
}

const COLUMNS: &str =
    "request_id, task_id, turn_id, tool_call_id, kind, question, options, details_json, state,
    answer, feedback, content_blocks, created_at, expires_at, round";

fn read(row: &Row<'_>) -> Result<Prompt> {
    let id: String = row.get(0)?;
    let bad = |column: &'static str| Error::bad_data(column, &id);
    let task: String = row.get(1)?;
    let turn: String = row.get(2)?;
    let call: String = row.get(3)?;
    let kind: String = row.get(4)?;
    let options: String = row.get(6)?;
    let details: String = row.get(7)?;
    let state: String = row.get(8)?;
    let blocks: Option<String> = row.get(11)?;
    Ok(Prompt {
        request_id: HitlId::parse(&id).map_err(|_| bad("hitl_requests.request_id"))?,
        task_id: TaskId::parse(&task).map_err(|_| bad("hitl_requests.task_id"))?,
        turn_id: TurnId::parse(&turn).map_err(|_| bad("hitl_requests.turn_id"))?,
        call_id: CallId::parse(&call).map_err(|_| bad("hitl_requests.tool_call_id"))?,
        round: row.get(14)?,
        kind: HitlKind::parse(&kind).ok_or_else(|| bad("hitl_requests.kind"))?,
        question: row.get(5)?,
        options: serde_json::from_str(&options).map_err(|_| bad("hitl_requests.options"))?,
        details: serde_json::from_str(&details).map_err(|_| bad("hitl_requests.details_json"))?,
        state: PromptState::parse(&state).ok_or_else(|| bad("hitl_requests.state"))?,
        answer: row.get(9)?,
        feedback: row.get(10)?,
        content_blocks: blocks
            .map(|b| serde_json::from_str(&b).map_err(|_| bad("hitl_requests.content_blocks")))
            .transpose()?
            .unwrap_or_default(),
        created_at: Timestamp::from_millis(row.get(12)?),
        expires_at: Timestamp::from_millis(row.get(13)?),
    })
}

fn collect(tx: &Tx<'_>, condition: &str, parameters: impl rusqlite::Params) -> Result<Vec<Prompt>> {
    let sql =
        format!("SELECT {COLUMNS} FROM hitl_requests WHERE {condition} ORDER BY created_at, request_id");
    let mut statement = tx.conn().prepare_cached(&sql)?;
    let mut rows = statement.query(parameters)?;
    let mut out = Vec::new();
    while let Some(row) = rows.next()? {
        out.push(read(row)?);
    }
    Ok(out)
}

/// Stores a pending question. A round of a call asks once: asking again finds the row, and false is returned.
pub fn ask(tx: &Tx<'_>, prompt: &Prompt) -> Result<bool> {
    let options = serde_json::to_string(&prompt.options)
        .map_err(|e| Error::bad_data("hitl_requests.options", e.to_string()))?;
    Ok(tx
        .conn()
        .prepare_cached(
            "INSERT INTO hitl_requests (request_id, task_id, turn_id, tool_call_id, kind, question, options,
                                        details_json, state, created_at, expires_at, round)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, 'pending', ?9, ?10, ?11)
             ON CONFLICT (tool_call_id, round) DO NOTHING",
        )?
        .execute(params![
            prompt.request_id.as_str(),
            prompt.task_id.as_str(),
            prompt.turn_id.as_str(),
            prompt.call_id.as_str(),
            prompt.kind.as_str(),
            prompt.question,
            options,
            prompt.details.to_string(),
            prompt.created_at.millis(),
            prompt.expires_at.millis(),
            prompt.round,
        ])?
        == 1)
}

/// One question.
pub fn get(tx: &Tx<'_>, id: &HitlId) -> Result<Option<Prompt>> {
    Ok(collect(tx, "request_id = ?1", [id.as_str()])?.pop())
}

/// The oldest pending question of a task.
pub fn oldest_pending(tx: &Tx<'_>, task: &TaskId) -> Result<Option<Prompt>> {
    Ok(collect(tx, "state = 'pending' AND task_id = ?1", [task.as_str()])?.into_iter().next())
}

/// Pending questions of one task, oldest first.
pub fn pending_of(tx: &Tx<'_>, task: &TaskId) -> Result<Vec<Prompt>> {
    collect(tx, "state = 'pending' AND task_id = ?1", [task.as_str()])
}

/// Pending questions of all tasks, oldest first.
pub fn pending(tx: &Tx<'_>) -> Result<Vec<Prompt>> {
    collect(tx, "state = 'pending'", [])
}

/// All questions of a turn, settled ones included.
pub fn of_turn(tx: &Tx<'_>, turn: &TurnId) -> Result<Vec<Prompt>> {
    collect(tx, "turn_id = ?1", [turn.as_str()])
}

/// When the next pending question expires.
pub fn next_expiry(tx: &Tx<'_>) -> Result<Option<Timestamp>> {
    Ok(tx
        .conn()
        .prepare_cached("SELECT min(expires_at) FROM hitl_requests WHERE state = 'pending'")?
        .query_row([], |r| r.get::<_, Option<i64>>(0))?
        .map(Timestamp::from_millis))
}

/// How many questions wait.
pub fn count_pending(tx: &Tx<'_>) -> Result<u64> {
    Ok(tx
        .conn()
        .prepare_cached("SELECT count(*) FROM hitl_requests WHERE state = 'pending'")?
        .query_row([], |r| r.get::<_, i64>(0))?
        .unsigned_abs())
}

/// A person's answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// yes, no, always, or free text.
    pub text: String,
    /// Comment for the agent.
    pub feedback: Option<String>,
    /// Blocks for the agent.
    pub content_blocks: Vec<Block>,
}

/// Settles a pending question; false when it was settled before.
pub fn settle(
    tx: &Tx<'_>,
    id: &HitlId,
    state: PromptState,
    answer: Option<&Answer>,
    now: Timestamp,
) -> Result<bool> {
    let blocks = answer
        .map(|a| serde_json::to_string(&a.content_blocks))
        .transpose()
        .map_err(|e| Error::bad_data("hitl_requests.content_blocks", e.to_string()))?;
    Ok(tx
        .conn()
        .prepare_cached(
            "UPDATE hitl_requests SET state = ?2, answer = ?3, feedback = ?4, content_blocks = ?5, answered_at = ?6
             WHERE request_id = ?1 AND state = 'pending'",
        )?
        .execute(params![
            id.as_str(),
            state.as_str(),
            answer.map(|a| a.text.as_str()),
            answer.and_then(|a| a.feedback.as_deref()),
            blocks,
            now.millis(),
        ])?
        == 1)
}
