//! Calls over real TCP that go well, for each of the three protocols.

use crate::talk::*;
use contract::Block;
use llm::{Piece, Request, Stop};
use serde_json::{Value, json};
use testbed::{Fault, Gate, Protocol, Reply, Script, ScriptedModel};

async fn scripted(reply: Reply) -> ScriptedModel {
    ScriptedModel::start(Script::always(reply)).await
}

fn ask(protocol: Protocol, text: &str) -> Request {
    request(model_of(protocol), vec![user(text)])
}

#[tokio::test]
async fn text_streams_word_by_word_and_usage_counts_cached_tokens() {
    for protocol in Protocol::ALL {
        let model = scripted(Reply::text("Grüße aus Köln, ✓ done").usage(2000, 30, 1500)).await;
        let pieces = pieces(provider(protocol, &model).complete(ask(protocol, "hi"))).await;
        assert_eq!(text(&pieces), "Grüße aus Köln, ✓ done", "{protocol:?}");
        assert!(pieces.iter().filter(|p| matches!(p, Piece::Text(_))).count() >= 5);
        assert_eq!(lines(&pieces[pieces.len() - 2..]), ["usage 2000/30/1500", "stop EndTurn"]);
        model.assert_no_problems();
    }
}

#[tokio::test]
async fn the_key_goes_where_the_provider_wants_it_and_nowhere_without_one() {
    for protocol in Protocol::ALL {
        let model = ScriptedModel::start_with_key(Script::always(Reply::text("ok")), "test-key-123").await;
        let request = Request { traceparent: Some("00-abc-def-01".into()), ..ask(protocol, "hi") };
        pieces(provider(protocol, &model).complete(request.clone())).await;
        model.assert_no_problems();
        assert_eq!(model.calls()[0].headers["traceparent"], "00-abc-def-01");
        let keyless = provider_with(protocol, model.base_url(protocol), None, timeouts());
        pieces(keyless.complete(request)).await;
        let sent = &model.calls()[1].headers;
        for header in ["authorization", "x-api-key", "x-goog-api-key"] {
            assert!(!sent.contains_key(header), "{protocol:?} sent {header} without a key");
        }
    }
}

#[tokio::test]
async fn a_whole_round_of_parallel_tools_is_accepted_by_every_protocol() {
    for protocol in Protocol::ALL {
        let replies = [
            Reply::new()
                .say("I look.")
                .tool_call("slack.send", json!({"path": "#a", "text": "ü \"quoted\""}))
                .tool_call("git_status", json!({})),
            Reply::text("All done."),
        ];
        let model = ScriptedModel::start(Script::sequence(replies)).await;
        let provider = provider(protocol, &model);
        let first = pieces(provider.complete(ask(protocol, "look"))).await;
        assert_eq!(first.last(), Some(&Piece::Stop(Stop::ToolUse)));
        let said = blocks(&first);
        let calls: Vec<(String, String, Value)> = said
            .iter()
            .filter_map(|b| match b {
                Block::ToolUse { id, name, input, .. } => Some((id.clone(), name.clone(), input.clone())),
                _ => None,
            })
            .collect();
        assert_eq!(calls.len(), 2, "{protocol:?}");
        assert_ne!(calls[0].0, calls[1].0);
        assert_eq!(calls[0].1, "slack.send");
        assert_eq!(calls[0].2, json!({"path": "#a", "text": "ü \"quoted\""}));
        assert_eq!((&calls[1].1[..], &calls[1].2), ("git_status", &json!({})));

        let outcomes = calls.iter().map(|(id, name, _)| result(id, &format!("{name} ran"))).collect();
        let next = request(model_of(protocol), vec![user("look"), assistant(said), results(outcomes)]);
        assert_eq!(text(&pieces(provider.complete(next)).await), "All done.");
        model.assert_no_problems();
        let seen: Vec<String> = model.calls()[1].results().into_iter().map(|r| r.text).collect();
        assert_eq!(seen, ["slack.send ran", "git_status ran"]);
    }
}

#[tokio::test]
async fn mixed_argument_deltas_are_sorted_out() {
    let reply = Reply::new()
        .tool_call("read_file", json!({"path": "/one/long/path"}))
        .tool_call("read_file", json!({"path": "/two"}))
        .interleaved();
    let model = scripted(reply).await;
    let pieces = pieces(provider(Protocol::OpenAi, &model).complete(ask(Protocol::OpenAi, "hi"))).await;
    let inputs: Vec<Value> = blocks(&pieces)
        .into_iter()
        .map(|b| match b {
            Block::ToolUse { input, .. } => input,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(inputs, [json!({"path": "/one/long/path"}), json!({"path": "/two"})]);
}

#[tokio::test]
async fn unreadable_arguments_are_kept_as_text_and_do_not_fail_the_call_or_the_next() {
    for protocol in [Protocol::OpenAi, Protocol::Anthropic] {
        let replies = [Reply::new().raw_tool_call("read_file", "{\"path\": oops"), Reply::text("sorry")];
        let model = ScriptedModel::start(Script::sequence(replies)).await;
        let provider = provider(protocol, &model);
        let said = blocks(&pieces(provider.complete(ask(protocol, "hi"))).await);
        let [Block::ToolUse { id, input, .. }] = &said[..] else { panic!("{said:?}") };
        assert_eq!(input, &json!("{\"path\": oops"));
        let outcome = results(vec![result(id, "invalid_input")]);
        let next = request(model_of(protocol), vec![user("hi"), assistant(said.clone()), outcome]);
        pieces(provider.complete(next)).await;
        model.assert_no_problems();
    }
}

#[tokio::test]
async fn thinking_goes_back_with_its_signature() {
    for protocol in [Protocol::Anthropic, Protocol::Gemini] {
        let replies = [
            Reply::new().think("Let me think.", "proof-1==").tool_call("git_status", json!({})),
            Reply::text("Clean."),
        ];
        let model = ScriptedModel::start(Script::sequence(replies)).await;
        let provider = provider(protocol, &model);
        let asked = Request { thinking: true, ..ask(protocol, "status?") };
        let first = pieces(provider.complete(asked.clone())).await;
        assert!(lines(&first).contains(&"thinking: Let me think.".to_owned()), "{protocol:?}");
        let said = blocks(&first);
        let id = said
            .iter()
            .find_map(|b| match b {
                Block::ToolUse { id, .. } => Some(id.clone()),
                _ => None,
            })
            .expect("a call");
        // Through the stored form, as the Engine does.
        let stored = serde_json::to_string(&said).expect("serialises");
        let said: Vec<Block> = serde_json::from_str(&stored).expect("reads back");
        let messages = vec![user("status?"), assistant(said), results(vec![result(&id, "clean")])];
        pieces(provider.complete(Request { messages, ..asked })).await;
        model.assert_no_problems();
        let sent = model.calls()[1].body.to_string();
        assert_eq!(sent.matches("proof-1==").count(), 1, "{protocol:?}: {sent}");
    }
}

#[tokio::test]
async fn redacted_thinking_goes_back_unchanged() {
    let part = testbed::model::Part::Thinking { text: String::new(), signature: Some("sealed".into()) };
    let replies = [Reply::new().part(part).say("Hm."), Reply::text("ok")];
    let model = ScriptedModel::start(Script::sequence(replies)).await;
    let provider = provider(Protocol::Anthropic, &model);
    let said = blocks(&pieces(provider.complete(ask(Protocol::Anthropic, "hi"))).await);
    let next = request(model_of(Protocol::Anthropic), vec![user("hi"), assistant(said), user("and?")]);
    pieces(provider.complete(next)).await;
    assert_eq!(
        model.calls()[1].body["messages"][1]["content"][0],
        json!({"type": "redacted_thinking", "data": "sealed"})
    );
    model.assert_no_problems();
}

#[tokio::test]
async fn reasoning_of_compatible_servers_goes_back_in_its_field() {
    let replies =
        [Reply::new().think("Hm hm.", "unused").tool_call("git_status", json!({})), Reply::text("ok")];
    let model = ScriptedModel::start(Script::sequence(replies)).await;
    let provider = provider(Protocol::OpenAi, &model);
    let said = blocks(&pieces(provider.complete(ask(Protocol::OpenAi, "hi"))).await);
    let Some(Block::ToolUse { id, .. }) = said.last() else { panic!("{said:?}") };
    let outcome = results(vec![result(id, "clean")]);
    pieces(provider.complete(request("gpt-4o", vec![user("hi"), assistant(said.clone()), outcome]))).await;
    assert_eq!(model.calls()[1].body["messages"][2]["reasoning_content"], "Hm hm.");
}

#[tokio::test]
async fn every_stop_reason_has_its_word() {
    use testbed::model::Stop as Said;
    for protocol in Protocol::ALL {
        let pause = if protocol == Protocol::Anthropic { Stop::Pause } else { Stop::EndTurn };
        for (said, heard) in [
            (Said::End, Stop::EndTurn),
            (Said::Length, Stop::MaxTokens),
            (Said::Refusal, Stop::Refusal),
            (Said::Pause, pause),
        ] {
            let model = scripted(Reply::text("some words").stop(said)).await;
            let pieces = pieces(provider(protocol, &model).complete(ask(protocol, "hi"))).await;
            assert_eq!(pieces.last(), Some(&Piece::Stop(heard)), "{protocol:?} {said:?}");
        }
        let model = scripted(Reply::new().tool_call("git_status", json!({}))).await;
        let pieces = pieces(provider(protocol, &model).complete(ask(protocol, "hi"))).await;
        assert_eq!(pieces.last(), Some(&Piece::Stop(Stop::ToolUse)), "{protocol:?}");
    }
}

#[tokio::test]
async fn missing_usage_is_estimated_and_says_so() {
    for protocol in Protocol::ALL {
        let model = scripted(Reply::text("1234567").without_usage()).await;
        let pieces = pieces(provider(protocol, &model).complete(ask(protocol, "hi"))).await;
        let Some(Piece::Usage { usage, estimated: true }) = pieces.get(pieces.len() - 2) else {
            panic!("{protocol:?}: {pieces:?}")
        };
        assert_eq!(usage.output_tokens, 2, "{protocol:?}");
        assert!(usage.input_tokens > 10);
    }
}

#[tokio::test]
async fn deltas_arrive_while_the_model_is_still_speaking() {
    use futures::StreamExt;
    for protocol in Protocol::ALL {
        let gate = Gate::new();
        let model = scripted(Reply::text("first ").hold(&gate).say("second")).await;
        let mut stream = provider(protocol, &model).complete(ask(protocol, "hi"));
        let mut heard = String::new();
        while !heard.contains("first") {
            if let Some(Ok(Piece::Text(text))) = stream.next().await {
                heard += &text;
            }
        }
        gate.reached().await;
        gate.open();
        let rest = pieces(stream).await;
        assert_eq!(heard + &text(&rest), "first second", "{protocol:?}");
    }
}

#[tokio::test]
async fn dropping_the_stream_hangs_up() {
    use futures::StreamExt;
    for protocol in Protocol::ALL {
        let gate = Gate::new();
        let model = scripted(Reply::text("first ").hold(&gate)).await;
        let mut stream = provider(protocol, &model).complete(ask(protocol, "hi"));
        assert!(matches!(stream.next().await, Some(Ok(_))));
        gate.reached().await;
        drop(stream);
        tokio::time::timeout(PATIENCE, model.open_streams(0)).await.expect("the connection is closed");
    }
}

#[tokio::test]
async fn one_connection_serves_call_after_call() {
    let model = scripted(Reply::text("ok")).await;
    let provider = provider(Protocol::OpenAi, &model);
    for _ in 0..3 {
        pieces(provider.complete(ask(Protocol::OpenAi, "hi"))).await;
    }
    assert_eq!(model.calls().len(), 3);
}

/// Refuses with 400 and these words while the request shows the field, then answers.
fn refuses(pointer: &'static str, error: Value) -> Script {
    Script::from_fn(move |seen| match seen.body.pointer(pointer) {
        Some(_) => Reply::error(400, error.clone()),
        None => Reply::text("ok"),
    })
}

async fn is_learnt(protocol: Protocol, script: Script, request: Request) -> Vec<Value> {
    let model = ScriptedModel::start(script).await;
    let provider = provider(protocol, &model);
    pieces(provider.complete(request.clone())).await;
    pieces(provider.complete(request)).await;
    model.assert_no_problems();
    model.calls().into_iter().map(|c| c.body).collect()
}

#[tokio::test]
async fn the_name_of_the_output_limit_is_switched_once_and_remembered() {
    let error = json!({"error": {"message": "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.", "param": "max_tokens", "code": "unsupported_parameter"}});
    let bodies =
        is_learnt(Protocol::OpenAi, refuses("/max_tokens", error), ask(Protocol::OpenAi, "hi")).await;
    assert_eq!(bodies.len(), 3, "refused, accepted, and accepted at once");
    assert_eq!(bodies[2]["max_completion_tokens"], 1000);
}

#[tokio::test]
async fn a_limit_that_is_too_large_is_not_taken_for_an_unknown_name() {
    let error = json!({"error": {"message": "max_tokens is too large: 5000. This model supports at most 4096.", "param": "max_tokens"}});
    let model = ScriptedModel::start(Script::always(Reply::error(400, error))).await;
    let error = failure(provider(Protocol::OpenAi, &model).complete(ask(Protocol::OpenAi, "hi"))).await;
    assert_eq!(error.kind, llm::ErrorKind::BadRequest);
    assert_eq!(model.calls().len(), 1);
}

#[tokio::test]
async fn structured_output_falls_back_to_an_instruction() {
    let schema = json!({"type": "object", "properties": {}, "additionalProperties": false});
    for (protocol, pointer, error) in [
        (
            Protocol::OpenAi,
            "/response_format",
            json!({"error": {"message": "response_format is not supported"}}),
        ),
        (
            Protocol::Anthropic,
            "/output_config",
            json!({"type": "error", "error": {"type": "invalid_request_error", "message": "output_config.format: Extra inputs are not permitted"}}),
        ),
        (
            Protocol::Gemini,
            "/generationConfig/responseJsonSchema",
            json!({"error": {"code": 400, "status": "INVALID_ARGUMENT", "message": "Unknown name \"responseJsonSchema\""}}),
        ),
    ] {
        let mut request = Request { output_schema: Some(schema.clone()), ..ask(protocol, "hi") };
        request.tools.clear();
        let bodies = is_learnt(protocol, refuses(pointer, error), request).await;
        assert_eq!(bodies.len(), 3, "{protocol:?}");
        assert!(bodies[2].to_string().contains("valid against the JSON Schema"), "{protocol:?}");
    }
}

#[tokio::test]
async fn the_form_of_thinking_is_switched_once_and_remembered() {
    let anthropic = Script::from_fn(|seen| match seen.body["thinking"]["type"].as_str() {
        Some("adaptive") => Reply::error(
            400,
            json!({"type": "error", "error": {"type": "invalid_request_error", "message": "thinking.type: Input tag 'adaptive' is not supported"}}),
        ),
        _ => Reply::text("ok"),
    });
    let gemini = Script::from_fn(|seen| {
        let config = &seen.body["generationConfig"]["thinkingConfig"];
        match config["thinkingLevel"].is_string() {
            true => Reply::error(
                400,
                json!({"error": {"code": 400, "status": "INVALID_ARGUMENT", "message": "Thinking level is not supported for this model."}}),
            ),
            false => Reply::text("ok"),
        }
    });
    for (protocol, script) in [(Protocol::Anthropic, anthropic), (Protocol::Gemini, gemini)] {
        let bodies = is_learnt(protocol, script, Request { thinking: true, ..ask(protocol, "hi") }).await;
        assert_eq!(bodies.len(), 3, "{protocol:?}");
        assert!(bodies[2].to_string().contains("2048"), "the budget form: {}", bodies[2]);
    }
}

#[tokio::test]
async fn a_model_without_thinking_is_asked_without_it() {
    let error = json!({"type": "error", "error": {"type": "invalid_request_error", "message": "this model does not support thinking"}});
    let request = Request { thinking: true, ..ask(Protocol::Anthropic, "hi") };
    let bodies = is_learnt(Protocol::Anthropic, refuses("/thinking", error), request).await;
    assert_eq!(bodies.len(), 4, "both forms refused, then without, then without at once");
}

#[tokio::test]
async fn gemini_repeats_a_call_the_model_spoiled_once() {
    use testbed::model::Stop as Said;
    let spoiled = || Reply::new().stop(Said::Odd);
    let model = ScriptedModel::start(Script::sequence([spoiled(), Reply::text("fine")])).await;
    let answer = pieces(provider(Protocol::Gemini, &model).complete(ask(Protocol::Gemini, "hi"))).await;
    assert_eq!(text(&answer), "fine");

    let model = ScriptedModel::start(Script::always(spoiled())).await;
    let error = failure(provider(Protocol::Gemini, &model).complete(ask(Protocol::Gemini, "hi"))).await;
    assert_eq!(error.kind, llm::ErrorKind::Stream);
    assert_eq!(model.calls().len(), 2);
}

#[tokio::test]
async fn anthropic_filling_its_window_is_an_overflow() {
    let model = scripted(Reply::text("long").stop(testbed::model::Stop::Odd)).await;
    let error = failure(provider(Protocol::Anthropic, &model).complete(ask(Protocol::Anthropic, "hi"))).await;
    assert_eq!(error.kind, llm::ErrorKind::Overflow);
}

#[tokio::test]
async fn an_answer_that_comes_byte_by_byte_is_whole() {
    for protocol in Protocol::ALL {
        let reply = Reply::text("ü ✓").fault(Fault::SlowLoris(std::time::Duration::ZERO));
        let model = scripted(reply).await;
        let pieces = pieces(provider(protocol, &model).complete(ask(protocol, "hi"))).await;
        assert_eq!(text(&pieces), "ü ✓", "{protocol:?}");
    }
}

#[tokio::test]
async fn a_continuation_is_exact_however_often_an_answer_is_cut() {
    use testbed::model::{Pace, Rules};
    for protocol in Protocol::ALL {
        let rules = Rules::new(llm::CONTINUE_REQUEST, Pace { words: 20, ..Pace::default() });
        let whole = rules.full_answer("tell me");
        let model = ScriptedModel::start(Script::rules(rules)).await;
        let provider = provider(protocol, &model);
        let mut messages = vec![user("tell me")];
        let mut told = String::new();
        for at in [10, 55] {
            let answer =
                text(&pieces(provider.complete(request(model_of(protocol), messages.clone()))).await);
            let part = &answer[..answer.floor_char_boundary(at)];
            told += part;
            messages.push(assistant(vec![Block::text(part)]));
            messages.push(user(llm::CONTINUE_REQUEST));
        }
        told += &text(&pieces(provider.complete(request(model_of(protocol), messages))).await);
        assert_eq!(told, whole, "{protocol:?}");
        let all_said =
            vec![user("tell me"), assistant(vec![Block::text(&whole)]), user(llm::CONTINUE_REQUEST)];
        let rest = pieces(provider.complete(request(model_of(protocol), all_said))).await;
        assert_eq!((text(&rest).as_str(), rest.last()), ("", Some(&Piece::Stop(Stop::EndTurn))));
        model.assert_no_problems();
    }
}
