//! Others who send without end, or nothing at all: the real process stays as large as it was, and answers.

use crate::hitl::calls;
use crate::support::http::Ask;
use crate::support::{Engine, KEY, Setup};
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Response, StatusCode};
use axum::response::IntoResponse as _;
use axum::routing::get;
use rustix::process::{Resource, getrlimit, setrlimit};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::time::Duration;
use tokio::net::TcpStream;

/// What the flood offers; all of it would be taken without a limit, and each request of 100 bytes held as a task
/// of some kilobytes.
const OFFERED_BYTES: usize = 128 << 20;
/// How much the Engine may grow meanwhile.
const GROWTH_MAX: u64 = 64 << 20;

/// Resident memory of a process.
fn resident(engine: &Engine) -> u64 {
    let path = format!("/proc/{}/status", engine.pid());
    let text = std::fs::read_to_string(path).expect("the engine runs");
    // the highest it ever was
    let line = text.lines().find(|line| line.starts_with("VmHWM:")).expect("a line");
    line.split_whitespace().nth(1).and_then(|word| word.parse::<u64>().ok()).expect("a number") * 1024
}

/// A server whose call asks for samplings without end and takes its time with every answer.
async fn flood() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}/mcp", listener.local_addr().expect("bound"));
    let app = axum::Router::new().route("/mcp", get(|| async { StatusCode::METHOD_NOT_ALLOWED }).post(post));
    tokio::spawn(async move {
        let _ = axum::serve(listener, app).await;
    });
    url
}

async fn post(headers: HeaderMap, body: Bytes) -> Response<Body> {
    let body = serde_json::from_slice::<Value>(&body).unwrap_or_default();
    let result = |value: Value| axum::Json(json!({"jsonrpc": "2.0", "id": body["id"], "result": value}));
    let modern = headers.get("mcp-protocol-version").is_some_and(|version| version == "2026-07-28");
    match body["method"].as_str() {
        None => {
            tokio::time::sleep(Duration::from_secs(1)).await;
            StatusCode::ACCEPTED.into_response()
        }
        Some(_) if modern => StatusCode::BAD_REQUEST.into_response(),
        Some("initialize") => result(json!({"protocolVersion": "2025-06-18", "capabilities": {"tools": {}},
            "serverInfo": {"name": "flood", "version": "1"}}))
        .into_response(),
        Some("tools/list") => {
            result(json!({"tools": [{"name": "echo", "inputSchema": {"type": "object"}}]})).into_response()
        }
        Some("tools/call") => {
            let asked = (0..).map(|number| {
                let asked = json!({"jsonrpc": "2.0", "id": format!("q{number}"),
                    "method": "sampling/createMessage", "params": {"messages": [], "maxTokens": 1}});
                Ok::<_, std::io::Error>(Bytes::from(format!("data: {asked}\n\n")))
            });
            let flood = futures::stream::iter(asked.take(OFFERED_BYTES / 100));
            let made = Response::builder().header("content-type", "text/event-stream");
            made.body(Body::from_stream(flood)).expect("an answer")
        }
        Some(_) => StatusCode::ACCEPTED.into_response(),
    }
}

#[tokio::test]
async fn a_server_that_asks_without_end_does_not_make_the_engine_grow() {
    let (model, url) = (calls("flood.echo", json!({})).await, flood().await);
    let engine = Setup::scripted(&model).with("AD_CALL_TIMEOUT_S", "6").start().await;
    let config = json!({"server_name": "flood", "transport": "http", "url": url, "auth_method": "none"});
    engine.post("/assets/connect", json!({"server_name": "flood", "server_config": config})).await.ok().await;
    let before = resident(&engine);
    let turn = engine.turn("a", "go").await;
    let reason = &turn.one("tool_result").data["reason"];
    assert!(*reason == "timeout" || *reason == "MCP_CONNECTION_FAILED", "{reason}");
    let grown = resident(&engine).saturating_sub(before);
    assert!(grown < GROWTH_MAX, "grew by {} MiB", grown >> 20);
    assert_eq!(engine.health().await["status"], "ok");
}

#[tokio::test]
async fn thousands_of_silent_connections_keep_neither_probes_nor_callers_out() {
    let mut files = getrlimit(Resource::Nofile);
    files.current = Some(files.maximum.unwrap_or(8192).min(8192));
    setrlimit(Resource::Nofile, files).expect("more open files");
    let engine = Setup::offline().start().await;
    let mut silent = Vec::new();
    for batch in 0..21 {
        for _ in 0..100 {
            silent.push(TcpStream::connect(("127.0.0.1", engine.port)).await.expect("the engine listens"));
        }
        let probed = engine.send(Ask::get("/health").without_key()).await;
        assert_eq!(probed.status, 200, "after {batch} hundred");
    }
    assert_eq!(engine.turn("a", "hello").await.stop_reason(), "end_turn");
    drop(silent);
}

#[tokio::test]
async fn an_open_stream_goes_on_when_its_key_is_replaced_and_nothing_new_opens_with_it() {
    const NEW: &str = "the-second-key-of-all";
    let engine = Setup::offline().start().await;
    let mut follower = engine.get("/execute/replay?follow=true").await.stream();
    let hash: String = Sha256::digest(NEW.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    let body = json!({"new_key_hash": hash, "overlap_seconds": 0});
    engine.send(Ask::post("/admin/rotate-key", &body).key(KEY)).await.ok().await;
    engine.send(Ask::get("/tasks").key(KEY)).await.error(401, "KEY_ROTATION_PENDING").await;
    let again = engine.send(Ask::get("/execute/replay?follow=true").key(KEY)).await;
    again.error(401, "KEY_ROTATION_PENDING").await;
    let body = json!({"task_id": "x", "message": "hello"});
    let own = engine.send(Ask::post("/execute", &body).key(NEW)).await.stream();
    let turn = own.finish().await;
    assert_eq!(turn.stop_reason(), "end_turn");
    let seen = follower.until(|frame| frame.id == turn.last_id()).await;
    assert_eq!(seen.len(), turn.0.len(), "nothing is missing");
}
