//! P8 and P9: the database or the backend is away, and nothing is concluded from that.

use crate::faults::{books, id_of, logged, rests};
use crate::trial::{Answer, Product, Trial, until};
use backends::{Call, Fault, FaultKind};
use contract::EngineId;
use fleet::observation::Observation;
use orchestrator::failpoint::Failure;
use orchestrator::hub::SILENCE_MAX;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use testbed::postgres::{PostgresServer, Version};
use tokio::task::JoinHandle;

/// Promised time from "the database is back" to serving (P8).
const RECOVERY: Duration = Duration::from_secs(5);

async fn probe(url: String) -> u16 {
    #[allow(clippy::disallowed_methods, reason = "plain HTTP on the loopback")]
    let client = reqwest::Client::builder().no_proxy().build().expect("a client without TLS roots is built");
    client.get(url).send().await.map_or(0, |answer| answer.status().as_u16())
}

async fn health(trial: &Trial) -> u16 {
    probe(format!("{}/health", trial.base(0))).await
}

fn unavailable(answer: &Answer, what: &str) {
    assert_eq!((answer.status, answer.code()), (503, "DATABASE_UNAVAILABLE"), "{what}: {:?}", answer.body);
    assert!(answer.retry_after.is_some(), "{what} says when to come back");
}

/// What must hold while the database does not answer.
async fn nothing_moves(trial: &Trial, demo: &Product, lease_ends: &Value) {
    until("/health says so", async || health(trial).await == 503).await;
    assert_eq!(probe(format!("http://{}/livez", trial.replicas[0].internal)).await, 200);
    assert_eq!(probe(format!("http://{}/readyz", trial.replicas[0].internal)).await, 503);
    let began = Instant::now();
    let held = demo.admit("held").await;
    assert_eq!((held.status, &held.body["admitted"]), (200, &json!(true)), "{:?}", held.body);
    assert_eq!(held.body["lease_expires_at"], *lease_ends, "no lease is invented");
    let took = began.elapsed();
    assert!(took < Duration::from_secs(3), "an admit from memory took {took:?}");
    let (free, asleep, nobody, stop, status) = tokio::join!(
        demo.admit("free"),
        demo.admit("asleep"),
        demo.admit("nobody"),
        demo.post("free", "stop"),
        demo.call("GET", "/status", Value::Null),
    );
    unavailable(&free, "an admit without a lease");
    unavailable(&asleep, "a wake");
    unavailable(&nobody, "an auto-provision");
    unavailable(&stop, "a stop");
    unavailable(&status, "/status");
}

async fn recovers(trial: &Trial, demo: &Product) -> Duration {
    let back = Instant::now();
    until("an admit without a lease is answered", async || demo.admit("free").await.body["admitted"] == true)
        .await;
    until("/health is well", async || health(trial).await == 200).await;
    let took = back.elapsed();
    assert!(took < RECOVERY, "{took:?}");
    took
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn p8_postgres_away() {
    let server = PostgresServer::private(Version::V18).await;
    let url = server.create_database("orchestrator").await;
    let trial = Trial::new().await.set("ORCH_DATABASE_URL", &url).set("ORCH_ADMIT_LEASE_S", "600");
    let (trial, demo) = trial.ready().await;
    let (held, free) = (demo.engine("held").await, demo.engine("free").await);
    let asleep = demo.engine("asleep").await;
    assert_eq!(demo.post("asleep", "sleep").await.status, 200);
    let lease_ends = demo.admit("held").await.body["lease_expires_at"].clone();
    assert!(lease_ends.is_string(), "{lease_ends:?}");

    // An operation is under way when the server dies; its object boots.
    let sql = trial.sql().await;
    trial.world.edit_default(|profile| profile.boot = Duration::from_secs(3));
    let caller = tokio::spawn({
        let demo = demo.clone();
        async move { demo.provision("slow").await }
    });
    let slow = id_of(&sql, "slow").await;
    until("its object boots", async || trial.world.starts(slow) == 1).await;
    drop(sql);
    trial.world.forget_calls();
    server.kill_9().await;
    nothing_moves(&trial, &demo, &lease_ends).await;
    // A crash meanwhile cannot be recorded, so it is not acted on either.
    trial.world.crash(free, 1, false);
    let looks = trial.world.calls().len();
    until("the backend is still looked at", async || trial.world.calls().len() > looks + 3).await;
    let changes: Vec<_> = trial.world.calls().into_iter().filter(|call| call.call.mutates()).collect();
    assert!(changes.is_empty(), "{changes:?}");
    assert_eq!(trial.world.truth(held).word(), "running");
    assert_eq!(trial.world.truth(asleep).word(), "paused");
    server.start().await;
    let back = Instant::now();
    until("/health is well", async || health(&trial).await == 200).await;
    let reached = back.elapsed();
    assert!(reached < RECOVERY, "{reached:?}");
    let sql = trial.sql().await;
    rests(&sql, slow, "running").await;
    let _ = caller.await;
    assert_eq!(trial.world.starts(slow), 1, "started exactly once");
    assert_eq!(logged(&sql, slow).await, ["provision"]);
    until("the crash is noticed and mended", async || {
        logged(&sql, free).await
            == ["provision", "health_failed", "auto_restart_start", "auto_restart_success"]
    })
    .await;
    assert_eq!(demo.admit("free").await.body["admitted"], true);
    println!("after kill -9: well after {reached:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn p8_postgres_frozen() {
    let server = PostgresServer::private(Version::V18).await;
    let url = server.create_database("orchestrator").await;
    let trial = Trial::new().await.set("ORCH_DATABASE_URL", &url).set("ORCH_ADMIT_LEASE_S", "600");
    let (trial, demo) = trial.ready().await;
    let (held, free) = (demo.engine("held").await, demo.engine("free").await);
    let asleep = demo.engine("asleep").await;
    assert_eq!(demo.post("asleep", "sleep").await.status, 200);
    let lease_ends = demo.admit("held").await.body["lease_expires_at"].clone();
    trial.world.forget_calls();
    server.pause();
    nothing_moves(&trial, &demo, &lease_ends).await;
    assert_eq!(trial.world.mutating_calls(), 0);
    server.resume();
    let took = recovers(&trial, &demo).await;
    let sql = trial.sql().await;
    for (id, status, log) in [
        (held, "running", vec!["provision"]),
        (free, "running", vec!["provision"]),
        (asleep, "sleeping", vec!["provision", "sleep"]),
    ] {
        assert_eq!(books(&sql, id).await.status, status);
        assert_eq!(logged(&sql, id).await, log);
    }
    assert_eq!(demo.admit("asleep").await.body["admitted"], true);
    println!("after a freeze: well after {took:?}");
}

/// What a held call may take beyond [`SILENCE_MAX`]: one more look, and a machine that is busy with other tests.
const TELLING: Duration = Duration::from_secs(5);

/// A call of its own task; answers what it got and when.
fn held(demo: &Product, method: &'static str, path: String) -> JoinHandle<(Answer, Instant)> {
    let demo = demo.clone();
    let body = match path.as_str() {
        "/engines/provision" => json!({"user_id": "made"}),
        path if path.ends_with("/admit") => json!({"auto_wake": true}),
        _ => Value::Null,
    };
    tokio::spawn(async move { (demo.call(method, &path, body).await, Instant::now()) })
}

/// How the database is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lost {
    Killed,
    Frozen,
}

/// One call of every kind that waits for an operation is held when the database goes. Each is told within the bound,
/// and what was asked for is done when the database is back.
async fn held_calls_are_told_and_done(lost: Lost) {
    let server = PostgresServer::private(Version::V18).await;
    let url = server.create_database("orchestrator").await;
    let mut trial = Trial::new().await.set("ORCH_DATABASE_URL", &url);
    trial.call_timeout = Duration::from_secs(30);
    let (trial, demo) = trial.ready().await;
    let mut ids = std::collections::BTreeMap::<&str, EngineId>::new();
    for user in ["gone", "gone-too", "halted", "risen", "dozing", "woken", "turned"] {
        ids.insert(user, demo.engine(user).await);
    }
    assert_eq!(demo.post("risen", "stop").await.status, 200);
    assert_eq!(demo.post("woken", "sleep").await.status, 200);

    // The backend is at work on one removal; the executors of all others are gone before their last step.
    let at_work = Fault::new(FaultKind::Latency(Duration::from_secs(3)));
    trial.world.fault(at_work.on(Call::Stop).of(ids["gone"]).times(1));
    trial.world.forget_calls();
    let points = &trial.replicas[0].core.fail_points;
    for kind in ["stop", "start", "sleep", "wake", "rotate_key", "provision"] {
        points.arm(&format!("{kind}.finish.before"), Failure::Vanish);
    }
    let mut calls = vec![
        ("gone", held(&demo, "DELETE", "/engines/gone".to_owned())),
        ("halted", held(&demo, "POST", "/engines/halted/stop".to_owned())),
        ("risen", held(&demo, "POST", "/engines/risen/start".to_owned())),
        ("dozing", held(&demo, "POST", "/engines/dozing/sleep".to_owned())),
        ("woken", held(&demo, "POST", "/engines/woken/admit".to_owned())),
        ("turned", held(&demo, "POST", "/engines/turned/rotate-key".to_owned())),
        ("made", held(&demo, "POST", "/engines/provision".to_owned())),
    ];
    until("the backend stops what is removed", async || {
        trial.world.calls().iter().any(|call| call.call == Call::Stop && call.engine == Some(ids["gone"]))
    })
    .await;
    points.arm("destroy.object.before", Failure::Vanish);
    calls.push(("gone-too", held(&demo, "DELETE", "/engines/gone-too".to_owned())));
    // Who comes later waits for the same removal.
    calls.push(("gone", held(&demo, "DELETE", "/engines/gone".to_owned())));
    for kind in ["stop.finish", "start.finish", "sleep.finish", "wake.finish", "rotate_key.finish"] {
        until(kind, async || !points.is_armed(&format!("{kind}.before"))).await;
    }
    until("a new engine", async || !points.is_armed("provision.finish.before")).await;
    until("a removal", async || !points.is_armed("destroy.object.before")).await;
    until("all are held", async || trial.waiting(0) == calls.len()).await;
    match lost {
        Lost::Killed => server.kill_9().await,
        Lost::Frozen => server.pause(),
    }
    let began = Instant::now();
    for (user, call) in calls {
        let answered = tokio::time::timeout(2 * (SILENCE_MAX + TELLING), call).await;
        let Ok(answered) = answered else { panic!("{lost:?} {user}: is held for ever") };
        let (answer, at) = answered.expect("does not panic");
        let took = at.saturating_duration_since(began);
        unavailable(&answer, user);
        assert_eq!(answer.body["error"]["details"]["retrying"], true, "{user}: {:?}", answer.body);
        assert!(answer.body["error"]["details"]["operation_id"].is_string(), "{user}: {:?}", answer.body);
        assert!(took < SILENCE_MAX + TELLING, "{lost:?} {user}: {took:?}");
    }
    assert_eq!(trial.waiting(0), 0, "nobody is held any more");
    match lost {
        Lost::Killed => server.start().await,
        Lost::Frozen => server.resume(),
    }
    until("/health is well", async || health(&trial).await == 200).await;
    let sql = trial.sql().await;
    for user in ["gone", "gone-too"] {
        let id = ids[user];
        rests(&sql, id, "none").await;
        assert_eq!(trial.world.truth(id), Observation::Absent, "{lost:?} {user}");
        assert!(!trial.world.has_storage(id), "{lost:?} {user}");
        assert_eq!(logged(&sql, id).await, ["provision", "destroy"], "{lost:?} {user}");
        assert_eq!(demo.destroy(user).await.status, 404, "{lost:?} {user}");
    }
    ids.insert("made", id_of(&sql, "made").await);
    for (user, status, log) in [
        ("halted", "stopped", vec!["provision", "stop"]),
        ("risen", "running", vec!["provision", "stop", "start"]),
        ("dozing", "sleeping", vec!["provision", "sleep"]),
        ("woken", "running", vec!["provision", "sleep", "wake"]),
        ("turned", "running", vec!["provision", "rotate_key"]),
        ("made", "running", vec!["provision"]),
    ] {
        rests(&sql, ids[user], status).await;
        assert_eq!(logged(&sql, ids[user]).await, log, "{lost:?} {user}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn calls_held_when_postgres_is_killed_are_told_in_time_and_done_when_it_is_back() {
    held_calls_are_told_and_done(Lost::Killed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn calls_held_when_postgres_freezes_are_told_in_time_and_done_when_it_is_back() {
    held_calls_are_told_and_done(Lost::Frozen).await;
}

/// How the backend is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Away {
    Gone,
    Hangs,
    Another,
}

impl Away {
    fn begin(self, trial: &Trial) {
        match self {
            Away::Gone => trial.world.set_reachable(false),
            Away::Hangs => trial.world.fault(Fault::new(FaultKind::Hang)),
            Away::Another => trial.world.set_identity("another-daemon"),
        }
    }

    fn end(self, trial: &Trial, identity: &str) {
        match self {
            Away::Gone => trial.world.set_reachable(true),
            Away::Hangs => trial.world.heal(),
            Away::Another => trial.world.set_identity(identity),
        }
    }
}

async fn backend_away(away: Away) {
    let mut trial =
        Trial::new().await.set("ORCH_RESTART_BACKOFF_BASE_S", "3").set("ORCH_RESTART_BACKOFF_MAX_S", "5");
    trial.call_timeout = Duration::from_secs(2);
    let (trial, demo) = trial.ready().await;
    let sql = trial.sql().await;
    let identity: String = sql
        .query_one("SELECT backend_identity FROM instance", &[])
        .await
        .expect("there is one instance")
        .get(0);
    let (up, crashed) = (demo.engine("up").await, demo.engine("crashed").await);
    let (asleep, down, mending) =
        (demo.engine("asleep").await, demo.engine("down").await, demo.engine("mending").await);
    assert_eq!(demo.post("asleep", "sleep").await.status, 200);
    assert_eq!(demo.post("down", "stop").await.status, 200);
    // A restart that is under way when the backend goes, and one that comes due while it is away.
    trial.world.fault(
        Fault::new(FaultKind::Latency(Duration::from_millis(700))).on(Call::Start).of(mending).times(1),
    );
    trial.world.crash(mending, 1, false);
    demo.until_standing("mending", "failed-running+restart").await;
    until("the restart has reached its start", async || {
        trial.world.calls().iter().any(|call| call.call == Call::Start && call.engine == Some(mending))
    })
    .await;
    trial.world.crash(crashed, 1, false);
    demo.until_status("crashed", "failed").await;
    away.begin(&trial);
    let core = std::sync::Arc::clone(&trial.replicas[0].core);
    until("it is noticed", async || !core.pulse.backend_ok()).await;
    let attempts = async |user: &'static str| {
        let row = sql
            .query_one("SELECT restart_attempts, (SELECT count(*) FROM operations o WHERE o.engine_id = e.id AND kind = 'restart') FROM engines e WHERE user_id = $1", &[&user])
            .await
            .expect("has a row");
        (row.get::<_, i32>(0), row.get::<_, i64>(1))
    };
    assert_eq!(health(&trial).await, 200, "degraded is no reason to take the replica out");
    assert!(core.pulse.database_ok());
    let calls = trial.world.calls().len();
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(4) {
        let admitted = demo.admit("up").await;
        assert_eq!(admitted.body["admitted"], true, "{away:?}: {:?}", admitted.body);
        for (id, status) in [(up, "running"), (crashed, "failed"), (asleep, "sleeping"), (down, "stopped")] {
            assert_eq!(books(&sql, id).await.status, status, "{away:?}");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // Nothing spins: a handful of looks per second, no matter how it is away.
    let looks = trial.world.calls().len() - calls;
    assert!(looks < 200, "{away:?}: {looks} calls in four seconds");
    for (user, what) in [("down", "start"), ("asleep", "admit")] {
        let answer = if what == "admit" { demo.admit(user).await } else { demo.post(user, what).await };
        assert_eq!(
            (answer.status, answer.code()),
            (502, "BACKEND_ERROR"),
            "{away:?} {what}: {:?}",
            answer.body
        );
    }
    assert_eq!(attempts("crashed").await, (0, 0), "{away:?}: no restart is opened");
    assert_eq!(attempts("mending").await, (1, 1), "{away:?}: waiting is no attempt");
    assert_eq!(demo.admit("crashed").await.body["reason"], "engine_unhealthy");

    away.end(&trial, &identity);
    until("it is trusted again", async || core.pulse.backend_ok()).await;
    trial.hurry(&sql).await;
    for id in [crashed, mending] {
        rests(&sql, id, "running").await;
        let restarts = logged(&sql, id).await.iter().filter(|a| *a == "auto_restart_start").count();
        assert_eq!(restarts, 1, "{away:?}");
    }
    rests(&sql, down, "stopped").await;
    rests(&sql, asleep, "sleeping").await;
    assert_eq!(trial.world.starts(up), 1, "{away:?}: what ran was not touched");
    assert_eq!(logged(&sql, up).await, ["provision"], "{away:?}");
    assert_eq!(demo.post("down", "start").await.body["status"], "running", "{away:?}");
    assert_eq!(demo.admit("asleep").await.body["admitted"], true, "{away:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn p9_backend_away() {
    tokio::join!(backend_away(Away::Gone), backend_away(Away::Hangs), backend_away(Away::Another));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_daemon_creates_nothing() {
    let (mut trial, demo) = Trial::with_product().await;
    let id = demo.engine("ada").await;
    trial.stop(0).await;
    trial.world.set_identity("another-daemon");
    trial.world.forget_calls();
    let replica = trial.start().await.unwrap_or_else(|stop| panic!("{}", stop.message));
    trial.replicas.push(replica);
    let demo = demo.at(trial.base(0));
    until("it was asked who it is", async || {
        trial.world.calls().iter().filter(|call| call.call == Call::Ping).count() > 2
    })
    .await;
    let answer = demo.provision("bob").await;
    assert_eq!((answer.status, answer.code()), (502, "BACKEND_ERROR"), "{:?}", answer.body);
    assert_eq!(demo.admit("ada").await.body["admitted"], true, "what is recorded as running is handed out");
    assert!(trial.world.calls().iter().all(|call| call.call == Call::Ping), "only its name was asked");
    assert_eq!(demo.status("ada").await, "running");
    assert_eq!(trial.world.starts(id), 1);
    let sql = trial.sql().await;
    sql.batch_execute("UPDATE instance SET backend_identity = 'another-daemon'").await.expect("is adopted");
    trial.hurry(&sql).await;
    demo.until_status("bob", "running").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_waits_to_be_written_down_is_written_while_the_backend_is_away() {
    let mut trial = Trial::new().await;
    trial.adjust = |config| config.settings.operation_lease_s = Duration::from_secs(2);
    let (trial, demo) = trial.ready().await;
    let sql = trial.sql().await;
    let (down, up) = (demo.engine("down").await, demo.engine("up").await);
    let core = std::sync::Arc::clone(&trial.replicas[0].core);
    for (user, point) in [("down", "stop.finish.before"), ("up", "stop.stop.before")] {
        core.fail_points.arm(point, orchestrator::failpoint::Failure::Vanish);
        let demo = demo.clone();
        tokio::spawn(async move { demo.post(user, "stop").await });
        until("its executor is gone", async || !core.fail_points.is_armed(point)).await;
    }
    trial.world.set_reachable(false);
    until("it is noticed", async || !core.pulse.backend_ok()).await;
    rests(&sql, down, "stopped").await;
    assert!(!core.pulse.backend_ok());
    assert_eq!(logged(&sql, down).await, ["provision", "stop"]);
    assert_eq!(books(&sql, up).await.status, "running", "what needs the backend waits for it");
    trial.world.set_reachable(true);
    rests(&sql, up, "stopped").await;
}
