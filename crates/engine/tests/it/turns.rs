//! How a turn's loop ends, how its context is kept small, and what happens when requests race.

use crate::hitl::calls;
use crate::support::http::Ask;
use crate::support::sse::Turn;
use crate::support::{Setup, put_file, soon};
use crate::tasks::holding;
use serde_json::json;
use std::collections::BTreeSet;
use testbed::model::Stop;
use testbed::{Gate, Protocol, Reply, Script, ScriptedModel};

#[tokio::test]
async fn the_provider_s_stop_reason_is_the_turn_s() {
    for protocol in Protocol::ALL {
        for (stop, word) in
            [(Stop::End, "end_turn"), (Stop::Length, "max_tokens"), (Stop::Refusal, "refusal")]
        {
            let model = ScriptedModel::start(Script::always(Reply::text("some words").stop(stop))).await;
            let engine = Setup::speaking(&model, protocol).start().await;
            assert_eq!(engine.turn("a", "hi").await.stop_reason(), word, "{protocol:?}");
            assert_eq!(engine.json("/tasks/a").await["last_turn"]["stop_reason"], word);
            model.assert_no_problems();
        }
    }
}

#[tokio::test]
async fn with_a_token_budget_a_cut_answer_goes_on_as_one_reply() {
    for protocol in Protocol::ALL {
        let model = ScriptedModel::start(Script::sequence([
            Reply::text("one two ").stop(Stop::Length),
            Reply::text("three four ").stop(Stop::Length),
            Reply::text("five"),
        ]))
        .await;
        let engine = Setup::speaking(&model, protocol).with("TOKEN_BUDGET_ENABLED", "true").start().await;
        let turn = engine.turn("a", "count").await;
        assert_eq!((turn.text().as_str(), turn.stop_reason()), ("one two three four five", "end_turn"));
        let messages = engine.json("/tasks/a/messages").await;
        assert_eq!(messages["messages"][1]["content"][0]["text"], "one two three four five", "{messages}");
        model.assert_no_problems();
    }
}

#[tokio::test]
async fn after_the_last_iteration_a_closing_answer_is_asked_for() {
    let model = ScriptedModel::start(Script::from_fn(|r| {
        if r.last_user_text().contains("limit of steps") {
            return Reply::text("This is how far I came.");
        }
        Reply::new().tool_call("bash", json!({"command": format!("echo {}", r.number)}))
    }))
    .await;
    let engine = Setup::scripted(&model).with("AGENT_MAX_ITERATIONS", "3").start().await;
    let turn = engine.turn("a", "dig").await;
    assert_eq!((turn.text().as_str(), turn.stop_reason()), ("This is how far I came.", "max_iterations"));
    assert_eq!(turn.count("tool_call"), 3);
    model.assert_no_problems();
}

#[tokio::test]
async fn more_than_64_calls_in_one_message_are_not_all_run() {
    let many =
        (0..70).fold(Reply::new(), |r, n| r.tool_call("bash", json!({"command": format!("echo {n}")})));
    let model = ScriptedModel::start(Script::sequence([many, Reply::text("done")])).await;
    let engine = Setup::scripted(&model).start().await;
    let turn = engine.turn("a", "go").await;
    let refused = turn.all("tool_result").iter().filter(|f| f.data["reason"] == "too_large").count();
    assert_eq!((turn.count("tool_result"), refused), (70, 6));
    assert_eq!(model.calls()[1].results().len(), 70);
    model.assert_no_problems();
}

#[tokio::test]
async fn a_long_output_is_shortened_for_the_model_and_kept_whole() {
    let model = calls("bash", json!({"command": "seq 1 100000"})).await;
    let engine = Setup::scripted(&model).with("TOOL_OUTPUT_MAX_BYTES", "4096").start().await;
    let turn = engine.turn("a", "count").await;
    let result = turn.one("tool_result");
    assert_eq!(result.data["truncated"], true);
    assert!(result.data["blob"].as_str().is_some_and(|b| b.len() == 64), "{}", result.raw);
    let told = model.calls()[1].results()[0].text.clone();
    assert!(told.len() < 10_000 && told.contains("100000"), "{}", told.len());
    model.assert_no_problems();
}

#[tokio::test]
async fn a_long_conversation_is_compacted_and_can_always_go_on() {
    for protocol in Protocol::ALL {
        let long = "word ".repeat(700);
        let model = ScriptedModel::start(Script::from_fn(move |r| {
            let summary = r.tools.is_empty();
            if summary { Reply::text("They counted.") } else { Reply::text(&long).without_usage() }
        }))
        .await;
        let engine = Setup::speaking(&model, protocol)
            .with("LLM_CONTEXT_WINDOW", "14000")
            .with("COMPACT_KEEP_TURNS", "3")
            .with("MAX_TOKENS", "500")
            .start()
            .await;
        let mut strategies = BTreeSet::new();
        for n in 0..12 {
            let turn = engine.turn("a", &format!("turn {n}")).await;
            assert_eq!(turn.stop_reason(), "end_turn", "{protocol:?} {n}");
            for event in turn.all("compaction_event") {
                strategies.insert(event.text("strategy").to_owned());
                let (before, after) = (&event.data["before_tokens"], &event.data["after_tokens"]);
                assert!(before.as_u64() > after.as_u64(), "{}", event.raw);
            }
        }
        assert!(strategies.contains("summary"), "{strategies:?}");
        let last = model.calls().last().expect("a call").body.to_string();
        assert!(
            last.contains("They counted.") && last.contains("turn 11") && !last.contains("turn 1 "),
            "{last}"
        );
        let messages = engine.json("/tasks/a/messages").await;
        let list = messages["messages"].as_array().expect("messages");
        assert_eq!((list.len(), &list[0]["compacted"]), (24, &json!(true)), "originals stay");
        assert_eq!(list[23]["compacted"], false);
        model.assert_no_problems();
    }
}

#[tokio::test]
async fn large_tool_results_are_shrunk_and_never_parted_from_their_calls() {
    for protocol in Protocol::ALL {
        let model = ScriptedModel::start(Script::from_fn(|r| {
            let done = r.messages.iter().filter(|m| m.role == "tool").count();
            if done >= 6 || r.tools.is_empty() {
                return Reply::text("read").without_usage();
            }
            let path = format!("{}.txt", r.number);
            Reply::new().tool_call("read_file", json!({"path": path})).without_usage()
        }))
        .await;
        let setup =
            Setup::speaking(&model, protocol).with("LLM_CONTEXT_WINDOW", "16000").with("MAX_TOKENS", "500");
        for n in 0..12 {
            put_file(&setup.workspace(), &format!("{n}.txt"), &"some line of text\n".repeat(900));
        }
        let engine = setup.start().await;
        let turn = engine.turn("a", "read all").await;
        assert_eq!(turn.stop_reason(), "end_turn", "{protocol:?}");
        assert!(turn.all("compaction_event").iter().any(|f| f.text("strategy") == "shrink"), "{protocol:?}");
        model.assert_no_problems();
    }
}

#[tokio::test]
async fn equal_requests_at_the_same_time_with_one_key_make_one_turn() {
    let model = ScriptedModel::start(Script::always(Reply::text("once"))).await;
    let engine = Setup::scripted(&model).start().await;
    let body = json!({"task_id": "a", "message": "go"});
    let ask = || Ask::post("/execute", &body).header("idempotency-key", "same");
    let turns = futures::future::join_all(
        (0..12).map(|_| async { engine.send(ask()).await.stream().finish().await.raw() }),
    )
    .await;
    assert!(turns.iter().all(|t| *t == turns[0]), "{turns:#?}");
    assert_eq!(model.calls().len(), 1);
}

#[tokio::test]
async fn of_different_requests_at_the_same_time_one_task_takes_one() {
    let gate = Gate::new();
    let model = holding(&gate).await;
    let engine = Setup::scripted(&model).start().await;
    let answers = futures::future::join_all(
        (0..12).map(|_| engine.post("/execute", json!({"task_id": "a", "message": "hold"}))),
    )
    .await;
    let mut streams = Vec::new();
    for answer in answers {
        if answer.status == 200 {
            streams.push(answer.stream());
        } else {
            answer.error(409, "TASK_BUSY").await;
        }
    }
    assert_eq!(streams.len(), 1);
    gate.open();
    streams.remove(0).finish().await;
}

#[tokio::test]
async fn a_cancel_at_any_moment_leaves_a_task_that_goes_on() {
    let model = ScriptedModel::start(Script::from_fn(|r| {
        let answered = r.messages.last().is_some_and(|m| !m.results.is_empty());
        let pause = std::time::Duration::from_millis(2);
        if answered || r.last_user_text().contains("fine") {
            return Reply::text("some words that take a moment").pace(pause);
        }
        Reply::new()
            .say("let me look")
            .tool_call("bash", json!({"command": "sleep 0.05; echo a"}))
            .tool_call("bash", json!({"command": "echo b"}))
            .pace(pause)
    }))
    .await;
    let engine = Setup::scripted(&model).start().await;
    for n in 0..40_usize {
        let mut stream = engine.execute(json!({"task_id": "a", "message": format!("go {n}")})).await;
        let mut frames = Vec::new();
        for _ in 0..=n / 2 {
            frames.extend(stream.next().await);
        }
        engine.post("/execute/cancel", json!({"task_id": "a"})).await.ok().await;
        frames.extend(stream.rest().await);
        let turn = Turn::checked(frames, false);
        assert!(["cancelled", "end_turn"].contains(&turn.stop_reason()), "{}", turn.stop_reason());
    }
    assert_eq!(engine.turn("a", "fine?").await.stop_reason(), "end_turn");
    model.assert_no_problems();
}

#[tokio::test]
async fn a_busy_or_paused_task_refuses_edits_and_retries_too() {
    let gate = Gate::new();
    let model = holding(&gate).await;
    let engine = Setup::scripted(&model).start().await;
    let first = engine.turn("a", "hello").await.user_message();
    let mut stream = engine.execute(json!({"task_id": "a", "message": "hold"})).await;
    stream.until_event("text_delta").await;
    for field in ["edit_message_id", "retry_message_id"] {
        let mut body = json!({"task_id": "a", "message": "x"});
        body[field] = json!(first);
        engine.post("/execute", body).await.error(409, "TASK_BUSY").await;
    }
    gate.open();
    stream.rest().await;
}

#[tokio::test]
async fn a_retry_of_a_message_with_a_picture_sends_the_picture_again() {
    let model = ScriptedModel::start(Script::always(Reply::text("seen"))).await;
    let engine = Setup::scripted(&model).start().await;
    let picture = json!({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}});
    let first = engine.run(json!({"task_id": "a", "message": "look", "media": [picture]})).await;
    engine.run(json!({"task_id": "a", "message": "", "retry_message_id": first.user_message()})).await;
    let calls = model.calls();
    assert_eq!(calls[0].body["messages"], calls[1].body["messages"]);
    model.assert_no_problems();
}

#[tokio::test]
async fn working_memory_is_shown_to_later_turns_and_can_be_deleted() {
    let model = ScriptedModel::start(Script::from_fn(|r| {
        let write = |value| Reply::new().tool_call("working_memory_write", value);
        match (r.last_user_text().as_str(), r.messages.last().is_some_and(|m| !m.results.is_empty())) {
            ("set", false) => write(json!({"key": "k", "value": "canary-note"})),
            ("long", false) => write(json!({"key": "long", "value": "y".repeat(10_000)})),
            ("delete", false) => write(json!({"key": "k"})),
            _ => Reply::text("ok"),
        }
    }))
    .await;
    let engine = Setup::scripted(&model).start().await;
    let set = engine.turn("a", "set").await;
    assert_eq!(set.one("working_memory_update").text("op"), "set");
    engine.turn("a", "look").await;
    let told = model.calls().last().expect("a call").messages.last().expect("a message").text();
    assert!(
        told.contains("<working_memory>") && told.contains("canary-note") && told.ends_with("look"),
        "{told}"
    );
    let long = engine.turn("a", "long").await;
    let update = long.one("working_memory_update");
    assert!(update.data["truncated"] == true && update.raw.len() < 6000, "{}", update.raw.len());
    let delete = engine.turn("a", "delete").await;
    let update = delete.one("working_memory_update");
    assert_eq!((update.text("op"), update.data["value"].is_null()), ("delete", true));
    engine.turn("b", "look").await;
    let other = model.calls().last().expect("a call").body.to_string();
    assert!(!other.contains("canary-note"), "another task's note");
    model.assert_no_problems();
}

#[tokio::test]
async fn a_slow_reader_does_not_slow_the_turn() {
    let long = "a rather long word ".repeat(30_000);
    let whole = long.clone();
    let model =
        ScriptedModel::start(Script::from_fn(move |_| Reply::new().say_chunks([long.as_str(); 20]))).await;
    // an answer may bring 32 bytes for each of its tokens
    let setup = Setup::scripted(&model).with("MAX_TOKENS", "500000").with("LLM_CONTEXT_WINDOW", "2000000");
    let engine = setup.start().await;
    // never read until the turn is over: more than any socket holds
    let slow = engine.execute(json!({"task_id": "a", "message": "much"})).await;
    engine.until("/tasks/a", |t| t["status"] == "idle").await;
    assert_eq!(engine.turn("b", "hello").await.stop_reason(), "end_turn");
    let read = soon("the slow reader's end", slow.finish()).await;
    assert_eq!(read.text().len(), whole.len() * 20);
}
