//! One process of this host: who it is, whether it lives, how it is signalled and how its end is learned.
//!
//! A pid is a number that the kernel gives out again. The one invariant: no signal is sent and no state is believed
//! unless pid, start ticks and boot id name the same process.

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process_group, pidfd_open, waitid,
};
use serde::{Deserialize, Serialize};
use std::fs;
use std::time::{Duration, Instant};

/// Who a process is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct ProcessId {
    /// Its number; 0 = it was about to be started and its number was not written down.
    pub(super) pid: i32,
    /// When it started, in clock ticks since boot.
    pub(super) start_ticks: u64,
    /// Which boot.
    pub(super) boot_id: String,
}

/// What `/proc/<pid>/stat` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) state: char,
    pub(super) session: i32,
    /// Threads that are left, the first one included.
    pub(super) threads: u32,
    pub(super) start_ticks: u64,
}

/// Whether a process lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Life {
    Running,
    Stopped,
    Dead,
}

/// The id of this boot of the kernel.
pub(super) fn boot_id() -> std::io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// Reads the facts about a pid; `None` when there is no such process.
pub(super) fn stat(pid: i32) -> std::io::Result<Option<Stat>> {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(text) => {
            parse_stat(&text).map(Some).ok_or_else(|| std::io::Error::other("unreadable /proc/<pid>/stat"))
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound || e.raw_os_error() == Some(libc::ESRCH) => {
            Ok(None)
        }
        Err(e) => Err(e),
    }
}

/// The program's name may contain anything, so fields count from the last parenthesis.
fn parse_stat(text: &str) -> Option<Stat> {
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    Some(Stat {
        state: fields.first()?.chars().next()?,
        session: fields.get(3)?.parse().ok()?,
        threads: fields.get(17)?.parse().ok()?,
        start_ticks: fields.get(19)?.parse().ok()?,
    })
}

impl ProcessId {
    /// The process that has this pid now.
    pub(super) fn of(pid: i32) -> std::io::Result<Option<Self>> {
        let Some(stat) = stat(pid)? else { return Ok(None) };
        Ok(Some(Self { pid, start_ticks: stat.start_ticks, boot_id: boot_id()? }))
    }

    /// How the object is named in rows and observations.
    pub(super) fn name(&self) -> String {
        format!("{}@{}", self.pid, self.start_ticks)
    }

    fn known(&self) -> std::io::Result<Option<Stat>> {
        if self.pid <= 0 || boot_id()? != self.boot_id {
            return Ok(None);
        }
        Ok(stat(self.pid)?.filter(|stat| stat.start_ticks == self.start_ticks))
    }

    /// Does it live? A zombie is dead, unless only its first thread is: the others may still write, and hold its locks
    /// and its port.
    pub(super) fn life(&self) -> std::io::Result<Life> {
        Ok(match self.known()? {
            None | Some(Stat { state: 'X' | 'x', .. }) => Life::Dead,
            Some(Stat { state: 'Z', threads, .. }) if threads <= 1 => Life::Dead,
            Some(Stat { state: 'T', .. }) => Life::Stopped,
            Some(_) => Life::Running,
        })
    }

    /// Is it in the process table, if only as a zombie?
    pub(super) fn has_entry(&self) -> std::io::Result<bool> {
        Ok(self.known()?.is_some())
    }

    /// Takes hold of it; `None` when it is gone.
    pub(super) fn hold(&self) -> std::io::Result<Option<Held>> {
        let Some(pid) = Pid::from_raw(self.pid).filter(|_| self.pid > 0) else { return Ok(None) };
        let fd = match pidfd_open(pid, PidfdFlags::NONBLOCK) {
            Ok(fd) => fd,
            Err(Errno::SRCH) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        // the descriptor names whoever has the pid now; only after that is it worth asking who that is
        Ok(self.known()?.map(|_| Held { fd, pid }))
    }

    /// The exit code of a child of ours that has ended, and its removal from the process table; `None` when it is
    /// not our child or was reaped before. 128 + signal number when a signal ended it.
    pub(super) fn reap(&self) -> std::io::Result<Option<i32>> {
        let Some(pid) = Pid::from_raw(self.pid) else { return Ok(None) };
        if self.known()?.is_none_or(|stat| stat.state != 'Z') {
            return Ok(None);
        }
        match waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
            Ok(Some(status)) => {
                let signal = status.terminating_signal().map(|signal| 128 + signal);
                Ok(status.exit_status().or(signal))
            }
            Ok(None) | Err(Errno::CHILD) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }
}

/// A process that cannot be mistaken for another any more.
#[derive(Debug)]
pub(super) struct Held {
    fd: OwnedFd,
    pid: Pid,
}

/// Signal the whole group of the process behind the descriptor (Linux 6.9).
const PIDFD_SIGNAL_PROCESS_GROUP: libc::c_uint = 1 << 2;

impl Held {
    /// The descriptor that becomes readable at its end.
    pub(super) fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// A second descriptor of the same process.
    pub(super) fn watch(&self) -> std::io::Result<OwnedFd> {
        self.fd.try_clone()
    }

    /// Sends the signal to its process group; a group that is gone is success.
    pub(super) fn signal(&self, signal: Signal) -> std::io::Result<()> {
        // SAFETY: plain numbers and a null pointer that the call allows; the descriptor is open.
        let sent = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.fd.as_raw_fd(),
                signal.as_raw(),
                std::ptr::null::<libc::siginfo_t>(),
                PIDFD_SIGNAL_PROCESS_GROUP,
            )
        };
        if sent == 0 {
            return Ok(());
        }
        let error = std::io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::ESRCH) => Ok(()),
            Some(libc::EINVAL | libc::ENOSYS) => self.signal_by_number(signal),
            _ => Err(error),
        }
    }

    /// Whether anybody is left in its process group, itself included until it is reaped.
    pub(super) fn group_is_left(&self) -> bool {
        // SAFETY: plain numbers and a null pointer that the call allows; signal 0 only asks; the descriptor is open.
        let asked = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.fd.as_raw_fd(),
                0,
                std::ptr::null::<libc::siginfo_t>(),
                PIDFD_SIGNAL_PROCESS_GROUP,
            )
        };
        // An older kernel cannot say without a number that may be somebody else's by now.
        asked == 0
    }

    /// For older kernels: while the leader lives its number is its own, and names its group.
    fn signal_by_number(&self, signal: Signal) -> std::io::Result<()> {
        if self.has_ended(Duration::ZERO)? {
            return Ok(());
        }
        match kill_process_group(self.pid, signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Waits for its end, at most this long. Blocks the thread.
    pub(super) fn has_ended(&self, limit: Duration) -> std::io::Result<bool> {
        let until = Instant::now() + limit;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let wait = rustix::event::Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: i64::from(left.subsec_nanos()),
            };
            let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
            match poll(&mut fds, Some(&wait)) {
                Ok(0) => return Ok(false),
                Ok(_) => return Ok(true),
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_name_with_parentheses_and_spaces_does_not_shift_the_fields() {
        let text = "42 (a) R (b) T 1 42 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 3 0 987654 0 0";
        assert_eq!(parse_stat(text), Some(Stat { state: 'T', session: 7, threads: 3, start_ticks: 987_654 }));
        assert_eq!(parse_stat("garbage"), None);
    }

    /// The first thread of a process may end before the others; until they have, the process lives.
    #[test]
    fn a_process_lives_as_long_as_one_of_its_threads() {
        // SAFETY: after the fork only calls that are allowed there: clone through a raw system call, pause and exit.
        let pid = unsafe {
            let pid = libc::fork();
            if pid == 0 {
                let flags = libc::CLONE_VM | libc::CLONE_SIGHAND | libc::CLONE_THREAD;
                let mut stack = [0_u8; 16 * 1024];
                let top = stack.as_mut_ptr().add(stack.len() - 64);
                let top = top.sub(top.align_offset(16)).cast::<libc::c_void>();
                extern "C" fn other(_: *mut libc::c_void) -> libc::c_int {
                    loop {
                        // SAFETY: waits for a signal.
                        unsafe { libc::pause() };
                    }
                }
                libc::clone(other, top, flags, std::ptr::null_mut());
                // Only this thread ends.
                libc::syscall(libc::SYS_exit, 0);
            }
            pid
        };
        let child = ProcessId::of(pid).expect("reads /proc").expect("a child that nobody reaped");
        let began = Instant::now();
        let state = || stat(pid).expect("reads /proc").map(|stat| stat.state);
        while state() != Some('Z') {
            assert!(began.elapsed() < Duration::from_secs(10), "its first thread does not end");
            std::thread::yield_now();
        }
        assert_eq!(child.life().expect("reads"), Life::Running);
        assert_eq!(child.reap().expect("asks"), None, "it has not ended");
        let held = child.hold().expect("opens").expect("is there");
        kill_process_group_of_one(pid);
        assert!(held.has_ended(Duration::from_secs(10)).expect("waits"));
        assert_eq!(child.life().expect("reads"), Life::Dead);
        assert_eq!(child.reap().expect("reaps"), Some(137));
    }

    fn kill_process_group_of_one(pid: i32) {
        let pid = Pid::from_raw(pid).expect("a pid is positive");
        rustix::process::kill_process(pid, Signal::KILL).expect("our own child");
    }

    #[test]
    fn this_process_is_itself_and_nobody_else() {
        let pid = i32::try_from(std::process::id()).expect("pids are small");
        let own = ProcessId::of(pid).expect("reads /proc").expect("lives");
        assert_eq!(own.life().expect("reads"), Life::Running);
        let reused = ProcessId { start_ticks: own.start_ticks + 1, ..own.clone() };
        assert_eq!(reused.life().expect("reads"), Life::Dead);
        assert!(reused.hold().expect("opens").is_none(), "a reused pid cannot be taken hold of");
        let rebooted = ProcessId { boot_id: "another".into(), ..own };
        assert_eq!(rebooted.life().expect("reads"), Life::Dead);
    }
}
