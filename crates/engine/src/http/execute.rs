//! POST /execute, GET /execute/replay, POST /execute/cancel.

use super::app::App;
use super::fields::{Fields, Query};
use super::stream::{self, Follow, Select};
use crate::core::to_the_end;
use crate::turn::accept::{self, Accepted, storage};
use crate::turn::cancel;
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use brain::{events, observability, tasks};
use chassis::http::Refusal;
use contract::engine_api::{ExecuteRequest, IDEMPOTENCY_HEADER, LAST_EVENT_ID_HEADER};
use contract::{ApiError, ErrorCode, TaskId, Timestamp};
use http::HeaderMap;
use serde_json::{Value, json};
use std::sync::Arc;

/// Runs one turn and streams it.
pub async fn execute(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let core = app.core_for_work()?;
    let key = idempotency_key(&headers)?;
    let last_seen = last_event_id(&headers)?;
    let mut fields = Fields::read(body, app.max_body).await?;
    let request = ExecuteRequest {
        message: fields.text("message", 0, usize::MAX)?,
        task_id: task_id_text(&mut fields)?,
        media: fields.list("media")?,
        direct: fields.flag("direct")?,
        edit_message_id: fields.opt_text("edit_message_id", 1, 100)?,
        retry_message_id: fields.opt_text("retry_message_id", 1, 100)?,
        super_thinking: fields.flag("super_thinking")?,
        agent: fields.opt_text("agent", 1, 64)?,
        output_schema: fields.object("output_schema")?,
        context: fields.object("context")?,
    };
    // the place for the stream comes first: a turn that was accepted must not be answered with a refusal
    let mut place = stream::admit(&app)?;
    let accepted = {
        let (core, traceparent) = (Arc::clone(core), traceparent(&headers));
        place.subscribe(&core, Some(&request.task_id));
        to_the_end(async move { accept::accept(&core, request, key, traceparent).await }).await?
    };
    let response = match accepted {
        Accepted::New { task, turn, first_seq } => {
            stream::open(place, core, Select::Turn(task, turn), Follow::Auto, first_seq - 1, None)
        }
        Accepted::Joined(turn) => {
            let stored = stream::events_are_stored(core, &turn.turn_id).await.map_err(|e| storage(&e))?;
            let from = last_seen.unwrap_or(turn.first_seq - 1).max(turn.first_seq - 1);
            let first = if stored { None } else { stream::rebuilt(&turn, from) };
            stream::open(place, core, Select::Turn(turn.task_id, turn.turn_id), Follow::Auto, from, first)
        }
    };
    Ok(response)
}

fn task_id_text(fields: &mut Fields) -> Result<String, ApiError> {
    match fields.take("task_id") {
        Some(Value::String(text)) => Ok(text),
        other => Err(bad_task_id(other.unwrap_or(Value::Null))),
    }
}

fn bad_task_id(got: Value) -> ApiError {
    ApiError::invalid_field("task_id", "a string of 1..256 characters without control characters", got)
}

/// Longest trace context passed on; the standard form has 55 characters.
const TRACEPARENT_MAX: usize = 64;

fn traceparent(headers: &HeaderMap) -> Option<String> {
    let text = headers.get("traceparent")?.to_str().ok()?;
    (text.len() <= TRACEPARENT_MAX).then(|| text.to_owned())
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let Some(value) = headers.get(IDEMPOTENCY_HEADER) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default();
    let ok = (1..=255).contains(&text.len()) && text.bytes().all(|b| (0x21..=0x7e).contains(&b));
    if ok {
        Ok(Some(text.to_owned()))
    } else {
        Err(ApiError::invalid_field("Idempotency-Key", "1..255 visible ASCII characters", json!(text.len())))
    }
}

fn last_event_id(headers: &HeaderMap) -> Result<Option<i64>, ApiError> {
    let Some(value) = headers.get(LAST_EVENT_ID_HEADER) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default().trim();
    if text.is_empty() {
        return Ok(None);
    }
    match text.parse::<i64>() {
        Ok(id) if id >= 0 => Ok(Some(id)),
        _ => Err(ApiError::invalid_field("Last-Event-ID", "the id of an event, a whole number", json!(text))),
    }
}

/// Streams stored events, then optionally live ones.
pub async fn replay(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    query: Query,
) -> Result<Response, Refusal> {
    let core = app.core()?;
    let after = query.int("after", 0, i64::MAX)?.unwrap_or(0);
    let follow = match query.get("follow") {
        None | Some("auto") => Follow::Auto,
        Some("true") => Follow::Always,
        Some("false") => Follow::Never,
        Some(other) => {
            return Err(ApiError::invalid_field("follow", "auto, true or false", json!(other)).into());
        }
    };
    let select = match query.get("task_id") {
        None => Select::All,
        Some(text) => Select::Task(known_task(&app, text).await?),
    };
    let mut place = stream::admit(&app)?;
    place.subscribe(core, select.task());
    let from = match last_event_id(&headers)? {
        Some(seq) => seq,
        None if after == 0 => 0,
        None => core
            .brain
            .read("find replay start", move |tx| events::last_seq_until(tx, after))
            .await
            .map_err(|e| storage(&e))?,
    };
    Ok(stream::open(place, core, select, follow, from, None))
}

/// A task id that exists.
pub async fn known_task(app: &Arc<App>, text: &str) -> Result<TaskId, ApiError> {
    let none =
        || ApiError::new(ErrorCode::TaskNotFound, "there is no such task").with(json!({"task_id": text}));
    let task = TaskId::parse(text).map_err(|_| none())?;
    let wanted = task.clone();
    let found = app.core()?.brain.read("find task", move |tx| tasks::get(tx, &wanted)).await;
    match found.map_err(|e| storage(&e))? {
        Some(_) => Ok(task),
        None => Err(none()),
    }
}

/// Cancels the turn in flight, if any, and answers at once.
pub async fn cancel_turn(State(app): State<Arc<App>>, body: Body) -> Result<Json<Value>, Refusal> {
    let core = app.core()?;
    let mut fields = Fields::read(body, app.max_body).await?;
    let text = task_id_text(&mut fields)?;
    TaskId::parse(&text).map_err(|_| bad_task_id(json!(text.chars().count())))?;
    let task = known_task(&app, &text).await?;
    let only = fields.opt_text("turn_id", 1, 100)?;
    let turn = cancel::request(core, task.clone(), only).await.map_err(|e| storage(&e))?;
    Ok(Json(match turn {
        None => json!({"status": "idle", "task_id": task, "turn_id": null}),
        Some(turn) => json!({"status": "cancelling", "task_id": task, "turn_id": turn.turn_id}),
    }))
}

/// Writes an observation; a failure is only logged, because the request itself succeeded.
pub async fn observe(
    core: &Arc<crate::core::Core>,
    kind: &'static str,
    message: String,
    mut data: Option<Value>,
) {
    let message = core.known.scrub(&message).into_owned();
    if let Some(data) = &mut data {
        crate::secrets::leaving::value(&core.known, data);
    }
    let observation = observability::Observation {
        kind,
        code: None,
        task_id: None,
        turn_id: None,
        message,
        data,
        at: Timestamp::now(),
    };
    let noted = core.brain.write("note observation", move |tx| observability::note(tx, &observation)).await;
    if let Err(error) = noted {
        tracing::warn!(error = %error, "An observation could not be written");
    }
}
