//! What an agent file may say, and the message for everything else.

use super::{agent, said, with};
use serde_json::{Value, json};

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
