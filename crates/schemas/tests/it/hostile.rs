//! Schemas that were written to keep a validator busy.

use schemas::{STACK_BYTES, Schema, WORK_MAX, check};
use serde_json::{Map, Value, json};
use std::time::{Duration, Instant};

/// Far above what the limits allow on a slow machine, and far below what the attacks take without them.
const SOON: Duration = Duration::from_secs(20);

fn doubling(depth: usize, keyword: &str) -> Value {
    let mut defs = Map::new();
    for level in 0..depth {
        let next = json!({"$ref": format!("#/$defs/d{}", level + 1)});
        defs.insert(format!("d{level}"), json!({keyword: [next, next]}));
    }
    defs.insert(format!("d{depth}"), json!({"type": "integer"}));
    json!({"type": "object", "properties": {"x": {"$ref": "#/$defs/d0"}}, "$defs": defs})
}

fn why(schema: &Value) -> String {
    check(schema).expect_err(&schema.to_string()).0
}

fn nested(height: usize, name: &str) -> Value {
    (0..height).fold(json!("leaf"), |inner, _| json!({name: inner}))
}

#[test]
fn references_that_double_at_every_level_are_refused() {
    for keyword in ["anyOf", "oneOf", "allOf"] {
        assert!(why(&doubling(24, keyword)).contains("look at one place"), "{keyword}");
        assert!(why(&doubling(600, keyword)).contains("look at one place"), "{keyword}");
    }
    check(&doubling(3, "anyOf")).expect("eight at one place are nothing");
}

#[test]
fn a_circle_that_looks_at_no_part_of_the_value_is_refused() {
    let itself = json!({"$ref": "#"});
    let circles = [
        json!({"anyOf": [itself, itself]}),
        json!({"properties": {"x": {"$ref": "#/$defs/x"}}, "$defs": {"x": {"anyOf": [{"$ref": "#/$defs/x"}, {"$ref": "#/$defs/x"}]}}}),
        json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}),
        json!({"not": itself}),
        json!({"if": itself, "then": true}),
        json!({"if": true, "then": itself}),
        json!({"if": true, "else": itself}),
        json!({"dependentSchemas": {"a": itself}}),
        json!({"$schema": "http://json-schema.org/draft-07/schema#", "dependencies": {"a": itself}}),
        json!({"$dynamicAnchor": "n", "anyOf": [{"$dynamicRef": "#n"}]}),
        json!({"$anchor": "n", "allOf": [{"$ref": "#n"}]}),
        json!({"$schema": "https://json-schema.org/draft/2019-09/schema", "anyOf": [{"$recursiveRef": "#"}]}),
        json!({"properties": {"x": {"allOf": [{"oneOf": [{"$ref": "#/properties/x"}]}]}}}),
    ];
    for circle in circles {
        assert!(why(&circle).contains("refers to itself"), "{circle}");
    }
}

#[test]
fn references_out_of_the_document_or_to_nowhere_are_refused() {
    for reference in ["https://example.com/x", "file:///etc/passwd", "x", "other#/a"] {
        assert!(why(&json!({"properties": {"x": {"$ref": reference}}})).contains("inside the schema"));
    }
    for reference in ["#/nowhere", "#name", "#/$defs/0/x", "#/%FF"] {
        assert!(why(&json!({"properties": {"x": {"$ref": reference}}})).contains("nowhere"), "{reference}");
    }
    let twice = json!({"$ref": "#n", "$defs": {"a": {"$anchor": "n"}, "b": {"$anchor": "n"}}});
    assert!(why(&twice).contains("more than one"));
}

#[test]
fn a_resource_inside_a_schema_is_refused_because_references_mean_something_else_there() {
    let inner = json!({"$id": "https://a.example/x", "anyOf": [{"$ref": "#"}, {"$ref": "#"}]});
    assert!(why(&json!({"properties": {"x": inner}})).contains("root"));
    let by_pointer =
        json!({"$ref": "#/$defs/x/properties/y", "$defs": {"x": {"$id": "x", "properties": {"y": true}}}});
    assert!(why(&by_pointer).contains("root"));
    let dialect =
        json!({"properties": {"x": {"$schema": "http://json-schema.org/draft-04/schema#", "id": "y"}}});
    assert!(why(&dialect).contains("root"));
}

#[test]
fn the_name_of_a_known_document_at_the_root_does_not_bring_that_document_in() {
    let name = "https://json-schema.org/draft/2020-12/schema";
    let schema = Schema::new(&json!({"$id": name, "properties": {"x": {"$ref": "#/$defs/a"}}, "$defs": {"a": {"type": "integer"}}}))
        .expect("is harmless");
    assert!(schema.complaints(&json!({"x": 1})).is_empty());
    assert_eq!(schema.complaints(&json!({"x": "y"})).len(), 1);
}

#[test]
fn branching_recursion_is_refused_for_the_value_that_would_make_it_long() {
    let branch = json!({"properties": {"a": {"$ref": "#"}}});
    let schemas = [
        json!({"anyOf": [branch, branch], "not": {"const": 1}}),
        json!({"oneOf": [branch, branch, branch]}),
        json!({"properties": {"a": {"$ref": "#"}}, "patternProperties": {"a": {"$ref": "#"}, "^a": {"$ref": "#"}}}),
        json!({"properties": {"a": {"$ref": "#"}}, "allOf": [{"additionalProperties": {"$ref": "#"}}]}),
        json!({"properties": {"a": {"$ref": "#"}}, "unevaluatedProperties": {"$ref": "#"}, "anyOf": [branch]}),
    ];
    for schema in schemas {
        let judged = Schema::new(&schema).expect("is accepted: honest values are shallow");
        let begun = Instant::now();
        assert!(judged.cost(&nested(4, "a")).units < WORK_MAX, "{schema}");
        drop(judged.complaints(&nested(4, "a")));
        assert!(judged.cost(&nested(100, "a")).units > WORK_MAX, "{schema}");
        let complaints = judged.complaints(&nested(100, "a"));
        assert!(complaints.len() == 1 && complaints[0].contains("too large"), "{complaints:?}");
        assert!(begun.elapsed() < SOON, "{schema}");
    }
}

#[test]
fn patterns_are_matched_without_backtracking() {
    let schema = Schema::new(&json!({"properties": {"x": {"pattern": "^(a+)+$"}}})).expect("is a pattern");
    let begun = Instant::now();
    let text = format!("{}!", "a".repeat(100_000));
    assert_eq!(schema.complaints(&json!({"x": text})).len(), 1);
    assert!(schema.complaints(&json!({"x": "aaa"})).is_empty());
    assert!(begun.elapsed() < SOON);
    for bad in ["^(?=(a+)+b)(a|aa)+$", r"(a)\1", "^((a{1,1000}){1,1000}){1,1000}$", "("] {
        let reason = why(&json!({"properties": {"x": {"pattern": bad}}}));
        assert!(reason.contains("regex"), "{bad}: {reason}");
    }
    let many: Map<String, Value> = (0..40).map(|n| (format!("^a{n}"), json!(true))).collect();
    assert!(why(&json!({"patternProperties": many})).contains("patterns"));
}

#[test]
fn long_values_against_wide_schemas_end_soon() {
    let choices: Vec<Value> = (0..300).map(|n| json!({"const": n})).collect();
    let table = [
        (json!({"items": {"anyOf": choices}}), json!(vec!["x"; 3_000])),
        (json!({"items": {"anyOf": choices}}), json!(vec!["x"; 300_000])),
        (json!({"uniqueItems": true}), json!((0..200_000).collect::<Vec<_>>())),
        (json!({"items": {"enum": (0..1500).collect::<Vec<_>>()}}), json!(vec![-1; 5_000])),
        (json!({"contains": {"const": 1}, "items": {"multipleOf": 1e-300}}), json!(vec![1.5e300; 50_000])),
        (json!({"propertyNames": {"pattern": "^(a|aa)+$"}}), json!({"a".repeat(1_000_000): 1})),
        (json!({"minLength": 2_000_000}), json!("x".repeat(1_000_000))),
    ];
    for (schema, value) in table {
        let begun = Instant::now();
        let judged = Schema::new(&schema).expect("is a schema");
        let complaints = judged.complaints(&value);
        assert!(complaints.len() <= 10 && complaints.iter().all(|c| c.len() < 600), "{}", complaints.len());
        assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    }
}

#[test]
fn what_neighbours_looked_at_is_paid_for_at_every_level() {
    let deep = (0..14).fold(
        json!({"properties": {"a": true}}),
        |inner, _| json!({"allOf": [inner], "unevaluatedProperties": false}),
    );
    assert!(why(&deep).contains("look at one place"));
    let one = json!({"allOf": [{"properties": {"a": true}}], "unevaluatedProperties": false});
    let schema = Schema::new(&one).expect("is what the keyword is for");
    assert!(schema.complaints(&json!({"a": 1})).is_empty());
    assert_eq!(schema.complaints(&json!({"b": 1})).len(), 1);
}

#[test]
fn judging_and_compiling_end_soon_whatever_is_judged() {
    let mut wide = Map::new();
    for level in 0..200 {
        let next = json!({"$ref": format!("#/$defs/d{}", level + 1)});
        wide.insert(
            format!("d{level}"),
            json!({"properties": {"a": next, "b": next}, "unevaluatedProperties": false, "unevaluatedItems": next}),
        );
    }
    wide.insert("d200".to_owned(), json!(true));
    let ladder: Map<String, Value> = (0..60)
        .map(|n| (format!("d{n}"), json!({"allOf": (n + 1..61.min(n + 3)).map(|m| json!({"$ref": format!("#/$defs/d{m}")})).collect::<Vec<_>>()})))
        .chain([("d60".to_owned(), json!(true))])
        .collect();
    let everywhere: Vec<Value> =
        (0..600).map(|n| json!({"properties": {format!("p{n}"): {"$ref": "#"}}})).collect();
    for schema in [
        json!({"$ref": "#/$defs/d0", "$defs": wide}),
        json!({"$ref": "#/$defs/d0", "$defs": ladder}),
        json!({"anyOf": everywhere}),
        json!({"anyOf": everywhere, "unevaluatedProperties": {"$ref": "#"}}),
    ] {
        let begun = Instant::now();
        if let Ok(judged) = Schema::new(&schema) {
            drop(judged.complaints(&nested(20, "a")));
        }
        assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    }
}

#[test]
fn deep_values_do_not_cost_the_stack() {
    let chain: Map<String, Value> = (0..50)
        .map(|n| (format!("d{n}"), json!({"anyOf": [{"$ref": format!("#/$defs/d{}", n + 1)}]})))
        .chain([("d50".to_owned(), json!({"properties": {"a": {"$ref": "#/$defs/d0"}}}))])
        .collect();
    assert!(why(&json!({"$ref": "#/$defs/d0", "$defs": chain})).contains("inside one another"));
    let simple = Schema::new(&json!({"additionalProperties": {"$ref": "#"}})).expect("is a tree");
    assert_eq!(simple.complaints(&nested(120, "a")), [""; 0]);
    assert_eq!(simple.complaints(&nested(200, "a")).len(), 1);
    // as deep as is allowed, on the stack that is asked for, and as deep as is quick on one of a worker
    for (layers, height, stack, quick) in [(14, 80, STACK_BYTES, false), (13, 4, 2 << 20, true)] {
        let chain: Map<String, Value> = (0..layers)
            .map(|n| (format!("d{n}"), json!({"anyOf": [{"$ref": format!("#/$defs/d{}", n + 1)}]})))
            .chain([(
                format!("d{layers}"),
                json!({"type": "object", "properties": {"a": {"$ref": "#/$defs/d0"}}}),
            )])
            .collect();
        let schema =
            Schema::new(&json!({"$ref": "#/$defs/d0", "$defs": chain})).expect("is deep and no more");
        let value = nested(height, "a");
        assert_eq!(schema.is_quick(&value), quick, "{:?}", schema.cost(&value));
        let thread = std::thread::Builder::new().stack_size(stack);
        let complaints =
            thread.spawn(move || schema.complaints(&value)).expect("starts").join().expect("ends");
        assert!(!complaints[0].contains("too large or too deeply"), "{complaints:?}");
    }
}
