//! JSON Schema 2020-12: compiling, and validating tool inputs and structured answers.

use serde_json::Value;

/// Validator messages kept; more would not help a model and could be long.
const MAX_MESSAGES: usize = 5;

/// Nesting of a schema. Deeper ones are refused by providers, and validators recurse. (specification 14.6)
pub const MAX_DEPTH: usize = 32;
/// Objects inside one schema; more makes every validation slow. (specification 14.6)
pub const MAX_SUBSCHEMAS: usize = 2000;

/// Whether a schema is one that can be used: small enough, self-contained, and a JSON Schema at all.
pub fn check(schema: &Value) -> Result<(), String> {
    if depth(schema) > MAX_DEPTH {
        return Err(format!("nested deeper than {MAX_DEPTH}"));
    }
    if subschemas(schema) > MAX_SUBSCHEMAS {
        return Err(format!("more than {MAX_SUBSCHEMAS} subschemas"));
    }
    if has_remote_ref(schema) {
        return Err("`$ref` must point inside the schema (`#/…`)".to_owned());
    }
    compile(schema).map(drop)
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

fn has_remote_ref(value: &Value) -> bool {
    let here = value.as_object().is_some_and(|map| {
        ["$ref", "$dynamicRef"]
            .iter()
            .any(|key| map.get(*key).and_then(Value::as_str).is_some_and(|r| !r.starts_with('#')))
    });
    here || inside(value).any(has_remote_ref)
}

/// Compiles a self-contained schema. Remote references are refused: the validator has no retriever.
pub fn compile(schema: &Value) -> Result<jsonschema::Validator, String> {
    jsonschema::draft202012::options().build(schema).map_err(|e| e.to_string())
}

/// Validates a value; the error joins the first few messages with the places they are about.
pub fn validate(schema: &Value, value: &Value) -> Result<(), String> {
    let validator = compile(schema)?;
    let messages: Vec<String> = validator
        .iter_errors(value)
        .take(MAX_MESSAGES)
        .map(|e| {
            let place = e.instance_path().to_string();
            if place.is_empty() { e.to_string() } else { format!("{place}: {e}") }
        })
        .collect();
    if messages.is_empty() { Ok(()) } else { Err(messages.join("; ")) }
}

/// Reads a structured answer: JSON, possibly inside one Markdown code fence, that validates.
pub fn parse_answer(schema: &Value, text: &str) -> Result<Value, String> {
    let trimmed = text.trim();
    let inner = trimmed
        .strip_prefix("```")
        .and_then(|t| t.strip_suffix("```"))
        .map_or(trimmed, |t| t.trim_start_matches("json").trim());
    let value: Value = serde_json::from_str(inner).map_err(|e| format!("not JSON ({e})"))?;
    validate(schema, &value)?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_structured_answer_may_stand_in_a_code_fence_and_must_validate() {
        let schema = json!({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]});
        assert_eq!(parse_answer(&schema, "```json\n{\"n\": 1}\n```"), Ok(json!({"n": 1})));
        assert_eq!(parse_answer(&schema, "{\"n\": 1}"), Ok(json!({"n": 1})));
        let problem = parse_answer(&schema, "{\"n\": \"x\"}").expect_err("does not validate");
        assert!(problem.contains("/n"), "{problem}");
        assert!(parse_answer(&schema, "one").is_err());
    }

    #[test]
    fn remote_references_do_not_compile() {
        assert!(compile(&json!({"$ref": "https://example.com/schema.json"})).is_err());
    }
}
