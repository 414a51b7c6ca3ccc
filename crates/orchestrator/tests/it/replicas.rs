//! Several replicas, one supervisor: hand-over, take-over, deposition, lost notifications, drain, adoption, orphans.

use crate::faults::{books, id_of, logged, rests};
use crate::trial::{Trial, until};
use backends::{Call, EventRules, Fault, FaultKind};
use contract::EngineId;
use futures::future::join_all;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, Instant};

async fn supervised(trial: &Trial) -> usize {
    until("somebody supervises", async || trial.supervisor().is_some()).await;
    trial.supervisor().expect("was just seen")
}

fn passes(trial: &Trial) -> usize {
    trial.world.calls().iter().filter(|call| call.call == Call::List).count()
}

/// Waits for so many more lists of the backend.
async fn more_passes(trial: &Trial, more: usize) {
    let before = passes(trial);
    until(&format!("{more} more passes"), async || passes(trial) >= before + more).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn graceful_handover_under_one_second() {
    let mut trial = Trial::new().await.set("ORCH_LEASE_TTL_S", "30");
    trial.replica().await;
    let mut fastest = Duration::MAX;
    for _ in 0..3 {
        trial.replica().await;
        let old = supervised(&trial).await;
        let next = Arc::clone(&trial.replicas[1 - old].core);
        let leaving = trial.replicas.remove(old);
        let began = Instant::now();
        let (_, took) = tokio::join!(leaving.stop(), async {
            until("the other one supervises", async || next.pulse.is_supervisor()).await;
            began.elapsed()
        });
        assert!(took < Duration::from_secs(5), "{took:?}: waited for the lease to end by itself");
        fastest = fastest.min(took);
    }
    println!("hand-over in {fastest:?}");
    assert!(fastest < Duration::from_secs(1), "{fastest:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn crash_takeover_within_the_lease_and_a_third() {
    let mut trial = Trial::new().await.set("ORCH_LEASE_TTL_S", "3");
    trial.replica().await;
    trial.replica().await;
    let sql = trial.sql().await;
    let old = supervised(&trial).await;
    let next = Arc::clone(&trial.replicas[1 - old].core);
    let left = sql
        .query_one(
            "SELECT EXTRACT(EPOCH FROM expires_at - clock_timestamp())::float8, epoch FROM leases",
            &[],
        )
        .await
        .expect("there is a lease");
    let (left, epoch): (f64, i64) = (left.get(0), left.get(1));
    let began = Instant::now();
    tokio::join!(trial.replicas.remove(old).vanish(), async {
        until("the other one supervises", async || next.pulse.is_supervisor()).await;
    });
    let took = began.elapsed();
    assert!(took.as_secs_f64() > left - 0.3, "{took:?}: a lease with {left} s left was not waited for");
    assert!(took < Duration::from_secs(4) + Duration::from_millis(1500), "{took:?}");
    assert_eq!(next.pulse.epoch(), epoch + 1, "every holder has its own epoch");
    println!("take-over in {took:?} with {left:.1} s left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_replicas_never_both_supervise_and_a_deposed_one_is_harmless() {
    let mut trial = Trial::new().await.set("ORCH_LEASE_TTL_S", "3");
    trial.replica().await;
    trial.replica().await;
    let demo = trial.product("demo", json!({})).await;
    let sql = trial.sql().await;
    let id = demo.engine("ada").await;
    supervised(&trial).await;
    let both = async {
        let (mut changes, mut last) = (0, None);
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(9) {
            let holders: Vec<usize> =
                (0..2).filter(|n| trial.replicas[*n].core.pulse.is_supervisor()).collect();
            assert!(holders.len() < 2, "both supervise");
            if holders.first().copied() != last {
                changes += 1;
                last = holders.first().copied();
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        changes
    };
    let stolen = async {
        // A third one holds the lease for five seconds: whoever held it acts no more, without having been told.
        sql.batch_execute(
            "UPDATE leases SET holder = gen_random_uuid(), epoch = epoch + 1, expires_at = clock_timestamp() + INTERVAL '5 s'",
        )
        .await
        .expect("is stolen");
        until("nobody here supervises", async || trial.supervisor().is_none()).await;
        let before = books(&sql, id).await;
        trial.world.forget_calls();
        trial.world.crash(id, 1, false);
        let began = Instant::now();
        while trial.supervisor().is_none() {
            assert_eq!(books(&sql, id).await, before, "the deposed one wrote");
            assert_eq!(trial.world.mutating_calls(), 0, "the deposed one acted");
            assert!(began.elapsed() < Duration::from_secs(10), "nobody takes over");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        until("the successor mends what happened", async || logged(&sql, id).await.len() == 4).await;
    };
    let (changes, ()) = tokio::join!(both, stolen);
    assert!(changes >= 3, "there were {changes} changes: the test saw no change of hands");
    assert_eq!(
        logged(&sql, id).await,
        ["provision", "health_failed", "auto_restart_start", "auto_restart_success"]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn superseded_operation_lets_go_before_its_successor_acts() {
    let (trial, demo) = Trial::with_product().await;
    let sql = trial.sql().await;
    let id = demo.engine("ada").await;
    // The stop takes a second and a half; a start takes its place, and a removal that of the start.
    trial
        .world
        .fault(Fault::new(FaultKind::Latency(Duration::from_millis(1500))).on(Call::Stop).of(id).times(1));
    let asked = |method: &'static str, path: &'static str| {
        let demo = demo.clone();
        tokio::spawn(async move { demo.call(method, path, Value::Null).await })
    };
    let stop = asked("POST", "/engines/ada/stop");
    until("the stop is under way", async || {
        trial.world.calls().iter().any(|call| call.call == Call::Stop && call.engine == Some(id))
    })
    .await;
    let start = asked("POST", "/engines/ada/start");
    demo.until_standing("ada", "running-running+start").await;
    let destroy = asked("DELETE", "/engines/ada");
    demo.until_standing("ada", "destroying-destroyed+destroy").await;
    rests(&sql, id, "none").await;
    assert_eq!(destroy.await.expect("is answered").body["status"], "destroyed");
    let (stop, start) = (stop.await.expect("is answered"), start.await.expect("is answered"));
    assert_ne!(stop.status, 500, "{stop:?}");
    assert_ne!(start.status, 500, "{start:?}");
    assert_eq!(logged(&sql, id).await, ["provision", "destroy"]);
    assert!(trial.world.objects().is_empty());
    let changes: Vec<_> = trial
        .world
        .calls()
        .into_iter()
        .filter(|call| call.call.mutates() && call.engine == Some(id))
        .collect();
    let at = changes.iter().position(|call| call.call == Call::Stop).expect("there was a stop");
    let apart = changes[at + 1].at.millis() - changes[at].at.millis();
    assert!(
        apart >= 1450,
        "a successor acted {apart} ms after a stop that takes 1500 had begun: {changes:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn stop_has_a_deadline_and_start_supersedes_it() {
    let mut trial = Trial::new().await;
    trial.adjust = |config| config.settings.operation_lease_s = Duration::from_secs(3);
    let (trial, demo) = trial.ready().await;
    let id = demo.engine("ada").await;
    trial.world.fault(Fault::new(FaultKind::Hang).on(Call::Stop).of(id));
    let stop = tokio::spawn({
        let demo = demo.clone();
        async move { demo.post("ada", "stop").await }
    });
    demo.until_standing("ada", "running-stopped+stop").await;
    let began = Instant::now();
    let started = demo.post("ada", "start").await;
    let took = began.elapsed();
    assert_eq!(started.body["status"], "running", "{:?}", started.body);
    assert!(took < Duration::from_secs(3 + 4), "{took:?}: the hanging stop blocked the start");
    assert_eq!(demo.admit("ada").await.body["admitted"], true);
    assert_ne!(stop.await.expect("is answered").status, 200);
    let sql = trial.sql().await;
    assert_eq!(logged(&sql, id).await, ["provision", "start"]);
    // The place does the old stop after all: one superfluous stop, which observation repairs.
    trial.world.heal();
    until("it is up again", async || logged(&sql, id).await.len() == 5).await;
    rests(&sql, id, "running").await;
    assert_eq!(
        logged(&sql, id).await,
        ["provision", "start", "health_failed", "auto_restart_start", "auto_restart_success"]
    );
    println!("a start got past a hanging stop in {took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn lost_notifications_only_cost_time() {
    let mut trial = Trial::new().await;
    trial.adjust = |config| config.settings.operation_lease_s = Duration::from_secs(3);
    // Every notification is lost: a function of the same name comes before the server's own.
    let sql = trial.sql().await;
    let name: String =
        sql.query_one("SELECT current_database()::text", &[]).await.expect("has a name").get(0);
    sql.batch_execute(&format!(
        "CREATE FUNCTION public.pg_notify(text, text) RETURNS void LANGUAGE sql AS $$ SELECT NULL::void $$; \
         ALTER DATABASE {name} SET search_path = public, pg_catalog"
    ))
    .await
    .expect("notifications are lost");
    trial.world.set_events(EventRules { lose: 1.0, duplicate: 0.0, reorder: 0.0, silent: true });
    trial.replica().await;
    trial.replica().await;
    let demo = trial.product("demo", json!({})).await;
    let there = demo.clone().at(trial.base(1));
    trial.world.edit_default(|profile| profile.boot = Duration::from_secs(1));
    let (made, joined) = tokio::join!(demo.provision("ada"), async {
        id_of(&sql, "ada").await;
        there.admit("ada").await
    });
    assert_eq!(made.status, 200, "{:?}", made.body);
    assert_eq!(joined.body["admitted"], true, "{:?}", joined.body);
    let id = id_of(&sql, "ada").await;
    assert_eq!(there.post("ada", "stop").await.status, 200);
    assert_eq!(demo.post("ada", "start").await.status, 200);
    trial.world.crash(id, 1, false);
    until("the crash is found without any hint", async || logged(&sql, id).await.len() == 6).await;
    trial.kill(0).await;
    let here = there;
    supervised(&trial).await;
    rests(&sql, id, "running").await;
    assert_eq!(here.destroy("ada").await.body["status"], "destroyed");
    assert_eq!(
        logged(&sql, id).await,
        [
            "provision",
            "stop",
            "start",
            "health_failed",
            "auto_restart_start",
            "auto_restart_success",
            "destroy"
        ]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn drain_finishes_requests_and_hands_over_work() {
    let mut trial = Trial::new().await;
    trial.replica().await;
    trial.replica().await;
    let demo = trial.product("demo", json!({})).await;
    let sql = trial.sql().await;
    trial.world.edit_default(|profile| profile.boot = Duration::from_secs(3));
    let caller = tokio::spawn({
        let demo = demo.clone();
        async move { demo.provision("ada").await }
    });
    let id = id_of(&sql, "ada").await;
    until("its object boots", async || trial.world.starts(id) == 1).await;
    let owner = async || -> Option<String> {
        let row = sql.query_one("SELECT owner::text FROM operations WHERE kind = 'provision'", &[]).await;
        row.expect("the operation is known").get(0)
    };
    let (first, second) = (trial.replicas[0].core.replica, trial.replicas[1].core.replica);
    assert_eq!(owner().await, Some(first.uuid().to_string()));
    let leaving = trial.replicas.remove(0);
    let base = format!("http://{}", leaving.api);
    let began = Instant::now();
    let stopping = tokio::spawn(leaving.stop());
    until("the other replica has the work", async || owner().await == Some(second.uuid().to_string())).await;
    let handed_over = began.elapsed();
    assert!(!caller.is_finished(), "the caller is held until the work has ended");
    let refused = demo.clone().at(base).admit("bob").await;
    assert!(matches!((refused.status, refused.code()), (503, "DRAINING") | (0, _)), "{refused:?}");
    let answer = caller.await.expect("the caller is answered");
    assert_eq!((answer.status, &answer.body["status"]), (200, &json!("running")), "{:?}", answer.body);
    stopping.await.expect("the drain ends");
    assert_eq!(trial.world.starts(id), 1, "the boot under way was taken over, not begun again");
    assert_eq!(logged(&sql, id).await, ["provision"]);
    let there = demo.at(trial.base(0));
    assert_eq!(there.admit("ada").await.body["api_key"], Value::Null);
    assert_eq!(there.admit("ada").await.body["admitted"], true);
    println!("work handed over in {handed_over:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_drain_in_the_middle_of_a_stop_ends_it_once() {
    let mut trial = Trial::new().await;
    trial.replica().await;
    trial.replica().await;
    let demo = trial.product("demo", json!({})).await;
    let sql = trial.sql().await;
    let id = demo.engine("ada").await;
    trial.world.edit(id, |profile| profile.ignores_term = true);
    let caller = tokio::spawn({
        let demo = demo.clone();
        async move { demo.post("ada", "stop").await }
    });
    until("the stop is under way", async || {
        trial.world.calls().iter().any(|call| call.call == Call::Stop && call.engine == Some(id))
    })
    .await;
    trial.stop(0).await;
    let answer = caller.await.expect("the caller is answered");
    assert_eq!((answer.status, &answer.body["status"]), (200, &json!("stopped")), "{:?}", answer.body);
    rests(&sql, id, "stopped").await;
    assert_eq!(logged(&sql, id).await, ["provision", "stop"]);
    assert_eq!(trial.world.truth(id).word(), "exited");
}

async fn set_generation(sql: &tokio_postgres::Client, id: EngineId, generation: i64) {
    sql.execute(
        "UPDATE engines SET generation = $2 WHERE id = $1::text::uuid",
        &[&id.to_string(), &generation],
    )
    .await
    .expect("the row is there");
}

async fn generation(sql: &tokio_postgres::Client, id: EngineId) -> i64 {
    let row =
        sql.query_one("SELECT generation FROM engines WHERE id = $1::text::uuid", &[&id.to_string()]).await;
    row.expect("the row is there").get(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_object_is_adopted_and_an_older_one_is_removed() {
    let (trial, demo) = Trial::with_product().await;
    let sql = trial.sql().await;
    let id = demo.engine("ada").await;
    // As after an older backup of the database.
    set_generation(&sql, id, 0).await;
    until("the row learns the generation", async || generation(&sql, id).await == 1).await;
    assert_eq!(logged(&sql, id).await, ["provision", "adopt"]);
    assert_eq!(trial.world.starts(id), 1, "it was not touched");
    assert_eq!(books(&sql, id).await.status, "running");
    // As when an old object was brought back.
    set_generation(&sql, id, 5).await;
    until("it is back under a higher generation", async || logged(&sql, id).await.len() == 6).await;
    rests(&sql, id, "running").await;
    assert_eq!(
        logged(&sql, id).await,
        [
            "provision",
            "adopt",
            "orphan_removed",
            "health_failed",
            "auto_restart_start",
            "auto_restart_success"
        ]
    );
    assert!(generation(&sql, id).await > 5);
    assert_eq!(trial.world.brain_generation(id), generation(&sql, id).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_learns_the_generation_before_it_makes_anything() {
    let (trial, demo) = Trial::with_product().await;
    let sql = trial.sql().await;
    let id = demo.engine("ada").await;
    for _ in 0..2 {
        assert_eq!(demo.post("ada", "stop").await.status, 200);
        let taken = backends::BackendError::PortTaken(9001);
        trial.world.fault(Fault::fail(taken).on(Call::Start).of(id).times(1));
        assert_eq!(demo.post("ada", "start").await.status, 200);
    }
    assert_eq!(demo.post("ada", "stop").await.status, 200);
    rests(&sql, id, "stopped").await;
    let real = trial.world.brain_generation(id);
    assert_eq!((real, generation(&sql, id).await), (3, 3));
    // An older backup of the database, and nobody who looks at everything before the start comes.
    trial.world.fault(Fault::new(FaultKind::Hang).on(Call::List));
    set_generation(&sql, id, 1).await;
    let started = demo.post("ada", "start").await;
    assert_eq!(started.status, 200, "{:?}", started.body);
    assert!(generation(&sql, id).await >= real);
    assert_eq!(trial.world.brain_generation(id), generation(&sql, id).await);
    trial.world.heal();
    assert!(logged(&sql, id).await.contains(&"adopt".to_owned()));
}

async fn forget(sql: &tokio_postgres::Client, ids: &[EngineId]) {
    for id in ids {
        sql.execute("DELETE FROM engines WHERE id = $1::text::uuid", &[&id.to_string()])
            .await
            .expect("the row goes");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orphans_go_after_their_grace_and_their_storage_stays() {
    let mut trial = Trial::new().await;
    trial.adjust = |config| config.settings.orphan_grace_s = Duration::from_secs(4);
    let (trial, demo) = trial.ready().await;
    let sql = trial.sql().await;
    let began = Instant::now();
    let users: Vec<String> = (0..31).map(|n| format!("u{n}")).collect();
    let ids = join_all(users.iter().map(|user| demo.engine(user))).await;
    // One runs, one is stopped, one is frozen.
    assert_eq!(demo.post("u1", "stop").await.status, 200);
    assert_eq!(demo.post("u2", "sleep").await.status, 200);
    forget(&sql, &ids[..3]).await;
    while began.elapsed() < Duration::from_millis(3500) {
        assert_eq!(trial.world.objects().len(), 31, "an object went before its grace was over");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    until("the orphans are gone", async || trial.world.objects().len() == 28).await;
    for id in &ids[..3] {
        assert!(trial.world.has_storage(*id), "the brain of an orphan was deleted");
        until("it is written down", async || {
            logged(&sql, *id).await.last().is_some_and(|a| a == "orphan_removed")
        })
        .await;
    }
    // More than a tenth and at least three: as after an older backup of the database. Nothing is removed.
    forget(&sql, &ids[3..7]).await;
    trial.world.forget_calls();
    more_passes(&trial, 4).await;
    assert_eq!(trial.world.objects().len(), 28);
    assert_eq!(trial.world.mutating_calls(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reaper_is_scoped_by_instance() {
    let mut one = Trial::new().await;
    one.adjust = |config| config.settings.orphan_grace_s = Duration::from_secs(1);
    let mut two = Trial::new().await.set("ORCH_PORT_MIN", "10100").set("ORCH_PORT_MAX", "10200");
    two.adjust = |config| config.settings.orphan_grace_s = Duration::from_secs(1);
    two.world = one.world.clone();
    let ((one, here), (two, there)) = tokio::join!(one.ready(), two.ready());
    let (ours, theirs) = tokio::join!(here.engine("ada"), there.engine("ada"));
    // Longer than the grace, and more than two passes of both.
    until("both are older than the grace", async || {
        let now = one.world.now();
        [ours, theirs].iter().all(|id| {
            let made = one.world.truth(*id).object().and_then(|object| object.created_at);
            made.is_some_and(|at| now.millis() - at.millis() > 2000)
        })
    })
    .await;
    more_passes(&one, 6).await;
    assert_eq!(one.world.running().len(), 2, "one deployment removed an object of the other");
    assert_eq!(
        (here.status("ada").await, there.status("ada").await),
        ("running".to_owned(), "running".to_owned())
    );
    drop(two);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mass_absence_waits_for_agreement() {
    // No probe says anything here: what does not answer its probes is failed for that.
    let trial = Trial::new().await.set("ORCH_HEALTH_CHECK_INTERVAL_S", "3600");
    let (trial, demo) = trial.ready().await;
    let sql = trial.sql().await;
    let users: Vec<String> = (0..6).map(|n| format!("u{n}")).collect();
    let ids = join_all(users.iter().map(|user| demo.engine(user))).await;
    more_passes(&trial, 2).await;
    trial.world.forget_calls();
    // All at once, as a list sees it.
    trial.world.hold_list();
    for id in &ids {
        trial.world.lose_object(*id);
    }
    trial.world.release_list();
    more_passes(&trial, 2).await;
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(2) {
        for id in &ids {
            assert_eq!(logged(&sql, *id).await, ["provision"], "declared dead although the list is doubted");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(trial.world.mutating_calls(), 0, "nothing is created on a doubted list");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_lost_object_is_made_again() {
    let (trial, demo) = Trial::with_product().await;
    let sql = trial.sql().await;
    let id = demo.engine("ada").await;
    trial.world.lose_object(id);
    until("it is back", async || logged(&sql, id).await.len() == 4).await;
    rests(&sql, id, "running").await;
    assert_eq!(
        logged(&sql, id).await,
        ["provision", "health_failed", "auto_restart_start", "auto_restart_success"]
    );
    assert_eq!(trial.world.brain_generation(id), 2, "a new object has a higher generation");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stale_list_creates_nothing_twice() {
    let (trial, demo) = Trial::with_product().await;
    let sql = trial.sql().await;
    let old = demo.engine("old").await;
    // From here on the list shows the past: neither the new engine, nor that the old one was stopped.
    trial.world.hold_list();
    let new = demo.engine("new").await;
    assert_eq!(demo.post("old", "stop").await.status, 200);
    more_passes(&trial, 4).await;
    assert_eq!((trial.world.starts(old), trial.world.starts(new)), (1, 1));
    assert_eq!(logged(&sql, new).await, ["provision"]);
    assert_eq!(logged(&sql, old).await, ["provision", "stop"]);
    trial.world.release_list();
    assert_eq!(demo.destroy("old").await.status, 200);
    assert_eq!(demo.admit("new").await.body["admitted"], true);
}
