//! People in the loop: prompts, questions, answers, remembered permissions; across restarts and in time.

mod expiry;
mod moved;
mod reasons;

use crate::support::http::Ask;
use crate::support::sse::{Frame, Turn};
use crate::support::{Engine, Setup, put_file};
use serde_json::{Value, json};
use testbed::{Reply, Script, ScriptedModel};

/// A model that makes this call when nothing has been answered yet, and then ends.
pub async fn calls(tool: &'static str, input: Value) -> ScriptedModel {
    ScriptedModel::start(Script::from_fn(move |r| {
        let answered = r.messages.last().is_some_and(|m| !m.results.is_empty());
        if answered { Reply::text("All done.") } else { Reply::new().tool_call(tool, input.clone()) }
    }))
    .await
}

/// A model that answers every message with these calls, one after the other, and then ends.
pub async fn calls_in_order(calls: Vec<(&'static str, Value)>) -> ScriptedModel {
    ScriptedModel::start(Script::from_fn(move |r| {
        let since = r.messages.iter().rev().take_while(|m| m.role != "user");
        match calls.get(since.filter(|m| !m.results.is_empty()).count()) {
            Some((tool, input)) => Reply::new().tool_call(tool, input.clone()),
            None => Reply::text("All done."),
        }
    }))
    .await
}

/// A turn to its end, with these answers to the questions it asks.
pub async fn answering(engine: &Engine, task: &str, answers: &[&str]) -> Turn {
    let mut stream = engine.execute(json!({"task_id": task, "message": "go"})).await;
    let mut frames = Vec::new();
    for answer in answers {
        frames.extend(stream.until_event("hitl_request").await);
        let asked = &frames.last().expect("a question").data["request_id"];
        engine.answer(json!({"request_id": asked, "answer": answer})).await;
    }
    frames.extend(stream.rest().await);
    Turn::checked(frames, false)
}

/// What one field of every frame of this kind says.
pub fn each(turn: &Turn, event: &str, field: &str) -> Vec<Value> {
    turn.all(event).iter().map(|f| f.data[field].clone()).collect()
}

/// A directory outside the workspace, and an Engine whose model wants it gone.
async fn removing(setup: impl Fn(&ScriptedModel) -> Setup) -> (ScriptedModel, Engine, tempfile::TempDir) {
    let outside = tempfile::tempdir().expect("a directory");
    put_file(&outside.path().join("old"), "file", "x");
    let victim = outside.path().join("old").display().to_string();
    let model = calls("bash", json!({"command": format!("rm -rf {victim}")})).await;
    let engine = setup(&model).start().await;
    (model, engine, outside)
}

async fn paused(engine: &Engine, task: &str) -> (crate::support::sse::Stream, Vec<Frame>, Value) {
    let mut stream = engine.execute(json!({"task_id": task, "message": "clean up"})).await;
    let frames = stream.until_event("hitl_request").await;
    let pending = engine.pending().await;
    engine.until(&format!("/tasks/{task}"), |t| t["status"] == "paused").await;
    (stream, frames, pending)
}

#[tokio::test]
async fn a_prompt_shows_everything_and_yes_lets_exactly_this_call_act() {
    let (model, engine, outside) = removing(Setup::scripted).await;
    let (stream, mut frames, pending) = paused(&engine, "p").await;
    let asked = frames.last().expect("the request").data.clone();
    for field in
        ["request_id", "kind", "question", "options", "tool", "input", "reason", "created_at", "expires_at"]
    {
        assert_eq!(pending[field], asked[field], "{field}");
        assert!(!asked[field].is_null(), "{field}: {asked}");
    }
    assert_eq!((&asked["kind"], &asked["options"]), (&json!("permission"), &json!(["yes", "no", "always"])));
    assert!(asked["rule"].as_str().is_some_and(|r| r.starts_with("bash:rm -rf")), "{asked}");
    assert_eq!(engine.json("/tasks/p").await["pending"][0]["request_id"], asked["request_id"]);
    // a paused turn does not count
    let health = engine.until("/health", |health| health["activity"]["in_flight_turns"] == 0).await;
    assert_eq!(health["activity"]["next_scheduled_at"], asked["expires_at"]);
    assert!(outside.path().join("old/file").exists(), "it acted before it was allowed");

    let busy = engine.post("/execute", json!({"task_id": "p", "message": "and?"})).await;
    let busy = busy.error(409, "HITL_REQUIRED").await;
    assert_eq!(busy["details"]["pending"], json!([pending]));

    let answer = json!({"request_id": asked["request_id"], "task_id": "p", "answer": "YES"});
    let done = engine.answer(answer.clone()).await;
    assert_eq!(done, json!({"status": "resumed", "request_id": asked["request_id"]}));
    frames.extend(stream.rest().await);
    let turn = Turn::checked(frames, false);
    let resolved = turn.one("hitl_resolved");
    assert_eq!((resolved.text("resolution"), resolved.text("answer")), ("answered", "yes"));
    let result = &turn.one("tool_result").data;
    assert_eq!(result["output"]["exit_code"], 0, "{result}");
    assert!(!outside.path().join("old").exists(), "yes did not let it act");
    let again = engine.post("/hitl/respond", answer).await.error(409, "CONFLICT").await;
    assert_eq!(again["details"]["reason"], "already_answered");
    engine
        .post("/hitl/respond", json!({"task_id": "p", "answer": "yes"}))
        .await
        .error(404, "TASK_NOT_FOUND")
        .await;
    assert_eq!(engine.json("/hitl/pending").await, json!({"pending": []}));
    assert_ne!(engine.health().await["activity"]["next_scheduled_at"], asked["expires_at"]);
    model.assert_no_problems();
}

#[tokio::test]
async fn no_with_feedback_is_told_to_the_model_and_nothing_happens() {
    let (model, engine, outside) = removing(Setup::scripted).await;
    let (stream, mut frames, _) = paused(&engine, "p").await;
    engine.answer(json!({"task_id": "p", "answer": "no", "feedback": "keep it until Monday"})).await;
    frames.extend(stream.rest().await);
    let turn = Turn::checked(frames, false);
    assert_eq!(turn.one("tool_result").text("reason"), "permission_denied");
    assert!(outside.path().join("old/file").exists());
    let told = model.calls()[1].results()[0].text.clone();
    assert!(told.contains("keep it until Monday"), "{told}");
    model.assert_no_problems();
}

#[tokio::test]
async fn always_is_remembered_for_that_task_until_it_is_revoked() {
    let (model, engine, _outside) = removing(Setup::scripted).await;
    let (stream, _, _) = paused(&engine, "p").await;
    engine.answer(json!({"task_id": "p", "answer": "Always"})).await;
    stream.rest().await;
    let listed = engine.json("/permissions?task_id=p").await;
    let permission = listed["permissions"][0].clone();
    assert_eq!((&permission["task_id"], &permission["tool"]), (&json!("p"), &json!("bash")));
    let second = engine.turn("p", "once more").await;
    assert_eq!((second.count("hitl_request"), second.count("tool_result")), (0, 1), "it asked again");
    // another task asks for itself
    let (other, _, pending) = paused(&engine, "q").await;
    assert_eq!(engine.json("/permissions?task_id=q").await["permissions"], json!([]));
    engine.answer(json!({"request_id": pending["request_id"], "answer": "no"})).await;
    other.rest().await;
    let id = permission["id"].as_str().expect("an id");
    let revoked = engine.send(Ask::delete(&format!("/permissions/{id}"))).await.ok().await;
    assert_eq!(revoked, json!({"status": "revoked", "id": id}));
    engine.send(Ask::delete(&format!("/permissions/{id}"))).await.error(404, "NOT_FOUND").await;
    engine.send(Ask::delete("/permissions/nonsense")).await.error(404, "NOT_FOUND").await;
    let (third, _, _) = paused(&engine, "p").await;
    engine.answer(json!({"task_id": "p", "answer": "no"})).await;
    third.rest().await;
    engine.get("/permissions?task_id=nobody").await.error(404, "TASK_NOT_FOUND").await;
    model.assert_no_problems();
}

#[tokio::test]
async fn a_question_is_answered_in_free_text_with_blocks() {
    let model = calls("ask_user", json!({"question": "Which colour?", "options": ["red", "blue"]})).await;
    let engine = Setup::scripted(&model).start().await;
    let (stream, mut frames, pending) = paused(&engine, "q").await;
    assert_eq!((&pending["kind"], &pending["options"]), (&json!("question"), &json!(["red", "blue"])));
    for absent in ["tool", "input", "reason"] {
        assert!(pending.get(absent).is_none_or(Value::is_null), "{pending}");
    }
    engine
        .answer(json!({
            "task_id": "q", "answer": "green, yes", "feedback": "dark",
            "content_blocks": [{"type": "text", "text": "like grass"}],
        }))
        .await;
    frames.extend(stream.rest().await);
    let turn = Turn::checked(frames, false);
    assert_eq!(turn.one("tool_result").data["output"], json!({"answer": "green, yes", "feedback": "dark"}));
    assert_eq!(turn.one("hitl_resolved").text("answer"), "green, yes");
    let told = model.calls()[1].results()[0].text.clone();
    assert!(["green, yes", "dark", "like grass"].iter().all(|w| told.contains(w)), "{told}");
    model.assert_no_problems();
}

#[tokio::test]
async fn an_answer_that_does_not_fit_is_refused_and_the_prompt_stays() {
    let (_model, engine, _outside) = removing(Setup::scripted).await;
    let (stream, _, pending) = paused(&engine, "p").await;
    let id = &pending["request_id"];
    let send = async |body: Value| engine.post("/hitl/respond", body).await;
    for (bad, field) in [
        (json!({"request_id": id, "answer": "maybe"}), "answer"),
        (json!({"request_id": id}), "answer"),
        (json!({"request_id": id, "answer": ""}), "answer"),
        (json!({"request_id": id, "answer": true}), "answer"),
        (json!({"request_id": id, "answer": "x".repeat(100_001)}), "answer"),
        (json!({"request_id": id, "answer": "no", "feedback": "x".repeat(10_001)}), "feedback"),
        (json!({"request_id": id, "answer": "no", "content_blocks": {}}), "content_blocks"),
        (json!({"answer": "no"}), "request_id"),
    ] {
        let error = send(bad).await.error(400, "INVALID_REQUEST").await;
        assert_eq!(error["details"]["field"], field, "{error}");
    }
    for bad in [
        json!({"request_id": "hitl-00000000000000000000000000000000", "answer": "no"}),
        json!({"request_id": "nonsense", "answer": "no"}),
        json!({"task_id": "nobody", "answer": "no"}),
        json!({"task_id": "nobody", "request_id": id, "answer": "no"}),
    ] {
        send(bad).await.error(404, "TASK_NOT_FOUND").await;
    }
    assert_eq!(engine.pending().await["request_id"], *id);
    engine.answer(json!({"task_id": "p", "answer": " no "})).await;
    stream.rest().await;
}

#[tokio::test]
async fn a_prompt_does_not_hold_up_the_other_calls_and_each_is_answered_alone() {
    let outside = tempfile::tempdir().expect("a directory");
    let file = |n: u8| json!({"path": outside.path().join(n.to_string()), "content": "x"});
    let model = ScriptedModel::start(Script::sequence([
        Reply::new()
            .tool_call("write_file", file(1))
            .tool_call("bash", json!({"command": "echo free"}))
            .tool_call("write_file", file(2)),
        Reply::text("All done."),
    ]))
    .await;
    let engine = Setup::scripted(&model).start().await;
    let mut stream = engine.execute(json!({"task_id": "p", "message": "write"})).await;
    let mut frames = stream.until_event("tool_result").await;
    assert_eq!(frames.last().expect("a result").data["output"]["stdout"], "free\n");
    let both = engine.until("/hitl/pending", |p| p["pending"].as_array().is_some_and(|p| p.len() == 2)).await;
    let second = both["pending"]
        .as_array()
        .expect("prompts")
        .iter()
        .find(|p| p["input"]["path"].as_str().is_some_and(|p| p.ends_with("/2")))
        .expect("the second");
    engine.answer(json!({"request_id": second["request_id"], "answer": "yes"})).await;
    frames.extend(stream.until_event("tool_result").await);
    assert!(outside.path().join("2").exists() && !outside.path().join("1").exists());
    engine.answer(json!({"task_id": "p", "answer": "no"})).await;
    frames.extend(stream.rest().await);
    let turn = Turn::checked(frames, false);
    assert_eq!(turn.count("hitl_resolved"), 2);
    assert!(!outside.path().join("1").exists());
    let results = model.calls()[1].results();
    assert!(results[1].text.contains("free") && results.len() == 3, "{results:?}");
    model.assert_no_problems();
}

#[tokio::test]
async fn a_pending_prompt_survives_kill_9_and_its_answer_lets_the_same_stream_go_on() {
    let (model, engine, outside) = removing(Setup::scripted).await;
    let (stream, mut frames, pending) = paused(&engine, "p").await;
    let setup = engine.setup.clone();
    engine.kill();
    drop(stream);
    let engine = setup.start().await;
    assert_eq!(engine.pending().await, pending);
    assert_eq!(engine.json("/tasks/p").await["status"], "paused");
    assert_eq!(engine.health().await["activity"]["next_scheduled_at"], pending["expires_at"]);
    let after = frames.last().expect("the request").id.to_string();
    let ask = Ask::get("/execute/replay?task_id=p").header("last-event-id", &after);
    let stream = engine.send(ask).await.stream();
    engine.answer(json!({"task_id": "p", "answer": "yes"})).await;
    frames.extend(stream.rest().await);
    assert_eq!(Turn::checked(frames, false).text(), "All done.");
    assert!(!outside.path().join("old").exists());
    model.assert_no_problems();
}
