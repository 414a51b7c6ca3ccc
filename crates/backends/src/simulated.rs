//! Engines in memory: for tests of everything above the backend, and for trials with thousands of engines.
//!
//! Serves no user: it must be named explicitly in the configuration. It keeps the trait's contract as strictly as the
//! real places do, and can be told to go wrong in every way they do ([`Fault`], [`SimulatedWorld`]). The one
//! invariant: two live writers on one brain, or an older generation opening one, panics.

mod fault;
mod health;
mod hints;
mod keys;
mod life;
mod profile;
mod state;
mod world;

pub use fault::{Call, CallRecord, Fault, FaultKind};
pub use hints::EventRules;
pub use profile::{Death, EngineProfile, HealthAnswer};
pub use world::SimulatedWorld;

use crate::backup_path::below_backups;
use crate::deadline::{Deadlines, within};
use crate::{
    BackendError, BackendEvent, BackendIdentity, ByteStream, Capabilities, EngineBackend, EngineEndpoint,
    ImageRef, JobOutcome, JobSpec, Result, Stopped,
};
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use contract::{EngineId, InstanceId};
use fleet::lifecycle::BackendKind;
use fleet::observation::Observation;
use fleet::spec::EngineSpec;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use state::State;
use std::time::Duration;
use tokio::time::Instant;

/// Largest file the place keeps. Larger would let one upload fill this process; smaller would refuse real brains.
const FILE_MAX_BYTES: usize = 64 * 1024 * 1024;
/// Exit code of a job that found problems.
const PROBLEMS_FOUND: i32 = 3;
/// Exit code of a job whose command nobody knows.
const BAD_CONFIG: i32 = 2;

/// One deployment's view of a [`SimulatedWorld`].
#[derive(Debug, Clone)]
pub struct SimulatedBackend {
    world: SimulatedWorld,
    instance: InstanceId,
    deadlines: Deadlines,
}

impl SimulatedBackend {
    /// A backend on the world, for objects of this instance; `call_timeout` is b of §10.2.
    pub fn new(world: SimulatedWorld, instance: InstanceId, call_timeout: Duration) -> Self {
        Self { world, instance, deadlines: Deadlines::new(call_timeout) }
    }

    /// The world it is on.
    pub fn world(&self) -> &SimulatedWorld {
        &self.world
    }

    async fn perform<T: Send + 'static>(
        &self,
        call: Call,
        engine: Option<EngineId>,
        limit: Duration,
        effect: impl FnOnce(&mut State, Instant) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        within(call.word(), limit, self.world.perform(call, self.instance, engine, effect)).await
    }
}

#[async_trait]
impl EngineBackend for SimulatedBackend {
    fn kind(&self) -> BackendKind {
        BackendKind::Simulated
    }

    fn capabilities(&self) -> Capabilities {
        self.world.capabilities()
    }

    async fn room(&self) -> Result<()> {
        self.perform(Call::Room, None, self.deadlines.look(), |state, _| state.room()).await
    }

    async fn create(&self, spec: &EngineSpec) -> Result<EngineEndpoint> {
        let (id, limit) = (spec.engine_id, self.deadlines.change());
        if spec.instance != self.instance {
            return Err(BackendError::Refused("specification of another instance".into()));
        }
        let spec = spec.clone();
        self.perform(Call::Create, Some(id), limit, move |state, now| state.create(&spec, now)).await
    }

    async fn start(&self, id: EngineId) -> Result<EngineEndpoint> {
        if !self.capabilities().start_in_place {
            return Err(BackendError::Unsupported("start"));
        }
        let instance = self.instance;
        self.perform(Call::Start, Some(id), self.deadlines.start(), move |state, now| {
            state.start(id, instance, now)
        })
        .await
    }

    async fn stop(&self, id: EngineId, grace: Duration) -> Result<Stopped> {
        let instance = self.instance;
        within("stop", self.deadlines.stop(grace), async {
            let end = self
                .world
                .perform(Call::Stop, instance, Some(id), move |state, now| {
                    state.terminate(id, instance, grace, now)
                })
                .await?;
            if let Some(end) = end {
                tokio::time::sleep_until(end).await;
            }
            Ok(self.world.with(|state, now| state.stopped(id, now)))
        })
        .await
    }

    async fn destroy(&self, id: EngineId) -> Result<()> {
        let instance = self.instance;
        self.perform(Call::Destroy, Some(id), self.deadlines.change(), move |state, now| {
            state.destroy(id, instance, now)
        })
        .await
    }

    async fn remove(&self, id: EngineId) -> Result<()> {
        let instance = self.instance;
        self.perform(Call::Remove, Some(id), self.deadlines.change(), move |state, now| {
            state.remove(id, instance, now)
        })
        .await
    }

    async fn freeze(&self, id: EngineId) -> Result<()> {
        if !self.capabilities().freeze {
            return Err(BackendError::Unsupported("freeze"));
        }
        let instance = self.instance;
        self.perform(Call::Freeze, Some(id), self.deadlines.look(), move |state, now| {
            state.freeze(id, instance, now)
        })
        .await
    }

    async fn thaw(&self, id: EngineId) -> Result<()> {
        if !self.capabilities().freeze {
            return Err(BackendError::Unsupported("thaw"));
        }
        let instance = self.instance;
        self.perform(Call::Thaw, Some(id), self.deadlines.look(), move |state, now| {
            state.thaw(id, instance, now)
        })
        .await
    }

    async fn ensure_image(&self, image: &ImageRef) -> Result<()> {
        let image = image.to_owned();
        self.perform(Call::EnsureImage, None, self.deadlines.job(), move |state, _| {
            if state.missing_images.contains(&image) {
                Err(BackendError::ImageMissing(image))
            } else {
                Ok(())
            }
        })
        .await
    }

    async fn ensure_storage(&self, id: EngineId, may_create: bool) -> Result<()> {
        self.perform(Call::EnsureStorage, Some(id), self.deadlines.change(), move |state, _| {
            state.ensure_storage(id, may_create)
        })
        .await
    }

    async fn storage_exists(&self, id: EngineId) -> Result<bool> {
        self.perform(Call::StorageExists, Some(id), self.deadlines.look(), move |state, _| {
            Ok(state.storage(id).is_ok())
        })
        .await
    }

    async fn observe(&self, id: EngineId) -> Result<Observation> {
        let instance = self.instance;
        self.perform(Call::Observe, Some(id), self.deadlines.look(), move |state, now| {
            state.observe(id, instance, now)
        })
        .await
    }

    async fn list(&self) -> Result<Vec<(EngineId, Observation)>> {
        let instance = self.instance;
        self.perform(Call::List, None, self.deadlines.list(), move |state, now| Ok(state.list(instance, now)))
            .await
    }

    fn events(&self) -> BoxStream<'static, BackendEvent> {
        self.world.with(|state, _| state.hints.subscribe(self.instance))
    }

    async fn run_job(&self, job: &JobSpec) -> Result<JobOutcome> {
        let (id, instance, args) = (job.engine.engine_id, self.instance, job.args.clone());
        self.perform(Call::RunJob, Some(id), self.deadlines.job(), move |state, now| {
            state.observe(id, instance, now)?;
            if state.lives(id, now) {
                return Err(BackendError::Refused("the engine runs".into()));
            }
            run_job(state, id, &args)
        })
        .await
    }

    async fn read_file(&self, id: EngineId, path: &str) -> Result<ByteStream> {
        let name = below_backups(path)?.to_owned();
        let bytes = self
            .perform(Call::ReadFile, Some(id), self.deadlines.start(), move |state, _| {
                let file = state.storage(id)?.files.get(&name).cloned();
                file.ok_or_else(|| BackendError::Refused("no such file".into()))
            })
            .await?;
        Ok(stream::once(std::future::ready(Ok(bytes))).boxed())
    }

    async fn write_file(&self, id: EngineId, path: &str, mut data: ByteStream) -> Result<()> {
        let name = below_backups(path)?.to_owned();
        within("write_file", self.deadlines.job(), async {
            let mut bytes = BytesMut::new();
            while let Some(chunk) = data.next().await {
                let chunk =
                    chunk.map_err(|e| BackendError::Refused(format!("the file's source failed: {e}")))?;
                bytes.extend_from_slice(&chunk);
                if bytes.len() > FILE_MAX_BYTES {
                    return Err(BackendError::Capacity(format!("files of {FILE_MAX_BYTES} bytes")));
                }
            }
            self.world
                .perform(Call::WriteFile, self.instance, Some(id), move |state, _| {
                    state.storage(id)?.files.insert(name, bytes.freeze());
                    Ok(())
                })
                .await
        })
        .await
    }

    async fn remove_file(&self, id: EngineId, path: &str) -> Result<()> {
        let name = below_backups(path)?.to_owned();
        self.perform(Call::RemoveFile, Some(id), self.deadlines.start(), move |state, _| {
            state.storage(id)?.files.remove(&name);
            Ok(())
        })
        .await
    }

    async fn tail(&self, id: EngineId, lines: u16) -> Result<String> {
        self.perform(Call::Tail, Some(id), self.deadlines.look(), move |state, _| {
            let Ok(storage) = state.storage(id) else { return Ok(String::new()) };
            let skip = storage.log.len().saturating_sub(usize::from(lines));
            Ok(storage.log.iter().skip(skip).map(|line| format!("{line}\n")).collect())
        })
        .await
    }

    async fn ping(&self) -> Result<BackendIdentity> {
        self.perform(Call::Ping, None, self.deadlines.look(), |state, _| {
            let version = env!("CARGO_PKG_VERSION").to_owned();
            Ok(BackendIdentity { id: state.identity.clone(), version, cpus: None })
        })
        .await
    }
}

/// What the engine program's commands do to a storage nobody writes.
fn run_job(state: &mut State, id: EngineId, args: &[String]) -> Result<JobOutcome> {
    let scripted = state.engines.get(&id).and_then(|e| e.profile.job.clone());
    let storage = state.storage(id)?;
    if let Some(outcome) = scripted {
        return Ok(outcome);
    }
    let end = |exit_code, output: &str| Ok(JobOutcome { exit_code, output: output.to_owned() });
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let known = |storage: &state::Storage, file: &str| {
        let backup = below_backups(file).ok().is_some_and(|name| storage.files.contains_key(name));
        backup || (file == "/data/brain.sqlite" && storage.generation > 0)
    };
    match words.as_slice() {
        ["migrate"] => end(0, "migrated\n"),
        ["verify", file] | ["restore", file] if known(storage, file) => end(0, "ok\n"),
        ["verify" | "restore", _] => end(PROBLEMS_FOUND, "not a brain\n"),
        ["backup", _] if storage.generation == 0 => end(PROBLEMS_FOUND, "not a brain\n"),
        ["backup", file] => {
            let name = below_backups(file)?.to_owned();
            let content = format!("brain of generation {}\n", storage.generation);
            storage.files.insert(name, Bytes::from(content));
            end(0, "copied\n")
        }
        _ => end(BAD_CONFIG, "unknown command\n"),
    }
}
