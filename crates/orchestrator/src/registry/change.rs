//! Changes as data: what a decision wants written, in one transaction, under which guards.

use super::rows::{AuditEntry, Engine, Operation, SealedKey};
use contract::{EngineId, OperationId, ProductId, ReplicaId, Timestamp, UserId};
use fleet::lifecycle::{BackendKind, Desired, FailureReason, SleepMode, Status};
use fleet::operation::{OperationKind, Step};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;

/// Columns of an engine's row to change; `None` leaves a column alone. Every applied patch adds 1 to `revision`,
/// sets `updated_at`, and `status_since` when the status changes or a boot ended.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EnginePatch {
    /// New status.
    pub status: Option<Status>,
    /// New intent.
    pub desired: Option<Desired>,
    /// New writer generation.
    pub generation: Option<i64>,
    /// Image in use.
    pub engine_version: Option<String>,
    /// Image of the next start.
    pub target_version: Option<Option<String>>,
    /// The backend's name of the object.
    pub container_id: Option<Option<String>>,
    /// Hash of the specification.
    pub spec_hash: Option<Option<String>>,
    /// The key of a rotation under way.
    pub next_key: Option<Option<SealedKey>>,
    /// True: the next key becomes the key, `key_rotated_at` = now.
    pub promote_next_key: bool,
    /// Duration of the boot.
    pub boot_duration_ms: Option<i32>,
    /// How it sleeps.
    pub sleep_mode: Option<Option<SleepMode>>,
    /// When it must be awake.
    pub wake_at: Option<Option<Timestamp>>,
    /// Restarts since the last good stretch.
    pub restart_attempts: Option<i32>,
    /// The next restart, from now by the database clock; `Some(None)` clears it.
    pub next_restart_in: Option<Option<Duration>>,
    /// Why it failed; `Some(None)` clears code and message.
    pub failure: Option<Option<(FailureReason, String)>>,
    /// True: `health_failures`, `healthy_streak` to 0 and `healthy_since` to null in the vitals row, too.
    pub reset_vitals: bool,
}

/// The first writing of an engine: quota, port, key, operation, in one transaction.
#[derive(Debug, Clone)]
pub struct Reserve {
    /// Drawn by the program.
    pub engine_id: EngineId,
    /// Whose.
    pub product_id: ProductId,
    /// For whom.
    pub user_id: UserId,
    /// Where it will run.
    pub backend: BackendKind,
    /// Image.
    pub engine_version: String,
    /// Its key.
    pub key: SealedKey,
    /// Inclusive range of host ports; `None` where the backend has none.
    pub ports: Option<(u16, u16)>,
    /// The operation to open (kind `provision`, step `pull`).
    pub operation: NewOperation,
    /// `Idempotency-Key` and the hash of the request body.
    pub idempotency: Option<(String, String)>,
}

/// An operation to open.
#[derive(Debug, Clone)]
pub struct NewOperation {
    /// Drawn by the program.
    pub id: OperationId,
    /// What.
    pub kind: OperationKind,
    /// First step.
    pub step: Step,
    /// Facts the steps need.
    pub params: Value,
    /// On whose behalf.
    pub actor: String,
    /// The request that asked.
    pub request_id: Option<String>,
    /// `Some`: owned at once by this replica under claim 1, lease as given; `None`: anybody may claim it.
    pub owner: Option<(ReplicaId, Duration)>,
}

/// What became of a reservation.
#[derive(Debug, Clone)]
pub enum ReserveOutcome {
    /// The row exists.
    Reserved(Box<(Engine, Operation)>),
    /// The product has an engine for this user (any state).
    AlreadyExists,
    /// The idempotency key is bound to this engine, with the same body.
    Replayed(EngineId),
    /// The idempotency key is bound with another body.
    OtherBody,
    /// At the limit.
    QuotaExceeded(i64),
    /// No free port.
    NoPort,
    /// The product is gone or being deleted.
    ProductGone,
}

/// Opening an operation on an engine that exists, with a change of intent.
#[derive(Debug, Clone)]
pub struct Open {
    /// On which engine.
    pub engine_id: EngineId,
    /// The revision the decision was made on; another one changes nothing.
    pub revision: i64,
    /// What to change with it.
    pub patch: EnginePatch,
    /// The operation.
    pub operation: NewOperation,
    /// The open operation it takes the place of; the old one keeps its `lease_until` for `settle`.
    pub supersede: Option<OperationId>,
    /// `Some(t0)`: passes only without an admit lease that reaches past t0 − 2 s (§6.4).
    pub fence: Option<Timestamp>,
    /// `Some(kind)`: passes only on an engine of this backend. `None` for what asks nothing of a backend itself.
    pub backend: Option<BackendKind>,
    /// Rows for the log (opening rows of `restart`).
    pub audit: Vec<AuditEntry>,
}

/// What became of an opening.
#[derive(Debug, Clone)]
pub enum OpenOutcome {
    /// It is open.
    Opened(Box<(Engine, Operation)>),
    /// The row changed, another operation is open, or the fence did not pass: read again.
    Unchanged,
    /// The engine lives on this other backend; nothing was changed.
    OtherBackend(BackendKind),
    /// There is no such engine.
    Missing,
}

/// The end of an operation.
#[derive(Debug, Clone)]
pub struct Finish {
    /// Which.
    pub operation: OperationId,
    /// Under which claim.
    pub claim: i64,
    /// True: `succeeded`.
    pub succeeded: bool,
    /// Why it failed: a `FleetCode` word and a sentence.
    pub error: Option<(String, String)>,
    /// Facts for those who wait (merged into `params`).
    pub params: Option<Value>,
    /// Phase → milliseconds.
    pub timings: BTreeMap<String, u64>,
    /// The engine.
    pub engine_id: EngineId,
    /// The revision the decision was made on.
    pub revision: i64,
    /// What to change.
    pub patch: EnginePatch,
    /// True: delete the engine's row instead (`patch` is ignored).
    pub delete_engine: bool,
    /// Add 1 to `products.total_provisions`.
    pub count_provision: bool,
    /// Add 1 to `products.total_destroys`.
    pub count_destroy: bool,
    /// Rows for the log.
    pub audit: Vec<AuditEntry>,
}

/// What became of a guarded change.
#[derive(Debug, Clone)]
pub enum Outcome<T> {
    /// Written.
    Changed(T),
    /// A guard did not hold (claim lost, revision moved on): read again.
    Unchanged,
    /// There is no such row.
    Missing,
}

/// A change of an engine's row outside any operation (crash, recovery, adoption), with its rows for the log.
#[derive(Debug, Clone)]
pub struct Change {
    /// Which engine.
    pub engine_id: EngineId,
    /// The revision the decision was made on.
    pub revision: i64,
    /// True: passes only while no operation is open.
    pub only_without_operation: bool,
    /// What to change.
    pub patch: EnginePatch,
    /// Rows for the log.
    pub audit: Vec<AuditEntry>,
}
