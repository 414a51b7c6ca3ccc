//! What a hook prints, read as one JSON object in which no name stands twice.
//!
//! JSON lets a name stand twice in an object, and readers differ in which one they take. A hook that prints
//! `{"decision":"deny","decision":"allow"}` has not decided, and a command it looked at may not be the one that would
//! run. So such an answer is no answer, at whatever depth the name stands twice.
//!
//! The invariant: two readers that keep to JSON find the same in what passes here.

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::fmt;

/// Bytes of a hook's answer. More is not one decision.
const ANSWER_MAX: usize = 1024 * 1024;

/// One JSON object; a hook that says nothing says `{}`.
pub(super) fn read(stdout: &str) -> Result<Map<String, Value>, String> {
    let text = stdout.trim();
    if text.is_empty() {
        return Ok(Map::new());
    }
    if text.len() > ANSWER_MAX {
        return Err(format!("its answer has more than {ANSWER_MAX} bytes"));
    }
    match serde_json::from_str(text) {
        Ok(Single(Value::Object(map))) => Ok(map),
        Ok(_) => Err("its answer is no JSON object".to_owned()),
        Err(error) => Err(format!("its answer is no JSON: {error}")),
    }
}

/// A value in whose objects every name stands once.
struct Single(Value);

impl<'de> Deserialize<'de> for Single {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reading).map(Self)
    }
}

struct Reading;

impl<'de> Visitor<'de> for Reading {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number that is none"))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Single(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(name) = fields.next_key::<String>()? {
            // the name is not told: known secrets are taken out of what is read, not of what is refused
            if map.contains_key(&name) {
                return Err(A::Error::custom("a name stands twice in one object"));
            }
            let Single(value) = fields.next_value()?;
            map.insert(name, value);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_answer_is_one_object_or_nothing() {
        assert_eq!(read(" \n"), Ok(Map::new()));
        for bad in ["[]", "{} {}", "ok", "{"] {
            assert!(read(bad).is_err(), "{bad}");
        }
        let long = format!("{{\"reason\":\"{}\"}}", "x".repeat(ANSWER_MAX));
        assert!(read(&long).is_err_and(|why| why.contains("more than")));
    }

    #[test]
    fn every_kind_of_value_is_read_as_the_library_reads_it() {
        let whole = json!({"a": null, "b": [true, -1, 18_446_744_073_709_551_615_u64, 0.5, "x\n\u{1f600}", {}, []],
                           "input": {"a": {"a": {"a": 1}}}});
        assert_eq!(read(&whole.to_string()).map(Value::Object), Ok(whole));
    }

    #[test]
    fn a_name_that_stands_twice_is_no_answer_at_any_depth() {
        for bad in [
            r#"{"decision":"deny","decision":"allow"}"#,
            r#"{"decision":"allow","decision":"allow"}"#,
            r#"{"decision":"deny","d\u0065cision":"allow"}"#,
            r#"{"decision":"allow","input":{"command":"ls","command":"rm"}}"#,
            r#"{"decision":"allow","input":{"edits":[{"a":1},{"b":1,"b":2}]}}"#,
        ] {
            let why = read(bad).expect_err(bad);
            assert!(why.contains("stands twice") && !why.contains("command"), "{why}");
        }
        assert!(read(r#"{"decision":"allow","input":{"decision":"x","list":[{"a":1},{"a":2}]}}"#).is_ok());
    }
}
