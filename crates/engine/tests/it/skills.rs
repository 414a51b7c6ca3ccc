//! Skills: what people may make, and what happens when a model calls one.

use crate::catalog::{catalog_of, put};
use crate::support::http::Ask;
use crate::support::{Engine, Setup};
use serde_json::{Value, json};
use testbed::{Reply, Script, ScriptedModel};

async fn names(engine: &Engine) -> Vec<String> {
    let list = engine.json("/skills").await;
    let list = list.as_array().expect("a bare array").iter();
    list.map(|s| s["name"].as_str().expect("a name").to_owned()).collect()
}

async fn put_skill(engine: &Engine, name: &str, body: Value) -> crate::support::http::Answer {
    engine.send(Ask::new("PUT", &format!("/skills/{name}")).body(body.to_string())).await
}

#[tokio::test]
async fn a_skill_is_made_shown_changed_and_deleted() {
    let setup = Setup::offline();
    let engine = setup.start().await;
    assert_eq!(names(&engine).await, ["code-reviewer", "fact-checker", "summarizer"]);
    let made = engine
        .post("/skills/create", json!({"name": "shout", "prompt": "Shout: {{text}}", "description": "Loud", "capabilities": ["noise"]}))
        .await
        .ok()
        .await;
    let expected = json!({
        "name": "shout", "description": "Loud", "category": "", "prompt_template": "Shout: {{text}}",
        "scripts": {}, "capabilities": ["noise"], "source": "custom"
    });
    assert_eq!(made, expected);
    assert_eq!(engine.json("/skills/shout").await, expected);
    let line = engine.json("/skills").await[2].clone();
    assert_eq!(
        line,
        json!({"name": "shout", "description": "Loud", "source": "custom", "category": "", "confidence": 1.0})
    );
    let tools = engine.json("/tools").await;
    assert!(
        tools["tools"]
            .as_array()
            .expect("a list")
            .iter()
            .any(|t| t["name"] == "skill_shout" && t["kind"] == "skill")
    );

    let changed =
        put_skill(&engine, "shout", json!({"prompt_template": "LOUD {{text}}", "category": "light"}))
            .await
            .ok()
            .await;
    assert_eq!(
        (&changed["prompt_template"], &changed["description"]),
        (&json!("LOUD {{text}}"), &json!("Loud"))
    );
    engine.kill();

    let engine = setup.start().await;
    assert_eq!(engine.json("/skills/shout").await, changed, "it survives kill -9");
    let deleted = engine.send(Ask::delete("/skills/shout")).await.ok().await;
    assert_eq!(deleted, json!({"status": "deleted", "name": "shout"}));
    engine.send(Ask::delete("/skills/shout")).await.error(404, "SKILL_NOT_FOUND").await;
    assert_eq!(names(&engine).await.len(), 3);
}

#[tokio::test]
async fn what_is_no_skill_is_refused_with_the_field_that_is_wrong() {
    let engine = Setup::offline().start().await;
    let many: serde_json::Map<String, Value> = (0..21).map(|n| (format!("s{n}.py"), json!(""))).collect();
    let table = [
        (json!({"prompt": "x"}), 400, "name"),
        (json!({"name": "Not Good", "prompt": "x"}), 400, "name"),
        (json!({"name": "x".repeat(65), "prompt": "x"}), 400, "name"),
        (json!({"name": "a"}), 422, "prompt"),
        (json!({"name": "a", "prompt": ""}), 422, "prompt"),
        (json!({"name": "a", "prompt": "x".repeat(65_537)}), 400, "prompt"),
        (json!({"name": "a", "prompt": "ä".repeat(40_000)}), 400, "prompt"),
        (json!({"name": "a", "prompt": "x", "scripts": ["main.py"]}), 400, "scripts"),
        (json!({"name": "a", "prompt": "x", "scripts": {"../x": ""}}), 400, "scripts"),
        (json!({"name": "a", "prompt": "x", "scripts": {"..": ""}}), 400, "scripts"),
        (json!({"name": "a", "scripts": {"a.py": 1}}), 400, "scripts.a.py"),
        (json!({"name": "a", "scripts": {"a.py": "x".repeat(262_145)}}), 400, "scripts.a.py"),
        (json!({"name": "a", "scripts": many}), 400, "scripts"),
        (json!({"name": "a", "prompt": "x", "capabilities": "all"}), 400, "capabilities"),
    ];
    for (body, status, field) in table {
        let code = if status == 400 { "INVALID_REQUEST" } else { "VALIDATION_ERROR" };
        let error = engine.post("/skills/create", body).await.error(status, code).await;
        assert_eq!(error["details"]["field"], field, "{error}");
    }
    let good = json!({"name": "a", "prompt": "x"});
    engine.post("/skills/create", good.clone()).await.ok().await;
    for name in ["a", "summarizer"] {
        let body = json!({"name": name, "prompt": "x"});
        let error = engine.post("/skills/create", body).await.error(409, "CONFLICT").await;
        assert_eq!(error["details"]["reason"], "already_exists");
    }
    put_skill(&engine, "summarizer", good.clone()).await.error(403, "PERMISSION_DENIED").await;
    engine.send(Ask::delete("/skills/summarizer")).await.error(403, "PERMISSION_DENIED").await;
    put_skill(&engine, "nothing", good).await.error(404, "SKILL_NOT_FOUND").await;
    put_skill(&engine, "a", json!({"prompt": ""})).await.error(422, "VALIDATION_ERROR").await;
    engine.get("/skills/nothing").await.error(404, "SKILL_NOT_FOUND").await;
    assert_eq!(engine.json("/skills/a").await["prompt_template"], "x", "nothing was changed");
}

#[tokio::test]
async fn a_prompt_skill_is_one_call_with_the_filled_template_and_its_cost_is_told() {
    let model = ScriptedModel::start(Script::from_fn(|r| {
        if r.system.starts_with("Say it backwards") {
            Reply::text("olleh").usage(30, 3, 0)
        } else if r.messages.last().is_some_and(|m| !m.results.is_empty()) {
            Reply::text("Done.")
        } else {
            Reply::new().tool_call("skill_backwards", json!({"text": "hello", "n": 2}))
        }
    }))
    .await;
    let (setup, dir) = catalog_of(Setup::scripted(&model).with("LIGHT_MODEL", "small-1"));
    let skill = json!({"name": "backwards", "description": "d", "category": "light", "prompt": "Say it backwards: {{text}} ({{n}}{{none}})"});
    put(&dir, "skills/backwards/skill.json", &skill.to_string());
    let engine = setup.start().await;
    let turn = engine.turn("a", "go").await;
    assert_eq!(turn.one("tool_result").data["output"], json!({"text": "olleh"}));
    let inner = &model.calls()[1];
    assert!(inner.system.contains("Say it backwards: hello (2)"), "{}", inner.system);
    assert_eq!((inner.model.as_str(), inner.tools.len()), ("small-1", 0));
    let call = turn.one("tool_call").text("tool_call_id").to_owned();
    let usage: Vec<_> = turn.all("usage").into_iter().filter(|f| f.data["purpose"] == "skill").collect();
    assert_eq!(usage.len(), 1);
    let told = &usage[0].data;
    assert_eq!(
        (&told["input_tokens"], &told["parent_tool_call_id"], &told["agent"]),
        (&json!(30), &json!(call), &json!("assistant"))
    );
    model.assert_no_problems();
}

#[tokio::test]
async fn a_script_skill_runs_in_the_sandbox_with_its_parameters_on_stdin() {
    let model = crate::hitl::calls("skill_count", json!({"text": "a b c"})).await;
    let engine = Setup::scripted(&model).start().await;
    let script = "cat > \"$TMPDIR/seen.json\"; . \"$(dirname \"$0\")/lib.sh\"; answer; cat \"$TMPDIR/seen.json\"; ls /etc/shadow 2>/dev/null; exit 3";
    let body = json!({"name": "count", "scripts": {"main.sh": script, "lib.sh": "answer() { echo lib; }"}});
    engine.post("/skills/create", body).await.ok().await;
    let turn = engine.turn("a", "go").await;
    let output = &turn.one("tool_result").data["output"];
    assert_eq!(*output, json!({"stdout": "lib\n{\"text\":\"a b c\"}", "stderr": "", "exit_code": 3}));
    model.assert_no_problems();
}

#[tokio::test]
async fn an_agent_is_offered_only_the_skills_it_names() {
    let model = ScriptedModel::start(Script::always(Reply::text("Hi."))).await;
    let engine = Setup::scripted(&model).start().await;
    for (agent, offered) in
        [("writer", vec!["skill_summarizer"]), ("researcher", vec![]), ("coder", vec!["skill_code_reviewer"])]
    {
        engine.run(json!({"task_id": agent, "message": "hi", "agent": agent})).await;
        let calls = model.calls();
        let seen: Vec<&String> =
            calls.last().expect("a call").tools.iter().filter(|t| t.starts_with("skill_")).collect();
        assert_eq!(seen, offered, "{agent}");
    }
}
