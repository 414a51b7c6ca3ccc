//! Runs of the Learning Centre. Never two at once: the brain itself refuses the second.

use super::{Change, all, first, time, time_or_none, unsigned};
use crate::{Error, Result, Tx};
use contract::{BatchId, Timestamp};
use rusqlite::{Row, params};
use serde::{Deserialize, Serialize};

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$vdoc])* $variant),+ }

        impl $name {
            /// Every word, in the order of declaration.
            pub const ALL: &'static [$name] = &[$($name::$variant),+];

            /// The word in the brain and on the wire.
            pub const fn as_str(self) -> &'static str {
                match self { $($name::$variant => $word),+ }
            }

            /// Reads the word back.
            pub fn parse(text: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|w| w.as_str() == text)
            }
        }
    };
}

words!(
    /// Why a batch ran.
    Trigger {
        /// Its time had come.
        Schedule = "schedule",
        /// A task had become quiet.
        Quiet = "quiet",
        /// A person asked for it.
        Manual = "manual",
    }
);

words!(
    /// Column `learning_batches.state`.
    State {
        /// Under way.
        Running = "running",
        /// Every trajectory was learned from.
        Succeeded = "succeeded",
        /// Some were; the rest waits.
        Partial = "partial",
        /// None was.
        Failed = "failed",
    }
);

/// Rows a batch wrote, per store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// Episodes.
    pub episodes: u64,
    /// Facts.
    pub knowledge: u64,
    /// Nodes and edges.
    pub social: u64,
}

/// What a batch has done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Trajectories that were learned from.
    pub trajectories: u64,
    /// Rows written.
    pub written: Written,
    /// Items that were there already.
    pub duplicates: u64,
    /// Model tokens.
    pub tokens_used: u64,
}

/// A stored batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Its id.
    pub batch_id: BatchId,
    /// Why it ran.
    pub trigger: Trigger,
    /// Where it stands.
    pub state: State,
    /// What it did.
    pub progress: Progress,
    /// What went wrong.
    pub error: Option<String>,
    /// When it began.
    pub started_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
}

const COLUMNS: &str =
    "batch_id, \"trigger\", state, trajectories, written_json, duplicates, tokens_used, error,
    started_at, ended_at";

fn read(row: &Row<'_>) -> Result<Batch> {
    let id: String = row.get(0)?;
    let (trigger, state, written): (String, String, String) = (row.get(1)?, row.get(2)?, row.get(4)?);
    let wrong = |column| Error::bad_data(column, &id);
    Ok(Batch {
        batch_id: BatchId::parse(&id).map_err(|_| wrong("learning_batches.batch_id"))?,
        trigger: Trigger::parse(&trigger).ok_or_else(|| wrong("learning_batches.trigger"))?,
        state: State::parse(&state).ok_or_else(|| wrong("learning_batches.state"))?,
        progress: Progress {
            trajectories: unsigned(row, 3)?,
            written: serde_json::from_str(&written).map_err(|_| wrong("learning_batches.written_json"))?,
            duplicates: unsigned(row, 5)?,
            tokens_used: unsigned(row, 6)?,
        },
        error: row.get(7)?,
        started_at: time(row, 8)?,
        ended_at: time_or_none(row, 9)?,
    })
}

fn select(rest: &str) -> String {
    format!("SELECT {COLUMNS} FROM learning_batches {rest}")
}

/// Begins a batch; the one that is running, if there is one, is the answer instead.
pub fn start(
    tx: &Tx<'_>,
    id: &BatchId,
    trigger: Trigger,
    now: Timestamp,
) -> Result<std::result::Result<(), Batch>> {
    if let Some(batch) = running(tx)? {
        return Ok(Err(batch));
    }
    tx.conn()
        .prepare_cached(
            "INSERT INTO learning_batches (batch_id, \"trigger\", state, written_json, started_at)
             VALUES (?1, ?2, 'running', ?3, ?4)",
        )?
        .execute(params![id.as_str(), trigger.as_str(), json(Written::default()), now.millis()])?;
    Ok(Ok(()))
}

fn json(written: Written) -> String {
    serde_json::to_string(&written).expect("three numbers always serialise")
}

/// The batch that is running.
pub fn running(tx: &Tx<'_>) -> Result<Option<Batch>> {
    first(tx, &select("WHERE state = 'running'"), [], read)
}

/// Adds to what a running batch has done; belongs into the transaction that did it.
pub fn advance(tx: &Tx<'_>, id: &BatchId, more: Progress) -> Result<Change> {
    let Some(batch) = get(tx, id)? else { return Ok(Change::Missing) };
    let (was, add) = (batch.progress.written, more.written);
    let written = Written {
        episodes: was.episodes + add.episodes,
        knowledge: was.knowledge + add.knowledge,
        social: was.social + add.social,
    };
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let rows = tx
        .conn()
        .prepare_cached(
            "UPDATE learning_batches SET trajectories = trajectories + ?2, written_json = ?3,
                    duplicates = duplicates + ?4, tokens_used = tokens_used + ?5
             WHERE batch_id = ?1 AND state = 'running'",
        )?
        .execute(params![
            id.as_str(),
            number(more.trajectories),
            json(written),
            number(more.duplicates),
            number(more.tokens_used),
        ])?;
    Ok(Change::of(rows))
}

/// Ends a running batch.
pub fn finish(
    tx: &Tx<'_>,
    id: &BatchId,
    state: State,
    error: Option<&str>,
    now: Timestamp,
) -> Result<Change> {
    let rows = tx
        .conn()
        .prepare_cached(
            "UPDATE learning_batches SET state = ?2, error = ?3, ended_at = ?4
             WHERE batch_id = ?1 AND state = 'running'",
        )?
        .execute(params![id.as_str(), state.as_str(), error, now.millis()])?;
    Ok(Change::of(rows))
}

/// One batch.
pub fn get(tx: &Tx<'_>, id: &BatchId) -> Result<Option<Batch>> {
    first(tx, &select("WHERE batch_id = ?1"), [id.as_str()], read)
}

/// The newest batches, newest first.
pub fn recent(tx: &Tx<'_>, limit: u32) -> Result<Vec<Batch>> {
    all(tx, &select("ORDER BY started_at DESC, batch_id DESC LIMIT ?1"), [limit], read)
}
