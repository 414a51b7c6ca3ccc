//! Writing ends: completed, cancelled, errored. One transaction each, safe to repeat.

use crate::core::{Core, Emitted};
use crate::memory::{Prepared, Touched};
use crate::turn::checkpoint::{Checkpoint, Inner};
use crate::turn::frame::asker;
use crate::turn::kept::{self, Keeper};
use brain::effects::{EffectState, Outcome};
use brain::messages::{self, NewMessage};
use brain::observability::{self, Observation};
use brain::prompts::{self, PromptState};
use brain::snapshots::Step;
use brain::turns::{self, Ending, Turn, TurnError, TurnState};
use brain::{Tx, effects, events, snapshots, tasks};
use contract::conversation::{Block, Role, StopReason, ToolReason};
use contract::event::{BlockType, Completed, Errored, Event, Nested, Resolution};
use contract::{ApiError, CallId, ErrorCode, MessageId, Timestamp};
use serde_json::Value;
use std::sync::Arc;

/// What the model is told about a call that a cancel stopped.
pub const CANCELLED_TEXT: &str = "the turn was cancelled before this call finished";

/// Ends a turn with an answer; true when this call ended it, false when it was over already. A cancel
/// that was acknowledged first wins.
pub async fn complete(
    core: &Arc<Core>,
    turn: &Turn,
    message: Option<MessageId>,
    stop_reason: StopReason,
    output: Option<Value>,
) -> brain::Result<bool> {
    core.end_of_turn(&turn.turn_id).await;
    let (turn, closing) = (turn.clone(), Closing::of(core));
    let ended = core.record("complete turn", move |tx, out| {
        if is_cancelling(tx, &turn)? {
            return cancel(tx, out, &turn, None, &closing);
        }
        let ending = Ending::Completed { message_id: message.clone(), stop_reason, output: output.clone() };
        let last = Event::Completed { phase: Completed::Is, message_id: message, stop_reason, output };
        end(tx, out, &turn, &ending, None, &last, &closing)
    });
    told(core, ended.await?)
}

/// Ends a turn with an error; true when this call ended it. A cancel that was acknowledged first wins.
pub async fn fail(
    core: &Arc<Core>,
    turn: &Turn,
    error: ApiError,
    partial: Option<String>,
) -> brain::Result<bool> {
    core.end_of_turn(&turn.turn_id).await;
    let (turn, closing) = (turn.clone(), Closing::of(core));
    let mut error = error;
    crate::secrets::leaving::error(&core.known, &mut error);
    let ended = core.record("fail turn", move |tx, out| {
        if turns::get(tx, &turn.turn_id)?.is_none_or(|t| t.state.is_terminal()) {
            return Ok(None);
        }
        if is_cancelling(tx, &turn)? {
            return cancel(tx, out, &turn, partial, &closing);
        }
        let durable = open_text(tx, &turn)?;
        close_open_block(tx, out, &turn, true)?;
        if let Some(text) = partial.filter(|t| !t.is_empty()).or(durable) {
            // stays visible, but the next turn goes on from the state before it
            store_text(tx, &turn, text, false)?;
        }
        cancel_prompts(tx, out, &turn)?;
        settle_calls(tx, out, &turn)?;
        let ending = Ending::Errored(TurnError {
            code: error.error,
            message: error.message.clone(),
            details: error.details.clone(),
        });
        let noted = Observation {
            kind: "error",
            code: Some(error.error.as_str().to_owned()),
            task_id: Some(turn.task_id.clone()),
            turn_id: Some(turn.turn_id.clone()),
            message: "a turn errored".into(),
            data: error.details.clone().filter(|d| d.get("kind").is_some()),
            at: Timestamp::now(),
        };
        observability::note(tx, &noted)?;
        let told = Event::Error {
            error: error.error,
            message: error.message.clone(),
            details: error.details.clone(),
        };
        let last = Event::Errored { phase: Errored::Is, error: error.error };
        end(tx, out, &turn, &ending, Some(&told), &last, &closing)
    });
    told(core, ended.await?)
}

/// Ends a cancelled turn: stops its open block, settles its calls and prompts, keeps the partial text.
/// Safe to call twice and for a turn that another path has ended.
pub async fn cancelled(core: &Arc<Core>, turn: &Turn, partial: Option<String>) -> brain::Result<bool> {
    core.end_of_turn(&turn.turn_id).await;
    let (turn, closing) = (turn.clone(), Closing::of(core));
    let ended = core.record("cancel turn", move |tx, out| cancel(tx, out, &turn, partial, &closing));
    told(core, ended.await?)
}

/// What every end needs: how long the turn's events stay, and what is kept of it beyond them.
struct Closing {
    expiry: Timestamp,
    vectors: Prepared,
}

impl Closing {
    fn of(core: &Core) -> Self {
        Self { expiry: core.expiry(Timestamp::now()), vectors: core.memory.prepared_at_once() }
    }
}

/// Lets searches see what was kept of a turn; true when it was ended by this call.
fn told(core: &Core, ended: Option<Touched>) -> brain::Result<bool> {
    let is_ended = ended.is_some();
    if let Some(touched) = ended {
        core.memory.changed(touched);
    }
    Ok(is_ended)
}

fn is_cancelling(tx: &Tx<'_>, turn: &Turn) -> brain::Result<bool> {
    Ok(turns::get(tx, &turn.turn_id)?.is_some_and(|t| t.state == TurnState::Cancelling))
}

fn cancel(
    tx: &Tx<'_>,
    out: &mut Emitted,
    turn: &Turn,
    partial: Option<String>,
    closing: &Closing,
) -> brain::Result<Option<Touched>> {
    if turns::get(tx, &turn.turn_id)?.is_none_or(|t| t.state.is_terminal()) {
        return Ok(None);
    }
    let durable = open_text(tx, turn)?;
    close_open_block(tx, out, turn, false)?;
    cancel_prompts(tx, out, turn)?;
    settle_calls(tx, out, turn)?;
    let text = partial.filter(|t| !t.is_empty()).or(durable);
    let message = match text {
        Some(text) => Some(store_text(tx, turn, text, true)?),
        None => messages::last_of_turn(tx, &turn.turn_id, Role::Assistant)?.map(|m| m.message_id),
    };
    let ending =
        Ending::Completed { message_id: message.clone(), stop_reason: StopReason::Cancelled, output: None };
    let last = Event::Completed {
        phase: Completed::Is,
        message_id: message,
        stop_reason: StopReason::Cancelled,
        output: None,
    };
    end(tx, out, turn, &ending, None, &last, closing)
}

fn end(
    tx: &Tx<'_>,
    out: &mut Emitted,
    turn: &Turn,
    ending: &Ending,
    before: Option<&Event>,
    last: &Event,
    closing: &Closing,
) -> brain::Result<Option<Touched>> {
    // the row knows more than the copy that was read when the turn began
    let Some(turn) = turns::get(tx, &turn.turn_id)?.filter(|t| !t.state.is_terminal()) else {
        return Ok(None);
    };
    if let Some(event) = before {
        out.emit(tx, &turn.task_id, &turn.turn_id, event, None)?;
    }
    let seq = out.emit(tx, &turn.task_id, &turn.turn_id, last, None)?;
    let now = Timestamp::now();
    turns::finish(tx, &turn.turn_id, ending, seq, now)?;
    out.ends(&turn.turn_id);
    snapshots::close(tx, &turn.turn_id, closing.expiry)?;
    tasks::touch(tx, &turn.task_id, now)?;
    let mut touched = Touched::default();
    if kept::supersedes(&turn) {
        // a turn that was cancelled before it had a slot has replaced something, too
        touched = kept::forget_superseded(tx, &turn, now)?;
    }
    let keeper = Keeper { known: out.known(), vectors: &closing.vectors };
    Ok(Some(touched.and(kept::of_ended(tx, &keeper, &turn, ending, now)?)))
}

/// Stores an assistant message that is only text.
fn store_text(tx: &Tx<'_>, turn: &Turn, text: String, active: bool) -> brain::Result<MessageId> {
    let id = MessageId::generate();
    let content = vec![Block::text(text)];
    messages::append(
        tx,
        &NewMessage {
            message_id: id.clone(),
            task_id: turn.task_id.clone(),
            turn_id: turn.turn_id.clone(),
            role: Role::Assistant,
            token_estimate: crate::turn::context::estimate_blocks(&content),
            content,
            active,
            agent: Some(turn.agent.clone()),
            parent: None,
            at: Timestamp::now(),
        },
    )?;
    Ok(id)
}

/// A block that was started and not stopped, as the event log tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenBlock {
    /// Its index.
    pub index: u32,
    /// Its type.
    pub kind: BlockType,
}

/// What the event log tells about the model call under way.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CallSoFar {
    /// Text of the blocks that count.
    pub text: String,
    /// The block that is still open.
    pub open: Option<OpenBlock>,
    /// The next free `block_index`.
    pub next_block: u32,
}

/// Reads what was streamed of a turn after `after_seq`.
pub fn call_so_far(tx: &Tx<'_>, turn: &Turn, after_seq: i64) -> brain::Result<CallSoFar> {
    let mut so_far = CallSoFar::default();
    let mut cursor = after_seq;
    loop {
        // 1,000 at a time: a call streams at most fifty events a second
        let batch = events::of_turn(tx, &turn.turn_id, cursor, 1000)?;
        let Some(last) = batch.last() else { return Ok(so_far) };
        cursor = last.seq;
        for event in &batch {
            let data: Value = serde_json::from_str(&event.data)
                .map_err(|_| brain::Error::bad_data("events.data", event.seq.to_string()))?;
            let index = u32::try_from(data["block_index"].as_u64().unwrap_or(0)).unwrap_or(u32::MAX);
            match event.event.as_str() {
                "content_block_start" => {
                    let kind = match data["block_type"].as_str() {
                        Some("thinking") => BlockType::Thinking,
                        Some("tool_use") => BlockType::ToolUse,
                        _ => BlockType::Text,
                    };
                    so_far.open = Some(OpenBlock { index, kind });
                    so_far.next_block = so_far.next_block.max(index + 1);
                }
                "content_block_stop" => so_far.open = None,
                "text_delta" => so_far.text.push_str(data["text"].as_str().unwrap_or_default()),
                _ => {}
            }
        }
    }
}

/// The checkpoint of a turn. One that cannot be read must not keep its turn from ending: then there is
/// nothing open to close.
fn checkpoint_of(tx: &Tx<'_>, turn: &Turn) -> brain::Result<Option<(Step, Checkpoint)>> {
    let snapshot = match snapshots::get(tx, &turn.turn_id) {
        Ok(Some(snapshot)) => snapshot,
        Ok(None) => return Ok(None),
        Err(brain::Error::BadData { what }) => {
            tracing::error!(task_id = %turn.task_id, code = "INTERNAL", what, "A checkpoint cannot be read");
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    Ok(Checkpoint::read(snapshot.state).ok().map(|checkpoint| (snapshot.step, checkpoint)))
}

/// Text of the answer under way that is durable but not yet a message.
fn open_text(tx: &Tx<'_>, turn: &Turn) -> brain::Result<Option<String>> {
    let Some((step, checkpoint)) = checkpoint_of(tx, turn)? else { return Ok(None) };
    if step != Step::Model {
        return Ok(None);
    }
    let so_far = call_so_far(tx, turn, checkpoint.call_after_seq)?;
    let text = checkpoint.carried + &so_far.text;
    Ok((!text.is_empty()).then_some(text))
}

/// Stops the block the log says is open.
fn close_open_block(tx: &Tx<'_>, out: &mut Emitted, turn: &Turn, discarded: bool) -> brain::Result<()> {
    let Some((_, checkpoint)) = checkpoint_of(tx, turn)? else { return Ok(()) };
    let so_far = call_so_far(tx, turn, checkpoint.call_after_seq)?;
    if let Some(open) = so_far.open {
        let stop = Event::BlockStop { block_index: open.index, block_type: open.kind, discarded };
        out.emit(tx, &turn.task_id, &turn.turn_id, &stop, None)?;
    }
    Ok(())
}

fn cancel_prompts(tx: &Tx<'_>, out: &mut Emitted, turn: &Turn) -> brain::Result<()> {
    for prompt in prompts::of_turn(tx, &turn.turn_id)? {
        if prompt.state == PromptState::Pending
            && prompts::settle(tx, &prompt.request_id, PromptState::Cancelled, None, Timestamp::now())?
        {
            let asker = asker(&prompt);
            let event = Event::HitlResolved {
                request_id: prompt.request_id,
                kind: prompt.kind,
                resolution: Resolution::Cancelled,
                answer: None,
            };
            out.emit(tx, &turn.task_id, &turn.turn_id, &event, asker.as_ref())?;
        }
    }
    Ok(())
}

/// Gives every call under way an outcome and stores the tool messages, so that no later context has a call without
/// its result. The loops furthest down come first: a call ends before the call whose loop it belongs to.
fn settle_calls(tx: &Tx<'_>, out: &mut Emitted, turn: &Turn) -> brain::Result<()> {
    let Some((Step::Tools, checkpoint)) = checkpoint_of(tx, turn)? else { return Ok(()) };
    let mut inner: Vec<(&CallId, &Inner)> =
        checkpoint.nested.iter().filter(|(_, inner)| inner.step == Step::Tools).collect();
    inner.sort_by_key(|(_, inner)| std::cmp::Reverse(inner.depth));
    for (call, inner) in inner {
        let nested = Nested { agent: inner.agent.clone(), parent_tool_call_id: call.clone() };
        settle_calls_of(tx, out, turn, inner.state.assistant.as_ref(), Some(&nested))?;
    }
    settle_calls_of(tx, out, turn, checkpoint.assistant.as_ref(), None)
}

/// The same for the calls of one assistant message.
fn settle_calls_of(
    tx: &Tx<'_>,
    out: &mut Emitted,
    turn: &Turn,
    message_id: Option<&MessageId>,
    nested: Option<&Nested>,
) -> brain::Result<()> {
    let Some(message_id) = message_id else { return Ok(()) };
    let Some(message) = messages::get(tx, &turn.task_id, message_id)? else { return Ok(()) };
    let parent = nested.map(|n| n.parent_tool_call_id.clone());
    let now = Timestamp::now();
    for (position, block) in message.content.iter().enumerate() {
        let Block::ToolUse { id, name, input, .. } = block else { continue };
        let call = CallId::parse(id).map_err(|_| brain::Error::bad_data("tool_use.id", id))?;
        let present = effects::get(tx, &call)?;
        if let Some(effect) = present.as_ref().filter(|e| e.state != EffectState::Intent) {
            // its hooks were still running
            if effects::tell(tx, &call, &effect.output)? {
                let told = crate::tools::dispatch::result_of(effect, effect.output.clone());
                out.emit(tx, &turn.task_id, &turn.turn_id, &told, nested)?;
            }
            continue;
        }
        if present.is_none() {
            effects::intend(
                tx,
                &effects::Intent {
                    call_id: call.clone(),
                    turn_id: turn.turn_id.clone(),
                    task_id: turn.task_id.clone(),
                    parent: parent.clone(),
                    block_position: u32::try_from(position).unwrap_or(u32::MAX),
                    tool: name.clone(),
                    input: input.clone(),
                    effect_class: "once",
                    permission: None,
                    rule: None,
                    at: now,
                },
            )?;
        }
        let outcome = Outcome {
            state: EffectState::Cancelled,
            output: Value::Null,
            media: Vec::new(),
            blob: None,
            reason: Some(ToolReason::Cancelled),
            error: Some(CANCELLED_TEXT.into()),
            at: now,
        };
        effects::settle(tx, &call, &outcome)?;
        let event = Event::ToolResult {
            tool: name.clone(),
            tool_call_id: call,
            output: Value::Null,
            error: Some(CANCELLED_TEXT.into()),
            reason: Some(ToolReason::Cancelled),
            duration_ms: present.map_or(0, |e| (now.millis() - e.started_at.millis()).unsigned_abs()),
            truncated: false,
            blob: None,
        };
        out.emit(tx, &turn.task_id, &turn.turn_id, &event, nested)?;
    }
    store_results(tx, turn, parent, &message)?;
    Ok(())
}

/// Stores the tool message of an assistant message whose calls all have an outcome, in call order.
pub fn store_results(
    tx: &Tx<'_>,
    turn: &Turn,
    parent: Option<CallId>,
    assistant: &messages::Message,
) -> brain::Result<i64> {
    let mut content = Vec::new();
    for block in &assistant.content {
        let Block::ToolUse { id, .. } = block else { continue };
        let call = CallId::parse(id).map_err(|_| brain::Error::bad_data("tool_use.id", id))?;
        content.push(crate::tools::result::block(id, effects::get(tx, &call)?.as_ref()));
    }
    let id = MessageId::generate();
    messages::append(
        tx,
        &NewMessage {
            message_id: id,
            task_id: turn.task_id.clone(),
            turn_id: turn.turn_id.clone(),
            role: Role::Tool,
            token_estimate: crate::turn::context::estimate_blocks(&content),
            content,
            active: true,
            agent: None,
            parent,
            at: Timestamp::now(),
        },
    )
}

/// The error of a turn that met a bug.
pub fn bug(message: &str) -> ApiError {
    ApiError::new(ErrorCode::Internal, message.to_owned())
}
