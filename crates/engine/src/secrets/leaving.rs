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
        Event::ToolCall { tool, input, .. } => {
            out.text(tool);
            out.value(input, 0);
        }
        Event::ToolResult { tool, output, error, blob, .. } => {
            out.text(tool);
            out.value(output, 0);
            error.iter_mut().chain(blob).for_each(|t| out.text(t));
        }
        Event::HitlRequest { question, options, tool, input, reason, rule, .. } => {
            out.text(question);
            options.iter_mut().for_each(|o| out.text(o));
            out.maybe(input.as_mut());
            tool.iter_mut().chain(reason).chain(rule).for_each(|t| out.text(t));
        }
        Event::HitlResolved { answer, .. } => answer.iter_mut().for_each(|a| out.text(a)),
        Event::WorkingMemoryUpdate { key, value, .. } => {
            out.text(key);
            out.value(value, 0);
        }
        Event::Usage { model, .. } => out.text(model),
        Event::Started { agent, .. } => out.text(agent),
        Event::Errored { .. }
        | Event::BlockStart { .. }
        | Event::BlockStop { .. }
        | Event::Compaction { .. } => {}
    }
    (event, out.hits)
}

/// Longest name of a tool that does not exist, in characters. Longer lets a model fill the journal and every event
/// with one name; shorter cuts the names of real tools out of the answer that says they are not there.
const FOREIGN_NAME_CHARS: usize = 128;

/// The name of a tool that does not exist, as the model made it up: without known values and what looks like a key,
/// in the letters of a tool's name, and bounded. Everything behind the intake of a block sees only this.
pub fn foreign_name(known: &Known, name: &str) -> (String, BTreeSet<Kind>) {
    let (clean, hits) = Scan::whole(known, name);
    let plain = |c: char| if c.is_ascii_alphanumeric() || "_.-".contains(c) { c } else { '_' };
    (clean.chars().take(FOREIGN_NAME_CHARS).map(plain).collect(), hits)
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
        Block::ToolUse { name, input, .. } => {
            replace(known, name);
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

    /// Every event as it stands on the wire, each free text in it the canary in turn: none of them gets out. Fields
    /// of a closed form (ids, times, words of a list) do not take the canary, and are known by that.
    #[test]
    fn no_text_of_any_event_lets_a_known_value_out() {
        const CANARY: &str = "canary-value-1";
        let known = Known::new([CANARY]);
        let at = "2026-01-01T00:00:00.000Z";
        let call = CallId::generate();
        let id = |prefix: &str| format!("{prefix}-{}", call.as_str().trim_start_matches("call-"));
        let seeds = [
            json!({"phase": "started", "user_message_id": id("msg"), "agent": "a", "queued": false}),
            json!({"phase": "completed", "message_id": null, "stop_reason": "end_turn", "output": {"a": "b"}}),
            json!({"error": "INTERNAL", "message": "m", "details": {"a": "b"}}),
            json!({"tool": "t", "tool_call_id": call, "output": {"a": ["b"]}, "error": "e", "duration_ms": 1,
                "blob": "b"}),
            json!({"request_id": id("hitl"), "kind": "permission", "question": "q", "options": ["o"],
                "created_at": at, "expires_at": at, "tool_call_id": call, "tool": "t", "input": {"a": "b"},
                "reason": "r", "rule": "r"}),
            json!({"request_id": id("hitl"), "kind": "question", "resolution": "answered", "answer": "a"}),
            json!({"tool": "t", "tool_call_id": call, "input": {"a": "b"}}),
            json!({"key": "k", "value": {"a": "b"}, "op": "set", "expires_at": null}),
            json!({"input_tokens": 1, "output_tokens": 1, "cache_hit_tokens": 0, "model": "m", "purpose": "main"}),
            json!({"text": "t", "block_index": 0}),
        ];
        let mut tried = 0;
        for seed in seeds {
            serde_json::from_value::<Event>(seed.clone()).unwrap_or_else(|e| panic!("{seed}: {e}"));
            for place in places(&seed, String::new()) {
                let mut changed = seed.clone();
                *changed.pointer_mut(&place).expect("a place of it") = json!(format!("x_{CANARY}"));
                let Ok(event) = serde_json::from_value::<Event>(changed) else { continue };
                if !serde_json::to_string(&event).expect("serialises").contains(CANARY) {
                    continue;
                }
                let clean = serde_json::to_string(&super::event(&known, &event).0).expect("serialises");
                assert!(!clean.contains(CANARY), "{place}: {clean}");
                tried += 1;
            }
        }
        assert!(tried >= 20, "only {tried} places took the canary");
    }

    /// Where texts stand in a value, as JSON pointers.
    fn places(value: &Value, at: String) -> Vec<String> {
        match value {
            Value::String(_) => vec![at],
            Value::Object(fields) => {
                fields.iter().flat_map(|(k, v)| places(v, format!("{at}/{k}"))).collect()
            }
            Value::Array(items) => {
                items.iter().enumerate().flat_map(|(n, v)| places(v, format!("{at}/{n}"))).collect()
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => Vec::new(),
        }
    }

    #[test]
    fn the_name_of_a_tool_that_does_not_exist_is_cleaned_and_bounded() {
        let known = Known::new(["canary/value+1"]);
        for name in ["x_canary/value+1", "x_canary%2Fvalue%2B1", &format!("AKIA{}", "Q7WJ2XTBN4KLMZ3P")] {
            let (clean, hits) = foreign_name(&known, name);
            assert!(
                clean.contains("redacted") && !clean.contains("canary") && !clean.contains("AKIA"),
                "{clean}"
            );
            assert!(!hits.is_empty());
        }
        assert_eq!(foreign_name(&known, "no.such_tool-1").0, "no.such_tool-1");
        assert_eq!(foreign_name(&known, "a b\u{202e}\n").0, "a_b__");
        assert_eq!(foreign_name(&known, &"x".repeat(5000)).0.len(), FOREIGN_NAME_CHARS);
        let mut call = Block::ToolUse {
            id: "i".into(),
            name: "x_canary/value+1".into(),
            input: json!({}),
            signature: None,
        };
        block(&known, &mut call);
        assert!(matches!(&call, Block::ToolUse { name, .. } if name == "x_[redacted:secret]"));
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
