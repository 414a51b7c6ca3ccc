//! Large stores of made-up memories: words as common as in real texts, vectors in clusters.
//!
//! Words follow Zipf's law over 50 000 words, of which the commonest are real stop words. Vectors are random, with 150 to a
//! cluster and a cosine of about one half inside it, so that a question about a cluster has as many hits by vector as a
//! real one. Rows come in through the brain's own functions, whose triggers fill the index, but not through the write
//! gate, which takes a commit for each.

use crate::draw::Draw;
use brain::memory::vectors::{self, Model};
use brain::memory::{Provenance, episodes};
use brain::{Brain, OpenOptions};
use contract::memory::{EpisodeKind, Store, Trust};
use contract::{EpisodeId, TaskId, Timestamp};
use engine::memory::Memory;
use futures::future::BoxFuture;
use llm::CallError;
use llm::embeddings::{Embedder, EmbeddingProvider};
use memory::{search_text, vector};
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Different words.
const VOCABULARY: usize = 50_000;
/// The commonest words of English, as ranks 1 to 48 of the vocabulary.
const COMMONEST: &str = "the of and to a in is it you that he was for on are with as i his they be at this have from or \
    had by but what all were we when your can there an which she do their if will each about how up";
/// Words of a memory: at least, and how many more.
const WORDS: (usize, usize) = (10, 40);
/// Memories about the same.
const CLUSTER: usize = 150;
/// How much of a vector is its cluster's; the rest is its own.
const ALIKE: f64 = 0.7;
/// Memories of a task.
const TASK: usize = 20;
/// Rows of a transaction.
const PIECE: usize = 500;
/// Milliseconds between two memories.
const APART_MS: i64 = 60_000;
/// Wait for a vector; all are there at once.
const DEADLINE: Duration = Duration::from_secs(1);

/// Makes texts.
#[derive(Clone)]
pub struct Writer {
    words: Arc<Vec<String>>,
    sums: Arc<Vec<f64>>,
}

impl Writer {
    /// Its vocabulary.
    pub fn new() -> Self {
        let syllables =
            ["ba", "ke", "lo", "mi", "nu", "ra", "so", "ti", "va", "zo", "pe", "du", "fi", "go", "ha", "ju"];
        let made = (0..VOCABULARY).map(|n| {
            let mut rest = n + 256;
            let mut word = String::new();
            while rest > 0 {
                word.push_str(syllables[rest % 16]);
                rest /= 16;
            }
            word
        });
        let words: Vec<String> =
            COMMONEST.split_whitespace().map(str::to_owned).chain(made).take(VOCABULARY).collect();
        let mut sum = 0.0;
        let sums = (0..VOCABULARY)
            .map(|rank| {
                sum += 1.0 / (rank as f64 + 2.7);
                sum
            })
            .collect();
        Self { words: Arc::new(words), sums: Arc::new(sums) }
    }

    fn rank(&self, draw: &mut Draw) -> usize {
        let total = self.sums[VOCABULARY - 1];
        let wanted = draw.unit() * total;
        self.sums.partition_point(|sum| *sum <= wanted).min(VOCABULARY - 1)
    }

    /// The text of a memory.
    pub fn memory(&self, row: usize) -> String {
        let mut draw = Draw::new(row as u64 ^ 0xfeed);
        let count = WORDS.0 + draw.below(WORDS.1);
        let words: Vec<&str> = (0..count).map(|_| self.words[self.rank(&mut draw)].as_str()).collect();
        words.join(" ")
    }

    /// A question of so many words of a memory, in another order.
    pub fn question(&self, row: usize, words: usize) -> String {
        let text = self.memory(row);
        let mut all: Vec<&str> = text.split(' ').collect();
        Draw::new(row as u64).shuffle(&mut all);
        all.truncate(words);
        all.join(" ")
    }

    /// A question of words that are common and no stop words: the worst that people ask.
    pub fn common(&self, seed: usize, words: usize) -> String {
        let mut draw = Draw::new(seed as u64);
        let words: Vec<&str> = (0..words).map(|_| self.words[60 + draw.below(400)].as_str()).collect();
        words.join(" ")
    }
}

/// The vector of a memory.
pub fn vector_of(row: usize, rows: usize, dim: usize) -> Vec<f32> {
    let cluster = row % (rows / CLUSTER).max(1);
    let own = unit(row as u64 | 1 << 40, dim);
    let mut all: Vec<f32> = unit(cluster as u64 | 1 << 50, dim)
        .iter()
        .zip(own)
        .map(|(c, o)| (ALIKE * f64::from(*c) + (1.0 - ALIKE * ALIKE).sqrt() * f64::from(o)) as f32)
        .collect();
    vector::normalise(&mut all);
    all
}

fn unit(seed: u64, dim: usize) -> Vec<f32> {
    let mut draw = Draw::new(seed);
    let mut numbers: Vec<f32> = (0..dim).map(|_| (draw.unit() - 0.5) as f32).collect();
    vector::normalise(&mut numbers);
    numbers
}

/// Knows the vectors of the questions, and makes one up for everything else.
#[derive(Clone)]
pub struct Known {
    dim: usize,
    vectors: Arc<Mutex<HashMap<String, Vec<f32>>>>,
}

impl Known {
    /// Of so many numbers.
    pub fn new(dim: usize) -> Self {
        Self { dim, vectors: Arc::default() }
    }

    /// Tells it the vector of a text.
    pub fn learn(&self, text: &str, vector: Vec<f32>) {
        self.vectors.lock().unwrap_or_else(PoisonError::into_inner).insert(text.to_owned(), vector);
    }

    fn of(&self, text: &str) -> Vec<f32> {
        let known = self.vectors.lock().unwrap_or_else(PoisonError::into_inner).get(text).cloned();
        known
            .unwrap_or_else(|| unit(text.bytes().fold(7, |h, b| h * 31 % (1 << 40) + u64::from(b)), self.dim))
    }
}

impl Embedder for Known {
    fn provider(&self) -> EmbeddingProvider {
        EmbeddingProvider::OpenAi
    }

    fn model(&self) -> &str {
        "made-up"
    }

    fn dim(&self) -> usize {
        self.dim
    }

    fn at_once(&self, text: &str) -> Option<Vec<f32>> {
        Some(self.of(text))
    }

    fn embed<'a>(&'a self, texts: &'a [String]) -> BoxFuture<'a, Result<Vec<Vec<f32>>, CallError>> {
        Box::pin(async move { Ok(texts.iter().map(|text| self.of(text)).collect()) })
    }
}

/// Opens the brain in a directory with its memory.
pub fn open(dir: &Path, known: &Known) -> (Brain, Arc<Memory>) {
    let brain = Brain::open(OpenOptions::at(dir.join("brain.sqlite"))).expect("a brain");
    let memory = Memory::with_embedder(brain.clone(), Arc::new(known.clone()), DEADLINE);
    (brain, Arc::new(memory))
}

/// Writes the rows of a store.
pub async fn fill(brain: &Brain, writer: &Writer, known: &Known, rows: usize, now: Timestamp) {
    let model = Model { name: known.space(), dim: known.dim as u32 };
    for first in (0..rows).step_by(PIECE) {
        let (writer, model) = (writer.clone(), model.clone());
        let piece = first..(first + PIECE).min(rows);
        brain
            .write("bench.fill", move |tx| {
                for n in piece {
                    let at = Timestamp::from_millis(now.millis() - (rows - n) as i64 * APART_MS);
                    let episode = episode(n, writer.memory(n), at);
                    let text = search_text::episode(&episode.key, &episode.description, None, at);
                    let row = episodes::insert(tx, &episode, &text)?;
                    let blob = vector::encode(&vector_of(n, rows, model.dim as usize));
                    assert!(
                        vectors::put(tx, Store::Episodes, row, &text, &model, &blob, at)?,
                        "the row is there"
                    );
                }
                Ok(())
            })
            .await
            .expect("rows are written");
    }
}

fn episode(n: usize, description: String, at: Timestamp) -> episodes::Episode {
    episodes::Episode {
        episode_id: EpisodeId::generate(),
        kind: EpisodeKind::Turn,
        key: format!("turn-{n}"),
        description,
        value: None,
        task_id: TaskId::parse(&format!("task-{}", n / TASK)).ok(),
        turn_id: None,
        position: Some((n % TASK) as i64),
        occurred_at: at,
        content_hash: format!("{n:064x}"),
        provenance: Provenance {
            confidence: 0.6,
            trust: Trust::User,
            source: "user:api".to_owned(),
            rationale: String::new(),
            last_confirmed_at: at,
            created_at: at,
            updated_at: at,
        },
    }
}
