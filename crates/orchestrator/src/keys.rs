//! The keys this program makes, compares, seals and must never show.
//!
//! A platform key is kept as its SHA-256 only. An engine key is kept as its SHA-256, which the engine compares,
//! and as a Fernet token, because products ask for it again. Comparisons take the same time whatever they find.
//!
//! The invariant: a key leaves this module as a [`Secret`], and [`failure_message`] lets nothing through that
//! is shaped like one.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chassis::config::Secret;
use chassis::http::KeyHash;
use chassis::seal::{MasterKeys, Unsealable};
use rand::TryRng as _;
use rand::rngs::SysRng;
use std::ops::Range;
use subtle::ConstantTimeEq;

/// What every platform key begins with.
pub const PLATFORM_KEY_PREFIX: &str = "pk-sept-";
/// What every engine key begins with.
pub const ENGINE_KEY_PREFIX: &str = "sk-sept-";

/// Random bytes of a key. Fewer can be guessed by somebody with time; more makes keys longer than the 43
/// characters products store.
const RANDOM_BYTES: usize = 32;

/// Characters of a failure message that are kept. Longer would let one broken engine fill `explain` and the
/// log with its own output; shorter cuts the cause off.
pub const FAILURE_MESSAGE_CHARS: usize = 500;

/// Characters of the base64 alphabets in a row from which they count as a key. Shorter would also hide UUIDs
/// (36 characters), longer would let a 32-byte key without padding (43) through.
const KEY_RUN_CHARS: usize = 40;

/// What stands in place of something shaped like a key.
const MASK: &str = "[redacted]";

/// Beginnings by which a key is known however short the rest is.
const KEY_PREFIXES: [&str; 3] = ["sk-", "pk-", "AIza"];

/// A new platform key: `pk-sept-` and 43 random characters.
pub fn new_platform_key() -> Secret {
    new_key(PLATFORM_KEY_PREFIX)
}

/// A new engine key (`sk-sept-` and 43 random characters) and its hash.
pub fn new_engine_key() -> (Secret, String) {
    let key = new_key(ENGINE_KEY_PREFIX);
    let hash = hash_hex(key.expose());
    (key, hash)
}

/// A new admin key: 43 random characters.
pub fn new_admin_key() -> Secret {
    new_key("")
}

fn new_key(prefix: &str) -> Secret {
    let mut bytes = [0_u8; RANDOM_BYTES];
    // Linux has no way to fail here after boot, and a key that is not random must not be made.
    SysRng.try_fill_bytes(&mut bytes).expect("the operating system gives random bytes");
    Secret::new(format!("{prefix}{}", URL_SAFE_NO_PAD.encode(bytes)))
}

/// Lower-case hex SHA-256 of a key.
pub fn hash_hex(key: &str) -> String {
    KeyHash::of(key).to_hex()
}

/// Is this the expected key? In constant time, whatever the lengths are.
pub fn same_key(presented: &str, expected: &Secret) -> bool {
    KeyHash::of(presented) == KeyHash::of(expected.expose())
}

/// Are these two hex hashes the same? In constant time.
pub fn same_hash(a: &str, b: &str) -> bool {
    a.as_bytes().ct_eq(b.as_bytes()).into()
}

/// Seals and opens engine keys.
#[derive(Debug, Clone)]
pub struct EngineKeys {
    /// The keys of ORCH_MASTER_KEY.
    pub master: MasterKeys,
}

impl EngineKeys {
    /// With these master keys.
    pub fn new(master: MasterKeys) -> Self {
        Self { master }
    }

    /// An engine key as the registry stores it: its hash, and its token.
    pub fn seal(&self, key: &Secret) -> (String, String) {
        (hash_hex(key.expose()), self.master.seal(key.expose()))
    }

    /// The key a token holds.
    pub fn open(&self, token: &str) -> Result<Secret, Unsealable> {
        self.master.open(token)
    }
}

/// A text of another program as people may see it: keys masked, one line, at most
/// [`FAILURE_MESSAGE_CHARS`] characters.
pub fn failure_message(text: &str) -> String {
    let plain: String = mask_keys(text).chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let line = plain.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(FAILURE_MESSAGE_CHARS) {
        None => line,
        Some(_) => {
            let mut cut: String = line.chars().take(FAILURE_MESSAGE_CHARS - 1).collect();
            cut.push('…');
            cut
        }
    }
}

/// The text with everything masked that is shaped like a key: `sk-…`, `pk-…`, `AIza…`, what follows `Bearer`,
/// credentials inside a URL, and 40 or more characters of base64 or hex in a row (paths are left alone).
pub fn mask_keys(text: &str) -> String {
    let mut spans: Vec<Range<usize>> = Vec::new();
    spans.extend(KEY_PREFIXES.iter().flat_map(|prefix| prefixed(text, prefix)));
    spans.extend(after_bearer(text));
    spans.extend(in_urls(text));
    spans.extend(long_runs(text));
    spans.sort_by_key(|span| span.start);
    let mut out = String::with_capacity(text.len());
    let mut done = 0;
    for span in spans {
        if span.start >= done {
            out.push_str(&text[done..span.start]);
            out.push_str(MASK);
        }
        done = done.max(span.end);
    }
    out.push_str(&text[done..]);
    out
}

/// Where words begin with this prefix.
fn prefixed<'a>(text: &'a str, prefix: &'a str) -> impl Iterator<Item = Range<usize>> + 'a {
    let of_key = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    text.match_indices(prefix).filter_map(move |(start, _)| {
        let inside_word = text[..start].ends_with(|c: char| c.is_ascii_alphanumeric());
        let rest = &text[start..];
        let end = rest.find(|c| !of_key(c)).map_or(text.len(), |length| start + length);
        (!inside_word).then_some(start..end)
    })
}

/// The words that follow `Bearer`, in any letter case.
fn after_bearer(text: &str) -> impl Iterator<Item = Range<usize>> + '_ {
    let lower = text.to_ascii_lowercase();
    let starts: Vec<usize> = lower.match_indices("bearer").map(|(at, word)| at + word.len()).collect();
    starts.into_iter().filter_map(|at| {
        let start = at + text[at..].find(|c: char| !matches!(c, ' ' | '\t' | ':' | '"'))?;
        let ends = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ',' | ';');
        let end = text[start..].find(ends).map_or(text.len(), |length| start + length);
        (start > at && end > start).then_some(start..end)
    })
}

/// `user:password` of the URLs in it.
fn in_urls(text: &str) -> impl Iterator<Item = Range<usize>> + '_ {
    text.match_indices("://").filter_map(|(at, mark)| {
        let start = at + mark.len();
        let ends = |c: char| c.is_whitespace() || matches!(c, '/' | '?' | '#' | '"');
        let end = text[start..].find(ends).map_or(text.len(), |length| start + length);
        let at_sign = text[start..end].rfind('@')?;
        Some(start..start + at_sign)
    })
}

/// Long runs of the base64 alphabets that are no paths.
fn long_runs(text: &str) -> impl Iterator<Item = Range<usize>> + '_ {
    let of_run = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=' | '-' | '_');
    text.split(move |c| !of_run(c)).filter(|run| is_key_run(run)).map(|run| {
        let start = run.as_ptr() as usize - text.as_ptr() as usize;
        start..start + run.len()
    })
}

/// Long enough, and not a path: the parts of a path are short, and have neither capitals nor `+` and `=`.
fn is_key_run(run: &str) -> bool {
    let of_key = |c: char| c.is_ascii_uppercase() || matches!(c, '+' | '=');
    run.len() >= KEY_RUN_CHARS
        && (run.contains(of_key) || run.split('/').any(|part| part.len() >= KEY_RUN_CHARS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_their_form_and_no_two_are_the_same() {
        let (engine, hash) = new_engine_key();
        let platform = new_platform_key();
        for (key, prefix) in [(&engine, "sk-sept-"), (&platform, "pk-sept-"), (&new_admin_key(), "")] {
            let random = key.expose().strip_prefix(prefix).expect("begins with its prefix");
            assert_eq!(random.len(), 43);
            assert!(random.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')));
        }
        assert_eq!(hash, hash_hex(engine.expose()));
        assert_ne!(new_engine_key().0, engine);
        assert_eq!(hash_hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn comparisons_know_the_same_from_the_different() {
        let (key, hash) = new_engine_key();
        assert!(same_key(key.expose(), &key) && same_hash(&hash, &hash_hex(key.expose())));
        assert!(!same_key("", &key) && !same_key(&key.expose()[1..], &key));
        assert!(!same_hash(&hash, &hash_hex("other")) && !same_hash(&hash, ""));
    }

    #[test]
    fn a_sealed_engine_key_opens_again_and_shows_nothing() {
        let keys = EngineKeys::new(MasterKeys::parse(MasterKeys::generate().expose()).expect("is a key"));
        let (key, hash) = new_engine_key();
        let (stored_hash, token) = keys.seal(&key);
        assert_eq!(stored_hash, hash);
        assert!(!token.contains(key.expose()) && !format!("{keys:?}").contains(key.expose()));
        assert_eq!(keys.open(&token), Ok(key));
        assert!(keys.open(&hash).is_err());
    }

    #[test]
    fn everything_shaped_like_a_key_is_masked() {
        let forty = "aB3".repeat(14);
        let hex = "0f".repeat(32);
        for (text, want) in [
            ("bad key sk-sept-abc_DEF-9, sorry".to_owned(), "bad key [redacted], sorry".to_owned()),
            ("pk-sept-x and sk-ant-y.".to_owned(), "[redacted] and [redacted].".to_owned()),
            ("key=AIzaSyD-abc".to_owned(), "key=[redacted]".to_owned()),
            (
                "Authorization: Bearer abc.def!ghi\nnext".to_owned(),
                "Authorization: Bearer [redacted]\nnext".to_owned(),
            ),
            ("{\"bearer\": \"tok\"}".to_owned(), "{\"bearer\": \"[redacted]\"}".to_owned()),
            (format!("token {forty}!"), "token [redacted]!".to_owned()),
            (format!("hash={hex}"), "[redacted]".to_owned()),
            (format!("ä{forty}ä"), "ä[redacted]ä".to_owned()),
            ("postgresql://u:p@db/x".to_owned(), "postgresql://[redacted]@db/x".to_owned()),
        ] {
            assert_eq!(mask_keys(&text), want, "{text}");
        }
    }

    #[test]
    fn what_people_need_to_read_stays() {
        for text in [
            "disk-full: risk-free, task-3 failed at 12:03",
            "/var/lib/engines/3f2a9c1e-7b40-4c58-9d1a-0a6f5f0f2b11/brain.sqlite is locked",
            "engine 3f2a9c1e-7b40-4c58-9d1a-0a6f5f0f2b11 exited with code 4",
            "registry.example.com/september-engine:2.3.0 is missing",
            "",
        ] {
            assert_eq!(mask_keys(text), text);
        }
    }

    #[test]
    fn a_failure_message_is_one_short_line() {
        assert_eq!(failure_message("a\n\tb\u{7}  c"), "a b c");
        let long = failure_message(&"word ".repeat(200));
        assert_eq!(long.chars().count(), FAILURE_MESSAGE_CHARS);
        assert!(long.ends_with('…'));
        assert_eq!(failure_message(&"x ".repeat(250)).chars().count(), 499);
    }

    #[test]
    fn a_key_across_the_cut_is_masked_before_it() {
        let text = format!("{} sk-sept-{}", "w ".repeat(248), "k".repeat(43));
        assert!(!failure_message(&text).contains("kkk"));
    }
}
