//! The rows of the registry as the rest of the program sees them. Times come from the database clock.

use contract::{EngineId, InstanceId, OperationId, ProductId, ReplicaId, Slug, Timestamp, UserId};
use fleet::lifecycle::{BackendKind, Desired, FailureReason, SleepMode, Status};
use fleet::operation::{OperationKind, OperationStatus, Step};
use serde_json::Value;
use std::collections::BTreeMap;

/// This deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// Label of every backend object.
    pub id: InstanceId,
    /// Keys the spec hash; 32 bytes.
    pub spec_salt: Vec<u8>,
    /// Which daemon or cluster the engines are on, once known.
    pub backend_identity: Option<String>,
}

/// A product.
#[derive(Debug, Clone, PartialEq)]
pub struct Product {
    /// Its id.
    pub id: ProductId,
    /// Its short name; the `actor` of what it does.
    pub slug: Slug,
    /// For people.
    pub display_name: String,
    /// The policy document as stored; parse with `fleet::policy::Policy::parse`.
    pub policy: Value,
    /// Its key is dead and its engines are being removed.
    pub deleting: bool,
    /// End of the overlap of the previous platform key.
    pub previous_key_expires_at: Option<Timestamp>,
    /// First successful boots, ever.
    pub total_provisions: i64,
    /// Removals, ever.
    pub total_destroys: i64,
    /// When it was registered.
    pub created_at: Timestamp,
}

/// An engine key as stored: its hash, and the key sealed with the master key.
#[derive(Clone, PartialEq, Eq)]
pub struct SealedKey {
    /// Lower-case hex SHA-256 of the key.
    pub hash: String,
    /// Fernet token of the key.
    pub sealed: String,
}

impl std::fmt::Debug for SealedKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SealedKey([redacted])")
    }
}

/// One row of `engines`.
#[derive(Debug, Clone, PartialEq)]
pub struct Engine {
    /// Its id.
    pub id: EngineId,
    /// Whose.
    pub product_id: ProductId,
    /// For whom.
    pub user_id: UserId,
    /// Last confirmed status.
    pub status: Status,
    /// What it should be.
    pub desired: Desired,
    /// When `status` last changed.
    pub status_since: Timestamp,
    /// Grows with every change of this row.
    pub revision: i64,
    /// Writer generation.
    pub generation: i64,
    /// Where it runs.
    pub backend: BackendKind,
    /// Image in use.
    pub engine_version: String,
    /// Image of the next start.
    pub target_version: Option<String>,
    /// Host port.
    pub port: Option<u16>,
    /// The backend's name of the object.
    pub container_id: Option<String>,
    /// Hash of the specification the object was made from.
    pub spec_hash: Option<String>,
    /// The key.
    pub key: SealedKey,
    /// The key of a rotation under way.
    pub next_key: Option<SealedKey>,
    /// When the key was last rotated.
    pub key_rotated_at: Option<Timestamp>,
    /// Duration of the last boot; `None` = never booted, storage may still be created.
    pub boot_duration_ms: Option<i32>,
    /// How it sleeps.
    pub sleep_mode: Option<SleepMode>,
    /// When it must be awake for its own schedule.
    pub wake_at: Option<Timestamp>,
    /// Last lease taken.
    pub last_admit_at: Option<Timestamp>,
    /// The fence.
    pub admit_lease_until: Option<Timestamp>,
    /// Restarts since the last good stretch.
    pub restart_attempts: i32,
    /// The next one; `None` on a failed engine = given up.
    pub next_restart_at: Option<Timestamp>,
    /// Why it failed.
    pub failure_code: Option<FailureReason>,
    /// The same for people; at most 500 characters, no secrets.
    pub failure_message: Option<String>,
    /// When the row was made.
    pub created_at: Timestamp,
}

/// One row of `engine_vitals`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Vitals {
    /// Last successful probe.
    pub last_health_at: Option<Timestamp>,
    /// Last probe.
    pub last_probe_at: Option<Timestamp>,
    /// Consecutive failed probes.
    pub health_failures: i32,
    /// Consecutive healthy probes.
    pub healthy_streak: i32,
    /// Since when no probe failed.
    pub healthy_since: Option<Timestamp>,
    /// Serves, but a subsystem has trouble.
    pub degraded: bool,
    /// State per subsystem, as reported.
    pub subsystems: BTreeMap<String, String>,
    /// Version the engine reports.
    pub reported_version: Option<String>,
    /// Schema the engine reports.
    pub schema_version: Option<i32>,
    /// Turns at work.
    pub in_flight_turns: Option<i32>,
    /// Open streams.
    pub open_streams: Option<i32>,
    /// Last activity the engine reports.
    pub last_activity_at: Option<Timestamp>,
    /// The next thing it must be awake for.
    pub next_scheduled_at: Option<Timestamp>,
    /// Restarts by the backend itself, as last seen.
    pub backend_restarts: i32,
}

/// One row of `operations`.
#[derive(Debug, Clone, PartialEq)]
pub struct Operation {
    /// Its id.
    pub id: OperationId,
    /// On which engine.
    pub engine_id: EngineId,
    /// Whose.
    pub product_id: ProductId,
    /// For whom.
    pub user_id: UserId,
    /// What.
    pub kind: OperationKind,
    /// How far.
    pub status: OperationStatus,
    /// The step that was begun last.
    pub step: Step,
    /// Facts the steps need again after a crash.
    pub params: Value,
    /// Phase → milliseconds.
    pub timings: BTreeMap<String, u64>,
    /// Who works on it; `None` = anybody may claim it.
    pub owner: Option<ReplicaId>,
    /// The number under which the owner may write.
    pub claim: i64,
    /// Until when the claim holds.
    pub lease_until: Option<Timestamp>,
    /// How often it was claimed.
    pub attempt: i32,
    /// Not before.
    pub retry_at: Option<Timestamp>,
    /// On whose behalf: `system`, a product's slug, or `admin`.
    pub actor: String,
    /// The request that asked for it.
    pub request_id: Option<String>,
    /// Why it failed, or what it waits for: a `FleetCode` word.
    pub error_code: Option<String>,
    /// The same for people.
    pub error_message: Option<String>,
    /// When it was opened.
    pub started_at: Timestamp,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
}

/// An engine with everything a decision needs, from one statement.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// The row.
    pub engine: Engine,
    /// Its vitals.
    pub vitals: Vitals,
    /// Its open operation.
    pub operation: Option<Operation>,
    /// The database clock when this was read.
    pub now: Timestamp,
}

/// A row of the audit log to be written.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditEntry {
    /// When the action started; `None` = now, by the database clock.
    pub started_at: Option<Timestamp>,
    /// `None` for system-level rows.
    pub product_id: Option<ProductId>,
    /// The user, if it is about one.
    pub user_id: Option<UserId>,
    /// `None` for product-level rows.
    pub engine_id: Option<EngineId>,
    /// What happened.
    pub action: fleet::audit::AuditAction,
    /// `system`, a product's slug, or `admin`.
    pub actor: String,
    /// Facts; checked against the action's shape before they are written.
    pub metadata: Value,
    /// True: `duration_ms` = recording time − `started_at`.
    pub has_duration: bool,
}

/// A row of the audit log as read.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditRow {
    /// Grows with time.
    pub id: i64,
    /// When the action started.
    pub timestamp: Timestamp,
    /// Whose.
    pub product_id: Option<ProductId>,
    /// For whom.
    pub user_id: Option<String>,
    /// On which engine.
    pub engine_id: Option<EngineId>,
    /// What.
    pub action: String,
    /// By whom.
    pub actor: String,
    /// Facts.
    pub metadata: Value,
    /// How long it took.
    pub duration_ms: Option<i32>,
}
