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
mod life;
mod list;
mod look;
mod network;
mod object;
mod refusal;
mod storage;
mod tar;
mod wire;

use crate::deadline::{Deadlines, within};
use crate::{
    BackendError, BackendEvent, BackendIdentity, ByteStream, Capabilities, EngineBackend, EngineEndpoint,
    ImageRef, JobOutcome, JobSpec, Result, Stopped,
};
use async_trait::async_trait;
use bollard::Docker;
use bollard::query_parameters::InspectContainerOptions;
use contract::{EngineId, InstanceId};
use fleet::lifecycle::BackendKind;
use fleet::observation::{Object, ObjectState, Observation};
use fleet::spec::{EngineSpec, ROLE_ENGINE};
use futures::stream::BoxStream;
use life::{Seen, WhenPortTaken};
use network::EngineNetwork;
use object::{StorageRoot, engine_name};
use refusal::Refusal;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use storage::Storage;
use wire::{Address, Daemon};

/// How long an answer about room is good. Longer lets more callers in than fit, and refuses them after room was made;
/// shorter asks the daemon once per caller of a burst.
const ROOM_KNOWN: Duration = Duration::from_secs(1);

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
    /// What the daemon last said about room, and when.
    room: tokio::sync::Mutex<Option<(Instant, Result<()>)>>,
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
            room: tokio::sync::Mutex::default(),
        })
    }

    /// Does this process itself run in a container on the engines' network? Decides `ORCH_ENGINE_URL_MODE=auto`.
    pub async fn runs_on_network(&self) -> Result<bool> {
        let Some(container) = &self.self_container else { return Ok(false) };
        self.timed("runs_on_network", self.deadlines.look(), async {
            let docker = self.daemon.calls().await?;
            match docker
                .inspect_container(container, None::<InspectContainerOptions>)
                .await
                .map_err(Refusal::from)
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
        let count =
            docker.info().await.map_err(Refusal::from)?.ncpu.and_then(|count| u32::try_from(count).ok());
        self.cpus.store(count.unwrap_or(0), Ordering::Relaxed);
        Ok(count.unwrap_or(0))
    }
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

    async fn room(&self) -> Result<()> {
        self.timed("room", self.deadlines.look(), async {
            let mut known = self.room.lock().await;
            if let Some((at, answer)) = &*known
                && at.elapsed() < ROOM_KNOWN
            {
                return answer.clone();
            }
            let answer = self.network.room(self.daemon.calls().await?).await;
            // Silence is no answer: whoever comes next asks again.
            if matches!(answer, Ok(()) | Err(BackendError::Capacity(_))) {
                *known = Some((Instant::now(), answer.clone()));
            }
            answer
        })
        .await
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
                Some(found) if found.object.state == ObjectState::Paused => {
                    self.unpause(docker, &found).await
                }
                Some(_) | None => Ok(()),
            }
        })
        .await
    }

    async fn ensure_image(&self, image: &ImageRef) -> Result<()> {
        let present = match self.pull {
            PullPolicy::Always => false,
            PullPolicy::Missing | PullPolicy::Never => {
                // Looking is quick; only a pull may take its own long time.
                let look = self.timed("ensure_image", self.deadlines.look(), async {
                    image::inspect(self.daemon.calls().await?, image).await
                });
                match look.await {
                    Ok(_) => true,
                    Err(BackendError::ImageMissing(_)) if self.pull == PullPolicy::Missing => false,
                    Err(error) => return Err(error),
                }
            }
        };
        if !present {
            self.timed("ensure_image", self.pull_timeout, async {
                image::pull(self.daemon.calls().await?, image, self.registry_config.as_deref()).await
            })
            .await?;
        }
        self.remember_image(image);
        Ok(())
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
