//! Every rule of the catalog has one file here that breaks it, and the message that says so.

use super::entries::{Entries, read};
use super::files::InMemory;
use super::problem::Problem;
use super::snapshot::{Catalog, Models};
use super::{builtin, skill};
use crate::config::Provider;
use crate::tools::registry::Registry;
use crate::tools::tool::{Effect, Kind};
use crate::tools::{own, search, shell};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

fn platform() -> Registry {
    let mut tools = Registry::default();
    tools.add(Arc::new(shell::Bash::new(Duration::from_secs(5)))).expect("a good tool");
    tools.add(Arc::new(search::Grep::new())).expect("a good tool");
    for tool in own::OwnTool::all() {
        tools.add(Arc::new(tool)).expect("a good tool");
    }
    tools
}

fn files(list: &[(&str, String)]) -> InMemory {
    InMemory(list.iter().map(|(path, text)| ((*path).to_owned(), text.clone().into_bytes())).collect())
}

fn read_after(before: &Entries, list: &[(&str, String)]) -> (Entries, Vec<Problem>) {
    let mut problems = Vec::new();
    let entries = read(&files(list), None, &platform(), before, &mut problems);
    (entries, problems)
}

fn said(list: &[(&str, String)]) -> Vec<String> {
    let (_, problems) = read_after(&Entries::default(), list);
    problems.iter().map(|p| format!("{}{p}", if p.is_error() { "" } else { "warning: " })).collect()
}

fn assembled(entries: &Entries, problems: &mut Vec<Problem>) -> Catalog {
    let models =
        Models { provider: Provider::Openai, has_base_url: false, configured: "gpt-main".to_owned() };
    Catalog::assemble(1, entries, &platform(), &[], &models, None, problems)
}

/// The value with one key changed; `null` takes it away.
fn with(mut value: Value, key: &str, changed: Value) -> Value {
    match changed {
        Value::Null => drop(value.as_object_mut().expect("an object").remove(key)),
        changed => value[key] = changed,
    }
    value
}

fn agent() -> Value {
    json!({"name": "a", "description": "d", "tools": ["bash"], "system_prompt_path": "system-prompt.md"})
}

fn tool() -> Value {
    json!({
        "name": "t", "description": "d",
        "input_schema": {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
        "implementation": {"kind": "platform", "ref": "submit"}
    })
}

fn skill_json() -> Value {
    json!({"name": "s", "description": "d", "prompt": "{{text}}"})
}

#[test]
fn every_rule_of_an_agent_has_its_message() {
    let file = "agents/a/agent.json";
    let table: Vec<(Value, &str)> = vec![
        (with(agent(), "name", json!(null)), "/name: is missing; add a string of 1..64 characters"),
        (
            with(agent(), "name", json!("A b")),
            "/name: `A b` is no name; use small letters and digits, with single dashes between words",
        ),
        (
            with(agent(), "name", json!("b")),
            "/name: `b` is not the name of its folder; write `a`, or rename the folder",
        ),
        (
            with(agent(), "description", json!(null)),
            "/description: is missing; add a string of 1..1000 characters",
        ),
        (
            with(agent(), "description", json!("")),
            "/description: expected a string of 1..1000 characters, got \"\"; write a string of 1..1000 characters",
        ),
        (
            with(agent(), "description", json!("x".repeat(1001))),
            "/description: expected a string of 1..1000 characters, got a string of 1001 characters; write a string of 1..1000 characters",
        ),
        (
            with(agent(), "model", json!(7)),
            "/model: expected a string of 1..200 characters, got 7; write a string of 1..200 characters",
        ),
        (with(agent(), "tools", json!(null)), "/tools: is missing; add a list of tool names; [] is no tools"),
        (
            with(agent(), "tools", json!("bash")),
            "/tools: expected an array of at most 1000 strings, got \"bash\"; write an array of at most 1000 strings",
        ),
        (
            with(agent(), "tools", json!(["bash", {}])),
            "/tools/1: expected a string of 1..100 characters, got an object; write a string of 1..100 characters",
        ),
        (
            with(agent(), "tools", json!(["Bash"])),
            "/tools/0: `Bash` is no tool name; write a tool name, `*`, or `<server>.*`",
        ),
        (
            with(agent(), "skills", json!(["a_b"])),
            "/skills/0: `a_b` is no skill name; write the name of a skill, or `*`",
        ),
        (
            with(agent(), "system_prompt_path", json!(null)),
            "/system_prompt_path: is missing; add a string of 1..200 characters",
        ),
        (
            with(agent(), "system_prompt_path", json!("../b/x.md")),
            "/system_prompt_path: `../b/x.md` does not stay inside the folder; write the name of a file beside this one",
        ),
        (
            with(agent(), "system_prompt_path", json!("other.md")),
            "/system_prompt_path: `other.md` is missing; put a UTF-8 text of at most 262144 bytes there",
        ),
        (
            with(agent(), "default", json!("yes")),
            "/default: expected true or false, got \"yes\"; write true or false",
        ),
        (
            with(agent(), "max_tokens", json!(0)),
            "/max_tokens: expected a whole number 1..1000000, got 0; write a whole number 1..1000000",
        ),
    ];
    let prompt = ("agents/a/system-prompt.md", "You are a.".to_owned());
    for (value, expected) in table {
        assert_eq!(said(&[(file, value.to_string()), prompt.clone()]), [format!("{file}: {expected}")]);
    }
    assert_eq!(said(&[(file, agent().to_string()), prompt.clone()]), [""; 0]);
    let large = ("agents/a/system-prompt.md", "x".repeat(262_145));
    let expected = "/system_prompt_path: `system-prompt.md` is larger than 262144 bytes; put a UTF-8 text of at most 262144 bytes there";
    assert_eq!(said(&[(file, agent().to_string()), large]), [format!("{file}: {expected}")]);
    let extra = with(agent(), "skill", json!([]));
    let expected = "/skill: is no key of this format and has no effect; did you mean `skills`?";
    assert_eq!(said(&[(file, extra.to_string()), prompt]), [format!("warning: {file}: {expected}")]);
    let missing = "agents/a/agent.json: is missing; add the file, or remove the folder";
    assert_eq!(said(&[("agents/a/system-prompt.md", String::new())]), [missing]);
}

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
            "/input_schema: `$ref` must point inside the schema (`#/…`); write a self-contained JSON Schema 2020-12",
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
            "/implementation/ref: there is no function `nothing`; write one of ask_user, bash, grep, working_memory_write, submit",
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

#[test]
fn every_rule_of_a_skill_has_its_message() {
    let file = "skills/s/skill.json";
    let script = ("skills/s/scripts/main.py", "print(1)".to_owned());
    let scripts = |list: Value| with(skill_json(), "scripts", list);
    let many: Vec<String> = (0..21).map(|n| format!("s{n}.py")).collect();
    let table: Vec<(Value, &str)> = vec![
        (
            with(skill_json(), "name", json!("t")),
            "/name: `t` is not the name of its folder; write `s`, or rename the folder",
        ),
        (
            with(skill_json(), "description", json!(null)),
            "/description: is missing; add a string of 1..1000 characters",
        ),
        (
            with(skill_json(), "prompt", json!(null)),
            "/prompt_path: is missing, and there are no scripts; add prompt_path, prompt, or scripts",
        ),
        (
            with(with(skill_json(), "prompt_path", json!("nothing.md")), "prompt", json!(null)),
            "/prompt_path: `nothing.md` is missing; put a UTF-8 text of at most 65536 bytes there",
        ),
        (
            with(skill_json(), "prompt", json!("ä".repeat(40_000))),
            "/prompt: is larger than 65536 bytes; make it smaller",
        ),
        (
            with(skill_json(), "category", json!("x".repeat(65))),
            "/category: expected a string of 0..64 characters, got a string of 65 characters; write a string of 0..64 characters",
        ),
        (
            scripts(json!(many)),
            "/scripts: expected an array of at most 20 strings, got an array of 21; write an array of at most 20 strings",
        ),
        (
            scripts(json!(["a/b.py"])),
            "/scripts/0: `a/b.py` is no file name; use letters, digits, `.`, `_` and `-`",
        ),
        (scripts(json!([".."])), "/scripts/0: `..` is no file name; use letters, digits, `.`, `_` and `-`"),
        (scripts(json!(["main.py", "main.py"])), "/scripts/1: `main.py` is listed twice; list it once"),
        (
            scripts(json!(["other.py"])),
            "/scripts/0: scripts/other.py is missing; put a UTF-8 text of at most 262144 bytes there",
        ),
        (
            with(scripts(json!(["main.py"])), "entry", json!("x.py")),
            "/entry: `x.py` is not one of the scripts; name one of `scripts`",
        ),
        (
            with(skill_json(), "confidence", json!(1.5)),
            "/confidence: expected a number 0..1, got 1.5; write a number 0..1",
        ),
        (
            with(skill_json(), "timeout_s", json!(0)),
            "/timeout_s: expected a whole number 1..3600, got 0; write a whole number 1..3600",
        ),
    ];
    for (value, expected) in table {
        assert_eq!(said(&[(file, value.to_string()), script.clone()]), [format!("{file}: {expected}")]);
    }
    let both = with(skill_json(), "prompt_path", json!("prompt.md"));
    let prompt = ("skills/s/prompt.md", "p".to_owned());
    assert_eq!(
        said(&[(file, both.to_string()), prompt]),
        ["skills/s/skill.json: /prompt: stands beside prompt_path; keep one of the two"]
    );
    assert_eq!(
        said(&[("skills/Big Skill/skill.json", skill_json().to_string())]),
        [
            "warning: skills/Big Skill: is not read; name the folder with small letters and digits, with single dashes between words"
        ]
    );
    let (entries, problems) =
        read_after(&Entries::default(), &[(file, scripts(json!(["main.py"])).to_string()), script]);
    assert_eq!(problems, []);
    let skill = &entries.skills["s"];
    assert_eq!(
        (skill.entry.as_deref(), skill.confidence, skill.timeout),
        (Some("main.py"), 1.0, skill::TIMEOUT)
    );
}

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
        super::hooks::read("hooks.json", value.to_string().as_bytes(), &mut problems);
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
    let complaints = |input: Value| catalog.tools().complaints("grep", &input).len();
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
    let custom: Vec<Arc<super::Skill>> =
        ["summarizer", "mine"].into_iter().map(|n| Arc::new(super::Skill::custom(&stored(n)))).collect();
    let models = Models { provider: Provider::Offline, has_base_url: false, configured: "m".to_owned() };
    let catalog =
        Catalog::assemble(1, &Entries::default(), &platform(), &custom, &models, None, &mut Vec::new());
    assert_eq!(catalog.skill("summarizer").map(|s| s.source()), Some("platform"));
    let mine = catalog.skill("mine").expect("there");
    assert_eq!((mine.source(), mine.entry.as_deref()), ("custom", Some("main.py")));
    assert_eq!(catalog.skills().count(), builtin::skills().len() + 1);
    assert_eq!(catalog.counts()["skills"], 3, "custom skills are not of the catalog");
}

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
    super::hooks::read("hooks.json", &bytes, &mut problems);
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
