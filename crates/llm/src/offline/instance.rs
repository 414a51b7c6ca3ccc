//! The smallest value that is valid against a JSON Schema, for structured output without a model.
//!
//! Covers what schemas of answers are made of; a `pattern` or a `not` cannot be met by construction, and
//! the Engine's validator then says so.

use serde_json::{Map, Value, json};
use std::cell::Cell;

/// Deepest nesting followed. Deeper schemas are refused on entry; a recursive one stops here.
const MAX_DEPTH: usize = 32;

/// Longest text or list made to meet a minimum. A schema asking for more gets an invalid instance rather
/// than a full memory.
const MAX_FILL: u64 = 10_000;

/// Values made for one instance, a longer text counting as several. A few lines of schema can ask for more than any
/// memory holds; it gets an invalid instance, too.
const MADE_MAX: usize = 50_000;
/// Bytes of text that count as one value.
const TEXT_UNIT: usize = 16;

/// The smallest valid instance.
pub fn smallest(schema: &Value) -> Value {
    make(schema, &Ground { root: schema, left: Cell::new(MADE_MAX) }, 0)
}

/// What references are looked up in, and how much may still be made.
struct Ground<'a> {
    root: &'a Value,
    left: Cell<usize>,
}

impl Ground<'_> {
    /// False when nothing more may be made.
    fn spend(&self, values: usize) -> bool {
        let left = self.left.get();
        self.left.set(left.saturating_sub(values));
        left >= values
    }
}

fn make(schema: &Value, ground: &Ground<'_>, depth: usize) -> Value {
    let Some(object) = schema.as_object().filter(|_| depth < MAX_DEPTH && ground.spend(1)) else {
        return Value::Null;
    };
    if let Some(value) = object.get("const") {
        return value.clone();
    }
    if let Some(first) = object.get("enum").and_then(|e| e.get(0)) {
        return first.clone();
    }
    for ready in ["default", "examples"] {
        // Only where nothing smaller is sure to be valid.
        if object.contains_key("pattern")
            && let Some(value) = object.get(ready)
        {
            return value.get(0).filter(|_| ready == "examples").unwrap_or(value).clone();
        }
    }
    if let Some(target) = object.get("$ref").and_then(Value::as_str).and_then(|r| resolve(ground.root, r)) {
        return make(target, ground, depth + 1);
    }
    if object.contains_key("allOf") {
        return make(&merge_all(schema, ground, depth), ground, depth + 1);
    }
    for choice in ["anyOf", "oneOf"] {
        if let Some(first) = object.get(choice).and_then(|c| c.get(0)) {
            let mut merged = object.clone();
            merged.remove(choice);
            let mut merged = Value::Object(merged);
            merge(&mut merged, first);
            return make(&merged, ground, depth + 1);
        }
    }
    match kind(object) {
        "object" => object_of(object, ground, depth),
        "array" => array_of(object, ground, depth),
        "string" => {
            let text = text_of(object);
            if ground.spend(text.len() / TEXT_UNIT) { Value::String(text) } else { Value::Null }
        }
        "integer" | "number" => number_of(object),
        "boolean" => Value::Bool(false),
        _ => Value::Null,
    }
}

fn kind(schema: &Map<String, Value>) -> &str {
    match schema.get("type") {
        Some(Value::String(kind)) => kind,
        Some(Value::Array(kinds)) if kinds.iter().any(|k| k == "null") => "null",
        Some(Value::Array(kinds)) => kinds.first().and_then(Value::as_str).unwrap_or("null"),
        _ if schema.contains_key("properties") || schema.contains_key("required") => "object",
        _ if schema.contains_key("items") || schema.contains_key("minItems") => "array",
        _ if schema.contains_key("minLength") || schema.contains_key("format") => "string",
        _ if schema.contains_key("minimum") || schema.contains_key("exclusiveMinimum") => "number",
        _ => "null",
    }
}

fn resolve<'a>(root: &'a Value, reference: &str) -> Option<&'a Value> {
    let pointer = reference.strip_prefix('#')?;
    root.pointer(pointer)
}

fn merge_all(schema: &Value, ground: &Ground<'_>, depth: usize) -> Value {
    let mut merged = schema.clone();
    let parts = merged.as_object_mut().and_then(|o| o.remove("allOf"));
    for part in parts.as_ref().and_then(Value::as_array).into_iter().flatten() {
        let target = part["$ref"].as_str().and_then(|r| resolve(ground.root, r)).unwrap_or(part);
        if target.get("allOf").is_some() && depth < MAX_DEPTH && ground.spend(1) {
            merge(&mut merged, &merge_all(target, ground, depth + 1));
        } else {
            merge(&mut merged, target);
        }
    }
    merged
}

/// Adds what `more` demands: properties and required names are united, other words are taken over.
fn merge(schema: &mut Value, more: &Value) {
    let (Some(into), Some(from)) = (schema.as_object_mut(), more.as_object()) else { return };
    for (word, value) in from {
        match (into.get_mut(word), value) {
            (Some(Value::Object(a)), Value::Object(b)) => a.extend(b.clone()),
            (Some(Value::Array(a)), Value::Array(b)) if word == "required" => a.extend(b.clone()),
            _ => {
                into.insert(word.clone(), value.clone());
            }
        }
    }
}

fn object_of(schema: &Map<String, Value>, ground: &Ground<'_>, depth: usize) -> Value {
    let mut out = Map::new();
    for name in
        schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
    {
        let property = schema.get("properties").and_then(|p| p.get(name)).unwrap_or(&Value::Null);
        out.insert(name.to_owned(), make(property, ground, depth + 1));
    }
    let least = schema.get("minProperties").and_then(Value::as_u64).unwrap_or(0).min(MAX_FILL);
    let optional = schema.get("properties").and_then(Value::as_object).into_iter().flatten();
    for (name, property) in optional {
        if out.len() as u64 >= least {
            break;
        }
        out.entry(name.clone()).or_insert_with(|| make(property, ground, depth + 1));
    }
    let other = schema.get("additionalProperties").filter(|a| a.is_object()).unwrap_or(&Value::Null);
    let mut n = 0;
    while (out.len() as u64) < least && schema.get("additionalProperties") != Some(&Value::Bool(false)) {
        n += 1;
        out.entry(format!("key{n}")).or_insert_with(|| make(other, ground, depth + 1));
    }
    Value::Object(out)
}

fn array_of(schema: &Map<String, Value>, ground: &Ground<'_>, depth: usize) -> Value {
    let least = schema.get("minItems").and_then(Value::as_u64).unwrap_or(0).min(MAX_FILL) as usize;
    let prefix = schema.get("prefixItems").and_then(Value::as_array);
    let unique = schema.get("uniqueItems") == Some(&Value::Bool(true));
    let items = (0..least).map(|i| {
        let item = prefix.and_then(|p| p.get(i)).or_else(|| schema.get("items")).unwrap_or(&Value::Null);
        match make(item, ground, depth + 1) {
            Value::String(text) if unique => Value::String(format!("{text}{i}")),
            Value::Number(n) if unique => n.as_i64().map_or(Value::Number(n), |n| json!(n + i as i64)),
            Value::Null if unique && *item == Value::Null => json!(i),
            value => value,
        }
    });
    Value::Array(items.collect())
}

fn text_of(schema: &Map<String, Value>) -> String {
    let known = match schema.get("format").and_then(Value::as_str) {
        Some("date-time") => "1970-01-01T00:00:00Z",
        Some("date") => "1970-01-01",
        Some("time") => "00:00:00Z",
        Some("duration") => "PT0S",
        Some("email" | "idn-email") => "a@example.com",
        Some("hostname" | "idn-hostname") => "example.com",
        Some("ipv4") => "127.0.0.1",
        Some("ipv6") => "::1",
        Some("uri" | "iri" | "uri-reference") => "https://example.com",
        Some("uuid") => "00000000-0000-0000-0000-000000000000",
        _ => "",
    };
    let least = schema.get("minLength").and_then(Value::as_u64).unwrap_or(0).min(MAX_FILL) as usize;
    let mut text = known.to_owned();
    text.extend(std::iter::repeat_n('x', least.saturating_sub(known.chars().count())));
    text
}

fn number_of(schema: &Map<String, Value>) -> Value {
    let whole = schema.get("type").is_some_and(|t| t == "integer");
    let bound = |name: &str| schema.get(name).and_then(Value::as_f64);
    let mut value: f64 = 0.0;
    if let Some(least) = bound("minimum") {
        value = value.max(least);
    }
    if let Some(above) = bound("exclusiveMinimum").filter(|above| value <= *above) {
        value = above + if whole { 1.0 } else { 0.5 };
    }
    if let Some(most) = bound("maximum") {
        value = value.min(most);
    }
    if let Some(below) = bound("exclusiveMaximum").filter(|below| value >= *below) {
        value = below - if whole { 1.0 } else { 0.5 };
    }
    if let Some(step) = bound("multipleOf").filter(|s| *s > 0.0) {
        value = (value / step).ceil() * step;
    } else if whole {
        value = value.ceil();
    }
    if value.fract() == 0.0 { json!(value as i64) } else { json!(value) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_that_asks_for_more_than_memory_holds_gets_little() {
        let both = json!({"$ref": "#/$defs/d"});
        let branching = json!({"$ref": "#/$defs/d", "$defs": {"d": {"required": ["a", "b", "c", "d"],
            "properties": {"a": both, "b": both, "c": both, "d": both}}}});
        let filled = (0..8).fold(
            json!({"type": "string", "minLength": 10_000}),
            |inner, _| json!({"type": "array", "minItems": 10_000, "items": inner}),
        );
        for schema in [branching, filled] {
            assert!(smallest(&schema).to_string().len() < 4_000_000);
        }
    }

    #[test]
    fn the_smallest_instance_is_valid() {
        for schema in [
            json!({"type":"object","required":["a","b"],"properties":{"a":{"type":"string","minLength":3},"b":{"type":"integer","minimum":5}},"additionalProperties":false}),
            json!({"type":"array","minItems":2,"items":{"enum":["x","y"]}}),
            json!({"type":"array","minItems":3,"uniqueItems":true,"items":{"type":"integer","minimum":1}}),
            json!({"$ref":"#/$defs/p","$defs":{"p":{"type":"object","required":["q"],"properties":{"q":{"$ref":"#/$defs/q"}}},"q":{"const":7}}}),
            json!({"allOf":[{"type":"object","required":["a"],"properties":{"a":{"type":"boolean"}}},{"required":["b"],"properties":{"b":{"type":"null"}}}]}),
            json!({"anyOf":[{"type":"number","exclusiveMinimum":0},{"type":"string"}]}),
            json!({"type":["string","null"]}),
            json!({"type":"string","format":"date-time"}),
            json!({"type":"number","multipleOf":2.5,"minimum":3}),
            json!({"type":"integer","exclusiveMaximum":-2}),
            json!({"type":"object","minProperties":2,"properties":{"a":{"type":"string"}}}),
            json!({"type":"string","pattern":"^z+$","examples":["zz"]}),
            json!(true),
        ] {
            let made = smallest(&schema);
            assert!(jsonschema::is_valid(&schema, &made), "{schema} gave {made}");
        }
    }

    #[test]
    fn a_schema_without_end_ends() {
        let schema = json!({"type":"object","required":["next"],"properties":{"next":{"$ref":"#"}}});
        assert!(smallest(&schema).is_object());
    }
}
