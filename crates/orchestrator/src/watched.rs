//! The backend as the rest of the program sees it: measured, and trusted only while it is the one it was.
//!
//! When the identity of the daemon or cluster differs from the one in the registry, every call but `ping` answers
//! `Unreachable`: a wrong daemon must neither be read as "all engines are gone" nor be given new ones.

use crate::telemetry;
use async_trait::async_trait;
use backends::{
    BackendError, BackendEvent, BackendIdentity, ByteStream, Capabilities, EngineBackend, EngineEndpoint,
    ImageRef, JobOutcome, JobSpec, Result, Stopped,
};
use contract::EngineId;
use fleet::lifecycle::BackendKind;
use fleet::observation::Observation;
use fleet::spec::EngineSpec;
use futures::stream::BoxStream;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A backend with a seal.
pub struct Watched {
    inner: Arc<dyn EngineBackend>,
    trusted: Arc<AtomicBool>,
}

/// Opens and closes the seal.
#[derive(Debug, Clone)]
pub struct Trust(Arc<AtomicBool>);

impl Trust {
    /// The identity is the known one, or it is not.
    pub fn set(&self, trusted: bool) {
        self.0.store(trusted, Ordering::Release);
    }
}

impl Watched {
    /// Wraps a backend; nothing passes until the identity was confirmed.
    pub fn new(inner: Arc<dyn EngineBackend>) -> (Arc<Self>, Trust) {
        let trusted = Arc::new(AtomicBool::new(false));
        (Arc::new(Self { inner, trusted: Arc::clone(&trusted) }), Trust(trusted))
    }

    async fn call<T: Send>(
        &self,
        name: &'static str,
        work: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        if !self.trusted.load(Ordering::Acquire) {
            return Err(BackendError::Unreachable(
                "its identity is not confirmed (see `bap-engine engines adopt-backend`)".to_owned(),
            ));
        }
        self.measured(name, work).await
    }

    async fn measured<T: Send>(
        &self,
        name: &'static str,
        work: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        let began = Instant::now();
        let outcome = work.await;
        let word = outcome.as_ref().map_or_else(|e| e.word(), |_| "ok");
        telemetry::backend_call(self.inner.kind(), name, word, began.elapsed());
        outcome
    }
}

#[async_trait]
impl EngineBackend for Watched {
    fn kind(&self) -> BackendKind {
        self.inner.kind()
    }
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }
    async fn room(&self) -> Result<()> {
        self.call("room", self.inner.room()).await
    }
    async fn create(&self, spec: &EngineSpec) -> Result<EngineEndpoint> {
        self.call("create", self.inner.create(spec)).await
    }
    async fn start(&self, id: EngineId) -> Result<EngineEndpoint> {
        self.call("start", self.inner.start(id)).await
    }
    async fn stop(&self, id: EngineId, grace: Duration) -> Result<Stopped> {
        self.call("stop", self.inner.stop(id, grace)).await
    }
    async fn destroy(&self, id: EngineId) -> Result<()> {
        self.call("destroy", self.inner.destroy(id)).await
    }
    async fn remove(&self, id: EngineId) -> Result<()> {
        self.call("remove", self.inner.remove(id)).await
    }
    async fn freeze(&self, id: EngineId) -> Result<()> {
        self.call("freeze", self.inner.freeze(id)).await
    }
    async fn thaw(&self, id: EngineId) -> Result<()> {
        self.call("thaw", self.inner.thaw(id)).await
    }
    async fn ensure_image(&self, image: &ImageRef) -> Result<()> {
        self.call("ensure_image", self.inner.ensure_image(image)).await
    }
    async fn ensure_storage(&self, id: EngineId, may_create: bool) -> Result<()> {
        self.call("ensure_storage", self.inner.ensure_storage(id, may_create)).await
    }
    async fn storage_exists(&self, id: EngineId) -> Result<bool> {
        self.call("storage_exists", self.inner.storage_exists(id)).await
    }
    async fn observe(&self, id: EngineId) -> Result<Observation> {
        self.call("observe", self.inner.observe(id)).await
    }
    async fn list(&self) -> Result<Vec<(EngineId, Observation)>> {
        self.call("list", self.inner.list()).await
    }
    fn events(&self) -> BoxStream<'static, BackendEvent> {
        self.inner.events()
    }
    async fn run_job(&self, job: &JobSpec) -> Result<JobOutcome> {
        self.call("run_job", self.inner.run_job(job)).await
    }
    async fn read_file(&self, id: EngineId, path: &str) -> Result<ByteStream> {
        self.call("read_file", self.inner.read_file(id, path)).await
    }
    async fn write_file(&self, id: EngineId, path: &str, data: ByteStream) -> Result<()> {
        self.call("write_file", self.inner.write_file(id, path, data)).await
    }
    async fn remove_file(&self, id: EngineId, path: &str) -> Result<()> {
        self.call("remove_file", self.inner.remove_file(id, path)).await
    }
    async fn tail(&self, id: EngineId, lines: u16) -> Result<String> {
        self.call("tail", self.inner.tail(id, lines)).await
    }
    async fn ping(&self) -> Result<BackendIdentity> {
        self.measured("ping", self.inner.ping()).await
    }
}
