//! Every public error code, once: name, HTTP status, meaning, and what a client should do.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt;

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $status:literal, $meaning:literal, $client:literal;)*) => {
        /// A stable error code of the public API.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
        pub enum ErrorCode {
            $(#[doc = $meaning] #[serde(rename = $name)] $variant,)*
        }

        impl ErrorCode {
            /// Every code, in the order of the reference page.
            pub const ALL: &'static [ErrorCode] = &[$(ErrorCode::$variant),*];

            /// The code on the wire.
            pub const fn as_str(self) -> &'static str {
                match self { $(ErrorCode::$variant => $name),* }
            }

            /// The HTTP status before the first stream byte and on all other endpoints.
            pub const fn status(self) -> u16 {
                match self { $(ErrorCode::$variant => $status),* }
            }

            /// What it means, for the reference page.
            pub const fn meaning(self) -> &'static str {
                match self { $(ErrorCode::$variant => $meaning),* }
            }

            /// What the client should do, for the reference page.
            pub const fn client(self) -> &'static str {
                match self { $(ErrorCode::$variant => $client),* }
            }
        }
    };
}

codes! {
    InvalidRequest = "INVALID_REQUEST", 400, "Malformed JSON, a missing field, a wrong type or value.", "Fix the request; `details.field` names the place.";
    InvalidKey = "INVALID_KEY", 401, "X-Engine-Key is absent or matches no key.", "Fix the key.";
    KeyRotationPending = "KEY_ROTATION_PENDING", 401, "The key was replaced less than 24 h ago and its overlap window is over.", "Use the new key.";
    McpTokenExpired = "MCP_TOKEN_EXPIRED", 401, "A connection's credentials expired and refresh failed.", "Reconnect with POST /assets/connect.";
    PermissionDenied = "PERMISSION_DENIED", 403, "The permission system refused; a platform skill is protected; Host or Origin is not allowed.", "Do not retry.";
    TaskNotFound = "TASK_NOT_FOUND", 404, "The task or pending request does not exist.", "Do not retry.";
    AgentNotFound = "AGENT_NOT_FOUND", 404, "There is no such agent.", "Fix `agent`; GET /agents lists them.";
    SkillNotFound = "SKILL_NOT_FOUND", 404, "There is no such skill.", "Fix the name.";
    ConnectionNotFound = "CONNECTION_NOT_FOUND", 404, "There is no such connection or server.", "Fix the name.";
    MemoryNotFound = "MEMORY_NOT_FOUND", 404, "There is no such memory id.", "Fix the id.";
    NotFound = "NOT_FOUND", 404, "There is no such path, message, permission or method.", "Fix the path or id.";
    MethodNotAllowed = "METHOD_NOT_ALLOWED", 405, "The path exists with another HTTP method; the `Allow` header lists them.", "Fix the method.";
    TaskBusy = "TASK_BUSY", 409, "A turn of this task is queued or running.", "Wait, follow it with GET /execute/replay, or cancel it.";
    HitlRequired = "HITL_REQUIRED", 409, "The task is paused on a person; `details.pending` lists the questions.", "Answer first with POST /hitl/respond.";
    Conflict = "CONFLICT", 409, "A state conflict; `details.reason` is already_answered, expired, already_exists, rotation_in_progress or disabled.", "Look at `details.reason`.";
    PayloadTooLarge = "PAYLOAD_TOO_LARGE", 413, "The body or a media block is too big.", "Shrink it; `details.limit` is the limit in bytes.";
    ValidationError = "VALIDATION_ERROR", 422, "Every field is fine alone but the document is not acceptable, or structured output did not validate.", "Fix the document.";
    ContextOverflow = "CONTEXT_OVERFLOW", 422, "The context is too large even after compaction, or compaction is off.", "Start a new task or shorten the message.";
    LlmRateLimited = "LLM_RATE_LIMITED", 429, "The model provider limits the rate; `details.retry_after` when it says how long.", "Back off, starting from 1 s.";
    Internal = "INTERNAL", 500, "A bug in the Engine; `details.request_id` finds it in the log.", "Report it.";
    LlmProviderError = "LLM_PROVIDER_ERROR", 502, "The model provider failed; `details.kind` is auth, quota, model, bad_request, overloaded, server, stream or connect.", "Retry once; for auth, quota and model fix the configuration.";
    McpConnectionFailed = "MCP_CONNECTION_FAILED", 502, "A connector could not be reached or used.", "Retry once.";
    Starting = "STARTING", 503, "The Engine is not ready yet.", "Retry after `Retry-After` seconds.";
    Draining = "DRAINING", 503, "The Engine is shutting down.", "Retry after `Retry-After` seconds.";
    EngineBusy = "ENGINE_BUSY", 503, "The task queue is full or the disk is nearly full; `details.reason` is queue_full, disk_full or too_many_connections.", "Retry after `Retry-After` seconds.";
    MigrationRequired = "MIGRATION_REQUIRED", 503, "The brain's schema differs from this Engine's; `details.direction` is upgrade or downgrade.", "Operator: run `september-engine migrate`, or start the newer Engine.";
    BrainLocked = "BRAIN_LOCKED", 503, "Another process holds the brain; `details.holder` names it.", "Operator: stop the other process.";
    ProviderTimeout = "PROVIDER_TIMEOUT", 504, "The model provider did not answer in time.", "Retry once.";
}

impl ErrorCode {
    /// Reads the wire form back.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|c| c.as_str() == text)
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The flat error body: `{"error":"CODE","message":"text","details":{}}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ApiError {
    /// Stable code.
    pub error: ErrorCode,
    /// For people; may change between releases.
    pub message: String,
    /// Structured facts, per code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub details: Option<Value>,
}

impl ApiError {
    /// An error without details.
    pub fn new(error: ErrorCode, message: impl Into<String>) -> Self {
        Self { error, message: message.into(), details: None }
    }

    /// Adds structured facts.
    #[must_use]
    pub fn with(mut self, details: Value) -> Self {
        self.details = Some(details);
        self
    }

    /// 400 for one field: which, what was expected, what came.
    pub fn invalid_field(field: &str, expected: &str, got: Value) -> Self {
        Self::new(ErrorCode::InvalidRequest, format!("field `{field}`: expected {expected}"))
            .with(serde_json::json!({"field": field, "expected": expected, "got": got}))
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.error, self.message)
    }
}

impl std::error::Error for ApiError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_reads_back_and_has_an_error_status() {
        for &code in ErrorCode::ALL {
            assert_eq!(ErrorCode::parse(code.as_str()), Some(code));
            assert!((400..600).contains(&code.status()), "{code}");
            assert_eq!(serde_json::to_value(code).expect("serialises"), Value::from(code.as_str()));
        }
    }

    #[test]
    fn the_error_body_is_flat_and_omits_absent_details() {
        let body = serde_json::to_string(&ApiError::new(ErrorCode::Starting, "soon")).expect("serialises");
        assert_eq!(body, r#"{"error":"STARTING","message":"soon"}"#);
    }
}
