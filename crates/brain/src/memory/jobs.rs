//! Long work done in small steps: an import, making vectors anew. The state of a step is written with the step,
//! so after a restart the work goes on where it was.

use super::{Change, all, first, time, time_or_none};
use crate::{Error, Result, Tx};
use contract::Timestamp;
use rusqlite::{Row, params};
use serde_json::Value;

/// Column `jobs.kind`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A bundle is being applied.
    Import,
    /// Vectors of another model are being replaced.
    Reembed,
    /// A full-text index is being made anew.
    FtsRebuild,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 3] = [Kind::Import, Kind::Reembed, Kind::FtsRebuild];

    /// The word in the brain.
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Import => "import",
            Kind::Reembed => "reembed",
            Kind::FtsRebuild => "fts_rebuild",
        }
    }

    /// Reads the word back.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|k| k.as_str() == text)
    }
}

/// A stored job.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// Its id.
    pub job_id: String,
    /// What it does.
    pub kind: Kind,
    /// How far it is; the job's own business.
    pub state: Value,
    /// When it began.
    pub created_at: Timestamp,
    /// When it was done.
    pub finished_at: Option<Timestamp>,
}

const COLUMNS: &str = "job_id, kind, state_json, created_at, finished_at";

fn read(row: &Row<'_>) -> Result<Job> {
    let id: String = row.get(0)?;
    let (kind, state): (String, String) = (row.get(1)?, row.get(2)?);
    Ok(Job {
        kind: Kind::parse(&kind).ok_or_else(|| Error::bad_data("jobs.kind", &kind))?,
        state: serde_json::from_str(&state).map_err(|_| Error::bad_data("jobs.state_json", &id))?,
        created_at: time(row, 3)?,
        finished_at: time_or_none(row, 4)?,
        job_id: id,
    })
}

/// Begins a job.
pub fn start(tx: &Tx<'_>, id: &str, kind: Kind, state: &Value, now: Timestamp) -> Result<()> {
    tx.conn()
        .prepare_cached("INSERT INTO jobs (job_id, kind, state_json, created_at) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![id, kind.as_str(), state.to_string(), now.millis()])?;
    Ok(())
}

/// Notes how far a job is. [`Change::Missing`] when it is done or was never begun.
pub fn advance(tx: &Tx<'_>, id: &str, state: &Value) -> Result<Change> {
    let rows = tx
        .conn()
        .prepare_cached("UPDATE jobs SET state_json = ?2 WHERE job_id = ?1 AND finished_at IS NULL")?
        .execute(params![id, state.to_string()])?;
    Ok(Change::of(rows))
}

/// Ends a job with its last state. [`Change::Missing`] when it is done or was never begun.
pub fn finish(tx: &Tx<'_>, id: &str, state: &Value, now: Timestamp) -> Result<Change> {
    let rows = tx
        .conn()
        .prepare_cached(
            "UPDATE jobs SET state_json = ?2, finished_at = ?3 WHERE job_id = ?1 AND finished_at IS NULL",
        )?
        .execute(params![id, state.to_string(), now.millis()])?;
    Ok(Change::of(rows))
}

/// One job.
pub fn get(tx: &Tx<'_>, id: &str) -> Result<Option<Job>> {
    first(tx, &format!("SELECT {COLUMNS} FROM jobs WHERE job_id = ?1"), [id], read)
}

/// The jobs that are not done, oldest first.
pub fn unfinished(tx: &Tx<'_>) -> Result<Vec<Job>> {
    let sql = format!("SELECT {COLUMNS} FROM jobs WHERE finished_at IS NULL ORDER BY created_at, job_id");
    all(tx, &sql, [], read)
}
