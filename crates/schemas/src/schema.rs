//! A judged schema, ready to validate values with.
//!
//! The library compiles and validates; this file decides whether it is asked to. Patterns run on the engine that never
//! backtracks. Messages are collected only where their number is known to be small: the library makes all of them
//! before it hands out the first.

use crate::work::{Cost, Work};
use crate::{DEPTH_MAX, PATTERNS_MAX, Refused, SUBSCHEMAS_MAX, WORK_MAX, graph};
use jsonschema::{Draft, PatternOptions, Validator};
use serde_json::Value;

/// Compiled size of one pattern. Larger ones are refused; smaller would refuse classes of letters repeated a few times.
pub const PATTERN_MAX_BYTES: usize = 128 * 1024;
/// Messages that are kept: a model repairs the first few, more only fill its context.
const MESSAGES_MAX: usize = 10;
/// Longest message in bytes. The library quotes the value, which may be long.
const MESSAGE_MAX_BYTES: usize = 500;
/// Above this much work only "valid" or "not valid" is asked for: every message is an object in memory.
const MESSAGES_WORK_MAX: u64 = 50_000;
/// Above these limits a validation gets a thread of its own: a few milliseconds, and a part of a small stack.
const QUICK_WORK_MAX: u64 = 50_000;
const QUICK_STACK_MAX: usize = 150;
/// Calls one inside the other; more would need a larger stack than the thread gets.
const STACK_MAX: usize = 2500;
/// Stack of a thread that may run [`Schema::complaints`] for any value. Smaller overflows before the limit of calls is
/// reached; larger is address space that nobody uses.
pub const STACK_BYTES: usize = 64 * 1024 * 1024;
/// With more patterns than this nothing compiled is kept between two validations: a list of tools would fill the
/// memory with automata.
const KEPT_PATTERNS_MAX: usize = 4;
/// Longest reason why a schema is refused.
const REASON_MAX_CHARS: usize = 300;

/// A schema whose work is known.
pub struct Schema {
    draft: Draft,
    document: Value,
    work: Work,
    kept: Option<Validator>,
}

impl std::fmt::Debug for Schema {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Schema").field("draft", &self.draft).field("work", &self.work).finish_non_exhaustive()
    }
}

impl Schema {
    /// Judges and compiles. The draft is the one of `$schema`, else 2020-12.
    pub fn new(schema: &Value) -> Result<Self, Refused> {
        if depth(schema) > DEPTH_MAX {
            return Err(Refused(format!("nested deeper than {DEPTH_MAX}")));
        }
        if subschemas(schema) > SUBSCHEMAS_MAX {
            return Err(Refused(format!("more than {SUBSCHEMAS_MAX} subschemas")));
        }
        let draft = match Draft::default().detect(schema) {
            known @ (Draft::Draft4
            | Draft::Draft6
            | Draft::Draft7
            | Draft::Draft201909
            | Draft::Draft202012) => known,
            _ => Draft::Draft202012,
        };
        let document = anonymous(schema.clone(), draft);
        let graph = graph::read(&document, draft)?;
        if graph.patterns > PATTERNS_MAX {
            return Err(Refused(format!("more than {PATTERNS_MAX} different patterns")));
        }
        let work = Work::of(&graph)?;
        let compiled = compile(draft, &document)?;
        let kept = (graph.patterns <= KEPT_PATTERNS_MAX).then_some(compiled);
        Ok(Self { draft, document, work, kept })
    }

    /// What validating this value costs at most.
    pub fn cost(&self, value: &Value) -> Cost {
        self.work.cost(value)
    }

    /// Whether a validation of this value may run where others wait for the thread.
    pub fn is_quick(&self, value: &Value) -> bool {
        let cost = self.cost(value);
        self.refusal(cost).is_some() || (cost.units <= QUICK_WORK_MAX && cost.stack <= QUICK_STACK_MAX)
    }

    /// What is wrong with a value; nothing when it is valid. A value that is too much work is wrong.
    pub fn complaints(&self, value: &Value) -> Vec<String> {
        let cost = self.cost(value);
        if let Some(refusal) = self.refusal(cost) {
            return vec![refusal];
        }
        match &self.kept {
            Some(validator) => judge(validator, value, cost),
            None => match compile(self.draft, &self.document) {
                Ok(validator) => judge(&validator, value, cost),
                Err(refused) => vec![refused.to_string()],
            },
        }
    }

    fn refusal(&self, cost: Cost) -> Option<String> {
        let text = "the value is too large or too deeply nested to be checked against its schema; send less";
        (cost.units > WORK_MAX || cost.stack > STACK_MAX).then(|| text.to_owned())
    }
}

fn judge(validator: &Validator, value: &Value, cost: Cost) -> Vec<String> {
    if validator.is_valid(value) {
        return Vec::new();
    }
    if cost.units > MESSAGES_WORK_MAX {
        return vec!["the value does not fit the schema, and is too large to say where".to_owned()];
    }
    let messages = validator.iter_errors(value).take(MESSAGES_MAX).map(|error| {
        let place = error.instance_path().to_string();
        cut(if place.is_empty() { error.to_string() } else { format!("{place}: {error}") })
    });
    let messages: Vec<String> = messages.collect();
    match messages.is_empty() {
        // the two ways of asking should agree; where they do not, the stricter counts
        true => vec!["the value does not fit the schema".to_owned()],
        false => messages,
    }
}

fn compile(draft: Draft, document: &Value) -> Result<Validator, Refused> {
    let patterns =
        PatternOptions::regex().size_limit(PATTERN_MAX_BYTES).dfa_size_limit(2 * PATTERN_MAX_BYTES);
    let options = jsonschema::options().with_draft(draft).with_pattern_options(patterns);
    options.should_validate_formats(false).build(document).map_err(|error| {
        let text = error.to_string();
        let why = match text.contains("regex") {
            true => " (patterns are matched without backtracking: no look-around, no references back, not too large)",
            false => "",
        };
        let short: String = text.chars().take(REASON_MAX_CHARS).collect();
        Refused(format!("{short}{why}"))
    })
}

/// The document without the names that would make its references mean another one.
fn anonymous(mut document: Value, draft: Draft) -> Value {
    if let Some(map) = document.as_object_mut() {
        map.retain(|keyword, value| {
            let name =
                matches!(keyword.as_str(), "$id" | "$schema") || (draft == Draft::Draft4 && keyword == "id");
            !(name && value.is_string())
        });
    }
    document
}

fn cut(mut message: String) -> String {
    if message.len() > MESSAGE_MAX_BYTES {
        let mut end = MESSAGE_MAX_BYTES;
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        message.truncate(end);
        message.push('…');
    }
    message
}

fn inside(value: &Value) -> Box<dyn Iterator<Item = &Value> + '_> {
    match value {
        Value::Array(items) => Box::new(items.iter()),
        Value::Object(map) => Box::new(map.values()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Box::new(std::iter::empty()),
    }
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(_) | Value::Object(_) => 1 + inside(value).map(depth).max().unwrap_or(0),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}

fn subschemas(value: &Value) -> usize {
    usize::from(value.is_object()) + inside(value).map(subschemas).sum::<usize>()
}
