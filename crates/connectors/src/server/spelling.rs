//! How the single texts of an entry must be spelled: addresses, hosts, scopes, header names.
//!
//! Pure questions about one text each. The invariant: no address that passes can carry a credential, or send one
//! over a network in the clear.

use super::TEXT_MAX_CHARS;
use url::{Host, Url};

/// An address that may be called: https, or http to this machine; no credentials, no fragment.
pub fn usable_url(text: &str) -> Result<Url, &'static str> {
    let url = Url::parse(text).map_err(|_| "expected an absolute URL")?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("expected a URL without user name and password");
    }
    if url.fragment().is_some() {
        return Err("expected a URL without #fragment");
    }
    match url.scheme() {
        "https" if url.host().is_some() => Ok(url),
        "http" if is_loopback(&url) => Ok(url),
        _ => Err("expected https:// (http:// only for this machine: localhost, 127.0.0.1, [::1])"),
    }
}

/// Whether an address is on this machine.
pub fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

pub(super) fn is_plain(text: &str) -> bool {
    text.chars().count() <= TEXT_MAX_CHARS && !text.chars().any(char::is_control)
}

/// A scope token of RFC 6749, section 3.3.
pub(crate) fn is_scope(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| matches!(b, 0x21 | 0x23..=0x5b | 0x5d..=0x7e))
}

/// A header name of RFC 9110, section 5.1.
pub(crate) fn is_header_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

pub(super) fn is_host_pattern(text: &str) -> bool {
    if text == "*" {
        return true;
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') => (host, Some(port)),
        _ => (text, None),
    };
    let host = host.strip_prefix("*.").unwrap_or(host);
    let port_fits = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
    port_fits
        && !host.is_empty()
        && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':' | b'[' | b']'))
}
