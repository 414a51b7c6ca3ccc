//! Writing a bundle, page by page (specification 3.6).
//!
//! A client may take minutes, and an instant of the brain held for so long keeps the write-ahead log from shrinking. So
//! the marks of all tables are taken at one instant, and every page is read at its own, up to the marks: what is written
//! meanwhile is not in the bundle, what is forgotten meanwhile is in it only if its page had been read. Relations come
//! after nodes and go with them, so a bundle never holds one without its ends.
//!
//! Values that this process knows as secrets are taken out of every text. The invariant: what leaves here is read by
//! [`super::read`] without a refusal.

use super::kinds::{Attributes, Few, Share};
use super::read::FORMAT;
use super::rows::{
    EdgeRow, EpisodeRow, FactRow, NodeRow, ParentRow, ScriptRow, SignalRow, SkillRow, SoulRow, VersionRow,
};
use crate::secrets::{Known, leaving};
use ::memory::field::{ATTRIBUTES_BYTES, Field};
use brain::memory::edges::Edge;
use brain::memory::episodes::Episode;
use brain::memory::knowledge::Fact;
use brain::memory::marks::{self, Marks};
use brain::memory::nodes::Node;
use brain::memory::signals::Signal;
use brain::memory::{MemoryId, Stored, edges, episodes, knowledge, lineage, nodes, signals, standing};
use brain::{Brain, Tx, skills, soul};
use bytes::Bytes;
use contract::memory::{EpisodeKind, Trust};
use contract::{SignalId, Timestamp};
use futures::stream::{self, Stream};
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// Rows of a page. More makes a page megabytes large and its reading long; fewer asks the brain more often.
const PAGE: u32 = 100;
/// Versions of the soul that a page holds.
const VERSIONS: u32 = 20;

/// A list of the bundle, and how far it is written.
#[derive(Debug, Clone)]
enum At {
    Versions(Option<i64>),
    Episodes(i64),
    Facts(i64),
    Nodes(i64),
    Edges(i64),
    Skills(usize),
    Signals(Option<SignalId>),
    End,
}

/// An export under way.
struct Pages {
    brain: Brain,
    known: Arc<Known>,
    marks: Marks,
    skills: Arc<[String]>,
    /// When it began: later feedback is not in it.
    now: Timestamp,
    at: At,
    /// What stands before the next page.
    before: String,
    /// Whether the list that is being written has a row already.
    has_row: bool,
}

/// The bundle of a brain as it is now, in pieces. The first is read before this returns, so that a brain that cannot be
/// read is an answer of its own.
pub async fn export(
    brain: Brain,
    known: Arc<Known>,
    now: Timestamp,
) -> brain::Result<impl Stream<Item = brain::Result<Bytes>> + Send + 'static> {
    let (marks, skills, soul) = brain
        .read("export.begin", |tx| {
            let names: Arc<[String]> = skills::list(tx)?.into_iter().map(|skill| skill.name).collect();
            Ok((marks::now(tx)?, names, soul::get(tx)?))
        })
        .await?;
    let soul = soul.map(|stored| SoulRow {
        identity: text(&known, Field::Identity, &stored.soul.identity),
        values: lines(&known, &stored.soul.values),
        patterns: lines(&known, &stored.soul.patterns),
        version: stored.version,
        source: stored.source.as_str().to_owned(),
        updated_at: stored.updated_at,
    });
    let before = format!(
        "{{\"format\":{},\"engine_version\":{},\"exported_at\":{},\"soul\":{},\"soul_history\":[",
        json!(FORMAT),
        json!(crate::version::VERSION),
        json!(now),
        json!(soul),
    );
    let pages = Pages { brain, known, marks, skills, now, at: At::Versions(None), before, has_row: false };
    Ok(stream::try_unfold(pages, Pages::next))
}

/// A page: its rows, and where the next one begins; `None` when the list is over.
struct Page {
    rows: Vec<Value>,
    next: Option<At>,
}

impl Pages {
    /// The next piece of the text.
    async fn next(mut self) -> brain::Result<Option<(Bytes, Self)>> {
        if matches!(self.at, At::End) {
            return Ok(None);
        }
        let (at, marks, now) = (self.at.clone(), self.marks, self.now);
        let (known, names) = (Arc::clone(&self.known), Arc::clone(&self.skills));
        let page =
            self.brain.read("export.page", move |tx| page(tx, &at, marks, &known, &names, now)).await?;
        let mut text = std::mem::take(&mut self.before);
        for row in page.rows {
            if std::mem::replace(&mut self.has_row, true) {
                text.push(',');
            }
            text.push_str(&row.to_string());
        }
        match page.next {
            Some(at) => self.at = at,
            None => {
                let (between, next) = after(&self.at);
                text.push_str(between);
                (self.at, self.has_row) = (next, false);
            }
        }
        Ok(Some((Bytes::from(text), self)))
    }
}

/// What stands between a list and the next one.
fn after(at: &At) -> (&'static str, At) {
    match at {
        At::Versions(_) => ("],\"episodes\":[", At::Episodes(0)),
        At::Episodes(_) => ("],\"knowledge\":[", At::Facts(0)),
        At::Facts(_) => ("],\"social\":{\"nodes\":[", At::Nodes(0)),
        At::Nodes(_) => ("],\"edges\":[", At::Edges(0)),
        At::Edges(_) => ("]},\"skills\":[", At::Skills(0)),
        At::Skills(_) => ("],\"signals\":[", At::Signals(None)),
        At::Signals(_) | At::End => ("]}\n", At::End),
    }
}

fn page(
    tx: &Tx<'_>,
    at: &At,
    marks: Marks,
    known: &Known,
    names: &[String],
    now: Timestamp,
) -> brain::Result<Page> {
    match at {
        At::Versions(before) => {
            let found = soul::history(tx, *before, VERSIONS)?;
            let next = found.last().map(|last| At::Versions(Some(last.version)));
            Ok(Page { rows: found.iter().map(|v| row(&version(known, v))).collect(), next })
        }
        At::Episodes(after) => {
            let found = up_to(marks.episodes, episodes::page(tx, *after, PAGE)?);
            let rows = found.iter().map(|r| episode(tx, known, &r.item).map(|e| row(&e)));
            Ok(Page { rows: rows.collect::<brain::Result<_>>()?, next: last(&found).map(At::Episodes) })
        }
        At::Facts(after) => {
            let found = up_to(marks.facts, knowledge::page(tx, *after, PAGE)?);
            let rows = found.iter().map(|r| fact(tx, known, &r.item).map(|f| row(&f)));
            Ok(Page { rows: rows.collect::<brain::Result<_>>()?, next: last(&found).map(At::Facts) })
        }
        At::Nodes(after) => {
            let found = up_to(marks.nodes, nodes::page(tx, *after, PAGE)?);
            let rows = found.iter().map(|r| node(tx, known, &r.item).map(|n| row(&n)));
            Ok(Page { rows: rows.collect::<brain::Result<_>>()?, next: last(&found).map(At::Nodes) })
        }
        At::Edges(after) => {
            let found = up_to(marks.edges, edges::page(tx, *after, PAGE)?);
            let rows = found.iter().map(|r| edge(tx, known, &r.item).map(|e| row(&e)));
            Ok(Page { rows: rows.collect::<brain::Result<_>>()?, next: last(&found).map(At::Edges) })
        }
        At::Skills(at) => {
            // one a page: its scripts may be megabytes
            let Some(name) = names.get(*at) else { return Ok(Page { rows: Vec::new(), next: None }) };
            let found = skill(tx, known, name)?;
            Ok(Page { rows: found.iter().map(row).collect(), next: Some(At::Skills(at + 1)) })
        }
        At::Signals(after) => {
            let found = signals::page(tx, after.as_ref(), PAGE)?;
            let next = found.last().map(|last| At::Signals(Some(last.signal_id.clone())));
            let rows = found.iter().filter(|s| s.created_at <= now).map(|s| row(&signal(known, s)));
            Ok(Page { rows: rows.collect(), next })
        }
        At::End => Ok(Page { rows: Vec::new(), next: None }),
    }
}

fn row(row: &impl Serialize) -> Value {
    serde_json::to_value(row).expect("rows of texts and numbers always serialise")
}

fn up_to<T>(mark: i64, rows: Vec<Stored<T>>) -> Vec<Stored<T>> {
    rows.into_iter().take_while(|stored| stored.row <= mark).collect()
}

fn last<T>(rows: &[Stored<T>]) -> Option<i64> {
    rows.last().map(|stored| stored.row)
}

/// A text without known values. One that has become too long by that is cut, or nobody could import it.
fn text(known: &Known, field: Field, raw: &str) -> String {
    scrubbed(known, raw, field.max_chars())
}

fn scrubbed(known: &Known, raw: &str, max_chars: usize) -> String {
    match known.scrub(raw) {
        std::borrow::Cow::Borrowed(same) => same.to_owned(),
        std::borrow::Cow::Owned(clean) => clean.chars().take(max_chars).collect::<String>().trim().to_owned(),
    }
}

fn lines<const MAX: usize>(known: &Known, raw: &[String]) -> Few<String, MAX> {
    Few(raw.iter().map(|line| text(known, Field::SoulLine, line)).collect())
}

fn parents<const MAX: usize>(tx: &Tx<'_>, id: MemoryId) -> brain::Result<Few<ParentRow, MAX>> {
    Ok(Few(lineage::parents(tx, &id)?.into_iter().take(MAX).map(ParentRow::from).collect()))
}

fn version(known: &Known, version: &soul::Version) -> VersionRow {
    VersionRow {
        version: version.version,
        identity: text(known, Field::Identity, &version.soul.identity),
        values: lines(known, &version.soul.values),
        patterns: lines(known, &version.soul.patterns),
        source: version.source.as_str().to_owned(),
        rationale: known.scrub(&version.rationale).into_owned(),
        created_at: version.created_at,
    }
}

fn episode(tx: &Tx<'_>, known: &Known, e: &Episode) -> brain::Result<EpisodeRow> {
    let (description, value) = match e.kind {
        EpisodeKind::Turn => (Field::TurnText, Field::TurnText),
        EpisodeKind::Event | EpisodeKind::Note => (Field::Description, Field::Value),
    };
    let p = &e.provenance;
    Ok(EpisodeRow {
        id: e.episode_id.clone(),
        kind: e.kind,
        key: text(known, Field::Key, &e.key),
        description: text(known, description, &e.description),
        value: e.value.as_deref().map(|raw| text(known, value, raw)),
        task_id: e.task_id.clone(),
        turn_id: e.turn_id.clone(),
        position: e.position,
        occurred_at: e.occurred_at,
        confidence: Share(p.confidence),
        trust: p.trust,
        source: Some(text(known, Field::Source, &p.source)),
        rationale: text(known, Field::Rationale, &p.rationale),
        last_confirmed_at: Some(p.last_confirmed_at),
        created_at: p.created_at,
        updated_at: Some(p.updated_at),
        lineage: parents(tx, MemoryId::Episode(e.episode_id.clone()))?,
    })
}

fn fact(tx: &Tx<'_>, known: &Known, f: &Fact) -> brain::Result<FactRow> {
    let p = &f.provenance;
    let by = match &f.superseded_by {
        Some(by) if standing::exists(tx, &MemoryId::Fact(by.clone()))? => Some(by.clone()),
        Some(_) | None => None,
    };
    Ok(FactRow {
        id: f.fact_id.clone(),
        subject: text(known, Field::Subject, &f.subject),
        content: text(known, Field::Content, &f.content),
        kind: f.kind,
        valid_from: f.valid_from,
        valid_until: f.valid_until,
        superseded_by: by,
        confidence: Share(p.confidence),
        trust: p.trust,
        source: Some(text(known, Field::Source, &p.source)),
        rationale: text(known, Field::Rationale, &p.rationale),
        last_confirmed_at: Some(p.last_confirmed_at),
        created_at: p.created_at,
        updated_at: Some(p.updated_at),
        lineage: parents(tx, MemoryId::Fact(f.fact_id.clone()))?,
    })
}

fn node(tx: &Tx<'_>, known: &Known, n: &Node) -> brain::Result<NodeRow> {
    let p = &n.provenance;
    let mut attributes = Value::Object(n.attributes.clone());
    let found = leaving::value(known, &mut attributes);
    let attributes = match attributes {
        // what was taken out may be shorter than the mark in its place
        Value::Object(fields) if found.is_empty() || row(&fields).to_string().len() <= ATTRIBUTES_BYTES => {
            fields
        }
        _ => Map::new(),
    };
    Ok(NodeRow {
        id: n.node_id.clone(),
        name: text(known, Field::Name, &n.name),
        kind: n.kind,
        aliases: Few(n.aliases.iter().map(|alias| text(known, Field::Alias, alias)).collect()),
        attributes: Attributes(attributes),
        confidence: Share(p.confidence),
        trust: p.trust,
        source: Some(text(known, Field::Source, &p.source)),
        rationale: text(known, Field::Rationale, &p.rationale),
        last_confirmed_at: Some(p.last_confirmed_at),
        created_at: p.created_at,
        updated_at: Some(p.updated_at),
        lineage: parents(tx, MemoryId::Node(n.node_id.clone()))?,
    })
}

fn edge(tx: &Tx<'_>, known: &Known, e: &Edge) -> brain::Result<EdgeRow> {
    let p = &e.provenance;
    Ok(EdgeRow {
        id: e.edge_id.clone(),
        from: e.from.clone(),
        to: e.to.clone(),
        relation: text(known, Field::Relation, &e.relation),
        valid_from: e.valid_from,
        valid_until: e.valid_until,
        confidence: Share(p.confidence),
        trust: p.trust,
        source: Some(text(known, Field::Source, &p.source)),
        rationale: text(known, Field::Rationale, &p.rationale),
        last_confirmed_at: Some(p.last_confirmed_at),
        created_at: p.created_at,
        updated_at: Some(p.updated_at),
        lineage: parents(tx, MemoryId::Edge(e.edge_id.clone()))?,
    })
}

/// A skill with its scripts; `None` when it went meanwhile. Skills nobody vouches for are not taken anywhere.
fn skill(tx: &Tx<'_>, known: &Known, name: &str) -> brain::Result<Option<SkillRow>> {
    use crate::catalog::skill::{CAPABILITY_MAX, CATEGORY_MAX, DESCRIPTION_MAX, PROMPT_MAX, SCRIPT_MAX};
    let Some(skill) = skills::get(tx, name)? else { return Ok(None) };
    let Some(trust) = Trust::parse(&skill.trust).filter(|trust| *trust != Trust::Untrusted) else {
        return Ok(None);
    };
    let bytes = |raw: &str, max: usize| match known.scrub(raw) {
        std::borrow::Cow::Borrowed(same) => same.to_owned(),
        std::borrow::Cow::Owned(clean) => clean[..clean.floor_char_boundary(max)].to_owned(),
    };
    let scripts = skills::scripts(tx, name)?;
    Ok(Some(SkillRow {
        name: skill.name,
        description: scrubbed(known, &skill.description, DESCRIPTION_MAX),
        category: scrubbed(known, &skill.category, CATEGORY_MAX),
        prompt_template: skill.prompt_template.map(|prompt| bytes(&prompt, PROMPT_MAX)),
        scripts: Few(scripts
            .into_iter()
            .map(|(name, content)| ScriptRow { name, content: bytes(&content, SCRIPT_MAX) })
            .collect()),
        capabilities: Few(skill
            .capabilities
            .iter()
            .map(|word| scrubbed(known, word, CAPABILITY_MAX))
            .collect()),
        confidence: Share(skill.confidence),
        source: Some(text(known, Field::Source, &skill.source)),
        trust,
    }))
}

fn signal(known: &Known, s: &Signal) -> SignalRow {
    let scrub = |raw: &Option<String>, max| raw.as_deref().map(|raw| scrubbed(known, raw, max));
    SignalRow {
        id: s.signal_id.clone(),
        message_id: s.message_id.clone(),
        turn_id: s.turn_id.clone(),
        rating: s.rating,
        comment: scrub(&s.comment, super::check::COMMENT_CHARS),
        corrected: scrub(&s.corrected, super::check::CORRECTED_CHARS),
        created_at: s.created_at,
        processed_at: s.processed_at,
    }
}
