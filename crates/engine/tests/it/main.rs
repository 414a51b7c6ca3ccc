//! The Engine from outside: one binary for all integration tests, because linking is what costs.

mod cli;
mod execute;
mod hitl;
mod keys;
mod lifecycle;
mod limits;
mod regressions;
mod replay;
mod sandbox;
mod support;
mod tasks;
mod tools;
mod turns;
mod wire;
