//! Endpoints about one engine, and the list of them. What a request does to an engine is `discovery`'s business.

use super::answer::{Answer, Refusal, held};
use super::app::App;
use super::auth::{Of, platform_key};
use super::fields::{Fields, Query, User, flag, text};
use crate::core::Core;
use crate::discovery::{Held, Idempotency};
use crate::keys;
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use chassis::http::current_request_id;
use contract::fleet_api::{
    AdmitRequest, ENGINE_VERSION_MAX, EngineList, EngineRecord, ExplainResponse, IDEMPOTENCY_HEADER,
    IDEMPOTENCY_KEY_MAX, ProvisionRequest,
};
use contract::{FleetCode, FleetError, RequestId, UserId};
use fleet::lifecycle::Status;
use http::HeaderMap;
use serde::Serialize;
use serde_json::Value;
use std::sync::Arc;

/// What a handler that may wait returns.
type Waited = Result<Response, Refusal>;

/// 1: a new engine, healthy when this returns.
pub async fn provision(
    State(app): State<Arc<App>>,
    Of(caller): Of,
    headers: HeaderMap,
    body: Body,
) -> Waited {
    let mut fields = Fields::read(body).await?;
    let user = fields.required("user_id", user_id);
    let version = fields.optional("engine_version", image);
    let key = idempotency_key(&headers, &mut fields);
    let ((user_id, engine_version), key) = fields.finish(user.zip(version).zip(key))?;
    let request = ProvisionRequest { user_id, engine_version };
    let idempotency = key.map(|key| Idempotency { key, request_hash: fingerprint(&request) });
    let ProvisionRequest { user_id, engine_version } = request;
    Ok(held(app.core()?.provision(&caller, &user_id, engine_version, idempotency).await?))
}

/// 2: one engine with its key.
pub async fn get(State(app): State<Arc<App>>, Of(caller): Of, User(user): User) -> Answer<EngineRecord> {
    let core = app.core()?;
    let found = core.registry.find(caller.product.id, &user).await?.ok_or_else(no_engine)?;
    Ok(Json(core.record(&found, true)?))
}

/// 3: the call before every user request. The core judges the key in the statement that reads the engine.
pub async fn admit(State(app): State<Arc<App>>, User(user): User, headers: HeaderMap, body: Body) -> Waited {
    let key = platform_key(&headers)?;
    let mut fields = Fields::read(body).await?;
    let wishes = fields.optional("auto_provision", flag).zip(fields.optional("auto_wake", flag));
    let (auto_provision, auto_wake) = fields.finish(wishes)?;
    let wish = AdmitRequest {
        auto_provision: auto_provision.unwrap_or_default(),
        auto_wake: auto_wake.unwrap_or_default(),
    };
    let request_id = current_request_id().unwrap_or_else(RequestId::generate);
    Ok(held(app.core()?.admit(key, &user, wish, &request_id).await?))
}

/// 4: up, by hand.
pub async fn start(State(app): State<Arc<App>>, Of(caller): Of, User(user): User) -> Waited {
    asked(&app, async |core: &Arc<Core>| core.start(&caller, &user).await).await
}

/// 5: down, by hand.
pub async fn stop(State(app): State<Arc<App>>, Of(caller): Of, User(user): User) -> Waited {
    asked(&app, async |core: &Arc<Core>| core.stop(&caller, &user).await).await
}

/// 6: to rest, now.
pub async fn sleep(State(app): State<Arc<App>>, Of(caller): Of, User(user): User) -> Waited {
    asked(&app, async |core: &Arc<Core>| core.sleep(&caller, &user).await).await
}

/// 7: another engine key.
pub async fn rotate_key(State(app): State<Arc<App>>, Of(caller): Of, User(user): User) -> Waited {
    asked(&app, async |core: &Arc<Core>| core.rotate_key(&caller, &user).await).await
}

/// 9: gone.
pub async fn destroy(State(app): State<Arc<App>>, Of(caller): Of, User(user): User) -> Waited {
    asked(&app, async |core: &Arc<Core>| core.destroy(&caller, &user).await).await
}

/// 10: why it is as it is.
pub async fn explain(
    State(app): State<Arc<App>>,
    Of(caller): Of,
    User(user): User,
) -> Answer<ExplainResponse> {
    Ok(Json(app.core()?.explain(&caller, &user).await?))
}

/// 11: the list, without keys.
pub async fn list(State(app): State<Arc<App>>, Of(caller): Of, mut query: Query) -> Answer<EngineList> {
    let status = query.optional("status", |word| Status::parse(word).ok_or_else(statuses));
    let (limit, offset) = (query.limit(), query.number("offset", 0, i64::MAX, 0));
    let ((status, limit), offset) = query.finish(status.zip(limit).zip(offset))?;
    let core = app.core()?;
    let (page, total) = core.registry.list(Some(caller.product.id), status, None, limit, offset).await?;
    let engines = page.iter().map(|found| core.record(found, false)).collect::<Result<_, _>>()?;
    Ok(Json(EngineList { engines, total }))
}

async fn asked<T: Serialize>(
    app: &App,
    ask: impl AsyncFnOnce(&Arc<Core>) -> Result<Held<T>, FleetError>,
) -> Waited {
    Ok(held(ask(app.core()?).await?))
}

fn no_engine() -> FleetError {
    FleetError::new(FleetCode::EngineNotFound, "this product has no engine for this user")
}

fn statuses() -> String {
    let all: Vec<&str> = Status::ALL.iter().map(|s| s.as_str()).collect();
    format!("expected one of {}", all.join(", "))
}

fn user_id(value: &Value) -> Result<UserId, &'static str> {
    UserId::parse(text(value)?).map_err(|e| e.expected)
}

fn image(value: &Value) -> Result<String, &'static str> {
    let reference = text(value)?;
    if reference.len() > ENGINE_VERSION_MAX {
        return Err("expected at most 255 characters");
    }
    fleet::image::parse(reference).map(|_| reference.to_owned())
}

fn idempotency_key(headers: &HeaderMap, fields: &mut Fields) -> Option<Option<String>> {
    let mut values = headers.get_all(IDEMPOTENCY_HEADER).iter();
    let (first, more) = (values.next(), values.next());
    let Some(value) = first else { return Some(None) };
    let printable = |b: &u8| (0x20..0x7f).contains(b);
    let fits = (1..=IDEMPOTENCY_KEY_MAX).contains(&value.len());
    match value.to_str() {
        Ok(key) if more.is_none() && fits && key.as_bytes().iter().all(printable) => {
            Some(Some(key.to_owned()))
        }
        _ => {
            fields.problem("Idempotency-Key", "expected 1..128 printable ASCII characters, once");
            None
        }
    }
}

/// What makes two bodies the same: the fields that count, in one order.
fn fingerprint(request: &ProvisionRequest) -> String {
    keys::hash_hex(&serde_json::to_string(request).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn images_and_users_are_checked_on_entry() {
        assert!(image(&json!("september-engine:2.3.0")).is_ok());
        for wrong in [json!(""), json!("a b"), json!(7), json!("x".repeat(256))] {
            assert!(image(&wrong).is_err(), "{wrong}");
        }
        assert!(user_id(&json!("a/b")).is_ok());
        assert!(user_id(&json!(" a")).is_err());
    }

    #[test]
    fn a_fingerprint_does_not_depend_on_the_order_or_on_ignored_fields() {
        let read = |text: &str| fingerprint(&serde_json::from_str(text).expect("parses"));
        let one = read(r#"{"user_id":"u","engine_version":"e:1"}"#);
        assert_eq!(one, read(r#"{"engine_version":"e:1","user_id":"u","else":1}"#));
        assert_ne!(one, read(r#"{"user_id":"u"}"#));
    }
}
