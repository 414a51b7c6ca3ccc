//! How a server is spoken to: the revision of the protocol is found out per server and remembered.
//!
//! The order over HTTP: a modern request first; when the server does not know it, the `initialize` handshake;
//! when that is refused too, the event stream of 2024-11-05. What worked is tried first the next time, and when
//! it stops fitting everything is tried again.

pub(crate) mod bounded;
pub(crate) mod http;
pub(crate) mod probe;
pub(crate) mod sse;

use crate::ceilings::Ledger;
use crate::handler::Handler;
use crate::launch::{Launch, Program};
use crate::passes::Passes;
use crate::server::Transport;
use crate::trouble::Trouble;
use bounded::{Bounded, Metered};
use contract::ConnectionId;
use futures::future::BoxFuture;
use http::Door;
use rmcp::model::ProtocolVersion;
use rmcp::service::{ClientLifecycleMode, RunningService, serve_client_with_lifecycle};
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::transport::async_rw::AsyncRwTransport;
use rmcp::transport::streamable_http_client::StreamableHttpClientTransportConfig;
use rmcp::{RoleClient, transport::IntoTransport};
use std::any::Any;
use std::sync::Arc;
use std::time::Duration;
use url::Url;

/// Largest event of a stream. Larger ones could fill the memory; smaller would cut pictures.
pub const EVENT_MAX_BYTES: usize = 16 * 1024 * 1024;
/// Longest line of a stdio server, for the same reason.
pub const LINE_MAX_BYTES: usize = 16 * 1024 * 1024;
/// How long a server may take to greet. Longer makes a call wait for a dead server; shorter loses servers that
/// are fetched or compiled when they start.
pub const GREETING_MAX: Duration = Duration::from_secs(60);

/// How a server is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Era {
    /// 2026-07-28: stateless, every request complete in itself.
    Modern,
    /// 2025-03-26 to 2025-11-25: a handshake, and a session over HTTP.
    Handshake,
    /// 2024-11-05 over HTTP: an event stream and a second address to post to.
    EventStream,
}

impl Era {
    /// Every era.
    pub const ALL: [Self; 3] = [Self::Modern, Self::Handshake, Self::EventStream];

    /// The word in storage.
    pub fn word(self) -> &'static str {
        match self {
            Self::Modern => "modern",
            Self::Handshake => "handshake",
            Self::EventStream => "event-stream",
        }
    }

    /// Reads the word back.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|era| era.word() == word)
    }
}

/// The ways to try, in order. Pure.
pub fn attempts(transport: &Transport, remembered: Option<Era>) -> Vec<Attempt> {
    let all: &[Attempt] = match transport {
        // detection falls back to the handshake by itself, but not for servers that answer what they do not know
        // with an empty result: these are greeted anew
        Transport::Http { .. } => &[Attempt::Detect, Attempt::Handshake, Attempt::EventStream],
        Transport::Sse { .. } => &[Attempt::EventStream, Attempt::Detect, Attempt::Handshake],
        Transport::Stdio { .. } => &[Attempt::Detect, Attempt::Handshake],
    };
    let first = match (transport, remembered) {
        (_, None | Some(Era::Modern)) => None,
        (_, Some(Era::Handshake)) => Some(Attempt::Handshake),
        (Transport::Stdio { .. }, Some(Era::EventStream)) => None,
        (Transport::Http { .. } | Transport::Sse { .. }, Some(Era::EventStream)) => {
            Some(Attempt::EventStream)
        }
    };
    let rest = all.iter().copied().filter(|attempt| Some(*attempt) != first);
    first.into_iter().chain(rest).collect()
}

/// One way to open a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt {
    /// Ask the modern way, fall back to the handshake.
    Detect,
    /// The handshake at once.
    Handshake,
    /// The event stream of 2024-11-05.
    EventStream,
}

/// An open line.
pub(crate) struct Opened {
    pub service: RunningService<RoleClient, Handler>,
    pub era: Era,
    /// The child process, for a stdio server.
    pub process: Option<Box<dyn Any + Send + Sync>>,
}

/// Everything needed to open a line.
pub(crate) struct Opener {
    pub transport: Transport,
    pub ref_id: ConnectionId,
    pub http: reqwest::Client,
    pub passes: Arc<dyn Passes>,
    pub launch: Arc<dyn Launch>,
}

impl Opener {
    /// Opens a line, the remembered way first.
    pub async fn open(&self, handler: &Handler, remembered: Option<Era>) -> Result<Opened, Trouble> {
        let mut first = None;
        for attempt in attempts(&self.transport, remembered) {
            let tried = tokio::time::timeout(GREETING_MAX, self.attempt(attempt, handler.clone())).await;
            let tried = tried.unwrap_or(Err(Trouble::TimedOut(GREETING_MAX)));
            match tried.map_err(|trouble| handler.ledger.why().map_or(trouble, Trouble::Cut)) {
                Ok(opened) => return Ok(opened),
                // only an answer that does not fit says that another way may
                Err(trouble) if trouble.is_protocol() => {
                    first.get_or_insert(trouble);
                }
                Err(trouble) => return Err(first.unwrap_or(trouble)),
            }
        }
        Err(first.unwrap_or_else(|| Trouble::Garbage("no way to speak to it is left".into())))
    }

    async fn attempt(&self, attempt: Attempt, handler: Handler) -> Result<Opened, Trouble> {
        match &self.transport {
            Transport::Stdio { command, env, network } => {
                let program = Program {
                    ref_id: self.ref_id.clone(),
                    command: command.clone(),
                    env: env.clone(),
                    network: network.clone(),
                };
                let pipes = self.launch.launch(program).await.map_err(Trouble::Unreachable)?;
                let ledger = Arc::clone(&handler.ledger);
                let output = Metered::new(pipes.output, Arc::clone(&ledger));
                let lines = AsyncRwTransport::new(output, pipes.input).with_max_line_length(LINE_MAX_BYTES);
                let line = Bounded::judging(probe::Probe::new(lines), ledger);
                let mut opened = serve(handler, line, lifecycle(attempt)).await?;
                opened.process = Some(pipes.process);
                Ok(opened)
            }
            Transport::Http { url } | Transport::Sse { url } if attempt == Attempt::EventStream => {
                let (passes, ledger) = (Arc::clone(&self.passes), Arc::clone(&handler.ledger));
                let line = sse::SseTransport::open(&self.http, url, passes, Arc::clone(&ledger)).await?;
                let line = Bounded::judging(line, ledger);
                let mut opened = serve(handler, line, ClientLifecycleMode::Initialize).await?;
                opened.era = Era::EventStream;
                Ok(opened)
            }
            Transport::Http { url } | Transport::Sse { url } => {
                let ledger = Arc::clone(&handler.ledger);
                let line = Bounded::counting(self.streamable(url, Arc::clone(&ledger)), ledger);
                serve(handler, line, lifecycle(attempt)).await
            }
        }
    }

    fn streamable(&self, url: &Url, ledger: Arc<Ledger>) -> StreamableHttpClientTransport<Door> {
        let mut config = StreamableHttpClientTransportConfig::with_uri(url.as_str());
        config.max_sse_event_size = EVENT_MAX_BYTES;
        let door = Door { http: self.http.clone(), passes: Arc::clone(&self.passes), ledger };
        StreamableHttpClientTransport::with_client(door, config)
    }
}

fn lifecycle(attempt: Attempt) -> ClientLifecycleMode {
    match attempt {
        Attempt::Detect => ClientLifecycleMode::Auto {
            preferred_versions: vec![ProtocolVersion::V_2026_07_28],
            legacy_version: Some(ProtocolVersion::V_2025_11_25),
        },
        Attempt::Handshake | Attempt::EventStream => ClientLifecycleMode::Initialize,
    }
}

fn serve<T, E, A>(
    handler: Handler,
    line: T,
    lifecycle: ClientLifecycleMode,
) -> BoxFuture<'static, Result<Opened, Trouble>>
where
    T: IntoTransport<RoleClient, E, A>,
    E: std::error::Error + Send + Sync + 'static,
    A: 'static,
{
    // boxed: the compiler cannot see through the library's future otherwise
    Box::pin(async move {
        let service = serve_client_with_lifecycle(handler, line, lifecycle)
            .await
            .map_err(|error| Trouble::of_opening(&error))?;
        let modern = service.peer().peer_info().is_some_and(|info| !info.protocol_version.has_initialize());
        let era = if modern { Era::Modern } else { Era::Handshake };
        Ok(Opened { service, era, process: None })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn what_worked_is_tried_first_and_everything_else_after_it() {
        use Attempt::{Detect, EventStream, Handshake};
        let url = Url::parse("https://x.example.com").expect("is a URL");
        let http = Transport::Http { url: url.clone() };
        let sse = Transport::Sse { url };
        let stdio = Transport::Stdio { command: vec!["x".into()], env: BTreeMap::new(), network: Vec::new() };
        let table: [(&Transport, Option<Era>, &[Attempt]); 10] = [
            (&http, None, &[Detect, Handshake, EventStream]),
            (&http, Some(Era::Modern), &[Detect, Handshake, EventStream]),
            (&http, Some(Era::Handshake), &[Handshake, Detect, EventStream]),
            (&http, Some(Era::EventStream), &[EventStream, Detect, Handshake]),
            (&sse, None, &[EventStream, Detect, Handshake]),
            (&sse, Some(Era::Handshake), &[Handshake, EventStream, Detect]),
            (&sse, Some(Era::EventStream), &[EventStream, Detect, Handshake]),
            (&stdio, None, &[Detect, Handshake]),
            (&stdio, Some(Era::Handshake), &[Handshake, Detect]),
            (&stdio, Some(Era::EventStream), &[Detect, Handshake]),
        ];
        for (transport, remembered, expected) in table {
            assert_eq!(attempts(transport, remembered), expected, "{} {remembered:?}", transport.word());
        }
        for era in Era::ALL {
            assert_eq!(Era::parse(era.word()), Some(era));
        }
    }
}
