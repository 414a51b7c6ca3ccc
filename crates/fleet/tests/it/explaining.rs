//! The words of `explain`.

use contract::Timestamp;
use fleet::audit::AuditAction;
use fleet::explain::{Explained, admission, because, failure, summary};
use fleet::health::Vitals;
use fleet::lifecycle::{Desired, FailureReason, SleepMode, Status};
use fleet::operation::OperationKind;
use fleet::request::{Reason, Standing};
use serde_json::json;
use std::collections::BTreeMap;

fn time(text: &str) -> Timestamp {
    Timestamp::parse(&format!("2026-04-27T{text}.000Z")).expect("a time")
}

fn facts(vitals: &Vitals) -> Explained<'_> {
    Explained {
        status: Status::Running,
        status_since: time("10:00:11"),
        desired: Desired::Running,
        open: None,
        failure: None,
        vitals,
        restart_attempts: 0,
        restart_max_attempts: 8,
        next_restart_at: None,
        sleep_mode: None,
        wake_at: None,
        backend_answers: true,
    }
}

#[test]
fn the_example_of_the_specification_is_reproduced() {
    let vitals = Vitals { health_failures: 3, ..Vitals::default() };
    let facts = Explained {
        status: Status::Failed,
        failure: Some(FailureReason::ProbeTimeout),
        restart_attempts: 2,
        next_restart_at: Some(time("10:00:31")),
        ..facts(&vitals)
    };
    assert_eq!(
        summary(&facts),
        "failed since 10:00:11: three probes timed out; restart 3 of 8 is due at 10:00:31"
    );
}

#[test]
fn every_standing_has_words() {
    let vitals = Vitals::default();
    let base = facts(&vitals);
    let degraded = Vitals {
        degraded: true,
        subsystems: BTreeMap::from([("llm_provider".to_owned(), "error".to_owned())]),
        ..Vitals::default()
    };
    let cases = [
        (base, "running since 10:00:11: serving"),
        (facts(&degraded), "running since 10:00:11: serving, with trouble in llm_provider"),
        (Explained { desired: Desired::Stopped, ..base }, "running since 10:00:11: serving; stopping"),
        (
            Explained {
                status: Status::Sleeping,
                sleep_mode: Some(SleepMode::Freeze),
                wake_at: Some(time("23:59:30")),
                ..base
            },
            "sleeping since 10:00:11: frozen for lack of use; wakes at 23:59:30 for planned work; waking",
        ),
        (
            Explained {
                status: Status::Failed,
                failure: Some(FailureReason::Crashed),
                restart_attempts: 8,
                ..base
            },
            "failed since 10:00:11: its process ended by itself; given up after eight restarts",
        ),
        (
            Explained { status: Status::Failed, failure: Some(FailureReason::StorageMissing), ..base },
            "failed since 10:00:11: its brain is gone; restarting cannot help; only start brings it back",
        ),
        (
            Explained {
                status: Status::Failed,
                failure: Some(FailureReason::OomKilled),
                restart_attempts: 1,
                open: Some(OperationKind::Restart),
                ..base
            },
            "failed since 10:00:11: its process was killed for lack of memory; restart 1 of 8 is running",
        ),
        (
            Explained {
                status: Status::Destroying,
                desired: Desired::Destroyed,
                backend_answers: false,
                ..base
            },
            "destroying since 10:00:11: being removed; the backend does not answer, nothing is changed until it does",
        ),
    ];
    for (facts, expected) in cases {
        assert_eq!(summary(&facts), expected);
    }
    for &reason in FailureReason::ALL {
        assert!(!failure(reason, 0).is_empty());
    }
    assert_eq!(failure(FailureReason::ProbeRefused, 1), "one probe was refused");
}

#[test]
fn a_reason_is_the_rows_own_then_its_error_then_its_outcome() {
    let told = |action, metadata| because(action, &metadata);
    assert_eq!(
        told(AuditAction::HealthFailed, json!({"reason": "probe_timeout"})).as_deref(),
        Some("probe_timeout")
    );
    assert_eq!(told(AuditAction::AutoRestartSuccess, json!({"by": "none"})).as_deref(), Some("none"));
    assert_eq!(
        told(AuditAction::Start, json!({"error": {"code": "BOOT_TIMEOUT"}})).as_deref(),
        Some("BOOT_TIMEOUT")
    );
    assert_eq!(told(AuditAction::Start, json!({"outcome": "failed"})).as_deref(), Some("failed"));
    assert_eq!(told(AuditAction::Start, json!({"outcome": "ok"})), None);
}

#[test]
fn admission_says_what_a_plain_admit_would_be_told() {
    let standing = |status, desired| Standing { status, desired, open: None };
    assert_eq!(admission(standing(Status::Running, Desired::Running)), (true, None));
    assert_eq!(admission(standing(Status::Failed, Desired::Running)), (false, Some(Reason::EngineUnhealthy)));
    assert_eq!(
        admission(standing(Status::Sleeping, Desired::Sleeping)),
        (false, Some(Reason::EngineSleeping))
    );
}
