//! An embedder that does as it is told: it answers, fails, or keeps everybody waiting.
//!
//! Its vectors are of concepts: two words of one concept are the same to it, as two ways of saying something are to a
//! model. What has no concept is a dimension of its own.

use futures::FutureExt;
use futures::future::BoxFuture;
use llm::embeddings::{Embedder, EmbeddingProvider};
use llm::{CallError, ErrorKind};
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

/// Numbers of a vector: enough that different words are nearly at right angles.
pub const DIM: usize = 512;
/// Words that mean the same.
const CONCEPTS: [(&str, &str); 6] = [
    ("automobile", "car"),
    ("vehicle", "car"),
    ("physician", "doctor"),
    ("medic", "doctor"),
    ("residence", "home"),
    ("dwelling", "home"),
];
/// A text with this word is refused.
pub const ODD: &str = "oddity";

/// What it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It answers.
    Fine,
    /// It fails.
    Failing,
    /// It keeps everybody waiting.
    Holding,
}

#[derive(Clone)]
pub struct Scripted {
    model: &'static str,
    mode: Arc<watch::Sender<Mode>>,
    calls: Arc<Mutex<Vec<Vec<String>>>>,
}

impl Scripted {
    pub fn new(model: &'static str) -> Self {
        Self { model, mode: Arc::new(watch::Sender::new(Mode::Fine)), calls: Arc::default() }
    }

    pub fn is(self, mode: Mode) -> Self {
        self.turn(mode);
        self
    }

    pub fn turn(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// The texts of every call so far.
    pub fn calls(&self) -> Vec<Vec<String>> {
        self.calls.lock().expect("not poisoned").clone()
    }

    /// Calls that asked for exactly this text.
    pub fn asked(&self, text: &str) -> usize {
        self.calls().iter().filter(|texts| texts.as_slice() == [text.to_owned()]).count()
    }

    fn vector(&self, text: &str) -> Vec<f32> {
        let mut vector = vec![0.0f32; DIM];
        for word in text.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()) {
            let word = word.to_lowercase();
            let concept = CONCEPTS.iter().find(|(w, _)| *w == word).map_or(word.as_str(), |(_, c)| c);
            let seed = format!("{}:{concept}", self.model);
            let hash = seed
                .bytes()
                .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
            // A word points into a direction of its own: nearly at right angles to every other.
            let mut state = hash;
            for x in &mut vector {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                *x += if state >> 63 == 1 { 1.0 } else { -1.0 };
            }
        }
        ::memory::vector::normalise(&mut vector);
        vector
    }
}

impl Embedder for Scripted {
    fn provider(&self) -> EmbeddingProvider {
        EmbeddingProvider::OpenAi
    }

    fn model(&self) -> &str {
        self.model
    }

    fn dim(&self) -> usize {
        DIM
    }

    fn embed<'a>(&'a self, texts: &'a [String]) -> BoxFuture<'a, Result<Vec<Vec<f32>>, CallError>> {
        async move {
            self.calls.lock().expect("not poisoned").push(texts.to_vec());
            let mut mode = self.mode.subscribe();
            let mode = *mode.wait_for(|m| *m != Mode::Holding).await.expect("the test is there");
            if mode == Mode::Failing {
                return Err(CallError::new(ErrorKind::Auth, "the key is not accepted"));
            }
            if texts.iter().any(|t| t.contains(ODD)) {
                return Err(CallError::new(ErrorKind::BadRequest, "a text is refused"));
            }
            Ok(texts.iter().map(|t| self.vector(t)).collect())
        }
        .boxed()
    }
}
