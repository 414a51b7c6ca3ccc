//! What is told about each request: its id, a start and an end line, and its metrics.

use super::error_response;
use axum::Router;
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
use std::time::{Duration, Instant};
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

/// The code an error answer was made from, kept beside the response (in its extensions) for the log and the
/// metrics.
#[derive(Debug, Clone, Copy)]
pub struct AnsweredWith(pub &'static str);

/// What is known of a request when it comes.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// Path template, `unmatched` when there is none.
    pub path: &'a str,
    /// Method, `OTHER` for extension methods.
    pub method: &'static str,
    /// W3C trace context, when it looks like one.
    pub traceparent: Option<&'a str>,
}

/// What is known of an answer when its head is.
#[derive(Debug, Clone, Copy)]
pub struct Answered<'a> {
    /// Path template, `unmatched` when there is none.
    pub path: &'a str,
    /// Method, `OTHER` for extension methods.
    pub method: &'static str,
    /// Status.
    pub status: u16,
    /// Code of an error.
    pub code: Option<&'static str>,
}

/// Who is told about requests. [`Watch`] is one; a program with lines and metrics of its own brings another.
pub trait Observer: Send + Sync + 'static {
    /// An id for a request that brought none.
    fn make_id(&self) -> RequestId {
        RequestId::generate()
    }
    /// A request has come.
    fn asked(&self, request: &Asked<'_>);
    /// The head of its answer is known.
    fn answered(&self, answer: &Answered<'_>);
    /// The answer has been sent or given up, so long after the request came.
    fn ended(&self, answer: &Answered<'_>, took: Duration);
}

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

/// Tells an observer about every request to these routes, and gives each its id.
pub fn observed<O: Observer>(routes: Router, observer: Arc<O>) -> Router {
    routes.layer(axum::middleware::from_fn_with_state(observer, observe::<O>))
}

/// The middleware. A request ends when its answer has been sent or given up, so the end line of a stream
/// comes with the end of the stream.
async fn observe<O: Observer>(State(observer): State<Arc<O>>, mut request: Request, next: Next) -> Response {
    let given = request.headers().get(REQUEST_ID_HEADER).and_then(|h| h.to_str().ok());
    let id = given.and_then(|t| RequestId::parse(t).ok()).unwrap_or_else(|| observer.make_id());
    let matched = request.extensions().get::<MatchedPath>();
    let path: Arc<str> = matched.map_or(UNMATCHED, MatchedPath::as_str).into();
    let method = method_label(request.method());
    let started = Instant::now();
    let span = info_span!("request", request_id = id.as_str());
    span.in_scope(|| {
        observer.asked(&Asked { path: &path, method, traceparent: traceparent(&request).as_deref() });
    });
    request.extensions_mut().insert(id.clone());

    let response = REQUEST_ID.scope(id.clone(), next.run(request)).instrument(span.clone()).await;
    let (mut head, body) = response.into_parts();
    if let Ok(value) = HeaderValue::from_str(id.as_str()) {
        head.headers.insert(REQUEST_ID_HEADER, value);
    }
    let code = head.extensions.get::<AnsweredWith>().map(|a| a.0);
    let end = End { observer, path, method, started, status: head.status.as_u16(), code };
    end.observer.answered(&end.answered());
    Response::from_parts(head, Body::new(Watched { body, span, end: Some(end) }))
}

/// Turns a panic of a handler into the answer `broken` makes; the panic hook has written the backtrace.
pub fn without_panics(routes: Router, broken: fn() -> Response) -> Router {
    routes.layer(axum::middleware::from_fn(move |request: Request, next: Next| async move {
        match AssertUnwindSafe(next.run(request)).catch_unwind().await {
            Ok(response) => response,
            Err(_) => {
                error!(code = ErrorCode::Internal.as_str(), "Request handler panicked");
                broken()
            }
        }
    }))
}

/// The flat INTERNAL of a panic.
pub(super) fn broken() -> Response {
    let error = ApiError::new(ErrorCode::Internal, "a bug in this server; its log has the details");
    error_response(&error, current_request_id().as_ref())
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
struct End<O: Observer> {
    observer: Arc<O>,
    path: Arc<str>,
    method: &'static str,
    started: Instant,
    status: u16,
    code: Option<&'static str>,
}

impl<O: Observer> End<O> {
    fn answered(&self) -> Answered<'_> {
        Answered { path: &self.path, method: self.method, status: self.status, code: self.code }
    }
}

impl Observer for Watch {
    fn asked(&self, request: &Asked<'_>) {
        let Asked { path, method, traceparent } = *request;
        if self.quiet.contains(&path) {
            debug!(method, path, traceparent, "Request started");
        } else {
            info!(method, path, traceparent, "Request started");
        }
    }

    fn answered(&self, answer: &Answered<'_>) {
        let labels = [
            ("path", answer.path.to_owned()),
            ("method", answer.method.to_owned()),
            ("status", answer.status.to_string()),
        ];
        metrics::counter!(self.metrics.requests_total, &labels).increment(1);
        if let Some(code) = answer.code {
            metrics::counter!(self.metrics.errors_total, "code" => code).increment(1);
        }
    }

    fn ended(&self, answer: &Answered<'_>, took: Duration) {
        metrics::histogram!(self.metrics.request_duration_seconds, "path" => answer.path.to_owned())
            .record(took.as_secs_f64());
        let duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let Answered { path, method, status, code } = *answer;
        if self.quiet.contains(&path) {
            debug!(method, path, status, duration_ms, code, "Request finished");
        } else {
            info!(method, path, status, duration_ms, code, "Request finished");
        }
    }
}

/// An answer's body that tells when it has ended.
struct Watched<O: Observer> {
    body: Body,
    span: Span,
    end: Option<End<O>>,
}

impl<O: Observer> Watched<O> {
    fn finish(&mut self) {
        if let Some(end) = self.end.take() {
            self.span.in_scope(|| end.observer.ended(&end.answered(), end.started.elapsed()));
        }
    }
}

impl<O: Observer> HttpBody for Watched<O> {
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

impl<O: Observer> Drop for Watched<O> {
    fn drop(&mut self) {
        self.finish();
    }
}
