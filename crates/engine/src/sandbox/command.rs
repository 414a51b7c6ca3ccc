//! What is asked of the launcher: its set-up, one command, and the ways a launch fails. Data only.
//!
//! The invariant: the default of every field is the most confined.

use super::kernel::Mask;
use super::mark::Mark;
use super::scrub::{Parent, ScrubMode};
use super::{Limits, SandboxMode};
use crate::permissions::Grants;
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

/// How the launcher is set up.
#[derive(Debug, Clone)]
pub struct LauncherConfig {
    /// ENGINE_SANDBOX.
    pub mode: SandboxMode,
    /// SUBPROCESS_SCRUB_MODE.
    pub scrub: ScrubMode,
    /// SANDBOX_*.
    pub limits: Limits,
    /// The Engine's environment and the names of its secrets.
    pub parent: Parent,
    /// The program whose `main` begins with [`super::inside::run_if_asked`]; without it there is no bubblewrap.
    pub inside: Option<PathBuf>,
    /// What the trial of bubblewrap carries, so that the next process of the brain finds one that was left behind.
    pub trial: Option<Mark>,
    /// Pretends that the kernel offers less; for tests.
    pub mask: Mask,
}

impl LauncherConfig {
    /// With everything the kernel offers, bubblewrap included where this very program is [`Self::inside`].
    pub fn new(mode: SandboxMode, scrub: ScrubMode, limits: Limits, parent: Parent) -> Self {
        let inside = Some(PathBuf::from("/proc/self/exe"));
        Self { mode, scrub, limits, parent, inside, trial: None, mask: Mask::default() }
    }
}

/// Which layers a child gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Confine {
    /// All there are.
    #[default]
    Fully,
    /// Scrubbed environment, rlimits and process group only, as with `ENGINE_SANDBOX=off`. For stdio servers
    /// with `ASSET_DIRECTORY_SANDBOXED=false`, and nothing else.
    LimitsOnly,
}

/// Whom a child may talk to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Network {
    /// Nobody.
    #[default]
    Off,
    /// The Engine's own proxy, which listens on this port of 127.0.0.1, and nobody else ([`super::gate`]). Where
    /// there is neither a network namespace nor landlock 4 with seccomp's notifications, nobody.
    Proxy(u16),
}

/// One child to start.
#[derive(Debug, Clone, Default)]
pub struct Command {
    /// Absolute path, or a name looked up in the child's PATH.
    pub program: OsString,
    /// Arguments after the program.
    pub args: Vec<OsString>,
    /// Working directory; the workspace's when `None`.
    pub cwd: Option<PathBuf>,
    /// What stdin reads; /dev/null when `None`.
    pub stdin: Option<Vec<u8>>,
    /// Keeps stdin open as [`super::Running::stdin`] for a conversation (stdio servers).
    pub converse: bool,
    /// Variables besides the scrubbed environment.
    pub env: Vec<(String, String)>,
    /// Readable besides system and workspace.
    pub read: Vec<PathBuf>,
    /// Allowed by a person for this call.
    pub grants: Grants,
    /// Which layers.
    pub confine: Confine,
    /// Whom it may talk to.
    pub network: Network,
}

impl Command {
    /// A command with arguments and nothing else.
    pub fn new<A: Into<OsString>>(program: impl Into<OsString>, args: impl IntoIterator<Item = A>) -> Self {
        Self { program: program.into(), args: args.into_iter().map(Into::into).collect(), ..Self::default() }
    }
}

/// Why a child could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The program does not exist or cannot be seen from inside the sandbox.
    #[error("program not found")]
    NotFound,
    /// A sandbox layer could not be prepared; nothing ran.
    #[error("prepare the sandbox")]
    Sandbox(#[source] io::Error),
    /// The kernel refused.
    #[error("start the process")]
    Start(#[source] io::Error),
}
