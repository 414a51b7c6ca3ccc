//! POST /execute, GET /execute/replay, POST /execute/cancel.

use super::app::App;
use super::fields::{Fields, Query};
use super::stream::{self, Follow, From, Select};
use crate::turn::accept::{self, Accepted, storage};
use crate::turn::coordinator::Whereabouts;
use crate::turn::settle;
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use brain::turns::{self, TurnState};
use brain::{observability, tasks};
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
    let response = match accept::accept(core, request, key, traceparent(&headers)).await? {
        Accepted::New { task, turn, first_seq } => {
            let from = From { seq: first_seq - 1, ts: 0 };
            stream::open(&app, core, Select::Turn(task, turn), Follow::Auto, from, None)?
        }
        Accepted::Joined(turn) => {
            let stored = stream::events_are_stored(core, &turn.turn_id).await.map_err(|e| storage(&e))?;
            let from = From { seq: last_seen.unwrap_or(turn.first_seq - 1).max(turn.first_seq - 1), ts: 0 };
            let first = if stored { None } else { stream::rebuilt(&turn, from.seq) };
            stream::open(&app, core, Select::Turn(turn.task_id, turn.turn_id), Follow::Auto, from, first)?
        }
    };
    Ok(response)
}

fn task_id_text(fields: &mut Fields) -> Result<String, ApiError> {
    match fields.take("task_id") {
        Some(Value::String(text)) => Ok(text),
        other => Err(ApiError::invalid_field(
            "task_id",
            "a string of 1..256 characters without control characters",
            other.unwrap_or(Value::Null),
        )),
    }
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
    let from = match last_event_id(&headers)? {
        Some(seq) => From { seq, ts: 0 },
        None => From { seq: 0, ts: after },
    };
    let select = match query.get("task_id") {
        None => Select::All,
        Some(text) => Select::Task(known_task(&app, text).await?),
    };
    Ok(stream::open(&app, core, select, follow, from, None)?)
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
pub async fn cancel(State(app): State<Arc<App>>, body: Body) -> Result<Json<Value>, Refusal> {
    let core = app.core()?;
    let mut fields = Fields::read(body, app.max_body).await?;
    let task = known_task(&app, &task_id_text(&mut fields)?).await?;
    let wanted = fields.opt_text("turn_id", 1, 100)?;
    let idle = json!({"status": "idle", "task_id": task, "turn_id": null});
    let owned = task.clone();
    let turn = core
        .record("cancel", move |tx, _| {
            let Some(open) = turns::open_of(tx, &owned)? else { return Ok(None) };
            if wanted.is_some_and(|w| w != open.turn_id.as_str()) {
                return Ok(None);
            }
            turns::set_state(tx, &open.turn_id, &TurnState::OPEN, TurnState::Cancelling, Timestamp::now())?;
            Ok(Some(open))
        })
        .await
        .map_err(|e| storage(&e))?;
    let Some(turn) = turn else { return Ok(Json(idle)) };
    core.pulse.activity();
    let answer = json!({"status": "cancelling", "task_id": task, "turn_id": turn.turn_id});
    match core.coordinator.stop(&turn.turn_id) {
        Whereabouts::Running => {}
        Whereabouts::TakenFromQueue | Whereabouts::Elsewhere => {
            let core = Arc::clone(core);
            tokio::spawn(async move {
                if let Err(error) = settle::cancelled(&core, &turn, None).await {
                    tracing::error!(code = "INTERNAL", error = %error, "A cancel could not be written");
                }
                crate::turn::answers::refresh_expiry(&core).await;
                core.pump();
            });
        }
    }
    Ok(Json(answer))
}

/// Writes an observation; a failure is only logged, because the request itself succeeded.
pub async fn observe(
    core: &Arc<crate::core::Core>,
    kind: &'static str,
    message: String,
    data: Option<Value>,
) {
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
