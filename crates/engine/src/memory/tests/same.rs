//! Whatever was written, edited, erased and imported in whatever order: codes in RAM are those of the stored vectors, and a search
//! finds what comparing every vector finds.

use super::embedder::Scripted;
use super::{Place, api, fact, note, person, task};
use crate::catalog::Shelf;
use crate::catalog::shelf;
use crate::catalog::snapshot::Models;
use crate::config::Provider;
use crate::memory::bundle::{FORMAT, Importer, Mode};
use crate::memory::find::{Asked, by_vector};
use crate::memory::item::{EpisodePatch, FactPatch, NodePatch, Patch, Patched, Wanted};
use crate::memory::{Memory, Touched, node_text};
use crate::tools::registry::Registry;
use ::memory::retrieval::VECTOR_FLOOR;
use ::memory::vector::{Code, cosine, decode};
use brain::memory::lineage::Parent;
use brain::memory::{MemoryId, erase, index, vectors};
use brain::retention::{self, Policy};
use contract::Timestamp;
use contract::memory::{ParentKind, Store};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Words of which everything here is said, so that much of it is near to each other.
const WORDS: [&str; 12] = [
    "car",
    "automobile",
    "doctor",
    "physician",
    "home",
    "dwelling",
    "red",
    "blue",
    "friday",
    "lisbon",
    "tea",
    "ada",
];

/// What a memory goes through by itself.
#[derive(Debug, Clone)]
pub enum Living {
    Write(Store, String),
    Edit(usize, String),
    Erase(usize),
}

/// A row of a bundle: its store, the number of its id, what it says, and whether it has ended.
type Carried = (Store, usize, String, bool);

/// Ids of a store that bundles draw from: few, so that an import meets rows of the one before it.
const CARRIED_IDS: usize = 4;

#[derive(Debug, Clone)]
enum Step {
    Living(Living),
    Import(Mode, Vec<Carried>),
    Settle,
    Restart,
    /// A note of a task, and later all that rests on that task.
    NoteOfTask(String),
    ForgetTask,
    Retain,
    /// Another model makes the vectors from now on.
    Remodel,
}

fn said() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(WORDS.as_slice()), 1..6).prop_map(|words| words.join(" "))
}

/// A step of a memory's own life.
pub fn living() -> impl Strategy<Value = Living> {
    let store = prop::sample::select(Store::ALL);
    prop_oneof![
        3 => (store, said()).prop_map(|(store, said)| Living::Write(store, said)),
        1 => (any::<usize>(), said()).prop_map(|(which, said)| Living::Edit(which, said)),
        1 => any::<usize>().prop_map(Living::Erase),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let mode = prop::sample::select(vec![Mode::Merge, Mode::Replace]);
    let carried = (prop::sample::select(Store::ALL), 0..CARRIED_IDS, said(), any::<bool>());
    prop_oneof![
        10 => living().prop_map(Step::Living),
        2 => (mode, prop::collection::vec(carried, 0..6)).prop_map(|(mode, rows)| Step::Import(mode, rows)),
        1 => Just(Step::Settle),
        1 => Just(Step::Restart),
        2 => said().prop_map(Step::NoteOfTask),
        1 => Just(Step::ForgetTask),
        1 => Just(Step::Retain),
        1 => Just(Step::Remodel),
    ]
}

async fn write(memory: &Memory, store: Store, said: &str) -> Option<MemoryId> {
    let wanted = match store {
        Store::Episodes => note("key", said),
        Store::Knowledge => fact("subject", said),
        Store::Social => Wanted::Node(person(said)),
    };
    memory.must(wanted, api()).await.item.map(|item| item.id())
}

async fn edit(memory: &Memory, id: &MemoryId, said: String) {
    let patch = match id {
        MemoryId::Episode(_) => {
            Patch::Episode(EpisodePatch { description: Some(said), ..Default::default() })
        }
        MemoryId::Fact(_) => Patch::Fact(FactPatch { content: Some(said), ..Default::default() }),
        MemoryId::Node(_) | MemoryId::Edge(_) => {
            Patch::Node(NodePatch { name: Some(said), ..Default::default() })
        }
    };
    // refused, when it would say what another says
    let patched = memory.patch(id, patch).await.expect("patched");
    if let Patched::SameAs(other) = patched {
        assert_ne!(other, *id);
    }
}

/// Makes a step; `there` are the memories it may be about.
pub async fn live(memory: &Memory, there: &mut Vec<MemoryId>, step: Living) {
    match step {
        Living::Write(store, said) => there.extend(write(memory, store, &said).await),
        Living::Edit(which, said) if !there.is_empty() => {
            edit(memory, &there[which % there.len()], said).await;
        }
        Living::Erase(which) if !there.is_empty() => {
            let id = there[which % there.len()].clone();
            memory.erase(&id).await.expect("erased");
        }
        Living::Edit(..) | Living::Erase(_) => {}
    }
}

/// A catalog with nothing in it.
pub fn shelf() -> Arc<Shelf> {
    let models = Models { provider: Provider::Offline, has_base_url: false, configured: String::new() };
    let place = shelf::Place { dir: None, hooks: None, models };
    Arc::new(Shelf::open(place, Registry::default(), None, &[]).0)
}

/// Imports a bundle of these rows; nodes are a chain, each related to the one before it.
async fn import(memory: &Arc<Memory>, mode: Mode, carried: Vec<Carried>) -> Vec<MemoryId> {
    let at = "2026-04-27T12:34:56.000Z";
    let (mut episodes, mut facts, mut nodes, mut edges) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut ids = BTreeSet::new();
    for (store, n, said, has_ended) in carried {
        let id = match store {
            Store::Episodes => format!("ep-{n}"),
            Store::Knowledge => format!("fact-{n}"),
            Store::Social => format!("soc-{n}"),
        };
        if !ids.insert(id.clone()) {
            continue;
        }
        let mut row = json!({"id": id, "confidence": 0.5, "trust": "user", "created_at": at, "valid_from": at,
                             "valid_until": has_ended.then_some(at)});
        match store {
            Store::Episodes => {
                row["kind"] = json!("note");
                (row["key"], row["description"], row["occurred_at"]) = (json!("key"), json!(said), json!(at));
                episodes.push(row);
            }
            Store::Knowledge => {
                (row["subject"], row["content"], row["type"]) =
                    (json!("subject"), json!(said), json!("fact"));
                facts.push(row);
            }
            Store::Social => {
                if let Some(before) = nodes.last().map(|node: &Value| node["id"].clone()) {
                    let mut edge = row.clone();
                    (edge["id"], edge["relation"]) = (json!(format!("rel-{n}")), json!("knows"));
                    (edge["from"], edge["to"]) = (json!(id), before);
                    edges.push(edge);
                }
                (row["name"], row["kind"]) = (json!(said), json!("person"));
                nodes.push(row);
            }
        }
    }
    let bundle = json!({"format": FORMAT, "soul": null, "soul_history": [], "episodes": episodes, "knowledge": facts,
                        "social": {"nodes": nodes, "edges": edges}, "skills": [], "signals": []});
    let importer = Importer::new(memory.brain.clone(), Arc::clone(memory), shelf());
    importer.import(bundle.to_string().into(), mode).await.expect("imported");
    ids.iter().filter_map(|id| MemoryId::parse(id)).collect()
}

/// Compares what the searches by vector find with all stored vectors, and codes with them once all is settled.
async fn compare(memory: &Memory, query: &str) {
    let vector = memory.queries.get(query, super::PATIENT).await.expect("a vector");
    let asked = Asked {
        query: query.into(),
        words: true,
        vector: None,
        model: memory.model.clone(),
        mirrors: Arc::clone(&memory.mirrors),
        now: Timestamp::now(),
    };
    for store in Store::ALL.iter().copied() {
        let (dim, model) = (memory.embedder.dim(), memory.model.clone());
        let stored: Vec<(i64, Vec<f32>)> = memory
            .brain
            .read("all vectors", move |tx| vectors::page(tx, store, &model, 0, 10_000))
            .await
            .expect("read")
            .into_iter()
            .map(|v| (v.row, decode(&v.item, dim).expect("a vector")))
            .collect();
        let mut brute: Vec<(i64, f32)> = stored
            .iter()
            .filter_map(|(row, v)| Some((*row, cosine(&vector, v)?)))
            .filter(|(_, cosine)| *cosine >= VECTOR_FLOOR)
            .collect();
        brute.sort_by(|a, b| b.1.total_cmp(&a.1).then(b.0.cmp(&a.0)));
        let (of, vector) = (clone_of(&asked), Arc::clone(&vector));
        let found = memory.brain.read("by vector", move |tx| by_vector(tx, store, &of, &vector)).await;
        assert_eq!(found.expect("found"), brute, "{store}");

        memory.fill().await.expect("settled");
        let codes: Vec<(i64, Code)> = stored.iter().map(|(row, v)| (*row, Code::of(v))).collect();
        assert!(memory.mirrors.holds(store, &codes), "{store}: the codes are not those of the vectors");
    }
}

fn clone_of(asked: &Asked) -> Asked {
    Asked {
        query: asked.query.clone(),
        words: asked.words,
        vector: None,
        model: asked.model.clone(),
        mirrors: Arc::clone(&asked.mirrors),
        now: asked.now,
    }
}

/// Erases what rests on the task of these tests, as a deletion of the task does.
async fn forget_task(memory: &Memory) {
    loop {
        let piece = memory.brain.write("forget task", |tx| erase::of_task(tx, &task("t"), &node_text)).await;
        let piece = piece.expect("erased");
        memory.changed(Touched::erased(&piece.erased));
        if piece.done {
            return;
        }
    }
}

async fn play(steps: Vec<Step>, question: String) {
    let place = Place::new();
    let models = [Scripted::new("a"), Scripted::new("b")];
    let mut embedder = &models[0];
    let mut memory = place.scripted(embedder);
    let mut halt = CancellationToken::new();
    memory.start(&halt);
    let mut there: Vec<MemoryId> = Vec::new();
    for step in steps {
        match step {
            Step::Living(step) => live(&memory, &mut there, step).await,
            Step::Import(mode, rows) => there.extend(import(&memory, mode, rows).await),
            Step::Settle => memory.fill().await.expect("settled"),
            Step::Restart => {
                halt.cancel();
                memory.brain.close();
                memory = place.scripted(embedder);
                halt = CancellationToken::new();
                memory.fill().await.expect("filled");
                memory.start(&halt);
            }
            Step::NoteOfTask(said) => {
                let Wanted::Episode(mut episode) = note("task", &said) else { continue };
                episode.task_id = Some(task("t"));
                let parent = Parent { kind: ParentKind::Trajectory, id: "turn-1".to_owned() };
                let origin = crate::memory::item::Origin { lineage: vec![parent], ..api() };
                there.extend(memory.must(Wanted::Episode(episode), origin).await.item.map(|i| i.id()));
            }
            Step::ForgetTask => forget_task(&memory).await,
            Step::Retain => {
                let (later, policy) = (Timestamp::now().plus_millis(400 * 86_400_000), Policy::default());
                retention::run_once(&memory.brain, later, policy).await.expect("a run");
            }
            Step::Remodel => {
                halt.cancel();
                memory.brain.close();
                embedder = if std::ptr::eq(embedder, &models[0]) { &models[1] } else { &models[0] };
                memory = place.scripted(embedder);
                halt = CancellationToken::new();
                memory.start(&halt);
            }
        }
    }
    memory.until_embedded().await;
    // Vectors that an earlier process left need no embedding; until they are in RAM a search goes by words.
    memory.mirrors.fill(&memory.brain).await.expect("filled");
    // The vectors can be read an instant before their commit is told of; the next commit comes after that.
    memory.brain.write("after the worker", |_| Ok(())).await.expect("written");
    compare(&memory, &question).await;
    let differing = memory.brain.write("compare the indexes", index::differing).await.expect("compared");
    assert_eq!(differing, [""; 0], "a full-text index differs from its table");
    let before = memory.search_all(&question, 100, Timestamp::from_millis(0)).await.expect("found");
    halt.cancel();
    memory.brain.close();
    let again = place.scripted(embedder);
    again.fill().await.expect("filled");
    let after = again.search_all(&question, 100, Timestamp::from_millis(0)).await.expect("found");
    assert_eq!(before, after, "another process of the same brain answers the same");
    again.brain.close();
}

proptest! {
    // Each case makes a brain on disk and commits some thirty times; more cases would only be slower.
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn a_search_through_the_codes_finds_what_comparing_every_vector_finds(
        steps in prop::collection::vec(step(), 1..40),
        question in said(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(play(steps, question));
    }
}
