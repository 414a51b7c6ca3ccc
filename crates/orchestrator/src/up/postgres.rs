//! A private PostgreSQL that runs: on a Unix socket only, started again when it dies, stopped with us.
//!
//! It refuses to share a cluster with a server that is already there: one that an earlier `up` left behind is waited for,
//! and told to stop.
//!
//! The invariant: a server that cannot be kept alive is an error with its reason, after a bounded number of tries.

use super::cluster::{Cluster, ROLE};
use super::{FAILURE, REFUSED, stop};
use crate::registry::{DatabaseSettings, Registry};
use crate::serve::Stop;
use chassis::config::Secret;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

/// Longest path of a Unix socket.
const SOCKET_PATH_MAX: usize = 107;
/// The port in the socket's name; nothing listens on TCP.
const PORT: u16 = 5432;
/// Longest wait for the server to answer, recovery after a crash included.
const START_LIMIT: Duration = Duration::from_secs(60);
/// Longest wait for it to stop.
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// Longest wait for the server of an earlier `up` to end. Shorter refuses a start while it writes its last checkpoint.
const PREDECESSOR_LIMIT: Duration = Duration::from_secs(30);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(20);
/// Between two looks at whether the server lives. Longer leaves the fleet without its database; shorter wakes the
/// processor for nothing.
const ALIVE_LOOK: Duration = Duration::from_millis(200);
/// Starts after a death before it is given up. Fewer give up on the leftovers of a killed server, which are gone in a
/// moment; more keep people waiting for a cluster that is broken.
const TRIES_MAX: u32 = 5;
/// Wait before the second try; doubles with each. Longer lengthens every outage, shorter makes the tries one.
const BACK_OFF: Duration = Duration::from_millis(250);
/// A server that lived this long begins with all its tries. Shorter never gives up on one that always dies.
const STEADY: Duration = Duration::from_secs(60);
/// Database of the orchestrator.
const DATABASE: &str = "orchestrator";

/// A running server.
pub(super) struct Postgres {
    child: Child,
    cluster: Cluster,
}

/// What is left of the patience with a server that dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Tries(u32);

impl Tries {
    /// After a life this long: the number of the next try and the wait before it; `None` when there were enough.
    fn next(&mut self, lived: Duration) -> Option<(u32, Duration)> {
        if lived >= STEADY {
            self.0 = 0;
        }
        self.0 += 1;
        let wait = if self.0 == 1 { Duration::ZERO } else { BACK_OFF * 2u32.pow(self.0 - 2) };
        (self.0 <= TRIES_MAX).then_some((self.0, wait))
    }
}

/// The URL of the orchestrator's database in this cluster.
pub(super) fn url(cluster: &Cluster) -> String {
    url_of(&cluster.home, DATABASE)
}

fn url_of(home: &Path, database: &str) -> String {
    let dir: String = home.display().to_string().bytes().map(escape).collect();
    format!("postgresql://{ROLE}@{dir}:{PORT}/{database}?sslmode=disable")
}

impl Postgres {
    /// Makes the cluster when there is none, starts the server and makes the database.
    pub(super) async fn start(cluster: Cluster) -> Result<Self, Stop> {
        let socket = cluster.home.join(format!(".s.PGSQL.{PORT}"));
        if socket.as_os_str().len() > SOCKET_PATH_MAX {
            return Err(stop(
                REFUSED,
                format!(
                    "the socket path {} is longer than {SOCKET_PATH_MAX} bytes; say a shorter --data-dir",
                    socket.display()
                ),
            ));
        }
        cluster.initialise()?;
        predecessor_gone(&cluster.data()).await?;
        let child = launch(&cluster).map_err(|e| stop(FAILURE, format!("start PostgreSQL: {e}")))?;
        let mut server = Self { child, cluster };
        server.until_ready().await?;
        Ok(server)
    }

    async fn until_ready(&mut self) -> Result<(), Stop> {
        let url = Secret::new(url_of(&self.cluster.home, "postgres"));
        let settings =
            DatabaseSettings { url, max_connections: 1, application_name: "bap-engine up".to_owned() };
        let registry = Registry::connect(settings).map_err(|e| stop(FAILURE, e.to_string()))?;
        let began = Instant::now();
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(stop(
                    FAILURE,
                    format!("PostgreSQL ended ({status}); see {}", self.log().display()),
                ));
            }
            if registry.ping().await.is_ok() {
                break;
            }
            if began.elapsed() > START_LIMIT {
                return Err(stop(
                    FAILURE,
                    format!("PostgreSQL does not answer; see {}", self.log().display()),
                ));
            }
            tokio::time::sleep(LOOK).await;
        }
        registry.create_database(DATABASE).await.map_err(|e| stop(FAILURE, e.to_string()))
    }

    fn log(&self) -> PathBuf {
        self.cluster.home.join("postgres.log")
    }

    /// Starts the server again whenever it dies; returns only when that is of no use any more, with what to do.
    pub(super) async fn keep(&mut self) -> Stop {
        let mut tries = Tries::default();
        let mut since = Instant::now();
        loop {
            let mut why = format!("PostgreSQL ended ({})", self.death().await);
            loop {
                let Some((number, wait)) = tries.next(since.elapsed()) else { return self.given_up(&why) };
                tracing::warn!(
                    try_number = number,
                    tries = TRIES_MAX,
                    wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
                    "{why}; starting it again"
                );
                tokio::time::sleep(wait).await;
                since = Instant::now();
                match self.again().await {
                    Ok(()) => break,
                    Err(stop) => why = stop.message,
                }
            }
            tracing::info!("PostgreSQL answers again");
        }
    }

    fn given_up(&self, why: &str) -> Stop {
        stop(
            FAILURE,
            format!(
                "PostgreSQL cannot be kept running: {why}. Read {}, put right what it says, and run `up` again: it \
                 goes on with everything in {}",
                self.log().display(),
                self.cluster.data().display()
            ),
        )
    }

    /// Waits for the end of the server.
    async fn death(&mut self) -> ExitStatus {
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                return status;
            }
            tokio::time::sleep(ALIVE_LOOK).await;
        }
    }

    async fn again(&mut self) -> Result<(), Stop> {
        predecessor_gone(&self.cluster.data()).await?;
        let child = launch(&self.cluster).map_err(|e| stop(FAILURE, format!("start PostgreSQL: {e}")))?;
        let mut before = std::mem::replace(&mut self.child, child);
        // One that ran without answering makes room for the next.
        let _ = before.kill();
        let _ = before.wait();
        self.until_ready().await
    }

    /// Stops the server: no new connections, open ones ended, everything written.
    pub(super) async fn stop(mut self) {
        let Some(pid) = self.living() else { return };
        let _ = kill_process(pid, Signal::INT);
        let began = Instant::now();
        while began.elapsed() < STOP_LIMIT {
            if let Ok(Some(_)) = self.child.try_wait() {
                return;
            }
            tokio::time::sleep(LOOK).await;
        }
        tracing::warn!("PostgreSQL does not stop; ending it, it recovers at the next start");
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// The process, unless it has ended: its number may belong to somebody else by now.
    fn living(&mut self) -> Option<Pid> {
        match self.child.try_wait() {
            Ok(None) => i32::try_from(self.child.id()).ok().and_then(Pid::from_raw),
            _ => None,
        }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Some(pid) = self.living() {
            let _ = kill_process(pid, Signal::INT);
            let _ = self.child.wait();
        }
    }
}

/// A byte of a path as it stands in the host part of a URL.
fn escape(byte: u8) -> String {
    if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_') {
        char::from(byte).to_string()
    } else {
        format!("%{byte:02X}")
    }
}

/// The server that an earlier `up` left on this cluster, if it still lives. We hold the lock of the directory, so it
/// is nobody's any more.
fn predecessor(data: &Path) -> Option<Pid> {
    let text = std::fs::read_to_string(data.join("postmaster.pid")).ok()?;
    let number: i32 = text.lines().next()?.trim().parse().ok()?;
    let stat = std::fs::read_to_string(format!("/proc/{number}/stat")).ok()?;
    let lives = stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']));
    // Its number may belong to somebody else after a restart of the machine.
    let arguments = std::fs::read(format!("/proc/{number}/cmdline")).ok()?;
    let place = data.as_os_str().as_encoded_bytes();
    let ours = arguments.split(|b| *b == 0).any(|argument| argument == place);
    (lives && ours).then(|| Pid::from_raw(number)).flatten()
}

/// Waits until no server of an earlier `up` is on this cluster; it is told to stop, which it mostly was already.
async fn predecessor_gone(data: &Path) -> Result<(), Stop> {
    let Some(pid) = predecessor(data) else { return Ok(()) };
    tracing::info!(
        pid = pid.as_raw_nonzero().get(),
        "the PostgreSQL of an earlier `up` still stops; waiting for it"
    );
    let _ = kill_process(pid, Signal::INT);
    let began = Instant::now();
    while predecessor(data).is_some() {
        if began.elapsed() > PREDECESSOR_LIMIT {
            return Err(stop(
                REFUSED,
                format!(
                    "the PostgreSQL of an earlier `up` (process {0}) does not end; end it with `kill -INT {0}`, then \
                     run `up` again",
                    pid.as_raw_nonzero()
                ),
            ));
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

fn launch(cluster: &Cluster) -> io::Result<Child> {
    let log = File::options().create(true).append(true).open(cluster.home.join("postgres.log"))?;
    cluster.hand_over(&log)?;
    let mut command = cluster.command("postgres");
    command.arg("-D").arg(cluster.data());
    for setting in [
        "listen_addresses=".to_owned(),
        format!("unix_socket_directories={}", cluster.home.display()),
        "unix_socket_permissions=0700".to_owned(),
        format!("port={PORT}"),
        "shared_buffers=32MB".to_owned(),
        "max_connections=60".to_owned(),
        "timezone=UTC".to_owned(),
        "log_timezone=UTC".to_owned(),
    ] {
        command.arg("-c").arg(setting);
    }
    command.stdout(log.try_clone()?).stderr(log);
    // SAFETY: prctl is a plain system call; nothing is allocated between fork and exec.
    unsafe {
        command.pre_exec(|| {
            // When we are killed the server stops by itself, in order.
            rustix::process::set_parent_process_death_signal(Some(Signal::INT))?;
            Ok(())
        });
    }
    command.spawn()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_dies_is_started_again_a_few_times_and_with_longer_waits() {
        let mut tries = Tries::default();
        let waits: Vec<u128> = std::iter::from_fn(|| tries.next(Duration::ZERO))
            .take(100)
            .map(|(_, wait)| wait.as_millis())
            .collect();
        assert_eq!(waits, [0, 250, 500, 1000, 2000]);
    }

    #[test]
    fn a_server_that_lived_long_begins_with_all_its_tries() {
        let mut tries = Tries(TRIES_MAX);
        assert_eq!(tries.next(STEADY), Some((1, Duration::ZERO)));
        assert_eq!(tries.next(STEADY / 2), Some((2, BACK_OFF)));
    }

    #[test]
    fn a_process_that_only_has_the_number_of_a_server_is_no_predecessor() {
        let folder = tempfile::tempdir().expect("a directory");
        assert_eq!(predecessor(folder.path()), None);
        std::fs::write(folder.path().join("postmaster.pid"), format!("{}\n", std::process::id()))
            .expect("a file");
        assert_eq!(predecessor(folder.path()), None, "this test is no PostgreSQL");
    }
}
