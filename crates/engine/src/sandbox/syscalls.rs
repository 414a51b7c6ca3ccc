//! The seccomp part: which system calls a child must not make. Built once, before any fork.
//!
//! A deny list, because an allow list breaks honest programs with every libc. Denied calls answer EPERM;
//! `clone3` answers ENOSYS (its flags lie behind a pointer that a filter cannot read) so that libc falls
//! back to `clone`, whose flags are checked. System calls of other ABIs of the same processor are refused.

use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};
use std::collections::BTreeMap;

/// May a child connect to unix sockets by path?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnixSockets {
    /// Yes: landlock confines them to paths the child may use (ABI 9).
    Confined,
    /// No connecting at all: the kernel cannot confine them, and a socket such as Docker's is a way out.
    ListenOnly,
}

/// Refused whatever the arguments.
const DENIED: &[c_long] = &[
    // file systems and roots
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_open_by_handle_at,
    libc::SYS_quotactl,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    // kernel
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_acct,
    libc::SYS_syslog,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    // keys
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    // other processes
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_setns,
    libc::SYS_migrate_pages,
    libc::SYS_move_pages,
    // System V objects outlive every process, and with it the turn
    libc::SYS_shmget,
    libc::SYS_msgget,
    libc::SYS_semget,
    // machine
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_vhangup,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_kexec_file_load,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
];

/// Refused for any process but the caller itself: the first argument is a process id, 0 is the caller. With
/// `prlimit64` a child could set the Engine's own limits and so end it.
const ONLY_SELF: &[c_long] = &[
    libc::SYS_prlimit64,
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
/// ioctls that put characters into somebody's terminal.
const TERMINAL_INJECTION: [u64; 2] = [libc::TIOCSTI, 0x541C /* TIOCLINUX */];
/// The type part of the second argument of `socket`, without flags.
const SOCKET_TYPE_MASK: u64 = 0xf;

/// The programs to load, in this order. `None` when this processor is not supported.
pub fn programs(unix: UnixSockets) -> Option<Vec<BpfProgram>> {
    let mut programs = vec![compile(refused_rules(unix)?, libc::EPERM)?];
    programs.push(compile(BTreeMap::from([(libc::SYS_clone3, Vec::new())]), libc::ENOSYS)?);
    #[cfg(target_arch = "x86_64")]
    programs.push(refuse_x32());
    Some(programs)
}

fn compile(rules: BTreeMap<i64, Vec<SeccompRule>>, errno: libc::c_int) -> Option<BpfProgram> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).ok()?;
    let errno = u32::try_from(errno).ok()?;
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(errno), arch).ok()?;
    BpfProgram::try_from(filter).ok()
}

fn refused_rules(unix: UnixSockets) -> Option<BTreeMap<i64, Vec<SeccompRule>>> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = DENIED.iter().map(|&nr| (nr, Vec::new())).collect();
    for &nr in ONLY_SELF {
        rules.insert(nr, vec![one(0, SeccompCmpOp::Ne, 0)?]);
    }
    for (nr, process) in ONLY_SELF_OF_KIND {
        rules.insert(nr, vec![one(0, SeccompCmpOp::Ne, process)?, one(1, SeccompCmpOp::Ne, 0)?]);
    }
    let flags: Vec<u64> = NAMESPACE_FLAGS.iter().map(|&f| u64::from(f.cast_unsigned())).collect();
    rules.insert(libc::SYS_clone, any_flag(0, &flags)?);
    let unshare: Vec<u64> = flags.iter().copied().chain([CLONE_NEWTIME]).collect();
    rules.insert(libc::SYS_unshare, any_flag(0, &unshare)?);
    let injections =
        TERMINAL_INJECTION.iter().map(|&cmd| one(1, SeccompCmpOp::Eq, cmd)).collect::<Option<Vec<_>>>()?;
    rules.insert(libc::SYS_ioctl, injections);
    let mut sockets = vec![one(0, SeccompCmpOp::Ne, libc::AF_UNIX as u64)?];
    if unix == UnixSockets::ListenOnly {
        // A datagram socket reaches a path without `connect`.
        sockets.push(one(1, SeccompCmpOp::MaskedEq(SOCKET_TYPE_MASK), libc::SOCK_DGRAM as u64)?);
        rules.insert(libc::SYS_connect, Vec::new());
    }
    rules.insert(libc::SYS_socket, sockets.clone());
    rules.insert(libc::SYS_socketpair, sockets);
    Some(rules)
}

fn one(arg: u8, op: SeccompCmpOp, value: u64) -> Option<SeccompRule> {
    let condition = SeccompCondition::new(arg, SeccompCmpArgLen::Dword, op, value).ok()?;
    SeccompRule::new(vec![condition]).ok()
}

fn any_flag(arg: u8, flags: &[u64]) -> Option<Vec<SeccompRule>> {
    flags.iter().map(|&flag| one(arg, SeccompCmpOp::MaskedEq(flag), flag)).collect()
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
    fn the_programs_compile_for_this_processor() {
        for unix in [UnixSockets::Confined, UnixSockets::ListenOnly] {
            let programs = programs(unix).unwrap();
            assert!(programs.len() >= 2);
            assert!(programs.iter().all(|p| !p.is_empty() && p.len() < 4096));
        }
    }
}
