//! Tasks: conversation threads named by their callers. They live until deleted.

use crate::memory::chunks::Owner;
use crate::turns::TurnState;
use crate::{Error, Result, Tx, meta};
use contract::conversation::Usage;
use contract::{TaskId, Timestamp};
use rusqlite::{OptionalExtension, Row, params};

/// A stored task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// Caller-chosen name.
    pub task_id: TaskId,
    /// First 80 characters of the first message.
    pub title: String,
    /// The agent of the last turn.
    pub agent: String,
    /// When the first turn was accepted.
    pub created_at: Timestamp,
    /// When something last changed.
    pub updated_at: Timestamp,
}

/// A task with what lists show about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// The task.
    pub task: Task,
    /// The state of its open turn, or `None` when idle.
    pub open: Option<TurnState>,
    /// Active messages of the main loop.
    pub messages: u64,
    /// Turns so far.
    pub turns: u64,
}

/// Where a list of tasks goes on: strictly after this entry, newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// `updated_at` of the last entry shown.
    pub updated_at: i64,
    /// Its name.
    pub task_id: String,
}

/// What a deletion removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Deleted {
    /// Messages, superseded ones included.
    pub messages: u64,
    /// Events still stored.
    pub events: u64,
}

fn task(row: &Row<'_>) -> rusqlite::Result<(String, String, String, i64, i64)> {
    Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?))
}

fn build((id, title, agent, created, updated): (String, String, String, i64, i64)) -> Result<Task> {
    Ok(Task {
        task_id: TaskId::parse(&id).map_err(|_| Error::bad_data("tasks.task_id", &id))?,
        title,
        agent,
        created_at: Timestamp::from_millis(created),
        updated_at: Timestamp::from_millis(updated),
    })
}

/// Creates the task if it does not exist and makes `agent` its present agent; true when created.
pub fn ensure(tx: &Tx<'_>, id: &TaskId, title: &str, agent: &str, now: Timestamp) -> Result<bool> {
    let inserted = tx
        .conn()
        .prepare_cached(
            "INSERT INTO tasks (task_id, title, agent, created_at, updated_at) VALUES (?1, ?2, ?3, ?4, ?4)
             ON CONFLICT (task_id) DO NOTHING",
        )?
        .execute(params![id.as_str(), title, agent, now.millis()])?;
    if inserted == 0 {
        tx.conn()
            .prepare_cached("UPDATE tasks SET agent = ?2, updated_at = ?3 WHERE task_id = ?1")?
            .execute(params![id.as_str(), agent, now.millis()])?;
    }
    Ok(inserted == 1)
}

/// One task.
pub fn get(tx: &Tx<'_>, id: &TaskId) -> Result<Option<Task>> {
    tx.conn()
        .prepare_cached("SELECT task_id, title, agent, created_at, updated_at FROM tasks WHERE task_id = ?1")?
        .query_row([id.as_str()], task)
        .optional()?
        .map(build)
        .transpose()
}

/// Notes that something about the task changed.
pub fn touch(tx: &Tx<'_>, id: &TaskId, now: Timestamp) -> Result<()> {
    tx.conn()
        .prepare_cached("UPDATE tasks SET updated_at = ?2 WHERE task_id = ?1")?
        .execute(params![id.as_str(), now.millis()])?;
    Ok(())
}

/// Hands out the next message position of a task.
pub fn next_position(tx: &Tx<'_>, id: &TaskId) -> Result<i64> {
    Ok(tx
        .conn()
        .prepare_cached(
            "UPDATE tasks SET next_position = next_position + 1 WHERE task_id = ?1 RETURNING next_position - 1",
        )?
        .query_row([id.as_str()], |r| r.get(0))?)
}

/// Which tasks a list shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// All of them.
    All,
    /// Without an open turn.
    Idle,
    /// Whose open turn is queued.
    Queued,
    /// Whose open turn is running or cancelling.
    Running,
    /// Whose open turn waits for a person.
    Paused,
}

/// Tasks, newest change first.
pub fn list(tx: &Tx<'_>, filter: Filter, after: Option<&Cursor>, limit: u32) -> Result<Vec<Summary>> {
    let condition = match filter {
        Filter::All => "1",
        Filter::Idle => "open IS NULL",
        Filter::Queued => "open = 'queued'",
        Filter::Running => "open IN ('running', 'cancelling')",
        Filter::Paused => "open = 'paused'",
    };
    let sql = format!(
        "SELECT task_id, title, agent, created_at, updated_at, open,
                (SELECT count(*) FROM conversations c
                  WHERE c.task_id = t.task_id AND c.parent_tool_call_id = '' AND c.status = 'active'),
                (SELECT count(*) FROM turns u WHERE u.task_id = t.task_id)
         FROM (SELECT tasks.*, (SELECT state FROM turns
                 WHERE turns.task_id = tasks.task_id
                   AND state IN ('queued', 'running', 'paused', 'cancelling')) AS open FROM tasks) t
         WHERE {condition} AND (updated_at < ?1 OR (updated_at = ?1 AND task_id > ?2))
         ORDER BY updated_at DESC, task_id LIMIT ?3"
    );
    let (at, id) = after.map_or((i64::MAX, ""), |c| (c.updated_at, c.task_id.as_str()));
    let mut statement = tx.conn().prepare_cached(&sql)?;
    let rows = statement.query_map(params![at, id, limit], |r| {
        Ok((task(r)?, r.get::<_, Option<String>>(5)?, r.get::<_, i64>(6)?, r.get::<_, i64>(7)?))
    })?;
    let mut out = Vec::new();
    for row in rows {
        let (t, open, messages, turns) = row?;
        out.push(summary(t, open, messages, turns)?);
    }
    Ok(out)
}

/// One task with what lists show about it.
pub fn get_summary(tx: &Tx<'_>, id: &TaskId) -> Result<Option<Summary>> {
    let row = tx
        .conn()
        .prepare_cached(
            "SELECT task_id, title, agent, created_at, updated_at,
                    (SELECT state FROM turns WHERE turns.task_id = t.task_id
                       AND state IN ('queued', 'running', 'paused', 'cancelling')),
                    (SELECT count(*) FROM conversations c
                      WHERE c.task_id = t.task_id AND c.parent_tool_call_id = '' AND c.status = 'active'),
                    (SELECT count(*) FROM turns u WHERE u.task_id = t.task_id)
             FROM tasks t WHERE task_id = ?1",
        )?
        .query_row([id.as_str()], |r| {
            Ok((task(r)?, r.get::<_, Option<String>>(5)?, r.get::<_, i64>(6)?, r.get::<_, i64>(7)?))
        })
        .optional()?;
    row.map(|(t, open, messages, turns)| summary(t, open, messages, turns)).transpose()
}

fn summary(
    raw: (String, String, String, i64, i64),
    open: Option<String>,
    messages: i64,
    turns: i64,
) -> Result<Summary> {
    let open =
        open.map(|s| TurnState::parse(&s).ok_or_else(|| Error::bad_data("turns.state", &s))).transpose()?;
    Ok(Summary { task: build(raw)?, open, messages: messages.unsigned_abs(), turns: turns.unsigned_abs() })
}

/// Tokens of all model calls of a task.
pub fn usage(tx: &Tx<'_>, id: &TaskId) -> Result<Usage> {
    Ok(tx
        .conn()
        .prepare_cached(
            "SELECT coalesce(sum(input_tokens), 0), coalesce(sum(output_tokens), 0), coalesce(sum(cache_hit_tokens), 0)
             FROM usage_log WHERE task_id = ?1",
        )?
        .query_row([id.as_str()], |r| {
            Ok(Usage {
                input_tokens: r.get::<_, i64>(0)?.unsigned_abs(),
                output_tokens: r.get::<_, i64>(1)?.unsigned_abs(),
                cache_hit_tokens: r.get::<_, i64>(2)?.unsigned_abs(),
            })
        })?)
}

/// Rows of one kind that a piece of a deletion removes. More holds up other writers; fewer takes more commits.
const PIECE_ROWS: u32 = 500;

/// The beginning of the name of the facts that mark tasks being deleted.
const DELETING: &str = "deleting:";

/// Marks a task as being deleted, with what was learned from it or without. The last piece takes the mark away.
pub fn begin_deletion(tx: &Tx<'_>, id: &TaskId, memories: bool) -> Result<()> {
    if get(tx, id)?.is_none() {
        return Ok(());
    }
    let mark = format!("{DELETING}{}", id.as_str());
    let memories = memories || meta::get(tx, &mark)?.as_deref() == Some("memories");
    meta::set(tx, &mark, if memories { "memories" } else { "history" })
}

/// True between the first and the last piece of a deletion.
pub fn is_being_deleted(tx: &Tx<'_>, id: &TaskId) -> Result<bool> {
    Ok(meta::get(tx, &format!("{DELETING}{}", id.as_str()))?.is_some())
}

/// Tasks whose deletion has begun, and whether their memories go along.
pub fn deletions(tx: &Tx<'_>) -> Result<Vec<(TaskId, bool)>> {
    let mut statement = tx.conn().prepare_cached(
        "SELECT substr(key, ?2), value FROM brain_meta WHERE substr(key, 1, ?2 - 1) = ?1 ORDER BY key",
    )?;
    let from = i64::try_from(DELETING.len()).unwrap_or(0) + 1;
    let rows = statement.query_map(params![DELETING, from], |r| Ok((r.get(0)?, r.get(1)?)))?;
    let mut found = Vec::new();
    for row in rows {
        let (id, what): (String, String) = row?;
        let task = TaskId::parse(&id).map_err(|_| Error::bad_data("brain_meta.key", &id))?;
        found.push((task, what == "memories"));
    }
    Ok(found)
}

/// A piece of a deletion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// What this piece removed.
    pub deleted: Deleted,
    /// True when the task is gone.
    pub done: bool,
}

/// Removes a piece of a task: its history, events, journal, prompts, trajectories, working memory, remembered
/// permissions, pieces of documents and the blobs nothing else refers to; what was learned stays. Call it until it says that it is done. Token counts stay, no longer
/// tied to the task.
pub fn delete_piece(tx: &Tx<'_>, id: &TaskId) -> Result<Piece> {
    let run = |sql: &str| -> Result<u64> {
        Ok(tx.conn().prepare_cached(sql)?.execute(params![id.as_str(), PIECE_ROWS])? as u64)
    };
    let full = u64::from(PIECE_ROWS);
    crate::memory::trajectories::forget_pending(tx, id)?;
    tx.forget();
    let events = run("DELETE FROM events WHERE seq IN (SELECT seq FROM events WHERE task_id = ?1 LIMIT ?2)")?;
    let effects = crate::blobs::release_owners(
        tx,
        "effects",
        "SELECT e.tool_call_id FROM turns t JOIN effects e ON e.turn_id = t.turn_id WHERE t.task_id = ?1 LIMIT ?2",
        "DELETE FROM effects WHERE tool_call_id = ?1",
        id,
        PIECE_ROWS,
    )?;
    let messages = crate::blobs::release_owners(
        tx,
        "conversations",
        "SELECT message_id FROM conversations WHERE task_id = ?1 LIMIT ?2",
        "DELETE FROM conversations WHERE message_id = ?1",
        id,
        PIECE_ROWS,
    )?;
    let chunks = crate::memory::chunks::remove(tx, Owner::Task(id), PIECE_ROWS)? as u64;
    let done = events < full && effects < full && messages < full && chunks < full;
    if done {
        let whole =
            |sql: &str| -> Result<usize> { Ok(tx.conn().prepare_cached(sql)?.execute([id.as_str()])?) };
        whole("UPDATE usage_log SET task_id = NULL, turn_id = NULL WHERE task_id = ?1")?;
        whole("DELETE FROM observability_events WHERE task_id = ?1")?;
        // turns with their prompts, trajectories and checkpoints, permissions, compactions and working memory go with the
        // task by foreign key
        whole("DELETE FROM tasks WHERE task_id = ?1")?;
        meta::remove(tx, &format!("{DELETING}{}", id.as_str()))?;
    }
    Ok(Piece { deleted: Deleted { messages, events }, done })
}
