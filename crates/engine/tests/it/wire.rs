//! HTTP itself: HTTP/2 without TLS, HEAD, keep-alive, oversized headers, chunked bodies, preflights.

use crate::support::http::Ask;
use crate::support::{KEY, Setup, soon};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

async fn say(port: u16, text: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("connects");
    stream.write_all(text.as_bytes()).await.expect("written");
    let mut answer = Vec::new();
    // A reset after the answer is an end, too.
    let _ = soon("the end of the answer", stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn http2_without_tls_is_spoken() {
    let engine = Setup::offline().start().await;
    let stream = TcpStream::connect(("127.0.0.1", engine.port)).await.expect("connects");
    let io = TokioIo::new(stream);
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.expect("HTTP/2");
    tokio::spawn(connection);
    for path in ["/health", "/version"] {
        let request = http::Request::get(format!("http://127.0.0.1:{}{path}", engine.port))
            .header("x-engine-key", KEY)
            .body(Empty::<Bytes>::new())
            .expect("a request");
        let response = soon("an answer", sender.send_request(request)).await.expect("an answer");
        assert_eq!((response.status(), response.version()), (http::StatusCode::OK, http::Version::HTTP_2));
        assert!(!response.into_body().collect().await.expect("a body").to_bytes().is_empty());
    }
}

#[tokio::test]
async fn head_is_get_without_a_body_and_needs_the_same_key() {
    let engine = Setup::offline().start().await;
    let health = engine.send(Ask::new("HEAD", "/health").without_key()).await;
    assert_eq!(health.status, 200);
    assert!(health.bytes().await.is_empty());
    assert_eq!(engine.send(Ask::new("HEAD", "/version")).await.status, 200);
    assert_eq!(engine.send(Ask::new("HEAD", "/version").without_key()).await.status, 401);
}

#[tokio::test]
async fn one_connection_serves_many_requests() {
    let engine = Setup::offline().start().await;
    let one = format!("GET /version HTTP/1.1\r\nHost: localhost\r\nX-Engine-Key: {KEY}\r\n\r\n");
    let last = one.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
    let answers = say(engine.port, &format!("{one}{one}{last}")).await;
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 3, "{answers}");
}

#[tokio::test]
async fn a_chunked_body_is_read_and_limited_like_any_other() {
    let engine = Setup::offline().with("ENGINE_MAX_BODY_BYTES", "65536").start().await;
    let head = format!(
        "POST /execute/cancel HTTP/1.1\r\nHost: localhost\r\nX-Engine-Key: {KEY}\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    let small =
        say(engine.port, &format!("{head}13\r\n{{\"task_id\":\"nobody\"\r\n1\r\n}}\r\n0\r\n\r\n")).await;
    assert!(small.starts_with("HTTP/1.1 404") && small.contains("TASK_NOT_FOUND"), "{small}");
    let chunk = format!("2000\r\n{}\r\n", "x".repeat(0x2000));
    let large = say(engine.port, &format!("{head}{}0\r\n\r\n", chunk.repeat(10))).await;
    assert!(large.starts_with("HTTP/1.1 413") && large.contains("PAYLOAD_TOO_LARGE"), "{large}");
}

#[tokio::test]
async fn headers_above_32_kib_are_refused_and_the_engine_goes_on() {
    let engine = Setup::offline().start().await;
    let big = "x".repeat(40_000);
    let answer = say(engine.port, &format!("GET /version HTTP/1.1\r\nHost: a\r\nX-Big: {big}\r\n\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 431") || answer.is_empty(), "{answer}");
    for nonsense in ["nonsense\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", "\0\0\0\0", "GET /a b HTTP/1.1\r\n\r\n"] {
        let answer = say(engine.port, &format!("{nonsense}\r\n\r\n\r\n")).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{nonsense:?}: {answer}");
    }
    assert_eq!(engine.send(Ask::get("/version")).await.status, 200);
}

#[tokio::test]
async fn queries_that_do_not_decode_are_invalid_request_or_ignored() {
    let engine = Setup::offline().start().await;
    for target in ["/tasks?limit=%zz", "/tasks?limit=5&limit=6", "/tasks?&&=&x", "/tasks?surprise=%FF"] {
        let status = engine.get(target).await.status;
        assert!([200, 400].contains(&status), "{target}: {status}");
    }
    for target in ["/tasks/%FF", "/tasks/%00", "/tasks/%zz", "/permissions/%FF"] {
        let answer = engine.send(Ask::delete(target)).await;
        let status = answer.status;
        let body = answer.json().await;
        assert!([400, 404].contains(&status) && body["error"].is_string(), "{target}: {status} {body}");
    }
}

#[tokio::test]
async fn three_hundred_idle_streams_are_held_and_given_back() {
    let engine = Setup::offline().start().await;
    let mut streams = Vec::new();
    for _ in 0..300 {
        streams.push(engine.get("/execute/replay?follow=true").await.stream());
    }
    engine.until("/health", |h| h["activity"]["open_streams"] == 300).await;
    let turn = engine.turn("a", "hello").await;
    for stream in &mut streams {
        let seen = stream.until(|f| f.phase() == Some("completed")).await;
        assert_eq!(crate::support::sse::raw(&seen), turn.raw());
    }
    drop(streams);
    engine.until("/health", |h| h["activity"]["open_streams"] == 0).await;
}
