//! The database away, frozen, killed, slow: the registry says so in time and heals by itself.

use super::registry::*;
use contract::ReplicaId;
use fleet::lifecycle::{Desired, Status};
use fleet::operation::OperationKind;
use orchestrator::registry::{EnginePatch, Notice, Outcome, RegistryError};
use serde_json::json;
use std::time::{Duration, Instant};
use testbed::postgres::{PostgresServer, Version};

/// Asks until it answers; bounded.
async fn heals(registry: &orchestrator::registry::Registry) {
    let until = Instant::now() + Duration::from_secs(20);
    while registry.ping().await.is_err() {
        assert!(Instant::now() < until, "the registry does not heal");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_registry_exists_while_its_database_is_away() {
    let registry = connect("postgresql://postgres@127.0.0.1:9/none?sslmode=disable", 2);
    let error = registry.ping().await.expect_err("nobody is there");
    assert!(error.is_unavailable(), "{error}");
    assert!(
        matches!(registry.migrate("x").await, Err(orchestrator::registry::MigrateError::Registry(e)) if e.is_unavailable())
    );
    for wrong in ["", "mysql://h/d", "postgresql://h:port/d", "postgresql://u:hunter2@h/d?sslmode=sometimes"]
    {
        let refused = orchestrator::registry::Registry::connect(settings(wrong, 2)).expect_err("is no URL");
        assert!(!refused.to_string().contains("hunter2"), "{refused}");
        assert!(orchestrator::registry::Registry::check_url(wrong).is_err());
    }
    assert!(!format!("{registry:?}{:?}", settings("postgresql://u:hunter2@h/d", 2)).contains("hunter2"));
}

#[tokio::test]
async fn pooler_loss_reconnects() {
    let server = PostgresServer::private(Version::V18).await;
    let stage = Stage::at(server.create_database("orchestrator").await).await;
    let product = stage.product("demo", json!({})).await.id;
    let engine = stage.running(product, "ada").await;
    let (engine, operation) = opened(
        stage.registry.open(&open(&engine, OperationKind::Stop, Desired::Stopped)).await.expect("opens"),
    );
    let me = ReplicaId::generate();
    let claim = stage
        .registry
        .claim(operation.id, me, Duration::from_secs(600))
        .await
        .expect("claims")
        .expect("free")
        .claim;
    let mut notices = stage.registry.listen();
    let mut next = async || {
        tokio::time::timeout(Duration::from_secs(20), notices.recv())
            .await
            .expect("in time")
            .expect("the task lives")
    };
    assert_eq!(next().await, Notice::Reconnected);

    // Killed in the middle of a transaction: finish waits for a row that somebody holds.
    let holder = stage.sql().await;
    holder.batch_execute("BEGIN; SELECT 1 FROM engines FOR UPDATE").await.expect("locks");
    let mut end = finish(&operation, claim, &engine);
    end.patch = EnginePatch { status: Some(Status::Stopped), ..EnginePatch::default() };
    let (registry, wanted) = (stage.registry.clone(), end.clone());
    let finishing = tokio::spawn(async move { registry.finish(&wanted).await });
    let watcher = stage.sql().await;
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
    for left in 0..150 {
        let count: i64 = watcher.query_one(waiting, &[]).await.expect("reads").get(0);
        if count > 0 {
            break;
        }
        assert!(left < 149, "finish never waited");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    server.kill_9().await;
    let error = finishing.await.expect("no panic").expect_err("the server is dead");
    assert!(error.is_unavailable(), "{error}");
    let began = Instant::now();
    let error = stage.registry.ping().await.expect_err("still dead");
    assert!(error.is_unavailable() && began.elapsed() < Duration::from_secs(8), "{error}");

    server.start().await;
    heals(&stage.registry).await;
    assert_eq!(next().await, Notice::Reconnected, "who waits is told to read again");
    let now = stage.reread(&engine).await;
    assert_eq!(now.engine, engine, "nothing of the transaction stayed");
    let stopped = changed(stage.registry.finish(&end).await.expect("finishes")).expect("stays");
    assert_eq!(stopped.status, Status::Stopped);
    assert!(matches!(stage.registry.finish(&end).await, Ok(Outcome::Unchanged)));
    let heard = [next().await, next().await];
    assert!(matches!(heard, [Notice::Engine { .. }, Notice::Operation { .. }]), "{heard:?}");
    assert!(stage.registry.pool_gauges().1 <= 8);
}

#[tokio::test]
async fn a_frozen_server_holds_nobody_for_long() {
    let server = PostgresServer::private(Version::V18).await;
    let stage = Stage::at(server.create_database("orchestrator").await).await;
    stage.registry.ping().await.expect("answers");
    server.pause();
    let began = Instant::now();
    let error = stage.registry.ping().await.expect_err("is frozen");
    assert!(error.is_unavailable(), "{error}");
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    assert_eq!(stage.registry.pool_gauges(), (0, 0), "a connection that owes an answer is not kept");
    server.resume();
    heals(&stage.registry).await;
    server.stop().await;
    assert!(stage.registry.ping().await.expect_err("is stopped").is_unavailable());
    server.start().await;
    heals(&stage.registry).await;
}

#[tokio::test]
async fn a_lock_that_does_not_come_is_unavailable_not_a_hang() {
    let stage = Stage::set().await;
    let product = stage.product("demo", json!({})).await.id;
    let engine = stage.running(product, "ada").await;
    let holder = stage.sql().await;
    holder.batch_execute("BEGIN; SELECT 1 FROM engines FOR UPDATE").await.expect("locks");
    let began = Instant::now();
    let error =
        stage.registry.change(&change(&engine, EnginePatch::default())).await.expect_err("waits in vain");
    assert!(error.is_unavailable() && error.to_string().contains("55P03"), "{error}");
    assert!((1..5).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    holder.batch_execute("ROLLBACK").await.expect("lets go");
    changed(stage.registry.change(&change(&engine, EnginePatch::default())).await.expect("changes"));
}

#[tokio::test]
async fn a_statement_that_does_not_end_is_ended_by_the_server() {
    let stage = Stage::set().await;
    let sql = stage.sql().await;
    // Whatever makes it slow: here the log takes its time.
    sql.batch_execute(
        "CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(60); RETURN NEW; END $$; \
         CREATE TRIGGER dawdle BEFORE INSERT ON audit_log FOR EACH ROW EXECUTE FUNCTION dawdle()",
    )
    .await
    .expect("makes a trigger");
    let began = Instant::now();
    let row = entry(fleet::audit::AuditAction::Backup, json!({}));
    let error = stage.registry.append(&[row]).await.expect_err("takes too long");
    assert!(matches!(&error, RegistryError::Unavailable(text) if text.contains("57014")), "{error}");
    assert!((4..7).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    stage.registry.ping().await.expect("the connection is good");
}

#[tokio::test]
async fn an_exhausted_pool_refuses_in_time_and_recovers() {
    let stage = Stage::set().await;
    let product = stage.product("demo", json!({})).await.id;
    let engine = stage.running(product, "ada").await;
    let small = stage.replica(1);
    let holder = stage.sql().await;
    holder.batch_execute("BEGIN; SELECT 1 FROM engines FOR UPDATE").await.expect("locks");
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..6 {
        let (small, wanted) = (small.clone(), change(&engine, EnginePatch::default()));
        tasks.spawn(async move { small.change(&wanted).await.expect_err("waits in vain").is_unavailable() });
    }
    assert!(tasks.join_all().await.into_iter().all(|unavailable| unavailable));
    holder.batch_execute("ROLLBACK").await.expect("lets go");
    small.ping().await.expect("answers");
    assert_eq!(small.pool_gauges(), (0, 1));
}

#[tokio::test]
async fn a_caller_that_goes_away_leaves_no_transaction_open() {
    let stage = Stage::set().await;
    let product = stage.product("demo", json!({})).await.id;
    let engine = stage.running(product, "ada").await;
    let small = stage.replica(1);
    let holder = stage.sql().await;
    holder.batch_execute("BEGIN; SELECT 1 FROM engines FOR UPDATE").await.expect("locks");
    let patch = EnginePatch { container_id: Some(Some("half".to_owned())), ..EnginePatch::default() };
    let wanted = change(&engine, patch);
    assert!(tokio::time::timeout(Duration::from_millis(300), small.change(&wanted)).await.is_err());
    holder.batch_execute("ROLLBACK").await.expect("lets go");
    small.ping().await.expect("there is a connection");
    assert_eq!(stage.reread(&engine).await.engine, engine);
    // The server finds out by itself that nobody waits for its answer.
    let left = "SELECT count(*) FROM pg_stat_activity WHERE xact_start IS NOT NULL AND datname = current_database() \
                AND application_name = 'bap-engine-test'";
    let began = Instant::now();
    while stage.count(left).await > 0 {
        assert!(began.elapsed() < Duration::from_secs(20), "a transaction is left");
    }
    changed(small.change(&wanted).await.expect("the row is free"));
}

#[tokio::test]
async fn a_connection_that_owes_an_answer_is_not_handed_out_again() {
    let stage = Stage::set().await;
    let product = stage.product("demo", json!({})).await.id;
    let engine = stage.running(product, "ada").await;
    // One connection: whoever comes next would get it.
    let small = stage.replica(1);
    let holder = stage.sql().await;
    holder.batch_execute("BEGIN; SELECT 1 FROM engines FOR UPDATE").await.expect("locks");
    let wanted = change(&engine, EnginePatch::default());
    assert!(tokio::time::timeout(Duration::from_millis(300), small.change(&wanted)).await.is_err());
    small.ping().await.expect("answers");
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
    assert_eq!(stage.count(waiting).await, 1, "the ping was answered after the statement nobody waits for");
    holder.batch_execute("ROLLBACK").await.expect("lets go");
}
