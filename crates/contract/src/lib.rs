//! The words both programs speak, on the wire and at rest.
//!
//! Everything here is data: identifiers, conversation blocks, stream events, error codes and the
//! requests another program sends to an Engine. The crate refuses to do anything: no I/O, no async,
//! no clock beyond [`Timestamp::now`], no SQL.
//!
//! The one invariant: what is streamed is what is stored. A change to a type in [`conversation`] or
//! [`event`] is a change to the brain's contents and to the public API at once.

pub mod id;
pub mod time;
pub mod conversation;
pub mod event;
pub mod memory;
pub mod sentence;
pub mod code;
pub mod fleet_code;
pub mod engine_api;
pub mod fleet_api;
pub mod env;

pub use code::{ApiError, ErrorCode};
pub use conversation::{Block, Role, Source, StopReason, ToolReason, Usage};
pub use event::{Event, EventName};
pub use fleet_code::{FleetCode, FleetError};
pub use id::{
    BatchId, CallId, ConnectionId, EdgeId, EngineId, EpisodeId, FactId, HitlId, InstanceId, MessageId,
    NodeId, OperationId, PermissionId, ProductId, ReplicaId, RequestId, SignalId, Slug, TaskId, TurnId,
    UserId,
};
pub use time::Timestamp;
