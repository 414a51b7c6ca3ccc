//! Copies of a living brain, made through SQLite while turns go on.
//!
//! A copy is taken from one read snapshot, so writers never wait and the copy is one instant. It appears
//! under its name only after it was checked and synced; a crash leaves at most a `.partial` file.

use crate::{Brain, Error, connection, filesystem, schema};
use crate::{OpenError, open};
use chrono::{DateTime, Utc};
use contract::Timestamp;
use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};
use serde::Serialize;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// Pages copied per step. Larger makes a cancelled process wait longer; smaller costs more calls.
const STEP_PAGES: i32 = 1024;
/// Space that must remain free beyond the copy's own size. Smaller could fill the disk under the brain.
const SPARE_BYTES: u64 = 8 * 1024 * 1024;
/// Age after which a `.partial` file is known to be a dead process's. Shorter could delete a slow backup.
const PARTIAL_AGE: Duration = Duration::from_secs(24 * 3600);
/// Rounds of `busy_timeout` to get a step in while a foreign program holds the file.
const BUSY_ROUNDS: u32 = 6;

/// A finished copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Where it is.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// Its schema.
    pub schema_version: u32,
    /// How long it took.
    pub duration_ms: u64,
}

/// Why there is no copy.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The copy would not fit.
    #[error("{needed} bytes are needed in {}, {free} are free", .dir.display())]
    NoRoom {
        /// Bytes needed.
        needed: u64,
        /// Bytes free.
        free: u64,
        /// Where.
        dir: PathBuf,
    },
    /// There is a file of that name.
    #[error("{} exists already; choose another name", .0.display())]
    Exists(PathBuf),
    /// What was copied does not pass the check.
    #[error("the copy is not sound: {0}; run `september-engine verify`")]
    NotSound(String),
    /// Anything else.
    #[error("could not {action} {}: {reason}", .path.display())]
    Failed {
        /// A verb phrase.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system or SQLite said.
        reason: String,
    },
}

/// What to do when the wanted name is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnExisting {
    /// Leave it and fail.
    Refuse,
    /// Put the copy in its place, once the copy is sound.
    Replace,
}

/// Who asked for a backup; decides its name, and with it whether [`prune`] may delete it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// A person or a program.
    Asked,
    /// The schedule.
    Scheduled,
}

const SCHEDULED_SUFFIX: &str = "-scheduled.sqlite";

/// `brain-<UTC time>.sqlite`, or `brain-<UTC time>-scheduled.sqlite`.
pub fn file_name(reason: Reason, now: Timestamp) -> String {
    match reason {
        Reason::Asked => format!("brain-{}.sqlite", stamp(now)),
        Reason::Scheduled => format!("brain-{}{SCHEDULED_SUFFIX}", stamp(now)),
    }
}

/// An instant as it appears in file names; sorts by time.
pub fn stamp(now: Timestamp) -> String {
    let time = DateTime::<Utc>::from_timestamp_millis(now.millis()).unwrap_or(DateTime::<Utc>::UNIX_EPOCH);
    time.format("%Y%m%dT%H%M%S%3fZ").to_string()
}

/// Makes BACKUP_DIR, private to this user, unless it is there.
pub fn make_dir(dir: &Path) -> Result<(), BackupError> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(failed("make the directory", dir))
}

/// Copies the brain at `brain` to `to`. Needs no lock; also right while another process serves it.
pub fn online(brain: &Path, to: &Path, on_existing: OnExisting) -> Result<Report, BackupError> {
    let started = Instant::now();
    if on_existing == OnExisting::Refuse && to.exists() {
        return Err(BackupError::Exists(to.to_owned()));
    }
    if crate::writer::file_size(brain) == 0 {
        return Err(failed("back up", brain)("there is no brain yet"));
    }
    let source = connection::read_only(brain).map_err(failed("open", brain))?;
    let needed = pages(&source).map_err(failed("measure", brain))?;
    let dir = open::parent(to);
    if let Some(free) = filesystem::free_bytes(&dir)
        && free < needed.saturating_add(SPARE_BYTES)
    {
        return Err(BackupError::NoRoom { needed: needed.saturating_add(SPARE_BYTES), free, dir });
    }
    let partial = Partial(partial_name(to));
    let _ = std::fs::remove_file(&partial.0);
    copy(&source, &partial.0).map_err(failed("copy to", to))?;
    drop(source);
    let schema_version = check(&partial.0)?;
    std::fs::File::open(&partial.0).and_then(|f| f.sync_all()).map_err(failed("sync", to))?;
    std::fs::rename(&partial.0, to).map_err(failed("name", to))?;
    open::sync_dir(&dir).map_err(failed("sync the directory of", to))?;
    let bytes = crate::writer::file_size(to);
    let duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(Report { path: to.to_owned(), bytes, schema_version, duration_ms })
}

impl Brain {
    /// Copies this brain to `to` on a thread of its own while reads and writes go on.
    pub async fn backup(&self, to: PathBuf, on_existing: OnExisting) -> Result<Report, BackupError> {
        let brain = self.path().to_owned();
        let asked = to.clone();
        let copying = tokio::task::spawn_blocking(move || online(&brain, &to, on_existing));
        copying.await.unwrap_or_else(|e| Err(failed("back up to", &asked)(e)))
    }
}

/// When the newest scheduled backup in `dir` was made; `None` when there is none.
pub fn last_scheduled(dir: &Path) -> Option<Timestamp> {
    let entries = std::fs::read_dir(dir).ok()?;
    let times = entries.flatten().filter(|e| e.file_name().to_string_lossy().ends_with(SCHEDULED_SUFFIX));
    let newest = times.filter_map(|e| e.metadata().ok()?.modified().ok()).max()?;
    let age = newest.duration_since(std::time::UNIX_EPOCH).ok()?;
    i64::try_from(age.as_millis()).ok().map(Timestamp::from_millis)
}

/// Deletes all but the newest `keep` scheduled backups in `dir`, and dead processes' leftovers. Returns
/// what was deleted. Backups that somebody asked for, and pre-migration snapshots, are never touched.
pub fn prune(dir: &Path, keep: usize) -> std::io::Result<Vec<PathBuf>> {
    let mut scheduled = Vec::new();
    let mut deleted = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("brain-") && name.ends_with(SCHEDULED_SUFFIX) {
            scheduled.push(entry.path());
        } else if name.starts_with('.') && name.ends_with(".partial") && is_old(&entry) {
            std::fs::remove_file(entry.path())?;
            deleted.push(entry.path());
        }
    }
    scheduled.sort();
    let surplus = scheduled.len().saturating_sub(keep);
    for path in scheduled.into_iter().take(surplus) {
        std::fs::remove_file(&path)?;
        deleted.push(path);
    }
    Ok(deleted)
}

/// Copies everything `source` sees at this instant into the new file `to`.
pub(crate) fn copy(source: &Connection, to: &Path) -> Result<(), Error> {
    open::create_private(to).map_err(told)?;
    let mut target =
        Connection::open_with_flags(to, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    // The file has no name yet that anyone trusts; it is synced once, at the end.
    target.execute_batch("PRAGMA synchronous = OFF")?;
    // Holding one read transaction keeps the copy at one instant; without it every commit of a busy
    // writer would start the copy again.
    source.execute_batch("BEGIN")?;
    source.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
    let copied = steps(source, &mut target);
    source.execute_batch("ROLLBACK")?;
    copied?;
    // One self-contained file, readable from read-only media; opening it as a brain brings WAL back.
    target.query_row("PRAGMA journal_mode = DELETE", [], |_| Ok(()))?;
    target.close().map_err(|(_, e)| e)?;
    Ok(())
}

fn steps(source: &Connection, target: &mut Connection) -> Result<(), Error> {
    let backup = Backup::new(source, target)?;
    let mut busy = 0;
    loop {
        match backup.step(STEP_PAGES)? {
            StepResult::Done => return Ok(()),
            StepResult::More => {}
            StepResult::Busy | StepResult::Locked if busy < BUSY_ROUNDS => busy += 1,
            _ => return Err(Error::Busy),
        }
    }
}

/// Refuses a copy that SQLite finds fault with or that is not a brain; its schema version otherwise.
pub(crate) fn check(path: &Path) -> Result<u32, BackupError> {
    let sql = |e: Error| match e {
        Error::Corrupt(what) => BackupError::NotSound(what),
        other => failed("check", path)(other),
    };
    let conn = connection::at_rest(path).map_err(sql)?;
    let verdict: String =
        conn.query_row("PRAGMA quick_check(1)", [], |r| r.get(0)).map_err(|e| sql(e.into()))?;
    if verdict != "ok" {
        return Err(BackupError::NotSound(verdict));
    }
    match schema::version(&conn).map_err(sql)? {
        0 => Err(BackupError::NotSound("it is not a brain".to_owned())),
        version => Ok(version),
    }
}

fn pages(conn: &Connection) -> Result<u64, Error> {
    let pages: u32 = conn.query_row("PRAGMA page_count", [], |r| r.get(0))?;
    let size: u32 = conn.query_row("PRAGMA page_size", [], |r| r.get(0))?;
    Ok(u64::from(pages) * u64::from(size))
}

fn told(error: OpenError) -> Error {
    match error {
        OpenError::NotWritable { .. } => Error::ReadOnly(error.to_string()),
        other => Error::Commit(other.to_string()),
    }
}

pub(crate) fn failed<E: std::fmt::Display>(
    action: &'static str,
    path: &Path,
) -> impl FnOnce(E) -> BackupError {
    move |reason| BackupError::Failed { action, path: path.to_owned(), reason: reason.to_string() }
}

pub(crate) fn partial_name(to: &Path) -> PathBuf {
    let name = to.file_name().unwrap_or_default().to_string_lossy().into_owned();
    open::parent(to).join(format!(".{name}.{}.partial", std::process::id()))
}

fn is_old(entry: &std::fs::DirEntry) -> bool {
    let changed = entry.metadata().and_then(|m| m.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
    changed.elapsed().is_ok_and(|age| age > PARTIAL_AGE)
}

/// A copy in the making; removed unless it got its name.
pub(crate) struct Partial(pub(crate) PathBuf);

impl Drop for Partial {
    fn drop(&mut self) {
        for suffix in ["", "-journal", "-wal", "-shm"] {
            let mut name = self.0.clone().into_os_string();
            name.push(suffix);
            let _ = std::fs::remove_file(name);
        }
    }
}
