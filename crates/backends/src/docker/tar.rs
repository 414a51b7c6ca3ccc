//! Just enough of the tar format to carry one file in and one file out of a container.
//!
//! It refuses everything but regular files on the way out. The one invariant: what is handed on is exactly the
//! content of one file, complete or an error.

use bytes::{Buf, Bytes};
use std::io::{Error, ErrorKind};

/// Size of a header, and what every content is padded to.
const BLOCK: usize = 512;
/// Largest size that fits in the classic eleven octal digits; beyond it the binary form is written.
const OCTAL_MAX: u64 = 0o77_777_777_777;
/// Longest name in a classic header. Longer names would need an extension record.
pub(crate) const NAME_MAX_BYTES: usize = 99;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entry {
    /// A directory, mode 0700.
    Directory,
    /// A regular file of that size, mode 0600.
    File(u64),
}

/// The header of one entry owned by that user and group.
pub(crate) fn header(name: &str, entry: Entry, owner: (u32, u32)) -> Result<Bytes, Error> {
    if name.len() > NAME_MAX_BYTES {
        return Err(Error::new(ErrorKind::InvalidInput, "file name is too long"));
    }
    let (kind, mode, size) = match entry {
        Entry::Directory => (b'5', 0o700, 0),
        Entry::File(size) => (b'0', 0o600, size),
    };
    let mut block = [0_u8; BLOCK];
    block[..name.len()].copy_from_slice(name.as_bytes());
    octal(&mut block[100..108], mode);
    octal(&mut block[108..116], u64::from(owner.0));
    octal(&mut block[116..124], u64::from(owner.1));
    if size <= OCTAL_MAX {
        octal(&mut block[124..136], size);
    } else {
        block[124] = 0x80;
        block[128..136].copy_from_slice(&size.to_be_bytes());
    }
    octal(&mut block[136..148], 0);
    block[156] = kind;
    block[257..265].copy_from_slice(b"ustar\x0000");
    block[148..156].fill(b' ');
    let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    octal(&mut block[148..155], sum);
    Ok(Bytes::copy_from_slice(&block))
}

/// Zeros that fill up a content of that size, and end the archive.
pub(crate) fn ending(size: u64) -> Bytes {
    let padding = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
    // Below one block, and two empty blocks end an archive.
    Bytes::from(vec![0; padding as usize + 2 * BLOCK])
}

/// Digits to the end of the field, closed by a zero byte.
fn octal(field: &mut [u8], value: u64) {
    let digits = field.len() - 1;
    let text = format!("{value:0digits$o}");
    field[..digits].copy_from_slice(&text.as_bytes()[text.len() - digits..]);
}

enum Part {
    Header(Vec<u8>),
    Skip(u64),
    File(u64),
    Done,
}

/// Takes an archive apart as it arrives.
pub(crate) struct Unpack(Part);

impl Unpack {
    /// Waits for the first header.
    pub fn new() -> Self {
        Self(Part::Header(Vec::with_capacity(BLOCK)))
    }

    /// The file is complete.
    pub fn is_done(&self) -> bool {
        matches!(self.0, Part::Done)
    }

    /// What of the first regular file is in this piece of the archive.
    pub fn take(&mut self, mut piece: Bytes) -> Result<Vec<Bytes>, Error> {
        let mut content = Vec::new();
        while !piece.is_empty() {
            match &mut self.0 {
                Part::Done => return Ok(content),
                Part::Header(block) => {
                    let wanted = (BLOCK - block.len()).min(piece.len());
                    block.extend_from_slice(&piece.split_to(wanted));
                    if block.len() == BLOCK {
                        self.0 = after_header(block)?;
                    }
                }
                Part::Skip(left) => {
                    let skipped = usize::try_from(*left).unwrap_or(usize::MAX).min(piece.len());
                    piece.advance(skipped);
                    *left -= skipped as u64;
                    if *left == 0 {
                        self.0 = Part::Header(Vec::with_capacity(BLOCK));
                    }
                }
                Part::File(left) => {
                    let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(piece.len());
                    content.push(piece.split_to(taken));
                    *left -= taken as u64;
                    if *left == 0 {
                        self.0 = Part::Done;
                    }
                }
            }
        }
        Ok(content)
    }
}

fn after_header(block: &[u8]) -> Result<Part, Error> {
    let size =
        number(&block[124..136]).ok_or_else(|| Error::new(ErrorKind::InvalidData, "archive is damaged"))?;
    match block[156] {
        b'0' | 0 if size == 0 => Ok(Part::Done),
        b'0' | 0 => Ok(Part::File(size)),
        // Records that describe the entry after them.
        b'x' | b'g' | b'L' | b'K' => Ok(match size.next_multiple_of(BLOCK as u64) {
            0 => Part::Header(Vec::with_capacity(BLOCK)),
            padded => Part::Skip(padded),
        }),
        _ => Err(Error::new(ErrorKind::InvalidInput, "not a regular file")),
    }
}

fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        return Some(u64::from_be_bytes(field[4..12].try_into().ok()?));
    }
    let text = std::str::from_utf8(field).ok()?;
    u64::from_str_radix(text.trim_matches(|c| c == '\0' || c == ' '), 8).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(content: &[u8]) -> Vec<u8> {
        let mut all = Vec::new();
        // As the daemon does for long names: a record before the file.
        let mut record = header("PaxHeaders", Entry::File(20), (0, 0)).expect("short").to_vec();
        record[156] = b'x';
        all.extend_from_slice(&record);
        all.extend_from_slice(&[b'p'; 20]);
        all.extend_from_slice(&[0; BLOCK - 20]);
        all.extend_from_slice(&header("a.sqlite", Entry::File(content.len() as u64), (1, 2)).expect("short"));
        all.extend_from_slice(content);
        all.extend_from_slice(&ending(content.len() as u64));
        all
    }

    #[test]
    fn a_file_comes_out_whole_however_the_archive_is_cut() {
        let content: Vec<u8> = (0..3000_u32).map(|n| (n % 251) as u8).collect();
        let all = archive(&content);
        for cut in [1, 7, 511, 512, 513, 4096] {
            let mut unpack = Unpack::new();
            let mut out = Vec::new();
            for piece in all.chunks(cut) {
                for part in unpack.take(Bytes::copy_from_slice(piece)).expect("well formed") {
                    out.extend_from_slice(&part);
                }
            }
            assert!(unpack.is_done() && out == content, "cut into {cut}");
        }
        let mut empty = Unpack::new();
        assert!(empty.take(archive(b"").into()).expect("well formed").is_empty() && empty.is_done());
    }

    #[test]
    fn a_cut_archive_is_not_done_and_a_directory_is_refused() {
        let all = archive(&[1; 1000]);
        let mut unpack = Unpack::new();
        unpack.take(Bytes::copy_from_slice(&all[..1700])).expect("so far");
        assert!(!unpack.is_done());
        let directory = header("backups/", Entry::Directory, (0, 0)).expect("short");
        Unpack::new().take(directory).expect_err("a directory");
    }

    #[test]
    fn sizes_beyond_eight_gibibytes_survive() {
        for size in [0, OCTAL_MAX, OCTAL_MAX + 1, 1 << 40] {
            let block = header("a", Entry::File(size), (10001, 10001)).expect("short");
            assert_eq!(number(&block[124..136]), Some(size));
        }
    }
}
