//! Operations: opening one (with the change of intent it stands for) and ending it (with everything that follows).
//!
//! At most one is open per engine. A write under an old claim, or on an old revision, changes nothing at all.

use super::audit;
use super::cells::{Cells, operation_columns, storable};
use super::db::{Query, Tx, retried};
use super::error::{Fault, RegistryError};
use super::notify::Notice;
use super::patch::{Besides, Guard, Written, apply, exists};
use super::reserve::{insert_operation, operation_notice};
use super::{Engine, EnginePatch, Finish, Open, OpenOutcome, Operation, Outcome, Registry};
use contract::{EngineId, OperationId, ProductId, Timestamp};
use fleet::operation::{OperationKind, OperationStatus};
use serde_json::Value;
use uuid::Uuid;

const OPERATION: Query =
    Query::new("operation", concat!("SELECT ", operation_columns!(), " FROM operations o WHERE o.id = $1"));

const SUPERSEDE: Query = Query::new(
    "supersede",
    concat!(
        "UPDATE operations AS o SET status = 'superseded', finished_at = clock_timestamp() \
         WHERE o.id = $1 AND o.engine_id = $2 AND o.status = 'open' RETURNING ",
        operation_columns!()
    ),
);

const COUNT_TOTALS: Query = Query::new(
    "count_totals",
    "UPDATE products SET total_provisions = total_provisions + $2, total_destroys = total_destroys + $3 \
     WHERE id = (SELECT product_id FROM operations WHERE id = $1)",
);

const DELETE_ENGINE: Query = Query::new(
    "delete_engine",
    "DELETE FROM engines WHERE id = $1 AND revision = $2 RETURNING product_id, revision + 1",
);

const FINISH: Query = Query::new(
    "finish",
    concat!(
        "UPDATE operations AS o SET status = $3, finished_at = clock_timestamp(), lease_until = clock_timestamp(), \
         retry_at = NULL, error_code = $4, error_message = $5, params = o.params || $6, timings = o.timings || $7 \
         WHERE o.id = $1 AND o.claim = $2 AND o.status = 'open' RETURNING ",
        operation_columns!()
    ),
);

const HOLD: Query = Query::new(
    "hold_claim",
    "SELECT TRUE FROM operations WHERE id = $1 AND claim = $2 AND status = 'open' FOR UPDATE",
);

const NOTE_GENERATION: Query = Query::new(
    "note_generation",
    "UPDATE operations SET params = params || jsonb_build_object('generation', $3::bigint) \
     WHERE id = $1 AND claim = $2 AND status = 'open' RETURNING id",
);

const OPERATION_EXISTS: Query = Query::new("operation_exists", "SELECT TRUE FROM operations WHERE id = $1");

const OPEN_COUNTS: Query = Query::new(
    "open_counts",
    "SELECT kind, count(*) FROM operations WHERE status = 'open' GROUP BY kind ORDER BY kind",
);

const OLDEST_OPEN: Query = Query::new(
    "oldest_open",
    "SELECT COALESCE(EXTRACT(EPOCH FROM clock_timestamp() - min(started_at)), 0)::float8 \
     FROM operations WHERE status = 'open'",
);

const LAST_BOOTS: Query = Query::new(
    "last_boots",
    "SELECT (timings->>'boot')::bigint FROM operations \
     WHERE finished_at IS NOT NULL AND status = 'succeeded' AND jsonb_typeof(timings->'boot') = 'number' \
     ORDER BY finished_at DESC LIMIT $1",
);

const LAST_SCHEDULED_WAKE: Query = Query::new(
    "last_scheduled_wake",
    "SELECT params->>'wake_at' FROM operations \
     WHERE engine_id = $1 AND kind = 'wake' AND status = 'succeeded' AND params->>'reason' = 'schedule' \
     ORDER BY finished_at DESC LIMIT 1",
);

impl Registry {
    /// The time for which this engine was last woken by its schedule.
    pub async fn last_scheduled_wake(&self, id: EngineId) -> Result<Option<Timestamp>, RegistryError> {
        let conn = self.database.conn().await?;
        let row = conn.maybe(&LAST_SCHEDULED_WAKE, &[&id.uuid()]).await?;
        let text = row.map(|row| Cells::of(&row).cell::<Option<String>>()).transpose()?.flatten();
        Ok(text.and_then(|text| Timestamp::parse(&text)))
    }

    /// Opens an operation together with the change of intent it stands for.
    pub async fn open(&self, open: &Open) -> Result<OpenOutcome, RegistryError> {
        audit::check(&open.audit)?;
        retried!(self.open_once(open))
    }

    async fn open_once(&self, open: &Open) -> Result<OpenOutcome, Fault> {
        let mut conn = self.database.conn().await?;
        let tx = conn.begin().await?;
        let guard = open.fence.map_or(Guard::Revision, Guard::Fence);
        let engine =
            match apply(&tx, open.engine_id, open.revision, &open.patch, guard, Besides::Nothing).await? {
                Written::Row(engine) => engine,
                Written::Refused => return Ok(OpenOutcome::Unchanged),
                Written::Missing => return Ok(OpenOutcome::Missing),
            };
        if open.backend.is_some_and(|kind| kind != engine.backend) {
            return Ok(OpenOutcome::OtherBackend(engine.backend));
        }
        if let Some(old) = open.supersede {
            let Some(row) = tx.maybe(&SUPERSEDE, &[&old.uuid(), &open.engine_id.uuid()]).await? else {
                return Ok(OpenOutcome::Unchanged);
            };
            tx.tell(&[operation_notice(&Cells::of(&row).operation()?)]).await?;
        }
        let Some(operation) = insert_operation(&tx, &engine, &open.operation).await? else {
            return Ok(OpenOutcome::Unchanged);
        };
        audit::insert(&tx, &open.audit).await?;
        tx.commit().await?;
        Ok(OpenOutcome::Opened(Box::new((*engine, operation))))
    }

    /// An operation, open or ended.
    pub async fn operation(&self, id: OperationId) -> Result<Option<Operation>, RegistryError> {
        let conn = self.database.conn().await?;
        let row = conn.maybe(&OPERATION, &[&id.uuid()]).await?;
        row.map(|row| Cells::of(&row).operation()).transpose()
    }

    /// Ends an operation: its row, the engine's row, the product's totals and the log, all or nothing. `Changed(None)`
    /// when the engine's row was deleted.
    pub async fn finish(&self, finish: &Finish) -> Result<Outcome<Option<Engine>>, RegistryError> {
        audit::check(&finish.audit)?;
        retried!(self.finish_once(finish))
    }

    async fn finish_once(&self, finish: &Finish) -> Result<Outcome<Option<Engine>>, Fault> {
        let mut conn = self.database.conn().await?;
        let tx = conn.begin().await?;
        let id = finish.operation.uuid();
        let (provisions, destroys) = (i64::from(finish.count_provision), i64::from(finish.count_destroy));
        if provisions + destroys > 0 {
            tx.rows(&COUNT_TOTALS, &[&id, &provisions, &destroys]).await?;
        }
        let engine = if finish.delete_engine {
            match delete_engine(&tx, finish.engine_id, finish.revision).await? {
                Written::Refused => return Ok(Outcome::Unchanged),
                // Gone already is what was wanted.
                Written::Row(_) | Written::Missing => None,
            }
        } else {
            let (engine, revision) = (finish.engine_id, finish.revision);
            match apply(&tx, engine, revision, &finish.patch, Guard::Revision, Besides::Nothing).await? {
                Written::Row(engine) => Some(*engine),
                Written::Refused => return Ok(Outcome::Unchanged),
                Written::Missing => return Ok(Outcome::Missing),
            }
        };
        let status = if finish.succeeded { OperationStatus::Succeeded } else { OperationStatus::Failed };
        let (code, message) = match &finish.error {
            Some((code, message)) => (Some(code.as_str()), Some(storable(message))),
            None => (None, None),
        };
        let params = finish.params.clone().unwrap_or_else(|| Value::Object(Default::default()));
        let timings = serde_json::to_value(&finish.timings)
            .map_err(|e| RegistryError::Defect(format!("timings of {}: {e}", finish.operation)))?;
        let row = tx
            .maybe(&FINISH, &[&id, &finish.claim, &status.as_str(), &code, &message, &params, &timings])
            .await?;
        let Some(row) = row else {
            let there = tx.maybe(&OPERATION_EXISTS, &[&id]).await?.is_some();
            return Ok(if there { Outcome::Unchanged } else { Outcome::Missing });
        };
        tx.tell(&[operation_notice(&Cells::of(&row).operation()?)]).await?;
        audit::insert(&tx, &finish.audit).await?;
        tx.commit().await?;
        Ok(Outcome::Changed(engine))
    }

    /// Raises the writer generation under a claim, and notes it in the operation (`params.generation`).
    pub async fn raise_generation(
        &self,
        id: OperationId,
        claim: i64,
        engine_id: EngineId,
        revision: i64,
    ) -> Result<Outcome<Engine>, RegistryError> {
        retried!(self.raise_once(id, claim, engine_id, revision))
    }

    async fn raise_once(
        &self,
        id: OperationId,
        claim: i64,
        engine_id: EngineId,
        revision: i64,
    ) -> Result<Outcome<Engine>, Fault> {
        let mut conn = self.database.conn().await?;
        let tx = conn.begin().await?;
        let nothing = EnginePatch::default();
        let engine =
            match apply(&tx, engine_id, revision, &nothing, Guard::Revision, Besides::RaiseGeneration).await?
            {
                Written::Row(engine) => *engine,
                Written::Refused => return Ok(Outcome::Unchanged),
                Written::Missing => return Ok(Outcome::Missing),
            };
        if tx.maybe(&NOTE_GENERATION, &[&id.uuid(), &claim, &engine.generation]).await?.is_none() {
            return Ok(Outcome::Unchanged);
        }
        tx.commit().await?;
        Ok(Outcome::Changed(engine))
    }

    /// Changes the engine's row in the middle of an operation, under its claim.
    pub async fn patch_under_claim(
        &self,
        id: OperationId,
        claim: i64,
        engine_id: EngineId,
        revision: i64,
        patch: &EnginePatch,
    ) -> Result<Outcome<Engine>, RegistryError> {
        retried!(self.patch_once(id, claim, engine_id, revision, patch))
    }

    async fn patch_once(
        &self,
        id: OperationId,
        claim: i64,
        engine_id: EngineId,
        revision: i64,
        patch: &EnginePatch,
    ) -> Result<Outcome<Engine>, Fault> {
        let mut conn = self.database.conn().await?;
        let tx = conn.begin().await?;
        let engine = match apply(&tx, engine_id, revision, patch, Guard::Revision, Besides::Nothing).await? {
            Written::Row(engine) => *engine,
            Written::Refused => return Ok(Outcome::Unchanged),
            Written::Missing => return Ok(Outcome::Missing),
        };
        if tx.maybe(&HOLD, &[&id.uuid(), &claim]).await?.is_none() {
            return Ok(Outcome::Unchanged);
        }
        tx.commit().await?;
        Ok(Outcome::Changed(engine))
    }

    /// Open operations per kind.
    pub async fn open_counts(&self) -> Result<Vec<(OperationKind, i64)>, RegistryError> {
        let conn = self.database.conn().await?;
        let rows = conn.rows(&OPEN_COUNTS, &[]).await?;
        rows.iter()
            .map(|row| {
                let mut cells = Cells::of(row);
                Ok((cells.word(OperationKind::parse)?, cells.cell()?))
            })
            .collect()
    }

    /// Age of the oldest open operation in seconds; 0 when none is open.
    pub async fn oldest_open_seconds(&self) -> Result<f64, RegistryError> {
        let conn = self.database.conn().await?;
        Cells::of(&conn.one(&OLDEST_OPEN, &[]).await?).cell()
    }

    /// Boot times in milliseconds of the operations that ended well last, newest first (`timings.boot`).
    pub async fn last_boots(&self, limit: i64) -> Result<Vec<i64>, RegistryError> {
        let conn = self.database.conn().await?;
        let rows = conn.rows(&LAST_BOOTS, &[&limit]).await?;
        rows.iter().map(|row| Cells::of(row).cell()).collect()
    }
}

async fn delete_engine(tx: &Tx<'_>, engine_id: EngineId, revision: i64) -> Result<Written, Fault> {
    let Some(row) = tx.maybe(&DELETE_ENGINE, &[&engine_id.uuid(), &revision]).await? else {
        return Ok(if exists(tx, engine_id).await? { Written::Refused } else { Written::Missing });
    };
    let mut cells = Cells::of(&row);
    let product = ProductId::from_uuid(cells.cell::<Uuid>()?);
    tx.tell(&[Notice::Engine { id: engine_id, product, revision: cells.cell()? }]).await?;
    Ok(Written::Missing)
}
