//! The accept loop: HTTP/1.1 and HTTP/2 in clear text on one port, with a limit on everything.
//!
//! When every place is taken, a connection that rests makes room; when every place is at work, one more is told so,
//! and only a probe is still answered.

use super::crowd::{Crowd, Place, Working};
use super::stall::{Pace, Stalling, TimedBody};
use super::watch::REQUEST_ID_HEADER;
use crate::drain::{Deadline, Drain};
use axum::Router;
use axum::body::Body;
use contract::{ApiError, ErrorCode, RequestId};
use http::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

/// Connections beyond the limit that are told so, or are probes, at the same time. More would make refusing a load
/// of its own; beyond it connections are closed without a word.
const REFUSALS_AT_ONCE: usize = 64;

/// How long a connection beyond the limit may take to ask and to read the answer.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(2);

/// Pause after an accept that failed, mostly because file descriptors ran out. Shorter spins, longer keeps
/// callers waiting after the shortage is over.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How often an HTTP/2 connection is asked whether its peer still lives, and how long an answer may take.
const H2_PING_INTERVAL: Duration = Duration::from_secs(30);
const H2_PING_TIMEOUT: Duration = Duration::from_secs(20);

/// Requests at once on one HTTP/2 connection. More lets one connection do what the connection limit is
/// there to prevent; fewer makes callers open more connections.
const H2_STREAMS: u32 = 256;

/// How long connections that were cut get to be gone.
const CUT_TIMEOUT: Duration = Duration::from_secs(1);

/// Between two looks at the first bytes of a connection beyond the limit. Longer delays probes, shorter only burns
/// a processor.
const PEEK_PAUSE: Duration = Duration::from_millis(10);

/// The paths of probes, which are answered beyond the limit, too: a supervisor that gets no answer restarts a server
/// that is merely busy. A path that a server does not have is answered by its routes, as below the limit.
const PROBES: [&str; 3] = ["/health", "/livez", "/readyz"];
/// As much of a request as tells a probe: the method, the longest path, and what ends it.
const PROBE_BYTES: usize = "GET /health ".len();

/// Limits of a server.
#[derive(Debug, Clone, Copy)]
pub struct ServerLimits {
    /// Open connections. One more takes the place of the one that has rested longest; when none rests it is answered
    /// 503 and closed. More cost memory and descriptors.
    pub connections: usize,
    /// Time for the first byte of a new connection, and for what it speaks to be clear. Longer lets silent
    /// connections stay; shorter cuts clients that connect ahead of need.
    pub opening_timeout: Duration,
    /// Size of a request's header block. Larger lets callers pin memory, smaller refuses long cookies.
    pub header_bytes: usize,
    /// Time for a request's header block to arrive, and for an idle connection to send the next one.
    pub header_timeout: Duration,
    /// Shorter time for a header block to arrive, from its first byte on; `None` leaves it to `header_timeout`.
    pub request_timeout: Option<Duration>,
    /// Time without progress after which a reader is given up.
    pub stall_timeout: Duration,
    /// Waiting time for a request body, before its size earns it more.
    pub body_timeout: Duration,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            connections: 2048,
            opening_timeout: Duration::from_secs(10),
            header_bytes: 32 * 1024,
            header_timeout: Duration::from_secs(60),
            request_timeout: None,
            stall_timeout: Duration::from_secs(60),
            body_timeout: Duration::from_secs(60),
        }
    }
}

/// What one connection too many is told before it is closed.
#[derive(Debug, Clone)]
pub struct Overload {
    /// JSON body of the 503.
    pub body: String,
    /// Value of `Retry-After`.
    pub retry_after_s: u64,
}

impl Default for Overload {
    fn default() -> Self {
        let error = ApiError::new(ErrorCode::EngineBusy, "too many open connections")
            .with(serde_json::json!({"reason": "too_many_connections"}));
        Self {
            body: serde_json::to_string(&error).unwrap_or_default(),
            retry_after_s: super::retry_after(&error).unwrap_or_default(),
        }
    }
}

/// A bound listener with its limits.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    limits: ServerLimits,
    overload: Arc<Overload>,
}

/// How a server ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed {
    /// Connections that had not finished in time and were cut.
    pub cut: usize,
}

impl Server {
    /// Takes the address; port 0 takes a free one.
    pub async fn bind(address: SocketAddr, limits: ServerLimits) -> io::Result<Self> {
        Ok(Self { listener: TcpListener::bind(address).await?, limits, overload: Arc::default() })
    }

    /// Says something else to one connection too many.
    #[must_use]
    pub fn when_overloaded(mut self, overload: Overload) -> Self {
        self.overload = Arc::new(overload);
        self
    }

    /// Where it listens.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `drain` closes; then stops accepting, ends idle connections, and waits up to `grace` for
    /// the answers that are being given. While `drain` is only draining, requests are still answered.
    pub async fn run(self, routes: Router, drain: Drain, grace: Duration) -> Closed {
        let crowd = Crowd::new(self.limits.connections);
        let refusals = Arc::new(Semaphore::new(REFUSALS_AT_ONCE));
        let tasks = TaskTracker::new();
        let cut = CancellationToken::new();
        loop {
            let accepted = tokio::select! {
                biased;
                () = drain.closing() => break,
                accepted = self.listener.accept() => accepted,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(e) if is_of_the_peer(&e) => continue,
                Err(e) => {
                    tracing::warn!(error = %e, "Cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            if let Some(place) = crowd.enter() {
                let connection = Connection {
                    stream,
                    limits: self.limits,
                    drain: drain.clone(),
                    cut: cut.clone(),
                    place: Arc::new(place),
                };
                tasks.spawn(connection.serve(routes.clone()));
            } else if let Ok(permit) = refusals.clone().try_acquire_owned() {
                let beyond =
                    beyond_the_limit(stream, routes.clone(), self.limits, Arc::clone(&self.overload));
                tasks.spawn(async move {
                    let _permit = permit;
                    // The caller's trouble is not ours: whether it read the answer does not matter.
                    let _ = tokio::time::timeout(REFUSAL_TIMEOUT, beyond).await;
                });
            }
        }
        drop(self.listener);
        tasks.close();
        if Deadline::after(grace).wait(tasks.wait()).await.is_some() {
            return Closed { cut: 0 };
        }
        let left = tasks.len();
        cut.cancel();
        let _ = Deadline::after(CUT_TIMEOUT).wait(tasks.wait()).await;
        Closed { cut: left }
    }
}

/// Errors of `accept` that concern only the connection that would have been.
fn is_of_the_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

struct Connection {
    stream: TcpStream,
    limits: ServerLimits,
    drain: Drain,
    cut: CancellationToken,
    place: Arc<Place>,
}

impl Connection {
    async fn serve(self, routes: Router) {
        let limits = self.limits;
        // Small events must not wait for the acknowledgement of the ones before.
        let _ = self.stream.set_nodelay(true);
        let pace = Pace::new(limits.request_timeout);
        let opening = limits.opening_timeout.min(limits.header_timeout);
        let io = TokioIo::new(Stalling::new(self.stream, limits.stall_timeout, opening, pace.clone()));
        let place = Arc::clone(&self.place);
        let service = hyper::service::service_fn(move |request: Request<Incoming>| {
            let (at_work, busy) = (pace.begin(), place.begin());
            let request = request.map(|body| Body::new(TimedBody::new(body, limits.body_timeout)));
            let answer = routes.clone().oneshot(request);
            async move {
                // a client that sends many requests at once would otherwise have them all answered in one go
                tokio::task::yield_now().await;
                let answer = answer.await;
                drop(at_work);
                answer.map(|answer| answer.map(|body| Working::new(body, busy)))
            }
        });
        let builder = builder(&limits);
        let mut connection = std::pin::pin!(builder.serve_connection(io, service));
        let mut closing = false;
        loop {
            tokio::select! {
                outcome = connection.as_mut() => {
                    if let Err(e) = outcome {
                        tracing::debug!(error = &*e as &dyn std::error::Error, "Connection ended early");
                    }
                    return;
                }
                () = self.drain.closing(), if !closing => {
                    closing = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = self.cut.cancelled() => return,
                () = self.place.given_away() => return,
            }
        }
    }
}

fn builder(limits: &ServerLimits) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_buf_size(limits.header_bytes);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
        .max_concurrent_streams(H2_STREAMS)
        .keep_alive_interval(H2_PING_INTERVAL)
        .keep_alive_timeout(H2_PING_TIMEOUT);
    builder
}

/// One connection too many: a probe is answered, anything else is told why it is closed. Both wait for the request,
/// because clients take an answer without a question for a broken server.
async fn beyond_the_limit(
    stream: TcpStream,
    routes: Router,
    limits: ServerLimits,
    overload: Arc<Overload>,
) -> io::Result<()> {
    let mut begin = [0; PROBE_BYTES];
    let mut seen = 0;
    // a client that sends its first line in pieces is not worth a loop without a wait
    loop {
        let had = seen;
        seen = stream.peek(&mut begin).await?;
        if seen == 0 {
            return Ok(());
        }
        if seen == begin.len() || seen == had {
            break;
        }
        tokio::time::sleep(PEEK_PAUSE).await;
    }
    if is_probe(&begin[..seen]) {
        let service = hyper::service::service_fn(move |request: Request<Incoming>| {
            routes.clone().oneshot(request.map(Body::new))
        });
        let mut builder = hyper::server::conn::http1::Builder::new();
        builder.keep_alive(false).timer(TokioTimer::new()).max_buf_size(limits.header_bytes);
        builder.serve_connection(TokioIo::new(stream), service).await.map_err(io::Error::other)
    } else {
        refuse(stream, &overload).await
    }
}

/// Whether a request begins like a probe.
fn is_probe(begin: &[u8]) -> bool {
    begin.strip_prefix(b"GET ").is_some_and(|rest| {
        PROBES.iter().any(|path| matches!(rest.strip_prefix(path.as_bytes()), Some([b' ' | b'?', ..])))
    })
}

/// Says why. What the caller has sent is read away before closing, because closing with unread bytes would throw
/// the answer away.
async fn refuse(mut stream: TcpStream, overload: &Overload) -> io::Result<()> {
    let (body, seconds) = (&overload.body, overload.retry_after_s);
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         retry-after: {seconds}\r\n{REQUEST_ID_HEADER}: {}\r\nx-content-type-options: nosniff\r\n\
         cache-control: no-store\r\nconnection: close\r\n\r\n{body}",
        body.len(),
        RequestId::generate(),
    );
    let mut rest = [0; 1024];
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await?;
    while stream.read(&mut rest).await? > 0 {}
    Ok(())
}
