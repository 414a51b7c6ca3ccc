//! GET /health, and the internal listener: Prometheus text and the two probes. Nothing here waits for anything:
//! the facts are those of a loop that looks every second.

use super::app::App;
use crate::core::Pulse;
use crate::telemetry;
use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use contract::fleet_api::{HealthParts, HealthResponse, HealthWord, PartState};
use http::StatusCode;
use http::header::CONTENT_TYPE;
use std::sync::Arc;

/// How the process is.
pub fn of(app: &App) -> HealthResponse {
    let parts = app.found().map_or(NOTHING_KNOWN, |core| parts(&core.pulse));
    judge(app.found().is_some(), app.draining(), parts)
}

/// Before there is a core, nothing has answered yet.
const NOTHING_KNOWN: HealthParts =
    HealthParts { database: PartState::Error, backend: PartState::Error, supervisor: PartState::Error };

fn parts(pulse: &Pulse) -> HealthParts {
    let state = |ok: bool| if ok { PartState::Ok } else { PartState::Error };
    HealthParts {
        database: state(pulse.database_ok()),
        backend: state(pulse.backend_ok()),
        supervisor: state(pulse.supervisor_ok()),
    }
}

fn judge(serving: bool, draining: bool, parts: HealthParts) -> HealthResponse {
    let fine = |part: PartState| part == PartState::Ok;
    let status = if draining {
        HealthWord::Draining
    } else if !serving {
        HealthWord::Starting
    } else if !fine(parts.database) {
        HealthWord::Error
    } else if fine(parts.backend) && fine(parts.supervisor) {
        HealthWord::Ok
    } else {
        HealthWord::Degraded
    };
    let subsystems = (status != HealthWord::Ok).then_some(parts);
    HealthResponse { status, subsystems }
}

fn status_code(word: HealthWord) -> StatusCode {
    match word {
        HealthWord::Ok | HealthWord::Degraded => StatusCode::OK,
        HealthWord::Starting | HealthWord::Draining | HealthWord::Error => StatusCode::SERVICE_UNAVAILABLE,
    }
}

/// 21: the probe.
pub async fn health(State(app): State<Arc<App>>) -> Response {
    let health = of(&app);
    (status_code(health.status), Json(health)).into_response()
}

/// The process schedules work, whatever Postgres does.
pub async fn livez() -> &'static str {
    "ok"
}

/// Requests may be sent here.
pub async fn readyz(State(app): State<Arc<App>>) -> Response {
    let health = of(&app);
    let status = status_code(health.status);
    let word = if status == StatusCode::OK { "ok" } else { "not ready" };
    (status, word).into_response()
}

/// The Prometheus text of this replica.
pub async fn prometheus(State(app): State<Arc<App>>) -> Response {
    let health = of(&app);
    if let Some(core) = app.found() {
        let ok = health.status == HealthWord::Ok;
        telemetry::health(ok, core.pulse.database_ok(), core.backend.kind(), core.pulse.backend_ok());
        let (in_use, size) = core.registry.pool_gauges();
        telemetry::pool(in_use, size);
    }
    let text = telemetry::registry().render();
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use PartState::{Error, Ok};

    fn parts(database: PartState, backend: PartState, supervisor: PartState) -> HealthParts {
        HealthParts { database, backend, supervisor }
    }

    #[test]
    fn health_ok_is_exactly_status_ok() {
        let body = serde_json::to_string(&judge(true, false, parts(Ok, Ok, Ok))).expect("serialises");
        assert_eq!(body, r#"{"status":"ok"}"#);
        let body = serde_json::to_string(&judge(true, false, parts(Ok, Error, Ok))).expect("serialises");
        assert_eq!(
            body,
            r#"{"status":"degraded","subsystems":{"database":"ok","backend":"error","supervisor":"ok"}}"#
        );
    }

    #[test]
    fn only_the_database_the_boot_and_the_drain_make_it_unavailable() {
        let code = |serving, draining, parts| status_code(judge(serving, draining, parts).status).as_u16();
        assert_eq!(code(true, false, parts(Ok, Error, Error)), 200);
        assert_eq!(code(true, false, parts(Error, Ok, Ok)), 503);
        assert_eq!(code(false, false, NOTHING_KNOWN), 503);
        assert_eq!(code(true, true, parts(Ok, Ok, Ok)), 503);
        assert_eq!(judge(false, false, NOTHING_KNOWN).status, HealthWord::Starting);
        assert_eq!(judge(true, true, parts(Ok, Ok, Ok)).status, HealthWord::Draining);
    }
}
