//! Admission: who is handed an engine and when, who is refused, and what an admission writes.

use crate::trial::{Trial, hang, until};
use backends::Call;
use contract::Timestamp;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_provision_and_admit_share_one_start() {
    let (trial, demo) = Trial::with_product().await;
    let mut herd = JoinSet::new();
    for n in 0..40 {
        let demo = demo.clone();
        herd.spawn(async move {
            let answer = if n % 2 == 0 { demo.admit("ada").await } else { demo.provision("ada").await };
            (n % 2 == 0, answer)
        });
    }
    let (mut ids, mut provisioned) = (BTreeSet::new(), 0);
    while let Some(answer) = herd.join_next().await {
        let (admit, answer) = answer.expect("is answered");
        match (admit, answer.status) {
            (true, 200) => assert_eq!(answer.body["admitted"], true, "{:?}", answer.body),
            (false, 200) => provisioned += 1,
            (false, 409) => {
                assert_eq!(answer.code(), "ENGINE_ALREADY_EXISTS");
                continue;
            }
            _ => panic!("{:?}", answer.body),
        }
        ids.insert(answer.engine_id().to_string());
    }
    assert!(provisioned <= 1, "{provisioned} provisions made the one engine");
    assert_eq!(ids.len(), 1);
    let objects = trial.world.objects();
    assert_eq!(objects.len(), 1);
    assert_eq!(trial.world.starts(objects[0]), 1);
    assert_eq!(trial.actions(objects[0]).await, ["provision"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn first_ready_engine_is_not_handed_out_before_ready() {
    let (trial, demo) = Trial::with_product().await;
    trial.world.edit_default(|p| p.boot = Duration::from_millis(1500));
    let began = Instant::now();
    let caller = demo.later("ada", "provision");
    let mut seen = BTreeSet::new();
    while !caller.is_finished() {
        let read = demo.get("ada").await;
        if let Some(status) = read.body["status"].as_str() {
            if status == "running" {
                assert!(
                    began.elapsed() >= Duration::from_millis(1400),
                    "running after {:?}",
                    began.elapsed()
                );
            }
            seen.insert(status.to_owned());
        }
    }
    assert!(seen.contains("provisioning"), "{seen:?}");
    assert_eq!(caller.await.expect("is answered").body["status"], "running");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disconnect_does_not_cancel() {
    let (trial, demo) = Trial::with_product().await;
    trial.world.fault(hang(Call::EnsureImage));
    let caller = demo.later("ada", "provision");
    demo.until_standing("ada", "provisioning-running+provision").await;
    caller.abort();
    let _ = caller.await;
    trial.world.heal();
    demo.until_standing("ada", "running-running").await;
    let id = demo.get("ada").await.engine_id();

    assert_eq!(demo.post("ada", "sleep").await.status, 200);
    trial.world.fault(hang(Call::Thaw));
    let caller = demo.later("ada", "admit");
    demo.until_standing("ada", "sleeping-running+wake").await;
    caller.abort();
    let _ = caller.await;
    trial.world.heal();
    demo.until_standing("ada", "running-running").await;
    assert_eq!(trial.actions(id).await, ["provision", "sleep", "wake"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn admit_writes_at_most_once_per_half_lease() {
    let trial = Trial::new().await.set("ORCH_ADMIT_LEASE_S", "60").set("ORCH_HEALTH_CHECK_INTERVAL_S", "60");
    let (trial, demo) = trial.ready().await;
    demo.engine("ada").await;
    let registry = &trial.replicas[0].core.registry;
    let (before, began) = (registry.statements(), Instant::now());
    let mut leases = BTreeSet::new();
    const ADMITS: u64 = 300;
    for _ in 0..ADMITS {
        let answer = demo.admit("ada").await;
        let lease = answer.body["lease_expires_at"]
            .as_str()
            .unwrap_or_else(|| panic!("{:?}", answer.body))
            .to_owned();
        let until = Timestamp::parse(&lease).expect("is a time");
        assert!(until.millis() - Timestamp::now().millis() > 29_000, "less than half a lease is left");
        leases.insert(lease);
    }
    assert!(began.elapsed() < Duration::from_secs(30), "the machine is too slow for this test");
    assert_eq!(leases.len(), 1, "one lease was taken, the rest was read");
    let spent = registry.statements() - before;
    // One read per admit, one write, and what the loops do meanwhile: at most twenty a second.
    let loops = 20 * (began.elapsed().as_secs() + 1);
    assert!((ADMITS..=ADMITS + 1 + loops).contains(&spent), "{spent} statements for {ADMITS} admits");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_products_user_is_404() {
    let (trial, demo) = Trial::with_product().await;
    let id = demo.engine("ada").await;
    let other = trial.product("other", json!({})).await;
    for (method, path) in [
        ("GET", "/engines/ada"),
        ("GET", "/engines/ada/explain"),
        ("POST", "/engines/ada/start"),
        ("POST", "/engines/ada/stop"),
        ("POST", "/engines/ada/sleep"),
        ("POST", "/engines/ada/rotate-key"),
        ("DELETE", "/engines/ada"),
    ] {
        let answer = other.call(method, path, Value::Null).await;
        assert_eq!(
            (answer.status, answer.code()),
            (404, "ENGINE_NOT_FOUND"),
            "{method} {path}: {:?}",
            answer.body
        );
    }
    let refused = other.call("POST", "/engines/ada/admit", json!({})).await;
    assert_eq!(refused.body["reason"], "engine_not_found");
    let listed = other.call("GET", "/engines", Value::Null).await;
    assert_eq!((&listed.body["total"], &listed.body["engines"]), (&json!(0), &json!([])));
    assert_eq!(other.call("GET", "/status", Value::Null).await.body["total"], 0);
    let seen = other.call("GET", &format!("/audit?engine={id}"), Value::Null).await;
    assert_eq!(seen.body["entries"], json!([]), "the log of another product");
    assert_eq!(demo.standing("ada").await, "running-running");
    assert_eq!(trial.actions(id).await, ["provision"]);

    let own = other.engine("ada").await;
    assert_ne!(own, id, "the same user of another product is another engine");
    let keys = [demo.get("ada").await, other.get("ada").await].map(|a| a.body["api_key"].clone());
    assert_ne!(keys[0], keys[1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopped_engine_is_never_auto_woken() {
    let (mut trial, demo) = Trial::with_product().await;
    let id = demo.engine("ada").await;
    assert_eq!(demo.post("ada", "stop").await.status, 200);
    for round in 0..2 {
        let demo = demo.clone().at(trial.base(0));
        for _ in 0..20 {
            assert_eq!(demo.admit("ada").await.body["reason"], "engine_stopped");
        }
        trial.world.restart_daemon(true);
        let passes = |trial: &Trial| trial.world.calls().iter().filter(|c| c.call == Call::List).count();
        let before = passes(&trial);
        until("two more passes", async || passes(&trial) >= before + 2).await;
        assert_eq!(trial.world.running(), [], "round {round}");
        assert_eq!(demo.standing("ada").await, "stopped-stopped");
        if round == 0 {
            trial.stop(0).await;
            trial.replica().await;
        }
    }
    assert_eq!(trial.actions(id).await, ["provision", "stop"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_engine_is_never_handed_out() {
    let trial =
        Trial::new().await.set("ORCH_RESTART_BACKOFF_BASE_S", "1").set("ORCH_RESTART_MAX_ATTEMPTS", "2");
    let (trial, demo) = trial.ready().await;
    let id = demo.engine("ada").await;
    trial.world.edit(id, |p| p.dies = Some(backends::Death::after(Duration::from_millis(1))));
    trial.world.crash(id, 1, false);
    demo.until_status("ada", "failed").await;
    let refused = async || {
        let answer = demo.admit("ada").await;
        assert_eq!(answer.body["admitted"], false, "{:?}", answer.body);
        assert_eq!(answer.body["engine"], Value::Null);
        assert_eq!(answer.body["reason"], "engine_unhealthy", "{:?}", answer.body);
    };
    until("it is given up", async || {
        refused().await;
        demo.explain("ada").await["health"]["next_restart_at"] == Value::Null
            && demo.standing("ada").await == "failed-running"
    })
    .await;
    refused().await;
    let read = demo.get("ada").await;
    assert_eq!((read.status, &read.body["status"]), (200, &json!("failed")), "an explicit read shows it");
}
