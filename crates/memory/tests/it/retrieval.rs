//! Ranking, computed by hand and then by the crate.

use contract::Timestamp;
use contract::memory::Store;
use memory::entity::Names;
use memory::period::periods;
use memory::retrieval::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

const DAY: i64 = 86_400_000;
const NOW: Timestamp = Timestamp::from_millis(1_777_293_296_000);

fn days_ago(days: i64) -> Timestamp {
    NOW.plus_millis(-days * DAY)
}

fn question() -> Question {
    Question { now: NOW, periods: Vec::new(), words: BTreeMap::new() }
}

/// A fresh, certain row that no search has found.
fn row(key: &str, store: Store) -> Candidate<String> {
    Candidate {
        key: key.to_owned(),
        store,
        keyword: None,
        vector: None,
        confidence: 1.0,
        last_confirmed: NOW,
        at: NOW,
        valid_until: None,
        names: 0,
    }
}

fn scores(ranked: &[Ranked<String>]) -> Vec<(&str, f64)> {
    ranked.iter().map(|r| (r.key.as_str(), (r.score * 1e6).round() / 1e6)).collect()
}

#[test]
fn both_lists_are_normalised_by_their_best_and_count_half() {
    let found = weigh(
        question(),
        vec![
            Candidate { keyword: Some(8.0), ..row("a", Store::Knowledge) },
            Candidate { keyword: Some(4.0), vector: Some(0.4), ..row("b", Store::Knowledge) },
            Candidate { vector: Some(0.8), ..row("c", Store::Knowledge) },
        ],
    );
    let both = 0.5 * 0.5 + 0.5 * 0.5f64.powi(4);
    assert_eq!(scores(&found.ranked()), [("a", 0.5), ("c", 0.5), ("b", both)]);
}

#[test]
fn a_list_that_stands_alone_counts_whole() {
    let keywords =
        [("a", 8.0), ("b", 2.0)].map(|(k, s)| Candidate { keyword: Some(s), ..row(k, Store::Social) });
    assert_eq!(scores(&weigh(question(), keywords.into()).ranked()), [("a", 1.0), ("b", 0.25)]);
    let vectors =
        [("a", 0.8), ("b", 0.4)].map(|(k, s)| Candidate { vector: Some(s), ..row(k, Store::Social) });
    assert_eq!(scores(&weigh(question(), vectors.into()).ranked()), [("a", 1.0), ("b", 0.0625)]);
}

#[test]
fn the_nearest_row_counts_whole_only_when_it_is_near() {
    let near = |cosine: f32| {
        let rows = vec![
            Candidate { vector: Some(cosine), ..row("a", Store::Episodes) },
            Candidate { vector: Some(cosine / 2.0), ..row("b", Store::Episodes) },
        ];
        weigh(question(), rows).ranked().iter().map(|r| r.score).collect::<Vec<_>>()
    };
    for sure in [VECTOR_SURE, 0.6, 1.0] {
        assert!((near(sure as f32)[0] - 1.0).abs() < 1e-6, "{sure}");
        assert!((near(sure as f32)[1] - 0.0625).abs() < 1e-6, "{sure}");
    }
    let third = near((VECTOR_SURE * 2.0 / 3.0) as f32);
    assert!((third[0] - (2.0f64 / 3.0).powi(4)).abs() < 1e-6, "{third:?}");
    let floor = near(VECTOR_FLOOR);
    assert!(floor[0] > RECALL_THRESHOLD && floor[1] < RECALL_THRESHOLD, "{floor:?}");
}

#[test]
fn the_median_paraphrase_is_recalled_as_a_turn_beside_words_that_fit_better() {
    let rows = vec![
        Candidate { keyword: Some(9.0), ..row("words", Store::Episodes) },
        Candidate { vector: Some(0.36), confidence: 0.6, ..row("meaning", Store::Episodes) },
    ];
    assert_eq!(for_recall(weigh(question(), rows).ranked()).len(), 2);
}

#[test]
fn words_count_whole_when_they_are_half_of_what_was_asked() {
    let asked = |weight: f64| {
        let words = BTreeMap::from([(Store::Knowledge, weight), (Store::Social, 1000.0)]);
        let rows = vec![
            Candidate { keyword: Some(4.0), ..row("a", Store::Knowledge) },
            Candidate { keyword: Some(2.0), ..row("b", Store::Knowledge) },
        ];
        weigh(Question { words, ..question() }, rows).ranked().iter().map(|r| r.score).collect::<Vec<_>>()
    };
    assert_eq!(asked(0.0), [1.0, 0.5], "nobody knows what they weigh");
    assert_eq!(asked(8.0), [1.0, 0.5]);
    assert_eq!(asked(16.0), [0.5, 0.25]);
    assert_eq!(asked(160.0), [0.05, 0.025], "a name among words that nothing answers");
}

#[test]
fn each_store_has_its_own_best() {
    let found = weigh(
        question(),
        vec![
            Candidate { keyword: Some(20.0), ..row("a", Store::Episodes) },
            Candidate { keyword: Some(2.0), ..row("b", Store::Knowledge) },
        ],
    );
    assert_eq!(scores(&found.ranked()), [("a", 1.0), ("b", 1.0)]);
}

#[test]
fn doubt_age_and_the_end_of_validity_weigh_down() {
    let alone = |candidate: Candidate<String>| {
        let found = weigh(question(), vec![Candidate { keyword: Some(1.0), ..candidate }]).ranked();
        (found[0].score * 1e6).round() / 1e6
    };
    let fact = row("a", Store::Knowledge);
    assert_eq!(alone(Candidate { confidence: 0.5, ..fact.clone() }), 0.5);
    assert_eq!(alone(Candidate { last_confirmed: days_ago(1095), ..fact.clone() }), 0.5);
    assert_eq!(alone(Candidate { confidence: 0.0, ..fact.clone() }), 0.05);
    assert_eq!(alone(Candidate { valid_until: Some(days_ago(1)), ..fact.clone() }), 0.3);
    assert_eq!(alone(Candidate { valid_until: Some(NOW), ..fact.clone() }), 0.3);
    assert_eq!(alone(Candidate { valid_until: Some(NOW.plus_millis(1)), ..fact.clone() }), 1.0);
    assert_eq!(alone(Candidate { at: NOW.plus_millis(DAY), ..fact.clone() }), 1.0);
    for (store, days) in [(Store::Episodes, 30), (Store::Knowledge, 180), (Store::Social, 365)] {
        assert_eq!(alone(Candidate { at: days_ago(days), ..row("a", store) }), 0.9);
    }
}

#[test]
fn neighbours_of_the_ten_best_episodes_get_two_fifths_of_their_hit() {
    let hits: Vec<_> = (0..12)
        .map(|i| Candidate {
            keyword: Some(20.0 - f64::from(i)),
            ..row(&format!("hit{i:02}"), Store::Episodes)
        })
        .collect();
    let weighed = weigh(question(), hits);
    let best = weighed.hits();
    assert_eq!(best.len(), NEIGHBOUR_HITS);
    assert_eq!((best[0].as_str(), best[9].as_str()), ("hit00", "hit09"));
    let ranked = weighed
        .with_neighbours(vec![
            ("hit00".to_owned(), row("before", Store::Episodes)),
            ("hit05".to_owned(), row("before", Store::Episodes)),
            ("hit00".to_owned(), row("hit11", Store::Episodes)),
            ("hit10".to_owned(), row("of-no-hit", Store::Episodes)),
        ])
        .ranked();
    let score = |key: &str| scores(&ranked).iter().find(|(k, _)| *k == key).map(|(_, s)| *s);
    assert_eq!(score("before"), Some(0.4));
    assert_eq!(score("hit11"), Some(0.45), "its own weight is more");
    assert_eq!(score("of-no-hit"), None);
}

#[test]
fn names_and_times_of_the_question_lift() {
    let names = Names::in_question("Asha, Ben or Cleo?", ["Asha", "Ben", "Cleo"]);
    let in_text = |text: &str| names.in_text(text);
    let asked = Question { now: NOW, periods: periods("what did they do yesterday", NOW), ..question() };
    let found = weigh(
        asked,
        vec![
            Candidate { keyword: Some(1.0), names: in_text("Asha"), ..row("one", Store::Knowledge) },
            Candidate {
                keyword: Some(1.0),
                names: in_text("Asha, Ben, Cleo"),
                ..row("three", Store::Knowledge)
            },
            Candidate { keyword: Some(1.0), at: days_ago(1), ..row("then", Store::Knowledge) },
            Candidate { keyword: Some(1.0), at: days_ago(1), ..row("node", Store::Social) },
        ],
    );
    let then = 0.8 + 0.2 * (-1.0f64 / 180.0).exp2() + 0.15;
    let node = 0.8 + 0.2 * (-1.0f64 / 365.0).exp2();
    let rounded = |x: f64| (x * 1e6).round() / 1e6;
    assert_eq!(
        scores(&found.ranked()),
        [("three", 1.2), ("then", rounded(then)), ("one", 1.1), ("node", rounded(node))]
    );
}

#[test]
fn equal_scores_are_ordered_by_newer_then_by_id() {
    let at = |key: &str, ms: i64| Candidate {
        keyword: Some(1.0),
        at: NOW.plus_millis(ms),
        ..row(key, Store::Knowledge)
    };
    let found = weigh(question(), vec![at("c", 1), at("b", 1), at("a", 0), at("d", 2)]).ranked();
    assert_eq!(found.iter().map(|r| r.key.as_str()).collect::<Vec<_>>(), ["d", "b", "c", "a"]);
}

#[test]
fn a_turn_recalls_only_what_fits_and_is_still_so() {
    let found = weigh(
        question(),
        vec![
            Candidate { keyword: Some(100.0), ..row("fits", Store::Knowledge) },
            Candidate {
                keyword: Some(100.0),
                valid_until: Some(days_ago(1)),
                ..row("closed", Store::Knowledge)
            },
            Candidate { keyword: Some(12.0), ..row("just", Store::Knowledge) },
            Candidate { keyword: Some(11.9), ..row("weak", Store::Knowledge) },
        ],
    );
    let recalled = for_recall(found.ranked());
    assert_eq!(recalled.iter().map(|r| r.key.as_str()).collect::<Vec<_>>(), ["fits", "just"]);
}

fn any_row() -> impl Strategy<Value = Candidate<String>> {
    (
        ("[a-d]", prop::sample::select(Store::ALL.to_vec()), prop::option::of(-1.0f64..50.0)),
        (prop::option::of(-1.0f32..1.0), 0.0f64..1.0, -2000i64..2000, prop::option::of(-10i64..10), 0u32..5),
    )
        .prop_map(|((key, store, keyword), (vector, confidence, days, until, names))| Candidate {
            keyword,
            vector,
            confidence,
            last_confirmed: days_ago(days),
            at: days_ago(days),
            valid_until: until.map(days_ago),
            names,
            ..row(&format!("{store}-{key}"), store)
        })
}

proptest! {
    #[test]
    fn the_result_is_sorted_whole_and_without_repetition(rows in prop::collection::vec(any_row(), 0..20)) {
        let keys: std::collections::BTreeSet<String> = rows.iter().map(|r| r.key.clone()).collect();
        let ranked = weigh(question(), rows).ranked();
        prop_assert!(ranked.windows(2).all(|w| w[0].score >= w[1].score));
        prop_assert!(ranked.iter().all(|r| (0.0..=1.35).contains(&r.score)));
        prop_assert_eq!(ranked.iter().map(|r| r.key.clone()).collect::<std::collections::BTreeSet<_>>(), keys.clone());
        prop_assert_eq!(ranked.len(), keys.len());
    }

    #[test]
    fn the_order_of_the_candidates_does_not_matter(rows in prop::collection::vec(any_row(), 0..20)) {
        let mut seen = std::collections::BTreeSet::new();
        let once: Vec<_> = rows.into_iter().filter(|r| seen.insert(r.key.clone())).collect();
        let backwards: Vec<_> = once.iter().rev().cloned().collect();
        prop_assert_eq!(weigh(question(), once).ranked(), weigh(question(), backwards).ranked());
    }
}

#[test]
fn two_wordings_of_a_question_find_in_one_measure() {
    let first = (vec![(1, 2.0), (2, 0.5)], 0.0);
    let other = (vec![(2, 0.1), (3, 0.2)], 0.0);
    assert_eq!(either_wording(first.clone(), other.clone()), (vec![(1, 2.0), (2, 1.0), (3, 2.0)], 0.0));
    assert_eq!(either_wording(first.clone(), (Vec::new(), 0.0)), first);
    assert_eq!(either_wording((Vec::new(), 7.0), (other.0.clone(), 3.0)), (other.0.clone(), 3.0));
    // half of the other's weight would be whole, and its best is a tenth of that
    let (scores, weight) = either_wording(first, (other.0, 4.0));
    assert_eq!((scores[2], weight), ((3, 0.2), 0.0));
}
