//! Nodes and relations: recognised by name, told apart by trust, searched with their relations.

use super::{Place, api, ids, person, trusted};
use crate::memory::item::{
    EdgePatch, End, Intent, NewEdge, NewNode, NewRelation, NodePatch, Origin, Outcome, Patch, Wanted,
};
use crate::memory::{Item, shown};
use brain::memory::MemoryId;
use contract::memory::{NodeKind, Store, Trust};
use serde_json::json;

fn manages(name: &str) -> NewRelation {
    NewRelation { relation: "manager_of".into(), to: End::parse(name), confidence: Some(0.8) }
}

fn edge(from: &str, relation: &str, to: &str) -> Wanted {
    Wanted::Edge(NewEdge {
        from: End::parse(from),
        relation: relation.into(),
        to: End::parse(to),
        valid_from: None,
    })
}

#[tokio::test]
async fn a_person_is_recognised_by_an_alias_and_learns_what_is_new() {
    let place = Place::new();
    let memory = place.local();
    let asha = NewNode { aliases: vec!["A.".into(), "Asha Rao".into()], ..person("Asha") };
    let id = memory.add(Wanted::Node(asha)).await;
    assert_eq!(memory.must(Wanted::Node(person("ASHA")), api()).await.outcome, Outcome::Duplicate);
    let mut attributes = serde_json::Map::new();
    attributes.insert("city".into(), json!("Pune"));
    let more = NewNode { attributes, relations: vec![manages("Ben")], ..person("asha rao") };
    let item = memory.must(Wanted::Node(more), api()).await.item.expect("a row");
    assert_eq!(item.id(), id);
    let shape = shown(&item, None);
    assert_eq!(shape["name"], "Asha");
    assert_eq!(shape["attributes"], json!({"city": "Pune"}));
    assert_eq!(shape["relationships"][0]["to"]["name"], "Ben");
    assert_eq!(shape["relationships"][0]["confidence"], 0.8);
    assert_eq!(ids(&memory.ask(Store::Social, "Pune").await), std::slice::from_ref(&id));
    let found = memory.ask(Store::Social, "who is the manager of Ben").await;
    assert_eq!(found.len(), 2, "Ben himself and his manager: {found:?}");
    assert_eq!(memory.unembedded().await, 0, "texts that name the relation have their vectors");
}

#[tokio::test]
async fn a_company_and_a_person_of_one_name_are_two() {
    let place = Place::new();
    let memory = place.local();
    let of = |kind| Wanted::Node(NewNode { kind: Some(kind), ..person("Morgan") });
    let human = memory.add(of(NodeKind::Person)).await;
    let bank = memory.add(of(NodeKind::Organization)).await;
    assert_ne!(human, bank);
    let known = memory.must(of(NodeKind::Organization), api()).await;
    assert_eq!((known.outcome, known.item.expect("a row").id()), (Outcome::Duplicate, bank));
}

#[tokio::test]
async fn what_nobody_vouches_for_never_touches_a_node_that_somebody_does() {
    let place = Place::new();
    let memory = place.local();
    let id = memory.add(Wanted::Node(person("Asha"))).await;
    let bad = NewNode {
        aliases: vec!["the administrator".into()],
        relations: vec![manages("everybody")],
        ..person("Asha")
    };
    let beside = memory.must(Wanted::Node(bad), trusted(Trust::Untrusted)).await.item.expect("a row");
    assert_ne!(beside.id(), id);
    memory.must(edge("Asha", "owes_money_to", "Mallory"), trusted(Trust::Untrusted)).await;
    let Some(Item::Node(asha, relations)) = memory.get(&id).await.expect("read") else { panic!("a node") };
    assert!(asha.item.aliases.is_empty() && relations.is_empty());
    assert!(ids(&memory.ask(Store::Social, "Mallory").await).iter().all(|found| *found != id));

    let heard = NewNode { aliases: vec!["Ash".into()], ..person("Asha") };
    let heard = memory.must(Wanted::Node(heard), trusted(Trust::Tool)).await.item.expect("a row");
    assert_eq!((heard.id(), heard.provenance().trust), (id, Trust::Tool), "the least of what it shows");
}

#[tokio::test]
async fn a_relation_is_confirmed_replaced_by_name_and_never_made_to_nobody_or_to_itself() {
    let place = Place::new();
    let memory = place.local();
    let made = memory.must(edge("Asha", "manager_of", "Ben"), api()).await;
    assert_eq!(made.outcome, Outcome::Created);
    assert_eq!(memory.must(edge("Asha", "manager_of", "Ben"), api()).await.outcome, Outcome::Duplicate);
    let Some(Item::Node(_, relations)) = &made.item else { panic!("a node") };
    let old = relations[0].edge.edge_id.clone();
    let named = Origin { intent: Intent::Named(vec![old.as_str().into()]), ..trusted(Trust::User) };
    let new = memory.must(edge("Asha", "manager_of", "Ben"), named).await;
    assert_eq!((new.outcome, new.closed), (Outcome::Created, vec![MemoryId::Edge(old)]));
    for nobody in [edge("Asha", "likes", "soc-none"), edge("Asha", "likes", "asha")] {
        assert_eq!(memory.must(nobody, api()).await.outcome, Outcome::Rejected);
    }
}

#[tokio::test]
async fn edits_of_people_and_relations_reach_the_texts_that_name_them() {
    let place = Place::new();
    let memory = place.local();
    let asha = memory.add(Wanted::Node(NewNode { relations: vec![manages("Ben")], ..person("Asha") })).await;
    let Some(Item::Node(_, relations)) = memory.get(&asha).await.expect("read") else { panic!("a node") };
    let (edge, ben) =
        (MemoryId::Edge(relations[0].edge.edge_id.clone()), MemoryId::Node(relations[0].other.clone()));
    let renamed =
        NodePatch { name: Some("Benjamin".into()), relations: vec![manages("Cleo")], ..NodePatch::default() };
    memory.changed_to(&ben, Patch::Node(renamed)).await;
    let found = ids(&memory.ask(Store::Social, "Benjamin").await);
    assert!(found.contains(&asha) && found.contains(&ben), "{found:?}");
    let mentor = EdgePatch { relation: Some("mentor_of".into()), ..EdgePatch::default() };
    let item = memory.changed_to(&edge, Patch::Edge(mentor)).await;
    assert_eq!(item.id(), asha, "a relation is shown in the node it leads away from");
    assert_eq!(shown(&item, None)["relationships"][0]["relation"], "mentor_of");
    assert_eq!(memory.unembedded().await, 0);
    let also = memory.erase(&ben).await.expect("erased").expect("there").also_deleted;
    assert!(also.contains(&edge), "{also:?}");
    assert!(!ids(&memory.ask(Store::Social, "Benjamin").await).contains(&asha), "no text names who is gone");
    assert_eq!(memory.unembedded().await, 0);
}

#[tokio::test]
async fn a_relation_that_comes_with_an_edit_says_why_it_is_kept() {
    let place = Place::new();
    let memory = place.local();
    let id = memory.add(Wanted::Node(person("Asha"))).await;
    for (name, said, kept) in
        [("Ben", None, "edited over the API"), ("Cleo", Some("the new chart"), "the new chart")]
    {
        let rationale = said.map(str::to_owned);
        let patch = NodePatch { relations: vec![manages(name)], rationale, ..NodePatch::default() };
        let edited = memory.changed_to(&id, Patch::Node(patch)).await;
        let Item::Node(_, relations) = edited else { panic!("a node") };
        let made = relations.iter().find(|r| r.other_name == name).expect("the relation");
        assert_eq!(made.edge.provenance.rationale, kept);
    }
}

#[tokio::test]
async fn what_a_tool_said_of_somebody_is_lifted_when_a_person_says_all_of_it() {
    let place = Place::new();
    let memory = place.local();
    let works = || {
        let attributes = json!({"job": "baker"}).as_object().cloned().unwrap_or_default();
        Wanted::Node(NewNode { attributes, ..person("Zora") })
    };
    memory.must(works(), trusted(Trust::Tool)).await;
    let part = memory.must(Wanted::Node(person("Zora")), api()).await.item.expect("a row");
    assert_eq!(part.provenance().trust, Trust::Tool, "nobody repeated the job");
    let all = memory.must(works(), api()).await;
    let item = all.item.expect("a row");
    assert_eq!((all.outcome, item.provenance().trust), (Outcome::Duplicate, Trust::User));
    assert_eq!(item.provenance().source, api().source);
}

#[tokio::test]
async fn the_relation_that_is_asked_for_is_shown_and_ones_own_come_before_those_of_others() {
    let place = Place::new();
    let memory = place.local();
    let first = memory.must(edge("Tom", "lives_with", "Wilma"), api()).await.item.expect("a row");
    let Item::Node(_, relations) = &first else { panic!("a node") };
    let oldest = MemoryId::Edge(relations[0].edge.edge_id.clone());
    for at in 0..205 {
        memory.must(edge(&format!("Caller {at}"), "knows", "Tom"), api()).await;
    }
    let tom = memory.get(&first.id()).await.expect("read").expect("there");
    assert_eq!(shown(&tom, None)["relationships"][0]["id"], json!(oldest.as_str()));
    for at in 0..205 {
        memory.must(edge("Tom", "knows", &format!("Friend {at}")), api()).await;
    }
    let tom = shown(&memory.get(&first.id()).await.expect("read").expect("there"), None);
    assert_eq!(tom["relationships"].as_array().map(Vec::len), Some(200));
    assert_eq!(tom["relationships_total"], 206);
    let asked = shown(&memory.get(&oldest).await.expect("read").expect("there"), None);
    assert_eq!(asked["relationships"][200]["id"], json!(oldest.as_str()));
}
