//! Shapes that real servers and generators send. Refusing one of them would cost a person a tool.

use schemas::Schema;
use serde_json::{Map, Value, json};

fn accepts(schema: &Value, good: &Value, bad: &Value) {
    let judged = Schema::new(schema).unwrap_or_else(|why| panic!("{why}: {schema}"));
    assert_eq!(judged.complaints(good), [""; 0], "{good} against {schema}");
    assert!(!judged.complaints(bad).is_empty(), "{bad} against {schema}");
}

#[test]
fn a_tree_that_refers_to_itself() {
    let tree = json!({
        "type": "object",
        "properties": {"root": {"$ref": "#/$defs/node"}},
        "required": ["root"],
        "$defs": {"node": {
            "type": "object",
            "properties": {"name": {"type": "string"}, "children": {"type": "array", "items": {"$ref": "#/$defs/node"}}},
            "required": ["name"],
        }},
    });
    let node = |name: Value, children: Value| json!({"name": name, "children": children});
    let deep = (0..50).fold(json!([]), |inner, _| json!([node(json!("x"), inner)]));
    accepts(&tree, &json!({"root": node(json!("r"), deep.clone())}), &json!({"root": node(json!(1), deep)}));
}

#[test]
fn expressions_with_many_kinds_of_node() {
    let kind = |name: &str, rest: Value| {
        let mut properties = rest;
        properties["kind"] = json!({"const": name});
        json!({"type": "object", "properties": properties, "required": ["kind"], "additionalProperties": false})
    };
    let any = json!({"$ref": "#/$defs/expression"});
    let list = json!({"type": "array", "items": any});
    let expression = json!({"anyOf": [
        kind("and", json!({"all": list})),
        kind("or", json!({"any": list})),
        kind("not", json!({"inner": any})),
        kind("field", json!({"name": {"type": "string"}})),
        {"type": "string"},
    ]});
    let schema =
        json!({"type": "object", "properties": {"filter": any}, "$defs": {"expression": expression}});
    let deep = (0..15)
        .fold(json!("leaf"), |inner, _| json!({"kind": "and", "all": [{"kind": "not", "inner": inner}]}));
    accepts(&schema, &json!({"filter": deep}), &json!({"filter": {"kind": "and", "all": 1}}));
}

#[test]
fn any_json_value_as_the_generators_write_it() {
    let value = json!({"$ref": "#/$defs/json"});
    let any = json!({"anyOf": [
        {"type": "string"}, {"type": "number"}, {"type": "boolean"}, {"type": "null"},
        {"type": "array", "items": value},
        {"type": "object", "additionalProperties": value},
    ]});
    let schema = json!({"type": "object", "properties": {"data": value}, "$defs": {"json": any}, "required": ["data"]});
    let deep =
        (0..40).fold(json!(1), |inner, n| if n % 2 == 0 { json!([inner, "x"]) } else { json!({"k": inner}) });
    accepts(&schema, &json!({"data": deep}), &json!({}));
}

#[test]
fn what_the_reference_servers_send() {
    let draft7 = "http://json-schema.org/draft-07/schema#";
    let edit = json!({
        "type": "object",
        "properties": {
            "path": {"type": "string"},
            "edits": {"type": "array", "items": {
                "type": "object",
                "properties": {"oldText": {"type": "string", "description": "x"}, "newText": {"type": "string"}},
                "required": ["oldText", "newText"], "additionalProperties": false,
            }},
            "dryRun": {"type": "boolean", "default": false},
        },
        "required": ["path", "edits"], "additionalProperties": false, "$schema": draft7,
    });
    accepts(
        &edit,
        &json!({"path": "a", "edits": [{"oldText": "x", "newText": "y"}]}),
        &json!({"path": "a", "edits": [{"oldText": "x"}]}),
    );
    let thought = json!({
        "type": "object",
        "properties": {
            "thought": {"type": "string"}, "nextThoughtNeeded": {"type": "boolean"},
            "thoughtNumber": {"type": "integer", "minimum": 1, "maximum": 9_007_199_254_740_991_i64},
            "level": {"type": "string", "enum": ["debug", "info"], "default": "info"},
        },
        "required": ["thought", "nextThoughtNeeded", "thoughtNumber"],
        "$schema": "https://json-schema.org/draft/2020-12/schema",
    });
    let good = json!({"thought": "x", "nextThoughtNeeded": true, "thoughtNumber": 1});
    accepts(&thought, &good, &json!({"thought": "x", "nextThoughtNeeded": true, "thoughtNumber": 0}));
    let fetch = json!({
        "description": "Parameters.", "title": "Fetch", "type": "object", "required": ["url"],
        "properties": {
            "url": {"format": "uri", "minLength": 1, "title": "Url", "type": "string"},
            "max_length": {"default": 5000, "exclusiveMaximum": 1_000_000, "exclusiveMinimum": 0, "type": "integer"},
            "when": {"anyOf": [{"format": "date-time", "type": "string"}, {"type": "null"}], "default": null},
        },
    });
    accepts(&fetch, &json!({"url": "https://x", "when": null}), &json!({"url": "", "max_length": 0}));
}

#[test]
fn older_drafts_are_read_as_what_they_are() {
    let seven = json!({
        "$schema": "http://json-schema.org/draft-07/schema#", "type": "object",
        "properties": {"pair": {"type": "array", "items": [{"type": "string"}, {"type": "integer"}], "additionalItems": false}},
        "dependencies": {"pair": ["name"]}, "definitions": {"a": {"$id": "#never"}},
    });
    accepts(&seven, &json!({"pair": ["a", 1], "name": 1}), &json!({"pair": ["a", 1, 2], "name": 1}));
    let four = json!({
        "$schema": "http://json-schema.org/draft-04/schema#", "id": "http://x.example/y",
        "properties": {"n": {"type": "integer", "minimum": 0, "exclusiveMinimum": true}, "id": {"type": "string"}},
    });
    accepts(&four, &json!({"n": 1, "id": "x"}), &json!({"n": 0}));
    let unknown = json!({"$schema": "https://example.com/mine", "type": "object", "required": ["a"]});
    accepts(&unknown, &json!({"a": 1}), &json!({}));
}

#[test]
fn members_may_be_called_like_keywords_and_names_may_need_escapes() {
    let schema = json!({
        "type": "object",
        "properties": {"$ref": {"type": "string"}, "$id": {"type": "string"}, "items": {"type": "integer"}, "x": {"$ref": "#/$defs/Page%3CUser~1Group%3E"}},
        "$defs": {"Page<User/Group>": {"type": "integer"}},
        "examples": [{"$id": "x", "$ref": "nowhere"}],
    });
    accepts(&schema, &json!({"$ref": "x", "$id": "y", "items": 1, "x": 1}), &json!({"x": "y"}));
}

#[test]
fn a_large_description_of_an_interface() {
    let mut defs = Map::new();
    for n in 0..150 {
        let to = |m: usize| json!({"$ref": format!("#/components/schemas/T{}", m % 150)});
        defs.insert(
            format!("T{n}"),
            json!({
                "type": "object", "required": ["id"],
                "properties": {
                    "id": {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"},
                    "owner": to(n + 1), "items": {"type": "array", "items": to(n + 7)},
                    "either": {"oneOf": [to(n + 2), {"type": "null"}]},
                },
            }),
        );
    }
    let schema = json!({
        "type": "object", "properties": {"body": {"$ref": "#/components/schemas/T0"}},
        "components": {"schemas": defs},
    });
    let deep = (0..20)
        .fold(json!({"id": "a"}), |inner, _| json!({"id": "b", "owner": inner, "items": [], "either": null}));
    accepts(&schema, &json!({"body": deep}), &json!({"body": {"id": "?"}}));
}

#[test]
fn the_schema_of_schemas_of_draft_7_but_not_the_newest_which_is_many_documents() {
    let value = json!({"$ref": "#"});
    let list = json!({"type": "array", "minItems": 1, "items": value});
    let map = json!({"type": "object", "additionalProperties": value, "default": {}});
    let meta = json!({
        "$schema": "http://json-schema.org/draft-07/schema#", "$id": "http://json-schema.org/draft-07/schema#",
        "definitions": {"list": list},
        "type": ["object", "boolean"],
        "properties": {
            "$ref": {"type": "string", "format": "uri-reference"}, "items": {"anyOf": [value, {"$ref": "#/definitions/list"}]},
            "properties": map, "definitions": map, "additionalProperties": value, "contains": value,
            "dependencies": {"type": "object", "additionalProperties": {"anyOf": [value, {"type": "array"}]}},
            "if": value, "then": value, "else": value, "not": value,
            "allOf": {"$ref": "#/definitions/list"}, "anyOf": {"$ref": "#/definitions/list"},
            "enum": {"type": "array", "items": true},
        },
    });
    accepts(&meta, &meta, &json!({"allOf": []}));
    let newest =
        json!({"$id": "https://json-schema.org/draft/2020-12/schema", "allOf": [{"$ref": "meta/core"}]});
    assert!(Schema::new(&newest).expect_err("is many documents").0.contains("inside the schema"));
}

#[test]
fn complaints_name_the_place_and_are_few_and_short() {
    let schema = Schema::new(&json!({"items": {"type": "integer"}})).expect("is a schema");
    let complaints = schema.complaints(&json!(vec!["x".repeat(5_000); 50]));
    assert_eq!(complaints.len(), 10);
    assert!(complaints[1].starts_with("/1: ") && complaints.iter().all(|c| c.len() <= 503), "{complaints:?}");
}
