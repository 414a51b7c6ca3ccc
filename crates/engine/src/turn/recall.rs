//! Long-term memory on its way into a turn: once per loop, before its first model call.
//!
//! What is recalled is kept in the loop's checkpoint, so that every call of it, also after a restart, sends the same
//! bytes; the ids stand in the turn. It refuses to fail or to hold a turn up: see [`crate::memory::Memory::recall`].
//!
//! The invariant: a loop that has made a model call recalls nothing more.

use crate::core::Core;
use crate::memory::{Occasion, Recalled};
use crate::turn::checkpoint::Checkpoint;
use crate::turn::compact::Cuts;
use crate::turn::context::{self, History};
use crate::turn::coordinator::Control;
use crate::turn::frame::Frame;
use crate::turn::said::said;
use ::memory::recall::Budget;
use brain::snapshots::{self, Step};
use brain::turns::{self, Turn};
use brain::{Tx, messages};
use contract::conversation::Block;
use contract::{Timestamp, TurnId};

/// What is recalled into a turn that has not begun; `None` also when it has, or is to stop.
pub async fn into_turn(core: &Core, id: &TurnId, control: &Control) -> Option<Recalled> {
    let id = id.clone();
    let occasion = core.brain.read("occasion of a turn", move |tx| occasion(tx, &id)).await;
    match occasion {
        Ok(Some(occasion)) => ask(core, control, occasion).await,
        // whatever cannot be read here is met again, and told, when the turn gets its slot
        Ok(None) | Err(_) => None,
    }
}

/// What is recalled into a nested loop, that knows nothing but what it is told.
pub async fn into_nested(core: &Core, control: &Control, told: &[Block]) -> Option<Recalled> {
    let seen = texts(told, &Cuts::default());
    ask(core, control, Occasion { question: said(told).to_owned(), seen, ..Occasion::default() }).await
}

async fn ask(core: &Core, control: &Control, occasion: Occasion) -> Option<Recalled> {
    let budget =
        Budget { items: core.config.memory_recall_limit, tokens: core.config.memory_recall_max_tokens };
    tokio::select! {
        biased;
        () = control.cancel.cancelled() => None,
        () = core.halt.cancelled() => None,
        recalled = core.memory.recall(occasion, budget, Timestamp::now()) => recalled,
    }
}

/// Notes what was recalled: in the loop's checkpoint, and with the turn. Whoever reads what comes from elsewhere may be
/// led by it.
pub fn commit(
    tx: &Tx<'_>,
    turn: &Turn,
    checkpoint: &mut Checkpoint,
    recalled: Option<Recalled>,
) -> brain::Result<()> {
    let Some(recalled) = recalled else { return Ok(()) };
    let mut ids = turns::recalled(tx, &turn.turn_id)?;
    ids.extend(recalled.ids.into_iter().filter(|id| !ids.contains(id)).collect::<Vec<_>>());
    turns::set_recalled(tx, &turn.turn_id, &ids)?;
    if recalled.untrusted {
        turns::taint(tx, &turn.turn_id)?;
    }
    if recalled.others {
        turns::hear_others(tx, &turn.turn_id)?;
    }
    checkpoint.memory = Some(recalled.text);
    Ok(())
}

fn occasion(tx: &Tx<'_>, id: &TurnId) -> brain::Result<Option<Occasion>> {
    let Some(turn) = turns::get(tx, id)? else { return Ok(None) };
    if snapshots::get(tx, id)?.is_none_or(|snapshot| snapshot.step != Step::Assemble) {
        return Ok(None);
    }
    // how many calls run at once does not matter for reading
    let history = context::read_history(tx, &turn, &Frame::main(1), &Checkpoint::default())?;
    let Some(current) = messages::get(tx, &turn.task_id, &history.current)? else { return Ok(None) };
    let mut seen = shown(&history);
    seen.extend(context::render_working_memory(tx, &turn)?);
    let turns = history.messages.iter().map(|m| m.turn_id.clone()).collect();
    Ok(Some(Occasion { question: said(&current.content).to_owned(), seen, turns }))
}

/// The texts of the conversation as the model gets it.
fn shown(history: &History) -> Vec<String> {
    let summary = history.boundary.iter().map(|b| b.summary.clone());
    summary.chain(history.messages.iter().flat_map(|m| texts(&m.content, &history.cuts))).collect()
}

/// Texts that are shown whole.
fn texts(content: &[Block], cuts: &Cuts) -> Vec<String> {
    content
        .iter()
        .flat_map(|block| match block {
            Block::Text { text } => vec![text.clone()],
            Block::ToolResult { tool_use_id, content, .. } if cuts.of(tool_use_id).is_none() => {
                texts(content, cuts)
            }
            _ => Vec::new(),
        })
        .collect()
}
