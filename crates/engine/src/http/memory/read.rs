//! The bodies of /memory/* as what `crate::memory` takes, or the field that is wrong.
//!
//! Pure. A single value that cannot be is 400 with its field; fields that contradict each other are 422. Limits are those
//! of the write gate (`memory::field`), so that what is accepted here is never refused there.

use crate::http::fields::Fields;
use crate::memory::{
    EdgePatch, End, EpisodePatch, FactPatch, Item, NewEpisode, NewFact, NewNode, NewRelation, NodePatch,
    Origin, Patch, Search, Wanted,
};
use crate::tools::memory::QUERY_CHARS;
use ::memory::confidence::{NOTE, STATED};
use ::memory::field::{self, Field, RELATIONS, Refused};
use brain::memory::MemoryId;
use contract::memory::{EpisodeKind, FactType, NodeKind, Store};
use contract::{ApiError, ErrorCode, TaskId, Timestamp};
use serde_json::{Map, Value, json};

/// Items of one answer when nobody says.
const FOUND: usize = 20;
/// Most items of one answer. More makes one answer as large as a page of a book; fewer makes browsing slow.
const FOUND_MAX: i64 = 100;
/// Longest text read as an id. Longer would only make errors longer; shorter than an id would refuse every page.
const ID_CHARS: usize = 64;
/// Why a memory is kept when nobody says.
const WRITTEN: &str = "written over the API";

/// The words of a closed set, for an error.
fn one_of<T: std::fmt::Display>(words: &[T]) -> String {
    let words: Vec<String> = words.iter().map(T::to_string).collect();
    format!("one of {}", words.join(", "))
}

/// A refusal of the write gate as the API answers it.
pub(in crate::http) fn refused(refused: &Refused) -> ApiError {
    ApiError::invalid_field(refused.field(), &refused.expected(), json!(refused.came()))
}

/// An error about a field of an entry of a list.
fn within(place: &str, error: ApiError) -> ApiError {
    let details = error.details.unwrap_or_default();
    let inner = details["field"].as_str().unwrap_or_default();
    let expected = details["expected"].as_str().unwrap_or_default();
    ApiError::invalid_field(&format!("{place}.{inner}"), expected, details["got"].clone())
}

fn required(fields: &mut Fields, of: Field) -> Result<String, ApiError> {
    clean(of, &fields.text(of.name(), 1, of.max_chars())?)
}

fn optional(fields: &mut Fields, of: Field) -> Result<Option<String>, ApiError> {
    let least = usize::from(of.is_required());
    let text = fields.opt_text(of.name(), least, of.max_chars())?;
    text.map(|text| clean(of, &text)).transpose()
}

fn clean(of: Field, text: &str) -> Result<String, ApiError> {
    field::text(of, text).map_err(|e| refused(&e))
}

/// What is asked of a store.
#[derive(Debug)]
pub(super) enum Asked {
    /// What fits best, or the newest.
    Find(Search),
    /// The newest of what is older than a memory: the next page.
    Older { before: MemoryId, limit: usize },
}

/// A question to a store.
pub(super) fn search(store: Store, fields: &mut Fields, now: Timestamp) -> Result<Asked, ApiError> {
    let query = fields.text("query", 0, QUERY_CHARS)?;
    let limit = fields.opt_int("limit", 1, FOUND_MAX)?;
    let limit = limit.and_then(|n| usize::try_from(n).ok()).unwrap_or(FOUND);
    let Some(before) = before(store, fields)? else {
        return Ok(Asked::Find(Search { store, query, limit, now }));
    };
    if !query.trim().is_empty() {
        let text = "what fits a question has no order of age: before goes with an empty query only";
        return Err(ApiError::new(ErrorCode::ValidationError, text)
            .with(json!({"field": "before", "expected": "none beside a query", "got": before.as_str()})));
    }
    Ok(Asked::Older { before, limit })
}

/// The last memory of the page before. A relation is shown with its node and has no page of its own.
fn before(store: Store, fields: &mut Fields) -> Result<Option<MemoryId>, ApiError> {
    let Some(text) = fields.opt_text("before", 1, ID_CHARS)? else { return Ok(None) };
    let id = MemoryId::parse(&text).filter(|id| id.store() == store && !matches!(id, MemoryId::Edge(_)));
    id.map(Some).ok_or_else(|| {
        let expected = match store {
            Store::Episodes => "the ep- id of an episode",
            Store::Knowledge => "the fact- id of a fact",
            Store::Social => "the soc- id of somebody",
        };
        ApiError::invalid_field("before", expected, json!(text))
    })
}

fn origin(fields: &mut Fields, confidence: f64) -> Result<Origin, ApiError> {
    let rationale = optional(fields, Field::Rationale)?.filter(|text| !text.is_empty());
    Ok(Origin::api(confidence, rationale.unwrap_or_else(|| WRITTEN.to_owned())))
}

fn checked(wanted: Wanted) -> Result<Wanted, ApiError> {
    wanted.checked().map_err(|e| refused(&e))
}

fn fact_type(fields: &mut Fields) -> Result<Option<FactType>, ApiError> {
    fields.opt_word("type", &one_of(FactType::ALL), FactType::parse)
}

/// A new fact.
pub(super) fn fact(fields: &mut Fields, now: Timestamp) -> Result<(Wanted, Origin), ApiError> {
    let fact = NewFact {
        subject: required(fields, Field::Subject)?,
        content: required(fields, Field::Content)?,
        kind: fact_type(fields)?.unwrap_or(FactType::Fact),
        valid_from: fields.opt_time("valid_from")?,
        valid_until: fields.opt_time("valid_until")?,
    };
    let confidence = fields.opt_share("confidence")?.unwrap_or(STATED);
    let origin = origin(fields, confidence)?;
    ends_after_it_begins(fact.valid_from.unwrap_or(now), fact.valid_until)?;
    Ok((checked(Wanted::Fact(fact))?, origin))
}

fn ends_after_it_begins(from: Timestamp, until: Option<Timestamp>) -> Result<(), ApiError> {
    match until {
        Some(until) if until < from => {
            let text = "it would end before it begins: valid_until is earlier than valid_from";
            Err(ApiError::new(ErrorCode::ValidationError, text).with(json!({
                "field": "valid_until", "expected": format!("{from} or later"), "got": until,
            })))
        }
        Some(_) | None => Ok(()),
    }
}

/// A new episode.
pub(super) fn episode(fields: &mut Fields) -> Result<(Wanted, Origin), ApiError> {
    let task = match fields.take("task_id") {
        None => None,
        Some(Value::String(text)) if TaskId::parse(&text).is_ok() => TaskId::parse(&text).ok(),
        Some(_) => {
            let expected = "a string of 1..256 characters without control characters";
            return Err(ApiError::invalid_field("task_id", expected, Value::Null));
        }
    };
    let episode = NewEpisode {
        kind: EpisodeKind::Note,
        key: required(fields, Field::Key)?,
        description: required(fields, Field::Description)?,
        value: optional(fields, Field::Value)?,
        occurred_at: fields.opt_time("occurred_at")?,
        task_id: task,
        turn_id: None,
        position: None,
    };
    let origin = origin(fields, NOTE)?;
    Ok((checked(Wanted::Episode(episode))?, origin))
}

/// A new node with its relations.
pub(super) fn node(fields: &mut Fields) -> Result<(Wanted, Origin), ApiError> {
    let node = NewNode {
        name: required(fields, Field::Name)?,
        kind: node_kind(fields)?,
        aliases: fields.opt_texts("aliases")?.unwrap_or_default(),
        attributes: attributes(fields)?.unwrap_or_default(),
        relations: relations(fields)?,
    };
    let confidence = fields.opt_share("confidence")?.unwrap_or(STATED);
    let origin = origin(fields, confidence)?;
    Ok((checked(Wanted::Node(node))?, origin))
}

fn node_kind(fields: &mut Fields) -> Result<Option<NodeKind>, ApiError> {
    fields.opt_word("kind", &one_of(NodeKind::ALL), NodeKind::parse)
}

fn attributes(fields: &mut Fields) -> Result<Option<Map<String, Value>>, ApiError> {
    let Some(value) = fields.object("attributes")? else { return Ok(None) };
    match field::attributes(&value).map_err(|e| refused(&e))? {
        Value::Object(map) => Ok(Some(map)),
        _ => Ok(None),
    }
}

fn relations(fields: &mut Fields) -> Result<Vec<NewRelation>, ApiError> {
    let list = fields.list("relationships")?;
    if list.len() > RELATIONS {
        return Err(refused(&Refused::TooMany { field: "relationships", count: list.len(), max: RELATIONS }));
    }
    let one = |(at, item): (usize, Value)| {
        let place = format!("relationships.{at}");
        match item {
            Value::Object(map) => relation(&mut Fields::of(map)).map_err(|e| within(&place, e)),
            _ => Err(ApiError::invalid_field(&place, "an object with relation and to", Value::Null)),
        }
    };
    list.into_iter().enumerate().map(one).collect()
}

fn relation(fields: &mut Fields) -> Result<NewRelation, ApiError> {
    let relation = required(fields, Field::Relation)?;
    let to = fields.text("to", 1, Field::Name.max_chars())?;
    let to = match End::parse(&to) {
        End::Name(name) => {
            let name = field::text(Field::Name, &name);
            End::Name(name.map_err(|_| {
                ApiError::invalid_field("to", "a name with a visible character, or a soc- id", Value::Null)
            })?)
        }
        id @ End::Id(_) => id,
    };
    Ok(NewRelation { relation, to, confidence: fields.opt_share("confidence")? })
}

/// A time that `null` takes away.
fn until(fields: &mut Fields) -> Result<Option<Option<Timestamp>>, ApiError> {
    if fields.is_null("valid_until") {
        return Ok(Some(None));
    }
    Ok(fields.opt_time("valid_until")?.map(Some))
}

/// New values for a memory of the kind that its id tells.
pub(super) fn patch(id: &MemoryId, fields: &mut Fields) -> Result<Patch, ApiError> {
    let (patch, writable) = match id {
        MemoryId::Fact(_) => (
            Patch::Fact(fact_patch(fields)?),
            "subject, content, type, confidence, valid_from, valid_until, rationale",
        ),
        MemoryId::Episode(_) => (
            Patch::Episode(episode_patch(fields)?),
            "key, description, value, occurred_at, confidence, rationale",
        ),
        MemoryId::Node(_) => (
            Patch::Node(node_patch(fields)?),
            "name, kind, aliases, attributes, relationships, confidence, rationale",
        ),
        MemoryId::Edge(_) => {
            (Patch::Edge(edge_patch(fields)?), "relation, confidence, valid_from, valid_until, rationale")
        }
    };
    if says_nothing(&patch) {
        let text = "there is nothing to change: none of the fields that can be written was sent";
        return Err(ApiError::new(ErrorCode::ValidationError, text)
            .with(json!({"field": "body", "expected": format!("at least one of {writable}")})));
    }
    Ok(patch)
}

fn says_nothing(patch: &Patch) -> bool {
    match patch {
        Patch::Fact(patch) => *patch == FactPatch::default(),
        Patch::Episode(patch) => *patch == EpisodePatch::default(),
        Patch::Node(patch) => *patch == NodePatch::default(),
        Patch::Edge(patch) => *patch == EdgePatch::default(),
    }
}

fn fact_patch(fields: &mut Fields) -> Result<FactPatch, ApiError> {
    Ok(FactPatch {
        subject: optional(fields, Field::Subject)?,
        content: optional(fields, Field::Content)?,
        kind: fact_type(fields)?,
        confidence: fields.opt_share("confidence")?,
        valid_from: fields.opt_time("valid_from")?,
        valid_until: until(fields)?,
        rationale: optional(fields, Field::Rationale)?,
    })
}

fn episode_patch(fields: &mut Fields) -> Result<EpisodePatch, ApiError> {
    let taken_away = fields.is_null(Field::Value.name()).then(String::new);
    Ok(EpisodePatch {
        key: optional(fields, Field::Key)?,
        description: optional(fields, Field::Description)?,
        value: optional(fields, Field::Value)?.or(taken_away),
        occurred_at: fields.opt_time("occurred_at")?,
        confidence: fields.opt_share("confidence")?,
        rationale: optional(fields, Field::Rationale)?,
    })
}

fn node_patch(fields: &mut Fields) -> Result<NodePatch, ApiError> {
    let name = optional(fields, Field::Name)?;
    let aliases = fields.opt_texts("aliases")?;
    let aliases = aliases.map(|list| field::aliases(name.as_deref().unwrap_or_default(), &list));
    Ok(NodePatch {
        aliases: aliases.transpose().map_err(|e| refused(&e))?,
        name,
        kind: node_kind(fields)?,
        attributes: attributes(fields)?,
        relations: relations(fields)?,
        confidence: fields.opt_share("confidence")?,
        rationale: optional(fields, Field::Rationale)?,
    })
}

fn edge_patch(fields: &mut Fields) -> Result<EdgePatch, ApiError> {
    Ok(EdgePatch {
        relation: optional(fields, Field::Relation)?,
        confidence: fields.opt_share("confidence")?,
        valid_from: fields.opt_time("valid_from")?,
        valid_until: until(fields)?,
        rationale: optional(fields, Field::Rationale)?,
    })
}

/// Refuses new values that would make a memory end before it begins.
pub(super) fn check_validity(patch: &Patch, present: &Item, id: &MemoryId) -> Result<(), ApiError> {
    let (from, until) = match (patch, present) {
        (Patch::Fact(patch), Item::Fact(fact)) => (
            patch.valid_from.unwrap_or(fact.item.valid_from),
            patch.valid_until.unwrap_or(fact.item.valid_until),
        ),
        (Patch::Edge(patch), Item::Node(_, relations)) => {
            let Some(relation) = relations.iter().find(|r| r.edge.edge_id.as_str() == id.as_str()) else {
                return Ok(());
            };
            (
                patch.valid_from.unwrap_or(relation.edge.valid_from),
                patch.valid_until.unwrap_or(relation.edge.valid_until),
            )
        }
        _ => return Ok(()),
    };
    ends_after_it_begins(from, until)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_777_293_296_000);

    fn fields(value: Value) -> Fields {
        match value {
            Value::Object(map) => Fields::of(map),
            other => panic!("not an object: {other}"),
        }
    }

    #[test]
    fn a_patch_tells_null_from_absent() {
        let id = MemoryId::parse("fact-1").expect("an id");
        let patched = |value| patch(&id, &mut fields(value)).expect("a patch");
        let Patch::Fact(reopened) = patched(json!({"valid_until": null})) else { panic!("not a fact") };
        assert_eq!(reopened, FactPatch { valid_until: Some(None), ..FactPatch::default() });
        let Patch::Fact(renamed) = patched(json!({"subject": " a\u{202E} "})) else { panic!("not a fact") };
        assert_eq!(renamed, FactPatch { subject: Some("a".to_owned()), ..FactPatch::default() });
        let nothing = patch(&id, &mut fields(json!({"surprise": 1}))).expect_err("nothing to do");
        assert_eq!(nothing.error, ErrorCode::ValidationError);
    }

    #[test]
    fn what_is_written_over_the_api_is_the_person_s_and_has_its_starting_confidence() {
        let (wanted, origin) =
            fact(&mut fields(json!({"subject": "a", "content": "b"})), NOW).expect("a fact");
        assert_eq!(origin, Origin::api(0.9, WRITTEN.to_owned()));
        let Wanted::Fact(written) = wanted else { panic!("not a fact") };
        assert_eq!((written.kind, written.valid_from), (FactType::Fact, None));
        let (_, origin) = episode(&mut fields(json!({"key": "a", "description": "b"}))).expect("an episode");
        assert!((origin.confidence - 0.8).abs() < f64::EPSILON);
    }

    #[test]
    fn an_error_inside_a_list_names_the_place() {
        let body =
            json!({"name": "A", "relationships": [{"relation": "x", "to": "B"}, {"relation": "x", "to": 5}]});
        let error = node(&mut fields(body)).expect_err("wrong");
        assert_eq!(error.details.expect("details")["field"], "relationships.1.to");
    }
}
