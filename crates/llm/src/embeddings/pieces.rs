//! From a text to word pieces, exactly as BERT's uncased models do it: clean, take accents off, lower case, split at
//! blanks, punctuation and Chinese characters, then the longest known piece first.
//!
//! Works in one pass and with one word in memory, whatever the text. A word that cannot be built from known pieces
//! gives none at all: half of a word would mean something else.

use super::table::{LONGEST_PIECE_BYTES, Table};
use unicode_general_category::{GeneralCategory, get_general_category};
use unicode_normalization::UnicodeNormalization;

/// Longest word that is looked up, in characters, as in BERT: longer ones are no words but data.
const MAX_WORD_CHARS: usize = 100;

/// What stands before a piece that continues a word.
const CONTINUED: &str = "##";

/// Tells the places in the table of the text's pieces, in order.
pub fn each_piece(table: &Table<'_>, text: &str, mut tell: impl FnMut(usize)) {
    let mut word = Word::default();
    let mut places = Vec::new();
    let mut end = |word: &mut Word| {
        if split_word(table, word, &mut places) {
            places.iter().copied().for_each(&mut tell);
        }
        word.clear();
    };
    for c in text.chars().filter(|c| is_text(*c)).nfd().filter(|c| !is_accent(*c)) {
        if c.is_whitespace() {
            end(&mut word);
        } else if is_punctuation(c) || is_chinese(c) {
            end(&mut word);
            word.push(c);
            end(&mut word);
        } else {
            c.to_lowercase().for_each(|c| word.push(c));
        }
    }
    end(&mut word);
}

/// The word being collected.
#[derive(Default)]
struct Word {
    text: String,
    chars: usize,
}

impl Word {
    fn push(&mut self, c: char) {
        self.chars = self.chars.saturating_add(1);
        if self.chars <= MAX_WORD_CHARS {
            self.text.push(c);
        }
    }

    fn clear(&mut self) {
        self.text.clear();
        self.chars = 0;
    }
}

/// Splits a word into the longest known pieces, from the left. False when that does not work out.
fn split_word(table: &Table<'_>, word: &Word, places: &mut Vec<usize>) -> bool {
    places.clear();
    if word.chars > MAX_WORD_CHARS {
        return false;
    }
    let mut rest = word.text.as_str();
    let mut mark = "";
    while !rest.is_empty() {
        let mut end = rest.floor_char_boundary(LONGEST_PIECE_BYTES - mark.len());
        let place = loop {
            if end == 0 {
                return false;
            }
            if let Some(place) = table.find(mark, &rest[..end]) {
                break place;
            }
            end = rest.floor_char_boundary(end - 1);
        };
        places.push(place);
        rest = &rest[end..];
        mark = CONTINUED;
    }
    true
}

/// Not a control character. Tab, line feed and carriage return are blanks.
fn is_text(c: char) -> bool {
    use GeneralCategory::{Control, Format, PrivateUse, Surrogate, Unassigned};
    match c {
        '\t' | '\n' | '\r' => true,
        '\0'..='\u{1f}' | '\u{7f}' | '\u{fffd}' => false,
        ' '..='~' => true,
        _ => !matches!(get_general_category(c), Control | Format | PrivateUse | Surrogate | Unassigned),
    }
}

fn is_accent(c: char) -> bool {
    !c.is_ascii() && get_general_category(c) == GeneralCategory::NonspacingMark
}

/// BERT counts every ASCII sign that is neither letter nor digit.
fn is_punctuation(c: char) -> bool {
    use GeneralCategory::{
        ClosePunctuation, ConnectorPunctuation, DashPunctuation, FinalPunctuation, InitialPunctuation,
        OpenPunctuation, OtherPunctuation,
    };
    if c.is_ascii() {
        return c.is_ascii_punctuation();
    }
    matches!(
        get_general_category(c),
        ClosePunctuation
            | ConnectorPunctuation
            | DashPunctuation
            | FinalPunctuation
            | InitialPunctuation
            | OpenPunctuation
            | OtherPunctuation
    )
}

/// The blocks BERT takes for Chinese: ideographs, not kana and not Hangul.
fn is_chinese(c: char) -> bool {
    matches!(c,
        '\u{4e00}'..='\u{9fff}'
        | '\u{3400}'..='\u{4dbf}'
        | '\u{20000}'..='\u{2a6df}'
        | '\u{2a700}'..='\u{2b73f}'
        | '\u{2b740}'..='\u{2b81f}'
        | '\u{2b920}'..='\u{2ceaf}'
        | '\u{f900}'..='\u{faff}'
        | '\u{2f800}'..='\u{2fa1f}')
}
