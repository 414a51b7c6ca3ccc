//! The stream decoders of all three providers: any stream gives pieces in the one legal order, or an error.
//!
//! The first byte chooses the provider and how long the pieces are in which the rest arrives; `0`, `1` and `2` are
//! OpenAI, Anthropic and Gemini.

use contract::Block;
use contract::event::BlockType;
use llm::names::{Dots, NameMap};
use llm::sse::Parser;
use llm::wire::{Decode, DecodeError};
use llm::{Piece, anthropic, gemini, openai};

/// What must hold for any bytes.
pub fn holds(data: &[u8]) {
    let Some((first, body)) = data.split_first() else { return };
    let (provider, length) = (first % 3, usize::from(first / 3) + 1);
    let whole = decoded(provider, body, body.len().max(1));
    let cut = decoded(provider, body, length);
    assert_eq!((&cut.0, &cut.1), (&whole.0, &whole.1), "cut every {length} bytes");
    in_order(&whole.0, whole.1.is_none());
}

/// Bytes an answer may bring: more than any input has.
const MOST: usize = 64 * 1024 * 1024;

/// The pieces, and why there are no more.
fn decoded(provider: u8, body: &[u8], length: usize) -> (Vec<Piece>, Option<DecodeError>) {
    match provider {
        0 => run(openai::Decoder::new(names(Dots::Forbidden), 77, MOST), body, length),
        1 => run(anthropic::Decoder::new(names(Dots::Forbidden), 77, MOST), body, length),
        _ => run(gemini::Decoder::new(names(Dots::Allowed), 77, MOST), body, length),
    }
}

fn names(dots: Dots) -> NameMap {
    NameMap::new(["slack.send", "read_file", "git_status"], dots)
}

fn run(mut decoder: impl Decode, body: &[u8], length: usize) -> (Vec<Piece>, Option<DecodeError>) {
    let (mut parser, mut events) = (Parser::new(), Vec::new());
    for chunk in body.chunks(length) {
        parser.push(chunk, &mut events).expect("the bodies are smaller than the limit");
    }
    parser.finish(&mut events);
    let mut pieces = Vec::new();
    for event in &events {
        match decoder.push(event) {
            Ok(more) => pieces.extend(more),
            Err(error) => return (nameless(pieces), Some(error)),
        }
        if decoder.is_done() {
            break;
        }
    }
    match decoder.finish() {
        Ok(more) => pieces.extend(more),
        Err(error) => return (nameless(pieces), Some(error)),
    }
    (nameless(pieces), None)
}

/// Without the ids of calls, which are made anew each time.
fn nameless(mut pieces: Vec<Piece>) -> Vec<Piece> {
    for piece in &mut pieces {
        if let Piece::BlockEnd(Block::ToolUse { id, .. }) = piece {
            assert!(id.starts_with("call-"), "{id}");
            id.clear();
        }
    }
    pieces
}

/// One block at a time, deltas inside the block of their kind, the stop last; `complete` when there was no error.
fn in_order(pieces: &[Piece], complete: bool) {
    let mut open: Option<(BlockType, String)> = None;
    for (at, piece) in pieces.iter().enumerate() {
        match piece {
            Piece::Began { .. } => panic!("a decoder does not know who answers"),
            Piece::BlockStart(kind) => {
                assert!(open.is_none(), "a block inside a block");
                open = Some((*kind, String::new()));
            }
            Piece::Text(more) | Piece::Thinking(more) => {
                let wanted = match piece {
                    Piece::Text(_) => BlockType::Text,
                    _ => BlockType::Thinking,
                };
                let (kind, text) = open.as_mut().expect("text stands in a block");
                assert_eq!(*kind, wanted);
                text.push_str(more);
            }
            Piece::BlockEnd(block) => {
                let (kind, said) = open.take().expect("only an open block ends");
                match block {
                    Block::Text { text } => assert_eq!((kind, text), (BlockType::Text, &said)),
                    Block::Thinking { text, .. } => assert_eq!((kind, text), (BlockType::Thinking, &said)),
                    Block::ToolUse { input, .. } => {
                        assert_eq!(kind, BlockType::ToolUse);
                        assert!(input.is_object() || input.is_string(), "{input}");
                    }
                    other => panic!("a model does not answer with {other:?}"),
                }
            }
            Piece::Usage { usage, .. } => assert!(usage.cache_hit_tokens <= usage.input_tokens, "{usage:?}"),
            Piece::Stop(_) => assert_eq!(at + 1, pieces.len(), "nothing follows the stop"),
        }
    }
    if complete {
        assert!(open.is_none(), "a complete answer leaves no block open");
        assert!(matches!(pieces.last(), Some(Piece::Stop(_))), "a complete answer says why it ends");
    }
}
