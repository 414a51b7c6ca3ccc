//! A world of containers for the conformance suite: one daemon, one network, one door that can be shut.
//!
//! The backend talks through the door, the world looks from outside. The one invariant: everything made in a world
//! carries an instance label of that world, and is removed with it.

use crate::conformance::Place;
use async_trait::async_trait;
use backends::{DockerBackend, DockerSettings, EngineBackend, ProbeAddress, ProbeReply, PullPolicy};
use bytes::Bytes;
use contract::{EngineId, InstanceId};
use fleet::spec::EngineSpec;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use testbed::docker::{DockerDaemon, SocketGate};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// One answer of an engine.
const GET_MAX: Duration = Duration::from_secs(2);

/// Small networks tried, of which others may have some. More hides a daemon that refuses them all.
const NETWORKS_TRIED: usize = 20;

/// Brains in named volumes.
pub type OnVolumes = World<false>;
/// Brains in directories.
pub type OnDirectories = World<true>;

/// A world of containers.
pub struct World<const DIRECTORIES: bool> {
    daemon: Option<DockerDaemon>,
    image: String,
    gate: SocketGate,
    network: String,
    instance: InstanceId,
    /// All that were used here; their objects go at the end.
    instances: Mutex<BTreeSet<InstanceId>>,
    call_timeout: Duration,
    root: PathBuf,
    catalog: PathBuf,
    backend: Option<Arc<DockerBackend>>,
    _directory: tempfile::TempDir,
}

impl<const DIRECTORIES: bool> World<DIRECTORIES> {
    /// A new world, or `None` where there is no daemon.
    pub async fn new(call_timeout: Duration) -> Option<Self> {
        let daemon = DockerDaemon::find().await?;
        let image = daemon.engine_image().await;
        let directory = tempfile::tempdir().expect("a directory");
        // Engines run as another user and must get through to what is mounted.
        for name in ["brains", "catalog"] {
            std::fs::create_dir(directory.path().join(name)).expect("a fresh directory");
        }
        let instance = InstanceId::generate();
        let mut world = Self {
            gate: SocketGate::to(daemon.socket()),
            daemon: Some(daemon),
            image,
            network: format!("september-test-{instance}"),
            instance,
            instances: Mutex::default(),
            call_timeout,
            root: directory.path().join("brains"),
            catalog: directory.path().join("catalog"),
            backend: None,
            _directory: directory,
        };
        world.backend = Some(Arc::new(world.backend_of(instance)));
        Some(world)
    }

    /// The daemon, past the door.
    pub fn daemon(&self) -> &DockerDaemon {
        self.daemon.as_ref().expect("until it is dropped")
    }

    /// What backends of this world are told.
    pub fn settings(&self, instance: InstanceId) -> DockerSettings {
        self.instances.lock().expect("no panic while held").insert(instance);
        DockerSettings {
            host: Some(self.gate.host()),
            tls: None,
            registry_config: None,
            instance,
            network: self.network.clone(),
            isolate: false,
            data_root: DIRECTORIES.then(|| (self.root.clone(), self.root.clone())),
            pull: PullPolicy::Missing,
            pull_timeout: Duration::from_secs(60),
            call_timeout: self.call_timeout,
            probe_by: ProbeAddress::HostPort,
            self_container: None,
        }
    }

    fn backend_of(&self, instance: InstanceId) -> DockerBackend {
        DockerBackend::connect(self.settings(instance)).expect("settings that can work")
    }

    /// What the daemon says about the engine's container.
    pub async fn inspect(&self, id: EngineId) -> Value {
        self.daemon().call("GET", &format!("/containers/engine-{}/json", id.short()), None).await.1
    }

    /// Facts of the container as sorted lines.
    fn lines(shown: &Value) -> Vec<String> {
        let (config, host) = (&shown["Config"], &shown["HostConfig"]);
        let mut lines = vec![format!("name {}", text(&shown["Name"]))];
        for fact in config["Env"].as_array().into_iter().flatten() {
            lines.push(format!("env {}", text(fact)));
        }
        for (label, value) in config["Labels"].as_object().into_iter().flatten() {
            lines.push(format!("label {label}={}", text(value)));
        }
        for key in ["Image", "User", "Cmd", "Entrypoint", "ExposedPorts", "Healthcheck"] {
            lines.push(format!("config {key} {}", config[key]));
        }
        for mount in host["Mounts"].as_array().into_iter().flatten() {
            lines.push(format!("mount {mount}"));
        }
        for key in [
            "NetworkMode",
            "PortBindings",
            "RestartPolicy",
            "CapAdd",
            "CapDrop",
            "SecurityOpt",
            "ReadonlyRootfs",
            "Tmpfs",
            "Init",
            "Ulimits",
            "Memory",
            "MemorySwap",
            "NanoCpus",
            "PidsLimit",
            "LogConfig",
            "Privileged",
            "Binds",
            "Devices",
            "PidMode",
            "UTSMode",
        ] {
            lines.push(format!("host {key} {}", host[key]));
        }
        // Versions of the daemon differ in how they write nothing.
        lines.retain(|line| ![" null", " []", " \"\""].iter().any(|nothing| line.ends_with(nothing)));
        lines.sort();
        lines
    }

    /// Objects of this kind that carry one of our instance labels.
    async fn labelled(&self, list: &str, items: Option<&str>, name: &str) -> Vec<String> {
        let mut found = Vec::new();
        let instances = self.instances.lock().expect("no panic while held").clone();
        for instance in instances {
            let filters = json!({"label": [format!("bap-engine/instance={instance}")]}).to_string();
            let (_, answer) =
                self.daemon().call("GET", &format!("{list}filters={}", escaped(&filters)), None).await;
            let items = items.map_or(&answer, |key| &answer[key]);
            found.extend(items.as_array().into_iter().flatten().map(|item| text(&item[name]).to_owned()));
        }
        found
    }

    async fn clean(&self) {
        for id in self.labelled("/containers/json?all=true&", None, "Id").await {
            self.daemon().call("DELETE", &format!("/containers/{id}?force=true&v=true"), None).await;
        }
        for name in self.labelled("/volumes?", Some("Volumes"), "Name").await {
            self.daemon().call("DELETE", &format!("/volumes/{name}?force=true"), None).await;
        }
        for id in self.labelled("/networks?", None, "Id").await {
            self.daemon().call("DELETE", &format!("/networks/{id}"), None).await;
        }
    }
}

impl<const DIRECTORIES: bool> Drop for World<DIRECTORIES> {
    fn drop(&mut self) {
        // A destructor cannot wait inside the test's runtime; a thread with its own can.
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.expect("a runtime").block_on(self.clean());
            });
        });
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn escaped(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

#[async_trait]
impl<const DIRECTORIES: bool> Place for World<DIRECTORIES> {
    const GOLDEN: &'static str = if DIRECTORIES { "docker_directories" } else { "docker_volumes" };

    async fn possible() -> bool {
        DockerDaemon::find().await.is_some()
    }

    async fn fresh(call_timeout: Duration) -> Self {
        Self::new(call_timeout).await.expect("looked before")
    }

    fn instance(&self) -> InstanceId {
        self.instance
    }

    fn backend(&self) -> Arc<dyn EngineBackend> {
        self.backend.clone().expect("made with the world")
    }

    async fn another(&self, instance: InstanceId) -> Arc<dyn EngineBackend> {
        Arc::new(self.backend_of(instance))
    }

    fn image(&self) -> String {
        self.image.clone()
    }

    fn catalog(&self) -> String {
        self.catalog.display().to_string()
    }

    async fn free_port(&self) -> Option<u16> {
        // Below the ports that the kernel hands out, so that no outgoing connection takes it meanwhile.
        loop {
            let port = rand::random_range(12_000..30_000);
            if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
                return Some(port);
            }
        }
    }

    fn make_stubborn(&self, spec: &mut EngineSpec) {
        spec.env.0.insert("FAKE_IGNORE_SIGTERM".into(), "1".into());
    }

    async fn get(&self, address: SocketAddr, path: &str) -> ProbeReply {
        match tokio::time::timeout(GET_MAX, get(address, path)).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(err))
                if matches!(err.kind(), ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset) =>
            {
                ProbeReply::Refused
            }
            Ok(Err(_)) => ProbeReply::Unreadable,
            Err(_) => ProbeReply::TimedOut,
        }
    }

    async fn alive(&self, container_id: &str) -> bool {
        let (_, shown) = self.daemon().call("GET", &format!("/containers/{container_id}/json"), None).await;
        shown["State"]["Running"] == true
    }

    async fn environment(&self, id: EngineId) -> BTreeMap<String, String> {
        let shown = self.inspect(id).await;
        let port =
            text(&shown["HostConfig"]["PortBindings"]["8000/tcp"][0]["HostPort"]).parse().expect("published");
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let ProbeReply::Answer { body, .. } = self.get(address, "/environ").await else {
            panic!("no answer")
        };
        serde_json::from_slice(&body).expect("names and values")
    }

    async fn shape(&self, spec: &EngineSpec) -> String {
        let mut shape = Self::lines(&self.inspect(spec.engine_id).await).join("\n");
        let port = spec.port.map(|port| port.to_string()).unwrap_or_default();
        for (value, name) in [
            (self.root.display().to_string(), "<root>"),
            (self.catalog(), "<catalog>"),
            (self.network.clone(), "<network>"),
            (self.image(), "<image>"),
            (spec.engine_id.to_string(), "<engine>"),
            (spec.engine_id.short(), "<12>"),
            (spec.instance.to_string(), "<instance>"),
            (spec.product_id.to_string(), "<product>"),
            (port, "<port>"),
        ] {
            shape = shape.replace(&value, name);
        }
        shape
    }

    async fn public_text(&self, id: EngineId) -> String {
        let mut shown = self.inspect(id).await;
        // `docker inspect` shows the environment to whoever holds the socket: that is where the contract puts it.
        shown["Config"]["Env"] = Value::Null;
        let path = format!("/containers/engine-{}/logs?stdout=1&stderr=1", id.short());
        let (_, logs) = self.daemon().call("GET", &path, None).await;
        let volume = self.daemon().call("GET", &format!("/volumes/engine-data-{id}"), None).await.1;
        format!("{shown}{logs}{volume}{:?}", files_below(&self.root.join(id.to_string())))
    }

    async fn kill_outside(&self, id: EngineId) {
        let pid = self.inspect(id).await["State"]["Pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
        let pid = pid.and_then(Pid::from_raw).expect("it runs");
        kill_process(pid, Signal::KILL).expect("it runs on this machine");
    }

    async fn remove_object_outside(&self, id: EngineId) {
        let path = format!("/containers/engine-{}?force=true", id.short());
        let (status, answer) = self.daemon().call("DELETE", &path, None).await;
        assert_eq!(status, 204, "{answer}");
    }

    async fn remove_storage_outside(&self, id: EngineId) {
        if DIRECTORIES {
            std::fs::remove_dir_all(self.root.join(id.to_string())).expect("it was there");
        } else {
            let (status, answer) =
                self.daemon().call("DELETE", &format!("/volumes/engine-data-{id}"), None).await;
            assert_eq!(status, 204, "{answer}");
        }
    }

    async fn traces(&self, id: EngineId) -> Vec<String> {
        let (_, containers) = self.daemon().call("GET", "/containers/json?all=true", None).await;
        let (_, volumes) = self.daemon().call("GET", "/volumes", None).await;
        let containers = containers.as_array().into_iter().flatten();
        let names =
            containers.flat_map(|container| container["Names"].as_array().cloned().unwrap_or_default());
        let volumes = volumes["Volumes"].as_array().cloned().unwrap_or_default();
        let mut all: Vec<String> = names.map(|name| text(&name).to_owned()).collect();
        all.extend(volumes.iter().map(|volume| text(&volume["Name"]).to_owned()));
        all.extend(files_below(&self.root));
        all.retain(|name| name.contains(&id.short()));
        all
    }

    async fn make_unreachable(&self) {
        self.gate.close();
    }

    async fn make_hang(&self, _: EngineId) {
        self.gate.hang();
    }

    async fn heal(&self) {
        self.gate.open();
    }

    async fn narrow(&self) -> bool {
        // Two addresses, and the gateway has the first.
        for _ in 0..NETWORKS_TRIED {
            let (high, low) = (rand::random_range(0..=255_u8), rand::random_range(0..64_u8) * 4);
            let body = json!({
                "Name": self.network, "Driver": "bridge",
                "Labels": {"bap-engine/instance": self.instance.to_string()},
                "IPAM": {"Config": [{"Subnet": format!("10.213.{high}.{low}/30")}]},
            });
            if self.daemon().call("POST", "/networks/create", Some(body)).await.0 == 201 {
                return true;
            }
        }
        panic!("{NETWORKS_TRIED} small networks in 10.213.0.0/16 are refused");
    }

    async fn cut_events(&self) {
        self.gate.cut();
    }
}

/// Paths below a directory, at every depth.
fn files_below(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        found.push(entry.path().display().to_string());
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(files_below(&entry.path()));
        }
    }
    found
}

/// One GET, read to the end of the connection.
async fn get(address: SocketAddr, path: &str) -> std::io::Result<ProbeReply> {
    let mut line = TcpStream::connect(address).await?;
    line.write_all(format!("GET {path} HTTP/1.1\r\nhost: engine\r\nconnection: close\r\n\r\n").as_bytes())
        .await?;
    let mut answer = Vec::new();
    line.read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok(match (status, answer.split_once("\r\n\r\n")) {
        (Some(status), Some((_, body))) => ProbeReply::Answer { status, body: Bytes::from(body.to_owned()) },
        _ => ProbeReply::Unreadable,
    })
}
