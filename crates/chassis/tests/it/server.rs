//! Real connections against a real listener on a free port.

use axum::Router;
use axum::body::Body;
use axum::routing::{get, post};
use bytes::Bytes;
use chassis::drain::Drain;
use chassis::http::{
    Closed, Guard, HostRule, KeyHash, KeyRing, OriginRule, Preflight, Refusal, RequestMetrics, Server,
    ServerLimits, Watch, front, read_body,
};
use contract::{ApiError, ErrorCode};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

const KEY: &str = "correct-horse";
/// Longest any of these tests may wait for something that must happen.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server of the test's own, with the keys and gate it may turn.
struct App {
    address: SocketAddr,
    drain: Drain,
    ready: Arc<AtomicBool>,
    running: JoinHandle<Closed>,
}

fn routes() -> Router {
    async fn echo(body: Body) -> Result<Bytes, Refusal> {
        Ok(read_body(body, 1 << 20).await?)
    }
    async fn endless() -> Body {
        let chunk = Bytes::from(vec![b'x'; 64 * 1024]);
        Body::from_stream(futures::stream::repeat_with(move || Ok::<_, std::io::Error>(chunk.clone())))
    }
    async fn slow() -> &'static str {
        tokio::time::sleep(Duration::from_millis(300)).await;
        "done"
    }
    async fn never() -> &'static str {
        std::future::pending().await
    }
    async fn broken() -> &'static str {
        panic!("on purpose")
    }
    Router::new()
        .route("/health", get(|| async { "up" }))
        .route("/things/{id}", get(|| async { "thing" }))
        .route("/echo", post(echo))
        .route("/endless", get(endless))
        .route("/slow", get(slow))
        .route("/never", get(never))
        .route("/broken", get(broken))
        .fallback(|| async { Refusal(ApiError::new(ErrorCode::NotFound, "no such path")) })
}

async fn start(limits: ServerLimits, grace: Duration) -> App {
    let ready = Arc::new(AtomicBool::new(true));
    let gate_ready = ready.clone();
    let guard = Guard {
        key_header: http::HeaderName::from_static("x-test-key"),
        keys: Arc::new(KeyRing::new(KeyHash::of(KEY), &[])),
        keyless: |method, path| *method == Method::GET && path == "/health",
        gate: Box::new(move |_, path| {
            let refuse = !gate_ready.load(Ordering::SeqCst) && path != "/health";
            refuse.then(|| ApiError::new(ErrorCode::Starting, "not yet"))
        }),
        hosts: HostRule::default(),
        hosts_variable: "TEST_HOSTS",
        origins: OriginRule::new(["https://app.example"], false),
        origins_variable: "TEST_ORIGINS",
        preflight: Preflight {
            methods: |path| (path == "/echo").then_some("POST"),
            headers: "X-Test-Key, Content-Type",
            expose: "X-Request-Id, Retry-After",
        },
    };
    let metrics = RequestMetrics {
        requests_total: "test_requests_total",
        errors_total: "test_errors_total",
        request_duration_seconds: "test_request_duration_seconds",
    };
    let watch = Watch { metrics, quiet: &["/health"] };
    let app = front(routes(), Arc::new(watch), Arc::new(guard));
    let server = Server::bind(([127, 0, 0, 1], 0).into(), limits).await.expect("a free port");
    let address = server.local_addr().expect("is bound");
    let drain = Drain::new();
    let running = tokio::spawn(server.run(app, drain.clone(), grace));
    App { address, drain, ready, running }
}

async fn start_default() -> App {
    start(ServerLimits::default(), Duration::from_secs(5)).await
}

impl App {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("the server listens")
    }

    /// Sends raw bytes and reads until the server closes.
    async fn raw(&self, text: &str) -> String {
        let mut stream = self.connect().await;
        stream.write_all(text.as_bytes()).await.expect("is taken");
        read_to_end(&mut stream).await
    }

    async fn send(&self, request: http::request::Builder) -> Answer {
        self.send_body(request, Bytes::new()).await
    }

    async fn send_body(&self, request: http::request::Builder, body: Bytes) -> Answer {
        let io = TokioIo::new(self.connect().await);
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(io).await.expect("speaks HTTP/1.1");
        tokio::spawn(connection);
        let mut request = request.body(Full::new(body)).expect("is well formed");
        if !request.headers().contains_key("host") {
            request.headers_mut().insert("host", "localhost".parse().expect("is a host"));
        }
        Answer::read(sender.send_request(request).await.expect("is answered")).await
    }

    async fn stop(self) -> Closed {
        self.drain.close();
        tokio::time::timeout(PATIENCE, self.running).await.expect("stops").expect("does not panic")
    }
}

async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    // A reset ends the talk like a close does.
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("the server closes");
    String::from_utf8_lossy(&bytes).into_owned()
}

struct Answer {
    status: StatusCode,
    headers: http::HeaderMap,
    body: Bytes,
}

impl Answer {
    async fn read(response: Response<hyper::body::Incoming>) -> Self {
        let (head, body) = response.into_parts();
        let body = body.collect().await.expect("is complete").to_bytes();
        Self { status: head.status, headers: head.headers, body }
    }

    fn code(&self) -> String {
        let body: Value = serde_json::from_slice(&self.body).expect("is JSON");
        body["error"].as_str().expect("is flat").to_owned()
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|v| v.to_str().expect("is text"))
    }
}

fn with_key(path: &str) -> http::request::Builder {
    Request::builder().uri(path).header("x-test-key", KEY)
}

#[tokio::test]
async fn both_protocols_are_served_on_one_port() {
    let app = start_default().await;
    let answer = app.send(with_key("/things/7").header("x-request-id", "mine-1")).await;
    assert_eq!((answer.status.as_u16(), &answer.body[..]), (200, &b"thing"[..]));
    assert_eq!(answer.header("x-request-id"), Some("mine-1"));
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));

    let io = TokioIo::new(app.connect().await);
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.expect("speaks HTTP/2");
    tokio::spawn(connection);
    let url = format!("http://{}/echo", app.address);
    let request =
        with_key(&url).method("POST").body(Full::new(Bytes::from("over h2"))).expect("is well formed");
    let answer = Answer::read(sender.send_request(request).await.expect("is answered")).await;
    assert_eq!((answer.status.as_u16(), &answer.body[..]), (200, &b"over h2"[..]));
    assert!(answer.header("x-request-id").expect("is made").starts_with("req-"));
    drop(sender);
    assert_eq!(app.stop().await, Closed { cut: 0 });
}

#[tokio::test]
async fn the_key_comes_before_host_origin_and_everything_else() {
    let app = start_default().await;
    let bare = |path: &str| Request::builder().uri(path);
    let evil = app.send(bare("/nowhere").header("host", "evil.example").header("origin", "null")).await;
    assert_eq!((evil.status.as_u16(), evil.code().as_str()), (401, "INVALID_KEY"));
    let wrong = app.send(bare("/things/1").header("x-test-key", "wrong")).await;
    assert_eq!(wrong.code(), "INVALID_KEY");
    let twice = app.send(with_key("/things/1").header("x-test-key", KEY)).await;
    assert_eq!(twice.code(), "INVALID_KEY");

    assert_eq!(app.send(bare("/health")).await.status, 200);
    let rebound = app.send(bare("/health").header("host", "evil.example")).await;
    assert_eq!((rebound.status.as_u16(), rebound.code().as_str()), (403, "PERMISSION_DENIED"));
    assert!(String::from_utf8_lossy(&rebound.body).contains("TEST_HOSTS"));
    assert_eq!(app.send(with_key("/things/1").header("host", "public.example")).await.status, 200);

    let page = app.send(with_key("/things/1").header("origin", "https://evil.example")).await;
    assert_eq!((page.status.as_u16(), page.header("access-control-allow-origin")), (403, None));
    assert_eq!(app.send(with_key("/things/1").header("origin", "null")).await.status, 403);
    assert_eq!(app.send(with_key("/nowhere")).await.code(), "NOT_FOUND");

    app.ready.store(false, Ordering::SeqCst);
    let early = app.send(bare("/things/1")).await;
    assert_eq!((early.code().as_str(), early.header("retry-after")), ("STARTING", Some("1")));
    assert_eq!(app.send(bare("/health")).await.status, 200);
    app.stop().await;
}

#[tokio::test]
async fn a_listed_origin_may_ask_and_read() {
    let app = start_default().await;
    let page = "https://app.example";
    let answer = app.send(with_key("/things/1").header("origin", page)).await;
    assert_eq!((answer.status.as_u16(), answer.header("access-control-allow-origin")), (200, Some(page)));
    assert_eq!(answer.header("vary"), Some("Origin"));
    let refused = app.send(Request::builder().uri("/things/1").header("origin", page)).await;
    assert_eq!(
        (refused.code().as_str(), refused.header("access-control-allow-origin")),
        ("INVALID_KEY", Some(page))
    );

    let preflight = |path: &str, origin: &str| {
        let request = Request::builder().method("OPTIONS").uri(path).header("origin", origin);
        request.header("access-control-request-method", "POST")
    };
    let answer = app.send(preflight("/echo", page)).await;
    assert_eq!((answer.status.as_u16(), answer.body.len()), (200, 0));
    assert_eq!(answer.header("access-control-allow-methods"), Some("POST"));
    assert_eq!(answer.header("access-control-max-age"), Some("600"));
    assert_eq!(app.send(preflight("/echo", "https://evil.example")).await.status, 403);
    assert_eq!(app.send(preflight("/nowhere", page)).await.status, 404);
    app.stop().await;
}

#[tokio::test]
async fn a_panic_is_an_internal_error_of_its_own_request_only() {
    let app = start_default().await;
    let answer = app.send(with_key("/broken").header("x-request-id", "req-9")).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (500, "INTERNAL"));
    assert!(String::from_utf8_lossy(&answer.body).contains("req-9"));
    assert!(!String::from_utf8_lossy(&answer.body).contains("on purpose"));
    assert_eq!(app.send(with_key("/things/1")).await.status, 200);
    app.stop().await;
}

#[tokio::test]
async fn a_header_block_has_a_size_limit() {
    let app = start_default().await;
    let fits = "a".repeat(30 * 1024);
    assert_eq!(app.send(with_key("/things/1").header("x-long", fits)).await.status, 200);
    let long = "a".repeat(40 * 1024);
    let answer = app.raw(&format!("GET /health HTTP/1.1\r\nhost: a\r\nx-long: {long}\r\n\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    // What the references of both programs say of it.
    let unreadable = app.raw("GET /health\r\nhost: a\r\n\r\n").await;
    assert!(unreadable.starts_with("HTTP/1.1 400 "), "{unreadable}");
    for bodiless in [answer, unreadable] {
        assert!(bodiless.contains("content-length: 0\r\n") && bodiless.ends_with("\r\n\r\n"), "{bodiless}");
    }
    app.stop().await;
}

#[tokio::test]
async fn a_body_beyond_the_handlers_limit_is_refused() {
    let app = start_default().await;
    let answer = app.send_body(with_key("/echo").method("POST"), Bytes::from(vec![0; (1 << 20) + 1])).await;
    assert_eq!((answer.status.as_u16(), answer.code().as_str()), (413, "PAYLOAD_TOO_LARGE"));
    app.stop().await;
}

#[tokio::test]
async fn silent_clients_and_unfinished_headers_are_closed() {
    let opening_timeout = Duration::from_millis(200);
    let limits = ServerLimits { opening_timeout, ..ServerLimits::default() };
    let app = start(limits, Duration::from_secs(5)).await;
    for begun in ["", "PRI * HTT"] {
        let began = Instant::now();
        app.raw(begun).await;
        assert!(began.elapsed() >= Duration::from_millis(150), "{begun:?} was closed at once");
    }
    app.stop().await;
    let limits = ServerLimits { header_timeout: Duration::from_millis(200), ..ServerLimits::default() };
    let app = start(limits, Duration::from_secs(5)).await;
    for begun in ["", "PRI * HTT", "GET /health HTTP/1.1\r\nhost:"] {
        let began = Instant::now();
        app.raw(begun).await;
        assert!(began.elapsed() >= Duration::from_millis(150), "{begun:?} was closed at once");
    }
    app.stop().await;
}

#[tokio::test]
async fn a_head_that_trickles_is_closed_while_a_connection_that_rests_is_kept() {
    let limits = ServerLimits {
        request_timeout: Some(Duration::from_millis(200)),
        header_timeout: Duration::from_secs(10),
        ..ServerLimits::default()
    };
    let app = start(limits, Duration::from_secs(5)).await;
    let began = Instant::now();
    app.raw("GET /health HTTP/1.1\r\nhost:").await;
    assert!(began.elapsed() < Duration::from_secs(5), "a trickling head is not given the idle time");

    let mut stream = app.connect().await;
    let whole = b"GET /health HTTP/1.1\r\nhost: a\r\n\r\n";
    let mut answer = [0; 1024];
    stream.write_all(whole).await.expect("is taken");
    assert!(stream.read(&mut answer).await.expect("is answered") > 0);
    tokio::time::timeout(Duration::from_millis(600), stream.read(&mut answer))
        .await
        .expect_err("a resting connection is neither closed nor spoken to");
    stream.write_all(whole).await.expect("is taken");
    assert!(stream.read(&mut answer).await.expect("is answered") > 0);
    stream.write_all(b"GET /hea").await.expect("is taken");
    read_to_end(&mut stream).await;
    assert!(began.elapsed() < Duration::from_secs(8), "the second head is judged, too");
    drop(stream);

    let mut slow = app.connect().await;
    slow.write_all(format!("GET /slow HTTP/1.1\r\nhost: a\r\nx-test-key: {KEY}\r\n\r\n").as_bytes())
        .await
        .expect("is taken");
    let read = slow.read(&mut answer).await.expect("is answered");
    assert!(answer[..read].starts_with(b"HTTP/1.1 200"), "time at work is not time of the head");
    app.stop().await;
}

#[tokio::test]
async fn a_request_body_that_does_not_come_is_given_up() {
    let limits = ServerLimits { body_timeout: Duration::from_millis(200), ..ServerLimits::default() };
    let app = start(limits, Duration::from_secs(5)).await;
    let head =
        format!("POST /echo HTTP/1.1\r\nhost: a\r\nx-test-key: {KEY}\r\ncontent-length: 10\r\n\r\nabc");
    let answer = app.raw(&head).await;
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("too slowly"), "{answer}");
    app.stop().await;
}

#[tokio::test]
async fn a_reader_that_stops_reading_loses_its_connection() {
    let limits =
        ServerLimits { connections: 1, stall_timeout: Duration::from_millis(300), ..ServerLimits::default() };
    let app = start(limits, Duration::from_secs(5)).await;
    let stalled = at_work(&app, 1).await;
    // The one connection there is becomes free only when the stalled reader has been given up.
    let deadline = Instant::now() + PATIENCE;
    while app.send(with_key("/things/1").header("connection", "close")).await.status != 200 {
        assert!(Instant::now() < deadline, "the stalled reader still holds its connection");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    drop(stalled);
    app.stop().await;
}

/// Connections that are at work until they are dropped.
async fn at_work(app: &App, count: usize) -> Vec<TcpStream> {
    let request = format!("GET /endless HTTP/1.1\r\nhost: a\r\nx-test-key: {KEY}\r\n\r\n");
    let mut held = Vec::new();
    for _ in 0..count {
        let mut stream = app.connect().await;
        stream.write_all(request.as_bytes()).await.expect("is taken");
        let mut head = [0; 12];
        stream.read_exact(&mut head).await.expect("is answered");
        assert_eq!(&head, b"HTTP/1.1 200");
        held.push(stream);
    }
    held
}

#[tokio::test]
async fn one_connection_too_many_is_told_so_and_a_probe_is_answered() {
    let app = start(ServerLimits { connections: 2, ..ServerLimits::default() }, Duration::from_secs(5)).await;
    let held = at_work(&app, 2).await;
    let answer = app.raw("GET /healthy HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let (head, body) = answer.split_once("\r\n\r\n").expect("has a body");
    assert!(head.starts_with("HTTP/1.1 503 ") && head.contains("retry-after: 1"), "{head}");
    let body: Value = serde_json::from_str(body).expect("is JSON");
    assert_eq!(
        (&body["error"], &body["details"]["reason"]),
        (&"ENGINE_BUSY".into(), &"too_many_connections".into())
    );
    assert!(app.raw("G").await.starts_with("HTTP/1.1 503 "));
    for _ in 0..100 {
        let probed = app.raw("GET /health HTTP/1.1\r\nhost: a\r\n\r\n").await;
        assert!(probed.starts_with("HTTP/1.1 200 ") && probed.ends_with("up"), "{probed}");
    }
    drop(held);
    let deadline = Instant::now() + PATIENCE;
    while app.send(with_key("/things/1").header("connection", "close")).await.status != 200 {
        assert!(Instant::now() < deadline, "closed connections are still counted");
    }
    app.stop().await;
}

/// A single-threaded runtime: whoever does not give way stops everyone.
#[tokio::test(flavor = "current_thread")]
async fn a_connection_that_sends_many_requests_at_once_gives_way_after_each() {
    let served = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&served);
    let routes = Router::new().route(
        "/count",
        get(move || async move {
            counter.fetch_add(1, Ordering::SeqCst);
            "counted"
        }),
    );
    let server =
        Server::bind(([127, 0, 0, 1], 0).into(), ServerLimits::default()).await.expect("a free port");
    let address = server.local_addr().expect("is bound");
    let running = tokio::spawn(server.run(routes, Drain::new(), Duration::from_secs(1)));
    let mut stream = TcpStream::connect(address).await.expect("connects");
    let many = 400;
    let requests = "GET /count HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(many);
    stream.write_all(requests.as_bytes()).await.expect("is sent");
    let (mut most, mut before) = (0, 0);
    let begun = Instant::now();
    while before < many && begun.elapsed() < PATIENCE {
        tokio::task::yield_now().await;
        let now = served.load(Ordering::SeqCst);
        most = most.max(now - before);
        before = now;
    }
    assert_eq!(before, many, "every request is served");
    assert!(most <= 2, "{most} requests of one connection were answered in one go");
    running.abort();
}

#[tokio::test]
async fn silent_trickling_and_resting_connections_keep_nobody_out() {
    let app = start(ServerLimits { connections: 8, ..ServerLimits::default() }, Duration::from_secs(5)).await;
    let mut working = at_work(&app, 1).await;
    for begun in ["", "G", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "GET /health HTTP/1.1\r\nhost: a\r\n\r\n"] {
        let mut held = Vec::new();
        for _ in 0..40 {
            let mut stream = app.connect().await;
            stream.write_all(begun.as_bytes()).await.expect("is taken");
            held.push(stream);
            let answer = app.send(with_key("/things/1").header("connection", "close")).await;
            assert_eq!(answer.status, 200, "{begun:?}");
        }
        // the first of them have been closed without waiting for any time limit
        tokio::time::timeout(Duration::from_secs(5), read_to_end(&mut held[0])).await.expect("was closed");
    }
    let mut more = vec![0; 1 << 20];
    working[0].read_exact(&mut more).await.expect("what is at work goes on");
    drop(working);
    app.stop().await;
}

#[tokio::test]
async fn closing_finishes_what_runs_and_takes_nothing_new() {
    let app = start_default().await;
    let idle = app.connect().await;
    let address = app.address;
    let mut busy = app.connect().await;
    let request = format!("GET /slow HTTP/1.1\r\nhost: a\r\nx-test-key: {KEY}\r\n\r\n");
    busy.write_all(request.as_bytes()).await.expect("is taken");
    app.drain.begin();
    assert_eq!(app.send(with_key("/things/1")).await.status, 200, "draining still answers");
    let answer = tokio::spawn(async move { read_to_end(&mut busy).await });
    assert_eq!(app.stop().await, Closed { cut: 0 });
    assert!(answer.await.expect("does not panic").ends_with("done"));
    assert!(TcpStream::connect(address).await.is_err(), "the port is free again");
    drop(idle);
}

#[tokio::test]
async fn what_does_not_finish_in_time_is_cut() {
    let app = start(ServerLimits::default(), Duration::from_millis(200)).await;
    let mut busy = app.connect().await;
    let request = format!("GET /never HTTP/1.1\r\nhost: a\r\nx-test-key: {KEY}\r\n\r\n");
    busy.write_all(request.as_bytes()).await.expect("is taken");
    assert_eq!(app.send(with_key("/things/1").header("connection", "close")).await.status, 200);
    assert_eq!(app.stop().await, Closed { cut: 1 });
}

#[tokio::test]
async fn a_request_has_a_start_and_an_end_line_with_its_id() {
    let level = chassis::telemetry::LogLevel::Info;
    let (subscriber, logs) = chassis::telemetry::capture(level, &["chassis"], &["request_id"]);
    let _logging = tracing::subscriber::set_default(subscriber);
    let app = start_default().await;
    app.send(with_key("/things/secret-name").header("x-request-id", "req-5")).await;
    app.send(Request::builder().uri("/nowhere/secret-name").header("x-request-id", "req-6")).await;
    app.send(Request::builder().uri("/health")).await;
    app.stop().await;
    let lines = logs.lines();
    let of = |id: &str| lines.iter().filter(|l| l["request_id"] == id).cloned().collect::<Vec<_>>();
    let good = of("req-5");
    assert_eq!(good.len(), 2, "{lines:?}");
    assert_eq!(
        (&good[0]["message"], &good[1]["message"]),
        (&"Request started".into(), &"Request finished".into())
    );
    assert_eq!(
        (&good[1]["extra"]["path"], &good[1]["extra"]["status"]),
        (&"/things/{id}".into(), &200.into())
    );
    assert!(good[1]["extra"]["duration_ms"].is_u64());
    let bad = of("req-6");
    assert_eq!(
        (&bad[1]["extra"]["path"], &bad[1]["extra"]["code"]),
        (&"unmatched".into(), &"INVALID_KEY".into())
    );
    assert!(!logs.text().contains("secret-name") && !logs.text().contains("/health"));
}
