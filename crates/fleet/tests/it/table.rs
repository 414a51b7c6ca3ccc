//! The transition table: every event in every standing, as a committed text, and what holds for all of them.

use crate::golden;
use fleet::audit::Outcome;
use fleet::lifecycle::{Desired, Status, is_legal};
use fleet::operation::OperationKind;
use fleet::request::{Request, Standing};
use fleet::transition::{Cell, Event, Restart, next};
use std::fmt::Write;

pub const REQUESTS: &[(&str, Request)] = &[
    ("provision", Request::Provision),
    ("admit", Request::Admit { auto_provision: false, auto_wake: false }),
    ("admit, both flags", Request::Admit { auto_provision: true, auto_wake: true }),
    ("start", Request::Start),
    ("stop", Request::Stop),
    ("sleep", Request::Sleep),
    ("rotate_key", Request::RotateKey),
    ("destroy", Request::Destroy),
];

fn events() -> Vec<(String, Event)> {
    let mut events: Vec<(String, Event)> =
        REQUESTS.iter().map(|(name, request)| ((*name).to_owned(), Event::Asked(*request))).collect();
    let more = [
        ("wake", Event::Wake),
        ("upgrade", Event::Upgrade { same_version: false }),
        ("upgrade, same version", Event::Upgrade { same_version: true }),
        ("recreate", Event::Recreate),
        ("restore", Event::Restore),
        ("boot_ready", Event::BootReady),
        ("boot_failed", Event::BootFailed { gives_up: false }),
        ("boot_failed, last attempt", Event::BootFailed { gives_up: true }),
        ("probe_ok", Event::ProbeOk),
        ("probe_failed", Event::ProbeFailed { at_limit: false, gives_up: false }),
        ("probe_failed, at the limit", Event::ProbeFailed { at_limit: true, gives_up: false }),
        ("crashed", Event::Crashed { gives_up: false }),
        ("crashed, last attempt", Event::Crashed { gives_up: true }),
        ("object_missing", Event::ObjectMissing { gives_up: false }),
        ("restart_due", Event::RestartDue),
        ("recovered", Event::Recovered),
        ("newer_object", Event::NewerObject),
        ("older_object", Event::OlderObject),
        ("backend_unreachable", Event::BackendUnreachable),
        ("schedule_due", Event::ScheduleDue),
        ("destroyed", Event::Destroyed),
    ];
    events.extend(more.map(|(name, event)| (name.to_owned(), event)));
    events
}

fn standing(status: Status, desired: Desired, open: Option<OperationKind>) -> Standing {
    Standing { status, desired, open }
}

fn standings() -> Vec<Standing> {
    use OperationKind as Op;
    vec![
        standing(Status::Provisioning, Desired::Running, Some(Op::Provision)),
        standing(Status::Provisioning, Desired::Running, Some(Op::Upgrade)),
        standing(Status::Provisioning, Desired::Running, Some(Op::Recreate)),
        standing(Status::Provisioning, Desired::Stopped, Some(Op::Stop)),
        standing(Status::Provisioning, Desired::Running, None),
        standing(Status::Running, Desired::Running, None),
        standing(Status::Running, Desired::Running, Some(Op::Wake)),
        standing(Status::Running, Desired::Running, Some(Op::RotateKey)),
        standing(Status::Running, Desired::Sleeping, Some(Op::Sleep)),
        standing(Status::Running, Desired::Stopped, Some(Op::Stop)),
        standing(Status::Sleeping, Desired::Sleeping, None),
        standing(Status::Sleeping, Desired::Running, Some(Op::Wake)),
        standing(Status::Sleeping, Desired::Running, Some(Op::Start)),
        standing(Status::Stopped, Desired::Stopped, None),
        standing(Status::Stopped, Desired::Running, Some(Op::Start)),
        standing(Status::Failed, Desired::Running, None),
        standing(Status::Failed, Desired::Running, Some(Op::Restart)),
        standing(Status::Failed, Desired::Running, Some(Op::Start)),
        standing(Status::Failed, Desired::Stopped, Some(Op::Stop)),
        standing(Status::Destroying, Desired::Destroyed, Some(Op::Destroy)),
    ]
}

fn every_standing() -> Vec<Standing> {
    let opens = std::iter::once(None).chain(OperationKind::ALL.iter().copied().map(Some));
    let mut all = Vec::new();
    for open in opens {
        for &status in Status::ALL {
            for &desired in Desired::ALL {
                if is_legal(status, desired) {
                    all.push(standing(status, desired, open));
                }
            }
        }
    }
    all
}

fn cell(at: Option<Standing>, event: &Event) -> Cell {
    next(at.map(|at| at.status), at.map(|at| at.desired), at.and_then(|at| at.open), event)
}

pub fn words(cell: &Cell) -> String {
    let list = |audit: &[fleet::audit::AuditAction]| {
        if audit.is_empty() {
            String::new()
        } else {
            format!(" [{}]", audit.iter().map(|a| a.as_str()).collect::<Vec<_>>().join(", "))
        }
    };
    match cell {
        Cell::Nothing => "·".to_owned(),
        Cell::Refuse(code) => format!("!{code}"),
        Cell::NotAdmitted(reason) => format!("not admitted: {reason}"),
        Cell::Answer(answer) => format!("answer: {answer:?}"),
        Cell::TargetStored => "target stored, applied:false".to_owned(),
        Cell::Join { clears_counters: false } => "join".to_owned(),
        Cell::Join { clears_counters: true } => "join, counters cleared".to_owned(),
        Cell::Open(open) => {
            let over = open.supersedes.map_or(String::new(), |kind| format!(" over {kind}"));
            let cleared = if open.clears_counters { ", counters cleared" } else { "" };
            format!(
                "open {}{over} → {}/{}{cleared}{}",
                open.kind,
                open.status,
                open.desired,
                list(open.audit)
            )
        }
        Cell::Change(change) => {
            let to = change.to.map_or("none".to_owned(), |(status, desired)| format!("{status}/{desired}"));
            let outcome = match change.outcome {
                None | Some(Outcome::Ok) => "",
                Some(Outcome::Failed) => " outcome failed",
            };
            let restart = match change.restart {
                Restart::None => "",
                Restart::Scheduled => ", restart scheduled",
                Restart::GivenUp => ", given up",
            };
            format!("→ {to}{}{outcome}{restart}", list(change.audit))
        }
        Cell::Vitals => "vitals".to_owned(),
        Cell::Noted => "noted".to_owned(),
        Cell::PartOfBoot => "part of the boot".to_owned(),
        Cell::RepeatCreate => "step create repeats".to_owned(),
        Cell::RollBack => "rolls back".to_owned(),
        Cell::Waits => "waits".to_owned(),
        Cell::AdoptGeneration => "generation := observed [adopt]".to_owned(),
        Cell::RemoveObject { audit } => format!("object removed{}", list(audit)),
    }
}

#[test]
fn every_cell_of_the_table() {
    let mut text = String::new();
    for (name, event) in events() {
        writeln!(text, "{name}").expect("text grows");
        writeln!(text, "    {:<36}{}", "none", words(&cell(None, &event))).expect("text grows");
        for at in standings() {
            let open = at.open.map_or(String::new(), |kind| format!(" + {kind}"));
            let place = format!("{}/{}{open}", at.status, at.desired);
            writeln!(text, "    {place:<36}{}", words(&cell(Some(at), &event))).expect("text grows");
        }
    }
    golden::same("table.txt", &text);
}

#[test]
fn legal_pairs_only() {
    for at in every_standing() {
        for (name, event) in events() {
            let pair = match cell(Some(at), &event) {
                Cell::Open(open) => Some((open.status, open.desired)),
                Cell::Change(change) => change.to,
                Cell::Nothing
                | Cell::Refuse(_)
                | Cell::NotAdmitted(_)
                | Cell::Answer(_)
                | Cell::TargetStored
                | Cell::Join { .. }
                | Cell::Vitals
                | Cell::Noted
                | Cell::PartOfBoot
                | Cell::RepeatCreate
                | Cell::RollBack
                | Cell::Waits
                | Cell::AdoptGeneration
                | Cell::RemoveObject { .. } => None,
            };
            if let Some((status, desired)) = pair {
                // A row that contradicts its own open operation (sleeping while it is being provisioned) cannot
                // exist; it must still not lead to an illegal pair.
                assert!(is_legal(status, desired), "{name} on {at:?} leads to {status}/{desired}");
            }
        }
    }
}

#[test]
fn every_status_can_be_destroyed() {
    for at in every_standing() {
        let cell = cell(Some(at), &Event::Asked(Request::Destroy));
        match (at.open, cell) {
            (Some(OperationKind::Destroy), Cell::Join { .. }) => {}
            (open, Cell::Open(opening)) => {
                assert_eq!((opening.kind, opening.supersedes), (OperationKind::Destroy, open), "{at:?}");
            }
            (_, other) => panic!("{at:?}: {other:?}"),
        }
    }
}

#[test]
fn an_operation_opens_only_where_none_is_or_names_the_one_it_supersedes() {
    for at in every_standing() {
        for (name, event) in events() {
            if let Cell::Open(open) = cell(Some(at), &event) {
                assert_eq!(open.supersedes, at.open, "{name} on {at:?}");
            }
        }
    }
}

#[test]
fn a_silent_backend_changes_nothing_anywhere() {
    for at in every_standing() {
        let cell = cell(Some(at), &Event::BackendUnreachable);
        assert!(matches!(cell, Cell::Waits | Cell::Nothing), "{at:?}: {cell:?}");
    }
}

#[test]
fn failed_can_be_recovered_by_start() {
    let at = standing(Status::Failed, Desired::Running, None);
    let Cell::Open(open) = cell(Some(at), &Event::Asked(Request::Start)) else { panic!("start opens") };
    assert!(open.clears_counters);
    let at = standing(open.status, open.desired, Some(open.kind));
    assert_eq!(words(&cell(Some(at), &Event::BootReady)), "→ running/running [start]");
}

#[test]
fn a_good_boot_leaves_what_its_operation_says() {
    for at in standings() {
        if let (Some(kind), Cell::Change(change)) = (at.open, cell(Some(at), &Event::BootReady)) {
            assert_eq!(change.to, kind.succeeded(at.status), "{at:?}");
        }
    }
}

#[test]
fn every_operation_ends_in_a_legal_pair() {
    for &kind in OperationKind::ALL {
        for &status in Status::ALL {
            if let Some((status, desired)) = kind.succeeded(status) {
                assert!(is_legal(status, desired), "{kind} ends in {status}/{desired}");
            }
        }
    }
    assert_eq!(OperationKind::RotateKey.succeeded(Status::Failed), Some((Status::Failed, Desired::Running)));
    assert_eq!(OperationKind::Destroy.succeeded(Status::Destroying), None);
}

#[test]
fn one_actor_touches_an_object_and_a_rotation_touches_none() {
    use fleet::operation::Step;
    for &kind in OperationKind::ALL {
        for &step in kind.steps() {
            // Who waits for a predecessor must not hold what that one needs to come to its end.
            let acts = !matches!(step, Step::Settle | Step::Finish) && kind != OperationKind::RotateKey;
            assert_eq!(kind.touches_object(step), acts, "{kind} {}", step.as_str());
            assert!(!(step.is_without_backend() && kind.touches_object(step)), "{kind} {}", step.as_str());
        }
        assert!(
            kind.steps().last().is_none_or(|last| last.is_without_backend()),
            "{kind} ends in the database"
        );
    }
}

#[test]
fn retries_of_what_must_succeed_double_to_five_minutes() {
    let waits: Vec<u64> = (0..9).map(|n| fleet::operation::retry_delay(n).as_secs()).collect();
    assert_eq!(waits, [5, 10, 20, 40, 80, 160, 300, 300, 300]);
}

#[test]
fn the_engine_state_names_its_status() {
    use contract::Timestamp;
    use fleet::lifecycle::{EngineState, FailureReason, SleepMode};
    let states = [
        EngineState::Provisioning,
        EngineState::Running,
        EngineState::Sleeping { mode: SleepMode::Freeze, wake_at: None },
        EngineState::Stopped,
        EngineState::Failed {
            reason: FailureReason::Crashed,
            since: Timestamp::from_millis(0),
            next_restart_at: None,
        },
        EngineState::Destroying,
    ];
    let statuses: Vec<Status> = states.iter().map(EngineState::status).collect();
    assert_eq!(statuses, Status::ALL);
}
