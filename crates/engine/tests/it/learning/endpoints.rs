//! What /feedback and /learning take and answer, and what the keyless provider learns.

use super::{at_rest, batch, contents, count, ended, stopped};
use crate::memory::found;
use crate::support::Setup;
use crate::support::http::Ask;
use serde_json::{Value, json};

fn names(value: &Value) -> Vec<&str> {
    let mut names: Vec<&str> = value.as_object().expect("an object").keys().map(String::as_str).collect();
    names.sort_unstable();
    names
}

#[tokio::test]
async fn without_a_model_a_name_and_a_preference_are_learned() {
    let setup = Setup::offline();
    let engine = setup.start().await;
    let empty = engine.json("/learning/status").await;
    assert_eq!(
        empty,
        json!({"enabled": true, "running": false, "next_run_at": null, "pending_trajectories": 0, "last_batch": null,
            "batches": []})
    );
    assert_eq!(engine.health().await["activity"]["next_scheduled_at"], Value::Null);
    let turn = engine.turn("first", "Hello! My name is Ada Lovelace. I prefer tea.").await;
    let waiting = engine.until("/learning/status", |s| s["next_run_at"].is_string()).await;
    assert_eq!(waiting["pending_trajectories"], 1, "{waiting}");
    let due = engine.until("/health", |h| h["activity"]["next_scheduled_at"].is_string()).await;
    assert_eq!(due["activity"]["next_scheduled_at"], waiting["next_run_at"]);

    let done = batch(&engine, json!({})).await;
    assert_eq!(
        names(&done),
        [
            "batch_id",
            "duplicates",
            "ended_at",
            "error",
            "started_at",
            "state",
            "tokens_used",
            "trajectories",
            "written"
        ]
    );
    assert_eq!(
        (&done["state"], &done["trajectories"], &done["error"]),
        (&json!("succeeded"), &json!(1), &json!(null))
    );
    assert_eq!(done["written"], json!({"episodes": 0, "knowledge": 2, "social": 1}));
    assert_eq!(done["tokens_used"], 0, "no model was asked");
    let name = found(&engine, "knowledge", "what is the user's name?").await;
    let name = name.iter().find(|f| f["content"] == "The user's name is Ada Lovelace").expect("learned");
    assert_eq!(
        (&name["trust"], &name["source"]),
        (&json!("user"), &json!(format!("trajectory:{}", turn.turn_id())))
    );
    assert_eq!(found(&engine, "social", "Ada Lovelace").await[0]["name"], "Ada Lovelace");

    let status = engine.json("/learning/status").await;
    assert_eq!((&status["pending_trajectories"], &status["next_run_at"]), (&json!(0), &json!(null)));
    assert_eq!(status["last_batch"], status["batches"][0]);
    let again = batch(&engine, json!({})).await;
    assert_eq!(
        (&again["trajectories"], &again["duplicates"]),
        (&json!(0), &json!(0)),
        "nothing is learned twice"
    );
    engine.until("/health", |h| h["activity"]["next_scheduled_at"].is_null()).await;
    let metrics = engine.get("/metrics").await.text().await;
    assert!(metrics.contains("engine_lc_batches_total{state=\"succeeded\"} 2"), "{metrics}");
    let setup = stopped(engine).await;
    assert_eq!(count(&setup, "SELECT count(*) FROM observability_events WHERE kind = 'lc_batch'"), 2);
    assert_eq!(count(&setup, "SELECT count(*) FROM trajectories WHERE state = 'processed'"), 1);
}

#[tokio::test]
async fn a_batch_of_one_task_leaves_the_others_alone() {
    let engine = Setup::offline().start().await;
    engine.turn("tea", "I prefer tea.").await;
    engine.turn("maps", "I prefer paper maps.").await;
    let done = batch(&engine, json!({"task_id": "maps"})).await;
    assert_eq!(done["trajectories"], 1);
    assert_eq!(contents(&engine, "maps").await, ["The user prefers paper maps"]);
    assert_eq!(engine.json("/learning/status").await["pending_trajectories"], 1);
}

#[tokio::test]
async fn what_cannot_be_run_is_refused() {
    let engine = Setup::offline().with("LC_ENABLED", "false").start().await;
    let error = engine.post("/learning/run", json!({})).await.error(409, "CONFLICT").await;
    assert_eq!(error["details"]["reason"], "disabled");
    assert_eq!(engine.json("/learning/status").await["enabled"], false);
    engine.turn("off", "my name is Ada").await;
    let status = engine.json("/learning/status").await;
    assert_eq!(
        (&status["pending_trajectories"], &status["next_run_at"]),
        (&json!(1), &json!(null)),
        "kept for later"
    );
    let engine = Setup::offline().start().await;
    engine.post("/learning/run", json!({"task_id": "nowhere"})).await.error(404, "TASK_NOT_FOUND").await;
    let error = engine.post("/learning/run", json!({"task_id": 7})).await.error(400, "INVALID_REQUEST").await;
    assert_eq!(error["details"]["field"], "task_id");
    let empty = engine.send(Ask::new("POST", "/learning/run")).await.ok().await;
    ended(&engine, &empty["batch_id"]).await;
}

#[tokio::test]
async fn feedback_is_about_a_message_and_says_something() {
    let engine = Setup::offline().start().await;
    let turn = engine.turn("talk", "hello").await;
    let message = turn.last().data["message_id"].clone();
    engine.post("/feedback", json!({"message_id": message})).await.error(422, "VALIDATION_ERROR").await;
    let error = engine
        .post("/feedback", json!({"message_id": message, "rating": "great"}))
        .await
        .error(400, "INVALID_REQUEST")
        .await;
    assert_eq!(error["details"]["field"], "rating");
    let long = "x".repeat(10_001);
    let error = engine
        .post("/feedback", json!({"message_id": message, "comment": long}))
        .await
        .error(400, "INVALID_REQUEST")
        .await;
    assert_eq!(error["details"]["field"], "comment");
    let error = engine.post("/feedback", json!({"rating": "up"})).await.error(400, "INVALID_REQUEST").await;
    assert_eq!(error["details"]["field"], "message_id");
    for id in ["msg-0000", "nonsense"] {
        engine
            .post("/feedback", json!({"message_id": id, "rating": "up"}))
            .await
            .error(404, "NOT_FOUND")
            .await;
    }
    let body = json!({"message_id": message, "rating": "up", "comment": "thanks", "surprise": 1});
    let first = engine.post("/feedback", body.clone()).await.ok().await;
    assert_eq!(names(&first), ["signal_id", "status"]);
    assert_eq!(first["status"], "recorded");
    assert!(first["signal_id"].as_str().is_some_and(|id| id.starts_with("sig-")), "{first}");
    assert_eq!(engine.post("/feedback", body).await.ok().await, first, "sent again it is the same");
}

#[tokio::test]
async fn feedback_moves_what_its_turn_recalled_and_wrote_and_a_correction_is_the_person_s_word() {
    let setup = Setup::offline();
    let engine = setup.start().await;
    let fact = json!({"subject": "tea", "content": "Darjeeling is kept in the kitchen", "confidence": 0.5});
    let fact = engine.post("/memory/knowledge", fact).await.ok().await["item"]["id"].clone();
    let turn = engine.turn("talk", "I prefer green tea.").await;
    let (turn_id, message) = (turn.turn_id(), turn.last().data["message_id"].clone());
    batch(&engine, json!({})).await;
    let setup = stopped(engine).await;
    // as the recall of a turn notes it
    at_rest(&setup)
        .execute(
            "UPDATE turns SET recalled_ids = ?1 WHERE turn_id = ?2",
            (json!([fact]).to_string(), &turn_id),
        )
        .expect("noted");
    let engine = setup.start().await;
    let sure = async |query: &str, content: &str| {
        let hits = found(&engine, "knowledge", query).await;
        let hit = hits.iter().find(|hit| hit["content"] == content).expect("kept").clone();
        hit["confidence"].as_f64().expect("a number")
    };
    let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-9, "{a} is not {b}");
    let learned = sure("green tea", "The user prefers green tea").await;
    engine.post("/feedback", json!({"message_id": message, "rating": "down"})).await.ok().await;
    assert_eq!(batch(&engine, json!({})).await["state"], "succeeded");
    near(sure("darjeeling", "Darjeeling is kept in the kitchen").await, 0.3);
    near(sure("green tea", "The user prefers green tea").await, learned - 0.2);
    let up = json!({"message_id": message, "rating": "up", "corrected": "I prefer white tea."});
    engine.post("/feedback", up).await.ok().await;
    let done = batch(&engine, json!({})).await;
    assert_eq!(done["written"]["knowledge"], 1, "{done}");
    near(sure("darjeeling", "Darjeeling is kept in the kitchen").await, 0.35);
    let hits = found(&engine, "knowledge", "white tea").await;
    let corrected = hits.iter().find(|hit| hit["content"] == "The user prefers white tea").expect("learned");
    assert_eq!(corrected["trust"], "user");
    batch(&engine, json!({})).await;
    near(sure("darjeeling", "Darjeeling is kept in the kitchen").await, 0.35);
}
