//! What the kernel offers, asked once; and a mask that pretends it offers less.
//!
//! The mask is for tests: every mode of the sandbox is tried on one machine. It is a field of the launcher's
//! configuration and has no variable, so nobody can weaken a running Engine with it.
//!
//! The invariant: an answer comes from trying the thing itself, never from a version number.

use super::child;
use super::refused;
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, Ruleset, RulesetAttr, Scope,
};

/// The newest landlock this code knows; the kernel gets what it supports of it.
pub const NEWEST: ABI = ABI::V9;

/// What is treated as missing although it may be there. Nothing, by default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mask {
    /// Landlock beyond this ABI; 0 hides landlock altogether.
    pub landlock_beyond: Option<u8>,
    /// Seccomp filters.
    pub seccomp: bool,
    /// User namespaces, and with them bubblewrap.
    pub namespaces: bool,
    /// Control groups.
    pub cgroups: bool,
}

/// What the kernel's landlock can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Landlock {
    /// The ABI in use: the kernel's, [`NEWEST`] or the mask's, whichever is the lowest.
    pub abi: ABI,
}

impl Landlock {
    /// Asks the kernel; `None` when there is no landlock.
    pub fn detect(mask: Mask) -> Option<Self> {
        let most = mask.landlock_beyond.map_or(NEWEST as i32, i32::from);
        // The kernel's word, checked: a ruleset with everything of that ABI must be taken.
        let abi = ABI::from(child::landlock_version().min(NEWEST as i32).min(most));
        if abi == ABI::Unsupported || !offered(abi) {
            return None;
        }
        Some(Self { abi })
    }

    fn has(self, abi: ABI) -> bool {
        self.abi as i32 >= abi as i32
    }

    /// Emptying a file counts as writing it (ABI 3).
    pub fn sees_truncation(self) -> bool {
        self.has(ABI::V3)
    }

    /// TCP connect and bind can be refused (ABI 4).
    pub fn tcp(self) -> bool {
        self.has(ABI::V4)
    }

    /// Signals and abstract unix sockets can be confined (ABI 6).
    pub fn scopes(self) -> bool {
        self.has(ABI::V6)
    }

    /// Unix sockets by path can be confined (ABI 9).
    pub fn unix_paths(self) -> bool {
        self.has(ABI::V9)
    }
}

/// True when the kernel takes a ruleset with everything of this ABI.
fn offered(abi: ABI) -> bool {
    let strict = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    let (net, scope): (BitFlags<AccessNet>, BitFlags<Scope>) =
        (AccessNet::from_all(abi), Scope::from_all(abi));
    let made = strict.handle_access(AccessFs::from_all(abi)).and_then(|r| match net.is_empty() {
        true => Ok(r),
        false => r.handle_access(net),
    });
    let made = made.and_then(|r| match scope.is_empty() {
        true => Ok(r),
        false => r.scope(scope),
    });
    made.and_then(Ruleset::create).is_ok()
}

/// How many system calls are refused whatever their arguments, for the report.
pub fn refused_calls() -> usize {
    refused::GROUPS.iter().map(|g| g.calls.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_lowers_what_is_found_and_never_raises_it() {
        let Some(real) = Landlock::detect(Mask::default()) else { return };
        for beyond in 1..=9_u8 {
            let found = Landlock::detect(Mask { landlock_beyond: Some(beyond), ..Mask::default() });
            let found = found.expect("landlock is there");
            assert_eq!(found.abi as i32, (real.abi as i32).min(i32::from(beyond)));
        }
        assert_eq!(Landlock::detect(Mask { landlock_beyond: Some(0), ..Mask::default() }), None);
    }
}
