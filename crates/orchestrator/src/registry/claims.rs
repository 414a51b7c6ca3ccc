//! Claims: which replica works on an operation, and until when.
//!
//! A claim is a number that grows: a write that names an old one changes nothing. Claims end by themselves, so a dead
//! replica never locks an engine for ever.

use super::cells::{Cells, operation_columns};
use super::db::{Query, retried};
use super::engines::FOUND;
use super::error::Fault;
use super::lease::millis;
use super::notify::Notice;
use super::{Found, Operation, Registry, RegistryError};
use contract::{EngineId, OperationId, ReplicaId};
use fleet::lifecycle::BackendKind;
use fleet::operation::{OperationStatus, Step};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;
use uuid::Uuid;

macro_rules! claimable {
    () => {
        "status = 'open' AND (owner IS NULL OR lease_until < clock_timestamp()) \
         AND (retry_at IS NULL OR retry_at <= clock_timestamp())"
    };
}

macro_rules! claim_set {
    () => {
        "UPDATE operations AS o SET owner = $1, claim = o.claim + 1, attempt = o.attempt + 1, retry_at = NULL, \
         lease_until = clock_timestamp() + $2::bigint * INTERVAL '1 millisecond' "
    };
}

/// Leaves out operations on engines of another backend. One without an engine passes: it is closed.
macro_rules! of_backend {
    ($kind:literal) => {
        concat!(
            " AND NOT EXISTS (SELECT 1 FROM engines e WHERE e.id = operations.engine_id AND e.backend <> ",
            $kind,
            ")"
        )
    };
}

/// Leaves out, where steps are named, operations that are at another one.
macro_rules! at_steps {
    ($steps:literal) => {
        concat!(" AND (", $steps, "::text[] IS NULL OR step = ANY(", $steps, "))")
    };
}

const CLAIM_NEXT: Query = Query::new(
    "claim_next",
    concat!(
        claim_set!(),
        "WHERE o.id = (SELECT id FROM operations WHERE ",
        claimable!(),
        of_backend!("$3"),
        at_steps!("$4"),
        " ORDER BY started_at LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING ",
        operation_columns!()
    ),
);

const CLAIM: Query = Query::new(
    "claim",
    concat!(
        claim_set!(),
        "WHERE o.id = (SELECT id FROM operations WHERE id = $3 AND ",
        claimable!(),
        " FOR UPDATE SKIP LOCKED) RETURNING ",
        operation_columns!()
    ),
);

/// What this replica owns without working on it: its executor broke off while the database was away. What is worked
/// on is renewed every third of the lease, so a claim that has not been renewed for half of it has no executor.
const CLAIM_OWN: Query = Query::new(
    "claim_own",
    concat!(
        claim_set!(),
        "WHERE o.id = (SELECT id FROM operations WHERE status = 'open' AND owner = $1 AND id <> ALL($3::uuid[]) \
           AND lease_until < clock_timestamp() + $2::bigint * INTERVAL '0.5 millisecond'",
        of_backend!("$4"),
        at_steps!("$5"),
        " ORDER BY started_at LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING ",
        operation_columns!()
    ),
);

/// An operation whose engine is gone, or cannot be read, can never end by itself.
const CLOSE_ORPHAN: Query = Query::new(
    "close_orphan",
    "UPDATE operations SET status = 'failed', finished_at = clock_timestamp(), error_code = $3, \
     error_message = $4 WHERE id = $1 AND claim = $2 AND status = 'open' RETURNING engine_id",
);

const STEP: Query = Query::new(
    "step",
    "UPDATE operations SET step = $3, params = params || COALESCE($4::jsonb, '{}'), timings = timings || $5 \
     WHERE id = $1 AND claim = $2 AND status = 'open' RETURNING id",
);

const RENEW: Query = Query::new(
    "renew",
    "UPDATE operations AS o SET lease_until = clock_timestamp() + $4::bigint * INTERVAL '1 millisecond' \
     FROM unnest($2::uuid[], $3::bigint[]) AS held(id, claim) \
     WHERE o.id = held.id AND o.claim = held.claim AND o.owner = $1 AND o.status = 'open' RETURNING o.id",
);

const RELEASE: Query = Query::new(
    "release",
    "UPDATE operations SET owner = NULL, lease_until = clock_timestamp() \
     WHERE id = $1 AND claim = $2 AND status = 'open' RETURNING id",
);

const POSTPONE: Query = Query::new(
    "postpone",
    "UPDATE operations SET owner = NULL, lease_until = clock_timestamp(), \
       retry_at = clock_timestamp() + $3::bigint * INTERVAL '1 millisecond', \
       error_code = COALESCE($4, error_code), error_message = COALESCE($5, error_message) \
     WHERE id = $1 AND claim = $2 AND status = 'open' RETURNING engine_id",
);

const LET_GO: Query = Query::new(
    "let_go",
    "UPDATE operations SET lease_until = clock_timestamp() \
     WHERE id = $1 AND owner = $2 AND status = 'superseded' AND lease_until > clock_timestamp() RETURNING engine_id",
);

const SETTLED: Query = Query::new(
    "settled",
    "SELECT status <> 'open' AND (owner IS NULL OR lease_until IS NULL OR lease_until <= clock_timestamp()) \
     FROM operations WHERE id = $1",
);

/// Operations without an engine closed by one call before it gives up looking. More would hold a connection for a
/// heap of leftovers; fewer only spreads them over more calls.
const ORPHANS_PER_CALL: usize = 16;

/// Why an operation without an engine ends: code and message.
pub const ENGINE_GONE: (&str, &str) = ("ENGINE_NOT_FOUND", "the engine is gone");

/// Which operations a replica takes up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// All on engines of this backend.
    Backend(BackendKind),
    /// While this backend is away: only those whose next step is performed without it.
    WithoutBackend(BackendKind),
}

impl Reach {
    fn backend(self) -> &'static str {
        match self {
            Reach::Backend(kind) | Reach::WithoutBackend(kind) => kind.as_str(),
        }
    }

    fn steps(self) -> Option<Vec<&'static str>> {
        match self {
            Reach::Backend(_) => None,
            Reach::WithoutBackend(_) => {
                let steps = Step::ALL.iter().filter(|step| step.is_without_backend());
                Some(steps.map(|step| step.as_str()).collect())
            }
        }
    }
}

impl Registry {
    /// Claims the oldest operation within reach that nobody works on and that is due, with its engine.
    pub async fn claim_next(
        &self,
        me: ReplicaId,
        reach: Reach,
        lease: Duration,
    ) -> Result<Option<(Operation, Found)>, RegistryError> {
        for _ in 0..ORPHANS_PER_CALL {
            let conn = self.database.conn().await?;
            let row = conn
                .maybe(&CLAIM_NEXT, &[&me.uuid(), &millis(lease), &reach.backend(), &reach.steps()])
                .await?;
            let Some(row) = row else { return Ok(None) };
            let operation = Cells::of(&row).operation()?;
            if let Some(row) = conn.maybe(&FOUND, &[&operation.engine_id.uuid()]).await? {
                return Ok(Some((operation, Cells::of(&row).found()?)));
            }
            drop(conn);
            self.close_broken(operation.id, operation.claim, ENGINE_GONE).await?;
            tracing::warn!(operation_id = %operation.id, engine_id = %operation.engine_id, "an open operation had no engine; closed");
        }
        Ok(None)
    }

    /// Ends an operation as failed that nobody can perform; touches no engine. False when the claim was lost.
    pub async fn close_broken(
        &self,
        id: OperationId,
        claim: i64,
        error: (&str, &str),
    ) -> Result<bool, RegistryError> {
        retried!(self.close_broken_once(id, claim, error))
    }

    async fn close_broken_once(
        &self,
        id: OperationId,
        claim: i64,
        (code, message): (&str, &str),
    ) -> Result<bool, Fault> {
        let mut conn = self.database.conn().await?;
        let tx = conn.begin().await?;
        let Some(row) = tx.maybe(&CLOSE_ORPHAN, &[&id.uuid(), &claim, &code, &message]).await? else {
            return Ok(false);
        };
        let engine = EngineId::from_uuid(Cells::of(&row).cell()?);
        tx.tell(&[Notice::Operation { id, engine, status: OperationStatus::Failed }]).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Claims again the oldest operation that this replica owns and none of whose executors works on. `held` names
    /// those at work.
    pub async fn claim_own(
        &self,
        me: ReplicaId,
        held: &[OperationId],
        reach: Reach,
        lease: Duration,
    ) -> Result<Option<Operation>, RegistryError> {
        let held: Vec<Uuid> = held.iter().map(|id| id.uuid()).collect();
        let conn = self.database.conn().await?;
        let (backend, steps) = (reach.backend(), reach.steps());
        let row = conn.maybe(&CLAIM_OWN, &[&me.uuid(), &millis(lease), &held, &backend, &steps]).await?;
        row.map(|row| Cells::of(&row).operation()).transpose()
    }

    /// Claims this operation if nobody works on it and it is due.
    pub async fn claim(
        &self,
        id: OperationId,
        me: ReplicaId,
        lease: Duration,
    ) -> Result<Option<Operation>, RegistryError> {
        let conn = self.database.conn().await?;
        let row = conn.maybe(&CLAIM, &[&me.uuid(), &millis(lease), &id.uuid()]).await?;
        row.map(|row| Cells::of(&row).operation()).transpose()
    }

    /// Records the step that is about to act, and the times so far, so that whoever goes on knows them; false when the
    /// claim is lost: then do not act.
    pub async fn step(
        &self,
        id: OperationId,
        claim: i64,
        step: Step,
        params_merge: Option<&Value>,
        timings: &BTreeMap<String, u64>,
    ) -> Result<bool, RegistryError> {
        let timings = serde_json::to_value(timings)
            .map_err(|e| RegistryError::Defect(format!("timings of {id}: {e}")))?;
        let conn = self.database.conn().await?;
        let row = conn.maybe(&STEP, &[&id.uuid(), &claim, &step.as_str(), &params_merge, &timings]).await?;
        Ok(row.is_some())
    }

    /// Lengthens our claims in one statement, on a connection that requests never hold; the answer is those we still
    /// hold.
    pub async fn renew(
        &self,
        me: ReplicaId,
        held: &[(OperationId, i64)],
        lease: Duration,
    ) -> Result<Vec<OperationId>, RegistryError> {
        if held.is_empty() {
            return Ok(Vec::new());
        }
        let ids: Vec<Uuid> = held.iter().map(|(id, _)| id.uuid()).collect();
        let claims: Vec<i64> = held.iter().map(|(_, claim)| *claim).collect();
        let conn = self.database.kept().await?;
        let rows = conn.rows(&RENEW, &[&me.uuid(), &ids, &claims, &millis(lease)]).await?;
        rows.iter().map(|row| Cells::of(row).cell().map(OperationId::from_uuid)).collect()
    }

    /// Gives a claim back, so that anybody may go on at once; false when it was lost already.
    pub async fn release(&self, id: OperationId, claim: i64) -> Result<bool, RegistryError> {
        retried!(self.release_once(id, claim))
    }

    async fn release_once(&self, id: OperationId, claim: i64) -> Result<bool, Fault> {
        let mut conn = self.database.conn().await?;
        let tx = conn.begin().await?;
        if tx.maybe(&RELEASE, &[&id.uuid(), &claim]).await?.is_none() {
            return Ok(false);
        }
        tx.tell(&[Notice::Queue]).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Gives a claim back and asks for another try after `delay`, saying what it waits for; false when it was lost.
    pub async fn postpone(
        &self,
        id: OperationId,
        claim: i64,
        delay: Duration,
        error: Option<(&str, &str)>,
    ) -> Result<bool, RegistryError> {
        retried!(self.postpone_once(id, claim, delay, error))
    }

    async fn postpone_once(
        &self,
        id: OperationId,
        claim: i64,
        delay: Duration,
        error: Option<(&str, &str)>,
    ) -> Result<bool, Fault> {
        let mut conn = self.database.conn().await?;
        let tx = conn.begin().await?;
        let code = error.map(|(code, _)| code);
        let message = error.map(|(_, message)| super::cells::storable(message));
        let Some(row) = tx.maybe(&POSTPONE, &[&id.uuid(), &claim, &millis(delay), &code, &message]).await?
        else {
            return Ok(false);
        };
        let engine = EngineId::from_uuid(Cells::of(&row).cell()?);
        // Who waits for this operation learns what it waits for.
        tx.tell(&[Notice::Operation { id, engine, status: OperationStatus::Open }]).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Says that we no longer act for a superseded operation of ours, so that its successor may begin.
    pub async fn let_go(&self, id: OperationId, me: ReplicaId) -> Result<bool, RegistryError> {
        retried!(self.let_go_once(id, me))
    }

    async fn let_go_once(&self, id: OperationId, me: ReplicaId) -> Result<bool, Fault> {
        let mut conn = self.database.conn().await?;
        let tx = conn.begin().await?;
        let Some(row) = tx.maybe(&LET_GO, &[&id.uuid(), &me.uuid()]).await? else { return Ok(false) };
        let engine = EngineId::from_uuid(Cells::of(&row).cell()?);
        tx.tell(&[Notice::Operation { id, engine, status: OperationStatus::Superseded }]).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Whether an operation has ended and its executor has let go; `None` when there is no such operation.
    pub async fn settled(&self, id: OperationId) -> Result<Option<bool>, RegistryError> {
        let conn = self.database.conn().await?;
        let row = conn.maybe(&SETTLED, &[&id.uuid()]).await?;
        row.map(|row| Cells::of(&row).cell()).transpose()
    }
}
