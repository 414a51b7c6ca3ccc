//! The secret values this process knows. They are learned, never listed: nothing here prints one.
//!
//! One automaton finds all spellings of all values in one pass. It is built anew when a value is learned,
//! which is rare; readers keep the one they have until they ask again.

use super::scan::Scan;
use super::spelling::spellings;
use aho_corasick::{AhoCorasick, MatchKind};
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

/// Shorter values are not looked for: they would take words out of every text. (specification 14.5)
pub const SHORTEST: usize = 8;
/// A longer spelling counts as found when this many bytes of it were seen; the rest is then swallowed as far as
/// it agrees. Larger holds more of a stream back, smaller takes texts that only begin like a long secret.
const HEAD_BYTES: usize = 128;

/// The set, shared by everything that writes something out.
#[derive(Default)]
pub struct Known {
    values: RwLock<(BTreeSet<String>, Arc<Needles>)>,
}

impl fmt::Debug for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Known([redacted])")
    }
}

impl Known {
    /// With these values.
    pub fn new<S: AsRef<str>>(values: impl IntoIterator<Item = S>) -> Self {
        let known = Self::default();
        known.learn_all(values);
        known
    }

    /// Looks for this value from now on, for the life of the process. Values shorter than [`SHORTEST`] bytes
    /// are ignored; learning twice changes nothing.
    pub fn learn(&self, value: &str) {
        self.learn_all([value]);
    }

    /// The same for several values, at the cost of one.
    pub fn learn_all<S: AsRef<str>>(&self, values: impl IntoIterator<Item = S>) {
        let mut held = self.values.write().unwrap_or_else(PoisonError::into_inner);
        let before = held.0.len();
        let long = |v: S| Some(v.as_ref().trim().to_owned()).filter(|v| v.len() >= SHORTEST);
        held.0.extend(values.into_iter().filter_map(long));
        if held.0.len() > before {
            held.1 = Arc::new(Needles::new(&held.0));
        }
    }

    pub(super) fn needles(&self) -> Arc<Needles> {
        Arc::clone(&self.values.read().unwrap_or_else(PoisonError::into_inner).1)
    }

    /// The text without known values. For what is stored, logged, exported or shown to the model.
    pub fn scrub<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let needles = self.needles();
        if !needles.occur_in(text) {
            return Cow::Borrowed(text);
        }
        let mut scan = Scan::of_values(needles);
        let mut out = scan.push(text);
        out.push_str(&scan.end());
        Cow::Owned(out)
    }

    /// The same for bytes that may be anything; bytes that are not UTF-8 stay as they are when nothing is found.
    pub fn scrub_bytes(&self, bytes: Vec<u8>) -> Vec<u8> {
        if !self.needles().automaton.as_ref().is_some_and(|a| a.is_match(&bytes)) {
            return bytes;
        }
        self.scrub(&String::from_utf8_lossy(&bytes)).into_owned().into_bytes()
    }

    /// One piece of a text that was cut: what its ends hold of a known value is taken out too.
    /// `cut_before` and `cut_after` say at which end something is missing.
    pub fn scrub_cut(&self, piece: &str, cut_before: bool, cut_after: bool) -> String {
        let needles = self.needles();
        let mut from = 0;
        let mut to = piece.len();
        if cut_before {
            from = needles.longest_tail_at_start(piece);
        }
        if cut_after {
            to = needles.longest_head_at_end(piece).max(from);
        }
        let mark = |cut: bool| if cut { "[redacted:secret]" } else { "" };
        format!("{}{}{}", mark(from > 0), self.scrub(&piece[from..to]), mark(to < piece.len()))
    }
}

/// All spellings, ready to be searched.
#[derive(Default)]
pub(super) struct Needles {
    spellings: Vec<String>,
    automaton: Option<AhoCorasick>,
}

/// What a place in a text holds of the known values.
pub(super) enum Found {
    /// Nothing, whatever follows.
    Nothing,
    /// The text ends before that can be said.
    Undecided,
    /// These spellings, so far this many bytes of them.
    Value {
        /// Bytes from the place on.
        length: usize,
        /// Which spellings agree over all of `length`.
        which: Vec<usize>,
    },
}

impl Needles {
    fn new(values: &BTreeSet<String>) -> Self {
        let spellings: BTreeSet<String> = values.iter().flat_map(|v| spellings(v)).collect();
        let spellings: Vec<String> = spellings.into_iter().filter(|s| s.len() >= SHORTEST).collect();
        let heads = spellings.iter().map(|s| head(s));
        // an automaton over some hundred short texts is far below every limit of the builder
        let automaton = AhoCorasick::builder().match_kind(MatchKind::LeftmostFirst).build(heads).ok();
        Self { spellings, automaton }
    }

    /// Where the first head at or after `from` begins.
    pub(super) fn first(&self, text: &str, from: usize) -> Option<usize> {
        let found = self.automaton.as_ref()?.find(aho_corasick::Input::new(text).range(from..))?;
        Some(found.start())
    }

    fn occur_in(&self, text: &str) -> bool {
        self.automaton.as_ref().is_some_and(|a| a.is_match(text))
    }

    /// What stands at the beginning of `text`; `last` says that nothing follows.
    pub(super) fn at(&self, text: &str, last: bool) -> Found {
        let mut length = 0;
        let mut which = Vec::new();
        for (index, spelling) in self.spellings.iter().enumerate() {
            let agreed = agreement(text, spelling);
            if agreed < head(spelling).len() {
                if agreed == text.len() && agreed > 0 && !last {
                    return Found::Undecided;
                }
                continue;
            }
            if agreed > length {
                (length, which) = (agreed, Vec::new());
            }
            if agreed == length {
                which.push(index);
            }
        }
        if length == 0 { Found::Nothing } else { Found::Value { length, which } }
    }

    /// The spelling's text after `at` bytes.
    pub(super) fn rest(&self, which: usize, at: usize) -> &str {
        self.spellings[which].get(at..).unwrap_or_default()
    }

    /// Where the longest beginning of a spelling starts that ends `text` unfinished; `text.len()` for none.
    pub(super) fn begins_at_end(&self, text: &str) -> usize {
        let from = text.ceil_char_boundary(text.len().saturating_sub(HEAD_BYTES));
        let places = text[from..].char_indices().map(|(at, _)| from + at);
        // the spellings are sorted: those that begin with `end` stand together
        let unfinished = |at: usize| {
            let end = &text[at..];
            let first = self.spellings.partition_point(|s| s.as_str() < end);
            self.spellings[first..].iter().take(2).any(|s| s.len() > end.len() && s.starts_with(end))
        };
        places.into_iter().find(|&at| unfinished(at)).unwrap_or(text.len())
    }

    /// The same for a cut: at least [`SHORTEST`] / 2 bytes must agree, and any length of spelling counts.
    fn longest_head_at_end(&self, text: &str) -> usize {
        let longest = self.spellings.iter().map(String::len).max().unwrap_or(0);
        let from = text.ceil_char_boundary(text.len().saturating_sub(longest));
        let places = text[from..].char_indices().map(|(at, _)| from + at);
        // sorted: if one begins with `end`, the first that is not before it does
        let cut = |at: usize| {
            let end = &text[at..];
            let first = self.spellings.partition_point(|s| s.as_str() < end);
            end.len() >= SHORTEST / 2 && self.spellings.get(first).is_some_and(|s| s.starts_with(end))
        };
        places.into_iter().find(|&at| cut(at)).unwrap_or(text.len())
    }

    fn longest_tail_at_start(&self, text: &str) -> usize {
        let longest = self.spellings.iter().map(String::len).max().unwrap_or(0).min(text.len());
        let cut =
            |to: usize| text.is_char_boundary(to) && self.spellings.iter().any(|s| s.ends_with(&text[..to]));
        (SHORTEST / 2..=longest).rev().find(|&to| cut(to)).unwrap_or(0)
    }
}

fn head(spelling: &str) -> &str {
    &spelling[..spelling.floor_char_boundary(HEAD_BYTES)]
}

/// How many bytes of whole characters two texts have in common at their beginning.
fn agreement(a: &str, b: &str) -> usize {
    a.chars().zip(b.chars()).take_while(|(x, y)| x == y).map(|(c, _)| c.len_utf8()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    const VALUE: &str = "canary/42 value+\"x\"";

    #[test]
    fn a_value_is_found_in_every_spelling_and_nothing_else_is_touched() {
        let known = Known::new([VALUE]);
        let long = STANDARD.encode(format!("some words before {VALUE} and after"));
        for text in [VALUE, "canary%2F42%20value%2B%22x%22", "canary/42 value+\\\"x\\\"", &long] {
            let scrubbed = known.scrub(text);
            assert!(scrubbed.contains("[redacted:secret]"), "{text} → {scrubbed}");
        }
        assert!(matches!(known.scrub("canary/42 valu"), Cow::Borrowed(_)));
        let bytes = vec![0xff, 0, 7];
        assert_eq!(known.scrub_bytes(bytes.clone()), bytes);
    }

    #[test]
    fn short_values_are_not_learned_and_a_value_may_come_later() {
        let known = Known::new(["1234567", ""]);
        assert_eq!(known.scrub("1234567"), "1234567");
        known.learn("12345678");
        known.learn("12345678");
        assert_eq!(known.scrub("a 12345678 b 1234567"), "a [redacted:secret] b 1234567");
    }

    #[test]
    fn of_two_values_the_longer_one_goes_as_a_whole_and_a_long_one_to_its_end() {
        let long = "k".repeat(500) + "END";
        let known = Known::new(["abcdefgh", "abcdefghijklmnop", &long]);
        assert_eq!(known.scrub("abcdefghijklmnop."), "[redacted:secret].");
        assert_eq!(known.scrub("abcdefghijk."), "[redacted:secret]ijk.");
        assert_eq!(known.scrub(&format!("<{long}>")), "<[redacted:secret]>");
    }

    #[test]
    fn a_cut_through_a_value_leaves_neither_half() {
        let known = Known::new(["abcdefghijklmnop"]);
        assert_eq!(known.scrub_cut("text abcdefgh", false, true), "text [redacted:secret]");
        assert_eq!(known.scrub_cut("ijklmnop text", true, false), "[redacted:secret] text");
        assert_eq!(known.scrub_cut("ijklmnop text", false, false), "ijklmnop text");
    }

    #[test]
    fn nothing_prints_a_value() {
        assert_eq!(format!("{:?}", Known::new(["abcdefghijkl"])), "Known([redacted])");
    }
}
