//! Reading one JSON object of a catalog file key by key, collecting every problem on the way.
//!
//! A key that is wrong yields `None` and a problem; the reading goes on, so that a file's problems are all
//! known at once. Keys nobody asked for are a warning. Pure: no file is opened here.

use super::problem::{Problem, named, quoted};
use serde_json::{Map, Value};

/// Parses a catalog file: JSON in UTF-8 whose top is an object.
pub fn parse(file: &str, bytes: &[u8]) -> Result<Map<String, Value>, Problem> {
    let text = std::str::from_utf8(bytes).map_err(|e| {
        let why = format!("is not UTF-8 at byte {}", e.valid_up_to());
        Problem::error(file, "", why, "save the file as UTF-8")
    })?;
    match serde_json::from_str(text) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(other) => {
            let why = format!("expected a JSON object, got {}", named(&other));
            Err(Problem::error(file, "", why, "begin the file with `{`"))
        }
        Err(error) => {
            Err(Problem::error(file, "", format!("is not JSON: {error}"), "repair the file at that place"))
        }
    }
}

/// One object under reading.
#[derive(Debug)]
pub struct Object<'a> {
    file: &'a str,
    pointer: String,
    map: &'a Map<String, Value>,
    known: Vec<&'static str>,
    problems: &'a mut Vec<Problem>,
}

impl<'a> Object<'a> {
    /// The object at `pointer` of `file`.
    pub fn new(
        file: &'a str,
        pointer: impl Into<String>,
        map: &'a Map<String, Value>,
        problems: &'a mut Vec<Problem>,
    ) -> Self {
        Self { file, pointer: pointer.into(), map, known: Vec::new(), problems }
    }

    /// The pointer of one of its keys.
    pub fn at(&self, key: &str) -> String {
        format!("{}/{}", self.pointer, escaped(key))
    }

    /// Notes that a key is wrong.
    pub fn wrong(&mut self, key: &str, why: impl Into<String>, fix: impl Into<String>) {
        let at = self.at(key);
        self.problems.push(Problem::error(self.file, at, why, fix));
    }

    /// Notes that an item of a list is wrong.
    pub fn wrong_at(&mut self, key: &str, index: usize, why: impl Into<String>, fix: impl Into<String>) {
        let at = format!("{}/{index}", self.at(key));
        self.problems.push(Problem::error(self.file, at, why, fix));
    }

    /// Notes something worth knowing about a key.
    pub fn warn(&mut self, key: &str, why: impl Into<String>, fix: impl Into<String>) {
        let at = self.at(key);
        self.problems.push(Problem::warning(self.file, at, why, fix));
    }

    /// The value of a key as it stands.
    pub fn value(&mut self, key: &'static str) -> Option<&'a Value> {
        self.known.push(key);
        self.map.get(key)
    }

    /// The value of a key that must be there.
    pub fn needed(&mut self, key: &'static str, fix: &str) -> Option<&'a Value> {
        let found = self.value(key);
        if found.is_none() {
            self.wrong(key, "is missing", fix);
        }
        found
    }

    fn mistaken(&mut self, key: &str, expected: &str, got: &Value) {
        let why = format!("expected {expected}, got {}", named(got));
        self.wrong(key, why, format!("write {expected}"));
    }

    /// A text of `min..=max` characters, when it is there.
    pub fn text(&mut self, key: &'static str, min: usize, max: usize) -> Option<String> {
        let value = self.value(key)?;
        self.as_text(key, value, min, max)
    }

    /// The same, but it must be there.
    pub fn needed_text(&mut self, key: &'static str, min: usize, max: usize) -> Option<String> {
        let value = self.needed(key, &format!("add a string of {min}..{max} characters"))?;
        self.as_text(key, value, min, max)
    }

    fn as_text(&mut self, key: &str, value: &Value, min: usize, max: usize) -> Option<String> {
        match value {
            Value::String(text) if (min..=max).contains(&text.chars().count()) => Some(text.clone()),
            other => {
                self.mistaken(key, &format!("a string of {min}..{max} characters"), other);
                None
            }
        }
    }

    /// A flag, when it is there.
    pub fn flag(&mut self, key: &'static str) -> Option<bool> {
        match self.value(key)? {
            Value::Bool(flag) => Some(*flag),
            other => {
                self.mistaken(key, "true or false", other);
                None
            }
        }
    }

    /// A whole number, when it is there.
    pub fn whole(&mut self, key: &'static str, min: u64, max: u64) -> Option<u64> {
        let value = self.value(key)?;
        match value.as_u64().filter(|n| (min..=max).contains(n)) {
            Some(number) => Some(number),
            None => {
                self.mistaken(key, &format!("a whole number {min}..{max}"), value);
                None
            }
        }
    }

    /// A number, when it is there.
    pub fn number(&mut self, key: &'static str, min: f64, max: f64) -> Option<f64> {
        let value = self.value(key)?;
        match value.as_f64().filter(|n| (min..=max).contains(n)) {
            Some(number) => Some(number),
            None => {
                self.mistaken(key, &format!("a number {min}..{max}"), value);
                None
            }
        }
    }

    /// One of these words, when it is there.
    pub fn word(&mut self, key: &'static str, words: &[&'static str]) -> Option<&'static str> {
        let value = self.value(key)?;
        match words.iter().find(|w| value.as_str() == Some(**w)) {
            Some(word) => Some(word),
            None => {
                self.mistaken(key, &format!("one of {}", words.join(", ")), value);
                None
            }
        }
    }

    /// A list of texts, when it is there: at most `most`, each of `1..=max` characters.
    pub fn texts(&mut self, key: &'static str, most: usize, max: usize) -> Option<Vec<String>> {
        let value = self.value(key)?;
        let expected = format!("an array of at most {most} strings");
        let Value::Array(items) = value else {
            self.mistaken(key, &expected, value);
            return None;
        };
        if items.len() > most {
            self.mistaken(key, &expected, value);
            return None;
        }
        let mut out = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let place = format!("{key}/{index}");
            match item {
                Value::String(text) if (1..=max).contains(&text.chars().count()) => out.push(text.clone()),
                other => {
                    let why = format!("expected a string of 1..{max} characters, got {}", named(other));
                    let at = format!("{}/{place}", self.pointer);
                    let fix = format!("write a string of 1..{max} characters");
                    self.problems.push(Problem::error(self.file, at, why, fix));
                }
            }
        }
        Some(out)
    }

    /// An object, when it is there.
    pub fn object(&mut self, key: &'static str) -> Option<&'a Map<String, Value>> {
        match self.value(key)? {
            Value::Object(map) => Some(map),
            other => {
                self.mistaken(key, "an object", other);
                None
            }
        }
    }

    /// Reads an inner object with the same list of problems.
    pub fn inner<T>(
        &mut self,
        key: &str,
        map: &Map<String, Value>,
        read: impl FnOnce(&mut Object<'_>) -> T,
    ) -> T {
        let at = self.at(key);
        let mut inner = Object::new(self.file, at, map, self.problems);
        let out = read(&mut inner);
        inner.finish();
        out
    }

    /// Reads an object that is an item of a list.
    pub fn inner_at<T>(
        &mut self,
        key: &str,
        index: usize,
        map: &Map<String, Value>,
        read: impl FnOnce(&mut Object<'_>) -> T,
    ) -> T {
        let at = format!("{}/{index}", self.at(key));
        let mut inner = Object::new(self.file, at, map, self.problems);
        let out = read(&mut inner);
        inner.finish();
        out
    }

    /// Ends the reading: what nobody asked for is a warning.
    pub fn finish(self) {
        let Self { file, pointer, map, known, problems } = self;
        for key in map.keys().filter(|k| !known.contains(&k.as_str())) {
            let at = format!("{pointer}/{}", escaped(key));
            let near = known.iter().find(|k| nearly(k, key));
            let fix = match near {
                Some(near) => format!("did you mean {}?", quoted(near)),
                None => "remove it".to_owned(),
            };
            problems.push(Problem::warning(file, at, "is no key of this format and has no effect", fix));
        }
    }
}

/// A key inside a JSON pointer. (RFC 6901)
fn escaped(key: &str) -> String {
    let short: String = key.chars().take(64).collect();
    short.replace('~', "~0").replace('/', "~1")
}

/// The same letters but for case, `-`, `_` and a plural.
fn nearly(a: &str, b: &str) -> bool {
    let plain = |t: &str| -> String {
        let letters: String = t.chars().filter(|c| c.is_alphanumeric()).collect();
        letters.to_lowercase().trim_end_matches('s').to_owned()
    };
    plain(a) == plain(b)
}

/// True for `[a-z0-9]+(-[a-z0-9]+)*` of 1..64 characters: names of agents and skills.
pub fn is_plain_name(name: &str) -> bool {
    let part = |p: &str| !p.is_empty() && p.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    (1..=64).contains(&name.len()) && name.split('-').all(part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(value: &Value, read: impl FnOnce(&mut Object<'_>)) -> Vec<String> {
        let mut problems = Vec::new();
        let map = value.as_object().expect("an object");
        let mut object = Object::new("f.json", "", map, &mut problems);
        read(&mut object);
        object.finish();
        problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_problem_names_its_place_its_reason_and_what_to_do() {
        let value =
            json!({"a": 1, "b": "", "c": ["x", 2], "d": 9, "e": "red", "f": "yes", "Tool": 1, "g/h": 1});
        let found = read(&value, |o| {
            o.needed_text("a", 1, 9);
            o.needed_text("b", 1, 9);
            o.texts("c", 3, 9);
            o.whole("d", 1, 8);
            o.word("e", &["green", "blue"]);
            o.flag("f");
            o.needed_text("z", 1, 9);
            o.value("tools");
        });
        assert_eq!(
            found,
            [
                "f.json: /a: expected a string of 1..9 characters, got 1; write a string of 1..9 characters",
                "f.json: /b: expected a string of 1..9 characters, got \"\"; write a string of 1..9 characters",
                "f.json: /c/1: expected a string of 1..9 characters, got 2; write a string of 1..9 characters",
                "f.json: /d: expected a whole number 1..8, got 9; write a whole number 1..8",
                "f.json: /e: expected one of green, blue, got \"red\"; write one of green, blue",
                "f.json: /f: expected true or false, got \"yes\"; write true or false",
                "f.json: /z: is missing; add a string of 1..9 characters",
                "f.json: /Tool: is no key of this format and has no effect; did you mean `tools`?",
                "f.json: /g~1h: is no key of this format and has no effect; remove it",
            ]
        );
    }

    #[test]
    fn a_file_that_is_no_object_is_told_from_one_that_is_no_json() {
        let say = |bytes: &[u8]| parse("f.json", bytes).expect_err("bad").to_string();
        assert_eq!(say(b"[1]"), "f.json: expected a JSON object, got an array of 1; begin the file with `{`");
        assert_eq!(say(b"\xff"), "f.json: is not UTF-8 at byte 0; save the file as UTF-8");
        assert_eq!(
            say(b"{\"a\":}"),
            "f.json: is not JSON: expected value at line 1 column 6; repair the file at that place"
        );
        let deep = "[".repeat(4000);
        assert!(say(deep.as_bytes()).contains("recursion limit"));
    }

    #[test]
    fn names_are_words_of_small_letters_and_digits_joined_by_single_dashes() {
        for good in ["a", "fact-checker", "a1-2b", &"a".repeat(64)] {
            assert!(is_plain_name(good), "{good}");
        }
        for bad in ["", "A", "a_b", "-a", "a-", "a--b", "ä", "a b", &"a".repeat(65)] {
            assert!(!is_plain_name(bad), "{bad}");
        }
    }
}
