//! What was erased is gone: from every table, from the index, from the file.

use crate::house::{House, at, number, task, turn};
use crate::memories::{edge, episode, fact, model, node, render, stems_from, text_of, vector_of, write};
use brain::memory::erase::{self, Erased};
use brain::memory::lineage::{self, Parent};
use brain::memory::{MemoryId, edges, episodes, knowledge, nodes, search, standing, vectors};
use contract::memory::{ParentKind, Store};
use contract::{MessageId, TurnId};

const MARKER: &str = "zyxwvqmarker";

fn gone(erased: &Erased) -> Vec<MemoryId> {
    erased.gone.iter().map(|g| g.item.clone()).collect()
}

/// The bytes of every file of a closed brain.
fn bytes(house: &House) -> Vec<u8> {
    let mut all = Vec::new();
    for name in crate::house::names_in(house.dir()) {
        let path = house.dir().join(name);
        if path.is_file() {
            all.extend(std::fs::read(path).expect("bytes"));
        }
    }
    all
}

fn holds(haystack: &[u8], needle: &str) -> bool {
    haystack.windows(needle.len()).any(|w| w.eq_ignore_ascii_case(needle.as_bytes()))
}

#[tokio::test]
async fn no_byte_of_an_erased_memory_is_left_in_the_file() {
    let house = House::new();
    let brain = house.open();
    let (fact_id, episode_id, node_id) = write(&brain, |tx| {
        // enough neighbours that the index has several pages
        for n in 0..400 {
            let filler = format!("filler number {n} about word{n} and term{}", n * 7);
            knowledge::insert(tx, &fact("filler", &filler), &filler)?;
            episodes::insert(tx, &episode("filler", &filler), &filler)?;
        }
        let long = format!("{MARKER} {}", "and much more ".repeat(800));
        let fact = fact(MARKER, &long);
        let row = knowledge::insert(tx, &fact, &text_of(&fact))?;
        vectors::put(tx, Store::Knowledge, row, &text_of(&fact), &model(), b"short", at(1))
            .expect_err("a vector of another length is refused");
        let vector: Vec<u8> = MARKER.bytes().chain(*b"abcd").collect();
        assert!(vectors::put(tx, Store::Knowledge, row, &text_of(&fact), &model(), &vector, at(1))?);
        let episode = episode(MARKER, &format!("what {MARKER} did"));
        episodes::insert(tx, &episode, &long)?;
        let (ben, person) = (node("Ben"), node(MARKER));
        nodes::insert(tx, &ben, &render)?;
        nodes::insert(tx, &person, &render)?;
        edges::insert(tx, &edge(&ben, "knows", &person), &render)?;
        Ok((fact.fact_id, episode.episode_id, person.node_id))
    })
    .await;
    brain.close();
    assert!(holds(&bytes(&house), MARKER), "it was there");
    let brain = house.open();
    let erased = write(&brain, move |tx| {
        let ids = [MemoryId::Fact(fact_id), MemoryId::Episode(episode_id), MemoryId::Node(node_id)];
        erase::erase_all(tx, &ids, &render)
    })
    .await;
    assert_eq!((erased.gone.len(), erased.rewritten.len()), (4, 1), "{erased:?}");
    brain.close();
    assert!(!holds(&bytes(&house), MARKER), "nothing is left before any vacuum");
    let brain = house.open();
    brain.vacuum().await.expect("a vacuum");
    brain.close();
    assert!(!holds(&bytes(&house), MARKER));
    assert!(!holds(&bytes(&house), &MARKER[..8]), "nor the beginning of the word");
}

#[tokio::test]
async fn what_rests_only_on_the_erased_goes_with_it_and_nothing_else() {
    let house = House::new();
    let brain = house.open();
    let [root, child, grandchild, shared, evidenced, loose] = write(&brain, |tx| {
        let facts: Vec<_> = (0..6).map(|n| fact("a", &format!("fact {n}"))).collect();
        for fact in &facts {
            knowledge::insert(tx, fact, &text_of(fact))?;
        }
        let ids: Vec<MemoryId> = facts.into_iter().map(|f| MemoryId::Fact(f.fact_id)).collect();
        let ids: [MemoryId; 6] = ids.try_into().expect("six");
        let [root, child, grandchild, shared, evidenced, loose] = &ids;
        stems_from(tx, child, root)?;
        stems_from(tx, grandchild, child)?;
        stems_from(tx, child, grandchild)?;
        stems_from(tx, shared, child)?;
        stems_from(tx, shared, loose)?;
        stems_from(tx, evidenced, root)?;
        let message = Parent { kind: ParentKind::Message, id: "msg-1".to_owned() };
        lineage::add(tx, evidenced, &[message])?;
        Ok(ids)
    })
    .await;
    let (a, b) = (root.clone(), root.clone());
    let erased = write(&brain, move |tx| erase::erase(tx, &a, &render)).await.expect("it was there");
    // that the child also stems from its own grandchild keeps neither
    assert_eq!(gone(&erased), [root, child.clone(), grandchild.clone()]);
    let left = write(&brain, move |tx| {
        let mut left = Vec::new();
        for id in [&child, &grandchild, &shared, &evidenced, &loose] {
            left.push((standing::exists(tx, id)?, lineage::parents(tx, id)?.len()));
        }
        Ok(left)
    })
    .await;
    assert_eq!(left, [(false, 0), (false, 0), (true, 1), (true, 1), (true, 0)]);
    assert_eq!(write(&brain, move |tx| erase::erase(tx, &b, &render)).await, None, "twice is missing");
}

#[tokio::test]
async fn a_node_takes_its_relations_along_and_its_neighbours_no_longer_name_it() {
    let house = House::new();
    let brain = house.open();
    let (asha, ben_row, rel) = write(&brain, |tx| {
        let (asha, ben, cleo) = (node("Asha"), node("Ben"), node("Cleo"));
        nodes::insert(tx, &asha, &render)?;
        let ben_row = nodes::insert(tx, &ben, &render)?;
        nodes::insert(tx, &cleo, &render)?;
        let rel = edge(&asha, "manager_of", &ben);
        let mut touched = edges::insert(tx, &rel, &render)?;
        touched.extend(edges::insert(tx, &edge(&cleo, "sister_of", &ben), &render)?);
        assert_eq!(touched.len(), 4);
        let text = search::texts(tx, Store::Social, &[ben_row])?.remove(0).item;
        vectors::put(tx, Store::Social, ben_row, &text, &model(), &vector_of(&text), at(1))?;
        Ok((asha.node_id, ben_row, rel.edge_id))
    })
    .await;
    let found = brain.read("test", |tx| search::keyword(tx, Store::Social, "asha", 10)).await.expect("rows");
    assert_eq!(found.len(), 2, "Ben is found by his manager's name");
    let id = MemoryId::Node(asha);
    let erased = write(&brain, {
        let id = id.clone();
        move |tx| erase::erase(tx, &id, &render)
    })
    .await
    .expect("it was there");
    assert_eq!(gone(&erased), [MemoryId::Edge(rel), id]);
    assert_eq!(erased.rewritten, [ben_row]);
    let (found, cleo, missing) = brain
        .read("test", |tx| {
            Ok((
                search::keyword(tx, Store::Social, "asha", 10)?.len(),
                search::keyword(tx, Store::Social, "cleo", 10)?.len(),
                vectors::missing(tx, Store::Social, &model())?,
            ))
        })
        .await
        .expect("a read");
    assert_eq!((found, cleo, missing), (0, 2, 2), "Ben's vector was of the old text");
}

/// A memory with these sources.
async fn resting_on(brain: &brain::Brain, parents: Vec<Parent>) -> MemoryId {
    write(brain, move |tx| {
        let fact = fact("a", &format!("{parents:?}"));
        knowledge::insert(tx, &fact, &text_of(&fact))?;
        let id = MemoryId::Fact(fact.fact_id);
        lineage::add(tx, &id, &parents)?;
        Ok(id)
    })
    .await
}

fn of_turn(turn: &TurnId) -> Parent {
    Parent { kind: ParentKind::Trajectory, id: turn.as_str().to_owned() }
}

#[tokio::test]
async fn forgetting_a_task_erases_what_rests_on_it_alone() {
    let house = House::new();
    let brain = house.open();
    let (mine, other) = (turn(&brain, "mine").await, turn(&brain, "other").await);
    let message = MessageId::generate();
    let signal = crate::learning::signal(&mine, &message);
    let said = brain::messages::NewMessage {
        message_id: message.clone(),
        task_id: task("mine"),
        turn_id: mine.clone(),
        role: contract::conversation::Role::User,
        content: Vec::new(),
        token_estimate: 1,
        active: true,
        agent: None,
        parent: None,
        at: at(1),
    };
    let signal_id = signal.signal_id.clone();
    write(&brain, move |tx| {
        brain::messages::append(tx, &said)?;
        brain::memory::signals::insert(tx, &signal)
    })
    .await;
    let said = Parent { kind: ParentKind::Message, id: message.as_str().to_owned() };
    let felt = Parent { kind: ParentKind::Signal, id: signal_id.as_str().to_owned() };
    let alone = resting_on(&brain, vec![of_turn(&mine), said.clone(), felt]).await;
    let derived =
        resting_on(&brain, vec![Parent { kind: ParentKind::Memory, id: alone.as_str().to_owned() }]).await;
    let both = resting_on(&brain, vec![of_turn(&mine), of_turn(&other)]).await;
    let api = resting_on(&brain, Vec::new()).await;
    let mut erased = Vec::new();
    let mut done = false;
    for _ in 0..10 {
        let piece = write(&brain, |tx| erase::of_task(tx, &task("mine"), &render)).await;
        erased.extend(gone(&piece.erased));
        done = piece.done;
        if done {
            break;
        }
    }
    assert!(done);
    assert_eq!(erased, [alone, derived]);
    let left = write(&brain, move |tx| {
        Ok((standing::exists(tx, &both)?, standing::exists(tx, &api)?, lineage::parents(tx, &both)?))
    })
    .await;
    assert_eq!(left, (true, true, vec![of_turn(&other)]));
    brain.close();
    assert_eq!(number(&house.plain(), "SELECT count(*) FROM learning_signals"), 0);
}

#[tokio::test]
async fn feedback_goes_with_what_rests_on_it_alone() {
    let house = House::new();
    let brain = house.open();
    let mine = turn(&brain, "mine").await;
    let signal = crate::learning::signal(&mine, &MessageId::generate());
    let id = signal.signal_id.clone();
    write(&brain, move |tx| brain::memory::signals::insert(tx, &signal)).await;
    let felt = Parent { kind: ParentKind::Signal, id: id.as_str().to_owned() };
    let alone = resting_on(&brain, vec![felt.clone()]).await;
    let both = resting_on(&brain, vec![of_turn(&mine), felt]).await;
    let again = id.clone();
    let erased = write(&brain, move |tx| erase::of_signal(tx, &id, &render)).await.expect("it was there");
    assert_eq!(gone(&erased), [alone]);
    let left =
        write(&brain, move |tx| Ok((lineage::parents(tx, &both)?, erase::of_signal(tx, &again, &render)?)))
            .await;
    assert_eq!(left, (vec![of_turn(&mine)], None), "the other rests on its turn, and goes with it");
    brain.close();
    assert_eq!(number(&house.plain(), "SELECT count(*) FROM learning_signals"), 0);
}

#[tokio::test]
async fn everything_of_one_source_can_be_retired_in_pieces() {
    let house = House::new();
    let brain = house.open();
    write(&brain, |tx| {
        for n in 0..7 {
            let mut fact = fact("a", &format!("fact {n}"));
            fact.provenance.source = if n < 5 { "import:old" } else { "user:api" }.to_owned();
            knowledge::insert(tx, &fact, &text_of(&fact))?;
        }
        let mut person = node("Asha");
        person.provenance.source = "import:old".to_owned();
        nodes::insert(tx, &person, &render).map(drop)
    })
    .await;
    let mut pieces = Vec::new();
    for _ in 0..5 {
        let (_, erased) = write(&brain, |tx| erase::of_source(tx, "import:old", 2, &render)).await;
        pieces.push(erased.gone.len());
    }
    assert_eq!(pieces, [3, 2, 1, 0, 0]);
    assert_eq!(brain.read("test", |tx| search::count(tx, Store::Knowledge)).await.expect("a read"), 2);
}
