//! Where engines run: one trait, and an implementation per place.
//!
//! Every call is idempotent, cancel-safe and ends at a deadline. Nothing here decides: whether an object should
//! exist, be started or removed is the business of `fleet` and of whoever performs its plans.
//!
//! The one invariant: no answer is an error, never an observation. `Unreachable` never becomes `Absent`.

mod backend;
mod backup_path;
mod deadline;
mod probe;
mod docker;
mod simulated;
mod subprocess;

pub use backend::{
    BackendError, BackendEvent, BackendEventKind, BackendIdentity, ByteStream, Capabilities, EngineBackend,
    EngineEndpoint, ImageRef, JobOutcome, JobSpec, Result, Stopped,
};
pub use docker::{DockerBackend, DockerSettings, ProbeAddress, PullPolicy};
pub use probe::{ANSWER_MAX_BYTES, ProbeReply, Prober};
pub use simulated::{
    Call, CallRecord, Death, EngineProfile, EventRules, Fault, FaultKind, HealthAnswer, SimulatedBackend,
    SimulatedWorld,
};
pub use subprocess::{SubprocessBackend, SubprocessSettings};
