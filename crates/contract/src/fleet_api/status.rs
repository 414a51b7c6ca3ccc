//! Answers about the whole: a product's fleet in numbers, and how the orchestrator itself is.
//!
//! Counts and words only; nothing here names an engine or a user.

use serde::{Deserialize, Serialize};

/// Engines per status.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct StatusCounts {
    /// A boot is in progress.
    pub provisioning: i64,
    /// Serving.
    pub running: i64,
    /// Asleep.
    pub sleeping: i64,
    /// Stopped by hand.
    pub stopped: i64,
    /// Not serving.
    pub failed: i64,
    /// Being removed.
    pub destroying: i64,
}

/// How a product's fleet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum FleetHealth {
    /// No engine failed.
    Ok,
    /// Some failed.
    Degraded,
    /// At least a quarter, and at least two.
    Critical,
}

/// Answer of GET /status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct StatusResponse {
    /// All engines.
    pub total: i64,
    /// The same by status.
    pub by_status: StatusCounts,
    /// In one word.
    pub health: FleetHealth,
    /// Failed ones.
    pub unhealthy_count: i64,
    /// Serving ones with trouble in a subsystem.
    pub degraded_count: i64,
}

/// Answer of GET /metrics.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct MetricsResponse {
    /// First boots of the last hour.
    pub provisions_1h: i64,
    /// Engines that became failed in the last hour.
    pub crashes_1h: i64,
    /// Automatic restarts of the last hour.
    pub restarts_1h: i64,
    /// Mean of the last 100 first boots; null before the first.
    pub avg_boot_ms: Option<i64>,
    /// First boots, ever.
    pub total_provisions: i64,
    /// Removals, ever.
    pub total_destroys: i64,
}

/// How the orchestrator is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum HealthWord {
    /// Everything works.
    Ok,
    /// It answers; the backend or the supervisor does not.
    Degraded,
    /// Booting or migrating.
    Starting,
    /// Going down.
    Draining,
    /// The database cannot be reached.
    Error,
}

/// How one part of it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum PartState {
    /// It works.
    Ok,
    /// It does not.
    Error,
}

/// The parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct HealthParts {
    /// Postgres answers and its schema is the program's.
    pub database: PartState,
    /// The backend answers.
    pub backend: PartState,
    /// Some replica holds the supervisor lease.
    pub supervisor: PartState,
}

/// Answer of GET /health: exactly `{"status":"ok"}` when all is well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct HealthResponse {
    /// In one word.
    pub status: HealthWord,
    /// Absent when the word is `ok`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subsystems: Option<HealthParts>,
}
