//! /agents, /tools, /usage, /version: what this Engine can do and what it has used.

use super::app::App;
use super::fields::Query;
use crate::turn::accept::storage;
use axum::Json;
use axum::extract::State;
use brain::usage::{self, GroupBy};
use chassis::http::Refusal;
use contract::conversation::Usage;
use contract::{ApiError, Timestamp};
use serde_json::{Value, json};
use std::sync::Arc;

/// Milliseconds of a day.
const DAY_MS: i64 = 86_400_000;
/// Days a usage report covers when `from` is absent.
const DEFAULT_DAYS: i64 = 30;

/// Agents.
pub async fn agents(State(app): State<Arc<App>>) -> Result<Json<Value>, Refusal> {
    let core = app.core()?;
    Ok(Json(core.catalog.present().agents_json()))
}

/// Tools.
pub async fn tools(State(app): State<Arc<App>>) -> Result<Json<Value>, Refusal> {
    let core = app.core()?;
    let catalog = core.catalog.present();
    let tools: Vec<Value> = catalog
        .tools()
        .iter()
        .map(|t| {
            json!({
                "name": t.name(),
                "description": t.description(),
                "input_schema": t.input_schema(),
                "kind": t.kind().as_str(),
                "effect": t.effect(&Value::Null).as_str(),
                "requires_permission": t.requires_permission(),
                "available": t.available(),
            })
        })
        .collect();
    Ok(Json(json!({"tools": tools, "next_cursor": null})))
}

fn instant(query: &Query, name: &str) -> Result<Option<Timestamp>, ApiError> {
    let Some(text) = query.get(name) else { return Ok(None) };
    let time = Timestamp::parse(text).or_else(|| Timestamp::parse(&format!("{text}T00:00:00Z")));
    time.map(Some).ok_or_else(|| ApiError::invalid_field(name, "an ISO-8601 date or time", json!(text)))
}

/// Model calls and tokens.
pub async fn usage(State(app): State<Arc<App>>, query: Query) -> Result<Json<Value>, Refusal> {
    let by = match query.get("group_by") {
        None | Some("day") => GroupBy::Day,
        Some("model") => GroupBy::Model,
        Some("task") => GroupBy::Task,
        Some("purpose") => GroupBy::Purpose,
        Some(other) => {
            return Err(
                ApiError::invalid_field("group_by", "day, model, task or purpose", json!(other)).into()
            );
        }
    };
    let to = instant(&query, "to")?.unwrap_or_else(|| Timestamp::now().plus_millis(1));
    let from = instant(&query, "from")?.unwrap_or_else(|| to.plus_millis(-DEFAULT_DAYS * DAY_MS));
    let groups = app
        .core()?
        .brain
        .read("usage report", move |tx| usage::report(tx, from, to, by))
        .await
        .map_err(|e| storage(&e))?;
    let total =
        groups.iter().fold((0, Usage::default()), |(calls, sum), g| (calls + g.calls, sum.plus(g.usage)));
    let shown: Vec<Value> = groups.iter().map(|g| row(&g.key, g.calls, g.usage)).collect();
    let mut sum = row("", total.0, total.1);
    if let Some(fields) = sum.as_object_mut() {
        fields.remove("key");
    }
    Ok(Json(json!({"from": from, "to": to, "groups": shown, "total": sum})))
}

fn row(key: &str, calls: u64, usage: Usage) -> Value {
    json!({
        "key": key,
        "calls": calls,
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cache_hit_tokens": usage.cache_hit_tokens,
    })
}

/// What is running.
pub async fn version(State(app): State<Arc<App>>) -> Result<Json<Value>, Refusal> {
    let core = app.core()?;
    let mut version = crate::version::json(core.brain.schema_version());
    version["embedding"] = core.memory.embedding();
    Ok(Json(version))
}
