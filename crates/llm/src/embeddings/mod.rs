//! From texts to vectors: the built-in table, and OpenAI's endpoint or one that imitates it.
//!
//! This room decides nothing about memory: when a text is embedded, what is stored, which distance counts and what
//! a failure means for `/health` belong to the engine. Two things always hold: a vector has exactly [`Embedder::dim`]
//! numbers, all of them finite, and its length is 1, or 0 for a text about which nothing can be said (no known word,
//! or blank). The dot product of two vectors is therefore their cosine, and a text without a vector is near to
//! nothing. Vectors of two different [`Embedder::space`]s say nothing about each other.

pub mod pieces;
pub mod table;
pub mod local;
pub mod openai;
pub mod cache;

pub use cache::Queries;

use crate::provider::CallError;
use crate::tokens::estimate;
use futures::future::BoxFuture;
use std::fmt;
use std::sync::Arc;

/// Most tokens of a text that count, by estimate; what is beyond is not looked at. OpenAI refuses texts of more than
/// 8192; fewer would leave the end of long notes unfound.
pub const MAX_TEXT_TOKENS: u64 = 8000;

/// What makes vectors.
pub trait Embedder: Send + Sync + 'static {
    /// Who: the value of EMBEDDING_PROVIDER.
    fn provider(&self) -> EmbeddingProvider;

    /// The model's name as it is stored in the brain.
    fn model(&self) -> &str;

    /// How many numbers a vector has.
    fn dim(&self) -> usize;

    /// Names the space the vectors lie in. Unlike the model's name it also changes with the dimension, and with a
    /// new edition of the built-in table.
    fn space(&self) -> String {
        format!("{}:{}:{}", self.provider().as_str(), self.model(), self.dim())
    }

    /// The vector of a text when it costs no waiting; `None` when [`Embedder::embed`] has to be asked.
    fn at_once(&self, _text: &str) -> Option<Vec<f32>> {
        None
    }

    /// The vectors of these texts, in their order. Any number of texts; all or an error. Dropping the future stops
    /// the work. An error never holds a text or the key.
    fn embed<'a>(&'a self, texts: &'a [String]) -> BoxFuture<'a, Result<Vec<Vec<f32>>, CallError>>;
}

/// The values of EMBEDDING_PROVIDER.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EmbeddingProvider {
    /// The built-in table; no network.
    Local,
    /// OpenAI, and every server that speaks its embeddings protocol.
    OpenAi,
}

impl EmbeddingProvider {
    /// Every value.
    pub const ALL: [EmbeddingProvider; 2] = [EmbeddingProvider::Local, EmbeddingProvider::OpenAi];

    /// The word of EMBEDDING_PROVIDER.
    pub const fn as_str(self) -> &'static str {
        match self {
            EmbeddingProvider::Local => "local",
            EmbeddingProvider::OpenAi => "openai",
        }
    }

    /// Reads the word back.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|p| p.as_str() == text)
    }
}

/// How vectors are made.
#[derive(Clone, PartialEq, Eq)]
pub enum EmbeddingConfig {
    /// By the built-in table, which has one model and one dimension.
    Local,
    /// By an endpoint.
    OpenAi {
        /// The key; without one no auth header is sent. Blanks around it are removed.
        api_key: Option<String>,
        /// EMBEDDING_BASE_URL; [`openai::DEFAULT_BASE`] when there is none.
        base_url: Option<String>,
        /// EMBEDDING_MODEL.
        model: String,
        /// EMBEDDING_DIM.
        dim: usize,
    },
}

impl fmt::Debug for EmbeddingConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EmbeddingConfig::Local => f.write_str("Local"),
            // The address is left out, too: it may carry a login.
            EmbeddingConfig::OpenAi { api_key, model, dim, .. } => f
                .debug_struct("OpenAi")
                .field("api_key", &api_key.as_ref().map(|_| "[redacted]"))
                .field("model", model)
                .field("dim", dim)
                .finish_non_exhaustive(),
        }
    }
}

/// Makes the embedder. Reads nothing, connects to nothing; that happens at the first call.
pub fn build(config: EmbeddingConfig) -> Arc<dyn Embedder> {
    match config {
        EmbeddingConfig::Local => Arc::new(local::Local),
        EmbeddingConfig::OpenAi { api_key, base_url, model, dim } => {
            let key = api_key.map(|k| k.trim().to_owned()).filter(|k| !k.is_empty());
            Arc::new(openai::OpenAiEmbedder::new(base_url.as_deref(), key, model, dim))
        }
    }
}

/// The beginning of a text that costs at most this many tokens, by estimate.
fn beginning(text: &str, tokens: u64) -> &str {
    if estimate(text.len() as u64) <= tokens {
        return text;
    }
    let bytes = usize::try_from(tokens * 7 / 2).unwrap_or(usize::MAX);
    &text[..text.floor_char_boundary(bytes)]
}

/// Makes the length 1. A vector without a direction becomes all zeros.
fn to_unit_length(vector: &mut [f32]) {
    // In f64, because the squares of large numbers do not fit an f32.
    let length = vector.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt();
    if length > 0.0 {
        vector.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_between_two_characters_and_fits() {
        let text = "é".repeat(20_000);
        let cut = beginning(&text, MAX_TEXT_TOKENS);
        assert_eq!((cut.len(), estimate(cut.len() as u64)), (28_000, MAX_TEXT_TOKENS));
        let odd = format!("x{text}");
        assert_eq!(beginning(&odd, MAX_TEXT_TOKENS).len(), 27_999);
        assert_eq!(beginning("short", MAX_TEXT_TOKENS), "short");
    }

    #[test]
    fn extreme_vectors_get_length_one() {
        for value in [f32::MAX, 1.0, f32::MIN_POSITIVE, 1e-45] {
            let mut vector = [value, -value, 0.0, value];
            to_unit_length(&mut vector);
            let length: f32 = vector.iter().map(|x| x * x).sum();
            assert!((length - 1.0).abs() < 1e-5, "{value}: {vector:?}");
        }
        let mut nothing = [0.0; 3];
        to_unit_length(&mut nothing);
        assert_eq!(nothing, [0.0; 3]);
    }

    #[test]
    fn neither_key_nor_login_is_shown() {
        let config = EmbeddingConfig::OpenAi {
            api_key: Some("sk-canary".into()),
            base_url: Some("http://ada:canary@proxy.internal/v1".into()),
            model: "m".into(),
            dim: 64,
        };
        let shown = format!("{config:?}");
        assert!(shown.contains("[redacted]") && !shown.contains("canary"), "{shown}");
    }

    #[test]
    fn every_word_reads_back_and_every_space_has_its_own_name() {
        for provider in EmbeddingProvider::ALL {
            assert_eq!(EmbeddingProvider::parse(provider.as_str()), Some(provider));
        }
        let remote = |model: &str, dim| {
            build(EmbeddingConfig::OpenAi { api_key: None, base_url: None, model: model.into(), dim }).space()
        };
        let spaces = [
            build(EmbeddingConfig::Local).space(),
            remote("text-embedding-3-small", 1536),
            remote("text-embedding-3-small", 256),
            remote("builtin", 256),
        ];
        assert_eq!(spaces[1], "openai:text-embedding-3-small:1536");
        assert_eq!(std::collections::HashSet::from(spaces.clone()).len(), spaces.len());
    }
}
