//! What a URL means: host and port as they will be connected to. Pure.
//!
//! Odd spellings (decimal, octal and hexadecimal addresses, full-width digits, trailing dots, names outside ASCII)
//! are brought into one form before anything is compared. Credentials in a URL are refused, not stripped.

use super::address::{Why, allowed};
use super::allowlist::{AllowList, USUAL_PORTS};
use std::net::IpAddr;
use url::{Host, Url};

/// Longest URL taken. Longer ones carry data out, or are mistakes.
pub const URL_MAX: usize = 8192;

/// Names that mean this machine, this network or a metadata service, whatever they resolve to. One with a dot in
/// front means everything below it.
const LOCAL_NAMES: [&str; 9] = [
    "localhost",
    ".localhost",
    ".localdomain",
    ".local",
    ".internal",
    ".home.arpa",
    "metadata",
    "instance-data",
    ".metadata.google.internal",
];

/// Why a request is not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It cannot be read.
    #[error("not a URL that can be fetched: {0}")]
    Url(String),
    /// Neither http nor https.
    #[error("only http and https are allowed, not `{0}`")]
    Scheme(String),
    /// User name or password in it.
    #[error("a URL with a user name or password is not allowed")]
    Credentials,
    /// A port nobody has named.
    #[error("port {0} is not allowed: only 80, 443 and ports of the allow-list are")]
    Port(u16),
    /// A name of this machine or network.
    #[error("`{0}` is a local name")]
    LocalName(String),
    /// An address that is not public.
    #[error("`{host}` is {why}")]
    Address {
        /// The host.
        host: String,
        /// Which kind.
        why: Why,
    },
    /// Not in the allow-list, where only its hosts may be reached.
    #[error("`{0}` is not in the allow-list")]
    NotListed(String),
    /// The name does not resolve.
    #[error("`{0}` does not resolve")]
    Unknown(String),
}

/// Host and port of a request, checked as far as that goes without looking the name up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The host in lower case, in ASCII, without trailing dot; an address without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// The address, when the host is one.
    pub address: Option<IpAddr>,
    /// The allow-list names it, so it may be private.
    pub named: bool,
}

impl Target {
    /// Checks host and port.
    pub fn new(host: &Host<String>, port: u16, list: &AllowList) -> Result<Self, Refused> {
        let (host, address) = match host {
            Host::Ipv4(v4) => (v4.to_string(), Some(IpAddr::V4(*v4))),
            Host::Ipv6(v6) => (v6.to_string(), Some(IpAddr::V6(*v6))),
            Host::Domain(name) => (plain_name(name)?, None),
        };
        let target = Self { named: list.names(&host, port), host, port, address };
        if !USUAL_PORTS.contains(&port) && !list.covers(&target.host, port) {
            return Err(Refused::Port(port));
        }
        if let Some(address) = target.address {
            target.check(address)?;
        } else if !target.named && is_local_name(&target.host) {
            return Err(Refused::LocalName(target.host));
        }
        Ok(target)
    }

    /// Host and port as a proxy gets them (`host:port`).
    pub fn of_authority(authority: &str, list: &AllowList) -> Result<Self, Refused> {
        let bad = || Refused::Url(shortened(authority));
        if authority.contains('@') {
            return Err(Refused::Credentials);
        }
        let (host, port) = authority.rsplit_once(':').ok_or_else(bad)?;
        let port = port.parse().map_err(|_| bad())?;
        Self::new(&Host::parse(host).map_err(|_| bad())?, port, list)
    }

    /// Checks an address the name resolved to.
    pub fn check(&self, address: IpAddr) -> Result<(), Refused> {
        match allowed(address) {
            Ok(()) => Ok(()),
            Err(why) if self.named && why.opened_by_name() => Ok(()),
            Err(why) => Err(Refused::Address { host: self.host.clone(), why }),
        }
    }
}

/// Reads a URL: the URL that will be requested, and its target.
pub fn read(text: &str, list: &AllowList) -> Result<(Url, Target), Refused> {
    if text.len() > URL_MAX {
        return Err(Refused::Url(format!("longer than {URL_MAX} bytes")));
    }
    let mut url = Url::parse(text.trim()).map_err(|e| Refused::Url(e.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(Refused::Scheme(shortened(url.scheme())));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Refused::Credentials);
    }
    let host = url.host().ok_or_else(|| Refused::Url("it has no host".into()))?.to_owned();
    let port = url.port_or_known_default().ok_or_else(|| Refused::Url("it has no port".into()))?;
    let target = Target::new(&host, port, list)?;
    if target.address.is_none() {
        url.set_host(Some(&target.host)).map_err(|e| Refused::Url(e.to_string()))?;
    }
    url.set_fragment(None);
    Ok((url, target))
}

/// Without the dot that only says "from the root".
fn plain_name(name: &str) -> Result<String, Refused> {
    let plain = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    if plain.is_empty() || plain.split('.').any(str::is_empty) {
        return Err(Refused::Url("its host has an empty part".into()));
    }
    Ok(plain)
}

fn is_local_name(host: &str) -> bool {
    LOCAL_NAMES.iter().any(|local| match local.strip_prefix('.') {
        Some(parent) => host == parent || host.ends_with(local),
        None => host == *local,
    })
}

fn shortened(text: &str) -> String {
    text.chars().take(100).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn open(url: &str) -> Result<Target, Refused> {
        read(url, &AllowList::default()).map(|(_, target)| target)
    }

    #[test]
    fn odd_spellings_of_an_address_are_that_address() {
        for spelling in [
            "http://127.0.0.1/",
            "http://127.1/",
            "http://2130706433/",
            "http://0x7f000001/",
            "http://0x7f.0.0.1/",
            "http://0177.0.0.1/",
            "http://127.0.0.1./",
            "http://\u{ff11}\u{ff12}\u{ff17}.0.0.1/",
            "http://127\u{3002}0\u{3002}0\u{3002}1/",
            "http://%31%32%37.0.0.1/",
            "http://[::1]/",
            "http:\\\\127.0.0.1\\",
            "http:127.0.0.1",
        ] {
            let why = Why::Loopback;
            let refused = open(spelling).expect_err(spelling);
            assert!(matches!(refused, Refused::Address { why: w, .. } if w == why), "{spelling}: {refused}");
        }
        for (spelling, why) in [
            ("http://0/", Why::Unspecified),
            ("http://[::]/", Why::Unspecified),
            ("http://[::ffff:10.0.0.1]/", Why::Mapped),
            ("http://[64:ff9b::a00:1]/", Why::Private),
            ("http://169.254.169.254/latest/meta-data/", Why::Metadata),
            ("http://2852039166/", Why::Metadata),
            ("http://0xA9FEA9FE/", Why::Metadata),
            ("http://0251.0376.0251.0376/", Why::Metadata),
            ("http://[fd00:ec2::254]/", Why::Metadata),
        ] {
            let refused = open(spelling).expect_err(spelling);
            assert!(matches!(refused, Refused::Address { why: w, .. } if w == why), "{spelling}: {refused}");
        }
    }

    #[test]
    fn local_names_credentials_schemes_and_ports_are_refused() {
        for name in [
            "localhost",
            "LOCALHOST.",
            "a.localhost",
            "printer.local",
            "metadata.google.internal",
            "metadata.google.internal.",
            "metadata",
            "vault.internal",
            "router.home.arpa",
        ] {
            let refused = open(&format!("http://{name}/")).expect_err(name);
            assert!(matches!(refused, Refused::LocalName(_)), "{name}: {refused}");
        }
        assert_eq!(open("http://user@example.com/"), Err(Refused::Credentials));
        assert_eq!(open("http://:pw@example.com/"), Err(Refused::Credentials));
        assert_eq!(open("http://example.com@127.0.0.1/"), Err(Refused::Credentials));
        assert_eq!(open("http://example.com:22/"), Err(Refused::Port(22)));
        for scheme in
            ["file:///etc/passwd", "ftp://example.com/", "gopher://example.com/", "data:text/html,x"]
        {
            assert!(matches!(open(scheme), Err(Refused::Scheme(_))), "{scheme}");
        }
        for bad in
            ["", "example.com", "http://", "http://exa mple.com/", "http://a..b/", "http://[::1", "//x.test/"]
        {
            assert!(matches!(open(bad), Err(Refused::Url(_))), "{bad}: {:?}", open(bad));
        }
        assert!(matches!(open(&format!("http://a.test/{}", "x".repeat(URL_MAX))), Err(Refused::Url(_))));
    }

    #[test]
    fn a_public_name_has_one_form() {
        for spelling in ["https://Example.COM/a#b", "https://example.com./a", "https://example.com:443/a"] {
            let (url, target) = read(spelling, &AllowList::default()).expect("public");
            assert_eq!(
                (url.as_str(), target.host.as_str(), target.port),
                ("https://example.com/a", "example.com", 443)
            );
        }
        let (_, target) = read("https://bücher.example/", &AllowList::default()).expect("public");
        assert_eq!(target.host, "xn--bcher-kva.example");
    }

    #[test]
    fn a_named_host_may_be_private_and_have_its_port_but_is_never_the_metadata_service() {
        let list = AllowList::new(["localhost:8080", "10.1.2.3", "*.corp.test", "169.254.169.254", "*"]);
        for url in ["http://localhost:8080/", "http://10.1.2.3/"] {
            assert!(read(url, &list).expect("named").1.named, "{url}");
        }
        let corp = read("http://a.corp.test/", &list).expect("named").1;
        assert_eq!(corp.check("192.168.1.1".parse().expect("an address")), Ok(()));
        assert!(corp.check("169.254.169.254".parse().expect("an address")).is_err());
        let other = read("http://example.com/", &list).expect("public").1;
        assert!(other.check("192.168.1.1".parse().expect("an address")).is_err(), "`*` names nobody");
        for url in
            ["http://localhost/", "http://10.1.2.4/", "http://169.254.169.254/", "http://localhost:8081/"]
        {
            assert!(read(url, &list).is_err(), "{url}");
        }
    }

    #[test]
    fn what_a_proxy_is_asked_for_is_read_the_same_way() {
        let list = AllowList::default();
        let of = |text| Target::of_authority(text, &list);
        assert_eq!(of("Example.com.:443").expect("public").host, "example.com");
        assert!(matches!(of("0x7f.1:443"), Err(Refused::Address { .. })));
        assert!(matches!(of("[::ffff:7f00:1]:443"), Err(Refused::Address { .. })));
        for bad in ["example.com", "example.com:", "example.com:99999", ":443", "a b:443", ""] {
            assert!(matches!(of(bad), Err(Refused::Url(_))), "{bad}: {:?}", of(bad));
        }
        assert_eq!(of("u@example.com:443"), Err(Refused::Credentials));
    }

    proptest! {
        #[test]
        fn no_spelling_of_a_refused_address_gets_through(bits in any::<u32>(), form in 0_u8..6) {
            let v4 = std::net::Ipv4Addr::from(bits);
            let [a, b, c, d] = v4.octets();
            let host = match form {
                0 => v4.to_string(),
                1 => bits.to_string(),
                2 => format!("{bits:#x}"),
                3 => format!("0{a:o}.0{b:o}.0{c:o}.0{d:o}"),
                4 => format!("{a}.{}", bits & 0x00ff_ffff),
                _ => format!("{a:#x}.{b}.{:#o}", bits & 0xffff).replace("0o", "0"),
            };
            let refused = open(&format!("http://{host}/")).is_err();
            prop_assert_eq!(refused, allowed(IpAddr::V4(v4)).is_err(), "{}", host);
        }
    }
}
