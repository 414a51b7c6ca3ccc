//! Opening a brain: look, refuse, and only then write.
//!
//! Everything that can refuse (file system, lock, fence, schema) is decided from a read-only look at the
//! file, so a refused brain is untouched byte for byte. Opening is O(1) in history: no integrity check.

use crate::schema::{self, Migration};
use crate::{Error, OpenError, connection, filesystem};
use rusqlite::{Connection, OptionalExtension};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What happens when the brain's schema is older than the program's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MigrationMode {
    /// Migrate while opening, after a snapshot.
    #[default]
    Auto,
    /// Refuse with [`OpenError::MigrationRequired`] until `migrate` has been run, also for a new brain.
    Gate,
}

/// How to open a brain.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    /// The brain file.
    pub path: PathBuf,
    /// The orchestrator's fencing number; `None` = no check.
    pub generation: Option<i64>,
    /// Open on file systems that are refused otherwise.
    pub allow_unsafe_fs: bool,
    /// How long to wait for the brain lock.
    pub lock_wait: Duration,
    /// Where pre-migration snapshots go; made with mode 0700 when needed.
    pub backup_dir: PathBuf,
    /// Whether opening migrates.
    pub migrations: MigrationMode,
    /// Recorded beside every migration this program runs.
    pub engine_version: String,
    /// Read connections.
    pub read_connections: usize,
    /// The schema this program wants: [`schema::MIGRATIONS`] except in tests.
    pub wanted: &'static [Migration],
}

impl OpenOptions {
    /// The defaults of the specification for a brain at `path`.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        let backup_dir = parent(&path).join("backups");
        Self {
            path,
            generation: None,
            allow_unsafe_fs: false,
            lock_wait: Duration::from_secs(10),
            backup_dir,
            migrations: MigrationMode::Auto,
            engine_version: env!("CARGO_PKG_VERSION").to_owned(),
            read_connections: 4,
            wanted: schema::MIGRATIONS,
        }
    }
}

/// What a read-only look at the file found.
#[derive(Debug, Default)]
pub(crate) struct Look {
    /// Applied migrations, oldest first; empty for a file without a schema.
    pub(crate) applied: Vec<schema::Applied>,
    /// The stored fencing number.
    pub(crate) generation: Option<i64>,
}

impl Look {
    /// The brain's schema version; 0 = none yet.
    pub(crate) fn version(&self) -> u32 {
        self.applied.last().map_or(0, |a| a.version)
    }
}

/// The directory a file lives in; `.` for a bare name.
pub(crate) fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Refuses directories that are missing, not writable or on a file system that breaks brains.
pub fn check_place(options: &OpenOptions) -> Result<(), OpenError> {
    let dir = parent(&options.path);
    if !dir.is_dir() {
        return Err(OpenError::NoDirectory(dir));
    }
    match filesystem::of(&dir) {
        Ok(filesystem::Kind::Local(_)) => {}
        Ok(filesystem::Kind::Refused(kind)) if options.allow_unsafe_fs => {
            tracing::warn!(
                kind,
                "the brain is on a file system that can damage it; allowed by BRAIN_ALLOW_UNSAFE_FS"
            );
        }
        Ok(filesystem::Kind::Refused(kind)) => {
            return Err(OpenError::UnsafeFilesystem { kind: kind.to_owned(), path: dir });
        }
        Ok(filesystem::Kind::Unknown(magic)) => {
            tracing::warn!(
                magic = format!("{magic:#x}"),
                "the brain is on a file system this program does not know"
            );
        }
        Err(error) => tracing::warn!(%error, "the brain's file system could not be found out"),
    }
    for place in [&dir, &options.path] {
        let writable = rustix::fs::access(place, rustix::fs::Access::WRITE_OK);
        match writable {
            Ok(()) | Err(rustix::io::Errno::NOENT) => {}
            Err(e) => return Err(OpenError::NotWritable { path: place.clone(), reason: e.to_string() }),
        }
    }
    Ok(())
}

/// Looks at the file without changing a byte of it.
pub(crate) fn look(path: &Path) -> Result<Look, OpenError> {
    Ok(look_and_keep(path)?.0)
}

/// The same, with the connection that looked; it becomes the first reader's. As long as it is open, the next
/// connection finds the index of the write-ahead log made; otherwise it would be made twice, from up to
/// 64 MiB after a crash.
pub(crate) fn look_and_keep(path: &Path) -> Result<(Look, Option<Connection>), OpenError> {
    if crate::writer::file_size(path) == 0 {
        return Ok((Look::default(), None));
    }
    let conn = connection::read_only(path).map_err(|e| OpenError::from_sql("open", path, e))?;
    let look = look_with(&conn, path)?;
    Ok((look, Some(conn)))
}

/// The same look through a connection that is open already.
pub(crate) fn look_with(conn: &Connection, path: &Path) -> Result<Look, OpenError> {
    let sql = |e: rusqlite::Error| OpenError::from_sql("look at", path, e.into());
    let applied = schema::applied(conn).map_err(|e| OpenError::from_sql("read the schema of", path, e))?;
    let Some(applied) = applied else {
        let tables: i64 =
            conn.query_row("SELECT count(*) FROM sqlite_schema", [], |r| r.get(0)).map_err(sql)?;
        return if tables == 0 { Ok(Look::default()) } else { Err(OpenError::NotABrain(path.to_owned())) };
    };
    let stored: Option<String> = conn
        .query_row("SELECT value FROM brain_meta WHERE key = ?1", [crate::meta::GENERATION], |r| r.get(0))
        .optional()
        .map_err(sql)?;
    let generation = match stored {
        None => None,
        Some(text) => Some(text.parse().map_err(|_| {
            OpenError::from_sql(
                "read the generation of",
                path,
                Error::bad_data("brain_meta.generation", &text),
            )
        })?),
    };
    Ok(Look { applied, generation })
}

/// Makes the file, empty and private, unless it is there. Never touches an existing one.
pub(crate) fn create_private(path: &Path) -> Result<(), OpenError> {
    let made = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    match made {
        Ok(file) => {
            drop(file);
            sync_dir(&parent(path)).map_err(|e| OpenError::from_io("sync the directory of", path, e))
        }
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(OpenError::from_io("create", path, error)),
    }
}

/// Makes a new or renamed file's name survive a power cut.
pub(crate) fn sync_dir(dir: &Path) -> std::io::Result<()> {
    std::fs::File::open(dir)?.sync_all()
}
