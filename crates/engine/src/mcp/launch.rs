//! Starting stdio servers in the sandbox.
//!
//! A server has a private directory of its own (its HOME and TMPDIR) and sees ALLOWED_ROOTS. What it writes to its
//! standard error goes to the DEBUG log. The invariant: a server and all its children end when its line does.

use crate::core::Core;
use crate::sandbox::{Command, Confine, LaunchError, Launcher, ProcessGroups, Running, Workspace};
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
        }
    }
}

/// Kills what is left when the line goes.
struct Server {
    _running: Running,
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
        command.env = program.env.into_iter().collect();
        command.confine = self.confine;
        if !program.network.is_empty() {
            tracing::warn!(connection = %program.ref_id, "A stdio server's `network` is not opened; it runs without");
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
        let process = Box::new(Server { _running: running, groups });
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
