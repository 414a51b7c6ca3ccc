//! POST /rpc: skills and tools outside a turn, with the same rules.

use crate::catalog::{catalog_of, put};
use crate::support::Setup;
use serde_json::json;
use testbed::{Reply, Script, ScriptedModel};

#[tokio::test]
async fn a_tool_is_called_with_its_schema_and_its_rules() {
    let setup = Setup::offline();
    let engine = setup.start().await;
    let rpc =
        async |method: &str, params| engine.post("/rpc", json!({"method": method, "params": params})).await;
    let done = rpc("tool.bash", json!({"command": "echo hi > a.txt; cat a.txt"})).await.ok().await;
    assert_eq!(done["result"]["output"]["stdout"], "hi\n");
    assert!(setup.workspace().join("a.txt").exists());
    let read = rpc("tool.read_file", json!({"path": "a.txt"})).await.ok().await;
    assert_eq!(read["result"]["output"]["content"], "hi\n");
    let failed = rpc("tool.read_file", json!({"path": "none.txt"})).await.ok().await;
    assert_eq!(
        (&failed["result"]["reason"], &failed["result"]["output"]),
        (&json!("not_found"), &json!(null))
    );
    assert!(failed["result"]["error"].is_string());

    let wrong = rpc("tool.bash", json!({"cmd": "ls"})).await.error(422, "VALIDATION_ERROR").await;
    assert_eq!(wrong["details"]["field"], "params");
    let outside = tempfile::tempdir().expect("a directory");
    std::fs::write(outside.path().join("keep"), "x").expect("written");
    let command = format!("rm -rf {}", outside.path().display());
    let gated = rpc("tool.bash", json!({"command": command})).await.error(403, "PERMISSION_DENIED").await;
    assert!(gated["details"]["rule"].as_str().is_some_and(|r| r.starts_with("bash:rm -rf")), "{gated}");
    assert!(outside.path().join("keep").exists(), "it ran");
    for method in [
        "tool.ask_user",
        "tool.working_memory_write",
        "tool.plan",
        "tool.delegate",
        "tool.none",
        "other",
        "skill",
    ] {
        rpc(method, json!({"question": "?"})).await.error(404, "NOT_FOUND").await;
    }
    rpc("skill.none", json!({})).await.error(404, "SKILL_NOT_FOUND").await;
    for body in
        [json!({"params": {}}), json!({"method": "tool.bash"}), json!({"method": "tool.bash", "params": [1]})]
    {
        engine.post("/rpc", body).await.error(400, "INVALID_REQUEST").await;
    }
    let left: Vec<_> = std::fs::read_dir(setup.path("scratch-brain.sqlite"))
        .expect("a scratch")
        .flatten()
        .map(|e| e.file_name())
        .collect();
    assert!(left.iter().all(|n| !n.to_string_lossy().starts_with("rpc-")), "{left:?}");
}

#[tokio::test]
async fn a_skill_answers_with_text_or_with_what_its_script_did() {
    let model = ScriptedModel::start(Script::from_fn(|r| {
        if r.system.contains("boom") { Reply::status(500) } else { Reply::text("short") }
    }))
    .await;
    let (setup, dir) = catalog_of(Setup::scripted(&model));
    let script = json!({"name": "echo", "description": "d", "scripts": ["echo.sh"]});
    put(&dir, "skills/echo/skill.json", &script.to_string());
    put(&dir, "skills/echo/scripts/echo.sh", "cat; echo; echo oops >&2; exit 4\n");
    let engine = setup.start().await;
    let rpc =
        async |method: &str, params| engine.post("/rpc", json!({"method": method, "params": params})).await;
    let text = rpc("skill.summarizer", json!({"text": "a long text"})).await.ok().await;
    assert_eq!(text, json!({"result": {"text": "short"}}));
    assert!(model.calls()[0].system.contains("a long text"));
    let ran = rpc("skill.echo", json!({"a": [1]})).await.ok().await;
    assert_eq!(ran, json!({"result": {"stdout": "{\"a\":[1]}\n", "stderr": "oops\n", "exit_code": 4}}));
    rpc("skill.summarizer", json!({"text": "boom"})).await.error(502, "LLM_PROVIDER_ERROR").await;
    let usage = engine.json("/usage?group_by=purpose").await;
    assert_eq!((&usage["groups"][0]["key"], &usage["groups"][0]["calls"]), (&json!("skill"), &json!(1)));
}
