//! From what a person asked to what the full-text index is asked.
//!
//! Stop words go, words that are in too many rows go, the rarest stay; what stays is quoted, so that no text of a
//! person or a page is ever read as an operator of the query language. How common a word is, the caller looks up by
//! its stem, because the index counts stems.
//!
//! In a large store even the rarest words of a question may stand in many rows, and weighing a row costs a hundred times
//! what passing it by costs. So rare words find rows, common ones only two together, and all of them weigh what was found:
//! see [`reading`].
//!
//! The invariant: [`match_expression`] gives a valid FTS5 expression or none, for any text.

use crate::period;
use crate::retrieval::{COMMON_FROM_ROWS, COMMON_SHARE, QUERY_TERMS, ROWS_PASSED, ROWS_WEIGHED};
use crate::stem::stem;
use crate::tokens::tokens;
use std::collections::HashSet;

/// Different words of a query that are looked at. Larger makes a pasted document ask the index for thousands of
/// frequencies; smaller overlooks the word that matters at the end of a long message.
pub const QUERY_WORDS_READ: usize = 256;

/// English words that say nothing about what is meant. "may" is not here: it is also a month, see [`terms`].
/// A word missing here costs a scan of many rows until the store has [`COMMON_FROM_ROWS`]; a word too many can never
/// be searched for.
const STOP_WORDS: [&str; 131] = [
    "a", "about", "above", "after", "again", "against", "all", "am", "an", "and", "any", "are", "as", "at",
    "be", "because", "been", "before", "being", "below", "between", "both", "but", "by", "can", "could",
    "did", "do", "does", "doing", "don", "down", "during", "each", "few", "for", "from", "further", "had",
    "has", "have", "having", "he", "her", "here", "hers", "him", "his", "how", "i", "if", "in", "into", "is",
    "it", "its", "just", "ll", "m", "me", "might", "more", "most", "must", "my", "no", "nor", "not", "now",
    "of", "off", "on", "once", "only", "or", "other", "our", "ours", "out", "over", "own", "please", "re",
    "s", "same", "shall", "she", "should", "so", "some", "such", "t", "than", "that", "the", "their",
    "theirs", "them", "then", "there", "these", "they", "this", "those", "through", "to", "too", "under",
    "until", "up", "us", "ve", "very", "was", "we", "were", "what", "when", "where", "which", "while", "who",
    "whom", "why", "will", "with", "would", "you", "your", "yours", "d",
];

/// A word of a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Term {
    /// As it stood there, folded: what goes into the expression.
    pub word: String,
    /// What the index counts it under.
    pub stem: String,
}

/// The words of a query that mean something, each stem once, in order.
pub fn terms(query: &str) -> Vec<Term> {
    let words = tokens(query);
    let mut seen = HashSet::new();
    let mut found = Vec::new();
    for (at, word) in words.iter().enumerate() {
        if found.len() == QUERY_WORDS_READ {
            break;
        }
        let says_nothing =
            STOP_WORDS.contains(&word.as_str()) || (word == "may" && !period::is_the_month(&words, at));
        let stem = stem(word);
        if !says_nothing && seen.insert(stem.clone()) {
            found.push(Term { word: word.clone(), stem });
        }
    }
    found
}

/// A word of a query, and in how many rows of the store its stem stands (0 when the index does not know it).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counted {
    /// The word.
    pub term: Term,
    /// Rows that have it.
    pub rows: u64,
}

/// The rarest words, at most [`QUERY_TERMS`]. `rows` is the size of the store, `frequency` in how many of its rows a
/// stem stands. Words that stand nowhere come last: they find nothing, and must not take the place of one that does.
pub fn rarest(terms: Vec<Term>, rows: u64, frequency: impl Fn(&str) -> u64) -> Vec<Counted> {
    let mut counted: Vec<Counted> =
        terms.into_iter().map(|term| Counted { rows: frequency(&term.stem), term }).collect();
    if rows >= COMMON_FROM_ROWS {
        counted.retain(|word| word.rows as f64 <= COMMON_SHARE * rows as f64);
    }
    counted.sort_by_key(|word| (word.rows == 0, word.rows));
    counted.truncate(QUERY_TERMS);
    counted
}

/// What these words weigh together: about the bm25 of a row of usual length that has each of them once. Words that stand
/// nowhere weigh most, as nobody can be said to have answered them. 0 in a store so small that how often a word stands in it
/// tells nothing.
pub fn weight(words: &[Counted], rows: u64) -> f64 {
    if rows < COMMON_FROM_ROWS {
        return 0.0;
    }
    let without = |word: &Counted| rows.saturating_sub(word.rows) as f64;
    words.iter().map(|word| ((without(word) + 0.5) / (word.rows as f64 + 0.5)).ln().max(0.0)).sum()
}

/// What the index is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reading {
    /// Rows that have any of the words: there are few enough to weigh them all.
    All(String),
    /// There are more. Only the newest [`ROWS_WEIGHED`] of some are weighed.
    Newest {
        /// Which rows.
        finding: String,
        /// The same rows, weighed by all words.
        weighing: String,
        /// When that leaves room: the word of which the newest rows take it.
        filling: Option<String>,
    },
}

/// How rows are found and weighed by these words, the rarest first. None without words: then there is no keyword search.
///
/// While all of them stand in no more than [`ROWS_WEIGHED`] rows, all rows with any are weighed. Beyond, a row is found by
/// one of the rare words, or by the rarest of the others together with another one; a row with one common word alone is
/// only found when there is room. Words that would make the index pass by more than [`ROWS_PASSED`] entries are left out.
pub fn reading(words: &[Counted]) -> Option<Reading> {
    let (mut rare, mut common): (Vec<&Term>, Vec<&Term>) = (Vec::new(), Vec::new());
    let (mut weighed, mut passed) = (0u64, 0u64);
    for Counted { term, rows } in words {
        if weighed.saturating_add(*rows) <= ROWS_WEIGHED {
            weighed = weighed.saturating_add(*rows);
            rare.push(term);
        } else if common.is_empty() || passed.saturating_add(*rows) <= ROWS_PASSED {
            passed = passed.saturating_add(*rows);
            common.push(term);
        }
    }
    let rarest = any(&rare);
    let Some((first, others)) = common.split_first() else { return rarest.map(Reading::All) };
    let first = any(&[first])?;
    let both = any(others).map(|others| format!("({first} AND ({others}))"));
    let ways: Vec<String> = rarest.into_iter().chain(both).collect();
    let (finding, filling) = if ways.is_empty() { (first, None) } else { (ways.join(" OR "), Some(first)) };
    let every: Vec<&Term> = rare.into_iter().chain(common).collect();
    let weighing = format!("({finding}) AND ({})", any(&every)?);
    Some(Reading::Newest { finding, weighing, filling })
}

/// `"deploy" OR "friday"`: rows that have any of these words. None without words.
pub fn match_expression(terms: &[Term]) -> Option<String> {
    any(&terms.iter().collect::<Vec<_>>())
}

fn any(terms: &[&Term]) -> Option<String> {
    let quoted: Vec<String> = terms.iter().map(|t| format!("\"{}\"", t.word.replace('"', "\"\""))).collect();
    if quoted.is_empty() { None } else { Some(quoted.join(" OR ")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn words(terms: &[Term]) -> Vec<&str> {
        terms.iter().map(|t| t.word.as_str()).collect()
    }

    #[test]
    fn stop_words_and_repetitions_go() {
        assert_eq!(words(&terms("What did we say about the deploys, the deploy?")), ["say", "deploys"]);
    }

    #[test]
    fn may_is_a_month_only_where_it_is_one() {
        assert_eq!(words(&terms("may I deploy")), ["deploy"]);
        assert_eq!(words(&terms("the deploy in May")), ["deploy", "may"]);
    }

    #[test]
    fn the_rarest_words_are_kept_and_unknown_ones_take_no_place() {
        let many: String = (0..20).map(|i| format!("word{i} ")).collect();
        let frequency: HashMap<String, u64> = (0..20).map(|i| (format!("word{i}"), i % 20)).collect();
        let kept = rarest(terms(&many), 1000, |stem| frequency.get(stem).copied().unwrap_or(0));
        let expected: Vec<String> = (1..13).map(|i| format!("word{i}")).collect();
        assert_eq!(kept.iter().map(|c| c.term.word.as_str()).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_word_in_more_than_a_fifth_of_the_rows_goes_once_there_are_fifty() {
        let count =
            |rows, n: u64| rarest(terms("project alpha"), rows, |s| if s == "alpha" { n } else { 1 }).len();
        assert_eq!(count(50, 10), 2);
        assert_eq!(count(50, 11), 1);
        assert_eq!(count(49, 49), 2);
    }

    /// What is asked for words that stand in so many rows each.
    fn asked(counts: &[u64]) -> Reading {
        let word = |(i, rows): (usize, &u64)| {
            let word = format!("w{i}");
            Counted { term: Term { stem: word.clone(), word }, rows: *rows }
        };
        reading(&counts.iter().enumerate().map(word).collect::<Vec<_>>()).expect("words")
    }

    fn newest(finding: &str, weighing: &str, filling: Option<&str>) -> Reading {
        Reading::Newest {
            finding: finding.into(),
            weighing: weighing.into(),
            filling: filling.map(str::to_owned),
        }
    }

    #[test]
    fn words_weigh_more_the_rarer_they_are_and_nothing_in_a_small_store() {
        let word = |rows| Counted { term: Term { word: "w".into(), stem: "w".into() }, rows };
        let one = |rows| weight(&[word(rows)], 100);
        assert!((one(0) - 201f64.ln()).abs() < 1e-9, "a word that stands nowhere");
        assert!(one(0) > one(1) && one(1) > one(20) && one(20) > 0.0);
        assert_eq!(one(99), 0.0, "nothing weighs less than nothing");
        assert!((weight(&[word(1), word(20)], 100) - one(1) - one(20)).abs() < 1e-9);
        assert_eq!(weight(&[word(1)], COMMON_FROM_ROWS - 1), 0.0);
        assert_eq!(weight(&[], 100), 0.0);
    }

    #[test]
    fn all_rows_are_weighed_while_they_are_few() {
        assert_eq!(asked(&[1, ROWS_WEIGHED - 1, 0]), Reading::All(r#""w0" OR "w1" OR "w2""#.into()));
        assert_eq!(reading(&[]), None);
    }

    #[test]
    fn a_common_word_finds_rows_only_with_another_and_otherwise_fills_up() {
        assert_eq!(
            asked(&[1, ROWS_WEIGHED, 2 * ROWS_WEIGHED]),
            newest(
                r#""w0" OR ("w1" AND ("w2"))"#,
                r#"("w0" OR ("w1" AND ("w2"))) AND ("w0" OR "w1" OR "w2")"#,
                Some(r#""w1""#)
            )
        );
        assert_eq!(
            asked(&[1, ROWS_WEIGHED]),
            newest(r#""w0""#, r#"("w0") AND ("w0" OR "w1")"#, Some(r#""w1""#))
        );
    }

    #[test]
    fn a_common_word_alone_finds_its_newest_rows() {
        assert_eq!(asked(&[ROWS_PASSED + 1]), newest(r#""w0""#, r#"("w0") AND ("w0")"#, None));
    }

    #[test]
    fn words_that_would_pass_by_too_many_entries_are_left_out() {
        let left = asked(&[1, ROWS_WEIGHED, ROWS_PASSED]);
        assert_eq!(left, asked(&[1, ROWS_WEIGHED]));
    }

    #[test]
    fn an_expression_quotes_every_word() {
        assert_eq!(
            match_expression(&terms("NEAR(a b) deploy*")).as_deref(),
            Some("\"near\" OR \"b\" OR \"deploy\"")
        );
        assert_eq!(match_expression(&terms("the of and")), None);
    }

    #[test]
    fn the_stop_words_are_each_there_once() {
        let unique: HashSet<_> = STOP_WORDS.into_iter().collect();
        assert_eq!(unique.len(), STOP_WORDS.len());
    }
}
