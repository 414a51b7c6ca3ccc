//! Who may call: the key first, then Host and Origin, before a request reaches any route.

use super::origin::{HostRule, OriginRule, OriginVerdict};
use super::{KeyRing, KeyVerdict, current_request_id, error_response, protect};
use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use contract::{ApiError, ErrorCode, Timestamp};
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_METHOD, HOST, HeaderName, HeaderValue, ORIGIN, VARY,
};
use http::request::Parts;
use http::{HeaderMap, Method};
use std::sync::Arc;

/// How long a browser may keep the answer to a preflight, in seconds. Longer keeps a revoked origin calling;
/// shorter doubles the requests of a page.
const PREFLIGHT_MAX_AGE_S: u64 = 600;

/// What a preflight is told.
#[derive(Debug, Clone, Copy)]
pub struct Preflight {
    /// The methods of a path, e.g. `GET, POST`; `None` when there is no such path.
    pub methods: fn(&str) -> Option<&'static str>,
    /// Request headers a page may send, e.g. `Content-Type, X-Request-Id`.
    pub headers: &'static str,
    /// Response headers a page may read.
    pub expose: &'static str,
}

/// Judges a request by method and path before any key is looked at.
pub type Gate = Box<dyn Fn(&Method, &str) -> Option<ApiError> + Send + Sync>;

/// The rules.
pub struct Guard {
    /// Header in which the key is presented.
    pub key_header: HeaderName,
    /// The accepted keys.
    pub keys: Arc<KeyRing>,
    /// Routes that need no key.
    pub keyless: fn(&Method, &str) -> bool,
    /// Comes before the key: while the keys are not known yet, it refuses what it must.
    pub gate: Gate,
    /// Accepted `Host` names on requests without a valid key.
    pub hosts: HostRule,
    /// Name of the variable that lists further hosts, for the message.
    pub hosts_variable: &'static str,
    /// Accepted browser origins.
    pub origins: OriginRule,
    /// Name of the variable that lists origins, for the message.
    pub origins_variable: &'static str,
    /// What preflights are told.
    pub preflight: Preflight,
}

/// What the guard decides about one request.
enum Decision {
    Pass,
    Answer(Response),
}

/// The middleware.
pub(super) async fn check(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let origin = parts.headers.get(ORIGIN).cloned();
    let readable = origin.filter(|o| guard.origin(o, &parts) == OriginVerdict::Listed);
    let mut response = match guard.decide(&parts) {
        Ok(Decision::Pass) => next.run(Request::from_parts(parts, body)).await,
        Ok(Decision::Answer(response)) => response,
        Err(error) => error_response(&error, current_request_id().as_ref()),
    };
    protect(response.headers_mut());
    if let Some(origin) = readable {
        guard.let_read(&origin, response.headers_mut());
    }
    response
}

impl Guard {
    fn decide(&self, parts: &Parts) -> Result<Decision, ApiError> {
        let path = parts.uri.path();
        let preflight = is_preflight(parts);
        if !preflight && let Some(error) = (self.gate)(&parts.method, path) {
            return Err(error);
        }
        // A browser sends no key with a preflight, and no route acts on one.
        let keyless = preflight || (self.keyless)(&parts.method, path);
        let verdict = self.keys.check(presented(&parts.headers, &self.key_header), Timestamp::now());
        match verdict {
            KeyVerdict::Valid => {}
            _ if keyless => self.check_host(parts)?,
            KeyVerdict::RotationPending => {
                let message = "this key was replaced and its overlap window is over";
                return Err(ApiError::new(ErrorCode::KeyRotationPending, message));
            }
            KeyVerdict::Invalid => {
                let message = format!("header {} is absent or matches no key", self.key_header);
                return Err(ApiError::new(ErrorCode::InvalidKey, message));
            }
        }
        for origin in parts.headers.get_all(ORIGIN) {
            if self.origin(origin, parts) == OriginVerdict::Refused {
                let message = format!("this Origin may not call; {} lists who may", self.origins_variable);
                return Err(ApiError::new(ErrorCode::PermissionDenied, message));
            }
        }
        if preflight { self.answer_preflight(path).map(Decision::Answer) } else { Ok(Decision::Pass) }
    }

    fn check_host(&self, parts: &Parts) -> Result<(), ApiError> {
        let several = parts.headers.get_all(HOST).iter().count() > 1;
        // HTTP/1.0 may come without Host; no browser speaks it.
        let allowed = host(parts).is_none_or(|h| self.hosts.allows(h));
        if allowed && !several && host_is_text(parts) {
            return Ok(());
        }
        let message =
            format!("this Host name is not accepted without a key; {} adds names", self.hosts_variable);
        Err(ApiError::new(ErrorCode::PermissionDenied, message))
    }

    fn origin(&self, origin: &HeaderValue, parts: &Parts) -> OriginVerdict {
        match origin.to_str() {
            Ok(text) => self.origins.judge(text, host(parts)),
            Err(_) => OriginVerdict::Refused,
        }
    }

    fn answer_preflight(&self, path: &str) -> Result<Response, ApiError> {
        let Some(methods) = (self.preflight.methods)(path) else {
            return Err(ApiError::new(ErrorCode::NotFound, "there is no such path"));
        };
        let mut response = Response::new(Body::empty());
        let headers = response.headers_mut();
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(methods));
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(self.preflight.headers));
        headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from(PREFLIGHT_MAX_AGE_S));
        Ok(response)
    }

    /// Lets a page of a listed origin read the answer.
    fn let_read(&self, origin: &HeaderValue, headers: &mut HeaderMap) {
        let allowed = origin.to_str().ok().map(|o| self.origins.allow_origin(o));
        if let Some(value) = allowed.and_then(|o| HeaderValue::from_str(o).ok()) {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, value);
            headers.append(VARY, HeaderValue::from_static("Origin"));
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(self.preflight.expose));
            if self.origins.credentials() {
                headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
            }
        }
    }
}

fn is_preflight(parts: &Parts) -> bool {
    parts.method == Method::OPTIONS
        && parts.headers.contains_key(ORIGIN)
        && parts.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

/// The presented key; several are none.
fn presented<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(one), None) => std::str::from_utf8(one.as_bytes()).ok(),
        _ => None,
    }
}

/// The name the caller used for this server: `Host`, or the authority of HTTP/2.
fn host(parts: &Parts) -> Option<&str> {
    let header = parts.headers.get(HOST).and_then(|h| h.to_str().ok());
    header.or_else(|| parts.uri.authority().map(|a| a.as_str()))
}

fn host_is_text(parts: &Parts) -> bool {
    parts.headers.get(HOST).is_none_or(|h| h.to_str().is_ok())
}
