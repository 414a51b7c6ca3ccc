//! The crate from outside: one binary for all integration tests.

mod accepted;
mod hostile;
mod proof;
