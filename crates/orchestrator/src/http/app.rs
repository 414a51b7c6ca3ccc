//! What handlers share: where the process is in its life, and the core once the database is known.
//!
//! An [`App`] exists from the moment the port is bound; [`App::serve`] gives it the core. The invariant: neither
//! serving nor draining is ever taken back.

use crate::config::Config;
use crate::core::Core;
use chassis::config::Secret;
use chassis::drain::Drain;
use contract::{FleetCode, FleetError};
use std::sync::{Arc, OnceLock};
use tokio_util::task::TaskTracker;

/// What is known before the database is.
#[derive(Debug, Clone)]
pub struct ApiSettings {
    /// `ORCH_ADMIN_KEY`.
    pub admin_key: Secret,
    /// `ORCH_ALLOWED_HOSTS`; empty = any.
    pub allowed_hosts: Vec<String>,
    /// `ORCH_READ_ONLY`.
    pub read_only: bool,
}

impl ApiSettings {
    /// The part of the configuration that the API needs.
    pub fn of(config: &Config) -> Self {
        Self {
            admin_key: config.admin_key.clone(),
            allowed_hosts: config.allowed_hosts.clone(),
            read_only: config.read_only,
        }
    }
}

/// State of all handlers.
pub struct App {
    /// What is known before the database is.
    pub settings: ApiSettings,
    /// Stopping.
    pub drain: Drain,
    /// Requests that change something, from the moment they are let in to their answer.
    pub accepted: TaskTracker,
    core: OnceLock<Arc<Core>>,
}

impl App {
    /// One that answers `STARTING`.
    pub fn new(settings: ApiSettings, drain: Drain) -> Arc<Self> {
        Arc::new(Self { settings, drain, accepted: TaskTracker::new(), core: OnceLock::new() })
    }

    /// From now on requests are served by this core; a second call changes nothing.
    pub fn serve(&self, core: Arc<Core>) {
        if self.core.set(core).is_err() {
            tracing::warn!("A second core was offered to the API and ignored");
        }
    }

    /// The core, once there is one.
    pub fn found(&self) -> Option<&Arc<Core>> {
        self.core.get()
    }

    /// The core, or why there is none yet.
    pub fn core(&self) -> Result<&Arc<Core>, FleetError> {
        self.core.get().ok_or_else(|| {
            FleetError::new(FleetCode::Starting, "the orchestrator is starting; try again soon")
                .retry_after(1)
        })
    }

    /// Is this replica going down?
    pub fn draining(&self) -> bool {
        self.drain.is_draining()
    }

    /// Why nothing may be changed now, if that is so.
    pub fn unchangeable(&self) -> Option<FleetError> {
        if self.draining() {
            let message = "this replica is going down; another one answers";
            return Some(FleetError::new(FleetCode::Draining, message).retry_after(1));
        }
        self.settings.read_only.then(|| {
            FleetError::new(
                FleetCode::ReadOnly,
                "this deployment only reads (ORCH_READ_ONLY); use the real one",
            )
        })
    }
}
