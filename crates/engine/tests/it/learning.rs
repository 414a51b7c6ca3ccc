//! The Learning Centre from outside: what turns teach with and without a model, what is not believed, what feedback
//! does, and what survives a death.

mod corrected;
mod deaths;
mod endpoints;
mod experience;
mod feedback;
mod replaced;
mod taken_back;
mod taken_out;
mod trust;
mod words;

use crate::memory::found;
use crate::support::{Engine, Setup};
use rusqlite::Connection;
use serde_json::{Value, json};
use testbed::Reply;
use testbed::model::SeenRequest;

/// Opens the brain of an Engine that does not run.
fn at_rest(setup: &Setup) -> Connection {
    Connection::open(setup.brain()).expect("the brain")
}

/// One number out of a brain at rest.
fn count(setup: &Setup, sql: &str) -> i64 {
    at_rest(setup).query_row(sql, [], |row| row.get(0)).expect(sql)
}

/// Ends an Engine in order, so that its brain can be looked at.
async fn stopped(mut engine: Engine) -> Setup {
    let setup = engine.setup.clone();
    engine.signal(rustix::process::Signal::TERM);
    assert_eq!(engine.exit_code().await, 0, "{}", engine.log());
    setup
}

/// Runs a batch over everything (or `body`) to its end; its line in the status.
pub(crate) async fn batch(engine: &Engine, body: Value) -> Value {
    let started = engine.post("/learning/run", body).await.ok().await;
    assert_eq!(started["status"], "started", "{started}");
    ended(engine, &started["batch_id"]).await
}

/// Waits until a batch has ended; its line.
async fn ended(engine: &Engine, id: &Value) -> Value {
    let is = |status: &Value| {
        status["batches"].as_array().is_some_and(|all| all.iter().any(|b| b["batch_id"] == *id))
    };
    let status = engine.until("/learning/status", is).await;
    let mut all = status["batches"].as_array().expect("a list").iter();
    all.find(|b| b["batch_id"] == *id).expect("it ended").clone()
}

/// True for the calls of the Learning Centre.
pub(crate) fn is_lesson(request: &SeenRequest) -> bool {
    request.system.contains("You read one finished turn")
}

/// What such a call shows: the lines of the turn.
fn shown(request: &SeenRequest) -> Vec<Value> {
    let said = request.messages.last().expect("a message").text();
    let (_, turn) = said.split_once("\nTURN\n").expect("the turn is shown");
    turn.lines().map(|line| serde_json::from_str(line).expect("one object per line")).collect()
}

/// The id of the line with this role whose text holds `part`.
pub(crate) fn line_of(request: &SeenRequest, role: &str, part: &str) -> Option<String> {
    let is =
        |line: &&Value| line["role"] == role && line["text"].as_str().is_some_and(|text| text.contains(part));
    shown(request).iter().find(is).map(|line| line["id"].as_str().expect("an id").to_owned())
}

/// An answer with these facts: subject, content, type, evidence.
pub(crate) fn facts(facts: &[(&str, &str, &str, Vec<String>)]) -> Value {
    let list: Vec<Value> = facts
        .iter()
        .map(|(subject, content, kind, evidence)| {
            json!({"subject": subject, "content": content, "type": kind, "valid_from": null, "evidence": evidence,
                "confidence": 0.8, "rationale": "it was said"})
        })
        .collect();
    json!({"episodes": [], "facts": list, "people": [], "relations": [], "patterns": [], "replaces": []})
}

pub(crate) fn answer(value: &Value) -> Reply {
    Reply::text(&value.to_string())
}

async fn contents(engine: &Engine, query: &str) -> Vec<String> {
    let hits = found(engine, "knowledge", query).await;
    hits.iter().map(|hit| hit["content"].as_str().expect("text").to_owned()).collect()
}
