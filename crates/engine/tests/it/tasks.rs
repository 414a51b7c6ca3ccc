//! /tasks and /execute/cancel: threads as people see them, and how a turn in flight is stopped.

use crate::hitl::calls;
use crate::support::http::Ask;
use crate::support::sse::{Frame, Stream, Turn};
use crate::support::{Engine, Setup, soon};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use testbed::{Gate, Reply, Script, ScriptedModel};

/// A cancel must end its turn within a second; the rest is for a busy machine.
const CANCEL_LIMIT: Duration = Duration::from_millis(2500);

/// A model that answers "hold" only in part until the gate is opened.
pub async fn holding(gate: &Gate) -> ScriptedModel {
    let held = Reply::new().say("one two ").hold(gate).say("three");
    ScriptedModel::start(Script::from_fn(move |r| match r.last_user_text().as_str() {
        "hold" => held.clone(),
        other => Reply::text(other),
    }))
    .await
}

async fn start_hold(engine: &Engine, task: &str) -> (Stream, Vec<Frame>) {
    let mut stream = engine.execute(json!({"task_id": task, "message": "hold"})).await;
    let frames = stream.until_event("text_delta").await;
    (stream, frames)
}

async fn cancel(engine: &Engine, task: &str) -> Value {
    engine.post("/execute/cancel", json!({"task_id": task})).await.ok().await
}

fn names(list: &Value) -> Vec<&str> {
    list["tasks"].as_array().expect("tasks").iter().filter_map(|t| t["task_id"].as_str()).collect()
}

#[tokio::test]
async fn tasks_are_listed_newest_first_page_by_page_and_by_status() {
    let gate = Gate::new();
    let model = holding(&gate).await;
    let engine = Setup::scripted(&model).start().await;
    assert_eq!(engine.json("/tasks").await, json!({"tasks": [], "next_cursor": null}));
    for n in 1..=5 {
        engine.turn(&format!("t{n}"), "hello").await;
    }
    engine.turn("t2", "again").await;
    assert_eq!(names(&engine.json("/tasks").await), ["t2", "t5", "t4", "t3", "t1"]);
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = engine.json(&format!("/tasks?limit=2{cursor}")).await;
        seen.extend(names(&page).into_iter().map(str::to_owned));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
        assert!(seen.len() < 10, "the pages do not end");
    }
    assert_eq!(seen, ["t2", "t5", "t4", "t3", "t1"]);
    let (stream, _) = start_hold(&engine, "busy").await;
    assert_eq!(names(&engine.json("/tasks?status=running").await), ["busy"]);
    assert_eq!(engine.json("/tasks?status=idle").await["tasks"].as_array().map(Vec::len), Some(5));
    assert_eq!(names(&engine.json("/tasks?status=paused").await), [""; 0]);
    for query in ["limit=0", "limit=201", "limit=x", "cursor=%21", "cursor=bm90anNvbg", "status=sleeping"] {
        let error = engine.get(&format!("/tasks?{query}")).await.error(400, "INVALID_REQUEST").await;
        assert_eq!(error["details"]["field"], query.split('=').next().expect("a name"), "{error}");
    }
    gate.open();
    stream.rest().await;
}

#[tokio::test]
async fn one_task_shows_what_it_cost_and_what_it_remembers() {
    let model = calls("working_memory_write", json!({"key": "goal", "value": {"n": 1}})).await;
    let engine = Setup::scripted(&model).start().await;
    let turn = engine.turn("a", &"long title ".repeat(20)).await;
    let task = engine.json("/tasks/a").await;
    assert_eq!(task["title"].as_str().map(|t| t.chars().count()), Some(80));
    assert_eq!(
        (&task["status"], &task["turn_count"], &task["message_count"]),
        (&json!("idle"), &json!(1), &json!(4))
    );
    let last = &task["last_turn"];
    assert_eq!((&last["turn_id"], &last["state"]), (&json!(turn.turn_id()), &json!("completed")));
    assert_eq!((&last["stop_reason"], &last["error"]), (&json!("end_turn"), &Value::Null));
    assert_eq!(task["usage"], json!({"input_tokens": 200, "output_tokens": 40, "cache_hit_tokens": 0}));
    assert_eq!(
        (&task["working_memory"][0]["key"], &task["working_memory"][0]["value"]),
        (&json!("goal"), &json!({"n": 1}))
    );
    assert_eq!((&task["plan"], &task["pending"]), (&Value::Null, &json!([])));
    assert_eq!(task["last_event_id"], turn.last_id());
    engine.get("/tasks/nobody").await.error(404, "TASK_NOT_FOUND").await;
    engine.get("/tasks/nobody/messages").await.error(404, "TASK_NOT_FOUND").await;
    let usage = engine.json("/usage?group_by=task").await;
    assert_eq!((&usage["groups"][0]["key"], &usage["total"]["input_tokens"]), (&json!("a"), &json!(200)));
}

#[tokio::test]
async fn messages_come_oldest_first_page_by_page() {
    let engine = Setup::offline().start().await;
    for n in 0..4 {
        engine.turn("a", &format!("message {n}")).await;
    }
    let whole = engine.json("/tasks/a/messages").await;
    let whole = whole["messages"].as_array().expect("messages");
    assert_eq!(whole.len(), 8);
    for message in whole {
        for field in ["message_id", "turn_id", "role", "content", "status", "compacted", "created_at"] {
            assert!(!message[field].is_null(), "{field}: {message}");
        }
    }
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = engine.json(&format!("/tasks/a/messages?limit=3{cursor}")).await;
        seen.extend(page["messages"].as_array().expect("messages").clone());
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(&seen, whole);
    engine.get("/tasks/a/messages?limit=500").await.error(400, "INVALID_REQUEST").await;
}

#[tokio::test]
async fn a_task_id_may_hold_anything_but_controls_and_is_percent_encoded_in_paths() {
    let engine = Setup::offline().start().await;
    let id = "a/b c%2F?ü#😀";
    engine.turn(id, "hello").await;
    let path = "/tasks/a%2Fb%20c%252F%3F%C3%BC%23%F0%9F%98%80";
    assert_eq!(engine.json(path).await["task_id"], id);
    assert_eq!(engine.json(&format!("{path}/messages")).await["messages"].as_array().map(Vec::len), Some(2));
    let query = "/execute/replay?task_id=a%2Fb%20c%252F%3F%C3%BC%23%F0%9F%98%80";
    assert!(!engine.get(query).await.stream().rest().await.is_empty());
    assert_eq!(engine.send(Ask::delete(path)).await.ok().await["task_id"], id);
    engine.get(path).await.error(404, "TASK_NOT_FOUND").await;
}

#[tokio::test]
async fn a_deleted_task_is_gone_and_its_id_begins_anew() {
    let engine = Setup::offline().start().await;
    let first = engine.turn("a", "hello").await;
    let other = engine.turn("b", "hello").await;
    let deleted = engine.send(Ask::delete("/tasks/a")).await.ok().await;
    assert_eq!(
        deleted,
        json!({"status": "deleted", "task_id": "a",
               "deleted": {"messages": 2, "events": first.0.len(), "memories": 0}})
    );
    engine.send(Ask::delete("/tasks/a")).await.error(404, "TASK_NOT_FOUND").await;
    engine.get("/execute/replay?task_id=a").await.error(404, "TASK_NOT_FOUND").await;
    assert_eq!(engine.stored("").await, other.0);
    let again = engine.turn("a", "hello").await;
    assert!(again.0[0].id > other.last_id(), "a seq was used twice");
    assert_eq!(engine.json("/tasks/a").await["turn_count"], 1);
}

#[tokio::test]
async fn deleting_a_task_stops_its_turn_first() {
    let gate = Gate::new();
    let model = holding(&gate).await;
    let engine = Setup::scripted(&model).with("ENGINE_TASK_SLOTS", "1").start().await;
    let (stream, mut frames) = start_hold(&engine, "a").await;
    let queued = engine.execute(json!({"task_id": "b", "message": "wait"})).await;
    for task in ["b", "a"] {
        engine.send(Ask::delete(&format!("/tasks/{task}"))).await.ok().await;
        engine.get(&format!("/tasks/{task}")).await.error(404, "TASK_NOT_FOUND").await;
    }
    soon("the provider's stream is dropped", model.open_streams(0)).await;
    frames.extend(stream.rest().await);
    assert_eq!(Turn::checked(frames, false).stop_reason(), "cancelled");
    assert_eq!(queued.finish().await.stop_reason(), "cancelled");
    assert_eq!(engine.turn("a", "fresh").await.text(), "fresh");
    engine.until("/health", |h| h["activity"]["in_flight_turns"] == 0).await;

    let asking = calls("ask_user", json!({"question": "?"})).await;
    let engine = Setup::scripted(&asking).start().await;
    let stream = engine.execute(json!({"task_id": "p", "message": "ask"})).await;
    engine.until("/tasks/p", |t| t["status"] == "paused").await;
    engine.send(Ask::delete("/tasks/p")).await.ok().await;
    assert_eq!(stream.finish().await.stop_reason(), "cancelled");
    assert_eq!(engine.json("/hitl/pending").await, json!({"pending": []}));
}

#[tokio::test]
async fn a_second_turn_on_a_busy_task_is_task_busy_and_says_where_to_follow() {
    let gate = Gate::new();
    let model = holding(&gate).await;
    let engine = Setup::scripted(&model).start().await;
    let (stream, frames) = start_hold(&engine, "a").await;
    let error = engine.post("/execute", json!({"task_id": "a", "message": "me too"})).await;
    let error = error.error(409, "TASK_BUSY").await;
    let details = &error["details"];
    assert_eq!((&details["task_id"], &details["state"]), (&json!("a"), &json!("running")));
    assert_eq!(details["turn_id"], frames[0].data["turn_id"]);
    assert!(details["last_event_id"].as_i64() >= Some(frames[0].id), "{error}");
    gate.open();
    stream.rest().await;
    assert_eq!(engine.turn("a", "now").await.text(), "now");
    model.assert_no_problems();
}

#[tokio::test]
async fn a_cancel_while_streaming_keeps_the_partial_text_and_drops_the_provider() {
    let gate = Gate::new();
    let model = holding(&gate).await;
    let engine = Setup::scripted(&model).start().await;
    let (stream, mut frames) = start_hold(&engine, "a").await;
    soon("the gate", gate.reached()).await;
    let turn_id = frames[0].data["turn_id"].clone();
    let other = json!({"task_id": "a", "turn_id": "turn-00000000000000000000000000000000"});
    let idle = json!({"status": "idle", "task_id": "a", "turn_id": null});
    assert_eq!(engine.post("/execute/cancel", other).await.ok().await, idle);
    let exact = json!({"task_id": "a", "turn_id": turn_id});
    let began = Instant::now();
    let answer = engine.post("/execute/cancel", exact).await.ok().await;
    assert_eq!(answer, json!({"status": "cancelling", "task_id": "a", "turn_id": turn_id}));
    cancel(&engine, "a").await;
    frames.extend(stream.rest().await);
    assert!(began.elapsed() < CANCEL_LIMIT, "{:?}", began.elapsed());
    let turn = Turn::checked(frames, false);
    assert_eq!(turn.stop_reason(), "cancelled");
    assert_eq!(turn.all("content_block_stop").last().expect("a stop").data["discarded"], false);
    soon("the provider's stream is dropped", model.open_streams(0)).await;
    let messages = engine.json("/tasks/a/messages").await;
    assert_eq!(messages["messages"][1]["content"][0]["text"], turn.text());
    assert_eq!(messages["messages"][1]["message_id"], turn.last().data["message_id"]);
    assert_eq!(cancel(&engine, "a").await, idle);
    engine.post("/execute/cancel", json!({"task_id": "nobody"})).await.error(404, "TASK_NOT_FOUND").await;
    engine.post("/execute/cancel", json!({})).await.error(400, "INVALID_REQUEST").await;
    assert_eq!(engine.turn("a", "go on").await.text(), "go on");
    model.assert_no_problems();
}

#[tokio::test]
async fn a_cancel_in_a_tool_ends_the_turn_and_the_process_within_a_second() {
    // told from the sleep of any other test by its argument
    let nap = format!("100.{}", std::process::id());
    let command = format!("echo $$ > pid; sleep {nap} & sleep {nap}");
    let model = calls("bash", json!({"command": command})).await;
    let engine = Setup::scripted(&model).start().await;
    let mut stream = engine.execute(json!({"task_id": "a", "message": "sleep"})).await;
    let mut frames = stream.until_event("tool_call").await;
    let file = engine.setup.workspace().join("pid");
    crate::support::eventually("the command starts", || {
        std::fs::read_to_string(&file).is_ok_and(|t| t.ends_with('\n')) && sleeps(&nap)
    })
    .await;
    let began = Instant::now();
    cancel(&engine, "a").await;
    cancel(&engine, "a").await;
    frames.extend(stream.rest().await);
    assert!(began.elapsed() < CANCEL_LIMIT, "{:?}", began.elapsed());
    let turn = Turn::checked(frames, false);
    assert_eq!(turn.one("tool_result").text("reason"), "cancelled");
    assert_eq!(turn.stop_reason(), "cancelled");
    crate::support::eventually("the processes end", || !sleeps(&nap)).await;
    assert_eq!(engine.json("/tasks/a").await["status"], "idle");
    // the history has a result for the call, so the next turn is a good request
    let next = engine.execute(json!({"task_id": "a", "message": "again"})).await;
    cancel(&engine, "a").await;
    assert_eq!(next.finish().await.stop_reason(), "cancelled");
    model.assert_no_problems();
}

/// Whether any process of this machine sleeps for exactly so long.
fn sleeps(nap: &str) -> bool {
    let Ok(processes) = std::fs::read_dir("/proc") else { return false };
    processes.flatten().any(|entry| {
        std::fs::read_to_string(entry.path().join("cmdline"))
            .is_ok_and(|c| c == format!("sleep\x00{nap}\x00"))
    })
}

#[tokio::test]
async fn a_waiting_turn_says_so_and_a_cancel_takes_it_out_of_the_queue() {
    let gate = Gate::new();
    let model = holding(&gate).await;
    let engine = Setup::scripted(&model).with("ENGINE_TASK_SLOTS", "1").start().await;
    let (stream, _) = start_hold(&engine, "a").await;
    let mut waiting = engine.execute(json!({"task_id": "b", "message": "wait"})).await;
    let mut frames = vec![waiting.next().await.expect("started")];
    assert_eq!(frames[0].data["queued"], true);
    assert_eq!(engine.json("/tasks/b").await["status"], "queued");
    assert_eq!(names(&engine.json("/tasks?status=queued").await), ["b"]);
    assert_eq!(engine.health().await["activity"]["in_flight_turns"], 2);
    let busy = engine.post("/execute", json!({"task_id": "b", "message": "x"})).await;
    assert_eq!(busy.error(409, "TASK_BUSY").await["details"]["state"], "queued");
    assert_eq!(cancel(&engine, "b").await["status"], "cancelling");
    frames.extend(waiting.rest().await);
    let turn = Turn::checked(frames, false);
    assert_eq!((turn.stop_reason(), turn.0.len()), ("cancelled", 2));
    assert!(turn.last().data["message_id"].is_null());
    gate.open();
    stream.rest().await;
    assert!(model.calls().iter().all(|c| c.last_user_text() != "wait"));
}

#[tokio::test]
async fn a_cancel_of_a_paused_turn_resolves_its_prompt() {
    let model = calls("ask_user", json!({"question": "Now?"})).await;
    let engine = Setup::scripted(&model).start().await;
    let stream = engine.execute(json!({"task_id": "a", "message": "ask"})).await;
    engine.until("/tasks/a", |t| t["status"] == "paused").await;
    let request = engine.pending().await["request_id"].clone();
    cancel(&engine, "a").await;
    let turn = stream.finish().await;
    assert_eq!(turn.stop_reason(), "cancelled");
    assert_eq!(turn.one("hitl_resolved").text("resolution"), "cancelled");
    assert_eq!(turn.one("tool_result").text("reason"), "cancelled");
    let late = engine.post("/hitl/respond", json!({"request_id": request, "answer": "yes"})).await;
    late.error(409, "CONFLICT").await;
    assert_eq!(engine.json("/hitl/pending").await, json!({"pending": []}));
    model.assert_no_problems();
}

#[tokio::test]
async fn a_client_that_leaves_does_not_stop_the_turn() {
    let gate = Gate::new();
    let model = holding(&gate).await;
    let engine = Setup::scripted(&model).start().await;
    let (stream, _) = start_hold(&engine, "a").await;
    drop(stream);
    engine.until("/health", |h| h["activity"]["open_streams"] == 0).await;
    gate.open();
    let task = engine.until("/tasks/a", |t| t["status"] == "idle").await;
    assert_eq!(task["last_turn"]["stop_reason"], "end_turn");
    assert_eq!(Turn::checked(engine.stored("&task_id=a").await, false).text(), "one two three");
}
