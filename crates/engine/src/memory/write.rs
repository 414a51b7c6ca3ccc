//! Episodes and facts through the write gate: what each is compared with, what becomes a row, and what a new fact ends.
//!
//! The invariant: a fact that ends is closed by one that began no earlier, and is never deleted.

use super::gate::{Fate, Writing};
use super::item::{Intent, NewEpisode, NewFact, Outcome, Written};
use ::memory::contradiction;
use ::memory::gate::{Candidate, Comparison};
use ::memory::{entity, search_text};
use brain::memory::episodes::{self, Episode};
use brain::memory::knowledge::{self, Fact};
use brain::memory::{Change, MemoryId, Stored};
use contract::memory::{EpisodeKind, Store};
use contract::{EpisodeId, FactId, Timestamp};
use std::collections::HashMap;

/// Writes an episode.
pub(super) fn episode(writing: &mut Writing<'_>, new: NewEpisode) -> brain::Result<Written> {
    let occurred_at = new.occurred_at.unwrap_or(writing.now);
    let text = compared(&new.description, new.value.as_deref());
    let comparison = match new.kind {
        EpisodeKind::Turn => Comparison::ExactOnly,
        EpisodeKind::Event | EpisodeKind::Note => Comparison::ExactAndNear,
    };
    let candidate = Candidate { key: &new.key, text: &text, trust: writing.origin.trust, comparison };
    let content_hash = candidate.hash();
    let searched = search_text::episode(&new.key, &new.description, new.value.as_deref(), occurred_at);
    let near = writing.near(Store::Episodes, comparison, &searched)?;
    let mut there: Vec<Stored<Episode>> = episodes::by_hash(writing.tx, &content_hash)?.into_iter().collect();
    there.extend(episodes::by_rows(writing.tx, &near)?);
    let like = writing.like_episodes(there, comparison, &searched)?;
    match writing.fate(&candidate, &like)? {
        Fate::Echo => writing.echo(Store::Episodes),
        Fate::Known { id, lifted } => {
            if let MemoryId::Episode(id) = &id
                && lifted
            {
                lift_episode(writing, id)?;
            }
            writing.written(Outcome::Duplicate, &id, Vec::new())
        }
        Fate::New => {
            let episode = Episode {
                episode_id: EpisodeId::generate(),
                kind: new.kind,
                key: new.key.clone(),
                description: new.description,
                value: new.value,
                task_id: new.task_id,
                turn_id: new.turn_id,
                position: new.position,
                occurred_at,
                content_hash,
                provenance: writing.provenance(),
            };
            let row = episodes::insert(writing.tx, &episode, &searched)?;
            let id = MemoryId::Episode(episode.episode_id);
            writing.inserted(Store::Episodes, row, &id, &searched)?;
            writing.written(Outcome::Created, &id, Vec::new())
        }
    }
}

/// What of an episode is compared.
pub(super) fn compared(description: &str, value: Option<&str>) -> String {
    match value {
        Some(value) => format!("{description}\n{value}"),
        None => description.to_owned(),
    }
}

pub(super) fn lift_episode(writing: &Writing<'_>, id: &EpisodeId) -> brain::Result<()> {
    let Some(mut row) = episodes::get(writing.tx, id)? else { return Ok(()) };
    writing.lift(&mut row.item.provenance);
    let e = &row.item;
    let searched = search_text::episode(&e.key, &e.description, e.value.as_deref(), e.occurred_at);
    episodes::replace(writing.tx, e, &searched).map(drop)
}

/// Writes a fact and closes what it replaces.
pub(super) fn fact(writing: &mut Writing<'_>, new: NewFact) -> brain::Result<Written> {
    let now = writing.now;
    let valid_from = new.valid_from.unwrap_or(now);
    let subject_norm = entity::name_norm(&new.subject);
    // History is compared with history: an end that is known is never lost in a row that still holds.
    let is_past = has_ended(new.valid_until, now);
    let comparison = if is_past { Comparison::ExactOnly } else { Comparison::ExactAndNear };
    let candidate =
        Candidate { key: &new.subject, text: &new.content, trust: writing.origin.trust, comparison };
    let content_hash = candidate.hash();
    let searched = search_text::fact(&new.subject, &new.content, valid_from);
    let open = knowledge::open(writing.tx, &subject_norm, new.kind, now)?;
    let mut there = knowledge::by_hash(writing.tx, &content_hash)?;
    there.extend(knowledge::by_rows(writing.tx, &writing.near(Store::Knowledge, comparison, &searched)?)?);
    there.extend(open.iter().cloned());
    let cosines = writing.cosines(Store::Knowledge, comparison, &searched, open.iter().map(|f| f.row))?;
    let like = writing.like_facts(there, comparison, &searched, is_past)?;
    let (id, outcome) = match writing.fate(&candidate, &like)? {
        Fate::Echo => return writing.echo(Store::Knowledge),
        Fate::Known { id, lifted } => {
            if let MemoryId::Fact(id) = &id
                && lifted
            {
                lift_fact(writing, id)?;
            }
            (id, Outcome::Duplicate)
        }
        Fate::New => {
            let fact = Fact {
                fact_id: FactId::generate(),
                subject: new.subject.clone(),
                subject_norm: subject_norm.clone(),
                content: new.content.clone(),
                kind: new.kind,
                valid_from,
                valid_until: new.valid_until,
                superseded_by: None,
                content_hash,
                provenance: writing.provenance(),
            };
            let row = knowledge::insert(writing.tx, &fact, &searched)?;
            let id = MemoryId::Fact(fact.fact_id);
            writing.inserted(Store::Knowledge, row, &id, &searched)?;
            (id, Outcome::Created)
        }
    };
    let said = contradiction::NewFact {
        subject_norm: &subject_norm,
        content: &new.content,
        kind: new.kind,
        trust: writing.origin.trust,
        confidence: writing.origin.confidence,
    };
    // What has ended itself ends nothing, and neither does what began before the other.
    let others = open.iter().filter(|f| !is_past && f.item.fact_id.as_str() != id.as_str());
    let (mut later, others): (Vec<&Stored<Fact>>, Vec<&Stored<Fact>>) =
        others.partition(|f| f.item.valid_from > valid_from);
    later.sort_by_key(|f| f.item.valid_from);
    // A repetition replaces only what it names: it says nothing that was not so before.
    let intent = match (&writing.origin.intent, outcome) {
        (Intent::Named(ids), _) => contradiction::Intent::Named(ids),
        (Intent::Statement, Outcome::Created) => contradiction::Intent::Statement,
        (Intent::Statement, Outcome::Duplicate | Outcome::Rejected) | (Intent::None, _) => {
            contradiction::Intent::None
        }
    };
    let ended = contradiction::closed_facts(&said, intent, &as_open(&others, &cosines));
    let closed = close(writing, &ended, valid_from, &id)?;
    if outcome == Outcome::Created && writing.origin.intent != Intent::None {
        end_before(writing, &id, contradiction::closed_by(&said, &as_open(&later, &cosines)))?;
    }
    writing.written(outcome, &id, closed)
}

fn as_open<'f>(facts: &[&'f Stored<Fact>], cosines: &HashMap<i64, f32>) -> Vec<contradiction::OpenFact<'f>> {
    let one = |f: &&'f Stored<Fact>| contradiction::OpenFact {
        id: f.item.fact_id.as_str(),
        subject_norm: &f.item.subject_norm,
        content: &f.item.content,
        kind: f.item.kind,
        trust: f.item.provenance.trust,
        confidence: f.item.provenance.confidence,
        cosine: cosines.get(&f.row).copied(),
    };
    facts.iter().map(one).collect()
}

/// Ends a new fact where a later one has taken its place already.
fn end_before(writing: &Writing<'_>, id: &MemoryId, later: Option<&str>) -> brain::Result<()> {
    let later = later.and_then(|id| FactId::parse(id).ok());
    let (MemoryId::Fact(id), Some(later)) = (id, later) else { return Ok(()) };
    let Some(since) = knowledge::get(writing.tx, &later)?.map(|row| row.item.valid_from) else {
        return Ok(());
    };
    knowledge::close(writing.tx, id, since, Some(&later), writing.now).map(drop)
}

fn close(
    writing: &Writing<'_>,
    ended: &[&str],
    valid_until: Timestamp,
    by: &MemoryId,
) -> brain::Result<Vec<MemoryId>> {
    let by = match by {
        MemoryId::Fact(id) => Some(id),
        MemoryId::Episode(_) | MemoryId::Node(_) | MemoryId::Edge(_) => None,
    };
    let mut closed = Vec::new();
    for old in ended {
        let Ok(old) = FactId::parse(old) else { continue };
        if knowledge::close(writing.tx, &old, valid_until, by, writing.now)? == Change::Changed {
            closed.push(MemoryId::Fact(old));
        }
    }
    Ok(closed)
}

pub(super) fn lift_fact(writing: &Writing<'_>, id: &FactId) -> brain::Result<()> {
    let Some(mut row) = knowledge::get(writing.tx, id)? else { return Ok(()) };
    writing.lift(&mut row.item.provenance);
    let f = &row.item;
    knowledge::replace(writing.tx, f, &search_text::fact(&f.subject, &f.content, f.valid_from)).map(drop)
}

/// Whether something has ceased to be so.
pub(super) fn has_ended(valid_until: Option<Timestamp>, now: Timestamp) -> bool {
    valid_until.is_some_and(|until| until <= now)
}
