//! The words of long-term memory: which store, of what kind, and how far it may be trusted.
//!
//! They are written in the brain, shown by the API and read back from bundles, so a change here is a change
//! of all three. Nothing is decided here; the rules are in the crate `memory`.

use serde::{Deserialize, Serialize};

/// A closed set of words with the same spelling in JSON, SQL and Rust's `Display`.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
        pub enum $name {
            $($(#[$vdoc])* #[serde(rename = $word)] $variant,)+
        }

        impl $name {
            /// Every word, in the order of declaration.
            pub const ALL: &'static [$name] = &[$($name::$variant),+];

            /// The word on the wire and at rest.
            pub const fn as_str(self) -> &'static str {
                match self { $($name::$variant => $word),+ }
            }

            /// Reads a word; `None` for any other.
            pub fn parse(text: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|w| w.as_str() == text)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

words!(
    /// One of the three stores that are searched. Its word is the one in `/memory/{store}`.
    Store {
        /// What happened.
        Episodes = "episodes",
        /// What holds.
        Knowledge = "knowledge",
        /// Who there is and how they are related.
        Social = "social",
    }
);

words!(
    /// How far a memory may be trusted. The order is the order of trust: the smallest of a lineage counts.
    Trust {
        /// From web, MCP, fetched or attached content: only ever quoted.
        Untrusted = "untrusted",
        /// From a local tool's output, or confirmed by the person.
        Tool = "tool",
        /// The person said it.
        User = "user",
    }
);

words!(
    /// Where an episode comes from.
    EpisodeKind {
        /// Written at the end of a turn, without a model.
        Turn = "turn",
        /// Found by the Learning Centre.
        Event = "event",
        /// Written on purpose, by a tool or the API.
        Note = "note",
    }
);

words!(
    /// What a piece of knowledge is.
    FactType {
        /// Something that is so.
        Fact = "fact",
        /// Something to keep to.
        Rule = "rule",
        /// What the person likes better.
        Preference = "preference",
        /// How something is done.
        Procedure = "procedure",
    }
);

words!(
    /// What a node of the social graph is.
    NodeKind {
        /// A human being.
        Person = "person",
        /// A company, team, club.
        Organization = "organization",
        /// Anything else with a name.
        Other = "other",
    }
);

words!(
    /// What a memory stems from.
    ParentKind {
        /// A message of a conversation.
        Message = "message",
        /// A whole turn.
        Trajectory = "trajectory",
        /// Another memory.
        Memory = "memory",
        /// Feedback of the person.
        Signal = "signal",
        /// A bundle that was imported.
        Import = "import",
    }
);

words!(
    /// What a person thought of an answer.
    Rating {
        /// Good.
        Up = "up",
        /// Bad.
        Down = "down",
    }
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_trusted_parent_is_the_smallest() {
        assert_eq!([Trust::User, Trust::Untrusted, Trust::Tool].into_iter().min(), Some(Trust::Untrusted));
        assert!(Trust::Tool < Trust::User);
    }

    #[test]
    fn every_word_reads_back_and_is_the_one_in_json() {
        for store in Store::ALL {
            assert_eq!(Store::parse(store.as_str()), Some(*store));
            assert_eq!(serde_json::to_value(store).expect("a word"), store.as_str());
        }
        assert_eq!(Trust::parse("USER"), None);
    }
}
