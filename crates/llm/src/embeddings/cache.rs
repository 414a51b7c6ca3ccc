//! Query vectors: remembered, asked for once, and never waited for longer than a search can wait.
//!
//! A vector that comes too late still gets here and serves the next search. Failures are not remembered. Queries are
//! kept as hashes: nobody's words stay in memory because they were once searched for.

use super::Embedder;
use futures::FutureExt;
use hashlink::LruCache;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// Most vectors kept; the one not asked for longest goes first. More would hold megabytes for searches that do not
/// come back; fewer would pay again for the questions of a working day.
pub const MAX_KNOWN: usize = 1024;

/// Most queries asked at once. Beyond it a search goes without a vector at once: an endpoint that hangs must not
/// collect a call for every search.
pub const MAX_ASKED: usize = 32;

type Key = [u8; 32];
type Vector = Arc<[f32]>;
/// `None` until the embedder has answered, then its vector or the news that there is none.
type News = Option<Option<Vector>>;

/// The vectors of queries. Clones share what they know.
#[derive(Clone)]
pub struct Queries {
    embedder: Arc<dyn Embedder>,
    state: Arc<Mutex<State>>,
}

struct State {
    known: LruCache<Key, Vector>,
    asked: HashMap<Key, watch::Receiver<News>>,
}

impl Queries {
    /// Knows nothing yet.
    pub fn new(embedder: Arc<dyn Embedder>) -> Self {
        let state = State { known: LruCache::new(MAX_KNOWN), asked: HashMap::new() };
        Self { embedder, state: Arc::new(Mutex::new(state)) }
    }

    /// The query's vector, if it is there within `deadline`. An embedder that answers at once is never too late, so
    /// that the same search finds the same on a busy machine.
    pub async fn get(&self, query: &str, deadline: Duration) -> Option<Vector> {
        let key: Key = Sha256::digest(query.as_bytes()).into();
        if let Some(vector) = lock(&self.state).known.get(&key) {
            return Some(vector.clone());
        }
        if let Some(vector) = self.embedder.at_once(query) {
            let vector: Vector = vector.into();
            lock(&self.state).known.insert(key, vector.clone());
            return Some(vector);
        }
        let mut news = self.ask(key, query)?;
        let told = tokio::time::timeout(deadline, news.wait_for(Option::is_some)).await.ok()?;
        told.ok()?.clone().flatten()
    }

    /// Joins the call for this query, or makes one. `None` when too many are under way.
    fn ask(&self, key: Key, query: &str) -> Option<watch::Receiver<News>> {
        let mut state = lock(&self.state);
        if let Some(news) = state.asked.get(&key) {
            return Some(news.clone());
        }
        // It may have come since we looked.
        if let Some(vector) = state.known.get(&key) {
            return Some(watch::channel(Some(Some(vector.clone()))).1);
        }
        if state.asked.len() >= MAX_ASKED {
            return None;
        }
        let (tell, news) = watch::channel(None);
        state.asked.insert(key, news.clone());
        drop(state);
        // Dropped with the task, however that ends: no query stays marked as asked for ever.
        let asked = Asked { key, state: self.state.clone() };
        let (embedder, texts) = (self.embedder.clone(), [query.to_owned()]);
        tokio::spawn(async move {
            // An embedder that panics is one that failed.
            let answer = AssertUnwindSafe(async { embedder.embed(&texts).await }).catch_unwind().await;
            let vector: Option<Vector> = match answer {
                Ok(Ok(mut vectors)) if vectors.len() == 1 => vectors.pop().map(Into::into),
                Ok(Ok(_)) | Ok(Err(_)) | Err(_) => None,
            };
            if let Some(vector) = &vector {
                lock(&asked.state).known.insert(key, vector.clone());
            }
            drop(asked);
            tell.send_replace(Some(vector));
        });
        Some(news)
    }
}

/// A query that is being asked; no longer when this is dropped.
struct Asked {
    key: Key,
    state: Arc<Mutex<State>>,
}

impl Drop for Asked {
    fn drop(&mut self) {
        lock(&self.state).asked.remove(&self.key);
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
