//! Requests and answers about one engine, and the list of them.
//!
//! An answer of admit is either an admission or a refusal: what mixes the two is refused on reading.

use super::IssuedKey;
use crate::{EngineId, Timestamp, UserId};
use serde::{Deserialize, Serialize};
use std::fmt;

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

/// Answer of GET /engines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct EngineList {
    /// Records without keys, oldest first.
    pub engines: Vec<EngineRecord>,
    /// How many the filter matches.
    pub total: i64,
}
