//! What of a model's answer is believed.

use contract::Timestamp;
use contract::memory::{FactType, NodeKind};
use memory::extraction::*;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::HashSet;

fn messages() -> HashSet<String> {
    ["msg-1", "msg-2"].map(str::to_owned).into()
}

fn fact(content: &str, evidence: &[&str]) -> Value {
    json!({"subject": "testing", "content": content, "type": "rule", "valid_from": null,
           "evidence": evidence, "confidence": 0.7, "rationale": "said so"})
}

#[test]
fn a_whole_answer_is_read() {
    let answer = json!({
        "episodes": [{"key": "deploy-friday", "description": "It failed", "value": null,
            "occurred_at": "2026-04-24T10:00:00Z", "evidence": ["msg-1"], "confidence": 1.0, "rationale": "r"}],
        "facts": [fact("Run the suite", &["msg-2", "msg-2"])],
        "people": [{"name": "Asha", "kind": "person", "aliases": ["A."],
            "attributes": [{"name": "role", "value": "manager"}],
            "evidence": ["msg-1"], "confidence": 0.8, "rationale": "r"}],
        "relations": [{"from": "Asha", "relation": "manager_of", "to": "Ben",
            "evidence": ["msg-1"], "confidence": 0.8, "rationale": "r"}],
        "patterns": [{"text": "Short answers", "evidence": ["msg-1"], "confidence": 0.8, "rationale": "r"}],
        "replaces": [{"old": "fact-9", "list": "facts", "index": 0,
            "evidence": ["msg-2"], "confidence": 0.8, "rationale": "r"}],
    });
    let found = read(&answer, &messages()).expect("an answer");
    assert_eq!(found.dropped, Dropped::default());
    assert_eq!(found.episodes[0].occurred_at, Timestamp::parse("2026-04-24T10:00:00Z"));
    assert_eq!(found.episodes[0].ground.confidence, 0.9, "a model is never surer than a person");
    assert_eq!(found.facts[0].kind, FactType::Rule);
    assert_eq!(found.facts[0].ground.evidence, ["msg-2"]);
    assert_eq!(found.facts[0].ground.replaces, ["fact-9"]);
    assert_eq!(
        (found.people[0].kind, found.people[0].attributes["role"].as_str()),
        (NodeKind::Person, "manager")
    );
    assert_eq!(found.relations[0].to, "Ben");
    assert_eq!(found.patterns[0].text, "Short answers");
}

#[test]
fn what_cites_no_message_of_the_turn_is_dropped_and_counted() {
    let answer = json!({"facts": [fact("a", &[]), fact("b", &["msg-3"]), fact("c", &["msg-3", "msg-1"])]});
    let found = read(&answer, &messages()).expect("an answer");
    assert_eq!(found.facts.iter().map(|f| f.content.as_str()).collect::<Vec<_>>(), ["c"]);
    assert_eq!(found.facts[0].ground.evidence, ["msg-1"]);
    assert_eq!(found.dropped, Dropped { without_evidence: 2, malformed: 0, too_many: 0 });
}

#[test]
fn a_replacement_stays_with_its_fact_when_others_are_dropped() {
    let replaces = |old, list, index| json!({"old": old, "list": list, "index": index, "evidence": ["msg-1"], "confidence": 1, "rationale": ""});
    let answer = json!({
        "facts": [fact("dropped", &[]), fact("kept", &["msg-1"])],
        "replaces": [replaces("fact-1", "facts", 1), replaces("rel-1", "facts", 1), replaces("fact-2", "facts", 0)],
    });
    let found = read(&answer, &messages()).expect("an answer");
    assert_eq!(found.facts[0].ground.replaces, ["fact-1"]);
    assert_eq!(found.dropped, Dropped { without_evidence: 1, malformed: 1, too_many: 0 });
}

#[test]
fn what_does_not_fit_is_dropped_alone() {
    let mut wrong_type = fact("a", &["msg-1"]);
    wrong_type["type"] = json!("opinion");
    let many: Vec<Value> = (0..ITEMS_PER_LIST).map(|i| fact(&format!("fact {i}"), &["msg-1"])).collect();
    let facts = [vec![wrong_type, fact(&"x".repeat(10_001), &["msg-1"]), json!(7)], many].concat();
    let found = read(&json!({ "facts": facts }), &messages()).expect("an answer");
    assert_eq!(found.dropped, Dropped { without_evidence: 0, malformed: 3, too_many: 3 });
    assert_eq!(found.facts.len(), ITEMS_PER_LIST - 3);
}

#[test]
fn an_answer_without_the_form_is_an_error() {
    assert_eq!(read(&json!([]), &messages()), Err(NotAnExtraction::NotAnObject));
    assert_eq!(read(&json!({"facts": {}}), &messages()), Err(NotAnExtraction::NotAList("facts")));
    assert_eq!(read(&json!({}), &messages()), Ok(Extraction::default()));
}

#[test]
fn the_schema_asks_for_every_list_and_forbids_everything_else() {
    let schema: Value = serde_json::from_str(SCHEMA).expect("JSON");
    let lists = ["episodes", "facts", "people", "relations", "patterns", "replaces"];
    let required: Vec<&str> =
        schema["required"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
    assert_eq!(required, lists);
    for list in lists {
        let item = &schema["properties"][list]["items"];
        assert_eq!(item["additionalProperties"], json!(false), "{list}");
        for field in ["evidence", "confidence", "rationale"] {
            assert!(item["required"].as_array().expect("a list").contains(&json!(field)), "{list}.{field}");
        }
        let all = item["properties"].as_object().expect("fields").len();
        assert_eq!(
            item["required"].as_array().expect("a list").len(),
            all,
            "{list}: strict modes want all fields"
        );
    }
}

#[test]
fn an_item_has_the_same_key_each_time_its_batch_is_repeated() {
    assert_eq!(item_key("turn-1", "Testing", "Run it"), item_key("turn-1", "testing", "run  it"));
    assert_ne!(item_key("turn-1", "testing", "run it"), item_key("turn-2", "testing", "run it"));
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop::sample::select(vec!["msg-1", "person", "rule", "fact-1", "facts"]).prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
    ];
    let names = prop::sample::select(
        [
            "facts",
            "people",
            "replaces",
            "subject",
            "content",
            "type",
            "evidence",
            "confidence",
            "rationale",
            "name",
            "kind",
            "old",
            "list",
            "index",
            "attributes",
        ]
        .map(str::to_owned)
        .to_vec(),
    );
    leaf.prop_recursive(4, 60, 8, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::hash_map(names.clone(), inner, 0..10)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn whatever_a_model_answers_nothing_comes_out_without_evidence(answer in any_json()) {
        if let Ok(found) = read(&answer, &messages()) {
            for fact in &found.facts {
                prop_assert!(!fact.ground.evidence.is_empty());
                prop_assert!((0.0..=0.9).contains(&fact.ground.confidence));
            }
        }
    }
}
