//! Keys while engines live: what works when, what is stored where, and what never shows up anywhere.

use crate::trial::{ADMIN_KEY, MASTER_KEY, Product, Trial, until};
use backends::Prober as _;
use contract::{EngineId, Timestamp};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Does the engine itself take this key?
async fn takes(trial: &Trial, id: EngineId, key: &Value) -> bool {
    let key = key.as_str().expect("a key is a text");
    let limit = Duration::from_secs(2);
    let reply =
        trial.world.call(trial.world.address(id), "GET", "/version", key, Default::default(), limit).await;
    match reply.status() {
        Some(200) => true,
        Some(401) => false,
        other => panic!("the engine answered {other:?}"),
    }
}

async fn key_of(demo: &Product, user: &str) -> Value {
    demo.get(user).await.body["api_key"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_key_works_in_the_window_only() {
    let trial = Trial::new().await.set("ORCH_KEY_OVERLAP_S", "2");
    let (trial, demo) = trial.ready().await;
    let id = demo.engine("ada").await;
    let first = key_of(&demo, "ada").await;
    assert!(takes(&trial, id, &first).await);
    let rotated = demo.post("ada", "rotate-key").await;
    assert_eq!(rotated.status, 200, "{:?}", rotated.body);
    assert_eq!(rotated.body["overlap_seconds"], 2, "{:?}", rotated.body);
    let until_at =
        rotated.body["previous_key_valid_until"].as_str().and_then(Timestamp::parse).expect("has an end");
    assert!((0..=2_500).contains(&(until_at.millis() - Timestamp::now().millis())), "{:?}", rotated.body);
    let second = rotated.body["api_key"].clone();
    assert!(takes(&trial, id, &first).await && takes(&trial, id, &second).await, "both work in the window");
    assert_eq!(trial.row(id, "rotate_key").await["metadata"]["overlap_s"], 2);
    until("the window is over", async || !takes(&trial, id, &first).await).await;
    assert!(takes(&trial, id, &second).await);
    until("a second rotation is taken", async || demo.post("ada", "rotate-key").await.status == 200).await;
    let third = key_of(&demo, "ada").await;
    assert!(takes(&trial, id, &third).await);
    assert_ne!(third, second);
    assert_eq!(demo.admit("ada").await.body["engine"]["api_key"], third);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_window_is_the_one_the_engine_grants() {
    let trial = Trial::new().await.set("ORCH_KEY_OVERLAP_S", "900");
    let (trial, demo) = trial.ready().await;
    let id = demo.engine("ada").await;
    trial.world.edit(id, |p| p.overlap_max = Duration::from_secs(120));
    let rotated = demo.post("ada", "rotate-key").await.body;
    assert!(rotated["overlap_seconds"].as_i64().is_some_and(|s| (119..=120).contains(&s)), "{rotated}");
    let end = rotated["previous_key_valid_until"].as_str().and_then(Timestamp::parse).expect("has an end");
    assert!((115_000..=121_000).contains(&(end.millis() - Timestamp::now().millis())), "{rotated}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotated_key_outlives_stop_sleep_and_a_new_object() {
    let (trial, demo) = Trial::with_product().await;
    let id = demo.engine("ada").await;
    let rotated = demo.post("ada", "rotate-key").await.body["api_key"].clone();
    for (down, up) in [("sleep", "start"), ("stop", "start")] {
        assert_eq!(demo.post("ada", down).await.status, 200);
        assert_eq!(demo.post("ada", up).await.status, 200);
        assert_eq!(key_of(&demo, "ada").await, rotated);
        assert!(takes(&trial, id, &rotated).await, "after {down}");
    }
    trial.world.lose_object(id);
    until("it is back", async || {
        demo.status("ada").await == "running"
            && trial.actions(id).await.contains(&"auto_restart_success".to_owned())
    })
    .await;
    assert_eq!(key_of(&demo, "ada").await, rotated);
    assert!(takes(&trial, id, &rotated).await, "after a new object");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_does_not_answer_keeps_its_key_until_it_does() {
    let (trial, demo) = Trial::with_product().await;
    let id = demo.engine("ada").await;
    let before = key_of(&demo, "ada").await;
    trial.world.edit(id, |p| p.refuses_calls = true);
    let refused = demo.post("ada", "rotate-key").await;
    assert_eq!((refused.status, refused.code()), (502, "BACKEND_ERROR"), "{:?}", refused.body);
    assert_eq!(refused.body["error"]["details"]["retrying"], true, "{:?}", refused.body);
    assert_eq!(key_of(&demo, "ada").await, before, "the old key is the key");
    trial.world.edit(id, |p| p.refuses_calls = false);
    assert!(takes(&trial, id, &before).await);
    demo.until_standing("ada", "running-running").await;
    let after = key_of(&demo, "ada").await;
    assert_ne!(after, before);
    assert!(takes(&trial, id, &after).await);
    assert_eq!(trial.actions(id).await, ["provision", "rotate_key"]);
}

/// An open rotation is no reason to leave a dead or a sick engine alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_fails_during_its_rotation_is_restarted_with_a_key_that_works() {
    let trial = Trial::new().await.set("ORCH_KEY_OVERLAP_S", "1");
    let (trial, demo) = trial.ready().await;
    let (dead, sick) = (demo.engine("dead").await, demo.engine("sick").await);
    for id in [dead, sick] {
        trial.world.edit(id, |p| p.refuses_calls = true);
    }
    let rotate = |user: &'static str| {
        let demo = demo.clone();
        tokio::spawn(async move { demo.post(user, "rotate-key").await })
    };
    let callers = [rotate("dead"), rotate("sick")];
    demo.until_standing("dead", "running-running+rotate_key").await;
    demo.until_standing("sick", "running-running+rotate_key").await;
    trial.world.crash(dead, 1, false);
    trial.world.edit(sick, |p| p.health = backends::HealthAnswer::TimedOut);
    for caller in callers {
        let answer = caller.await.expect("is answered");
        assert_eq!((answer.status, answer.code()), (502, "BACKEND_ERROR"), "{:?}", answer.body);
    }
    for (user, id) in [("dead", dead), ("sick", sick)] {
        until("it is found failed", async || trial.actions(id).await.contains(&"health_failed".to_owned()))
            .await;
        trial.world.edit(id, |p| {
            p.refuses_calls = false;
            p.health = backends::HealthAnswer::Normal;
        });
        demo.until_standing(user, "running-running").await;
        assert!(takes(&trial, id, &key_of(&demo, user).await).await, "{user}");
        // The broken-off one may have been completed meanwhile: then its window comes to its end first.
        until("it is rotated again", async || demo.post(user, "rotate-key").await.status == 200).await;
        assert!(takes(&trial, id, &key_of(&demo, user).await).await, "{user}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotate_key_crash_between_engine_and_store() {
    for point in [
        "rotate_key.engine.before",
        "rotate_key.engine.after",
        "rotate_key.finish.before",
        "rotate_key.finish.after",
    ] {
        let (mut trial, demo) = Trial::with_product().await;
        let id = demo.engine("ada").await;
        let before = key_of(&demo, "ada").await;
        trial.replicas[0].core.fail_points.arm(point, orchestrator::failpoint::Failure::Vanish);
        let caller = tokio::spawn({
            let demo = demo.clone();
            async move { demo.post("ada", "rotate-key").await }
        });
        let core = std::sync::Arc::clone(&trial.replicas[0].core);
        until("the point is passed", async || core.fail_points.passed().contains(point)).await;
        trial.kill(0).await;
        let _ = caller.await;
        trial.replica().await;
        let demo = demo.at(trial.base(0));
        demo.until_standing("ada", "running-running").await;
        let after = key_of(&demo, "ada").await;
        assert!(takes(&trial, id, &after).await, "{point}: the key that is handed out is not taken");
        assert_ne!(after, before, "{point}: the rotation was lost");
        assert_eq!(trial.actions(id).await, ["provision", "rotate_key"], "{point}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_open_only_their_own_doors() {
    let (trial, demo) = Trial::with_product().await;
    demo.engine("ada").await;
    let engine_key = key_of(&demo, "ada").await.as_str().expect("is a text").to_owned();
    for wrong in [engine_key.as_str(), ADMIN_KEY, "pk-sept-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", ""] {
        let stranger = demo.clone().with_key(wrong);
        for answer in [stranger.get("ada").await, stranger.admit("ada").await, stranger.destroy("ada").await]
        {
            assert_eq!((answer.status, answer.code()), (401, "INVALID_PLATFORM_KEY"), "{:?}", answer.body);
        }
        let admin = demo.call_with("GET", "/products", ("x-admin-key", wrong), Value::Null).await;
        if wrong != ADMIN_KEY {
            assert_eq!((admin.status, admin.code()), (401, "INVALID_ADMIN_KEY"), "{:?}", admin.body);
        }
    }
    assert_eq!(demo.status("ada").await, "running");
    let listed = demo.call("GET", "/engines", Value::Null).await.body;
    assert_eq!(listed["engines"][0].get("api_key"), None, "{listed}");
    assert!(!demo.explain("ada").await.to_string().contains("sk-sept-"));
    assert_eq!(trial.world.objects().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inspect_shows_only_the_contract() {
    let trial = Trial::new().await;
    let (trial, demo) = trial.ready().await;
    let id = demo.engine("ada").await;
    let key = key_of(&demo, "ada").await.as_str().expect("is a text").to_owned();
    let environment = trial.world.environment(id).0;
    let text = format!("{environment:?} {:?}", trial.world.shape(id));
    for secret in [key.as_str(), demo.key.as_str(), ADMIN_KEY, MASTER_KEY] {
        assert!(!text.contains(secret), "an object shows a secret");
    }
    let hash = orchestrator::keys::hash_hex(&key);
    assert_eq!(
        environment.get(contract::env::ENGINE_KEY_HASH),
        Some(&hash),
        "the engine knows the hash only"
    );
    assert!(environment.keys().all(|name| !name.starts_with("ORCH_")), "{:?}", environment.keys());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_damaged_row_does_not_stop_the_fleet() {
    let (mut trial, demo) = Trial::with_product().await;
    for user in ["a", "b", "c"] {
        demo.engine(user).await;
    }
    let damage = "UPDATE engines SET engine_key_enc = 'gAAAAABmZmZm' WHERE user_id = 'b'";
    trial.sql().await.execute(damage, &[]).await.expect("the row is damaged");
    for restarted in [false, true] {
        if restarted {
            trial.stop(0).await;
            trial.replica().await;
        }
        let demo = demo.clone().at(trial.base(0));
        for user in ["a", "c"] {
            assert_eq!(demo.admit(user).await.body["admitted"], true);
            assert_eq!(demo.get(user).await.status, 200);
        }
        for answer in [demo.admit("b").await, demo.get("b").await] {
            assert_eq!((answer.status, answer.code()), (500, "INTERNAL"), "{:?}", answer.body);
            assert!(answer.body.to_string().contains("reissue-key"), "{:?}", answer.body);
        }
        let status = demo.call("GET", "/status", Value::Null).await.body;
        assert_eq!(status["by_status"]["running"], 3, "{status}");
    }
    assert_eq!(demo.at(trial.base(0)).destroy("b").await.status, 200, "it can be removed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn boot_refuses_a_wrong_master_key() {
    let (mut trial, demo) = Trial::with_product().await;
    demo.engine("ada").await;
    trial.stop(0).await;
    let other = "BBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBE=";
    let mut trial = trial.set("ORCH_MASTER_KEY", other);
    let Err(stop) = trial.start().await else { panic!("it starts with a wrong master key") };
    assert_eq!(stop.code, 3, "{}", stop.message);
    assert!(!stop.message.contains(other) && !stop.message.contains(MASTER_KEY), "{}", stop.message);
    trial = trial.set("ORCH_MASTER_KEY", &format!("{other},{MASTER_KEY}"));
    trial.replica().await;
    let demo = demo.at(trial.base(0));
    assert_eq!(demo.admit("ada").await.body["admitted"], true, "the second key of the list decrypts");
    assert_eq!(demo.provision("bob").await.status, 200);
}

/// One thread, so that every line of the whole run is heard.
#[tokio::test]
async fn issued_keys_never_appear_in_logs_or_in_the_audit_log() {
    let own = &["orchestrator", "backends", "fleet", "chassis", "it"];
    let (subscriber, captured) = chassis::telemetry::capture(
        chassis::telemetry::LogLevel::Debug,
        own,
        orchestrator::telemetry::LOG_IDS,
    );
    let _heard = tracing::subscriber::set_default(subscriber);
    let (mut trial, demo) = Trial::with_product().await;
    let mut secrets = vec![demo.key.clone(), ADMIN_KEY.to_owned(), MASTER_KEY.to_owned()];
    let mut ids = Vec::new();
    let mut keep = |value: &Value| secrets.push(value.as_str().expect("a key is shown").to_owned());
    for user in ["ada", "bob"] {
        ids.push(demo.engine(user).await);
        keep(&key_of(&demo, user).await);
    }
    keep(&demo.admit("ada").await.body["engine"]["api_key"]);
    keep(&demo.post("ada", "rotate-key").await.body["api_key"]);
    trial.world.edit(ids[1], |p| p.refuses_calls = true);
    demo.post("bob", "rotate-key").await;
    trial.world.edit(ids[1], |p| {
        p.refuses_calls = false;
        // What an engine prints about itself is clipped and masked.
        p.says = vec!["ERROR key sk-sept-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA is bad".to_owned()];
    });
    demo.until_standing("bob", "running-running").await;
    keep(&key_of(&demo, "bob").await);
    trial.world.crash(ids[1], 1, false);
    until("it was restarted", async || {
        trial.actions(ids[1]).await.contains(&"auto_restart_success".to_owned())
    })
    .await;
    keep(&json!("sk-sept-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"));
    let rotated = trial.admin("POST", "/products/demo/rotate-platform-key", json!({})).await.body;
    keep(&rotated["platform_api_key"]);
    let wrong = "pk-sept-BBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBB";
    let stranger = demo.clone().with_key(wrong);
    assert_eq!(stranger.get("ada").await.status, 401);
    keep(&json!(wrong));
    assert_eq!(demo.destroy("ada").await.status, 200);
    let rows = trial.rows("").await;
    assert!(rows.len() > 8, "{} rows", rows.len());
    let told = demo.explain("bob").await;
    trial.stop(0).await;
    let log = captured.text();
    assert!(log.lines().count() > 20 && log.contains(&ids[0].to_string()), "nothing was heard");
    let log_and_rows =
        [("log", log), ("audit log", json!(rows).to_string()), ("explanation", told.to_string())];
    for secret in &secrets {
        let hash = orchestrator::keys::hash_hex(secret);
        for (place, text) in &log_and_rows {
            assert!(!text.contains(secret.as_str()), "a key is in the {place}");
            assert!(!text.contains(&hash), "the hash of a key is in the {place}");
        }
    }
}

/// A rotation whose engine has the new key, and whose row does not know. The executor is gone.
async fn break_off(trial: &Trial, demo: &Product, user: &'static str) {
    let point = "rotate_key.engine.after";
    let core = std::sync::Arc::clone(&trial.replicas[0].core);
    core.fail_points.arm(point, orchestrator::failpoint::Failure::Vanish);
    let demo = demo.clone();
    tokio::spawn(async move { demo.post(user, "rotate-key").await });
    until("the engine has the key", async || !core.fail_points.is_armed(point)).await;
}

async fn close_rotations(sql: &tokio_postgres::Client) {
    let closed = "UPDATE operations SET status = 'failed', finished_at = clock_timestamp(), error_code = 'BACKEND_ERROR' \
                  WHERE status = 'open' AND kind = 'rotate_key'";
    sql.execute(closed, &[]).await.expect("the rotation is closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_off_rotation_of_a_running_engine_is_resolved_by_itself() {
    let trial = Trial::new().await.set("ORCH_KEY_OVERLAP_S", "1");
    let (trial, demo) = trial.ready().await;
    let sql = trial.sql().await;
    let id = demo.engine("ada").await;
    let before = key_of(&demo, "ada").await;
    break_off(&trial, &demo, "ada").await;
    close_rotations(&sql).await;
    until("the old key is dead", async || !takes(&trial, id, &before).await).await;
    until("the new key is handed out", async || key_of(&demo, "ada").await != before).await;
    let after = key_of(&demo, "ada").await;
    assert!(takes(&trial, id, &after).await, "a key is handed out that the engine does not take");
    demo.until_standing("ada", "running-running").await;
    let row = trial.row(id, "rotate_key").await;
    assert_eq!((&row["actor"], &row["metadata"]["outcome"]), (&json!("system"), &Value::Null), "{row:?}");
    assert_eq!(trial.world.starts(id), 1, "nothing was restarted for it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_recovers_after_a_broken_off_rotation_is_handed_out_with_the_key_it_takes() {
    let trial = Trial::new().await.set("ORCH_KEY_OVERLAP_S", "1");
    let trial = trial.set("ORCH_RESTART_BACKOFF_BASE_S", "200").set("ORCH_RESTART_BACKOFF_MAX_S", "300");
    let (trial, demo) = trial.ready().await;
    let by_itself = backends::Capabilities { self_restarts: true, ..trial.world.capabilities() };
    trial.world.set_capabilities(by_itself);
    let sql = trial.sql().await;
    let id = demo.engine("ada").await;
    let before = key_of(&demo, "ada").await;
    trial.world.edit(id, |p| p.boot = Duration::from_secs(2));
    break_off(&trial, &demo, "ada").await;
    trial.world.crash(id, 1, false);
    demo.until_status("ada", "failed").await;
    close_rotations(&sql).await;
    demo.until_status("ada", "running").await;
    let after = key_of(&demo, "ada").await;
    assert!(after != before && takes(&trial, id, &after).await, "the key from before is handed out");
    let rows = trial.rows(&format!("engine={id}&action=rotate_key")).await;
    let resolved = rows.iter().filter(|row| row["metadata"]["outcome"] != "failed").count();
    assert_eq!(resolved, 0, "its recovery asked which key it takes: {rows:?}");
    assert_eq!(trial.row(id, "auto_restart_success").await["metadata"]["by"], "backend");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_beside_a_waiting_rotation_is_noticed_and_mended_at_once() {
    let trial =
        Trial::new().await.set("ORCH_RECONCILE_INTERVAL_S", "60").set("ORCH_HEALTH_CHECK_INTERVAL_S", "60");
    let (trial, demo) = trial.ready().await;
    let sql = trial.sql().await;
    let id = demo.engine("ada").await;
    trial.world.edit(id, |p| p.refuses_calls = true);
    let refused = demo.post("ada", "rotate-key").await;
    assert_eq!(refused.body["error"]["details"]["retrying"], true, "{:?}", refused.body);
    // Its next try is far away: the crash must not wait for it.
    let far = "UPDATE operations SET retry_at = clock_timestamp() + INTERVAL '1 hour' WHERE status = 'open'";
    assert_eq!(sql.execute(far, &[]).await.expect("waits long"), 1);
    trial.world.edit(id, |p| p.refuses_calls = false);
    trial.world.crash(id, 1, false);
    let log = async || trial.actions(id).await;
    until("it is noticed", async || log().await.contains(&"health_failed".to_owned())).await;
    until("it is restarted", async || log().await.contains(&"auto_restart_success".to_owned())).await;
    demo.until_standing("ada", "running-running").await;
    assert_eq!(trial.row(id, "health_failed").await["metadata"]["reason"], "crashed");
    let broken_off = trial.row(id, "rotate_key").await["metadata"].clone();
    assert_eq!(
        (&broken_off["from"], &broken_off["to"]),
        (&json!("failed"), &json!("failed")),
        "{broken_off}"
    );
    assert!(takes(&trial, id, &key_of(&demo, "ada").await).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_engine_is_asked_three_times_in_ten_seconds() {
    let trial = Trial::new().await.set("ORCH_HEALTH_CHECK_INTERVAL_S", "60");
    let (trial, demo) = trial.ready().await;
    let id = demo.engine("ada").await;
    trial.world.edit(id, |p| p.answer_takes = Duration::from_secs(60));
    let began = Instant::now();
    let answer = demo.post("ada", "rotate-key").await;
    let took = began.elapsed();
    assert_eq!((answer.status, answer.code()), (502, "BACKEND_ERROR"), "{:?}", answer.body);
    // And the new key is tried once more after them.
    assert!(took < Duration::from_secs(15), "{took:?}");
}
