//! TOOL_NETWORK_ALLOWLIST: hosts an operator has named. Pure.
//!
//! An entry without a port means ports 80 and 443. `*` covers every public host; only an entry that says a name
//! (or a suffix) may open a private one.

use std::net::IpAddr;

/// The ports that need no naming.
pub const USUAL_PORTS: [u16; 2] = [80, 443];

/// The list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllowList {
    entries: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    who: Who,
    port: Option<u16>,
    /// An operator's word; a person's yes in a prompt opens nothing private.
    operators: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Who {
    Anyone,
    Host(String),
    /// With its leading dot.
    Suffix(String),
}

impl AllowList {
    /// Reads entries the configuration has accepted: `host`, `*.suffix`, `host:port`, `*`.
    pub fn new<S: AsRef<str>>(entries: impl IntoIterator<Item = S>) -> Self {
        Self { entries: entries.into_iter().map(|e| Entry::read(e.as_ref())).collect() }
    }

    /// With hosts a person has allowed for one call.
    pub fn granting<S: AsRef<str>>(&self, hosts: &[S]) -> Self {
        let granted = hosts.iter().map(|h| Entry { operators: false, ..Entry::read(h.as_ref()) });
        Self { entries: self.entries.iter().cloned().chain(granted).collect() }
    }

    /// True when nothing is named: no network inside the sandbox.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// True when an entry covers this host (lower case, no trailing dot) and port.
    pub fn covers(&self, host: &str, port: u16) -> bool {
        self.entries.iter().any(|e| e.means(host, port))
    }

    /// True when an operator's entry other than `*` says this host and port, so that it may be private.
    pub fn names(&self, host: &str, port: u16) -> bool {
        self.entries.iter().any(|e| e.operators && e.who != Who::Anyone && e.means(host, port))
    }
}

impl Entry {
    fn read(text: &str) -> Self {
        let text = text.trim().to_lowercase();
        let is_address = text.parse::<IpAddr>().is_ok();
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !is_address && port.parse::<u16>().is_ok() => (host, port.parse().ok()),
            _ => (text.as_str(), None),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.');
        let who = match host.strip_prefix('*') {
            Some("") => Who::Anyone,
            Some(suffix) => Who::Suffix(suffix.to_owned()),
            // a name with other than ASCII letters is compared as it is looked up
            None => Who::Host(match url::Host::parse(host) {
                Ok(url::Host::Domain(name)) => name,
                _ => host.to_owned(),
            }),
        };
        Self { who, port, operators: true }
    }

    fn means(&self, host: &str, port: u16) -> bool {
        let by_port = self.port.map_or(USUAL_PORTS.contains(&port), |p| p == port);
        by_port
            && match &self.who {
                Who::Anyone => true,
                Who::Host(name) => name == host,
                Who::Suffix(suffix) => host.len() > suffix.len() && host.ends_with(suffix.as_str()),
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_mean_hosts_suffixes_ports_and_everything() {
        let list =
            AllowList::new(["Example.com", "*.corp.test", "db.test:5432", "10.0.0.7", "::1", "bücher.test"]);
        let table = [
            ("example.com", 443, true),
            ("example.com", 80, true),
            ("example.com", 8080, false),
            ("www.example.com", 443, false),
            ("notexample.com", 443, false),
            ("a.corp.test", 443, true),
            ("a.b.corp.test", 80, true),
            ("corp.test", 443, false),
            ("evilcorp.test", 443, false),
            ("db.test", 5432, true),
            ("db.test", 443, false),
            ("10.0.0.7", 80, true),
            ("::1", 80, true),
            ("xn--bcher-kva.test", 443, true),
        ];
        for (host, port, wanted) in table {
            assert_eq!(list.covers(host, port), wanted, "{host}:{port}");
            assert_eq!(list.names(host, port), wanted, "{host}:{port}");
        }
        assert!(AllowList::default().is_empty() && !AllowList::default().covers("example.com", 443));
    }

    #[test]
    fn everything_is_covered_by_a_star_and_nothing_named() {
        let list = AllowList::new(["*"]);
        assert!(list.covers("example.com", 443) && !list.names("example.com", 443));
        assert!(!list.covers("example.com", 22));
    }
}
