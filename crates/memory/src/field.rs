//! The fields of a memory: cleaned, and refused when they are too long.
//!
//! The first step of the write gate, for every writer: people, tools, the Learning Centre, bundles. Nothing is cut to
//! size, because half a sentence may say the opposite; who writes too much is told so. What a model writes is refused
//! in the same way, item by item.
//!
//! The invariant: what passes holds no control character, no invisible character, no space at its ends, and fits.

use serde_json::Value;

/// How deep attributes may nest. Deeper is a document, not an attribute; smaller refuses an address.
pub const ATTRIBUTES_DEPTH: usize = 8;
/// How large attributes may be, as JSON. Larger lets one node fill the page of every search result.
pub const ATTRIBUTES_BYTES: usize = 16 * 1024;
/// How many other names a node may have. More slows the search for names in questions.
pub const ALIASES: usize = 50;
/// How many relations may be written with a node at once. More belongs into an import.
pub const RELATIONS: usize = 200;

/// A text field of a memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// What a fact is about.
    Subject,
    /// What a fact says.
    Content,
    /// Why a memory was kept.
    Rationale,
    /// The short name of an episode.
    Key,
    /// What happened.
    Description,
    /// Details of what happened.
    Value,
    /// A person's message or an answer in a turn's episode.
    TurnText,
    /// The name of a node.
    Name,
    /// Another name of a node.
    Alias,
    /// How two nodes are related.
    Relation,
    /// Where a memory comes from.
    Source,
    /// Who the soul says it is.
    Identity,
    /// One value or pattern of the soul.
    SoulLine,
}

impl Field {
    /// Every field.
    pub const ALL: [Field; 13] = [
        Field::Subject,
        Field::Content,
        Field::Rationale,
        Field::Key,
        Field::Description,
        Field::Value,
        Field::TurnText,
        Field::Name,
        Field::Alias,
        Field::Relation,
        Field::Source,
        Field::Identity,
        Field::SoulLine,
    ];

    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Field::Subject => "subject",
            Field::Content => "content",
            Field::Rationale => "rationale",
            Field::Key => "key",
            Field::Description => "description",
            Field::Value => "value",
            Field::TurnText => "text",
            Field::Name => "name",
            Field::Alias => "aliases",
            Field::Relation => "relation",
            Field::Source => "source",
            Field::Identity => "identity",
            Field::SoulLine => "patterns",
        }
    }

    /// Longest text in characters. Larger makes search results and contexts as large as their largest item; smaller
    /// breaks the API, whose numbers these are where it names one.
    pub const fn max_chars(self) -> usize {
        match self {
            Field::Subject | Field::Key | Field::Name | Field::Alias | Field::Relation => 200,
            Field::Content => 10_000,
            Field::Rationale | Field::Description => 2000,
            Field::Value => 20_000,
            Field::TurnText | Field::Identity => 4000,
            Field::Source => 300,
            Field::SoulLine => 500,
        }
    }

    /// True when the field may not be empty.
    pub const fn is_required(self) -> bool {
        match self {
            Field::Subject
            | Field::Content
            | Field::Key
            | Field::Description
            | Field::Name
            | Field::Alias
            | Field::Relation
            | Field::Source
            | Field::SoulLine => true,
            Field::Rationale | Field::Value | Field::TurnText | Field::Identity => false,
        }
    }

    /// One line only: line breaks become spaces.
    const fn is_one_line(self) -> bool {
        match self {
            Field::Subject
            | Field::Key
            | Field::Name
            | Field::Alias
            | Field::Relation
            | Field::Source
            | Field::SoulLine => true,
            Field::Content
            | Field::Rationale
            | Field::Description
            | Field::Value
            | Field::TurnText
            | Field::Identity => false,
        }
    }
}

/// Why a field is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Nothing is left after cleaning.
    #[error("{field} must not be empty")]
    Empty {
        /// The name of the field.
        field: &'static str,
    },
    /// Too many characters.
    #[error("{field} has {chars} characters, {max} are allowed")]
    TooLong {
        /// The name of the field.
        field: &'static str,
        /// How many it has.
        chars: usize,
        /// How many it may have.
        max: usize,
    },
    /// Too many entries of a list.
    #[error("{field} has {count} entries, {max} are allowed")]
    TooMany {
        /// The name of the field.
        field: &'static str,
        /// How many it has.
        count: usize,
        /// How many it may have.
        max: usize,
    },
    /// Attributes that are no object, too large or too deep.
    #[error("attributes must be an object of at most {max_bytes} bytes and {max_depth} levels, not {came}")]
    Attributes {
        /// What they are.
        came: String,
        /// The most bytes.
        max_bytes: usize,
        /// The most levels.
        max_depth: usize,
    },
    /// Not a number from 0 to 1.
    #[error("confidence must be a number from 0 to 1")]
    Confidence,
}

impl Refused {
    /// The field that is to be changed.
    pub const fn field(&self) -> &'static str {
        match self {
            Refused::Empty { field } | Refused::TooLong { field, .. } | Refused::TooMany { field, .. } => {
                field
            }
            Refused::Attributes { .. } => "attributes",
            Refused::Confidence => "confidence",
        }
    }

    /// What would have been right, for the one who wrote it.
    pub fn expected(&self) -> String {
        match self {
            Refused::Empty { .. } => "a text with a visible character".to_owned(),
            Refused::TooLong { max, .. } => format!("at most {max} characters"),
            Refused::TooMany { max, .. } => format!("at most {max} entries"),
            Refused::Attributes { max_bytes, max_depth, .. } => {
                format!("an object of at most {max_bytes} bytes and {max_depth} levels")
            }
            Refused::Confidence => "a number from 0 to 1".to_owned(),
        }
    }

    /// What came instead, in a few words; `None` where the value itself says it best.
    pub fn came(&self) -> Option<String> {
        match self {
            Refused::Empty { .. } => Some("nothing that can be seen".to_owned()),
            Refused::TooLong { chars, .. } => Some(format!("{chars} characters")),
            Refused::TooMany { count, .. } => Some(format!("{count} entries")),
            Refused::Attributes { came, .. } => Some(came.clone()),
            Refused::Confidence => None,
        }
    }
}

/// The cleaned text of a field, or why not.
pub fn text(field: Field, raw: &str) -> Result<String, Refused> {
    let mut cleaned = sanitised(raw);
    if field.is_one_line() {
        cleaned = cleaned.split_whitespace().collect::<Vec<_>>().join(" ");
    }
    if cleaned.is_empty() && field.is_required() {
        return Err(Refused::Empty { field: field.name() });
    }
    let chars = cleaned.chars().count();
    if chars > field.max_chars() {
        return Err(Refused::TooLong { field: field.name(), chars, max: field.max_chars() });
    }
    Ok(cleaned)
}

/// The cleaned beginning of a message for a turn's episode, which is written without anybody to ask.
pub fn turn_text(raw: &str) -> String {
    let head: String = sanitised(raw).chars().take(Field::TurnText.max_chars()).collect();
    head.trim_end().to_owned()
}

/// Cleaned aliases, each once, without the name itself.
pub fn aliases(name: &str, raw: &[String]) -> Result<Vec<String>, Refused> {
    if raw.len() > ALIASES {
        return Err(Refused::TooMany { field: "aliases", count: raw.len(), max: ALIASES });
    }
    let mut found: Vec<String> = Vec::new();
    for alias in raw {
        let alias = text(Field::Alias, alias)?;
        if alias != name && !found.contains(&alias) {
            found.push(alias);
        }
    }
    Ok(found)
}

/// Checks an attribute object; cleans its texts.
pub fn attributes(raw: &Value) -> Result<Value, Refused> {
    let came = match (raw, depth(raw), raw.to_string().len()) {
        (Value::Object(_), levels, _) if levels > ATTRIBUTES_DEPTH => format!("an object of {levels} levels"),
        (Value::Object(_), _, bytes) if bytes > ATTRIBUTES_BYTES => format!("an object of {bytes} bytes"),
        (Value::Object(_), _, _) => return Ok(cleaned(raw)),
        (Value::Array(_), _, _) => "an array".to_owned(),
        (Value::String(_), _, _) => "a string".to_owned(),
        (Value::Number(_), _, _) => "a number".to_owned(),
        (Value::Bool(_) | Value::Null, _, _) => raw.to_string(),
    };
    Err(Refused::Attributes { came, max_bytes: ATTRIBUTES_BYTES, max_depth: ATTRIBUTES_DEPTH })
}

/// Checks a confidence that somebody names.
pub fn confidence(given: f64) -> Result<f64, Refused> {
    if (0.0..=1.0).contains(&given) { Ok(given) } else { Err(Refused::Confidence) }
}

/// Without control and invisible characters, with `\n` as the only line break, trimmed.
pub fn sanitised(raw: &str) -> String {
    let visible: String = raw.replace("\r\n", "\n").chars().filter(|c| !is_hidden(*c)).collect();
    visible.replace('\r', "\n").trim().to_owned()
}

/// Characters that change what a person sees without being seen: they hide instructions from the eye, not the model.
/// Joiners stay, because emoji and some scripts need them.
fn is_hidden(c: char) -> bool {
    (c.is_control() && !matches!(c, '\n' | '\r' | '\t'))
        || matches!(c,
            '\u{00AD}' | '\u{061C}' | '\u{180E}' | '\u{200B}' | '\u{200E}' | '\u{200F}' | '\u{2028}' | '\u{2029}'
            | '\u{202A}'..='\u{202E}' | '\u{2060}'..='\u{206F}' | '\u{FEFF}' | '\u{FFF9}'..='\u{FFFB}'
            | '\u{E0000}'..='\u{E007F}')
}

fn depth(value: &Value) -> usize {
    let below = match value {
        Value::Array(items) => items.iter().map(depth).max(),
        Value::Object(fields) => fields.values().map(depth).max(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => return 0,
    };
    1 + below.unwrap_or(0)
}

fn cleaned(value: &Value) -> Value {
    match value {
        Value::String(text) => Value::String(sanitised(text)),
        Value::Array(items) => Value::Array(items.iter().map(cleaned).collect()),
        Value::Object(fields) => {
            Value::Object(fields.iter().map(|(name, item)| (sanitised(name), cleaned(item))).collect())
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn hidden_characters_and_outer_space_go() {
        assert_eq!(sanitised("  a\u{0}b\u{202E}c\u{E0041}\r\nd\t "), "abc\nd");
        assert_eq!(text(Field::Subject, " a\n b "), Ok("a b".to_owned()));
    }

    #[test]
    fn limits_count_characters_and_name_the_field() {
        assert!(text(Field::Subject, &"é".repeat(200)).is_ok());
        let refused = text(Field::Subject, &"é".repeat(201)).expect_err("too long");
        assert_eq!(refused.field(), "subject");
        assert_eq!(refused.to_string(), "subject has 201 characters, 200 are allowed");
        assert_eq!(text(Field::Content, "\u{200B}"), Err(Refused::Empty { field: "content" }));
        assert_eq!(text(Field::Rationale, " "), Ok(String::new()));
    }

    #[test]
    fn a_turn_keeps_its_first_four_thousand_characters() {
        assert_eq!(turn_text(&"é".repeat(5000)).chars().count(), 4000);
    }

    #[test]
    fn attributes_are_a_small_flat_object() {
        assert_eq!(attributes(&json!({"a": " b\u{0} "})), Ok(json!({"a": "b"})));
        assert!(attributes(&json!([1])).is_err());
        assert!(attributes(&json!({"a": "x".repeat(ATTRIBUTES_BYTES)})).is_err());
        let deep = (0..ATTRIBUTES_DEPTH).fold(json!(1), |inner, _| json!({"a": inner}));
        assert!(attributes(&deep).is_ok());
        assert!(attributes(&json!({"a": deep})).is_err());
        let came = |raw: &Value| attributes(raw).expect_err("refused").came().expect("words");
        assert_eq!(came(&json!([1])), "an array");
        assert_eq!(came(&json!({"a": deep})), "an object of 9 levels");
        assert_eq!(came(&json!({"a": "x".repeat(ATTRIBUTES_BYTES)})), "an object of 16392 bytes");
    }

    #[test]
    fn aliases_stand_once() {
        let given = ["A.", "Asha", "A. "].map(str::to_owned);
        assert_eq!(aliases("Asha", &given), Ok(vec!["A.".to_owned()]));
    }

    #[test]
    fn confidence_is_a_number_from_zero_to_one() {
        assert_eq!(confidence(1.0), Ok(1.0));
        for wrong in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
            assert_eq!(confidence(wrong), Err(Refused::Confidence));
        }
    }

    proptest! {
        #[test]
        fn what_passes_is_clean_and_passes_again(raw in any::<String>()) {
            for field in Field::ALL {
                if let Ok(once) = text(field, &raw) {
                    prop_assert!(!once.chars().any(is_hidden));
                    prop_assert!(once.chars().count() <= field.max_chars());
                    prop_assert_eq!(text(field, &once), Ok(once.clone()));
                }
            }
        }
    }
}
