//! The endpoint over real TCP: a server on loopback that answers by script and keeps what it was sent.

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use llm::embeddings::openai::{MAX_RETRIES, OpenAiEmbedder, read_answer, request};
use llm::embeddings::{Embedder, EmbeddingConfig, build};
use llm::{CallError, ErrorKind};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const MODEL: &str = "text-embedding-3-small";
const DIM: usize = 4;

/// What the server does with one request.
type Act = fn(&Value) -> Response;

struct Seen {
    path: String,
    headers: HeaderMap,
    body: Value,
}

#[derive(Clone)]
struct Script {
    acts: Arc<Mutex<Vec<Act>>>,
    seen: Arc<Mutex<Vec<Seen>>>,
}

/// Plays the acts one after another, the last one for ever.
struct Server {
    base: String,
    script: Script,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    async fn playing(acts: &[Act]) -> Self {
        let mut acts = acts.to_vec();
        acts.reverse();
        let script = Script { acts: Arc::new(Mutex::new(acts)), seen: Arc::default() };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let base = format!("http://{}/v1", listener.local_addr().expect("an address"));
        let app = Router::new().fallback(answer).with_state(script.clone());
        let task = tokio::spawn(async move { axum::serve(listener, app).await.expect("serves") });
        Self { base, script, task }
    }

    fn embedder(&self) -> OpenAiEmbedder {
        OpenAiEmbedder::new(Some(&self.base), Some("sk-canary".into()), MODEL.into(), DIM)
            .with_waits(|_| Duration::ZERO)
    }

    fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.script.seen.lock().expect("no panic"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(State(script): State<Script>, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let body: Value = serde_json::from_slice(&body).expect("a JSON body");
    let act = {
        let mut acts = script.acts.lock().expect("no panic");
        if acts.len() > 1 { acts.pop().expect("more than one") } else { acts[0] }
    };
    let response = act(&body);
    let seen = Seen { path: uri.path().to_owned(), headers, body };
    script.seen.lock().expect("no panic").push(seen);
    response
}

fn inputs(body: &Value) -> Vec<&str> {
    body["input"].as_array().expect("a list").iter().map(|t| t.as_str().expect("a text")).collect()
}

/// A vector that tells how long the text was.
fn vector_of(text: &str) -> Value {
    json!([text.len() as f64, 0.0, 1.0, 0.0])
}

fn good(body: &Value) -> Response {
    let item = |(index, text): (usize, &&str)| json!({"object": "embedding", "index": index, "embedding": vector_of(text)});
    let data: Vec<Value> = inputs(body).iter().enumerate().map(item).collect();
    json!({"object": "list", "model": MODEL, "data": data, "usage": {"prompt_tokens": 1, "total_tokens": 1}})
        .to_string()
        .into_response()
}

fn backwards(body: &Value) -> Response {
    let item = |(index, text): (usize, &&str)| json!({"index": index, "embedding": vector_of(text)});
    let mut data: Vec<Value> = inputs(body).iter().enumerate().map(item).collect();
    data.reverse();
    json!({"data": data}).to_string().into_response()
}

fn status(status: StatusCode, message: &str) -> Response {
    (status, json!({"error": {"message": message}}).to_string()).into_response()
}

fn overloaded(_: &Value) -> Response {
    status(StatusCode::SERVICE_UNAVAILABLE, "The engine is overloaded")
}

fn texts(list: &[&str]) -> Vec<String> {
    list.iter().map(|t| (*t).to_owned()).collect()
}

/// How long the text of this vector was.
fn length_told(vector: &[f32]) -> usize {
    (vector[0] / vector[2]).round() as usize
}

async fn fails_with(acts: &[Act]) -> (CallError, usize) {
    let server = Server::playing(acts).await;
    let error = server.embedder().embed(&texts(&["one", "three"])).await.expect_err("it fails");
    assert!(!error.message.contains("sk-canary"), "{error}");
    (error, server.seen().len())
}

#[tokio::test]
async fn texts_come_back_as_vectors_of_length_one_in_their_order() {
    for act in [good as Act, backwards] {
        let server = Server::playing(&[act]).await;
        let vectors = server.embedder().embed(&texts(&["a", "", "ccc", " \n", "bb"])).await.expect("vectors");
        assert_eq!((&vectors[1], &vectors[3]), (&vec![0.0; DIM], &vec![0.0; DIM]));
        assert_eq!([0, 2, 4].map(|i| length_told(&vectors[i])), [1, 3, 2]);
        for vector in [&vectors[0], &vectors[2], &vectors[4]] {
            assert!((vector.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-5, "{vector:?}");
        }
        let seen = server.seen();
        assert_eq!(seen.len(), 1);
        assert_eq!(seen[0].path, "/v1/embeddings");
        assert_eq!(seen[0].body, json!({"model": MODEL, "input": ["a", "ccc", "bb"], "dimensions": DIM}));
        assert_eq!(seen[0].headers["authorization"], "Bearer sk-canary");
        assert_eq!(seen[0].headers["accept"], "application/json");
    }
}

#[tokio::test]
async fn nothing_to_embed_asks_nobody_and_without_a_key_none_is_sent() {
    let server = Server::playing(&[good]).await;
    assert_eq!(server.embedder().embed(&[]).await, Ok(vec![]));
    assert_eq!(server.embedder().embed(&texts(&[" "])).await, Ok(vec![vec![0.0; DIM]]));
    assert!(server.seen().is_empty());
    let embedder = build(EmbeddingConfig::OpenAi {
        api_key: Some(" ".into()),
        base_url: Some(format!("{}/", server.base)),
        model: "nomic-embed-text".into(),
        dim: DIM,
    });
    embedder.embed(&texts(&["x"])).await.expect("vectors");
    let seen = server.seen();
    assert_eq!(seen[0].path, "/v1/embeddings");
    assert!(!seen[0].headers.contains_key("authorization"));
    assert_eq!(seen[0].body, json!({"model": "nomic-embed-text", "input": ["x"]}));
}

#[test]
fn dimensions_are_named_only_to_models_that_take_them_and_only_when_they_differ() {
    for (model, dim, named) in [
        ("text-embedding-3-small", 1536, false),
        ("text-embedding-3-small", 256, true),
        ("text-embedding-3-large", 3072, false),
        ("text-embedding-3-large", 1536, true),
        ("text-embedding-3-huge", 1536, true),
        ("text-embedding-ada-002", 1536, false),
        ("mxbai-embed-large", 1024, false),
    ] {
        let body = request("http://h/embeddings", None, model, dim, &["x"]).body;
        assert_eq!(body.get("dimensions"), named.then(|| json!(dim)).as_ref(), "{model} {dim}");
    }
}

#[tokio::test]
async fn many_texts_go_in_groups_of_64_and_long_ones_are_cut() {
    let server = Server::playing(&[good]).await;
    let mut many: Vec<String> = (0..150).map(|n| "x".repeat(n + 1)).collect();
    many[149] = "é".repeat(100_000);
    let vectors = server.embedder().embed(&many).await.expect("vectors");
    let told: Vec<usize> = vectors.iter().map(|v| length_told(v)).collect();
    assert_eq!(told[..149], (1..150).collect::<Vec<_>>());
    let seen = server.seen();
    assert_eq!(seen.iter().map(|s| inputs(&s.body).len()).collect::<Vec<_>>(), [64, 64, 22]);
    assert_eq!(inputs(&seen[2].body)[21].len(), 28_000);
}

#[tokio::test]
async fn a_text_that_is_too_long_after_all_is_found_and_cut_alone() {
    fn picky(body: &Value) -> Response {
        match inputs(body).iter().any(|t| t.len() > 9_000) {
            true => status(StatusCode::BAD_REQUEST, "This model's maximum context length is 8192 tokens"),
            false => good(body),
        }
    }
    let server = Server::playing(&[picky]).await;
    let mut many = texts(&["a", "bb", "ccc", "dddd", "eeeee"]);
    many[3] = "🙂".repeat(5_000);
    let vectors = server.embedder().embed(&many).await.expect("vectors");
    let told: Vec<usize> = vectors.iter().map(|v| length_told(v)).collect();
    assert_eq!(told, [1, 2, 3, 8_000, 5]);
}

#[tokio::test]
async fn an_endpoint_that_finds_everything_too_long_is_not_asked_for_ever() {
    fn never(_: &Value) -> Response {
        status(StatusCode::PAYLOAD_TOO_LARGE, "too large")
    }
    let (error, calls) = fails_with(&[never]).await;
    assert_eq!((error.kind, calls), (ErrorKind::Overflow, 2));
}

#[tokio::test]
async fn a_failure_that_may_pass_is_tried_again_three_times() {
    let server = Server::playing(&[overloaded, overloaded, overloaded, good]).await;
    assert!(server.embedder().embed(&texts(&["x"])).await.is_ok());
    assert_eq!(server.seen().len(), 4);
    let (error, calls) = fails_with(&[overloaded]).await;
    assert_eq!((error.kind, calls as u32), (ErrorKind::Overloaded, MAX_RETRIES + 1));
}

#[tokio::test]
async fn a_failure_that_will_not_pass_is_told_at_once() {
    fn limited(_: &Value) -> Response {
        (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "7")], "slow down").into_response()
    }
    fn unknown(_: &Value) -> Response {
        status(StatusCode::UNAUTHORIZED, "Incorrect API key provided: sk-canary")
    }
    fn no_model(_: &Value) -> Response {
        status(StatusCode::NOT_FOUND, "no such model")
    }
    let (error, calls) = fails_with(&[limited]).await;
    assert_eq!((error.kind, calls), (ErrorKind::RateLimited, 1));
    assert_eq!(error.retry_after, Some(Duration::from_secs(7)));
    let (error, calls) = fails_with(&[unknown]).await;
    assert_eq!((error.kind, calls, error.message.contains("[redacted]")), (ErrorKind::Auth, 1, true));
    let (error, calls) = fails_with(&[no_model]).await;
    assert_eq!((error.kind, calls), (ErrorKind::Model, 1));
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    fn elsewhere(_: &Value) -> Response {
        (StatusCode::TEMPORARY_REDIRECT, [("location", "/v1/other")]).into_response()
    }
    let (error, calls) = fails_with(&[elsewhere]).await;
    assert_eq!((error.status, calls), (Some(307), 1));
    assert!(error.message.contains("EMBEDDING_BASE_URL"), "{error}");
}

#[tokio::test]
async fn a_vector_of_another_length_is_a_failure_that_names_the_setting() {
    fn long(_: &Value) -> Response {
        json!({"data": [{"index": 0, "embedding": [1, 2, 3, 4]}, {"index": 1, "embedding": [1, 2, 3, 4, 5]}]})
            .to_string()
            .into_response()
    }
    let (error, calls) = fails_with(&[long]).await;
    assert_eq!((error.kind, calls), (ErrorKind::Model, 1));
    assert!(error.message.contains("5 numbers") && error.message.contains("EMBEDDING_DIM is 4"), "{error}");
}

#[tokio::test]
async fn an_answer_larger_than_the_vectors_asked_for_is_not_read_to_its_end() {
    fn endless(_: &Value) -> Response {
        let body =
            futures::stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from_static(&[b' '; 4096])));
        axum::body::Body::from_stream(body).into_response()
    }
    let (error, calls) = fails_with(&[endless]).await;
    assert_eq!((error.kind, calls), (ErrorKind::Model, 1));
    assert!(error.message.contains("sent more than"), "{error}");
}

#[tokio::test]
async fn an_endpoint_that_hangs_is_given_up_before_and_inside_its_answer() {
    fn stuck(_: &Value) -> Response {
        let body =
            futures::stream::once(async { Ok::<_, std::io::Error>(Bytes::from_static(b"{\"data\":")) });
        axum::body::Body::from_stream(futures::StreamExt::chain(body, futures::stream::pending()))
            .into_response()
    }
    let server = Server::playing(&[stuck]).await;
    let embedder = server.embedder().with_limit(Duration::from_millis(100));
    let error = embedder.embed(&texts(&["x"])).await.expect_err("it hangs");
    assert_eq!((error.kind, server.seen().len() as u32), (ErrorKind::Timeout, MAX_RETRIES + 1));
    // Accepted by the system, never answered.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let base = format!("http://{}", silent.local_addr().expect("an address"));
    let embedder = OpenAiEmbedder::new(Some(&base), None, MODEL.into(), DIM)
        .with_waits(|_| Duration::ZERO)
        .with_limit(Duration::from_millis(100));
    let error = embedder.embed(&texts(&["x"])).await.expect_err("nobody answers");
    assert_eq!(error.kind, ErrorKind::Timeout);
}

#[tokio::test]
async fn nobody_listening_is_a_connect_error() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let base = format!("http://{}", listener.local_addr().expect("an address"));
    drop(listener);
    let embedder = OpenAiEmbedder::new(Some(&base), None, MODEL.into(), DIM).with_waits(|_| Duration::ZERO);
    let error = embedder.embed(&texts(&["x"])).await.expect_err("nobody is there");
    assert_eq!(error.kind, ErrorKind::Connect);
}

#[test]
fn an_answer_of_openai_is_read() {
    let vectors =
        read_answer(include_bytes!("../transcripts/openai_embeddings.json"), 2, 8).expect("vectors");
    assert_eq!(vectors.len(), 2);
    assert!(vectors[0][0] < 0.0 && vectors[1][0] > 0.0, "{vectors:?}");
}

#[test]
fn an_answer_that_is_not_what_was_asked_for_is_broken() {
    let table = [
        ("no JSON", "<html>"),
        ("no list", r#"{"data": 3}"#),
        ("too few", r#"{"data": [{"index": 0, "embedding": [1, 2]}]}"#),
        (
            "twice the same",
            r#"{"data": [{"index": 1, "embedding": [1, 2]}, {"index": 1, "embedding": [1, 2]}]}"#,
        ),
        (
            "no such text",
            r#"{"data": [{"index": 0, "embedding": [1, 2]}, {"index": 2, "embedding": [1, 2]}]}"#,
        ),
        ("null", r#"{"data": [{"index": 0, "embedding": [1, null]}, {"index": 1, "embedding": [1, 2]}]}"#),
        ("NaN", r#"{"data": [{"index": 0, "embedding": [1, NaN]}, {"index": 1, "embedding": [1, 2]}]}"#),
        (
            "infinite",
            r#"{"data": [{"index": 0, "embedding": [1, 1e300]}, {"index": 1, "embedding": [1, 2]}]}"#,
        ),
        ("text", r#"{"data": [{"index": 0, "embedding": "AACA"}, {"index": 1, "embedding": [1, 2]}]}"#),
    ];
    for (what, body) in table {
        let error = read_answer(body.as_bytes(), 2, 2).expect_err(what);
        assert!(error.kind == ErrorKind::Stream && error.is_retryable(), "{what}: {error:?}");
    }
    let without_index = br#"{"data": [{"embedding": [2, 0]}, {"embedding": [0, 3]}]}"#;
    assert_eq!(read_answer(without_index, 2, 2), Ok(vec![vec![1.0, 0.0], vec![0.0, 1.0]]));
}
