//! The line to the Docker daemon: where it is, kept-alive connections, and the version both sides speak.
//!
//! It refuses TCP without TLS (the daemon's API is root on its host). Nothing here knows what a call means. The one
//! invariant: nothing is sent before both sides agreed on a version, and a lost line means agreeing anew.

use super::refusal::Refusal;
use bollard::{API_DEFAULT_VERSION, BollardRequest, Docker};
use http::uri::PathAndQuery;
use http::{Method, Uri};
use hyper_util::client::legacy::connect::{Connect, HttpConnector};
use hyper_util::client::legacy::{Client, Error as LineError};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::net::UnixStream;

/// Where a daemon listens unless told otherwise.
pub(crate) const DEFAULT_SOCKET: &str = "/var/run/docker.sock";

/// Connections kept open between calls. More would hold descriptors of the daemon for nothing; fewer would make a
/// sweep over many engines connect for every look.
const IDLE_CONNECTIONS_MAX: usize = 8;
/// How long a connection may lie idle. Longer keeps sockets that a restarted proxy has forgotten; shorter makes the
/// reconcile loop (30 s) connect anew each time.
const IDLE_CONNECTION_TTL: Duration = Duration::from_secs(75);
/// The client's own wait for response headers. Every call has a shorter deadline; a smaller value would end a long
/// `stop` or `wait` behind its caller's back.
const CLIENT_TIMEOUT_S: u64 = 24 * 3600;
/// Lowest minor version of API 1.x that has everything used here.
const MINOR_MIN: usize = 41;

/// Where the daemon is and how it is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    /// A socket in the file system.
    Socket(PathBuf),
    /// `host:port` over TLS with the certificates in that directory.
    Tls(String, PathBuf),
}

impl Address {
    /// Reads `DOCKER_HOST` and `DOCKER_CERT_PATH`; the error is for people.
    pub fn parse(host: Option<&str>, certificates: Option<&Path>) -> Result<Self, String> {
        let host = host.filter(|text| !text.is_empty()).unwrap_or(DEFAULT_SOCKET);
        if let Some(path) = host.strip_prefix("unix://").or_else(|| host.starts_with('/').then_some(host)) {
            if !path.starts_with('/') {
                return Err("a Docker socket is named by an absolute path: unix:///path".into());
            }
            return Ok(Address::Socket(PathBuf::from(path)));
        }
        let Some(place) = host.strip_prefix("tcp://").or_else(|| host.strip_prefix("https://")) else {
            return Err("DOCKER_HOST is unix:///path or tcp://host:port".into());
        };
        let place = place.trim_end_matches('/');
        match certificates {
            Some(directory) => Ok(Address::Tls(place.to_owned(), directory.to_owned())),
            None => Err("Docker over TCP needs TLS: set DOCKER_TLS_VERIFY and DOCKER_CERT_PATH".into()),
        }
    }
}

/// The daemon, as two clients: one for calls, one whose single connection carries events.
#[derive(Clone)]
pub(crate) struct Daemon {
    calls: Docker,
    events: Docker,
    /// Minor version agreed on; 0 = not yet, or not since the line was lost.
    agreed: Arc<AtomicUsize>,
}

impl Daemon {
    /// Prepares both clients; connects nothing. The error is for people.
    pub fn at(address: &Address) -> Result<Self, String> {
        let agreed = Arc::new(AtomicUsize::new(0));
        let (calls, events) = match address {
            Address::Socket(path) => {
                let make =
                    |idle| client_over(SocketConnector(path.clone()), "http://localhost", idle, &agreed);
                (make(IDLE_CONNECTIONS_MAX)?, make(0)?)
            }
            Address::Tls(place, directory) => {
                let tls = tls_connector(directory)?;
                let base = format!("https://{place}");
                let make = |idle| client_over(tls.clone(), &base, idle, &agreed);
                (make(IDLE_CONNECTIONS_MAX)?, make(0)?)
            }
        };
        Ok(Self { calls, events, agreed })
    }

    /// The client for calls, after agreeing on a version.
    pub async fn calls(&self) -> Result<&Docker, Refusal> {
        self.agree().await?;
        Ok(&self.calls)
    }

    /// The client for the event stream, after agreeing on a version.
    pub async fn events(&self) -> Result<&Docker, Refusal> {
        self.agree().await?;
        Ok(&self.events)
    }

    /// The line was lost: another daemon version may answer next.
    pub fn forget(&self) {
        self.agreed.store(0, Ordering::Relaxed);
    }

    async fn agree(&self) -> Result<(), Refusal> {
        if self.agreed.load(Ordering::Relaxed) != 0 {
            return Ok(());
        }
        let theirs = self.calls.version().await?;
        let highest = minor_of(theirs.api_version.as_deref());
        let lowest = minor_of(theirs.min_api_version.as_deref()).unwrap_or(0);
        let ours = API_DEFAULT_VERSION.minor_version;
        match highest.map(|highest| highest.min(ours)) {
            Some(minor) if minor >= MINOR_MIN && minor >= lowest => {
                self.agreed.store(minor, Ordering::Relaxed);
                Ok(())
            }
            _ => Err(Refusal::Garbled(format!(
                "Docker Engine API 1.{MINOR_MIN} or later is needed, the daemon speaks {} to {}",
                theirs.min_api_version.as_deref().unwrap_or("?"),
                theirs.api_version.as_deref().unwrap_or("?"),
            ))),
        }
    }
}

/// The minor number of `1.<minor>`.
fn minor_of(version: Option<&str>) -> Option<usize> {
    version?.strip_prefix("1.")?.parse().ok()
}

/// A bollard client whose requests carry the agreed version and whose connections are kept.
fn client_over<C>(connector: C, base: &str, idle: usize, agreed: &Arc<AtomicUsize>) -> Result<Docker, String>
where
    C: Connect + Clone + Send + Sync + 'static,
{
    let client = Client::builder(TokioExecutor::new())
        .pool_max_idle_per_host(idle)
        .pool_idle_timeout(IDLE_CONNECTION_TTL)
        .pool_timer(TokioTimer::new())
        .build(connector);
    let agreed = Arc::clone(agreed);
    let send = move |mut request: BollardRequest| {
        let minor = agreed.load(Ordering::Relaxed);
        if minor != 0 {
            *request.uri_mut() = with_version(request.uri(), minor);
        }
        let client = client.clone();
        async move {
            // Kept connections may have been cut while they lay idle, which shows only when one is used, and a daemon
            // that restarts cuts all of them. Asking again changes nothing; everything else goes back to the caller,
            // who looks first.
            let mut again = (request.method() == Method::GET).then(|| question(&request));
            let mut answer = client.request(request).await;
            for _ in 0..idle {
                let (Err(err), Some(next)) = (&answer, again.take()) else { break };
                if err.is_connect() {
                    break;
                }
                again = Some(question(&next));
                answer = client.request(next).await;
            }
            answer.map_err(|err: LineError| err.into())
        }
    };
    Docker::connect_with_custom_transport(send, Some(base), CLIENT_TIMEOUT_S, API_DEFAULT_VERSION)
        .map_err(|err| err.to_string())
}

/// The same question once more; questions have no body.
fn question(request: &BollardRequest) -> BollardRequest {
    let mut again = BollardRequest::new(bollard::body_full(bytes::Bytes::new()));
    *again.method_mut() = Method::GET;
    again.uri_mut().clone_from(request.uri());
    again.headers_mut().clone_from(request.headers());
    again
}

/// The same address below `/v1.<minor>`; bollard itself asks without a version.
fn with_version(uri: &Uri, minor: usize) -> Uri {
    let mut parts = uri.clone().into_parts();
    let path = parts.path_and_query.as_ref().map_or("/", PathAndQuery::as_str);
    parts.path_and_query = PathAndQuery::try_from(format!("/v1.{minor}{path}")).ok();
    Uri::from_parts(parts).unwrap_or_else(|_| uri.clone())
}

/// Opens a socket in the file system, whatever the address of the request says.
#[derive(Clone)]
struct SocketConnector(PathBuf);

impl tower::Service<Uri> for SocketConnector {
    type Response = TokioIo<UnixStream>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = std::io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let path = self.0.clone();
        Box::pin(async move { UnixStream::connect(path).await.map(TokioIo::new) })
    }
}

type TlsConnector = hyper_rustls::HttpsConnector<HttpConnector>;

/// TLS that trusts `ca.pem` alone and shows `cert.pem` with `key.pem`, as Docker's own client does.
fn tls_connector(directory: &Path) -> Result<TlsConnector, String> {
    let wrong =
        |name: &str, err: &dyn std::fmt::Display| format!("{}: {err}", directory.join(name).display());
    let read = |name: &str| std::fs::read(directory.join(name)).map_err(|err| wrong(name, &err));
    let certificates = |name: &str| -> Result<Vec<CertificateDer<'static>>, String> {
        CertificateDer::pem_slice_iter(&read(name)?)
            .collect::<Result<_, _>>()
            .map_err(|err| wrong(name, &err))
    };
    let mut roots = rustls::RootCertStore::empty();
    for certificate in certificates("ca.pem")? {
        roots.add(certificate).map_err(|err| wrong("ca.pem", &err))?;
    }
    let key = PrivateKeyDer::from_pem_slice(&read("key.pem")?).map_err(|err| wrong("key.pem", &err))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|err| err.to_string())?
        .with_root_certificates(roots)
        .with_client_auth_cert(certificates("cert.pem")?, key)
        .map_err(|err| wrong("cert.pem", &err))?;
    Ok(hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(config).https_only().enable_http1().build())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_daemon_is_a_socket_or_tls_and_nothing_else() {
        let certificates = Path::new("/certs");
        let socket = |path: &str| Ok(Address::Socket(PathBuf::from(path)));
        assert_eq!(Address::parse(None, None), socket("/var/run/docker.sock"));
        assert_eq!(Address::parse(Some(""), None), socket("/var/run/docker.sock"));
        assert_eq!(Address::parse(Some("unix:///run/d.sock"), None), socket("/run/d.sock"));
        assert_eq!(
            Address::parse(Some("tcp://docker:2376"), Some(certificates)),
            Ok(Address::Tls("docker:2376".into(), "/certs".into()))
        );
        for (host, why) in [("tcp://docker:2375", "TLS"), ("ssh://x", "unix:///"), ("unix://rel", "absolute")]
        {
            let refused = Address::parse(Some(host), None).expect_err(host);
            assert!(refused.contains(why), "{refused}");
        }
    }

    #[test]
    fn requests_name_the_agreed_version() {
        let uri = Uri::from_static("http://localhost/containers/json?all=true");
        assert_eq!(with_version(&uri, 41).to_string(), "http://localhost/v1.41/containers/json?all=true");
    }

    #[test]
    fn a_directory_without_certificates_is_refused_by_name() {
        let address = Address::Tls("docker:2376".into(), "/nowhere".into());
        let refused = Daemon::at(&address).err().expect("there are no certificates");
        assert!(refused.contains("/nowhere/ca.pem"), "{refused}");
    }
}
