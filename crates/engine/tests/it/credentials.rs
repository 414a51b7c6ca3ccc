//! Every credential an Engine holds, and a model and servers that try to get them out in a whole turn. They are
//! found nowhere but sealed.

use crate::leaks::{assert_absent, assert_files_absent, spellings};
use crate::support::http::Ask;
use crate::support::sse::raw;
use crate::support::{Engine, KEY, Setup, put_file};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use testbed::mcp::{Mischief, ScriptedAuth, ScriptedMcp, Speaks, tool};
use testbed::{Reply, Script, ScriptedModel};

/// 32 letters, which is what a key of AD_ENCRYPTION_KEY is made of.
const MASTER: &[u8; 32] = b"september-canary-ad-key-01234567";
const STATIC: &str = "canary-static/9f3K2mQx+z";
const MODEL_KEY: &str = "canary-model-Zw5TqP";
/// No variable of the Engine's: nothing may bring it inside.
const FOREIGN: &str = "canary-foreign-3xYw8";

async fn connect(engine: &Engine, name: &str, server: &ScriptedMcp, more: Value) -> Value {
    let mut config = json!({"server_name": name, "transport": "http", "url": server.url(), "trusted": true});
    for (name, value) in more.as_object().expect("an object") {
        config[name] = value.clone();
    }
    engine.post("/assets/connect", json!({"server_name": name, "server_config": config})).await.ok().await
}

/// A server behind an authorization server, with a consent given.
async fn authorized(engine: &Engine) -> (ScriptedMcp, ScriptedAuth) {
    let server = ScriptedMcp::start(Speaks::Modern).await;
    let auth = ScriptedAuth::start(server.url()).await;
    server.name_metadata(&auth.resource_metadata());
    server.trust(&auth);
    let begun = connect(engine, "mail", &server, json!({"auth_method": "oauth"})).await;
    let answer = auth.consent(begun["auth_url"].as_str().expect("an address")).await;
    let (code, state, iss) = (&answer["code"], &answer["state"], &answer["iss"]);
    let target = format!("/assets/oauth/callback?code={code}&state={state}&iss={iss}");
    let back = engine.send(Ask::get(&target).without_key()).await;
    assert!(matches!(back.status, 200 | 302), "{}", back.status);
    (server, auth)
}

/// Calls everything that could carry a secret out, once in a turn, says it in pieces, and fails when told to.
async fn thief(said: String) -> ScriptedModel {
    ScriptedModel::start(Script::from_fn(move |r| {
        if r.last_user_text().contains("fail") {
            return Reply::error(401, json!({"error": {"message": format!("bad key {said}"), "type": "x"}}));
        }
        let letters: Vec<String> =
            said.chars().collect::<Vec<_>>().chunks(3).map(|c| c.iter().collect()).collect();
        let since = r.messages.iter().rev().take_while(|m| m.role != "user");
        match since.filter(|m| !m.results.is_empty()).count() {
            0 => Reply::new()
                .say_chunks(letters.iter().map(String::as_str))
                .tool_call("notes.echo", json!({"text": said}))
                .tool_call("mail.echo", json!({"text": "x"}))
                .tool_call("bash", json!({"command": "env; cat told; base64 -w0 told; exit 3"}))
                .tool_call("no_such_tool", json!({said.clone(): [said.clone()]}))
                .tool_call("working_memory_write", json!({"key": "k", "value": {"said": said}}))
                .tool_call("ask_user", json!({"question": format!("is it {said}?")})),
            _ => Reply::new().say_chunks(letters.iter().map(String::as_str)),
        }
    }))
    .await
}

#[tokio::test]
async fn credentials_are_nowhere_but_sealed_after_a_turn_that_tried_to_get_them_out() {
    let master = STANDARD.encode(MASTER);
    let known = [STATIC, MODEL_KEY, &master];
    let said: Vec<String> = known.iter().flat_map(|c| spellings(c)).map(|(spelling, _)| spelling).collect();
    let said = said.join(" | ");
    let model = thief(said.clone()).await;
    let setup = Setup::scripted(&model)
        .with("AD_ENCRYPTION_KEY", &master)
        .with("LLM_API_KEY", MODEL_KEY)
        .with("MY_DATABASE_PASSWORD", FOREIGN)
        .with("ENGINE_LOG_LEVEL", "DEBUG");
    put_file(&setup.workspace(), "told", &said);
    let engine = setup.start().await;
    engine.expect_log("The model call failed");

    // both servers have seen their credential, and say it wherever they are heard
    let notes = ScriptedMcp::start(Speaks::Session).await;
    notes.accept_only([STATIC]);
    notes.set_tools(vec![tool("echo", &format!("Says it again, with {STATIC}"))]);
    let made = connect(&engine, "notes", &notes, json!({"auth_method": "static", "api_key": STATIC})).await;
    assert_eq!(made["status"], "connected");
    let (mail, auth) = authorized(&engine).await;
    auth.withdraw_access();
    let mut tokens = auth.access_tokens();
    let renewed = engine.post("/rpc", json!({"method": "tool.mail.echo", "params": {"text": "again"}})).await;
    renewed.ok().await;
    assert!(auth.grants("refresh_token") >= 1, "the tokens were renewed");
    tokens.extend(auth.access_tokens());
    tokens.extend(auth.refresh_tokens());
    assert!(tokens.len() >= 2, "{tokens:?}");
    notes.misbehave(Some(Mischief::Says(said.clone())));
    mail.misbehave(Some(Mischief::SaysFailed(tokens.join(" | "))));

    let secrets: Vec<&str> =
        known.into_iter().chain(tokens.iter().map(String::as_str)).chain([FOREIGN, KEY]).collect();
    let mut stream = engine.execute(json!({"task_id": "a", "message": "go on"})).await;
    let mut frames = stream.until_event("hitl_request").await;
    let pending = engine.pending().await;
    assert_absent(&secrets, "/hitl/pending", pending.to_string().as_bytes());
    assert!(pending["question"].as_str().is_some_and(|q| q.contains("[redacted:secret]")), "{pending}");
    engine.answer(json!({"request_id": pending["request_id"], "answer": "yes"})).await;
    frames.extend(stream.rest().await);
    assert_absent(&secrets, "the stream", raw(&frames).as_bytes());
    let failed = engine.turn("a", "now fail").await;
    assert_absent(&secrets, "the stream of the failed turn", failed.raw().as_bytes());
    let backup = engine.post("/admin/backup", json!({})).await.ok().await;

    for target in [
        "/tasks",
        "/tasks/a",
        "/tasks/a/messages",
        "/tools",
        "/agents",
        "/usage",
        "/permissions",
        "/assets/servers",
        "/assets/connections",
        "/metrics",
        "/openapi.json",
        "/version",
    ] {
        assert_absent(&secrets, target, engine.get(target).await.text().await.as_bytes());
    }
    assert_absent(&secrets, "/health", engine.health().await.to_string().as_bytes());
    assert_absent(&secrets, "the replay", raw(&engine.stored("").await).as_bytes());
    assert_absent(&secrets, "the answer to a backup", backup.to_string().as_bytes());
    assert_absent(&secrets, "the log", engine.log().as_bytes());
    assert!(engine.log().contains("DEBUG"), "the log was as talkative as it can be");
    for request in model.calls() {
        for result in request.results() {
            assert_absent(&secrets, "what the model is shown", result.text.as_bytes());
        }
        let offered = request.body["tools"].to_string();
        assert_absent(&secrets, "what the model is offered", offered.as_bytes());
    }

    let connection = engine.json("/assets/connections").await;
    assert_eq!(connection.as_array().map(Vec::len), Some(2));
    engine.kill();
    // the brain with its WAL, the backup with every page of it, and whatever else lies there
    assert_files_absent(&secrets, setup.brain().parent().expect("a directory"), &setup.workspace());
    let brain = rusqlite::Connection::open(setup.brain()).expect("the brain");
    let sealed: i64 = brain
        .query_row("SELECT count(*) FROM connections WHERE length(credentials) > 100", [], |row| row.get(0))
        .expect("a count");
    assert_eq!(sealed, 2, "they are there, sealed");
    assert!(notes.count("tools/call") >= 1 && mail.count("tools/call") >= 2, "the servers were really asked");
}

/// An MCP server in Python that reads a page for whoever calls it, as its environment lets it.
const READER: &str = r#"
import json, sys, urllib.request
for line in sys.stdin:
    asked = json.loads(line)
    if "id" not in asked: continue
    answer = {"jsonrpc": "2.0", "id": asked["id"]}
    if asked["method"] == "initialize":
        answer["result"] = {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": {"name": "py", "version": "1"}}
    elif asked["method"] == "tools/list":
        schema = {"type": "object", "properties": {"url": {"type": "string"}}}
        answer["result"] = {"tools": [{"name": "read", "inputSchema": schema}]}
    elif asked["method"] == "tools/call":
        try: text = urllib.request.urlopen(asked["params"]["arguments"]["url"], timeout=10).read().decode()
        except Exception as e: text = f"failed: {e}"
        answer["result"] = {"content": [{"type": "text", "text": text}]}
    else: answer["error"] = {"code": -32601, "message": "unknown"}
    print(json.dumps(answer), flush=True)
"#;

#[tokio::test]
async fn a_stdio_server_reaches_the_hosts_of_its_entry_and_no_others() {
    let page = |text: &'static str| async move {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let app = axum::Router::new().route("/", axum::routing::get(move || async move { text }));
        tokio::spawn(async move { axum::serve(listener, app).await });
        port
    };
    let (listed, other) = (page("the listed page").await, page("the other page").await);
    let model = ScriptedModel::start(Script::from_fn(|_| Reply::text("x"))).await;
    let read =
        |port: u16| json!({"method": "tool.py.read", "params": {"url": format!("http://127.0.0.1:{port}/")}});
    for (sandboxed, network, can_read, can_read_other) in [
        ("true", json!([format!("127.0.0.1:{listed}")]), true, false),
        ("true", json!([]), false, false),
        // what stands in the reference: nothing keeps such a server from the network
        ("false", json!([]), true, true),
    ] {
        let engine = Setup::scripted(&model).with("ASSET_DIRECTORY_SANDBOXED", sandboxed).start().await;
        engine.expect_log("ASSET_DIRECTORY_SANDBOXED").expect_log("A stdio server runs without its");
        let config = json!({"server_name": "py", "transport": "stdio", "command": ["python3", "-c", READER],
            "auth_method": "none", "network": network});
        engine
            .post("/assets/connect", json!({"server_name": "py", "server_config": config}))
            .await
            .ok()
            .await;
        let listed = engine.post("/rpc", read(listed)).await.ok().await.to_string();
        let other = engine.post("/rpc", read(other)).await.ok().await.to_string();
        if engine.log().contains("A stdio server runs without its") {
            // this machine cannot keep a server to its hosts, so it has none
            assert!(listed.contains("failed:"), "{listed}");
            continue;
        }
        assert_eq!(listed.contains("the listed page"), can_read, "{sandboxed} {network}: {listed}");
        assert_eq!(other.contains("the other page"), can_read_other, "{sandboxed} {network}: {other}");
    }
}
