//! What a serving Engine does by the clock: questions expire, old data go, backups are made,
//! finished turns are learned from.
//!
//! Each keeper runs until it is aborted and tells its failures without ending. The invariant: nothing here has to
//! have run for a turn to be right.

use super::scratch::remove_scratch;
use crate::core::Core;
use crate::turn::answers;
use brain::backup::{self, OnExisting, Reason};
use brain::retention;
use contract::Timestamp;
use std::sync::Arc;
use std::time::Duration;

/// How often expired data are removed. More often costs wake-ups of an idle machine.
const RETENTION_EVERY: Duration = Duration::from_secs(3600);
/// When they are removed for the first time: soon, because a process may not live for an hour, but not at
/// start, when people wait.
const RETENTION_FIRST: Duration = Duration::from_secs(60);
/// Longest sleep of the expiry timer: a frozen process or a changed clock is noticed within this.
const EXPIRY_CHECK: Duration = Duration::from_secs(15);
/// Least time before a scheduled backup, so that a failing one is not tried in a loop.
const BACKUP_PAUSE_MS: i64 = 60_000;
/// A task's private directory is emptied after this long without use.
const SCRATCH_IDLE: Duration = Duration::from_secs(3600);

pub(super) async fn expire_questions(core: Arc<Core>) {
    loop {
        let wait = match core.pulse.next_hitl_expiry() {
            Some(at) => {
                let left = (at.millis() - Timestamp::now().millis()).max(0).unsigned_abs();
                Duration::from_millis(left).min(EXPIRY_CHECK)
            }
            None => EXPIRY_CHECK,
        };
        tokio::time::sleep(wait).await;
        answers::refresh_expiry(&core).await;
        let due = core.pulse.next_hitl_expiry().is_some_and(|at| at <= Timestamp::now());
        if due && let Err(error) = answers::expire_due(&core).await {
            tracing::error!(code = "INTERNAL", error = %error, "Expired questions could not be settled");
            tokio::time::sleep(EXPIRY_CHECK).await;
        }
    }
}

pub(super) async fn keep_tidy(core: Arc<Core>) {
    let days = core.config.observability_retention_days.as_secs() / 86_400;
    let learned = core.config.trajectory_retention_days.as_secs() / 86_400;
    let policy = retention::Policy {
        observability_days: u32::try_from(days).unwrap_or(u32::MAX),
        trajectory_days: u32::try_from(learned).unwrap_or(u32::MAX),
    };
    let mut wait = RETENTION_FIRST;
    loop {
        tokio::time::sleep(wait).await;
        wait = RETENTION_EVERY;
        match retention::run_once(&core.brain, Timestamp::now(), policy).await {
            Ok(report) => {
                tracing::debug!(events = report.events, pages = report.pages, "Expired data were removed")
            }
            Err(error) => {
                tracing::error!(code = "INTERNAL", error = %error, "Expired data could not be removed")
            }
        }
        remove_scratch(&core, SCRATCH_IDLE);
    }
}

pub(super) async fn back_up(core: Arc<Core>) {
    let Some(every) = core.config.backup_interval_hours else { return };
    let dir = core.config.backup_dir.clone();
    loop {
        // from the last one on disk, or from the brain's first day: a process may not live for a whole period
        let first_day =
            core.brain.read("brain age", |tx| brain::meta::get(tx, brain::meta::CREATED_AT)).await;
        let born = first_day.ok().flatten().and_then(|t| t.parse().ok()).map(Timestamp::from_millis);
        let next = backup_due(backup::last_scheduled(&dir), born, every, Timestamp::now());
        core.pulse.set_next_backup(Some(next));
        let left = (next.millis() - Timestamp::now().millis()).max(0).unsigned_abs();
        tokio::time::sleep(Duration::from_millis(left)).await;
        let target = dir.join(backup::file_name(Reason::Scheduled, Timestamp::now()));
        let made = match backup::make_dir(&dir) {
            Ok(()) => core.brain.backup(target, OnExisting::Refuse).await.map(|_| ()),
            Err(error) => Err(error),
        };
        match made {
            Ok(()) => {
                tracing::info!("A scheduled backup was made");
                if let Err(error) = backup::prune(&dir, core.config.backup_keep) {
                    tracing::warn!(error = %error, "Old scheduled backups could not be removed");
                }
            }
            Err(error) => tracing::error!(code = "INTERNAL", error = %error, "A scheduled backup failed"),
        }
    }
}

pub(super) async fn learn(core: Arc<Core>) {
    let learning = Arc::clone(&core.learning);
    learning.run(core).await;
}

/// When the next scheduled backup is due: a period after the newest one, or after the brain was made.
fn backup_due(
    newest: Option<Timestamp>,
    born: Option<Timestamp>,
    every: Duration,
    now: Timestamp,
) -> Timestamp {
    let last = newest.max(born).unwrap_or(now);
    last.plus_millis(crate::core::millis(every)).max(now.plus_millis(BACKUP_PAUSE_MS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scheduled_backup_is_due_a_period_after_the_newest_one_however_often_the_engine_starts() {
        const HOUR: Duration = Duration::from_secs(3600);
        let at = |hours: i64| Timestamp::from_millis(hours * 3_600_000);
        let soon = |now: Timestamp| now.plus_millis(BACKUP_PAUSE_MS);
        assert_eq!(backup_due(Some(at(10)), Some(at(1)), HOUR * 24, at(20)), at(34));
        assert_eq!(backup_due(None, Some(at(1)), HOUR * 24, at(20)), at(25));
        assert_eq!(backup_due(None, None, HOUR * 24, at(20)), at(44));
        assert_eq!(backup_due(Some(at(10)), Some(at(1)), HOUR * 24, at(60)), soon(at(60)));
    }
}
