//! The first writing of an engine: quota, port, key, operation and idempotency key, in one transaction.
//!
//! The product row is locked while engines are counted, so the quota holds on any number of replicas. A refusal
//! leaves nothing behind.

use super::cells::{Cells, engine_columns, operation_columns, storable};
use super::db::{Query, Tx, retried};
use super::error::Fault;
use super::lease::millis;
use super::notify::Notice;
use super::patch::engine_notice;
use super::{Engine, NewOperation, Operation, Registry, RegistryError, Reserve, ReserveOutcome, ports};
use contract::EngineId;
use serde_json::Value;

const LOCK_PRODUCT: Query =
    Query::new("lock_product", "SELECT policy, deleting FROM products WHERE id = $1 FOR UPDATE");

const COUNT_ENGINES: Query =
    Query::new("count_engines", "SELECT count(*) FROM engines WHERE product_id = $1");

const TAKEN: Query =
    Query::new("engine_taken", "SELECT TRUE FROM engines WHERE product_id = $1 AND user_id = $2");

const BOUND_KEY: Query = Query::new(
    "idempotency_key",
    "SELECT engine_id, request_hash FROM idempotency_keys \
     WHERE product_id = $1 AND key = $2 AND created_at > clock_timestamp() - INTERVAL '24 hours'",
);

const BIND_KEY: Query = Query::new(
    "bind_idempotency_key",
    "INSERT INTO idempotency_keys (product_id, key, request_hash, engine_id, created_at) \
     VALUES ($1, $2, $3, $4, clock_timestamp()) \
     ON CONFLICT (product_id, key) DO UPDATE SET request_hash = EXCLUDED.request_hash, \
       engine_id = EXCLUDED.engine_id, created_at = EXCLUDED.created_at",
);

const INSERT_ENGINE: Query = Query::new(
    "insert_engine",
    concat!(
        "INSERT INTO engines AS e (id, product_id, user_id, status, desired, backend, engine_version, port, \
         engine_key_hash, engine_key_enc, status_since, created_at, updated_at) \
         VALUES ($1, $2, $3, 'provisioning', 'running', $4, $5, $6, $7, $8, clock_timestamp(), clock_timestamp(), \
         clock_timestamp()) RETURNING ",
        engine_columns!()
    ),
);

const INSERT_VITALS: Query = Query::new("insert_vitals", "INSERT INTO engine_vitals (engine_id) VALUES ($1)");

const INSERT_OPERATION: Query = Query::new(
    "insert_operation",
    concat!(
        "INSERT INTO operations AS o (id, engine_id, product_id, user_id, kind, step, params, actor, request_id, owner, \
         claim, attempt, lease_until, started_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, ($10::uuid IS NOT NULL)::int, ($10::uuid IS NOT NULL)::int, \
         clock_timestamp() + $11::bigint * INTERVAL '1 millisecond', clock_timestamp()) \
         ON CONFLICT (engine_id) WHERE status = 'open' DO NOTHING RETURNING ",
        operation_columns!()
    ),
);

impl Registry {
    /// Reserves an engine for a user, or says why not.
    pub async fn reserve(&self, wanted: &Reserve) -> Result<ReserveOutcome, RegistryError> {
        retried!(self.reserve_once(wanted))
    }

    async fn reserve_once(&self, wanted: &Reserve) -> Result<ReserveOutcome, Fault> {
        let mut conn = self.database.conn().await?;
        let tx = conn.begin().await?;
        match reserve_in(&tx, wanted).await {
            Ok(outcome) => {
                if matches!(outcome, ReserveOutcome::Reserved(_)) {
                    tx.commit().await?;
                }
                Ok(outcome)
            }
            Err(fault) if fault.constraint() == Some("engines_product_user_key") => {
                Ok(ReserveOutcome::AlreadyExists)
            }
            Err(fault) => Err(fault),
        }
    }
}

async fn reserve_in(tx: &Tx<'_>, wanted: &Reserve) -> Result<ReserveOutcome, Fault> {
    let product = wanted.product_id.uuid();
    let Some(row) = tx.maybe(&LOCK_PRODUCT, &[&product]).await? else {
        return Ok(ReserveOutcome::ProductGone);
    };
    let mut cells = Cells::of(&row);
    let policy: Value = cells.cell()?;
    if cells.cell::<bool>()? {
        return Ok(ReserveOutcome::ProductGone);
    }
    if let Some((key, hash)) = &wanted.idempotency
        && let Some(row) = tx.maybe(&BOUND_KEY, &[&product, key]).await?
    {
        let mut cells = Cells::of(&row);
        let engine_id = cells.engine_id()?;
        let same = cells.cell::<&str>()? == hash;
        return Ok(if same { ReserveOutcome::Replayed(engine_id) } else { ReserveOutcome::OtherBody });
    }
    if tx.maybe(&TAKEN, &[&product, &wanted.user_id.as_str()]).await?.is_some() {
        return Ok(ReserveOutcome::AlreadyExists);
    }
    if let Some(limit) = max_engines(&policy)? {
        let engines: i64 = Cells::of(&tx.one(&COUNT_ENGINES, &[&product]).await?).cell()?;
        if engines >= limit {
            return Ok(ReserveOutcome::QuotaExceeded(limit));
        }
    }
    let port = match wanted.ports {
        None => None,
        Some(range) => {
            ports::lock(tx).await?;
            match ports::pick(tx, range).await? {
                Some(port) => Some(port),
                None => return Ok(ReserveOutcome::NoPort),
            }
        }
    };
    let id = wanted.engine_id.uuid();
    let row = tx
        .one(
            &INSERT_ENGINE,
            &[
                &id,
                &product,
                &wanted.user_id.as_str(),
                &wanted.backend.as_str(),
                &wanted.engine_version,
                &port,
                &wanted.key.hash,
                &wanted.key.sealed,
            ],
        )
        .await?;
    let engine = Cells::of(&row).engine()?;
    tx.rows(&INSERT_VITALS, &[&id]).await?;
    let Some(operation) = insert_operation(tx, &engine, &wanted.operation).await? else {
        return Err(
            RegistryError::Defect(format!("engine {} is new and has an open operation", engine.id)).into()
        );
    };
    if let Some((key, hash)) = &wanted.idempotency {
        tx.rows(&BIND_KEY, &[&product, key, hash, &id]).await?;
    }
    tx.tell(&[engine_notice(&engine)]).await?;
    Ok(ReserveOutcome::Reserved(Box::new((engine, operation))))
}

/// `max_engines` of a stored policy.
fn max_engines(policy: &Value) -> Result<Option<i64>, RegistryError> {
    match policy.get("max_engines") {
        None => Ok(None),
        Some(limit) => match limit.as_i64() {
            Some(limit) => Ok(Some(limit)),
            None => Err(RegistryError::Corrupt("products.policy: max_engines is not an integer".to_owned())),
        },
    }
}

/// Opens an operation on an engine, tells the others; `None` when one is open.
pub(super) async fn insert_operation(
    tx: &Tx<'_>,
    engine: &Engine,
    new: &NewOperation,
) -> Result<Option<Operation>, Fault> {
    let owner = new.owner.map(|(replica, _)| replica.uuid());
    let lease_ms = new.owner.map(|(_, lease)| millis(lease));
    let row = tx
        .maybe(
            &INSERT_OPERATION,
            &[
                &new.id.uuid(),
                &engine.id.uuid(),
                &engine.product_id.uuid(),
                &engine.user_id.as_str(),
                &new.kind.as_str(),
                &new.step.as_str(),
                &new.params,
                &storable(&new.actor),
                &new.request_id,
                &owner,
                &lease_ms,
            ],
        )
        .await?;
    let Some(row) = row else { return Ok(None) };
    let operation = Cells::of(&row).operation()?;
    let mut notices = vec![operation_notice(&operation)];
    if operation.owner.is_none() {
        notices.push(Notice::Queue);
    }
    tx.tell(&notices).await?;
    Ok(Some(operation))
}

/// "This operation is so far."
pub(super) fn operation_notice(operation: &Operation) -> Notice {
    Notice::Operation { id: operation.id, engine: operation.engine_id, status: operation.status }
}

impl Registry {
    /// The engine and the request hash this idempotency key is bound to, within its 24 hours.
    pub async fn idempotent(
        &self,
        product: contract::ProductId,
        key: &str,
    ) -> Result<Option<(EngineId, String)>, RegistryError> {
        let conn = self.database.conn().await?;
        let Some(row) = conn.maybe(&BOUND_KEY, &[&product.uuid(), &key]).await? else { return Ok(None) };
        let mut cells = Cells::of(&row);
        Ok(Some((cells.engine_id()?, cells.cell()?)))
    }
}
