//! The effect journal: per tool call the intent, committed before it acts, and the outcome after.

use crate::{Error, Result, Tx};
use contract::conversation::ToolReason;
use contract::{CallId, TaskId, Timestamp, TurnId};
use rusqlite::{Row, params};
use serde_json::Value;

/// Column `effects.state`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EffectState {
    /// About to act, or acting.
    Intent,
    /// Acted and succeeded.
    Done,
    /// Acted and failed, or was refused before acting.
    Failed,
    /// The process died while it acted.
    InDoubt,
    /// Stopped by a cancel.
    Cancelled,
}

impl EffectState {
    /// Every state.
    pub const ALL: [EffectState; 5] = [
        EffectState::Intent,
        EffectState::Done,
        EffectState::Failed,
        EffectState::InDoubt,
        EffectState::Cancelled,
    ];

    /// The word in the brain.
    pub const fn as_str(self) -> &'static str {
        match self {
            EffectState::Intent => "intent",
            EffectState::Done => "done",
            EffectState::Failed => "failed",
            EffectState::InDoubt => "in_doubt",
            EffectState::Cancelled => "cancelled",
        }
    }

    /// Reads the word back.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.as_str() == text)
    }
}

/// How a call was allowed or refused; column `effects.permission`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Permission {
    /// The rules allow it.
    Allow,
    /// A remembered answer allows it.
    Remembered,
    /// A person said yes.
    PromptYes,
    /// A person said no, or nobody answered.
    PromptNo,
    /// The rules forbid it.
    Denied,
}

impl Permission {
    /// The word in the brain.
    pub const fn as_str(self) -> &'static str {
        match self {
            Permission::Allow => "allow",
            Permission::Remembered => "remembered",
            Permission::PromptYes => "prompt_yes",
            Permission::PromptNo => "prompt_no",
            Permission::Denied => "denied",
        }
    }
}

/// The intent of one call.
#[derive(Debug, Clone, PartialEq)]
pub struct Intent {
    /// Which call.
    pub call_id: CallId,
    /// Its turn.
    pub turn_id: TurnId,
    /// Its task.
    pub task_id: TaskId,
    /// The call whose nested loop makes it; `None` in the main loop.
    pub parent: Option<CallId>,
    /// Its place in the model's message.
    pub block_position: u32,
    /// Tool name.
    pub tool: String,
    /// Arguments.
    pub input: Value,
    /// `read-only`, `idempotent` or `once`.
    pub effect_class: &'static str,
    /// Why it may run (or may not).
    pub permission: Option<Permission>,
    /// The rule that decided.
    pub rule: Option<String>,
    /// Now.
    pub at: Timestamp,
}

/// The outcome of one call.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Where it ended; never `Intent`.
    pub state: EffectState,
    /// What the model gets (shortened when it was too long).
    pub output: Value,
    /// Extra blocks for the model (images a tool returned), as blob references.
    pub media: Vec<contract::Block>,
    /// SHA-256 of the full output when `output` was shortened.
    pub blob: Option<String>,
    /// Failure word.
    pub reason: Option<ToolReason>,
    /// Failure text.
    pub error: Option<String>,
    /// Now.
    pub at: Timestamp,
}

/// A stored journal row.
#[derive(Debug, Clone, PartialEq)]
pub struct Effect {
    /// Which call.
    pub call_id: CallId,
    /// Its turn, as text.
    pub turn_id: String,
    /// Tool name.
    pub tool: String,
    /// Arguments.
    pub input: Value,
    /// `read-only`, `idempotent` or `once`.
    pub effect_class: String,
    /// Where it stands.
    pub state: EffectState,
    /// What the model gets.
    pub output: Value,
    /// Extra blocks for the model.
    pub media: Vec<contract::Block>,
    /// SHA-256 of the full output.
    pub blob: Option<String>,
    /// Failure word.
    pub reason: Option<ToolReason>,
    /// Failure text.
    pub error: Option<String>,
    /// Process group of its child, when it has one.
    pub pgid: Option<i32>,
    /// When the intent was committed.
    pub started_at: Timestamp,
    /// When the outcome was.
    pub finished_at: Option<Timestamp>,
    /// False between an outcome and its `tool_result` event: the post-tool hooks run in between.
    pub told: bool,
}

const COLUMNS: &str =
    "tool_call_id, turn_id, tool, input_json, effect_class, state, output_json, output_blob,
    reason, error, pgid, started_at, finished_at, told";

fn read(row: &Row<'_>) -> Result<Effect> {
    let id: String = row.get(0)?;
    let state: String = row.get(5)?;
    let input: String = row.get(3)?;
    let output: Option<String> = row.get(6)?;
    let reason: Option<String> = row.get(8)?;
    let (output, media) = match output {
        None => (Value::Null, Vec::new()),
        Some(text) => {
            let mut doc: Value =
                serde_json::from_str(&text).map_err(|_| Error::bad_data("effects.output_json", &id))?;
            let media = serde_json::from_value(doc["media"].take())
                .map_err(|_| Error::bad_data("effects.output_json", &id))?;
            (doc["output"].take(), media)
        }
    };
    Ok(Effect {
        call_id: CallId::parse(&id).map_err(|_| Error::bad_data("effects.tool_call_id", &id))?,
        turn_id: row.get(1)?,
        tool: row.get(2)?,
        input: serde_json::from_str(&input).map_err(|_| Error::bad_data("effects.input_json", &id))?,
        effect_class: row.get(4)?,
        state: EffectState::parse(&state).ok_or_else(|| Error::bad_data("effects.state", &state))?,
        output,
        media,
        blob: row.get(7)?,
        reason: reason
            .map(|r| ToolReason::parse(&r).ok_or_else(|| Error::bad_data("effects.reason", &r)))
            .transpose()?,
        error: row.get(9)?,
        pgid: row.get(10)?,
        started_at: Timestamp::from_millis(row.get(11)?),
        finished_at: row.get::<_, Option<i64>>(12)?.map(Timestamp::from_millis),
        told: row.get(13)?,
    })
}

/// Commits the intent of a call. Doing it again (an idempotent call repeated after a restart) counts one
/// more attempt.
pub fn intend(tx: &Tx<'_>, intent: &Intent) -> Result<()> {
    tx.conn()
        .prepare_cached(
            "INSERT INTO effects (tool_call_id, turn_id, task_id, block_position, tool, input_json, effect_class,
                                  permission, rule, state, started_at, parent_tool_call_id)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, 'intent', ?10, ?11)
             ON CONFLICT (tool_call_id) DO UPDATE SET attempts = attempts + 1, pgid = NULL,
                started_at = excluded.started_at",
        )?
        .execute(params![
            intent.call_id.as_str(),
            intent.turn_id.as_str(),
            intent.task_id.as_str(),
            intent.block_position,
            intent.tool,
            intent.input.to_string(),
            intent.effect_class,
            intent.permission.map(Permission::as_str),
            intent.rule,
            intent.at.millis(),
            intent.parent.as_ref().map_or("", CallId::as_str),
        ])?;
    Ok(())
}

/// Notes the process group of a call's child, so that a later process can end orphans.
pub fn set_pgid(tx: &Tx<'_>, call: &CallId, pgid: i32) -> Result<()> {
    tx.conn()
        .prepare_cached("UPDATE effects SET pgid = ?2 WHERE tool_call_id = ?1")?
        .execute(params![call.as_str(), pgid])?;
    Ok(())
}

/// Commits the outcome of a call that has an intent; false when an outcome was there already.
pub fn settle(tx: &Tx<'_>, call: &CallId, outcome: &Outcome) -> Result<bool> {
    let document = serde_json::json!({"output": outcome.output, "media": outcome.media});
    let changed = tx
        .conn()
        .prepare_cached(
            "UPDATE effects SET state = ?2, output_json = ?3, output_blob = ?4, reason = ?5, error = ?6,
                    finished_at = ?7
             WHERE tool_call_id = ?1 AND state = 'intent'",
        )?
        .execute(params![
            call.as_str(),
            outcome.state.as_str(),
            document.to_string(),
            outcome.blob,
            outcome.reason.map(ToolReason::as_str),
            outcome.error,
            outcome.at.millis(),
        ])?;
    if changed == 1 {
        if let Some(blob) = &outcome.blob {
            crate::blobs::refer(tx, blob, "effects", call.as_str())?;
        }
        crate::blobs::refer_blocks(tx, &outcome.media, "effects", call.as_str())?;
    }
    Ok(changed == 1)
}

/// Notes that the `tool_result` of a settled call is still to come: its post-tool hooks run first.
pub fn keep_untold(tx: &Tx<'_>, call: &CallId) -> Result<()> {
    tx.conn()
        .prepare_cached("UPDATE effects SET told = 0 WHERE tool_call_id = ?1 AND state <> 'intent'")?
        .execute([call.as_str()])?;
    Ok(())
}

/// Notes that the `tool_result` of a settled call is out, with the output it tells; false when it was before.
pub fn tell(tx: &Tx<'_>, call: &CallId, output: &Value) -> Result<bool> {
    let changed = tx
        .conn()
        .prepare_cached(
            "UPDATE effects SET told = 1, output_json = json_set(output_json, '$.output', json(?2))
             WHERE tool_call_id = ?1 AND told = 0",
        )?
        .execute(params![call.as_str(), output.to_string()])?;
    Ok(changed == 1)
}

/// The journal rows of a turn, in call order.
pub fn of_turn(tx: &Tx<'_>, turn: &TurnId) -> Result<Vec<Effect>> {
    let sql = format!("SELECT {COLUMNS} FROM effects WHERE turn_id = ?1 ORDER BY started_at, block_position");
    let mut statement = tx.conn().prepare_cached(&sql)?;
    let mut rows = statement.query([turn.as_str()])?;
    let mut out = Vec::new();
    while let Some(row) = rows.next()? {
        out.push(read(row)?);
    }
    Ok(out)
}

/// The calls of a turn that have an outcome which the stream has told.
pub fn settled_of(tx: &Tx<'_>, turn: &TurnId) -> Result<Vec<CallId>> {
    let mut statement = tx.conn().prepare_cached(
        "SELECT tool_call_id FROM effects WHERE turn_id = ?1 AND state <> 'intent' AND told = 1",
    )?;
    let rows = statement.query_map([turn.as_str()], |r| r.get::<_, String>(0))?;
    rows.map(|id| {
        let id = id?;
        CallId::parse(&id).map_err(|_| Error::bad_data("effects.tool_call_id", &id))
    })
    .collect()
}

/// Calls looked at to tell whether a turn goes in circles; one more than the limit of the specification.
const REPEATS_READ: u32 = 6;

/// How often, counted back from the newest, the same call of a turn had the same outcome. Calls that were
/// refused for repeating do not count.
pub fn repeats(tx: &Tx<'_>, turn: &TurnId, but: &CallId, tool: &str, input: &Value) -> Result<usize> {
    let mut statement = tx.conn().prepare_cached(
        "SELECT coalesce(output_json, ''), coalesce(error, '') FROM effects
         WHERE turn_id = ?1 AND tool_call_id <> ?2 AND tool = ?3 AND input_json = ?4
           AND state <> 'intent' AND reason IS NOT 'repeated_call'
         ORDER BY started_at DESC, block_position DESC LIMIT ?5",
    )?;
    let rows = statement
        .query_map(params![turn.as_str(), but.as_str(), tool, input.to_string(), REPEATS_READ], |r| {
            Ok((r.get::<_, String>(0)?, r.get::<_, String>(1)?))
        })?
        .collect::<rusqlite::Result<Vec<_>>>()?;
    Ok(rows.first().map_or(0, |newest| rows.iter().take_while(|r| *r == newest).count()))
}

/// The journal row of one call.
pub fn get(tx: &Tx<'_>, call: &CallId) -> Result<Option<Effect>> {
    let sql = format!("SELECT {COLUMNS} FROM effects WHERE tool_call_id = ?1");
    let mut statement = tx.conn().prepare_cached(&sql)?;
    let mut rows = statement.query([call.as_str()])?;
    rows.next()?.map(read).transpose()
}

/// Calls that were acting when the process died, with their process groups.
pub fn unfinished(tx: &Tx<'_>) -> Result<Vec<Effect>> {
    let sql = format!("SELECT {COLUMNS} FROM effects WHERE state = 'intent' ORDER BY started_at");
    let mut statement = tx.conn().prepare_cached(&sql)?;
    let mut rows = statement.query([])?;
    let mut out = Vec::new();
    while let Some(row) = rows.next()? {
        out.push(read(row)?);
    }
    Ok(out)
}
