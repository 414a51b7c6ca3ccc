//! The life of one engine as a product sees it.

use crate::trial::{Trial, until};
use serde_json::json;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provisioned_engine_is_found_stopped_started_and_destroyed() {
    let (trial, demo) = Trial::with_product().await;
    let id = demo.engine("ada").await;
    let record = demo.get("ada").await;
    assert_eq!(record.body["status"], "running", "{:?}", record.body);
    assert!(record.body["api_key"].as_str().is_some_and(|k| k.starts_with("sk-sept-")));
    let admitted = demo.admit("ada").await;
    assert_eq!(admitted.body["admitted"], true, "{:?}", admitted.body);
    assert_eq!(admitted.body["engine"]["api_key"], record.body["api_key"]);

    assert_eq!(demo.post("ada", "stop").await.body["status"], "stopped");
    assert_eq!(demo.post("ada", "stop").await.code(), "ENGINE_NOT_RUNNING");
    let refused = demo.admit("ada").await;
    assert_eq!(refused.body["reason"], "engine_stopped", "{:?}", refused.body);
    assert_eq!(demo.post("ada", "start").await.body["status"], "running");
    assert_eq!(demo.post("ada", "start").await.code(), "ENGINE_ALREADY_RUNNING");

    assert_eq!(demo.destroy("ada").await.body["status"], "destroyed");
    assert_eq!(demo.get("ada").await.code(), "ENGINE_NOT_FOUND");
    assert_eq!(demo.destroy("ada").await.code(), "ENGINE_NOT_FOUND");
    assert!(trial.world.objects().is_empty(), "an object is left");
    assert!(!trial.world.has_storage(id), "storage is left");
    assert_eq!(trial.actions(id).await, ["provision", "stop", "start", "destroy"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crashed_engine_comes_back_by_itself() {
    let (trial, demo) = Trial::with_product().await;
    let id = demo.engine("ada").await;
    trial.world.crash(id, 1, false);
    demo.until_status("ada", "failed").await;
    demo.until_status("ada", "running").await;
    let actions = trial.actions(id).await;
    assert_eq!(actions[..2], ["provision", "health_failed"], "{actions:?}");
    assert_eq!(actions.last().map(String::as_str), Some("auto_restart_success"), "{actions:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sleeping_engine_wakes_with_the_same_url_and_key() {
    let (trial, demo) = Trial::with_product().await;
    let id = demo.engine("ada").await;
    let before = demo.get("ada").await.body;
    assert_eq!(demo.post("ada", "sleep").await.body["status"], "sleeping");
    assert_eq!(trial.world.truth(id).word(), "paused");
    let refused = demo.call("POST", "/engines/ada/admit", json!({})).await;
    assert_eq!(refused.body["reason"], "engine_sleeping");
    let woken = demo.admit("ada").await;
    assert_eq!(woken.body["admitted"], true, "{:?}", woken.body);
    for field in ["url", "api_key", "engine_id"] {
        assert_eq!(woken.body["engine"][field], before[field], "{field}");
    }
    assert_eq!(trial.actions(id).await, ["provision", "sleep", "wake"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotated_key_is_the_key_and_the_window_refuses_a_second_one() {
    let (trial, demo) = Trial::with_product().await;
    let id = demo.engine("ada").await;
    let before = demo.get("ada").await.body;
    let rotated = demo.post("ada", "rotate-key").await;
    assert_eq!(rotated.status, 200, "{:?}", rotated.body);
    assert_ne!(rotated.body["api_key"], before["api_key"]);
    assert_eq!(demo.get("ada").await.body["api_key"], rotated.body["api_key"]);
    let again = demo.post("ada", "rotate-key").await;
    assert_eq!((again.status, again.code()), (409, "ENGINE_BUSY"), "{:?}", again.body);
    assert_eq!(again.body["error"]["details"]["reason"], "rotation_window");
    assert!(again.retry_after.is_some());
    assert_eq!(trial.actions(id).await, ["provision", "rotate_key", "rotate_key"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_engine_is_put_to_sleep_and_an_admitted_one_is_not() {
    let trial = Trial::new().await.set("ORCH_IDLE_SLEEP_AFTER_S", "5");
    let (trial, demo) = trial.ready().await;
    let id = demo.engine("ada").await;
    demo.until_status("ada", "sleeping").await;
    assert_eq!(trial.actions(id).await, ["provision", "sleep"]);
    let woken = demo.admit("ada").await;
    assert_eq!(woken.body["admitted"], true);
    trial.world.set_activity(
        id,
        Some(contract::engine_api::Activity {
            in_flight_turns: 0,
            open_streams: 1,
            last_activity_at: None,
            next_scheduled_at: None,
        }),
    );
    tokio::time::sleep(Duration::from_secs(8)).await;
    assert_eq!(demo.status("ada").await, "running", "an open stream keeps it awake");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn herd_of_admits_is_one_start() {
    let (trial, demo) = Trial::with_product().await;
    let mut herd = tokio::task::JoinSet::new();
    for _ in 0..1000 {
        let demo = demo.clone();
        herd.spawn(async move { demo.admit("ada").await });
    }
    let mut keys = std::collections::BTreeSet::new();
    while let Some(answer) = herd.join_next().await {
        let answer = answer.expect("no caller breaks off");
        assert_eq!(answer.body["admitted"], true, "{:?}", answer.body);
        keys.insert(answer.body["engine"]["api_key"].to_string());
    }
    assert_eq!(keys.len(), 1);
    let objects = trial.world.objects();
    assert_eq!(objects.len(), 1);
    assert_eq!(trial.world.starts(objects[0]), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_replica_leaves_its_operation_to_the_next() {
    for point in ["provision.create.before", "provision.boot.after", "provision.finish.before"] {
        let (mut trial, demo) = Trial::with_product().await;
        trial.replicas[0].core.fail_points.arm(point, orchestrator::failpoint::Failure::Vanish);
        let caller = tokio::spawn({
            let demo = demo.clone();
            async move { demo.provision("ada").await }
        });
        let core = std::sync::Arc::clone(&trial.replicas[0].core);
        until("the point is passed", async || core.fail_points.passed().contains(point)).await;
        trial.kill(0).await;
        let _ = caller.await;
        trial.replica().await;
        let demo = demo.at(trial.base(0));
        demo.until_status("ada", "running").await;
        let admitted = demo.admit("ada").await;
        assert_eq!(admitted.body["admitted"], true, "{:?}", admitted.body);
        assert_eq!(trial.world.objects().len(), 1, "{point}");
    }
}
