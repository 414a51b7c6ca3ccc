//! The turn's state machine: data and one pure function.
//!
//! A turn is queued, running one of four steps, paused on a person, cancelling, or over. [`next`] is the
//! whole transition table; the driver may do only what it allows, and the brain stores the result in the
//! same transaction as the events that tell of it.

use brain::snapshots::Step;
use brain::turns::TurnState;

/// Where a turn stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Waits for a slot; goes on at `Step` when it gets one.
    Queued(Step),
    /// Owns a slot and performs a step.
    Running(Step),
    /// Waits for a person; owns no slot. Goes on with its tool calls.
    Paused,
    /// A cancel is committed.
    Cancelling,
    /// Over, with a stop reason.
    Completed,
    /// Over, with an error.
    Errored,
}

/// What happened to a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Happening {
    /// A slot was granted.
    SlotGranted,
    /// The context is built.
    ContextReady,
    /// The model answered without tool calls.
    Answered,
    /// The model asked for tool calls.
    ToolsAsked,
    /// The call must be made again (continuation, compaction, repair, a closing answer).
    CallAgain,
    /// Every tool call has an outcome.
    ToolsSettled,
    /// Every unfinished tool call waits for a person.
    AllWaiting,
    /// A person answered, or the question expired.
    PersonAnswered,
    /// Somebody asked to cancel.
    CancelAsked,
    /// Everything is stopped.
    Stopped,
    /// The end is written.
    Written,
    /// Something failed for good.
    Failed,
    /// The process died and another one found the turn.
    ProcessDied,
}

impl Happening {
    /// Everything that can happen.
    pub const ALL: [Happening; 13] = [
        Happening::SlotGranted,
        Happening::ContextReady,
        Happening::Answered,
        Happening::ToolsAsked,
        Happening::CallAgain,
        Happening::ToolsSettled,
        Happening::AllWaiting,
        Happening::PersonAnswered,
        Happening::CancelAsked,
        Happening::Stopped,
        Happening::Written,
        Happening::Failed,
        Happening::ProcessDied,
    ];
}

/// A happening that makes no sense in a phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{happening:?} cannot happen to a turn that is {phase:?}")]
pub struct Illegal {
    /// Where the turn stood.
    pub phase: Phase,
    /// What was claimed.
    pub happening: Happening,
}

impl Phase {
    /// Every phase.
    pub fn all() -> Vec<Phase> {
        let steps = Step::ALL.into_iter();
        let mut all: Vec<Phase> = steps.clone().map(Phase::Queued).chain(steps.map(Phase::Running)).collect();
        all.extend([Phase::Paused, Phase::Cancelling, Phase::Completed, Phase::Errored]);
        all
    }

    /// The stored state word.
    pub const fn state(self) -> TurnState {
        match self {
            Phase::Queued(_) => TurnState::Queued,
            Phase::Running(_) => TurnState::Running,
            Phase::Paused => TurnState::Paused,
            Phase::Cancelling => TurnState::Cancelling,
            Phase::Completed => TurnState::Completed,
            Phase::Errored => TurnState::Errored,
        }
    }

    /// From what the brain stores.
    pub const fn of(state: TurnState, step: Step) -> Self {
        match state {
            TurnState::Queued => Phase::Queued(step),
            TurnState::Running => Phase::Running(step),
            TurnState::Paused => Phase::Paused,
            TurnState::Cancelling => Phase::Cancelling,
            TurnState::Completed => Phase::Completed,
            TurnState::Errored => Phase::Errored,
        }
    }

    /// True while the turn holds one of the task slots.
    pub const fn owns_slot(self) -> bool {
        matches!(self, Phase::Running(_))
    }
}

/// The phase after `happening`.
pub fn next(phase: Phase, happening: Happening) -> Result<Phase, Illegal> {
    use Happening as H;
    use Phase as P;
    match (phase, happening) {
        (P::Queued(step), H::SlotGranted) => Ok(P::Running(step)),
        (P::Running(Step::Assemble), H::ContextReady) => Ok(P::Running(Step::Model)),
        (P::Running(Step::Model), H::Answered) => Ok(P::Running(Step::Finish)),
        (P::Running(Step::Model), H::ToolsAsked) => Ok(P::Running(Step::Tools)),
        (P::Running(Step::Model), H::CallAgain) => Ok(P::Running(Step::Model)),
        (P::Running(Step::Tools), H::ToolsSettled) => Ok(P::Running(Step::Model)),
        (P::Running(Step::Tools), H::AllWaiting) => Ok(P::Paused),
        (P::Running(Step::Finish), H::Written) => Ok(P::Completed),
        (P::Running(Step::Tools), H::PersonAnswered) => Ok(P::Running(Step::Tools)),
        (P::Paused, H::PersonAnswered) => Ok(P::Queued(Step::Tools)),
        (P::Queued(_) | P::Running(_) | P::Paused | P::Cancelling, H::CancelAsked) => Ok(P::Cancelling),
        (P::Cancelling, H::Stopped) => Ok(P::Completed),
        (P::Queued(_) | P::Running(_), H::Failed) => Ok(P::Errored),
        (P::Queued(step) | P::Running(step), H::ProcessDied) => Ok(P::Queued(step)),
        (P::Paused, H::ProcessDied) => Ok(P::Paused),
        (P::Cancelling, H::ProcessDied) => Ok(P::Cancelling),
        _ => Err(Illegal { phase, happening }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{HashMap, HashSet};

    fn table() -> HashMap<Phase, HashSet<Happening>> {
        let mut legal: HashMap<Phase, HashSet<Happening>> = HashMap::new();
        for phase in Phase::all() {
            let set = Happening::ALL.into_iter().filter(|h| next(phase, *h).is_ok()).collect();
            legal.insert(phase, set);
        }
        legal
    }

    #[test]
    fn the_whole_table_is_what_the_specification_says() {
        use Happening as H;
        let legal = table();
        let set = |h: &[Happening]| h.iter().copied().collect::<HashSet<_>>();
        for step in Step::ALL {
            assert_eq!(
                legal[&Phase::Queued(step)],
                set(&[H::SlotGranted, H::CancelAsked, H::Failed, H::ProcessDied])
            );
        }
        let running = [H::CancelAsked, H::Failed, H::ProcessDied];
        let with = |more: &[Happening]| set(&[&running[..], more].concat());
        assert_eq!(legal[&Phase::Running(Step::Assemble)], with(&[H::ContextReady]));
        assert_eq!(legal[&Phase::Running(Step::Model)], with(&[H::Answered, H::ToolsAsked, H::CallAgain]));
        assert_eq!(
            legal[&Phase::Running(Step::Tools)],
            with(&[H::ToolsSettled, H::AllWaiting, H::PersonAnswered])
        );
        assert_eq!(legal[&Phase::Running(Step::Finish)], with(&[H::Written]));
        assert_eq!(legal[&Phase::Paused], set(&[H::PersonAnswered, H::CancelAsked, H::ProcessDied]));
        assert_eq!(legal[&Phase::Cancelling], set(&[H::Stopped, H::CancelAsked, H::ProcessDied]));
        assert_eq!(legal[&Phase::Completed], set(&[]));
        assert_eq!(legal[&Phase::Errored], set(&[]));
    }

    #[test]
    fn nothing_leaves_a_terminal_phase_and_a_dead_process_never_ends_a_turn() {
        for phase in Phase::all() {
            for happening in Happening::ALL {
                if let Ok(after) = next(phase, happening) {
                    assert!(!phase.state().is_terminal());
                    if happening == Happening::ProcessDied {
                        assert!(!after.state().is_terminal());
                        assert!(!after.owns_slot(), "a slot dies with its process");
                    }
                }
            }
        }
    }

    #[test]
    fn every_open_phase_can_be_cancelled() {
        for phase in Phase::all().into_iter().filter(|p| !p.state().is_terminal()) {
            assert_eq!(next(phase, Happening::CancelAsked), Ok(Phase::Cancelling));
        }
    }
}
