//! How a server of ours starts, is configured, observed, authenticated, sealed and stopped, and how its
//! command line looks.
//!
//! Everything here is generic: header names, metric names and variable declarations arrive as arguments.
//! The crate refuses to know a single word about what the server does; of ours it imports only the error
//! envelope, the request id and the clock type of `contract`.
//!
//! The invariant: nothing in this crate waits, buffers or repeats without a limit that has a name.

pub mod config;
pub mod drain;
pub mod http;
pub mod seal;
pub mod telemetry;
pub mod terminal;
