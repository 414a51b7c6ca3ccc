//! Which clock decides, and what is no activity: a replica whose clock is hours off, a tab that connects again and again.

use crate::faults::{id_of, rests};
use crate::trial::{Trial, get_text, until};
use backends::{Call, Fault, FaultKind};
use contract::Timestamp;
use contract::engine_api::Activity;
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Puts the database's clock this many hours away from the one of this machine, where replicas and engines are.
async fn set_clock(trial: &Trial, hours: i32) {
    trial
        .sql()
        .await
        .batch_execute(&format!(
            "CREATE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE \
               AS $$ SELECT pg_catalog.clock_timestamp() + INTERVAL '{hours} hours' $$; \
             DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET search_path = public, pg_catalog', current_database()); END $$"
        ))
        .await
        .expect("sets the clock");
}

async fn database_now(sql: &tokio_postgres::Client) -> i64 {
    let now = "SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::int8";
    sql.query_one(now, &[]).await.expect("has a clock").get(0)
}

fn time(value: &Value) -> i64 {
    value.as_str().and_then(Timestamp::parse).unwrap_or_else(|| panic!("{value} is no time")).millis()
}

/// What an engine with so many open streams says.
fn streams(open_streams: u64) -> Option<Activity> {
    Some(Activity { in_flight_turns: 0, open_streams, last_activity_at: None, next_scheduled_at: None })
}

/// Leases, claims, idle times, back-off and what is written down follow the database, wherever the clocks of the
/// replicas are.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn only_the_database_clock_decides() {
    for hours in [7, -7] {
        let trial = Trial::new().await.set("ORCH_IDLE_SLEEP_AFTER_S", "5");
        set_clock(&trial, hours).await;
        let sql = trial.sql().await;
        let (mut trial, demo) = trial.ready().await;
        let away = (database_now(&sql).await - Timestamp::now().millis()) / 60_000;
        assert!(away.abs() > 400, "the clock was not set: {away} minutes");
        trial.replica().await;

        // An admit lease.
        let ada = demo.engine("ada").await;
        let before = database_now(&sql).await;
        let admitted = demo.admit("ada").await.body;
        let lease = time(&admitted["lease_expires_at"]);
        assert!((before..=database_now(&sql).await).contains(&(lease - 5000)), "{hours}: {admitted}");

        // A crash is restarted after its delay, and is not forgotten at once: that takes ten minutes.
        let bob = demo.engine("bob").await;
        trial.world.set_activity(bob, streams(1));
        trial.world.crash(bob, 1, false);
        until("the crash is mended", async || {
            trial.actions(bob).await.contains(&"auto_restart_success".to_owned())
        })
        .await;
        let scheduled = trial.row(bob, "health_failed").await;
        let delay = time(&scheduled["metadata"]["next_restart_at"]) - time(&scheduled["timestamp"]);
        assert!((0..=1000).contains(&delay), "{hours}: {scheduled}");
        let probes = trial.world.probes(bob);
        until("it was probed three times", async || trial.world.probes(bob) >= probes + 3).await;
        assert_eq!(demo.explain("bob").await["health"]["restart_attempts"], 1, "{hours}");

        // The idle time of one that was admitted.
        demo.until_status("ada", "sleeping").await;
        let slept = time(&trial.row(ada, "sleep").await["timestamp"]);
        assert!(slept >= lease + 5000 && slept <= database_now(&sql).await, "{hours}: {lease}, {slept}");

        // Who supervises dies in the middle of an operation: lease and claim end, and the other one goes on.
        until("one supervises", async || trial.supervisor().is_some()).await;
        let dying = trial.supervisor().expect("one does");
        trial.world.fault(Fault::new(FaultKind::Hang).on(Call::Create));
        let caller = tokio::spawn({
            let demo = demo.clone().at(trial.base(dying));
            async move { demo.provision("eve").await }
        });
        let eve = id_of(&sql, "eve").await;
        let making = || trial.world.calls().iter().any(|c| c.call == Call::Create && c.engine == Some(eve));
        until("its object is being made", async || making()).await;
        trial.kill(dying).await;
        trial.world.heal();
        let _ = caller.await;
        until("the other one supervises", async || trial.supervisor() == Some(0)).await;
        rests(&sql, eve, "running").await;
        let demo = demo.at(trial.base(0));
        // What the next supervisor reads was written by the clock that it compares with.
        let probes = trial.world.probes(bob);
        until("it was probed three times", async || trial.world.probes(bob) >= probes + 3).await;
        assert_eq!(
            demo.explain("bob").await["health"]["restart_attempts"],
            1,
            "{hours}: after the take-over"
        );
        let later = database_now(&sql).await;
        for row in trial.rows("").await {
            let at = time(&row["timestamp"]);
            assert!((before - 60_000..=later).contains(&at), "{hours}: {row}");
        }
    }
}

/// A tab that nobody looks at loses its stream and connects again, for hours, and asks how its engine is. Nobody admits
/// it: the engine sleeps all the same, and goes on sleeping.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reconnecting_tab_without_admit_does_not_keep_awake() {
    let trial = Trial::new().await.set("ORCH_IDLE_SLEEP_AFTER_S", "5");
    let (trial, demo) = trial.ready().await;
    let id = demo.engine("ada").await;
    let trial = Arc::new(trial);
    let (over, connected) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let tab = tokio::spawn({
        let (trial, demo) = (Arc::clone(&trial), demo.clone());
        let (over, connected) = (Arc::clone(&over), Arc::clone(&connected));
        async move {
            while !over.load(Ordering::Relaxed) {
                // A frozen engine takes no connection.
                if trial.world.truth(id).word() == "running" {
                    trial.world.set_activity(id, streams(1));
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    trial.world.set_activity(id, streams(0));
                }
                demo.get("ada").await;
                demo.explain("ada").await;
                connected.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    });
    demo.until_status("ada", "sleeping").await;
    let (tries, before) = (connected.load(Ordering::Relaxed), trial.actions(id).await);
    until("it connects again and again", async || connected.load(Ordering::Relaxed) >= tries + 20).await;
    assert_eq!(demo.standing("ada").await, "sleeping-sleeping");
    assert_eq!(trial.actions(id).await, before, "{before:?}");
    over.store(true, Ordering::Relaxed);
    tab.await.expect("the tab is closed");
    let page = get_text(&format!("http://{}/metrics", trial.replicas[0].internal)).await;
    assert!(!page.contains("bap_operations_total{kind=\"wake\""), "it was woken");
}
