//! A bound on the memory of one launch together, and for a root Engine on its processes, where no control group
//! does it.
//!
//! The kernel bounds what one process may write to (RLIMIT_DATA). It does not see shared memory, files in memory,
//! pages made read-only after they were written, nor the sum over processes. So what the processes of a
//! launch hold is looked at again and again, sooner when the machine's free memory falls; beyond the bound all of
//! them are killed and the reason is told. Processes that have left the launch's session count against every
//! launch of their task, and are looked at until they have ended or the turn has. Where a launch is within the
//! bound without them, only they are killed: nobody pays for what another command left behind.
//!
//! The invariant: nothing is killed for memory that a second look does not find.

use super::groups::{self, Group, ProcessGroups};
use super::memory;
use super::watch::{Bounds, Reason};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, Weak};
use std::time::{Duration, Instant};

/// How often it is looked. Longer lets strays live on unseen; shorter costs a walk through `/proc` more often.
const EVERY: Duration = Duration::from_millis(500);
/// How often the machine's free memory is asked in between, and how long after a first look beyond the bound the
/// second one comes. Longer lets more be written meanwhile; shorter than a program needs from `vfork` to `exec`,
/// when its memory counts twice, would kill it for that.
const TICK: Duration = Duration::from_millis(50);
/// It is looked at once when free memory fell by the bound divided by this. Larger looks for other programs'
/// sake, too; smaller lets a command get as much further before it is seen.
const FALL: u64 = 8;

/// Watches a launch until nothing of it is left.
pub(super) fn start(
    group: &Arc<Group>,
    groups: &Arc<ProcessGroups>,
    scratch: PathBuf,
    bounds: Bounds,
    reason: &Reason,
) {
    let pgid = group.pgid();
    let (group, groups) = (Arc::downgrade(group), Arc::downgrade(groups));
    let launch = Launch { pgid, group, groups, scratch, bounds };
    tokio::spawn(watch(Arc::new(launch), Arc::clone(reason)));
}

struct Launch {
    pgid: i32,
    group: Weak<Group>,
    groups: Weak<ProcessGroups>,
    scratch: PathBuf,
    bounds: Bounds,
}

/// What a look found.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    /// Nobody is left.
    Nobody,
    Fine,
    TooMuchMemory,
    /// The launch alone holds less; what has left its session, or another's, is too much.
    StraysHoldTooMuch,
    TooManyProcesses,
}

async fn watch(launch: Arc<Launch>, reason: Reason) {
    let mut strays = Strays::NotMine;
    let mut suspected = false;
    loop {
        launch.pause(suspected, strays.are_mine()).await;
        if launch.turn_is_over() {
            return;
        }
        let over = launch.is_over();
        if over && !strays.take(&launch.groups) {
            return;
        }
        let here = Arc::clone(&launch);
        let Ok(found) = tokio::task::spawn_blocking(move || here.look(over)).await else { return };
        let why = match found {
            Found::Nobody => return,
            Found::Fine => None,
            Found::TooMuchMemory | Found::StraysHoldTooMuch if !suspected => {
                suspected = true;
                continue;
            }
            Found::StraysHoldTooMuch => {
                tracing::warn!(
                    group = launch.pgid,
                    "Processes that left their command were ended: {}",
                    too_much_memory(launch.bounds)
                );
                suspected = false;
                let here = Arc::clone(&launch);
                // If it panics the end of the turn kills them.
                let _ = tokio::task::spawn_blocking(move || here.end_strays()).await;
                continue;
            }
            Found::TooMuchMemory => Some(too_much_memory(launch.bounds)),
            Found::TooManyProcesses => Some(too_many_processes(launch.bounds)),
        };
        suspected = false;
        let Some(why) = why else { continue };
        tracing::warn!(group = launch.pgid, "A command was ended: {why}");
        *reason.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
        let here = Arc::clone(&launch);
        // If it panics the end of the turn kills them.
        let _ = tokio::task::spawn_blocking(move || here.end()).await;
    }
}

fn too_much_memory(bounds: Bounds) -> String {
    let most = bounds.memory_bytes.unwrap_or(0) >> 20;
    format!("it and what it started took more than {most} MB of memory together (SANDBOX_MEMORY_MB)")
}

fn too_many_processes(bounds: Bounds) -> String {
    format!("it has more than {} processes", bounds.processes.unwrap_or(0))
}

/// `exact` is asked only when it matters.
fn judge(bounds: Bounds, processes: usize, at_most: u64, exact: impl FnOnce() -> u64) -> Found {
    if bounds.processes.is_some_and(|most| processes as u64 > most) {
        return Found::TooManyProcesses;
    }
    match bounds.memory_bytes {
        Some(most) if at_most > most && exact() > most => Found::TooMuchMemory,
        Some(_) | None => Found::Fine,
    }
}

impl Launch {
    /// Returns when it is time to look.
    async fn pause(&self, suspected: bool, strays: bool) {
        let end = Instant::now() + EVERY;
        let before = memory::available();
        let fall = self.bounds.memory_bytes.unwrap_or(u64::MAX) / FALL;
        loop {
            tokio::time::sleep(TICK).await;
            let fell = before.zip(memory::available()).is_some_and(|(was, is)| was.saturating_sub(is) > fall);
            if suspected || fell || Instant::now() >= end || (self.is_over() && !strays) {
                return;
            }
        }
    }

    fn is_over(&self) -> bool {
        self.group.upgrade().is_none_or(|group| group.is_over())
    }

    fn turn_is_over(&self) -> bool {
        self.groups.upgrade().is_none_or(|groups| groups.is_ended())
    }

    /// The sessions of the turn's other launches: what is in them is theirs.
    fn others(&self) -> Vec<i32> {
        let held = self.groups.upgrade().map(|groups| groups.pgids()).unwrap_or_default();
        held.into_iter().filter(|&pgid| pgid != self.pgid).collect()
    }

    fn look(&self, over: bool) -> Found {
        let (all, others) = (groups::members(&self.scratch), self.others());
        let ours: Vec<i32> = all.iter().filter(|m| !others.contains(&m.session)).map(|m| m.pid).collect();
        if over && ours.is_empty() {
            return Found::Nobody;
        }
        let found = judge(self.bounds, all.len(), memory::at_most(&ours), || memory::exact(&ours));
        if found != Found::TooMuchMemory || over {
            return found;
        }
        let stayed: Vec<i32> = all.iter().filter(|m| m.session == self.pgid).map(|m| m.pid).collect();
        match self.bounds.memory_bytes {
            Some(most) if memory::exact(&stayed) <= most => Found::StraysHoldTooMuch,
            Some(_) | None => found,
        }
    }

    /// Ends what is in no launch's session.
    fn end_strays(&self) {
        let mut spared = self.others();
        spared.push(self.pgid);
        groups::kill_all_but(&self.scratch, &spared);
    }

    fn end(&self) {
        if let Some(group) = self.group.upgrade() {
            group.kill();
        }
        groups::kill_all_but(&self.scratch, &self.others());
    }
}

/// What has left the sessions of its launches is looked at by one watch of the turn when its own launch is over.
enum Strays {
    NotMine,
    Mine(Weak<ProcessGroups>),
}

impl Strays {
    fn are_mine(&self) -> bool {
        matches!(self, Self::Mine(_))
    }

    /// False when another watch has them.
    fn take(&mut self, groups: &Weak<ProcessGroups>) -> bool {
        if self.are_mine() {
            return true;
        }
        let taken = groups.upgrade().is_some_and(|groups| groups.take_strays());
        if taken {
            *self = Self::Mine(Weak::clone(groups));
        }
        taken
    }
}

impl Drop for Strays {
    fn drop(&mut self) {
        if let Self::Mine(groups) = self
            && let Some(groups) = groups.upgrade()
        {
            groups.leave_strays();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { scratch_bytes: 0, processes: Some(3), memory_bytes: Some(1000) };

    #[test]
    fn shared_pages_counted_twice_are_no_reason() {
        assert_eq!(judge(BOUNDS, 3, 1000, || unreachable!("it costs much")), Found::Fine);
        assert_eq!(judge(BOUNDS, 3, 4000, || 1000), Found::Fine);
        assert_eq!(judge(BOUNDS, 3, 4000, || 1001), Found::TooMuchMemory);
        assert_eq!(judge(BOUNDS, 4, 0, || 0), Found::TooManyProcesses);
    }

    #[test]
    fn what_a_control_group_bounds_is_not_judged_here() {
        let none = Bounds { processes: None, memory_bytes: None, ..BOUNDS };
        assert_eq!(judge(none, 9999, u64::MAX, || u64::MAX), Found::Fine);
    }
}
