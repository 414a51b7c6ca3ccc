//! No content of any file harms: nothing panics, and what is not taken is explained.

use super::{assembled, platform};
use crate::catalog::entries::{Entries, read};
use crate::catalog::files::InMemory;
use crate::catalog::hooks;
use proptest::prelude::*;
use serde_json::{Value, json};

/// Any JSON, a few levels deep.
fn any_json() -> impl Strategy<Value = Value> {
    let keys = "name|description|tools|skills|implementation|kind|ref|input_schema|type|scripts|hooks|event|\
                match|command|identity|values|server_name|transport|url|properties|required|[a-z/~\"é]{0,6}";
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(|n| json!(n)),
        any::<f64>().prop_map(|n| json!(n)),
        "\\PC{0,12}".prop_map(Value::String),
        "object|platform|skill|mcp|submit|bash|grep|stdio|http|\\*|a|t|s".prop_map(Value::String),
    ];
    leaf.prop_recursive(4, 48, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::Array),
            prop::collection::btree_map(keys, inner, 0..8)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn no_json_panics_the_catalog_and_what_is_refused_is_said(value in any_json()) {
        check_everywhere(value.to_string().into_bytes());
    }

    #[test]
    fn no_bytes_panic_the_catalog(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        check_everywhere(bytes);
    }
}

/// Puts the same bytes into every kind of file.
fn check_everywhere(bytes: Vec<u8>) {
    let paths = [
        "agents/a/agent.json",
        "agents/a/system-prompt.md",
        "tools/t.json",
        "skills/s/skill.json",
        "servers/s.json",
        "core_soul.json",
    ];
    let files = InMemory(paths.iter().map(|p| ((*p).to_owned(), bytes.clone())).collect());
    let mut problems = Vec::new();
    let entries = read(&files, None, &platform(), &Entries::default(), &mut problems);
    hooks::read("hooks.json", &bytes, &mut problems);
    let catalog = assembled(&entries, &mut problems);
    let taken = [
        ("agents/a/agent.json", entries.agents.contains_key("a")),
        ("tools/t.json", entries.tools.contains_key("t")),
        ("skills/s/skill.json", entries.skills.contains_key("s")),
        ("servers/s.json", entries.servers.contains_key("s")),
        ("core_soul.json", entries.soul.is_some()),
    ];
    for (file, taken) in taken {
        let refused = problems.iter().any(|p| p.file == file && p.is_error());
        assert_eq!(taken, !refused, "{file}: {problems:?}");
    }
    assert!(catalog.agent("assistant").is_some(), "the built-in ones are always there");
    for problem in &problems {
        assert!(problem.to_string().len() < 2000, "{problem}");
    }
}
