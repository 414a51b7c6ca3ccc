//! What goes wrong in operation, each with the code and the words an operator finds in the documentation.

use super::deployment::{ADMIN_KEY, Fleet};
use super::process::{self, until};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use testbed::postgres::{PostgresServer, Version};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_free_port_is_port_exhaustion_and_leaves_nothing() {
    let mut fleet = Fleet::new().await;
    let last = (fleet.first_engine_port() + 1).to_string();
    fleet.set("ORCH_PORT_MAX", &last);
    let fleet = fleet.ready().await;
    fleet.engine("ada").await;
    fleet.engine("bob").await;
    let refused = fleet.provision("carol").await;
    assert_eq!((refused.status, refused.code()), (503, "PORT_EXHAUSTION"), "{refused:?}");
    assert!(refused.retry_after.is_some());
    let through_admit = fleet.admit_at(0, "carol").await;
    assert_eq!((through_admit.status, through_admit.code()), (503, "PORT_EXHAUSTION"));
    assert_eq!(fleet.call("GET", "/engines", &Value::Null).await.body["total"], 2);
    let directories = fs::read_dir(fleet.root()).expect("the data root").flatten();
    let brains = directories.filter(|d| !d.file_name().to_string_lossy().starts_with('.')).count();
    assert_eq!(brains, 2, "a refused provision left a directory");
    // A port that is given back can be had.
    fleet.call("DELETE", "/engines/ada", &Value::Null).await;
    fleet.engine("carol").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_older_than_a_registration_answers_invalid_platform_key_and_removes_no_engine() {
    let server = PostgresServer::private(Version::V18).await;
    let fleet = Fleet::on(&server.create_database("orchestrator").await).ready().await;
    let ada = fleet.engine("ada").await;
    fleet.stop(0).await;
    let dump = fleet.folder.path().join("evening.sql").display().to_string();
    let url = server.url_of("orchestrator");
    run(&server, "pg_dump", &["--file", &dump, &url]);
    fleet.start(0).await;
    let later = fleet.register("later", json!({})).await;
    let mut young = Vec::new();
    for user in ["bob", "carol", "dave", "eve"] {
        young.push(fleet.engine(user).await);
    }
    fleet.stop(0).await;

    let mut fleet = fleet;
    let evening = server.create_database("evening").await;
    run(&server, "psql", &["--quiet", "--no-psqlrc", "-v", "ON_ERROR_STOP=1", "--file", &dump, &evening]);
    fleet.set("ORCH_DATABASE_URL", &evening);
    fleet.set("ORCH_ORPHAN_GRACE_S", "60");
    fleet.start(0).await;
    let refused = fleet.call("GET", "/engines", &Value::Null).await;
    assert_eq!((refused.status, refused.code()), (401, "INVALID_PLATFORM_KEY"), "{refused:?}");
    assert!(!later.is_empty());
    let trail = fleet.audit(&ada.id).await;
    assert_eq!(trail.len(), 1, "the engine of the backup is adopted as it is: {trail:?}");
    assert_eq!(ada.opens(&ada.key).await, Some(true));
    // Engines the old database has never heard of are kept, and listed.
    let orphans = fleet.json(&["engines", "orphans", "--json"]).await;
    let text = orphans.to_string();
    for engine in &young {
        assert_eq!(engine.opens(&engine.key).await, Some(true), "an engine without a row was touched");
        assert!(text.contains(&engine.id), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_does_not_answer_fails_after_three_probes_and_is_restarted() {
    let mut fleet = Fleet::new().await;
    let hang = fleet.folder.path().join("hang");
    // A frozen process would be thawed at once; this one lives and does not answer.
    fleet.set("ORCH_ENGINE_BINARY", &process::program("fake-engine").display().to_string());
    fleet.set("ORCH_ENGINE_ENV_PASSTHROUGH", "FAKE_HANG_FILE");
    fleet.set("FAKE_HANG_FILE", &hang.display().to_string());
    let fleet = fleet.ready().await;
    let engine = fleet.engine("ada").await;
    let pid = fleet.process_of(&engine.id);
    fs::write(&hang, "").expect("our own directory");
    until("failures climb", async || {
        fleet.explain("ada").await["health"]["failures"].as_u64().is_some_and(|n| n >= 1)
    })
    .await;
    until("it has failed", async || fleet.actions(&engine.id).await.iter().any(|a| a == "health_failed"))
        .await;
    fs::remove_file(&hang).expect("our own file");
    fleet.until_status("ada", "running").await;
    let trail = fleet.audit(&engine.id).await;
    let actions: Vec<&str> = trail.iter().filter_map(|row| row["action"].as_str()).collect();
    assert_eq!(actions[..2], ["provision", "health_failed"], "{actions:?}");
    assert_eq!(actions.last(), Some(&"auto_restart_success"), "{actions:?}");
    let failed = &trail[1]["metadata"];
    assert_eq!((&failed["reason"], &failed["failures"]), (&"probe_timeout".into(), &3.into()), "{failed}");
    // Answering again before its restart, it is recovered and left alone; else it is another process.
    let restarted =
        actions.contains(&"auto_restart_start") && trail[trail.len() - 1]["metadata"]["by"] == "orchestrator";
    assert_eq!(fleet.process_of(&engine.id) != pid, restarted, "{trail:?}");
    let told = fleet.explain("ada").await;
    let reasons = told["reasons"].as_array().expect("reasons");
    assert!(
        reasons.iter().any(|r| r["what"] == "health_failed" && r["because"] == "probe_timeout"),
        "{told}"
    );
}

/// Runs a program that came with the server.
fn run(server: &PostgresServer, name: &str, args: &[&str]) {
    let output =
        Command::new(server.program(name)).args(args).env_clear().output().expect("the program is there");
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A program in the place of the Engine.
fn stand_in(fleet: &Fleet, script: &str) -> String {
    let path = fleet.folder.path().join("not-an-engine");
    fs::write(&path, script).expect("writable");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("our own file");
    path.display().to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_refuses_its_configuration_is_given_up_at_once() {
    let mut fleet = Fleet::new().await;
    let refusing = stand_in(&fleet, "#!/bin/sh\necho 'ERROR: LLM_MODEL is missing' >&2\nexit 2\n");
    let engine = fleet.env["ORCH_ENGINE_BINARY"].clone();
    fleet.set("ORCH_ENGINE_BINARY", &refusing);
    let mut fleet = fleet.ready().await;
    let answer = fleet.provision("ada").await;
    assert_eq!((answer.status, answer.code()), (502, "BACKEND_ERROR"), "{answer:?}");
    let id = answer.body["error"]["details"]["engine_id"].as_str().expect("the engine is named").to_owned();
    let told = fleet.explain("ada").await;
    assert_eq!(
        (&told["status"], &told["reasons"][0]["because"]),
        (&"failed".into(), &"config_refused".into()),
        "{told}"
    );
    let denied = fleet.admit_at(0, "ada").await;
    assert_eq!(
        (&denied.body["reason"], &denied.body["retry_after_ms"]),
        (&"engine_unhealthy".into(), &Value::Null)
    );
    let actions = fleet.actions(&id).await;
    assert_eq!(actions[..2], ["provision_failed", "auto_restart_gave_up"], "{actions:?}");
    let shown = fleet.json(&["explain", "demo/ada", "--json"]).await;
    assert!(shown["failure_message"].as_str().is_some_and(|m| m.contains("LLM_MODEL is missing")), "{shown}");
    // The operator repairs it; nobody but a start tries again.
    fleet.stop(0).await;
    fleet.set("ORCH_ENGINE_BINARY", &engine);
    fleet.start(0).await;
    assert_eq!(fleet.status("ada").await, "failed");
    let started = fleet.post("ada", "start").await;
    assert_eq!(started.body["status"], "running", "{started:?}");
    fleet.admitted("ada").await.turn("thread-1", "hello").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_crashes_while_starting_is_tried_again_until_the_limit() {
    let mut fleet = Fleet::new().await.with("ORCH_RESTART_MAX_ATTEMPTS", "2");
    let crashing = stand_in(&fleet, "#!/bin/sh\nexit 1\n");
    fleet.set("ORCH_ENGINE_BINARY", &crashing);
    let fleet = fleet.ready().await;
    let answer = fleet.provision("ada").await;
    assert_eq!((answer.status, answer.code()), (502, "BACKEND_ERROR"), "{answer:?}");
    let id = answer.body["error"]["details"]["engine_id"].as_str().expect("the engine is named").to_owned();
    until("it is given up", async || {
        fleet.actions(&id).await.last().is_some_and(|a| a == "auto_restart_gave_up")
    })
    .await;
    let actions = fleet.actions(&id).await;
    let expected = [
        "provision_failed",
        "auto_restart_start",
        "auto_restart_failed",
        "auto_restart_start",
        "auto_restart_failed",
        "auto_restart_gave_up",
    ];
    assert_eq!(actions, expected);
    assert!(process::told_of(&fleet.directory(&id)).is_empty(), "a process is left");
    let status = fleet.call("GET", "/status", &Value::Null).await;
    assert_eq!(
        (&status.body["health"], &status.body["unhealthy_count"]),
        (&"degraded".into(), &1.into()),
        "{status:?}"
    );
    let page = fleet.ask(0, "GET", "/products", ("x-admin-key", ADMIN_KEY), &Value::Null).await;
    assert_eq!(page.body["products"][0]["engines"], 1, "{page:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_that_a_stranger_holds_is_quarantined_and_another_taken() {
    let fleet = Fleet::new().await.ready().await;
    let first = fleet.first_engine_port();
    let stranger = std::net::TcpListener::bind(("127.0.0.1", first)).expect("our own range");
    let engine = fleet.engine("ada").await;
    assert_eq!(engine.url, format!("http://127.0.0.1:{}", first + 1), "the first port is a stranger's");
    engine.turn("thread-1", "hello").await;
    drop(stranger);
}
