//! /memory/*: what is known, what happened, who there is, for people and their applications. (specification 3.6)
//!
//! Fields are read in [`read`]; what is kept, merged, closed or forgotten is decided by `crate::memory`. What is written
//! here is the person's word: trust `user`, source `user:api`.
//!
//! The invariant: whatever follows a commit happens even if the caller has hung up.

mod read;

pub(super) use read::refused;

use super::app::App;
use super::fields::{Fields, InStore, Query, StoreAndId};
use crate::core::{Core, to_the_end};
use crate::memory::{
    End, Item, NewEpisode, NodePatch, Origin, Outcome, Patch, Patched, Wanted, shown, shown_forgotten,
};
use crate::turn::accept::storage;
use ::memory::entity::name_norm;
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use brain::memory::MemoryId;
use brain::tasks;
use chassis::http::Refusal;
use contract::memory::{NodeKind, Store, Trust};
use contract::{ApiError, ErrorCode, TaskId, Timestamp};
use read::Asked;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// Characters of an id that an error repeats.
const SHOWN_CHARS: usize = 64;

fn missing(id: &str) -> ApiError {
    let shown: String = id.chars().take(SHOWN_CHARS).collect();
    ApiError::new(ErrorCode::MemoryNotFound, "there is no such memory").with(json!({"id": shown}))
}

/// Searches one store, best first; or lists it, newest first.
pub async fn search(
    State(app): State<Arc<App>>,
    InStore(store): InStore,
    body: Body,
) -> Result<Json<Value>, Refusal> {
    let core = app.core()?;
    let mut fields = Fields::read(body, app.max_body).await?;
    Ok(app.told(found(core, store, &mut fields).await?))
}

async fn found(core: &Core, store: Store, fields: &mut Fields) -> Result<Value, ApiError> {
    let hits = match read::search(store, fields, Timestamp::now())? {
        Asked::Find(ask) => core.memory.search(ask).await.map_err(|e| storage(&e))?,
        Asked::Older { before, limit } => {
            let older = core.memory.newest(store, Some(before.clone()), limit).await;
            older.map_err(|e| storage(&e))?.ok_or_else(|| {
                missing(before.as_str()).with(json!({"id": before.as_str(), "field": "before"}))
            })?
        }
    };
    Ok(hits.iter().map(|hit| shown(&hit.item, Some(hit.score))).collect())
}

/// The methods of POST /rpc that are about memory; `None` when there is none of this name.
pub async fn rpc(core: &Core, method: &str, params: Map<String, Value>) -> Option<Result<Value, ApiError>> {
    let store = match method {
        "stats" => return Some(core.memory.stats(Timestamp::now()).await.map_err(|e| storage(&e))),
        "knowledge_search" => Store::Knowledge,
        "episodes_search" => Store::Episodes,
        "social_search" => Store::Social,
        _ => return None,
    };
    let items = found(core, store, &mut Fields::of(params)).await;
    Some(items.map(|items| json!({"items": items})))
}

/// Writes a fact.
pub async fn create_fact(State(app): State<Arc<App>>, body: Body) -> Result<Json<Value>, Refusal> {
    let core = app.core()?;
    let mut fields = Fields::read(body, app.max_body).await?;
    let (wanted, origin) = read::fact(&mut fields, Timestamp::now())?;
    Ok(app.told(create(core, wanted, origin).await?))
}

/// Writes an episode.
pub async fn create_episode(State(app): State<Arc<App>>, body: Body) -> Result<Json<Value>, Refusal> {
    let core = app.core()?;
    let mut fields = Fields::read(body, app.max_body).await?;
    let (wanted, origin) = read::episode(&mut fields)?;
    if let Wanted::Episode(NewEpisode { task_id: Some(task), .. }) = &wanted {
        task_exists(core, task).await?;
    }
    Ok(app.told(create(core, wanted, origin).await?))
}

/// Writes a person, an organization or something else with a name, and its relations.
pub async fn create_node(State(app): State<Arc<App>>, body: Body) -> Result<Json<Value>, Refusal> {
    let core = app.core()?;
    let mut fields = Fields::read(body, app.max_body).await?;
    let (wanted, origin) = read::node(&mut fields)?;
    if let Wanted::Node(node) = &wanted {
        let own = Own::new(None, &node.name, &node.aliases, node.kind);
        ends_are_others(core, &own, node.relations.iter().map(|r| &r.to)).await?;
    }
    Ok(app.told(create(core, wanted, origin).await?))
}

/// An episode of a task that nobody knows would never be found by that task, nor go with it.
async fn task_exists(core: &Core, task: &TaskId) -> Result<(), ApiError> {
    let wanted = task.clone();
    let is_there = core.brain.read("task of an episode", move |tx| {
        Ok(tasks::get(tx, &wanted)?.is_some() && !tasks::is_being_deleted(tx, &wanted)?)
    });
    if is_there.await.map_err(|e| storage(&e))? {
        return Ok(());
    }
    let got: String = task.as_str().chars().take(SHOWN_CHARS).collect();
    Err(ApiError::new(ErrorCode::ValidationError, "an episode happened in a task that is not there")
        .with(json!({"field": "task_id", "expected": "the id of a task", "got": got})))
}

/// The node that relations lead away from.
struct Own {
    /// Its id, when it is there already.
    id: Option<MemoryId>,
    /// What it is called, normalised.
    names: Vec<String>,
    /// What it is, when that is said.
    kind: Option<NodeKind>,
}

impl Own {
    fn new(id: Option<MemoryId>, name: &str, aliases: &[String], kind: Option<NodeKind>) -> Self {
        let names = std::iter::once(name).chain(aliases.iter().map(String::as_str));
        Self { id, names: names.map(name_norm).collect(), kind }
    }

    /// The node as it will be after a patch.
    fn patched(id: &MemoryId, patch: &NodePatch, present: &Item) -> Self {
        let Item::Node(node, _) = present else { return Self::new(Some(id.clone()), "", &[], None) };
        let name = patch.name.as_ref().unwrap_or(&node.item.name);
        let aliases = patch.aliases.as_ref().unwrap_or(&node.item.aliases);
        Self::new(Some(id.clone()), name, aliases, None)
    }

    /// Whether a new node would be merged into this one, so that both are one.
    fn is(&self, other: &Item) -> bool {
        let Item::Node(node, _) = other else { return false };
        let fits =
            |kind: NodeKind| kind == node.item.kind || [kind, node.item.kind].contains(&NodeKind::Other);
        let called = self
            .names
            .first()
            .is_some_and(|name| *name == node.item.name_norm || node.item.aliases_norm.contains(name));
        let vouched = node.item.provenance.trust != Trust::Untrusted;
        self.id.is_none() && called && vouched && self.kind.is_none_or(fits)
    }
}

/// A relation to an id that is not there says nothing about anybody, and one that leads back to where it begins is a
/// slip: it would be dropped without a word.
async fn ends_are_others(core: &Core, own: &Own, ends: impl Iterator<Item = &End>) -> Result<(), ApiError> {
    for (at, end) in ends.enumerate() {
        let field = format!("relationships.{at}.to");
        let itself = |got: &str| {
            let text = "a relation leads from a node to itself";
            ApiError::new(ErrorCode::ValidationError, text).with(json!({
                "field": field, "expected": "another node; by its soc- id, when it has the same name", "got": got,
            }))
        };
        match end {
            End::Name(name) if own.names.contains(&name_norm(name)) => return Err(itself(name)),
            End::Name(_) => {}
            End::Id(id) => {
                let id = MemoryId::Node(id.clone());
                let Some(there) = core.memory.get(&id).await.map_err(|e| storage(&e))? else {
                    let text = "a relation leads to a memory that is not there";
                    return Err(ApiError::new(ErrorCode::MemoryNotFound, text)
                        .with(json!({"id": id.as_str(), "field": field})));
                };
                if own.id.as_ref() == Some(&id) || own.is(&there) {
                    return Err(itself(id.as_str()));
                }
            }
        }
    }
    Ok(())
}

/// A memory that an edit would make a second time.
fn said_already(other: &MemoryId) -> ApiError {
    let text = "another memory says that already; nothing was changed";
    ApiError::new(ErrorCode::Conflict, text).with(json!({"reason": "already_exists", "id": other.as_str()}))
}

async fn create(core: &Core, wanted: Wanted, origin: Origin) -> Result<Value, ApiError> {
    let memory = Arc::clone(&core.memory);
    let written = to_the_end(async move { memory.write(wanted, origin).await }).await;
    let written = written.map_err(|e| storage(&e))?;
    let (Some(item), Outcome::Created | Outcome::Duplicate) = (&written.item, written.outcome) else {
        // only when a relation's end was forgotten between the check and the commit
        let text = "nothing was kept, because what it is about was forgotten meanwhile";
        return Err(ApiError::new(ErrorCode::ValidationError, text));
    };
    let closed: Vec<&str> = written.closed.iter().map(MemoryId::as_str).collect();
    let status = crate::tools::memory::status(written.outcome);
    Ok(json!({"status": status, "item": shown(item, None), "closed": closed}))
}

/// The memory that a path names; an id of another store is none of this one.
fn id_in(store: Store, text: &str) -> Result<MemoryId, ApiError> {
    MemoryId::parse(text).filter(|id| id.store() == store).ok_or_else(|| missing(text))
}

/// Shows one memory; of a relation the one it leads away from.
pub async fn get(
    State(app): State<Arc<App>>,
    StoreAndId(store, id): StoreAndId,
) -> Result<Json<Value>, Refusal> {
    let core = app.core()?;
    let id = id_in(store, &id)?;
    let item = core.memory.get(&id).await.map_err(|e| storage(&e))?;
    Ok(app.told(shown(&item.ok_or_else(|| missing(id.as_str()))?, None)))
}

/// Edits a memory; what is left out stays.
pub async fn change(
    State(app): State<Arc<App>>,
    StoreAndId(store, id): StoreAndId,
    body: Body,
) -> Result<Json<Value>, Refusal> {
    let core = app.core()?;
    let mut fields = Fields::read(body, app.max_body).await?;
    let id = id_in(store, &id)?;
    let patch = read::patch(&id, &mut fields)?;
    let present = core.memory.get(&id).await.map_err(|e| storage(&e))?;
    let present = present.ok_or_else(|| missing(id.as_str()))?;
    read::check_validity(&patch, &present, &id)?;
    if let Patch::Node(node) = &patch {
        let own = Own::patched(&id, node, &present);
        ends_are_others(core, &own, node.relations.iter().map(|r| &r.to)).await?;
    }
    let (memory, wanted) = (Arc::clone(&core.memory), id.clone());
    let changed = to_the_end(async move { memory.patch(&wanted, patch).await }).await;
    match changed.map_err(|e| storage(&e))? {
        Patched::Changed(item) => Ok(app.told(json!({"status": "updated", "item": shown(&item, None)}))),
        Patched::Missing => Err(missing(id.as_str()).into()),
        Patched::SameAs(other) => Err(said_already(&other).into()),
    }
}

/// Forgets a memory for good, and what rests only on it.
pub async fn delete(
    State(app): State<Arc<App>>,
    StoreAndId(store, id): StoreAndId,
) -> Result<Json<Value>, Refusal> {
    let core = app.core()?;
    let id = id_in(store, &id)?;
    let (memory, wanted) = (Arc::clone(&core.memory), id.clone());
    let erased = to_the_end(async move { memory.erase(&wanted).await }).await;
    let forgotten = erased.map_err(|e| storage(&e))?.ok_or_else(|| missing(id.as_str()))?;
    Ok(Json(shown_forgotten(&id, &forgotten)))
}

/// Forgets for good everything that came from one source, and what rests only on that.
pub async fn delete_source(State(app): State<Arc<App>>, query: Query) -> Result<Json<Value>, Refusal> {
    let core = app.core()?;
    let Some(source) = query.get("source") else {
        let expected = "the source of the memories to forget, as they name it";
        return Err(ApiError::invalid_field("source", expected, Value::Null).into());
    };
    let (memory, wanted) = (Arc::clone(&core.memory), source.to_owned());
    let erased = to_the_end(async move { memory.erase_source(&wanted).await }).await;
    let Some(erased) = erased.map_err(|e| storage(&e))? else {
        let text = "there is no memory that came from this source";
        let shown: String = source.chars().take(SHOWN_CHARS).collect();
        return Err(ApiError::new(ErrorCode::MemoryNotFound, text).with(json!({"source": shown})).into());
    };
    Ok(app.told(erased.json(source)))
}

/// How much there is, and how it is embedded.
pub async fn stats(State(app): State<Arc<App>>) -> Result<Json<Value>, Refusal> {
    let stats = app.core()?.memory.stats(Timestamp::now()).await;
    Ok(Json(stats.map_err(|e| storage(&e))?))
}
