//! Which processes belong to a turn, and how all of them are ended.
//!
//! A group's number can be reused by the kernel once nobody is in it. So a shell that has ended is kept
//! as a zombie while its background processes live: the number stays taken until the group is killed.
//! Processes that left the group are found by the [`Mark`] in their limits, which they cannot shed, or by their
//! TMPDIR; both are unique to the task. The same finds orphans of an earlier Engine process, whose groups
//! nobody holds any more.
//!
//! The invariant: no signal goes to a process that is not known to be ours.

use super::cgroups::Cgroup;
use super::gate::Gate;
use super::inside::Word;
use super::mark::Mark;
use std::cell::Cell;
use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

/// A search is over when nothing was found this often in a row: a process that goes on in a child again and
/// again may slip through one look. Fewer lets such a one live; more costs a look at /proc each.
const EMPTY_LOOKS: usize = 3;
/// How long a task's processes are searched for at most. Longer holds the end of the turn up; shorter gives up
/// on a fork bomb, which NPROC or the watch limits.
const SEARCH_MAX: Duration = Duration::from_secs(1);
/// How long what was killed may take to be gone; longer delays the end of the turn (1 s in all), a
/// process that takes longer hangs in the kernel.
const REAP_MAX: Duration = Duration::from_millis(300);

/// Children somebody waits for. As process 1 of a container the Engine inherits every orphan, too, and nobody
/// waits for those.
static LEADERS: LazyLock<Mutex<HashSet<i32>>> = LazyLock::new(Mutex::default);

/// Keeps the reaping of orphans away from a child that is waited for elsewhere.
pub(super) struct Waited(i32);

impl Waited {
    /// Leaves the child to its group, which gives the number back when it has waited.
    fn hand_over(self) {
        std::mem::forget(self);
    }
}

impl Drop for Waited {
    fn drop(&mut self) {
        lock(&LEADERS).remove(&self.0);
    }
}

/// Starts a child that whoever reaps orphans leaves alone: from before it exists until it is waited for. Also one
/// that never becomes a program: the standard library waits for that itself, and panics when it is gone.
pub(super) fn spawn(command: &mut std::process::Command) -> std::io::Result<(Child, Waited)> {
    let mut leaders = lock(&LEADERS);
    let child = command.spawn()?;
    let pid = child.id().cast_signed();
    leaders.insert(pid);
    drop(leaders);
    Ok((child, Waited(pid)))
}

/// One child and the process group it leads.
#[derive(Debug)]
pub struct Group {
    pgid: i32,
    leader: Mutex<Option<Child>>,
    /// Where the program inside bubblewrap says how the command ended; the leader is then bubblewrap itself,
    /// which lives as long as anything in its PID namespace.
    words: Option<OwnedFd>,
    told: Mutex<Option<i32>>,
    /// Bounds, and ends, everything of the launch; where control groups are delegated.
    cgroup: Option<Cgroup>,
    /// The way to the proxy, open as long as anything of the launch may use it.
    gate: Mutex<Option<Gate>>,
}

impl Group {
    pub(super) fn new(leader: Child, waited: Waited, words: Option<OwnedFd>, cgroup: Option<Cgroup>) -> Self {
        let pgid = leader.id().cast_signed();
        waited.hand_over();
        let (leader, told, gate) = (Mutex::new(Some(leader)), Mutex::default(), Mutex::default());
        Self { pgid, leader, words, told, cgroup, gate }
    }

    /// Where process 1 of the sandbox speaks.
    pub(super) fn words(&self) -> Option<&OwnedFd> {
        self.words.as_ref()
    }

    /// Whether a control group bounds memory and processes of the launch.
    pub(super) fn has_cgroup(&self) -> bool {
        self.cgroup.is_some()
    }

    /// Keeps the way to the proxy open for as long as the group is held.
    pub(super) fn keep_open(&self, gate: Gate) {
        *lock(&self.gate) = Some(gate);
    }

    /// The group's number, equal to the leader's process id.
    pub fn pgid(&self) -> i32 {
        self.pgid
    }

    /// Kills every process of the group. Does nothing once the leader is reaped.
    pub fn kill(&self) {
        if lock(&self.leader).is_some() {
            if let Some(cgroup) = &self.cgroup {
                cgroup.kill();
            }
            kill_group(self.pgid);
        }
    }

    /// True when nobody but the leader is left.
    pub fn is_alone(&self) -> bool {
        !process_ids().any(|pid| pid != self.pgid && group_of(pid) == Some(self.pgid))
    }

    /// True once the leader is reaped: nothing of the group is left.
    pub fn is_over(&self) -> bool {
        lock(&self.leader).is_none()
    }

    /// Gives the leader's number back to the kernel, if the leader has ended.
    pub fn try_reap(&self) -> Option<ExitStatus> {
        let mut leader = lock(&self.leader);
        let status = leader.as_mut()?.try_wait().ok().flatten();
        if status.is_some() {
            *leader = None;
            lock(&LEADERS).remove(&self.pgid);
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
    /// Somebody looks after what has left its launch.
    strays: AtomicBool,
}

impl ProcessGroups {
    /// For a turn whose children have `task_tmp` as TMPDIR (a canonical path).
    pub fn new(task_tmp: impl Into<PathBuf>) -> Self {
        let (held, ended, strays) = (Mutex::default(), Mutex::default(), AtomicBool::default());
        Self { mark: task_tmp.into(), held, ended, strays }
    }

    /// True once everything is killed, and while it is.
    pub(super) fn is_ended(&self) -> bool {
        match self.ended.try_lock() {
            Ok(ended) => *ended,
            Err(TryLockError::WouldBlock) => true,
            Err(TryLockError::Poisoned(ended)) => *ended.into_inner(),
        }
    }

    /// True for the one who looks after strays from now on.
    pub(super) fn take_strays(&self) -> bool {
        !self.strays.swap(true, Ordering::Relaxed)
    }

    pub(super) fn leave_strays(&self) {
        self.strays.store(false, Ordering::Relaxed);
    }

    pub(super) fn hold(&self, group: Arc<Group>) {
        lock(&self.held).push(group);
    }

    pub(super) fn release(&self, group: &Arc<Group>) {
        lock(&self.held).retain(|g| !Arc::ptr_eq(g, group));
    }

    /// The TMPDIR of its children.
    pub fn scratch(&self) -> &Path {
        &self.mark
    }

    /// The groups that may still have processes.
    pub fn pgids(&self) -> Vec<i32> {
        lock(&self.held).iter().map(|g| g.pgid()).collect()
    }

    /// Kills everything the turn has started, those that left their group included, and waits until none of it
    /// runs any more. Call at the end of the turn and on cancel; calling it twice is harmless.
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
        let (mark, tmp) = (Mark::of_task(&self.mark), self.mark.as_path());
        let killed =
            kill_all_of(|pid| Mark::of_process(pid) == Some(mark) || tmpdir_of(pid).as_deref() == Some(tmp));
        for group in groups {
            group.reap();
        }
        if std::process::id() == 1 {
            reap_orphans(&killed);
        }
        wait_for_the_end_of(&killed);
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

/// Kills every process left over from an earlier Engine process of this brain: those whose mark or TMPDIR is
/// of a task below `tmp_base`, the directory all tasks' temporary directories are in. Call at start, holding the
/// brain lock, before anything is spawned but our own trial of the sandbox, which is spared. Returns how many of
/// tasks were killed; a trial that lost its Engine has done nothing and is not news.
pub fn kill_orphans(tmp_base: &Path) -> usize {
    let trial = Mark::of_trial(tmp_base);
    let trials = Cell::new(0);
    let is_orphan = |pid| {
        let is_trial = Mark::of_process(pid) == Some(trial);
        let orphan = is_below(pid, tmp_base) && !(is_trial && descends_from_us(pid));
        trials.set(trials.get() + usize::from(is_trial && orphan));
        orphan
    };
    kill_all_of(is_orphan).len().saturating_sub(trials.get())
}

/// True when a parent of this process, or one of theirs, is this very process.
fn descends_from_us(pid: i32) -> bool {
    /// Bubblewrap, and process 1 inside. More only look further up from a stranger.
    const GENERATIONS: usize = 4;
    let own = std::process::id().cast_signed();
    let parent = |pid: &i32| stat_of(*pid)?.1.parse().ok();
    std::iter::successors(Some(pid), parent).take(GENERATIONS + 1).any(|pid| pid == own)
}

/// Kills a recorded group of an earlier Engine process, provided at least one of its members carries the
/// mark of a task below `tmp_base`; a group whose number was reused by somebody else carries none.
/// Returns true when it was killed.
pub fn kill_orphan_group(pgid: i32, tmp_base: &Path) -> bool {
    let ours = process_ids().filter(|&pid| group_of(pid) == Some(pgid)).any(|pid| is_below(pid, tmp_base));
    if ours {
        kill_group(pgid);
    }
    ours
}

/// A process of a task, and its session: that of its launch, as long as it has not left it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Member {
    pub pid: i32,
    pub session: i32,
}

/// The processes that carry this task's mark, and may therefore be counted against its limits.
pub(super) fn members(task_tmp: &Path) -> Vec<Member> {
    let mark = Mark::of_task(task_tmp);
    let ours = process_ids().filter(|&pid| Mark::of_process(pid) == Some(mark));
    ours.filter_map(|pid| Some(Member { pid, session: session_of(pid)? })).collect()
}

/// Kills every process with this task's mark that is in none of these sessions.
pub(super) fn kill_all_but(task_tmp: &Path, sessions: &[i32]) {
    let mark = Mark::of_task(task_tmp);
    let spared = |pid| session_of(pid).is_some_and(|session| sessions.contains(&session));
    kill_all_of(|pid| Mark::of_process(pid) == Some(mark) && !spared(pid));
}

fn is_below(pid: i32, tmp_base: &Path) -> bool {
    Mark::of_process(pid).is_some_and(|mark| mark.is_below(tmp_base))
        || tmpdir_of(pid).is_some_and(|dir| dir.starts_with(tmp_base))
}

/// Kills what is ours until nothing more is found. What was looked at once and is not ours never becomes ours:
/// the mark is inherited and cannot be taken on. So later looks are at new processes only, the newest first.
fn kill_all_of(is_ours: impl Fn(i32) -> bool) -> Vec<i32> {
    let own = std::process::id().cast_signed();
    let end = Instant::now() + SEARCH_MAX;
    let mut seen = HashSet::from([own]);
    let (mut killed, mut empty) = (Vec::new(), 0);
    while empty < EMPTY_LOOKS && Instant::now() < end {
        let mut pids: Vec<i32> = process_ids().filter(|&pid| seen.insert(pid)).collect();
        pids.sort_unstable_by(|a, b| b.cmp(a));
        let before = killed.len();
        killed.extend(pids.into_iter().filter(|&pid| is_ours(pid) && kill(pid)));
        empty = if killed.len() == before { empty + 1 } else { 0 };
    }
    killed
}

fn kill(pid: i32) -> bool {
    use rustix::process::{Pid, Signal, kill_process};
    Pid::from_raw(pid).is_some_and(|pid| kill_process(pid, Signal::KILL).is_ok())
}

/// Lets orphans that have ended go, which as process 1 only we can: until then they count as processes. Those
/// just killed are waited for.
fn reap_orphans(killed: &[i32]) {
    use rustix::process::{Pid, WaitOptions, waitpid};
    let end = Instant::now() + REAP_MAX;
    loop {
        let leaders = lock(&LEADERS);
        for pid in process_ids().filter(|pid| !leaders.contains(pid) && is_our_zombie(*pid)) {
            // Between looking and waiting nobody else can have taken it.
            let _ = waitpid(Pid::from_raw(pid), WaitOptions::NOHANG);
        }
        drop(leaders);
        if Instant::now() > end || !killed.iter().any(|pid| Path::new(&format!("/proc/{pid}")).exists()) {
            return;
        }
        std::thread::yield_now();
    }
}

/// The kernel ends a killed process when that one is next to run, on a busy machine some milliseconds later. Who
/// is told of the turn's end may rely on it.
fn wait_for_the_end_of(killed: &[i32]) {
    let end = Instant::now() + REAP_MAX;
    while killed.iter().any(|&pid| group_of(pid).is_some()) && Instant::now() < end {
        std::thread::yield_now();
    }
}

fn is_our_zombie(pid: i32) -> bool {
    let own = std::process::id().to_string();
    let fields = stat_of(pid);
    fields.is_some_and(|(state, parent, _)| state == "Z" && parent == own)
}

pub(super) fn kill_group(pgid: i32) {
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
    let (state, _, pgid) = stat_of(pid)?;
    (state != "Z" && state != "X").then(|| pgid.parse().ok()).flatten()
}

fn session_of(pid: i32) -> Option<i32> {
    let pid = rustix::process::Pid::from_raw(pid)?;
    rustix::process::getsid(Some(pid)).ok().map(|session| session.as_raw_nonzero().get())
}

/// State, parent and group.
fn stat_of(pid: i32) -> Option<(String, String, String)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in brackets may contain anything, brackets and spaces included.
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_whitespace().map(str::to_owned);
    Some((fields.next()?, fields.next()?, fields.next()?))
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

/// Waits until the command has ended, without reaping the leader.
pub(super) async fn ended(group: &Group) -> io::Result<()> {
    use rustix::process::{Pid, PidfdFlags, pidfd_open};
    if let Some(words) = &group.words {
        if lock(&group.told).is_some() {
            return Ok(());
        }
        if let Some(Word::Exited(code)) = next_word(words).await? {
            *lock(&group.told) = Some(code);
            return Ok(());
        }
        // Nobody is left to say anything: the leader has ended or is about to.
    }
    let pid = Pid::from_raw(group.pgid).ok_or(io::ErrorKind::InvalidInput)?;
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(fd) => readable(fd).await,
        Err(_) => poll_until_ended(pid).await,
    }
}

/// What the program inside says next; `None` when it is gone.
pub(super) async fn next_word(words: &OwnedFd) -> io::Result<Option<Word>> {
    loop {
        let mut bytes = Word::BUFFER;
        match rustix::io::read(words, &mut bytes) {
            Ok(count) => return Ok(Word::read(bytes.get(..count).unwrap_or(&[]))),
            Err(rustix::io::Errno::AGAIN) => readable(words.try_clone()?).await?,
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

async fn readable(fd: OwnedFd) -> io::Result<()> {
    // SAFETY: an `OwnedFd` stays open, and the same descriptor, for as long as it is owned; here until the
    // end of this function.
    let fd = unsafe { tokio::io::unix::AsyncFd::register_with_interest(fd, tokio::io::Interest::READABLE)? };
    let _ready = fd.readable().await?;
    Ok(())
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

/// The command's exit status, from inside bubblewrap or from the leader while it is still a zombie: 128 +
/// signal for a killed one, as shells say it.
pub(super) fn exit_code(group: &Group) -> Option<i32> {
    use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
    if let Some(code) = *lock(&group.told) {
        return Some(code);
    }
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    let status = waitid(WaitId::Pid(Pid::from_raw(group.pgid)?), options).ok()??;
    status.exit_status().or_else(|| status.terminating_signal().map(|s| 128 + s))
}
