//! One GET for a tool: pinned to checked addresses, redirects by hand, everything limited.
//!
//! Every hop gets a client of its own that knows the checked addresses and no others, no proxy, no cookie, no
//! referer. What the server says is returned as it came; understanding it is the tool's business.
//!
//! A redirect is an address that the server chose and nobody was asked about. Where the first address had to be
//! allowed (by the list, or by a person), so has every hop: one that is not ends the fetch with
//! [`FetchError::Elsewhere`], before its name is looked up.

use super::allowlist::AllowList;
use super::guard::{Admitted, Guard};
use super::target::{self, Refused};
use bytes::BytesMut;
use futures::StreamExt;
use reqwest::header::{ACCEPT, CONTENT_TYPE, LOCATION};
use std::time::Duration;
use url::Url;

/// Redirects followed. More serves loops, fewer breaks ordinary sites. (specification 7.1)
pub const REDIRECTS_MAX: usize = 5;
/// How long a connection may take.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// What the tool can read.
const WANTED: &str = "text/html,application/xhtml+xml,text/plain;q=0.9,application/json;q=0.9,*/*;q=0.5";

/// How much and how long.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of the body that are read; the rest is left.
    pub bytes: usize,
    /// From the first lookup to the last byte, over all redirects.
    pub time: Duration,
}

/// Where redirects may lead, besides what the guard asks of every address.
#[derive(Debug, Clone)]
pub struct Hops {
    granted: Option<AllowList>,
}

impl Hops {
    /// Wherever the guard lets them: nobody had to allow the first address either.
    pub fn anywhere() -> Self {
        Self { granted: None }
    }

    /// Hosts of TOOL_NETWORK_ALLOWLIST, and these.
    pub fn within<S: AsRef<str>>(granted: impl IntoIterator<Item = S>) -> Self {
        Self { granted: Some(AllowList::new(granted)) }
    }

    /// Checks one redirect; nothing is looked up.
    fn check(&self, to: &str, list: &AllowList) -> Result<(), FetchError> {
        let Some(granted) = &self.granted else { return Ok(()) };
        let (url, target) = target::read(to, list)?;
        if list.covers(&target.host, target.port) || granted.covers(&target.host, target.port) {
            Ok(())
        } else {
            Err(FetchError::Elsewhere(url))
        }
    }
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Where it came from in the end.
    pub url: Url,
    /// The status.
    pub status: u16,
    /// The Content-Type header.
    pub content_type: String,
    /// The body, up to the limit.
    pub body: Vec<u8>,
    /// There was more.
    pub cut: bool,
}

/// Why nothing came back.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The request, or one it was redirected to, is not allowed.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// It redirects to an address that nobody has allowed.
    #[error("it redirects to {0}, which nobody has allowed")]
    Elsewhere(Url),
    /// Too many redirects.
    #[error("more than {REDIRECTS_MAX} redirects")]
    Redirects,
    /// The time is up.
    #[error("no complete answer within {} s", .0.as_secs())]
    Timeout(Duration),
    /// The connection or the server failed.
    #[error("{0}")]
    Failed(String),
}

/// Fetches a URL.
pub async fn get(guard: &Guard, url: &str, limits: Limits, hops: &Hops) -> Result<Page, FetchError> {
    match tokio::time::timeout(limits.time, follow(guard, url, limits, hops)).await {
        Ok(result) => result,
        Err(_) => Err(FetchError::Timeout(limits.time)),
    }
}

async fn follow(guard: &Guard, url: &str, limits: Limits, hops: &Hops) -> Result<Page, FetchError> {
    let mut next = url.to_owned();
    for _ in 0..=REDIRECTS_MAX {
        let (url, admitted) = guard.admit_url(&next).await?;
        let response = request(&url, &admitted).await?;
        match redirect(&url, &response) {
            Some(location) => {
                next = location?;
                hops.check(&next, guard.list())?;
            }
            None => return read(url, response, limits.bytes).await,
        }
    }
    Err(FetchError::Redirects)
}

/// Where a response sends us, if it does.
fn redirect(from: &Url, response: &reqwest::Response) -> Option<Result<String, FetchError>> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return None;
    }
    let location = response.headers().get(LOCATION)?;
    let joined = location.to_str().ok().and_then(|l| from.join(l).ok()).map(String::from);
    Some(joined.ok_or_else(|| Refused::Url("it redirects to something that is no URL".into()).into()))
}

async fn request(url: &Url, admitted: &Admitted) -> Result<reqwest::Response, FetchError> {
    let (host, addresses, tls) =
        (admitted.target.host.clone(), admitted.addresses.clone(), url.scheme() == "https");
    // reading the system's certificates is disk and CPU
    let client = tokio::task::spawn_blocking(move || client(&host, &addresses, tls)).await;
    let client = match client {
        Ok(Ok(client)) => client,
        Ok(Err(error)) => return Err(FetchError::Failed(llm::net::describe(error))),
        Err(_) => return Err(FetchError::Failed("the engine is stopping".into())),
    };
    let sent = client.get(url.clone()).header(ACCEPT, WANTED).send().await;
    sent.map_err(|e| FetchError::Failed(llm::net::describe(e)))
}

fn client(host: &str, addresses: &[std::net::SocketAddr], tls: bool) -> reqwest::Result<reqwest::Client> {
    llm::net::install_crypto();
    let mut builder = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .connect_timeout(CONNECT_MAX)
        .pool_max_idle_per_host(0)
        .user_agent(concat!("september-engine/", env!("CARGO_PKG_VERSION")))
        .resolve_to_addrs(host, addresses);
    if !tls {
        builder = builder.tls_certs_only([]);
    }
    builder.build()
}

async fn read(url: Url, response: reqwest::Response, limit: usize) -> Result<Page, FetchError> {
    let status = response.status().as_u16();
    let content_type = response.headers().get(CONTENT_TYPE).and_then(|v| v.to_str().ok());
    let content_type = content_type.unwrap_or_default().to_owned();
    let mut body = BytesMut::new();
    let mut cut = false;
    let mut stream = response.bytes_stream();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|e| FetchError::Failed(llm::net::describe(e)))?;
        let room = limit - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if chunk.len() > room {
            cut = true;
            break;
        }
    }
    Ok(Page { url, status, content_type, body: body.to_vec(), cut })
}

#[cfg(test)]
#[path = "fetch_tests.rs"]
mod tests;
