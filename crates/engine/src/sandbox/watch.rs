//! A bound on what running commands pile up together, where the kernel only bounds each process.
//!
//! While a command of a task runs, the sum of its scratch directory and the free space of the disks it may write
//! are looked at again and again; beyond a limit its group is killed and told why. Memory and processes, which
//! control groups bound exactly where they are delegated, are looked at in [`super::memory_watch`] everywhere
//! else.
//!
//! The invariant: a command that adds nothing is never killed here, so that cleaning up stays possible.

use super::groups::{Group, ProcessGroups};
use super::memory_watch;
use super::workspace::Workspace;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

/// How often it is looked. Longer lets a command write more before it is seen; shorter costs a walk through
/// the scratch directory more often.
const EVERY: Duration = Duration::from_millis(500);
/// Bytes all files of a task's scratch directory may take together. Larger endangers the brain on the same
/// disk; smaller breaks builds that unpack into TMPDIR.
pub const SCRATCH_MAX_BYTES: u64 = 4 << 30;
/// Entries counted in one look. A directory with more counts as full: files without content fill a disk's
/// table of files just as well.
const ENTRIES_MAX: usize = 200_000;
/// Free space below which a command that is writing ends. Smaller and the brain may be refused its next page;
/// larger makes small disks useless.
const FREE_MIN_BYTES: u64 = 64 << 20;

/// What may be piled up.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// [`SCRATCH_MAX_BYTES`], less in tests.
    pub scratch_bytes: u64,
    /// SANDBOX_MAX_PROCESSES where the kernel does not apply it (a root Engine).
    pub processes: Option<u64>,
    /// SANDBOX_MEMORY_MB in bytes, where no control group applies it.
    pub memory_bytes: Option<u64>,
}

/// Why a group was ended, for the person who reads its output.
pub(super) type Reason = Arc<Mutex<Option<String>>>;

/// Watches a group until it has ended. Cheap until the first look.
pub(super) fn start(
    group: &Arc<Group>,
    groups: &Arc<ProcessGroups>,
    workspace: &Workspace,
    bounds: Bounds,
) -> Reason {
    let reason = Reason::default();
    let Some(scratch) = workspace.scratch().map(Path::to_owned) else { return reason };
    if bounds.processes.is_some() || bounds.memory_bytes.is_some() {
        memory_watch::start(group, groups, scratch.clone(), bounds, &reason);
    }
    let roots: Vec<PathBuf> = workspace.writable().map(Path::to_owned).collect();
    let (group, told) = (Arc::downgrade(group), Arc::clone(&reason));
    tokio::spawn(async move {
        let mut start = None;
        loop {
            let (dir, places) = (scratch.clone(), roots.clone());
            let looked = tokio::task::spawn_blocking(move || look(&dir, &places)).await;
            let Ok(now) = looked else { return };
            if let Some(text) = excess(*start.get_or_insert(now), now, bounds)
                && let Some(group) = group.upgrade()
            {
                *told.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
                group.kill();
                return;
            }
            tokio::time::sleep(EVERY).await;
            if !is_running(&group) {
                return;
            }
        }
    });
    reason
}

fn is_running(group: &Weak<Group>) -> bool {
    group.upgrade().is_some_and(|group| !group.is_over())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Look {
    bytes: u64,
    entries: usize,
    free: u64,
}

fn excess(start: Look, now: Look, bounds: Bounds) -> Option<String> {
    const MB: u64 = 1 << 20;
    if now.bytes > bounds.scratch_bytes && now.bytes > start.bytes {
        return Some(format!(
            "its files in $TMPDIR take more than {} MB together",
            bounds.scratch_bytes / MB
        ));
    }
    if now.entries > ENTRIES_MAX && now.entries > start.entries {
        return Some(format!("there are more than {ENTRIES_MAX} files in $TMPDIR"));
    }
    if now.free < FREE_MIN_BYTES && now.free < start.free {
        return Some(format!("the disk has less than {} MB left", FREE_MIN_BYTES / MB));
    }
    None
}

fn look(scratch: &Path, roots: &[PathBuf]) -> Look {
    let mut seen = Look { bytes: 0, entries: 0, free: free(roots) };
    let mut pending = vec![scratch.to_owned()];
    while let Some(dir) = pending.pop() {
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        for entry in entries.flatten() {
            seen.entries += 1;
            if seen.entries > ENTRIES_MAX {
                return seen;
            }
            let Ok(meta) = entry.metadata() else { continue };
            // What is on the disk, not what a sparse file pretends.
            seen.bytes = seen.bytes.saturating_add(meta.blocks().saturating_mul(512));
            if meta.is_dir() {
                pending.push(entry.path());
            }
        }
    }
    seen
}

/// The free space of the fullest disk among these.
fn free(roots: &[PathBuf]) -> u64 {
    roots.iter().filter_map(|root| brain::filesystem::free_bytes(root)).min().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { scratch_bytes: 1000, processes: None, memory_bytes: None };

    fn at(bytes: u64, free: u64) -> Look {
        Look { bytes, entries: 1, free }
    }

    #[test]
    fn only_what_a_command_adds_is_held_against_it() {
        let plenty = FREE_MIN_BYTES * 2;
        let verdict = |start, now| excess(start, now, BOUNDS).is_some();
        assert!(verdict(at(0, plenty), at(1001, plenty)));
        assert!(!verdict(at(0, plenty), at(1000, plenty)));
        assert!(!verdict(at(2000, plenty), at(1500, plenty)), "it is cleaning up");
        assert!(verdict(at(0, plenty), at(0, FREE_MIN_BYTES - 1)));
        assert!(!verdict(at(0, 10), at(0, 10)), "the disk was full before");
    }

    #[test]
    fn a_look_counts_what_is_on_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        fs::write(dir.path().join("sub/a"), vec![1; 100_000]).unwrap();
        fs::File::create(dir.path().join("sparse")).unwrap().set_len(1 << 40).unwrap();
        let seen = look(dir.path(), &[dir.path().to_owned()]);
        assert!((100_000..1_000_000).contains(&seen.bytes), "{seen:?}");
        assert_eq!(seen.entries, 3);
        assert!(seen.free > 0 && seen.free < u64::MAX);
    }
}
