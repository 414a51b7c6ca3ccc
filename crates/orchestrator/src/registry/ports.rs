//! Host ports: handed out in turn (next fit), under one lock, never twice.
//!
//! A port that was just given back is the last to be used again, so late packets meet nobody. A port that a stranger
//! holds is set aside for a while.

use super::cells::Cells;
use super::db::{Query, Tx};
use super::error::Fault;
use super::lease::millis;
use std::time::Duration;

/// First number of every advisory lock of the registry.
pub(super) const LOCKS: i32 = 1_111_576_645;
/// Second number: ports, until the transaction ends.
const PORTS_LOCK: i32 = 2;

const LOCK_PORTS: Query = Query::new("lock_ports", "SELECT pg_advisory_xact_lock($1, $2) IS NULL");

const PICK_PORT: Query = Query::new(
    "pick_port",
    "WITH picked AS ( \
       SELECT p FROM generate_series($1::int, $2::int) p, instance \
       WHERE NOT EXISTS (SELECT 1 FROM engines e WHERE e.port = p) \
         AND NOT EXISTS (SELECT 1 FROM quarantined_ports q WHERE q.port = p AND q.until > clock_timestamp()) \
       ORDER BY (p <= port_cursor), p LIMIT 1) \
     UPDATE instance SET port_cursor = picked.p FROM picked RETURNING picked.p",
);

const QUARANTINE: Query = Query::new(
    "quarantine_port",
    "INSERT INTO quarantined_ports AS q (port, reason, until) \
     VALUES ($1, $2, clock_timestamp() + $3::bigint * INTERVAL '1 millisecond') \
     ON CONFLICT (port) DO UPDATE SET reason = EXCLUDED.reason, until = GREATEST(q.until, EXCLUDED.until)",
);

/// Holds every other choice of a port off until this transaction ends.
pub(super) async fn lock(tx: &Tx<'_>) -> Result<(), Fault> {
    tx.rows(&LOCK_PORTS, &[&LOCKS, &PORTS_LOCK]).await.map(drop)
}

/// The next free port of the inclusive range; `None` when there is none. The lock must be held.
pub(super) async fn pick(tx: &Tx<'_>, range: (u16, u16)) -> Result<Option<i32>, Fault> {
    let (from, to) = (i32::from(range.0), i32::from(range.1));
    match tx.maybe(&PICK_PORT, &[&from, &to]).await? {
        Some(row) => Ok(Some(Cells::of(&row).cell()?)),
        None => Ok(None),
    }
}

/// Sets a port aside.
pub(super) async fn quarantine(tx: &Tx<'_>, port: u16, reason: &str, span: Duration) -> Result<(), Fault> {
    tx.rows(&QUARANTINE, &[&i32::from(port), &reason, &millis(span)]).await.map(drop)
}
