//! Sleep: who is put to rest and who is not, the race with admissions, and what happens to a sleeper.

use crate::trial::{Product, Trial, until};
use backends::{BackendError, Call, Fault, FaultKind};
use contract::engine_api::Activity;
use contract::{EngineId, Timestamp};
use orchestrator::registry::change::{Change, EnginePatch};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

fn busy(turns: u64, streams: u64) -> Option<Activity> {
    Some(Activity {
        in_flight_turns: turns,
        open_streams: streams,
        last_activity_at: None,
        next_scheduled_at: None,
    })
}

/// A deployment that puts engines to sleep as soon as it may.
async fn sleepy() -> (Trial, Product) {
    Trial::new().await.set("ORCH_IDLE_SLEEP_AFTER_S", "5").ready().await
}

fn awake(trial: &Trial, id: EngineId) -> bool {
    trial.world.truth(id).word() == "running"
}

/// Every interleaving of admissions, requests that outlive their lease, the sleep endpoint and the idle loop: what
/// was admitted finds its engine awake until the lease ends, and a request begun by then until it ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sleep_admit_race() {
    const USERS: u64 = 60;
    const ROUNDS: u64 = 4;
    let (mut trial, demo) = sleepy().await;
    trial.replica().await;
    let replicas = [demo.clone(), demo.clone().at(trial.base(1))];
    let trial = Arc::new(trial);
    let (slept, refused, checked) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let counts = Arc::new((slept, refused, checked));
    let mut users = tokio::task::JoinSet::new();
    for n in 0..USERS {
        let (trial, replicas, counts) = (Arc::clone(&trial), replicas.clone(), Arc::clone(&counts));
        users.spawn(async move {
            let mut dice = StdRng::seed_from_u64(n);
            let user = format!("user-{n}");
            let id = replicas[0].engine(&user).await;
            let over = Arc::new(AtomicBool::new(false));
            let sleeper = tokio::spawn({
                let (over, counts, user) = (Arc::clone(&over), Arc::clone(&counts), user.clone());
                let demo = replicas[1].clone();
                let mut dice = StdRng::seed_from_u64(1000 + n);
                async move {
                    while !over.load(Ordering::Relaxed) {
                        tokio::time::sleep(Duration::from_millis(dice.random_range(50..1200))).await;
                        match demo.post(&user, "sleep").await.status {
                            200 => counts.0.fetch_add(1, Ordering::Relaxed),
                            _ => counts.1.fetch_add(1, Ordering::Relaxed),
                        };
                    }
                }
            });
            for _ in 0..ROUNDS {
                // About when the fence lets the sleeper pass, sometimes before, sometimes after.
                tokio::time::sleep(Duration::from_millis(dice.random_range(0..2500))).await;
                let demo = &replicas[dice.random_range(0..2)];
                let answer = demo.admit(&user).await;
                assert_eq!(answer.body["admitted"], true, "{user}: {:?}", answer.body);
                let lease =
                    answer.body["lease_expires_at"].as_str().and_then(Timestamp::parse).expect("has a lease");
                let rest = u64::try_from(lease.millis() - Timestamp::now().millis()).expect("has not ended");
                // The last moment to begin a request is the best one to find a hole.
                let begins =
                    Instant::now() + Duration::from_millis(rest.saturating_sub(dice.random_range(10..400)));
                while Instant::now() < begins {
                    assert!(awake(&trial, id), "{user} sleeps under a lease");
                    tokio::time::sleep(Duration::from_millis(15)).await;
                }
                trial.world.set_activity(id, busy(1, 0));
                let ends = Instant::now() + Duration::from_millis(dice.random_range(0..4000));
                while Instant::now() < ends {
                    assert!(awake(&trial, id), "{user} sleeps in the middle of a request");
                    tokio::time::sleep(Duration::from_millis(15)).await;
                }
                trial.world.set_activity(id, busy(0, 0));
                counts.2.fetch_add(1, Ordering::Relaxed);
            }
            over.store(true, Ordering::Relaxed);
            sleeper.await.expect("the sleeper ends");
        });
    }
    while let Some(done) = users.join_next().await {
        done.expect("no admitted request was cut");
    }
    let (slept, refused, checked) = (&counts.0, &counts.1, &counts.2);
    assert_eq!(checked.load(Ordering::Relaxed), USERS * ROUNDS);
    let (slept, refused) = (slept.load(Ordering::Relaxed), refused.load(Ordering::Relaxed));
    assert!(slept > USERS && refused > USERS, "{slept} sleeps and {refused} refusals are no race");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn background_work_and_silent_streams_keep_awake() {
    let (trial, demo) = sleepy().await;
    let (turn, stream, idle) =
        (demo.engine("turn").await, demo.engine("stream").await, demo.engine("idle").await);
    trial.world.set_activity(turn, busy(1, 0));
    trial.world.set_activity(stream, busy(0, 2));
    for (user, id, field, value) in
        [("turn", turn, "in_flight_turns", 1), ("stream", stream, "open_streams", 2)]
    {
        let refused = demo.post(user, "sleep").await;
        assert_eq!((refused.status, refused.code()), (409, "ENGINE_BUSY"), "{:?}", refused.body);
        let details = &refused.body["error"]["details"];
        assert_eq!((&details["reason"], &details[field]), (&json!("active"), &json!(value)), "{details}");
        assert!(awake(&trial, id));
    }
    demo.until_status("idle", "sleeping").await;
    assert!(!awake(&trial, idle));
    // Two further rounds of the idle loop.
    let probes = trial.world.probes(turn);
    until("ten more probes", async || trial.world.probes(turn) >= probes + 10).await;
    assert_eq!(
        (demo.status("turn").await, demo.status("stream").await),
        ("running".to_owned(), "running".to_owned())
    );
    let blocked = demo.explain("turn").await["sleep"]["blocked_by"].to_string();
    assert!(blocked.contains("turn"), "{blocked}");
    trial.world.set_activity(turn, busy(0, 0));
    demo.until_status("turn", "sleeping").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_blocks_the_sleep_endpoint_and_says_for_how_long() {
    let (_trial, demo) = Trial::with_product().await;
    demo.engine("ada").await;
    assert_eq!(demo.admit("ada").await.body["admitted"], true);
    let refused = demo.post("ada", "sleep").await;
    assert_eq!((refused.status, refused.code()), (409, "ENGINE_BUSY"), "{:?}", refused.body);
    let details = &refused.body["error"]["details"];
    assert_eq!(details["reason"], "active");
    assert!(details["lease_ms"].as_i64().is_some_and(|ms| (1..=5000).contains(&ms)), "{details}");
    until("the lease is over", async || demo.post("ada", "sleep").await.status == 200).await;
    assert_eq!(demo.post("ada", "sleep").await.status, 200, "twice is once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn engine_without_activity_is_not_slept() {
    let (trial, demo) = sleepy().await;
    let (old, new) = (demo.engine("old").await, demo.engine("new").await);
    trial.world.set_activity(old, None);
    assert_eq!(demo.post("old", "sleep").await.code(), "ENGINE_BUSY");
    demo.until_status("new", "sleeping").await;
    assert!(!awake(&trial, new));
    let probes = trial.world.probes(old);
    until("it was asked ten times more", async || trial.world.probes(old) >= probes + 10).await;
    assert_eq!(demo.status("old").await, "running");
    assert!(awake(&trial, old));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn label_mode_touches_nothing() {
    let trial = Trial::new().await.set("ORCH_IDLE_SLEEP_AFTER_S", "5").set("ORCH_SLEEP_MODE", "label");
    let (trial, demo) = trial.ready().await;
    let id = demo.engine("ada").await;
    trial.world.set_activity(id, None);
    let before = trial.world.mutating_calls();
    demo.until_status("ada", "sleeping").await;
    assert!(awake(&trial, id), "only the label changed");
    let woken = demo.admit("ada").await;
    assert_eq!(woken.body["admitted"], true, "{:?}", woken.body);
    assert_eq!(trial.world.mutating_calls(), before);
    assert_eq!(trial.row(id, "sleep").await["metadata"]["mode"], "label");
    assert_eq!(trial.row(id, "wake").await["metadata"]["mode"], "label");
    assert_eq!(trial.actions(id).await, ["provision", "sleep", "wake"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stop_mode_ends_the_process_and_keeps_identity() {
    let trial = Trial::new().await.set("ORCH_SLEEP_MODE", "stop");
    let (trial, demo) = trial.ready().await;
    let id = demo.engine("ada").await;
    let before = demo.get("ada").await.body;
    assert_eq!(demo.post("ada", "sleep").await.status, 200);
    assert_eq!(trial.world.truth(id).word(), "exited");
    let woken = demo.admit("ada").await;
    assert_eq!(woken.body["admitted"], true, "{:?}", woken.body);
    for field in ["engine_id", "url", "api_key"] {
        assert_eq!(woken.body["engine"][field], before[field], "{field}");
    }
    assert_eq!(trial.world.starts(id), 2);
    assert_eq!(trial.row(id, "wake").await["metadata"]["mode"], "stop");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policy_overrides_idle_time_and_zero_disables() {
    let (trial, plain) = sleepy().await;
    let never = trial.product("never", json!({"idle_sleep_after_s": 0})).await;
    let long = trial.product("long", json!({"idle_sleep_after_s": 3600})).await;
    let (a, b, c) = (never.engine("u").await, long.engine("u").await, plain.engine("u").await);
    plain.until_status("u", "sleeping").await;
    let probes = trial.world.probes(a);
    until("ten more probes", async || trial.world.probes(a) >= probes + 10).await;
    assert!(awake(&trial, a) && awake(&trial, b) && !awake(&trial, c));
    assert_eq!(never.explain("u").await["sleep"]["idle_after_s"], 0);
    assert_eq!(long.explain("u").await["sleep"]["idle_after_s"], 3600);
    let changed =
        trial.admin("PUT", "/products/long/policy", json!({"policy": {"idle_sleep_after_s": 5}})).await;
    assert_eq!(changed.status, 200, "{:?}", changed.body);
    long.until_status("u", "sleeping").await;
    assert_eq!(never.status("u").await, "running");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_probes_and_refused_admits_are_not_activity() {
    let (trial, demo) = sleepy().await;
    let limited = trial.product("limited", json!({"rate_limit_rpm": 1, "idle_sleep_after_s": 5})).await;
    assert_eq!(limited.admit("ada").await.body["admitted"], true);
    demo.engine("ada").await;
    let over = Arc::new(AtomicBool::new(false));
    let reader = tokio::spawn({
        let (over, demo, limited) = (Arc::clone(&over), demo.clone(), limited.clone());
        async move {
            while !over.load(Ordering::Relaxed) {
                demo.get("ada").await;
                demo.explain("ada").await;
                assert_eq!(limited.admit("ada").await.code(), "RATE_LIMITED");
                demo.call("GET", "/engines", Value::Null).await;
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    });
    demo.until_status("ada", "sleeping").await;
    limited.until_status("ada", "sleeping").await;
    over.store(true, Ordering::Relaxed);
    reader.await.expect("the reader ends");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_freeze_restores_running() {
    let (trial, demo) = Trial::with_product().await;
    let id = demo.engine("ada").await;
    trial
        .world
        .fault(Fault::fail(BackendError::Refused("no freezer".into())).on(Call::Freeze).of(id).times(1));
    let refused = demo.post("ada", "sleep").await;
    assert_eq!((refused.status, refused.code()), (502, "BACKEND_ERROR"), "{:?}", refused.body);
    assert_eq!(demo.standing("ada").await, "running-running");
    assert!(awake(&trial, id));
    let row = trial.row(id, "sleep").await;
    assert_eq!(
        (&row["metadata"]["outcome"], &row["metadata"]["to"]),
        (&json!("failed"), &json!("running")),
        "{row:?}"
    );

    // The answer is lost, the freeze is not: it is thawed again.
    trial.world.fault(Fault::new(FaultKind::LoseReply).on(Call::Freeze).of(id).times(1));
    let refused = demo.post("ada", "sleep").await;
    assert_eq!(refused.status, 502, "{:?}", refused.body);
    demo.until_standing("ada", "running-running").await;
    until("it is thawed", async || awake(&trial, id)).await;
    assert_eq!(demo.admit("ada").await.body["admitted"], true);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn daemon_restart_refreezes_after_the_fence() {
    let (trial, demo) = Trial::with_product().await;
    let id = demo.engine("ada").await;
    assert_eq!(demo.post("ada", "sleep").await.status, 200);
    trial.world.restart_daemon(true);
    until("it is frozen again", async || trial.world.truth(id).word() == "paused").await;
    demo.until_standing("ada", "sleeping-sleeping").await;
    until("it is written down", async || trial.actions(id).await == ["provision", "sleep", "sleep"]).await;
    assert_eq!(trial.row(id, "sleep").await["metadata"]["reason"], "refreeze");
    assert_eq!(demo.admit("ada").await.body["admitted"], true);
    assert!(awake(&trial, id));
}

/// A daemon that restarts again and again under admissions: whoever was admitted is never frozen.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refreeze_never_meets_an_admitted_engine() {
    let (trial, demo) = Trial::with_product().await;
    let id = demo.engine("ada").await;
    for round in 0..12 {
        until("it sleeps", async || demo.post("ada", "sleep").await.status == 200).await;
        trial.world.fault(
            Fault::new(FaultKind::Latency(Duration::from_millis(60))).on(Call::Freeze).of(id).times(1),
        );
        trial.world.wake(id);
        trial.replicas[0].core.nudge.look_at(id);
        tokio::time::sleep(Duration::from_millis(round * 8)).await;
        let answer = demo.admit("ada").await;
        assert_eq!(answer.body["admitted"], true, "{:?}", answer.body);
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(400) {
            assert!(awake(&trial, id), "round {round}: frozen under a lease after {:?}", began.elapsed());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        trial.world.heal();
        let sql = trial.sql().await;
        let clear = "UPDATE engines SET admit_lease_until = NULL, revision = revision + 1";
        sql.execute(clear, &[]).await.expect("the lease is ended by hand");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wake_during_sleep_is_immediate() {
    let (trial, demo) = Trial::with_product().await;
    let id = demo.engine("ada").await;
    trial
        .world
        .fault(Fault::new(FaultKind::Latency(Duration::from_millis(700))).on(Call::Freeze).of(id).times(1));
    let sleep = tokio::spawn({
        let demo = demo.clone();
        async move { demo.post("ada", "sleep").await }
    });
    demo.until_standing("ada", "running-sleeping+sleep").await;
    let began = Instant::now();
    let answer = demo.admit("ada").await;
    assert_eq!(answer.body["admitted"], true, "{:?}", answer.body);
    assert!(began.elapsed() < Duration::from_secs(3), "it took {:?}", began.elapsed());
    assert!(awake(&trial, id));
    assert_ne!(sleep.await.expect("is answered").status, 200);
    assert_eq!(trial.actions(id).await, ["provision", "wake"]);
    assert_eq!(trial.row(id, "wake").await["metadata"]["superseded"], "sleep");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scheduled_work_wakes_in_time() {
    let trial = Trial::new()
        .await
        .set("ORCH_WAKE_LEAD_S", "2")
        .set("ORCH_WAKE_GRACE_S", "6")
        .set("ORCH_IDLE_SLEEP_AFTER_S", "5");
    let (trial, demo) = trial.ready().await;
    let (soon, far) = (demo.engine("soon").await, demo.engine("far").await);
    let plan = |id, seconds: i64| {
        let at = Timestamp::now().plus_millis(seconds * 1000);
        trial
            .world
            .set_activity(id, Some(Activity { next_scheduled_at: Some(at), ..busy(0, 0).expect("is some") }));
        at
    };
    // lead + 60 s: nearer work keeps it awake
    plan(soon, 55);
    let refused = demo.post("soon", "sleep").await;
    assert_eq!(refused.code(), "ENGINE_BUSY", "{:?}", refused.body);
    let work = plan(far, 600);
    assert_eq!(demo.post("far", "sleep").await.status, 200);
    let told = demo.explain("far").await["sleep"]["wake_at"]
        .as_str()
        .and_then(Timestamp::parse)
        .expect("it has a time");
    assert!((work.millis() - 2000 - told.millis()).abs() < 50, "work at {work:?}, wake at {told:?}");
    assert!(trial.row(far, "sleep").await["metadata"]["wake_at"].is_string());

    // Ten minutes are over.
    let core = &trial.replicas[0].core;
    let found = core.registry.found(far).await.expect("the database answers").expect("exists");
    let due = found.now.plus_millis(1500);
    let patch = EnginePatch { wake_at: Some(Some(due)), ..EnginePatch::default() };
    let change = Change {
        engine_id: far,
        revision: found.engine.revision,
        only_without_operation: true,
        patch,
        audit: Vec::new(),
    };
    core.registry.change(&change).await.expect("the database answers");
    trial.world.set_activity(far, busy(0, 0));
    demo.until_status("far", "running").await;
    let woke = Timestamp::now();
    assert!(woke.millis() >= due.millis(), "it woke before its time");
    assert!(woke.millis() < due.millis() + 2000, "the lead of two seconds was used up");
    let row = trial.row(far, "wake").await;
    assert_eq!(
        (&row["metadata"]["reason"], &row["actor"]),
        (&json!("schedule"), &json!("system")),
        "{row:?}"
    );
    // wake_at + lead 2 s + grace 6 s + idle 5 s
    demo.until_status("far", "sleeping").await;
    let slept =
        trial.row(far, "sleep").await["timestamp"].as_str().and_then(Timestamp::parse).expect("has a time");
    assert!(
        slept.millis() >= due.millis() + 12_900,
        "the grace was not honoured: {} ms",
        slept.millis() - due.millis()
    );
    assert_eq!(demo.status("soon").await, "running");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_clocks_survive_a_restart() {
    let trial = Trial::new().await.set("ORCH_IDLE_SLEEP_AFTER_S", "15");
    let (mut trial, demo) = trial.ready().await;
    let id = demo.engine("ada").await;
    assert_eq!(demo.admit("ada").await.body["admitted"], true);
    let admitted = Timestamp::now();
    tokio::time::sleep(Duration::from_secs(5)).await;
    trial.stop(0).await;
    trial.replica().await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    trial.kill(0).await;
    trial.replica().await;
    let demo = demo.at(trial.base(0));
    demo.until_status("ada", "sleeping").await;
    let slept =
        trial.row(id, "sleep").await["timestamp"].as_str().and_then(Timestamp::parse).expect("has a time");
    // lease 5 s + idle 15 s, and the period of the loop
    let after = slept.millis() - admitted.millis();
    assert!((19_500..=27_500).contains(&after), "it slept {after} ms after the admit");
    let row = trial.row(id, "sleep").await;
    assert_eq!(row["metadata"]["reason"], "idle");
    assert!(row["metadata"]["idle_s"].as_i64().is_some_and(|s| (14..=21).contains(&s)), "{row:?}");
    assert_eq!(trial.world.starts(id), 1, "no restart of the orchestrator touches an engine");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scheduled_wake_keeps_its_grace_across_a_restart() {
    let trial = Trial::new()
        .await
        .set("ORCH_WAKE_LEAD_S", "2")
        .set("ORCH_WAKE_GRACE_S", "12")
        .set("ORCH_IDLE_SLEEP_AFTER_S", "5");
    let (mut trial, demo) = trial.ready().await;
    let id = demo.engine("ada").await;
    let work = Timestamp::now().plus_millis(600_000);
    trial
        .world
        .set_activity(id, Some(Activity { next_scheduled_at: Some(work), ..busy(0, 0).expect("is some") }));
    assert_eq!(demo.post("ada", "sleep").await.status, 200);
    let sql = trial.sql().await;
    let due = "UPDATE engines SET wake_at = clock_timestamp(), revision = revision + 1";
    sql.execute(due, &[]).await.expect("ten minutes are over");
    trial.world.set_activity(id, busy(0, 0));
    demo.until_status("ada", "running").await;
    let woke = Timestamp::now();
    trial.stop(0).await;
    trial.replica().await;
    let demo = demo.at(trial.base(0));
    demo.until_status("ada", "sleeping").await;
    let slept =
        trial.row(id, "sleep").await["timestamp"].as_str().and_then(Timestamp::parse).expect("has a time");
    let after = slept.millis() - woke.millis();
    assert!(after >= 17_500, "asleep {after} ms after a scheduled wake, within lead, grace and idle time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_label_is_not_put_on_an_engine_whose_turn_began_after_the_last_sweep() {
    let trial = Trial::new().await.set("ORCH_SLEEP_MODE", "label").set("ORCH_HEALTH_CHECK_INTERVAL_S", "60");
    let (trial, demo) = trial.ready().await;
    let id = demo.engine("ada").await;
    trial.world.set_activity(id, busy(1, 0));
    let refused = demo.post("ada", "sleep").await;
    assert_eq!((refused.status, refused.code()), (409, "ENGINE_BUSY"), "{:?}", refused.body);
    assert_eq!(refused.body["error"]["details"]["in_flight_turns"], 1, "{:?}", refused.body);
    trial.world.set_activity(id, busy(0, 0));
    assert_eq!(demo.post("ada", "sleep").await.body["status"], "sleeping");
}
