//! Texts at rest that only this deployment can read back: Fernet tokens under a list of keys.
//!
//! The first key of the list seals, every key of the list opens, so that keys can be changed while the
//! server runs: put the new one in front, seal everything again, drop the old one. A token has no time to
//! live, and its date is not looked at: what one machine sealed opens on another whose clock is hours behind.
//!
//! The invariant: no key, no sealed text and no token appears in `Debug` or in an error. A key is spoken of by
//! its position in the list or by its fingerprint.

use crate::config::Secret;
use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use fernet::Fernet;
use sha2::{Digest, Sha256};
use std::fmt;
use subtle::ConstantTimeEq;

/// Bytes of a key: half of it signs, half of it encrypts.
const KEY_BYTES: usize = 32;

/// Hex digits of a fingerprint. More would still say nothing about the key, but is too long to compare by
/// eye; fewer lets two keys of one list look the same.
const FINGERPRINT_DIGITS: usize = 8;

/// The instant at which tokens are opened, so late that none lies in the future. The library refuses tokens
/// dated more than 60 s after the instant it is told, and adds those 60 s to it: a larger value overflows.
const END_OF_TIME_S: u64 = u64::MAX - 60;

/// Keys are written with or without the padding.
const KEY_TEXT: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Why a list of keys cannot be used. Positions count from 1; no text of the list is repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyListError {
    /// There is no key in it.
    #[error("there is no key in the list")]
    Empty,
    /// This entry is not a key.
    #[error("key {0} of the list is not URL-safe base64 of 32 bytes (43 characters, or 44 with `=`)")]
    Malformed(usize),
    /// This entry is the same key as an earlier one.
    #[error("key {0} of the list stands in it twice")]
    Duplicate(usize),
}

/// A token that none of the keys opens: damaged, not a token, or sealed with another key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("none of the configured keys opens it")]
pub struct Unsealable;

struct Key {
    fernet: Fernet,
    fingerprint: String,
}

/// The keys of this deployment, first the one that seals. Never empty; prints fingerprints only.
pub struct MasterKeys(Vec<Key>);

impl MasterKeys {
    /// Reads a comma-separated list; blanks around an entry and empty entries do not matter.
    pub fn parse(list: &str) -> Result<Self, KeyListError> {
        let mut bytes: Vec<Vec<u8>> = Vec::new();
        let mut keys = Vec::new();
        for (index, text) in list.split(',').map(str::trim).filter(|text| !text.is_empty()).enumerate() {
            let malformed = KeyListError::Malformed(index + 1);
            let key = KEY_TEXT.decode(text).map_err(|_| malformed)?;
            if key.len() != KEY_BYTES {
                return Err(malformed);
            }
            if bytes.iter().any(|other| bool::from(other.ct_eq(&key))) {
                return Err(KeyListError::Duplicate(index + 1));
            }
            let fernet = Fernet::new(text).ok_or(malformed)?;
            keys.push(Key { fernet, fingerprint: fingerprint(&key) });
            bytes.push(key);
        }
        for key in &mut bytes {
            key.fill(0);
        }
        std::hint::black_box(&bytes);
        if keys.is_empty() { Err(KeyListError::Empty) } else { Ok(Self(keys)) }
    }

    /// Draws a new key from the operating system's randomness, as text for [`MasterKeys::parse`].
    pub fn generate() -> Secret {
        Secret::new(Fernet::generate_key())
    }

    /// Seals a text with the first key. Sealing twice gives two different tokens.
    pub fn seal(&self, plain: &str) -> String {
        self.first().fernet.encrypt(plain.as_bytes())
    }

    /// Opens a token with whichever key fits. The signature is verified in constant time before anything is
    /// decrypted.
    pub fn open(&self, token: &str) -> Result<Secret, Unsealable> {
        self.0.iter().find_map(|key| key.open(token)).ok_or(Unsealable)
    }

    /// True when the first key alone opens the token: the others are not needed for it.
    pub fn opened_by_first(&self, token: &str) -> bool {
        self.first().open(token).is_some()
    }

    /// The first hex digits of the SHA-256 of each key, in the order of the list.
    pub fn fingerprints(&self) -> Vec<String> {
        self.0.iter().map(|key| key.fingerprint.clone()).collect()
    }

    fn first(&self) -> &Key {
        // `parse` is the only way here and refuses an empty list.
        &self.0[0]
    }
}

impl Key {
    fn open(&self, token: &str) -> Option<Secret> {
        let plain = self.fernet.decrypt_at_time(token, None, END_OF_TIME_S).ok()?;
        String::from_utf8(plain).ok().map(Secret::new)
    }
}

impl Clone for MasterKeys {
    fn clone(&self) -> Self {
        let copy = |key: &Key| Key { fernet: key.fernet.clone(), fingerprint: key.fingerprint.clone() };
        Self(self.0.iter().map(copy).collect())
    }
}

impl fmt::Debug for MasterKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MasterKeys").field(&self.fingerprints()).finish()
    }
}

fn fingerprint(key: &[u8]) -> String {
    let mut hex: String = Sha256::digest(key).iter().map(|b| format!("{b:02x}")).collect();
    hex.truncate(FINGERPRINT_DIGITS);
    hex
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The key and the texts of the public test vectors (generate.json, verify.json, invalid.json).
    const KEY: &str = "cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4=";
    const HELLO: &str = "gAAAAAAdwJ6wAAECAwQFBgcICQoLDA0ODy021cpGVWKZ_eEwCGM4BLLF_5CV9dOPmrhuVUPgJobwOz7JcbmrR64jVmpU4IwqDA==";
    const INVALID: [(&str, &str); 6] = [
        (
            "incorrect mac",
            "gAAAAAAdwJ6xAAECAwQFBgcICQoLDA0OD3HkMATM5lFqGaerZ-fWPAl1-szkFVzXTuGb4hR8AKtwcaX1YdykQUFBQUFBQUFBQQ==",
        ),
        ("too short", "gAAAAAAdwJ6xAAECAwQFBgcICQoLDA0OD3HkMATM5lFqGaerZ-fWPA=="),
        (
            "invalid base64",
            "%%%%%%%%%%%%%AECAwQFBgcICQoLDA0OD3HkMATM5lFqGaerZ-fWPAl1-szkFVzXTuGb4hR8AKtwcaX1YdykRtfsH-p1YsUD2Q==",
        ),
        (
            "payload size not multiple of block size",
            "gAAAAAAdwJ6xAAECAwQFBgcICQoLDA0OD3HkMATM5lFqGaerZ-fWPOm73QeoCk9uGib28Xe5vz6oxq5nmxbx_v7mrfyudzUm",
        ),
        (
            "payload padding error",
            "gAAAAAAdwJ6xAAECAwQFBgcICQoLDA0ODz4LEpdELGQAad7aNEHbf-JkLPIpuiYRLQ3RtXatOYREu2FWke6CnJNYIbkuKNqOhw==",
        ),
        (
            "incorrect IV",
            "gAAAAAAdwJ6xBQECAwQFBgcICQoLDA0OD3HkMATM5lFqGaerZ-fWPAkLhFLHpGtDBRLRTZeUfWgHSv49TF2AUEZ1TIvcZjK1zQ==",
        ),
    ];
    /// Vectors (of an empty text) that are invalid by their date alone; here a date says nothing.
    const DATED: [&str; 2] = [
        "gAAAAAAdwStRAAECAwQFBgcICQoLDA0OD3HkMATM5lFqGaerZ-fWPAnja1xKYyhd-Y6mSkTOyTGJmw2Xc2a6kBd-iX9b_qXQcw==",
        "gAAAAAAdwJ6xAAECAwQFBgcICQoLDA0OD3HkMATM5lFqGaerZ-fWPAl1-szkFVzXTuGb4hR8AKtwcaX1YdykRtfsH-p1YsUD2Q==",
    ];

    fn keys(list: &str) -> MasterKeys {
        MasterKeys::parse(list).expect("is a list of keys")
    }

    #[test]
    fn fernet_public_vectors() {
        let keys = keys(KEY);
        assert_eq!(keys.open(HELLO), Ok(Secret::new("hello")));
        for (name, token) in INVALID {
            assert_eq!(keys.open(token), Err(Unsealable), "{name}");
        }
        for token in DATED {
            assert_eq!(keys.open(token), Ok(Secret::new("")));
        }
    }

    #[test]
    fn a_token_from_a_clock_that_is_ahead_opens() {
        let fernet = Fernet::new(KEY).expect("is a key");
        let token = fernet.encrypt_at_time(b"from tomorrow", 32_503_680_000); // the year 3000
        assert_eq!(keys(KEY).open(&token), Ok(Secret::new("from tomorrow")));
        assert_eq!(keys(KEY).open(&fernet.encrypt_at_time(b"x", u64::MAX)), Ok(Secret::new("x")));
    }

    #[test]
    fn the_first_key_seals_and_every_key_opens() {
        let (old, new) = (MasterKeys::generate(), MasterKeys::generate());
        let before = keys(old.expose());
        let token = before.seal("a secret");
        let both = keys(&format!("{}, {}", new.expose(), old.expose()));
        assert_eq!(both.open(&token), Ok(Secret::new("a secret")));
        assert!(!both.opened_by_first(&token));
        let again = both.seal("a secret");
        assert!(both.opened_by_first(&again));
        assert_eq!(before.open(&again), Err(Unsealable));
    }

    #[test]
    fn keys_are_taken_with_and_without_padding_and_never_twice() {
        let bare = KEY.trim_end_matches('=');
        assert_eq!(keys(bare).fingerprints(), keys(KEY).fingerprints());
        assert_eq!(keys(&format!(" {KEY} ,")).fingerprints().len(), 1);
        let other = MasterKeys::generate();
        let parse = |list: &str| MasterKeys::parse(list).map(|_| ());
        assert_eq!(parse(&format!("{KEY},{},{bare}", other.expose())), Err(KeyListError::Duplicate(3)));
        assert_eq!(parse(" , "), Err(KeyListError::Empty));
        for wrong in ["short", &"A".repeat(42), &"A".repeat(45), &"A".repeat(64), &bare.replace('_', "/")] {
            assert_eq!(parse(&format!("{KEY},{wrong}")), Err(KeyListError::Malformed(2)), "{wrong}");
        }
    }

    #[test]
    fn a_fingerprint_is_the_beginning_of_the_hash_of_the_bytes() {
        // sha256 of 32 zero bytes begins with 66687aad
        assert_eq!(keys(&"A".repeat(43)).fingerprints(), ["66687aad"]);
    }

    #[test]
    fn nothing_printed_holds_a_key() {
        let shown = format!("{:?} {}", keys(KEY), KeyListError::Malformed(1));
        assert!(!shown.contains(&KEY[..12]), "{shown}");
        assert!(shown.contains(&keys(KEY).fingerprints()[0]));
    }

    proptest! {
        #[test]
        fn what_is_sealed_opens_again(text in "(?s).{0,300}") {
            let keys = keys(KEY);
            let token = keys.seal(&text);
            prop_assert_eq!(keys.open(&token), Ok(Secret::new(text)));
            prop_assert!(keys.opened_by_first(&token));
        }

        #[test]
        fn no_changed_token_opens(text in "[ -~]{0,80}", at in any::<prop::sample::Index>(), bit in 0_u8..8) {
            use base64::engine::general_purpose::URL_SAFE;
            let keys = keys(KEY);
            let mut bytes = URL_SAFE.decode(keys.seal(&text)).expect("a token is base64");
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert_eq!(keys.open(&URL_SAFE.encode(&bytes)), Err(Unsealable));
            bytes[at] ^= 1 << bit;
            bytes.pop();
            prop_assert_eq!(keys.open(&URL_SAFE.encode(&bytes)), Err(Unsealable));
        }

        #[test]
        fn no_text_makes_opening_panic(text in "(?s).{0,200}") {
            prop_assert!(keys(KEY).open(&text).is_err());
        }
    }
}
