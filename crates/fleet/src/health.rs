//! What a probe says, what repeated probes add up to, and when to probe.
//!
//! It refuses to restart an engine for what is not the engine's fault: a degraded provider is health, and a sweep
//! that finds half the fleet dead is braked. The invariant: a body is read leniently, but only 2xx with a status of
//! `ok`, or `degraded` with a working database, is ever health.

use crate::lifecycle::FailureReason;
use crate::observation::{ObjectState, Observation};
use crate::operation::doubled;
use crate::restart::{later, since};
use contract::{EngineId, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;

/// Longest body read from `/health`. Longer would let one engine fill the prober's memory fifty times over;
/// shorter than a few KiB would cut reports with many subsystems.
pub const BODY_LIMIT: usize = 64 * 1024;

/// How one probe ended on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProbeOutcome {
    /// An answer; the body is at most [`BODY_LIMIT`] bytes.
    Answered {
        /// HTTP status.
        status: u16,
        /// Body as received.
        body: Vec<u8>,
    },
    /// No connection or no answer in time.
    TimedOut,
    /// Refused or reset.
    Refused,
    /// An answer that is not HTTP, ends early or is longer than [`BODY_LIMIT`].
    Unreadable,
}

/// What the Engine says it is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Activity {
    /// Queued, running and cancelling turns.
    pub in_flight_turns: u64,
    /// Open event streams.
    pub open_streams: u64,
    /// Last activity; null at first.
    pub last_activity_at: Option<Timestamp>,
    /// The earliest thing it must be awake for; null if none.
    pub next_scheduled_at: Option<Timestamp>,
}

/// What was read from the body. Everything but `status` may be absent in an older image.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HealthReport {
    /// The overall word.
    pub status: String,
    /// Word per subsystem.
    pub subsystems: BTreeMap<String, String>,
    /// Program version.
    pub version: Option<String>,
    /// Highest migration applied.
    pub schema_version: Option<i64>,
    /// What is going on; absent = never put to sleep by freezing or stopping.
    pub activity: Option<Activity>,
}

/// What one probe means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Serves.
    Healthy {
        /// What it said.
        report: HealthReport,
    },
    /// Serves, with trouble elsewhere. Never a failure.
    Degraded {
        /// What it said.
        report: HealthReport,
        /// Names of the subsystems in `error`.
        subsystems: Vec<String>,
    },
    /// Does not serve.
    Failed {
        /// Why.
        reason: FailureReason,
    },
}

impl Verdict {
    /// Serves: healthy or degraded.
    pub const fn serves(&self) -> bool {
        match self {
            Verdict::Healthy { .. } | Verdict::Degraded { .. } => true,
            Verdict::Failed { .. } => false,
        }
    }

    /// The word of audit and metrics.
    pub const fn word(&self) -> &'static str {
        match self {
            Verdict::Healthy { .. } => "healthy",
            Verdict::Degraded { .. } => "degraded",
            Verdict::Failed { .. } => "failed",
        }
    }

    /// What was read, when it serves.
    pub const fn report(&self) -> Option<&HealthReport> {
        match self {
            Verdict::Healthy { report } | Verdict::Degraded { report, .. } => Some(report),
            Verdict::Failed { .. } => None,
        }
    }
}

/// The verdict of one probe.
pub fn verdict(outcome: &ProbeOutcome) -> Verdict {
    let failed = |reason| Verdict::Failed { reason };
    let (status, body) = match outcome {
        ProbeOutcome::Answered { status, body } => (*status, body),
        ProbeOutcome::TimedOut => return failed(FailureReason::ProbeTimeout),
        ProbeOutcome::Refused => return failed(FailureReason::ProbeRefused),
        ProbeOutcome::Unreadable => return failed(FailureReason::ProbeStatus),
    };
    if body.len() > BODY_LIMIT {
        return failed(FailureReason::ProbeStatus);
    }
    let Some(report) = report(body) else { return failed(FailureReason::ProbeStatus) };
    match (status, report.status.as_str()) {
        (200..=299, "ok") => Verdict::Healthy { report },
        (200..=299, "degraded") if report.subsystems.get("database").is_none_or(|word| word != "error") => {
            let subsystems =
                report.subsystems.iter().filter(|(_, word)| *word == "error").map(|(name, _)| name.clone());
            Verdict::Degraded { subsystems: subsystems.collect(), report }
        }
        (503, "migration_required") => failed(FailureReason::MigrationRequired),
        (503, "brain_locked") => failed(FailureReason::BrainLocked),
        _ => failed(FailureReason::ProbeStatus),
    }
}

/// Reads the body; a field of an unexpected type counts as absent, a missing `status` as unreadable.
fn report(body: &[u8]) -> Option<HealthReport> {
    let value: Value = serde_json::from_slice(body).ok()?;
    let status = value.get("status")?.as_str()?.to_owned();
    let subsystems = value.get("subsystems").and_then(Value::as_object).map(|map| {
        map.iter().filter_map(|(name, word)| Some((name.clone(), word.as_str()?.to_owned()))).collect()
    });
    let activity = value.get("activity").and_then(|activity| {
        let time = |key: &str| activity.get(key).and_then(Value::as_str).map(Timestamp::parse);
        // A time that is there and does not parse must not read as "nothing planned".
        Some(Activity {
            in_flight_turns: activity.get("in_flight_turns")?.as_u64()?,
            open_streams: activity.get("open_streams")?.as_u64()?,
            last_activity_at: match time("last_activity_at") {
                Some(parsed) => Some(parsed?),
                None => None,
            },
            next_scheduled_at: match time("next_scheduled_at") {
                Some(parsed) => Some(parsed?),
                None => None,
            },
        })
    });
    Some(HealthReport {
        status,
        subsystems: subsystems.unwrap_or_default(),
        version: value.get("version").and_then(Value::as_str).map(str::to_owned),
        schema_version: value.get("schema_version").and_then(Value::as_i64),
        activity,
    })
}

/// What probes have added up to: the row of `engine_vitals`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Vitals {
    /// Last successful probe.
    pub last_health_at: Option<Timestamp>,
    /// Last probe of any outcome.
    pub last_probe_at: Option<Timestamp>,
    /// Failed probes in a row.
    pub health_failures: u32,
    /// Healthy probes in a row; shows an engine that flaps below the threshold.
    pub healthy_streak: u32,
    /// First healthy probe since the last failed one.
    pub healthy_since: Option<Timestamp>,
    /// Serves, and reports trouble.
    pub degraded: bool,
    /// Word per subsystem, as last read.
    pub subsystems: BTreeMap<String, String>,
    /// Program version, as last read.
    pub reported_version: Option<String>,
    /// Schema, as last read.
    pub schema_version: Option<i64>,
    /// Activity, as last read; `None` = the last healthy answer had none.
    pub activity: Option<Activity>,
    /// Restarts by the backend itself that are accounted for.
    pub backend_restarts: u32,
}

impl Vitals {
    /// Counts one probe.
    pub fn count(&mut self, verdict: &Verdict, now: Timestamp) {
        self.last_probe_at = Some(now);
        let Some(report) = verdict.report() else {
            self.health_failures = self.health_failures.saturating_add(1);
            self.healthy_streak = 0;
            self.healthy_since = None;
            return;
        };
        self.last_health_at = Some(now);
        self.health_failures = 0;
        self.healthy_streak = self.healthy_streak.saturating_add(1);
        self.healthy_since.get_or_insert(now);
        self.degraded = matches!(verdict, Verdict::Degraded { .. });
        self.subsystems.clone_from(&report.subsystems);
        self.reported_version.clone_from(&report.version);
        self.schema_version = report.schema_version;
        self.activity = report.activity;
    }

    /// True when so many probes failed in a row that the engine counts as failed.
    pub const fn exhausted(&self, max_failures: u32) -> bool {
        self.health_failures >= max_failures
    }

    /// Forgets failures (`start`, `stop`, upgrade): the next count begins at nothing.
    pub fn clear_failures(&mut self) {
        self.health_failures = 0;
        self.healthy_streak = 0;
        self.healthy_since = None;
    }

    /// Names of the subsystems in `error`, for `explain`.
    pub fn degraded_subsystems(&self) -> Vec<&str> {
        let broken = self.subsystems.iter().filter(|(_, word)| *word == "error");
        if self.degraded { broken.map(|(name, _)| name.as_str()).collect() } else { Vec::new() }
    }
}

/// Least number of verdicts the brake lets pass per interval. Lower would make a small fleet with two broken
/// engines wait; higher would let a network fault of the prober mark a small fleet as dead at once.
pub const BRAKE_MINIMUM: usize = 5;

/// How many engines the sweep may move to `failed` per interval: max(5, 10 % of the running ones).
pub const fn brake_allows(running: usize) -> usize {
    let tenth = running / 10;
    if tenth > BRAKE_MINIMUM { tenth } else { BRAKE_MINIMUM }
}

/// The failure brake over time: counts what the sweep moved in the present interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FailureBrake {
    began_at: Option<Timestamp>,
    moved: usize,
    active: bool,
}

impl FailureBrake {
    /// May one more engine be moved to `failed` now? A refusal keeps the engine's counters: it asks again at its
    /// next probe.
    pub fn allows(&mut self, running: usize, interval: Duration, now: Timestamp) -> bool {
        if self.began_at.is_none_or(|began| since(began, now) >= interval) {
            *self = Self { began_at: Some(now), moved: 0, active: false };
        }
        let allowed = self.moved < brake_allows(running);
        if allowed {
            self.moved += 1;
        } else {
            self.active = true;
        }
        allowed
    }

    /// The brake held something back in the interval of `now` (`bap_failure_brake_active`).
    pub fn is_active(&self, interval: Duration, now: Timestamp) -> bool {
        self.active && self.began_at.is_some_and(|began| since(began, now) < interval)
    }
}

/// When in each interval this engine is probed: hash of its id modulo the interval, so that a fleet spreads.
pub fn offset(engine: EngineId, interval: Duration) -> Duration {
    let span = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX);
    if span == 0 {
        return Duration::ZERO;
    }
    let bits = engine.uuid().as_u128();
    // Finaliser of splitmix64 over both halves: ids that differ in one bit land far apart.
    let mut x = (bits as u64) ^ ((bits >> 64) as u64).rotate_left(32);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    Duration::from_millis((x ^ (x >> 31)) % span)
}

/// First wait between two probes of a boot. Shorter would spin beside a booting process; longer would show in the
/// wake latency.
pub const BOOT_PROBE_FIRST: Duration = Duration::from_millis(5);
/// Wait the doubling ends at. Longer would add itself to every boot of about a second.
pub const BOOT_PROBE_FAST: Duration = Duration::from_millis(50);
/// Wait once a boot is slow anyway. Shorter would load a host on which many engines boot.
pub const BOOT_PROBE_SLOW: Duration = Duration::from_millis(250);
/// Age from which a boot counts as slow.
pub const BOOT_SLOW_AFTER: Duration = Duration::from_secs(5);
/// Deadline of one probe of a boot. The connect timeout is never the poll period: a slow network answers too.
pub const BOOT_PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// Wait before boot probe number `attempt` (from 0), `since_start` after the backend said "started".
pub fn boot_probe_delay(attempt: u32, since_start: Duration) -> Duration {
    if since_start >= BOOT_SLOW_AFTER {
        BOOT_PROBE_SLOW
    } else {
        doubled(BOOT_PROBE_FIRST, attempt, BOOT_PROBE_FAST)
    }
}

/// How a boot stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Boot {
    /// Healthy.
    Ready,
    /// Not yet; probe again.
    Waits,
    /// It will not become healthy.
    Failed {
        /// Why.
        reason: FailureReason,
    },
}

/// Judges a boot from the latest look at the object, the latest probe and the time since the backend reported
/// "started". An ended process and a brain of another schema end it at once; a process that the backend is about
/// to run again only when it ended with code 2 or 4, because anything else may yet come up before the deadline.
pub fn boot(
    object: Option<&Observation>,
    probe: Option<&Verdict>,
    started_at: Timestamp,
    now: Timestamp,
    timeout: Duration,
) -> Boot {
    match probe {
        Some(Verdict::Healthy { .. } | Verdict::Degraded { .. }) => return Boot::Ready,
        Some(Verdict::Failed { reason: reason @ FailureReason::MigrationRequired }) => {
            return Boot::Failed { reason: *reason };
        }
        Some(Verdict::Failed { .. }) | None => {}
    }
    match object {
        Some(Observation::Absent) => return Boot::Failed { reason: FailureReason::ObjectMissing },
        Some(Observation::Present(object)) => match object.state {
            ObjectState::Exited { code, oom, .. } => {
                return Boot::Failed { reason: FailureReason::of_exit(code, oom) };
            }
            ObjectState::Restarting { code: code @ Some(2 | 4) } => {
                return Boot::Failed { reason: FailureReason::of_exit(code, false) };
            }
            ObjectState::Restarting { .. }
            | ObjectState::Created
            | ObjectState::Running { .. }
            | ObjectState::Paused
            | ObjectState::Removing => {}
        },
        None => {}
    }
    if later(started_at, timeout) <= now {
        return Boot::Failed { reason: FailureReason::BootTimeout };
    }
    Boot::Waits
}
