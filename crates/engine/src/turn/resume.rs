//! Picking up after a process ended, however it ended: every turn that is not over goes on by itself.
//!
//! Reads only the partial index of open turns, so it costs the same with a thousand messages and with a
//! million. Each turn is made ready in one transaction; doing it twice changes nothing.

use crate::core::{Core, Emitted};
use crate::turn::checkpoint::Checkpoint;
use crate::turn::machine::{self, Happening, Phase};
use crate::turn::model::stop_of;
use crate::turn::settle::{self, call_so_far};
use brain::observability::{self, Observation};
use brain::snapshots::{self, Step};
use brain::turns::{self, Turn, TurnState};
use brain::{Tx, effects, events};
use contract::event::BlockType;
use contract::{Timestamp, TurnId};
use std::sync::Arc;

/// Unclean process deaths in a row, without any progress in between, after which a turn is given up: it
/// is likely the cause. More would keep a poisonous turn killing the Engine; fewer would lose turns to bad luck.
const MAX_DEATHS: u32 = 3;

enum Ready {
    Queued,
    Paused,
    Cancelling(Turn),
    GivenUp(Turn),
}

/// Makes every open turn ready and queues those that run, in their original order, before any new turn.
/// `clean` says whether the last process closed the brain in order.
pub async fn recover(core: &Arc<Core>, clean: bool) -> brain::Result<usize> {
    let open = core.brain.read("open turns", turns::open).await?;
    let count = open.len();
    let mut queue: Vec<TurnId> = Vec::new();
    for turn in open {
        let id = turn.turn_id.clone();
        let expiry = core.expiry(Timestamp::now());
        let unreadable = turn.clone();
        let made = core.record("resume turn", move |tx, out| ready(tx, out, turn, clean, expiry)).await;
        let made = match made {
            // one turn that cannot be read must not keep the others from going on
            Err(brain::Error::BadData { what }) => {
                tracing::error!(task_id = %unreadable.task_id, turn_id = %unreadable.turn_id, code = "INTERNAL", what, "A turn cannot be read and is ended");
                let error = settle::bug("what was stored of this turn cannot be read");
                if let Err(error) = settle::fail(core, &unreadable, error, None).await {
                    tracing::error!(task_id = %unreadable.task_id, code = "INTERNAL", error = %error, "The turn could not be ended");
                }
                continue;
            }
            other => other?,
        };
        match made {
            Ready::Queued => queue.push(id),
            Ready::Paused => {}
            Ready::Cancelling(turn) => drop(settle::cancelled(core, &turn, None).await?),
            Ready::GivenUp(turn) => {
                tracing::error!(task_id = %turn.task_id, turn_id = %turn.turn_id, code = "INTERNAL", "The turn was in flight at {MAX_DEATHS} process deaths in a row and is given up");
                let error = settle::bug("the engine died several times while this turn was in flight");
                settle::fail(core, &turn, error, None).await?;
            }
        }
    }
    for id in queue.into_iter().rev() {
        metrics::counter!("engine_resumed_turns_total").increment(1);
        core.coordinator.push_front(id);
    }
    Ok(count)
}

fn ready(tx: &Tx<'_>, out: &mut Emitted, turn: Turn, clean: bool, expiry: Timestamp) -> brain::Result<Ready> {
    let snapshot = snapshots::get(tx, &turn.turn_id)?
        .ok_or_else(|| brain::Error::bad_data("channel_state_snapshots.turn_id", turn.turn_id.as_str()))?;
    let phase = machine::next(Phase::of(turn.state, snapshot.step), Happening::ProcessDied)
        .map_err(|e| brain::Error::bad_data("turns.state", e.to_string()))?;
    match phase {
        Phase::Cancelling => return Ok(Ready::Cancelling(turn)),
        Phase::Paused => return Ok(Ready::Paused),
        Phase::Queued(_) | Phase::Running(_) | Phase::Completed | Phase::Errored => {}
    }
    let was_running = turn.state == TurnState::Running;
    if was_running {
        let mut checkpoint = Checkpoint::read(snapshot.state).map_err(|_| {
            brain::Error::bad_data("channel_state_snapshots.state_json", turn.turn_id.as_str())
        })?;
        // anything that became durable since the last resume is progress: such a turn does not go in circles
        let progressed = !events::of_turn(tx, &turn.turn_id, checkpoint.call_after_seq, 1)?.is_empty();
        let deaths = if progressed { 0 } else { turn.crash_count };
        if !clean && deaths + 1 >= MAX_DEATHS {
            return Ok(Ready::GivenUp(turn));
        }
        if progressed {
            turns::reset_crash_count(tx, &turn.turn_id)?;
        }
        if snapshot.step == Step::Model {
            close_call(tx, out, &turn, &mut checkpoint)?;
        }
        checkpoint.call_after_seq = events::last_seq(tx)?;
        let stored = checkpoint.snapshot(snapshot.step);
        snapshots::put(tx, &turn.turn_id, &turn.task_id, &stored, Timestamp::now(), expiry)?;
        observability::note(
            tx,
            &Observation {
                kind: "turn_resumed",
                code: None,
                task_id: Some(turn.task_id.clone()),
                turn_id: Some(turn.turn_id.clone()),
                message: format!("a turn goes on in step {}", snapshot.step.as_str()),
                data: None,
                at: Timestamp::now(),
            },
        )?;
    }
    turns::mark_resumed(tx, &turn.turn_id, was_running && !clean)?;
    turns::set_state(tx, &turn.turn_id, &[TurnState::Running], TurnState::Queued, Timestamp::now())?;
    Ok(Ready::Queued)
}

/// Ends the model call that was under way: its open block is stopped, its durable text is carried into the
/// call that will be made instead.
pub(super) fn close_call(
    tx: &Tx<'_>,
    out: &mut Emitted,
    turn: &Turn,
    checkpoint: &mut Checkpoint,
) -> brain::Result<()> {
    let so_far = call_so_far(tx, turn, checkpoint.call_after_seq)?;
    if let Some(open) = so_far.open {
        let discarded = open.kind != BlockType::Text;
        out.emit(tx, &turn.task_id, &turn.turn_id, &stop_of(open, discarded), None)?;
    }
    checkpoint.next_block = checkpoint.next_block.max(so_far.next_block);
    checkpoint.carried.push_str(&so_far.text);
    Ok(())
}

/// Ends the processes that calls of an earlier process have left behind.
pub async fn end_orphans(core: &Arc<Core>) -> brain::Result<()> {
    let left = core.brain.read("unfinished calls", effects::unfinished).await?;
    for effect in left {
        if let Some(pgid) = effect.pgid
            && crate::sandbox::groups::kill_orphan_group(pgid, &core.scratch)
        {
            tracing::warn!(pgid, "Ended a process group that an earlier process had left behind");
        }
    }
    Ok(())
}
