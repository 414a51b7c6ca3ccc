//! The full-text index and the vectors agree with their tables, whatever is done in whatever order.

use crate::house::{House, at, number};
use crate::memories::{edge, episode, fact, model, node, render, stems_from, text_of, vector_of, write};
use brain::memory::{MemoryId, edges, episodes, erase, index, knowledge, nodes, search, standing, vectors};
use brain::schema::MIGRATIONS;
use brain::{Result, Tx, verify};
use contract::memory::Store;
use contract::{EdgeId, EpisodeId, FactId, NodeId};
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Step {
    Fact(String),
    Episode(String),
    Node(String),
    Edge(usize, usize),
    Rewrite(usize, String),
    Retell(usize, String),
    Rename(usize, String),
    CloseEdge(usize),
    Confirm(usize),
    Derive(usize, usize),
    Embed { late: bool },
    Erase(usize),
    EraseNode(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let words = "[abcé]{1,3}( [abcé]{1,3}){0,3}";
    let n = 0..12_usize;
    prop_oneof![
        words.prop_map(Step::Fact),
        words.prop_map(Step::Episode),
        words.prop_map(Step::Node),
        (n.clone(), n.clone()).prop_map(|(a, b)| Step::Edge(a, b)),
        (n.clone(), words).prop_map(|(i, w)| Step::Rewrite(i, w)),
        (n.clone(), words).prop_map(|(i, w)| Step::Retell(i, w)),
        (n.clone(), words).prop_map(|(i, w)| Step::Rename(i, w)),
        n.clone().prop_map(Step::CloseEdge),
        n.clone().prop_map(Step::Confirm),
        (n.clone(), n.clone()).prop_map(|(a, b)| Step::Derive(a, b)),
        any::<bool>().prop_map(|late| Step::Embed { late }),
        n.clone().prop_map(Step::Erase),
        n.prop_map(Step::EraseNode),
    ]
}

#[derive(Default)]
struct Made {
    facts: Vec<FactId>,
    episodes: Vec<EpisodeId>,
    nodes: Vec<NodeId>,
    edges: Vec<EdgeId>,
}

impl Made {
    fn any(&self, n: usize) -> Option<MemoryId> {
        let mut all: Vec<MemoryId> = self.facts.iter().cloned().map(MemoryId::Fact).collect();
        all.extend(self.episodes.iter().cloned().map(MemoryId::Episode));
        all.extend(self.edges.iter().cloned().map(MemoryId::Edge));
        pick(&all, n)
    }
}

fn pick<T: Clone>(list: &[T], n: usize) -> Option<T> {
    (!list.is_empty()).then(|| list[n % list.len()].clone())
}

fn perform(tx: &Tx<'_>, made: &mut Made, step: &Step) -> Result<()> {
    match step {
        Step::Fact(words) => {
            let fact = fact("subject", words);
            knowledge::insert(tx, &fact, &text_of(&fact))?;
            made.facts.push(fact.fact_id);
        }
        Step::Episode(words) => {
            let episode = episode("key", words);
            episodes::insert(tx, &episode, words)?;
            made.episodes.push(episode.episode_id);
        }
        Step::Node(words) => {
            let node = node(words);
            nodes::insert(tx, &node, &render)?;
            made.nodes.push(node.node_id);
        }
        Step::Edge(a, b) => {
            let ends = pick(&made.nodes, *a).zip(pick(&made.nodes, *b));
            let Some((from, to)) = ends else { return Ok(()) };
            let (Some(from), Some(to)) = (nodes::get(tx, &from)?, nodes::get(tx, &to)?) else {
                return Ok(());
            };
            let edge = edge(&from.item, "knows", &to.item);
            edges::insert(tx, &edge, &render)?;
            made.edges.push(edge.edge_id);
        }
        Step::Rewrite(i, words) => {
            let Some(id) = pick(&made.facts, *i) else { return Ok(()) };
            let Some(mut fact) = knowledge::get(tx, &id)? else { return Ok(()) };
            fact.item.content.clone_from(words);
            knowledge::replace(tx, &fact.item, &text_of(&fact.item))?;
        }
        Step::Retell(i, words) => {
            let Some(id) = pick(&made.episodes, *i) else { return Ok(()) };
            let Some(mut episode) = episodes::get(tx, &id)? else { return Ok(()) };
            episode.item.description.clone_from(words);
            episodes::replace(tx, &episode.item, words)?;
        }
        Step::Rename(i, words) => {
            let Some(id) = pick(&made.nodes, *i) else { return Ok(()) };
            let Some(mut node) = nodes::get(tx, &id)? else { return Ok(()) };
            node.item.name.clone_from(words);
            nodes::replace(tx, &node.item, &render)?;
        }
        Step::CloseEdge(i) => {
            let Some(id) = pick(&made.edges, *i) else { return Ok(()) };
            edges::close(tx, &id, at(5), at(5), &render)?;
        }
        Step::Confirm(i) => {
            let Some(id) = made.any(*i) else { return Ok(()) };
            standing::confirm(tx, &id, 0.05, at(9))?;
        }
        Step::Derive(a, b) => {
            let (Some(child), Some(parent)) = (made.any(*a), made.any(*b)) else { return Ok(()) };
            if standing::exists(tx, &child)? && standing::exists(tx, &parent)? {
                stems_from(tx, &child, &parent)?;
            }
        }
        Step::Embed { late } => {
            for store in Store::ALL {
                for found in vectors::unembedded(tx, *store, &model())? {
                    // a late vector is of a text that is no longer there
                    let text = if *late { "an earlier text" } else { &found.item };
                    let stored =
                        vectors::put(tx, *store, found.row, text, &model(), &vector_of(text), at(3))?;
                    assert_eq!(stored, !late);
                }
            }
        }
        Step::Erase(i) => {
            let Some(id) = made.any(*i) else { return Ok(()) };
            erase::erase(tx, &id, &render)?;
        }
        Step::EraseNode(i) => {
            let Some(id) = pick(&made.nodes, *i) else { return Ok(()) };
            erase::erase(tx, &MemoryId::Node(id), &render)?;
        }
    }
    Ok(())
}

/// Every vector is of the text its row has now.
fn vectors_are_of_their_texts(tx: &Tx<'_>) -> Result<()> {
    for store in Store::ALL {
        for vector in vectors::page(tx, *store, &model(), 0, 1000)? {
            let text = search::texts(tx, *store, &[vector.row])?;
            assert_eq!(text.len(), 1, "a vector without a row");
            assert_eq!(vector.item, vector_of(&text[0].item));
        }
    }
    Ok(())
}

/// Every node's text is what would be rendered now.
fn texts_are_fresh(tx: &Tx<'_>) -> Result<()> {
    for node in nodes::page(tx, 0, 1000)? {
        let text = search::texts(tx, Store::Social, &[node.row])?;
        assert_eq!(text[0].item, render(&node.item, &edges::relations(tx, &node.item.node_id, None)?));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn index_vectors_and_lineage_agree_with_the_tables(steps in proptest::collection::vec(step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let house = House::new();
        let brain = house.open();
        let differing = runtime.block_on(write(&brain, move |tx| {
            let mut made = Made::default();
            for step in &steps {
                perform(tx, &mut made, step)?;
            }
            vectors_are_of_their_texts(tx)?;
            texts_are_fresh(tx)?;
            index::differing(tx)
        }));
        prop_assert_eq!(differing, [""; 0]);
        brain.close();
        let report = verify::run(&house.path(), MIGRATIONS).expect("a report");
        prop_assert!(report.ok, "{:?}", report.findings);
    }
}

#[tokio::test]
async fn words_from_people_can_ask_for_nothing_but_rows() {
    let house = House::new();
    let brain = house.open();
    write(&brain, |tx| knowledge::insert(tx, &fact("a", "alpha beta"), "alpha beta").map(drop)).await;
    for hostile in [
        "\"",
        "alpha\"); DROP TABLE knowledge_store; --",
        "alpha' OR 1=1 --",
        "*reads",
        "*id",
        "rowid:1",
        "search_text : alpha",
        "NEAR(alpha beta, 2) NOT gamma",
        "alpha AND",
        "(((",
        "\u{0}",
        "^ - + {a}",
    ] {
        let words = hostile.to_owned();
        let _ = brain.read("test", move |tx| search::keyword(tx, Store::Knowledge, &words, 10)).await;
        // quoted, as terms of people are, everything is a term
        let quoted = format!("\"{}\"", hostile.replace('"', "\"\"").replace('\u{0}', " "));
        brain
            .read("test", move |tx| search::keyword(tx, Store::Knowledge, &quoted, 10))
            .await
            .expect("a quoted term is never a syntax error");
    }
    let found =
        brain.read("test", |tx| search::keyword(tx, Store::Knowledge, "\"ALPHA\" OR \"x\"", 10)).await;
    let found = found.expect("rows");
    assert!(found.len() == 1 && found[0].item > 0.0, "{found:?}");
    assert!(!brain.is_failed());
    assert_eq!(write(&brain, index::differing).await, [""; 0]);
}

#[tokio::test]
async fn the_better_match_comes_first_and_of_equals_the_newer() {
    let house = House::new();
    let brain = house.open();
    let (rows, found) = write(&brain, |tx| {
        let mut rows = Vec::new();
        for text in ["alpha and much else beside it", "alpha", "beta", "alpha", "gamma delta"] {
            rows.push(knowledge::insert(tx, &fact("a", text), text)?);
        }
        Ok((rows, search::keyword(tx, Store::Knowledge, "alpha", 2)?))
    })
    .await;
    assert_eq!(found.iter().map(|f| f.row).collect::<Vec<_>>(), [rows[3], rows[1]]);
    assert!(found[0].item > 0.0 && found[0].item == found[1].item, "{found:?}");
}

#[tokio::test]
async fn the_newest_rows_of_a_word_can_be_searched_alone() {
    let house = House::new();
    let brain = house.open();
    let (rows, newest, none, found) = write(&brain, |tx| {
        let mut rows = Vec::new();
        for text in ["alpha", "alpha", "beta", "alpha", "alpha beta"] {
            rows.push(knowledge::insert(tx, &fact("a", text), text)?);
        }
        let newest = search::nth_newest(tx, Store::Knowledge, "alpha", 1)?;
        let none = search::nth_newest(tx, Store::Knowledge, "alpha", 4)?;
        let first = newest.expect("four rows have it");
        Ok((rows, newest, none, search::keyword_since(tx, Store::Knowledge, "alpha OR beta", first, 10)?))
    })
    .await;
    assert_eq!((newest, none), (Some(rows[3]), None));
    assert_eq!(found.iter().map(|f| f.row).collect::<Vec<_>>(), [rows[4], rows[3]]);
}

#[tokio::test]
async fn stems_are_counted_without_case_and_accents() {
    let house = House::new();
    let brain = house.open();
    let counts = write(&brain, |tx| {
        for text in ["Deployed on Friday", "deploying again", "a café"] {
            knowledge::insert(tx, &fact("a", text), text)?;
        }
        let stems = ["deploi", "fridai", "cafe", "absent"].map(str::to_owned);
        search::document_frequencies(tx, Store::Knowledge, &stems)
    })
    .await;
    let of = |stem: &str| counts[stem];
    assert_eq!([of("deploi"), of("fridai"), of("cafe"), of("absent")], [2, 1, 1, 0]);
}

#[tokio::test]
async fn a_damaged_index_is_found_and_made_anew() {
    let house = House::new();
    let brain = house.open();
    write(&brain, |tx| knowledge::insert(tx, &fact("a", "alpha beta"), "alpha beta").map(drop)).await;
    brain.close();
    house
        .plain()
        .execute_batch("DROP TRIGGER knowledge_store_inserted; UPDATE knowledge_store SET id = 7;
             INSERT INTO knowledge_store SELECT 8, 'fact-2', type, valid_from, valid_until, superseded_by, confidence,
                trust, content_hash, last_confirmed_at, created_at, updated_at, source, subject, subject_norm,
                rationale, content, 'gamma' FROM knowledge_store;")
        .expect("damage");
    let report = verify::run(&house.path(), MIGRATIONS).expect("a report");
    let found: Vec<_> = report.findings.iter().filter(|f| f.check == "fts").collect();
    assert_eq!(found.len(), 1, "{:?}", report.findings);
    assert!(found[0].detail.contains("vacuum --rebuild-fts"), "{found:?}");

    let brain = house.open();
    assert_eq!(write(&brain, index::differing).await, ["knowledge_store_fts"]);
    index::rebuild(&brain).await.expect("made anew");
    assert_eq!(write(&brain, index::differing).await, [""; 0]);
    let rows = brain.read("test", |tx| search::keyword(tx, Store::Knowledge, "gamma", 10)).await;
    assert_eq!(rows.expect("rows").first().map(|r| r.row), Some(8));
    brain.close();
    let secure = number(
        &house.plain(),
        "SELECT count(*) FROM knowledge_store_fts_config WHERE k = 'secure-delete' AND v = 1",
    );
    assert_eq!(secure, 1, "deleted words still leave at once");
}

#[tokio::test]
async fn sources_of_memories_that_are_not_there_are_found() {
    let house = House::new();
    let brain = house.open();
    let id = write(&brain, |tx| {
        let (a, b) = (fact("a", "one"), fact("a", "two"));
        knowledge::insert(tx, &a, "one")?;
        knowledge::insert(tx, &b, "two")?;
        stems_from(tx, &MemoryId::Fact(b.fact_id), &MemoryId::Fact(a.fact_id.clone()))?;
        Ok(a.fact_id)
    })
    .await;
    brain.close();
    assert!(verify::run(&house.path(), MIGRATIONS).expect("a report").ok);
    house
        .plain()
        .execute("UPDATE memory_lineage SET memory_id = 'ep-1' WHERE parent_id = ?1", [id.as_str()])
        .expect("damage");
    let report = verify::run(&house.path(), MIGRATIONS).expect("a report");
    assert_eq!(report.findings.iter().map(|f| f.check).collect::<Vec<_>>(), ["lineage"]);
}
