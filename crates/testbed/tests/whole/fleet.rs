//! Both programs as real processes: `bap-engine` on a real PostgreSQL, engines as `september-engine` processes of this
//! host with the offline model.
//!
//! Whatever a test does, its end looks through every log and every argument list for keys that were issued.

mod commands;
mod deployment;
mod engine;
mod keys;
mod kills;
mod process;
mod replicas;
mod sleeping;
mod steps;
mod story;
mod up;
mod wrong;
