//! When to stop calling a server that fails, and when to stop restarting one that dies. Pure: instants come in.
//!
//! The invariant: while the breaker is half open at most one call is under way.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Failures within [`FAILURE_WINDOW`] that open the breaker. More makes every turn wait for a dead server longer;
/// fewer lets one hiccup take a connector away.
pub const FAILURES_MAX: usize = 5;
/// How long a failure counts.
pub const FAILURE_WINDOW: Duration = Duration::from_secs(60);
/// How long calls are refused. Longer keeps a repaired server away; shorter hammers a broken one.
pub const OPEN_FOR: Duration = Duration::from_secs(30);
/// Restarts of a stdio server within [`RESTART_WINDOW`]. More burns processor time on a program that cannot start.
pub const RESTARTS_MAX: usize = 3;
/// How long a restart counts.
pub const RESTART_WINDOW: Duration = Duration::from_secs(300);

/// The state of one connection's breaker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Breaker {
    /// Calls go through; the instants of the recent failures.
    Closed(VecDeque<Instant>),
    /// Calls are refused until then.
    Open(Instant),
    /// One call is finding out whether the server is back. A probe that is never settled counts as failed
    /// when this instant passes.
    HalfOpen(Instant),
}

impl Default for Breaker {
    fn default() -> Self {
        Self::Closed(VecDeque::new())
    }
}

impl Breaker {
    /// Whether a call may be made now; if not, how long to wait.
    pub fn admit(&mut self, now: Instant) -> Result<(), Duration> {
        match self {
            Self::Closed(_) => Ok(()),
            Self::Open(until) | Self::HalfOpen(until) if now < *until => Err(*until - now),
            Self::Open(_) | Self::HalfOpen(_) => {
                *self = Self::HalfOpen(now + OPEN_FOR);
                Ok(())
            }
        }
    }

    /// A call got an answer, if only an error of its own.
    pub fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// A call that says nothing about the server (cancelled, refused for its token) gives the probe back.
    pub fn undecided(&mut self, now: Instant) {
        if matches!(self, Self::HalfOpen(_)) {
            *self = Self::Open(now);
        }
    }

    /// A call failed in a way that counts. True when this opened the breaker.
    pub fn failed(&mut self, now: Instant) -> bool {
        match self {
            Self::Closed(failures) => {
                forget(failures, now, FAILURE_WINDOW);
                failures.push_back(now);
                if failures.len() < FAILURES_MAX {
                    return false;
                }
                *self = Self::Open(now + OPEN_FOR);
                true
            }
            Self::HalfOpen(_) => {
                *self = Self::Open(now + OPEN_FOR);
                true
            }
            Self::Open(_) => false,
        }
    }
}

/// The recent restarts of one stdio server.
#[derive(Debug, Clone, Default)]
pub struct Restarts(VecDeque<Instant>);

impl Restarts {
    /// Whether the server may be started once more; counts it when so.
    pub fn admit(&mut self, now: Instant) -> bool {
        forget(&mut self.0, now, RESTART_WINDOW);
        if self.0.len() >= RESTARTS_MAX {
            return false;
        }
        self.0.push_back(now);
        true
    }
}

fn forget(instants: &mut VecDeque<Instant>, now: Instant, window: Duration) {
    while instants.front().is_some_and(|at| now.saturating_duration_since(*at) >= window) {
        instants.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn five_failures_within_a_minute_open_it_and_four_do_not() {
        // (seconds at which calls fail, open afterwards)
        let table: [(&[u64], bool); 6] = [
            (&[0, 1, 2, 3], false),
            (&[0, 1, 2, 3, 4], true),
            (&[0, 15, 30, 45, 59], true),
            (&[0, 15, 30, 45, 60], false),
            (&[0, 20, 40, 61, 62, 63], true),
            (&[0, 70, 140, 210, 280, 350], false),
        ];
        for (at, open) in table {
            let (start, mut breaker) = (Instant::now(), Breaker::default());
            let opened = at.iter().filter(|t| breaker.failed(start + s(**t))).count();
            assert_eq!(matches!(breaker, Breaker::Open(_)), open, "{at:?}");
            assert_eq!(opened, usize::from(open), "{at:?}");
        }
    }

    #[test]
    fn an_open_breaker_lets_one_probe_through_after_thirty_seconds() {
        let (start, mut breaker) = (Instant::now(), Breaker::default());
        for _ in 0..FAILURES_MAX {
            breaker.failed(start);
        }
        assert_eq!(breaker.admit(start + s(10)), Err(s(20)));
        assert_eq!(breaker.admit(start + s(30)), Ok(()));
        assert!(breaker.admit(start + s(30)).is_err(), "a second call must wait for the probe");
        assert!(breaker.failed(start + s(31)), "a failed probe opens it again");
        assert_eq!(breaker.admit(start + s(60)), Err(s(1)));
        assert_eq!(breaker.admit(start + s(61)), Ok(()));
        breaker.succeeded();
        assert_eq!(breaker, Breaker::default());
    }

    #[test]
    fn a_probe_that_says_nothing_leaves_room_for_the_next() {
        let (start, mut breaker) = (Instant::now(), Breaker::Open(Instant::now()));
        assert_eq!(breaker.admit(start + s(1)), Ok(()));
        breaker.undecided(start + s(2));
        assert_eq!(breaker.admit(start + s(2)), Ok(()));
        assert_eq!(breaker.admit(start + s(2) + OPEN_FOR), Ok(()), "a probe that was lost is not waited for");
        let mut closed = Breaker::default();
        closed.undecided(start);
        assert_eq!(closed, Breaker::default());
    }

    #[test]
    fn a_success_wipes_the_slate() {
        let (start, mut breaker) = (Instant::now(), Breaker::default());
        for round in 0..20 {
            assert!(!breaker.failed(start + s(round)));
            if round % 4 == 3 {
                breaker.succeeded();
            }
        }
    }

    #[test]
    fn a_server_is_restarted_three_times_in_five_minutes() {
        let (start, mut restarts) = (Instant::now(), Restarts::default());
        assert!([0, 1, 2].iter().all(|t| restarts.admit(start + s(*t))));
        assert!(!restarts.admit(start + s(299)));
        assert!(restarts.admit(start + s(300)));
        assert!(!restarts.admit(start + s(300)));
    }
}
