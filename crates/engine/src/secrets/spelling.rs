//! The ways one secret value is written down: as it is, escaped, percent-encoded, inside base64. Pure.
//!
//! Not here: encodings that need work to undo (compression, ciphers, hexadecimal dumps with offsets, base64
//! broken into lines). Who has a secret and wants to hide it can; this finds what is copied and encoded by
//! ordinary programs.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use std::collections::BTreeSet;
use std::fmt::Write as _;

/// Every spelling of `value`, without duplicates.
pub(super) fn spellings(value: &str) -> BTreeSet<String> {
    let mut all = BTreeSet::from([value.to_owned(), json(value)]);
    for upper in [true, false] {
        all.insert(percent(value, upper, is_unreserved));
        // programs disagree on what a form or a path leaves alone; the strictest form escapes everything
        all.insert(percent(value, upper, |_| false));
        all.insert(percent(value, upper, is_unreserved).replace("%20", "+"));
    }
    for alignment in 0..3 {
        all.extend(base64_inner(value.as_bytes(), alignment));
    }
    all
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

fn percent(value: &str, upper: bool, keep: fn(u8) -> bool) -> String {
    let mut out = String::with_capacity(value.len() * 3);
    for byte in value.bytes() {
        let _ = match (keep(byte), upper) {
            (true, _) => write!(out, "{}", byte as char),
            (false, true) => write!(out, "%{byte:02X}"),
            (false, false) => write!(out, "%{byte:02x}"),
        };
    }
    out
}

/// As it stands inside a JSON string: log lines and JSON inside text.
fn json(value: &str) -> String {
    let quoted = serde_json::Value::from(value).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}

/// The characters of base64 that depend on `value` alone when it begins `alignment` bytes into a group of
/// three, in both alphabets. What depends on its neighbours too is left out, so one spelling serves for all.
fn base64_inner(value: &[u8], alignment: usize) -> [String; 2] {
    let mut bytes = vec![0; alignment];
    bytes.extend_from_slice(value);
    // of `alignment` foreign bytes, this many characters carry foreign bits
    let front = [0, 2, 3][alignment];
    // a last group that is not full: its last character carries bits of what follows
    let whole = bytes.len() / 3 * 4 + [0, 1, 2][bytes.len() % 3];
    [STANDARD, URL_SAFE].map(|alphabet| alphabet.encode(&bytes)[front..whole].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn spaces_slashes_and_quotes_are_written_in_the_usual_ways() {
        let all = spellings("a b/\"ü+");
        for wanted in ["a b/\"ü+", "a b/\\\"ü+", "a%20b%2F%22%C3%BC%2B", "a+b%2f%22%c3%bc%2b"] {
            assert!(all.contains(wanted), "{wanted} in {all:?}");
        }
    }

    proptest! {
        #[test]
        fn base64_of_any_text_around_a_value_contains_one_of_its_spellings(
            front in proptest::collection::vec(any::<u8>(), 0..7),
            value in "[ -~]{8,60}",
            back in proptest::collection::vec(any::<u8>(), 0..7),
        ) {
            let bytes = [&front[..], value.as_bytes(), &back[..]].concat();
            let all = spellings(&value);
            for text in [STANDARD.encode(&bytes), URL_SAFE.encode(&bytes)] {
                let found = all.iter().filter(|s| text.contains(s.as_str())).map(String::len).max();
                // at most two characters at either end also carry bits of the neighbours
                prop_assert!(found.is_some_and(|n| n + 4 >= value.len() * 4 / 3), "{text}: {found:?}");
            }
        }
    }
}
