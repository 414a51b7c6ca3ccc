//! What is wrong in a bundle, in words for the one who sends it: what was expected, and what stands there instead.
//!
//! Looked up only once something is refused. The invariant: whatever a bundle holds, what is repeated of it is short.

use serde::Deserializer;
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;
use std::fmt;

/// Characters of a value that an answer repeats. More fills the answer with what the client has; fewer is not recognised.
const SHOWN_CHARS: usize = 60;
/// What stands at a place where nothing stands.
const NOTHING: &str = "nothing";

/// The value at a JSON pointer, shortened.
pub fn shown(bytes: &[u8], pointer: &str) -> Value {
    let found = std::str::from_utf8(bytes).ok().and_then(|text| at(text, pointer));
    let Some(raw) = found.map(str::trim_start) else { return NOTHING.into() };
    match raw.as_bytes().first() {
        Some(b'{') => format!("an object of {} bytes", raw.len()).into(),
        Some(b'[') => format!("an array of {} bytes", raw.len()).into(),
        Some(_) | None => match serde_json::from_str(raw) {
            Ok(Value::String(text)) => short(&text).into(),
            Ok(other) => other,
            // a number that no number of ours can hold
            Err(_) => short(raw).into(),
        },
    }
}

fn short(text: &str) -> String {
    let mut short: String = text.chars().take(SHOWN_CHARS).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

fn at<'t>(text: &'t str, pointer: &str) -> Option<&'t str> {
    let mut raw = text;
    for step in pointer.split('/').skip(1) {
        let name = step.replace("~1", "/").replace("~0", "~");
        raw = match raw.trim_start().as_bytes().first()? {
            b'{' | b'[' => serde_json::Deserializer::from_str(raw).deserialize_any(Step(&name)).ok()??.get(),
            _ => return None,
        };
    }
    Some(raw)
}

/// One step into an object or an array. Everything beside the way is stepped over and held nowhere: a bundle that is
/// refused may be as large as one that is taken, and what is wrong with it may stand anywhere. Of a name that stands
/// twice the last counts, as it does for most readers.
struct Step<'s>(&'s str);

impl<'de> Visitor<'de> for Step<'_> {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object or an array")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(is_it) = map.next_key_seed(IsName(self.0))? {
            match is_it {
                true => found = Some(map.next_value()?),
                false => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let wanted = self.0.parse::<usize>().ok();
        let mut found = None;
        for at in 0.. {
            let is_there = match wanted == Some(at) {
                true => {
                    found = items.next_element()?;
                    found.is_some()
                }
                false => items.next_element::<IgnoredAny>()?.is_some(),
            };
            if !is_there {
                break;
            }
        }
        Ok(found)
    }
}

/// Whether a name is this one.
struct IsName<'s>(&'s str);

impl<'de> DeserializeSeed<'de> for IsName<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for IsName<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<bool, E> {
        Ok(name == self.0)
    }
}

/// What the reader of JSON says is wrong, as the field below the place where it stopped (empty: that place) and what was
/// expected there.
pub fn plainly(said: &str) -> (String, String) {
    let said = said.rsplit_once(" at line ").map_or(said, |(said, _)| said);
    let named = |start: &str| said.strip_prefix(start)?.strip_suffix('`').map(str::to_owned);
    if let Some(field) = named("missing field `") {
        return (field, "this field".to_owned());
    }
    if let Some(field) = named("duplicate field `") {
        return (field, "this field once".to_owned());
    }
    let expected = said.rsplit_once(", expected ").map(|(_, expected)| expected);
    let expected = expected.or_else(|| said.strip_prefix("expected ")).unwrap_or(said).replace('`', "");
    let plain = match expected.as_str() {
        "a map" => "an object",
        "a sequence" => "an array",
        "string or map" => "a word",
        "i64" | "u64" | "u32" | "i32" => "a whole number",
        "f64" => "a number",
        row if row.starts_with("struct ") => "an object",
        other => other,
    };
    (String::new(), plain.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_stands_at_a_place_is_shown_shortened() {
        let document = json!({"a/b": [1, {"c": "x".repeat(100), "d": null}], "e": {"f": [true]}}).to_string();
        let is = |pointer: &str| shown(document.as_bytes(), pointer);
        assert_eq!(is("/a~1b/0"), 1);
        assert_eq!(is("/a~1b/1/c"), format!("{}…", "x".repeat(60)));
        assert_eq!(is("/a~1b/1/d"), Value::Null);
        assert_eq!(is("/e"), "an object of 12 bytes");
        assert_eq!(is("/e/f"), "an array of 6 bytes");
        for nowhere in ["/x", "/a~1b/7", "/a~1b/x", "/e/f/0/g"] {
            assert_eq!(is(nowhere), NOTHING, "{nowhere}");
        }
        assert_eq!(shown(b"[1e999]", "/0"), "1e999");
        assert_eq!(shown(br#"{"a":1,"\u0061":[2,3]}"#, "/a/1"), 3, "the last of a name that stands twice");
        let wide = format!("[{}{{\"id\":7}}]", "0,".repeat(200_000));
        assert_eq!(shown(wide.as_bytes(), "/200000/id"), 7);
        let deep = format!("{{\"deep\":{}{},\"id\":7}}", "[".repeat(5_000), "]".repeat(5_000));
        assert_eq!(shown(deep.as_bytes(), "/id"), 7, "what is stepped over may be as deep as it likes");
    }

    #[test]
    fn the_words_of_the_reader_are_made_plain() {
        for (said, field, expected) in [
            ("missing field `subject` at line 1 column 9", "subject", "this field"),
            ("duplicate field `id` at line 1 column 9", "id", "this field once"),
            ("invalid type: integer `7`, expected a string at line 1 column 2", "", "a string"),
            (
                "invalid type: string \"a, expected b\", expected struct FactRow at line 2 column 1",
                "",
                "an object",
            ),
            (
                "unknown variant `holy`, expected one of `user`, `tool` at line 1 column 2",
                "",
                "one of user, tool",
            ),
            ("expected an ISO-8601 time at line 1 column 2", "", "an ISO-8601 time"),
            ("something else", "", "something else"),
        ] {
            assert_eq!(plainly(said), (field.to_owned(), expected.to_owned()), "{said}");
        }
    }
}
