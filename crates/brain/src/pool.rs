//! The readers: a few threads, each with a read-only connection, sharing one queue.
//!
//! Every read is one short transaction, so it sees one instant of the brain. Own threads instead of the
//! runtime's blocking pool: a hundred slow file tools cannot make a read wait for a thread.
//!
//! One reader is there from the start; another is added when a read finds all of them at work. Each costs
//! a thread, a connection and its caches, and four at once would compete with the start they serve.

use crate::handle::{join, spawn};
use crate::health::Health;
use crate::queue::{Job, Queue, Verdict};
use crate::{Error, Result, Tx, connection};
use rusqlite::Connection;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// The readers and what they share.
pub(crate) struct Readers {
    path: PathBuf,
    queue: Arc<Queue>,
    health: Arc<Health>,
    limit: usize,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Readers {
    /// Starts the first reader, on `first` if there is a connection already; there will be at most `limit`.
    pub(crate) fn start(
        path: &Path,
        health: Arc<Health>,
        limit: usize,
        first: Option<Connection>,
    ) -> std::io::Result<Self> {
        let readers = Self {
            path: path.to_owned(),
            queue: Arc::new(Queue::new()),
            health,
            limit: limit.max(1),
            threads: Mutex::default(),
        };
        readers.add(&mut readers.lock(), first)?;
        Ok(readers)
    }

    /// Hands a read in and waits for its answer; see [`Queue::call`].
    pub(crate) async fn call<T, F>(&self, name: &'static str, f: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Tx<'_>) -> Result<T> + Send + 'static,
    {
        self.help();
        self.queue.call(name, false, f).await
    }

    /// Adds a reader when nobody is free for one more read.
    fn help(&self) {
        if self.queue.has_idle_hand() {
            return;
        }
        let mut threads = self.lock();
        if (1..self.limit).contains(&threads.len())
            && let Err(error) = self.add(&mut threads, None)
        {
            // Those that are there serve everything, only later.
            tracing::warn!(%error, "a further reader of the brain could not be started");
        }
    }

    fn add(&self, threads: &mut Vec<JoinHandle<()>>, conn: Option<Connection>) -> std::io::Result<()> {
        let reader = Reader {
            path: self.path.clone(),
            queue: Arc::clone(&self.queue),
            health: Arc::clone(&self.health),
        };
        threads.push(spawn(format!("brain-read-{}", threads.len()), move || reader.run(conn))?);
        Ok(())
    }

    /// Finishes what was accepted and waits for the readers' ends.
    pub(crate) fn close(&self) {
        self.queue.close();
        let threads = std::mem::take(&mut *self.lock());
        threads.into_iter().for_each(join);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Reader {
    path: PathBuf,
    queue: Arc<Queue>,
    health: Arc<Health>,
}

impl Reader {
    /// Works until the queue is closed and empty.
    fn run(self, conn: Option<Connection>) {
        // Opened before the first job so that the first read does not pay for it; a failure is told to
        // the job that meets it, and tried again.
        let mut kept = conn.or_else(|| connection::read_only(&self.path).ok());
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
