//! What the image's `sqlite3` may do with a brain: read it, check it, and nothing else.
//!
//! An old SQLite must never touch a brain in WAL mode, so the image carries no other `sqlite3` than the
//! Engine itself. This file holds its SQL; parsing its command line is the Engine's business.
//!
//! The invariant: nothing here writes, and one statement is one statement.

use crate::{Error, Result, connection};
use rusqlite::types::ValueRef;
use std::path::Path;

/// The linked SQLite.
pub fn sqlite_version() -> &'static str {
    rusqlite::version()
}

/// Why a statement was not run.
#[derive(Debug, thiserror::Error)]
pub enum ShimError {
    /// It is not one of the few statements that are understood.
    #[error("only SELECT and PRAGMA integrity_check are understood, one statement at a time")]
    NotAllowed,
    /// SQLite refused it.
    #[error("{0}")]
    Failed(#[from] Error),
}

/// Runs one read-only statement on the database at `path`, and hands over each row as text: NULL is empty,
/// numbers as SQLite writes them, blobs as they are.
pub fn query(path: &Path, sql: &str, mut row: impl FnMut(&[Vec<u8>])) -> std::result::Result<(), ShimError> {
    let sql = sql.trim().trim_end_matches(';').trim_end();
    if !is_allowed(sql) {
        return Err(ShimError::NotAllowed);
    }
    let conn = connection::read_only(path)?;
    let mut statement = conn.prepare(sql).map_err(|error| match error {
        rusqlite::Error::MultipleStatement => ShimError::NotAllowed,
        other => ShimError::Failed(other.into()),
    })?;
    if !statement.readonly() {
        return Err(ShimError::NotAllowed);
    }
    let columns = statement.column_count();
    let mut rows = statement.query([]).map_err(Error::from)?;
    while let Some(found) = rows.next().map_err(Error::from)? {
        let mut cells = Vec::with_capacity(columns);
        for column in 0..columns {
            cells.push(match found.get_ref(column).map_err(Error::from)? {
                ValueRef::Null => Vec::new(),
                ValueRef::Integer(number) => number.to_string().into_bytes(),
                ValueRef::Real(number) => real(number).into_bytes(),
                ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes.to_vec(),
            });
        }
        row(&cells);
    }
    Ok(())
}

/// The fencing number stored in the brain, as text.
pub fn generation(path: &Path) -> Result<Option<String>> {
    let conn = connection::read_only(path)?;
    crate::meta::get(&crate::Tx::new(&conn), crate::meta::GENERATION)
}

/// `ok`, or the first fault that SQLite's quick check finds.
pub fn quick_check(path: &Path) -> Result<String> {
    let conn = connection::read_only(path)?;
    Ok(conn.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?)
}

fn is_allowed(sql: &str) -> bool {
    let squeezed: String =
        sql.chars().filter(|c| !c.is_whitespace()).collect::<String>().to_ascii_lowercase();
    let word: String = sql.chars().take_while(char::is_ascii_alphabetic).collect();
    squeezed == "pragmaintegrity_check"
        || squeezed == "pragmaquick_check"
        || word.eq_ignore_ascii_case("select")
        || word.eq_ignore_ascii_case("with")
}

/// A REAL always shows that it is one, as in SQLite's own shell.
fn real(number: f64) -> String {
    let text = number.to_string();
    let plain = text.bytes().all(|b| b.is_ascii_digit() || b == b'-');
    if plain { format!("{text}.0") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(path: &Path, sql: &str) -> std::result::Result<Vec<String>, ShimError> {
        let mut out = Vec::new();
        query(path, sql, |cells| {
            let texts: Vec<_> = cells.iter().map(|c| String::from_utf8_lossy(c).into_owned()).collect();
            out.push(texts.join("|"));
        })?;
        Ok(out)
    }

    #[test]
    fn reading_is_allowed_and_everything_else_is_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("brain.sqlite");
        let conn = rusqlite::Connection::open(&path).expect("a database");
        conn.execute_batch("CREATE TABLE t (a, b); INSERT INTO t VALUES (1, NULL), (2.0, 'x')")
            .expect("rows");
        drop(conn);
        assert_eq!(rows(&path, " SELECT a, b FROM t; ").expect("rows"), ["1|", "2.0|x"]);
        assert_eq!(rows(&path, "WITH n AS (SELECT 3) SELECT * FROM n").expect("rows"), ["3"]);
        assert_eq!(rows(&path, "PRAGMA integrity_check;").expect("rows"), ["ok"]);
        for refused in [
            "DELETE FROM t",
            "PRAGMA journal_mode = DELETE",
            "PRAGMA integrity_check; DELETE FROM t",
            "SELECT 1; DELETE FROM t",
            "WITH n AS (SELECT 1) DELETE FROM t",
            "ATTACH 'x' AS y",
            "VACUUM INTO 'x'",
            "",
        ] {
            assert!(rows(&path, refused).is_err(), "{refused}");
        }
        assert_eq!(rows(&path, "SELECT count(*) FROM t").expect("rows"), ["2"]);
    }
}
