//! Reading bodies, query strings and paths field by field. Every problem of a request is told at once, in
//! `details.fields`; fields nobody asks for are ignored.

use super::answer::Refusal;
use axum::body::Body;
use axum::extract::FromRequestParts;
use chassis::http::read_body;
use contract::{ErrorCode, FleetCode, FleetError, UserId};
use http::request::Parts;
use serde_json::{Map, Value, json};
use std::convert::Infallible;
use std::fmt::Display;

/// Largest request body. Larger lets a caller pin memory; smaller would refuse policies with many versions.
pub const BODY_BYTES_MAX: usize = 64 * 1024;

/// What is wrong with which field.
#[derive(Debug, Default)]
pub struct Problems(Vec<Value>);

impl Problems {
    /// Notes one.
    pub fn add(&mut self, field: &str, problem: impl Display) {
        self.0.push(json!({"field": field, "problem": problem.to_string()}));
    }

    /// The values, if nothing is wrong.
    pub fn finish<T>(self, values: Option<T>) -> Result<T, FleetError> {
        match values {
            Some(values) if self.0.is_empty() => Ok(values),
            _ => Err(self.refusal()),
        }
    }

    fn refusal(self) -> FleetError {
        let told: Vec<String> = self
            .0
            .iter()
            .map(|p| {
                format!("`{}`: {}", p["field"].as_str().unwrap_or(""), p["problem"].as_str().unwrap_or(""))
            })
            .collect();
        let message = if told.is_empty() { "the request is not valid".to_owned() } else { told.join("; ") };
        FleetError::new(FleetCode::InvalidRequest, message).with(json!({"fields": self.0}))
    }
}

/// A JSON object body.
#[derive(Debug)]
pub struct Fields {
    map: Map<String, Value>,
    problems: Problems,
}

impl Fields {
    /// Reads a body; an empty one counts as `{}`.
    pub async fn read(body: Body) -> Result<Self, FleetError> {
        let bytes = read_body(body, BODY_BYTES_MAX).await.map_err(|e| match e.error {
            ErrorCode::PayloadTooLarge => {
                FleetError::invalid_field("body", &format!("larger than {BODY_BYTES_MAX} bytes"))
            }
            _ => FleetError::invalid_field("body", &e.message),
        })?;
        if bytes.is_empty() {
            return Ok(Self { map: Map::new(), problems: Problems::default() });
        }
        match serde_json::from_slice::<Value>(&bytes) {
            Ok(Value::Object(map)) => Ok(Self { map, problems: Problems::default() }),
            Ok(_) => Err(FleetError::invalid_field("body", "expected a JSON object")),
            Err(error) => Err(FleetError::invalid_field("body", &format!("is not JSON: {error}"))),
        }
    }

    /// A field that must be there; `read` says what it must be.
    pub fn required<T, E: Display>(
        &mut self,
        name: &str,
        read: impl FnOnce(&Value) -> Result<T, E>,
    ) -> Option<T> {
        if !self.map.contains_key(name) {
            self.problems.add(name, "required");
            return None;
        }
        self.read_field(name, read)
    }

    /// A field that may be absent or null.
    pub fn optional<T, E: Display>(
        &mut self,
        name: &str,
        read: impl FnOnce(&Value) -> Result<T, E>,
    ) -> Option<Option<T>> {
        match self.map.get(name) {
            None | Some(Value::Null) => Some(None),
            Some(_) => self.read_field(name, read).map(Some),
        }
    }

    fn read_field<T, E: Display>(
        &mut self,
        name: &str,
        read: impl FnOnce(&Value) -> Result<T, E>,
    ) -> Option<T> {
        match read(self.map.get(name).unwrap_or(&Value::Null)) {
            Ok(value) => Some(value),
            Err(problem) => {
                self.problems.add(name, problem);
                None
            }
        }
    }

    /// Notes a problem that was found elsewhere (a header, a field inside a field).
    pub fn problem(&mut self, field: &str, problem: impl Display) {
        self.problems.add(field, problem);
    }

    /// The values, if nothing is wrong.
    pub fn finish<T>(self, values: Option<T>) -> Result<T, FleetError> {
        self.problems.finish(values)
    }
}

/// A text.
pub fn text(value: &Value) -> Result<&str, &'static str> {
    value.as_str().ok_or("expected a string")
}

/// `true` or `false`.
pub fn flag(value: &Value) -> Result<bool, &'static str> {
    value.as_bool().ok_or("expected true or false")
}

/// A whole number in a range.
pub fn whole(value: &Value, min: u64, max: u64) -> Result<u64, String> {
    value
        .as_u64()
        .filter(|n| (min..=max).contains(n))
        .ok_or_else(|| format!("expected a whole number {min}..{max}"))
}

/// A query string. Parameters nobody asks for are ignored; an empty value counts as absent.
#[derive(Debug, Default)]
pub struct Query {
    pairs: Vec<(String, String)>,
    problems: Problems,
}

impl<S: Send + Sync> FromRequestParts<S> for Query {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::parse(parts.uri.query().unwrap_or_default()))
    }
}

impl Query {
    fn parse(text: &str) -> Self {
        let pairs = url::form_urlencoded::parse(text.as_bytes()).into_owned();
        Self { pairs: pairs.filter(|(_, value)| !value.is_empty()).collect(), problems: Problems::default() }
    }

    /// Every value of a repeatable parameter.
    pub fn all(&self, name: &str) -> Vec<String> {
        self.pairs.iter().filter(|(n, _)| n == name).map(|(_, v)| v.clone()).collect()
    }

    /// A parameter that may be absent; of a repeated one the last counts.
    pub fn optional<T, E: Display>(
        &mut self,
        name: &str,
        read: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<Option<T>> {
        let Some((_, value)) = self.pairs.iter().rfind(|(n, _)| n == name) else { return Some(None) };
        match read(value) {
            Ok(value) => Some(Some(value)),
            Err(problem) => {
                self.problems.add(name, problem);
                None
            }
        }
    }

    /// A whole number in a range, with a default.
    pub fn number(&mut self, name: &str, min: i64, max: i64, default: i64) -> Option<i64> {
        self.optional(name, |text| match text.parse::<i64>() {
            Ok(n) if (min..=max).contains(&n) => Ok(n),
            _ => Err(format!("expected a whole number {min}..{max}")),
        })
        .map(|n| n.unwrap_or(default))
    }

    /// `limit`: 1..1000, default 100.
    pub fn limit(&mut self) -> Option<i64> {
        self.number("limit", 1, LIST_MAX, LIST_DEFAULT)
    }

    /// Notes a problem that was found elsewhere.
    pub fn problem(&mut self, name: &str, problem: impl Display) {
        self.problems.add(name, problem);
    }

    /// The values, if nothing is wrong.
    pub fn finish<T>(self, values: Option<T>) -> Result<T, FleetError> {
        self.problems.finish(values)
    }
}

/// Rows of one page. More makes one answer a load for the database; fewer makes exports chatty.
pub const LIST_MAX: i64 = 1000;
/// Rows of one page when nothing is asked for.
pub const LIST_DEFAULT: i64 = 100;

/// The user of a path `/engines/{user_id}…`. Read from the path itself, because a user may be called `provision`.
#[derive(Debug)]
pub struct User(pub UserId);

impl<S: Send + Sync> FromRequestParts<S> for User {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        let segment = parts.uri.path().split('/').nth(2).unwrap_or_default();
        let decoded = percent_decoded(segment).ok_or("expected percent-encoded UTF-8");
        let user = decoded.and_then(|text| UserId::parse(&text).map_err(|e| e.expected));
        user.map(Self).map_err(|problem| FleetError::invalid_field("user_id", problem).into())
    }
}

/// Decodes `%XX`; `None` for a broken escape or text that is not UTF-8.
pub fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, tail) = rest.split_at_checked(2)?;
        let digits = std::str::from_utf8(digits).ok().filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()))?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = tail;
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn fields(body: impl Into<Body>) -> Result<Fields, FleetError> {
        Fields::read(body.into()).await
    }

    #[tokio::test]
    async fn every_problem_of_a_body_is_told_at_once() {
        let mut f = fields(r#"{"engine_version":7,"stranger":1}"#).await.expect("an object");
        let user = f.required("user_id", |v| text(v).map(str::to_owned));
        let version = f.optional("engine_version", |v| text(v).map(str::to_owned));
        let error = f.finish(user.zip(version)).expect_err("has two problems");
        assert_eq!(error.code, FleetCode::InvalidRequest);
        let wanted = json!({"fields": [{"field": "user_id", "problem": "required"}, {"field": "engine_version", "problem": "expected a string"}]});
        assert_eq!(error.details, Some(wanted));
    }

    #[tokio::test]
    async fn an_empty_body_is_an_empty_object_and_what_is_not_an_object_is_refused() {
        assert!(fields("").await.is_ok());
        for wrong in ["[1]", "{", "null", "\u{feff}{}"] {
            let error = fields(wrong).await.expect_err(wrong);
            assert_eq!(error.details.expect("says where")["fields"][0]["field"], "body", "{wrong}");
        }
        assert!(fields(vec![b'"', 0xff, b'"']).await.is_err(), "not UTF-8");
        let exact = format!("{{\"a\":\"{}\"}}", "x".repeat(BODY_BYTES_MAX - 8));
        assert_eq!(exact.len(), BODY_BYTES_MAX);
        assert!(fields(exact.clone()).await.is_ok());
        assert!(fields(exact + " ").await.is_err());
        assert!(fields("[".repeat(5_000)).await.is_err(), "depth is bounded");
    }

    #[test]
    fn query_values_have_ranges_and_may_repeat() {
        let mut q = Query::parse("limit=5&action=wake&action=stop&offset=&status=a%20b");
        assert_eq!(q.limit(), Some(5));
        assert_eq!(q.all("action"), ["wake", "stop"]);
        assert_eq!(q.number("offset", 0, 10, 0), Some(0));
        assert!(q.finish(Some(())).is_ok());
        for wrong in ["limit=0", "limit=1001", "limit=x", "limit=-1", "limit=99999999999999999999"] {
            let mut q = Query::parse(wrong);
            assert_eq!(q.limit(), None);
            assert!(q.finish(Some(())).is_err(), "{wrong}");
        }
    }

    #[test]
    fn paths_decode_to_any_user_and_broken_escapes_are_refused() {
        assert_eq!(percent_decoded("a%2Fb%2f..%20%C3%BC").as_deref(), Some("a/b/.. ü"));
        assert_eq!(percent_decoded("a+b").as_deref(), Some("a+b"));
        for wrong in ["%", "%2", "%zz", "a%", "%C3", "%+1"] {
            assert_eq!(percent_decoded(wrong), None, "{wrong}");
        }
    }
}
