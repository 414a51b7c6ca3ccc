//! How the files of a directory become one catalog: last good versions, left-out parts, defaults and names.

use super::{agent, assembled, platform, read_after, said, tool, with};
use crate::catalog::entries::Entries;
use crate::catalog::snapshot::{Catalog, Models};
use crate::catalog::{Skill, builtin};
use crate::config::Provider;
use crate::tools::tool::{Effect, Kind};
use serde_json::{Value, json};
use std::sync::Arc;

#[test]
fn a_bad_file_keeps_its_last_good_version_and_the_others_are_not_touched() {
    let prompt = |name: &str| format!("You are {name}.");
    let named = |name: &str, description: &str| {
        with(with(agent(), "name", json!(name)), "description", json!(description)).to_string()
    };
    let list = |a: String, b: String| {
        vec![
            ("agents/a/agent.json", a),
            ("agents/a/system-prompt.md", prompt("a")),
            ("agents/coder/agent.json", b),
            ("agents/coder/system-prompt.md", prompt("coder")),
        ]
    };
    let (first, problems) = read_after(&Entries::default(), &list(named("a", "one"), "{".to_owned()));
    assert_eq!(problems.len(), 1);
    assert_eq!(first.agents.keys().collect::<Vec<_>>(), ["a"]);
    let catalog = assembled(&first, &mut Vec::new());
    let description = |catalog: &Catalog, name: &str| catalog.agent(name).map(|a| a.description.clone());
    assert_eq!(description(&catalog, "coder"), Some("Writes and changes code in the workspace.".to_owned()));

    let (second, problems) = read_after(&first, &list("[]".to_owned(), named("coder", "mine")));
    assert_eq!(problems.iter().map(|p| p.file.as_str()).collect::<Vec<_>>(), ["agents/a/agent.json"]);
    let catalog = assembled(&second, &mut Vec::new());
    assert_eq!(description(&catalog, "a"), Some("one".to_owned()), "the last good one");
    assert_eq!(description(&catalog, "coder"), Some("mine".to_owned()), "over the built-in one");

    let (third, problems) = read_after(&second, &[]);
    assert_eq!(problems, []);
    assert_eq!(third, Entries::default(), "what was taken away is gone");
}

#[test]
fn what_does_not_fit_together_is_a_warning_and_is_left_out() {
    let mut value = with(agent(), "tools", json!(["bash", "nope", "slack.*", "slack.send"]));
    value["skills"] = json!(["summarizer", "none"]);
    value["model"] = json!("claude-opus");
    let mut made = tool();
    made["implementation"] = json!({"kind": "skill", "ref": "none"});
    let (entries, problems) = read_after(
        &Entries::default(),
        &[
            ("agents/a/agent.json", value.to_string()),
            ("agents/a/system-prompt.md", "p".to_owned()),
            ("tools/t.json", made.to_string()),
        ],
    );
    assert_eq!(problems, []);
    let mut problems = Vec::new();
    let catalog = assembled(&entries, &mut problems);
    let said: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(
        said,
        [
            "tools/t.json: /implementation/ref: there is no skill `none`; calls answer unavailable; write the name of a skill, or make that skill",
            "agents/a/agent.json: /model: `claude-opus` cannot be served by LLM_PROVIDER; gpt-main is used; name a model of that provider",
            "agents/a/agent.json: /tools/1: there is no tool `nope`; it is left out; correct the name",
            "agents/a/agent.json: /skills/1: there is no skill `none`; it is left out; correct the name",
        ]
    );
    assert!(problems.iter().all(|p| !p.is_error()));
    let agent = catalog.agent("a").expect("there").clone();
    assert_eq!(agent.tools, ["bash", "slack.*", "slack.send"]);
    assert_eq!(catalog.model_of("a"), "gpt-main");
    let allowed = |tool: &str| catalog.allows(&agent, tool);
    assert!(allowed("skill_summarizer") && !allowed("skill_fact_checker") && !allowed("grep"));
    let tool = catalog.tools().get("t").expect("listed");
    assert!(!tool.available() && tool.kind() == Kind::Skill);
}

#[test]
fn a_catalog_tool_tightens_and_describes_its_function_and_never_widens_it() {
    let mut file = json!({
        "name": "grep", "description": "Finds words in notes.",
        "input_schema": {"type": "object", "properties": {"pattern": {"maxLength": 5}}, "required": ["pattern"]},
        "implementation": {"kind": "platform", "ref": "grep"}, "effect": "idempotent", "high_cost": true
    });
    let (entries, problems) = read_after(&Entries::default(), &[("tools/grep.json", file.to_string())]);
    assert_eq!(problems, []);
    let catalog = assembled(&entries, &mut Vec::new());
    let tool = catalog.tools().get("grep").expect("there");
    assert_eq!(tool.description(), "Finds words in notes.");
    assert_eq!((tool.effect(&json!({"pattern": "x"})), tool.high_cost()), (Effect::Idempotent, true));
    assert_eq!(tool.function(), "grep");
    let complaints =
        |input: Value| futures::executor::block_on(catalog.tools().complaints("grep", &input)).len();
    assert_eq!(complaints(json!({"pattern": "abc"})), 0);
    assert_eq!(complaints(json!({"pattern": "too long"})), 1, "the file's own schema");
    assert_eq!(complaints(json!({"pattern": 7})), 1, "the function's schema");
    assert_eq!(complaints(json!({"pattern": "abc", "more": 1})), 1, "the function's schema");
    file["name"] = json!("search_notes");
    let (entries, _) = read_after(&Entries::default(), &[("tools/search_notes.json", file.to_string())]);
    let catalog = assembled(&entries, &mut Vec::new());
    assert!(catalog.tools().get("grep").is_some() && catalog.tools().get("search_notes").is_some());
}

#[test]
fn the_first_marked_agent_of_the_directory_is_the_default_and_more_are_a_warning() {
    let marked = |name: &str| with(with(agent(), "name", json!(name)), "default", json!(true)).to_string();
    let list = [
        ("agents/x/agent.json", marked("x")),
        ("agents/x/system-prompt.md", "p".to_owned()),
        ("agents/y/agent.json", marked("y")),
        ("agents/y/system-prompt.md", "p".to_owned()),
    ];
    assert_eq!(
        said(&list),
        [
            "warning: agents/y/agent.json: /default: is true for x as well, which comes first by name and counts; write false here, or there"
        ]
    );
    let (entries, _) = read_after(&Entries::default(), &list);
    assert_eq!(assembled(&entries, &mut Vec::new()).default_agent(), "x");
    assert_eq!(assembled(&Entries::default(), &mut Vec::new()).default_agent(), "assistant");
    let shown = assembled(&entries, &mut Vec::new()).agents_json();
    let defaults = shown["agents"].as_array().expect("a list").iter().filter(|a| a["default"] == true);
    assert_eq!(defaults.count(), 1);
}

#[test]
fn a_custom_skill_cannot_take_the_name_of_a_platform_skill() {
    let stored = |name: &str| brain::skills::Skill {
        name: name.to_owned(),
        description: "mine".to_owned(),
        category: String::new(),
        prompt_template: Some("p".to_owned()),
        scripts: vec!["b.sh".to_owned(), "main.py".to_owned()],
        capabilities: Vec::new(),
        confidence: 1.0,
        source: "user:api".to_owned(),
        trust: "user".to_owned(),
    };
    let custom: Vec<Arc<Skill>> =
        ["summarizer", "mine"].into_iter().map(|n| Arc::new(Skill::custom(&stored(n)))).collect();
    let models = Models { provider: Provider::Offline, has_base_url: false, configured: "m".to_owned() };
    let catalog =
        Catalog::assemble(1, &Entries::default(), &platform(), &custom, &models, None, &mut Vec::new());
    assert_eq!(catalog.skill("summarizer").map(|s| s.source()), Some("platform"));
    let mine = catalog.skill("mine").expect("there");
    assert_eq!((mine.source(), mine.entry.as_deref()), ("custom", Some("main.py")));
    assert_eq!(catalog.skills().count(), builtin::skills().len() + 1);
    assert_eq!(catalog.counts()["skills"], 3, "custom skills are not of the catalog");
}
