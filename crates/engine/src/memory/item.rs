//! What is handed to memory and what comes back: typed, so that a handler, a tool, a turn and the Learning Centre mean
//! the same.
//!
//! [`Wanted::checked`] is the first step of the write gate: nothing longer, emptier or dirtier than the specification
//! allows gets a row. Nothing is decided here beyond that.
//!
//! The invariant: a checked text checks again to itself.

use ::memory::field::{self, Field, Refused};
use brain::memory::edges::Relations;
use brain::memory::episodes::Episode;
use brain::memory::erase::Erased;
use brain::memory::knowledge::Fact;
use brain::memory::lineage::Parent;
use brain::memory::nodes::Node;
use brain::memory::{MemoryId, Provenance, Stored};
use contract::memory::{EpisodeKind, FactType, NodeKind, Store, Trust};
use contract::{NodeId, TaskId, Timestamp, TurnId};
use serde_json::{Map, Value};

/// A question to one store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Search {
    /// Which store.
    pub store: Store,
    /// In any words; empty lists the newest.
    pub query: String,
    /// Most items in the answer.
    pub limit: usize,
    /// The time it is asked.
    pub now: Timestamp,
}

/// Which of the two searches answer. Everybody asks both; one alone is for measuring what each is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// Words and vectors.
    Both,
    /// Words alone, as when the vector comes too late.
    Words,
    /// Vectors alone.
    Vector,
}

/// A memory as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub enum Item {
    /// What happened.
    Episode(Stored<Episode>),
    /// What holds.
    Fact(Stored<Fact>),
    /// Who there is, with relations.
    Node(Stored<Node>, Relations),
}

impl Item {
    /// Its id.
    pub fn id(&self) -> MemoryId {
        match self {
            Item::Episode(e) => MemoryId::Episode(e.item.episode_id.clone()),
            Item::Fact(f) => MemoryId::Fact(f.item.fact_id.clone()),
            Item::Node(n, _) => MemoryId::Node(n.item.node_id.clone()),
        }
    }

    /// The store it is searched in.
    pub const fn store(&self) -> Store {
        match self {
            Item::Episode(_) => Store::Episodes,
            Item::Fact(_) => Store::Knowledge,
            Item::Node(..) => Store::Social,
        }
    }

    /// Where it comes from.
    pub fn provenance(&self) -> &Provenance {
        match self {
            Item::Episode(e) => &e.item.provenance,
            Item::Fact(f) => &f.item.provenance,
            Item::Node(n, _) => &n.item.provenance,
        }
    }

    /// When it happened, began to be so, or was first kept.
    pub fn at(&self) -> Timestamp {
        match self {
            Item::Episode(e) => e.item.occurred_at,
            Item::Fact(f) => f.item.valid_from,
            Item::Node(n, _) => n.item.provenance.created_at,
        }
    }

    /// When it ceased to be so.
    pub fn valid_until(&self) -> Option<Timestamp> {
        match self {
            Item::Fact(f) => f.item.valid_until,
            Item::Episode(_) | Item::Node(..) => None,
        }
    }
}

/// A memory that was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Hit {
    /// The memory.
    pub item: Item,
    /// What it is sorted by, 0 or more.
    pub score: f64,
}

/// What somebody wants to be kept.
#[derive(Debug, Clone, PartialEq)]
pub enum Wanted {
    /// What happened.
    Episode(NewEpisode),
    /// What holds.
    Fact(NewFact),
    /// Who there is. A node that is there already gets the new aliases, attributes and relations.
    Node(NewNode),
    /// How two are related. An end that is only named is made when nobody is called so.
    Edge(NewEdge),
}

/// A new episode.
#[derive(Debug, Clone, PartialEq)]
pub struct NewEpisode {
    /// turn, event or note.
    pub kind: EpisodeKind,
    /// A short name.
    pub key: String,
    /// What happened; of a turn the person's message.
    pub description: String,
    /// More about it; of a turn the answer.
    pub value: Option<String>,
    /// When; the moment of writing if none.
    pub occurred_at: Option<Timestamp>,
    /// The task it happened in.
    pub task_id: Option<TaskId>,
    /// The turn it happened in.
    pub turn_id: Option<TurnId>,
    /// Its place in the task (of a turn: its number); without one it has no neighbours.
    pub position: Option<i64>,
}

/// A new fact.
#[derive(Debug, Clone, PartialEq)]
pub struct NewFact {
    /// What it is about.
    pub subject: String,
    /// What it says.
    pub content: String,
    /// fact, rule, preference, procedure.
    pub kind: FactType,
    /// Since when; the moment of writing if none.
    pub valid_from: Option<Timestamp>,
    /// Until when.
    pub valid_until: Option<Timestamp>,
}

/// A new node.
#[derive(Debug, Clone, PartialEq)]
pub struct NewNode {
    /// Its name.
    pub name: String,
    /// What it is; person if nobody says, and of a node that is there what it was.
    pub kind: Option<NodeKind>,
    /// Other names.
    pub aliases: Vec<String>,
    /// What else is known.
    pub attributes: Map<String, Value>,
    /// Relations that lead away from it.
    pub relations: Vec<NewRelation>,
}

/// A relation of a node that is written with it.
#[derive(Debug, Clone, PartialEq)]
pub struct NewRelation {
    /// `manager_of`, `sister_of`, …
    pub relation: String,
    /// To whom.
    pub to: End,
    /// How sure; as sure as the node if none.
    pub confidence: Option<f64>,
}

/// A new relation.
#[derive(Debug, Clone, PartialEq)]
pub struct NewEdge {
    /// Who.
    pub from: End,
    /// `manager_of`, `sister_of`, …
    pub relation: String,
    /// To whom.
    pub to: End,
    /// Since when; the moment of writing if none.
    pub valid_from: Option<Timestamp>,
}

/// One end of a relation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// A node that exists; when it does not, the relation is rejected.
    Id(NodeId),
    /// The node with this name or alias, or a new one.
    Name(String),
}

impl End {
    /// Reads `soc-…` as an id and everything else as a name.
    pub fn parse(text: &str) -> Self {
        NodeId::parse(text).map_or_else(|_| Self::Name(text.to_owned()), Self::Id)
    }

    fn checked(self) -> Result<Self, Refused> {
        match self {
            End::Id(id) => Ok(End::Id(id)),
            End::Name(name) => field::text(Field::Name, &name).map(End::Name),
        }
    }
}

impl Wanted {
    /// The store it goes to.
    pub const fn store(&self) -> Store {
        match self {
            Wanted::Episode(_) => Store::Episodes,
            Wanted::Fact(_) => Store::Knowledge,
            Wanted::Node(_) | Wanted::Edge(_) => Store::Social,
        }
    }

    /// The same with every text cleaned, or which field is refused and why.
    pub fn checked(self) -> Result<Self, Refused> {
        Ok(match self {
            Wanted::Episode(e) => Wanted::Episode(e.checked()?),
            Wanted::Fact(f) => Wanted::Fact(NewFact {
                subject: field::text(Field::Subject, &f.subject)?,
                content: field::text(Field::Content, &f.content)?,
                ..f
            }),
            Wanted::Node(n) => Wanted::Node(n.checked()?),
            Wanted::Edge(e) => Wanted::Edge(NewEdge {
                from: e.from.checked()?,
                relation: field::text(Field::Relation, &e.relation)?,
                to: e.to.checked()?,
                ..e
            }),
        })
    }
}

impl NewEpisode {
    fn checked(self) -> Result<Self, Refused> {
        let key = field::text(Field::Key, &self.key)?;
        if self.kind == EpisodeKind::Turn {
            // Written without anybody to ask: shortened, never refused.
            let description = field::turn_text(&self.description);
            let value = self.value.as_deref().map(field::turn_text).filter(|v| !v.is_empty());
            return Ok(Self { key, description, value, ..self });
        }
        let description = field::text(Field::Description, &self.description)?;
        let value = self.value.as_deref().map(|v| field::text(Field::Value, v)).transpose()?;
        Ok(Self { key, description, value: value.filter(|v| !v.is_empty()), ..self })
    }
}

impl NewNode {
    fn checked(self) -> Result<Self, Refused> {
        let name = field::text(Field::Name, &self.name)?;
        let aliases = field::aliases(&name, &self.aliases)?;
        let attributes = attributes(self.attributes)?;
        if self.relations.len() > field::RELATIONS {
            let count = self.relations.len();
            return Err(Refused::TooMany { field: "relationships", count, max: field::RELATIONS });
        }
        let relations = self.relations.into_iter().map(NewRelation::checked).collect::<Result<_, _>>()?;
        Ok(Self { name, kind: self.kind, aliases, attributes, relations })
    }
}

impl NewRelation {
    pub(super) fn checked(self) -> Result<Self, Refused> {
        let confidence = self.confidence.map(field::confidence).transpose()?;
        Ok(Self {
            relation: field::text(Field::Relation, &self.relation)?,
            to: self.to.checked()?,
            confidence,
        })
    }
}

pub(super) fn attributes(raw: Map<String, Value>) -> Result<Map<String, Value>, Refused> {
    match field::attributes(&Value::Object(raw))? {
        Value::Object(fields) => Ok(fields),
        other => Err(Refused::Attributes {
            came: other.to_string(),
            max_bytes: field::ATTRIBUTES_BYTES,
            max_depth: field::ATTRIBUTES_DEPTH,
        }),
    }
}

/// Whether what is written is meant to take the place of something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Intent {
    /// It replaces these ids (the Learning Centre).
    Named(Vec<String>),
    /// A preference or rule replaces the one before it (knowledge_write, the API).
    Statement,
    /// It replaces nothing (turns, imports).
    None,
}

/// Where a memory comes from and how far it is believed.
#[derive(Debug, Clone, PartialEq)]
pub struct Origin {
    /// `user:api`, `message:<id>`, `trajectory:<turn_id>`, `import:<bundle>`.
    pub source: String,
    /// The least trust of what it rests on: `memory::trust` says.
    pub trust: Trust,
    /// Why it is kept.
    pub rationale: String,
    /// 0 to 1.
    pub confidence: f64,
    /// What it rests on; empty = it was written for its own sake and is forgotten only by itself.
    pub lineage: Vec<Parent>,
    /// What it replaces.
    pub intent: Intent,
    /// Texts of the items recalled in the same turn: what only repeats one of them is rejected.
    pub recalled: Vec<String>,
}

impl Origin {
    /// What a person writes through the API: trust `user`, source `user:api`, for its own sake.
    pub fn api(confidence: f64, rationale: String) -> Self {
        Self {
            source: "user:api".to_owned(),
            trust: Trust::User,
            rationale,
            confidence,
            lineage: Vec::new(),
            intent: Intent::Statement,
            recalled: Vec::new(),
        }
    }
}

/// What became of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A row was written. For a node also: it was there, and has learned something.
    Created,
    /// It was there already and is confirmed.
    Duplicate,
    /// Nothing is kept: an echo of what was recalled, a refused field, or a relation to nobody.
    Rejected,
}

/// The answer to a write.
#[derive(Debug, Clone, PartialEq)]
pub struct Written {
    /// What became of it.
    pub outcome: Outcome,
    /// The row as it is now; of a relation the node it leads away from. `None` when rejected.
    pub item: Option<Item>,
    /// Facts and relations that ended because of it.
    pub closed: Vec<MemoryId>,
}

/// Rows that a commit wrote, changed or removed, and writes that it refused. Hand it to `Memory::changed` after the
/// commit; several of one transaction are put together with [`Touched::and`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use = "searches see a change only after Memory::changed"]
pub struct Touched {
    pub(super) rows: Vec<(Store, i64)>,
    pub(super) rejected: Vec<&'static str>,
    /// Whether a row may have no vector: then the background has something to do.
    pub(super) unembedded: bool,
}

impl Touched {
    /// These rows; `embedded` says that all have their vectors.
    pub(super) fn of(rows: impl IntoIterator<Item = (Store, i64)>, embedded: bool) -> Self {
        Self { rows: rows.into_iter().collect(), rejected: Vec::new(), unembedded: !embedded }
    }

    /// Both.
    pub fn and(mut self, other: Touched) -> Self {
        self.rows.extend(other.rows);
        self.rejected.extend(other.rejected);
        self.unembedded |= other.unembedded;
        self
    }

    /// One more row, that may have no vector.
    pub fn row(mut self, store: Store, row: i64) -> Self {
        self.rows.push((store, row));
        self.unembedded = true;
        self
    }

    /// What `brain::memory::erase` took away and rewrote.
    pub fn erased(erased: &Erased) -> Self {
        let gone = erased.gone.iter().filter(|g| !matches!(g.item, MemoryId::Edge(_)));
        let rows = gone
            .map(|g| (g.item.store(), g.row))
            .chain(erased.rewritten.iter().map(|row| (Store::Social, *row)))
            .collect();
        Self { rows, rejected: Vec::new(), unembedded: !erased.rewritten.is_empty() }
    }

    /// True when there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.rejected.is_empty()
    }
}

/// New values for a memory; a field without one stays.
#[derive(Debug, Clone, PartialEq)]
pub enum Patch {
    /// Of an episode.
    Episode(EpisodePatch),
    /// Of a fact.
    Fact(FactPatch),
    /// Of a node.
    Node(NodePatch),
    /// Of a relation.
    Edge(EdgePatch),
}

impl Patch {
    /// Whether it may change what the memory says.
    pub fn has_words(&self) -> bool {
        match self {
            Patch::Episode(p) => p.key.is_some() || p.description.is_some() || p.value.is_some(),
            Patch::Fact(p) => p.subject.is_some() || p.content.is_some(),
            Patch::Node(p) => p.name.is_some() || p.aliases.is_some() || p.attributes.is_some(),
            Patch::Edge(p) => p.relation.is_some(),
        }
    }
}

/// What a deletion came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Forgotten {
    /// What rested only on it, and went with it.
    pub also_deleted: Vec<MemoryId>,
    /// What says the same still, the nearest of each store first: memories of their own that stay.
    pub still_said_in: Vec<MemoryId>,
    /// The learned skills that were made of it: skills of their own that stay.
    pub still_in_skills: Vec<String>,
    /// Finished turns that waited to be learned from, said it, and are passed over.
    pub not_learned_from: u64,
}

/// What an edit came to.
#[derive(Debug, Clone, PartialEq)]
pub enum Patched {
    /// The memory as it is now.
    Changed(Box<Item>),
    /// There is none of this id, or the patch is for another kind.
    Missing,
    /// Nothing was changed: this other memory says so already.
    SameAs(MemoryId),
}

/// New values of an episode.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EpisodePatch {
    /// A short name.
    pub key: Option<String>,
    /// What happened.
    pub description: Option<String>,
    /// More about it; empty takes it away.
    pub value: Option<String>,
    /// When.
    pub occurred_at: Option<Timestamp>,
    /// How sure.
    pub confidence: Option<f64>,
    /// Why it is kept.
    pub rationale: Option<String>,
}

/// New values of a fact.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FactPatch {
    /// What it is about.
    pub subject: Option<String>,
    /// What it says.
    pub content: Option<String>,
    /// fact, rule, preference, procedure.
    pub kind: Option<FactType>,
    /// How sure.
    pub confidence: Option<f64>,
    /// Since when.
    pub valid_from: Option<Timestamp>,
    /// Until when; `Some(None)` opens it again.
    pub valid_until: Option<Option<Timestamp>>,
    /// Why it is kept.
    pub rationale: Option<String>,
}

/// New values of a node.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NodePatch {
    /// Its name.
    pub name: Option<String>,
    /// What it is.
    pub kind: Option<NodeKind>,
    /// Other names, all of them.
    pub aliases: Option<Vec<String>>,
    /// What else is known, all of it.
    pub attributes: Option<Map<String, Value>>,
    /// Relations that are added; those that are there stay (a relation goes by DELETE of its `rel-` id).
    pub relations: Vec<NewRelation>,
    /// How sure.
    pub confidence: Option<f64>,
    /// Why it is kept.
    pub rationale: Option<String>,
}

/// New values of a relation.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EdgePatch {
    /// How they are related.
    pub relation: Option<String>,
    /// How sure.
    pub confidence: Option<f64>,
    /// Since when.
    pub valid_from: Option<Timestamp>,
    /// Until when; `Some(None)` opens it again.
    pub valid_until: Option<Option<Timestamp>>,
    /// Why it is kept.
    pub rationale: Option<String>,
}
