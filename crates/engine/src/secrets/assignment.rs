//! `password=`-style assignments, and what makes a value look random. Pure.
//!
//! The name stays readable, the value goes. Only values that no person and no program would write as a word are
//! taken: long enough, letters and digits mixed often, many different characters.

use super::shapes::{Kind, Tail, Verdict};
use std::collections::BTreeMap;

/// What a name of a secret contains, in lower case. Found without regard to case.
pub(super) const WORDS: [&str; 12] = [
    "password",
    "passwd",
    "passphrase",
    "pwd",
    "secret",
    "token",
    "apikey",
    "api_key",
    "api-key",
    "access_key",
    "access-key",
    "credential",
];

/// Characters of a name after its word (`password_hash_v2`). More holds more back, fewer miss long names.
const NAME_REST_MAX: usize = 24;
/// Blanks around the sign.
const BLANKS_MAX: usize = 4;
/// Characters of a value that are looked at; the rest is swallowed.
const VALUE_MAX: usize = 128;
/// Shorter values are words.
const VALUE_MIN: usize = 10;
/// Bits per character below which a value repeats itself like a word. English identifiers lie around 3.
const ENTROPY_MIN: f64 = 2.9;
/// Share of neighbours of different kinds (lower, upper, digit) among all neighbours. Names with a number in
/// them lie below 0.2, random hexadecimal around 0.5, random base64 around 0.6.
const MIXING_MIN: f64 = 0.25;

/// A character a secret value may have. Quotes, blanks, brackets and separators end it.
pub(super) fn value(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"+/=_-.~!@#$%^&*".contains(&b)
}

/// Looks at `text`, which begins with one of [`WORDS`] of this length. `last` says that nothing follows.
pub(super) fn at(text: &str, word: usize, last: bool) -> Verdict {
    match decide(text.as_bytes(), word, last) {
        Some((start, end)) if looks_random(&text[start..end]) => {
            Verdict::Yes { kind: Kind::Password, keep: start, end, tail: Tail::Of(value) }
        }
        Some(_) => Verdict::No,
        None if last => Verdict::No,
        None => Verdict::More,
    }
}

/// Where the value lies: empty when there is no assignment, `None` when the text ends before that is clear.
fn decide(bytes: &[u8], word: usize, last: bool) -> Option<(usize, usize)> {
    const NOTHING: Option<(usize, usize)> = Some((0, 0));
    let mut at = word;
    // the text may end in any of these parts; then more is needed
    at += run(bytes, at, NAME_REST_MAX, super::shapes::token)?;
    at += quote(bytes, at)?;
    at += run(bytes, at, BLANKS_MAX, |b| matches!(b, b' ' | b'\t'))?;
    let sign = match bytes.get(at)? {
        b'=' if *bytes.get(at + 1)? == b'>' => 2,
        b':' if *bytes.get(at + 1)? == b'=' => 2,
        b'=' | b':' => 1,
        _ => return NOTHING,
    };
    at += sign;
    at += run(bytes, at, BLANKS_MAX, |b| matches!(b, b' ' | b'\t'))?;
    at += quote(bytes, at)?;
    let length = bytes[at..].iter().take(VALUE_MAX).take_while(|b| value(**b)).count();
    let open = at + length == bytes.len() && length < VALUE_MAX;
    if open && !last {
        return None;
    }
    Some((at, at + length))
}

/// The length of a run of these characters; `None` when the text ends with it.
fn run(bytes: &[u8], at: usize, max: usize, class: fn(u8) -> bool) -> Option<usize> {
    let length = bytes.get(at..)?.iter().take(max).take_while(|b| class(**b)).count();
    (at + length < bytes.len()).then_some(length)
}

/// A quotation mark, perhaps escaped.
fn quote(bytes: &[u8], at: usize) -> Option<usize> {
    let escapes = run(bytes, at, 2, |b| b == b'\\')?;
    let is_quote = matches!(bytes.get(at + escapes)?, b'"' | b'\'' | b'`');
    // behind a quotation mark at the end of the text comes the value, or the sign
    if is_quote { Some(escapes + 1) } else { Some(0) }
}

/// True when a name is one that secrets have.
pub(super) fn names_a_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    WORDS.iter().any(|w| name.contains(w))
}

/// True when a value looks made by a generator and not by a person.
pub(super) fn looks_random(value: &str) -> bool {
    if value.len() < VALUE_MIN
        || !value.is_ascii()
        || value.starts_with(['$', '%', '<', '{', '&', '*', '.', '/'])
    {
        return false;
    }
    let kinds: Vec<u8> = value.bytes().filter_map(kind).collect();
    let has = |k: u8| kinds.contains(&k);
    if !(has(2) && (has(0) || has(1))) {
        return false;
    }
    let changes = kinds.windows(2).filter(|pair| pair[0] != pair[1]).count();
    let mixing = changes as f64 / (kinds.len().max(2) - 1) as f64;
    mixing >= MIXING_MIN && entropy(value) >= ENTROPY_MIN
}

fn kind(b: u8) -> Option<u8> {
    match b {
        b'a'..=b'z' => Some(0),
        b'A'..=b'Z' => Some(1),
        b'0'..=b'9' => Some(2),
        _ => None,
    }
}

/// Shannon's bits per character.
fn entropy(value: &str) -> f64 {
    let mut counts: BTreeMap<u8, u32> = BTreeMap::new();
    for b in value.bytes() {
        *counts.entry(b).or_default() += 1;
    }
    let total = value.len() as f64;
    counts.values().map(|&n| f64::from(n) / total).map(|p| -p * p.log2()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_values_look_random_and_words_names_and_dates_do_not() {
        for random in ["S3cr3tP4ssw0rd", "a8f5f167f44f4964e6c998dee827110c", "xK9-pQ2_vL7+mN4", "Tr0ub4dor&3"]
        {
            assert!(looks_random(random), "{random}");
        }
        let words = [
            "correct-horse-battery",
            "os.environ",
            "args.s3_access_key",
            "2026-04-27T12",
            "${DB_PASSWORD_1}",
            "tokenizer2.next_token",
            "aaaaaaaa1111111",
            "hunter2",
            "config::VARS",
            "base64_decode_v2",
        ];
        for word in words {
            assert!(!looks_random(word), "{word}");
        }
    }
}
