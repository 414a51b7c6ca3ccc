//! One server: its data directory, its port, its start and its ends, the gentle and the brutal.

use super::programs::{self, Version};
use super::{connect, run, run_server, url};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Starts tried before a port that others keep taking is a failure.
const PORT_TRIES: u32 = 5;
/// Wait for the end of a server. Longer hides a hang; shorter fails on a loaded machine.
const END_LIMIT: Duration = Duration::from_secs(30);

/// How much a server must keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Durability {
    /// Nothing: it is never killed.
    None,
    /// What was committed survives a kill of its processes (not of the machine).
    Kill,
    /// As in production: what was committed is on the disk. For measurements; a test would only be slower.
    Machine,
}

/// Makes a data directory and starts a server in it; the answer is its port.
pub(super) fn initialise(programs: &Path, folder: &Path, durability: Durability) -> Result<u16, String> {
    let data = folder.join("data");
    let problem = |e: std::io::Error| format!("{}: {e}", data.display());
    let _ = fs::remove_dir_all(&data);
    fs::create_dir_all(&data).map_err(problem)?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).map_err(problem)?;
    let log = folder.join("log");
    fs::write(&log, "").map_err(problem)?;
    if let Some((uid, gid)) = programs::server_user() {
        chown(&data, Some(uid), Some(gid)).map_err(problem)?;
        chown(&log, Some(uid), Some(gid)).map_err(problem)?;
    }
    let place = data.display().to_string();
    programs::run(
        &programs.join("initdb"),
        folder,
        &[
            "-D",
            &place,
            "-U",
            "postgres",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
            "--no-instructions",
        ],
    )?;
    let mut last = String::new();
    for _ in 0..PORT_TRIES {
        let port = free_port().map_err(|e| e.to_string())?;
        match start(programs, folder, port, durability) {
            Ok(()) => return Ok(port),
            Err(reason) => last = reason,
        }
    }
    Err(last)
}

fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// Starts a server on a data directory that exists, fully detached; returns when it takes connections.
pub(super) fn start(programs: &Path, folder: &Path, port: u16, durability: Durability) -> Result<(), String> {
    let lazy = match durability {
        Durability::None => "-c fsync=off -c synchronous_commit=off -c full_page_writes=off",
        Durability::Kill => "-c fsync=off",
        Durability::Machine => "",
    };
    let options = format!(
        "-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' {lazy} \
         -c shared_buffers=32MB -c max_connections=300 -c timezone=UTC -c max_wal_size=256MB"
    );
    let (data, log) = (folder.join("data").display().to_string(), folder.join("log").display().to_string());
    programs::run(
        &programs.join("pg_ctl"),
        folder,
        &["-D", &data, "-l", &log, "-w", "-t", "60", "-s", "-o", &options, "start"],
    )
    .map_err(|reason| {
        let said = fs::read_to_string(&log).unwrap_or_default();
        let tail: Vec<&str> = said.lines().rev().take(5).collect();
        format!("{reason}; {}", tail.into_iter().rev().collect::<Vec<_>>().join("; "))
    })
}

/// The process of the server in this directory.
pub(super) fn process(folder: &Path) -> Option<Pid> {
    let text = fs::read_to_string(folder.join("data/postmaster.pid")).ok()?;
    Pid::from_raw(text.lines().next()?.trim().parse().ok()?)
}

/// A server of one test, which may do with it what it likes. Ends with this value.
pub struct PostgresServer {
    folder: tempfile::TempDir,
    programs: PathBuf,
    port: u16,
    durability: Durability,
    /// While it is open, the watcher leaves the server alone.
    _users: fs::File,
}

impl PostgresServer {
    /// Starts one.
    pub async fn private(version: Version) -> Self {
        Self::make(version, Durability::Kill).await
    }

    /// Starts one that flushes every commit to the disk, as in production.
    pub async fn durable(version: Version) -> Self {
        Self::make(version, Durability::Machine).await
    }

    async fn make(version: Version, durability: Durability) -> Self {
        let made = blocking(move || {
            let programs = programs::find(version)?;
            let folder = tempfile::Builder::new()
                .prefix("bap-test-postgres-private-")
                .tempdir()
                .map_err(|e| format!("temporary directory: {e}"))?;
            let port = initialise(&programs, folder.path(), durability)?;
            let users = run_server::watched(folder.path(), run_server::Afterwards::RemoveFolder)?;
            Ok::<_, String>(Self { folder, programs, port, durability, _users: users })
        });
        match made.await {
            Ok(server) => server,
            Err(reason) => programs::cannot_test(version, &reason),
        }
    }

    /// The URL of a database on it.
    pub fn url_of(&self, database: &str) -> String {
        url(&self.address(), database)
    }

    /// `127.0.0.1:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// One of the programs that came with it, such as `pg_dump`.
    pub fn program(&self, name: &str) -> PathBuf {
        self.programs.join(name)
    }

    /// Makes an empty database; the answer is its URL.
    pub async fn create_database(&self, name: &str) -> String {
        run(&connect(&self.address(), "postgres").await, &format!("CREATE DATABASE {name}")).await;
        self.url_of(name)
    }

    /// Kills every process of the server at once, as a power cut would.
    pub async fn kill_9(&self) {
        let Some(main) = process(self.folder.path()) else { return };
        let children = children(main);
        for pid in std::iter::once(main).chain(children.iter().copied()) {
            let _ = kill_process(pid, Signal::KILL);
        }
        for pid in std::iter::once(main).chain(children) {
            ended(pid).await;
        }
        let _ = fs::remove_file(self.folder.path().join("data/postmaster.pid"));
    }

    /// Ends the server, rolling back what is under way.
    pub async fn stop(&self) {
        let Some(main) = process(self.folder.path()) else { return };
        let _ = kill_process(main, Signal::INT);
        ended(main).await;
    }

    /// Starts the server again, on the same port and data.
    pub async fn start(&self) {
        let (programs, folder) = (self.programs.clone(), self.folder.path().to_path_buf());
        let (port, durability) = (self.port, self.durability);
        blocking(move || start(&programs, &folder, port, durability)).await.expect("the server starts again");
    }

    /// Freezes every process of the server: connections stay open, nothing answers.
    pub fn pause(&self) {
        self.signal_all(Signal::STOP);
    }

    /// Lets the server go on.
    pub fn resume(&self) {
        self.signal_all(Signal::CONT);
    }

    fn signal_all(&self, signal: Signal) {
        let Some(main) = process(self.folder.path()) else { return };
        for pid in std::iter::once(main).chain(children(main)) {
            let _ = kill_process(pid, signal);
        }
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        if let Some(main) = process(self.folder.path()) {
            for pid in std::iter::once(main).chain(children(main)) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }
}

/// Processes started by this one.
fn children(parent: Pid) -> Vec<Pid> {
    let parent = parent.as_raw_nonzero().get();
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            // The name in brackets may hold anything; what follows it is the state and the parent.
            let parent_of =
                stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse::<i32>().ok());
            parent_of == Some(parent)
        })
        .filter_map(Pid::from_raw)
        .collect()
}

async fn ended(pid: Pid) {
    let alive = || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
    };
    let waited = async {
        while alive() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(END_LIMIT, waited).await.expect("the server ends in time");
}

/// Runs what blocks where it may.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("the work does not panic")
}
