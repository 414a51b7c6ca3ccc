//! The seccomp part: filters over system calls. Built once, before any fork.
//!
//! A deny list, because an allow list breaks honest programs with every libc. Denied calls answer EPERM;
//! `clone3` answers ENOSYS (its flags lie behind a pointer that a filter cannot read) so that libc falls
//! back to `clone`, whose flags are checked. System calls of another processor mode end the process (32-bit)
//! or answer ENOSYS (x32). What is refused whatever its arguments stands in [`super::refused`].
//!
//! The invariant: where landlock is too old to see something, the filter for that kernel refuses it.

use super::refused::GROUPS;
use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};
use std::collections::BTreeMap;

/// May a child connect to unix sockets by path?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnixSockets {
    /// Yes: landlock confines them to paths the child may use (ABI 9), or a mount namespace shows none.
    Confined,
    /// No connecting at all: the kernel cannot confine them, and a socket such as Docker's is a way out.
    ListenOnly,
}

/// May a child open sockets of the internet?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Internet {
    /// No.
    Off,
    /// TCP only, in a network namespace in which nobody is but the way to the proxy.
    Own,
    /// TCP only, but landlock lets no socket be connected, and the Engine lends one that is
    /// ([`super::notify`]).
    Lent,
}

/// What this kernel leaves to the filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Task {
    /// Unix sockets by path.
    pub unix: UnixSockets,
    /// Sockets of the internet.
    pub internet: Internet,
    /// Landlock is there, but older than ABI 3: it does not see that a file is emptied.
    pub stop_truncation: bool,
    /// The Engine, where neither landlock (ABI 6) nor a PID namespace keeps signals from it. Catches
    /// `kill -9 -1` and the like; a process that guesses a thread's number still gets through.
    pub shield: Option<i32>,
}

/// Refused for any process but the caller itself: the first argument is a process id, 0 is the caller. With
/// `prlimit64` a child could set the Engine's own limits and so end it.
const ONLY_SELF: [c_long; 4] = [
    libc::SYS_sched_setaffinity,
    libc::SYS_sched_setscheduler,
    libc::SYS_sched_setparam,
    libc::SYS_sched_setattr,
];
/// The same with the process id as second argument; the first says what kind of id it is, and must be the
/// value for a process.
const ONLY_SELF_OF_KIND: [(c_long, u64); 2] =
    [(libc::SYS_setpriority, 0 /* PRIO_PROCESS */), (libc::SYS_ioprio_set, 1 /* IOPRIO_WHO_PROCESS */)];

/// Every flag of `clone` and `unshare` that makes a namespace.
const NAMESPACE_FLAGS: [libc::c_int; 7] = [
    libc::CLONE_NEWNS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
];
/// `CLONE_NEWTIME`; only `unshare` takes it (in `clone` the bit belongs to the exit signal).
const CLONE_NEWTIME: u64 = 0x80;
/// ioctls that put characters into somebody's terminal, or load a module for a line discipline.
const TERMINAL: [u64; 3] = [libc::TIOCSTI, 0x541C /* TIOCLINUX */, 0x5423 /* TIOCSETD */];
/// ioctls that make a descriptor send signals to a chosen process.
const SIGNAL_BY_IOCTL: [u64; 2] = [0x8901 /* FIOSETOWN */, 0x8902 /* SIOCSPGRP */];
/// The same by `fcntl`.
const SIGNAL_BY_FCNTL: [u64; 2] = [8 /* F_SETOWN */, 15 /* F_SETOWN_EX */];
/// The flag of the `send` family that connects on the way (TCP fast open).
const MSG_FASTOPEN: u64 = libc::MSG_FASTOPEN as u64;
/// The type part of the second argument of `socket`, without flags.
const SOCKET_TYPE_MASK: u64 = 0xf;
/// What Docker's profile lets through, too: Linux, SVR4 short inode numbers, UNAME26, both, and "tell me".
/// The rest switches off address randomisation or makes readable memory executable.
const PERSONALITIES: [u64; 5] = [0, 0x8, 0x20000, 0x20008, 0xffff_ffff];
/// The limit that marks processes as ours; see [`super::mark`].
const MARK_RESOURCE: u64 = libc::RLIMIT_RTTIME as u64;

/// The programs to load, in this order. `None` when this processor is not supported.
pub fn programs(task: Task) -> Option<Vec<BpfProgram>> {
    let mut programs = vec![compile(refused_rules(task)?, libc::EPERM)?];
    let mut unreadable = vec![libc::SYS_clone3];
    if task.stop_truncation {
        unreadable.push(libc::SYS_openat2);
    }
    let unreadable = unreadable.into_iter().map(|nr| (nr, Vec::new())).collect();
    programs.push(compile(unreadable, libc::ENOSYS)?);
    #[cfg(target_arch = "x86_64")]
    programs.push(refuse_x32());
    Some(programs)
}

fn compile(rules: Rules, errno: libc::c_int) -> Option<BpfProgram> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).ok()?;
    let errno = u32::try_from(errno).ok()?;
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(errno), arch).ok()?;
    BpfProgram::try_from(filter).ok()
}

/// Per call: refused when one of the rules matches, or always when there is none.
type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn refused_rules(task: Task) -> Option<Rules> {
    let mut rules: Rules = GROUPS.iter().flat_map(|g| g.calls).map(|&nr| (nr, Vec::new())).collect();
    for nr in ONLY_SELF {
        rules.insert(nr, vec![one(0, SeccompCmpOp::Ne, 0)?]);
    }
    for (nr, process) in ONLY_SELF_OF_KIND {
        rules.insert(nr, vec![one(0, SeccompCmpOp::Ne, process)?, one(1, SeccompCmpOp::Ne, 0)?]);
    }
    // Others' limits, and the mark among one's own.
    let mark = all(&[
        condition(1, SeccompCmpOp::Eq, MARK_RESOURCE)?,
        SeccompCondition::new(2, SeccompCmpArgLen::Qword, SeccompCmpOp::Ne, 0).ok()?,
    ])?;
    rules.insert(libc::SYS_prlimit64, vec![one(0, SeccompCmpOp::Ne, 0)?, mark]);
    rules.insert(SETRLIMIT, vec![one(0, SeccompCmpOp::Eq, MARK_RESOURCE)?]);
    let strange: Option<Vec<_>> = PERSONALITIES.iter().map(|&p| condition(0, SeccompCmpOp::Ne, p)).collect();
    rules.insert(libc::SYS_personality, vec![all(&strange?)?]);
    namespaces(&mut rules)?;
    sockets(&mut rules, task)?;
    signals(&mut rules, task)?;
    if task.stop_truncation {
        truncation(&mut rules)?;
    }
    Some(rules)
}

fn namespaces(rules: &mut Rules) -> Option<()> {
    let flags: Vec<u64> = NAMESPACE_FLAGS.iter().map(|&f| u64::from(f.cast_unsigned())).collect();
    rules.insert(libc::SYS_clone, any_flag(0, &flags)?);
    let unshare: Vec<u64> = flags.iter().copied().chain([CLONE_NEWTIME]).collect();
    rules.insert(libc::SYS_unshare, any_flag(0, &unshare)?);
    Some(())
}

fn sockets(rules: &mut Rules, task: Task) -> Option<()> {
    let unix = condition(0, SeccompCmpOp::Ne, libc::AF_UNIX as u64)?;
    let mut refused = match task.internet {
        Internet::Off => vec![all(&[unix])?],
        Internet::Own | Internet::Lent => {
            let others = [
                unix,
                condition(0, SeccompCmpOp::Ne, libc::AF_INET as u64)?,
                condition(0, SeccompCmpOp::Ne, libc::AF_INET6 as u64)?,
            ];
            // Of the internet's, streams only, and of these TCP only: MPTCP and SCTP are other code.
            let not_a_stream = |family: libc::c_int| {
                let kinds = [libc::SOCK_DGRAM, libc::SOCK_RAW, libc::SOCK_SEQPACKET, libc::SOCK_RDM];
                kinds.iter().map(move |&kind| of_type(family, kind)).collect::<Option<Vec<_>>>()
            };
            let odd_protocol = |family: libc::c_int| {
                all(&[
                    condition(0, SeccompCmpOp::Eq, family as u64)?,
                    condition(2, SeccompCmpOp::Ne, 0)?,
                    condition(2, SeccompCmpOp::Ne, libc::IPPROTO_TCP as u64)?,
                ])
            };
            let mut refused = vec![all(&others)?];
            for family in [libc::AF_INET, libc::AF_INET6] {
                refused.extend(not_a_stream(family)?);
                refused.push(odd_protocol(family)?);
            }
            refused
        }
    };
    if task.unix == UnixSockets::ListenOnly {
        // A datagram socket reaches a path without `connect`, and for unix sockets "raw" means datagram.
        refused.push(of_type(libc::AF_UNIX, libc::SOCK_DGRAM)?);
        refused.push(of_type(libc::AF_UNIX, libc::SOCK_RAW)?);
        if task.internet == Internet::Off {
            rules.insert(libc::SYS_connect, Vec::new());
        }
    }
    if task.internet == Internet::Lent {
        // Listening without a name takes any free port, and landlock sees only names: somebody outside could
        // come in. A filter does not see whose socket it is, so unix sockets cannot listen either.
        rules.insert(libc::SYS_listen, Vec::new());
    }
    if task.internet != Internet::Off {
        // Sending can connect as well, and then landlock does not see the port.
        let fast_open = |arg| one(arg, SeccompCmpOp::MaskedEq(MSG_FASTOPEN), MSG_FASTOPEN);
        rules.insert(libc::SYS_sendto, vec![fast_open(3)?]);
        rules.insert(libc::SYS_sendmsg, vec![fast_open(2)?]);
        rules.insert(libc::SYS_sendmmsg, vec![fast_open(3)?]);
    }
    rules.insert(libc::SYS_socketpair, refused.clone());
    if task.unix == UnixSockets::ListenOnly && task.internet != Internet::Off {
        // `connect` must work for TCP, and a filter does not see whose socket it is called on.
        refused.push(one(0, SeccompCmpOp::Eq, libc::AF_UNIX as u64)?);
    }
    rules.insert(libc::SYS_socket, refused);
    Some(())
}

fn of_type(family: libc::c_int, kind: libc::c_int) -> Option<SeccompRule> {
    all(&[
        condition(0, SeccompCmpOp::Eq, u64::from(family.cast_unsigned()))?,
        condition(1, SeccompCmpOp::MaskedEq(SOCKET_TYPE_MASK), u64::from(kind.cast_unsigned()))?,
    ])
}

fn signals(rules: &mut Rules, task: Task) -> Option<()> {
    let mut ioctls = any_of(1, &TERMINAL)?;
    if let Some(engine) = task.shield {
        let engine = engine.cast_unsigned();
        let everyone = u64::from(u32::MAX);
        let group = u64::from(engine.wrapping_neg());
        rules.insert(libc::SYS_kill, any_of(0, &[u64::from(engine), everyone, group])?);
        for nr in [libc::SYS_tgkill, libc::SYS_rt_sigqueueinfo, libc::SYS_rt_tgsigqueueinfo] {
            rules.insert(nr, any_of(0, &[u64::from(engine)])?);
        }
        rules.insert(libc::SYS_tkill, any_of(0, &[u64::from(engine)])?);
        rules.insert(libc::SYS_pidfd_open, any_of(0, &[u64::from(engine)])?);
        rules.insert(libc::SYS_fcntl, any_of(1, &SIGNAL_BY_FCNTL)?);
        ioctls.extend(any_of(1, &SIGNAL_BY_IOCTL)?);
    }
    rules.insert(libc::SYS_ioctl, ioctls);
    Some(())
}

/// Emptying a file without opening it for writing: by path, or by a flag beside "read only".
fn truncation(rules: &mut Rules) -> Option<()> {
    rules.insert(libc::SYS_truncate, Vec::new());
    let mask = u64::from((libc::O_TRUNC | libc::O_ACCMODE).cast_unsigned());
    let flags = u64::from((libc::O_TRUNC | libc::O_RDONLY).cast_unsigned());
    rules.insert(libc::SYS_openat, vec![one(2, SeccompCmpOp::MaskedEq(mask), flags)?]);
    #[cfg(target_arch = "x86_64")]
    rules.insert(libc::SYS_open, vec![one(1, SeccompCmpOp::MaskedEq(mask), flags)?]);
    Some(())
}

/// `setrlimit`, whose number the C library's headers lack on some processors.
#[cfg(target_arch = "x86_64")]
const SETRLIMIT: c_long = libc::SYS_setrlimit;
#[cfg(not(target_arch = "x86_64"))]
const SETRLIMIT: c_long = 164;

fn condition(arg: u8, op: SeccompCmpOp, value: u64) -> Option<SeccompCondition> {
    SeccompCondition::new(arg, SeccompCmpArgLen::Dword, op, value).ok()
}

fn all(conditions: &[SeccompCondition]) -> Option<SeccompRule> {
    SeccompRule::new(conditions.to_vec()).ok()
}

fn one(arg: u8, op: SeccompCmpOp, value: u64) -> Option<SeccompRule> {
    all(&[condition(arg, op, value)?])
}

fn any_of(arg: u8, values: &[u64]) -> Option<Vec<SeccompRule>> {
    values.iter().map(|&value| one(arg, SeccompCmpOp::Eq, value)).collect()
}

fn any_flag(arg: u8, flags: &[u64]) -> Option<Vec<SeccompRule>> {
    flags.iter().map(|&flag| one(arg, SeccompCmpOp::MaskedEq(flag), flag)).collect()
}

/// The program that stops at `connect` until the Engine has answered. Loaded last and with a listener; what the
/// other programs refuse stays refused. 32-bit calls and x32 have been refused before.
pub fn asks_about_connect() -> BpfProgram {
    use seccompiler::sock_filter;
    const LOAD_WORD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const JUMP_EQ: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    vec![
        sock_filter { code: LOAD_WORD, jt: 0, jf: 0, k: 0 },
        sock_filter { code: JUMP_EQ, jt: 0, jf: 1, k: libc::SYS_connect as u32 },
        sock_filter { code: RETURN, jt: 0, jf: 0, k: libc::SECCOMP_RET_USER_NOTIF },
        sock_filter { code: RETURN, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW },
    ]
}

/// x32 calls carry bit 30 in their number and would pass every comparison above.
#[cfg(target_arch = "x86_64")]
fn refuse_x32() -> BpfProgram {
    use seccompiler::sock_filter;
    const LOAD_WORD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const JUMP_GE: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    const X32_BIT: u32 = 0x4000_0000;
    let refuse = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned();
    vec![
        sock_filter { code: LOAD_WORD, jt: 0, jf: 0, k: 0 },
        sock_filter { code: JUMP_GE, jt: 0, jf: 1, k: X32_BIT },
        sock_filter { code: RETURN, jt: 0, jf: 0, k: refuse },
        sock_filter { code: RETURN, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_programs_compile_for_this_processor_and_every_task() {
        for unix in [UnixSockets::Confined, UnixSockets::ListenOnly] {
            for internet in [Internet::Off, Internet::Own, Internet::Lent] {
                for (stop_truncation, shield) in [(false, None), (true, Some(4711))] {
                    let programs = programs(Task { unix, internet, stop_truncation, shield }).unwrap();
                    assert!(programs.len() >= 2);
                    assert!(programs.iter().all(|p| !p.is_empty() && p.len() < 4096));
                }
            }
        }
    }
}
