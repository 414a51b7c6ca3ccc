//! What simulated engines answer, without sockets: `/health`, `/version`, key rotation and backups.
//!
//! The one invariant: only a process that runs, is not frozen and has booted answers anything.

use super::SimulatedWorld;
use super::keys::{check, hash_of, rotate};
use super::profile::{EngineProfile, HealthAnswer};
use super::state::{Phase, State};
use crate::{ProbeReply, Prober};
use async_trait::async_trait;
use bytes::Bytes;
use contract::engine_api::{Health, RotateKeyRequest, RotateKeyResponse, SandboxReport};
use contract::{ApiError, EngineId, ErrorCode, env};
use serde::Serialize;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::time::Instant;

/// What is on the line, and after how long.
enum Line {
    /// Nobody listens.
    Refused,
    /// Somebody listens and never answers.
    Silent,
    /// This, after that time.
    Says(Duration, ProbeReply),
}

impl SimulatedWorld {
    async fn ask(
        &self,
        address: SocketAddr,
        timeout: Duration,
        answer: impl FnOnce(&mut State, EngineId, Instant) -> ProbeReply + Send,
    ) -> ProbeReply {
        let line = self.with(|state, now| {
            let Some(id) = state.who(address) else { return Line::Refused };
            state.settle(id, now);
            let Some(engine) = state.engines.get(&id) else { return Line::Refused };
            let takes = engine.profile.answer_takes;
            match engine.object.as_ref().map(|o| o.phase) {
                Some(Phase::Running(run)) if run.ready_at <= now => match answer(state, id, now) {
                    ProbeReply::TimedOut => Line::Silent,
                    reply => Line::Says(takes, reply),
                },
                Some(Phase::Paused(_)) => Line::Silent,
                Some(Phase::Running(_) | Phase::Exited { .. } | Phase::Restarting { .. }) | None => {
                    Line::Refused
                }
            }
        });
        let (takes, reply) = match line {
            Line::Refused => return ProbeReply::Refused,
            Line::Says(takes, reply) if takes < timeout => (takes, reply),
            Line::Silent | Line::Says(..) => (timeout, ProbeReply::TimedOut),
        };
        if !takes.is_zero() {
            tokio::time::sleep(takes).await;
        }
        reply
    }
}

#[async_trait]
impl Prober for SimulatedWorld {
    async fn get_health(&self, address: SocketAddr, timeout: Duration) -> ProbeReply {
        self.with(|state, _| {
            if let Some(engine) = state.who(address).and_then(|id| state.engines.get_mut(&id)) {
                engine.probes += 1;
            }
        });
        self.ask(address, timeout, health).await
    }

    async fn call(
        &self,
        address: SocketAddr,
        method: &str,
        path: &str,
        engine_key: &str,
        body: Bytes,
        timeout: Duration,
    ) -> ProbeReply {
        self.ask(address, timeout, |state, id, now| {
            let refuses = state.engines.get(&id).is_some_and(|e| e.profile.refuses_calls);
            if refuses {
                return ProbeReply::Refused;
            }
            match route(state, id, now, (method, path), engine_key, &body) {
                Ok(value) => json_answer(200, &value),
                Err(error) => json_answer(error.error.status(), &error),
            }
        })
        .await
    }
}

fn json_answer(status: u16, body: &impl Serialize) -> ProbeReply {
    let body = serde_json::to_vec(body).expect("plain data with text keys serialises");
    ProbeReply::Answer { status, body: body.into() }
}

fn health(state: &mut State, id: EngineId, now: Instant) -> ProbeReply {
    let Some((engine, object)) = state.engines.get(&id).and_then(|e| Some((e, e.object.as_ref()?))) else {
        return ProbeReply::Refused;
    };
    let profile = &engine.profile;
    match &profile.health {
        HealthAnswer::Refused => ProbeReply::Refused,
        HealthAnswer::TimedOut => ProbeReply::TimedOut,
        HealthAnswer::Unreadable => ProbeReply::Unreadable,
        HealthAnswer::Raw { status, body } => {
            ProbeReply::Answer { status: *status, body: Bytes::from(body.clone()) }
        }
        HealthAnswer::Normal => {
            let up = match object.phase {
                Phase::Running(run) => now.saturating_duration_since(run.ready_at),
                Phase::Paused(_) | Phase::Exited { .. } | Phase::Restarting { .. } => Duration::ZERO,
            };
            json_answer(profile.status.http_status(), &health_body(profile, &object.image, up))
        }
    }
}

fn version_of(profile: &EngineProfile, image: &str) -> String {
    let tag = || {
        let name = image.split('@').next().unwrap_or(image);
        let tag = name.rsplit('/').next().unwrap_or(name).split_once(':').map_or("latest", |(_, tag)| tag);
        tag.to_owned()
    };
    profile.version.clone().unwrap_or_else(tag)
}

fn health_body(profile: &EngineProfile, image: &str, up: Duration) -> Value {
    let idle = contract::engine_api::Activity {
        in_flight_turns: 0,
        open_streams: 0,
        last_activity_at: None,
        next_scheduled_at: None,
    };
    let mut body = json!(Health {
        status: profile.status,
        uptime_seconds: up.as_secs_f64(),
        subsystems: profile.subsystems.clone(),
        version: version_of(profile, image),
        schema_version: profile.schema_version,
        activity: profile.activity.clone().unwrap_or(idle),
        sandbox: SandboxReport { mode: "off".into(), layers: Vec::new() },
    });
    if let (None, Some(body)) = (&profile.activity, body.as_object_mut()) {
        body.remove("activity");
    }
    body
}

fn route(
    state: &mut State,
    id: EngineId,
    now: Instant,
    (method, path): (&str, &str),
    engine_key: &str,
    body: &[u8],
) -> Result<Value, ApiError> {
    let now = state.stamp(now);
    let gone = || ApiError::new(ErrorCode::NotFound, "no such path");
    let engine = state.engines.get_mut(&id).ok_or_else(gone)?;
    let (Some(object), Some(storage)) = (&engine.object, &mut engine.storage) else { return Err(gone()) };
    let env_hash = object.env.0.get(env::ENGINE_KEY_HASH).map(String::as_str).unwrap_or_default();
    check(env_hash, storage.rotation.as_ref(), engine_key, now)?;
    match (method, path) {
        ("GET", "/version") => Ok(json!({
            "name": "september-engine",
            "version": version_of(&engine.profile, &object.image),
            "schema_version": engine.profile.schema_version,
        })),
        ("POST", "/admin/rotate-key") => {
            let asked: RotateKeyRequest = serde_json::from_slice(body)
                .map_err(|_| ApiError::new(ErrorCode::InvalidRequest, "the body is not a rotation"))?;
            let hash = asked.new_key_hash.to_ascii_lowercase();
            if hash.len() != hash_of("").len() || !hash.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(ApiError::invalid_field("new_key_hash", "64 hex digits", Value::Null));
            }
            let longest = engine.profile.overlap_max;
            let overlap = asked
                .overlap_seconds
                .map_or(longest, |s| Duration::from_secs(u64::try_from(s).unwrap_or(0)).min(longest));
            let until = rotate(env_hash, &mut storage.rotation, &hash, overlap, now)?;
            Ok(json!(RotateKeyResponse { status: "rotated".into(), old_key_valid_until: until }))
        }
        ("POST", "/admin/backup") => {
            let asked: Value = serde_json::from_slice(body).unwrap_or_default();
            let name = asked["name"].as_str().unwrap_or("brain-simulated.sqlite").to_owned();
            let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
            if name.is_empty() || name.len() > 100 || name.starts_with('.') || !name.bytes().all(plain) {
                return Err(ApiError::invalid_field("name", "a file name of [A-Za-z0-9._-]", json!(name)));
            }
            let content = format!("brain of generation {}\n", storage.generation);
            let size = content.len();
            let path = format!("{}/{name}", crate::backup_path::BACKUPS);
            storage.files.insert(name, Bytes::from(content));
            Ok(json!({
                "status": "ok",
                "path": path,
                "size_bytes": size,
                "schema_version": engine.profile.schema_version,
                "verified": true,
            }))
        }
        _ => Err(gone()),
    }
}
