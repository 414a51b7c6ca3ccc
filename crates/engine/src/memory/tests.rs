//! The memory of a real brain with an embedder that does as it is told.

mod embedder;
mod gate;
mod people;
mod search;
mod same;
mod bundles;
mod background;

use super::item::{
    Intent, NewEpisode, NewFact, NewNode, Origin, Outcome, Patch, Patched, Search, Wanted, Written,
};
use super::{Hit, Item, Memory};
use brain::memory::MemoryId;
use brain::{Brain, OpenOptions};
use contract::memory::{EpisodeKind, FactType, Store, Trust};
use contract::{TaskId, Timestamp};
use embedder::Scripted;
use llm::embeddings::Embedder;
use llm::embeddings::local::Local;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest wait for what the background does; it takes milliseconds.
const LIMIT: Duration = Duration::from_secs(30);
/// How long a search of these tests waits for its vector, when it is not about that.
const PATIENT: Duration = Duration::from_secs(10);

/// A brain in a directory of its own.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a directory") }
    }

    fn brain(&self) -> Brain {
        let path: &Path = &self.dir.path().join("brain.sqlite");
        Brain::open(OpenOptions::at(path)).expect("a brain")
    }

    fn local(&self) -> Arc<Memory> {
        Arc::new(Memory::with_embedder(self.brain(), Arc::new(Local), PATIENT))
    }

    fn scripted(&self, embedder: &Scripted) -> Arc<Memory> {
        self.patient(embedder, PATIENT)
    }

    fn patient(&self, embedder: &Scripted, deadline: Duration) -> Arc<Memory> {
        let embedder: Arc<dyn Embedder> = Arc::new(embedder.clone());
        Arc::new(Memory::with_embedder(self.brain(), embedder, deadline))
    }
}

fn fact(subject: &str, content: &str) -> Wanted {
    typed(subject, content, FactType::Fact)
}

fn typed(subject: &str, content: &str, kind: FactType) -> Wanted {
    Wanted::Fact(NewFact {
        subject: subject.into(),
        content: content.into(),
        kind,
        valid_from: None,
        valid_until: None,
    })
}

fn note(key: &str, description: &str) -> Wanted {
    Wanted::Episode(NewEpisode {
        kind: EpisodeKind::Note,
        key: key.into(),
        description: description.into(),
        value: None,
        occurred_at: None,
        task_id: None,
        turn_id: None,
        position: None,
    })
}

fn person(name: &str) -> NewNode {
    NewNode {
        name: name.into(),
        kind: None,
        aliases: Vec::new(),
        attributes: serde_json::Map::new(),
        relations: Vec::new(),
    }
}

fn api() -> Origin {
    Origin::api(0.9, String::new())
}

fn trusted(trust: Trust) -> Origin {
    Origin { trust, intent: Intent::None, ..api() }
}

impl Memory {
    async fn must(&self, wanted: Wanted, origin: Origin) -> Written {
        self.write(wanted, origin).await.expect("written")
    }

    async fn add(&self, wanted: Wanted) -> MemoryId {
        let written = self.must(wanted, api()).await;
        assert_eq!(written.outcome, Outcome::Created);
        written.item.expect("a row").id()
    }

    async fn changed_to(&self, id: &MemoryId, patch: Patch) -> Item {
        match self.patch(id, patch).await.expect("patched") {
            Patched::Changed(item) => *item,
            other @ (Patched::Missing | Patched::SameAs(_)) => panic!("{other:?}"),
        }
    }

    async fn ask(&self, store: Store, query: &str) -> Vec<Hit> {
        let ask = Search { store, query: query.into(), limit: 20, now: Timestamp::now() };
        self.search(ask).await.expect("an answer")
    }

    async fn unembedded(&self) -> u64 {
        let stats = self.stats(Timestamp::now()).await.expect("stats");
        Store::ALL.iter().map(|s| stats["stores"][s.as_str()]["unembedded"].as_u64().expect("a number")).sum()
    }

    async fn until_embedded(&self) {
        let by = Instant::now() + LIMIT;
        while self.unembedded().await > 0 {
            assert!(Instant::now() < by, "nothing came of the embedding");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

fn ids(hits: &[Hit]) -> Vec<MemoryId> {
    hits.iter().map(|h| h.item.id()).collect()
}

fn content(item: &Item) -> &str {
    match item {
        Item::Fact(f) => &f.item.content,
        Item::Episode(e) => &e.item.description,
        Item::Node(n, _) => &n.item.name,
    }
}

fn task(name: &str) -> TaskId {
    TaskId::parse(name).expect("a name")
}
