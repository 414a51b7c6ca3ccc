//! The sign codes of one store in RAM, and the scan that finds the nearest.
//!
//! A scan reads every code once; there is no index to build, to tune or to go wrong. Codes lie in blocks, and inside a
//! block the first words of all its rows stand together, then the second words: so the distances of a block are counted
//! in loops that the compiler turns into vector instructions. What is found are only candidates; the caller rescores
//! them with the stored vectors.
//!
//! The invariant: the mirror holds exactly the rows inserted and not removed, and the result depends on those alone,
//! not on the order of insertions and removals.

use crate::vector::{Code, Unusable};
use multiversion::multiversion;
use std::collections::HashMap;

/// Rows of a block. Larger leaves the first-level cache with the distances of a block; smaller makes the loops short.
const BLOCK_ROWS: usize = 1024;

/// Rows from which on a scan is shared between two threads. Smaller starts a thread for less than the thread costs; larger
/// leaves a core idle while a search waits.
const SHARED_ROWS: usize = 64 * BLOCK_ROWS;

/// A row found by a scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Near {
    /// Its id.
    pub id: i64,
    /// In how many dimensions its sign differs.
    pub distance: u32,
}

/// The codes of one store, all of one dimension.
#[derive(Debug, Clone)]
pub struct Mirror {
    dimension: usize,
    /// Words of one code.
    width: usize,
    /// Block after block; in a block word after word; for each word its rows. The last block is filled up with zeros.
    codes: Vec<u64>,
    /// The id of each row.
    ids: Vec<i64>,
    rows: HashMap<i64, u32>,
}

impl Mirror {
    /// An empty mirror for vectors of this length.
    pub fn new(dimension: usize) -> Self {
        let width = dimension.div_ceil(64);
        Self { dimension, width, codes: Vec::new(), ids: Vec::new(), rows: HashMap::new() }
    }

    /// The length of the vectors it is for.
    pub fn dimension(&self) -> usize {
        self.dimension
    }

    /// How many rows it holds.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// True without rows.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// True when it holds the row.
    pub fn contains(&self, id: i64) -> bool {
        self.rows.contains_key(&id)
    }

    /// Puts a row in, or its new code in the place of the old one.
    pub fn insert(&mut self, id: i64, code: &Code) -> Result<(), Unusable> {
        self.fits(code)?;
        let row = match self.rows.get(&id) {
            Some(row) => *row as usize,
            None => {
                let row = self.ids.len();
                if row.is_multiple_of(BLOCK_ROWS) {
                    self.codes.resize(self.codes.len() + BLOCK_ROWS * self.width, 0);
                }
                self.ids.push(id);
                self.rows.insert(id, u32::try_from(row).expect("a brain holds fewer than 2^32 rows"));
                row
            }
        };
        for (word, bits) in code.words().iter().enumerate() {
            let at = self.at(row, word);
            self.codes[at] = *bits;
        }
        Ok(())
    }

    /// Takes a row out; true when it was there. The last row moves into its place.
    pub fn remove(&mut self, id: i64) -> bool {
        let Some(row) = self.rows.remove(&id) else { return false };
        let last = self.ids.len() - 1;
        for word in 0..self.width {
            let (from, to) = (self.at(last, word), self.at(row as usize, word));
            self.codes[to] = self.codes[from];
            // Nothing of a forgotten row stays in memory.
            self.codes[from] = 0;
        }
        self.ids.swap_remove(row as usize);
        if let Some(moved) = self.ids.get(row as usize) {
            self.rows.insert(*moved, row);
        }
        if last.is_multiple_of(BLOCK_ROWS) {
            self.codes.truncate(last / BLOCK_ROWS * BLOCK_ROWS * self.width);
        }
        true
    }

    /// Forgets everything and takes another dimension: the model has changed.
    pub fn reset(&mut self, dimension: usize) {
        *self = Self::new(dimension);
    }

    /// The `n` rows that differ least from the code, nearest first; rows of the same distance with the larger id first,
    /// which is the newer row.
    pub fn nearest(&self, code: &Code, n: usize) -> Result<Vec<Near>, Unusable> {
        self.fits(code)?;
        let n = n.min(self.len());
        if n == 0 {
            return Ok(Vec::new());
        }
        let distances = self.distances(code.words());
        let mut counts = vec![0usize; self.dimension + 1];
        for distance in &distances {
            counts[*distance as usize] += 1;
        }
        // The distance up to which rows are wanted: of the last one perhaps not all.
        let mut below = 0;
        let mut limit = self.dimension;
        for (distance, count) in counts.iter().enumerate() {
            if below + count >= n {
                limit = distance;
                break;
            }
            below += count;
        }
        let mut found = Vec::with_capacity(n);
        let mut edge = Vec::new();
        for (distance, id) in distances.iter().zip(&self.ids) {
            let distance = usize::from(*distance);
            if distance < limit {
                found.push(Near { id: *id, distance: distance as u32 });
            } else if distance == limit {
                edge.push(*id);
            }
        }
        edge.sort_unstable_by(|a, b| b.cmp(a));
        edge.truncate(n - below);
        found.sort_unstable_by(|a, b| a.distance.cmp(&b.distance).then(b.id.cmp(&a.id)));
        found.extend(edge.into_iter().map(|id| Near { id, distance: limit as u32 }));
        Ok(found)
    }

    /// The distance of every row.
    fn distances(&self, query: &[u64]) -> Vec<u16> {
        let mut distances = vec![0u16; self.ids.len()];
        if distances.len() < SHARED_ROWS {
            count(&self.codes, query, &mut distances);
            return distances;
        }
        let first = distances.len() / BLOCK_ROWS / 2 * BLOCK_ROWS;
        let (codes, more_codes) = self.codes.split_at(first * self.width);
        let (out, more_out) = distances.split_at_mut(first);
        let shared = std::thread::scope(|scope| {
            let other = std::thread::Builder::new().name("memory-scan".to_owned());
            let started = other.spawn_scoped(scope, || count(codes, query, out)).is_ok();
            count(more_codes, query, more_out);
            started
        });
        if !shared {
            // The system has no thread to spare.
            count(codes, query, out);
        }
        distances
    }

    fn at(&self, row: usize, word: usize) -> usize {
        row / BLOCK_ROWS * BLOCK_ROWS * self.width + word * BLOCK_ROWS + row % BLOCK_ROWS
    }

    fn fits(&self, code: &Code) -> Result<(), Unusable> {
        if code.dimension() == self.dimension {
            Ok(())
        } else {
            Err(Unusable::Dimension { expected: self.dimension, found: code.dimension() })
        }
    }
}

/// The distances of some blocks; every row of `out` begins at 0. Compiled three times, because counting bits takes a third
/// of the time with the vector instructions that most processors have and the plain target leaves out.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512vl", "x86_64+avx2"))]
fn count(codes: &[u64], query: &[u64], out: &mut [u16]) {
    let block_words = BLOCK_ROWS * query.len().max(1);
    for (block, out) in codes.chunks_exact(block_words).zip(out.chunks_mut(BLOCK_ROWS)) {
        for (column, wanted) in block.chunks_exact(BLOCK_ROWS).zip(query) {
            for (distance, bits) in out.iter_mut().zip(column) {
                *distance += (bits ^ wanted).count_ones() as u16;
            }
        }
    }
}
