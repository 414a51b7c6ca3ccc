//! What only several turns can teach: patterns of the soul, and skills.

use super::{answer, batch, is_lesson, line_of};
use crate::support::http::Ask;
use crate::support::{Engine, Setup};
use serde_json::{Value, json};
use testbed::model::Script;
use testbed::{Reply, ScriptedModel};

const EMPTY: &str = r#"{"episodes":[],"facts":[],"people":[],"relations":[],"patterns":[],"replaces":[]}"#;

/// A model that sees a wish for short answers and a way to deploy in every turn that names them.
pub(super) async fn model() -> ScriptedModel {
    ScriptedModel::start(Script::from_fn(|request| {
        if !is_lesson(request) {
            return Reply::text("Done.");
        }
        let mut said: Value = serde_json::from_str(EMPTY).expect("json");
        let ground = |id: String| json!({"evidence": [id], "confidence": 0.8, "rationale": "it was said"});
        let with = |mut fields: Value, id: String| {
            for (name, value) in ground(id).as_object().expect("an object") {
                fields[name] = value.clone();
            }
            fields
        };
        if let Some(line) = line_of(request, "user", "short") {
            said["patterns"] = json!([with(json!({"text": "Wants short answers"}), line)]);
        }
        if let Some(line) = line_of(request, "user", "deploy") {
            let fact = json!({"subject": "Deploy", "content": "Run the tests, then push to main, then watch {{logs}}",
                "type": "procedure", "valid_from": null});
            said["facts"] = json!([with(fact, line)]);
        }
        answer(&said)
    }))
    .await
}

async fn rate(engine: &Engine, message: &Value, rating: &str) {
    engine.post("/feedback", json!({"message_id": message, "rating": rating})).await.ok().await;
}

pub(super) async fn patterns(engine: &Engine) -> Value {
    engine.json("/memory/soul").await["patterns"].clone()
}

#[tokio::test]
async fn three_turns_make_a_pattern_and_a_complaint_retires_it_but_never_what_a_person_wrote() {
    let model = model().await;
    let engine = Setup::scripted(&model).start().await;
    let put = json!({"patterns": ["Use metric units"]});
    engine.send(Ask::new("PUT", "/memory/soul").body(put.to_string())).await.ok().await;
    let mut messages = Vec::new();
    for n in 0..3 {
        let turn = engine.turn(&format!("task-{n}"), "keep it short please").await;
        messages.push(turn.last().data["message_id"].clone());
        assert_eq!(batch(&engine, json!({})).await["state"], "succeeded");
        let expected = if n < 2 {
            json!(["Use metric units"])
        } else {
            json!(["Use metric units", "Wants short answers"])
        };
        assert_eq!(patterns(&engine).await, expected, "after {n}");
    }
    let full = engine.json("/memory/soul/full").await;
    assert_eq!((&full["source"], &full["version"]), (&json!("learning"), &json!(2)));
    let rationale = full["history"][0]["rationale"].as_str().expect("why");
    assert_eq!(rationale.matches("turn-").count(), 3, "{rationale}");

    rate(&engine, &messages[0], "down").await;
    batch(&engine, json!({})).await;
    assert_eq!(patterns(&engine).await, json!(["Use metric units"]), "two turns are not enough");
    rate(&engine, &messages[0], "up").await;
    batch(&engine, json!({})).await;
    assert_eq!(patterns(&engine).await, json!(["Use metric units", "Wants short answers"]));

    // written by the person it is theirs
    let put = json!({"patterns": ["Wants short answers"]});
    engine.send(Ask::new("PUT", "/memory/soul").body(put.to_string())).await.ok().await;
    for message in &messages {
        rate(&engine, message, "down").await;
    }
    batch(&engine, json!({})).await;
    assert_eq!(patterns(&engine).await, json!(["Wants short answers"]));
}

#[tokio::test]
async fn a_message_that_is_answered_three_times_is_no_pattern() {
    let model = model().await;
    let engine = Setup::scripted(&model).start().await;
    let first = engine.turn("a", "keep it short please").await;
    assert_eq!(batch(&engine, json!({})).await["state"], "succeeded");
    for _ in 0..2 {
        let body = json!({"task_id": "a", "message": "", "retry_message_id": first.user_message()});
        engine.run(body).await;
        assert_eq!(batch(&engine, json!({})).await["trajectories"], 1);
    }
    assert_eq!(patterns(&engine).await, json!([]));
}

pub(super) async fn skill(engine: &Engine) -> Option<Value> {
    let all = engine.json("/skills").await;
    all.as_array().expect("a list").iter().find(|s| s["name"] == "deploy").cloned()
}

async fn is_offered(engine: &Engine) -> bool {
    let agents = engine.json("/agents").await;
    let mut all = agents["agents"].as_array().expect("agents").iter();
    all.any(|agent| agent["skills"].as_array().is_some_and(|skills| skills.contains(&json!("deploy"))))
}

#[tokio::test]
async fn a_procedure_that_worked_three_times_becomes_a_draft_that_feedback_moves() {
    let model = model().await;
    let engine = Setup::scripted(&model).with("LC_SKILLS_ENABLED", "true").start().await;
    let mut messages = Vec::new();
    for n in 0..3 {
        assert_eq!(skill(&engine).await, None, "after {n}");
        let turn = engine.turn(&format!("task-{n}"), "deploy it").await;
        messages.push(turn.last().data["message_id"].clone());
        batch(&engine, json!({})).await;
    }
    let draft = skill(&engine).await.expect("a draft");
    assert_eq!((&draft["confidence"], &draft["source"]), (&json!(0.5), &json!("custom")));
    assert!(!is_offered(&engine).await, "a draft is listed, not offered");
    let whole = engine.json("/skills/deploy").await;
    let prompt = whole["prompt_template"].as_str().expect("a prompt");
    assert!(prompt.contains("push to main") && !prompt.contains("{{logs}}"), "{prompt}");

    rate(&engine, &messages[0], "up").await;
    rate(&engine, &messages[1], "up").await;
    batch(&engine, json!({})).await;
    assert_eq!(skill(&engine).await.expect("there")["confidence"], 0.7);
    assert!(is_offered(&engine).await);
    for message in &messages {
        rate(&engine, message, "down").await;
    }
    batch(&engine, json!({})).await;
    assert_eq!(skill(&engine).await, None, "removed");
    batch(&engine, json!({})).await;
    assert_eq!(skill(&engine).await, None, "what it was made of is used up");
}

#[tokio::test]
async fn a_draft_that_a_person_writes_is_theirs_and_without_the_flag_there_is_none() {
    let model = model().await;
    let setup = Setup::scripted(&model);
    let engine = setup.start().await;
    let mut messages = Vec::new();
    for n in 0..3 {
        let turn = engine.turn(&format!("task-{n}"), "deploy it").await;
        messages.push(turn.last().data["message_id"].clone());
    }
    batch(&engine, json!({})).await;
    assert_eq!(skill(&engine).await, None);
    let setup = super::stopped(engine).await.with("LC_SKILLS_ENABLED", "true");
    let engine = setup.start().await;
    batch(&engine, json!({})).await;
    let put = json!({"description": "How we deploy"}).to_string();
    engine.send(Ask::new("PUT", "/skills/deploy").body(put)).await.ok().await;
    assert_eq!(skill(&engine).await.expect("there")["confidence"], 1.0);
    assert!(is_offered(&engine).await);
    for message in &messages {
        rate(&engine, message, "down").await;
    }
    batch(&engine, json!({})).await;
    assert_eq!(skill(&engine).await.expect("there")["confidence"], 1.0);
}
