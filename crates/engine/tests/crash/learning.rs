//! Kill the real process at random instants while it learns: every turn is learned from once, as a whole.

use super::place::Place;
use super::{Engine, KEY, STUCK, free_port};
use contract::engine_api::KEY_HEADER;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rusqlite::Connection;
use serde_json::{Value, json};
use std::time::Duration;
use testbed::Reply;
use testbed::model::Protocol;
use testbed::model::{Script, ScriptedModel, SeenRequest};
use tokio::time::Instant;

/// Kills while a batch is at work.
const KILLS: u32 = 200;
/// Turns that are learned from between two looks at the result.
const TURNS: usize = 24;
/// Longest life of a process after its batch was asked for.
const LIFE_MS: u64 = 90;

impl Place {
    async fn send(&self, request: reqwest::RequestBuilder) -> Option<Value> {
        let answer = request.header(KEY_HEADER, KEY).send().await.ok()?;
        let is_ok = answer.status().is_success();
        let text = answer.text().await.ok()?;
        assert!(is_ok, "{text}");
        serde_json::from_str(&text).ok()
    }

    async fn status(&self) -> Value {
        self.is_up().await;
        self.json("/learning/status").await.expect("a status")
    }

    async fn learn(&self) {
        let asked = self.client.post(format!("{}/learning/run", self.url)).json(&json!({}));
        self.send(asked).await.expect("a batch, begun or under way");
    }

    async fn turn(&self, number: usize) {
        let body = json!({"task_id": format!("task-{number}"), "message": format!("thing number {number}")});
        let request = self.client.post(format!("{}/execute", self.url)).header(KEY_HEADER, KEY).json(&body);
        let text = request.send().await.expect("a stream").text().await.expect("its end");
        assert!(text.contains("\"completed\""), "{text}");
    }
}

/// What a turn teaches: one of each kind, all of them naming its number.
fn lesson(request: &SeenRequest) -> Reply {
    let said = request.messages.last().expect("a message").text();
    let (_, turn) = said.split_once("\nTURN\n").expect("the turn");
    let line: Value = serde_json::from_str(turn.lines().next().expect("a line")).expect("json");
    let thing = line["text"].as_str().expect("text");
    let number = thing.rsplit(' ').next().expect("a number");
    let with = |mut fields: Value| {
        fields["evidence"] = json!([line["id"]]);
        fields["confidence"] = json!(0.8);
        fields["rationale"] = json!("it was said");
        fields
    };
    let answer = json!({
        "episodes": [with(json!({"key": format!("event-{number}"), "description": format!("{thing} came up"),
            "value": null, "occurred_at": null}))],
        "facts": [with(json!({"subject": "user", "content": format!("The user said {thing}"), "type": "fact",
            "valid_from": null}))],
        "people": [with(json!({"name": format!("Person {number}"), "kind": "person", "aliases": [],
            "attributes": []}))],
        "relations": [with(json!({"from": format!("Person {number}"), "relation": "works_in",
            "to": format!("Office {number}")}))],
        "patterns": [],
        "replaces": [],
    });
    let text = answer.to_string();
    let (head, tail) = text.split_at(text.len() / 2);
    Reply::new().say_chunks([head, tail]).pace(Duration::from_millis(2))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_kills_while_learning_write_every_lesson_once_and_none_by_half() {
    let seed: u64 = 20_260_428;
    let dir = tempfile::tempdir().expect("a directory");
    let model = ScriptedModel::start(Script::from_fn(|request| {
        match request.system.contains("You read one finished turn") {
            true => lesson(request),
            false => Reply::text("Yes."),
        }
    }))
    .await;
    let provider = model.base_url(Protocol::OpenAi);
    let port = free_port();
    let place = Place::on(port);
    let mut random = StdRng::seed_from_u64(seed);
    let (mut kills, mut turns, mut rounds) = (0, 0, 0);
    let mut engine = Engine::start(dir.path(), port, &provider);
    while kills < KILLS {
        place.status().await;
        for _ in 0..TURNS {
            place.turn(turns).await;
            turns += 1;
        }
        rounds += 1;
        while kills < KILLS {
            if place.status().await["pending_trajectories"] == 0 {
                break;
            }
            place.learn().await;
            tokio::time::sleep(Duration::from_millis(random.random_range(0..LIFE_MS))).await;
            engine.kill();
            kills += 1;
            engine = Engine::start(dir.path(), port, &provider);
        }
    }
    let until = Instant::now() + STUCK;
    loop {
        let status = place.status().await;
        if status["pending_trajectories"] == 0 && status["running"] == false {
            break;
        }
        assert!(Instant::now() < until, "it is stuck: {status}");
        if status["running"] == false {
            place.learn().await;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    engine.kill();
    let brain = Connection::open(dir.path().join("brain.sqlite")).expect("the brain");
    let count = |sql: &str| brain.query_row(sql, [], |row| row.get::<_, i64>(0)).expect(sql);
    let expected = i64::try_from(turns).expect("small");
    for (what, sql) in [
        ("facts", "SELECT count(*) FROM knowledge_store"),
        ("different facts", "SELECT count(DISTINCT content) FROM knowledge_store"),
        ("events", "SELECT count(*) FROM episodes WHERE kind = 'event'"),
        ("different events", "SELECT count(DISTINCT key) FROM episodes WHERE kind = 'event'"),
        ("relations", "SELECT count(*) FROM social_graph_edges"),
        ("facts with their index entry", "SELECT count(*) FROM knowledge_store_fts"),
        (
            "facts with their turn",
            "SELECT count(*) FROM knowledge_store k JOIN memory_lineage l
             ON l.memory_id = k.fact_id AND l.parent_kind = 'trajectory'",
        ),
        (
            "facts that nothing has confirmed",
            "SELECT count(*) FROM knowledge_store WHERE abs(confidence - 0.8) < 1e-9",
        ),
        ("trajectories", "SELECT count(*) FROM trajectories WHERE state = 'processed' AND attempts = 0"),
        ("counted trajectories", "SELECT sum(trajectories) FROM learning_batches"),
        ("counted facts", "SELECT sum(json_extract(written_json, '$.knowledge')) FROM learning_batches"),
    ] {
        assert_eq!(count(sql), expected, "{what}");
    }
    assert_eq!(count("SELECT count(*) FROM social_graph_nodes"), 2 * expected, "people and offices");
    assert_eq!(count("SELECT count(*) FROM learning_batches WHERE state = 'running'"), 0);
    let interrupted = count("SELECT count(*) FROM learning_batches WHERE error LIKE 'the process ended%'");
    let log = std::fs::read_to_string(dir.path().join("log")).expect("the log");
    assert!(!log.contains("panicked"), "no panic in the log");
    model.assert_no_problems();
    println!(
        "{kills} kills in {rounds} rounds, {interrupted} batches cut short, {turns} turns learned from once"
    );
}
