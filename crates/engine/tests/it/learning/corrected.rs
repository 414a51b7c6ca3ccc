//! What is corrected by words is corrected, and what was learned is found, without a model.

use super::{batch, contents};
use crate::hitl::each;
use crate::memory::found;
use crate::support::{Engine, Setup};
use serde_json::{Value, json};

/// What of these contents still holds.
async fn holds(engine: &Engine, query: &str) -> Vec<String> {
    let hits = found(engine, "knowledge", query).await;
    let open = hits.iter().filter(|hit| hit["valid_until"].is_null());
    open.map(|hit| hit["content"].as_str().expect("text").to_owned()).collect()
}

/// Says one thing after the other, each in a task of its own; how many memories the last of them closed.
async fn said(engine: &Engine, texts: &[&str]) -> usize {
    let mut closed = 0;
    for text in texts {
        let turn = engine.turn(&text.replace(' ', "-"), text).await;
        let outputs = each(&turn, "tool_result", "output");
        closed = outputs.last().map_or(0, |output| output["closed"].as_array().expect("a list").len());
    }
    closed
}

#[tokio::test]
async fn what_there_is_one_of_is_corrected_by_saying_it_anew() {
    let engine = Setup::offline().start().await;
    for (old, new) in [
        ("my dentist is Doctor Weber", "my dentist is Doctor Braun"),
        ("my favourite colour is green", "my favourite colour is red"),
        ("I prefer tea with milk", "I prefer tea without milk"),
    ] {
        let asked = [format!("remember that {old}"), format!("remember that {new}")];
        assert_eq!(said(&engine, &[&asked[0], &asked[1]]).await, 1, "{new}");
        let open = holds(&engine, new).await;
        assert!(open.iter().any(|text| text == new) && !open.iter().any(|text| text == old), "{open:?}");
    }
    let both = ["remember that my dog is called Rex", "remember that my dog is called Bruno"];
    assert_eq!(said(&engine, &both).await, 0, "there may be two dogs");
    assert_eq!(said(&engine, &["remember that I prefer tea", "remember that I prefer cocoa"]).await, 0);
    // the Learning Centre reads the same turns and opens nothing that was closed
    batch(&engine, json!({})).await;
    let open = holds(&engine, "dentist").await;
    assert!(!open.iter().any(|text| text.contains("Weber")), "{open:?}");
    let preferred = found(&engine, "knowledge", "tea without milk").await;
    assert_eq!(preferred[0]["type"], "preference", "{preferred:?}");
}

#[tokio::test]
async fn the_person_s_own_name_finds_what_is_known_of_the_person() {
    let engine = Setup::offline().start().await;
    engine.turn("first", "My name is Ada. I prefer tea.").await;
    batch(&engine, json!({})).await;
    let known = contents(&engine, "what does Ada prefer").await;
    assert!(known.iter().any(|text| text == "The user prefers tea"), "{known:?}");
    engine.turn("second", "I prefer coffee").await;
    batch(&engine, json!({})).await;
    for query in ["what does Ada prefer", "what do I prefer", "Ada"] {
        let known = contents(&engine, query).await;
        for fact in ["The user prefers tea", "The user prefers coffee"] {
            assert!(known.iter().any(|text| text == fact), "{query}: {known:?}");
        }
    }
}

#[tokio::test]
async fn feedback_teaches_what_only_an_episode_told() {
    let engine = Setup::offline().start().await;
    engine.turn("first", "my llama lives in Kiel").await;
    let asked = engine.turn("second", "where does my llama live").await;
    let message = asked.last().data["message_id"].clone();
    let body = json!({"message_id": message, "comment": "remember that my llama lives in Kiel"});
    engine.post("/feedback", body).await.ok().await;
    let done = batch(&engine, json!({})).await;
    assert_eq!(done["written"]["knowledge"], 1, "{done}");
    assert_eq!(contents(&engine, "llama").await, ["my llama lives in Kiel"]);
}

#[tokio::test]
async fn a_new_name_renames_the_person_and_leaves_one() {
    let engine = Setup::offline().start().await;
    for (task, text) in [("a", "My name is Ada."), ("b", "My name is Adele.")] {
        engine.turn(task, text).await;
        batch(&engine, json!({})).await;
    }
    let people = found(&engine, "social", "").await;
    let users: Vec<&Value> = people.iter().filter(|node| node["attributes"]["role"] == "the user").collect();
    assert_eq!(users.len(), 1, "{people:?}");
    assert_eq!((&users[0]["name"], &users[0]["aliases"]), (&json!("Adele"), &json!(["Ada"])));
}
