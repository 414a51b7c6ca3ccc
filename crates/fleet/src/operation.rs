//! Operations: durable pieces of work on one engine, made of named steps.

use crate::lifecycle::words;
use serde::{Deserialize, Serialize};
use std::fmt;

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
