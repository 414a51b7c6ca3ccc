//! Whether a child can confine itself here, found out by letting one try.
//!
//! The invariant: nothing is ever run; the child's program does not exist.

use super::child::{Confinement, FILE_WORK};
use super::{door, groups, syscalls};
use seccompiler::BpfProgram;
use std::io;
use std::os::fd::OwnedFd;

/// A program that cannot exist: starting it shows whether a child can confine itself, and runs nothing.
const PROBE: &str = "/proc/self/no-such-program";
/// Tries the programs on a child that cannot exist: getting as far as "no such file" means they loaded.
pub(super) fn can_filter(programs: &[BpfProgram]) -> bool {
    loads(programs, None)
}

/// The same with the program that asks. A container runtime that listens itself takes the only place there is.
pub(super) fn can_ask(programs: &[BpfProgram]) -> bool {
    // what is handed out is dropped unseen; the child has ended by then
    door::pair().is_ok_and(|(_end, inner)| loads(programs, Some((syscalls::asks_about_connect(), inner))))
}

fn loads(programs: &[BpfProgram], asks: Option<(BpfProgram, OwnedFd)>) -> bool {
    let mut probe = std::process::Command::new(PROBE);
    let confinement = Confinement {
        parent: Some(std::process::id()),
        limits: Vec::new(),
        capabilities: Some(FILE_WORK),
        group: None,
        ruleset: None,
        programs: programs.to_vec(),
        asks,
        handed_over: Vec::new(),
    };
    confinement.install(&mut probe);
    groups::spawn(&mut probe).is_err_and(|e| e.kind() == io::ErrorKind::NotFound)
}
