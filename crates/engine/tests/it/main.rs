//! The Engine from outside: one binary for all integration tests, because linking is what costs.

mod assets;
mod catalog;
mod cli;
mod execute;
mod hitl;
mod hooks;
mod keys;
mod leaks;
mod lifecycle;
mod limits;
mod regressions;
mod replay;
mod rpc;
mod sandbox;
mod sandbox_layers;
mod skills;
mod support;
mod tasks;
mod tools;
mod turns;
mod web;
mod wire;
