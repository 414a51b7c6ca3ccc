//! What is corrected by words is corrected, and what was learned is found, without a model.

use super::batch;
use crate::hitl::each;
use crate::memory::found;
use crate::support::{Engine, Setup};
use serde_json::json;

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
