//! What a failing provider makes of a turn: exact codes and kinds, the partial text set aside, and a next
//! turn that goes on.

use crate::support::{Engine, Setup, soon};
use serde_json::{Value, json};
use std::time::Duration;
use testbed::{Fault, Gate, Protocol, Reply, Script, ScriptedModel};

/// An Engine whose provider answers the message "bad" with this, and anything else well.
async fn failing(protocol: Protocol, bad: Reply) -> (ScriptedModel, Engine) {
    let model = ScriptedModel::start(Script::from_fn(move |r| match r.last_user_text().as_str() {
        "bad" => bad.clone(),
        _ => Reply::text("well again"),
    }))
    .await;
    let engine = Setup::speaking(&model, protocol)
        .with("LLM_FIRST_BYTE_TIMEOUT_S", "1")
        .with("LLM_IDLE_TIMEOUT_S", "1")
        .start()
        .await;
    engine.expect_log("The model call failed");
    (model, engine)
}

async fn fails(protocol: Protocol, bad: Reply) -> Value {
    let (model, engine) = failing(protocol, bad).await;
    let turn = engine.turn("f", "bad").await;
    let error = turn.error().clone();
    let shown = engine.json("/tasks/f").await;
    assert_eq!(shown["status"], "idle");
    assert_eq!(shown["last_turn"]["state"], "errored");
    assert_eq!(shown["last_turn"]["error"], error["error"]);
    // the next turn goes on, with the user message and without the failed answer
    assert_eq!(engine.turn("f", "well?").await.text(), "well again");
    let told: Vec<String> = model.calls().last().expect("a call").messages.iter().map(|m| m.text()).collect();
    assert!(told.concat().contains("bad") && !told.concat().contains("partial"), "{told:?}");
    // and so does a retry of the failed one
    assert_eq!(engine.json("/health").await["status"], "ok", "{}", engine.json("/health").await);
    model.assert_no_problems();
    error
}

#[tokio::test]
async fn a_rate_limit_is_llm_rate_limited_with_the_provider_s_wait() {
    for protocol in Protocol::ALL {
        let error = fails(protocol, Reply::rate_limited(7)).await;
        assert_eq!(error["error"], "LLM_RATE_LIMITED", "{protocol:?}: {error}");
        assert_eq!(error["details"]["retry_after"], 7, "{protocol:?}: {error}");
    }
}

#[tokio::test]
async fn each_refusal_of_the_provider_has_its_kind() {
    for protocol in Protocol::ALL {
        for (status, kinds) in [
            (500, &["server"][..]),
            (503, &["server", "overloaded"]),
            (401, &["auth"]),
            (403, &["auth"]),
            (404, &["model"]),
            (400, &["bad_request"]),
        ] {
            let error = fails(protocol, Reply::status(status)).await;
            assert_eq!(error["error"], "LLM_PROVIDER_ERROR", "{protocol:?} {status}: {error}");
            let kind = error["details"]["kind"].as_str().unwrap_or_default();
            assert!(kinds.contains(&kind), "{protocol:?} {status}: {error}");
        }
    }
}

#[tokio::test]
async fn a_stream_cut_or_spoilt_in_the_middle_is_kind_stream_and_its_text_is_set_aside() {
    for protocol in Protocol::ALL {
        for fault in [Fault::CutAfterBytes(900), Fault::EndAfterFrames(6), Fault::MalformedFrameAfter(6)] {
            let words = "partial ".repeat(200);
            let bad = Reply::text(&words).fault(fault.clone());
            let (model, engine) = failing(protocol, bad).await;
            let turn = engine.turn("f", "bad").await;
            assert_eq!(turn.error()["error"], "LLM_PROVIDER_ERROR", "{protocol:?} {fault:?}");
            assert_eq!(turn.error()["details"]["kind"], "stream", "{protocol:?} {fault:?}");
            assert_eq!(turn.text(), "", "the partial text counts: {protocol:?} {fault:?}");
            assert!(turn.count("text_delta") > 0, "{protocol:?} {fault:?}");
            let every = engine.json("/tasks/f/messages?include=superseded").await;
            assert_eq!(every["messages"][1]["status"], "superseded", "{every}");
            let retry = json!({"task_id": "f", "message": "", "retry_message_id": turn.user_message()});
            model.set_script(Script::always(Reply::text("whole")));
            assert_eq!(engine.run(retry).await.text(), "whole", "{protocol:?} {fault:?}");
            model.assert_no_problems();
        }
    }
}

#[tokio::test]
async fn a_provider_that_says_nothing_in_time_is_provider_timeout() {
    for fault in [Fault::HangBeforeHeaders, Fault::HangBeforeFirstByte, Fault::SilenceAfterFrames(4)] {
        let error = fails(Protocol::OpenAi, Reply::text("partial text of it").fault(fault.clone())).await;
        assert_eq!(error["error"], "PROVIDER_TIMEOUT", "{fault:?}: {error}");
    }
}

#[tokio::test]
async fn a_provider_that_is_away_is_kind_connect_and_health_says_so() {
    let away = {
        let model = ScriptedModel::start(Script::always(Reply::text("x"))).await;
        Setup::scripted(&model)
    };
    let engine = away.start().await;
    engine.expect_log("The model call failed");
    let turn = engine.turn("f", "hello").await;
    assert_eq!(turn.error()["details"]["kind"], "connect", "{}", turn.error());
    let health = engine.health().await;
    assert_eq!(
        (&health["status"], &health["subsystems"]["llm_provider"]),
        (&json!("degraded"), &json!("error"))
    );
}

#[tokio::test]
async fn a_slow_provider_is_waited_for() {
    let slow = Reply::text("slow but whole").fault(Fault::SlowLoris(Duration::from_millis(1)));
    let model = ScriptedModel::start(Script::always(slow)).await;
    let engine = Setup::scripted(&model).start().await;
    assert_eq!(engine.turn("f", "hello").await.text(), "slow but whole");
}

#[tokio::test]
async fn the_fallback_model_answers_when_the_primary_fails_before_its_first_word() {
    for (status, falls_back) in [(500, true), (429, true), (401, false), (400, false)] {
        let model = ScriptedModel::start(Script::from_fn(move |r| match r.model.as_str() {
            "second-1" => Reply::text("from the second"),
            _ => Reply::status(status),
        }))
        .await;
        let engine = Setup::scripted(&model).with("FALLBACK_MODEL", "second-1").start().await;
        engine.expect_log("The model call failed").expect_log("allback");
        let turn = engine.turn("f", "hello").await;
        if falls_back {
            assert_eq!(turn.text(), "from the second", "{status}");
            assert_eq!(turn.one("usage").data["model"], "second-1");
        } else {
            assert_eq!(turn.error()["error"], "LLM_PROVIDER_ERROR", "{status}");
        }
        model.assert_no_problems();
    }
}

#[tokio::test]
async fn the_fallback_model_is_not_tried_after_output_was_streamed() {
    let model = ScriptedModel::start(Script::from_fn(|r| match r.model.as_str() {
        "second-1" => Reply::text("from the second"),
        _ => Reply::text(&"partial ".repeat(100)).fault(Fault::EndAfterFrames(9)),
    }))
    .await;
    let engine = Setup::scripted(&model).with("FALLBACK_MODEL", "second-1").start().await;
    engine.expect_log("The model call failed");
    assert_eq!(engine.turn("f", "hello").await.error()["details"]["kind"], "stream");
    assert!(model.calls().iter().all(|c| c.model != "second-1"));
}

#[tokio::test]
async fn one_turn_s_hanging_provider_does_not_hold_up_another_task() {
    let gate = Gate::new();
    let held = Reply::new().say("first").hold(&gate).say(" last");
    let model = ScriptedModel::start(Script::from_fn(move |r| match r.last_user_text().as_str() {
        "hang" => held.clone(),
        _ => Reply::text("quick"),
    }))
    .await;
    let engine = Setup::scripted(&model).start().await;
    let mut hanging = engine.execute(json!({"task_id": "a", "message": "hang"})).await;
    let mut frames = hanging.until_event("text_delta").await;
    soon("the gate", gate.reached()).await;
    assert_eq!(engine.turn("b", "hello").await.text(), "quick");
    gate.open();
    frames.extend(hanging.rest().await);
    assert_eq!(crate::support::sse::Turn::checked(frames, false).text(), "first last");
}

#[tokio::test]
async fn a_context_that_is_too_large_is_made_smaller_or_is_context_overflow() {
    let overflow = || {
        Reply::error(
            400,
            json!({"error": {"code": "context_length_exceeded", "message": "too long", "type": "invalid_request_error"}}),
        )
    };
    let model = ScriptedModel::start(Script::always(overflow())).await;
    let engine = Setup::scripted(&model).with("REACTIVE_COMPACT_ENABLED", "false").start().await;
    engine.expect_log("The model call failed");
    let turn = engine.turn("f", "hello").await;
    assert_eq!(turn.error()["error"], "CONTEXT_OVERFLOW");
    assert_eq!(turn.count("compaction_event"), 0);
}
