//! Context that never overflows: long tasks on a model with a small window, whatever goes wrong on the way.
//!
//! The provider here counts what it gets, more strictly than the Engine estimates, and refuses what does not fit as
//! the real ones do. Each request is looked at: turns in order and without gaps, the newest always there, the open
//! plan always there. That no call is parted from its result is checked by the scripted model itself.

mod pinned;
mod window;

use crate::support::sse::Turn;
use crate::support::{Engine, Setup, put_file};
use rusqlite::Connection;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use testbed::model::Stop;
use testbed::{Fault, Gate, Protocol, Reply, Script, ScriptedModel, SeenRequest};
use window::{Asked, Window};

/// What the plan of the long task is known by.
const GOAL: &str = "the-goal-that-is-pinned";
/// What is said in the first turn and must not be forgotten.
const FIRST: &str = "the-word-of-the-first-turn";

/// A number that looks random and is the same in every run.
fn dice(seed: usize) -> usize {
    let mut x = (seed as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d;
    x ^= x >> 29;
    x = x.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    ((x ^ (x >> 32)) & 0xffff_ffff) as usize
}

/// What the long task's model answers to the calls that fit. It remembers by itself how many steps of a turn it has
/// taken: they may have left the context.
fn long_task() -> impl Fn(&SeenRequest) -> Reply + Send + Sync + 'static {
    let taken: Mutex<BTreeMap<usize, usize>> = Mutex::default();
    move |request| {
        let mut steps = 0;
        if window::asked(request) == Asked::Main {
            let mut taken = taken.lock().unwrap_or_else(PoisonError::into_inner);
            let count = taken.entry(window::turn_of(&request.last_user_text()).0).or_default();
            steps = std::mem::replace(count, *count + 1);
        }
        answer(request, steps)
    }
}

fn answer(request: &SeenRequest, steps: usize) -> Reply {
    let luck = dice(request.number);
    match window::asked(request) {
        Asked::Summary => {
            let told = request.last_user_text();
            let first = if told.contains(FIRST) { FIRST } else { "" };
            // once something stands in a summary no failure may lose it
            match luck % 8 {
                _ if !told.contains("<summary>") => Reply::text(&format!("They began. {first}")),
                0 | 1 => Reply::status(500),
                2 => Reply::text(first).say_chunks(["far too long ".repeat(4000).as_str()]),
                3 => Reply::new(),
                4 => Reply::text("half of a su").fault(Fault::EndAfterFrames(2)),
                _ => Reply::text(&format!("They counted turns and read files. {first}")),
            }
        }
        Asked::Plan => {
            let step = json!({"id": "1", "title": "count on", "status": "open"});
            Reply::text(&json!({"goal": GOAL, "steps": [step]}).to_string())
        }
        Asked::Main => {
            let (turn, kind) = window::turn_of(&request.last_user_text());
            let file = format!("{}.txt", luck % 3);
            match (kind.as_str(), steps) {
                ("plan", 0) => Reply::new().tool_call("plan", json!({"goal": GOAL})),
                ("files", 0..=2) => Reply::new()
                    .say("Reading.")
                    .tool_call("read_file", json!({"path": file}))
                    .tool_call("read_file", json!({"path": "small.txt"})),
                ("write", 0..=2) => {
                    let content = format!("{turn} {luck} {}", "written ".repeat(900));
                    Reply::new().tool_call("write_file", json!({"path": "out.txt", "content": content}))
                }
                ("note", 0) => {
                    let key = format!("note-{}", turn % 12);
                    let value = "a fact to keep ".repeat(90);
                    Reply::new().tool_call("working_memory_write", json!({"key": key, "value": value}))
                }
                ("ask", 0) => Reply::new()
                    .tool_call("ask_user", json!({"question": format!("which, in turn {turn}?")}))
                    .tool_call("read_file", json!({"path": file})),
                ("talk", _) => {
                    let long = "and so on ".repeat(300);
                    Reply::text(&format!("said in {turn}: ")).say_chunks([long.as_str()])
                }
                _ => Reply::text(&format!("done {turn}")),
            }
        }
    }
}

fn kind(n: usize) -> &'static str {
    match n {
        3 => "plan",
        _ => ["talk", "files", "plain", "write", "note", "picture", "talk", "ask", "plain", "huge"]
            [if n % 50 == 49 { 9 } else { dice(n) % 9 }],
    }
}

async fn one_turn(engine: &Engine, n: usize, kind: &str) -> Turn {
    let picture = json!({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}});
    let more = match (n, kind) {
        (_, "huge") => "far more than fits ".repeat(6000),
        (0, _) => FIRST.to_owned(),
        _ => String::new(),
    };
    let mut body = json!({"task_id": "long", "message": format!("turn {n} {kind} {more}")});
    if kind == "picture" {
        body["media"] = json!([picture, picture]);
    }
    if kind != "ask" {
        return engine.run(body).await;
    }
    let mut stream = engine.execute(body).await;
    let mut frames = stream.until_event("hitl_request").await;
    if n.is_multiple_of(2) {
        engine.post("/execute/cancel", json!({"task_id": "long"})).await.ok().await;
    } else {
        let question = engine.pending().await;
        engine.answer(json!({"request_id": question["request_id"], "answer": "the first"})).await;
    }
    frames.extend(stream.rest().await);
    Turn::checked(frames, false)
}

fn small(setup: Setup) -> Setup {
    let setup = setup
        .with("LLM_CONTEXT_WINDOW", "14000")
        .with("MAX_TOKENS", "1000")
        .with("COMPACT_KEEP_TURNS", "4")
        .with("PLANNER_MODEL", "planner-1");
    for n in 0..3 {
        put_file(
            &setup.workspace(),
            &format!("{n}.txt"),
            &format!("line of file {n}\n").repeat(700 * (n + 1)),
        );
    }
    put_file(&setup.workspace(), "small.txt", "small");
    setup
}

fn expected(engine: &Engine) {
    engine.expect_log("The model call failed").expect_log("Old context could not be summarised");
}

/// What holds of the brain at the end, for a task of so many turns.
fn check_brain(setup: &Setup, turns: usize) {
    let brain = Connection::open(setup.brain()).expect("the brain");
    let number = |sql: &str| brain.query_row(sql, [], |r| r.get::<_, i64>(0)).expect("a number");
    let said = "SELECT count(*) FROM conversations WHERE role = 'user' AND status = 'active'";
    assert_eq!(number(said), i64::try_from(turns).expect("few"), "a question was lost");
    let rows = number("SELECT count(*) FROM compactions");
    assert_eq!(rows, number("SELECT count(*) FROM events WHERE event = 'compaction_event'"));
    assert_eq!(number("SELECT count(*) FROM compactions WHERE after_tokens >= before_tokens"), 0);
    for strategy in ["shrink", "summary", "truncate"] {
        let sql = format!("SELECT count(*) FROM compactions WHERE strategy = '{strategy}'");
        assert!(number(&sql) > 0, "{strategy} was never needed");
    }
    // originals are whole: what tools gave is as long as it was
    let long = "SELECT max(length(content_json)) FROM conversations WHERE role = 'tool'";
    assert!(number(long) > 20_000, "results were shortened in the brain");
}

async fn a_long_task(protocol: Protocol, turns: usize, kills: usize) {
    let window = Window::new(14_000);
    let model = ScriptedModel::start(window.script(Some(GOAL), long_task())).await;
    let setup = small(Setup::speaking(&model, protocol));
    let mut engine = setup.start().await;
    expected(&engine);
    for n in 0..turns {
        if kills > 0 && n % (turns / kills) == turns / kills / 2 {
            let body = json!({"task_id": "long", "message": format!("turn {n} files")});
            let mut stream = engine.execute(body).await;
            stream.until(|f| f.is("compaction_event") || f.is("tool_result")).await;
            engine.kill();
            engine = setup.start().await;
            expected(&engine);
            let task = engine.until("/tasks/long", |t| t["status"] == "idle").await;
            assert_eq!(task["last_turn"]["state"], "completed", "turn {n}: {task}");
            continue;
        }
        let kind = kind(n);
        let turn = one_turn(&engine, n, kind).await;
        if kind == "huge" {
            assert_eq!(turn.error()["error"], "CONTEXT_OVERFLOW", "turn {n} of {protocol:?}");
            continue;
        }
        let wanted = if kind == "ask" && n.is_multiple_of(2) { "cancelled" } else { "end_turn" };
        assert_eq!(turn.stop_reason(), wanted, "turn {n} {kind} of {protocol:?}");
    }
    let last = one_turn(&engine, turns, "plain").await;
    assert_eq!(last.stop_reason(), "end_turn", "after all of it");
    assert!(window.summary().contains(FIRST), "what was said first is forgotten: {}", window.summary());
    engine.kill();
    check_brain(&setup, turns + 1);
    window.assert_no_problems();
    assert!(window.refusals() > 0, "the provider never had to refuse");
    model.assert_no_problems();
}

#[tokio::test]
async fn a_task_of_500_turns_on_a_small_window_never_ends_in_context_overflow() {
    a_long_task(Protocol::OpenAi, 500, 4).await;
}

#[tokio::test]
async fn nor_does_it_with_the_other_providers() {
    for protocol in [Protocol::Anthropic, Protocol::Gemini] {
        a_long_task(protocol, 60, 1).await;
    }
}

#[tokio::test]
async fn a_window_far_smaller_than_configured_is_found_by_the_provider_s_refusals() {
    let window = Window::new(14_000);
    let model = ScriptedModel::start(window.script(None, long_task())).await;
    let setup =
        small(Setup::scripted(&model)).with("LLM_CONTEXT_WINDOW", "128000").with("MAX_TOKENS", "8192");
    let engine = setup.start().await;
    expected(&engine);
    let kinds = (0..30).map(kind).filter(|k| !["ask", "plan"].contains(k));
    for (n, kind) in kinds.enumerate() {
        assert_eq!(one_turn(&engine, n, kind).await.stop_reason(), "end_turn", "turn {n} {kind}");
    }
    window.assert_no_problems();
    model.assert_no_problems();
}

#[tokio::test]
async fn one_turn_of_many_steps_gives_up_its_oldest_steps_and_keeps_its_question() {
    for protocol in Protocol::ALL {
        let window = Window::new(12_000);
        let script = window.script(None, |request| {
            let done = request.messages.iter().filter(|m| m.role == "tool").count();
            if request.number >= 60 || window::asked(request) != Asked::Main {
                return Reply::text("all written");
            }
            assert!(done < 40, "nothing is given up");
            let content = format!("{} {}", request.number, "words ".repeat(700));
            Reply::new().tool_call("write_file", json!({"path": "out.txt", "content": content}))
        });
        let model = ScriptedModel::start(script).await;
        let setup = small(Setup::speaking(&model, protocol)).with("LLM_CONTEXT_WINDOW", "12000");
        let engine = setup.start().await;
        expected(&engine);
        let turn = engine.turn("a", "turn 0 write sixty times").await;
        assert_eq!((turn.stop_reason(), turn.text().as_str()), ("end_turn", "all written"), "{protocol:?}");
        assert!(turn.all("compaction_event").iter().all(|f| f.text("strategy") != "summary"));
        let after = engine.turn("a", "turn 1 plain").await;
        assert_eq!(after.stop_reason(), "end_turn");
        let told = model.calls().last().expect("a call").body.to_string();
        assert!(
            told.contains("turn 0 write sixty times"),
            "the question of a turn that is half given up is lost"
        );
        window.assert_no_problems();
        model.assert_no_problems();
    }
}

#[tokio::test]
async fn the_largest_results_are_shrunk_first_and_no_more_than_is_needed() {
    let model =
        ScriptedModel::start(Script::from_fn(|r| match (r.last_user_text().as_str(), r.results().len()) {
            ("read", 0) => Reply::new().tool_call("read_file", json!({"path": "0.txt"})).without_usage(),
            ("read", 1) => Reply::new().tool_call("read_file", json!({"path": "big.txt"})).without_usage(),
            ("read", 2) => {
                Reply::new().tool_call("read_file", json!({"path": "0.txt", "limit": 600})).without_usage()
            }
            _ => Reply::text("ok").without_usage(),
        }))
        .await;
    let setup = small(Setup::scripted(&model)).with("LLM_CONTEXT_WINDOW", "28000");
    put_file(&setup.workspace(), "big.txt", &"a line of the big file\n".repeat(1700));
    let engine = setup.start().await;
    let turn = engine.turn("a", "read").await;
    let shrunk = turn.all("compaction_event");
    assert_eq!((shrunk.len(), shrunk[0].text("strategy")), (1, "shrink"));
    let last = model.calls().last().expect("a call").results();
    let lengths: Vec<usize> = last.iter().map(|r| r.text.len()).collect();
    assert!(lengths[0] > 8000 && lengths[1] < 2000 && lengths[2] > 9000, "{lengths:?}");
    assert!(last[1].text.contains("the whole is stored with call-"), "{}", last[1].text);
    let brain = Connection::open(setup.brain()).expect("the brain");
    let row: (String, String) = brain
        .query_row("SELECT strategy, summary FROM compactions", [], |r| Ok((r.get(0)?, r.get(1)?)))
        .expect("one row");
    let marks: Value = serde_json::from_str(&row.1).expect("marks");
    assert_eq!((row.0.as_str(), marks.as_object().map(serde_json::Map::len)), ("shrink", Some(1)));
}

#[tokio::test]
async fn a_sub_agent_of_many_steps_never_overflows_either() {
    let window = Window::new(12_000);
    let script = window.script(None, |request| {
        let said = request.last_user_text();
        if said.starts_with("turn") {
            let done = request.messages.last().is_some_and(|m| m.role == "tool");
            let task = json!({"agent": "assistant", "task": "write much"});
            return if done { Reply::text("done") } else { Reply::new().tool_call("delegate", task) };
        }
        assert!(said.starts_with("write much"), "the sub-agent's task is lost: {said}");
        if request.number > 50 {
            return Reply::text("written");
        }
        let content = format!("{} {}", request.number, "words ".repeat(700));
        Reply::new().tool_call("write_file", json!({"path": "out.txt", "content": content}))
    });
    let model = ScriptedModel::start(script).await;
    let setup = small(Setup::scripted(&model)).with("LLM_CONTEXT_WINDOW", "12000");
    let engine = setup.start().await;
    expected(&engine);
    let turn = engine.turn("a", "turn 0 delegate").await;
    assert_eq!((turn.stop_reason(), turn.text().as_str()), ("end_turn", "done"));
    let events = turn.all("compaction_event");
    assert!(!events.is_empty() && events.iter().all(|f| f.data["parent_tool_call_id"].is_string()));
    window.assert_no_problems();
    model.assert_no_problems();
}

#[tokio::test]
async fn without_compaction_an_overflow_is_context_overflow_at_once() {
    let window = Window::new(14_000);
    let model = ScriptedModel::start(window.script(None, long_task())).await;
    let setup = small(Setup::scripted(&model)).with("REACTIVE_COMPACT_ENABLED", "false");
    let engine = setup.start().await;
    expected(&engine);
    let calls = |n| (0..n).map(|n| json!(format!("turn {n} talk")));
    let mut ended = Vec::new();
    for message in calls(12) {
        let turn = engine.run(json!({"task_id": "a", "message": message})).await;
        assert_eq!(turn.count("compaction_event"), 0);
        ended.push(turn.last().phase() == Some("errored"));
        if ended.last() == Some(&true) {
            assert_eq!(turn.error()["error"], "CONTEXT_OVERFLOW");
        }
    }
    assert!(!ended[0] && ended[11], "{ended:?}");
    assert_eq!(model.calls().len(), 12, "one call a turn");
}

#[tokio::test]
async fn working_memory_is_shown_as_it_is_now_after_a_compaction() {
    let model = ScriptedModel::start(Script::from_fn(|r| match (window::asked(r), r.results().len()) {
        (Asked::Main, 0) => Reply::new()
            .tool_call("working_memory_write", json!({"key": "k", "value": "canary-of-this-turn"}))
            .without_usage(),
        (Asked::Main, 1..=4) => Reply::new().tool_call("read_file", json!({"path": "2.txt"})).without_usage(),
        _ => Reply::text("ok").without_usage(),
    }))
    .await;
    let engine = small(Setup::scripted(&model)).start().await;
    let turn = engine.turn("a", "note and read").await;
    assert!(turn.count("compaction_event") > 0);
    let calls = model.calls();
    let question = |n: usize| {
        let list = &calls[n].messages;
        list.iter().find(|m| m.text().contains("note and read")).expect("the question").text()
    };
    assert!(!question(1).contains("canary-of-this-turn"), "rendered once per turn");
    let last = question(calls.len() - 1);
    assert!(last.contains("<working_memory>\nk: \"canary-of-this-turn\""), "{last}");
    model.assert_no_problems();
}

#[tokio::test]
async fn notes_larger_than_the_window_do_not_brick_a_task() {
    let window = Window::new(14_000);
    let model = ScriptedModel::start(window.script(None, |request| {
        let (turn, kind) = window::turn_of(&request.last_user_text());
        if kind != "note" || request.messages.last().is_some_and(|m| m.role == "tool") {
            return Reply::text("ok");
        }
        let write = |n: usize| json!({"key": format!("{turn}-{n}"), "value": "x".repeat(15_000)});
        (0..4).fold(Reply::new(), |reply, n| reply.tool_call("working_memory_write", write(n)))
    }))
    .await;
    let engine = small(Setup::scripted(&model)).start().await;
    expected(&engine);
    for n in 0..6 {
        assert_eq!(engine.turn("a", &format!("turn {n} note")).await.stop_reason(), "end_turn", "turn {n}");
    }
    assert_eq!(engine.turn("a", "turn 6 plain").await.stop_reason(), "end_turn");
    let told = model.calls().last().expect("a call").body.to_string();
    assert!(told.contains("notes left out"), "{}", told.len());
    window.assert_no_problems();
    model.assert_no_problems();
}

#[tokio::test]
async fn an_answer_cut_by_the_limit_goes_on_as_one_reply_when_the_token_budget_is_on() {
    for (enabled, reason) in [("true", "end_turn"), ("false", "max_tokens")] {
        let model = ScriptedModel::start(Script::from_fn(|r| {
            let parts = r.body["messages"].as_array().expect("messages").iter();
            let said: usize = parts.filter(|m| m["role"] == "assistant").count();
            match said {
                0 => Reply::text("one two ").stop(Stop::Length),
                _ if !r.body.to_string().contains("five") => {
                    let cut = Reply::text("three four five ").raw_tool_call("bash", "{\"command\": \"ec");
                    cut.stop(Stop::Length)
                }
                _ => Reply::text("six."),
            }
        }))
        .await;
        let setup = Setup::scripted(&model).with("TOKEN_BUDGET_ENABLED", enabled);
        let engine = setup.start().await;
        let turn = engine.turn("a", "count").await;
        assert_eq!(turn.stop_reason(), reason);
        if enabled == "false" {
            assert_eq!(turn.text(), "one two ");
            continue;
        }
        assert_eq!((turn.text().as_str(), turn.count("tool_call")), ("one two three four five six.", 0));
        assert_eq!(turn.count("usage"), 3);
        let last = model.calls().last().expect("a call").body.to_string();
        assert!(last.contains("was cut off by the output limit"), "{last}");
        let stored = engine.json("/tasks/a/messages").await;
        assert_eq!(stored["messages"][1]["content"][0]["text"], "one two three four five six.");
        model.assert_no_problems();
    }
}

#[tokio::test]
async fn the_token_budget_has_an_end() {
    let model = ScriptedModel::start(Script::always(Reply::text("on ").stop(Stop::Length))).await;
    let setup = Setup::scripted(&model).with("TOKEN_BUDGET_ENABLED", "true");
    let engine = setup.with("TOKEN_BUDGET_MAX_CONTINUATIONS", "3").start().await;
    let turn = engine.turn("a", "count").await;
    assert_eq!(
        (turn.stop_reason(), turn.text().as_str(), model.calls().len()),
        ("max_tokens", "on on on on ", 4)
    );
}

#[tokio::test]
async fn tokens_a_provider_has_counted_are_recorded_though_the_call_is_cancelled_or_breaks() {
    let gate = Gate::new();
    let held = Reply::text("so far ").hold(&gate).say("never").usage(321, 9, 0);
    let broken = Reply::text(&"so far ".repeat(50)).usage(123, 9, 0).fault(Fault::EndAfterFrames(9));
    let model = ScriptedModel::start(Script::from_fn(move |r| match r.last_user_text().as_str() {
        "hold" => held.clone(),
        _ => broken.clone(),
    }))
    .await;
    let engine = Setup::speaking(&model, Protocol::Anthropic).start().await;
    expected(&engine);
    let mut stream = engine.execute(json!({"task_id": "a", "message": "hold"})).await;
    let mut frames = stream.until_event("text_delta").await;
    engine.post("/execute/cancel", json!({"task_id": "a"})).await.ok().await;
    frames.extend(stream.rest().await);
    let cancelled = Turn::checked(frames, false);
    assert_eq!(cancelled.stop_reason(), "cancelled");
    assert_eq!(cancelled.one("usage").data["input_tokens"], 321);
    let failed = engine.turn("a", "break").await;
    assert_eq!(failed.error()["error"], "LLM_PROVIDER_ERROR");
    assert_eq!(failed.one("usage").data["input_tokens"], 123);
    let usage = engine.json("/usage").await;
    assert_eq!(
        (&usage["total"]["calls"], &usage["total"]["input_tokens"]),
        (&json!(2), &json!(444)),
        "{usage}"
    );
}

#[tokio::test]
async fn a_turn_that_pays_for_its_prompt_again_and_again_is_alerted() {
    for (cached, enabled, alerts) in [(1000, "true", 1), (9000, "true", 0), (0, "false", 0)] {
        let model = ScriptedModel::start(Script::from_fn(move |r| match r.results().len() {
            0..=2 => Reply::new().tool_call("read_file", json!({"path": "small.txt"})).usage(9000, 5, cached),
            _ => Reply::text("ok").usage(9000, 5, cached),
        }))
        .await;
        let setup = small(Setup::scripted(&model))
            .with("LLM_CONTEXT_WINDOW", "100000")
            .with("CACHE_HIT_MONITOR_ENABLED", enabled);
        let engine = setup.start().await;
        engine.turn("a", "read thrice").await;
        engine.log_line(|l| l["message"] == "Finished execution").await;
        // whatever the watch writes is written before the slot is given back
        engine.turn("b", "turn").await;
        engine.kill();
        let brain = Connection::open(setup.brain()).expect("the brain");
        let sql = "SELECT count(*), max(data_json) FROM observability_events WHERE kind = 'cache_hit_ratio_alert' AND task_id = 'a'";
        let (count, data): (i64, Option<String>) =
            brain.query_row(sql, [], |r| Ok((r.get(0)?, r.get(1)?))).expect("a count");
        assert_eq!(count, alerts, "{cached} {enabled}");
        if alerts == 1 {
            let data: Value = serde_json::from_str(&data.expect("facts")).expect("JSON");
            assert_eq!((&data["calls"], &data["input_tokens"]), (&json!(4), &json!(36_000)));
        }
    }
}
