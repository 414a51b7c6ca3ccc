//! The write gate: whether a memory is new, a confirmation of one that is there, or an echo of what was recalled.
//!
//! Cleaning and sizes come first, in [`crate::field`]. Then, in this order: what only repeats an item recalled in the
//! same turn is rejected, so that memory does not feed on itself; what is there already confirms it; what is nearly
//! there does so, too; the rest is inserted.
//!
//! The invariant: asked again with its own result in place, a gate that inserted now confirms.

use crate::confidence::confirmed;
use crate::likeness::{
    adds_a_word, content_hash, differ_in_substance, stems_of, substance, trigram_jaccard, word_overlap,
};
use contract::memory::Trust;
use contract::sentence;
use std::collections::HashSet;

/// From this overlap on, a candidate is an echo of a recalled item. Lower drops new statements about a known subject;
/// higher lets memory copy itself with one word changed.
pub const ECHO_OVERLAP: f64 = 0.9;
/// From this cosine on, two memories say nearly the same. Lower merges "likes tea" into "likes coffee"; higher keeps
/// every wording.
pub const NEAR_COSINE: f32 = 0.95;
/// The same for trigrams, while there is no vector.
pub const NEAR_TRIGRAMS: f64 = 0.9;

/// How a candidate is compared with its neighbours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// Exactly and nearly.
    ExactAndNear,
    /// Exactly only: the episodes of turns, which are a record and may well be alike.
    ExactOnly,
}

/// What somebody wants to write.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate<'a> {
    /// Subject, key or name.
    pub key: &'a str,
    /// What it says.
    pub text: &'a str,
    /// How far it may be trusted.
    pub trust: Trust,
    /// How it is compared.
    pub comparison: Comparison,
}

impl Candidate<'_> {
    /// The hash under which an exact duplicate is looked up.
    pub fn hash(&self) -> String {
        content_hash(self.key, self.text)
    }
}

/// A row of the same store that may be the same: found by its hash, or among the nearest.
#[derive(Debug, Clone, PartialEq)]
pub struct Neighbour<'a, K> {
    /// Its id.
    pub id: K,
    /// Its subject, key or name.
    pub key: &'a str,
    /// What it says.
    pub text: &'a str,
    /// Its cosine to the candidate; None while one of them has no vector.
    pub cosine: Option<f32>,
    /// As stored.
    pub confidence: f64,
    /// As stored.
    pub trust: Trust,
    /// True while it is so: no `valid_until` in the past.
    pub open: bool,
}

/// How a candidate and a row are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sameness {
    /// The same normalised text under the same key.
    Exact,
    /// Nearly the same.
    Near,
}

/// Why nothing is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejection {
    /// It repeats what was recalled in the same turn.
    Recalled,
}

impl Rejection {
    /// The word of metrics and counters.
    pub const fn as_str(self) -> &'static str {
        match self {
            Rejection::Recalled => "recalled",
        }
    }
}

/// What to do with a candidate.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict<K> {
    /// Write a row.
    Insert,
    /// Write no row: confirm this one now, with these values.
    Merge {
        /// The row.
        into: K,
        /// How they are the same.
        sameness: Sameness,
        /// Its confidence from now on.
        confidence: f64,
        /// Its trust from now on. Higher than before only when the very same text came from somebody trusted more; then
        /// the candidate's lineage takes the place of the row's.
        trust: Trust,
    },
    /// Write nothing, count it.
    Reject(Rejection),
}

/// Decides on a candidate. `recalled` are the texts of the items recalled in its turn.
///
/// A closed row is never merged into: who says again what was superseded means that it is so again. A near duplicate of
/// a less trusted row is inserted beside it, since lifting that row would lift words that nobody trusted said.
pub fn decide<K: Ord + Clone>(
    candidate: &Candidate<'_>,
    recalled: &[&str],
    neighbours: &[Neighbour<'_, K>],
) -> Verdict<K> {
    if recalled.iter().any(|item| is_echo(candidate.text, item)) {
        return Verdict::Reject(Rejection::Recalled);
    }
    let hash = candidate.hash();
    let open = || neighbours.iter().filter(|n| n.open);
    let exact = open()
        .filter(|n| content_hash(n.key, n.text) == hash)
        .max_by(|a, b| a.trust.cmp(&b.trust).then_with(|| b.id.cmp(&a.id)));
    if let Some(row) = exact {
        return merge(row, Sameness::Exact, row.trust.max(candidate.trust));
    }
    if candidate.comparison == Comparison::ExactOnly {
        return Verdict::Insert;
    }
    let near = open()
        .filter(|n| n.trust >= candidate.trust)
        .filter_map(|n| nearness(candidate, n).map(|near| (near, n)))
        .max_by(|(x, a), (y, b)| x.total_cmp(y).then_with(|| b.id.cmp(&a.id)));
    match near {
        Some((_, row)) => merge(row, Sameness::Near, row.trust),
        None => Verdict::Insert,
    }
}

/// True when a text says nothing but what a recalled item says.
pub fn is_echo(text: &str, recalled: &str) -> bool {
    word_overlap(text, recalled) >= ECHO_OVERLAP
}

/// True when a text says what a recalled item says and nothing that was `heard` in its turn beyond it: an answer out of
/// memory, in whatever words. To keep it would make memory its own witness.
///
/// It is so when nothing that was heard is added, when the item holds a word of the text that nobody was heard to say, and
/// when no number and no "not" of the text is missing in the item. So "my dentist is Okafor now" is kept beside a recalled
/// "the dentist is Weber", and the answer to "who is my dentist?" is not.
pub fn is_answered_from(text: &str, heard: &str, recalled: &str) -> bool {
    let (said, there) = (stems_of(heard), stems_of(recalled));
    let substance_of_item = substance(recalled);
    stems_of(text).iter().any(|w| !said.contains(w) && w != sentence::THE_PERSON && there.contains(w))
        && !adds_what_was_heard(text, heard, recalled)
        && substance(text).iter().all(|word| substance_of_item.contains(word))
}

/// True when a text has a word that means something, a number or a "not", that was `heard` in its turn and that a recalled
/// item does not have. Then it is no echo of the item, however alike they are: in a sentence of ten words a correction
/// changes one.
pub fn adds_what_was_heard(text: &str, heard: &str, recalled: &str) -> bool {
    let words = |text: &str| stems_of(text).into_iter().chain(substance(text)).collect::<HashSet<String>>();
    let (heard, recalled) = (words(heard), words(recalled));
    words(text).iter().any(|word| heard.contains(word) && !recalled.contains(word))
}

fn merge<K: Clone>(row: &Neighbour<'_, K>, sameness: Sameness, trust: Trust) -> Verdict<K> {
    Verdict::Merge { into: row.id.clone(), sameness, confidence: confirmed(row.confidence), trust }
}

/// How near, when near enough and the same in substance.
fn nearness<K>(candidate: &Candidate<'_>, row: &Neighbour<'_, K>) -> Option<f64> {
    let whole = |key: &str, text: &str| format!("{key}\n{text}");
    let (a, b) = (whole(candidate.key, candidate.text), whole(row.key, row.text));
    let near = match row.cosine {
        Some(cosine) => Some(f64::from(cosine)).filter(|_| cosine >= NEAR_COSINE),
        // Letters cannot tell a long text from the same one with another weekday; its words can.
        None => Some(trigram_jaccard(&a, &b)).filter(|share| *share >= NEAR_TRIGRAMS && !adds_a_word(&a, &b)),
    };
    near.filter(|_| !differ_in_substance(&a, &b))
}
