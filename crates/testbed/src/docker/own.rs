//! A daemon of one test alone, in a network namespace of its own, that may be killed, stopped and started again.
//!
//! Its containers cannot be reached from here: it is for what happens to a caller when a daemon comes and goes. The
//! one invariant: it ends with its owner, and its data with it.

use super::{daemon_command, on_path, wait_until_it_answers};
use rustix::process::{Pid, Signal, kill_process};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};

/// A daemon that takes longer to end is killed.
const END_MAX: Duration = Duration::from_secs(30);

/// A private daemon.
#[derive(Debug)]
pub struct OwnDaemon {
    dir: tempfile::TempDir,
    process: Option<Child>,
}

impl OwnDaemon {
    /// Starts one; `None` where that is not possible (the search for the shared daemon has written that down).
    pub async fn start() -> Option<Self> {
        if !rustix::process::geteuid().is_root()
            || !on_path("dockerd")
            || !on_path("unshare")
            || !on_path("setpriv")
        {
            super::write_skip("docker backend: restart of a daemon (needs root and dockerd)");
            return None;
        }
        let dir = tempfile::Builder::new().prefix("september-dockerd-").tempdir().expect("a directory");
        let mut own = Self { dir, process: None };
        own.start_again().await;
        Some(own)
    }

    /// Starts it (again) on the same data.
    pub async fn start_again(&mut self) {
        let mut command = Command::new("setpriv");
        // It must not outlive a test that is killed.
        command.args(["--pdeathsig", "KILL", "unshare", "--net"]).args(daemon_command(self.dir.path()));
        let log = std::fs::File::create(self.log()).expect("its directory can be written");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).kill_on_drop(true);
        self.process = Some(command.spawn().expect("setpriv runs"));
        wait_until_it_answers(&self.socket(), &self.log()).await;
    }

    /// Ends it and waits for its end.
    pub async fn stop(&mut self) {
        let Some(mut process) = self.process.take() else { return };
        self.signal_to(&process, Signal::TERM);
        if tokio::time::timeout(END_MAX, process.wait()).await.is_err() {
            process.kill().await.expect("it can be killed");
        }
    }

    /// Sends it a signal: STOP and CONT make it hang and go on.
    pub fn signal(&self, signal: Signal) {
        if let Some(process) = &self.process {
            self.signal_to(process, signal);
        }
    }

    fn signal_to(&self, process: &Child, signal: Signal) {
        let pid = process.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        kill_process(pid.expect("it has not been waited for"), signal).expect("it is ours");
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("docker.sock")
    }

    /// As `DOCKER_HOST` names it.
    pub fn host(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("dockerd.log")
    }
}

impl Drop for OwnDaemon {
    fn drop(&mut self) {
        // Tests that pass have stopped it; here it is killed, and its containerd with it.
        drop(self.process.take());
        let below = format!("{}/", self.dir.path().display());
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        for mount in
            mounts.lines().filter_map(|line| line.split(' ').nth(1)).filter(|path| path.starts_with(&below))
        {
            let _ = std::process::Command::new("umount").args(["-l", mount]).stderr(Stdio::null()).status();
        }
    }
}
