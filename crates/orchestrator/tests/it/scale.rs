//! What must not grow with the fleet, with the age of a replica, or with the noise of a backend. Counted, and compared
//! as ratios: the machine's speed does not matter.

use crate::trial::{Product, Trial, until};
use backends::{Call, Fault, FaultKind};
use contract::EngineId;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Adds stopped engines to the registry, copies of this user's.
async fn populate(sql: &tokio_postgres::Client, of: &str, count: i64) {
    let copies = "INSERT INTO engines (id, product_id, user_id, status, desired, status_since, generation, backend, \
           engine_version, engine_key_hash, engine_key_enc, boot_duration_ms) \
         SELECT gen_random_uuid(), product_id, user_id || '-' || n || '-' || $2::int8, status, desired, status_since, \
           generation, backend, engine_version, engine_key_hash, engine_key_enc, boot_duration_ms \
         FROM engines, generate_series(1, $2::int8) n WHERE user_id = $1";
    sql.execute(copies, &[&of, &count]).await.expect("adds rows");
    sql.batch_execute(
        "INSERT INTO engine_vitals (engine_id) SELECT id FROM engines ON CONFLICT DO NOTHING; ANALYZE engines, engine_vitals",
    )
    .await
    .expect("adds rows");
}

/// Rows read of the tables of engines so far, by sessions that have ended.
async fn rows_read(sql: &tokio_postgres::Client) -> i64 {
    let mine = "SELECT count(*) FROM pg_stat_activity \
                WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()";
    until("the sessions have ended", async || {
        sql.query_one(mine, &[]).await.expect("reads").get::<_, i64>(0) == 0
    })
    .await;
    sql.batch_execute("SELECT pg_stat_force_next_flush(); SELECT pg_stat_clear_snapshot()")
        .await
        .expect("flushes");
    let read = "SELECT COALESCE(sum(seq_tup_read + idx_tup_fetch), 0)::int8 FROM pg_stat_user_tables \
                WHERE relname IN ('engines', 'engine_vitals', 'operations')";
    sql.query_one(read, &[]).await.expect("reads").get(0)
}

/// A start reads every row a fixed number of times, in pages: neither statements nor rows grow faster than the fleet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn startup_is_linear() {
    // Nothing but the first pass.
    let trial = Trial::new().await.set("ORCH_RECONCILE_INTERVAL_S", "600");
    let (mut trial, demo) = trial.ready().await;
    demo.engine("seed").await;
    assert_eq!(demo.post("seed", "stop").await.status, 200);
    trial.stop(0).await;
    let sql = trial.sql().await;
    let mut costs = Vec::new();
    let mut rows = 1;
    for fleet in [1_000_i64, 10_000, 100_000] {
        populate(&sql, "seed", fleet - rows).await;
        rows = fleet;
        let before = rows_read(&sql).await;
        trial.world.forget_calls();
        trial.replica().await;
        let core = &trial.replicas[0].core;
        until("it supervises", async || core.pulse.is_supervisor()).await;
        until("the fleet was listed", async || trial.world.calls().iter().any(|c| c.call == Call::List))
            .await;
        // The pass reads the rows behind the list; a signal that comes meanwhile makes another one.
        let listed =
            demo.clone().at(trial.base(0)).call("GET", "/status", serde_json::Value::Null).await.body;
        assert_eq!(listed["total"], fleet, "{listed}");
        let statements = core.registry.statements();
        trial.stop(0).await;
        costs.push((fleet, statements, rows_read(&sql).await - before));
        assert_eq!(trial.world.mutating_calls(), 0);
    }
    println!("{costs:?}");
    for pair in costs.windows(2) {
        let [(small, few, _), (large, many, read)] = pair else { unreachable!("windows of two") };
        let ratio = u64::try_from(large / small).expect("is positive");
        assert!(*many <= few * ratio, "{costs:?}: statements grow faster than the fleet");
        assert!((large..=&(large * 12)).contains(&read), "{costs:?}: each row is read a few times");
    }
}

/// Statements that loops of a replica may have said during the cheapest wake of a part. A cost that grew with the
/// fleet or with the cycles would be far above it. Times are printed, not judged: the machine is shared.
const LOOPS_SAY: u64 = 4;

/// Statements of one wake through the replica that does not supervise, and the time of the fastest.
async fn cost_of_wakes(trial: &Trial, demo: &Product, users: &[String]) -> (u64, Duration) {
    let by = 1 - trial.supervisor().expect("one supervises");
    let demo = demo.clone().at(trial.base(by));
    let registry = &trial.replicas[by].core.registry;
    let (mut statements, mut fastest) = (u64::MAX, Duration::MAX);
    for user in users {
        let (before, began) = (registry.statements(), Instant::now());
        let woken = demo.post(user, "start").await;
        assert_eq!((woken.status, &woken.body["status"]), (200, &"running".into()), "{:?}", woken.body);
        // Loops of the replica say something now and then; the smallest number is the wake alone.
        statements = statements.min(registry.statements() - before);
        fastest = fastest.min(began.elapsed());
    }
    (statements, fastest)
}

async fn two_replicas() -> (Trial, Product) {
    let trial = Trial::new().await.set("ORCH_RECONCILE_INTERVAL_S", "600");
    let (mut trial, demo) = trial.ready().await;
    trial.replica().await;
    until("one supervises", async || trial.supervisor().is_some()).await;
    (trial, demo)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wake_latency_independent_of_fleet_size() {
    let (trial, demo) = two_replicas().await;
    let users: Vec<String> = (0..12).map(|n| format!("u{n}")).collect();
    let sleep = async || {
        for user in &users {
            assert_eq!(demo.post(user, "sleep").await.status, 200, "{user}");
        }
    };
    for user in &users {
        demo.engine(user).await;
    }
    sleep().await;
    let small = cost_of_wakes(&trial, &demo, &users).await;
    demo.engine("seed").await;
    assert_eq!(demo.post("seed", "stop").await.status, 200);
    populate(&trial.sql().await, "seed", 30_000).await;
    sleep().await;
    let thaws = || trial.world.calls().iter().filter(|c| c.call == Call::Thaw).count();
    let before = thaws();
    let large = cost_of_wakes(&trial, &demo, &users).await;
    assert_eq!(thaws() - before, users.len(), "each wake is one call");
    println!("13 engines: {small:?}, 30,000: {large:?}");
    assert!(large.0 <= small.0 + LOOPS_SAY, "a wake costs as many statements in a large fleet");
}

/// What hours of sleeping and waking leave behind slows nobody down.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wake_latency_stable_over_hours() {
    const CYCLES: usize = 150;
    const PART: usize = 20;
    let (trial, demo) = two_replicas().await;
    let id = demo.engine("ada").await;
    let mut costs = Vec::new();
    for _ in 0..CYCLES {
        assert_eq!(demo.post("ada", "sleep").await.status, 200);
        costs.push(cost_of_wakes(&trial, &demo, &["ada".to_owned()]).await);
    }
    let best = |part: &[(u64, Duration)]| {
        let statements = part.iter().map(|(n, _)| *n).min().expect("is not empty");
        (statements, part.iter().map(|(_, took)| *took).min().expect("is not empty"))
    };
    let (first, last) = (best(&costs[..PART]), best(&costs[CYCLES - PART..]));
    println!("first: {first:?}, after {CYCLES} cycles: {last:?}");
    assert!(last.0 <= first.0 + LOOPS_SAY, "the last wakes cost as many statements as the first");
    assert_eq!(trial.world.starts(id), 1, "it is the same process");
    for replica in &trial.replicas {
        let core = &replica.core;
        assert!(core.registry.pool_gauges().1 <= core.config.database_max_connections);
        assert_eq!(core.claims.count(), 0, "a claim is left");
    }
}

/// Ten thousand hints about sixty engines, while each look takes its time: as many looks at once as there are places
/// for, and one more per engine at the end, not one per hint.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn event_storm_does_not_fan_out() {
    const ENGINES: usize = 60;
    const HINTS: usize = 10_000;
    const LOOKS_MAX: usize = 32;
    let mut trial = Trial::new().await.set("ORCH_RECONCILE_INTERVAL_S", "600");
    trial.call_timeout = Duration::from_secs(120);
    let (trial, demo) = trial.ready().await;
    let mut ids: Vec<EngineId> = Vec::new();
    for n in 0..ENGINES {
        ids.push(demo.engine(&format!("u{n}")).await);
    }
    let core = &trial.replicas[0].core;
    until("it supervises", async || core.pulse.is_supervisor()).await;
    let observed = || -> HashMap<EngineId, usize> {
        let mut counts = HashMap::new();
        for call in trial.world.calls().into_iter().filter(|c| c.call == Call::Observe) {
            *counts.entry(call.engine.expect("is about one")).or_default() += 1;
        }
        counts
    };
    let total = || observed().values().sum::<usize>();
    // What the provisions asked to be looked at has been looked at.
    until("nothing waits", async || core.nudge.engines.lock().expect("is whole").is_empty()).await;
    let sql = trial.sql().await;
    let rows = "SELECT count(*) FROM audit_log WHERE action <> 'health_check'";
    let before: i64 = sql.query_one(rows, &[]).await.expect("reads").get(0);
    trial.world.fault(Fault::new(FaultKind::Hang).on(Call::Observe));
    trial.world.forget_calls();
    for n in 0..HINTS {
        core.nudge.look_at(ids[n * 7 % ENGINES]);
        if n % 500 == 0 {
            tokio::task::yield_now().await;
        }
    }
    until("every place is taken", async || total() >= LOOKS_MAX).await;
    for n in 0..HINTS {
        core.nudge.look_at(ids[n % ENGINES]);
    }
    assert_eq!(total(), LOOKS_MAX, "more looks than places");
    assert!(core.nudge.engines.lock().expect("is whole").len() <= ENGINES, "an engine waits twice");
    trial.world.heal();
    until("every engine was looked at", async || observed().len() == ENGINES).await;
    until("nothing waits", async || core.nudge.engines.lock().expect("is whole").is_empty()).await;
    let counts = observed();
    // Once when its place came, once more for what was told meanwhile.
    assert!(counts.values().all(|n| *n <= 3), "{counts:?}");
    assert_eq!(demo.admit("u0").await.body["admitted"], true);
    let after: i64 = sql.query_one(rows, &[]).await.expect("reads").get(0);
    assert_eq!(after, before, "hints about engines that are as recorded change nothing");
}
