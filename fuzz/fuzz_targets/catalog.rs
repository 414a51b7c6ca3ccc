//! Any bytes as a catalog file; the claim is in `claims/catalog.rs`.
#![no_main]

#[path = "../claims/catalog.rs"]
mod claim;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| claim::holds(data));
