//! GET /health and GET /metrics: a strict contract with orchestrators. No network, no disk, no waiting.

use super::app::{App, Life};
use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use chassis::http::Refusal;
use contract::engine_api::{Activity, Health, HealthStatus, SubsystemState, Subsystems};
use http::StatusCode;
use http::header::CONTENT_TYPE;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The present health.
pub fn of(app: &App) -> Health {
    let core = app.core.get();
    let failed = core.is_some_and(|c| c.brain.is_failed());
    let database = if failed { SubsystemState::Error } else { SubsystemState::Ok };
    let provider = if app.pulse.provider_is_down() { SubsystemState::Error } else { SubsystemState::Ok };
    let connectors = core.and_then(|c| c.connectors.get()).is_none_or(connectors::Directory::is_healthy);
    let connectors = if connectors { SubsystemState::Ok } else { SubsystemState::Error };
    let embeddings = core.is_some_and(|c| c.memory.embeddings_failed());
    let embeddings = if embeddings { SubsystemState::Error } else { SubsystemState::Ok };
    let status = match app.life() {
        Life::Starting => HealthStatus::Starting,
        Life::BrainLocked(_) => HealthStatus::BrainLocked,
        Life::MigrationRequired { .. } => HealthStatus::MigrationRequired,
        Life::Ready if app.drain.is_draining() => HealthStatus::Draining,
        Life::Ready if failed => HealthStatus::Error,
        Life::Ready if [provider, connectors, embeddings].contains(&SubsystemState::Error) => {
            HealthStatus::Degraded
        }
        Life::Ready => HealthStatus::Ok,
    };
    let (running, queued) = core.map_or((0, 0), |c| c.coordinator.counts());
    Health {
        status,
        uptime_seconds: (app.started.elapsed().as_secs_f64() * 10.0).round() / 10.0,
        subsystems: Subsystems { database, llm_provider: provider, asset_directory: connectors, embeddings },
        version: crate::version::VERSION.to_owned(),
        schema_version: core.map_or(0, |c| c.brain.schema_version()),
        activity: Activity {
            in_flight_turns: (running + queued) as u64,
            open_streams: app.pulse.open_streams().load(Ordering::Relaxed),
            last_activity_at: app.pulse.last_activity(),
            next_scheduled_at: [
                app.pulse.next_scheduled(),
                core.and_then(|c| c.connectors.get()?.next_refresh()),
            ]
            .into_iter()
            .flatten()
            .min(),
        },
        sandbox: app.sandbox(),
    }
}

/// GET /health.
pub async fn health(State(app): State<Arc<App>>) -> Response {
    let health = of(&app);
    let status = StatusCode::from_u16(health.status.http_status()).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    (status, Json(health)).into_response()
}

/// GET /metrics.
pub async fn metrics(State(app): State<Arc<App>>) -> Result<Response, Refusal> {
    let core = app.core()?;
    let (running, queued) = core.coordinator.counts();
    metrics::gauge!("engine_turns_in_flight").set((running + queued) as f64);
    metrics::gauge!("engine_turn_queue_length").set(queued as f64);
    metrics::gauge!("engine_open_streams").set(app.pulse.open_streams().load(Ordering::Relaxed) as f64);
    let (file, wal) = core.brain.file_sizes();
    metrics::gauge!("engine_brain_bytes").set(file as f64);
    metrics::gauge!("engine_brain_wal_bytes").set(wal as f64);
    if let Some(free) = core.brain.free_bytes() {
        metrics::gauge!("engine_disk_free_bytes").set(free as f64);
    }
    if let Ok(counts) = core.brain.read("count connections", brain::connections::count_by_status).await {
        for (status, count) in counts {
            metrics::gauge!("engine_mcp_connections", "status" => status).set(count as f64);
        }
    }
    if let Ok(pending) = core.brain.read("count questions", brain::prompts::count_pending).await {
        metrics::gauge!("engine_hitl_pending").set(pending as f64);
    }
    if let Err(error) = core.memory.gauges().await {
        tracing::debug!(error = %error, "Memories could not be counted");
    }
    Ok(([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], app.metrics.render()).into_response())
}
