//! `kill -9` of the orchestrator and of PostgreSQL under a fleet of real engines, and old engines that come back.

use super::deployment::{Fleet, stays};
use super::engine::Engine;
use super::process::{self, ended, engines_in, program, signal, until, within};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use testbed::postgres::{PostgresServer, Version};

/// Engines of the fleet that survives its orchestrator.
const ENGINES: usize = 20;

async fn many(fleet: &Fleet, count: usize) -> Vec<Engine> {
    let made = (0..count).map(async |n| fleet.engine(&format!("user-{n}")).await);
    futures::future::join_all(made).await
}

fn records(fleet: &Fleet, engines: &[Engine]) -> BTreeMap<String, Value> {
    engines.iter().map(|engine| (engine.id.clone(), fleet.record(&engine.id))).collect()
}

/// Rows of the audit log that are no samples of probes.
async fn events(fleet: &Fleet) -> i64 {
    let sql = fleet.sql().await;
    let counted = sql.query_one("SELECT count(*) FROM audit_log WHERE action <> 'health_check'", &[]).await;
    counted.expect("the database is up").get(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_of_the_orchestrator_touches_none_of_twenty_engines() {
    let fleet = Fleet::new().await.ready().await;
    let engines = many(&fleet, ENGINES).await;
    for engine in &engines {
        engine.turn("thread-1", "hello").await;
    }
    let before = records(&fleet, &engines);
    let rows = events(&fleet).await;
    for round in 0..3 {
        fleet.kill(0).await;
        for engine in &engines {
            assert_eq!(engine.opens(&engine.key).await, Some(true), "an engine went with its orchestrator");
        }
        let began = std::time::Instant::now();
        fleet.start(0).await;
        eprintln!("round {round}: ready {:?} after the start of the process", began.elapsed());
        for (n, engine) in engines.iter().enumerate() {
            let again = fleet.admitted(&format!("user-{n}")).await;
            assert_eq!((&again.id, &again.url, &again.key), (&engine.id, &engine.url, &engine.key));
        }
    }
    // Two relists and two rounds of probes later it is still so.
    stays(Duration::from_secs(3), "the same processes", async || records(&fleet, &engines) == before).await;
    for engine in &engines {
        assert_eq!(fleet.process_of(&engine.id), before[&engine.id]["pid"].as_i64().expect("a pid") as i32);
        assert_eq!(engine.texts("thread-1").await.len(), 2);
    }
    assert_eq!(events(&fleet).await, rows, "a restart is no event of an engine");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn provisions_cut_by_kill_9_end_as_one_engine_each() {
    const USERS: usize = 12;
    let fleet = Arc::new(Fleet::new().await.ready().await);
    let callers: Vec<_> = (0..USERS)
        .map(|n| {
            let fleet = Arc::clone(&fleet);
            tokio::spawn(async move {
                let mut tries = 0;
                loop {
                    tries += 1;
                    assert!(tries < 2000, "user-{n} is never admitted");
                    let answer = fleet.admit_at(0, &format!("user-{n}")).await;
                    if answer.body["admitted"] == true {
                        return Engine::of(&answer.body["engine"]);
                    }
                    // Away, booting, or the engine is on its way: a caller asks again.
                    assert!([0, 200, 503].contains(&answer.status), "{answer:?}");
                    tokio::time::sleep(process::LOOK).await;
                }
            })
        })
        .collect();
    let begun = async || {
        let entries = std::fs::read_dir(fleet.root()).expect("the data root").flatten();
        entries.filter(|entry| !entry.file_name().to_string_lossy().starts_with('.')).count()
    };
    for cut in [1, 4, 8] {
        until("provisions are under way", async || begun().await >= cut).await;
        fleet.kill(0).await;
        fleet.spawn(0, &[]);
    }
    let mut engines = Vec::new();
    for caller in callers {
        engines.push(caller.await.expect("every caller is served"));
    }
    for engine in &engines {
        assert_eq!(engine.opens(&engine.key).await, Some(true));
        fleet.process_of(&engine.id);
    }
    assert_eq!(begun().await, USERS, "directories of engines that nobody has");
    let listed = fleet.call("GET", "/engines", &Value::Null).await;
    assert_eq!(listed.body["total"], USERS, "{listed:?}");
    super::steps::complete(&fleet).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_while_nobody_watches_is_found_by_the_next_process() {
    let fleet = Fleet::new().await.ready().await;
    let engines = many(&fleet, 3).await;
    let pids: Vec<i32> = engines.iter().map(|engine| fleet.process_of(&engine.id)).collect();
    fleet.kill(0).await;
    signal(pids[0], Signal::KILL);
    fleet.start(0).await;
    until("the crash is found", async || {
        fleet.actions(&engines[0].id).await.last().is_some_and(|a| a == "auto_restart_success")
    })
    .await;
    assert_ne!(fleet.process_of(&engines[0].id), pids[0]);
    for (engine, pid) in engines.iter().zip(&pids).skip(1) {
        assert_eq!((fleet.process_of(&engine.id), fleet.actions(&engine.id).await.len()), (*pid, 1));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_killed_under_load_doubles_nothing() {
    let server = Arc::new(PostgresServer::private(Version::V18).await);
    let fleet = Fleet::on(&server.create_database("orchestrator").await);
    // A lease that ends in the outage, and one replica that has its own idea of time.
    let fleet = Arc::new(fleet.with("ORCH_OPERATION_LEASE_S", "5").ready().await);
    let engines = many(&fleet, 4).await;
    let before = records(&fleet, &engines);
    let over = Arc::new(AtomicBool::new(false));
    let admitted = Arc::new(AtomicUsize::new(0));
    let callers: Vec<_> = (0..4)
        .map(|n| {
            let (fleet, over, admitted) = (Arc::clone(&fleet), Arc::clone(&over), Arc::clone(&admitted));
            tokio::spawn(async move {
                let mut made = 0;
                while !over.load(Ordering::Relaxed) {
                    let answer = fleet.admit_at(0, &format!("user-{n}")).await;
                    let away = answer.status == 503 && answer.code() == "DATABASE_UNAVAILABLE";
                    assert!(answer.body["admitted"] == true || away, "{answer:?}");
                    admitted.fetch_add(usize::from(!away), Ordering::Relaxed);
                    // New engines while the database comes and goes.
                    if made < 2 {
                        let answer = fleet.provision(&format!("new-{n}-{made}")).await;
                        assert!([200, 409, 502, 503].contains(&answer.status), "{answer:?}");
                        made += usize::from(answer.status == 200 || answer.status == 409);
                    }
                }
            })
        })
        .collect();
    for _ in 0..3 {
        let reached = admitted.load(Ordering::Relaxed) + 20;
        until("admits are answered", async || admitted.load(Ordering::Relaxed) >= reached).await;
        server.kill_9().await;
        for engine in &engines {
            assert_eq!(engine.opens(&engine.key).await, Some(true), "an engine went with the database");
        }
        until("the outage is noticed", async || fleet.health(0).await["status"] == "error").await;
        server.start().await;
        let took = within(Duration::from_secs(10), "all is well again", async || {
            fleet.health(0).await == json!({"status": "ok"})
        })
        .await;
        eprintln!("healthy {took:?} after the database was back");
    }
    until("everybody has made theirs", async || {
        fleet.call("GET", "/engines", &Value::Null).await.body["total"] == 12
    })
    .await;
    over.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await.expect("no caller met anything unexpected");
    }
    until("nothing is under way", async || {
        let listed = fleet.call("GET", "/engines?limit=100", &Value::Null).await.body;
        let engines = listed["engines"].as_array().cloned().unwrap_or_default();
        engines.len() == 12 && engines.iter().all(|e| e["status"] == "running" && e["operation"].is_null())
    })
    .await;
    assert_eq!(records(&fleet, &engines), before, "an engine was restarted for the database's sake");
    let listed = fleet.call("GET", "/engines?limit=100", &Value::Null).await.body;
    for engine in listed["engines"].as_array().expect("a list") {
        fleet.process_of(engine["engine_id"].as_str().expect("an id"));
    }
    super::steps::complete(&fleet).await;
}

/// The Engine as it was told to run at this generation, outside of everybody's sight.
fn old_engine(fleet: &Fleet, id: &str, generation: i64, port: u16) -> Command {
    let directory = fleet.directory(id);
    let mut command = Command::new(program("september-engine"));
    command
        .arg("serve")
        .env_clear()
        .env("PATH", &fleet.env["PATH"])
        .env("LLM_PROVIDER", "offline")
        .env("SQLITE_DB_PATH", directory.join("brain.sqlite"))
        .env("ENGINE_KEY_HASH", "0".repeat(64))
        .env("ENGINE_HOST", "127.0.0.1")
        .env("ENGINE_PORT", port.to_string())
        .env("BRAIN_GENERATION", generation.to_string())
        .current_dir(fleet.folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_engine_that_comes_back_can_never_write() {
    let fleet = Fleet::new().await.ready().await;
    let engine = fleet.engine("ada").await;
    engine.turn("thread-1", "hello").await;
    let generation = fleet.record(&engine.id)["generation"].as_i64().expect("a generation");
    let elsewhere = fleet.first_engine_port() + 30;
    // Beside the one that runs: it holds the lock.
    let mut beside = old_engine(&fleet, &engine.id, generation, elsewhere).spawn().expect("starts");
    assert_eq!(ended(&mut beside).await.code(), Some(4), "two writers at once");
    // Frozen with the brain in its hands, while the orchestrator believes that nobody has it.
    assert_eq!(fleet.post("ada", "stop").await.status, 200);
    let mut old = old_engine(&fleet, &engine.id, generation, elsewhere).spawn().expect("starts");
    let at = Engine { url: format!("http://127.0.0.1:{elsewhere}"), ..engine.clone() };
    // It listens before it has the brain, and says that it starts.
    let health =
        async || at.http.get(format!("{}/health", at.url)).send().await.ok().map(|answer| answer.status());
    until("the old one serves", async || health().await.is_some_and(|status| status == 200)).await;
    let pid = i32::try_from(old.id()).expect("a pid");
    signal(pid, Signal::STOP);
    let refused = fleet.post("ada", "start").await;
    assert_eq!((refused.status, refused.code()), (502, "BACKEND_ERROR"), "{refused:?}");
    let sql = fleet.sql().await;
    let row = sql.query_one("SELECT failure_code FROM engines", &[]).await.expect("its row");
    assert_eq!(row.get::<_, Option<String>>(0).as_deref(), Some("brain_refused"), "the lock is not ours");
    assert_eq!(process::state(pid), Some('T'), "it is not ours to kill");
    signal(pid, Signal::KILL);
    ended(&mut old).await;
    until("the engine comes back by itself", async || fleet.status("ada").await == "running").await;
    let new = fleet.record(&engine.id)["generation"].as_i64().expect("a generation");
    assert!(new > generation);
    // And from then on the brain knows: also with nobody else there, the old generation is refused.
    assert_eq!(fleet.post("ada", "stop").await.status, 200);
    assert!(engines_in(&fleet.directory(&engine.id)).is_empty());
    for number in [generation, new - 1] {
        let mut revived = old_engine(&fleet, &engine.id, number, elsewhere).spawn().expect("starts");
        assert_eq!(ended(&mut revived).await.code(), Some(4), "generation {number} opened a brain of {new}");
    }
    assert_eq!(fleet.post("ada", "start").await.status, 200);
    assert_eq!(engine.texts("thread-1").await.len(), 2);
}
