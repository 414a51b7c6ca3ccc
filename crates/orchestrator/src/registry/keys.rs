//! Engine keys as stored: walking all of them, sealing them anew, replacing a damaged one.
//!
//! Sealing anew compares and swaps, so it can run online, twice, and next to rotations; it is no change of the engine
//! and leaves the revision alone.

use super::audit;
use super::cells::{Cells, engine_columns};
use super::db::{Query, retried};
use super::error::Fault;
use super::fleet_view::PAGE;
use super::patch::{engine_notice, exists};
use super::reserve::insert_operation;
use super::{AuditEntry, Engine, NewOperation, Outcome, Registry, RegistryError, SealedKey};
use contract::EngineId;
use uuid::Uuid;

const KEYS: Query = Query::new(
    "keys",
    "SELECT id, engine_key_hash, engine_key_enc, next_engine_key_hash, next_engine_key_enc FROM engines \
     WHERE id > $1 ORDER BY id LIMIT $2",
);

const RESEAL: Query = Query::new(
    "reseal",
    "UPDATE engines SET engine_key_enc = $3 WHERE id = $1 AND engine_key_enc = $2 RETURNING id",
);

const RESEAL_NEXT: Query = Query::new(
    "reseal_next",
    "UPDATE engines SET next_engine_key_enc = $3 WHERE id = $1 AND next_engine_key_enc = $2 RETURNING id",
);

const REPLACE_KEY: Query = Query::new(
    "replace_key",
    concat!(
        "UPDATE engines AS e SET engine_key_hash = $3, engine_key_enc = $4, next_engine_key_hash = NULL, \
         next_engine_key_enc = NULL, key_rotated_at = clock_timestamp(), revision = e.revision + 1, \
         updated_at = clock_timestamp() WHERE e.id = $1 AND e.revision = $2 RETURNING ",
        engine_columns!()
    ),
);

impl Registry {
    /// Hands over every engine's key and, where a rotation is under way, the next one.
    pub async fn keys(
        &self,
        mut each: impl FnMut(EngineId, SealedKey, Option<SealedKey>),
    ) -> Result<(), RegistryError> {
        let mut after = Uuid::nil();
        loop {
            let conn = self.database.conn().await?;
            let rows = conn.rows(&KEYS, &[&after, &PAGE]).await?;
            drop(conn);
            for row in &rows {
                let mut cells = Cells::of(row);
                after = cells.cell()?;
                let key = SealedKey { hash: cells.cell()?, sealed: cells.cell()? };
                let next = match (cells.cell()?, cells.cell()?) {
                    (Some(hash), Some(sealed)) => Some(SealedKey { hash, sealed }),
                    _ => None,
                };
                each(EngineId::from_uuid(after), key, next);
            }
            if i64::try_from(rows.len()).unwrap_or(PAGE) < PAGE {
                return Ok(());
            }
        }
    }

    /// Replaces one sealed form of the current (or, with `next`, the next) key by another; false when it changed.
    pub async fn reseal(
        &self,
        engine_id: EngineId,
        old: &str,
        new: &str,
        next: bool,
    ) -> Result<bool, RegistryError> {
        let conn = self.database.conn().await?;
        let query = if next { &RESEAL_NEXT } else { &RESEAL };
        Ok(conn.maybe(query, &[&engine_id.uuid(), &old, &new]).await?.is_some())
    }

    /// Gives an engine a new key at once (`reissue-key`), ends a rotation under way, and opens the operation that
    /// brings the key to the engine. Unchanged when the revision moved on or another operation is open.
    pub async fn replace_key(
        &self,
        engine_id: EngineId,
        revision: i64,
        key: &SealedKey,
        operation: Option<&NewOperation>,
        audit: &[AuditEntry],
    ) -> Result<Outcome<Engine>, RegistryError> {
        audit::check(audit)?;
        retried!(self.replace_key_once(engine_id, revision, key, operation, audit))
    }

    async fn replace_key_once(
        &self,
        engine_id: EngineId,
        revision: i64,
        key: &SealedKey,
        operation: Option<&NewOperation>,
        audit: &[AuditEntry],
    ) -> Result<Outcome<Engine>, Fault> {
        let mut conn = self.database.conn().await?;
        let tx = conn.begin().await?;
        let row = tx.maybe(&REPLACE_KEY, &[&engine_id.uuid(), &revision, &key.hash, &key.sealed]).await?;
        let Some(row) = row else {
            let there = exists(&tx, engine_id).await?;
            return Ok(if there { Outcome::Unchanged } else { Outcome::Missing });
        };
        let engine = Cells::of(&row).engine()?;
        if let Some(new) = operation
            && insert_operation(&tx, &engine, new).await?.is_none()
        {
            return Ok(Outcome::Unchanged);
        }
        audit::insert(&tx, audit).await?;
        tx.tell(&[engine_notice(&engine)]).await?;
        tx.commit().await?;
        Ok(Outcome::Changed(engine))
    }
}
