//! A task's private directory: made, marked as used, and removed with whatever a command left in it.
//!
//! Only for directories of tasks that have no process: nothing here races with a command.
//!
//! The invariant: nothing outside the directory is touched, whatever links lie in it.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::time::SystemTime;

/// Makes it, when it is not there, and says that it is in use from now: how long a task has been idle is read
/// from the directory's time.
pub fn make(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    // A command may have closed it to itself, and to us.
    fs::set_permissions(dir, Permissions::from_mode(0o700))?;
    File::open(dir)?.set_modified(SystemTime::now())
}

/// Removes it. Directories that a command closed are opened first.
pub fn remove(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            open_up(dir)?;
            fs::remove_dir_all(dir)
        }
        other => other,
    }
}

fn open_up(dir: &Path) -> io::Result<()> {
    fs::set_permissions(dir, Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        // The entry itself, not what a link leads to.
        if entry.file_type()?.is_dir() {
            open_up(&entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::time::Duration;

    #[test]
    fn what_a_command_closed_is_removed_and_what_a_link_leads_to_is_not() {
        let base = tempfile::tempdir().unwrap();
        let (dir, other) = (base.path().join("task"), base.path().join("other"));
        make(&dir).unwrap();
        fs::create_dir_all(dir.join("closed/deep")).unwrap();
        fs::create_dir(&other).unwrap();
        fs::write(other.join("kept"), "x").unwrap();
        symlink(&other, dir.join("link")).unwrap();
        fs::set_permissions(dir.join("closed/deep"), Permissions::from_mode(0o000)).unwrap();
        fs::set_permissions(dir.join("closed"), Permissions::from_mode(0o000)).unwrap();
        remove(&dir).unwrap();
        assert!(!dir.exists() && other.join("kept").exists());
    }

    #[test]
    fn using_it_again_makes_it_new_again() {
        let base = tempfile::tempdir().unwrap();
        let dir = base.path().join("task");
        make(&dir).unwrap();
        File::open(&dir).unwrap().set_modified(SystemTime::now() - Duration::from_secs(7200)).unwrap();
        make(&dir).unwrap();
        let age = fs::metadata(&dir).unwrap().modified().unwrap().elapsed().unwrap_or_default();
        assert!(age < Duration::from_secs(60));
        assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
    }
}
