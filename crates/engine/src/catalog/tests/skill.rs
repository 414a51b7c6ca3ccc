//! What a skill file may say, and the message for everything else.

use super::{read_after, said, skill_json, with};
use crate::catalog::entries::Entries;
use crate::catalog::skill;
use serde_json::{Value, json};

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
