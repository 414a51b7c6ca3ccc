//! The launcher: what the kernel offers is found out once; after that every child is started the same way.
//!
//! Children are forked by one thread that lives as long as the launcher, because the parent-death signal
//! follows the forking thread, not the process: a child forked on a pool thread would be killed when the
//! pool shrinks.
//!
//! The invariant: [`Launcher::layers`] names exactly the layers every child gets.

pub use super::command::{Command, Confine, LaunchError, LauncherConfig, Network};

use super::bubblewrap::{self, Bubblewrap, End, Order, Wrapped};
use super::cgroups::{Cgroup, Cgroups};
use super::child::{Confinement, FILE_WORK, MAKE_NAMESPACES};
use super::gate::{Door, Kind};
use super::groups::{self, Group, ProcessGroups};
use super::inside::Word;
use super::keeper::Keeper;
use super::kernel::Landlock;
use super::mark::Mark;
use super::probe::{can_ask, can_filter};
use super::running::{Care, Running};
use super::scrub;
use super::syscalls::{self, Internet, Task, UnixSockets};
use super::view::{self, Extra};
use super::watch::{self, Bounds};
use super::workspace::Workspace;
use super::{Limits, SandboxMode, Unachievable, door, policy};
use seccompiler::BpfProgram;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, OnceLock, mpsc};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::process::{ChildStderr, ChildStdin, ChildStdout};
use tokio::sync::oneshot;

/// How long bubblewrap may take to get as far as the command. It takes some 20 ms; a machine so busy that
/// this is not enough answers with a failed launch instead of hanging.
const WRAP_MAX: Duration = Duration::from_secs(20);

const MB: u64 = 1024 * 1024;
/// Address space a process may reserve. Smaller than some TiB and runtimes that reserve much do not start (V8 with
/// its cage takes 1 TiB); larger and the tables alone for pages that are only read can fill the machine's memory.
const ADDRESS_SPACE_BYTES: u64 = 4 << 40;

/// Ready to be forked.
struct Prepared {
    command: std::process::Command,
    words: Option<OwnedFd>,
    cgroup: Option<Cgroup>,
    door: Option<Door>,
}

struct SpawnRequest {
    prepared: Prepared,
    reply: oneshot::Sender<io::Result<Spawned>>,
}

/// A child nobody waits for yet. Dropped unseen (its caller was cancelled), the group kills itself.
struct Spawned {
    group: Group,
    stdin: Option<std::process::ChildStdin>,
    stdout: Option<std::process::ChildStdout>,
    stderr: Option<std::process::ChildStderr>,
    door: Option<Door>,
}

/// How a child comes to the proxy and to nobody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WayOut {
    /// Through the loopback of a network namespace of its own.
    OwnNetwork(u16),
    /// By connections the Engine lends; landlock refuses all others.
    Lent(u16),
    /// Not at all.
    None,
}

/// Bubblewrap, found out on first need.
#[derive(Debug)]
struct Wrap {
    inside: Option<PathBuf>,
    trial: Option<Mark>,
    masked: bool,
    found: OnceLock<Result<Bubblewrap, Unachievable>>,
}

impl Wrap {
    /// Blocks for as long as one start of bubblewrap takes, the first time.
    fn get(&self) -> &Result<Bubblewrap, Unachievable> {
        self.found.get_or_init(|| {
            let missing = |cause: &str| Unachievable { layer: "bubblewrap", cause: cause.into() };
            if self.masked {
                return Err(missing("user namespaces are masked"));
            }
            match &self.inside {
                Some(inside) => Bubblewrap::detect(inside, self.trial),
                None => Err(missing("there is no program to run inside it")),
            }
        })
    }
}

/// Starts children. One per Engine; children end with it.
pub struct Launcher {
    config: LauncherConfig,
    landlock: Option<Landlock>,
    programs: Vec<BpfProgram>,
    tcp_programs: Vec<BpfProgram>,
    /// Whether the kernel asks about calls; found out when a command may first use the proxy.
    asks: OnceLock<bool>,
    wrap: Arc<Wrap>,
    cgroups: Option<Cgroups>,
    missing: Vec<Unachievable>,
    keeper: Arc<Keeper>,
    spawner: mpsc::Sender<SpawnRequest>,
}

impl std::fmt::Debug for Launcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Launcher").field("mode", &self.config.mode).field("layers", &self.layers()).finish()
    }
}

impl Launcher {
    /// Finds out what the kernel offers; bubblewrap is left to [`Launcher::settle`] where landlock is there.
    /// With [`SandboxMode::Required`], seccomp and one of landlock and bubblewrap must be there; with
    /// best-effort, what is missing is listed in [`Launcher::missing`].
    pub fn detect(config: LauncherConfig) -> Result<Self, Unachievable> {
        let (mode, mask) = (config.mode, config.mask);
        let (requests, inbox) = mpsc::channel::<SpawnRequest>();
        std::thread::Builder::new().name("launcher".into()).spawn(move || serve(&inbox)).map_err(|e| {
            Unachievable { layer: "launcher", cause: format!("its thread could not be started: {e}") }
        })?;
        let off = mode == SandboxMode::Off;
        let wrap = Wrap {
            inside: config.inside.clone(),
            trial: config.trial,
            masked: mask.namespaces,
            found: OnceLock::new(),
        };
        let mut launcher = Self {
            landlock: if off { None } else { Landlock::detect(mask) },
            cgroups: if off || mask.cgroups { None } else { Cgroups::detect() },
            config,
            programs: Vec::new(),
            tcp_programs: Vec::new(),
            asks: OnceLock::new(),
            wrap: Arc::new(wrap),
            missing: Vec::new(),
            keeper: Arc::default(),
            spawner: requests,
        };
        if off {
            return Ok(launcher);
        }
        launcher.load_filters();
        if launcher.landlock.is_none() {
            launcher.missing.push(Unachievable {
                layer: "landlock",
                cause: "the kernel is older than 5.13, was started without `lsm=…,landlock`, or the container \
                        runtime's seccomp profile blocks it; update the runtime or add landlock to its profile"
                    .into(),
            });
        }
        match launcher.fatal() {
            Some(layer) if mode == SandboxMode::Required => Err(layer),
            _ => Ok(launcher),
        }
    }

    fn load_filters(&mut self) {
        let task = |internet| Task {
            unix: match self.landlock {
                Some(landlock) if landlock.unix_paths() => UnixSockets::Confined,
                Some(_) | None => UnixSockets::ListenOnly,
            },
            internet,
            stop_truncation: self.landlock.is_some_and(|landlock| !landlock.sees_truncation()),
            shield: match self.landlock {
                Some(landlock) if landlock.scopes() => None,
                Some(_) | None => Some(std::process::id().cast_signed()),
            },
        };
        let masked = self.config.mask.seccomp;
        let programs = if masked { None } else { syscalls::programs(task(Internet::Off)) };
        match programs {
            Some(programs) if can_filter(&programs) => {
                self.tcp_programs = syscalls::programs(task(Internet::Lent)).unwrap_or_default();
                self.programs = programs;
            }
            Some(_) | None => {
                let cause = "the kernel has no CONFIG_SECCOMP_FILTER, or this processor is not x86_64, aarch64 \
                             or riscv64";
                self.missing.push(Unachievable { layer: "seccomp", cause: cause.into() });
                let cause = "direct sockets are refused by seccomp, which is missing";
                self.missing.push(Unachievable { layer: "network", cause: cause.into() });
            }
        }
    }

    /// The layer without which `required` refuses to start, if one is missing (may block like
    /// [`Launcher::settle`]).
    pub fn fatal(&self) -> Option<Unachievable> {
        let lacks = |layer: &str| self.missing.iter().find(|m| m.layer == layer).cloned();
        if let Some(seccomp) = lacks("seccomp") {
            return Some(seccomp);
        }
        let landlock = lacks("landlock")?;
        match self.wrap.get() {
            Ok(_) => None,
            Err(wrap) => {
                let cause = format!("{}; nor is bubblewrap: {}", landlock.cause, wrap.cause);
                Some(Unachievable { layer: "landlock", cause })
            }
        }
    }

    /// Finds out about bubblewrap, for as long as one start of it takes (blocking). Call when the Engine is
    /// ready; a launch that comes earlier does it itself.
    pub fn settle(&self) {
        if self.config.mode != SandboxMode::Off {
            self.wrap.get();
        }
    }

    /// ENGINE_SANDBOX.
    pub fn mode(&self) -> SandboxMode {
        self.config.mode
    }

    /// The layers every child gets, for /health; never waits.
    pub fn layers(&self) -> Vec<String> {
        let wrapped = matches!(self.wrap.found.get(), Some(Ok(_)));
        let layers = [
            ("landlock", self.landlock.is_some()),
            ("seccomp", !self.programs.is_empty()),
            ("rlimits", true),
            ("bubblewrap", wrapped),
            ("cgroups", self.cgroups.is_some()),
        ];
        layers.into_iter().filter(|(_, there)| *there).map(|(name, _)| name.to_owned()).collect()
    }

    /// The layers that best-effort goes without, for the warning and `sandbox_degraded`. Control groups are
    /// never among them: rlimits and the watch stand in for them.
    pub fn missing(&self) -> Vec<Unachievable> {
        let wrap = self.wrap.found.get().and_then(|found| found.as_ref().err());
        self.missing.iter().chain(wrap).cloned().collect()
    }

    /// What is in force in detail, for people.
    pub fn details(&self) -> String {
        let mut parts = Vec::new();
        if let Some(landlock) = self.landlock {
            parts.push(format!("landlock ABI {}", landlock.abi as i32));
        }
        if !self.programs.is_empty() {
            parts.push(format!("seccomp ({} system calls refused)", super::kernel::refused_calls()));
        }
        parts.push("rlimits".into());
        if matches!(self.wrap.found.get(), Some(Ok(_))) {
            parts.push("bubblewrap".into());
        }
        parts.push(
            if self.cgroups.is_some() { "control groups" } else { "no control groups (not delegated)" }
                .into(),
        );
        parts.join(", ")
    }

    /// True when no child can open a network socket.
    pub fn network_is_off(&self) -> bool {
        !self.programs.is_empty()
    }

    /// True when [`Network::Proxy`] has an effect (may block like [`Launcher::settle`]).
    pub fn can_reach_a_proxy(&self) -> bool {
        self.can_lend() || (!self.tcp_programs.is_empty() && self.wrap.get().is_ok())
    }

    /// True when landlock can refuse every connection, and the kernel asks the Engine about them before.
    fn can_lend(&self) -> bool {
        let refused = !self.tcp_programs.is_empty() && self.landlock.is_some_and(Landlock::tcp);
        refused && *self.asks.get_or_init(|| can_ask(&self.tcp_programs))
    }

    fn way_out(&self, network: Network) -> WayOut {
        match network {
            Network::Off => WayOut::None,
            Network::Proxy(port) if !self.tcp_programs.is_empty() && self.wrap.get().is_ok() => {
                WayOut::OwnNetwork(port)
            }
            Network::Proxy(port) if self.can_lend() => WayOut::Lent(port),
            Network::Proxy(_) => WayOut::None,
        }
    }

    /// True when a child may be held back from changing modes and owners outside: only with a mount namespace.
    pub fn hides_the_rest(&self) -> bool {
        matches!(self.wrap.found.get(), Some(Ok(_)))
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
        let fully = command.confine == Confine::Fully && self.config.mode != SandboxMode::Off;
        let wrapped = fully && self.is_wrapped().await;
        let care = (fully && !wrapped)
            .then(|| Care { keeper: Arc::clone(&self.keeper), workspace: workspace.clone() });
        if let Some(care) = &care {
            care.look();
        }
        let prepared = self.prepare(command, workspace, fully)?;
        let (reply, answer) = oneshot::channel();
        let gone = || LaunchError::Start(io::Error::other("the launcher thread is gone"));
        self.spawner.send(SpawnRequest { prepared, reply }).map_err(|_| gone())?;
        let mut spawned = answer.await.map_err(|_| gone())?.map_err(not_started)?;
        if let Some(words) = spawned.group.words() {
            match tokio::time::timeout(WRAP_MAX, groups::next_word(words)).await {
                Ok(Ok(Some(Word::Started))) => {}
                Ok(Ok(Some(Word::NotStarted(errno)))) => {
                    return Err(not_started(io::Error::from_raw_os_error(errno)));
                }
                Ok(Ok(Some(Word::Exited(_)) | None)) => {
                    let said = spawned.stderr.take().map(bubblewrap::complaint).unwrap_or_default();
                    return Err(LaunchError::Sandbox(io::Error::other(format!("bubblewrap: {said}"))));
                }
                Ok(Err(e)) => return Err(LaunchError::Sandbox(e)),
                Err(_) => return Err(LaunchError::Sandbox(io::ErrorKind::TimedOut.into())),
            }
        }
        if let Some(door) = spawned.door.take() {
            spawned.group.keep_open(door.open().map_err(LaunchError::Sandbox)?);
        }
        let group = Arc::new(spawned.group);
        groups.hold(Arc::clone(&group));
        let limits = self.config.limits;
        let alone = !group.has_cgroup();
        let uncounted = alone && rustix::process::geteuid().is_root();
        let bounds = Bounds {
            scratch_bytes: limits.scratch_bytes,
            processes: uncounted.then_some(limits.max_processes),
            memory_bytes: alone.then(|| limits.memory_mb.saturating_mul(MB)),
        };
        let mut running = Running {
            stdin: spawned.stdin.map(ChildStdin::from_std).transpose().map_err(LaunchError::Start)?,
            stdout: spawned.stdout.map(ChildStdout::from_std).transpose().map_err(LaunchError::Start)?,
            stderr: spawned.stderr.map(ChildStderr::from_std).transpose().map_err(LaunchError::Start)?,
            reason: watch::start(&group, groups, workspace, bounds),
            group,
            groups: Arc::clone(groups),
            care,
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

    /// Whether bubblewrap is used; finds out, off the runtime's threads, when nobody has yet.
    async fn is_wrapped(&self) -> bool {
        if self.wrap.found.get().is_none() {
            let wrap = Arc::clone(&self.wrap);
            // If it panics, `get` in `prepare` does it again.
            let _ = tokio::task::spawn_blocking(move || wrap.get().is_ok()).await;
        }
        self.wrap.get().is_ok()
    }

    fn prepare(&self, command: Command, workspace: &Workspace, fully: bool) -> Result<Prepared, LaunchError> {
        let tmp = workspace.scratch().unwrap_or_else(|| workspace.cwd()).to_path_buf();
        let home = tmp.join("home");
        std::fs::create_dir_all(&home).map_err(LaunchError::Sandbox)?;
        let config = &self.config;
        let env = scrub::environment(config.scrub, &config.parent, &home, &tmp, &command.env);
        let cwd = command.cwd.unwrap_or_else(|| workspace.cwd().to_owned());
        let stdin = if command.stdin.is_some() || command.converse { Stdio::piped() } else { Stdio::null() };
        let mut limits = rlimits(config.limits);
        if let Some(scratch) = workspace.scratch() {
            limits.push((libc::RLIMIT_RTTIME, Mark::of_task(scratch).value()));
        }
        let cgroup = match &self.cgroups {
            Some(cgroups) if fully => Some(cgroups.make(config.limits).map_err(LaunchError::Sandbox)?),
            Some(_) | None => None,
        };
        let mut confinement = Confinement {
            parent: Some(std::process::id()),
            limits,
            capabilities: fully.then_some(FILE_WORK),
            group: cgroup.as_ref().map(Cgroup::members).transpose().map_err(LaunchError::Sandbox)?,
            ruleset: None,
            programs: Vec::new(),
            asks: None,
            handed_over: Vec::new(),
        };
        let mut prepared = std::process::Command::new(&command.program);
        let (mut words, mut way) = (None, None);
        if fully {
            let extra = Extra { read: &command.read, write: &command.grants.write };
            let grants = view::of(workspace, extra).map_err(LaunchError::Sandbox)?;
            let way_out = self.way_out(command.network);
            let inner = match way_out {
                WayOut::OwnNetwork(port) => Some(port),
                WayOut::Lent(_) | WayOut::None => None,
            };
            let ruleset = match self.landlock {
                Some(landlock) => policy::ruleset(landlock, &grants, inner).map_err(LaunchError::Sandbox)?,
                None => None,
            };
            if let Ok(wrap) = self.wrap.get() {
                let order = Order {
                    end: End::WithTheEngine,
                    grants: &grants,
                    scratch: workspace.scratch(),
                    cwd: &cwd,
                    environment: env.into_iter().collect(),
                    ruleset: ruleset.zip(self.landlock.map(policy::facts)),
                    proxy: inner,
                    program: command.program,
                    args: command.args,
                };
                let Wrapped { command, handed_over, words: said, door } =
                    wrap.wrap(order).map_err(LaunchError::Sandbox)?;
                (prepared, words, way) = (command, Some(said), door);
                confinement.handed_over = handed_over;
                confinement.capabilities = Some(MAKE_NAMESPACES);
            } else {
                confinement.ruleset = ruleset;
                if let WayOut::Lent(port) = way_out {
                    let (end, inner) = door::pair().map_err(LaunchError::Sandbox)?;
                    way = Some(Door { end, kind: Kind::Notifier, port });
                    confinement.asks = Some((syscalls::asks_about_connect(), inner));
                }
                let programs = if way.is_some() { &self.tcp_programs } else { &self.programs };
                confinement.programs.clone_from(programs);
                prepared.args(&command.args).env_clear().envs(env);
            }
        } else {
            prepared.args(&command.args).env_clear().envs(env);
        }
        prepared.current_dir(cwd).stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        confinement.install(&mut prepared);
        Ok(Prepared { command: prepared, words, cgroup, door: way })
    }
}

fn not_started(error: io::Error) -> LaunchError {
    match error.kind() {
        io::ErrorKind::NotFound => LaunchError::NotFound,
        _ => LaunchError::Start(error),
    }
}

/// Memory is bounded by what a process may write to. Address space is not memory: V8 reserves 10 GiB of it for every
/// WebAssembly memory, the JVM its whole heap (`docs/decisions/018-reserved-is-not-used.md`).
fn rlimits(limits: Limits) -> Vec<(libc::__rlimit_resource_t, u64)> {
    let memory = limits.memory_mb.saturating_mul(MB);
    vec![
        (libc::RLIMIT_CPU, limits.cpu_s),
        (libc::RLIMIT_DATA, memory),
        (libc::RLIMIT_AS, memory.max(ADDRESS_SPACE_BYTES)),
        (libc::RLIMIT_NPROC, limits.max_processes),
        (libc::RLIMIT_FSIZE, limits.max_file_mb.saturating_mul(MB)),
        (libc::RLIMIT_CORE, 0),
    ]
}

fn serve(inbox: &mpsc::Receiver<SpawnRequest>) {
    while let Ok(SpawnRequest { prepared, reply }) = inbox.recv() {
        let Prepared { mut command, words, cgroup, door } = prepared;
        let spawned = groups::spawn(&mut command).map(|(mut child, waited)| Spawned {
            stdin: child.stdin.take(),
            stdout: child.stdout.take(),
            stderr: child.stderr.take(),
            group: Group::new(child, waited, words, cgroup),
            door,
        });
        // With the command go our copies of what it handed over; before the caller waits for its words.
        drop(command);
        // A caller that went away gets nothing; the dropped group kills itself.
        let _ = reply.send(spawned);
    }
}

/// True when `path` can be executed by a child at all; used to choose between bash and sh.
pub fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}
