//! From what a provider says when it fails to a [`CallError`]: the table of spec 11.5, in one place.
//!
//! Texts are shortened and the key is cut out of them; nothing else of the request is ever quoted by us.

use crate::provider::{CallError, ErrorKind};
use http::HeaderMap;
use serde_json::Value;
use std::time::Duration;

/// Most bytes read of an error body. More would let a failing proxy fill the memory; less could cut the
/// JSON before the code we look for.
pub const MAX_ERROR_BODY_BYTES: usize = 64 * 1024;

/// Longest message of an error, in characters. Longer fills logs and screens; shorter loses the reason.
pub const MAX_MESSAGE_CHARS: usize = 500;

/// Longest wait a provider can ask for. Longer is taken for a mistake.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(24 * 3600);

/// How providers and compatible servers say that the context does not fit, in lower case.
const OVERFLOW_PHRASES: &[&str] = &[
    "context_length_exceeded",
    "maximum context length",
    "prompt is too long",
    "exceeds the maximum number of tokens",
    "input token count",
    "context window",
    "exceed_context_size",
    "exceeds the available context size",
    "exceed context limit",
    "greater than the context length",
    "exceeds the context length",
    "longer than the model's context length",
    "exceeds maximum context",
    "tokens + `max_new_tokens` must be",
    "input is too long",
    "please reduce the length of the messages",
    "request_too_large",
];

/// How providers say that the account is out of credit, in lower case.
const QUOTA_PHRASES: &[&str] = &[
    "insufficient_quota",
    "billing_hard_limit",
    "billing_not_active",
    "credit balance is too low",
    "insufficient balance",
    "insufficient credits",
    "payment required",
    "billing_error",
];

/// Does this text say that the context is too large?
pub fn says_overflow(text: &str) -> bool {
    let lower = text.to_lowercase();
    OVERFLOW_PHRASES.iter().any(|phrase| lower.contains(phrase))
}

/// Does this text say that there is no credit?
pub fn says_quota(text: &str) -> bool {
    let lower = text.to_lowercase();
    QUOTA_PHRASES.iter().any(|phrase| lower.contains(phrase))
}

/// A failed HTTP answer, read and parsed as far as it goes.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// The HTTP status; 200 for an error inside a stream.
    pub status: u16,
    /// Its headers.
    pub headers: HeaderMap,
    /// The body as JSON; `Null` when it is not JSON.
    pub json: Value,
    /// The body as text.
    pub text: String,
}

impl Refusal {
    /// Takes the raw body apart.
    pub fn new(status: u16, headers: HeaderMap, body: &[u8]) -> Self {
        let text = String::from_utf8_lossy(body).into_owned();
        let json = serde_json::from_str(&text).unwrap_or(Value::Null);
        // Gemini wraps errors in an array when not asked for alt=sse; proxies copy that.
        let json = match json {
            Value::Array(mut list) if list.len() == 1 => list.remove(0),
            other => other,
        };
        Self { status, headers, json, text }
    }

    /// An error that came inside a stream, as its JSON frame.
    pub fn in_stream(json: Value) -> Self {
        let status = json["error"]["code"].as_u64().and_then(|c| u16::try_from(c).ok()).unwrap_or(200);
        Self { status, headers: HeaderMap::new(), text: json.to_string(), json }
    }

    /// A text field of the `error` object.
    pub fn field(&self, name: &str) -> &str {
        self.json["error"][name].as_str().unwrap_or_default()
    }

    /// What it says, for people: the message of the known shapes, else the body.
    pub fn message(&self) -> &str {
        let places = [
            &self.json["error"]["message"],
            &self.json["message"],
            &self.json["error"],
            &self.json["detail"],
            &self.json["detail"][0]["msg"],
        ];
        places.into_iter().find_map(Value::as_str).unwrap_or(&self.text)
    }

    /// The kind the status alone gives.
    pub fn kind_by_status(&self) -> ErrorKind {
        match self.status {
            401 | 403 => ErrorKind::Auth,
            402 => ErrorKind::Quota,
            404 => ErrorKind::Model,
            413 => ErrorKind::Overflow,
            429 if says_quota(&self.text) => ErrorKind::Quota,
            429 => ErrorKind::RateLimited,
            400..=499 if self.status != 408 && self.status != 409 => {
                if says_overflow(&self.text) {
                    ErrorKind::Overflow
                } else if says_quota(&self.text) {
                    ErrorKind::Quota
                } else {
                    ErrorKind::BadRequest
                }
            }
            300..=399 => ErrorKind::BadRequest,
            503 | 529 => ErrorKind::Overloaded,
            _ => ErrorKind::Server,
        }
    }

    /// The finished error of this kind.
    pub fn into_error(self, provider: &str, kind: ErrorKind, key: Option<&str>) -> CallError {
        let retry_after = retry_after(&self.headers, chrono::Utc::now().timestamp());
        let said = match self.status {
            300..=399 => {
                "it redirects to another address, which is not followed; set LLM_BASE_URL to the final one"
            }
            _ if self.message().trim().is_empty() => "no reason given",
            _ => self.message(),
        };
        let message = match self.status {
            200 => format!("{provider} failed: {said}"),
            status => format!("{provider} answered {status}: {said}"),
        };
        CallError {
            kind,
            message: presentable(&message, key),
            status: (self.status != 200).then_some(self.status),
            retry_after,
        }
    }
}

/// Cuts the key out, removes control characters and runs of blanks, and shortens.
pub fn presentable(text: &str, key: Option<&str>) -> String {
    let without_key = match key {
        Some(key) if !key.is_empty() => text.replace(key, "[redacted]"),
        _ => text.to_owned(),
    };
    let words: Vec<&str> =
        without_key.split(|c: char| c.is_whitespace() || c.is_control()).filter(|w| !w.is_empty()).collect();
    let joined = words.join(" ");
    if joined.chars().count() <= MAX_MESSAGE_CHARS {
        return joined;
    }
    let mut short: String = joined.chars().take(MAX_MESSAGE_CHARS - 1).collect();
    short.push('…');
    short
}

/// Reads `retry-after-ms` and `Retry-After` (seconds or a date; `now` is in seconds since 1970).
pub fn retry_after(headers: &HeaderMap, now: i64) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).map(str::trim);
    let wait = if let Some(ms) = text("retry-after-ms").and_then(|t| t.parse::<f64>().ok()) {
        seconds(ms / 1000.0)?
    } else {
        let value = text("retry-after")?;
        match value.parse::<f64>() {
            Ok(number) => seconds(number)?,
            Err(_) => {
                let at = chrono::DateTime::parse_from_rfc2822(value).ok()?.timestamp();
                Duration::from_secs(u64::try_from(at - now).unwrap_or(0))
            }
        }
    };
    (wait <= MAX_RETRY_AFTER).then_some(wait)
}

/// A number of seconds as a duration, when it is one.
pub fn seconds(number: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(number).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(status: u16, body: &str) -> Refusal {
        Refusal::new(status, HeaderMap::new(), body.as_bytes())
    }

    #[test]
    fn every_status_has_its_kind() {
        use ErrorKind::*;
        let table = [
            (401, Auth),
            (403, Auth),
            (402, Quota),
            (404, Model),
            (400, BadRequest),
            (422, BadRequest),
            (413, Overflow),
            (429, RateLimited),
            (408, Server),
            (409, Server),
            (500, Server),
            (502, Server),
            (503, Overloaded),
            (504, Server),
            (529, Overloaded),
            (302, BadRequest),
        ];
        for (status, kind) in table {
            assert_eq!(refusal(status, "").kind_by_status(), kind, "{status}");
        }
        assert_eq!(refusal(429, r#"{"error":{"code":"insufficient_quota"}}"#).kind_by_status(), Quota);
    }

    #[test]
    fn compatible_servers_phrases_of_overflow_are_known() {
        for said in [
            "This model's maximum context length is 8192 tokens. However, your messages resulted in 9000",
            "the request exceeds the available context size, try increasing it",
            "prompt is too long: 201000 tokens > 200000 maximum",
            "The input token count (2000000) exceeds the maximum number of tokens allowed (1048576).",
            "inputs tokens + `max_new_tokens` must be <= 4096",
            "The number of tokens to keep from the initial prompt is greater than the context length",
        ] {
            assert_eq!(refusal(400, said).kind_by_status(), ErrorKind::Overflow, "{said}");
        }
        assert!(!says_overflow("max_tokens is too large: 5000"));
    }

    #[test]
    fn a_message_is_short_and_never_holds_the_key() {
        let body = format!("{{\"error\":{{\"message\":\"bad key sk-secret-1234 {}\"}}}}", "x\\n".repeat(600));
        let error = refusal(401, &body).into_error("openai", ErrorKind::Auth, Some("sk-secret-1234"));
        assert!(error.message.starts_with("openai answered 401: bad key [redacted] x x"));
        assert_eq!(error.message.chars().count(), MAX_MESSAGE_CHARS);
        assert_eq!(error.status, Some(401));
    }

    #[test]
    fn a_wait_is_read_in_all_three_forms() {
        let with = |name: &'static str, value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, http::HeaderValue::from_static(value));
            retry_after(&headers, 784_111_770)
        };
        assert_eq!(with("retry-after", "7"), Some(Duration::from_secs(7)));
        assert_eq!(with("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::from_secs(7)));
        assert_eq!(with("retry-after-ms", "1500"), Some(Duration::from_millis(1500)));
        assert_eq!(with("retry-after", "-3"), None);
        assert_eq!(with("retry-after", "soon"), None);
        assert_eq!(with("retry-after", "99999999"), None);
    }
}
