//! Texts becoming vectors in the background: what could not be embedded at once, and everything when the model changes.
//!
//! Batches are read, embedded without any transaction, and stored in one short transaction each; a failing endpoint is
//! asked again later and later, and never loses a text. The job of a changed model is only a note: what is still to do is
//! always what has no vector of the present model.
//!
//! The invariant: a vector is stored for the text it was made of, or not at all.

use super::mirrors::Mirrors;
use ::memory::search_text::embedded;
use ::memory::vector;
use brain::memory::jobs::{self, Kind};
use brain::memory::vectors::{self, Model};
use brain::memory::{Stored, search};
use brain::{Brain, Tx, meta};
use contract::Timestamp;
use contract::memory::Store;
use futures::future::BoxFuture;
use llm::embeddings::{Embedder, EmbeddingProvider};
use llm::{CallError, ErrorKind};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::Notify;

/// Wait after the first failed batch. Longer leaves memories without vectors after a hiccup; shorter asks a broken
/// endpoint in a loop.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// Longest wait after failures in a row. Longer keeps memories without vectors after a long outage; shorter keeps asking
/// an account without credit.
const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// Every store, in the order in which vectors are missed most.
const STORES: [Store; 3] = [Store::Knowledge, Store::Social, Store::Episodes];

/// An embedder that remembers whether its last call failed, for /health.
pub(super) struct Watched {
    inner: Arc<dyn Embedder>,
    failed: Arc<AtomicBool>,
}

impl Watched {
    pub(super) fn new(inner: Arc<dyn Embedder>, failed: Arc<AtomicBool>) -> Self {
        Self { inner, failed }
    }
}

impl Embedder for Watched {
    fn provider(&self) -> EmbeddingProvider {
        self.inner.provider()
    }

    fn model(&self) -> &str {
        self.inner.model()
    }

    fn dim(&self) -> usize {
        self.inner.dim()
    }

    fn space(&self) -> String {
        self.inner.space()
    }

    fn at_once(&self, text: &str) -> Option<Vec<f32>> {
        self.inner.at_once(text)
    }

    fn embed<'a>(&'a self, texts: &'a [String]) -> BoxFuture<'a, Result<Vec<Vec<f32>>, CallError>> {
        Box::pin(async move {
            let answer = self.inner.embed(texts).await.and_then(|vectors| {
                let fits = vectors.len() == texts.len()
                    && vectors.iter().all(|v| vector::check(v, self.dim()).is_ok());
                if fits {
                    Ok(vectors)
                } else {
                    Err(CallError::new(ErrorKind::Stream, "vectors of a wrong shape"))
                }
            });
            self.failed.store(answer.is_err(), Ordering::Relaxed);
            answer
        })
    }
}

/// The worker that gives texts their vectors.
pub(super) struct Worker {
    pub(super) brain: Brain,
    pub(super) embedder: Arc<dyn Embedder>,
    pub(super) model: Model,
    pub(super) mirrors: Arc<Mirrors>,
    pub(super) failed: Arc<AtomicBool>,
    /// Whether vectors of an earlier model are being replaced.
    pub(super) reembedding: AtomicBool,
    /// Told when there may be something to do.
    pub(super) wake: Notify,
}

/// Why a batch got no vectors.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Embedder(#[from] CallError),
    #[error(transparent)]
    Brain(#[from] brain::Error),
}

impl Worker {
    /// Works until it is dropped, or the brain is closed.
    pub(super) async fn run(&self) {
        let mut wait = FIRST_WAIT;
        let mut noted = false;
        loop {
            let step = if noted { self.step().await } else { self.note_model().await.map(|()| true) };
            match step {
                Ok(more) => {
                    (noted, wait) = (true, FIRST_WAIT);
                    if !more {
                        self.wake.notified().await;
                    }
                }
                Err(Failure::Brain(brain::Error::Closed)) => return,
                Err(failure) => {
                    let seconds = wait.as_secs();
                    tracing::warn!(error = %failure, wait_s = seconds, "Memories could not be embedded; tried again later");
                    tokio::time::sleep(wait).await;
                    wait = LONGEST_WAIT.min(wait * 2);
                }
            }
        }
    }

    /// Writes down whose vectors count, and a job when they are another model's than before.
    async fn note_model(&self) -> Result<(), Failure> {
        let (embedder, model) = (Arc::clone(&self.embedder), self.model.clone());
        let reembedding = self
            .brain
            .write("memory.model", move |tx| note_model(tx, embedder.as_ref(), &model, Timestamp::now()))
            .await?;
        self.reembedding.store(reembedding, Ordering::Relaxed);
        Ok(())
    }

    /// Embeds one batch; false when there is nothing left to embed.
    async fn step(&self) -> Result<bool, Failure> {
        for store in STORES {
            let model = self.model.clone();
            let batch = self
                .brain
                .read("memory.unembedded", move |tx| vectors::unembedded(tx, store, &model))
                .await?;
            if !batch.is_empty() {
                let texts: Vec<String> = batch.iter().map(|row| embedded(&row.item).to_owned()).collect();
                let found = self.vectors_of(&texts).await?;
                self.keep(store, batch, found).await?;
                return Ok(true);
            }
        }
        if self.reembedding.load(Ordering::Relaxed) {
            self.brain.write("memory.reembedded", |tx| end_jobs(tx, Timestamp::now())).await?;
            self.reembedding.store(false, Ordering::Relaxed);
            tracing::info!(model = %self.model.name, "All memories have vectors of the present model");
        }
        Ok(false)
    }

    /// The vectors of a batch. A text that the endpoint refuses among others that it takes gets zeros, which are near to
    /// nothing: it must not keep the others from theirs for ever.
    async fn vectors_of(&self, texts: &[String]) -> Result<Vec<Vec<f32>>, CallError> {
        let error = match self.embedder.embed(texts).await {
            Err(error) if error.kind == ErrorKind::BadRequest && texts.len() > 1 => error,
            answer => return answer,
        };
        let mut found = Vec::with_capacity(texts.len());
        for text in texts {
            match self.embedder.embed(std::slice::from_ref(text)).await {
                Ok(mut vectors) => found.push(vectors.pop()),
                Err(refused) if refused.kind == ErrorKind::BadRequest => found.push(None),
                Err(other) => return Err(other),
            }
        }
        if found.iter().all(Option::is_none) {
            return Err(error);
        }
        self.failed.store(false, Ordering::Relaxed);
        Ok(found.into_iter().map(|v| v.unwrap_or_else(|| vec![0.0; self.embedder.dim()])).collect())
    }

    async fn keep(
        &self,
        store: Store,
        batch: Vec<Stored<String>>,
        found: Vec<Vec<f32>>,
    ) -> brain::Result<()> {
        let (model, mirrors) = (self.model.clone(), Arc::clone(&self.mirrors));
        self.brain
            .write_then(
                "memory.embed",
                move |tx| {
                    let mut rows = Vec::new();
                    for (row, vector) in batch.iter().zip(&found) {
                        let blob = vector::encode(vector);
                        if vectors::put(tx, store, row.row, &row.item, &model, &blob, Timestamp::now())? {
                            rows.push((store, row.row));
                        }
                    }
                    Ok(rows)
                },
                move |rows: &Vec<(Store, i64)>| mirrors.mark(rows),
            )
            .await
            .map(drop)
    }
}

/// Whether vectors of another model are to be replaced; the job that says so is begun with the model's name.
fn note_model(tx: &Tx<'_>, embedder: &dyn Embedder, model: &Model, now: Timestamp) -> brain::Result<bool> {
    let before = meta::get(tx, meta::EMBEDDING_SPACE)?;
    if before.as_deref() == Some(&model.name) {
        return Ok(reembeddings(tx)?.next().is_some());
    }
    meta::set(tx, meta::EMBEDDING_PROVIDER, embedder.provider().as_str())?;
    meta::set(tx, meta::EMBEDDING_MODEL, embedder.model())?;
    meta::set(tx, meta::EMBEDDING_DIM, &model.dim.to_string())?;
    meta::set(tx, meta::EMBEDDING_SPACE, &model.name)?;
    end_jobs(tx, now)?;
    let Some(before) = before else { return Ok(false) };
    for store in STORES {
        if search::count(tx, store)? > 0 {
            let state = json!({"from": before, "to": model.name});
            jobs::start(tx, &format!("reembed-{}", now.millis()), Kind::Reembed, &state, now)?;
            return Ok(true);
        }
    }
    Ok(false)
}

fn reembeddings(tx: &Tx<'_>) -> brain::Result<impl Iterator<Item = jobs::Job>> {
    Ok(jobs::unfinished(tx)?.into_iter().filter(|job| job.kind == Kind::Reembed))
}

fn end_jobs(tx: &Tx<'_>, now: Timestamp) -> brain::Result<()> {
    for job in reembeddings(tx)? {
        jobs::finish(tx, &job.job_id, &job.state, now)?;
    }
    Ok(())
}
