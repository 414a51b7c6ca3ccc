//! Which processes belong to a turn, and how all of them are ended.
//!
//! A group's number can be reused by the kernel once nobody is in it. So a shell that has ended is kept
//! as a zombie while its background processes live: the number stays taken until the group is killed.
//! Processes that left the group are found by their TMPDIR, which is unique to the task. The same mark
//! finds orphans of an earlier Engine process, whose groups nobody holds any more.
//!
//! The invariant: no signal goes to a process that is not known to be ours.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often a task's processes are searched for: a process may fork while it is being found. Each round
/// kills what the last one missed; more rounds only matter against a fork bomb, which NPROC limits.
const SEARCH_ROUNDS: usize = 5;
/// How long a killed leader may take to be reaped; longer delays the end of the turn (1 s in all), a
/// process that takes longer hangs in the kernel.
const REAP_MAX: Duration = Duration::from_millis(300);

/// One child and the process group it leads.
#[derive(Debug)]
pub struct Group {
    pgid: i32,
    leader: Mutex<Option<Child>>,
}

impl Group {
    pub(super) fn new(leader: Child) -> Self {
        Self { pgid: leader.id().cast_signed(), leader: Mutex::new(Some(leader)) }
    }

    /// The group's number, equal to the leader's process id.
    pub fn pgid(&self) -> i32 {
        self.pgid
    }

    /// Kills every process of the group. Does nothing once the leader is reaped.
    pub fn kill(&self) {
        if lock(&self.leader).is_some() {
            kill_group(self.pgid);
        }
    }

    /// True when nobody but the leader is left.
    pub fn is_alone(&self) -> bool {
        !process_ids().any(|pid| pid != self.pgid && group_of(pid) == Some(self.pgid))
    }

    /// Gives the leader's number back to the kernel, if the leader has ended.
    pub fn try_reap(&self) -> Option<ExitStatus> {
        let mut leader = lock(&self.leader);
        let status = leader.as_mut()?.try_wait().ok().flatten();
        if status.is_some() {
            *leader = None;
        }
        status
    }

    fn reap(&self) {
        let end = Instant::now() + REAP_MAX;
        while lock(&self.leader).is_some() && self.try_reap().is_none() && Instant::now() < end {
            std::thread::yield_now();
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
        self.reap();
    }
}

/// The process groups of one turn.
#[derive(Debug)]
pub struct ProcessGroups {
    mark: PathBuf,
    held: Mutex<Vec<Arc<Group>>>,
    /// Locked while everything is killed, true from then on.
    ended: Mutex<bool>,
}

impl ProcessGroups {
    /// For a turn whose children have `task_tmp` as TMPDIR (a canonical path).
    pub fn new(task_tmp: impl Into<PathBuf>) -> Self {
        Self { mark: task_tmp.into(), held: Mutex::new(Vec::new()), ended: Mutex::new(false) }
    }

    pub(super) fn hold(&self, group: Arc<Group>) {
        lock(&self.held).push(group);
    }

    pub(super) fn release(&self, group: &Arc<Group>) {
        lock(&self.held).retain(|g| !Arc::ptr_eq(g, group));
    }

    /// The groups that may still have processes.
    pub fn pgids(&self) -> Vec<i32> {
        lock(&self.held).iter().map(|g| g.pgid()).collect()
    }

    /// Kills everything the turn has started, those that left their group included, and waits until the
    /// leaders are gone. Call at the end of the turn and on cancel; calling it twice is harmless.
    pub async fn kill_all(self: &Arc<Self>) {
        let groups = Arc::clone(self);
        // The search reads /proc; a panic in it would be a bug and is not the turn's business.
        let _ = tokio::task::spawn_blocking(move || groups.kill_all_now()).await;
    }

    /// The same, blocking, for threads that may block.
    pub fn kill_all_now(&self) {
        // Whoever comes second waits for the first and does not search again: by then the task's next turn
        // may run, and its processes carry the same mark.
        let mut ended = lock(&self.ended);
        let groups = std::mem::take(&mut *lock(&self.held));
        if *ended && groups.is_empty() {
            return;
        }
        for group in &groups {
            group.kill();
        }
        for _ in 0..SEARCH_ROUNDS {
            if kill_marked(|tmpdir| tmpdir == self.mark) == 0 {
                break;
            }
        }
        for group in groups {
            group.reap();
        }
        *ended = true;
    }
}

impl Drop for ProcessGroups {
    fn drop(&mut self) {
        for group in lock(&self.held).iter() {
            group.kill();
        }
    }
}

/// Kills every process left over from an earlier Engine process of this brain: those whose TMPDIR lies
/// below `tmp_base`, the directory all tasks' temporary directories are in. Call at start, holding the
/// brain lock, before anything is spawned. Returns how many were killed.
pub fn kill_orphans(tmp_base: &Path) -> usize {
    (0..SEARCH_ROUNDS)
        .map(|_| kill_marked(|tmpdir| tmpdir.starts_with(tmp_base)))
        .take_while(|&n| n > 0)
        .sum()
}

/// Kills a recorded group of an earlier Engine process, provided at least one of its members carries the
/// mark of a task below `tmp_base`; a group whose number was reused by somebody else carries none.
/// Returns true when it was killed.
pub fn kill_orphan_group(pgid: i32, tmp_base: &Path) -> bool {
    let ours = process_ids()
        .filter(|&pid| group_of(pid) == Some(pgid))
        .any(|pid| tmpdir_of(pid).is_some_and(|dir| dir.starts_with(tmp_base)));
    if ours {
        kill_group(pgid);
    }
    ours
}

fn kill_marked(is_ours: impl Fn(&Path) -> bool) -> usize {
    let own = std::process::id().cast_signed();
    let mut killed = 0;
    for pid in process_ids().filter(|&pid| pid != own) {
        if tmpdir_of(pid).is_some_and(|dir| is_ours(&dir))
            && let Some(pid) = rustix::process::Pid::from_raw(pid)
            && rustix::process::kill_process(pid, rustix::process::Signal::KILL).is_ok()
        {
            killed += 1;
        }
    }
    killed
}

fn kill_group(pgid: i32) {
    // 0 and 1 would mean our own group and everybody.
    if pgid > 1
        && let Some(pid) = rustix::process::Pid::from_raw(pgid)
    {
        // ESRCH: everybody has ended already.
        let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
    }
}

fn process_ids() -> impl Iterator<Item = i32> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The process group, or `None` for a process that is gone or a zombie.
fn group_of(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in brackets may contain anything, brackets and spaces included.
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_whitespace();
    let state = fields.next()?;
    let pgid = fields.nth(1)?.parse().ok()?;
    (state != "Z" && state != "X").then_some(pgid)
}

/// The TMPDIR a process was started with. Empty for zombies and unreadable for other users' processes.
fn tmpdir_of(pid: i32) -> Option<PathBuf> {
    let environ = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let value = environ.split(|&b| b == 0).find_map(|v| v.strip_prefix(b"TMPDIR="))?;
    Some(PathBuf::from(std::ffi::OsStr::from_bytes(value)))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // The data are valid after every statement; a panic elsewhere does not change that.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until the leader has ended, without reaping it.
pub(super) async fn ended(group: &Group) -> io::Result<()> {
    use rustix::process::{Pid, PidfdFlags, pidfd_open};
    let pid = Pid::from_raw(group.pgid).ok_or(io::ErrorKind::InvalidInput)?;
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(fd) => {
            // SAFETY: an `OwnedFd` stays open, and the same descriptor, for as long as it is owned; here
            // until the end of this block.
            let fd = unsafe {
                tokio::io::unix::AsyncFd::register_with_interest(fd, tokio::io::Interest::READABLE)?
            };
            let _ready = fd.readable().await?;
            Ok(())
        }
        Err(_) => poll_until_ended(pid).await,
    }
}

/// For kernels and container runtimes without pidfd.
async fn poll_until_ended(pid: rustix::process::Pid) -> io::Result<()> {
    use rustix::process::{WaitId, WaitIdOptions, waitid};
    /// Longer delays every call's end by as much; shorter burns the processor while waiting.
    const EVERY: Duration = Duration::from_millis(10);
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    while waitid(WaitId::Pid(pid), options)?.is_none() {
        tokio::time::sleep(EVERY).await;
    }
    Ok(())
}

/// The leader's exit status while it is still a zombie: 128 + signal for a killed one, as shells say it.
pub(super) fn exit_code(group: &Group) -> Option<i32> {
    use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    let status = waitid(WaitId::Pid(Pid::from_raw(group.pgid)?), options).ok()??;
    status.exit_status().or_else(|| status.terminating_signal().map(|s| 128 + s))
}
