//! Idleness: what counts, what does not, and when to wake.

use contract::Timestamp;
use fleet::health::Activity;
use fleet::idle::{
    Blocker, IdleFacts, IdleRules, blockers, fence_open, idle_since, is_candidate, request_blockers, wake_at,
};
use fleet::lifecycle::{Desired, SleepMode, Status};
use fleet::operation::OperationKind;
use std::time::Duration;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis(10_000_000 + seconds * 1000)
}

const RULES: IdleRules = IdleRules {
    idle_after: Some(Duration::from_secs(900)),
    mode: SleepMode::Freeze,
    wake_lead: Duration::from_secs(30),
    wake_grace: Duration::from_secs(120),
};
const QUIET: Activity =
    Activity { in_flight_turns: 0, open_streams: 0, last_activity_at: None, next_scheduled_at: None };

/// Booted at second 0, never admitted.
fn quiet() -> IdleFacts {
    IdleFacts {
        status: Status::Running,
        desired: Desired::Running,
        open: None,
        lease_until: None,
        activity: Some(QUIET),
        started_at: Some(at(0)),
        scheduled_wake_at: None,
    }
}

fn blocked(facts: &IdleFacts, rules: &IdleRules, now: Timestamp) -> Vec<Blocker> {
    let found = blockers(facts, rules, now);
    assert_eq!(found.is_empty(), is_candidate(facts, rules, now));
    found
}

#[test]
fn never_admitted_engine_sleeps() {
    assert_eq!(blocked(&quiet(), &RULES, at(899)), [Blocker::RecentlyActive]);
    assert_eq!(blocked(&quiet(), &RULES, at(900)), []);
}

#[test]
fn idle_time_counts_from_the_last_of_everything() {
    let mut facts = quiet();
    facts.lease_until = Some(at(100));
    assert_eq!(idle_since(&facts, &RULES), Some(at(100)));
    facts.activity = Some(Activity { last_activity_at: Some(at(200)), ..QUIET });
    assert_eq!(idle_since(&facts, &RULES), Some(at(200)));
    facts.started_at = Some(at(300));
    assert_eq!(idle_since(&facts, &RULES), Some(at(300)));
    facts.scheduled_wake_at = Some(at(400));
    assert_eq!(idle_since(&facts, &RULES), Some(at(550)), "lead and grace after the wake");
    assert_eq!(blocked(&facts, &RULES, at(1449)), [Blocker::RecentlyActive]);
    assert_eq!(blocked(&facts, &RULES, at(1450)), []);
}

#[test]
fn background_work_keeps_awake() {
    let mut facts = quiet();
    facts.activity = Some(Activity { in_flight_turns: 1, ..QUIET });
    assert_eq!(blocked(&facts, &RULES, at(5000)), [Blocker::InFlightTurns]);
    assert_eq!(request_blockers(&facts, &RULES, at(5000)), [Blocker::InFlightTurns]);
}

#[test]
fn silent_open_stream_keeps_awake() {
    let mut facts = quiet();
    facts.activity = Some(Activity { open_streams: 1, ..QUIET });
    assert_eq!(blocked(&facts, &RULES, at(5000)), [Blocker::OpenStreams]);
}

#[test]
fn planned_work_keeps_awake_when_it_is_near() {
    let mut facts = quiet();
    let plan = |due| Some(Activity { next_scheduled_at: Some(due), ..QUIET });
    facts.activity = plan(at(1000 + 90));
    assert_eq!(blocked(&facts, &RULES, at(1000)), [Blocker::Scheduled]);
    facts.activity = plan(at(1000 + 91));
    assert_eq!(blocked(&facts, &RULES, at(1000)), []);
    assert_eq!(wake_at(Some(at(1091)), RULES.wake_lead), Some(at(1061)));
    assert_eq!(wake_at(None, RULES.wake_lead), None);
}

#[test]
fn engine_without_activity_is_not_slept() {
    let mut facts = quiet();
    facts.activity = None;
    assert_eq!(blocked(&facts, &RULES, at(5000)), [Blocker::NoActivityReport]);
    for mode in [SleepMode::Stop, SleepMode::Freeze] {
        let rules = IdleRules { mode, ..RULES };
        assert_eq!(request_blockers(&facts, &rules, at(5000)), [Blocker::NoActivityReport]);
    }
    assert_eq!(blocked(&facts, &IdleRules { mode: SleepMode::Label, ..RULES }, at(5000)), []);
}

#[test]
fn a_request_for_sleep_does_not_ask_for_the_idle_time() {
    let mut facts = quiet();
    let off = IdleRules { idle_after: None, ..RULES };
    assert_eq!(request_blockers(&facts, &off, at(1)), []);
    assert_eq!(blocked(&facts, &off, at(5000)), [Blocker::Disabled]);
    facts.lease_until = Some(at(2));
    assert_eq!(request_blockers(&facts, &off, at(1)), [Blocker::Lease]);
}

#[test]
fn only_a_running_engine_without_an_operation_sleeps() {
    let mut facts = quiet();
    facts.open = Some(OperationKind::RotateKey);
    assert_eq!(blocked(&facts, &RULES, at(5000)), [Blocker::Operation]);
    for &status in Status::ALL {
        let facts = IdleFacts { status, ..quiet() };
        let expected: &[Blocker] = if status == Status::Running { &[] } else { &[Blocker::NotRunning] };
        assert_eq!(blocked(&facts, &RULES, at(5000)), expected, "{status}");
    }
    let leaving = IdleFacts { desired: Desired::Stopped, ..quiet() };
    assert_eq!(blocked(&leaving, &RULES, at(5000)), [Blocker::NotRunning]);
}

#[test]
fn an_engine_of_which_nothing_is_known_is_not_idle() {
    let facts = IdleFacts { started_at: None, ..quiet() };
    assert_eq!(blocked(&facts, &RULES, at(5000)), [Blocker::RecentlyActive]);
}

#[test]
fn the_fence_asks_for_a_lease_that_ended_two_seconds_before_the_probe() {
    assert!(fence_open(None, at(0)));
    assert!(!fence_open(Some(at(0)), at(2)));
    assert!(fence_open(Some(at(0)), at(2).plus_millis(1)));
    assert!(!fence_open(Some(at(30)), at(0)));
}
