//! Any bytes as a frame of an MCP server; the claim is in `claims/mcp.rs`.
#![no_main]

#[path = "../claims/mcp.rs"]
mod claim;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| claim::holds(data));
