//! The brain: everything one user's Engine must not lose, in one SQLite file.
//!
//! One writer thread owns the only write connection and commits in groups; a small read pool serves
//! everything else, so "database is locked" never reaches a caller. Each noun owns its SQL in a file of
//! its own, as functions over [`Tx`]; the engine composes them inside one [`Brain::write`] when they must
//! become true together. This crate refuses to know HTTP, models or prompts.
//!
//! The invariant: what `write` has returned survives `kill -9`.

// The core: how the file is opened, held, read and written.
mod error;
mod tx;
pub mod filesystem;
pub mod lock;
mod open;
mod queue;
mod connection;
mod health;
mod pool;
mod writer;
mod handle;

// Its keeping: versions, copies, checks, forgetting.
pub mod schema;
pub mod migrate;
pub mod backup;
pub mod restore;
pub mod verify;
pub mod retention;
pub mod shim;

// The nouns: each owns its SQL.
pub mod meta;
pub mod tasks;
pub mod turns;
pub mod messages;
pub mod events;
pub mod snapshots;
pub mod effects;
pub mod prompts;
pub mod permissions;
pub mod working_memory;
pub mod memory;
pub mod skills;
pub mod soul;
pub mod connections;
pub mod compactions;
pub mod blobs;
pub mod keys;
pub mod usage;
pub mod observability;

pub use error::{Direction, Error, OpenError, Result};
pub use handle::Brain;
pub use open::{MigrationMode, OpenOptions, check_place};
pub use shim::sqlite_version;
pub use tx::Tx;
