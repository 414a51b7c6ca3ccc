//! Image references, read so far that two of them can be compared.
//!
//! `repository[:tag][@digest]`, where the repository may begin with a registry and its port. It refuses to
//! normalise: `x` and `docker.io/library/x` are different texts, and a difference is a denial, never a permission.
//! The invariant: what parses here contains no white space, no control character and no shell or URL syntax.

/// Longest accepted reference in bytes: the column and the daemon accept no more.
pub const MAX_BYTES: usize = 255;

/// A reference taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reference<'a> {
    /// Registry (with port) and path.
    pub repository: &'a str,
    /// Tag, without the colon.
    pub tag: Option<&'a str>,
    /// Digest, without the at sign.
    pub digest: Option<&'a str>,
}

/// Takes a reference apart; the error is the problem, for people.
pub fn parse(text: &str) -> Result<Reference<'_>, &'static str> {
    if text.is_empty() || text.len() > MAX_BYTES {
        return Err("expected 1..255 characters");
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (text, None),
    };
    // A colon before the last slash belongs to the registry's port.
    let path_at = rest.rfind('/').map_or(0, |slash| slash + 1);
    let (repository, tag) = match rest[path_at..].find(':') {
        Some(colon) => (&rest[..path_at + colon], Some(&rest[path_at + colon + 1..])),
        None => (rest, None),
    };
    if !is_repository(repository) {
        return Err("expected repository[:tag][@digest] with a lower-case repository");
    }
    if tag.is_some_and(|tag| !is_tag(tag)) {
        return Err("expected a tag of 1..128 characters [A-Za-z0-9_.-]");
    }
    if digest.is_some_and(|digest| !is_digest(digest)) {
        return Err("expected a digest sha256:<64 hex digits>");
    }
    Ok(Reference { repository, tag, digest })
}

/// True when both parse and name the same repository, whatever tag or digest.
pub fn same_repository(one: &str, other: &str) -> bool {
    matches!((parse(one), parse(other)), (Ok(one), Ok(other)) if one.repository == other.repository)
}

fn is_repository(text: &str) -> bool {
    let mut parts = text.split('/').peekable();
    let mut first = true;
    while let Some(part) = parts.next() {
        let registry = first && parts.peek().is_some();
        let fine = if registry { is_registry(part) } else { is_component(part) };
        if !fine {
            return false;
        }
        first = false;
    }
    true
}

fn is_registry(text: &str) -> bool {
    let (host, port) = text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
    is_component(&host.to_ascii_lowercase())
        && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|p| p > 0))
}

fn is_component(text: &str) -> bool {
    let letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    !bytes.is_empty()
        && letter(bytes[0])
        && letter(bytes[bytes.len() - 1])
        && bytes.iter().all(|&b| letter(b) || matches!(b, b'.' | b'_' | b'-'))
}

fn is_tag(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && !text.starts_with(['.', '-'])
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(|hex| {
        hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn a_registry_port_is_not_a_tag() {
        let parsed = parse("registry:5000/team/september-engine").expect("a reference");
        assert_eq!((parsed.repository, parsed.tag), ("registry:5000/team/september-engine", None));
        let parsed = parse("registry:5000/september-engine:2.3.0").expect("a reference");
        assert_eq!((parsed.repository, parsed.tag), ("registry:5000/september-engine", Some("2.3.0")));
    }

    #[test]
    fn tags_and_digests_do_not_change_the_repository() {
        let with_both = format!("september-engine:2.3.0@{DIGEST}");
        assert_eq!(parse(&with_both).map(|r| r.digest), Ok(Some(DIGEST)));
        assert!(same_repository("september-engine:latest", &with_both));
        assert!(same_repository("september-engine", "september-engine:1"));
        for foreign in
            ["evil/september-engine:2", "september-engine2:1", "r:5000/september-engine", "nginx", ""]
        {
            assert!(!same_repository("september-engine:latest", foreign), "{foreign}");
        }
        assert!(!same_repository("r:5000/september-engine", "r:5001/september-engine"));
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        for wrong in [
            "",
            " a",
            "a b",
            "A",
            "a:",
            "a:-x",
            "a@",
            "a@sha256:12",
            "a//b",
            "/a",
            "a/",
            "a:b:c",
            "a\n",
            "a;b",
            "../a",
            "r:99999/a",
            "a:b/c@d",
        ] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
        assert!(parse(&format!("a:{}", "1".repeat(129))).is_err());
        assert!(parse(&"a".repeat(256)).is_err());
    }
}
