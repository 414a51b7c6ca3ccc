//! The environment variables the orchestrator sets and the Engine reads.

/// SHA-256 of the key callers present, 64 hex digits.
pub const ENGINE_KEY_HASH: &str = "ENGINE_KEY_HASH";
/// Path of the brain.
pub const SQLITE_DB_PATH: &str = "SQLITE_DB_PATH";
/// Read-only catalog directory.
pub const CATALOG_DIR: &str = "CATALOG_DIR";
/// Key of the model provider.
pub const LLM_API_KEY: &str = "LLM_API_KEY";
/// Listen address.
pub const ENGINE_HOST: &str = "ENGINE_HOST";
/// Listen port.
pub const ENGINE_PORT: &str = "ENGINE_PORT";
/// Fencing number: an Engine with a lower one refuses to open the brain.
pub const BRAIN_GENERATION: &str = "BRAIN_GENERATION";
