//! The handle that noun functions work on: one transaction, or one read snapshot.

use rusqlite::Connection;
use std::cell::Cell;

/// A transaction (inside `Brain::write`) or a read snapshot (inside `Brain::read`).
///
/// Only this crate sees the connection behind it, so SQL stays here. It cannot commit or roll back: that
/// is the writer's decision, made from the closure's result.
#[derive(Debug)]
pub struct Tx<'c> {
    conn: &'c Connection,
    forgets: Cell<bool>,
}

impl<'c> Tx<'c> {
    pub(crate) fn new(conn: &'c Connection) -> Self {
        Self { conn, forgets: Cell::new(false) }
    }

    /// The connection, for this crate's nouns. Prefer `prepare_cached`.
    pub(crate) fn conn(&self) -> &'c Connection {
        self.conn
    }

    /// Says that something is erased here that nobody may read again: the writer empties the log soon after the commit.
    pub fn forget(&self) {
        self.forgets.set(true);
    }

    /// Whether something is erased here.
    pub(crate) fn forgets(&self) -> bool {
        self.forgets.get()
    }
}
