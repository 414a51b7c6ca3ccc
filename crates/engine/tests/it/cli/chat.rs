//! `chat` as a script uses it: lines in, text out, against a server that cuts, refuses and restarts.

use super::fake::{End, FakeEngine, Piece, Reply, Seen, frame};
use super::{Place, Said};
use serde_json::json;

const VERSION: &str = r#"{"name":"september-engine","version":"0.1.0"}"#;
const NO_TASK: &str = r#"{"error":"TASK_NOT_FOUND","message":"there is no task t"}"#;

fn send(text: String) -> Piece {
    Piece::Send(text)
}

fn started(seq: i64) -> String {
    frame(
        seq,
        "thread_lifecycle",
        json!({"phase": "started", "user_message_id": "msg-1", "agent": "assistant", "queued": false}),
    )
}

fn text(seq: i64, text: &str) -> String {
    frame(seq, "text_delta", json!({"text": text, "block_index": 0}))
}

fn completed(seq: i64) -> String {
    frame(
        seq,
        "thread_lifecycle",
        json!({"phase": "completed", "message_id": "msg-2", "stop_reason": "end_turn"}),
    )
}

fn whole(pieces: Vec<Piece>) -> Reply {
    Reply::Stream { pieces, end: End::Whole }
}

/// An Engine without the task `t`; what happens from /execute on is the test's business.
fn engine(answer: impl Fn(&Seen) -> Option<Reply> + Send + Sync + 'static) -> FakeEngine {
    FakeEngine::start(move |seen| match (answer(seen), seen.path.as_str()) {
        (Some(reply), _) => reply,
        (None, "/version") => Reply::json(200, VERSION),
        (None, _) => Reply::json(404, NO_TASK),
    })
}

fn chat(engine: &FakeEngine, stdin: &str) -> Said {
    Place::new().run_with(&["chat", "--url", &engine.url(), "--task", "t"], stdin)
}

#[test]
fn a_cut_stream_goes_on_where_it_was_without_a_duplicate() {
    let engine = engine(|seen| match seen.path.split('?').next() {
        Some("/execute") => {
            let begun = started(1) + &text(2, "Hello, ") + "id: 3\nevent: text_delta\ndata: {\"text\":\"wor";
            Some(Reply::Stream { pieces: vec![send(begun)], end: End::Cut })
        }
        // Replays one event too many, as a careless proxy might.
        Some("/execute/replay") => {
            Some(whole(vec![send(text(2, "Hello, ") + &text(3, "world.") + &completed(4))]))
        }
        _ => None,
    });
    let said = chat(&engine, "hi\n").expect(0);
    assert_eq!(said.out.matches("Hello, ").count(), 1, "{}", said.out);
    assert!(said.out.contains("reconnecting"), "{}", said.out);
    let answer: String = said.out.lines().filter(|l| !l.starts_with('(')).collect();
    assert!(answer.starts_with("Hello, world."), "{}", said.out);
    assert!(!said.out.contains('\x1b'), "a script gets no colour: {:?}", said.out);

    let replay = &engine.seen_at("/execute/replay")[0];
    assert_eq!(replay.header("last-event-id"), Some("2"));
    assert!(replay.path.contains("task_id=t"), "{}", replay.path);
    assert_eq!(replay.header("x-engine-key"), Some("canary-key-0001"));
}

#[test]
fn a_message_whose_answer_never_began_is_sent_again_under_the_same_key() {
    let posts = std::sync::atomic::AtomicUsize::new(0);
    let engine = engine(move |seen| match seen.path.as_str() {
        "/execute" if posts.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 0 => Some(Reply::Nothing),
        "/execute" => Some(whole(vec![send(started(1) + &text(2, "once") + &completed(3))])),
        _ => None,
    });
    let said = chat(&engine, "hi\n").expect(0);
    assert_eq!(said.out.matches("once").count(), 1, "{}", said.out);
    let posts = engine.seen_at("/execute");
    assert!(posts.len() >= 2, "{posts:?}");
    let keys: Vec<_> = posts.iter().map(|p| p.header("idempotency-key").map(str::to_owned)).collect();
    assert!(keys[0].is_some() && keys.windows(2).all(|pair| pair[0] == pair[1]), "{keys:?}");
    assert_eq!(posts[0].json()["message"], "hi");
}

fn prompt(seq: i64) -> String {
    frame(
        seq,
        "hitl_request",
        json!({"request_id": "hitl-1", "kind": "permission", "question": "Run rm -rf /srv/old?",
               "options": ["yes", "no", "always"], "tool": "bash", "tool_call_id": "call-1",
               "input": {"command": "rm -rf /srv/old"}, "reason": "deletes recursively", "rule": "bash:rm -rf /srv/old"}),
    )
}

#[test]
fn a_permission_prompt_is_answered_from_the_next_line() {
    let engine = engine(|seen| match seen.path.as_str() {
        "/execute" => Some(whole(vec![
            send(
                started(1)
                    + &frame(
                        2,
                        "tool_call",
                        json!({"tool": "bash", "tool_call_id": "call-1", "input": {"command": "rm -rf /srv/old"}}),
                    )
                    + &prompt(3),
            ),
            Piece::WaitFor("/hitl/respond"),
            send(
                frame(
                    4,
                    "hitl_resolved",
                    json!({"request_id": "hitl-1", "kind": "permission", "resolution": "answered", "answer": "no"}),
                ) + &frame(
                    5,
                    "tool_result",
                    json!({"tool": "bash", "tool_call_id": "call-1", "output": null, "error": "keep it", "reason": "permission_denied", "duration_ms": 4}),
                ) + &text(6, "I left it.")
                    + &completed(7),
            ),
        ])),
        "/hitl/respond" => Some(Reply::json(200, r#"{"status":"resumed","request_id":"hitl-1"}"#)),
        _ => None,
    });
    let said = chat(&engine, "delete the old one\nno: keep it\n").expect(0);
    let answers = engine.seen_at("/hitl/respond");
    assert_eq!(answers.len(), 1);
    assert_eq!(answers[0].json(), json!({"request_id": "hitl-1", "answer": "no", "feedback": "keep it"}));
    for word in ["rm -rf /srv/old", "deletes recursively", "permission denied", "I left it."] {
        assert!(said.out.contains(word), "{word}: {}", said.out);
    }
}

#[test]
fn a_question_nobody_can_answer_ends_the_script_and_not_the_turn() {
    let engine = engine(|seen| match seen.path.as_str() {
        "/execute" => Some(whole(vec![send(started(1) + &prompt(2)), Piece::WaitFor("/never")])),
        _ => None,
    });
    let said = chat(&engine, "delete the old one\n").expect(1);
    assert!(said.err.contains(&format!("chat --url {} --task t", engine.url())), "{}", said.err);
    assert!(engine.seen_at("/execute/cancel").is_empty());
}

#[test]
fn a_running_turn_is_joined_and_what_is_settled_is_not_asked() {
    let engine = engine(|seen| match seen.path.split('?').next() {
        Some("/tasks/t") => Some(Reply::json(
            200,
            r#"{"task_id":"t","title":"Hi","status":"running","last_turn":{"turn_id":"turn-1","state":"running"},"pending":[]}"#,
        )),
        Some("/tasks/t/messages") => Some(Reply::json(
            200,
            r#"{"messages":[{"message_id":"msg-0","turn_id":"turn-0","role":"assistant","content":[{"type":"text","text":"Earlier answer."}]},
                {"message_id":"msg-1","turn_id":"turn-1","role":"user","content":[{"type":"text","text":"And now?"}]}],"next_cursor":null}"#,
        )),
        Some("/execute/replay") => {
            let other = started(1).replace("turn-1", "turn-0")
                + &text(2, "Earlier answer.").replace("turn-1", "turn-0");
            let resolved = json!({"request_id": "hitl-1", "kind": "permission", "resolution": "answered", "answer": "yes"});
            Some(whole(vec![send(
                other
                    + &started(3)
                    + &prompt(4)
                    + &frame(5, "hitl_resolved", resolved)
                    + &text(6, "Done.")
                    + &completed(7),
            )]))
        }
        _ => None,
    });
    let said = chat(&engine, "").expect(0);
    assert!(!said.out.contains("Earlier answer."), "a script gets no history: {}", said.out);
    assert!(said.out.contains("And now?") && said.out.contains("Done."), "{}", said.out);
    assert!(!said.out.contains("rm -rf"), "{}", said.out);
}

#[test]
fn a_busy_task_is_followed_and_then_the_message_is_sent() {
    let posts = std::sync::atomic::AtomicUsize::new(0);
    let engine = engine(move |seen| match seen.path.split('?').next() {
        Some("/execute") if posts.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 0 => {
            Some(Reply::json(
                409,
                r#"{"error":"TASK_BUSY","message":"busy","details":{"task_id":"t","turn_id":"turn-1","state":"running"}}"#,
            ))
        }
        Some("/execute") => Some(whole(vec![send(
            (started(5) + &text(6, "second") + &completed(7)).replace("turn-1", "turn-2"),
        )])),
        Some("/execute/replay") => Some(whole(vec![send(started(1) + &text(2, "first") + &completed(3))])),
        _ => None,
    });
    let said = chat(&engine, "hi\n").expect(0);
    let (first, second) = (said.out.find("first"), said.out.find("second"));
    assert!(first.is_some() && first < second, "{}", said.out);
}

#[test]
fn an_errored_turn_fails_the_script() {
    let engine = engine(|seen| match seen.path.as_str() {
        "/execute" => Some(whole(vec![send(
            started(1)
                + &frame(2, "error", json!({"error": "PROVIDER_TIMEOUT", "message": "nothing came"}))
                + &frame(3, "thread_lifecycle", json!({"phase": "errored", "error": "PROVIDER_TIMEOUT"})),
        )])),
        _ => None,
    });
    let said = chat(&engine, "hi\n").expect(1);
    assert!(said.out.contains("PROVIDER_TIMEOUT: nothing came"), "{}", said.out);
}

#[test]
fn an_absent_engine_a_wrong_key_and_no_key_each_say_what_to_do() {
    let said = Place::new().run(&["chat", "--url", "http://127.0.0.1:1"]).expect(1);
    assert!(
        said.err.contains("september-engine serve") && said.err.contains("http://127.0.0.1:1"),
        "{}",
        said.err
    );

    let strict = FakeEngine::start(|_| Reply::json(401, r#"{"error":"INVALID_KEY","message":"no"}"#));
    let said = chat(&strict, "hi\n").expect(1);
    assert!(said.err.contains("ENGINE_API_KEY") && !said.err.contains("canary"), "{}", said.err);

    let keyless = Place::new().without("ENGINE_API_KEY").with("ENGINE_KEY_HASH", &"a".repeat(64));
    let said = keyless.run(&["chat"]).expect(2);
    assert!(said.err.contains("ENGINE_KEY_HASH is set"), "{}", said.err);

    let said = Place::new().run(&["chat", "--url", "localhost:8000"]).expect(2);
    assert!(said.err.contains("http://host"), "{}", said.err);

    let proxied =
        Place::new().with("HTTP_PROXY", "http://127.0.0.1:1").with("http_proxy", "http://127.0.0.1:1");
    let up = engine(|_| None);
    proxied.run(&["chat", "--url", &up.url()]).expect(0);

    let other = FakeEngine::start(|_| Reply::json(200, "<html>"));
    assert!(chat(&other, "hi\n").expect(1).err.contains("does not answer like an Engine"));
}

#[test]
fn commands_work_in_a_script_and_an_unknown_one_fails_it() {
    let engine = engine(|seen| match seen.path.split('?').next() {
        Some("/tasks") => Some(Reply::json(
            200,
            r#"{"tasks":[{"task_id":"demo-1","title":"List \u001b[2J files","status":"idle","turn_count":3,"updated_at":"2026-04-27T12:34:56.000Z"}],"next_cursor":null}"#,
        )),
        Some("/hitl/pending") => Some(Reply::json(200, r#"{"pending":[]}"#)),
        Some("/execute/cancel") => {
            Some(Reply::json(200, r#"{"status":"idle","task_id":"t","turn_id":null}"#))
        }
        _ => None,
    });
    let said = chat(&engine, "/help\n/tasks\n/pending\n/cancel\n/quit\nnever sent\n").expect(0);
    for word in ["/retry", "demo-1", "3 turns", "nothing waits", "(idle)"] {
        assert!(said.out.contains(word), "{word}: {}", said.out);
    }
    assert!(!said.out.contains('\x1b'), "{:?}", said.out);
    assert!(engine.seen_at("/execute").is_empty());
    assert!(chat(&engine, "/fly\n").expect(1).err.contains("/help"));
}

#[test]
fn a_question_nobody_answers_is_left_with_a_line_that_can_be_typed() {
    let engine = engine(|seen| match seen.path.as_str() {
        "/execute" => Some(whole(vec![send(started(1) + &prompt(2))])),
        _ => None,
    });
    let said = chat(&engine, "delete the old one\n").expect(1);
    let whom = format!("talking to the Engine at {}, task t\n", engine.url());
    assert!(said.err.starts_with(&whom), "{}", said.err);
    let back = format!("september-engine chat --url {} --task t", engine.url());
    assert!(said.err.contains(&back), "{}", said.err);

    let place = Place::new().without("ENGINE_API_KEY");
    std::fs::write(place.path("my.env"), "ENGINE_API_KEY=canary-key-0001\n").expect("a file");
    let said = place
        .run_with(
            &["--env-file", "my.env", "chat", "--url", &engine.url(), "--task", "t"],
            "delete the old one\n",
        )
        .expect(1);
    let back = format!("september-engine --env-file my.env chat --url {} --task t", engine.url());
    assert!(said.err.contains(&back), "{}", said.err);
}

#[test]
fn a_missing_key_is_not_answered_with_the_advice_to_make_another() {
    let said = Place::new().without("ENGINE_API_KEY").run(&["chat"]).expect(2);
    assert!(said.err.contains("ENGINE_API_KEY") && said.err.contains("--env-file"), "{}", said.err);
    assert!(!said.err.contains("hash-key"), "it would make a wrong key: {}", said.err);
}
