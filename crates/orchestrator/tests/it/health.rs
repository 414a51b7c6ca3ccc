//! Health and restart: what counts as a failure, what follows it, and what is never restarted.

use crate::trial::{Product, Trial, until};
use backends::{Capabilities, Death, HealthAnswer};
use contract::engine_api::{HealthStatus, SubsystemState};
use contract::{EngineId, Timestamp};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// A trial whose failed engines are not restarted while a test looks at them.
async fn patient() -> (Trial, Product) {
    Trial::new()
        .await
        .set("ORCH_RESTART_BACKOFF_BASE_S", "200")
        .set("ORCH_RESTART_BACKOFF_MAX_S", "300")
        .ready()
        .await
}

/// The place brings crashed processes back by itself, as Docker does.
pub fn restarts_by_itself(trial: &Trial) {
    let capabilities = Capabilities { self_restarts: true, ..trial.world.capabilities() };
    trial.world.set_capabilities(capabilities);
}

pub async fn more_probes(trial: &Trial, id: EngineId, count: u64) {
    let before = trial.world.probes(id);
    until("it is probed", async || trial.world.probes(id) >= before + count).await;
}

async fn all_probed(trial: &Trial, ids: &[EngineId], count: u64) {
    let before: Vec<u64> = ids.iter().map(|id| trial.world.probes(*id)).collect();
    until("all are probed", async || {
        ids.iter().zip(&before).all(|(id, before)| trial.world.probes(*id) >= before + count)
    })
    .await;
}

pub fn health(trial: &Trial, id: EngineId, answer: HealthAnswer) {
    trial.world.edit(id, |profile| profile.health = answer);
}

fn time(value: &Value) -> Timestamp {
    value.as_str().and_then(Timestamp::parse).unwrap_or_else(|| panic!("{value} is no time"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_failures_make_failed_two_do_not_and_one_healthy_resets() {
    let (trial, demo) = patient().await;
    let id = demo.engine("ada").await;
    more_probes(&trial, id, 1).await;
    for _ in 0..2 {
        health(&trial, id, HealthAnswer::Refused);
        more_probes(&trial, id, 2).await;
        health(&trial, id, HealthAnswer::Normal);
        more_probes(&trial, id, 2).await;
        assert_eq!(demo.standing("ada").await, "running-running");
    }
    assert_eq!(trial.actions(id).await, ["provision"]);
    let before = trial.world.probes(id);
    health(&trial, id, HealthAnswer::Refused);
    demo.until_status("ada", "failed").await;
    assert!(trial.world.probes(id) >= before + 3);
    let row = trial.row(id, "health_failed").await;
    assert_eq!(
        (&row["metadata"]["reason"], &row["metadata"]["failures"]),
        (&json!("probe_refused"), &json!(3)),
        "{row:?}"
    );
    let told = demo.explain("ada").await;
    assert_eq!(told["health"]["failures"], 3, "{told}");
    let summary = told["summary"].as_str().expect("there is one");
    assert!(summary.contains("three probes were refused") && summary.contains("is due at"), "{summary}");
    assert_eq!(told["admission"], json!({"would_admit": false, "reason": "engine_unhealthy"}));
    assert_eq!(told["reasons"][0]["what"], "health_failed");
    assert_eq!(told["reasons"][0]["because"], "probe_refused");
    assert_eq!(trial.world.starts(id), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_failed_probe_has_its_reason() {
    let (trial, demo) = patient().await;
    let raw = |status, body: &str| HealthAnswer::Raw { status, body: body.to_owned() };
    let answers = [
        ("timeout", HealthAnswer::TimedOut, "probe_timeout"),
        ("refused", HealthAnswer::Refused, "probe_refused"),
        ("garbage", HealthAnswer::Unreadable, "probe_status"),
        ("error", raw(500, r#"{"status":"ok"}"#), "probe_status"),
        ("word", raw(200, r#"{"status":"fine"}"#), "probe_status"),
        ("draining", raw(503, r#"{"status":"draining"}"#), "probe_status"),
        ("migration", raw(503, r#"{"status":"migration_required"}"#), "migration_required"),
        ("locked", raw(503, r#"{"status":"brain_locked"}"#), "brain_locked"),
    ];
    let mut engines = Vec::new();
    for (user, answer, reason) in answers {
        let id = demo.engine(user).await;
        health(&trial, id, answer);
        engines.push((user, id, reason));
    }
    for (user, id, reason) in engines {
        demo.until_status(user, "failed").await;
        assert_eq!(trial.row(id, "health_failed").await["metadata"]["reason"], reason, "{user}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn database_error_is_a_failure_and_a_degraded_provider_is_not() {
    let (trial, demo) = patient().await;
    let (brain, provider) = (demo.engine("brain").await, demo.engine("provider").await);
    for id in [brain, provider] {
        trial.world.edit(id, |p| {
            p.status = HealthStatus::Degraded;
            p.subsystems.llm_provider = SubsystemState::Error;
        });
    }
    trial.world.edit(brain, |p| p.subsystems.database = SubsystemState::Error);
    demo.until_status("brain", "failed").await;
    until("the other is shown as degraded", async || demo.get("provider").await.body["degraded"] == true)
        .await;
    assert_eq!(demo.status("provider").await, "running");
    let told = demo.explain("provider").await;
    assert_eq!(told["health"]["degraded_subsystems"], json!(["llm_provider"]), "{told}");
    assert!(told["summary"].as_str().is_some_and(|s| s.contains("llm_provider")), "{told}");
    assert_eq!(trial.actions(provider).await, ["provision"]);
    trial.world.edit(provider, |p| {
        p.status = HealthStatus::Ok;
        p.subsystems.llm_provider = SubsystemState::Ok;
    });
    until("it is well again", async || demo.get("provider").await.body["degraded"] == false).await;
    let verdicts: Vec<Value> = trial.rows(&format!("engine={provider}&action=health_check")).await;
    let mut words: Vec<&str> = verdicts.iter().filter_map(|r| r["metadata"]["verdict"].as_str()).collect();
    words.dedup();
    words.reverse();
    let at = words.iter().position(|w| *w == "degraded").expect("the change is written down");
    assert_eq!(words[at..], ["degraded", "healthy"], "{words:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn degraded_provider_never_restarts_the_fleet() {
    const FLEET: usize = 300;
    let (trial, demo) = Trial::with_product().await;
    let mut herd = tokio::task::JoinSet::new();
    for n in 0..FLEET {
        let demo = demo.clone();
        herd.spawn(async move { demo.engine(&format!("u{n}")).await });
    }
    let ids = herd.join_all().await;
    for id in &ids {
        trial.world.edit(*id, |p| {
            p.status = HealthStatus::Degraded;
            p.subsystems.llm_provider = SubsystemState::Error;
        });
    }
    until("all are degraded", async || {
        demo.call("GET", "/status", Value::Null).await.body["degraded_count"] == json!(FLEET)
    })
    .await;
    for id in [ids[0], ids[FLEET - 1]] {
        more_probes(&trial, id, 4).await;
    }
    let status = demo.call("GET", "/status", Value::Null).await.body;
    assert_eq!(
        (&status["by_status"]["running"], &status["health"]),
        (&json!(FLEET), &json!("ok")),
        "{status}"
    );
    assert!(ids.iter().all(|id| trial.world.starts(*id) == 1), "an engine was restarted");
    assert_eq!(trial.rows("action=health_failed").await, Vec::<Value>::new());
    assert_eq!(demo.admit("u7").await.body["admitted"], true);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exit_code_two_fails_fast_also_where_the_place_restarts() {
    for by_itself in [false, true] {
        let (trial, demo) = Trial::with_product().await;
        if by_itself {
            restarts_by_itself(&trial);
        }
        let id = demo.engine("ada").await;
        trial.world.edit(id, |p| p.dies = Some(Death { code: 2, ..Death::after(Duration::from_millis(5)) }));
        trial.world.crash(id, 2, false);
        demo.until_status("ada", "failed").await;
        until("the object is down", async || trial.world.truth(id).word() == "exited").await;
        let told = demo.explain("ada").await;
        assert_eq!(told["health"]["next_restart_at"], Value::Null, "{told}");
        assert!(told["summary"].as_str().is_some_and(|s| s.contains("exit code 2")), "{told}");
        until("it is given up", async || {
            trial.actions(id).await.contains(&"auto_restart_gave_up".to_owned())
        })
        .await;
        let rows = trial.actions(id).await;
        assert_eq!(rows, ["provision", "health_failed", "auto_restart_gave_up"], "by itself: {by_itself}");
        assert_eq!(trial.row(id, "health_failed").await["metadata"]["reason"], "config_refused");
        let starts = trial.world.starts(id);
        trial.world.edit(id, |p| p.dies = None);
        let calls = trial.world.calls().len();
        until("it was listed again", async || trial.world.calls().len() > calls + 4).await;
        assert_eq!(trial.world.starts(id), starts, "it was started again");
        assert_eq!(demo.post("ada", "start").await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn oom_is_named() {
    let (trial, demo) = patient().await;
    let id = demo.engine("ada").await;
    trial.world.crash(id, 137, true);
    demo.until_status("ada", "failed").await;
    let row = trial.row(id, "health_failed").await;
    let metadata = &row["metadata"];
    assert_eq!(
        (&metadata["reason"], &metadata["oom"], &metadata["exit_code"]),
        (&json!("oom_killed"), &json!(true), &json!(137))
    );
    let told = demo.explain("ada").await;
    assert!(told["summary"].as_str().is_some_and(|s| s.contains("lack of memory")), "{told}");
    assert_eq!(told["reasons"][0]["because"], "oom_killed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn docker_restart_counts_as_one_crash() {
    let (trial, demo) = patient().await;
    restarts_by_itself(&trial);
    let id = demo.engine("ada").await;
    for crash in 1..=2 {
        trial.world.crash(id, 1, false);
        let rows = 1 + 2 * crash;
        until("it recovers", async || trial.actions(id).await.len() == rows).await;
        demo.until_standing("ada", "running-running").await;
        assert_eq!(trial.world.starts(id), 1 + crash as u64, "one crash is one start");
        assert_eq!(demo.explain("ada").await["health"]["restart_attempts"], json!(crash));
        assert_eq!(trial.row(id, "auto_restart_success").await["metadata"]["by"], "backend");
        more_probes(&trial, id, 2).await;
    }
    let rows = trial.actions(id).await;
    let crash = ["health_failed", "auto_restart_success"];
    assert_eq!(rows, ["provision", crash[0], crash[1], crash[0], crash[1]]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_at_the_limit_gives_up_at_once() {
    let trial =
        Trial::new().await.set("ORCH_RESTART_BACKOFF_BASE_S", "100").set("ORCH_RESTART_MAX_ATTEMPTS", "1");
    let trial = trial.set("ORCH_RESTART_BACKOFF_MAX_S", "100");
    let (trial, demo) = trial.ready().await;
    restarts_by_itself(&trial);
    let id = demo.engine("ada").await;
    trial.world.crash(id, 1, false);
    until("it recovers", async || trial.actions(id).await.len() == 3).await;
    more_probes(&trial, id, 1).await;
    trial.world.crash(id, 1, false);
    until("it is given up", async || trial.actions(id).await.len() >= 5).await;
    until("the object is down", async || trial.world.truth(id).word() == "exited").await;
    assert_eq!(trial.actions(id).await[3..], ["health_failed", "auto_restart_gave_up"]);
    assert_eq!(demo.standing("ada").await, "failed-running");
    assert!(
        demo.explain("ada").await["summary"]
            .as_str()
            .is_some_and(|s| s.contains("given up after one restart"))
    );
    assert_eq!(demo.post("ada", "start").await.status, 200);
    assert_eq!(demo.explain("ada").await["health"]["restart_attempts"], 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recovered_engine_is_not_restarted() {
    let trial =
        Trial::new().await.set("ORCH_RESTART_BACKOFF_BASE_S", "3").set("ORCH_RESTART_BACKOFF_MAX_S", "3");
    let (trial, demo) = trial.ready().await;
    let id = demo.engine("ada").await;
    health(&trial, id, HealthAnswer::TimedOut);
    demo.until_status("ada", "failed").await;
    health(&trial, id, HealthAnswer::Normal);
    demo.until_status("ada", "running").await;
    assert_eq!(trial.world.starts(id), 1);
    let rows = trial.actions(id).await;
    assert_eq!(rows, ["provision", "health_failed", "auto_restart_start", "auto_restart_success"]);
    assert_eq!(trial.row(id, "auto_restart_success").await["metadata"]["by"], "none");
    assert!(
        !trial.world.calls().iter().any(|c| matches!(c.call, backends::Call::Stop | backends::Call::Start))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gives_up_after_the_last_attempt_stops_the_object_and_start_recovers() {
    let trial = Trial::new().await.set("ORCH_RESTART_MAX_ATTEMPTS", "2").set("ORCH_BOOT_TIMEOUT_S", "1");
    let (trial, demo) = trial.ready().await;
    let id = demo.engine("ada").await;
    health(&trial, id, HealthAnswer::TimedOut);
    until("it is given up", async || trial.actions(id).await.contains(&"auto_restart_gave_up".to_owned()))
        .await;
    let rows = trial.actions(id).await;
    let tried = ["auto_restart_start", "auto_restart_failed"];
    let expected =
        ["provision", "health_failed", tried[0], tried[1], tried[0], tried[1], "auto_restart_gave_up"];
    assert_eq!(rows, expected);
    until("the object is down", async || trial.world.truth(id).word() == "exited").await;
    let told = demo.explain("ada").await;
    assert_eq!(
        (&told["health"]["restart_attempts"], &told["health"]["next_restart_at"]),
        (&json!(2), &Value::Null),
        "{told}"
    );
    assert!(told["summary"].as_str().is_some_and(|s| s.contains("given up after two restarts")), "{told}");
    assert_eq!(trial.row(id, "auto_restart_gave_up").await["metadata"]["attempts"], 2);
    assert_eq!(trial.row(id, "auto_restart_failed").await["metadata"]["reason"], "boot_timeout");

    health(&trial, id, HealthAnswer::Normal);
    let started = demo.post("ada", "start").await;
    assert_eq!(started.status, 200, "{:?}", started.body);
    let told = demo.explain("ada").await;
    assert_eq!(
        (&told["status"], &told["health"]["restart_attempts"]),
        (&json!("running"), &json!(0)),
        "{told}"
    );
    assert_eq!(told["summary"].as_str().map(|s| s.ends_with(": serving")), Some(true), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attempts_wait_longer_each_time_up_to_the_cap() {
    let trial =
        Trial::new().await.set("ORCH_RESTART_BACKOFF_BASE_S", "1").set("ORCH_RESTART_BACKOFF_MAX_S", "3");
    let (trial, demo) = trial.ready().await;
    let id = demo.engine("ada").await;
    trial.world.edit(id, |p| p.dies = Some(Death::after(Duration::from_millis(1))));
    trial.world.crash(id, 1, false);
    let starts = async || trial.rows(&format!("engine={id}&action=auto_restart_start")).await;
    until("three attempts are made", async || starts().await.len() == 3).await;
    let mut rows = starts().await;
    rows.reverse();
    let delays: Vec<&Value> = rows.iter().map(|r| &r["metadata"]["delay_s"]).collect();
    assert_eq!(delays, [1, 2, 3], "{rows:?}");
    let attempts: Vec<&Value> = rows.iter().map(|r| &r["metadata"]["attempt"]).collect();
    assert_eq!(attempts, [1, 2, 3]);
    let gaps: Vec<i64> = rows
        .windows(2)
        .map(|w| time(&w[1]["timestamp"]).millis() - time(&w[0]["timestamp"]).millis())
        .collect();
    assert!(gaps[0] >= 2000 && gaps[1] >= 3000 && gaps[1] < 6000, "{gaps:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failure_brake_limits_mass_verdicts() {
    const FLEET: usize = 30;
    let trial =
        Trial::new().await.set("ORCH_HEALTH_CHECK_INTERVAL_S", "4").set("ORCH_HEALTH_MAX_FAILURES", "1");
    let trial = trial.set("ORCH_RESTART_BACKOFF_BASE_S", "200").set("ORCH_RESTART_BACKOFF_MAX_S", "300");
    let (trial, demo) = trial.ready().await;
    let mut herd = tokio::task::JoinSet::new();
    for n in 0..FLEET {
        let demo = demo.clone();
        herd.spawn(async move { demo.engine(&format!("u{n}")).await });
    }
    let ids = herd.join_all().await;
    ids.iter().for_each(|id| health(&trial, *id, HealthAnswer::TimedOut));
    let probed = |least: u64| ids.iter().all(|id| trial.world.probes(*id) >= least);
    let before: Vec<u64> = ids.iter().map(|id| trial.world.probes(*id)).collect();
    until("two sweeps are over", async || {
        ids.iter().zip(&before).filter(|(id, before)| trial.world.probes(**id) >= **before + 2).count()
            >= FLEET - 12
    })
    .await;
    assert!(probed(1));
    let internal = format!("http://{}/metrics", trial.replicas[0].internal);
    let metrics = crate::trial::get_text(&internal).await;
    assert!(metrics.contains("bap_failure_brake_active 1"), "the brake is not shown");
    ids.iter().for_each(|id| health(&trial, *id, HealthAnswer::Normal));
    let mut rows = trial.rows("action=health_failed").await;
    rows.reverse();
    let at: Vec<i64> = rows.iter().map(|r| time(&r["timestamp"]).millis()).collect();
    let first = at.iter().filter(|t| **t < at[0] + 3900).count();
    assert_eq!(first, 5, "of thirty, five may fail per interval: {at:?}");
    assert!(at.len() < FLEET / 2 + 1, "{} of {FLEET} failed in about two intervals", at.len());
    for id in &ids {
        assert_eq!(trial.world.starts(*id), 1);
    }
    let running: Vec<EngineId> =
        ids.iter().copied().filter(|id| !rows.iter().any(|r| r["engine_id"] == json!(id))).collect();
    all_probed(&trial, &running, 2).await;
    let status = demo.call("GET", "/status", Value::Null).await.body;
    assert_eq!(status["by_status"]["running"], json!(FLEET - at.len()), "one that waited failed: {status}");
}

/// What the backend reports itself is not a verdict of the sweep.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crashes_are_not_braked() {
    const FLEET: usize = 20;
    let (trial, demo) = patient().await;
    let mut ids = Vec::new();
    for n in 0..FLEET {
        ids.push(demo.engine(&format!("u{n}")).await);
    }
    let began = Instant::now();
    ids.iter().for_each(|id| trial.world.crash(*id, 1, false));
    until("all are failed", async || {
        demo.call("GET", "/status", Value::Null).await.body["by_status"]["failed"] == json!(FLEET)
    })
    .await;
    assert!(began.elapsed() < Duration::from_secs(5), "it took {:?}", began.elapsed());
    assert_eq!(demo.call("GET", "/status", Value::Null).await.body["health"], "critical");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hung_engine_holds_one_slot() {
    let trial =
        Trial::new().await.set("ORCH_HEALTH_CHECK_TIMEOUT_S", "0.9").set("ORCH_HEALTH_MAX_FAILURES", "100");
    let (trial, demo) = trial.ready().await;
    let hung = demo.engine("hung").await;
    let mut ids = Vec::new();
    for n in 0..20 {
        ids.push(demo.engine(&format!("u{n}")).await);
    }
    health(&trial, hung, HealthAnswer::TimedOut);
    more_probes(&trial, hung, 1).await;
    let before: Vec<u64> = ids.iter().map(|id| trial.world.probes(*id)).collect();
    more_probes(&trial, hung, 4).await;
    for (id, before) in ids.iter().zip(before) {
        let probes = trial.world.probes(*id) - before;
        assert!((3..=9).contains(&probes), "a neighbour was probed {probes} times meanwhile");
    }
    assert_eq!(demo.status("hung").await, "running");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counters_survive_orchestrator_restart() {
    let trial = Trial::new().await.set("ORCH_HEALTH_MAX_FAILURES", "6");
    let trial = trial.set("ORCH_RESTART_BACKOFF_BASE_S", "200").set("ORCH_RESTART_BACKOFF_MAX_S", "300");
    let (mut trial, demo) = trial.ready().await;
    let id = demo.engine("ada").await;
    more_probes(&trial, id, 1).await;
    health(&trial, id, HealthAnswer::Refused);
    more_probes(&trial, id, 3).await;
    trial.stop(0).await;
    let seen = trial.world.probes(id);
    trial.replica().await;
    let demo = demo.at(trial.base(0));
    demo.until_status("ada", "failed").await;
    let row = trial.row(id, "health_failed").await;
    assert_eq!(row["metadata"]["failures"], 6, "{row:?}");
    let since = trial.world.probes(id) - seen;
    assert!(since <= 4, "the new replica began to count anew: {since} probes");
    let told = demo.explain("ada").await;
    let due = told["health"]["next_restart_at"].clone();
    assert!(due.is_string(), "{told}");
    trial.kill(0).await;
    trial.replica().await;
    let told = demo.at(trial.base(0)).explain("ada").await;
    assert_eq!((&told["health"]["next_restart_at"], &told["status"]), (&due, &json!("failed")), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attempts_reset_after_ten_minutes() {
    let (mut trial, demo) = Trial::with_product().await;
    let id = demo.engine("ada").await;
    trial.world.crash(id, 1, false);
    until("it was restarted", async || trial.actions(id).await.contains(&"auto_restart_success".to_owned()))
        .await;
    assert_eq!(demo.explain("ada").await["health"]["restart_attempts"], 1);
    more_probes(&trial, id, 3).await;
    assert_eq!(demo.explain("ada").await["health"]["restart_attempts"], 1, "not after seconds");
    trial.stop(0).await;
    let aged = "UPDATE engine_vitals SET healthy_since = clock_timestamp() - INTERVAL '11 minutes'";
    trial.sql().await.execute(aged, &[]).await.expect("eleven minutes go by");
    trial.replica().await;
    let demo = demo.at(trial.base(0));
    until("it is forgiven", async || demo.explain("ada").await["health"]["restart_attempts"] == 0).await;
    assert_eq!(demo.status("ada").await, "running");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn start_joins_the_restart_under_way_and_clears_the_counters() {
    let trial = Trial::new().await.set("ORCH_BOOT_TIMEOUT_S", "30");
    let (trial, demo) = trial.ready().await;
    let id = demo.engine("ada").await;
    trial.world.edit(id, |p| p.boot = Duration::from_millis(1500));
    trial.world.crash(id, 1, false);
    demo.until_standing("ada", "failed-running+restart").await;
    assert_eq!(demo.explain("ada").await["health"]["restart_attempts"], 1);
    assert_eq!(demo.post("ada", "start").await.status, 200);
    let told = demo.explain("ada").await;
    assert_eq!(
        (&told["status"], &told["health"]["restart_attempts"]),
        (&json!("running"), &json!(0)),
        "{told}"
    );
    assert_eq!(trial.world.starts(id), 2, "one start for both");
    assert!(!trial.actions(id).await.contains(&"start".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_object_is_made_anew_and_a_lost_brain_is_not() {
    let (trial, demo) = Trial::with_product().await;
    let (object, brain) = (demo.engine("object").await, demo.engine("brain").await);
    trial.world.lose_object(object);
    until("it is back", async || trial.actions(object).await.contains(&"auto_restart_success".to_owned()))
        .await;
    assert_eq!(trial.row(object, "health_failed").await["metadata"]["reason"], "object_missing");
    assert_eq!(trial.row(object, "auto_restart_success").await["metadata"]["recreated"], true);

    trial.world.lose_storage(brain);
    trial.world.lose_object(brain);
    until("it is given up", async || trial.actions(brain).await.contains(&"auto_restart_gave_up".to_owned()))
        .await;
    assert_eq!(trial.row(brain, "auto_restart_gave_up").await["metadata"]["reason"], "storage_missing");
    assert!(!trial.world.has_storage(brain), "an empty brain was made");
    let told = demo.explain("brain").await;
    assert!(told["summary"].as_str().is_some_and(|s| s.contains("its brain is gone")), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_that_recreates_and_fails_is_written_down() {
    let trial = Trial::new().await.set("ORCH_BOOT_TIMEOUT_S", "1").set("ORCH_RESTART_MAX_ATTEMPTS", "1");
    let (trial, demo) = trial.ready().await;
    let id = demo.engine("ada").await;
    health(&trial, id, HealthAnswer::TimedOut);
    trial.world.lose_object(id);
    until("it is given up", async || trial.actions(id).await.contains(&"auto_restart_gave_up".to_owned()))
        .await;
    let rows = trial.actions(id).await;
    assert_eq!(
        rows[1..],
        ["health_failed", "auto_restart_start", "auto_restart_failed", "auto_restart_gave_up"]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sleeping_stopped_and_failed_engines_are_not_probed() {
    let (trial, demo) = patient().await;
    let (a, b, c) = (demo.engine("asleep").await, demo.engine("stopped").await, demo.engine("failed").await);
    let up = demo.engine("up").await;
    assert_eq!(demo.post("asleep", "sleep").await.status, 200);
    assert_eq!(demo.post("stopped", "stop").await.status, 200);
    trial.world.crash(c, 1, false);
    demo.until_status("failed", "failed").await;
    more_probes(&trial, up, 1).await;
    let before = [a, b, c].map(|id| trial.world.probes(id));
    more_probes(&trial, up, 4).await;
    assert_eq!([a, b, c].map(|id| trial.world.probes(id)), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn probe_is_spread_and_bounded_at_fifty() {
    const FLEET: usize = 160;
    let trial =
        Trial::new().await.set("ORCH_HEALTH_CHECK_INTERVAL_S", "2").set("ORCH_HEALTH_CHECK_TIMEOUT_S", "1.5");
    let (trial, demo) = trial.ready().await;
    let mut herd = tokio::task::JoinSet::new();
    for n in 0..FLEET {
        let demo = demo.clone();
        herd.spawn(async move { demo.engine(&format!("u{n}")).await });
    }
    let ids = herd.join_all().await;
    let probes = || ids.iter().map(|id| trial.world.probes(*id)).sum::<u64>();
    // At least one probe each, then how many fall into every quarter of the interval.
    all_probed(&trial, &ids, 1).await;
    let mut quarters = Vec::new();
    for _ in 0..8 {
        let before = probes();
        tokio::time::sleep(Duration::from_millis(500)).await;
        quarters.push(probes() - before);
    }
    assert!(
        quarters.iter().all(|n| *n > 0 && *n < FLEET as u64 * 3 / 4),
        "the sweep comes in bursts: {quarters:?}"
    );

    // Slow engines: fifty places, and everybody still gets a turn.
    let most = &trial.probing.most;
    ids.iter().for_each(|id| trial.world.edit(*id, |p| p.answer_takes = Duration::from_millis(1300)));
    more_probes(&trial, ids[0], 1).await;
    most.store(0, std::sync::atomic::Ordering::Relaxed);
    all_probed(&trial, &ids, 1).await;
    let most = most.load(std::sync::atomic::Ordering::Relaxed);
    assert!((30..=50).contains(&most), "{most} probes at once");
    assert_eq!(trial.rows("action=health_failed").await, Vec::<Value>::new());
}
