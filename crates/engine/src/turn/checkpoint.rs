//! What a turn must remember to go on after `kill -9`: the document in `channel_state_snapshots`.

use crate::turn::compact::Cuts;
use brain::snapshots::{Snapshot, Step};
use contract::{CallId, MessageId, StopReason, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// The engine's part of a checkpoint. Unknown fields of a newer version are refused by the brain's version
/// number, missing ones take their defaults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Checkpoint {
    /// Model calls of the main loop that have ended.
    pub iteration: u32,
    /// The next `block_index`.
    pub next_block: u32,
    /// Text of the answer under way that earlier, cut-off calls have already streamed.
    pub carried: String,
    /// A tool call of the answer under way was cut off by the output limit; the model is told.
    pub lost_call: bool,
    /// Events with a greater `seq` belong to the model call under way.
    pub call_after_seq: i64,
    /// In step tools: the assistant message whose calls run.
    pub assistant: Option<MessageId>,
    /// In step finish: how the turn ends.
    pub ending: Option<(StopReason, Option<Value>)>,
    /// True for the last call, made without tools (AGENT_MAX_ITERATIONS).
    pub closing: bool,
    /// Continuations of a cut-off answer so far (TOKEN_BUDGET).
    pub continuations: u32,
    /// Repair calls for output_schema so far.
    pub repairs: u32,
    /// The answer that did not validate, and what the model is told about it.
    pub repair: Option<(String, String)>,
    /// Times a stop hook has sent the model back to work.
    pub refusals: u32,
    /// Working memory as rendered for this turn; kept so that the prefix stays the same.
    pub working_memory: Option<String>,
    /// The soul as rendered when the turn began; one that is edited meanwhile is the next turn's.
    pub soul: Option<String>,
    /// The block of what was recalled into this loop.
    pub memory: Option<String>,
    /// Tokens the provider counted in the last call of this turn, and the position it covered.
    pub counted: Option<Counted>,
    /// Compactions tried for the call under way because the provider said the context is too large.
    pub overflows: u32,
    /// The call under way is made once more because the provider refused media in it.
    pub media_refused: bool,
    /// The date the system prompt names; kept so that the prefix stays the same past midnight.
    pub day: String,
    /// In a nested loop: what is shown shortened. The main loop's stands in `compactions`, because it outlives the
    /// turn.
    pub cuts: Cuts,
    /// In a nested loop: what it said and read up to this position has left its context, but for its task.
    pub left_up_to: Option<i64>,
    /// The rest of this turn sees a note instead of the summary of earlier turns, which is kept for the turns to come:
    /// what cannot go leaves no room for it.
    pub without_summary: bool,
    /// In step tools: the nested loops under way, by the call that started them. All of them stand here, also
    /// those that a nested loop started.
    pub nested: BTreeMap<CallId, Inner>,
}

/// Where a nested loop stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Inner {
    /// The agent that works in it.
    pub agent: String,
    /// 1 below the main loop, 2 below that.
    pub depth: u32,
    /// The call whose loop made the call that started it; `None` when the main loop did.
    pub within: Option<CallId>,
    /// The step it is in, as the brain spells it.
    #[serde(with = "step_word")]
    pub step: Step,
    /// What it must remember; its own `nested` stays empty.
    pub state: Checkpoint,
}

mod step_word {
    use brain::snapshots::Step;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(step: &Step, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(step.as_str())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Step, D::Error> {
        let word = String::deserialize(from)?;
        Step::parse(&word).ok_or_else(|| D::Error::custom("no step of the loop"))
    }
}

/// What the provider counted, and for how much of the conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    /// Input plus output tokens of that call.
    pub tokens: u64,
    /// Messages up to this position are covered by it.
    pub up_to_position: i64,
}

impl Default for Checkpoint {
    fn default() -> Self {
        Self {
            iteration: 0,
            next_block: 0,
            carried: String::new(),
            lost_call: false,
            call_after_seq: 0,
            assistant: None,
            ending: None,
            closing: false,
            continuations: 0,
            repairs: 0,
            repair: None,
            refusals: 0,
            working_memory: None,
            soul: None,
            memory: None,
            counted: None,
            overflows: 0,
            media_refused: false,
            day: Timestamp::now().to_string().chars().take(10).collect(),
            cuts: Cuts::default(),
            left_up_to: None,
            without_summary: false,
            nested: BTreeMap::new(),
        }
    }
}

impl Checkpoint {
    /// The stored form, in the given step.
    pub fn snapshot(&self, step: Step) -> Snapshot {
        let state =
            serde_json::to_value(self).expect("a checkpoint has text keys and no failing serialisers");
        Snapshot { step, state }
    }

    /// Reads the stored form back.
    pub fn read(state: Value) -> Result<Self, serde_json::Error> {
        serde_json::from_value(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_reads_back_whole() {
        let mut checkpoint =
            Checkpoint { iteration: 3, carried: "Half a sen".into(), ..Checkpoint::default() };
        let inner = Inner {
            agent: "writer".into(),
            depth: 1,
            within: None,
            step: Step::Tools,
            state: Checkpoint { left_up_to: Some(4), ..Checkpoint::default() },
        };
        checkpoint.nested.insert(CallId::generate(), inner);
        let snapshot = checkpoint.snapshot(Step::Model);
        assert_eq!(Checkpoint::read(snapshot.state).expect("reads"), checkpoint);
    }

    #[test]
    fn a_checkpoint_of_an_earlier_build_takes_defaults() {
        let read = Checkpoint::read(serde_json::json!({"iteration": 2})).expect("reads");
        assert_eq!(read.iteration, 2);
        assert_eq!(read.carried, "");
    }
}
