//! What keeps a replica alive is not held up by what it serves: lease, claims and pulse under a burst of requests, the
//! pulse beside a backend that hangs, a start in the middle of a fail-over.

use crate::faults::{books, id_of, rests};
use crate::trial::{PATIENCE, Trial, until};
use backends::{Call, Fault, FaultKind};
use orchestrator::failpoint::Failure;
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A burst of requests holds every connection of the pool for longer than the supervisor lease and a claim last.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_burst_that_holds_the_pool_costs_neither_health_nor_lease_nor_claims() {
    let mut trial = Trial::new().await.set("ORCH_DATABASE_MAX_CONNECTIONS", "4");
    trial.call_timeout = Duration::from_secs(60);
    let (trial, demo) = trial.ready().await;
    demo.engine("ada").await;
    let core = &trial.replicas[0].core;
    until("it supervises", async || core.pulse.is_supervisor()).await;
    let epoch = core.pulse.epoch();

    // An operation whose backend call lasts through all of it.
    trial.world.fault(Fault::new(FaultKind::Hang).on(Call::Create));
    let caller = tokio::spawn({
        let demo = demo.clone();
        async move { demo.provision("slow").await }
    });
    let sql = trial.sql().await;
    let slow = id_of(&sql, "slow").await;
    let creates = || trial.world.calls().iter().any(|c| c.call == Call::Create && c.engine == Some(slow));
    until("its object is being made", async || creates()).await;
    let claim = async || -> (i64, i64) {
        let row = "SELECT claim::int8, (extract(epoch FROM lease_until) * 1000)::int8 FROM operations WHERE status = 'open'";
        let row = sql.query_one(row, &[]).await.expect("it is open");
        (row.get(0), row.get(1))
    };
    let (held, leased) = claim().await;

    // Who asks for a product waits for this lock, with a connection in hand.
    let holder = trial.sql().await;
    holder.batch_execute("BEGIN; LOCK TABLE products IN ACCESS EXCLUSIVE MODE").await.expect("locks");
    let (over, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut burst = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let (demo, over, asked) = (demo.clone(), Arc::clone(&over), Arc::clone(&asked));
        burst.spawn(async move {
            while !over.load(Ordering::Relaxed) {
                assert_eq!(demo.get("ada").await.code(), "DATABASE_UNAVAILABLE");
                asked.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    let lease_ms = i64::try_from(core.config.operation_lease_s.as_millis()).expect("is short");
    let began = Instant::now();
    loop {
        let health = trial.http.get(format!("{}/health", trial.base(0))).send().await.expect("it answers");
        let (status, text) = (health.status(), health.text().await.expect("is text"));
        assert_eq!((status.as_u16(), text.as_str()), (200, r#"{"status":"ok"}"#), "{:?}", began.elapsed());
        let (now, until) = claim().await;
        assert_eq!(now, held, "the operation was taken away");
        // Renewed until the first lease, and all the waits for a connection, are long over.
        if until > leased + 2 * lease_ms {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "the claim is not renewed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(asked.load(Ordering::Relaxed) > 0, "nobody waited");
    assert!(core.pulse.is_supervisor());
    assert_eq!(core.pulse.epoch(), epoch, "the supervisor lease was lost");
    holder.batch_execute("ROLLBACK").await.expect("lets go");
    over.store(true, Ordering::Relaxed);
    drop(burst);
    trial.world.heal();
    rests(&sql, slow, "running").await;
    assert_eq!(caller.await.expect("is answered").status, 200);
    assert_eq!(trial.world.starts(slow), 1, "{:?}", books(&sql, slow).await);
}

/// Rounds of the pulse so far, of all replicas of this process.
fn pulses() -> u64 {
    let text = orchestrator::telemetry::registry().render();
    let line = text.lines().find_map(|l| l.strip_prefix("bap_loop_duration_seconds_count{loop=\"pulse\"} "));
    line.and_then(|n| n.parse().ok()).unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hung_backend_does_not_hold_up_the_look_at_the_database() {
    let mut trial = Trial::new().await;
    // A look takes up to a sixth of this.
    trial.call_timeout = Duration::from_secs(120);
    let (trial, _) = trial.ready().await;
    let pings = || trial.world.calls().iter().filter(|c| c.call == Call::Ping).count();
    trial.world.fault(Fault::new(FaultKind::Hang).on(Call::Ping));
    trial.world.forget_calls();
    until("a ping hangs", async || pings() == 1).await;
    let before = pulses();
    until("the database is looked at again and again", async || pulses() >= before + 4).await;
    assert_eq!(pings(), 1, "the ping has ended: nothing was shown");
    trial.world.heal();
}

/// Whatever waits for a backend holds no transaction, and so no lock and no connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transaction_never_waits_for_a_backend() {
    const USERS: usize = 8;
    const SAMPLES: usize = 100;
    let mut trial = Trial::new().await;
    trial.call_timeout = Duration::from_secs(120);
    let (trial, demo) = trial.ready().await;
    for n in 0..USERS {
        demo.engine(&format!("u{n}")).await;
    }
    // Everything hangs: what is asked for, and what the loops ask.
    trial.world.fault(Fault::new(FaultKind::Hang));
    let mut callers = tokio::task::JoinSet::new();
    for n in 0..USERS {
        let demo = demo.clone();
        let what = ["stop", "sleep", "destroy", "provision"][n % 4];
        callers.spawn(async move {
            match what {
                "destroy" => demo.destroy(&format!("u{n}")).await,
                "provision" => demo.provision(&format!("new{n}")).await,
                _ => demo.post(&format!("u{n}"), what).await,
            }
        });
    }
    until("all of them are held", async || trial.waiting(0) == USERS).await;
    let sql = trial.sql().await;
    // A transaction of ours lasts milliseconds; one that waits for a backend would last until it is healed.
    let old = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() \
               AND xact_start < clock_timestamp() - INTERVAL '3 s'";
    let looks = trial.world.calls().len();
    for sample in 0..SAMPLES {
        let count: i64 = sql.query_one(old, &[]).await.expect("reads").get(0);
        assert_eq!(count, 0, "sample {sample}: a transaction waits");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(trial.world.calls().len() >= looks && looks > 0);
    assert_eq!(trial.waiting(0), USERS, "somebody was answered by a backend that hangs");
    let core = &trial.replicas[0].core;
    assert!(core.registry.pool_gauges().0 < USERS, "{:?}", core.registry.pool_gauges());
    trial.world.heal();
    while let Some(answer) = callers.join_next().await {
        let answer = answer.expect("is answered");
        assert_eq!(answer.status, 200, "{:?}", answer.body);
    }
}

/// One of the loops of a supervisor breaks off. Who renews the lease of half a supervisor keeps everybody else from
/// watching the fleet.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn lease_renewal_dies_with_its_owner() {
    let (mut trial, demo) = Trial::with_product().await;
    let id = demo.engine("ada").await;
    let first = Arc::clone(&trial.replicas[0].core);
    until("it supervises", async || first.pulse.is_supervisor()).await;
    trial.replica().await;
    let second = Arc::clone(&trial.replicas[1].core);
    first.fail_points.arm("supervisor.events.before", Failure::Vanish);
    // The event of this crash is the one that ends the loop.
    trial.world.crash(id, 1, false);
    until("the other one supervises", async || second.pulse.is_supervisor()).await;
    assert!(!first.pulse.is_supervisor());
    assert!(second.pulse.epoch() > first.pulse.epoch());
    let mended = || async { trial.actions(id).await.contains(&"auto_restart_success".to_owned()) };
    until("the crash is mended", async || mended().await).await;
    demo.until_status("ada", "running").await;
    assert_eq!(demo.admit("ada").await.body["admitted"], true, "it serves on");
}

/// It never tries the lease; what it tells is what it sees.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_only_replica_is_well_as_long_as_another_one_supervises() {
    let (trial, _) = Trial::with_product().await;
    let mut trial = trial.set("ORCH_READ_ONLY", "true");
    trial.replica().await;
    let health = async |replica: usize| -> String {
        let answer =
            trial.http.get(format!("{}/health", trial.base(replica))).send().await.expect("it answers");
        answer.text().await.expect("is text")
    };
    // Both look once a second: three leases of two seconds go by twice.
    let before = pulses();
    until("it has looked for longer than it would wait", async || {
        let text = health(1).await;
        assert_eq!(text, r#"{"status":"ok"}"#);
        pulses() >= before + 24
    })
    .await;
    trial.stop(0).await;
    let url = format!("{}/health", trial.base(0));
    until("it sees that nobody supervises", async || {
        let text = trial.http.get(&url).send().await.expect("it answers").text().await.expect("is text");
        text.contains(r#""status":"degraded""#) && text.contains(r#""supervisor":"error""#)
    })
    .await;
}

/// PostgreSQL answers, and then does not for a while: whatever step of the start that meets is asked again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_outlasts_a_database_that_goes_away_in_the_middle() {
    let (mut trial, demo) = Trial::with_product().await;
    demo.engine("ada").await;
    trial.stop(0).await;
    let (holder, watcher) = (trial.sql().await, trial.sql().await);
    // The stored keys are in the first, the deployment in the second, engines elsewhere are counted in the first.
    for table in ["engines", "instance"] {
        let lock = format!("BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE");
        holder.batch_execute(&lock).await.expect("locks");
        let asked_again = async {
            let mut asked: BTreeSet<String> = BTreeSet::new();
            let waiting = "SELECT query_start::text FROM pg_stat_activity \
                           WHERE wait_event_type = 'Lock' AND datname = current_database()";
            let began = Instant::now();
            while asked.len() < 2 {
                let rows = watcher.query(waiting, &[]).await.expect("reads");
                asked.extend(rows.iter().map(|row| row.get::<_, String>(0)));
                assert!(began.elapsed() < PATIENCE, "{table}: it gave up after {} tries", asked.len());
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            holder.batch_execute("ROLLBACK").await.expect("lets go");
        };
        let (started, ()) = tokio::join!(trial.start(), asked_again);
        match started {
            Ok(replica) => replica.stop().await,
            Err(stop) => panic!("{table}: exit {}: {}", stop.code, stop.message),
        }
    }
}

/// One thread, so that every line is heard.
#[tokio::test]
async fn the_first_list_is_told_in_one_line_that_counts_adopted_differing_and_missing() {
    let own = &["orchestrator"];
    let level = chassis::telemetry::LogLevel::Info;
    let (subscriber, captured) = chassis::telemetry::capture(level, own, orchestrator::telemetry::LOG_IDS);
    let _heard = tracing::subscriber::set_default(subscriber);
    let (mut trial, demo) = Trial::with_product().await;
    let mut ids = Vec::new();
    for user in ["runs", "sleeps", "rests", "ends", "vanishes", "wakes"] {
        ids.push(demo.engine(user).await);
    }
    for (user, what) in [("sleeps", "sleep"), ("rests", "stop"), ("wakes", "sleep")] {
        assert_eq!(demo.post(user, what).await.status, 200, "{user}");
    }
    let told = || -> Vec<Value> {
        let mut lines = captured.lines();
        lines.retain(|l| l["message"].as_str().is_some_and(|m| m.starts_with("Took over the fleet")));
        lines
    };
    assert_eq!(told().len(), 1, "one line for each tenure");
    trial.stop(0).await;
    // While nobody looks: one process ends, one object vanishes, a stranger thaws one.
    trial.world.crash(ids[3], 1, false);
    trial.world.lose_object(ids[4]);
    trial.world.wake(ids[5]);
    trial.replica().await;
    until("the fleet was taken over", async || told().len() == 2).await;
    let line = &told()[1];
    let numbers = ["adopted", "differing", "missing", "under_way"].map(|n| line["extra"][n].as_u64());
    assert_eq!(numbers, [Some(3), Some(2), Some(1), Some(0)], "{line}");
    assert_eq!(line["message"], "Took over the fleet: 3 engines are as recorded, 2 differ, 1 are missing");
    let keys: Vec<&String> = line.as_object().expect("is an object").keys().collect();
    assert!(keys.iter().any(|k| *k == "operation_id") && !keys.iter().any(|k| *k == "task_id"), "{line}");
}
