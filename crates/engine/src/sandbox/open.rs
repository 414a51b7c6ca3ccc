//! Opening and replacing files by resolved path, in the engine's own process, against a hostile neighbour.
//!
//! A background command may swap a directory for a symlink between a check and an open. So every
//! component is opened without following links, and a file is looked at through an `O_PATH` descriptor
//! before it is opened for real. The last point matters twice: closing an ordinary descriptor of the
//! brain would drop SQLite's locks on it, closing an `O_PATH` one does not.
//!
//! The invariant: what is opened is exactly the path that was checked, and it is not sealed.

use super::workspace::Workspace;
use rustix::fs::{AtFlags, Mode, OFlags};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Component, Path};

/// Mode of files the tools make: people and their other programs read them, nobody else writes them.
pub const NEW_FILE_MODE: u32 = 0o644;
/// Mode of directories the tools make.
pub const NEW_DIR_MODE: u32 = 0o755;

/// Opens a regular file for reading. `path` comes from [`Workspace::resolve`].
pub fn read(workspace: &Workspace, path: &Path) -> io::Result<File> {
    reopen(workspace, path, OFlags::RDONLY)
}

/// Opens an existing regular file for appending.
pub fn append(workspace: &Workspace, path: &Path) -> io::Result<File> {
    reopen(workspace, path, OFlags::WRONLY | OFlags::APPEND)
}

/// Replaces or makes a file: temporary file beside it, fsync, rename, fsync of the directory. Parents are
/// made. Returns true when the file is new.
pub fn replace(workspace: &Workspace, path: &Path, content: &[u8]) -> io::Result<bool> {
    let (dir, name) = parent_of(path, MakeParents::Yes)?;
    let before = match existing(dir.as_fd(), name)? {
        Some(found) => {
            refuse_special(workspace, &found)?;
            Some(found.metadata()?)
        }
        None => None,
    };
    let temporary = format!(".{:016x}.tmp", rand::random::<u64>());
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(&dir, temporary.as_str(), flags, Mode::from_raw_mode(0o600))?;
    let written = (|| -> io::Result<()> {
        let mut file = File::from(fd);
        file.write_all(content)?;
        let mode = before.as_ref().map_or(NEW_FILE_MODE, |m| m.mode() & 0o777);
        file.set_permissions(std::fs::Permissions::from_mode(mode))?;
        file.sync_all()?;
        rustix::fs::renameat(&dir, temporary.as_str(), &dir, name)?;
        Ok(())
    })();
    if written.is_err() {
        // The temporary file may be gone already; the error that matters is the first one.
        let _ = rustix::fs::unlinkat(&dir, temporary.as_str(), AtFlags::empty());
    }
    written.map(|()| sync_dir(&dir))?;
    Ok(before.is_none())
}

/// What lies at a path, held so that whatever is moved or put there later is something else.
#[derive(Debug)]
pub struct Held {
    /// The directory it lies in.
    pub parent: OwnedFd,
    /// The thing itself, a link not followed; `None` when there is nothing.
    pub thing: Option<File>,
}

/// Holds what lies at `path`. `None` when a directory in front of it is missing; an error when one of them is a link.
pub fn hold(path: &Path) -> io::Result<Option<Held>> {
    let (parent, name) = match parent_of(path, MakeParents::No) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let thing = existing(parent.as_fd(), name)?;
    Ok(Some(Held { parent, thing }))
}

/// The metadata of the file itself (links not followed), or `None` when there is none.
pub fn stat(path: &Path) -> io::Result<Option<std::fs::Metadata>> {
    let (dir, name) = match parent_of(path, MakeParents::No) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    existing(dir.as_fd(), name)?.map(|f| f.metadata()).transpose()
}

fn reopen(workspace: &Workspace, path: &Path, flags: OFlags) -> io::Result<File> {
    let (dir, name) = parent_of(path, MakeParents::No)?;
    let found = existing(dir.as_fd(), name)?.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
    refuse_special(workspace, &found)?;
    let through = format!("/proc/self/fd/{}", found.as_raw_fd());
    Ok(File::from(rustix::fs::open(through.as_str(), flags | OFlags::CLOEXEC, Mode::empty())?))
}

fn refuse_special(workspace: &Workspace, found: &File) -> io::Result<()> {
    let meta = found.metadata()?;
    if meta.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if !meta.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    if workspace.is_sealed_inode(&meta) {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    Ok(())
}

/// An `O_PATH` descriptor of `name` in `dir`, links not followed.
fn existing(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<Option<File>> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(dir, name, flags, Mode::empty()) {
        Ok(fd) => Ok(Some(File::from(fd))),
        Err(rustix::io::Errno::NOENT) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum MakeParents {
    Yes,
    No,
}

/// The directory of `path`, opened component by component from the root without following links.
fn parent_of(path: &Path, make: MakeParents) -> io::Result<(OwnedFd, &OsStr)> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Err(not_a_file_path()) };
    Ok((walk_to(parent, make)?, name))
}

/// A directory, opened component by component from the root without following links.
pub fn directory(path: &Path) -> io::Result<OwnedFd> {
    walk_to(path, MakeParents::No)
}

fn not_a_file_path() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "not an absolute path to a file")
}

fn walk_to(path: &Path, make: MakeParents) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut dir = rustix::fs::open("/", flags, Mode::empty())?;
    for part in path.components() {
        let part = match part {
            Component::RootDir => continue,
            Component::Normal(part) => part,
            Component::CurDir | Component::ParentDir | Component::Prefix(_) => return Err(not_a_file_path()),
        };
        dir = match rustix::fs::openat(&dir, part, flags, Mode::empty()) {
            Err(rustix::io::Errno::NOENT) if make == MakeParents::Yes => {
                match rustix::fs::mkdirat(&dir, part, Mode::from_raw_mode(NEW_DIR_MODE)) {
                    Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                    Err(e) => return Err(e.into()),
                }
                rustix::fs::openat(&dir, part, flags, Mode::empty())?
            }
            other => other?,
        };
    }
    Ok(dir)
}

/// Makes a rename durable. Some file systems cannot sync a directory; the rename has happened anyway.
fn sync_dir(dir: &OwnedFd) {
    let through = format!("/proc/self/fd/{}", dir.as_raw_fd());
    if let Ok(file) = File::open(through) {
        let _ = file.sync_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_link_swapped_in_after_the_check_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().canonicalize().unwrap();
        fs::create_dir_all(base.join("work/sub")).unwrap();
        fs::create_dir_all(base.join("secret")).unwrap();
        fs::write(base.join("secret/f"), "secret").unwrap();
        fs::write(base.join("work/sub/f"), "fine").unwrap();
        let ws = Workspace::new([base.join("work")]).unwrap();
        let checked = ws.resolve("sub/f");
        fs::remove_dir_all(base.join("work/sub")).unwrap();
        symlink(base.join("secret"), base.join("work/sub")).unwrap();
        assert!(read(&ws, &checked).is_err());
        assert!(append(&ws, &checked).is_err());
        assert!(replace(&ws, &checked, b"x").is_err());
        assert_eq!(fs::read_to_string(base.join("secret/f")).unwrap(), "secret");
    }

    #[test]
    fn replacing_keeps_the_mode_and_leaves_no_temporary_file() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().canonicalize().unwrap();
        let ws = Workspace::new([&base]).unwrap();
        let path = ws.resolve("a/b/run.sh");
        assert!(replace(&ws, &path, b"1").unwrap());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(!replace(&ws, &path, b"22").unwrap());
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o755);
        assert_eq!(fs::read(&path).unwrap(), b"22");
        assert_eq!(fs::read_dir(base.join("a/b")).unwrap().count(), 1);
    }

    #[test]
    fn sealed_files_directories_and_devices_are_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().canonicalize().unwrap();
        fs::write(base.join("brain"), "b").unwrap();
        fs::create_dir(base.join("work")).unwrap();
        fs::hard_link(base.join("brain"), base.join("work/x")).unwrap();
        let ws = Workspace::new([base.join("work")]).unwrap().seal_brain(&base.join("brain"));
        let kind = |p: &Path| read(&ws, p).unwrap_err().kind();
        assert_eq!(kind(&base.join("work/x")), io::ErrorKind::PermissionDenied);
        assert_eq!(kind(&base.join("work")), io::ErrorKind::IsADirectory);
        assert_eq!(kind(Path::new("/dev/zero")), io::ErrorKind::InvalidInput);
        assert_eq!(kind(&base.join("work/none")), io::ErrorKind::NotFound);
    }
}
