//! Reading stored rows: cell after cell, in the order of the column lists that stand beside the reader.
//!
//! Refuses to repair: a cell that does not parse is [`RegistryError::Corrupt`], named by its column, never a default.
//! The invariant: a column list and its reader change together.

use super::error::RegistryError;
use super::rows::{AuditRow, Engine, Found, Operation, Product, SealedKey, Vitals};
use chrono::{DateTime, Utc};
use contract::{EngineId, OperationId, ProductId, ReplicaId, Slug, Timestamp, UserId};
use fleet::lifecycle::{BackendKind, Desired, FailureReason, SleepMode, Status};
use fleet::operation::{OperationKind, OperationStatus, Step};
use serde_json::Value;
use tokio_postgres::Row;
use tokio_postgres::types::FromSql;
use uuid::Uuid;

macro_rules! product_columns {
    () => {
        "p.id, p.slug, p.display_name, p.policy, p.deleting, p.previous_key_expires_at, p.total_provisions, \
         p.total_destroys, p.created_at"
    };
}
pub(super) use product_columns;

macro_rules! engine_columns {
    () => {
        "e.id, e.product_id, e.user_id, e.status, e.desired, e.status_since, e.revision, e.generation, e.backend, \
         e.engine_version, e.target_version, e.port, e.container_id, e.spec_hash, e.engine_key_hash, \
         e.engine_key_enc, e.next_engine_key_hash, e.next_engine_key_enc, e.key_rotated_at, e.boot_duration_ms, \
         e.sleep_mode, e.wake_at, e.last_admit_at, e.admit_lease_until, e.restart_attempts, e.next_restart_at, \
         e.failure_code, e.failure_message, e.created_at"
    };
}
pub(super) use engine_columns;

macro_rules! vitals_columns {
    () => {
        "v.last_health_at, v.last_probe_at, COALESCE(v.health_failures, 0) AS health_failures, \
         COALESCE(v.healthy_streak, 0) AS healthy_streak, v.healthy_since, COALESCE(v.degraded, FALSE) AS degraded, \
         COALESCE(v.subsystems, '{}') AS subsystems, v.reported_version, v.schema_version, v.in_flight_turns, \
         v.open_streams, v.last_activity_at, v.next_scheduled_at, COALESCE(v.backend_restarts, 0) AS backend_restarts"
    };
}
pub(super) use vitals_columns;

macro_rules! operation_columns {
    () => {
        "o.id, o.engine_id, o.product_id, o.user_id, o.kind, o.status, o.step, o.params, o.timings, o.owner, o.claim, \
         o.lease_until, o.attempt, o.retry_at, o.actor, o.request_id, o.error_code, o.error_message, o.started_at, \
         o.finished_at"
    };
}
pub(super) use operation_columns;

/// An engine with vitals, open operation and clock: the columns of [`Cells::found`] and where they come from.
macro_rules! found_columns {
    () => {
        concat!(
            engine_columns!(),
            ", ",
            vitals_columns!(),
            ", ",
            operation_columns!(),
            ", clock_timestamp() AS read_at"
        )
    };
}
pub(super) use found_columns;

macro_rules! found_from {
    () => {
        " FROM engines e LEFT JOIN engine_vitals v ON v.engine_id = e.id \
         LEFT JOIN operations o ON o.engine_id = e.id AND o.status = 'open' "
    };
}
pub(super) use found_from;

const ENGINE_CELLS: usize = 29;
const VITALS_CELLS: usize = 14;
const OPERATION_CELLS: usize = 20;

/// The millisecond an instant of the database falls into.
pub(super) fn at(time: DateTime<Utc>) -> Timestamp {
    Timestamp::from_millis(time.timestamp_millis())
}

/// An instant as the database takes it.
pub(super) fn instant(time: Timestamp) -> Result<DateTime<Utc>, RegistryError> {
    DateTime::from_timestamp_millis(time.millis())
        .ok_or_else(|| RegistryError::Defect(format!("{} ms is no instant", time.millis())))
}

/// Text as the database takes it: PostgreSQL stores no NUL, and one in an engine's answer must not spoil a batch.
pub(super) fn storable(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// A row, read from left to right.
pub(super) struct Cells<'r> {
    row: &'r Row,
    next: usize,
}

impl<'r> Cells<'r> {
    pub(super) fn of(row: &'r Row) -> Self {
        Self { row, next: 0 }
    }

    fn skip(&mut self, cells: usize) {
        self.next += cells;
    }

    fn damaged(&self, index: usize, why: impl std::fmt::Display) -> RegistryError {
        let name = self.row.columns().get(index).map_or("?", |column| column.name());
        RegistryError::Corrupt(format!("column {name}: {why}"))
    }

    /// The next cell.
    pub(super) fn cell<T: FromSql<'r>>(&mut self) -> Result<T, RegistryError> {
        let index = self.next;
        self.next += 1;
        self.row.try_get(index).map_err(|e| self.damaged(index, super::error::chain(&e)))
    }

    /// The next cell, as a word of a closed list.
    pub(super) fn word<T>(&mut self, parse: fn(&str) -> Option<T>) -> Result<T, RegistryError> {
        let text: &str = self.cell()?;
        parse(text).ok_or_else(|| self.damaged(self.next - 1, "not a word of this program"))
    }

    fn word_opt<T>(&mut self, parse: fn(&str) -> Option<T>) -> Result<Option<T>, RegistryError> {
        let text: Option<&str> = self.cell()?;
        match text {
            None => Ok(None),
            Some(text) => match parse(text) {
                Some(word) => Ok(Some(word)),
                None => Err(self.damaged(self.next - 1, "not a word of this program")),
            },
        }
    }

    pub(super) fn time(&mut self) -> Result<Timestamp, RegistryError> {
        self.cell().map(at)
    }

    pub(super) fn time_opt(&mut self) -> Result<Option<Timestamp>, RegistryError> {
        Ok(self.cell::<Option<DateTime<Utc>>>()?.map(at))
    }

    pub(super) fn engine_id(&mut self) -> Result<EngineId, RegistryError> {
        self.cell().map(EngineId::from_uuid)
    }

    pub(super) fn product_id(&mut self) -> Result<ProductId, RegistryError> {
        self.cell().map(ProductId::from_uuid)
    }

    fn user(&mut self) -> Result<UserId, RegistryError> {
        UserId::parse(self.cell()?).map_err(|e| self.damaged(self.next - 1, e))
    }

    pub(super) fn slug(&mut self) -> Result<Slug, RegistryError> {
        Slug::parse(self.cell()?).map_err(|e| self.damaged(self.next - 1, e))
    }

    /// The next cell, as a JSON document of a certain shape.
    fn document<T: serde::de::DeserializeOwned>(&mut self) -> Result<T, RegistryError> {
        let value: Value = self.cell()?;
        serde_json::from_value(value).map_err(|e| self.damaged(self.next - 1, e))
    }

    pub(super) fn product(&mut self) -> Result<Product, RegistryError> {
        Ok(Product {
            id: self.product_id()?,
            slug: self.slug()?,
            display_name: self.cell()?,
            policy: self.cell()?,
            deleting: self.cell()?,
            previous_key_expires_at: self.time_opt()?,
            total_provisions: self.cell()?,
            total_destroys: self.cell()?,
            created_at: self.time()?,
        })
    }

    pub(super) fn engine(&mut self) -> Result<Engine, RegistryError> {
        Ok(Engine {
            id: self.engine_id()?,
            product_id: self.product_id()?,
            user_id: self.user()?,
            status: self.word(Status::parse)?,
            desired: self.word(Desired::parse)?,
            status_since: self.time()?,
            revision: self.cell()?,
            generation: self.cell()?,
            backend: self.word(BackendKind::parse)?,
            engine_version: self.cell()?,
            target_version: self.cell()?,
            port: match self.cell::<Option<i32>>()? {
                None => None,
                Some(port) => Some(u16::try_from(port).map_err(|e| self.damaged(self.next - 1, e))?),
            },
            container_id: self.cell()?,
            spec_hash: self.cell()?,
            key: SealedKey { hash: self.cell()?, sealed: self.cell()? },
            next_key: match (self.cell()?, self.cell()?) {
                (Some(hash), Some(sealed)) => Some(SealedKey { hash, sealed }),
                (None, None) => None,
                (Some(_), None) | (None, Some(_)) => return Err(self.damaged(self.next - 1, "half a key")),
            },
            key_rotated_at: self.time_opt()?,
            boot_duration_ms: self.cell()?,
            sleep_mode: self.word_opt(SleepMode::parse)?,
            wake_at: self.time_opt()?,
            last_admit_at: self.time_opt()?,
            admit_lease_until: self.time_opt()?,
            restart_attempts: self.cell()?,
            next_restart_at: self.time_opt()?,
            failure_code: self.word_opt(FailureReason::parse)?,
            failure_message: self.cell()?,
            created_at: self.time()?,
        })
    }

    pub(super) fn vitals(&mut self) -> Result<Vitals, RegistryError> {
        Ok(Vitals {
            last_health_at: self.time_opt()?,
            last_probe_at: self.time_opt()?,
            health_failures: self.cell()?,
            healthy_streak: self.cell()?,
            healthy_since: self.time_opt()?,
            degraded: self.cell()?,
            subsystems: self.document()?,
            reported_version: self.cell()?,
            schema_version: self.cell()?,
            in_flight_turns: self.cell()?,
            open_streams: self.cell()?,
            last_activity_at: self.time_opt()?,
            next_scheduled_at: self.time_opt()?,
            backend_restarts: self.cell()?,
        })
    }

    pub(super) fn operation(&mut self) -> Result<Operation, RegistryError> {
        Ok(Operation {
            id: self.cell().map(OperationId::from_uuid)?,
            engine_id: self.engine_id()?,
            product_id: self.product_id()?,
            user_id: self.user()?,
            kind: self.word(OperationKind::parse)?,
            status: self.word(OperationStatus::parse)?,
            step: self.word(Step::parse)?,
            params: self.cell()?,
            timings: self.document()?,
            owner: self.cell::<Option<Uuid>>()?.map(ReplicaId::from_uuid),
            claim: self.cell()?,
            lease_until: self.time_opt()?,
            attempt: self.cell()?,
            retry_at: self.time_opt()?,
            actor: self.cell()?,
            request_id: self.cell()?,
            error_code: self.cell()?,
            error_message: self.cell()?,
            started_at: self.time()?,
            finished_at: self.time_opt()?,
        })
    }

    /// True when the outer join found nothing for the cells that come next.
    fn is_absent(&self) -> Result<bool, RegistryError> {
        let id: Option<Uuid> = self.row.try_get(self.next).map_err(|e| self.damaged(self.next, e))?;
        Ok(id.is_none())
    }

    pub(super) fn found(&mut self) -> Result<Found, RegistryError> {
        let engine = self.engine()?;
        let vitals = self.vitals()?;
        let operation = if self.is_absent()? {
            self.skip(OPERATION_CELLS);
            None
        } else {
            Some(self.operation()?)
        };
        Ok(Found { engine, vitals, operation, now: self.time()? })
    }

    /// As [`Cells::found`], where the engine itself comes from an outer join.
    pub(super) fn found_opt(&mut self) -> Result<Option<Found>, RegistryError> {
        if self.is_absent()? {
            self.skip(ENGINE_CELLS + VITALS_CELLS + OPERATION_CELLS + 1);
            return Ok(None);
        }
        self.found().map(Some)
    }

    pub(super) fn audit_row(&mut self) -> Result<AuditRow, RegistryError> {
        Ok(AuditRow {
            id: self.cell()?,
            timestamp: self.time()?,
            product_id: self.cell::<Option<Uuid>>()?.map(ProductId::from_uuid),
            user_id: self.cell()?,
            engine_id: self.cell::<Option<Uuid>>()?.map(EngineId::from_uuid),
            action: self.cell()?,
            actor: self.cell()?,
            metadata: self.cell()?,
            duration_ms: self.cell()?,
        })
    }
}
