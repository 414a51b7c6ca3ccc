//! Callers that wait and callers that are turned away: bounds, full queues, and when they are told to come back.

use crate::trial::{Trial, hang, until};
use backends::{Call, Fault, FaultKind};
use contract::Timestamp;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::task::JoinSet;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hold_is_bounded_and_shed_with_retry_after() {
    let trial = Trial::new().await.set("ORCH_ADMIT_WAITERS_MAX", "3");
    let (trial, demo) = trial.ready().await;
    trial.world.fault(hang(Call::EnsureImage));
    let held: Vec<_> = (0..3).map(|_| demo.later("ada", "admit")).collect();
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
    let first = demo.later("one", "provision");
    let depths = |trial: &Trial| trial.replicas[0].core.gate.gauges();
    until("the first starts", async || depths(&trial).0 == 1).await;
    let second = demo.later("two", "provision");
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
    let held = [demo.later("one", "provision"), demo.later("two", "provision")];
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
