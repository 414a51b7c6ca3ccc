//! The memory of queries: one call per question, late answers kept, failures not.

use futures::future::BoxFuture;
use llm::embeddings::cache::{MAX_ASKED, MAX_KNOWN};
use llm::embeddings::{Embedder, EmbeddingConfig, EmbeddingProvider, Queries, build};
use llm::{CallError, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Semaphore;

/// Longer than any test waits for something that happens.
const PATIENCE: Duration = Duration::from_secs(20);

/// Answers when a pass is given; "fail" fails and "panic" panics.
struct Gated {
    passes: Semaphore,
    calls: AtomicUsize,
}

impl Gated {
    fn with_passes(passes: usize) -> Arc<Self> {
        Arc::new(Self { passes: Semaphore::new(passes), calls: AtomicUsize::new(0) })
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

impl Embedder for Gated {
    fn provider(&self) -> EmbeddingProvider {
        EmbeddingProvider::OpenAi
    }

    fn model(&self) -> &str {
        "gated"
    }

    fn dim(&self) -> usize {
        1
    }

    fn embed<'a>(&'a self, texts: &'a [String]) -> BoxFuture<'a, Result<Vec<Vec<f32>>, CallError>> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        assert_ne!(texts[0], "panic", "as asked");
        Box::pin(async move {
            self.passes.acquire().await.expect("never closed").forget();
            match texts[0].as_str() {
                "fail" => Err(CallError::new(ErrorKind::Server, "as asked")),
                text => Ok(vec![vec![text.len() as f32]]),
            }
        })
    }
}

async fn number(queries: &Queries, text: &str, deadline: Duration) -> Option<f32> {
    queries.get(text, deadline).await.map(|v| v[0])
}

#[tokio::test]
async fn a_question_asked_twice_is_embedded_once() {
    let gated = Gated::with_passes(10);
    let queries = Queries::new(gated.clone());
    for _ in 0..3 {
        assert_eq!(number(&queries, "abc", PATIENCE).await, Some(3.0));
    }
    assert_eq!(number(&queries.clone(), "abc", Duration::ZERO).await, Some(3.0));
    assert_eq!(gated.calls(), 1);
}

#[tokio::test]
async fn searches_for_the_same_share_one_call() {
    let gated = Gated::with_passes(0);
    let queries = Queries::new(gated.clone());
    let all = futures::future::join_all((0..20).map(|_| number(&queries, "abcd", PATIENCE)));
    let (found, ()) = futures::join!(all, async {
        while gated.calls() == 0 {
            tokio::task::yield_now().await;
        }
        gated.passes.add_permits(1);
    });
    assert_eq!((found, gated.calls()), (vec![Some(4.0); 20], 1));
}

#[tokio::test]
async fn a_late_answer_serves_the_next_search() {
    let gated = Gated::with_passes(0);
    let queries = Queries::new(gated.clone());
    let began = std::time::Instant::now();
    assert_eq!(number(&queries, "abc", Duration::from_millis(20)).await, None);
    assert!(began.elapsed() >= Duration::from_millis(20) && began.elapsed() < PATIENCE);
    gated.passes.add_permits(1);
    assert_eq!(number(&queries, "abc", PATIENCE).await, Some(3.0));
    assert_eq!(number(&queries, "abc", Duration::ZERO).await, Some(3.0));
    assert_eq!(gated.calls(), 1);
}

#[tokio::test]
async fn a_failure_is_not_remembered() {
    let gated = Gated::with_passes(10);
    let queries = Queries::new(gated.clone());
    for text in ["fail", "panic"] {
        let before = gated.calls();
        for _ in 0..2 {
            assert_eq!(number(&queries, text, PATIENCE).await, None, "{text}");
        }
        assert_eq!(gated.calls(), before + 2, "{text}");
    }
    assert_eq!(number(&queries, "abc", PATIENCE).await, Some(3.0));
}

#[tokio::test]
async fn an_endpoint_that_hangs_does_not_collect_calls() {
    let gated = Gated::with_passes(0);
    let queries = Queries::new(gated.clone());
    for n in 0..MAX_ASKED + 10 {
        assert_eq!(number(&queries, &format!("question {n}"), Duration::ZERO).await, None);
    }
    while gated.calls() < MAX_ASKED {
        tokio::task::yield_now().await;
    }
    gated.passes.add_permits(MAX_ASKED + 1);
    let waiting = tokio::time::timeout(PATIENCE, async {
        while number(&queries, "another", PATIENCE).await.is_none() {
            tokio::task::yield_now().await;
        }
    });
    waiting.await.expect("there is room again once the calls have ended");
    assert_eq!(gated.calls(), MAX_ASKED + 1);
}

#[tokio::test]
async fn the_question_not_asked_longest_is_forgotten_first() {
    let gated = Gated::with_passes(2 * MAX_KNOWN);
    let queries = Queries::new(gated.clone());
    for n in 0..MAX_KNOWN {
        number(&queries, &n.to_string(), PATIENCE).await.expect("a vector");
    }
    assert!(number(&queries, "0", Duration::ZERO).await.is_some());
    number(&queries, "one more", PATIENCE).await.expect("a vector");
    assert_eq!(gated.calls(), MAX_KNOWN + 1);
    assert!(number(&queries, "0", Duration::ZERO).await.is_some());
    number(&queries, "1", PATIENCE).await.expect("a vector");
    assert_eq!(gated.calls(), MAX_KNOWN + 2);
}

#[tokio::test]
async fn the_built_in_table_is_never_too_late() {
    let queries = Queries::new(build(EmbeddingConfig::Local));
    let vector = queries.get("a ship in the harbour", Duration::ZERO).await.expect("at once");
    assert_eq!(vector.len(), 256);
}
