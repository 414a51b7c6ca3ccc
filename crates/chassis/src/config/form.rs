//! What texts look like: host names, URLs, keys, image references, names of things.
//!
//! Each function answers yes or no about one text and knows nothing of where it comes from.

use std::net::IpAddr;

/// An absolute http(s) URL with a host, without credentials, fragment, blanks and control characters.
pub(super) fn is_http_url(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once("://") else { return false };
    let web = scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https");
    let authority = rest.split(['/', '?']).next().unwrap_or("");
    let plain = text.bytes().all(|b| b.is_ascii_graphic()) && !text.contains(['#', '\\', '"', '<', '>']);
    web && plain && is_authority(authority)
}

/// `host[:port]`, the host a name, an IPv4 address, or an IPv6 address in brackets.
fn is_authority(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((v6, port)) if v6.parse::<std::net::Ipv6Addr>().is_ok() => ("v6", port.strip_prefix(':')),
            _ => return false,
        },
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    is_host_name(host) && port.is_none_or(|p| p.parse::<u16>().is_ok())
}

pub(super) fn is_host_name(text: &str) -> bool {
    let text = text.strip_suffix('.').unwrap_or(text);
    let label = |l: &str| {
        !l.is_empty()
            && l.len() <= 63
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    text.len() <= 253 && text.split('.').all(label)
}

pub(super) fn is_host_pattern(text: &str) -> bool {
    text == "*" || text.parse::<IpAddr>().is_ok() || is_host_name(text.strip_prefix("*.").unwrap_or(text))
}

/// `scheme://host[:port]` and nothing after it.
pub(super) fn is_origin(text: &str) -> bool {
    let Some((scheme, authority)) = text.split_once("://") else { return false };
    let scheme_ok = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'));
    scheme_ok && is_authority(authority)
}

/// 43 digits of the URL-safe alphabet, or 44 with padding; the last one carries four bits only.
pub(super) fn is_base64_of_32_bytes(text: &str) -> bool {
    let digits = text.strip_suffix('=').unwrap_or(text);
    digits.len() == 43
        && digits.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        && digits.ends_with(|c| "AEIMQUYcgkosw048".contains(c))
}

/// A name as shells and programs give it to a variable.
pub(super) fn is_variable_name(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        && text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
}

/// A name of a network, a volume or the like: letters, digits, `_`, `.` and `-`, at most 128 of them.
pub(super) fn is_object_name(text: &str) -> bool {
    text.len() <= 128
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

/// 1..63 of `[a-z0-9-]`, beginning and ending with a letter or digit.
pub(super) fn is_dns_label(text: &str) -> bool {
    let letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    (1..=63).contains(&bytes.len())
        && bytes.iter().all(|&b| letter(b) || b == b'-')
        && letter(bytes[0])
        && letter(bytes[bytes.len() - 1])
}

/// Labels with dots between them, at most 253 characters.
pub(super) fn is_dns_name(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_dns_label)
}

/// A positive number with an optional unit, as `10Gi` or `500M`.
pub(super) fn is_quantity(text: &str) -> bool {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    number.parse::<f64>().is_ok_and(|n| n > 0.0)
        && ["", "k", "M", "G", "T", "P", "Ki", "Mi", "Gi", "Ti", "Pi"].contains(&unit)
}

/// `[host[:port]/]path[:tag][@digest]`, at most 255 characters.
pub(super) fn is_image_reference(text: &str) -> bool {
    let (name, digest) = match text.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (text, None),
    };
    let (path, tag) = match name.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => (path, Some(tag)),
        _ => (name, None),
    };
    let tag_ok = |t: &str| {
        (1..=128).contains(&t.len())
            && !t.starts_with(['.', '-'])
            && t.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
    };
    let digest_ok = |d: &str| {
        d.split_once(':').is_some_and(|(algorithm, hex)| {
            algorithm.bytes().all(|b| b.is_ascii_alphanumeric()) && !algorithm.is_empty() && is_hex(hex)
        })
    };
    let part = |p: &str| {
        p.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            && p.ends_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            && p.bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'.' | b'-'))
    };
    let path_ok = match path.split_once('/') {
        // A first part with a dot, a port or that name is a registry, whose letters may be of any case.
        Some((host, rest)) if host == "localhost" || host.contains(['.', ':']) => {
            is_authority(host) && rest.split('/').all(part)
        }
        _ => path.split('/').all(part),
    };
    text.len() <= 255 && path_ok && tag.is_none_or(tag_ok) && digest.is_none_or(digest_ok)
}

fn is_hex(text: &str) -> bool {
    text.len() >= 32 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(is: fn(&str) -> bool, good: &[&str], bad: &[&str]) {
        for text in good {
            assert!(is(text), "{text}");
        }
        for text in bad {
            assert!(!is(text), "{text}");
        }
    }

    #[test]
    fn images_are_named_with_an_optional_registry_tag_and_digest() {
        let digest = format!("a@sha256:{}", "0f".repeat(32));
        check(
            is_image_reference,
            &[
                "a",
                "a:latest",
                "library/a_b.c:2.3.0-RC1",
                "registry.example.com/team/a:1",
                "Host.example:5000/a",
                "localhost/a",
                &digest,
            ],
            &[
                "",
                "A:1",
                "a b",
                "a:",
                "a::b",
                "/a",
                "a/",
                "a//b",
                "-a",
                "a:-x",
                "a@sha256:xyz",
                "a@",
                "https://a/b:1",
            ],
        );
        assert!(!is_image_reference(&format!("{}:1", "a".repeat(254))));
    }

    #[test]
    fn names_have_the_form_of_their_place() {
        check(is_variable_name, &["A", "_a1", "LLM_API_KEY"], &["", "1A", "A-B", "A B", "Ä"]);
        check(is_object_name, &["a_net", "a", "A.b-c"], &["", "-a", "a b", "a/b"]);
        check(is_dns_label, &["a", "a-1"], &["", "-a", "a-", "A", "a.b"]);
        check(is_dns_name, &["a", "fast.disk-1"], &["", "a..b", "A"]);
        check(is_quantity, &["10Gi", "1.5T", "7"], &["", "Gi", "0", "10GB", "-1", "1e"]);
    }
}
