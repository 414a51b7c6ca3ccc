//! How the journal's outcome of a call looks to the model.

use crate::secrets::{Known, leaving};
use crate::tools::tool::{Failure, Output};
use brain::effects::{Effect, EffectState};
use contract::conversation::Block;
use serde_json::{Value, json};

/// What the model is told about a call that was under way when the process died.
pub const IN_DOUBT_TEXT: &str =
    "the outcome of this call is in doubt: it may or may not have taken effect; check before repeating";

/// What a tool gave back, without secrets the Engine knows: before it is shortened, stored or shown to anybody.
pub fn scrubbed(known: &Known, outcome: Result<Output, Failure>) -> Result<Output, Failure> {
    match outcome {
        Ok(mut output) => {
            leaving::value(known, &mut output.value);
            output.full = output.full.map(|bytes| known.scrub_bytes(bytes));
            Ok(output)
        }
        Err(mut failure) => {
            failure.text = known.scrub(&failure.text).into_owned();
            if let Some(value) = &mut failure.output {
                leaving::value(known, value);
            }
            failure.full = failure.full.map(|bytes| known.scrub_bytes(bytes));
            Err(failure)
        }
    }
}

/// The tool_result block of a call; `None` when the journal has no row for it.
pub fn block(call_id: &str, effect: Option<&Effect>) -> Block {
    let (text, media, is_error) = match effect {
        None => ("this call never finished".to_owned(), Vec::new(), true),
        Some(effect) if effect.state == EffectState::Done => {
            (text_of(&effect.output), effect.media.clone(), false)
        }
        Some(effect) => {
            let mut value = json!({
                "error": effect.error.as_deref().unwrap_or("failed"),
                "reason": effect.reason.map_or("failed", |r| r.as_str()),
            });
            if !effect.output.is_null() {
                value["output"] = effect.output.clone();
            }
            (value.to_string(), effect.media.clone(), true)
        }
    };
    let mut content = vec![Block::text(text)];
    content.extend(media);
    Block::ToolResult { tool_use_id: call_id.to_owned(), content, is_error }
}

fn text_of(output: &Value) -> String {
    match output {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
