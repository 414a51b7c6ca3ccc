//! What this build is.

use serde_json::{Value, json};

/// Semantic version of the program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Git commit, set by the build script; `unknown` outside a checkout.
pub const COMMIT: &str = env!("SEPTEMBER_COMMIT");
/// When the build script last ran, ISO-8601 UTC.
pub const BUILT_AT: &str = env!("SEPTEMBER_BUILT_AT");

/// As `bap-engine version --json` shows it. `schema_level` is the newest migration this build knows.
pub fn json(schema_level: i32) -> Value {
    json!({
        "name": "bap-engine",
        "version": VERSION,
        "commit": COMMIT,
        "built_at": BUILT_AT,
        "schema_level": schema_level,
    })
}
