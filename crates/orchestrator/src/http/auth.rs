//! Who calls: judged per route, after the route is known and before its handler runs.
//!
//! A product is known by `X-Platform-Key`, the operator by `X-Admin-Key`; engine keys are never accepted. Admit is
//! the one route whose handler authenticates by itself, because key and engine come from one statement.
//!
//! The invariant: a handler that takes a [`Caller`] or an [`Admin`] cannot be reached without the key.

use super::answer::{Refusal, error_response};
use super::app::App;
use super::routes::{Auth, Operation};
use crate::discovery::{Caller, parse_policy};
use crate::keys;
use axum::extract::{FromRequestParts, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use chassis::http::current_request_id;
use contract::fleet_api::{ADMIN_KEY_HEADER, PLATFORM_KEY_HEADER};
use contract::{FleetCode, FleetError, RequestId};
use http::HeaderMap;
use http::request::Parts;
use std::sync::Arc;

/// The operator, with the request for the log.
#[derive(Debug, Clone)]
pub struct Admin {
    /// The request.
    pub request_id: RequestId,
}

/// Whoever may read the audit log.
#[derive(Debug, Clone)]
pub enum Reader {
    /// All products.
    Admin,
    /// Its own rows.
    Product(Box<Caller>),
}

/// Before every handler: may it run now, and for whom?
pub async fn check(
    State((app, operation)): State<(Arc<App>, &'static Operation)>,
    mut request: Request,
    next: Next,
) -> Response {
    // Counted before it is let in, so that a drain that begins now either refuses it or waits for it.
    let _accepted = operation.changes.then(|| app.accepted.token());
    match admit(&app, operation, &mut request).await {
        Ok(()) => next.run(request).await,
        Err(error) => error_response(&error, current_request_id().as_ref()),
    }
}

async fn admit(app: &App, operation: &Operation, request: &mut Request) -> Result<(), FleetError> {
    if operation.changes
        && let Some(error) = app.unchangeable()
    {
        return Err(error);
    }
    let request_id = current_request_id().unwrap_or_else(RequestId::generate);
    match operation.auth {
        Auth::Nobody | Auth::InHandler => {}
        Auth::Product => {
            let caller = product(app, request.headers(), request_id).await?;
            request.extensions_mut().insert(caller);
        }
        Auth::Admin => {
            admin(app, request.headers())?;
            request.extensions_mut().insert(Admin { request_id });
        }
        Auth::ProductOrAdmin => {
            let reader = if request.headers().contains_key(ADMIN_KEY_HEADER) {
                admin(app, request.headers())?;
                Reader::Admin
            } else {
                Reader::Product(Box::new(product(app, request.headers(), request_id).await?))
            };
            request.extensions_mut().insert(reader);
        }
    }
    Ok(())
}

fn admin(app: &App, headers: &HeaderMap) -> Result<(), FleetError> {
    // An absent key is compared, too, so that the time tells nothing.
    let presented = presented(headers, ADMIN_KEY_HEADER);
    let same = keys::same_key(presented.unwrap_or_default(), &app.settings.admin_key);
    if same && presented.is_some() {
        return Ok(());
    }
    Err(FleetError::new(FleetCode::InvalidAdminKey, "header X-Admin-Key is absent or wrong"))
}

async fn product(app: &App, headers: &HeaderMap, request_id: RequestId) -> Result<Caller, FleetError> {
    let core = app.core()?;
    let key = platform_key(headers)?;
    let found = core.registry.product_by_key(&keys::hash_hex(key)).await?;
    let product = found.ok_or_else(no_such_key)?;
    let policy = parse_policy(&product)?;
    Ok(Caller { product, policy, request_id })
}

/// The platform key as presented, not yet judged.
pub fn platform_key(headers: &HeaderMap) -> Result<&str, FleetError> {
    presented(headers, PLATFORM_KEY_HEADER)
        .filter(|k| k.starts_with(keys::PLATFORM_KEY_PREFIX))
        .ok_or_else(no_such_key)
}

fn no_such_key() -> FleetError {
    FleetError::new(FleetCode::InvalidPlatformKey, "header X-Platform-Key is absent or matches no product")
}

/// The one value of a header; several are none.
fn presented<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(one), None) => std::str::from_utf8(one.as_bytes()).ok(),
        _ => None,
    }
}

/// The product that calls, put there by [`check`].
pub struct Of(pub Caller);

impl<S: Send + Sync> FromRequestParts<S> for Of {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        taken(parts).map(Self)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Admin {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        taken(parts)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Reader {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        taken(parts)
    }
}

/// What [`check`] found out; a route list that names the wrong class is a defect, never an open door.
fn taken<T: Clone + Send + Sync + 'static>(parts: &Parts) -> Result<T, Refusal> {
    parts.extensions.get::<T>().cloned().ok_or_else(|| {
        tracing::error!("a handler asks for a caller that its route does not authenticate");
        FleetError::new(FleetCode::Internal, "this route does not know its caller").into()
    })
}
