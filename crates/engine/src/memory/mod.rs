//! Long-term memory in a running Engine: what is asked of it, and in which file the answer is made.
//!
//! In reading order: [`item`] what is handed in and out; [`gate`] the one way in ([`write_in`]), used by people, tools, the
//! end of a turn, the Learning Centre and imports, with [`write`] for episodes and facts and [`social`] for people;
//! [`change`] edits and forgetting, [`taken_back`] what these mean for learning; [`of_source`] forgetting by source; [`find`] search; [`recall`] what of it goes into a turn; [`shape`] the JSON of the API; [`vectors`] vectors known before a write
//! and [`embed`] those made later; [`mirrors`] the sign codes in RAM;
//! [`bundle`] export and import. The rules themselves are in the crate `memory`, the
//! rows in `brain::memory`; here the two meet.
//!
//! The invariant: text is committed first and found by its words at once. Whatever happens to an embedder or to what is
//! held in RAM, no memory is lost and no search fails.

mod item;
mod shape;
mod vectors;
mod gate;
mod write;
mod social;
mod change;
mod taken_back;
mod of_source;
mod mirrors;
mod find;
mod recall;
mod embed;
pub mod bundle;
#[cfg(test)]
mod tests;

pub use gate::write_in;
pub use item::{
    By, EdgePatch, End, EpisodePatch, FactPatch, Forgotten, Hit, Intent, Item, NewEdge, NewEpisode, NewFact,
    NewNode, NewRelation, NodePatch, Origin, Outcome, Patch, Patched, Search, Touched, Wanted, Written,
};
pub use of_source::OfSource;
pub use recall::{Occasion, Recalled, about};
pub use shape::{node_text, shown, shown_forgotten};
pub use vectors::Prepared;

use crate::config::{Config, EmbeddingProvider};
use crate::learning::showings;
use ::memory::{confidence, search_text};
use brain::memory::{MemoryId, erase, search, stats, vectors as stored};
use brain::{Brain, Tx};
use contract::memory::Store;
use contract::{SignalId, Timestamp};
use embed::{Watched, Worker};
use find::Asked;
use futures::future::join_all;
use llm::embeddings::{Embedder, EmbeddingConfig, Queries, build};
use mirrors::Mirrors;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use taken_back::Heard;
use tokio_util::sync::CancellationToken;

/// Texts of one write that are embedded before its transaction. More waits for calls that the background makes as well;
/// fewer leaves the facts of one turn to be compared by their letters.
const PREPARED: usize = 32;
/// Wait after a failed attempt to bring codes into RAM. Shorter asks a failing disk in a loop; longer leaves searches to
/// words alone.
const FILL_AGAIN: Duration = Duration::from_secs(5);

/// The long-term memory of one brain.
pub struct Memory {
    brain: Brain,
    embedder: Arc<dyn Embedder>,
    queries: Queries,
    deadline: Duration,
    model: stored::Model,
    mirrors: Arc<Mirrors>,
    worker: Arc<Worker>,
    failed: Arc<AtomicBool>,
}

impl Memory {
    /// The memory of an open brain with the configured embedder. Reads nothing and connects to nothing yet.
    pub fn new(config: &Config, brain: Brain) -> Self {
        let embedder = build(match config.embedding_provider {
            EmbeddingProvider::Local => EmbeddingConfig::Local,
            EmbeddingProvider::Openai => EmbeddingConfig::OpenAi {
                api_key: config.openai_api_key.as_ref().map(|key| key.expose().to_owned()),
                base_url: config.embedding_base_url.clone(),
                model: config.embedding_model.clone(),
                dim: config.embedding_dim,
            },
        });
        Self::with_embedder(brain, embedder, config.memory_embed_deadline_ms)
    }

    /// The same with any embedder; `deadline` is how long a search waits for the vector of its query.
    pub fn with_embedder(brain: Brain, embedder: Arc<dyn Embedder>, deadline: Duration) -> Self {
        let failed = Arc::new(AtomicBool::new(false));
        let embedder: Arc<dyn Embedder> = Arc::new(Watched::new(embedder, Arc::clone(&failed)));
        let model = vectors::model_of(embedder.as_ref());
        let mirrors = Arc::new(Mirrors::new(model.clone()));
        let worker = Arc::new(Worker {
            brain: brain.clone(),
            embedder: Arc::clone(&embedder),
            model: model.clone(),
            mirrors: Arc::clone(&mirrors),
            failed: Arc::clone(&failed),
            reembedding: AtomicBool::new(false),
            wake: tokio::sync::Notify::new(),
        });
        let queries = Queries::new(Arc::clone(&embedder));
        Self { brain, embedder, queries, deadline, model, mirrors, worker, failed }
    }

    /// Begins the work in the background: codes into RAM, texts into vectors. Ends with `halt`.
    pub fn start(self: &Arc<Self>, halt: &CancellationToken) {
        let (memory, stop) = (Arc::clone(self), halt.clone());
        tokio::spawn(async move { stop.run_until_cancelled(memory.follow()).await });
        let (worker, stop) = (Arc::clone(&self.worker), halt.clone());
        tokio::spawn(async move { stop.run_until_cancelled(worker.run()).await });
    }

    /// Brings everything into RAM, then follows the commits.
    async fn follow(&self) {
        loop {
            match self.fill().await {
                Ok(()) => self.mirrors.wake.notified().await,
                Err(brain::Error::Closed) => return,
                Err(error) => {
                    tracing::warn!(error = %error, "The codes of memories could not be read; tried again");
                    tokio::time::sleep(FILL_AGAIN).await;
                }
            }
        }
    }

    /// Brings everything into RAM now, for a command that searches once.
    pub async fn fill(&self) -> brain::Result<()> {
        self.mirrors.fill(&self.brain).await?;
        self.mirrors.settle(&self.brain).await
    }

    /// The best memories of one store, best first; an empty query lists the newest. Asks no model but the embedder, and
    /// waits for that no longer than its deadline: then words alone decide.
    pub async fn search(&self, ask: Search) -> brain::Result<Vec<Hit>> {
        self.search_by(ask, By::Both).await
    }

    /// The same by one of the two searches, to measure what it is worth.
    pub async fn search_by(&self, ask: Search, by: By) -> brain::Result<Vec<Hit>> {
        let Search { store, query, limit, now } = ask;
        if query.trim().is_empty() {
            return Ok(self.newest(store, None, limit).await?.unwrap_or_default());
        }
        self.find(vec![store], query, limit, now, by).await
    }

    /// The newest memories of a store, or the newest of those older than `before`: the way through all of it in pages,
    /// that nobody who writes meanwhile can shift. `None` when `before` is not there.
    pub async fn newest(
        &self,
        store: Store,
        before: Option<MemoryId>,
        limit: usize,
    ) -> brain::Result<Option<Vec<Hit>>> {
        let read = move |tx: &Tx<'_>| find::newest(tx, store, before.as_ref(), limit);
        self.brain.read("memory.newest", read).await
    }

    /// The best memories of all stores together, best first; closed facts are among them. Nothing for an empty query.
    pub async fn search_all(&self, query: &str, limit: usize, now: Timestamp) -> brain::Result<Vec<Hit>> {
        if query.trim().is_empty() {
            return Ok(Vec::new());
        }
        self.find(Store::ALL.to_vec(), query.to_owned(), limit, now, By::Both).await
    }

    async fn find(
        &self,
        stores: Vec<Store>,
        query: String,
        limit: usize,
        now: Timestamp,
        by: By,
    ) -> brain::Result<Vec<Hit>> {
        let started = Instant::now();
        let vector = match by {
            By::Both | By::Vector => self.queries.get(&query, self.deadline).await,
            By::Words => None,
        };
        // All zeros is near to nothing, and says so.
        let vector = vector.filter(|v| v.iter().any(|x| *x != 0.0));
        let asked = Asked {
            query,
            words: by != By::Vector,
            vector,
            model: self.model.clone(),
            mirrors: Arc::clone(&self.mirrors),
            now,
        };
        let hits = self.brain.read("memory.search", move |tx| find::find(tx, &stores, &asked, limit)).await?;
        metrics::histogram!("engine_memory_search_seconds").record(started.elapsed().as_secs_f64());
        Ok(hits)
    }

    /// Writes one memory in a transaction of its own. What does not pass [`Wanted::checked`] is rejected.
    pub async fn write(&self, wanted: Wanted, origin: Origin) -> brain::Result<Written> {
        let prepared = self.prepare(std::slice::from_ref(&wanted)).await;
        self.commit("memory.write", move |tx| write_in(tx, &wanted, &origin, &prepared, Timestamp::now()))
            .await
    }

    /// Vectors for what is about to be written: at once where the embedder can, else within the deadline of a search;
    /// what is late is embedded in the background.
    pub async fn prepare(&self, wanted: &[Wanted]) -> Prepared {
        let mut prepared = self.prepared_at_once();
        if self.embedder.at_once("").is_some() {
            return prepared;
        }
        let texts: Vec<String> = wanted.iter().filter_map(said).take(PREPARED).collect();
        let found = join_all(texts.iter().map(|text| self.queries.get(text, self.deadline))).await;
        for (text, vector) in texts.into_iter().zip(found) {
            if let Some(vector) = vector {
                prepared.know(text, vector);
            }
        }
        prepared
    }

    /// The same without any waiting: what the embedder can do at once, and nothing else.
    pub fn prepared_at_once(&self) -> Prepared {
        Prepared::new(Arc::clone(&self.embedder), self.model.clone(), Arc::clone(&self.mirrors))
    }

    /// Edits a memory: it is the person's from now on, and indexed anew. A patch that [`Patch::checked`] refuses is a
    /// constraint error.
    pub async fn patch(&self, id: &MemoryId, patch: Patch) -> brain::Result<Patched> {
        let patch = patch.checked().map_err(|refused| brain::Error::Constraint(refused.to_string()))?;
        let heard = match patch.has_words() {
            true => Heard::of(&self.brain, id).await?,
            false => Heard::default(),
        };
        let (id, prepared) = (id.clone(), self.prepared_at_once());
        self.commit("memory.patch", move |tx| {
            change::patch(tx, &id, patch, &prepared, &heard, Timestamp::now())
        })
        .await
    }

    /// Forgets a memory for good, and what rests only on it. `None` when there is none.
    pub async fn erase(&self, id: &MemoryId) -> brain::Result<Option<Forgotten>> {
        let heard = Heard::of(&self.brain, id).await?;
        let (id, prepared) = (id.clone(), self.prepared_at_once());
        self.commit("memory.erase", move |tx| {
            let erased = change::erase(tx, &id, &prepared, &heard, Timestamp::now())?;
            Ok(erased.map_or((None, Touched::default()), |(forgotten, touched)| (Some(forgotten), touched)))
        })
        .await
    }

    /// Forgets feedback for good, and the memories that rest on nothing else: the ids of the latter. `None` when there is
    /// none. What it moved stays moved.
    pub async fn erase_feedback(&self, id: &SignalId) -> brain::Result<Option<Vec<MemoryId>>> {
        let id = id.clone();
        self.commit("memory.erase_feedback", move |tx| {
            let erased = erase::of_signal(tx, &id, &node_text)?;
            if let Some(erased) = &erased {
                showings::drop_procedures(tx, &erased.procedures)?;
            }
            Ok(erased.map_or((None, Touched::default()), |erased| {
                let touched = Touched::erased(&erased);
                (Some(erased.gone.into_iter().map(|gone| gone.item).collect()), touched)
            }))
        })
        .await
    }

    /// One write whose touched rows are marked as part of the commit: no caller that goes away can lose that.
    async fn commit<T: Send + 'static>(
        &self,
        name: &'static str,
        change: impl FnOnce(&Tx<'_>) -> brain::Result<(T, Touched)> + Send + 'static,
    ) -> brain::Result<T> {
        let (mirrors, worker) = (Arc::clone(&self.mirrors), Arc::clone(&self.worker));
        let then = move |(_, touched): &(T, Touched)| tell(&mirrors, &worker, touched);
        Ok(self.brain.write_then(name, change, then).await?.0)
    }

    /// One memory; of a relation the node it leads away from.
    pub async fn get(&self, id: &MemoryId) -> brain::Result<Option<Item>> {
        let id = id.clone();
        self.brain.read("memory.get", move |tx| find::get(tx, &id)).await
    }

    /// The answer of GET /memory/stats.
    pub async fn stats(&self, now: Timestamp) -> brain::Result<Value> {
        let model = self.model.clone();
        let stores = self
            .brain
            .read("memory.stats", move |tx| {
                let stale = |sure, confirmed| confidence::is_stale(sure, confirmed, now);
                let of = |store: &Store| {
                    let s = stats::of(tx, *store, now, Some(&model), &stale)?;
                    let shown = json!({
                        "total": s.total,
                        "duplicate": s.duplicate,
                        "stale": s.stale,
                        "superseded": s.superseded,
                        "untrusted": s.untrusted,
                        "unembedded": s.unembedded,
                    });
                    Ok((store.as_str().to_owned(), shown))
                };
                Store::ALL.iter().map(of).collect::<brain::Result<Map<String, Value>>>()
            })
            .await?;
        let mut embedding = self.embedding();
        embedding["reembedding"] = json!(self.worker.reembedding.load(Ordering::Relaxed));
        Ok(json!({"stores": stores, "embedding": embedding}))
    }

    /// Sets the gauges of GET /metrics: rows per store, and rows that still wait for a vector.
    pub async fn gauges(&self) -> brain::Result<()> {
        let model = self.model.clone();
        let counts = self
            .brain
            .read("memory.counts", move |tx| {
                let of = |s: &Store| Ok((*s, search::count(tx, *s)?, stored::missing(tx, *s, &model)?));
                Store::ALL.iter().map(of).collect::<brain::Result<Vec<_>>>()
            })
            .await?;
        let pending: u64 = counts.iter().map(|(_, _, pending)| pending).sum();
        for (store, items, _) in counts {
            metrics::gauge!("engine_memory_items", "store" => store.as_str()).set(items as f64);
        }
        metrics::gauge!("engine_embedding_pending").set(pending as f64);
        Ok(())
    }

    /// To be told after every commit that wrote or removed rows: codes in RAM follow, the embedder's worker wakes.
    pub fn changed(&self, touched: Touched) {
        tell(&self.mirrors, &self.worker, &touched);
    }

    /// Whether the last call of the embedder failed: subsystem `embeddings` of /health.
    pub fn embeddings_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// Provider, model and dimension, for GET /version and GET /memory/stats.
    pub fn embedding(&self) -> Value {
        json!({
            "provider": self.embedder.provider().as_str(),
            "model": self.embedder.model(),
            "dim": self.embedder.dim(),
        })
    }
}

fn tell(mirrors: &Mirrors, worker: &Worker, touched: &Touched) {
    for reason in &touched.rejected {
        metrics::counter!("engine_memory_rejected_total", "reason" => *reason).increment(1);
    }
    mirrors.mark(&touched.rows);
    if touched.unembedded {
        worker.wake.notify_one();
    }
}

/// What of something new will be embedded, where that is known before it is written.
fn said(wanted: &Wanted) -> Option<String> {
    // The date is not embedded, so any will do.
    let at = Timestamp::from_millis(0);
    let text = match wanted.clone().checked().ok()? {
        Wanted::Episode(e) => search_text::episode(&e.key, &e.description, e.value.as_deref(), at),
        Wanted::Fact(f) => search_text::fact(&f.subject, &f.content, at),
        Wanted::Node(_) | Wanted::Edge(_) => return None,
    };
    Some(search_text::embedded(&text).to_owned())
}
