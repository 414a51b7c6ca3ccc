//! What handlers share: where the Engine is in its life, and the core once the brain is open.

use crate::core::{Core, Pulse};
use crate::sandbox::Launcher;
use axum::Json;
use chassis::drain::Drain;
use chassis::http::KeyRing;
use chassis::telemetry::Metrics;
use contract::engine_api::SandboxReport;
use contract::{ApiError, ErrorCode};
use serde_json::{Value, json};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Instant;

/// Where the Engine is before the brain is open.
#[derive(Debug, Clone, PartialEq)]
pub enum Life {
    /// Opening, migrating.
    Starting,
    /// Another process holds the brain; its holder as JSON, when known.
    BrainLocked(Value),
    /// The schema differs; this process stays up to say so.
    MigrationRequired {
        /// upgrade or downgrade.
        direction: &'static str,
        /// What to do.
        message: String,
    },
    /// The brain is open.
    Ready,
}

/// State of all handlers.
pub struct App {
    /// Where the Engine is in its life.
    pub life: RwLock<Life>,
    /// The core; set once, when ready.
    pub core: OnceLock<Arc<Core>>,
    /// Accepted keys.
    pub keys: Arc<KeyRing>,
    /// Stopping.
    pub drain: Drain,
    /// Facts for /health.
    pub pulse: Arc<Pulse>,
    /// How children are confined.
    pub launcher: Arc<Launcher>,
    /// Renders /metrics.
    pub metrics: Metrics,
    /// Process start.
    pub started: Instant,
    /// ENGINE_MAX_BODY_BYTES.
    pub max_body: usize,
}

impl App {
    /// How children are confined, as far as it is known by now.
    pub fn sandbox(&self) -> SandboxReport {
        SandboxReport { mode: self.launcher.mode().as_str().to_owned(), layers: self.launcher.layers() }
    }

    /// Where the Engine is.
    pub fn life(&self) -> Life {
        self.life.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Moves on.
    pub fn set_life(&self, life: Life) {
        *self.life.write().unwrap_or_else(PoisonError::into_inner) = life;
    }

    /// Why no key can be judged yet, when that is so.
    pub fn not_ready(&self) -> Option<ApiError> {
        match self.life() {
            Life::Ready => None,
            Life::Starting => {
                Some(ApiError::new(ErrorCode::Starting, "the engine is starting; try again soon"))
            }
            Life::BrainLocked(holder) => Some(
                ApiError::new(ErrorCode::BrainLocked, "another process holds the brain; stop it first")
                    .with(json!({"holder": holder})),
            ),
            Life::MigrationRequired { direction, message } => Some(
                ApiError::new(ErrorCode::MigrationRequired, message).with(json!({"direction": direction})),
            ),
        }
    }

    /// The core, or why there is none yet.
    pub fn core(&self) -> Result<&Arc<Core>, ApiError> {
        self.core.get().ok_or_else(|| {
            self.not_ready().unwrap_or_else(|| ApiError::new(ErrorCode::Starting, "the engine is starting"))
        })
    }

    /// An answer about what is stored, without the secrets the Engine knows: a person may have typed one, or a memory
    /// may hold one that became a secret later. Nothing else is changed; it is the person's own.
    pub fn told(&self, mut answer: Value) -> Json<Value> {
        if let Some(core) = self.core.get() {
            crate::secrets::leaving::value(&core.known, &mut answer);
        }
        Json(answer)
    }

    /// The core for new work: refused while draining.
    pub fn core_for_work(&self) -> Result<&Arc<Core>, ApiError> {
        let core = self.core()?;
        if self.drain.is_draining() {
            return Err(ApiError::new(
                ErrorCode::Draining,
                "the engine is shutting down; try its successor soon",
            ));
        }
        Ok(core)
    }
}
