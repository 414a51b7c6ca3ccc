//! Whether a replica's listeners can be opened; and, when something listens there, whether that is this very fleet.
//!
//! It sends no key to whatever answers: open pages are asked, nothing else. The invariant: an address in use is fine only
//! when a bap-engine answers there and some replica supervises our own database.

use super::super::api::read;
use super::Finding;
use crate::config::Settings;
use crate::registry::Registry;
use reqwest::{Client, redirect};
use serde_json::Value;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::time::Duration;

/// Longest wait for a page of our own. Longer keeps a person waiting for a stranger that says nothing; shorter takes a
/// busy replica for one.
const PAGE_LIMIT: Duration = Duration::from_secs(3);

/// The listeners of a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Listener {
    /// The API.
    Api,
    /// Metrics and probes.
    Internal,
}

impl Listener {
    const fn variable(self) -> &'static str {
        match self {
            Listener::Api => "ORCH_BIND",
            Listener::Internal => "ORCH_INTERNAL_BIND",
        }
    }

    /// A page that needs no key.
    const fn page(self) -> &'static str {
        match self {
            Listener::Api => "openapi.json",
            Listener::Internal => "metrics",
        }
    }

    /// Could only a bap-engine have answered this?
    fn is_ours(self, page: &[u8]) -> bool {
        match self {
            Listener::Api => serde_json::from_slice::<Value>(page)
                .is_ok_and(|document| document["info"]["title"] == "bap-engine"),
            Listener::Internal => {
                String::from_utf8_lossy(page).lines().any(|line| line.starts_with("bap_db_up "))
            }
        }
    }
}

/// Looks at both.
pub(super) async fn look(settings: &Settings, registry: Option<&Registry>) -> Vec<Finding> {
    let supervised = match registry {
        Some(registry) => supervised(registry).await,
        None => false,
    };
    let mut findings = Vec::new();
    for (listener, address) in [(Listener::Api, settings.bind), (Listener::Internal, settings.internal_bind)]
    {
        let ours = supervised && is_taken(address) && answers(listener, address).await;
        findings.push(finding(listener.variable(), address, ours));
    }
    findings
}

/// Does a replica hold the lease of our database now?
async fn supervised(registry: &Registry) -> bool {
    let (Ok(Some((_, until))), Ok(now)) = (registry.lease_holder().await, registry.now().await) else {
        return false;
    };
    until > now
}

fn is_taken(address: SocketAddr) -> bool {
    TcpListener::bind(address).is_err_and(|error| error.kind() == std::io::ErrorKind::AddrInUse)
}

fn finding(name: &str, address: SocketAddr, ours: bool) -> Finding {
    match TcpListener::bind(address) {
        Ok(_) => Finding::ok(name, format!("{address} is free")),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse && ours => {
            Finding::ok(name, format!("{address} is served by this fleet"))
        }
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            let fix = "fine if it is this orchestrator that runs; otherwise choose another address";
            Finding::warning(name, format!("{address} is in use"), fix)
        }
        Err(error) => {
            Finding::problem(name, format!("{address}: {error}"), "choose an address of this machine")
        }
    }
}

/// Whether a bap-engine answers there.
async fn answers(listener: Listener, address: SocketAddr) -> bool {
    // Refused only when one is installed already, which is all that is wanted.
    let _ = rustls::crypto::ring::default_provider().install_default();
    // This machine is reached directly, whatever proxy the environment names.
    let client = Client::builder().no_proxy().tls_certs_only([]).redirect(redirect::Policy::none());
    let Ok(client) = client.timeout(PAGE_LIMIT).build() else { return false };
    let url = format!("http://{}/{}", reachable(address), listener.page());
    let Ok(response) = client.get(url).send().await else { return false };
    match read(response).await {
        Ok(page) => listener.is_ours(&page),
        Err(_) => false,
    }
}

/// Where a listener on this address is reached from here.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    #[test]
    fn a_port_in_use_is_a_warning_unless_it_is_ours_and_a_foreign_address_a_problem() {
        let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = taken.local_addr().expect("has one");
        assert_eq!(finding("X", address, false).state, State::Warning);
        assert_eq!(finding("X", address, true).state, State::Ok);
        let foreign: SocketAddr = "203.0.113.1:1".parse().expect("is an address");
        assert_eq!(finding("X", foreign, true).state, State::Problem);
    }

    #[test]
    fn only_pages_of_a_bap_engine_are_ours() {
        let document = crate::http::openapi::document();
        assert!(Listener::Api.is_ours(document.as_bytes()));
        assert!(Listener::Internal.is_ours(b"# HELP x y\nbap_db_up 1\n"));
        for stranger in ["", "ok", r#"{"info":{"title":"september-engine"}}"#, "up 1\n", r#"{"status":"ok"}"#]
        {
            assert!(!Listener::Api.is_ours(stranger.as_bytes()), "{stranger}");
            assert!(!Listener::Internal.is_ours(stranger.as_bytes()), "{stranger}");
        }
    }

    #[test]
    fn a_wildcard_is_asked_over_loopback() {
        let at = |text: &str| reachable(text.parse().expect("is an address")).to_string();
        assert_eq!(
            (at("0.0.0.0:8000"), at("[::]:8000"), at("10.0.0.7:8000")),
            ("127.0.0.1:8000".to_owned(), "[::1]:8000".to_owned(), "10.0.0.7:8000".to_owned())
        );
    }
}
