//! Engines: reading one with everything a decision needs, admit leases, and changes outside of operations.

use super::audit;
use super::cells::{
    Cells, engine_columns, found_columns, found_from, operation_columns, product_columns, vitals_columns,
};
use super::db::{Query, retried};
use super::error::Fault;
use super::lease::millis;
use super::patch::{Besides, Guard, Written, apply, engine_notice, exists};
use super::{Change, Engine, Found, Outcome, Product, Registry, RegistryError, ports};
use contract::{EngineId, ProductId, Timestamp, UserId};
use std::time::Duration;

const FIND: Query = Query::new(
    "find",
    concat!("SELECT ", found_columns!(), found_from!(), "WHERE e.product_id = $1 AND e.user_id = $2"),
);

pub(super) const FOUND: Query =
    Query::new("found", concat!("SELECT ", found_columns!(), found_from!(), "WHERE e.id = $1"));

const ADMIT_READ: Query = Query::new(
    "admit_read",
    concat!(
        "SELECT ",
        product_columns!(),
        ", ",
        found_columns!(),
        " FROM products p LEFT JOIN engines e ON e.product_id = p.id AND e.user_id = $2 \
         LEFT JOIN engine_vitals v ON v.engine_id = e.id \
         LEFT JOIN operations o ON o.engine_id = e.id AND o.status = 'open' \
         WHERE NOT p.deleting AND (p.api_key_hash = $1 \
           OR (p.previous_api_key_hash = $1 AND p.previous_key_expires_at > clock_timestamp())) LIMIT 1"
    ),
);

const TAKE_LEASE: Query = Query::new(
    "take_lease",
    "UPDATE engines SET last_admit_at = clock_timestamp(), \
       admit_lease_until = GREATEST(admit_lease_until, clock_timestamp() + $2::bigint * INTERVAL '1 millisecond') \
     WHERE id = $1 AND status = 'running' AND desired = 'running' RETURNING admit_lease_until",
);

const READ_PORT: Query =
    Query::new("read_port", "SELECT port FROM engines WHERE id = $1 AND revision = $2 FOR UPDATE");

const MOVE_PORT: Query = Query::new(
    "move_port",
    concat!(
        "UPDATE engines AS e SET port = $2, revision = e.revision + 1, updated_at = clock_timestamp() \
         WHERE e.id = $1 RETURNING ",
        engine_columns!()
    ),
);

const PORTS_USED: Query = Query::new("ports_used", "SELECT count(*) FROM engines WHERE port IS NOT NULL");

const PRODUCT_SLUG: Query = Query::new("product_slug", "SELECT slug FROM products WHERE id = $1");

/// What became of the search for another port.
#[derive(Debug, Clone)]
pub enum RepickOutcome {
    /// The engine has another port, the old one is set aside.
    Changed(Box<Engine>),
    /// The revision moved on: read again.
    Unchanged,
    /// There is no such engine.
    Missing,
    /// No free port; nothing changed.
    NoPort,
}

impl Registry {
    /// A user's engine.
    pub async fn find(&self, product: ProductId, user: &UserId) -> Result<Option<Found>, RegistryError> {
        let conn = self.database.conn().await?;
        let row = conn.maybe(&FIND, &[&product.uuid(), &user.as_str()]).await?;
        row.map(|row| Cells::of(&row).found()).transpose()
    }

    /// An engine by its id.
    pub async fn found(&self, engine_id: EngineId) -> Result<Option<Found>, RegistryError> {
        let conn = self.database.conn().await?;
        let row = conn.maybe(&FOUND, &[&engine_id.uuid()]).await?;
        row.map(|row| Cells::of(&row).found()).transpose()
    }

    /// The steady path of admit in one statement: the product of a platform key, and its engine for a user.
    pub async fn admit_read(
        &self,
        key_hash: &str,
        user: &UserId,
    ) -> Result<Option<(Product, Option<Found>)>, RegistryError> {
        let conn = self.database.conn().await?;
        let Some(row) = conn.maybe(&ADMIT_READ, &[&key_hash, &user.as_str()]).await? else { return Ok(None) };
        let mut cells = Cells::of(&row);
        Ok(Some((cells.product()?, cells.found_opt()?)))
    }

    /// Takes an admit lease, or lengthens it; `None` unless the engine is running and meant to run. The answer is its
    /// end. A lease is never shortened.
    pub async fn take_lease(
        &self,
        engine_id: EngineId,
        lease: Duration,
    ) -> Result<Option<Timestamp>, RegistryError> {
        let conn = self.database.conn().await?;
        let row = conn.maybe(&TAKE_LEASE, &[&engine_id.uuid(), &millis(lease)]).await?;
        row.map(|row| Cells::of(&row).time()).transpose()
    }

    /// A change outside of any operation, with its rows for the log.
    pub async fn change(&self, change: &Change) -> Result<Outcome<Engine>, RegistryError> {
        audit::check(&change.audit)?;
        retried!(self.change_once(change))
    }

    async fn change_once(&self, change: &Change) -> Result<Outcome<Engine>, Fault> {
        let mut conn = self.database.conn().await?;
        let tx = conn.begin().await?;
        let guard = if change.only_without_operation { Guard::NoOperation } else { Guard::Revision };
        match apply(&tx, change.engine_id, change.revision, &change.patch, guard, Besides::Nothing).await? {
            Written::Row(engine) => {
                audit::insert(&tx, &change.audit).await?;
                tx.commit().await?;
                Ok(Outcome::Changed(*engine))
            }
            Written::Refused => Ok(Outcome::Unchanged),
            Written::Missing => Ok(Outcome::Missing),
        }
    }

    /// Gives an engine another port and sets its present one aside, because a stranger holds it.
    pub async fn repick_port(
        &self,
        engine_id: EngineId,
        revision: i64,
        range: (u16, u16),
        quarantine: Duration,
        reason: &str,
    ) -> Result<RepickOutcome, RegistryError> {
        retried!(self.repick_once(engine_id, revision, range, quarantine, reason))
    }

    async fn repick_once(
        &self,
        engine_id: EngineId,
        revision: i64,
        range: (u16, u16),
        quarantine: Duration,
        reason: &str,
    ) -> Result<RepickOutcome, Fault> {
        let mut conn = self.database.conn().await?;
        let tx = conn.begin().await?;
        ports::lock(&tx).await?;
        let Some(row) = tx.maybe(&READ_PORT, &[&engine_id.uuid(), &revision]).await? else {
            let there = exists(&tx, engine_id).await?;
            return Ok(if there { RepickOutcome::Unchanged } else { RepickOutcome::Missing });
        };
        let stolen = Cells::of(&row).cell::<Option<i32>>()?.and_then(|port| u16::try_from(port).ok());
        if let Some(port) = stolen {
            ports::quarantine(&tx, port, reason, quarantine).await?;
        }
        let Some(port) = ports::pick(&tx, range).await? else { return Ok(RepickOutcome::NoPort) };
        let engine = Cells::of(&tx.one(&MOVE_PORT, &[&engine_id.uuid(), &port]).await?).engine()?;
        tx.tell(&[engine_notice(&engine)]).await?;
        tx.commit().await?;
        Ok(RepickOutcome::Changed(Box::new(engine)))
    }

    /// Ports handed out.
    pub async fn ports_used(&self) -> Result<i64, RegistryError> {
        let conn = self.database.conn().await?;
        Cells::of(&conn.one(&PORTS_USED, &[]).await?).cell()
    }

    /// A product's short name: the `actor` of what it does.
    pub async fn users_product_slug(
        &self,
        product: ProductId,
    ) -> Result<Option<contract::Slug>, RegistryError> {
        let conn = self.database.conn().await?;
        let row = conn.maybe(&PRODUCT_SLUG, &[&product.uuid()]).await?;
        row.map(|row| Cells::of(&row).slug()).transpose()
    }
}
