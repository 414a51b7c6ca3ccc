//! What the rules may know about files, and how a path is followed to what it means.
//!
//! The crate itself never touches a file system: a [`Ground`] answers, the real one in the Engine, a tree in memory in
//! tests. Nothing here reads content.
//!
//! The invariant: a path counts by what it resolves to; what cannot be followed is nowhere.

use serde::Serialize;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Component, Path, PathBuf};

/// Symlinks followed in one path. Smaller refuses honest trees; larger only lengthens a loop (the kernel stops at 40
/// as well).
pub const MAX_SYMLINKS: usize = 40;

/// What lies at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// A device, socket or pipe.
    Other,
}

/// Facts about one existing path, the last link not followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// What it is.
    pub kind: Kind,
    /// Bytes.
    pub size: u64,
    /// Device and inode: two names with the same identity are one file.
    pub identity: (u64, u64),
    /// How many names it has.
    pub names: u64,
}

/// Answers about files. Every method describes the present moment and changes nothing.
pub trait Ground {
    /// Where the symbolic link at `path` points, when there is one.
    fn link(&self, path: &Path) -> Option<PathBuf>;
    /// Facts about `path`, its last link not followed.
    fn facts(&self, path: &Path) -> Option<Facts>;
    /// Names in the directory `path`, at most `limit` of them; `None` when it cannot be listed or has more.
    fn names(&self, path: &Path, limit: usize) -> Option<Vec<String>>;
    /// True when `path` holds a git repository.
    fn is_repository(&self, path: &Path) -> bool;
}

/// A ground as a command would leave it: links that the command itself makes are already there.
pub(crate) struct Imagined<'a> {
    pub ground: &'a dyn Ground,
    pub links: BTreeMap<PathBuf, PathBuf>,
}

impl Imagined<'_> {
    /// [`resolve`] on this ground.
    pub fn resolve(&self, path: &Path, cwd: &Path) -> PathBuf {
        resolve(path, cwd, |path| match self.links.get(path) {
            Some(target) => Some(target.clone()),
            None => self.ground.link(path),
        })
    }

    /// Like [`Imagined::resolve`], but the last part itself is meant even when it is a link: what removing touches.
    pub fn resolve_name(&self, path: &Path, cwd: &Path) -> PathBuf {
        match (path.parent(), path.components().next_back()) {
            (Some(parent), Some(Component::Normal(name))) if !ends_in_slash(path) => {
                self.resolve(parent, cwd).join(name)
            }
            _ => self.resolve(path, cwd),
        }
    }

    pub fn facts(&self, path: &Path) -> Option<Facts> {
        self.ground.facts(path)
    }

    pub fn is_directory(&self, path: &Path) -> bool {
        self.facts(path).is_some_and(|f| f.kind == Kind::Directory)
    }
}

fn ends_in_slash(path: &Path) -> bool {
    path.as_os_str().as_encoded_bytes().ends_with(b"/")
        || path.as_os_str().as_encoded_bytes().ends_with(b"/.")
}

/// The absolute path that `path` means from `cwd`, with `link` telling where links lead: symlinks followed, `.` and `..`
/// removed after that, parts that do not exist kept as they are. More than [`MAX_SYMLINKS`] links end at a name that
/// cannot exist, so that it is outside of everything.
pub fn resolve(path: &Path, cwd: &Path, link: impl Fn(&Path) -> Option<PathBuf>) -> PathBuf {
    let mut pending: Vec<OsString> = Vec::new();
    push_parts(&mut pending, path);
    if !path.is_absolute() {
        push_parts(&mut pending, cwd);
    }
    let mut done = PathBuf::from("/");
    let mut links = 0;
    while let Some(part) = pending.pop() {
        if part == "/" {
            done = PathBuf::from("/");
            continue;
        }
        if part == ".." {
            done.pop();
            continue;
        }
        let next = done.join(&part);
        match link(&next) {
            Some(target) => {
                links += 1;
                if links > MAX_SYMLINKS {
                    return PathBuf::from("/\u{1}too-many-symlinks");
                }
                push_parts(&mut pending, &target);
            }
            None => done = next,
        }
    }
    done
}

/// The parts of `path` as they are written, `..` taken by name: for the kernel's own links, which are judged by name.
pub(crate) fn by_name(path: &Path, cwd: &Path) -> PathBuf {
    resolve(path, cwd, |_| None)
}

fn push_parts(pending: &mut Vec<OsString>, path: &Path) {
    let parts: Vec<&OsStr> = path
        .components()
        .filter_map(|c| match c {
            Component::RootDir => Some(OsStr::new("/")),
            Component::ParentDir => Some(OsStr::new("..")),
            Component::Normal(name) => Some(name),
            Component::CurDir | Component::Prefix(_) => None,
        })
        .collect();
    pending.extend(parts.into_iter().rev().map(OsStr::to_os_string));
}

/// A file system in memory.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    entries: BTreeMap<PathBuf, Entry>,
}

#[derive(Debug, Clone)]
enum Entry {
    Directory,
    File { size: u64, inode: u64 },
    Link(PathBuf),
}

impl Tree {
    /// An empty file system.
    pub fn new() -> Self {
        Self::default()
    }

    /// With a directory and its parents.
    #[must_use]
    pub fn directory(mut self, path: &str) -> Self {
        self.parents(Path::new(path));
        self.entries.insert(path.into(), Entry::Directory);
        self
    }

    /// With a file of `size` bytes.
    #[must_use]
    pub fn file(mut self, path: &str, size: u64) -> Self {
        self.parents(Path::new(path));
        let inode = self.entries.len() as u64 + 1000;
        self.entries.insert(path.into(), Entry::File { size, inode });
        self
    }

    /// With a symbolic link.
    #[must_use]
    pub fn symlink(mut self, path: &str, target: &str) -> Self {
        self.parents(Path::new(path));
        self.entries.insert(path.into(), Entry::Link(target.into()));
        self
    }

    /// With a second name of an existing file.
    #[must_use]
    pub fn hard_link(mut self, path: &str, of: &str) -> Self {
        self.parents(Path::new(path));
        let entry = self.entries.get(Path::new(of)).cloned().unwrap_or(Entry::Directory);
        self.entries.insert(path.into(), entry);
        self
    }

    fn parents(&mut self, path: &Path) {
        for parent in path.ancestors().skip(1) {
            self.entries.entry(parent.to_path_buf()).or_insert(Entry::Directory);
        }
    }
}

impl Ground for Tree {
    fn link(&self, path: &Path) -> Option<PathBuf> {
        match self.entries.get(path) {
            Some(Entry::Link(target)) => Some(target.clone()),
            Some(Entry::Directory | Entry::File { .. }) | None => None,
        }
    }

    fn facts(&self, path: &Path) -> Option<Facts> {
        Some(match self.entries.get(path)? {
            Entry::Directory => Facts { kind: Kind::Directory, size: 4096, identity: (0, 0), names: 2 },
            Entry::Link(_) => Facts { kind: Kind::Link, size: 0, identity: (0, 1), names: 1 },
            Entry::File { size, inode } => {
                let same = |e: &&Entry| matches!(e, Entry::File { inode: other, .. } if other == inode);
                let names = self.entries.values().filter(same).count() as u64;
                Facts { kind: Kind::File, size: *size, identity: (1, *inode), names }
            }
        })
    }

    fn names(&self, path: &Path, limit: usize) -> Option<Vec<String>> {
        matches!(self.entries.get(path)?, Entry::Directory).then_some(())?;
        let inside = self.entries.keys().filter(|p| p.parent() == Some(path));
        let names: Vec<String> =
            inside.filter_map(|p| Some(p.file_name()?.to_string_lossy().into_owned())).collect();
        (names.len() <= limit).then_some(names)
    }

    fn is_repository(&self, path: &Path) -> bool {
        self.entries.contains_key(&path.join(".git"))
    }
}
