//! What can go wrong between the program and its database, by what the caller can do about it.
//!
//! A server's message is kept, its `DETAIL` is not: details quote the values of rows. Refuses to guess: an SQL state
//! that is not known to pass by itself is a defect.

use deadpool_postgres::PoolError;
use tokio_postgres::error::SqlState;

/// Why the registry gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// The database cannot be reached, is not ready, or did not answer in time: wait and try again.
    #[error("database unavailable: {0}")]
    Unavailable(String),
    /// A stored value is not what this program writes: a person must look.
    #[error("stored data is damaged: {0}")]
    Corrupt(String),
    /// A statement or a constraint failed in a way nobody planned: a defect of the program.
    #[error("registry defect: {0}")]
    Defect(String),
}

impl RegistryError {
    /// True when waiting can help.
    pub fn is_unavailable(&self) -> bool {
        matches!(self, RegistryError::Unavailable(_))
    }
}

/// An error on its way out of a transaction, while the server's own words still matter.
#[derive(Debug)]
pub(super) enum Fault {
    /// The server or the connection said so.
    Database(tokio_postgres::Error),
    /// Already in the caller's terms.
    Told(RegistryError),
}

/// Tries of one transaction that met a deadlock or a serialization failure. More would hide a real contention
/// problem behind latency; fewer would show callers what a repeat cures.
pub(super) const TRIES: u32 = 3;

impl Fault {
    /// The constraint that was violated, if that is what happened.
    pub(super) fn constraint(&self) -> Option<&str> {
        match self {
            Fault::Database(error) => error.as_db_error().and_then(|e| e.constraint()),
            Fault::Told(_) => None,
        }
    }

    /// True for what an immediate repeat of the whole transaction cures.
    pub(super) fn is_transient(&self) -> bool {
        let Fault::Database(error) = self else { return false };
        let serial = error.code().is_some_and(|code| {
            *code == SqlState::T_R_SERIALIZATION_FAILURE || *code == SqlState::T_R_DEADLOCK_DETECTED
        });
        // Ports are handed out under a lock; only a row changed by hand in between can bring this about.
        serial || self.constraint() == Some("engines_port_key")
    }
}

/// Counts the tries of one transaction.
#[derive(Default)]
pub(super) struct Tries(u32);

impl Tries {
    /// True when the transaction may be run once more.
    pub(super) fn again(&mut self, fault: &Fault) -> bool {
        self.0 += 1;
        self.0 < TRIES && fault.is_transient()
    }
}

impl From<tokio_postgres::Error> for Fault {
    fn from(error: tokio_postgres::Error) -> Self {
        Fault::Database(error)
    }
}

impl From<RegistryError> for Fault {
    fn from(error: RegistryError) -> Self {
        Fault::Told(error)
    }
}

impl From<Fault> for RegistryError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Told(error) => error,
            Fault::Database(error) => classify(&error),
        }
    }
}

impl From<PoolError> for Fault {
    fn from(error: PoolError) -> Self {
        let text = match error {
            PoolError::Timeout(_) => "no connection became free or could be made in time".to_owned(),
            PoolError::Backend(error) => chain(&error),
            PoolError::PostCreateHook(error) => chain(&error),
            PoolError::Closed => "the pool is closed".to_owned(),
            PoolError::NoRuntimeSpecified => return Fault::Told(RegistryError::Defect(error.to_string())),
        };
        Fault::Told(RegistryError::Unavailable(text))
    }
}

/// Sorts an error of the client library by its SQL state.
pub(super) fn classify(error: &tokio_postgres::Error) -> RegistryError {
    let Some(database) = error.as_db_error() else {
        // Without words of the server it is the connection, or a value that could not be carried.
        let text = chain(error);
        let carried = text.starts_with("error serializing") || text.starts_with("error deserializing");
        return if carried { RegistryError::Defect(text) } else { RegistryError::Unavailable(text) };
    };
    let code = database.code();
    let text = format!("{} ({})", database.message(), code.code());
    let passes_by_itself = matches!(&code.code()[..2], "08" | "53" | "57" | "58" | "28" | "3D")
        || [
            SqlState::LOCK_NOT_AVAILABLE,
            SqlState::READ_ONLY_SQL_TRANSACTION,
            SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
            SqlState::T_R_SERIALIZATION_FAILURE,
            SqlState::T_R_DEADLOCK_DETECTED,
        ]
        .contains(code);
    if passes_by_itself {
        RegistryError::Unavailable(text)
    } else {
        let constraint = database.constraint().map(|c| format!(", constraint {c}")).unwrap_or_default();
        RegistryError::Defect(format!("{text}{constraint}"))
    }
}

/// An error with its causes in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let words = inner.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = inner.source();
    }
    text
}
