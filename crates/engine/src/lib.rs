//! September Engine: one process, one user, one SQLite file.
//!
//! The map, in reading order: [`config`] every variable; [`core`] what a running Engine is made of;
//! [`catalog`] agents; [`tools`], [`permissions`], [`sandbox`] everything a model may do to the world;
//! [`memory`] what is kept across tasks; [`learning`] what finished turns teach; [`turn`] the agent loop; [`feed`] from the event log to streams; [`http`] the API; [`serve`] start,
//! drain and stop; [`cli`] the commands.
//!
//! The invariant that holds everything together: nothing is shown that is not committed, and nothing acts
//! that is not journaled.

pub mod config;
pub mod core;
pub mod secrets;
pub mod outbound;
pub mod media;
pub mod feed;
pub mod catalog;
pub mod permissions;
pub mod sandbox;
pub mod tools;
pub mod mcp;
pub mod memory;
pub mod learning;
pub mod turn;
pub mod http;
pub mod serve;
pub mod version;
pub mod reference;
pub mod cli;
