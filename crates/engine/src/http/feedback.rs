//! POST /feedback: what a person thought of an answer, and what it should have been. (specification 3.8)
//!
//! Only written down here; what follows from it, the Learning Centre does. The same feedback sent again is the same one.
//!
//! The invariant: feedback is about a message that is there.

use super::app::App;
use super::fields::Fields;
use crate::core::Core;
use crate::turn::accept::storage;
use axum::Json;
use axum::body::Body;
use axum::extract::State;
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

fn missing(id: &str) -> ApiError {
    let shown: String = id.chars().take(SHOWN_CHARS).collect();
    ApiError::new(ErrorCode::NotFound, "there is no such message").with(json!({"message_id": shown}))
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
