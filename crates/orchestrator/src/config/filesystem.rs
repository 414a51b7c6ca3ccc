//! Which file systems can hold brains: those whose locks and fsync mean what SQLite needs them to mean.
//!
//! The judgement is a table over the magic number of `statfs`; nothing is probed by writing. The engine refuses
//! such a place, too, but only when it boots: here it is one message to the operator instead of a failed fleet.

use std::path::Path;

/// Known to break locks or shared memory between machines.
const REFUSED: [(u64, &str); 4] =
    [(0x6969, "NFS"), (0x0102_1997, "9p"), (0x6573_5546, "FUSE or virtiofs"), (0x6a65_6a63, "virtiofs")];

/// The name of a file system that must not hold brains; `None` for every other.
pub fn refused(magic: u64) -> Option<&'static str> {
    REFUSED.iter().find(|(number, _)| *number == magic).map(|(_, name)| *name)
}

/// The magic number of the file system that holds `dir`.
pub fn magic_of(dir: &Path) -> std::io::Result<u64> {
    let found = rustix::fs::statfs(dir)?;
    // The field is signed on some targets; only its low 32 bits are the number of the manual page.
    #[allow(clippy::cast_sign_loss, clippy::unnecessary_cast)]
    Ok((found.f_type as u64) & 0xffff_ffff)
}

/// Bytes an ordinary user can still write where `dir` is; `None` when the system does not say.
pub fn free_bytes(dir: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(dir).ok()?;
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}
