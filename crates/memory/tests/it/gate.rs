//! The write gate: insert, confirm, reject.

use contract::memory::Trust;
use memory::gate::*;
use proptest::prelude::*;

fn candidate(text: &str) -> Candidate<'_> {
    Candidate { key: "testing", text, trust: Trust::User, comparison: Comparison::ExactAndNear }
}

fn neighbour(id: i64, text: &str) -> Neighbour<'_, i64> {
    Neighbour { id, key: "Testing", text, cosine: None, confidence: 0.9, trust: Trust::User, open: true }
}

fn merged(into: i64, sameness: Sameness, trust: Trust) -> Verdict<i64> {
    Verdict::Merge { into, sameness, confidence: 0.95, trust }
}

const SUITE: &str = "Run the whole suite before every push to the main branch of the project";
const SUITES: &str = "Run the whole suites before every push to the main branch of the project";

#[test]
fn what_is_new_is_inserted() {
    assert_eq!(decide(&candidate(SUITE), &[], &[neighbour(1, "Deploy on Fridays only")]), Verdict::Insert);
    assert_eq!(decide::<i64>(&candidate(SUITE), &[], &[]), Verdict::Insert);
}

#[test]
fn the_same_text_confirms_instead_of_standing_twice() {
    let shouted = SUITE.to_uppercase();
    let verdict = decide(&candidate(&shouted), &[], &[neighbour(2, SUITE), neighbour(1, SUITE)]);
    assert_eq!(verdict, merged(1, Sameness::Exact, Trust::User));
}

#[test]
fn nearly_the_same_text_confirms_by_cosine_or_without_vectors_by_letters() {
    let near = |cosine| Neighbour { cosine, ..neighbour(1, SUITES) };
    assert_eq!(decide(&candidate(SUITE), &[], &[near(None)]), merged(1, Sameness::Near, Trust::User));
    assert_eq!(decide(&candidate(SUITE), &[], &[near(Some(0.95))]), merged(1, Sameness::Near, Trust::User));
    assert_eq!(decide(&candidate(SUITE), &[], &[near(Some(0.94))]), Verdict::Insert);
    let other_words = Neighbour { cosine: Some(0.97), ..neighbour(1, "Always test everything, then push") };
    assert_eq!(decide(&candidate(SUITE), &[], &[other_words]), merged(1, Sameness::Near, Trust::User));
}

#[test]
fn another_number_or_a_not_is_never_merged_away() {
    let (old, new) = (
        "The staging service of the shop listens on port 8080",
        "The staging service of the shop listens on port 8081",
    );
    let near = Neighbour { cosine: Some(0.99), ..neighbour(1, old) };
    assert_eq!(decide(&candidate(new), &[], &[near]), Verdict::Insert);
}

#[test]
fn the_episode_of_a_turn_is_compared_exactly_only() {
    let turn = |text| Candidate { comparison: Comparison::ExactOnly, ..candidate(text) };
    assert_eq!(decide(&turn(SUITE), &[], &[neighbour(1, SUITES)]), Verdict::Insert);
    assert_eq!(decide(&turn(SUITE), &[], &[neighbour(1, SUITE)]), merged(1, Sameness::Exact, Trust::User));
}

#[test]
fn what_was_superseded_and_is_said_again_is_new() {
    let closed = Neighbour { open: false, cosine: Some(1.0), ..neighbour(1, SUITE) };
    assert_eq!(decide(&candidate(SUITE), &[], &[closed]), Verdict::Insert);
}

#[test]
fn an_answer_out_of_memory_is_known_in_any_words_and_a_correction_is_none() {
    let dog = "my dog is called Bruno";
    let weber = "The user's dentist is Doctor Weber";
    let tea = "The user drinks coffee";
    for (text, heard, recalled, answered) in [
        ("The user's dog is called Bruno", "What is my dog called?", dog, true),
        ("Bruno is the name of the user's dog", "who is it that barks", dog, true),
        ("The user's dentist is Doctor Weber", "Who is my dentist?", weber, true),
        // the person brings a word that memory does not have
        ("The user's dentist is Doctor Okafor", "My dentist is Doctor Okafor now", weber, false),
        ("The user's dentist is Doctor Okafor", "Did I say that my dentist is Doctor Okafor?", weber, false),
        // all of it was said
        ("The user's dog is called Bruno", "my dog is called Bruno", dog, false),
        // a "not" and a number are words of their own
        ("The user does not drink coffee", "not any more", tea, false),
        ("The user's shoe size is 43", "it grew by one", "The user's shoe size is 42", false),
        // memory has nothing to do with it
        ("TCP begins with a handshake", "how does TCP begin?", dog, false),
        ("", "", "", false),
    ] {
        assert_eq!(
            memory::gate::is_answered_from(text, heard, recalled),
            answered,
            "{text} / {heard} / {recalled}"
        );
    }
}

#[test]
fn one_word_that_was_heard_makes_a_correction_out_of_an_echo() {
    let (old, new) = (
        "It is so that the user's dentist is Doctor Weber",
        "It is so that the user's dentist is Doctor Okafor",
    );
    assert!(is_echo(new, old), "nine words of ten");
    assert!(adds_what_was_heard(new, "my dentist is Doctor Okafor now", old));
    assert!(!adds_what_was_heard(new, "who is my dentist?", old), "nobody said Okafor");
    assert!(adds_what_was_heard("The user drinks no coffee", "no, not any more", "The user drinks coffee"));
    assert!(!adds_what_was_heard(old, "my dentist is Doctor Weber", old));
}

#[test]
fn an_echo_of_what_was_recalled_is_rejected_before_anything_else() {
    let verdict = decide(&candidate(SUITE), &["Deploy on Fridays only", SUITE], &[neighbour(1, SUITE)]);
    assert_eq!(verdict, Verdict::Reject(Rejection::Recalled));
    assert_eq!(decide::<i64>(&candidate("Deploy on Mondays, too"), &[SUITE], &[]), Verdict::Insert);
}

#[test]
fn the_word_of_a_person_lifts_the_same_text_but_not_a_similar_one() {
    let page = |text| Neighbour { trust: Trust::Untrusted, cosine: Some(0.99), ..neighbour(1, text) };
    assert_eq!(decide(&candidate(SUITE), &[], &[page(SUITE)]), merged(1, Sameness::Exact, Trust::User));
    assert_eq!(decide(&candidate(SUITE), &[], &[page(SUITES)]), Verdict::Insert);
    let from_page = Candidate { trust: Trust::Untrusted, ..candidate(SUITE) };
    assert_eq!(decide(&from_page, &[], &[neighbour(1, SUITE)]), merged(1, Sameness::Exact, Trust::User));
}

proptest! {
    #[test]
    fn what_was_inserted_confirms_the_next_time(key in ".{0,20}", text in any::<String>(), trust in prop::sample::select(Trust::ALL.to_vec())) {
        let candidate = Candidate { key: &key, text: &text, trust, comparison: Comparison::ExactAndNear };
        prop_assert_eq!(decide::<i64>(&candidate, &[], &[]), Verdict::Insert);
        let written = Neighbour { id: 1, key: &key, text: &text, cosine: None, confidence: 0.5, trust, open: true };
        let again = decide(&candidate, &[], &[written]);
        let confirms = matches!(again, Verdict::Merge { into: 1, sameness: Sameness::Exact, .. });
        prop_assert!(confirms, "{:?}", again);
    }
}
