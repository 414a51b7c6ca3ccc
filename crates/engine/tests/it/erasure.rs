//! Forgetting that really forgets: of a memory, of a task, of what was corrected, no byte is left in the brain's files.

use crate::hitl::calls;
use crate::learning::{answer, batch, facts, is_lesson, line_of};
use crate::support::http::Ask;
use crate::support::{Engine, Setup, eventually, put_file};
use rusqlite::Connection;
use serde_json::{Value, json};
use testbed::{Gate, Reply, Script, ScriptedModel};

/// Stands in everything that is to be forgotten. No word has it by chance.
const MARKER: &str = "qzxwmarkerjvk";

/// The files beside the brain that hold its bytes.
fn holds(setup: &Setup) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(setup.brain().parent().expect("a directory")).expect("a directory") {
        let path = entry.expect("an entry").path();
        let Ok(bytes) = std::fs::read(&path) else { continue };
        if bytes.windows(MARKER.len()).any(|w| w.eq_ignore_ascii_case(MARKER.as_bytes())) {
            found.push(path.file_name().expect("a name").to_string_lossy().into_owned());
        }
    }
    found
}

/// The tables whose rows still name it, for the message of a failing test.
fn tables(setup: &Setup) -> Vec<String> {
    let brain = Connection::open(setup.brain()).expect("the brain");
    let names = |sql: &str| -> Vec<String> {
        let mut found = brain.prepare(sql).expect("a query");
        let rows = found.query_map([], |r| r.get(0)).expect("rows");
        rows.collect::<Result<_, _>>().expect("names")
    };
    let mut left = Vec::new();
    for table in names("SELECT name FROM sqlite_schema WHERE type = 'table' AND sql NOT LIKE '%VIRTUAL%'") {
        for column in names(&format!("SELECT name FROM pragma_table_info('{table}')")) {
            let sql = format!(
                "SELECT count(*) FROM \"{table}\" WHERE instr(lower(CAST(\"{column}\" AS TEXT)), '{MARKER}') > 0"
            );
            if brain.query_row(&sql, [], |r| r.get::<_, i64>(0)).expect("a count") > 0 {
                left.push(format!("{table}.{column}"));
            }
        }
    }
    left
}

async fn stop(mut engine: Engine) {
    engine.signal(rustix::process::Signal::TERM);
    assert_eq!(engine.exit_code().await, 0);
}

async fn created(engine: &Engine, store: &str, body: Value) -> String {
    let answer = engine.post(&format!("/memory/{store}"), body).await.ok().await;
    answer["item"]["id"].as_str().expect("an id").to_owned()
}

async fn delete(engine: &Engine, target: &str) {
    engine.send(Ask::new("DELETE", target)).await.ok().await;
}

#[tokio::test]
async fn erased_corrected_and_replaced_texts_leave_no_byte_in_the_brain_s_files() {
    let setup = Setup::offline();
    let engine = setup.start().await;
    // others, so that pages and index segments are shared
    for n in 0..40 {
        created(
            &engine,
            "knowledge",
            json!({"subject": format!("s {n}"), "content": format!("filler number {n}")}),
        )
        .await;
    }
    let fact =
        created(&engine, "knowledge", json!({"subject": MARKER, "content": format!("{MARKER} is secret")}))
            .await;
    let long = format!("{MARKER} {}", "and more ".repeat(1500));
    let episode =
        created(&engine, "episodes", json!({"key": "k", "description": MARKER, "value": long})).await;
    let relations = json!([{"relation": "knows", "to": "Ben"}]);
    let node = created(
        &engine,
        "social",
        json!({"name": MARKER, "aliases": [format!("{MARKER}2")], "relationships": relations}),
    )
    .await;
    let corrected =
        created(&engine, "knowledge", json!({"subject": "c", "content": format!("wrongly {MARKER}")})).await;
    let mut incoming = crate::bundle::bundle((0..3).map(crate::bundle::fact).collect());
    incoming["knowledge"][1]["content"] = json!(format!("imported {MARKER}"));
    engine.post("/memory/import", incoming).await.ok().await;
    let empty = crate::bundle::bundle((5..6).map(crate::bundle::fact).collect());
    for query in [MARKER, "secret"] {
        engine.post("/memory/knowledge/search", json!({"query": query})).await.ok().await;
    }
    let patch = json!({"content": "rightly something else"}).to_string();
    engine.send(Ask::new("PATCH", &format!("/memory/knowledge/{corrected}")).body(patch)).await.ok().await;
    for (store, id) in [("knowledge", &fact), ("episodes", &episode), ("social", &node)] {
        delete(&engine, &format!("/memory/{store}/{id}")).await;
    }
    // the imported row goes as replacing imports let rows go
    engine.post("/memory/import?mode=replace", empty).await.ok().await;
    stop(engine).await;
    assert_eq!(holds(&setup), [""; 0], "before any vacuum");
    vacuum(&setup);
    assert_eq!(holds(&setup), [""; 0], "after the vacuum");
}

fn vacuum(setup: &Setup) {
    let out = setup.command(&["vacuum"]).output().expect("the binary runs");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
}

#[tokio::test]
async fn a_deleted_task_leaves_no_byte_of_what_was_said_in_it() {
    let model = ScriptedModel::start(Script::from_fn(|r| match r.results().len() {
        _ if r.last_user_text() == "hello" => Reply::text("hi"),
        _ if r.tools.is_empty() => Reply::text(&format!("They spoke of {MARKER}.")),
        0 => Reply::new()
            .say(&format!("Looking for {MARKER}."))
            .tool_call("read_file", json!({"path": "m.txt"}))
            .tool_call("working_memory_write", json!({"key": "k", "value": MARKER})),
        _ => Reply::text(&format!("It is {MARKER}.")),
    }))
    .await;
    let setup = Setup::scripted(&model).with("LLM_CONTEXT_WINDOW", "16000").with("COMPACT_KEEP_TURNS", "1");
    // more than the output limit, so that the whole of it becomes a blob
    put_file(&setup.workspace(), "m.txt", &format!("{MARKER} in a line\n").repeat(6000));
    let engine = setup.start().await;
    engine.turn("other", "hello").await;
    for n in 0..3 {
        let media = json!([{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}}]);
        let body = json!({"task_id": MARKER, "message": format!("{n}: tell me of {MARKER}"), "media": media});
        engine.run(body).await;
    }
    let deleted = engine.send(Ask::new("DELETE", &format!("/tasks/{MARKER}?memories=true"))).await.ok().await;
    assert!(deleted["deleted"]["memories"].as_u64() > Some(0), "{deleted}");
    stop(engine).await;
    std::fs::remove_file(setup.workspace().join("m.txt")).expect("the person's own file");
    vacuum(&setup);
    assert_eq!(holds(&setup), [""; 0], "{:?}", tables(&setup));
    let brain = Connection::open(setup.brain()).expect("the brain");
    let left: i64 = brain.query_row("SELECT count(*) FROM tasks", [], |r| r.get(0)).expect("a count");
    assert_eq!(left, 1, "the other task is still there");
}

#[tokio::test]
async fn what_a_turn_recalled_does_not_outlive_the_memory_it_came_from() {
    let model = ScriptedModel::start(Script::from_fn(|_| Reply::text("I see."))).await;
    let setup = Setup::scripted(&model);
    let engine = setup.start().await;
    let fact = json!({"subject": "the lake", "content": format!("The lake has the colour {MARKER}.")});
    let fact = created(&engine, "knowledge", fact).await;
    engine.turn("a", "tell me of the colour of the lake").await;
    assert!(model.calls().iter().any(|r| r.body.to_string().contains(MARKER)), "it was never recalled");
    delete(&engine, &format!("/memory/knowledge/{fact}")).await;
    stop(engine).await;
    vacuum(&setup);
    assert_eq!(holds(&setup), [""; 0], "{:?}", tables(&setup));
}

/// Until no file beside a running Engine's brain holds it.
async fn until_no_byte(setup: &Setup) {
    eventually("the files hold nothing of it", || holds(setup).is_empty()).await;
}

#[tokio::test]
async fn what_a_correction_replaced_leaves_the_log_without_any_deletion() {
    let setup = Setup::offline();
    let engine = setup.start().await;
    let fact =
        created(&engine, "knowledge", json!({"subject": "c", "content": format!("wrongly {MARKER}")})).await;
    let node = created(&engine, "social", json!({"name": "Ada", "aliases": [MARKER]})).await;
    assert!(!holds(&setup).is_empty());
    for (target, patch) in [
        (format!("/memory/knowledge/{fact}"), json!({"content": "rightly something else"})),
        (format!("/memory/social/{node}"), json!({"aliases": []})),
    ] {
        engine.send(Ask::new("PATCH", &target).body(patch.to_string())).await.ok().await;
    }
    until_no_byte(&setup).await;
}

#[tokio::test]
async fn a_paused_turn_does_not_send_again_what_was_erased_while_it_waited() {
    let model = calls("ask_user", json!({"question": "Which colour?", "options": ["red", "blue"]})).await;
    let setup = Setup::scripted(&model);
    let engine = setup.start().await;
    let fact = json!({"subject": "the lake", "content": format!("The lake has the colour {MARKER}.")});
    let fact = created(&engine, "knowledge", fact).await;
    let mut stream =
        engine.execute(json!({"task_id": "a", "message": "tell me of the colour of the lake"})).await;
    let asked = stream.until_event("hitl_request").await;
    let asked = asked.last().expect("a question").data["request_id"].clone();
    assert!(model.calls()[0].body.to_string().contains(MARKER), "it was never recalled");
    delete(&engine, &format!("/memory/knowledge/{fact}")).await;
    until_no_byte(&setup).await;
    let before = model.calls().len();
    engine.answer(json!({"request_id": asked, "answer": "red"})).await;
    stream.rest().await;
    let after = &model.calls()[before..];
    assert!(!after.is_empty() && after.iter().all(|c| !c.body.to_string().contains(MARKER)));
    assert_eq!(holds(&setup), [""; 0], "{:?}", tables(&setup));
}

#[tokio::test]
async fn a_paused_turn_does_not_send_again_what_a_replacement_rewrote_while_it_waited() {
    let model = calls("ask_user", json!({"question": "Which colour?", "options": ["red", "blue"]})).await;
    let setup = Setup::scripted(&model);
    let engine = setup.start().await;
    let fact = json!({"subject": "the lake", "content": format!("The lake has the colour {MARKER}.")});
    created(&engine, "knowledge", fact).await;
    let mut bundle = engine.json("/memory/export").await;
    bundle["knowledge"][0]["content"] = json!("The lake has no colour.");
    let mut stream =
        engine.execute(json!({"task_id": "a", "message": "tell me of the colour of the lake"})).await;
    stream.until_event("hitl_request").await;
    assert!(model.calls()[0].body.to_string().contains(MARKER), "it was never recalled");
    engine.post("/memory/import?mode=replace", bundle).await.ok().await;
    let before = model.calls().len();
    engine.answer(json!({"task_id": "a", "answer": "red"})).await;
    stream.rest().await;
    let after = &model.calls()[before..];
    assert!(!after.is_empty() && after.iter().all(|c| !c.body.to_string().contains(MARKER)));
    until_no_byte(&setup).await;
}

#[tokio::test]
async fn a_running_turn_does_not_write_back_what_was_erased_under_it() {
    let gate = Gate::new();
    let held = gate.clone();
    let model = ScriptedModel::start(Script::from_fn(move |r| match r.results().len() {
        0 => Reply::new().hold(&held).tool_call("working_memory_write", json!({"key": "k", "value": "v"})),
        _ => Reply::text("I see."),
    }))
    .await;
    let setup = Setup::scripted(&model);
    let engine = setup.start().await;
    let fact = json!({"subject": "the lake", "content": format!("The lake has the colour {MARKER}.")});
    let fact = created(&engine, "knowledge", fact).await;
    let stream =
        engine.execute(json!({"task_id": "a", "message": "tell me of the colour of the lake"})).await;
    eventually("the first call", || model.calls().len() == 1).await;
    delete(&engine, &format!("/memory/knowledge/{fact}")).await;
    gate.open();
    stream.finish().await;
    let sent = model.calls();
    assert!(sent[0].body.to_string().contains(MARKER), "it was never recalled");
    assert!(sent.len() > 1 && sent[1..].iter().all(|c| !c.body.to_string().contains(MARKER)));
    until_no_byte(&setup).await;
}

#[tokio::test]
async fn a_reader_delays_the_emptying_of_the_log_but_not_the_answer() {
    let setup = Setup::offline();
    let engine = setup.start().await;
    let fact = created(&engine, "knowledge", json!({"subject": "s", "content": format!("x {MARKER}")})).await;
    let reader = Connection::open(setup.brain()).expect("the brain");
    reader.execute_batch("BEGIN").expect("a transaction");
    let rows: i64 = reader.query_row("SELECT count(*) FROM knowledge_store", [], |r| r.get(0)).expect("rows");
    assert_eq!(rows, 1);
    delete(&engine, &format!("/memory/knowledge/{fact}")).await;
    assert!(!holds(&setup).is_empty(), "the reader still sees it, so it must still be there");
    reader.execute_batch("COMMIT").expect("the end");
    until_no_byte(&setup).await;
}

#[tokio::test]
async fn a_deletion_that_was_cut_short_is_completed_and_takes_no_message_meanwhile() {
    let setup = Setup::offline();
    let engine = setup.start().await;
    engine.turn("a", "the old conversation").await;
    stop(engine).await;
    {
        // as a kill in the middle of a long deletion leaves it
        let brain = Connection::open(setup.brain()).expect("the brain");
        let many = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 40000)
                    INSERT INTO events (task_id, turn_id, event, data, ts) SELECT 'a', 'turn-x', 'usage', '{}', 1 FROM n";
        brain.execute(many, []).expect("events");
        brain.execute("INSERT INTO brain_meta VALUES ('deleting:a', 'history')", []).expect("a mark");
    }
    let engine = setup.start().await;
    let body = json!({"task_id": "a", "message": "the new conversation"});
    let mut refused = 0;
    let answer = loop {
        let answer = engine.post("/execute", body.clone()).await;
        if answer.status == 200 {
            break answer;
        }
        let error = answer.error(409, "TASK_BUSY").await;
        assert_eq!(error["details"]["state"], "deleting", "{error}");
        refused += 1;
    };
    answer.stream().finish().await;
    assert!(refused > 0, "the deletion was over before anybody could ask");
    engine.log_line(|l| l["message"] == "A deletion was completed after a restart").await;
    let messages = engine.json("/tasks/a/messages").await;
    let messages = messages["messages"].as_array().expect("messages");
    assert_eq!(messages.len(), 2, "only the new conversation: {messages:?}");
    delete(&engine, "/tasks/a").await;
    engine.get("/tasks/a").await.error(404, "TASK_NOT_FOUND").await;
    engine.kill();
    let brain = Connection::open(setup.brain()).expect("the brain");
    let marks: i64 = brain
        .query_row("SELECT count(*) FROM brain_meta WHERE key LIKE 'deleting:%'", [], |r| r.get(0))
        .expect("a count");
    assert_eq!(marks, 0);
}

#[tokio::test]
async fn erased_feedback_leaves_no_byte_of_its_words() {
    let setup = Setup::offline();
    let engine = setup.start().await;
    let turn = engine.turn("a", "hello").await;
    let message = turn.last().data["message_id"].clone();
    let long = format!("{MARKER} {}", "and so on ".repeat(3000));
    let given = json!({"message_id": message, "comment": MARKER, "corrected": long});
    let given = engine.post("/feedback", given).await.ok().await["signal_id"].clone();
    let id = given.as_str().expect("an id");
    delete(&engine, &format!("/feedback/{id}")).await;
    until_no_byte(&setup).await;
    stop(engine).await;
    assert_eq!(holds(&setup), [""; 0], "{:?}", tables(&setup));
}

#[tokio::test]
async fn a_forgotten_history_of_the_soul_leaves_no_byte_and_no_number_is_given_twice() {
    let setup = Setup::offline();
    let engine = setup.start().await;
    let put = async |identity: String| {
        let body = json!({"identity": identity, "patterns": ["short answers"]}).to_string();
        engine.send(Ask::new("PUT", "/memory/soul").body(body)).await.ok().await
    };
    put(format!("I am {MARKER}.")).await;
    let present = put("I am somebody else.".to_owned()).await;
    let versions = present["history"].as_array().map(Vec::len).expect("a history");
    assert!(versions >= 2, "{present}");
    let forgotten = engine.send(Ask::delete("/memory/soul/history")).await.ok().await;
    assert_eq!(forgotten, json!({"status": "deleted", "versions": versions - 1}));
    let left = engine.json("/memory/soul/full").await;
    assert_eq!(left["history"], json!([present["history"][0]]), "the present version stays");
    assert_eq!((&left["identity"], &left["version"]), (&present["identity"], &present["version"]));
    until_no_byte(&setup).await;
    let again = engine.send(Ask::delete("/memory/soul/history")).await.ok().await;
    assert_eq!(again["versions"], 0);
    let next = put("I am a third.".to_owned()).await;
    assert_eq!(next["version"].as_i64(), present["version"].as_i64().map(|n| n + 1));
    stop(engine).await;
    assert_eq!(holds(&setup), [""; 0], "{:?}", tables(&setup));
}

#[tokio::test]
async fn words_that_only_the_learning_centre_wrote_go_with_the_line_and_the_memory() {
    let way = format!("Warm the kettle, then pour {MARKER} over the leaves");
    let wish = format!("Wants {MARKER} answers");
    let model = ScriptedModel::start(Script::from_fn(move |request| {
        if !is_lesson(request) {
            return Reply::text("Done.");
        }
        let Some(line) = line_of(request, "user", "tea") else { return answer(&facts(&[])) };
        let mut said = facts(&[("Tea", &way, "procedure", vec![line.clone()])]);
        said["patterns"] =
            json!([{"text": wish, "evidence": [line], "confidence": 0.8, "rationale": "it was said"}]);
        answer(&said)
    }))
    .await;
    let setup = Setup::scripted(&model);
    let engine = setup.start().await;
    for n in 0..3 {
        engine.turn(&format!("task-{n}"), "make tea please").await;
    }
    batch(&engine, json!({})).await;
    assert_eq!(engine.json("/memory/soul").await["patterns"], json!([format!("Wants {MARKER} answers")]));
    let put = json!({"patterns": []}).to_string();
    engine.send(Ask::new("PUT", "/memory/soul").body(put)).await.ok().await;
    delete(&engine, "/memory/soul/history").await;
    let found = engine.post("/memory/knowledge/search", json!({"query": "tea kettle"})).await.ok().await;
    let found = found.as_array().expect("a list");
    assert!(!found.is_empty());
    for fact in found {
        delete(&engine, &format!("/memory/knowledge/{}", fact["id"].as_str().expect("an id"))).await;
    }
    until_no_byte(&setup).await;
    stop(engine).await;
    assert_eq!(holds(&setup), [""; 0], "{:?}", tables(&setup));
    vacuum(&setup);
    assert_eq!(holds(&setup), [""; 0], "{:?}", tables(&setup));
}
