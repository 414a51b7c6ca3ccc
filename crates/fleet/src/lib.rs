//! The rules of running a fleet of Engines, as pure functions over facts.
//!
//! What may follow what, what to do about what is seen, when to restart, whom to let in: everything here takes
//! facts and a time and returns data. The crate refuses to act: no async, no clock, no randomness, no I/O.
//! The orchestrator loads facts, asks, performs and records.
//!
//! The one invariant: the same facts at the same time give the same answer, on every replica.

pub mod lifecycle;
pub mod operation;
pub mod audit;
pub mod request;
pub mod transition;
pub mod restart;
pub mod health;
pub mod idle;
pub mod image;
pub mod policy;
pub mod quota;
pub mod rate;
pub mod ports;
pub mod observation;
pub mod spec;
pub mod plan;
pub mod orphans;
pub mod start_queue;
pub mod explain;
