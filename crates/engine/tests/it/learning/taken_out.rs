//! What a person takes out of the soul or out of the procedures does not come back from the turns that taught it.

use super::experience::{model, patterns, skill};
use super::{batch, contents};
use crate::memory::found;
use crate::support::http::Ask;
use crate::support::{Engine, Setup};
use serde_json::{Value, json};

async fn put(engine: &Engine, patterns: Value) {
    let body = json!({"patterns": patterns}).to_string();
    engine.send(Ask::new("PUT", "/memory/soul").body(body)).await.ok().await;
}

/// Has this said in as many turns, and learns nothing from it.
async fn said(engine: &Engine, times: usize, message: &str) {
    for _ in 0..times {
        engine.turn("talk", message).await;
    }
}

#[tokio::test]
async fn a_pattern_that_a_person_took_out_comes_back_only_when_as_many_new_turns_show_it() {
    let model = model().await;
    let engine = Setup::scripted(&model).start().await;
    said(&engine, 3, "keep it short please").await;
    batch(&engine, json!({})).await;
    assert_eq!(patterns(&engine).await, json!(["Wants short answers"]));
    // these wait while the line is taken out
    said(&engine, 3, "keep it short please").await;
    put(&engine, json!([])).await;
    engine.send(Ask::delete("/memory/soul/history")).await.ok().await;
    said(&engine, 2, "keep it short please").await;
    batch(&engine, json!({})).await;
    assert_eq!(patterns(&engine).await, json!([]), "two turns after it are not enough");
    said(&engine, 1, "keep it short please").await;
    batch(&engine, json!({})).await;
    assert_eq!(patterns(&engine).await, json!(["Wants short answers"]));
}

#[tokio::test]
async fn a_line_that_a_person_rewords_does_not_get_the_old_one_beside_it() {
    let model = model().await;
    let engine = Setup::scripted(&model).start().await;
    said(&engine, 3, "keep it short please").await;
    batch(&engine, json!({})).await;
    let own = json!(["Two sentences at most, unless asked for more"]);
    put(&engine, own.clone()).await;
    said(&engine, 1, "hello").await;
    batch(&engine, json!({})).await;
    assert_eq!(patterns(&engine).await, own);
}

async fn facts(engine: &Engine) -> Vec<String> {
    let hits = found(engine, "knowledge", "deploy").await;
    hits.iter().map(|hit| hit["id"].as_str().expect("an id").to_owned()).collect()
}

#[tokio::test]
async fn a_procedure_that_was_forgotten_or_reworded_makes_no_draft_and_a_draft_that_is_there_is_named() {
    let model = model().await;
    let engine = Setup::scripted(&model).with("LC_SKILLS_ENABLED", "true").start().await;
    let run = async |times: usize| {
        said(&engine, times, "deploy it").await;
        batch(&engine, json!({})).await;
        skill(&engine).await.is_some()
    };
    assert!(!run(2).await);
    let deleted = facts(&engine).await;
    assert_eq!(deleted.len(), 1);
    let gone = engine.send(Ask::delete(&format!("/memory/knowledge/{}", deleted[0]))).await.ok().await;
    assert_eq!(gone["still_in_skills"], json!([]));
    assert!(!run(2).await, "the two before it count no more");
    let patch = json!({"content": "Ask Ben, who knows the way"}).to_string();
    let target = format!("/memory/knowledge/{}", facts(&engine).await[0]);
    engine.send(Ask::new("PATCH", &target).body(patch)).await.ok().await;
    assert!(!run(2).await, "nor do those before the correction");
    assert!(run(1).await, "three turns after it are new evidence");
    let mut named = Vec::new();
    for id in facts(&engine).await {
        let gone = engine.send(Ask::delete(&format!("/memory/knowledge/{id}"))).await.ok().await;
        named.extend(gone["still_in_skills"].as_array().expect("a list").clone());
    }
    assert_eq!(named, ["deploy"]);
    assert!(skill(&engine).await.is_some(), "it is a skill of its own, and stays");
}

#[tokio::test]
async fn the_lessons_of_a_turn_go_with_their_source_and_those_of_feedback_with_the_feedback() {
    let engine = Setup::offline().start().await;
    let turn = engine.turn("talk", "I prefer green tea.").await;
    let message = turn.last().data["message_id"].clone();
    batch(&engine, json!({})).await;
    let given = json!({"message_id": message, "corrected": "I prefer short walks."});
    let given = engine.post("/feedback", given).await.ok().await["signal_id"].clone();
    batch(&engine, json!({})).await;
    let taught = found(&engine, "knowledge", "walks").await;
    let taught = taught.iter().find(|hit| hit.to_string().contains("walks")).expect("it was learned");
    let target = format!("/feedback/{}", given.as_str().expect("an id"));
    let gone = engine.send(Ask::delete(&target)).await.ok().await;
    assert_eq!(gone["also_deleted"], json!([taught["id"]]), "it rested on the feedback alone");
    assert_eq!(contents(&engine, "tea").await, ["The user prefers green tea"], "this was said in the turn");

    let source = format!("trajectory:{}", turn.turn_id());
    let gone = engine.send(Ask::delete(&format!("/memory?source={source}"))).await.ok().await;
    assert!(gone["total"].as_u64() > Some(0), "{gone}");
    assert_eq!(contents(&engine, "tea").await, [""; 0]);
    batch(&engine, json!({})).await;
    assert_eq!(contents(&engine, "tea").await, [""; 0]);
}
