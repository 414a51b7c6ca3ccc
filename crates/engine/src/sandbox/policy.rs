//! The landlock part: the rules a child restricts itself with, made from its [`Grant`]s before `fork`.
//!
//! Everything the kernel's ABI knows is handled, so what no grant allows is refused: files, TCP, abstract unix
//! sockets and signals to processes outside.
//!
//! The invariant: no rule gives more than its grant.

use super::kernel::Landlock;
use super::view::{Grant, Rights};
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, NetPort, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, Scope,
};
use rustix::fs::FileType;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// The descriptor a child restricts itself with. `tcp_port` is the one port it may connect to.
pub fn ruleset(landlock: Landlock, grants: &[Grant], tcp_port: Option<u16>) -> io::Result<Option<OwnedFd>> {
    let abi = landlock.abi;
    let mut set = Ruleset::default().handle_access(AccessFs::from_all(abi)).map_err(io::Error::other)?;
    if landlock.tcp() {
        set = set.handle_access(AccessNet::from_all(abi)).map_err(io::Error::other)?;
    }
    if landlock.scopes() {
        set = set.scope(Scope::from_all(abi)).map_err(io::Error::other)?;
    }
    let mut set = set.create().map_err(io::Error::other)?;
    for grant in grants {
        add(&mut set, abi, grant, access(grant.rights, abi))?;
    }
    if landlock.tcp()
        && let Some(port) = tcp_port
    {
        set = set.add_rule(NetPort::new(port, AccessNet::ConnectTcp)).map_err(io::Error::other)?;
    }
    Ok(set.into())
}

fn access(rights: Rights, abi: ABI) -> BitFlags<AccessFs> {
    let making = AccessFs::MakeReg | AccessFs::MakeDir | AccessFs::MakeSym;
    let wanted = match rights {
        Rights::Read => AccessFs::Execute | AccessFs::ReadFile | AccessFs::ReadDir,
        Rights::Facts => AccessFs::ReadFile | AccessFs::ReadDir,
        Rights::Device => AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev,
        // Device nodes and device ioctls are no work for a tool: a node of the disk would be the brain.
        Rights::Write => {
            AccessFs::from_all(abi) & !(AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::IoctlDev)
        }
        Rights::Names => making | AccessFs::Refer | AccessFs::RemoveFile | AccessFs::RemoveDir,
        Rights::Fill => making | AccessFs::WriteFile | AccessFs::Truncate,
        Rights::Frame => BitFlags::EMPTY,
    };
    wanted & AccessFs::from_all(abi)
}

/// What a child may do with the `/proc` of its own PID namespace, which exists only inside: the bits for the
/// rule that is added there.
pub fn facts(landlock: Landlock) -> u64 {
    access(Rights::Facts, landlock.abi).bits()
}

fn add(set: &mut RulesetCreated, abi: ABI, grant: &Grant, mut access: BitFlags<AccessFs>) -> io::Result<()> {
    let opened = match &grant.held {
        Some(_) => None,
        None => match PathFd::new(&grant.path) {
            Ok(opened) => Some(opened),
            // Gone since: nothing is there to be granted.
            Err(_) => return Ok(()),
        },
    };
    let held = grant.held.as_ref().map(|held| held.as_fd());
    let Some(fd) = held.or(opened.as_ref().map(AsFd::as_fd)) else { return Ok(()) };
    let kind = FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode);
    if kind != FileType::Directory {
        access &= AccessFs::from_file(abi);
    }
    if access.is_empty() {
        return Ok(());
    }
    set.add_rule(PathBeneath::new(fd, access)).map(|_| ()).map_err(io::Error::other)
}
