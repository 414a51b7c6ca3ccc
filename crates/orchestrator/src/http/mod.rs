//! The HTTP API: a route list, what is judged before a handler runs, and handlers that read as sentences.
//!
//! Handlers check fields, call the core or read the registry, and answer; they decide nothing about engines. Host,
//! Origin, booting and draining are judged before any route ([`front`]), keys before any handler ([`auth`]).
//!
//! The invariant: every error leaves as `{"error":{"code","message","details"?}}` with a code of the list.

pub mod app;
pub mod routes;
pub mod front;
pub mod auth;
pub mod fields;
pub mod answer;
pub mod engines;
pub mod fleet_status;
pub mod audit_log;
pub mod products;
pub mod health;
pub mod docs;
pub mod openapi;
pub mod serve;

pub use app::{ApiSettings, App};
pub use front::{internal_router, public_router};
pub use serve::{Listeners, bind};
