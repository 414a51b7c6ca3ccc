//! Stand-ins for everything the programs talk to, scripted by tests and strict about what they are sent.
//!
//! The library knows `contract` only, so that every crate's tests can use it. Nothing here is shipped.

pub mod docker;
pub mod mcp;
pub mod model;
pub mod postgres;

pub use model::{Fault, Gate, Protocol, Reply, Script, ScriptedModel, SeenRequest};
