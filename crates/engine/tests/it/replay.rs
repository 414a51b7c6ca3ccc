//! Streams that are read again: Idempotency-Key, Last-Event-ID, GET /execute/replay. Byte for byte, without
//! gap and without duplicate.

use crate::support::http::Ask;
use crate::support::sse::{Frame, Turn, raw};
use crate::support::{Engine, Setup, soon};
use brain::retention::{self, Policy};
use brain::{Brain, OpenOptions};
use contract::Timestamp;
use serde_json::{Value, json};
use testbed::{Gate, Reply, Script, ScriptedModel};

fn keyed(body: &Value, key: &str) -> Ask {
    Ask::post("/execute", body).header("idempotency-key", key)
}

async fn send(engine: &Engine, body: &Value, key: &str, after: Option<i64>) -> Vec<Frame> {
    let mut ask = keyed(body, key);
    if let Some(after) = after {
        ask = ask.header("last-event-id", &after.to_string());
    }
    engine.send(ask).await.stream().rest().await
}

/// An Engine with a model that stops in the middle of its first answer until the gate is opened.
async fn holding() -> (ScriptedModel, Engine, Gate) {
    let gate = Gate::new();
    let first = Reply::new().say("one two three ").hold(&gate).say("four five");
    let model = ScriptedModel::start(Script::from_fn(move |r| match r.last_user_text().as_str() {
        "hold" => first.clone(),
        other => Reply::text(other),
    }))
    .await;
    let engine = Setup::scripted(&model).start().await;
    (model, engine, gate)
}

#[tokio::test]
async fn the_same_key_joins_the_turn_live_and_after_its_end() {
    let (model, engine, gate) = holding().await;
    let body = json!({"task_id": "i", "message": "hold"});
    let mut one = engine.send(keyed(&body, "key-1")).await.stream();
    let mut seen = one.until_event("text_delta").await;
    soon("the gate", gate.reached()).await;
    let mut two = engine.send(keyed(&body, "key-1")).await.stream();
    let mut joined = two.until_event("text_delta").await;
    let cut = seen[1].id;
    let mut late =
        engine.send(keyed(&body, "key-1").header("last-event-id", &cut.to_string())).await.stream();
    let mut tail = vec![late.next().await.expect("a frame")];
    assert_eq!(tail[0].id, seen[2].id);
    gate.open();
    seen.extend(one.rest().await);
    joined.extend(two.rest().await);
    tail.extend(late.rest().await);
    let whole = Turn::checked(seen, false);
    assert_eq!(whole.text(), "one two three four five");
    assert_eq!(raw(&joined), whole.raw());
    assert_eq!(raw(&tail), raw(&whole.0[2..]));
    assert_eq!(raw(&send(&engine, &body, "key-1", None).await), whole.raw());
    assert_eq!(model.calls().len(), 1, "a joined request ran again");
    // a key that is not this one is a new turn
    assert!(send(&engine, &body, "key-2", None).await[0].id > whole.last_id());
}

#[tokio::test]
async fn the_same_key_with_another_body_is_validation_error() {
    let engine = Setup::offline().start().await;
    let body = json!({"task_id": "i", "message": "hello"});
    send(&engine, &body, "key-1", None).await;
    for other in [
        json!({"task_id": "i", "message": "hello!"}),
        json!({"task_id": "j", "message": "hello"}),
        json!({"task_id": "i", "message": "hello", "direct": true}),
        json!({"task_id": "i", "message": "hello", "context": {"a": 1}}),
    ] {
        let error = engine.send(keyed(&other, "key-1")).await.error(422, "VALIDATION_ERROR").await;
        assert_eq!(error["details"]["field"], "Idempotency-Key");
    }
    // the order of fields and fields that are not ours make no other body
    let same = Ask::new("POST", "/execute")
        .body(r#"{"surprise": 1, "message": "hello", "direct": false, "task_id": "i"}"#)
        .header("idempotency-key", "key-1");
    assert!(!engine.send(same).await.stream().rest().await.is_empty());
    for bad in ["has space", "", &"x".repeat(256), "ümlaut"] {
        engine.send(keyed(&body, bad)).await.error(400, "INVALID_REQUEST").await;
    }
}

#[tokio::test]
async fn a_replay_cut_at_every_frame_has_neither_gap_nor_duplicate() {
    let model = ScriptedModel::start(Script::sequence([
        Reply::new().say("Looking.").tool_call("bash", json!({"command": "echo a"})),
        Reply::text("It says a."),
    ]))
    .await;
    let engine = Setup::scripted(&model).start().await;
    let body = json!({"task_id": "r", "message": "look"});
    let whole = Turn::checked(send(&engine, &body, "key", None).await, false).0;
    for at in 0..=whole.len() {
        let after = if at == 0 { 0 } else { whole[at - 1].id };
        let rest = raw(&whole[at..]);
        for target in
            ["/execute/replay", "/execute/replay?task_id=r", "/execute/replay?task_id=r&after=99999999999999"]
        {
            let ask = Ask::get(target).header("last-event-id", &after.to_string());
            assert_eq!(raw(&engine.send(ask).await.stream().rest().await), rest, "{target} after {after}");
        }
        assert_eq!(raw(&send(&engine, &body, "key", Some(after)).await), rest, "joined after {after}");
    }
}

#[tokio::test]
async fn a_client_that_is_cut_at_every_frame_of_a_live_turn_reads_what_an_undisturbed_one_reads() {
    let words = "word ".repeat(40);
    let slow = Reply::text(&words).pace(std::time::Duration::from_millis(3));
    let model = ScriptedModel::start(Script::always(slow)).await;
    let engine = Setup::scripted(&model).start().await;
    let mut steady = engine.execute(json!({"task_id": "l", "message": "go"})).await;
    let mut collected: Vec<Frame> = Vec::new();
    let mut after = steady.next().await.expect("started").id - 1;
    loop {
        let ask = Ask::get("/execute/replay?task_id=l").header("last-event-id", &after.to_string());
        let mut stream = engine.send(ask).await.stream();
        let Some(frame) = stream.next().await else { break };
        after = frame.id;
        collected.push(frame);
    }
    let turn = Turn::checked(collected, false);
    assert_eq!(turn.text(), words);
    assert_eq!(raw(&turn.0[1..]), raw(&steady.rest().await));
}

#[tokio::test]
async fn follow_says_how_long_a_replay_stays() {
    let (_model, engine, gate) = holding().await;
    engine.turn("idle", "hello").await;
    let mut live = engine.execute(json!({"task_id": "f", "message": "hold"})).await;
    let mut seen = live.until_event("text_delta").await;
    soon("the gate", gate.reached()).await;
    // stored only: ends although the turn runs
    let stored = engine.stored("&task_id=f").await;
    assert!(stored.len() >= seen.len() && stored.iter().all(|f| f.data["task_id"] == "f"));
    // auto: an idle task's stream ends, a busy one's follows
    let idle = engine.get("/execute/replay?task_id=idle&follow=auto").await.stream().rest().await;
    assert!(Turn::checked(idle, false).text().contains("hello"));
    let mut auto = engine.get("/execute/replay?task_id=f").await.stream();
    let mut always = engine.get("/execute/replay?task_id=f&follow=true").await.stream();
    let mut all = engine.get("/execute/replay").await.stream();
    let mut followed = auto.until_event("text_delta").await;
    gate.open();
    seen.extend(live.rest().await);
    followed.extend(auto.rest().await);
    assert_eq!(raw(&followed), raw(&seen));
    // all tasks: in the order of ids, ends when nothing is under way
    let mut every = vec![all.next().await.expect("a frame")];
    every.extend(all.rest().await);
    assert!(every.windows(2).all(|p| p[0].id < p[1].id || p[1].is("heartbeat")));
    assert!(
        every.iter().any(|f| f.data["task_id"] == "idle") && every.iter().any(|f| f.data["task_id"] == "f")
    );
    // true: goes on with the next turn
    always.until(|f| f.phase() == Some("completed")).await;
    let next = engine.turn("f", "again").await;
    let later = always.until(|f| f.phase() == Some("completed")).await;
    assert_eq!(raw(&later), next.raw());
}

#[tokio::test]
async fn after_selects_by_time_and_bad_parameters_are_named() {
    let engine = Setup::offline().start().await;
    assert!(engine.get("/execute/replay").await.stream().rest().await.is_empty(), "nothing is stored");
    let turn = engine.turn("a", "hello").await;
    let all = engine.stored("").await;
    assert_eq!(raw(&all), turn.raw());
    let at = Timestamp::parse(turn.last().text("timestamp")).expect("a time").millis();
    assert!(engine.stored(&format!("&after={at}")).await.is_empty());
    let first = Timestamp::parse(turn.0[0].text("timestamp")).expect("a time").millis();
    assert_eq!(raw(&engine.stored(&format!("&after={}", first - 1)).await), turn.raw());
    engine.get("/execute/replay?task_id=nobody").await.error(404, "TASK_NOT_FOUND").await;
    for (query, field) in
        [("after=x", "after"), ("after=-1", "after"), ("follow=maybe", "follow"), ("after=1.5", "after")]
    {
        let error = engine.get(&format!("/execute/replay?{query}")).await.error(400, "INVALID_REQUEST").await;
        assert_eq!(error["details"]["field"], field);
    }
    let ask = Ask::get("/execute/replay").header("last-event-id", "abc");
    engine.send(ask).await.error(400, "INVALID_REQUEST").await;
}

#[tokio::test]
async fn heartbeats_carry_the_cursor_and_are_not_stored() {
    let (_model, engine, gate) = holding().await;
    let setup = engine.setup.clone().with("ENGINE_HEARTBEAT_INTERVAL_S", "1");
    drop(engine);
    let engine = setup.start().await;
    let mut live = engine.execute(json!({"task_id": "h", "message": "hold"})).await;
    let frames = live.until_event("heartbeat").await;
    let [.., before, beat] = &frames[..] else { panic!("a heartbeat comes after an event") };
    assert_eq!((beat.id, &beat.data["task_id"]), (before.id, &json!("h")));
    let ask = Ask::get("/execute/replay?follow=true").header("last-event-id", "987654321");
    let beat = engine.send(ask).await.stream().next().await.expect("a heartbeat");
    assert_eq!((beat.event.as_str(), beat.id), ("heartbeat", 987_654_321));
    assert!(beat.data["task_id"].is_null() && beat.data["turn_id"].is_null());
    gate.open();
    live.rest().await;
    assert!(engine.stored("").await.iter().all(|f| !f.is("heartbeat")));
}

#[tokio::test]
async fn when_events_have_expired_a_join_rebuilds_started_and_the_end() {
    let setup = Setup::offline();
    let engine = setup.start().await;
    let body = json!({"task_id": "e", "message": "hello"});
    let whole = Turn::checked(send(&engine, &body, "key", None).await, false);
    engine.kill();
    let brain = Brain::open(OpenOptions::at(setup.brain())).expect("opens");
    let later = Timestamp::now().plus_millis(24 * 3600 * 1000);
    retention::run_once(&brain, later, Policy { observability_days: 30, ..Policy::default() })
        .await
        .expect("forgets");
    brain.close();
    let engine = setup.start().await;
    let rebuilt = send(&engine, &body, "key", None).await;
    assert_eq!(rebuilt.len(), 2, "{rebuilt:?}");
    assert_eq!((rebuilt[0].id, rebuilt[1].id), (whole.0[0].id, whole.last_id()));
    assert_eq!(rebuilt[1].data["message_id"], whole.last().data["message_id"]);
    assert_eq!(send(&engine, &body, "key", Some(whole.0[0].id)).await.len(), 1, "only the end is new");
    assert!(send(&engine, &body, "key", Some(whole.last_id())).await.is_empty());
    assert!(engine.stored("&task_id=e").await.is_empty());
    assert_eq!(engine.json("/tasks/e").await["last_event_id"], whole.last_id());
    assert!(engine.turn("e", "hello again").await.0[0].id > whole.last_id());
}
