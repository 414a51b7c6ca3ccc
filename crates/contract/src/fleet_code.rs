//! Every public error code of the orchestrator, once, and the nested error body it answers with.
//!
//! The Engine's codes are another list ([`crate::ErrorCode`]): some words occur in both with another meaning
//! (`ENGINE_BUSY` is 409 here and 503 there), so the two are never mixed.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::fmt;

macro_rules! codes {
    ($($variant:ident = $name:literal, $status:literal, $cause:literal, $client:literal, $retry:literal;)*) => {
        /// A stable error code of the orchestrator's API.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema)]
        pub enum FleetCode {
            $(#[doc = $cause] #[serde(rename = $name)] $variant,)*
        }

        impl FleetCode {
            /// Every code, in the order of the reference page.
            pub const ALL: &'static [FleetCode] = &[$(FleetCode::$variant),*];

            /// The code on the wire.
            pub const fn as_str(self) -> &'static str {
                match self { $(FleetCode::$variant => $name),* }
            }

            /// Its HTTP status.
            pub const fn status(self) -> u16 {
                match self { $(FleetCode::$variant => $status),* }
            }

            /// What causes it, for the reference page.
            pub const fn cause(self) -> &'static str {
                match self { $(FleetCode::$variant => $cause),* }
            }

            /// What the caller does, for the reference page.
            pub const fn caller(self) -> &'static str {
                match self { $(FleetCode::$variant => $client),* }
            }

            /// Whether repeating the same call can help: `no`, `yes`, `later`, `once`, `if retrying`.
            pub const fn retry(self) -> &'static str {
                match self { $(FleetCode::$variant => $retry),* }
            }
        }
    };
}

codes! {
    InvalidRequest = "INVALID_REQUEST", 400, "Malformed JSON, missing or invalid field, unrecognised policy key, host not allowed.", "Fix the request.", "no";
    InvalidPlatformKey = "INVALID_PLATFORM_KEY", 401, "Header missing, no such key, overlap over, product deleted.", "Fix the key.", "no";
    InvalidAdminKey = "INVALID_ADMIN_KEY", 401, "Admin call without or with a wrong `X-Admin-Key`.", "Fix the key.", "no";
    PolicyDenied = "POLICY_DENIED", 403, "Version not allowed, product being deleted, cross-origin request.", "Check the policy.", "no";
    ProductNotFound = "PRODUCT_NOT_FOUND", 404, "No such product id or slug.", "Register.", "no";
    EngineNotFound = "ENGINE_NOT_FOUND", 404, "No engine for this `user_id` in this product.", "Provision or `auto_provision`.", "no";
    RouteNotFound = "ROUTE_NOT_FOUND", 404, "No such path.", "Fix the path.", "no";
    MethodNotAllowed = "METHOD_NOT_ALLOWED", 405, "Path exists, method does not.", "See `Allow`.", "no";
    ProductSlugExists = "PRODUCT_SLUG_EXISTS", 409, "Slug taken.", "Other slug.", "no";
    ProductNotEmpty = "PRODUCT_NOT_EMPTY", 409, "Product still has engines.", "Destroy them or `destroy_engines=true`.", "no";
    EngineAlreadyExists = "ENGINE_ALREADY_EXISTS", 409, "Provision for a user who has an engine, in any state.", "Use admit.", "no";
    EngineNotRunning = "ENGINE_NOT_RUNNING", 409, "Stop, sleep or rotate-key in a state that forbids it.", "Start first or skip.", "no";
    EngineAlreadyRunning = "ENGINE_ALREADY_RUNNING", 409, "Start when running.", "Ignore.", "no";
    EngineBusy = "ENGINE_BUSY", 409, "Another operation that cannot be joined, or admitted work in progress.", "Wait `Retry-After`.", "yes";
    QuotaExceeded = "QUOTA_EXCEEDED", 429, "At `max_engines`.", "Destroy some or raise it.", "later";
    RateLimited = "RATE_LIMITED", 429, "Over `rate_limit_rpm`.", "Wait `Retry-After`.", "yes";
    Internal = "INTERNAL", 500, "A defect or an impossible state.", "Report `request_id`.", "once";
    BackendError = "BACKEND_ERROR", 502, "Docker, Kubernetes or an engine call failed for good or is unreachable; `details.retrying`, `details.operation_id`.", "See details.", "if retrying";
    PortExhaustion = "PORT_EXHAUSTION", 503, "No free port in the range.", "Raise `ORCH_PORT_MAX`.", "later";
    CapacityExhausted = "CAPACITY_EXHAUSTED", 503, "Start queue or waiter limit full, network or node full.", "Wait `Retry-After`.", "yes";
    Starting = "STARTING", 503, "Orchestrator booting or migrating.", "Wait.", "yes";
    Draining = "DRAINING", 503, "This replica is going down.", "Retry, another replica answers.", "yes";
    DatabaseUnavailable = "DATABASE_UNAVAILABLE", 503, "Postgres cannot be reached.", "Wait.", "yes";
    ReadOnly = "READ_ONLY", 503, "`ORCH_READ_ONLY=true` and the call would change something.", "Use the real deployment.", "no";
    BootTimeout = "BOOT_TIMEOUT", 504, "Engine not healthy within `ORCH_BOOT_TIMEOUT_S`.", "Check engine logs, `explain`.", "yes";
}

impl FleetCode {
    /// Reads the wire form back.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|c| c.as_str() == text)
    }
}

impl fmt::Display for FleetCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An error of the orchestrator. On the wire `{"error":{"code","message","details"?}}`, and a `Retry-After`
/// header of `retry_after_s` seconds when that is known.
#[derive(Debug, Clone, PartialEq)]
pub struct FleetError {
    /// Stable code.
    pub code: FleetCode,
    /// For people; may change between releases. Never contains a secret.
    pub message: String,
    /// Structured facts, per code; always a JSON object when present.
    pub details: Option<Value>,
    /// Whole seconds, at least 1, after which a repeat makes sense; `None` leaves it to the status.
    pub retry_after_s: Option<u64>,
}

impl FleetError {
    /// An error without details.
    pub fn new(code: FleetCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: None, retry_after_s: None }
    }

    /// Replaces the structured facts.
    #[must_use]
    pub fn with(mut self, details: Value) -> Self {
        self.details = Some(details);
        self
    }

    /// Says after how many seconds a repeat makes sense (at least 1).
    #[must_use]
    pub fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after_s = Some(seconds.max(1));
        self
    }

    /// 400 that names one field and its problem.
    pub fn invalid_field(field: &str, problem: &str) -> Self {
        Self::new(FleetCode::InvalidRequest, format!("field `{field}`: {problem}"))
            .with(json!({"fields": [{"field": field, "problem": problem}]}))
    }

    /// The body on the wire.
    pub fn body(&self) -> Value {
        let mut error = json!({"code": self.code, "message": self.message});
        if let Some(details) = &self.details {
            error["details"] = details.clone();
        }
        json!({"error": error})
    }
}

impl fmt::Display for FleetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for FleetError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_reads_back_and_has_an_error_status() {
        assert_eq!(FleetCode::ALL.len(), 25);
        for &code in FleetCode::ALL {
            assert_eq!(FleetCode::parse(code.as_str()), Some(code));
            assert!((400..600).contains(&code.status()), "{code}");
        }
    }

    #[test]
    fn the_error_body_is_nested_and_omits_absent_details() {
        let error = FleetError::new(FleetCode::EngineNotFound, "no engine");
        assert_eq!(error.body(), json!({"error": {"code": "ENGINE_NOT_FOUND", "message": "no engine"}}));
        let error = FleetError::invalid_field("user_id", "required");
        assert_eq!(
            error.body()["error"]["details"],
            json!({"fields": [{"field": "user_id", "problem": "required"}]})
        );
    }
}
