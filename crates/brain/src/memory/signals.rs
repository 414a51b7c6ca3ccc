//! Feedback: what the person thought of an answer. Kept until the person deletes it.

use super::{Change, all, first, time, time_or_none};
use crate::{Error, Result, Tx};
use contract::memory::Rating;
use contract::{MessageId, SignalId, Timestamp, TurnId};
use rusqlite::{Row, params};

/// One piece of feedback; at least one of rating, comment and corrected is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signal {
    /// Its id.
    pub signal_id: SignalId,
    /// The message it is about; the message may be gone.
    pub message_id: MessageId,
    /// The turn of that message.
    pub turn_id: TurnId,
    /// up or down.
    pub rating: Option<Rating>,
    /// In words.
    pub comment: Option<String>,
    /// What the answer should have been.
    pub corrected: Option<String>,
    /// When it was given.
    pub created_at: Timestamp,
    /// When it was learned from.
    pub processed_at: Option<Timestamp>,
}

const COLUMNS: &str = "signal_id, message_id, turn_id, rating, comment, corrected, created_at, processed_at";

fn read(row: &Row<'_>) -> Result<Signal> {
    let id: String = row.get(0)?;
    let (message, turn): (String, String) = (row.get(1)?, row.get(2)?);
    let rating: Option<String> = row.get(3)?;
    let wrong = |column| Error::bad_data(column, &id);
    Ok(Signal {
        signal_id: SignalId::parse(&id).map_err(|_| wrong("learning_signals.signal_id"))?,
        message_id: MessageId::parse(&message).map_err(|_| wrong("learning_signals.message_id"))?,
        turn_id: TurnId::parse(&turn).map_err(|_| wrong("learning_signals.turn_id"))?,
        rating: rating
            .map(|word| Rating::parse(&word).ok_or_else(|| wrong("learning_signals.rating")))
            .transpose()?,
        comment: row.get(4)?,
        corrected: row.get(5)?,
        created_at: time(row, 6)?,
        processed_at: time_or_none(row, 7)?,
    })
}

fn select(rest: &str) -> String {
    format!("SELECT {COLUMNS} FROM learning_signals {rest}")
}

/// Stores feedback. `Error::Constraint` when it says nothing.
pub fn insert(tx: &Tx<'_>, signal: &Signal) -> Result<()> {
    let sql = format!("INSERT INTO learning_signals ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)");
    tx.conn().prepare_cached(&sql)?.execute(params![
        signal.signal_id.as_str(),
        signal.message_id.as_str(),
        signal.turn_id.as_str(),
        signal.rating.map(Rating::as_str),
        signal.comment,
        signal.corrected,
        signal.created_at.millis(),
        signal.processed_at.map(Timestamp::millis),
    ])?;
    Ok(())
}

/// One piece of feedback.
pub fn get(tx: &Tx<'_>, id: &SignalId) -> Result<Option<Signal>> {
    first(tx, &select("WHERE signal_id = ?1"), [id.as_str()], read)
}

/// The feedback on a turn, oldest first.
pub fn of_turn(tx: &Tx<'_>, turn: &TurnId) -> Result<Vec<Signal>> {
    all(tx, &select("WHERE turn_id = ?1 ORDER BY created_at, signal_id"), [turn.as_str()], read)
}

pub(crate) const UNPROCESSED: &str = "WHERE processed_at IS NULL ORDER BY created_at, signal_id LIMIT ?1";

/// Feedback nobody has learned from, oldest first.
pub fn unprocessed(tx: &Tx<'_>, limit: u32) -> Result<Vec<Signal>> {
    all(tx, &select(UNPROCESSED), [limit], read)
}

pub(crate) const READY: &str = "WHERE processed_at IS NULL AND NOT EXISTS
    (SELECT 1 FROM trajectories t WHERE t.turn_id = learning_signals.turn_id AND t.state = 'pending')
    ORDER BY created_at, signal_id LIMIT ?1";

/// Feedback nobody has learned from on turns that were learned from before, oldest first. The other is looked at with
/// its turn.
pub fn ready(tx: &Tx<'_>, limit: u32) -> Result<Vec<Signal>> {
    all(tx, &select(READY), [limit], read)
}

/// The last feedback on a message.
pub fn last_of_message(tx: &Tx<'_>, message: &MessageId, turn: &TurnId) -> Result<Option<Signal>> {
    let rest = "WHERE turn_id = ?1 AND message_id = ?2 ORDER BY created_at DESC, signal_id DESC LIMIT 1";
    first(tx, &select(rest), params![turn.as_str(), message.as_str()], read)
}

/// Notes that feedback was learned from. [`Change::Missing`] when it was before.
pub fn processed(tx: &Tx<'_>, id: &SignalId, now: Timestamp) -> Result<Change> {
    let rows = tx
        .conn()
        .prepare_cached(
            "UPDATE learning_signals SET processed_at = ?2 WHERE signal_id = ?1 AND processed_at IS NULL",
        )?
        .execute(params![id.as_str(), now.millis()])?;
    Ok(Change::of(rows))
}

/// Ends up to `limit` pieces of feedback that wait to be learned from; how many there were.
pub fn end_waiting(tx: &Tx<'_>, limit: u32, now: Timestamp) -> Result<usize> {
    let sql = format!(
        "UPDATE learning_signals SET processed_at = ?2
         WHERE signal_id IN (SELECT signal_id FROM learning_signals {UNPROCESSED})"
    );
    Ok(tx.conn().prepare_cached(&sql)?.execute(params![limit, now.millis()])?)
}

/// A page of all feedback in the order of ids, after `after`.
pub fn page(tx: &Tx<'_>, after: Option<&SignalId>, limit: u32) -> Result<Vec<Signal>> {
    let after = after.map_or("", SignalId::as_str);
    all(tx, &select("WHERE signal_id > ?1 ORDER BY signal_id LIMIT ?2"), params![after, limit], read)
}

/// The newest first: of those that are older than `before`, or of all. The place outlives its feedback: who looks through
/// the list may delete what they have seen.
///
/// Reads every row: a person gives feedback by hand, and no index is kept for a list that is looked at once in a while.
pub fn newest(tx: &Tx<'_>, before: Option<&(Timestamp, SignalId)>, limit: u32) -> Result<Vec<Signal>> {
    let Some((at, id)) = before else {
        let newest = select("ORDER BY created_at DESC, signal_id DESC LIMIT ?1");
        return all(tx, &newest, [limit], read);
    };
    let older =
        select("WHERE (created_at, signal_id) < (?1, ?2) ORDER BY created_at DESC, signal_id DESC LIMIT ?3");
    all(tx, &older, params![at.millis(), id.as_str(), limit], read)
}

/// Forgets feedback for good. What rests on it: [`super::erase::of_signal`].
pub fn delete(tx: &Tx<'_>, id: &SignalId) -> Result<Change> {
    let rows = tx
        .conn()
        .prepare_cached("DELETE FROM learning_signals WHERE signal_id = ?1")?
        .execute([id.as_str()])?;
    if rows > 0 {
        tx.forget();
    }
    Ok(Change::of(rows))
}
