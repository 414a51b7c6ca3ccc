//! How long each call of a backend may take, as multiples of one base, and the wait that ends there.
//!
//! A deadline ends our wait, never the work behind it: whoever calls next observes first. The one invariant: every
//! call of every implementation runs inside [`within`].

use crate::{BackendError, Result};
use std::future::Future;
use std::time::Duration;

/// What `stop` may take beyond its grace. Larger holds an operation's slot for a daemon that is gone; smaller turns
/// the daemon's own SIGKILL, which comes right after the grace, into a time-out of ours.
pub const STOP_MARGIN: Duration = Duration::from_secs(10);

/// Deadlines derived from b = `ORCH_BACKEND_CALL_TIMEOUT_S`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    base: Duration,
}

impl Deadlines {
    /// Deadlines with this base.
    pub const fn new(base: Duration) -> Self {
        Self { base }
    }

    /// `observe`, `freeze`, `thaw`, `ping`, and every other call that only looks: b/6.
    pub fn look(self) -> Duration {
        self.base / 6
    }

    /// `list`: b/2.
    pub fn list(self) -> Duration {
        self.base / 2
    }

    /// `start`, and moving a file: b.
    pub fn start(self) -> Duration {
        self.base
    }

    /// `create`, `remove`, `destroy`, `ensure_storage`: 2b.
    pub fn change(self) -> Duration {
        self.base.saturating_mul(2)
    }

    /// `stop`: its grace and [`STOP_MARGIN`].
    pub fn stop(self, grace: Duration) -> Duration {
        grace.saturating_add(STOP_MARGIN)
    }

    /// `run_job`: 10b.
    pub fn job(self) -> Duration {
        self.base.saturating_mul(10)
    }
}

/// Waits for the work at most `limit`; after that, [`BackendError::TimedOut`].
pub async fn within<T>(
    call: &'static str,
    limit: Duration,
    work: impl Future<Output = Result<T>> + Send,
) -> Result<T> {
    match tokio::time::timeout(limit, work).await {
        Ok(result) => result,
        Err(_) => {
            let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
            Err(BackendError::TimedOut { call, limit_ms })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_base_gives_the_deadlines_of_the_specification() {
        let deadlines = Deadlines::new(Duration::from_secs(30));
        assert_eq!(deadlines.look(), Duration::from_secs(5));
        assert_eq!(deadlines.list(), Duration::from_secs(15));
        assert_eq!(deadlines.start(), Duration::from_secs(30));
        assert_eq!(deadlines.change(), Duration::from_secs(60));
        assert_eq!(deadlines.stop(Duration::from_secs(30)), Duration::from_secs(40));
        assert_eq!(deadlines.job(), Duration::from_secs(300));
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_ends_at_its_limit_and_says_which_call() {
        let endless = std::future::pending::<Result<()>>();
        assert_eq!(
            within("observe", Duration::from_millis(250), endless).await,
            Err(BackendError::TimedOut { call: "observe", limit_ms: 250 })
        );
    }
}
