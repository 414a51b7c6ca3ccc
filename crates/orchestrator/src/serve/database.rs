//! What must hold in the database before anything is served: it answers, it is new enough, its schema is this program's,
//! and the stored keys open.
//!
//! A database that goes away in the middle (a fail-over, a restart) is waited for, however far the boot has come; what
//! waiting cannot cure ends the process at once.

use super::{FAILURE, OK, REFUSED, Stop};
use crate::config::{Config, MigrationMode};
use crate::keys::EngineKeys;
use crate::registry::{MigrateError, Registry, RegistryError};
use crate::{telemetry, version};
use chassis::drain::Drain;
use contract::{EngineId, Timestamp};
use std::fmt::Display;
use std::time::{Duration, Instant};

/// First wait before the database is tried again; doubles up to [`AGAIN_MAX`]. Longer makes a short absence a long
/// start; shorter hammers a server that is coming up.
const AGAIN: Duration = Duration::from_millis(100);
/// Longest wait between two tries. Longer leaves the fleet unwatched after the database came back.
const AGAIN_MAX: Duration = Duration::from_secs(2);
/// Between two lines that say that the database does not answer. Shorter fills the log; longer hides what is waited for.
const TOLD_AGAIN: Duration = Duration::from_secs(10);
/// How often a gated schema is looked at. Longer delays the start after `bap-engine migrate`; shorter is load on a
/// database that is being migrated.
const GATE_LOOK: Duration = Duration::from_secs(1);
/// Engine ids named when the stored keys cannot be read (§13.3).
const KEYS_NAMED: usize = 10;
/// Oldest major version of PostgreSQL that works at all.
const OLDEST: u32 = 15;

/// An error of the database, by what waiting does about it.
pub(super) trait Passing: Display {
    /// True when the same question may be answered later.
    fn passes(&self) -> bool;

    /// Exit code when it does not.
    fn exit_code(&self) -> i32;
}

impl Passing for RegistryError {
    fn passes(&self) -> bool {
        self.is_unavailable()
    }

    fn exit_code(&self) -> i32 {
        FAILURE
    }
}

impl Passing for MigrateError {
    fn passes(&self) -> bool {
        matches!(self, MigrateError::Registry(error) if error.is_unavailable())
    }

    fn exit_code(&self) -> i32 {
        match self {
            MigrateError::Registry(_) => FAILURE,
            MigrateError::ChangedFile(_) | MigrateError::TooNew { .. } | MigrateError::Failed { .. } => {
                REFUSED
            }
        }
    }
}

/// The database of a replica that starts.
pub(super) struct Database<'b> {
    pub(super) registry: &'b Registry,
    pub(super) config: &'b Config,
    pub(super) drain: &'b Drain,
}

impl Database<'_> {
    /// Asks until there is an answer, or an error that does not pass, or the process shall stop.
    pub(super) async fn answer<T, E: Passing>(
        &self,
        what: &str,
        ask: impl AsyncFn() -> Result<T, E>,
    ) -> Result<T, Stop> {
        let mut wait = AGAIN;
        let mut told: Option<Instant> = None;
        loop {
            match ask().await {
                Ok(answer) => return Ok(answer),
                Err(error) if error.passes() => {
                    if told.is_none_or(|at| at.elapsed() > TOLD_AGAIN) {
                        tracing::warn!(%error, what, "the database does not answer; asking again");
                        told = Some(Instant::now());
                    }
                }
                Err(error) => return Err(Stop::new(error.exit_code(), error.to_string())),
            }
            self.pause(wait).await?;
            wait = (wait * 2).min(AGAIN_MAX);
        }
    }

    async fn pause(&self, wait: Duration) -> Result<(), Stop> {
        tokio::select! {
            () = tokio::time::sleep(wait) => Ok(()),
            () = self.drain.draining() => Err(Stop::new(OK, "asked to stop before the database was ready")),
        }
    }

    /// Waits until the database answers at all: its clock.
    pub(super) async fn first_word(&self) -> Result<Timestamp, Stop> {
        self.answer("its clock", async || self.registry.pulse().await).await
    }

    /// Refuses a server that is too old; brings the schema to this program's, or waits until somebody did.
    pub(super) async fn migrated(&self, by: &str) -> Result<(), Stop> {
        let server = self.answer("its version", async || self.registry.server_version().await).await?;
        if server < OLDEST {
            return Err(Stop::new(
                REFUSED,
                format!("PostgreSQL {server} is too old; 16 or newer is supported"),
            ));
        }
        if server == OLDEST {
            tracing::warn!("PostgreSQL {OLDEST} works, but 16 or newer is what is supported");
        }
        let level = if self.config.migrations == MigrationMode::Auto && !self.config.read_only {
            let report = self.answer("migrations", async || self.registry.migrate(by).await).await?;
            if !report.applied.is_empty() {
                tracing::info!(applied = ?report.applied, level = report.level, "migrated the database");
            }
            report.level
        } else {
            self.gate().await?
        };
        telemetry::build(version::VERSION, u32::try_from(level).unwrap_or(0));
        Ok(())
    }

    /// Waits until somebody has migrated; the level.
    async fn gate(&self) -> Result<i32, Stop> {
        let mut told = false;
        loop {
            let status = self.answer("its schema", async || self.registry.schema_status().await).await?;
            if status.is_current() {
                return Ok(status.database);
            }
            if !told {
                tracing::warn!(
                    database = status.database,
                    program = status.program,
                    "waiting for `bap-engine migrate` (ORCH_MIGRATIONS=gate)"
                );
                told = true;
            }
            self.pause(GATE_LOOK).await?;
        }
    }

    /// Every stored key must open; a wrong master key stops the start, a damaged row does not (§13.3). How many do not.
    pub(super) async fn keys_open(&self, keys: &EngineKeys) -> Result<u64, Stop> {
        let (total, unreadable) = self
            .answer("the stored keys", async || {
                let mut total: u64 = 0;
                let mut unreadable: Vec<EngineId> = Vec::new();
                self.registry
                    .keys(|id, key, next| {
                        total += 1;
                        let opens = keys.open(&key.sealed).is_ok()
                            && next.is_none_or(|n| keys.open(&n.sealed).is_ok());
                        if !opens {
                            unreadable.push(id);
                        }
                    })
                    .await?;
                Ok::<_, RegistryError>((total, unreadable))
            })
            .await?;
        let count = unreadable.len() as u64;
        if count * 2 > total {
            let named: Vec<String> = unreadable.iter().take(KEYS_NAMED).map(ToString::to_string).collect();
            return Err(Stop::new(
                REFUSED,
                format!(
                    "{count} of {total} engine keys cannot be decrypted with ORCH_MASTER_KEY (fingerprints {}): engines {}. \
                     Put the key they were encrypted with back, behind the new one, and run `bap-engine rotate-master-key`",
                    self.config.master_key.fingerprints().join(", "),
                    named.join(", "),
                ),
            ));
        }
        for id in &unreadable {
            tracing::error!(engine_id = %id, "the stored key of this engine cannot be decrypted; run `bap-engine engines reissue-key`");
        }
        Ok(count)
    }

    /// Keeps the ports of our own listeners from engines.
    pub(super) async fn ports_set_aside(&self) -> Result<(), Stop> {
        for port in self.config.ports_kept_from_engines() {
            let aside = async || self.registry.set_port_aside(port, "a listener of the orchestrator").await;
            self.answer("the ports of our listeners", aside).await?;
        }
        Ok(())
    }
}
