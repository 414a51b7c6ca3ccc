//! Any bytes as a provider's stream; the claim is in `claims/decoder.rs`.
#![no_main]

#[path = "../claims/decoder.rs"]
mod claim;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| claim::holds(data));
