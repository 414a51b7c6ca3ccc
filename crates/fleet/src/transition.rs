//! The transition table (§5.2): what an event does to an engine, as data.
//!
//! Requests are answered by [`crate::request`]; here they are cells of the same table, beside what boots, probes,
//! backends and clocks report. It refuses to act and to count: whether a failure was the last one allowed is part
//! of the event. The invariant: every cell is expressed, and no cell leads to a pair that is not legal.

use crate::audit::{AuditAction, Outcome};
use crate::lifecycle::{Desired, Status};
use crate::operation::OperationKind;
use crate::request::{Answer, Meeting, Reason, Request, Standing, meet};
use contract::FleetCode;

/// A row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// A product or a person asks.
    Asked(Request),
    /// Somebody needs the engine awake (an admit with `auto_wake`).
    Wake,
    /// API 8 or a rollout.
    Upgrade {
        /// An open upgrade leads to the same version.
        same_version: bool,
    },
    /// Command line: rebuild the object.
    Recreate,
    /// Command line: another brain.
    Restore,
    /// The boot of the open operation ended healthy.
    BootReady,
    /// The boot of the open operation failed: deadline, object gone, exit code 2 or 4, migration required.
    BootFailed {
        /// The restart rules answer `GiveUp`.
        gives_up: bool,
    },
    /// A probe of the sweep was healthy or degraded.
    ProbeOk,
    /// A probe of the sweep failed.
    ProbeFailed {
        /// It was failure number `ORCH_HEALTH_MAX_FAILURES`, and the brake lets it pass.
        at_limit: bool,
        /// The restart rules answer `GiveUp`.
        gives_up: bool,
    },
    /// The backend reports exit, OOM or a restart of its own.
    Crashed {
        /// The restart rules answer `GiveUp`.
        gives_up: bool,
    },
    /// A fresh list and a fresh look agree that the object is gone.
    ObjectMissing {
        /// The restart rules answer `GiveUp`.
        gives_up: bool,
    },
    /// `next_restart_at` has come and the backend answers.
    RestartDue,
    /// Healthy while failed.
    Recovered,
    /// An object with a generation above the row's.
    NewerObject,
    /// An object with a generation below the row's.
    OlderObject,
    /// The backend does not answer.
    BackendUnreachable,
    /// `wake_at` has come.
    ScheduleDue,
    /// Object and storage are confirmed absent.
    Destroyed,
}

/// A cell of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cell {
    /// Cannot happen or has no effect.
    Nothing,
    /// Refused; nothing changes.
    Refuse(FleetCode),
    /// 200 with `admitted:false`; nothing changes.
    NotAdmitted(Reason),
    /// Answered from the row.
    Answer(Answer),
    /// `target_version` is stored and used by the next start: 200 with `applied:false`.
    TargetStored,
    /// Waits for the open operation (or for the one the planner opens).
    Join {
        /// Counters and give-up mark are cleared as well.
        clears_counters: bool,
    },
    /// An operation opens.
    Open(Opening),
    /// Status or row change now.
    Change(Change),
    /// Vitals only.
    Vitals,
    /// Noted in vitals; whoever starts it next deals with it.
    Noted,
    /// Belongs to the boot of the open operation, which sees it by itself.
    PartOfBoot,
    /// The open operation repeats the step that makes the object.
    RepeatCreate,
    /// The open operation leads back to the old version.
    RollBack,
    /// The open operation waits; waiting is not a failed attempt.
    Waits,
    /// The row's generation becomes the observed one. Audit `adopt`.
    AdoptGeneration,
    /// The object is removed, storage is kept.
    RemoveObject {
        /// Rows to write; none where the removal of the whole engine is under way.
        audit: &'static [AuditAction],
    },
}

/// What opening an operation writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opening {
    /// Its kind.
    pub kind: OperationKind,
    /// The kind it takes the place of.
    pub supersedes: Option<OperationKind>,
    /// Status in the row from now on.
    pub status: Status,
    /// Desired in the row from now on.
    pub desired: Desired,
    /// Counters, failure fields and give-up mark are cleared now.
    pub clears_counters: bool,
    /// Rows written now; only `restart` has an opening row.
    pub audit: &'static [AuditAction],
}

/// What a transition writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// The pair from now on; `None` = the row is deleted.
    pub to: Option<(Status, Desired)>,
    /// Rows to write, in this order.
    pub audit: &'static [AuditAction],
    /// `metadata.outcome` of the rows, where they end an attempt; a failure that nobody attempted has none.
    pub outcome: Option<Outcome>,
    /// What becomes of `next_restart_at`.
    pub restart: Restart,
}

/// What a transition does to the restart schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// Nothing to schedule.
    None,
    /// `next_restart_at` = now + delay.
    Scheduled,
    /// `next_restart_at` null, the object is stopped.
    GivenUp,
}

/// The cell for an event. `status` `None` = there is no row; `desired` and `open` are ignored then.
pub fn next(
    status: Option<Status>,
    desired: Option<Desired>,
    open: Option<OperationKind>,
    event: &Event,
) -> Cell {
    match (status, desired) {
        (Some(status), Some(desired)) => with_row(Standing { status, desired, open }, event),
        (Some(_), None) | (None, _) => without_row(event),
    }
}

fn without_row(event: &Event) -> Cell {
    match event {
        Event::Asked(request) => met(meet(*request, None), None),
        Event::Upgrade { .. } | Event::Recreate | Event::Restore => Cell::Refuse(FleetCode::EngineNotFound),
        Event::NewerObject => Cell::RemoveObject { audit: &[AuditAction::OrphanRemoved] },
        Event::Wake
        | Event::BootReady
        | Event::BootFailed { .. }
        | Event::ProbeOk
        | Event::ProbeFailed { .. }
        | Event::Crashed { .. }
        | Event::ObjectMissing { .. }
        | Event::RestartDue
        | Event::Recovered
        | Event::OlderObject
        | Event::BackendUnreachable
        | Event::ScheduleDue
        | Event::Destroyed => Cell::Nothing,
    }
}

fn with_row(at: Standing, event: &Event) -> Cell {
    match *event {
        Event::Asked(request) => met(meet(request, Some(at)), Some(at)),
        Event::Wake => wake(at),
        Event::Upgrade { same_version } => upgrade(at, same_version),
        Event::Recreate => rebuild(at, OperationKind::Recreate),
        Event::Restore => rebuild(at, OperationKind::Restore),
        Event::BootReady => boot_ready(at),
        Event::BootFailed { gives_up } => boot_failed(at, gives_up),
        Event::ProbeOk => match at.status {
            Status::Running => Cell::Vitals,
            Status::Failed => recovered(at),
            Status::Provisioning | Status::Sleeping | Status::Stopped | Status::Destroying => Cell::Nothing,
        },
        Event::ProbeFailed { at_limit, gives_up } => match at.status {
            Status::Provisioning => Cell::PartOfBoot,
            Status::Running if at_limit => stops_serving(at, gives_up),
            Status::Running => Cell::Vitals,
            Status::Sleeping | Status::Stopped | Status::Failed | Status::Destroying => Cell::Nothing,
        },
        Event::Crashed { gives_up } => match at.status {
            Status::Provisioning => Cell::PartOfBoot,
            Status::Running => stops_serving(at, gives_up),
            Status::Sleeping => Cell::Noted,
            Status::Stopped | Status::Failed | Status::Destroying => Cell::Nothing,
        },
        Event::ObjectMissing { gives_up } => match at.status {
            Status::Provisioning if at.desired == Desired::Stopped => Cell::Noted,
            Status::Provisioning => Cell::RepeatCreate,
            Status::Running => stops_serving(at, gives_up),
            Status::Sleeping | Status::Stopped | Status::Failed | Status::Destroying => Cell::Noted,
        },
        Event::RestartDue => match (at.status, at.desired, at.open) {
            (Status::Failed, Desired::Running, None) => opening(at, OperationKind::Restart, None),
            _ => Cell::Nothing,
        },
        Event::Recovered => recovered(at),
        Event::NewerObject => match at.status {
            Status::Destroying => Cell::RemoveObject { audit: &[] },
            Status::Provisioning | Status::Running | Status::Sleeping | Status::Stopped | Status::Failed => {
                Cell::AdoptGeneration
            }
        },
        Event::OlderObject => match at.status {
            Status::Destroying => Cell::RemoveObject { audit: &[] },
            Status::Provisioning | Status::Running | Status::Sleeping | Status::Stopped | Status::Failed => {
                Cell::RemoveObject { audit: &[AuditAction::OrphanRemoved] }
            }
        },
        Event::BackendUnreachable => match (at.status.is_transitional(), at.open) {
            (true, _) | (false, Some(_)) => Cell::Waits,
            (false, None) => Cell::Nothing,
        },
        Event::ScheduleDue => match (at.status, at.desired, at.open) {
            (Status::Sleeping, Desired::Sleeping, None) => opening(at, OperationKind::Wake, None),
            _ => Cell::Nothing,
        },
        Event::Destroyed => match at.status {
            Status::Destroying => Cell::Change(Change {
                to: None,
                audit: &[AuditAction::Destroy],
                outcome: Some(Outcome::Ok),
                restart: Restart::None,
            }),
            Status::Provisioning | Status::Running | Status::Sleeping | Status::Stopped | Status::Failed => {
                Cell::Nothing
            }
        },
    }
}

fn met(meeting: Meeting, at: Option<Standing>) -> Cell {
    // A row that does not exist yet opens as a first boot does.
    let standing =
        at.unwrap_or(Standing { status: Status::Provisioning, desired: Desired::Running, open: None });
    match meeting {
        Meeting::Answer(answer) => Cell::Answer(answer),
        Meeting::Open(kind) => opening(standing, kind, None),
        Meeting::Supersede(kind) => opening(standing, kind, standing.open),
        Meeting::Join => Cell::Join { clears_counters: false },
        Meeting::JoinClearingCounters => Cell::Join { clears_counters: true },
        Meeting::Refuse(code) => Cell::Refuse(code),
        Meeting::NotAdmitted(reason) => Cell::NotAdmitted(reason),
    }
}

fn opening(at: Standing, kind: OperationKind, supersedes: Option<OperationKind>) -> Cell {
    let (status, desired) = kind.opened(at.status, at.desired);
    let audit: &'static [AuditAction] = match kind {
        OperationKind::Restart => &[AuditAction::AutoRestartStart],
        OperationKind::Provision
        | OperationKind::Start
        | OperationKind::Stop
        | OperationKind::Sleep
        | OperationKind::Wake
        | OperationKind::RotateKey
        | OperationKind::Upgrade
        | OperationKind::Recreate
        | OperationKind::Restore
        | OperationKind::Destroy => &[],
    };
    let clears_counters = kind.clears_counters_when_opened();
    Cell::Open(Opening { kind, supersedes, status, desired, clears_counters, audit })
}

fn wake(at: Standing) -> Cell {
    match (at.status, at.desired, at.open) {
        (Status::Running | Status::Sleeping, Desired::Sleeping, None | Some(OperationKind::Sleep)) => {
            opening(at, OperationKind::Wake, at.open)
        }
        (Status::Sleeping, Desired::Running, None) => opening(at, OperationKind::Wake, None),
        (Status::Sleeping, Desired::Running, Some(OperationKind::Wake | OperationKind::Start)) => {
            Cell::Join { clears_counters: false }
        }
        _ => Cell::Nothing,
    }
}

fn upgrade(at: Standing, same_version: bool) -> Cell {
    match (at.open, at.status) {
        (Some(OperationKind::Upgrade), _) if same_version => Cell::Join { clears_counters: false },
        (Some(_), _) | (None, Status::Provisioning | Status::Destroying) => {
            Cell::Refuse(FleetCode::EngineBusy)
        }
        (None, Status::Stopped) => Cell::TargetStored,
        (None, Status::Running | Status::Sleeping | Status::Failed) => {
            opening(at, OperationKind::Upgrade, None)
        }
    }
}

fn rebuild(at: Standing, kind: OperationKind) -> Cell {
    match (at.open, at.status) {
        (Some(_), _) | (None, Status::Provisioning | Status::Destroying) => {
            Cell::Refuse(FleetCode::EngineBusy)
        }
        (None, Status::Running | Status::Sleeping | Status::Stopped | Status::Failed) => {
            opening(at, kind, None)
        }
    }
}

fn serving(audit: &'static [AuditAction]) -> Cell {
    let to = Some((Status::Running, Desired::Running));
    Cell::Change(Change { to, audit, outcome: Some(Outcome::Ok), restart: Restart::None })
}

/// A boot ends well. Which row closes it is the operation's, not the status's: a sleep that was superseded by a
/// wake is still `running`, a cancelled first boot that was started again is still `provisioning`.
fn boot_ready(at: Standing) -> Cell {
    let Some(open) = at.open else { return Cell::Nothing };
    match (open, at.status) {
        (_, Status::Destroying) => Cell::Nothing,
        (OperationKind::Provision, Status::Provisioning) => serving(&[AuditAction::Provision]),
        (OperationKind::Start, _) => serving(&[AuditAction::Start]),
        (OperationKind::Wake, Status::Running | Status::Sleeping) => serving(&[AuditAction::Wake]),
        (OperationKind::Restart, Status::Failed) => serving(&[AuditAction::AutoRestartSuccess]),
        (OperationKind::Upgrade, Status::Provisioning | Status::Stopped) => serving(&[AuditAction::Upgrade]),
        (OperationKind::Recreate, Status::Provisioning) => serving(&[AuditAction::Recreate]),
        (OperationKind::Restore, Status::Provisioning) => serving(&[AuditAction::Restore]),
        // A sleeper whose object was replaced goes to rest again after its verified boot.
        (OperationKind::Upgrade, Status::Sleeping) => asleep_again(&[AuditAction::Upgrade]),
        (OperationKind::Recreate, Status::Sleeping) => asleep_again(&[AuditAction::Recreate]),
        (OperationKind::Restore, Status::Sleeping) => asleep_again(&[AuditAction::Restore]),
        (
            OperationKind::Provision
            | OperationKind::Wake
            | OperationKind::Restart
            | OperationKind::Upgrade
            | OperationKind::Recreate
            | OperationKind::Restore
            | OperationKind::Stop
            | OperationKind::Sleep
            | OperationKind::RotateKey
            | OperationKind::Destroy,
            _,
        ) => Cell::Nothing,
    }
}

fn asleep_again(audit: &'static [AuditAction]) -> Cell {
    let to = Some((Status::Sleeping, Desired::Sleeping));
    Cell::Change(Change { to, audit, outcome: Some(Outcome::Ok), restart: Restart::None })
}

fn boot_failed(at: Standing, gives_up: bool) -> Cell {
    let Some(open) = at.open else { return Cell::Nothing };
    let failed = |audit, audit_at_the_limit| fails(audit, audit_at_the_limit, gives_up);
    match (open, at.status) {
        (_, Status::Destroying) => Cell::Nothing,
        (OperationKind::Upgrade, _) => Cell::RollBack,
        (OperationKind::Provision, Status::Provisioning) => failed(
            &[AuditAction::ProvisionFailed],
            &[AuditAction::ProvisionFailed, AuditAction::AutoRestartGaveUp],
        ),
        (OperationKind::Start, _) => {
            failed(&[AuditAction::Start], &[AuditAction::Start, AuditAction::AutoRestartGaveUp])
        }
        (OperationKind::Wake, Status::Running | Status::Sleeping) => {
            failed(&[AuditAction::Wake], &[AuditAction::Wake, AuditAction::AutoRestartGaveUp])
        }
        (OperationKind::Restart, Status::Failed) => failed(
            &[AuditAction::AutoRestartFailed],
            &[AuditAction::AutoRestartFailed, AuditAction::AutoRestartGaveUp],
        ),
        (OperationKind::Recreate, Status::Provisioning | Status::Sleeping) => {
            failed(&[AuditAction::Recreate], &[AuditAction::Recreate, AuditAction::AutoRestartGaveUp])
        }
        (OperationKind::Restore, Status::Provisioning | Status::Sleeping) => {
            failed(&[AuditAction::Restore], &[AuditAction::Restore, AuditAction::AutoRestartGaveUp])
        }
        (
            OperationKind::Provision
            | OperationKind::Wake
            | OperationKind::Restart
            | OperationKind::Recreate
            | OperationKind::Restore
            | OperationKind::Stop
            | OperationKind::Sleep
            | OperationKind::RotateKey
            | OperationKind::Destroy,
            _,
        ) => Cell::Nothing,
    }
}

fn fails(audit: &'static [AuditAction], at_the_limit: &'static [AuditAction], gives_up: bool) -> Cell {
    let (audit, restart) =
        if gives_up { (at_the_limit, Restart::GivenUp) } else { (audit, Restart::Scheduled) };
    let to = Some((Status::Failed, Desired::Running));
    Cell::Change(Change { to, audit, outcome: Some(Outcome::Failed), restart })
}

/// A running engine no longer serves. While an operation works on the object, that operation sees it by itself; a
/// key rotation touches no object and hides nothing.
fn stops_serving(at: Standing, gives_up: bool) -> Cell {
    match (at.open, at.desired) {
        (None | Some(OperationKind::RotateKey), Desired::Running | Desired::Sleeping) => {
            let (audit, restart): (&'static [AuditAction], Restart) = if gives_up {
                (&[AuditAction::HealthFailed, AuditAction::AutoRestartGaveUp], Restart::GivenUp)
            } else {
                (&[AuditAction::HealthFailed], Restart::Scheduled)
            };
            let to = Some((Status::Failed, Desired::Running));
            Cell::Change(Change { to, audit, outcome: None, restart })
        }
        (None | Some(OperationKind::RotateKey), Desired::Stopped | Desired::Destroyed) => Cell::Noted,
        (Some(OperationKind::Stop | OperationKind::Sleep | OperationKind::Destroy), _) => Cell::Noted,
        (
            Some(
                OperationKind::Provision
                | OperationKind::Start
                | OperationKind::Wake
                | OperationKind::Restart
                | OperationKind::Upgrade
                | OperationKind::Recreate
                | OperationKind::Restore,
            ),
            _,
        ) => Cell::PartOfBoot,
    }
}

fn recovered(at: Standing) -> Cell {
    match (at.status, at.desired, at.open) {
        (Status::Failed, Desired::Running, None | Some(OperationKind::Restart)) => {
            serving(&[AuditAction::AutoRestartSuccess])
        }
        _ => Cell::Nothing,
    }
}
