//! /memory/soul: who the assistant is, in every version. (specification 3.6, 10.7)
//!
//! What a person writes here is theirs: the catalog's template does not come back over it, and the Learning Centre only
//! adds. The invariant: a version that was shown once stays readable under its number until the person has it forgotten,
//! and no other ever has that number.

use super::app::App;
use super::fields::Fields;
use crate::learning::showings;
use crate::turn::accept::storage;
use ::memory::field::{self, Field, Refused};
use ::memory::soul::lines;
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use brain::soul::{self, Soul, Source, Stored, Version};
use chassis::http::Refusal;
use contract::{ApiError, ErrorCode, Timestamp};
use serde_json::{Value, json};
use std::sync::Arc;

/// Versions shown, newest first. More makes the answer megabytes large for a soul that learned for years; older ones stay
/// in the brain and in exports.
const HISTORY: u32 = 200;
/// Why there is a version that a person wrote.
const RATIONALE: &str = "written over the API";

/// What the soul says.
pub async fn get(State(app): State<Arc<App>>) -> Result<Json<Value>, Refusal> {
    let present = app.core()?.brain.read("soul", soul::get).await.map_err(|e| storage(&e))?;
    Ok(app.told(said(&present.map(|stored| stored.soul).unwrap_or_default())))
}

fn said(soul: &Soul) -> Value {
    json!({"identity": soul.identity, "values": soul.values, "patterns": soul.patterns})
}

/// The same with its versions.
pub async fn full(State(app): State<Arc<App>>) -> Result<Json<Value>, Refusal> {
    let whole =
        app.core()?.brain.read("soul history", |tx| Ok((soul::get(tx)?, soul::history(tx, None, HISTORY)?)));
    let (present, history) = whole.await.map_err(|e| storage(&e))?;
    Ok(app.told(whole_of(present.as_ref(), &history)))
}

fn whole_of(present: Option<&Stored>, history: &[Version]) -> Value {
    let mut shown = said(&present.map(|stored| stored.soul.clone()).unwrap_or_default());
    shown["version"] = json!(present.map_or(0, |stored| stored.version));
    shown["updated_at"] = json!(present.map(|stored| stored.updated_at));
    shown["source"] = json!(present.map_or(Source::Catalog, |stored| stored.source).as_str());
    shown["history"] = history.iter().map(version).collect();
    shown
}

fn version(version: &Version) -> Value {
    let mut shown = said(&version.soul);
    shown["version"] = json!(version.version);
    shown["source"] = json!(version.source.as_str());
    shown["rationale"] = json!(version.rationale);
    shown["created_at"] = json!(version.created_at);
    shown
}

/// The fields that were sent; what is left out stays.
struct Sent {
    identity: Option<String>,
    values: Option<Vec<String>>,
    patterns: Option<Vec<String>>,
}

impl Sent {
    fn read(fields: &mut Fields) -> Result<Self, ApiError> {
        let identity = fields.opt_text("identity", 0, Field::Identity.max_chars())?;
        let identity = identity.map(|text| field::text(Field::Identity, &text)).transpose();
        let sent = Self {
            identity: identity.map_err(|e| refused(&e))?,
            values: list(fields, "values")?,
            patterns: list(fields, "patterns")?,
        };
        if sent.identity.is_none() && sent.values.is_none() && sent.patterns.is_none() {
            let text = "there is nothing to change: send identity, values or patterns";
            return Err(ApiError::new(ErrorCode::ValidationError, text)
                .with(json!({"field": "body", "expected": "at least one of identity, values, patterns"})));
        }
        Ok(sent)
    }

    fn onto(self, present: Soul) -> Soul {
        Soul {
            identity: self.identity.unwrap_or(present.identity),
            values: self.values.unwrap_or(present.values),
            patterns: self.patterns.unwrap_or(present.patterns),
        }
    }
}

fn list(fields: &mut Fields, name: &'static str) -> Result<Option<Vec<String>>, ApiError> {
    let Some(texts) = fields.opt_texts(name)? else { return Ok(None) };
    lines(name, &texts).map(Some).map_err(|e| refused(&e))
}

fn refused(refused: &Refused) -> ApiError {
    super::memory::refused(refused)
}

/// Forgets for good every version but the present one.
pub async fn forget_history(State(app): State<Arc<App>>) -> Result<Json<Value>, Refusal> {
    let forgotten = app.core()?.brain.write("forget soul history", |tx| {
        showings::forget_history(tx)?;
        soul::forget_before(tx, i64::MAX)
    });
    let forgotten = forgotten.await;
    Ok(Json(json!({"status": "deleted", "versions": forgotten.map_err(|e| storage(&e))?})))
}

/// Writes the soul. Sent again, it is the same version. What turns have shown of a pattern that is taken out or reworded
/// counts no more.
pub async fn put(State(app): State<Arc<App>>, body: Body) -> Result<Json<Value>, Refusal> {
    let core = app.core()?;
    let mut fields = Fields::read(body, app.max_body).await?;
    let sent = Sent::read(&mut fields)?;
    let written = core.brain.write("write soul", move |tx| {
        let present = soul::get(tx)?;
        let before = present.as_ref().map(|stored| stored.soul.clone()).unwrap_or_default();
        let wanted = sent.onto(before.clone());
        let now = Timestamp::now();
        showings::drop_lines(tx, &before.patterns, &wanted.patterns, now)?;
        let is_there = present.is_some_and(|stored| stored.source == Source::User && stored.soul == wanted);
        if !is_there {
            soul::set(tx, &wanted, Source::User, RATIONALE, now)?;
        }
        Ok((soul::get(tx)?, soul::history(tx, None, HISTORY)?))
    });
    let (present, history) = written.await.map_err(|e| storage(&e))?;
    Ok(app.told(whole_of(present.as_ref(), &history)))
}
