//! Opening the brain while the port already answers: waiting for its lock, clearing up after an earlier process,
//! migrating.
//!
//! The invariant: nothing of the brain is read before its lock is held.

use super::scratch::scratch_path;
use super::{CONFIGURATION, Stop};
use crate::config::{self, Config};
use crate::http::app::{App, Life};
use brain::{Brain, OpenError, OpenOptions, lock};
use contract::ErrorCode;
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often a brain lock held by somebody else is tried again.
const LOCK_RETRY: Duration = Duration::from_millis(50);

/// Opens the brain, saying on /health meanwhile what is waited for. `None` when a signal came first.
pub(super) async fn open_brain(app: &Arc<App>, config: &Config) -> Result<Option<Brain>, Stop> {
    let options = OpenOptions {
        generation: config.brain_generation.map(|g| i64::try_from(g).unwrap_or(i64::MAX)),
        allow_unsafe_fs: config.brain_allow_unsafe_fs,
        lock_wait: config.brain_lock_wait_s,
        backup_dir: config.backup_dir.clone(),
        migrations: match config.migrations {
            config::MigrationMode::Auto => brain::MigrationMode::Auto,
            config::MigrationMode::Gate => brain::MigrationMode::Gate,
        },
        ..OpenOptions::at(&config.sqlite_db_path)
    };
    let refuse = |e: OpenError| Stop { code: i32::from(e.exit_code()), message: e.to_string() };
    if let Some(dir) = &config.migrations_dir {
        let differences = brain::schema::differences_in(dir, brain::schema::MIGRATIONS);
        if !differences.is_empty() {
            let message = format!("MIGRATIONS_DIR: {}", differences.join("; "));
            return Err(Stop { code: CONFIGURATION, message });
        }
    }
    brain::check_place(&options).map_err(refuse)?;
    let deadline = Instant::now() + config.brain_lock_wait_s;
    let guard = loop {
        match lock::try_acquire(&options.path) {
            Ok(guard) => break guard,
            Err(OpenError::Locked { holder, .. }) => {
                app.set_life(Life::BrainLocked(json!(holder)));
                if Instant::now() >= deadline {
                    return Err(refuse(OpenError::Locked { holder, waited: config.brain_lock_wait_s }));
                }
            }
            Err(error) => return Err(refuse(error)),
        }
        tokio::select! {
            () = tokio::time::sleep(LOCK_RETRY) => {}
            () = app.drain.draining() => return Ok(None),
        }
    };
    app.set_life(Life::Starting);
    // holding the lock, whatever runs with this brain's scratch is left over from an earlier process; the
    // search looks at every process of the machine, so it goes beside the opening
    let searching = std::fs::canonicalize(scratch_path(config))
        .ok()
        .map(|scratch| tokio::task::spawn_blocking(move || crate::sandbox::groups::kill_orphans(&scratch)));
    let opened = tokio::task::spawn_blocking(move || Brain::open_locked(options, guard)).await;
    if let Some(searching) = searching
        && let Ok(killed @ 1..) = searching.await
    {
        tracing::warn!(killed, "Ended processes that an earlier process had left behind");
    }
    match opened {
        Ok(Ok(brain)) => Ok(Some(brain)),
        Ok(Err(OpenError::MigrationRequired { direction, found, wanted, reason })) => {
            let message = format!("the brain has schema {found}, this engine wants {wanted}: {reason}");
            tracing::error!(code = ErrorCode::MigrationRequired.as_str(), "{message}");
            app.set_life(Life::MigrationRequired { direction: direction.as_str(), message });
            app.drain.draining().await;
            Ok(None)
        }
        Ok(Err(error)) => Err(refuse(error)),
        Err(error) => Err(Stop::failure(format!("open the brain: {error}"))),
    }
}
