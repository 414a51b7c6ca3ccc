//! Outcomes: what the journal keeps of a call and what the stream tells of it, in one transaction.

use super::Call;
use crate::core::Emitted;
use crate::tools::tool::{Failure, Media, Output};
use brain::effects::{self, EffectState, Outcome};
use brain::turns::Turn;
use brain::{Tx, blobs};
use contract::Timestamp;
use contract::conversation::{Block, Source};
use contract::event::{Event, Nested};
use serde_json::Value;
use std::time::Duration;

/// Head and tail of an output that is above the limit although its tool did not shorten it.
pub(super) fn capped(output: Output, limit: usize) -> Output {
    if output.full.is_some() {
        return output;
    }
    let text = output.value.to_string();
    // tools shorten their own text; what JSON quoting adds to it is allowed
    if text.len() <= limit * 2 {
        return output;
    }
    match crate::tools::shorten::head_and_tail(&text, limit) {
        Some(short) => {
            Output { value: Value::String(short), media: output.media, full: Some(text.into_bytes()) }
        }
        None => output,
    }
}

fn media_block(tx: &Tx<'_>, media: &Media) -> brain::Result<Block> {
    let sha256 = blobs::put(tx, &media.bytes, &media.media_type, Timestamp::now())?;
    let source =
        Source::Blob { sha256, media_type: media.media_type.clone(), size: media.bytes.len() as u64 };
    let image = media.media_type.starts_with("image/");
    Ok(if image { Block::Image { source } } else { Block::Document { source } })
}

/// How a call ended.
#[derive(Debug)]
pub(super) struct End {
    /// Where its journal row ends.
    pub state: EffectState,
    /// What the tool gave back.
    pub outcome: Result<Output, Failure>,
    /// How long it ran.
    pub took: Duration,
    /// Blocks a person added to an answer.
    pub extra: Vec<Block>,
}

impl End {
    /// The end of a call that was answered without being run.
    pub fn refused(failure: Failure) -> Self {
        Self { state: EffectState::Failed, outcome: Err(failure), took: Duration::ZERO, extra: Vec::new() }
    }

    /// The word for metrics.
    pub fn word(&self) -> &'static str {
        match &self.outcome {
            Ok(_) => "ok",
            Err(failure) => failure.reason.as_str(),
        }
    }
}

/// When the stream hears of an outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    /// In the same transaction.
    Now,
    /// After the hooks that follow it.
    AfterHooks,
}

/// Commits the outcome of a call and its `tool_result`; nothing happens when it has an outcome already.
pub(super) fn commit(
    tx: &Tx<'_>,
    out: &mut Emitted,
    turn: &Turn,
    nested: Option<&Nested>,
    call: &Call,
    end: End,
    told: Told,
) -> brain::Result<()> {
    let End { state, outcome, took, extra } = end;
    let now = Timestamp::now();
    let mut media = extra;
    let (output, full, reason, error) = match outcome {
        Ok(output) => {
            for item in &output.media {
                media.push(media_block(tx, item)?);
            }
            (output.value, output.full, None, None)
        }
        Err(failure) => {
            (failure.output.unwrap_or(Value::Null), failure.full, Some(failure.reason), Some(failure.text))
        }
    };
    let blob = match full {
        Some(bytes) => Some(blobs::put(tx, &bytes, "text/plain", now)?),
        None => None,
    };
    let recorded = Outcome {
        state,
        output: output.clone(),
        media,
        blob: blob.clone(),
        reason,
        error: error.clone(),
        at: now,
    };
    if effects::settle(tx, &call.id, &recorded)? {
        if told == Told::AfterHooks {
            return effects::keep_untold(tx, &call.id);
        }
        let event = Event::ToolResult {
            tool: call.tool.clone(),
            tool_call_id: call.id.clone(),
            output,
            error,
            reason,
            duration_ms: took.as_millis() as u64,
            truncated: blob.is_some(),
            blob,
        };
        out.emit(tx, &turn.task_id, &turn.turn_id, &event, nested)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_output_above_the_limit_keeps_head_and_tail_and_the_whole_as_a_blob() {
        let long = Output::json(Value::String("a".repeat(100_000)));
        let short = capped(long, 1000);
        assert!(short.full.as_ref().is_some_and(|f| f.len() > 100_000));
        assert!(short.value.as_str().is_some_and(|v| v.len() < 1200 && v.contains("left out")));
        let fine = Output::json(json!({"a": 1}));
        assert_eq!(capped(fine.clone(), 1000), fine);
    }
}
