//! A Docker daemon for tests: one that runs already, else a private one, shared by all test processes.
//!
//! The private daemon has its own data, socket and address pool, no default bridge, and changes neither firewall nor
//! forwarding of this machine. It belongs to nobody: a watcher ends it some time after the last user, and removes
//! everything it had. Other daemons are never touched. Where neither is possible, one line names what was not tested.
//!
//! The one invariant: whoever holds a [`DockerDaemon`] has a daemon that answers and does not go away meanwhile.

mod fake_engine;
mod gate;
mod own;
mod scripted;

pub use fake_engine::fake_engine;
pub use gate::SocketGate;
pub use own::OwnDaemon;
pub use scripted::{ScriptedDaemon, Served};

use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use rustix::fs::FlockOperation;
use serde_json::Value;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Where a system daemon listens.
const SYSTEM_SOCKET: &str = "/var/run/docker.sock";
/// A daemon that takes longer to start does not work here. Smaller fails on a machine busy compiling.
const START_MAX: Duration = Duration::from_secs(90);
/// One answer. Smaller fails while images are unpacked on a slow disk.
const ANSWER_MAX: Duration = Duration::from_secs(60);
/// Between two looks at something that starts.
const POLL: Duration = Duration::from_millis(50);

/// What ends the private daemon: 30 looks without a user, 2 s apart, then everything is removed. It holds the users'
/// lock alone while it does, so that nobody finds a daemon that is about to go.
const KEEPER: &str = r#"
dir=$1; shift
exec 9<>"$dir/users.lock"
"$@" >"$dir/dockerd.log" 2>&1 9>&- &
daemon=$!
idle=0
while kill -0 "$daemon" 2>/dev/null; do
    sleep 2 9>&-
    if flock -n -x 9; then
        idle=$((idle + 1))
        [ "$idle" -lt 30 ] || break
        flock -u 9
    else
        idle=0
    fi
done
flock -x 9
kill "$daemon" 2>/dev/null
for _ in $(seq 300); do kill -0 "$daemon" 2>/dev/null || break; sleep 0.1 9>&-; done
kill -9 "$daemon" 2>/dev/null
grep " $dir/" /proc/mounts | cut -d ' ' -f 2 | while read -r mount; do umount -l "$mount"; done
rm -rf "$dir/data" "$dir/exec" "$dir/docker.sock" "$dir/dockerd.pid"
"#;

/// A daemon that answers.
#[derive(Debug)]
pub struct DockerDaemon {
    socket: PathBuf,
    /// Held shared for as long as the daemon is used.
    _use: Option<File>,
}

impl DockerDaemon {
    /// A daemon to test against; `None` when there is none and none can be started, which is written down.
    pub async fn find() -> Option<Self> {
        for socket in [socket_of_environment(), Some(PathBuf::from(SYSTEM_SOCKET))].into_iter().flatten() {
            if answers(&socket).await {
                return Some(Self { socket, _use: None });
            }
        }
        let missing = if !rustix::process::geteuid().is_root() {
            Some("docker backend: no Docker daemon answers (start one, or run as root)")
        } else if !on_path("dockerd") || !on_path("flock") || !on_path("setsid") {
            Some("docker backend: no Docker daemon answers and none is installed (apt-get install docker.io)")
        } else {
            None
        };
        if let Some(line) = missing {
            write_skip(line);
            return None;
        }
        Some(private().await)
    }

    /// As `DOCKER_HOST` names it.
    pub fn host(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// Its socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// One call, from outside of whatever is tested: status and answer.
    pub async fn call(&self, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
        let bytes = body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
        let (status, answer) = request(&self.socket, method, path, "application/json", bytes)
            .await
            .unwrap_or_else(|err| panic!("{method} {path}: {err}"));
        (status, serde_json::from_slice(&answer).unwrap_or(Value::Null))
    }

    /// The fake engine as an image FROM scratch; imported once per version of the program.
    pub async fn engine_image(&self) -> String {
        fake_engine::image(&self.socket).await
    }
}

/// Writes down what this machine could not test, where the summary of `make test` looks for it.
#[allow(
    clippy::disallowed_methods,
    reason = "a test library has no configuration; these are the test runner's"
)]
fn write_skip(line: &str) {
    eprintln!("not tested: {line}");
    if let Ok(path) = std::env::var("SEPTEMBER_TEST_SKIPS")
        && let Ok(mut file) = OpenOptions::new().append(true).create(true).open(path)
    {
        // Losing the line costs a summary, not a test.
        let _ = writeln!(file, "{line}");
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "a test library has no configuration; these are the test runner's"
)]
fn socket_of_environment() -> Option<PathBuf> {
    let host = std::env::var("DOCKER_HOST").ok()?;
    host.strip_prefix("unix://").map(PathBuf::from)
}

#[allow(
    clippy::disallowed_methods,
    reason = "a test library has no configuration; these are the test runner's"
)]
fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

async fn answers(socket: &Path) -> bool {
    socket.exists()
        && matches!(request(socket, "GET", "/_ping", "text/plain", Vec::new()).await, Ok((200, _)))
}

async fn wait_until_it_answers(socket: &Path, log: &Path) {
    let began = Instant::now();
    while !answers(socket).await {
        assert!(
            began.elapsed() < START_MAX,
            "dockerd does not start:\n{}",
            std::fs::read_to_string(log).unwrap_or_default()
        );
        tokio::time::sleep(POLL).await;
    }
}

/// The private daemon, started if need be.
async fn private() -> DockerDaemon {
    let dir = std::env::temp_dir().join("september-test-docker");
    match std::fs::DirBuilder::new().mode(0o700).create(&dir) {
        Err(err) if err.kind() != std::io::ErrorKind::AlreadyExists => panic!("{}: {err}", dir.display()),
        _ => {}
    }
    let socket = dir.join("docker.sock");
    let users = locked(dir.join("users.lock"), FlockOperation::LockShared).await;
    if !answers(&socket).await {
        let _start = locked(dir.join("start.lock"), FlockOperation::LockExclusive).await;
        if !answers(&socket).await {
            let keeper = dir.join("keeper.sh");
            std::fs::write(&keeper, KEEPER).expect("the keeper is written");
            let mut command = Command::new("setsid");
            command.args(["--fork", "sh"]).arg(&keeper).arg(&dir).args(daemon_command(&dir));
            let began = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
            assert!(began.is_ok_and(|status| status.success()), "setsid works");
        }
        wait_until_it_answers(&socket, &dir.join("dockerd.log")).await;
    }
    DockerDaemon { socket, _use: Some(users) }
}

/// A daemon with everything of its own below `dir`, that leaves this machine's network settings alone.
fn daemon_command(dir: &Path) -> Vec<String> {
    let below = |name: &str| dir.join(name).display().to_string();
    let mut words = vec!["dockerd".to_owned()];
    for (option, value) in [
        ("data-root", below("data")),
        ("exec-root", below("exec")),
        ("pidfile", below("dockerd.pid")),
        ("host", format!("unix://{}", below("docker.sock"))),
        // No default bridge: making or removing `docker0` could meet another daemon's.
        ("bridge", bridge()),
        ("iptables", "false".into()),
        ("ip6tables", "false".into()),
        ("ip-forward", "false".into()),
        ("ip-masq", "false".into()),
        ("default-address-pool", "base=10.213.0.0/16,size=24".into()),
        ("containerd-namespace", "september-test".into()),
        ("containerd-plugins-namespace", "september-test-plugins".into()),
    ] {
        words.push(format!("--{option}={value}"));
    }
    words
}

/// `none` would remove a `docker0` that exists, and with it another daemon's default network.
fn bridge() -> String {
    if !Path::new("/sys/class/net/docker0").exists() {
        return "none".to_owned();
    }
    let name = "september-br0";
    for words in
        [["link", "add", name, "type", "bridge"].as_slice(), &["addr", "add", "10.212.0.1/24", "dev", name]]
    {
        // Made by an earlier run already: fine.
        let _ = Command::new("ip").args(words).stderr(Stdio::null()).status();
    }
    name.to_owned()
}

/// Opens and locks a file, off the event loop.
async fn locked(path: PathBuf, how: FlockOperation) -> File {
    let waiting = tokio::task::spawn_blocking(move || {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
        rustix::fs::flock(&file, how)?;
        std::io::Result::Ok(file)
    });
    let file = tokio::time::timeout(2 * START_MAX, waiting).await.expect("the lock is let go in time");
    file.expect("no panic").expect("the lock can be taken")
}

/// One request over a socket in the file system.
async fn request(
    socket: &Path,
    method: &str,
    path: &str,
    content_type: &str,
    body: Vec<u8>,
) -> std::io::Result<(u16, Vec<u8>)> {
    let exchange = async {
        let line = tokio::net::UnixStream::connect(socket).await?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(line)).await.map_err(std::io::Error::other)?;
        tokio::spawn(connection);
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("host", "docker")
            .header("content-type", content_type)
            .body(Full::new(bytes::Bytes::from(body)))
            .map_err(std::io::Error::other)?;
        let answer = sender.send_request(request).await.map_err(std::io::Error::other)?;
        let status = answer.status().as_u16();
        let bytes = answer.into_body().collect().await.map_err(std::io::Error::other)?.to_bytes();
        Ok((status, bytes.to_vec()))
    };
    tokio::time::timeout(ANSWER_MAX, exchange)
        .await
        .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
}
