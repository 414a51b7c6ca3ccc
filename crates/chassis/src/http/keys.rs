//! Application keys: only their SHA-256 is kept, and how long a check takes tells nothing.

use contract::Timestamp;
use sha2::{Digest, Sha256};
use std::fmt;
use std::sync::{PoisonError, RwLock};
use subtle::{Choice, ConstantTimeEq};

/// Keys that are compared on every check: the current one and the replaced ones that are remembered. More
/// cost time on every request; with fewer, a key replaced many rotations ago is called invalid a little
/// earlier than rotated.
const SLOTS: usize = 8;

/// The SHA-256 of a key. Prints as `[redacted]` and compares in constant time.
#[derive(Clone, Copy)]
pub struct KeyHash([u8; 32]);

impl KeyHash {
    /// The hash of a key.
    pub fn of(key: &str) -> Self {
        Self(Sha256::digest(key.as_bytes()).into())
    }

    /// Reads 64 hex digits of any case.
    pub fn parse(hex: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        let digits = hex.as_bytes();
        if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(Self(bytes))
    }

    /// 64 lower-case hex digits.
    pub fn to_hex(self) -> String {
        self.0.iter().map(|b| format!("{b:02x}")).collect()
    }
}

impl PartialEq for KeyHash {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for KeyHash {}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(crate::config::REDACTED)
    }
}

/// A key that was replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplacedKey {
    /// Its hash.
    pub hash: KeyHash,
    /// Until then it is accepted.
    pub valid_until: Timestamp,
    /// From `valid_until` until then it is told that it was rotated; afterwards it is a wrong key.
    pub forget_after: Timestamp,
}

/// What is to be said to whoever presented a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyVerdict {
    /// It opens.
    Valid,
    /// It was replaced not long ago and its window is over.
    RotationPending,
    /// Absent or wrong.
    Invalid,
}

/// The accepted keys. Changing them takes effect with the next check.
#[derive(Debug)]
pub struct KeyRing(RwLock<[Slot; SLOTS]>);

#[derive(Debug, Clone, Copy)]
struct Slot {
    hash: KeyHash,
    valid_until: i64,
    forget_after: i64,
}

/// A slot that opens nothing: its times lie before all times.
const EMPTY: Slot = Slot { hash: KeyHash([0; 32]), valid_until: i64::MIN, forget_after: i64::MIN };

impl KeyRing {
    /// The current key and those it replaced, newest first; replaced keys beyond the slots are forgotten.
    pub fn new(current: KeyHash, replaced: &[ReplacedKey]) -> Self {
        Self(RwLock::new(slots(current, replaced)))
    }

    /// Changes the keys.
    pub fn set(&self, current: KeyHash, replaced: &[ReplacedKey]) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = slots(current, replaced);
    }

    /// The hash of the current key.
    pub fn current(&self) -> KeyHash {
        self.0.read().unwrap_or_else(PoisonError::into_inner)[0].hash
    }

    /// Judges a presented key. The same work is done whatever is presented and however many keys there are.
    pub fn check(&self, presented: Option<&str>, now: Timestamp) -> KeyVerdict {
        let slots = *self.0.read().unwrap_or_else(PoisonError::into_inner);
        let hash = KeyHash::of(presented.unwrap_or_default());
        let present = Choice::from(u8::from(presented.is_some()));
        let (mut valid, mut pending) = (Choice::from(0), Choice::from(0));
        for slot in &slots {
            let same = hash.0.ct_eq(&slot.hash.0) & present;
            valid |= same & Choice::from(u8::from(now.millis() < slot.valid_until));
            pending |= same & Choice::from(u8::from(now.millis() < slot.forget_after));
        }
        match (bool::from(valid), bool::from(pending)) {
            (true, _) => KeyVerdict::Valid,
            (false, true) => KeyVerdict::RotationPending,
            (false, false) => KeyVerdict::Invalid,
        }
    }
}

fn slots(current: KeyHash, replaced: &[ReplacedKey]) -> [Slot; SLOTS] {
    let mut slots = [EMPTY; SLOTS];
    slots[0] = Slot { hash: current, valid_until: i64::MAX, forget_after: i64::MAX };
    for (slot, key) in slots[1..].iter_mut().zip(replaced) {
        *slot = Slot {
            hash: key.hash,
            valid_until: key.valid_until.millis(),
            forget_after: key.forget_after.millis(),
        };
    }
    slots
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millis(ms)
    }

    #[test]
    fn a_replaced_key_is_valid_then_pending_then_wrong() {
        let old = ReplacedKey { hash: KeyHash::of("old-key-1"), valid_until: at(100), forget_after: at(200) };
        let ring = KeyRing::new(KeyHash::of("new-key-1"), &[old]);
        for (key, now, want) in [
            (Some("new-key-1"), 1_000, KeyVerdict::Valid),
            (Some("old-key-1"), 99, KeyVerdict::Valid),
            (Some("old-key-1"), 100, KeyVerdict::RotationPending),
            (Some("old-key-1"), 199, KeyVerdict::RotationPending),
            (Some("old-key-1"), 200, KeyVerdict::Invalid),
            (Some("other"), 1, KeyVerdict::Invalid),
            (Some(""), 1, KeyVerdict::Invalid),
            (None, 1, KeyVerdict::Invalid),
        ] {
            assert_eq!(ring.check(key, at(now)), want, "{key:?} at {now}");
        }
    }

    #[test]
    fn changing_the_ring_takes_effect_with_the_next_check() {
        let ring = KeyRing::new(KeyHash::of("a"), &[]);
        ring.set(KeyHash::of("b"), &[]);
        assert_eq!(ring.check(Some("a"), at(0)), KeyVerdict::Invalid);
        assert_eq!(ring.check(Some("b"), at(0)), KeyVerdict::Valid);
        assert_eq!(ring.current(), KeyHash::of("b"));
    }

    #[test]
    fn more_replaced_keys_than_slots_forget_the_oldest() {
        let replaced: Vec<ReplacedKey> = (0..20)
            .map(|n| ReplacedKey {
                hash: KeyHash::of(&format!("k{n}")),
                valid_until: at(0),
                forget_after: at(9),
            })
            .collect();
        let ring = KeyRing::new(KeyHash::of("now"), &replaced);
        assert_eq!(ring.check(Some("k0"), at(1)), KeyVerdict::RotationPending);
        assert_eq!(ring.check(Some("k19"), at(1)), KeyVerdict::Invalid);
        assert_eq!(ring.check(Some("now"), at(1)), KeyVerdict::Valid);
    }

    #[test]
    fn a_hash_reads_back_in_any_case_and_never_shows() {
        let hash = KeyHash::of("abc");
        assert_eq!(hash.to_hex(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(KeyHash::parse(&hash.to_hex().to_uppercase()), Some(hash));
        assert_eq!(format!("{hash:?}"), "[redacted]");
        assert_eq!(KeyHash::parse("ba78"), None);
        assert_eq!(KeyHash::parse(&"+f".repeat(32)), None);
    }
}
