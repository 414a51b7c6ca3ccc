//! A real Engine process on loopback, a place for its brain, and a client that sees every byte.
//!
//! An [`Engine`] is killed when it is dropped, and the test fails when its log holds a warning, an error or
//! a panic that the test did not announce with [`Engine::expect_log`].

pub mod http;
pub mod sse;

use self::http::{Answer, Ask};
use self::sse::{Stream, Turn};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use testbed::{Protocol, ScriptedModel};
use tokio::sync::watch;

/// The key of every Engine here.
pub const KEY: &str = "whole-api-test-key";
/// Longest wait for anything. Everything takes milliseconds; this only keeps a hanging test from hanging
/// the suite.
pub const LIMIT: Duration = Duration::from_secs(30);
/// How often a condition that nobody announces is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// Variables and a directory; an Engine can be started in it again and again.
#[derive(Clone)]
pub struct Setup {
    dir: Arc<tempfile::TempDir>,
    env: BTreeMap<String, String>,
}

impl Setup {
    /// With the keyless provider.
    pub fn offline() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let brain = dir.path().join("brain.sqlite").display().to_string();
        let path = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"].join(":");
        Self { dir: Arc::new(dir), env: BTreeMap::new() }
            .with("PATH", &path)
            .with("LLM_PROVIDER", "offline")
            .with("SQLITE_DB_PATH", &brain)
            .with("ENGINE_API_KEY", KEY)
            .with("ENGINE_PORT", "0")
            .with("ENGINE_LOG_FORMAT", "json")
            .with("LLM_MAX_RETRIES", "0")
    }

    /// With the scripted provider, speaking chat completions.
    pub fn scripted(model: &ScriptedModel) -> Self {
        Self::speaking(model, Protocol::OpenAi)
    }

    /// With the scripted provider, speaking this protocol.
    pub fn speaking(model: &ScriptedModel, protocol: Protocol) -> Self {
        Self::offline()
            .with("LLM_PROVIDER", protocol.as_str())
            .with("LLM_BASE_URL", &model.base_url(protocol))
            .with("LLM_MODEL", "scripted-1")
    }

    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.env.insert(name.to_owned(), value.to_owned());
        self
    }

    /// A free port chosen now, for Engines that are asked before they are ready.
    pub fn with_fixed_port(self) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        self.with("ENGINE_PORT", &port.to_string())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Where tools work.
    pub fn workspace(&self) -> PathBuf {
        match self.env.get("ALLOWED_ROOTS") {
            Some(root) => PathBuf::from(root),
            None => self.brain().parent().expect("a directory").join("workspace"),
        }
    }

    pub fn brain(&self) -> PathBuf {
        PathBuf::from(&self.env["SQLITE_DB_PATH"])
    }

    /// The program with these variables and nothing else of this machine.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_september-engine"));
        command.args(args).env_clear().envs(&self.env).current_dir(self.dir.path()).stdin(Stdio::null());
        command
    }

    /// Starts an Engine and waits until it is ready.
    pub async fn start(&self) -> Engine {
        let engine = self.spawn();
        let ready = engine.log_line(|line| line["message"] == "Ready").await;
        let address = ready["extra"]["address"].as_str().expect("an address");
        let port = address.rsplit_once(':').and_then(|(_, p)| p.parse().ok()).expect("a port");
        Engine { port, ..engine }
    }

    /// Starts an Engine and waits for nothing; it can be asked only with [`Setup::with_fixed_port`].
    pub fn spawn(&self) -> Engine {
        let mut child = self
            .command(&["serve"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let log = Arc::new(Log { lines: Mutex::default(), count: watch::Sender::new(0) });
        let out = child.stdout.take().expect("piped");
        let err = child.stderr.take().expect("piped");
        let readers = vec![read_into(out, Arc::clone(&log)), read_into(err, Arc::clone(&log))];
        let port = self.env["ENGINE_PORT"].parse().expect("a port");
        Engine {
            process: Process { child, readers, log, expected: Mutex::default(), ended: false },
            port,
            setup: self.clone(),
        }
    }
}

struct Log {
    lines: Mutex<Vec<String>>,
    count: watch::Sender<usize>,
}

fn read_into(from: impl std::io::Read + Send + 'static, log: Arc<Log>) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            log.lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            log.count.send_modify(|n| *n += 1);
        }
    })
}

struct Process {
    child: Child,
    readers: Vec<std::thread::JoinHandle<()>>,
    log: Arc<Log>,
    expected: Mutex<Vec<String>>,
    ended: bool,
}

impl Process {
    fn lines(&self) -> Vec<String> {
        self.log.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Kills the process if it still runs, and returns what its log should not hold.
    fn end(&mut self) -> Vec<String> {
        if std::mem::replace(&mut self.ended, true) {
            return Vec::new();
        }
        // An error says that it has ended, which is all we want.
        let _ = self.child.kill();
        let _ = self.child.wait();
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
        let expected = self.expected.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.lines().into_iter().filter(|line| is_trouble(line, &expected)).collect()
    }
}

/// Depends on the machine, not on the Engine.
const ALWAYS_EXPECTED: &[&str] = &["A sandbox layer is missing"];

fn is_trouble(line: &str, expected: &[String]) -> bool {
    if expected.iter().any(|e| line.contains(e)) || ALWAYS_EXPECTED.iter().any(|e| line.contains(e)) {
        return false;
    }
    match serde_json::from_str::<Value>(line) {
        Ok(line) => !matches!(line["level"].as_str(), Some("INFO" | "DEBUG")),
        // every line is one JSON object; anything else is a bare panic
        Err(_) => true,
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let trouble = self.end();
        if std::thread::panicking() {
            eprintln!("--- log of the engine\n{}", self.lines().join("\n"));
        } else {
            assert!(trouble.is_empty(), "the engine's log holds:\n{}", trouble.join("\n"));
        }
    }
}

/// A running Engine.
pub struct Engine {
    process: Process,
    pub port: u16,
    pub setup: Setup,
}

impl Engine {
    /// Lines with this text may be warnings or errors.
    pub fn expect_log(&self, text: &str) -> &Self {
        self.process.expected.lock().unwrap_or_else(PoisonError::into_inner).push(text.to_owned());
        self
    }

    pub fn log(&self) -> String {
        self.process.lines().join("\n")
    }

    /// Waits for a log line.
    pub async fn log_line(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut count = self.process.log.count.subscribe();
        let found = async {
            loop {
                count.borrow_and_update();
                for line in self.process.lines() {
                    if let Ok(value) = serde_json::from_str::<Value>(&line)
                        && wanted(&value)
                    {
                        return value;
                    }
                }
                let _ = tokio::time::timeout(LOOK * 20, count.changed()).await;
            }
        };
        match tokio::time::timeout(LIMIT, found).await {
            Ok(line) => line,
            Err(_) => panic!("no such line in the log:\n{}", self.log()),
        }
    }

    /// `kill -9`, and the end of it.
    pub fn kill(mut self) {
        let trouble = self.process.end();
        assert!(trouble.is_empty(), "the engine's log holds:\n{}", trouble.join("\n"));
    }

    /// Sends a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = i32::try_from(self.process.child.id()).expect("a pid");
        let pid = rustix::process::Pid::from_raw(pid).expect("a pid");
        rustix::process::kill_process(pid, signal).expect("the process lives");
    }

    pub fn pid(&self) -> u32 {
        self.process.child.id()
    }

    /// Waits until the process has ended by itself.
    pub async fn exit_code(&mut self) -> i32 {
        let started = Instant::now();
        loop {
            if let Some(status) = self.process.child.try_wait().expect("a child") {
                for reader in self.process.readers.drain(..) {
                    let _ = reader.join();
                }
                return status.code().unwrap_or(-1);
            }
            assert!(started.elapsed() < LIMIT, "the engine does not end:\n{}", self.log());
            tokio::time::sleep(LOOK).await;
        }
    }

    pub async fn send(&self, ask: Ask) -> Answer {
        http::send(self.port, ask).await
    }

    /// The same, while the process may not listen yet or has just ended.
    pub async fn try_send(&self, ask: Ask) -> Option<Answer> {
        http::try_send(self.port, ask).await
    }

    pub async fn get(&self, target: &str) -> Answer {
        self.send(Ask::get(target)).await
    }

    /// GET that must succeed.
    pub async fn json(&self, target: &str) -> Value {
        self.get(target).await.ok().await
    }

    pub async fn post(&self, target: &str, body: Value) -> Answer {
        self.send(Ask::post(target, &body)).await
    }

    pub async fn health(&self) -> Value {
        let answer = self.send(Ask::get("/health").without_key()).await;
        let status = answer.status;
        let health = answer.json().await;
        let well = matches!(health["status"].as_str(), Some("ok" | "degraded"));
        assert_eq!(status, if well { 200 } else { 503 }, "{health}");
        health
    }

    /// Opens the stream of a turn.
    pub async fn execute(&self, body: Value) -> Stream {
        self.post("/execute", body).await.stream()
    }

    /// Runs a turn to its end and checks every rule on its stream.
    pub async fn turn(&self, task: &str, message: &str) -> Turn {
        self.run(json!({"task_id": task, "message": message})).await
    }

    /// The same with any body.
    pub async fn run(&self, body: Value) -> Turn {
        let thinking = body["super_thinking"] == true;
        self.execute(body).await.finish_with(thinking).await
    }

    /// Everything stored, of one task or of all.
    pub async fn stored(&self, query: &str) -> Vec<sse::Frame> {
        self.get(&format!("/execute/replay?follow=false{query}")).await.stream().rest().await
    }

    /// Waits until an answer of GET is as wanted.
    pub async fn until(&self, target: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let started = Instant::now();
        loop {
            let answer = self.get(target).await.json().await;
            if wanted(&answer) {
                return answer;
            }
            assert!(started.elapsed() < LIMIT, "{target} stays {answer}\n{}", self.log());
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until a question is pending and returns it.
    pub async fn pending(&self) -> Value {
        self.until("/hitl/pending", |p| p["pending"].as_array().is_some_and(|p| !p.is_empty())).await
            ["pending"][0]
            .clone()
    }

    pub async fn answer(&self, body: Value) -> Value {
        self.post("/hitl/respond", body).await.ok().await
    }
}

/// Waits until something holds.
pub async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < LIMIT, "{what} does not happen");
        tokio::time::sleep(LOOK).await;
    }
}

/// Puts the usual limit around a wait.
pub async fn soon<T>(what: &str, wait: impl Future<Output = T>) -> T {
    match tokio::time::timeout(LIMIT, wait).await {
        Ok(value) => value,
        Err(_) => panic!("{what} does not happen"),
    }
}

/// Writes a file for a tool.
pub fn put_file(dir: &Path, name: &str, text: &str) {
    std::fs::create_dir_all(dir).expect("a directory");
    std::fs::write(dir.join(name), text).expect("written");
}
