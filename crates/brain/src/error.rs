//! What can go wrong in a read or a write, named for what the caller can do about it.
//!
//! SQLite's codes are mapped here, once. "database is locked" is not among the everyday outcomes: the
//! writer owns the only write connection, so [`Error::Busy`] means that a foreign program holds the file.

use rusqlite::ffi::ErrorCode;

/// The outcome of a closure handed to `Brain::read` or `Brain::write`.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a read or a write did not happen.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk (or a quota) is full. Free space and the next write may succeed.
    #[error("the disk holding the brain is full")]
    DiskFull,
    /// SQLite found the file damaged. Writes stop until a person has run `verify` and `restore`.
    #[error("the brain is damaged ({0}); run `september-engine verify`, then `september-engine restore <file>`")]
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
