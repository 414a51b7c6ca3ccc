//! One guarded path for every tool call: resolve, validate, ask the rules, journal, run, journal, report.
//!
//! Calls of one model message run in parallel up to a limit; results keep the order of the calls in the
//! context. A call that needs a person waits without holding up the others; when nothing else can proceed
//! the turn is paused. After a restart the same code goes on: the journal says which calls have an outcome.

pub mod alone;
mod decide;
mod documents;
mod ask;
mod going_out;
mod hooked;
mod long_term;
mod memory;
mod model;
mod outcome;
mod perform;
mod planning;

use crate::core::Core;
use crate::permissions::{self, PermissionContext, Remembered};
use crate::sandbox::Workspace;
use crate::tools::own;
use crate::tools::result::IN_DOUBT_TEXT;
use crate::tools::tool::{Effect, Failure, Output, Tool};
use crate::tools::toolbox::Toolbox;
use crate::turn::checkpoint::Checkpoint;
use crate::turn::coordinator::Control;
use crate::turn::frame::{Frame, Seat};
use crate::turn::hooks::Passed;
use brain::effects::{self, EffectState, Intent, Permission};
use brain::messages;
use brain::observability::{self, Observation};
use brain::prompts::{self, Prompt, PromptState};
use brain::turns::{self, Turn, TurnState};
use contract::conversation::{Block, ToolReason};
use contract::event::Nested;
use contract::{CallId, Timestamp};
use decide::{Decision, Facts, Refusal};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use hooked::HooksSaid;
pub use hooked::result_of;
use outcome::{End, Told};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

/// Calls of one model message that are run; the rest is answered `too_large`. More would let one message
/// fill the journal and the context.
pub const MAX_CALLS: usize = 64;
/// The same call with the same result this often in one turn is not run again.
pub const MAX_REPEATS: usize = 5;
/// Pending questions of one turn.
pub const MAX_PENDING: usize = 64;
/// How long calls get to stop after a cancel; the turn must end within one second.
const CANCEL_GRACE: Duration = Duration::from_millis(700);

/// How the tool step of a loop ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToolsEnd {
    /// Every call has an outcome.
    Settled,
    /// These calls, of this loop or of one below it, wait for a person, and nothing else can proceed.
    Waiting(Vec<CallId>),
    /// A cancel came in.
    Cancelled,
    /// The process is about to stop.
    Halted,
}

/// What became of one call for now.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Attempt {
    /// It has an outcome.
    Settled,
    /// It waits for a person: it, or these calls of the loop that it runs.
    Waits(Vec<CallId>),
    /// It was stopped before it had an outcome: the turn is cancelled, or the process stops.
    Stopped,
}

/// Whether a turn could be put aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paused {
    /// It is paused.
    Yes,
    /// An answer has come in meanwhile: it goes on.
    Answered,
    /// It is cancelled, or gone with its task.
    Over,
}

/// One call of the model's message.
#[derive(Debug, Clone)]
struct Call {
    position: usize,
    id: CallId,
    tool: String,
    input: Value,
}

/// Runs the calls of the loop's last assistant message.
pub async fn run(seat: Seat<'_>, checkpoint: &Checkpoint) -> brain::Result<ToolsEnd> {
    let Seat { core, turn, control, .. } = seat;
    let Some(message) = checkpoint.assistant.clone() else { return Ok(ToolsEnd::Settled) };
    // before anything is read: an answer that comes in after the reading is news
    let mut answered = control.answered.subscribe();
    let (task, id) = (turn.task_id.clone(), turn.turn_id.clone());
    let (message, settled) = core
        .brain
        .read("read calls", move |tx| {
            let message = messages::get(tx, &task, &message)?;
            let settled: HashSet<CallId> = effects::settled_of(tx, &id)?.into_iter().collect();
            Ok((message, settled))
        })
        .await?;
    let blocks = message.map(|m| m.content).unwrap_or_default();
    let mut ready: Vec<Call> = calls_of(&blocks).into_iter().filter(|c| !settled.contains(&c.id)).collect();
    ready.reverse();
    let limit = core.config.claude_code_max_tool_use_concurrency;
    let mut waiting: Vec<(Call, Vec<CallId>)> = Vec::new();
    let mut running = FuturesUnordered::new();
    loop {
        while running.len() < limit
            && let Some(call) = ready.pop()
        {
            running.push(async move { (One::new(seat, call.clone()).attempt().await, call) });
        }
        if running.is_empty() {
            let calls: Vec<CallId> = waiting.into_iter().flat_map(|(_, calls)| calls).collect();
            return Ok(if calls.is_empty() { ToolsEnd::Settled } else { ToolsEnd::Waiting(calls) });
        }
        let stopped = tokio::select! {
            biased;
            () = control.cancel.cancelled() => true,
            () = core.halt.cancelled() => true,
            Some((result, call)) = running.next() => match result? {
                Attempt::Settled => false,
                Attempt::Waits(calls) => {
                    waiting.push((call, calls));
                    false
                }
                Attempt::Stopped => true,
            },
            Ok(()) = answered.changed(), if !waiting.is_empty() => {
                ready.extend(waiting.drain(..).map(|(call, _)| call));
                false
            }
        };
        if stopped && control.cancel.is_cancelled() {
            let stop = async { while running.next().await.is_some() {} };
            let _ = tokio::time::timeout(CANCEL_GRACE, stop).await;
            return Ok(ToolsEnd::Cancelled);
        }
        if stopped {
            return Ok(ToolsEnd::Halted);
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

/// Pauses the turn if each of these calls still waits.
pub async fn pause(core: &Arc<Core>, turn: &Turn, waiting: Vec<CallId>) -> brain::Result<Paused> {
    let id = turn.turn_id.clone();
    let expiry = core.hitl_expiry(Timestamp::now());
    let paused = core
        .record("pause turn", move |tx, _| {
            let state = turns::get(tx, &id)?.map(|t| t.state);
            if state != Some(TurnState::Running) {
                return Ok(Paused::Over);
            }
            let pending = prompts::of_turn(tx, &id)?
                .into_iter()
                .filter(|p| p.state == PromptState::Pending && waiting.contains(&p.call_id))
                .count();
            if pending < waiting.len() {
                return Ok(Paused::Answered);
            }
            turns::set_state(tx, &id, &[TurnState::Running], TurnState::Paused, Timestamp::now())?;
            brain::snapshots::set_expiry(tx, &id, expiry)?;
            Ok(Paused::Yes)
        })
        .await?;
    if paused == Paused::Yes {
        crate::turn::answers::refresh_expiry(core).await;
    }
    Ok(paused)
}

/// One call in its turn, with everything needed to carry a decision out.
struct One<'a> {
    core: &'a Arc<Core>,
    turn: &'a Turn,
    frame: &'a Frame,
    toolbox: &'a Toolbox,
    call: Call,
    /// What the hooks before the call said, once they have been asked.
    passed: Option<Passed>,
    control: &'a Arc<Control>,
    class: Effect,
}

/// What the brain says about a call.
struct Standing {
    effect: Option<effects::Effect>,
    prompt: Option<Prompt>,
    remembered: Remembered,
    repeats: usize,
    agreed: HashSet<String>,
}

impl<'a> One<'a> {
    fn new(seat: Seat<'a>, call: Call) -> Self {
        let Seat { core, turn, frame, toolbox, control } = seat;
        Self { core, turn, frame, toolbox, call, passed: None, control, class: Effect::Once }
    }

    fn seat(&self) -> Seat<'_> {
        let One { core, turn, frame, toolbox, control, .. } = self;
        Seat { core, turn, frame, toolbox, control }
    }

    /// Decides what is to be done with the call and does it.
    async fn attempt(mut self) -> brain::Result<Attempt> {
        let Standing { effect, prompt, remembered, repeats, agreed } = self.standing().await?;
        if let Some(effect) = effect.as_ref().filter(|e| e.state != EffectState::Intent && !e.told) {
            return self.tell(effect).await.map(|()| Attempt::Settled);
        }
        let tool = self.toolbox.get(&self.call.tool);
        if let Some(effect) = effect.as_ref().filter(|e| e.state == EffectState::Intent)
            && tool.as_ref().is_some_and(|t| t.function() == own::DELEGATE)
        {
            // it has been judged and begun; its loop knows where it stands
            self.call.input = effect.input.clone();
            return self.delegate(effect.started_at).await;
        }
        self.class = tool.as_ref().map_or(Effect::Once, |t| t.effect(&self.call.input));
        let facts = Facts {
            effect: effect.as_ref(),
            position: self.call.position,
            known: tool.is_some(),
            tool: &self.call.tool,
            complaints: self.toolbox.complaints(&self.call.tool, &self.call.input).await,
            repeats,
        };
        let tool = match (decide::before_rules(&facts), tool) {
            (Some(decision), _) => return self.carry_out(decision, None).await,
            (None, None) => return Ok(Attempt::Settled),
            (None, Some(tool)) => tool,
        };
        let workspace = match self.workspace() {
            Ok(workspace) => workspace,
            Err(refusal) => return self.refuse(refusal).await,
        };
        match self.ask_hooks(&workspace, prompt.as_ref()).await? {
            HooksSaid::GoOn => {}
            HooksSaid::Refuse(refusal) => return self.refuse(refusal).await,
            HooksSaid::Stopped => return Ok(Attempt::Stopped),
        }
        self.class = tool.effect(&self.call.input);
        match tool.function() {
            own::ASK_USER => self.ask_user(prompt).await,
            own::WORKING_MEMORY_WRITE => self.write_memory().await,
            _ => {
                let context = PermissionContext {
                    workspace: &workspace,
                    remembered: &remembered,
                    network: &self.core.config.tool_network_allowlist,
                    reading: self.reading(&*tool).await?,
                    agreed: &agreed,
                    class: self.class,
                };
                let verdict = permissions::check(&*tool, &self.call.input, &context);
                let verdict = hooked::with_question(verdict, self.passed.as_ref(), tool.name());
                let decision = decide::after_rules(verdict, prompt.as_ref());
                self.carry_out(decision, Some((tool, workspace))).await
            }
        }
    }

    /// What the call may see of the file system.
    fn workspace(&self) -> Result<Arc<Workspace>, Refusal> {
        let scratch = self.core.make_scratch(self.turn);
        scratch.and_then(|dir| self.core.workspace.for_task(&dir)).map(Arc::new).map_err(|error| {
            let text = format!("the task's private directory cannot be made: {error}");
            Refusal::new(ToolReason::Unavailable, text)
        })
    }

    async fn carry_out(
        &self,
        decision: Decision,
        tool: Option<(Arc<dyn Tool>, Arc<Workspace>)>,
    ) -> brain::Result<Attempt> {
        match (decision, tool) {
            (Decision::Nothing, _) | (Decision::Run(_), None) => Ok(Attempt::Settled),
            (Decision::Wait, _) => Ok(self.waits()),
            (Decision::Refuse(refusal), _) => self.refuse(refusal).await,
            (Decision::Ask { question, round }, _) => self.ask_permission(question, round).await,
            (Decision::Run(leave), Some((tool, workspace))) => self.perform(tool, workspace, leave).await,
            (Decision::InDoubt, _) => {
                self.note("in_doubt_effect", "the outcome of a call is in doubt").await;
                let failure = Failure::new(ToolReason::InDoubt, IN_DOUBT_TEXT);
                let end = End { state: EffectState::InDoubt, ..End::refused(failure) };
                let (turn, nested, call) = self.owned();
                count(&self.call.tool, end.word(), end.took);
                self.core
                    .record("settle call in doubt", move |tx, out| {
                        outcome::commit(tx, out, &turn, nested.as_ref(), &call, end, Told::Now)
                    })
                    .await?;
                Ok(Attempt::Settled)
            }
        }
    }

    async fn standing(&self) -> brain::Result<Standing> {
        let (turn, call) = (self.turn.clone(), self.call.clone());
        self.core
            .brain
            .read("read standing of a call", move |tx| {
                let repeats = effects::repeats(tx, &turn.turn_id, &call.id, &call.tool, &call.input)?;
                let effect = effects::get(tx, &call.id)?;
                let asked = prompts::of_turn(tx, &turn.turn_id)?;
                let prompt = asked.iter().filter(|p| p.call_id == call.id).max_by_key(|p| p.round).cloned();
                let agreed = going_out::agreed(&asked, prompt.as_ref());
                let remembered = brain::permissions::rules_of(tx, &turn.task_id)?;
                let remembered =
                    remembered.into_iter().map(|(rule, scope)| (rule, decide::kept(scope.as_ref())));
                let remembered = remembered.collect();
                Ok(Standing { effect, prompt, remembered, repeats, agreed })
            })
            .await
    }

    async fn write_memory(&self) -> brain::Result<Attempt> {
        let input = &self.call.input;
        let key = input["key"].as_str().unwrap_or_default().to_owned();
        let value = input.get("value").filter(|v| !v.is_null()).cloned();
        if value.as_ref().is_some_and(|v| v.to_string().len() > own::VALUE_BYTES) {
            let text = format!("a value may have {} bytes", own::VALUE_BYTES);
            return self.refuse(Refusal::new(ToolReason::TooLarge, text)).await;
        }
        let life = input["ttl_s"].as_i64().map(|s| s.saturating_mul(1000));
        let life = life.unwrap_or_else(|| crate::core::millis(self.core.config.working_memory_ttl));
        let entry = memory::Entry { key, value, expires_at: Timestamp::now().plus_millis(life) };
        let intent = self.intent(Some(Permission::Allow), None);
        let (turn, nested, call) = self.owned();
        let told = self.when_told();
        self.core
            .record("write working memory", move |tx, out| {
                effects::intend(tx, &intent)?;
                let value = memory::commit(tx, out, &turn, nested.as_ref(), entry)?;
                let end = End {
                    state: EffectState::Done,
                    outcome: Ok(Output::json(value)),
                    took: Duration::ZERO,
                    extra: Vec::new(),
                };
                outcome::commit(tx, out, &turn, nested.as_ref(), &call, end, told)
            })
            .await?;
        count(&self.call.tool, "ok", Duration::ZERO);
        self.tell_after(told).await?;
        Ok(Attempt::Settled)
    }

    fn intent(&self, permission: Option<Permission>, rule: Option<String>) -> Intent {
        Intent {
            call_id: self.call.id.clone(),
            turn_id: self.turn.turn_id.clone(),
            task_id: self.turn.task_id.clone(),
            parent: self.frame.parent.clone(),
            block_position: u32::try_from(self.call.position).unwrap_or(u32::MAX),
            tool: self.call.tool.clone(),
            input: self.call.input.clone(),
            effect_class: self.class.as_str(),
            permission,
            rule,
            at: Timestamp::now(),
        }
    }

    async fn intend(&self, permission: Option<Permission>, rule: Option<String>) -> brain::Result<()> {
        let intent = self.intent(permission, rule);
        self.core.brain.write("intend effect", move |tx| effects::intend(tx, &intent)).await
    }

    /// Answers the call without running it; intent and outcome are one transaction.
    async fn refuse(&self, refusal: Refusal) -> brain::Result<Attempt> {
        let Refusal { reason, text, permission, rule } = refusal;
        if reason == ToolReason::PermissionDenied {
            self.note("permission_denied", "a call was not permitted").await;
            metrics::counter!("engine_permission_denied_total").increment(1);
        }
        let intent = self.intent(permission, rule);
        let (turn, nested, call) = self.owned();
        self.core
            .record("refuse call", move |tx, out| {
                effects::intend(tx, &intent)?;
                let end = End::refused(Failure::new(reason, text));
                outcome::commit(tx, out, &turn, nested.as_ref(), &call, end, Told::Now)
            })
            .await?;
        // a made-up name must not become a metric label
        let label = if reason == ToolReason::NotFound { "unknown" } else { &self.call.tool };
        count(label, reason.as_str(), Duration::ZERO);
        Ok(Attempt::Settled)
    }

    /// It waits for a person to answer its own question.
    fn waits(&self) -> Attempt {
        Attempt::Waits(vec![self.call.id.clone()])
    }

    /// What the events of this call carry.
    fn nested(&self) -> Option<Nested> {
        self.seat().nested()
    }

    /// What a transaction about this call needs.
    fn owned(&self) -> (Turn, Option<Nested>, Call) {
        (self.turn.clone(), self.nested(), self.call.clone())
    }

    async fn settle(&self, end: End) -> brain::Result<()> {
        count(&self.call.tool, end.word(), end.took);
        let limit = self.core.config.tool_output_max_bytes;
        let end = End { outcome: end.outcome.map(|o| outcome::capped(o, limit)), ..end };
        let (turn, nested, call) = self.owned();
        let told = self.when_told();
        self.core
            .record("settle call", move |tx, out| {
                outcome::commit(tx, out, &turn, nested.as_ref(), &call, end, told)
            })
            .await?;
        self.tell_after(told).await
    }

    /// Writes an observation; a failure is only logged, because the call itself goes on.
    async fn note(&self, kind: &'static str, message: &str) {
        let observation = Observation {
            kind,
            code: None,
            task_id: Some(self.turn.task_id.clone()),
            turn_id: Some(self.turn.turn_id.clone()),
            message: message.to_owned(),
            data: Some(json!({"tool": self.call.tool})),
            at: Timestamp::now(),
        };
        let noted =
            self.core.brain.write("note observation", move |tx| observability::note(tx, &observation)).await;
        if let Err(error) = noted {
            tracing::warn!(error = %error, "An observation could not be written");
        }
    }
}

fn count(tool: &str, outcome: &'static str, took: Duration) {
    metrics::counter!("engine_tool_calls_total", "tool" => tool.to_owned(), "outcome" => outcome)
        .increment(1);
    metrics::histogram!("engine_tool_duration_seconds", "tool" => tool.to_owned()).record(took.as_secs_f64());
}
