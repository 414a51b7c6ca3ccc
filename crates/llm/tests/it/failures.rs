//! Everything that goes wrong: each row of the mapping of provider failures.

use crate::talk::*;
use llm::{CallError, ErrorKind, Piece, Provider, Request, Timeouts};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use testbed::{Fault, Protocol, Reply, Script, ScriptedModel};

/// Short enough not to be felt, long enough for a busy machine to answer a loopback request.
const SHORT: Duration = Duration::from_millis(600);

fn ask(protocol: Protocol) -> Request {
    request(model_of(protocol), vec![user("hi")])
}

async fn fails_with(protocol: Protocol, reply: Reply) -> CallError {
    let model = ScriptedModel::start(Script::always(reply)).await;
    let error = failure(provider(protocol, &model).complete(ask(protocol))).await;
    assert_eq!(model.calls().len(), 1, "{protocol:?}: an adapter does not retry by itself");
    error
}

#[tokio::test]
async fn every_status_has_its_kind_with_every_provider() {
    use ErrorKind::*;
    for protocol in Protocol::ALL {
        for (status, kind) in [
            (400, BadRequest),
            (401, Auth),
            (403, Auth),
            (404, Model),
            (422, BadRequest),
            (429, RateLimited),
            (408, Server),
            (409, Server),
            (500, Server),
            (502, Server),
            (503, Overloaded),
            (529, Overloaded),
            (302, BadRequest),
        ] {
            // A bare body, as proxies send it: the status alone decides.
            let error = fails_with(protocol, Reply::error(status, Value::Null)).await;
            assert_eq!((error.kind, error.status), (kind, Some(status)), "{protocol:?} {status}");
        }
    }
}

#[tokio::test]
async fn the_providers_own_words_have_their_kind() {
    use ErrorKind::*;
    let openai = |code: &str, message: &str| json!({"error": {"message": message, "type": "t", "param": null, "code": code}});
    let anthropic =
        |kind: &str, message: &str| json!({"type": "error", "error": {"type": kind, "message": message}});
    let gemini =
        |status: &str, message: &str| json!({"error": {"code": 400, "status": status, "message": message}});
    let table = [
        (Protocol::OpenAi, 429, openai("insufficient_quota", "You exceeded your current quota"), Quota),
        (Protocol::OpenAi, 400, openai("context_length_exceeded", "too long"), Overflow),
        (
            Protocol::OpenAi,
            400,
            json!({"object": "error", "message": "This model's maximum context length is 4096 tokens"}),
            Overflow,
        ),
        (Protocol::OpenAi, 403, openai("model_not_found", "no access"), Model),
        (Protocol::Anthropic, 401, anthropic("authentication_error", "invalid x-api-key"), Auth),
        (Protocol::Anthropic, 403, anthropic("permission_error", "no"), Auth),
        (Protocol::Anthropic, 404, anthropic("not_found_error", "model: x"), Model),
        (Protocol::Anthropic, 429, anthropic("rate_limit_error", "slow down"), RateLimited),
        (Protocol::Anthropic, 529, anthropic("overloaded_error", "Overloaded"), Overloaded),
        (
            Protocol::Anthropic,
            413,
            anthropic("request_too_large", "Request exceeds the maximum size"),
            Overflow,
        ),
        (
            Protocol::Anthropic,
            400,
            anthropic("invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum"),
            Overflow,
        ),
        (
            Protocol::Anthropic,
            400,
            anthropic("invalid_request_error", "Your credit balance is too low to access the API"),
            Quota,
        ),
        (Protocol::Anthropic, 500, anthropic("api_error", "oops"), Server),
        (Protocol::Gemini, 401, gemini("UNAUTHENTICATED", "no"), Auth),
        (Protocol::Gemini, 403, gemini("PERMISSION_DENIED", "no"), Auth),
        (
            Protocol::Gemini,
            400,
            gemini("INVALID_ARGUMENT", "API key not valid. Please pass a valid API key."),
            Auth,
        ),
        (
            Protocol::Gemini,
            400,
            gemini(
                "INVALID_ARGUMENT",
                "The input token count (2) exceeds the maximum number of tokens allowed (1).",
            ),
            Overflow,
        ),
        (Protocol::Gemini, 400, gemini("INVALID_ARGUMENT", "bad field"), BadRequest),
        (Protocol::Gemini, 404, gemini("NOT_FOUND", "models/x is not found"), Model),
        (
            Protocol::Gemini,
            429,
            gemini(
                "RESOURCE_EXHAUSTED",
                "You exceeded your current quota, please check your plan and billing details",
            ),
            RateLimited,
        ),
        (Protocol::Gemini, 500, gemini("INTERNAL", "oops"), Server),
        (Protocol::Gemini, 503, gemini("UNAVAILABLE", "The model is overloaded"), Overloaded),
        (Protocol::Gemini, 504, gemini("DEADLINE_EXCEEDED", "too slow"), Timeout),
    ];
    for (protocol, status, body, kind) in table {
        let error = fails_with(protocol, Reply::error(status, body.clone())).await;
        assert_eq!(error.kind, kind, "{protocol:?} {status} {body}");
    }
}

#[tokio::test]
async fn a_rate_limit_tells_how_long_to_wait() {
    for protocol in Protocol::ALL {
        let error = fails_with(protocol, Reply::rate_limited(7)).await;
        assert_eq!((error.kind, error.retry_after), (ErrorKind::RateLimited, Some(Duration::from_secs(7))));
        let api = error.to_api();
        assert_eq!(api.error, contract::ErrorCode::LlmRateLimited);
    }
    let details = json!([
        {"@type": "type.googleapis.com/google.rpc.Help"},
        {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34.5s"},
    ]);
    let body = json!({"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "quota", "details": details}});
    let error = fails_with(Protocol::Gemini, Reply::error(429, body)).await;
    assert_eq!(error.retry_after, Some(Duration::from_millis(34_500)));
}

#[tokio::test]
async fn an_error_text_is_short_and_without_the_key() {
    for protocol in Protocol::ALL {
        let said = format!("Incorrect key test-key-123 {}", "blah ".repeat(40_000));
        let body = json!({"error": {"message": said}});
        let error = fails_with(protocol, Reply::error(401, body)).await;
        assert!(
            error.message.contains("[redacted]") || !error.message.contains("Incorrect"),
            "{}",
            error.message
        );
        assert!(!error.message.contains("test-key-123"));
        assert!(error.message.chars().count() <= 500);
    }
}

#[tokio::test]
async fn nobody_listening_is_a_connect_error() {
    for protocol in Protocol::ALL {
        let gone = ScriptedModel::start(Script::sequence([])).await;
        let base = gone.base_url(protocol);
        // Taken over and let go, so that surely nobody listens.
        drop(gone);
        let free = loop {
            match tokio::net::TcpStream::connect(base.trim_start_matches("http://").trim_end_matches("/v1"))
                .await
            {
                Err(_) => break base,
                Ok(_) => tokio::task::yield_now().await,
            }
        };
        let error = failure(provider_with(protocol, free, None, timeouts()).complete(ask(protocol))).await;
        assert_eq!(error.kind, ErrorKind::Connect, "{error}");
    }
}

#[tokio::test]
async fn a_base_url_that_is_none_fails_the_call_and_nothing_else() {
    for base in ["not a url", "http://", "ftp://127.0.0.1/x"] {
        let provider = provider_with(Protocol::OpenAi, base.into(), None, timeouts());
        let error = failure(provider.complete(ask(Protocol::OpenAi))).await;
        assert!(matches!(error.kind, ErrorKind::BadRequest | ErrorKind::Connect), "{base}: {error:?}");
    }
}

#[tokio::test]
async fn a_key_that_cannot_be_sent_is_an_auth_error() {
    let model = ScriptedModel::start(Script::sequence([])).await;
    let provider =
        provider_with(Protocol::OpenAi, model.base_url(Protocol::OpenAi), Some("a\nb"), timeouts());
    let error = failure(provider.complete(ask(Protocol::OpenAi))).await;
    assert_eq!(error.kind, ErrorKind::Auth);
    assert!(model.calls().is_empty());
}

fn impatient(protocol: Protocol, model: &ScriptedModel, timeouts: Timeouts) -> Arc<dyn Provider> {
    provider_with(protocol, model.base_url(protocol), None, timeouts)
}

#[tokio::test]
async fn no_first_byte_in_time_is_a_timeout_that_may_be_retried() {
    for protocol in Protocol::ALL {
        for fault in [Fault::HangBeforeHeaders, Fault::HangBeforeFirstByte] {
            let model = ScriptedModel::start(Script::always(Reply::new().fault(fault))).await;
            let limits = Timeouts { first_byte: SHORT, ..timeouts() };
            let (pieces, error) = collect(impatient(protocol, &model, limits).complete(ask(protocol))).await;
            let error = error.expect("times out");
            assert!(pieces.is_empty());
            assert!(error.kind == ErrorKind::Timeout && error.is_retryable(), "{error:?}");
            assert_eq!(error.to_api().error, contract::ErrorCode::ProviderTimeout);
        }
    }
}

#[tokio::test]
async fn silence_inside_a_stream_is_a_timeout_and_keeps_what_was_said() {
    for protocol in Protocol::ALL {
        let reply = Reply::text("one two three four five").fault(Fault::SilenceAfterFrames(5));
        let model = ScriptedModel::start(Script::always(reply)).await;
        let limits = Timeouts { idle: SHORT, ..timeouts() };
        let (pieces, error) = collect(impatient(protocol, &model, limits).complete(ask(protocol))).await;
        assert_eq!(error.expect("times out").kind, ErrorKind::Timeout);
        assert!(text(&pieces).starts_with("one "), "{protocol:?}: {pieces:?}");
    }
}

#[tokio::test]
async fn a_slow_but_steady_stream_is_not_cut_by_the_idle_limit() {
    let reply = Reply::text("slow and steady").fault(Fault::SlowLoris(Duration::from_millis(1)));
    let model = ScriptedModel::start(Script::always(reply)).await;
    let limits = Timeouts { idle: SHORT, ..timeouts() };
    let began = std::time::Instant::now();
    let pieces = pieces(impatient(Protocol::Gemini, &model, limits).complete(ask(Protocol::Gemini))).await;
    assert_eq!(text(&pieces), "slow and steady");
    assert!(began.elapsed() > SHORT, "the stream was not slow enough to prove anything");
}

#[tokio::test]
async fn a_connection_cut_anywhere_is_a_broken_stream_and_never_a_whole_answer() {
    for protocol in Protocol::ALL {
        for bytes in (0..700).step_by(97) {
            let words = "a b c d e f g h i j k l m n o p";
            let reply = Reply::text(words).fault(Fault::CutAfterBytes(bytes));
            let model = ScriptedModel::start(Script::always(reply)).await;
            let (pieces, error) = collect(provider(protocol, &model).complete(ask(protocol))).await;
            let error = error.unwrap_or_else(|| panic!("{protocol:?} cut at {bytes} gave {pieces:?}"));
            // Cut before the response's head is out, it looks like a server that fell over.
            let expected = [ErrorKind::Stream, ErrorKind::Server];
            assert!(expected.contains(&error.kind), "{protocol:?} at {bytes}: {error:?}");
            assert!(words.starts_with(text(&pieces).as_str()));
            assert!(error.is_retryable());
        }
    }
}

#[tokio::test]
async fn a_stream_that_ends_early_is_a_broken_stream() {
    for protocol in Protocol::ALL {
        for frames in [0, 1, 4] {
            let reply = Reply::text("one two three four five").fault(Fault::EndAfterFrames(frames));
            let error = fails_with(protocol, reply).await;
            assert_eq!(error.kind, ErrorKind::Stream, "{protocol:?} after {frames}");
        }
    }
}

#[tokio::test]
async fn a_frame_that_is_not_json_is_a_broken_stream() {
    for protocol in Protocol::ALL {
        for frames in [0, 5] {
            let reply = Reply::text("one two three").fault(Fault::MalformedFrameAfter(frames));
            let error = fails_with(protocol, reply).await;
            assert_eq!(error.kind, ErrorKind::Stream, "{protocol:?} after {frames}");
        }
    }
}

#[tokio::test]
async fn an_error_frame_keeps_its_kind_before_the_first_piece_and_is_a_broken_stream_after() {
    for (protocol, word, kind) in [
        (Protocol::OpenAi, "rate_limit_exceeded", ErrorKind::RateLimited),
        (Protocol::Anthropic, "overloaded_error", ErrorKind::Overloaded),
        (Protocol::Gemini, "UNAVAILABLE", ErrorKind::Overloaded),
    ] {
        let fault = |frames| Fault::ErrorFrameAfter(frames, word.into(), "too much".into());
        let early = fails_with(protocol, Reply::text("one two three").fault(fault(0))).await;
        assert_eq!(early.kind, kind, "{protocol:?}");
        let model = ScriptedModel::start(Script::always(Reply::text("one two three").fault(fault(5)))).await;
        let (pieces, error) = collect(provider(protocol, &model).complete(ask(protocol))).await;
        assert!(pieces.iter().any(|p| matches!(p, Piece::Text(_))));
        assert_eq!(error.map(|e| e.kind), Some(ErrorKind::Stream), "{protocol:?}");
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed_so_that_the_key_stays_with_its_host() {
    let elsewhere = ScriptedModel::start(Script::always(Reply::text("stolen"))).await;
    for protocol in Protocol::ALL {
        let headers = vec![("location".to_owned(), elsewhere.url())];
        let redirect = Reply::new().fault(Fault::Status { status: 307, headers, body: Some(Value::Null) });
        let error = fails_with(protocol, redirect).await;
        assert!(error.message.contains("not followed"), "{error}");
    }
    assert!(elsewhere.calls().is_empty() && elsewhere.problems().is_empty());
}
