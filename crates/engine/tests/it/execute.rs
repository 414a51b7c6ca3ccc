//! POST /execute: the events of a turn, tools in the loop, edit and retry, structured output, and what a
//! failing provider makes of a turn.

mod failures;

use crate::support::http::Ask;
use crate::support::sse::Turn;
use crate::support::{Setup, put_file};
use base64::Engine as _;
use serde_json::{Value, json};
use testbed::{Protocol, Reply, Script, ScriptedModel};

#[tokio::test]
async fn a_turn_streams_started_first_and_completed_last_and_the_next_one_knows_it() {
    let model = ScriptedModel::start(Script::sequence([
        Reply::text("Hello, I am listening.").usage(50, 7, 3),
        Reply::text("You said hello."),
    ]))
    .await;
    let engine = Setup::scripted(&model).start().await;
    let first = engine.turn("demo-1", "Hello there").await;
    assert_eq!((first.text().as_str(), first.stop_reason()), ("Hello, I am listening.", "end_turn"));
    assert_eq!(first.0[0].data["queued"], false);
    assert_eq!(first.0[0].data["agent"], "assistant");
    let usage = first.one("usage");
    let tokens = ["input_tokens", "output_tokens", "cache_hit_tokens"].map(|f| usage.data[f].as_u64());
    assert_eq!(tokens, [Some(50), Some(7), Some(3)]);
    assert_eq!(usage.data["purpose"], "main");
    let second = engine.turn("demo-1", "What did I say?").await;
    assert!(second.0[0].id > first.last_id());
    let told = &model.calls()[1];
    let texts: Vec<String> = told.messages.iter().map(|m| m.text()).collect();
    assert!(texts[0].contains("Hello there") && texts[1].contains("I am listening"), "{texts:?}");
    model.assert_no_problems();
}

#[tokio::test]
async fn all_fourteen_events_are_seen() {
    let long = "the quick brown fox ".repeat(400);
    let model = ScriptedModel::start(Script::from_fn(move |request| {
        // a summary is asked for without tools
        if request.tools.is_empty() {
            return Reply::text("They talked about a fox.");
        }
        let asked = request.last_user_text();
        let results = request.messages.last().map_or(0, |m| m.results.len());
        match (asked.as_str(), results) {
            ("work", 0) => Reply::new()
                .think("let me see", "proof")
                .tool_call("working_memory_write", json!({"key": "goal", "value": "fox"}))
                .tool_call("ask_user", json!({"question": "Which fox?"})),
            ("fail", _) => Reply::status(500),
            ("long", _) => Reply::text(&long),
            _ => Reply::text("done"),
        }
    }))
    .await;
    let engine = Setup::speaking(&model, Protocol::Anthropic)
        .with("ENGINE_HEARTBEAT_INTERVAL_S", "1")
        .with("LLM_CONTEXT_WINDOW", "12000")
        .with("MAX_TOKENS", "1000")
        .with("COMPACT_KEEP_TURNS", "1")
        .start()
        .await;
    engine.expect_log("The model call failed");
    let mut stream =
        engine.execute(json!({"task_id": "all", "message": "work", "super_thinking": true})).await;
    let mut frames = stream.until_event("heartbeat").await;
    let question = engine.pending().await;
    engine.answer(json!({"request_id": question["request_id"], "answer": "the red one"})).await;
    frames.extend(stream.rest().await);
    let mut seen = Turn::checked(frames, true).0;
    for _ in 0..4 {
        seen.extend(engine.turn("all", "long").await.0);
    }
    seen.extend(engine.turn("all", "fail").await.0);
    for name in contract::event::EventName::ALL {
        assert!(seen.iter().any(|f| f.is(name.as_str())), "{} was never sent", name.as_str());
    }
    for frame in seen.iter().filter(|f| f.is("compaction_event")) {
        assert!(frame.data["before_tokens"].as_u64() > frame.data["after_tokens"].as_u64(), "{}", frame.raw);
    }
    model.assert_no_problems();
}

#[tokio::test]
async fn thinking_is_streamed_only_when_it_was_asked_for() {
    for protocol in Protocol::ALL {
        let reply = Reply::new().think("because of this", "proof").say("So it is.");
        let model = ScriptedModel::start(Script::always(reply)).await;
        let engine = Setup::speaking(&model, protocol).start().await;
        let quiet = engine.turn("a", "why?").await;
        assert_eq!((quiet.count("thinking_delta"), quiet.text().as_str()), (0, "So it is."), "{protocol:?}");
        let loud = engine.run(json!({"task_id": "b", "message": "why?", "super_thinking": true})).await;
        assert!(loud.count("thinking_delta") > 0, "{protocol:?}");
        model.assert_no_problems();
    }
}

#[tokio::test]
async fn parallel_calls_finish_in_any_order_and_keep_call_order_in_the_context() {
    for protocol in Protocol::ALL {
        let model = ScriptedModel::start(Script::sequence([
            Reply::new()
                .say("Looking.")
                .tool_call("bash", json!({"command": "until test -e go; do sleep 0.01; done; echo one"}))
                .tool_call("bash", json!({"command": "echo two"}))
                .tool_call("read_file", json!({"path": "note.txt"})),
            Reply::text("All read."),
        ]))
        .await;
        let setup = Setup::speaking(&model, protocol);
        put_file(&setup.workspace(), "note.txt", "three\n");
        let engine = setup.start().await;
        let mut stream = engine.execute(json!({"task_id": "demo", "message": "look"})).await;
        let mut frames = stream.until_event("tool_result").await;
        frames.extend(stream.until_event("tool_result").await);
        put_file(&engine.setup.workspace(), "go", "");
        frames.extend(stream.rest().await);
        let turn = Turn::checked(frames, false);
        assert_eq!((turn.text().as_str(), turn.count("usage")), ("Looking.All read.", 2), "{protocol:?}");
        let results: Vec<String> = model.calls()[1].results().into_iter().map(|r| r.text).collect();
        assert_eq!(results.len(), 3, "{protocol:?}");
        for (result, word) in results.iter().zip(["one", "two", "three"]) {
            assert!(result.contains(word), "{protocol:?}: {results:?}");
        }
        let calls: Vec<&str> = turn.all("tool_call").iter().map(|f| f.text("tool_call_id")).collect();
        let ends: Vec<&str> = turn.all("tool_result").iter().map(|f| f.text("tool_call_id")).collect();
        assert_eq!(ends[2], calls[0], "results are not sent as they finish");
        model.assert_no_problems();
    }
}

#[tokio::test]
async fn a_call_that_cannot_be_run_is_answered_with_the_reason() {
    let same = || Reply::new().tool_call("bash", json!({"command": "echo same"}));
    let mut replies = vec![
        Reply::new()
            .tool_call("no_such_tool", json!({"a": 1}))
            .tool_call("bash", json!({"command": 5}))
            .tool_call("bash", json!({"command": "ls", "surprise": true}))
            .raw_tool_call("bash", "{\"command\": \"ls")
            .raw_tool_call("bash", "[1]"),
    ];
    replies.extend((0..6).map(|_| same()));
    replies.push(Reply::text("I give up."));
    let model = ScriptedModel::start(Script::sequence(replies)).await;
    let engine = Setup::scripted(&model).start().await;
    let turn = engine.turn("demo", "try").await;
    let reasons: Vec<&str> = turn.0.iter().filter_map(|f| f.data["reason"].as_str()).collect();
    let mut firsts = reasons[..5].to_vec();
    firsts.sort_unstable();
    assert_eq!(firsts, ["invalid_input", "invalid_input", "invalid_input", "invalid_input", "not_found"]);
    assert_eq!(reasons[5..], ["repeated_call"], "the sixth equal call is not run");
    assert_eq!(turn.stop_reason(), "end_turn");
    model.assert_no_problems();
}

#[tokio::test]
async fn edit_replaces_a_message_and_retry_runs_it_again() {
    let model = ScriptedModel::start(Script::from_fn(|r| Reply::text(&r.last_user_text()))).await;
    let engine = Setup::scripted(&model).start().await;
    let first = engine.turn("demo", "one").await;
    engine.turn("demo", "two").await;
    let retried =
        engine.run(json!({"task_id": "demo", "message": "", "retry_message_id": first.user_message()})).await;
    assert_eq!((retried.text().as_str(), retried.user_message()), ("one", first.user_message()));
    let texts = |list: &Value| -> Vec<String> {
        let messages = list["messages"].as_array().expect("messages").iter();
        messages.map(|m| m["content"][0]["text"].as_str().unwrap_or_default().to_owned()).collect()
    };
    assert_eq!(texts(&engine.json("/tasks/demo/messages").await), ["one", "one"]);
    let edited = engine
        .run(json!({"task_id": "demo", "message": "uno", "edit_message_id": first.user_message()}))
        .await;
    assert_eq!(edited.text(), "uno");
    assert_ne!(edited.user_message(), first.user_message());
    let present = engine.json("/tasks/demo/messages").await;
    assert_eq!(texts(&present), ["uno", "uno"]);
    let every = engine.json("/tasks/demo/messages?include=superseded").await;
    assert_eq!(texts(&every), ["one", "one", "two", "two", "one", "uno", "uno"]);
    let told: Vec<String> = model.calls().last().expect("a call").messages.iter().map(|m| m.text()).collect();
    assert!(told.iter().all(|t| !t.contains("one") && !t.contains("two")), "{told:?}");

    let unknown = |task: &str, field: &str, id: &str| {
        let mut body = json!({"task_id": task, "message": "x"});
        body[field] = json!(id);
        body
    };
    let assistant = present["messages"][1]["message_id"].as_str().expect("an id").to_owned();
    for field in ["edit_message_id", "retry_message_id"] {
        let known = edited.user_message();
        engine.post("/execute", unknown("nowhere", field, &known)).await.error(404, "TASK_NOT_FOUND").await;
        for id in ["msg-0196", "nonsense", &assistant, &first.user_message()] {
            engine.post("/execute", unknown("demo", field, id)).await.error(404, "NOT_FOUND").await;
        }
    }
    let both = json!({"task_id": "demo", "message": "x", "edit_message_id": "a", "retry_message_id": "b"});
    engine.post("/execute", both).await.error(422, "VALIDATION_ERROR").await;
    model.assert_no_problems();
}

#[tokio::test]
async fn a_valid_structured_answer_comes_parsed_on_completed() {
    for protocol in Protocol::ALL {
        let model = ScriptedModel::start(Script::sequence([
            Reply::new().tool_call("bash", json!({"command": "echo 7"})),
            Reply::text("{\"n\": 7}"),
        ]))
        .await;
        let engine = Setup::speaking(&model, protocol).start().await;
        let turn = engine.run(json!({"task_id": "s", "message": "count", "output_schema": schema()})).await;
        assert_eq!(turn.last().data["output"], json!({"n": 7}), "{protocol:?}");
        assert_eq!(turn.text(), "{\"n\": 7}");
        model.assert_no_problems();
    }
}

fn schema() -> Value {
    json!({
        "type": "object",
        "properties": {"n": {"type": "integer"}},
        "required": ["n"],
        "additionalProperties": false,
    })
}

#[tokio::test]
async fn an_invalid_structured_answer_is_repaired_and_shown_once() {
    for protocol in Protocol::ALL {
        let model = ScriptedModel::start(Script::sequence([
            Reply::text("seven"),
            Reply::text("{\"n\": \"seven\"}"),
            Reply::text("{\"n\": 7}"),
        ]))
        .await;
        let engine = Setup::speaking(&model, protocol).start().await;
        let turn = engine.run(json!({"task_id": "s", "message": "count", "output_schema": schema()})).await;
        assert_eq!(turn.last().data["output"], json!({"n": 7}), "{protocol:?}");
        assert_eq!(turn.text(), "{\"n\": 7}", "{protocol:?}");
        assert_eq!(turn.count("usage"), 3);
        let messages = engine.json("/tasks/s/messages").await;
        assert_eq!(messages["messages"].as_array().map(Vec::len), Some(2), "{messages}");
        model.assert_no_problems();
    }
}

#[tokio::test]
async fn a_structured_answer_that_stays_invalid_is_validation_error_and_the_next_turn_goes_on() {
    let answer = |text: &str| if text.ends_with("hello") { "fine" } else { "not json" };
    let model =
        ScriptedModel::start(Script::from_fn(move |r| Reply::text(answer(&r.last_user_text())))).await;
    let engine = Setup::scripted(&model).start().await;
    let turn = engine.run(json!({"task_id": "s", "message": "count", "output_schema": schema()})).await;
    assert_eq!(turn.error()["error"], "VALIDATION_ERROR");
    assert_eq!(turn.count("usage"), 3);
    assert_eq!(engine.turn("s", "hello").await.text(), "fine");
    model.assert_no_problems();
}

#[tokio::test]
async fn a_schema_that_cannot_be_used_is_refused_before_the_turn() {
    let engine = Setup::offline().start().await;
    let deep = (0..40).fold(json!({}), |inner, _| json!({"properties": {"a": inner}}));
    for schema in [
        json!({"type": "no-such-type"}),
        json!({"$ref": "https://example.com/schema.json"}),
        deep,
        crate::assets::doubling(),
        json!({"anyOf": [{"$ref": "#"}, {"$ref": "#"}]}),
        json!({"properties": {"x": {"pattern": "(a)\\1"}}}),
        json!({"description": "x".repeat(70_000)}),
    ] {
        let body = json!({"task_id": "s", "message": "x", "output_schema": schema});
        let error = engine.post("/execute", body).await.error(422, "VALIDATION_ERROR").await;
        assert_eq!(error["details"]["field"], "output_schema", "{error}");
    }
    engine.get("/tasks/s").await.error(404, "TASK_NOT_FOUND").await;
}

#[tokio::test]
async fn an_answer_that_is_too_much_for_its_schema_is_told_and_the_turn_ends() {
    let itself = json!({"$ref": "#"});
    let branching = json!({"type": "object", "properties": {"x": {"anyOf": [itself, itself]}}});
    let deep = (0..80).fold(json!({}), |inner, _| json!({"x": inner})).to_string();
    let model =
        ScriptedModel::start(Script::sequence([Reply::text(&deep), Reply::text("{\"x\": {}}")])).await;
    let engine = Setup::scripted(&model).start().await;
    let turn = engine.run(json!({"task_id": "s", "message": "count", "output_schema": branching})).await;
    assert_eq!(turn.last().data["output"], json!({"x": {}}));
    assert!(
        model.calls()[1]
            .messages
            .last()
            .expect("a message")
            .text()
            .contains("too large or too deeply nested")
    );
    model.assert_no_problems();
}

#[tokio::test]
async fn context_reaches_the_model_as_a_data_block_and_not_the_title() {
    let model = ScriptedModel::start(Script::always(Reply::text("ok"))).await;
    let engine = Setup::scripted(&model).start().await;
    engine.run(json!({"task_id": "c", "message": "use it", "context": {"city": "Łódź"}})).await;
    let told = model.calls()[0].messages.last().expect("a message").text();
    assert!(told.contains("<context>") && told.contains("{\"city\":\"Łódź\"}"), "{told}");
    assert_eq!(engine.json("/tasks/c").await["title"], "use it");
    let large = json!({"task_id": "c", "message": "x", "context": {"a": "x".repeat(300_000)}});
    engine.post("/execute", large).await.error(400, "INVALID_REQUEST").await;
    model.assert_no_problems();
}

const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\x06\0\0\0\x1f\x15\xc4\x89";

fn image(media_type: &str, data: &str) -> Value {
    json!({"type": "image", "source": {"type": "base64", "media_type": media_type, "data": data}})
}

#[tokio::test]
async fn a_picture_reaches_the_provider_and_is_stored_once_by_reference() {
    let data = base64::engine::general_purpose::STANDARD.encode(PNG);
    for protocol in Protocol::ALL {
        let model = ScriptedModel::start(Script::always(Reply::text("A dot."))).await;
        let engine = Setup::speaking(&model, protocol).start().await;
        let body = json!({"task_id": "m", "message": "", "media": [image("image/png", &data)]});
        assert_eq!(engine.run(body).await.text(), "A dot.", "{protocol:?}");
        engine.turn("m", "and now?").await;
        for call in model.calls() {
            assert!(call.body.to_string().contains(&data), "{protocol:?}: the picture was not sent");
            assert_eq!(call.messages.iter().map(|m| m.media).sum::<usize>(), 1, "{protocol:?}");
        }
        let stored = engine.json("/tasks/m/messages").await["messages"][0]["content"][0].clone();
        assert_eq!(stored["source"]["type"], "blob", "{stored}");
        assert_eq!(stored["source"]["size"], PNG.len());
        model.assert_no_problems();
    }
}

#[tokio::test]
async fn media_that_cannot_be_taken_are_refused_before_the_turn() {
    let model = ScriptedModel::start(Script::always(Reply::text("?"))).await;
    let engine = Setup::scripted(&model).with("MEDIA_MAX_BYTES", "2000").start().await;
    let send = async |media: Value| {
        engine.post("/execute", json!({"task_id": "m", "message": "x", "media": media})).await
    };
    let good = base64::engine::general_purpose::STANDARD.encode(PNG);
    let large = base64::engine::general_purpose::STANDARD.encode(vec![7u8; 3000]);
    let wrong = send(json!([image("image/png", "%%%")])).await.error(422, "VALIDATION_ERROR").await;
    assert_eq!(wrong["details"]["field"], "media[0]");
    send(json!([image("image/png", &large)])).await.error(413, "PAYLOAD_TOO_LARGE").await;
    send(json!([image("image/tiff", &good)])).await.error(422, "VALIDATION_ERROR").await;
    let video =
        json!({"type": "video", "source": {"type": "base64", "media_type": "video/mp4", "data": good}});
    send(json!([video])).await.error(422, "VALIDATION_ERROR").await;
    send(json!([{"type": "text", "text": "x"}])).await.error(400, "INVALID_REQUEST").await;
    send(json!([5])).await.error(400, "INVALID_REQUEST").await;
    send(json!("x")).await.error(400, "INVALID_REQUEST").await;
    let url = json!({"type": "image", "source": {"type": "url", "url": "file:///etc/passwd"}});
    send(json!([url])).await.error(400, "INVALID_REQUEST").await;
    let many: Vec<Value> = (0..21).map(|_| image("image/png", &good)).collect();
    send(json!(many)).await.error(400, "INVALID_REQUEST").await;
    assert!(model.calls().is_empty());
}

#[tokio::test]
async fn the_task_keeps_its_agent_until_another_is_named() {
    let engine = Setup::offline().start().await;
    let agent = |turn: &Turn| turn.0[0].text("agent").to_owned();
    let first = engine.run(json!({"task_id": "a", "message": "hi", "agent": "coder"})).await;
    let second = engine.turn("a", "again").await;
    let third = engine.run(json!({"task_id": "a", "message": "hi", "agent": "assistant"})).await;
    assert_eq!([agent(&first), agent(&second), agent(&third)], ["coder", "coder", "assistant"]);
    let error = engine
        .post("/execute", json!({"task_id": "a", "message": "x", "agent": "nobody"}))
        .await
        .error(404, "AGENT_NOT_FOUND")
        .await;
    assert_eq!(error["details"]["agent"], "nobody");
}

#[tokio::test]
async fn a_request_id_is_kept_when_it_is_well_formed_and_made_otherwise() {
    let engine = Setup::offline().start().await;
    let ask = |id: &str| Ask::get("/version").header("x-request-id", id);
    let kept = engine.send(ask("my.request_1-x")).await;
    assert_eq!(kept.header("x-request-id"), Some("my.request_1-x"));
    for bad in ["has space", &"x".repeat(129), "semi;colon"] {
        let made = engine.send(ask(bad)).await;
        assert!(made.header("x-request-id").is_some_and(|v| v.starts_with("req-")), "{bad}");
    }
    engine.log_line(|l| l["request_id"] == "my.request_1-x" && l["message"] == "Request finished").await;
}
