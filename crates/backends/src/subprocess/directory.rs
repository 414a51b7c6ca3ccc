//! Where the engines of this host keep what is theirs: one directory each, below one root.
//!
//! The root carries a mark with an id of its own: a root that has lost it (not mounted, replaced) does not answer,
//! instead of looking like a root without engines. The one invariant: what changes an engine's directory or process
//! holds its lock.

use super::record::{remove_if_there, replace_json};
use crate::{BackendError, Result};
use contract::EngineId;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What stays of a log when its engine starts. Larger fills the disk over years; smaller loses the reason of a crash
/// behind the noise of the restarts after it.
const LOG_KEEP_BYTES: u64 = 10 * 1024 * 1024;
/// The most that `tail` and a job's output return.
pub(super) const TAIL_MAX_BYTES: u64 = 64 * 1024;
/// Between two tries for a lock. Larger delays the second of two calls; smaller burns a processor meanwhile.
const LOCK_POLL: Duration = Duration::from_millis(10);

const MARK: &str = ".bap-root";
const EMPTY_CATALOG: &str = ".empty-catalog";
const LOG: &str = "engine.log";

#[derive(Serialize, Deserialize)]
struct Mark {
    id: String,
}

/// The directory below which every engine has its own.
#[derive(Debug, Clone)]
pub(super) struct Root {
    path: PathBuf,
}

/// The lock of one engine's directory, until dropped. A child that was given the descriptor keeps it, too.
#[derive(Debug)]
pub(super) struct Lock(File);

impl Lock {
    pub(super) fn file(&self) -> &File {
        &self.0
    }
}

fn private_dir(path: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        result => result,
    }
}

impl Root {
    /// Opens the root, making and marking it if it is new.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        if !path.is_absolute() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the data root must be an absolute path",
            ));
        }
        if !path.is_dir() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        }
        let root = Self { path: path.to_owned() };
        if !root.path.join(MARK).exists() {
            let id = format!("{:032x}", rand::random::<u128>());
            replace_json(&root.path, MARK, &Mark { id })?;
        }
        private_dir(&root.path.join(EMPTY_CATALOG))?;
        Ok(root)
    }

    /// The id of the root; an error means that the place does not answer.
    pub(super) fn id(&self) -> Result<String> {
        let mark = fs::read(self.path.join(MARK))
            .and_then(|text| serde_json::from_slice::<Mark>(&text).map_err(io::Error::from));
        mark.map(|mark| mark.id).map_err(|e| BackendError::Unreachable(format!("data root: {e}")))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn empty_catalog(&self) -> PathBuf {
        self.path.join(EMPTY_CATALOG)
    }

    pub(super) fn dir(&self, id: EngineId) -> PathBuf {
        self.path.join(id.to_string())
    }

    /// The directory, if the engine has one.
    pub(super) fn existing(&self, id: EngineId) -> Result<Option<PathBuf>> {
        self.id()?;
        let dir = self.dir(id);
        match fs::symlink_metadata(&dir) {
            Ok(data) if data.is_dir() => Ok(Some(dir)),
            Ok(_) => Err(BackendError::Refused("the engine's directory is something else".into())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                // the root may have gone between the two looks
                self.id()?;
                Ok(None)
            }
            Err(e) => Err(failed("look at the engine's directory", &e)),
        }
    }

    /// The directories of all engines.
    pub(super) fn all(&self) -> Result<Vec<(EngineId, PathBuf)>> {
        self.id()?;
        let entries = fs::read_dir(&self.path).map_err(|e| failed("list the data root", &e))?;
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|e| failed("list the data root", &e))?;
            let id = entry.file_name().to_str().and_then(|name| EngineId::parse(name).ok());
            found.extend(id.map(|id| (id, entry.path())));
        }
        self.id()?;
        Ok(found)
    }

    /// Makes the directory.
    pub(super) fn make(&self, id: EngineId) -> Result<()> {
        self.id()?;
        private_dir(&self.dir(id)).map_err(|e| failed("make the engine's directory", &e))
    }

    /// Takes the lock, waiting at most `limit`. Blocks the thread.
    pub(super) fn lock(&self, call: &'static str, dir: &Path, limit: Duration) -> Result<Lock> {
        let file = File::open(dir).map_err(|e| failed("open the engine's directory", &e))?;
        let until = Instant::now() + limit;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Lock(file)),
                Err(Errno::WOULDBLOCK | Errno::INTR) if Instant::now() < until => {
                    std::thread::park_timeout(LOCK_POLL);
                }
                Err(Errno::WOULDBLOCK | Errno::INTR) => {
                    let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
                    return Err(BackendError::TimedOut { call, limit_ms });
                }
                Err(e) => return Err(failed("lock the engine's directory", &e.into())),
            }
        }
    }

    /// Removes the directory: first its name, so that a crash leaves no half of a storage under it.
    pub(super) fn destroy(&self, id: EngineId) -> Result<()> {
        let trash = self.path.join(format!(".trash-{id}"));
        let moved = match fs::rename(self.dir(id), &trash) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) if trash.exists() => {
                // what an interrupted removal left behind is in the way
                remove_tree(&trash).and_then(|()| fs::rename(self.dir(id), &trash)).map_err(|_| e)
            }
            moved => moved,
        };
        moved.and_then(|()| remove_tree(&trash)).map_err(|e| failed("remove the engine's directory", &e))
    }
}

fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// What an error of the host means to whoever called.
pub(super) fn failed(what: &str, error: &io::Error) -> BackendError {
    use io::ErrorKind as Kind;
    let text = format!("{what}: {error}");
    match error.kind() {
        Kind::StorageFull | Kind::QuotaExceeded | Kind::OutOfMemory => BackendError::Capacity(text),
        Kind::WouldBlock | Kind::Interrupted | Kind::TimedOut | Kind::StaleNetworkFileHandle => {
            BackendError::Unreachable(text)
        }
        _ if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => {
            BackendError::Capacity(text)
        }
        _ => BackendError::Refused(text),
    }
}

/// Opens the log for appending, cut to its last 10 MiB.
pub(super) fn open_log(dir: &Path) -> io::Result<File> {
    let path = dir.join(LOG);
    let mut log = fs::OpenOptions::new().create(true).append(true).read(true).mode(0o600).open(&path)?;
    if log.metadata()?.len() <= LOG_KEEP_BYTES {
        return Ok(log);
    }
    let beside = dir.join(".engine.log.cut");
    remove_if_there(&beside)?;
    let mut cut =
        fs::OpenOptions::new().create_new(true).append(true).read(true).mode(0o600).open(&beside)?;
    log.seek(SeekFrom::End(-i64::try_from(LOG_KEEP_BYTES).unwrap_or(i64::MAX)))?;
    io::copy(&mut log.take(LOG_KEEP_BYTES), &mut cut)?;
    cut.flush()?;
    fs::rename(&beside, &path)?;
    Ok(cut)
}

/// The last lines of the log; empty when there is none.
pub(super) fn tail(dir: &Path, lines: usize) -> io::Result<String> {
    let mut log = match File::open(dir.join(LOG)) {
        Ok(log) => log,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        Err(e) => return Err(e),
    };
    let length = log.metadata()?.len();
    log.seek(SeekFrom::Start(length.saturating_sub(TAIL_MAX_BYTES)))?;
    let mut bytes = Vec::new();
    log.take(TAIL_MAX_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().collect();
    Ok(all[all.len().saturating_sub(lines)..].iter().map(|line| format!("{line}\n")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_log_keeps_its_last_ten_mebibytes() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let old = vec![b'a'; 3 * 1024 * 1024];
        let mut text = old.repeat(4);
        text.extend_from_slice(b"\nthe end\n");
        fs::write(dir.path().join(LOG), &text).expect("writes");
        open_log(dir.path()).expect("opens").write_all(b"a new start\n").expect("appends");
        let length = fs::metadata(dir.path().join(LOG)).expect("is there").len();
        assert_eq!(length, LOG_KEEP_BYTES + 12);
        assert_eq!(tail(dir.path(), 2).expect("reads"), "the end\na new start\n");
    }

    #[test]
    fn a_root_without_its_mark_does_not_answer() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let root = Root::open(&dir.path().join("root")).expect("opens");
        let id = root.id().expect("is marked");
        assert_eq!(Root::open(root.path()).expect("opens").id(), Ok(id), "the mark stays");
        fs::remove_file(root.path().join(MARK)).expect("removes");
        assert!(matches!(root.existing(EngineId::generate()), Err(BackendError::Unreachable(_))));
        assert!(matches!(root.all(), Err(BackendError::Unreachable(_))));
    }

    #[test]
    fn a_held_lock_makes_others_wait_and_give_up() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let root = Root::open(dir.path()).expect("opens");
        let held = root.lock("create", dir.path(), Duration::ZERO).expect("locks");
        let refused = root.lock("create", dir.path(), Duration::from_millis(20)).expect_err("is held");
        assert_eq!(refused, BackendError::TimedOut { call: "create", limit_ms: 20 });
        drop(held);
        root.lock("create", dir.path(), Duration::ZERO).expect("is free");
    }
}
