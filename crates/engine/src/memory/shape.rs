//! Memories as the API shows them (specification 3.6), and the text under which a node is found.
//!
//! The invariant: what is shown of a memory is what is stored, under the names that a write takes.

use super::item::{Forgotten, Item};
use ::memory::search_text;
use brain::memory::edges::{Relation, Relations};
use brain::memory::episodes::Episode;
use brain::memory::knowledge::Fact;
use brain::memory::nodes::Node;
use brain::memory::{MemoryId, Provenance};
use serde_json::{Map, Value, json};

/// A memory as JSON; with its score when it was searched for.
pub fn shown(item: &Item, score: Option<f64>) -> Value {
    let mut fields = match item {
        Item::Episode(e) => episode(&e.item),
        Item::Fact(f) => fact(&f.item),
        Item::Node(n, relations) => node(&n.item, relations),
    };
    provenance(&mut fields, item.provenance());
    if let Some(score) = score {
        fields.insert("score".into(), json!(score));
    }
    Value::Object(fields)
}

fn episode(e: &Episode) -> Map<String, Value> {
    fields([
        ("id", json!(e.episode_id)),
        ("key", json!(e.key)),
        ("description", json!(e.description)),
        ("value", json!(e.value)),
        ("kind", json!(e.kind)),
        ("task_id", json!(e.task_id)),
        ("occurred_at", json!(e.occurred_at)),
    ])
}

fn fact(f: &Fact) -> Map<String, Value> {
    fields([
        ("id", json!(f.fact_id)),
        ("subject", json!(f.subject)),
        ("content", json!(f.content)),
        ("type", json!(f.kind)),
        ("valid_from", json!(f.valid_from)),
        ("valid_until", json!(f.valid_until)),
    ])
}

fn node(n: &Node, relations: &Relations) -> Map<String, Value> {
    let away: Vec<Value> = relations.iter().filter(|r| r.outgoing).map(relation).collect();
    let left_out = relations.outgoing > u64::try_from(away.len()).unwrap_or(u64::MAX);
    let mut fields = fields([
        ("id", json!(n.node_id)),
        ("name", json!(n.name)),
        ("kind", json!(n.kind)),
        ("aliases", json!(n.aliases)),
        ("attributes", json!(n.attributes)),
        ("relationships", json!(away)),
    ]);
    if left_out {
        fields.insert("relationships_total".into(), json!(relations.outgoing));
    }
    fields
}

fn relation(r: &Relation) -> Value {
    json!({
        "id": r.edge.edge_id,
        "relation": r.edge.relation,
        "to": {"id": r.other, "name": r.other_name},
        "confidence": r.edge.provenance.confidence,
        "valid_from": r.edge.valid_from,
        "valid_until": r.edge.valid_until,
        "source": r.edge.provenance.source,
    })
}

fn provenance(fields: &mut Map<String, Value>, p: &Provenance) {
    fields.insert("confidence".into(), json!(p.confidence));
    fields.insert("source".into(), json!(p.source));
    fields.insert("rationale".into(), json!(p.rationale));
    fields.insert("trust".into(), json!(p.trust));
    fields.insert("created_at".into(), json!(p.created_at));
}

fn fields<const N: usize>(list: [(&str, Value); N]) -> Map<String, Value> {
    list.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// The text of a node for `brain::memory`, wherever a node or a relation is written or erased.
pub fn node_text(node: &Node, relations: &[Relation]) -> String {
    let related: Vec<search_text::Relation<'_>> = relations
        .iter()
        .map(|r| search_text::Relation { relation: &r.edge.relation, other: &r.other_name })
        .collect();
    search_text::node(&node.name, &node.aliases, &Value::Object(node.attributes.clone()), &related)
}

/// A deletion as its answer says it, over HTTP and on the command line.
pub fn shown_forgotten(id: &MemoryId, forgotten: &Forgotten) -> Value {
    let ids = |ids: &[MemoryId]| ids.iter().map(|id| Value::from(id.as_str())).collect::<Value>();
    json!({
        "status": "deleted",
        "id": id.as_str(),
        "also_deleted": ids(&forgotten.also_deleted),
        "still_said_in": ids(&forgotten.still_said_in),
        "still_in_skills": forgotten.still_in_skills,
        "not_learned_from": forgotten.not_learned_from,
    })
}
