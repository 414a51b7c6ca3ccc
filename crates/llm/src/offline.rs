//! `offline`: a fixed rule set that answers without network, for trying things out and for tests.
//!
//! It is deterministic: the same request always gives the same pieces (call ids aside). It never pretends
//! to understand; the first answer of a conversation says what it is.

pub mod instance;
mod recalled;
pub mod rules;
mod sentences;

use crate::provider::{CONTINUE_REQUEST, CallError, Message, Piece, Provider, Request, Stop};
use contract::event::BlockType;
use contract::{Block, CallId, Role, Usage};
use futures::StreamExt;
use futures::stream::{self, BoxStream};

/// Bytes counted as one token, for usage and for the output limit.
const BYTES_PER_TOKEN: usize = 4;

/// The provider without a network.
#[derive(Debug, Clone, Copy, Default)]
pub struct Offline;

impl Provider for Offline {
    fn name(&self) -> &'static str {
        "offline"
    }

    fn complete(&self, request: Request) -> BoxStream<'static, Result<Piece, CallError>> {
        stream::iter(pieces(&request))
            .then(|piece| async {
                // Word by word also for the scheduler: a long answer holds nobody up.
                tokio::task::yield_now().await;
                Ok(piece)
            })
            .boxed()
    }
}

/// The whole answer, as it will be streamed.
pub fn pieces(request: &Request) -> Vec<Piece> {
    let (before, said) = split_continuation(&request.messages);
    let answer = rules::answer(request, before);
    let rest = rest_of(&answer.text, &said);
    let limit = request.max_tokens as usize * BYTES_PER_TOKEN;
    let shown = &rest[..rest.floor_char_boundary(limit)];
    let cut = shown.len() < rest.len();

    let mut pieces = Vec::new();
    let mut output = shown.len();
    if !shown.is_empty() {
        pieces.push(Piece::BlockStart(BlockType::Text));
        pieces.extend(shown.split_inclusive(char::is_whitespace).map(|word| Piece::Text(word.to_owned())));
        pieces.push(Piece::BlockEnd(Block::text(shown)));
    }
    let calls = if cut { Vec::new() } else { answer.calls };
    let stop = match (cut, calls.is_empty()) {
        (true, _) => Stop::MaxTokens,
        (false, true) => Stop::EndTurn,
        (false, false) => Stop::ToolUse,
    };
    for (name, input) in calls {
        output += name.len() + input.to_string().len();
        pieces.push(Piece::BlockStart(BlockType::ToolUse));
        let id = CallId::generate().as_str().to_owned();
        pieces.push(Piece::BlockEnd(Block::ToolUse { id, name, input, signature: None }));
    }
    let usage = Usage {
        input_tokens: input_bytes(request).div_ceil(BYTES_PER_TOKEN) as u64,
        output_tokens: output.div_ceil(BYTES_PER_TOKEN) as u64,
        cache_hit_tokens: 0,
    };
    pieces.push(Piece::Usage { usage, estimated: false });
    pieces.push(Piece::Stop(stop));
    pieces
}

/// The messages before an answer that was cut off, and what of that answer has been said already.
fn split_continuation(messages: &[Message]) -> (&[Message], String) {
    let mut before = messages;
    let mut said = String::new();
    while let [rest @ .., partial, ask] = before {
        let asks = ask.role == Role::User && plain_text(ask).trim() == CONTINUE_REQUEST;
        if !asks || partial.role != Role::Assistant {
            break;
        }
        said = plain_text(partial) + &said;
        before = rest;
    }
    (before, said)
}

fn rest_of<'a>(full: &'a str, said: &str) -> &'a str {
    if let Some(rest) = full.strip_prefix(said) {
        return rest;
    }
    match full.strip_prefix(said.trim_end()) {
        Some(rest) => rest.trim_start(),
        None if said.starts_with(full) => "",
        None => full,
    }
}

fn plain_text(message: &Message) -> String {
    message
        .content
        .iter()
        .filter_map(|b| match b {
            Block::Text { text } => Some(text.as_str()),
            _ => None,
        })
        .collect()
}

fn input_bytes(request: &Request) -> usize {
    let system: usize = request.system.iter().map(|p| p.text.len()).sum();
    let tools: usize = request.tools.iter().map(|t| t.name.len() + t.description.len()).sum();
    system + tools + request.messages.iter().flat_map(|m| &m.content).map(block_bytes).sum::<usize>()
}

fn block_bytes(block: &Block) -> usize {
    match block {
        Block::Text { text } | Block::Thinking { text, .. } => text.len(),
        Block::ToolUse { name, input, .. } => name.len() + input.to_string().len(),
        Block::ToolResult { content, .. } => content.iter().map(block_bytes).sum(),
        Block::Image { .. } | Block::Document { .. } | Block::Audio { .. } | Block::Video { .. } => 0,
    }
}
