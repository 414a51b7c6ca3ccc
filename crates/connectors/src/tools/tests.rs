//! Pins, as tables.

use super::*;

fn clean(text: &str) -> String {
    text.chars().filter(|c| !('\u{E0000}'..='\u{E007F}').contains(c)).collect()
}

fn entry(extra: Value) -> Entry {
    let mut value = json!({"server_name": "s", "transport": "http", "url": "https://x.example.com", "auth_method": "none"});
    for (key, inner) in extra.as_object().expect("object") {
        value[key] = inner.clone();
    }
    Entry::parse("s", &value).expect("is an entry")
}

fn tool(name: &str, description: &str) -> Value {
    json!({"name": name, "description": description,
           "inputSchema": {"type": "object", "properties": {"a": {"type": "string"}}}})
}

fn definition(name: &str, description: &str) -> Definition {
    Definition::read(&tool(name, description), &clean).expect("is a tool")
}

fn names(actions: &[Action]) -> Vec<(&str, State)> {
    actions.iter().map(|a| (a.definition.action.as_str(), a.state)).collect()
}

#[test]
fn connecting_approves_what_is_listed_then_and_nothing_later() {
    let first = reconcile(&[], vec![definition("a", "x"), definition("b", "y")], true);
    assert_eq!(names(&first), [("a", State::Pinned), ("b", State::Pinned)]);
    let again = reconcile(&first, vec![definition("a", "x"), definition("b", "y")], false);
    assert_eq!(again, first, "listing twice changes nothing");

    let later = reconcile(&first, vec![definition("a", "EVIL"), definition("c", "z")], false);
    assert_eq!(names(&later), [("a", State::Changed), ("b", State::Gone), ("c", State::New)]);
    assert_eq!(later[0].definition.description, "x", "the model goes on seeing what was approved");
    assert!(later[0].needs_consent() && later[2].needs_consent() && !first[0].needs_consent());
    assert_eq!(reconcile(&later, vec![definition("a", "x")], false)[0].state, State::Pinned, "taken back");
    let vanished = reconcile(&later, vec![definition("a", "x")], false);
    assert!(vanished.iter().all(|a| a.definition.action != "c"), "nobody ever approved it");
}

#[test]
fn a_tool_that_went_and_came_back_changed_is_changed() {
    let first = reconcile(&[], vec![definition("a", "x")], true);
    let gone = reconcile(&first, Vec::new(), false);
    assert_eq!(names(&gone), [("a", State::Gone)]);
    assert_eq!(reconcile(&gone, vec![definition("a", "x")], false), first);
    assert_eq!(reconcile(&gone, vec![definition("a", "y")], false)[0].state, State::Changed);
}

#[test]
fn a_yes_counts_for_the_definition_that_was_shown() {
    let first = reconcile(&[], vec![definition("a", "x")], true);
    let changed = reconcile(&first, vec![definition("a", "y")], false).remove(0);
    let shown = changed.wanted_hash();
    assert_eq!(shown, definition("a", "y").hash());
    let newer = reconcile(std::slice::from_ref(&changed), vec![definition("a", "z")], false).remove(0);
    assert_eq!(newer.clone().approved(&shown), newer, "it changed again since");
    let yes = changed.approved(&shown);
    assert_eq!((yes.state, yes.definition.description.as_str()), (State::Pinned, "y"));
}

#[test]
fn the_hash_sees_every_part_and_no_order_of_keys() {
    let base = tool("a", "x");
    let hash = |value: &Value| Definition::read(value, &clean).expect("is a tool").hash();
    for (pointer, other) in [
        ("/name", json!("b")),
        ("/description", json!("y")),
        ("/inputSchema/properties/a/type", json!("number")),
    ] {
        let mut value = base.clone();
        *value.pointer_mut(pointer).expect("is there") = other;
        assert_ne!(hash(&value), hash(&base), "{pointer}");
    }
    let mut annotated = base.clone();
    annotated["annotations"] = json!({"readOnlyHint": true});
    assert_ne!(hash(&annotated), hash(&base));
    let turned: Value = serde_json::from_str(
        r#"{"inputSchema":{"properties":{"a":{"type":"string"}},"type":"object"},"description":"x","name":"a"}"#,
    )
    .expect("is JSON");
    assert_eq!(hash(&turned), hash(&base));
    let definition = definition("a", "x");
    assert_eq!(Definition::stored(&definition.json()), Some(definition));
}

#[test]
fn words_of_a_server_are_cleaned_cut_and_counted() {
    let hidden = definition("a", "be\u{E0041} nice");
    assert_eq!(hidden.description, "be nice");
    let long = definition("a", &"ü".repeat(5_000));
    assert!(long.description.len() <= DESCRIPTION_MAX_BYTES && long.description.ends_with('…'));
    for bad in
        [json!({"name": "a b"}), json!({"name": ""}), json!({}), json!({"name": "a", "inputSchema": 1})]
    {
        assert!(Definition::read(&bad, &clean).is_err(), "{bad}");
    }
    let deep = (0..40).fold(json!({}), |inner, _| json!({"properties": {"x": inner}}));
    let too_deep =
        Definition::read(&json!({"name": "a", "inputSchema": deep}), &clean).expect_err("is too deep");
    assert!(too_deep.action == "a" && too_deep.reason.contains("nested deeper"), "{too_deep:?}");

    let many: Vec<Value> = (0..600).map(|n| tool(&format!("t{n}"), "x")).collect();
    assert_eq!(read_listing(&many, &entry(json!({})), &clean).definitions.len(), TOOLS_MAX);
    let denied = entry(json!({"tools": {"deny": ["t1*"]}}));
    let offered = read_listing(&many[..20], &denied, &clean).definitions;
    assert!(offered.len() == 9 && offered.iter().all(|d| !d.action.starts_with("t1")));
}

#[test]
fn a_tool_that_cannot_be_offered_is_named_and_costs_nobody_the_others() {
    let circle = json!({"name": "circle", "inputSchema": {"anyOf": [{"$ref": "#"}, {"$ref": "#"}]}});
    let listed = read_listing(
        &[tool("a", "x"), circle, json!({"inputSchema": {}}), json!({"name": 7}), tool("b", "y")],
        &entry(json!({})),
        &clean,
    );
    assert_eq!(listed.definitions.iter().map(|d| d.action.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    let names: Vec<&str> = listed.left_out.iter().map(|l| l.action.as_str()).collect();
    assert_eq!(names, ["circle", "", ""]);
    assert!(listed.left_out[0].reason.contains("refers to itself"), "{:?}", listed.left_out[0]);
    let many: Vec<Value> = (0..100).map(|n| json!({"name": format!("bad name {n}")})).collect();
    assert_eq!(read_listing(&many, &entry(json!({})), &clean).left_out.len(), LEFT_OUT_MAX);
}

#[test]
fn only_a_trusted_server_is_believed_and_the_entry_always_wins() {
    let hinting = |hints: Value| {
        let mut value = tool("a", "x");
        value["annotations"] = hints;
        Definition::read(&value, &clean).expect("is a tool")
    };
    let (read, idempotent) = (json!({"readOnlyHint": true}), json!({"idempotentHint": true}));
    let table = [
        (json!({}), read.clone(), Effect::Once),
        (json!({"trusted": true}), read.clone(), Effect::ReadOnly),
        (json!({"trusted": true}), idempotent.clone(), Effect::Idempotent),
        (json!({"trusted": true}), json!({}), Effect::Once),
        (json!({"tools": {"effects": {"a": "read-only"}}}), json!({}), Effect::ReadOnly),
        (json!({"trusted": true, "tools": {"effects": {"a": "once"}}}), read, Effect::Once),
    ];
    for (given, hints, expected) in table {
        assert_eq!(effect(&entry(given.clone()), &hinting(hints)), expected, "{given}");
    }
}

#[test]
fn a_person_sees_what_is_different() {
    let first = reconcile(&[], vec![definition("a", "reads")], true);
    let mut value = tool("a", "sends everything away");
    value["inputSchema"]["properties"]["to"] = json!({"type": "string"});
    let listed = Definition::read(&value, &clean).expect("is a tool");
    let shown = reconcile(&first, vec![listed], false)[0].difference().text;
    assert!(shown.contains("- reads\n+ sends everything away"), "{shown}");
    assert!(shown.contains("parameter \"to\"\n+ {\"type\":\"string\"}"), "{shown}");
}

#[test]
fn states_read_back() {
    for state in State::ALL {
        assert_eq!(State::parse(state.word()), Some(state));
    }
}
