//! GET /audit: rows of the log, newest first, of the own product or, for the operator, of all.

use super::answer::Answer;
use super::app::App;
use super::auth::Reader;
use super::fields::Query;
use super::products::{no_product, reference};
use crate::registry::AuditFilter;
use crate::registry::Registry;
use crate::registry::rows::{AuditRow, Product};
use axum::Json;
use axum::extract::State;
use contract::fleet_api::{AuditPage, AuditRecord};
use contract::{EngineId, FleetError, ProductId, Timestamp, UserId};
use fleet::audit::AuditAction;
use std::sync::Arc;

/// What is asked for.
struct Asked {
    filter: AuditFilter,
    product: Option<String>,
    limit: i64,
    before: Option<i64>,
}

/// 14: one page.
pub async fn page(State(app): State<Arc<App>>, reader: Reader, query: Query) -> Answer<AuditPage> {
    let asked = read(query)?;
    let registry = &app.core()?.registry;
    let product = scope(registry, &reader, asked.product.as_deref()).await?;
    let filter = AuditFilter { product, ..asked.filter };
    // One row more than asked for tells whether there is a next page.
    let mut rows = registry.audit(&filter, asked.limit + 1, asked.before).await?;
    let wanted = usize::try_from(asked.limit).unwrap_or(usize::MAX);
    let more = rows.len() > wanted;
    rows.truncate(wanted);
    let next_cursor = rows.last().filter(|_| more).map(|last| last.id.to_string());
    Ok(Json(AuditPage { entries: rows.into_iter().map(record).collect(), next_cursor }))
}

/// Whose rows: the operator's choice, or always the caller's own.
async fn scope(
    registry: &Registry,
    reader: &Reader,
    product: Option<&str>,
) -> Result<Option<ProductId>, FleetError> {
    match (reader, product) {
        (Reader::Admin, None) => Ok(None),
        (Reader::Admin, Some(named)) => {
            let found = registry.product(&reference(named)?).await?.ok_or_else(no_product)?;
            Ok(Some(found.id))
        }
        (Reader::Product(caller), None) => Ok(Some(caller.product.id)),
        (Reader::Product(caller), Some(named)) if is_named(&caller.product, named) => {
            Ok(Some(caller.product.id))
        }
        (Reader::Product(_), Some(_)) => Err(no_product()),
    }
}

fn is_named(product: &Product, named: &str) -> bool {
    product.slug.as_str() == named || product.id.to_string() == named
}

fn read(mut query: Query) -> Result<Asked, FleetError> {
    let engine = query.optional("engine", |t| EngineId::parse(t).map_err(|e| e.expected));
    let user = query.optional("user", |t| UserId::parse(t).map_err(|e| e.expected));
    let since = query.optional("since", time);
    let until = query.optional("until", time);
    let product = query.optional("product", |t| Ok::<_, &str>(t.to_owned()));
    let before =
        query.optional("cursor", |t| t.parse::<i64>().map_err(|_| "expected next_cursor of an answer"));
    let limit = query.limit();
    let mut actions = Vec::new();
    for word in query.all("action") {
        match AuditAction::parse(&word) {
            Some(action) => actions.push(action),
            None => query.problem("action", "expected an action of the audit log"),
        }
    }
    let values = engine.zip(user).zip(since.zip(until)).zip(product.zip(before)).zip(limit);
    let ((((engine, user), (since, until)), (product, before)), limit) = query.finish(values)?;
    let filter = AuditFilter { product: None, user, engine, actions, since, until };
    Ok(Asked { filter, product, limit, before })
}

fn time(text: &str) -> Result<Timestamp, &'static str> {
    // A plus sign of an offset arrives as a blank when it was not encoded.
    Timestamp::parse(&text.replace(' ', "+"))
        .ok_or("expected an ISO-8601 time with offset, e.g. 2026-04-27T10:00:00Z")
}

fn record(row: AuditRow) -> AuditRecord {
    AuditRecord {
        id: row.id,
        timestamp: row.timestamp,
        product_id: row.product_id,
        user_id: row.user_id,
        engine_id: row.engine_id,
        action: row.action,
        actor: row.actor,
        metadata: row.metadata,
        duration_ms: row.duration_ms.map(i64::from),
    }
}
