//! What the Learning Centre reads out of a finished turn: the form of the answer, and what of it is believed.
//!
//! A model fills in the form; nothing of it is taken on trust. An item that cites no message of the turn is dropped,
//! and so is one that does not fit its fields; both are counted. Trust is not asked of the model at all.
//!
//! The invariant: every item that comes out cites at least one message of the turn and would pass the write gate's sizes.

use crate::confidence::learned;
use crate::field::{self, ALIASES, Field, Refused};
use crate::likeness::content_hash;
use contract::Timestamp;
use contract::memory::{FactType, NodeKind};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// Tokens of one chunk of a trajectory. More does not fit the light model's window with the answer; fewer parts a
/// question from its answer.
pub const CHUNK_TOKENS: usize = 12_000;
/// Items of one list of an answer. More is a model that copies the conversation; fewer loses a dense turn.
pub const ITEMS_PER_LIST: usize = 50;
/// Messages one item may cite. More is a model that cites everything.
pub const EVIDENCE_PER_ITEM: usize = 20;

/// The schema of the answer. Every field is required and nothing else is allowed, which the strict modes of all
/// providers accept; attributes are a list for the same reason.
pub const SCHEMA: &str = include_str!("extraction_schema.json");

/// What every item brings.
#[derive(Debug, Clone, PartialEq)]
pub struct Ground {
    /// The messages it rests on, each once.
    pub evidence: Vec<String>,
    /// 0 to [`crate::confidence::LEARNED_MOST`].
    pub confidence: f64,
    /// Why it is worth keeping.
    pub rationale: String,
    /// Ids of older facts or relations that it is meant to replace.
    pub replaces: Vec<String>,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq)]
pub struct Episode {
    /// Short name.
    pub key: String,
    /// What happened.
    pub description: String,
    /// Details.
    pub value: String,
    /// When, if the conversation says so.
    pub occurred_at: Option<Timestamp>,
    /// What it rests on.
    pub ground: Ground,
}

/// Something that holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Fact {
    /// What it is about.
    pub subject: String,
    /// What it says.
    pub content: String,
    /// What it is.
    pub kind: FactType,
    /// Since when, if the conversation says so.
    pub valid_from: Option<Timestamp>,
    /// What it rests on.
    pub ground: Ground,
}

/// Somebody or something with a name.
#[derive(Debug, Clone, PartialEq)]
pub struct Person {
    /// The name.
    pub name: String,
    /// What it is.
    pub kind: NodeKind,
    /// Other names.
    pub aliases: Vec<String>,
    /// What is known, by name.
    pub attributes: BTreeMap<String, String>,
    /// What it rests on.
    pub ground: Ground,
}

/// How two of them are related.
#[derive(Debug, Clone, PartialEq)]
pub struct Relation {
    /// The name of the first.
    pub from: String,
    /// How they are related.
    pub relation: String,
    /// The name of the second.
    pub to: String,
    /// What it rests on.
    pub ground: Ground,
}

/// A way of going about things that the person seems to want.
#[derive(Debug, Clone, PartialEq)]
pub struct Pattern {
    /// In one line.
    pub text: String,
    /// What it rests on.
    pub ground: Ground,
}

/// What was read out of one chunk.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Extraction {
    /// What happened.
    pub episodes: Vec<Episode>,
    /// What holds.
    pub facts: Vec<Fact>,
    /// Who there is.
    pub people: Vec<Person>,
    /// How they are related.
    pub relations: Vec<Relation>,
    /// How the person wants it.
    pub patterns: Vec<Pattern>,
    /// What was not believed.
    pub dropped: Dropped,
}

/// Items that were dropped, by reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Cites no message of the turn.
    pub without_evidence: usize,
    /// Not of the form, or a field too long or empty.
    pub malformed: usize,
    /// Behind the end of a list.
    pub too_many: usize,
}

/// An answer that has not the form at all: the trajectory is tried again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAnExtraction {
    /// Not a JSON object.
    #[error("the answer is no JSON object")]
    NotAnObject,
    /// A list that is none.
    #[error("\"{0}\" is no list")]
    NotAList(&'static str),
}

#[derive(Deserialize)]
struct RawGround {
    #[serde(default)]
    evidence: Vec<String>,
    confidence: f64,
    #[serde(default)]
    rationale: String,
}

#[derive(Deserialize)]
struct RawEpisode {
    key: String,
    description: String,
    value: Option<String>,
    occurred_at: Option<String>,
}

#[derive(Deserialize)]
struct RawFact {
    subject: String,
    content: String,
    #[serde(rename = "type")]
    kind: FactType,
    valid_from: Option<String>,
}

#[derive(Deserialize)]
struct RawAttribute {
    name: String,
    value: String,
}

#[derive(Deserialize)]
struct RawPerson {
    name: String,
    kind: NodeKind,
    #[serde(default)]
    aliases: Vec<String>,
    #[serde(default)]
    attributes: Vec<RawAttribute>,
}

#[derive(Deserialize)]
struct RawRelation {
    from: String,
    relation: String,
    to: String,
}

#[derive(Deserialize)]
struct RawPattern {
    text: String,
}

#[derive(Deserialize)]
struct RawReplaces {
    old: String,
    list: ReplacingList,
    index: usize,
}

#[derive(Deserialize, PartialEq, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum ReplacingList {
    Facts,
    Relations,
}

/// Reads an answer. `messages` are the ids of the turn's messages that the model was shown; an item that cites another
/// one has no evidence.
pub fn read(answer: &Value, messages: &HashSet<String>) -> Result<Extraction, NotAnExtraction> {
    if !answer.is_object() {
        return Err(NotAnExtraction::NotAnObject);
    }
    let mut dropped = Dropped::default();
    let replaced = replaced(answer, messages, &mut dropped)?;
    let names_of = |list: ReplacingList, index: usize| {
        let named = replaced.iter().filter(|r| r.list == list && r.index == index).map(|r| r.old.clone());
        named.collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>()
    };
    let none = |_: usize| Vec::new();
    let mut list = Lists { answer, messages, dropped: &mut dropped };
    let found = Extraction {
        episodes: list.read("episodes", none, |raw: RawEpisode, ground| {
            Ok(Episode {
                key: field::text(Field::Key, &raw.key)?,
                description: field::text(Field::Description, &raw.description)?,
                value: field::text(Field::Value, &raw.value.unwrap_or_default())?,
                occurred_at: raw.occurred_at.as_deref().and_then(Timestamp::parse),
                ground,
            })
        })?,
        facts: list.read(
            "facts",
            |i| names_of(ReplacingList::Facts, i),
            |raw: RawFact, ground| {
                Ok(Fact {
                    subject: field::text(Field::Subject, &raw.subject)?,
                    content: field::text(Field::Content, &raw.content)?,
                    kind: raw.kind,
                    valid_from: raw.valid_from.as_deref().and_then(Timestamp::parse),
                    ground,
                })
            },
        )?,
        people: list.read("people", none, |raw: RawPerson, ground| {
            let name = field::text(Field::Name, &raw.name)?;
            let aliases = field::aliases(&name, &raw.aliases[..raw.aliases.len().min(ALIASES)])?;
            let pairs = raw
                .attributes
                .into_iter()
                .map(|a| Ok((field::text(Field::Key, &a.name)?, field::text(Field::Description, &a.value)?)));
            let attributes = pairs.collect::<Result<BTreeMap<_, _>, Refused>>()?;
            field::attributes(&serde_json::to_value(&attributes).unwrap_or_default())?;
            Ok(Person { name, kind: raw.kind, aliases, attributes, ground })
        })?,
        relations: list.read(
            "relations",
            |i| names_of(ReplacingList::Relations, i),
            |raw: RawRelation, ground| {
                Ok(Relation {
                    from: field::text(Field::Name, &raw.from)?,
                    relation: field::text(Field::Relation, &raw.relation)?,
                    to: field::text(Field::Name, &raw.to)?,
                    ground,
                })
            },
        )?,
        patterns: list.read("patterns", none, |raw: RawPattern, ground| {
            Ok(Pattern { text: field::text(Field::SoulLine, &raw.text)?, ground })
        })?,
        dropped: Dropped::default(),
    };
    Ok(Extraction { dropped, ..found })
}

/// The key under which an item of a turn is written once, however often its batch is repeated.
pub fn item_key(turn_id: &str, key: &str, text: &str) -> String {
    format!("{turn_id}:{}", content_hash(key, text))
}

fn array<'a>(answer: &'a Value, name: &'static str) -> Result<&'a [Value], NotAnExtraction> {
    match answer.get(name) {
        None | Some(Value::Null) => Ok(&[]),
        Some(Value::Array(items)) => Ok(items),
        Some(_) => Err(NotAnExtraction::NotAList(name)),
    }
}

/// The replacements that cite evidence and name an id of ours.
fn replaced(
    answer: &Value,
    messages: &HashSet<String>,
    dropped: &mut Dropped,
) -> Result<Vec<RawReplaces>, NotAnExtraction> {
    let mut list = Lists { answer, messages, dropped };
    list.read(
        "replaces",
        |_| Vec::new(),
        |raw: RawReplaces, _| {
            let prefix = if raw.list == ReplacingList::Facts { "fact-" } else { "rel-" };
            if raw.old.starts_with(prefix) { Ok(raw) } else { Err(Refused::Empty { field: "old" }) }
        },
    )
}

struct Lists<'a> {
    answer: &'a Value,
    messages: &'a HashSet<String>,
    dropped: &'a mut Dropped,
}

impl Lists<'_> {
    fn read<R: DeserializeOwned, T>(
        &mut self,
        name: &'static str,
        replaces: impl Fn(usize) -> Vec<String>,
        make: impl Fn(R, Ground) -> Result<T, Refused>,
    ) -> Result<Vec<T>, NotAnExtraction> {
        let items = array(self.answer, name)?;
        self.dropped.too_many += items.len().saturating_sub(ITEMS_PER_LIST);
        let mut found = Vec::new();
        for (index, item) in items.iter().take(ITEMS_PER_LIST).enumerate() {
            let (Ok(ground), Ok(raw)) = (RawGround::deserialize(item), R::deserialize(item)) else {
                self.dropped.malformed += 1;
                continue;
            };
            let mut seen = HashSet::new();
            let cited = ground.evidence.into_iter().filter(|id| self.messages.contains(id));
            let evidence: Vec<String> =
                cited.filter(|id| seen.insert(id.clone())).take(EVIDENCE_PER_ITEM).collect();
            if evidence.is_empty() {
                self.dropped.without_evidence += 1;
                continue;
            }
            let Ok(rationale) = field::text(Field::Rationale, &ground.rationale) else {
                self.dropped.malformed += 1;
                continue;
            };
            let confidence = learned(ground.confidence);
            match make(raw, Ground { evidence, confidence, rationale, replaces: replaces(index) }) {
                Ok(item) => found.push(item),
                Err(_) => self.dropped.malformed += 1,
            }
        }
        Ok(found)
    }
}
