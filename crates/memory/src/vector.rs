//! Vectors as they are stored, compared and abbreviated.
//!
//! The truth is a BLOB of f32, little-endian; the abbreviation is one bit per dimension, its sign. A stored vector that
//! does not fit is an error, never a guess.
//!
//! The invariant: encoding and decoding gives the same bits back.

/// Bytes of one number of a vector.
const WIDTH: usize = 4;

/// Why a vector cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// The bytes are no whole number of f32.
    #[error("{bytes} bytes are no vector of f32")]
    Bytes {
        /// How many there are.
        bytes: usize,
    },
    /// Another length than the model's.
    #[error("a vector of {found} dimensions where {expected} are expected")]
    Dimension {
        /// What the model gives.
        expected: usize,
        /// What this one has.
        found: usize,
    },
    /// A number that is infinite or none.
    #[error("a vector with a number that is not finite")]
    NotFinite,
}

/// The BLOB of a vector.
pub fn encode(vector: &[f32]) -> Vec<u8> {
    vector.iter().flat_map(|x| x.to_le_bytes()).collect()
}

/// Reads a BLOB back.
pub fn decode(blob: &[u8], dimension: usize) -> Result<Vec<f32>, Unusable> {
    let vector = numbers(blob, dimension)?.collect::<Vec<f32>>();
    if vector.iter().all(|x| x.is_finite()) { Ok(vector) } else { Err(Unusable::NotFinite) }
}

/// Checks what an embedding model gave.
pub fn check(vector: &[f32], dimension: usize) -> Result<(), Unusable> {
    if vector.len() != dimension {
        return Err(Unusable::Dimension { expected: dimension, found: vector.len() });
    }
    if vector.iter().all(|x| x.is_finite()) { Ok(()) } else { Err(Unusable::NotFinite) }
}

/// The cosine of two vectors, -1 to 1. None when their lengths differ or one has no direction.
pub fn cosine(a: &[f32], b: &[f32]) -> Option<f32> {
    if a.len() != b.len() { None } else { cosine_of(a, b.iter().copied()) }
}

/// The cosine of a vector and a BLOB, without copying the BLOB: 200 of them are rescored in each search.
pub fn cosine_to_blob(a: &[f32], blob: &[u8]) -> Result<Option<f32>, Unusable> {
    Ok(cosine_of(a, numbers(blob, a.len())?))
}

/// Brings a vector to length 1. False, and nothing changed, when it has no direction.
pub fn normalise(vector: &mut [f32]) -> bool {
    let length = vector.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt();
    if length == 0.0 || !length.is_finite() {
        return false;
    }
    for x in vector {
        *x = (f64::from(*x) / length) as f32;
    }
    true
}

/// One bit per dimension, the first in the lowest: set where the number is positive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Code {
    words: Vec<u64>,
    dimension: usize,
}

impl Code {
    /// The signs of a vector.
    pub fn of(vector: &[f32]) -> Self {
        let words = vector
            .chunks(64)
            .map(|part| part.iter().enumerate().fold(0, |word, (bit, x)| word | (u64::from(*x > 0.0) << bit)))
            .collect();
        Self { words, dimension: vector.len() }
    }

    /// The signs of a BLOB, without reading it into a vector first.
    pub fn of_blob(blob: &[u8], dimension: usize) -> Result<Self, Unusable> {
        let mut words = vec![0u64; dimension.div_ceil(64)];
        for (at, x) in numbers(blob, dimension)?.enumerate() {
            words[at / 64] |= u64::from(x > 0.0) << (at % 64);
        }
        Ok(Self { words, dimension })
    }

    /// How many dimensions the vector had.
    pub fn dimension(&self) -> usize {
        self.dimension
    }

    /// The bits; the last word is filled up with zeros.
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// In how many dimensions two codes differ. None when they are of different length.
    pub fn distance(&self, other: &Code) -> Option<u32> {
        let differ = || self.words.iter().zip(&other.words).map(|(a, b)| (a ^ b).count_ones()).sum();
        (self.dimension == other.dimension).then(differ)
    }
}

fn numbers(blob: &[u8], dimension: usize) -> Result<impl Iterator<Item = f32> + '_, Unusable> {
    if !blob.len().is_multiple_of(WIDTH) {
        return Err(Unusable::Bytes { bytes: blob.len() });
    }
    let found = blob.len() / WIDTH;
    if found != dimension {
        return Err(Unusable::Dimension { expected: dimension, found });
    }
    Ok(blob.chunks_exact(WIDTH).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])))
}

fn cosine_of(a: &[f32], b: impl Iterator<Item = f32>) -> Option<f32> {
    let (mut dot, mut aa, mut bb) = (0.0f64, 0.0f64, 0.0f64);
    for (x, y) in a.iter().map(|x| f64::from(*x)).zip(b.map(f64::from)) {
        dot += x * y;
        aa += x * x;
        bb += y * y;
    }
    let cosine = dot / (aa.sqrt() * bb.sqrt());
    cosine.is_finite().then(|| cosine.clamp(-1.0, 1.0) as f32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_blob_that_is_no_vector_of_the_model_is_an_error() {
        assert_eq!(decode(&[0; 7], 2), Err(Unusable::Bytes { bytes: 7 }));
        assert_eq!(decode(&[0; 8], 3), Err(Unusable::Dimension { expected: 3, found: 2 }));
        assert_eq!(decode(&encode(&[1.0, f32::NAN]), 2), Err(Unusable::NotFinite));
        assert_eq!(check(&[1.0], 2), Err(Unusable::Dimension { expected: 2, found: 1 }));
    }

    #[test]
    fn a_vector_without_direction_is_near_nothing() {
        assert_eq!(cosine(&[0.0, 0.0], &[1.0, 0.0]), None);
        assert_eq!(cosine(&[1.0], &[1.0, 0.0]), None);
        assert!(!normalise(&mut [0.0, 0.0]));
    }

    #[test]
    fn one_is_stored_as_three_f_eight() {
        assert_eq!(encode(&[1.0]), [0, 0, 0x80, 0x3f]);
    }

    proptest! {
        #[test]
        fn what_was_stored_is_read_back(v in prop::collection::vec(-1e6f32..1e6, 0..200)) {
            let blob = encode(&v);
            prop_assert_eq!(decode(&blob, v.len()), Ok(v.clone()));
            prop_assert_eq!(Code::of_blob(&blob, v.len()), Ok(Code::of(&v)));
            prop_assert_eq!(cosine_to_blob(&v, &blob), Ok(cosine(&v, &v)));
        }

        #[test]
        fn codes_differ_where_signs_differ(
            pairs in prop::collection::vec((-1f32..1.0, -1f32..1.0), 1..300),
        ) {
            let (a, b): (Vec<f32>, Vec<f32>) = pairs.iter().copied().unzip();
            let expected = pairs.iter().filter(|(x, y)| (*x > 0.0) != (*y > 0.0)).count() as u32;
            prop_assert_eq!(Code::of(&a).distance(&Code::of(&b)), Some(expected));
        }

        #[test]
        fn a_vector_is_its_own_direction(mut v in prop::collection::vec(-100f32..100.0, 1..100)) {
            prop_assume!(v.iter().any(|x| x.abs() > 1e-3));
            let before = v.clone();
            prop_assert!(normalise(&mut v));
            prop_assert!((cosine(&v, &before).expect("a direction") - 1.0).abs() < 1e-4);
            prop_assert!((v.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-3);
        }
    }
}
