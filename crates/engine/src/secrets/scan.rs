//! Reading a text in pieces and giving it back without secrets. Pure.
//!
//! One way for all texts: a whole text is one piece and an end. Between pieces only the characters that may
//! belong to an unfinished secret are held back, never more than [`HOLD_MAX`]; once a secret is certain its
//! mark goes out and the rest of it is swallowed without being held.

use super::assignment;
use super::known::{Found, Known, Needles};
use super::shapes::{Kind, Pem, SHAPES, Tail, Verdict};
use aho_corasick::{AhoCorasick, Input, MatchKind};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, LazyLock};

/// Characters held back at most. More delays the reader's text, fewer let longer beginnings of keys out.
/// (specification 14.5)
pub const HOLD_MAX: usize = 256;

static BEGINNINGS: LazyLock<Option<AhoCorasick>> = LazyLock::new(|| {
    let prefixes = SHAPES.iter().map(|s| s.prefix);
    AhoCorasick::builder().match_kind(MatchKind::LeftmostFirst).build(prefixes).ok()
});
static WORDS: LazyLock<Option<AhoCorasick>> = LazyLock::new(|| {
    let builder = &mut AhoCorasick::builder();
    builder.match_kind(MatchKind::LeftmostFirst).ascii_case_insensitive(true).build(assignment::WORDS).ok()
});

/// What is being swallowed.
enum Swallow {
    Nothing,
    Of(fn(u8) -> bool),
    Pem(Pem),
    /// The rest of these spellings, after this many bytes.
    Known(Vec<usize>, usize),
}

/// One text under way.
pub struct Scan {
    needles: Arc<Needles>,
    shapes: bool,
    held: String,
    before: [Option<char>; 2],
    swallow: Swallow,
    hits: BTreeSet<Kind>,
}

impl fmt::Debug for Scan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scan")
            .field("held", &self.held.len())
            .field("hits", &self.hits)
            .finish_non_exhaustive()
    }
}

/// What stands at one place.
enum Here {
    Nothing,
    Undecided,
    Secret { kind: Kind, keep: usize, end: usize, swallow: Swallow },
}

impl Scan {
    /// For what leaves: known values and the shapes of keys.
    pub fn of_everything(known: &Known) -> Self {
        Self::new(known.needles(), true)
    }

    /// Known values only.
    pub(super) fn of_values(needles: Arc<Needles>) -> Self {
        Self::new(needles, false)
    }

    fn new(needles: Arc<Needles>, shapes: bool) -> Self {
        Self {
            needles,
            shapes,
            held: String::new(),
            before: [None; 2],
            swallow: Swallow::Nothing,
            hits: BTreeSet::new(),
        }
    }

    /// A whole text, and what was found in it.
    pub fn whole(known: &Known, text: &str) -> (String, BTreeSet<Kind>) {
        let mut scan = Self::of_everything(known);
        let mut out = scan.push(text);
        out.push_str(&scan.end());
        (out, scan.hits)
    }

    /// Takes a piece and gives back what is certain by now.
    pub fn push(&mut self, piece: &str) -> String {
        self.held.push_str(piece);
        self.advance(false)
    }

    /// The text is over: gives back what was held.
    pub fn end(&mut self) -> String {
        let out = self.advance(true);
        self.before = [None; 2];
        self.swallow = Swallow::Nothing;
        out
    }

    /// Characters held back.
    pub fn held(&self) -> usize {
        self.held.chars().count()
    }

    /// What was found since this was last asked.
    pub fn take_hits(&mut self) -> BTreeSet<Kind> {
        std::mem::take(&mut self.hits)
    }

    fn advance(&mut self, last: bool) -> String {
        let text = std::mem::take(&mut self.held);
        let mut out = String::with_capacity(text.len());
        let mut at = self.swallowed(&text, 0);
        let mut copied = at;
        let mut hold = self.unfinished(&text, copied, last);
        let mut starts = Starts::default();
        while let Some(start) = starts.next(self, &text, at).filter(|start| *start < hold) {
            let kept = &text[copied..start];
            match self.here(&text[start..], context(self.before, kept), last) {
                Here::Nothing => at = start + text[start..].chars().next().map_or(1, char::len_utf8),
                Here::Undecided => {
                    hold = start;
                    break;
                }
                Here::Secret { kind, keep, end, swallow } => {
                    out.push_str(&text[copied..start + keep]);
                    out.push_str("[redacted:");
                    out.push_str(kind.as_str());
                    out.push(']');
                    self.hits.insert(kind);
                    // what follows stands behind the mark
                    self.before = [None, Some(']')];
                    self.swallow = swallow;
                    at = self.swallowed(&text, start + end);
                    copied = at;
                    hold = self.unfinished(&text, copied, last);
                }
            }
        }
        out.push_str(&text[copied..hold]);
        self.before = context(self.before, &text[copied..hold]);
        self.held = text[hold..].to_owned();
        out
    }

    /// Where swallowing from `from` ends; when that is the end of the text it goes on with the next piece.
    fn swallowed(&mut self, text: &str, from: usize) -> usize {
        let mut at = from;
        for c in text[from..].chars() {
            let goes_on = match &mut self.swallow {
                Swallow::Nothing => false,
                Swallow::Of(class) => u8::try_from(c).is_ok_and(*class),
                Swallow::Pem(state) => state.next(c).map(|next| *state = next).is_some(),
                Swallow::Known(which, length) => {
                    which.retain(|&w| self.needles.rest(w, *length).starts_with(c));
                    *length += c.len_utf8();
                    !which.is_empty()
                }
            };
            if !goes_on {
                self.swallow = Swallow::Nothing;
                break;
            }
            at += c.len_utf8();
        }
        at
    }

    /// What stands at the beginning of `text`.
    fn here(&self, text: &str, before: [Option<char>; 2], last: bool) -> Here {
        let mut found = match self.needles.at(text, last) {
            Found::Nothing => Here::Nothing,
            Found::Undecided => return Here::Undecided,
            Found::Value { length, which } => {
                let swallow = Swallow::Known(which, length);
                Here::Secret { kind: Kind::Secret, keep: 0, end: length, swallow }
            }
        };
        if !self.shapes {
            return found;
        }
        let keys = SHAPES
            .iter()
            .filter(|s| text.starts_with(s.prefix) && may_begin(s.prefix, before))
            .map(|s| s.at(text, last));
        let word = assignment::WORDS.iter().find(|w| starts_with_word(text, w));
        let word = word.filter(|_| may_begin_name(text, before)).map(|w| assignment::at(text, w.len(), last));
        for verdict in keys.chain(word) {
            match verdict {
                Verdict::No => {}
                Verdict::More => return Here::Undecided,
                Verdict::Yes { kind, keep, end, tail } => {
                    let longer = !matches!(&found, Here::Secret { end: known, .. } if *known >= end);
                    if longer {
                        let swallow = match tail {
                            Tail::None => Swallow::Nothing,
                            Tail::Of(class) => Swallow::Of(class),
                            Tail::Pem => Swallow::Pem(Pem::Line),
                        };
                        found = Here::Secret { kind, keep, end, swallow };
                    }
                }
            }
        }
        found
    }

    /// Where the earliest unfinished beginning of anything starts, at or after `from`; the text's length when
    /// there is none, or when nothing follows.
    fn unfinished(&self, text: &str, from: usize, last: bool) -> usize {
        if last {
            return text.len();
        }
        let known = from + self.needles.begins_at_end(&text[from..]);
        if !self.shapes {
            return known;
        }
        let window = text.ceil_char_boundary(text.len().saturating_sub(LONGEST_BEGINNING)).max(from);
        let begins = |at: usize| {
            let (end, before) = (&text[at..], context(self.before, &text[from..at]));
            let shape = SHAPES.iter().any(|s| s.prefix.starts_with(end) && may_begin(s.prefix, before));
            let word = |w: &str| end.len() < w.len() && starts_with_word(w, end);
            shape || (may_begin_name(end, before) && assignment::WORDS.iter().any(|w| word(w)))
        };
        let own = text[window..].char_indices().map(|(at, _)| window + at).find(|&at| begins(at));
        own.map_or(known, |own| own.min(known))
    }
}

/// Bytes of the longest beginning by which anything but a known value is found.
const LONGEST_BEGINNING: usize = 12;

/// The next place worth a look, searched by each automaton only as often as needed.
#[derive(Default)]
struct Starts {
    known: Option<usize>,
    shape: Option<usize>,
    word: Option<usize>,
}

impl Starts {
    fn next(&mut self, scan: &Scan, text: &str, at: usize) -> Option<usize> {
        let stale = |place: Option<usize>| place.is_none_or(|p| p < at);
        let end = text.len();
        if stale(self.known) {
            self.known = Some(scan.needles.first(text, at).unwrap_or(end));
        }
        if scan.shapes {
            let find = |automaton: &Option<AhoCorasick>| {
                let found = automaton.as_ref().and_then(|a| a.find(Input::new(text).range(at..)));
                Some(found.map_or(end, |m| m.start()))
            };
            if stale(self.shape) {
                self.shape = find(&BEGINNINGS);
            }
            if stale(self.word) {
                self.word = find(&WORDS);
            }
        }
        let next = [self.known, self.shape, self.word].into_iter().flatten().min()?;
        (next < end).then_some(next)
    }
}

/// The two characters before a place, when `text` lies between the last known ones and it.
fn context(before: [Option<char>; 2], text: &str) -> [Option<char>; 2] {
    let mut chars = text.chars().rev();
    match (chars.next(), chars.next()) {
        (None, _) => before,
        (Some(last), None) => [before[1], Some(last)],
        (Some(last), second) => [second, Some(last)],
    }
}

fn starts_with_word(text: &str, word: &str) -> bool {
    text.get(..word.len()).is_some_and(|t| t.eq_ignore_ascii_case(word))
}

/// A key does not begin inside a word (`task-…` is not `sk-…`), but may follow an escape (`\n`).
fn may_begin(prefix: &str, before: [Option<char>; 2]) -> bool {
    let [second, last] = before;
    let inside = last.is_some_and(|c| c.is_alphanumeric() || c == '_');
    !inside || prefix.starts_with('-') || is_escape(second, last)
}

/// A name's word begins at the beginning of a word of the name: `db_password`, `dbPassword`, not `spwd`.
fn may_begin_name(text: &str, before: [Option<char>; 2]) -> bool {
    let [second, last] = before;
    let Some(last) = last.filter(|c| c.is_alphanumeric()) else { return true };
    let camel = last.is_lowercase() && text.starts_with(|c: char| c.is_ascii_uppercase());
    camel || is_escape(second, Some(last))
}

fn is_escape(second: Option<char>, last: Option<char>) -> bool {
    second == Some('\\') && matches!(last, Some('n' | 'r' | 't'))
}

#[cfg(test)]
#[path = "scan_tests.rs"]
mod tests;
