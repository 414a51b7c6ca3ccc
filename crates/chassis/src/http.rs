//! How a server of ours answers: connections with limits, request ids, keys, Host and Origin rules, and
//! one flat body for every error.
//!
//! A program builds its routes, puts [`front`] before them and gives the result to a [`Server`]. The order
//! of judgement on a request is fixed: gate, key, Host and Origin, then the routes. Header names, metric
//! names and exemptions are arguments. A program with another error body or another rule of who may call builds
//! its own front from [`observed`], [`without_panics`] and the rules of `Host` and `Origin`.
//!
//! The invariant: no peer, however slow or silent, holds a connection without a named time limit, and none that is
//! silent keeps another one out.

mod crowd;
mod guard;
mod keys;
pub mod openapi;
mod origin;
mod server;
mod stall;
pub mod viewer;
mod watch;

pub use guard::{Guard, Preflight};
pub use keys::{KeyHash, KeyRing, KeyVerdict, ReplacedKey};
pub use origin::{HostRule, OriginRule, OriginVerdict};
pub use server::{Closed, Overload, Server, ServerLimits};
pub use watch::{
    Answered, AnsweredWith, Asked, Observer, REQUEST_ID_HEADER, RequestMetrics, Watch, current_request_id,
    observed, without_panics,
};

use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use contract::{ApiError, ErrorCode, RequestId};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderMap, StatusCode};
use http_body::Body as _;
use http_body_util::BodyExt;
use std::sync::Arc;

/// Seconds after which a refused caller may come back, when nothing better is known. Longer leaves callers
/// idle after short trouble; shorter makes them a load of their own.
const RETRY_SOON_S: u64 = 1;
/// The same while draining: a supervisor needs about this long to start a successor.
const RETRY_DRAINING_S: u64 = 5;
/// The same when an operator must act first.
const RETRY_OPERATOR_S: u64 = 30;

/// Puts request ids, logging, metrics, the key check, Host and Origin rules and panic handling before routes.
pub fn front(routes: Router, watch: Arc<Watch>, guard: Arc<Guard>) -> Router {
    let routes = without_panics(routes, watch::broken);
    observed(routes.layer(axum::middleware::from_fn_with_state(guard, guard::check)), watch)
}

/// The value of `Retry-After` for an error, if its status wants one.
pub fn retry_after(error: &ApiError) -> Option<u64> {
    let details = error.details.as_ref();
    let asked = details.and_then(|d| d.get("retry_after")).and_then(serde_json::Value::as_f64);
    let asked = asked.filter(|s| s.is_finite() && *s >= 0.0).map(|s| s.ceil() as u64);
    let reason = details.and_then(|d| d.get("reason")).and_then(serde_json::Value::as_str);
    match (error.error, error.error.status()) {
        (ErrorCode::Draining, _) => Some(RETRY_DRAINING_S),
        (ErrorCode::MigrationRequired | ErrorCode::BrainLocked, _) => Some(RETRY_OPERATOR_S),
        (ErrorCode::EngineBusy, _) if reason == Some("disk_full") => Some(RETRY_OPERATOR_S),
        (_, 429 | 503) => Some(asked.unwrap_or(RETRY_SOON_S)),
        _ => None,
    }
}

/// The answer for an error: flat body, status by code, `Retry-After` where it belongs. INTERNAL carries the
/// request id in its details, so that the line in the log can be found.
pub fn error_response(error: &ApiError, request_id: Option<&RequestId>) -> Response {
    let mut error = error.clone();
    if error.error == ErrorCode::Internal
        && let Some(id) = request_id
    {
        let details = error.details.get_or_insert_with(|| serde_json::json!({}));
        if let Some(fields) = details.as_object_mut() {
            fields.entry("request_id").or_insert_with(|| id.as_str().into());
        }
    }
    let body =
        serde_json::to_vec(&error).unwrap_or_else(|_| br#"{"error":"INTERNAL","message":""}"#.to_vec());
    let mut response = Response::new(Body::from(body));
    *response.status_mut() =
        StatusCode::from_u16(error.error.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(seconds) = retry_after(&error) {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    if let Some(id) = request_id.and_then(|id| HeaderValue::from_str(id.as_str()).ok()) {
        headers.insert(REQUEST_ID_HEADER, id);
    }
    protect(headers);
    response.extensions_mut().insert(AnsweredWith(error.error.as_str()));
    response
}

/// Headers every answer has, unless the handler chose its own.
pub fn protect(headers: &mut HeaderMap) {
    headers.entry(X_CONTENT_TYPE_OPTIONS).or_insert(HeaderValue::from_static("nosniff"));
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
}

/// An error as a handler's answer: `Result<Json<T>, Refusal>`.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal(pub ApiError);

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        Self(error)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        error_response(&self.0, current_request_id().as_ref())
    }
}

/// Reads a whole request body of at most `limit` bytes.
pub async fn read_body(mut body: Body, limit: usize) -> Result<Bytes, ApiError> {
    let too_large = || {
        ApiError::new(ErrorCode::PayloadTooLarge, format!("the body is larger than {limit} bytes"))
            .with(serde_json::json!({"limit": limit}))
    };
    if body.size_hint().lower() > limit as u64 {
        return Err(too_large());
    }
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| broken_body(&e))?;
        if let Ok(data) = frame.into_data() {
            if whole.len() + data.len() > limit {
                return Err(too_large());
            }
            whole.extend_from_slice(&data);
        }
    }
    Ok(whole.freeze())
}

fn broken_body(error: &axum::Error) -> ApiError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(e) = cause {
        if e.is::<stall::BodyTooSlow>() {
            return ApiError::new(ErrorCode::InvalidRequest, e.to_string());
        }
        cause = e.source();
    }
    ApiError::new(ErrorCode::InvalidRequest, "the request body broke off")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    async fn parts(error: ApiError) -> (StatusCode, HeaderMap, Value) {
        let id = RequestId::parse("req-1").expect("is well formed");
        let (head, body) = error_response(&error, Some(&id)).into_parts();
        let body = body.collect().await.expect("is complete").to_bytes();
        (head.status, head.headers, serde_json::from_slice(&body).expect("is JSON"))
    }

    #[tokio::test]
    async fn an_error_is_flat_and_carries_its_status_and_id() {
        let (status, headers, body) = parts(ApiError::new(ErrorCode::TaskNotFound, "no such task")).await;
        assert_eq!(status, 404);
        assert_eq!(body, json!({"error": "TASK_NOT_FOUND", "message": "no such task"}));
        assert_eq!(headers["x-request-id"], "req-1");
        assert_eq!(headers["content-type"], "application/json");
        assert_eq!(headers["x-content-type-options"], "nosniff");
        assert_eq!(headers["cache-control"], "no-store");
        assert!(!headers.contains_key("retry-after"));
    }

    #[tokio::test]
    async fn every_429_and_503_says_when_to_come_back() {
        for &code in ErrorCode::ALL {
            let (status, headers, _) = parts(ApiError::new(code, "x")).await;
            let wanted = matches!(status.as_u16(), 429 | 503);
            assert_eq!(headers.contains_key("retry-after"), wanted, "{code}");
        }
        assert_eq!(retry_after(&ApiError::new(ErrorCode::Starting, "x")), Some(1));
        assert_eq!(retry_after(&ApiError::new(ErrorCode::Draining, "x")), Some(5));
        let limited = ApiError::new(ErrorCode::LlmRateLimited, "x").with(json!({"retry_after": 6.2}));
        assert_eq!(retry_after(&limited), Some(7));
    }

    #[tokio::test]
    async fn an_internal_error_names_its_request() {
        let (_, _, body) = parts(ApiError::new(ErrorCode::Internal, "bug")).await;
        assert_eq!(body["details"]["request_id"], "req-1");
    }

    #[tokio::test]
    async fn a_body_beyond_the_limit_is_refused() {
        assert_eq!(read_body(Body::from("12345"), 5).await.map(|b| b.len()), Ok(5));
        let error = read_body(Body::from("123456"), 5).await.expect_err("is too large");
        assert_eq!((error.error, error.details), (ErrorCode::PayloadTooLarge, Some(json!({"limit": 5}))));
    }
}
