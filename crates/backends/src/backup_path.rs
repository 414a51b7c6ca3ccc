//! Which paths the file calls of a backend accept: files below `/data/backups`, and nothing else.
//!
//! Pure. The one invariant: an accepted path has no part that climbs, so joining it to a directory stays below it.

use crate::{BackendError, Result};

/// Where an engine keeps what may be carried in and out.
pub(crate) const BACKUPS: &str = "/data/backups";

/// Longest accepted path in bytes. Larger is refused by file systems anyway; smaller would refuse generated names.
const PATH_MAX_BYTES: usize = 1024;

/// The part of the path below `/data/backups`; [`BackendError::Refused`] for every other path.
pub(crate) fn below_backups(path: &str) -> Result<&str> {
    let refused = || BackendError::Refused(format!("path is not a file below {BACKUPS}"));
    let rest = path.strip_prefix(BACKUPS).and_then(|rest| rest.strip_prefix('/')).ok_or_else(refused)?;
    let plain = |part: &str| !part.is_empty() && part != "." && part != "..";
    let clean = rest.len() <= PATH_MAX_BYTES && !rest.chars().any(char::is_control);
    if clean && rest.split('/').all(plain) { Ok(rest) } else { Err(refused()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_paths_below_the_backups_are_accepted() {
        assert_eq!(below_backups("/data/backups/a.sqlite"), Ok("a.sqlite"));
        assert_eq!(below_backups("/data/backups/2026/a.sqlite"), Ok("2026/a.sqlite"));
        for path in [
            "/data/backups",
            "/data/backups/",
            "/data/brain.sqlite",
            "/data/backups/../brain.sqlite",
            "/data/backups/a/../../brain.sqlite",
            "/data/backups//a",
            "/data/backups/./a",
            "/data/backups/a/",
            "/data/backups/a\0b",
            "/data/backupsx/a",
            "a.sqlite",
            "",
        ] {
            assert!(matches!(below_backups(path), Err(BackendError::Refused(_))), "{path:?}");
        }
    }
}
