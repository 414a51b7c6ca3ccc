//! The rows of a bundle, the same for writing and for reading (specification 3.6, `september-memory/1`).
//!
//! A field that is missing in an older or hand-written bundle has the value that says least: no source is the bundle
//! itself, no lineage is "for its own sake". What a row may hold is judged in [`super::check`].
//!
//! The invariant: a field is only ever added here, with a default; bundles outlive versions.

use super::kinds::{Attributes, Few, Share};
use ::memory::field::ALIASES;
use ::memory::soul::LINES;
use brain::memory::lineage::Parent;
use contract::memory::{EpisodeKind, FactType, NodeKind, ParentKind, Rating, Trust};
use contract::{EdgeId, EpisodeId, FactId, MessageId, NodeId, SignalId, TaskId, Timestamp, TurnId};
use serde::{Deserialize, Serialize};

/// Parents of one memory. More makes one row of a hostile bundle thousands of rows of the brain; fewer refuses what was
/// said again and again.
pub const PARENTS: usize = 10_000;
/// Aliases are read with some to spare, so that a list with repetitions is told apart from one that is too long.
const ALIASES_READ: usize = 4 * ALIASES;
/// The same for lines of the soul.
const LINES_READ: usize = 4 * LINES;

/// One thing a memory stems from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParentRow {
    /// What it is.
    pub kind: ParentKind,
    /// Its id.
    pub id: String,
}

impl From<Parent> for ParentRow {
    fn from(parent: Parent) -> Self {
        Self { kind: parent.kind, id: parent.id }
    }
}

/// A memory: its own fields, then those that every memory carries.
macro_rules! memory_row {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $kind:ty,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $kind,)+
            /// 0 to 1.
            pub confidence: Share,
            /// How far its sources may be trusted.
            pub trust: Trust,
            /// Where it comes from.
            #[serde(default)]
            pub source: Option<String>,
            /// Why it was kept.
            #[serde(default)]
            pub rationale: String,
            /// When it was last said again.
            #[serde(default)]
            pub last_confirmed_at: Option<Timestamp>,
            /// When it was first kept.
            pub created_at: Timestamp,
            /// When it last changed.
            #[serde(default)]
            pub updated_at: Option<Timestamp>,
            /// What it stems from.
            #[serde(default)]
            pub lineage: Few<ParentRow, PARENTS>,
        }
    };
}

memory_row!(
    /// An episode.
    EpisodeRow {
        /// Its id.
        id: EpisodeId,
        /// turn, event, note.
        kind: EpisodeKind,
        /// A short name.
        key: String,
        /// What happened.
        description: String,
        /// More about it.
        #[serde(default)]
        value: Option<String>,
        /// The task it happened in.
        #[serde(default)]
        task_id: Option<TaskId>,
        /// The turn it happened in.
        #[serde(default)]
        turn_id: Option<TurnId>,
        /// Its place in the task.
        #[serde(default)]
        position: Option<i64>,
        /// When it happened.
        occurred_at: Timestamp,
    }
);

memory_row!(
    /// A fact.
    FactRow {
        /// Its id.
        id: FactId,
        /// What it is about.
        subject: String,
        /// What it says.
        content: String,
        /// fact, rule, preference, procedure.
        #[serde(rename = "type")]
        kind: FactType,
        /// Since when.
        valid_from: Timestamp,
        /// Until when.
        #[serde(default)]
        valid_until: Option<Timestamp>,
        /// What took its place.
        #[serde(default)]
        superseded_by: Option<FactId>,
    }
);

memory_row!(
    /// A node of the social graph.
    NodeRow {
        /// Its id.
        id: NodeId,
        /// Its name.
        name: String,
        /// person, organization, other.
        kind: NodeKind,
        /// Other names.
        #[serde(default)]
        aliases: Few<String, ALIASES_READ>,
        /// What else is known.
        #[serde(default)]
        attributes: Attributes,
    }
);

memory_row!(
    /// A relation of the social graph.
    EdgeRow {
        /// Its id.
        id: EdgeId,
        /// Who.
        from: NodeId,
        /// To whom.
        to: NodeId,
        /// How they are related.
        relation: String,
        /// Since when.
        valid_from: Timestamp,
        /// Until when.
        #[serde(default)]
        valid_until: Option<Timestamp>,
    }
);

/// A script of a skill.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScriptRow {
    /// Its file name.
    pub name: String,
    /// What it holds.
    pub content: String,
}

/// A custom skill.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SkillRow {
    /// Its name.
    pub name: String,
    /// What it is for.
    #[serde(default)]
    pub description: String,
    /// A free word.
    #[serde(default)]
    pub category: String,
    /// The prompt.
    #[serde(default)]
    pub prompt_template: Option<String>,
    /// Its scripts; the first is the one that is run.
    #[serde(default)]
    pub scripts: Few<ScriptRow, { crate::catalog::skill::SCRIPTS_MAX }>,
    /// Words for people.
    #[serde(default)]
    pub capabilities: Few<String, { crate::catalog::skill::CAPABILITIES_MAX }>,
    /// How sure its maker was.
    pub confidence: Share,
    /// Where it comes from.
    #[serde(default)]
    pub source: Option<String>,
    /// Trust of that source.
    pub trust: Trust,
}

/// Feedback.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignalRow {
    /// Its id.
    pub id: SignalId,
    /// The message it is about.
    pub message_id: MessageId,
    /// The turn of that message.
    pub turn_id: TurnId,
    /// up or down.
    #[serde(default)]
    pub rating: Option<Rating>,
    /// In words.
    #[serde(default)]
    pub comment: Option<String>,
    /// What the answer should have been.
    #[serde(default)]
    pub corrected: Option<String>,
    /// When it was given.
    pub created_at: Timestamp,
    /// When it was learned from.
    #[serde(default)]
    pub processed_at: Option<Timestamp>,
}

/// The present soul.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SoulRow {
    /// Who the assistant is.
    #[serde(default)]
    pub identity: String,
    /// What it holds to.
    #[serde(default)]
    pub values: Few<String, LINES_READ>,
    /// How it goes about things.
    #[serde(default)]
    pub patterns: Few<String, LINES_READ>,
    /// Its number.
    pub version: i64,
    /// catalog, learning, user.
    pub source: String,
    /// When it was written.
    pub updated_at: Timestamp,
}

/// A version of the soul.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionRow {
    /// Its number.
    pub version: i64,
    /// Who the assistant was.
    #[serde(default)]
    pub identity: String,
    /// What it held to.
    #[serde(default)]
    pub values: Few<String, LINES_READ>,
    /// How it went about things.
    #[serde(default)]
    pub patterns: Few<String, LINES_READ>,
    /// catalog, learning, user.
    pub source: String,
    /// Why it was written.
    #[serde(default)]
    pub rationale: String,
    /// When.
    pub created_at: Timestamp,
}

/// One row of any kind.
#[derive(Debug, Clone, PartialEq)]
pub enum Row {
    /// The present soul.
    Soul(SoulRow),
    /// A version of the soul.
    Version(VersionRow),
    /// An episode.
    Episode(EpisodeRow),
    /// A fact.
    Fact(FactRow),
    /// A node.
    Node(NodeRow),
    /// A relation.
    Edge(EdgeRow),
    /// A skill.
    Skill(SkillRow),
    /// Feedback.
    Signal(SignalRow),
}
