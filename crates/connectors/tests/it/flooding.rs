//! Servers that send without end: what they hold of the Engine's memory stays bounded, and the call ends.
//!
//! Everything is counted in bytes and messages. The server offers far more than a line may take; how much of it was
//! taken says whether the reading stopped, and the memory of this process whether anything piled up.

use crate::house::{House, until};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Response, StatusCode};
use axum::response::IntoResponse;
use axum::routing::get;
use connectors::trouble::Trouble;
use futures::StreamExt;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// What a flood offers. Without a limit all of it is taken.
const OFFERED: u64 = 256 << 20;
/// What may lie in the sockets and queues between server and client when the reading has stopped.
const UNREAD_MAX: u64 = 24 << 20;
/// How much the process may grow, and a generous factor.
const GROWTH_MAX: u64 = 64 << 20;

/// What the server does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flood {
    /// Asks for a sampling again and again, on the stream of the call; whether it takes the answers.
    Requests { taken: bool },
    /// The same on the stream of the session.
    Standing,
    /// Says again and again that its tools have changed, then answers.
    Changed,
    /// Answers what was never asked, with tools.
    Unasked,
    /// One message after the other of no use, each a megabyte.
    Bulk,
    /// One event without an end.
    Endless,
    /// Head of an answer that never ends, compressed.
    Bomb,
    /// Answers every answer with a stream that stays open.
    Streams,
    /// Ends the stream of the session at once and wants it opened again at once.
    Reopen,
    /// A list of tools with always another cursor.
    Cursors,
    /// A list of tools with always the same cursor.
    SameCursor,
    /// Slices of many megabytes.
    FatSlices,
    /// Answers in one event of very many empty parts.
    Crumbs,
    /// Answers in a plain body of a few parts too many.
    Parts,
}

struct Server {
    url: String,
    shared: Arc<Shared>,
    running: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.running.abort();
    }
}

#[derive(Default)]
struct Counts {
    /// Bytes of the flood that were taken from the server.
    written: AtomicU64,
    answers: AtomicU64,
    lists: AtomicU64,
    gets: AtomicU64,
    open: AtomicU64,
    calm: AtomicBool,
    /// A call has come on the old transport, so its stream floods.
    begun: AtomicBool,
}

struct Shared {
    flood: Flood,
    counts: Counts,
    old: std::sync::Mutex<Option<tokio::sync::mpsc::UnboundedSender<String>>>,
}

/// Counts a stream as open until it goes.
struct Open(Arc<Shared>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.counts.open.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn serve(flood: Flood) -> Server {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}/mcp", listener.local_addr().expect("bound"));
    let shared = Arc::new(Shared { flood, counts: Counts::default(), old: Default::default() });
    let app = Router::new()
        .route("/mcp", get(standing).post(post).delete(|| async { StatusCode::OK }))
        .route("/sse", get(old_stream))
        .route("/messages", axum::routing::post(old_message))
        .with_state(Arc::clone(&shared));
    let running = tokio::spawn(async move {
        let _ = axum::serve(listener, app).await;
    });
    Server { url, shared, running }
}

fn events(
    shared: &Arc<Shared>,
    piece: impl Fn(u64) -> String + Send + 'static,
    last: Option<Value>,
) -> Response<Body> {
    shared.counts.open.fetch_add(1, Ordering::SeqCst);
    let (open, counting) = (Open(Arc::clone(shared)), Arc::clone(shared));
    let flood = futures::stream::unfold((0_u64, 0_u64, open), move |(number, sent, open)| {
        // many small events in one piece, as a server that writes fast does
        let mut text = String::new();
        let mut next = number;
        while text.len() < 32 * 1024 {
            text.push_str(&piece(next));
            next += 1;
        }
        let bytes = u64::try_from(text.len()).expect("fits");
        let going = sent < OFFERED;
        if going {
            counting.counts.written.fetch_add(bytes, Ordering::SeqCst);
        }
        async move { going.then(|| (Ok::<_, std::io::Error>(Bytes::from(text)), (next, sent + bytes, open))) }
    });
    let last = futures::stream::iter(last.map(|value| Ok(Bytes::from(format!("data: {value}\n\n")))));
    let made = Response::builder().header("content-type", "text/event-stream");
    made.body(Body::from_stream(flood.chain(last))).expect("an answer")
}

fn sampling(number: u64) -> String {
    let asked = json!({"jsonrpc": "2.0", "id": format!("q{number}"), "method": "sampling/createMessage",
                       "params": {"messages": [], "maxTokens": 1}});
    format!("data: {asked}\n\n")
}

fn changed(_: u64) -> String {
    "data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/tools/list_changed\"}\n\n".into()
}

async fn standing(State(shared): State<Arc<Shared>>) -> Response<Body> {
    shared.counts.gets.fetch_add(1, Ordering::SeqCst);
    let stream = || Response::builder().header("content-type", "text/event-stream");
    match shared.flood {
        Flood::Standing => events(&shared, sampling, None),
        Flood::Reopen => stream().body(Body::from("id: 1\nretry: 0\n\n")).expect("an answer"),
        _ => StatusCode::METHOD_NOT_ALLOWED.into_response(),
    }
}

async fn post(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> Response<Body> {
    let Ok(body) = serde_json::from_slice::<Value>(&body) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let (id, method) = (body["id"].clone(), body["method"].as_str().unwrap_or("answer"));
    let flood = shared.flood;
    let result =
        |result: Value| axum::Json(json!({"jsonrpc": "2.0", "id": id, "result": result})).into_response();
    let text = || json!({"content": [{"type": "text", "text": "done"}]});
    match method {
        "initialize" => {
            let mut made = result(
                json!({"protocolVersion": "2025-06-18", "capabilities": {"tools": {"listChanged": true}},
                "serverInfo": {"name": "flood", "version": "1"}}),
            );
            made.headers_mut().insert("mcp-session-id", "one".parse().expect("a header"));
            made
        }
        _ if headers.get("mcp-session-id").is_none() => StatusCode::BAD_REQUEST.into_response(),
        "answer" => {
            shared.counts.answers.fetch_add(1, Ordering::SeqCst);
            match flood {
                Flood::Requests { taken: false } | Flood::Standing => std::future::pending().await,
                Flood::Streams => {
                    shared.counts.open.fetch_add(1, Ordering::SeqCst);
                    let open = Open(Arc::clone(&shared));
                    let stays = futures::stream::pending::<Result<Bytes, std::io::Error>>();
                    let stays = stays.map(move |event| {
                        let _ = &open;
                        event
                    });
                    let made = Response::builder().header("content-type", "text/event-stream");
                    made.body(Body::from_stream(stays)).expect("an answer")
                }
                _ => StatusCode::ACCEPTED.into_response(),
            }
        }
        "tools/list" => {
            let number = shared.counts.lists.fetch_add(1, Ordering::SeqCst);
            let tool = |name: &str, text: &str| json!({"name": name, "description": text, "inputSchema": {"type": "object"}});
            match flood {
                Flood::Cursors => result(
                    json!({"tools": [tool(&format!("t{number}"), "")], "nextCursor": number.to_string()}),
                ),
                Flood::SameCursor => result(json!({"tools": [tool("echo", "")], "nextCursor": "again"})),
                Flood::FatSlices => {
                    let text = "x".repeat(6 << 20);
                    result(
                        json!({"tools": [tool(&format!("t{number}"), &text)], "nextCursor": number.to_string()}),
                    )
                }
                _ => result(json!({"tools": [tool("echo", "")]})),
            }
        }
        "tools/call" if !shared.counts.calm.load(Ordering::SeqCst) => {
            let answer = json!({"jsonrpc": "2.0", "id": id, "result": text()});
            match flood {
                Flood::Requests { .. } | Flood::Streams => events(&shared, sampling, None),
                Flood::Changed => events(&shared, changed, Some(answer)),
                Flood::Unasked => events(
                    &shared,
                    |number| {
                        let told = json!({"jsonrpc": "2.0", "id": 1_000_000 + number, "result": {"tools": [
                        {"name": format!("n{number}"), "inputSchema": {"type": "object"}}]}});
                        format!("data: {told}\n\n")
                    },
                    Some(answer),
                ),
                Flood::Bulk => {
                    let text = format!(
                        "data: {{\"jsonrpc\":\"2.0\",\"method\":\"x/y\",\"params\":{{\"a\":\"{}\"}}}}\n\n",
                        "x".repeat(1 << 20)
                    );
                    events(&shared, move |_| text.clone(), Some(answer))
                }
                Flood::Crumbs => {
                    let made = Response::builder().header("content-type", "text/event-stream");
                    made.body(Body::from(crumbs(&id))).expect("an answer")
                }
                Flood::Parts => result(json!({"content": vec![json!({"type": "text", "text": ""}); 1_001]})),
                Flood::Endless => events(&shared, |_| format!("data: {}", "x".repeat(32 << 10)), None),
                Flood::Bomb => {
                    let made = Response::builder()
                        .header("content-type", "application/json")
                        .header("content-encoding", "gzip");
                    made.body(Body::from(bomb())).expect("an answer")
                }
                _ => result(text()),
            }
        }
        "tools/call" => result(text()),
        _ if id.is_null() => StatusCode::ACCEPTED.into_response(),
        _ => axum::Json(json!({"jsonrpc": "2.0", "id": id, "error": {"code": -32601, "message": "no"}}))
            .into_response(),
    }
}

/// The stream of 2024-11-05: answers come here, and the flood after the first call.
async fn old_stream(State(shared): State<Arc<Shared>>) -> Response<Body> {
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel::<String>();
    *shared.old.lock().expect("no panic") = Some(sender);
    shared.counts.begun.store(false, Ordering::SeqCst);
    let rest =
        futures::stream::unfold((receiver, 0_u64, shared), |(mut receiver, number, shared)| async move {
            let counts = &shared.counts;
            let floods =
                counts.begun.load(Ordering::SeqCst) && counts.written.load(Ordering::SeqCst) < OFFERED;
            let (text, next) = match floods {
                true => ((0..256).map(|more| sampling(number + more)).collect::<String>(), number + 256),
                false => (receiver.recv().await?, number),
            };
            if floods {
                counts.written.fetch_add(u64::try_from(text.len()).expect("fits"), Ordering::SeqCst);
            }
            Some((Ok::<_, std::io::Error>(Bytes::from(text)), (receiver, next, shared)))
        });
    let first = futures::stream::iter([Ok(Bytes::from("event: endpoint\ndata: /messages\n\n"))]);
    let made = Response::builder().header("content-type", "text/event-stream");
    made.body(Body::from_stream(first.chain(rest))).expect("an answer")
}

async fn old_message(State(shared): State<Arc<Shared>>, body: Bytes) -> StatusCode {
    let body = serde_json::from_slice::<Value>(&body).unwrap_or_default();
    let result = match body["method"].as_str() {
        Some("initialize") => json!({"protocolVersion": "2024-11-05", "capabilities": {"tools": {}},
                                     "serverInfo": {"name": "old", "version": "1"}}),
        Some("tools/list") => json!({"tools": [{"name": "echo", "inputSchema": {"type": "object"}}]}),
        Some("tools/call") => json!({"content": [{"type": "text", "text": "done"}]}),
        None => {
            shared.counts.answers.fetch_add(1, Ordering::SeqCst);
            return match shared.flood {
                Flood::Requests { taken: false } => std::future::pending().await,
                _ => StatusCode::ACCEPTED,
            };
        }
        Some(_) => return StatusCode::ACCEPTED,
    };
    let crumbles = shared.flood == Flood::Crumbs;
    let storms = body["method"] == "tools/call" && !shared.counts.calm.load(Ordering::SeqCst);
    if storms && !crumbles {
        shared.counts.begun.store(true, Ordering::SeqCst);
    }
    let answer = json!({"jsonrpc": "2.0", "id": body["id"], "result": result});
    let floods = shared.counts.begun.load(Ordering::SeqCst);
    let text = match floods {
        true => sampling(u64::MAX / 2),
        false if storms && crumbles => crumbs(&body["id"]),
        false => format!("data: {answer}\n\n"),
    };
    let old = shared.old.lock().expect("no panic").clone();
    let _ = old.map(|old| old.send(text));
    StatusCode::ACCEPTED
}

/// An answer of 300,000 empty parts in one event of eight megabytes.
fn crumbs(id: &Value) -> String {
    let parts = r#"{"type":"text","text":""},"#.repeat(300_000);
    let parts = parts.trim_end_matches(',');
    format!("data: {{\"jsonrpc\":\"2.0\",\"result\":{{\"content\":[{parts}]}},\"id\":{id}}}\n\n")
}

/// 256 MiB of spaces, compressed.
fn bomb() -> Vec<u8> {
    use std::io::Write as _;
    let mut child = std::process::Command::new("gzip")
        .arg("-9")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("gzip is there");
    let mut input = child.stdin.take().expect("a pipe");
    let writing = std::thread::spawn(move || {
        let spaces = vec![b' '; 1 << 20];
        for _ in 0..256 {
            if input.write_all(&spaces).is_err() {
                return;
            }
        }
    });
    let made = child.wait_with_output().expect("gzip ends").stdout;
    writing.join().expect("does not panic");
    made
}

/// Resident memory of this process.
fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").expect("Linux tells");
    let line = text.lines().find(|line| line.starts_with("VmRSS:")).expect("a line");
    let kilobytes: u64 = line.split_whitespace().nth(1).and_then(|word| word.parse().ok()).expect("a number");
    kilobytes * 1024
}

async fn house(call: Duration) -> House {
    let house = House::new().await;
    House::with(house.paper.clone(), house.keys.clone(), call, Duration::from_secs(600)).await
}

/// One call during a flood: how it ended and how much the process had grown.
async fn flooded(flood: Flood, call: Duration) -> (Server, House, Result<String, Trouble>) {
    let (server, house) = (serve(flood).await, house(call).await);
    let id = house.connect(&server.url).await;
    let before = resident();
    let done = house.say(&id, "x").await.map(|answer| answer.text());
    let grown = resident().saturating_sub(before);
    assert!(grown < GROWTH_MAX, "{flood:?}: grew by {} MiB", grown >> 20);
    // the line, or the next one, is as good as new
    server.shared.counts.calm.store(true, Ordering::SeqCst);
    let again = house.say(&id, "x").await;
    assert_eq!(again.map(|answer| answer.text()).ok().as_deref(), Some("done"), "{flood:?}");
    (server, house, done)
}

fn written(server: &Server) -> u64 {
    server.shared.counts.written.load(Ordering::SeqCst)
}

#[tokio::test]
async fn a_server_that_asks_without_end_is_cut_off() {
    let (server, house, done) = flooded(Flood::Requests { taken: true }, Duration::from_secs(20)).await;
    let trouble = done.expect_err("must end");
    assert!(matches!(trouble, Trouble::Cut(_)) && trouble.counts(), "{trouble:?}");
    assert!(trouble.to_string().contains("asks more than it may"), "{trouble}");
    assert!(written(&server) < UNREAD_MAX, "{} bytes were taken", written(&server));
    assert!(server.shared.counts.answers.load(Ordering::SeqCst) < 1_024);
    until("the flood has nobody to read it", || async {
        server.shared.counts.open.load(Ordering::SeqCst) == 0
    })
    .await;
    drop(house);
}

#[tokio::test]
async fn a_server_that_asks_and_does_not_take_the_answers_is_not_read() {
    let (server, _house, done) = flooded(Flood::Requests { taken: false }, Duration::from_secs(2)).await;
    assert!(matches!(done, Err(Trouble::TimedOut(_) | Trouble::Cut(_))), "{done:?}");
    assert!(written(&server) < UNREAD_MAX, "{} bytes were taken", written(&server));
    assert!(server.shared.counts.answers.load(Ordering::SeqCst) <= 64);
}

#[tokio::test]
async fn the_old_transport_has_the_same_ceilings() {
    for taken in [true, false] {
        let (server, house) = (
            serve(Flood::Requests { taken }).await,
            house(Duration::from_secs(if taken { 20 } else { 2 })).await,
        );
        let url = server.url.replace("/mcp", "/sse");
        let config = json!({"server_name": "s", "transport": "sse", "url": url, "auth_method": "none"});
        let id = house.connect_with("s", config).await;
        let before = resident();
        let trouble = house.say(&id, "x").await.expect_err("must end");
        let cut = matches!(trouble, Trouble::Cut(_)) || (!taken && matches!(trouble, Trouble::TimedOut(_)));
        assert!(cut, "{taken}: {trouble:?}");
        assert!(resident().saturating_sub(before) < GROWTH_MAX);
        assert!(written(&server) < UNREAD_MAX, "{taken}: {} bytes were taken", written(&server));
        server.shared.counts.calm.store(true, Ordering::SeqCst);
        if taken {
            assert!(house.say(&id, "x").await.is_ok());
        }
    }
}

#[tokio::test]
async fn the_stream_of_a_session_is_judged_as_well() {
    let (server, _house, done) = flooded(Flood::Standing, Duration::from_secs(5)).await;
    assert_eq!(done.ok().as_deref(), Some("done"), "calls go on beside it");
    assert!(written(&server) < UNREAD_MAX, "{} bytes were taken", written(&server));
}

#[tokio::test]
async fn streams_that_answer_our_answers_are_not_kept() {
    let (server, _house, done) = flooded(Flood::Streams, Duration::from_secs(20)).await;
    assert!(matches!(done, Err(Trouble::Cut(_))), "{done:?}");
    assert!(server.shared.counts.answers.load(Ordering::SeqCst) > 100, "they were answered with streams");
    until("no stream is left", || async { server.shared.counts.open.load(Ordering::SeqCst) <= 1 }).await;
}

#[tokio::test]
async fn a_storm_of_notifications_and_of_strange_answers_is_cut() {
    for flood in [Flood::Changed, Flood::Unasked, Flood::Bulk] {
        let (server, _house, done) = flooded(flood, Duration::from_secs(60)).await;
        assert!(matches!(done, Err(Trouble::Cut(_))), "{flood:?}: {done:?}");
        assert!(
            written(&server) < (64 << 20) + UNREAD_MAX,
            "{flood:?}: {} bytes were taken",
            written(&server)
        );
        let lists = server.shared.counts.lists.load(Ordering::SeqCst);
        assert!(lists <= 3, "{flood:?}: listed {lists} times");
    }
}

#[tokio::test]
async fn an_event_without_an_end_and_a_bomb_are_given_up() {
    for flood in [Flood::Endless, Flood::Bomb] {
        let (server, _house, done) = flooded(flood, Duration::from_secs(20)).await;
        assert!(done.as_ref().is_err_and(Trouble::counts), "{flood:?}: {done:?}");
        assert!(
            written(&server) < (16 << 20) + UNREAD_MAX,
            "{flood:?}: {} bytes were taken",
            written(&server)
        );
    }
}

#[tokio::test]
async fn an_answer_of_very_many_parts_is_cut_before_it_is_parsed() {
    let (_server, _house, done) = flooded(Flood::Crumbs, Duration::from_secs(20)).await;
    let trouble = done.expect_err("must end");
    assert!(matches!(trouble, Trouble::Cut(_)) && trouble.counts(), "{trouble:?}");
    assert!(trouble.to_string().contains("holds more values than it may"), "{trouble}");

    let (server, house) = (serve(Flood::Crumbs).await, house(Duration::from_secs(20)).await);
    let url = server.url.replace("/mcp", "/sse");
    let config = json!({"server_name": "s", "transport": "sse", "url": url, "auth_method": "none"});
    let id = house.connect_with("s", config).await;
    let before = resident();
    let trouble = house.say(&id, "x").await.expect_err("must end");
    assert!(trouble.to_string().contains("holds more values than it may"), "{trouble}");
    let grown = resident().saturating_sub(before);
    assert!(grown < GROWTH_MAX, "grew by {} MiB", grown >> 20);
    server.shared.counts.calm.store(true, Ordering::SeqCst);
    assert!(house.say(&id, "x").await.is_ok());
}

#[tokio::test]
async fn a_result_of_too_many_parts_is_refused_and_the_line_stays() {
    let (_server, _house, done) = flooded(Flood::Parts, Duration::from_secs(20)).await;
    let trouble = done.expect_err("is too many");
    assert!(matches!(&trouble, Trouble::Garbage(why) if why.contains("1001 parts")), "{trouble:?}");
}

#[tokio::test]
async fn a_stream_that_always_ends_is_not_opened_for_ever() {
    let (server, house) = (serve(Flood::Reopen).await, house(Duration::from_secs(5)).await);
    let id = house.connect(&server.url).await;
    until("the first streams", || async { server.shared.counts.gets.load(Ordering::SeqCst) >= 16 }).await;
    let (begun, before) = (tokio::time::Instant::now(), server.shared.counts.gets.load(Ordering::SeqCst));
    until("two more", || async { server.shared.counts.gets.load(Ordering::SeqCst) >= before + 2 }).await;
    assert!(begun.elapsed() >= Duration::from_millis(500), "one a second");
    assert!(house.say(&id, "x").await.is_ok());
}

#[tokio::test]
async fn a_list_of_tools_ends() {
    let house = house(Duration::from_secs(5)).await;
    let config = |server: &Server| json!({"server_name": "s", "transport": "http", "url": server.url, "auth_method": "none"});
    for (flood, most) in [(Flood::Cursors, 64), (Flood::SameCursor, 2)] {
        let server = serve(flood).await;
        house.connect_with("s", config(&server)).await;
        let lists = server.shared.counts.lists.load(Ordering::SeqCst);
        assert_eq!(lists, most, "{flood:?}");
    }
    let server = serve(Flood::FatSlices).await;
    let before = resident();
    let refused = house.try_connect("s", config(&server)).await.expect_err("too large");
    assert!(format!("{refused:?}").contains("a list of tools that is too large"), "{refused:?}");
    assert!(resident().saturating_sub(before) < 2 * GROWTH_MAX);
    assert!(server.shared.counts.lists.load(Ordering::SeqCst) <= 3);
}
