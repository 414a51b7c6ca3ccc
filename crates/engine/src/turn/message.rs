//! What of a complete model message is stored: its blocks, its cost and the events that were still to come.

use crate::core::Emitted;
use crate::turn::checkpoint::Counted;
use crate::turn::context;
use crate::turn::frame::Frame;
use crate::turn::model::{Complete, stop_of};
use brain::Tx;
use brain::messages::{self, NewMessage};
use brain::turns::Turn;
use brain::usage;
use contract::conversation::{Block, Role};
use contract::event::{Event, Nested, Purpose};
use contract::{CallId, MessageId, Timestamp};
use serde_json::Value;
use std::time::Duration;

/// The durable text of earlier, cut-off calls in front of what the last call said.
pub fn with_carried(carried: &str, blocks: &[Block]) -> Vec<Block> {
    let mut content = blocks.to_vec();
    if carried.is_empty() {
        return content;
    }
    match content.iter_mut().find_map(|b| match b {
        Block::Text { text } => Some(text),
        _ => None,
    }) {
        Some(text) => text.insert_str(0, carried),
        None => {
            let at = content.iter().take_while(|b| matches!(b, Block::Thinking { .. })).count();
            content.insert(at, Block::text(carried));
        }
    }
    content
}

/// The text of a message.
pub fn text_of(content: &[Block]) -> String {
    content
        .iter()
        .filter_map(|b| match b {
            Block::Text { text } => Some(text.as_str()),
            _ => None,
        })
        .collect()
}

/// A tool call: its id, tool and input.
pub fn call_of(block: &Block) -> Option<(CallId, String, Value)> {
    match block {
        Block::ToolUse { id, name, input, .. } => {
            Some((CallId::parse(id).ok()?, name.clone(), input.clone()))
        }
        _ => None,
    }
}

/// What the provider counted, for the next estimate.
pub fn counted(complete: &Complete, position: i64) -> Option<Counted> {
    let tokens = complete.usage.input_tokens + complete.usage.output_tokens;
    (!complete.estimated && tokens > 0).then_some(Counted { tokens, up_to_position: position })
}

/// Emits the events that were still to come, and the held stop of the last text block.
pub fn commit_pending(
    tx: &Tx<'_>,
    out: &mut Emitted,
    turn: &Turn,
    complete: &Complete,
    discard_held: bool,
) -> brain::Result<()> {
    out.scrubbed(complete.scrubbed.iter().copied());
    for event in &complete.pending {
        out.emit(tx, &turn.task_id, &turn.turn_id, event, None)?;
    }
    if let Some(open) = complete.held_stop {
        out.emit(tx, &turn.task_id, &turn.turn_id, &stop_of(open, discard_held), None)?;
    }
    Ok(())
}

/// Writes what the call cost.
pub fn commit_usage(
    tx: &Tx<'_>,
    out: &mut Emitted,
    turn: &Turn,
    frame: &Frame,
    complete: &Complete,
    provider: &str,
) -> brain::Result<()> {
    let spent = Spent {
        tokens: complete.usage,
        estimated: complete.estimated,
        model: complete.model.clone(),
        purpose: frame.purpose(),
        took: complete.duration,
    };
    record_usage(tx, out, turn, &spent, provider, frame.nested(&turn.agent).as_ref())
}

/// What one model call cost.
#[derive(Debug, Clone, PartialEq)]
pub struct Spent {
    /// Tokens.
    pub tokens: contract::Usage,
    /// True when the provider sent no counts.
    pub estimated: bool,
    /// The model that answered.
    pub model: String,
    /// What it was for.
    pub purpose: Purpose,
    /// How long it ran.
    pub took: Duration,
}

impl Spent {
    /// The row of `usage_log`, and the metrics with it.
    pub fn row(&self, turn: Option<&Turn>, provider: &str) -> usage::Call {
        let tokens = self.tokens;
        for (kind, count) in [
            ("input", tokens.input_tokens),
            ("output", tokens.output_tokens),
            ("cache_hit", tokens.cache_hit_tokens),
        ] {
            metrics::counter!("engine_llm_tokens_total", "model" => self.model.clone(), "kind" => kind)
                .increment(count);
        }
        usage::Call {
            turn_id: turn.map(|t| t.turn_id.clone()),
            task_id: turn.map(|t| t.task_id.clone()),
            provider: provider.to_owned(),
            model: self.model.clone(),
            purpose: self.purpose,
            usage: tokens,
            estimated: self.estimated,
            duration_ms: self.took.as_millis() as u64,
            at: Timestamp::now(),
        }
    }
}

/// Writes the `usage_log` row and the `usage` event of one model call.
pub fn record_usage(
    tx: &Tx<'_>,
    out: &mut Emitted,
    turn: &Turn,
    spent: &Spent,
    provider: &str,
    nested: Option<&Nested>,
) -> brain::Result<()> {
    usage::record(tx, &spent.row(Some(turn), provider))?;
    let event = Event::Usage {
        input_tokens: spent.tokens.input_tokens,
        output_tokens: spent.tokens.output_tokens,
        cache_hit_tokens: spent.tokens.cache_hit_tokens,
        model: spent.model.clone(),
        purpose: spent.purpose,
    };
    out.emit(tx, &turn.task_id, &turn.turn_id, &event, nested)?;
    Ok(())
}

/// Stores an assistant message; its id and position.
pub fn store_assistant(
    tx: &Tx<'_>,
    turn: &Turn,
    frame: &Frame,
    content: Vec<Block>,
) -> brain::Result<(MessageId, i64)> {
    let id = MessageId::generate();
    let position = messages::append(
        tx,
        &NewMessage {
            message_id: id.clone(),
            task_id: turn.task_id.clone(),
            turn_id: turn.turn_id.clone(),
            role: Role::Assistant,
            token_estimate: context::estimate_blocks(&content),
            content,
            active: true,
            agent: Some(turn.agent.clone()),
            parent: frame.parent.clone(),
            at: Timestamp::now(),
        },
    )?;
    Ok((id, position))
}

/// Stores what a hook wants the model to read, as a message of the user; its position.
pub fn store_note(tx: &Tx<'_>, turn: &Turn, text: String) -> brain::Result<i64> {
    let content = vec![Block::text(text)];
    messages::append(
        tx,
        &NewMessage {
            message_id: MessageId::generate(),
            task_id: turn.task_id.clone(),
            turn_id: turn.turn_id.clone(),
            role: Role::User,
            token_estimate: context::estimate_blocks(&content),
            content,
            active: true,
            agent: None,
            parent: None,
            at: Timestamp::now(),
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn carried_text_comes_before_what_the_last_call_said() {
        let joined = with_carried("Half a sen", &[Block::text("tence.")]);
        assert_eq!(joined, vec![Block::text("Half a sentence.")]);
        let thinking = Block::Thinking { text: "hm".into(), signature: None };
        let call =
            Block::ToolUse { id: "call-1".into(), name: "bash".into(), input: json!({}), signature: None };
        let joined = with_carried("Text", &[thinking.clone(), call.clone()]);
        assert_eq!(joined, vec![thinking, Block::text("Text"), call]);
    }
}
