//! Starting stdio servers in the sandbox.
//!
//! A server has a private directory of its own (its HOME and TMPDIR) and sees ALLOWED_ROOTS. What it writes to its
//! standard error goes to the DEBUG log.
//!
//! The hosts of its entry's `network` it reaches through a proxy of its own, which knows these hosts and no others;
//! without an entry it has no network. With ASSET_DIRECTORY_SANDBOXED=false nothing keeps a server from the
//! network, so there is no proxy either and `network` says nothing.
//!
//! The invariant: a server, its proxy and all its children end when its line does.

use crate::core::Core;
use crate::outbound::{AllowList, Guard, SystemResolver};
use crate::sandbox::proxy::Proxy;
use crate::sandbox::{Command, Confine, LaunchError, Launcher, ProcessGroups, Running, Workspace};
use crate::secrets::Known;
use async_trait::async_trait;
use connectors::launch::{Launch, Pipes, Program};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::ChildStderr;

/// What the private directories of servers are called, so that they are told from those of tasks.
pub const SCRATCH_PREFIX: &str = "mcp-";
/// Longest line of a server's standard error in the log; the rest of it is dropped.
const STDERR_LINE_BYTES: u64 = 1_024;

/// Starts servers with the Engine's launcher.
pub struct SandboxLaunch {
    launcher: Arc<Launcher>,
    workspace: Arc<Workspace>,
    scratch: PathBuf,
    confine: Confine,
    known: Arc<Known>,
}

impl SandboxLaunch {
    /// What the Engine has.
    pub fn new(core: &Core) -> Self {
        let confine =
            if core.config.asset_directory_sandboxed { Confine::Fully } else { Confine::LimitsOnly };
        Self {
            launcher: Arc::clone(&core.launcher),
            workspace: Arc::clone(&core.workspace),
            scratch: core.scratch.clone(),
            confine,
            known: Arc::clone(&core.known),
        }
    }

    /// A proxy for the hosts of an entry, where there are any and the sandbox can keep a server to it.
    async fn proxy(&self, program: &Program) -> Result<Option<Proxy>, String> {
        if program.network.is_empty() || self.confine == Confine::LimitsOnly {
            return Ok(None);
        }
        let launcher = Arc::clone(&self.launcher);
        // may try bubblewrap, which takes as long as a start
        let can = tokio::task::spawn_blocking(move || launcher.can_reach_a_proxy()).await;
        if !can.unwrap_or(false) {
            tracing::warn!(
                connection = %program.ref_id,
                "A stdio server runs without its `network`: that needs seccomp, and bubblewrap or landlock 4 (Linux 6.7)"
            );
            return Ok(None);
        }
        let guard = Guard::new(AllowList::new(&program.network), Arc::new(SystemResolver));
        let proxy = Proxy::start(guard).await;
        let proxy = proxy.map_err(|error| format!("its proxy cannot be started: {}", error.kind()))?;
        self.known.learn(proxy.token());
        Ok(Some(proxy))
    }
}

/// Kills what is left when the line goes.
struct Server {
    _running: Running,
    _proxy: Option<Proxy>,
    groups: Arc<ProcessGroups>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.groups.kill_all_now();
    }
}

#[async_trait]
impl Launch for SandboxLaunch {
    async fn launch(&self, program: Program) -> Result<Pipes, String> {
        let scratch = self.scratch.join(format!("{SCRATCH_PREFIX}{}", program.ref_id));
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&scratch)
            .map_err(|error| format!("its directory cannot be made: {}", error.kind()))?;
        let workspace = self
            .workspace
            .for_task(&scratch)
            .map_err(|error| format!("its directory cannot be used: {}", error.kind()))?;
        let Some((name, args)) = program.command.split_first() else {
            return Err("it has no command".into());
        };
        let mut command = Command::new(name, args);
        command.converse = true;
        command.env = program.env.clone().into_iter().collect();
        command.confine = self.confine;
        let proxy = self.proxy(&program).await?;
        if let Some(proxy) = &proxy {
            proxy.open_for(&mut command);
        }
        let groups = Arc::new(ProcessGroups::new(&scratch));
        let mut running =
            self.launcher.spawn(command, &workspace, &groups).await.map_err(|error| match error {
                LaunchError::NotFound => "its program was not found".to_owned(),
                LaunchError::Sandbox(_) => "the sandbox could not be prepared".to_owned(),
                LaunchError::Start(source) => format!("it could not be started: {}", source.kind()),
            })?;
        let (Some(input), Some(output)) = (running.stdin.take(), running.stdout.take()) else {
            return Err("it has no pipes".into());
        };
        if let Some(stderr) = running.stderr.take() {
            tokio::spawn(log_stderr(stderr, program.ref_id.to_string()));
        }
        let process = Box::new(Server { _running: running, _proxy: proxy, groups });
        Ok(Pipes { output: Box::new(output), input: Box::new(input), process })
    }
}

async fn log_stderr(stderr: ChildStderr, connection: String) {
    let mut reader = BufReader::new(stderr);
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut reader).take(STDERR_LINE_BYTES).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {
                tracing::debug!(
                    connection,
                    "An MCP server says: {}",
                    String::from_utf8_lossy(&line).trim_end()
                );
            }
        }
    }
}
