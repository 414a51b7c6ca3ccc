//! The real program as a process of its own, and what the kernel says about it.

use crate::wire::{self, Connection};
use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Longest wait for a start or an orderly end.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pause before a refused connection is tried again. Longer blurs the start time; shorter takes the CPU
/// from the program that is starting.
const RETRY: Duration = Duration::from_micros(100);

/// A running Engine. Killed when dropped.
pub struct Engine {
    child: Child,
    /// Where it listens.
    pub port: u16,
    /// From spawning the process to its first 200 on /health, in milliseconds.
    pub ready_ms: f64,
}

/// What a process holds in memory, in MiB (2^20 bytes).
#[derive(Clone, Copy)]
pub struct Memory {
    /// Everything resident, the program's own file included.
    pub resident: f64,
    /// The part that is its own: heap and stacks.
    pub anonymous: f64,
}

/// Starts the program on the brain at `brain` and waits until it is ready.
pub fn start(program: &Path, brain: &Path, provider: &str) -> Engine {
    let port = free_port();
    let dir = brain.parent().expect("a folder");
    let log = File::create(dir.join("log")).expect("a log file");
    let path = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"].join(":");
    let mut command = Command::new(program);
    command
        .arg("serve")
        .env_clear()
        .env("PATH", path)
        .env("SQLITE_DB_PATH", brain)
        .env("ENGINE_API_KEY", wire::KEY)
        .env("ENGINE_PORT", port.to_string())
        .env("ENGINE_TASK_SLOTS", "16")
        .env("LLM_PROVIDER", "openai")
        .env("LLM_API_KEY", "not-a-key")
        .env("LLM_BASE_URL", provider)
        .env("LLM_MODEL", "scripted-1")
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log);
    let started = Instant::now();
    let child = command.spawn().expect("the program starts");
    let mut engine = Engine { child, port, ready_ms: 0.0 };
    let mut connection = engine.connect_within(PATIENCE);
    loop {
        let status = connection.ask("GET", "/health", "").and_then(|s| connection.rest().map(|_| s));
        if matches!(status, Ok(200)) {
            break;
        }
        let waits = status.is_ok() && started.elapsed() < PATIENCE;
        assert!(waits, "the engine does not become ready ({status:?}):\n{}", log_in(dir));
    }
    engine.ready_ms = started.elapsed().as_secs_f64() * 1000.0;
    engine
}

fn log_in(dir: &Path) -> String {
    fs::read_to_string(dir.join("log")).unwrap_or_default()
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("bound").port()
}

impl Engine {
    fn connect_within(&mut self, limit: Duration) -> Connection {
        let started = Instant::now();
        loop {
            if let Ok(connection) = Connection::open(self.port) {
                return connection;
            }
            let ended = self.child.try_wait().expect("a child");
            assert!(ended.is_none() && started.elapsed() < limit, "the engine does not listen");
            std::thread::park_timeout(RETRY);
        }
    }

    /// A connection.
    pub fn connect(&self) -> Connection {
        Connection::open(self.port).expect("the engine listens")
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it holds now.
    pub fn memory(&self) -> Memory {
        let text =
            fs::read_to_string(format!("/proc/{}/smaps_rollup", self.pid())).expect("the process lives");
        let field = |name: &str| {
            let line = text.lines().find(|l| l.starts_with(name)).expect("a field");
            let kib: f64 = line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number");
            kib / 1024.0
        };
        Memory { resident: field("Rss:"), anonymous: field("Anonymous:") }
    }

    /// Bytes its reads have fetched from the disk so far.
    pub fn bytes_from_disk(&self) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/io", self.pid())).unwrap_or_default();
        text.lines().find_map(|l| l.strip_prefix("read_bytes: ")?.parse().ok()).unwrap_or(0)
    }

    /// SIGTERM, and the end of it.
    pub fn stop(mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("the process lives");
        let started = Instant::now();
        while self.child.try_wait().expect("a child").is_none() {
            assert!(started.elapsed() < PATIENCE, "the engine does not stop");
            std::thread::park_timeout(RETRY * 10);
        }
    }

    /// SIGKILL, and the end of it.
    pub fn kill(mut self) {
        self.child.kill().expect("the process lives");
        self.child.wait().expect("a child");
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // An error says that it has ended, which is all we want.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
