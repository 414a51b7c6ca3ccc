//! The words these tests speak: requests by one line, streams as lists of short lines.

use contract::{Block, Role};
use futures::StreamExt;
use futures::stream::BoxStream;
use llm::{
    CallError, Message, Piece, Provider, ProviderConfig, ProviderKind, Request, SystemPart, Timeouts,
    ToolSpec,
};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use testbed::{Protocol, ScriptedModel};

pub const PATIENCE: Duration = Duration::from_secs(20);

pub fn kind(protocol: Protocol) -> ProviderKind {
    ProviderKind::parse(protocol.as_str()).expect("the words are the same")
}

/// A model of the protocol that is known to think and to sign.
pub fn model_of(protocol: Protocol) -> &'static str {
    kind(protocol).default_model()
}

pub fn timeouts() -> Timeouts {
    Timeouts { connect: PATIENCE, first_byte: PATIENCE, idle: PATIENCE }
}

pub fn provider(protocol: Protocol, model: &ScriptedModel) -> Arc<dyn Provider> {
    provider_with(protocol, model.base_url(protocol), Some("test-key-123"), timeouts())
}

pub fn provider_with(
    protocol: Protocol,
    base: String,
    key: Option<&str>,
    timeouts: Timeouts,
) -> Arc<dyn Provider> {
    llm::build(ProviderConfig {
        provider: kind(protocol),
        api_key: key.map(str::to_owned),
        base_url: Some(base),
        timeouts,
    })
}

pub fn tool(name: &str) -> ToolSpec {
    ToolSpec {
        name: name.to_owned(),
        description: format!("Does {name}."),
        input_schema: json!({"type": "object", "properties": {"path": {"type": "string"}}, "additionalProperties": true}),
    }
}

pub fn user(text: &str) -> Message {
    Message { role: Role::User, content: vec![Block::text(text)] }
}

pub fn assistant(content: Vec<Block>) -> Message {
    Message { role: Role::Assistant, content }
}

pub fn call(id: &str, name: &str, input: Value) -> Block {
    Block::ToolUse { id: id.into(), name: name.into(), input, signature: None }
}

pub fn result(id: &str, text: &str) -> Block {
    Block::ToolResult { tool_use_id: id.into(), content: vec![Block::text(text)], is_error: false }
}

pub fn results(content: Vec<Block>) -> Message {
    Message { role: Role::Tool, content }
}

pub fn request(model: &str, messages: Vec<Message>) -> Request {
    Request {
        model: model.to_owned(),
        system: vec![SystemPart { text: "You are a test.".into(), cache_here: true }],
        tools: vec![tool("git_status"), tool("read_file"), tool("slack.send")],
        messages,
        max_tokens: 1000,
        thinking: false,
        thinking_budget: 2048,
        output_schema: None,
        stable_messages: 0,
        no_calls: false,
        traceparent: None,
    }
}

pub async fn collect(
    mut stream: BoxStream<'static, Result<Piece, CallError>>,
) -> (Vec<Piece>, Option<CallError>) {
    let mut pieces = Vec::new();
    let all = async {
        while let Some(item) = stream.next().await {
            match item {
                Ok(piece) => pieces.push(piece),
                Err(error) => return Some(error),
            }
        }
        None
    };
    let error = tokio::time::timeout(PATIENCE, all).await.expect("a call ends within the limits of the test");
    (pieces, error)
}

pub async fn pieces(stream: BoxStream<'static, Result<Piece, CallError>>) -> Vec<Piece> {
    let (pieces, error) = collect(stream).await;
    assert_eq!(error, None, "after {pieces:?}");
    pieces
}

pub async fn failure(stream: BoxStream<'static, Result<Piece, CallError>>) -> CallError {
    let (pieces, error) = collect(stream).await;
    error.unwrap_or_else(|| panic!("should have failed, but gave {pieces:?}"))
}

/// The blocks of an answer, as they would be stored.
pub fn blocks(pieces: &[Piece]) -> Vec<Block> {
    let ends = pieces.iter().filter_map(|p| match p {
        Piece::BlockEnd(block) => Some(block.clone()),
        _ => None,
    });
    ends.collect()
}

pub fn text(pieces: &[Piece]) -> String {
    let texts = pieces.iter().filter_map(|p| match p {
        Piece::Text(text) => Some(text.as_str()),
        _ => None,
    });
    texts.collect()
}

/// Short lines, neighbouring deltas joined, fresh call ids left out.
pub fn lines(pieces: &[Piece]) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let delta = |lines: &mut Vec<String>, word: &str, text: &str| match lines.last_mut() {
        Some(last) if last.starts_with(word) => last.push_str(text),
        _ => lines.push(format!("{word}{text}")),
    };
    for piece in pieces {
        match piece {
            Piece::Began { model } => lines.push(format!("began {model}")),
            Piece::BlockStart(kind) => lines.push(format!("start {kind:?}")),
            Piece::Text(text) => delta(&mut lines, "text: ", text),
            Piece::Thinking(text) => delta(&mut lines, "thinking: ", text),
            Piece::BlockEnd(Block::ToolUse { id, name, input, signature }) => {
                assert!(contract::CallId::parse(id).is_ok(), "{id} is not a call id");
                let signature = signature.as_ref().map(|s| format!(" signed {s}")).unwrap_or_default();
                lines.push(format!("end call {name} {input}{signature}"));
            }
            Piece::BlockEnd(block) => {
                lines.push(format!("end {}", serde_json::to_value(block).expect("blocks serialise")));
            }
            Piece::Usage { usage: u, estimated } => {
                let flag = if *estimated { " estimated" } else { "" };
                lines.push(format!(
                    "usage {}/{}/{}{flag}",
                    u.input_tokens, u.output_tokens, u.cache_hit_tokens
                ));
            }
            Piece::Stop(stop) => lines.push(format!("stop {stop:?}")),
        }
    }
    lines
}
