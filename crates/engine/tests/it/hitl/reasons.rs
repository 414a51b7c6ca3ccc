//! One call, several reasons to ask: one question that names them all, and what `always` means then.

use super::{answering, calls, each};
use crate::catalog::{catalog_of, put};
use crate::support::{Engine, Setup, put_file};
use serde_json::{Value, json};
use testbed::ScriptedModel;

/// An Engine whose `bash` is declared expensive, and a model that removes a directory outside with it.
async fn expensive(outside: &std::path::Path) -> (ScriptedModel, Setup, Engine) {
    let victim = outside.join("old").display().to_string();
    let model = calls("bash", json!({"command": format!("rm -rf {victim}")})).await;
    let (setup, dir) = catalog_of(Setup::scripted(&model));
    let tool = json!({
        "name": "bash", "description": "Runs an expensive command.", "high_cost": true,
        "input_schema": {"type": "object", "additionalProperties": false, "required": ["command"],
            "properties": {"command": {"type": "string", "description": "The command."}}},
        "implementation": {"kind": "platform", "ref": "bash"}
    });
    put(&dir, "tools/bash.json", &tool.to_string());
    let engine = setup.start().await;
    (model, setup, engine)
}

#[tokio::test]
async fn an_expensive_call_that_asks_for_itself_asks_once_and_always_lets_it_run() {
    let outside = tempfile::tempdir().expect("a directory");
    let (model, _setup, engine) = expensive(outside.path()).await;
    for (round, answers) in [vec!["always"], vec![]].into_iter().enumerate() {
        put_file(&outside.path().join("old"), "file", "x");
        let turn = answering(&engine, "a", &answers).await;
        assert_eq!(turn.count("hitl_request"), answers.len(), "round {round}");
        assert_eq!(each(&turn, "tool_result", "reason"), [Value::Null], "{}", turn.raw());
        assert!(!outside.path().join("old").exists(), "round {round}: it ran");
        if round == 0 {
            let asked = &turn.one("hitl_request").data;
            let reason = asked["reason"].as_str().unwrap_or_default();
            assert!(reason.contains("outside ALLOWED_ROOTS") && reason.contains("expensive"), "{asked}");
        }
    }
    model.assert_no_problems();
}

#[tokio::test]
async fn a_pending_question_shows_what_would_be_changed_and_the_stream_only_its_own_fields() {
    let outside = tempfile::tempdir().expect("a directory");
    put_file(&outside.path().join("old"), "file", "x");
    let (_model, _setup, engine) = expensive(outside.path()).await;
    let mut stream = engine.execute(json!({"task_id": "a", "message": "go"})).await;
    let frames = stream.until_event("hitl_request").await;
    let told = &frames.last().expect("a question").data;
    assert!(told.get("touches").is_none() && told.get("diff").is_none(), "{told}");
    let pending = engine.pending().await;
    let touched = pending["touches"].as_array().expect("touches");
    let victim = outside.path().canonicalize().expect("is there").join("old").display().to_string();
    assert!(touched.iter().any(|touch| touch["path"] == json!(victim)), "{pending}");
    engine.answer(json!({"task_id": "a", "answer": "no"})).await;
    let _ = stream.rest().await;
}
