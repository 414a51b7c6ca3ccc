//! The audit log: rows written in the transaction of what they describe, read newest first, exported, counted.
//!
//! Rows are never updated. Refuses metadata that is not of the action's shape: what is not listed cannot leak.

use super::cells::{Cells, instant};
use super::db::{Query, Tx, retried};
use super::error::{Fault, RegistryError, classify};
use super::{AuditEntry, AuditRow, Registry};
use chrono::{DateTime, Utc};
use contract::{EngineId, ProductId, Timestamp, UserId};
use fleet::audit::AuditAction;
use futures::{StreamExt, pin_mut};
use std::ops::ControlFlow;
use tokio_postgres::types::ToSql;

/// Which rows to read; an absent part lets everything through.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AuditFilter {
    /// Rows of this product.
    pub product: Option<ProductId>,
    /// Rows about this user.
    pub user: Option<UserId>,
    /// Rows about this engine.
    pub engine: Option<EngineId>,
    /// Rows of these actions; empty = of any.
    pub actions: Vec<AuditAction>,
    /// Rows of this moment and later.
    pub since: Option<Timestamp>,
    /// Rows before this moment.
    pub until: Option<Timestamp>,
}

/// What `/metrics` answers for one product.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FleetMetrics {
    /// `provision` rows of the last hour.
    pub provisions_1h: i64,
    /// Rows of the last hour that lead to `failed` from another status.
    pub crashes_1h: i64,
    /// `auto_restart_start` rows of the last hour.
    pub restarts_1h: i64,
    /// Mean boot time of the last 100 provisions.
    pub avg_boot_ms: Option<i64>,
    /// First successful boots, ever.
    pub total_provisions: i64,
    /// Removals, ever.
    pub total_destroys: i64,
}

macro_rules! audit_columns {
    () => {
        "a.id, a.timestamp, a.product_id, a.user_id, a.engine_id, a.action, a.actor, a.metadata, a.duration_ms"
    };
}

const INSERT: Query = Query::new(
    "insert_audit",
    "WITH clock AS MATERIALIZED (SELECT clock_timestamp() AS t) \
     INSERT INTO audit_log (timestamp, product_id, user_id, engine_id, action, actor, metadata, duration_ms, recorded_at) \
     SELECT COALESCE($1, t), $2, $3, $4, $5, $6, $7, CASE WHEN $8 THEN \
       LEAST(2147483647, GREATEST(0, floor(EXTRACT(EPOCH FROM t - COALESCE($1, t)) * 1000)))::int END, t FROM clock",
);

const READ: Query = Query::new(
    "audit",
    concat!(
        "SELECT ",
        audit_columns!(),
        " FROM audit_log a WHERE ($1::uuid IS NULL OR a.product_id = $1) AND ($2::text IS NULL OR a.user_id = $2) \
         AND ($3::uuid IS NULL OR a.engine_id = $3) AND ($4::text[] IS NULL OR a.action = ANY ($4)) \
         AND ($5::timestamptz IS NULL OR a.timestamp >= $5) AND ($6::timestamptz IS NULL OR a.timestamp < $6) \
         AND ($7::bigint IS NULL OR a.id < $7) ORDER BY a.id DESC LIMIT $8"
    ),
);

/// The last minute is left out: a transaction that is still open may yet add a row with an earlier `recorded_at`.
const EXPORT: &str = concat!(
    "SELECT ",
    audit_columns!(),
    ", a.recorded_at FROM audit_log a \
     WHERE ($1::timestamptz IS NULL OR a.timestamp >= $1) AND ($2::timestamptz IS NULL OR a.timestamp < $2) \
     AND a.recorded_at < clock_timestamp() - INTERVAL '60 seconds' ORDER BY a.recorded_at, a.id"
);

const METRICS: Query = Query::new(
    "metrics",
    "SELECT count(*) FILTER (WHERE action = 'provision'), \
       count(*) FILTER (WHERE metadata->>'to' = 'failed' AND metadata->>'from' IS DISTINCT FROM 'failed'), \
       count(*) FILTER (WHERE action = 'auto_restart_start'), \
       (SELECT round(avg((b.metadata->>'boot_ms')::numeric))::bigint FROM ( \
          SELECT metadata FROM audit_log WHERE product_id = $1 AND action = 'provision' \
            AND jsonb_typeof(metadata->'boot_ms') = 'number' ORDER BY id DESC LIMIT 100) b), \
       COALESCE((SELECT total_provisions FROM products WHERE id = $1), 0), \
       COALESCE((SELECT total_destroys FROM products WHERE id = $1), 0) \
     FROM audit_log WHERE product_id = $1 AND timestamp > clock_timestamp() - INTERVAL '1 hour'",
);

/// Refuses rows whose metadata is not of their action's shape.
pub(super) fn check(entries: &[AuditEntry]) -> Result<(), RegistryError> {
    for entry in entries {
        fleet::audit::check_shape(entry.action, &entry.metadata).map_err(RegistryError::Defect)?;
    }
    Ok(())
}

/// Writes rows into the transaction of what they describe.
pub(super) async fn insert(tx: &Tx<'_>, entries: &[AuditEntry]) -> Result<(), Fault> {
    for entry in entries {
        tx.rows(
            &INSERT,
            &[
                &entry.started_at.map(instant).transpose()?,
                &entry.product_id.map(ProductId::uuid),
                &entry.user_id.as_ref().map(UserId::as_str),
                &entry.engine_id.map(EngineId::uuid),
                &entry.action.as_str(),
                &super::cells::storable(&entry.actor),
                &without_nul(&entry.metadata),
                &entry.has_duration,
            ],
        )
        .await?;
        metrics::counter!("bap_audit_rows_total", "action" => entry.action.as_str()).increment(1);
    }
    Ok(())
}

/// The document without NUL characters, which PostgreSQL does not store.
fn without_nul(value: &serde_json::Value) -> serde_json::Value {
    use serde_json::Value;
    match value {
        Value::String(text) => Value::String(super::cells::storable(text)),
        Value::Array(items) => Value::Array(items.iter().map(without_nul).collect()),
        Value::Object(map) => {
            Value::Object(map.iter().map(|(k, v)| (super::cells::storable(k), without_nul(v))).collect())
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    }
}

impl Registry {
    /// Writes rows that belong to no change of state.
    pub async fn append(&self, entries: &[AuditEntry]) -> Result<(), RegistryError> {
        check(entries)?;
        if entries.is_empty() {
            return Ok(());
        }
        retried!(self.append_once(entries))
    }

    async fn append_once(&self, entries: &[AuditEntry]) -> Result<(), Fault> {
        let mut conn = self.database.conn().await?;
        let tx = conn.begin().await?;
        insert(&tx, entries).await?;
        tx.commit().await
    }

    /// Rows, newest first, from below the id `before`.
    pub async fn audit(
        &self,
        filter: &AuditFilter,
        limit: i64,
        before: Option<i64>,
    ) -> Result<Vec<AuditRow>, RegistryError> {
        let actions: Option<Vec<&str>> =
            (!filter.actions.is_empty()).then(|| filter.actions.iter().map(|a| a.as_str()).collect());
        let conn = self.database.conn().await?;
        let rows = conn
            .rows(
                &READ,
                &[
                    &filter.product.map(ProductId::uuid),
                    &filter.user.as_ref().map(UserId::as_str),
                    &filter.engine.map(EngineId::uuid),
                    &actions,
                    &filter.since.map(instant).transpose()?,
                    &filter.until.map(instant).transpose()?,
                    &before,
                    &limit,
                ],
            )
            .await?;
        rows.iter().map(|row| Cells::of(row).audit_row()).collect()
    }

    /// What `/metrics` answers for a product.
    pub async fn metrics(&self, product: ProductId) -> Result<FleetMetrics, RegistryError> {
        let conn = self.database.conn().await?;
        let row = conn.one(&METRICS, &[&product.uuid()]).await?;
        let mut cells = Cells::of(&row);
        Ok(FleetMetrics {
            provisions_1h: cells.cell()?,
            crashes_1h: cells.cell()?,
            restarts_1h: cells.cell()?,
            avg_boot_ms: cells.cell()?,
            total_provisions: cells.cell()?,
            total_destroys: cells.cell()?,
        })
    }

    /// Hands over every row whose `timestamp` lies in [since, until), with its `recorded_at`, ordered by that and id,
    /// without the last 60 s; stops early when told to. Runs on a connection of its own, because it may take long.
    /// The answer is the number of rows handed over.
    pub async fn export(
        &self,
        since: Option<Timestamp>,
        until: Option<Timestamp>,
        mut each: impl FnMut(AuditRow, Timestamp) -> ControlFlow<()>,
    ) -> Result<i64, RegistryError> {
        let (since, until) = (since.map(instant).transpose()?, until.map(instant).transpose()?);
        let client = self.database.aside().await?;
        let params: [&(dyn ToSql + Sync); 2] = [&since, &until];
        let rows = client.query_raw(EXPORT, params).await.map_err(|e| classify(&e))?;
        pin_mut!(rows);
        let mut handed = 0;
        while let Some(row) = rows.next().await {
            let row = row.map_err(|e| classify(&e))?;
            let mut cells = Cells::of(&row);
            let (entry, recorded) = (cells.audit_row()?, cells.cell::<DateTime<Utc>>()?);
            handed += 1;
            if each(entry, super::cells::at(recorded)).is_break() {
                break;
            }
        }
        Ok(handed)
    }
}
