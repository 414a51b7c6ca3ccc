//! The HTTP API: a route list, handlers that read as sentences, and event streams.
//!
//! Handlers check fields, call the turn or the brain, and answer; they decide nothing about turns. Keys,
//! Host and Origin are judged before any handler runs (`chassis::http`).

pub mod app;
pub mod routes;
pub mod fields;
pub mod sanitise;
pub mod stream;
pub mod execute;
pub mod tasks;
pub mod hitl;
pub mod catalog;
pub mod skills;
pub mod feedback;
pub mod learning;
pub mod rpc;
pub mod assets;
pub mod memory;
pub mod bundle;
pub mod soul;
pub mod admin;
pub mod health;
pub mod docs;
pub mod openapi;
