//! Start, lock, drain, restart, and disks that are full or cannot be written.

mod disk;

use crate::hitl::calls;
use crate::support::http::Ask;
use crate::support::sse::{Turn, raw};
use crate::support::{Engine, Setup, soon};
use crate::tasks::holding;
use brain::schema::{MIGRATIONS, Migration};
use brain::{Brain, OpenOptions};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::time::Duration;
use testbed::model::{Pace, Rules};
use testbed::{Gate, Script, ScriptedModel};

/// /health of an Engine that listens but need not be ready, once it is as wanted.
async fn health_is(engine: &Engine, status: &str) -> Value {
    let asked = async {
        loop {
            if let Some(answer) = engine.try_send(Ask::get("/health").without_key()).await {
                let code = answer.status;
                let health = answer.json().await;
                if health["status"] == status {
                    assert_eq!(code, if status == "ok" { 200 } else { 503 });
                    return health;
                }
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    soon(&format!("health {status}"), asked).await
}

#[tokio::test]
async fn a_second_process_on_the_same_brain_says_who_holds_it_and_leaves_with_4() {
    let setup = Setup::offline();
    let first = setup.start().await;
    let mut second = setup.clone().with("BRAIN_LOCK_WAIT_S", "2").with_fixed_port().spawn();
    second.expect_log("the brain is held by process");
    let health = health_is(&second, "brain_locked").await;
    assert_eq!(health["subsystems"]["database"], "ok", "{health}");
    for ask in [Ask::get("/tasks"), Ask::get("/tasks").without_key(), Ask::get("/nowhere")] {
        let error = second.send(ask).await.error(503, "BRAIN_LOCKED").await;
        let holder = &error["details"]["holder"];
        assert_eq!(holder["pid"], first.pid(), "{error}");
        assert!(holder["host"].is_string() && holder["started_at"].is_string(), "{error}");
    }
    assert_eq!(second.exit_code().await, 4);
    let said = second.log();
    assert!(said.contains(&first.pid().to_string()), "{said}");
    assert_eq!(first.turn("a", "hello").await.stop_reason(), "end_turn");
}

#[tokio::test]
async fn a_successor_that_waits_takes_over_when_the_holder_is_gone() {
    let setup = Setup::offline();
    let first = setup.start().await;
    let turn = first.turn("a", "hello").await;
    let second = setup.clone().with_fixed_port().spawn();
    health_is(&second, "brain_locked").await;
    first.kill();
    health_is(&second, "ok").await;
    assert_eq!(raw(&second.stored("").await), turn.raw());
}

#[tokio::test]
async fn an_address_that_a_dying_predecessor_still_holds_is_waited_for() {
    let held = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = held.local_addr().expect("bound").port().to_string();
    let engine = Setup::offline().with("ENGINE_PORT", &port).spawn();
    engine.log_line(|line| line["message"].as_str().is_some_and(|m| m.contains("address is taken"))).await;
    drop(held);
    health_is(&engine, "ok").await;
}

#[tokio::test]
async fn an_address_that_stays_taken_is_named_and_ends_the_start() {
    let held = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = held.local_addr().expect("bound");
    let mut engine = Setup::offline().with("ENGINE_PORT", &address.port().to_string()).spawn();
    engine.expect_log("ENGINE_PORT");
    assert_eq!(engine.exit_code().await, 1);
    assert!(engine.log().contains(&format!("listen on {address}")), "{}", engine.log());
}

static NEWER: &[Migration] = &[
    Migration { version: 1, name: MIGRATIONS[0].name, sql: MIGRATIONS[0].sql },
    Migration { version: 1000, name: "later", sql: "CREATE TABLE later (id INTEGER PRIMARY KEY) STRICT;" },
];

#[tokio::test]
async fn a_newer_brain_is_migration_required_downgrade_and_stays_as_it_is() {
    let setup = Setup::offline().with_fixed_port();
    Brain::open(OpenOptions { wanted: NEWER, ..OpenOptions::at(setup.brain()) }).expect("opens").close();
    let before = std::fs::read(setup.brain()).expect("a file");
    let engine = setup.spawn();
    engine.expect_log("MIGRATION_REQUIRED");
    health_is(&engine, "migration_required").await;
    for ask in [Ask::get("/tasks"), Ask::post("/execute", &json!({})).without_key()] {
        let error = engine.send(ask).await.error(503, "MIGRATION_REQUIRED").await;
        assert_eq!(error["details"]["direction"], "downgrade", "{error}");
    }
    engine.kill();
    assert!(before == std::fs::read(setup.brain()).expect("a file"), "the newer brain was changed");
}

#[tokio::test]
async fn with_migrations_gate_nothing_is_served_until_migrate_has_run() {
    let setup = Setup::offline().with("MIGRATIONS", "gate").with_fixed_port();
    let mut engine = setup.spawn();
    engine.expect_log("MIGRATION_REQUIRED");
    health_is(&engine, "migration_required").await;
    let error = engine.get("/tasks").await.error(503, "MIGRATION_REQUIRED").await;
    assert_eq!(error["details"]["direction"], "upgrade");
    assert!(error["message"].as_str().is_some_and(|m| m.contains("migrate")), "{error}");
    let migrated = setup.command(&["migrate"]).output().expect("runs");
    assert!(migrated.status.success(), "{}", String::from_utf8_lossy(&migrated.stderr));
    engine.get("/tasks").await.error(503, "MIGRATION_REQUIRED").await;
    engine.signal(Signal::TERM);
    assert_eq!(engine.exit_code().await, 0);
    drop(engine);
    let engine = setup.spawn();
    health_is(&engine, "ok").await;
    assert_eq!(engine.turn("a", "hello").await.stop_reason(), "end_turn");
}

#[tokio::test]
async fn a_process_with_a_lower_generation_is_fenced_off() {
    let setup = Setup::offline();
    setup.clone().with("BRAIN_GENERATION", "7").start().await.kill();
    let mut stale = setup.clone().with("BRAIN_GENERATION", "6").spawn();
    stale.expect_log("generation");
    assert_eq!(stale.exit_code().await, 4);
    drop(stale);
    setup.with("BRAIN_GENERATION", "7").start().await.kill();
}

#[tokio::test]
async fn while_draining_new_work_is_refused_and_the_running_turn_finishes_with_its_last_frame() {
    let gate = Gate::new();
    let model = holding(&gate).await;
    let setup = Setup::scripted(&model).with("ENGINE_TASK_SLOTS", "1");
    let mut engine = setup.start().await;
    let mut stream = engine.execute(json!({"task_id": "a", "message": "hold"})).await;
    let mut frames = stream.until_event("text_delta").await;
    let waiting = engine.execute(json!({"task_id": "b", "message": "later"})).await;
    engine.signal(Signal::TERM);
    health_is(&engine, "draining").await;
    let refused = engine.post("/execute", json!({"task_id": "c", "message": "x"})).await;
    assert_eq!(refused.header("retry-after"), Some("5"));
    refused.error(503, "DRAINING").await;
    // reading, answering and cancelling go on
    assert_eq!(engine.json("/tasks/b").await["status"], "queued");
    engine.post("/execute/cancel", json!({"task_id": "nobody"})).await.error(404, "TASK_NOT_FOUND").await;
    gate.open();
    frames.extend(stream.rest().await);
    assert_eq!(Turn::checked(frames, false).text(), "one two three");
    let begun = waiting.rest().await;
    assert_eq!(begun.len(), 1, "a queued turn started while draining: {begun:?}");
    assert_eq!(engine.exit_code().await, 0);
    drop(engine);
    let engine = setup.start().await;
    let ask = Ask::get("/execute/replay?task_id=b").header("last-event-id", &begun[0].id.to_string());
    let mut whole = begun;
    whole.extend(engine.send(ask).await.stream().rest().await);
    assert_eq!(Turn::checked(whole, false).text(), "later");
    model.assert_no_problems();
}

#[tokio::test]
async fn a_turn_that_outlasts_the_drain_goes_on_at_the_next_start_exactly_where_it_stopped() {
    let rules = Rules::new(llm::CONTINUE_REQUEST, Pace { words: 120, pause: Duration::from_millis(4) });
    let model = ScriptedModel::start(Script::rules(rules.clone())).await;
    let setup = Setup::scripted(&model).with("ENGINE_DRAIN_TIMEOUT_S", "0");
    let body = json!({"task_id": "a", "message": "a long story"});
    let keyed = || Ask::post("/execute", &body).header("idempotency-key", "story");
    let mut engine = setup.start().await;
    let mut stream = engine.send(keyed()).await.stream();
    let mut frames = stream.until(|f| f.is("text_delta") && f.text("text").contains("word")).await;
    engine.signal(Signal::TERM);
    frames.extend(stream.rest().await);
    assert!(frames.iter().all(|f| f.phase().is_none_or(|p| p == "started")), "a final frame was sent");
    assert_eq!(engine.exit_code().await, 0);
    drop(engine);
    let engine = setup.start().await;
    let last = frames.last().expect("frames").id.to_string();
    let joined = engine.send(keyed().header("last-event-id", &last)).await.stream();
    frames.extend(joined.rest().await);
    let turn = Turn::checked(frames, false);
    assert_eq!(turn.text(), rules.full_answer("a long story"));
    assert!(model.calls().len() >= 2, "the turn was not interrupted");
    assert_eq!(raw(&engine.stored("").await), turn.raw());
    let messages = engine.json("/tasks/a/messages").await;
    assert_eq!(messages["messages"][1]["content"][0]["text"], turn.text());
    assert_eq!(messages["messages"].as_array().map(Vec::len), Some(2), "{messages}");
    model.assert_no_problems();
}

#[tokio::test]
async fn a_tool_that_outlasts_the_process_is_in_doubt_and_not_run_again() {
    for kill in [true, false] {
        let model = calls("bash", json!({"command": "echo x >> ran; sleep 100"})).await;
        let setup = Setup::scripted(&model).with("ENGINE_DRAIN_TIMEOUT_S", "0");
        let mut engine = setup.start().await;
        let mut stream = engine.execute(json!({"task_id": "a", "message": "go"})).await;
        let mut frames = stream.until_event("tool_call").await;
        let ran = setup.workspace().join("ran");
        crate::support::eventually("the command runs", || ran.exists()).await;
        if kill {
            engine.kill();
            drop(stream);
        } else {
            engine.signal(Signal::TERM);
            frames.extend(stream.rest().await);
            assert_eq!(engine.exit_code().await, 0);
            drop(engine);
        }
        let engine = setup.start().await;
        engine.expect_log("left behind");
        let ask = Ask::get("/execute/replay?task_id=a")
            .header("last-event-id", &frames.last().expect("a frame").id.to_string());
        frames.extend(engine.send(ask).await.stream().rest().await);
        let turn = Turn::checked(frames, false);
        assert_eq!(turn.one("tool_result").text("reason"), "in_doubt", "kill {kill}");
        assert_eq!(turn.text(), "All done.");
        assert_eq!(std::fs::read_to_string(&ran).expect("a file"), "x\n", "a once effect was repeated");
        model.assert_no_problems();
    }
}

#[tokio::test]
async fn a_turn_killed_while_it_streams_goes_on_without_gap_or_duplicate() {
    let rules = Rules::new(llm::CONTINUE_REQUEST, Pace { words: 100, pause: Duration::from_millis(4) });
    let model = ScriptedModel::start(Script::rules(rules.clone())).await;
    let setup = Setup::scripted(&model);
    let mut frames = Vec::new();
    let engine = setup.start().await;
    let mut stream = engine.execute(json!({"task_id": "a", "message": "tell"})).await;
    frames.extend(stream.until_event("text_delta").await);
    engine.kill();
    for _ in 0..2 {
        let engine = setup.start().await;
        let last = frames.last().map_or(0, |f| f.id).to_string();
        let ask = Ask::get("/execute/replay?task_id=a").header("last-event-id", &last);
        let mut stream = engine.send(ask).await.stream();
        frames.extend(stream.until(|f| f.is("text_delta")).await);
        engine.kill();
    }
    let engine = setup.start().await;
    let ask = Ask::get("/execute/replay?task_id=a")
        .header("last-event-id", &frames.last().expect("frames").id.to_string());
    frames.extend(engine.send(ask).await.stream().rest().await);
    let turn = Turn::checked(frames, false);
    assert_eq!(turn.text(), rules.full_answer("tell"));
    assert_eq!(raw(&engine.stored("").await), turn.raw());
    model.assert_no_problems();
}

#[tokio::test]
async fn a_second_signal_ends_the_process_at_once() {
    let gate = Gate::new();
    let model = holding(&gate).await;
    let mut engine = Setup::scripted(&model).start().await;
    engine.expect_log("Second signal");
    let mut stream = engine.execute(json!({"task_id": "a", "message": "hold"})).await;
    stream.until_event("text_delta").await;
    engine.signal(Signal::TERM);
    health_is(&engine, "draining").await;
    engine.signal(Signal::INT);
    assert_eq!(engine.exit_code().await, 1);
}

#[tokio::test]
async fn health_has_its_documented_shape() {
    let engine = Setup::offline().start().await;
    let health = engine.health().await;
    for pointer in [
        "/uptime_seconds",
        "/subsystems/database",
        "/subsystems/llm_provider",
        "/subsystems/asset_directory",
        "/subsystems/embeddings",
        "/version",
        "/schema_version",
        "/activity/in_flight_turns",
        "/activity/open_streams",
        "/sandbox/mode",
        "/sandbox/layers",
    ] {
        assert!(health.pointer(pointer).is_some_and(|v| !v.is_null()), "{pointer}: {health}");
    }
    assert_eq!((&health["status"], &health["activity"]["last_activity_at"]), (&json!("ok"), &Value::Null));
    engine.turn("a", "hello").await;
    assert!(engine.health().await["activity"]["last_activity_at"].is_string());
}

#[tokio::test]
async fn a_backup_is_made_while_serving_and_can_be_restored() {
    let setup = Setup::offline();
    let engine = setup.start().await;
    let turn = engine.turn("a", "hello").await;
    let made = engine.post("/admin/backup", json!({"name": "one.sqlite"})).await.ok().await;
    assert_eq!((&made["status"], &made["verified"]), (&json!("ok"), &json!(true)));
    assert!(made["size_bytes"].as_u64() > Some(0) && made["schema_version"].as_u64() >= Some(1), "{made}");
    let again =
        engine.post("/admin/backup", json!({"name": "one.sqlite"})).await.error(409, "CONFLICT").await;
    assert_eq!(again["details"]["reason"], "already_exists");
    for name in ["../x", "a/b", "", "x y", &"x".repeat(101)] {
        engine.post("/admin/backup", json!({"name": name})).await.error(400, "INVALID_REQUEST").await;
    }
    let unnamed = engine.send(Ask::new("POST", "/admin/backup")).await.ok().await;
    assert_ne!(unnamed["path"], made["path"]);
    engine.send(Ask::delete("/tasks/a")).await.ok().await;
    engine.kill();
    let restored =
        setup.command(&["restore", made["path"].as_str().expect("a path")]).output().expect("runs");
    assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
    let engine = setup.start().await;
    assert_eq!(raw(&engine.stored("").await), turn.raw());
}
