//! Any bytes as a bundle of memories: nothing panics, what is refused says where and why, and the same bytes get the same
//! judgement twice.

use engine::memory::bundle::{ImportError, judged};

/// Longest explanation. A longer one repeats the bundle instead of naming the place.
const EXPLANATION_MAX_BYTES: usize = 4_000;

/// What must hold for any bytes.
pub fn holds(data: &[u8]) {
    let first = judged(data);
    match &first {
        Ok(_) => {}
        Err(ImportError::NotJson(said)) => explained(said),
        Err(ImportError::Refused(refusal)) => {
            assert!(refusal.pointer.is_empty() || refusal.pointer.starts_with('/'), "{refusal:?}");
            explained(&refusal.expected);
        }
        Err(ImportError::Brain(error)) => panic!("a judgement needs no brain: {error}"),
    }
    assert_eq!(format!("{first:?}"), format!("{:?}", judged(data)));
}

fn explained(text: &str) {
    assert!(!text.is_empty() && text.len() <= EXPLANATION_MAX_BYTES, "{} bytes: {text}", text.len());
}
