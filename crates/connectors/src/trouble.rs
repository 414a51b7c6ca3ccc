//! What can go wrong with a server, by what the caller can do about it.

use crate::books::BooksError;
use rmcp::model::ErrorCode;
use rmcp::service::{ClientInitializeError, ServiceError};
use rmcp::transport::streamable_http_client::StreamableHttpError;
use std::error::Error;
use std::time::Duration;

/// Longest text of a server's error that is repeated. More would let an error page into the context.
const SAID_MAX_CHARS: usize = 500;

/// Why a server did not do what was asked. No variant carries a credential or an address.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// There is no such connection (any more), or it does not list this action.
    #[error("there is no such connection or action")]
    Gone,
    /// The server wants credentials that are missing, or refuses those it got. Holds its challenge.
    #[error("the server does not accept the credentials")]
    Unauthorized(String),
    /// The credentials lack a scope. Holds the scopes the server named.
    #[error("the server wants further scopes")]
    Scope(Vec<String>),
    /// The circuit breaker is open.
    #[error("the server has failed repeatedly; it is tried again in {} s", .0.as_secs() + 1)]
    Resting(Duration),
    /// It could not be reached, or hung up.
    #[error("the server cannot be reached: {0}")]
    Unreachable(String),
    /// It answered what is not the protocol.
    #[error("the server does not keep to the protocol: {0}")]
    Garbage(String),
    /// It sent more than it may, and the line was cut.
    #[error("the server was cut off: {0}")]
    Cut(&'static str),
    /// It did not answer in time.
    #[error("the server did not answer within {} s", .0.as_secs())]
    TimedOut(Duration),
    /// It said no. The text is the server's.
    #[error("the server refused the request: {0}")]
    Refused(String),
    /// The server describes the action otherwise than a person approved. Nothing was sent.
    #[error("the server has changed the definition of this action, and nobody has approved it yet")]
    Changed,
    /// The line was opened anew since its tools were compared with the pins. Nothing was sent.
    #[error("the server hung up again and again")]
    Reopened,
    /// The caller cancelled.
    #[error("cancelled")]
    Cancelled,
    /// The books failed.
    #[error(transparent)]
    Books(#[from] BooksError),
}

impl Trouble {
    /// Whether the circuit breaker counts it.
    pub fn counts(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Garbage(_) | Self::Cut(_) | Self::TimedOut(_) => true,
            Self::Gone
            | Self::Unauthorized(_)
            | Self::Scope(_)
            | Self::Resting(_)
            | Self::Refused(_)
            | Self::Changed
            | Self::Reopened
            | Self::Cancelled
            | Self::Books(_) => false,
        }
    }

    /// Whether another way of speaking to the server might work.
    pub(crate) fn is_protocol(&self) -> bool {
        matches!(self, Self::Garbage(_) | Self::Refused(_))
    }

    pub(crate) fn of_request(error: &ServiceError) -> Self {
        match error {
            ServiceError::McpError(said) if said.code == ErrorCode::PARSE_ERROR => {
                Self::Garbage(short(&said.message))
            }
            ServiceError::McpError(said) => Self::Refused(short(&said.message)),
            ServiceError::TransportSend(sent) => Self::of_chain(sent),
            ServiceError::TransportClosed => Self::Unreachable("it hung up".into()),
            ServiceError::UnexpectedResponse | ServiceError::InputRequiredRoundsExceeded { .. } => {
                Self::Garbage("an answer of the wrong kind".into())
            }
            ServiceError::Cancelled { .. } => Self::Cancelled,
            ServiceError::Timeout { timeout } => Self::TimedOut(*timeout),
            // rmcp may learn further kinds
            _ => Self::Garbage("the request failed".into()),
        }
    }

    pub(crate) fn of_opening(error: &ClientInitializeError) -> Self {
        match error {
            ClientInitializeError::JsonRpcError(said) => Self::Refused(short(&said.message)),
            ClientInitializeError::TransportError { error, .. } => Self::of_chain(error),
            ClientInitializeError::ConnectionClosed(_) => Self::Unreachable("it hung up".into()),
            ClientInitializeError::LegacyFallbackFailed { fallback, .. } => Self::of_opening(fallback),
            ClientInitializeError::Cancelled => Self::Cancelled,
            ClientInitializeError::NoCompatibleProtocolVersion { .. } => {
                Self::Garbage("it speaks no revision that is spoken here".into())
            }
            // rmcp may learn further kinds
            _ => Self::Garbage("its first answer is of the wrong kind".into()),
        }
    }

    fn of_chain(error: &(dyn Error + 'static)) -> Self {
        let mut next = Some(error);
        while let Some(current) = next {
            if let Some(http) = current.downcast_ref::<StreamableHttpError<reqwest::Error>>() {
                return Self::of_http(http);
            }
            if let Some(sent) = current.downcast_ref::<crate::transport::sse::SseError>() {
                return sent.trouble();
            }
            if let Some(io) = current.downcast_ref::<std::io::Error>() {
                return Self::Unreachable(io.kind().to_string());
            }
            next = current.source();
        }
        Self::Unreachable("the line broke".into())
    }

    pub(crate) fn of_http(error: &StreamableHttpError<reqwest::Error>) -> Self {
        type E = StreamableHttpError<reqwest::Error>;
        match error {
            E::AuthRequired(challenge) => Self::Unauthorized(challenge.www_authenticate_header.clone()),
            E::InsufficientScope(challenge) => match is_scope_challenge(&challenge.www_authenticate_header) {
                true => Self::Scope(scopes(challenge.required_scope.as_deref())),
                false => Self::Refused("it answered 403".into()),
            },
            E::HttpStatus(status) => Self::Unreachable(format!("it answered HTTP {}", status.status)),
            E::Client(error) => Self::of_reqwest(error),
            E::UnexpectedServerResponse(text) if text.starts_with("HTTP 403") => {
                Self::Refused("it answered 403".into())
            }
            E::UnexpectedServerResponse(text) => Self::Garbage(match text.strip_prefix("HTTP ") {
                Some(status) => format!("it answered HTTP {}", status.chars().take(3).collect::<String>()),
                None => "an answer of the wrong kind".into(),
            }),
            E::UnexpectedContentType(_) => Self::Garbage("an answer of the wrong content type".into()),
            E::ResponseBodyTooLarge { .. } => Self::Garbage("an answer that is too large".into()),
            E::Deserialize(_) => Self::Garbage("an answer that is no JSON-RPC".into()),
            E::SessionExpired => Self::Garbage("the session was lost".into()),
            E::Io(error) => Self::Unreachable(error.kind().to_string()),
            // rmcp may learn further kinds
            _ => Self::Unreachable("the line broke".into()),
        }
    }

    pub(crate) fn of_reqwest(error: &reqwest::Error) -> Self {
        let what = if error.is_timeout() {
            "no answer in time"
        } else if error.is_connect() {
            "no connection"
        } else if error.is_redirect() {
            "it redirects to another place"
        } else {
            "the line broke"
        };
        Self::Unreachable(what.into())
    }
}

/// Whether a challenge of a 403 is about scopes.
pub(crate) fn is_scope_challenge(header: &str) -> bool {
    header.to_ascii_lowercase().contains("insufficient_scope")
}

pub(crate) fn scopes(text: Option<&str>) -> Vec<String> {
    let words = text.unwrap_or_default().split_whitespace();
    words.filter(|scope| crate::server::is_scope(scope)).map(str::to_owned).collect()
}

fn short(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(SAID_MAX_CHARS).collect()
}
