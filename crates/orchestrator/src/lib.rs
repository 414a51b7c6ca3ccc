//! The orchestrator: creates, finds, watches and removes Engines, one per user of a product.
//!
//! Products talk HTTP to it and never touch containers. Rules are in `fleet`, places in `backends`; here facts are
//! loaded (`registry`), decisions asked for, operations performed (`work`) and everything written down. It is never
//! in the data path: `admit` hands out an engine's URL and key.
//!
//! The one invariant: every change of an engine's status and its audit row are one transaction, made under a guard
//! (claim, revision or generation) that a late or second writer fails.

pub mod audit;
pub mod claims;
pub mod cli;
pub mod config;
pub mod core;
pub mod discovery;
pub mod engine_client;
mod explaining;
mod failing;
pub mod failpoint;
pub mod gate;
pub mod http;
pub mod hub;
mod idle;
pub mod keys;
pub mod locks;
pub mod memory;
pub mod places;
pub mod rates;
pub mod reference;
pub mod registry;
mod removal;
pub mod serve;
mod supervisor;
pub mod telemetry;
pub mod up;
pub mod version;
mod vitals;
pub mod watched;
mod work;
