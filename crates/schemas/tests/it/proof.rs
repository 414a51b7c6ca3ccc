//! The bound holds: an evaluator that never stops early, and counts every schema it looks at, needs at most what was
//! worked out beforehand; and it comes to the same answer as the library.

use proptest::prelude::*;
use schemas::{Schema, WORK_MAX};
use serde_json::{Map, Value, json};

const DEFS: usize = 5;

struct Naive<'a> {
    root: &'a Value,
    steps: u64,
}

impl Naive<'_> {
    /// Looks at everything, also where the answer is known already.
    fn valid(&mut self, schema: &Value, value: &Value) -> bool {
        self.steps += 1;
        assert!(self.steps <= WORK_MAX, "more steps than any bound");
        let map = match schema {
            Value::Bool(answer) => return *answer,
            other => other.as_object().expect("is a schema"),
        };
        let mut valid = true;
        for (keyword, inner) in map {
            let list = |naive: &mut Self| -> usize {
                inner.as_array().into_iter().flatten().filter(|one| naive.valid(one, value)).count()
            };
            let count = inner.as_array().map_or(0, Vec::len);
            valid &= match keyword.as_str() {
                "$ref" => {
                    let pointer = inner.as_str().expect("is text").trim_start_matches('#');
                    let target = self.root.pointer(pointer).expect("is there");
                    self.valid(target, value)
                }
                "allOf" => list(self) == count,
                "anyOf" => list(self) > 0,
                "oneOf" => list(self) == 1,
                "not" => !self.valid(inner, value),
                "type" => match inner.as_str().expect("is text") {
                    "object" => value.is_object(),
                    "array" => value.is_array(),
                    _ => value.is_i64() || value.is_u64(),
                },
                "properties" => {
                    let known = inner.as_object().expect("is a map");
                    let members = value.as_object().into_iter().flatten();
                    let mut all = true;
                    for (name, member) in members {
                        if let Some(one) = known.get(name) {
                            all &= self.valid(one, member);
                        }
                    }
                    all
                }
                "additionalProperties" => {
                    let known = map.get("properties").and_then(Value::as_object);
                    let members = value.as_object().into_iter().flatten();
                    let mut all = true;
                    for (name, member) in members {
                        if !known.is_some_and(|k| k.contains_key(name)) {
                            all &= self.valid(inner, member);
                        }
                    }
                    all
                }
                "items" => {
                    let mut all = true;
                    for item in value.as_array().into_iter().flatten() {
                        all &= self.valid(inner, item);
                    }
                    all
                }
                "contains" => {
                    let items = value.as_array().into_iter().flatten();
                    let found = items.filter(|item| self.valid(inner, item)).count();
                    found > 0 || !value.is_array()
                }
                _ => true,
            };
        }
        valid
    }
}

fn schema() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(Value::Bool),
        prop_oneof![Just("object"), Just("array"), Just("integer")].prop_map(|kind| json!({"type": kind})),
        (0..DEFS).prop_map(|n| json!({"$ref": format!("#/$defs/d{n}")})),
        Just(json!({"$ref": "#"})),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        let list = prop::collection::vec(inner.clone(), 1..4);
        let named = prop::collection::btree_map("[ab]", inner.clone(), 1..3);
        prop_oneof![
            (prop_oneof![Just("allOf"), Just("anyOf"), Just("oneOf")], list)
                .prop_map(|(word, list)| json!({word: list})),
            (
                prop_oneof![Just("not"), Just("items"), Just("contains"), Just("additionalProperties")],
                inner.clone()
            )
                .prop_map(|(word, one)| json!({word: one})),
            (named, inner)
                .prop_map(|(named, rest)| json!({"properties": named, "additionalProperties": rest})),
        ]
    })
}

fn document() -> impl Strategy<Value = Value> {
    (schema(), prop::collection::vec(schema(), DEFS)).prop_map(|(root, defs)| {
        let mut root = match root {
            Value::Object(map) => map,
            other => Map::from_iter([("not".to_owned(), json!({"not": other}))]),
        };
        let defs = defs.into_iter().enumerate().map(|(n, one)| (format!("d{n}"), one));
        root.insert("$defs".to_owned(), Value::Object(defs.collect()));
        Value::Object(root)
    })
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![Just(json!(1)), Just(json!("x")), Just(json!({})), Just(json!([]))];
    leaf.prop_recursive(6, 40, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::Array),
            prop::collection::btree_map("[abc]", inner, 0..3).prop_map(|map| json!(map)),
        ]
    })
}

/// A chain, which is what branching recursion grows with.
fn chain(height: usize) -> Value {
    (0..height).fold(json!(1), |inner, n| if n % 3 == 0 { json!([inner]) } else { json!({"a": inner}) })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn no_value_takes_more_than_was_worked_out(document in document(), random in value(), height in 0..30_usize) {
        let Ok(judged) = Schema::new(&document) else { return Ok(()) };
        for value in [random, chain(height)] {
            let cost = judged.cost(&value);
            let complaints = judged.complaints(&value);
            if cost.units > WORK_MAX {
                prop_assert!(complaints.len() == 1 && complaints[0].contains("too large"), "{:?}", complaints);
                continue;
            }
            let mut naive = Naive { root: &document, steps: 0 };
            let valid = naive.valid(&document, &value);
            prop_assert!(naive.steps <= cost.units, "{} steps, {} worked out", naive.steps, cost.units);
            prop_assert_eq!(valid, complaints.is_empty(), "{:?}", complaints);
        }
    }
}

#[test]
fn random_schemas_are_neither_all_refused_nor_all_accepted() {
    use proptest::strategy::ValueTree;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let accepted = (0..500)
        .filter(|_| {
            let document = document().new_tree(&mut runner).expect("generates").current();
            Schema::new(&document).is_ok()
        })
        .count();
    assert!((50..=450).contains(&accepted), "{accepted} of 500 were accepted");
}
