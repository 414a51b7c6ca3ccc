//! A child under way: reading what it writes, waiting for it, ending it.
//!
//! Two ways to use it: [`Running::finish`] for a command, or its streams for a conversation (stdio servers).
//!
//! The invariant: dropping it ends its whole group.

use super::capture::Captured;
use super::groups::{self, Group, ProcessGroups};
use super::keeper::Keeper;
use super::watch::Reason;
use super::workspace::Workspace;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{ChildStderr, ChildStdin, ChildStdout};
use tokio_util::sync::CancellationToken;

/// How long output is still read after the command has ended. A background process may keep the pipe open
/// for hours; what the command itself wrote is in the pipe already. Longer delays such calls by as much.
const GRACE_AFTER_EXIT: Duration = Duration::from_millis(250);
/// How long a killed command may take to end; a process that takes longer hangs in the kernel and is left.
const KILL_WAIT_MAX: Duration = Duration::from_millis(500);
/// One read. Larger wastes memory per running command, smaller costs system calls.
const READ_BYTES: usize = 16 * 1024;
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

/// What is looked after once a command has ended.
#[derive(Debug)]
pub(super) struct Care {
    pub keeper: Arc<Keeper>,
    pub workspace: Workspace,
}

impl Care {
    pub(super) fn look(&self) {
        let repaired = self.keeper.look(&self.workspace);
        if !repaired.is_empty() {
            tracing::warn!(
                files = repaired.len(),
                "A command changed the mode or owner of files that it cannot open; they were put back"
            );
        }
    }
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
    pub(super) group: Arc<Group>,
    pub(super) groups: Arc<ProcessGroups>,
    pub(super) reason: Reason,
    pub(super) care: Option<Care>,
    pub(super) finished: bool,
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
        let (stdout, mut stderr) = tokio::join!(stdout.stop(grace), stderr.stop(grace));
        if let Some(reason) = self.reason.lock().unwrap_or_else(PoisonError::into_inner).take() {
            stderr.push(format!("\nThe command was ended: {reason}.\n").as_bytes());
        }
        let exit_code = groups::exit_code(&self.group).unwrap_or(128 + libc::SIGKILL);
        self.finished = true;
        let (group, care) = (Arc::clone(&self.group), self.care.take());
        // Reads /proc. If it cannot run, the group is held a little longer than needed.
        let after = move || {
            if let Some(care) = care {
                care.look();
            }
            group.is_alone().then(|| group.try_reap())
        };
        let alone = tokio::task::spawn_blocking(after).await;
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
