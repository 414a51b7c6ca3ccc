//! Engines as processes of this host: for development, `bap-engine up` and tests.
//!
//! They outlive the orchestrator and are adopted by the next one, by pid, start ticks and boot id. There is no
//! confinement but the engine's own, and limits only where the host has delegated a control group. The one invariant:
//! a process is signalled only when it is certainly the one that was started for this engine.

mod directory;
mod environment;
mod files;
mod job;
mod limits;
mod place;
mod process;
mod record;
mod spawn;
mod watch;

use crate::backup_path::below_backups;
use crate::deadline::{Deadlines, within};
use crate::{
    BackendError, BackendEvent, BackendIdentity, ByteStream, Capabilities, EngineBackend, EngineEndpoint,
    ImageRef, JobOutcome, JobSpec, Result, Stopped,
};
use async_trait::async_trait;
use contract::{EngineId, InstanceId};
use directory::{Root, failed};
use fleet::lifecycle::BackendKind;
use fleet::observation::Observation;
use fleet::spec::EngineSpec;
use futures::stream::BoxStream;
use limits::Delegated;
use place::Place;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use watch::Watchers;

/// What a [`SubprocessBackend`] must know.
#[derive(Debug, Clone)]
pub struct SubprocessSettings {
    /// Whose objects these are.
    pub instance: InstanceId,
    /// Program to run, absolute or to be found on `PATH`; `{tag}` is replaced by the tag of the image.
    pub binary: String,
    /// Values of `PATH`, `HOME`, `TMPDIR`, `LANG` and `TZ` for engines; other names are ignored.
    pub base_env: BTreeMap<String, String>,
    /// Directory below which every engine has its own; made if it is missing.
    pub data_root: PathBuf,
    /// b of the deadlines.
    pub call_timeout: Duration,
}

/// Engines as processes of this host.
#[derive(Debug, Clone)]
pub struct SubprocessBackend {
    place: Arc<Place>,
    deadlines: Deadlines,
}

impl SubprocessBackend {
    /// Opens the data root. Engines found there are adopted when they are looked at or events are listened to.
    pub fn new(settings: SubprocessSettings) -> std::io::Result<Self> {
        let root = Root::open(&settings.data_root)?;
        let limits = Delegated::find();
        if limits.is_none() {
            tracing::warn!(
                "Resource limits of engines are ignored: no control group is delegated to this process"
            );
        }
        let place = Place::shared(|own| Place {
            instance: settings.instance,
            binary: settings.binary,
            base: settings.base_env,
            root,
            limits,
            watchers: Watchers::new(),
            own,
        });
        Ok(Self { place, deadlines: Deadlines::new(settings.call_timeout) })
    }

    /// Runs on a thread that may block, to its end even if nobody waits for it any more.
    async fn block<T: Send + 'static>(
        &self,
        call: &'static str,
        limit: Duration,
        work: impl FnOnce(&Place) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let place = Arc::clone(&self.place);
        within(call, limit, async move {
            tokio::task::spawn_blocking(move || work(&place))
                .await
                .unwrap_or_else(|e| Err(BackendError::Refused(format!("{call} broke off: {e}"))))
        })
        .await
    }
}

#[async_trait]
impl EngineBackend for SubprocessBackend {
    fn kind(&self) -> BackendKind {
        BackendKind::Subprocess
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            freeze: true,
            start_in_place: false,
            self_restarts: false,
            host_ports: true,
            resource_limits: self.place.limits.is_some(),
        }
    }

    async fn create(&self, spec: &EngineSpec) -> Result<EngineEndpoint> {
        let (spec, limit) = (spec.clone(), self.deadlines.change());
        self.block("create", limit, move |place| place.create(&spec, limit)).await
    }

    async fn start(&self, _id: EngineId) -> Result<EngineEndpoint> {
        Err(BackendError::Unsupported("start"))
    }

    async fn stop(&self, id: EngineId, grace: Duration) -> Result<Stopped> {
        let limit = self.deadlines.stop(grace);
        within("stop", limit, async {
            let stopping = match self.block("stop", limit, move |place| place.ask(id)).await? {
                Ok(stopping) => stopping,
                Err(already) => return Ok(already),
            };
            let killed = match tokio::time::timeout(grace, stopping.end()).await {
                Ok(ended) => {
                    ended?;
                    false
                }
                Err(_) => {
                    stopping.kill()?;
                    stopping.end().await?;
                    true
                }
            };
            self.block("stop", limit, move |place| place.stopped(id, &stopping, killed)).await
        })
        .await
    }

    async fn destroy(&self, id: EngineId) -> Result<()> {
        let limit = self.deadlines.change();
        self.block("destroy", limit, move |place| place.destroy(id, limit)).await
    }

    async fn remove(&self, id: EngineId) -> Result<()> {
        let limit = self.deadlines.change();
        self.block("remove", limit, move |place| place.remove(id, limit)).await
    }

    async fn freeze(&self, id: EngineId) -> Result<()> {
        let limit = self.deadlines.look();
        self.block("freeze", limit, move |place| place.freeze(id, limit)).await
    }

    async fn thaw(&self, id: EngineId) -> Result<()> {
        self.block("thaw", self.deadlines.look(), move |place| place.thaw(id)).await
    }

    async fn ensure_image(&self, image: &ImageRef) -> Result<()> {
        let image = image.to_owned();
        self.block("ensure_image", self.deadlines.start(), move |place| place.program(&image).map(|_| ()))
            .await
    }

    async fn ensure_storage(&self, id: EngineId, may_create: bool) -> Result<()> {
        self.block("ensure_storage", self.deadlines.change(), move |place| match place.root.existing(id)? {
            Some(_) => Ok(()),
            None if may_create => place.root.make(id),
            None => Err(BackendError::StorageMissing(id)),
        })
        .await
    }

    async fn storage_exists(&self, id: EngineId) -> Result<bool> {
        self.block("storage_exists", self.deadlines.look(), move |place| {
            Ok(place.root.existing(id)?.is_some())
        })
        .await
    }

    async fn observe(&self, id: EngineId) -> Result<Observation> {
        self.block("observe", self.deadlines.look(), move |place| place.observe(id)).await
    }

    async fn list(&self) -> Result<Vec<(EngineId, Observation)>> {
        self.block("list", self.deadlines.list(), Place::list).await
    }

    fn events(&self) -> BoxStream<'static, BackendEvent> {
        let events = self.place.watchers.subscribe();
        // looking at everything begins to watch what somebody else started
        let place = Arc::clone(&self.place);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn_blocking(move || {
                // a place that does not answer is found out by the relist that follows a gap
                let _ = place.list();
            });
        }
        events
    }

    async fn run_job(&self, job: &JobSpec) -> Result<JobOutcome> {
        let (backend, job, limit) = (self.clone(), job.clone(), self.deadlines.job());
        // goes on without its caller, to its own deadline: half a restore helps nobody
        let work = tokio::spawn(async move {
            let begun = backend
                .block("run_job", limit, move |place| {
                    let id = job.engine.engine_id;
                    let program = place.program(&job.engine.image)?;
                    let (dir, lock) = place.storage_for_job(id, limit)?;
                    let args: Result<Vec<String>> =
                        job.args.iter().map(|arg| environment::argument(arg, &dir)).collect();
                    let env = place.environment(&job.engine, &dir);
                    Ok((job::begin(&program, &args?, &env, &dir, &lock)?, lock))
                })
                .await?;
            let (running, _lock) = begun;
            running.finish(limit).await
        });
        work.await.unwrap_or_else(|e| Err(BackendError::Refused(format!("run_job broke off: {e}"))))
    }

    async fn read_file(&self, id: EngineId, path: &str) -> Result<ByteStream> {
        let name = below_backups(path)?.to_owned();
        let file = self
            .block("read_file", self.deadlines.start(), move |place| {
                let dir = place.root.existing(id)?.ok_or(BackendError::StorageMissing(id))?;
                files::read(&dir, &name)
            })
            .await?;
        Ok(files::stream(file))
    }

    async fn write_file(&self, id: EngineId, path: &str, data: ByteStream) -> Result<()> {
        let name = below_backups(path)?.to_owned();
        within("write_file", self.deadlines.job(), async {
            let incoming = self
                .block("write_file", self.deadlines.start(), move |place| {
                    let dir = place.root.existing(id)?.ok_or(BackendError::StorageMissing(id))?;
                    files::begin(&dir, &name)
                })
                .await?;
            incoming.fill(data).await
        })
        .await
    }

    async fn remove_file(&self, id: EngineId, path: &str) -> Result<()> {
        let name = below_backups(path)?.to_owned();
        self.block("remove_file", self.deadlines.start(), move |place| match place.root.existing(id)? {
            None => Ok(()),
            Some(dir) => files::remove(&dir, &name),
        })
        .await
    }

    async fn tail(&self, id: EngineId, lines: u16) -> Result<String> {
        self.block("tail", self.deadlines.look(), move |place| match place.root.existing(id)? {
            None => Ok(String::new()),
            Some(dir) => {
                directory::tail(&dir, usize::from(lines)).map_err(|e| failed("read the engine's log", &e))
            }
        })
        .await
    }

    async fn ping(&self) -> Result<BackendIdentity> {
        self.block("ping", self.deadlines.look(), |place| {
            let mark = place.root.id()?;
            let machine = std::fs::read_to_string("/etc/machine-id").map(|id| id.trim().to_owned());
            let host = machine
                .ok()
                .filter(|id| !id.is_empty())
                .unwrap_or_else(|| rustix::system::uname().nodename().to_string_lossy().into_owned());
            let cpus = std::thread::available_parallelism().ok().and_then(|n| u32::try_from(n.get()).ok());
            Ok(BackendIdentity {
                id: format!("{host}:{}:{mark}", place.root.path().display()),
                version: rustix::system::uname().release().to_string_lossy().into_owned(),
                cpus,
            })
        })
        .await
    }
}
