//! The API over its real router, on a real PostgreSQL and the simulated backend: the stage, and what every endpoint
//! owes its callers.

use crate::registry::Stage;
use axum::body::Body;
use chassis::drain::Drain;
use fleet::lifecycle::BackendKind;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt;
use orchestrator::http::{ApiSettings, App, public_router};
use serde_json::{Value, json};
use std::sync::Arc;
use tower::ServiceExt;

pub const ADMIN_KEY: &str = "an-admin-key-of-more-than-32-characters";

/// One replica with its API.
pub struct Api {
    pub app: Arc<App>,
    pub stage: Stage,
    pub replica: crate::replica::Replica,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
    pub json: Value,
}

impl Answer {
    /// The code of an error, or an empty text.
    pub fn code(&self) -> &str {
        self.json["error"]["code"].as_str().unwrap_or_default()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|v| v.to_str().ok())
    }
}

/// Who calls.
#[derive(Debug, Clone, Copy)]
pub enum Key<'a> {
    None,
    Platform(&'a str),
    Admin(&'a str),
}
