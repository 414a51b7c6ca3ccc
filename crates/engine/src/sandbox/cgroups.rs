//! Control groups (version 2), where a part of the tree is delegated to the Engine: exact bounds on memory and
//! processes of one launch together, and one write that ends all of it.
//!
//! The kernel lets a group have either members or limited subgroups. So the Engine moves itself into a
//! subgroup of its own group, and every launch gets one beside it. Where the tree is not writable (ordinary
//! containers), has no controllers (hybrid systems) or holds other processes, it is left as it is.
//!
//! The invariant: nothing is changed in the tree unless all of it works.

use super::Limits;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Where version 2 is mounted: alone, and beside version 1.
const MOUNTS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
/// The subgroup of the Engine itself.
const OWN: &str = "september-engine";
/// What the names of launches begin with; what an earlier process left is known by it.
const LAUNCH: &str = "launch-";
/// The controllers that are needed.
const CONTROLLERS: [&str; 2] = ["memory", "pids"];

/// A part of the tree that is ours.
#[derive(Debug)]
pub struct Cgroups {
    base: PathBuf,
    next: AtomicU64,
}

impl Cgroups {
    /// Takes over the Engine's own group, when that is possible.
    pub fn detect() -> Option<Self> {
        let own = fs::read_to_string("/proc/self/cgroup").ok()?;
        let path = own.lines().find_map(|line| line.strip_prefix("0::"))?;
        let relative = path.trim_start_matches('/');
        let base = MOUNTS.iter().map(|m| Path::new(m).join(relative)).find(|d| has_controllers(d))?;
        Self::take_over(&base, std::process::id())
    }

    /// Moves process `engine`, the only member of `base`, into a subgroup and hands the controllers down.
    fn take_over(base: &Path, engine: u32) -> Option<Self> {
        let members = fs::read_to_string(base.join("cgroup.procs")).ok()?;
        let was_moved = base.file_name().is_some_and(|name| name == OWN);
        // A restart of the program within its process finds itself moved already.
        let base = if was_moved { base.parent()? } else { base };
        if !was_moved && members.lines().any(|line| line.trim() != engine.to_string()) {
            return None;
        }
        let own = base.join(OWN);
        let moved = fs::create_dir(&own)
            .or_else(|e| if e.kind() == io::ErrorKind::AlreadyExists { Ok(()) } else { Err(e) })
            .and_then(|()| fs::write(own.join("cgroup.procs"), engine.to_string()))
            .and_then(|()| fs::write(base.join("cgroup.subtree_control"), "+memory +pids"));
        if moved.is_err() {
            // Back to how it was; whatever of this fails was not done either.
            let _ = fs::write(base.join("cgroup.procs"), engine.to_string());
            let _ = fs::remove_dir(&own);
            return None;
        }
        let taken = Self { base: base.to_owned(), next: AtomicU64::new(0) };
        taken.sweep();
        Some(taken)
    }

    /// Removes the groups of launches nobody holds any more.
    fn sweep(&self) {
        for entry in fs::read_dir(&self.base).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(LAUNCH) {
                end(&entry.path());
            }
        }
    }

    /// A group for one launch, within these limits.
    pub fn make(&self, limits: Limits) -> io::Result<Cgroup> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let dir = self.base.join(format!("{LAUNCH}{}-{number}", std::process::id()));
        fs::create_dir(&dir)?;
        let made = Cgroup { dir };
        let bytes = limits.memory_mb.saturating_mul(1 << 20);
        made.set("memory.max", &bytes.to_string())?;
        made.set("pids.max", &limits.max_processes.to_string())?;
        // Not in every kernel: no way around the bound through the swap, and all of it ends rather than a part.
        let _ = made.set("memory.swap.max", "0");
        let _ = made.set("memory.oom.group", "1");
        Ok(made)
    }
}

/// The group of one launch. Dropping it ends whatever is in it.
#[derive(Debug)]
pub struct Cgroup {
    dir: PathBuf,
}

impl Cgroup {
    fn set(&self, file: &str, value: &str) -> io::Result<()> {
        fs::write(self.dir.join(file), value)
    }

    /// The file into which a child writes `0` to become a member.
    pub fn members(&self) -> io::Result<OwnedFd> {
        Ok(File::options().write(true).open(self.dir.join("cgroup.procs"))?.into())
    }

    /// Ends every member, those that left group and session included.
    pub fn kill(&self) {
        // Older kernels (before 5.14) have no such file; the mark finds the members then.
        let _ = self.set("cgroup.kill", "1");
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        end(&self.dir);
    }
}

/// Kills and removes a group. One whose last member is still on its way out stays, and goes with the next sweep.
fn end(dir: &Path) {
    let _ = fs::write(dir.join("cgroup.kill"), "1");
    let _ = fs::remove_dir(dir);
}

fn has_controllers(dir: &Path) -> bool {
    fs::read_to_string(dir.join("cgroup.controllers"))
        .is_ok_and(|text| CONTROLLERS.iter().all(|wanted| text.split_whitespace().any(|has| has == *wanted)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory that looks like a delegated group; the kernel makes these files, here we do.
    fn tree(members: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("cgroup.controllers"), "cpu memory pids\n").unwrap();
        fs::write(dir.path().join("cgroup.procs"), members).unwrap();
        fs::write(dir.path().join("cgroup.subtree_control"), "").unwrap();
        dir
    }

    #[test]
    fn a_delegated_group_is_taken_over_and_launches_are_bounded() {
        let dir = tree("4711\n");
        assert!(has_controllers(dir.path()));
        let groups = Cgroups::take_over(dir.path(), 4711).unwrap();
        let read = |path: PathBuf| fs::read_to_string(path).unwrap();
        assert_eq!(read(dir.path().join(OWN).join("cgroup.procs")), "4711");
        assert_eq!(read(dir.path().join("cgroup.subtree_control")), "+memory +pids");
        let limits = Limits { memory_mb: 64, max_processes: 7, ..Limits::default() };
        let group = groups.make(limits).unwrap();
        assert_eq!(read(group.dir.join("memory.max")), (64 << 20).to_string());
        assert_eq!(read(group.dir.join("pids.max")), "7");
        let second = groups.make(limits).unwrap();
        assert_ne!(group.dir, second.dir);
        // taken over once more, as after a restart: what was left is ended, the Engine's own group is found
        assert!(Cgroups::take_over(&dir.path().join(OWN), 4711).is_some());
        assert_eq!(read(second.dir.join("cgroup.kill")), "1");
    }

    #[test]
    fn a_group_with_other_members_or_without_controllers_is_left_alone() {
        let dir = tree("1\n4711\n");
        assert!(Cgroups::take_over(dir.path(), 4711).is_none());
        assert!(!dir.path().join(OWN).exists());
        fs::write(dir.path().join("cgroup.controllers"), "cpu\n").unwrap();
        assert!(!has_controllers(dir.path()));
    }
}
