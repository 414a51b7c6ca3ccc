//! Running a turn from its slot to its end: the main loop is driven, and how it ended is written down.
//!
//! The driver owns no decision of its own: the loop tells its [`End`], and this carries it out.

use crate::core::Core;
use crate::memory::Recalled;
use crate::tools::dispatch::{self, Paused};
use crate::tools::toolbox::{Offer, Toolbox};
use crate::turn::checkpoint::Checkpoint;
use crate::turn::coordinator::Control;
use crate::turn::frame::{Frame, Seat};
use crate::turn::machine::Happening;
use crate::turn::steps::{End, Run, step};
use crate::turn::{context, kept, recall, said, settle, soul};
use brain::observability::{self, Observation};
use brain::snapshots::{self, Step};
use brain::turns::{self, Turn, TurnState};
use brain::{Tx, events, messages, usage};
use contract::conversation::Role;
use contract::{ApiError, ErrorCode, MessageId, Timestamp, TurnId};
use futures::FutureExt;
use serde_json::json;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use tracing::Instrument;

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
fn grant(
    tx: &Tx<'_>,
    id: &TurnId,
    frame: &Frame,
    recalled: Option<Recalled>,
    expiry: Timestamp,
) -> brain::Result<Granted> {
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
        checkpoint.soul = soul::section(tx)?;
        recall::commit(tx, &turn, &mut checkpoint, recalled)?;
        let message = messages::get(tx, &turn.task_id, &turn.user_message_id)?;
        if message.is_some_and(|message| said::has_more_than_words(&message.content)) {
            turns::hear_others(tx, id)?;
        }
        checkpoint.call_after_seq = events::last_seq(tx)?;
        at = step(tx, expiry, &turn, frame, at, Happening::ContextReady, &checkpoint)?;
    }
    Ok(Granted::Runs(Box::new((turn, checkpoint, at))))
}

/// Takes back what was kept of turns that this one replaces, before anything is recalled into it.
async fn forget_superseded(core: &Arc<Core>, id: &TurnId) -> brain::Result<()> {
    let wanted = id.clone();
    let turn = core.brain.read("read turn", move |tx| turns::get(tx, &wanted)).await?;
    if let Some(turn) = turn.filter(kept::supersedes) {
        let forget = move |tx: &Tx<'_>| kept::forget_superseded(tx, &turn, Timestamp::now());
        core.memory.changed(core.brain.write("forget superseded turns", forget).await?);
    }
    Ok(())
}

async fn drive(core: &Arc<Core>, id: &TurnId, control: &Arc<Control>) -> brain::Result<Driven> {
    let frame = Frame::main(core.config.claude_code_max_tool_use_concurrency);
    forget_superseded(core, id).await?;
    let recalled = recall::into_turn(core, id, control).await;
    if core.halt.is_cancelled() {
        // it has not begun, and recalls at the next start what it could not now
        return Ok(Driven::Halted);
    }
    let (wanted, main, expiry) = (id.clone(), frame.clone(), core.expiry(Timestamp::now()));
    let granted = core.record("grant slot", move |tx, _| grant(tx, &wanted, &main, recalled, expiry));
    let (turn, checkpoint, step) = match granted.await? {
        Granted::Gone => return Ok(Driven::Left),
        Granted::Cancelling(turn) => {
            settle::cancelled(core, &turn, None).await?;
            return Ok(Driven::Left);
        }
        Granted::Runs(granted) => *granted,
    };
    let offer = Offer { plan: core.config.planner_enabled && !turn.direct, delegate: true };
    let Some(toolbox) = Toolbox::of(&turn.agent, core.catalog.pin(&turn.turn_id), offer) else {
        let error =
            ApiError::new(ErrorCode::AgentNotFound, format!("there is no agent `{}` any more", turn.agent));
        settle::fail(core, &turn, error, None).await?;
        return Ok(Driven::Left);
    };
    tracing::info!(task_id = %turn.task_id, agent = %turn.agent, resumed = turn.resumed, step = step.as_str(), "Starting execution");
    let started = std::time::Instant::now();
    let seat = Seat { core, turn: &turn, frame: &frame, toolbox: &toolbox, control };
    let driven = main_loop(seat, checkpoint, step).await;
    report(core, id, started.elapsed()).await;
    driven
}

/// Drives the main loop and writes how it ended.
async fn main_loop(seat: Seat<'_>, checkpoint: Checkpoint, step: Step) -> brain::Result<Driven> {
    let Seat { core, turn, .. } = seat;
    let mut run = Run::new(seat, checkpoint, step);
    loop {
        match run.to_the_end().await? {
            End::Waiting(calls) => match dispatch::pause(core, turn, calls).await? {
                Paused::Yes => return Ok(Driven::Left),
                Paused::Answered => {}
                Paused::Over => {
                    settle::cancelled(core, turn, None).await?;
                    return Ok(Driven::Left);
                }
            },
            End::Halted => return Ok(Driven::Halted),
            End::Cancelled { partial } => {
                settle::cancelled(core, turn, partial).await?;
                return Ok(Driven::Left);
            }
            End::Failed { error, partial } => {
                settle::fail(core, turn, error, partial).await?;
                return Ok(Driven::Left);
            }
            End::Answered { message, reason, output } => {
                let message = match message {
                    Some(id) => Some(id),
                    None => last_answer(core, turn).await?,
                };
                settle::complete(core, turn, message, reason, output).await?;
                return Ok(Driven::Left);
            }
        }
    }
}

/// The last thing the agent said in this turn, for a turn whose last call said nothing.
async fn last_answer(core: &Arc<Core>, turn: &Turn) -> brain::Result<Option<MessageId>> {
    let id = turn.turn_id.clone();
    let read = core.brain.read("last answer", move |tx| messages::last_of_turn(tx, &id, Role::Assistant));
    Ok(read.await?.map(|m| m.message_id))
}

async fn report(core: &Arc<Core>, id: &TurnId, took: Duration) {
    let id = id.clone();
    let read =
        core.brain.read("turn report", move |tx| Ok((turns::get(tx, &id)?, usage::of_turn(tx, &id)?))).await;
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
        watch_cache(core, &turn, calls, tokens).await;
    }
}

/// A turn that paid for its prompt again and again is worth an operator's look.
async fn watch_cache(core: &Arc<Core>, turn: &Turn, calls: u64, tokens: contract::Usage) {
    let config = &core.config;
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
    let noted = core.brain.write("cache alert", move |tx| observability::note(tx, &observation)).await;
    if let Err(error) = noted {
        tracing::warn!(error = %error, "An observation could not be written");
    }
}
