//! Which files of the workspace are large enough to be missed when something empties them, and whether a target that
//! is not certain may be one of them.
//!
//! The workspace is looked through only when a command empties something whose name is not known before running, and
//! once per question. The inside of repositories (`.git`) and scratch directories do not count.
//!
//! The invariant: what was too much to look through may hold a large file.

use crate::analysis::{Reach, Touch};
use crate::ground::{Ground, Kind};
use crate::pattern;
use crate::policy::Policy;
use crate::rules::TRUNCATE_ASKS_ABOVE;
use std::cell::OnceCell;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// Names looked at in the roots. More makes every command with an unknown target slow; fewer asks in ordinary
/// workspaces although nothing large is there.
pub const LOOKED_AT: usize = 20_000;

/// The large files, looked for when first needed.
#[derive(Debug, Default)]
pub(crate) struct LargeFiles {
    /// `None`: there was too much to look through.
    found: OnceCell<Option<Vec<PathBuf>>>,
}

impl LargeFiles {
    /// True when what this touch empties may be a large file.
    pub fn may_be_meant(&self, touch: &Touch, policy: &Policy, ground: &dyn Ground) -> bool {
        if is_large(&touch.path, ground) {
            return true;
        }
        let scratch = policy.scratch.as_ref().is_some_and(|s| touch.path.starts_with(s));
        match touch.reach {
            Reach::Exact => false,
            // Outside is asked about anyway, and what lies in scratch is kept for nobody.
            Reach::Below | Reach::Unknown if !policy.is_inside(&touch.path) => false,
            Reach::Below if scratch => false,
            Reach::Below | Reach::Unknown => {
                let found = self.found.get_or_init(|| search(policy, ground));
                let Some(found) = found else { return true };
                let near = |file: &Path| touch.reach == Reach::Unknown || file.starts_with(&touch.path);
                let name = |file: &Path| file.file_name().and_then(OsStr::to_str).map(str::to_owned);
                found.iter().any(|file| {
                    near(file) && name(file).is_none_or(|name| pattern::matches(&touch.names, &name))
                })
            }
        }
    }
}

fn is_large(path: &Path, ground: &dyn Ground) -> bool {
    ground.facts(path).is_some_and(|f| f.kind == Kind::File && f.size > TRUNCATE_ASKS_ABOVE)
}

fn search(policy: &Policy, ground: &dyn Ground) -> Option<Vec<PathBuf>> {
    let mut left = LOOKED_AT;
    let mut found = Vec::new();
    let mut open: Vec<PathBuf> = policy.roots.clone();
    while let Some(directory) = open.pop() {
        let closed = policy.sealed.iter().chain(&policy.scratch).chain(&policy.read_only);
        if closed.clone().any(|place| directory.starts_with(place)) || directory.ends_with(".git") {
            continue;
        }
        let Some(names) = ground.names(&directory, left) else {
            // Unreadable directories hold nothing a command could open; too full ones may hold anything.
            match ground.facts(&directory) {
                Some(f) if f.kind == Kind::Directory => return None,
                Some(_) | None => continue,
            }
        };
        left -= names.len();
        for name in names {
            let path = directory.join(name);
            match ground.facts(&path) {
                Some(f) if f.kind == Kind::Directory => open.push(path),
                Some(f) if f.kind == Kind::File && f.size > TRUNCATE_ASKS_ABOVE => found.push(path),
                Some(_) | None => {}
            }
        }
    }
    Some(found)
}
