//! The port, and what stands in front of the routes: key, Host, Origin, readiness, request metrics.
//!
//! The port is bound before anything else is opened. The invariant: only /health is answered while the Engine is
//! not ready.

use crate::config::Config;
use crate::http::app::App;
use crate::http::routes;
use chassis::http::{
    Guard, HostRule, OriginRule, Preflight, RequestMetrics, Server, ServerLimits, Watch, front,
};
use contract::engine_api::KEY_HEADER;
use http::HeaderName;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long an address that is taken is tried again. Longer hides for longer that somebody else has it; shorter
/// makes a restart after a crash fail on a loaded machine.
const BIND_PATIENCE: Duration = Duration::from_secs(2);
/// Between two tries. Longer delays a restart, shorter only burns a processor.
const BIND_AGAIN: Duration = Duration::from_millis(5);

/// A predecessor that was killed while it was starting a child leaves its sockets to that child until the child
/// runs its program or dies with it: moments, unless the address is somebody else's.
pub(super) async fn bind(address: SocketAddr) -> io::Result<Server> {
    let end = Instant::now() + BIND_PATIENCE;
    let mut told = false;
    loop {
        match Server::bind(address, ServerLimits::default()).await {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < end => {
                if !std::mem::replace(&mut told, true) {
                    tracing::info!(%address, "The address is taken; trying again for a moment");
                }
                tokio::time::sleep(BIND_AGAIN).await;
            }
            bound => return bound,
        }
    }
}

pub(super) fn front_of(app: &Arc<App>, config: &Config) -> axum::Router {
    let gate = Arc::clone(app);
    let guard = Guard {
        key_header: HeaderName::from_static(KEY_HEADER),
        keys: Arc::clone(&app.keys),
        keyless: routes::keyless,
        gate: Box::new(move |_, path| if path == "/health" { None } else { gate.not_ready() }),
        hosts: HostRule::new(
            config.engine_allowed_hosts.iter().cloned().chain([config.engine_host.to_string()]),
        ),
        hosts_variable: "ENGINE_ALLOWED_HOSTS",
        origins: OriginRule::new(&config.cors_origins, config.cors_allow_credentials),
        origins_variable: "CORS_ORIGINS",
        preflight: Preflight {
            methods: routes::methods,
            headers: "X-Engine-Key, Content-Type, Idempotency-Key, Last-Event-ID, X-Request-Id",
            expose: "X-Request-Id, Retry-After",
        },
    };
    let watch = Watch {
        metrics: RequestMetrics {
            requests_total: "engine_requests_total",
            errors_total: "engine_errors_total",
            request_duration_seconds: "engine_request_duration_seconds",
        },
        quiet: &["/health", "/metrics"],
    };
    front(routes::router(app), Arc::new(watch), Arc::new(guard))
}
