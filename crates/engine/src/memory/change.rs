//! A person edits or forgets a memory.
//!
//! What a person has edited is the person's: trust `user`, source `user:api`, resting on nothing else, so that it does not
//! go with what it once came from.
//!
//! The invariant: text, full-text entry, vector and hash of an edited row are of one text.

use super::gate::{Writing, embed_nodes};
use super::item::{EdgePatch, EpisodePatch, FactPatch, Item, NodePatch, Origin, Patch, Touched, attributes};
use super::shape::node_text;
use super::taken_back::TakenBack;
use super::vectors::Prepared;
use super::{find, social, write};
use ::memory::entity::name_norm;
use ::memory::field::{self, Field, Refused};
use ::memory::likeness::content_hash;
use ::memory::search_text;
use brain::Tx;
use brain::memory::{MemoryId, Provenance, edges, episodes, erase, knowledge, lineage, nodes};
use contract::memory::{Store, Trust};
use contract::{EdgeId, EpisodeId, FactId, NodeId, Timestamp};

/// Why a relation is kept that comes with an edit, when nobody says.
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

/// Edits a memory; `None` when there is none of this id, or the patch is for another kind.
pub(super) fn patch(
    tx: &Tx<'_>,
    id: &MemoryId,
    patch: Patch,
    vectors: &Prepared,
    now: Timestamp,
) -> brain::Result<Option<(Item, Touched)>> {
    let before = TakenBack::before(tx, id)?;
    let edit = Edit { tx, vectors, now };
    let touched = match (id, patch) {
        (MemoryId::Episode(id), Patch::Episode(p)) => edit.episode(id, p)?,
        (MemoryId::Fact(id), Patch::Fact(p)) => edit.fact(id, p)?,
        (MemoryId::Node(id), Patch::Node(p)) => edit.node(id, p)?,
        (MemoryId::Edge(id), Patch::Edge(p)) => edit.edge(id, p)?,
        (_, Patch::Episode(_) | Patch::Fact(_) | Patch::Node(_) | Patch::Edge(_)) => None,
    };
    let Some(touched) = touched else { return Ok(None) };
    if let Some(before) = before
        && before.is_changed(tx, id)?
    {
        // What it said before is taken back, and nobody may read it in the log.
        before.end_pending(tx, now)?;
        tx.forget();
    }
    lineage::replace(tx, id, &[])?;
    Ok(find::get(tx, id)?.map(|item| (item, touched)))
}

struct Edit<'e> {
    tx: &'e Tx<'e>,
    vectors: &'e Prepared,
    now: Timestamp,
}

impl Edit<'_> {
    fn episode(&self, id: &EpisodeId, p: EpisodePatch) -> brain::Result<Option<Touched>> {
        let Some(mut row) = episodes::get(self.tx, id)? else { return Ok(None) };
        let e = &mut row.item;
        set(&mut e.key, p.key);
        set(&mut e.description, p.description);
        if let Some(value) = p.value {
            e.value = Some(value).filter(|v| !v.is_empty());
        }
        set(&mut e.occurred_at, p.occurred_at);
        e.content_hash = content_hash(&e.key, &write::compared(&e.description, e.value.as_deref()));
        self.provenance(&mut e.provenance, p.confidence, p.rationale);
        let text = search_text::episode(&e.key, &e.description, e.value.as_deref(), e.occurred_at);
        episodes::replace(self.tx, e, &text)?;
        let stored = self.vectors.store(self.tx, Store::Episodes, row.row, &text, self.now)?;
        Ok(Some(Touched::of([(Store::Episodes, row.row)], stored)))
    }

    fn fact(&self, id: &FactId, p: FactPatch) -> brain::Result<Option<Touched>> {
        let Some(mut row) = knowledge::get(self.tx, id)? else { return Ok(None) };
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
        self.provenance(&mut f.provenance, p.confidence, p.rationale);
        let text = search_text::fact(&f.subject, &f.content, f.valid_from);
        knowledge::replace(self.tx, f, &text)?;
        let stored = self.vectors.store(self.tx, Store::Knowledge, row.row, &text, self.now)?;
        Ok(Some(Touched::of([(Store::Knowledge, row.row)], stored)))
    }

    fn node(&self, id: &NodeId, p: NodePatch) -> brain::Result<Option<Touched>> {
        let Some(mut row) = nodes::get(self.tx, id)? else { return Ok(None) };
        let n = &mut row.item;
        set(&mut n.name, p.name);
        set(&mut n.kind, p.kind);
        set(&mut n.aliases, p.aliases);
        n.aliases.retain(|alias| *alias != n.name);
        set(&mut n.attributes, p.attributes);
        n.name_norm = name_norm(&n.name);
        n.aliases_norm = social::norms(&n.aliases);
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
        Ok(Some(writing.touched.and(Touched::of(rows, stored))))
    }

    fn edge(&self, id: &EdgeId, p: EdgePatch) -> brain::Result<Option<Touched>> {
        let Some(mut row) = edges::get(self.tx, id)? else { return Ok(None) };
        let e = &mut row.item;
        set(&mut e.relation, p.relation);
        set(&mut e.valid_from, p.valid_from);
        set(&mut e.valid_until, p.valid_until);
        self.provenance(&mut e.provenance, p.confidence, p.rationale);
        let rows = edges::replace(self.tx, e, &node_text)?.unwrap_or_default();
        let stored = embed_nodes(self.tx, self.vectors, &rows, self.now)?;
        Ok(Some(Touched::of(rows.into_iter().map(|row| (Store::Social, row)), stored)))
    }

    fn provenance(&self, p: &mut Provenance, confidence: Option<f64>, rationale: Option<String>) {
        p.trust = Trust::User;
        "user:api".clone_into(&mut p.source);
        set(&mut p.confidence, confidence);
        set(&mut p.rationale, rationale);
        p.last_confirmed_at = p.last_confirmed_at.max(self.now);
        p.updated_at = self.now;
    }
}

fn set<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}

/// Erases a memory: the ids of what went with it.
pub(super) fn erase(
    tx: &Tx<'_>,
    id: &MemoryId,
    vectors: &Prepared,
    now: Timestamp,
) -> brain::Result<Option<(Vec<MemoryId>, Touched)>> {
    let before = TakenBack::before(tx, id)?;
    let Some(erased) = erase::erase(tx, id, &node_text)? else { return Ok(None) };
    if let Some(before) = before {
        before.end_pending(tx, now)?;
    }
    let stored = embed_nodes(tx, vectors, &erased.rewritten, now)?;
    let touched = Touched { unembedded: !stored, ..Touched::erased(&erased) };
    let also = erased.gone.into_iter().map(|g| g.item).filter(|gone| gone != id).collect();
    Ok(Some((also, touched)))
}
