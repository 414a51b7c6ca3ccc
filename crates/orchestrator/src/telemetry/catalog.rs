//! Every metric of the orchestrator, declared once: name, type, labels, meaning.
//!
//! The reference page, the test over dashboards and alerts, and the functions that emit are all made from this
//! list. A value is written through its declaration, so a wrong number of labels does not compile.

use crate::reference::REGENERATE;
use metrics::{Key, Label, Level, Metadata, Recorder};
use std::fmt::Write as _;

/// What a metric is to Prometheus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts values by size.
    Histogram,
}

impl MetricKind {
    /// The word of the Prometheus text.
    pub const fn as_str(self) -> &'static str {
        match self {
            MetricKind::Counter => "counter",
            MetricKind::Gauge => "gauge",
            MetricKind::Histogram => "histogram",
        }
    }
}

/// A declared metric, for the reference.
#[derive(Debug, Clone, Copy)]
pub struct Declared {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub kind: MetricKind,
    /// Its labels, in order.
    pub labels: &'static [&'static str],
    /// What it tells.
    pub meaning: &'static str,
}

/// A counter with `N` labels.
pub(super) struct Counter<const N: usize>(&'static str, [&'static str; N]);
/// A gauge with `N` labels.
pub(super) struct Gauge<const N: usize>(&'static str, [&'static str; N]);
/// A histogram with `N` labels.
pub(super) struct Histogram<const N: usize>(&'static str, [&'static str; N]);

static METADATA: Metadata<'static> = Metadata::new("orchestrator", Level::INFO, None);

fn key<const N: usize>(name: &'static str, labels: &[&'static str; N], values: [&str; N]) -> Key {
    let labels: Vec<Label> =
        labels.iter().zip(values).map(|(label, value)| Label::new(*label, value.to_owned())).collect();
    Key::from_parts(name, labels)
}

/// What is written before anybody asked for the text must be in it, too.
fn written(write: impl FnOnce(&dyn Recorder)) {
    super::registry();
    metrics::with_recorder(write);
}

impl<const N: usize> Counter<N> {
    pub(super) fn add(&self, values: [&str; N], by: u64) {
        let key = key(self.0, &self.1, values);
        written(|r| r.register_counter(&key, &METADATA).increment(by));
    }
}

impl<const N: usize> Gauge<N> {
    pub(super) const fn name(&self) -> &'static str {
        self.0
    }

    pub(super) fn set(&self, values: [&str; N], value: f64) {
        let key = key(self.0, &self.1, values);
        written(|r| r.register_gauge(&key, &METADATA).set(value));
    }
}

impl<const N: usize> Histogram<N> {
    pub(super) fn record(&self, values: [&str; N], value: f64) {
        let key = key(self.0, &self.1, values);
        written(|r| r.register_histogram(&key, &METADATA).record(value));
    }
}

macro_rules! declared {
    ($($konst:ident = $kind:ident $name:literal [$($label:literal),*] $meaning:literal;)*) => {
        $(pub(super) const $konst: $kind<{ <[&str]>::len(&[$($label),*]) }> = $kind($name, [$($label),*]);)*

        /// Every metric, in the order of the reference.
        pub const METRICS: &[Declared] = &[
            $(Declared { name: $name, kind: MetricKind::$kind, labels: &[$($label),*], meaning: $meaning },)*
        ];
    };
}

declared! {
    BUILD_INFO = Gauge "bap_build_info" ["version", "schema"] "Always 1; the labels say what runs.";
    HEALTH_OK = Gauge "bap_health_ok" [] "1 while `GET /health` answers `ok`.";
    DB_UP = Gauge "bap_db_up" [] "1 while Postgres answers.";
    BACKEND_UP = Gauge "bap_backend_up" ["backend"] "1 while the backend answers.";
    SUPERVISOR = Gauge "bap_supervisor" [] "1 on the replica that holds the supervisor lease.";
    HTTP_REQUESTS = Counter "bap_http_requests_total" ["route", "method", "status", "code"] "Requests answered; `code` is empty for a success.";
    HTTP_DURATION = Histogram "bap_http_request_duration_seconds" ["route"] "Time to the end of the answer, waiting for engines included.";
    ADMISSIONS = Counter "bap_admissions_total" ["product", "result"] "Admit calls: `admitted`, `provisioned`, `woken`, `joined`, a refusal reason or an error code.";
    ADMIT_WAIT = Histogram "bap_admit_wait_seconds" ["kind"] "How long an admit call was held: `none`, `provision`, `wake`, `join`.";
    WAITERS = Gauge "bap_waiters" [] "Requests held for an engine on this replica.";
    START_PERMITS = Gauge "bap_start_permits_in_use" [] "Starts at work on this replica.";
    START_QUEUE = Gauge "bap_start_queue_depth" ["class"] "Starts that wait for a permit on this replica.";
    ENGINES = Gauge "bap_engines" ["status", "product"] "Engines; supervisor only.";
    ENGINES_BY_VERSION = Gauge "bap_engines_by_version" ["engine_version", "status"] "Engines by image; supervisor only.";
    ENGINES_DEGRADED = Gauge "bap_engines_degraded" [] "Serving engines with trouble in a subsystem; supervisor only.";
    ENGINES_DRIFTED = Gauge "bap_engines_drifted" [] "Engines whose object differs from what would be made now; supervisor only.";
    ENGINES_GIVEN_UP = Gauge "bap_engines_given_up" [] "Failed engines that are not restarted any more; supervisor only.";
    KEYS_UNREADABLE = Gauge "bap_engine_keys_unreadable" [] "Stored engine keys that no master key opens; supervisor only.";
    OPERATIONS = Counter "bap_operations_total" ["kind", "outcome"] "Operations ended: `succeeded`, `failed`, `superseded`.";
    OPERATION_DURATION = Histogram "bap_operation_duration_seconds" ["kind"] "From opening to end.";
    OPERATIONS_OPEN = Gauge "bap_operations_open" ["kind"] "Operations not ended yet.";
    OPERATION_OLDEST = Gauge "bap_operation_oldest_seconds" [] "Age of the oldest open operation.";
    OPERATION_PHASE = Histogram "bap_operation_phase_seconds" ["kind", "phase"] "Parts of operations: `queue`, `pull`, `create`, `boot`, `stop`, `snapshot`, `thaw`.";
    ENGINE_BOOT = Histogram "bap_engine_boot_seconds" [] "From started to healthy.";
    WAKE_OVERHEAD = Histogram "bap_wake_overhead_seconds" ["mode"] "What a wake costs beyond the engine's own boot: `freeze`, `stop`, `label`.";
    RESTARTS = Counter "bap_engine_restarts_total" ["by"] "Restarts after a failure, by `orchestrator` or `backend`.";
    FAILURES = Counter "bap_engine_failures_total" ["reason"] "Engines that became failed.";
    GIVEN_UP = Counter "bap_restarts_given_up_total" [] "Engines given up after their last restart.";
    PROBES = Counter "bap_probes_total" ["verdict"] "Probes of engines.";
    PROBE_DURATION = Histogram "bap_probe_duration_seconds" [] "How long a probe took.";
    FAILURE_BRAKE = Gauge "bap_failure_brake_active" [] "1 while mass failures are held back.";
    ORPHAN_BRAKE = Gauge "bap_orphan_brake_active" [] "1 while mass removal of orphans is held back.";
    ORPHANS = Gauge "bap_orphans" [] "Backend objects without a row.";
    PORTS_USED = Gauge "bap_ports_used" [] "Host ports in use or in quarantine.";
    PORTS_TOTAL = Gauge "bap_ports_total" [] "Host ports in the range.";
    AUDIT_ROWS = Counter "bap_audit_rows_total" ["action"] "Audit rows written by this replica.";
    AUDIT_BYTES = Gauge "bap_audit_log_bytes" [] "Size of the audit log.";
    AUDIT_DEFAULT_ROWS = Gauge "bap_audit_default_rows" [] "Rows in the partition that must stay empty.";
    AUDIT_UNEXPORTED = Gauge "bap_audit_unexported_partitions" [] "Past months that were not exported.";
    DB_QUERY = Histogram "bap_db_query_duration_seconds" ["query"] "Statements, by name.";
    DB_POOL_IN_USE = Gauge "bap_db_pool_in_use" [] "Connections at work.";
    DB_POOL_SIZE = Gauge "bap_db_pool_size" [] "Connections open.";
    BACKEND_CALLS = Counter "bap_backend_calls_total" ["backend", "call", "outcome"] "Calls of the backend.";
    BACKEND_CALL_DURATION = Histogram "bap_backend_call_duration_seconds" ["backend", "call"] "How long they took.";
    LOOP_DURATION = Histogram "bap_loop_duration_seconds" ["loop"] "One round of a loop.";
    LOOP_LAG = Gauge "bap_loop_lag_seconds" ["loop"] "How late the last round began.";
    LOOP_ERRORS = Counter "bap_loop_errors_total" ["loop"] "Rounds that failed.";
    SUPERVISOR_CHANGES = Counter "bap_supervisor_changes_total" [] "Times this replica became supervisor.";
    RATE_LIMITED = Counter "bap_rate_limited_total" ["product"] "Admit calls refused by the rate limit.";
    ROLLOUT_ENGINES = Gauge "bap_rollout_engines" ["state"] "Engines of a rollout; absent while there is none.";
    BACKUP_AGE = Gauge "bap_backup_age_seconds" [] "Age of the last backup; absent before the first.";
    DRILL_AGE = Gauge "bap_restore_drill_age_seconds" [] "Age of the last restore drill; absent before the first.";
}

/// The reference page, `docs/reference/orchestrator-metrics.md`.
pub fn reference() -> String {
    let mut page = format!(
        "# Metrics of the orchestrator\n\nGenerated from `crates/orchestrator/src/telemetry/catalog.rs`; a test compares. \
         To change it, change the declaration and run\n`{REGENERATE}`.\n\n\
         `GET /metrics` on the internal listener (`ORCH_INTERNAL_BIND`) answers in the Prometheus text format. Besides \
         these it has the usual `process_*` gauges. Gauges marked \"supervisor only\" are absent on other replicas, so \
         `max` over replicas is right.\n\n| Name | Type | Labels | Meaning |\n|---|---|---|---|\n"
    );
    for metric in METRICS {
        let labels: Vec<String> = metric.labels.iter().map(|l| format!("`{l}`")).collect();
        let labels = if labels.is_empty() { "–".to_owned() } else { labels.join(", ") };
        let _ = writeln!(
            page,
            "| `{}` | {} | {labels} | {} |",
            metric.name,
            metric.kind.as_str(),
            metric.meaning
        );
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_metric_has_one_name_with_our_prefix_and_its_type_in_the_ending() {
        let mut seen = BTreeSet::new();
        for metric in METRICS {
            assert!(seen.insert(metric.name), "{} twice", metric.name);
            assert!(metric.name.starts_with("bap_"), "{}", metric.name);
            assert_eq!(metric.name.ends_with("_total"), total(metric), "{}", metric.name);
            assert!(metric.meaning.ends_with('.'), "{}", metric.name);
        }
    }

    fn total(metric: &Declared) -> bool {
        // the one gauge that counts something whole, not something that happens
        metric.kind == MetricKind::Counter || metric.name == "bap_ports_total"
    }
}
