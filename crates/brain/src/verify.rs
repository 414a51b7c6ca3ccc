//! Everything that can be found wrong with a brain file, in one report. Reads only; repairs nothing.

use crate::OpenError;
use crate::schema::{self, Migration, Standing};
use crate::{Error, Result, connection, lock};
use rusqlite::Connection;
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Findings listed per check. More would bury the first, which is usually the cause.
const FINDINGS_PER_CHECK: usize = 100;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Which check found it: `open`, `integrity`, `foreign_keys`, `migrations`, `blobs`, `fts`, `vectors`,
    /// `lineage`.
    pub check: &'static str,
    /// What it found.
    pub detail: String,
}

/// The result of [`run`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// No finding.
    pub ok: bool,
    /// The file.
    pub path: PathBuf,
    /// Its schema; 0 when it could not be read.
    pub schema_version: u32,
    /// The SQLite that looked.
    pub sqlite_version: &'static str,
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// Rows per table.
    pub tables: BTreeMap<String, u64>,
}

/// Checks the brain or backup at `path`. Needs no lock; a brain being served is read at one instant.
pub fn run(path: &Path, wanted: &[Migration]) -> std::result::Result<Report, OpenError> {
    if !path.exists() {
        let reason = "there is no such file".to_owned();
        return Err(OpenError::Io { action: "verify", path: path.to_owned(), reason });
    }
    let mut report = Report {
        ok: true,
        path: path.to_owned(),
        schema_version: 0,
        sqlite_version: rusqlite::version(),
        findings: Vec::new(),
        tables: BTreeMap::new(),
    };
    // A file with a lock file beside it may be in use; anything else is a copy at rest.
    let in_use = lock::lock_path(path).exists();
    let conn = if in_use { connection::read_only(path) } else { connection::at_rest(path) };
    match conn.and_then(|conn| inspect(&conn, wanted, &mut report)) {
        Ok(()) => {}
        Err(error @ Error::Corrupt(_)) => report.add("integrity", error.to_string()),
        Err(error) => return Err(OpenError::from_sql("verify", path, error)),
    }
    report.ok = report.findings.is_empty();
    Ok(report)
}

impl Report {
    fn add(&mut self, check: &'static str, detail: impl Into<String>) {
        self.findings.push(Finding { check, detail: detail.into() });
    }
}

fn inspect(conn: &Connection, wanted: &[Migration], report: &mut Report) -> Result<()> {
    conn.execute_batch("BEGIN")?;
    migrations(conn, wanted, report)?;
    for line in texts(conn, &format!("PRAGMA integrity_check({FINDINGS_PER_CHECK})"))? {
        if line != "ok" {
            report.add("integrity", line);
        }
    }
    foreign_keys(conn, report)?;
    let names = texts(
        conn,
        "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table' AND name NOT LIKE 'sqlite_%'
         ORDER BY name",
    )?;
    for name in &names {
        report.tables.insert(name.clone(), count(conn, name)?);
    }
    if names.iter().any(|n| n == "blobs") {
        blobs(conn, report)?;
    }
    companions(conn, &names, report)?;
    if names.iter().any(|n| n == "memory_lineage") {
        lineage(conn, report)?;
    }
    Ok(conn.execute_batch("ROLLBACK")?)
}

fn migrations(conn: &Connection, wanted: &[Migration], report: &mut Report) -> Result<()> {
    let Some(applied) = schema::applied(conn)? else {
        report.add("migrations", "there is no schema: this is not a brain");
        return Ok(());
    };
    report.schema_version = applied.last().map_or(0, |a| a.version);
    for (row, number) in applied.iter().zip(1..) {
        if row.version != number {
            report.add("migrations", format!("migration {number} is missing"));
            break;
        }
    }
    match schema::compare(&applied, wanted) {
        Ok(Standing::Current | Standing::Behind) => {}
        Ok(Standing::Ahead) => report.add(
            "migrations",
            format!(
                "schema {} is newer than this Engine's {}",
                report.schema_version,
                schema::newest(wanted)
            ),
        ),
        Err(changed) => report.add("migrations", changed.to_string()),
    }
    Ok(())
}

fn foreign_keys(conn: &Connection, report: &mut Report) -> Result<()> {
    let mut statement = conn.prepare("PRAGMA foreign_key_check")?;
    let mut rows = statement.query([])?;
    let mut listed = 0;
    while let Some(row) = rows.next()? {
        if listed == FINDINGS_PER_CHECK {
            report.add("foreign_keys", "and more");
            break;
        }
        listed += 1;
        let (table, rowid, parent): (String, Option<i64>, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let rowid = rowid.map_or_else(|| "a row".to_owned(), |id| format!("row {id}"));
        report.add("foreign_keys", format!("{rowid} of {table} names a row of {parent} that is not there"));
    }
    Ok(())
}

/// A blob is named by its contents; anything else is damage that SQLite cannot see.
fn blobs(conn: &Connection, report: &mut Report) -> Result<()> {
    let mut statement = conn.prepare("SELECT sha256, data FROM blobs")?;
    let mut rows = statement.query([])?;
    let mut listed = 0;
    while let Some(row) = rows.next()? {
        let (name, data): (String, &[u8]) =
            (row.get(0)?, row.get_ref(1)?.as_blob().map_err(rusqlite::Error::from)?);
        let found: String = Sha256::digest(data).iter().map(|b| format!("{b:02x}")).collect();
        if found != name && listed < FINDINGS_PER_CHECK {
            listed += 1;
            report.add("blobs", format!("blob {name} holds other contents ({found})"));
        }
    }
    Ok(())
}

/// A memory may be in any of four tables, so no foreign key watches over what is said of its sources.
fn lineage(conn: &Connection, report: &mut Report) -> Result<()> {
    let orphans: i64 = conn.query_row(
        "SELECT count(DISTINCT memory_id) FROM memory_lineage WHERE
           memory_id NOT IN (SELECT episode_id FROM episodes)
           AND memory_id NOT IN (SELECT fact_id FROM knowledge_store)
           AND memory_id NOT IN (SELECT node_id FROM social_graph_nodes)
           AND memory_id NOT IN (SELECT edge_id FROM social_graph_edges)",
        [],
        |r| r.get(0),
    )?;
    if orphans > 0 {
        report.add("lineage", format!("sources are noted of {orphans} memories that are not there"));
    }
    Ok(())
}

/// Full-text and vector tables are named after their parent and must agree with it row by row.
fn companions(conn: &Connection, names: &[String], report: &mut Report) -> Result<()> {
    for parent in names {
        let indexed: bool = conn.query_row(
            "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?1 || '_fts_docsize')",
            [parent],
            |r| r.get(0),
        )?;
        if indexed {
            let (rows, indexed) = (count(conn, parent)?, count(conn, &format!("{parent}_fts_docsize"))?);
            if rows != indexed {
                report.add(
                    "fts",
                    format!(
                        "{parent} has {rows} rows, its full-text index {indexed}; run `vacuum --rebuild-fts`"
                    ),
                );
            }
        }
        if names.contains(&format!("{parent}_vec")) {
            let sql = format!(
                "SELECT count(*) FROM \"{parent}_vec\" WHERE id NOT IN (SELECT id FROM \"{parent}\")"
            );
            let orphans: i64 = conn.query_row(&sql, [], |r| r.get(0))?;
            if orphans > 0 {
                report.add(
                    "vectors",
                    format!("{orphans} vectors of {parent} belong to rows that are not there"),
                );
            }
        }
    }
    Ok(())
}

fn texts(conn: &Connection, sql: &str) -> Result<Vec<String>> {
    let mut statement = conn.prepare(sql)?;
    let rows = statement.query_map([], |r| r.get(0))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

fn count(conn: &Connection, table: &str) -> Result<u64> {
    let rows: i64 = conn.query_row(&format!("SELECT count(*) FROM \"{table}\""), [], |r| r.get(0))?;
    Ok(rows.unsigned_abs())
}
