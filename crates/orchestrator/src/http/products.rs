//! Endpoints 15–20: products, by the operator. Keys are made here, shown once, and stored as hashes.

use super::answer::Answer;
use super::app::App;
use super::auth::Admin;
use super::fields::{Fields, Query, percent_decoded, text, whole};
use crate::keys;
use crate::registry::ProductRef;
use crate::registry::rows::{AuditEntry, Product};
use axum::Json;
use axum::body::Body;
use axum::extract::{FromRequestParts, State};
use contract::fleet_api::{
    DISPLAY_NAME_MAX, DeleteProductResponse, IssuedKey, PLATFORM_KEY_OVERLAP_MAX_S, PolicyDocument,
    ProductDetail, ProductList, ProductRecord, RegisterResponse, RotatePlatformKeyResponse,
};
use contract::{FleetCode, FleetError, ProductId, Slug, Timestamp};
use fleet::audit::AuditAction;
use fleet::policy::Policy;
use http::request::Parts;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// Who is written into the log for everything here.
const ACTOR: &str = "admin";

/// The product named in a path, by id or slug.
pub struct Named(pub ProductRef);

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = super::answer::Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        let segment = parts.uri.path().split('/').nth(2).unwrap_or_default();
        let name = percent_decoded(segment).ok_or_else(no_product)?;
        Ok(Self(reference(&name)?))
    }
}

/// What a name refers to; a text that is neither id nor slug is nobody's.
pub(super) fn reference(name: &str) -> Result<ProductRef, FleetError> {
    if let Ok(id) = ProductId::parse(name) {
        return Ok(ProductRef::Id(id));
    }
    Slug::parse(name).map(ProductRef::Slug).map_err(|_| no_product())
}

pub(super) fn no_product() -> FleetError {
    FleetError::new(FleetCode::ProductNotFound, "there is no product of this id or slug")
}

/// 15: a new product and its key.
pub async fn register(State(app): State<Arc<App>>, admin: Admin, body: Body) -> Answer<RegisterResponse> {
    let mut fields = Fields::read(body).await?;
    let slug = fields.required("slug", |v| Slug::parse(text(v)?).map_err(|e| e.expected));
    let name = fields.required("display_name", display_name);
    let policy = fields.optional("policy", object).map(|p| p.unwrap_or_else(|| json!({})));
    check_policy(policy.as_ref(), &mut fields);
    let ((slug, name), policy) = fields.finish(slug.zip(name).zip(policy))?;

    let key = keys::new_platform_key();
    let hash = keys::hash_hex(key.expose());
    let audit = entry(
        AuditAction::PolicyRegister,
        json!({"slug": slug, "policy": policy, "request_id": admin.request_id}),
    );
    let core = Arc::clone(app.core()?);
    let registered = core
        .to_the_end({
            let (core, slug) = (Arc::clone(&core), slug.clone());
            async move { Ok(core.registry.register(&slug, &name, &hash, &policy, audit).await?) }
        })
        .await?;
    let product = registered.ok_or_else(|| {
        FleetError::new(FleetCode::ProductSlugExists, format!("the slug {} is taken", slug.as_str()))
    })?;
    tracing::info!(product_id = %product.id, product = product.slug.as_str(), action = "policy_register", "Product registered");
    Ok(Json(RegisterResponse {
        product_id: product.id,
        slug: product.slug,
        platform_api_key: IssuedKey::new(key.expose()),
    }))
}

/// 16: another policy, from the next request on.
pub async fn set_policy(
    State(app): State<Arc<App>>,
    admin: Admin,
    Named(named): Named,
    body: Body,
) -> Answer<PolicyDocument> {
    let mut fields = Fields::read(body).await?;
    let policy = fields.required("policy", object);
    check_policy(policy.as_ref(), &mut fields);
    let policy = fields.finish(policy)?;
    let core = Arc::clone(app.core()?);
    let product = core.registry.product(&named).await?.ok_or_else(no_product)?;
    let audit = entry(AuditAction::PolicyUpdate, json!({"request_id": admin.request_id}));
    let changed = core
        .to_the_end({
            let (core, policy) = (Arc::clone(&core), policy.clone());
            async move { Ok(core.registry.set_policy(product.id, &policy, audit).await?) }
        })
        .await?;
    let product = changed.ok_or_else(no_product)?;
    core.rates.reset(product.id);
    tracing::info!(product_id = %product.id, product = product.slug.as_str(), action = "policy_update", "Policy replaced");
    Ok(Json(PolicyDocument { policy: product.policy }))
}

/// 17: the list.
pub async fn list(State(app): State<Arc<App>>, _: Admin, mut query: Query) -> Answer<ProductList> {
    let limit = query.limit();
    let cursor = query.optional("cursor", cursor);
    let (limit, after) = query.finish(limit.zip(cursor))?;
    // One more than asked for tells whether there is a next page.
    let mut found = app.core()?.registry.products(limit + 1, after).await?;
    let wanted = usize::try_from(limit).unwrap_or(usize::MAX);
    let more = found.len() > wanted;
    found.truncate(wanted);
    let next_cursor =
        found.last().filter(|_| more).map(|(last, _)| format!("{}.{}", last.created_at.millis(), last.id));
    let products = found.into_iter().map(|(product, engines)| record(product, engines)).collect();
    Ok(Json(ProductList { products, next_cursor }))
}

/// 18: one.
pub async fn get(State(app): State<Arc<App>>, _: Admin, Named(named): Named) -> Answer<ProductDetail> {
    let registry = &app.core()?.registry;
    let product = registry.product(&named).await?.ok_or_else(no_product)?;
    let engines = registry.count_engines(product.id).await?;
    let previous_key_expires_at = product.previous_key_expires_at;
    Ok(Json(ProductDetail { product: record(product, engines), previous_key_expires_at }))
}

/// 19: removal.
pub async fn delete(
    State(app): State<Arc<App>>,
    admin: Admin,
    Named(named): Named,
    mut query: Query,
) -> Answer<DeleteProductResponse> {
    let destroy = query.optional("destroy_engines", |text| match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err("expected true or false"),
    });
    let destroy = query.finish(destroy)?.unwrap_or(false);
    let core = app.core()?;
    let product = core.registry.product(&named).await?.ok_or_else(no_product)?;
    Ok(Json(core.delete_product(&product, destroy, &admin.request_id).await?))
}

/// 20: another platform key.
pub async fn rotate_key(
    State(app): State<Arc<App>>,
    admin: Admin,
    Named(named): Named,
    body: Body,
) -> Answer<RotatePlatformKeyResponse> {
    let mut fields = Fields::read(body).await?;
    let overlap = fields.optional("overlap_seconds", |v| whole(v, 0, PLATFORM_KEY_OVERLAP_MAX_S));
    let overlap = fields.finish(overlap)?.map(Duration::from_secs);
    let core = Arc::clone(app.core()?);
    let overlap = overlap.unwrap_or(core.config.platform_key_overlap_s);
    let product = core.registry.product(&named).await?.ok_or_else(no_product)?;

    let key = keys::new_platform_key();
    let hash = keys::hash_hex(key.expose());
    let audit = entry(
        AuditAction::RotatePlatformKey,
        json!({"overlap_s": overlap.as_secs(), "request_id": admin.request_id}),
    );
    let rotated = core
        .to_the_end({
            let core = Arc::clone(&core);
            async move { Ok(core.registry.rotate_platform_key(product.id, &hash, overlap, audit).await?) }
        })
        .await?;
    let previous_key_expires_at = rotated.ok_or_else(no_product)?;
    tracing::info!(product_id = %product.id, product = product.slug.as_str(), action = "rotate_platform_key", "Platform key rotated");
    Ok(Json(RotatePlatformKeyResponse {
        product_id: product.id,
        slug: product.slug,
        platform_api_key: IssuedKey::new(key.expose()),
        previous_key_expires_at,
    }))
}

fn record(product: Product, engines: i64) -> ProductRecord {
    ProductRecord {
        product_id: product.id,
        slug: product.slug,
        display_name: product.display_name,
        policy: product.policy,
        engines,
        created_at: product.created_at,
    }
}

fn entry(action: AuditAction, metadata: Value) -> AuditEntry {
    AuditEntry {
        started_at: None,
        product_id: None,
        user_id: None,
        engine_id: None,
        action,
        actor: ACTOR.to_owned(),
        metadata,
        has_duration: false,
    }
}

fn display_name(value: &Value) -> Result<String, &'static str> {
    const EXPECTED: &str = "expected 1..200 characters without control characters";
    let name = text(value)?;
    let fits = (1..=DISPLAY_NAME_MAX).contains(&name.chars().count());
    let shown = !name.trim().is_empty() && !name.chars().any(char::is_control);
    if fits && shown { Ok(name.to_owned()) } else { Err(EXPECTED) }
}

/// An object; absent counts as an empty one.
fn object(value: &Value) -> Result<Value, &'static str> {
    if value.is_object() { Ok(value.clone()) } else { Err("expected an object") }
}

fn check_policy(policy: Option<&Value>, fields: &mut Fields) {
    if let Some(Err(problems)) = policy.map(Policy::parse) {
        for problem in problems {
            fields.problem(&problem.field, problem.problem);
        }
    }
}

fn cursor(text: &str) -> Result<(Timestamp, ProductId), &'static str> {
    const EXPECTED: &str = "expected next_cursor of an answer";
    let (millis, id) = text.split_once('.').ok_or(EXPECTED)?;
    let millis = millis.parse().map_err(|_| EXPECTED)?;
    let id = ProductId::parse(id).map_err(|_| EXPECTED)?;
    Ok((Timestamp::from_millis(millis), id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_product_is_named_by_id_or_slug_and_nothing_else() {
        assert_eq!(reference("demo"), Ok(ProductRef::Slug(Slug::parse("demo").expect("is a slug"))));
        let id = ProductId::generate();
        assert_eq!(reference(&id.to_string()), Ok(ProductRef::Id(id)));
        for wrong in ["", "Demo", "a b", "../x", "ü"] {
            assert_eq!(reference(wrong).map_err(|e| e.code), Err(FleetCode::ProductNotFound), "{wrong:?}");
        }
    }

    #[test]
    fn names_for_people_are_shown_in_one_line() {
        assert!(display_name(&json!("Démo 1")).is_ok());
        assert!(display_name(&json!("ü".repeat(200))).is_ok());
        for wrong in [json!(""), json!("   "), json!("a\nb"), json!("x".repeat(201)), json!(1)] {
            assert!(display_name(&wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_cursor_reads_back_and_anything_else_is_refused() {
        let id = ProductId::generate();
        assert_eq!(cursor(&format!("12.{id}")), Ok((Timestamp::from_millis(12), id)));
        for wrong in ["", "12", "x.y", "12.", ".", "12.demo"] {
            assert!(cursor(wrong).is_err(), "{wrong}");
        }
    }
}
