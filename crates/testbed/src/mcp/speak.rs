//! The wire of the scripted server, one function per revision.

use super::{Mischief, SeenCall, Shared, Speaks};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::http::{HeaderMap, Response, StatusCode};
use axum::routing::{delete, get, post};
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

type Answer = Response<Body>;
type Events = BoxStream<'static, Result<Bytes, std::io::Error>>;

const META: &str = "io.modelcontextprotocol/";

pub(super) fn router(shared: Arc<Shared>) -> Router {
    let router = Router::new().route("/messages", post(message));
    let router = match shared.speaks {
        Speaks::EventStream => router.route("/mcp", get(stream_of_events)),
        Speaks::Modern => router.route("/mcp", post(modern)),
        Speaks::Session => router.route("/mcp", post(session).get(standing).merge(delete(goodbye))),
    };
    router.with_state(shared)
}

fn answer(status: StatusCode, body: &Value) -> Answer {
    let made = Response::builder().status(status).header("content-type", "application/json");
    made.body(Body::from(body.to_string())).expect("an answer")
}

fn plain(status: u16) -> Answer {
    Response::builder().status(status).body(Body::from("no")).expect("an answer")
}

fn events(events: Events) -> Answer {
    let made = Response::builder().header("content-type", "text/event-stream");
    made.body(Body::from_stream(events)).expect("an answer")
}

fn event(value: &Value) -> Result<Bytes, std::io::Error> {
    Ok(Bytes::from(format!("event: message\ndata: {value}\n\n")))
}

fn result(id: &Value, result: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "result": result})
}

fn error(id: &Value, code: i64, message: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": message}})
}

/// Notes the request; a refusal when its credentials are not accepted.
fn admit(shared: &Shared, headers: &HeaderMap, method: &str, body: &Value) -> Result<(), Box<Answer>> {
    let mut script = shared.script();
    script.seen.push(SeenCall { method: method.to_owned(), headers: headers.clone(), body: body.clone() });
    let Some(accepts) = &script.accepts else { return Ok(()) };
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let shown = text("authorization").and_then(|value| value.strip_prefix("Bearer ")).or(text("x-api-key"));
    if shown.is_some_and(|token| accepts(token)) {
        return Ok(());
    }
    let mut challenge = "Bearer error=\"invalid_token\"".to_owned();
    if let Some(url) = &script.resource_metadata {
        challenge.push_str(&format!(", resource_metadata=\"{url}\""));
    }
    let made = Response::builder().status(401).header("www-authenticate", challenge);
    Err(Box::new(made.body(Body::empty()).expect("an answer")))
}

/// The scripted misbehaviour of a call, when it is one that needs no revision.
async fn mischief(shared: &Shared) -> Option<Answer> {
    let mischief = shared.script().mischief.clone()?;
    Some(match mischief {
        Mischief::Status(status) => plain(status),
        Mischief::HangUp => {
            let broken = stream::iter([Err::<Bytes, _>(std::io::Error::other("hung up"))]).boxed();
            let made = Response::builder().header("content-type", "application/json");
            made.body(Body::from_stream(broken)).expect("an answer")
        }
        Mischief::Silence => std::future::pending().await,
        Mischief::Garbage => {
            let made = Response::builder().header("content-type", "application/json");
            made.body(Body::from("{\"nonsense\":")).expect("an answer")
        }
        Mischief::MissingScope(scope) => {
            let challenge = format!("Bearer error=\"insufficient_scope\", scope=\"{scope}\"");
            let made = Response::builder().status(403).header("www-authenticate", challenge);
            made.body(Body::empty()).expect("an answer")
        }
        Mischief::Progress(..)
        | Mischief::Elicit
        | Mischief::Complaint
        | Mischief::Says(_)
        | Mischief::SaysFailed(_) => return None,
    })
}

fn listing(shared: &Shared, params: &Value, modern: bool) -> Value {
    let script = shared.script();
    let from: usize = params["cursor"].as_str().and_then(|cursor| cursor.parse().ok()).unwrap_or(0);
    let to = (from + script.slice).min(script.tools.len());
    let mut listed = json!({"tools": script.tools[from.min(to)..to]});
    if to < script.tools.len() {
        listed["nextCursor"] = json!(to.to_string());
    }
    if modern {
        listed["resultType"] = json!("complete");
        listed["ttlMs"] = json!(3_600_000);
        listed["cacheScope"] = json!("private");
    }
    listed
}

fn said(params: &Value, modern: bool) -> Value {
    let text = params["arguments"]["text"].as_str().unwrap_or("nothing");
    says(&format!("echo: {text}"), modern)
}

fn says(text: &str, modern: bool) -> Value {
    let mut said = json!({"content": [{"type": "text", "text": text}]});
    if modern {
        said["resultType"] = json!("complete");
    }
    said
}

fn complaint(params: &Value, modern: bool) -> Value {
    let mut said = said(params, modern);
    said["isError"] = json!(true);
    said
}

fn form() -> Value {
    json!({
        "mode": "form", "message": "What is your name?",
        "requestedSchema": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
    })
}

/// Progress notifications and then an answer.
fn with_progress(body: &Value, times: u32, every_ms: u64, last: Value) -> Answer {
    let token = body["params"]["_meta"]["progressToken"].clone();
    let steps = stream::iter(0..times).then(move |step| {
        let note = json!({"jsonrpc": "2.0", "method": "notifications/progress",
                          "params": {"progressToken": token, "progress": step}});
        async move {
            tokio::time::sleep(Duration::from_millis(every_ms)).await;
            event(&note)
        }
    });
    let end = async move {
        tokio::time::sleep(Duration::from_millis(every_ms)).await;
        event(&last)
    };
    events(steps.chain(stream::once(end)).boxed())
}

async fn modern(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> Answer {
    let Ok(body) = serde_json::from_slice::<Value>(&body) else { return plain(400) };
    let method = body["method"].as_str().unwrap_or_default().to_owned();
    if let Err(refusal) = admit(&shared, &headers, &method, &body) {
        return *refusal;
    }
    let (id, params) = (body["id"].clone(), body["params"].clone());
    if id.is_null() {
        return plain(202);
    }
    if method == "initialize" {
        return answer(StatusCode::BAD_REQUEST, &error(&id, -32600, "this server has no handshake"));
    }
    let meta = |key: &str| params["_meta"].get(format!("{META}{key}")).cloned().unwrap_or_default();
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if meta("protocolVersion") != "2026-07-28" || meta("clientInfo").is_null() {
        return answer(StatusCode::BAD_REQUEST, &error(&id, -32022, "unsupported protocol version"));
    }
    if header("mcp-method") != method || header("mcp-protocol-version") != "2026-07-28" {
        return answer(StatusCode::BAD_REQUEST, &error(&id, -32020, "header mismatch"));
    }
    match method.as_str() {
        "server/discover" => answer(
            StatusCode::OK,
            &result(
                &id,
                json!({"resultType": "complete", "supportedVersions": ["2026-07-28"],
                       "capabilities": {"tools": {"listChanged": true}}, "ttlMs": 0, "cacheScope": "private"}),
            ),
        ),
        "tools/list" => answer(StatusCode::OK, &result(&id, listing(&shared, &params, true))),
        "tools/call" if header("mcp-name") != params["name"] => {
            answer(StatusCode::BAD_REQUEST, &error(&id, -32020, "header mismatch"))
        }
        "tools/call" => {
            if let Some(misbehaved) = mischief(&shared).await {
                return misbehaved;
            }
            let script = shared.script().mischief.clone();
            match script {
                Some(Mischief::Progress(times, every)) => {
                    with_progress(&body, times, every, result(&id, said(&params, true)))
                }
                Some(Mischief::Elicit) if params["inputResponses"].is_null() => {
                    let wanted = json!({"resultType": "input_required", "requestState": "where-we-were",
                        "inputRequests": {"who": {"method": "elicitation/create", "params": form()}}});
                    answer(StatusCode::OK, &result(&id, wanted))
                }
                Some(Mischief::Elicit) => {
                    let echoed = params["requestState"] == "where-we-were";
                    let given = &params["inputResponses"]["who"];
                    let text = format!("{} {} {echoed}", given["action"], given["content"]["name"]);
                    let said = json!({"resultType": "complete", "content": [{"type": "text", "text": text}]});
                    answer(StatusCode::OK, &result(&id, said))
                }
                Some(Mischief::Complaint) => answer(StatusCode::OK, &result(&id, complaint(&params, true))),
                Some(Mischief::Says(text)) => answer(StatusCode::OK, &result(&id, says(&text, true))),
                Some(Mischief::SaysFailed(text)) => {
                    let mut said = says(&text, true);
                    said["isError"] = json!(true);
                    answer(StatusCode::OK, &result(&id, said))
                }
                _ => answer(StatusCode::OK, &result(&id, said(&params, true))),
            }
        }
        "subscriptions/listen" => {
            let subscription = json!({format!("{META}subscriptionId"): id});
            let first = json!({"jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged",
                "params": {"_meta": subscription, "notifications": {"toolsListChanged": true}}});
            let note = json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed",
                "params": {"_meta": subscription}});
            events(told(&shared, Some(first), note))
        }
        _ => answer(StatusCode::OK, &error(&id, -32601, "no such method")),
    }
}

/// A stream of one first event, then one more whenever the tools change.
fn told(shared: &Shared, first: Option<Value>, note: Value) -> Events {
    let changed = shared.changed.subscribe();
    let rest = stream::unfold((changed, note), |(mut changed, note)| async move {
        changed.changed().await.ok()?;
        Some((event(&note), (changed, note)))
    });
    stream::iter(first).map(|value| event(&value)).chain(rest).boxed()
}

fn welcome(id: &Value, version: &str) -> Value {
    result(
        id,
        json!({"protocolVersion": version, "capabilities": {"tools": {"listChanged": true}},
               "serverInfo": {"name": "scripted", "version": "1"}}),
    )
}

async fn session(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> Answer {
    let Ok(body) = serde_json::from_slice::<Value>(&body) else { return plain(400) };
    let method = body["method"].as_str().unwrap_or("answer").to_owned();
    if let Err(refusal) = admit(&shared, &headers, &method, &body) {
        return *refusal;
    }
    let (id, params) = (body["id"].clone(), body["params"].clone());
    if method == "initialize" {
        let name = {
            let mut script = shared.script();
            script.counter += 1;
            let name = format!("session-{}", script.counter);
            script.sessions.insert(name.clone());
            name
        };
        let mut made = answer(StatusCode::OK, &welcome(&id, "2025-11-25"));
        made.headers_mut().insert("mcp-session-id", name.parse().expect("a header"));
        return made;
    }
    let known = headers.get("mcp-session-id").and_then(|value| value.to_str().ok());
    match known {
        None => return plain(400),
        Some(name) if !shared.script().sessions.contains(name) => return plain(404),
        Some(_) => {}
    }
    if method == "answer" {
        let waiting = body["id"].as_str().and_then(|id| shared.script().answers.remove(id));
        if let Some(waiting) = waiting {
            let _ = waiting.send(body["result"].clone());
        }
        return plain(202);
    }
    if id.is_null() {
        return plain(202);
    }
    match method.as_str() {
        "tools/list" => answer(StatusCode::OK, &result(&id, listing(&shared, &params, false))),
        "tools/call" => {
            if let Some(misbehaved) = mischief(&shared).await {
                return misbehaved;
            }
            let script = shared.script().mischief.clone();
            match script {
                Some(Mischief::Progress(times, every)) => {
                    with_progress(&body, times, every, result(&id, said(&params, false)))
                }
                Some(Mischief::Elicit) => elicit(&shared, id),
                Some(Mischief::Complaint) => answer(StatusCode::OK, &result(&id, complaint(&params, false))),
                Some(Mischief::Says(text)) => answer(StatusCode::OK, &result(&id, says(&text, false))),
                Some(Mischief::SaysFailed(text)) => {
                    let mut said = says(&text, false);
                    said["isError"] = json!(true);
                    answer(StatusCode::OK, &result(&id, said))
                }
                _ => answer(StatusCode::OK, &result(&id, said(&params, false))),
            }
        }
        _ => answer(StatusCode::OK, &error(&id, -32601, "no such method")),
    }
}

/// Asks on the stream of the call, and answers the call with what came back.
fn elicit(shared: &Arc<Shared>, id: Value) -> Answer {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    shared.script().answers.insert("ask-1".into(), sender);
    let question = json!({"jsonrpc": "2.0", "id": "ask-1", "method": "elicitation/create", "params": form()});
    let last = async move {
        let given = receiver.await.unwrap_or_default();
        let text = format!("{} {}", given["action"], given["content"]["name"]);
        event(&result(&id, json!({"content": [{"type": "text", "text": text}]})))
    };
    events(stream::iter([event(&question)]).chain(stream::once(last)).boxed())
}

async fn standing(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Answer {
    if let Err(refusal) = admit(&shared, &headers, "GET", &Value::Null) {
        return *refusal;
    }
    let note = json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"});
    events(told(&shared, None, note))
}

async fn goodbye(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Answer {
    if let Err(refusal) = admit(&shared, &headers, "DELETE", &Value::Null) {
        return *refusal;
    }
    plain(200)
}

async fn stream_of_events(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Answer {
    if let Err(refusal) = admit(&shared, &headers, "GET", &Value::Null) {
        return *refusal;
    }
    let (sender, receiver) = mpsc::unbounded_channel::<Value>();
    let name = {
        let mut script = shared.script();
        script.counter += 1;
        let name = format!("line-{}", script.counter);
        script.streams.insert(name.clone(), sender);
        name
    };
    let endpoint = Ok(Bytes::from(format!("event: endpoint\ndata: /messages?line={name}\n\n")));
    let answers = stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|value| (event(&value), receiver))
    });
    let note = json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"});
    let rest = stream::select(answers, told(&shared, None, note));
    events(stream::iter([endpoint]).chain(rest).boxed())
}

async fn message(
    State(shared): State<Arc<Shared>>,
    Query(query): Query<HashMap<String, String>>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    let Ok(body) = serde_json::from_slice::<Value>(&body) else { return plain(400) };
    let method = body["method"].as_str().unwrap_or("answer").to_owned();
    if let Err(refusal) = admit(&shared, &headers, &method, &body) {
        return *refusal;
    }
    let line = query.get("line").and_then(|name| shared.script().streams.get(name).cloned());
    let Some(line) = line else { return plain(404) };
    let (id, params) = (body["id"].clone(), body["params"].clone());
    let said = match method.as_str() {
        _ if id.is_null() => return plain(202),
        "initialize" => welcome(&id, "2024-11-05"),
        "tools/list" => result(&id, listing(&shared, &params, false)),
        "tools/call" => {
            if let Some(misbehaved) = mischief(&shared).await {
                return misbehaved;
            }
            result(&id, said(&params, false))
        }
        _ => error(&id, -32601, "no such method"),
    };
    let _ = line.send(said);
    plain(202)
}
