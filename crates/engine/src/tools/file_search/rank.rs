//! Words, and how well a chunk fits them: BM25 as the memory search uses it. Pure.

use std::collections::BTreeSet;
use unicode_normalization::UnicodeNormalization;

/// Chunks that are kept for the last step. (specification 7.1)
const CANDIDATES: usize = 200;
/// Words of a query that count: the rarest. (specification 10.5)
const TERMS_MAX: usize = 12;
/// A word in more than this share of the chunks says nothing …
const COMMON: f64 = 0.2;
/// … once there are this many chunks.
const COMMON_FROM: usize = 50;
/// How much a word's repetition counts; the usual constant of BM25.
const K1: f64 = 1.2;
/// How much a chunk's length counts; the usual constant of BM25.
const B: f64 = 0.75;
/// Words that say nothing in English, which is what programs are written in.
const STOP_WORDS: [&str; 40] = [
    "a", "about", "an", "and", "are", "as", "at", "be", "by", "can", "do", "does", "for", "from", "how", "i",
    "if", "in", "is", "it", "its", "me", "my", "of", "on", "or", "that", "the", "there", "this", "to", "was",
    "we", "what", "when", "where", "which", "who", "with", "you",
];

/// The words of a text as they are compared: lower case, without accents, without common endings. Names of
/// programs are taken apart at underscores and capitals.
fn words(text: &str) -> impl Iterator<Item = String> + '_ {
    text.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).flat_map(parts).map(|w| stem(&w))
}

/// `readFile` as `readFile`, `read`, `file`; a word without capitals inside as itself.
fn parts(word: &str) -> Vec<String> {
    let mut cuts = Vec::new();
    let mut before: Option<char> = None;
    for (at, c) in word.char_indices() {
        if before.is_some_and(|b| b.is_lowercase() && c.is_uppercase()) {
            cuts.push(at);
        }
        before = Some(c);
    }
    let mut all = vec![word.to_owned()];
    if !cuts.is_empty() {
        let ends = cuts.iter().copied().chain([word.len()]);
        let starts = [0].into_iter().chain(cuts.iter().copied());
        all.extend(starts.zip(ends).map(|(start, end)| word[start..end].to_owned()));
    }
    all
}

fn stem(word: &str) -> String {
    let plain: String = word
        .nfd()
        .filter(|c| !unicode_normalization::char::is_combining_mark(*c))
        .flat_map(char::to_lowercase)
        .collect();
    for (ending, instead) in [("ies", "y"), ("sses", "ss"), ("ing", ""), ("ed", ""), ("es", "e"), ("s", "")] {
        if let Some(start) = plain.strip_suffix(ending)
            && start.chars().count() >= 3
            && !(ending == "s" && start.ends_with(['s', 'u', 'i']))
        {
            return format!("{start}{instead}");
        }
    }
    plain
}

/// What is searched for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Query(Vec<String>);

impl Query {
    /// The words of a text, without those that say nothing.
    pub(super) fn new(text: &str) -> Self {
        let all: BTreeSet<String> = words(text).collect();
        let stop: BTreeSet<String> = STOP_WORDS.iter().map(|w| stem(w)).collect();
        let told: Vec<String> = all.difference(&stop).cloned().collect();
        // a query of nothing but such words means them
        Self(if told.is_empty() { all.into_iter().collect() } else { told })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

struct Chunk {
    file: usize,
    line: usize,
    counts: Vec<u32>,
    length: u32,
}

/// A place that fits.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Hit {
    /// Which file, as it was added.
    pub(super) file: usize,
    /// The line with most of the words, from 0.
    pub(super) line: usize,
    /// From 0 to 1; the best has 1.
    pub(super) score: f64,
}

/// Chunks under way.
pub(super) struct Ranking {
    query: Query,
    chunks: Vec<Chunk>,
    total: usize,
    words: u64,
}

impl Ranking {
    pub(super) fn new(query: Query) -> Self {
        Self { query, chunks: Vec::new(), total: 0, words: 0 }
    }

    /// Adds a chunk of a file, beginning at this line.
    pub(super) fn add(&mut self, file: usize, first: usize, lines: &[&str]) {
        let mut counts = vec![0_u32; self.query.0.len()];
        let mut length = 0_u32;
        let mut best = (0, first);
        for (offset, line) in lines.iter().enumerate() {
            let mut kinds = BTreeSet::new();
            for word in words(line) {
                length += 1;
                if let Ok(term) = self.query.0.binary_search(&word) {
                    counts[term] += 1;
                    kinds.insert(term);
                }
            }
            if kinds.len() > best.0 {
                best = (kinds.len(), first + offset);
            }
        }
        self.total += 1;
        self.words += u64::from(length);
        if best.0 > 0 {
            self.chunks.push(Chunk { file, line: best.1, counts, length });
        }
    }

    /// The best places, at most `limit`.
    pub(super) fn best(self, limit: usize) -> Vec<Hit> {
        let total = self.total as f64;
        let found = |term: usize| self.chunks.iter().filter(|c| c.counts[term] > 0).count();
        let mut terms: Vec<(usize, usize)> = (0..self.query.0.len()).map(|t| (found(t), t)).collect();
        terms.retain(|(n, _)| *n > 0);
        terms.sort_unstable();
        let rare = |n: usize| self.total < COMMON_FROM || n as f64 <= COMMON * total;
        // when every word is common, the rarest still says more than nothing
        let kept = terms.iter().filter(|(n, _)| rare(*n)).count().clamp(1, TERMS_MAX);
        terms.truncate(kept);
        let average = self.words as f64 / total.max(1.0);
        let score = |chunk: &Chunk| -> f64 {
            let part = |&(n, term): &(usize, usize)| {
                let n = n as f64;
                let count = f64::from(chunk.counts[term]);
                let weight = ((total - n + 0.5) / (n + 0.5)).ln_1p();
                let length = 1.0 - B + B * f64::from(chunk.length) / average.max(1.0);
                weight * count * (K1 + 1.0) / (count + K1 * length)
            };
            terms.iter().map(part).sum()
        };
        let scored = self.chunks.iter().map(|c| Hit { file: c.file, line: c.line, score: score(c) });
        let mut hits: Vec<Hit> = scored.filter(|h| h.score > 0.0).collect();
        hits.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.file.cmp(&b.file)).then(a.line.cmp(&b.line)));
        hits.truncate(CANDIDATES);
        let best = hits.first().map_or(1.0, |h| h.score);
        hits.iter_mut().for_each(|h| h.score /= best);
        hits.truncate(limit);
        hits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_compared_without_case_accents_and_endings() {
        let all: Vec<String> = words("readFiles CAFÉ matching_rules, tables").collect();
        for wanted in ["read", "file", "cafe", "match", "rule", "table"] {
            assert!(all.contains(&wanted.to_owned()), "{wanted} in {all:?}");
        }
        assert_eq!(Query::new("Where is the parser?"), Query::new("parsers"));
        assert!(!Query::new("the").is_empty() && Query::new("?!").is_empty());
    }

    #[test]
    fn the_chunk_with_the_rare_word_wins_and_names_its_line() {
        let mut ranking = Ranking::new(Query::new("retry of the payment"));
        for file in 0..60 {
            ranking.add(file, 0, &["fn retry() {}", "// retry"]);
        }
        ranking.add(60, 30, &["nothing", "a payment is retried", "nothing"]);
        ranking.add(61, 0, &["payment"]);
        let hits = ranking.best(3);
        assert_eq!(hits.len(), 2, "a word that is everywhere finds nothing by itself: {hits:?}");
        assert!(hits.iter().all(|h| h.score > 0.0 && h.score <= 1.0) && hits[0].score == 1.0);
        let found: Vec<(usize, usize)> = hits.iter().map(|h| (h.file, h.line)).collect();
        assert!(found.contains(&(60, 31)) && found.contains(&(61, 0)), "{found:?}");
    }

    #[test]
    fn no_words_in_any_chunk_is_no_result() {
        let mut ranking = Ranking::new(Query::new("absent"));
        ranking.add(0, 0, &["something else"]);
        assert_eq!(ranking.best(10), []);
        assert_eq!(Ranking::new(Query::new("x")).best(10), []);
    }
}
