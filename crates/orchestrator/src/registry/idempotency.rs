//! What is swept away with time: idempotency keys, finished operations, ended quarantines.
//!
//! Each sweep is bounded, so a long pause of the supervisor makes several short sweeps and no long one.

use super::cells::Cells;
use super::db::Query;
use super::{Registry, RegistryError};

/// What a sweep removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Housekeeping {
    /// Idempotency keys older than 24 hours.
    pub idempotency_keys: i64,
    /// Operations that ended more than 7 days ago.
    pub operations: i64,
    /// Quarantines that are over.
    pub quarantines: i64,
}

impl Housekeeping {
    /// True when this sweep met its limit, so that more may be left.
    pub fn is_full(&self) -> bool {
        [self.idempotency_keys, self.operations, self.quarantines].iter().any(|&removed| removed >= SWEEP)
    }
}

/// Rows of each kind removed by one sweep. More could meet the statement limit; fewer needs more sweeps on
/// busy fleets.
const SWEEP: i64 = 10_000;

const SWEEP_KEYS: Query = Query::new(
    "sweep_idempotency_keys",
    "WITH gone AS (DELETE FROM idempotency_keys WHERE ctid = ANY (ARRAY( \
       SELECT ctid FROM idempotency_keys WHERE created_at < clock_timestamp() - INTERVAL '24 hours' LIMIT $1)) \
     RETURNING 1) SELECT count(*) FROM gone",
);

const SWEEP_OPERATIONS: Query = Query::new(
    "sweep_operations",
    "WITH gone AS (DELETE FROM operations WHERE id = ANY (ARRAY( \
       SELECT id FROM operations WHERE finished_at < clock_timestamp() - INTERVAL '7 days' LIMIT $1)) \
     RETURNING 1) SELECT count(*) FROM gone",
);

const SWEEP_QUARANTINES: Query = Query::new(
    "sweep_quarantines",
    "WITH gone AS (DELETE FROM quarantined_ports WHERE port = ANY (ARRAY( \
       SELECT port FROM quarantined_ports WHERE until <= clock_timestamp() LIMIT $1)) \
       AND until <= clock_timestamp() RETURNING 1) SELECT count(*) FROM gone",
);

impl Registry {
    /// Removes what has outlived its use.
    pub async fn housekeeping(&self) -> Result<Housekeeping, RegistryError> {
        let conn = self.database.conn().await?;
        Ok(Housekeeping {
            idempotency_keys: Cells::of(&conn.one(&SWEEP_KEYS, &[&SWEEP]).await?).cell()?,
            operations: Cells::of(&conn.one(&SWEEP_OPERATIONS, &[&SWEEP]).await?).cell()?,
            quarantines: Cells::of(&conn.one(&SWEEP_QUARANTINES, &[&SWEEP]).await?).cell()?,
        })
    }
}
