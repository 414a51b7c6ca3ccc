//! What is wrong with a catalog file: which file, which place in it, why, and what to do.
//!
//! An error means that the file is not used and the version before it stays; a warning means that it is
//! used. The invariant: a problem never quotes more than a few characters of a file, so that it can be
//! logged and sent.

use serde_json::{Value, json};
use std::fmt;

/// Characters of a value that a problem quotes. More would put prompts into logs; fewer hides what is meant.
const QUOTE_CHARS: usize = 60;

/// Whether the file is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// It is not; the version before stays.
    Error,
    /// It is.
    Warning,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Path inside the catalog, with `/`.
    pub file: String,
    /// JSON pointer of the place; empty for the whole file.
    pub pointer: String,
    /// What is wrong.
    pub why: String,
    /// What to do.
    pub fix: String,
    /// Whether the file is used.
    pub severity: Severity,
}

impl Problem {
    /// A file that is not used.
    pub fn error(
        file: &str,
        pointer: impl Into<String>,
        why: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        let (pointer, why, fix) = (pointer.into(), why.into(), fix.into());
        Self { file: file.to_owned(), pointer, why, fix, severity: Severity::Error }
    }

    /// A file that is used nevertheless.
    pub fn warning(
        file: &str,
        pointer: impl Into<String>,
        why: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self { severity: Severity::Warning, ..Self::error(file, pointer, why, fix) }
    }

    /// True when the file is not used.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    /// Place, reason and advice in one line; the file stands beside it.
    pub fn message(&self) -> String {
        match self.pointer.as_str() {
            "" => format!("{}; {}", self.why, self.fix),
            pointer => format!("{pointer}: {}; {}", self.why, self.fix),
        }
    }

    /// As POST /admin/reload-catalog shows it.
    pub fn json(&self) -> Value {
        json!({"file": self.file, "message": self.message()})
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file, self.message())
    }
}

/// A value as a problem names it: short ones as they are, long ones by kind and size.
pub fn named(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(b) => b.to_string(),
        Value::Number(n) => n.to_string(),
        Value::String(s) if s.chars().count() <= QUOTE_CHARS => format!("{s:?}"),
        Value::String(s) => format!("a string of {} characters", s.chars().count()),
        Value::Array(a) => format!("an array of {}", a.len()),
        Value::Object(_) => "an object".to_owned(),
    }
}

/// A text of a file or a name in it, short enough to be quoted.
pub fn quoted(text: &str) -> String {
    let short: String = text.chars().take(QUOTE_CHARS).collect();
    if short.len() < text.len() { format!("`{short}…`") } else { format!("`{short}`") }
}
