//! The directory against scripted servers: every revision, every misbehaviour, authorization, pins.

mod house;

mod speaking;
mod failing;
mod pinning;
mod authorizing;
mod false_authorities;
mod programs;
mod hostile_programs;
mod flooding;
mod mutations;
