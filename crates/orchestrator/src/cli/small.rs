//! Small commands that need neither a database nor an API: keys, version, reference pages.

use super::{Exit, emit, emit_json};
use crate::{keys, reference, version};
use chassis::seal::MasterKeys;
use clap::ValueEnum;
use serde_json::{Map, Value};
use std::path::Path;

/// Which key `keygen` makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum KeyKind {
    /// ORCH_MASTER_KEY
    Master,
    /// ORCH_ADMIN_KEY
    Admin,
}

/// Makes keys and prints them as lines of an environment file.
pub fn keygen(kind: Option<KeyKind>, json: bool) -> Exit {
    let mut made = Vec::new();
    if kind != Some(KeyKind::Admin) {
        made.push(("ORCH_MASTER_KEY", MasterKeys::generate()));
    }
    if kind != Some(KeyKind::Master) {
        made.push(("ORCH_ADMIN_KEY", keys::new_admin_key()));
    }
    if json {
        let map: Map<String, Value> =
            made.iter().map(|(name, key)| ((*name).to_owned(), Value::from(key.expose()))).collect();
        return emit_json(&map);
    }
    emit(&made.iter().map(|(name, key)| format!("{name}={}\n", key.expose())).collect::<String>())
}

/// The newest migration this program carries.
pub fn schema_level() -> i32 {
    crate::registry::migrate::MIGRATIONS.iter().map(|m| m.version).max().unwrap_or(0)
}

/// Says what this build is.
pub fn version(json: bool) -> Exit {
    let facts = version::json(schema_level());
    if json {
        return emit_json(&facts);
    }
    emit(&format!(
        "bap-engine {}\ncommit {}, built {}\nschema level {}\n",
        version::VERSION,
        version::COMMIT,
        version::BUILT_AT,
        schema_level()
    ))
}

/// Writes the generated pages.
pub fn reference(out: &Path) -> Exit {
    if let Err(error) = std::fs::create_dir_all(out) {
        return Exit::fail(&format!("{}: {error}", out.display()));
    }
    for (name, text) in reference::pages() {
        let path = out.join(name);
        if let Err(error) = std::fs::write(&path, text) {
            return Exit::fail(&format!("{}: {error}", path.display()));
        }
        if emit(&format!("{}\n", path.display())) != Exit::Done {
            return Exit::Failed;
        }
    }
    Exit::Done
}
