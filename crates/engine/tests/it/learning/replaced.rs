//! What a replacement of the memory takes away is not learned again.

use super::{answer, batch, facts, is_lesson, line_of};
use crate::bundle::bundle;
use crate::support::http::Ask;
use crate::support::{Engine, Setup};
use serde_json::{Value, json};
use testbed::model::Script;
use testbed::{Reply, ScriptedModel};

/// A model that sees a wish in every turn that names "short", and a fact in every one that names tea.
async fn model() -> ScriptedModel {
    ScriptedModel::start(Script::from_fn(|request| {
        if !is_lesson(request) {
            return Reply::text("Done.");
        }
        let mut said = facts(&[]);
        if let Some(line) = line_of(request, "user", "short") {
            said["patterns"] = json!([{"text": "Wants short answers", "evidence": [line], "confidence": 0.8,
                                       "rationale": "it was said"}]);
        }
        if let Some(line) = line_of(request, "user", "tea") {
            said = facts(&[("tea", "The user drinks tea", "preference", vec![line])]);
        }
        answer(&said)
    }))
    .await
}

async fn totals(engine: &Engine) -> [Value; 3] {
    let stats = engine.json("/memory/stats").await;
    ["episodes", "knowledge", "social"].map(|store| stats["stores"][store]["total"].clone())
}

/// A soul that a person wrote and turns added to, two turns that wait to be learned from, and feedback that does.
async fn fill(engine: &Engine) {
    let put = json!({"identity": "I help Ada.", "patterns": ["Ada has a secret"]});
    engine.send(Ask::new("PUT", "/memory/soul").body(put.to_string())).await.ok().await;
    let mut messages = Vec::new();
    for n in 0..3 {
        let turn = engine.turn(&format!("task-{n}"), "keep it short please").await;
        messages.push(turn.last().data["message_id"].clone());
    }
    batch(engine, json!({})).await;
    let patterns = engine.json("/memory/soul").await["patterns"].clone();
    assert_eq!(patterns, json!(["Ada has a secret", "Wants short answers"]));
    for n in 0..2 {
        engine.turn(&format!("task-tea-{n}"), "I drink tea").await;
    }
    let said = json!({"message_id": messages[0], "rating": "up", "comment": "I drink tea with it"});
    engine.post("/feedback", said).await.ok().await;
    assert_eq!(engine.json("/learning/status").await["pending_trajectories"], 2);
}

#[tokio::test]
async fn an_emptied_memory_has_the_soul_of_a_new_brain_and_nothing_comes_back() {
    let model = model().await;
    let engine = Setup::scripted(&model).start().await;
    let new = engine.json("/memory/soul").await;
    fill(&engine).await;
    let empty = bundle(Vec::new());
    engine.post("/memory/import?mode=replace", empty.clone()).await.ok().await;
    let lessons = || model.calls().iter().filter(|call| is_lesson(call)).count();
    let before = lessons();
    for round in 0..2 {
        let full = engine.json("/memory/soul/full").await;
        for part in ["identity", "values", "patterns"] {
            assert_eq!(full[part], new[part], "round {round}: {full}");
        }
        assert_eq!(full["source"], "catalog");
        assert_eq!(full["history"].as_array().map(Vec::len), Some(1), "round {round}: {full}");
        assert_eq!(totals(&engine).await, [0, 0, 0].map(Value::from), "round {round}");
        let exported = engine.json("/memory/export").await;
        for word in ["Ada", "short", "tea"] {
            assert!(!exported.to_string().contains(word), "round {round}: {word} in {exported}");
        }
        assert_eq!(exported["signals"], json!([]));
        assert_eq!(engine.json("/learning/status").await["pending_trajectories"], 0);
        assert_eq!(batch(&engine, json!({})).await["state"], "succeeded");
    }
    assert_eq!(lessons(), before, "nothing of the time before was read");
    // what is said from now on is learned, and one turn is no three
    engine.turn("task-3", "keep it short please").await;
    engine.turn("task-tea-3", "I drink tea").await;
    batch(&engine, json!({})).await;
    assert_eq!(engine.json("/memory/soul").await["patterns"], new["patterns"]);
    assert_eq!(totals(&engine).await[1], 1);
    // again, where the soul is the catalog's already
    engine.post("/memory/import?mode=replace", empty).await.ok().await;
    assert_eq!(totals(&engine).await, [0, 0, 0].map(Value::from));
}

#[tokio::test]
async fn a_replacement_keeps_the_feedback_of_its_bundle_as_it_is_there_and_a_merge_ends_nothing() {
    let model = model().await;
    let engine = Setup::scripted(&model).start().await;
    fill(&engine).await;
    let kept = engine.json("/memory/export").await;
    engine.post("/memory/import?mode=merge", kept.clone()).await.ok().await;
    assert_eq!(engine.json("/learning/status").await["pending_trajectories"], 2);
    engine.post("/memory/import?mode=replace", kept.clone()).await.ok().await;
    assert_eq!(engine.json("/learning/status").await["pending_trajectories"], 0);
    let after = engine.json("/memory/export").await;
    for list in ["signals", "episodes", "knowledge", "social"] {
        assert_eq!(after[list], kept[list], "{list}");
    }
    assert_eq!(after["soul"]["identity"], "I help Ada.");
    assert_eq!(after["signals"][0]["processed_at"], Value::Null, "it waits, as in the bundle");
}

#[tokio::test]
async fn a_turn_that_waits_through_a_replacement_teaches_nothing() {
    let model = super::taken_back::asking().await;
    let engine = Setup::scripted(&model).start().await;
    let mut stream = engine.execute(json!({"task_id": "a", "message": "I drink tea, ask me which"})).await;
    stream.until_event("hitl_request").await;
    engine.post("/memory/import?mode=replace", bundle(Vec::new())).await.ok().await;
    engine.answer(json!({"task_id": "a", "answer": "the green one"})).await;
    stream.rest().await;
    assert_eq!(engine.json("/learning/status").await["pending_trajectories"], 0);
    engine.turn("b", "I drink tea").await;
    batch(&engine, json!({})).await;
    assert_eq!(totals(&engine).await[1], 1, "what is said after it is learned");
}

#[tokio::test]
async fn feedback_after_a_replacement_does_not_have_the_turns_before_it_read_again() {
    let model = super::taken_back::asking().await;
    let engine = Setup::scripted(&model).start().await;
    let said = engine.turn("a", "My dog is called Brimble").await;
    batch(&engine, json!({})).await;
    assert_eq!(totals(&engine).await[1], 1);
    engine.post("/memory/import?mode=replace", bundle(Vec::new())).await.ok().await;
    let message = said.last().data["message_id"].clone();
    let up = json!({"message_id": message, "rating": "up", "comment": "I drink tea with it"});
    engine.post("/feedback", up).await.ok().await;
    batch(&engine, json!({})).await;
    let exported = engine.json("/memory/export").await;
    assert!(!exported["knowledge"].to_string().contains("called Brimble"), "{exported}");
    assert!(exported["knowledge"].to_string().contains("tea"), "{exported}");
}
