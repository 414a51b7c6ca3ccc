//! Engines as containers of one Docker daemon.
//!
//! One container `engine-{12}` per engine, its storage in a directory or a named volume, jobs in containers beside it.
//! It refuses to touch anything that does not carry our instance label, whatever it is called: such an object is
//! absent for every call but `create`, which says `Conflict`. The daemon may go away and come back at any time;
//! nothing is connected before the first call.
//!
//! The one invariant: every answer comes from the daemon within the call's deadline, or is an error.

mod credentials;
mod events;
mod files;
mod image;
mod job;
mod look;
mod network;
mod object;
mod refusal;
mod storage;
mod tar;
mod wire;

use crate::deadline::{Deadlines, within};
use crate::{
    BackendError, BackendEvent, BackendIdentity, ByteStream, Capabilities, EngineBackend, EngineEndpoint, ImageRef,
    JobOutcome, JobSpec, Result, Stopped,
};
use async_trait::async_trait;
use bollard::Docker;
use bollard::models::ContainerSummary;
use bollard::query_parameters::{
    CreateContainerOptions, InspectContainerOptions, ListContainersOptions, StartContainerOptions,
    StopContainerOptions,
};
use contract::{EngineId, InstanceId, Timestamp};
use fleet::lifecycle::BackendKind;
use fleet::observation::{Object, ObjectState, Observation};
use fleet::spec::{EngineSpec, LABEL_INSTANCE, LABEL_ROLE, ROLE_ENGINE};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, stream};
use look::Found;
use network::EngineNetwork;
use object::{ENGINE_PORT, StorageRoot, engine_name};
use refusal::Refusal;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use storage::Storage;
use wire::{Address, Daemon};

/// Grace for an object that is to go away, ours of an older generation included. Longer lets a stuck engine hold
/// up its own replacement; shorter cuts turns in flight.
const REMOVE_GRACE: Duration = Duration::from_secs(10);
/// How often `create` looks again after somebody else made or removed the name meanwhile. More hides a fight over a
/// name; fewer fails on one unlucky moment.
const CREATE_ATTEMPTS_MAX: usize = 3;
/// Pause between two looks at something that is about to change. Longer wastes time, shorter asks for nothing.
const POLL: Duration = Duration::from_millis(50);
/// Inspections of one list at a time: as many as connections are kept.
const INSPECTIONS_AT_ONCE: usize = 8;
/// Exit code of a process that was killed.
const KILLED: i32 = 137;

/// When an image is pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullPolicy {
    /// When the daemon does not have it.
    Missing,
    /// Every time.
    Always,
    /// Never.
    Never,
}

/// Which address of an engine is reachable from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeAddress {
    /// The container's own, on the engines' network.
    Network,
    /// The port it publishes on 127.0.0.1.
    HostPort,
}

/// What the backend must be told. Nothing is read from the environment.
#[derive(Debug, Clone)]
pub struct DockerSettings {
    /// `DOCKER_HOST`; `None` = `/var/run/docker.sock`.
    pub host: Option<String>,
    /// `DOCKER_CERT_PATH`, when `DOCKER_TLS_VERIFY` is set: directory of `ca.pem`, `cert.pem`, `key.pem`.
    pub tls: Option<PathBuf>,
    /// `DOCKER_CONFIG`: directory of the `config.json` with logins of registries.
    pub registry_config: Option<PathBuf>,
    /// Whose objects these are.
    pub instance: InstanceId,
    /// `ORCH_ENGINE_NETWORK`.
    pub network: String,
    /// Engines do not reach each other (URL mode `host`); counts when the network is made.
    pub isolate: bool,
    /// Root of brains as the daemon's host sees it, and as this process does; `None` = named volumes.
    pub data_root: Option<(PathBuf, PathBuf)>,
    /// `ORCH_IMAGE_PULL`.
    pub pull: PullPolicy,
    /// `ORCH_IMAGE_PULL_TIMEOUT_S`.
    pub pull_timeout: Duration,
    /// `ORCH_BACKEND_CALL_TIMEOUT_S`: the base of all other deadlines.
    pub call_timeout: Duration,
    /// Which address `observe` and `list` report.
    pub probe_by: ProbeAddress,
    /// Id or name of the container this process runs in, when it does.
    pub self_container: Option<String>,
}

/// Engines on one Docker daemon.
pub struct DockerBackend {
    daemon: Daemon,
    instance: InstanceId,
    root: StorageRoot,
    network: EngineNetwork,
    deadlines: Deadlines,
    probe: ProbeAddress,
    pull: PullPolicy,
    pull_timeout: Duration,
    registry_config: Option<PathBuf>,
    self_container: Option<String>,
    /// What earlier lists saw, so that old runs are not inspected each time; only `list` uses it.
    seen: Mutex<HashMap<EngineId, Object>>,
    /// The image last named to us, for carriers.
    last_image: Mutex<Option<String>>,
    /// Processors of the daemon's host; 0 = not asked yet.
    cpus: AtomicU32,
    /// One at a time makes the network.
    making_network: tokio::sync::Mutex<()>,
}

impl DockerBackend {
    /// Prepares the backend and connects nothing. Fails only for settings that can never work:
    /// [`BackendError::Refused`].
    pub fn connect(settings: DockerSettings) -> Result<Self> {
        let address = Address::parse(settings.host.as_deref(), settings.tls.as_deref());
        let daemon = address.and_then(|address| Daemon::at(&address)).map_err(BackendError::Refused)?;
        let root = match settings.data_root {
            None => StorageRoot::Volumes,
            Some((host, local)) => StorageRoot::Directories { host, local },
        };
        Ok(Self {
            daemon,
            instance: settings.instance,
            root,
            network: EngineNetwork {
                name: settings.network,
                isolate: settings.isolate,
                instance: settings.instance,
            },
            deadlines: Deadlines::new(settings.call_timeout),
            probe: settings.probe_by,
            pull: settings.pull,
            pull_timeout: settings.pull_timeout,
            registry_config: settings.registry_config,
            self_container: settings.self_container,
            seen: Mutex::default(),
            last_image: Mutex::default(),
            cpus: AtomicU32::new(0),
            making_network: tokio::sync::Mutex::default(),
        })
    }

    /// Does this process itself run in a container on the engines' network? Decides `ORCH_ENGINE_URL_MODE=auto`.
    pub async fn runs_on_network(&self) -> Result<bool> {
        let Some(container) = &self.self_container else { return Ok(false) };
        self.timed("runs_on_network", self.deadlines.look(), async {
            let docker = self.daemon.calls().await?;
            match docker.inspect_container(container, None::<InspectContainerOptions>).await.map_err(Refusal::from)
            {
                Ok(answer) => {
                    let networks = answer.network_settings.and_then(|settings| settings.networks);
                    Ok(networks.is_some_and(|networks| networks.contains_key(&self.network.name)))
                }
                Err(refusal) if refusal.is_absent() => Ok(false),
                Err(refusal) => Err(refusal.into()),
            }
        })
        .await
    }

    /// Runs the work until its deadline; a lost line makes both sides agree on a version anew.
    async fn timed<T>(
        &self,
        call: &'static str,
        limit: Duration,
        work: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        let result = within(call, limit, work).await;
        if let Err(BackendError::Unreachable(_)) = &result {
            self.daemon.forget();
        }
        result
    }

    fn storage(&self, id: EngineId) -> Storage {
        Storage { engine: id, instance: self.instance, root: self.root.clone() }
    }

    fn last_image(&self) -> Option<String> {
        self.last_image.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn remember_image(&self, image: &str) {
        *self.last_image.lock().unwrap_or_else(PoisonError::into_inner) = Some(image.to_owned());
    }

    /// Processors of the host, asked once and only where a limit is wanted.
    async fn host_cpus(&self, docker: &Docker, wanted: f64) -> Result<u32> {
        let known = self.cpus.load(Ordering::Relaxed);
        if known != 0 || wanted <= 0.0 {
            return Ok(known);
        }
        let count = docker.info().await.map_err(Refusal::from)?.ncpu.and_then(|count| u32::try_from(count).ok());
        self.cpus.store(count.unwrap_or(0), Ordering::Relaxed);
        Ok(count.unwrap_or(0))
    }

    /// The engine's container, if it exists and is ours.
    async fn find(&self, docker: &Docker, id: EngineId) -> Result<Option<Found>> {
        self.find_named(docker, &engine_name(id), id, ROLE_ENGINE).await
    }

    async fn find_named(&self, docker: &Docker, name: &str, id: EngineId, role: &str) -> Result<Option<Found>> {
        match self.look(docker, name, id, role).await? {
            Seen::Ours(found) => Ok(Some(*found)),
            Seen::Nothing | Seen::Foreign => Ok(None),
        }
    }

    async fn look(&self, docker: &Docker, name: &str, id: EngineId, role: &str) -> Result<Seen> {
        let answer = docker.inspect_container(name, None::<InspectContainerOptions>).await;
        match answer.map_err(Refusal::from) {
            Ok(answer) => {
                let labels = answer.config.as_ref().and_then(|config| config.labels.as_ref());
                if look::is_ours(labels, self.instance, id, role) {
                    return Ok(Seen::Ours(Box::new(look::found(answer, &self.network.name, self.probe))));
                }
                Ok(Seen::Foreign)
            }
            Err(refusal) if refusal.is_absent() => Ok(Seen::Nothing),
            Err(refusal) => Err(refusal.into()),
        }
    }

    async fn make(&self, spec: &EngineSpec) -> Result<EngineEndpoint> {
        let (id, name) = (spec.engine_id, engine_name(spec.engine_id));
        let docker = self.daemon.calls().await?;
        for _ in 0..CREATE_ATTEMPTS_MAX {
            match self.look(docker, &name, id, ROLE_ENGINE).await? {
                Seen::Nothing => {}
                Seen::Foreign => return Err(BackendError::Conflict(name)),
                Seen::Ours(found) if found.object.state == ObjectState::Removing => {
                    self.remove_container(docker, &found.id).await?;
                }
                Seen::Ours(found) if found.object.generation == spec.generation => {
                    return self.bring_up(docker, spec.engine_id, &found, WhenPortTaken::Remove).await;
                }
                Seen::Ours(found) if found.object.generation < spec.generation => {
                    self.take_away(docker, &found).await?;
                }
                Seen::Ours(found) => {
                    return Err(BackendError::Conflict(format!("{name} (generation {})", found.object.generation)));
                }
            }
            let user = image::inspect(docker, &spec.image).await?.config.and_then(|config| config.user);
            self.remember_image(&spec.image);
            if !self.storage(id).exists(docker).await? {
                return Err(BackendError::StorageMissing(id));
            }
            self.storage(id).fit_owner(user.as_deref().and_then(look::numeric_user)).await?;
            {
                let _one = self.making_network.lock().await;
                self.network.ensure_room(docker).await?;
            }
            let cpus = self.host_cpus(docker, spec.resources.cpus).await?;
            let body = object::engine(spec, &self.root, &self.network.name, cpus);
            let options = CreateContainerOptions { name: Some(name.clone()), ..Default::default() };
            match docker.create_container(Some(options), body).await.map_err(Refusal::from) {
                // Whether made now or by somebody else meanwhile: the next round finds it and starts it.
                Ok(_) => {}
                Err(refusal) if refusal.is_conflict() => {}
                Err(refusal) if refusal.is_absent() => {
                    return Err(BackendError::ImageMissing(refusal.words().unwrap_or_default().to_owned()));
                }
                Err(refusal) if refusal.is_mount_missing() => return Err(BackendError::StorageMissing(id)),
                Err(refusal) => return Err(refusal.without(spec.env.0.values()).into()),
            }
        }
        match self.find(docker, id).await? {
            Some(found) if found.object.generation == spec.generation => {
                self.bring_up(docker, id, &found, WhenPortTaken::Remove).await
            }
            _ => Err(BackendError::Conflict(name)),
        }
    }

    /// Makes an existing container of ours run, and says where.
    async fn bring_up(
        &self,
        docker: &Docker,
        id: EngineId,
        found: &Found,
        when_port_taken: WhenPortTaken,
    ) -> Result<EngineEndpoint> {
        match found.object.state {
            ObjectState::Running { .. } => return Ok(self.endpoint(id, found)),
            ObjectState::Paused => self.unpause(docker, found).await?,
            ObjectState::Created
            | ObjectState::Exited { .. }
            | ObjectState::Restarting { .. }
            | ObjectState::Removing => {
                self.clear_job(docker, id).await?;
                let started = docker.start_container(&found.id, None::<StartContainerOptions>).await;
                match started.map_err(Refusal::from) {
                    Ok(()) => {}
                    Err(refusal) if refusal.is_unchanged() => {}
                    Err(refusal) if refusal.is_port_taken() => {
                        if when_port_taken == WhenPortTaken::Remove {
                            self.remove_container(docker, &found.id).await?;
                        }
                        return Err(BackendError::PortTaken(found.port.unwrap_or(0)));
                    }
                    Err(refusal) if refusal.is_mount_missing() => return Err(BackendError::StorageMissing(id)),
                    Err(refusal) => return Err(refusal.into()),
                }
            }
        }
        match self.find(docker, id).await? {
            Some(now) => Ok(self.endpoint(id, &now)),
            None => Err(BackendError::Refused("the object vanished while it was started".into())),
        }
    }

    fn endpoint(&self, id: EngineId, found: &Found) -> EngineEndpoint {
        let address = match found.object.state {
            ObjectState::Running { address, .. } => address,
            _ => None,
        };
        let (host, port) = match (address, self.probe, found.port) {
            (Some(address), _, _) => (address.ip().to_string(), address.port()),
            (None, ProbeAddress::HostPort, Some(port)) => ("127.0.0.1".to_owned(), port),
            // It ended already; its name is where the next run will be.
            (None, _, _) => (engine_name(id), ENGINE_PORT),
        };
        EngineEndpoint { host, port, container_id: Some(found.id.clone()) }
    }

    /// Stops and removes a container of ours.
    async fn take_away(&self, docker: &Docker, found: &Found) -> Result<()> {
        self.halt(docker, found, REMOVE_GRACE.min(self.deadlines.change() / 3)).await?;
        self.remove_container(docker, &found.id).await
    }

    /// SIGTERM, grace, SIGKILL, whatever the container is doing.
    async fn halt(&self, docker: &Docker, found: &Found, grace: Duration) -> Result<Stopped> {
        match &found.object.state {
            ObjectState::Created | ObjectState::Removing => return Ok(Stopped::default()),
            ObjectState::Exited { code, .. } => return Ok(Stopped { killed: false, exit_code: *code }),
            ObjectState::Paused => self.unpause(docker, found).await?,
            ObjectState::Running { .. } | ObjectState::Restarting { .. } => {}
        }
        let seconds = i32::try_from(grace.as_millis().div_ceil(1000)).unwrap_or(i32::MAX);
        let options = StopContainerOptions { signal: None, t: Some(seconds) };
        match docker.stop_container(&found.id, Some(options)).await.map_err(Refusal::from) {
            Ok(()) => {}
            Err(refusal) if refusal.is_unchanged() => {}
            Err(refusal) if refusal.is_absent() => return Ok(Stopped::default()),
            Err(refusal) => return Err(refusal.into()),
        }
        let answer = docker.inspect_container(&found.id, None::<InspectContainerOptions>).await;
        match answer.map_err(Refusal::from) {
            Ok(answer) => match look::found(answer, &self.network.name, self.probe).object.state {
                ObjectState::Exited { code, .. } => Ok(Stopped { killed: code == Some(KILLED), exit_code: code }),
                other => Err(BackendError::Refused(format!("the object is {} after a stop", other.word()))),
            },
            Err(refusal) if refusal.is_absent() => Ok(Stopped::default()),
            Err(refusal) => Err(refusal.into()),
        }
    }

    async fn unpause(&self, docker: &Docker, found: &Found) -> Result<()> {
        match docker.unpause_container(&found.id).await.map_err(Refusal::from) {
            Ok(()) => Ok(()),
            Err(refusal) if refusal.is_absent() => Ok(()),
            Err(refusal) => self.unless(docker, found, refusal, |state| *state != ObjectState::Paused).await,
        }
    }

    async fn pause(&self, docker: &Docker, found: &Found) -> Result<()> {
        match docker.pause_container(&found.id).await.map_err(Refusal::from) {
            Ok(()) => Ok(()),
            Err(refusal) if refusal.is_absent() => Ok(()),
            Err(refusal) => {
                let runs = |state: &ObjectState| matches!(state, ObjectState::Running { .. });
                self.unless(docker, found, refusal, |state| !runs(state)).await
            }
        }
    }

    /// The daemon refused; it does not matter when the container is as wanted all the same.
    async fn unless(
        &self,
        docker: &Docker,
        found: &Found,
        refusal: Refusal,
        wanted: impl Fn(&ObjectState) -> bool + Send,
    ) -> Result<()> {
        if refusal.words().is_none() {
            return Err(refusal.into());
        }
        let answer = docker.inspect_container(&found.id, None::<InspectContainerOptions>).await;
        let answer = answer.map_err(Refusal::from)?;
        let now = look::found(answer, &self.network.name, self.probe).object.state;
        if wanted(&now) { Ok(()) } else { Err(refusal.into()) }
    }

    async fn list_all(&self) -> Result<Vec<(EngineId, Observation)>> {
        let docker = self.daemon.calls().await?;
        let labels = vec![format!("{LABEL_INSTANCE}={}", self.instance), format!("{LABEL_ROLE}={ROLE_ENGINE}")];
        let options = ListContainersOptions {
            all: true,
            filters: Some(HashMap::from([("label".to_owned(), labels)])),
            ..Default::default()
        };
        let listed = docker.list_containers(Some(options)).await.map_err(Refusal::from)?;
        let before = self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let now = Timestamp::now();
        let looks = listed.into_iter().filter_map(|summary| Some((look::engine_of(&summary)?, summary)));
        let objects: Vec<Option<(EngineId, Object)>> = stream::iter(looks)
            .map(|(id, summary)| {
                let known = before.get(&id).filter(|seen| look::still_as_seen(seen, &summary, now)).cloned();
                async move {
                    match known {
                        Some(object) => Ok(Some((id, object))),
                        None => self.inspect_listed(docker, id, &summary).await,
                    }
                }
            })
            .buffer_unordered(INSPECTIONS_AT_ONCE)
            .try_collect()
            .await?;
        let seen: HashMap<EngineId, Object> = objects.into_iter().flatten().collect();
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&seen);
        Ok(seen.into_iter().map(|(id, object)| (id, Observation::Present(object))).collect())
    }

    /// `None` when it went away since it was listed.
    async fn inspect_listed(
        &self,
        docker: &Docker,
        id: EngineId,
        summary: &ContainerSummary,
    ) -> Result<Option<(EngineId, Object)>> {
        let container = summary.id.as_deref().unwrap_or_default();
        Ok(self.find_named(docker, container, id, ROLE_ENGINE).await?.map(|found| (id, found.object)))
    }
}

/// What stands under a name.
enum Seen {
    Nothing,
    Ours(Box<Found>),
    Foreign,
}

/// What becomes of a container whose port somebody else has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum WhenPortTaken {
    Remove,
    Keep,
}

#[async_trait]
impl EngineBackend for DockerBackend {
    fn kind(&self) -> BackendKind {
        BackendKind::Docker
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            freeze: true,
            start_in_place: true,
            self_restarts: true,
            host_ports: true,
            resource_limits: true,
        }
    }

    async fn create(&self, spec: &EngineSpec) -> Result<EngineEndpoint> {
        self.timed("create", self.deadlines.change(), self.make(spec)).await
    }

    async fn start(&self, id: EngineId) -> Result<EngineEndpoint> {
        self.timed("start", self.deadlines.start(), async {
            let docker = self.daemon.calls().await?;
            match self.find(docker, id).await? {
                Some(found) => self.bring_up(docker, id, &found, WhenPortTaken::Keep).await,
                None => Err(BackendError::Refused("there is no object to start".into())),
            }
        })
        .await
    }

    async fn stop(&self, id: EngineId, grace: Duration) -> Result<Stopped> {
        self.timed("stop", self.deadlines.stop(grace), async {
            let docker = self.daemon.calls().await?;
            match self.find(docker, id).await? {
                Some(found) => self.halt(docker, &found, grace).await,
                None => Ok(Stopped::default()),
            }
        })
        .await
    }

    async fn destroy(&self, id: EngineId) -> Result<()> {
        self.timed("destroy", self.deadlines.change(), async {
            let docker = self.daemon.calls().await?;
            let name = engine_name(id);
            match self.look(docker, &name, id, ROLE_ENGINE).await? {
                Seen::Ours(found) => self.take_away(docker, &found).await?,
                Seen::Nothing => {}
                // Its storage may be as foreign as itself, and a directory has no label that says so.
                Seen::Foreign => return Err(BackendError::Conflict(name)),
            }
            self.clear_job(docker, id).await?;
            self.storage(id).remove(docker).await
        })
        .await
    }

    async fn remove(&self, id: EngineId) -> Result<()> {
        self.timed("remove", self.deadlines.change(), async {
            let docker = self.daemon.calls().await?;
            match self.find(docker, id).await? {
                Some(found) => self.take_away(docker, &found).await,
                None => Ok(()),
            }
        })
        .await
    }

    async fn freeze(&self, id: EngineId) -> Result<()> {
        self.timed("freeze", self.deadlines.look(), async {
            let docker = self.daemon.calls().await?;
            match self.find(docker, id).await? {
                Some(found) if matches!(found.object.state, ObjectState::Running { .. }) => {
                    self.pause(docker, &found).await
                }
                Some(_) | None => Ok(()),
            }
        })
        .await
    }

    async fn thaw(&self, id: EngineId) -> Result<()> {
        self.timed("thaw", self.deadlines.look(), async {
            let docker = self.daemon.calls().await?;
            match self.find(docker, id).await? {
                Some(found) if found.object.state == ObjectState::Paused => self.unpause(docker, &found).await,
                Some(_) | None => Ok(()),
            }
        })
        .await
    }

    async fn ensure_image(&self, image: &ImageRef) -> Result<()> {
        self.timed("ensure_image", self.pull_timeout, async {
            let docker = self.daemon.calls().await?;
            image::ensure(docker, image, self.pull, self.registry_config.as_deref()).await?;
            self.remember_image(image);
            Ok(())
        })
        .await
    }

    async fn ensure_storage(&self, id: EngineId, may_create: bool) -> Result<()> {
        self.timed("ensure_storage", self.deadlines.change(), async {
            let docker = self.daemon.calls().await?;
            self.storage(id).ensure(docker, may_create).await
        })
        .await
    }

    async fn storage_exists(&self, id: EngineId) -> Result<bool> {
        self.timed("storage_exists", self.deadlines.look(), async {
            let docker = self.daemon.calls().await?;
            self.storage(id).exists(docker).await
        })
        .await
    }

    async fn observe(&self, id: EngineId) -> Result<Observation> {
        self.timed("observe", self.deadlines.look(), async {
            let docker = self.daemon.calls().await?;
            let found = self.find(docker, id).await?;
            Ok(found.map_or(Observation::Absent, |found| Observation::Present(found.object)))
        })
        .await
    }

    async fn list(&self) -> Result<Vec<(EngineId, Observation)>> {
        self.timed("list", self.deadlines.list(), self.list_all()).await
    }

    fn events(&self) -> BoxStream<'static, BackendEvent> {
        events::watch(self.daemon.clone(), self.instance, self.deadlines.look())
    }

    async fn run_job(&self, job: &JobSpec) -> Result<JobOutcome> {
        self.timed("run_job", self.deadlines.job(), self.run(job)).await
    }

    async fn read_file(&self, id: EngineId, path: &str) -> Result<ByteStream> {
        self.timed("read_file", self.deadlines.start(), self.download(id, path)).await
    }

    async fn write_file(&self, id: EngineId, path: &str, data: ByteStream) -> Result<()> {
        self.timed("write_file", self.deadlines.job(), self.upload(id, path, data)).await
    }

    async fn remove_file(&self, id: EngineId, path: &str) -> Result<()> {
        self.timed("remove_file", self.deadlines.change(), self.delete(id, path)).await
    }

    async fn tail(&self, id: EngineId, lines: u16) -> Result<String> {
        self.timed("tail", self.deadlines.look(), async {
            let docker = self.daemon.calls().await?;
            match self.find(docker, id).await? {
                Some(found) => job::last_output(docker, &found.id, Some(lines)).await,
                None => Ok(String::new()),
            }
        })
        .await
    }

    async fn ping(&self) -> Result<BackendIdentity> {
        self.timed("ping", self.deadlines.look(), async {
            let docker = self.daemon.calls().await?;
            let info = docker.info().await.map_err(Refusal::from)?;
            let id = info.id.filter(|id| !id.is_empty());
            let id = id.ok_or_else(|| BackendError::Refused("the daemon does not say who it is".into()))?;
            let cpus = info.ncpu.and_then(|count| u32::try_from(count).ok()).filter(|count| *count > 0);
            self.cpus.store(cpus.unwrap_or(0), Ordering::Relaxed);
            Ok(BackendIdentity { id, version: info.server_version.unwrap_or_default(), cpus })
        })
        .await
    }
}
