//! What a death or a stop in the middle of a batch costs: nothing.

use super::{answer, batch, facts, is_lesson, shown, stopped};
use crate::memory::found;
use crate::support::{Engine, Setup, soon};
use serde_json::{Value, json};
use testbed::model::{Gate, Script, SeenRequest};
use testbed::{Reply, ScriptedModel};

/// Long enough for a batch that does not wait for a slot to have asked the model: it looks every 250 ms.
const SLOT_CHECKS: std::time::Duration = std::time::Duration::from_millis(600);

/// What is learned from a turn: what the person said, as a fact.
fn lesson(request: &SeenRequest) -> Value {
    let line = shown(request).remove(0);
    let text = format!("The user said {}", line["text"].as_str().expect("text"));
    facts(&[("user", &text, "fact", vec![line["id"].as_str().expect("an id").to_owned()])])
}

fn is_about(request: &SeenRequest, text: &str) -> bool {
    shown(request).iter().any(|line| line["text"] == text)
}

async fn everything_once(engine: &Engine, turns: usize) {
    engine.until("/learning/status", |s| s["running"] == false && s["pending_trajectories"] == 0).await;
    let hits = found(engine, "knowledge", "").await;
    let mut contents: Vec<&str> = hits.iter().map(|hit| hit["content"].as_str().expect("text")).collect();
    contents.sort_unstable();
    let expected: Vec<String> = (0..turns).map(|n| format!("The user said thing number {n}")).collect();
    assert_eq!(contents, expected);
    assert!(
        hits.iter().all(|hit| hit["confidence"] == 0.8),
        "nothing was confirmed by its own repetition: {hits:?}"
    );
}

#[tokio::test]
async fn a_batch_goes_on_after_a_death_and_repeats_nothing_that_was_committed() {
    let gate = Gate::new();
    let held = gate.clone();
    let model = ScriptedModel::start(Script::from_fn(move |request| match is_lesson(request) {
        false => Reply::text("Yes."),
        true if is_about(request, "thing number 2") => {
            let said = lesson(request).to_string();
            let (head, tail) = said.split_at(10);
            Reply::new().say(head).hold(&held).say(tail)
        }
        true => answer(&lesson(request)),
    }))
    .await;
    // without recalled episodes, which would make it two calls for a turn
    let setup = Setup::scripted(&model).with("MEMORY_RECALL_LIMIT", "0");
    let engine = setup.start().await;
    for n in 0..4 {
        engine.turn(&format!("task-{n}"), &format!("thing number {n}")).await;
    }
    let started = engine.post("/learning/run", json!({})).await.ok().await;
    soon("the third call", gate.reached()).await;
    engine.kill();
    gate.open();
    let engine = setup.start().await;
    everything_once(&engine, 4).await;
    let status = engine.json("/learning/status").await;
    let dead =
        status["batches"].as_array().expect("a list").iter().find(|b| b["batch_id"] == started["batch_id"]);
    let dead = dead.expect("it is told of");
    assert_eq!((&dead["state"], &dead["trajectories"]), (&json!("partial"), &json!(2)), "{dead}");
    assert_eq!(
        (&status["last_batch"]["state"], &status["last_batch"]["trajectories"]),
        (&json!("succeeded"), &json!(2))
    );
    let asked = model.calls().iter().filter(|r| is_lesson(r)).count();
    assert_eq!(asked, 5, "only the call that was cut off was made again");
}

#[tokio::test]
async fn a_batch_asked_for_at_the_first_instant_is_not_taken_for_a_dead_one() {
    let setup = Setup::offline().with_fixed_port();
    for n in 0..5 {
        let engine = setup.spawn();
        let ask = || crate::support::http::Ask::post("/learning/run", &json!({}));
        let started = loop {
            match engine.try_send(ask()).await {
                Some(answer) if answer.status == 200 => break answer.json().await,
                _ => tokio::task::yield_now().await,
            }
        };
        let done = super::ended(&engine, &started["batch_id"]).await;
        assert_eq!(
            (&done["state"], &done["error"]),
            (&json!("succeeded"), &json!(null)),
            "start {n}: {done}"
        );
        engine.kill();
    }
}

#[tokio::test]
async fn a_stop_waits_for_the_trajectory_and_leaves_the_rest() {
    let gate = Gate::new();
    let held = gate.clone();
    let model = ScriptedModel::start(Script::from_fn(move |request| match is_lesson(request) {
        false => Reply::text("Yes."),
        true => {
            let said = lesson(request).to_string();
            let (head, tail) = said.split_at(10);
            Reply::new().say(head).hold(&held).say(tail)
        }
    }))
    .await;
    let setup = Setup::scripted(&model);
    let mut engine = setup.start().await;
    for n in 0..2 {
        engine.turn(&format!("task-{n}"), &format!("thing number {n}")).await;
    }
    engine.post("/learning/run", json!({})).await.ok().await;
    soon("the first call", gate.reached()).await;
    engine.signal(rustix::process::Signal::TERM);
    engine.log_line(|line| line["message"] == "Draining").await;
    gate.open();
    assert_eq!(engine.exit_code().await, 0, "{}", engine.log());
    drop(engine);
    let engine = setup.start().await;
    let status = engine.json("/learning/status").await;
    assert_eq!(status["pending_trajectories"], 1, "{status}");
    assert_eq!(
        (&status["last_batch"]["state"], &status["last_batch"]["trajectories"]),
        (&json!("partial"), &json!(1))
    );
    assert_eq!(batch(&engine, json!({})).await["state"], "succeeded");
    everything_once(&engine, 2).await;
    stopped(engine).await;
}

#[tokio::test]
async fn turns_come_first() {
    let gate = Gate::new();
    let held = gate.clone();
    let model = ScriptedModel::start(Script::from_fn(move |request| {
        if is_lesson(request) {
            return answer(&lesson(request));
        }
        match request.last_user_text().contains("wait") {
            true => Reply::new().say("One ").hold(&held).say("moment."),
            false => Reply::text("Yes."),
        }
    }))
    .await;
    let engine = Setup::scripted(&model).with("ENGINE_TASK_SLOTS", "1").start().await;
    engine.turn("task-0", "thing number 0").await;
    let busy = engine.execute(json!({"task_id": "busy", "message": "wait"})).await;
    soon("the turn", gate.reached()).await;
    let started = engine.post("/learning/run", json!({"task_id": "task-0"})).await.ok().await;
    // the batch stands still as long as the only slot is taken: it has begun, and nobody is asked
    engine.until("/learning/status", |s| s["running"] == true).await;
    tokio::time::timeout(SLOT_CHECKS, std::future::pending::<()>()).await.expect_err("nothing ends the wait");
    assert!(model.calls().iter().all(|r| !is_lesson(r)), "it did not wait");
    gate.open();
    busy.finish().await;
    let done = super::ended(&engine, &started["batch_id"]).await;
    assert_eq!((&done["state"], &done["trajectories"]), (&json!("succeeded"), &json!(1)));
}
