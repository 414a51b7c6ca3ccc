//! The trait every place implements, with its errors and deadlines.

use async_trait::async_trait;
use bytes::Bytes;
use contract::EngineId;
use fleet::lifecycle::BackendKind;
use fleet::observation::Observation;
use fleet::spec::EngineSpec;
use futures::stream::BoxStream;
use std::time::Duration;

/// An image reference, `repository[:tag][@digest]`.
pub type ImageRef = str;
/// A file on its way.
pub type ByteStream = BoxStream<'static, std::io::Result<Bytes>>;
/// What a backend call answers.
pub type Result<T> = std::result::Result<T, BackendError>;

/// What a place can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// `freeze` and `thaw` work.
    pub freeze: bool,
    /// `start` works on an existing object, with the same generation.
    pub start_in_place: bool,
    /// The place restarts crashed objects by its own policy.
    pub self_restarts: bool,
    /// Engines take a port of the host.
    pub host_ports: bool,
    /// Memory, processor and process limits are enforced.
    pub resource_limits: bool,
}

/// Where a started engine is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineEndpoint {
    /// IP literal or name, as seen from here.
    pub host: String,
    /// Port on that host.
    pub port: u16,
    /// The backend's own name of the object: container id, or `pid@ticks`.
    pub container_id: Option<String>,
}

/// How a stop went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stopped {
    /// The grace ran out and it was killed.
    pub killed: bool,
    /// Exit code, when known; 128 + signal number when killed by a signal.
    pub exit_code: Option<i32>,
}

/// Who the backend is. A change means that a wrong daemon or cluster answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendIdentity {
    /// Stable over restarts of the backend: Docker daemon id, cluster uid, machine id.
    pub id: String,
    /// Version, for people.
    pub version: String,
    /// Processors of the host, when known: `ORCH_ENGINE_CPUS` is capped at it.
    pub cpus: Option<u32>,
}

/// A hint that something happened to an object. Losing one costs time, never truth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendEvent {
    /// Whose object; `None` = the stream had a gap, list everything.
    pub engine: Option<EngineId>,
    /// What.
    pub kind: BackendEventKind,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BackendEventKind {
    /// Started.
    Start,
    /// Ended.
    Die,
    /// Killed for lack of memory.
    Oom,
    /// Frozen.
    Pause,
    /// Thawed.
    Unpause,
    /// Removed.
    Destroy,
    /// The stream (re)connected; events before this may be lost.
    Gap,
}

/// A one-shot command on the storage of an engine whose object does not run. No network.
#[derive(Debug, Clone)]
pub struct JobSpec {
    /// The engine whose storage is mounted, with image, environment and limits to use.
    pub engine: EngineSpec,
    /// Program arguments, e.g. `["verify", "/data/brain.sqlite"]`; paths as inside a container.
    pub args: Vec<String>,
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobOutcome {
    /// Exit code; 128 + signal number when killed.
    pub exit_code: i32,
    /// The last lines of its output, at most 64 KiB.
    pub output: String,
}

/// Why a call did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BackendError {
    /// The place does not answer at all.
    #[error("backend is unreachable: {0}")]
    Unreachable(String),
    /// Our wait ended; the work may still be done.
    #[error("backend call {call} took longer than {limit_ms} ms")]
    TimedOut {
        /// Which call.
        call: &'static str,
        /// Its deadline in milliseconds.
        limit_ms: u64,
    },
    /// An object of that name exists and is not ours.
    #[error("object {0} exists and belongs to somebody else")]
    Conflict(String),
    /// Somebody else listens on the port.
    #[error("port {0} is taken")]
    PortTaken(u16),
    /// The place is full.
    #[error("backend is full: {0}")]
    Capacity(String),
    /// The image is not there and may not be or could not be pulled.
    #[error("image is missing: {0}")]
    ImageMissing(String),
    /// The storage is gone.
    #[error("storage of engine {0} is missing")]
    StorageMissing(EngineId),
    /// The place cannot do this.
    #[error("{0} is not supported by this backend")]
    Unsupported(&'static str),
    /// The place said no.
    #[error("backend refused: {0}")]
    Refused(String),
}

impl BackendError {
    /// True when the same call may succeed later without anybody's help. Such errors never count against an engine.
    pub fn is_transient(&self) -> bool {
        match self {
            BackendError::Unreachable(_) | BackendError::TimedOut { .. } => true,
            BackendError::Conflict(_)
            | BackendError::PortTaken(_)
            | BackendError::Capacity(_)
            | BackendError::ImageMissing(_)
            | BackendError::StorageMissing(_)
            | BackendError::Unsupported(_)
            | BackendError::Refused(_) => false,
        }
    }

    /// The word metrics count it under.
    pub fn word(&self) -> &'static str {
        match self {
            BackendError::Unreachable(_) => "unreachable",
            BackendError::TimedOut { .. } => "timed_out",
            BackendError::Conflict(_) => "conflict",
            BackendError::PortTaken(_) => "port_taken",
            BackendError::Capacity(_) => "capacity",
            BackendError::ImageMissing(_) => "image_missing",
            BackendError::StorageMissing(_) => "storage_missing",
            BackendError::Unsupported(_) => "unsupported",
            BackendError::Refused(_) => "refused",
        }
    }
}

/// A place where engines run.
///
/// Deadlines with b = `ORCH_BACKEND_CALL_TIMEOUT_S`, enforced by the implementation: observe, room, freeze, thaw,
/// ping b/6; list b/2; start b; create, remove, destroy 2b; stop timeout + 10 s; `run_job` 10b; `ensure_image` its own.
/// A deadline ends the wait, not necessarily the work: whoever calls next observes first.
#[async_trait]
pub trait EngineBackend: Send + Sync + 'static {
    /// Which place this is.
    fn kind(&self) -> BackendKind;
    /// What it can do.
    fn capabilities(&self) -> Capabilities;

    /// Is there room for one more object? [`BackendError::Capacity`] when there is none. Makes and changes nothing; the
    /// answer may be a moment old. A place without a limit of its own always has room.
    async fn room(&self) -> Result<()> {
        Ok(())
    }
    /// Makes and starts the one object of this engine. An object of ours with the same generation is kept (and
    /// started), one of a lower generation is removed first, any other is [`BackendError::Conflict`].
    async fn create(&self, spec: &EngineSpec) -> Result<EngineEndpoint>;
    /// Starts the existing object in place; running already is success.
    async fn start(&self, id: EngineId) -> Result<EngineEndpoint>;
    /// SIGTERM, wait at most `grace`, SIGKILL; a frozen object is thawed first; absent or stopped is success.
    async fn stop(&self, id: EngineId, grace: Duration) -> Result<Stopped>;
    /// Removes object and storage; absent is success.
    async fn destroy(&self, id: EngineId) -> Result<()>;
    /// True when the object runs right now.
    async fn is_running(&self, id: EngineId) -> Result<bool> {
        Ok(self.observe(id).await?.is_running())
    }
    /// Removes the object, keeps the storage; absent is success.
    async fn remove(&self, id: EngineId) -> Result<()>;
    /// Freezes all processes of the object; frozen or not running is success.
    async fn freeze(&self, id: EngineId) -> Result<()>;
    /// Thaws it; not frozen is success.
    async fn thaw(&self, id: EngineId) -> Result<()>;
    /// Makes the image present, by its own deadline.
    async fn ensure_image(&self, image: &ImageRef) -> Result<()>;
    /// Makes the storage present; [`BackendError::StorageMissing`] when it is absent and may not be created.
    async fn ensure_storage(&self, id: EngineId, may_create: bool) -> Result<()>;
    /// Is there storage of this engine?
    async fn storage_exists(&self, id: EngineId) -> Result<bool>;
    /// Looks at one object, straight from the source, never from a cache.
    async fn observe(&self, id: EngineId) -> Result<Observation>;
    /// All objects with our instance label and role `engine`, in every state.
    async fn list(&self) -> Result<Vec<(EngineId, Observation)>>;
    /// Hints, for as long as the stream is held; reconnects by itself and then sends a `Gap`.
    fn events(&self) -> BoxStream<'static, BackendEvent>;
    /// Runs a one-shot command on the storage of an engine that does not run.
    async fn run_job(&self, job: &JobSpec) -> Result<JobOutcome>;
    /// Reads a file below `/data/backups`.
    async fn read_file(&self, id: EngineId, path: &str) -> Result<ByteStream>;
    /// Writes a file below `/data/backups`.
    async fn write_file(&self, id: EngineId, path: &str, data: ByteStream) -> Result<()>;
    /// Removes a file below `/data/backups`; absent is success.
    async fn remove_file(&self, id: EngineId, path: &str) -> Result<()>;
    /// The last lines of the engine's log, for `failure_message` and people; at most 64 KiB.
    async fn tail(&self, id: EngineId, lines: u16) -> Result<String>;
    /// Who answers?
    async fn ping(&self) -> Result<BackendIdentity>;
}
