//! How far a new memory may be trusted: as far as the least trusted thing it rests on.
//!
//! A turn that read anything from outside is tainted, and whatever is written from it may have been dictated by a page;
//! only what the person's own messages show escapes that.
//!
//! The invariant: adding a parent never raises trust.

use contract::memory::Trust;

/// What a memory is taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evidence {
    /// A message of the person, or a correction in feedback.
    UserMessage,
    /// A message of the assistant.
    AssistantMessage,
    /// The output of a local tool, or a result that the person confirmed.
    LocalTool,
    /// Web, MCP, fetched or attached content.
    Outside,
    /// Another memory, with its own trust.
    Memory(Trust),
}

impl Evidence {
    /// How far it may be trusted by itself.
    pub const fn trust(self) -> Trust {
        match self {
            Evidence::UserMessage => Trust::User,
            Evidence::AssistantMessage | Evidence::LocalTool => Trust::Tool,
            Evidence::Outside => Trust::Untrusted,
            Evidence::Memory(trust) => trust,
        }
    }
}

/// Whether a turn has read content from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// It has not.
    Clean,
    /// It has.
    Tainted,
}

/// The least trust of a lineage. Without any parent nothing speaks for a memory.
pub fn of_lineage(parents: impl IntoIterator<Item = Trust>) -> Trust {
    parents.into_iter().min().unwrap_or(Trust::Untrusted)
}

/// The trust of what the agent or the Learning Centre writes from a turn.
pub fn of_writing(turn: Turn, evidence: &[Evidence]) -> Trust {
    let only_the_person = evidence.iter().all(|e| *e == Evidence::UserMessage);
    match turn {
        Turn::Tainted if !only_the_person => Trust::Untrusted,
        Turn::Tainted | Turn::Clean => of_lineage(evidence.iter().map(|e| e.trust())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: [Evidence; 7] = [
        Evidence::UserMessage,
        Evidence::AssistantMessage,
        Evidence::LocalTool,
        Evidence::Outside,
        Evidence::Memory(Trust::User),
        Evidence::Memory(Trust::Tool),
        Evidence::Memory(Trust::Untrusted),
    ];

    #[test]
    fn another_parent_never_raises_trust() {
        for turn in [Turn::Clean, Turn::Tainted] {
            for first in EVERY {
                for second in EVERY {
                    assert!(of_writing(turn, &[first, second]) <= of_writing(turn, &[first]));
                }
            }
        }
    }

    #[test]
    fn a_tainted_turn_is_believed_only_where_the_person_speaks() {
        for evidence in EVERY {
            let expected = if evidence == Evidence::UserMessage { Trust::User } else { Trust::Untrusted };
            assert_eq!(of_writing(Turn::Tainted, &[evidence]), expected);
        }
        let mixed = [Evidence::UserMessage, Evidence::AssistantMessage];
        assert_eq!(of_writing(Turn::Tainted, &mixed), Trust::Untrusted);
        assert_eq!(of_writing(Turn::Clean, &mixed), Trust::Tool);
    }

    #[test]
    fn nothing_speaks_for_a_memory_without_parents() {
        assert_eq!(of_lineage([]), Trust::Untrusted);
        assert_eq!(of_writing(Turn::Clean, &[]), Trust::Untrusted);
    }
}
