//! The catalog of a running Engine: what a directory adds, what a reload changes, and what a turn keeps.

use crate::support::sse::Turn;
use crate::support::{Engine, Setup, put_file};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use testbed::{Gate, Reply, Script, ScriptedModel};

/// A catalog directory beside the brain.
pub fn catalog_of(setup: Setup) -> (Setup, PathBuf) {
    let dir = setup.path("catalog");
    std::fs::create_dir_all(&dir).expect("a directory");
    let setup = setup.with("CATALOG_DIR", &dir.display().to_string());
    (setup, dir)
}

/// Writes a file of a catalog.
pub fn put(dir: &Path, path: &str, text: &str) {
    let path = dir.join(path);
    put_file(
        path.parent().expect("a directory"),
        path.file_name().and_then(|n| n.to_str()).expect("a name"),
        text,
    );
}

/// Writes an agent of a catalog.
pub fn put_agent(dir: &Path, name: &str, tools: Value, prompt: &str) {
    let agent = json!({"name": name, "description": "of the test", "tools": tools, "system_prompt_path": "system-prompt.md"});
    put(dir, &format!("agents/{name}/agent.json"), &agent.to_string());
    put(dir, &format!("agents/{name}/system-prompt.md"), prompt);
}

async fn reload(engine: &Engine) -> Value {
    engine.post("/admin/reload-catalog", json!({})).await.ok().await
}

#[tokio::test]
async fn a_reload_counts_what_there_is_and_a_bad_file_keeps_its_last_good_version() {
    let (setup, dir) = catalog_of(Setup::offline());
    put_agent(&dir, "helper", json!(["bash"]), "You help.");
    let engine = setup.start().await;
    let before = reload(&engine).await;
    assert_eq!(before["errors"], json!([]));
    assert_eq!(
        (&before["status"], &before["agents"], &before["skills"], &before["servers"]),
        (&json!("reloaded"), &json!(6), &json!(3), &json!(0))
    );
    let mut fields: Vec<&String> = before.as_object().expect("an object").keys().collect();
    fields.sort();
    assert_eq!(fields, ["agents", "errors", "servers", "skills", "status", "tools"]);

    put(&dir, "agents/helper/agent.json", "{\"name\": \"helper\"}");
    put_agent(&dir, "second", json!([]), "You are the second.");
    engine.expect_log("The catalog has a bad entry");
    let after = reload(&engine).await;
    assert_eq!(after["agents"], 7, "the others are taken");
    let errors = after["errors"].as_array().expect("a list");
    assert!(errors.iter().all(|e| e["file"] == "agents/helper/agent.json"), "{after}");
    assert_eq!(
        errors[0],
        json!({"file": "agents/helper/agent.json", "message": "/description: is missing; add a string of 1..1000 characters"})
    );
    let agents = engine.json("/agents").await;
    let helper = agents["agents"]
        .as_array()
        .expect("a list")
        .iter()
        .find(|a| a["name"] == "helper")
        .expect("kept")
        .clone();
    assert_eq!((&helper["tools"][0], &helper["source"]), (&json!("bash"), &json!("catalog")));
    std::fs::remove_dir_all(dir.join("agents/helper")).expect("removed");
    assert_eq!(reload(&engine).await["agents"], 6);
    engine
        .post("/execute", json!({"task_id": "a", "message": "hi", "agent": "helper"}))
        .await
        .error(404, "AGENT_NOT_FOUND")
        .await;
}

#[tokio::test]
async fn a_tool_whose_schema_would_never_end_is_refused_by_name_at_reload() {
    let (setup, dir) = catalog_of(Setup::offline());
    let engine = setup.start().await;
    let file = json!({
        "name": "busy", "description": "Keeps busy.", "input_schema": crate::assets::doubling(),
        "implementation": {"kind": "platform", "ref": "grep"},
    });
    put(&dir, "tools/busy.json", &file.to_string());
    engine.expect_log("The catalog has a bad entry");
    let errors = reload(&engine).await["errors"].clone();
    assert_eq!(errors[0]["file"], "tools/busy.json", "{errors}");
    assert!(errors.to_string().contains("look at one place"), "{errors}");
}

#[tokio::test]
async fn a_running_turn_keeps_the_catalog_it_began_with() {
    let gate = Gate::new();
    let (held, first) =
        (gate.clone(), Reply::new().hold(&gate).tool_call("submit_note", json!({"text": "x"})));
    let model = ScriptedModel::start(Script::from_fn(move |r| {
        if r.messages.last().is_some_and(|m| !m.results.is_empty()) {
            Reply::text("Done.")
        } else {
            first.clone()
        }
    }))
    .await;
    let (setup, dir) = catalog_of(Setup::scripted(&model));
    let tool = json!({
        "name": "submit_note", "description": "Hand in a note.",
        "input_schema": {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
        "implementation": {"kind": "platform", "ref": "submit"}
    });
    put(&dir, "tools/submit_note.json", &tool.to_string());
    put_agent(&dir, "helper", json!(["submit_note"]), "You are the OLD helper.");
    let engine = setup.start().await;
    let stream = engine.execute(json!({"task_id": "a", "message": "go", "agent": "helper"})).await;
    held.reached().await;

    std::fs::remove_file(dir.join("tools/submit_note.json")).expect("removed");
    put_agent(&dir, "helper", json!([]), "You are the NEW helper.");
    assert_eq!(reload(&engine).await["errors"], json!([]));
    held.open();
    let turn = stream.finish().await;
    assert_eq!(turn.one("tool_result").data["output"], json!({"status": "received"}));
    let next = engine.run(json!({"task_id": "a", "message": "again", "agent": "helper"})).await;
    assert_eq!(next.one("tool_result").text("reason"), "not_found", "the next turn sees the new catalog");
    let systems: Vec<bool> = model.calls().iter().map(|c| c.system.contains("OLD")).collect();
    assert_eq!(systems, [true, true, false, false]);
    assert!(model.calls()[1].offered("submit_note").is_some());
    assert!(model.calls()[2].offered("submit_note").is_none());
    model.assert_no_problems();
}

#[tokio::test]
async fn a_catalog_tool_asks_when_it_says_so_and_the_agents_model_and_limit_are_used() {
    let model = crate::hitl::calls("submit_report", json!({"text": "x"})).await;
    let (setup, dir) = catalog_of(Setup::scripted(&model));
    let tool = json!({
        "name": "submit_report", "description": "Hand in a report.",
        "input_schema": {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
        "implementation": {"kind": "platform", "ref": "submit"}, "requires_permission": true
    });
    put(&dir, "tools/submit_report.json", &tool.to_string());
    let agent = json!({
        "name": "reporter", "description": "d", "tools": ["submit_report"], "model": "other-model",
        "max_tokens": 77, "system_prompt_path": "p.md", "default": true
    });
    put(&dir, "agents/reporter/agent.json", &agent.to_string());
    put(&dir, "agents/reporter/p.md", "You report.");
    let engine = setup.start().await;
    let mut stream = engine.execute(json!({"task_id": "a", "message": "go"})).await;
    let mut frames = stream.until_event("hitl_request").await;
    let asked = frames.last().expect("asked").data.clone();
    assert_eq!(
        (asked["options"].clone(), asked["rule"].clone()),
        (json!(["yes", "no"]), json!("tool:submit_report"))
    );
    engine.answer(json!({"task_id": "a", "answer": "yes"})).await;
    frames.extend(stream.rest().await);
    let turn = Turn::checked(frames, false);
    assert_eq!(turn.one("tool_result").data["output"]["status"], "received");
    let call = &model.calls()[0];
    assert_eq!((call.model.as_str(), &call.body["max_tokens"]), ("other-model", &json!(77)));
    let shown = engine.json("/tools").await;
    let tool = shown["tools"]
        .as_array()
        .expect("a list")
        .iter()
        .find(|t| t["name"] == "submit_report")
        .expect("listed")
        .clone();
    assert_eq!(
        (&tool["kind"], &tool["effect"], &tool["requires_permission"]),
        (&json!("platform"), &json!("read-only"), &json!(true))
    );
}

#[tokio::test]
async fn the_souls_template_is_written_into_the_brain_and_follows_the_catalog() {
    let (setup, dir) = catalog_of(Setup::offline());
    put(&dir, "core_soul.json", &json!({"identity": "One."}).to_string());
    let engine = setup.start().await;
    let identity = |brain: &Path| -> String {
        let plain = rusqlite::Connection::open(brain).expect("a brain");
        plain.query_row("SELECT identity FROM soul", [], |r| r.get(0)).expect("a soul")
    };
    assert_eq!(identity(&setup.brain()), "One.");
    put(&dir, "core_soul.json", &json!({"identity": "Two."}).to_string());
    reload(&engine).await;
    assert_eq!(identity(&setup.brain()), "Two.");
}

#[tokio::test]
async fn doctor_and_check_config_tell_every_problem_of_the_catalog_at_once() {
    let (setup, dir) = catalog_of(Setup::offline());
    put(&dir, "agents/a/agent.json", "{}");
    put(&dir, "tools/t.json", "[");
    let output = setup.command(&["check-config"]).output().expect("runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(2), "whoever asks is told by the exit code, too: {text}");
    for wanted in [
        "agents/a/agent.json: /name: is missing",
        "agents/a/agent.json: /tools: is missing",
        "tools/t.json: is not JSON",
        "catalog: 5 error(s), 0 warning(s)",
    ] {
        assert!(text.contains(wanted), "{wanted} is not in {text}");
    }
    let json = setup.command(&["check-config", "--json"]).output().expect("runs");
    let report: Value = serde_json::from_slice(&json.stdout).expect("JSON");
    assert_eq!(report["catalog"]["errors"].as_array().map(Vec::len), Some(5), "{report}");
    let doctor = setup.command(&["doctor", "--offline", "--json"]).output().expect("runs");
    let report: Value = serde_json::from_slice(&doctor.stdout).expect("JSON");
    let found = report["checks"].as_array().expect("a list").iter().filter(|c| c["subject"] == "catalog");
    assert_eq!(found.filter(|c| c["state"] == "error").count(), 5, "{report}");
}
