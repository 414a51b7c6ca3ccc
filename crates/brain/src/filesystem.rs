//! Which file systems can hold a brain: those whose locks and fsync mean what SQLite needs them to mean.
//!
//! The judgement is a table over the magic number of `statfs`; nothing is probed by writing.

use std::path::Path;

/// What a file system is to a brain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Known, and good: its name.
    Local(&'static str),
    /// Known to break locks or shared memory between machines: its name.
    Refused(&'static str),
    /// Not in the table; used with a warning.
    Unknown(u64),
}

const REFUSED: &[(u64, &str)] =
    &[(0x6969, "NFS"), (0x0102_1997, "9p"), (0x6573_5546, "FUSE or virtiofs"), (0x6a65_6a63, "virtiofs")];

const LOCAL: &[(u64, &str)] = &[
    (0xef53, "ext4"),
    (0x5846_5342, "xfs"),
    (0x9123_683e, "btrfs"),
    (0x0102_1994, "tmpfs"),
    (0x8584_58f6, "ramfs"),
    (0x794c_7630, "overlayfs"),
    (0xf2f5_2010, "f2fs"),
    (0x2fc1_2fc1, "zfs"),
    (0xca45_1a4e, "bcachefs"),
    (0x3153_464a, "jfs"),
    (0x5265_4973, "reiserfs"),
];

/// Judges a magic number.
pub fn classify(magic: u64) -> Kind {
    let named = |table: &[(u64, &'static str)]| table.iter().find(|(m, _)| *m == magic).map(|(_, n)| *n);
    match (named(REFUSED), named(LOCAL)) {
        (Some(name), _) => Kind::Refused(name),
        (None, Some(name)) => Kind::Local(name),
        (None, None) => Kind::Unknown(magic),
    }
}

/// Judges the file system that holds `dir`.
pub fn of(dir: &Path) -> std::io::Result<Kind> {
    let found = rustix::fs::statfs(dir)?;
    // The field is signed on some targets; only its low 32 bits are the number of the manual page.
    #[allow(clippy::cast_sign_loss, clippy::unnecessary_cast)]
    let magic = (found.f_type as u64) & 0xffff_ffff;
    Ok(classify(magic))
}

/// Bytes an ordinary user can still write where `dir` is; `None` when the system does not say.
pub fn free_bytes(dir: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(dir).ok()?;
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}
