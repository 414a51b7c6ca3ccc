//! The writer: one thread, the only write connection, commits in groups.
//!
//! A group is one transaction in which every job has a savepoint of its own, so a failing job undoes
//! itself and not its neighbours. Callers are answered after the commit's fsync, never before.

use crate::health::Health;
use crate::queue::{Job, Next, Queue, Verdict};
use crate::{Error, Result, Tx, meta};
use rusqlite::Connection;
use rusqlite::config::DbConfig;
use rusqlite::hooks::Wal;
use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

/// Jobs that share one commit. Larger makes the first of them wait for the last; smaller spends an fsync
/// on fewer jobs.
const GROUP_JOBS: usize = 128;
/// How long a group takes in further jobs. Longer delays the first caller's answer under load.
const GROUP_TIME: Duration = Duration::from_millis(20);
/// Pages in the WAL after which they are moved into the file. More makes reads search a longer log and a
/// start after a crash read it; fewer writes the same pages into the file again and again.
const CHECKPOINT_PAGES: i32 = 1000;
/// Size of the WAL above which it is cut to nothing. Larger fills the disk with dead pages; smaller pays
/// the cut more often.
pub(crate) const WAL_LIMIT_BYTES: u64 = 64 * 1024 * 1024;
/// Growth of the WAL before a refused cut is tried again; a long reader (a backup) refuses it.
const WAL_RETRY_BYTES: u64 = 16 * 1024 * 1024;
/// Pause between two attempts to empty the WAL of erased text. Longer leaves what was forgotten in the log for longer;
/// shorter makes a row of deletions pay two fsyncs each, and asks more often while a reader is in the way.
const WIPE_PAUSE: Duration = Duration::from_secs(1);
/// How often a full disk is tried again while nobody writes, so that `/health` recovers by itself.
const FULL_DISK_PROBE: Duration = Duration::from_secs(2);
/// The fact a probe rewrites: when a full disk was last tried.
const WRITE_PROBE: &str = "write_probe";
/// Rounds of `busy_timeout` spent on a foreign program's write transaction before its victims are told.
const BUSY_ROUNDS: u32 = 6;

pub(crate) struct Writer {
    conn: Connection,
    queue: Arc<Queue>,
    health: Arc<Health>,
    wal: PathBuf,
    cut_wal_above: u64,
    /// Pages in the WAL after the last commit.
    pages: Arc<AtomicI32>,
    /// The WAL still holds text that has been erased.
    erased: Cell<bool>,
    /// When the WAL may next be emptied of it.
    wipe_after: Instant,
}

impl Writer {
    pub(crate) fn new(
        mut conn: Connection,
        queue: Arc<Queue>,
        health: Arc<Health>,
        path: &Path,
        after_crash: bool,
    ) -> Result<Self> {
        let pages = Arc::new(AtomicI32::new(0));
        let seen = Arc::clone(&pages);
        // In place of SQLite's own checkpoint, which runs inside COMMIT: with two more fsyncs before the
        // callers, whose changes are durable already, are answered.
        conn.wal_hook(Some(move |_: &mut Wal, pages| {
            seen.store(pages, Ordering::Relaxed);
            Ok(())
        }))?;
        Ok(Self {
            conn,
            queue,
            health,
            wal: wal_path(path),
            cut_wal_above: WAL_LIMIT_BYTES,
            pages,
            // The process before may have died between an erasure and the emptying of the log.
            erased: Cell::new(after_crash),
            wipe_after: Instant::now(),
        })
    }

    /// Works until the queue is closed and empty, then leaves the file checkpointed.
    pub(crate) fn run(mut self) {
        while let Some(job) = self.next() {
            if let Some(error) = self.health.stopped() {
                job.answer(Err(error));
            } else if job.alone() {
                self.alone(job);
            } else {
                self.group(job);
            }
            self.checkpoint();
            self.cut_wal();
            self.wipe_wal();
        }
        self.say_goodbye();
    }

    fn next(&mut self) -> Option<Box<dyn Job>> {
        while self.health.is_full() {
            match self.queue.pop_within(FULL_DISK_PROBE) {
                Next::Job(job) => return Some(job),
                Next::Closed => return None,
                Next::TimedOut => self.probe(),
            }
        }
        while self.erased.get() {
            match self.queue.pop_within(self.wipe_after.saturating_duration_since(Instant::now())) {
                Next::Job(job) => return Some(job),
                Next::Closed => return None,
                Next::TimedOut => self.wipe_wal(),
            }
        }
        self.queue.pop()
    }

    fn group(&self, first: Box<dyn Job>) {
        if let Err(error) = self.begin() {
            // Nothing has run, so nothing is half done; a busy file is not a failed commit.
            if !matches!(error, Error::Busy) {
                self.health.commit_failed(&error);
            }
            return first.answer(Err(error));
        }
        let started = Instant::now();
        let mut done = Vec::new();
        let mut kept = 0_usize;
        let mut lost = None;
        let mut next = Some(first);
        while let Some(mut job) = next {
            let verdict = self.run_one(&mut *job);
            self.health.saw(&verdict);
            kept += usize::from(verdict == Verdict::Keep);
            done.push(job);
            if self.conn.is_autocommit() {
                // SQLite itself rolled the transaction back (disk full, I/O error): the whole group is gone.
                lost = Some(if verdict == Verdict::Full {
                    Error::DiskFull
                } else {
                    Error::Commit("the transaction was rolled back by a neighbour's failure".to_owned())
                });
                break;
            }
            let room = done.len() < GROUP_JOBS && started.elapsed() < GROUP_TIME;
            next = if room { self.queue.pop_companion() } else { None };
        }
        let outcome = match lost {
            Some(error) => Err(error),
            None if kept == 0 => self.conn.execute_batch("ROLLBACK").map_err(Error::from),
            None => self.commit(),
        };
        for job in done {
            job.answer(outcome.as_ref().map_err(Error::for_neighbour).copied());
        }
    }

    fn run_one(&self, job: &mut dyn Job) -> Verdict {
        let savepoint = self.statement("SAVEPOINT job");
        if let Err(error) = savepoint {
            return if matches!(error, Error::DiskFull) { Verdict::Full } else { Verdict::Undo };
        }
        let tx = Tx::new(&self.conn);
        let verdict = job.run(&tx);
        if tx.forgets() {
            self.erased.set(true);
        }
        if self.conn.is_autocommit() {
            return verdict;
        }
        let undone = if verdict == Verdict::Keep { Ok(()) } else { self.statement("ROLLBACK TO job") };
        match undone.and_then(|()| self.statement("RELEASE job")) {
            Ok(()) => verdict,
            Err(error) => {
                // A savepoint that cannot be undone must not be committed with its neighbours.
                tracing::warn!(%error, "a savepoint could not be closed; the group is rolled back");
                let _ = self.conn.execute_batch("ROLLBACK");
                if matches!(error, Error::DiskFull) { Verdict::Full } else { Verdict::Undo }
            }
        }
    }

    fn alone(&self, mut job: Box<dyn Job>) {
        self.health.saw(&job.run(&Tx::new(&self.conn)));
        if !self.conn.is_autocommit() {
            let _ = self.conn.execute_batch("ROLLBACK");
        }
        job.answer(Ok(()));
    }

    fn begin(&self) -> Result<()> {
        let mut round = 0;
        loop {
            match self.statement("BEGIN IMMEDIATE") {
                Err(Error::Busy) if round < BUSY_ROUNDS => round += 1,
                other => return other,
            }
        }
    }

    fn commit(&self) -> Result<()> {
        let Err(error) = self.statement("COMMIT") else {
            self.health.committed();
            return Ok(());
        };
        if !self.conn.is_autocommit() {
            let _ = self.conn.execute_batch("ROLLBACK");
        }
        let error = match error {
            // A deferred rule refused the group: a fault in a job, not in the disk.
            Error::Constraint(_) => return Err(error),
            Error::DiskFull | Error::Corrupt(_) | Error::ReadOnly(_) => error,
            other => Error::Commit(other.to_string()),
        };
        self.health.commit_failed(&error);
        Err(error)
    }

    fn statement(&self, sql: &str) -> Result<()> {
        self.conn.prepare_cached(sql)?.execute([])?;
        Ok(())
    }

    /// The smallest commit that proves the disk takes commits again. The value must differ each time:
    /// SQLite does not write a page that would not change.
    fn probe(&self) {
        let now = contract::Timestamp::now().millis().to_string();
        let tried = self.begin().and_then(|()| meta::set(&Tx::new(&self.conn), WRITE_PROBE, &now));
        match tried {
            Ok(()) => drop(self.commit()),
            Err(_) if !self.conn.is_autocommit() => drop(self.conn.execute_batch("ROLLBACK")),
            Err(_) => {}
        }
    }

    /// Moves the WAL's pages into the file when there are many, as far as readers allow.
    fn checkpoint(&self) {
        if self.pages.load(Ordering::Relaxed) < CHECKPOINT_PAGES {
            return;
        }
        // Not moved now, they are moved after a later commit; nothing depends on it.
        let _ = self.conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
        self.pages.store(0, Ordering::Relaxed);
    }

    fn cut_wal(&mut self) {
        let size = file_size(&self.wal);
        if size <= self.cut_wal_above {
            return;
        }
        self.cut_wal_above = match truncate_wal(&self.conn) {
            Ok(true) => WAL_LIMIT_BYTES,
            Ok(false) | Err(_) => size + WAL_RETRY_BYTES,
        };
    }

    /// Empties the WAL of what was erased, after the callers have their answers. A reader that still needs the log
    /// refuses it; then it is tried again, and at the latest the orderly close does it.
    fn wipe_wal(&mut self) {
        if !self.erased.get() || Instant::now() < self.wipe_after {
            return;
        }
        // First: whoever waits for work waits until then, and must not spin.
        self.wipe_after = Instant::now() + WIPE_PAUSE;
        if self.health.stopped().is_none() && matches!(truncate_wal(&self.conn), Ok(true)) {
            self.erased.set(false);
            self.cut_wal_above = WAL_LIMIT_BYTES;
        }
    }

    fn say_goodbye(self) {
        if self.health.stopped().is_none() {
            let now = contract::Timestamp::now().millis().to_string();
            let noted = self
                .begin()
                .and_then(|()| meta::set(&Tx::new(&self.conn), meta::LAST_CLEAN_SHUTDOWN, &now))
                .and_then(|()| self.commit());
            if let Err(error) = noted {
                tracing::warn!(%error, "the brain was closed without its closing note");
            }
            if let Err(error) = truncate_wal(&self.conn) {
                tracing::warn!(%error, "the brain was closed without a checkpoint; the WAL file keeps the rest");
            }
        } else {
            // Closing would move the log into a file that may be damaged; leave both as they are for `verify`.
            let _ = self.conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
        }
        self.conn.flush_prepared_statement_cache();
        if let Err((_, error)) = self.conn.close() {
            tracing::warn!(%error, "the brain's write connection did not close cleanly");
        }
    }
}

/// Moves the WAL into the file and cuts it to nothing; false when a reader still needs it.
fn truncate_wal(conn: &Connection) -> Result<bool> {
    conn.busy_timeout(Duration::ZERO)?;
    let busy = conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |r| r.get::<_, i64>(0));
    conn.busy_timeout(crate::connection::BUSY_TIMEOUT)?;
    Ok(busy? == 0)
}

/// The name SQLite gives the write-ahead log of `path`.
pub(crate) fn wal_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    PathBuf::from(name)
}

/// Bytes of a file, zero when it is not there. A `stat`, so SQLite's locks are not disturbed.
pub(crate) fn file_size(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |m| m.len())
}
