//! How a connection to a brain is opened: the pragmas, the flags, and what each of them prevents.

use crate::{Error, Result};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use std::path::Path;
use std::time::Duration;

/// Oldest SQLite whose WAL and FTS5 behaviour this crate relies on (3.51.3).
pub(crate) const OLDEST_SQLITE: i32 = 3_051_003;
/// How long SQLite waits for a foreign program's lock. Longer freezes all writers behind it.
pub(crate) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Prepared statements kept per connection. Smaller than the number of distinct statements in the nouns
/// would parse the busiest ones again and again.
const STATEMENTS_KEPT: usize = 512;

/// Opens an existing file for reading only. Nothing is ever written through it.
pub(crate) fn read_only(path: &Path) -> Result<Connection> {
    let conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | common())?;
    harden(&conn)?;
    conn.execute_batch("PRAGMA query_only = ON")?;
    Ok(conn)
}

/// Opens a file that nobody writes to, leaving no `-wal` or `-shm` file beside it: a finished backup.
/// A copy that brought a WAL along is opened the ordinary way, since its WAL is part of it.
pub(crate) fn at_rest(path: &Path) -> Result<Connection> {
    if crate::writer::file_size(&crate::writer::wal_path(path)) > 0 {
        return read_only(path);
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | common();
    let conn = Connection::open_with_flags(immutable_uri(path), flags)?;
    harden(&conn)?;
    Ok(conn)
}

/// Opens an existing (possibly empty) file for writing, with every pragma of a brain.
pub(crate) fn read_write(path: &Path) -> Result<Connection> {
    let conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | common())?;
    harden(&conn)?;
    let pages: u32 = conn.query_row("PRAGMA page_count", [], |r| r.get(0))?;
    if pages == 0 {
        // Must come before the first page is written, so before WAL mode. On an existing file it would
        // cost every opening a commit, fsyncs included.
        conn.execute_batch("PRAGMA auto_vacuum = INCREMENTAL")?;
    }
    conn.execute_batch(
        "PRAGMA synchronous = FULL;
         PRAGMA secure_delete = ON;
         PRAGMA journal_size_limit = 67108864;",
    )?;
    let mode: String = conn.query_row("PRAGMA journal_mode = WAL", [], |r| r.get(0))?;
    if mode != "wal" {
        return Err(Error::ReadOnly(format!(
            "the file system refuses WAL mode (journal_mode stayed {mode})"
        )));
    }
    Ok(conn)
}

fn common() -> OpenFlags {
    // Each connection stays on one thread, so SQLite's own mutexes would only cost time.
    OpenFlags::SQLITE_OPEN_NO_MUTEX
}

fn harden(conn: &Connection) -> Result<()> {
    conn.busy_timeout(BUSY_TIMEOUT)?;
    conn.set_prepared_statement_cache_capacity(STATEMENTS_KEPT);
    // A brain restored from a stranger's file must not run SQL smuggled into its schema, and no statement
    // of ours may damage the file's structure. Loadable extensions are off in SQLite unless asked for.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DML, false)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_DQS_DDL, false)?;
    // Savepoints keep their undo pages here; a read-only container has no writable temporary directory.
    conn.execute_batch("PRAGMA foreign_keys = ON; PRAGMA temp_store = MEMORY")?;
    Ok(())
}

fn immutable_uri(path: &Path) -> String {
    use std::fmt::Write;
    use std::os::unix::ffi::OsStrExt;
    let mut uri = String::from("file:");
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'/' | b'.' | b'_' | b'-' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => {
                uri.push(char::from(*byte))
            }
            other => drop(write!(uri, "%{other:02x}")),
        }
    }
    uri.push_str("?immutable=1");
    uri
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_connection_syncs_every_commit_and_guards_the_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("b.sqlite");
        std::fs::write(&path, "").expect("an empty file");
        let conn = read_write(&path).expect("opens");
        let number = |pragma: &str| -> i64 {
            conn.query_row(&format!("PRAGMA {pragma}"), [], |r| r.get(0)).expect(pragma)
        };
        let expected = [
            ("synchronous", 2),
            ("foreign_keys", 1),
            ("trusted_schema", 0),
            ("secure_delete", 1),
            ("auto_vacuum", 2),
            ("busy_timeout", 5000),
            ("journal_size_limit", 64 << 20),
        ];
        for (pragma, value) in expected {
            assert_eq!(number(pragma), value, "{pragma}");
        }
        assert!(conn.db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE).expect("defensive"));
        assert!(conn.query_row("SELECT load_extension('x')", [], |_| Ok(())).is_err());
    }
}
