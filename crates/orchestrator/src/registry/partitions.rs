//! Partitions of the audit log: one per month (UTC), made ahead, dropped whole, and only after they left the house.
//!
//! The default partition stays empty; a row that strayed into it is taken over by its month's partition as soon as
//! that is made. Names are made and checked here, never taken from outside.

use super::Registry;
use super::cells::{Cells, instant};
use super::db::{Query, Tx, retried};
use super::error::{Fault, RegistryError};
use super::ports::LOCKS;
use contract::Timestamp;

/// Second number of the advisory lock: partitions, until the transaction ends.
const PARTITIONS_LOCK: i32 = 3;

/// One month of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// `audit_log_YYYY_MM`.
    pub name: String,
    /// Its first moment.
    pub from: Timestamp,
    /// The first moment after it.
    pub until: Timestamp,
    /// Size with indexes.
    pub bytes: i64,
    /// True: exported, and no row came since.
    pub exported: bool,
    /// True: its month is over.
    pub closed: bool,
}

/// What a removal of old months did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PruneReport {
    /// Dropped.
    pub dropped: Vec<String>,
    /// Old enough, but not exported: kept.
    pub refused: Vec<String>,
}

/// Sizes for the gauges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AuditSizes {
    /// The whole log with indexes.
    pub bytes: i64,
    /// Rows in the default partition; any is an alert.
    pub default_rows: i64,
    /// Months that are over and not exported.
    pub unexported_partitions: i64,
}

const LOCK: Query = Query::new("lock_partitions", "SELECT pg_advisory_xact_lock($1, $2) IS NULL");

const MONTHS: Query = Query::new(
    "partition_months",
    "SELECT 'audit_log_' || to_char(m, 'YYYY_MM'), to_char(m, 'YYYY-MM-DD') || ' 00:00:00+00', \
       to_char(m + INTERVAL '1 month', 'YYYY-MM-DD') || ' 00:00:00+00', \
       to_regclass('audit_log_' || to_char(m, 'YYYY_MM')) IS NOT NULL \
     FROM (SELECT date_trunc('month', clock_timestamp() AT TIME ZONE 'UTC') + n * INTERVAL '1 month' AS m \
           FROM generate_series(0, $1::int) n) months",
);

const PARTITIONS: Query = Query::new(
    "partitions",
    "SELECT c.relname::text, m.first AT TIME ZONE 'UTC', (m.first + INTERVAL '1 month') AT TIME ZONE 'UTC', \
       pg_total_relation_size(c.oid), x.partition IS NOT NULL, x.rows, x.max_id, \
       (m.first + INTERVAL '1 month') AT TIME ZONE 'UTC' <= clock_timestamp() \
     FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid \
     CROSS JOIN LATERAL (SELECT to_timestamp(right(c.relname, 7), 'YYYY_MM') AT TIME ZONE current_setting('timezone') \
       AS first) m \
     LEFT JOIN audit_exports x ON x.partition = c.relname \
     WHERE i.inhparent = 'audit_log'::regclass AND c.relname ~ '^audit_log_[0-9]{4}_[0-9]{2}$' ORDER BY c.relname",
);

const MARK_EXPORTED: Query = Query::new(
    "mark_exported",
    "INSERT INTO audit_exports (partition, rows, max_id, sha256, exported_at) \
     VALUES ($1, $2, $3, $4, clock_timestamp()) ON CONFLICT (partition) DO UPDATE SET rows = EXCLUDED.rows, \
       max_id = EXCLUDED.max_id, sha256 = EXCLUDED.sha256, exported_at = EXCLUDED.exported_at",
);

const OLDER_THAN: Query = Query::new(
    "partitions_older_than",
    "SELECT (date_trunc('month', clock_timestamp() AT TIME ZONE 'UTC') - $1::int * INTERVAL '1 month') \
     AT TIME ZONE 'UTC'",
);

const SIZES: Query = Query::new(
    "audit_sizes",
    "SELECT (SELECT COALESCE(sum(pg_total_relation_size(inhrelid)), 0)::bigint FROM pg_inherits \
       WHERE inhparent = 'audit_log'::regclass), (SELECT count(*) FROM audit_log_default)",
);

/// A name that may stand in a statement.
fn is_partition_name(name: &str) -> bool {
    name.strip_prefix("audit_log_").is_some_and(|month| {
        let bytes = month.as_bytes();
        bytes.len() == 7
            && bytes[4] == b'_'
            && bytes.iter().enumerate().all(|(i, b)| i == 4 || b.is_ascii_digit())
    })
}

fn checked(name: &str) -> Result<&str, RegistryError> {
    if is_partition_name(name) {
        Ok(name)
    } else {
        Err(RegistryError::Defect(format!("{name:?} is no partition of the audit log")))
    }
}

async fn lock(tx: &Tx<'_>) -> Result<(), Fault> {
    tx.rows(&LOCK, &[&LOCKS, &PARTITIONS_LOCK]).await.map(drop)
}

impl Registry {
    /// Makes the partitions of this month and the next `months_ahead`; the answer is the names of new ones.
    pub async fn ensure_partitions(&self, months_ahead: u32) -> Result<Vec<String>, RegistryError> {
        retried!(self.ensure_partitions_once(months_ahead))
    }

    async fn ensure_partitions_once(&self, months_ahead: u32) -> Result<Vec<String>, Fault> {
        let mut conn = self.database.conn().await?;
        let tx = conn.begin().await?;
        lock(&tx).await?;
        let ahead = i32::try_from(months_ahead.min(120)).unwrap_or(120);
        let mut made = Vec::new();
        for row in tx.rows(&MONTHS, &[&ahead]).await? {
            let mut cells = Cells::of(&row);
            let (name, from, until): (String, String, String) = (cells.cell()?, cells.cell()?, cells.cell()?);
            if cells.cell::<bool>()? {
                continue;
            }
            let name = checked(&name)?;
            // Made aside and attached, so that rows which strayed into the default partition can move in first.
            tx.batch(
                "make_partition",
                &format!(
                    "CREATE TABLE {name} (LIKE audit_log INCLUDING DEFAULTS INCLUDING CONSTRAINTS); \
                     WITH strays AS (DELETE FROM audit_log_default \
                       WHERE timestamp >= '{from}' AND timestamp < '{until}' RETURNING *) \
                     INSERT INTO {name} SELECT * FROM strays; \
                     ALTER TABLE audit_log ATTACH PARTITION {name} FOR VALUES FROM ('{from}') TO ('{until}')"
                ),
            )
            .await?;
            made.push(name.to_owned());
        }
        tx.commit().await?;
        Ok(made)
    }

    /// The months of the log, oldest first.
    pub async fn partitions(&self) -> Result<Vec<Partition>, RegistryError> {
        let conn = self.database.conn().await?;
        let mut partitions = Vec::new();
        for row in conn.rows(&PARTITIONS, &[]).await? {
            let mut cells = Cells::of(&row);
            let mut partition = Partition {
                name: cells.cell()?,
                from: cells.time()?,
                until: cells.time()?,
                bytes: cells.cell()?,
                exported: cells.cell()?,
                closed: false,
            };
            let written: (Option<i64>, Option<i64>) = (cells.cell()?, cells.cell()?);
            partition.closed = cells.cell()?;
            if let (true, (Some(rows), Some(max_id))) = (partition.exported, written) {
                // A slow operation may still have closed with a row of that month after the export.
                let name = checked(&partition.name)?;
                let count = Query::assembled(
                    "partition_rows",
                    format!("SELECT count(*), COALESCE(max(id), 0) FROM {name}"),
                );
                let row = conn.one(&count, &[]).await?;
                let mut cells = Cells::of(&row);
                partition.exported = (rows, max_id) == (cells.cell()?, cells.cell()?);
            }
            partitions.push(partition);
        }
        Ok(partitions)
    }

    /// Records that a month has left the house: how many rows, the highest id (0 when empty), and the file's hash.
    pub async fn mark_exported(
        &self,
        partition: &str,
        rows: i64,
        max_id: i64,
        sha256: &str,
    ) -> Result<(), RegistryError> {
        let conn = self.database.conn().await?;
        conn.rows(&MARK_EXPORTED, &[&checked(partition)?, &rows, &max_id, &sha256]).await?;
        Ok(())
    }

    /// Drops months that ended at least `older_than_months` before this one began. What is not exported is kept and
    /// named, unless forced.
    pub async fn prune(&self, older_than_months: u32, force: bool) -> Result<PruneReport, RegistryError> {
        let bound = self.prune_bound(older_than_months).await?;
        let mut report = PruneReport::default();
        for partition in self.partitions().await? {
            if partition.until > bound || !partition.closed {
                continue;
            }
            if partition.exported || force {
                retried!(self.drop_partition(&partition.name))?;
                report.dropped.push(partition.name);
            } else {
                report.refused.push(partition.name);
            }
        }
        Ok(report)
    }

    async fn prune_bound(&self, older_than_months: u32) -> Result<Timestamp, RegistryError> {
        let conn = self.database.conn().await?;
        let months = i32::try_from(older_than_months.min(12_000)).unwrap_or(12_000);
        let bound = Cells::of(&conn.one(&OLDER_THAN, &[&months]).await?).time()?;
        instant(bound).map(|_| bound)
    }

    async fn drop_partition(&self, name: &str) -> Result<(), Fault> {
        let name = checked(name)?;
        let mut conn = self.database.conn().await?;
        let tx = conn.begin().await?;
        lock(&tx).await?;
        tx.batch("drop_partition", &format!("DROP TABLE IF EXISTS {name}")).await?;
        tx.commit().await
    }

    /// Sizes for the gauges.
    pub async fn audit_sizes(&self) -> Result<AuditSizes, RegistryError> {
        let unexported = self.partitions().await?.iter().filter(|p| p.closed && !p.exported).count();
        let conn = self.database.conn().await?;
        let row = conn.one(&SIZES, &[]).await?;
        let mut cells = Cells::of(&row);
        Ok(AuditSizes {
            bytes: cells.cell()?,
            default_rows: cells.cell()?,
            unexported_partitions: i64::try_from(unexported).unwrap_or(i64::MAX),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_months_of_the_log_are_names() {
        assert!(is_partition_name("audit_log_2026_11"));
        for wrong in [
            "audit_log_default",
            "audit_log_2026_1",
            "audit_log_2026_11; DROP TABLE x",
            "engines",
            "audit_log_2026-11",
        ] {
            assert!(!is_partition_name(wrong), "{wrong}");
        }
    }
}
