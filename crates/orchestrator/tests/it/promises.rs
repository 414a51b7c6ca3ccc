//! Promises about the whole fleet: P4 restarts, P5 quota, P6 audit, P7 delete.

use crate::faults::{books, id_of, logged, rests};
use crate::trial::{Product, Trial, until};
use backends::{BackendError, Call, Fault, FaultKind};
use contract::EngineId;
use futures::future::join_all;
use futures::stream::{self, StreamExt};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

pub(crate) async fn count(sql: &tokio_postgres::Client, what: &str) -> i64 {
    let row = sql.query_one(&format!("SELECT count(*) FROM {what}"), &[]).await;
    row.expect("the database of the trial is up").get(0)
}

/// Every version of every row of the tables a restart must not write to.
pub(crate) async fn fingerprint(sql: &tokio_postgres::Client) -> String {
    let row = sql
        .query_one(
            "SELECT concat_ws('|', \
               (SELECT md5(string_agg(id::text || xmin::text || revision::text || status, ',' ORDER BY id)) FROM engines), \
               (SELECT md5(string_agg(id::text || xmin::text, ',' ORDER BY id)) FROM operations), \
               (SELECT md5(string_agg(id::text || xmin::text, ',' ORDER BY id)) FROM products), \
               (SELECT md5(string_agg(xmin::text, ',')) FROM instance), \
               (SELECT count(*) || '-' || max(id) FROM audit_log), \
               (SELECT count(*) FROM quarantined_ports))",
            &[],
        )
        .await;
    row.expect("the database of the trial is up").get(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn p4_restart_changes_nothing_healthy() {
    const ENGINES: usize = 300;
    /// More at once would wait for the product's row longer than a lock is waited for.
    const AT_ONCE: usize = 24;
    let trial = Trial::new()
        .await
        .set("ORCH_RESTART_BACKOFF_BASE_S", "3600")
        .set("ORCH_RESTART_BACKOFF_MAX_S", "3600")
        .set("ORCH_AUDIT_HEALTH_SAMPLE", "1000000");
    let (mut trial, demo) = trial.ready().await;
    let sql = trial.sql().await;
    let made = (0..ENGINES).map(async |n| {
        let user = format!("u{n}");
        let id = demo.engine(&user).await;
        match n % 6 {
            0 => assert_eq!(demo.post(&user, "stop").await.status, 200),
            1 => assert_eq!(demo.post(&user, "sleep").await.status, 200),
            2 => {
                trial.world.crash(id, 1, false);
                rests(&sql, id, "failed").await;
            }
            3 => {
                // Given up at once: exit code 2 is not restarted.
                trial.world.crash(id, 2, false);
                rests(&sql, id, "failed").await;
            }
            4 => assert_eq!(demo.post(&user, "rotate-key").await.status, 200),
            _ => {}
        }
    });
    stream::iter(made).buffer_unordered(AT_ONCE).collect::<Vec<()>>().await;
    assert_eq!(count(&sql, "operations WHERE status = 'open'").await, 0);
    trial.stop(0).await;
    let before = fingerprint(&sql).await;
    let starts: u64 = trial.world.objects().iter().map(|id| trial.world.starts(*id)).sum();
    trial.world.forget_calls();
    let began = Instant::now();
    trial.replica().await;
    let ready = began.elapsed();
    let lists = || trial.world.calls().iter().filter(|call| call.call == Call::List).count();
    until("four passes over the fleet", async || lists() >= 4).await;
    let probed = || trial.world.running().iter().all(|id| trial.world.probes(*id) > 0);
    until("every running engine was probed", async || probed()).await;
    assert_eq!(
        trial.world.mutating_calls(),
        0,
        "{:?}",
        trial.world.calls().iter().find(|c| c.call.mutates())
    );
    assert_eq!(fingerprint(&sql).await, before);
    let starts_after: u64 = trial.world.objects().iter().map(|id| trial.world.starts(*id)).sum();
    assert_eq!(starts_after, starts);
    let demo = demo.at(trial.base(0));
    assert_eq!(demo.admit("u5").await.body["admitted"], true);
    assert_eq!(demo.admit("u1").await.body["admitted"], true, "a sleeper was adopted and wakes");
    println!("{ENGINES} engines, ready after {ready:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn p5_quota_is_never_exceeded() {
    const LIMIT: i64 = 10;
    let mut trial = Trial::new().await.set("ORCH_DATABASE_MAX_CONNECTIONS", "10");
    trial.adjust = |config| config.settings.operation_lease_s = Duration::from_secs(3);
    for _ in 0..3 {
        trial.replica().await;
    }
    let product = trial.product("demo", json!({"max_engines": LIMIT})).await;
    let sql = Arc::new(trial.sql().await);
    let over = Arc::new(AtomicBool::new(false));
    let watcher = tokio::spawn({
        let (sql, over) = (Arc::clone(&sql), Arc::clone(&over));
        async move {
            let (mut most, mut doubled) = (0, 0);
            while !over.load(Ordering::Relaxed) {
                most = most.max(count(&sql, "engines").await);
                doubled +=
                    count(&sql, "(SELECT port FROM engines GROUP BY port HAVING count(*) > 1) AS twice")
                        .await;
            }
            (most, doubled)
        }
    });
    let mut callers = tokio::task::JoinSet::new();
    for n in 0..200 {
        let demo = product.clone().at(trial.base(n % 3));
        callers.spawn(async move {
            // Every fourth user comes twice at the same time, by both ways.
            let user = format!("u{}", if n % 4 == 3 { n - 1 } else { n });
            let answer = if n % 2 == 0 { demo.provision(&user).await } else { demo.admit(&user).await };
            (n % 3 == 2, answer)
        });
    }
    until("some engines have rows", async || count(&sql, "engines").await >= 3).await;
    trial.kill(2).await;
    let mut refused = 0;
    while let Some(answer) = callers.join_next().await {
        let (killed, answer) = answer.expect("no caller breaks off");
        match (answer.status, answer.code()) {
            (200, _) => assert_ne!(answer.body["admitted"], false, "{:?}", answer.body),
            (429, "QUOTA_EXCEEDED") => refused += 1,
            // Its replica was killed.
            (0 | 503, _) if killed => {}
            // It came second for the same user.
            (409, "ENGINE_ALREADY_EXISTS") => {}
            _ => panic!("{answer:?}"),
        }
    }
    until("nothing is open", async || count(&sql, "operations WHERE status = 'open'").await == 0).await;
    over.store(true, Ordering::Relaxed);
    let (most, doubled) = watcher.await.expect("the watcher watches");
    assert_eq!((most, doubled), (LIMIT, 0), "most engines at any time, ports given twice");
    assert_eq!(count(&sql, "engines WHERE status = 'running'").await, LIMIT);
    assert_eq!(trial.world.objects().len(), 10);
    assert!(refused > 50, "{refused}");
    let replays = replay(&sql).await;
    assert_eq!(replays.len(), 10);
}

/// The engines that run by their rows.
async fn running(sql: &tokio_postgres::Client) -> Vec<EngineId> {
    let rows = sql.query("SELECT id::text FROM engines WHERE status = 'running'", &[]).await;
    let ids = rows.expect("the database of the trial is up").into_iter();
    ids.map(|row| EngineId::parse(row.get(0)).expect("is an id")).collect()
}

/// Replays the log of every engine and compares it with the rows; the answer is status by engine.
async fn replay(sql: &tokio_postgres::Client) -> BTreeMap<String, String> {
    let rows = sql
        .query(
            "SELECT engine_id::text, action, metadata FROM audit_log WHERE engine_id IS NOT NULL AND action <> 'health_check' ORDER BY id",
            &[],
        )
        .await
        .expect("the database of the trial is up");
    let mut fleet: BTreeMap<String, String> = BTreeMap::new();
    for row in rows {
        let (id, action, metadata): (String, String, Value) = (row.get(0), row.get(1), row.get(2));
        let known = fleet.get(&id).cloned();
        if let Some(known) = &known
            && let Some(from) = metadata["from"].as_str()
        {
            assert_eq!(from, known, "{id}: {action} begins where the log does not stand: {metadata}");
        }
        if action == "destroy" {
            fleet.remove(&id);
        } else if let Some(to) = metadata["to"].as_str() {
            fleet.insert(id, to.to_owned());
        }
    }
    let rows = sql.query("SELECT id::text, status FROM engines", &[]).await.expect("the database is up");
    let present: BTreeMap<String, String> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert_eq!(fleet, present, "the log replays to the present rows");
    let ended = sql
        .query(
            "SELECT o.kind, o.status, o.id::text, (SELECT count(*) FROM audit_log a WHERE a.metadata->>'operation_id' = o.id::text \
               AND a.action NOT IN ('auto_restart_start', 'auto_restart_gave_up')) FROM operations o",
            &[],
        )
        .await
        .expect("the database is up");
    for row in ended {
        let (kind, status, id, closing): (String, String, String, i64) =
            (row.get(0), row.get(1), row.get(2), row.get(3));
        assert_eq!(closing, i64::from(status != "superseded"), "closing rows of {kind} {id}, {status}");
    }
    fleet
}

/// A small generator of its own, so that a run can be repeated.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn p6_every_change_has_exactly_one_audit_row() {
    const SEED: u64 = 20_261_122;
    let mut trial = Trial::new().await;
    trial.adjust = |config| config.settings.operation_lease_s = Duration::from_secs(3);
    trial.replica().await;
    trial.replica().await;
    let product = trial.product("demo", json!({})).await;
    let sql = trial.sql().await;
    let bases = [trial.base(0), trial.base(1)];
    let victim = trial.replicas.pop().expect("there are two");
    let drivers = (0..24_u64).map(async |n| {
        // Two drivers per user, so that requests meet.
        let (user, mut dice) = (format!("u{}", n / 2), Dice(SEED ^ (n << 32)));
        let demo = product.clone().at(bases[(n % 2) as usize].clone());
        for _ in 0..30 {
            match dice.roll(10) {
                0..=2 => drop(demo.admit(&user).await),
                3 => drop(demo.post(&user, "stop").await),
                4 => drop(demo.post(&user, "start").await),
                5 => drop(demo.post(&user, "sleep").await),
                6 => drop(demo.post(&user, "rotate-key").await),
                7 if dice.roll(3) == 0 => drop(demo.destroy(&user).await),
                8 => {
                    let body = demo.get(&user).await.body;
                    if let Ok(id) = EngineId::parse(body["engine_id"].as_str().unwrap_or_default()) {
                        trial.world.crash(id, 1, dice.roll(2) == 0);
                    }
                }
                _ => {
                    let call = [Call::Create, Call::Start, Call::Stop, Call::Freeze, Call::Thaw]
                        [dice.roll(5) as usize];
                    let error = BackendError::Refused("now and then".to_owned());
                    trial.world.fault(Fault::fail(error).on(call).times(1));
                }
            }
        }
    });
    // In the middle of it one replica is killed; its callers get no answers any more.
    let killed = async {
        until("there is something to lose", async || count(&sql, "operations").await >= 25).await;
        victim.vanish().await;
    };
    tokio::join!(join_all(drivers), killed);
    trial.world.heal();
    until("everything has come to rest, and the last crash is seen", async || {
        trial.hurry(&sql).await;
        let moving = "engines e WHERE status IN ('provisioning', 'destroying') OR (status = 'failed' AND next_restart_at IS NOT NULL) \
                      OR EXISTS (SELECT 1 FROM operations o WHERE o.engine_id = e.id AND o.status = 'open')";
        count(&sql, moving).await == 0
            && count(&sql, "operations WHERE status = 'open'").await == 0
            && running(&sql).await.iter().all(|id| trial.world.truth(*id).word() == "running")
    })
    .await;
    let fleet = replay(&sql).await;
    for (id, status) in &fleet {
        let object = trial.world.truth(EngineId::parse(id).expect("is an id"));
        let wanted = match status.as_str() {
            "running" => "running",
            "sleeping" => "paused",
            _ => continue,
        };
        assert_eq!(object.word(), wanted, "{id}");
    }
    println!(
        "{} engines, {} audit rows, {} operations",
        fleet.len(),
        count(&sql, "audit_log").await,
        count(&sql, "operations").await
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_whose_audit_row_cannot_be_written_does_not_happen() {
    let mut trial = Trial::new().await;
    trial.adjust = |config| config.settings.operation_lease_s = Duration::from_secs(2);
    let (trial, demo) = trial.ready().await;
    let sql = trial.sql().await;
    let id = demo.engine("ada").await;
    sql.batch_execute(
        "CREATE FUNCTION refuse_stop() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'the log is broken'; END $$; \
         CREATE TRIGGER refuse_stop BEFORE INSERT ON audit_log FOR EACH ROW WHEN (NEW.action IN ('stop', 'health_failed')) \
         EXECUTE FUNCTION refuse_stop()",
    )
    .await
    .expect("a trigger is made");
    let caller = tokio::spawn({
        let demo = demo.clone();
        async move { demo.post("ada", "stop").await }
    });
    until("the stop was done and could not be recorded", async || trial.world.truth(id).word() == "exited")
        .await;
    let attempts = || async {
        let row = sql.query_one("SELECT attempt FROM operations WHERE kind = 'stop'", &[]).await;
        row.expect("the stop is known").get::<_, i32>(0)
    };
    until("it was tried again", async || attempts().await >= 2).await;
    let now = books(&sql, id).await;
    assert_eq!((now.status.as_str(), now.open), ("running", 1), "nothing of it is in the row");
    assert_eq!(logged(&sql, id).await, ["provision"]);
    // A crash that cannot be written down does not happen either.
    let bob = demo.engine("bob").await;
    trial.world.crash(bob, 1, false);
    let lists = trial.world.calls().iter().filter(|c| c.call == Call::List).count();
    until("it was looked at", async || {
        trial.world.calls().iter().filter(|c| c.call == Call::List).count() > lists + 2
    })
    .await;
    assert_eq!(books(&sql, bob).await.status, "running");
    // The function changes, not the trigger: DROP TRIGGER would want the table to itself, while work holds it.
    sql.batch_execute(
        "CREATE OR REPLACE FUNCTION refuse_stop() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$",
    )
    .await
    .expect("the log can be written again");
    rests(&sql, id, "stopped").await;
    let answer = caller.await.expect("the caller is answered");
    assert_eq!((answer.status, answer.code()), (500, "INTERNAL"), "{:?}", answer.body);
    assert_eq!(answer.body["error"]["details"]["retrying"], true, "{:?}", answer.body);
    assert_eq!(logged(&sql, id).await, ["provision", "stop"]);
    until("bob's crash is written down and mended", async || logged(&sql, bob).await.len() == 4).await;
    replay(&sql).await;
}

/// Destroys an engine while the backend fails twenty times.
async fn destroyed(trial: &Trial, sql: &tokio_postgres::Client, demo: &Product, user: &str, what: &str) {
    let id = id_of(sql, user).await;
    for (call, times) in [(Call::Stop, 7), (Call::Remove, 7), (Call::Destroy, 6)] {
        let error = if times == 7 {
            BackendError::Refused("not now".to_owned())
        } else {
            BackendError::Unreachable("not there".to_owned())
        };
        trial.world.fault(Fault::fail(error).on(call).of(id).times(times));
    }
    let answer = demo.destroy(user).await;
    let told = matches!((answer.status, answer.code()), (200, "") | (502, "BACKEND_ERROR"));
    assert!(told, "{what}: {answer:?}");
    let began = Instant::now();
    while books(sql, id).await.status != "none" {
        assert!(began.elapsed() < Duration::from_secs(60), "{what}: {:?}", books(sql, id).await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(!trial.world.objects().contains(&id), "{what}");
    assert!(!trial.world.has_storage(id), "{what}");
    let log = logged(sql, id).await;
    assert_eq!(log.iter().filter(|a| *a == "destroy").count(), 1, "{what}: {log:?}");
    assert_eq!(log.last().map(String::as_str), Some("destroy"), "{what}: {log:?}");
}

/// A place where an engine can be found when somebody wants it gone.
async fn bring_to(trial: &Trial, sql: &tokio_postgres::Client, demo: &Product, user: &str, place: &str) {
    let spawn = |method: &'static str, path: String| {
        let demo = demo.clone();
        tokio::spawn(async move { demo.call(method, &path, Value::Null).await });
    };
    let path = |what: &str| format!("/engines/{user}/{what}");
    if place == "provisioning" {
        let (demo, user) = (demo.clone(), user.to_owned());
        tokio::spawn(async move { demo.provision(&user).await });
        let id = id_of(sql, &format!("{place}-0")).await;
        return until("its object boots", async || trial.world.objects().contains(&id)).await;
    }
    let id = demo.engine(user).await;
    let slowly = |call, ms| {
        trial.world.fault(Fault::new(FaultKind::Latency(Duration::from_millis(ms))).on(call).of(id).times(1))
    };
    match place {
        "running" => {}
        "stopped" => drop(demo.post(user, "stop").await),
        "sleeping" => drop(demo.post(user, "sleep").await),
        "failed" => {
            trial.world.crash(id, 2, false);
            rests(sql, id, "failed").await;
        }
        "starting" => {
            demo.post(user, "stop").await;
            slowly(Call::Start, 1000);
            spawn("POST", path("start"));
            demo.until_standing(user, "stopped-running+start").await;
        }
        "stopping" => {
            slowly(Call::Stop, 1000);
            spawn("POST", path("stop"));
            demo.until_standing(user, "running-stopped+stop").await;
        }
        "going to sleep" => {
            slowly(Call::Freeze, 400);
            spawn("POST", path("sleep"));
            demo.until_standing(user, "running-sleeping+sleep").await;
        }
        "waking" => {
            demo.post(user, "sleep").await;
            slowly(Call::Thaw, 400);
            let (caller, asked) = (demo.clone(), user.to_owned());
            tokio::spawn(async move { caller.admit(&asked).await });
            demo.until_standing(user, "sleeping-running+wake").await;
        }
        "restarting" => {
            slowly(Call::Start, 2000);
            trial.world.crash(id, 1, false);
            demo.until_standing(user, "failed-running+restart").await;
        }
        "rotating" => {
            trial.world.edit(id, |profile| profile.refuses_calls = true);
            spawn("POST", path("rotate-key"));
            demo.until_standing(user, "running-running+rotate_key").await;
        }
        "destroying" => {
            slowly(Call::Remove, 1000);
            spawn("DELETE", format!("/engines/{user}"));
            demo.until_standing(user, "destroying-destroyed+destroy").await;
        }
        other => panic!("no such place: {other}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn p7_delete_always_succeeds() {
    let places = [
        "provisioning",
        "running",
        "stopped",
        "sleeping",
        "failed",
        "starting",
        "stopping",
        "going to sleep",
        "waking",
        "restarting",
        "rotating",
        "destroying",
    ];
    let mut trial = Trial::new().await.set("ORCH_RESTART_BACKOFF_BASE_S", "0.2");
    trial.adjust = |config| config.settings.operation_lease_s = Duration::from_secs(3);
    trial.replica().await;
    let demo = trial.product("demo", json!({"max_engines": places.len()})).await;
    let sql = trial.sql().await;
    let over = AtomicBool::new(false);
    let hurry = async {
        // The waits of minutes are shortened, never the tries.
        while !over.load(Ordering::Relaxed) {
            trial.hurry(&sql).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let all = async {
        let slow = |boot| trial.world.edit_default(move |profile| profile.boot = boot);
        slow(Duration::from_secs(2));
        bring_to(&trial, &sql, &demo, "provisioning-0", "provisioning").await;
        slow(Duration::from_millis(20));
        let deaths = places.iter().map(async |place| {
            let user = format!("{place}-0").replace(' ', "-");
            if *place != "provisioning" {
                bring_to(&trial, &sql, &demo, &user, place).await;
            }
            destroyed(&trial, &sql, &demo, &user, place).await;
        });
        join_all(deaths).await;
        over.store(true, Ordering::Relaxed);
    };
    tokio::join!(hurry, all);
    assert!(trial.world.objects().is_empty());
    assert_eq!(count(&sql, "engines").await, 0);
    assert_eq!(count(&sql, "operations WHERE status = 'open'").await, 0);
    let totals =
        sql.query_one("SELECT total_destroys FROM products", &[]).await.expect("there is one product");
    assert_eq!(totals.get::<_, i64>(0), places.len() as i64);
    // Quota and ports are free again.
    join_all((0..places.len()).map(async |n| demo.engine(&format!("again-{n}")).await)).await;
    assert_eq!(demo.provision("one-too-many").await.code(), "QUOTA_EXCEEDED");
}
