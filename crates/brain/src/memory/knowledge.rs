//! Knowledge: what holds, since when, and until when. A fact that stopped holding is closed, not deleted.

use super::age::{self, Age};
use super::columns::Columns;
use super::{Change, PROVENANCE, Provenance, Stored, all, each, first, provenance, time, time_or_none};
use crate::{Error, Result, Tx};
use contract::memory::FactType;
use contract::{FactId, Timestamp};
use rusqlite::{Row, params};

/// Facts of one subject, or with one hash, that a write is compared with. More would make one write slow;
/// fewer would let a subject that is talked about a lot collect contradictions.
pub const COMPARED: u32 = 200;

/// One piece of knowledge. Normalisation and hash are the writer's.
#[derive(Debug, Clone, PartialEq)]
pub struct Fact {
    /// Its id.
    pub fact_id: FactId,
    /// What it is about.
    pub subject: String,
    /// The same, normalised: facts of one subject are found by it.
    pub subject_norm: String,
    /// What is said.
    pub content: String,
    /// fact, rule, preference, procedure.
    pub kind: FactType,
    /// Since when it holds.
    pub valid_from: Timestamp,
    /// Until when; none = open.
    pub valid_until: Option<Timestamp>,
    /// The fact that took its place.
    pub superseded_by: Option<FactId>,
    /// Of the normalised text and subject.
    pub content_hash: String,
    /// Where it comes from.
    pub provenance: Provenance,
}

const COLUMNS: &str =
    "id, fact_id, subject, subject_norm, content, type, valid_from, valid_until, superseded_by,
    content_hash";

fn read(row: &Row<'_>) -> Result<Stored<Fact>> {
    let id: String = row.get(1)?;
    let kind: String = row.get(5)?;
    let by: Option<String> = row.get(8)?;
    let wrong = |column| Error::bad_data(column, &id);
    Ok(Stored {
        row: row.get(0)?,
        item: Fact {
            fact_id: FactId::parse(&id).map_err(|_| wrong("knowledge_store.fact_id"))?,
            subject: row.get(2)?,
            subject_norm: row.get(3)?,
            content: row.get(4)?,
            kind: FactType::parse(&kind).ok_or_else(|| wrong("knowledge_store.type"))?,
            valid_from: time(row, 6)?,
            valid_until: time_or_none(row, 7)?,
            superseded_by: by
                .map(|by| FactId::parse(&by))
                .transpose()
                .map_err(|_| wrong("knowledge_store.superseded_by"))?,
            content_hash: row.get(9)?,
            provenance: provenance(row, 10)?,
        },
    })
}

fn select(rest: &str) -> String {
    format!("SELECT {COLUMNS}, {PROVENANCE} FROM knowledge_store {rest}")
}

fn columns<'f>(fact: &'f Fact, search_text: &'f str) -> Columns<'f> {
    Columns::of("fact_id", fact.fact_id.as_str(), &fact.provenance)
        .and("subject", &fact.subject)
        .and("subject_norm", &fact.subject_norm)
        .and("content", &fact.content)
        .and("type", fact.kind.as_str())
        .and("valid_from", fact.valid_from.millis())
        .and("valid_until", fact.valid_until.map(Timestamp::millis))
        .and("superseded_by", fact.superseded_by.as_ref().map(FactId::as_str))
        .and("content_hash", &fact.content_hash)
        .and("search_text", search_text)
}

/// Stores a new fact and returns its row.
pub fn insert(tx: &Tx<'_>, fact: &Fact, search_text: &str) -> Result<i64> {
    columns(fact, search_text).insert(tx, "knowledge_store")
}

/// Writes everything of a fact but its id. Another `search_text` drops the vector.
pub fn replace(tx: &Tx<'_>, fact: &Fact, search_text: &str) -> Result<Change> {
    columns(fact, search_text).replace(tx, "knowledge_store").map(Change::of)
}

/// Ends the validity of a fact. [`Change::Missing`] also when it has ended by then already.
pub fn close(
    tx: &Tx<'_>,
    id: &FactId,
    valid_until: Timestamp,
    superseded_by: Option<&FactId>,
    now: Timestamp,
) -> Result<Change> {
    let rows = tx
        .conn()
        .prepare_cached(
            "UPDATE knowledge_store SET valid_until = ?2, superseded_by = ?3, updated_at = ?4
             WHERE fact_id = ?1 AND (valid_until IS NULL OR valid_until > ?2)",
        )?
        .execute(params![
            id.as_str(),
            valid_until.millis(),
            superseded_by.map(FactId::as_str),
            now.millis()
        ])?;
    Ok(Change::of(rows))
}

/// Gives back what a fact had taken the place of, before the fact is erased: it holds again, or until the one that took
/// the place of the erased one. What ended for another reason stays ended.
pub fn reopen(tx: &Tx<'_>, erased: &FactId) -> Result<()> {
    tx.conn()
        .prepare_cached(
            "UPDATE knowledge_store AS older
             SET valid_until = iif(e.superseded_by IS NULL OR e.superseded_by = older.fact_id, NULL, e.valid_until),
                 superseded_by = nullif(e.superseded_by, older.fact_id)
             FROM knowledge_store AS e WHERE e.fact_id = ?1 AND older.superseded_by = ?1",
        )?
        .execute([erased.as_str()])?;
    Ok(())
}

/// Lets what a fact took the place of have been replaced by another that says the same.
pub fn hand_over(tx: &Tx<'_>, gone: &FactId, into: &FactId) -> Result<()> {
    tx.conn()
        .prepare_cached(
            "UPDATE knowledge_store SET superseded_by = nullif(?2, fact_id) WHERE superseded_by = ?1",
        )?
        .execute([gone.as_str(), into.as_str()])?;
    Ok(())
}

/// One fact.
pub fn get(tx: &Tx<'_>, id: &FactId) -> Result<Option<Stored<Fact>>> {
    first(tx, &select("WHERE fact_id = ?1"), [id.as_str()], read)
}

/// The facts of these rows, in this order; those that are gone are left out.
pub fn by_rows(tx: &Tx<'_>, rows: &[i64]) -> Result<Vec<Stored<Fact>>> {
    each(tx, &select("WHERE id = ?1"), rows, read)
}

/// The facts with this hash, open and closed ones, newest first: at most [`COMPARED`].
pub fn by_hash(tx: &Tx<'_>, content_hash: &str) -> Result<Vec<Stored<Fact>>> {
    let sql = select("WHERE content_hash = ?1 ORDER BY id DESC LIMIT ?2");
    all(tx, &sql, params![content_hash, COMPARED], read)
}

pub(crate) const OPEN: &str =
    "WHERE subject_norm = ?1 AND type = ?2 AND (valid_until IS NULL OR valid_until > ?3)
     ORDER BY id DESC LIMIT ?4";

/// The facts of a subject and type that still hold at `now`, newest first: at most [`COMPARED`].
pub fn open(tx: &Tx<'_>, subject_norm: &str, kind: FactType, now: Timestamp) -> Result<Vec<Stored<Fact>>> {
    let parameters = params![subject_norm, kind.as_str(), now.millis(), COMPARED];
    all(tx, &select(OPEN), parameters, read)
}

/// The newest first: of those that are older than `before`, or of all.
pub fn newest(tx: &Tx<'_>, before: Option<Age>, limit: u32) -> Result<Vec<Stored<Fact>>> {
    let (at, row) = Age::bounds(before);
    all(tx, &select(age::OLDER), params![at, row, limit], read)
}

/// The rows of what began to be so from one instant to before another, the newest first.
pub fn within(tx: &Tx<'_>, start: Timestamp, end: Timestamp, limit: u32) -> Result<Vec<i64>> {
    all(tx, WITHIN, params![start.millis(), end.millis(), limit], |row| Ok(row.get(0)?))
}

pub(crate) const WITHIN: &str = "SELECT id FROM knowledge_store
    WHERE valid_from >= ?1 AND valid_from < ?2 ORDER BY valid_from DESC, id DESC LIMIT ?3";

/// A page of all facts in the order of their rows, after row `after`.
pub fn page(tx: &Tx<'_>, after: i64, limit: u32) -> Result<Vec<Stored<Fact>>> {
    all(tx, &select("WHERE id > ?1 ORDER BY id LIMIT ?2"), params![after, limit], read)
}
