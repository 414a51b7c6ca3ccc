//! /hitl and /permissions: questions to people, their answers, and what was remembered.

use super::app::App;
use super::fields::{Fields, Id, Query};
use super::tasks::{cursor_of, read_cursor};
use crate::turn::accept::storage;
use crate::turn::answers::{self, Target, pending_json};
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use brain::prompts::{self, Answer};
use chassis::http::Refusal;
use contract::conversation::Block;
use contract::{ApiError, ErrorCode, HitlId, PermissionId, TaskId};
use serde_json::{Value, json};
use std::sync::Arc;

/// Characters of an answer.
const ANSWER_CHARS: usize = 100_000;
/// Characters of a feedback.
const FEEDBACK_CHARS: usize = 10_000;
/// Blocks of an answer.
const ANSWER_BLOCKS: usize = 20;

/// Answers a question.
pub async fn respond(State(app): State<Arc<App>>, body: Body) -> Result<Json<Value>, Refusal> {
    let core = app.core()?;
    let mut fields = Fields::read(body, app.max_body).await?;
    let request = match fields.opt_text("request_id", 1, 100)? {
        None => None,
        Some(text) => Some(HitlId::parse(&text).map_err(|_| no_such_question())?),
    };
    // task ids are compared byte for byte: not sanitised
    let task = match fields.take("task_id") {
        None => None,
        Some(Value::String(text)) => Some(TaskId::parse(&text).map_err(|_| no_such_question())?),
        Some(other) => return Err(ApiError::invalid_field("task_id", "a string", other).into()),
    };
    let answer = Answer {
        text: fields.text("answer", 1, ANSWER_CHARS)?,
        feedback: fields.opt_text("feedback", 0, FEEDBACK_CHARS)?.filter(|f| !f.is_empty()),
        content_blocks: blocks(&mut fields)?,
    };
    let request = answers::answer(core, Target { request, task }, answer).await?;
    Ok(Json(json!({"status": "resumed", "request_id": request})))
}

fn no_such_question() -> ApiError {
    ApiError::new(ErrorCode::TaskNotFound, "there is no such question")
}

/// Text blocks of an answer. Media come with the Engine's media handling of messages.
fn blocks(fields: &mut Fields) -> Result<Vec<Block>, ApiError> {
    let list = fields.list("content_blocks")?;
    if list.len() > ANSWER_BLOCKS {
        let expected = format!("at most {ANSWER_BLOCKS} blocks");
        return Err(ApiError::invalid_field("content_blocks", &expected, json!(list.len())));
    }
    list.into_iter()
        .map(|mut value| {
            super::sanitise::value(&mut value);
            match serde_json::from_value(value) {
                Ok(block @ Block::Text { .. }) => Ok(block),
                Ok(block @ (Block::Image { .. } | Block::Document { .. }))
                    if matches!(block.source(), Some(contract::Source::Url { .. })) =>
                {
                    Ok(block)
                }
                _ => Err(ApiError::invalid_field(
                    "content_blocks",
                    "text blocks, or image and document blocks with a url source",
                    Value::Null,
                )),
            }
        })
        .collect()
}

/// Questions that wait, oldest first, of all tasks.
pub async fn pending(State(app): State<Arc<App>>) -> Result<Json<Value>, Refusal> {
    let list = app.core()?.brain.read("pending questions", prompts::pending).await;
    let list: Vec<Value> = list.map_err(|e| storage(&e))?.iter().map(pending_json).collect();
    Ok(app.told(json!({"pending": list})))
}

/// Remembered permissions, oldest first.
pub async fn permissions(State(app): State<Arc<App>>, query: Query) -> Result<Json<Value>, Refusal> {
    let limit = query.limit()?;
    let task = match query.get("task_id") {
        None => None,
        Some(text) => Some(super::execute::known_task(&app, text).await?),
    };
    let after = match read_cursor(&query)? {
        None => None,
        Some(Value::String(id)) => Some(id),
        Some(_) => {
            return Err(ApiError::invalid_field(
                "cursor",
                "the next_cursor of an earlier answer",
                Value::Null,
            )
            .into());
        }
    };
    let list = app
        .core()?
        .brain
        .read("remembered permissions", move |tx| {
            brain::permissions::list(tx, task.as_ref(), after.as_deref(), limit)
        })
        .await
        .map_err(|e| storage(&e))?;
    let next = list.last().filter(|_| list.len() == limit as usize).map(|p| cursor_of(&json!(p.id)));
    let shown: Vec<Value> = list
        .iter()
        .map(|p| {
            json!({
                "id": p.id, "task_id": p.task_id, "tool": p.tool, "rule": p.rule,
                "request_id": p.request_id, "created_at": p.created_at,
            })
        })
        .collect();
    Ok(app.told(json!({"permissions": shown, "next_cursor": next})))
}

/// Forgets a remembered permission.
pub async fn revoke(State(app): State<Arc<App>>, Id(id): Id) -> Result<Json<Value>, Refusal> {
    let none = || ApiError::new(ErrorCode::NotFound, "there is no such remembered permission");
    let parsed = PermissionId::parse(&id).map_err(|_| none())?;
    let done =
        app.core()?.brain.write("revoke permission", move |tx| brain::permissions::revoke(tx, &parsed)).await;
    if done.map_err(|e| storage(&e))? {
        Ok(Json(json!({"status": "revoked", "id": id})))
    } else {
        Err(none().into())
    }
}
