//! The ways one secret value is written down: as it is, escaped, percent-encoded, as HTML, inside base64. Pure.
//!
//! Every list below is one habit of an ordinary program; values without special characters are spelled alike by most
//! of them, so the set stays small for real keys.
//!
//! Not here: encodings that need work to undo (compression, ciphers, hexadecimal dumps with offsets, base64
//! broken into lines, two habits mixed in one text). Who has a secret and wants to hide it can; this finds what is
//! copied and encoded by ordinary programs.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use std::collections::BTreeSet;
use std::fmt::Write as _;

/// What percent-encoders leave alone besides letters and digits.
const KEPT: [&str; 11] = [
    // RFC 3986 and most libraries
    "-._~",
    // Python's urllib.quote
    "-._~/",
    // encodeURIComponent
    "-_.!~*'()",
    // encodeURI
    "-_.!~*'();/?:@&=+$,#",
    // HTML forms, Java's URLEncoder
    "*-._",
    // PHP's urlencode
    "-._",
    // a path segment by RFC 3986
    "-._~!$&'()*+,;=:@",
    // Go's PathEscape
    "-._~$&+=:@",
    // browsers: a path, a query, a fragment
    "!$%&'()*+,-./:;=@[\\]_|~",
    "!$%&'()*+,-./:;=?@[\\]^_`{|}~",
    "!#$%&'()*+,-./:;=?@[\\]^_{|}~",
];

/// What JSON writers escape besides what they must: nothing, Go's and Rails' `<>&`, .NET's default.
const JSON_EXTRA: [&str; 3] = ["", "<>&", "<>&'\"+`"];

/// What HTML writers write by name or number, from the shortest habit to the longest.
const ENTITIES: [&[(char, &str)]; 8] = [
    &[('&', "&amp;"), ('<', "&lt;"), ('>', "&gt;")],
    &[('&', "&amp;"), ('<', "&lt;"), ('>', "&gt;"), ('"', "&quot;")],
    &[('&', "&amp;"), ('<', "&lt;"), ('>', "&gt;"), ('"', "&quot;"), ('\'', "&#39;")],
    &[('&', "&amp;"), ('<', "&lt;"), ('>', "&gt;"), ('"', "&quot;"), ('\'', "&#x27;")],
    &[('&', "&amp;"), ('<', "&lt;"), ('>', "&gt;"), ('"', "&quot;"), ('\'', "&apos;")],
    &[('&', "&amp;"), ('<', "&lt;"), ('>', "&gt;"), ('"', "&#34;"), ('\'', "&#39;"), ('+', "&#43;")],
    &[('&', "&amp;"), ('<', "&lt;"), ('>', "&gt;"), ('"', "&quot;"), ('\'', "&#x27;"), ('/', "&#x2F;")],
    &[
        ('&', "&amp;"),
        ('<', "&lt;"),
        ('>', "&gt;"),
        ('"', "&quot;"),
        ('\'', "&#39;"),
        ('/', "&#x2F;"),
        ('`', "&#x60;"),
        ('=', "&#x3D;"),
    ],
];

/// Every spelling of `value`, without duplicates.
pub(super) fn spellings(value: &str) -> BTreeSet<String> {
    let mut all = BTreeSet::from([value.to_owned()]);
    percent_encoded(value, &mut all);
    json_escaped(value, &mut all);
    in_html(value, &mut all);
    in_code(value, &mut all);
    super::partly::spellings(value, &mut all);
    for alignment in 0..3 {
        all.extend(base64_inner(value.as_bytes(), alignment));
    }
    all
}

fn percent_encoded(value: &str, all: &mut BTreeSet<String>) {
    let kept_by = |kept: &'static str| move |b: u8| b.is_ascii_alphanumeric() || kept.as_bytes().contains(&b);
    for upper in [true, false] {
        all.insert(percent(value, upper, |_| false));
        for kept in KEPT {
            let once = percent(value, upper, kept_by(kept));
            all.insert(once.replace("%20", "+"));
            // an address inside an address
            all.insert(percent(&once, upper, kept_by(KEPT[0])));
            all.insert(once);
        }
    }
}

fn percent(value: &str, upper: bool, keep: impl Fn(u8) -> bool) -> String {
    let mut out = String::with_capacity(value.len() * 3);
    for byte in value.bytes() {
        match keep(byte) {
            true => out.push(char::from(byte)),
            false => hex_byte(&mut out, "%", byte, upper),
        }
    }
    out
}

fn hex_byte(out: &mut String, before: &str, byte: u8, upper: bool) {
    // writing into a String has no error
    let _ = if upper { write!(out, "{before}{byte:02X}") } else { write!(out, "{before}{byte:02x}") };
}

/// As it stands inside a JSON string: log lines and JSON inside text, and JSON inside JSON.
fn json_escaped(value: &str, all: &mut BTreeSet<String>) {
    for extra in JSON_EXTRA {
        for (slash, ascii, upper) in (0..8).map(|n| (n & 1 == 1, n & 2 == 2, n & 4 == 4)) {
            let once = json(value, extra, Json { slash, ascii, upper });
            all.insert(json(&once, "", Json { slash: false, ascii, upper }));
            all.insert(once);
        }
    }
}

#[derive(Clone, Copy)]
struct Json {
    /// `/` is escaped, too.
    slash: bool,
    /// Nothing but ASCII comes out.
    ascii: bool,
    /// Hexadecimal digits are written large.
    upper: bool,
}

fn json(value: &str, extra: &str, how: Json) -> String {
    let mut out = String::with_capacity(value.len() * 2);
    for c in value.chars() {
        let short = match c {
            _ if extra.contains(c) => None,
            '"' | '\\' => Some(c),
            '/' if how.slash => Some('/'),
            '\n' => Some('n'),
            '\r' => Some('r'),
            '\t' => Some('t'),
            '\u{8}' => Some('b'),
            '\u{c}' => Some('f'),
            _ => None,
        };
        match short {
            Some(letter) => out.extend(['\\', letter]),
            None if extra.contains(c) || c < ' ' || (how.ascii && !c.is_ascii()) => {
                utf16(&mut out, c, how.upper);
            }
            None => out.push(c),
        }
    }
    out
}

fn utf16(out: &mut String, c: char, upper: bool) {
    for unit in c.encode_utf16(&mut [0; 2]) {
        let _ = if upper { write!(out, "\\u{unit:04X}") } else { write!(out, "\\u{unit:04x}") };
    }
}

/// Named and numbered entities.
fn in_html(value: &str, all: &mut BTreeSet<String>) {
    for names in ENTITIES {
        let name = |c: char| names.iter().find(|(of, _)| *of == c).map(|(_, name)| *name);
        let mut out = String::with_capacity(value.len() * 2);
        value.chars().for_each(|c| match name(c) {
            Some(name) => out.push_str(name),
            None => out.push(c),
        });
        all.insert(out);
    }
    for (digits, keep) in [(0, true), (1, true), (2, true), (0, false), (1, false), (2, false)] {
        let mut out = String::with_capacity(value.len() * 6);
        for c in value.chars() {
            let number = u32::from(c);
            let _ = match digits {
                _ if keep && c.is_ascii_alphanumeric() => write!(out, "{c}"),
                0 => write!(out, "&#{number};"),
                1 => write!(out, "&#x{number:x};"),
                _ => write!(out, "&#x{number:X};"),
            };
        }
        all.insert(out);
    }
}

/// As it stands in a program: every character by number, or quoted for a shell.
fn in_code(value: &str, all: &mut BTreeSet<String>) {
    all.insert(value.replace('\'', "'\\''"));
    all.insert(value.replace('\\', "\\\\").replace('\'', "\\'"));
    for upper in [true, false] {
        let (mut plain, mut escaped, mut units) = (String::new(), String::new(), String::new());
        for byte in value.bytes() {
            hex_byte(&mut plain, "", byte, upper);
            hex_byte(&mut escaped, "\\x", byte, upper);
        }
        value.chars().for_each(|c| utf16(&mut units, c, upper));
        all.extend([plain, escaped, units]);
    }
}

/// The characters of base64 that depend on `value` alone when it begins `alignment` bytes into a group of
/// three, in both alphabets. What depends on its neighbours too is left out, and with it the padding, so one
/// spelling serves for all.
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
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use proptest::prelude::*;

    #[test]
    fn special_characters_are_written_in_the_usual_ways() {
        let all = spellings("a b/\"ü+<'&😀");
        for wanted in [
            "a b/\"ü+<'&😀",
            // urllib.quote, quote_plus, encodeURIComponent, encodeURI, each with small digits, too
            "a%20b/%22%C3%BC%2B%3C%27%26%F0%9F%98%80",
            "a+b%2F%22%C3%BC%2B%3C%27%26%F0%9F%98%80",
            "a%20b%2F%22%C3%BC%2B%3C'%26%F0%9F%98%80",
            "a%20b/%22%C3%BC+%3C'&%F0%9F%98%80",
            "a%20b%2f%22%c3%bc%2b%3c%27%26%f0%9f%98%80",
            "%61%20%62%2f%22%c3%bc%2b%3c%27%26%f0%9f%98%80",
            "a%2520b%252F%2522%25C3%25BC%252B%253C%2527%2526%25F0%259F%2598%2580",
            // JSON: as serde writes it, PHP, Python, Go, .NET, and once more inside JSON
            "a b/\\\"ü+<'&😀",
            "a b\\/\\\"ü+<'&😀",
            "a b/\\\"\\u00fc+<'&\\ud83d\\ude00",
            "a b\\/\\\"\\u00fc+<'&\\ud83d\\ude00",
            "a b/\\\"ü+\\u003c'\\u0026😀",
            "a b/\\u0022\\u00FC\\u002B\\u003C\\u0027\\u0026\\uD83D\\uDE00",
            "a b/\\\\\\\"ü+<'&😀",
            "\\u0061\\u0020\\u0062\\u002f\\u0022\\u00fc\\u002b\\u003c\\u0027\\u0026\\ud83d\\ude00",
            // HTML by name and by number
            "a b/&quot;ü+&lt;&#39;&amp;😀",
            "a b/&quot;ü+&lt;&#x27;&amp;😀",
            "a b&#x2F;&quot;ü+&lt;&#x27;&amp;😀",
            "a&#32;b&#47;&#34;&#252;&#43;&#60;&#39;&#38;&#128512;",
            "&#x61;&#x20;&#x62;&#x2f;&#x22;&#xfc;&#x2b;&#x3c;&#x27;&#x26;&#x1f600;",
            // dumps and quoting
            "6120622f22c3bc2b3c2726f09f9880",
            "\\x61\\x20\\x62\\x2F\\x22\\xC3\\xBC\\x2B\\x3C\\x27\\x26\\xF0\\x9F\\x98\\x80",
            "a b/\"ü+<'\\''&😀",
        ] {
            assert!(all.contains(wanted), "{wanted} in {all:#?}");
        }
    }

    #[test]
    fn what_serde_writes_is_what_we_write() {
        for value in ["plain", "q\"b\\s/t\tn\nü\u{1}\u{8}\u{c}\u{7f}"] {
            let quoted = serde_json::Value::from(value).to_string();
            assert!(spellings(value).contains(&quoted[1..quoted.len() - 1]), "{quoted}");
        }
    }

    #[test]
    fn an_ordinary_key_has_few_spellings() {
        // more makes every start, and every new credential, slower by as much
        for (value, most) in [
            ("sk0live00123456789abcdefghijklmnop", 24),
            ("sk-live_0123456789abcdefghijklmnop", 100),
            ("Zk3vQx9T/Lm2+Rt5Vv8Nn3Kk7Pp1/Hh4Jj6+Dd0Ss==", 300),
            ("a b/\"c+<'&d-_.:;,@!$%^*()[]{}e", 500),
        ] {
            let count = spellings(value).len();
            assert!(count <= most, "{value}: {count}");
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
            for text in [STANDARD.encode(&bytes), URL_SAFE.encode(&bytes), URL_SAFE_NO_PAD.encode(&bytes)] {
                let found = all.iter().filter(|s| text.contains(s.as_str())).map(String::len).max();
                // at most two characters at either end also carry bits of the neighbours
                prop_assert!(found.is_some_and(|n| n + 4 >= value.len() * 4 / 3), "{text}: {found:?}");
            }
        }
    }
}
