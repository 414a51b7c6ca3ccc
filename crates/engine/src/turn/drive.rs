//! Performing a turn: one step after the other, each ending in one transaction.
//!
//! The driver owns no decision of its own: [`machine::next`] says which phase follows, the checkpoint says
//! what is needed to go on, and both are committed together with the events that tell of them.

mod stop;

use crate::core::{Core, Emitted};
use crate::tools::dispatch::{self, ToolsEnd};
use crate::tools::toolbox::Toolbox;
use crate::turn::checkpoint::Checkpoint;
use crate::turn::coordinator::Control;
use crate::turn::hooks::MAX_REFUSALS;
use crate::turn::machine::{self, Happening, Phase};
use crate::turn::message::{
    call_of, commit_pending, commit_usage, counted, store_assistant, text_of, with_carried,
};
use crate::turn::model::{self, CallEnd, Complete};
use crate::turn::{compact, context, settle};
use brain::observability::{self, Observation};
use brain::snapshots::{self, Step};
use brain::turns::{self, Turn, TurnState};
use brain::{Tx, events, messages, usage};
use contract::conversation::{Block, Role, StopReason};
use contract::event::Event;
use contract::{ApiError, CallId, ErrorCode, Timestamp, TurnId};
use futures::FutureExt;
use llm::{ErrorKind, Stop};
use serde_json::{Value, json};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use tracing::Instrument;

/// Calls to repair an answer that does not validate against output_schema. More rarely helps and costs
/// a full call each. (specification 6.11)
const MAX_REPAIRS: u32 = 2;
/// Compactions for one call after the provider said that the context is too large.
const MAX_OVERFLOWS: u32 = 4;
/// Times a provider may pause one answer before it is taken as it is. A provider that pauses for ever must
/// not keep a turn for ever.
const MAX_PAUSES: u32 = 32;
/// Wait before a turn whose end could not be written is tried again (full disk).
const RETRY_END: Duration = Duration::from_secs(2);

/// What became of a driven turn.
enum Driven {
    /// Over, or handed to a person: nothing more to do here.
    Left,
    /// The process is stopping; the brain knows where the turn stands.
    Halted,
}

/// Runs a turn that has been granted a slot until it is over, paused or halted; gives the slot back.
pub async fn run(core: Arc<Core>, id: TurnId, control: Arc<Control>) {
    let span = tracing::info_span!("turn", turn_id = %id);
    async {
        let driven = AssertUnwindSafe(drive(&core, &id, &control)).catch_unwind().await;
        let trouble = match driven {
            Ok(Ok(Driven::Left)) => None,
            Ok(Ok(Driven::Halted)) => {
                core.end_of_turn(&id).await;
                None
            }
            Ok(Err(brain::Error::Closed)) => None,
            Ok(Err(error)) => {
                tracing::error!(code = "INTERNAL", error = %error, "The turn met a storage failure");
                Some(crate::turn::accept::storage(&error))
            }
            Err(_panic) => Some(settle::bug("the turn met a bug; the log tells more")),
        };
        if let Some(error) = trouble {
            write_end(&core, &id, &error).await;
        }
    }
    .instrument(span)
    .await;
    if core.coordinator.release(&id) {
        end_stopped(&core, &id).await;
    }
    core.pulse.activity();
    core.pump();
}

/// Writes the end of a turn that was told to stop after its driver had left it (paused, or halted).
async fn end_stopped(core: &Arc<Core>, id: &TurnId) {
    let wanted = id.clone();
    let result = match core.brain.read("read turn", move |tx| turns::get(tx, &wanted)).await {
        Ok(Some(turn)) => settle::cancelled(core, &turn, None).await.map(drop),
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    match result {
        Ok(()) => crate::turn::answers::refresh_expiry(core).await,
        Err(brain::Error::Closed) => {}
        Err(error) => tracing::error!(code = "INTERNAL", error = %error, "A cancel could not be written"),
    }
}

/// Writes the end of a failed turn, again and again while the disk is full.
async fn write_end(core: &Arc<Core>, id: &TurnId, error: &ApiError) {
    loop {
        let wanted = id.clone();
        let result = match core.brain.read("read turn", move |tx| turns::get(tx, &wanted)).await {
            Ok(Some(turn)) => settle::fail(core, &turn, error.clone(), None).await.map(|_| ()),
            Ok(None) => return,
            Err(e) => Err(e),
        };
        match result {
            Ok(()) | Err(brain::Error::Closed) => return,
            Err(e) => {
                tracing::error!(code = "INTERNAL", error = %e, "The end of the turn could not be written");
                if !e.may_pass() {
                    // the turn stays as it is in the brain; the next start takes it up
                    return;
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(RETRY_END) => {}
            () = core.halt.cancelled() => return,
        }
    }
}

/// One transition: what happened, and the checkpoint after it.
fn step(
    tx: &Tx<'_>,
    core_expiry: Timestamp,
    turn: &Turn,
    at: Step,
    happening: Happening,
    checkpoint: &Checkpoint,
) -> brain::Result<Step> {
    let after = machine::next(Phase::Running(at), happening)
        .map_err(|e| brain::Error::bad_data("turns.state", e.to_string()))?;
    let Phase::Running(next) = after else {
        return Err(brain::Error::bad_data("turns.state", "a step may only lead to a step"));
    };
    snapshots::put(
        tx,
        &turn.turn_id,
        &turn.task_id,
        &checkpoint.snapshot(next),
        Timestamp::now(),
        core_expiry,
    )?;
    turns::set_iterations(tx, &turn.turn_id, checkpoint.iteration)?;
    turns::reset_crash_count(tx, &turn.turn_id)?;
    Ok(next)
}

/// A turn that has got a slot.
enum Granted {
    /// It is over, paused or deleted meanwhile.
    Gone,
    /// Somebody cancelled it while it waited.
    Cancelling(Box<Turn>),
    /// It runs, at this step.
    Runs(Box<(Turn, Checkpoint, Step)>),
}

/// Gives a queued turn its slot; a turn that has not begun gets its context in the same transaction.
fn grant(tx: &Tx<'_>, id: &TurnId, expiry: Timestamp) -> brain::Result<Granted> {
    turns::set_state(tx, id, &[TurnState::Queued], TurnState::Running, Timestamp::now())?;
    let Some(turn) = turns::get(tx, id)? else { return Ok(Granted::Gone) };
    let snapshot = match turn.state {
        TurnState::Running => snapshots::get(tx, id)?,
        TurnState::Cancelling => return Ok(Granted::Cancelling(Box::new(turn))),
        TurnState::Queued | TurnState::Paused | TurnState::Completed | TurnState::Errored => None,
    };
    let Some(snapshot) = snapshot else { return Ok(Granted::Gone) };
    let mut checkpoint = Checkpoint::read(snapshot.state)
        .map_err(|_| brain::Error::bad_data("channel_state_snapshots.state_json", id.as_str()))?;
    let mut at = snapshot.step;
    if at == Step::Assemble {
        checkpoint.working_memory = context::render_working_memory(tx, &turn)?;
        checkpoint.call_after_seq = events::last_seq(tx)?;
        at = step(tx, expiry, &turn, at, Happening::ContextReady, &checkpoint)?;
    }
    Ok(Granted::Runs(Box::new((turn, checkpoint, at))))
}

async fn drive(core: &Arc<Core>, id: &TurnId, control: &Arc<Control>) -> brain::Result<Driven> {
    let (wanted, expiry) = (id.clone(), core.expiry(Timestamp::now()));
    let (turn, checkpoint, step) =
        match core.record("grant slot", move |tx, _| grant(tx, &wanted, expiry)).await? {
            Granted::Gone => return Ok(Driven::Left),
            Granted::Cancelling(turn) => {
                settle::cancelled(core, &turn, None).await?;
                return Ok(Driven::Left);
            }
            Granted::Runs(granted) => *granted,
        };
    let Some(toolbox) = Toolbox::of(&turn.agent, core.catalog.pin(&turn.turn_id)) else {
        let error =
            ApiError::new(ErrorCode::AgentNotFound, format!("there is no agent `{}` any more", turn.agent));
        settle::fail(core, &turn, error, None).await?;
        return Ok(Driven::Left);
    };
    tracing::info!(task_id = %turn.task_id, agent = %turn.agent, resumed = turn.resumed, step = step.as_str(), "Starting execution");
    let started = std::time::Instant::now();
    let mut run = Run { core, turn, toolbox, control, checkpoint, step };
    let driven = run.steps().await;
    run.report(started.elapsed()).await;
    driven
}

/// A turn under way.
struct Run<'a> {
    core: &'a Arc<Core>,
    turn: Turn,
    toolbox: Toolbox,
    control: &'a Arc<Control>,
    checkpoint: Checkpoint,
    step: Step,
}

impl Run<'_> {
    async fn steps(&mut self) -> brain::Result<Driven> {
        loop {
            if self.control.cancel.is_cancelled() {
                settle::cancelled(self.core, &self.turn, None).await?;
                return Ok(Driven::Left);
            }
            if self.core.halt.is_cancelled() {
                return Ok(Driven::Halted);
            }
            match self.step {
                // a turn gets its context together with its slot
                Step::Assemble | Step::Model => {
                    if let Some(driven) = self.model().await? {
                        return Ok(driven);
                    }
                }
                Step::Tools => {
                    if let Some(driven) = self.tools().await? {
                        return Ok(driven);
                    }
                }
                Step::Finish => {
                    self.finish().await?;
                    return Ok(Driven::Left);
                }
            }
        }
    }

    /// Moves on: commits `write`, the new checkpoint and whatever events `write` emits.
    async fn advance(
        &mut self,
        happening: Happening,
        write: impl FnOnce(&Tx<'_>, &mut Emitted, &mut Checkpoint) -> brain::Result<()> + Send + 'static,
    ) -> brain::Result<()> {
        let (turn, at, expiry) = (self.turn.clone(), self.step, self.core.expiry(Timestamp::now()));
        let mut checkpoint = self.checkpoint.clone();
        let (step, checkpoint) = self
            .core
            .record("advance turn", move |tx, out| {
                write(tx, out, &mut checkpoint)?;
                checkpoint.call_after_seq = events::last_seq(tx)?;
                let next = step(tx, expiry, &turn, at, happening, &checkpoint)?;
                Ok((next, checkpoint))
            })
            .await?;
        self.step = step;
        self.checkpoint = checkpoint;
        Ok(())
    }

    async fn model(&mut self) -> brain::Result<Option<Driven>> {
        if self.checkpoint.iteration >= self.core.config.agent_max_iterations {
            self.checkpoint.closing = true;
        }
        let (mut request, mut history) =
            context::assemble(self.core, &self.toolbox, &self.turn, &self.checkpoint).await?;
        let estimate = context::estimate(&request, &self.checkpoint, &history);
        if compact::is_due(&self.core.config, &request, estimate) {
            if !self.compact(self.room(&request), &history, estimate, false).await? {
                return Ok(None);
            }
            (request, history) =
                context::assemble(self.core, &self.toolbox, &self.turn, &self.checkpoint).await?;
        }
        let room = self.room(&request);
        let estimate =
            context::estimate(&request, &Checkpoint { counted: None, ..self.checkpoint.clone() }, &history);
        let end =
            model::call(self.core, &self.turn, self.checkpoint.next_block, request, self.control).await?;
        match end {
            CallEnd::Halted => Ok(Some(Driven::Halted)),
            CallEnd::Cancelled { text } => {
                let partial = self.checkpoint.carried.clone() + &text;
                settle::cancelled(self.core, &self.turn, Some(partial)).await?;
                Ok(Some(Driven::Left))
            }
            CallEnd::Failed { error, text, streamed } => {
                let can_compact = self.core.config.reactive_compact_enabled
                    && self.checkpoint.overflows < MAX_OVERFLOWS
                    && !streamed;
                if error.kind == ErrorKind::Overflow && can_compact {
                    self.checkpoint.overflows += 1;
                    self.checkpoint.counted = None;
                    if self.compact(room, &history, estimate, true).await? {
                        return Ok(None);
                    }
                }
                let partial = self.checkpoint.carried.clone() + &text;
                tracing::warn!(task_id = %self.turn.task_id, code = %error.to_api().error, status = error.status, "The model call failed");
                settle::fail(self.core, &self.turn, error.to_api(), Some(partial)).await?;
                Ok(Some(Driven::Left))
            }
            CallEnd::Complete(complete) => self.answered(complete).await,
        }
    }

    async fn compact(
        &mut self,
        (fixed, window): (u64, u32),
        history: &context::History,
        estimate: u64,
        forced: bool,
    ) -> brain::Result<bool> {
        let ask = compact::Ask { fixed, window, estimate, forced };
        let done =
            compact::run(self.core, &self.turn, &mut self.checkpoint, history, ask, self.control).await?;
        if done.is_none() && forced {
            return Ok(false);
        }
        self.advance(Happening::CallAgain, |_, _, _| Ok(())).await?;
        Ok(true)
    }

    /// Tokens of a call that no compaction can free, and the window it must fit into.
    fn room(&self, request: &llm::Request) -> (u64, u32) {
        let fixed = request.system.iter().map(|p| context::estimate_bytes(p.text.len())).sum();
        (fixed, self.core.config.context_window(&request.model))
    }

    /// Decides what follows a complete model message and commits it.
    async fn answered(&mut self, mut complete: Complete) -> brain::Result<Option<Driven>> {
        let Complete { blocks, stop, .. } = &complete;
        let cut = *stop == Stop::MaxTokens;
        let mut content = with_carried(&self.checkpoint.carried, blocks);
        if cut || self.checkpoint.closing {
            // a call that was cut off, or made after the last step, is not run
            content.retain(|b| !matches!(b, Block::ToolUse { .. }));
        }
        let calls: Vec<(CallId, String, Value)> = content.iter().filter_map(call_of).collect();
        let text = text_of(&content);
        self.checkpoint.next_block = complete.next_block;
        let lost_call = cut && blocks.iter().any(|b| matches!(b, Block::ToolUse { .. }));
        if !calls.is_empty() {
            self.ask_tools(complete, content, calls).await?;
            return Ok(None);
        }
        let config = &self.core.config;
        let goes_on = match stop {
            Stop::Pause => self.checkpoint.continuations < MAX_PAUSES,
            Stop::MaxTokens => {
                config.token_budget_enabled
                    && self.checkpoint.continuations < config.token_budget_max_continuations
            }
            Stop::EndTurn | Stop::ToolUse | Stop::Refusal => false,
        };
        if goes_on {
            self.checkpoint.continuations += 1;
            self.checkpoint.lost_call = lost_call;
            self.again(complete, text, None).await?;
            return Ok(None);
        }
        let stop = *stop;
        let mut stopped_by_hook = false;
        if stop != Stop::Refusal && !self.checkpoint.closing {
            let hooks = self.stop_hooks();
            if !hooks.is_empty() {
                self.flush(&mut complete).await?;
                match self.ask_stop_hooks(&hooks, &text).await {
                    Some(message) if self.checkpoint.refusals < MAX_REFUSALS => {
                        self.back_to_work(complete, content, message).await?;
                        return Ok(None);
                    }
                    Some(_) => stopped_by_hook = true,
                    None => {}
                }
                if self.control.cancel.is_cancelled() || self.core.halt.is_cancelled() {
                    return Ok(None);
                }
            }
        }
        let mut output = None;
        if let Some(schema) = self.turn.output_schema.clone().filter(|_| stop != Stop::Refusal) {
            match crate::tools::schema::parse_answer(&schema, &text) {
                Ok(value) => output = Some(value),
                Err(problems) if self.checkpoint.repairs < MAX_REPAIRS => {
                    let note = format!(
                        "That answer does not validate: {problems}. Answer again with one JSON value that validates against the schema, and nothing else."
                    );
                    self.again(complete, String::new(), Some((text, note))).await?;
                    return Ok(None);
                }
                Err(problems) => {
                    self.again(complete, String::new(), None).await?;
                    let error = ApiError::new(
                        ErrorCode::ValidationError,
                        "the answer does not validate against output_schema, also after repairs",
                    )
                    .with(json!({"problems": problems}));
                    settle::fail(self.core, &self.turn, error, Some(text)).await?;
                    return Ok(Some(Driven::Left));
                }
            }
        }
        let reason = match stop {
            _ if self.checkpoint.closing => StopReason::MaxIterations,
            _ if stopped_by_hook => StopReason::StoppedByHook,
            Stop::MaxTokens => StopReason::MaxTokens,
            Stop::Refusal => StopReason::Refusal,
            Stop::EndTurn | Stop::ToolUse | Stop::Pause => StopReason::EndTurn,
        };
        self.store_answer(complete, content, reason, output).await?;
        Ok(None)
    }

    /// The call is made again: a continuation, or a repair of an answer that did not validate.
    async fn again(
        &mut self,
        complete: Complete,
        carried: String,
        repair: Option<(String, String)>,
    ) -> brain::Result<()> {
        let (turn, provider) = (self.turn.clone(), self.core.config.llm_provider.as_str());
        let invalid = turn.output_schema.is_some() && carried.is_empty();
        self.advance(Happening::CallAgain, move |tx, out, checkpoint| {
            commit_pending(tx, out, &turn, &complete, invalid)?;
            commit_usage(tx, out, &turn, &complete, provider)?;
            checkpoint.carried = carried;
            if repair.is_some() {
                checkpoint.repairs += 1;
                checkpoint.repair = repair;
            }
            Ok(())
        })
        .await
    }

    async fn ask_tools(
        &mut self,
        complete: Complete,
        content: Vec<Block>,
        calls: Vec<(CallId, String, Value)>,
    ) -> brain::Result<()> {
        let (turn, provider) = (self.turn.clone(), self.core.config.llm_provider.as_str());
        self.advance(Happening::ToolsAsked, move |tx, out, checkpoint| {
            commit_pending(tx, out, &turn, &complete, false)?;
            let (id, position) = store_assistant(tx, &turn, content)?;
            commit_usage(tx, out, &turn, &complete, provider)?;
            for (call, tool, input) in calls {
                let event = Event::ToolCall { tool, tool_call_id: call, input };
                out.emit(tx, &turn.task_id, &turn.turn_id, &event, None)?;
            }
            checkpoint.assistant = Some(id);
            checkpoint.carried = String::new();
            checkpoint.lost_call = false;
            checkpoint.repair = None;
            checkpoint.overflows = 0;
            checkpoint.iteration += 1;
            checkpoint.counted = counted(&complete, position);
            Ok(())
        })
        .await
    }

    async fn store_answer(
        &mut self,
        complete: Complete,
        content: Vec<Block>,
        reason: StopReason,
        output: Option<Value>,
    ) -> brain::Result<()> {
        let (turn, provider) = (self.turn.clone(), self.core.config.llm_provider.as_str());
        self.advance(Happening::Answered, move |tx, out, checkpoint| {
            commit_pending(tx, out, &turn, &complete, false)?;
            let stored = if content.is_empty() { None } else { Some(store_assistant(tx, &turn, content)?.0) };
            commit_usage(tx, out, &turn, &complete, provider)?;
            checkpoint.assistant = stored;
            checkpoint.carried = String::new();
            checkpoint.lost_call = false;
            checkpoint.iteration += 1;
            checkpoint.ending = Some((reason, output));
            Ok(())
        })
        .await
    }

    async fn tools(&mut self) -> brain::Result<Option<Driven>> {
        let end = dispatch::run(self.core, &self.turn, &self.toolbox, &self.checkpoint, self.control).await?;
        match end {
            ToolsEnd::Paused => Ok(Some(Driven::Left)),
            ToolsEnd::Halted => Ok(Some(Driven::Halted)),
            ToolsEnd::Cancelled => {
                settle::cancelled(self.core, &self.turn, None).await?;
                Ok(Some(Driven::Left))
            }
            ToolsEnd::Settled => {
                let turn = self.turn.clone();
                self.advance(Happening::ToolsSettled, move |tx, _, checkpoint| {
                    let id = checkpoint.assistant.take().ok_or_else(|| {
                        brain::Error::bad_data("channel_state_snapshots.state_json", "no assistant")
                    })?;
                    let message = messages::get(tx, &turn.task_id, &id)?
                        .ok_or_else(|| brain::Error::bad_data("conversations.message_id", id.as_str()))?;
                    settle::store_results(tx, &turn, &message)?;
                    Ok(())
                })
                .await?;
                Ok(None)
            }
        }
    }

    async fn finish(&mut self) -> brain::Result<()> {
        let (reason, output) = self.checkpoint.ending.clone().unwrap_or((StopReason::EndTurn, None));
        let message = match self.checkpoint.assistant.clone() {
            Some(id) => Some(id),
            None => {
                let turn = self.turn.turn_id.clone();
                self.core
                    .brain
                    .read("last answer", move |tx| messages::last_of_turn(tx, &turn, Role::Assistant))
                    .await?
                    .map(|m| m.message_id)
            }
        };
        settle::complete(self.core, &self.turn, message, reason, output).await?;
        Ok(())
    }

    async fn report(&self, took: Duration) {
        let id = self.turn.turn_id.clone();
        let read = self
            .core
            .brain
            .read("turn report", move |tx| Ok((turns::get(tx, &id)?, usage::of_turn(tx, &id)?)))
            .await;
        let Ok((Some(turn), (calls, tokens))) = read else { return };
        let word = match (turn.stop_reason, &turn.error) {
            (Some(reason), _) => reason.as_str(),
            (None, Some(error)) => error.code.as_str(),
            (None, None) => turn.state.as_str(),
        };
        tracing::info!(
            task_id = %turn.task_id,
            stop_reason = word,
            iterations = turn.iterations,
            input_tokens = tokens.input_tokens,
            output_tokens = tokens.output_tokens,
            duration_ms = took.as_millis() as u64,
            "Finished execution"
        );
        if turn.state.is_terminal() {
            metrics::counter!("engine_turns_total", "stop_reason" => word.to_owned()).increment(1);
            metrics::histogram!("engine_turn_duration_seconds").record(took.as_secs_f64());
            self.watch_cache(&turn, calls, tokens).await;
        }
    }

    /// A turn that paid for its prompt again and again is worth an operator's look.
    async fn watch_cache(&self, turn: &Turn, calls: u64, tokens: contract::Usage) {
        let config = &self.core.config;
        let ratio = tokens.cache_hit_tokens as f64 / tokens.input_tokens.max(1) as f64;
        let big = calls >= 3 && tokens.input_tokens >= 20_000;
        if !config.cache_hit_monitor_enabled || !big || ratio >= config.cache_hit_min_ratio {
            return;
        }
        let observation = Observation {
            kind: "cache_hit_ratio_alert",
            code: None,
            task_id: Some(turn.task_id.clone()),
            turn_id: Some(turn.turn_id.clone()),
            message: "little of the prompt came from the provider's cache".into(),
            data: Some(json!({"ratio": ratio, "input_tokens": tokens.input_tokens, "calls": calls})),
            at: Timestamp::now(),
        };
        let noted =
            self.core.brain.write("cache alert", move |tx| observability::note(tx, &observation)).await;
        if let Err(error) = noted {
            tracing::warn!(error = %error, "An observation could not be written");
        }
    }
}
