//! What this build is.

use serde_json::{Value, json};

/// Semantic version of the program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Git commit, set by the build script; `unknown` outside a checkout.
pub const COMMIT: &str = env!("SEPTEMBER_COMMIT");
/// When the build script last ran, ISO-8601 UTC.
pub const BUILT_AT: &str = env!("SEPTEMBER_BUILT_AT");

/// As GET /version and `september-engine version --json` show it.
pub fn json(schema_version: u32) -> Value {
    json!({
        "name": "september-engine",
        "version": VERSION,
        "commit": COMMIT,
        "built_at": BUILT_AT,
        "schema_version": schema_version,
        "sqlite_version": brain::shim::sqlite_version(),
    })
}
