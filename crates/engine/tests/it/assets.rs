//! Connectors through the API, in real turns, across restarts, and what must never show.

use crate::hitl::{answering, calls, calls_in_order, each};
use crate::support::http::Ask;
use crate::support::{Engine, Setup, eventually};
use serde_json::{Value, json};
use testbed::ScriptedModel;
use testbed::mcp::{Mischief, ScriptedAuth, ScriptedMcp, Speaks, tool};

/// Two keys of AD_ENCRYPTION_KEY, made of plain letters.
const FIRST: &str = "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=";
const SECOND: &str = "QkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkI=";

fn keyed(model: &ScriptedModel) -> Setup {
    Setup::scripted(model).with("AD_ENCRYPTION_KEY", FIRST)
}

async fn connect(engine: &Engine, server: &ScriptedMcp, more: Value) -> Value {
    let mut config =
        json!({"server_name": "notes", "transport": "http", "url": server.url(), "auth_method": "none"});
    for (name, value) in more.as_object().expect("an object") {
        config[name] = value.clone();
    }
    engine.post("/assets/connect", json!({"server_name": "notes", "server_config": config})).await.ok().await
}

#[tokio::test]
async fn a_connected_servers_tool_is_used_in_a_turn_and_stays_connected_over_a_restart() {
    let (model, server) =
        (calls("notes.echo", json!({"text": "hi"})).await, ScriptedMcp::start(Speaks::Modern).await);
    let setup = Setup::scripted(&model);
    let engine = setup.start().await;
    let made = connect(&engine, &server, json!({})).await;
    assert_eq!(made["status"], "connected");
    let listed = engine.json("/assets/connections").await;
    assert_eq!(
        listed,
        json!([{"ref_id": made["ref_id"], "server_name": "notes", "status": "connected", "scopes": [],
                "expires_at": null, "tools": 1, "last_error": null, "left_out": []}])
    );
    let tools = engine.json("/tools").await;
    let shown =
        tools["tools"].as_array().expect("tools").iter().find(|t| t["name"] == "notes.echo").expect("listed");
    assert_eq!(
        (&shown["kind"], &shown["effect"], &shown["available"]),
        (&json!("mcp"), &json!("once"), &json!(true))
    );

    let turn = engine.turn("a", "say hi").await;
    assert_eq!(turn.one("tool_result").data["output"], "echo: hi");
    engine.kill();

    let calls = server.count("server/discover");
    let again = setup.start().await;
    assert_eq!(server.count("server/discover"), calls, "a start calls nobody");
    assert_eq!(again.turn("b", "say hi").await.one("tool_result").data["output"], "echo: hi");

    let id = made["ref_id"].as_str().expect("an id");
    let gone = again.send(Ask::delete(&format!("/assets/connections/{id}"))).await.ok().await;
    assert_eq!(gone, json!({"status": "deleted", "ref_id": id}));
    again
        .send(Ask::delete(&format!("/assets/connections/{id}")))
        .await
        .error(404, "CONNECTION_NOT_FOUND")
        .await;
    assert_eq!(again.json("/assets/connections").await, json!([]));
    assert_eq!(again.turn("c", "say hi").await.one("tool_result").data["reason"], "not_found");
    model.assert_no_problems();
}

/// References that double at every level: 2^24 steps for one value.
pub fn doubling() -> Value {
    let next = |level: usize| json!({"$ref": format!("#/$defs/d{level}")});
    let mut defs = json!({"d24": {"type": "integer"}});
    for level in 0..24 {
        defs[format!("d{level}")] = json!({"anyOf": [next(level + 1), next(level + 1)]});
    }
    json!({"type": "object", "properties": {"x": next(0)}, "$defs": defs})
}

#[tokio::test]
async fn schemas_that_would_keep_a_validator_busy_for_ever_cost_a_server_one_tool_and_a_turn_one_call() {
    let itself = json!({"$ref": "#"});
    let branching = json!({"type": "object", "properties": {"x": {"anyOf": [itself, itself]}}});
    let deep = (0..80).fold(json!({}), |inner, _| json!({"x": inner}));
    let order = vec![
        ("notes.doubling", json!({"x": "no integer"})),
        ("notes.branching", deep),
        ("notes.branching", json!({"x": {"x": 1}})),
        ("notes.echo", json!({"text": "hi"})),
    ];
    let (model, server) = (calls_in_order(order).await, ScriptedMcp::start(Speaks::Session).await);
    let with = |name: &str, schema: Value| {
        let mut made = tool(name, "Takes anything");
        made["inputSchema"] = schema;
        made
    };
    server.set_tools(vec![
        with("doubling", doubling()),
        with("branching", branching),
        with("backtracking", json!({"properties": {"x": {"pattern": "^(?=(a+)+b)(a|aa)+$"}}})),
        json!({"description": "has no name"}),
        tool("echo", "Says it again"),
    ]);
    let engine = Setup::scripted(&model).start().await;
    engine.expect_log("A tool of an MCP server is left out");
    assert_eq!(connect(&engine, &server, json!({})).await["status"], "connected");
    let listed = engine.json("/assets/connections").await;
    assert_eq!((&listed[0]["tools"], &listed[0]["last_error"]), (&json!(2), &Value::Null), "{listed}");
    let left_out = listed[0]["left_out"].as_array().expect("a list");
    let of = |name: &str| {
        let found =
            left_out.iter().find(|one| one["tool"] == name).unwrap_or_else(|| panic!("{name}: {listed}"));
        found["reason"].as_str().expect("a text").to_owned()
    };
    assert!(
        of("doubling").contains("look at one place") && of("backtracking").contains("look-around"),
        "{listed}"
    );
    assert!(of("").contains("no name"), "{listed}");

    let turn = tokio::time::timeout(std::time::Duration::from_secs(30), engine.turn("a", "go")).await;
    let turn = turn.expect("the turn ends");
    assert_eq!(each(&turn, "tool_result", "reason")[..2], [json!("not_found"), json!("invalid_input")]);
    assert_eq!(each(&turn, "tool_result", "output")[3], "echo: hi");
    assert_eq!(turn.text(), "All done.");
    model.assert_no_problems();
}

#[tokio::test]
async fn failures_of_a_server_reach_the_model_by_their_names() {
    let (model, server) =
        (calls("notes.echo", json!({"text": "hi"})).await, ScriptedMcp::start(Speaks::Session).await);
    let engine = Setup::scripted(&model).with("AD_CALL_TIMEOUT_S", "1").start().await;
    connect(&engine, &server, json!({})).await;
    for (task, mischief, reason) in [
        ("a", Mischief::Status(500), "MCP_CONNECTION_FAILED"),
        ("b", Mischief::Silence, "timeout"),
        ("c", Mischief::MissingScope("admin".into()), "MCP_TOKEN_EXPIRED"),
    ] {
        server.misbehave(Some(mischief));
        assert_eq!(engine.turn(task, "go").await.one("tool_result").data["reason"], reason);
    }
    assert_eq!(engine.json("/assets/connections").await[0]["status"], "expired");
    assert_eq!(
        engine.health().await["subsystems"]["asset_directory"],
        "ok",
        "one connection is no subsystem"
    );
}

#[tokio::test]
async fn a_changed_tool_asks_before_its_first_call_and_a_yes_pins_it() {
    let (model, server) =
        (calls("notes.echo", json!({"text": "hi"})).await, ScriptedMcp::start(Speaks::Modern).await);
    let engine = Setup::scripted(&model).start().await;
    connect(&engine, &server, json!({})).await;
    server.set_tools(vec![tool("echo", "Sends it to a stranger")]);
    eventually("the directory has heard of it", || {
        server.tell_changed();
        server.count("tools/list") >= 2
    })
    .await;
    // the listing was asked for; the pin is compared right after it
    engine.until("/assets/connections", |list| list[0]["tools"] == 1).await;
    let mut stream = loop {
        let mut stream = engine.execute(json!({"task_id": "a", "message": "go"})).await;
        let frames = stream.until(|f| f.is("hitl_request") || f.phase() == Some("completed")).await;
        let last = frames.last().expect("a frame").clone();
        if last.is("hitl_request") {
            let asked = &last.data;
            assert!(
                asked["question"].as_str().is_some_and(|q| q.contains("+ Sends it to a stranger")),
                "{asked}"
            );
            assert!(asked["rule"].as_str().is_some_and(|r| r.starts_with("mcp:notes.echo:")), "{asked}");
            break stream;
        }
    };
    engine.until("/tasks/a", |t| t["status"] == "paused").await;
    engine.answer(json!({"task_id": "a", "answer": "yes"})).await;
    let frames = stream.until_event("tool_result").await;
    assert_eq!(frames.last().expect("a result").data["output"], "echo: hi");
    let _ = stream.rest().await;
    let turn = engine.turn("b", "once more").await;
    assert_eq!(
        (turn.count("hitl_request"), &turn.one("tool_result").data["output"]),
        (0, &json!("echo: hi"))
    );
}

#[tokio::test]
async fn wrong_requests_are_refused_with_what_is_wrong() {
    let engine = Setup::offline().start().await;
    for (path, method) in [
        ("/assets/servers", "GET"),
        ("/assets/connections", "GET"),
        ("/assets/connect", "POST"),
        ("/assets/callback", "POST"),
        ("/assets/connections/conn-1", "DELETE"),
    ] {
        engine.send(Ask::new(method, path).without_key()).await.error(401, "INVALID_KEY").await;
    }
    assert_eq!(engine.json("/assets/servers").await, json!([]));
    engine
        .post("/assets/connect", json!({"server_name": "x"}))
        .await
        .error(404, "CONNECTION_NOT_FOUND")
        .await;
    engine.post("/assets/connect", json!({})).await.error(400, "INVALID_REQUEST").await;
    let config =
        json!({"server_name": "x", "transport": "http", "url": "http://example.com", "auth_method": "none"});
    let error = engine.post("/assets/connect", json!({"server_name": "x", "server_config": config})).await;
    let error = error.error(422, "VALIDATION_ERROR").await;
    assert_eq!(error["details"]["problems"][0]["pointer"], "/url");
    let config =
        json!({"server_name": "x", "transport": "http", "url": "http://127.0.0.1:1/", "auth_method": "none"});
    let body = json!({"server_name": "x", "server_config": config});
    engine.post("/assets/connect", body).await.error(502, "MCP_CONNECTION_FAILED").await;
    let config = json!({"server_name": "x", "transport": "http", "url": "http://127.0.0.1:1/", "auth_method": "static",
                        "api_key": "k"});
    let error = engine.post("/assets/connect", json!({"server_name": "x", "server_config": config})).await;
    let error = error.error(422, "VALIDATION_ERROR").await;
    assert_eq!(error["details"]["variable"], "AD_ENCRYPTION_KEY");
    let body = json!({"code": "c", "state": "guess"});
    engine.post("/assets/callback", body).await.error(400, "INVALID_REQUEST").await;
    let open = Ask::get("/assets/oauth/callback?code=c&state=guess").without_key();
    engine.send(open).await.error(400, "INVALID_REQUEST").await;
}

#[tokio::test]
async fn an_authorization_comes_back_by_the_browser_and_no_token_is_shown_or_stored() {
    let model = calls("notes.echo", json!({"text": "hi"})).await;
    let server = ScriptedMcp::start(Speaks::Modern).await;
    let auth = ScriptedAuth::start(server.url()).await;
    server.name_metadata(&auth.resource_metadata());
    server.trust(&auth);
    let setup = keyed(&model)
        .with("ENGINE_LOG_LEVEL", "DEBUG")
        .with("OAUTH_RETURN_URL", "https://app.example.com/done");
    let engine = setup.start().await;
    let begun = connect(&engine, &server, json!({"auth_method": "oauth"})).await;
    assert_eq!(begun["status"], "pending_oauth");
    assert_eq!(engine.json("/assets/connections").await[0]["status"], "pending_oauth");
    let answer = auth.consent(begun["auth_url"].as_str().expect("an address")).await;
    let target = format!(
        "/assets/oauth/callback?code={}&state={}&iss={}",
        answer["code"], answer["state"], answer["iss"]
    );
    let back = engine.send(Ask::get(&target).without_key()).await;
    assert_eq!(back.status, 302);
    let location = back.header("location").expect("a place").to_owned();
    assert!(location.starts_with("https://app.example.com/done?ref_id=conn-"), "{location}");
    assert!(location.ends_with("&status=connected"), "{location}");
    let turn = engine.turn("a", "go").await;
    assert_eq!(turn.one("tool_result").data["output"], "echo: hi");
    let tokens = auth.access_tokens();
    let log = engine.log();
    engine.kill();
    let brain = std::fs::read(setup.brain()).expect("the brain");
    let wal = std::fs::read(setup.brain().with_extension("sqlite-wal")).unwrap_or_default();
    for token in tokens {
        assert!(!log.contains(&token), "in the log");
        for bytes in [&brain, &wal] {
            assert!(!bytes.windows(token.len()).any(|window| window == token.as_bytes()), "in the brain");
        }
        assert!(!turn.raw().contains(&token), "on the stream");
    }
}

#[tokio::test]
async fn a_lost_key_is_told_by_health_and_rekey_moves_credentials_to_the_first_key() {
    let (model, server) =
        (calls("notes.echo", json!({"text": "hi"})).await, ScriptedMcp::start(Speaks::Modern).await);
    server.accept_only(["the-key"]);
    let setup = keyed(&model);
    let engine = setup.start().await;
    let made = connect(&engine, &server, json!({"auth_method": "static", "api_key": "the-key"})).await;
    assert_eq!(made["status"], "connected");
    engine.kill();

    let lost = setup.clone().with("AD_ENCRYPTION_KEY", SECOND).start().await;
    let health = lost.health().await;
    assert_eq!(
        (&health["status"], &health["subsystems"]["asset_directory"]),
        (&json!("degraded"), &json!("error"))
    );
    assert_eq!(lost.json("/assets/connections").await[0]["status"], "error");
    lost.kill();

    let both = setup.clone().with("AD_ENCRYPTION_KEY", &format!("{SECOND},{FIRST}"));
    for expected in [
        json!({"resealed": 1, "current": 0, "unreadable": 0}),
        json!({"resealed": 0, "current": 1, "unreadable": 0}),
    ] {
        let output = both.command(&["rekey", "--json"]).output().expect("it runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let told: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!(told, expected);
    }
    let found = setup.with("AD_ENCRYPTION_KEY", SECOND).start().await;
    assert_eq!(found.health().await["subsystems"]["asset_directory"], "ok");
    assert_eq!(found.turn("a", "go").await.one("tool_result").data["output"], "echo: hi");
}

#[tokio::test]
async fn a_servers_question_reaches_the_person_and_the_answer_the_server() {
    for speaks in [Speaks::Modern, Speaks::Session] {
        let (model, server) =
            (calls("notes.echo", json!({"text": "hi"})).await, ScriptedMcp::start(speaks).await);
        let engine = Setup::scripted(&model).start().await;
        connect(&engine, &server, json!({})).await;
        server.misbehave(Some(Mischief::Elicit));
        let mut stream = engine.execute(json!({"task_id": "a", "message": "go"})).await;
        let frames = stream.until_event("hitl_request").await;
        let asked = frames.last().expect("a question").data.clone();
        assert_eq!(asked["kind"], "question");
        let question = asked["question"].as_str().expect("a text");
        assert!(question.contains("notes") && question.contains("What is your name?"), "{question}");
        engine.answer(json!({"request_id": asked["request_id"], "answer": "Ada"})).await;
        let frames = stream.until_event("tool_result").await;
        let output = frames.last().expect("a result").data["output"].as_str().expect("a text").to_owned();
        assert!(output.starts_with("\"accept\" \"Ada\""), "{speaks:?}: {output}");
        let _ = stream.rest().await;
    }
}

/// A model that calls the same action that often in every turn.
async fn echoes(times: usize) -> ScriptedModel {
    calls_in_order(vec![("notes.echo", json!({"text": "hi"})); times]).await
}

#[tokio::test]
async fn in_a_tainted_turn_a_once_action_is_asked_about_until_a_person_agrees() {
    let (model, server) = (echoes(3).await, ScriptedMcp::start(Speaks::Modern).await);
    let engine = Setup::scripted(&model).start().await;
    connect(&engine, &server, json!({})).await;
    // what the first call gave back is what makes the second ask; the third goes on the second's yes
    let turn = answering(&engine, "a", &["yes"]).await;
    let asked = &turn.one("hitl_request").data;
    let second = &turn.all("tool_call")[1].data["tool_call_id"];
    assert_eq!((&asked["tool"], &asked["tool_call_id"]), (&json!("notes.echo"), second));
    assert!(asked["rule"].as_str().is_some_and(|r| r.starts_with("mcp:notes.echo:")), "{asked}");
    assert_eq!(each(&turn, "tool_result", "output"), ["echo: hi"; 3]);
    // a yes holds for its turn, a no for its call, and always for the task
    let turn = answering(&engine, "a", &["no", "always"]).await;
    assert_eq!(each(&turn, "tool_result", "reason"), [json!("permission_denied"), json!(null), json!(null)]);
    assert_eq!((turn.count("hitl_request"), server.count("tools/call")), (2, 5));
    let turn = answering(&engine, "a", &[]).await;
    assert_eq!(each(&turn, "tool_result", "output"), ["echo: hi"; 3]);
    model.assert_no_problems();
}

#[tokio::test]
async fn a_trusted_server_and_an_action_that_may_be_repeated_are_not_asked_about() {
    for entry in [json!({"trusted": true}), json!({"tools": {"effects": {"echo": "idempotent"}}})] {
        let (model, server) = (echoes(2).await, ScriptedMcp::start(Speaks::Modern).await);
        let engine = Setup::scripted(&model).start().await;
        connect(&engine, &server, entry).await;
        let turn = answering(&engine, "a", &[]).await;
        assert_eq!(
            (turn.count("hitl_request"), each(&turn, "tool_result", "output")),
            (0, vec![json!("echo: hi"); 2])
        );
    }
}

#[tokio::test]
async fn the_words_of_a_failed_action_taint_their_turn_too() {
    for speaks in [Speaks::Modern, Speaks::Session] {
        let (model, server) = (echoes(2).await, ScriptedMcp::start(speaks).await);
        let engine = Setup::scripted(&model).start().await;
        connect(&engine, &server, json!({})).await;
        server.misbehave(Some(Mischief::Complaint));
        let turn = answering(&engine, "a", &["no"]).await;
        assert_eq!(
            each(&turn, "tool_result", "reason"),
            [json!("failed"), json!("permission_denied")],
            "{speaks:?}"
        );
        assert_eq!(server.count("tools/call"), 1);
    }
}

#[tokio::test]
async fn a_server_is_heard_by_describing_its_tools_also_when_none_is_called() {
    let (model, server) = (calls_in_order(Vec::new()).await, ScriptedMcp::start(Speaks::Modern).await);
    let setup = Setup::scripted(&model);
    let engine = setup.start().await;
    engine.turn("before", "hello").await;
    connect(&engine, &server, json!({})).await;
    engine.turn("after", "hello").await;
    let brain = rusqlite::Connection::open(setup.brain()).expect("the brain");
    let heard = |task: &str| -> i64 {
        let sql = "SELECT others_heard FROM turns WHERE task_id = ?1";
        brain.query_row(sql, [task], |row| row.get(0)).expect("a turn")
    };
    assert_eq!((heard("before"), heard("after")), (0, 1));
    assert_eq!(server.count("tools/call"), 0);
}
