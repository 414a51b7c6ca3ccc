//! The one place that makes HTTP clients: TLS by rustls and ring, no redirects, a connect limit.
//!
//! It never panics and never fails the program: where the system has no CA certificates, plain `http://`
//! still works and `https://` fails call by call with a certificate error. Clients are made on first use,
//! because reading the system's certificates takes longer than starting the program.

use reqwest::Client;
use std::time::Duration;
use tokio::sync::OnceCell;

/// Idle connections kept per host. More would hold provider sockets open for nothing; fewer would make
/// parallel turns pay a TLS handshake each.
const IDLE_PER_HOST: usize = 16;

/// How long an unused connection is kept. Longer meets provider load balancers that have already dropped
/// it; shorter costs a handshake between two calls of a thoughtful turn.
const IDLE_FOR: Duration = Duration::from_secs(60);

/// Installs rustls' ring provider for the whole process. May be called any number of times, by anyone who
/// builds TLS by other means than [`client`].
pub fn install_crypto() {
    // The error says that a provider is installed already, which is all we want.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// Makes a client: redirects off (a redirect would carry the key to another host), proxy variables of the
/// environment honoured, HTTP/2 where offered, no total time limit.
///
/// Reads the system's CA certificates: some milliseconds of disk and CPU. In async code use [`LazyClient`].
pub fn client(connect_timeout: Duration) -> Client {
    install_crypto();
    match builder(connect_timeout).build() {
        Ok(client) => client,
        Err(error) => {
            tracing::warn!(
                error = %chain(&error),
                "No CA certificates could be loaded; https calls will fail until SSL_CERT_FILE or the system store has some"
            );
            without_roots(connect_timeout)
        }
    }
}

/// A client that trusts no certificate authority, so that only `http://` works.
fn without_roots(connect_timeout: Duration) -> Client {
    builder(connect_timeout)
        .tls_certs_only([])
        .build()
        .or_else(|_| builder(connect_timeout).tls_certs_only([]).no_proxy().build())
        .expect("with the provider installed and an empty certificate list nothing is left that can fail")
}

fn builder(connect_timeout: Duration) -> reqwest::ClientBuilder {
    Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(connect_timeout)
        .pool_max_idle_per_host(IDLE_PER_HOST)
        .pool_idle_timeout(IDLE_FOR)
        .user_agent(concat!("september-engine/", env!("CARGO_PKG_VERSION")))
}

/// A client made at its first use, off the async threads.
#[derive(Debug)]
pub struct LazyClient {
    connect_timeout: Duration,
    cell: OnceCell<Client>,
}

impl LazyClient {
    /// Costs nothing; nothing is read yet.
    pub const fn new(connect_timeout: Duration) -> Self {
        Self { connect_timeout, cell: OnceCell::const_new() }
    }

    /// The client.
    pub async fn get(&self) -> &Client {
        let timeout = self.connect_timeout;
        self.cell
            .get_or_init(|| async move {
                match tokio::task::spawn_blocking(move || client(timeout)).await {
                    Ok(made) => made,
                    // Only when the runtime is shutting down.
                    Err(_) => client(timeout),
                }
            })
            .await
    }
}

/// An error with its sources, without the URL (which may hold credentials).
pub fn describe(error: reqwest::Error) -> String {
    chain(&error.without_url())
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let said = inner.to_string();
        if !text.ends_with(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        source = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_made_even_when_nothing_is_trusted() {
        install_crypto();
        install_crypto();
        let _ = without_roots(Duration::from_secs(1));
        let _ = client(Duration::from_secs(1));
    }

    #[tokio::test]
    async fn a_lazy_client_is_made_once() {
        let lazy = LazyClient::new(Duration::from_secs(1));
        assert!(lazy.cell.get().is_none());
        let first: *const Client = lazy.get().await;
        let second: *const Client = lazy.get().await;
        assert_eq!(first, second);
    }
}
