//! Processes of this host: the suite, and what only this place can get wrong.

use crate::conformance::{Place, conformance_suite};
use async_trait::async_trait;
use backends::{
    BackendError, BackendEvent, BackendEventKind, EngineBackend, JobSpec, ProbeReply, SubprocessBackend,
    SubprocessSettings,
};
use bytes::Bytes;
use contract::{EngineId, InstanceId, ProductId};
use fleet::observation::{Object, ObjectState, Observation};
use fleet::spec::{EngineEnv, EngineSpec, Resources, SecurityProfile};
use futures::{StreamExt, stream};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

conformance_suite!(Subprocess);

/// Longest wait for something that should happen at once.
const SOON: Duration = Duration::from_secs(30);
const CALL: Duration = Duration::from_secs(30);
const GRACE: Duration = Duration::from_secs(20);

/// A data root of its own with a backend on it.
pub struct Subprocess {
    instance: InstanceId,
    binary: PathBuf,
    /// Above the root, so that the root can go away.
    above: tempfile::TempDir,
    call_timeout: Duration,
    backend: SubprocessBackend,
}

fn settings(instance: InstanceId, binary: &Path, above: &Path, call_timeout: Duration) -> SubprocessSettings {
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
fn stat(pid: i32) -> Option<(char, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    Some((fields[0].chars().next()?, fields[19].parse().ok()?))
}

fn lives(pid: i32, ticks: u64) -> bool {
    stat(pid).is_some_and(|(state, of)| of == ticks && !matches!(state, 'Z' | 'X'))
}

async fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
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
    fn root(&self) -> PathBuf {
        self.above.path().join("root")
    }

    fn dir(&self, id: EngineId) -> PathBuf {
        self.root().join(id.to_string())
    }

    fn pid_file(&self, id: EngineId) -> Value {
        let text = fs::read(self.dir(id).join("engine.pid")).expect("there is an object");
        serde_json::from_slice(&text).expect("JSON")
    }

    fn pid(&self, id: EngineId) -> i32 {
        i32::try_from(self.pid_file(id)["pid"].as_i64().expect("a number")).expect("small")
    }

    fn signal(&self, id: EngineId, signal: Signal) {
        let pid = Pid::from_raw(self.pid(id)).expect("not zero");
        kill_process(pid, signal).expect("it is there");
    }

    fn spec(&self, generation: i64) -> EngineSpec {
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

    async fn running(&self, generation: i64) -> EngineSpec {
        let spec = self.spec(generation);
        self.backend.ensure_storage(spec.engine_id, true).await.expect("makes storage");
        self.create(&spec).await;
        spec
    }

    async fn create(&self, spec: &EngineSpec) {
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

    async fn state(&self, id: EngineId) -> ObjectState {
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

    async fn cut_events(&self) {
        // there is no connection that could be cut
    }
}

// --- what only this place can get wrong

#[tokio::test]
async fn engines_outlive_the_backend_that_started_them() {
    let place = Subprocess::fresh(CALL).await;
    let spec = place.spec(3);
    place.backend.ensure_storage(spec.engine_id, true).await.expect("makes storage");
    let settings = settings(place.instance, &place.binary, place.above.path(), CALL);
    let first = SubprocessBackend::new(settings).expect("opens");
    first.create(&spec).await.expect("creates");
    let before = first.observe(spec.engine_id).await.expect("observes");
    drop(first);
    assert!(before.is_running());
    assert_eq!(place.backend.observe(spec.engine_id).await, Ok(before));
    place.create(&spec).await;
}

/// Starts an engine as somebody else's child, as one is whose orchestrator has died, and writes its record.
async fn start_as_an_orphan(place: &Subprocess, spec: &EngineSpec, write_record: bool) -> (i32, u64) {
    let dir = place.dir(spec.engine_id);
    fs::create_dir_all(&dir).expect("makes it");
    let script = r#"cd "$1" && setsid -f "$0" serve </dev/null >engine.log 2>&1"#;
    let started = Command::new("sh")
        .arg("-c")
        .arg(script)
        .arg(&place.binary)
        .arg(&dir)
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("SQLITE_DB_PATH", dir.join("brain.sqlite"))
        .env("ENGINE_HOST", "127.0.0.1")
        .env("ENGINE_PORT", spec.port.expect("has one").to_string())
        .env("BRAIN_GENERATION", spec.generation.to_string())
        .status()
        .expect("sh runs");
    assert!(started.success());
    let pid = eventually("the orphan is there", || {
        fs::read_dir("/proc").expect("is there").flatten().find_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let ours = fs::read_link(entry.path().join("cwd")).ok()? == dir;
            let program = fs::read_link(entry.path().join("exe")).ok()? == place.binary;
            (ours && program).then_some(pid)
        })
    })
    .await;
    let (_, ticks) = stat(pid).expect("it lives");
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("readable");
    let known = if write_record { (pid, ticks) } else { (0, 0) };
    let record = json!({
        "pid": known.0, "start_ticks": known.1, "boot_id": boot_id.trim(), "generation": spec.generation,
        "spec_hash": spec.spec_hash, "instance": spec.instance, "product": spec.product_id, "image": spec.image,
        "port": spec.port, "started_at": contract::Timestamp::now(),
    });
    fs::write(dir.join("engine.pid"), record.to_string()).expect("writes");
    (pid, ticks)
}

#[tokio::test]
async fn an_adopted_engine_is_watched_and_its_exit_code_is_unknown() {
    let place = Subprocess::fresh(CALL).await;
    let spec = place.spec(1);
    let (pid, ticks) = start_as_an_orphan(&place, &spec, true).await;
    let mut events = place.backend.events();
    assert_eq!(events.next().await, Some(BackendEvent { engine: None, kind: BackendEventKind::Gap }));
    let seen = place.backend.observe(spec.engine_id).await.expect("observes");
    assert!(seen.is_running());
    assert_eq!(seen.object().expect("is there").container_id, format!("{pid}@{ticks}"));
    place.signal(spec.engine_id, Signal::KILL);
    let died = BackendEvent { engine: Some(spec.engine_id), kind: BackendEventKind::Die };
    let heard = tokio::time::timeout(SOON, events.next()).await;
    assert_eq!(heard, Ok(Some(died)), "told without having started it");
    assert!(matches!(place.state(spec.engine_id).await, ObjectState::Exited { code: None, .. }));
}

#[tokio::test]
async fn an_adopted_engine_is_stopped_frozen_and_replaced_like_any_other() {
    let place = Subprocess::fresh(CALL).await;
    let spec = place.spec(1);
    let (pid, ticks) = start_as_an_orphan(&place, &spec, true).await;
    place.backend.freeze(spec.engine_id).await.expect("freezes");
    assert_eq!(place.state(spec.engine_id).await, ObjectState::Paused);
    let mut newer = spec.clone();
    newer.generation = 2;
    place.create(&newer).await;
    assert!(!lives(pid, ticks));
    let stopped = place.backend.stop(spec.engine_id, GRACE).await.expect("stops");
    assert_eq!((stopped.killed, stopped.exit_code), (false, Some(0)), "this one is our child");
}

#[tokio::test]
async fn a_process_whose_number_was_never_written_is_found_again() {
    let place = Subprocess::fresh(CALL).await;
    let spec = place.spec(7);
    let (pid, ticks) = start_as_an_orphan(&place, &spec, false).await;
    let seen = place.backend.observe(spec.engine_id).await.expect("observes");
    assert!(seen.is_running(), "{seen}");
    assert_eq!(seen.object().expect("is there").container_id, format!("{pid}@{ticks}"));
    place.backend.destroy(spec.engine_id).await.expect("destroys");
    assert!(!lives(pid, ticks));

    // and when it never came to be, that is an end
    let spec = place.running(1).await;
    place.backend.stop(spec.engine_id, GRACE).await.expect("stops");
    let mut record = place.pid_file(spec.engine_id);
    (record["pid"], record["start_ticks"]) = (json!(0), json!(0));
    fs::write(place.dir(spec.engine_id).join("engine.pid"), record.to_string()).expect("writes");
    assert!(matches!(place.state(spec.engine_id).await, ObjectState::Exited { code: None, .. }));
    place.create(&spec).await;
}

#[tokio::test]
async fn subprocess_never_signals_a_reused_pid() {
    let place = Subprocess::fresh(CALL).await;
    let spec = place.running(1).await;
    let id = spec.engine_id;
    place.backend.stop(id, GRACE).await.expect("stops");
    let mut stranger = Command::new("sleep").arg("600").stdin(Stdio::null()).spawn().expect("starts");
    let pid = i32::try_from(stranger.id()).expect("small");
    let (_, ticks) = stat(pid).expect("lives");
    let genuine = place.pid_file(id);
    let write = |pid: i32, ticks: u64, boot: &Value| {
        let mut record = genuine.clone();
        (record["pid"], record["start_ticks"]) = (json!(pid), json!(ticks));
        record["boot_id"] = boot.clone();
        fs::write(place.dir(id).join("engine.pid"), record.to_string()).expect("writes");
    };
    for (ticks, boot) in [(ticks + 1, genuine["boot_id"].clone()), (ticks, json!("another-boot"))] {
        write(pid, ticks, &boot);
        assert!(matches!(place.state(id).await, ObjectState::Exited { code: None, .. }));
        place.backend.stop(id, Duration::ZERO).await.expect("stops");
        place.backend.freeze(id).await.expect("freezes");
        place.backend.remove(id).await.expect("removes");
        write(pid, ticks, &boot);
        let mut newer = spec.clone();
        newer.generation += 1;
        place.create(&newer).await;
        place.backend.stop(id, GRACE).await.expect("stops");
        let (state, _) = stat(pid).expect("lives");
        assert!(!matches!(state, 'Z' | 'T'), "the stranger was signalled: {state}");
    }
    stranger.kill().expect("ends");
    stranger.wait().expect("ends");
}

#[tokio::test]
async fn an_end_of_our_own_child_has_its_code_and_is_told_at_once() {
    let place = Subprocess::fresh(CALL).await;
    let mut spec = place.spec(1);
    spec.env.0.insert("FAKE_CRASH_AFTER_MS".into(), "300".into());
    spec.env.0.insert("FAKE_CRASH_CODE".into(), "4".into());
    let mut events = place.backend.events();
    place.backend.ensure_storage(spec.engine_id, true).await.expect("makes storage");
    place.backend.create(&spec).await.expect("creates");
    let (pid, ticks) = (place.pid(spec.engine_id), place.pid_file(spec.engine_id)["start_ticks"].clone());
    let died = BackendEvent { engine: Some(spec.engine_id), kind: BackendEventKind::Die };
    while tokio::time::timeout(SOON, events.next()).await.expect("in time") != Some(died.clone()) {}
    let Some(Observation::Present(Object { state: ObjectState::Exited { code, at, .. }, .. })) =
        place.backend.observe(spec.engine_id).await.ok()
    else {
        panic!("it has ended");
    };
    assert_eq!((code, at.is_some()), (Some(4), true));
    assert!(stat(pid).is_none_or(|(_, now)| json!(now) != ticks), "no zombie is left");
    assert!(place.backend.tail(spec.engine_id, 5).await.expect("reads").contains("crashing as told"));
}

#[tokio::test]
async fn a_port_somebody_listens_on_is_taken() {
    let place = Subprocess::fresh(CALL).await;
    let spec = place.spec(1);
    let port = spec.port.expect("has one");
    place.backend.ensure_storage(spec.engine_id, true).await.expect("makes storage");
    for address in [Ipv4Addr::LOCALHOST, Ipv4Addr::UNSPECIFIED] {
        let stranger = TcpListener::bind((address, port)).expect("was free");
        assert_eq!(place.backend.create(&spec).await, Err(BackendError::PortTaken(port)));
        drop(stranger);
    }
    assert_eq!(place.backend.observe(spec.engine_id).await, Ok(Observation::Absent), "nothing half is left");
    place.create(&spec).await;
}

#[tokio::test]
async fn an_unreadable_record_is_an_error_and_never_in_the_way_of_destroy() {
    let place = Subprocess::fresh(CALL).await;
    let spec = place.running(1).await;
    let neighbour = place.running(1).await;
    let id = spec.engine_id;
    let (pid, ticks) = (place.pid(id), place.pid_file(id)["start_ticks"].as_u64().expect("a number"));
    for garbage in ["", "{\"pid\":1"] {
        fs::write(place.dir(id).join("engine.pid"), garbage).expect("writes");
        assert!(matches!(place.backend.observe(id).await, Err(BackendError::Refused(_))));
        let list = place.backend.list().await.expect("lists the others");
        assert_eq!(list.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [neighbour.engine_id]);
    }
    place.backend.destroy(id).await.expect("destroys");
    eventually("its process ends", || (!lives(pid, ticks)).then_some(())).await;
    assert_eq!(place.traces(id).await, Vec::<String>::new());
}

#[tokio::test]
async fn links_among_the_backups_are_not_followed() {
    let place = Subprocess::fresh(CALL).await;
    let spec = place.running(1).await;
    let id = spec.engine_id;
    let secret = place.above.path().join("secret");
    fs::write(&secret, "secret").expect("writes");
    let backups = place.dir(id).join("backups");
    fs::create_dir_all(&backups).expect("makes it");
    std::os::unix::fs::symlink(&secret, backups.join("link")).expect("links");
    std::os::unix::fs::symlink(place.above.path(), backups.join("dir")).expect("links");
    for path in ["/data/backups/link", "/data/backups/dir/secret"] {
        assert!(matches!(place.backend.read_file(id, path).await, Err(BackendError::Refused(_))), "{path}");
        let data = stream::iter([Ok(Bytes::from_static(b"changed"))]).boxed();
        // replacing the link itself is as good; what it points to is not touched
        let _ = place.backend.write_file(id, path, data).await;
        let _ = place.backend.remove_file(id, path).await;
    }
    assert_eq!(fs::read_to_string(&secret).expect("is there"), "secret");
    let broken = stream::iter([Ok(Bytes::from_static(b"half")), Err(std::io::Error::other("cut"))]).boxed();
    assert!(place.backend.write_file(id, "/data/backups/new", broken).await.is_err());
    let names: Vec<_> = fs::read_dir(&backups).expect("is there").flatten().map(|e| e.file_name()).collect();
    assert!(!names.iter().any(|n| n.to_string_lossy().contains("part") || n == "new"), "{names:?}");
}

#[tokio::test]
async fn a_job_ends_at_its_deadline_and_keeps_engines_out_until_then() {
    let place = Subprocess::fresh(Duration::from_millis(150)).await;
    let spec = place.spec(1);
    let id = spec.engine_id;
    place.backend.ensure_storage(id, true).await.expect("makes storage");
    let job = JobSpec { engine: spec.clone(), args: vec!["hang".into()] };
    let backend = place.backend.clone();
    let hanging = tokio::spawn(async move { backend.run_job(&job).await });
    let home = place.dir(id);
    let pid = eventually("the job runs", || {
        fs::read_dir("/proc").expect("is there").flatten().find_map(|entry| {
            let ours = fs::read_link(entry.path().join("cwd")).ok()? == home;
            ours.then(|| entry.file_name().to_str().expect("text").to_owned())
        })
    })
    .await;
    let kept_out = place.backend.create(&spec).await;
    assert!(kept_out.as_ref().is_err_and(BackendError::is_transient), "{kept_out:?}");
    let outcome = hanging.await.expect("ends");
    assert_eq!(outcome, Err(BackendError::TimedOut { call: "run_job", limit_ms: 1500 }));
    assert!(!Path::new("/proc").join(&pid).exists(), "killed and reaped");
}

#[tokio::test]
async fn a_tag_without_a_program_is_a_missing_image() {
    let place = Subprocess::fresh(CALL).await;
    let programs = place.above.path().join("programs");
    fs::create_dir(&programs).expect("makes it");
    std::os::unix::fs::symlink(&place.binary, programs.join("engine-1.2.3")).expect("links");
    let mut settings = settings(place.instance, &programs.join("engine-{tag}"), place.above.path(), CALL);
    settings.base_env.clear();
    let backend = SubprocessBackend::new(settings).expect("opens");
    backend.ensure_image("september-engine:1.2.3").await.expect("is there");
    let missing = backend.ensure_image("september-engine:9").await;
    assert!(matches!(missing, Err(BackendError::ImageMissing(_))), "{missing:?}");
    let mut spec = place.spec(1);
    spec.image = "september-engine:9".into();
    backend.ensure_storage(spec.engine_id, true).await.expect("makes storage");
    assert!(matches!(backend.create(&spec).await, Err(BackendError::ImageMissing(_))));
}

#[tokio::test]
async fn another_root_is_another_place() {
    let place = Subprocess::fresh(CALL).await;
    let before = place.backend.ping().await.expect("pings");
    let settings = settings(place.instance, &place.binary, place.above.path(), CALL);
    let again = SubprocessBackend::new(settings.clone()).expect("opens");
    assert_eq!(again.ping().await, Ok(before.clone()), "a restart changes nothing");
    fs::remove_dir_all(place.root()).expect("is there");
    assert!(matches!(again.ping().await, Err(BackendError::Unreachable(_))));
    let replaced = SubprocessBackend::new(settings).expect("opens");
    assert_ne!(replaced.ping().await.expect("pings").id, before.id, "an empty root in its place is noticed");
}
