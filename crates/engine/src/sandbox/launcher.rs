//! The launcher: what the kernel offers is found out once; after that every child is started the same way.
//!
//! Children are forked by one thread that lives as long as the launcher, because the parent-death signal
//! follows the forking thread, not the process: a child forked on a pool thread would be killed when the
//! pool shrinks.
//!
//! The invariant: [`Launcher::layers`] names exactly the layers every child gets.

use super::capture::Captured;
use super::child::Confinement;
use super::groups::{self, Group, ProcessGroups};
use super::policy::{self, Extra, Support};
use super::scrub::{self, Parent, ScrubMode};
use super::syscalls::{self, UnixSockets};
use super::workspace::Workspace;
use super::{Limits, SandboxMode, Unachievable};
use crate::permissions::Grants;
use seccompiler::BpfProgram;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{ChildStderr, ChildStdin, ChildStdout};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// How long output is still read after the command has ended. A background process may keep the pipe open
/// for hours; what the command itself wrote is in the pipe already. Longer delays such calls by as much.
const GRACE_AFTER_EXIT: Duration = Duration::from_millis(250);
/// How long a killed command may take to end; a process that takes longer hangs in the kernel and is left.
const KILL_WAIT_MAX: Duration = Duration::from_millis(500);
/// One read. Larger wastes memory per running command, smaller costs system calls.
const READ_BYTES: usize = 16 * 1024;
/// A program that cannot exist: starting it shows whether a child can confine itself, and runs nothing.
const PROBE: &str = "/proc/self/no-such-program";

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
    /// Keeps stdin open as [`Running::stdin`] for a conversation (stdio servers).
    pub converse: bool,
    /// Variables besides the scrubbed environment.
    pub env: Vec<(String, String)>,
    /// Readable besides system and workspace.
    pub read: Vec<PathBuf>,
    /// Allowed by a person for this call.
    pub grants: Grants,
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

/// What a command that was waited for did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// The exit code; 128 + signal when a signal ended it.
    pub exit_code: i32,
    /// The time limit ended it.
    pub timed_out: bool,
    /// The cancel token ended it.
    pub cancelled: bool,
    /// What it wrote.
    pub stdout: Captured,
    /// What it complained.
    pub stderr: Captured,
}

struct SpawnRequest {
    command: std::process::Command,
    reply: oneshot::Sender<io::Result<Spawned>>,
}

/// A child nobody waits for yet. Dropped unseen (its caller was cancelled), the group kills itself.
struct Spawned {
    group: Group,
    stdin: Option<std::process::ChildStdin>,
    stdout: Option<std::process::ChildStdout>,
    stderr: Option<std::process::ChildStderr>,
}

/// Starts children. One per Engine; children end with it.
pub struct Launcher {
    config: LauncherConfig,
    landlock: Option<Support>,
    programs: Vec<BpfProgram>,
    missing: Vec<Unachievable>,
    spawner: mpsc::Sender<SpawnRequest>,
}

impl std::fmt::Debug for Launcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Launcher").field("mode", &self.config.mode).field("layers", &self.layers()).finish()
    }
}

impl Launcher {
    /// Finds out what the kernel offers. With [`SandboxMode::Required`] a missing layer is an error; with
    /// best-effort it is listed in [`Launcher::missing`].
    pub fn detect(config: LauncherConfig) -> Result<Self, Unachievable> {
        let landlock = if config.mode == SandboxMode::Off { None } else { policy::detect() };
        let (requests, inbox) = mpsc::channel::<SpawnRequest>();
        std::thread::Builder::new().name("launcher".into()).spawn(move || serve(&inbox)).map_err(|e| {
            Unachievable { layer: "launcher", cause: format!("its thread could not be started: {e}") }
        })?;
        let mut launcher =
            Self { config, landlock, programs: Vec::new(), missing: Vec::new(), spawner: requests };
        if launcher.config.mode == SandboxMode::Off {
            return Ok(launcher);
        }
        let unix = match landlock {
            Some(Support { unix_paths: true, .. }) => UnixSockets::Confined,
            Some(_) | None => UnixSockets::ListenOnly,
        };
        if landlock.is_none() {
            launcher.missing.push(Unachievable {
                layer: "landlock",
                cause: "the kernel is older than 5.13, was started without `lsm=…,landlock`, or the container \
                        runtime's seccomp profile blocks it; update the runtime or add landlock to its profile"
                    .into(),
            });
        }
        launcher.programs = syscalls::programs(unix).unwrap_or_default();
        if launcher.programs.is_empty() || !can_filter(&launcher.programs) {
            launcher.programs.clear();
            let cause = "the kernel has no CONFIG_SECCOMP_FILTER, or this processor is not x86_64, aarch64 or \
                         riscv64";
            launcher.missing.push(Unachievable { layer: "seccomp", cause: cause.into() });
            let cause = "direct sockets are refused by seccomp, which is missing";
            launcher.missing.push(Unachievable { layer: "network", cause: cause.into() });
        }
        match launcher.missing.first() {
            Some(first) if launcher.config.mode == SandboxMode::Required => Err(first.clone()),
            _ => Ok(launcher),
        }
    }

    /// The layers every child gets, for /health.
    pub fn layers(&self) -> Vec<String> {
        let mut layers = Vec::new();
        if self.landlock.is_some() {
            layers.push("landlock");
        }
        if !self.programs.is_empty() {
            layers.push("seccomp");
        }
        layers.push("rlimits");
        layers.into_iter().map(String::from).collect()
    }

    /// The layers that best-effort goes without, for the warning and `sandbox_degraded`.
    pub fn missing(&self) -> &[Unachievable] {
        &self.missing
    }

    /// True when no child can open a network socket.
    pub fn network_is_off(&self) -> bool {
        !self.programs.is_empty()
    }

    /// Starts a child that sees `workspace` and belongs to `groups` until it has ended.
    pub async fn spawn(
        &self,
        command: Command,
        workspace: &Workspace,
        groups: &Arc<ProcessGroups>,
    ) -> Result<Running, LaunchError> {
        let input = command.stdin.clone();
        let converse = command.converse;
        let prepared = self.prepare(command, workspace)?;
        let (reply, answer) = oneshot::channel();
        let gone = || LaunchError::Start(io::Error::other("the launcher thread is gone"));
        self.spawner.send(SpawnRequest { command: prepared, reply }).map_err(|_| gone())?;
        let spawned = answer.await.map_err(|_| gone())?.map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => LaunchError::NotFound,
            _ => LaunchError::Start(e),
        })?;
        let group = Arc::new(spawned.group);
        groups.hold(Arc::clone(&group));
        let mut running = Running {
            stdin: spawned.stdin.map(ChildStdin::from_std).transpose().map_err(LaunchError::Start)?,
            stdout: spawned.stdout.map(ChildStdout::from_std).transpose().map_err(LaunchError::Start)?,
            stderr: spawned.stderr.map(ChildStderr::from_std).transpose().map_err(LaunchError::Start)?,
            group,
            groups: Arc::clone(groups),
            finished: false,
        };
        if !converse && let Some(mut stdin) = running.stdin.take() {
            // Ends when everything is written or the child closes its end; an EPIPE is the child's choice.
            tokio::spawn(async move {
                let _ = stdin.write_all(&input.unwrap_or_default()).await;
            });
        }
        Ok(running)
    }

    fn prepare(&self, command: Command, workspace: &Workspace) -> Result<std::process::Command, LaunchError> {
        let tmp = workspace.scratch().unwrap_or_else(|| workspace.cwd()).to_path_buf();
        let home = tmp.join("home");
        std::fs::create_dir_all(&home).map_err(LaunchError::Sandbox)?;
        let config = &self.config;
        let env = scrub::environment(config.scrub, &config.parent, &home, &tmp, &command.env);
        let ruleset = match self.landlock {
            Some(_) => {
                let extra = Extra { read: &command.read, write: &command.grants.write };
                policy::ruleset(workspace, extra).map_err(LaunchError::Sandbox)?
            }
            None => None,
        };
        let mut prepared = std::process::Command::new(&command.program);
        let cwd = command.cwd.as_deref().unwrap_or_else(|| workspace.cwd());
        let stdin = if command.stdin.is_some() || command.converse { Stdio::piped() } else { Stdio::null() };
        prepared.args(&command.args).current_dir(cwd).env_clear().envs(env);
        prepared.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        let confinement = Confinement {
            parent: std::process::id(),
            limits: rlimits(config.limits),
            unprivileged: config.mode != SandboxMode::Off,
            ruleset,
            programs: self.programs.clone(),
        };
        confinement.install(&mut prepared);
        Ok(prepared)
    }
}

fn rlimits(limits: Limits) -> Vec<(libc::__rlimit_resource_t, u64)> {
    const MB: u64 = 1024 * 1024;
    vec![
        (libc::RLIMIT_CPU, limits.cpu_s),
        (libc::RLIMIT_AS, limits.memory_mb.saturating_mul(MB)),
        (libc::RLIMIT_NPROC, limits.max_processes),
        (libc::RLIMIT_FSIZE, limits.max_file_mb.saturating_mul(MB)),
        (libc::RLIMIT_CORE, 0),
    ]
}

fn serve(inbox: &mpsc::Receiver<SpawnRequest>) {
    while let Ok(SpawnRequest { mut command, reply }) = inbox.recv() {
        let spawned = command.spawn().map(|mut child| Spawned {
            stdin: child.stdin.take(),
            stdout: child.stdout.take(),
            stderr: child.stderr.take(),
            group: Group::new(child),
        });
        // A caller that went away gets nothing; the dropped group kills itself.
        let _ = reply.send(spawned);
    }
}

/// Tries the programs on a child that cannot exist: getting as far as "no such file" means they loaded.
fn can_filter(programs: &[BpfProgram]) -> bool {
    let mut probe = std::process::Command::new(PROBE);
    let confinement = Confinement {
        parent: std::process::id(),
        limits: Vec::new(),
        unprivileged: true,
        ruleset: None,
        programs: programs.to_vec(),
    };
    confinement.install(&mut probe);
    probe.spawn().is_err_and(|e| e.kind() == io::ErrorKind::NotFound)
}

/// A child under way. Dropping it kills its group; [`Running::finish`] waits for it.
#[derive(Debug)]
pub struct Running {
    /// Open only for a command with `converse`.
    pub stdin: Option<ChildStdin>,
    /// Taken by [`Running::finish`], or by the owner of a conversation.
    pub stdout: Option<ChildStdout>,
    /// Taken by [`Running::finish`], or by the owner of a conversation.
    pub stderr: Option<ChildStderr>,
    group: Arc<Group>,
    groups: Arc<ProcessGroups>,
    finished: bool,
}

impl Running {
    /// The process group to record.
    pub fn pgid(&self) -> i32 {
        self.group.pgid()
    }

    /// Kills the whole group.
    pub fn kill(&self) {
        self.group.kill();
    }

    /// Waits until the child itself has ended; it is not reaped yet.
    pub async fn ended(&self) -> io::Result<()> {
        groups::ended(&self.group).await
    }

    /// Reads both streams until the command has ended, its time is up, or the call is cancelled; the last
    /// two kill the whole group. Background processes of a command that ended by itself go on living until
    /// the end of the turn; their later output is not read.
    pub async fn finish(mut self, limit: Duration, cancel: &CancellationToken) -> Finished {
        let stdout = Reader::start(self.stdout.take());
        let stderr = Reader::start(self.stderr.take());
        let (mut timed_out, mut cancelled) = (false, false);
        tokio::select! {
            biased;
            () = cancel.cancelled() => cancelled = true,
            _ = groups::ended(&self.group) => {}
            () = tokio::time::sleep(limit) => timed_out = true,
        }
        if timed_out || cancelled {
            self.group.kill();
            let _ = tokio::time::timeout(KILL_WAIT_MAX, groups::ended(&self.group)).await;
        }
        let grace = tokio::time::Instant::now() + GRACE_AFTER_EXIT;
        let (stdout, stderr) = tokio::join!(stdout.stop(grace), stderr.stop(grace));
        let exit_code = groups::exit_code(&self.group).unwrap_or(128 + libc::SIGKILL);
        self.finished = true;
        let group = Arc::clone(&self.group);
        // Reads /proc. If it cannot run, the group is held a little longer than needed.
        let alone = tokio::task::spawn_blocking(move || group.is_alone().then(|| group.try_reap())).await;
        if matches!(alone, Ok(Some(Some(_)))) {
            self.groups.release(&self.group);
        }
        Finished { exit_code, timed_out, cancelled, stdout, stderr }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.finished {
            self.group.kill();
        }
    }
}

/// Reads one stream into memory until it ends or is stopped.
struct Reader {
    kept: Arc<Mutex<Captured>>,
    task: Option<tokio::task::JoinHandle<()>>,
}

impl Reader {
    fn start<R: AsyncRead + Unpin + Send + 'static>(stream: Option<R>) -> Self {
        let kept = Arc::new(Mutex::new(Captured::default()));
        let into = Arc::clone(&kept);
        let task = stream.map(|mut stream| {
            tokio::spawn(async move {
                let mut buffer = vec![0; READ_BYTES];
                while let Ok(count) = stream.read(&mut buffer).await {
                    if count == 0 {
                        break;
                    }
                    into.lock().unwrap_or_else(PoisonError::into_inner).push(&buffer[..count]);
                }
            })
        });
        Self { kept, task }
    }

    async fn stop(mut self, at: tokio::time::Instant) -> Captured {
        if let Some(task) = &mut self.task
            && tokio::time::timeout_at(at, &mut *task).await.is_err()
        {
            task.abort();
        }
        std::mem::take(&mut *self.kept.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// True when `path` can be executed by a child at all; used to choose between bash and sh.
pub fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}
