//! A model provider on loopback that answers by script, speaks OpenAI, Anthropic and Gemini as they do on
//! the wire, and checks every request it gets.
//!
//! ```no_run
//! # async fn example() {
//! use testbed::{Reply, Script, ScriptedModel};
//! let model = ScriptedModel::start(Script::sequence([
//!     Reply::new().tool_call("bash", serde_json::json!({"command": "ls"})),
//!     Reply::text("Two files."),
//! ]))
//! .await;
//! // LLM_BASE_URL = model.base_url(Protocol::OpenAi)
//! # let _ = model.url();
//! model.assert_no_problems();
//! # }
//! ```

mod check;
mod rules;
mod script;
mod seen;
mod speak;

pub use rules::{Pace, Rules};
pub use script::{Fault, Gate, Part, Reply, Script, Stop};
pub use seen::{Protocol, SeenMessage, SeenRequest, SeenResult};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{Method, Response, Uri};
use axum::serve::ListenerExt;
use futures::StreamExt;
use http::HeaderMap;
use serde_json::Value;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Largest request taken. Larger than any Engine request with its largest media.
const MAX_REQUEST_BYTES: usize = 256 * 1024 * 1024;

/// The running stand-in. Dropping it closes its port.
pub struct ScriptedModel {
    url: String,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

struct Shared {
    script: Mutex<Script>,
    expected_key: Option<String>,
    calls: Mutex<Vec<SeenRequest>>,
    problems: Mutex<Vec<String>>,
    open: watch::Sender<usize>,
}

impl Shared {
    fn report(&self, problems: impl IntoIterator<Item = String>) {
        lock(&self.problems).extend(problems);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ScriptedModel {
    /// Starts on a free port of 127.0.0.1; no key is expected, and one that is sent is fine.
    pub async fn start(script: Script) -> Self {
        Self::start_on(script, None, 0).await
    }

    /// Starts and reports a problem for every request that does not carry exactly this key.
    pub async fn start_with_key(script: Script, key: &str) -> Self {
        Self::start_on(script, Some(key.to_owned()), 0).await
    }

    /// Starts on a given port (0 for a free one).
    pub async fn start_on(script: Script, expected_key: Option<String>, port: u16) -> Self {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", port))
            .await
            .expect("a test needs a port of 127.0.0.1");
        let address = listener.local_addr().expect("a bound listener has an address");
        let shared = Arc::new(Shared {
            script: Mutex::new(script),
            expected_key,
            calls: Mutex::default(),
            problems: Mutex::default(),
            open: watch::Sender::new(0),
        });
        let app = Router::new().fallback(answer).with_state(shared.clone());
        let server = tokio::spawn(async move {
            // Ends with the task; an accept error shows as a failing test.
            let listener = listener.tap_io(|stream| {
                // Otherwise small frames wait for acknowledgements, 40 ms each time; no provider does that.
                let _ = stream.set_nodelay(true);
            });
            let _ = axum::serve(listener, app).await;
        });
        Self { url: format!("http://{address}"), shared, server }
    }

    /// `http://127.0.0.1:<port>`, without a path.
    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// What LLM_BASE_URL must be for a protocol.
    pub fn base_url(&self, protocol: Protocol) -> String {
        match protocol {
            Protocol::OpenAi => format!("{}/v1", self.url),
            Protocol::Anthropic | Protocol::Gemini => self.url.clone(),
        }
    }

    /// Every request so far.
    pub fn calls(&self) -> Vec<SeenRequest> {
        lock(&self.shared.calls).clone()
    }

    /// Everything that was wrong with the requests so far.
    pub fn problems(&self) -> Vec<String> {
        lock(&self.shared.problems).clone()
    }

    /// Panics when a request was not as the protocol wants it.
    pub fn assert_no_problems(&self) {
        let problems = self.problems();
        assert!(problems.is_empty(), "the scripted model got bad requests:\n{}", problems.join("\n"));
    }

    /// Answers later requests by another script.
    pub fn set_script(&self, script: Script) {
        *lock(&self.shared.script) = script;
    }

    /// Waits until exactly this many answers are being streamed; the number falls when a client hangs up.
    /// Put a limit around it.
    pub async fn open_streams(&self, count: usize) {
        // The sender lives in self, so waiting cannot fail.
        let _ = self.shared.open.subscribe().wait_for(|open| *open == count).await;
    }
}

impl Drop for ScriptedModel {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn answer(
    State(shared): State<Arc<Shared>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Response<Body> {
    let Some((protocol, model)) = seen::route(&method, uri.path(), uri.query()) else {
        shared.report([format!("no such endpoint: {method} {uri}")]);
        return plain(404, "{\"error\":{\"message\":\"no such endpoint\"}}");
    };
    let bytes = axum::body::to_bytes(body, MAX_REQUEST_BYTES).await.unwrap_or_default();
    let Ok(json) = serde_json::from_slice::<Value>(&bytes) else {
        shared.report([format!("{protocol:?}: the body is not JSON")]);
        return plain(400, "{\"error\":{\"message\":\"the body is not JSON\"}}");
    };
    let request = {
        let mut calls = lock(&shared.calls);
        let request = seen::read(protocol, model, calls.len(), uri.path(), &headers, json);
        calls.push(request.clone());
        request
    };
    let place = |problem| format!("call {} ({protocol:?}): {problem}", request.number);
    shared.report(check::check(&request, shared.expected_key.as_deref()).into_iter().map(place));
    let script = lock(&shared.script).clone();
    match script.reply(&request) {
        Some(reply) => respond(shared, request, reply).await,
        None => {
            shared.report([place("the script has no reply for this call".to_owned())]);
            plain(400, "{\"error\":{\"message\":\"the script has no reply for this call\"}}")
        }
    }
}

fn plain(status: u16, body: &str) -> Response<Body> {
    Response::builder()
        .status(status)
        .header("content-type", "application/json")
        .body(Body::from(body.to_owned()))
        .expect("a fixed header and a status from 100 to 999 are valid")
}

async fn respond(shared: Arc<Shared>, request: SeenRequest, reply: Reply) -> Response<Body> {
    let reply = Arc::new(reply);
    if let Some(Fault::Status { status, headers, body }) = &reply.fault {
        let body = body.clone().unwrap_or_else(|| speak::error_body(request.protocol, *status));
        let mut response = plain(*status, &body.to_string());
        for (name, value) in headers {
            let name: http::HeaderName = name.parse().expect("a test gives valid header names");
            response.headers_mut().insert(name, value.parse().expect("a test gives valid header values"));
        }
        return response;
    }
    let open = Open::new(shared);
    if let Some(Fault::HangBeforeHeaders) = &reply.fault {
        futures::future::pending::<()>().await;
    }
    let frames = script::joined(speak::frames(&request, &reply), reply.frames_per_write);
    let steps = script::with_fault(frames, reply.fault.as_ref());
    let stream = futures::stream::iter(steps).filter_map(move |step| {
        let open = open.clone();
        async move {
            let _counted = open;
            step.play().await
        }
    });
    Response::builder()
        .status(200)
        .header("content-type", "text/event-stream")
        .header("cache-control", "no-cache")
        .body(Body::from_stream(stream))
        .expect("fixed headers are valid")
}

/// Counts a stream as long as it or its connection lives.
#[derive(Clone)]
struct Open(#[expect(dead_code, reason = "held for its Drop")] Arc<OpenGuard>);

struct OpenGuard(Arc<Shared>);

impl Open {
    fn new(shared: Arc<Shared>) -> Self {
        shared.open.send_modify(|open| *open += 1);
        Self(Arc::new(OpenGuard(shared)))
    }
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.0.open.send_modify(|open| *open -= 1);
    }
}

/// What one step of an answer puts on the wire.
pub(crate) type Sent = Result<Bytes, std::io::Error>;
