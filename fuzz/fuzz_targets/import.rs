//! Any bytes as a bundle of memories; the claim is in `claims/import.rs`.
#![no_main]

#[path = "../claims/import.rs"]
mod claim;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| claim::holds(data));
