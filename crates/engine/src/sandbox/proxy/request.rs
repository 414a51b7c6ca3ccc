//! What a command asks the proxy for. Pure, and strict: what two programs could read differently is refused.

use url::Url;

/// Headers that are about the connection to the proxy, or that would let a second request hide behind the first.
const DROPPED: [&str; 9] = [
    "proxy-authorization",
    "proxy-connection",
    "connection",
    "keep-alive",
    "te",
    "trailer",
    "upgrade",
    "host",
    "expect",
];

/// Why a request cannot be passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Problem {
    #[error("the request's head is too long")]
    TooLong,
    #[error("{0}")]
    Malformed(&'static str),
    #[error("the sandbox's proxy needs the token of HTTP_PROXY")]
    NoToken,
    #[error("only CONNECT, GET and HEAD are passed on; use https for anything else")]
    Method,
}

/// A request that may be passed on if its host may be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Asked {
    /// A tunnel.
    Connect { authority: String },
    /// A plain request, with the head as the other side gets it.
    Plain { authority: String, head: String },
}

impl Asked {
    /// `host:port`.
    pub(super) fn authority(&self) -> &str {
        match self {
            Asked::Connect { authority } | Asked::Plain { authority, .. } => authority,
        }
    }
}

/// Bytes of a complete head, with its empty line.
pub(super) fn head_length(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|w| w == b"\r\n\r\n").map(|at| at + 4)
}

/// Reads a complete head. One of `credentials` is what Basic authentication must carry; which one is told.
pub(super) fn read<C: AsRef<str>>(head: &[u8], credentials: &[C]) -> Result<(Asked, usize), Problem> {
    let bad = Problem::Malformed;
    let text = std::str::from_utf8(head).map_err(|_| bad("the request's head is not text"))?;
    let mut lines = text.trim_end_matches("\r\n").split("\r\n");
    let first = lines.next().unwrap_or_default();
    let mut headers = Vec::new();
    for line in lines {
        let (name, value) = line.split_once(':').ok_or(bad("a header without a colon"))?;
        let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic());
        if !is_name || value.chars().any(|c| c.is_control() && c != '\t') {
            return Err(bad("a header that is none"));
        }
        headers.push((name.to_ascii_lowercase(), value.trim()));
    }
    let mut words = first.split(' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(bad("not an HTTP request"));
    };
    if !matches!(version, "HTTP/1.1" | "HTTP/1.0") || target.chars().any(char::is_control) {
        return Err(bad("not an HTTP/1 request"));
    }
    let presented = headers.iter().filter(|(name, _)| name == "proxy-authorization").map(|(_, value)| *value);
    let is_presented = |wanted: &C| presented.clone().any(|value| is_basic(value, wanted.as_ref()));
    let whose = credentials.iter().position(is_presented).ok_or(Problem::NoToken)?;
    let asked = match method {
        "CONNECT" => Asked::Connect { authority: target.to_owned() },
        "GET" | "HEAD" => plain(method, target, &headers)?,
        _ => return Err(Problem::Method),
    };
    Ok((asked, whose))
}

fn is_basic(value: &str, credentials: &str) -> bool {
    let Some((scheme, presented)) = value.split_once(' ') else { return false };
    let (a, b) = (presented.trim().as_bytes(), credentials.as_bytes());
    // in constant time: the other programs of this machine may knock, too
    let differ = a.iter().zip(b).fold(0, |d, (x, y)| d | (x ^ y));
    scheme.eq_ignore_ascii_case("basic") && a.len() == b.len() && differ == 0
}

fn plain(method: &str, target: &str, headers: &[(String, &str)]) -> Result<Asked, Problem> {
    let url = Url::parse(target).map_err(|_| Problem::Malformed("the target is not a URL"))?;
    if url.scheme() != "http" || !url.username().is_empty() || url.password().is_some() {
        return Err(Problem::Malformed("the target is not a plain http URL"));
    }
    let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
        return Err(Problem::Malformed("the target has no host"));
    };
    if headers.iter().any(|(name, _)| name == "content-length" || name == "transfer-encoding") {
        return Err(Problem::Malformed("a GET with a body"));
    }
    let authority = format!("{host}:{port}");
    let path = &url[url::Position::BeforePath..url::Position::AfterQuery];
    let named = if port == 80 { host.to_owned() } else { authority.clone() };
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {named}\r\nConnection: close\r\n");
    for (name, value) in headers.iter().filter(|(name, _)| !DROPPED.contains(&name.as_str())) {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    Ok(Asked::Plain { authority, head })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TOKEN: &str = "c2FuZGJveDp0b2tlbg==";

    fn asked(request: &str) -> Result<Asked, Problem> {
        read(
            request.replace("AUTH", &format!("Proxy-Authorization: Basic {TOKEN}")).as_bytes(),
            &["other", TOKEN],
        )
        .map(|(asked, whose)| {
            assert_eq!(whose, 1);
            asked
        })
    }

    #[test]
    fn a_tunnel_and_a_plain_get_are_read() {
        let tunnel = asked("CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\nAUTH\r\n\r\n");
        assert_eq!(tunnel, Ok(Asked::Connect { authority: "a.test:443".into() }));
        let get = asked(
            "GET http://A.test/x?y=1#z HTTP/1.1\r\nHost: evil.test\r\nAUTH\r\nAccept: */*\r\nConnection: keep-alive\r\n\r\n",
        );
        let head =
            "GET /x?y=1 HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\naccept: */*\r\n\r\n".to_owned();
        assert_eq!(get, Ok(Asked::Plain { authority: "a.test:80".into(), head }));
    }

    #[test]
    fn without_the_token_nothing_is_read_further() {
        for header in [
            "",
            "Proxy-Authorization: Basic eA==\r\n",
            "Proxy-Authorization: Bearer c2FuZGJveDp0b2tlbg==\r\n",
            "Authorization: Basic c2FuZGJveDp0b2tlbg==\r\n",
        ] {
            let request = format!("CONNECT a.test:443 HTTP/1.1\r\n{header}\r\n");
            assert_eq!(read(request.as_bytes(), &[TOKEN]), Err(Problem::NoToken), "{header}");
        }
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for request in [
            "GET /local HTTP/1.1\r\nAUTH\r\n\r\n",
            "GET https://a.test/ HTTP/1.1\r\nAUTH\r\n\r\n",
            "GET http://u:p@a.test/ HTTP/1.1\r\nAUTH\r\n\r\n",
            "GET http://a.test/ HTTP/2\r\nAUTH\r\n\r\n",
            "GET http://a.test/ x HTTP/1.1\r\nAUTH\r\n\r\n",
            "GET http://a.test/ HTTP/1.1\r\nAUTH\r\nContent-Length: 5\r\n\r\n",
            "GET http://a.test/ HTTP/1.1\r\nAUTH\r\nTransfer-Encoding: chunked\r\n\r\n",
            "GET http://a.test/ HTTP/1.1\r\nAUTH\r\n folded: x\r\n\r\n",
            "GET http://a.test/ HTTP/1.1\r\nAUTH\r\nx: a\nHost: b\r\n\r\n",
            "GET http://a.test/ HTTP/1.1\r\nAUTH\r\nnonsense\r\n\r\n",
            "",
        ] {
            let got = asked(request);
            assert!(matches!(got, Err(Problem::Malformed(_))), "{request}: {got:?}");
        }
        for method in ["POST", "PUT", "TRACE", "get"] {
            let request = format!("{method} http://a.test/ HTTP/1.1\r\nAUTH\r\n\r\n");
            assert_eq!(asked(&request), Err(Problem::Method), "{method}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(&bytes, &[TOKEN]);
        }

        #[test]
        fn no_header_value_makes_a_second_line(value in "[ -~\\r\\n\\t]{0,40}") {
            if let Ok(Asked::Plain { head, .. }) = asked(&format!("GET http://a.test/ HTTP/1.1\r\nAUTH\r\nx: {value}\r\n\r\n")) {
                prop_assert_eq!(head.matches("\r\n\r\n").count(), 1);
                prop_assert_eq!(head.to_lowercase().matches("host:").count() - value.to_lowercase().matches("host:").count(), 1);
            }
        }
    }
}
