//! /memory/export and /memory/import: what a brain knows as one portable file. (specification 3.6)
//!
//! An export is read page by page as fast as the client takes it and holds no instant of the brain in between. An import
//! is answered when it is complete; only one is made at a time, because each holds its whole bundle in memory.
//!
//! The invariant: an import that was begun is completed, whether or not its client still listens.

use super::app::App;
use super::fields::Query;
use crate::core::{Core, to_the_end};
use crate::mcp;
use crate::memory::bundle::{self, ImportError, Importer, MAX_BYTES, Mode};
use crate::turn::accept::storage;
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use chassis::http::{Refusal, read_body};
use contract::{ApiError, ErrorCode, Timestamp};
use futures::TryStreamExt;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};

/// The imports that may be under way: one, since each may hold 256 MiB.
static IMPORTS: Semaphore = Semaphore::const_new(1);
/// How long an import waits for the one before it. Longer keeps connections open for nothing; shorter refuses after
/// imports of a few rows.
const TURN_WAIT: Duration = Duration::from_secs(2);
/// When a refused client may try again, in seconds.
const RETRY_AFTER_S: u64 = 10;
/// Wait after a failed attempt to go on with an import. Shorter asks a failing disk in a loop.
const RESUME_AGAIN: Duration = Duration::from_secs(30);

/// Streams the bundle.
pub async fn export(State(app): State<Arc<App>>) -> Result<Response, Refusal> {
    let core = app.core()?;
    mcp::learn_stored(&core.config, &core.brain, &core.known).await;
    let pages = bundle::export(core.brain.clone(), Arc::clone(&core.known), Timestamp::now()).await;
    // The answer has begun, so all that can be done is to break it off: half a bundle is no JSON.
    let pages = pages.map_err(|e| storage(&e))?.inspect_err(|error| {
        if !matches!(error, brain::Error::Closed) {
            tracing::error!(code = "INTERNAL", error = %error, "An export broke off");
        }
    });
    let headers = [
        (header::CONTENT_TYPE, "application/json"),
        (header::CONTENT_DISPOSITION, "attachment; filename=\"september-memory.json\""),
    ];
    Ok((headers, Body::from_stream(pages)).into_response())
}

/// Imports a bundle and answers when everything of it is stored.
pub async fn import(State(app): State<Arc<App>>, query: Query, body: Body) -> Result<Json<Value>, Refusal> {
    let core = app.core_for_work()?;
    let mode = match query.get("mode") {
        None => Mode::Merge,
        Some(word) => Mode::parse(word)
            .ok_or_else(|| ApiError::invalid_field("mode", "merge or replace", json!(shown(word))))?,
    };
    let permit = turn().await?;
    if core.brain.free_bytes().is_some_and(|free| free < core.config.brain_min_free_mb * 1024 * 1024) {
        let text = "the disk is nearly full; free space or lower BRAIN_MIN_FREE_MB";
        return Err(ApiError::new(ErrorCode::EngineBusy, text).with(json!({"reason": "disk_full"})).into());
    }
    let bundle = read_body(body, MAX_BYTES).await?;
    let importer = importer(core);
    let imported = to_the_end(async move {
        let _permit = permit;
        importer.resume().await?;
        importer.import(bundle, mode).await
    });
    Ok(Json(imported.await.map_err(refused)?.json()))
}

fn shown(word: &str) -> String {
    word.chars().take(64).collect()
}

fn importer(core: &Core) -> Importer {
    Importer::new(core.brain.clone(), Arc::clone(&core.memory), Arc::clone(&core.catalog))
}

async fn turn() -> Result<SemaphorePermit<'static>, ApiError> {
    match tokio::time::timeout(TURN_WAIT, IMPORTS.acquire()).await {
        Ok(Ok(permit)) => Ok(permit),
        Ok(Err(_)) | Err(_) => {
            let details = json!({"reason": "import_in_progress", "retry_after": RETRY_AFTER_S});
            Err(ApiError::new(ErrorCode::EngineBusy, "another import is in progress").with(details))
        }
    }
}

fn refused(error: ImportError) -> ApiError {
    match error {
        ImportError::NotJson(said) => {
            ApiError::new(ErrorCode::InvalidRequest, format!("the bundle is not JSON: {said}"))
                .with(json!({"field": "body", "expected": "JSON in UTF-8", "got": said}))
        }
        ImportError::Refused(refusal) => {
            let field = match refusal.pointer.trim_start_matches('/') {
                "" => "body".to_owned(),
                pointer => pointer.replace('/', "."),
            };
            let text = "the bundle is refused as a whole; nothing was changed";
            ApiError::new(ErrorCode::ValidationError, text).with(json!({
                "field": field, "pointer": refusal.pointer, "expected": refusal.expected, "got": refusal.came,
            }))
        }
        ImportError::Brain(error) => storage(&error),
    }
}

/// Goes on with what an earlier process left of an import.
pub fn resume(core: &Arc<Core>) {
    let core = Arc::clone(core);
    tokio::spawn(async move {
        let Ok(_permit) = IMPORTS.acquire().await else { return };
        let importer = importer(&core);
        loop {
            match importer.resume().await {
                Ok(_) | Err(brain::Error::Closed) => return,
                Err(error) => {
                    tracing::error!(code = "INTERNAL", error = %error, "An import could not go on; tried again");
                }
            }
            if core.halt.run_until_cancelled(tokio::time::sleep(RESUME_AGAIN)).await.is_none() {
                return;
            }
        }
    });
}
