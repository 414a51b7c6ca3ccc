//! The states of an engine, what it should be, and which pairs of the two can exist.

use contract::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
        pub enum $name { $($(#[$vdoc])* #[serde(rename = $text)] $variant,)* }

        impl $name {
            /// Every value, in the order of the specification.
            pub const ALL: &'static [$name] = &[$($name::$variant),*];

            /// The word on the wire and in the registry.
            pub const fn as_str(self) -> &'static str {
                match self { $($name::$variant => $text),* }
            }

            /// Reads the word back; `None` for any other.
            pub fn parse(text: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|v| v.as_str() == text)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}
pub(crate) use words;

words! {
    /// What was last confirmed about an engine.
    Status {
        /// A boot is in progress.
        Provisioning = "provisioning",
        /// Healthy and serving, possibly degraded.
        Running = "running",
        /// Put to rest for lack of use.
        Sleeping = "sleeping",
        /// Stopped by hand.
        Stopped = "stopped",
        /// Did not boot, crashed, or failed its probes.
        Failed = "failed",
        /// Being removed.
        Destroying = "destroying",
    }
}

words! {
    /// What an engine should be.
    Desired {
        /// Serving.
        Running = "running",
        /// Asleep until it is needed.
        Sleeping = "sleeping",
        /// Down until a person starts it.
        Stopped = "stopped",
        /// Gone.
        Destroyed = "destroyed",
    }
}

words! {
    /// How an engine sleeps.
    SleepMode {
        /// Processes frozen, memory kept.
        Freeze = "freeze",
        /// Process stopped.
        Stop = "stop",
        /// Only the status says so.
        Label = "label",
    }
}

words! {
    /// Where engines run.
    BackendKind {
        /// Containers of a Docker daemon.
        Docker = "docker",
        /// Processes of this host.
        Subprocess = "subprocess",
        /// Pods of a cluster.
        Kubernetes = "kubernetes",
        /// In memory, for tests and trials.
        Simulated = "simulated",
    }
}

words! {
    /// Why an engine is failed.
    FailureReason {
        /// Not healthy before the boot deadline.
        BootTimeout = "boot_timeout",
        /// The backend refused or failed a call for good.
        BackendError = "backend_error",
        /// Probes got no answer in time.
        ProbeTimeout = "probe_timeout",
        /// Probes were refused or reset.
        ProbeRefused = "probe_refused",
        /// Probes got an answer that is not healthy.
        ProbeStatus = "probe_status",
        /// The process ended by itself.
        Crashed = "crashed",
        /// The process was killed for lack of memory.
        OomKilled = "oom_killed",
        /// The backend object is gone.
        ObjectMissing = "object_missing",
        /// The brain is gone; never replaced by an empty one.
        StorageMissing = "storage_missing",
        /// Exit code 2: the engine refused its configuration.
        ConfigRefused = "config_refused",
        /// Exit code 4: the brain is locked, fenced or on a refused file system.
        BrainRefused = "brain_refused",
        /// The brain's schema differs from the engine's.
        MigrationRequired = "migration_required",
        /// Another process holds the brain.
        BrainLocked = "brain_locked",
        /// Neither the new nor the old version boots.
        RollbackFailed = "rollback_failed",
    }
}

/// A status together with the data that belongs to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineState {
    /// A boot is in progress.
    Provisioning,
    /// Healthy and serving.
    Running,
    /// Asleep.
    Sleeping {
        /// How.
        mode: SleepMode,
        /// When it must be awake for its own schedule.
        wake_at: Option<Timestamp>,
    },
    /// Stopped by hand.
    Stopped,
    /// Not serving.
    Failed {
        /// Why.
        reason: FailureReason,
        /// Since when.
        since: Timestamp,
        /// The next attempt; `None` after giving up.
        next_restart_at: Option<Timestamp>,
    },
    /// Being removed.
    Destroying,
}
