//! /admin: key rotation, backups, reading the catalog again.

use super::app::App;
use super::execute::observe;
use super::fields::Fields;
use crate::core::to_the_end;
use crate::turn::accept::storage;
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use brain::backup::{self, OnExisting, Reason};
use brain::keys::{self, Rotation};
use chassis::http::{KeyHash, Refusal, ReplacedKey};
use contract::{ApiError, ErrorCode, Timestamp};
use serde_json::{Value, json};
use std::sync::Arc;

/// How long a replaced key is told that it was replaced, after its window.
const FORGET_AFTER_MS: i64 = 24 * 3600 * 1000;

/// The key ring that a stored rotation and the environment's hash make together; the second value says
/// whether the stored rotation still counts. (specification 14.1)
pub fn ring_of(env: KeyHash, stored: Option<&Rotation>) -> (KeyHash, Vec<ReplacedKey>, bool) {
    let Some(rotation) = stored else { return (env, Vec::new(), false) };
    let (Some(current), Some(previous), Some(env_then)) = (
        KeyHash::parse(&rotation.current),
        KeyHash::parse(&rotation.previous),
        KeyHash::parse(&rotation.env_hash),
    ) else {
        return (env, Vec::new(), false);
    };
    let env_is_known = env == env_then || env == current || env == previous;
    if !env_is_known {
        return (env, Vec::new(), false);
    }
    let replaced = ReplacedKey {
        hash: previous,
        valid_until: rotation.valid_until,
        forget_after: rotation.forget_after,
    };
    (current, vec![replaced], true)
}

/// Replaces the key on the running Engine.
pub async fn rotate_key(State(app): State<Arc<App>>, body: Body) -> Result<Json<Value>, Refusal> {
    let core = app.core()?;
    let mut fields = Fields::read(body, app.max_body).await?;
    let text = fields.text("new_key_hash", 1, 200)?;
    let new = KeyHash::parse(&text).ok_or_else(|| {
        ApiError::invalid_field("new_key_hash", "64 hex digits (SHA-256 of the new key)", Value::Null)
    })?;
    let config = &core.config;
    let (min, max) =
        (config.bap_key_rotation_min_overlap_seconds, config.bap_key_rotation_max_overlap_seconds);
    let asked = fields.opt_int("overlap_seconds", 0, i64::from(u32::MAX))?;
    let overlap_ms = asked
        .map_or(crate::core::millis(max), |s| s.saturating_mul(1000))
        .clamp(crate::core::millis(min), crate::core::millis(max));
    let app = Arc::clone(&app);
    let rotation = to_the_end(rotate(app, new, overlap_ms)).await?;
    Ok(Json(json!({"status": "rotated", "old_key_valid_until": rotation.valid_until})))
}

/// Stores a rotation and puts it into force.
async fn rotate(app: Arc<App>, new: KeyHash, overlap_ms: i64) -> Result<Rotation, ApiError> {
    let core = app.core()?;
    let env = core.config.engine_key_hash.map(KeyHash::to_hex).unwrap_or_default();
    let present = app.keys.current();
    let ring = Arc::clone(&app.keys);
    let stored = core
        .brain
        .write_then(
            "rotate key",
            move |tx| {
                let now = Timestamp::now();
                if let Some(open) = keys::get(tx)?.filter(|r| r.valid_until > now) {
                    // the same hash again is a re-send of the same request
                    return Ok(if open.current == new.to_hex() { Ok(open) } else { Err(open.valid_until) });
                }
                let valid_until = now.plus_millis(overlap_ms);
                let rotation = Rotation {
                    current: new.to_hex(),
                    previous: present.to_hex(),
                    env_hash: env,
                    valid_until,
                    forget_after: valid_until.plus_millis(FORGET_AFTER_MS),
                };
                keys::put(tx, &rotation, now)?;
                Ok(Ok(rotation))
            },
            // in commit order, so that memory and brain name the same key
            move |stored| {
                if let Ok(rotation) = stored {
                    let (current, replaced, _) = ring_of(ring.current(), Some(rotation));
                    ring.set(current, &replaced);
                }
            },
        )
        .await
        .map_err(|e| storage(&e))?;
    let rotation = stored.map_err(|until| {
        ApiError::new(ErrorCode::Conflict, "an earlier rotation's window is still open")
            .with(json!({"reason": "rotation_in_progress", "old_key_valid_until": until}))
    })?;
    tracing::info!("The key was rotated");
    let data = json!({"old_key_valid_until": rotation.valid_until});
    observe(core, "key_rotation", "the key was rotated".into(), Some(data)).await;
    Ok(rotation)
}

/// Reads the catalog again, each file on its own. Running turns keep the version they began with.
pub async fn reload_catalog(State(app): State<Arc<App>>) -> Result<Json<Value>, Refusal> {
    let core = Arc::clone(app.core()?);
    let answer = to_the_end(async move {
        let shelf = Arc::clone(&core.catalog);
        let read = tokio::task::spawn_blocking(move || shelf.reload()).await;
        let loaded = read.map_err(|_| ApiError::new(ErrorCode::Internal, "the catalog could not be read"))?;
        crate::catalog::shelf::log(&loaded.problems);
        let servers = loaded.catalog.servers().cloned().collect();
        if let Err(error) = core.connectors()?.set_catalog(servers).await {
            tracing::error!(code = "INTERNAL", error = %error, "The connectors' books failed");
        }
        crate::serve::put_soul(&core).await.map_err(|e| storage(&e))?;
        if let Some(connectors) = core.connectors.get()
            && let Err(error) = connectors.set_catalog(loaded.catalog.servers().cloned().collect()).await
        {
            tracing::error!(code = "INTERNAL", error = %error, "The connectors could not take the new servers");
        }
        let errors: Vec<Value> =
            loaded.problems.iter().filter(|p| p.is_error()).map(crate::catalog::Problem::json).collect();
        let mut counts = loaded.catalog.counts();
        counts["errors"] = json!(errors.len());
        counts["version"] = json!(loaded.catalog.version());
        tracing::info!(version = loaded.catalog.version(), errors = errors.len(), "The catalog was reloaded");
        observe(&core, "catalog_reload", "the catalog was read again".into(), Some(counts.clone())).await;
        counts["status"] = json!("reloaded");
        counts["errors"] = json!(errors);
        if let Some(fields) = counts.as_object_mut() {
            fields.remove("version");
        }
        Ok::<Value, ApiError>(counts)
    });
    Ok(Json(answer.await?))
}

/// Makes a verified online backup in BACKUP_DIR.
pub async fn backup(State(app): State<Arc<App>>, body: Body) -> Result<Json<Value>, Refusal> {
    let core = app.core()?;
    let mut fields = Fields::read(body, app.max_body).await?;
    let name = match fields.opt_text("name", 1, 100)? {
        None => backup::file_name(Reason::Asked, Timestamp::now()),
        Some(name) => {
            let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
            if !plain || name.starts_with('.') {
                return Err(ApiError::invalid_field(
                    "name",
                    "a file name of [A-Za-z0-9._-], not beginning with a dot",
                    json!(name),
                )
                .into());
            }
            name
        }
    };
    let dir = core.config.backup_dir.clone();
    backup::make_dir(&dir).map_err(|e| backup_error(&e))?;
    let report = core.brain.backup(dir.join(name), OnExisting::Refuse).await.map_err(|e| backup_error(&e))?;
    observe(core, "backup", "a backup was made".into(), Some(json!({"bytes": report.bytes}))).await;
    Ok(Json(json!({
        "status": "ok",
        "path": report.path,
        "size_bytes": report.bytes,
        "schema_version": report.schema_version,
        "verified": true,
    })))
}

fn backup_error(error: &brain::backup::BackupError) -> ApiError {
    use brain::backup::BackupError as E;
    match error {
        E::Exists(_) => {
            ApiError::new(ErrorCode::Conflict, error.to_string()).with(json!({"reason": "already_exists"}))
        }
        E::NoRoom { .. } => {
            ApiError::new(ErrorCode::EngineBusy, error.to_string()).with(json!({"reason": "disk_full"}))
        }
        other => {
            tracing::error!(code = "INTERNAL", error = %other, "A backup failed");
            ApiError::new(ErrorCode::Internal, "the backup failed; the log tells more")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rotation(current: &str, previous: &str, env: &str) -> Rotation {
        Rotation {
            current: KeyHash::of(current).to_hex(),
            previous: KeyHash::of(previous).to_hex(),
            env_hash: KeyHash::of(env).to_hex(),
            valid_until: Timestamp::from_millis(10),
            forget_after: Timestamp::from_millis(20),
        }
    }

    #[test]
    fn a_stored_rotation_counts_until_the_environment_brings_an_unknown_key() {
        let stored = rotation("new-key", "old-key", "old-key");
        let (current, replaced, counts) = ring_of(KeyHash::of("old-key"), Some(&stored));
        assert_eq!((current, replaced.len(), counts), (KeyHash::of("new-key"), 1, true));
        let (current, _, counts) = ring_of(KeyHash::of("new-key"), Some(&stored));
        assert_eq!((current, counts), (KeyHash::of("new-key"), true));
        let (current, replaced, counts) = ring_of(KeyHash::of("third-key"), Some(&stored));
        assert_eq!((current, replaced.len(), counts), (KeyHash::of("third-key"), 0, false));
    }
}
