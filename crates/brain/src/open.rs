//! Opening a brain: look, refuse, and only then write.
//!
//! Everything that can refuse (file system, lock, fence, schema) is decided from a read-only look at the
//! file, so a refused brain is untouched byte for byte. Opening is O(1) in history: no integrity check.

use crate::lock::Holder;
use crate::schema::{self, Migration};
use crate::{Error, connection, filesystem};
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

/// Which way a brain's schema differs from the program's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// The brain is older.
    Upgrade,
    /// The brain is newer.
    Downgrade,
}

impl Direction {
    /// `upgrade` or `downgrade`, as in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Upgrade => "upgrade",
            Self::Downgrade => "downgrade",
        }
    }
}

/// Why a brain was not opened; the text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has the brain.
    #[error(
        "the brain is held by {}; stop it, or wait longer with BRAIN_LOCK_WAIT_S (waited {:.1} s)",
        .holder.as_ref().map_or_else(|| "another process that has not named itself".to_owned(), Holder::to_string),
        .waited.as_secs_f64()
    )]
    Locked {
        /// Who, if it has said so.
        holder: Option<Holder>,
        /// How long this process waited.
        waited: Duration,
    },
    /// An Engine with a higher generation has opened this brain since.
    #[error(
        "the brain belongs to generation {stored}, this process was started with BRAIN_GENERATION={given}; \
         it has been replaced and must not run"
    )]
    Fenced {
        /// The number in the brain.
        stored: i64,
        /// The number of this process.
        given: i64,
    },
    /// The file system does not keep the promises SQLite needs.
    #[error(
        "{} is on {kind}, where a brain can be damaged; move it to a local disk, \
         or set BRAIN_ALLOW_UNSAFE_FS=true at your own risk", .path.display()
    )]
    UnsafeFilesystem {
        /// Name of the file system.
        kind: String,
        /// The directory.
        path: PathBuf,
    },
    /// The schema differs and this process may not, or cannot, change that.
    #[error("the brain has schema {found}, this Engine wants {wanted} ({}): {reason}", .direction.as_str())]
    MigrationRequired {
        /// Which way.
        direction: Direction,
        /// Schema of the brain; 0 = no schema yet.
        found: u32,
        /// Schema of this program.
        wanted: u32,
        /// What stands in the way and what to do.
        reason: String,
    },
    /// A migration that was applied to this brain has another text now.
    #[error(
        "migration {version} ({name}) was applied with another text than this Engine carries; \
         run the Engine that applied it, or restore a backup"
    )]
    MigrationChanged {
        /// Its number.
        version: u32,
        /// Its name.
        name: String,
    },
    /// A migration failed and was rolled back.
    #[error("migration {version} ({name}) failed and was rolled back: {source}")]
    MigrationFailed {
        /// Its number.
        version: u32,
        /// Its name.
        name: String,
        /// What SQLite said.
        source: Error,
    },
    /// The file is a SQLite database, but not a brain.
    #[error("{} is a SQLite database of another program; point SQLITE_DB_PATH elsewhere", .0.display())]
    NotABrain(PathBuf),
    /// The directory of the brain is missing.
    #[error("the directory {} does not exist; create it, or change SQLITE_DB_PATH", .0.display())]
    NoDirectory(PathBuf),
    /// The brain or its directory cannot be written.
    #[error(
        "{} cannot be written ({reason}); give the Engine's user write access to it, or change SQLITE_DB_PATH",
        .path.display()
    )]
    NotWritable {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// SQLite calls the file damaged.
    #[error(
        "{} is damaged or not a SQLite database ({reason}); run `september-engine verify`, \
         then `september-engine restore <file>`", .path.display()
    )]
    Corrupt {
        /// The brain.
        path: PathBuf,
        /// What SQLite said.
        reason: String,
    },
    /// The linked SQLite is too old.
    #[error("SQLite {found} is linked, 3.51.3 or newer is needed; use an official build")]
    OldSqlite {
        /// Its version.
        found: &'static str,
    },
    /// Anything else.
    #[error("could not {action} {}: {reason}", .path.display())]
    Io {
        /// A verb phrase.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system or SQLite said.
        reason: String,
    },
}

impl OpenError {
    /// The exit code of a command that ends with this error.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Locked { .. } | Self::Fenced { .. } | Self::UnsafeFilesystem { .. } => 4,
            Self::MigrationRequired { .. }
            | Self::MigrationChanged { .. }
            | Self::MigrationFailed { .. }
            | Self::NotABrain(_)
            | Self::NoDirectory(_)
            | Self::NotWritable { .. }
            | Self::Corrupt { .. }
            | Self::OldSqlite { .. }
            | Self::Io { .. } => 1,
        }
    }

    pub(crate) fn from_io(action: &'static str, path: &Path, error: std::io::Error) -> Self {
        use std::io::ErrorKind;
        match error.kind() {
            ErrorKind::NotFound => Self::NoDirectory(parent(path)),
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
                Self::NotWritable { path: path.to_owned(), reason: error.to_string() }
            }
            _ => Self::Io { action, path: path.to_owned(), reason: error.to_string() },
        }
    }

    pub(crate) fn from_sql(action: &'static str, path: &Path, error: Error) -> Self {
        let path = path.to_owned();
        match error {
            Error::Corrupt(reason) => Self::Corrupt { path, reason },
            Error::ReadOnly(reason) => Self::NotWritable { path, reason },
            other => Self::Io { action, path, reason: other.to_string() },
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
            tracing::warn!(kind, "the brain is on a file system that can damage it; allowed by BRAIN_ALLOW_UNSAFE_FS");
        }
        Ok(filesystem::Kind::Refused(kind)) => {
            return Err(OpenError::UnsafeFilesystem { kind: kind.to_owned(), path: dir });
        }
        Ok(filesystem::Kind::Unknown(magic)) => {
            tracing::warn!(magic = format!("{magic:#x}"), "the brain is on a file system this program does not know");
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
    if crate::writer::file_size(path) == 0 {
        return Ok(Look::default());
    }
    let conn = connection::read_only(path).map_err(|e| OpenError::from_sql("open", path, e))?;
    look_with(&conn, path)
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
            OpenError::from_sql("read the generation of", path, Error::bad_data("brain_meta.generation", &text))
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
