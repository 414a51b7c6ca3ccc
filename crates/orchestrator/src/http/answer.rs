//! How answers leave: the nested error body, `Retry-After`, and `Server-Timing` on answers that were held.

use crate::discovery::Held;
use axum::Json;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use chassis::http::{AnsweredWith, REQUEST_ID_HEADER, current_request_id, protect};
use contract::{FleetCode, FleetError, RequestId};
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use serde::Serialize;
use serde_json::json;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Seconds after which a refused caller may come back, when nothing better is known. Longer leaves callers idle
/// after short trouble; shorter makes them a load of their own.
const RETRY_SOON_S: u64 = 1;

/// The same when a person must act first (a quota, a range of ports).
const RETRY_LATER_S: u64 = 60;

/// Phases that every held answer tells, in this order; others follow by name.
const TOLD_FIRST: [&str; 3] = ["queue", "create", "boot"];

/// An error as a handler's answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal(pub FleetError);

/// What a handler returns.
pub type Answer<T> = Result<Json<T>, Refusal>;

impl From<FleetError> for Refusal {
    fn from(error: FleetError) -> Self {
        Self(error)
    }
}

impl From<crate::registry::RegistryError> for Refusal {
    fn from(error: crate::registry::RegistryError) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        error_response(&self.0, current_request_id().as_ref())
    }
}

/// The value of `Retry-After`, where the code wants one.
pub fn retry_after(error: &FleetError) -> Option<u64> {
    let asked = error.retry_after_s.map(|s| s.max(1));
    match (error.code, error.code.status()) {
        (FleetCode::ReadOnly, _) => None,
        (FleetCode::QuotaExceeded | FleetCode::PortExhaustion, _) => Some(asked.unwrap_or(RETRY_LATER_S)),
        (FleetCode::EngineBusy, _) | (_, 429 | 503) => Some(asked.unwrap_or(RETRY_SOON_S)),
        (_, 502 | 504) => asked,
        _ => None,
    }
}

/// The answer for an error. INTERNAL carries the request id in its details, so that the line in the log is found.
pub fn error_response(error: &FleetError, request_id: Option<&RequestId>) -> Response {
    let mut body = error.body();
    if error.code == FleetCode::Internal
        && let Some(id) = request_id
    {
        let details = &mut body["error"]["details"];
        if !details.is_object() {
            *details = json!({});
        }
        details["request_id"] = json!(id.as_str());
    }
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() =
        StatusCode::from_u16(error.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(seconds) = retry_after(error) {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    if let Some(id) = request_id.and_then(|id| HeaderValue::from_str(id.as_str()).ok()) {
        headers.insert(REQUEST_ID_HEADER, id);
    }
    protect(headers);
    response.extensions_mut().insert(AnsweredWith(error.code.as_str()));
    response
}

/// The answer of a request that may have waited for an engine.
pub fn held<T: Serialize>(held: Held<T>) -> Response {
    let timing = server_timing(&held.timings);
    let mut response = Json(held.answer).into_response();
    if let Some(value) = timing.and_then(|t| HeaderValue::from_str(&t).ok()) {
        response.headers_mut().insert(HeaderName::from_static("server-timing"), value);
    }
    response
}

fn server_timing(timings: &BTreeMap<String, u64>) -> Option<String> {
    if timings.is_empty() {
        return None;
    }
    let mut text = String::new();
    for phase in TOLD_FIRST {
        let _ = write!(text, "{phase};dur={}, ", timings.get(phase).copied().unwrap_or(0));
    }
    for (phase, ms) in timings.iter().filter(|(phase, _)| !TOLD_FIRST.contains(&phase.as_str())) {
        let _ = write!(text, "{phase};dur={ms}, ");
    }
    text.truncate(text.len() - 2);
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;
    use serde_json::Value;

    async fn parts(error: &FleetError) -> (http::response::Parts, Value) {
        let id = RequestId::parse("req-1").expect("is well formed");
        let (head, body) = error_response(error, Some(&id)).into_parts();
        let body = body.collect().await.expect("is complete").to_bytes();
        (head, serde_json::from_slice(&body).expect("is JSON"))
    }

    #[tokio::test]
    async fn an_error_is_nested_and_carries_its_status_and_id() {
        let error = FleetError::new(FleetCode::EngineNotFound, "no engine").with(json!({"a": 1}));
        let (head, body) = parts(&error).await;
        assert_eq!(head.status, 404);
        let wanted =
            json!({"error": {"code": "ENGINE_NOT_FOUND", "message": "no engine", "details": {"a": 1}}});
        assert_eq!(body, wanted);
        assert_eq!(
            (&head.headers["x-request-id"], &head.headers["content-type"]),
            (&"req-1".parse().expect("ok"), &"application/json".parse().expect("ok"))
        );
        let (_, body) = parts(&FleetError::new(FleetCode::Internal, "a defect")).await;
        assert_eq!(body["error"]["details"], json!({"request_id": "req-1"}));
    }

    #[tokio::test]
    async fn retry_after_always_present() {
        for &code in FleetCode::ALL {
            let plain = FleetError::new(code, "x");
            let (head, _) = parts(&plain).await;
            let wanted = match code {
                FleetCode::ReadOnly => false,
                FleetCode::EngineBusy => true,
                _ => matches!(head.status.as_u16(), 429 | 503),
            };
            assert_eq!(head.headers.contains_key("retry-after"), wanted, "{code}");
            let (head, _) = parts(&plain.retry_after(7)).await;
            let wanted = wanted || matches!(head.status.as_u16(), 502 | 504);
            assert_eq!(
                head.headers.get("retry-after").map(|v| v.as_bytes()),
                wanted.then_some(&b"7"[..]),
                "{code}"
            );
        }
    }

    #[test]
    fn a_held_answer_tells_its_three_phases_first_and_one_at_once_tells_none() {
        assert_eq!(server_timing(&BTreeMap::new()), None);
        let timings =
            BTreeMap::from([("boot".to_owned(), 412), ("pull".to_owned(), 3), ("queue".to_owned(), 1)]);
        assert_eq!(
            server_timing(&timings).as_deref(),
            Some("queue;dur=1, create;dur=0, boot;dur=412, pull;dur=3")
        );
    }
}
