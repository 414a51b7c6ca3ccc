//! One-shot commands on a storage that nobody writes.
//!
//! The child keeps the directory's lock, so that even without us no engine starts beside it. It has the network of
//! its user: this place cannot take it away. The one invariant: a job has ended, by itself or by its deadline, before
//! its outcome is told.

use super::directory::{Lock, TAIL_MAX_BYTES, failed};
use super::process::{Held, ProcessId};
use super::spawn::{Program, spawn};
use super::watch::wait_for_end;
use crate::{BackendError, JobOutcome, Result};
use rustix::fd::{AsFd, OwnedFd};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Signal;
use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::path::Path;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;

/// How long to wait for output after the end, which only a grandchild can hold open.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Exit code of something that SIGKILL ended.
const KILLED: i32 = 137;

/// A job that runs.
pub(super) struct Job {
    process: ProcessId,
    held: Held,
    output: OwnedFd,
}

/// Starts it. Blocks the thread for as long as starting takes.
pub(super) fn begin(
    program: &Path,
    args: &[String],
    env: &BTreeMap<String, String>,
    dir: &Path,
    lock: &Lock,
) -> Result<Job> {
    let fail = |e: std::io::Error| failed("start the job", &e);
    let (output, input) = pipe_with(PipeFlags::CLOEXEC).map_err(|e| fail(e.into()))?;
    let nothing = File::open("/dev/null").map_err(fail)?;
    let pid = spawn(&Program {
        path: program,
        args,
        env,
        dir,
        input: nothing.as_fd(),
        output: input.as_fd(),
        keep: Some(lock.file().as_fd()),
    })
    .map_err(fail)?;
    let gone = || BackendError::Refused("the job could not be found after its start".into());
    let process = ProcessId::of(pid).map_err(fail)?.ok_or_else(gone)?;
    let held = process.hold().map_err(fail)?.ok_or_else(gone)?;
    Ok(Job { process, held, output })
}

impl Job {
    /// Waits for its end, at most `limit`; then it is killed.
    pub(super) async fn finish(self, limit: Duration) -> Result<JobOutcome> {
        let fail = |e: std::io::Error| failed("wait for the job", &e);
        let mut output = Receiver::from_owned_fd(self.output).map_err(fail)?;
        let end = self.held.watch().map_err(fail)?;
        let mut last = VecDeque::new();
        let in_time = {
            let reading = keep_last(&mut output, &mut last);
            let ended = tokio::time::timeout(limit, wait_for_end(end));
            tokio::pin!(reading, ended);
            tokio::select! {
                ended = &mut ended => ended.is_ok(),
                () = &mut reading => ended.await.is_ok(),
            }
        };
        // of its whole group nothing is left, whoever it was
        self.held.signal(Signal::KILL).map_err(fail)?;
        wait_for_end(self.held.into_fd()).await.map_err(fail)?;
        let code = self.process.reap().map_err(fail)?.unwrap_or(KILLED);
        if !in_time {
            let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
            return Err(BackendError::TimedOut { call: "run_job", limit_ms });
        }
        // what it said and we have not read yet
        let _ = tokio::time::timeout(LAST_WORDS, keep_last(&mut output, &mut last)).await;
        let bytes = Vec::from(last);
        let text = String::from_utf8_lossy(&bytes);
        // lossy decoding may lengthen it
        let cut = text.len().saturating_sub(TAIL_MAX_BYTES as usize);
        let cut = (cut..=text.len()).find(|&at| text.is_char_boundary(at)).unwrap_or(text.len());
        Ok(JobOutcome { exit_code: code, output: text[cut..].to_owned() })
    }
}

/// Reads to the end and keeps the last 64 KiB.
async fn keep_last(from: &mut Receiver, last: &mut VecDeque<u8>) {
    let mut chunk = [0; 8192];
    while let Ok(length @ 1..) = from.read(&mut chunk).await {
        last.extend(&chunk[..length]);
        let over = last.len().saturating_sub(TAIL_MAX_BYTES as usize);
        last.drain(..over);
    }
}
