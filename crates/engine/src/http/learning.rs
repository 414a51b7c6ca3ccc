//! /learning: what was learned and what waits, and a batch on request. (specification 3.8)

use super::app::App;
use super::fields::Fields;
use crate::core::to_the_end;
use crate::learning;
use crate::turn::accept::storage;
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use brain::tasks;
use chassis::http::Refusal;
use contract::{ApiError, ErrorCode, TaskId};
use serde_json::{Value, json};
use std::sync::Arc;

/// Where learning stands.
pub async fn status(State(app): State<Arc<App>>) -> Result<Json<Value>, Refusal> {
    Ok(Json(learning::status(app.core()?).await.map_err(|e| storage(&e))?))
}

/// Begins a batch, or names the one that runs.
pub async fn run(State(app): State<Arc<App>>, body: Body) -> Result<Json<Value>, Refusal> {
    let core = Arc::clone(app.core_for_work()?);
    let mut fields = Fields::read(body, app.max_body).await?;
    let task = match fields.opt_text("task_id", 1, 256)? {
        Some(text) => Some(TaskId::parse(&text).map_err(|e| {
            ApiError::invalid_field("task_id", e.expected, Value::String(text.chars().take(64).collect()))
        })?),
        None => None,
    };
    if !core.config.lc_enabled {
        let text = "the Learning Centre is off; set LC_ENABLED to true";
        return Err(ApiError::new(ErrorCode::Conflict, text).with(json!({"reason": "disabled"})).into());
    }
    if let Some(wanted) = task.clone()
        && core
            .brain
            .read("task", move |tx| tasks::get(tx, &wanted))
            .await
            .map_err(|e| storage(&e))?
            .is_none()
    {
        return Err(ApiError::new(ErrorCode::TaskNotFound, "there is no such task")
            .with(json!({"task_id": task}))
            .into());
    }
    let asked = to_the_end(async move { core.learning.ask(&core, task).await }).await;
    let asked = asked.map_err(|e| storage(&e))?;
    let status = if asked.was_running { "running" } else { "started" };
    Ok(Json(json!({"batch_id": asked.batch, "status": status})))
}
