//! Forgetting on time: what the Engine keeps only for a while, and giving the space back.
//!
//! Everything happens in small writes between other people's writes, so a turn never waits for the broom
//! and SIGTERM always works. Running it twice, or never finishing, is harmless.

use crate::memory::chunks::{self, Owner};
use crate::{Brain, Result, Tx};
use contract::Timestamp;
use rusqlite::{OptionalExtension, params};
use serde::Serialize;

/// Rows deleted per write. Larger makes turns wait longer than 50 ms behind one chunk; smaller spends an
/// fsync on fewer rows.
const CHUNK_ROWS: usize = 400;
/// Blobs deleted per write; one may be many megabytes, and deleting overwrites them.
const CHUNK_BLOBS: usize = 2;
/// Pages given back per write (4 KiB each).
const CHUNK_PAGES: usize = 256;
/// Free pages left in the file, since the next turn would only ask for them again.
const SPARE_PAGES: usize = 1024;
/// A blob this young may belong to a turn that is about to refer to it.
const BLOB_GRACE_MS: i64 = 3_600_000;
/// How long a person may take to authorize a connector.
const OAUTH_STATE_MS: i64 = 600_000;
const DAY_MS: i64 = 86_400_000;

/// How long the kinds without an expiry of their own are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Days of `observability_events` and of the detail of `usage_log`.
    pub observability_days: u32,
    /// Days of `trajectories` after they were processed or given up.
    pub trajectory_days: u32,
}

impl Default for Policy {
    fn default() -> Self {
        Self { observability_days: 30, trajectory_days: 90 }
    }
}

/// What one run removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Events of turns whose channel state expired.
    pub events: usize,
    /// Those channel states.
    pub channel_states: usize,
    /// Expired working-memory entries.
    pub working_memory: usize,
    /// Old observability events.
    pub observability_events: usize,
    /// Usage rows summed into one row per day and model.
    pub usage_rows_summed: usize,
    /// Trajectories that were processed long ago.
    pub trajectories: usize,
    /// Previous keys past their time.
    pub keys: usize,
    /// Authorizations that nobody finished.
    pub oauth_states: usize,
    /// Pieces of documents nothing refers to.
    pub chunks: usize,
    /// Blobs nothing refers to.
    pub blobs: usize,
    /// Pages given back to the file system.
    pub pages: usize,
}

/// Removes everything whose time has come.
pub async fn run_once(brain: &Brain, now: Timestamp, policy: Policy) -> Result<Report> {
    let now = now.millis();
    let cutoff = now - i64::from(policy.observability_days) * DAY_MS;
    let mut report = Report::default();
    loop {
        let (events, turns, more) = brain.write("retention.events", move |tx| events(tx, now)).await?;
        report.events += events;
        report.channel_states += turns;
        if !more {
            break;
        }
    }
    report.working_memory = repeat(brain, "retention.working_memory", WORKING_MEMORY, now).await?;
    report.observability_events = repeat(brain, "retention.observability", OBSERVABILITY, cutoff).await?;
    report.oauth_states = repeat(brain, "retention.oauth_states", OAUTH_STATES, now - OAUTH_STATE_MS).await?;
    let learned = now - i64::from(policy.trajectory_days) * DAY_MS;
    report.trajectories = repeat(brain, "retention.trajectories", TRAJECTORIES, learned).await?;
    report.keys = repeat(brain, "retention.keys", KEYS, now).await?;
    loop {
        let summed = brain.write("retention.usage", move |tx| sum_usage(tx, cutoff)).await?;
        report.usage_rows_summed += summed;
        if summed < CHUNK_ROWS {
            break;
        }
    }
    (report.chunks, report.blobs) = blobs(brain, now - BLOB_GRACE_MS).await?;
    report.pages = give_back(brain).await?;
    Ok(report)
}

// Each deletes at most ?2 rows whose time, ?1, has come.
// A deletion stays while it hides an older entry that would otherwise come back.
const WORKING_MEMORY: &str = "DELETE FROM working_memory_log WHERE id IN
   (SELECT w.id FROM working_memory_log w WHERE w.expires_at <= ?1
      AND NOT EXISTS (SELECT 1 FROM working_memory_log o WHERE o.task_id = w.task_id AND o.key = w.key
                        AND o.id < w.id AND o.expires_at > ?1)
    ORDER BY w.expires_at LIMIT ?2)";
const OBSERVABILITY: &str = "DELETE FROM observability_events WHERE id IN
   (SELECT id FROM observability_events WHERE ts < ?1 ORDER BY ts LIMIT ?2)";
const OAUTH_STATES: &str = "DELETE FROM oauth_states WHERE state_hash IN
   (SELECT state_hash FROM oauth_states WHERE created_at < ?1 LIMIT ?2)";
const TRAJECTORIES: &str = "DELETE FROM trajectories WHERE turn_id IN
   (SELECT turn_id FROM trajectories WHERE processed_at IS NOT NULL AND processed_at < ?1 LIMIT ?2)";
const KEYS: &str = "DELETE FROM engine_keys WHERE id IN
   (SELECT id FROM engine_keys WHERE state = 'previous' AND forget_after <= ?1 LIMIT ?2)";

async fn repeat(brain: &Brain, name: &'static str, sql: &'static str, time: i64) -> Result<usize> {
    let mut total = 0;
    loop {
        let deleted = brain
            .write(name, move |tx| {
                Ok(tx.conn().prepare_cached(sql)?.execute(params![time, limit(CHUNK_ROWS)])?)
            })
            .await?;
        total += deleted;
        if deleted < CHUNK_ROWS {
            return Ok(total);
        }
    }
}

/// One chunk: events and channel states of turns that are over and expired; whether there may be more.
fn events(tx: &Tx<'_>, now: i64) -> Result<(usize, usize, bool)> {
    let conn = tx.conn();
    let (mut deleted, mut turns) = (0, 0);
    while deleted < CHUNK_ROWS && turns < CHUNK_ROWS {
        let turn: Option<String> = conn
            .prepare_cached(
                "SELECT s.turn_id FROM channel_state_snapshots s JOIN turns t ON t.turn_id = s.turn_id
                 WHERE s.expires_at <= ?1 AND t.state IN ('completed', 'errored')
                 ORDER BY s.expires_at LIMIT 1",
            )?
            .query_row([now], |r| r.get(0))
            .optional()?;
        let Some(turn) = turn else { return Ok((deleted, turns, false)) };
        let room = CHUNK_ROWS - deleted;
        let gone = conn
            .prepare_cached(
                "DELETE FROM events WHERE seq IN (SELECT seq FROM events WHERE turn_id = ?1 ORDER BY seq LIMIT ?2)",
            )?
            .execute(params![turn, limit(room)])?;
        deleted += gone;
        if gone < room {
            // The state goes last: while it is there, a stopped run finds the rest of its events.
            conn.prepare_cached("DELETE FROM channel_state_snapshots WHERE turn_id = ?1")?
                .execute([&turn])?;
            turns += 1;
        }
    }
    Ok((deleted, turns, true))
}

/// One chunk: old usage rows become part of their day's sum, which has neither turn nor task and stands
/// at the first instant of its day.
fn sum_usage(tx: &Tx<'_>, cutoff: i64) -> Result<usize> {
    let conn = tx.conn();
    conn.execute_batch(
        "CREATE TEMP TABLE IF NOT EXISTS usage_chunk (id INTEGER PRIMARY KEY); DELETE FROM temp.usage_chunk;",
    )?;
    let taken = conn
        .prepare_cached(
            "INSERT INTO temp.usage_chunk SELECT id FROM usage_log
             WHERE created_at < ?1 AND NOT (turn_id IS NULL AND task_id IS NULL AND created_at % 86400000 = 0)
             ORDER BY created_at LIMIT ?2",
        )?
        .execute(params![cutoff, limit(CHUNK_ROWS)])?;
    if taken == 0 {
        return Ok(0);
    }
    // The day's old sum joins the chunk, so that one new row replaces both.
    conn.prepare_cached(
        "INSERT INTO temp.usage_chunk SELECT s.id FROM usage_log s
         WHERE s.turn_id IS NULL AND s.task_id IS NULL AND s.created_at IN
           (SELECT DISTINCT d.created_at - d.created_at % 86400000
            FROM usage_log d JOIN temp.usage_chunk c ON c.id = d.id)
         AND s.id NOT IN (SELECT id FROM temp.usage_chunk)",
    )?
    .execute([])?;
    conn.prepare_cached(
        "INSERT INTO usage_log (turn_id, task_id, provider, model, purpose, calls, input_tokens, output_tokens,
                                cache_hit_tokens, estimated, duration_ms, created_at)
         SELECT NULL, NULL, provider, model, purpose, sum(calls), sum(input_tokens), sum(output_tokens),
                sum(cache_hit_tokens), estimated, sum(duration_ms), created_at - created_at % 86400000
         FROM usage_log WHERE id IN (SELECT id FROM temp.usage_chunk)
         GROUP BY provider, model, purpose, estimated, created_at - created_at % 86400000",
    )?
    .execute([])?;
    conn.prepare_cached("DELETE FROM usage_log WHERE id IN (SELECT id FROM temp.usage_chunk)")?.execute([])?;
    Ok(taken)
}

/// Looks for unreferenced blobs on a reader and deletes them by name, checking again inside the write. The
/// searchable pieces of a document go before it, some per write. How many pieces and blobs went.
async fn blobs(brain: &Brain, before: i64) -> Result<(usize, usize)> {
    let (mut pieces, mut total) = (0, 0);
    loop {
        let found: Vec<String> = brain
            .read("retention.find_blobs", move |tx| {
                let mut statement = tx.conn().prepare_cached(
                    "SELECT b.sha256 FROM blobs b WHERE b.created_at < ?1
                     AND NOT EXISTS (SELECT 1 FROM blob_refs r WHERE r.sha256 = b.sha256) LIMIT ?2",
                )?;
                let rows = statement.query_map(params![before, limit(CHUNK_ROWS)], |r| r.get(0))?;
                Ok(rows.collect::<rusqlite::Result<_>>()?)
            })
            .await?;
        for name in &found {
            pieces += document(brain, name).await?;
        }
        let mut deleted = 0;
        for names in found.chunks(CHUNK_BLOBS) {
            let names = names.to_vec();
            deleted += brain.write("retention.blobs", move |tx| delete_blobs(tx, &names)).await?;
        }
        total += deleted;
        if found.len() < CHUNK_ROWS || deleted == 0 {
            return Ok((pieces, total));
        }
    }
}

/// Deletes the searchable pieces of a document nothing refers to. Most blobs have none, and asking costs no
/// write.
async fn document(brain: &Brain, sha256: &str) -> Result<usize> {
    let name = sha256.to_owned();
    if !brain.read("retention.find_chunks", move |tx| chunks::any(tx, &name)).await? {
        return Ok(0);
    }
    let mut total = 0;
    loop {
        let name = sha256.to_owned();
        let deleted = brain
            .write("retention.chunks", move |tx| {
                chunks::remove(tx, Owner::ForgottenBlob(&name), limit(CHUNK_ROWS))
            })
            .await?;
        total += deleted;
        if deleted < CHUNK_ROWS {
            return Ok(total);
        }
    }
}

fn delete_blobs(tx: &Tx<'_>, names: &[String]) -> Result<usize> {
    let mut statement = tx.conn().prepare_cached(
        "DELETE FROM blobs WHERE sha256 = ?1 AND NOT EXISTS (SELECT 1 FROM blob_refs r WHERE r.sha256 = ?1)",
    )?;
    let mut deleted = 0;
    for name in names {
        deleted += statement.execute([name])?;
    }
    Ok(deleted)
}

/// Gives free pages back to the file system, some per write, and leaves a few.
async fn give_back(brain: &Brain) -> Result<usize> {
    let mut total = 0;
    loop {
        let (given, left) = brain.write("retention.pages", free_pages).await?;
        total += given;
        if given == 0 || left <= SPARE_PAGES {
            return Ok(total);
        }
    }
}

/// One step of incremental vacuum: pages given back, free pages left.
fn free_pages(tx: &Tx<'_>) -> Result<(usize, usize)> {
    let free = || -> Result<usize> {
        let pages: u32 = tx.conn().query_row("PRAGMA freelist_count", [], |r| r.get(0))?;
        Ok(usize::try_from(pages).unwrap_or(usize::MAX))
    };
    let before = free()?;
    let surplus = before.saturating_sub(SPARE_PAGES).min(CHUNK_PAGES);
    if surplus == 0 {
        return Ok((0, before));
    }
    // The pragma frees one page per step, so it must be stepped to its end.
    let mut statement = tx.conn().prepare(&format!("PRAGMA incremental_vacuum({surplus})"))?;
    let mut rows = statement.query([])?;
    while rows.next()?.is_some() {}
    let after = free()?;
    Ok((before.saturating_sub(after), after))
}

fn limit(rows: usize) -> i64 {
    i64::try_from(rows).unwrap_or(i64::MAX)
}
