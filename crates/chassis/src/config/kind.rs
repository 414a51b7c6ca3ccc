//! What values a variable accepts, and what to suggest when one is refused.

use super::form;
use super::guess::likely;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

/// What values a variable accepts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// Any text of `min..=max` characters without control characters.
    Text {
        /// Fewest characters.
        min: usize,
        /// Most characters.
        max: usize,
    },
    /// A whole number.
    Int {
        /// Smallest.
        min: i64,
        /// Largest.
        max: i64,
    },
    /// A decimal number.
    Float {
        /// Smallest.
        min: f64,
        /// Largest.
        max: f64,
    },
    /// 0, or a whole number.
    IntOrZero {
        /// Smallest besides 0.
        min: i64,
        /// Largest.
        max: i64,
    },
    /// 0, or a decimal number.
    FloatOrZero {
        /// Smallest besides 0.
        min: f64,
        /// Largest.
        max: f64,
    },
    /// `true` or `false` in any letter case.
    Flag,
    /// One of these words exactly.
    OneOf(&'static [&'static str]),
    /// One of these words in any letter case.
    OneOfAnyCase(&'static [&'static str]),
    /// An integer = seconds, or an integer with suffix ms, s, m, h, d.
    Duration {
        /// Shortest.
        min: Duration,
        /// Longest.
        max: Duration,
    },
    /// Seconds, whole or decimal.
    Seconds {
        /// Shortest.
        min: Duration,
        /// Longest.
        max: Duration,
    },
    /// An IP address.
    IpAddr,
    /// An IP address and a port.
    SocketAddr,
    /// A path, absolute or relative.
    Path,
    /// A directory that exists.
    Dir,
    /// An absolute path.
    AbsolutePath,
    /// An absolute http(s) URL without credentials.
    Url,
    /// The same, without query and fragment.
    UrlNoQuery,
    /// The same, without query, fragment and trailing slash.
    UrlNoSlash,
    /// 64 hex digits.
    Hash64,
    /// URL-safe base64 of 32 bytes.
    Base64Key32,
    /// A name as variables have it.
    VariableName,
    /// A name as networks and volumes have it.
    ObjectName,
    /// 1..63 of `[a-z0-9-]`.
    DnsLabel,
    /// Labels with dots between them.
    DnsName,
    /// A positive number with an optional unit, as `10Gi`.
    Quantity,
    /// `[host[:port]/]path[:tag][@digest]`.
    ImageReference,
    /// A host name or an IP address.
    Host,
    /// `scheme://host[:port]`, or `*`.
    Origin,
    /// A host name, `*.suffix`, or `*`.
    HostPattern,
    /// A host name, `*.suffix`, host:port, or `*`.
    HostPortPattern,
    /// Comma-separated items, blanks trimmed, empty items dropped.
    List(&'static Kind),
}

/// A value after validation.
#[derive(Clone, PartialEq)]
pub enum Parsed {
    /// Texts, words, paths, addresses, URLs, hashes.
    Text(String),
    /// Whole numbers.
    Int(i64),
    /// Decimal numbers.
    Float(f64),
    /// Flags.
    Flag(bool),
    /// Durations.
    Span(Duration),
    /// Lists of texts.
    List(Vec<String>),
}

/// Why a value is not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// What would be accepted.
    pub expected: String,
    /// The accepted value nearest to what was given.
    pub nearest: Option<String>,
}

impl Kind {
    /// What is accepted, for people.
    pub fn expected(&self) -> String {
        match self {
            Kind::Text { min, max } => format!("a text of {min}..{max} characters"),
            Kind::Int { min, max } => format!("an integer {min}..{max}"),
            Kind::Float { min, max } => format!("a number {min}..{max}"),
            Kind::IntOrZero { min, max } => format!("0 or an integer {min}..{max}"),
            Kind::FloatOrZero { min, max } => format!("0 or a number {min}..{max}"),
            Kind::Seconds { min, max } => {
                format!("seconds {}..{}", min.as_secs_f64(), max.as_secs_f64())
            }
            Kind::Flag => "true or false".to_owned(),
            Kind::OneOf(words) => format!("one of {}", words.join(", ")),
            Kind::OneOfAnyCase(words) => format!("one of {}, any case", words.join(", ")),
            Kind::Duration { min, max } => {
                format!(
                    "a duration {}..{} (seconds, or with ms, s, m, h, d)",
                    show_span(*min),
                    show_span(*max)
                )
            }
            Kind::IpAddr => "an IP address".to_owned(),
            Kind::SocketAddr => "an IP address and a port, as 127.0.0.1:8000".to_owned(),
            Kind::Path => "a path".to_owned(),
            Kind::Dir => "an existing directory".to_owned(),
            Kind::AbsolutePath => "an absolute path".to_owned(),
            Kind::Url => "an absolute http(s) URL without credentials".to_owned(),
            Kind::UrlNoQuery => "an absolute http(s) URL without query and credentials".to_owned(),
            Kind::UrlNoSlash => {
                "an absolute http(s) URL without query, credentials and trailing slash".to_owned()
            }
            Kind::Hash64 => "64 hex digits".to_owned(),
            Kind::Base64Key32 => "URL-safe base64 of 32 bytes".to_owned(),
            Kind::VariableName => "a name of letters, digits and _".to_owned(),
            Kind::ObjectName => "a name of letters, digits, _, . and -".to_owned(),
            Kind::DnsLabel => "1..63 lower-case letters, digits and -".to_owned(),
            Kind::DnsName => "a DNS name in lower case".to_owned(),
            Kind::Quantity => "a number with a unit, as 10Gi".to_owned(),
            Kind::ImageReference => "an image reference, as name:tag, at most 255 characters".to_owned(),
            Kind::Host => "a host name or an IP address".to_owned(),
            Kind::Origin => "scheme://host[:port], or *".to_owned(),
            Kind::HostPattern => "a host name, *.suffix, or *".to_owned(),
            Kind::HostPortPattern => "a host name, *.suffix, host:port, or *".to_owned(),
            Kind::List(item) => format!("a comma-separated list, each: {}", item.expected()),
        }
    }

    /// Validates a text that is trimmed and not empty.
    pub fn parse(&self, text: &str) -> Result<Parsed, Rejected> {
        let accepted = match self {
            Kind::Text { min, max } => {
                let count = text.chars().count();
                let ok = (*min..=*max).contains(&count) && !text.chars().any(char::is_control);
                ok.then(|| Parsed::Text(text.to_owned()))
            }
            Kind::Int { min, max } => text.parse().ok().filter(|n| (min..=max).contains(&n)).map(Parsed::Int),
            Kind::Float { min, max } => {
                text.parse().ok().filter(|n| (min..=max).contains(&n)).map(Parsed::Float)
            }
            Kind::IntOrZero { min, max } => {
                text.parse().ok().filter(|n| *n == 0 || (min..=max).contains(&n)).map(Parsed::Int)
            }
            Kind::FloatOrZero { min, max } => {
                text.parse().ok().filter(|n| *n == 0.0 || (min..=max).contains(&n)).map(Parsed::Float)
            }
            Kind::Seconds { min, max } => {
                parse_seconds(text).filter(|d| (min..=max).contains(&d)).map(Parsed::Span)
            }
            Kind::Flag => match text.to_ascii_lowercase().as_str() {
                "true" => Some(Parsed::Flag(true)),
                "false" => Some(Parsed::Flag(false)),
                _ => None,
            },
            Kind::OneOf(words) => words.contains(&text).then(|| Parsed::Text(text.to_owned())),
            Kind::OneOfAnyCase(words) => {
                let word = words.iter().find(|w| w.eq_ignore_ascii_case(text));
                word.map(|w| Parsed::Text((*w).to_owned()))
            }
            Kind::Duration { min, max } => {
                parse_span(text).filter(|d| (min..=max).contains(&d)).map(Parsed::Span)
            }
            Kind::Dir => Path::new(text).is_dir().then(|| Parsed::Text(text.to_owned())),
            Kind::List(item) => {
                let items: Vec<&str> = text.split(',').map(str::trim).filter(|i| !i.is_empty()).collect();
                let checked: Result<Vec<Parsed>, Rejected> = items.iter().map(|i| item.parse(i)).collect();
                checked.ok().map(|_| Parsed::List(items.into_iter().map(str::to_owned).collect()))
            }
            Kind::IpAddr
            | Kind::SocketAddr
            | Kind::VariableName
            | Kind::ObjectName
            | Kind::DnsLabel
            | Kind::DnsName
            | Kind::Quantity
            | Kind::ImageReference
            | Kind::Host
            | Kind::Path
            | Kind::AbsolutePath
            | Kind::Url
            | Kind::UrlNoQuery
            | Kind::UrlNoSlash
            | Kind::Hash64
            | Kind::Base64Key32
            | Kind::Origin
            | Kind::HostPattern
            | Kind::HostPortPattern => self.accepts_text(text).then(|| Parsed::Text(text.to_owned())),
        };
        accepted.ok_or_else(|| Rejected { expected: self.expected(), nearest: self.nearest(text) })
    }

    /// The kinds whose value stays the text it was.
    fn accepts_text(&self, text: &str) -> bool {
        match self {
            Kind::IpAddr => text.parse::<IpAddr>().is_ok(),
            Kind::SocketAddr => text.parse::<SocketAddr>().is_ok(),
            Kind::VariableName => form::is_variable_name(text),
            Kind::ObjectName => form::is_object_name(text),
            Kind::DnsLabel => form::is_dns_label(text),
            Kind::DnsName => form::is_dns_name(text),
            Kind::Quantity => form::is_quantity(text),
            Kind::ImageReference => form::is_image_reference(text),
            Kind::Host => text.parse::<IpAddr>().is_ok() || form::is_host_name(text),
            Kind::Path => !text.contains('\0'),
            Kind::AbsolutePath => Path::new(text).is_absolute() && !text.contains('\0'),
            Kind::Url => form::is_http_url(text),
            Kind::UrlNoQuery => form::is_http_url(text) && !text.contains('?'),
            Kind::UrlNoSlash => form::is_http_url(text) && !text.contains('?') && !text.ends_with('/'),
            Kind::Hash64 => text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit()),
            Kind::Base64Key32 => form::is_base64_of_32_bytes(text),
            Kind::Origin => text == "*" || form::is_origin(text),
            Kind::HostPattern => form::is_host_pattern(text),
            Kind::HostPortPattern => match text.rsplit_once(':') {
                Some((host, port)) => {
                    port.parse::<u16>().is_ok() && form::is_host_pattern(host) && host != "*"
                }
                None => form::is_host_pattern(text),
            },
            _ => false,
        }
    }

    /// The accepted value nearest to `text`, where "near" means something.
    fn nearest(&self, text: &str) -> Option<String> {
        match self {
            Kind::Int { min, max } => {
                let number = text.parse::<f64>().ok().filter(|n| !n.is_nan())?;
                // Casting saturates at the ends of i64, and clamping follows.
                Some((number.round() as i64).clamp(*min, *max).to_string())
            }
            Kind::Float { min, max } => {
                let number = text.parse::<f64>().ok().filter(|n| !n.is_nan())?;
                Some(number.clamp(*min, *max).to_string())
            }
            Kind::IntOrZero { min, max } => match text.parse::<f64>().ok().filter(|n| !n.is_nan())? {
                n if n <= 0.0 => Some("0".to_owned()),
                n => Some((n.round() as i64).clamp(*min, *max).to_string()),
            },
            Kind::FloatOrZero { min, max } => match text.parse::<f64>().ok().filter(|n| !n.is_nan())? {
                n if n <= 0.0 => Some("0".to_owned()),
                n => Some(n.clamp(*min, *max).to_string()),
            },
            Kind::Seconds { min, max } => {
                let span = parse_seconds(text).or_else(|| parse_span(text))?;
                Some(span.clamp(*min, *max).as_secs_f64().to_string())
            }
            Kind::SocketAddr => {
                let port = text.strip_prefix(':').or_else(|| text.strip_prefix("localhost:"))?;
                port.parse::<u16>().ok().map(|port| format!("127.0.0.1:{port}"))
            }
            Kind::ImageReference => {
                let lower = text.to_lowercase();
                form::is_image_reference(&lower).then_some(lower)
            }
            Kind::Flag => Some(
                match text.to_ascii_lowercase().as_str() {
                    "1" | "y" | "yes" | "on" | "t" | "enabled" => "true",
                    "0" | "n" | "no" | "off" | "f" | "disabled" => "false",
                    other => likely(other, ["true", "false"].into_iter())?,
                }
                .to_owned(),
            ),
            Kind::OneOf(words) | Kind::OneOfAnyCase(words) => {
                likely(text, words.iter().copied()).map(str::to_owned)
            }
            Kind::Duration { min, max } => parse_span(text).map(|d| show_span(d.clamp(*min, *max))),
            Kind::UrlNoSlash => {
                let trimmed = text.trim_end_matches('/');
                self.accepts_text(trimmed).then(|| trimmed.to_owned())
            }
            Kind::UrlNoQuery => {
                let bare = text.split('?').next().unwrap_or(text);
                self.accepts_text(bare).then(|| bare.to_owned())
            }
            Kind::Origin => {
                let trimmed = text.trim_end_matches('/');
                self.accepts_text(trimmed).then(|| trimmed.to_owned())
            }
            Kind::List(item) => {
                let fixed: Option<Vec<String>> = text
                    .split(',')
                    .map(str::trim)
                    .filter(|i| !i.is_empty())
                    .map(|i| if item.parse(i).is_ok() { Some(i.to_owned()) } else { item.nearest(i) })
                    .collect();
                fixed.map(|items| items.join(","))
            }
            _ => None,
        }
    }
}

/// Reads an integer number of seconds, or an integer with suffix ms, s, m, h, d.
pub fn parse_span(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let seconds = |unit: u64| number.checked_mul(unit).map(Duration::from_secs);
    match text[digits..].trim_start() {
        "ms" => Some(Duration::from_millis(number)),
        "" | "s" => seconds(1),
        "m" => seconds(60),
        "h" => seconds(3_600),
        "d" => seconds(86_400),
        _ => None,
    }
}

/// Reads a whole or decimal number of seconds; finer than a millisecond is dropped.
fn parse_seconds(text: &str) -> Option<Duration> {
    let plain = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let seconds: f64 = text.parse().ok().filter(|_| plain)?;
    let span = Duration::try_from_secs_f64(seconds).ok()?;
    u64::try_from((span.as_secs_f64() * 1_000.0).round() as u128).ok().map(Duration::from_millis)
}

/// A duration in the largest unit that divides it.
pub fn show_span(span: Duration) -> String {
    let ms = span.as_millis();
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")];
    match units.iter().find(|(unit, _)| ms != 0 && ms.is_multiple_of(*unit)) {
        Some((unit, suffix)) => format!("{}{suffix}", ms / unit),
        None if ms == 0 => "0".to_owned(),
        None => format!("{ms}ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEVELS: Kind = Kind::OneOfAnyCase(&["DEBUG", "INFO", "WARNING", "ERROR"]);

    fn nearest(kind: Kind, text: &str) -> Option<String> {
        kind.parse(text).err().and_then(|r| r.nearest)
    }

    #[test]
    fn flags_are_true_or_false_and_nothing_else() {
        assert!(matches!(Kind::Flag.parse("TRUE"), Ok(Parsed::Flag(true))));
        assert!(matches!(Kind::Flag.parse("False"), Ok(Parsed::Flag(false))));
        for (text, want) in [
            ("1", "true"),
            ("yes", "true"),
            ("on", "true"),
            ("0", "false"),
            ("off", "false"),
            ("ture", "true"),
        ] {
            assert_eq!(nearest(Kind::Flag, text).as_deref(), Some(want), "{text}");
        }
    }

    #[test]
    fn numbers_out_of_range_are_clamped_to_the_nearest_end() {
        let kind = Kind::Int { min: 1, max: 300 };
        assert_eq!(nearest(kind, "301").as_deref(), Some("300"));
        assert_eq!(nearest(kind, "-5").as_deref(), Some("1"));
        assert_eq!(nearest(kind, "15.4").as_deref(), Some("15"));
        assert_eq!(nearest(kind, "99999999999999999999999").as_deref(), Some("300"));
        assert_eq!(nearest(kind, "many"), None);
        assert!(Kind::Float { min: 0.0, max: 1.0 }.parse("NaN").is_err());
        assert_eq!(nearest(Kind::Float { min: 0.3, max: 0.95 }, "1").as_deref(), Some("0.95"));
    }

    #[test]
    fn durations_are_seconds_unless_a_unit_is_given() {
        let kind = Kind::Duration { min: Duration::from_secs(60), max: Duration::from_secs(2_592_000) };
        for (text, ms) in [
            ("90", 90_000),
            ("60000ms", 60_000),
            ("90s", 90_000),
            ("2m", 120_000),
            ("3h", 10_800_000),
            ("30d", 2_592_000_000),
        ] {
            assert!(kind.parse(text) == Ok(Parsed::Span(Duration::from_millis(ms))), "{text}");
        }
        assert_eq!(nearest(kind, "5").as_deref(), Some("1m"));
        assert_eq!(nearest(kind, "31d").as_deref(), Some("30d"));
        for text in ["3 weeks", "-1", "1.5h", "h", "18446744073709551615d"] {
            assert!(kind.parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn seconds_may_be_decimal_and_have_no_unit() {
        let kind = Kind::Seconds { min: Duration::from_millis(1), max: Duration::from_secs(3_600) };
        for (text, ms) in [("30", 30_000), ("0.25", 250), ("3600", 3_600_000), (".5", 500)] {
            assert!(kind.parse(text) == Ok(Parsed::Span(Duration::from_millis(ms))), "{text}");
        }
        for text in ["0", "3600.1", "-1", "1e2", "inf", "NaN", "5s", "", "."] {
            assert!(kind.parse(text).is_err(), "{text}");
        }
        assert_eq!(nearest(kind, "5m").as_deref(), Some("300"));
        assert_eq!(nearest(kind, "99999").as_deref(), Some("3600"));
        assert_eq!(nearest(kind, "0").as_deref(), Some("0.001"));
    }

    #[test]
    fn zero_may_stand_outside_of_the_range() {
        let kind = Kind::IntOrZero { min: 256, max: 1_000 };
        assert!(kind.parse("0").is_ok() && kind.parse("256").is_ok() && kind.parse("255").is_err());
        assert_eq!((nearest(kind, "5").as_deref(), nearest(kind, "-5").as_deref()), (Some("256"), Some("0")));
        let kind = Kind::FloatOrZero { min: 0.1, max: 8.0 };
        assert!(kind.parse("0").is_ok() && kind.parse("0.05").is_err() && kind.parse("NaN").is_err());
        assert_eq!(nearest(kind, "0.05").as_deref(), Some("0.1"));
    }

    #[test]
    fn addresses_are_literal_and_a_bare_port_is_understood() {
        assert!(Kind::SocketAddr.parse("[::1]:9090").is_ok() && Kind::SocketAddr.parse("a:80").is_err());
        assert_eq!(nearest(Kind::SocketAddr, ":8000").as_deref(), Some("127.0.0.1:8000"));
        assert_eq!(nearest(Kind::ImageReference, "Name:2").as_deref(), Some("name:2"));
    }

    #[test]
    fn words_are_suggested_by_likeness() {
        assert_eq!(
            nearest(Kind::OneOf(&["openai", "anthropic", "gemini", "offline"]), "OpenAi").as_deref(),
            Some("openai")
        );
        assert!(LEVELS.parse("warning") == Ok(Parsed::Text("WARNING".to_owned())));
        assert_eq!(nearest(Kind::OneOf(&["openai", "offline"]), "opnai").as_deref(), Some("openai"));
        assert_eq!(nearest(LEVELS, "warn").as_deref(), Some("WARNING"));
    }

    #[test]
    fn a_word_that_is_like_none_is_not_given_another_meaning() {
        assert_eq!(nearest(Kind::OneOf(&["auto", "strict", "off"]), "maybe"), None);
        assert_eq!(nearest(Kind::Flag, "ja"), None);
        assert_eq!(nearest(Kind::Flag, "maybe"), None);
    }

    #[test]
    fn urls_are_absolute_and_carry_no_credentials() {
        for good in ["http://a", "https://api.openai.com/v1", "http://127.0.0.1:8080/x/", "http://[::1]:9/v1"]
        {
            assert!(Kind::UrlNoQuery.parse(good).is_ok(), "{good}");
        }
        for bad in [
            "api.openai.com",
            "ftp://a",
            "http://",
            "http://u:p@h/",
            "http://a/?q",
            "http://a b",
            "http://a:99999",
            "/v1",
            "http://a#f",
            "http://[::1",
        ] {
            assert!(Kind::UrlNoQuery.parse(bad).is_err(), "{bad}");
        }
        assert_eq!(nearest(Kind::UrlNoSlash, "https://a.example/").as_deref(), Some("https://a.example"));
        assert_eq!(nearest(Kind::Origin, "https://a.example/").as_deref(), Some("https://a.example"));
    }

    #[test]
    fn patterns_hashes_and_keys_have_their_form() {
        for good in ["a.example", "*.a.example", "*", "10.0.0.1", "a_b"] {
            assert!(Kind::HostPattern.parse(good).is_ok(), "{good}");
        }
        for bad in ["http://a", "a b", "a..b", "*.*", "a:1"] {
            assert!(Kind::HostPattern.parse(bad).is_err(), "{bad}");
        }
        assert!(Kind::HostPortPattern.parse("a:80").is_ok() && Kind::HostPortPattern.parse("a:x").is_err());
        assert!(Kind::Hash64.parse(&"aF".repeat(32)).is_ok() && Kind::Hash64.parse(&"g".repeat(64)).is_err());
        assert!(Kind::Base64Key32.parse(&format!("{}=", "A".repeat(43))).is_ok());
        assert!(Kind::Base64Key32.parse(&"B".repeat(43)).is_err());
        assert!(Kind::List(&Kind::Origin).parse("https://a, https://b ,").is_ok());
        assert_eq!(nearest(Kind::List(&Kind::Origin), "https://a/, *").as_deref(), Some("https://a,*"));
    }
}
