//! What a caller's request meets: the admit table, the requests' rows of the transition table and the
//! single-flight matrix, as one function.
//!
//! It answers for every standing, also for operations that this version never opens itself (a newer release may
//! share the database). It refuses to look at clocks, leases, quotas or policies: those are asked before or after.
//! The invariant: at most one operation is open per engine, so a request opens one only where none is open, and
//! otherwise joins, supersedes or is refused.

use crate::lifecycle::{Desired, Status, words};
use crate::operation::OperationKind;
use contract::FleetCode;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What a caller asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Request {
    /// A new engine.
    Provision,
    /// The engine's URL and key for one request.
    Admit {
        /// Make the engine when there is none.
        auto_provision: bool,
        /// Wake the engine when it sleeps.
        auto_wake: bool,
    },
    /// Up, by hand.
    Start,
    /// Down, by hand.
    Stop,
    /// Put to rest, by hand or for lack of use.
    Sleep,
    /// A new engine key.
    RotateKey,
    /// Gone.
    Destroy,
}

/// How an engine stands when the request arrives: its row and the kind of its open operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Standing {
    /// What was last confirmed.
    pub status: Status,
    /// What it should be.
    pub desired: Desired,
    /// The open operation.
    pub open: Option<OperationKind>,
}

words! {
    /// Why an engine is not handed out, in an answer of 200 with `admitted:false`.
    Reason {
        /// There is none.
        EngineNotFound = "engine_not_found",
        /// Asleep, and the caller did not ask to wake it.
        EngineSleeping = "engine_sleeping",
        /// Stopped by hand; only `start` ends that.
        EngineStopped = "engine_stopped",
        /// Failed; restarted by itself.
        EngineUnhealthy = "engine_unhealthy",
        /// Being removed.
        EngineDestroying = "engine_destroying",
    }
}

/// What can be answered from the row alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Answer {
    /// Hand it out, after the lease is taken in the row.
    Admitted,
    /// It sleeps already: 200.
    AlreadyAsleep,
}

/// What becomes of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Meeting {
    /// Answer now.
    Answer(Answer),
    /// Open this operation (nothing is open) and wait for it. `sleep` passes probe and fence first; `rotate_key`
    /// checks the window of the last rotation first. An `INSERT` that finds another operation means: meet again.
    Open(OperationKind),
    /// Wait for the open operation and answer from its result. Without one (a transitional row whose operation
    /// was lost) wait for the one the planner opens.
    Join,
    /// Join, and clear `restart_attempts`, `health_failures` and the give-up mark in the row (`start` that meets
    /// an automatic restart).
    JoinClearingCounters,
    /// Put this operation in the place of the open one and wait for it.
    Supersede(OperationKind),
    /// Refuse; nothing changes.
    Refuse(FleetCode),
    /// 200 with `admitted:false`; nothing changes.
    NotAdmitted(Reason),
}

/// Decides what a request meets. `None` = the product has no such engine.
pub fn meet(request: Request, standing: Option<Standing>) -> Meeting {
    match standing {
        None => without_row(request),
        Some(standing) => match standing.open {
            // A row that is being removed is met as such, whatever is still open beside it.
            Some(_) if standing.status == Status::Destroying && request != Request::Destroy => {
                with_open(request, standing, OperationKind::Destroy)
            }
            Some(open) => with_open(request, standing, open),
            None => at_rest(request, standing),
        },
    }
}

fn without_row(request: Request) -> Meeting {
    match request {
        Request::Provision | Request::Admit { auto_provision: true, .. } => {
            Meeting::Open(OperationKind::Provision)
        }
        Request::Admit { auto_provision: false, .. } => Meeting::NotAdmitted(Reason::EngineNotFound),
        Request::Start | Request::Stop | Request::Sleep | Request::RotateKey | Request::Destroy => {
            Meeting::Refuse(FleetCode::EngineNotFound)
        }
    }
}

/// §5.3: the matrix.
fn with_open(request: Request, standing: Standing, open: OperationKind) -> Meeting {
    use OperationKind as Op;
    match request {
        Request::Provision => Meeting::Refuse(FleetCode::EngineAlreadyExists),
        Request::Admit { auto_wake, .. } => match open {
            Op::Provision | Op::Start | Op::Wake => Meeting::Join,
            Op::Restart => Meeting::NotAdmitted(Reason::EngineUnhealthy),
            Op::Stop => Meeting::NotAdmitted(Reason::EngineStopped),
            Op::Sleep if auto_wake => Meeting::Supersede(Op::Wake),
            Op::Sleep => Meeting::NotAdmitted(Reason::EngineSleeping),
            Op::RotateKey | Op::Upgrade | Op::Recreate | Op::Restore => admit_beside(standing),
            Op::Destroy => Meeting::NotAdmitted(Reason::EngineDestroying),
        },
        Request::Start => match open {
            Op::Provision | Op::Start | Op::Wake | Op::Recreate | Op::Restore => Meeting::Join,
            Op::Restart => Meeting::JoinClearingCounters,
            Op::Stop | Op::Sleep => Meeting::Supersede(Op::Start),
            Op::RotateKey => Meeting::Refuse(FleetCode::EngineAlreadyRunning),
            Op::Upgrade if standing.status == Status::Running => {
                Meeting::Refuse(FleetCode::EngineAlreadyRunning)
            }
            Op::Upgrade => Meeting::Join,
            Op::Destroy => Meeting::Refuse(FleetCode::EngineBusy),
        },
        Request::Stop => match open {
            Op::Provision | Op::Start | Op::Wake | Op::Restart | Op::Sleep => Meeting::Supersede(Op::Stop),
            Op::Stop => Meeting::Join,
            Op::RotateKey | Op::Upgrade | Op::Recreate | Op::Restore | Op::Destroy => {
                Meeting::Refuse(FleetCode::EngineBusy)
            }
        },
        Request::Sleep => match open {
            Op::Provision | Op::Start | Op::Wake | Op::Restart => {
                Meeting::Refuse(FleetCode::EngineNotRunning)
            }
            Op::Sleep => Meeting::Join,
            Op::Stop | Op::RotateKey | Op::Upgrade | Op::Recreate | Op::Restore | Op::Destroy => {
                Meeting::Refuse(FleetCode::EngineBusy)
            }
        },
        Request::RotateKey => match open {
            Op::Provision | Op::Start | Op::Wake | Op::Restart => {
                Meeting::Refuse(FleetCode::EngineNotRunning)
            }
            Op::Stop | Op::Sleep | Op::RotateKey | Op::Upgrade | Op::Recreate | Op::Restore | Op::Destroy => {
                Meeting::Refuse(FleetCode::EngineBusy)
            }
        },
        Request::Destroy => match open {
            Op::Destroy => Meeting::Join,
            Op::Provision
            | Op::Start
            | Op::Stop
            | Op::Sleep
            | Op::Wake
            | Op::Restart
            | Op::RotateKey
            | Op::Upgrade
            | Op::Recreate
            | Op::Restore => Meeting::Supersede(Op::Destroy),
        },
    }
}

/// An admit beside an operation that may leave the engine serving. A sleeper whose object is being replaced keeps
/// its status, so an admit joins there; whoever joins reads the row again afterwards.
fn admit_beside(standing: Standing) -> Meeting {
    match (standing.status, standing.desired) {
        (Status::Running, Desired::Running) => Meeting::Answer(Answer::Admitted),
        (Status::Destroying, _) | (_, Desired::Destroyed) => Meeting::NotAdmitted(Reason::EngineDestroying),
        (_, Desired::Stopped) => Meeting::NotAdmitted(Reason::EngineStopped),
        (Status::Failed, _) => Meeting::NotAdmitted(Reason::EngineUnhealthy),
        (Status::Provisioning | Status::Sleeping | Status::Stopped, Desired::Running | Desired::Sleeping)
        | (Status::Running, Desired::Sleeping) => Meeting::Join,
    }
}

/// §3.4 and §5.2: nothing is open. A pair of two different words is then an intent whose operation was lost; it
/// is met as if that operation were open, except that there is nothing to supersede.
fn at_rest(request: Request, standing: Standing) -> Meeting {
    use OperationKind as Op;
    let Standing { status, desired, .. } = standing;
    match request {
        Request::Provision => Meeting::Refuse(FleetCode::EngineAlreadyExists),
        Request::Admit { auto_wake, .. } => match (status, desired) {
            (Status::Destroying, _) | (_, Desired::Destroyed) => {
                Meeting::NotAdmitted(Reason::EngineDestroying)
            }
            (_, Desired::Stopped) => Meeting::NotAdmitted(Reason::EngineStopped),
            (Status::Running, Desired::Running) => Meeting::Answer(Answer::Admitted),
            (Status::Provisioning, Desired::Running | Desired::Sleeping) => Meeting::Join,
            (Status::Sleeping, Desired::Running) => Meeting::Open(Op::Wake),
            (Status::Stopped, Desired::Running) => Meeting::Open(Op::Start),
            (Status::Running | Status::Sleeping, Desired::Sleeping) if auto_wake => Meeting::Open(Op::Wake),
            (Status::Running | Status::Sleeping, Desired::Sleeping) => {
                Meeting::NotAdmitted(Reason::EngineSleeping)
            }
            (Status::Stopped, Desired::Sleeping) => Meeting::NotAdmitted(Reason::EngineStopped),
            (Status::Failed, Desired::Running | Desired::Sleeping) => {
                Meeting::NotAdmitted(Reason::EngineUnhealthy)
            }
        },
        Request::Start => match (status, desired) {
            (Status::Destroying, _) => Meeting::Refuse(FleetCode::EngineBusy),
            (Status::Running, Desired::Running) => Meeting::Refuse(FleetCode::EngineAlreadyRunning),
            (Status::Provisioning, Desired::Running) => Meeting::Join,
            (
                Status::Provisioning | Status::Running | Status::Sleeping | Status::Stopped | Status::Failed,
                _,
            ) => Meeting::Open(Op::Start),
        },
        Request::Stop => match (status, desired) {
            (Status::Destroying, _) => Meeting::Refuse(FleetCode::EngineBusy),
            (Status::Stopped, Desired::Stopped) => Meeting::Refuse(FleetCode::EngineNotRunning),
            (
                Status::Provisioning | Status::Running | Status::Sleeping | Status::Stopped | Status::Failed,
                _,
            ) => Meeting::Open(Op::Stop),
        },
        Request::Sleep => match (status, desired) {
            (Status::Destroying, _) | (Status::Running | Status::Sleeping, Desired::Stopped) => {
                Meeting::Refuse(FleetCode::EngineBusy)
            }
            (Status::Sleeping, Desired::Sleeping) => Meeting::Answer(Answer::AlreadyAsleep),
            (Status::Running, _) => Meeting::Open(Op::Sleep),
            (Status::Provisioning | Status::Sleeping | Status::Stopped | Status::Failed, _) => {
                Meeting::Refuse(FleetCode::EngineNotRunning)
            }
        },
        Request::RotateKey => match (status, desired) {
            (Status::Destroying, _) => Meeting::Refuse(FleetCode::EngineBusy),
            (Status::Running, Desired::Running) => Meeting::Open(Op::RotateKey),
            (Status::Running, _) => Meeting::Refuse(FleetCode::EngineBusy),
            (Status::Provisioning | Status::Sleeping | Status::Stopped | Status::Failed, _) => {
                Meeting::Refuse(FleetCode::EngineNotRunning)
            }
        },
        Request::Destroy => Meeting::Open(Op::Destroy),
    }
}

/// What a provision with a known `Idempotency-Key` and the same body is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Replay {
    /// Wait for the boot and answer from its result.
    Join,
    /// 200 with the five fields of the present record.
    Present,
    /// The error it failed with.
    Failure,
    /// Refuse.
    Refuse(FleetCode),
}

/// Answers a repeated provision from what became of the engine. `None` = destroyed since.
pub fn replay(standing: Option<Standing>) -> Replay {
    let Some(standing) = standing else { return Replay::Refuse(FleetCode::EngineNotFound) };
    match standing.status {
        Status::Provisioning => Replay::Join,
        Status::Running | Status::Sleeping | Status::Stopped => Replay::Present,
        Status::Failed => Replay::Failure,
        Status::Destroying => Replay::Refuse(FleetCode::EngineBusy),
    }
}
