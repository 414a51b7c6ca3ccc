//! The orchestrator as a library and as a program, in one binary.

mod config;
mod registry;
mod registry_reserve;
