//! The requests and answers another program exchanges with an Engine.

use crate::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Header that carries the application's key.
pub const KEY_HEADER: &str = "x-engine-key";
/// Header that names one request.
pub const REQUEST_ID_HEADER: &str = "x-request-id";
/// Header that makes POST /execute safe to send again.
pub const IDEMPOTENCY_HEADER: &str = "idempotency-key";
/// Header with which a stream reader says what it has seen.
pub const LAST_EVENT_ID_HEADER: &str = "last-event-id";

/// Body of POST /execute.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ExecuteRequest {
    /// The user message; may be empty only with `media` or with `retry_message_id`.
    pub message: String,
    /// The conversation; an existing id continues it, a new id starts one. 1..256 characters.
    pub task_id: String,
    /// At most 20 image, document, audio or video blocks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<Object>)]
    pub media: Vec<Value>,
    /// Skip planning: the `plan` tool is not offered.
    #[serde(default)]
    pub direct: bool,
    /// Replace that user message by `message` and run from there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edit_message_id: Option<String>,
    /// Re-run from that user message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_message_id: Option<String>,
    /// Extended thinking; only then thinking_delta is sent.
    #[serde(default)]
    pub super_thinking: bool,
    /// Catalog name; default: the task's last agent, or the default agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// JSON Schema 2020-12 the final answer must validate against.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub output_schema: Option<Value>,
    /// At most 256 KiB; put into the message as a data block.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub context: Option<Value>,
}

/// Body of GET /health.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Health {
    /// ok, degraded, starting, draining, migration_required, brain_locked or error.
    pub status: HealthStatus,
    /// Since process start.
    pub uptime_seconds: f64,
    /// What works.
    pub subsystems: Subsystems,
    /// Program version.
    pub version: String,
    /// Highest migration applied; 0 while the brain is not open.
    pub schema_version: u32,
    /// What is going on; an orchestrator sleeps engines by this.
    pub activity: Activity,
    /// How child processes are confined.
    pub sandbox: SandboxReport,
}

/// The overall word of [`Health`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum HealthStatus {
    /// Ready for /execute.
    Ok,
    /// Ready, but provider, connectors or embeddings have trouble.
    Degraded,
    /// Not ready yet.
    Starting,
    /// Shutting down.
    Draining,
    /// The schema differs; an operator must act.
    MigrationRequired,
    /// Another process holds the brain.
    BrainLocked,
    /// The brain cannot be written.
    Error,
}

impl HealthStatus {
    /// 200 only when the Engine can take turns.
    pub const fn http_status(self) -> u16 {
        match self {
            HealthStatus::Ok | HealthStatus::Degraded => 200,
            HealthStatus::Starting
            | HealthStatus::Draining
            | HealthStatus::MigrationRequired
            | HealthStatus::BrainLocked
            | HealthStatus::Error => 503,
        }
    }
}

/// ok or error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum SubsystemState {
    /// Works, or has not been tried.
    Ok,
    /// The last attempt failed.
    Error,
}

/// State of each subsystem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Subsystems {
    /// The brain.
    pub database: SubsystemState,
    /// The model provider, as of the last call.
    pub llm_provider: SubsystemState,
    /// Stored connector credentials.
    pub asset_directory: SubsystemState,
    /// The embedding provider, as of the last call.
    pub embeddings: SubsystemState,
}

/// What an Engine is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Activity {
    /// Queued, running and cancelling turns; paused ones do not count.
    pub in_flight_turns: u64,
    /// Open event streams.
    pub open_streams: u64,
    /// Last execute, answer, cancel, RPC or turn end; null at first.
    pub last_activity_at: Option<Timestamp>,
    /// The earliest thing the Engine must be awake for; null if none.
    pub next_scheduled_at: Option<Timestamp>,
}

/// How child processes are confined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct SandboxReport {
    /// required, best-effort or off.
    pub mode: String,
    /// The layers in force, e.g. landlock, seccomp, rlimits.
    pub layers: Vec<String>,
}

/// Body of POST /admin/rotate-key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct RotateKeyRequest {
    /// SHA-256 of the new key, 64 hex digits.
    pub new_key_hash: String,
    /// How long the old key stays valid; clamped to the configured window; default: its maximum.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlap_seconds: Option<i64>,
}

/// Answer of POST /admin/rotate-key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct RotateKeyResponse {
    /// Always `rotated`.
    pub status: String,
    /// After this instant the old key gets KEY_ROTATION_PENDING.
    pub old_key_valid_until: Timestamp,
}
