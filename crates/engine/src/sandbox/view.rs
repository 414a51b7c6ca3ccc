//! What one launch may see and touch, decided once and enforced twice: by landlock rules and, where there is
//! bubblewrap, by what is mounted at all.
//!
//! System directories read-only, the workspace read-write, a few devices, nothing else. A root that holds
//! something sealed is not granted as a whole: its other entries are, one by one, so that the sealed file
//! cannot be opened, listed or made, also when it is made only later. Paths a person allowed for one call are
//! added to that call only.
//!
//! What a person allowed is opened here and granted as what was opened, so that a link or a directory put in its place
//! until the command starts gets nothing.
//!
//! The invariant: no grant covers a sealed path.

use super::open::{self, Held};
use super::workspace::Workspace;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

/// Read-only for every child.
const SYSTEM: [&str; 7] = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"];
/// The parts of /etc that programs need and that hold no secrets; the rest of /etc does not exist for them.
const ETC: [&str; 39] = [
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "ld.so.preload",
    "alternatives",
    "ssl",
    "ca-certificates",
    "ca-certificates.conf",
    "pki",
    "crypto-policies",
    "resolv.conf",
    "hosts",
    "host.conf",
    "hostname",
    "nsswitch.conf",
    "gai.conf",
    "services",
    "protocols",
    "passwd",
    "group",
    "localtime",
    "timezone",
    "locale.alias",
    "locale.conf",
    "default/locale",
    "terminfo",
    "inputrc",
    "bash.bashrc",
    "profile",
    "profile.d",
    "environment.d",
    "mime.types",
    "magic",
    "os-release",
    "debian_version",
    "gitconfig",
    "fonts",
    "python3",
    "perl",
];
/// Facts about the machine that runtimes read.
const FACTS: [&str; 2] = ["/proc", "/sys/devices/system/cpu"];
/// Harmless devices, read and written.
const DEVICES: [&str; 5] = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"];
/// Entries looked at when a second name of a sealed file is searched in the roots. Larger makes such a
/// launch slower; smaller refuses launches in big trees (only while such a second name exists at all).
const SEARCH_ENTRIES: usize = 100_000;

/// What one launch may use besides the workspace.
#[derive(Debug, Clone, Copy, Default)]
pub struct Extra<'a> {
    /// Read-only: the catalog for a hook, a toolchain outside /usr.
    pub read: &'a [PathBuf],
    /// Allowed by a person for this one call.
    pub write: &'a [PathBuf],
}

/// What may be done with a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rights {
    /// Read, list, execute; everything below, too.
    Read,
    /// Read and list facts of the kernel; not execute.
    Facts,
    /// A harmless device.
    Device,
    /// Everything but making devices; everything below, too.
    Write,
    /// Make and remove names in this directory, because one name in it was allowed.
    Names,
    /// Make files in this directory and fill them, without reading what is there.
    Fill,
    /// Nothing: a directory of which only entries are granted.
    Frame,
}

/// One path and what may be done with it.
#[derive(Debug, Clone)]
pub struct Grant {
    /// The name it has inside.
    pub name: PathBuf,
    /// What it is, symlinks followed.
    pub path: PathBuf,
    /// What may be done.
    pub rights: Rights,
    /// The thing itself, where the name is not to be looked up again.
    pub held: Option<Arc<OwnedFd>>,
}

/// Everything one launch may see.
pub fn of(workspace: &Workspace, extra: Extra<'_>) -> io::Result<Vec<Grant>> {
    refuse_second_names(workspace)?;
    let mut grants = Grants { workspace, list: Vec::new() };
    for (name, path) in READABLE.iter() {
        match path {
            Some(path) if !workspace.is_sealed_name(path) && !workspace.contains_sealed(path) => {
                let (name, path) = (name.clone(), path.clone());
                grants.list.push(Grant { name, path, rights: Rights::Read, held: None });
            }
            // Around something sealed, or not there when the Engine started.
            Some(_) | None => grants.tree(name, Rights::Read)?,
        }
    }
    for path in extra.read {
        grants.tree(path, Rights::Read)?;
    }
    for path in FACTS {
        grants.push(Path::new(path), Rights::Facts);
    }
    for path in DEVICES {
        grants.push(Path::new(path), Rights::Device);
    }
    for root in workspace.writable() {
        grants.tree(root, Rights::Write)?;
    }
    for path in extra.write {
        grants.outside(path)?;
    }
    Ok(grants.list)
}

/// What every child may read, and what it resolved to at the first launch: resolving fifty paths anew took
/// longer than everything else that landlock adds to a launch.
static READABLE: LazyLock<Vec<(PathBuf, Option<PathBuf>)>> = LazyLock::new(|| {
    let etc = ETC.iter().map(|name| Path::new("/etc").join(name));
    let names = SYSTEM.iter().map(PathBuf::from).chain(etc);
    names.map(|name| (name.clone(), fs::canonicalize(&name).ok())).collect()
});

/// The read-only system alone, as the trial of bubblewrap sees it.
pub fn system() -> Vec<Grant> {
    let there = READABLE.iter().filter_map(|(name, path)| Some((name.clone(), path.clone()?)));
    there.map(|(name, path)| Grant { name, path, rights: Rights::Read, held: None }).collect()
}

struct Grants<'a> {
    workspace: &'a Workspace,
    list: Vec<Grant>,
}

impl Grants<'_> {
    fn push(&mut self, path: &Path, rights: Rights) {
        self.list.push(Grant { name: path.to_owned(), path: path.to_owned(), rights, held: None });
    }

    /// Grants `name` with everything below it, or, around sealed and read-only places, entry by entry.
    fn tree(&mut self, name: &Path, rights: Rights) -> io::Result<()> {
        let ws = self.workspace;
        let Ok(path) = fs::canonicalize(name) else { return Ok(()) };
        if ws.is_sealed(&path) {
            return Ok(());
        }
        let rights = if ws.is_read_only(&path) { Rights::Read } else { rights };
        let mixed = ws.contains_sealed(&path) || (rights == Rights::Write && ws.contains_read_only(&path));
        if !mixed {
            self.list.push(Grant { name: name.to_owned(), path, rights, held: None });
            return Ok(());
        }
        self.list.push(Grant { name: path.clone(), path: path.clone(), rights: Rights::Frame, held: None });
        for entry in fs::read_dir(&path)? {
            let entry = entry?;
            // A link is granted where its target is, or not at all.
            if !entry.file_type()?.is_symlink() {
                self.tree(&entry.path(), rights)?;
            }
        }
        Ok(())
    }

    /// Grants a path a person named: the thing itself, and making or removing its name in its directory.
    /// The directory right is left out where that directory holds something sealed.
    fn outside(&mut self, path: &Path) -> io::Result<()> {
        let ws = self.workspace;
        if ws.is_sealed(path) || ws.is_read_only(path) {
            return Ok(());
        }
        let changed = |error: io::Error| {
            let text = format!("{} is not what was allowed any more: {error}", path.display());
            io::Error::new(error.kind(), text)
        };
        if let Some(Held { parent, thing: Some(thing) }) = open::hold(path).map_err(changed)? {
            let meta = thing.metadata()?;
            if ws.is_sealed_inode(&meta) {
                return Ok(());
            }
            if meta.is_dir() && (ws.contains_sealed(path) || ws.contains_read_only(path)) {
                self.tree(path, Rights::Write)?;
            } else if !meta.is_symlink() {
                // Of a link only the name was allowed: it can be removed or replaced, not written through.
                self.hold(path, Rights::Write, thing.into());
            }
            if let Some(directory) = path.parent()
                && !ws.contains_sealed(directory)
            {
                self.hold(directory, Rights::Names, parent);
            }
            return Ok(());
        }
        // Landlock knows no "this name only": making a new file takes rights on the nearest directory. They
        // are without reading and removing, so that the yes for one name does not open its neighbours.
        for name in path.ancestors().skip(1) {
            let directory = match open::directory(name) {
                Ok(directory) => directory,
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(changed(e)),
            };
            if !ws.contains_sealed(name) {
                self.hold(name, Rights::Fill, directory);
            }
            break;
        }
        Ok(())
    }

    fn hold(&mut self, path: &Path, rights: Rights, thing: OwnedFd) {
        let held = Some(Arc::new(thing));
        self.list.push(Grant { name: path.to_owned(), path: path.to_owned(), rights, held });
    }
}

/// A hard link to a sealed file inside a root would be readable by every child. The file tools look at
/// inodes; landlock cannot. So while a sealed file has a second name, that name must not lie in a root.
fn refuse_second_names(workspace: &Workspace) -> io::Result<()> {
    for sealed in workspace.sealed_files() {
        let Ok(meta) = fs::symlink_metadata(&sealed) else { continue };
        if meta.nlink() < 2 {
            continue;
        }
        let mut left = SEARCH_ENTRIES;
        for root in workspace.writable() {
            match second_name(workspace, root, (meta.dev(), meta.ino()), &mut left) {
                Ok(None) => {}
                Ok(Some(name)) => {
                    let text = format!("{} is a hard link to a protected file; remove it", name.display());
                    return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
                }
                Err(e) => return Err(e),
            }
        }
    }
    Ok(())
}

fn second_name(ws: &Workspace, dir: &Path, key: (u64, u64), left: &mut usize) -> io::Result<Option<PathBuf>> {
    let Ok(entries) = fs::read_dir(dir) else { return Ok(None) };
    for entry in entries.flatten() {
        if *left == 0 {
            let text = "a protected file has a second hard link and the roots are too large to search for it";
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
        }
        *left -= 1;
        let path = entry.path();
        if ws.is_sealed_name(&path) {
            continue;
        }
        let Ok(meta) = entry.metadata() else { continue };
        if meta.is_dir() {
            if let Some(found) = second_name(ws, &path, key, left)? {
                return Ok(Some(found));
            }
        } else if (meta.dev(), meta.ino()) == key {
            return Ok(Some(path));
        }
    }
    Ok(None)
}
