//! One way to start any child process, and what it cannot do once started.
//!
//! bash, skill scripts, hooks and stdio MCP servers all go through [`Launcher`]. Layers, each useful alone:
//! scrubbed environment, landlock (file system, TCP, signals), seccomp (dangerous system calls, sockets other
//! than unix), bubblewrap where the kernel lets an ordinary user make namespaces, control groups where they
//! are delegated, dropped capabilities, rlimits, an own session that is killed as a whole.
//! Not here: whether a command may run at all (`permissions`).
//!
//! Known limits of landlock without bubblewrap: names and metadata of files outside can be probed with `stat`;
//! `chmod` and `utimes` by path are not mediated (modes and owners of what matters are put back afterwards).
//!
//! The invariant: everything is prepared before `fork`; a layer that was detected at start and fails
//! later fails the launch, it never silently goes missing.

pub mod workspace;
pub mod scratch;
pub mod open;
pub mod scrub;
pub mod view;
pub mod kernel;
pub mod policy;
pub mod refused;
pub mod syscalls;
mod child;
pub mod inside;
pub mod bubblewrap;
pub mod cgroups;
pub mod mark;
pub mod capture;
pub mod groups;
mod watch;
mod memory;
mod memory_watch;
mod keeper;
mod running;
mod probe;
mod door;
mod gate;
mod notify;
pub mod command;
pub mod launcher;
pub mod proxy;

pub use crate::config::SandboxMode;
pub use capture::Captured;
pub use child::close_engine;
pub use groups::ProcessGroups;
pub use kernel::Mask;
pub use launcher::{Command, Confine, LaunchError, Launcher, LauncherConfig};
pub use running::{Finished, Running};
pub use watch::SCRATCH_MAX_BYTES;
pub use workspace::{Place, Workspace};

/// Limits of every subprocess (SANDBOX_*).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// SANDBOX_CPU_S: processor seconds of one process.
    pub cpu_s: u64,
    /// SANDBOX_MEMORY_MB: memory of one launch together; what one process may write to is held by the kernel.
    pub memory_mb: u64,
    /// SANDBOX_MAX_PROCESSES: processes of the user. The kernel counts per user id, not per call, and does
    /// not apply it to root at all: there, the processes of a task are counted instead.
    pub max_processes: u64,
    /// SANDBOX_MAX_FILE_MB: largest file a process may write.
    pub max_file_mb: u64,
    /// What all files of a task's scratch directory may take together.
    pub scratch_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            cpu_s: 300,
            memory_mb: 2048,
            max_processes: 256,
            max_file_mb: 1024,
            scratch_bytes: SCRATCH_MAX_BYTES,
        }
    }
}

/// A layer that is missing, and its usual cause.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("sandbox layer {layer} is not available: {cause}")]
pub struct Unachievable {
    /// `landlock`, `seccomp`, `network`, `bubblewrap` or `launcher`.
    pub layer: &'static str,
    /// What usually causes it and what to do, for people.
    pub cause: String,
}
