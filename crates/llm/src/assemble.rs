//! Putting blocks together from deltas: opens and closes them, and emits the pieces in the one legal order.
//!
//! Shared by the three decoders. One block is open at a time. What a provider sends as arguments is kept
//! as text until the block ends; text that is not JSON becomes a JSON string, which dispatch refuses with
//! "invalid_input": bad arguments are the model's mistake, not the provider's.

use crate::provider::{CallError, ErrorKind, Piece, Request};
use contract::event::BlockType;
use contract::{Block, CallId};
use serde_json::Value;

/// Most bytes any answer may bring, whatever its call asked for. Larger would let a runaway stream fill the memory;
/// smaller would cut the longest answers (a million output tokens are about 4 MB).
pub const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;
/// Every answer may bring this much. Larger only lets runaway streams cost more; smaller cuts answers of providers
/// that count an answer's tokens by a rule of their own when the call's limit is small.
pub const LEAST_ANSWER_BYTES: usize = 256 * 1024;
/// Bytes an answer may bring for each output token of its call. A token is about 4 bytes of prose, and few are longer
/// than 16; twice that leaves room for what JSON arguments add in escapes. Larger lets a provider that ignores the
/// limit cost so much more memory and disk; smaller cuts honest answers of blanks and long words.
pub const ANSWER_BYTES_PER_TOKEN: usize = 32;

/// Most bytes the answer to this call may bring: what follows from the tokens it may have, thinking included.
pub fn most_bytes(request: &Request) -> usize {
    let thinking = if request.thinking { request.thinking_budget } else { 0 };
    let tokens = request.max_tokens.saturating_add(thinking);
    usize::try_from(tokens)
        .unwrap_or(usize::MAX)
        .saturating_mul(ANSWER_BYTES_PER_TOKEN)
        .clamp(LEAST_ANSWER_BYTES, MAX_ANSWER_BYTES)
}

#[derive(Debug)]
enum Open {
    Text(String),
    Thinking { text: String, signature: Option<Value> },
    Tool { name: String, args: String, signature: Option<Value> },
}

/// The blocks of one answer.
#[derive(Debug)]
pub struct Blocks {
    open: Option<Open>,
    pieces: Vec<Piece>,
    bytes: usize,
    most: usize,
    tools: usize,
    any: bool,
}

impl Blocks {
    /// No block yet; all together may bring `most` bytes.
    pub fn up_to(most: usize) -> Self {
        Self { open: None, pieces: Vec::new(), bytes: 0, most, tools: 0, any: false }
    }

    /// More answer text; opens a text block unless one is open. Empty text does nothing.
    pub fn text(&mut self, more: &str) -> Result<(), CallError> {
        if more.is_empty() {
            return Ok(());
        }
        if !matches!(self.open, Some(Open::Text(_))) {
            self.start(BlockType::Text, Open::Text(String::new()));
        }
        if let Some(Open::Text(text)) = &mut self.open {
            text.push_str(more);
        }
        self.pieces.push(Piece::Text(more.to_owned()));
        self.count(more.len())
    }

    /// More reasoning; opens a thinking block unless one is open.
    pub fn thinking(&mut self, more: &str) -> Result<(), CallError> {
        if more.is_empty() {
            return Ok(());
        }
        if !matches!(self.open, Some(Open::Thinking { .. })) {
            self.start_thinking();
        }
        if let Some(Open::Thinking { text, .. }) = &mut self.open {
            text.push_str(more);
        }
        self.pieces.push(Piece::Thinking(more.to_owned()));
        self.count(more.len())
    }

    /// Opens a thinking block, even one that will stay without text.
    pub fn start_thinking(&mut self) {
        self.start(BlockType::Thinking, Open::Thinking { text: String::new(), signature: None });
    }

    /// Is a thinking block open?
    pub fn is_thinking(&self) -> bool {
        matches!(self.open, Some(Open::Thinking { .. }))
    }

    /// Sets what must come back with the open block, when it is thinking or a tool call.
    pub fn sign(&mut self, proof: Value) {
        match &mut self.open {
            Some(Open::Thinking { signature, .. } | Open::Tool { signature, .. }) => *signature = Some(proof),
            Some(Open::Text(_)) | None => {}
        }
    }

    /// Opens a tool call; `name` is the Engine's name.
    pub fn start_tool(&mut self, name: String) {
        self.tools += 1;
        self.start(BlockType::ToolUse, Open::Tool { name, args: String::new(), signature: None });
    }

    /// More argument text of the open tool call.
    pub fn args(&mut self, more: &str) -> Result<(), CallError> {
        if let Some(Open::Tool { args, .. }) = &mut self.open {
            args.push_str(more);
        }
        self.count(more.len())
    }

    /// The argument text of the open tool call so far.
    pub fn open_args(&self) -> Option<&str> {
        match &self.open {
            Some(Open::Tool { args, .. }) => Some(args),
            _ => None,
        }
    }

    /// Ends the open block, if any.
    pub fn end(&mut self) {
        let block = match self.open.take() {
            None => return,
            Some(Open::Text(text)) => Block::Text { text },
            Some(Open::Thinking { text, signature }) => Block::Thinking { text, signature },
            Some(Open::Tool { name, args, signature }) => Block::ToolUse {
                id: CallId::generate().as_str().to_owned(),
                name,
                input: read_args(&args),
                signature,
            },
        };
        self.pieces.push(Piece::BlockEnd(block));
    }

    /// Adds a piece that is not part of a block.
    pub fn push(&mut self, piece: Piece) {
        self.pieces.push(piece);
    }

    /// Takes what is ready to be emitted.
    pub fn take(&mut self) -> Vec<Piece> {
        std::mem::take(&mut self.pieces)
    }

    /// How many tool calls were opened.
    pub fn tool_count(&self) -> usize {
        self.tools
    }

    /// Was any block opened?
    pub fn any(&self) -> bool {
        self.any
    }

    /// Bytes of the answer so far, for estimates.
    pub fn bytes(&self) -> u64 {
        self.bytes as u64
    }

    fn start(&mut self, kind: BlockType, open: Open) {
        self.end();
        self.any = true;
        self.open = Some(open);
        self.pieces.push(Piece::BlockStart(kind));
    }

    fn count(&mut self, more: usize) -> Result<(), CallError> {
        self.bytes += more;
        if self.bytes > self.most {
            return Err(CallError::new(
                ErrorKind::Stream,
                format!(
                    "the provider's answer grew beyond {} bytes, more than its token limit allows",
                    self.most
                ),
            ));
        }
        Ok(())
    }
}

/// Argument text as a value: nothing means no arguments; what is not an object stays as a JSON string.
fn read_args(args: &str) -> Value {
    if args.trim().is_empty() {
        return Value::Object(serde_json::Map::new());
    }
    match serde_json::from_str::<Value>(args) {
        Ok(value @ Value::Object(_)) => value,
        _ => Value::String(args.to_owned()),
    }
}

/// The form in which a stored tool input goes back to a provider: always an object.
pub fn input_object(input: &Value) -> Value {
    match input {
        Value::Object(_) => input.clone(),
        Value::String(text) => serde_json::json!({ "unreadable_arguments": text }),
        other => serde_json::json!({ "unreadable_arguments": other.to_string() }),
    }
}

/// The words that stand in for a medium a provider cannot be given.
pub fn media_note(what: &str, source: &contract::Source) -> String {
    let kind = match source {
        contract::Source::Base64 { media_type, .. } | contract::Source::Blob { media_type, .. } => media_type,
        contract::Source::Url { .. } => "by URL",
    };
    format!("[{what} ({kind}) left out: this model cannot be given it]")
}

/// The text of a `text/*` document sent inline, when it is one.
pub fn inline_text(source: &contract::Source) -> Option<String> {
    use base64::Engine as _;
    match source {
        contract::Source::Base64 { media_type, data } if media_type.starts_with("text/") => {
            let bytes = base64::engine::general_purpose::STANDARD.decode(data).ok()?;
            Some(String::from_utf8_lossy(&bytes).into_owned())
        }
        _ => None,
    }
}

/// The instruction that stands in for native structured output.
pub fn schema_instruction(schema: &Value) -> String {
    format!(
        "Answer with exactly one JSON value that is valid against the JSON Schema below, and nothing else: \
         no explanation, no Markdown fence.\n{schema}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn unreadable_arguments_become_a_string_and_go_back_as_an_object() {
        assert_eq!(read_args(" "), json!({}));
        assert_eq!(read_args("{\"a\":1}"), json!({"a":1}));
        assert_eq!(read_args("{\"a\":"), json!("{\"a\":"));
        assert_eq!(read_args("[1]"), json!("[1]"));
        assert_eq!(input_object(&json!("{\"a\":")), json!({"unreadable_arguments": "{\"a\":"}));
    }

    #[test]
    fn what_an_answer_may_bring_follows_from_the_tokens_of_its_call() {
        let asked = |max_tokens, thinking| {
            most_bytes(&Request {
                model: "m".into(),
                system: Vec::new(),
                tools: Vec::new(),
                no_calls: false,
                messages: Vec::new(),
                max_tokens,
                thinking,
                thinking_budget: 100_000,
                output_schema: None,
                stable_messages: 0,
                traceparent: None,
            })
        };
        assert_eq!(asked(1, false), LEAST_ANSWER_BYTES);
        assert_eq!(asked(50_000, false), 50_000 * ANSWER_BYTES_PER_TOKEN);
        assert_eq!(asked(50_000, true), 150_000 * ANSWER_BYTES_PER_TOKEN);
        assert_eq!(asked(u32::MAX, true), MAX_ANSWER_BYTES);
    }

    #[test]
    fn an_endless_answer_is_refused() {
        let mut blocks = Blocks::up_to(1000);
        let much = "x".repeat(1000);
        assert!(blocks.text(&much).is_ok());
        assert_eq!(blocks.text("x").map_err(|e| e.kind), Err(ErrorKind::Stream));
    }
}
