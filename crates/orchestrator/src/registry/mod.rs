//! The registry: everything the orchestrator knows, in PostgreSQL.
//!
//! One noun per file, plain statements, guards in the `WHERE`; a write answers *changed*, *unchanged* or *missing*.
//! Only this folder contains SQL. It refuses to decide: what should be written comes as data ([`change`]), and it
//! never waits for a backend or an engine inside a transaction. The invariants: every time is the database's, a
//! change and its audit rows and notifications are one transaction, and locks are taken in the order product row →
//! ports lock → engine row → operation row → audit insert.

mod error;
mod tls;
mod db;
mod cells;
pub mod rows;
pub mod change;
mod patch;
mod ports;
pub mod migrate;
mod instance;
mod products;
mod reserve;
mod engines;
mod fleet_view;
mod keys;
mod operations;
mod claims;
mod lease;
mod vitals;
pub mod audit;
mod partitions;
mod idempotency;
pub mod notify;

pub use audit::{AuditFilter, FleetMetrics};
pub use change::*;
pub use claims::{ENGINE_GONE, Reach};
pub use db::DatabaseSettings;
pub use engines::RepickOutcome;
pub use error::RegistryError;
pub use idempotency::Housekeeping;
pub use migrate::{MigrateError, MigrationReport, SchemaStatus};
pub use notify::Notice;
pub use partitions::{AuditSizes, Partition, PruneReport};
pub use products::{DeletionMark, ProductRef, ProductRemoval};
pub use rows::*;

use cells::Cells;
use contract::Timestamp;
use db::{Database, Query, Shared};
use std::sync::Arc;

/// The registry. Cheap to clone: all clones share one pool.
#[derive(Clone)]
pub struct Registry {
    database: Shared,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Registry")
    }
}

const NOW: Query = Query::new("now", "SELECT clock_timestamp()");

impl Registry {
    /// Reads the settings. Connects when first used, so it works while the database is away.
    pub fn connect(settings: DatabaseSettings) -> Result<Self, RegistryError> {
        Ok(Self { database: Arc::new(Database::new(&settings)?) })
    }

    /// For how long the database has answered nothing that was asked of it, on whatever connection; since the start if
    /// it never has. A running replica asks every second.
    pub fn silence(&self) -> std::time::Duration {
        self.database.silence()
    }

    /// Why this text cannot be the URL of a registry; never quotes it.
    pub fn check_url(url: &str) -> Result<(), String> {
        tls::parse(url).and_then(|target| target.connector()).map(drop)
    }

    /// The database clock.
    pub async fn now(&self) -> Result<Timestamp, RegistryError> {
        let conn = self.database.conn().await?;
        Cells::of(&conn.one(&NOW, &[]).await?).time()
    }

    /// The database clock for the pulse: not held up by requests, however many wait for a connection.
    pub async fn pulse(&self) -> Result<Timestamp, RegistryError> {
        let conn = self.database.kept().await?;
        Cells::of(&conn.one(&NOW, &[]).await?).time()
    }

    /// Answers when the database does.
    pub async fn ping(&self) -> Result<(), RegistryError> {
        self.now().await.map(drop)
    }

    /// From here on nothing is read or written any more: every call answers `Unavailable`. For tests that end a
    /// replica as SIGKILL would.
    pub fn close(&self) {
        self.database.close();
    }

    /// Connections in use, and connections open.
    pub fn pool_gauges(&self) -> (usize, usize) {
        self.database.gauges()
    }

    /// Statements run so far by this registry and its clones.
    pub fn statements(&self) -> u64 {
        self.database.statements()
    }
}
