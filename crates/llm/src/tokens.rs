//! Token estimates for when a provider does not count: bytes divided by a constant.

use crate::provider::{Message, Request};
use contract::{Block, Usage};

/// Tokens counted for one picture, document or recording, whose bytes say nothing about its tokens.
/// Smaller would run into the provider's window with many pictures; larger would compact too early.
pub const TOKENS_PER_MEDIUM: u64 = 1600;

/// ceil(bytes / 3.5): what a text of this many bytes costs, about.
pub const fn estimate(bytes: u64) -> u64 {
    (bytes * 2).div_ceil(7)
}

/// What one block costs, about.
pub fn estimate_block(block: &Block) -> u64 {
    match block {
        Block::Text { text } | Block::Thinking { text, .. } => estimate(text.len() as u64),
        Block::ToolUse { name, input, .. } => estimate((name.len() + input.to_string().len()) as u64),
        Block::ToolResult { content, .. } => content.iter().map(estimate_block).sum(),
        Block::Image { .. } | Block::Document { .. } | Block::Audio { .. } | Block::Video { .. } => {
            TOKENS_PER_MEDIUM
        }
    }
}

/// What one message costs, about.
pub fn estimate_message(message: &Message) -> u64 {
    message.content.iter().map(estimate_block).sum()
}

/// What the input of a whole request costs, about.
pub fn estimate_request(request: &Request) -> u64 {
    let system: usize = request.system.iter().map(|p| p.text.len()).sum();
    let tools: usize = request
        .tools
        .iter()
        .map(|t| t.name.len() + t.description.len() + t.input_schema.to_string().len())
        .sum();
    estimate((system + tools) as u64) + request.messages.iter().map(estimate_message).sum::<u64>()
}

/// The usage of a call whose provider sent none.
pub fn estimate_usage(input_tokens: u64, output_bytes: u64) -> Usage {
    Usage { input_tokens, output_tokens: estimate(output_bytes), cache_hit_tokens: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_estimate_is_bytes_by_three_and_a_half_rounded_up() {
        assert_eq!([0, 1, 7, 8, 35].map(estimate), [0, 1, 2, 3, 10]);
    }
}
