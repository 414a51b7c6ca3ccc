//! What a backend object must be: image, environment, mounts, network, limits; and its keyed hash.
//!
//! It refuses to put a key or a generation into the hash: those change without the object's shape changing, and a
//! hash over a key hash would be a label over a secret. The invariant: equal shape, equal hash, on every replica;
//! drift changes nothing that runs, the next start re-creates.

use crate::observation::Object;
use contract::{EngineId, InstanceId, ProductId, env};
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::Sha256;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

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

/// Label: whose deployment.
pub const LABEL_INSTANCE: &str = "bap-engine/instance";
/// Label: whose engine.
pub const LABEL_ENGINE: &str = "bap-engine/engine-id";
/// Label: whose product.
pub const LABEL_PRODUCT: &str = "bap-engine/product-id";
/// Label: writer generation.
pub const LABEL_GENERATION: &str = "bap-engine/generation";
/// Label: keyed hash of the shape.
pub const LABEL_SPEC_HASH: &str = "bap-engine/spec-hash";
/// Label: [`ROLE_ENGINE`] or [`ROLE_JOB`].
pub const LABEL_ROLE: &str = "bap-engine/role";
/// Role of an engine's own object.
pub const ROLE_ENGINE: &str = "engine";
/// Role of a one-shot command on an engine's storage.
pub const ROLE_JOB: &str = "job";

/// Where the brain is inside a container.
pub const BRAIN_PATH: &str = "/data/brain.sqlite";
/// Where the catalog is inside a container.
pub const CATALOG_PATH: &str = "/catalog";
/// Time the engine gets to drain turns after SIGTERM, in seconds; set unless passed through.
pub const ENGINE_DRAIN_TIMEOUT_S: &str = "ENGINE_DRAIN_TIMEOUT_S";
/// Seconds of the stop grace that are left for the engine to close its brain after draining. Fewer would risk
/// SIGKILL in the middle of closing; more would cut turns that could have ended.
pub const DRAIN_RESERVE_S: u64 = 5;

/// Names the orchestrator sets itself: the passthrough may not contain them.
pub const RESERVED_ENV: &[&str] = &[
    env::ENGINE_KEY_HASH,
    "ENGINE_API_KEY",
    env::SQLITE_DB_PATH,
    env::CATALOG_DIR,
    env::BRAIN_GENERATION,
    env::ENGINE_HOST,
    env::ENGINE_PORT,
];

/// Why a name may not be passed through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PassthroughProblem {
    /// Not `[A-Za-z_][A-Za-z0-9_]*`.
    #[error("is not a name of an environment variable")]
    NotAName,
    /// It belongs to the orchestrator, the loader or the process itself.
    #[error("belongs to the orchestrator or the operating system and is not forwarded")]
    Foreign,
    /// The orchestrator sets it for every engine.
    #[error("is set by the orchestrator for every engine")]
    Reserved,
}

/// Checks one name of `ORCH_ENGINE_ENV_PASSTHROUGH`.
pub fn check_passthrough(name: &str) -> Result<(), PassthroughProblem> {
    let starts = name.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    if !starts || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        return Err(PassthroughProblem::NotAName);
    }
    if RESERVED_ENV.contains(&name) {
        return Err(PassthroughProblem::Reserved);
    }
    if name.starts_with("ORCH_") || name.starts_with("LD_") || name == "PATH" || name == "HOME" {
        return Err(PassthroughProblem::Foreign);
    }
    Ok(())
}

/// The complete environment of one engine inside a container. What is passed through never wins over what the
/// orchestrator sets.
pub fn env_of(
    engine_key_hash: &str,
    generation: i64,
    stop_grace: Duration,
    passthrough: &BTreeMap<String, String>,
) -> EngineEnv {
    let drain_s = stop_grace.as_secs().saturating_sub(DRAIN_RESERVE_S).max(1);
    let mut env = BTreeMap::from([(ENGINE_DRAIN_TIMEOUT_S.to_owned(), drain_s.to_string())]);
    let forwarded = passthrough.iter().filter(|(name, _)| check_passthrough(name).is_ok());
    env.extend(forwarded.map(|(name, value)| (name.clone(), value.clone())));
    env.insert(env::ENGINE_KEY_HASH.to_owned(), engine_key_hash.to_owned());
    env.insert(env::SQLITE_DB_PATH.to_owned(), BRAIN_PATH.to_owned());
    env.insert(env::CATALOG_DIR.to_owned(), CATALOG_PATH.to_owned());
    env.insert(env::BRAIN_GENERATION.to_owned(), generation.to_string());
    EngineEnv(env)
}

/// One mount of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Host path, volume or claim.
    pub source: String,
    /// Path inside.
    pub target: String,
    /// Not writable inside.
    pub read_only: bool,
}

/// Everything that shapes an object, as the hash sees it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shape<'a> {
    /// Image reference.
    pub image: &'a str,
    /// Complete environment; key hash and generation are left out of the hash.
    pub env: &'a EngineEnv,
    /// Storage and catalog.
    pub mounts: &'a [Mount],
    /// Network, where the backend has one.
    pub network: Option<&'a str>,
    /// Host port on 127.0.0.1, where the backend has host ports.
    pub port: Option<u16>,
    /// Limits.
    pub resources: &'a Resources,
    /// Confinement.
    pub security: SecurityProfile,
}

/// First 16 hex digits of HMAC-SHA256(salt, canonical JSON of the shape). Canonical: keys sorted, no white space.
pub fn spec_hash(salt: &[u8], shape: &Shape<'_>) -> String {
    let changing = [env::ENGINE_KEY_HASH, env::BRAIN_GENERATION];
    let kept: BTreeMap<&str, &str> = shape
        .env
        .0
        .iter()
        .filter(|(name, _)| !changing.contains(&name.as_str()))
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let mut mounts: Vec<&Mount> = shape.mounts.iter().collect();
    mounts.sort_by(|a, b| a.target.cmp(&b.target));
    let mounts: Vec<Value> = mounts
        .iter()
        .map(|m| json!({"source": m.source, "target": m.target, "read_only": m.read_only}))
        .collect();
    let value = json!({
        "env": kept,
        "image": shape.image,
        "limits": shape.resources,
        "mounts": mounts,
        "network": {"name": shape.network, "port": shape.port},
        "security": shape.security,
    });
    let mut text = String::new();
    canonical(&value, &mut text);
    let mut mac = Hmac::<Sha256>::new_from_slice(salt).expect("HMAC takes a key of any length");
    mac.update(text.as_bytes());
    let digest = mac.finalize().into_bytes();
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// JSON with sorted keys and without white space, whatever map `serde_json` was built with.
fn canonical(value: &Value, out: &mut String) {
    match value {
        Value::Object(map) => {
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort();
            out.push('{');
            for (at, key) in keys.into_iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                out.push_str(&Value::String(key.clone()).to_string());
                out.push(':');
                canonical(&map[key], out);
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                canonical(item, out);
            }
            out.push(']');
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            out.push_str(&value.to_string())
        }
    }
}

/// The labels of an engine's object. Never a user or a slug: labels are readable by whoever reads the daemon.
pub fn labels(spec: &EngineSpec) -> BTreeMap<String, String> {
    labels_as(spec, ROLE_ENGINE)
}

/// The labels of a job on an engine's storage.
pub fn job_labels(spec: &EngineSpec) -> BTreeMap<String, String> {
    labels_as(spec, ROLE_JOB)
}

fn labels_as(spec: &EngineSpec, role: &str) -> BTreeMap<String, String> {
    [
        (LABEL_INSTANCE, spec.instance.to_string()),
        (LABEL_ENGINE, spec.engine_id.to_string()),
        (LABEL_PRODUCT, spec.product_id.to_string()),
        (LABEL_GENERATION, spec.generation.to_string()),
        (LABEL_SPEC_HASH, spec.spec_hash.clone()),
        (LABEL_ROLE, role.to_owned()),
    ]
    .into_iter()
    .map(|(label, value)| (label.to_owned(), value))
    .collect()
}

/// True when an object was made from another specification than the present one. An object whose hash label is
/// unreadable (empty) counts as drifted: the next start re-creates it.
pub fn drift(observed_hash: &str, wanted_hash: &str) -> bool {
    observed_hash != wanted_hash
}

/// What `explain` lists under `drift`: `image` when that is visible, `spec_hash` for everything else.
pub fn drift_fields(object: &Object, wanted_image: &str, wanted_hash: &str) -> Vec<&'static str> {
    let mut fields = Vec::new();
    if object.image != wanted_image {
        fields.push("image");
    }
    if drift(&object.spec_hash, wanted_hash) {
        fields.push("spec_hash");
    }
    fields
}
