//! One request per connection, nothing added that a test did not ask for, answers checked for what every
//! answer must have.

use super::sse::Stream;
use super::{KEY, LIMIT};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::Value;

/// A request.
#[derive(Debug, Clone)]
pub struct Ask {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    host: Option<String>,
    key: Option<String>,
}

impl Ask {
    pub fn new(method: &str, target: &str) -> Self {
        Self {
            method: method.to_owned(),
            target: target.to_owned(),
            headers: Vec::new(),
            body: Vec::new(),
            host: None,
            key: Some(KEY.to_owned()),
        }
    }

    pub fn get(target: &str) -> Self {
        Self::new("GET", target)
    }

    pub fn delete(target: &str) -> Self {
        Self::new("DELETE", target)
    }

    pub fn post(target: &str, body: &Value) -> Self {
        Self::new("POST", target).body(body.to_string())
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self.header("content-type", "application/json")
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn host(mut self, host: &str) -> Self {
        self.host = Some(host.to_owned());
        self
    }

    pub fn key(mut self, key: &str) -> Self {
        self.key = Some(key.to_owned());
        self
    }

    pub fn without_key(mut self) -> Self {
        self.key = None;
        self
    }
}

/// An answer whose body has not been read.
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Incoming,
    ask: String,
}

/// Sends a request that must be answered.
pub async fn send(port: u16, ask: Ask) -> Answer {
    let what = format!("{} {}", ask.method, ask.target);
    try_send(port, ask).await.unwrap_or_else(|| panic!("{what} gets no answer"))
}

/// Sends a request; `None` when nobody answers.
pub async fn try_send(port: u16, ask: Ask) -> Option<Answer> {
    tokio::time::timeout(LIMIT, attempt(port, ask)).await.expect("an answer in time")
}

async fn attempt(port: u16, ask: Ask) -> Option<Answer> {
    let stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok()?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
    // Ends with its connection.
    tokio::spawn(connection);
    let mut request = Request::builder()
        .method(ask.method.as_str())
        .uri(&ask.target)
        .header("host", ask.host.unwrap_or_else(|| format!("127.0.0.1:{port}")))
        .body(Full::new(Bytes::from(ask.body)))
        .expect("a valid request");
    if let Some(key) = ask.key {
        request.headers_mut().insert("x-engine-key", key.parse().expect("a header value"));
    }
    for (name, value) in ask.headers {
        let name: HeaderName = name.parse().expect("a header name");
        request.headers_mut().append(name, HeaderValue::from_bytes(value.as_bytes()).expect("a value"));
    }
    let response = sender.send_request(request).await.ok()?;
    let (parts, body) = response.into_parts();
    let answer = Answer {
        status: parts.status.as_u16(),
        headers: parts.headers,
        body,
        ask: format!("{} {}", ask.method, ask.target),
    };
    answer.check();
    Some(answer)
}

impl Answer {
    /// What every answer must have, whatever it is about.
    fn check(&self) {
        let (ask, status) = (&self.ask, self.status);
        assert!(self.header("x-request-id").is_some_and(|v| !v.is_empty()), "{ask} {status}: no request id");
        assert_eq!(self.header("x-content-type-options"), Some("nosniff"), "{ask} {status}");
        assert_eq!(self.header("cache-control"), Some("no-store"), "{ask} {status}");
        if matches!(status, 429 | 503) && !ask.ends_with("/health") {
            let wait = self.header("retry-after").and_then(|v| v.parse::<u64>().ok());
            assert!(wait.is_some_and(|w| w >= 1), "{ask} {status}: no Retry-After");
        }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|v| v.to_str().ok())
    }

    pub async fn bytes(self) -> Bytes {
        let collected = tokio::time::timeout(LIMIT, self.body.collect()).await.expect("an end in time");
        collected.expect("a whole body").to_bytes()
    }

    pub async fn text(self) -> String {
        String::from_utf8(self.bytes().await.to_vec()).expect("UTF-8")
    }

    pub async fn json(self) -> Value {
        let ask = self.ask.clone();
        assert_eq!(self.header("content-type"), Some("application/json"), "{ask}");
        let bytes = self.bytes().await;
        serde_json::from_slice(&bytes)
            .unwrap_or_else(|e| panic!("{ask}: {e}: {}", String::from_utf8_lossy(&bytes)))
    }

    /// The body of a success.
    pub async fn ok(self) -> Value {
        let (ask, status) = (self.ask.clone(), self.status);
        let body = self.json().await;
        assert_eq!(status, 200, "{ask}: {body}");
        body
    }

    /// The body of this documented failure: flat, with nothing undocumented in it.
    pub async fn error(self, status: u16, code: &str) -> Value {
        let (ask, got) = (self.ask.clone(), self.status);
        let retry_after = self.header("retry-after").map(str::to_owned);
        let body = self.json().await;
        assert_eq!((got, body["error"].as_str()), (status, Some(code)), "{ask}: {body}");
        let fields: Vec<&str> = body.as_object().expect("an object").keys().map(String::as_str).collect();
        assert!(fields.iter().all(|f| ["error", "message", "details"].contains(f)), "{ask}: {body}");
        assert!(body["message"].as_str().is_some_and(|m| m.len() > 10), "{ask}: {body}");
        assert!(body.get("details").is_none_or(Value::is_object), "{ask}: {body}");
        assert!(!matches!(status, 429 | 503) || retry_after.is_some(), "{ask}: no Retry-After");
        body
    }

    /// An event stream.
    pub fn stream(self) -> Stream {
        assert_eq!(self.status, 200, "{}", self.ask);
        assert_eq!(self.header("content-type"), Some("text/event-stream"));
        assert_eq!(self.header("x-accel-buffering"), Some("no"));
        Stream::new(self.body)
    }
}
