//! The budgets of a replica that can be counted: connections, rows, statements and calls.
//!
//! Those that are times are measured by `cargo bench -p testbed --bench fleet`; one start for a thousand admits is
//! `herd_of_admits_is_one_start`, one statement per admit `the_steady_path_of_admit_is_one_statement`, a restart that
//! writes nothing `p4_restart_changes_nothing_healthy`, a cheap plan
//! `planning_ten_thousand_engines_that_are_as_recorded_is_cheap`.

use crate::promises::{count, fingerprint};
use crate::trial::{Product, Trial, until};
use backends::Call;
use futures::StreamExt;
use futures::future::join_all;
use futures::stream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Connections the replica may hold; one further connection listens.
const CONNECTIONS: i64 = 6;
/// Engines that stay.
const FLEET: usize = 24;
/// Callers at once: more than there are connections, many times over.
const CALLERS: usize = 240;

/// Sessions on this database but the one that asks.
const SESSIONS: &str = "pg_stat_activity WHERE datname = current_database() AND backend_type = 'client backend' \
                        AND pid <> pg_backend_pid()";
/// Everything that an engine leaves when it is gone would be one row more in one of these.
const KEPT: [&str; 6] = [
    "engines",
    "engine_vitals",
    "brain_snapshots",
    "quarantined_ports",
    "leases",
    "operations WHERE status = 'open'",
];

async fn census(sql: &tokio_postgres::Client) -> Vec<(&'static str, i64)> {
    let mut counts = Vec::new();
    for what in KEPT {
        counts.push((what, count(sql, what).await));
    }
    counts
}

/// One engine's whole life.
async fn life(demo: &Product, user: &str) {
    demo.engine(user).await;
    for what in ["sleep", "start", "rotate-key", "stop", "start"] {
        let answer = demo.post(user, what).await;
        assert_eq!(answer.status, 200, "{what} of {user}: {:?}", answer.body);
    }
    assert_eq!(demo.destroy(user).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn budgets_of_12_6() {
    let trial = Trial::new()
        .await
        .set("ORCH_DATABASE_MAX_CONNECTIONS", &CONNECTIONS.to_string())
        .set("ORCH_ADMIT_LEASE_S", "600")
        .set("ORCH_AUDIT_HEALTH_SAMPLE", "1000000");
    let (trial, demo) = trial.ready().await;
    let sql = trial.sql().await;
    let made = (0..FLEET).map(|n| {
        let demo = demo.clone();
        async move { demo.engine(&format!("u{n}")).await }
    });
    stream::iter(made).buffer_unordered(8).collect::<Vec<_>>().await;

    // However many call: no connection more than it was given.
    let over = Arc::new(AtomicBool::new(false));
    let watcher = tokio::spawn({
        let (over, sql) = (Arc::clone(&over), trial.sql().await);
        async move {
            let mut most = 0;
            while !over.load(Ordering::Relaxed) {
                most = most.max(count(&sql, SESSIONS).await);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            most
        }
    });
    let answers = join_all((0..CALLERS).map(|n| {
        let demo = demo.clone();
        async move { demo.admit(&format!("u{}", n % FLEET)).await }
    }))
    .await;
    for answer in answers {
        assert_eq!(answer.body["admitted"], true, "{:?}", answer.body);
    }
    over.store(true, Ordering::Relaxed);
    // The two sessions of this test see each other.
    let most = watcher.await.expect("the watcher watches") - 1;
    assert!(most <= CONNECTIONS + 1, "{most} connections");

    // A fleet at rest: the sweep calls nothing that changes anything and writes no row.
    let lists = || trial.world.calls().iter().filter(|c| c.call == Call::List).count();
    let probed = || -> Vec<u64> { trial.world.running().iter().map(|id| trial.world.probes(*id)).collect() };
    let (before, seen) = (fingerprint(&sql).await, probed());
    trial.world.forget_calls();
    until("three passes and two probes of each", async || {
        lists() >= 3 && probed().iter().zip(&seen).all(|(now, then)| *now >= then + 2)
    })
    .await;
    assert_eq!(trial.world.mutating_calls(), 0, "{:?}", trial.world.calls());
    assert_eq!(fingerprint(&sql).await, before, "an idle sweep writes");

    // Lives that come and go leave what is meant to stay, the books, and the same of them each time.
    let rest = census(&sql).await;
    let mut written = Vec::new();
    for round in 0..4 {
        let books = [count(&sql, "operations").await, count(&sql, "audit_log").await];
        join_all((0..6).map(|n| {
            let (demo, user) = (demo.clone(), format!("guest-{round}-{n}"));
            async move { life(&demo, &user).await }
        }))
        .await;
        assert_eq!(census(&sql).await, rest, "after round {round}");
        let now = [count(&sql, "operations").await, count(&sql, "audit_log").await];
        written.push([now[0] - books[0], now[1] - books[1]]);
        let held = count(&sql, SESSIONS).await;
        assert!(held <= CONNECTIONS + 1, "{held} connections after round {round}");
    }
    assert!(written.iter().all(|each| *each == written[0]), "{written:?}");
    assert_eq!(trial.world.objects().len(), FLEET);
    assert_eq!(trial.waiting(0), 0, "places of waiters are given back");
}
