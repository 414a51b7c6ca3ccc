//! The HTTP client under the protocol library: it shows the pass, and answers a 401 with one renewal and one
//! retry.
//!
//! Everything else of streamable HTTP (headers, sessions, streams, size limits) is the library's. The invariant:
//! a request is sent a second time only after the server has refused the first one unread, for its credentials.

use crate::passes::{Pass, Passes};
use crate::trouble::{Trouble, is_scope_challenge};
use futures::stream::BoxStream;
use http::{HeaderName, HeaderValue};
use rmcp::model::ClientJsonRpcMessage;
use rmcp::transport::streamable_http_client::{
    AuthRequiredError, SseError, StreamableHttpClient, StreamableHttpError, StreamableHttpPostResponse,
};
use sse_stream_rmcp::Sse;
use std::collections::HashMap;
use std::sync::Arc;

type Failed = StreamableHttpError<reqwest::Error>;
type Headers = HashMap<HeaderName, HeaderValue>;

/// The client of one connection.
#[derive(Clone)]
pub(crate) struct Door {
    pub http: reqwest::Client,
    pub passes: Arc<dyn Passes>,
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
        self.knock(headers, |headers| {
            let (uri, message, session) = (uri.clone(), message.clone(), session.clone());
            self.http.post_message_with_max_sse_event_size(uri, message, session, token.clone(), headers, max)
        })
        .await
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
    ) -> Result<BoxStream<'static, Result<Sse, SseError>>, Failed> {
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
    ) -> Result<BoxStream<'static, Result<Sse, SseError>>, Failed> {
        self.knock(headers, |headers| {
            let (uri, session, last) = (uri.clone(), session.clone(), last.clone());
            self.http.get_stream_with_max_sse_event_size(uri, session, last, token.clone(), headers, max)
        })
        .await
    }
}
