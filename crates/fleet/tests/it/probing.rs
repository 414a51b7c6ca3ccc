//! Probes: verdicts, counters, brake, spread, and the probes of a boot.

use contract::{EngineId, Timestamp};
use fleet::health::{
    BODY_LIMIT, Boot, FailureBrake, ProbeOutcome, Verdict, Vitals, boot, boot_probe_delay, brake_allows,
    offset, verdict,
};
use fleet::lifecycle::FailureReason;
use fleet::observation::{Object, ObjectState, Observation};
use serde_json::{Value, json};
use std::time::Duration;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis(10_000_000 + seconds * 1000)
}

fn answer(status: u16, body: &Value) -> Verdict {
    verdict(&ProbeOutcome::Answered { status, body: body.to_string().into_bytes() })
}

fn failed(reason: FailureReason) -> Verdict {
    Verdict::Failed { reason }
}

#[test]
fn two_hundred_and_ok_is_healthy_and_everything_else_may_be_absent() {
    let Verdict::Healthy { report } = answer(200, &json!({"status": "ok"})) else { panic!("healthy") };
    assert_eq!((report.activity, report.schema_version, report.version), (None, None, None));
    let full = json!({"status": "ok", "uptime_seconds": 1.5, "version": "2.3.0", "schema_version": 12,
        "subsystems": {"database": "ok", "llm_provider": "ok"}, "extra": [1],
        "activity": {"in_flight_turns": 1, "open_streams": 2, "last_activity_at": "2026-04-27T10:00:00.000Z",
            "next_scheduled_at": null}});
    let Verdict::Healthy { report } = answer(200, &full) else { panic!("healthy") };
    let activity = report.activity.expect("it reports its activity");
    assert_eq!((activity.in_flight_turns, activity.open_streams, activity.next_scheduled_at), (1, 2, None));
    assert_eq!((report.version.as_deref(), report.schema_version), (Some("2.3.0"), Some(12)));
}

#[test]
fn degraded_provider_never_restarts_the_fleet() {
    let body = json!({"status": "degraded", "subsystems": {"database": "ok", "llm_provider": "error", "embeddings": "error"}});
    let mut vitals = vec![Vitals::default(); 1000];
    for engine in &mut vitals {
        for second in 0..50 {
            let verdict = answer(200, &body);
            assert!(
                matches!(&verdict, Verdict::Degraded { subsystems, .. } if *subsystems == ["embeddings", "llm_provider"])
            );
            engine.count(&verdict, at(second));
        }
        assert!(!engine.exhausted(1) && engine.degraded);
        assert_eq!(engine.degraded_subsystems(), ["embeddings", "llm_provider"]);
    }
}

#[test]
fn database_error_is_a_failure() {
    let body = json!({"status": "degraded", "subsystems": {"database": "error"}});
    assert_eq!(answer(200, &body), failed(FailureReason::ProbeStatus));
}

#[test]
fn what_is_not_health_has_a_reason() {
    for (outcome, reason) in [
        (ProbeOutcome::TimedOut, FailureReason::ProbeTimeout),
        (ProbeOutcome::Refused, FailureReason::ProbeRefused),
        (ProbeOutcome::Unreadable, FailureReason::ProbeStatus),
        (ProbeOutcome::Answered { status: 200, body: b"<html>".to_vec() }, FailureReason::ProbeStatus),
        (
            ProbeOutcome::Answered { status: 200, body: vec![b' '; BODY_LIMIT + 1] },
            FailureReason::ProbeStatus,
        ),
    ] {
        assert_eq!(verdict(&outcome), failed(reason), "{reason}");
    }
    for (status, word, reason) in [
        (503, "migration_required", FailureReason::MigrationRequired),
        (503, "brain_locked", FailureReason::BrainLocked),
        (503, "starting", FailureReason::ProbeStatus),
        (503, "draining", FailureReason::ProbeStatus),
        (503, "ok", FailureReason::ProbeStatus),
        (500, "migration_required", FailureReason::ProbeStatus),
        (200, "starting", FailureReason::ProbeStatus),
        (200, "migration_required", FailureReason::ProbeStatus),
        (302, "ok", FailureReason::ProbeStatus),
    ] {
        assert_eq!(answer(status, &json!({"status": word})), failed(reason), "{status} {word}");
    }
    for body in [json!({}), json!([]), json!({"status": 1}), json!("ok"), json!(null)] {
        assert_eq!(answer(200, &body), failed(FailureReason::ProbeStatus), "{body}");
    }
}

#[test]
fn an_activity_that_cannot_be_read_is_no_activity() {
    for activity in [
        json!({"in_flight_turns": 0}),
        json!({"in_flight_turns": -1, "open_streams": 0}),
        json!({"in_flight_turns": 0, "open_streams": 0, "next_scheduled_at": "soon"}),
        json!("idle"),
    ] {
        let verdict = answer(200, &json!({"status": "ok", "activity": activity}));
        assert_eq!(verdict.report().and_then(|report| report.activity), None, "{activity}");
    }
}

#[test]
fn three_failures_make_failed_two_do_not() {
    let mut vitals = Vitals::default();
    for (count, out) in [(1, false), (2, false), (3, true)] {
        vitals.count(&failed(FailureReason::ProbeTimeout), at(count));
        assert_eq!(vitals.exhausted(3), out, "after {count}");
    }
    assert_eq!((vitals.last_probe_at, vitals.last_health_at), (Some(at(3)), None));
}

#[test]
fn one_healthy_probe_resets_the_count() {
    let ok = answer(200, &json!({"status": "ok"}));
    let mut vitals = Vitals::default();
    for second in 0..20 {
        vitals.count(&failed(FailureReason::ProbeTimeout), at(3 * second));
        vitals.count(&failed(FailureReason::ProbeTimeout), at(3 * second + 1));
        vitals.count(&ok, at(3 * second + 2));
        assert_eq!((vitals.health_failures, vitals.healthy_streak), (0, 1), "a flapping engine shows");
        assert_eq!(vitals.healthy_since, Some(at(3 * second + 2)));
    }
    vitals.count(&ok, at(100));
    assert_eq!((vitals.healthy_streak, vitals.healthy_since), (2, Some(at(59))));
    vitals.clear_failures();
    assert_eq!((vitals.healthy_streak, vitals.healthy_since), (0, None));
}

#[test]
fn failure_brake_limits_mass_verdicts() {
    assert_eq!([0, 10, 50, 59, 60, 1000, 10_000].map(brake_allows), [5, 5, 5, 5, 6, 100, 1000]);
    let interval = Duration::from_secs(30);
    let mut brake = FailureBrake::default();
    let moved = (0..1000).filter(|_| brake.allows(1000, interval, at(0))).count();
    assert_eq!((moved, brake.is_active(interval, at(29))), (100, true));
    assert!(!brake.is_active(interval, at(30)));
    let moved = (0..1000).filter(|_| brake.allows(900, interval, at(30))).count();
    assert_eq!(moved, 90);
    let mut calm = FailureBrake::default();
    assert!(calm.allows(10, interval, at(0)) && !calm.is_active(interval, at(0)));
}

#[test]
fn probes_are_spread_over_the_interval() {
    let interval = Duration::from_secs(30);
    let mut buckets = [0u32; 30];
    for number in 0..3000u32 {
        let id = EngineId::parse(&format!("{number:08x}-7b40-4c58-9d1a-0a6f5f0f2b11")).expect("a UUID");
        let when = offset(id, interval);
        assert!(when < interval);
        assert_eq!(when, offset(id, interval));
        buckets[usize::try_from(when.as_secs()).expect("below thirty")] += 1;
    }
    assert!(buckets.iter().all(|&count| (50..=160).contains(&count)), "{buckets:?}");
    let id = EngineId::parse("3f2a9c1e-7b40-4c58-9d1a-0a6f5f0f2b11").expect("a UUID");
    assert_eq!(offset(id, Duration::ZERO), Duration::ZERO);
}

#[test]
fn boot_probes_begin_at_five_milliseconds_and_slow_down() {
    let early = |attempt| boot_probe_delay(attempt, Duration::from_millis(10)).as_millis();
    assert_eq!([0, 1, 2, 3, 4, 5, 100].map(early), [5, 10, 20, 40, 50, 50, 50]);
    assert_eq!(boot_probe_delay(0, Duration::from_secs(5)).as_millis(), 250);
    assert_eq!(boot_probe_delay(7, Duration::from_millis(4_999)).as_millis(), 50);
}

fn seen(state: ObjectState) -> Observation {
    let (spec_hash, image, container_id) = (String::new(), String::new(), String::new());
    Observation::Present(Object { state, generation: 1, spec_hash, image, container_id, created_at: None })
}

#[test]
fn exit_code_two_fails_fast() {
    let timeout = Duration::from_secs(60);
    let judge =
        |object: Option<&Observation>, probe: Option<&Verdict>, now| boot(object, probe, at(0), now, timeout);
    let running = seen(ObjectState::Running { started_at: at(0), restarts: 0, address: None });
    let refused = failed(FailureReason::ProbeRefused);
    let locked = failed(FailureReason::BrainLocked);
    let migrate = failed(FailureReason::MigrationRequired);
    let ok = answer(200, &json!({"status": "ok"}));
    assert_eq!(judge(Some(&running), None, at(0)), Boot::Waits);
    assert_eq!(judge(Some(&running), Some(&refused), at(59)), Boot::Waits);
    assert_eq!(judge(Some(&running), Some(&locked), at(1)), Boot::Waits);
    assert_eq!(
        judge(Some(&running), Some(&refused), at(60)),
        Boot::Failed { reason: FailureReason::BootTimeout }
    );
    assert_eq!(
        judge(Some(&running), Some(&migrate), at(0)),
        Boot::Failed { reason: FailureReason::MigrationRequired }
    );
    assert_eq!(judge(Some(&running), Some(&ok), at(61)), Boot::Ready);
    for (code, reason) in
        [(2, FailureReason::ConfigRefused), (4, FailureReason::BrainRefused), (1, FailureReason::Crashed)]
    {
        let ended = seen(ObjectState::Exited { code: Some(code), oom: false, at: None });
        assert_eq!(judge(Some(&ended), Some(&refused), at(0)), Boot::Failed { reason });
    }
    let again = seen(ObjectState::Restarting { code: Some(1) });
    assert_eq!(judge(Some(&again), Some(&refused), at(0)), Boot::Waits);
    let hopeless = seen(ObjectState::Restarting { code: Some(2) });
    assert_eq!(judge(Some(&hopeless), None, at(0)), Boot::Failed { reason: FailureReason::ConfigRefused });
    assert_eq!(
        judge(Some(&Observation::Absent), None, at(0)),
        Boot::Failed { reason: FailureReason::ObjectMissing }
    );
}
