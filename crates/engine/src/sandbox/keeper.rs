//! Mode and owner of the files commands must not touch, put back when a command changed them.
//!
//! Landlock does not see `chmod` and `chown` by path, and neither does a filter: without a mount namespace a
//! command of the Engine's user can close the brain to the Engine, or open it to others, although it cannot
//! read or write it. So what was there before the first command is remembered, and compared before and after
//! every later one. It is put back, and an operator told. Times (`utime`) are not: nothing depends on them.
//!
//! The invariant: only a file that is still the same one is changed, and never through a link.

use super::workspace::Workspace;
use rustix::fs::{Mode, OFlags};
use std::collections::HashMap;
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

/// Files remembered. A handful per brain, and its -wal and -shm anew after each time SQLite made them; larger
/// only holds memory, smaller stops remembering.
const KEPT_MAX: usize = 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Kept {
    /// Device, number, and when it was made: numbers are used again.
    file: (u64, u64, Option<SystemTime>),
    mode: u32,
    owner: (u32, u32),
}

impl Kept {
    fn of(meta: &fs::Metadata) -> Self {
        let file = (meta.dev(), meta.ino(), meta.created().ok());
        Self { file, mode: meta.mode() & 0o7777, owner: (meta.uid(), meta.gid()) }
    }
}

/// What is remembered.
#[derive(Debug, Default)]
pub(super) struct Keeper {
    kept: Mutex<HashMap<PathBuf, Kept>>,
}

impl Keeper {
    /// Looks at everything sealed, its directories and the read-only places; returns what it had to put back.
    pub(super) fn look(&self, workspace: &Workspace) -> Vec<PathBuf> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        // Directories first: a closed one hides what is in it.
        let mut paths: Vec<PathBuf> = workspace.guarded();
        paths.sort();
        paths.dedup();
        let mut repaired = Vec::new();
        for path in paths {
            let Ok(meta) = fs::symlink_metadata(&path) else { continue };
            let now = Kept::of(&meta);
            match kept.get(&path) {
                Some(before) if before.file == now.file && *before != now => {
                    if put_back(&path, *before).is_ok() {
                        repaired.push(path);
                    }
                }
                Some(before) if before.file == now.file => {}
                Some(_) | None if meta.is_symlink() || kept.len() >= KEPT_MAX => {}
                // New, or made anew by the Engine.
                Some(_) | None => {
                    kept.insert(path, now);
                }
            }
        }
        repaired
    }
}

fn put_back(path: &Path, before: Kept) -> std::io::Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = fs::File::from(rustix::fs::open(path, flags, Mode::empty())?);
    if Kept::of(&file.metadata()?).file != before.file {
        return Ok(());
    }
    let through = format!("/proc/self/fd/{}", file.as_raw_fd());
    let (owner, group) = before.owner;
    if let Err(e) = std::os::unix::fs::chown(&through, Some(owner), Some(group))
        && file.metadata()?.uid() != owner
    {
        return Err(e);
    }
    // After the owner: changing it clears bits.
    fs::set_permissions(&through, fs::Permissions::from_mode(before.mode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_mode_is_put_back_and_a_new_file_is_none_of_its_business() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().canonicalize().unwrap();
        let (brain, work) = (base.join("data/brain"), base.join("work"));
        fs::create_dir_all(base.join("data")).unwrap();
        fs::create_dir(&work).unwrap();
        fs::write(&brain, "b").unwrap();
        let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        set(&brain, 0o600);
        set(&base.join("data"), 0o700);
        let workspace = Workspace::new([work]).unwrap().seal_brain(&brain);
        let keeper = Keeper::default();
        assert_eq!(keeper.look(&workspace), Vec::<PathBuf>::new());
        set(&brain, 0o000);
        set(&base.join("data"), 0o755);
        assert_eq!(keeper.look(&workspace), [base.join("data"), brain.clone()]);
        assert_eq!((mode(&brain), mode(&base.join("data"))), (0o600, 0o700));
        assert_eq!(keeper.look(&workspace), Vec::<PathBuf>::new());
        fs::remove_file(&brain).unwrap();
        fs::write(&brain, "another").unwrap();
        set(&brain, 0o640);
        assert_eq!(keeper.look(&workspace), Vec::<PathBuf>::new());
        assert_eq!(mode(&brain), 0o640);
    }
}
