//! How a process is known to be ours: a number in its limits that it can neither change nor shed.
//!
//! A process may leave its session, its group and its parent, and clear its environment, but its limits go
//! with it through `fork` and `exec`. RLIMIT_RTTIME is one that matters to no ordinary program (it bounds
//! real-time scheduling, which needs a privilege no child has), so its value is free to say "brain such and
//! such, task such and such". The seccomp filter refuses to change it, and `/proc/<pid>/limits` shows it even
//! for a process whose environment is closed. Where seccomp is missing a hostile process can change it; then
//! the environment is still looked at.
//!
//! The invariant: the mark depends on the directories' paths only, so that the next Engine process knows it.

use sha2::{Digest, Sha256};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// No ordinary limit has this bit, and the kernel takes the number as what it is: 2^61 µs are 73,000 years.
const OURS: u64 = 1 << 61;
/// Bits that say which directory of scratch directories, i.e. which brain.
const BASE_BITS: u32 = 28;

/// Stands for a trial where a task's number would.
const TRIAL: u64 = 0;

/// What the processes of one task, or of one brain, carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark(u64);

impl Mark {
    /// Of the task whose scratch directory this is (a canonical path).
    pub fn of_task(scratch: &Path) -> Self {
        let base = scratch.parent().map_or(0, base_number);
        Self(OURS | (base << 32) | (number(scratch) & 0xffff_ffff))
    }

    /// Of a trial of the sandbox by an Engine whose tasks have their scratch directories in `base`.
    pub fn of_trial(base: &Path) -> Self {
        Self(OURS | (base_number(base) << 32) | TRIAL)
    }

    /// The value of the limit.
    pub fn value(self) -> u64 {
        self.0
    }

    /// The mark a process carries; `None` when it is gone or not ours.
    pub fn of_process(pid: i32) -> Option<Self> {
        parse(&fs::read_to_string(format!("/proc/{pid}/limits")).ok()?)
    }

    /// True when the task's scratch directory lies in `base`.
    pub fn is_below(self, base: &Path) -> bool {
        self.0 >> 32 == (OURS >> 32) | base_number(base)
    }
}

fn base_number(base: &Path) -> u64 {
    number(base) & ((1 << BASE_BITS) - 1)
}

fn number(path: &Path) -> u64 {
    let digest = Sha256::digest(path.as_os_str().as_bytes());
    digest.iter().take(8).fold(0, |sum, &byte| (sum << 8) | u64::from(byte))
}

/// The hard limit of the line `Max realtime timeout  <soft>  <hard>  us`, when it is one of ours.
fn parse(limits: &str) -> Option<Mark> {
    let line = limits.lines().find_map(|l| l.strip_prefix("Max realtime timeout"))?;
    let hard: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    (hard & OURS != 0 && hard >> 62 == 0).then_some(Mark(hard))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_differ_and_their_brain_is_seen() {
        let base = Path::new("/data/scratch");
        let (a, b) = (Mark::of_task(&base.join("a")), Mark::of_task(&base.join("b")));
        assert_ne!(a, b);
        assert!(a.is_below(base) && b.is_below(base));
        assert!(!a.is_below(Path::new("/data/scratch-2")) && !a.is_below(Path::new("/")));
        assert_eq!(Mark::of_task(&base.join("a")), a, "the next process computes the same");
        let trial = Mark::of_trial(base);
        assert!(trial.is_below(base) && trial != a && !trial.is_below(Path::new("/data")));
    }

    #[test]
    fn only_our_numbers_are_marks() {
        let line = |hard: &str| format!("Limit\nMax realtime timeout      1  {hard}   us        \n");
        let mark = Mark::of_task(Path::new("/data/scratch/a"));
        assert_eq!(parse(&line(&mark.value().to_string())), Some(mark));
        for other in ["unlimited", "1000000", "18446744073709551614"] {
            assert_eq!(parse(&line(other)), None, "{other}");
        }
        assert_eq!(Mark::of_process(std::process::id().cast_signed()), None, "the Engine itself has none");
    }
}
