//! Binding and running the two listeners: the API and the internal one.
//!
//! They open before anything is known of the database, so that probes get an answer from the first moment on. Both
//! end with the process' [`Drain`]: draining keeps answering, closing stops.

use super::app::App;
use super::front::{internal_router, public_router};
use chassis::drain::Drain;
use chassis::http::{Closed, Overload, Server, ServerLimits};
use contract::{FleetCode, FleetError};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Open connections per listener. More cost memory and descriptors; fewer refuse a product's pool of callers.
const CONNECTIONS_MAX: usize = 4096;
/// Time for a request's head, and for its body, to arrive. Longer lets a trickle hold a connection; shorter cuts
/// off callers behind slow lines.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Time an idle connection is kept for the next request. Longer holds connections nobody uses; shorter than the
/// usual 60 s of callers' pools makes them meet closed connections.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// Time without progress after which a reader of an answer is given up. Answers are small.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// How long an address that is taken is tried again. Longer hides for longer that somebody else has it; shorter
/// makes a restart after a crash fail on a loaded machine.
const BIND_PATIENCE: Duration = Duration::from_secs(2);
/// Between two tries. Longer delays a restart, shorter only burns a processor.
const BIND_AGAIN: Duration = Duration::from_millis(20);

/// The limits of both listeners. A held request has no limit here: its operation has one.
pub fn limits() -> ServerLimits {
    ServerLimits {
        connections: CONNECTIONS_MAX,
        header_timeout: IDLE_TIMEOUT,
        request_timeout: Some(REQUEST_TIMEOUT),
        body_timeout: REQUEST_TIMEOUT,
        stall_timeout: STALL_TIMEOUT,
        ..ServerLimits::default()
    }
}

/// Two bound listeners.
pub struct Listeners {
    public: Server,
    internal: Server,
}

/// Takes both addresses; port 0 takes a free one.
pub async fn bind(public: SocketAddr, internal: SocketAddr) -> io::Result<Listeners> {
    if public.ip().is_unspecified() {
        tracing::warn!(%public, "The API listens on every address of this host");
    }
    let overload = overload();
    Ok(Listeners {
        public: bind_one(public).await?.when_overloaded(overload.clone()),
        internal: bind_one(internal).await?.when_overloaded(overload),
    })
}

/// A predecessor that was killed while it was starting an engine's process leaves its sockets to that child until
/// the child runs its program: moments, unless the address is somebody else's.
async fn bind_one(address: SocketAddr) -> io::Result<Server> {
    let began = Instant::now();
    loop {
        match Server::bind(address, limits()).await {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && began.elapsed() < BIND_PATIENCE => {
                tokio::time::sleep(BIND_AGAIN).await;
            }
            bound => return bound,
        }
    }
}

fn overload() -> Overload {
    let error = FleetError::new(FleetCode::CapacityExhausted, "too many open connections");
    Overload { body: error.body().to_string(), retry_after_s: 1 }
}

impl Listeners {
    /// Where the API and the internal listener are.
    pub fn addresses(&self) -> io::Result<(SocketAddr, SocketAddr)> {
        Ok((self.public.local_addr()?, self.internal.local_addr()?))
    }

    /// Serves until the app's drain closes, then finishes answers being given for at most `grace`. The answer says
    /// how many connections of the API had to be cut.
    pub async fn run(self, app: Arc<App>, grace: Duration) -> Closed {
        let drain: Drain = app.drain.clone();
        let internal = self.internal.run(internal_router(Arc::clone(&app)), drain.clone(), grace);
        let public = self.public.run(public_router(app), drain, grace);
        let (closed, _) = tokio::join!(public, internal);
        closed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_connection_too_many_is_told_in_the_shape_of_every_error() {
        let told = overload();
        let body: contract::fleet_api::ErrorBody = serde_json::from_str(&told.body).expect("parses");
        assert_eq!((body.error.code.as_str(), told.retry_after_s), ("CAPACITY_EXHAUSTED", 1));
    }

    #[test]
    fn an_idle_connection_outlives_the_pools_of_callers_and_a_trickle_does_not() {
        let limits = limits();
        assert_eq!((limits.connections, limits.header_timeout.as_secs()), (4096, 75));
        assert_eq!((limits.request_timeout, limits.body_timeout), (Some(REQUEST_TIMEOUT), REQUEST_TIMEOUT));
    }

    #[tokio::test]
    async fn silent_connections_keep_no_probe_out() {
        use axum::routing::get;
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        use tokio::net::TcpStream;
        let limits = ServerLimits { connections: 8, ..limits() };
        let server = Server::bind(([127, 0, 0, 1], 0).into(), limits).await.expect("a free port");
        let server = server.when_overloaded(overload());
        let (address, drain) = (server.local_addr().expect("bound"), Drain::new());
        let routes = axum::Router::new().route("/livez", get(|| async { "up" }));
        let running = tokio::spawn(server.run(routes, drain.clone(), Duration::ZERO));
        let mut silent = Vec::new();
        for _ in 0..100 {
            silent.push(TcpStream::connect(address).await.expect("listens"));
        }
        let mut probe = TcpStream::connect(address).await.expect("listens");
        let asked = b"GET /livez HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        probe.write_all(asked).await.expect("is taken");
        let mut answer = String::new();
        // far below the time a silent connection is given
        let read = tokio::time::timeout(Duration::from_secs(5), probe.read_to_string(&mut answer)).await;
        read.expect("in time").expect("is answered");
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("up"), "{answer}");
        drain.close();
        running.await.expect("does not panic");
    }
}
