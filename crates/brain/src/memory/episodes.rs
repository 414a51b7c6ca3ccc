//! Episodes: what happened, one row each, in the order of their task.

use super::age::{self, Age};
use super::columns::Columns;
use super::{Change, PROVENANCE, Provenance, Stored, all, each, first, provenance, time};
use crate::{Error, Result, Tx};
use contract::memory::EpisodeKind;
use contract::{EpisodeId, TaskId, Timestamp, TurnId};
use rusqlite::{Row, params};

/// One episode. Normalisation and hash are the writer's.
#[derive(Debug, Clone, PartialEq)]
pub struct Episode {
    /// Its id.
    pub episode_id: EpisodeId,
    /// turn, event or note.
    pub kind: EpisodeKind,
    /// A short name.
    pub key: String,
    /// What happened.
    pub description: String,
    /// More about it.
    pub value: Option<String>,
    /// The task it happened in; the task may be gone.
    pub task_id: Option<TaskId>,
    /// The turn it happened in; the turn may be gone.
    pub turn_id: Option<TurnId>,
    /// Its place in the task; none = it has no neighbours.
    pub position: Option<i64>,
    /// When it happened.
    pub occurred_at: Timestamp,
    /// Of the normalised text and key.
    pub content_hash: String,
    /// Where it comes from.
    pub provenance: Provenance,
}

const COLUMNS: &str =
    "id, episode_id, kind, key, description, value, task_id, turn_id, position, occurred_at,
    content_hash";

fn read(row: &Row<'_>) -> Result<Stored<Episode>> {
    let id: String = row.get(1)?;
    let kind: String = row.get(2)?;
    let task: Option<String> = row.get(6)?;
    let turn: Option<String> = row.get(7)?;
    let wrong = |column| Error::bad_data(column, &id);
    Ok(Stored {
        row: row.get(0)?,
        item: Episode {
            episode_id: EpisodeId::parse(&id).map_err(|_| wrong("episodes.episode_id"))?,
            kind: EpisodeKind::parse(&kind).ok_or_else(|| wrong("episodes.kind"))?,
            key: row.get(3)?,
            description: row.get(4)?,
            value: row.get(5)?,
            task_id: task.map(|t| TaskId::parse(&t)).transpose().map_err(|_| wrong("episodes.task_id"))?,
            turn_id: turn.map(|t| TurnId::parse(&t)).transpose().map_err(|_| wrong("episodes.turn_id"))?,
            position: row.get(8)?,
            occurred_at: time(row, 9)?,
            content_hash: row.get(10)?,
            provenance: provenance(row, 11)?,
        },
    })
}

fn select(rest: &str) -> String {
    format!("SELECT {COLUMNS}, {PROVENANCE} FROM episodes {rest}")
}

fn columns<'e>(episode: &'e Episode, search_text: &'e str) -> Columns<'e> {
    Columns::of("episode_id", episode.episode_id.as_str(), &episode.provenance)
        .and("kind", episode.kind.as_str())
        .and("key", &episode.key)
        .and("description", &episode.description)
        .and("value", &episode.value)
        .and("task_id", episode.task_id.as_ref().map(TaskId::as_str))
        .and("turn_id", episode.turn_id.as_ref().map(TurnId::as_str))
        .and("position", episode.position)
        .and("occurred_at", episode.occurred_at.millis())
        .and("content_hash", &episode.content_hash)
        .and("search_text", search_text)
}

/// Stores a new episode and returns its row.
pub fn insert(tx: &Tx<'_>, episode: &Episode, search_text: &str) -> Result<i64> {
    columns(episode, search_text).insert(tx, "episodes")
}

/// Writes everything of an episode but its id. Another `search_text` drops the vector.
pub fn replace(tx: &Tx<'_>, episode: &Episode, search_text: &str) -> Result<Change> {
    columns(episode, search_text).replace(tx, "episodes").map(Change::of)
}

/// One episode.
pub fn get(tx: &Tx<'_>, id: &EpisodeId) -> Result<Option<Stored<Episode>>> {
    first(tx, &select("WHERE episode_id = ?1"), [id.as_str()], read)
}

/// The episodes of these rows, in this order; those that are gone are left out.
pub fn by_rows(tx: &Tx<'_>, rows: &[i64]) -> Result<Vec<Stored<Episode>>> {
    each(tx, &select("WHERE id = ?1"), rows, read)
}

/// The newest episode with this hash.
pub fn by_hash(tx: &Tx<'_>, content_hash: &str) -> Result<Option<Stored<Episode>>> {
    first(tx, &select("WHERE content_hash = ?1 ORDER BY id DESC LIMIT 1"), [content_hash], read)
}

/// The newest first: of those that are older than `before`, or of all.
pub fn newest(tx: &Tx<'_>, before: Option<Age>, limit: u32) -> Result<Vec<Stored<Episode>>> {
    let (at, row) = Age::bounds(before);
    all(tx, &select(age::OLDER), params![at, row, limit], read)
}

/// The rows of what happened from one instant to before another, the newest first.
pub fn within(tx: &Tx<'_>, start: Timestamp, end: Timestamp, limit: u32) -> Result<Vec<i64>> {
    all(tx, WITHIN, params![start.millis(), end.millis(), limit], |row| Ok(row.get(0)?))
}

pub(crate) const WITHIN: &str = "SELECT id FROM episodes
    WHERE occurred_at >= ?1 AND occurred_at < ?2 ORDER BY occurred_at DESC, id DESC LIMIT ?3";

/// A page of all episodes in the order of their rows, after row `after`.
pub fn page(tx: &Tx<'_>, after: i64, limit: u32) -> Result<Vec<Stored<Episode>>> {
    all(tx, &select("WHERE id > ?1 ORDER BY id LIMIT ?2"), params![after, limit], read)
}

/// The episodes of a turn.
pub fn of_turn(tx: &Tx<'_>, task: &TaskId, turn: &TurnId) -> Result<Vec<Stored<Episode>>> {
    let sql = select("WHERE task_id = ?1 AND turn_id = ?2 ORDER BY id");
    all(tx, &sql, params![task.as_str(), turn.as_str()], read)
}

/// The rows of the episodes directly before and directly after one, in its task.
pub fn neighbours(tx: &Tx<'_>, id: &EpisodeId) -> Result<Vec<i64>> {
    let place = first(tx, PLACE, [id.as_str()], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    let Some((Some(task), Some(position), row)): Option<(Option<String>, Option<i64>, i64)> = place else {
        return Ok(Vec::new());
    };
    let mut found = Vec::new();
    for sql in [BEFORE, AFTER] {
        found.extend(first(tx, sql, params![task, position, row], |row| Ok(row.get::<_, i64>(0)?))?);
    }
    Ok(found)
}

const PLACE: &str = "SELECT task_id, position, id FROM episodes WHERE episode_id = ?1";
pub(crate) const BEFORE: &str = "SELECT id FROM episodes
    WHERE task_id = ?1 AND (position, id) < (?2, ?3) ORDER BY position DESC, id DESC LIMIT 1";
pub(crate) const AFTER: &str = "SELECT id FROM episodes
    WHERE task_id = ?1 AND (position, id) > (?2, ?3) ORDER BY position, id LIMIT 1";
