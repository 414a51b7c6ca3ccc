//! Where catalog files come from: a directory on disk, or memory in tests and fuzzing.
//!
//! Symlinks that leave the directory are as if they were not there. Nothing is ever written. The invariant:
//! what is read lies inside the root and is not larger than its reader allows.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// Names read of one directory. A catalog is written by people; more is a mistake (a package directory put in
/// the wrong place), and each would cost a look at every reload.
pub const NAMES_MAX: usize = 1000;

/// Why a file cannot be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unread {
    /// There is none, or it is a link out of the catalog.
    Missing,
    /// It is larger than the limit.
    TooLarge,
    /// The system refuses.
    Refused(String),
}

/// What a directory holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// Entries in alphabetical order.
    pub names: Vec<String>,
    /// There were more than [`NAMES_MAX`], or the directory cannot be read.
    pub trouble: Option<String>,
}

/// A place with catalog files. Paths use `/` and are relative to its root.
pub trait Files {
    /// The entries of a directory; none when there is no such directory.
    fn names(&self, dir: &str) -> Names;

    /// A file's bytes, when there are at most `limit`.
    fn read(&self, path: &str, limit: usize) -> Result<Vec<u8>, Unread>;
}

/// A directory on disk.
#[derive(Debug, Clone)]
pub struct OnDisk {
    root: PathBuf,
}

impl OnDisk {
    /// The directory at `root`, with its own symlinks followed.
    pub fn open(root: &Path) -> std::io::Result<Self> {
        let root = fs::canonicalize(root)?;
        fs::read_dir(&root)?;
        Ok(Self { root })
    }

    /// The directory itself, without symlinks.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The real place of a path, when it lies inside.
    fn inside(&self, path: &str) -> Option<PathBuf> {
        let real = fs::canonicalize(self.root.join(path)).ok()?;
        real.starts_with(&self.root).then_some(real)
    }
}

impl Files for OnDisk {
    fn names(&self, dir: &str) -> Names {
        let Some(real) = self.inside(dir) else { return Names::default() };
        let entries = match fs::read_dir(&real) {
            Ok(entries) => entries,
            Err(error) => {
                return Names { names: Vec::new(), trouble: Some(format!("cannot be read: {error}")) };
            }
        };
        let mut names: Vec<String> = entries
            .flatten()
            .filter_map(|e| e.file_name().into_string().ok())
            .filter(|name| !name.starts_with('.') && self.inside(&format!("{dir}/{name}")).is_some())
            .take(NAMES_MAX + 1)
            .collect();
        let trouble = (names.len() > NAMES_MAX)
            .then(|| format!("holds more than {NAMES_MAX} entries; the rest is left out"));
        names.sort();
        names.truncate(NAMES_MAX);
        Names { names, trouble }
    }

    fn read(&self, path: &str, limit: usize) -> Result<Vec<u8>, Unread> {
        let real = self.inside(path).ok_or(Unread::Missing)?;
        bytes_of(&real, limit)
    }
}

/// The bytes of one regular file.
pub fn bytes_of(real: &Path, limit: usize) -> Result<Vec<u8>, Unread> {
    let refused = |e: std::io::Error| match e.kind() {
        std::io::ErrorKind::NotFound => Unread::Missing,
        _ => Unread::Refused(e.to_string()),
    };
    if !fs::metadata(real).map_err(refused)?.is_file() {
        return Err(Unread::Refused("not a regular file".to_owned()));
    }
    let file = fs::File::open(real).map_err(refused)?;
    let mut bytes = Vec::new();
    // one byte more than allowed tells a file that is too large from one that just fits
    file.take(limit as u64 + 1).read_to_end(&mut bytes).map_err(refused)?;
    if bytes.len() > limit { Err(Unread::TooLarge) } else { Ok(bytes) }
}

/// Files in memory, by path.
#[derive(Debug, Clone, Default)]
pub struct InMemory(pub BTreeMap<String, Vec<u8>>);

impl Files for InMemory {
    fn names(&self, dir: &str) -> Names {
        let prefix = format!("{dir}/");
        let first = |path: &String| path.strip_prefix(&prefix)?.split('/').next().map(str::to_owned);
        let mut names: Vec<String> =
            self.0.keys().filter_map(first).filter(|n| !n.starts_with('.')).collect();
        names.dedup();
        names.truncate(NAMES_MAX);
        Names { names, trouble: None }
    }

    fn read(&self, path: &str, limit: usize) -> Result<Vec<u8>, Unread> {
        match self.0.get(path) {
            None => Err(Unread::Missing),
            Some(bytes) if bytes.len() > limit => Err(Unread::TooLarge),
            Some(bytes) => Ok(bytes.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_out_of_the_directory_are_not_there_and_links_inside_are() {
        let outside = tempfile::tempdir().expect("a directory");
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(outside.path().join("secret"), "s").expect("written");
        fs::create_dir_all(dir.path().join("agents/a")).expect("made");
        fs::write(dir.path().join("agents/a/agent.json"), "{}").expect("written");
        symlink(outside.path(), dir.path().join("agents/b")).expect("linked");
        symlink(outside.path().join("secret"), dir.path().join("agents/a/out")).expect("linked");
        symlink("a", dir.path().join("agents/c")).expect("linked");
        let files = OnDisk::open(dir.path()).expect("opens");
        assert_eq!(files.names("agents").names, ["a", "c"]);
        assert_eq!(files.names("agents/a").names, ["agent.json"]);
        assert_eq!(files.read("agents/c/agent.json", 10), Ok(b"{}".to_vec()));
        for out in ["agents/a/out", "agents/b/secret", "../secret", "agents/../../x"] {
            assert_eq!(files.read(out, 10), Err(Unread::Missing), "{out}");
        }
        assert_eq!(files.read("agents/a/agent.json", 1), Err(Unread::TooLarge));
        assert_eq!(files.read("agents/a", 10), Err(Unread::Refused("not a regular file".into())));
    }
}
