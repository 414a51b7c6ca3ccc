//! The keys of a simulated engine, as the Engine's contract has them: the environment's, and a stored rotation.
//!
//! Pure. Keys are compared by their SHA-256; no key is kept. The one invariant: while a window is open, a second
//! rotation to another key is refused, and the same one again gets the same answer.

use contract::{ApiError, ErrorCode, Timestamp};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::time::Duration;

/// How long a replaced key is told that it was replaced, after its window.
const FORGET_AFTER_MS: i64 = 24 * 3600 * 1000;

/// A rotation, kept with the brain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rotation {
    current: String,
    previous: String,
    env_hash: String,
    valid_until: Timestamp,
}

/// Lower-case hex SHA-256.
pub(super) fn hash_of(key: &str) -> String {
    Sha256::digest(key.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Is this the key? The environment wins over a rotation that knows nothing of it.
pub(super) fn check(
    env_hash: &str,
    stored: Option<&Rotation>,
    key: &str,
    now: Timestamp,
) -> Result<(), ApiError> {
    let hash = hash_of(key);
    let invalid = || Err(ApiError::new(ErrorCode::InvalidKey, "unknown key"));
    let Some(rotation) = in_force(env_hash, stored) else {
        return if hash == env_hash { Ok(()) } else { invalid() };
    };
    if hash == rotation.current {
        return Ok(());
    }
    if hash != rotation.previous || now >= rotation.valid_until.plus_millis(FORGET_AFTER_MS) {
        return invalid();
    }
    if now < rotation.valid_until {
        return Ok(());
    }
    Err(ApiError::new(ErrorCode::KeyRotationPending, "the key was replaced"))
}

fn in_force<'a>(env_hash: &str, stored: Option<&'a Rotation>) -> Option<&'a Rotation> {
    stored.filter(|r| [&r.env_hash, &r.current, &r.previous].into_iter().any(|known| known == env_hash))
}

/// Replaces the key; answers until when the old one is valid.
pub(super) fn rotate(
    env_hash: &str,
    stored: &mut Option<Rotation>,
    new_hash: &str,
    overlap: Duration,
    now: Timestamp,
) -> Result<Timestamp, ApiError> {
    let known = in_force(env_hash, stored.as_ref());
    if let Some(open) = known.filter(|r| r.valid_until > now) {
        return if open.current == new_hash {
            Ok(open.valid_until)
        } else {
            Err(ApiError::new(ErrorCode::Conflict, "an earlier rotation's window is still open")
                .with(json!({"reason": "rotation_in_progress", "old_key_valid_until": open.valid_until})))
        };
    }
    let previous = known.map_or_else(|| env_hash.to_owned(), |r| r.current.clone());
    let window_ms = i64::try_from(overlap.as_millis()).unwrap_or(i64::MAX);
    let valid_until = now.plus_millis(window_ms);
    *stored =
        Some(Rotation { current: new_hash.to_owned(), previous, env_hash: env_hash.to_owned(), valid_until });
    Ok(valid_until)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_old_key_works_in_the_window_then_is_pending_then_unknown() {
        let at = Timestamp::from_millis;
        let env = hash_of("old");
        let mut stored = None;
        let until =
            rotate(&env, &mut stored, &hash_of("new"), Duration::from_secs(10), at(0)).expect("rotates");
        assert_eq!(until, at(10_000));
        let code = |key, now| check(&env, stored.as_ref(), key, at(now)).map_err(|e| e.error);
        assert_eq!(code("new", 0), Ok(()));
        assert_eq!(code("old", 9_999), Ok(()));
        assert_eq!(code("old", 10_000), Err(ErrorCode::KeyRotationPending));
        assert_eq!(code("old", 10_000 + FORGET_AFTER_MS), Err(ErrorCode::InvalidKey));
        assert_eq!(code("other", 0), Err(ErrorCode::InvalidKey));
    }

    #[test]
    fn the_same_rotation_again_gets_the_same_answer_and_another_is_refused_while_the_window_is_open() {
        let at = Timestamp::from_millis;
        let (env, window) = (hash_of("a"), Duration::from_secs(10));
        let mut stored = None;
        let first = rotate(&env, &mut stored, &hash_of("b"), window, at(0));
        assert_eq!(rotate(&env, &mut stored, &hash_of("b"), window, at(5_000)), first);
        let refused = rotate(&env, &mut stored, &hash_of("c"), window, at(5_000)).map_err(|e| e.error);
        assert_eq!(refused, Err(ErrorCode::Conflict));
        assert_eq!(rotate(&env, &mut stored, &hash_of("c"), window, at(10_000)), Ok(at(20_000)));
    }

    #[test]
    fn an_environment_that_knows_neither_key_drops_the_rotation() {
        let at = Timestamp::from_millis;
        let mut stored = None;
        rotate(&hash_of("a"), &mut stored, &hash_of("b"), Duration::from_secs(1), at(0)).expect("rotates");
        assert_eq!(check(&hash_of("c"), stored.as_ref(), "c", at(0)), Ok(()));
        assert!(check(&hash_of("c"), stored.as_ref(), "b", at(0)).is_err());
    }
}
