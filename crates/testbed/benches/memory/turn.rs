//! What reaches a turn: how much of what answers a message scores high enough to be recalled, and how much of what
//! does not.
//!
//! A small memory of facts, each with a question that shares almost no word with it; and messages which a corpus has no
//! answer to, because they are the chatter of the other one.
//!
//! The invariant: both are counted by the rule of the Engine, [`RECALL_THRESHOLD`], among as many as a turn gets.

use crate::corpus::{Class, Corpus, Question, Turn};
use crate::phrases::{self, Phrases};
use crate::recall::World;
use contract::Timestamp;
use engine::memory::By;
use memory::retrieval::RECALL_THRESHOLD;
use tokio::runtime::Runtime;

/// What a turn gets at most (`MEMORY_RECALL_LIMIT`).
const ITEMS: usize = 12;
/// Facts and a question for each, which the built-in table was measured with.
const FACTS: &str = include_str!("../../../llm/tests/it/embeddings/facts.tsv");
/// When the facts were told; they are asked for an hour later.
const TOLD: Timestamp = Timestamp::from_millis(1_777_293_296_000);
const HOUR_MS: i64 = 3_600_000;

/// What is recalled for messages that nothing in a corpus answers.
pub fn noise(runtime: &Runtime, world: &World, words: &Phrases) -> String {
    let messages: Vec<&str> = phrases::ALL
        .into_iter()
        .filter(|other| other.name != words.name)
        .flat_map(|other| other.chatter)
        .copied()
        .collect();
    let recalled: usize = messages.iter().map(|m| runtime.block_on(recalled(world, m)).len()).sum();
    format!(
        "For {} messages of the other corpus that nothing here answers, {:.1} of {ITEMS} memories would be recalled each.",
        messages.len(),
        recalled as f64 / messages.len() as f64
    )
}

/// What is recalled of the facts for their questions.
pub fn facts(runtime: &Runtime) -> String {
    let told: Vec<(&str, &str)> = FACTS.lines().filter_map(|line| line.split_once('\t')).collect();
    let turn = |(n, (fact, _)): (usize, &(&str, &str))| Turn {
        conversation: n,
        position: 0,
        at: TOLD,
        text: (*fact).to_owned(),
    };
    let question = |(n, (_, question)): (usize, &(&str, &str))| Question {
        class: Class::Paraphrase,
        text: (*question).to_owned(),
        evidence: vec![n],
    };
    let corpus = Corpus {
        turns: told.iter().enumerate().map(turn).collect(),
        questions: told.iter().enumerate().map(question).collect(),
        now: TOLD.plus_millis(HOUR_MS),
    };
    let dir = tempfile::tempdir().expect("a directory");
    let world = runtime.block_on(World::new(dir.path(), corpus, &[]));
    let (mut right, mut wrong) = (0, 0);
    for question in &world.corpus.questions {
        let found = runtime.block_on(recalled(&world, &question.text));
        let answers = found.iter().filter(|turn| question.evidence.contains(turn)).count();
        right += answers;
        wrong += found.len() - answers;
    }
    let asked = told.len() as f64;
    format!(
        "For {asked} questions that share almost no word with their fact, it would be recalled for {:.0} %, with {:.1} others.",
        right as f64 / asked * 100.0,
        wrong as f64 / asked
    )
}

/// The turns of a corpus that a message would bring into a turn.
async fn recalled(world: &World, message: &str) -> Vec<usize> {
    let found = world.searched(By::Both, message, ITEMS).await;
    found.into_iter().filter(|(_, score)| *score >= RECALL_THRESHOLD).map(|(turn, _)| turn).collect()
}
