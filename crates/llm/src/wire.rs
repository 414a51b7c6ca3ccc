//! One call over HTTP: send, wait within limits, read events, decode. The only code here that does I/O.
//!
//! What differs between providers stands behind [`Dialect`], all of it pure. Nothing is emitted before
//! the provider's first block, so an error without a piece before it may be sent again by the caller.

use crate::errors::{MAX_ERROR_BODY_BYTES, Refusal, presentable};
use crate::net::{LazyClient, describe};
use crate::provider::{CallError, ErrorKind, Piece, Provider, Request};
use crate::sse;
use futures::StreamExt;
use futures::stream::BoxStream;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, timeout, timeout_at};

/// How often one call may be sent again with another form of the same request after a 400. Each form is
/// tried once, so this is never reached by an honest provider; it bounds a dishonest one.
const MAX_FORMS: u32 = 8;

/// The time limits of a call. There is deliberately no total limit: an answer may take an hour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// DNS, TCP and TLS.
    pub connect: Duration,
    /// From sending the request to the first byte of the stream.
    pub first_byte: Duration,
    /// Silence inside the stream.
    pub idle: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            first_byte: Duration::from_secs(120),
            idle: Duration::from_secs(60),
        }
    }
}

/// An HTTP request ready to be sent. Has no `Debug`, because its headers hold the key.
#[derive(Clone, PartialEq)]
pub struct Outgoing {
    /// Absolute URL.
    pub url: String,
    /// Headers beside `content-type`, the key among them.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: Value,
}

/// What makes a stream of events into pieces: a state machine without I/O.
pub trait Decode: Send + 'static {
    /// Takes one event.
    fn push(&mut self, event: &sse::Event) -> Result<Vec<Piece>, DecodeError>;
    /// Is the answer complete, so that reading can stop?
    fn is_done(&self) -> bool;
    /// The body is over. Gives the last pieces, or an error when the answer is not complete.
    fn finish(&mut self) -> Result<Vec<Piece>, DecodeError>;
}

/// Why decoding stopped.
#[derive(Debug, Clone, PartialEq)]
pub enum DecodeError {
    /// The call has failed.
    Failed(CallError),
    /// The provider reported an error inside the stream.
    Refused(Value),
    /// The model spoiled its own call; sending the request once more usually helps.
    Spoiled(CallError),
}

impl From<CallError> for DecodeError {
    fn from(error: CallError) -> Self {
        DecodeError::Failed(error)
    }
}

/// A JSON frame, or the error that it is none.
pub fn read_frame(event: &sse::Event) -> Result<Value, CallError> {
    serde_json::from_str(&event.data)
        .map_err(|_| CallError::new(ErrorKind::Stream, "the provider sent a frame that is not JSON"))
}

/// The error of a stream that ended too early.
pub fn cut_short() -> CallError {
    CallError::new(ErrorKind::Stream, "the provider's stream ended before the answer was complete")
}

/// What differs between providers.
pub trait Dialect: Send + Sync + 'static {
    /// The switches that a 400 can turn; learnt per model and kept for the life of the process.
    type Form: Clone + PartialEq + Send + Sync + 'static;
    /// The stream decoder.
    type Decoder: Decode;

    /// The word of LLM_PROVIDER.
    fn name(&self) -> &'static str;
    /// The form that is known to work for this request's model, or the first one to try.
    fn form(&self, request: &Request) -> Self::Form;
    /// Remembers a form that has just worked.
    fn learn(&self, request: &Request, form: &Self::Form);
    /// Another form to try after this refusal, if any.
    fn other_form(&self, request: &Request, form: &Self::Form, refusal: &Refusal) -> Option<Self::Form>;
    /// The HTTP request and its decoder.
    fn prepare(&self, request: &Request, form: &Self::Form) -> (Outgoing, Self::Decoder);
    /// What kind of failure this is.
    fn classify(&self, refusal: &Refusal) -> ErrorKind;
    /// How long the provider asks to wait, beyond what headers say.
    fn wait_of(&self, _refusal: &Refusal) -> Option<Duration> {
        None
    }
}

/// What every adapter needs to make calls. Has no `Debug`, because it holds the key.
pub struct Line {
    client: LazyClient,
    timeouts: Timeouts,
    key: Option<String>,
}

impl Line {
    /// Nothing is connected yet.
    pub fn new(timeouts: Timeouts, key: Option<String>) -> Self {
        Self { client: LazyClient::new(timeouts.connect), timeouts, key }
    }
}

/// Makes one call. Dropping the stream aborts it.
fn call<D: Dialect>(
    dialect: Arc<D>,
    line: Arc<Line>,
    request: Request,
) -> BoxStream<'static, Result<Piece, CallError>> {
    let form = dialect.form(&request);
    let call = Call {
        dialect,
        line,
        request,
        form,
        open: None,
        ready: VecDeque::new(),
        emitted: false,
        repeated: false,
        over: false,
        failed: None,
    };
    futures::stream::unfold(call, |mut call| async move { call.next().await.map(|item| (item, call)) })
        .boxed()
}

struct Call<D: Dialect> {
    dialect: Arc<D>,
    line: Arc<Line>,
    request: Request,
    form: D::Form,
    open: Option<Reading<D::Decoder>>,
    ready: VecDeque<Piece>,
    emitted: bool,
    repeated: bool,
    /// Reading has ended; what is ready is still to be emitted, then this error, if any.
    over: bool,
    failed: Option<CallError>,
}

struct Reading<C> {
    body: BoxStream<'static, Result<bytes::Bytes, reqwest::Error>>,
    parser: sse::Parser,
    decoder: C,
    /// Until the first byte: when it must be there.
    first_by: Option<Instant>,
}

impl<D: Dialect> Call<D> {
    async fn next(&mut self) -> Option<Result<Piece, CallError>> {
        loop {
            if let Some(piece) = self.ready.pop_front() {
                self.emitted = true;
                return Some(Ok(piece));
            }
            if self.over {
                return self.failed.take().map(|error| Err(self.finished(error)));
            }
            if let Err(error) = self.step().await {
                self.over = true;
                self.open = None;
                self.failed = Some(error);
            }
        }
    }

    async fn step(&mut self) -> Result<(), CallError> {
        let outcome = match &mut self.open {
            None => {
                self.open = Some(self.send().await?);
                return Ok(());
            }
            Some(reading) => read_some(reading, &self.line.timeouts).await?,
        };
        self.ready.extend(outcome.pieces);
        match outcome.end {
            None => Ok(()),
            Some(Ok(())) => {
                self.over = true;
                if let Some(mut reading) = self.open.take() {
                    // The end of the body is usually here already; taking it lets the connection be reused.
                    let _ = futures::FutureExt::now_or_never(reading.body.next());
                }
                Ok(())
            }
            Some(Err(DecodeError::Failed(error))) => Err(error),
            Some(Err(DecodeError::Refused(json))) => Err(self.refused(Refusal::in_stream(json))),
            Some(Err(DecodeError::Spoiled(error))) => {
                if self.emitted || !self.ready.is_empty() || self.repeated {
                    return Err(error);
                }
                self.repeated = true;
                self.open = None;
                Ok(())
            }
        }
    }

    /// Sends until the provider accepts a form of the request.
    async fn send(&mut self) -> Result<Reading<D::Decoder>, CallError> {
        let mut form = self.form.clone();
        for _ in 0..MAX_FORMS {
            let (outgoing, decoder) = self.dialect.prepare(&self.request, &form);
            let first_by = Instant::now() + self.line.timeouts.first_byte;
            let sent = post(&self.line, self.dialect.name(), self.request.traceparent.clone(), outgoing);
            let Ok(response) = timeout_at(first_by, sent).await else { return Err(self.too_slow()) };
            let response = response?;
            let status = response.status().as_u16();
            if response.status().is_success() {
                if form != self.form {
                    self.dialect.learn(&self.request, &form);
                    self.form = form;
                }
                let body = response.bytes_stream().boxed();
                return Ok(Reading { body, parser: sse::Parser::new(), decoder, first_by: Some(first_by) });
            }
            let refusal = read_refusal(response, self.line.timeouts.idle).await;
            match self.dialect.other_form(&self.request, &form, &refusal) {
                Some(other) if matches!(status, 400 | 422) => form = other,
                _ => return Err(self.refused(refusal)),
            }
        }
        Err(CallError::new(ErrorKind::BadRequest, "the provider refused every known form of the request"))
    }

    fn too_slow(&self) -> CallError {
        let seconds = self.line.timeouts.first_byte.as_secs_f64();
        let name = self.dialect.name();
        CallError::new(ErrorKind::Timeout, format!("{name} did not begin to answer within {seconds} s"))
    }

    fn refused(&self, refusal: Refusal) -> CallError {
        let kind = self.dialect.classify(&refusal);
        let wait = self.dialect.wait_of(&refusal);
        let mut error = refusal.into_error(self.dialect.name(), kind, self.line.key.as_deref());
        error.retry_after = error.retry_after.or(wait);
        error
    }

    /// After a piece was emitted every failure is a broken stream, except those that say more (spec 11.5).
    fn finished(&self, mut error: CallError) -> CallError {
        if self.emitted && !matches!(error.kind, ErrorKind::Timeout | ErrorKind::Overflow) {
            error.kind = ErrorKind::Stream;
        }
        error
    }
}

/// Sends a request and waits for the head of the answer.
pub(crate) async fn post(
    line: &Line,
    provider: &'static str,
    traceparent: Option<String>,
    outgoing: Outgoing,
) -> Result<reqwest::Response, CallError> {
    let mut headers = HeaderMap::new();
    for (name, value) in outgoing.headers.into_iter().chain(traceparent.map(|t| ("traceparent", t))) {
        let Ok(mut value) = HeaderValue::from_str(&value) else {
            if name == "traceparent" {
                continue;
            }
            return Err(CallError::new(
                ErrorKind::Auth,
                "the provider key holds characters that cannot be sent in a header",
            ));
        };
        value.set_sensitive(name != "anthropic-version" && name != "traceparent");
        headers.insert(HeaderName::from_static(name), value);
    }
    // Who wants no stream says so among the headers.
    headers.entry(http::header::ACCEPT).or_insert(HeaderValue::from_static("text/event-stream"));
    let client = line.client.get().await;
    client.post(&outgoing.url).headers(headers).json(&outgoing.body).send().await.map_err(|e| {
        let kind = if e.is_builder() {
            ErrorKind::BadRequest
        } else if e.is_connect() {
            ErrorKind::Connect
        } else if e.is_timeout() {
            ErrorKind::Timeout
        } else {
            // Sent, or half sent, and no answer: like a server that fell over.
            ErrorKind::Server
        };
        let text = format!("{provider} could not be reached: {}", describe(e));
        CallError::new(kind, presentable(&text, line.key.as_deref()))
    })
}

/// What some bytes brought.
struct Decoded {
    pieces: Vec<Piece>,
    /// How reading ends, when it does.
    end: Option<Result<(), DecodeError>>,
}

/// Waits for the next bytes and decodes them.
async fn read_some<C: Decode>(reading: &mut Reading<C>, timeouts: &Timeouts) -> Result<Decoded, CallError> {
    let next = match reading.first_by {
        Some(by) => timeout_at(by, reading.body.next()).await.map_err(|_| timeouts.first_byte),
        None => timeout(timeouts.idle, reading.body.next()).await.map_err(|_| timeouts.idle),
    };
    let chunk = match next {
        Ok(chunk) => chunk,
        Err(limit) => {
            let what = if reading.first_by.is_some() { "did not begin to answer" } else { "fell silent" };
            let text = format!("the provider {what} for {} s", limit.as_secs_f64());
            return Err(CallError::new(ErrorKind::Timeout, text));
        }
    };
    let mut events = Vec::new();
    let ended = match chunk {
        None => {
            reading.parser.finish(&mut events);
            true
        }
        Some(Ok(bytes)) => {
            if !bytes.is_empty() {
                reading.first_by = None;
            }
            reading.parser.push(&bytes, &mut events).map_err(|e| {
                CallError::new(ErrorKind::Stream, format!("the provider's stream is unusable: {e}"))
            })?;
            false
        }
        Some(Err(error)) => {
            let text = presentable(&format!("the provider's stream broke: {}", describe(error)), None);
            return Err(CallError::new(ErrorKind::Stream, text));
        }
    };
    Ok(decode(&mut reading.decoder, &events, ended))
}

/// Runs events through a decoder. Pieces before an error are kept, so that what a caller sees does not
/// depend on how the bytes were cut into chunks.
fn decode<C: Decode>(decoder: &mut C, events: &[sse::Event], ended: bool) -> Decoded {
    let mut pieces = Vec::new();
    for event in events {
        match decoder.push(event) {
            Ok(more) => pieces.extend(more),
            Err(error) => return Decoded { pieces, end: Some(Err(error)) },
        }
        if decoder.is_done() {
            break;
        }
    }
    if !ended && !decoder.is_done() {
        return Decoded { pieces, end: None };
    }
    let end = decoder.finish().map(|more| pieces.extend(more));
    Decoded { pieces, end: Some(end) }
}

/// Reads an error answer: at most [`MAX_ERROR_BODY_BYTES`], and no longer than a silence may last.
pub(crate) async fn read_refusal(response: reqwest::Response, patience: Duration) -> Refusal {
    let status = response.status().as_u16();
    let headers = response.headers().clone();
    let mut body = Vec::new();
    let mut stream = response.bytes_stream();
    let _ = timeout(patience, async {
        while let Some(Ok(chunk)) = stream.next().await {
            let room = MAX_ERROR_BODY_BYTES - body.len();
            body.extend_from_slice(&chunk[..chunk.len().min(room)]);
            if body.len() == MAX_ERROR_BODY_BYTES {
                break;
            }
        }
    })
    .await;
    Refusal::new(status, headers, &body)
}

/// The forms that worked, by model. Bounded, because model names can come from clients.
#[derive(Debug)]
pub struct Learnt<F>(Mutex<HashMap<String, F>>);

/// Most models remembered. Beyond it a model's first call pays one refused attempt again.
const MAX_LEARNT: usize = 64;

impl<F> Default for Learnt<F> {
    fn default() -> Self {
        Self(Mutex::new(HashMap::new()))
    }
}

impl<F: Clone> Learnt<F> {
    /// The form that worked for this model.
    pub fn get(&self, model: &str) -> Option<F> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(model).cloned()
    }

    /// Remembers it.
    pub fn set(&self, model: &str, form: F) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() < MAX_LEARNT || known.contains_key(model) {
            known.insert(model.to_owned(), form);
        }
    }
}

/// A provider reached over HTTP.
pub struct Remote<D> {
    dialect: Arc<D>,
    line: Arc<Line>,
}

impl<D: Dialect> Remote<D> {
    /// Nothing is connected until the first call.
    pub fn new(dialect: D, line: Line) -> Self {
        Self { dialect: Arc::new(dialect), line: Arc::new(line) }
    }
}

impl<D: Dialect> Provider for Remote<D> {
    fn name(&self) -> &'static str {
        self.dialect.name()
    }

    fn complete(&self, request: Request) -> BoxStream<'static, Result<Piece, CallError>> {
        call(self.dialect.clone(), self.line.clone(), request)
    }
}
