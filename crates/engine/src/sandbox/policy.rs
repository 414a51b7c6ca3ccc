//! The landlock part: which files a child may see. One ruleset per launch, built before fork.
//!
//! System directories read-only, the workspace read-write, a few devices, nothing else. A root that holds
//! something sealed is not granted as a whole: its other entries are, one by one, so that the sealed file
//! cannot be opened, listed or made. Paths a person allowed for one call are added to that call only.
//!
//! The invariant: no rule covers a sealed path.

use super::workspace::Workspace;
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreated, RulesetCreatedAttr, Scope,
};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The newest rules this code knows; the kernel gets what it supports of them.
const NEWEST: ABI = ABI::V9;
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

/// What the kernel's landlock can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Support {
    /// TCP connect and bind can be refused (ABI 4).
    pub tcp: bool,
    /// Signals and abstract unix sockets can be confined (ABI 6).
    pub scopes: bool,
    /// Unix sockets by path can be confined (ABI 9).
    pub unix_paths: bool,
}

/// Asks the kernel; `None` when there is no landlock.
pub fn detect() -> Option<Support> {
    let strict = || Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    let files = |access: BitFlags<AccessFs>| strict().handle_access(access).and_then(Ruleset::create).is_ok();
    if !files(AccessFs::from_all(ABI::V1)) {
        return None;
    }
    Some(Support {
        tcp: strict().handle_access(AccessNet::from_all(ABI::V4)).and_then(Ruleset::create).is_ok(),
        scopes: strict().scope(Scope::from_all(ABI::V6)).and_then(Ruleset::create).is_ok(),
        unix_paths: files(AccessFs::ResolveUnix.into()),
    })
}

/// What one launch may use besides the workspace.
#[derive(Debug, Clone, Copy, Default)]
pub struct Extra<'a> {
    /// Read-only: the catalog for a hook, a toolchain outside /usr.
    pub read: &'a [PathBuf],
    /// Allowed by a person for this one call.
    pub write: &'a [PathBuf],
}

/// The descriptor a child restricts itself with.
pub fn ruleset(workspace: &Workspace, extra: Extra<'_>) -> io::Result<Option<OwnedFd>> {
    refuse_second_names(workspace)?;
    let mut set = Ruleset::default()
        .handle_access(AccessFs::from_all(NEWEST))
        .and_then(|r| r.handle_access(AccessNet::from_all(NEWEST)))
        .and_then(|r| r.scope(Scope::from_all(NEWEST)))
        .and_then(Ruleset::create)
        .map_err(io::Error::other)?;
    let etc = ETC.iter().map(|name| Path::new("/etc").join(name));
    let readable = SYSTEM.iter().map(PathBuf::from).chain(etc);
    for path in readable.chain(extra.read.iter().cloned()) {
        grant_tree(&mut set, workspace, &path, Rights::Read)?;
    }
    for path in FACTS {
        add(&mut set, Path::new(path), AccessFs::ReadFile | AccessFs::ReadDir)?;
    }
    for path in DEVICES {
        add(&mut set, Path::new(path), AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev)?;
    }
    for root in workspace.writable() {
        grant_tree(&mut set, workspace, root, Rights::Write)?;
    }
    for path in extra.write {
        grant_outside(&mut set, workspace, path)?;
    }
    Ok(set.into())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rights {
    Read,
    Write,
}

impl Rights {
    fn access(self) -> BitFlags<AccessFs> {
        let read = AccessFs::Execute | AccessFs::ReadFile | AccessFs::ReadDir;
        match self {
            Rights::Read => read,
            // Device nodes and device ioctls are no work for a tool: a node of the disk would be the brain.
            Rights::Write => {
                AccessFs::from_all(NEWEST) & !(AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::IoctlDev)
            }
        }
    }
}

/// Grants `path` with everything below it, or, around sealed and read-only places, entry by entry.
fn grant_tree(set: &mut RulesetCreated, ws: &Workspace, path: &Path, rights: Rights) -> io::Result<()> {
    let Ok(path) = fs::canonicalize(path) else { return Ok(()) };
    if ws.is_sealed(&path) {
        return Ok(());
    }
    let rights = if ws.is_read_only(&path) { Rights::Read } else { rights };
    let mixed = ws.contains_sealed(&path) || (rights == Rights::Write && ws.contains_read_only(&path));
    if !mixed {
        return add(set, &path, rights.access());
    }
    for entry in fs::read_dir(&path)? {
        let entry = entry?;
        // A link is granted where its target is, or not at all.
        if !entry.file_type()?.is_symlink() {
            grant_tree(set, ws, &entry.path(), rights)?;
        }
    }
    Ok(())
}

/// Grants a path a person named: the thing itself, and making or removing its name in its directory.
/// The directory right is left out where that directory holds something sealed.
fn grant_outside(set: &mut RulesetCreated, ws: &Workspace, path: &Path) -> io::Result<()> {
    if ws.is_sealed(path) || ws.is_read_only(path) {
        return Ok(());
    }
    if path.exists() {
        grant_tree(set, ws, path, Rights::Write)?;
        let names = AccessFs::MakeReg | AccessFs::MakeDir | AccessFs::MakeSym | AccessFs::Refer;
        let removal = AccessFs::RemoveFile | AccessFs::RemoveDir;
        return match path.parent() {
            Some(parent) if !ws.contains_sealed(parent) => add(set, parent, names | removal),
            _ => Ok(()),
        };
    }
    // Landlock knows no "this name only": making a new file takes rights on the nearest directory. They
    // are without reading and removing, so that the yes for one name does not open its neighbours.
    let making = AccessFs::MakeReg | AccessFs::MakeDir | AccessFs::MakeSym;
    let filling = AccessFs::WriteFile | AccessFs::Truncate;
    match path.ancestors().find(|a| a.exists()) {
        Some(dir) if dir.is_dir() && !ws.contains_sealed(dir) => add(set, dir, making | filling),
        _ => Ok(()),
    }
}

fn add(set: &mut RulesetCreated, path: &Path, access: impl Into<BitFlags<AccessFs>>) -> io::Result<()> {
    let Ok(fd) = PathFd::new(path) else { return Ok(()) };
    let mut access = access.into();
    if !path.is_dir() {
        access &= AccessFs::from_file(NEWEST);
    }
    set.add_rule(PathBeneath::new(fd, access)).map(|_| ()).map_err(io::Error::other)
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
