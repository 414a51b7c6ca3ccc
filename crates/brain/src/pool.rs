//! The readers: a few threads, each with a read-only connection, sharing one queue.
//!
//! Every read is one short transaction, so it sees one instant of the brain. Own threads instead of the
//! runtime's blocking pool: a hundred slow file tools cannot make a read wait for a thread.

use crate::health::Health;
use crate::queue::{Job, Queue, Verdict};
use crate::{Error, Result, Tx, connection};
use rusqlite::Connection;
use std::path::PathBuf;
use std::sync::Arc;

pub(crate) struct Reader {
    pub(crate) path: PathBuf,
    pub(crate) queue: Arc<Queue>,
    pub(crate) health: Arc<Health>,
}

impl Reader {
    /// Works until the queue is closed and empty.
    pub(crate) fn run(self) {
        // Opened before the first job so that the first read does not pay for it; a failure is told to
        // the job that meets it, and tried again.
        let mut kept = connection::read_only(&self.path).ok();
        while let Some(job) = self.queue.pop() {
            let conn = match kept.take().map_or_else(|| connection::read_only(&self.path), Ok) {
                Ok(conn) => conn,
                Err(error) => {
                    job.answer(Err(error));
                    continue;
                }
            };
            self.serve(&conn, job);
            kept = Some(conn);
        }
    }

    fn serve(&self, conn: &Connection, mut job: Box<dyn Job>) {
        if let Err(error) = statement(conn, "BEGIN") {
            return job.answer(Err(error));
        }
        let verdict = job.run(&Tx::new(conn));
        if matches!(verdict, Verdict::Corrupt(_)) {
            self.health.saw(&verdict);
        }
        let ended = if conn.is_autocommit() { Ok(()) } else { statement(conn, "ROLLBACK") };
        if let Err(error) = ended {
            tracing::warn!(%error, "a read transaction did not end cleanly");
        }
        job.answer(Ok(()));
    }
}

fn statement(conn: &Connection, sql: &str) -> Result<()> {
    conn.prepare_cached(sql)?.execute([]).map_err(Error::from)?;
    Ok(())
}
