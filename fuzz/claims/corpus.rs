//! The seeds of a fuzz target and a fixed number of mutations of them, for machines without cargo-fuzz.
//!
//! Nothing here is random: the same seeds give the same mutations in every run, so that a failure can be repeated.
//! It looks for no coverage; that is cargo-fuzz's work.

use std::fs;
use std::path::PathBuf;

/// Fewest seeds of a target. With fewer, mutations cannot borrow from one another.
const SEEDS_MIN: usize = 4;
/// Most changes of one mutation beyond the first. More leave nothing of the seed, and the first check ends the claim.
const CHANGES_MAX: usize = 5;
/// Longest piece that is moved at once. Longer ones mostly repeat the seed.
const PIECE_MAX: usize = 24;
/// Bytes that mean something in one of the languages the targets read.
const SPICE: &[u8] = b"\"'`$(){}[]<>|&;:,#\\*?~!= \n\r\t-/.019aeu\x00\x7f\xc3\xa9\xef\xbb\xbf\xff";

/// Holds the claim against every seed of `target` and against `mutations` changed ones.
pub fn held(target: &str, mutations: usize, claim: impl Fn(&[u8])) {
    let seeds = seeds(target);
    seeds.iter().for_each(|seed| claim(seed));
    let mut dice = Dice(0x5eed_cafe);
    for _ in 0..mutations {
        let mut bytes = seeds[dice.roll(seeds.len())].clone();
        for _ in 0..=dice.roll(CHANGES_MAX) {
            change(&mut bytes, &seeds, &mut dice);
        }
        claim(&bytes);
    }
}

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder: PathBuf = [env!("CARGO_MANIFEST_DIR"), "..", "..", "fuzz", "corpus", target].iter().collect();
    let entries = fs::read_dir(&folder).expect("every target has a folder of seeds");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("can be listed").path()).collect();
    paths.sort();
    let seeds: Vec<Vec<u8>> = paths.iter().map(|path| fs::read(path).expect("a seed is a file")).collect();
    assert!(seeds.len() >= SEEDS_MIN, "{target} has {} seeds", seeds.len());
    seeds
}

fn change(bytes: &mut Vec<u8>, seeds: &[Vec<u8>], dice: &mut Dice) {
    let at = dice.roll(bytes.len() + 1);
    match dice.roll(5) {
        0 => bytes.insert(at, SPICE[dice.roll(SPICE.len())]),
        1 if at < bytes.len() => {
            bytes.remove(at);
        }
        2 if at < bytes.len() => bytes[at] ^= 1 << dice.roll(8),
        3 => {
            let piece = piece(&seeds[dice.roll(seeds.len())], dice);
            bytes.splice(at..at, piece);
        }
        _ => {
            let piece = piece(bytes, dice);
            let end = (at + dice.roll(PIECE_MAX)).min(bytes.len());
            bytes.splice(at..end, piece);
        }
    }
}

fn piece(from: &[u8], dice: &mut Dice) -> Vec<u8> {
    let start = dice.roll(from.len() + 1);
    let end = (start + dice.roll(PIECE_MAX)).min(from.len());
    from[start..end].to_vec()
}

/// A small generator: the tests must give the same bytes every time.
pub struct Dice(pub u64);

impl Dice {
    /// A number below `below`, or zero.
    pub fn roll(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % (below.max(1) as u64)).expect("smaller than a usize")
    }
}
