//! Provision said twice, refused and failed: what a repeat is answered, and what is left behind.

use crate::trial::{Trial, hang, until};
use backends::Call;
use contract::EngineId;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::task::JoinSet;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idempotency_key_joins_replays_and_rejects_other_bodies() {
    let (trial, demo) = Trial::with_product().await;
    let provision = async |key: &str, body: Value| {
        demo.call_with("POST", "/engines/provision", ("idempotency-key", key), body).await
    };
    let body = json!({"user_id": "ada"});
    trial.world.fault(hang(Call::EnsureImage));
    let mut herd = JoinSet::new();
    for _ in 0..10 {
        let (demo, body) = (demo.clone(), body.clone());
        herd.spawn(async move {
            demo.call_with("POST", "/engines/provision", ("idempotency-key", "k-1"), body).await
        });
    }
    until("ten wait", async || trial.waiting(0) == 10).await;
    trial.world.heal();
    let mut answers = BTreeSet::new();
    while let Some(answer) = herd.join_next().await {
        let answer = answer.expect("is answered");
        assert_eq!(answer.status, 200, "{:?}", answer.body);
        answers.insert(answer.body.to_string());
    }
    assert_eq!(answers.len(), 1, "{answers:?}");
    let first: Value = serde_json::from_str(&answers.pop_first().expect("has one")).expect("is JSON");
    let fields: BTreeSet<&str> =
        first.as_object().expect("is an object").keys().map(String::as_str).collect();
    assert_eq!(fields, BTreeSet::from(["engine_id", "user_id", "status", "url", "api_key"]));

    assert_eq!(provision("k-1", body.clone()).await.body, first, "a repeat is answered from the record");
    for (request, status) in [("sleep", "sleeping"), ("stop", "stopped")] {
        assert_eq!(demo.post("ada", request).await.status, 200);
        let again = provision("k-1", body.clone()).await;
        assert_eq!((again.status, &again.body["status"]), (200, &json!(status)), "{:?}", again.body);
        assert_eq!(again.body["engine_id"], first["engine_id"]);
    }
    for other in
        [json!({"user_id": "bob"}), json!({"user_id": "ada", "engine_version": "september-engine:2.3.1"})]
    {
        let refused = provision("k-1", other).await;
        assert_eq!((refused.status, refused.code()), (400, "INVALID_REQUEST"), "{:?}", refused.body);
    }
    assert_eq!(demo.get("bob").await.status, 404);
    assert_eq!(provision("k-2", body.clone()).await.code(), "ENGINE_ALREADY_EXISTS");
    assert_eq!(demo.provision("ada").await.code(), "ENGINE_ALREADY_EXISTS");

    trial.world.fault(hang(Call::Destroy));
    let destroy = tokio::spawn({
        let demo = demo.clone();
        async move { demo.destroy("ada").await }
    });
    demo.until_status("ada", "destroying").await;
    assert_eq!(provision("k-1", body.clone()).await.code(), "ENGINE_BUSY");
    trial.world.heal();
    assert_eq!(destroy.await.expect("is answered").status, 200);
    let gone = provision("k-1", body.clone()).await;
    assert_eq!((gone.status, gone.code()), (404, "ENGINE_NOT_FOUND"), "{:?}", gone.body);
    assert!(trial.world.objects().is_empty(), "a replay makes nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_of_a_failed_provision_is_the_error_it_failed_with() {
    let trial =
        Trial::new().await.set("ORCH_RESTART_BACKOFF_BASE_S", "200").set("ORCH_RESTART_BACKOFF_MAX_S", "300");
    let (trial, demo) = trial.ready().await;
    trial.world.lose_image("september-engine:2.3.0");
    let call = async || {
        let body = json!({"user_id": "ada"});
        demo.call_with("POST", "/engines/provision", ("idempotency-key", "k-1"), body).await
    };
    let (first, again) = (call().await, call().await);
    assert_eq!((first.status, first.code()), (502, "BACKEND_ERROR"), "{:?}", first.body);
    assert_eq!((again.status, again.code()), (502, "BACKEND_ERROR"), "{:?}", again.body);
    for answer in [&first, &again] {
        assert!(answer.body["error"]["details"]["engine_id"].is_string(), "{:?}", answer.body);
        assert!(answer.retry_after.is_some(), "a restart is scheduled");
    }
    assert_eq!(demo.standing("ada").await, "failed-running");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_provision_leaves_nothing() {
    let trial = Trial::new().await.set("ORCH_PORT_MIN", "9001").set("ORCH_PORT_MAX", "9002");
    let (trial, demo) = trial.ready().await;
    demo.engine("ada").await;
    let foreign = demo
        .call("POST", "/engines/provision", json!({"user_id": "eve", "engine_version": "evil/image:1"}))
        .await;
    assert_eq!((foreign.status, foreign.code()), (403, "POLICY_DENIED"), "{:?}", foreign.body);
    assert_eq!(demo.provision("ada").await.code(), "ENGINE_ALREADY_EXISTS");
    let small = trial.product("small", json!({"max_engines": 0})).await;
    for refused in [small.provision("eve").await, small.admit("eve").await] {
        assert_eq!((refused.status, refused.code()), (429, "QUOTA_EXCEEDED"), "{:?}", refused.body);
        assert_eq!(refused.body["error"]["message"], "Product at max_engines limit (0).");
        assert!(refused.retry_after.is_some_and(|s| s >= 1), "every 429 says when to retry");
    }
    demo.engine("bob").await;
    let full = demo.provision("eve").await;
    assert_eq!((full.status, full.code()), (503, "PORT_EXHAUSTION"), "{:?}", full.body);
    assert!(full.retry_after.is_some_and(|s| s >= 1), "every 503 says when to retry");
    for product in [&demo, &small] {
        assert_eq!(product.get("eve").await.code(), "ENGINE_NOT_FOUND");
    }
    assert_eq!(trial.world.objects().len(), 2);
    let provisions = trial.rows("user=eve&action=provision&action=provision_failed").await;
    assert_eq!(provisions, Vec::<Value>::new());
    assert_eq!(demo.destroy("bob").await.status, 200);
    demo.engine("eve").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_provision_leaves_one_failed_row_and_no_half_object() {
    let trial = Trial::new()
        .await
        .set("ORCH_BOOT_TIMEOUT_S", "1")
        .set("ORCH_RESTART_BACKOFF_BASE_S", "2")
        .set("ORCH_RESTART_BACKOFF_MAX_S", "2");
    let (trial, demo) = trial.ready().await;
    trial.world.edit_default(|p| p.health = backends::HealthAnswer::TimedOut);
    let failed = demo.provision("ada").await;
    assert_eq!((failed.status, failed.code()), (504, "BOOT_TIMEOUT"), "{:?}", failed.body);
    let named =
        failed.body["error"]["details"]["engine_id"].as_str().expect("the engine is named").to_owned();
    let id = EngineId::parse(&named).expect("is an id");
    assert_eq!(demo.get("ada").await.body["engine_id"], json!(named));
    let row = trial.row(id, "provision_failed").await;
    assert_eq!(row["metadata"]["reason"], "boot_timeout", "{row:?}");
    assert_eq!(row["metadata"]["via"], "endpoint");
    assert_eq!(trial.world.objects(), [id]);
    // Not before: an object that gets well while it waits for its restart is not restarted.
    let begun = || async { trial.actions(id).await.contains(&"auto_restart_start".to_owned()) };
    until("it is restarted", async || begun().await).await;
    trial.world.edit(id, |p| p.health = backends::HealthAnswer::Normal);
    demo.until_status("ada", "running").await;
    assert_eq!(demo.admit("ada").await.body["engine"]["engine_id"], json!(named));
    let actions = trial.actions(id).await;
    assert_eq!(actions[..2], ["provision_failed", "auto_restart_start"], "{actions:?}");
    assert_eq!(actions.last().map(String::as_str), Some("auto_restart_success"));

    trial.world.edit_default(|p| {
        p.health = backends::HealthAnswer::Normal;
        p.dies = Some(backends::Death { code: 2, ..backends::Death::after(Duration::from_millis(1)) });
    });
    let failed = demo.provision("bob").await;
    assert_eq!((failed.status, failed.code()), (502, "BACKEND_ERROR"), "{:?}", failed.body);
    // Otherwise it would have lasted as long as a boot may: BOOT_TIMEOUT.
    let bob = EngineId::parse(failed.body["error"]["details"]["engine_id"].as_str().expect("is named"));
    assert_eq!(trial.world.starts(bob.expect("is an id")), 1, "exit code 2 ends the boot at once");
    assert_eq!(failed.retry_after, None, "nothing is scheduled after exit code 2");
}
