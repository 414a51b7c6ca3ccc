//! What the orchestrator tells about itself: one function per event that matters, which writes its log line and
//! its metric together, so that neither can be forgotten.
//!
//! Names, labels and meanings are declared in [`catalog`]; a test refuses any other name in the sources.
//! Never told: keys, and users above DEBUG.
//!
//! The invariant: gauges that only the supervisor knows are taken back when it stops being one.

pub mod catalog;
mod outage;

use catalog as m;
use chassis::telemetry::{IdFields, Metrics};
use contract::{EngineId, OperationId, ProductId};
use fleet::lifecycle::{BackendKind, FailureReason, SleepMode, Status};
use fleet::operation::{OperationKind, OperationStatus};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Ids that stand on every log line (§14.1).
pub const LOG_IDS: IdFields = &["request_id", "operation_id"];

/// The registry of this process; installed at the first call.
pub fn registry() -> &'static Metrics {
    static REGISTRY: OnceLock<Metrics> = OnceLock::new();
    REGISTRY.get_or_init(|| {
        chassis::telemetry::install_metrics().expect("this is the only place that installs the registry")
    })
}

/// What runs.
pub fn build(version: &str, schema: u32) {
    m::BUILD_INFO.set([version, &schema.to_string()], 1.0);
}

/// The process waits for its database; said before anything else, so that alerts see one that never came.
pub fn no_database_yet() {
    m::HEALTH_OK.set([], 0.0);
    m::DB_UP.set([], 0.0);
}

/// How the process is, as `/health` says.
pub fn health(ok: bool, database: bool, backend: BackendKind, backend_ok: bool) {
    m::HEALTH_OK.set([], flag(ok));
    m::DB_UP.set([], flag(database));
    m::BACKEND_UP.set([backend.as_str()], flag(backend_ok));
}

/// Something was refused because the database is away: one line per [`outage::TOLD_AGAIN`], with how many there were.
pub fn database_away(error: &dyn fmt::Display) {
    static OUTAGE: Mutex<outage::Outage> = Mutex::new(outage::Outage::new());
    let told = OUTAGE.lock().unwrap_or_else(PoisonError::into_inner).refused(Instant::now());
    if let Some(refused) = told {
        tracing::warn!(%error, refused, "the database cannot be reached");
    }
}

/// The pool of the database.
pub fn pool(in_use: usize, size: usize) {
    m::DB_POOL_IN_USE.set([], in_use as f64);
    m::DB_POOL_SIZE.set([], size as f64);
}

/// One statement.
pub fn db_query(query: &str, took: Duration) {
    m::DB_QUERY.record([query], took.as_secs_f64());
}

/// A request's answer has been sent or given up.
pub fn request_ended(route: &str, method: &str, status: u16, code: &str, took: Duration) {
    m::HTTP_REQUESTS.add([route, method, &status.to_string(), code], 1);
    m::HTTP_DURATION.record([route], took.as_secs_f64());
}

/// An admit call was refused by the rate limit.
pub fn rate_limited(product: &str) {
    m::RATE_LIMITED.add([product], 1);
}

/// An admit call was answered: `admitted`, `provisioned`, `woken`, `joined`, a refusal reason or an error code.
pub fn admitted(product: &str, result: &str) {
    m::ADMISSIONS.add([product, result], 1);
}

/// How long an admit call was held, and for what: `none`, `provision`, `wake` or `join`.
pub fn admit_waited(kind: &str, took: Duration) {
    m::ADMIT_WAIT.record([kind], took.as_secs_f64());
}

/// Requests held on this replica.
pub fn waiters(held: usize) {
    m::WAITERS.set([], held as f64);
}

/// Starts at work on this replica.
pub fn start_permits(in_use: usize) {
    m::START_PERMITS.set([], in_use as f64);
}

/// Starts that wait for a permit.
pub fn start_queue(class: &str, depth: usize) {
    m::START_QUEUE.set([class], depth as f64);
}

/// A change of an engine's status.
#[derive(Debug, Clone, Copy)]
pub struct Transition<'a> {
    /// Which engine.
    pub engine: EngineId,
    /// Whose.
    pub product: ProductId,
    /// From; `None` for a new one.
    pub from: Option<Status>,
    /// To; `None` for a removed one.
    pub to: Option<Status>,
    /// The audit action that records it.
    pub action: &'a str,
    /// Why it failed, when it did.
    pub failure: Option<FailureReason>,
}

/// Tells a change of status, and counts it when it is a failure.
pub fn transition(change: Transition<'_>) {
    let (from, to) = (word(change.from), word(change.to));
    let reason = change.failure.map(FailureReason::as_str);
    tracing::info!(
        engine_id = %change.engine, product_id = %change.product, action = change.action, from, to, reason,
        "Engine is {to}, was {from}"
    );
    if let (Some(Status::Failed), Some(reason)) = (change.to, reason)
        && change.from != Some(Status::Failed)
    {
        m::FAILURES.add([reason], 1);
    }
}

fn word(status: Option<Status>) -> &'static str {
    status.map_or("absent", Status::as_str)
}

/// An operation ended.
pub fn operation_ended(kind: OperationKind, outcome: OperationStatus, took: Duration) {
    m::OPERATIONS.add([kind.as_str(), outcome.as_str()], 1);
    m::OPERATION_DURATION.record([kind.as_str()], took.as_secs_f64());
}

/// A step of an operation ended.
pub fn step_ended(operation: OperationId, engine: EngineId, kind: OperationKind, step: &str, took: Duration) {
    let duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    tracing::debug!(
        operation_id = %operation, engine_id = %engine, action = kind.as_str(), step, duration_ms,
        "Step {step} of {kind} ended"
    );
}

/// A measurable part of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Waiting for a permit.
    Queue,
    /// Making the image present.
    Pull,
    /// Making and starting the object.
    Create,
    /// From started to healthy.
    Boot,
    /// Ending the object.
    Stop,
    /// Copying the brain.
    Snapshot,
    /// Thawing.
    Thaw,
}

impl Phase {
    /// The label, and the key in `timings`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Phase::Queue => "queue",
            Phase::Pull => "pull",
            Phase::Create => "create",
            Phase::Boot => "boot",
            Phase::Stop => "stop",
            Phase::Snapshot => "snapshot",
            Phase::Thaw => "thaw",
        }
    }
}

/// A part of an operation took this long.
pub fn operation_phase(kind: OperationKind, phase: Phase, took: Duration) {
    m::OPERATION_PHASE.record([kind.as_str(), phase.as_str()], took.as_secs_f64());
    if phase == Phase::Boot {
        m::ENGINE_BOOT.record([], took.as_secs_f64());
    }
}

/// A wake cost this much beyond the engine's own boot.
pub fn wake_overhead(mode: SleepMode, took: Duration) {
    m::WAKE_OVERHEAD.record([mode.as_str()], took.as_secs_f64());
}

/// Operations not ended yet, by kind; kinds without any are told as 0.
pub fn open_operations(counts: &[(OperationKind, i64)], oldest_seconds: f64) {
    for kind in OperationKind::ALL {
        let open = counts.iter().find(|(k, _)| k == kind).map_or(0, |(_, n)| *n);
        m::OPERATIONS_OPEN.set([kind.as_str()], open as f64);
    }
    m::OPERATION_OLDEST.set([], oldest_seconds);
}

/// Who restarted an engine after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartedBy {
    /// We did.
    Orchestrator,
    /// Its backend did, by its own policy.
    Backend,
}

/// An engine was restarted after a failure.
pub fn restarted(by: RestartedBy) {
    let by = match by {
        RestartedBy::Orchestrator => "orchestrator",
        RestartedBy::Backend => "backend",
    };
    m::RESTARTS.add([by], 1);
}

/// An engine is not restarted any more: a person must look.
pub fn given_up(engine: EngineId, product: ProductId, attempts: i32, reason: &str) {
    m::GIVEN_UP.add([], 1);
    tracing::error!(
        engine_id = %engine, product_id = %product, attempts, reason,
        "Engine given up after {attempts} restarts; `explain` says why, `start` tries again"
    );
}

/// A probe was answered, or not.
pub fn probe(verdict: &str, took: Duration) {
    m::PROBES.add([verdict], 1);
    m::PROBE_DURATION.record([], took.as_secs_f64());
}

/// The brake on mass failures was pulled or released.
pub fn failure_brake(active: bool) {
    m::FAILURE_BRAKE.set([], flag(active));
}

/// Objects without a row, and whether their removal is held back.
pub fn orphans(count: usize, brake: bool) {
    m::ORPHANS.set([], count as f64);
    m::ORPHAN_BRAKE.set([], flag(brake));
}

/// Host ports.
pub fn ports(used: i64, total: i64) {
    m::PORTS_USED.set([], used as f64);
    m::PORTS_TOTAL.set([], total as f64);
}

/// A row was written to the audit log.
pub fn audit_row(action: &str) {
    m::AUDIT_ROWS.add([action], 1);
}

/// The audit log as it lies on disk.
pub fn audit_sizes(bytes: i64, default_rows: i64, unexported_partitions: i64) {
    m::AUDIT_BYTES.set([], bytes as f64);
    m::AUDIT_DEFAULT_ROWS.set([], default_rows as f64);
    m::AUDIT_UNEXPORTED.set([], unexported_partitions as f64);
}

/// A call of the backend ended. `outcome` is `ok` or the kind of its error.
pub fn backend_call(backend: BackendKind, call: &str, outcome: &str, took: Duration) {
    m::BACKEND_CALLS.add([backend.as_str(), call, outcome], 1);
    m::BACKEND_CALL_DURATION.record([backend.as_str(), call], took.as_secs_f64());
}

/// One round of a loop ended well.
pub fn loop_ran(name: &str, took: Duration) {
    m::LOOP_DURATION.record([name], took.as_secs_f64());
}

/// How late a round began.
pub fn loop_lag(name: &str, late: Duration) {
    m::LOOP_LAG.set([name], late.as_secs_f64());
}

/// One round of a loop failed; the next one tries again.
pub fn loop_failed(name: &'static str, error: &dyn fmt::Display) {
    m::LOOP_ERRORS.add([name], 1);
    tracing::warn!(name, error = %error, "A round of loop {name} failed");
}

/// What the supervisor alone knows about the fleet.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FleetGauges {
    /// Engines by status and product slug.
    pub by_status: BTreeMap<(Status, String), u64>,
    /// Engines by image and status.
    pub by_version: BTreeMap<(String, Status), u64>,
    /// Serving engines with trouble in a subsystem.
    pub degraded: u64,
    /// Engines whose object differs from what would be made now.
    pub drifted: u64,
    /// Failed engines that are not restarted any more.
    pub given_up: u64,
    /// Stored keys that no master key opens.
    pub keys_unreadable: u64,
}

/// Shows the fleet; pairs that no longer exist disappear.
pub fn fleet(gauges: &FleetGauges) {
    registry().forget_gauges(&[m::ENGINES.name(), m::ENGINES_BY_VERSION.name()]);
    for ((status, product), count) in &gauges.by_status {
        m::ENGINES.set([status.as_str(), product], *count as f64);
    }
    for ((version, status), count) in &gauges.by_version {
        m::ENGINES_BY_VERSION.set([version, status.as_str()], *count as f64);
    }
    m::ENGINES_DEGRADED.set([], gauges.degraded as f64);
    m::ENGINES_DRIFTED.set([], gauges.drifted as f64);
    m::ENGINES_GIVEN_UP.set([], gauges.given_up as f64);
    m::KEYS_UNREADABLE.set([], gauges.keys_unreadable as f64);
}

/// This replica took the supervisor lease.
pub fn supervisor_gained(epoch: i64) {
    m::SUPERVISOR.set([], 1.0);
    m::SUPERVISOR_CHANGES.add([], 1);
    tracing::info!(epoch, "This replica is the supervisor");
}

/// This replica is not the supervisor, or not any more: what only a supervisor knows is taken back.
pub fn supervisor_lost() {
    m::SUPERVISOR.set([], 0.0);
    registry().forget_gauges(&[
        m::ENGINES.name(),
        m::ENGINES_BY_VERSION.name(),
        m::ENGINES_DEGRADED.name(),
        m::ENGINES_DRIFTED.name(),
        m::ENGINES_GIVEN_UP.name(),
        m::KEYS_UNREADABLE.name(),
        m::OPERATIONS_OPEN.name(),
        m::OPERATION_OLDEST.name(),
        m::FAILURE_BRAKE.name(),
        m::ORPHAN_BRAKE.name(),
        m::ORPHANS.name(),
        m::PORTS_USED.name(),
        m::PORTS_TOTAL.name(),
        m::AUDIT_BYTES.name(),
        m::AUDIT_DEFAULT_ROWS.name(),
        m::AUDIT_UNEXPORTED.name(),
    ]);
}

/// Engines of a rollout by state; an empty list takes them back.
pub fn rollout(states: &[(&str, u64)]) {
    registry().forget_gauges(&[m::ROLLOUT_ENGINES.name()]);
    for (state, count) in states {
        m::ROLLOUT_ENGINES.set([state], *count as f64);
    }
}

/// Age of the last backup and of the last restore drill, where there is one.
pub fn backup_ages(backup: Option<Duration>, drill: Option<Duration>) {
    if let Some(age) = backup {
        m::BACKUP_AGE.set([], age.as_secs_f64());
    }
    if let Some(age) = drill {
        m::DRILL_AGE.set([], age.as_secs_f64());
    }
}

const fn flag(on: bool) -> f64 {
    if on { 1.0 } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_a_supervisor_knows_is_taken_back_and_vanished_pairs_disappear() {
        let mut gauges = FleetGauges { degraded: 2, ..FleetGauges::default() };
        gauges.by_status.insert((Status::Running, "telemetry-a".into()), 3);
        let text = || registry().render();
        supervisor_gained(1);
        fleet(&gauges);
        assert!(text().contains("bap_engines{status=\"running\",product=\"telemetry-a\"} 3\n"), "{}", text());
        gauges.by_status.clear();
        fleet(&gauges);
        assert!(!text().contains("telemetry-a"));
        assert!(text().contains("bap_engines_degraded 2\n") && text().contains("bap_supervisor 1\n"));
        orphans(3, true);
        supervisor_lost();
        // An alert takes the maximum over replicas: what a deposed one remembers would never end it.
        assert!(!text().contains("bap_orphan_brake_active"));
        assert!(!text().contains("bap_engines_degraded") && text().contains("bap_supervisor 0\n"));
    }

    #[test]
    fn only_the_entry_into_failed_counts_as_a_failure() {
        let change = |from, failure| {
            transition(Transition {
                engine: EngineId::generate(),
                product: ProductId::generate(),
                from,
                to: Some(Status::Failed),
                action: "health_failed",
                failure: Some(failure),
            });
        };
        registry();
        change(Some(Status::Running), FailureReason::RollbackFailed);
        change(Some(Status::Failed), FailureReason::RollbackFailed);
        assert!(registry().render().contains("bap_engine_failures_total{reason=\"rollback_failed\"} 1\n"));
    }
}
