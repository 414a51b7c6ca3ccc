//! Whether the brain can still be written, shared by its threads and read by `/health` without waiting.

use crate::Error;
use crate::queue::Verdict;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, PoisonError};

const FINE: u8 = 0;
const FULL: u8 = 1;
const STOPPED: u8 = 2;

/// The present ability to commit.
#[derive(Debug, Default)]
pub(crate) struct Health {
    level: AtomicU8,
    /// Why writes stopped; set once, when `level` becomes `STOPPED`.
    stopped: Mutex<Option<Error>>,
}

impl Health {
    /// A commit has failed and none has succeeded since, or the file is damaged.
    pub(crate) fn is_failed(&self) -> bool {
        self.level.load(Ordering::Relaxed) != FINE
    }

    /// The disk was full at the last commit; a later one may succeed.
    pub(crate) fn is_full(&self) -> bool {
        self.level.load(Ordering::Relaxed) == FULL
    }

    /// The error every write gets from now on, if writes have stopped for good.
    pub(crate) fn stopped(&self) -> Option<Error> {
        if self.level.load(Ordering::Acquire) != STOPPED {
            return None;
        }
        let reason = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        reason.as_ref().map(Error::for_neighbour)
    }

    /// A commit succeeded.
    pub(crate) fn committed(&self) {
        let recovered = self.level.compare_exchange(FULL, FINE, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        if recovered {
            tracing::info!("the brain's disk has room again; commits succeed");
        }
    }

    /// What one closure met.
    pub(crate) fn saw(&self, verdict: &Verdict) {
        match verdict {
            Verdict::Keep | Verdict::Undo => {}
            Verdict::Full => self.commit_failed(&Error::DiskFull),
            Verdict::Corrupt(what) => self.commit_failed(&Error::Corrupt(what.clone())),
        }
    }

    /// A commit failed: full disks pass, everything else stops writing until a restart. After a failed
    /// fsync nobody can know what the disk holds, so trying again would be guessing.
    pub(crate) fn commit_failed(&self, error: &Error) {
        if error.may_pass() {
            let first = self.level.compare_exchange(FINE, FULL, Ordering::AcqRel, Ordering::Relaxed).is_ok();
            if first {
                tracing::error!(%error, "the brain could not commit; free disk space");
            }
            return;
        }
        let mut reason = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        if reason.is_none() {
            *reason = Some(error.for_neighbour());
            self.level.store(STOPPED, Ordering::Release);
            tracing::error!(
                %error,
                "writing to the brain has stopped; run `september-engine verify`, then restart or \
                 `september-engine restore <file>`"
            );
        }
    }
}
