//! One guarded path for every tool call: resolve, validate, ask the rules, journal, run, journal, report.
//!
//! Calls of one model message run in parallel up to a limit; results keep the order of the calls in the
//! context. A call that needs a person waits without holding up the others; when nothing else can proceed
//! the turn is paused. After a restart the same code goes on: the journal says which calls have an outcome.

use crate::catalog::Agent;
use crate::core::{Core, Emitted};
use crate::permissions::{self, Grants, PermissionContext, Verdict};
use crate::tools::own;
use crate::tools::result::IN_DOUBT_TEXT;
use crate::tools::tool::{CallContext, Effect, Failure, Media, Output, Tool};
use crate::turn::checkpoint::Checkpoint;
use crate::turn::coordinator::Control;
use brain::effects::{self, EffectState, Intent, Outcome, Permission};
use brain::observability::{self, Observation};
use brain::prompts::{self, Prompt, PromptState};
use brain::turns::{self, Change, Turn, TurnState};
use brain::{Tx, blobs, messages, working_memory};
use contract::conversation::{Block, Source, ToolReason};
use contract::event::{Event, HitlKind, MemoryOp};
use contract::{CallId, HitlId, Timestamp};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Calls of one model message that are run; the rest is answered `too_large`. More would let one message
/// fill the journal and the context.
pub const MAX_CALLS: usize = 64;
/// The same call with the same result this often in one turn is not run again.
pub const MAX_REPEATS: usize = 5;
/// Pending questions of one turn.
pub const MAX_PENDING: usize = 64;
/// Bytes of a value in a working_memory_update event.
const MEMORY_EVENT_BYTES: usize = 4096;
/// How long calls get to stop after a cancel; the turn must end within one second.
const CANCEL_GRACE: Duration = Duration::from_millis(700);

/// How the tool step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToolsEnd {
    /// Every call has an outcome.
    Settled,
    /// The turn is paused: every unfinished call waits for a person.
    Paused,
    /// A cancel came in.
    Cancelled,
    /// The process is about to stop.
    Halted,
}

/// One call of the model's message.
#[derive(Debug, Clone)]
struct Call {
    position: usize,
    id: CallId,
    tool: String,
    input: Value,
}

/// Where a call stands after an attempt.
enum Attempt {
    Settled,
    Waiting,
}

/// Runs the calls of the turn's last assistant message.
pub async fn run(
    core: &Arc<Core>,
    turn: &Turn,
    agent: &Agent,
    checkpoint: &Checkpoint,
    control: &Arc<Control>,
) -> brain::Result<ToolsEnd> {
    let Some(message) = checkpoint.assistant.clone() else { return Ok(ToolsEnd::Settled) };
    let (task, id) = (turn.task_id.clone(), turn.turn_id.clone());
    let (message, settled) = core
        .brain
        .read("read calls", move |tx| {
            let message = messages::get(tx, &task, &message)?;
            let journal = effects::of_turn(tx, &id)?;
            let settled: HashSet<CallId> =
                journal.into_iter().filter(|e| e.state != EffectState::Intent).map(|e| e.call_id).collect();
            Ok((message, settled))
        })
        .await?;
    let blocks = message.map(|m| m.content).unwrap_or_default();
    let mut ready: Vec<Call> = calls_of(&blocks).into_iter().filter(|c| !settled.contains(&c.id)).collect();
    ready.reverse();
    let limit = core.config.claude_code_max_tool_use_concurrency;
    let mut waiting: Vec<Call> = Vec::new();
    let mut running = FuturesUnordered::new();
    loop {
        while running.len() < limit
            && let Some(call) = ready.pop()
        {
            running.push(async move { (attempt(core, turn, agent, &call, control).await, call) });
        }
        if running.is_empty() {
            if waiting.is_empty() {
                return Ok(ToolsEnd::Settled);
            }
            if pause(core, turn, waiting.iter().map(|c| c.id.clone()).collect()).await? {
                return Ok(ToolsEnd::Paused);
            }
            ready.append(&mut waiting);
            continue;
        }
        tokio::select! {
            biased;
            () = control.cancel.cancelled() => {
                let stop = async { while running.next().await.is_some() {} };
                let _ = tokio::time::timeout(CANCEL_GRACE, stop).await;
                return Ok(ToolsEnd::Cancelled);
            }
            () = core.halt.cancelled() => return Ok(ToolsEnd::Halted),
            Some((result, call)) = running.next() => {
                if let Attempt::Waiting = result? {
                    waiting.push(call);
                }
            }
            () = control.answered.notified(), if !waiting.is_empty() => ready.append(&mut waiting),
        }
    }
}

fn calls_of(blocks: &[Block]) -> Vec<Call> {
    blocks
        .iter()
        .filter_map(|b| match b {
            Block::ToolUse { id, name, input, .. } => Some((CallId::parse(id).ok()?, name, input)),
            _ => None,
        })
        .enumerate()
        .map(|(position, (id, tool, input))| Call { position, id, tool: tool.clone(), input: input.clone() })
        .collect()
}

/// Pauses the turn if every waiting call still waits; false when an answer has come in meanwhile.
async fn pause(core: &Arc<Core>, turn: &Turn, waiting: Vec<CallId>) -> brain::Result<bool> {
    let id = turn.turn_id.clone();
    let expiry = core.hitl_expiry(Timestamp::now());
    let paused = core
        .record("pause turn", move |tx, _| {
            let pending = prompts::of_turn(tx, &id)?
                .into_iter()
                .filter(|p| p.state == PromptState::Pending && waiting.contains(&p.call_id))
                .count();
            if pending < waiting.len() {
                return Ok(false);
            }
            let change =
                turns::set_state(tx, &id, &[TurnState::Running], TurnState::Paused, Timestamp::now())?;
            brain::snapshots::set_expiry(tx, &id, expiry)?;
            Ok(change == Change::Changed)
        })
        .await?;
    if paused {
        crate::turn::answers::refresh_expiry(core).await;
    }
    Ok(paused)
}

async fn attempt(
    core: &Arc<Core>,
    turn: &Turn,
    agent: &Agent,
    call: &Call,
    control: &Arc<Control>,
) -> brain::Result<Attempt> {
    let Standing { effect, prompt, remembered, repeats } = standing(core, turn, call).await?;
    let tool = core.tools.get(&call.tool).filter(|t| agent.allows(t.name())).cloned();
    let class = tool.as_ref().map_or(Effect::Once, |t| t.effect(&call.input));
    if let Some(effect) = &effect {
        match effect.state {
            EffectState::Intent if effect.effect_class == Effect::Once.as_str() => {
                let failure = Failure::new(ToolReason::InDoubt, IN_DOUBT_TEXT);
                note(
                    core,
                    turn,
                    "in_doubt_effect",
                    format!("the outcome of a {} call is in doubt", call.tool),
                )
                .await;
                settle(core, turn, call, EffectState::InDoubt, Err(failure), Duration::ZERO, None).await?;
                return Ok(Attempt::Settled);
            }
            EffectState::Intent => {}
            EffectState::Done | EffectState::Failed | EffectState::InDoubt | EffectState::Cancelled => {
                return Ok(Attempt::Settled);
            }
        }
    }
    let refuse = |reason: ToolReason, text: String| refuse(core, turn, call, class, reason, text, None, None);
    if call.position >= MAX_CALLS {
        return refuse(ToolReason::TooLarge, format!("at most {MAX_CALLS} calls of one message are run"))
            .await;
    }
    let Some(tool) = tool else {
        return refuse(ToolReason::NotFound, format!("there is no tool `{}` for this agent", call.tool))
            .await;
    };
    if !call.input.is_object() {
        return refuse(ToolReason::InvalidInput, "the input is not a JSON object".into()).await;
    }
    let complaints = core.tools.complaints(&call.tool, &call.input);
    if !complaints.is_empty() {
        let text = format!("the input does not fit the tool's schema: {}", complaints.join("; "));
        return refuse(ToolReason::InvalidInput, text).await;
    }
    if repeats >= MAX_REPEATS {
        return refuse(
            ToolReason::RepeatedCall,
            format!("this call gave the same result {repeats} times in this turn; it is not run again. Do something else."),
        )
        .await;
    }
    if call.tool == own::ASK_USER {
        return ask_user(core, turn, call, prompt).await;
    }
    if call.tool == own::WORKING_MEMORY_WRITE {
        return write_memory(core, turn, call).await;
    }
    let workspace = match core.make_scratch(turn).and_then(|dir| core.workspace.for_task(&dir)) {
        Ok(workspace) => Arc::new(workspace),
        Err(error) => {
            return refuse(
                ToolReason::Unavailable,
                format!("the task's private directory cannot be made: {error}"),
            )
            .await;
        }
    };
    let verdict = {
        let context = PermissionContext { workspace: &workspace, remembered: &remembered };
        permissions::check(&*tool, &call.input, &context)
    };
    let (grants, permission, rule) = match verdict {
        Verdict::Allow { grants } if grants.is_empty() => (grants, Permission::Allow, None),
        Verdict::Allow { grants } => (grants, Permission::Remembered, None),
        Verdict::Deny { reason } => {
            note(core, turn, "permission_denied", format!("a {} call was denied by rule", call.tool)).await;
            metrics::counter!("engine_permission_denied_total").increment(1);
            return self::refuse(
                core,
                turn,
                call,
                class,
                ToolReason::PermissionDenied,
                reason,
                Some(Permission::Denied),
                None,
            )
            .await;
        }
        Verdict::Prompt(question) => match prompt {
            None => return ask_permission(core, turn, call, question).await,
            Some(prompt) => match said_yes(&prompt) {
                None => return Ok(Attempt::Waiting),
                // a path may resolve to something else by now; the yes was for what the person saw
                Some(true) if prompt.details["rule"].as_str() != Some(question.rule.as_str()) => {
                    let text = "what this call would touch has changed since the person said yes".to_owned();
                    return self::refuse(
                        core,
                        turn,
                        call,
                        class,
                        ToolReason::PermissionDenied,
                        text,
                        Some(Permission::Denied),
                        Some(question.rule),
                    )
                    .await;
                }
                Some(true) => (question.grants, Permission::PromptYes, Some(question.rule)),
                Some(false) => {
                    note(
                        core,
                        turn,
                        "permission_denied",
                        format!("a {} call was refused by a person", call.tool),
                    )
                    .await;
                    metrics::counter!("engine_permission_denied_total").increment(1);
                    let text = refusal_text(&prompt);
                    return self::refuse(
                        core,
                        turn,
                        call,
                        class,
                        ToolReason::PermissionDenied,
                        text,
                        Some(Permission::PromptNo),
                        Some(question.rule),
                    )
                    .await;
                }
            },
        },
    };
    perform(core, turn, call, tool, class, grants, permission, rule, workspace, control).await
}

struct Standing {
    effect: Option<effects::Effect>,
    prompt: Option<Prompt>,
    remembered: HashSet<String>,
    repeats: usize,
}

async fn standing(core: &Arc<Core>, turn: &Turn, call: &Call) -> brain::Result<Standing> {
    let (turn, call) = (turn.clone(), call.clone());
    core.brain
        .read("read standing of a call", move |tx| {
            let journal = effects::of_turn(tx, &turn.turn_id)?;
            let same: Vec<&effects::Effect> = journal
                .iter()
                .filter(|e| e.call_id != call.id && e.tool == call.tool && e.input == call.input)
                .collect();
            let repeats = same.last().map_or(0, |last| {
                same.iter().rev().take_while(|e| e.output == last.output && e.error == last.error).count()
            });
            let effect = journal.iter().find(|e| e.call_id == call.id).cloned();
            let prompt = prompts::of_turn(tx, &turn.turn_id)?.into_iter().find(|p| p.call_id == call.id);
            let remembered = brain::permissions::rules_of(tx, &turn.task_id)?;
            Ok(Standing { effect, prompt, remembered, repeats })
        })
        .await
}

/// What a settled permission question says; `None` while it is pending.
fn said_yes(prompt: &Prompt) -> Option<bool> {
    match prompt.state {
        PromptState::Pending => None,
        PromptState::Answered => Some(matches!(prompt.answer.as_deref(), Some("yes" | "always"))),
        PromptState::Expired | PromptState::Cancelled => Some(false),
    }
}

fn refusal_text(prompt: &Prompt) -> String {
    match (prompt.state, &prompt.feedback) {
        (PromptState::Expired, _) => {
            "nobody answered the permission question in time, which counts as no".into()
        }
        (_, Some(feedback)) => format!("the person refused this call and said: {feedback}"),
        (_, None) => "the person refused this call".into(),
    }
}

async fn ask_permission(
    core: &Arc<Core>,
    turn: &Turn,
    call: &Call,
    question: permissions::Prompt,
) -> brain::Result<Attempt> {
    let details = json!({
        "tool": call.tool,
        "input": call.input,
        "reason": question.reason,
        "rule": question.rule,
    });
    ask(core, turn, call, HitlKind::Permission, question.question, question.options, details).await
}

/// Asks once per call, whatever happens in between.
async fn ask(
    core: &Arc<Core>,
    turn: &Turn,
    call: &Call,
    kind: HitlKind,
    question: String,
    options: Vec<String>,
    details: Value,
) -> brain::Result<Attempt> {
    let now = Timestamp::now();
    let prompt = Prompt {
        request_id: HitlId::generate(),
        task_id: turn.task_id.clone(),
        turn_id: turn.turn_id.clone(),
        call_id: call.id.clone(),
        kind,
        question,
        options,
        details,
        state: PromptState::Pending,
        answer: None,
        feedback: None,
        content_blocks: Vec::new(),
        created_at: now,
        expires_at: core.hitl_expiry(now),
    };
    let asked = core
        .record("ask a person", move |tx, out| {
            let pending = prompts::of_turn(tx, &prompt.turn_id)?;
            if pending.iter().filter(|p| p.state == PromptState::Pending).count() >= MAX_PENDING {
                return Ok(false);
            }
            if prompts::ask(tx, &prompt)? {
                let permission = kind == HitlKind::Permission;
                let text = |key: &str| prompt.details[key].as_str().map(str::to_owned);
                let event = Event::HitlRequest {
                    request_id: prompt.request_id,
                    kind,
                    question: prompt.question,
                    options: prompt.options,
                    created_at: prompt.created_at,
                    expires_at: prompt.expires_at,
                    tool_call_id: prompt.call_id,
                    tool: text("tool"),
                    input: permission.then(|| prompt.details["input"].clone()),
                    reason: text("reason"),
                    rule: text("rule"),
                };
                out.emit(tx, &prompt.task_id, &prompt.turn_id, &event, None)?;
            }
            Ok(true)
        })
        .await?;
    if asked {
        crate::turn::answers::refresh_expiry(core).await;
        return Ok(Attempt::Waiting);
    }
    let text = format!("{MAX_PENDING} questions of this turn wait already");
    refuse(core, turn, call, Effect::Idempotent, ToolReason::TooLarge, text, None, None).await
}

async fn ask_user(
    core: &Arc<Core>,
    turn: &Turn,
    call: &Call,
    prompt: Option<Prompt>,
) -> brain::Result<Attempt> {
    let Some(prompt) = prompt else {
        let question = call.input["question"].as_str().unwrap_or_default().to_owned();
        let options = call.input["options"]
            .as_array()
            .map(|a| a.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect())
            .unwrap_or_default();
        return ask(core, turn, call, HitlKind::Question, question, options, json!({})).await;
    };
    let outcome = match prompt.state {
        PromptState::Pending => return Ok(Attempt::Waiting),
        PromptState::Answered => {
            Ok(Output::json(json!({"answer": prompt.answer, "feedback": prompt.feedback})))
        }
        PromptState::Expired => Err(Failure::new(ToolReason::Expired, "nobody answered in time")),
        PromptState::Cancelled => Err(Failure::cancelled()),
    };
    intend(core, turn, call, Effect::Idempotent, None, None).await?;
    let state = if outcome.is_ok() { EffectState::Done } else { EffectState::Failed };
    settle(core, turn, call, state, outcome, Duration::ZERO, Some(prompt.content_blocks)).await?;
    Ok(Attempt::Settled)
}

async fn write_memory(core: &Arc<Core>, turn: &Turn, call: &Call) -> brain::Result<Attempt> {
    let key = call.input["key"].as_str().unwrap_or_default().to_owned();
    let value = call.input.get("value").filter(|v| !v.is_null()).cloned();
    if value.as_ref().is_some_and(|v| v.to_string().len() > own::VALUE_BYTES) {
        let text = format!("a value may have {} bytes", own::VALUE_BYTES);
        return refuse(core, turn, call, Effect::Idempotent, ToolReason::TooLarge, text, None, None).await;
    }
    let life = call.input["ttl_s"]
        .as_i64()
        .map_or_else(|| crate::core::millis(core.config.working_memory_ttl), |s| s.saturating_mul(1000));
    let now = Timestamp::now();
    let expires_at = now.plus_millis(life);
    let intent = intent_of(turn, call, Effect::Idempotent, Some(Permission::Allow), None);
    let (turn, call) = (turn.clone(), call.clone());
    let tool = call.tool.clone();
    core.record("write working memory", move |tx, out| {
        effects::intend(tx, &intent)?;
        working_memory::write(tx, &turn.task_id, &turn.turn_id, &key, value.as_ref(), now, expires_at)?;
        let op = if value.is_some() { MemoryOp::Set } else { MemoryOp::Delete };
        let (shown, truncated) = short_value(value);
        let event = Event::WorkingMemoryUpdate {
            key: key.clone(),
            value: shown,
            op,
            expires_at: (op == MemoryOp::Set).then_some(expires_at),
            truncated,
        };
        out.emit(tx, &turn.task_id, &turn.turn_id, &event, None)?;
        let output = Output::json(json!({"key": key, "op": op}));
        commit_outcome(tx, out, &turn, &call, EffectState::Done, Ok(output), Duration::ZERO, None)
    })
    .await?;
    count(&tool, "ok", Duration::ZERO);
    Ok(Attempt::Settled)
}

fn short_value(value: Option<Value>) -> (Value, bool) {
    let Some(value) = value else { return (Value::Null, false) };
    let text = value.to_string();
    if text.len() <= MEMORY_EVENT_BYTES {
        return (value, false);
    }
    let mut end = MEMORY_EVENT_BYTES;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    (Value::String(text[..end].to_owned()), true)
}

fn intent_of(
    turn: &Turn,
    call: &Call,
    class: Effect,
    permission: Option<Permission>,
    rule: Option<String>,
) -> Intent {
    Intent {
        call_id: call.id.clone(),
        turn_id: turn.turn_id.clone(),
        task_id: turn.task_id.clone(),
        block_position: u32::try_from(call.position).unwrap_or(u32::MAX),
        tool: call.tool.clone(),
        input: call.input.clone(),
        effect_class: class.as_str(),
        permission,
        rule,
        at: Timestamp::now(),
    }
}

async fn intend(
    core: &Arc<Core>,
    turn: &Turn,
    call: &Call,
    class: Effect,
    permission: Option<Permission>,
    rule: Option<String>,
) -> brain::Result<()> {
    let intent = intent_of(turn, call, class, permission, rule);
    core.brain.write("intend effect", move |tx| effects::intend(tx, &intent)).await
}

/// Answers a call without running it; intent and outcome are one transaction.
#[allow(clippy::too_many_arguments, reason = "one refusal, all of its facts")]
async fn refuse(
    core: &Arc<Core>,
    turn: &Turn,
    call: &Call,
    class: Effect,
    reason: ToolReason,
    text: String,
    permission: Option<Permission>,
    rule: Option<String>,
) -> brain::Result<Attempt> {
    let intent = intent_of(turn, call, class, permission, rule);
    let (owned, refused) = (turn.clone(), call.clone());
    core.record("refuse call", move |tx, out| {
        effects::intend(tx, &intent)?;
        let failure = Err(Failure::new(reason, text));
        commit_outcome(tx, out, &owned, &refused, EffectState::Failed, failure, Duration::ZERO, None)
    })
    .await?;
    count(
        if reason == ToolReason::NotFound { "unknown" } else { &call.tool },
        reason.as_str(),
        Duration::ZERO,
    );
    Ok(Attempt::Settled)
}

#[allow(clippy::too_many_arguments, reason = "the one place where a call comes together")]
async fn perform(
    core: &Arc<Core>,
    turn: &Turn,
    call: &Call,
    tool: Arc<dyn Tool>,
    class: Effect,
    grants: Grants,
    permission: Permission,
    rule: Option<String>,
    workspace: Arc<crate::sandbox::Workspace>,
    control: &Arc<Control>,
) -> brain::Result<Attempt> {
    intend(core, turn, call, class, Some(permission), rule).await?;
    let (journal, recorded) = (core.brain.clone(), call.id.clone());
    let context = CallContext {
        task_id: turn.task_id.clone(),
        turn_id: turn.turn_id.clone(),
        call_id: call.id.clone(),
        workspace,
        launcher: Arc::clone(&core.launcher),
        grants,
        cancel: control.cancel.clone(),
        output_max: core.config.tool_output_max_bytes,
        groups: core.groups_of(turn),
        on_spawn: Arc::new(move |pgid| {
            let (journal, call) = (journal.clone(), recorded.clone());
            Box::pin(async move {
                let noted =
                    journal.write("note process group", move |tx| effects::set_pgid(tx, &call, pgid)).await;
                if let Err(error) = noted {
                    tracing::warn!(error = %error, "A process group could not be noted");
                }
            })
        }),
        task_tmp: core.scratch_of(turn),
    };
    let started = Instant::now();
    let outcome = tool.run(context, call.input.clone()).await;
    let took = started.elapsed();
    let state = match &outcome {
        Ok(_) => EffectState::Done,
        Err(failure) if failure.reason == ToolReason::Cancelled => EffectState::Cancelled,
        Err(_) => EffectState::Failed,
    };
    if took > core.config.tool_slow_ms {
        note(core, turn, "slow_tool_call", format!("a {} call took {} ms", call.tool, took.as_millis()))
            .await;
    }
    settle(core, turn, call, state, outcome, took, None).await?;
    Ok(Attempt::Settled)
}

async fn settle(
    core: &Arc<Core>,
    turn: &Turn,
    call: &Call,
    state: EffectState,
    outcome: Result<Output, Failure>,
    took: Duration,
    extra: Option<Vec<Block>>,
) -> brain::Result<()> {
    let word = match &outcome {
        Ok(_) => "ok",
        Err(failure) => failure.reason.as_str(),
    };
    count(&call.tool, word, took);
    let outcome = outcome.map(|o| capped(o, core.config.tool_output_max_bytes));
    let (turn, call) = (turn.clone(), call.clone());
    core.record("settle call", move |tx, out| {
        commit_outcome(tx, out, &turn, &call, state, outcome, took, extra)
    })
    .await
}

/// Head and tail of an output that is above the limit although its tool did not shorten it.
fn capped(output: Output, limit: usize) -> Output {
    if output.full.is_some() {
        return output;
    }
    let text = output.value.to_string();
    // tools shorten their own text; what JSON quoting adds to it is allowed
    if text.len() <= limit * 2 {
        return output;
    }
    match crate::tools::shorten::head_and_tail(&text, limit) {
        Some(short) => {
            Output { value: Value::String(short), media: output.media, full: Some(text.into_bytes()) }
        }
        None => output,
    }
}

fn media_block(tx: &Tx<'_>, media: &Media) -> brain::Result<Block> {
    let sha256 = blobs::put(tx, &media.bytes, &media.media_type, Timestamp::now())?;
    let source =
        Source::Blob { sha256, media_type: media.media_type.clone(), size: media.bytes.len() as u64 };
    let image = media.media_type.starts_with("image/");
    Ok(if image { Block::Image { source } } else { Block::Document { source } })
}

#[allow(clippy::too_many_arguments, reason = "one outcome, all of its facts")]
fn commit_outcome(
    tx: &Tx<'_>,
    out: &mut Emitted,
    turn: &Turn,
    call: &Call,
    state: EffectState,
    outcome: Result<Output, Failure>,
    took: Duration,
    extra: Option<Vec<Block>>,
) -> brain::Result<()> {
    let now = Timestamp::now();
    let mut media = extra.unwrap_or_default();
    let (output, full, reason, error) = match outcome {
        Ok(output) => {
            for item in &output.media {
                media.push(media_block(tx, item)?);
            }
            (output.value, output.full, None, None)
        }
        Err(failure) => {
            (failure.output.unwrap_or(Value::Null), failure.full, Some(failure.reason), Some(failure.text))
        }
    };
    let blob = match full {
        Some(bytes) => Some(blobs::put(tx, &bytes, "text/plain", now)?),
        None => None,
    };
    let recorded = Outcome {
        state,
        output: output.clone(),
        media,
        blob: blob.clone(),
        reason,
        error: error.clone(),
        at: now,
    };
    if effects::settle(tx, &call.id, &recorded)? {
        let event = Event::ToolResult {
            tool: call.tool.clone(),
            tool_call_id: call.id.clone(),
            output,
            error,
            reason,
            duration_ms: took.as_millis() as u64,
            truncated: blob.is_some(),
            blob,
        };
        out.emit(tx, &turn.task_id, &turn.turn_id, &event, None)?;
    }
    Ok(())
}

fn count(tool: &str, outcome: &'static str, took: Duration) {
    metrics::counter!("engine_tool_calls_total", "tool" => tool.to_owned(), "outcome" => outcome)
        .increment(1);
    metrics::histogram!("engine_tool_duration_seconds", "tool" => tool.to_owned()).record(took.as_secs_f64());
}

async fn note(core: &Arc<Core>, turn: &Turn, kind: &'static str, message: String) {
    let observation = Observation {
        kind,
        code: None,
        task_id: Some(turn.task_id.clone()),
        turn_id: Some(turn.turn_id.clone()),
        message,
        data: None,
        at: Timestamp::now(),
    };
    let noted = core.brain.write("note observation", move |tx| observability::note(tx, &observation)).await;
    if let Err(error) = noted {
        tracing::warn!(error = %error, "An observation could not be written");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_above_the_limit_keeps_head_and_tail_and_the_whole_as_a_blob() {
        let long = Output::json(Value::String("a".repeat(100_000)));
        let short = capped(long, 1000);
        assert!(short.full.as_ref().is_some_and(|f| f.len() > 100_000));
        assert!(short.value.as_str().is_some_and(|v| v.len() < 1200 && v.contains("left out")));
        let fine = Output::json(json!({"a": 1}));
        assert_eq!(capped(fine.clone(), 1000), fine);
    }

    #[test]
    fn a_long_memory_value_is_shortened_in_its_event() {
        assert_eq!(short_value(Some(json!({"a": 1}))), (json!({"a": 1}), false));
        let (value, truncated) = short_value(Some(Value::String("ü".repeat(5000))));
        assert!(truncated && value.as_str().is_some_and(|v| v.len() <= MEMORY_EVENT_BYTES));
        assert_eq!(short_value(None), (Value::Null, false));
    }
}
