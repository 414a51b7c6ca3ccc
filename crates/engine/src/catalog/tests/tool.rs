//! What a tool file may say, and the message for everything else.

use super::{said, tool, with};
use serde_json::{Value, json};

#[test]
fn every_rule_of_a_tool_has_its_message() {
    let file = "tools/t.json";
    let mut deep = json!({"type": "string"});
    for _ in 0..32 {
        deep = json!({"type": "object", "properties": {"x": deep}});
    }
    let schema = |schema: Value| with(tool(), "input_schema", schema);
    let made = |implementation: Value| with(tool(), "implementation", implementation);
    let grep = |schema: Value| with(made(json!({"kind": "platform", "ref": "grep"})), "input_schema", schema);
    let table: Vec<(Value, &str)> = vec![
        (
            with(tool(), "name", json!("T-1")),
            "/name: `T-1` is no tool name; use snake_case, or parts of it joined by dots",
        ),
        (
            with(tool(), "name", json!("u")),
            "/name: `u` is not the name of its file; write `t`, or rename the file",
        ),
        (
            with(tool(), "description", json!(null)),
            "/description: is missing; add a string of 1..4000 characters",
        ),
        (
            with(tool(), "input_schema", json!(null)),
            "/input_schema: is missing; add a JSON Schema of type object",
        ),
        (
            schema(json!({"type": "array"})),
            "/input_schema: is no JSON Schema of type object; write {\"type\":\"object\",…}",
        ),
        (
            schema(json!({"type": "object", "properties": {"x": {"$ref": "https://example.com/a.json"}}})),
            "/input_schema: `$ref` must point inside the schema (`#/…`), not to `https://example.com/a.json`; write a self-contained JSON Schema 2020-12",
        ),
        (schema(deep), "/input_schema: nested deeper than 32; write a self-contained JSON Schema 2020-12"),
        (
            with(tool(), "implementation", json!(null)),
            "/implementation: is missing; add {\"kind\":…,\"ref\":…}",
        ),
        (
            made(json!({"kind": "shell", "ref": "x"})),
            "/implementation/kind: expected one of platform, skill, mcp, got \"shell\"; write one of platform, skill, mcp",
        ),
        (
            made(json!({"kind": "platform"})),
            "/implementation/ref: is missing; add a string of 1..200 characters",
        ),
        (
            made(json!({"kind": "platform", "ref": "nothing"})),
            "/implementation/ref: there is no function `nothing`; write one of ask_user, bash, delegate, find, grep, plan, working_memory_write, submit",
        ),
        (
            made(json!({"kind": "skill", "ref": "No Skill"})),
            "/implementation/ref: `No Skill` is no skill name; write the name of a skill",
        ),
        (
            made(json!({"kind": "mcp", "ref": "slack.send"})),
            "/implementation/ref: expected an object, got \"slack.send\"; write an object",
        ),
        (
            made(json!({"kind": "mcp", "ref": {"server": "slack"}})),
            "/implementation/ref/action: is missing; add a string of 1..200 characters",
        ),
        (
            grep(
                json!({"type": "object", "properties": {"pattern": {}, "speed": {}}, "required": ["pattern"]}),
            ),
            "/input_schema/properties/speed: the function takes no `speed`; remove it; the function takes context, glob, ignore_case, path, pattern",
        ),
        (
            grep(json!({"type": "object", "properties": {"pattern": {"type": "string"}}})),
            "/input_schema/required: `pattern` is not required, but the function needs it; add it to the list",
        ),
        (
            with(tool(), "requires_permission", json!(1)),
            "/requires_permission: expected true or false, got 1; write true or false",
        ),
        (
            with(tool(), "effect", json!("twice")),
            "/effect: expected one of read-only, idempotent, once, got \"twice\"; write one of read-only, idempotent, once",
        ),
        (
            with(
                with(made(json!({"kind": "platform", "ref": "bash"})), "effect", json!("read-only")),
                "input_schema",
                json!({"type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"]}),
            ),
            "/effect: is read-only, but the function is once and may only be tightened; write once, or leave it out",
        ),
    ];
    for (value, expected) in table {
        assert_eq!(said(&[(file, value.to_string())]), [format!("{file}: {expected}")]);
    }
    let invalid = said(&[(file, schema(json!({"type": "object", "required": 1})).to_string())]);
    assert!(invalid.len() == 1 && invalid[0].contains("/input_schema: "), "{invalid:?}");
    let large = schema(json!({"type": "object", "description": "x".repeat(70_000)}));
    assert_eq!(
        said(&[(file, large.to_string())]),
        ["tools/t.json: /input_schema: has 70034 bytes, more than 65536; describe less, or in fewer words"]
    );
    assert_eq!(said(&[(file, tool().to_string())]), [""; 0]);
    let older = made(json!({"kind": "mcp", "ref": {"server": "slack", "tool": "send"}}));
    assert_eq!(said(&[(file, older.to_string())]), [""; 0]);
    assert_eq!(
        said(&[("tools/README.md", "hello".to_owned())]),
        ["warning: tools/README.md: is not read; rename it to end in .json, or move it away"]
    );
}
