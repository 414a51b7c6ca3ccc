//! Memories come back as they were written, are confirmed, closed and counted.

use crate::house::{House, at, task};
use crate::memories::{edge, episode, fact, in_task, model, node, render, text_of, vector_of, write};
use brain::memory::counters::{self, Counters};
use brain::memory::knowledge::Fact;
use brain::memory::stats::{self, Stats};
use brain::memory::{Change, MemoryId, Stored, edges, episodes, knowledge, nodes, search, standing, vectors};
use contract::memory::{FactType, Store, Trust};

#[tokio::test]
async fn a_fact_comes_back_as_it_was_written_and_changes_as_a_whole() {
    let house = House::new();
    let brain = house.open();
    write(&brain, |tx| {
        let mut one = fact("Testing", "Run the suite");
        one.kind = FactType::Rule;
        one.valid_until = Some(at(900));
        let row = knowledge::insert(tx, &one, "Testing Run the suite")?;
        let stored = knowledge::get(tx, &one.fact_id)?.expect("stored");
        assert_eq!((stored.row, &stored.item), (row, &one));
        assert_eq!(knowledge::by_rows(tx, &[row + 1, row])?, [stored]);
        one.content = "Run everything".to_owned();
        one.provenance.updated_at = at(7);
        assert_eq!(knowledge::replace(tx, &one, "Testing Run everything")?, Change::Changed);
        assert_eq!(knowledge::get(tx, &one.fact_id)?.expect("stored").item, one);
        assert_eq!(knowledge::replace(tx, &fact("x", "y"), "x y")?, Change::Missing);
        assert_eq!(search::keyword(tx, Store::Knowledge, "suite", 5)?, []);
        assert_eq!(search::keyword(tx, Store::Knowledge, "everything", 5)?.len(), 1);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn only_open_facts_of_the_subject_and_type_can_be_contradicted() {
    let house = House::new();
    let brain = house.open();
    write(&brain, |tx| {
        let preference = |content: &str| Fact { kind: FactType::Preference, ..fact("Tea", content) };
        let (old, new, ending) = (preference("green"), preference("black"), preference("white"));
        for fact in [&old, &new, &ending, &fact("Tea", "is a plant")] {
            knowledge::insert(tx, fact, &text_of(fact))?;
        }
        assert_eq!(knowledge::close(tx, &old.fact_id, at(50), Some(&new.fact_id), at(60))?, Change::Changed);
        assert_eq!(
            knowledge::close(tx, &old.fact_id, at(55), None, at(61))?,
            Change::Missing,
            "it has ended"
        );
        knowledge::close(tx, &ending.fact_id, at(200), None, at(60))?;
        let contents = |now: i64| -> brain::Result<Vec<String>> {
            let open = knowledge::open(tx, "tea", FactType::Preference, at(now))?;
            Ok(open.into_iter().map(|f| f.item.content).collect())
        };
        assert_eq!(contents(100)?, ["white", "black"]);
        assert_eq!(contents(200)?, ["black"]);
        let closed = knowledge::get(tx, &old.fact_id)?.expect("kept").item;
        assert_eq!((closed.valid_until, closed.superseded_by), (Some(at(50)), Some(new.fact_id.clone())));
        assert_eq!(knowledge::by_hash(tx, "hash of green")?.len(), 1);
        // nothing points at what is erased
        brain::memory::erase::erase(tx, &MemoryId::Fact(new.fact_id), &render)?;
        assert_eq!(knowledge::get(tx, &old.fact_id)?.expect("kept").item.superseded_by, None);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn neighbours_are_the_episodes_just_before_and_after_in_the_same_task() {
    let house = House::new();
    let brain = house.open();
    let keys = write(&brain, |tx| {
        let (a, b) = (task("a"), task("b"));
        let stored = [
            in_task("first", &a, 1),
            in_task("second", &a, 2),
            in_task("also second", &a, 2),
            in_task("elsewhere", &b, 2),
            in_task("third", &a, 3),
            episode("alone", "nowhere"),
        ];
        let mut keys = Vec::new();
        for episode in &stored {
            episodes::insert(tx, episode, &episode.key)?;
        }
        for episode in &stored {
            let near = episodes::neighbours(tx, &episode.episode_id)?;
            let near = episodes::by_rows(tx, &near)?;
            keys.push(near.into_iter().map(|n| n.item.key).collect::<Vec<_>>());
        }
        Ok(keys)
    })
    .await;
    let none: Vec<&str> = Vec::new();
    assert_eq!(
        keys,
        [
            vec!["second"],
            vec!["first", "also second"],
            vec!["second", "third"],
            none.clone(),
            vec!["also second"],
            none
        ]
    );
}

#[tokio::test]
async fn a_person_is_found_by_name_and_by_alias_and_keeps_relations() {
    let house = House::new();
    let brain = house.open();
    write(&brain, |tx| {
        let mut asha = node("Asha");
        asha.aliases = vec!["A.".to_owned()];
        asha.aliases_norm = vec!["a".to_owned()];
        asha.attributes.insert("city".to_owned(), "Lisbon".into());
        let ben = node("Ben");
        let row = nodes::insert(tx, &asha, &render)?;
        nodes::insert(tx, &ben, &render)?;
        let knows = edge(&asha, "knows", &ben);
        edges::insert(tx, &knows, &render)?;
        assert_eq!(nodes::by_name(tx, "asha")?, nodes::by_name(tx, "a")?);
        assert_eq!(nodes::by_name(tx, "asha")?[0].item, asha);
        assert_eq!(nodes::by_name(tx, "nobody")?, []);
        assert_eq!(
            nodes::names(tx, 0, 1)?,
            [nodes::Names { row, norms: vec!["asha".to_owned(), "a".to_owned()] }]
        );
        let relations = edges::relations(tx, &ben.node_id, None)?;
        assert_eq!((relations[0].outgoing, relations[0].other_name.as_str()), (false, "Asha"));
        let open = |now| edges::open(tx, &asha.node_id, &ben.node_id, "knows", at(now));
        assert_eq!(open(5)?.expect("open").item, knows);
        assert_eq!(edges::close(tx, &knows.edge_id, at(9), at(9), &render)?.expect("closed").len(), 2);
        assert_eq!(open(10)?, None);
        // a new name is in the texts of those who know her
        asha.name = "Asha Rao".to_owned();
        assert_eq!(nodes::replace(tx, &asha, &render)?.expect("there"), [row]);
        let stranger = edge(&asha, "knows", &node("Nobody"));
        assert!(matches!(edges::insert(tx, &stranger, &render), Err(brain::Error::Constraint(_))));
        assert_eq!(edges::replace(tx, &stranger, &render)?, None);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn confidence_moves_within_its_bounds_and_only_a_confirmation_is_a_confirmation() {
    let house = House::new();
    let brain = house.open();
    write(&brain, |tx| {
        let fact = fact("a", "b");
        knowledge::insert(tx, &fact, "a b")?;
        let id = MemoryId::Fact(fact.fact_id.clone());
        let now = || -> brain::Result<(f64, i64)> {
            let p = knowledge::get(tx, &fact.fact_id)?.expect("there").item.provenance;
            Ok((p.confidence, p.last_confirmed_at.millis()))
        };
        standing::confirm(tx, &id, 0.05, at(10))?;
        assert_eq!(now()?, (0.55, 10));
        standing::confirm(tx, &id, 0.9, at(5))?;
        assert_eq!(now()?, (1.0, 10), "an older confirmation does not take back the newer");
        standing::adjust(tx, &id, -0.25, at(20))?;
        assert_eq!(now()?, (0.75, 10));
        standing::adjust(tx, &id, -2.0, at(20))?;
        assert_eq!(now()?.0, 0.0);
        let missing = MemoryId::parse("ep-1").expect("an id");
        assert_eq!(standing::confirm(tx, &missing, 0.05, at(1))?, Change::Missing);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_store_is_counted_with_what_is_stale_closed_untrusted_and_without_a_vector() {
    let house = House::new();
    let brain = house.open();
    let stats = write(&brain, |tx| {
        for n in 0..5 {
            let mut fact = fact("a", &format!("fact {n}"));
            fact.provenance.confidence = if n == 0 { 0.05 } else { 0.9 };
            fact.provenance.trust = if n == 1 { Trust::Untrusted } else { Trust::User };
            fact.valid_until = (n >= 2).then_some(at(if n == 2 { 50 } else { 500 }));
            let row = knowledge::insert(tx, &fact, &text_of(&fact))?;
            if n == 4 {
                vectors::put(tx, Store::Knowledge, row, &text_of(&fact), &model(), &vector_of("x"), at(1))?;
            }
        }
        counters::add(tx, Store::Knowledge, Counters { duplicate: 2, recalled_rejected: 1 })?;
        counters::add(tx, Store::Knowledge, Counters { duplicate: 1, recalled_rejected: 0 })?;
        assert_eq!(counters::get(tx, Store::Knowledge)?.recalled_rejected, 1);
        stats::of(tx, Store::Knowledge, at(100), Some(&model()), &|confidence, _| confidence < 0.1)
    })
    .await;
    let expected = Stats { total: 5, duplicate: 3, stale: 1, superseded: 1, untrusted: 1, unembedded: 4 };
    assert_eq!(stats, expected);
    let empty = brain.read("test", |tx| stats::of(tx, Store::Episodes, at(1), None, &|_, _| true)).await;
    assert_eq!(empty.expect("a read"), Stats::default());
}

#[tokio::test]
async fn vectors_of_another_model_do_not_count_and_are_replaced_in_batches() {
    let house = House::new();
    let brain = house.open();
    let batches = write(&brain, |tx| {
        for n in 0..150 {
            episodes::insert(tx, &episode("k", &format!("text {n}")), &format!("text {n}"))?;
        }
        let mut batches = Vec::new();
        for name in ["old", "new"] {
            let model = vectors::Model { name: name.to_owned(), dim: 4 };
            for _ in 0..4 {
                let found = vectors::unembedded(tx, Store::Episodes, &model)?;
                batches.push(found.len());
                for row in found {
                    let vector = vector_of(&row.item);
                    assert!(vectors::put(tx, Store::Episodes, row.row, &row.item, &model, &vector, at(1))?);
                }
            }
        }
        let old = vectors::Model { name: "old".to_owned(), dim: 4 };
        assert_eq!(vectors::count(tx, Store::Episodes, &old)?, 0);
        let new = vectors::Model { name: "new".to_owned(), dim: 4 };
        let page = vectors::page(tx, Store::Episodes, &new, 0, 100)?;
        let rest = vectors::page(tx, Store::Episodes, &new, page[99].row, 100)?;
        assert_eq!((page.len(), rest.len()), (100, 50));
        let of = |model| {
            vectors::of_rows(tx, Store::Episodes, model, &[page[7].row, -1], |row, vector| {
                Ok(Stored { row, item: vector.to_vec() })
            })
        };
        assert_eq!(of(&new)?, page[7..8]);
        assert_eq!(of(&old)?, []);
        Ok(batches)
    })
    .await;
    assert_eq!(batches, [64, 64, 22, 0, 64, 64, 22, 0]);
}

#[tokio::test]
async fn pages_and_lists_show_every_row_once() {
    let house = House::new();
    let brain = house.open();
    write(&brain, |tx| {
        for n in 0..25 {
            let mut episode = episode("k", &format!("text {n}"));
            episode.provenance.created_at = at(100 - n);
            episodes::insert(tx, &episode, "text")?;
        }
        let mut seen = Vec::new();
        while let Some(page) = Some(episodes::page(tx, seen.last().copied().unwrap_or(0), 10)?)
            && !page.is_empty()
        {
            seen.extend(page.into_iter().map(|e| e.row));
        }
        assert_eq!(seen.len(), 25);
        let newest = episodes::newest(tx, None, 2)?;
        assert_eq!(
            newest.iter().map(|e| e.item.description.as_str()).collect::<Vec<_>>(),
            ["text 0", "text 1"]
        );
        let ids = search::ids(tx, Store::Episodes, &seen[..1])?;
        assert_eq!(ids[0].item, MemoryId::Episode(newest[0].item.episode_id.clone()));
        Ok(())
    })
    .await;
}
