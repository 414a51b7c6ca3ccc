//! What happens between `fork` and `exec`: only system calls, on data made before the fork.
//!
//! `unsafe` code of the sandbox is here, in [`super::notify`] (its questions to the kernel) and in
//! [`super::groups`] (one registration). Nothing here may allocate, lock, log or panic: after `fork` in a program
//! with threads, only async-signal-safe calls are allowed.
//!
//! The invariant: every step that fails fails the launch; only the hint about memory may go unheard.

use libc::{c_int, c_ulong, rlimit};
use seccompiler::BpfProgram;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;

/// Files made by a child are readable by the person's other programs and writable by nobody else.
const UMASK: libc::mode_t = 0o022;
/// Descriptors looked at one by one on kernels without `close_range`; such kernels have no landlock either.
const OLD_KERNEL_FDS: c_int = 4096;
/// Version 3 of the capability structures: two 32-bit halves.
const CAPABILITY_VERSION: u32 = 0x2008_0522;
/// What a child of a root Engine keeps: CHOWN, DAC_OVERRIDE, FOWNER, FSETID, for ordinary file work within
/// landlock. Everything else goes, above all SYS_RESOURCE, with which rlimits could be raised again.
pub(super) const FILE_WORK: u32 = 1 | 1 << 1 | 1 << 3 | 1 << 4;
/// SETFCAP besides: without it the kernel maps root into no user namespace. Bubblewrap gives up all of them
/// before the command starts.
pub(super) const MAKE_NAMESPACES: u32 = FILE_WORK | 1 << 31;

/// How much sooner than the Engine a child is ended when the machine runs out of memory. Lower and the kernel
/// may choose the Engine; the highest (1000) would choose a small shell before any other program of the host.
const OUT_OF_MEMORY_SCORE: &[u8] = b"500";

/// Everything a child does to itself before `exec`.
pub(super) struct Confinement {
    /// The process that must still be the parent, or the child ends, and with which it is killed; `None` for a child
    /// that ends by itself.
    pub parent: Option<u32>,
    /// `(resource, limit)`, soft and hard alike.
    pub limits: Vec<(libc::__rlimit_resource_t, u64)>,
    /// no_new_privs, and at most these capabilities; `None` changes neither.
    pub capabilities: Option<u32>,
    /// The file of a control group that takes its members.
    pub group: Option<OwnedFd>,
    /// Landlock.
    pub ruleset: Option<OwnedFd>,
    /// Seccomp, in order.
    pub programs: Vec<BpfProgram>,
    /// The filter after which the Engine is asked about calls, and where the child hands out that it is.
    pub asks: Option<(BpfProgram, OwnedFd)>,
    /// Descriptors that stay open across `exec`, for the program that confines itself further.
    pub handed_over: Vec<OwnedFd>,
}

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: c_int,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapabilitySet {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

impl Confinement {
    /// Makes `command` confine itself when it is spawned.
    pub(super) fn install(self, command: &mut std::process::Command) {
        // SAFETY: `apply` makes system calls only, on memory owned by `self` that lives as long as the
        // command; it neither allocates nor takes a lock, and reports failure by errno.
        unsafe {
            command.pre_exec(move || self.apply());
        }
    }

    fn apply(&self) -> io::Result<()> {
        // SAFETY: all calls below are async-signal-safe system calls; the pointers handed over point to
        // values on this stack or owned by `self`, which outlive the calls.
        unsafe {
            check(libc::setsid())?;
            libc::umask(UMASK);
            be_the_first_to_go();
            if let Some(group) = &self.group {
                let (fd, own) = (group.as_raw_fd(), b"0");
                check_long(libc::write(fd, own.as_ptr().cast(), own.len()) as libc::c_long)?;
            }
            for &(resource, limit) in &self.limits {
                self.limit(resource, limit)?;
            }
            if let Some(kept) = self.capabilities {
                drop_capabilities(kept)?;
                check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
            }
            if let Some(parent) = self.parent {
                // After the capabilities: changing credentials may clear it.
                check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as c_ulong, 0, 0, 0))?;
                if libc::getppid().cast_unsigned() != parent {
                    return Err(io::Error::from_raw_os_error(libc::ESRCH));
                }
            }
            close_others_on_exec()?;
            for fd in &self.handed_over {
                check(libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, 0))?;
            }
            if let Some(ruleset) = &self.ruleset {
                restrict(ruleset.as_raw_fd())?;
            }
            filter(&self.programs)?;
            match &self.asks {
                Some((program, door)) => ask_the_engine(program, door),
                None => Ok(()),
            }
        }
    }

    /// Lowers one limit; a hard limit that is lower already stays.
    ///
    /// # Safety
    /// Async-signal-safe; callable between fork and exec.
    unsafe fn limit(&self, resource: libc::__rlimit_resource_t, limit: u64) -> io::Result<()> {
        let mut now = rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: `now` is a valid place for the answer.
        unsafe { check(libc::getrlimit(resource, &raw mut now))? };
        let value = limit.min(now.rlim_max);
        let wanted = rlimit { rlim_cur: value, rlim_max: value };
        // SAFETY: `wanted` is a valid value.
        unsafe { check(libc::setrlimit(resource, &raw const wanted)) }
    }
}

/// # Safety
/// Async-signal-safe; callable between fork and exec.
unsafe fn restrict(ruleset: RawFd) -> io::Result<()> {
    // SAFETY: a plain system call on a descriptor number.
    unsafe { check_long(libc::syscall(libc::SYS_landlock_restrict_self, ruleset, 0 as c_ulong)) }
}

/// Loads the last filter and hands its listener out; from then on such calls wait for the Engine.
///
/// # Safety
/// Async-signal-safe; callable between fork and exec.
unsafe fn ask_the_engine(program: &BpfProgram, door: &OwnedFd) -> io::Result<()> {
    let prog =
        libc::sock_fprog { len: program.len() as libc::c_ushort, filter: program.as_ptr().cast_mut().cast() };
    let (nr, mode) = (libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER as c_ulong);
    let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    // SAFETY: `prog` and the program it points to outlive the call; the new descriptor, which the kernel marks
    // close-on-exec, belongs to nobody else.
    let listener = unsafe {
        let fd = libc::syscall(nr, mode, flags, &raw const prog);
        check_long(fd)?;
        OwnedFd::from_raw_fd(fd as RawFd)
    };
    super::door::hand_over(door.as_fd(), listener.as_fd())
}

/// Takes over a descriptor that was handed to this program by number.
///
/// # Safety
/// Nothing else of this program may own it.
pub(super) unsafe fn take_over(fd: RawFd) -> OwnedFd {
    // SAFETY: the caller's promise.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// # Safety
/// Async-signal-safe; callable between fork and exec.
unsafe fn filter(programs: &[BpfProgram]) -> io::Result<()> {
    for program in programs {
        let prog = libc::sock_fprog {
            // A program has at most 4096 instructions.
            len: program.len() as libc::c_ushort,
            filter: program.as_ptr().cast_mut().cast(),
        };
        let (nr, mode) = (libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER as c_ulong);
        // SAFETY: `prog` and the program it points to outlive the call.
        unsafe { check_long(libc::syscall(nr, mode, 0 as c_ulong, &raw const prog))? };
    }
    Ok(())
}

/// A hint to the kernel; where it is not taken, the limits still hold.
///
/// # Safety
/// Async-signal-safe; callable between fork and exec.
unsafe fn be_the_first_to_go() {
    // SAFETY: the path ends with a zero byte and the buffer is as long as said.
    unsafe {
        let fd = libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        if fd >= 0 {
            libc::write(fd, OUT_OF_MEMORY_SCORE.as_ptr().cast(), OUT_OF_MEMORY_SCORE.len());
            libc::close(fd);
        }
    }
}

/// The landlock ABI of this kernel; not positive when there is none.
pub(super) fn landlock_version() -> i32 {
    const VERSION: c_ulong = 1;
    let (nr, nothing) = (libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>());
    // SAFETY: with this flag the kernel reads no memory.
    let version = unsafe { libc::syscall(nr, nothing, 0 as c_ulong, VERSION) };
    i32::try_from(version).unwrap_or(0)
}

/// Closes the Engine's own memory, environment and descriptors in `/proc` to other processes of its user, and
/// leaves no core dump of it: both would show keys.
pub fn close_engine() -> io::Result<()> {
    // SAFETY: a plain system call without pointers.
    unsafe { check(libc::prctl(libc::PR_SET_DUMPABLE, 0 as c_ulong, 0, 0, 0)) }
}

/// What the program inside bubblewrap does to itself; it has one thread and stays as it is across `fork`.
///
/// `facts` is allowed below `/proc`, which exists only inside and so is in no rule yet.
pub(super) fn confine_self(ruleset: Option<RawFd>, facts: u64, programs: &[BpfProgram]) -> io::Result<()> {
    #[repr(C, packed)]
    struct PathRule {
        allowed_access: u64,
        parent_fd: i32,
    }
    const PATH_BENEATH: c_ulong = 1;
    close_engine()?;
    if let Some(ruleset) = ruleset {
        let proc = std::fs::File::open("/proc")?;
        let rule = PathRule { allowed_access: facts, parent_fd: proc.as_raw_fd() };
        let nr = libc::SYS_landlock_add_rule;
        // SAFETY: `rule` has the kernel's layout and outlives the call.
        unsafe { check_long(libc::syscall(nr, ruleset, PATH_BENEATH, &raw const rule, 0 as c_ulong))? };
    }
    // SAFETY: plain system calls; this thread is the only one.
    unsafe {
        check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
        close_others_on_exec()?;
        if let Some(ruleset) = ruleset {
            restrict(ruleset)?;
        }
        filter(programs)
    }
}

/// # Safety
/// Async-signal-safe; callable between fork and exec.
unsafe fn drop_capabilities(kept: u32) -> io::Result<()> {
    let header = CapabilityHeader { version: CAPABILITY_VERSION, pid: 0 };
    let mut sets = [CapabilitySet::default(); 2];
    // SAFETY: header and sets have the kernel's layout for version 3.
    unsafe {
        check_long(libc::syscall(libc::SYS_capget, &raw const header, sets.as_mut_ptr()))?;
    }
    let kept = sets[0].permitted & kept;
    let low = CapabilitySet { effective: kept, permitted: kept, inheritable: 0 };
    let sets = [low, CapabilitySet::default()];
    // SAFETY: as above.
    unsafe { check_long(libc::syscall(libc::SYS_capset, &raw const header, sets.as_ptr())) }
}

/// Marks every descriptor above stderr close-on-exec. Not closed at once: the standard library still
/// needs its own to report a failed exec.
///
/// # Safety
/// Async-signal-safe; callable between fork and exec.
unsafe fn close_others_on_exec() -> io::Result<()> {
    let first: c_ulong = 3;
    let flag = libc::CLOSE_RANGE_CLOEXEC as c_ulong;
    // SAFETY: plain system calls on descriptor numbers.
    unsafe {
        if libc::syscall(libc::SYS_close_range, first, c_ulong::from(u32::MAX), flag) == 0 {
            return Ok(());
        }
        for fd in 3..OLD_KERNEL_FDS {
            libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC);
        }
    }
    Ok(())
}

fn check(result: c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn check_long(result: libc::c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
