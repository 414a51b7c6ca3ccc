//! The brain lock: one process per brain, decided by the kernel and explained by a small file.
//!
//! `flock` on `<brain>.lock`, held for the life of the process and let go by the kernel however the
//! process ends. The JSON inside only says who holds it; it is never what decides. The file is never
//! deleted: deleting a lock file lets two processes lock two different files of the same name.

use crate::OpenError;
use contract::Timestamp;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How often a waiting start tries again. Longer delays the take-over after the holder's exit; shorter
/// wakes the processor for nothing. (`flock` can wait by itself, but not with a limit.)
const RETRY: Duration = Duration::from_millis(20);
/// Longest holder text read. A larger file is not ours.
const HOLDER_BYTES: u64 = 4096;

/// Who holds a brain, in the holder's own words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Process id, as seen by the holder.
    pub pid: u32,
    /// Host name, as seen by the holder.
    pub host: String,
    /// The kernel's id of this boot; another one means another machine or an earlier boot.
    pub boot_id: String,
    /// When the holder took the lock.
    pub started_at: Timestamp,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "process {} on {} since {}", self.pid, self.host, self.started_at)
    }
}

/// The right to open a brain. Dropping it lets the next process in.
#[derive(Debug)]
pub struct LockGuard {
    /// Closing this file is what releases the lock; its descriptor is not inherited by child processes.
    _file: File,
    path: PathBuf,
}

impl LockGuard {
    /// The lock file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// The lock file of a brain.
pub fn lock_path(brain: &Path) -> PathBuf {
    let mut name = brain.as_os_str().to_owned();
    name.push(".lock");
    PathBuf::from(name)
}

/// Takes the lock of `brain` if it is free; [`OpenError::Locked`] with `waited` zero if it is not.
pub fn try_acquire(brain: &Path) -> Result<LockGuard, OpenError> {
    let path = lock_path(brain);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|e| OpenError::from_io("open the lock file", &path, e))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            return Err(OpenError::Locked { holder: read_holder(&mut file), waited: Duration::ZERO });
        }
        Err(error) => return Err(OpenError::from_io("lock", &path, error.into())),
    }
    write_holder(&mut file).map_err(|e| OpenError::from_io("write the holder into", &path, e))?;
    Ok(LockGuard { _file: file, path })
}

/// Takes the lock, waiting for its holder at most `wait`. Blocks the thread; a server that answers
/// meanwhile calls [`try_acquire`] from its own loop.
pub fn acquire(brain: &Path, wait: Duration) -> Result<LockGuard, OpenError> {
    let started = Instant::now();
    loop {
        match try_acquire(brain) {
            Err(OpenError::Locked { holder, .. }) => {
                let waited = started.elapsed();
                if waited >= wait {
                    return Err(OpenError::Locked { holder, waited });
                }
                std::thread::park_timeout(RETRY.min(wait.saturating_sub(waited)));
            }
            other => return other,
        }
    }
}

/// Who the lock file names, whether or not the lock is held at the moment.
pub fn holder(brain: &Path) -> Option<Holder> {
    read_holder(&mut File::open(lock_path(brain)).ok()?)
}

fn read_holder(file: &mut File) -> Option<Holder> {
    let mut text = String::new();
    file.seek(SeekFrom::Start(0)).ok()?;
    file.take(HOLDER_BYTES).read_to_string(&mut text).ok()?;
    // Empty or half written while the holder is only just starting: it holds, but has not said who it is.
    serde_json::from_str(&text).ok()
}

fn write_holder(file: &mut File) -> std::io::Result<()> {
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let me = Holder {
        pid: std::process::id(),
        host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        boot_id: boot_id.trim().to_owned(),
        started_at: Timestamp::now(),
    };
    let text = serde_json::to_vec(&me)?;
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))?;
    file.write_all(&text)
}
