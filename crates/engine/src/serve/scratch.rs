//! Where the tasks' private directories are, and when they are emptied.
//!
//! The invariant: the directory of a turn that runs is never touched.

use super::Stop;
use crate::config::Config;
use crate::core::Core;
use crate::{mcp, sandbox};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub(super) fn make_private_dir(dir: &Path) -> Result<(), Stop> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|e| Stop::failure(format!("make {}: {e}", dir.display())))
}

/// Where tasks' private directories are. One per brain, and not named like the brain's own files, which are
/// sealed.
pub(super) fn scratch_path(config: &Config) -> PathBuf {
    let brain_name = config.sqlite_db_path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    config.brain_dir().join(format!("scratch-{brain_name}"))
}

/// The canonical form of the same, which may not be there yet.
pub(super) fn future_scratch(config: &Config) -> PathBuf {
    let path = scratch_path(config);
    std::fs::canonicalize(&path).unwrap_or_else(|_| match (path.parent(), path.file_name()) {
        (Some(dir), Some(name)) => std::fs::canonicalize(dir).map_or_else(|_| path.clone(), |d| d.join(name)),
        _ => path.clone(),
    })
}

pub(super) fn remove_scratch(core: &Core, idle: Duration) {
    let Ok(entries) = std::fs::read_dir(&core.scratch) else { return };
    let in_use = core.scratch_in_use();
    for entry in entries.flatten().filter(|entry| !in_use.contains(&entry.path())) {
        // a stdio server may run for days; at start none does
        let of_server = entry.file_name().to_string_lossy().starts_with(mcp::SCRATCH_PREFIX);
        if of_server && !idle.is_zero() {
            continue;
        }
        let age = entry.metadata().and_then(|m| m.modified()).ok().and_then(|t| t.elapsed().ok());
        if age.is_none_or(|a| a >= idle)
            && let Err(error) = sandbox::scratch::remove(&entry.path())
        {
            tracing::warn!(error = %error, "A task's private directory could not be emptied");
        }
    }
}
