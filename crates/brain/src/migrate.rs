//! The `migrate` command: what is pending, a rehearsal on a copy, and the snapshot taken before the real run.

use crate::backup::{self, OnExisting};
use crate::lock::LockGuard;
use crate::open::{self, MigrationMode, OpenOptions};
use crate::schema::{self, Migration, Standing};
use crate::{Brain, Direction, OpenError, connection, filesystem};
use contract::Timestamp;
use serde::Serialize;
use std::path::PathBuf;

/// What a run did, or would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Schema before; 0 = a new brain.
    pub from: u32,
    /// Schema after.
    pub to: u32,
    /// File names of the migrations that were (or would be) applied.
    pub applied: Vec<String>,
    /// The snapshot taken before, if there was anything to lose.
    pub snapshot: Option<PathBuf>,
}

/// Brings the brain to this program's schema, whatever `options.migrations` says, and closes it.
pub fn run(mut options: OpenOptions, guard: LockGuard) -> Result<Report, OpenError> {
    open::check_place(&options)?;
    let mut report = pending(&options)?;
    options.migrations = MigrationMode::Auto;
    let before = snapshots(&options);
    Brain::open_locked(options.clone(), guard)?.close();
    report.snapshot = snapshots(&options).into_iter().find(|s| !before.contains(s));
    Ok(report)
}

/// Tries the pending migrations on a temporary copy made by online backup; the brain is only read.
pub fn dry_run(options: &OpenOptions) -> Result<Report, OpenError> {
    let report = pending(options)?;
    if report.applied.is_empty() {
        return Ok(report);
    }
    let name = format!(".dry-run-{}-{}.sqlite", std::process::id(), backup::stamp(Timestamp::now()));
    let copy = Removed(open::parent(&options.path).join(name));
    if report.from > 0 {
        backup::online(&options.path, &copy.0, OnExisting::Refuse)
            .map_err(|e| schema::required(Direction::Upgrade, report.from, options.wanted, e.to_string()))?;
    } else {
        open::create_private(&copy.0)?;
    }
    let conn = connection::read_write(&copy.0).map_err(|e| OpenError::from_sql("open", &copy.0, e))?;
    schema::run_pending(&conn, report.from, options.wanted, &options.engine_version)?;
    let sound: String = conn
        .query_row("PRAGMA quick_check(1)", [], |r| r.get(0))
        .map_err(|e| OpenError::from_sql("check", &copy.0, e.into()))?;
    if sound == "ok" { Ok(report) } else { Err(OpenError::Corrupt { path: copy.0.clone(), reason: sound }) }
}

/// What `run` would do.
pub fn pending(options: &OpenOptions) -> Result<Report, OpenError> {
    let look = open::look(&options.path)?;
    let found = look.version();
    if schema::compare(&look.applied, options.wanted)? == Standing::Ahead {
        let reason = "start the newer Engine that migrated it, or restore the pre-migration snapshot";
        return Err(schema::required(Direction::Downgrade, found, options.wanted, reason));
    }
    let applied = options.wanted.iter().filter(|m| m.version > found).map(Migration::file_name).collect();
    Ok(Report { from: found, to: schema::newest(options.wanted), applied, snapshot: None })
}

/// Keeps the brain as it is before it is migrated. Any failure here stops the migration.
pub(crate) fn snapshot(options: &OpenOptions, found: u32) -> Result<PathBuf, OpenError> {
    let to = schema::newest(options.wanted);
    let stamp = backup::stamp(Timestamp::now());
    let path = options.backup_dir.join(format!("{SNAPSHOT_PREFIX}{found}-{to}-{stamp}.sqlite"));
    let made = backup::make_dir(&options.backup_dir)
        .and_then(|()| backup::online(&options.path, &path, OnExisting::Refuse));
    match made {
        Ok(report) => {
            tracing::info!(path = %report.path.display(), from = found, to, "kept a snapshot before migrating");
            Ok(report.path)
        }
        Err(error) => {
            let free = filesystem::free_bytes(&open::parent(&options.path)).unwrap_or_default();
            let reason = format!(
                "the snapshot before migrating could not be made: {error} ({free} bytes free); make room or set \
                 BACKUP_DIR, then start again"
            );
            Err(schema::required(Direction::Upgrade, found, options.wanted, reason))
        }
    }
}

/// How the snapshots before migrations are named; retention of backups never deletes them.
const SNAPSHOT_PREFIX: &str = "pre-migration-";

fn snapshots(options: &OpenOptions) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(&options.backup_dir).into_iter().flatten().filter_map(Result::ok);
    let ours = entries.filter(|e| e.file_name().to_string_lossy().starts_with(SNAPSHOT_PREFIX));
    ours.map(|e| e.path()).collect()
}

/// A file that goes away with its owner, with what SQLite put beside it.
struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        for suffix in ["", "-wal", "-shm", "-journal"] {
            let mut name = self.0.clone().into_os_string();
            name.push(suffix);
            let _ = std::fs::remove_file(name);
        }
    }
}
