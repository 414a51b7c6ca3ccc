//! How memories are ranked: every constant of retrieval, and the formula.
//!
//! The caller brings what the two searches found; here it is weighed. No model is asked, nothing is looked up, the time
//! comes in: the same candidates at the same time always come out in the same order.
//!
//! Keyword scores are positive numbers, larger is better: FTS5's `bm25()` is negative, the caller turns the sign.
//!
//! The invariant: the result is sorted by score, then newer, then id, and nothing is in it twice.

use crate::confidence::{days_between, for_ranking};
use crate::period::Period;
use contract::Timestamp;
use contract::memory::Store;
use std::collections::{BTreeMap, HashMap};

/// The weight of the keyword score. Fixed: with more, synonyms are not found; with less, a small embedding model puts
/// its guesses before the very words that were asked for.
pub const KEYWORD_WEIGHT: f64 = 0.5;
/// The weight of the vector score; together with the keyword's it is 1, so that thresholds keep their meaning.
pub const VECTOR_WEIGHT: f64 = 0.5;
/// How many rows the keyword search hands over. Fewer loses rows that the vector would have lifted; more costs a sort.
pub const KEYWORD_CANDIDATES: usize = 200;
/// How many rows the scan of the bit codes hands over to be rescored exactly. Fixed: with 100 the recall at 10 falls
/// from 0.995 to 0.983, with more each search reads more rows from the disk.
pub const VECTOR_CANDIDATES: usize = 200;
/// Least cosine of a vector hit. Lower recalls things only because they are the least bad; higher misses paraphrases: of
/// questions without a word of their fact the built-in table has 73 % at this cosine, at 0.35 only 53 % (decision 030).
pub const VECTOR_FLOOR: f32 = 0.30;
/// The cosine from which on the nearest row counts whole. Lower gives whole weight to the least bad of a question that
/// nothing answers; higher leaves half of the paraphrases, whose median is 0.36, below [`RECALL_THRESHOLD`].
pub const VECTOR_SURE: f64 = 0.45;
/// The power of a cosine's share of the best. Right and wrong differ by a tenth of a cosine, so with 1 age, a name or a
/// stray word outweighs the difference; with more, what is second to a lucky guess is lost.
pub const VECTOR_SHARPNESS: i32 = 4;
/// The part of the weight of a question's words that a row must have to count whole. Lower makes a name that a hundred rows
/// have as good as an answer; higher takes from words in favour of vectors when somebody asks at length.
pub const WORDS_ENOUGH: f64 = 0.5;

/// Words of a query that are searched for. Fixed: with more, common words make the index slow; with fewer, long
/// questions lose the word that matters.
pub const QUERY_TERMS: usize = 12;
/// Rows that a search by words weighs. Each costs about two microseconds, which at a million rows is 0.4 s for one word
/// that stands in a fifth of them: larger makes searches of large stores slow, smaller leaves out older rows that have
/// the words as well.
pub const ROWS_WEIGHED: u64 = 1_000;
/// Entries of the index that the words which are not rare may make a search pass by, some thirty nanoseconds each, up to
/// three times. Larger makes searches of large stores slow; smaller leaves more words out of large questions.
pub const ROWS_PASSED: u64 = 50_000;
/// The newest memories of a period that a question names, per store, whatever their words are. More only adds what stands
/// behind them in every list; fewer answers "what did I do last week" with its last days.
pub const TIME_CANDIDATES: u32 = 50;
/// A word in more than this part of the rows says nothing. Higher makes searches slow in large stores; lower drops the
/// words a person's whole memory is about.
pub const COMMON_SHARE: f64 = 0.20;
/// From this many rows on, common words are dropped. Lower would drop words because three of ten rows have them.
pub const COMMON_FROM_ROWS: u64 = 50;

/// What remains of the weight of a memory nobody is sure of. At 0 it could never be found again; higher lets doubted
/// memories stand before fresh ones.
pub const CONFIDENCE_FLOOR: f64 = 0.05;
/// Days after which an unconfirmed memory is half as sure. Shorter buries what was said once a year ago and is asked for
/// today (decision 029); longer keeps old habits on top.
pub const CONFIDENCE_HALF_LIFE_DAYS: f64 = 1095.0;
/// What age can never take away. Lower puts whatever is new before what was asked for; 1 would ignore age.
pub const RECENCY_BASE: f64 = 0.8;
/// What age takes away in the end; together with the base it is 1.
pub const RECENCY_SWING: f64 = 0.2;
/// The weight of what is no longer so. Higher puts superseded facts before present ones; 0 hides history from search.
pub const CLOSED_FACTOR: f64 = 0.3;

/// Episodes whose neighbours are added. More brings whole conversations for weak hits; 0 leaves an answer without its
/// question.
pub const NEIGHBOUR_HITS: usize = 10;
/// What a neighbour gets of its hit's weight. Higher puts neighbours before hits; lower below every threshold.
pub const NEIGHBOUR_FACTOR: f64 = 0.4;
/// For each name of the question in a memory. Higher makes every mention of a person a hit.
pub const ENTITY_BONUS: f64 = 0.10;
/// Names that are counted: the bonus is at most 0.20. More lets a list of names beat an answer.
pub const ENTITY_COUNTED: u32 = 2;
/// For a memory of the time that the question names. Higher lists the whole week before what was asked about it.
pub const TIME_BONUS: f64 = 0.15;
/// Least score of what is recalled into a turn. Lower fills contexts with noise, higher leaves them without memory.
pub const RECALL_THRESHOLD: f64 = 0.12;

/// Least score of anything that is shown. Lower shows neighbours of hits that hardly fit themselves; higher hides doubted
/// and closed memories that were asked for by their words.
pub const SCORE_FLOOR: f64 = 0.001;

/// Days in which the newness of a memory halves.
pub const fn recency_half_life_days(store: Store) -> f64 {
    match store {
        Store::Episodes => 30.0,
        Store::Knowledge => 180.0,
        Store::Social => 365.0,
    }
}

/// A row that one of the searches found, or a neighbour of one.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate<K> {
    /// Its id.
    pub key: K,
    /// Where it stands.
    pub store: Store,
    /// What the keyword search gave, larger is better; None when it did not find it.
    pub keyword: Option<f64>,
    /// Its cosine; None when the vector search did not find it.
    pub vector: Option<f32>,
    /// As stored.
    pub confidence: f64,
    /// When somebody last confirmed it.
    pub last_confirmed: Timestamp,
    /// When it happened (episodes), began to be so (knowledge), or was made (social).
    pub at: Timestamp,
    /// When it ceased to be so.
    pub valid_until: Option<Timestamp>,
    /// Names of the question in its text: [`crate::entity::Names::in_text`].
    pub names: u32,
}

/// What ranking needs to know of the question.
#[derive(Debug, Clone, PartialEq)]
pub struct Question {
    /// The time it is asked.
    pub now: Timestamp,
    /// The periods it names: [`crate::period::periods`].
    pub periods: Vec<Period>,
    /// What its words weigh in each store that was searched by words: [`crate::query::weight`].
    pub words: BTreeMap<Store, f64>,
}

/// A ranked row.
#[derive(Debug, Clone, PartialEq)]
pub struct Ranked<K> {
    /// Its id.
    pub key: K,
    /// Where it stands.
    pub store: Store,
    /// What it is sorted by; 0 or more.
    pub score: f64,
    /// When it happened, began or was made.
    pub at: Timestamp,
    /// True when it is no longer so.
    pub closed: bool,
}

/// Scores of one list of words together with those of another wording of the same question, in the measure of the first:
/// what is whole in the one is whole in the other, and a row that both found keeps the better score. Each list comes with
/// what its words weigh ([`crate::query::weight`]); so does the result.
pub fn either_wording(
    (first, weight): (Vec<(i64, f64)>, f64),
    (other, other_weight): (Vec<(i64, f64)>, f64),
) -> (Vec<(i64, f64)>, f64) {
    let whole = |list: &[(i64, f64)], weight: f64| {
        list.iter().map(|(_, score)| *score).fold(WORDS_ENOUGH * weight, f64::max)
    };
    if first.is_empty() {
        return (other, other_weight);
    }
    let (measure, others) = (whole(&first, weight), whole(&other, other_weight));
    if !(others.is_finite() && others > 0.0) {
        return (first, weight);
    }
    let mut scores: BTreeMap<i64, f64> = first.into_iter().collect();
    for (row, score) in other {
        let score = score / others * measure;
        let kept = scores.entry(row).or_insert(score);
        *kept = kept.max(score);
    }
    (scores.into_iter().collect(), weight)
}

/// Candidates with their weights, before the bonuses.
#[derive(Debug, Clone)]
pub struct Weighed<K> {
    question: Question,
    rows: Vec<(Candidate<K>, f64)>,
}

/// Weighs what the searches found. Scores are normalised within each store, because scores of two stores have no common
/// measure: by the best, or by what would be enough where the best is not. A row given twice counts once, with the better
/// of its scores.
pub fn weigh<K: Ord + Clone>(question: Question, candidates: Vec<Candidate<K>>) -> Weighed<K> {
    let mut found = Weighed { question, rows: Vec::with_capacity(candidates.len()) };
    for store in [Store::Episodes, Store::Knowledge, Store::Social] {
        let mut rows: Vec<Candidate<K>> = candidates.iter().filter(|c| c.store == store).cloned().collect();
        rows.sort_by(|a, b| a.key.cmp(&b.key));
        rows.dedup_by(|next, kept| {
            let same = next.key == kept.key;
            if same {
                kept.keyword = better(kept.keyword, next.keyword);
                kept.vector =
                    better(kept.vector.map(f64::from), next.vector.map(f64::from)).map(|v| v as f32);
            }
            same
        });
        let enough = WORDS_ENOUGH * found.question.words.get(&store).copied().unwrap_or(0.0);
        let best = Best::of(&rows, enough);
        let now = found.question.now;
        found.rows.extend(rows.into_iter().map(|row| {
            let weight = best.base(&row) * standing(&row, now);
            (row, weight)
        }));
    }
    found
}

/// What the scores of each list are shares of; None when there is no such list.
struct Best {
    keyword: Option<f64>,
    vector: Option<f64>,
}

impl Best {
    /// The best score of each list, but no less than what is enough.
    fn of<K>(rows: &[Candidate<K>], words_enough: f64) -> Self {
        let keywords = rows.iter().filter_map(|r| r.keyword).filter(|k| k.is_finite());
        let vectors = rows.iter().filter_map(|r| r.vector).map(f64::from).filter(|v| v.is_finite());
        Self {
            keyword: keywords.reduce(f64::max).map(|best| best.max(words_enough)),
            vector: vectors.reduce(f64::max).map(|best| best.max(VECTOR_SURE)),
        }
    }

    fn base<K>(&self, row: &Candidate<K>) -> f64 {
        let share = |score: Option<f64>, best: f64| match score {
            Some(score) if best > 0.0 && score.is_finite() => (score / best).clamp(0.0, 1.0),
            Some(_) | None => 0.0,
        };
        let words = |best| share(row.keyword, best);
        let vector = |best| share(row.vector.map(f64::from), best).powi(VECTOR_SHARPNESS);
        match (self.keyword, self.vector) {
            (Some(k), Some(v)) => KEYWORD_WEIGHT * words(k) + VECTOR_WEIGHT * vector(v),
            (Some(k), None) => words(k),
            (None, Some(v)) => vector(v),
            (None, None) => 0.0,
        }
    }
}

/// What a row is worth whatever was asked: sure, new, still so.
fn standing<K>(row: &Candidate<K>, now: Timestamp) -> f64 {
    let half_lives = days_between(row.at, now) / recency_half_life_days(row.store);
    let recency = RECENCY_BASE + RECENCY_SWING * (-half_lives).exp2();
    let valid = if is_closed(row, now) { CLOSED_FACTOR } else { 1.0 };
    for_ranking(row.confidence, row.last_confirmed, now) * recency * valid
}

fn is_closed<K>(row: &Candidate<K>, now: Timestamp) -> bool {
    row.valid_until.is_some_and(|until| until <= now)
}

fn better(a: Option<f64>, b: Option<f64>) -> Option<f64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.max(b)),
        (one, None) | (None, one) => one,
    }
}

impl<K: Ord + Clone> Weighed<K> {
    /// The episodes whose neighbours (directly before and after in the same task) belong to the result: the best
    /// [`NEIGHBOUR_HITS`], best first.
    pub fn hits(&self) -> Vec<K> {
        let mut hits: Vec<&(Candidate<K>, f64)> =
            self.rows.iter().filter(|(row, weight)| row.store == Store::Episodes && *weight > 0.0).collect();
        hits.sort_by(|(a, x), (b, y)| y.total_cmp(x).then(b.at.cmp(&a.at)).then(a.key.cmp(&b.key)));
        hits.into_iter().take(NEIGHBOUR_HITS).map(|(row, _)| row.key.clone()).collect()
    }

    /// Adds the neighbours of [`Weighed::hits`], each with the key of its hit. The weight of a hit is what it was
    /// before any neighbour was added, so the order of the pairs does not matter.
    pub fn with_neighbours(mut self, neighbours: Vec<(K, Candidate<K>)>) -> Self {
        let hits = self.hits();
        let mut places: HashMap<usize, f64> = HashMap::new();
        let own: Vec<f64> = self.rows.iter().map(|(_, weight)| *weight).collect();
        for (hit, neighbour) in neighbours {
            let position = |key: &K| {
                self.rows.iter().position(|(row, _)| row.store == Store::Episodes && row.key == *key)
            };
            let Some(weight) = position(&hit).and_then(|i| own.get(i)).filter(|_| hits.contains(&hit)) else {
                continue;
            };
            let share = NEIGHBOUR_FACTOR * weight;
            let place = position(&neighbour.key).unwrap_or_else(|| {
                self.rows.push((Candidate { keyword: None, vector: None, ..neighbour }, 0.0));
                self.rows.len() - 1
            });
            let best = places.entry(place).or_default();
            *best = best.max(share);
        }
        for (place, share) in places {
            if let Some((_, weight)) = self.rows.get_mut(place) {
                *weight = weight.max(share);
            }
        }
        self
    }

    /// Everything with its bonuses, best first.
    pub fn ranked(self) -> Vec<Ranked<K>> {
        let Question { now, periods, .. } = self.question;
        let mut ranked: Vec<Ranked<K>> = self
            .rows
            .into_iter()
            .map(|(row, weight)| {
                let names = ENTITY_BONUS * f64::from(row.names.min(ENTITY_COUNTED));
                // Nodes of the social graph have no time of their own.
                let dated = row.store != Store::Social && periods.iter().any(|p| p.holds(row.at));
                let time = if dated { TIME_BONUS } else { 0.0 };
                let closed = is_closed(&row, now);
                Ranked { key: row.key, store: row.store, score: weight + names + time, at: row.at, closed }
            })
            .collect();
        ranked.sort_by(|a, b| {
            b.score
                .total_cmp(&a.score)
                .then(b.at.cmp(&a.at))
                .then_with(|| a.key.cmp(&b.key))
                .then(a.store.cmp(&b.store))
        });
        ranked
    }
}

/// What of a ranked list may be recalled into a turn: sure enough of fitting, and still so.
pub fn for_recall<K>(ranked: Vec<Ranked<K>>) -> Vec<Ranked<K>> {
    ranked.into_iter().filter(|r| r.score >= RECALL_THRESHOLD && !r.closed).collect()
}
