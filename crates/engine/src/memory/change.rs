//! A person edits or forgets a memory.
//!
//! What a person has edited is the person's: trust `user`, source `user:api`, resting on nothing else, so that it does not
//! go with what it once came from.
//!
//! An edit that would make a memory say what another one says already is refused, as the write gate would not have made
//! two of them: nothing is written, and the other one is named. What was the same before an edit is no reason, so that
//! such rows can be edited at all.
//!
//! The invariant: text, full-text entry, vector and hash of an edited row are of one text.

use super::gate::{Writing, embed_nodes};
use super::item::{
    EdgePatch, EpisodePatch, FactPatch, Forgotten, NodePatch, Origin, Patch, Patched, Touched, attributes,
};
use super::shape::node_text;
use super::taken_back::{Heard, TakenBack};
use super::vectors::Prepared;
use super::{find, social, write};
use crate::learning::showings;
use ::memory::entity::name_norm;
use ::memory::field::{self, Field, Refused};
use ::memory::likeness::content_hash;
use ::memory::search_text;
use brain::Tx;
use brain::memory::edges::Edge;
use brain::memory::episodes::Episode;
use brain::memory::erase::Procedure;
use brain::memory::knowledge::Fact;
use brain::memory::nodes::Node;
use brain::memory::{MemoryId, Provenance, Stored, edges, episodes, erase, knowledge, lineage, nodes};
use brain::snapshots;
use contract::memory::{NodeKind, Store, Trust};
use contract::{EdgeId, EpisodeId, FactId, NodeId, Timestamp};
use std::collections::BTreeSet;

/// Why an edited memory is kept, and a relation that comes with an edit, when nobody says.
const EDITED: &str = "edited over the API";

impl Patch {
    /// The same with every text cleaned, or which field is refused and why.
    pub fn checked(self) -> Result<Self, Refused> {
        let text = |field, value: Option<String>| value.map(|v| field::text(field, &v)).transpose();
        let sure = |value: Option<f64>| value.map(field::confidence).transpose();
        Ok(match self {
            Patch::Episode(p) => Patch::Episode(EpisodePatch {
                key: text(Field::Key, p.key)?,
                description: text(Field::Description, p.description)?,
                value: text(Field::Value, p.value)?,
                confidence: sure(p.confidence)?,
                rationale: text(Field::Rationale, p.rationale)?,
                ..p
            }),
            Patch::Fact(p) => Patch::Fact(FactPatch {
                subject: text(Field::Subject, p.subject)?,
                content: text(Field::Content, p.content)?,
                confidence: sure(p.confidence)?,
                rationale: text(Field::Rationale, p.rationale)?,
                ..p
            }),
            Patch::Node(p) => {
                let name = text(Field::Name, p.name)?;
                let of = name.clone().unwrap_or_default();
                let count = p.relations.len();
                if count > field::RELATIONS {
                    return Err(Refused::TooMany { field: "relationships", count, max: field::RELATIONS });
                }
                Patch::Node(NodePatch {
                    aliases: p.aliases.map(|a| field::aliases(&of, &a)).transpose()?,
                    name,
                    kind: p.kind,
                    attributes: p.attributes.map(attributes).transpose()?,
                    relations: p.relations.into_iter().map(|r| r.checked()).collect::<Result<_, _>>()?,
                    confidence: sure(p.confidence)?,
                    rationale: text(Field::Rationale, p.rationale)?,
                })
            }
            Patch::Edge(p) => Patch::Edge(EdgePatch {
                relation: text(Field::Relation, p.relation)?,
                confidence: sure(p.confidence)?,
                rationale: text(Field::Rationale, p.rationale)?,
                ..p
            }),
        })
    }
}

/// Edits a memory. What turns under way have recalled of it is taken out of them, as when it is erased.
pub(super) fn patch(
    tx: &Tx<'_>,
    id: &MemoryId,
    patch: Patch,
    vectors: &Prepared,
    heard: &Heard,
    now: Timestamp,
) -> brain::Result<(Patched, Touched)> {
    let before = TakenBack::before(tx, id)?;
    let shown_in = shown_in(tx, id)?;
    let procedure = procedure(tx, id)?;
    let edit = Edit { tx, vectors, now };
    let edited = match (id, patch) {
        (MemoryId::Episode(id), Patch::Episode(p)) => edit.episode(id, p)?,
        (MemoryId::Fact(id), Patch::Fact(p)) => edit.fact(id, p)?,
        (MemoryId::Node(id), Patch::Node(p)) => edit.node(id, p)?,
        (MemoryId::Edge(id), Patch::Edge(p)) => edit.edge(id, p)?,
        (_, Patch::Episode(_) | Patch::Fact(_) | Patch::Node(_) | Patch::Edge(_)) => Edited::Missing,
    };
    let touched = match edited {
        Edited::Touched(touched) => touched,
        Edited::Missing => return Ok((Patched::Missing, Touched::default())),
        Edited::SameAs(other) => return Ok((Patched::SameAs(other), Touched::default())),
    };
    if let Some(before) = before
        && let Some(taken_back) = before.after(tx)?
    {
        taken_back.end_pending(tx, heard, now)?;
    }
    let says = |one: &Option<Procedure>| one.as_ref().map(|one| (one.subject.clone(), one.content.clone()));
    if says(&procedure) != says(&self::procedure(tx, id)?) {
        showings::drop_procedures(tx, procedure.as_slice())?;
    }
    // nobody may read in the log what it said before
    tx.forget();
    lineage::replace(tx, id, &[])?;
    let shown_in: BTreeSet<&str> = shown_in.iter().map(MemoryId::as_str).collect();
    snapshots::forget_recalled(tx, &shown_in)?;
    let patched = find::get(tx, id)?.map_or(Patched::Missing, |item| Patched::Changed(Box::new(item)));
    Ok((patched, touched))
}

/// The way of doing something that a memory is.
fn procedure(tx: &Tx<'_>, id: &MemoryId) -> brain::Result<Option<Procedure>> {
    match id {
        MemoryId::Fact(fact) => Procedure::of(tx, fact),
        MemoryId::Episode(_) | MemoryId::Node(_) | MemoryId::Edge(_) => Ok(None),
    }
}

/// The memories whose text, where it is recalled, shows this one: itself, and the nodes at the other ends of relations.
fn shown_in(tx: &Tx<'_>, id: &MemoryId) -> brain::Result<Vec<MemoryId>> {
    let ends = |edge: Edge| [MemoryId::Node(edge.from), MemoryId::Node(edge.to)];
    let mut ids = vec![id.clone()];
    match id {
        MemoryId::Node(node) => ids.extend(edges::of_node(tx, node)?.into_iter().flat_map(|e| ends(e.item))),
        MemoryId::Edge(edge) => ids.extend(edges::get(tx, edge)?.into_iter().flat_map(|e| ends(e.item))),
        MemoryId::Episode(_) | MemoryId::Fact(_) => {}
    }
    Ok(ids)
}

/// What an edit of one row came to.
enum Edited {
    /// It is written.
    Touched(Touched),
    /// There is no such row, or the patch is for another kind.
    Missing,
    /// It would say what this one says.
    SameAs(MemoryId),
}

struct Edit<'e> {
    tx: &'e Tx<'e>,
    vectors: &'e Prepared,
    now: Timestamp,
}

impl Edit<'_> {
    fn episode(&self, id: &EpisodeId, p: EpisodePatch) -> brain::Result<Edited> {
        let Some(mut row) = episodes::get(self.tx, id)? else { return Ok(Edited::Missing) };
        let before = row.item.content_hash.clone();
        let e = &mut row.item;
        set(&mut e.key, p.key);
        set(&mut e.description, p.description);
        if let Some(value) = p.value {
            e.value = Some(value).filter(|v| !v.is_empty());
        }
        set(&mut e.occurred_at, p.occurred_at);
        e.content_hash = content_hash(&e.key, &write::compared(&e.description, e.value.as_deref()));
        if e.content_hash != before
            && let Some(other) = self.same_episode(e)?
        {
            return Ok(Edited::SameAs(other));
        }
        self.provenance(&mut e.provenance, p.confidence, p.rationale);
        let text = search_text::episode(&e.key, &e.description, e.value.as_deref(), e.occurred_at);
        episodes::replace(self.tx, e, &text)?;
        let stored = self.vectors.store(self.tx, Store::Episodes, row.row, &text, self.now)?;
        Ok(Edited::Touched(Touched::of([(Store::Episodes, row.row)], stored)))
    }

    fn same_episode(&self, e: &Episode) -> brain::Result<Option<MemoryId>> {
        let there = episodes::by_hash(self.tx, &e.content_hash)?.map(|other| other.item.episode_id);
        Ok(there.filter(|other| *other != e.episode_id).map(MemoryId::Episode))
    }

    fn fact(&self, id: &FactId, p: FactPatch) -> brain::Result<Edited> {
        let Some(mut row) = knowledge::get(self.tx, id)? else { return Ok(Edited::Missing) };
        let (before, had_ended) = (row.item.content_hash.clone(), self.has_ended(&row.item));
        let f = &mut row.item;
        set(&mut f.subject, p.subject);
        set(&mut f.content, p.content);
        set(&mut f.kind, p.kind);
        set(&mut f.valid_from, p.valid_from);
        if let Some(until) = p.valid_until {
            f.valid_until = until;
            f.superseded_by = None;
        }
        f.subject_norm = name_norm(&f.subject);
        f.content_hash = content_hash(&f.subject, &f.content);
        if (f.content_hash != before || had_ended)
            && !self.has_ended(f)
            && let Some(other) = self.same_fact(f)?
        {
            return Ok(Edited::SameAs(other));
        }
        self.provenance(&mut f.provenance, p.confidence, p.rationale);
        let text = search_text::fact(&f.subject, &f.content, f.valid_from);
        knowledge::replace(self.tx, f, &text)?;
        let stored = self.vectors.store(self.tx, Store::Knowledge, row.row, &text, self.now)?;
        Ok(Edited::Touched(Touched::of([(Store::Knowledge, row.row)], stored)))
    }

    fn has_ended(&self, fact: &Fact) -> bool {
        write::has_ended(fact.valid_until, self.now)
    }

    /// The other fact that holds and says the same: what has ended may be said again.
    fn same_fact(&self, f: &Fact) -> brain::Result<Option<MemoryId>> {
        let there = knowledge::by_hash(self.tx, &f.content_hash)?.into_iter().map(|other| other.item);
        let mut same = there.filter(|other| other.fact_id != f.fact_id && !self.has_ended(other));
        Ok(same.next().map(|other| MemoryId::Fact(other.fact_id)))
    }

    fn node(&self, id: &NodeId, p: NodePatch) -> brain::Result<Edited> {
        let Some(mut row) = nodes::get(self.tx, id)? else { return Ok(Edited::Missing) };
        let before = (row.item.name_norm.clone(), row.item.kind);
        let n = &mut row.item;
        set(&mut n.name, p.name);
        set(&mut n.kind, p.kind);
        set(&mut n.aliases, p.aliases);
        n.aliases.retain(|alias| *alias != n.name);
        set(&mut n.attributes, p.attributes);
        n.name_norm = name_norm(&n.name);
        n.aliases_norm = social::norms(&n.aliases);
        if (n.name_norm.as_str(), n.kind) != (before.0.as_str(), before.1)
            && let Some(other) = self.same_node(n)?
        {
            return Ok(Edited::SameAs(other));
        }
        self.provenance(&mut n.provenance, p.confidence, p.rationale.clone());
        let confidence = n.provenance.confidence;
        let rows = nodes::replace(self.tx, n, &node_text)?.unwrap_or_default();
        let stored = embed_nodes(self.tx, self.vectors, &rows, self.now)?;
        let origin = Origin::api(confidence, p.rationale.unwrap_or_else(|| EDITED.to_owned()));
        let touched = Touched::default();
        let mut writing =
            Writing { tx: self.tx, origin: &origin, vectors: self.vectors, now: self.now, touched };
        social::relate(&mut writing, id, p.relations)?;
        // The node itself also when its text is the same: names are looked up in RAM, too.
        let rows = rows.into_iter().chain([row.row]).map(|row| (Store::Social, row));
        Ok(Edited::Touched(writing.touched.and(Touched::of(rows, stored))))
    }

    /// The other node that is called so, as the write gate would find it. What nobody vouches for has a graph of its own
    /// and is in nobody's way.
    fn same_node(&self, n: &Node) -> brain::Result<Option<MemoryId>> {
        let fits = |kind: NodeKind| kind == n.kind || kind == NodeKind::Other || n.kind == NodeKind::Other;
        let is_other = |other: &Stored<Node>| {
            other.item.node_id != n.node_id
                && other.item.provenance.trust != Trust::Untrusted
                && fits(other.item.kind)
        };
        let there = nodes::by_name(self.tx, &n.name_norm)?;
        Ok(there.into_iter().find(is_other).map(|other| MemoryId::Node(other.item.node_id)))
    }

    fn edge(&self, id: &EdgeId, p: EdgePatch) -> brain::Result<Edited> {
        let Some(mut row) = edges::get(self.tx, id)? else { return Ok(Edited::Missing) };
        let before = (row.item.relation.clone(), write::has_ended(row.item.valid_until, self.now));
        let e = &mut row.item;
        set(&mut e.relation, p.relation);
        set(&mut e.valid_from, p.valid_from);
        set(&mut e.valid_until, p.valid_until);
        let has_ended = write::has_ended(e.valid_until, self.now);
        if (e.relation != before.0 || before.1)
            && !has_ended
            && let Some(other) = edges::open(self.tx, &e.from, &e.to, &e.relation, self.now)?
            && other.item.edge_id != e.edge_id
        {
            return Ok(Edited::SameAs(MemoryId::Edge(other.item.edge_id)));
        }
        self.provenance(&mut e.provenance, p.confidence, p.rationale);
        let rows = edges::replace(self.tx, e, &node_text)?.unwrap_or_default();
        let stored = embed_nodes(self.tx, self.vectors, &rows, self.now)?;
        Ok(Edited::Touched(Touched::of(rows.into_iter().map(|row| (Store::Social, row)), stored)))
    }

    fn provenance(&self, p: &mut Provenance, confidence: Option<f64>, rationale: Option<String>) {
        p.trust = Trust::User;
        "user:api".clone_into(&mut p.source);
        set(&mut p.confidence, confidence);
        // the reason before was that of other words
        p.rationale = rationale.filter(|why| !why.is_empty()).unwrap_or_else(|| EDITED.to_owned());
        p.last_confirmed_at = p.last_confirmed_at.max(self.now);
        p.updated_at = self.now;
    }
}

fn set<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}

/// Erases a memory; `None` when there is none.
pub(super) fn erase(
    tx: &Tx<'_>,
    id: &MemoryId,
    vectors: &Prepared,
    heard: &Heard,
    now: Timestamp,
) -> brain::Result<Option<(Forgotten, Touched)>> {
    let Some(before) = TakenBack::before(tx, id)? else { return Ok(None) };
    let Some(erased) = erase::erase(tx, id, &node_text)? else { return Ok(None) };
    let not_learned_from = before.end_pending(tx, heard, now)?;
    let still_said_in = before.still_said_in(tx)?;
    showings::drop_procedures(tx, &erased.procedures)?;
    let still_in_skills = showings::skills_that_say(tx, &erased.procedures)?;
    let stored = embed_nodes(tx, vectors, &erased.rewritten, now)?;
    let touched = Touched { unembedded: !stored, ..Touched::erased(&erased) };
    let also_deleted = erased.gone.into_iter().map(|g| g.item).filter(|gone| gone != id).collect();
    Ok(Some((Forgotten { also_deleted, still_said_in, still_in_skills, not_learned_from }, touched)))
}
