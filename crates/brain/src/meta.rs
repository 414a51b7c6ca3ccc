//! Facts about the brain itself: its id, its generation, how it was last closed.

use crate::{Result, Tx};
use rusqlite::{OptionalExtension, params};

/// Made once, when the brain is created.
pub const BRAIN_ID: &str = "brain_id";
/// The highest orchestrator generation that has opened this brain.
pub const GENERATION: &str = "generation";
/// Milliseconds of creation.
pub const CREATED_AT: &str = "created_at";
/// Milliseconds of the last orderly close; removed while open.
pub const LAST_CLEAN_SHUTDOWN: &str = "last_clean_shutdown";
/// How many opens found no orderly close before them.
pub const CRASH_COUNT: &str = "crash_count";
/// Who makes the vectors.
pub const EMBEDDING_PROVIDER: &str = "embedding_provider";
/// With which model; vectors of another one do not count.
pub const EMBEDDING_MODEL: &str = "embedding_model";
/// Numbers per vector.
pub const EMBEDDING_DIM: &str = "embedding_dim";
/// The name of the space the vectors lie in: it also changes with an edition of the same model.
pub const EMBEDDING_SPACE: &str = "embedding_space";
/// Milliseconds: tasks that were quiet by then have had a learning batch.
pub const LEARNED_QUIET_UNTIL: &str = "learned_quiet_until";
/// Milliseconds: when a learning batch last began to look at everything.
pub const LEARNED_ALL_AT: &str = "learned_all_at";
/// What the learning batch that runs looks at, as JSON, so that the rest goes on after a death.
pub const LEARNING_NOW: &str = "learning_now";

/// Milliseconds: what turns that were begun before this show of how the person wants things does not count, because the
/// person has taken a learned line out of the soul then.
pub const PATTERNS_SINCE: &str = "patterns_since";

/// Reads one fact.
pub fn get(tx: &Tx<'_>, key: &str) -> Result<Option<String>> {
    Ok(tx
        .conn()
        .prepare_cached("SELECT value FROM brain_meta WHERE key = ?1")?
        .query_row([key], |r| r.get(0))
        .optional()?)
}

/// Writes one fact.
pub fn set(tx: &Tx<'_>, key: &str, value: &str) -> Result<()> {
    tx.conn()
        .prepare_cached(
            "INSERT INTO brain_meta (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        )?
        .execute(params![key, value])?;
    Ok(())
}

/// Forgets one fact.
pub fn remove(tx: &Tx<'_>, key: &str) -> Result<()> {
    tx.conn().prepare_cached("DELETE FROM brain_meta WHERE key = ?1")?.execute([key])?;
    Ok(())
}
