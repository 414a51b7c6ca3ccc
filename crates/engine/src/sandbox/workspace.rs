//! What the tools of one task may see: the roots, the task's scratch directory, and what is sealed.
//!
//! A path counts by what it resolves to: symlinks are followed, `..` is taken after that, a tail that does
//! not exist yet is kept, and an existing file is also compared by device and inode so that a hard link
//! to the brain is the brain. Nothing here opens a file; see [`super::open`].
//!
//! The invariant: sealed beats every other answer.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

/// How deep a sealed directory is searched for the other name of a hard link. Backups lie at depth 1;
/// larger makes every access to a multiply-linked file slower.
const SEALED_DEPTH: usize = 3;

/// Where a resolved path lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Under an allowed root or in the task's scratch directory.
    Inside,
    /// Somewhere else.
    Outside,
    /// The brain, its companions, backups or the hook settings: neither read nor written.
    Sealed,
}

/// The file-system view of one task. Cheap to clone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Workspace {
    roots: Vec<PathBuf>,
    scratch: Option<PathBuf>,
    sealed: Vec<PathBuf>,
    brains: Vec<PathBuf>,
    read_only: Vec<PathBuf>,
}

impl Workspace {
    /// A view of `roots` (existing directories; the first is the working directory).
    pub fn new<P: AsRef<Path>>(roots: impl IntoIterator<Item = P>) -> io::Result<Self> {
        let roots =
            roots.into_iter().map(|r| fs::canonicalize(r.as_ref())).collect::<io::Result<Vec<_>>>()?;
        if roots.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "at least one root is needed"));
        }
        Ok(Self { roots, ..Self::default() })
    }

    /// Seals the brain at `path` and every file beside it whose name begins with the brain's name
    /// (`-wal`, `-shm`, `-journal`, `.lock`, and whatever is made later).
    #[must_use]
    pub fn seal_brain(mut self, path: &Path) -> Self {
        self.brains.push(resolve(path, Path::new("/")));
        self
    }

    /// Seals one file or directory (BACKUP_DIR, HOOKS_SETTINGS_PATH), existing or not.
    #[must_use]
    pub fn seal(mut self, path: &Path) -> Self {
        self.sealed.push(resolve(path, Path::new("/")));
        self
    }

    /// Makes a directory unwritable even where a root contains it (CATALOG_DIR).
    #[must_use]
    pub fn read_only(mut self, path: &Path) -> Self {
        self.read_only.push(resolve(path, Path::new("/")));
        self
    }

    /// The same view with a task's scratch directory (its TMPDIR).
    pub fn for_task(&self, scratch: &Path) -> io::Result<Self> {
        Ok(Self { scratch: Some(fs::canonicalize(scratch)?), ..self.clone() })
    }

    /// The working directory of commands and the base of relative paths.
    pub fn cwd(&self) -> &Path {
        self.roots.first().map_or(Path::new("/"), PathBuf::as_path)
    }

    /// The roots, canonical, the working directory first.
    pub fn roots(&self) -> &[PathBuf] {
        &self.roots
    }

    /// The task's temporary directory, when this is a task's view.
    pub fn scratch(&self) -> Option<&Path> {
        self.scratch.as_deref()
    }

    /// Roots and scratch: what commands may read and write.
    pub fn writable(&self) -> impl Iterator<Item = &Path> {
        self.roots.iter().chain(&self.scratch).map(PathBuf::as_path)
    }

    /// The absolute path that `path` means, taken from the working directory, with all symlinks followed.
    pub fn resolve(&self, path: &str) -> PathBuf {
        resolve(Path::new(path), self.cwd())
    }

    /// Where a path of [`Workspace::resolve`] lies.
    pub fn place(&self, resolved: &Path) -> Place {
        if self.is_sealed(resolved) {
            Place::Sealed
        } else if self.writable().any(|root| resolved.starts_with(root)) {
            Place::Inside
        } else {
            Place::Outside
        }
    }

    /// True when the path is sealed, by name or as another name of a sealed file.
    pub fn is_sealed(&self, resolved: &Path) -> bool {
        self.is_sealed_name(resolved)
            || fs::symlink_metadata(resolved).is_ok_and(|meta| self.is_sealed_inode(&meta))
    }

    /// True when the path itself is sealed, whatever is there.
    pub fn is_sealed_name(&self, resolved: &Path) -> bool {
        self.sealed.iter().any(|s| resolved.starts_with(s))
            || self.brains.iter().any(|brain| belongs_to_brain(brain, resolved))
    }

    /// True when these are the metadata of a sealed file, under whatever name.
    pub fn is_sealed_inode(&self, meta: &fs::Metadata) -> bool {
        if !meta.is_file() {
            return false;
        }
        let key = (meta.dev(), meta.ino());
        let same =
            |path: &Path| fs::symlink_metadata(path).is_ok_and(|m| m.is_file() && (m.dev(), m.ino()) == key);
        self.brains.iter().any(|brain| companions(brain).iter().any(|p| same(p)))
            || self.sealed.iter().any(|s| same(s) || (meta.nlink() > 1 && holds(s, key, SEALED_DEPTH)))
    }

    /// True when something sealed lies at or below `dir`.
    pub fn contains_sealed(&self, dir: &Path) -> bool {
        self.sealed.iter().any(|s| s.starts_with(dir)) || self.brains.iter().any(|b| b.starts_with(dir))
    }

    /// True when the path must not be written although it may be read.
    pub fn is_read_only(&self, resolved: &Path) -> bool {
        self.read_only.iter().any(|r| resolved.starts_with(r))
    }

    /// True when a read-only directory lies at or below `dir`.
    pub fn contains_read_only(&self, dir: &Path) -> bool {
        self.read_only.iter().any(|r| r.starts_with(dir))
    }

    /// Sealed paths as they were resolved, for matching patterns against them.
    pub fn sealed_paths(&self) -> Vec<PathBuf> {
        self.sealed.iter().cloned().chain(self.brains.iter().flat_map(|b| companions(b))).collect()
    }

    /// Everything whose mode and owner no command has any business with: what is sealed, the directories of
    /// the brain and of the scratch directories, and the read-only places.
    pub fn guarded(&self) -> Vec<PathBuf> {
        let around = self.brains.iter().chain(&self.scratch).filter_map(|path| path.parent());
        let around = around.map(Path::to_owned).chain(self.read_only.iter().cloned());
        self.sealed_paths().into_iter().chain(around).collect()
    }

    /// The brains as they were resolved; what lies beside them under their name is sealed as well.
    pub fn brains(&self) -> &[PathBuf] {
        &self.brains
    }

    /// Places that may be read but not written.
    pub fn read_only_places(&self) -> &[PathBuf] {
        &self.read_only
    }

    /// The brain's files and sealed files that exist.
    pub fn sealed_files(&self) -> Vec<PathBuf> {
        self.sealed_paths().into_iter().filter(|p| p.is_file()).collect()
    }
}

fn belongs_to_brain(brain: &Path, path: &Path) -> bool {
    let (Some(dir), Some(name)) = (brain.parent(), brain.file_name()) else { return false };
    let Ok(rest) = path.strip_prefix(dir) else { return false };
    match rest.components().next() {
        Some(Component::Normal(first)) => first.as_bytes().starts_with(name.as_bytes()),
        _ => false,
    }
}

/// The brain and the companions SQLite and the lock make beside it.
fn companions(brain: &Path) -> Vec<PathBuf> {
    ["", "-wal", "-shm", "-journal", ".lock"]
        .iter()
        .map(|suffix| {
            let mut name = brain.as_os_str().to_owned();
            name.push(suffix);
            PathBuf::from(name)
        })
        .collect()
}

fn holds(dir: &Path, key: (u64, u64), depth: usize) -> bool {
    let Ok(entries) = fs::read_dir(dir) else { return false };
    entries.flatten().any(|entry| match entry.metadata() {
        Ok(m) if m.is_file() => (m.dev(), m.ino()) == key,
        Ok(m) if m.is_dir() && depth > 0 => holds(&entry.path(), key, depth - 1),
        _ => false,
    })
}

/// The absolute path that `path` means from `cwd`, on the file system as it is now; the walk is the rules' own.
fn resolve(path: &Path, cwd: &Path) -> PathBuf {
    ::permissions::resolve(path, cwd, |link| fs::read_link(link).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::fs::symlink;

    fn tree() -> (tempfile::TempDir, Workspace) {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().canonicalize().unwrap();
        fs::create_dir_all(base.join("data/root/sub")).unwrap();
        fs::create_dir_all(base.join("data/backups")).unwrap();
        fs::write(base.join("data/brain.sqlite"), "brain").unwrap();
        fs::write(base.join("data/backups/b1"), "backup").unwrap();
        let ws = Workspace::new([base.join("data/root")])
            .unwrap()
            .seal_brain(&base.join("data/brain.sqlite"))
            .seal(&base.join("data/backups"));
        (dir, ws)
    }

    #[test]
    fn paths_count_by_what_they_resolve_to() {
        let (dir, ws) = tree();
        let base = dir.path().canonicalize().unwrap();
        let work = base.join("data/root");
        symlink("../brain.sqlite", work.join("link")).unwrap();
        symlink("../brain.sqlite-wal", work.join("later")).unwrap();
        symlink("/", work.join("slash")).unwrap();
        symlink("loop", work.join("loop")).unwrap();
        fs::hard_link(base.join("data/brain.sqlite"), work.join("hard")).unwrap();
        fs::hard_link(base.join("data/backups/b1"), work.join("hard-backup")).unwrap();
        let place = |p: &str| ws.place(&ws.resolve(p));
        assert_eq!(place("a.txt"), Place::Inside);
        assert_eq!(place("new/dir/a.txt"), Place::Inside);
        assert_eq!(place("sub/../a"), Place::Inside);
        assert_eq!(place("../other"), Place::Outside);
        assert_eq!(place("missing/../../other"), Place::Outside);
        assert_eq!(place("link"), Place::Sealed);
        assert_eq!(place("later"), Place::Sealed, "a file that does not exist yet");
        assert_eq!(place("hard"), Place::Sealed);
        assert_eq!(place("hard-backup"), Place::Sealed);
        assert_eq!(place("../brain.sqlite.lock"), Place::Sealed);
        assert_eq!(place("../brain.sqlite-shm/x"), Place::Sealed);
        assert_eq!(place("../backups/b1"), Place::Sealed);
        assert_eq!(place("slash/etc/passwd"), Place::Outside);
        assert_eq!(place("loop"), Place::Outside);
        assert_eq!(place("/"), Place::Outside);
        let through_proc = format!("/proc/self/root{}", base.join("data/brain.sqlite").display());
        assert_eq!(place(&through_proc), Place::Sealed);
    }

    #[test]
    fn a_root_that_contains_the_brain_still_seals_it() {
        let (dir, _) = tree();
        let data = dir.path().join("data");
        let ws = Workspace::new([&data]).unwrap().seal_brain(&data.join("brain.sqlite"));
        assert!(ws.contains_sealed(ws.cwd()));
        assert_eq!(ws.place(&ws.resolve("brain.sqlite")), Place::Sealed);
        assert_eq!(ws.place(&ws.resolve("work/x")), Place::Inside);
    }

    proptest! {
        #[test]
        fn resolve_agrees_with_the_kernel_and_never_escapes(parts in prop::collection::vec(
            prop::sample::select(vec!["..", ".", "sub", "link", "abs", "out", "missing", "a", "x y"]), 0..12)) {
            let (dir, ws) = tree();
            let base = dir.path().canonicalize().unwrap();
            let work = base.join("data/root");
            symlink("sub", work.join("link")).unwrap();
            symlink(work.join("sub"), work.join("abs")).unwrap();
            symlink("../..", work.join("sub/out")).unwrap();
            fs::create_dir_all(work.join("sub/a")).unwrap();
            let text = parts.join("/");
            let resolved = ws.resolve(&text);
            prop_assert!(resolved.is_absolute());
            prop_assert!(resolved.components().all(|c| !matches!(c, Component::ParentDir | Component::CurDir)));
            if let Ok(real) = fs::canonicalize(work.join(&text)) {
                prop_assert_eq!(&real, &resolved);
                let inside = real.starts_with(&work);
                prop_assert_eq!(ws.place(&resolved) == Place::Inside, inside);
            }
        }
    }
}
