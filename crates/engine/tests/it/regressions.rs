//! What a review once found broken: clients that hang up, answers and cancels in the worst instant, ends that
//! race, and what a stored state may not do to a start.

use crate::support::http::Ask;
use crate::support::sse::Turn;
use crate::support::{Engine, KEY, LIMIT, Setup, soon};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::time::{Duration, Instant};
use testbed::model::Stop;
use testbed::{Gate, Protocol, Reply, Script, ScriptedModel};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Tries of a race: enough to meet each of the instants it had been lost in.
const TRIES: usize = 40;
/// What the nth try waits before it does its worst; spread over the milliseconds in which a request is
/// received, committed and acted upon.
fn jitter(n: usize) -> Duration {
    Duration::from_micros(250) * u32::try_from(n % 20).expect("small")
}

/// Passes time without a timer, whose steps are longer than what races here.
async fn spin(time: Duration) {
    let started = Instant::now();
    while started.elapsed() < time {
        tokio::task::yield_now().await;
    }
}

/// Sends a whole request and hangs up after a moment, without reading a byte.
async fn hang_up(engine: &Engine, request: &str, body: Option<&Value>, key: &str, after: Duration) {
    let body = body.map(Value::to_string).unwrap_or_default();
    let mut socket = TcpStream::connect(("127.0.0.1", engine.port)).await.expect("the engine listens");
    socket.set_nodelay(true).expect("a socket");
    let text = format!(
        "{request} HTTP/1.1\r\nhost: localhost\r\nx-engine-key: {key}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    socket.write_all(text.as_bytes()).await.expect("sent");
    spin(after).await;
}

/// The task, once it is either over with everything or untouched.
async fn at_rest(engine: &Engine, task: &str) -> Value {
    engine
        .until(&format!("/tasks/{task}"), |t| {
            let whole = t["status"] == "idle" || t["error"] == "TASK_NOT_FOUND";
            let untouched = t["status"] == "paused" && t["last_turn"]["state"] == "paused";
            whole || (untouched && t["pending"].as_array().is_some_and(|p| p.len() == 1))
        })
        .await
}

/// Tasks whose turn waits for an answer.
async fn ask(engine: &Engine, prefix: &str) -> Vec<String> {
    let mut tasks = Vec::new();
    for n in 0..TRIES {
        let task = format!("{prefix}{n}");
        let body = json!({"task_id": task, "message": "ask me your name"});
        engine.execute(body).await.until_event("hitl_request").await;
        engine.until(&format!("/tasks/{task}"), |t| t["status"] == "paused").await;
        tasks.push(task);
    }
    tasks
}

/// Hangs up on every task and returns how many requests were carried out; the others were not received.
async fn abandoned(
    engine: &Engine,
    tasks: &[String],
    request: impl Fn(&str) -> (String, Option<Value>),
) -> usize {
    for (n, task) in tasks.iter().enumerate() {
        let (request, body) = request(task);
        hang_up(engine, &request, body.as_ref(), KEY, jitter(n)).await;
    }
    let mut done = 0;
    for task in tasks {
        at_rest(engine, task).await;
    }
    for task in tasks {
        done += usize::from(at_rest(engine, task).await["status"] != "paused");
    }
    engine.until("/health", |h| h["activity"]["in_flight_turns"] == 0).await;
    done
}

#[tokio::test]
async fn a_client_that_hangs_up_leaves_no_accepted_turn_waiting() {
    let engine = Setup::offline().start().await;
    let tasks: Vec<String> = (0..TRIES * 2).map(|n| format!("t{n}")).collect();
    let request =
        |task: &str| ("POST /execute".to_owned(), Some(json!({"task_id": task, "message": "hello"})));
    abandoned(&engine, &tasks, request).await;
    let mut ran = 0;
    for task in &tasks {
        let found = at_rest(&engine, task).await;
        ran += usize::from(found["last_turn"]["stop_reason"] == "end_turn");
        // the next turn of each has its slot
        assert_eq!(engine.turn(task, "hello again").await.stop_reason(), "end_turn");
    }
    assert!(ran > tasks.len() / 4, "only {ran} of {} requests arrived", tasks.len());
}

#[tokio::test]
async fn a_client_that_hangs_up_leaves_no_cancel_answer_or_deletion_half_done() {
    let engine = Setup::offline().start().await;
    let cancelled = ask(&engine, "c").await;
    let request = |task: &str| ("POST /execute/cancel".to_owned(), Some(json!({"task_id": task})));
    let done = abandoned(&engine, &cancelled, request).await;
    assert!(done > TRIES / 4, "only {done} cancels arrived");

    let answered = ask(&engine, "a").await;
    let request =
        |task: &str| ("POST /hitl/respond".to_owned(), Some(json!({"task_id": task, "answer": "Ada"})));
    let done = abandoned(&engine, &answered, request).await;
    assert!(done > TRIES / 4, "only {done} answers arrived");

    let deleted = ask(&engine, "d").await;
    let done = abandoned(&engine, &deleted, |task| (format!("DELETE /tasks/{task}"), None)).await;
    assert!(done > TRIES / 4, "only {done} deletions arrived");
    for task in &deleted {
        assert_ne!(
            at_rest(&engine, task).await["status"],
            "idle",
            "the turn was stopped, the task not deleted"
        );
    }
}

fn hash(key: &str) -> String {
    Sha256::digest(key.as_bytes()).iter().map(|b| format!("{b:02x}")).collect()
}

#[tokio::test]
async fn a_key_whose_rotation_is_stored_works_even_if_the_client_has_hung_up() {
    let setup = Setup::offline();
    let engine = setup.start().await;
    let brain = rusqlite::Connection::open_with_flags(
        setup.brain(),
        rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY | rusqlite::OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )
    .expect("the brain");
    let keys: Vec<String> = (0..TRIES).map(|n| format!("key-number-{n}-of-many")).collect();
    let stored = || {
        let query = "SELECT key_hash FROM engine_keys WHERE state = 'current'";
        let found: Option<String> = brain.query_row(query, [], |row| row.get(0)).ok();
        keys.iter().find(|k| found.as_ref() == Some(&hash(k))).map_or(KEY, String::as_str)
    };
    let opens = async |key: &str| engine.send(Ask::get("/version").key(key)).await.status == 200;
    let mut rotated = 0;
    for (n, new) in keys.iter().enumerate() {
        let body = json!({"new_key_hash": hash(new), "overlap_seconds": 0});
        hang_up(&engine, "POST /admin/rotate-key", Some(&body), stored(), jitter(n)).await;
        // one that is not stored by then was most likely never received
        let sent = Instant::now();
        while stored() != new && sent.elapsed() < Duration::from_millis(150) {
            tokio::task::yield_now().await;
        }
        rotated += usize::from(stored() == new);
        // the brain's key is the one that works, whichever it is
        let started = Instant::now();
        while !opens(stored()).await {
            assert!(started.elapsed() < LIMIT, "try {n}: the stored key is refused");
        }
    }
    assert!(rotated > TRIES / 4, "only {rotated} rotations arrived");
}

#[tokio::test]
async fn an_answer_sent_at_once_is_never_lost() {
    let engine = Setup::offline().start().await;
    for n in 0..TRIES * 2 {
        let task = format!("q{n}");
        let mut stream = engine.execute(json!({"task_id": task, "message": "ask me your name"})).await;
        let mut frames = stream.until_event("hitl_request").await;
        let request = frames.last().expect("the request").data["request_id"].clone();
        spin(jitter(n)).await;
        engine.answer(json!({"request_id": request, "answer": "Ada"})).await;
        frames.extend(stream.rest().await);
        let turn = Turn::checked(frames, false);
        assert_eq!((turn.stop_reason(), turn.count("tool_result")), ("end_turn", 1));
    }
}

async fn cancel(engine: &Engine, task: &str) -> String {
    let answer = engine.post("/execute/cancel", json!({"task_id": task})).await.ok().await;
    answer["status"].as_str().expect("a status").to_owned()
}

#[tokio::test]
async fn a_cancel_sent_at_once_after_a_question_is_never_lost() {
    let engine = Setup::offline().start().await;
    for n in 0..TRIES * 2 {
        let task = format!("q{n}");
        let mut stream = engine.execute(json!({"task_id": task, "message": "ask me your name"})).await;
        let mut frames = stream.until_event("hitl_request").await;
        spin(jitter(n)).await;
        assert_eq!(cancel(&engine, &task).await, "cancelling");
        frames.extend(stream.rest().await);
        let turn = Turn::checked(frames, false);
        assert_eq!(turn.stop_reason(), "cancelled");
        assert_eq!(turn.one("hitl_resolved").text("resolution"), "cancelled");
    }
    assert_eq!(engine.json("/hitl/pending").await, json!({"pending": []}));
}

#[tokio::test]
async fn a_cancel_that_was_acknowledged_always_ends_its_turn_as_cancelled() {
    let model = ScriptedModel::start(Script::always(Reply::text("one two three"))).await;
    let engine = Setup::scripted(&model).start().await;
    let mut acknowledged = 0;
    for n in 0..TRIES * 2 {
        let task = format!("f{n}");
        let mut stream = engine.execute(json!({"task_id": task, "message": "count"})).await;
        // the later half sees the answer whole before it cancels
        let awaited = if n < TRIES { "text_delta" } else { "usage" };
        let mut frames = stream.until_event(awaited).await;
        spin(jitter(n) / 2).await;
        let status = cancel(&engine, &task).await;
        frames.extend(stream.rest().await);
        let turn = Turn::checked(frames, false);
        if status == "cancelling" {
            assert_eq!(turn.stop_reason(), "cancelled", "try {n}");
            acknowledged += 1;
        } else {
            assert_eq!((status.as_str(), turn.stop_reason()), ("idle", "end_turn"), "try {n}");
        }
    }
    // how many win depends on the machine; that none is in between does not
    println!("{acknowledged} of {} cancels came before the end", TRIES * 2);
}

#[tokio::test]
async fn a_cancel_during_a_slow_summary_ends_within_a_second() {
    let gate = Gate::new();
    let (held, long) = (Reply::new().hold(&gate).say("They counted."), "word ".repeat(700));
    let model = ScriptedModel::start(Script::from_fn(move |r| {
        if r.tools.is_empty() { held.clone() } else { Reply::text(&long).without_usage() }
    }))
    .await;
    let engine = Setup::scripted(&model)
        .with("LLM_CONTEXT_WINDOW", "14000")
        .with("COMPACT_KEEP_TURNS", "3")
        .with("MAX_TOKENS", "500")
        .start()
        .await;
    let turns = async {
        for n in 0..12 {
            let stream = engine.execute(json!({"task_id": "a", "message": format!("turn {n}")})).await;
            let ended = tokio::select! {
                biased;
                frames = stream.rest() => Some(frames),
                () = gate.reached() => None,
            };
            if ended.is_none() {
                return;
            }
        }
        panic!("nothing was summarised");
    };
    soon("a summary", turns).await;
    let since = engine.json("/tasks/a").await["last_turn"]["turn_id"].clone();
    let started = Instant::now();
    assert_eq!(cancel(&engine, "a").await, "cancelling");
    let task = engine.until("/tasks/a", |t| t["status"] == "idle").await;
    assert!(started.elapsed() < Duration::from_secs(1), "it took {:?}", started.elapsed());
    assert_eq!(
        (&task["last_turn"]["turn_id"], &task["last_turn"]["stop_reason"]),
        (&since, &json!("cancelled"))
    );
    soon("the summary's stream is dropped", model.open_streams(0)).await;
    gate.open();
    assert_eq!(engine.turn("a", "go on").await.stop_reason(), "end_turn");
    model.assert_no_problems();
}

#[tokio::test]
async fn a_checkpoint_that_cannot_be_read_ends_its_own_turn_and_no_other() {
    let gate = Gate::new();
    let held = Reply::new().say("one two ").hold(&gate).say("three");
    let ask = Reply::new().tool_call("ask_user", json!({"question": "?"}));
    let model = ScriptedModel::start(Script::from_fn(move |r| match r.last_user_text().as_str() {
        "hold" => held.clone(),
        "ask" => ask.clone(),
        // what a resumed call is told, and everything later
        _ => Reply::text("three"),
    }))
    .await;
    let setup = Setup::scripted(&model);
    let engine = setup.start().await;
    for (task, message, event) in
        [("bad", "hold", "text_delta"), ("good", "hold", "text_delta"), ("asked", "ask", "hitl_request")]
    {
        engine.execute(json!({"task_id": task, "message": message})).await.until_event(event).await;
    }
    engine.until("/tasks/asked", |t| t["status"] == "paused").await;
    engine.kill();
    let brain = rusqlite::Connection::open(setup.brain()).expect("the brain");
    let change = "UPDATE channel_state_snapshots SET version = 2 WHERE task_id IN ('bad', 'asked')";
    assert_eq!(brain.execute(change, []).expect("changed"), 2);
    drop(brain);
    gate.open();
    let engine = setup.start().await;
    engine.expect_log("A turn cannot be read").expect_log("A checkpoint cannot be read");
    for task in ["bad", "asked"] {
        let shown = engine.until(&format!("/tasks/{task}"), |t| t["status"] == "idle").await;
        assert_eq!(shown["last_turn"]["state"], "errored");
        assert_eq!(shown["last_turn"]["error"], "INTERNAL");
        let stored = engine.stored(&format!("&task_id={task}")).await;
        assert_eq!(stored.last().and_then(|f| f.phase()), Some("errored"));
        assert_eq!(engine.turn(task, "still there?").await.text(), "three");
    }
    let shown = engine.until("/tasks/good", |t| t["status"] == "idle").await;
    assert_eq!(shown["last_turn"]["stop_reason"], "end_turn");
    assert_eq!(engine.health().await["status"], "ok");
}

/// How a turn that waits for an answer goes on.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Then {
    Answered,
    Cancelled,
    Deleted,
}

#[tokio::test]
async fn a_background_process_lives_through_a_question_and_dies_with_its_turn() {
    for then in [Then::Answered, Then::Cancelled, Then::Deleted] {
        let beat = format!("beat-{}-{then:?}", std::process::id());
        let command = format!("while :; do echo . >> {beat}; sleep 0.01; done > /dev/null 2>&1 &");
        let look = format!(
            "a=$(wc -c < {beat}); for i in $(seq 500); do test $(wc -c < {beat}) -gt $a && echo ALIVE && exit; sleep 0.01; done; echo DEAD"
        );
        let model = ScriptedModel::start(Script::sequence([
            Reply::new().tool_call("bash", json!({"command": command})),
            Reply::new().tool_call("ask_user", json!({"question": "?"})),
            Reply::new().tool_call("bash", json!({"command": look})),
            Reply::text("done"),
        ]))
        .await;
        let engine = Setup::scripted(&model).start().await;
        let mut stream = engine.execute(json!({"task_id": "b", "message": "work"})).await;
        let mut frames = stream.until_event("hitl_request").await;
        engine.until("/tasks/b", |t| t["status"] == "paused").await;
        let loops = |line: &String| !line.contains(::engine::sandbox::inside::ASKED);
        assert!(running(&beat).iter().any(loops), "it died when its turn was paused");
        match then {
            Then::Answered => {
                engine.answer(json!({"task_id": "b", "answer": "yes"})).await;
                frames.extend(stream.rest().await);
                let turn = Turn::checked(frames, false);
                assert_eq!(turn.stop_reason(), "end_turn");
                let last = turn.all("tool_result").last().expect("results").data["output"].clone();
                assert_eq!(last["stdout"], "ALIVE\n");
            }
            Then::Cancelled => {
                assert_eq!(cancel(&engine, "b").await, "cancelling");
                frames.extend(stream.rest().await);
                assert_eq!(Turn::checked(frames, false).stop_reason(), "cancelled");
            }
            Then::Deleted => {
                engine.send(Ask::delete("/tasks/b")).await.ok().await;
                drop(stream);
            }
        }
        assert_eq!(running(&beat), [""; 0], "{then:?}: it outlived its turn");
        model.assert_no_problems();
    }
}

/// The command lines of the processes that have `mark` in theirs: inside bubblewrap a process knows only the
/// number it has there. A zombie has no command line.
fn running(mark: &str) -> Vec<String> {
    let processes = std::fs::read_dir("/proc").expect("/proc").flatten();
    let lines = processes.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    lines
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains(mark))
        .collect()
}

#[tokio::test]
async fn deleted_events_are_not_told_again_while_somebody_follows_the_task() {
    let model = ScriptedModel::start(Script::from_fn(|r| Reply::text(&r.last_user_text()))).await;
    let engine = Setup::scripted(&model).start().await;
    engine.turn("x", "old words").await;
    let mut follower = engine.get("/execute/replay?task_id=x&follow=true").await.stream();
    let second = engine.turn("x", "secret words").await;
    follower.until(|f| f.id == second.last_id()).await;
    engine.send(Ask::delete("/tasks/x")).await.ok().await;
    let third = engine.turn("x", "new words").await;
    for after in [0, second.0[0].id, second.last_id()] {
        for target in ["/execute/replay?task_id=x&follow=false", "/execute/replay?follow=false"] {
            let ask = Ask::get(target).header("last-event-id", &after.to_string());
            let told = engine.send(ask).await.stream().rest().await;
            assert_eq!(crate::support::sse::raw(&told), third.raw(), "{target} after {after}");
        }
    }
    let seen = follower.until(|f| f.id == third.last_id()).await;
    assert_eq!(crate::support::sse::raw(&seen), third.raw(), "the follower");
}

#[tokio::test]
async fn the_same_call_stays_refused_however_often_it_is_made() {
    let model = ScriptedModel::start(Script::from_fn(|r| {
        let answered = r.results().len();
        if answered == 14 {
            Reply::text("done")
        } else {
            Reply::new().tool_call("find", json!({"path": "."}))
        }
    }))
    .await;
    let engine = Setup::scripted(&model).start().await;
    let turn = engine.turn("r", "look").await;
    let results = turn.all("tool_result");
    let refused: Vec<bool> = results.iter().map(|f| f.data["reason"] == "repeated_call").collect();
    assert_eq!(refused, [[false; 5].as_slice(), [true; 9].as_slice()].concat());
}

#[tokio::test]
async fn an_output_that_looks_like_a_started_turn_ends_the_stream_all_the_same() {
    let model = ScriptedModel::start(Script::always(Reply::text("{\"phase\":\"started\"}"))).await;
    let engine = Setup::scripted(&model).start().await;
    let started = Instant::now();
    let body = json!({"task_id": "o", "message": "answer", "output_schema": {"type": "object"}});
    let turn = engine.run(body).await;
    assert_eq!(turn.last().data["output"], json!({"phase": "started"}));
    assert_eq!(turn.count("heartbeat"), 0);
    assert!(started.elapsed() < Duration::from_secs(5), "it took {:?}", started.elapsed());
}

#[tokio::test]
async fn turns_one_after_the_other_always_find_the_only_slot_free() {
    let engine = Setup::offline().with("ENGINE_TASK_SLOTS", "1").with("ENGINE_TASK_QUEUE", "0").start().await;
    for n in 0..TRIES {
        let message = if n % 4 == 0 { "run true" } else { "hello" };
        let turn = engine.turn(if n % 2 == 0 { "a" } else { "b" }, message).await;
        assert_eq!((turn.stop_reason(), &turn.0[0].data["queued"]), ("end_turn", &json!(false)), "turn {n}");
    }
}

#[tokio::test]
async fn with_a_token_budget_the_model_is_told_of_a_call_that_was_cut_off() {
    for protocol in Protocol::ALL {
        let model = ScriptedModel::start(Script::sequence([
            Reply::new().raw_tool_call("bash", "{\"command\": \"echo long").stop(Stop::Length),
            Reply::new().tool_call("bash", json!({"command": "echo short"})),
            Reply::text("done"),
        ]))
        .await;
        let engine = Setup::speaking(&model, protocol).with("TOKEN_BUDGET_ENABLED", "true").start().await;
        let turn = engine.turn("t", "write").await;
        assert_eq!((turn.stop_reason(), turn.text().as_str()), ("end_turn", "done"), "{protocol:?}");
        assert_eq!(turn.one("tool_result").data["output"]["stdout"], "short\n");
        let calls = model.calls();
        assert!(calls[1].last_user_text().contains("cut off"), "{protocol:?}: {}", calls[1].body);
        assert!(!calls[2].body.to_string().contains("cut off"), "{protocol:?}: told once too often");
        model.assert_no_problems();
    }
}

#[tokio::test]
async fn a_task_id_in_decomposed_form_is_answered_under_the_same_bytes() {
    let engine = Setup::offline().start().await;
    let task = "e\u{301}x";
    let mut stream = engine.execute(json!({"task_id": task, "message": "ask me your name"})).await;
    let mut frames = stream.until_event("hitl_request").await;
    engine.answer(json!({"task_id": task, "answer": "Ada"})).await;
    frames.extend(stream.rest().await);
    let turn = Turn::checked(frames, false);
    assert_eq!((turn.stop_reason(), turn.last().text("task_id")), ("end_turn", task));
}

#[tokio::test]
async fn with_too_many_open_streams_a_turn_is_refused_before_it_is_accepted() {
    const MOST: usize = 1024;
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut files = getrlimit(Resource::Nofile);
    files.current = Some(files.maximum.unwrap_or(8192).min(8192));
    setrlimit(Resource::Nofile, files).expect("more open files");
    let engine = Setup::offline().start().await;
    let request =
        format!("GET /execute/replay?follow=true HTTP/1.1\r\nhost: localhost\r\nx-engine-key: {KEY}\r\n\r\n");
    let mut open = Vec::new();
    for _ in 0..MOST {
        let mut socket = TcpStream::connect(("127.0.0.1", engine.port)).await.expect("the engine listens");
        socket.write_all(request.as_bytes()).await.expect("sent");
        open.push(socket);
    }
    for socket in &mut open {
        let mut head = [0; 12];
        soon("an answer", socket.read_exact(&mut head)).await.expect("an answer");
        assert_eq!(&head, b"HTTP/1.1 200");
    }
    let refused = engine.post("/execute", json!({"task_id": "late", "message": "hello"})).await;
    let refused = refused.error(503, "ENGINE_BUSY").await;
    assert_eq!(refused["details"]["reason"], "too_many_connections");
    engine.get("/tasks/late").await.error(404, "TASK_NOT_FOUND").await;
    drop(open);
    engine.until("/health", |h| h["activity"]["open_streams"] == 0).await;
    assert_eq!(engine.turn("late", "hello").await.stop_reason(), "end_turn");
}
