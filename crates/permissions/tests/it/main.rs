//! The crate from outside: one binary for all integration tests.

mod world;
mod corpus;
mod rules;
mod hostile;
mod outside;
mod mutations;
