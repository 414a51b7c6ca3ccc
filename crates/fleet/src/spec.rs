//! What a backend object must be: image, environment, mounts, network, limits; and its keyed hash.

use contract::{EngineId, InstanceId, ProductId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// Limits of one engine. 0 means no limit.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Resources {
    /// Memory (and memory + swap) in MiB.
    pub memory_mb: u64,
    /// Processors, as a fraction of one.
    pub cpus: f64,
    /// Processes and threads.
    pub pids: u64,
}

/// How strictly an object is confined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SecurityProfile {
    /// The daemon's default seccomp and AppArmor.
    Hardened,
    /// Adds the calls that unprivileged user namespaces need.
    Nested,
}

/// Environment of an engine. Values are secret until proven otherwise: `Debug` shows names only.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct EngineEnv(pub BTreeMap<String, String>);

impl fmt::Debug for EngineEnv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// Everything a backend must know to make one object. Host paths are as the backend's host sees them.
#[derive(Debug, Clone, PartialEq)]
pub struct EngineSpec {
    /// Whose object: label `bap-engine/instance`.
    pub instance: InstanceId,
    /// Label `bap-engine/engine-id`; the object is named `engine-{12}`.
    pub engine_id: EngineId,
    /// Label `bap-engine/product-id`.
    pub product_id: ProductId,
    /// Label `bap-engine/generation`, and `BRAIN_GENERATION` in `env`.
    pub generation: i64,
    /// Label `bap-engine/spec-hash`.
    pub spec_hash: String,
    /// Image reference. The subprocess backend keeps it as text.
    pub image: String,
    /// Complete environment as §10.1 (paths as inside a container; the subprocess backend replaces
    /// `SQLITE_DB_PATH` and `CATALOG_DIR` and adds `ENGINE_HOST` and `ENGINE_PORT`).
    pub env: EngineEnv,
    /// Host port on 127.0.0.1; `None` where the backend has no host ports.
    pub port: Option<u16>,
    /// Catalog directory on the backend's host, mounted read-only at `/catalog`.
    pub catalog: Option<String>,
    /// Limits.
    pub resources: Resources,
    /// Confinement.
    pub security: SecurityProfile,
}
