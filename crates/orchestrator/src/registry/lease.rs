//! The supervisor's lease: who runs the loops. Decided by the database clock alone.
//!
//! A lease is never a fence: a deposed holder is harmless because of claims, revisions and generations. Its statements
//! have connections of their own: a burst of requests costs nobody the lease.

use super::cells::Cells;
use super::db::Query;
use super::notify::{self, Notice};
use super::{Registry, RegistryError};
use contract::{ReplicaId, Timestamp};
use std::time::Duration;

const TRY_LEASE: Query = Query::new(
    "try_lease",
    "INSERT INTO leases AS l (name, holder, holder_name, epoch, expires_at) \
     VALUES ('supervisor', $1, $2, 1, clock_timestamp() + $3::bigint * INTERVAL '1 millisecond') \
     ON CONFLICT (name) DO UPDATE SET holder = EXCLUDED.holder, holder_name = EXCLUDED.holder_name, \
       epoch = l.epoch + (l.holder <> EXCLUDED.holder)::int, expires_at = EXCLUDED.expires_at \
     WHERE l.holder = EXCLUDED.holder OR l.expires_at < clock_timestamp() \
     RETURNING epoch",
);

const RELEASE_LEASE: Query = Query::new(
    "release_lease",
    "WITH released AS (UPDATE leases SET expires_at = clock_timestamp() - INTERVAL '1 second' \
       WHERE name = 'supervisor' AND holder = $1 AND expires_at >= clock_timestamp() RETURNING name) \
     SELECT pg_notify($2, $3) IS NULL FROM released",
);

const LEASE_HOLDER: Query =
    Query::new("lease_holder", "SELECT holder, expires_at FROM leases WHERE name = 'supervisor'");

impl Registry {
    /// Takes or renews the lease; the epoch when it is ours now. It is held for `ttl` from when this was sent.
    pub async fn try_lease(
        &self,
        me: ReplicaId,
        name: &str,
        ttl: Duration,
    ) -> Result<Option<i64>, RegistryError> {
        let conn = self.database.kept().await?;
        match conn.maybe(&TRY_LEASE, &[&me.uuid(), &name, &millis(ttl)]).await? {
            Some(row) => Cells::of(&row).cell().map(Some),
            None => Ok(None),
        }
    }

    /// Hands the lease over at once and tells the others; false when it was not ours.
    pub async fn release_lease(&self, me: ReplicaId) -> Result<bool, RegistryError> {
        let conn = self.database.kept().await?;
        let told = Notice::Lease.payload();
        Ok(conn.maybe(&RELEASE_LEASE, &[&me.uuid(), &notify::CHANNEL, &told]).await?.is_some())
    }

    /// Who had the lease last, and until when.
    pub async fn lease_holder(&self) -> Result<Option<(ReplicaId, Timestamp)>, RegistryError> {
        let conn = self.database.kept().await?;
        let Some(row) = conn.maybe(&LEASE_HOLDER, &[]).await? else { return Ok(None) };
        let mut cells = Cells::of(&row);
        Ok(Some((cells.cell().map(ReplicaId::from_uuid)?, cells.time()?)))
    }
}

/// A length of time as statements take it; a century at most, so that a sum stays an instant.
pub(super) fn millis(span: Duration) -> i64 {
    const CENTURY_MS: u128 = 100 * 366 * 86_400_000;
    i64::try_from(span.as_millis().min(CENTURY_MS)).unwrap_or(i64::MAX)
}
