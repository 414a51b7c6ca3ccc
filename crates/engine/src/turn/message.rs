//! What of a complete model message is stored: its blocks, its cost and the events that were still to come.

use crate::core::Emitted;
use crate::turn::checkpoint::Counted;
use crate::turn::context;
use crate::turn::model::{Complete, stop_of};
use brain::Tx;
use brain::messages::{self, NewMessage};
use brain::turns::Turn;
use brain::usage;
use contract::conversation::{Block, Role};
use contract::event::{Event, Purpose};
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
    complete: &Complete,
    provider: &str,
) -> brain::Result<()> {
    record_usage(
        tx,
        out,
        turn,
        complete.usage,
        complete.estimated,
        &complete.model,
        provider,
        Purpose::Main,
        complete.duration,
    )
}

/// Writes the `usage_log` row and the `usage` event of one model call.
#[allow(clippy::too_many_arguments, reason = "the columns of one row")]
pub fn record_usage(
    tx: &Tx<'_>,
    out: &mut Emitted,
    turn: &Turn,
    tokens: contract::Usage,
    estimated: bool,
    model: &str,
    provider: &str,
    purpose: Purpose,
    took: Duration,
) -> brain::Result<()> {
    usage::record(
        tx,
        &usage::Call {
            turn_id: turn.turn_id.clone(),
            task_id: turn.task_id.clone(),
            provider: provider.to_owned(),
            model: model.to_owned(),
            purpose,
            usage: tokens,
            estimated,
            duration_ms: took.as_millis() as u64,
            at: Timestamp::now(),
        },
    )?;
    for (kind, count) in [
        ("input", tokens.input_tokens),
        ("output", tokens.output_tokens),
        ("cache_hit", tokens.cache_hit_tokens),
    ] {
        metrics::counter!("engine_llm_tokens_total", "model" => model.to_owned(), "kind" => kind)
            .increment(count);
    }
    let event = Event::Usage {
        input_tokens: tokens.input_tokens,
        output_tokens: tokens.output_tokens,
        cache_hit_tokens: tokens.cache_hit_tokens,
        model: model.to_owned(),
        purpose,
    };
    out.emit(tx, &turn.task_id, &turn.turn_id, &event, None)?;
    Ok(())
}

/// Stores an assistant message; its id and position.
pub fn store_assistant(tx: &Tx<'_>, turn: &Turn, content: Vec<Block>) -> brain::Result<(MessageId, i64)> {
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
            parent: None,
            at: Timestamp::now(),
        },
    )?;
    Ok((id, position))
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
