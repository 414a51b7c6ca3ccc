//! Any text as a shell command; the claim is in `claims/shell.rs`.
#![no_main]

#[path = "../claims/shell.rs"]
mod claim;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| claim::holds(data));
