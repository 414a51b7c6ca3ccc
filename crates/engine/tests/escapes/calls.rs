//! Attempts on the kernel and on other processes, by raw system calls.

use super::attempt::{Attempt, CANARY, Control, Network, Outcome, Promise, Root, SECRET, Scene};
use std::ffi::CString;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A pointer that points nowhere.
const NOWHERE: i64 = 8;

/// One raw system call.
pub fn call(nr: i64, args: [i64; 6]) -> io::Result<i64> {
    let [a, b, c, d, e, f] = args;
    // SAFETY: whatever these attempts hand over is either memory of ours that outlives the call, or a pointer
    // the kernel refuses.
    let result = unsafe { libc::syscall(nr, a, b, c, d, e, f) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A path as the kernel wants it.
pub fn path_bytes(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).expect("no zero byte in it")
}

const fn kernel(name: &'static str, act: fn(&Scene) -> Outcome) -> Attempt {
    Attempt {
        name,
        promise: Promise::Always,
        control: Control::Works,
        root: Root::Beside,
        network: Network::Off,
        act,
    }
}

/// Tried by nobody without the sandbox: harmful, or dependent on how the kernel was built.
const fn shielded(name: &'static str, promise: Promise, act: fn(&Scene) -> Outcome) -> Attempt {
    Attempt { name, promise, control: Control::No, root: Root::Beside, network: Network::Off, act }
}

fn nonsense(nr: i64) -> Outcome {
    Outcome::reached(call(nr, [NOWHERE; 6]))
}

fn proc_of(pid: i32, name: &str) -> String {
    format!("/proc/{pid}/{name}")
}

pub const ATTEMPTS: &[Attempt] = &[
    kernel("mount", |_| nonsense(libc::SYS_mount)),
    kernel("umount2", |_| nonsense(libc::SYS_umount2)),
    kernel("pivot_root", |_| nonsense(libc::SYS_pivot_root)),
    kernel("chroot", |_| nonsense(libc::SYS_chroot)),
    kernel("open_tree + move_mount", |_| match nonsense(libc::SYS_open_tree) {
        Outcome::Refused => nonsense(libc::SYS_move_mount),
        other => other,
    }),
    kernel("fsopen + fsmount", |_| match nonsense(libc::SYS_fsopen) {
        Outcome::Refused => nonsense(libc::SYS_fsmount),
        other => other,
    }),
    kernel("unshare a user namespace", |_| {
        Outcome::of(call(libc::SYS_unshare, [i64::from(libc::CLONE_NEWUSER), 0, 0, 0, 0, 0]))
    }),
    kernel("unshare a mount namespace", |_| {
        Outcome::of(call(libc::SYS_unshare, [i64::from(libc::CLONE_NEWNS), 0, 0, 0, 0, 0]))
    }),
    kernel("unshare a network namespace", |_| {
        Outcome::of(call(libc::SYS_unshare, [i64::from(libc::CLONE_NEWNET), 0, 0, 0, 0, 0]))
    }),
    kernel("unshare a time namespace", |_| Outcome::of(call(libc::SYS_unshare, [0x80, 0, 0, 0, 0, 0]))),
    kernel("clone into a user namespace", |_| {
        // Without a valid stack the kernel answers before anything is made.
        Outcome::reached(call(
            libc::SYS_clone,
            [i64::from(libc::CLONE_NEWUSER | libc::CLONE_FS), 0, 0, 0, 0, 0],
        ))
    }),
    kernel("clone3", |_| nonsense(libc::SYS_clone3)),
    shielded("join the Engine's namespaces", Promise::Always, |s| {
        match fs::File::open(proc_of(s.engine, "ns/mnt")) {
            Ok(file) => {
                use std::os::fd::AsRawFd;
                Outcome::of(call(libc::SYS_setns, [i64::from(file.as_raw_fd()), 0, 0, 0, 0, 0]))
            }
            Err(_) => nonsense(libc::SYS_setns),
        }
    }),
    shielded("io_uring", Promise::Always, |_| nonsense(libc::SYS_io_uring_setup)),
    kernel("bpf", |_| nonsense(libc::SYS_bpf)),
    kernel("perf_event_open", |_| nonsense(libc::SYS_perf_event_open)),
    shielded("userfaultfd", Promise::Always, |_| nonsense(libc::SYS_userfaultfd)),
    kernel("keyctl", |_| nonsense(libc::SYS_keyctl)),
    kernel("add_key + request_key", |_| match nonsense(libc::SYS_add_key) {
        Outcome::Refused => nonsense(libc::SYS_request_key),
        other => other,
    }),
    shielded("load a module", Promise::Always, |_| match nonsense(libc::SYS_init_module) {
        Outcome::Refused => nonsense(libc::SYS_finit_module),
        other => other,
    }),
    shielded("kexec_load", Promise::Always, |_| nonsense(libc::SYS_kexec_load)),
    shielded("reboot", Promise::Always, |_| nonsense(libc::SYS_reboot)),
    kernel("swapon", |_| nonsense(libc::SYS_swapon)),
    shielded("switch off address randomisation", Promise::Always, |_| {
        Outcome::of(call(libc::SYS_personality, [0x0004_0000, 0, 0, 0, 0, 0]))
    }),
    kernel("fanotify", |_| nonsense(libc::SYS_fanotify_init)),
    shielded("memory that nobody sees (memfd_secret)", Promise::Always, |_| nonsense(447)),
    kernel("System V shared memory", |_| nonsense(libc::SYS_shmget)),
    kernel("a message queue that outlives us", |_| nonsense(libc::SYS_mq_open)),
    kernel("set the host's name", |_| nonsense(libc::SYS_sethostname)),
    kernel("set the clock", |_| match nonsense(libc::SYS_settimeofday) {
        Outcome::Refused => nonsense(libc::SYS_clock_settime),
        other => other,
    }),
    kernel("read the kernel's log", |_| nonsense(libc::SYS_syslog)),
    #[cfg(target_arch = "x86_64")]
    shielded("ports of the machine (iopl, ioperm)", Promise::Always, |_| match nonsense(libc::SYS_iopl) {
        Outcome::Refused => nonsense(libc::SYS_ioperm),
        other => other,
    }),
    #[cfg(target_arch = "x86_64")]
    kernel("modify_ldt", |_| nonsense(libc::SYS_modify_ldt)),
    #[cfg(target_arch = "x86_64")]
    shielded("a call of the x32 mode", Promise::Always, |_| {
        Outcome::reached(call(0x4000_0000 + libc::SYS_getpid, [0; 6]))
    }),
    #[cfg(target_arch = "x86_64")]
    shielded("a call of the 32-bit mode", Promise::Always, |_| {
        let answer: i64;
        // SAFETY: getpid of the 32-bit table (20) touches no memory; rbx is put back.
        unsafe {
            std::arch::asm!("push rbx", "xor ebx, ebx", "int 0x80", "pop rbx", inout("rax") 20_i64 => answer);
        }
        if answer > 0 { Outcome::Did("it answered".into()) } else { Outcome::Refused }
    }),
    shielded("type into a terminal (TIOCSTI)", Promise::Always, |_| {
        Outcome::reached(call(libc::SYS_ioctl, [0, 0x5412, NOWHERE, 0, 0, 0]))
    }),
    shielded("paste into a terminal (TIOCLINUX)", Promise::Always, |_| {
        Outcome::reached(call(libc::SYS_ioctl, [0, 0x541C, NOWHERE, 0, 0, 0]))
    }),
    shielded("open the controlling terminal", Promise::Always, |_| {
        Outcome::of(OpenOptions::new().write(true).open("/dev/tty"))
    }),
    // other processes
    shielded("ptrace the Engine", Promise::Always, |s| {
        Outcome::of(call(libc::SYS_ptrace, [0x4206, i64::from(s.engine), 0, 0, 0, 0]))
    }),
    shielded("read the Engine's memory (process_vm_readv)", Promise::Always, |s| {
        Outcome::reached(call(libc::SYS_process_vm_readv, [i64::from(s.engine), NOWHERE, 1, NOWHERE, 1, 0]))
    }),
    shielded("write the Engine's memory (process_vm_writev)", Promise::Always, |s| {
        Outcome::reached(call(libc::SYS_process_vm_writev, [i64::from(s.engine), NOWHERE, 1, NOWHERE, 1, 0]))
    }),
    shielded("read /proc/<engine>/environ", Promise::Always, |s| {
        Outcome::of(fs::read(proc_of(s.engine, "environ")))
    }),
    shielded("open /proc/<engine>/mem", Promise::Always, |s| {
        Outcome::of(fs::File::open(proc_of(s.engine, "mem")))
    }),
    shielded("read /proc/<engine>/maps", Promise::Always, |s| match fs::read(proc_of(s.engine, "maps")) {
        Ok(text) if !text.is_empty() => Outcome::Did("its map".into()),
        Ok(_) | Err(_) => Outcome::Refused,
    }),
    shielded("see what the Engine has open", Promise::Always, |s| {
        // The numbers alone say nothing; root may list them.
        let fds = fs::read_dir(proc_of(s.engine, "fd")).into_iter().flatten().flatten();
        match fds.map(|fd| fs::read_link(fd.path())).find_map(Result::ok) {
            Some(target) => Outcome::Did(target.display().to_string()),
            None => Outcome::of(fs::read_link(proc_of(s.engine, "exe"))),
        }
    }),
    shielded("walk /proc/<engine>/root", Promise::Always, |s| {
        Outcome::of(fs::read_dir(proc_of(s.engine, "root/")))
    }),
    shielded("walk /proc/<engine>/cwd", Promise::Always, |s| {
        Outcome::of(fs::read_dir(proc_of(s.engine, "cwd/")))
    }),
    shielded("take a descriptor of the Engine (pidfd_getfd)", Promise::Always, |s| {
        let pidfd = call(libc::SYS_pidfd_open, [i64::from(s.engine), 0, 0, 0, 0, 0]).unwrap_or(-1);
        Outcome::reached(call(libc::SYS_pidfd_getfd, [pidfd, 0, 0, 0, 0, 0]))
    }),
    shielded("signal the Engine", Promise::Always, |s| {
        Outcome::of(call(libc::SYS_kill, [i64::from(s.engine), 0, 0, 0, 0, 0]))
    }),
    shielded("signal a thread of the Engine (tgkill)", Promise::Always, |s| {
        let engine = i64::from(s.engine);
        Outcome::of(call(libc::SYS_tgkill, [engine, engine, 0, 0, 0, 0]))
    }),
    shielded("signal the Engine through a pidfd", Promise::Always, |s| {
        let pidfd = call(libc::SYS_pidfd_open, [i64::from(s.engine), 0, 0, 0, 0, 0]);
        Outcome::of(pidfd.and_then(|fd| call(libc::SYS_pidfd_send_signal, [fd, 0, 0, 0, 0, 0])))
    }),
    shielded("let the kernel signal the Engine (F_SETOWN)", Promise::Signals, |s| {
        // A socket that sends SIGURG, which is ignored by default, to its owner. The owner is only accepted
        // here; landlock refuses the signal when it is due, so the judge is whether the Engine counts one.
        let mut pair = [0_i32; 2];
        let (unix, stream) = (i64::from(libc::AF_UNIX), i64::from(libc::SOCK_STREAM));
        let made = call(libc::SYS_socketpair, [unix, stream, 0, pair.as_mut_ptr() as i64, 0, 0]);
        let set = made.and_then(|_| {
            let fd = i64::from(pair[0]);
            call(libc::SYS_fcntl, [fd, i64::from(libc::F_SETOWN), i64::from(s.engine), 0, 0, 0])?;
            call(libc::SYS_fcntl, [fd, 10 /* F_SETSIG */, i64::from(libc::SIGURG), 0, 0, 0])?;
            call(libc::SYS_fcntl, [fd, i64::from(libc::F_SETFL), i64::from(libc::O_ASYNC), 0, 0, 0])?;
            call(libc::SYS_write, [i64::from(pair[1]), c"x".as_ptr() as i64, 1, 0, 0, 0])
        });
        match set {
            // Only the Engine can tell.
            Ok(_) | Err(_) => Outcome::Refused,
        }
    }),
    shielded("signal a neighbour's command", Promise::Signals, |s| {
        Outcome::of(call(libc::SYS_kill, [i64::from(s.neighbour), 0, 0, 0, 0, 0]))
    }),
    shielded("read a neighbour's environment", Promise::Files, |s| {
        Outcome::shows(fs::read(proc_of(s.neighbour, "environ")), SECRET)
    }),
    shielded("open a neighbour's memory", Promise::Files, |s| {
        Outcome::of(fs::File::open(proc_of(s.neighbour, "mem")))
    }),
    shielded("lower the Engine's limits", Promise::Always, |s| {
        let limit = [1000_u64, 1000];
        let at = limit.as_ptr() as i64;
        Outcome::of(call(libc::SYS_prlimit64, [i64::from(s.engine), 0, at, 0, 0, 0]))
    }),
    shielded("lower the Engine's priority", Promise::Always, |s| {
        Outcome::of(call(libc::SYS_setpriority, [0, i64::from(s.engine), 19, 0, 0, 0]))
    }),
    shielded("bind the Engine to one processor", Promise::Always, |s| {
        let mask = [1_u64; 16];
        let at = mask.as_ptr() as i64;
        Outcome::of(call(libc::SYS_sched_setaffinity, [i64::from(s.engine), 128, at, 0, 0, 0]))
    }),
    shielded("make the Engine a batch process", Promise::Always, |s| {
        let priority = [0_i32; 1];
        let at = priority.as_ptr() as i64;
        Outcome::of(call(libc::SYS_sched_setscheduler, [i64::from(s.engine), 3, at, 0, 0, 0]))
    }),
    shielded("lower the Engine's disk priority", Promise::Always, |s| {
        Outcome::of(call(libc::SYS_ioprio_set, [1, i64::from(s.engine), 3 << 13, 0, 0, 0]))
    }),
    shielded("make the Engine the out-of-memory victim", Promise::Files, |s| {
        Outcome::of(fs::write(proc_of(s.engine, "oom_score_adj"), "1000"))
    }),
    // what it is
    kernel("see the Engine's variables", |_| {
        let environment = fs::read("/proc/self/environ").unwrap_or_default();
        if String::from_utf8_lossy(&environment).contains(CANARY) {
            Outcome::Did("a secret of the environment".into())
        } else {
            Outcome::Refused
        }
    })
    .without_control(),
    shielded("use a descriptor that leaked", Promise::Always, |_| {
        let open: Vec<i32> = (3..1024)
            .filter(|&fd| call(libc::SYS_fcntl, [fd, 1, 0, 0, 0, 0]).is_ok())
            .map(|fd| fd as i32)
            .collect();
        if open.is_empty() { Outcome::Refused } else { Outcome::Did(format!("{open:?}")) }
    }),
    shielded("gain privileges by a setuid program", Promise::Always, |_| {
        let value = call(libc::SYS_prctl, [i64::from(libc::PR_GET_NO_NEW_PRIVS), 0, 0, 0, 0, 0]);
        if value.is_ok_and(|v| v == 1) { Outcome::Refused } else { Outcome::Did("it may".into()) }
    }),
    shielded("hold dangerous capabilities", Promise::Always, |_| {
        // CHOWN, DAC_OVERRIDE, FOWNER, FSETID are for ordinary file work.
        const FILE_WORK: u64 = 0b1_1011;
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let sets = ["CapPrm:", "CapEff:", "CapAmb:"].map(|name| {
            let line = status.lines().find_map(|l| l.strip_prefix(name)).unwrap_or("0");
            u64::from_str_radix(line.trim(), 16).unwrap_or(u64::MAX)
        });
        match sets.iter().find(|&&set| set & !FILE_WORK != 0) {
            Some(set) => Outcome::Did(format!("{set:x}")),
            None => Outcome::Refused,
        }
    }),
    shielded("raise a limit", Promise::Always, |_| {
        let limit = [u64::MAX, u64::MAX];
        Outcome::of(call(libc::SYS_prlimit64, [0, libc::RLIMIT_FSIZE.into(), limit.as_ptr() as i64, 0, 0, 0]))
    }),
    shielded("shed the mark of the task", Promise::Always, |_| {
        let limit = [1_u64, 1];
        Outcome::of(call(
            libc::SYS_prlimit64,
            [0, libc::RLIMIT_RTTIME.into(), limit.as_ptr() as i64, 0, 0, 0],
        ))
    }),
];

impl Attempt {
    /// Without the sandbox the launcher scrubs as well, so there is nothing to compare with.
    const fn without_control(mut self) -> Self {
        self.control = Control::No;
        self
    }
}
