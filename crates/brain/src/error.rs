//! What can go wrong in a read, a write or an opening, named for what the caller can do about it.
//!
//! SQLite's codes are mapped here, once. "database is locked" is not among the everyday outcomes: the
//! writer owns the only write connection, so [`Error::Busy`] means that a foreign program holds the file.

use crate::lock::Holder;
use crate::open::parent;
use rusqlite::ffi::ErrorCode;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The outcome of a closure handed to `Brain::read` or `Brain::write`.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a read or a write did not happen.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk (or a quota) is full. Free space and the next write may succeed.
    #[error("the disk holding the brain is full")]
    DiskFull,
    /// SQLite found the file damaged. Writes stop until a person has run `verify` and `restore`.
    #[error(
        "the brain is damaged ({0}); run `september-engine verify`, then `september-engine restore <file>`"
    )]
    Corrupt(String),
    /// The file, its directory or this connection does not allow writing.
    #[error("the brain cannot be written: {0}")]
    ReadOnly(String),
    /// Stored data does not parse as what the column is for. Never replaced by a default.
    #[error("stored data does not parse: {what}")]
    BadData {
        /// `table.column` and the offending text, shortened.
        what: String,
    },
    /// A UNIQUE, FOREIGN KEY, CHECK or NOT NULL rule refused the change.
    #[error("a rule of the brain refused the change: {0}")]
    Constraint(String),
    /// Another program holds a write transaction on the file although it does not hold the lock.
    #[error("another program holds a write transaction on the brain")]
    Busy,
    /// The commit failed for a reason that is neither a full disk nor corruption; nothing was kept, and
    /// writes stop until the process is started again.
    #[error("the commit failed: {0}")]
    Commit(String),
    /// The closure panicked; its changes were rolled back, its neighbours were not touched.
    #[error("the {name} job panicked: {message}")]
    Panicked {
        /// The job's name as given to `read` or `write`.
        name: &'static str,
        /// The panic message.
        message: String,
    },
    /// The brain has been closed.
    #[error("the brain is closed")]
    Closed,
    /// Anything else SQLite answered.
    #[error("sqlite: {0}")]
    Sql(rusqlite::Error),
}

/// Longest piece of offending text kept in an error. Longer would put user text into logs; shorter would
/// cut the words that explain the fault.
const BAD_DATA_CHARS: usize = 60;

impl Error {
    /// Stored text that does not parse; `column` is `table.column`.
    pub fn bad_data(column: &str, text: impl std::fmt::Display) -> Self {
        let text = text.to_string();
        let short: String = text.chars().take(BAD_DATA_CHARS).collect();
        let dots = if short.len() < text.len() { "…" } else { "" };
        Self::BadData { what: format!("{column} = {short:?}{dots}") }
    }

    /// Whether the same write may succeed later without anyone restarting the process.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::DiskFull | Self::Busy)
    }

    /// The same failure for another waiter; SQLite's own errors cannot be cloned and become text.
    pub(crate) fn for_neighbour(&self) -> Self {
        match self {
            Self::DiskFull => Self::DiskFull,
            Self::Corrupt(what) => Self::Corrupt(what.clone()),
            Self::ReadOnly(what) => Self::ReadOnly(what.clone()),
            Self::Busy => Self::Busy,
            Self::Closed => Self::Closed,
            Self::Commit(what) => Self::Commit(what.clone()),
            Self::BadData { .. } | Self::Constraint(_) | Self::Panicked { .. } | Self::Sql(_) => {
                Self::Commit(self.to_string())
            }
        }
    }
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        if let rusqlite::Error::SqliteFailure(code, _) = &error
            && code.extended_code == rusqlite::ffi::SQLITE_IOERR_SHMSIZE
        {
            // The WAL's index could not grow: SQLite's other way of saying that the disk is full.
            return Self::DiskFull;
        }
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::DiskFull,
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Corrupt(error.to_string()),
            Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => Self::ReadOnly(error.to_string()),
            Some(ErrorCode::ConstraintViolation) => Self::Constraint(error.to_string()),
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Busy,
            _ => match error {
                rusqlite::Error::FromSqlConversionFailure(..)
                | rusqlite::Error::IntegralValueOutOfRange(..)
                | rusqlite::Error::InvalidColumnType(..)
                | rusqlite::Error::Utf8Error(..) => Self::BadData { what: error.to_string() },
                other => Self::Sql(other),
            },
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
