//! Hooks: the operator's programs before and after calls, and before a turn ends.

use crate::catalog::{catalog_of, put};
use crate::support::sse::Turn;
use crate::support::{Engine, Setup};
use serde_json::{Value, json};
use std::path::Path;
use testbed::{Reply, Script, ScriptedModel};

/// A catalog with these hooks: event, match, shell script.
fn hooked(setup: Setup, hooks: &[(&str, &str, &str)]) -> Setup {
    let (setup, dir) = catalog_of(setup);
    put_hooks(&dir, hooks);
    setup
}

fn put_hooks(dir: &Path, hooks: &[(&str, &str, &str)]) {
    let list = hooks.iter().enumerate().map(|(n, (event, pattern, script))| {
        put(dir, &format!("hooks/{n}.sh"), script);
        let script = dir.join(format!("hooks/{n}.sh")).display().to_string();
        json!({"event": event, "match": pattern, "command": ["/bin/sh", script], "timeout_s": 5})
    });
    let list: Value = list.collect();
    put(dir, "hooks.json", &json!({"hooks": list}).to_string());
}

async fn runs(command: &str) -> ScriptedModel {
    let command = command.to_owned();
    ScriptedModel::start(Script::from_fn(move |r| {
        let answered = r.messages.last().is_some_and(|m| !m.results.is_empty());
        if answered {
            Reply::text("Done.")
        } else {
            Reply::new().tool_call("bash", json!({"command": command}))
        }
    }))
    .await
}

fn calls_of(setup: &Setup) -> Value {
    let seen = std::fs::read_to_string(setup.workspace().join("seen.json")).expect("the hook wrote");
    serde_json::from_str(&seen).expect("one JSON object")
}

#[tokio::test]
async fn a_hook_before_a_call_sees_it_and_can_deny_or_change_it() {
    let model = runs("echo one > out.txt").await;
    let deny = "cat > seen.json; echo '{\"decision\":\"deny\",\"reason\":\"not today\"}'";
    let setup = hooked(Setup::scripted(&model), &[("pre_tool", "bash", deny)]);
    let engine = setup.start().await;
    let turn = engine.turn("a", "go").await;
    let result = turn.one("tool_result");
    assert_eq!(result.text("reason"), "permission_denied");
    assert!(result.text("error").contains("not today"), "{}", result.raw);
    assert!(!setup.workspace().join("out.txt").exists(), "it ran");
    let seen = calls_of(&setup);
    let call = json!({"event": "pre_tool", "task_id": "a", "turn_id": turn.turn_id(), "agent": "assistant", "tool": "bash", "input": {"command": "echo one > out.txt"}});
    assert_eq!(seen, call);

    let change = "echo '{\"decision\":\"allow\",\"input\":{\"command\":\"echo two > out.txt\"}}'";
    put_hooks(&setup.path("catalog"), &[("pre_tool", "b*", change)]);
    engine.post("/admin/reload-catalog", json!({})).await.ok().await;
    engine.turn("b", "go").await;
    assert_eq!(std::fs::read_to_string(setup.workspace().join("out.txt")).expect("it ran"), "two\n");
    let rpc = json!({"method": "tool.bash", "params": {"command": "echo three > out.txt"}});
    engine.post("/rpc", rpc).await.ok().await;
    assert_eq!(
        std::fs::read_to_string(setup.workspace().join("out.txt")).expect("it ran"),
        "two\n",
        "rpc has no way around"
    );
}

#[tokio::test]
async fn a_hook_before_a_call_that_fails_in_any_way_denies_it() {
    let model = runs("echo one > out.txt").await;
    let setup = hooked(Setup::scripted(&model), &[]);
    let engine = setup.start().await;
    engine.expect_log("A pre-tool hook failed");
    for (task, script) in [
        ("exit", "exit 1"),
        ("silent", "true"),
        ("text", "echo fine"),
        ("word", "echo '{\"decision\":\"maybe\"}'"),
        ("twice", "echo '{\"decision\":\"deny\",\"decision\":\"allow\"}'"),
        ("input", "echo '{\"decision\":\"allow\",\"input\":{\"cmd\":1}}'"),
    ] {
        put_hooks(&setup.path("catalog"), &[("pre_tool", "*", script)]);
        engine.post("/admin/reload-catalog", json!({})).await.ok().await;
        let turn = engine.turn(task, "go").await;
        let reason = turn.one("tool_result").text("reason").to_owned();
        let expected = if task == "input" { "invalid_input" } else { "permission_denied" };
        assert_eq!(reason, expected, "{task}");
    }
    assert!(!setup.workspace().join("out.txt").exists(), "it ran");
}

#[tokio::test]
async fn a_hook_that_asks_is_asked_once_and_a_yes_lets_the_changed_call_run() {
    let model = runs("echo one > out.txt").await;
    let ask = "echo x >> count; echo '{\"decision\":\"ask\",\"reason\":\"careful\",\"input\":{\"command\":\"echo asked > out.txt\"}}'";
    let setup = hooked(Setup::scripted(&model), &[("pre_tool", "bash", ask)]);
    let engine = setup.start().await;
    let mut stream = engine.execute(json!({"task_id": "a", "message": "go"})).await;
    let mut frames = stream.until_event("hitl_request").await;
    let asked = frames.last().expect("asked").data.clone();
    assert_eq!((&asked["rule"], &asked["options"]), (&json!("tool:bash"), &json!(["yes", "no"])));
    assert_eq!(asked["input"]["command"], "echo asked > out.txt", "the person sees what would run");
    assert!(asked["reason"].as_str().is_some_and(|r| r.contains("careful")));
    engine.answer(json!({"task_id": "a", "answer": "yes"})).await;
    frames.extend(stream.rest().await);
    assert_eq!(Turn::checked(frames, false).one("tool_result").data["output"]["exit_code"], 0);
    assert_eq!(std::fs::read_to_string(setup.workspace().join("out.txt")).expect("it ran"), "asked\n");
    assert_eq!(
        std::fs::read_to_string(setup.workspace().join("count")).expect("counted"),
        "x\n",
        "asked once"
    );
    let rpc = json!({"method": "tool.bash", "params": {"command": "ls"}});
    let gated = engine.post("/rpc", rpc).await.error(403, "PERMISSION_DENIED").await;
    assert_eq!(gated["details"]["rule"], "tool:bash");
}

#[tokio::test]
async fn a_hook_after_a_call_adds_to_its_result_and_its_failure_is_only_logged() {
    let model = runs("echo hi").await;
    let add = "cat > seen.json; echo '{\"append\":\"mind the gap\"}'";
    let setup = hooked(Setup::scripted(&model), &[("post_tool", "*", add), ("post_tool", "bash", "exit 9")]);
    let engine = setup.start().await;
    engine.expect_log("A post-tool hook failed");
    let turn = engine.turn("a", "go").await;
    let result = turn.one("tool_result");
    assert_eq!(
        (&result.data["output"]["stdout"], &result.data["output"]["appended"]),
        (&json!("hi\n"), &json!("mind the gap"))
    );
    assert_eq!(calls_of(&setup)["output"]["stdout"], "hi\n");
    let told = model.calls()[1].results();
    assert!(told.iter().any(|r| format!("{r:?}").contains("mind the gap")), "the model reads it");
    model.assert_no_problems();
}

#[tokio::test]
async fn an_outcome_whose_hook_was_killed_is_told_after_the_restart() {
    let model = runs("echo once >> out.txt").await;
    let wait = "if [ -e go ]; then echo '{\"append\":\"second\"}'; else touch waiting; sleep 4; fi";
    let setup = hooked(Setup::scripted(&model), &[("post_tool", "bash", wait)]);
    let engine = setup.start().await;
    let stream = engine.execute(json!({"task_id": "a", "message": "go"})).await;
    let waiting = setup.workspace().join("waiting");
    crate::support::eventually("the hook waits", || waiting.exists()).await;
    std::fs::write(setup.workspace().join("go"), "").expect("written");
    drop(stream);
    engine.kill();
    let engine = setup.start().await;
    engine.expect_log("Ended processes that an earlier process had left behind");
    engine.until("/tasks/a", |t| t["status"] == "idle").await;
    let frames = engine.stored("&task_id=a").await;
    let turn = Turn::checked(frames, false);
    assert_eq!(turn.one("tool_result").data["output"]["appended"], "second");
    assert_eq!(
        std::fs::read_to_string(setup.workspace().join("out.txt")).expect("it ran"),
        "once\n",
        "never twice"
    );
}

#[tokio::test]
async fn a_stop_hook_sends_back_to_work_at_most_three_times() {
    let model =
        ScriptedModel::start(Script::from_fn(|r| Reply::text(&format!("answer {}.", r.number)))).await;
    let until_two = "cat > seen.json; n=$(cat n 2>/dev/null || echo 0); n=$((n+1)); echo $n > n; if [ $n -lt 3 ]; then echo '{\"decision\":\"continue\",\"message\":\"tests are red\"}'; else echo '{\"decision\":\"stop\"}'; fi";
    let setup = hooked(Setup::scripted(&model), &[("stop", "assistant", until_two)]);
    let engine = setup.start().await;
    let turn = engine.turn("a", "go").await;
    assert_eq!((turn.stop_reason(), turn.text().as_str()), ("end_turn", "answer 0.answer 1.answer 2."));
    let seen = calls_of(&setup);
    assert_eq!(
        (&seen["event"], &seen["text"], &seen["agent"]),
        (&json!("stop"), &json!("answer 2."), &json!("assistant"))
    );
    assert_eq!(model.calls()[2].last_user_text(), "tests are red");
    let messages = engine.json("/tasks/a/messages").await;
    let roles: Vec<&str> =
        messages["messages"].as_array().expect("a list").iter().filter_map(|m| m["role"].as_str()).collect();
    assert_eq!(roles, ["user", "assistant", "user", "assistant", "user", "assistant"]);
    let brain = rusqlite::Connection::open(setup.brain()).expect("the brain");
    let heard = brain.query_row("SELECT others_heard FROM turns", [], |row| row.get::<_, i64>(0));
    assert_eq!(heard.expect("a turn"), 1, "a hook is not the person");

    put_hooks(&setup.path("catalog"), &[("stop", "*", "echo '{\"decision\":\"continue\"}'")]);
    engine.post("/admin/reload-catalog", json!({})).await.ok().await;
    let before = model.calls().len();
    let turn = engine.turn("b", "go").await;
    assert_eq!(turn.stop_reason(), "stopped_by_hook");
    assert_eq!(model.calls().len() - before, 4, "three more calls and no fourth");
    model.assert_no_problems();
}

#[tokio::test]
async fn hooks_can_be_switched_off_and_a_bad_file_keeps_those_before() {
    let model = runs("echo one > out.txt").await;
    let deny = "echo '{\"decision\":\"deny\"}'";
    let setup = hooked(Setup::scripted(&model), &[("pre_tool", "bash", deny)]);
    let engine = setup.start().await;
    put(&setup.path("catalog"), "hooks.json", "{\"hooks\": 1}");
    engine.expect_log("The catalog has a bad entry");
    let answer = engine.post("/admin/reload-catalog", json!({})).await.ok().await;
    assert_eq!(answer["errors"][0]["file"], "hooks.json");
    assert_eq!(denied(&engine, "a").await, "permission_denied", "the hooks before stay");
    engine.kill();
    put_hooks(&setup.path("catalog"), &[("pre_tool", "bash", deny)]);
    for name in ["PRE_TOOL_HOOKS_ENABLED", "HOOKS_SETTINGS_LOAD_ENABLED"] {
        let engine = setup.clone().with(name, "false").start().await;
        assert_eq!(denied(&engine, name).await, "", "{name}");
    }
}

async fn denied(engine: &Engine, task: &str) -> String {
    let turn = engine.turn(task, "go").await;
    turn.one("tool_result").data["reason"].as_str().unwrap_or_default().to_owned()
}

/// A secret that the Engine knows, and a place where a hook finds it.
const SECRET: &str = "canary-hook-Zw5Tq8";

/// How many rows of the brain say the secret, in any place a hook's words are kept.
fn rows_with_the_secret(setup: &Setup) -> Vec<(String, i64)> {
    let brain = rusqlite::Connection::open(setup.brain()).expect("the brain");
    let count = |table: &str, columns: &str| {
        let found = format!("SELECT count(*) FROM {table} WHERE instr({columns}, '{SECRET}') > 0");
        let found = brain.query_row(&found, [], |row| row.get(0)).expect("a count");
        (table.to_owned(), found)
    };
    vec![
        count("effects", "input_json || coalesce(output_json, '') || coalesce(error, '')"),
        count("conversations", "content_json"),
        count("hitl_requests", "question || details_json"),
        count("events", "data"),
    ]
}

#[tokio::test]
async fn what_a_hook_says_loses_known_secrets_before_it_is_stored_told_or_used() {
    // one call in all: what a stop hook says is a user's word to the model
    let model =
        ScriptedModel::start(Script::from_fn(|r| match r.messages.iter().any(|m| !m.results.is_empty()) {
            true => Reply::text("Done."),
            false => Reply::new().tool_call("bash", json!({"command": "echo one"})),
        }))
        .await;
    let say = |answer: Value| format!("cat > /dev/null; printf %s '{answer}'");
    let told = format!("the key is {SECRET}");
    let pre =
        json!({"decision": "ask", "reason": told, "input": {"command": format!("echo {SECRET} > out.txt")}});
    let hooks = [
        ("pre_tool", "bash", say(pre)),
        ("post_tool", "bash", say(json!({"append": told}))),
        ("stop", "*", say(json!({"decision": "continue", "message": told}))),
    ];
    let hooks: Vec<(&str, &str, &str)> =
        hooks.iter().map(|(event, of, text)| (*event, *of, text.as_str())).collect();
    let setup = hooked(Setup::scripted(&model).with("BRAVE_API_KEY", SECRET), &hooks);
    let engine = setup.start().await;
    let mut stream = engine.execute(json!({"task_id": "a", "message": "go"})).await;
    let mut frames = stream.until_event("hitl_request").await;
    let pending = engine.pending().await;
    assert_eq!(pending["input"]["command"], "echo [redacted:secret] > out.txt", "{pending}");
    assert!(
        pending["reason"].as_str().is_some_and(|r| r.contains("the key is [redacted:secret]")),
        "{pending}"
    );
    engine.answer(json!({"task_id": "a", "answer": "yes"})).await;
    frames.extend(stream.rest().await);
    let turn = Turn::checked(frames, false);
    let result = &turn.one("tool_result").data["output"];
    assert_eq!(result["appended"], "the key is [redacted:secret]", "{result}");
    let noted =
        model.calls().iter().any(|call| call.last_user_text().contains("the key is [redacted:secret]"));
    assert!(noted, "the stop hook sent the model back to work");
    assert_eq!(
        std::fs::read_to_string(setup.workspace().join("out.txt")).expect("it ran"),
        "[redacted:secret]\n"
    );
    assert!(!turn.raw().contains(SECRET) && !engine.log().contains(SECRET));

    // a hook that is refused for what it says does not get it into the log or the journal either
    let complain = format!("cat > /dev/null; echo {SECRET} >&2; exit 1");
    put_hooks(&setup.path("catalog"), &[("pre_tool", "bash", &complain)]);
    engine.post("/admin/reload-catalog", json!({})).await.ok().await;
    engine.expect_log("A pre-tool hook failed");
    engine.turn("b", "go").await;
    assert!(!engine.log().contains(SECRET), "in the log");
    engine.kill();
    for (table, rows) in rows_with_the_secret(&setup) {
        assert_eq!(rows, 0, "{table}");
    }
}
