//! What is judged and told about every request, before any route: its id, Host and Origin, whether the process is
//! up yet, and what a panic becomes.
//!
//! The order is fixed: id, Host, Origin, booting, then the routes. The invariant: no answer leaves without a
//! request id, a log line and a count.

use super::answer::error_response;
use super::app::App;
use super::{health, routes};
use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::routing::get;
use chassis::http::{
    Answered, Asked, Observer, OriginRule, OriginVerdict, current_request_id, observed, protect,
    without_panics,
};
use contract::{FleetCode, FleetError, RequestId};
use http::header::{CONNECTION, HOST, ORIGIN};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Version};
use std::sync::Arc;
use std::time::Duration;

/// Hex digits of a request id made here. More is noise in every line; fewer collide within a day of logs.
const MADE_ID_HEX: usize = 12;

/// Route templates whose end lines are DEBUG, because something asks them all the time.
const QUIET: [&str; 4] = ["/health", "/metrics", "/livez", "/readyz"];

/// The API.
pub fn public_router(app: Arc<App>) -> Router {
    let judged = routes::router(&app).layer(from_fn_with_state(Arc::clone(&app), judge));
    dressed(judged, Listener::Public)
}

/// Prometheus text and the two probes; for the internal listener, without keys.
pub fn internal_router(app: Arc<App>) -> Router {
    let routes = Router::new()
        .route("/metrics", get(health::prometheus))
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .fallback(routes::no_such_path)
        .with_state(app);
    dressed(routes, Listener::Internal)
}

fn dressed(routes: Router, listener: Listener) -> Router {
    let broken = || error_response(&broken(), current_request_id().as_ref());
    observed(without_panics(routes, broken), Arc::new(Teller { listener }))
}

fn broken() -> FleetError {
    FleetError::new(FleetCode::Internal, "a defect in this server; its log has the details")
}

async fn judge(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let http1 = parts.version <= Version::HTTP_11;
    let mut response = match verdict(&app, &parts) {
        Ok(()) => next.run(Request::from_parts(parts, body)).await,
        Err(error) => error_response(&error, current_request_id().as_ref()),
    };
    protect(response.headers_mut());
    if http1 && app.draining() {
        // The caller opens its next connection elsewhere, instead of writing into one that is about to be closed.
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

fn verdict(app: &App, parts: &Parts) -> Result<(), FleetError> {
    check_host(&app.settings.allowed_hosts, parts)?;
    check_origin(parts)?;
    if parts.uri.path() != "/health" {
        app.core()?;
    }
    Ok(())
}

/// The name the caller used for this server: `Host`, or the authority of HTTP/2.
fn host(parts: &Parts) -> Option<&str> {
    let header = parts.headers.get(HOST).and_then(|h| h.to_str().ok());
    header.or_else(|| parts.uri.authority().map(|a| a.as_str()))
}

fn check_host(allowed: &[String], parts: &Parts) -> Result<(), FleetError> {
    let one = single(&parts.headers) && host(parts).is_some();
    if allowed.is_empty() || (one && host(parts).is_some_and(|h| is_listed(allowed, h))) {
        return Ok(());
    }
    let message = "this Host name is not accepted; ORCH_ALLOWED_HOSTS lists those that are";
    let details = serde_json::json!({"fields": [{"field": "Host", "problem": "not allowed"}]});
    Err(FleetError::new(FleetCode::InvalidRequest, message).with(details))
}

fn single(headers: &HeaderMap) -> bool {
    headers.get_all(HOST).iter().count() <= 1
}

/// Names are compared without port, letter case, final dot and the brackets of an address; a name listed with a port
/// wants that port.
fn is_listed(allowed: &[String], host: &str) -> bool {
    let plain = |text: &str| {
        let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
        bare.trim_end_matches('.').to_ascii_lowercase()
    };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !name.ends_with(':') => name,
        _ => host,
    };
    allowed.iter().any(|listed| plain(listed) == plain(name) || plain(listed) == plain(host))
}

/// A page of another origin never calls this API: it holds keys that no browser should.
fn check_origin(parts: &Parts) -> Result<(), FleetError> {
    let rule = OriginRule::default();
    for origin in parts.headers.get_all(ORIGIN) {
        let same = origin.to_str().is_ok_and(|o| rule.judge(o, host(parts)) == OriginVerdict::Same);
        if !same {
            return Err(FleetError::new(FleetCode::PolicyDenied, "cross-origin requests are not accepted"));
        }
    }
    Ok(())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Listener {
    Public,
    Internal,
}

/// Writes the end line of each request and counts it.
struct Teller {
    listener: Listener,
}

impl Observer for Teller {
    fn make_id(&self) -> RequestId {
        let mut hex = uuid::Uuid::new_v4().simple().to_string();
        hex.truncate(MADE_ID_HEX);
        RequestId::parse(&format!("req-{hex}")).unwrap_or_else(|_| RequestId::generate())
    }

    fn asked(&self, _: &Asked<'_>) {}

    fn answered(&self, _: &Answered<'_>) {}

    fn ended(&self, answer: &Answered<'_>, took: Duration) {
        let Answered { path: route, method, status, code } = *answer;
        // The internal `/metrics` is another route than the one of the API.
        if self.listener == Listener::Public {
            crate::telemetry::request_ended(route, method, status, code.unwrap_or_default(), took);
        }
        let duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        if QUIET.contains(&route) {
            tracing::debug!(method, route, status, duration_ms, code, "{method} {route} answered {status}");
        } else {
            tracing::info!(method, route, status, duration_ms, code, "{method} {route} answered {status}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::ApiSettings;
    use axum::body::Body;
    use chassis::config::Secret;
    use chassis::drain::Drain;
    use http::StatusCode;
    use http_body_util::BodyExt;
    use serde_json::Value;
    use tower::ServiceExt;

    fn booting(allowed_hosts: &[&str]) -> Arc<App> {
        let settings = ApiSettings {
            admin_key: Secret::new("the-admin-key"),
            allowed_hosts: allowed_hosts.iter().map(|h| (*h).to_owned()).collect(),
            read_only: false,
        };
        App::new(settings, Drain::new())
    }

    async fn ask(routes: Router, path: &str, headers: &[(&str, &str)]) -> (StatusCode, HeaderMap, Value) {
        let mut request = Request::builder().method("GET").uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = routes.oneshot(request.body(Body::empty()).expect("is well formed")).await;
        let (head, body) = answer.expect("is infallible").into_parts();
        let body = body.collect().await.expect("is complete").to_bytes();
        (head.status, head.headers, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    #[tokio::test]
    async fn while_booting_everything_but_health_is_starting() {
        let routes = public_router(booting(&[]));
        for path in ["/engines", "/nowhere", "/openapi.json", "/docs", "/metrics", "/engines/u/admit"] {
            let (status, headers, body) = ask(routes.clone(), path, &[("host", "localhost")]).await;
            assert_eq!((status.as_u16(), &body["error"]["code"]), (503, &Value::from("STARTING")), "{path}");
            assert_eq!(headers["retry-after"], "1", "{path}");
        }
        let (status, _, body) = ask(routes, "/health", &[("host", "localhost")]).await;
        assert_eq!((status.as_u16(), &body["status"]), (503, &Value::from("starting")));
        let internal = internal_router(booting(&[]));
        assert_eq!(ask(internal.clone(), "/livez", &[]).await.0, 200);
        assert_eq!(ask(internal.clone(), "/readyz", &[]).await.0, 503);
        assert_eq!(ask(internal.clone(), "/metrics", &[]).await.0, 200);
        assert_eq!(ask(internal, "/engines", &[]).await.2["error"]["code"], "ROUTE_NOT_FOUND");
    }

    #[tokio::test]
    async fn cross_origin_is_refused() {
        let routes = public_router(booting(&[]));
        for (origin, host) in [
            ("https://evil.example", "localhost:8000"),
            ("null", "localhost:8000"),
            ("http://localhost:9000", "localhost:8000"),
            ("http://localhost", "localhost:8000"),
        ] {
            let (status, headers, body) =
                ask(routes.clone(), "/health", &[("host", host), ("origin", origin)]).await;
            assert_eq!(
                (status.as_u16(), &body["error"]["code"]),
                (403, &Value::from("POLICY_DENIED")),
                "{origin}"
            );
            assert!(!headers.keys().any(|n| n.as_str().starts_with("access-control")), "{origin}");
        }
        let same = [("host", "localhost:8000"), ("origin", "http://localhost:8000")];
        assert_eq!(ask(routes, "/health", &same).await.2["status"], "starting");
    }

    #[tokio::test]
    async fn a_host_that_is_not_listed_is_a_bad_request() {
        let routes = public_router(booting(&["bap.example.com"]));
        for host in ["evil.example", "bap.example.com.evil", ""] {
            let (status, _, body) = ask(routes.clone(), "/health", &[("host", host)]).await;
            assert_eq!(
                (status.as_u16(), &body["error"]["code"]),
                (400, &Value::from("INVALID_REQUEST")),
                "{host}"
            );
            assert_eq!(body["error"]["details"]["fields"][0]["field"], "Host");
        }
        let twice = [("host", "bap.example.com"), ("host", "evil.example")];
        assert_eq!(ask(routes.clone(), "/health", &twice).await.0, 400);
        assert_eq!(ask(routes, "/health", &[("host", "bap.example.com:8000")]).await.2["status"], "starting");
    }

    #[tokio::test]
    async fn request_ids_are_taken_or_made_and_always_come_back() {
        let routes = public_router(booting(&[]));
        let (_, headers, _) = ask(routes.clone(), "/engines", &[("x-request-id", "mine-1")]).await;
        assert_eq!(headers["x-request-id"], "mine-1");
        let long = "x".repeat(129);
        for wrong in ["a b", "", "ü", long.as_str()] {
            let (_, headers, _) = ask(routes.clone(), "/engines", &[("x-request-id", wrong)]).await;
            let made = headers["x-request-id"].to_str().expect("is text").to_owned();
            let hex = made.strip_prefix("req-").expect("has the prefix");
            assert!(
                hex.len() == MADE_ID_HEX && hex.bytes().all(|b| b.is_ascii_hexdigit()),
                "{wrong:?}: {made}"
            );
        }
    }

    #[tokio::test]
    async fn a_panic_is_an_internal_error_that_names_its_request() {
        async fn broken() -> &'static str {
            panic!("on purpose")
        }
        let routes = dressed(Router::new().route("/broken", get(broken)), Listener::Public);
        let (status, headers, body) = ask(routes, "/broken", &[("x-request-id", "mine-2")]).await;
        assert_eq!((status.as_u16(), &body["error"]["code"]), (500, &Value::from("INTERNAL")));
        assert_eq!(body["error"]["details"]["request_id"], "mine-2");
        assert_eq!(headers["x-request-id"], "mine-2");
    }

    #[test]
    fn listed_hosts_are_compared_by_name() {
        let allowed = ["bap.example.com".to_owned(), "[::1]".to_owned(), "other:8443".to_owned()];
        for right in
            ["bap.example.com", "BAP.example.com:8000", "bap.example.com.", "[::1]", "[::1]:80", "other:8443"]
        {
            assert!(is_listed(&allowed, right), "{right}");
        }
        for wrong in ["evil.example.com", "bap.example.com.evil", "", "other", "other:1", "xbap.example.com"]
        {
            assert!(!is_listed(&allowed, wrong), "{wrong}");
        }
    }

    #[test]
    fn made_request_ids_have_twelve_hex_digits() {
        let id = Teller { listener: Listener::Public }.make_id();
        let hex = id.as_str().strip_prefix("req-").expect("has the prefix");
        assert!(hex.len() == 12 && hex.bytes().all(|b| b.is_ascii_hexdigit()), "{id}");
    }
}
