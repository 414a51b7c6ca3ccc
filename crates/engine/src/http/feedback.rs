//! /feedback: what a person thought of an answer, and what it should have been. (specification 3.8)
//!
//! Only written down here, shown and erased; what follows from it, the Learning Centre does. The same feedback sent again
//! is the same one.
//!
//! The invariant: feedback is about a message that is there when it is given.

use super::app::App;
use super::fields::{Fields, Id, Query};
use super::tasks::{bad_cursor, cursor_of, read_cursor};
use crate::core::{Core, to_the_end};
use crate::turn::accept::storage;
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use brain::memory::MemoryId;
use brain::memory::signals::{self, Signal};
use brain::messages;
use chassis::http::Refusal;
use contract::memory::Rating;
use contract::{ApiError, ErrorCode, MessageId, SignalId, Timestamp};
use serde_json::{Value, json};
use std::sync::Arc;

/// Longest comment. (specification 3.8)
pub const COMMENT_CHARS: usize = 10_000;
/// Longest correction. (specification 3.8)
pub const CORRECTED_CHARS: usize = 100_000;
/// Pieces of feedback in one answer when nobody says.
const LISTED: u32 = 20;
/// Most pieces in one answer. With corrections as long as they may be, more would make it tens of megabytes; fewer makes
/// looking through them slow.
const LISTED_MAX: i64 = 100;
/// Characters of an id that an error repeats.
const SHOWN_CHARS: usize = 64;

struct Sent {
    message_id: String,
    rating: Option<Rating>,
    comment: Option<String>,
    corrected: Option<String>,
}

impl Sent {
    fn read(fields: &mut Fields) -> Result<Self, ApiError> {
        let said = |text: Option<String>| text.filter(|text| !text.trim().is_empty());
        let sent = Self {
            message_id: fields.text("message_id", 1, usize::MAX)?,
            rating: fields.opt_word("rating", "up or down", Rating::parse)?,
            comment: said(fields.opt_text("comment", 0, COMMENT_CHARS)?),
            corrected: said(fields.opt_text("corrected", 0, CORRECTED_CHARS)?),
        };
        if sent.rating.is_none() && sent.comment.is_none() && sent.corrected.is_none() {
            let text = "there is nothing to record: send rating, comment or corrected";
            return Err(ApiError::new(ErrorCode::ValidationError, text)
                .with(json!({"field": "body", "expected": "at least one of rating, comment, corrected"})));
        }
        Ok(sent)
    }
}

fn shortened(id: &str) -> String {
    id.chars().take(SHOWN_CHARS).collect()
}

fn missing(id: &str) -> ApiError {
    ApiError::new(ErrorCode::NotFound, "there is no such message").with(json!({"message_id": shortened(id)}))
}

fn no_such_feedback(id: &str) -> ApiError {
    ApiError::new(ErrorCode::NotFound, "there is no such feedback").with(json!({"signal_id": shortened(id)}))
}

fn shown(signal: &Signal) -> Value {
    json!({
        "signal_id": signal.signal_id, "message_id": signal.message_id, "turn_id": signal.turn_id,
        "rating": signal.rating, "comment": signal.comment, "corrected": signal.corrected,
        "created_at": signal.created_at, "processed_at": signal.processed_at,
    })
}

/// Feedback, newest first.
pub async fn list(State(app): State<Arc<App>>, query: Query) -> Result<Json<Value>, Refusal> {
    let limit = query.int("limit", 1, LISTED_MAX)?.and_then(|n| u32::try_from(n).ok()).unwrap_or(LISTED);
    let before = match read_cursor(&query)? {
        None => None,
        Some(place) => {
            let at = place[0].as_i64().map(Timestamp::from_millis).ok_or_else(bad_cursor)?;
            let id = place[1].as_str().and_then(|id| SignalId::parse(id).ok()).ok_or_else(bad_cursor)?;
            Some((at, id))
        }
    };
    let read = app.core()?.brain.read("feedback", move |tx| signals::newest(tx, before.as_ref(), limit));
    let list = read.await.map_err(|e| storage(&e))?;
    let full = list.len() == limit as usize;
    let last = list.last().filter(|_| full);
    let next = last.map(|signal| cursor_of(&json!([signal.created_at.millis(), signal.signal_id])));
    let list: Vec<Value> = list.iter().map(shown).collect();
    Ok(app.told(json!({"signals": list, "next_cursor": next})))
}

/// Forgets feedback for good, and the memories that rest on nothing else.
pub async fn delete(State(app): State<Arc<App>>, Id(id): Id) -> Result<Json<Value>, Refusal> {
    let core = app.core()?;
    let id = SignalId::parse(&id).map_err(|_| no_such_feedback(&id))?;
    let (memory, wanted) = (Arc::clone(&core.memory), id.clone());
    let erased = to_the_end(async move { memory.erase_feedback(&wanted).await }).await;
    let also = erased.map_err(|e| storage(&e))?.ok_or_else(|| no_such_feedback(id.as_str()))?;
    let also: Vec<&str> = also.iter().map(MemoryId::as_str).collect();
    Ok(Json(json!({"status": "deleted", "signal_id": id, "also_deleted": also})))
}

/// Writes feedback down.
pub async fn record(State(app): State<Arc<App>>, body: Body) -> Result<Json<Value>, Refusal> {
    let core = app.core()?;
    let mut fields = Fields::read(body, app.max_body).await?;
    let id = kept(core, Sent::read(&mut fields)?).await?;
    Ok(Json(json!({"status": "recorded", "signal_id": id})))
}

async fn kept(core: &Core, sent: Sent) -> Result<SignalId, ApiError> {
    let message = MessageId::parse(&sent.message_id).map_err(|_| missing(&sent.message_id))?;
    let about = message.clone();
    let learning = Arc::clone(&core.learning);
    let written = core.brain.write_then(
        "record feedback",
        move |tx| {
            let Some((_, message)) = messages::find(tx, &about)? else { return Ok(None) };
            let last = signals::last_of_message(tx, &about, &message.turn_id)?;
            let said = |s: &Signal| {
                s.rating == sent.rating && s.comment == sent.comment && s.corrected == sent.corrected
            };
            if let Some(same) = last.filter(said) {
                return Ok(Some(same.signal_id));
            }
            let signal = Signal {
                signal_id: SignalId::generate(),
                message_id: about,
                turn_id: message.turn_id,
                rating: sent.rating,
                comment: sent.comment,
                corrected: sent.corrected,
                created_at: Timestamp::now(),
                processed_at: None,
            };
            signals::insert(tx, &signal)?;
            Ok(Some(signal.signal_id))
        },
        move |_| learning.stirred(),
    );
    written.await.map_err(|e| storage(&e))?.ok_or_else(|| missing(message.as_str()))
}
