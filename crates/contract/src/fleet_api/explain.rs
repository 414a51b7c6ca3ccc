//! The answer of `explain`: why an engine is as it is.
//!
//! Words and times only; it never carries a key or a text of the engine.

use crate::{EngineId, Timestamp, UserId};
use serde::{Deserialize, Serialize};

/// Answer of GET /engines/{user_id}/explain: why the engine is as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ExplainResponse {
    /// Its id.
    pub engine_id: EngineId,
    /// For whom.
    pub user_id: UserId,
    /// Last confirmed status.
    pub status: String,
    /// What it should be: running, sleeping, stopped or destroyed.
    pub desired: String,
    /// When `status` last changed.
    pub status_since: Timestamp,
    /// Kind of the open operation.
    pub operation: Option<String>,
    /// One sentence.
    pub summary: String,
    /// The last 20 rows of the log about it, newest first.
    pub reasons: Vec<ExplainReason>,
    /// Probes and restarts.
    pub health: ExplainHealth,
    /// Why it does or does not go to sleep.
    pub sleep: ExplainSleep,
    /// What the backend shows.
    pub backend: ExplainBackend,
    /// What admit would answer.
    pub admission: ExplainAdmission,
}

/// One clause of an explanation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ExplainReason {
    /// When it happened.
    pub at: Timestamp,
    /// Action of the audit row.
    pub what: String,
    /// Its reason, when the row has one.
    pub because: Option<String>,
    /// The row.
    pub audit_id: i64,
}

/// Probes and restarts of an engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ExplainHealth {
    /// Consecutive failed probes.
    pub failures: i64,
    /// Consecutive healthy probes.
    pub healthy_streak: i64,
    /// Last successful probe.
    pub last_health_at: Option<Timestamp>,
    /// Subsystems that report trouble.
    pub degraded_subsystems: Vec<String>,
    /// Restarts since the last good stretch.
    pub restart_attempts: i64,
    /// After that many it is given up.
    pub restart_max_attempts: i64,
    /// The next one; null when none is due.
    pub next_restart_at: Option<Timestamp>,
}

/// Sleep of an engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ExplainSleep {
    /// Idle time before sleep; 0 = never.
    pub idle_after_s: u64,
    /// Since when it is idle; null when it is not, or not running.
    pub idle_since: Option<Timestamp>,
    /// What keeps it from sleeping.
    pub blocked_by: Vec<String>,
    /// When it must be awake for its own schedule.
    pub wake_at: Option<Timestamp>,
}

/// The backend object of an engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ExplainBackend {
    /// docker, subprocess, kubernetes or simulated.
    pub kind: String,
    /// Name of the object.
    pub object: String,
    /// What was last seen; null when nothing was.
    pub observed: Option<String>,
    /// When that was.
    pub observed_at: Option<Timestamp>,
    /// Writer generation on record.
    pub generation: i64,
    /// Fields in which the object differs from what would be made now.
    pub drift: Vec<String>,
}

/// What admit would answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ExplainAdmission {
    /// True: admitted without provisioning or waking.
    pub would_admit: bool,
    /// Why not.
    pub reason: Option<String>,
}
