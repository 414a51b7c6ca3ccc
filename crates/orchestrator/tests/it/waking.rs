//! Starts and wakes of an engine that was there before: how they are probed, joined, and what a failed one leaves.

use crate::trial::{Trial, hang, until};
use backends::{BackendError, Call, Fault, HealthAnswer};
use fleet::health::{BOOT_PROBE_SLOW, BOOT_PROBE_TIMEOUT};
use serde_json::json;
use std::time::{Duration, Instant};

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
        trial.world.edit(id, |p| p.health = HealthAnswer::TimedOut);
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
        trial.world.edit(id, |p| p.health = HealthAnswer::Normal);
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

/// One probe of a boot may take longer than the pause between two, so a slow network is no failed probe; and an engine
/// that is silent costs the time of one boot, not of one timeout for every probe.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn boot_probe_does_not_multiply_timeouts() {
    const BOOT: Duration = Duration::from_secs(5);
    /// The last probe before the deadline gets this at least.
    const LAST: Duration = Duration::from_millis(50);
    let trial = Trial::new().await.set("ORCH_BOOT_TIMEOUT_S", "5").set("ORCH_RESTART_BACKOFF_BASE_S", "60");
    let (trial, demo) = trial.set("ORCH_RESTART_BACKOFF_MAX_S", "60").ready().await;
    trial.world.edit_default(|p| p.health = HealthAnswer::TimedOut);
    let failed = demo.provision("ada").await;
    assert_eq!((failed.status, failed.code()), (504, "BOOT_TIMEOUT"), "{:?}", failed.body);
    let silent = trial.probing.silent.lock().expect("no probe panicked").clone();
    assert_eq!(silent.first(), Some(&BOOT_PROBE_TIMEOUT), "{silent:?}");
    assert!(BOOT_PROBE_TIMEOUT > BOOT_PROBE_SLOW, "a probe that is cut at the pause fails on a slow network");
    let spent: Duration = silent.iter().sum();
    assert!(spent <= BOOT + LAST, "{spent:?} in {silent:?}");
    assert!(spent > BOOT - BOOT_PROBE_TIMEOUT, "it was given up early: {silent:?}");
}

/// Whoever reads `running` reads it of an engine that serves, and nothing is called asleep, stopped or gone before it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_flips_last() {
    let (trial, demo) = Trial::new().await.set("ORCH_BOOT_TIMEOUT_S", "20").ready().await;
    trial.world.edit_default(|p| p.health = HealthAnswer::TimedOut);
    // On the way up: the object runs and does not serve yet.
    let up = async |what: &'static str, before: &str| {
        for id in trial.world.objects() {
            trial.world.edit(id, |p| p.health = HealthAnswer::TimedOut);
        }
        let (probes, caller) = (silent(&trial), demo.later("ada", what));
        until("its object runs and was asked in vain", async || {
            trial.world.running().len() == 1 && silent(&trial) > probes
        })
        .await;
        assert_eq!(demo.status("ada").await, before, "{what}");
        assert!(!caller.is_finished(), "{what} is answered before the engine serves");
        trial.world.edit(trial.world.objects()[0], |p| p.health = HealthAnswer::Normal);
        let answer = caller.await.expect("is answered");
        assert_eq!(answer.status, 200, "{what}: {:?}", answer.body);
        assert_eq!(demo.status("ada").await, "running", "{what}");
    };
    // On the way down: the backend was asked and has not done it.
    let down = async |what: &'static str, call: Call, standing: &str, after: &str| {
        let asked = || trial.world.calls().iter().filter(|c| c.call == call).count();
        trial.world.fault(hang(call));
        let (before, caller) = (asked(), demo.later("ada", what));
        until("the backend is asked", async || asked() > before).await;
        assert_eq!(demo.standing("ada").await, standing);
        trial.world.heal();
        assert_eq!(caller.await.expect("is answered").body["status"], after);
    };
    up("provision", "provisioning").await;
    let id = trial.world.objects()[0];
    down("stop", Call::Stop, "running-stopped+stop", "stopped").await;
    assert_eq!(trial.world.running(), []);
    up("start", "stopped").await;
    down("sleep", Call::Freeze, "running-sleeping+sleep", "sleeping").await;
    assert_eq!(trial.world.truth(id).word(), "paused");
    up("admit", "sleeping").await;
    assert_eq!(trial.actions(id).await, ["provision", "stop", "start", "sleep", "wake"]);
}

/// Probes so far that got no answer.
fn silent(trial: &Trial) -> usize {
    trial.probing.silent.lock().expect("no probe panicked").len()
}

/// A start that makes the object anew takes its time; who asks for the same meanwhile gets the same engine.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn start_while_replacing_joins() {
    let (trial, demo) = Trial::with_product().await;
    let id = demo.engine("ada").await;
    assert_eq!(demo.post("ada", "stop").await.status, 200);
    let policy = json!({"policy": {"resources": {"memory_mb": 512, "cpus": 0.5, "pids": 100}}});
    assert_eq!(trial.admin("PUT", "/products/demo/policy", policy).await.status, 200);
    trial.world.fault(hang(Call::Create));
    let mut callers = vec![demo.later("ada", "start")];
    demo.until_standing("ada", "stopped-running+start").await;
    let creates = || trial.world.calls().iter().filter(|c| c.call == Call::Create).count();
    until("the object is being replaced", async || creates() == 2).await;
    callers.extend(["start", "admit", "start", "admit"].map(|what| demo.later("ada", what)));
    until("all wait", async || trial.waiting(0) == callers.len()).await;
    trial.world.heal();
    for caller in callers {
        let answer = caller.await.expect("is answered");
        assert_eq!(answer.status, 200, "{:?}", answer.body);
        assert!(answer.body["status"] == "running" || answer.body["admitted"] == true, "{:?}", answer.body);
    }
    assert_eq!((trial.world.objects(), trial.world.starts(id), creates()), (vec![id], 2, 2));
    assert_eq!(demo.explain("ada").await["backend"]["generation"], 2);
    assert_eq!(trial.actions(id).await, ["provision", "stop", "start"]);
    assert_eq!(trial.row(id, "start").await["metadata"]["recreated"], true);
}
