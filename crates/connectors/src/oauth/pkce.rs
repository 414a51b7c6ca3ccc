//! Unguessable texts: the verifier and its S256 challenge (RFC 7636), and the state parameter. Pure.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

/// Bytes of a verifier and of a state: 256 bits.
pub(crate) const BYTES: usize = 32;

/// A text nobody can guess, of 43 characters.
pub(crate) fn token(random: &dyn Fn(&mut [u8])) -> String {
    let mut bytes = [0_u8; BYTES];
    random(&mut bytes);
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The S256 challenge of a verifier.
pub(crate) fn challenge(verifier: &str) -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(verifier.as_bytes()))
}

/// What is stored of a state: its SHA-256 as hex. Who reads the books cannot finish an authorization.
pub(crate) fn state_hash(state: &str) -> String {
    Sha256::digest(state.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_challenge_is_that_of_the_standard() {
        let verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
        assert_eq!(challenge(verifier), "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM");
    }

    #[test]
    fn tokens_have_256_bits_and_only_their_hash_is_stored() {
        let random = |bytes: &mut [u8]| rand::Rng::fill_bytes(&mut rand::rng(), bytes);
        let (a, b) = (token(&random), token(&random));
        assert!(a.len() == 43 && a != b);
        assert!(state_hash(&a).len() == 64 && !state_hash(&a).contains(&a));
    }
}
