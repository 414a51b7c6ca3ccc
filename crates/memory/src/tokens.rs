//! A text cut into words as the full-text index cuts it: `unicode61 remove_diacritics 2`.
//!
//! Letters, digits and private-use characters make words, everything else parts them; case is folded and the accents
//! of Latin letters go. Stop words and stems are the business of [`crate::query`] and [`crate::stem`].
//!
//! The invariant: a token holds no quote, no space and no operator of the query language, whatever the text was.

use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

/// Combining marks that FTS5 counts as part of a word and drops: bits for U+0300..U+031F and U+0320..U+0331.
/// Its own table; another one would part words where the index does not.
const DROPPED_MARKS: [u32; 2] = [0x0802_9FDF, 0x0003_61F8];
/// Where [`DROPPED_MARKS`] begins.
const FIRST_MARK: u32 = 0x300;

/// The words of a text, folded, in order.
pub fn tokens(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut word = String::new();
    for c in text.chars() {
        if is_word(c) {
            word.extend(fold(c));
        } else if !word.is_empty() && !is_dropped_mark(c) {
            found.push(std::mem::take(&mut word));
        }
    }
    if !word.is_empty() {
        found.push(word);
    }
    found
}

/// The words joined by single spaces: how names and subjects are compared.
pub fn joined(text: &str) -> String {
    tokens(text).join(" ")
}

fn is_word(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_alphanumeric();
    }
    let private =
        matches!(c, '\u{E000}'..='\u{F8FF}' | '\u{F0000}'..='\u{FFFFD}' | '\u{100000}'..='\u{10FFFD}');
    // Circled letters are alphabetic to Rust and symbols to FTS5.
    let circled = matches!(c, '\u{24B6}'..='\u{24E9}' | '\u{1F130}'..='\u{1F189}');
    private || (c.is_alphanumeric() && !is_combining_mark(c) && !circled)
}

fn is_dropped_mark(c: char) -> bool {
    let Some(offset) = (c as u32).checked_sub(FIRST_MARK) else { return false };
    let (word, bit) = (offset / 32, offset % 32);
    DROPPED_MARKS.get(word as usize).is_some_and(|mask| mask >> bit & 1 == 1)
}

fn fold(c: char) -> Option<char> {
    if c.is_ascii() {
        return Some(c.to_ascii_lowercase());
    }
    let mut lower = c.to_lowercase();
    let lowered = match (lower.next(), lower.next()) {
        (Some(one), None) => one,
        // A letter that becomes two (İ): FTS5 keeps its case and folds the accent alone.
        (Some(_), Some(_)) | (None, _) => c,
    };
    let lowered = match lowered {
        'ς' => 'σ',
        'ſ' | 'ẛ' => 's',
        'µ' => 'μ',
        'ϐ' => 'β',
        'ϑ' => 'θ',
        'ϕ' => 'φ',
        'ϖ' => 'π',
        'ϰ' => 'κ',
        'ϱ' => 'ρ',
        'ϵ' => 'ε',
        // The one Latin letter whose accents FTS5 leaves.
        'ǡ' => return Some('ǡ'),
        other => other,
    };
    let mut parts = std::iter::once(lowered).nfd();
    match parts.next() {
        Some(base) if base.is_ascii_alphabetic() => Some(base.to_ascii_lowercase()),
        Some(_) | None => Some(lowered),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_and_accents_do_not_matter() {
        assert_eq!(tokens("Café MÜNCHEN naïve"), ["cafe", "munchen", "naive"]);
        assert_eq!(tokens("cafe\u{301}s"), ["cafes"]);
    }

    #[test]
    fn a_written_date_is_three_words() {
        assert_eq!(tokens("2026-04-27"), ["2026", "04", "27"]);
    }

    #[test]
    fn nothing_of_the_query_language_survives() {
        assert_eq!(
            tokens("\"a\" OR b* NEAR(c, 2) {x}: ^y -z"),
            ["a", "or", "b", "near", "c", "2", "x", "y", "z"]
        );
    }
}
