//! Search end to end: meaning, names, periods, neighbours, all stores together, the newest.

use super::{Place, api, content, fact, ids, note, person, task, typed};
use crate::memory::Occasion;
use crate::memory::item::{NewEpisode, NewFact, NewNode, Search, Wanted};
use contract::Timestamp;
use contract::memory::{EpisodeKind, FactType, Store};

fn time(text: &str) -> Timestamp {
    Timestamp::parse(text).expect("a time")
}

#[tokio::test]
async fn a_question_without_a_word_in_common_finds_by_meaning_what_was_just_written() {
    let place = Place::new();
    let memory = place.local();
    let dog = memory.add(fact("pets", "The user has a dog called Bob")).await;
    memory.add(fact("work", "The invoice is due on Friday")).await;
    assert_eq!(ids(&memory.ask(Store::Knowledge, "puppy").await), [dog]);
}

#[tokio::test]
async fn a_name_in_the_question_lifts_what_mentions_it() {
    let place = Place::new();
    let memory = place.local();
    let asha = NewNode { aliases: vec!["Nightingale".into()], ..person("Asha") };
    memory.add(Wanted::Node(asha)).await;
    let plain = memory.add(fact("meeting", "The meeting about the budget was moved to room four")).await;
    let named = memory.add(fact("agenda", "Nightingale asked to move the meeting about the budget")).await;
    let found = memory.ask(Store::Knowledge, "what did nightingale say about the budget meeting").await;
    assert_eq!(ids(&found)[0], named);
    let score = |id| found.iter().find(|h| h.item.id() == id).expect("found").score;
    assert!(score(named) >= score(plain) + 0.1);
}

#[tokio::test]
async fn a_period_in_the_question_lifts_what_happened_then() {
    let place = Place::new();
    let memory = place.local();
    let on = |key: &str, at: &str| {
        let Wanted::Episode(e) = note(key, "The deployment of the shop failed") else { panic!("an episode") };
        Wanted::Episode(NewEpisode { occurred_at: Some(time(at)), ..e })
    };
    let april = memory.add(on("first outage", "2026-04-14T10:00:00.000Z")).await;
    let may = memory.add(on("second outage", "2026-05-14T10:00:00.000Z")).await;
    let ask = |query: &str| Search {
        store: Store::Episodes,
        query: query.into(),
        limit: 5,
        now: time("2026-05-20T10:00:00.000Z"),
    };
    let found = memory.search(ask("which deployment failed in April?")).await.expect("found");
    assert_eq!(ids(&found), [april.clone(), may.clone()]);
    let found = memory.search(ask("which deployment failed last week?")).await.expect("found");
    assert_eq!(ids(&found), [may, april]);
}

#[tokio::test]
async fn a_period_finds_what_happened_then_without_a_word_of_it() {
    let place = Place::new();
    let memory = place.local();
    let on = |key: &str, text: &str, at: &str| {
        let Wanted::Episode(e) = note(key, text) else { panic!("an episode") };
        Wanted::Episode(NewEpisode { occurred_at: Some(time(at)), ..e })
    };
    let dentist = memory.add(on("dentist", "Two fillings were made", "2026-05-12T09:00:00.000Z")).await;
    let plumber = memory.add(on("plumber", "The sink was mended", "2026-05-19T15:00:00.000Z")).await;
    memory.add(on("painter", "The hall is green now", "2026-03-02T15:00:00.000Z")).await;
    let Wanted::Fact(office) = fact("office", "It stands in Baker Street") else { panic!("a fact") };
    let moved = Wanted::Fact(NewFact { valid_from: Some(time("2026-05-19T08:00:00.000Z")), ..office });
    let moved = memory.add(moved).await;
    let now = time("2026-05-20T10:00:00.000Z");
    let all = async |query: &str| ids(&memory.search_all(query, 20, now).await.expect("found"));
    assert_eq!(all("what did we do last week?").await.first(), Some(&dentist));
    assert_eq!(all("yesterday").await[..2], [plumber.clone(), moved]);
    let ask = Search { store: Store::Episodes, query: "yesterday".into(), limit: 1, now };
    let found = memory.search(ask).await.expect("found");
    assert_eq!(ids(&found), [plumber]);
    assert!(found[0].score >= 0.15);

    let budget = ::memory::recall::Budget { items: 5, tokens: 1500 };
    let asked = Occasion { question: "what did we do last week?".into(), ..Occasion::default() };
    let recalled = memory.recall(asked, budget, now).await.expect("something");
    assert_eq!(recalled.ids.first(), Some(&dentist));
}

#[tokio::test]
async fn a_fact_that_does_not_hold_yet_is_recalled_only_when_its_time_is_asked_about() {
    let place = Place::new();
    let memory = place.local();
    let Wanted::Fact(fare) = fact("train fare", "The train fare is nine euros") else { panic!("a fact") };
    let fare = Wanted::Fact(NewFact { valid_from: Some(time("2026-05-21T00:00:00.000Z")), ..fare });
    let fare = memory.add(fare).await;
    let budget = ::memory::recall::Budget { items: 5, tokens: 1500 };
    let now = time("2026-05-20T10:00:00.000Z");
    let recall = async |question: &str| {
        let asked = Occasion { question: question.into(), ..Occasion::default() };
        memory.recall(asked, budget, now).await.map(|recalled| recalled.ids)
    };
    assert_eq!(recall("what is the train fare?").await, None);
    assert_eq!(recall("what is the train fare on 2026-05-21?").await, Some(vec![fare]));
}

#[tokio::test]
async fn the_episodes_around_a_hit_come_with_it_and_below_it() {
    let place = Place::new();
    let memory = place.local();
    let turn = |task_name: &str, position: i64, said: &str| {
        Wanted::Episode(NewEpisode {
            kind: EpisodeKind::Turn,
            key: format!("{task_name} {position}"),
            description: said.into(),
            value: None,
            occurred_at: None,
            task_id: Some(task(task_name)),
            turn_id: None,
            position: Some(position),
        })
    };
    let before = memory.add(turn("a", 1, "hello")).await;
    let hit = memory.add(turn("a", 2, "the password of the router stands on its back")).await;
    let after = memory.add(turn("a", 3, "thanks")).await;
    memory.add(turn("b", 1, "goodbye")).await;
    let found = memory.ask(Store::Episodes, "router password").await;
    assert_eq!(found[0].item.id(), hit);
    let mut rest = ids(&found[1..]);
    rest.sort();
    let mut around = [before, after];
    around.sort();
    assert_eq!(rest, around);
    assert!(found[1..].iter().all(|h| h.score < found[0].score));
}

#[tokio::test]
async fn one_question_goes_to_all_stores_and_closed_facts_come_last() {
    let place = Place::new();
    let memory = place.local();
    memory.add(note("ski", "A skiing holiday in Chamonix")).await;
    memory.add(fact("ski", "The user owns skis and likes Chamonix")).await;
    memory.add(Wanted::Node(person("Chamonix ski club"))).await;
    let found = memory.search_all("Chamonix", 10, Timestamp::now()).await.expect("found");
    let mut stores: Vec<Store> = found.iter().map(|h| h.item.store()).collect();
    stores.sort();
    assert_eq!(stores, Store::ALL);
    assert!(memory.search_all(" ", 10, Timestamp::now()).await.expect("found").is_empty());
    assert_eq!(memory.search_all("Chamonix", 1, Timestamp::now()).await.expect("found").len(), 1);

    let green = memory.add(typed("tea", "The user prefers green tea", FactType::Preference)).await;
    let black = memory.add(typed("tea", "The user prefers black tea", FactType::Preference)).await;
    assert_eq!(ids(&memory.ask(Store::Knowledge, "which tea").await), [black, green]);
}

#[tokio::test]
async fn an_empty_question_lists_the_newest_first() {
    let place = Place::new();
    let memory = place.local();
    for n in 0..5 {
        memory.add(fact(&format!("subject {n}"), &format!("content number {n}"))).await;
    }
    let ask = Search { store: Store::Knowledge, query: "  ".into(), limit: 3, now: Timestamp::now() };
    let found = memory.search(ask).await.expect("found");
    let contents: Vec<&str> = found.iter().map(|h| content(&h.item)).collect();
    assert_eq!(contents, ["content number 4", "content number 3", "content number 2"]);
    assert!(found.iter().all(|h| h.score == 0.0));
}

#[tokio::test]
async fn no_question_breaks_the_search() {
    let place = Place::new();
    let memory = place.local();
    memory.add(fact("quotes", "Ada said \"hello\" AND left")).await;
    for query in [
        "\"",
        "a AND",
        "NEAR(",
        "*",
        "subject:",
        "^x",
        "'; DROP TABLE knowledge_store; --",
        "\u{0}",
        "☕",
        "AND OR NOT",
        &"word ".repeat(20_000),
        &"x".repeat(200_000),
    ] {
        memory.ask(Store::Knowledge, query).await;
    }
    let Wanted::Fact(hostile) = fact("\" OR *", "NEAR(\"a\" \"b\") ^ - : { }") else { panic!("a fact") };
    let written = memory.must(Wanted::Fact(NewFact { ..hostile }), api()).await;
    assert!(written.item.is_some());
}
