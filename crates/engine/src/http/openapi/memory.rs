//! Schemas of /memory/{store}/… and /memory/soul. Limits come from the write gate, so that they cannot differ from it.

use super::{object, reference};
use crate::tools::memory::QUERY_CHARS;
use ::memory::field::{ALIASES, Field, RELATIONS};
use ::memory::soul::LINES;
use contract::memory::{EpisodeKind, FactType, NodeKind, Store, Trust};
use serde_json::{Map, Value, json};

fn limited(field: Field) -> Value {
    json!({"type": "string", "minLength": usize::from(field.is_required()), "maxLength": field.max_chars()})
}

fn words(all: &impl serde::Serialize) -> Value {
    json!({"type": "string", "enum": all})
}

/// The `{store}` of a path.
pub(super) fn store() -> Value {
    words(&Store::ALL)
}

fn share() -> Value {
    json!({"type": "number", "minimum": 0, "maximum": 1})
}

fn time() -> Value {
    json!({"type": "string", "format": "date-time"})
}

fn maybe(schema: &Value) -> Value {
    json!({"anyOf": [schema, {"type": "null"}]})
}

fn list(items: &Value) -> Value {
    json!({"type": "array", "items": items})
}

/// What every memory shows beside its own fields.
fn shown(own: Value) -> Value {
    let text = json!({"type": "string"});
    let mut properties = own;
    for (name, schema) in [
        ("id", text.clone()),
        ("confidence", share()),
        ("source", text.clone()),
        ("rationale", text),
        ("trust", words(&Trust::ALL)),
        ("created_at", time()),
        ("score", json!({"type": "number", "minimum": 0, "description": "only in search results"})),
    ] {
        properties[name] = schema;
    }
    let required: Vec<&str> =
        properties.as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect();
    let required: Vec<&str> =
        required.into_iter().filter(|name| !["score", "relationships_total"].contains(name)).collect();
    object(properties.clone(), &required)
}

fn items() -> [(&'static str, Value); 4] {
    let text = json!({"type": "string"});
    let fact = json!({
        "subject": text, "content": text, "type": words(&FactType::ALL), "valid_from": time(),
        "valid_until": maybe(&time()),
    });
    let episode = json!({
        "key": text, "description": text, "value": maybe(&text), "kind": words(&EpisodeKind::ALL),
        "task_id": maybe(&text), "occurred_at": time(),
    });
    let to = object(json!({"id": text, "name": text}), &["id", "name"]);
    let relation = object(
        json!({
            "id": text, "relation": text, "to": to, "confidence": share(), "valid_from": time(),
            "valid_until": maybe(&time()), "source": text,
        }),
        &["id", "relation", "to", "confidence", "valid_from", "valid_until", "source"],
    );
    let node = json!({
        "name": text, "kind": words(&NodeKind::ALL), "aliases": list(&text), "attributes": {"type": "object"},
        "relationships": list(&relation),
        "relationships_total": {
            "type": "integer", "minimum": 0, "description": "only when more lead away from it than are listed",
        },
    });
    [
        ("Fact", shown(fact)),
        ("Episode", shown(episode)),
        ("Node", shown(node)),
        ("MemoryItem", json!({"anyOf": [reference("Fact"), reference("Episode"), reference("Node")]})),
    ]
}

fn relations() -> Value {
    let to = json!({"type": "string", "minLength": 1, "maxLength": Field::Name.max_chars(), "description": "a name, or a soc- id"});
    let one = object(
        json!({"relation": limited(Field::Relation), "to": to, "confidence": share()}),
        &["relation", "to"],
    );
    json!({"type": "array", "items": one, "maxItems": RELATIONS})
}

fn bodies() -> [(&'static str, Value); 6] {
    let aliases = json!({"type": "array", "items": limited(Field::Alias), "maxItems": ALIASES});
    let fact = json!({
        "subject": limited(Field::Subject), "content": limited(Field::Content), "type": words(&FactType::ALL),
        "confidence": share(), "valid_from": time(), "valid_until": maybe(&time()),
        "rationale": limited(Field::Rationale),
    });
    let episode = json!({
        "key": limited(Field::Key), "description": limited(Field::Description),
        "value": limited(Field::Value), "occurred_at": time(),
        "task_id": {"type": "string", "minLength": 1, "maxLength": 256},
        "rationale": limited(Field::Rationale),
    });
    let node = json!({
        "name": limited(Field::Name), "kind": words(&NodeKind::ALL), "aliases": aliases,
        "attributes": {"type": "object"}, "relationships": relations(), "confidence": share(),
        "rationale": limited(Field::Rationale),
    });
    let mut changed = Map::new();
    for part in [&fact, &episode, &node] {
        changed.extend(part.as_object().into_iter().flatten().map(|(n, s)| (n.clone(), s.clone())));
    }
    changed.remove("task_id");
    changed.insert("relation".into(), limited(Field::Relation));
    changed.insert("value".into(), maybe(&limited(Field::Value)));
    let mut change = object(Value::Object(changed), &[]);
    change["description"] = json!("the fields of the kind that the id names (fact-, ep-, soc- or rel-)");
    let lines = json!({"type": "array", "items": limited(Field::SoulLine), "maxItems": LINES});
    let query = json!({"type": "string", "maxLength": QUERY_CHARS, "description": "empty lists the newest"});
    let limit = json!({"type": "integer", "minimum": 1, "maximum": 100, "default": 20});
    let before = json!({
        "type": "string",
        "description": "with an empty query: only what is older than this memory of the store, the last one of the page before",
    });
    [
        ("MemorySearch", object(json!({"query": query, "limit": limit, "before": before}), &["query"])),
        ("FactCreate", object(fact, &["subject", "content"])),
        ("EpisodeCreate", object(episode, &["key", "description"])),
        ("NodeCreate", object(node, &["name"])),
        ("MemoryChange", change),
        (
            "SoulChange",
            object(json!({"identity": limited(Field::Identity), "values": lines, "patterns": lines}), &[]),
        ),
    ]
}

fn answers() -> [(&'static str, Value); 11] {
    let text = json!({"type": "string"});
    let number = json!({"type": "integer", "minimum": 0});
    let item = reference("MemoryItem");
    let soul = json!({"identity": text, "values": list(&text), "patterns": list(&text)});
    let source = json!({"type": "string", "enum": ["catalog", "learning", "user"]});
    let mut version = soul.clone();
    version["version"] = number.clone();
    version["source"] = source;
    let mut full = version.clone();
    version["rationale"] = text.clone();
    version["created_at"] = time();
    let parts = ["identity", "values", "patterns", "version", "source"];
    full["updated_at"] = maybe(&time());
    full["history"] = list(&object(version, &[&parts[..], &["rationale", "created_at"]].concat()));
    let counts = ["total", "duplicate", "stale", "superseded", "untrusted", "unembedded"];
    let of_store: Map<String, Value> = counts.iter().map(|n| ((*n).to_owned(), number.clone())).collect();
    let of_store = object(Value::Object(of_store), &counts);
    let embedding = object(
        json!({"provider": text, "model": text, "dim": number, "reembedding": {"type": "boolean"}}),
        &["provider", "model", "dim", "reembedding"],
    );
    let stores = json!({"episodes": of_store, "knowledge": of_store, "social": of_store});
    let stores = object(stores, &["episodes", "knowledge", "social"]);
    [
        ("MemoryList", list(&item)),
        (
            "MemoryWritten",
            object(
                json!({"status": {"type": "string", "enum": ["created", "duplicate"]}, "item": item, "closed": list(&text)}),
                &["status", "item", "closed"],
            ),
        ),
        ("MemoryUpdated", object(json!({"status": text, "item": item}), &["status", "item"])),
        (
            "MemoryDeleted",
            object(
                json!({"status": text, "id": text, "also_deleted": list(&text), "still_said_in": list(&text),
                    "still_in_skills": list(&text), "not_learned_from": {"type": "integer", "minimum": 0}}),
                &["status", "id", "also_deleted", "still_said_in", "still_in_skills", "not_learned_from"],
            ),
        ),
        (
            "MemorySourceDeleted",
            object(
                json!({"status": {"const": "deleted"}, "source": text, "deleted": list(&text),
                    "also_deleted": list(&text), "still_in_skills": list(&text), "total": number}),
                &["status", "source", "deleted", "also_deleted", "still_in_skills", "total"],
            ),
        ),
        ("Soul", object(soul, &parts[..3])),
        ("SoulFull", object(full, &[&parts[..], &["updated_at", "history"]].concat())),
        (
            "SoulHistoryDeleted",
            object(json!({"status": {"const": "deleted"}, "versions": number}), &["status", "versions"]),
        ),
        ("MemoryBundle", bundle()),
        ("MemoryImported", imported()),
        ("MemoryStats", object(json!({"stores": stores, "embedding": embedding}), &["stores", "embedding"])),
    ]
}

/// Opaque to clients: the rows are the Engine's.
fn bundle() -> Value {
    let rows = json!({"type": "array", "items": {"type": "object"}});
    let text = json!({"type": "string"});
    object(
        json!({
            "format": {"type": "string", "const": crate::memory::bundle::FORMAT}, "engine_version": text,
            "exported_at": time(), "soul": maybe(&json!({"type": "object"})), "soul_history": rows, "episodes": rows,
            "knowledge": rows, "social": object(json!({"nodes": rows, "edges": rows}), &[]), "skills": rows,
            "signals": rows,
        }),
        &["format"],
    )
}

fn imported() -> Value {
    let number = json!({"type": "integer", "minimum": 0});
    let counts = json!({"episodes": number, "knowledge": number, "social": number, "skills": number});
    let counts = object(counts, &["episodes", "knowledge", "social", "skills"]);
    object(
        json!({
            "status": {"type": "string", "enum": ["imported"]},
            "mode": {"type": "string", "enum": ["merge", "replace"]}, "counts": counts,
            "skipped_duplicates": number,
        }),
        &["status", "mode", "counts", "skipped_duplicates"],
    )
}

/// Every schema of this file.
pub(super) fn schemas() -> impl Iterator<Item = (String, Value)> {
    let all = items().into_iter().chain(bodies()).chain(answers());
    all.map(|(name, schema)| (name.to_owned(), schema))
}
