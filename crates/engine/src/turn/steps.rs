//! The loop: one step after the other, each ending in one transaction. The main loop and the nested ones are the
//! same; what differs is in their [`Frame`].
//!
//! It owns no decision of its own: [`machine::next`] says which phase follows, the checkpoint says what is needed to
//! go on, and both are committed together with the events that tell of them. It refuses to write ends: whoever runs
//! the loop is told its [`End`], because a failed sub-agent is a tool's failure and not the turn's.

mod refused_media;
mod stop;

use crate::core::Emitted;
use crate::tools::dispatch::{self, ToolsEnd};
use crate::turn::checkpoint::Checkpoint;
use crate::turn::frame::{Frame, Seat};
use crate::turn::hooks::MAX_REFUSALS;
use crate::turn::machine::{self, Happening, Phase};
use crate::turn::message::{
    call_of, commit_pending, commit_usage, counted, store_assistant, text_of, with_carried,
};
use crate::turn::model::{self, CallEnd, Complete};
use crate::turn::{compact, context, resume, settle};
use brain::snapshots::Step;
use brain::turns::{self, Turn};
use brain::{Tx, events, messages};
use contract::conversation::{Block, StopReason};
use contract::event::Event;
use contract::{ApiError, CallId, ErrorCode, MessageId, Timestamp};
use llm::{ErrorKind, Stop};
use serde_json::{Value, json};

/// Calls to repair an answer that does not validate against output_schema. More rarely helps and costs
/// a full call each. (specification 6.11)
const MAX_REPAIRS: u32 = 2;
/// Times a provider may pause one answer before it is taken as it is. A provider that pauses for ever must
/// not keep a turn for ever.
const MAX_PAUSES: u32 = 32;
/// One transition of a loop: what happened, and the checkpoint after it. The iterations of a turn are those of its
/// main loop.
pub fn step(
    tx: &Tx<'_>,
    expiry: Timestamp,
    turn: &Turn,
    frame: &Frame,
    at: Step,
    happening: Happening,
    checkpoint: &Checkpoint,
) -> brain::Result<Step> {
    let after = machine::next(Phase::Running(at), happening)
        .map_err(|e| brain::Error::bad_data("turns.state", e.to_string()))?;
    let Phase::Running(next) = after else {
        return Err(brain::Error::bad_data("turns.state", "a step may only lead to a step"));
    };
    frame.store(tx, turn, next, checkpoint, expiry)?;
    if frame.is_main() {
        turns::set_iterations(tx, &turn.turn_id, checkpoint.iteration)?;
    }
    turns::reset_crash_count(tx, &turn.turn_id)?;
    Ok(next)
}

/// How a loop ended, or why it stopped on its way.
#[derive(Debug)]
pub enum End {
    /// It has answered; everything of it is stored.
    Answered {
        /// The answer; `None` when the last call said nothing.
        message: Option<MessageId>,
        /// Why it stopped there.
        reason: StopReason,
        /// The validated answer, with output_schema.
        output: Option<Value>,
    },
    /// It cannot go on.
    Failed {
        /// Why.
        error: ApiError,
        /// Text of the answer under way.
        partial: Option<String>,
    },
    /// The turn is being cancelled.
    Cancelled {
        /// Text of the answer under way.
        partial: Option<String>,
    },
    /// These calls wait for a person, and nothing else can proceed.
    Waiting(Vec<CallId>),
    /// The process is stopping; the brain knows where the loop stands.
    Halted,
}

/// A loop under way.
pub struct Run<'a> {
    seat: Seat<'a>,
    checkpoint: Checkpoint,
    step: Step,
    /// Whether it is noted that servers describe tools of this loop.
    noted: bool,
}

impl<'a> Run<'a> {
    /// A loop that goes on where its checkpoint says.
    pub fn new(seat: Seat<'a>, checkpoint: Checkpoint, step: Step) -> Self {
        Self { seat, checkpoint, step, noted: false }
    }

    /// Performs step after step until the loop ends or has to stop. A loop that waits goes on by calling this again.
    pub async fn to_the_end(&mut self) -> brain::Result<End> {
        loop {
            if self.seat.control.cancel.is_cancelled() {
                return Ok(End::Cancelled { partial: None });
            }
            if self.seat.core.halt.is_cancelled() {
                return Ok(End::Halted);
            }
            let ended = match self.step {
                // a loop gets its context before its first step
                Step::Assemble | Step::Model => self.model().await?,
                Step::Tools => self.tools().await?,
                Step::Finish => {
                    let ending = self.checkpoint.ending.clone();
                    let (reason, output) = ending.unwrap_or((StopReason::EndTurn, None));
                    Some(End::Answered { message: self.checkpoint.assistant.clone(), reason, output })
                }
            };
            if let Some(end) = ended {
                return Ok(end);
            }
        }
    }

    /// Moves on: commits `write`, the new checkpoint and whatever events `write` emits.
    async fn advance(
        &mut self,
        happening: Happening,
        write: impl FnOnce(&Tx<'_>, &mut Emitted, &mut Checkpoint) -> brain::Result<()> + Send + 'static,
    ) -> brain::Result<()> {
        let Seat { core, turn, frame, .. } = self.seat;
        let (turn, frame) = (turn.clone(), frame.clone());
        let (at, expiry) = (self.step, core.expiry(Timestamp::now()));
        let mut checkpoint = self.checkpoint.clone();
        let (step, checkpoint) = core
            .record("advance turn", move |tx, out| {
                write(tx, out, &mut checkpoint)?;
                checkpoint.call_after_seq = events::last_seq(tx)?;
                let next = step(tx, expiry, &turn, &frame, at, happening, &checkpoint)?;
                Ok((next, checkpoint))
            })
            .await?;
        self.step = step;
        self.checkpoint = checkpoint;
        Ok(())
    }

    async fn model(&mut self) -> brain::Result<Option<End>> {
        let Seat { core, turn, .. } = self.seat;
        if self.checkpoint.iteration >= core.config.agent_max_iterations {
            self.checkpoint.closing = true;
        }
        let (mut request, mut history) = context::assemble(self.seat, &self.checkpoint).await?;
        let window = core.config.context_window(&request.model);
        let mut estimate = context::estimate(&request, &self.checkpoint, &history);
        if compact::is_due(&core.config, &request, estimate) {
            let ask = compact::Ask { window, estimate, refusals: 0 };
            if compact::run(self.seat, &mut self.checkpoint, &history, ask).await? {
                self.advance(Happening::CallAgain, |_, _, _| Ok(())).await?;
                (request, history) = context::assemble(self.seat, &self.checkpoint).await?;
                estimate = context::estimate(&request, &self.checkpoint, &history);
            }
            if self.seat.must_stop() {
                return Ok(None);
            }
        }
        let refusals = self.checkpoint.overflows;
        request.max_tokens = compact::output_limit(request.max_tokens, window, estimate, refusals);
        let estimate =
            context::estimate(&request, &Checkpoint { counted: None, ..self.checkpoint.clone() }, &history);
        let ask = compact::Ask { window, estimate, refusals: refusals + 1 };
        self.note_servers().await?;
        let end = model::call(self.seat, self.checkpoint.next_block, request).await?;
        match end {
            CallEnd::Halted => Ok(Some(End::Halted)),
            CallEnd::Cancelled { text } => {
                let partial = Some(self.checkpoint.carried.clone() + &text);
                Ok(Some(End::Cancelled { partial }))
            }
            CallEnd::Failed { error, text, streamed } => {
                let can_compact = core.config.reactive_compact_enabled && refusals < compact::MAX_REFUSALS;
                if error.kind == ErrorKind::Overflow && can_compact {
                    self.make_room(&history, ask, streamed).await?;
                    return Ok(None);
                }
                if self.leave_media_out(&history, &error, streamed).await? {
                    return Ok(None);
                }
                let partial = Some(self.checkpoint.carried.clone() + &text);
                tracing::warn!(task_id = %turn.task_id, code = %error.to_api().error, status = error.status, "The model call failed");
                Ok(Some(End::Failed { error: error.to_api(), partial }))
            }
            CallEnd::Complete(complete) => self.answered(complete).await,
        }
    }

    /// A server's words stand in what the model is offered, whether it calls its tools or not.
    async fn note_servers(&mut self) -> brain::Result<()> {
        let Seat { core, turn, toolbox, .. } = self.seat;
        if !self.noted && toolbox.is_described_elsewhere() {
            let turn = turn.turn_id.clone();
            core.brain.write("note who is heard", move |tx| turns::hear_others(tx, &turn)).await?;
            self.noted = true;
        }
        Ok(())
    }

    /// Makes the context of a refused call smaller; what it has said already is kept and goes on.
    async fn make_room(
        &mut self,
        history: &context::History,
        ask: compact::Ask,
        streamed: bool,
    ) -> brain::Result<()> {
        let (turn, _, _) = self.owned();
        self.checkpoint.overflows = ask.refusals;
        self.advance(Happening::CallAgain, move |tx, out, checkpoint| match streamed {
            true => resume::close_call(tx, out, &turn, checkpoint),
            false => Ok(()),
        })
        .await?;
        if !compact::run(self.seat, &mut self.checkpoint, history, ask).await? {
            // nothing can go: one more try with the least notes and output
            self.checkpoint.overflows = compact::MAX_REFUSALS;
        }
        if self.checkpoint.overflows >= compact::MAX_REFUSALS {
            self.checkpoint.memory = None;
        }
        self.advance(Happening::CallAgain, |_, _, _| Ok(())).await
    }

    /// Decides what follows a complete model message and commits it.
    async fn answered(&mut self, mut complete: Complete) -> brain::Result<Option<End>> {
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
        let Seat { core, turn, frame, .. } = self.seat;
        let config = &core.config;
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
        if stop != Stop::Refusal && !self.checkpoint.closing && frame.is_main() {
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
                if self.seat.must_stop() {
                    return Ok(None);
                }
            }
        }
        let mut output = None;
        if let Some(schema) = turn.output_schema.clone().filter(|_| stop != Stop::Refusal) {
            let checked = tokio::select! {
                biased;
                () = self.seat.control.cancel.cancelled() => return Ok(None),
                () = core.halt.cancelled() => return Ok(None),
                checked = crate::tools::schema::parse_answer(&schema, &text) => checked,
            };
            match checked {
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
                    return Ok(Some(End::Failed { error, partial: Some(text) }));
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
        let (turn, frame, provider) = self.owned();
        let invalid = turn.output_schema.is_some() && carried.is_empty();
        self.advance(Happening::CallAgain, move |tx, out, checkpoint| {
            commit_pending(tx, out, &turn, &complete, invalid)?;
            commit_usage(tx, out, &turn, &frame, &complete, provider)?;
            checkpoint.carried = carried;
            // what was said meanwhile is not in the history the provider has counted
            checkpoint.counted = None;
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
        let (turn, frame, provider) = self.owned();
        let nested = self.seat.nested();
        self.advance(Happening::ToolsAsked, move |tx, out, checkpoint| {
            commit_pending(tx, out, &turn, &complete, false)?;
            let (id, position) = store_assistant(tx, &turn, &frame, content)?;
            commit_usage(tx, out, &turn, &frame, &complete, provider)?;
            for (call, tool, input) in calls {
                let event = Event::ToolCall { tool, tool_call_id: call, input };
                out.emit(tx, &turn.task_id, &turn.turn_id, &event, nested.as_ref())?;
            }
            checkpoint.assistant = Some(id);
            checkpoint.carried = String::new();
            checkpoint.lost_call = false;
            checkpoint.repair = None;
            checkpoint.overflows = 0;
            checkpoint.media_refused = false;
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
        let (turn, frame, provider) = self.owned();
        self.advance(Happening::Answered, move |tx, out, checkpoint| {
            commit_pending(tx, out, &turn, &complete, false)?;
            let stored =
                if content.is_empty() { None } else { Some(store_assistant(tx, &turn, &frame, content)?.0) };
            commit_usage(tx, out, &turn, &frame, &complete, provider)?;
            checkpoint.assistant = stored;
            checkpoint.carried = String::new();
            checkpoint.lost_call = false;
            checkpoint.iteration += 1;
            checkpoint.ending = Some((reason, output));
            Ok(())
        })
        .await
    }

    async fn tools(&mut self) -> brain::Result<Option<End>> {
        match dispatch::run(self.seat, &self.checkpoint).await? {
            ToolsEnd::Waiting(calls) => Ok(Some(End::Waiting(calls))),
            ToolsEnd::Halted => Ok(Some(End::Halted)),
            ToolsEnd::Cancelled => Ok(Some(End::Cancelled { partial: None })),
            ToolsEnd::Settled => {
                let (turn, frame, _) = self.owned();
                self.advance(Happening::ToolsSettled, move |tx, _, checkpoint| {
                    let id = checkpoint.assistant.take().ok_or_else(|| {
                        brain::Error::bad_data("channel_state_snapshots.state_json", "no assistant")
                    })?;
                    let message = messages::get(tx, &turn.task_id, &id)?
                        .ok_or_else(|| brain::Error::bad_data("conversations.message_id", id.as_str()))?;
                    settle::store_results(tx, &turn, frame.parent, &message)?;
                    checkpoint.nested.clear();
                    Ok(())
                })
                .await?;
                Ok(None)
            }
        }
    }

    /// What a transaction of this loop needs.
    fn owned(&self) -> (Turn, Frame, &'static str) {
        let Seat { core, turn, frame, .. } = self.seat;
        (turn.clone(), frame.clone(), core.config.llm_provider.as_str())
    }
}
