//! Long-term memory of a real process whose embeddings endpoint fails, comes back, is replaced, and dies with it.

use crate::support::{Engine, Setup};
use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use http::StatusCode;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Numbers of a vector: the least that EMBEDDING_DIM allows.
const DIM: usize = 64;

/// An endpoint that speaks the embeddings protocol, or refuses the key.
struct Endpoint {
    refuses: Arc<AtomicBool>,
    url: String,
}

impl Endpoint {
    async fn start() -> Self {
        let refuses = Arc::new(AtomicBool::new(true));
        let router = Router::new().route("/v1/embeddings", post(embeddings)).with_state(Arc::clone(&refuses));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/v1", listener.local_addr().expect("bound"));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { refuses, url }
    }

    fn refuse(&self, refuses: bool) {
        self.refuses.store(refuses, Ordering::SeqCst);
    }

    fn setup(&self, model: &str) -> Setup {
        self.named(Setup::offline(), model)
    }

    fn named(&self, setup: Setup, model: &str) -> Setup {
        setup
            .with("EMBEDDING_PROVIDER", "openai")
            .with("EMBEDDING_BASE_URL", &self.url)
            .with("EMBEDDING_MODEL", model)
            .with("EMBEDDING_DIM", &DIM.to_string())
            // Nothing here is about the deadline, and the machine may be busy.
            .with("MEMORY_EMBED_DEADLINE_MS", "10000")
    }
}

async fn embeddings(
    State(refuses): State<Arc<AtomicBool>>,
    Json(request): Json<Value>,
) -> (StatusCode, Json<Value>) {
    if refuses.load(Ordering::SeqCst) {
        return (StatusCode::UNAUTHORIZED, Json(json!({"error": {"message": "no such key"}})));
    }
    let texts = request["input"].as_array().expect("a list of texts");
    let data: Vec<Value> = texts
        .iter()
        .enumerate()
        .map(|(index, text)| json!({"index": index, "embedding": vector(text.as_str().expect("a text"))}))
        .collect();
    (StatusCode::OK, Json(json!({"data": data})))
}

/// Two directions: what has to do with cars, and the rest.
fn vector(text: &str) -> Vec<f32> {
    let mut vector = vec![0.0; DIM];
    let about_cars = ["car", "automobile"].iter().any(|word| text.contains(word));
    vector[usize::from(about_cars)] = 1.0;
    vector
}

async fn found(engine: &Engine, query: &str) -> Vec<String> {
    let body = json!({"query": query});
    let list = engine.post("/memory/knowledge/search", body).await.ok().await;
    let contents =
        list.as_array().expect("a list").iter().map(|item| item["content"].as_str().expect("a text"));
    contents.map(str::to_owned).collect()
}

async fn keep(engine: &Engine, content: &str) {
    let body = json!({"subject": "travel", "content": content});
    assert_eq!(engine.post("/memory/knowledge", body).await.ok().await["status"], "created");
}

fn unembedded(stats: &Value) -> &Value {
    &stats["stores"]["knowledge"]["unembedded"]
}

#[tokio::test]
async fn an_endpoint_that_fails_is_told_and_costs_no_memory_and_neither_does_kill_9() {
    let endpoint = Endpoint::start().await;
    let setup = endpoint.setup("words-1");
    let engine = setup.start().await;
    engine.expect_log("Memories could not be embedded");
    keep(&engine, "Ada drives a red car").await;
    assert_eq!(found(&engine, "red").await, ["Ada drives a red car"]);
    assert!(found(&engine, "automobile").await.is_empty());
    let health = engine.until("/health", |h| h["subsystems"]["embeddings"] == "error").await;
    assert_eq!(health["status"], "degraded");
    assert_eq!(unembedded(&engine.json("/memory/stats").await), 1);
    let metrics = engine.get("/metrics").await.text().await;
    for line in [
        "engine_memory_items{store=\"knowledge\"} 1",
        "engine_embedding_pending 1",
        "engine_memory_search_seconds",
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
    engine.kill();

    endpoint.refuse(false);
    let engine = setup.start().await;
    assert_eq!(found(&engine, "red").await, ["Ada drives a red car"], "words need nothing of RAM");
    engine.until("/memory/stats", |stats| *unembedded(stats) == 0).await;
    let health = engine.json("/health").await;
    assert_eq!((&health["status"], &health["subsystems"]["embeddings"]), (&json!("ok"), &json!("ok")));
    assert_eq!(found(&engine, "automobile").await, ["Ada drives a red car"]);
    let version = engine.json("/version").await;
    assert_eq!(version["embedding"], json!({"provider": "openai", "model": "words-1", "dim": DIM}));
    engine.kill();

    let engine = setup.start().await;
    let again = async || found(&engine, "automobile").await.len() == 1;
    let by = std::time::Instant::now() + crate::support::LIMIT;
    while !again().await {
        assert!(std::time::Instant::now() < by, "the codes never came back into RAM");
    }
}

#[tokio::test]
async fn a_replaced_model_embeds_everything_anew_while_words_go_on() {
    let endpoint = Endpoint::start().await;
    endpoint.refuse(false);
    let setup = endpoint.setup("words-1");
    let engine = setup.start().await;
    keep(&engine, "Ada drives a red car").await;
    engine.until("/memory/stats", |stats| *unembedded(stats) == 0).await;
    engine.kill();

    endpoint.refuse(true);
    let setup = endpoint.named(setup, "words-2");
    let engine = setup.start().await;
    engine.expect_log("Memories could not be embedded");
    let stats = engine.until("/memory/stats", |stats| stats["embedding"]["reembedding"] == true).await;
    assert_eq!((unembedded(&stats), &stats["embedding"]["model"]), (&json!(1), &json!("words-2")));
    assert_eq!(found(&engine, "red").await, ["Ada drives a red car"]);
    endpoint.refuse(false);
    engine.until("/memory/stats", |stats| stats["embedding"]["reembedding"] == false).await;
    assert_eq!(found(&engine, "automobile").await, ["Ada drives a red car"]);
}
