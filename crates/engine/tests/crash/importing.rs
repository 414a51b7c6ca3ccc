//! Kill the real process at random instants while it replaces a memory: afterwards it is the one or the other, whole, and
//! what waited to be learned from waits or is ended with it.

use super::place::Place;
use super::{Engine, KEY, STUCK, free_port};
use contract::engine_api::KEY_HEADER;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rusqlite::Connection;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;
use testbed::Reply;
use testbed::model::Protocol;
use testbed::model::{Script, ScriptedModel};
use tokio::time::Instant;

/// Kills while an import is at work.
const KILLS: u32 = 40;
/// Kills after which the test gives up meeting [`PHASES`]: a machine may be slow at one time and fast at another.
const KILLS_MOST: u32 = 160;
/// Different phases in which an import has to be met.
const PHASES: usize = 4;
/// Facts of a bundle: enough for an import to take many steps.
const FACTS: usize = 600;
/// Turns that wait to be learned from when an import begins: enough for ending them to take many steps.
const WAITING: i64 = 6000;
impl Place {
    /// Whether it was answered that the import is complete.
    async fn import(&self, bundle: String) -> bool {
        let request = self.client.post(format!("{}/memory/import?mode=replace", self.url));
        let request = request.header(KEY_HEADER, KEY).header("content-type", "application/json").body(bundle);
        request.send().await.is_ok_and(|answer| {
            assert!(answer.status().is_success(), "{}", answer.status());
            true
        })
    }
}

fn names(which: usize) -> BTreeSet<String> {
    // a third of the rows is in both
    let first = which * FACTS * 2 / 3;
    (first..first + FACTS).map(|n| format!("fact-{n:032x}")).collect()
}

fn bundle(which: usize) -> String {
    let time = "2026-04-27T12:34:56.000Z";
    let facts: Vec<Value> = names(which)
        .into_iter()
        .map(|id| {
            json!({"id": id, "subject": format!("subject of {id}"), "content": format!("what holds of {id}"),
                "type": "fact", "valid_from": time, "valid_until": null, "superseded_by": null, "confidence": 0.9,
                "trust": "user", "source": "user:api", "rationale": "", "last_confirmed_at": time,
                "created_at": time, "updated_at": time, "lineage": []})
        })
        .collect();
    json!({"format": "september-memory/1", "soul": null, "soul_history": [], "episodes": [], "knowledge": facts,
        "social": {"nodes": [], "edges": []}, "skills": [], "signals": []})
    .to_string()
}

fn open(dir: &Path) -> Connection {
    Connection::open(dir.join("brain.sqlite")).expect("the brain")
}

fn count(brain: &Connection, sql: &str) -> i64 {
    brain.query_row(sql, [], |row| row.get(0)).expect(sql)
}

const PENDING: &str = "SELECT count(*) FROM trajectories WHERE state = 'pending'";

/// Makes turns that wait, after the pattern of the one there is.
fn let_turns_wait(dir: &Path) {
    let brain = open(dir);
    for (table, number) in [("turns", "number"), ("trajectories", "attempts")] {
        let mut columns = brain.prepare("SELECT name FROM pragma_table_info(?1)").expect("a statement");
        let columns: Vec<String> = columns
            .query_map([table], |row| row.get(0))
            .expect("columns")
            .map(|name| name.expect("text"))
            .collect();
        let values: Vec<String> = columns
            .iter()
            .map(|column| match column.as_str() {
                "turn_id" => "printf('turn-%032x', n)".to_owned(),
                "state" if table == "trajectories" => "'pending'".to_owned(),
                "processed_at" => "NULL".to_owned(),
                "number" => format!("{number} + n"),
                other => other.to_owned(),
            })
            .collect();
        let sql = format!(
            "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {WAITING})
             INSERT INTO {table} ({}) SELECT {} FROM numbers, (SELECT * FROM {table} ORDER BY rowid LIMIT 1)
             WHERE true ON CONFLICT (turn_id) DO NOTHING",
            columns.join(", "),
            values.join(", "),
        );
        brain.execute(&sql, []).expect("rows");
    }
    brain
        .execute("UPDATE trajectories SET state = 'pending', processed_at = NULL", [])
        .expect("they wait again");
}

/// What the import that was killed was doing; `None` when none is unfinished.
fn phase(brain: &Connection) -> Option<String> {
    let sql =
        "SELECT json_extract(state_json, '$.phase') FROM jobs WHERE kind = 'import' AND finished_at IS NULL";
    brain.query_row(sql, [], |row| row.get(0)).ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forty_kills_while_a_memory_is_replaced_leave_the_one_or_the_other_whole() {
    let seed: u64 = 20_260_429;
    let dir = tempfile::tempdir().expect("a directory");
    let model = ScriptedModel::start(Script::always(Reply::text("Yes."))).await;
    let provider = model.base_url(Protocol::OpenAi);
    let port = free_port();
    let place = Place::on(port);
    let mut random = StdRng::seed_from_u64(seed);

    let mut engine = Engine::start(dir.path(), port, &provider);
    place.is_up().await;
    let body = json!({"task_id": "task-0", "message": "hello"});
    let turn = place.client.post(format!("{}/execute", place.url)).header(KEY_HEADER, KEY).json(&body);
    let said = turn.send().await.expect("a stream").text().await.expect("its end");
    assert!(said.contains("\"completed\""), "{said}");
    engine.kill();
    let_turns_wait(dir.path());
    engine = Engine::start(dir.path(), port, &provider);
    place.is_up().await;
    let began = Instant::now();
    assert!(place.import(bundle(0)).await);
    // as long as an import takes here, and a little longer: so the instants fall into all of it
    let longest = began.elapsed().mul_f64(1.2);
    engine.kill();

    let mut there = 0;
    let mut died_in: BTreeMap<String, u32> = BTreeMap::new();
    let mut kills = 0;
    while kills < KILLS || (died_in.len() < PHASES && kills < KILLS_MOST) {
        kills += 1;
        let_turns_wait(dir.path());
        engine = Engine::start(dir.path(), port, &provider);
        place.is_up().await;
        let answered = {
            let import = place.import(bundle(1 - there));
            let life = tokio::time::sleep(longest.mul_f64(random.random()));
            tokio::select! {
                answered = import => answered,
                () = life => false,
            }
        };
        engine.kill();
        let brain = open(dir.path());
        let phase = phase(&brain);
        assert!(phase.is_none() || !answered, "who is told that it is complete is told the truth");
        let stood = count(&brain, PENDING);
        drop(brain);
        engine = Engine::start(dir.path(), port, &provider);
        place.is_up().await;
        let until = Instant::now() + STUCK;
        loop {
            let exported = place.json("/memory/export").await.expect("an export");
            let rows = exported["knowledge"].as_array().expect("rows").iter();
            let ids: BTreeSet<String> =
                rows.map(|row| row["id"].as_str().expect("an id").to_owned()).collect();
            let status = place.json("/learning/status").await.expect("a status");
            let replaced = match phase.as_deref() {
                // it was over, or had not begun
                None => ids == names(1 - there) && stood == 0,
                Some("staging") => false,
                Some(_) => true,
            };
            let pending = if replaced { 0 } else { WAITING + 1 };
            let wanted = if replaced { 1 - there } else { there };
            if ids == names(wanted) && status["pending_trajectories"] == pending {
                there = wanted;
                break;
            }
            assert!(
                Instant::now() < until,
                "killed in {phase:?}: {} rows, {} of them of the new bundle; {}",
                ids.len(),
                ids.intersection(&names(1 - there)).count(),
                status["pending_trajectories"],
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        engine.kill();
        let brain = open(dir.path());
        assert_eq!(
            count(&brain, "SELECT count(*) FROM blob_refs WHERE owner_table = 'jobs'"),
            0,
            "no piece stays"
        );
        assert_eq!(
            count(&brain, "SELECT count(*) FROM knowledge_store_fts"),
            i64::try_from(FACTS).expect("small")
        );
        *died_in.entry(phase.unwrap_or_else(|| "none".to_owned())).or_default() += 1;
    }
    let log = std::fs::read_to_string(dir.path().join("log")).expect("the log");
    assert!(!log.contains("panicked"), "no panic in the log");
    println!("{kills} kills; the import was in {died_in:?}");
    assert!(died_in.len() >= PHASES, "the test has to meet several phases: {died_in:?}");
}
