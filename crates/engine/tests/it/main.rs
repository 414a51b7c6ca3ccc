//! The Engine from outside: one binary for all integration tests, because linking is what costs.

mod cli;
mod sandbox;
mod tools;
