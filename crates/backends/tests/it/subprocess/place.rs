//! A data root with a backend on it, as a place of the suite: looked at through `/proc` and the files, never through
//! the backend.

use crate::conformance::Place;
use async_trait::async_trait;
use backends::{EngineBackend, ProbeReply, SubprocessBackend, SubprocessSettings};
use bytes::Bytes;
use contract::{EngineId, InstanceId, ProductId};
use fleet::observation::{ObjectState, Observation};
use fleet::spec::{EngineEnv, EngineSpec, Resources, SecurityProfile};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Longest wait for something that should happen at once.
pub(super) const SOON: Duration = Duration::from_secs(30);
pub(super) const CALL: Duration = Duration::from_secs(30);
pub(super) const GRACE: Duration = Duration::from_secs(20);

/// A data root of its own with a backend on it.
pub struct Subprocess {
    pub(super) instance: InstanceId,
    pub(super) binary: PathBuf,
    /// Above the root, so that the root can go away.
    pub(super) above: tempfile::TempDir,
    call_timeout: Duration,
    pub(super) backend: SubprocessBackend,
}

pub(super) fn settings(
    instance: InstanceId,
    binary: &Path,
    above: &Path,
    call_timeout: Duration,
) -> SubprocessSettings {
    let base = [("PATH", "/usr/bin:/bin"), ("HOME", "/nonexistent"), ("LANG", "C.UTF-8"), ("EDITOR", "vi")];
    SubprocessSettings {
        instance,
        binary: binary.to_str().expect("text").to_owned(),
        base_env: base.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        data_root: above.join("root"),
        call_timeout,
    }
}

/// State and start ticks of a pid.
pub(super) fn stat(pid: i32) -> Option<(char, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    Some((fields[0].chars().next()?, fields[19].parse().ok()?))
}

pub(super) fn lives(pid: i32, ticks: u64) -> bool {
    stat(pid).is_some_and(|(state, of)| of == ticks && !matches!(state, 'Z' | 'X'))
}

pub(super) async fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(value) = look() {
            return value;
        }
        assert!(begun.elapsed() < SOON, "not within {SOON:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

impl Subprocess {
    pub(super) fn root(&self) -> PathBuf {
        self.above.path().join("root")
    }

    pub(super) fn dir(&self, id: EngineId) -> PathBuf {
        self.root().join(id.to_string())
    }

    pub(super) fn pid_file(&self, id: EngineId) -> Value {
        let text = fs::read(self.dir(id).join("engine.pid")).expect("there is an object");
        serde_json::from_slice(&text).expect("JSON")
    }

    pub(super) fn pid(&self, id: EngineId) -> i32 {
        i32::try_from(self.pid_file(id)["pid"].as_i64().expect("a number")).expect("small")
    }

    pub(super) fn signal(&self, id: EngineId, signal: Signal) {
        let pid = Pid::from_raw(self.pid(id)).expect("not zero");
        kill_process(pid, signal).expect("it is there");
    }

    pub(super) fn spec(&self, generation: i64) -> EngineSpec {
        let mut env = EngineEnv::default();
        env.0.insert("ENGINE_KEY_HASH".into(), "cd".repeat(32));
        EngineSpec {
            instance: self.instance,
            engine_id: EngineId::generate(),
            product_id: ProductId::generate(),
            generation,
            spec_hash: "feedfacefeedface".into(),
            image: self.image(),
            env,
            port: Some(free_port()),
            catalog: None,
            resources: Resources { memory_mb: 0, cpus: 0.0, pids: 0 },
            security: SecurityProfile::Hardened,
        }
    }

    pub(super) async fn running(&self, generation: i64) -> EngineSpec {
        let spec = self.spec(generation);
        self.backend.ensure_storage(spec.engine_id, true).await.expect("makes storage");
        self.create(&spec).await;
        spec
    }

    pub(super) async fn create(&self, spec: &EngineSpec) {
        let endpoint = self.backend.create(spec).await.expect("creates");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, endpoint.port));
        let begun = Instant::now();
        while self.get(address, "/health").await.status() != Some(200) {
            assert!(
                begun.elapsed() < SOON,
                "{}",
                self.backend.tail(spec.engine_id, 50).await.expect("reads")
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(super) async fn state(&self, id: EngineId) -> ObjectState {
        match self.backend.observe(id).await.expect("observes") {
            Observation::Present(object) => object.state,
            Observation::Absent => panic!("there is no object"),
        }
    }
}

impl Drop for Subprocess {
    fn drop(&mut self) {
        let Ok(entries) = fs::read_dir(self.root()) else { return };
        for entry in entries.flatten() {
            let record = fs::read(entry.path().join("engine.pid")).ok();
            let Some(record) = record.and_then(|text| serde_json::from_slice::<Value>(&text).ok()) else {
                continue;
            };
            let pid = record["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).unwrap_or(0);
            let ticks = record["start_ticks"].as_u64().unwrap_or(0);
            if let (Some(group), true) = (Pid::from_raw(pid), lives(pid, ticks)) {
                let _ = kill_process_group(group, Signal::KILL);
            }
        }
    }
}

/// Below the range the kernel gives to outgoing connections; each test process begins elsewhere.
fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let n = std::process::id().wrapping_mul(61).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = u16::try_from(20_000 + n % 12_000).expect("small");
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

#[async_trait]
impl Place for Subprocess {
    const GOLDEN: &'static str = "subprocess";

    async fn fresh(call_timeout: Duration) -> Self {
        let above = tempfile::tempdir().expect("temporary directory");
        let (instance, binary) = (InstanceId::generate(), testbed::docker::fake_engine().await);
        let binary = fs::canonicalize(binary).expect("was compiled");
        let backend = SubprocessBackend::new(settings(instance, &binary, above.path(), call_timeout));
        Self { instance, binary, above, call_timeout, backend: backend.expect("opens the root") }
    }

    fn instance(&self) -> InstanceId {
        self.instance
    }

    fn backend(&self) -> Arc<dyn EngineBackend> {
        Arc::new(self.backend.clone())
    }

    async fn another(&self, instance: InstanceId) -> Arc<dyn EngineBackend> {
        let settings = settings(instance, &self.binary, self.above.path(), self.call_timeout);
        Arc::new(SubprocessBackend::new(settings).expect("opens the root"))
    }

    fn image(&self) -> String {
        "september-engine:1.2.3".into()
    }

    fn catalog(&self) -> String {
        self.above.path().join("catalog").to_str().expect("text").to_owned()
    }

    async fn free_port(&self) -> Option<u16> {
        Some(free_port())
    }

    fn make_stubborn(&self, spec: &mut EngineSpec) {
        spec.env.0.insert("FAKE_IGNORE_SIGTERM".into(), "1".into());
    }

    async fn get(&self, address: SocketAddr, path: &str) -> ProbeReply {
        let asked = async {
            let mut stream = tokio::net::TcpStream::connect(address).await?;
            let head = format!("GET {path} HTTP/1.1\r\nhost: engine\r\nconnection: close\r\n\r\n");
            stream.write_all(head.as_bytes()).await?;
            let mut text = String::new();
            stream.read_to_string(&mut text).await?;
            std::io::Result::Ok(text)
        };
        let Ok(answer) = tokio::time::timeout(Duration::from_secs(5), asked).await else {
            return ProbeReply::TimedOut;
        };
        let Ok(text) = answer else { return ProbeReply::Refused };
        let status = text.split(' ').nth(1).and_then(|status| status.parse().ok());
        match (status, text.split_once("\r\n\r\n")) {
            (Some(status), Some((_, body))) => {
                ProbeReply::Answer { status, body: Bytes::copy_from_slice(body.as_bytes()) }
            }
            _ => ProbeReply::Unreadable,
        }
    }

    async fn alive(&self, container_id: &str) -> bool {
        let (pid, ticks) = container_id.split_once('@').expect("pid@ticks");
        lives(pid.parse().expect("a pid"), ticks.parse().expect("ticks"))
    }

    async fn environment(&self, id: EngineId) -> BTreeMap<String, String> {
        let bytes = fs::read(format!("/proc/{}/environ", self.pid(id))).expect("it runs");
        let text = String::from_utf8(bytes).expect("text");
        let pairs = text.split_terminator('\0').map(|pair| pair.split_once('=').expect("a pair"));
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    async fn shape(&self, spec: &EngineSpec) -> String {
        let id = spec.engine_id;
        let pid = self.pid(id);
        let env = self.environment(id).await;
        let mut lines: Vec<String> = env.iter().map(|(name, value)| format!("env {name}={value}")).collect();
        let mut record = self.pid_file(id);
        for name in ["boot_id", "pid", "start_ticks", "started_at"] {
            record[name] = json!(format!("<{name}>"));
        }
        for (name, value) in record.as_object().expect("an object") {
            lines.push(format!("engine.pid {name}={value}"));
        }
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).expect("it runs");
        lines.push(format!(
            "argv {}",
            String::from_utf8(arguments).expect("text").replace('\0', " ").trim_end()
        ));
        for fd in 0..=2 {
            let target = fs::read_link(format!("/proc/{pid}/fd/{fd}")).expect("is open");
            lines.push(format!("fd {fd} {}", target.display()));
        }
        lines.push(format!("cwd {}", fs::read_link(format!("/proc/{pid}/cwd")).expect("it runs").display()));
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
        let fields: Vec<&str> = stat.rsplit_once(')').expect("a name").1.split_whitespace().collect();
        let leads = |field: &str| if field == pid.to_string() { "own" } else { "inherited" };
        lines.push(format!("process group {}, session {}", leads(fields[2]), leads(fields[3])));
        use std::os::unix::fs::PermissionsExt;
        for name in ["", "engine.pid", "engine.log"] {
            let mode = fs::metadata(self.dir(id).join(name)).expect("is there").permissions().mode();
            lines.push(format!("mode {name:?} {:o}", mode & 0o7777));
        }
        lines.sort();
        lines
            .join("\n")
            .replace(&self.catalog(), "<catalog>")
            .replace(self.root().to_str().expect("text"), "<root>")
            .replace(self.binary.to_str().expect("text"), "<binary>")
            .replace(&id.to_string(), "<engine>")
            .replace(&spec.instance.to_string(), "<instance>")
            .replace(&spec.product_id.to_string(), "<product>")
            .replace(&spec.port.expect("has one").to_string(), "<port>")
    }

    async fn public_text(&self, id: EngineId) -> String {
        let mut text = fs::read(format!("/proc/{}/cmdline", self.pid(id))).unwrap_or_default();
        for entry in fs::read_dir(self.dir(id)).expect("is there").flatten() {
            text.extend_from_slice(entry.file_name().to_str().expect("text").as_bytes());
            text.extend(fs::read(entry.path()).unwrap_or_default());
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    async fn kill_outside(&self, id: EngineId) {
        self.signal(id, Signal::KILL);
    }

    async fn remove_object_outside(&self, id: EngineId) {
        let _ = kill_process(Pid::from_raw(self.pid(id)).expect("not zero"), Signal::KILL);
        fs::remove_file(self.dir(id).join("engine.pid")).expect("is there");
    }

    async fn remove_storage_outside(&self, id: EngineId) {
        fs::remove_dir_all(self.dir(id)).expect("is there");
    }

    async fn traces(&self, id: EngineId) -> Vec<String> {
        let name = id.to_string();
        let names = fs::read_dir(self.root()).expect("is there").flatten();
        let mut traces: Vec<String> = names
            .map(|e| e.file_name().to_str().expect("text").to_owned())
            .filter(|n| n.contains(&name))
            .collect();
        for entry in fs::read_dir("/proc").expect("is there").flatten() {
            let home = fs::read_link(entry.path().join("cwd")).unwrap_or_default();
            if home.to_string_lossy().contains(&name) {
                traces.push(format!("process {}", entry.file_name().to_string_lossy()));
            }
        }
        traces
    }

    async fn make_unreachable(&self) {
        fs::rename(self.root(), self.above.path().join("away")).expect("is there");
    }

    async fn make_hang(&self, id: EngineId) {
        // reading a pipe that nobody writes takes for ever, as a disk that is gone does
        let file = self.dir(id).join("engine.pid");
        fs::rename(&file, self.dir(id).join("saved")).expect("is there");
        mknodat(CWD, &file, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("makes a pipe");
    }

    async fn heal(&self) {
        let away = self.above.path().join("away");
        if away.exists() {
            fs::rename(&away, self.root()).expect("the place is free");
        }
        for entry in fs::read_dir(self.root()).expect("is there").flatten() {
            let (saved, file) = (entry.path().join("saved"), entry.path().join("engine.pid"));
            if saved.exists() {
                // a writer that goes away again ends the waiting of everybody who opened it
                let pipe = fs::OpenOptions::new().read(true).write(true).open(&file).expect("opens");
                fs::rename(&saved, &file).expect("the place is free");
                drop(pipe);
            }
        }
    }

    async fn narrow(&self) -> bool {
        false
    }

    async fn cut_events(&self) {
        // there is no connection that could be cut
    }
}
