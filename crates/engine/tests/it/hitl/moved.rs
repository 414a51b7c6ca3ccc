//! An answer is for what the person saw: a link that is moved while the question waits, or after an `always`, asks anew.
//!
//! Links are moved by the test itself, at the moments a script in the workspace could choose.

use super::{answering, calls, paused};
use crate::support::sse::Turn;
use crate::support::{Engine, Setup, put_file};
use serde_json::{Value, json};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use testbed::{Reply, Script, ScriptedModel};

/// Two places outside, each with `dir/keep` and `v`, and a link `go` in the workspace that leads to one of them.
struct Places {
    dir: tempfile::TempDir,
    workspace: PathBuf,
}

impl Places {
    fn of(setup: &Setup) -> Self {
        let places = Self { dir: tempfile::tempdir().expect("a directory"), workspace: setup.workspace() };
        for name in ["a", "b"] {
            put_file(&places.at(name).join("dir"), "keep", name);
            put_file(&places.at(name), "v", name);
        }
        std::fs::create_dir_all(&places.workspace).expect("a workspace");
        places.lead_to("a");
        places
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().canonicalize().expect("is there").join(name)
    }

    /// Moves the link in one step, as an attacker would.
    fn lead_to(&self, name: &str) {
        self.lead(&self.at(name));
    }

    fn lead(&self, target: &Path) {
        let fresh = self.workspace.join(".fresh");
        symlink(target, &fresh).expect("linked");
        std::fs::rename(&fresh, self.workspace.join("go")).expect("moved");
    }

    fn untouched(&self, name: &str) -> bool {
        let text = |file: &str| std::fs::read_to_string(self.at(name).join(file)).unwrap_or_default();
        text("dir/keep") == name && text("v") == name && !self.at(name).join("new").exists()
    }
}

/// An Engine whose model wants this one call.
async fn wanting(tool: &'static str, input: Value) -> (ScriptedModel, Engine, Places) {
    let model = calls(tool, input).await;
    let setup = Setup::scripted(&model);
    let places = Places::of(&setup);
    (model, setup.start().await, places)
}

/// Every call that changes something through the link, and the question's beginning.
fn ways() -> Vec<(&'static str, Value)> {
    vec![
        ("bash", json!({"command": "rm -rf go/dir"})),
        ("bash", json!({"command": "echo hi > go/v"})),
        ("bash", json!({"command": "cd go && rm -rf dir"})),
        ("bash", json!({"command": "touch go/new"})),
        ("write_file", json!({"path": "go/v", "content": "hi"})),
        ("edit_file", json!({"path": "go/v", "old_text": "a", "new_text": "hi"})),
    ]
}

#[tokio::test]
async fn a_yes_is_not_spent_on_the_place_a_link_was_moved_to_meanwhile() {
    for (tool, input) in ways() {
        let (model, engine, places) = wanting(tool, input.clone()).await;
        let (mut stream, mut frames, first) = paused(&engine, "p").await;
        places.lead_to("b");
        engine.answer(json!({"request_id": first["request_id"], "answer": "yes"})).await;
        frames.extend(stream.until_event("hitl_request").await);
        assert!(places.untouched("a") && places.untouched("b"), "{input}: an old yes was spent");
        let again = frames.last().expect("a question").data.clone();
        assert_ne!(again["request_id"], first["request_id"], "{input}");
        assert_eq!(again["tool_call_id"], first["tool_call_id"], "{input}");
        let said = format!("{} {}", again["question"], again["reason"]);
        assert!(said.contains(&places.at("b").display().to_string()), "{input}: {said}");
        assert!(said.contains("changed since the answer"), "{input}: {said}");
        engine.answer(json!({"request_id": again["request_id"], "answer": "no"})).await;
        frames.extend(stream.rest().await);
        let turn = Turn::checked(frames, false);
        assert_eq!(turn.one("tool_result").text("reason"), "permission_denied", "{input}");
        assert!(places.untouched("a") && places.untouched("b"), "{input}");
        model.assert_no_problems();
    }
}

#[tokio::test]
async fn a_second_yes_is_for_the_new_place_and_a_restart_in_between_changes_nothing() {
    let (model, engine, places) = wanting("bash", json!({"command": "rm -rf go/dir"})).await;
    let (stream, frames, first) = paused(&engine, "p").await;
    let setup = engine.setup.clone();
    engine.kill();
    drop(stream);
    places.lead_to("b");
    let engine = setup.start().await;
    engine.answer(json!({"request_id": first["request_id"], "answer": "yes"})).await;
    let changed =
        |p: &Value| p["pending"][0]["request_id"].as_str().is_some_and(|id| first["request_id"] != id);
    let again = engine.until("/hitl/pending", changed).await["pending"][0].clone();
    assert!(places.untouched("a") && places.untouched("b"), "an old yes was spent");
    engine.kill();
    let engine = setup.start().await;
    assert_eq!(engine.pending().await, again, "the second question survives as the first did");
    engine.answer(json!({"request_id": again["request_id"], "answer": "yes"})).await;
    engine.until("/tasks/p", |t| t["status"] == "idle" || t["status"] == "completed").await;
    assert!(places.untouched("a") && !places.at("b").join("dir").exists(), "{frames:?}");
    model.assert_no_problems();
}

#[tokio::test]
async fn always_holds_for_the_places_it_was_said_about() {
    for (tool, input) in ways().into_iter().filter(|(_, input)| input["old_text"].is_null()) {
        let (model, engine, places) = wanting(tool, input.clone()).await;
        assert_eq!(answering(&engine, "p", &["always"]).await.count("hitl_request"), 1);
        assert!(!places.untouched("a"), "{input}: it did not run");
        assert_eq!(answering(&engine, "p", &[]).await.count("hitl_request"), 0, "{input}: it is remembered");
        let setup = engine.setup.clone();
        engine.kill();
        places.lead_to("b");
        let engine = setup.start().await;
        let turn = answering(&engine, "p", &["no"]).await;
        assert_eq!(turn.count("hitl_request"), 1, "{input}");
        assert!(places.untouched("b"), "{input}: an old `always` was spent");
        places.lead_to("a");
        assert_eq!(
            answering(&engine, "p", &[]).await.count("hitl_request"),
            0,
            "{input}: for a it still holds"
        );
        model.assert_no_problems();
    }
}

#[tokio::test]
async fn always_said_about_a_file_of_the_workspace_is_not_for_another_one() {
    let (model, engine, places) = wanting("bash", json!({"command": ": > go"})).await;
    for name in ["big1", "big2"] {
        put_file(&places.workspace, name, &"x".repeat(9000));
    }
    places.lead(&places.workspace.join("big1"));
    assert_eq!(answering(&engine, "p", &["always"]).await.count("hitl_request"), 1);
    places.lead(&places.workspace.join("big2"));
    assert_eq!(answering(&engine, "p", &["no"]).await.count("hitl_request"), 1);
    let size = |name: &str| std::fs::metadata(places.workspace.join(name)).expect("is there").len();
    assert_eq!((size("big1"), size("big2")), (0, 9000));
    model.assert_no_problems();
}

#[tokio::test]
async fn a_call_that_waits_does_not_run_because_a_moved_link_made_it_harmless() {
    let remove = json!({"command": "rm -rf go/dir"});
    let model = ScriptedModel::start(Script::sequence([
        Reply::new().tool_call("bash", remove).tool_call("bash", json!({"command": "git push --force"})),
        Reply::text("All done."),
    ]))
    .await;
    let setup = Setup::scripted(&model);
    let places = Places::of(&setup);
    let engine = setup.start().await;
    let stream = engine.execute(json!({"task_id": "p", "message": "go"})).await;
    let both = engine.until("/hitl/pending", |p| p["pending"].as_array().is_some_and(|p| p.len() == 2)).await;
    let id = |words: &str| {
        let asked = both["pending"].as_array().expect("prompts").iter();
        let mut asked = asked.filter(|p| p["question"].as_str().is_some_and(|q| q.contains(words)));
        asked.next().expect("asked")["request_id"].clone()
    };
    put_file(&places.workspace.join("mine/dir"), "keep", "mine");
    places.lead(&places.workspace.join("mine"));
    // this answer makes every waiting call look again
    engine.answer(json!({"request_id": id("git push"), "answer": "no"})).await;
    engine.until("/hitl/pending", |p| p["pending"].as_array().is_some_and(|p| p.len() == 1)).await;
    engine.answer(json!({"request_id": id("rm -rf"), "answer": "no"})).await;
    let turn = Turn::checked(stream.rest().await, false);
    assert_eq!(
        super::each(&turn, "tool_result", "reason"),
        [json!("permission_denied"), json!("permission_denied")]
    );
    assert!(places.workspace.join("mine/dir/keep").exists(), "the no was not obeyed");
    model.assert_no_problems();
}

#[tokio::test]
async fn a_link_that_keeps_moving_does_not_ask_for_ever() {
    let (model, engine, places) = wanting("bash", json!({"command": "rm -rf go/dir"})).await;
    let mut stream = engine.execute(json!({"task_id": "p", "message": "go"})).await;
    let mut frames = Vec::new();
    for number in 0..3 {
        frames.extend(stream.until_event("hitl_request").await);
        let asked = frames.last().expect("a question").data["request_id"].clone();
        put_file(&places.at(&format!("next{number}")).join("dir"), "keep", "x");
        places.lead_to(&format!("next{number}"));
        engine.answer(json!({"request_id": asked, "answer": "yes"})).await;
    }
    frames.extend(stream.rest().await);
    let turn = Turn::checked(frames, false);
    assert_eq!(
        (turn.count("hitl_request"), turn.one("tool_result").text("reason")),
        (3, "permission_denied")
    );
    assert!(places.untouched("a") && places.at("next2").join("dir/keep").exists());
    model.assert_no_problems();
}
