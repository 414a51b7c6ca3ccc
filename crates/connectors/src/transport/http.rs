//! The HTTP client under the protocol library: it shows the pass, and answers a 401 with one renewal and one
//! retry.
//!
//! Everything else of streamable HTTP (headers, sessions, streams, sizes of events) is the library's. What comes on
//! the streams is judged here, before the library takes it: see [`crate::ceilings`].
//!
//! The invariant: a request is sent a second time only after the server has refused the first one unread, for its
//! credentials.

use crate::ceilings::{
    CALL_BYTES_MAX, HOLDS_TOO_MUCH, Ledger, READS_TOO_SLOWLY, ROOM_WAIT_MAX, SAYS_TOO_MUCH, Sent, Verdict,
};
use crate::passes::{Pass, Passes};
use crate::pieces::Pieces;
use crate::trouble::{Trouble, is_scope_challenge};
use futures::StreamExt;
use futures::stream::BoxStream;
use http::{HeaderName, HeaderValue};
use rmcp::model::{ClientJsonRpcMessage, RequestId};
use rmcp::transport::streamable_http_client::{
    AuthRequiredError, SseError, StreamableHttpClient, StreamableHttpError, StreamableHttpPostResponse,
};
use sse_stream_rmcp::Sse;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

type Events = BoxStream<'static, Result<Sse, SseError>>;
type Failed = StreamableHttpError<reqwest::Error>;
type Headers = HashMap<HeaderName, HeaderValue>;

/// The client of one connection.
#[derive(Clone)]
pub(crate) struct Door {
    pub http: reqwest::Client,
    pub passes: Arc<dyn Passes>,
    pub ledger: Arc<Ledger>,
}

impl Door {
    async fn knock<T, F, Fut>(&self, headers: Headers, request: F) -> Result<T, Failed>
    where
        F: Fn(Headers) -> Fut,
        Fut: Future<Output = Result<T, Failed>>,
    {
        let pass = self.passes.pass().await.map_err(refused)?;
        let version = pass.version;
        let challenge = match request(with(&headers, pass)).await.map_err(named) {
            Err(Failed::AuthRequired(challenge)) => challenge,
            other => return other,
        };
        if !self.passes.renew(version).await.map_err(refused)? {
            return Err(Failed::AuthRequired(challenge));
        }
        let pass = self.passes.pass().await.map_err(refused)?;
        request(with(&headers, pass)).await.map_err(named)
    }
}

/// One stream of events, with what is counted of it.
struct Watched {
    events: Events,
    ledger: Arc<Ledger>,
    /// The request it answers.
    of: Option<RequestId>,
    bytes: usize,
}

impl Watched {
    /// The next event that may be handed on; `None` ends the stream, and the line with it when it was cut.
    async fn next(&mut self) -> Option<Result<Sse, SseError>> {
        if !self.ledger.room(Instant::now() + ROOM_WAIT_MAX).await {
            self.ledger.cut(READS_TOO_SLOWLY);
            return None;
        }
        let mut event = match self.events.next().await? {
            Ok(event) => event,
            Err(error) => return Some(Err(error)),
        };
        let len = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let bytes = len(&event.data) + len(&event.event) + len(&event.id);
        self.bytes = self.bytes.saturating_add(bytes);
        if self.of.is_some() && self.bytes > CALL_BYTES_MAX {
            self.ledger.cut(SAYS_TOO_MUCH);
            return None;
        }
        let now = Instant::now();
        pause(self.ledger.read(bytes, now)).await;
        if !event.data.as_deref().is_none_or(Pieces::few) {
            self.ledger.cut(HOLDS_TOO_MUCH);
            return None;
        }
        let sent = event.data.as_deref().map_or(Sent::Nothing, Sent::of_text);
        match self.ledger.judge(self.of.as_ref(), &sent, now) {
            Verdict::Pass => {}
            // its id and its pause still count for who opens the stream again
            Verdict::Skip => event.data = None,
            Verdict::Cut(why) => {
                self.ledger.cut(why);
                return None;
            }
        }
        Some(Ok(event))
    }
}

impl Door {
    fn watched(&self, events: Events, of: Option<RequestId>) -> Events {
        let watched = Watched { events, ledger: Arc::clone(&self.ledger), of, bytes: 0 };
        futures::stream::unfold(watched, |mut watched| async move {
            let next = watched.next().await?;
            Some((next, watched))
        })
        .boxed()
    }

    /// What comes back of a post, as far as it is taken.
    fn taken(
        &self,
        answer: StreamableHttpPostResponse,
        of: Option<RequestId>,
    ) -> Result<StreamableHttpPostResponse, Failed> {
        match answer {
            StreamableHttpPostResponse::Sse(events, session) if of.is_some() => {
                Ok(StreamableHttpPostResponse::Sse(self.watched(events, of), session))
            }
            // nothing was asked: a stream would stay open for ever, one more with every answer of ours
            StreamableHttpPostResponse::Sse(..) => Ok(StreamableHttpPostResponse::Accepted),
            StreamableHttpPostResponse::Json(message, session) => {
                match self.ledger.judge(of.as_ref(), &Sent::of(&message), Instant::now()) {
                    Verdict::Pass => Ok(StreamableHttpPostResponse::Json(message, session)),
                    Verdict::Skip if of.is_none() => Ok(StreamableHttpPostResponse::Accepted),
                    Verdict::Skip => Err(Failed::UnexpectedServerResponse("an answer to nothing".into())),
                    Verdict::Cut(why) => {
                        self.ledger.cut(why);
                        Err(Failed::UnexpectedServerResponse(why.into()))
                    }
                }
            }
            other => Ok(other),
        }
    }
}

/// A timer's shortest wait is a millisecond, which is long for each of many events.
async fn pause(wait: Duration) {
    if !wait.is_zero() {
        sleep(wait).await;
    }
}

fn with(headers: &Headers, pass: Pass) -> Headers {
    let mut all = headers.clone();
    all.extend(pass.headers);
    all
}

/// A 401 without a challenge is a 401, too.
fn named(error: Failed) -> Failed {
    match error {
        Failed::UnexpectedServerResponse(text) if text.starts_with("HTTP 401") => {
            Failed::AuthRequired(AuthRequiredError::new(String::new()))
        }
        Failed::InsufficientScope(challenge) if !is_scope_challenge(&challenge.www_authenticate_header) => {
            Failed::UnexpectedServerResponse("HTTP 403".into())
        }
        other => other,
    }
}

fn refused(trouble: Trouble) -> Failed {
    match trouble {
        Trouble::Unauthorized(challenge) => Failed::AuthRequired(AuthRequiredError::new(challenge)),
        other => Failed::Io(std::io::Error::other(other.to_string())),
    }
}

impl StreamableHttpClient for Door {
    type Error = reqwest::Error;

    async fn post_message(
        &self,
        uri: Arc<str>,
        message: ClientJsonRpcMessage,
        session: Option<Arc<str>>,
        token: Option<String>,
        headers: Headers,
    ) -> Result<StreamableHttpPostResponse, Failed> {
        let max = super::EVENT_MAX_BYTES;
        self.post_message_with_max_sse_event_size(uri, message, session, token, headers, max).await
    }

    async fn post_message_with_max_sse_event_size(
        &self,
        uri: Arc<str>,
        message: ClientJsonRpcMessage,
        session: Option<Arc<str>>,
        token: Option<String>,
        headers: Headers,
        max: usize,
    ) -> Result<StreamableHttpPostResponse, Failed> {
        let of = match &message {
            ClientJsonRpcMessage::Request(request) => Some(request.id.clone()),
            _ => None,
        };
        let answer = self.knock(headers, |headers| {
            let (uri, message, session) = (uri.clone(), message.clone(), session.clone());
            self.http.post_message_with_max_sse_event_size(uri, message, session, token.clone(), headers, max)
        });
        self.taken(answer.await?, of)
    }

    async fn delete_session(
        &self,
        uri: Arc<str>,
        session: Arc<str>,
        token: Option<String>,
        headers: Headers,
    ) -> Result<(), Failed> {
        self.knock(headers, |headers| {
            self.http.delete_session(uri.clone(), session.clone(), token.clone(), headers)
        })
        .await
    }

    async fn get_stream(
        &self,
        uri: Arc<str>,
        session: Option<Arc<str>>,
        last: Option<String>,
        token: Option<String>,
        headers: Headers,
    ) -> Result<Events, Failed> {
        let max = super::EVENT_MAX_BYTES;
        self.get_stream_with_max_sse_event_size(uri, session, last, token, headers, max).await
    }

    async fn get_stream_with_max_sse_event_size(
        &self,
        uri: Arc<str>,
        session: Option<Arc<str>>,
        last: Option<String>,
        token: Option<String>,
        headers: Headers,
        max: usize,
    ) -> Result<Events, Failed> {
        pause(self.ledger.open(Instant::now())).await;
        let events = self.knock(headers, |headers| {
            let (uri, session, last) = (uri.clone(), session.clone(), last.clone());
            self.http.get_stream_with_max_sse_event_size(uri, session, last, token.clone(), headers, max)
        });
        Ok(self.watched(events.await?, None))
    }
}
