//! Versions of the registry: the files this program carries, and the runner that applies them.
//!
//! Forward only, each file in one transaction, all under one advisory lock that a connection of their own holds, so
//! that replicas which start together apply each file once. A file that has landed never changes: another checksum
//! refuses to run. A database from the future is accepted as long as its files say that this program may run on it.

use super::Registry;
use super::cells::Cells;
use super::db::Query;
use super::error::{RegistryError, classify};
use super::ports::LOCKS;
use contract::Timestamp;
use sha2::{Digest, Sha256};
use std::time::Duration;
use tokio::time::Instant;
use tokio_postgres::Client;

/// Second number of the advisory lock: migrations.
const MIGRATIONS_LOCK: i32 = 1;
/// Wait for another replica's migrations. Longer keeps a replica from saying what is wrong; shorter gives up on a
/// large table that another one is still changing.
const LOCK_WAIT: Duration = Duration::from_secs(600);
/// Pause between two looks at the lock.
const LOCK_POLL: Duration = Duration::from_millis(100);

/// One step of the schema.
#[derive(Debug, Clone, Copy)]
pub struct Migration {
    /// 1, 2, 3, … without gaps.
    pub version: i32,
    /// The middle of the file name `NNNN_name.sql`.
    pub name: &'static str,
    /// Oldest schema level whose program may still run on this one.
    pub compatible_from: i32,
    /// The text.
    pub sql: &'static str,
}

/// Every migration of this program, oldest first.
pub static MIGRATIONS: &[Migration] = &[
    Migration {
        version: 1,
        name: "orchestrator",
        compatible_from: 1,
        sql: include_str!("../../migrations/0001_orchestrator.sql"),
    },
    Migration {
        version: 2,
        name: "engines_to_destroy",
        compatible_from: 1,
        sql: include_str!("../../migrations/0002_engines_to_destroy.sql"),
    },
];

impl Migration {
    /// SHA-256 of the text, in hex.
    pub fn checksum(&self) -> String {
        Sha256::digest(self.sql.as_bytes()).iter().map(|b| format!("{b:02x}")).collect()
    }

    /// `NNNN_name.sql`.
    pub fn file_name(&self) -> String {
        format!("{:04}_{}.sql", self.version, self.name)
    }
}

/// What a run did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigrationReport {
    /// Versions applied by this run.
    pub applied: Vec<i32>,
    /// Level of the database now.
    pub level: i32,
}

/// Where a database stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaStatus {
    /// Newest version this program carries.
    pub program: i32,
    /// Newest version in the database; 0 without a schema.
    pub database: i32,
    /// Oldest program level that may run on the database.
    pub compatible_from: i32,
    /// Every applied file: version, name, when, by whom.
    pub applied: Vec<(i32, String, Timestamp, String)>,
}

impl SchemaStatus {
    /// True when this program may serve on the database as it is.
    pub fn is_current(&self) -> bool {
        self.database >= self.program && self.compatible_from <= self.program
    }
}

/// Why the schema is not as this program needs it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MigrateError {
    /// A file that has landed was changed.
    #[error("migration {0} was applied with another content; a landed file never changes")]
    ChangedFile(String),
    /// The database is newer than this program and not compatible with it.
    #[error("the database is at schema level {database}, this program at {program}; run a newer release")]
    TooNew {
        /// Level of the database.
        database: i32,
        /// Level of the program.
        program: i32,
    },
    /// A file failed; the database is as before it.
    #[error("migration {file} failed: {reason}")]
    Failed {
        /// Which.
        file: String,
        /// What the server said.
        reason: String,
    },
    /// The database could not be asked.
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

const HAS_SCHEMA: &str = "SELECT to_regclass('schema_migrations') IS NOT NULL";
const APPLIED: &str = "SELECT version, name, checksum, compatible_from, applied_at, applied_by FROM schema_migrations ORDER BY version";
const TRY_LOCK: &str = "SELECT pg_try_advisory_lock($1, $2)";
const RECORD: &str = "INSERT INTO schema_migrations (version, name, checksum, compatible_from, applied_at, applied_by) \
     VALUES ($1, $2, $3, $4, clock_timestamp(), $5)";
const SERVER_VERSION: Query =
    Query::new("server_version", "SELECT current_setting('server_version_num')::int / 10000");

struct Applied {
    version: i32,
    name: String,
    checksum: String,
    compatible_from: i32,
    at: Timestamp,
    by: String,
}

impl Registry {
    /// Applies what is pending.
    pub async fn migrate(&self, applied_by: &str) -> Result<MigrationReport, MigrateError> {
        self.migrate_to(MIGRATIONS, applied_by).await
    }

    /// As [`Registry::migrate`], with the files given: for tests of other releases.
    pub async fn migrate_to(
        &self,
        wanted: &[Migration],
        applied_by: &str,
    ) -> Result<MigrationReport, MigrateError> {
        let mut client = self.database.aside().await?;
        hold_lock(&client).await?;
        let applied = applied(&client).await?;
        let level = compare(&applied, wanted)?;
        let mut report = MigrationReport { applied: Vec::new(), level };
        for migration in wanted.iter().filter(|m| m.version > level) {
            apply(&mut client, migration, applied_by).await?;
            tracing::info!(file = %migration.file_name(), "migration applied");
            report.applied.push(migration.version);
            report.level = migration.version;
        }
        // The lock ends with the connection, also when this future is dropped half-way.
        Ok(report)
    }

    /// Where the database stands; an error when it is not the one this program's files made.
    pub async fn schema_status(&self) -> Result<SchemaStatus, MigrateError> {
        self.schema_status_of(MIGRATIONS).await
    }

    /// As [`Registry::schema_status`], with the files given.
    pub async fn schema_status_of(&self, wanted: &[Migration]) -> Result<SchemaStatus, MigrateError> {
        let client = self.database.aside().await?;
        let applied = applied(&client).await?;
        let database = compare(&applied, wanted)?;
        Ok(SchemaStatus {
            program: wanted.last().map_or(0, |m| m.version),
            database,
            compatible_from: applied.iter().map(|a| a.compatible_from).max().unwrap_or(0),
            applied: applied.into_iter().map(|a| (a.version, a.name, a.at, a.by)).collect(),
        })
    }

    /// File names and texts that [`Registry::migrate`] would apply.
    pub async fn pending_sql(&self) -> Result<Vec<(String, &'static str)>, MigrateError> {
        let status = self.schema_status().await?;
        let pending = MIGRATIONS.iter().filter(|m| m.version > status.database);
        Ok(pending.map(|m| (m.file_name(), m.sql)).collect())
    }

    /// Major version of the server.
    pub async fn server_version(&self) -> Result<u32, RegistryError> {
        let conn = self.database.conn().await?;
        let major: i32 = Cells::of(&conn.one(&SERVER_VERSION, &[]).await?).cell()?;
        u32::try_from(major).map_err(|e| RegistryError::Defect(e.to_string()))
    }
}

async fn hold_lock(client: &Client) -> Result<(), RegistryError> {
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        let row = client.query_one(TRY_LOCK, &[&LOCKS, &MIGRATIONS_LOCK]).await.map_err(|e| classify(&e))?;
        if Cells::of(&row).cell()? {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let text = format!("another replica has been migrating for {} s", LOCK_WAIT.as_secs());
            return Err(RegistryError::Unavailable(text));
        }
        tokio::time::sleep(LOCK_POLL).await;
    }
}

async fn applied(client: &Client) -> Result<Vec<Applied>, RegistryError> {
    let row = client.query_one(HAS_SCHEMA, &[]).await.map_err(|e| classify(&e))?;
    if !Cells::of(&row).cell::<bool>()? {
        return Ok(Vec::new());
    }
    let rows = client.query(APPLIED, &[]).await.map_err(|e| classify(&e))?;
    rows.iter()
        .map(|row| {
            let mut cells = Cells::of(row);
            Ok(Applied {
                version: cells.cell()?,
                name: cells.cell()?,
                checksum: cells.cell()?,
                compatible_from: cells.cell()?,
                at: cells.time()?,
                by: cells.cell()?,
            })
        })
        .collect()
}

/// The level of a database that these files made, or that is newer and compatible.
fn compare(applied: &[Applied], wanted: &[Migration]) -> Result<i32, MigrateError> {
    let program = wanted.last().map_or(0, |m| m.version);
    let database = applied.last().map_or(0, |a| a.version);
    for row in applied.iter().filter(|a| a.version <= program) {
        let same = wanted.iter().any(|m| m.version == row.version && m.checksum() == row.checksum);
        if !same {
            return Err(MigrateError::ChangedFile(format!("{:04}_{}.sql", row.version, row.name)));
        }
    }
    if applied.iter().any(|a| a.compatible_from > program) && database > program {
        return Err(MigrateError::TooNew { database, program });
    }
    Ok(database)
}

async fn apply(client: &mut Client, migration: &Migration, applied_by: &str) -> Result<(), MigrateError> {
    let failed = |error: tokio_postgres::Error| match classify(&error) {
        RegistryError::Defect(reason) => MigrateError::Failed { file: migration.file_name(), reason },
        other => MigrateError::Registry(other),
    };
    let tx = client.transaction().await.map_err(failed)?;
    tx.batch_execute(migration.sql).await.map_err(failed)?;
    let params: [&(dyn tokio_postgres::types::ToSql + Sync); 5] =
        [&migration.version, &migration.name, &migration.checksum(), &migration.compatible_from, &applied_by];
    tx.execute(RECORD, &params).await.map_err(failed)?;
    tx.commit().await.map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn migrations_are_numbered_without_gaps_and_never_ask_for_the_future() {
        for (migration, version) in MIGRATIONS.iter().zip(1..) {
            assert_eq!(migration.version, version);
            assert!(migration.compatible_from <= version, "{}", migration.file_name());
        }
    }
}
