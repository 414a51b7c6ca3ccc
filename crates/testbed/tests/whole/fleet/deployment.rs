//! One deployment on trial: replicas as processes, their database, the engines they start, and callers of their API.
//!
//! Its end kills what it started and then looks for issued keys in every log and argument list: the invariant is that
//! no test of this binary passes while a key leaks.

use super::engine::Engine;
use super::process::{self, PATIENCE, ended, engines_in, program, until};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use testbed::postgres::TestDatabase;

pub const ADMIN_KEY: &str = "admin-key-of-a-deployment-on-trial-long-enough";
pub const MASTER_KEY: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
/// First port of the first deployment. All lie below the ephemeral ports, so that nobody takes them by chance.
const PORTS_FROM: u16 = 12_000;
/// Ports of one deployment: two listeners for each of [`REPLICAS`] replicas, the rest for engines.
pub const PORTS_EACH: u16 = 60;
/// Replicas with an address of their own.
const REPLICAS: u16 = 4;
/// Deployments at once on this host. More reaches into the ephemeral ports; fewer makes tests wait for each other.
const PLACES: u16 = 200;

/// A deployment.
pub struct Fleet {
    pub folder: tempfile::TempDir,
    pub env: BTreeMap<String, String>,
    replicas: Mutex<BTreeMap<usize, Child>>,
    database: Option<TestDatabase>,
    ports: u16,
    _place: File,
    product: Mutex<String>,
    issued: Mutex<BTreeSet<String>>,
    http: reqwest::Client,
}

/// An answer of the API.
#[derive(Debug, Clone)]
pub struct Answer {
    /// 0 = no answer.
    pub status: u16,
    pub body: Value,
    pub retry_after: Option<u64>,
    /// The connection was refused: the request cannot have been seen by anybody.
    pub refused: bool,
}

impl Answer {
    pub fn code(&self) -> &str {
        self.body["error"]["code"].as_str().unwrap_or_default()
    }
}

impl Fleet {
    /// A deployment with a database of its own; nothing runs yet.
    pub async fn new() -> Self {
        let database = TestDatabase::create().await;
        let mut fleet = Self::on(&database.url);
        fleet.database = Some(database);
        fleet
    }

    /// The same on a database that somebody else keeps.
    pub fn on(url: &str) -> Self {
        let folder = tempfile::tempdir().expect("a directory");
        let (place, ports) = own_ports();
        let _ = rustls::crypto::ring::default_provider().install_default();
        #[allow(clippy::disallowed_methods, reason = "plain HTTP on the loopback")]
        let http = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().expect("a client");
        let fleet = Self {
            folder,
            env: BTreeMap::new(),
            replicas: Mutex::default(),
            database: None,
            ports,
            _place: place,
            product: Mutex::default(),
            issued: Mutex::default(),
            http,
        };
        fs::create_dir(fleet.root()).expect("our own directory");
        let root = fleet.root().display().to_string();
        let engine = program("september-engine").display().to_string();
        let path = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"].join(":");
        fleet
            .with("PATH", &path)
            .with("ORCH_DATABASE_URL", url)
            .with("ORCH_MASTER_KEY", MASTER_KEY)
            .with("ORCH_ADMIN_KEY", ADMIN_KEY)
            .with("ORCH_ENGINE_BACKEND", "subprocess")
            .with("ORCH_ENGINE_BINARY", &engine)
            .with("ORCH_ENGINE_IMAGE", "september-engine:2.3.0")
            .with("ORCH_DATA_ROOT_PATH", &root)
            .with("ORCH_PORT_MIN", &(ports + 2 * REPLICAS).to_string())
            .with("ORCH_PORT_MAX", &(ports + PORTS_EACH - 1).to_string())
            .with("ORCH_ENGINE_ENV_PASSTHROUGH", "LLM_PROVIDER")
            .with("LLM_PROVIDER", "offline")
            .with("ORCH_LOG_LEVEL", "DEBUG")
            .with("ORCH_LOG_FORMAT", "json")
            .with("ORCH_LEASE_TTL_S", "2")
            .with("ORCH_OPERATION_LEASE_S", "5")
            .with("ORCH_RECONCILE_INTERVAL_S", "1")
            .with("ORCH_HEALTH_CHECK_INTERVAL_S", "1")
            .with("ORCH_HEALTH_CHECK_TIMEOUT_S", "0.8")
            .with("ORCH_ADMIT_LEASE_S", "5")
            .with("ORCH_RESTART_BACKOFF_BASE_S", "0.2")
            .with("ORCH_DRAIN_TIMEOUT_S", "20")
            .with("ORCH_ENGINE_STOP_GRACE_S", "10")
    }

    /// With this variable, from the next process on.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.set(name, value);
        self
    }

    pub fn set(&mut self, name: &str, value: &str) {
        self.env.insert(name.to_owned(), value.to_owned());
    }

    /// One replica that serves, and the product `demo`.
    pub async fn ready(self) -> Self {
        self.start(0).await;
        self.register("demo", json!({})).await;
        self
    }

    pub fn root(&self) -> PathBuf {
        self.folder.path().join("engines")
    }

    /// First port of engines.
    pub fn first_engine_port(&self) -> u16 {
        self.ports + 2 * REPLICAS
    }

    pub fn base(&self, replica: usize) -> String {
        format!("http://127.0.0.1:{}", self.ports + 2 * replica as u16)
    }

    pub fn internal(&self, replica: usize) -> String {
        format!("http://127.0.0.1:{}", self.ports + 2 * replica as u16 + 1)
    }

    /// `bap-engine` with these arguments and nothing of this machine's environment.
    pub fn command(&self, replica: usize, args: &[&str]) -> Command {
        let mut command = Command::new(program("bap-engine"));
        let port = self.ports + 2 * replica as u16;
        command
            .args(args)
            .env_clear()
            .envs(&self.env)
            .env("ORCH_BIND", format!("127.0.0.1:{port}"))
            .env("ORCH_INTERNAL_BIND", format!("127.0.0.1:{}", port + 1))
            .env("BAP_URL", self.base(replica))
            .current_dir(self.folder.path())
            .stdin(Stdio::null());
        let product = self.product.lock().unwrap_or_else(PoisonError::into_inner);
        if !product.is_empty() {
            command.env("BAP_PLATFORM_KEY", product.as_str());
        }
        command
    }

    /// Runs a command to its end; keys it prints count as issued.
    pub async fn run(&self, args: &[&str]) -> Output {
        let mut command = self.command(0, args);
        let output = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic");
        let output = output.expect("the program runs");
        self.note_keys(&String::from_utf8_lossy(&output.stdout));
        output
    }

    /// Runs a command that must succeed and print JSON.
    pub async fn json(&self, args: &[&str]) -> Value {
        let output = self.run(args).await;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{args:?}: {} {said} {complaint}", output.status);
        serde_json::from_str(&said).unwrap_or_else(|e| panic!("{args:?}: {e}: {said}"))
    }

    fn log(&self, replica: usize) -> PathBuf {
        self.folder.path().join(format!("replica-{replica}.log"))
    }

    /// What a replica has logged so far, over all its lives.
    pub fn logged(&self, replica: usize) -> String {
        fs::read_to_string(self.log(replica)).unwrap_or_default()
    }

    /// Starts a replica without waiting for it.
    pub fn spawn(&self, replica: usize, more: &[(&str, &str)]) {
        let log = File::options().create(true).append(true).open(self.log(replica)).expect("a log file");
        let mut command = self.command(replica, &["serve"]);
        command.envs(more.iter().copied()).stdout(log.try_clone().expect("a handle")).stderr(log);
        let child = command.spawn().expect("the program starts");
        self.children().insert(replica, child);
    }

    /// Starts a replica and waits until all is well with it.
    pub async fn start(&self, replica: usize) {
        self.start_with(replica, &[]).await;
    }

    pub async fn start_with(&self, replica: usize, more: &[(&str, &str)]) {
        self.spawn(replica, more);
        let began = Instant::now();
        loop {
            if self.health(replica).await == json!({"status": "ok"}) {
                return;
            }
            let over = self.children().get_mut(&replica).and_then(|c| c.try_wait().expect("our own child"));
            assert!(over.is_none() && began.elapsed() < PATIENCE, "{over:?}: {}", self.logged(replica));
            tokio::time::sleep(process::LOOK).await;
        }
    }

    pub async fn health(&self, replica: usize) -> Value {
        self.ask(replica, "GET", "/health", ("x-none", ""), &Value::Null).await.body
    }

    fn children(&self) -> std::sync::MutexGuard<'_, BTreeMap<usize, Child>> {
        self.replicas.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn pid_of(&self, replica: usize) -> i32 {
        i32::try_from(self.children()[&replica].id()).expect("a pid")
    }

    /// `kill -9` of a replica.
    pub async fn kill(&self, replica: usize) {
        let mut child = self.children().remove(&replica).expect("it runs");
        child.kill().expect("our own child");
        ended(&mut child).await;
    }

    /// SIGTERM, and its end.
    pub async fn stop(&self, replica: usize) -> ExitStatus {
        process::signal(self.pid_of(replica), Signal::TERM);
        self.end_of(replica).await
    }

    /// Waits for the end of a replica.
    pub async fn end_of(&self, replica: usize) -> ExitStatus {
        let mut child = self.children().remove(&replica).expect("it was started");
        ended(&mut child).await
    }

    /// Registers a product and makes it the one that calls.
    pub async fn register(&self, slug: &str, policy: Value) -> String {
        let body = json!({"slug": slug, "display_name": slug, "policy": policy});
        let answer = self.ask(0, "POST", "/products/register", ("x-admin-key", ADMIN_KEY), &body).await;
        let key = answer.body["platform_api_key"].as_str().unwrap_or_else(|| panic!("{answer:?}")).to_owned();
        self.product.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&key);
        key
    }

    pub async fn ask(
        &self,
        replica: usize,
        method: &str,
        path: &str,
        key: (&str, &str),
        body: &Value,
    ) -> Answer {
        let method = method.parse::<reqwest::Method>().expect("a test uses real methods");
        let mut request =
            self.http.request(method, format!("{}{path}", self.base(replica))).header(key.0, key.1);
        if !body.is_null() {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) => {
                let body = json!({"broken": error.to_string()});
                return Answer { status: 0, body, retry_after: None, refused: error.is_connect() };
            }
        };
        let status = response.status().as_u16();
        let retry_after = response.headers().get("retry-after").and_then(|v| v.to_str().ok()?.parse().ok());
        let text = response.text().await.unwrap_or_default();
        self.note_keys(&text);
        let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
        Answer { status, body, retry_after, refused: false }
    }

    /// A call of the product at a replica.
    pub async fn call_at(&self, replica: usize, method: &str, path: &str, body: &Value) -> Answer {
        let key = self.product.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.ask(replica, method, path, ("x-platform-key", &key), body).await
    }

    pub async fn call(&self, method: &str, path: &str, body: &Value) -> Answer {
        self.call_at(0, method, path, body).await
    }

    pub async fn provision(&self, user: &str) -> Answer {
        self.call("POST", "/engines/provision", &json!({"user_id": user})).await
    }

    /// Provisions an engine that serves.
    pub async fn engine(&self, user: &str) -> Engine {
        let answer = self.provision(user).await;
        assert_eq!(answer.status, 200, "{:?}", answer.body);
        Engine::of(&answer.body)
    }

    pub async fn admit_at(&self, replica: usize, user: &str) -> Answer {
        let wish = json!({"auto_provision": true, "auto_wake": true});
        self.call_at(replica, "POST", &format!("/engines/{user}/admit"), &wish).await
    }

    /// Admits and hands out the engine.
    pub async fn admitted(&self, user: &str) -> Engine {
        let answer = self.admit_at(0, user).await;
        assert_eq!(answer.body["admitted"], true, "{:?}", answer.body);
        Engine::of(&answer.body["engine"])
    }

    pub async fn post(&self, user: &str, what: &str) -> Answer {
        self.call("POST", &format!("/engines/{user}/{what}"), &Value::Null).await
    }

    pub async fn get(&self, user: &str) -> Answer {
        self.call("GET", &format!("/engines/{user}"), &Value::Null).await
    }

    pub async fn status(&self, user: &str) -> String {
        self.get(user).await.body["status"].as_str().unwrap_or("none").to_owned()
    }

    pub async fn until_status(&self, user: &str, status: &str) {
        until(&format!("{user} is {status}"), async || self.status(user).await == status).await;
    }

    pub async fn explain(&self, user: &str) -> Value {
        self.call("GET", &format!("/engines/{user}/explain"), &Value::Null).await.body
    }

    /// The audit rows of an engine, oldest first, without samples of probes.
    pub async fn audit(&self, engine: &str) -> Vec<Value> {
        let path = format!("/audit?engine={engine}&limit=1000");
        let answer = self.ask(0, "GET", &path, ("x-admin-key", ADMIN_KEY), &Value::Null).await;
        let mut rows = answer.body["entries"].as_array().unwrap_or_else(|| panic!("{answer:?}")).clone();
        rows.retain(|row| row["action"] != "health_check");
        rows.reverse();
        rows
    }

    pub async fn actions(&self, engine: &str) -> Vec<String> {
        let rows = self.audit(engine).await;
        rows.iter().map(|row| row["action"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// Where an engine keeps its brain.
    pub fn directory(&self, engine: &str) -> PathBuf {
        self.root().join(engine)
    }

    /// What the backend noted about the engine's process.
    pub fn record(&self, engine: &str) -> Value {
        let text = fs::read_to_string(self.directory(engine).join("engine.pid")).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// The only process that serves this engine's brain.
    pub fn process_of(&self, engine: &str) -> i32 {
        let found = engines_in(&self.directory(engine));
        assert_eq!(found.len(), 1, "processes of one engine: {found:?}");
        found[0]
    }

    /// A connection to the database, for what no endpoint shows.
    pub async fn sql(&self) -> tokio_postgres::Client {
        let connected = tokio_postgres::connect(&self.env["ORCH_DATABASE_URL"], tokio_postgres::NoTls).await;
        let (client, connection) = connected.expect("the database is up");
        tokio::spawn(connection);
        client
    }

    fn note_keys(&self, text: &str) {
        let mut issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        for prefix in ["sk-sept-", "pk-sept-"] {
            for (at, _) in text.match_indices(prefix) {
                let key: String = text[at..]
                    .chars()
                    .take_while(|c| c.is_ascii_alphanumeric() || *c == '-' || *c == '_')
                    .collect();
                if key.len() == prefix.len() + 43 {
                    issued.insert(key);
                }
            }
        }
    }

    /// Every key that was issued so far.
    pub fn issued(&self) -> BTreeSet<String> {
        self.issued.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Where an issued key can be read that should not be: a log, a record, an argument list.
    pub fn leaks(&self) -> Vec<String> {
        let mut secrets = self.issued();
        secrets.extend([ADMIN_KEY.to_owned(), MASTER_KEY.to_owned()]);
        let mut found = Vec::new();
        let mut look = |place: &str, text: &str| {
            if let Some(key) = secrets.iter().find(|key| text.contains(key.as_str())) {
                found.push(format!("{place} shows {}…", &key[..12]));
            }
        };
        for file in files_below(self.folder.path()) {
            // A brain and its journal are the engine's own; it stores hashes only, so they are looked at, too.
            let text = fs::read(&file).unwrap_or_default();
            look(&file.display().to_string(), &String::from_utf8_lossy(&text));
        }
        for pid in process::all() {
            look(&format!("the arguments of {pid}"), &process::arguments(pid).join(" "));
        }
        found
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        let leaks = if std::thread::panicking() { Vec::new() } else { self.leaks() };
        for child in self.children().values_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
        for pid in process::told_of(&self.root()) {
            if let Some(pid) = rustix::process::Pid::from_raw(pid) {
                let _ = rustix::process::kill_process(pid, Signal::KILL);
            }
        }
        if std::thread::panicking() {
            for replica in 0..usize::from(REPLICAS) {
                let log = self.logged(replica);
                let lines: Vec<&str> = log.lines().filter(|line| !line.contains("\"DEBUG\"")).collect();
                let from = lines.len().saturating_sub(40);
                lines[from..].iter().for_each(|line| eprintln!("replica {replica}: {line}"));
            }
        }
        assert!(leaks.is_empty(), "issued keys were found:\n  {}", leaks.join("\n  "));
    }
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.extend(files_below(&entry.path())),
            Ok(kind) if kind.is_file() => found.push(entry.path()),
            _ => {}
        }
    }
    found
}

/// Ports nobody else on this host uses while the file is open, and the first of them.
pub fn own_ports() -> (File, u16) {
    let me = rustix::process::geteuid().as_raw();
    let folder = std::env::temp_dir().join(format!("bap-test-ports-{me}"));
    fs::create_dir_all(&folder).expect("a temporary directory");
    for place in 0..PLACES {
        let file = File::options().create(true).append(true).open(folder.join(place.to_string()));
        let file = file.expect("a file of our own");
        let first = PORTS_FROM + place * PORTS_EACH;
        if file.try_lock().is_ok() && free(first) {
            return (file, first);
        }
    }
    panic!("{PLACES} deployments run at once");
}

/// Whether nobody listens there: somebody may, who knows nothing of our files.
fn free(first: u16) -> bool {
    (first..first + PORTS_EACH).all(|port| std::net::TcpListener::bind(("127.0.0.1", port)).is_ok())
}

/// Waits as long as this for a thing that must not happen to not happen.
pub async fn stays(span: Duration, what: &str, holds: impl AsyncFn() -> bool) {
    let began = Instant::now();
    while began.elapsed() < span {
        assert!(holds().await, "no longer true: {what}");
        tokio::time::sleep(process::LOOK).await;
    }
}
