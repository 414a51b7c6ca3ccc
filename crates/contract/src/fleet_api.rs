//! The requests and answers of the orchestrator's API, for the server and for its command line.
//!
//! Field names and their order are the wire form; `examples_in_this_specification_parse_and_match_the_types`
//! holds them to the specification, character for character. Status and operation are words, not enums: a
//! client of an older release must read the answers of a newer one.
//!
//! The one invariant: a key that is handed out is an [`IssuedKey`], which `Debug` never shows.

use crate::{EngineId, ProductId, Slug, Timestamp, UserId};
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
/// Longest name of a product for people, in characters. Longer breaks every table it is shown in.
pub const DISPLAY_NAME_MAX: usize = 200;
/// Longest overlap of a rotated platform key: one week. Longer keeps leaked keys alive; shorter than a
/// weekend makes rotations need a night shift.
pub const PLATFORM_KEY_OVERLAP_MAX_S: u64 = 604_800;

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

/// One engine as its product sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct EngineRecord {
    /// Its id.
    pub engine_id: EngineId,
    /// For whom.
    pub user_id: UserId,
    /// provisioning, running, sleeping, stopped, failed or destroying.
    pub status: String,
    /// Where it serves; set in every status, so look at `status` first.
    pub url: String,
    /// The key for calls to it; absent in lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key: Option<IssuedKey>,
    /// Image in use.
    pub engine_version: String,
    /// When it was reserved.
    pub created_at: Timestamp,
    /// Last successful probe.
    pub last_health_at: Option<Timestamp>,
    /// It serves, but a subsystem of it has trouble.
    pub degraded: bool,
    /// Kind of the open operation.
    pub operation: Option<String>,
}

/// Body of POST /engines/provision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ProvisionRequest {
    /// For whom: 1..256 bytes, unique per product.
    pub user_id: UserId,
    /// Image; default `ORCH_ENGINE_IMAGE`. Must be allowed by the product's policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine_version: Option<String>,
}

/// Answer of POST /engines/provision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ProvisionResponse {
    /// Its id.
    pub engine_id: EngineId,
    /// For whom.
    pub user_id: UserId,
    /// `running`, unless an idempotent repeat finds it otherwise.
    pub status: String,
    /// Where it serves.
    pub url: String,
    /// The key for calls to it.
    pub api_key: IssuedKey,
}

/// Body of POST /engines/{user_id}/admit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default)]
pub struct AdmitRequest {
    /// Make an engine when there is none.
    pub auto_provision: bool,
    /// Wake it when it sleeps.
    pub auto_wake: bool,
}

/// Why a request is not admitted.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum AdmitRefusal {
    /// There is none, and `auto_provision` is false.
    EngineNotFound,
    /// It sleeps, and `auto_wake` is false.
    EngineSleeping,
    /// It was stopped by hand.
    EngineStopped,
    /// It failed.
    EngineUnhealthy,
    /// It is being removed.
    EngineDestroying,
}

impl AdmitRefusal {
    /// Every reason.
    pub const ALL: &'static [AdmitRefusal] = &[
        AdmitRefusal::EngineNotFound,
        AdmitRefusal::EngineSleeping,
        AdmitRefusal::EngineStopped,
        AdmitRefusal::EngineUnhealthy,
        AdmitRefusal::EngineDestroying,
    ];

    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            AdmitRefusal::EngineNotFound => "engine_not_found",
            AdmitRefusal::EngineSleeping => "engine_sleeping",
            AdmitRefusal::EngineStopped => "engine_stopped",
            AdmitRefusal::EngineUnhealthy => "engine_unhealthy",
            AdmitRefusal::EngineDestroying => "engine_destroying",
        }
    }
}

impl AdmitRefusal {
    /// Reads the word back.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|r| r.as_str() == word)
    }
}

impl fmt::Display for AdmitRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Answer of POST /engines/{user_id}/admit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "AdmitWire", try_from = "AdmitWire")]
pub enum AdmitResponse {
    /// The product begins its request to the engine before `lease_expires_at`.
    Admitted {
        /// All ten fields.
        engine: Box<EngineRecord>,
        /// Until then the engine is neither put to sleep nor replaced.
        lease_expires_at: Timestamp,
    },
    /// Nothing is promised.
    Refused {
        /// Why.
        reason: AdmitRefusal,
        /// When a repeat may succeed, if that is known.
        retry_after_ms: Option<u64>,
    },
}

impl AdmitResponse {
    /// Admitted: the engine with its key, and the end of its lease.
    pub fn admitted(engine: EngineRecord, lease_expires_at: Timestamp) -> Self {
        Self::Admitted { engine: Box::new(engine), lease_expires_at }
    }

    /// Refused, without an error.
    pub const fn refused(reason: AdmitRefusal, retry_after_ms: Option<u64>) -> Self {
        Self::Refused { reason, retry_after_ms }
    }
}

/// [`AdmitResponse`] as its fields stand on the wire.
#[derive(Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = AdmitResponse)]
struct AdmitWire {
    /// Whether the product may call the engine now.
    admitted: bool,
    /// The engine with its key; null when refused.
    engine: Option<EngineRecord>,
    /// Only when refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<AdmitRefusal>,
    /// Only when refused: when a repeat may succeed; null when that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    #[schema(value_type = Option<u64>)]
    retry_after_ms: Option<Option<u64>>,
    /// Only when admitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lease_expires_at: Option<Timestamp>,
}

/// Keeps a field that is null apart from one that is absent.
fn present<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Option<Option<u64>>, D::Error> {
    Option::<u64>::deserialize(d).map(Some)
}

impl From<AdmitResponse> for AdmitWire {
    fn from(answer: AdmitResponse) -> Self {
        match answer {
            AdmitResponse::Admitted { engine, lease_expires_at } => Self {
                admitted: true,
                engine: Some(*engine),
                reason: None,
                retry_after_ms: None,
                lease_expires_at: Some(lease_expires_at),
            },
            AdmitResponse::Refused { reason, retry_after_ms } => Self {
                admitted: false,
                engine: None,
                reason: Some(reason),
                retry_after_ms: Some(retry_after_ms),
                lease_expires_at: None,
            },
        }
    }
}

impl TryFrom<AdmitWire> for AdmitResponse {
    type Error = &'static str;

    fn try_from(wire: AdmitWire) -> Result<Self, &'static str> {
        match (wire.admitted, wire.engine, wire.lease_expires_at, wire.reason) {
            (true, Some(engine), Some(lease_expires_at), _) => {
                Ok(Self::Admitted { engine: Box::new(engine), lease_expires_at })
            }
            (false, _, _, Some(reason)) => {
                Ok(Self::Refused { reason, retry_after_ms: wire.retry_after_ms.flatten() })
            }
            (true, ..) => Err("an admission names its engine and the end of its lease"),
            (false, ..) => Err("a refusal names its reason"),
        }
    }
}

impl utoipa::PartialSchema for AdmitResponse {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        AdmitWire::schema()
    }
}

impl utoipa::ToSchema for AdmitResponse {}

/// Answer of POST /engines/{user_id}/start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct StartResponse {
    /// `running`.
    pub status: String,
    /// Where it serves.
    pub url: String,
}

/// Answer of POST /engines/{user_id}/stop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct StopResponse {
    /// `stopped`.
    pub status: String,
    /// Its id.
    pub engine_id: EngineId,
}

/// Answer of POST /engines/{user_id}/sleep.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct SleepResponse {
    /// `sleeping`.
    pub status: String,
    /// Its id.
    pub engine_id: EngineId,
}

/// Answer of POST /engines/{user_id}/rotate-key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct RotateKeyResponse {
    /// Its id.
    pub engine_id: EngineId,
    /// For whom.
    pub user_id: UserId,
    /// The new key.
    pub api_key: IssuedKey,
    /// For how long the engine takes the previous key, too.
    pub overlap_seconds: u64,
    /// The end of that window.
    pub previous_key_valid_until: Timestamp,
}

/// Answer of DELETE /engines/{user_id}.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct DestroyResponse {
    /// `destroyed`.
    pub status: String,
    /// The id it had.
    pub engine_id: EngineId,
}

/// Answer of GET /engines/{user_id}/explain: why the engine is as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ExplainResponse {
    /// Its id.
    pub engine_id: EngineId,
    /// For whom.
    pub user_id: UserId,
    /// Last confirmed status.
    pub status: String,
    /// What it should be: running, sleeping, stopped or destroyed.
    pub desired: String,
    /// When `status` last changed.
    pub status_since: Timestamp,
    /// Kind of the open operation.
    pub operation: Option<String>,
    /// One sentence.
    pub summary: String,
    /// The last 20 rows of the log about it, newest first.
    pub reasons: Vec<ExplainReason>,
    /// Probes and restarts.
    pub health: ExplainHealth,
    /// Why it does or does not go to sleep.
    pub sleep: ExplainSleep,
    /// What the backend shows.
    pub backend: ExplainBackend,
    /// What admit would answer.
    pub admission: ExplainAdmission,
}

/// One clause of an explanation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ExplainReason {
    /// When it happened.
    pub at: Timestamp,
    /// Action of the audit row.
    pub what: String,
    /// Its reason, when the row has one.
    pub because: Option<String>,
    /// The row.
    pub audit_id: i64,
}

/// Probes and restarts of an engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ExplainHealth {
    /// Consecutive failed probes.
    pub failures: i64,
    /// Consecutive healthy probes.
    pub healthy_streak: i64,
    /// Last successful probe.
    pub last_health_at: Option<Timestamp>,
    /// Subsystems that report trouble.
    pub degraded_subsystems: Vec<String>,
    /// Restarts since the last good stretch.
    pub restart_attempts: i64,
    /// After that many it is given up.
    pub restart_max_attempts: i64,
    /// The next one; null when none is due.
    pub next_restart_at: Option<Timestamp>,
}

/// Sleep of an engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ExplainSleep {
    /// Idle time before sleep; 0 = never.
    pub idle_after_s: u64,
    /// Since when it is idle; null when it is not, or not running.
    pub idle_since: Option<Timestamp>,
    /// What keeps it from sleeping.
    pub blocked_by: Vec<String>,
    /// When it must be awake for its own schedule.
    pub wake_at: Option<Timestamp>,
}

/// The backend object of an engine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ExplainBackend {
    /// docker, subprocess, kubernetes or simulated.
    pub kind: String,
    /// Name of the object.
    pub object: String,
    /// What was last seen; null when nothing was.
    pub observed: Option<String>,
    /// When that was.
    pub observed_at: Option<Timestamp>,
    /// Writer generation on record.
    pub generation: i64,
    /// Fields in which the object differs from what would be made now.
    pub drift: Vec<String>,
}

/// What admit would answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ExplainAdmission {
    /// True: admitted without provisioning or waking.
    pub would_admit: bool,
    /// Why not.
    pub reason: Option<String>,
}

/// Answer of GET /engines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct EngineList {
    /// Records without keys, oldest first.
    pub engines: Vec<EngineRecord>,
    /// How many the filter matches.
    pub total: i64,
}

/// Engines per status.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct StatusCounts {
    /// A boot is in progress.
    pub provisioning: i64,
    /// Serving.
    pub running: i64,
    /// Asleep.
    pub sleeping: i64,
    /// Stopped by hand.
    pub stopped: i64,
    /// Not serving.
    pub failed: i64,
    /// Being removed.
    pub destroying: i64,
}

/// How a product's fleet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum FleetHealth {
    /// No engine failed.
    Ok,
    /// Some failed.
    Degraded,
    /// At least a quarter, and at least two.
    Critical,
}

/// Answer of GET /status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct StatusResponse {
    /// All engines.
    pub total: i64,
    /// The same by status.
    pub by_status: StatusCounts,
    /// In one word.
    pub health: FleetHealth,
    /// Failed ones.
    pub unhealthy_count: i64,
    /// Serving ones with trouble in a subsystem.
    pub degraded_count: i64,
}

/// Answer of GET /metrics.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct MetricsResponse {
    /// First boots of the last hour.
    pub provisions_1h: i64,
    /// Engines that became failed in the last hour.
    pub crashes_1h: i64,
    /// Automatic restarts of the last hour.
    pub restarts_1h: i64,
    /// Mean of the last 100 first boots; null before the first.
    pub avg_boot_ms: Option<i64>,
    /// First boots, ever.
    pub total_provisions: i64,
    /// Removals, ever.
    pub total_destroys: i64,
}

/// One row of the audit log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AuditRecord {
    /// Grows with time.
    pub id: i64,
    /// When the action started.
    pub timestamp: Timestamp,
    /// Whose; null for system-level rows.
    pub product_id: Option<ProductId>,
    /// For whom.
    pub user_id: Option<String>,
    /// On which engine; null for product-level rows.
    pub engine_id: Option<EngineId>,
    /// What.
    pub action: String,
    /// `system`, a product's slug, or `admin`.
    pub actor: String,
    /// Facts, shaped by the action.
    #[schema(value_type = Object)]
    pub metadata: Value,
    /// How long it took; null for actions without duration.
    pub duration_ms: Option<i64>,
}

/// Answer of GET /audit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AuditPage {
    /// Newest first.
    pub entries: Vec<AuditRecord>,
    /// `cursor` of the next page; null at the end.
    pub next_cursor: Option<String>,
}

/// Body of POST /products/register.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct RegisterRequest {
    /// Unique short name.
    pub slug: Slug,
    /// 1..200 characters, for people.
    pub display_name: String,
    /// Policy; default `{}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub policy: Option<Value>,
}

/// Answer of POST /products/register.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct RegisterResponse {
    /// Its id.
    pub product_id: ProductId,
    /// Its short name.
    pub slug: Slug,
    /// Shown here only.
    pub platform_api_key: IssuedKey,
}

/// Body and answer of PUT /products/{product}/policy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct PolicyDocument {
    /// The whole policy.
    #[schema(value_type = Object)]
    pub policy: Value,
}

/// One product.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ProductRecord {
    /// Its id.
    pub product_id: ProductId,
    /// Its short name.
    pub slug: Slug,
    /// For people.
    pub display_name: String,
    /// The whole policy.
    #[schema(value_type = Object)]
    pub policy: Value,
    /// How many engines it has.
    pub engines: i64,
    /// When it was registered.
    pub created_at: Timestamp,
}

/// Answer of GET /products/{product}.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ProductDetail {
    /// As in the list.
    #[serde(flatten)]
    pub product: ProductRecord,
    /// Until when the previous platform key works; null when none does.
    pub previous_key_expires_at: Option<Timestamp>,
}

/// Answer of GET /products.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ProductList {
    /// Oldest first.
    pub products: Vec<ProductRecord>,
    /// `cursor` of the next page; null at the end.
    pub next_cursor: Option<String>,
}

/// Answer of DELETE /products/{product}.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct DeleteProductResponse {
    /// The id it had.
    pub product_id: ProductId,
    /// `deleted`, or `deleting` while engines are left.
    pub status: String,
    /// How many are left.
    pub engines_left: i64,
}

/// Body of POST /products/{product}/rotate-platform-key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct RotatePlatformKeyRequest {
    /// 0..604800; default `ORCH_PLATFORM_KEY_OVERLAP_S`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlap_seconds: Option<u64>,
}

/// Answer of POST /products/{product}/rotate-platform-key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct RotatePlatformKeyResponse {
    /// Its id.
    pub product_id: ProductId,
    /// Its short name.
    pub slug: Slug,
    /// Shown here only.
    pub platform_api_key: IssuedKey,
    /// Until when the previous key works; null when it does not.
    pub previous_key_expires_at: Option<Timestamp>,
}

/// How the orchestrator is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum HealthWord {
    /// Everything works.
    Ok,
    /// It answers; the backend or the supervisor does not.
    Degraded,
    /// Booting or migrating.
    Starting,
    /// Going down.
    Draining,
    /// The database cannot be reached.
    Error,
}

/// How one part of it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum PartState {
    /// It works.
    Ok,
    /// It does not.
    Error,
}

/// The parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct HealthParts {
    /// Postgres answers and its schema is the program's.
    pub database: PartState,
    /// The backend answers.
    pub backend: PartState,
    /// Some replica holds the supervisor lease.
    pub supervisor: PartState,
}

/// Answer of GET /health: exactly `{"status":"ok"}` when all is well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct HealthResponse {
    /// In one word.
    pub status: HealthWord,
    /// Absent when the word is `ok`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subsystems: Option<HealthParts>,
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
