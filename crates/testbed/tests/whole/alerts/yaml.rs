//! Reads the small part of YAML that our alert file is written in: block mappings, block sequences, and scalars that
//! are plain or in single quotes.
//!
//! It refuses everything else, so that a file it accepts means the same to every YAML reader. All scalars are text.

use serde_json::{Map, Value};

struct Line<'a> {
    number: usize,
    indent: usize,
    content: &'a str,
}

/// The document as JSON; the error names the line.
pub fn parse(text: &str) -> Result<Value, String> {
    let mut lines = Vec::new();
    for (at, raw) in text.lines().enumerate() {
        let content = raw.trim_start_matches(' ');
        if content.is_empty() || content.starts_with('#') {
            continue;
        }
        let line = Line { number: at + 1, indent: raw.len() - content.len(), content };
        if content.contains('\t') || content.ends_with(' ') {
            return Err(wrong(&line, "a tab or a space at the end"));
        }
        lines.push(line);
    }
    let mut rest = lines.as_mut_slice();
    let value = block(&mut rest)?;
    match rest.first() {
        None => Ok(value),
        Some(line) => Err(wrong(line, "indentation that belongs to nothing")),
    }
}

fn wrong(line: &Line<'_>, what: &str) -> String {
    format!("line {}: {what}: {}", line.number, line.content)
}

/// One mapping or sequence: all lines with the indentation of the first, and what is below them.
fn block<'a>(rest: &mut &mut [Line<'a>]) -> Result<Value, String> {
    let indent = rest.first().ok_or("there is nothing")?.indent;
    let mut list = Vec::new();
    let mut map = Map::new();
    while let Some(line) = rest.first_mut().filter(|line| line.indent == indent) {
        if let Some(item) = line.content.strip_prefix("- ") {
            // What follows the dash is a block of its own, two further in.
            line.content = item;
            line.indent += 2;
            list.push(block(rest)?);
            continue;
        }
        let (key, value) = line.content.split_once(':').ok_or_else(|| wrong(line, "neither key nor item"))?;
        if key.is_empty() || !key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-') {
            return Err(wrong(line, "this is no plain key"));
        }
        let value = if value.is_empty() {
            let number = line.number;
            advance(rest);
            if rest.first().is_none_or(|next| next.indent <= indent) {
                return Err(format!("line {number}: {key} has no value"));
            }
            block(rest)?
        } else {
            let scalar = value.strip_prefix(' ').and_then(scalar).ok_or_else(|| wrong(line, "this value"))?;
            advance(rest);
            Value::String(scalar)
        };
        if map.insert(key.to_owned(), value).is_some() {
            return Err(format!("{key} stands twice"));
        }
    }
    match (list.is_empty(), map.is_empty()) {
        (false, true) => Ok(Value::Array(list)),
        (true, false) => Ok(Value::Object(map)),
        _ => Err("a block is either a sequence or a mapping".to_owned()),
    }
}

fn advance<'a>(rest: &mut &mut [Line<'a>]) {
    let all = std::mem::take(rest);
    *rest = all.split_first_mut().map_or(&mut [], |(_, tail)| tail);
}

fn scalar(text: &str) -> Option<String> {
    if let Some(quoted) = text.strip_prefix('\'') {
        let inner = quoted.strip_suffix('\'')?;
        return (!inner.replace("''", "").contains('\'')).then(|| inner.replace("''", "'"));
    }
    let special = |c: char| "[]{}&*!|>'\"%@`,?:-# ".contains(c);
    let plain =
        !text.starts_with(special) && !text.contains(": ") && !text.contains(" #") && !text.ends_with(':');
    plain.then(|| text.to_owned())
}

#[test]
fn the_subset_is_read_and_everything_else_is_refused() {
    let text = "# a comment\na:\n  - b: 'it''s {x: 1}'\n    c: d e\n  - b: f\n    c:\n      g: h\n";
    let expected = serde_json::json!({"a": [{"b": "it's {x: 1}", "c": "d e"}, {"b": "f", "c": {"g": "h"}}]});
    assert_eq!(parse(text), Ok(expected));
    for refused in [
        "",
        "a: [1, 2]\n",
        "a: \"b\"\n",
        "a: |\n  b\n",
        "a: 'b\n",
        "a: b\na: c\n",
        "a:\n",
        "a: b\n  c: d\n",
        "- a\n",
        "a: b: c\n",
        "a: b # c\n",
        "a: 'b'c'\n",
        "a: b \n",
        "a b: c\n",
        "  a: b\nc: d\n",
    ] {
        assert!(parse(refused).is_err(), "{refused:?} was read as {:?}", parse(refused));
    }
}
