//! The event log: the exact bytes every stream has sent or will send, in one order for the whole brain.

use crate::{Result, Tx};
use contract::event::{Event, Nested};
use contract::{TaskId, Timestamp, TurnId};
use rusqlite::{OptionalExtension, Row, params};

/// One stored event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEvent {
    /// Strictly increasing over the whole brain; the `id:` line.
    pub seq: i64,
    /// Its task, as text.
    pub task_id: String,
    /// Its turn, as text.
    pub turn_id: String,
    /// The `event:` line.
    pub event: String,
    /// The exact bytes of the `data:` line.
    pub data: String,
    /// When it was committed (milliseconds).
    pub ts: i64,
}

impl StoredEvent {
    /// The frame as sent: `id`, `event`, `data`, blank line.
    pub fn frame(&self) -> String {
        contract::event::frame(self.seq, &self.event, &self.data)
    }

    /// True for the last event of a turn.
    pub fn is_final(&self) -> bool {
        #[derive(serde::Deserialize)]
        struct Phase<'a> {
            phase: std::borrow::Cow<'a, str>,
        }
        self.event == "thread_lifecycle"
            && serde_json::from_str::<Phase<'_>>(&self.data).is_ok_and(|p| p.phase != "started")
    }
}

const COLUMNS: &str = "seq, task_id, turn_id, event, data, ts";

fn read(row: &Row<'_>) -> rusqlite::Result<StoredEvent> {
    Ok(StoredEvent {
        seq: row.get(0)?,
        task_id: row.get(1)?,
        turn_id: row.get(2)?,
        event: row.get(3)?,
        data: row.get(4)?,
        ts: row.get(5)?,
    })
}

fn collect(tx: &Tx<'_>, sql: &str, parameters: impl rusqlite::Params) -> Result<Vec<StoredEvent>> {
    let mut statement = tx.conn().prepare_cached(sql)?;
    let rows = statement.query_map(parameters, read)?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Appends an event to the log and returns it as stored.
pub fn append(
    tx: &Tx<'_>,
    task: &TaskId,
    turn: &TurnId,
    event: &Event,
    nested: Option<&Nested>,
    now: Timestamp,
) -> Result<StoredEvent> {
    let name = event.name().as_str();
    let data = event.data(task, turn, now, nested);
    tx.conn()
        .prepare_cached("INSERT INTO events (task_id, turn_id, event, data, ts) VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params![task.as_str(), turn.as_str(), name, data, now.millis()])?;
    Ok(StoredEvent {
        seq: tx.conn().last_insert_rowid(),
        task_id: task.as_str().to_owned(),
        turn_id: turn.as_str().to_owned(),
        event: name.to_owned(),
        data,
        ts: now.millis(),
    })
}

/// Events of one turn with `seq` greater than `after`, in order, at most `limit`.
pub fn of_turn(tx: &Tx<'_>, turn: &TurnId, after: i64, limit: u32) -> Result<Vec<StoredEvent>> {
    collect(
        tx,
        &format!("SELECT {COLUMNS} FROM events WHERE turn_id = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3"),
        params![turn.as_str(), after, limit],
    )
}

/// Events of one task with `seq` greater than `after`, in order.
pub fn of_task(tx: &Tx<'_>, task: &TaskId, after: i64, limit: u32) -> Result<Vec<StoredEvent>> {
    collect(
        tx,
        &format!("SELECT {COLUMNS} FROM events WHERE task_id = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3"),
        params![task.as_str(), after, limit],
    )
}

/// Events of all tasks with `seq` greater than `after`, in order.
pub fn of_all(tx: &Tx<'_>, after: i64, limit: u32) -> Result<Vec<StoredEvent>> {
    collect(
        tx,
        &format!("SELECT {COLUMNS} FROM events WHERE seq > ?1 ORDER BY seq LIMIT ?2"),
        params![after, limit],
    )
}

/// The `seq` after which everything is later than the instant `ts` (milliseconds): where a replay begins.
pub fn last_seq_until(tx: &Tx<'_>, ts: i64) -> Result<i64> {
    let first_later: Option<i64> = tx
        .conn()
        .prepare_cached("SELECT seq FROM events WHERE ts > ?1 ORDER BY ts, seq LIMIT 1")?
        .query_row([ts], |r| r.get(0))
        .optional()?;
    match first_later {
        Some(seq) => Ok(seq - 1),
        None => last_seq(tx),
    }
}

/// The newest stored event of a task; 0 when none is stored.
pub fn last_seq_of_task(tx: &Tx<'_>, task: &TaskId) -> Result<i64> {
    Ok(tx
        .conn()
        .prepare_cached("SELECT coalesce(max(seq), 0) FROM events WHERE task_id = ?1")?
        .query_row([task.as_str()], |r| r.get(0))?)
}

/// The highest `seq` ever given out.
pub fn last_seq(tx: &Tx<'_>) -> Result<i64> {
    Ok(tx
        .conn()
        .prepare_cached("SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'events'), 0)")?
        .query_row([], |r| r.get(0))?)
}

/// How many of a turn's events carry the given name.
pub fn count_of_turn(tx: &Tx<'_>, turn: &TurnId, name: &str) -> Result<u64> {
    Ok(tx
        .conn()
        .prepare_cached("SELECT count(*) FROM events WHERE turn_id = ?1 AND event = ?2")?
        .query_row(params![turn.as_str(), name], |r| r.get::<_, i64>(0))?
        .unsigned_abs())
}
