//! The states of an engine, what it should be, and which pairs of the two can exist.
//!
//! The subsets say once, by name, what a status allows; nothing else compares statuses one by one. The table of
//! what follows what is in [`crate::transition`], what a caller meets in [`crate::request`]. This file refuses to
//! know about operations. The invariant: a pair for which [`is_legal`] is false is never written.

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

/// Statuses in which an admit may be answered with the engine.
pub const ADMITTABLE: &[Status] = &[Status::Running];
/// Statuses that the sweep probes.
pub const PROBED: &[Status] = &[Status::Running];
/// Statuses that may be put to rest.
pub const SLEEPABLE: &[Status] = &[Status::Running];
/// Statuses in which the key may be rotated.
pub const ROTATABLE: &[Status] = &[Status::Running];
/// Statuses that `start` leads out of.
pub const STARTABLE: &[Status] = &[Status::Sleeping, Status::Stopped, Status::Failed];
/// Statuses that `stop` leads out of.
pub const STOPPABLE: &[Status] = &[Status::Provisioning, Status::Running, Status::Sleeping, Status::Failed];
/// Statuses in which the image may be changed.
pub const UPGRADABLE: &[Status] = &[Status::Running, Status::Sleeping, Status::Stopped, Status::Failed];
/// Statuses that the restart loop looks at.
pub const RESTARTABLE: &[Status] = &[Status::Failed];
/// Statuses that cannot last without an open operation.
pub const TRANSITIONAL: &[Status] = &[Status::Provisioning, Status::Destroying];
/// Statuses that can be destroyed: all.
pub const DESTROYABLE: &[Status] = Status::ALL;
/// Statuses whose row keeps its port: all.
pub const HOLDS_PORT: &[Status] = Status::ALL;
/// Statuses that count for `max_engines`: all.
pub const COUNTS_FOR_QUOTA: &[Status] = Status::ALL;

impl Status {
    /// May a product be given this engine?
    pub const fn is_admittable(self) -> bool {
        match self {
            Status::Running => true,
            Status::Provisioning
            | Status::Sleeping
            | Status::Stopped
            | Status::Failed
            | Status::Destroying => false,
        }
    }

    /// Does the sweep probe it? Whoever is not expected to answer is not asked.
    pub const fn is_probed(self) -> bool {
        self.is_admittable()
    }

    /// Can it be put to rest?
    pub const fn is_sleepable(self) -> bool {
        self.is_admittable()
    }

    /// Can its key be rotated? Only an engine that answers can learn a new one.
    pub const fn is_rotatable(self) -> bool {
        self.is_admittable()
    }

    /// Is it down in a way that `start` ends?
    pub const fn is_startable(self) -> bool {
        match self {
            Status::Sleeping | Status::Stopped | Status::Failed => true,
            Status::Provisioning | Status::Running | Status::Destroying => false,
        }
    }

    /// Is there anything to stop?
    pub const fn is_stoppable(self) -> bool {
        match self {
            Status::Provisioning | Status::Running | Status::Sleeping | Status::Failed => true,
            Status::Stopped | Status::Destroying => false,
        }
    }

    /// Can its image change?
    pub const fn is_upgradable(self) -> bool {
        match self {
            Status::Running | Status::Sleeping | Status::Stopped | Status::Failed => true,
            Status::Provisioning | Status::Destroying => false,
        }
    }

    /// Does the restart loop look at it?
    pub const fn is_restartable(self) -> bool {
        match self {
            Status::Failed => true,
            Status::Provisioning
            | Status::Running
            | Status::Sleeping
            | Status::Stopped
            | Status::Destroying => false,
        }
    }

    /// Must an operation be open?
    pub const fn is_transitional(self) -> bool {
        match self {
            Status::Provisioning | Status::Destroying => true,
            Status::Running | Status::Sleeping | Status::Stopped | Status::Failed => false,
        }
    }

    /// Can it be destroyed? Always: delete always succeeds.
    pub const fn is_destroyable(self) -> bool {
        match self {
            Status::Provisioning
            | Status::Running
            | Status::Sleeping
            | Status::Stopped
            | Status::Failed
            | Status::Destroying => true,
        }
    }

    /// Does its row keep its port? Always: a port is free when the row is gone.
    pub const fn holds_port(self) -> bool {
        self.is_destroyable()
    }

    /// Does it count for `max_engines`? Always: a row is a place.
    pub const fn counts_for_quota(self) -> bool {
        self.is_destroyable()
    }
}

/// Whether the pair can exist. Any other pair is a defect (`INTERNAL`) and is refused by the registry.
pub const fn is_legal(status: Status, desired: Desired) -> bool {
    match (status, desired) {
        (Status::Provisioning, Desired::Running | Desired::Stopped)
        | (Status::Running, Desired::Running | Desired::Sleeping | Desired::Stopped)
        | (Status::Sleeping, Desired::Sleeping | Desired::Running | Desired::Stopped)
        | (Status::Stopped, Desired::Stopped | Desired::Running)
        | (Status::Failed, Desired::Running | Desired::Stopped)
        | (Status::Destroying, Desired::Destroyed) => true,
        (Status::Provisioning, Desired::Sleeping | Desired::Destroyed)
        | (Status::Running, Desired::Destroyed)
        | (Status::Sleeping, Desired::Destroyed)
        | (Status::Stopped, Desired::Sleeping | Desired::Destroyed)
        | (Status::Failed, Desired::Sleeping | Desired::Destroyed)
        | (Status::Destroying, Desired::Running | Desired::Sleeping | Desired::Stopped) => false,
    }
}

impl FailureReason {
    /// Whether another boot of the same thing can help. A missing brain and a refused configuration need a
    /// person; a brain that refused (locked, fenced) may be free at the next try.
    pub const fn restartable(self) -> bool {
        match self {
            FailureReason::StorageMissing | FailureReason::ConfigRefused => false,
            FailureReason::BootTimeout
            | FailureReason::BackendError
            | FailureReason::ProbeTimeout
            | FailureReason::ProbeRefused
            | FailureReason::ProbeStatus
            | FailureReason::Crashed
            | FailureReason::OomKilled
            | FailureReason::ObjectMissing
            | FailureReason::BrainRefused
            | FailureReason::MigrationRequired
            | FailureReason::BrainLocked
            | FailureReason::RollbackFailed => true,
        }
    }

    /// What an ended process says by how it ended. Exit codes 2 and 4 are part of the Engine's contract.
    pub const fn of_exit(code: Option<i32>, oom: bool) -> Self {
        match (oom, code) {
            (true, _) => FailureReason::OomKilled,
            (false, Some(2)) => FailureReason::ConfigRefused,
            (false, Some(4)) => FailureReason::BrainRefused,
            (false, _) => FailureReason::Crashed,
        }
    }

    /// The code a waiting caller gets for it: `BOOT_TIMEOUT` for the deadline, `BACKEND_ERROR` for the rest.
    pub const fn code(self) -> contract::FleetCode {
        match self {
            FailureReason::BootTimeout => contract::FleetCode::BootTimeout,
            FailureReason::BackendError
            | FailureReason::ProbeTimeout
            | FailureReason::ProbeRefused
            | FailureReason::ProbeStatus
            | FailureReason::Crashed
            | FailureReason::OomKilled
            | FailureReason::ObjectMissing
            | FailureReason::StorageMissing
            | FailureReason::ConfigRefused
            | FailureReason::BrainRefused
            | FailureReason::MigrationRequired
            | FailureReason::BrainLocked
            | FailureReason::RollbackFailed => contract::FleetCode::BackendError,
        }
    }
}

impl EngineState {
    /// The status without its data.
    pub const fn status(&self) -> Status {
        match self {
            EngineState::Provisioning => Status::Provisioning,
            EngineState::Running => Status::Running,
            EngineState::Sleeping { .. } => Status::Sleeping,
            EngineState::Stopped => Status::Stopped,
            EngineState::Failed { .. } => Status::Failed,
            EngineState::Destroying => Status::Destroying,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subsets_match_predicates() {
        type Subset = (&'static str, &'static [Status], fn(Status) -> bool);
        let subsets: [Subset; 12] = [
            ("ADMITTABLE", ADMITTABLE, Status::is_admittable),
            ("PROBED", PROBED, Status::is_probed),
            ("SLEEPABLE", SLEEPABLE, Status::is_sleepable),
            ("ROTATABLE", ROTATABLE, Status::is_rotatable),
            ("STARTABLE", STARTABLE, Status::is_startable),
            ("STOPPABLE", STOPPABLE, Status::is_stoppable),
            ("UPGRADABLE", UPGRADABLE, Status::is_upgradable),
            ("RESTARTABLE", RESTARTABLE, Status::is_restartable),
            ("TRANSITIONAL", TRANSITIONAL, Status::is_transitional),
            ("DESTROYABLE", DESTROYABLE, Status::is_destroyable),
            ("HOLDS_PORT", HOLDS_PORT, Status::holds_port),
            ("COUNTS_FOR_QUOTA", COUNTS_FOR_QUOTA, Status::counts_for_quota),
        ];
        assert_eq!(Status::ALL.len(), 6);
        for (name, subset, predicate) in subsets {
            for &status in Status::ALL {
                assert_eq!(subset.contains(&status), predicate(status), "{name} and {status}");
            }
        }
    }

    #[test]
    fn legal_pairs_are_the_thirteen_of_the_specification() {
        use Desired as D;
        use Status as S;
        let legal = [
            (S::Provisioning, D::Running),
            (S::Provisioning, D::Stopped),
            (S::Running, D::Running),
            (S::Running, D::Sleeping),
            (S::Running, D::Stopped),
            (S::Sleeping, D::Sleeping),
            (S::Sleeping, D::Running),
            (S::Sleeping, D::Stopped),
            (S::Stopped, D::Stopped),
            (S::Stopped, D::Running),
            (S::Failed, D::Running),
            (S::Failed, D::Stopped),
            (S::Destroying, D::Destroyed),
        ];
        for &status in Status::ALL {
            for &desired in Desired::ALL {
                assert_eq!(
                    is_legal(status, desired),
                    legal.contains(&(status, desired)),
                    "{status}/{desired}"
                );
            }
        }
    }

    #[test]
    fn only_a_missing_brain_and_a_refused_configuration_are_not_restarted() {
        let hopeless: Vec<_> = FailureReason::ALL.iter().filter(|r| !r.restartable()).collect();
        assert_eq!(hopeless, [&FailureReason::StorageMissing, &FailureReason::ConfigRefused]);
    }

    #[test]
    fn oom_is_named_and_exit_codes_two_and_four_have_their_own_reason() {
        assert_eq!(FailureReason::of_exit(Some(137), true), FailureReason::OomKilled);
        assert_eq!(FailureReason::of_exit(Some(137), false), FailureReason::Crashed);
        assert_eq!(FailureReason::of_exit(Some(2), false), FailureReason::ConfigRefused);
        assert_eq!(FailureReason::of_exit(Some(4), false), FailureReason::BrainRefused);
        assert_eq!(FailureReason::of_exit(None, false), FailureReason::Crashed);
    }

    #[test]
    fn every_word_reads_back() {
        for &reason in FailureReason::ALL {
            assert_eq!(FailureReason::parse(reason.as_str()), Some(reason));
        }
        assert_eq!(Status::parse("asleep"), None);
    }
}
