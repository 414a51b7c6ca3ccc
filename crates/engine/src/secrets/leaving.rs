//! Scrubbing what leaves as a whole: stream events and JSON values.
//!
//! Text deltas are the exception: their block is one text, read by one [`Scan`] where the block is streamed, so
//! here they only lose known values that stand in one piece.
//!
//! The invariant: every variant of an event is looked at; a new one does not compile until it is.

use super::assignment::{looks_random, names_a_secret};
use super::{Kind, Known, Scan};
use contract::ApiError;
use contract::conversation::Block;
use contract::event::{Delta, Event};
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// Levels of a JSON value that are looked into; the Engine's own parser refuses deeper ones.
const DEPTH_MAX: usize = 256;

/// The event without known values and without what looks like a key, and what was taken out.
pub fn event(known: &Known, event: &Event) -> (Event, BTreeSet<Kind>) {
    let mut out = Cleaner { known, shapes: true, hits: BTreeSet::new() };
    let mut event = event.clone();
    match &mut event {
        Event::TextDelta(Delta { text, .. }) | Event::ThinkingDelta(Delta { text, .. }) => {
            out.shapes = false;
            out.text(text);
        }
        Event::Completed { output, .. } => out.maybe(output.as_mut()),
        Event::Error { message, details, .. } => {
            out.text(message);
            out.maybe(details.as_mut());
        }
        Event::ToolCall { input, .. } => out.value(input, 0),
        Event::ToolResult { output, error, .. } => {
            out.value(output, 0);
            error.iter_mut().for_each(|e| out.text(e));
        }
        Event::HitlRequest { question, options, input, reason, rule, .. } => {
            out.text(question);
            options.iter_mut().for_each(|o| out.text(o));
            out.maybe(input.as_mut());
            reason.iter_mut().chain(rule).for_each(|t| out.text(t));
        }
        Event::HitlResolved { answer, .. } => answer.iter_mut().for_each(|a| out.text(a)),
        Event::WorkingMemoryUpdate { key, value, .. } => {
            out.text(key);
            out.value(value, 0);
        }
        Event::Usage { model, .. } => out.text(model),
        Event::Started { .. }
        | Event::Errored { .. }
        | Event::BlockStart { .. }
        | Event::BlockStop { .. }
        | Event::Compaction { .. } => {}
    }
    (event, out.hits)
}

/// A JSON value without known values. For what is stored or shown to the model.
pub fn value(known: &Known, value: &mut Value) -> BTreeSet<Kind> {
    let mut out = Cleaner { known, shapes: false, hits: BTreeSet::new() };
    out.value(value, 0);
    out.hits
}

/// A block of a conversation without known values.
pub fn block(known: &Known, block: &mut Block) {
    match block {
        Block::Text { text } => replace(known, text),
        Block::Thinking { text, signature } => {
            let before = text.len();
            replace(known, text);
            if text.len() != before {
                // the proof is about another text now, and a provider refuses it
                *signature = None;
            }
        }
        Block::ToolUse { input, .. } => {
            value(known, input);
        }
        Block::ToolResult { content, .. } => content.iter_mut().for_each(|b| self::block(known, b)),
        Block::Image { .. } | Block::Document { .. } | Block::Audio { .. } | Block::Video { .. } => {}
    }
}

/// An error without known values.
pub fn error(known: &Known, error: &mut ApiError) {
    replace(known, &mut error.message);
    if let Some(details) = &mut error.details {
        value(known, details);
    }
}

fn replace(known: &Known, text: &mut String) {
    if let std::borrow::Cow::Owned(clean) = known.scrub(text) {
        *text = clean;
    }
}

struct Cleaner<'a> {
    known: &'a Known,
    shapes: bool,
    hits: BTreeSet<Kind>,
}

impl Cleaner<'_> {
    fn text(&mut self, text: &mut String) {
        if self.shapes {
            let (clean, hits) = Scan::whole(self.known, text);
            if !hits.is_empty() {
                self.hits.extend(hits);
                *text = clean;
            }
        } else if let std::borrow::Cow::Owned(clean) = self.known.scrub(text) {
            self.hits.insert(Kind::Secret);
            *text = clean;
        }
    }

    fn maybe(&mut self, value: Option<&mut Value>) {
        if let Some(value) = value {
            self.value(value, 0);
        }
    }

    fn value(&mut self, value: &mut Value, depth: usize) {
        if depth > DEPTH_MAX {
            *value = Value::Null;
            return;
        }
        match value {
            Value::String(text) => self.text(text),
            // a secret may consist of digits
            Value::Number(number) => {
                let mut text = number.to_string();
                let before = text.clone();
                self.text(&mut text);
                if text != before {
                    *value = Value::String(text);
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.value(item, depth + 1)),
            Value::Object(fields) => {
                let mut clean = Map::with_capacity(fields.len());
                for (mut name, mut field) in std::mem::take(fields) {
                    self.named(&name, &mut field);
                    self.value(&mut field, depth + 1);
                    self.text(&mut name);
                    clean.insert(name, field);
                }
                *fields = clean;
            }
            Value::Null | Value::Bool(_) => {}
        }
    }

    /// `{"password": "…"}` is an assignment too.
    fn named(&mut self, name: &str, field: &mut Value) {
        if self.shapes
            && names_a_secret(name)
            && let Value::String(text) = field
            && looks_random(text)
        {
            self.hits.insert(Kind::Password);
            *field = Value::String(format!("[redacted:{}]", Kind::Password));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::CallId;
    use serde_json::json;

    fn cleaned(input: Value) -> Value {
        let known = Known::new(["canary-value-1", "4815162342"]);
        let call = Event::ToolCall { tool: "t".into(), tool_call_id: CallId::generate(), input };
        match event(&known, &call).0 {
            Event::ToolCall { input, .. } => input,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn names_values_numbers_and_nested_texts_are_looked_at() {
        let input = json!({"a": ["x canary-value-1 y"], "canary-value-1": 1, "n": 4_815_162_342_u64, "m": 7,
            "password": "S3cr3tP4ssw0rd", "tokens": 12, "passwords": ["word"]});
        let clean = json!({"a": ["x [redacted:secret] y"], "[redacted:secret]": 1, "n": "[redacted:secret]", "m": 7,
            "password": "[redacted:password]", "tokens": 12, "passwords": ["word"]});
        assert_eq!(cleaned(input), clean);
    }

    #[test]
    fn stored_values_keep_what_only_looks_like_a_key() {
        let known = Known::new(["canary-value-1"]);
        let mut stored = json!({"password": "S3cr3tP4ssw0rd", "x": "canary-value-1"});
        assert_eq!(value(&known, &mut stored), BTreeSet::from([Kind::Secret]));
        assert_eq!(stored, json!({"password": "S3cr3tP4ssw0rd", "x": "[redacted:secret]"}));
    }

    #[test]
    fn changed_reasoning_loses_its_proof_and_other_reasoning_keeps_it() {
        let known = Known::new(["canary-value-1"]);
        for (text, kept) in [("about canary-value-1", false), ("about nothing", true)] {
            let mut thinking = Block::Thinking { text: text.into(), signature: Some(json!("proof")) };
            block(&known, &mut thinking);
            assert!(matches!(&thinking, Block::Thinking { signature, .. } if signature.is_some() == kept));
        }
    }
}
