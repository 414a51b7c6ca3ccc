//! The trait every provider implements, and the words of one model call.

use contract::conversation::{Block, Role, Usage};
use contract::event::BlockType;
use contract::{ApiError, ErrorCode};
use futures::stream::BoxStream;
use serde_json::{Value, json};
use std::time::Duration;

/// The user message that asks a model to go on with an answer that was cut off: after a crash, or at the
/// output limit with the token budget on. Sent directly after the partial assistant message. The words are
/// part of the contract with the `offline` rules and with scripted providers: they compare it whole.
pub const CONTINUE_REQUEST: &str =
    "The reply above was cut off. Continue exactly after its last character; do not repeat or comment.";

/// One model call, provider-neutral.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// Model name as the provider knows it.
    pub model: String,
    /// System text, stable parts first.
    pub system: Vec<SystemPart>,
    /// Offered tools, sorted by name.
    pub tools: Vec<ToolSpec>,
    /// The tools are listed because the history uses them, but none may be called.
    pub no_calls: bool,
    /// The conversation. Media sources are `base64` or `url`; `blob` has been resolved by the caller.
    pub messages: Vec<Message>,
    /// Output limit of this call, in tokens.
    pub max_tokens: u32,
    /// Ask for extended thinking.
    pub thinking: bool,
    /// Thinking budget in tokens for models that take a number.
    pub thinking_budget: u32,
    /// JSON Schema for the provider's native structured output.
    pub output_schema: Option<Value>,
    /// Number of leading messages that stay the same from turn to turn (a cache breakpoint goes there).
    pub stable_messages: usize,
    /// W3C trace context to pass on.
    pub traceparent: Option<String>,
}

/// One piece of system text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemPart {
    /// The text.
    pub text: String,
    /// True when the provider's prompt cache should keep everything up to here.
    pub cache_here: bool,
}

/// A tool as the model sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolSpec {
    /// Name as the Engine knows it; may contain dots, which adapters map where forbidden.
    pub name: String,
    /// When to use it and when not.
    pub description: String,
    /// JSON Schema 2020-12, type object.
    pub input_schema: Value,
}

/// One message of the conversation.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said.
    pub content: Vec<Block>,
}

/// One piece of a streamed answer, in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Piece {
    /// First of all: which model answers (the fallback's name after a fallback).
    Began {
        /// Model name.
        model: String,
    },
    /// A block begins.
    BlockStart(BlockType),
    /// Text of the open text block.
    Text(String),
    /// Reasoning of the open thinking block.
    Thinking(String),
    /// The open block is complete; this is its stored form. Tool calls carry a fresh `call-…` id, the
    /// unmapped tool name, and their arguments: an object, or, when the model sent something that is
    /// not JSON, a JSON string with what it sent.
    BlockEnd(Block),
    /// Token counts so far; the last one counts.
    Usage {
        /// The counts.
        usage: Usage,
        /// True when the provider sent none and they were estimated from bytes.
        estimated: bool,
    },
    /// Last of all: why the model stopped.
    Stop(Stop),
}

/// Why a model call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The answer is complete.
    EndTurn,
    /// `max_tokens` was reached.
    MaxTokens,
    /// Tools are to be called.
    ToolUse,
    /// The model or a filter declined.
    Refusal,
    /// The provider paused a long turn; call again with the content so far.
    Pause,
}

/// What kind of failure a call met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// 401, 403: the key is not accepted.
    Auth,
    /// The account has no credit left.
    Quota,
    /// No such model.
    Model,
    /// The provider refuses the request as it is.
    BadRequest,
    /// The context does not fit the model's window.
    Overflow,
    /// 429: too many requests.
    RateLimited,
    /// The provider says it is overloaded.
    Overloaded,
    /// 5xx and the like.
    Server,
    /// The stream broke or spoke nonsense.
    Stream,
    /// Connect, TLS or DNS failed.
    Connect,
    /// Nothing came within the first-byte limit, or the stream fell silent.
    Timeout,
}

/// A failed model call. The message never carries a key or prompt text.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct CallError {
    /// What kind.
    pub kind: ErrorKind,
    /// For people: what the provider said, shortened.
    pub message: String,
    /// HTTP status, when there was one.
    pub status: Option<u16>,
    /// How long the provider asks to wait.
    pub retry_after: Option<Duration>,
}

impl CallError {
    /// An error without status.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), status: None, retry_after: None }
    }

    /// May the same call be sent again, before any piece was emitted? (spec 6.12, 11.5)
    pub const fn is_retryable(&self) -> bool {
        match self.kind {
            ErrorKind::Overloaded | ErrorKind::Server | ErrorKind::Connect | ErrorKind::Timeout => true,
            ErrorKind::Stream => true,
            ErrorKind::Auth
            | ErrorKind::Quota
            | ErrorKind::Model
            | ErrorKind::BadRequest
            | ErrorKind::Overflow
            | ErrorKind::RateLimited => false,
        }
    }

    /// May FALLBACK_MODEL be tried, before any piece was emitted? (spec 6.12)
    pub const fn allows_fallback(&self) -> bool {
        !matches!(self.kind, ErrorKind::Auth | ErrorKind::Quota | ErrorKind::BadRequest | ErrorKind::Overflow)
    }

    /// Does this failure make /health show llm_provider "error"? (spec 11.5)
    pub const fn marks_provider_down(&self) -> bool {
        matches!(
            self.kind,
            ErrorKind::Auth
                | ErrorKind::Quota
                | ErrorKind::Connect
                | ErrorKind::Server
                | ErrorKind::Overloaded
                | ErrorKind::Timeout
        )
    }

    /// The public error of this failure.
    pub fn to_api(&self) -> ApiError {
        // what a provider says about a request it refuses may repeat the request
        let message = match self.kind {
            ErrorKind::BadRequest => {
                tracing::debug!(status = self.status, "The provider said: {}", self.message);
                "the provider refused the request; the log has its words at level DEBUG".to_owned()
            }
            _ => self.message.clone(),
        };
        let kind = match self.kind {
            ErrorKind::Auth => "auth",
            ErrorKind::Quota => "quota",
            ErrorKind::Model => "model",
            ErrorKind::BadRequest => "bad_request",
            ErrorKind::Overloaded => "overloaded",
            ErrorKind::Server => "server",
            ErrorKind::Stream => "stream",
            ErrorKind::Connect => "connect",
            ErrorKind::Overflow => {
                return ApiError::new(ErrorCode::ContextOverflow, self.message.clone());
            }
            ErrorKind::Timeout => {
                return ApiError::new(ErrorCode::ProviderTimeout, self.message.clone());
            }
            ErrorKind::RateLimited => {
                let error = ApiError::new(ErrorCode::LlmRateLimited, self.message.clone());
                return match self.retry_after {
                    Some(wait) => error.with(json!({"retry_after": wait.as_secs()})),
                    None => error,
                };
            }
        };
        ApiError::new(ErrorCode::LlmProviderError, message).with(json!({"kind": kind}))
    }
}

/// A model provider: one call, one stream.
pub trait Provider: Send + Sync + 'static {
    /// The word of LLM_PROVIDER.
    fn name(&self) -> &'static str;

    /// Makes one call. The stream yields pieces until `Stop`, or ends with one error. Dropping the
    /// stream aborts the call.
    fn complete(&self, request: Request) -> BoxStream<'static, Result<Piece, CallError>>;
}
