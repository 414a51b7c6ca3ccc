//! Putting a backup in the brain's place, with the Engine stopped.
//!
//! The present brain is kept, never overwritten; at every instant of the exchange there is a whole brain
//! under the brain's name. Event numbers and the fencing number go on above the higher of both files, so
//! no client sees a number twice and no fenced process comes back.

use crate::backup::{self, BackupError};
use crate::lock::LockGuard;
use crate::open::{self, OpenOptions};
use crate::schema::{self, Standing};
use crate::writer::{file_size, wal_path};
use crate::{Error, OpenError, Tx, connection, meta};
use contract::Timestamp;
use rusqlite::{Connection, OpenFlags, OptionalExtension, params};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// A finished restore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The file it was made from.
    pub source: PathBuf,
    /// The brain, now with the source's contents.
    pub brain: PathBuf,
    /// Its schema; the next start migrates it if that is older.
    pub schema_version: u32,
    /// Where the brain before is kept, if there was one.
    pub replaced: Option<PathBuf>,
    /// Why the brain before could not be read, if it could not; its event numbers are then unknown.
    pub replaced_unreadable: Option<String>,
    /// The number the next event will have.
    pub next_seq: i64,
}

/// Why nothing was restored; the present brain is then as it was.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The backup is not sound, or copying failed.
    #[error("{0}")]
    Backup(#[from] BackupError),
    /// The place, the lock or the schema of the backup stands in the way.
    #[error("{0}")]
    Open(#[from] OpenError),
    /// The backup was written by a newer program.
    #[error("{} has schema {found}, this Engine knows {wanted}; restore it with the newer Engine", .source_file.display())]
    Newer {
        /// The backup.
        source_file: PathBuf,
        /// Its schema.
        found: u32,
        /// The program's.
        wanted: u32,
    },
}

/// Numbers that must not go back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Marks {
    seq: i64,
    generation: Option<i64>,
}

/// Replaces the brain at `options.path` by `source`. Holding `_guard` proves that no Engine runs on it.
pub fn run(options: &OpenOptions, source: &Path, _guard: &LockGuard) -> Result<Report, RestoreError> {
    open::check_place(options)?;
    let brain = &options.path;
    let same = source.canonicalize().ok().is_some_and(|s| brain.canonicalize().is_ok_and(|b| b == s));
    if same {
        return Err(backup::failed("restore from", source)("it is the brain itself").into());
    }
    let from = connection::at_rest(source).map_err(|e| OpenError::from_sql("open", source, e))?;
    let look = open::look_with(&from, source)?;
    let schema_version = backup::check(source)?;
    if schema::compare(&look.applied, options.wanted)? == Standing::Ahead {
        let wanted = schema::newest(options.wanted);
        return Err(RestoreError::Newer { source_file: source.to_owned(), found: schema_version, wanted });
    }

    let present = (file_size(brain) > 0).then(|| marks_of(brain));
    let floor = match &present {
        Some(Ok(marks)) => *marks,
        Some(Err(_)) | None => Marks::default(),
    };
    let staged = backup::Partial(backup::partial_name(brain));
    let _ = std::fs::remove_file(&staged.0);
    backup::copy(&from, &staged.0).map_err(backup::failed("copy", source))?;
    let next_seq = raise(&staged.0, floor).map_err(backup::failed("renumber the copy of", source))? + 1;
    backup::check(&staged.0)?;
    let io = |e| OpenError::from_io("put in place", brain, e);
    std::fs::File::open(&staged.0).and_then(|f| f.sync_all()).map_err(io)?;

    let replaced = match &present {
        Some(_) => Some(set_aside(brain).map_err(|e| OpenError::from_io("keep", brain, e))?),
        None => None,
    };
    std::fs::rename(&staged.0, brain).map_err(io)?;
    open::sync_dir(&open::parent(brain)).map_err(io)?;
    backup::check(brain)?;
    Ok(Report {
        source: source.to_owned(),
        brain: brain.clone(),
        schema_version,
        replaced,
        replaced_unreadable: present.and_then(Result::err).map(|e| e.to_string()),
        next_seq,
    })
}

/// Gives the present brain a second name and leaves it without a write-ahead log under the first.
fn set_aside(brain: &Path) -> std::io::Result<PathBuf> {
    // Closing the only connection moves the log into the file and removes it. Where that fails the file is
    // damaged, and the log is kept beside it under the name SQLite will look for.
    let plain = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let checkpointed = Connection::open_with_flags(brain, plain)
        .and_then(|c| c.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())));
    if let Err(error) = checkpointed {
        tracing::warn!(%error, "the brain being replaced could not be checkpointed; its log is kept with it");
    }
    let mut name = brain.as_os_str().to_owned();
    name.push(format!(".replaced-{}", backup::stamp(Timestamp::now())));
    let kept = PathBuf::from(name);
    // A second name first, so that the brain's own name is never without a brain.
    if std::fs::hard_link(brain, &kept).is_err() {
        std::fs::rename(brain, &kept)?;
    }
    let wal = wal_path(brain);
    if file_size(&wal) > 0 {
        std::fs::rename(&wal, wal_path(&kept))?;
    }
    for suffix in ["-wal", "-shm"] {
        let mut beside = brain.as_os_str().to_owned();
        beside.push(suffix);
        match std::fs::remove_file(beside) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(kept)
}

fn marks_of(path: &Path) -> Result<Marks, Error> {
    let conn = connection::read_only(path)?;
    let used: Option<i64> = conn
        .query_row("SELECT seq FROM sqlite_sequence WHERE name = 'events'", [], |r| r.get(0))
        .optional()?;
    let stored: Option<i64> = conn.query_row("SELECT max(seq) FROM events", [], |r| r.get(0))?;
    let generation = open::look_with(&conn, path).map_or(None, |look| look.generation);
    Ok(Marks { seq: used.unwrap_or(0).max(stored.unwrap_or(0)), generation })
}

/// Lifts the marks of the file to at least `floor`; the highest event number used, then.
fn raise(path: &Path, floor: Marks) -> Result<i64, Error> {
    let own = marks_of(path)?;
    let seq = own.seq.max(floor.seq);
    let conn = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    conn.execute_batch("BEGIN IMMEDIATE")?;
    if conn.execute("UPDATE sqlite_sequence SET seq = ?1 WHERE name = 'events'", [seq])? == 0 {
        conn.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('events', ?1)", params![seq])?;
    }
    if let Some(generation) = floor.generation.filter(|g| own.generation.is_none_or(|o| o < *g)) {
        meta::set(&Tx::new(&conn), meta::GENERATION, &generation.to_string())?;
    }
    conn.execute_batch("COMMIT")?;
    Ok(seq)
}
