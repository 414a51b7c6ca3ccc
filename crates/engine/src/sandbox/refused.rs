//! The system calls a child must not make, in groups, each with its reason. Data only; [`super::syscalls`]
//! turns it into filters.
//!
//! Not refused, on purpose: `memfd_create` with `execveat` (a child may run whatever it writes into its own
//! workspace, so running it from memory gains nothing), `seccomp` and `landlock_*` (a program may confine
//! itself further; filters only add up), and `chmod`, `chown`, `utimensat` by path (a filter cannot see which
//! path is meant, and honest work needs them; see [`super::keeper`] for what is done about it).
//!
//! The invariant: a call is in one group only, and what stands here is refused whatever its arguments.

use libc::c_long;

/// Calls that are refused together, for one reason.
#[derive(Debug, Clone, Copy)]
pub struct Group {
    /// Why, for people.
    pub reason: &'static str,
    /// Their numbers on this processor.
    pub calls: &'static [c_long],
}

/// Every group.
pub const GROUPS: &[Group] = &[
    Group {
        reason: "change what the file system looks like, and with it what a path means",
        calls: &[
            libc::SYS_mount,
            libc::SYS_umount2,
            libc::SYS_pivot_root,
            libc::SYS_chroot,
            libc::SYS_move_mount,
            libc::SYS_open_tree,
            OPEN_TREE_ATTR,
            libc::SYS_fsopen,
            libc::SYS_fsconfig,
            libc::SYS_fsmount,
            libc::SYS_fspick,
            libc::SYS_mount_setattr,
            libc::SYS_swapon,
            libc::SYS_swapoff,
            libc::SYS_quotactl,
            QUOTACTL_FD,
        ],
    },
    Group {
        reason: "reach a file without its path, past every rule about paths",
        calls: &[libc::SYS_open_by_handle_at, libc::SYS_name_to_handle_at, FILE_SETATTR],
    },
    Group {
        reason: "watch a whole file system, or learn how the host's are mounted",
        calls: &[
            libc::SYS_fanotify_init,
            libc::SYS_fanotify_mark,
            libc::SYS_lookup_dcookie,
            STATMOUNT,
            LISTMOUNT,
        ],
    },
    Group {
        reason: "load code into the kernel, or replace the kernel",
        calls: &[
            libc::SYS_init_module,
            libc::SYS_finit_module,
            libc::SYS_delete_module,
            libc::SYS_kexec_load,
            #[cfg(not(target_arch = "riscv64"))]
            libc::SYS_kexec_file_load,
            libc::SYS_reboot,
        ],
    },
    Group {
        reason: "parts of the kernel in which holes were found again and again, and that no tool needs",
        calls: &[
            libc::SYS_bpf,
            libc::SYS_perf_event_open,
            libc::SYS_userfaultfd,
            libc::SYS_remap_file_pages,
            #[cfg(target_arch = "x86_64")]
            libc::SYS_modify_ldt,
        ],
    },
    Group {
        reason: "make any other call without this filter seeing it",
        calls: &[libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register],
    },
    Group {
        reason: "keys of the kernel's keyrings are shared by all processes of the user",
        calls: &[libc::SYS_add_key, libc::SYS_request_key, libc::SYS_keyctl],
    },
    Group {
        reason: "read, write, steer or end another process, or take its open files",
        calls: &[
            libc::SYS_ptrace,
            libc::SYS_process_vm_readv,
            libc::SYS_process_vm_writev,
            libc::SYS_process_madvise,
            PROCESS_MRELEASE,
            libc::SYS_pidfd_getfd,
            libc::SYS_kcmp,
            libc::SYS_migrate_pages,
            libc::SYS_move_pages,
        ],
    },
    Group { reason: "join another process's namespaces", calls: &[libc::SYS_setns] },
    Group {
        reason: "make objects that outlive every process, and with them the turn",
        calls: &[libc::SYS_shmget, libc::SYS_msgget, libc::SYS_semget, libc::SYS_mq_open],
    },
    Group { reason: "memory that no limit counts and no operator can look into", calls: &[MEMFD_SECRET] },
    Group {
        reason: "the machine itself: its name, clock, terminals, ports and log",
        calls: &[
            libc::SYS_sethostname,
            libc::SYS_setdomainname,
            libc::SYS_settimeofday,
            libc::SYS_clock_settime,
            libc::SYS_clock_adjtime,
            libc::SYS_adjtimex,
            libc::SYS_vhangup,
            libc::SYS_acct,
            libc::SYS_syslog,
            libc::SYS_nfsservctl,
            #[cfg(target_arch = "x86_64")]
            libc::SYS_iopl,
            #[cfg(target_arch = "x86_64")]
            libc::SYS_ioperm,
        ],
    },
];

// Numbers that the C library's headers do not have everywhere yet. From 424 on they are the same on all
// processors (asm-generic/unistd.h).
const QUOTACTL_FD: c_long = 443;
const MEMFD_SECRET: c_long = 447;
const PROCESS_MRELEASE: c_long = 448;
const STATMOUNT: c_long = 457;
const LISTMOUNT: c_long = 458;
const OPEN_TREE_ATTR: c_long = 467;
const FILE_SETATTR: c_long = 469;

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_call_is_refused_once_and_for_a_reason() {
        let mut seen = BTreeSet::new();
        for group in GROUPS {
            assert!(!group.reason.is_empty() && !group.calls.is_empty());
            for call in group.calls {
                assert!(seen.insert(call), "{call} stands in two groups");
            }
        }
    }
}
