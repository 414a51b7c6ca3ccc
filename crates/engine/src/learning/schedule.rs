//! When the Learning Centre looks at what: pure, over what waits and what time it is.
//!
//! A task that has been left alone for LC_QUIET_MINUTES is looked at by itself. Everything that still waits (of tasks
//! that never rest, left over from a budget, or failed) is looked at every LC_BATCH_INTERVAL_HOURS.
//!
//! The invariant: what a batch has looked at and left waits for the next period. Nothing is tried in a loop.

use contract::{TaskId, Timestamp};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What a batch looks at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Scope {
    /// Whatever waits.
    All,
    /// What waits of one task.
    Task {
        /// Which.
        task: TaskId,
    },
    /// What waits of tasks that have become quiet after this instant (milliseconds).
    Quiet {
        /// When tasks that were quiet had been looked at before.
        since: i64,
    },
}

/// What waits, as the brain tells it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Tasks with something to learn from, when the last of it ended, and whether a turn is under way.
    pub tasks: Vec<Task>,
    /// When the oldest of it came.
    pub oldest: Option<Timestamp>,
    /// When feedback came on turns that were learned from before.
    pub feedback: Vec<Timestamp>,
}

/// A task with something to learn from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// Which.
    pub task: TaskId,
    /// When its last finished turn ended.
    pub last: Timestamp,
    /// A turn of it waits, runs or is paused.
    pub is_busy: bool,
}

/// What was looked at before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Before {
    /// Tasks that were quiet by then have been looked at.
    pub quiet_until: Timestamp,
    /// When everything was last looked at.
    pub all_at: Timestamp,
}

/// LC_QUIET_MINUTES and LC_BATCH_INTERVAL_HOURS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Periods {
    /// How long a task must be left alone.
    pub quiet: Duration,
    /// How often everything is looked at.
    pub every: Duration,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Nothing waits.
    Nothing,
    /// A batch is due then.
    At(Timestamp),
    /// A batch is due.
    Now(Scope),
}

/// What is due, or when.
pub fn next(waiting: &Waiting, before: Before, periods: Periods, now: Timestamp) -> Next {
    // A clock that was set back must not keep everything waiting until it has caught up.
    let before = Before { quiet_until: before.quiet_until.min(now), all_at: before.all_at.min(now) };
    let after = |at: Timestamp, wait: Duration| at.plus_millis(crate::core::millis(wait));
    let Some(oldest) = waiting.oldest.into_iter().chain(waiting.feedback.iter().copied()).min() else {
        return Next::Nothing;
    };
    let everything = after(oldest.max(before.all_at).min(now), periods.every);
    if everything <= now {
        return Next::Now(Scope::All);
    }
    let left_alone = waiting.tasks.iter().filter(|task| !task.is_busy).map(|task| task.last);
    let quiet = left_alone
        .chain(waiting.feedback.iter().copied())
        .map(|last| after(last, periods.quiet))
        .filter(|at| *at > before.quiet_until)
        .min();
    match quiet {
        Some(at) if at <= now => Next::Now(Scope::Quiet { since: before.quiet_until.millis() }),
        Some(at) => Next::At(at.min(everything)),
        None => Next::At(everything),
    }
}

/// Whether a task became quiet after `since` and is so now.
pub fn became_quiet(task: &Task, since: i64, quiet: Duration, now: Timestamp) -> bool {
    let at = task.last.plus_millis(crate::core::millis(quiet));
    !task.is_busy && at <= now && at.millis() > since
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: i64 = 60_000;
    const HOUR: i64 = 60 * MINUTE;
    const NOW: i64 = 1000 * HOUR;
    const PERIODS: Periods =
        Periods { quiet: Duration::from_secs(600), every: Duration::from_secs(6 * 3600) };

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millis(ms)
    }

    fn task(name: &str, last: i64, is_busy: bool) -> Task {
        Task { task: TaskId::parse(name).expect("a name"), last: at(last), is_busy }
    }

    fn tasks(tasks: &[Task]) -> Waiting {
        Waiting { tasks: tasks.to_vec(), oldest: tasks.iter().map(|t| t.last).min(), feedback: Vec::new() }
    }

    fn decided(waiting: &Waiting, quiet_until: i64, all_at: i64) -> Next {
        next(waiting, Before { quiet_until: at(quiet_until), all_at: at(all_at) }, PERIODS, at(NOW))
    }

    #[test]
    fn what_is_due_follows_from_what_waits_and_what_was_looked_at() {
        let quiet = |since| Next::Now(Scope::Quiet { since });
        let ended = |ago: i64| tasks(&[task("a", NOW - ago, false)]);
        for (why, waiting, quiet_until, all_at, expected) in [
            ("nothing waits", Waiting::default(), 0, 0, Next::Nothing),
            ("a task just left", ended(MINUTE), 0, 0, Next::At(at(NOW + 9 * MINUTE))),
            ("quiet to the millisecond", ended(10 * MINUTE), 7, 0, quiet(7)),
            (
                "quiet and looked at before",
                ended(20 * MINUTE),
                NOW - 5 * MINUTE,
                NOW - 5 * MINUTE,
                Next::At(at(NOW - 5 * MINUTE + 6 * HOUR)),
            ),
            ("quiet since the last look", ended(20 * MINUTE), NOW - 15 * MINUTE, 0, quiet(NOW - 15 * MINUTE)),
            (
                "never quiet, for six hours",
                tasks(&[task("a", NOW - 6 * HOUR, true)]),
                0,
                0,
                Next::Now(Scope::All),
            ),
            ("a turn runs", tasks(&[task("a", NOW - HOUR, true)]), 0, 0, Next::At(at(NOW + 5 * HOUR))),
            (
                "left over by the last look at everything",
                ended(30 * HOUR),
                NOW - HOUR,
                NOW - HOUR,
                Next::At(at(NOW + 5 * HOUR)),
            ),
            (
                "left over, and its period is over",
                ended(30 * HOUR),
                NOW - HOUR,
                NOW - 6 * HOUR,
                Next::Now(Scope::All),
            ),
            (
                "the clock was set back",
                ended(10 * MINUTE),
                NOW + HOUR,
                NOW + HOUR,
                Next::At(at(NOW + 6 * HOUR)),
            ),
            ("it ended in the future", ended(-HOUR), 0, 0, Next::At(at(NOW + 70 * MINUTE))),
        ] {
            assert_eq!(decided(&waiting, quiet_until, all_at), expected, "{why}");
        }
    }

    #[test]
    fn feedback_waits_as_long_as_a_task() {
        let waiting = Waiting { feedback: vec![at(NOW - 11 * MINUTE)], ..Waiting::default() };
        assert_eq!(decided(&waiting, 0, 0), Next::Now(Scope::Quiet { since: 0 }));
        assert_eq!(decided(&waiting, NOW - MINUTE + 1, 0), Next::At(at(NOW - 11 * MINUTE + 6 * HOUR)));
    }

    #[test]
    fn the_earliest_of_several_tasks_counts() {
        let two = tasks(&[task("a", NOW - 2 * MINUTE, false), task("b", NOW - 9 * MINUTE, false)]);
        assert_eq!(decided(&two, 0, 0), Next::At(at(NOW + MINUTE)));
        assert!(became_quiet(&task("a", NOW - 10 * MINUTE, false), 0, PERIODS.quiet, at(NOW)));
        assert!(!became_quiet(&task("a", NOW - 10 * MINUTE, true), 0, PERIODS.quiet, at(NOW)));
        assert!(!became_quiet(&task("a", NOW - 10 * MINUTE, false), NOW, PERIODS.quiet, at(NOW)));
    }

    #[test]
    fn what_was_looked_at_is_not_due_again_at_once() {
        for ago in 0..400 {
            let waiting = tasks(&[task("a", NOW - ago * MINUTE, false)]);
            if let Next::Now(_) = decided(&waiting, 0, 0) {
                // as the batch that begins now notes it
                assert!(matches!(decided(&waiting, NOW, NOW), Next::At(next) if next > at(NOW)), "{ago}");
            }
        }
    }
}
