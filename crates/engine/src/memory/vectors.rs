//! Vectors that are there when a row is written: made before the transaction, or inside it where that costs nothing.
//!
//! A vector belongs to the exact text that was embedded. The text of a node is only known once its relations are stored;
//! so what can embed at once does it then, and everybody else's vector is made later in the background.
//!
//! The invariant: no transaction ever waits for an embedder.

use super::mirrors::Mirrors;
use ::memory::search_text::embedded;
use ::memory::vector;
use brain::Tx;
use brain::memory::vectors::{self, Model};
use contract::Timestamp;
use contract::memory::Store;
use llm::embeddings::{Embedder, EmbeddingProvider};
use std::collections::HashMap;
use std::sync::Arc;

/// What is known of the texts about to be written.
#[derive(Clone)]
pub struct Prepared {
    embedder: Arc<dyn Embedder>,
    model: Model,
    mirrors: Arc<Mirrors>,
    known: HashMap<String, Arc<[f32]>>,
}

impl Prepared {
    pub(super) fn new(embedder: Arc<dyn Embedder>, model: Model, mirrors: Arc<Mirrors>) -> Self {
        Self { embedder, model, mirrors, known: HashMap::new() }
    }

    /// Adds a vector that came in time.
    pub(super) fn know(&mut self, text: String, vector: Arc<[f32]>) {
        self.known.insert(text, vector);
    }

    /// The model whose vectors count.
    pub(super) fn model(&self) -> &Model {
        &self.model
    }

    /// The codes in RAM, to find what is nearly the same.
    pub(super) fn mirrors(&self) -> &Mirrors {
        &self.mirrors
    }

    /// Whether nearness alone may say that two memories are the same. The built-in table knows words, not statements: to
    /// it "wants short answers" and "wants long answers" are 0.97 alike, and the newer one would be lost.
    pub(super) fn tells_sameness(&self) -> bool {
        match self.embedder.provider() {
            EmbeddingProvider::Local => false,
            EmbeddingProvider::OpenAi => true,
        }
    }

    /// The vector of a search text; `None` when it has to be waited for.
    pub(super) fn vector(&self, search_text: &str) -> Option<Arc<[f32]>> {
        let text = embedded(search_text);
        let found = match self.known.get(text) {
            Some(known) => Some(Arc::clone(known)),
            None => self.embedder.at_once(text).map(Into::into),
        };
        found.filter(|v| vector::check(v, self.embedder.dim()).is_ok())
    }

    /// Stores the vector of a row's text, if it is known; false when it is not.
    pub(super) fn store(
        &self,
        tx: &Tx<'_>,
        store: Store,
        row: i64,
        text: &str,
        now: Timestamp,
    ) -> brain::Result<bool> {
        let Some(vector) = self.vector(text) else { return Ok(false) };
        vectors::put(tx, store, row, text, &self.model, &vector::encode(&vector), now)
    }
}

/// The model under whose name vectors are stored: it names the space, so that an edition or a dimension more never
/// makes two spaces look like one.
pub(super) fn model_of(embedder: &dyn Embedder) -> Model {
    Model { name: embedder.space(), dim: u32::try_from(embedder.dim()).unwrap_or(u32::MAX) }
}
