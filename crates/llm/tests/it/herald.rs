//! Retries and fallback: how often, when, and never after the first piece.

use crate::talk::*;
use llm::{ErrorKind, Herald, Piece, Request};
use std::time::Duration;
use testbed::{Fault, Gate, Protocol, Reply, Script, ScriptedModel};

const PROTOCOL: Protocol = Protocol::OpenAi;

fn herald(model: &ScriptedModel, retries: u32, fallback: Option<&str>) -> Herald {
    Herald::new(provider(PROTOCOL, model), retries, fallback.map(str::to_owned))
        .with_waits(|_| Duration::ZERO)
}

fn ask() -> Request {
    request("primary", vec![user("hi")])
}

fn models(model: &ScriptedModel) -> Vec<String> {
    model.calls().into_iter().map(|c| c.model).collect()
}

#[tokio::test]
async fn a_call_that_fails_twice_succeeds_at_the_third_try_as_one_stream() {
    for fault in [Reply::status(500), Reply::status(503), Reply::new().fault(Fault::CutAfterBytes(30))] {
        let replies = [fault.clone(), fault, Reply::text("at last")];
        let model = ScriptedModel::start(Script::sequence(replies)).await;
        let pieces = pieces(herald(&model, 2, None).complete(ask())).await;
        assert_eq!(lines(&pieces)[..3], ["began primary", "start Text", "text: at last"]);
        assert_eq!(models(&model), ["primary"; 3]);
    }
}

#[tokio::test]
async fn retries_end_at_their_limit() {
    for retries in [0, 1, 3] {
        let model = ScriptedModel::start(Script::always(Reply::status(500))).await;
        let error = failure(herald(&model, retries, None).complete(ask())).await;
        assert_eq!(error.kind, ErrorKind::Server);
        assert_eq!(model.calls().len() as u32, 1 + retries);
    }
}

#[tokio::test]
async fn what_another_try_cannot_mend_is_not_retried() {
    for status in [400, 401, 404, 413, 422, 429] {
        let model = ScriptedModel::start(Script::always(Reply::status(status))).await;
        failure(herald(&model, 3, None).complete(ask())).await;
        assert_eq!(model.calls().len(), 1, "{status}");
    }
}

#[tokio::test]
async fn the_fallback_model_answers_once_the_first_has_finally_failed() {
    let replies = [Reply::status(500), Reply::status(500), Reply::text("plan b")];
    let model = ScriptedModel::start(Script::sequence(replies)).await;
    let pieces = pieces(herald(&model, 1, Some("second")).complete(ask())).await;
    assert_eq!(lines(&pieces)[0], "began second");
    assert_eq!(text(&pieces), "plan b");
    assert_eq!(models(&model), ["primary", "primary", "second"]);
}

#[tokio::test]
async fn the_fallback_is_for_some_failures_only() {
    for (status, falls_back) in
        [(404, true), (429, true), (529, true), (400, false), (401, false), (413, false)]
    {
        let script = Script::from_fn(move |seen| match seen.model.as_str() {
            "primary" => Reply::status(status),
            _ => Reply::text("plan b"),
        });
        let model = ScriptedModel::start(script).await;
        let (_, error) = collect(herald(&model, 0, Some("second")).complete(ask())).await;
        assert_eq!(error.is_none(), falls_back, "{status}");
        assert_eq!(model.calls().len(), if falls_back { 2 } else { 1 }, "{status}");
    }
}

#[tokio::test]
async fn when_the_fallback_fails_too_the_first_error_is_told_and_nothing_more_is_tried() {
    let script = Script::from_fn(|seen| match seen.model.as_str() {
        "primary" => Reply::rate_limited(9),
        _ => Reply::status(500),
    });
    let model = ScriptedModel::start(script).await;
    let error = failure(herald(&model, 3, Some("second")).complete(ask())).await;
    assert_eq!((error.kind, error.retry_after), (ErrorKind::RateLimited, Some(Duration::from_secs(9))));
    assert_eq!(models(&model), ["primary", "second"]);
}

#[tokio::test]
async fn the_fallback_is_not_remembered() {
    let replies = [Reply::status(429), Reply::text("b"), Reply::text("a")];
    let model = ScriptedModel::start(Script::sequence(replies)).await;
    let herald = herald(&model, 0, Some("second"));
    pieces(herald.complete(ask())).await;
    pieces(herald.complete(ask())).await;
    assert_eq!(models(&model), ["primary", "second", "primary"]);
}

#[tokio::test]
async fn nothing_is_repeated_after_the_first_piece() {
    for protocol in Protocol::ALL {
        let reply = Reply::text("one two three four five").fault(Fault::MalformedFrameAfter(6));
        let model = ScriptedModel::start(Script::always(reply)).await;
        let herald =
            Herald::new(provider(protocol, &model), 5, Some("second".into())).with_waits(|_| Duration::ZERO);
        let (pieces, error) = collect(herald.complete(request(model_of(protocol), vec![user("hi")]))).await;
        assert_eq!(error.map(|e| e.kind), Some(ErrorKind::Stream));
        assert!(text(&pieces).starts_with("one"), "{protocol:?}");
        assert_eq!(pieces.iter().filter(|p| matches!(p, Piece::Began { .. })).count(), 1);
        assert_eq!(model.calls().len(), 1, "{protocol:?}");
    }
}

#[tokio::test]
async fn a_model_is_not_its_own_fallback() {
    let model = ScriptedModel::start(Script::always(Reply::status(429))).await;
    failure(herald(&model, 0, Some("primary")).complete(ask())).await;
    assert_eq!(model.calls().len(), 1);
}

#[tokio::test]
async fn nothing_is_told_before_the_model_speaks_and_dropping_aborts_the_call() {
    use futures::{FutureExt, StreamExt};
    let gate = Gate::new();
    let model = ScriptedModel::start(Script::always(Reply::new().hold(&gate).say("late"))).await;
    let mut stream = herald(&model, 0, None).complete(ask());
    // The role chunk is no piece: the call may still be repeated.
    let waiting = async {
        tokio::select! {
            biased;
            first = stream.next() => panic!("told {first:?} before the model spoke"),
            () = gate.reached() => {}
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("the model gets to the gate");
    assert!(stream.next().now_or_never().is_none());
    drop(stream);
    tokio::time::timeout(PATIENCE, model.open_streams(0)).await.expect("the connection is closed");
}
