//! The HTTP+SSE transport of 2024-11-05, which the protocol library no longer has: one long event stream to
//! read, and an address it names to post to.
//!
//! The invariant: nothing is posted to another origin than the stream's, whatever the server says.

use crate::ceilings::{HOLDS_TOO_MUCH, Ledger};
use crate::passes::Passes;
use crate::pieces::Pieces;
use crate::trouble::{Trouble, is_scope_challenge, scopes};
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use http::{StatusCode, header};
use rmcp::RoleClient;
use rmcp::model::{ClientJsonRpcMessage, ServerJsonRpcMessage};
use rmcp::transport::Transport;
use sse_stream_rmcp::{Sse, SseStream};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use url::Url;

/// How long the server may take to name the address to post to.
const ENDPOINT_MAX: Duration = Duration::from_secs(10);
/// How long one post may take; the answer comes on the stream.
const POST_MAX: Duration = Duration::from_secs(60);

/// Why a message could not be sent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SseError {
    #[error("the server does not accept the credentials")]
    Unauthorized(String),
    #[error("the server wants further scopes")]
    Scope(Vec<String>),
    #[error("the server answered HTTP {0}")]
    Status(u16),
    #[error("the line broke")]
    Line(#[source] reqwest::Error),
    #[error("{0}")]
    Other(String),
}

impl SseError {
    pub fn trouble(&self) -> Trouble {
        match self {
            Self::Unauthorized(challenge) => Trouble::Unauthorized(challenge.clone()),
            Self::Scope(scopes) => Trouble::Scope(scopes.clone()),
            Self::Status(status) if (500..600).contains(status) => {
                Trouble::Unreachable(format!("it answered HTTP {status}"))
            }
            Self::Status(status) => Trouble::Garbage(format!("it answered HTTP {status}")),
            Self::Line(error) => Trouble::of_reqwest(error),
            Self::Other(text) => Trouble::Unreachable(text.clone()),
        }
    }

    fn of(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Unauthorized(challenge) => Self::Unauthorized(challenge),
            Trouble::Scope(scopes) => Self::Scope(scopes),
            other => Self::Other(other.to_string()),
        }
    }
}

/// One open stream.
pub(crate) struct SseTransport {
    http: reqwest::Client,
    passes: Arc<dyn Passes>,
    endpoint: Url,
    events: BoxStream<'static, Result<Sse, sse_stream_rmcp::Error>>,
    ledger: Arc<Ledger>,
}

impl SseTransport {
    /// Opens the stream and waits for the address to post to.
    pub async fn open(
        http: &reqwest::Client,
        url: &Url,
        passes: Arc<dyn Passes>,
        ledger: Arc<Ledger>,
    ) -> Result<Self, Trouble> {
        let get = || http.get(url.clone()).header(header::ACCEPT, "text/event-stream");
        let response = knock(&*passes, get).await.map_err(|error| error.trouble())?;
        let kind = response.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        if !kind.is_some_and(|kind| kind.starts_with("text/event-stream")) {
            return Err(Trouble::Garbage("an answer of the wrong content type".into()));
        }
        let mut events = events(response.bytes_stream().boxed(), Arc::clone(&ledger));
        let named = tokio::time::timeout(ENDPOINT_MAX, first_endpoint(&mut events)).await;
        let path = named
            .map_err(|_| Trouble::Garbage("it does not name an address to post to".into()))?
            .ok_or_else(|| Trouble::Garbage("it does not name an address to post to".into()))?;
        let endpoint =
            url.join(path.trim()).map_err(|_| Trouble::Garbage("an address that is none".into()))?;
        if endpoint.origin() != url.origin() {
            return Err(Trouble::Garbage("it wants messages posted to another place".into()));
        }
        Ok(Self { http: http.clone(), passes, endpoint, events, ledger })
    }
}

/// The events of a byte stream, none larger than the limit, read no faster than the ledger allows.
fn events(
    bytes: BoxStream<'static, Result<Bytes, reqwest::Error>>,
    ledger: Arc<Ledger>,
) -> BoxStream<'static, Result<Sse, sse_stream_rmcp::Error>> {
    let mut since_blank = 0_usize;
    let paced = bytes.then(move |chunk| {
        let wait = chunk.as_ref().map_or(Duration::ZERO, |chunk| ledger.read(chunk.len(), Instant::now()));
        async move {
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
            chunk
        }
    });
    let bounded = paced.map_err(std::io::Error::other).map(move |chunk| {
        let chunk = chunk?;
        // an event ends at an empty line; counting from the last line end in the chunk errs on the safe side
        since_blank = match chunk.windows(2).rposition(|pair| pair == b"\n\n" || pair == b"\r\r") {
            Some(at) => chunk.len() - at,
            None => since_blank + chunk.len(),
        };
        if since_blank > super::EVENT_MAX_BYTES {
            return Err(std::io::Error::other("an event that is too large"));
        }
        Ok(chunk)
    });
    SseStream::from_bytes_stream(bounded).boxed()
}

async fn first_endpoint(
    events: &mut BoxStream<'static, Result<Sse, sse_stream_rmcp::Error>>,
) -> Option<String> {
    while let Some(Ok(event)) = events.next().await {
        if event.event.as_deref() == Some("endpoint") {
            return event.data;
        }
    }
    None
}

/// Sends a request with the pass; a 401 is answered with one renewal and one retry.
async fn knock<F>(passes: &dyn Passes, request: F) -> Result<reqwest::Response, SseError>
where
    F: Fn() -> reqwest::RequestBuilder,
{
    let mut renewed = false;
    loop {
        let pass = passes.pass().await.map_err(SseError::of)?;
        let headers = pass.headers.into_iter().collect();
        let response = request().headers(headers).send().await.map_err(SseError::Line)?;
        let challenge = || {
            let header = response.headers().get(header::WWW_AUTHENTICATE);
            header.and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
        };
        match response.status() {
            StatusCode::UNAUTHORIZED
                if !renewed && passes.renew(pass.version).await.map_err(SseError::of)? =>
            {
                renewed = true;
            }
            StatusCode::UNAUTHORIZED => return Err(SseError::Unauthorized(challenge())),
            StatusCode::FORBIDDEN if is_scope_challenge(&challenge()) => {
                return Err(SseError::Scope(scopes(scope_of(&challenge()).as_deref())));
            }
            status if status.is_success() => return Ok(response),
            status => return Err(SseError::Status(status.as_u16())),
        }
    }
}

/// The `scope` parameter of a challenge.
pub(crate) fn scope_of(challenge: &str) -> Option<String> {
    let at = challenge.to_ascii_lowercase().find("scope=")?;
    let rest = &challenge[at + "scope=".len()..];
    let text = match rest.strip_prefix('"') {
        Some(quoted) => quoted.split('"').next()?,
        None => rest.split([',', ' ']).next()?,
    };
    Some(text.to_owned())
}

impl Transport<RoleClient> for SseTransport {
    type Error = SseError;

    fn send(
        &mut self,
        item: ClientJsonRpcMessage,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send + 'static {
        let (http, endpoint, passes) = (self.http.clone(), self.endpoint.clone(), Arc::clone(&self.passes));
        async move {
            let post = || http.post(endpoint.clone()).timeout(POST_MAX).json(&item);
            knock(&*passes, post).await.map(|_| ())
        }
    }

    async fn receive(&mut self) -> Option<ServerJsonRpcMessage> {
        loop {
            let event = match self.events.next().await? {
                Ok(event) => event,
                Err(_) => return None,
            };
            if event.event.as_deref().unwrap_or("message") != "message" {
                continue;
            }
            let data = event.data.as_deref().unwrap_or_default();
            if !Pieces::few(data) {
                self.ledger.cut(HOLDS_TOO_MUCH);
                return None;
            }
            match serde_json::from_str(data) {
                Ok(message) => return Some(message),
                Err(_) => tracing::debug!("An MCP server sent an event that is no message"),
            }
        }
    }

    async fn close(&mut self) -> Result<(), Self::Error> {
        self.events = futures::stream::empty().boxed();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scope_of_a_challenge_is_read_in_both_spellings() {
        let quoted = r#"Bearer error="insufficient_scope", scope="a b", resource_metadata="https://x""#;
        assert_eq!(scope_of(quoted).as_deref(), Some("a b"));
        assert_eq!(scope_of("Bearer scope=a, error=x").as_deref(), Some("a"));
        assert_eq!(scope_of("Bearer"), None);
    }
}
