//! Operations: durable pieces of work on one engine, made of named steps.
//!
//! What a kind does to the row when it opens, whether it needs a permit, how long its retries wait. It refuses to
//! know how a step is performed. The invariant: a step's name is written before the step acts, and every step may
//! run again.

use crate::lifecycle::{Desired, Status, words};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

words! {
    /// What an operation does.
    OperationKind {
        /// First boot.
        Provision = "provision",
        /// Start by hand.
        Start = "start",
        /// Stop by hand.
        Stop = "stop",
        /// Put to rest.
        Sleep = "sleep",
        /// Bring back from rest.
        Wake = "wake",
        /// Automatic restart of a failed engine.
        Restart = "restart",
        /// New engine key without restart.
        RotateKey = "rotate_key",
        /// Change of image.
        Upgrade = "upgrade",
        /// Rebuild of the backend object.
        Recreate = "recreate",
        /// Another brain under the same engine.
        Restore = "restore",
        /// Removal.
        Destroy = "destroy",
    }
}

words! {
    /// How far an operation is.
    OperationStatus {
        /// Work goes on.
        Open = "open",
        /// Ended as asked.
        Succeeded = "succeeded",
        /// Ended otherwise.
        Failed = "failed",
        /// Another operation took its place.
        Superseded = "superseded",
    }
}

words! {
    /// A named step; its name is written before it acts.
    Step {
        /// Nothing but the row exists yet.
        Open = "open",
        /// Wait until the executor of a superseded operation has let go.
        Settle = "settle",
        /// Make the image present.
        Pull = "pull",
        /// Make the storage present; in `destroy`: remove it.
        Storage = "storage",
        /// Make exactly one object, started.
        Create = "create",
        /// Start in place, or make the object anew.
        Start = "start",
        /// Wait until it is healthy.
        Boot = "boot",
        /// Look whether there is anything to restart.
        Recheck = "recheck",
        /// Freeze or stop for a sleep.
        Suspend = "suspend",
        /// Thaw or start for a wake.
        Resume = "resume",
        /// SIGTERM, grace, SIGKILL.
        Stop = "stop",
        /// Tell the engine its new key.
        Engine = "engine",
        /// Remove the object.
        Object = "object",
        /// See that nothing is left.
        Verify = "verify",
        /// Record the outcome.
        Finish = "finish",
    }
}

impl Step {
    /// True when this step is performed without the backend: it goes on while that is away.
    pub const fn is_without_backend(self) -> bool {
        matches!(self, Step::Finish)
    }
}

impl OperationKind {
    /// The steps of this kind in order; empty for kinds this version never opens.
    pub const fn steps(self) -> &'static [Step] {
        use Step::*;
        match self {
            OperationKind::Provision => &[Settle, Pull, Storage, Create, Boot, Finish],
            OperationKind::Start => &[Settle, Start, Boot, Finish],
            OperationKind::Stop => &[Settle, Stop, Finish],
            OperationKind::Sleep => &[Settle, Suspend, Finish],
            OperationKind::Wake => &[Settle, Resume, Boot, Finish],
            OperationKind::Restart => &[Settle, Recheck, Stop, Start, Boot, Finish],
            OperationKind::RotateKey => &[Settle, Engine, Finish],
            OperationKind::Destroy => &[Settle, Object, Storage, Verify, Finish],
            OperationKind::Upgrade | OperationKind::Recreate | OperationKind::Restore => &[],
        }
    }
}

impl OperationKind {
    /// The pair of (status, desired) that opening this operation leaves in the row. Status changes at once only
    /// where the operation itself is the status: a first boot and a removal.
    pub const fn opened(self, status: Status, desired: Desired) -> (Status, Desired) {
        match self {
            OperationKind::Provision => (Status::Provisioning, Desired::Running),
            OperationKind::Start | OperationKind::Wake | OperationKind::Restart => (status, Desired::Running),
            OperationKind::Stop => (status, Desired::Stopped),
            OperationKind::Sleep => (status, Desired::Sleeping),
            OperationKind::Destroy => (Status::Destroying, Desired::Destroyed),
            OperationKind::RotateKey
            | OperationKind::Upgrade
            | OperationKind::Recreate
            | OperationKind::Restore => (status, desired),
        }
    }

    /// The pair that this operation leaves when it ends as asked, begun in `status`; `None` = the row is gone. What
    /// is rebuilt while asleep or stopped goes back to that.
    pub const fn succeeded(self, status: Status) -> Option<(Status, Desired)> {
        match self {
            OperationKind::Provision
            | OperationKind::Start
            | OperationKind::Wake
            | OperationKind::Restart => Some((Status::Running, Desired::Running)),
            OperationKind::Stop => Some((Status::Stopped, Desired::Stopped)),
            OperationKind::Sleep => Some((Status::Sleeping, Desired::Sleeping)),
            // Its engine may have crashed beside it: a new key makes nobody healthy.
            OperationKind::RotateKey => match status {
                Status::Destroying => Some((Status::Destroying, Desired::Destroyed)),
                Status::Provisioning
                | Status::Running
                | Status::Sleeping
                | Status::Stopped
                | Status::Failed => Some((status, Desired::Running)),
            },
            OperationKind::Upgrade | OperationKind::Recreate | OperationKind::Restore => match status {
                Status::Sleeping => Some((Status::Sleeping, Desired::Sleeping)),
                Status::Stopped => Some((Status::Stopped, Desired::Stopped)),
                Status::Provisioning | Status::Running | Status::Failed => {
                    Some((Status::Running, Desired::Running))
                }
                Status::Destroying => Some((Status::Destroying, Desired::Destroyed)),
            },
            OperationKind::Destroy => None,
        }
    }

    /// The counters (`health_failures`, `restart_attempts`, `next_restart_at`, failure fields) are cleared in
    /// the transaction that opens it: a person said "start", so the past does not count.
    pub const fn clears_counters_when_opened(self) -> bool {
        matches!(self, OperationKind::Start)
    }

    /// The counters are cleared in the transaction that ends it well.
    pub const fn clears_counters_when_done(self) -> bool {
        matches!(self, OperationKind::Stop | OperationKind::Upgrade)
    }

    /// Needs a start permit.
    pub const fn needs_start_permit(self) -> bool {
        match self {
            OperationKind::Provision
            | OperationKind::Start
            | OperationKind::Wake
            | OperationKind::Restart
            | OperationKind::Upgrade
            | OperationKind::Recreate
            | OperationKind::Restore => true,
            OperationKind::Stop
            | OperationKind::Sleep
            | OperationKind::RotateKey
            | OperationKind::Destroy => false,
        }
    }

    /// True while this step of it acts on the backend object, so that nobody else may. A rotation talks to the
    /// engine only; waiting for a predecessor must leave the object to that one.
    pub const fn touches_object(self, step: Step) -> bool {
        !matches!(self, OperationKind::RotateKey) && !matches!(step, Step::Open | Step::Settle | Step::Finish)
    }

    /// True when this version can open it.
    pub const fn is_opened_here(self) -> bool {
        !self.steps().is_empty()
    }
}

/// First wait before a stop or a removal that the backend failed is tried again. Shorter would hammer a daemon
/// in trouble; longer would leave a caller's stop undone for longer than a daemon restart takes.
pub const RETRY_BASE: Duration = Duration::from_secs(5);
/// Longest such wait. Longer would leave engines half removed long after the backend is back.
pub const RETRY_CAP: Duration = Duration::from_secs(300);

/// Wait before attempt `attempt` + 1 of a step that must succeed in the end: 5, 10, 20 … 300 s.
pub fn retry_delay(attempt: u32) -> Duration {
    doubled(RETRY_BASE, attempt, RETRY_CAP)
}

/// `base` · 2^`times`, at most `cap`.
pub(crate) fn doubled(base: Duration, times: u32, cap: Duration) -> Duration {
    let factor = 1u32.checked_shl(times).unwrap_or(u32::MAX);
    base.checked_mul(factor).map_or(cap, |wait| wait.min(cap))
}
