//! What is told about each request: its id, a start and an end line, and its metrics.

use super::error_response;
use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use contract::{ApiError, ErrorCode, RequestId};
use futures::FutureExt;
use http::header::HeaderValue;
use http_body::{Body as HttpBody, Frame, SizeHint};
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;
use tracing::{Instrument, Span, debug, error, info, info_span};

/// Header that names one request, in both directions.
pub const REQUEST_ID_HEADER: &str = "x-request-id";

/// Label of requests to paths that do not exist: their text is the caller's and would grow without bound.
const UNMATCHED: &str = "unmatched";

/// Longest `traceparent` that is written down; the standard form has 55 characters.
const TRACEPARENT_MAX: usize = 64;

tokio::task_local! {
    static REQUEST_ID: RequestId;
}

/// The id of the request this task is answering.
pub fn current_request_id() -> Option<RequestId> {
    REQUEST_ID.try_with(Clone::clone).ok()
}

/// The code an error answer was made from, kept beside the response for the log and the metrics.
#[derive(Debug, Clone, Copy)]
pub(super) struct AnsweredWith(pub(super) ErrorCode);

/// Names of the metrics, with the program's prefix.
#[derive(Debug, Clone, Copy)]
pub struct RequestMetrics {
    /// Counter with labels path, method, status.
    pub requests_total: &'static str,
    /// Counter with label code.
    pub errors_total: &'static str,
    /// Histogram with label path.
    pub request_duration_seconds: &'static str,
}

/// How requests are told about.
#[derive(Debug, Clone, Copy)]
pub struct Watch {
    /// Metric names.
    pub metrics: RequestMetrics,
    /// Path templates whose lines are DEBUG, because something asks them all the time.
    pub quiet: &'static [&'static str],
}

/// The middleware. A request ends when its answer has been sent or given up, so the end line of a stream
/// comes with the end of the stream.
pub(super) async fn observe(State(watch): State<Arc<Watch>>, mut request: Request, next: Next) -> Response {
    let given = request.headers().get(REQUEST_ID_HEADER).and_then(|h| h.to_str().ok());
    let id = given.and_then(|t| RequestId::parse(t).ok()).unwrap_or_else(RequestId::generate);
    let matched = request.extensions().get::<MatchedPath>();
    let path: Arc<str> = matched.map_or(UNMATCHED, MatchedPath::as_str).into();
    let end = End {
        started: Instant::now(),
        quiet: watch.quiet.contains(&&*path),
        method: method_label(request.method()),
        path,
        metrics: watch.metrics,
        status: 0,
        code: None,
    };
    let span = info_span!("request", request_id = id.as_str());
    span.in_scope(|| end.tell_start(traceparent(&request)));
    request.extensions_mut().insert(id.clone());

    let response = REQUEST_ID.scope(id.clone(), next.run(request)).instrument(span.clone()).await;
    let (mut head, body) = response.into_parts();
    if let Ok(value) = HeaderValue::from_str(id.as_str()) {
        head.headers.insert(REQUEST_ID_HEADER, value);
    }
    let code = head.extensions.get::<AnsweredWith>().map(|a| a.0);
    let end = End { status: head.status.as_u16(), code, ..end };
    end.count();
    Response::from_parts(head, Body::new(Watched { body, span, end: Some(end) }))
}

/// Turns a panic of a handler into INTERNAL; the panic hook has written the backtrace.
pub(super) async fn catch_panics(request: Request, next: Next) -> Response {
    match AssertUnwindSafe(next.run(request)).catch_unwind().await {
        Ok(response) => response,
        Err(_) => {
            error!(code = ErrorCode::Internal.as_str(), "Request handler panicked");
            let error = ApiError::new(ErrorCode::Internal, "a bug in this server; its log has the details");
            error_response(&error, current_request_id().as_ref())
        }
    }
}

/// Methods as labels: extension methods are the caller's text and would grow without bound.
fn method_label(method: &http::Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "HEAD" => "HEAD",
        "OPTIONS" => "OPTIONS",
        _ => "OTHER",
    }
}

/// The W3C trace context of the request, if it looks like one.
fn traceparent(request: &Request) -> Option<String> {
    let text = request.headers().get("traceparent")?.to_str().ok()?;
    let plain = text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    (plain && text.len() <= TRACEPARENT_MAX).then(|| text.to_owned())
}

/// Everything the end line needs.
struct End {
    started: Instant,
    quiet: bool,
    method: &'static str,
    path: Arc<str>,
    metrics: RequestMetrics,
    status: u16,
    code: Option<ErrorCode>,
}

impl End {
    fn tell_start(&self, traceparent: Option<String>) {
        let (method, path) = (self.method, &*self.path);
        if self.quiet {
            debug!(method, path, traceparent, "Request started");
        } else {
            info!(method, path, traceparent, "Request started");
        }
    }

    fn count(&self) {
        let labels = [
            ("path", self.path.to_string()),
            ("method", self.method.to_owned()),
            ("status", self.status.to_string()),
        ];
        metrics::counter!(self.metrics.requests_total, &labels).increment(1);
        if let Some(code) = self.code {
            metrics::counter!(self.metrics.errors_total, "code" => code.as_str()).increment(1);
        }
    }

    fn tell_end(self) {
        let elapsed = self.started.elapsed();
        metrics::histogram!(self.metrics.request_duration_seconds, "path" => self.path.to_string())
            .record(elapsed.as_secs_f64());
        let duration_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        let (method, path, status, code) =
            (self.method, &*self.path, self.status, self.code.map(ErrorCode::as_str));
        if self.quiet {
            debug!(method, path, status, duration_ms, code, "Request finished");
        } else {
            info!(method, path, status, duration_ms, code, "Request finished");
        }
    }
}

/// An answer's body that tells when it has ended.
struct Watched {
    body: Body,
    span: Span,
    end: Option<End>,
}

impl Watched {
    fn finish(&mut self) {
        if let Some(end) = self.end.take() {
            self.span.in_scope(|| end.tell_end());
        }
    }
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        let polled = {
            let _in_span = this.span.enter();
            Pin::new(&mut this.body).poll_frame(cx)
        };
        if matches!(polled, Poll::Ready(None | Some(Err(_)))) {
            this.finish();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.finish();
    }
}
