//! The admit table (§3.4) and the single-flight matrix (§5.3), transcribed by hand and compared cell by cell.

use contract::FleetCode as Code;
use fleet::lifecycle::{Desired as D, Status as S, is_legal};
use fleet::operation::OperationKind as Op;
use fleet::request::{Answer, Meeting as M, Reason, Replay, Request as R, Standing, meet, replay};

const ADMIT: R = R::Admit { auto_provision: false, auto_wake: false };
const ADMIT_BOTH: R = R::Admit { auto_provision: true, auto_wake: true };
const EXISTS: M = M::Refuse(Code::EngineAlreadyExists);
const NOT_RUNNING: M = M::Refuse(Code::EngineNotRunning);
const ALREADY: M = M::Refuse(Code::EngineAlreadyRunning);
const BUSY: M = M::Refuse(Code::EngineBusy);
const NOT_FOUND: M = M::Refuse(Code::EngineNotFound);

fn no(reason: Reason) -> M {
    M::NotAdmitted(reason)
}

fn at(status: S, desired: D, open: Option<Op>) -> Option<Standing> {
    assert!(is_legal(status, desired));
    Some(Standing { status, desired, open })
}

/// Where each operation ordinarily meets a request.
fn usual(open: Op) -> Option<Standing> {
    match open {
        Op::Provision => at(S::Provisioning, D::Running, Some(open)),
        Op::Start => at(S::Stopped, D::Running, Some(open)),
        Op::Wake => at(S::Sleeping, D::Running, Some(open)),
        Op::Restart => at(S::Failed, D::Running, Some(open)),
        Op::Stop => at(S::Running, D::Stopped, Some(open)),
        Op::Sleep => at(S::Running, D::Sleeping, Some(open)),
        Op::RotateKey => at(S::Running, D::Running, Some(open)),
        // During the swap.
        Op::Upgrade | Op::Recreate | Op::Restore => at(S::Provisioning, D::Running, Some(open)),
        Op::Destroy => at(S::Destroying, D::Destroyed, Some(open)),
    }
}

#[test]
fn the_single_flight_matrix_is_followed() {
    let opens = [
        Op::Provision,
        Op::Start,
        Op::Wake,
        Op::Restart,
        Op::Stop,
        Op::Sleep,
        Op::RotateKey,
        Op::Upgrade,
        Op::Recreate,
        Op::Restore,
        Op::Destroy,
    ];
    let over = M::Supersede;
    let j = M::Join;
    let unhealthy = no(Reason::EngineUnhealthy);
    let stopped = no(Reason::EngineStopped);
    let asleep = no(Reason::EngineSleeping);
    let dying = no(Reason::EngineDestroying);
    let given = M::Answer(Answer::Admitted);
    let clear = M::JoinClearingCounters;
    #[rustfmt::skip]
    let matrix: [(R, [M; 11]); 8] = [
        (R::Provision, [EXISTS; 11]),
        (ADMIT,      [j, j, j, unhealthy, stopped, asleep, given, j, j, j, dying]),
        (ADMIT_BOTH, [j, j, j, unhealthy, stopped, over(Op::Wake), given, j, j, j, dying]),
        (R::Start,   [j, j, j, clear, over(Op::Start), over(Op::Start), ALREADY, j, j, j, BUSY]),
        (R::Stop,    [over(Op::Stop), over(Op::Stop), over(Op::Stop), over(Op::Stop), j, over(Op::Stop), BUSY, BUSY, BUSY, BUSY, BUSY]),
        (R::Sleep,   [NOT_RUNNING, NOT_RUNNING, NOT_RUNNING, NOT_RUNNING, BUSY, j, BUSY, BUSY, BUSY, BUSY, BUSY]),
        (R::RotateKey, [NOT_RUNNING, NOT_RUNNING, NOT_RUNNING, NOT_RUNNING, BUSY, BUSY, BUSY, BUSY, BUSY, BUSY, BUSY]),
        (R::Destroy, [over(Op::Destroy), over(Op::Destroy), over(Op::Destroy), over(Op::Destroy), over(Op::Destroy), over(Op::Destroy), over(Op::Destroy), over(Op::Destroy), over(Op::Destroy), over(Op::Destroy), j]),
    ];
    for (request, row) in matrix {
        for (open, expected) in opens.into_iter().zip(row) {
            assert_eq!(meet(request, usual(open)), expected, "{request:?} meets {open}");
        }
    }
}

#[test]
fn the_admit_table_is_followed() {
    let given = M::Answer(Answer::Admitted);
    // standing, without flags, with auto_wake
    let table = [
        (None, no(Reason::EngineNotFound), M::Open(Op::Provision)),
        (at(S::Running, D::Running, None), given, given),
        (at(S::Provisioning, D::Running, None), M::Join, M::Join),
        (at(S::Sleeping, D::Sleeping, None), no(Reason::EngineSleeping), M::Open(Op::Wake)),
        (at(S::Running, D::Sleeping, None), no(Reason::EngineSleeping), M::Open(Op::Wake)),
        (at(S::Stopped, D::Stopped, None), no(Reason::EngineStopped), no(Reason::EngineStopped)),
        (at(S::Sleeping, D::Stopped, None), no(Reason::EngineStopped), no(Reason::EngineStopped)),
        (at(S::Failed, D::Running, None), no(Reason::EngineUnhealthy), no(Reason::EngineUnhealthy)),
        (at(S::Destroying, D::Destroyed, None), no(Reason::EngineDestroying), no(Reason::EngineDestroying)),
        // Accepted intents whose operation was lost are honoured whatever the flags say.
        (at(S::Sleeping, D::Running, None), M::Open(Op::Wake), M::Open(Op::Wake)),
        (at(S::Stopped, D::Running, None), M::Open(Op::Start), M::Open(Op::Start)),
    ];
    for (standing, plain, both) in table {
        assert_eq!(meet(ADMIT, standing), plain, "{standing:?}");
        assert_eq!(meet(ADMIT_BOTH, standing), both, "{standing:?}");
    }
}

#[test]
fn each_flag_of_admit_does_one_thing() {
    let provision = R::Admit { auto_provision: true, auto_wake: false };
    let wake = R::Admit { auto_provision: false, auto_wake: true };
    let asleep = at(S::Sleeping, D::Sleeping, None);
    assert_eq!(meet(provision, None), M::Open(Op::Provision));
    assert_eq!(meet(wake, None), no(Reason::EngineNotFound));
    assert_eq!(meet(provision, asleep), no(Reason::EngineSleeping));
    assert_eq!(meet(wake, asleep), M::Open(Op::Wake));
}

#[test]
fn stopped_engine_is_never_auto_woken() {
    for &status in S::ALL {
        for &desired in D::ALL {
            for open in [None, Some(Op::Stop)] {
                if desired == D::Stopped && is_legal(status, desired) {
                    let standing = at(status, desired, open);
                    assert_eq!(meet(ADMIT_BOTH, standing), no(Reason::EngineStopped), "{standing:?}");
                }
            }
        }
    }
}

#[test]
fn failed_engine_is_never_handed_out() {
    for open in std::iter::once(None).chain(Op::ALL.iter().copied().map(Some)) {
        for desired in [D::Running, D::Stopped] {
            for request in [ADMIT, ADMIT_BOTH] {
                let meeting = meet(request, at(S::Failed, desired, open));
                assert_ne!(meeting, M::Answer(Answer::Admitted), "{open:?}");
            }
        }
    }
}

#[test]
fn requests_at_rest_follow_the_transition_table() {
    let running = at(S::Running, D::Running, None);
    let asleep = at(S::Sleeping, D::Sleeping, None);
    let stopped = at(S::Stopped, D::Stopped, None);
    let failed = at(S::Failed, D::Running, None);
    let dying = at(S::Destroying, D::Destroyed, None);
    let table = [
        (R::Provision, [M::Open(Op::Provision), EXISTS, EXISTS, EXISTS, EXISTS, EXISTS]),
        (R::Start, [NOT_FOUND, ALREADY, M::Open(Op::Start), M::Open(Op::Start), M::Open(Op::Start), BUSY]),
        (R::Stop, [NOT_FOUND, M::Open(Op::Stop), M::Open(Op::Stop), NOT_RUNNING, M::Open(Op::Stop), BUSY]),
        (
            R::Sleep,
            [NOT_FOUND, M::Open(Op::Sleep), M::Answer(Answer::AlreadyAsleep), NOT_RUNNING, NOT_RUNNING, BUSY],
        ),
        (R::RotateKey, [NOT_FOUND, M::Open(Op::RotateKey), NOT_RUNNING, NOT_RUNNING, NOT_RUNNING, BUSY]),
        (
            R::Destroy,
            [
                NOT_FOUND,
                M::Open(Op::Destroy),
                M::Open(Op::Destroy),
                M::Open(Op::Destroy),
                M::Open(Op::Destroy),
                M::Open(Op::Destroy),
            ],
        ),
    ];
    for (request, row) in table {
        for (standing, expected) in [None, running, asleep, stopped, failed, dying].into_iter().zip(row) {
            assert_eq!(meet(request, standing), expected, "{request:?} on {standing:?}");
        }
    }
}

#[test]
fn stop_has_a_deadline_and_start_supersedes_it() {
    for (status, desired) in [(S::Running, D::Stopped), (S::Sleeping, D::Stopped), (S::Failed, D::Stopped)] {
        assert_eq!(meet(R::Start, at(status, desired, Some(Op::Stop))), M::Supersede(Op::Start), "{status}");
    }
    assert_eq!(meet(R::Start, at(S::Provisioning, D::Stopped, Some(Op::Stop))), M::Supersede(Op::Start));
}

#[test]
fn an_upgrade_before_its_swap_is_met_by_status() {
    let before = at(S::Running, D::Running, Some(Op::Upgrade));
    assert_eq!(meet(ADMIT, before), M::Answer(Answer::Admitted));
    assert_eq!(meet(R::Start, before), ALREADY);
    assert_eq!(meet(ADMIT, at(S::Failed, D::Running, Some(Op::Upgrade))), no(Reason::EngineUnhealthy));
    assert_eq!(meet(ADMIT, at(S::Sleeping, D::Sleeping, Some(Op::Upgrade))), M::Join);
    assert_eq!(meet(ADMIT, at(S::Stopped, D::Stopped, Some(Op::Recreate))), no(Reason::EngineStopped));
}

#[test]
fn a_repeated_provision_is_answered_from_what_became_of_the_engine() {
    let told = |status, desired| replay(at(status, desired, None));
    assert_eq!(told(S::Provisioning, D::Running), Replay::Join);
    assert_eq!(told(S::Running, D::Running), Replay::Present);
    assert_eq!(told(S::Sleeping, D::Sleeping), Replay::Present);
    assert_eq!(told(S::Stopped, D::Stopped), Replay::Present);
    assert_eq!(told(S::Failed, D::Running), Replay::Failure);
    assert_eq!(told(S::Destroying, D::Destroyed), Replay::Refuse(Code::EngineBusy));
    assert_eq!(replay(None), Replay::Refuse(Code::EngineNotFound));
}

#[test]
fn reasons_are_the_words_of_the_wire() {
    let words: Vec<String> =
        Reason::ALL.iter().map(|r| serde_json::to_string(r).expect("a reason is a word")).collect();
    assert_eq!(
        words,
        [
            "\"engine_not_found\"",
            "\"engine_sleeping\"",
            "\"engine_stopped\"",
            "\"engine_unhealthy\"",
            "\"engine_destroying\""
        ]
    );
}
