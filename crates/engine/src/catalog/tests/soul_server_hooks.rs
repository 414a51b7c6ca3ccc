//! What the soul, a server and the hooks may say, and the message for everything else.

use super::{said, with};
use crate::catalog::hooks;
use serde_json::{Value, json};

#[test]
fn every_rule_of_the_soul_a_server_and_hooks_has_its_message() {
    let soul = |value: Value| said(&[("core_soul.json", value.to_string())]);
    assert_eq!(soul(json!({"identity": "i", "values": ["v"], "patterns": []})), [""; 0]);
    assert_eq!(
        soul(json!({"identity": "x".repeat(4001)})),
        [
            "core_soul.json: /identity: expected a string of 0..4000 characters, got a string of 4001 characters; write a string of 0..4000 characters"
        ]
    );
    assert_eq!(
        soul(json!({"values": ["x".repeat(501)]})),
        [
            "core_soul.json: /values/0: expected a string of 1..500 characters, got a string of 501 characters; write a string of 1..500 characters"
        ]
    );
    assert_eq!(
        soul(json!({"patterns": vec!["x"; 51]})),
        [
            "core_soul.json: /patterns: expected an array of at most 50 strings, got an array of 51; write an array of at most 50 strings"
        ]
    );
    let server = said(&[("servers/files.json", json!({"server_name": "files"}).to_string())]);
    assert!(
        !server.is_empty() && server.iter().all(|s| s.starts_with("servers/files.json: /")),
        "{server:?}"
    );

    let hooks = |value: Value| -> Vec<String> {
        let mut problems = Vec::new();
        hooks::read("hooks.json", value.to_string().as_bytes(), &mut problems);
        problems.iter().map(ToString::to_string).collect()
    };
    let good = json!({"event": "pre_tool", "match": "bash", "command": ["/x"]});
    let one = |key: &str, value: Value| json!({"hooks": [with(good.clone(), key, value)]});
    assert_eq!(hooks(json!({"hooks": [good.clone()]})), [""; 0]);
    for (value, expected) in [
        (json!({}), "/hooks: is missing; add a list of hooks; [] is none"),
        (
            json!({"hooks": {}}),
            "/hooks: expected an array of at most 100 hooks, got an object; write a list of hooks; [] is none",
        ),
        (
            json!({"hooks": [1]}),
            "/hooks/0: expected an object, got 1; write {\"event\":…,\"match\":…,\"command\":[…]}",
        ),
        (one("event", json!(null)), "/hooks/0/event: is missing; write pre_tool, post_tool or stop"),
        (
            one("event", json!("start")),
            "/hooks/0/event: expected one of pre_tool, post_tool, stop, got \"start\"; write one of pre_tool, post_tool, stop",
        ),
        (
            one("match", json!("*a*")),
            "/hooks/0/match: `*` stands before the end; write a name, a beginning with `*` behind it, or `*`",
        ),
        (
            one("command", json!([])),
            "/hooks/0/command: is empty; write the program and its arguments as a list",
        ),
        (
            one("command", json!("/x")),
            "/hooks/0/command: expected an array of at most 64 strings, got \"/x\"; write an array of at most 64 strings",
        ),
        (
            one("timeout_s", json!(601)),
            "/hooks/0/timeout_s: expected a whole number 1..600, got 601; write a whole number 1..600",
        ),
    ] {
        assert_eq!(hooks(value), [format!("hooks.json: {expected}")]);
    }
}
