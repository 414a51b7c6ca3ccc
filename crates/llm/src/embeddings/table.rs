//! The built-in table of word pieces, as it lies in the program: nothing is read, parsed or built at start.
//!
//! The file is checked when the program is compiled; a damaged one does not build. The pieces are sorted, so a look-up
//! is a binary search over the file's own bytes. What the file holds and how it is made:
//! `docs/reference/local-embeddings.md`.

use std::cmp::Ordering;

static FILE: &[u8] = include_bytes!("../../assets/local-embeddings.bin");

/// The table this program was built with.
pub static BUILTIN: Table<'static> = match Table::open(FILE) {
    Some(table) => table,
    None => panic!("local-embeddings.bin is damaged; scripts/distil-embeddings.py makes it"),
};

/// How many numbers a vector of the table has.
pub const DIMS: usize = 256;

/// The longest piece, in bytes. Smaller would miss pieces; larger makes look-ups that cannot succeed.
pub const LONGEST_PIECE_BYTES: usize = 18;

const MAGIC: &[u8; 8] = b"SEPTWORD";
const HEAD_BYTES: usize = 8 + 4 * 4 + 32;

/// A table, as slices of its file.
#[derive(Clone, Copy)]
pub struct Table<'a> {
    edition: u32,
    count: usize,
    /// Where the pieces end, u32 each, after a first 0.
    ends: &'a [u8],
    /// What one step of a row is worth, f32 each.
    scales: &'a [u8],
    /// [`DIMS`] steps per piece, i8 each.
    rows: &'a [u8],
    /// The pieces, one after another, sorted by bytes.
    text: &'a [u8],
}

/// One piece's vector: steps, and what a step is worth.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    /// What a step is worth.
    pub scale: f32,
    /// The steps, i8 each.
    pub steps: &'a [u8],
}

impl<'a> Table<'a> {
    /// Takes a file apart. `None` when it is not a table of [`DIMS`] numbers per piece, or is cut off.
    pub const fn open(file: &'a [u8]) -> Option<Self> {
        let Some((head, rest)) = file.split_at_checked(HEAD_BYTES) else { return None };
        let mut at = 0;
        while at < MAGIC.len() {
            if head[at] != MAGIC[at] {
                return None;
            }
            at += 1;
        }
        let (edition, dims) = (number(head, 8), number(head, 12) as usize);
        let (count, text_bytes) = (number(head, 16) as usize, number(head, 20) as usize);
        if dims != DIMS || count > MAX_PIECES {
            return None;
        }
        let Some((ends, rest)) = rest.split_at_checked(4 * (count + 1)) else { return None };
        let Some((scales, rest)) = rest.split_at_checked(4 * count) else { return None };
        let Some((rows, text)) = rest.split_at_checked(DIMS * count) else { return None };
        if text.len() != text_bytes || number(ends, 4 * count) as usize != text_bytes {
            return None;
        }
        Some(Self { edition, count, ends, scales, rows, text })
    }

    /// Which edition: another one's vectors must not be compared with this one's.
    pub const fn edition(&self) -> u32 {
        self.edition
    }

    /// How many pieces there are.
    pub const fn count(&self) -> usize {
        self.count
    }

    /// The piece at this place.
    pub fn piece(&self, place: usize) -> &'a [u8] {
        &self.text[number(self.ends, 4 * place) as usize..number(self.ends, 4 * place + 4) as usize]
    }

    /// The vector at this place.
    pub fn row(&self, place: usize) -> Row<'a> {
        let scale = f32::from_bits(number(self.scales, 4 * place));
        Row { scale, steps: &self.rows[DIMS * place..DIMS * (place + 1)] }
    }

    /// Where the piece that consists of these two parts is.
    pub fn find(&self, mark: &str, rest: &str) -> Option<usize> {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low + (high - low) / 2;
            match compare(self.piece(middle), mark.as_bytes(), rest.as_bytes()) {
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
                Ordering::Equal => return Some(middle),
            }
        }
        None
    }
}

/// Most pieces of a table. More is not a table but a damaged head, and would overflow the sizes computed from it.
const MAX_PIECES: usize = 1 << 20;

/// Compares a piece with two parts as if they were one.
fn compare(piece: &[u8], mark: &[u8], rest: &[u8]) -> Ordering {
    match piece.split_at_checked(mark.len()) {
        Some((head, tail)) => head.cmp(mark).then_with(|| tail.cmp(rest)),
        None => piece.cmp(mark),
    }
}

/// The u32 at this byte.
const fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pieces_are_sorted_and_every_one_is_found_where_it_is() {
        let mut longest = 0;
        for place in 0..BUILTIN.count() {
            let piece = std::str::from_utf8(BUILTIN.piece(place)).expect("pieces are UTF-8");
            assert_eq!(BUILTIN.find("", piece), Some(place));
            if let Some(inside) = piece.strip_prefix("##") {
                assert_eq!(BUILTIN.find("##", inside), Some(place));
            }
            assert!(place == 0 || BUILTIN.piece(place - 1) < piece.as_bytes(), "{piece}");
            longest = longest.max(piece.len());
        }
        assert_eq!((BUILTIN.count(), longest), (29_523, LONGEST_PIECE_BYTES));
        for absent in ["", "the ", "thee!", "[UNK]", "[unused3]", "\u{10FFFF}"] {
            assert_eq!(BUILTIN.find("", absent), None, "{absent}");
        }
    }

    #[test]
    fn every_row_is_of_finite_numbers_and_not_empty() {
        for place in 0..BUILTIN.count() {
            let row = BUILTIN.row(place);
            assert!(row.scale.is_finite() && row.scale > 0.0, "{place}");
            assert!(row.steps.iter().any(|s| s.cast_signed().unsigned_abs() == 127), "{place}");
        }
    }

    #[test]
    fn a_damaged_file_is_not_a_table() {
        assert!(Table::open(FILE).is_some());
        for cut in [0, 7, HEAD_BYTES - 1, HEAD_BYTES, HEAD_BYTES + 100, FILE.len() - 1] {
            assert!(Table::open(&FILE[..cut]).is_none(), "cut at {cut}");
        }
        for (at, byte) in [(0, b'X'), (13, 2), (16, 0), (19, 255), (20, 0)] {
            let mut damaged = FILE.to_vec();
            damaged[at] = byte;
            assert!(Table::open(&damaged).is_none(), "byte {at}");
        }
        let longer = [FILE, b"x"].concat();
        assert!(Table::open(&longer).is_none());
    }
}
