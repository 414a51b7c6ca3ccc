//! All of memory can be looked at: each memory by its id, and everything there is by going from page to page.

use super::{found, id};
use crate::support::http::Ask;
use crate::support::{Engine, Setup};
use serde_json::{Value, json};

async fn fact(engine: &Engine, n: u32) -> String {
    let body = json!({"subject": format!("subject {n}"), "content": format!("content number {n}")});
    id(&engine.post("/memory/knowledge", body).await.ok().await["item"])
}

async fn page(engine: &Engine, store: &str, before: Option<&str>, limit: u32) -> Vec<Value> {
    let body = match before {
        None => json!({"query": "", "limit": limit}),
        Some(before) => json!({"query": "", "limit": limit, "before": before}),
    };
    let list = engine.post(&format!("/memory/{store}/search"), body).await.ok().await;
    list.as_array().expect("a bare array").clone()
}

#[tokio::test]
async fn each_memory_is_shown_by_its_id_as_a_search_shows_it() {
    let engine = Setup::offline().start().await;
    fact(&engine, 1).await;
    engine.post("/memory/episodes", json!({"key": "k", "description": "it rained"})).await.ok().await;
    let relations = json!([{"relation": "manager_of", "to": "Ben"}]);
    engine.post("/memory/social", json!({"name": "Asha", "relationships": relations})).await.ok().await;
    for (store, query) in [("knowledge", "content"), ("episodes", "rained"), ("social", "Asha")] {
        let mut hit = found(&engine, store, query).await.remove(0);
        let one = engine.json(&format!("/memory/{store}/{}", id(&hit))).await;
        hit.as_object_mut().expect("an object").remove("score").expect("found by a search");
        assert_eq!(one, hit);
    }
    let asha = found(&engine, "social", "Asha").await.remove(0);
    let relation = id(&asha["relationships"][0]);
    let one = engine.json(&format!("/memory/social/{relation}")).await;
    assert_eq!(one["id"], asha["id"], "a relation is shown with the one that has it");
}

#[tokio::test]
async fn every_memory_is_on_exactly_one_page_while_others_are_written_and_forgotten() {
    let engine = Setup::offline().start().await;
    let mut wanted = Vec::new();
    for n in 0..9 {
        wanted.insert(0, fact(&engine, n).await);
    }
    let mut seen: Vec<String> = page(&engine, "knowledge", None, 4).await.iter().map(id).collect();
    fact(&engine, 100).await;
    engine.send(Ask::delete(&format!("/memory/knowledge/{}", wanted[1]))).await.ok().await;
    loop {
        let older = page(&engine, "knowledge", seen.last().map(String::as_str), 4).await;
        if older.is_empty() {
            break;
        }
        seen.extend(older.iter().map(id));
    }
    assert_eq!(seen, wanted, "what came meanwhile is newer, what went was shown before");
    assert_eq!(page(&engine, "episodes", None, 4).await, Vec::<Value>::new());
}

#[tokio::test]
async fn memories_of_one_instant_are_not_lost_between_two_pages() {
    let engine = Setup::offline().start().await;
    let rows: Vec<Value> = (0..7).map(crate::bundle::fact).collect();
    engine.post("/memory/import", crate::bundle::bundle(rows)).await.ok().await;
    let all: Vec<String> = page(&engine, "knowledge", None, 100).await.iter().map(id).collect();
    assert_eq!(all.len(), 7);
    let mut seen: Vec<String> = page(&engine, "knowledge", None, 1).await.iter().map(id).collect();
    while let [next] = page(&engine, "knowledge", seen.last().map(String::as_str), 1).await.as_slice() {
        seen.push(id(next));
    }
    assert_eq!(seen, all);
}

#[tokio::test]
async fn a_page_after_nothing_and_a_page_of_answers_are_refused() {
    let engine = Setup::offline().start().await;
    let kept = fact(&engine, 1).await;
    let target = "/memory/knowledge/search";
    let with_a_query = json!({"query": "content", "before": kept});
    let error = engine.post(target, with_a_query).await.error(422, "VALIDATION_ERROR").await;
    assert_eq!(error["details"]["field"], "before");
    engine.send(Ask::delete(&format!("/memory/knowledge/{kept}"))).await.ok().await;
    let after_nothing = json!({"query": "", "before": kept});
    let error = engine.post(target, after_nothing).await.error(404, "MEMORY_NOT_FOUND").await;
    assert_eq!((&error["details"]["field"], &error["details"]["id"]), (&json!("before"), &json!(kept)));
}
