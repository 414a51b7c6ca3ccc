//! The mirror against the plainest thing that could stand in its place.

use memory::mirror::{Mirror, Near};
use memory::vector::{Code, Unusable};
use proptest::prelude::*;
use std::collections::BTreeMap;

fn code(seed: u64, dimension: usize) -> Code {
    // A fixed generator: tests that differ from run to run cannot be repeated.
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let vector: Vec<f32> = (0..dimension)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            if state & 1 == 1 { 1.0 } else { -1.0 }
        })
        .collect();
    Code::of(&vector)
}

fn oracle(rows: &BTreeMap<i64, Code>, query: &Code, n: usize) -> Vec<Near> {
    let mut all: Vec<Near> = rows
        .iter()
        .map(|(id, code)| Near { id: *id, distance: code.distance(query).expect("the same dimension") })
        .collect();
    all.sort_by_key(|near| (near.distance, std::cmp::Reverse(near.id)));
    all.truncate(n);
    all
}

#[derive(Debug, Clone)]
enum Step {
    Insert(i64, u64),
    Remove(i64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0..60i64, 0..40u64).prop_map(|(id, seed)| Step::Insert(id, seed)),
        1 => (0..60i64).prop_map(Step::Remove),
    ];
    prop::collection::vec(step, 0..150)
}

proptest! {
    #[test]
    fn a_scan_finds_what_comparing_every_row_finds(
        steps in steps(),
        dimension in prop::sample::select(vec![1usize, 63, 64, 65, 256]),
        query in 0..50u64,
        n in 0..70usize,
    ) {
        let (mut mirror, mut rows) = (Mirror::new(dimension), BTreeMap::new());
        for step in steps {
            match step {
                Step::Insert(id, seed) => {
                    mirror.insert(id, &code(seed, dimension)).expect("it fits");
                    rows.insert(id, code(seed, dimension));
                }
                Step::Remove(id) => prop_assert_eq!(mirror.remove(id), rows.remove(&id).is_some()),
            }
        }
        prop_assert_eq!(mirror.len(), rows.len());
        let query = code(query, dimension);
        prop_assert_eq!(mirror.nearest(&query, n).expect("it fits"), oracle(&rows, &query, n));
    }
}

#[test]
fn rows_of_several_blocks_are_found_and_removed() {
    let (mut mirror, mut rows) = (Mirror::new(96), BTreeMap::new());
    for id in 0..3000 {
        mirror.insert(id, &code(id as u64, 96)).expect("it fits");
        rows.insert(id, code(id as u64, 96));
    }
    let query = code(7777, 96);
    assert_eq!(mirror.nearest(&query, 200).expect("it fits"), oracle(&rows, &query, 200));
    for id in (0..3000).filter(|id| id % 3 != 0) {
        assert!(mirror.remove(id));
        rows.remove(&id);
    }
    assert_eq!(mirror.nearest(&query, 200).expect("it fits"), oracle(&rows, &query, 200));
    for id in (0..3000).filter(|id| id % 3 == 0) {
        assert!(mirror.remove(id));
    }
    assert!(mirror.is_empty() && !mirror.remove(0));
    assert_eq!(mirror.nearest(&query, 200), Ok(Vec::new()));
}

#[test]
fn a_scan_that_two_threads_share_finds_the_same() {
    let (mut mirror, mut rows) = (Mirror::new(64), BTreeMap::new());
    for id in 0..67_000 {
        mirror.insert(id, &code(id as u64, 64)).expect("it fits");
        rows.insert(id, code(id as u64, 64));
    }
    for query in [3, 66_999, 1 << 40] {
        let query = code(query, 64);
        assert_eq!(mirror.nearest(&query, 200).expect("it fits"), oracle(&rows, &query, 200));
    }
}

#[test]
fn a_code_of_another_dimension_is_refused() {
    let mut mirror = Mirror::new(64);
    let wrong = Err(Unusable::Dimension { expected: 64, found: 65 });
    assert_eq!(mirror.insert(1, &code(1, 65)), wrong);
    assert_eq!(mirror.nearest(&code(1, 65), 1).map(|_| ()), wrong);
    assert!(mirror.is_empty());
    mirror.reset(65);
    assert_eq!(mirror.insert(1, &code(1, 65)), Ok(()));
}
