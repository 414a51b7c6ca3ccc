//! Input that cannot be taken: each has a documented code, names its field, and changes nothing.

use crate::support::Setup;
use crate::support::http::Ask;
use crate::tasks::holding;
use serde_json::{Value, json};
use testbed::{Gate, Reply, Script, ScriptedModel};

#[tokio::test]
async fn a_body_that_is_not_a_json_object_is_invalid_request() {
    let engine = Setup::offline().start().await;
    let deep =
        format!("{{\"message\":\"x\",\"task_id\":\"t\",\"context\":{}{}}}", "[".repeat(300), "]".repeat(300));
    let bodies: [&[u8]; 9] = [
        b"{",
        b"[1]",
        b"\"text\"",
        b"null",
        b"{\"message\": \"x\",}",
        b"{\"message\": \"\xff\", \"task_id\": \"t\"}",
        b"{\"message\": \"\\ud800\", \"task_id\": \"t\"}",
        b"message=x",
        deep.as_bytes(),
    ];
    for path in ["/execute", "/execute/cancel", "/hitl/respond", "/admin/rotate-key", "/admin/backup"] {
        for body in bodies.iter().take(if path == "/execute" { 9 } else { 4 }) {
            let error = engine.send(Ask::new("POST", path).body(*body)).await;
            let error = error.error(400, "INVALID_REQUEST").await;
            assert_eq!(error["details"]["field"], "body", "{path} {error}");
        }
    }
    engine.send(Ask::new("POST", "/execute")).await.error(400, "INVALID_REQUEST").await;
    assert_eq!(engine.json("/tasks").await["tasks"], json!([]), "a refused request made a task");
}

#[tokio::test]
async fn every_wrong_field_is_named_with_what_was_expected() {
    let engine = Setup::offline().start().await;
    let with = |field: &str, value: Value| {
        let mut body = json!({"message": "x", "task_id": "t"});
        body[field] = value;
        body
    };
    let cases = [
        ("message", json!({"task_id": "t"})),
        ("task_id", json!({"message": "x"})),
        ("message", with("message", json!(5))),
        ("message", with("message", json!(null))),
        ("message", with("message", json!(""))),
        ("message", with("message", json!("  \n "))),
        ("task_id", with("task_id", json!(5))),
        ("task_id", with("task_id", json!(""))),
        ("task_id", with("task_id", json!("x".repeat(257)))),
        ("task_id", with("task_id", json!("a\nb"))),
        ("task_id", with("task_id", json!("a\u{0}b"))),
        ("task_id", with("task_id", json!("a\u{85}b"))),
        ("media", with("media", json!({}))),
        ("direct", with("direct", json!("true"))),
        ("super_thinking", with("super_thinking", json!(1))),
        ("agent", with("agent", json!(["a"]))),
        ("agent", with("agent", json!(""))),
        ("output_schema", with("output_schema", json!("x"))),
        ("context", with("context", json!([1]))),
        ("edit_message_id", with("edit_message_id", json!(5))),
        ("retry_message_id", with("retry_message_id", json!({}))),
    ];
    for (field, body) in cases {
        let error = engine.post("/execute", body.clone()).await.error(400, "INVALID_REQUEST").await;
        assert_eq!(error["details"]["field"], field, "{body} {error}");
        assert!(error["details"]["expected"].is_string(), "{error}");
    }
    assert_eq!(engine.json("/tasks").await["tasks"], json!([]), "a refused request made a task");
    // null counts as absent, unknown fields are ignored, and 256 characters are fine
    let fine = json!({
        "message": "hello", "task_id": "ü".repeat(256), "media": null, "direct": null, "agent": null,
        "output_schema": null, "context": null, "edit_message_id": null, "surprise": {"a": 1},
    });
    assert_eq!(engine.run(fine).await.stop_reason(), "end_turn");
}

#[tokio::test]
async fn a_body_above_the_limit_is_payload_too_large_however_it_comes() {
    let engine = Setup::offline().with("ENGINE_MAX_BODY_BYTES", "65536").start().await;
    let body = |n: usize| json!({"message": "x".repeat(n), "task_id": "t"});
    let error = engine.post("/execute", body(70_000)).await.error(413, "PAYLOAD_TOO_LARGE").await;
    assert_eq!(error["details"]["limit"], 65_536, "{error}");
    for path in ["/hitl/respond", "/execute/cancel", "/admin/backup", "/admin/rotate-key"] {
        engine.post(path, body(70_000)).await.error(413, "PAYLOAD_TOO_LARGE").await;
    }
    // the key is looked at first
    let ask = Ask::post("/execute", &body(70_000)).without_key();
    engine.send(ask).await.error(401, "INVALID_KEY").await;
    assert_eq!(engine.run(body(60_000)).await.stop_reason(), "end_turn");
}

#[tokio::test]
async fn unknown_paths_are_not_found_and_wrong_methods_are_told_the_right_ones() {
    let engine = Setup::offline().start().await;
    for path in
        ["/", "/nowhere", "/execute/", "/tasks/a/b/c", "/memory/none", "/rpc/x", "/health/x", "/tasks/"]
    {
        engine.get(path).await.error(404, "NOT_FOUND").await;
    }
    for (method, path, allowed) in [
        ("GET", "/execute", "POST"),
        ("PUT", "/execute", "POST"),
        ("POST", "/execute/replay", "GET"),
        ("POST", "/tasks", "GET"),
        ("PATCH", "/tasks/a", "GET, DELETE"),
        ("DELETE", "/tasks/a/messages", "GET"),
        ("POST", "/health", "GET"),
        ("DELETE", "/openapi.json", "GET"),
        ("GET", "/permissions/x", "DELETE"),
    ] {
        let answer = engine.send(Ask::new(method, path)).await;
        assert_eq!(answer.header("allow"), Some(allowed), "{method} {path}");
        answer.error(405, "METHOD_NOT_ALLOWED").await;
    }
}

#[tokio::test]
async fn a_full_queue_is_engine_busy_and_says_when_to_come_back() {
    let gate = Gate::new();
    let model = holding(&gate).await;
    let engine =
        Setup::scripted(&model).with("ENGINE_TASK_SLOTS", "1").with("ENGINE_TASK_QUEUE", "1").start().await;
    let running = engine.execute(json!({"task_id": "a", "message": "hold"})).await;
    let waiting = engine.execute(json!({"task_id": "b", "message": "second"})).await;
    let error = engine.post("/execute", json!({"task_id": "c", "message": "third"})).await;
    let error = error.error(503, "ENGINE_BUSY").await;
    assert_eq!(error["details"]["reason"], "queue_full");
    engine.get("/tasks/c").await.error(404, "TASK_NOT_FOUND").await;
    // what takes no slot goes on
    assert!(!engine.stored("").await.is_empty());
    assert_eq!(engine.json("/tasks").await["tasks"].as_array().map(Vec::len), Some(2));
    gate.open();
    running.finish().await;
    assert_eq!(waiting.finish().await.text(), "second");
    assert_eq!(engine.turn("c", "third").await.text(), "third");
}

#[tokio::test]
async fn waiting_turns_run_in_the_order_they_came() {
    let gate = Gate::new();
    let model = holding(&gate).await;
    let engine = Setup::scripted(&model).with("ENGINE_TASK_SLOTS", "1").start().await;
    let first = engine.execute(json!({"task_id": "first", "message": "hold"})).await;
    let mut waiting = Vec::new();
    for n in 0..5 {
        waiting.push(engine.execute(json!({"task_id": format!("t{n}"), "message": format!("m{n}")})).await);
    }
    gate.open();
    first.finish().await;
    for stream in waiting {
        stream.finish().await;
    }
    let order: Vec<String> = model.calls().iter().skip(1).map(|c| c.last_user_text()).collect();
    assert_eq!(order, ["m0", "m1", "m2", "m3", "m4"]);
}

#[tokio::test]
async fn what_people_cannot_see_is_taken_out_of_what_models_read() {
    let model = ScriptedModel::start(Script::always(Reply::text("ok"))).await;
    let engine = Setup::scripted(&model).start().await;
    engine
        .run(json!({
            "task_id": "s", "message": "a\u{E0041}b\u{202E}c\u{7}d\te\r\ne\u{301}",
            "context": {"k": "x\u{2066}y", "li\u{E0042}st": ["p\u{202A}q"]},
        }))
        .await;
    let body = model.calls()[0].body.to_string();
    assert!(body.contains("abcd\\te\\r\\né"), "{body}");
    for hidden in ['\u{E0041}', '\u{E0042}', '\u{202E}', '\u{2066}', '\u{202A}'] {
        assert!(!body.contains(hidden), "{hidden:?} reached the model: {body}");
    }
}

#[tokio::test]
async fn a_message_that_is_nothing_once_cleaned_is_refused() {
    let engine = Setup::offline().start().await;
    let body = json!({"task_id": "s", "message": "\u{202E}\u{E0041}"});
    engine.post("/execute", body).await.error(400, "INVALID_REQUEST").await;
}

#[tokio::test]
async fn many_tasks_run_at_once_and_keep_apart() {
    let model = ScriptedModel::start(Script::from_fn(|r| Reply::text(&r.last_user_text()))).await;
    let engine = Setup::scripted(&model).start().await;
    let mut streams = Vec::new();
    for n in 0..60 {
        let body = json!({"task_id": format!("t{n}"), "message": format!("number {n}")});
        streams.push(engine.execute(body).await);
    }
    for (n, stream) in streams.into_iter().enumerate() {
        assert_eq!(stream.finish().await.text(), format!("number {n}"));
    }
    let all = engine.stored("").await;
    assert!(all.windows(2).all(|p| p[0].id < p[1].id), "seq is not one growing counter");
}

#[tokio::test]
async fn the_lists_and_reports_have_their_documented_shape() {
    let engine = Setup::offline().start().await;
    engine.turn("a", "hello").await;
    let agents = engine.json("/agents").await;
    let names: Vec<&str> =
        agents["agents"].as_array().expect("agents").iter().filter_map(|a| a["name"].as_str()).collect();
    for name in ["assistant", "researcher", "coder", "analyst", "writer"] {
        assert!(names.contains(&name), "{names:?}");
    }
    for agent in agents["agents"].as_array().expect("agents") {
        for field in ["name", "description", "model", "tools", "skills", "default", "source"] {
            assert!(agent.get(field).is_some(), "{field}: {agent}");
        }
        assert_eq!(agent["default"], agent["name"] == "assistant");
    }
    let tools = engine.json("/tools").await;
    for tool in tools["tools"].as_array().expect("tools") {
        for field in
            ["name", "description", "input_schema", "kind", "effect", "requires_permission", "available"]
        {
            assert!(!tool[field].is_null(), "{field}: {tool}");
        }
        // a skill takes whatever its template or script can use
        let closed = tool["input_schema"]["additionalProperties"] == false;
        assert!(closed || tool["kind"] != "platform", "{tool}");
    }
    let version = engine.json("/version").await;
    for field in ["name", "version", "commit", "built_at", "schema_version", "sqlite_version"] {
        assert!(!version[field].is_null(), "{field}: {version}");
    }
    for by in ["day", "model", "task", "purpose"] {
        let usage = engine.json(&format!("/usage?group_by={by}")).await;
        assert_eq!(
            (&usage["groups"][0]["calls"], &usage["total"]["calls"]),
            (&json!(1), &json!(1)),
            "{usage}"
        );
    }
    for query in ["group_by=hour", "from=yesterday", "to=2026-13-01"] {
        engine.get(&format!("/usage?{query}")).await.error(400, "INVALID_REQUEST").await;
    }
    let metrics = engine.get("/metrics").await;
    assert!(metrics.header("content-type").is_some_and(|t| t.starts_with("text/plain")));
    let metrics = metrics.text().await;
    for name in [
        "engine_requests_total",
        "engine_turns_total",
        "engine_request_duration_seconds",
        "engine_events_total",
    ] {
        assert!(metrics.contains(name), "{name} is missing");
    }
}

#[tokio::test]
async fn the_log_holds_no_words_of_people_models_or_tools() {
    let model = ScriptedModel::start(Script::sequence([
        Reply::new().say("canary-answer").tool_call("bash", json!({"command": "echo canary-output"})),
        Reply::text("canary-answer"),
    ]))
    .await;
    let engine = Setup::scripted(&model).with("LLM_API_KEY", "canary-provider-key").start().await;
    engine
        .run(json!({"task_id": "l", "message": "canary-message", "context": {"c": "canary-context"}}))
        .await;
    engine.log_line(|l| l["message"] == "Finished execution").await;
    let log = engine.log();
    assert!(!log.contains("canary") && !log.contains(crate::support::KEY), "{log}");
    for line in log.lines() {
        let line: Value = serde_json::from_str(line).expect("one JSON object per line");
        for field in ["timestamp", "level", "logger", "message", "extra"] {
            assert!(!line[field].is_null(), "{field}: {line}");
        }
    }
}
