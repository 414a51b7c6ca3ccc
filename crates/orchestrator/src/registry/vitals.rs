//! Vitals: what probes saw, written in batches. Never the guard of a transition, and no notification.

use super::cells::{instant, storable};
use super::db::{Query, retried};
use super::error::Fault;
use super::{Registry, RegistryError, Vitals};
use chrono::{DateTime, Utc};
use contract::{EngineId, Timestamp};
use serde_json::{Map, Value};
use uuid::Uuid;

/// Rows of one statement. More makes one statement long enough to meet its limit; fewer costs round trips.
const BATCH: usize = 1000;

const FLUSH: Query = Query::new(
    "flush_vitals",
    "UPDATE engine_vitals AS v SET last_health_at = n.last_health_at, last_probe_at = n.last_probe_at, \
       health_failures = n.health_failures, healthy_streak = n.healthy_streak, healthy_since = n.healthy_since, \
       degraded = n.degraded, subsystems = n.subsystems, reported_version = n.reported_version, \
       schema_version = n.schema_version, in_flight_turns = n.in_flight_turns, open_streams = n.open_streams, \
       last_activity_at = n.last_activity_at, next_scheduled_at = n.next_scheduled_at, \
       backend_restarts = n.backend_restarts, updated_at = clock_timestamp() \
     FROM unnest($1::uuid[], $2::timestamptz[], $3::timestamptz[], $4::int[], $5::int[], $6::timestamptz[], \
       $7::bool[], $8::jsonb[], $9::text[], $10::int[], $11::int[], $12::int[], $13::timestamptz[], \
       $14::timestamptz[], $15::int[]) \
       AS n(engine_id, last_health_at, last_probe_at, health_failures, healthy_streak, healthy_since, degraded, \
       subsystems, reported_version, schema_version, in_flight_turns, open_streams, last_activity_at, \
       next_scheduled_at, backend_restarts) \
     WHERE v.engine_id = n.engine_id",
);

impl Registry {
    /// Writes vitals; rows of engines that are gone are left out.
    pub async fn flush_vitals(&self, all: &[(EngineId, Vitals)]) -> Result<(), RegistryError> {
        for batch in all.chunks(BATCH) {
            retried!(self.flush_once(batch))?;
        }
        Ok(())
    }

    async fn flush_once(&self, batch: &[(EngineId, Vitals)]) -> Result<(), Fault> {
        fn column<T>(batch: &[(EngineId, Vitals)], of: impl Fn(&Vitals) -> T) -> Vec<T> {
            batch.iter().map(|(_, vitals)| of(vitals)).collect()
        }
        let times =
            |of: fn(&Vitals) -> Option<Timestamp>| -> Result<Vec<Option<DateTime<Utc>>>, RegistryError> {
                batch.iter().map(|(_, vitals)| of(vitals).map(instant).transpose()).collect()
            };
        let ids: Vec<Uuid> = batch.iter().map(|(id, _)| id.uuid()).collect();
        let conn = self.database.conn().await?;
        conn.rows(
            &FLUSH,
            &[
                &ids,
                &times(|v| v.last_health_at)?,
                &times(|v| v.last_probe_at)?,
                &column(batch, |v| v.health_failures),
                &column(batch, |v| v.healthy_streak),
                &times(|v| v.healthy_since)?,
                &column(batch, |v| v.degraded),
                &column(batch, subsystems),
                &column(batch, |v| v.reported_version.as_deref().map(storable)),
                &column(batch, |v| v.schema_version),
                &column(batch, |v| v.in_flight_turns),
                &column(batch, |v| v.open_streams),
                &times(|v| v.last_activity_at)?,
                &times(|v| v.next_scheduled_at)?,
                &column(batch, |v| v.backend_restarts),
            ],
        )
        .await
        .map(drop)
    }
}

fn subsystems(vitals: &Vitals) -> Value {
    let text = |(name, state): (&String, &String)| (storable(name), Value::String(storable(state)));
    Value::Object(vitals.subsystems.iter().map(text).collect::<Map<_, _>>())
}
