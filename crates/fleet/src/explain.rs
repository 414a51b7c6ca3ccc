//! One clause for people: why an engine is as it is (`explain`, §3.4 endpoint 10).
//!
//! It refuses to speak of anything but states, counts and times: no secret, no log text. The invariant: the same
//! facts give the same words.

use crate::audit::AuditAction;
use crate::health::Vitals;
use crate::lifecycle::{Desired, FailureReason, SleepMode, Status};
use crate::operation::OperationKind;
use crate::request::{Answer, Meeting, Reason, Request, Standing, meet};
use contract::Timestamp;
use serde_json::Value;

/// What the summary speaks of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Explained<'a> {
    /// What was last confirmed.
    pub status: Status,
    /// Since when.
    pub status_since: Timestamp,
    /// What it should be.
    pub desired: Desired,
    /// The open operation.
    pub open: Option<OperationKind>,
    /// Why it failed.
    pub failure: Option<FailureReason>,
    /// What probes added up to.
    pub vitals: &'a Vitals,
    /// Restarts made.
    pub restart_attempts: u32,
    /// Restarts allowed.
    pub restart_max_attempts: u32,
    /// The next restart.
    pub next_restart_at: Option<Timestamp>,
    /// How it sleeps.
    pub sleep_mode: Option<SleepMode>,
    /// When it must be awake.
    pub wake_at: Option<Timestamp>,
    /// The backend answers.
    pub backend_answers: bool,
}

/// The summary, e.g. `failed since 10:00:11: three probes timed out; restart 3 of 8 is due at 10:00:31`.
pub fn summary(facts: &Explained<'_>) -> String {
    let mut text = format!("{} since {}", facts.status, clock(facts.status_since));
    match facts.status {
        Status::Provisioning => text.push_str(": the boot is in progress"),
        Status::Running if facts.vitals.degraded => {
            let broken = facts.vitals.degraded_subsystems();
            let broken = if broken.is_empty() { "a subsystem".to_owned() } else { broken.join(", ") };
            text.push_str(&format!(": serving, with trouble in {broken}"));
        }
        Status::Running if facts.vitals.health_failures > 0 => {
            let probes = count(facts.vitals.health_failures, "probe");
            text.push_str(&format!(": serving, but the last {probes} failed"));
        }
        Status::Running => text.push_str(": serving"),
        Status::Sleeping => {
            text.push_str(match facts.sleep_mode {
                Some(SleepMode::Freeze) => ": frozen for lack of use",
                Some(SleepMode::Stop) => ": its process is stopped for lack of use",
                Some(SleepMode::Label) | None => ": asleep for lack of use",
            });
            if let Some(at) = facts.wake_at {
                text.push_str(&format!("; wakes at {} for planned work", clock(at)));
            }
        }
        Status::Stopped => text.push_str(": stopped by hand; only start brings it back"),
        Status::Failed => {
            if let Some(reason) = facts.failure {
                text.push_str(&format!(": {}", failure(reason, facts.vitals.health_failures)));
            }
            text.push_str("; ");
            text.push_str(&match facts.next_restart_at {
                Some(at) => format!(
                    "restart {} of {} is due at {}",
                    facts.restart_attempts.saturating_add(1),
                    facts.restart_max_attempts,
                    clock(at)
                ),
                None if facts.open == Some(OperationKind::Restart) => {
                    format!("restart {} of {} is running", facts.restart_attempts, facts.restart_max_attempts)
                }
                None if facts.failure.is_some_and(|reason| !reason.restartable()) => {
                    "restarting cannot help; only start brings it back".to_owned()
                }
                None => format!("given up after {}", count(facts.restart_attempts, "restart")),
            });
        }
        Status::Destroying => text.push_str(": being removed"),
    }
    match (facts.status, facts.desired) {
        (Status::Running, Desired::Sleeping) => text.push_str("; going to sleep"),
        (Status::Sleeping, Desired::Running) => text.push_str("; waking"),
        (Status::Stopped, Desired::Running) => text.push_str("; starting"),
        (Status::Provisioning | Status::Running | Status::Sleeping | Status::Failed, Desired::Stopped) => {
            text.push_str("; stopping");
        }
        _ => {}
    }
    if !facts.backend_answers {
        text.push_str("; the backend does not answer, nothing is changed until it does");
    }
    text
}

/// A failure in words.
pub fn failure(reason: FailureReason, failures: u32) -> String {
    let probes = |verb: &str| match failures {
        0 => format!("probes {verb}"),
        _ => format!("{} {verb}", count(failures, "probe")),
    };
    match reason {
        FailureReason::BootTimeout => "it was not healthy before the boot deadline".to_owned(),
        FailureReason::BackendError => "the backend failed a call".to_owned(),
        FailureReason::ProbeTimeout => probes("timed out"),
        FailureReason::ProbeRefused => probes(if failures == 1 { "was refused" } else { "were refused" }),
        FailureReason::ProbeStatus => probes("found it not healthy"),
        FailureReason::Crashed => "its process ended by itself".to_owned(),
        FailureReason::OomKilled => "its process was killed for lack of memory".to_owned(),
        FailureReason::ObjectMissing => "its object is gone".to_owned(),
        FailureReason::StorageMissing => "its brain is gone".to_owned(),
        FailureReason::ConfigRefused => "it refused its configuration (exit code 2)".to_owned(),
        FailureReason::BrainRefused => "it refused its brain (exit code 4)".to_owned(),
        FailureReason::MigrationRequired => "its brain has another schema and needs a migration".to_owned(),
        FailureReason::BrainLocked => "another process holds its brain".to_owned(),
        FailureReason::RollbackFailed => "neither the new nor the old version boots".to_owned(),
    }
}

/// What an audit row is because of, as `reasons[].because` shows it: its own reason, else its error, else how it
/// ended. `None` when the action says it all.
pub fn because(action: AuditAction, metadata: &Value) -> Option<String> {
    let text = |key: &str| metadata.get(key).and_then(Value::as_str).map(str::to_owned);
    let own = match action {
        AuditAction::AutoRestartSuccess => text("by"),
        AuditAction::Adopt => text("field"),
        AuditAction::OrphanRemoved => text("kind"),
        AuditAction::HealthCheck => text("verdict"),
        AuditAction::Provision | AuditAction::Upgrade => text("via"),
        AuditAction::ProvisionFailed
        | AuditAction::Start
        | AuditAction::Stop
        | AuditAction::Sleep
        | AuditAction::Wake
        | AuditAction::Destroy
        | AuditAction::RotateKey
        | AuditAction::Rollback
        | AuditAction::Recreate
        | AuditAction::HealthFailed
        | AuditAction::AutoRestartStart
        | AuditAction::AutoRestartFailed
        | AuditAction::AutoRestartGaveUp
        | AuditAction::AdmitDenied
        | AuditAction::PolicyRegister
        | AuditAction::PolicyUpdate
        | AuditAction::ProductDelete
        | AuditAction::RotatePlatformKey
        | AuditAction::RotateMasterKey
        | AuditAction::Backup
        | AuditAction::Restore => text("reason"),
    };
    let error = || metadata.get("error")?.get("code")?.as_str().map(str::to_owned);
    let outcome = || text("outcome").filter(|outcome| outcome != "ok");
    own.or_else(error).or_else(outcome)
}

/// What a plain admit (both flags false) would be told now: `admission` of `explain`.
pub fn admission(standing: Standing) -> (bool, Option<Reason>) {
    match meet(Request::Admit { auto_provision: false, auto_wake: false }, Some(standing)) {
        Meeting::Answer(Answer::Admitted | Answer::AlreadyAsleep)
        | Meeting::Join
        | Meeting::JoinClearingCounters
        | Meeting::Open(_)
        | Meeting::Supersede(_) => (true, None),
        Meeting::NotAdmitted(reason) => (false, Some(reason)),
        Meeting::Refuse(_) => (false, None),
    }
}

/// `HH:MM:SS` in UTC.
fn clock(at: Timestamp) -> String {
    at.to_string().chars().skip_while(|&c| c != 'T').skip(1).take(8).collect()
}

fn count(number: u32, noun: &str) -> String {
    let words = ["no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"];
    let number_word = usize::try_from(number).ok().and_then(|n| words.get(n)).map(|word| (*word).to_owned());
    let number_word = number_word.unwrap_or_else(|| number.to_string());
    let plural = if number == 1 { "" } else { "s" };
    format!("{number_word} {noun}{plural}")
}
