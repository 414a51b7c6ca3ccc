//! Versions of the brain: the migrations this program carries, and the runner that applies them.
//!
//! Forward only, each in one transaction, each recorded with the checksum of its text. A migration that
//! has landed is never edited: a brain that knows another text refuses to open.

use crate::Result;
use crate::{Direction, OpenError};
use contract::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::path::Path;

/// One step of the schema.
#[derive(Debug, Clone, Copy)]
pub struct Migration {
    /// 1, 2, 3, … without gaps.
    pub version: u32,
    /// The middle of the file name `NNNN_name.sql`.
    pub name: &'static str,
    /// The text.
    pub sql: &'static str,
}

/// Every migration of this program, oldest first.
pub static MIGRATIONS: &[Migration] = &[
    Migration { version: 1, name: "engine", sql: include_str!("../migrations/0001_engine.sql") },
    Migration {
        version: 2,
        name: "skills_and_soul",
        sql: include_str!("../migrations/0002_skills_and_soul.sql"),
    },
    Migration { version: 3, name: "connections", sql: include_str!("../migrations/0003_connections.sql") },
    Migration { version: 4, name: "memory", sql: include_str!("../migrations/0004_memory.sql") },
    Migration {
        version: 5,
        name: "scope_of_answers",
        sql: include_str!("../migrations/0005_scope_of_answers.sql"),
    },
    Migration {
        version: 6,
        name: "memory_by_time",
        sql: include_str!("../migrations/0006_memory_by_time.sql"),
    },
    Migration { version: 7, name: "memory_rows", sql: include_str!("../migrations/0007_memory_rows.sql") },
    Migration { version: 8, name: "others_heard", sql: include_str!("../migrations/0008_others_heard.sql") },
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

/// The newest version in `wanted`.
pub fn newest(wanted: &[Migration]) -> u32 {
    wanted.last().map_or(0, |m| m.version)
}

/// One row of `schema_migrations`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Applied {
    /// Its number.
    pub version: u32,
    /// Its name.
    pub name: String,
    /// SHA-256 of the text that was applied.
    pub checksum: String,
}

/// What a brain's applied migrations are to this program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Nothing to do.
    Current,
    /// Older than the program, or without a schema.
    Behind,
    /// Newer than the program.
    Ahead,
}

/// The applied migrations, oldest first; `None` when the table does not exist.
pub(crate) fn applied(conn: &Connection) -> Result<Option<Vec<Applied>>> {
    let table = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'schema_migrations'";
    if conn.query_row(table, [], |_| Ok(())).optional()?.is_none() {
        return Ok(None);
    }
    let mut rows = conn.prepare("SELECT version, name, checksum FROM schema_migrations ORDER BY version")?;
    let applied =
        rows.query_map([], |r| Ok(Applied { version: r.get(0)?, name: r.get(1)?, checksum: r.get(2)? }))?;
    Ok(Some(applied.collect::<rusqlite::Result<_>>()?))
}

/// Compares what was applied with what this program carries.
pub(crate) fn compare(applied: &[Applied], wanted: &[Migration]) -> std::result::Result<Standing, OpenError> {
    let found = applied.last().map_or(0, |a| a.version);
    if found > newest(wanted) {
        return Ok(Standing::Ahead);
    }
    for row in applied {
        let same = wanted.iter().any(|m| m.version == row.version && m.checksum() == row.checksum);
        if !same {
            return Err(OpenError::MigrationChanged { version: row.version, name: row.name.clone() });
        }
    }
    Ok(if found < newest(wanted) { Standing::Behind } else { Standing::Current })
}

/// The error for a brain that may not be opened as it is.
pub(crate) fn required(
    direction: Direction,
    found: u32,
    wanted: &[Migration],
    reason: impl Into<String>,
) -> OpenError {
    OpenError::MigrationRequired { direction, found, wanted: newest(wanted), reason: reason.into() }
}

/// Applies what is pending, one transaction each, and tells `observability_events`.
pub(crate) fn run_pending(
    conn: &Connection,
    found: u32,
    wanted: &[Migration],
    engine_version: &str,
) -> std::result::Result<(), OpenError> {
    for migration in wanted.iter().filter(|m| m.version > found) {
        if let Err(source) = run_one(conn, migration, engine_version) {
            if !conn.is_autocommit() {
                let _ = conn.execute_batch("ROLLBACK");
            }
            let name = migration.name.to_owned();
            return Err(OpenError::MigrationFailed { version: migration.version, name, source });
        }
    }
    Ok(())
}

fn run_one(conn: &Connection, migration: &Migration, engine_version: &str) -> Result<()> {
    let now = Timestamp::now().millis();
    conn.execute_batch(
        "BEGIN IMMEDIATE;
         CREATE TABLE IF NOT EXISTS schema_migrations (
           version        INTEGER PRIMARY KEY,
           name           TEXT NOT NULL,
           checksum       TEXT NOT NULL,
           engine_version TEXT NOT NULL,
           applied_at     INTEGER NOT NULL
         ) STRICT;",
    )?;
    conn.execute_batch(migration.sql)?;
    conn.execute(
        "INSERT INTO schema_migrations (version, name, checksum, engine_version, applied_at)
         VALUES (?1, ?2, ?3, ?4, ?5)",
        params![migration.version, migration.name, migration.checksum(), engine_version, now],
    )?;
    conn.execute(
        "INSERT INTO observability_events (ts, kind, message, data_json)
         VALUES (?1, 'migration', ?2, json_object('version', ?3, 'engine_version', ?4))",
        params![now, format!("applied {}", migration.file_name()), migration.version, engine_version],
    )?;
    conn.execute_batch("COMMIT")?;
    Ok(())
}

/// What makes `dir` (MIGRATIONS_DIR) differ from the migrations this program carries; empty = identical.
///
/// The variable is accepted for compatibility only: a directory cannot add, remove or change a migration.
pub fn differences_in(dir: &Path, wanted: &[Migration]) -> Vec<String> {
    let mut found = Vec::new();
    for migration in wanted {
        let name = migration.file_name();
        match std::fs::read(dir.join(&name)) {
            Ok(text) if text == migration.sql.as_bytes() => {}
            Ok(_) => found.push(format!("{name} differs from the embedded one")),
            Err(error) => found.push(format!("{name} cannot be read ({error})")),
        }
    }
    let known: Vec<String> = wanted.iter().map(Migration::file_name).collect();
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) => return vec![format!("{} cannot be listed ({error})", dir.display())],
    };
    for entry in entries.filter_map(std::result::Result::ok) {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.ends_with(".sql") && !known.contains(&name) {
            found.push(format!("{name} is not one of this program's migrations"));
        }
    }
    found
}

/// The schema version of an open database, 0 without a schema.
pub(crate) fn version(conn: &Connection) -> Result<u32> {
    let rows = applied(conn)?.unwrap_or_default();
    Ok(rows.last().map_or(0, |a| a.version))
}
