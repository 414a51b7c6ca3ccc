//! One way to start any child process, and what it cannot do once started.
//!
//! bash, skill scripts, hooks and stdio MCP servers all go through [`Launcher`]. Layers, each useful
//! alone: scrubbed environment, landlock (file system, TCP, signals), seccomp (dangerous system calls,
//! sockets other than unix), dropped capabilities, rlimits, an own session that is killed as a whole.
//! Not here: whether a command may run at all (`permissions`), and namespaces (bubblewrap is a later layer).
//!
//! Known limits of landlock without a mount namespace: names and metadata of files outside can be probed
//! with `stat`, and `chmod`/`utimes` by path are not mediated. A process that leaves the session AND clears
//! its environment outlives the turn; it stays confined.
//!
//! The invariant: everything is prepared before `fork`; a layer that was detected at start and fails
//! later fails the launch, it never silently goes missing.

pub mod workspace;
pub mod open;
pub mod scrub;
pub mod policy;
pub mod syscalls;
mod child;
pub mod capture;
pub mod groups;
pub mod launcher;

pub use crate::config::SandboxMode;
pub use capture::Captured;
pub use groups::ProcessGroups;
pub use launcher::{Command, Finished, LaunchError, Launcher, LauncherConfig, Running};
pub use workspace::{Place, Workspace};

/// Limits of every subprocess (SANDBOX_*).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// SANDBOX_CPU_S: processor seconds of one process.
    pub cpu_s: u64,
    /// SANDBOX_MEMORY_MB: address space of one process.
    pub memory_mb: u64,
    /// SANDBOX_MAX_PROCESSES: processes of the user. The kernel counts per user id, not per call, and
    /// does not apply it to root at all.
    pub max_processes: u64,
    /// SANDBOX_MAX_FILE_MB: largest file a process may write.
    pub max_file_mb: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { cpu_s: 300, memory_mb: 2048, max_processes: 256, max_file_mb: 1024 }
    }
}

/// A layer that is missing, and its usual cause.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("sandbox layer {layer} is not available: {cause}")]
pub struct Unachievable {
    /// `landlock`, `seccomp`, `network` or `launcher`.
    pub layer: &'static str,
    /// What usually causes it and what to do, for people.
    pub cause: String,
}
