//! What the planner and the loops mend, and what they leave alone: lost operations, silent events, hung calls,
//! damaged rows, drift, rows of another backend.

use crate::faults::{books, id_of, logged, rests};
use crate::trial::{Trial, until};
use backends::{Call, EventRules, Fault, FaultKind};
use orchestrator::failpoint::Failure;
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};

fn lists(trial: &Trial) -> usize {
    trial.world.calls().iter().filter(|call| call.call == Call::List).count()
}

async fn more_passes(trial: &Trial, more: usize) {
    let before = lists(trial);
    until(&format!("{more} more passes"), async || lists(trial) >= before + more).await;
}

async fn lose_operation(trial: &Trial, sql: &tokio_postgres::Client, point: &str) {
    let core = Arc::clone(&trial.replicas[0].core);
    until(point, async || !core.fail_points.is_armed(point)).await;
    sql.batch_execute("DELETE FROM operations WHERE status = 'open'").await.expect("the operation goes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stuck_provisioning_resumes() {
    let (trial, demo) = Trial::with_product().await;
    let sql = trial.sql().await;
    let point = "provision.create.before";
    trial.replicas[0].core.fail_points.arm(point, Failure::Vanish);
    let caller = tokio::spawn({
        let demo = demo.clone();
        async move { demo.admit("ada").await }
    });
    lose_operation(&trial, &sql, point).await;
    let id = id_of(&sql, "ada").await;
    rests(&sql, id, "running").await;
    let answer = caller.await.expect("the caller waits");
    assert_eq!(answer.body["admitted"], true, "{:?}", answer.body);
    assert_eq!(trial.world.starts(id), 1);
    assert_eq!(logged(&sql, id).await, ["provision"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stuck_destroying_resumes() {
    let (trial, demo) = Trial::with_product().await;
    let sql = trial.sql().await;
    let id = demo.engine("ada").await;
    let point = "destroy.storage.before";
    trial.replicas[0].core.fail_points.arm(point, Failure::Vanish);
    let caller = tokio::spawn({
        let demo = demo.clone();
        async move { demo.destroy("ada").await }
    });
    lose_operation(&trial, &sql, point).await;
    rests(&sql, id, "none").await;
    let answer = caller.await.expect("the caller waits");
    assert!(matches!((answer.status, answer.code()), (200, "") | (404, "ENGINE_NOT_FOUND")), "{answer:?}");
    assert!(trial.world.objects().is_empty() && !trial.world.has_storage(id));
    assert_eq!(logged(&sql, id).await, ["provision", "destroy"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_unrecoverable_operation_does_not_stop_the_others() {
    let mut trial = Trial::new().await;
    trial.adjust = |config| config.settings.operation_lease_s = Duration::from_secs(2);
    let (trial, demo) = trial.ready().await;
    let sql = trial.sql().await;
    let (bad, good) = (demo.engine("bad").await, demo.engine("good").await);
    let core = Arc::clone(&trial.replicas[0].core);
    let mut callers = Vec::new();
    // The oldest abandoned operation is the one that cannot be read.
    for user in ["bad", "good"] {
        core.fail_points.arm("stop.stop.before", Failure::Vanish);
        let demo = demo.clone();
        callers.push(tokio::spawn(async move { demo.post(user, "stop").await }));
        until("its executor is gone", async || !core.fail_points.is_armed("stop.stop.before")).await;
        if user == "bad" {
            let changed =
                sql.execute("UPDATE operations SET step = 'step-of-nobody' WHERE status = 'open'", &[]).await;
            assert_eq!(changed.expect("is damaged"), 1);
        }
    }
    rests(&sql, good, "stopped").await;
    assert_eq!(logged(&sql, good).await, ["provision", "stop"]);
    assert_eq!(books(&sql, bad).await.status, "running");
    assert_eq!(demo.engine("third").await, id_of(&sql, "third").await);
    // Repaired by a person, it goes on.
    sql.batch_execute("UPDATE operations SET step = 'stop' WHERE status = 'open'")
        .await
        .expect("is repaired");
    rests(&sql, bad, "stopped").await;
    for caller in callers {
        let answer = caller.await.expect("the caller is answered");
        assert!(answer.status == 200 || answer.status == 500, "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_bad_engine_never_stops_the_control_plane() {
    let (trial, demo) = Trial::with_product().await;
    let sql = trial.sql().await;
    let (bad, good) = (demo.engine("bad").await, demo.engine("good").await);
    sql.batch_execute("UPDATE engines SET engine_version = 'two words', sleep_mode = NULL, failure_code = 'of-nobody', wake_at = 'infinity' WHERE user_id = 'bad'")
        .await
        .expect("is damaged");
    more_passes(&trial, 2).await;
    trial.world.crash(good, 1, false);
    until("the other one is mended", async || logged(&sql, good).await.len() == 4).await;
    assert_eq!(demo.admit("good").await.body["admitted"], true);
    let third = demo.engine("third").await;
    assert_eq!(books(&sql, third).await.status, "running");
    assert_eq!(trial.world.truth(bad).word(), "running", "what cannot be read is left alone");
    assert_eq!(trial.world.starts(bad), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_event_stream_is_noticed_by_relist() {
    let trial = Trial::new().await.set("ORCH_HEALTH_CHECK_INTERVAL_S", "3600");
    let (trial, demo) = trial.ready().await;
    let sql = trial.sql().await;
    let id = demo.engine("ada").await;
    trial.world.set_events(EventRules { lose: 0.0, duplicate: 0.0, reorder: 0.0, silent: true });
    more_passes(&trial, 1).await;
    trial.world.crash(id, 1, false);
    until("the crash is found and mended", async || logged(&sql, id).await.len() == 4).await;
    rests(&sql, id, "running").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn doubled_and_disordered_events_are_one_crash() {
    let (trial, demo) = Trial::with_product().await;
    let sql = trial.sql().await;
    let id = demo.engine("ada").await;
    trial.world.set_events(EventRules { lose: 0.0, duplicate: 1.0, reorder: 0.5, silent: false });
    for n in 1..=3 {
        trial.world.crash(id, 1, false);
        until("it is mended", async || logged(&sql, id).await.len() == 1 + 3 * n).await;
        rests(&sql, id, "running").await;
    }
    more_passes(&trial, 2).await;
    assert_eq!(logged(&sql, id).await.len(), 10, "{:?}", logged(&sql, id).await);
    assert_eq!(trial.world.starts(id), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hung_backend_call_does_not_stall_the_sweep() {
    let (trial, demo) = Trial::with_product().await;
    let sql = trial.sql().await;
    let (hung, good) = (demo.engine("hung").await, demo.engine("good").await);
    for call in [Call::Observe, Call::Stop, Call::Start] {
        trial.world.fault(Fault::new(FaultKind::Hang).on(call).of(hung));
    }
    trial.world.crash(hung, 1, false);
    let began = Instant::now();
    trial.world.crash(good, 1, false);
    until("the other one is mended", async || logged(&sql, good).await.len() == 4).await;
    let took = began.elapsed();
    assert!(took < Duration::from_secs(6), "{took:?}");
    assert_eq!(demo.admit("good").await.body["admitted"], true);
    trial.world.heal();
    trial.hurry(&sql).await;
    until("and then the hung one, too", async || {
        trial.hurry(&sql).await;
        books(&sql, hung).await.status == "running" && books(&sql, hung).await.open == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn socket_blip_is_not_death() {
    let (trial, demo) = Trial::with_product().await;
    let sql = trial.sql().await;
    let id = demo.engine("ada").await;
    assert_eq!(demo.engine("bob").await, id_of(&sql, "bob").await);
    let before = books(&sql, id).await;
    for _ in 0..5 {
        trial.world.set_reachable(false);
        tokio::time::sleep(Duration::from_millis(250)).await;
        trial.world.set_reachable(true);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    more_passes(&trial, 2).await;
    assert_eq!(books(&sql, id).await, before);
    assert_eq!(logged(&sql, id).await, ["provision"]);
    assert_eq!(trial.world.starts(id), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stolen_port_is_quarantined_and_retried() {
    let (trial, demo) = Trial::with_product().await;
    let sql = trial.sql().await;
    trial.world.steal_port(9001);
    trial.world.steal_port(9002);
    let id = demo.engine("ada").await;
    let url = demo.get("ada").await.body["url"].clone();
    assert_eq!(url, "http://127.0.0.1:9003", "{url}");
    let quarantined =
        sql.query("SELECT port FROM quarantined_ports WHERE until > now() ORDER BY port", &[]).await;
    let quarantined: Vec<i32> = quarantined.expect("is read").iter().map(|row| row.get(0)).collect();
    assert_eq!(quarantined, [9001, 9002]);
    assert_eq!(logged(&sql, id).await, ["provision"]);
    for port in 9004..9010 {
        trial.world.steal_port(port);
    }
    let refused = demo.provision("bob").await;
    assert_eq!(
        (refused.status, refused.code()),
        (502, "BACKEND_ERROR"),
        "five ports are tried: {:?}",
        refused.body
    );
    assert_eq!(trial.world.objects().len(), 1, "no half-made object is left");
    demo.until_status("bob", "running").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drift_changes_nothing_running() {
    let (mut trial, demo) = Trial::with_product().await;
    let sql = trial.sql().await;
    let id = demo.engine("ada").await;
    assert_eq!(demo.engine("bob").await, id_of(&sql, "bob").await);
    assert_eq!(demo.post("bob", "sleep").await.status, 200);
    trial.stop(0).await;
    trial = trial.set("ORCH_ENGINE_MEMORY_MB", "4096");
    trial.world.forget_calls();
    trial.replica().await;
    more_passes(&trial, 3).await;
    assert_eq!(trial.world.mutating_calls(), 0);
    let demo = demo.at(trial.base(0));
    assert_eq!(demo.admit("bob").await.body["admitted"], true);
    let bob = id_of(&sql, "bob").await;
    assert_eq!((trial.world.starts(id), trial.world.starts(bob)), (1, 1), "a wake makes nothing anew either");
    assert_eq!(demo.post("ada", "stop").await.status, 200);
    assert_eq!(demo.post("ada", "start").await.status, 200);
    assert_eq!(trial.world.brain_generation(id), 2, "the next start makes it anew");
    let row = trial.row(id, "start").await;
    assert_eq!(row["metadata"]["recreated"], true, "{row}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backend_switch_leaves_old_rows_alone() {
    let mut trial = Trial::new().await;
    trial.adjust = |config| config.settings.orphan_grace_s = Duration::from_secs(1);
    let (trial, demo) = trial.ready().await;
    let sql = trial.sql().await;
    let (old, lost) = (demo.engine("old").await, demo.engine("lost").await);
    sql.batch_execute("UPDATE engines SET backend = 'docker'").await.expect("the rows are another backend's");
    more_passes(&trial, 1).await;
    trial.world.lose_object(lost);
    trial.world.forget_calls();
    until("the object is older than the grace", async || {
        let made = trial.world.truth(old).object().and_then(|object| object.created_at);
        made.is_some_and(|at| trial.world.now().millis() - at.millis() > 2000)
    })
    .await;
    more_passes(&trial, 3).await;
    assert_eq!(
        trial.world.mutating_calls(),
        0,
        "an object with a row is no orphan, whatever the row's backend"
    );
    assert_eq!(
        (books(&sql, old).await.status.as_str(), books(&sql, lost).await.status.as_str()),
        ("running", "running")
    );
    assert_eq!(trial.world.truth(old).word(), "running");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn adopted_engines_follow_full_policy() {
    let trial = Trial::new().await.set("ORCH_IDLE_SLEEP_AFTER_S", "5");
    let mut trial = trial;
    trial.replica().await;
    let demo = trial.product("demo", json!({"max_engines": 2})).await;
    let sql = trial.sql().await;
    let (idle, frail) = (demo.engine("idle").await, demo.engine("frail").await);
    trial.kill(0).await;
    trial.replica().await;
    let demo = demo.at(trial.base(0));
    assert_eq!(demo.provision("third").await.code(), "QUOTA_EXCEEDED");
    trial.world.crash(frail, 1, false);
    until("a crash is mended", async || logged(&sql, frail).await.len() >= 4).await;
    rests(&sql, idle, "sleeping").await;
    assert_eq!(trial.world.truth(idle).word(), "paused");
}
