//! The planner: each row of its table, and what holds for all facts.

use contract::{EngineId, ProductId, Timestamp};
use fleet::health::{Activity, Vitals};
use fleet::lifecycle::{BackendKind, Desired, FailureReason, SleepMode, Status, is_legal};
use fleet::observation::{Object, ObjectState, Observation};
use fleet::operation::OperationKind;
use fleet::plan::{Claim, EngineFacts, OpenOperation, PlanStep, Rules, Seen, Source, due_at, plan};
use proptest::prelude::*;
use std::time::{Duration, Instant};

const NOW: Timestamp = Timestamp::from_millis(10_000_000);
const STARTED: Timestamp = Timestamp::from_millis(9_000_000);

const RULES: Rules = Rules {
    backend: BackendKind::Docker,
    reconcile_interval: Duration::from_secs(30),
    sleep_mode: SleepMode::Freeze,
    wake_lead: Duration::from_secs(30),
    wake_grace: Duration::from_secs(120),
};

fn object(state: ObjectState) -> Object {
    Object {
        state,
        generation: 3,
        spec_hash: "0123456789abcdef".to_owned(),
        image: "september-engine:1".to_owned(),
        container_id: "c1".to_owned(),
        created_at: None,
    }
}

fn runs() -> ObjectState {
    ObjectState::Running { started_at: STARTED, restarts: 0, address: None }
}

fn seen(state: ObjectState) -> Seen {
    Seen::Fresh(Observation::Present(object(state)))
}

/// An engine as recorded: running and seen running.
fn engine(status: Status, desired: Desired) -> EngineFacts {
    EngineFacts {
        engine_id: EngineId::parse("3f2a9c1e-7b40-4c58-9d1a-0a6f5f0f2b11").expect("a UUID"),
        product_id: ProductId::parse("3f2a9c1e-7b40-4c58-9d1a-0a6f5f0f2b12").expect("a UUID"),
        backend: BackendKind::Docker,
        status,
        status_since: STARTED,
        desired,
        revision: 7,
        generation: 3,
        booted: true,
        container_id: Some("c1".to_owned()),
        sleep_mode: None,
        wake_at: None,
        admit_lease_until: None,
        next_restart_at: None,
        started_at: Some(STARTED),
        scheduled_wake_at: None,
        idle_after: None,
        vitals: Vitals::default(),
        open: None,
        seen: seen(runs()),
        source: Source::Observe,
        observed_at: NOW,
        accounted_start: Some(STARTED),
        rotation_unfinished: false,
    }
}

fn running() -> EngineFacts {
    engine(Status::Running, Desired::Running)
}

fn steps(facts: &EngineFacts) -> Vec<PlanStep> {
    let first = plan(facts, &RULES, NOW);
    assert_eq!(first, plan(facts, &RULES, NOW), "twice is the same");
    first
}

fn crashed(reason: FailureReason, exit_code: Option<i32>, oom: bool, restarts: Option<u32>) -> Vec<PlanStep> {
    vec![PlanStep::Crashed { reason, exit_code, oom, restarts }]
}

#[test]
fn an_engine_as_recorded_gets_no_step() {
    assert_eq!(steps(&running()), []);
    let mut asleep = engine(Status::Sleeping, Desired::Sleeping);
    asleep.sleep_mode = Some(SleepMode::Freeze);
    asleep.seen = seen(ObjectState::Paused);
    assert_eq!(steps(&asleep), []);
    let mut stopped = engine(Status::Stopped, Desired::Stopped);
    stopped.seen = seen(ObjectState::Exited { code: Some(0), oom: false, at: None });
    assert_eq!(steps(&stopped), []);
    stopped.seen = Seen::Fresh(Observation::Absent);
    assert_eq!(steps(&stopped), [], "a stopped engine needs no object");
}

#[test]
fn an_open_operation_is_continued_when_nobody_holds_it() {
    let with = |claim, retry_at| {
        let mut facts = engine(Status::Provisioning, Desired::Running);
        facts.open = Some(OpenOperation { kind: OperationKind::Provision, claim, retry_at });
        facts
    };
    let past = NOW.plus_millis(-1);
    let later = NOW.plus_millis(1);
    assert_eq!(steps(&with(Claim::Unowned, None)), [PlanStep::ClaimAndContinue]);
    assert_eq!(steps(&with(Claim::Until(past), None)), [PlanStep::ClaimAndContinue]);
    assert_eq!(steps(&with(Claim::Until(later), None)), []);
    assert_eq!(steps(&with(Claim::Unowned, Some(later))), []);
    assert_eq!(steps(&with(Claim::Unowned, Some(past))), [PlanStep::ClaimAndContinue]);
    let mut restored = with(Claim::Unowned, None);
    restored.generation = 1;
    assert_eq!(steps(&restored), [PlanStep::Adopt { generation: 3 }, PlanStep::ClaimAndContinue]);
}

#[test]
fn stuck_provisioning_resumes() {
    let mut facts = engine(Status::Provisioning, Desired::Running);
    facts.booted = false;
    assert_eq!(steps(&facts), [PlanStep::OpenOperation(OperationKind::Provision)]);
    facts.booted = true;
    assert_eq!(steps(&facts), [PlanStep::OpenOperation(OperationKind::Recreate)]);
    facts.desired = Desired::Stopped;
    assert_eq!(steps(&facts), [PlanStep::OpenOperation(OperationKind::Stop)]);
}

#[test]
fn stuck_destroying_resumes() {
    let mut facts = engine(Status::Destroying, Desired::Destroyed);
    for word in [Observation::Absent, Observation::Present(object(ObjectState::Removing))] {
        facts.seen = Seen::Fresh(word);
        assert_eq!(steps(&facts), [PlanStep::OpenOperation(OperationKind::Destroy)]);
    }
}

#[test]
fn an_intent_without_an_operation_gets_one() {
    let table = [
        (Status::Running, Desired::Sleeping, OperationKind::Sleep),
        (Status::Running, Desired::Stopped, OperationKind::Stop),
        (Status::Sleeping, Desired::Running, OperationKind::Wake),
        (Status::Sleeping, Desired::Stopped, OperationKind::Stop),
        (Status::Stopped, Desired::Running, OperationKind::Start),
        (Status::Failed, Desired::Stopped, OperationKind::Stop),
    ];
    for (status, desired, kind) in table {
        assert_eq!(steps(&engine(status, desired)), [PlanStep::OpenOperation(kind)], "{status}/{desired}");
    }
}

#[test]
fn docker_restart_counts_as_one_crash() {
    let mut facts = running();
    facts.seen = seen(ObjectState::Running { started_at: NOW, restarts: 1, address: None });
    assert_eq!(steps(&facts), crashed(FailureReason::Crashed, None, false, Some(1)));
    facts.vitals.backend_restarts = 1;
    facts.accounted_start = Some(NOW);
    assert_eq!(steps(&facts), [], "once it is accounted for");
    facts.accounted_start = None;
    assert_eq!(steps(&facts), [], "a new supervisor does not invent a crash");
}

#[test]
fn an_ended_engine_crashed_for_the_reason_its_exit_names() {
    let mut facts = running();
    let mut ended = |code, oom| {
        facts.seen = seen(ObjectState::Exited { code, oom, at: None });
        steps(&facts)
    };
    assert_eq!(ended(Some(1), false), crashed(FailureReason::Crashed, Some(1), false, None));
    assert_eq!(ended(Some(137), true), crashed(FailureReason::OomKilled, Some(137), true, None));
    assert_eq!(ended(Some(2), false), crashed(FailureReason::ConfigRefused, Some(2), false, None));
    facts.seen = seen(ObjectState::Restarting { code: Some(4) });
    assert_eq!(steps(&facts), crashed(FailureReason::BrainRefused, Some(4), false, None));
}

#[test]
fn a_key_rotation_hides_no_crash() {
    let mut facts = running();
    let claim = Claim::Until(NOW.plus_millis(1));
    facts.open = Some(OpenOperation { kind: OperationKind::RotateKey, claim, retry_at: None });
    facts.idle_after = Some(Duration::from_secs(1));
    assert_eq!(steps(&facts), [], "nor does it let the engine sleep");
    facts.seen = seen(ObjectState::Exited { code: Some(1), oom: false, at: None });
    assert_eq!(steps(&facts), crashed(FailureReason::Crashed, Some(1), false, None));
}

#[test]
fn a_broken_off_rotation_of_a_running_engine_is_resolved() {
    let mut facts = running();
    facts.rotation_unfinished = true;
    facts.idle_after = Some(Duration::ZERO);
    assert_eq!(steps(&facts), [PlanStep::OpenOperation(OperationKind::RotateKey)], "before it may sleep");
    facts.source = Source::List;
    assert_eq!(steps(&facts), [PlanStep::OpenOperation(OperationKind::RotateKey)]);
    let claim = Claim::Until(NOW.plus_millis(1));
    facts.open = Some(OpenOperation { kind: OperationKind::RotateKey, claim, retry_at: None });
    assert_eq!(steps(&facts), [], "it is under way");
    facts.open = None;
    facts.seen = seen(ObjectState::Exited { code: Some(1), oom: false, at: None });
    assert_eq!(steps(&facts), crashed(FailureReason::Crashed, Some(1), false, None), "a dead one first");
    for (status, desired) in [(Status::Sleeping, Desired::Sleeping), (Status::Failed, Desired::Running)] {
        let mut resting = engine(status, desired);
        resting.seen = seen(ObjectState::Paused);
        resting.rotation_unfinished = true;
        assert_eq!(steps(&resting), [], "one that serves nobody is asked when it serves again");
    }
}

#[test]
fn a_strangers_freeze_is_thawed() {
    let mut facts = running();
    facts.seen = seen(ObjectState::Paused);
    assert_eq!(steps(&facts), [PlanStep::ThawStranger]);
}

#[test]
fn cache_is_never_trusted_for_removal() {
    let mut facts = running();
    facts.seen = Seen::Fresh(Observation::Absent);
    facts.source = Source::List;
    assert_eq!(steps(&facts), [PlanStep::Observe]);
    facts.source = Source::Observe;
    assert_eq!(steps(&facts), [PlanStep::ObjectMissing]);

    let mut old = running();
    old.generation = 4;
    old.source = Source::List;
    assert_eq!(steps(&old), [PlanStep::Observe]);
    old.source = Source::Observe;
    assert_eq!(steps(&old), [PlanStep::RemoveStale { generation: 3 }]);
}

#[test]
fn stale_list_creates_nothing_twice() {
    let mut facts = running();
    facts.seen = Seen::Fresh(Observation::Absent);
    facts.observed_at = STARTED.plus_millis(-1);
    assert_eq!(steps(&facts), [], "the list was asked for before the engine booted");
    facts.status_since = Timestamp::from_millis(0);
    facts.observed_at = NOW.plus_millis(-90_001);
    assert_eq!(steps(&facts), [], "the list is older than three passes");
    facts.observed_at = NOW.plus_millis(-90_000);
    assert_eq!(steps(&facts), [PlanStep::ObjectMissing]);
}

#[test]
fn a_higher_generation_is_learned_before_anything_else() {
    let mut facts = engine(Status::Stopped, Desired::Running);
    facts.generation = 2;
    assert_eq!(steps(&facts), [PlanStep::Adopt { generation: 3 }]);
}

#[test]
fn the_same_object_under_a_new_name_is_adopted() {
    let mut facts = running();
    facts.container_id = Some("c0".to_owned());
    assert_eq!(steps(&facts), [PlanStep::AdoptContainer { container_id: "c1".to_owned() }]);
    facts.container_id = None;
    assert_eq!(steps(&facts), [], "a backend without names records none");
}

#[test]
fn a_due_restart_is_opened_and_a_pending_one_waits() {
    let mut facts = engine(Status::Failed, Desired::Running);
    facts.seen = seen(ObjectState::Exited { code: Some(1), oom: false, at: None });
    facts.next_restart_at = Some(NOW.plus_millis(1));
    assert_eq!((steps(&facts), due_at(&facts)), (vec![], Some(NOW.plus_millis(1))));
    facts.next_restart_at = Some(NOW);
    assert_eq!(steps(&facts), [PlanStep::OpenRestart]);
    facts.next_restart_at = None;
    assert_eq!(steps(&facts), [], "given up");
    facts.seen = seen(ObjectState::Restarting { code: Some(1) });
    assert_eq!(steps(&facts), [PlanStep::StopGivenUp]);
}

#[test]
fn recovered_engine_is_not_restarted() {
    let mut facts = engine(Status::Failed, Desired::Running);
    facts.next_restart_at = Some(NOW.plus_millis(5_000));
    facts.seen = seen(ObjectState::Running { started_at: NOW, restarts: 1, address: None });
    assert_eq!(steps(&facts), [PlanStep::ProbeForRecovery]);
    facts.accounted_start = Some(NOW);
    facts.vitals.backend_restarts = 1;
    assert_eq!(steps(&facts), [], "one probe series per run");
    facts.accounted_start = None;
    assert_eq!(steps(&facts), [PlanStep::ProbeForRecovery], "a new supervisor asks once");
}

#[test]
fn daemon_restart_refreezes_after_the_fence() {
    let mut facts = engine(Status::Sleeping, Desired::Sleeping);
    facts.sleep_mode = Some(SleepMode::Freeze);
    assert_eq!(steps(&facts), [PlanStep::Refreeze]);
    facts.admit_lease_until = Some(NOW.plus_millis(-1_000));
    assert_eq!(steps(&facts), [], "a lease ended less than two seconds ago");
    facts.admit_lease_until = Some(NOW.plus_millis(-2_001));
    assert_eq!(steps(&facts), [PlanStep::Refreeze]);
    facts.sleep_mode = Some(SleepMode::Stop);
    assert_eq!(steps(&facts), [PlanStep::StopAgain]);
    facts.sleep_mode = Some(SleepMode::Label);
    assert_eq!(steps(&facts), [], "label mode touches nothing");
}

#[test]
fn scheduled_work_wakes_in_time() {
    let mut facts = engine(Status::Sleeping, Desired::Sleeping);
    facts.sleep_mode = Some(SleepMode::Freeze);
    facts.seen = seen(ObjectState::Paused);
    facts.wake_at = Some(NOW.plus_millis(1));
    assert_eq!((steps(&facts), due_at(&facts)), (vec![], Some(NOW.plus_millis(1))));
    facts.wake_at = Some(NOW);
    assert_eq!(steps(&facts), [PlanStep::OpenWake]);
}

#[test]
fn an_idle_engine_is_a_candidate_for_sleep() {
    let mut facts = running();
    facts.idle_after = Some(Duration::from_secs(900));
    facts.vitals.activity = Some(Activity {
        in_flight_turns: 0,
        open_streams: 0,
        last_activity_at: None,
        next_scheduled_at: None,
    });
    assert_eq!(steps(&facts), [PlanStep::SleepCandidate]);
    facts.admit_lease_until = Some(NOW.plus_millis(1));
    assert_eq!(steps(&facts), []);
}

#[test]
fn a_stopped_engine_that_runs_is_stopped() {
    assert_eq!(steps(&engine(Status::Stopped, Desired::Stopped)), [PlanStep::StopStranger]);
}

#[test]
fn backend_switch_leaves_old_rows_alone() {
    let mut facts = engine(Status::Provisioning, Desired::Running);
    facts.backend = BackendKind::Subprocess;
    assert_eq!(steps(&facts), []);
}

fn timestamps() -> impl Strategy<Value = Timestamp> {
    (-400_000i64..400_000).prop_map(|ms| NOW.plus_millis(ms))
}

fn states() -> impl Strategy<Value = Observation> {
    let present = (
        prop_oneof![
            Just(ObjectState::Created),
            (timestamps(), 0u32..3).prop_map(|(started_at, restarts)| ObjectState::Running {
                started_at,
                restarts,
                address: None
            }),
            Just(ObjectState::Paused),
            (prop::option::of(0i32..140), any::<bool>()).prop_map(|(code, oom)| ObjectState::Exited {
                code,
                oom,
                at: None
            }),
            prop::option::of(0i32..5).prop_map(|code| ObjectState::Restarting { code }),
            Just(ObjectState::Removing),
        ],
        0i64..6,
        prop_oneof![Just("c1"), Just("c2")],
    )
        .prop_map(|(state, generation, id)| {
            Observation::Present(Object { generation, container_id: id.to_owned(), ..object(state) })
        });
    prop_oneof![1 => Just(Observation::Absent), 4 => present]
}

fn facts() -> impl Strategy<Value = EngineFacts> {
    let pairs: Vec<(Status, Desired)> = Status::ALL
        .iter()
        .flat_map(|&status| Desired::ALL.iter().map(move |&desired| (status, desired)))
        .filter(|&(status, desired)| is_legal(status, desired))
        .collect();
    let open = prop::option::of(
        (
            prop::sample::select(OperationKind::ALL),
            prop_oneof![Just(Claim::Unowned), timestamps().prop_map(Claim::Until)],
            prop::option::of(timestamps()),
        )
            .prop_map(|(kind, claim, retry_at)| OpenOperation { kind, claim, retry_at }),
    );
    let times = (
        prop::option::of(timestamps()),
        prop::option::of(timestamps()),
        prop::option::of(timestamps()),
        prop::option::of(timestamps()),
        timestamps(),
        timestamps(),
    );
    let words = prop_oneof![1 => Just(Seen::NoWord), 6 => states().prop_map(Seen::Fresh)];
    (
        prop::sample::select(pairs),
        open,
        words,
        times,
        (any::<bool>(), any::<bool>(), any::<bool>(), 0u64..2, 0i64..6),
        prop::option::of(prop::sample::select(SleepMode::ALL)),
    )
        .prop_map(
            |(
                (status, desired),
                open,
                seen,
                times,
                (booted, listed, rotation_unfinished, turns, generation),
                sleep_mode,
            )| {
                let activity = Activity {
                    in_flight_turns: turns,
                    open_streams: 0,
                    last_activity_at: times.0,
                    next_scheduled_at: times.1,
                };
                EngineFacts {
                    open,
                    seen,
                    booted,
                    rotation_unfinished,
                    generation,
                    sleep_mode,
                    wake_at: times.0,
                    admit_lease_until: times.1,
                    next_restart_at: times.2,
                    accounted_start: times.3,
                    observed_at: times.4,
                    status_since: times.5,
                    idle_after: Some(Duration::from_secs(60)),
                    source: if listed { Source::List } else { Source::Observe },
                    vitals: Vitals { activity: Some(activity), ..Vitals::default() },
                    ..engine(status, desired)
                }
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn planner_is_pure_and_total(facts in facts()) {
        let before = facts.clone();
        let steps = plan(&facts, &RULES, NOW);
        let rotating = facts.open.is_some_and(|open| open.kind == OperationKind::RotateKey);
        prop_assert_eq!(&facts, &before);
        prop_assert_eq!(&steps, &plan(&facts, &RULES, NOW));
        prop_assert!(steps.len() <= 2, "{:?}", steps);
        for step in &steps {
            match step {
                // What the claim's holder does is nobody else's business.
                PlanStep::ClaimAndContinue => prop_assert!(facts.open.is_some()),
                PlanStep::Adopt { generation } => prop_assert!(*generation > facts.generation),
                PlanStep::RemoveStale { generation } => {
                    prop_assert!(*generation < facts.generation && facts.source == Source::Observe);
                    prop_assert!(facts.open.is_none());
                }
                PlanStep::ObjectMissing => {
                    prop_assert!(facts.source == Source::Observe && facts.status == Status::Running);
                }
                PlanStep::Observe | PlanStep::Crashed { .. } | PlanStep::ThawStranger => {
                    prop_assert!(facts.open.is_none() || rotating, "{:?}", step);
                }
                PlanStep::OpenOperation(_)
                | PlanStep::OpenRestart
                | PlanStep::ProbeForRecovery
                | PlanStep::StopGivenUp
                | PlanStep::Refreeze
                | PlanStep::StopAgain
                | PlanStep::OpenWake
                | PlanStep::SleepCandidate
                | PlanStep::StopStranger
                | PlanStep::AdoptContainer { .. } => prop_assert!(facts.open.is_none(), "{:?}", step),
            }
        }
    }

    /// Socket gone, hanging, wrong daemon: nothing is destroyed, created or changed on that alone.
    #[test]
    fn socket_blip_is_not_death(mut facts in facts()) {
        facts.seen = Seen::NoWord;
        let steps = plan(&facts, &RULES, NOW);
        prop_assert!(steps.is_empty() || (facts.open.is_some() && steps == [PlanStep::ClaimAndContinue]), "{:?}", steps);
    }
}

#[test]
fn planning_ten_thousand_engines_that_are_as_recorded_is_cheap() {
    let engines: Vec<EngineFacts> = (0..10_000).map(|_| running()).collect();
    let best = (0..5)
        .map(|_| {
            let began = Instant::now();
            assert!(engines.iter().all(|facts| plan(facts, &RULES, NOW).is_empty()));
            began.elapsed()
        })
        .min()
        .expect("five runs");
    assert!(best < Duration::from_millis(20), "{best:?}");
}
