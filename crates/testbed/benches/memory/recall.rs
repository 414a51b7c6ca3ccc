//! What is found: for each way of searching, how much of the evidence is among the first k.
//!
//! The corpus goes through the write gate into a real brain with the built-in table, and the questions through
//! `Memory::search_by`, which is the way of every search; so names, dates, age and neighbours count in all three ways.
//! The bare orders (bm25, cosine) leave all of that out.

use crate::corpus::{Class, Corpus};
use crate::phrases::{self, Phrases};
use crate::turn;
use brain::memory::search;
use brain::{Brain, OpenOptions};
use contract::memory::{EpisodeKind, Store, Trust};
use contract::{TaskId, Timestamp};
use engine::memory::{
    By, Intent, Item, Memory, NewEpisode, NewNode, Origin, Outcome, Search, Touched, Wanted,
};
use llm::embeddings::Embedder;
use llm::embeddings::local::Local;
use memory::query;
use memory::vector::cosine;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// How far down the list evidence counts.
const DEPTHS: [usize; 4] = [5, 10, 20, 50];
/// Turns written in one transaction.
const PIECE: usize = 250;
/// The built-in table answers at once.
const DEADLINE: Duration = Duration::from_secs(1);

/// A way of searching, and what it is called.
const WAYS: [(Way, &str); 5] = [
    (Way::Bm25, "bm25 alone, nothing else"),
    (Way::Cosine, "cosine alone, nothing else"),
    (Way::Engine(By::Words), "keyword"),
    (Way::Engine(By::Vector), "vector"),
    (Way::Engine(By::Both), "fused"),
];

#[derive(Clone, Copy)]
enum Way {
    Bm25,
    Cosine,
    Engine(By),
}

/// What a way found of a class: the mean share of the evidence at each depth, and how long a search took.
struct Score {
    found: [f64; DEPTHS.len()],
    asked: usize,
}

/// Everything in a brain.
pub struct World {
    brain: Brain,
    memory: Arc<Memory>,
    /// What it was made of.
    pub corpus: Corpus,
    /// Of each turn the number of its row and its vector.
    rows: Vec<(i64, Vec<f32>)>,
}

/// Measures both corpora and prints.
pub fn measure(runtime: &Runtime, less: usize) -> String {
    let corpora = phrases::ALL.map(|words| of(runtime, words, less)).join("\n");
    format!("{corpora}\n{}\n", turn::facts(runtime))
}

fn of(runtime: &Runtime, words: &'static Phrases, less: usize) -> String {
    let dir = tempfile::tempdir().expect("a directory");
    let world = runtime.block_on(World::new(dir.path(), Corpus::of(words), words.people));
    let count = |class: Class| world.corpus.questions.iter().filter(|q| q.class == class).count();
    let classes: Vec<String> = Class::ALL.iter().map(|(c, name)| format!("{} {name}", count(*c))).collect();
    let mut out = format!(
        "The {} corpus: {} turns, {} questions ({}), one in {less} asked.\n\n| Class | Way | {} |\n|---|---|{}\n",
        words.name,
        world.rows.len(),
        world.corpus.questions.len(),
        classes.join(", "),
        DEPTHS.map(|k| format!("recall@{k}")).join(" | "),
        "--:|".repeat(DEPTHS.len()),
    );
    let mut all: HashMap<&str, Vec<(Class, [f64; DEPTHS.len()])>> = HashMap::new();
    let mut times = String::new();
    for (way, name) in WAYS {
        let started = Instant::now();
        let found: Vec<(Class, [f64; DEPTHS.len()])> = world
            .corpus
            .questions
            .iter()
            .step_by(less)
            .map(|q| (q.class, shares(&runtime.block_on(world.found(way, &q.text)), &q.evidence)))
            .collect();
        let each = started.elapsed().as_secs_f64() * 1000.0 / found.len() as f64;
        times.push_str(&format!("{name} {each:.2} ms; "));
        all.insert(name, found);
    }
    let classes = Class::ALL.iter().map(|(c, name)| (Some(*c), *name)).chain([(None, "**all**")]);
    for (class, class_name) in classes {
        for (_, name) in WAYS {
            let score = Score::of(&all[name], class);
            let cells = score.found.map(|x| format!("{x:.3}")).join(" | ");
            out.push_str(&format!("| {class_name} | {name} | {cells} |\n"));
        }
    }
    let fused = Score::of(&all["fused"], None);
    for (_, name) in &WAYS[..4] {
        let other = Score::of(&all[name], None);
        let better = fused.found.iter().zip(other.found).all(|(f, o)| *f > o);
        out.push_str(&format!(
            "\nFused above \"{name}\" at every k: {}.",
            if better { "yes" } else { "**no**" }
        ));
    }
    let noise = turn::noise(runtime, &world, words);
    out + &format!("\n\n{noise}\n\nA question took, on the average: {}\n", times.trim_end_matches("; "))
}

impl Score {
    fn of(found: &[(Class, [f64; DEPTHS.len()])], class: Option<Class>) -> Self {
        let mut score = Score { found: [0.0; DEPTHS.len()], asked: 0 };
        for (_, shares) in found.iter().filter(|(c, _)| class.is_none_or(|wanted| *c == wanted)) {
            score.asked += 1;
            score.found.iter_mut().zip(shares).for_each(|(sum, share)| *sum += share);
        }
        score.found = score.found.map(|sum| sum / score.asked as f64);
        score
    }
}

/// Which share of the evidence is among the first k.
fn shares(found: &[usize], evidence: &[usize]) -> [f64; DEPTHS.len()] {
    DEPTHS.map(|k| {
        let there = |e: &&usize| found.iter().take(k).any(|f| f == *e);
        evidence.iter().filter(there).count() as f64 / evidence.len() as f64
    })
}

impl World {
    /// The turns of a corpus in a new brain that knows these people.
    pub async fn new(dir: &std::path::Path, corpus: Corpus, people: &[&str]) -> Self {
        let brain = Brain::open(OpenOptions::at(dir.join("brain.sqlite"))).expect("a brain");
        let memory = Arc::new(Memory::with_embedder(brain.clone(), Arc::new(Local), DEADLINE));
        for name in people {
            let node = NewNode {
                name: (*name).to_owned(),
                kind: None,
                aliases: Vec::new(),
                attributes: serde_json::Map::new(),
                relations: Vec::new(),
            };
            memory.write(Wanted::Node(node), Origin::api(0.9, String::new())).await.expect("a person");
        }
        let mut rows = Vec::new();
        for piece in corpus.turns.chunks(PIECE) {
            let wanted: Vec<(Wanted, Timestamp)> = piece.iter().map(|t| (episode(t), t.at)).collect();
            rows.extend(write(&brain, &memory, wanted).await);
        }
        memory.fill().await.expect("codes in RAM");
        Self { brain, memory, corpus, rows }
    }

    /// The turns that a question finds, best first.
    async fn found(&self, way: Way, question: &str) -> Vec<usize> {
        let most = DEPTHS[DEPTHS.len() - 1];
        let rows: Vec<i64> = match way {
            Way::Bm25 => self.by_bm25(question, most).await,
            Way::Cosine => self.by_cosine(question, most),
            Way::Engine(by) => {
                return self.searched(by, question, most).await.into_iter().map(|(turn, _)| turn).collect();
            }
        };
        let places = self.places();
        rows.iter().map(|row| places[row]).collect()
    }

    /// The turns that a search of the Engine finds and their scores, best first.
    pub async fn searched(&self, by: By, question: &str, most: usize) -> Vec<(usize, f64)> {
        let ask =
            Search { store: Store::Episodes, query: question.to_owned(), limit: most, now: self.corpus.now };
        let hits = self.memory.search_by(ask, by).await.expect("an answer");
        let places = self.places();
        hits.iter().map(|hit| (places[&row_of(&hit.item)], hit.score)).collect()
    }

    fn places(&self) -> HashMap<i64, usize> {
        self.rows.iter().enumerate().map(|(n, (row, _))| (*row, n)).collect()
    }

    async fn by_bm25(&self, question: &str, most: usize) -> Vec<i64> {
        let terms = query::terms(question);
        let found = self.brain.read("bench.words", move |tx| {
            let stems: Vec<String> = terms.iter().map(|t| t.stem.clone()).collect();
            let counts = search::document_frequencies(tx, Store::Episodes, &stems)?;
            let rows = search::count(tx, Store::Episodes)?;
            let rarest = query::rarest(terms, rows, |stem| counts.get(stem).copied().unwrap_or(0));
            let rarest: Vec<query::Term> = rarest.into_iter().map(|word| word.term).collect();
            let Some(expression) = query::match_expression(&rarest) else { return Ok(Vec::new()) };
            search::keyword(tx, Store::Episodes, &expression, most as u32)
        });
        found.await.expect("rows").into_iter().map(|k| k.row).collect()
    }

    fn by_cosine(&self, question: &str, most: usize) -> Vec<i64> {
        let asked = Local.at_once(question).expect("the table answers at once");
        let mut near: Vec<(f32, i64)> =
            self.rows.iter().map(|(row, v)| (cosine(&asked, v).unwrap_or(-1.0), *row)).collect();
        near.sort_by(|a, b| b.0.total_cmp(&a.0).then(b.1.cmp(&a.1)));
        near.into_iter().take(most).map(|(_, row)| row).collect()
    }
}

fn episode(turn: &crate::corpus::Turn) -> Wanted {
    Wanted::Episode(NewEpisode {
        kind: EpisodeKind::Turn,
        key: format!("talk-{}-{}", turn.conversation, turn.position),
        description: turn.text.clone(),
        value: None,
        occurred_at: Some(turn.at),
        task_id: TaskId::parse(&format!("talk-{}", turn.conversation)).ok(),
        turn_id: None,
        position: Some(turn.position),
    })
}

/// Through the write gate in one transaction; of each its row and vector. Each is written at the time it was said.
async fn write(brain: &Brain, memory: &Memory, wanted: Vec<(Wanted, Timestamp)>) -> Vec<(i64, Vec<f32>)> {
    let prepared = memory.prepared_at_once();
    let origin =
        Origin { trust: Trust::User, intent: Intent::None, ..Origin::api(0.6, "what was said".to_owned()) };
    let (rows, touched) = brain
        .write("bench.turns", move |tx| {
            let (mut rows, mut all) = (Vec::new(), Touched::default());
            for (wanted, at) in &wanted {
                let (written, touched) = engine::memory::write_in(tx, wanted, &origin, &prepared, *at)?;
                assert_eq!(written.outcome, Outcome::Created, "each turn is a row of its own");
                let item = written.item.expect("a row");
                let Item::Episode(episode) = &item else { panic!("an episode") };
                let said = format!("{}\n{}", episode.item.key, episode.item.description);
                rows.push((episode.row, Local.at_once(&said).expect("the table answers at once")));
                all = all.and(touched);
            }
            Ok((rows, all))
        })
        .await
        .expect("turns are written");
    memory.changed(touched);
    let each: HashSet<i64> = rows.iter().map(|(row, _)| *row).collect();
    assert_eq!(each.len(), rows.len(), "each turn has a row of its own");
    rows
}

fn row_of(item: &Item) -> i64 {
    match item {
        Item::Episode(e) => e.row,
        Item::Fact(f) => f.row,
        Item::Node(n, _) => n.row,
    }
}
