//! Reading request bodies and query strings field by field, with errors that name the field.

use axum::body::Body;
use axum::extract::{FromRequestParts, Path};
use chassis::http::{Refusal, read_body};
use contract::memory::Store;
use contract::{ApiError, ErrorCode, Timestamp};
use http::request::Parts;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::convert::Infallible;

/// A JSON object body; fields nobody asks for are ignored.
#[derive(Debug)]
pub struct Fields(Map<String, Value>);

fn kind(value: &Value) -> Value {
    match value {
        Value::String(s) if s.chars().count() > 100 => {
            json!(format!("a string of {} characters", s.chars().count()))
        }
        Value::Array(a) => json!(format!("an array of {}", a.len())),
        Value::Object(_) => json!("an object"),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
    }
}

/// What a request without a required field is told.
pub(super) fn missing(name: &str) -> ApiError {
    ApiError::new(ErrorCode::InvalidRequest, format!("field `{name}`: this field is required"))
        .with(json!({"field": name, "expected": "this field is required", "got": null}))
}

impl Fields {
    /// The fields of an object that came inside another.
    pub fn of(map: Map<String, Value>) -> Self {
        Self(map)
    }

    /// True when the field was sent as `null`, where that says something.
    pub fn is_null(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(Value::is_null)
    }

    /// True when the field was sent at all.
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Reads a body of at most `limit` bytes; an empty body counts as `{}`.
    pub async fn read(body: Body, limit: usize) -> Result<Self, ApiError> {
        let bytes = read_body(body, limit).await?;
        if bytes.is_empty() {
            return Ok(Self(Map::new()));
        }
        match serde_json::from_slice::<Value>(&bytes) {
            Ok(Value::Object(map)) => Ok(Self(map)),
            Ok(other) => Err(ApiError::invalid_field("body", "a JSON object", kind(&other))),
            Err(error) => {
                let message = format!("the body is not JSON: {error}");
                Err(ApiError::new(ErrorCode::InvalidRequest, message)
                    .with(json!({"field": "body", "expected": "JSON in UTF-8", "got": error.to_string()})))
            }
        }
    }

    /// The value of a field; `null` counts as absent.
    pub fn take(&mut self, name: &str) -> Option<Value> {
        self.0.remove(name).filter(|v| !v.is_null())
    }

    /// An optional text of `min..=max` characters.
    pub fn opt_text(&mut self, name: &str, min: usize, max: usize) -> Result<Option<String>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        match value {
            Value::String(text) if (min..=max).contains(&text.chars().count()) => {
                Ok(Some(super::sanitise::text(&text)))
            }
            other if min == 0 && max == usize::MAX => {
                Err(ApiError::invalid_field(name, "a string", kind(&other)))
            }
            other if max == usize::MAX => Err(ApiError::invalid_field(
                name,
                &format!("a string of at least {min} characters"),
                kind(&other),
            )),
            other => Err(ApiError::invalid_field(
                name,
                &format!("a string of {min}..{max} characters"),
                kind(&other),
            )),
        }
    }

    /// A required text of `min..=max` characters.
    pub fn text(&mut self, name: &str, min: usize, max: usize) -> Result<String, ApiError> {
        if !self.0.contains_key(name) {
            return Err(missing(name));
        }
        self.opt_text(name, min, max)?.ok_or_else(|| ApiError::invalid_field(name, "a string", Value::Null))
    }

    /// An optional flag.
    pub fn flag(&mut self, name: &str) -> Result<bool, ApiError> {
        match self.take(name) {
            None => Ok(false),
            Some(Value::Bool(b)) => Ok(b),
            Some(other) => Err(ApiError::invalid_field(name, "true or false", kind(&other))),
        }
    }

    /// An optional whole number.
    pub fn opt_int(&mut self, name: &str, min: i64, max: i64) -> Result<Option<i64>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Number(n)) if n.as_i64().is_some_and(|n| (min..=max).contains(&n)) => Ok(n.as_i64()),
            Some(other) => {
                Err(ApiError::invalid_field(name, &format!("a whole number {min}..{max}"), kind(&other)))
            }
        }
    }

    /// An optional number from 0 to 1.
    pub fn opt_share(&mut self, name: &str) -> Result<Option<f64>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Number(n)) if n.as_f64().is_some_and(|n| (0.0..=1.0).contains(&n)) => Ok(n.as_f64()),
            Some(other) => Err(ApiError::invalid_field(name, "a number from 0 to 1", kind(&other))),
        }
    }

    /// An optional time.
    pub fn opt_time(&mut self, name: &str) -> Result<Option<Timestamp>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        match value.as_str().and_then(Timestamp::parse) {
            Some(time) => Ok(Some(time)),
            None => {
                Err(ApiError::invalid_field(name, "an ISO-8601 time as 2026-04-27T12:34:56Z", kind(&value)))
            }
        }
    }

    /// An optional word of a closed set.
    pub fn opt_word<T>(
        &mut self,
        name: &str,
        expected: &str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        match value.as_str().and_then(read) {
            Some(word) => Ok(Some(word)),
            None => Err(ApiError::invalid_field(name, expected, kind(&value))),
        }
    }

    /// An optional list of texts; each is made harmless, none is measured.
    pub fn opt_texts(&mut self, name: &str) -> Result<Option<Vec<String>>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let Value::Array(items) = value else {
            return Err(ApiError::invalid_field(name, "an array of strings", kind(&value)));
        };
        let text = |(at, item): (usize, Value)| match item {
            Value::String(text) => Ok(super::sanitise::text(&text)),
            other => Err(ApiError::invalid_field(&format!("{name}.{at}"), "a string", kind(&other))),
        };
        items.into_iter().enumerate().map(text).collect::<Result<_, _>>().map(Some)
    }

    /// An optional list.
    pub fn list(&mut self, name: &str) -> Result<Vec<Value>, ApiError> {
        match self.take(name) {
            None => Ok(Vec::new()),
            Some(Value::Array(items)) => Ok(items),
            Some(other) => Err(ApiError::invalid_field(name, "an array", kind(&other))),
        }
    }

    /// An optional object, made harmless.
    pub fn object(&mut self, name: &str) -> Result<Option<Value>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(mut value @ Value::Object(_)) => {
                super::sanitise::value(&mut value);
                Ok(Some(value))
            }
            Some(other) => Err(ApiError::invalid_field(name, "an object", kind(&other))),
        }
    }
}

/// The `{id}` of a path, percent-decoded.
#[derive(Debug)]
pub struct Id(pub String);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        match Path::<String>::from_request_parts(parts, state).await {
            Ok(Path(id)) => Ok(Self(id)),
            Err(_) => Err(ApiError::invalid_field("id", "percent-encoded UTF-8", Value::Null).into()),
        }
    }
}

/// The `{name}` of a path, percent-decoded.
#[derive(Debug)]
pub struct Name(pub String);

impl<S: Send + Sync> FromRequestParts<S> for Name {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        match Path::<String>::from_request_parts(parts, state).await {
            Ok(Path(name)) => Ok(Self(name)),
            Err(_) => Err(ApiError::invalid_field("name", "percent-encoded UTF-8", Value::Null).into()),
        }
    }
}

/// The `{store}` of a path: one of the three stores of long-term memory.
#[derive(Debug, Clone, Copy)]
pub struct InStore(pub Store);

/// The `{store}` and `{id}` of a path.
#[derive(Debug)]
pub struct StoreAndId(pub Store, pub String);

fn store_of(text: &str) -> Result<Store, ApiError> {
    Store::parse(text).ok_or_else(|| {
        let names: Vec<&str> = Store::ALL.iter().map(|store| store.as_str()).collect();
        ApiError::new(ErrorCode::NotFound, "there is no store of this name in long-term memory")
            .with(json!({"stores": names}))
    })
}

impl<S: Send + Sync> FromRequestParts<S> for InStore {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        match Path::<String>::from_request_parts(parts, state).await {
            Ok(Path(store)) => Ok(Self(store_of(&store)?)),
            Err(_) => Err(ApiError::invalid_field("store", "percent-encoded UTF-8", Value::Null).into()),
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for StoreAndId {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        match Path::<(String, String)>::from_request_parts(parts, state).await {
            Ok(Path((store, id))) => Ok(Self(store_of(&store)?, id)),
            Err(_) => Err(ApiError::invalid_field("id", "percent-encoded UTF-8", Value::Null).into()),
        }
    }
}

/// A query string; parameters nobody asks for are ignored, of a repeated one the last counts.
#[derive(Debug)]
pub struct Query(HashMap<String, String>);

impl<S: Send + Sync> FromRequestParts<S> for Query {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let text = parts.uri.query().unwrap_or_default();
        Ok(Self(url::form_urlencoded::parse(text.as_bytes()).into_owned().collect()))
    }
}

impl Query {
    /// A parameter, when it is there and not empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|v| !v.is_empty())
    }

    /// A whole number.
    pub fn int(&self, name: &str, min: i64, max: i64) -> Result<Option<i64>, ApiError> {
        let Some(text) = self.get(name) else { return Ok(None) };
        match text.parse::<i64>() {
            Ok(n) if (min..=max).contains(&n) => Ok(Some(n)),
            _ => Err(ApiError::invalid_field(name, &format!("a whole number {min}..{max}"), json!(text))),
        }
    }

    /// `limit` of a list: 1..200, default 50.
    pub fn limit(&self) -> Result<u32, ApiError> {
        let limit = self.int("limit", 1, 200)?.unwrap_or(50);
        Ok(u32::try_from(limit).unwrap_or(50))
    }

    /// `true` or `false`.
    pub fn flag(&self, name: &str) -> Result<Option<bool>, ApiError> {
        match self.get(name) {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(other) => Err(ApiError::invalid_field(name, "true or false", json!(other))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn fields(body: &str) -> Result<Fields, ApiError> {
        Fields::read(Body::from(body.to_owned()), 1000).await
    }

    #[tokio::test]
    async fn errors_name_the_field_and_what_was_expected() {
        let mut f = fields(r#"{"limit": "x", "task_id": ""}"#).await.expect("an object");
        let error = f.opt_int("limit", 1, 100).expect_err("not a number");
        assert_eq!(error.details.expect("details")["expected"], "a whole number 1..100");
        assert!(f.text("task_id", 1, 256).is_err());
        assert!(f.text("message", 0, usize::MAX).is_err());
    }

    #[tokio::test]
    async fn bodies_that_are_not_objects_are_refused_and_an_empty_one_is_an_empty_object() {
        assert!(fields("[1]").await.is_err());
        assert!(fields("{").await.is_err());
        assert!(fields("").await.is_ok());
        let big = format!("{{\"a\":\"{}\"}}", "x".repeat(2000));
        assert_eq!(fields(&big).await.expect_err("too large").error, ErrorCode::PayloadTooLarge);
        let deep = "[".repeat(500);
        assert!(fields(&deep).await.is_err());
    }
}
