//! Which `Host` and `Origin` a request may have, as pure functions.
//!
//! A browser that was lured to a name which now resolves to this machine sends that name as `Host` and
//! cannot send a key. So a request without a valid key must name this server in a way no public web site
//! can: by address, by a name without dot, by a cluster name, or by a listed name.

use std::net::{Ipv4Addr, Ipv6Addr};

/// Endings of names that public DNS does not give to anyone.
const PRIVATE_SUFFIXES: &[&str] = &[".svc", ".cluster.local", ".internal", ".localhost"];

/// Which `Host` names are accepted on requests without a valid key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostRule {
    listed: Vec<String>,
}

impl HostRule {
    /// The automatic rule plus listed names, `*.suffix` patterns, or `*`.
    pub fn new<S: AsRef<str>>(listed: impl IntoIterator<Item = S>) -> Self {
        let plain = |s: S| s.as_ref().trim_end_matches('.').to_ascii_lowercase();
        Self { listed: listed.into_iter().map(plain).collect() }
    }

    /// Is this value of `Host` (with or without port) acceptable?
    pub fn allows(&self, host: &str) -> bool {
        let Some((name, _)) = split_authority(host) else { return false };
        let ip = name.starts_with('[') || name.parse::<Ipv4Addr>().is_ok();
        ip || !name.contains('.')
            || PRIVATE_SUFFIXES.iter().any(|s| name.ends_with(s))
            || self.listed.iter().any(|l| matches(l, &name))
    }
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_prefix('*') {
        Some("") => true,
        Some(suffix) => name.len() > suffix.len() && name.ends_with(suffix),
        None => pattern == name,
    }
}

/// Host and port of `host[:port]`; the host in lower case, without trailing dot, IPv6 in brackets.
fn split_authority(text: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (v6, after) = rest.split_once(']')?;
            v6.parse::<Ipv6Addr>().ok()?;
            let port = if after.is_empty() { None } else { Some(after.strip_prefix(':')?) };
            (format!("[{}]", v6.to_ascii_lowercase()), port)
        }
        None => {
            let (host, port) = match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            };
            let host = host.strip_suffix('.').unwrap_or(host);
            let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
            if host.is_empty() || !host.bytes().all(plain) {
                return None;
            }
            (host.to_ascii_lowercase(), port)
        }
    };
    match port {
        Some(digits) => Some((host, Some(digits.parse().ok()?))),
        None => Some((host, None)),
    }
}

/// What an `Origin` is to this server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OriginVerdict {
    /// The page came from here.
    Same,
    /// The page came from a listed origin: the answer may be read by it.
    Listed,
    /// Nobody we know.
    Refused,
}

/// Which browser origins may call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OriginRule {
    listed: Vec<(String, String, u16)>,
    any: bool,
    credentials: bool,
}

impl OriginRule {
    /// Listed `scheme://host[:port]` origins, or `*`. `credentials` is whether answers to listed origins
    /// carry Access-Control-Allow-Credentials.
    pub fn new<S: AsRef<str>>(listed: impl IntoIterator<Item = S>, credentials: bool) -> Self {
        let mut rule = Self { listed: Vec::new(), any: false, credentials };
        for origin in listed {
            match origin.as_ref() {
                "*" => rule.any = true,
                text => rule.listed.extend(split_origin(text)),
            }
        }
        rule
    }

    /// Judges an `Origin` on a request to `host`. `null`, which sandboxed pages and files send, is nobody.
    pub fn judge(&self, origin: &str, host: Option<&str>) -> OriginVerdict {
        let Some(parsed) = split_origin(origin) else { return OriginVerdict::Refused };
        let (scheme, name, port) = &parsed;
        // TLS ends before this server, so the scheme of the request is not known here: a host without port
        // is taken to be at the default port of the origin's scheme.
        let same = host.and_then(split_authority).is_some_and(|(host, host_port)| {
            host == *name && host_port.unwrap_or_else(|| default_port(scheme)) == *port
        });
        if same {
            OriginVerdict::Same
        } else if self.any || self.listed.contains(&parsed) {
            OriginVerdict::Listed
        } else {
            OriginVerdict::Refused
        }
    }

    /// The value of Access-Control-Allow-Origin for a listed origin.
    pub(super) fn allow_origin<'a>(&self, origin: &'a str) -> &'a str {
        if self.any && !self.credentials { "*" } else { origin }
    }

    pub(super) const fn credentials(&self) -> bool {
        self.credentials
    }
}

/// Scheme, host and port, with the default port filled in.
fn split_origin(text: &str) -> Option<(String, String, u16)> {
    let (scheme, authority) = text.split_once("://")?;
    let scheme = scheme.to_ascii_lowercase();
    let (host, port) = split_authority(authority)?;
    let port = port.unwrap_or_else(|| default_port(&scheme));
    Some((scheme, host, port))
}

fn default_port(scheme: &str) -> u16 {
    match scheme {
        "http" => 80,
        "https" => 443,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_no_web_site_can_have_are_accepted() {
        let rule = HostRule::default();
        for host in [
            "localhost",
            "LOCALHOST:8000",
            "127.0.0.1",
            "127.0.0.1:8000",
            "[::1]:8000",
            "[fe80::1]",
            "engine",
            "engine:8000",
            "engine.",
            "e1.team.svc",
            "e1.team.svc.cluster.local:8000",
            "host.docker.internal",
            "app.localhost",
        ] {
            assert!(rule.allows(host), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example.:8000",
            "127.0.0.1.evil.example",
            "svc.evil.example",
            "evilsvc.com",
            "",
            "a b",
            "user@localhost",
            "[::1",
            "[::1]x",
            "localhost:http",
            "::1",
            "local\u{301}host.x",
        ] {
            assert!(!rule.allows(host), "{host}");
        }
    }

    #[test]
    fn listed_names_and_suffixes_are_accepted() {
        let rule = HostRule::new(["Agent.example.", "*.apps.example"]);
        assert!(rule.allows("agent.EXAMPLE:443") && rule.allows("agent.example."));
        assert!(rule.allows("a.apps.example") && rule.allows("a.b.apps.example"));
        assert!(
            !rule.allows("apps.example") && !rule.allows("xapps.example") && !rule.allows("x.agent.example")
        );
        assert!(HostRule::new(["*"]).allows("anything.example"));
    }

    #[test]
    fn an_origin_is_same_listed_or_refused() {
        let rule = OriginRule::new(["https://app.example", "http://localhost:3000"], false);
        let host = Some("engine.example:8000");
        assert_eq!(rule.judge("http://engine.example:8000", host), OriginVerdict::Same);
        assert_eq!(rule.judge("https://agent.example", Some("agent.example")), OriginVerdict::Same);
        assert_eq!(rule.judge("https://APP.example:443", host), OriginVerdict::Listed);
        assert_eq!(rule.judge("http://localhost:3000", host), OriginVerdict::Listed);
        for origin in [
            "null",
            "",
            "https://evil.example",
            "http://app.example",
            "https://app.example:8443",
            "https://app.example.evil.example",
            "http://engine.example",
            "https://app.example/",
            "http://localhost",
        ] {
            assert_eq!(rule.judge(origin, host), OriginVerdict::Refused, "{origin}");
        }
    }

    #[test]
    fn a_star_lists_everyone_but_null() {
        let rule = OriginRule::new(["*"], false);
        assert_eq!(rule.judge("https://any.example", None), OriginVerdict::Listed);
        assert_eq!(rule.judge("null", None), OriginVerdict::Refused);
        assert_eq!(rule.allow_origin("https://any.example"), "*");
        assert_eq!(OriginRule::default().judge("https://any.example", None), OriginVerdict::Refused);
    }
}
