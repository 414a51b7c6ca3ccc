//! A finished turn cut into chunks that a light model can read at once.
//!
//! Messages stay in order and whole where they fit; one that is larger than a chunk is cut between characters, and each
//! part keeps its id, so that it can be cited.
//!
//! The invariant: put together again, the chunks are the messages, without the recalled blocks.

use crate::extraction::CHUNK_TOKENS;
use crate::recall::{BYTES_PER_TOKEN, estimated_tokens, without_recalled};

/// One message or tool call, as the model is shown it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// What it is cited by.
    pub id: String,
    /// Who speaks: "user", "assistant", or a tool's name.
    pub role: String,
    /// What is said, without recalled blocks.
    pub text: String,
}

impl Message {
    /// A message without its recalled blocks.
    pub fn new(id: impl Into<String>, role: impl Into<String>, text: &str) -> Self {
        Self { id: id.into(), role: role.into(), text: without_recalled(text) }
    }
}

/// The chunks, each of at most [`CHUNK_TOKENS`] estimated tokens. Messages without text are left out.
pub fn chunks(messages: Vec<Message>) -> Vec<Vec<Message>> {
    let most_bytes = (CHUNK_TOKENS as f64 * BYTES_PER_TOKEN) as usize;
    let mut done = Vec::new();
    let mut chunk: Vec<Message> = Vec::new();
    let mut tokens = 0;
    for message in messages {
        let mut rest = message.text.as_str();
        while !rest.is_empty() {
            let part = &rest[..rest.floor_char_boundary(most_bytes)];
            rest = &rest[part.len()..];
            let size = estimated_tokens(part);
            if tokens + size > CHUNK_TOKENS && !chunk.is_empty() {
                done.push(std::mem::take(&mut chunk));
                tokens = 0;
            }
            tokens += size;
            chunk.push(Message { id: message.id.clone(), role: message.role.clone(), text: part.to_owned() });
        }
    }
    if !chunk.is_empty() {
        done.push(chunk);
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_message_larger_than_a_chunk_keeps_its_id_in_every_part() {
        let parts = chunks(vec![Message::new("msg-1", "user", &"é".repeat(60_000))]);
        assert_eq!(parts.len(), 3);
        assert!(parts.iter().flatten().all(|m| m.id == "msg-1"));
    }

    #[test]
    fn what_was_recalled_is_not_read_again() {
        assert_eq!(Message::new("msg-1", "user", "a<memory>\nold\n</memory>b").text, "ab");
    }

    proptest! {
        #[test]
        fn chunks_fit_and_lose_nothing(sizes in prop::collection::vec(0usize..90_000, 0..8)) {
            let text = |(i, n): (usize, &usize)| Message::new(format!("msg-{i}"), "user", &"x".repeat(*n));
            let messages: Vec<Message> = sizes.iter().enumerate().map(text).collect();
            let parts = chunks(messages.clone());
            for part in &parts {
                prop_assert!(part.iter().map(|m| estimated_tokens(&m.text)).sum::<usize>() <= CHUNK_TOKENS);
            }
            for message in &messages {
                let whole: String =
                    parts.iter().flatten().filter(|m| m.id == message.id).map(|m| m.text.as_str()).collect();
                prop_assert_eq!(&whole, &message.text);
            }
        }
    }
}
