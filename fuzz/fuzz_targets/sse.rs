//! Any bytes as an event stream; the claim is in `claims/sse.rs`.
#![no_main]

#[path = "../claims/sse.rs"]
mod claim;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| claim::holds(data));
