//! Requests and answers about products, for the operator.
//!
//! A platform key appears in the answers that made it and nowhere else.

use super::IssuedKey;
use crate::{ProductId, Slug, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Longest name of a product for people, in characters. Longer breaks every table it is shown in.
pub const DISPLAY_NAME_MAX: usize = 200;
/// Longest overlap of a rotated platform key: one week. Longer keeps leaked keys alive; shorter than a
/// weekend makes rotations need a night shift.
pub const PLATFORM_KEY_OVERLAP_MAX_S: u64 = 604_800;

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
