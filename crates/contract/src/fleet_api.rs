//! The requests and answers of the orchestrator's API, for the server and for its command line.
//!
//! Field names and their order are the wire form; `examples_in_this_specification_parse_and_match_the_types`
//! holds them to the specification, character for character. Status and operation are words, not enums: a
//! client of an older release must read the answers of a newer one.
//!
//! The one invariant: a key that is handed out is an [`IssuedKey`], which `Debug` never shows.

mod engines;
mod explain;
mod status;
mod audit;
mod products;

pub use audit::{AuditPage, AuditRecord};
pub use engines::{
    AdmitRefusal, AdmitRequest, AdmitResponse, DestroyResponse, EngineList, EngineRecord, ProvisionRequest,
    ProvisionResponse, RotateKeyResponse, SleepResponse, StartResponse, StopResponse,
};
pub use explain::{
    ExplainAdmission, ExplainBackend, ExplainHealth, ExplainReason, ExplainResponse, ExplainSleep,
};
pub use products::{
    DISPLAY_NAME_MAX, DeleteProductResponse, PLATFORM_KEY_OVERLAP_MAX_S, PolicyDocument, ProductDetail,
    ProductList, ProductRecord, RegisterRequest, RegisterResponse, RotatePlatformKeyRequest,
    RotatePlatformKeyResponse,
};
pub use status::{
    FleetHealth, HealthParts, HealthResponse, HealthWord, MetricsResponse, PartState, StatusCounts,
    StatusResponse,
};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;

/// Header that carries a product's key.
pub const PLATFORM_KEY_HEADER: &str = "x-platform-key";
/// Header that carries the operator's key.
pub const ADMIN_KEY_HEADER: &str = "x-admin-key";
/// Header that makes provisioning safe to send again.
pub const IDEMPOTENCY_HEADER: &str = "idempotency-key";
/// Longest idempotency key. Longer keys would make its index large; shorter refuses hashes and UUIDs in words.
pub const IDEMPOTENCY_KEY_MAX: usize = 128;
/// Longest image reference. The registry's column and every backend take this much.
pub const ENGINE_VERSION_MAX: usize = 255;

/// A key on its way to its owner: written to the wire, never to a log.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(transparent)]
pub struct IssuedKey(String);

impl IssuedKey {
    /// Wraps a key.
    pub fn new(key: impl Into<String>) -> Self {
        Self(key.into())
    }

    /// The key itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for IssuedKey {
    fn from(key: String) -> Self {
        Self(key)
    }
}

impl fmt::Debug for IssuedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// An error as it stands on the wire, for clients and for the OpenAPI document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ErrorBody {
    /// The error.
    pub error: ErrorFields,
}

/// What is said about an error.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ErrorFields {
    /// Stable; the codes are listed in the reference.
    pub code: String,
    /// For people; may change between releases.
    pub message: String,
    /// Structured facts, per code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<BTreeMap<String, Object>>)]
    pub details: Option<BTreeMap<String, Value>>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::de::DeserializeOwned;

    const ENGINE: &str = "3f2a9c1e-7b40-4c58-9d1a-0a6f5f0f2b11";

    /// Parses an example and writes it back: names, order and left-out fields must come out as they went in.
    fn same<T: Serialize + DeserializeOwned>(example: &str) {
        let text = example.replace("3f2a9c1e-…", ENGINE).replace('\n', "");
        let value: T = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!(serde_json::to_string(&value).expect("serialises"), text);
    }

    const RECORD: &str = r#"{"engine_id":"3f2a9c1e-…","user_id":"demo-user-001","status":"running","url":"http://engine-3f2a9c1e-7b4:8000","api_key":"sk-sept-…","engine_version":"september-engine:2.3.0","created_at":"2026-04-27T09:15:02.114Z","last_health_at":"2026-04-27T10:02:31.870Z","degraded":false,"operation":null}"#;

    #[test]
    fn examples_in_this_specification_parse_and_match_the_types() {
        same::<EngineRecord>(RECORD);
        same::<EngineRecord>(&RECORD.replace(r#""api_key":"sk-sept-…","#, ""));
        same::<ProvisionRequest>(r#"{"user_id":"demo-user-001"}"#);
        same::<ProvisionResponse>(
            r#"{"engine_id":"3f2a9c1e-…","user_id":"demo-user-001","status":"running","url":"http://engine-3f2a9c1e-7b4:8000","api_key":"sk-sept-…"}"#,
        );
        same::<AdmitRequest>(r#"{"auto_provision":true,"auto_wake":false}"#);
        same::<AdmitResponse>(&format!(
            r#"{{"admitted":true,"engine":{RECORD},"lease_expires_at":"2026-04-27T10:03:01.870Z"}}"#
        ));
        same::<AdmitResponse>(
            r#"{"admitted":false,"engine":null,"reason":"engine_sleeping","retry_after_ms":null}"#,
        );
        same::<AdmitResponse>(
            r#"{"admitted":false,"engine":null,"reason":"engine_unhealthy","retry_after_ms":9350}"#,
        );
        same::<StartResponse>(r#"{"status":"running","url":"http://engine-3f2a9c1e-7b4:8000"}"#);
        same::<StopResponse>(r#"{"status":"stopped","engine_id":"3f2a9c1e-…"}"#);
        same::<SleepResponse>(r#"{"status":"sleeping","engine_id":"3f2a9c1e-…"}"#);
        same::<RotateKeyResponse>(
            r#"{"engine_id":"3f2a9c1e-…","user_id":"demo-user-001","api_key":"sk-sept-…","overlap_seconds":300,"previous_key_valid_until":"2026-04-27T10:07:31.870Z"}"#,
        );
        same::<DestroyResponse>(r#"{"status":"destroyed","engine_id":"3f2a9c1e-…"}"#);
        same::<ExplainResponse>(
            r#"{"engine_id":"3f2a9c1e-…","user_id":"demo-user-001","status":"failed","desired":"running","status_since":"2026-04-27T10:00:11.000Z","operation":null,
"summary":"failed since 10:00:11: three probes timed out; restart 3 of 8 is due at 10:00:31",
"reasons":[{"at":"2026-04-27T10:00:11.000Z","what":"health_failed","because":"probe_timeout","audit_id":991}],
"health":{"failures":3,"healthy_streak":0,"last_health_at":"2026-04-27T09:58:40.120Z","degraded_subsystems":[],"restart_attempts":2,"restart_max_attempts":8,"next_restart_at":"2026-04-27T10:00:31.000Z"},
"sleep":{"idle_after_s":900,"idle_since":null,"blocked_by":["not_running"],"wake_at":null},
"backend":{"kind":"docker","object":"engine-3f2a9c1e-7b4","observed":"running","observed_at":"2026-04-27T10:00:20.001Z","generation":4,"drift":[]},
"admission":{"would_admit":false,"reason":"engine_unhealthy"}}"#,
        );
        same::<EngineList>(r#"{"engines":[],"total":247}"#);
        same::<StatusResponse>(
            r#"{"total":247,"by_status":{"provisioning":0,"running":240,"sleeping":4,"stopped":1,"failed":2,"destroying":0},"health":"degraded","unhealthy_count":2,"degraded_count":3}"#,
        );
        same::<MetricsResponse>(
            r#"{"provisions_1h":42,"crashes_1h":1,"restarts_1h":5,"avg_boot_ms":4350,"total_provisions":18047,"total_destroys":17800}"#,
        );
        same::<AuditPage>(
            &r#"{"entries":[{"id":991,"timestamp":"2026-04-27T10:00:11.000Z","product_id":"3f2a9c1e-…","user_id":"demo-user-001","engine_id":"3f2a9c1e-…","action":"wake","actor":"demo","metadata":{},"duration_ms":412}],"next_cursor":"991"}"#
                .replace("3f2a9c1e-…", ENGINE),
        );
        same::<RegisterRequest>(r#"{"slug":"demo","display_name":"Demo"}"#);
        same::<RegisterResponse>(
            r#"{"product_id":"3f2a9c1e-…","slug":"demo","platform_api_key":"pk-sept-…"}"#,
        );
        same::<PolicyDocument>(r#"{"policy":{"max_engines":1000,"rate_limit_rpm":600}}"#);
        same::<ProductList>(
            r#"{"products":[{"product_id":"3f2a9c1e-…","slug":"demo","display_name":"Demo","policy":{},"engines":247,"created_at":"2026-04-27T09:15:02.114Z"}],"next_cursor":null}"#,
        );
        same::<ProductDetail>(
            r#"{"product_id":"3f2a9c1e-…","slug":"demo","display_name":"Demo","policy":{},"engines":247,"created_at":"2026-04-27T09:15:02.114Z","previous_key_expires_at":null}"#,
        );
        same::<DeleteProductResponse>(r#"{"product_id":"3f2a9c1e-…","status":"deleted","engines_left":0}"#);
        same::<DeleteProductResponse>(r#"{"product_id":"3f2a9c1e-…","status":"deleting","engines_left":7}"#);
        same::<RotatePlatformKeyResponse>(
            r#"{"product_id":"3f2a9c1e-…","slug":"demo","platform_api_key":"pk-sept-…","previous_key_expires_at":"2026-04-27T10:07:31.870Z"}"#,
        );
        same::<HealthResponse>(r#"{"status":"ok"}"#);
        same::<HealthResponse>(
            r#"{"status":"degraded","subsystems":{"database":"ok","backend":"error","supervisor":"ok"}}"#,
        );
        same::<ErrorBody>(r#"{"error":{"code":"ENGINE_BUSY","message":"…","details":{}}}"#);
        same::<ErrorBody>(r#"{"error":{"code":"ENGINE_NOT_FOUND","message":"…"}}"#);
    }

    #[test]
    fn an_admission_without_engine_or_a_refusal_without_reason_is_not_believed() {
        for wrong in [r#"{"admitted":true,"engine":null}"#, r#"{"admitted":false,"engine":null}"#] {
            assert!(serde_json::from_str::<AdmitResponse>(wrong).is_err(), "{wrong}");
        }
        assert_eq!(
            serde_json::from_str::<AdmitRequest>("{}").expect("all optional"),
            AdmitRequest::default()
        );
    }

    #[test]
    fn an_issued_key_is_not_in_debug_output() {
        let text =
            format!("{:?}", serde_json::from_str::<EngineRecord>(&RECORD.replace("3f2a9c1e-…", ENGINE)));
        assert!(text.contains("[redacted]") && !text.contains("sk-sept"), "{text}");
    }
}
