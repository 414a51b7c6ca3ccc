//! The few calls this program makes to an engine: `/health`, key rotation, version.
//!
//! Addresses are IP literals from an observation; there is no DNS and no proxy on the way. Connections are kept, one
//! per engine, so that a sweep does not open thousands.

use async_trait::async_trait;
use backends::{ProbeReply, Prober};
use bytes::Bytes;
use contract::engine_api::KEY_HEADER;
use http::{Request, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

/// How long an unused connection is kept. Shorter than the probe interval and every probe opens a new one; the
/// interval is 30 s by default.
const IDLE: Duration = Duration::from_secs(70);

/// The client.
#[derive(Debug, Clone)]
pub struct EngineClient {
    client: Client<HttpConnector, Full<Bytes>>,
}

impl EngineClient {
    /// A client without connections.
    pub fn new() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(1)
            .build(connector);
        Self { client }
    }

    async fn ask(&self, request: Request<Full<Bytes>>, limit: Duration) -> ProbeReply {
        let exchange = async {
            let response = match self.client.request(request).await {
                Ok(response) => response,
                Err(error) => return unanswered(&error),
            };
            let status = response.status().as_u16();
            match Limited::new(response.into_body(), backends::ANSWER_MAX_BYTES).collect().await {
                Ok(body) => ProbeReply::Answer { status, body: body.to_bytes() },
                Err(_) => ProbeReply::Unreadable,
            }
        };
        tokio::time::timeout(limit, exchange).await.unwrap_or(ProbeReply::TimedOut)
    }
}

impl Default for EngineClient {
    fn default() -> Self {
        Self::new()
    }
}

/// Refused or reset, or an answer that is not HTTP.
fn unanswered(error: &hyper_util::client::legacy::Error) -> ProbeReply {
    if error.is_connect() {
        return ProbeReply::Refused;
    }
    let mut cause: Option<&(dyn Error + 'static)> = error.source();
    while let Some(e) = cause {
        if e.is::<std::io::Error>() {
            return ProbeReply::Refused;
        }
        if let Some(e) = e.downcast_ref::<hyper::Error>()
            && e.is_parse()
        {
            return ProbeReply::Unreadable;
        }
        cause = e.source();
    }
    ProbeReply::Refused
}

#[async_trait]
impl Prober for EngineClient {
    async fn get_health(&self, address: SocketAddr, timeout: Duration) -> ProbeReply {
        match Request::get(format!("http://{address}/health")).body(Full::default()) {
            Ok(request) => self.ask(request, timeout).await,
            Err(_) => ProbeReply::Unreadable,
        }
    }

    async fn call(
        &self,
        address: SocketAddr,
        method: &str,
        path: &str,
        engine_key: &str,
        body: Bytes,
        timeout: Duration,
    ) -> ProbeReply {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("http://{address}{path}"))
            .header(KEY_HEADER, engine_key);
        if !body.is_empty() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        match request.body(Full::from(body)) {
            Ok(request) => self.ask(request, timeout).await,
            Err(_) => ProbeReply::Unreadable,
        }
    }
}
