//! The server that all test processes of a run share, and its end after the last of them.
//!
//! Every process holds a shared lock on `users.lock` for as long as it lives; the kernel gives it back however the
//! process ends. A detached watcher waits for the exclusive lock: when it gets it, nobody is left. Starting and ending
//! both happen under `start.lock`, so a newcomer never meets a server that is on its way out.

use super::programs::{self, Version};
use super::server::{Durability, blocking, initialise, process};
use std::fs::{self, File};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use tokio::sync::OnceCell;

/// Waits until nobody has used the server in $1 for $2 seconds, then ends it; $3 = `remove` takes the folder, too.
const WATCHER: &str = r#"
cd "$1" || exit 1
exec 7>>watcher.lock 8>>users.lock 9>>start.lock
flock -n 7 || exit 0
while :; do
    flock -x 8
    flock -u 8
    sleep "$2"
    flock -x 9
    if flock -n -x 8; then
        pid=$(head -n 1 data/postmaster.pid 2>/dev/null)
        if [ -n "$pid" ]; then
            kill -QUIT "$pid" 2>/dev/null
            tries=0
            while kill -0 "$pid" 2>/dev/null && [ "$tries" -lt 100 ]; do
                sleep 0.1
                tries=$((tries + 1))
            done
        fi
        rm -rf data port
        [ "$3" = remove ] && rm -rf "$1"
        exit 0
    fi
    flock -u 9
done
"#;

/// A server this process uses, and the lock that says so.
struct Used {
    address: String,
    _users: File,
}

static V16: OnceCell<Used> = OnceCell::const_new();
static V18: OnceCell<Used> = OnceCell::const_new();

/// `host:port` of the shared server; starts it if need be.
pub(super) async fn server(version: Version) -> String {
    let cell = match version {
        Version::V16 => &V16,
        Version::V18 => &V18,
    };
    let used = cell.get_or_init(|| async move {
        match blocking(move || join(version)).await {
            Ok(used) => used,
            Err(reason) => programs::cannot_test(version, &reason),
        }
    });
    used.await.address.clone()
}

fn folder(version: Version) -> Result<PathBuf, String> {
    let folder = programs::base()?.join(format!("shared-{}", version.major()));
    fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    Ok(folder)
}

fn open(folder: &Path, name: &str) -> Result<File, String> {
    let path = folder.join(name);
    File::options().create(true).append(true).open(&path).map_err(|e| format!("{}: {e}", path.display()))
}

/// Holds off every other process that asks for the same name, until dropped.
pub(super) async fn lock(version: Version, name: &str) -> File {
    let name = format!("{name}.lock");
    blocking(move || {
        let file = open(&folder(version)?, &name)?;
        file.lock().map_err(|e| e.to_string())?;
        Ok::<_, String>(file)
    })
    .await
    .expect("the lock file can be locked")
}

fn join(version: Version) -> Result<Used, String> {
    let folder = folder(version)?;
    let starting = open(&folder, "start.lock")?;
    starting.lock().map_err(|e| e.to_string())?;
    let port = match running(&folder) {
        Some(port) => port,
        None => {
            let port = initialise(&programs::find(version)?, &folder, Durability::None)?;
            fs::write(folder.join("port"), port.to_string()).map_err(|e| e.to_string())?;
            port
        }
    };
    let users = watched(&folder, Afterwards::KeepFolder)?;
    Ok(Used { address: format!("127.0.0.1:{port}"), _users: users })
}

fn running(folder: &Path) -> Option<u16> {
    let port = fs::read_to_string(folder.join("port")).ok()?.trim().parse().ok()?;
    let alive = rustix::process::test_kill_process(process(folder)?).is_ok();
    let answers = TcpStream::connect_timeout(&([127, 0, 0, 1], port).into(), Duration::from_secs(5)).is_ok();
    (alive && answers).then_some(port)
}

/// What the watcher leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Afterwards {
    /// The folder with its lock files, for the next run; and ten seconds, so that the gap between two test processes
    /// does not end the server.
    KeepFolder,
    /// Nothing.
    RemoveFolder,
}

/// Makes this process a user of the server in this folder and sees to it that a watcher ends the server after the last
/// one, however that process ends. The lock is given back with the file.
pub(super) fn watched(folder: &Path, afterwards: Afterwards) -> Result<File, String> {
    let users = open(folder, "users.lock")?;
    users.lock_shared().map_err(|e| e.to_string())?;
    let probe = open(folder, "watcher.lock")?;
    if probe.try_lock().is_err() {
        return Ok(users);
    }
    drop(probe);
    let (linger_s, rest) = match afterwards {
        Afterwards::KeepFolder => ("10", "keep"),
        Afterwards::RemoveFolder => ("0", "remove"),
    };
    let started = Command::new("setsid")
        .args(["--fork", "sh", "-c", WATCHER, "sh"])
        .arg(folder)
        .args([linger_s, rest])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .map_err(|e| format!("setsid (util-linux): {e}"))?;
    if started.success() {
        Ok(users)
    } else {
        Err(format!("the watcher of the test server did not start: {started}"))
    }
}
