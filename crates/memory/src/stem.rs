//! The stem of a word, exactly as the full-text index cuts it.
//!
//! The index keeps stems, so asking it how common a word is needs the same stem. This follows the `porter` tokenizer
//! of SQLite's FTS5 step by step, with its own limits (nothing below 3 bytes, nothing above 64), and works on bytes as
//! it does. Nothing here is better English than SQLite's: a "better" stem would be one the index does not know.
//!
//! The invariant: for every word, the stem is the one FTS5 stores.

/// Words shorter than this are their own stem. FTS5's number: another one gives stems that the index has not.
const SHORTEST_BYTES: usize = 3;
/// Words longer than this are their own stem. FTS5's number, for the same reason.
const LONGEST_BYTES: usize = 64;

/// When a suffix may go, said of what remains in front of it.
#[derive(Clone, Copy)]
enum When {
    /// At least one vowel-consonant sequence.
    Measure1,
    /// At least two.
    Measure2,
    /// At least two, and an `s` or `t` at the end.
    Measure2EndingInSOrT,
}

impl When {
    fn holds(self, stem: &[u8]) -> bool {
        match self {
            When::Measure1 => measure(stem) > 0,
            When::Measure2 => measure(stem) > 1,
            When::Measure2EndingInSOrT => matches!(stem.last(), Some(b's' | b't')) && measure(stem) > 1,
        }
    }
}

/// Suffix and what stands in its place. The first suffix that fits decides, even when its condition fails; suffixes
/// with the same last-but-one letter therefore stand in FTS5's order.
type Rules = &'static [(&'static str, &'static str, When)];

const STEP_2: Rules = &[
    ("ational", "ate", When::Measure1),
    ("tional", "tion", When::Measure1),
    ("enci", "ence", When::Measure1),
    ("anci", "ance", When::Measure1),
    ("izer", "ize", When::Measure1),
    ("logi", "log", When::Measure1),
    ("bli", "ble", When::Measure1),
    ("alli", "al", When::Measure1),
    ("entli", "ent", When::Measure1),
    ("eli", "e", When::Measure1),
    ("ousli", "ous", When::Measure1),
    ("ization", "ize", When::Measure1),
    ("ation", "ate", When::Measure1),
    ("ator", "ate", When::Measure1),
    ("alism", "al", When::Measure1),
    ("iveness", "ive", When::Measure1),
    ("fulness", "ful", When::Measure1),
    ("ousness", "ous", When::Measure1),
    ("aliti", "al", When::Measure1),
    ("iviti", "ive", When::Measure1),
    ("biliti", "ble", When::Measure1),
];

const STEP_3: Rules = &[
    ("ical", "ic", When::Measure1),
    ("ness", "", When::Measure1),
    ("icate", "ic", When::Measure1),
    ("iciti", "ic", When::Measure1),
    ("ful", "", When::Measure1),
    ("ative", "", When::Measure1),
    ("alize", "al", When::Measure1),
];

const STEP_4: Rules = &[
    ("al", "", When::Measure2),
    ("ance", "", When::Measure2),
    ("ence", "", When::Measure2),
    ("er", "", When::Measure2),
    ("ic", "", When::Measure2),
    ("able", "", When::Measure2),
    ("ible", "", When::Measure2),
    ("ant", "", When::Measure2),
    ("ement", "", When::Measure2),
    ("ment", "", When::Measure2),
    ("ent", "", When::Measure2),
    ("ion", "", When::Measure2EndingInSOrT),
    ("ou", "", When::Measure2),
    ("ism", "", When::Measure2),
    ("ate", "", When::Measure2),
    ("iti", "", When::Measure2),
    ("ous", "", When::Measure2),
    ("ive", "", When::Measure2),
    ("ize", "", When::Measure2),
];

/// The stem of a folded word (see [`crate::tokens`]).
pub fn stem(word: &str) -> String {
    if !(SHORTEST_BYTES..=LONGEST_BYTES).contains(&word.len()) {
        return word.to_owned();
    }
    let mut b = word.as_bytes().to_vec();
    plural(&mut b);
    if past_or_gerund(&mut b) {
        repair(&mut b);
    }
    if b.last() == Some(&b'y') && has_vowel(&b[..b.len() - 1]) {
        *b.last_mut().expect("just seen") = b'i';
    }
    for rules in [STEP_2, STEP_3, STEP_4] {
        apply(&mut b, rules);
    }
    if b.last() == Some(&b'e') {
        let rest = &b[..b.len() - 1];
        if measure(rest) > 1 || (measure(rest) == 1 && !ends_in_short_syllable(rest)) {
            b.pop();
        }
    }
    if b.ends_with(b"ll") && measure(&b[..b.len() - 1]) > 1 {
        b.pop();
    }
    // Cutting a doubled byte can split a character outside ASCII; such a stem cannot be asked for as text.
    String::from_utf8(b).unwrap_or_else(|_| word.to_owned())
}

fn plural(b: &mut Vec<u8>) {
    let n = b.len();
    if b[n - 1] != b's' {
        return;
    }
    let cut = match b[n - 2] {
        b'e' if (n > 4 && &b[n - 4..n - 2] == b"ss") || (n > 3 && b[n - 3] == b'i') => 2,
        b's' => 0,
        _ => 1,
    };
    b.truncate(n - cut);
}

/// True when a suffix went and the word may need repair.
fn past_or_gerund(b: &mut Vec<u8>) -> bool {
    let n = b.len();
    if ends(b, "eed") {
        if measure(&b[..n - 3]) > 0 {
            b.truncate(n - 1);
        }
        return false;
    }
    for suffix in ["ed", "ing"] {
        if ends(b, suffix) {
            let rest = n - suffix.len();
            if has_vowel(&b[..rest]) {
                b.truncate(rest);
                return true;
            }
            return false;
        }
    }
    false
}

fn repair(b: &mut Vec<u8>) {
    if ["at", "bl", "iz"].iter().any(|suffix| ends(b, suffix)) {
        b.push(b'e');
        return;
    }
    let n = b.len();
    let last = b[n - 1];
    let doubled = n > 1 && last == b[n - 2];
    if doubled && !is_vowel(last, false) && !matches!(last, b'l' | b's' | b'z') {
        b.pop();
    } else if measure(b) == 1 && ends_in_short_syllable(b) {
        b.push(b'e');
    }
}

fn apply(b: &mut Vec<u8>, rules: Rules) {
    let Some((suffix, replacement, when)) = rules.iter().find(|(suffix, ..)| ends(b, suffix)) else { return };
    let rest = b.len() - suffix.len();
    if when.holds(&b[..rest]) {
        b.truncate(rest);
        b.extend_from_slice(replacement.as_bytes());
    }
}

/// Ends in the suffix and is longer than it.
fn ends(b: &[u8], suffix: &str) -> bool {
    b.len() > suffix.len() && b.ends_with(suffix.as_bytes())
}

fn is_vowel(byte: u8, y_is_vowel: bool) -> bool {
    matches!(byte, b'a' | b'e' | b'i' | b'o' | b'u') || (y_is_vowel && byte == b'y')
}

/// How often a vowel is followed by a consonant; counted to 2, which is all that is asked.
fn measure(stem: &[u8]) -> usize {
    let mut count = 0;
    let mut at = 0;
    let mut consonant = false;
    while count < 2 {
        let Some(vowel) = (at..stem.len()).find(|&i| {
            consonant = !is_vowel(stem[i], consonant);
            !consonant
        }) else {
            return count;
        };
        let Some(next) = (vowel + 1..stem.len()).find(|&i| {
            consonant = !is_vowel(stem[i], consonant);
            consonant
        }) else {
            return count;
        };
        count += 1;
        at = next + 1;
    }
    count
}

fn has_vowel(stem: &[u8]) -> bool {
    stem.iter().enumerate().any(|(i, &byte)| is_vowel(byte, i > 0))
}

/// Consonant, vowel, consonant at the end, the last not w, x or y.
fn ends_in_short_syllable(stem: &[u8]) -> bool {
    if matches!(stem.last(), None | Some(b'w' | b'x' | b'y')) {
        return false;
    }
    let mut consonant = false;
    let mut mask = 0u8;
    for &byte in stem {
        consonant = !is_vowel(byte, consonant);
        mask = ((mask << 1) | u8::from(consonant)) & 0b111;
    }
    mask == 0b101
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_of_a_word_share_a_stem() {
        for (word, expected) in [
            ("running", "run"),
            ("deployments", "deploy"),
            ("caresses", "caress"),
            ("ponies", "poni"),
            ("relational", "relat"),
            ("hopping", "hop"),
            ("hoping", "hope"),
            ("agreed", "agre"),
            ("controlling", "control"),
            ("is", "is"),
        ] {
            assert_eq!(stem(word), expected, "{word}");
        }
    }

    #[test]
    fn a_word_of_more_than_sixty_four_bytes_is_left_alone() {
        let long = "running".repeat(10);
        assert_eq!(stem(&long), long);
    }
}
