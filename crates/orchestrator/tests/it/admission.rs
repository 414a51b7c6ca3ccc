//! Admission and wake: who is handed an engine, who waits, who is turned away, and what a repeat is answered.

use crate::trial::{Answer, Product, Trial, until};
use backends::{BackendError, Call, Fault, FaultKind};
use contract::{EngineId, Timestamp};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use tokio::task::{JoinHandle, JoinSet};

fn later(demo: &Product, user: &str, what: &'static str) -> JoinHandle<Answer> {
    let (demo, user) = (demo.clone(), user.to_owned());
    tokio::spawn(async move {
        match what {
            "admit" => demo.admit(&user).await,
            "provision" => demo.provision(&user).await,
            _ => demo.post(&user, what).await,
        }
    })
}

fn id_of(answer: &Answer) -> EngineId {
    let found = [&answer.body["engine_id"], &answer.body["engine"]["engine_id"]];
    let text = found.iter().find_map(|v| v.as_str()).unwrap_or_else(|| panic!("{:?}", answer.body));
    EngineId::parse(text).expect("an engine has an id")
}

fn hang(call: Call) -> Fault {
    Fault::new(FaultKind::Hang).on(call)
}

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
        ids.insert(id_of(&answer).to_string());
    }
    assert!(provisioned <= 1, "{provisioned} provisions made the one engine");
    assert_eq!(ids.len(), 1);
    let objects = trial.world.objects();
    assert_eq!(objects.len(), 1);
    assert_eq!(trial.world.starts(objects[0]), 1);
    assert_eq!(trial.actions(objects[0]).await, ["provision"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hold_is_bounded_and_shed_with_retry_after() {
    let trial = Trial::new().await.set("ORCH_ADMIT_WAITERS_MAX", "3");
    let (trial, demo) = trial.ready().await;
    trial.world.fault(hang(Call::EnsureImage));
    let held: Vec<_> = (0..3).map(|_| later(&demo, "ada", "admit")).collect();
    until("three wait", async || trial.waiting(0) == 3).await;
    for _ in 0..3 {
        let shed = demo.admit("ada").await;
        assert_eq!((shed.status, shed.code()), (503, "CAPACITY_EXHAUSTED"), "{:?}", shed.body);
        assert!(shed.retry_after.is_some_and(|s| (1..=60).contains(&s)), "{:?}", shed.retry_after);
    }
    trial.world.heal();
    for answer in held {
        let answer = answer.await.expect("is answered");
        assert_eq!(answer.body["admitted"], true, "{:?}", answer.body);
    }
    assert_eq!(trial.waiting(0), 0, "places are given back");
    assert_eq!(demo.admit("ada").await.body["admitted"], true);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_start_queue_refuses_a_provision_and_leaves_nothing() {
    let trial = Trial::new().await.set("ORCH_START_CONCURRENCY", "1").set("ORCH_START_QUEUE_MAX", "1");
    let (trial, demo) = trial.ready().await;
    trial.world.fault(hang(Call::Create));
    let first = later(&demo, "one", "provision");
    let depths = |trial: &Trial| trial.replicas[0].core.gate.gauges();
    until("the first starts", async || depths(&trial).0 == 1).await;
    let second = later(&demo, "two", "provision");
    until("the second queues", async || depths(&trial).1.iter().map(|(_, n)| n).sum::<usize>() == 1).await;
    for refused in [demo.provision("three").await, demo.admit("three").await] {
        assert_eq!((refused.status, refused.code()), (503, "CAPACITY_EXHAUSTED"), "{:?}", refused.body);
        assert!(refused.retry_after.is_some_and(|s| (1..=60).contains(&s)), "{:?}", refused.retry_after);
    }
    assert_eq!(demo.get("three").await.code(), "ENGINE_NOT_FOUND");
    trial.world.heal();
    for answer in [first, second] {
        assert_eq!(answer.await.expect("is answered").status, 200);
    }
    assert_eq!(demo.provision("three").await.status, 200, "there is room again");
}

/// Many at the same moment: whoever is told to come later has left nothing, whoever has left something is served.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nobody_is_accepted_first_and_refused_afterwards() {
    let trial = Trial::new().await.set("ORCH_START_CONCURRENCY", "2").set("ORCH_START_QUEUE_MAX", "3");
    let (trial, demo) = trial.ready().await;
    trial.world.fault(Fault::new(FaultKind::Latency(Duration::from_millis(400))).on(Call::Create));
    let mut herd = JoinSet::new();
    for n in 0..40 {
        let demo = demo.clone();
        herd.spawn(async move {
            let user = format!("u{n}");
            (demo.provision(&user).await, user)
        });
    }
    let mut served = 0;
    while let Some(answer) = herd.join_next().await {
        let (answer, user) = answer.expect("is answered");
        match answer.status {
            200 => served += 1,
            503 => {
                assert_eq!(answer.code(), "CAPACITY_EXHAUSTED", "{:?}", answer.body);
                assert_eq!(demo.get(&user).await.status, 404, "{user} was refused and exists");
            }
            _ => panic!("{user}: {:?}", answer.body),
        }
    }
    assert!(served >= 5, "{served} of two permits and three places");
    assert_eq!(demo.call("GET", "/status", Value::Null).await.body["total"], json!(served));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wake_that_finds_the_queue_full_stays_asleep_and_says_when_to_retry() {
    let trial = Trial::new().await.set("ORCH_START_CONCURRENCY", "1").set("ORCH_START_QUEUE_MAX", "1");
    let (trial, demo) = trial.ready().await;
    let id = demo.engine("ada").await;
    assert_eq!(demo.post("ada", "sleep").await.status, 200);
    trial.world.fault(hang(Call::Create));
    let held = [later(&demo, "one", "provision"), later(&demo, "two", "provision")];
    until("the queue is full", async || {
        let (running, depths) = trial.replicas[0].core.gate.gauges();
        running == 1 && depths.iter().map(|(_, n)| n).sum::<usize>() == 1
    })
    .await;
    let refused = demo.admit("ada").await;
    assert_eq!((refused.status, refused.code()), (503, "CAPACITY_EXHAUSTED"), "{:?}", refused.body);
    assert!(refused.retry_after.is_some_and(|s| (1..=60).contains(&s)), "{:?}", refused.retry_after);
    assert_eq!(demo.standing("ada").await, "sleeping-sleeping");
    trial.world.heal();
    for answer in held {
        assert_eq!(answer.await.expect("is answered").status, 200);
    }
    assert_eq!(demo.admit("ada").await.body["admitted"], true);
    assert_eq!(trial.world.truth(id).word(), "running");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retry_after_ms_matches_the_schedule() {
    let trial =
        Trial::new().await.set("ORCH_RESTART_BACKOFF_BASE_S", "200").set("ORCH_RESTART_BACKOFF_MAX_S", "300");
    let (trial, demo) = trial.ready().await;
    let id = demo.engine("ada").await;
    trial.world.crash(id, 1, false);
    demo.until_status("ada", "failed").await;
    let refused = demo.admit("ada").await;
    assert_eq!(refused.body["reason"], "engine_unhealthy", "{:?}", refused.body);
    let told = refused.body["retry_after_ms"].as_i64().expect("a restart is due");
    let due = demo.explain("ada").await["health"]["next_restart_at"].as_str().and_then(Timestamp::parse);
    let rest = due.expect("it is told").millis() - Timestamp::now().millis();
    assert!((told - rest).abs() < 3_000, "told {told} ms, due in {rest} ms");
    let row = trial.row(id, "health_failed").await;
    let scheduled =
        row["metadata"]["next_restart_at"].as_str().and_then(Timestamp::parse).expect("is written down");
    assert!((scheduled.millis() - due.expect("as above").millis()).abs() < 1_000, "{row:?}");

    let gone = demo.engine("bob").await;
    trial.world.crash(gone, 2, false);
    demo.until_status("bob", "failed").await;
    let refused = demo.admit("bob").await;
    assert_eq!(refused.body["reason"], "engine_unhealthy");
    assert_eq!(refused.body["retry_after_ms"], Value::Null, "nothing will restart it");
}

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
async fn disconnect_does_not_cancel() {
    let (trial, demo) = Trial::with_product().await;
    trial.world.fault(hang(Call::EnsureImage));
    let caller = later(&demo, "ada", "provision");
    demo.until_standing("ada", "provisioning-running+provision").await;
    caller.abort();
    let _ = caller.await;
    trial.world.heal();
    demo.until_standing("ada", "running-running").await;
    let id = id_of(&demo.get("ada").await);

    assert_eq!(demo.post("ada", "sleep").await.status, 200);
    trial.world.fault(hang(Call::Thaw));
    let caller = later(&demo, "ada", "admit");
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
async fn failed_provision_leaves_one_failed_row_and_is_restarted_by_itself() {
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_is_not_handed_out_before_it_is_ready() {
    let (trial, demo) = Trial::with_product().await;
    trial.world.edit_default(|p| p.boot = Duration::from_millis(1500));
    let began = Instant::now();
    let caller = later(&demo, "ada", "provision");
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
async fn a_wake_without_object_makes_it_anew() {
    let (trial, demo) = Trial::with_product().await;
    let id = demo.engine("ada").await;
    let before = demo.get("ada").await.body;
    assert_eq!(demo.post("ada", "sleep").await.status, 200);
    trial.world.lose_object(id);
    let woken = demo.admit("ada").await;
    assert_eq!(woken.body["admitted"], true, "{:?}", woken.body);
    for field in ["engine_id", "url", "api_key"] {
        assert_eq!(woken.body["engine"][field], before[field], "{field}");
    }
    assert_eq!(trial.actions(id).await, ["provision", "sleep", "wake"]);
    assert_eq!(demo.explain("ada").await["backend"]["generation"], 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wake_or_start_while_the_backend_is_away_leaves_the_engine_as_it_was() {
    let (trial, demo) = Trial::with_product().await;
    let (ada, bob) = (demo.engine("ada").await, demo.engine("bob").await);
    assert_eq!(demo.post("ada", "sleep").await.status, 200);
    assert_eq!(demo.post("bob", "stop").await.status, 200);
    let away = BackendError::Unreachable("gone".into());
    trial.world.fault(Fault::fail(away.clone()).on(Call::Thaw).of(ada));
    trial.world.fault(Fault::fail(away).on(Call::Start).of(bob));
    for refused in [demo.admit("ada").await, demo.post("bob", "start").await] {
        assert_eq!((refused.status, refused.code()), (502, "BACKEND_ERROR"), "{:?}", refused.body);
    }
    assert_eq!(demo.standing("ada").await, "sleeping-sleeping");
    assert_eq!(demo.standing("bob").await, "stopped-stopped");
    trial.world.heal();
    assert_eq!(demo.admit("ada").await.body["admitted"], true);
    assert_eq!(demo.post("bob", "start").await.status, 200);
    let row = &trial.rows(&format!("engine={ada}&action=wake")).await[1];
    assert_eq!(row["metadata"]["outcome"], "failed", "{row:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_started_engine_that_does_not_boot_is_failed_and_restarted() {
    let trial = Trial::new().await.set("ORCH_BOOT_TIMEOUT_S", "1").set("ORCH_RESTART_BACKOFF_BASE_S", "1");
    let (trial, demo) = trial.ready().await;
    let (ada, bob) = (demo.engine("ada").await, demo.engine("bob").await);
    assert_eq!(demo.post("ada", "stop").await.status, 200);
    assert_eq!(demo.post("bob", "sleep").await.status, 200);
    for id in [ada, bob] {
        trial.world.edit(id, |p| p.health = backends::HealthAnswer::TimedOut);
    }
    let (started, woken) = tokio::join!(demo.post("ada", "start"), demo.admit("bob"));
    for answer in [started, woken] {
        assert_eq!((answer.status, answer.code()), (504, "BOOT_TIMEOUT"), "{:?}", answer.body);
    }
    for (id, action) in [(ada, "start"), (bob, "wake")] {
        let row = trial.row(id, action).await;
        assert_eq!(
            (&row["metadata"]["outcome"], &row["metadata"]["to"]),
            (&json!("failed"), &json!("failed")),
            "{row:?}"
        );
        trial.world.edit(id, |p| p.health = backends::HealthAnswer::Normal);
    }
    demo.until_status("ada", "running").await;
    demo.until_status("bob", "running").await;
}

/// A round trip of the network is not a failed probe, and the connect timeout is never the poll period.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_network_probe_still_succeeds() {
    let trial = Trial::new().await.set("ORCH_HEALTH_CHECK_TIMEOUT_S", "0.9");
    let (trial, demo) = trial.ready().await;
    for takes in [70, 700] {
        trial.world.edit_default(|p| p.answer_takes = Duration::from_millis(takes));
        let (user, began) = (format!("ada-{takes}"), Instant::now());
        let id = demo.engine(&user).await;
        assert!(began.elapsed() < Duration::from_millis(takes + 1500), "it took {:?}", began.elapsed());
        let probes = trial.world.probes(id);
        until("it is probed", async || trial.world.probes(id) >= probes + 4).await;
        assert_eq!(demo.status(&user).await, "running");
        assert_eq!(trial.actions(id).await, ["provision"]);
    }
}

/// One slow starter after the other: what a shed caller is told is about as long as it takes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retry_after_is_truthful() {
    let trial = Trial::new().await.set("ORCH_START_CONCURRENCY", "1").set("ORCH_START_QUEUE_MAX", "8");
    let (trial, demo) = trial.ready().await;
    // A start holds its permit while the object is made: one second each.
    trial.world.fault(Fault::new(FaultKind::Latency(Duration::from_secs(1))).on(Call::Create));
    let mut herd = JoinSet::new();
    for n in 0..12 {
        let demo = demo.clone();
        herd.spawn(async move {
            let user = format!("u{n}");
            while demo.provision(&user).await.status == 503 {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        });
    }
    until("the rate is known and the queue is full", async || {
        let (_, depths) = trial.replicas[0].core.gate.gauges();
        trial.world.objects().len() >= 3 && depths.iter().map(|(_, n)| n).sum::<usize>() >= 8
    })
    .await;
    let refused = demo.provision("late").await;
    assert_eq!(refused.code(), "CAPACITY_EXHAUSTED", "{:?}", refused.body);
    let told = refused.retry_after.expect("every 503 says when");
    // Eight or nine starts ahead, one per second.
    assert!((4..=20).contains(&told), "told {told} s for nine starts of a second each");
    herd.join_all().await;
}
