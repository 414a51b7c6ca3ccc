//! `rekey`: seals every stored credential under the first key of AD_ENCRYPTION_KEY. Doing it twice is harmless.

use super::brain_commands::{exit_of, open_options};
use super::{Exit, emit, emit_json};
use crate::config::Config;
use crate::mcp::{BrainBooks, keys_of};
use brain::{Brain, MigrationMode, OpenOptions};
use connectors::credentials;
use serde_json::json;
use std::sync::Arc;

/// `rekey`.
pub fn rekey(config: &Config, json: bool) -> Exit {
    let Some(keys) = keys_of(config) else {
        return Exit::Configuration
            .because("AD_ENCRYPTION_KEY is not set; put the new key first, the old ones after it");
    };
    if !config.sqlite_db_path.exists() {
        return Exit::fail(&format!("there is no brain at {}", config.sqlite_db_path.display()));
    }
    // Changing keys is no reason to migrate: an older brain is refused with the command to run.
    let options = OpenOptions { migrations: MigrationMode::Gate, ..open_options(config) };
    let brain = match Brain::open(options) {
        Ok(brain) => brain,
        Err(error) => return exit_of(&error).because(&error.to_string()),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Exit::fail(&format!("could not start: {error}")),
    };
    let books = BrainBooks::new(brain.clone(), Arc::default());
    let done = runtime.block_on(credentials::rekey(&books, &keys));
    brain.close();
    let done = match done {
        Ok(done) => done,
        Err(error) => return Exit::fail(&error.to_string()),
    };
    let credentials::Rekeyed { resealed, current, unreadable } = done;
    let told = match json {
        true => emit_json(&json!({"resealed": resealed, "current": current, "unreadable": unreadable})),
        false => emit(&format!(
            "sealed anew {resealed}, already under the first key {current}, unreadable {unreadable}\n"
        )),
    };
    match unreadable {
        0 => told,
        _ => Exit::Problems
            .because("some credentials are opened by none of the keys; they were left as they are"),
    }
}
