//! /tasks: conversation threads as people see them.

use super::app::App;
use super::execute::known_task;
use super::fields::{Id, Query};
use crate::core::to_the_end;
use crate::tools::plan::{self, Plan};
use crate::turn::accept::storage;
use crate::turn::answers::pending_json;
use crate::turn::delete::{self, Learned};
use axum::Json;
use axum::extract::State;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as CURSOR;
use brain::tasks::{Cursor, Filter, Summary};
use brain::turns::{self, Turn, TurnState};
use brain::{events, messages, prompts, tasks, working_memory};
use chassis::http::Refusal;
use contract::{ApiError, ErrorCode, Timestamp};
use serde_json::{Value, json};
use std::sync::Arc;

fn status(open: Option<TurnState>) -> &'static str {
    match open {
        None => "idle",
        Some(TurnState::Queued) => "queued",
        Some(TurnState::Paused) => "paused",
        Some(_) => "running",
    }
}

fn last_turn(turn: Option<&Turn>) -> Value {
    let Some(turn) = turn else { return Value::Null };
    json!({
        "turn_id": turn.turn_id,
        "state": turn.state.as_str(),
        "stop_reason": turn.stop_reason,
        "error": turn.error.as_ref().map(|e| e.code),
        "started_at": turn.started_at,
        "ended_at": turn.ended_at,
    })
}

fn task_json(summary: &Summary, last: Option<&Turn>) -> Value {
    json!({
        "task_id": summary.task.task_id,
        "title": summary.task.title,
        "agent": summary.task.agent,
        "status": status(summary.open),
        "message_count": summary.messages,
        "turn_count": summary.turns,
        "created_at": summary.task.created_at,
        "updated_at": summary.task.updated_at,
        "last_turn": last_turn(last),
    })
}

/// A cursor that no answer gave.
pub fn bad_cursor() -> ApiError {
    ApiError::invalid_field("cursor", "the next_cursor of an earlier answer", Value::Null)
}

/// Reads an opaque cursor made by [`cursor_of`].
pub fn read_cursor(query: &Query) -> Result<Option<Value>, ApiError> {
    let Some(text) = query.get("cursor") else { return Ok(None) };
    let bytes = CURSOR.decode(text).map_err(|_| bad_cursor())?;
    serde_json::from_slice(&bytes).map(Some).map_err(|_| bad_cursor())
}

/// An opaque cursor.
pub fn cursor_of(value: &Value) -> String {
    CURSOR.encode(value.to_string())
}

/// Tasks, newest first.
pub async fn list(State(app): State<Arc<App>>, query: Query) -> Result<Json<Value>, Refusal> {
    let limit = query.limit()?;
    let filter = match query.get("status") {
        None => Filter::All,
        Some("idle") => Filter::Idle,
        Some("queued") => Filter::Queued,
        Some("running") => Filter::Running,
        Some("paused") => Filter::Paused,
        Some(other) => {
            return Err(
                ApiError::invalid_field("status", "idle, queued, running or paused", json!(other)).into()
            );
        }
    };
    let after = match read_cursor(&query)? {
        None => None,
        Some(value) => Some(Cursor {
            updated_at: value[0].as_i64().ok_or_else(bad_cursor)?,
            task_id: value[1].as_str().ok_or_else(bad_cursor)?.to_owned(),
        }),
    };
    let found = app
        .core()?
        .brain
        .read("list tasks", move |tx| {
            let list = tasks::list(tx, filter, after.as_ref(), limit)?;
            let mut out = Vec::with_capacity(list.len());
            for summary in list {
                let last = turns::last_of(tx, &summary.task.task_id)?;
                out.push((summary, last));
            }
            Ok(out)
        })
        .await
        .map_err(|e| storage(&e))?;
    let full = found.len() == limit as usize;
    let next = found
        .last()
        .filter(|_| full)
        .map(|(s, _)| cursor_of(&json!([s.task.updated_at.millis(), s.task.task_id])));
    let list: Vec<Value> = found.iter().map(|(s, t)| task_json(s, t.as_ref())).collect();
    Ok(app.told(json!({"tasks": list, "next_cursor": next})))
}

/// One task with what it cost, what it waits for and what it remembers.
pub async fn get(State(app): State<Arc<App>>, Id(id): Id) -> Result<Json<Value>, Refusal> {
    let task = known_task(&app, &id).await?;
    let value = app
        .core()?
        .brain
        .read("show task", move |tx| {
            let Some(summary) = tasks::get_summary(tx, &task)? else { return Ok(None) };
            let last = turns::last_of(tx, &task)?;
            let pending: Vec<Value> = prompts::pending_of(tx, &task)?.iter().map(pending_json).collect();
            let memory = working_memory::present(tx, &task, Timestamp::now())?;
            let plan = memory.iter().find(|e| e.key == plan::KEY).and_then(|e| Plan::of_value(&e.value));
            let notes: Vec<Value> = memory
                .iter()
                .map(|e| json!({"key": e.key, "value": e.value, "expires_at": e.expires_at}))
                .collect();
            let stored = events::last_seq_of_task(tx, &task)?;
            let mut value = task_json(&summary, last.as_ref());
            value["usage"] = json!(tasks::usage(tx, &task)?);
            value["pending"] = json!(pending);
            value["working_memory"] = json!(notes);
            value["plan"] = json!(plan);
            value["last_event_id"] = json!(stored.max(last.as_ref().map_or(0, |t| t.last_seq)));
            Ok(Some(value))
        })
        .await
        .map_err(|e| storage(&e))?;
    value.map(|value| app.told(value)).ok_or_else(|| gone(&id).into())
}

fn gone(id: &str) -> ApiError {
    ApiError::new(ErrorCode::TaskNotFound, "there is no such task").with(json!({"task_id": id}))
}

/// Messages of a task, oldest first.
pub async fn messages(State(app): State<Arc<App>>, Id(id): Id, query: Query) -> Result<Json<Value>, Refusal> {
    let task = known_task(&app, &id).await?;
    let limit = query.limit()?;
    let superseded = query.get("include") == Some("superseded");
    let after = match read_cursor(&query)? {
        None => -1,
        Some(value) => value.as_i64().ok_or_else(bad_cursor)?,
    };
    let (list, boundary) = app
        .core()?
        .brain
        .read("list messages", move |tx| {
            let list = messages::list(tx, &task, superseded, after, limit)?;
            let boundary = brain::compactions::latest(tx, &task)?.map_or(-1, |b| b.up_to_position);
            Ok((list, boundary))
        })
        .await
        .map_err(|e| storage(&e))?;
    let next = list.last().filter(|_| list.len() == limit as usize).map(|m| cursor_of(&json!(m.position)));
    let shown: Vec<Value> = list
        .iter()
        .map(|m| {
            json!({
                "message_id": m.message_id,
                "turn_id": m.turn_id,
                "role": m.role,
                "content": m.content,
                "status": if m.active { "active" } else { "superseded" },
                "compacted": m.position <= boundary,
                "created_at": m.created_at,
            })
        })
        .collect();
    Ok(app.told(json!({"messages": shown, "next_cursor": next})))
}

/// Deletes a task with its history, and with `memories=true` what rests only on it; a turn in flight is cancelled first.
pub async fn delete(State(app): State<Arc<App>>, Id(id): Id, query: Query) -> Result<Json<Value>, Refusal> {
    let learned = match query.flag("memories")? {
        Some(true) => Learned::Goes,
        Some(false) | None => Learned::Stays,
    };
    let task = known_task(&app, &id).await?;
    let core = Arc::clone(app.core()?);
    let (deleted, memories) = to_the_end(delete::task(core, task.clone(), learned)).await?;
    Ok(Json(json!({
        "status": "deleted",
        "task_id": task,
        "deleted": {"messages": deleted.messages, "events": deleted.events, "memories": memories},
    })))
}
