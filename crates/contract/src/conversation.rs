//! Messages, their blocks, and what a model call cost: what is streamed is what is stored.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Who a message speaks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The person (or the application on their behalf).
    User,
    /// The model.
    Assistant,
    /// Results of the tool calls of the assistant message before it.
    Tool,
}

impl Role {
    /// The word used on the wire and in the brain.
    pub const fn as_str(self) -> &'static str {
        match self {
            Role::User => "user",
            Role::Assistant => "assistant",
            Role::Tool => "tool",
        }
    }

    /// Reads the word back.
    pub fn parse(text: &str) -> Option<Self> {
        [Role::User, Role::Assistant, Role::Tool].into_iter().find(|r| r.as_str() == text)
    }
}

/// One content block of a message, in the stored form.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
#[schema(no_recursion)]
pub enum Block {
    /// Plain text.
    Text {
        /// The text.
        text: String,
    },
    /// Model reasoning. Kept with the provider's proof while the provider needs it (same turn).
    Thinking {
        /// Readable reasoning; empty when the provider redacts it.
        text: String,
        /// Opaque provider data that must be returned unchanged with this block.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signature: Option<Value>,
    },
    /// A tool call asked for by the model.
    ToolUse {
        /// Call id (`call-…`), made by the Engine; providers' own ids are mapped per request.
        id: String,
        /// Tool name as the Engine knows it (dotted names unmapped).
        name: String,
        /// Arguments; not an object when the model sent something unreadable.
        #[schema(value_type = Object)]
        input: Value,
        /// Opaque provider data that belongs to this part (Gemini `thoughtSignature`).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signature: Option<Value>,
    },
    /// The result of one tool call.
    ToolResult {
        /// The call this answers.
        tool_use_id: String,
        /// Text and media blocks.
        content: Vec<Block>,
        /// True when the call failed; then the text says why.
        is_error: bool,
    },
    /// A picture.
    Image {
        /// Where its bytes are.
        source: Source,
    },
    /// A document such as a PDF.
    Document {
        /// Where its bytes are.
        source: Source,
    },
    /// Sound.
    Audio {
        /// Where its bytes are.
        source: Source,
    },
    /// Moving pictures.
    Video {
        /// Where its bytes are.
        source: Source,
    },
}

impl Block {
    /// A text block.
    pub fn text(text: impl Into<String>) -> Self {
        Block::Text { text: text.into() }
    }

    /// The media source, when this block is media.
    pub fn source(&self) -> Option<&Source> {
        match self {
            Block::Image { source }
            | Block::Document { source }
            | Block::Audio { source }
            | Block::Video { source } => Some(source),
            Block::Text { .. }
            | Block::Thinking { .. }
            | Block::ToolUse { .. }
            | Block::ToolResult { .. } => None,
        }
    }

    /// The media source for replacement, when this block is media.
    pub fn source_mut(&mut self) -> Option<&mut Source> {
        match self {
            Block::Image { source }
            | Block::Document { source }
            | Block::Audio { source }
            | Block::Video { source } => Some(source),
            Block::Text { .. }
            | Block::Thinking { .. }
            | Block::ToolUse { .. }
            | Block::ToolResult { .. } => None,
        }
    }
}

/// Where the bytes of a media block are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Source {
    /// Inline, as requests carry them; never stored in this form.
    Base64 {
        /// MIME type.
        media_type: String,
        /// Standard base64.
        data: String,
    },
    /// Fetched by the provider.
    Url {
        /// Absolute http(s) URL.
        url: String,
    },
    /// In the brain's `blobs`, stored once and referenced.
    Blob {
        /// SHA-256 of the bytes, 64 hex digits.
        sha256: String,
        /// MIME type.
        media_type: String,
        /// Bytes.
        size: u64,
    },
}

/// What one model call (or a sum of calls) consumed, in tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Usage {
    /// Prompt tokens, cached ones included.
    pub input_tokens: u64,
    /// Generated tokens, reasoning included.
    pub output_tokens: u64,
    /// The part of `input_tokens` that the provider's prompt cache served.
    pub cache_hit_tokens: u64,
}

impl Usage {
    /// The sum of two.
    pub const fn plus(self, other: Usage) -> Usage {
        Usage {
            input_tokens: self.input_tokens + other.input_tokens,
            output_tokens: self.output_tokens + other.output_tokens,
            cache_hit_tokens: self.cache_hit_tokens + other.cache_hit_tokens,
        }
    }
}

/// Why a turn ended without an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// The model finished its answer.
    EndTurn,
    /// The output limit cut the answer.
    MaxTokens,
    /// The iteration limit was reached.
    MaxIterations,
    /// The model or the provider's filter declined.
    Refusal,
    /// A stop hook kept refusing.
    StoppedByHook,
    /// Somebody cancelled the turn.
    Cancelled,
}

impl StopReason {
    /// Every value.
    pub const ALL: [StopReason; 6] = [
        StopReason::EndTurn,
        StopReason::MaxTokens,
        StopReason::MaxIterations,
        StopReason::Refusal,
        StopReason::StoppedByHook,
        StopReason::Cancelled,
    ];

    /// The word used on the wire and in the brain.
    pub const fn as_str(self) -> &'static str {
        match self {
            StopReason::EndTurn => "end_turn",
            StopReason::MaxTokens => "max_tokens",
            StopReason::MaxIterations => "max_iterations",
            StopReason::Refusal => "refusal",
            StopReason::StoppedByHook => "stopped_by_hook",
            StopReason::Cancelled => "cancelled",
        }
    }

    /// Reads the word back.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|r| r.as_str() == text)
    }
}

/// The `reason` word of a failed tool call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ToolReason {
    /// The input does not fit the tool's schema; nothing ran.
    InvalidInput,
    /// No such tool, file or thing.
    NotFound,
    /// A rule or a person refused.
    PermissionDenied,
    /// The call's own time limit passed.
    Timeout,
    /// The tool ran and failed.
    Failed,
    /// The turn was cancelled.
    Cancelled,
    /// The process died while the call was under way; it may or may not have taken effect.
    InDoubt,
    /// The tool cannot work in this configuration.
    Unavailable,
    /// Input or number of calls above a limit.
    TooLarge,
    /// The same call gave the same result too often in this turn.
    RepeatedCall,
    /// Nobody answered in time.
    Expired,
    /// A connector could not be reached or used.
    #[serde(rename = "MCP_CONNECTION_FAILED")]
    McpConnectionFailed,
    /// A connector's credentials expired.
    #[serde(rename = "MCP_TOKEN_EXPIRED")]
    McpTokenExpired,
}

impl ToolReason {
    /// Every value.
    pub const ALL: [ToolReason; 13] = [
        ToolReason::InvalidInput,
        ToolReason::NotFound,
        ToolReason::PermissionDenied,
        ToolReason::Timeout,
        ToolReason::Failed,
        ToolReason::Cancelled,
        ToolReason::InDoubt,
        ToolReason::Unavailable,
        ToolReason::TooLarge,
        ToolReason::RepeatedCall,
        ToolReason::Expired,
        ToolReason::McpConnectionFailed,
        ToolReason::McpTokenExpired,
    ];

    /// The word used on the wire and in the brain.
    pub const fn as_str(self) -> &'static str {
        match self {
            ToolReason::InvalidInput => "invalid_input",
            ToolReason::NotFound => "not_found",
            ToolReason::PermissionDenied => "permission_denied",
            ToolReason::Timeout => "timeout",
            ToolReason::Failed => "failed",
            ToolReason::Cancelled => "cancelled",
            ToolReason::InDoubt => "in_doubt",
            ToolReason::Unavailable => "unavailable",
            ToolReason::TooLarge => "too_large",
            ToolReason::RepeatedCall => "repeated_call",
            ToolReason::Expired => "expired",
            ToolReason::McpConnectionFailed => "MCP_CONNECTION_FAILED",
            ToolReason::McpTokenExpired => "MCP_TOKEN_EXPIRED",
        }
    }

    /// Reads the word back.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|r| r.as_str() == text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_read_back_and_agree_with_serde() {
        for r in ToolReason::ALL {
            assert_eq!(ToolReason::parse(r.as_str()), Some(r));
            assert_eq!(serde_json::to_value(r).expect("serialises"), Value::from(r.as_str()));
        }
        for r in StopReason::ALL {
            assert_eq!(StopReason::parse(r.as_str()), Some(r));
            assert_eq!(serde_json::to_value(r).expect("serialises"), Value::from(r.as_str()));
        }
    }

    #[test]
    fn a_block_keeps_the_documented_shape() {
        let block = Block::ToolResult {
            tool_use_id: "call-1".into(),
            content: vec![Block::text("ok")],
            is_error: false,
        };
        assert_eq!(
            serde_json::to_value(&block).expect("serialises"),
            serde_json::json!({"type":"tool_result","tool_use_id":"call-1","content":[{"type":"text","text":"ok"}],"is_error":false})
        );
    }
}
