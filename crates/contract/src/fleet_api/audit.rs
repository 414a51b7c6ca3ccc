//! The audit log as it is read.
//!
//! Rows are told as they were written; the action is a word, so that a client of an older release reads newer rows.

use crate::{EngineId, ProductId, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;

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
