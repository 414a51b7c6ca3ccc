//! Which loop of a turn is meant: the main one, or one that a `delegate` call started below it.
//!
//! There is one loop and one machine; a frame says where its messages are put, whose name its events carry and
//! where its checkpoint is kept. It refuses to know what the loop does.
//!
//! The invariant: everything a nested loop writes names the call that started it, so no main context, no list of
//! messages and no other loop ever takes it for its own.

use crate::core::Core;
use crate::memory::Recalled;
use crate::tools::toolbox::Toolbox;
use crate::turn::checkpoint::{Checkpoint, Inner};
use crate::turn::coordinator::Control;
use crate::turn::recall;
use brain::prompts::Prompt;
use brain::snapshots::{self, Step};
use brain::turns::Turn;
use brain::{Tx, messages};
use contract::conversation::{Block, Role};
use contract::event::{Nested, Purpose};
use contract::{CallId, MessageId, Timestamp};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Nested loops below one another. Deeper chains cost a full loop per level and lose the thread of what was asked.
/// (specification 6.5)
pub const MAX_DEPTH: u32 = 2;

/// One loop of a turn.
#[derive(Debug, Clone)]
pub struct Frame {
    /// The call that started it; `None` for the main loop.
    pub parent: Option<CallId>,
    /// The call whose loop that call belongs to.
    pub within: Option<CallId>,
    /// 0 for the main loop.
    pub depth: u32,
    /// Calls of all loops of the turn that may run at once. A `delegate` call takes none while its loop works:
    /// else loops that wait for their own calls would keep each other from running.
    pub permits: Arc<Semaphore>,
}

/// What every part of one loop works with.
#[derive(Clone, Copy)]
pub struct Seat<'a> {
    /// The Engine.
    pub core: &'a Arc<Core>,
    /// The turn as this loop sees it: the agent is the loop's own.
    pub turn: &'a Turn,
    /// Which loop.
    pub frame: &'a Frame,
    /// What its agent may call.
    pub toolbox: &'a Toolbox,
    /// How it is told to stop, and that somebody has answered.
    pub control: &'a Arc<Control>,
}

impl Seat<'_> {
    /// What the loop's events say beside their own fields.
    pub fn nested(&self) -> Option<Nested> {
        self.frame.nested(&self.turn.agent)
    }

    /// True when the loop must stop where it is.
    pub fn must_stop(&self) -> bool {
        self.control.cancel.is_cancelled() || self.core.halt.is_cancelled()
    }
}

impl Frame {
    /// The main loop of a turn, whose loops may run so many calls at once.
    pub fn main(calls_at_once: usize) -> Self {
        Self { parent: None, within: None, depth: 0, permits: Arc::new(Semaphore::new(calls_at_once)) }
    }

    /// The loop that a call of this one starts.
    pub fn below(&self, call: &CallId) -> Self {
        Self {
            parent: Some(call.clone()),
            within: self.parent.clone(),
            depth: self.depth + 1,
            permits: Arc::clone(&self.permits),
        }
    }

    /// True for the main loop.
    pub fn is_main(&self) -> bool {
        self.parent.is_none()
    }

    /// What the events of a loop carry, when this agent works in it.
    pub fn nested(&self, agent: &str) -> Option<Nested> {
        let parent_tool_call_id = self.parent.clone()?;
        Some(Nested { agent: agent.to_owned(), parent_tool_call_id })
    }

    /// What its model calls are for.
    pub fn purpose(&self) -> Purpose {
        if self.is_main() { Purpose::Main } else { Purpose::Subagent }
    }

    /// Writes where the loop stands: the turn's checkpoint, or its place in it. Loops below this one are forgotten
    /// as soon as it has left step tools, because their results are part of its conversation then.
    pub fn store(
        &self,
        tx: &Tx<'_>,
        turn: &Turn,
        at: Step,
        checkpoint: &Checkpoint,
        expiry: Timestamp,
    ) -> brain::Result<()> {
        let (step, mut whole) = match &self.parent {
            None => (at, checkpoint.clone()),
            Some(call) => {
                let (step, mut whole) = whole(tx, turn)?;
                whole.nested.insert(call.clone(), self.inner(turn, at, checkpoint.clone()));
                (step, whole)
            }
        };
        let (before, stored) = self::whole(tx, turn)?;
        if before != Step::Assemble {
            keep_forgotten(&mut whole, &stored);
        }
        match &self.parent {
            _ if at == Step::Tools => {}
            None => whole.nested.clear(),
            Some(_) => whole.nested.retain(|_, inner| inner.within != self.parent),
        }
        let stored = whole.snapshot(step);
        snapshots::put(tx, &turn.turn_id, &turn.task_id, &stored, Timestamp::now(), expiry)
    }

    /// Finds the nested loop where an earlier attempt left it, or opens it with what it is told to do and what is known
    /// about that.
    pub fn open(
        &self,
        tx: &Tx<'_>,
        turn: &Turn,
        told: Vec<Block>,
        recalled: Option<Recalled>,
        expiry: Timestamp,
    ) -> brain::Result<(Step, Checkpoint)> {
        let (_, whole) = whole(tx, turn)?;
        if let Some(inner) = self.parent.as_ref().and_then(|call| whole.nested.get(call)) {
            return Ok((inner.step, inner.state.clone()));
        }
        messages::append(
            tx,
            &messages::NewMessage {
                message_id: MessageId::generate(),
                task_id: turn.task_id.clone(),
                turn_id: turn.turn_id.clone(),
                role: Role::User,
                token_estimate: crate::turn::context::estimate_blocks(&told),
                content: told,
                active: true,
                agent: None,
                parent: self.parent.clone(),
                at: Timestamp::now(),
            },
        )?;
        // the whole turn names one day and has one soul, whatever the clock and the brain say by now
        let mut checkpoint = Checkpoint { day: whole.day, soul: whole.soul, ..Checkpoint::default() };
        recall::commit(tx, turn, &mut checkpoint, recalled)?;
        self.store(tx, turn, Step::Model, &checkpoint, expiry)?;
        Ok((Step::Model, checkpoint))
    }

    /// Whether the nested loop has begun.
    pub fn is_open(&self, tx: &Tx<'_>, turn: &Turn) -> brain::Result<bool> {
        let (_, whole) = whole(tx, turn)?;
        Ok(self.parent.as_ref().is_some_and(|call| whole.nested.contains_key(call)))
    }

    /// The block that was recalled into this loop.
    pub fn memory(&self, tx: &Tx<'_>, turn: &Turn) -> brain::Result<Option<String>> {
        let (_, mut whole) = whole(tx, turn)?;
        Ok(match &self.parent {
            None => whole.memory,
            Some(call) => whole.nested.remove(call).and_then(|inner| inner.state.memory),
        })
    }

    fn inner(&self, turn: &Turn, step: Step, state: Checkpoint) -> Inner {
        Inner { agent: turn.agent.clone(), depth: self.depth, within: self.within.clone(), step, state }
    }
}

/// What was taken out of the stored checkpoint because a memory was erased is not brought back by a loop that has had it
/// in RAM since before.
fn keep_forgotten(checkpoint: &mut Checkpoint, stored: &Checkpoint) {
    if stored.memory.is_none() {
        checkpoint.memory = None;
    }
    for (call, inner) in &mut checkpoint.nested {
        if stored.nested.get(call).is_some_and(|stored| stored.state.memory.is_none()) {
            inner.state.memory = None;
        }
    }
}

/// The checkpoint of the whole turn.
fn whole(tx: &Tx<'_>, turn: &Turn) -> brain::Result<(Step, Checkpoint)> {
    let bad =
        || brain::Error::bad_data("channel_state_snapshots.state_json", turn.turn_id.as_str().to_owned());
    let snapshot = snapshots::get(tx, &turn.turn_id)?.ok_or_else(bad)?;
    let checkpoint = Checkpoint::read(snapshot.state).map_err(|_| bad())?;
    Ok((snapshot.step, checkpoint))
}

/// The details of a question with the nested loop that asks it, for whoever settles it later.
pub fn named_in(mut details: Value, nested: Option<&Nested>) -> Value {
    if let Some(nested) = nested {
        details["nested"] =
            json!({"agent": nested.agent, "parent_tool_call_id": nested.parent_tool_call_id.as_str()});
    }
    details
}

/// The nested loop that asked a question.
pub fn asker(prompt: &Prompt) -> Option<Nested> {
    let nested = prompt.details.get("nested")?;
    Some(Nested {
        agent: nested["agent"].as_str()?.to_owned(),
        parent_tool_call_id: CallId::parse(nested["parent_tool_call_id"].as_str()?).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_below_another_names_the_call_that_started_it_and_shares_its_permits() {
        let main = Frame::main(3);
        assert!(main.is_main() && main.nested("assistant").is_none());
        let (first, second) = (CallId::generate(), CallId::generate());
        let below = main.below(&first).below(&second);
        assert_eq!((below.depth, below.within.as_ref()), (MAX_DEPTH, Some(&first)));
        let nested = below.nested("writer").expect("a nested loop");
        assert_eq!((nested.agent.as_str(), &nested.parent_tool_call_id), ("writer", &second));
        let _held = below.permits.try_acquire().expect("free");
        assert_eq!(main.permits.available_permits(), 2);
    }
}
