//! When a failed engine is tried again, and when trying ends.
//!
//! delay(n) = min(base · 2^n, cap), n = attempts made so far. No jitter: the start queue spreads what comes due
//! together. It refuses to count anything by itself: attempts live in the row. The invariant: what was answered
//! for a failure stays the same however often it is asked.

use crate::lifecycle::FailureReason;
use crate::operation::doubled;
use contract::Timestamp;
use std::time::Duration;

/// So long without a failed probe sets `restart_attempts` to 0. Longer would make an engine that fails once a day
/// give up after eight days; shorter would let one that crashes every few minutes loop for ever.
pub const HEALTHY_RESET: Duration = Duration::from_secs(600);

/// `ORCH_RESTART_BACKOFF_BASE_S`, `ORCH_RESTART_BACKOFF_MAX_S`, `ORCH_RESTART_MAX_ATTEMPTS`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestartRules {
    /// Wait before the first restart.
    pub base: Duration,
    /// Longest wait.
    pub cap: Duration,
    /// Restarts before giving up; 0 = never restart.
    pub max_attempts: u32,
}

impl Default for RestartRules {
    /// 5 s, 300 s, 8 attempts.
    fn default() -> Self {
        Self { base: Duration::from_secs(5), cap: Duration::from_secs(300), max_attempts: 8 }
    }
}

/// What follows a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// The next attempt is due then (`next_restart_at`).
    At(Timestamp),
    /// No further attempt (`next_restart_at` null): the object is stopped and a person must say `start`.
    GiveUp,
}

impl Next {
    /// The value of `next_restart_at`.
    pub const fn at(self) -> Option<Timestamp> {
        match self {
            Next::At(at) => Some(at),
            Next::GiveUp => None,
        }
    }
}

impl RestartRules {
    /// Wait before the next restart after `attempts` restarts.
    pub fn delay(&self, attempts: u32) -> Duration {
        doubled(self.base, attempts, self.cap)
    }

    /// What follows a failure at `now`, after `attempts` restarts (the one that just failed included).
    pub fn after_failure(&self, attempts: u32, reason: FailureReason, now: Timestamp) -> Next {
        if attempts >= self.max_attempts || !reason.restartable() {
            return Next::GiveUp;
        }
        Next::At(later(now, self.delay(attempts)))
    }

    /// True when `restart_attempts` goes back to 0: healthy since long enough, without one failed probe.
    pub fn resets(&self, attempts: u32, healthy_since: Option<Timestamp>, now: Timestamp) -> bool {
        attempts > 0 && healthy_since.is_some_and(|since| later(since, HEALTHY_RESET) <= now)
    }

    /// `retry_after_ms` of an admit that met a failed engine: time to the next restart plus the mean boot time;
    /// `None` after giving up.
    pub fn retry_after_ms(&self, next: Option<Timestamp>, mean_boot_ms: u64, now: Timestamp) -> Option<u64> {
        let next = next?;
        let wait = next.millis().saturating_sub(now.millis()).max(0).unsigned_abs();
        Some(wait.saturating_add(mean_boot_ms))
    }
}

/// `at` plus `wait`, saturating.
pub(crate) fn later(at: Timestamp, wait: Duration) -> Timestamp {
    at.plus_millis(i64::try_from(wait.as_millis()).unwrap_or(i64::MAX))
}

/// Time from `earlier` to `now`; zero when `earlier` is in the future.
pub(crate) fn since(earlier: Timestamp, now: Timestamp) -> Duration {
    Duration::from_millis(now.millis().saturating_sub(earlier.millis()).max(0).unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);

    #[test]
    fn backoff_is_5_10_20_40_80_160_300_300() {
        let rules = RestartRules::default();
        let delays: Vec<u64> = (0..8).map(|n| rules.delay(n).as_secs()).collect();
        assert_eq!(delays, [5, 10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(rules.delay(u32::MAX).as_secs(), 300);
    }

    #[test]
    fn gives_up_after_eight_attempts() {
        let rules = RestartRules::default();
        for attempts in 0..8 {
            let at = later(NOW, rules.delay(attempts));
            assert_eq!(rules.after_failure(attempts, FailureReason::Crashed, NOW), Next::At(at));
        }
        assert_eq!(rules.after_failure(8, FailureReason::Crashed, NOW), Next::GiveUp);
        assert_eq!(rules.after_failure(9, FailureReason::Crashed, NOW), Next::GiveUp);
    }

    #[test]
    fn zero_attempts_means_never() {
        let rules = RestartRules { max_attempts: 0, ..RestartRules::default() };
        assert_eq!(rules.after_failure(0, FailureReason::Crashed, NOW), Next::GiveUp);
    }

    #[test]
    fn what_a_restart_cannot_help_gives_up_at_once() {
        let rules = RestartRules::default();
        for &reason in FailureReason::ALL {
            let next = rules.after_failure(0, reason, NOW);
            assert_eq!(next == Next::GiveUp, !reason.restartable(), "{reason}");
        }
    }

    #[test]
    fn attempts_reset_after_ten_minutes() {
        let rules = RestartRules::default();
        let since = Timestamp::from_millis(0);
        assert!(!rules.resets(3, Some(since), Timestamp::from_millis(599_999)));
        assert!(rules.resets(3, Some(since), Timestamp::from_millis(600_000)));
        assert!(!rules.resets(3, None, Timestamp::from_millis(600_000)));
        assert!(!rules.resets(0, Some(since), Timestamp::from_millis(600_000)));
    }

    #[test]
    fn retry_after_ms_matches_the_schedule() {
        let rules = RestartRules::default();
        let next = rules.after_failure(1, FailureReason::ProbeTimeout, NOW).at();
        assert_eq!(rules.retry_after_ms(next, 400, NOW), Some(10_400));
        assert_eq!(rules.retry_after_ms(next, 400, NOW.plus_millis(60_000)), Some(400));
        assert_eq!(rules.retry_after_ms(None, 400, NOW), None);
    }
}
