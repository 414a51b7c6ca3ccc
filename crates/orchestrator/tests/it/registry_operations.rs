//! Operations and changes of engines: what is written together, under which guard, and who is told.

use super::registry::*;
use contract::{OperationId, ReplicaId};
use fleet::audit::AuditAction;
use fleet::lifecycle::{Desired, FailureReason, Status};
use fleet::operation::{OperationKind, OperationStatus, Step};
use orchestrator::registry::{
    AuditFilter, EnginePatch, NewOperation, Notice, OpenOutcome, Outcome, RegistryError, SealedKey,
};
use serde_json::json;
use std::time::Duration;
use testbed::postgres::Version;

async fn one_open(version: Version) {
    let stage = Stage::set_on(version).await;
    let product = stage.product("demo", json!({})).await.id;
    let engine = stage.running(product, "ada").await;
    let replicas = [stage.replica(8), stage.replica(8)];
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..40 {
        let (replica, wanted) =
            (replicas[n % 2].clone(), open(&engine, OperationKind::Stop, Desired::Stopped));
        tasks.spawn(async move { replica.open(&wanted).await.expect("an answer") });
    }
    let outcomes = tasks.join_all().await;
    assert_eq!(outcomes.iter().filter(|o| matches!(o, OpenOutcome::Opened(_))).count(), 1);
    assert_eq!(outcomes.iter().filter(|o| matches!(o, OpenOutcome::Unchanged)).count(), 39);
    assert_eq!(stage.count("SELECT count(*) FROM operations WHERE status = 'open'").await, 1);
    let found = stage.reread(&engine).await;
    assert_eq!((found.engine.desired, found.engine.revision), (Desired::Stopped, engine.revision + 1));
    // With the right revision, too: there is an open operation already, and nothing of the change stays.
    let second = stage.registry.open(&open(&found.engine, OperationKind::Start, Desired::Running)).await;
    assert!(matches!(second, Ok(OpenOutcome::Unchanged)));
    assert_eq!(stage.reread(&engine).await.engine, found.engine);
}

#[tokio::test]
async fn at_most_one_operation_is_open_per_engine() {
    one_open(Version::V18).await;
}

#[tokio::test]
async fn at_most_one_operation_is_open_on_the_oldest_server() {
    one_open(Version::V16).await;
}

#[tokio::test]
async fn finish_writes_everything_or_nothing() {
    let stage = Stage::set().await;
    let product = stage.product("demo", json!({})).await.id;
    let (engine, operation) = stage.engine(product, "ada").await;
    let claim = stage
        .registry
        .claim(operation.id, ReplicaId::generate(), LEASE)
        .await
        .expect("claims")
        .expect("free")
        .claim;
    let sql = stage.sql().await;
    sql.batch_execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS \
         $$ BEGIN RAISE EXCEPTION 'the disk of the log is full'; END $$; \
         CREATE TRIGGER refuse BEFORE INSERT ON audit_log FOR EACH ROW EXECUTE FUNCTION refuse()",
    )
    .await
    .expect("makes a trigger");
    let mut end = finish(&operation, claim, &engine);
    end.patch =
        EnginePatch { status: Some(Status::Running), boot_duration_ms: Some(1), ..EnginePatch::default() };
    end.count_provision = true;
    end.audit = vec![about(&engine, AuditAction::Provision, json!({"boot_ms": 1}))];
    end.timings = [("boot".to_owned(), 1)].into();
    let error = stage.registry.finish(&end).await.expect_err("the log refuses");
    assert!(
        matches!(&error, RegistryError::Defect(text) if text.contains("the disk of the log is full")),
        "{error}"
    );
    let now = stage.reread(&engine).await;
    assert_eq!(now.engine, engine);
    assert_eq!(now.operation.map(|o| o.status), Some(OperationStatus::Open));
    assert_eq!(stage.count("SELECT total_provisions FROM products").await, 0);

    // The function changes, not the trigger: DROP TRIGGER would want the table to itself.
    let agree =
        "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$";
    sql.batch_execute(agree).await.expect("the log takes rows again");
    let done = changed(stage.registry.finish(&end).await.expect("finishes")).expect("the engine stays");
    assert_eq!(
        (done.status, done.boot_duration_ms, done.revision),
        (Status::Running, Some(1), engine.revision + 1)
    );
    assert!(done.status_since > engine.status_since);
    assert_eq!(stage.count("SELECT total_provisions FROM products").await, 1);
    let rows =
        stage.registry.audit(&AuditFilter { engine: Some(engine.id), ..Default::default() }, 10, None).await;
    assert_eq!(rows.expect("reads").len(), 1);
    // Twice is once.
    assert!(matches!(stage.registry.finish(&end).await, Ok(Outcome::Unchanged)));
    assert_eq!(stage.count("SELECT total_provisions FROM products").await, 1);
    assert_eq!(stage.registry.last_boots(20).await, Ok(vec![1]));
}

#[tokio::test]
async fn a_failed_finish_keeps_the_reason_and_the_next_attempt() {
    let stage = Stage::set().await;
    let product = stage.product("demo", json!({})).await.id;
    let (engine, operation) = stage.engine(product, "ada").await;
    let claim = stage
        .registry
        .claim(operation.id, ReplicaId::generate(), LEASE)
        .await
        .expect("claims")
        .expect("free")
        .claim;
    let long = format!("no\0thing {}", "x".repeat(600));
    let mut end = finish(&operation, claim, &engine);
    end.succeeded = false;
    end.error = Some(("BOOT_TIMEOUT".to_owned(), "not healthy in 60 s".to_owned()));
    end.params = Some(json!({"rolled_back": true}));
    end.patch = EnginePatch {
        status: Some(Status::Failed),
        failure: Some(Some((FailureReason::BootTimeout, long))),
        next_restart_in: Some(Some(Duration::from_secs(5))),
        ..EnginePatch::default()
    };
    let failed = changed(stage.registry.finish(&end).await.expect("finishes")).expect("the engine stays");
    let message = failed.failure_message.expect("has a message");
    assert_eq!((failed.failure_code, message.chars().count()), (Some(FailureReason::BootTimeout), 500));
    assert!(message.starts_with("no\u{fffd}thing"));
    let now = stage.registry.now().await.expect("a clock");
    let due = failed.next_restart_at.expect("is planned");
    assert!(due > now && due <= now.plus_millis(5000), "{due} at {now}");
    let ended = stage.registry.operation(operation.id).await.expect("reads").expect("exists");
    assert_eq!((ended.status, ended.error_code.as_deref()), (OperationStatus::Failed, Some("BOOT_TIMEOUT")));
    assert_eq!(ended.params, json!({"rolled_back": true}));
    assert!(ended.finished_at.is_some());
}

#[tokio::test]
async fn destroy_deletes_the_row_and_keeps_the_history() {
    let stage = Stage::set().await;
    let product = stage.product("demo", json!({})).await.id;
    let engine = stage.running(product, "ada").await;
    let mut wanted = open(&engine, OperationKind::Destroy, Desired::Destroyed);
    wanted.patch.status = Some(Status::Destroying);
    let (engine, operation) = opened(stage.registry.open(&wanted).await.expect("opens"));
    let claim = stage
        .registry
        .claim(operation.id, ReplicaId::generate(), LEASE)
        .await
        .expect("claims")
        .expect("free")
        .claim;
    let mut end = finish(&operation, claim, &engine);
    (end.delete_engine, end.count_destroy) = (true, true);
    end.audit = vec![about(&engine, AuditAction::Destroy, json!({"age_s": 1}))];
    let stale = orchestrator::registry::Finish { revision: engine.revision - 1, ..end.clone() };
    assert!(matches!(stage.registry.finish(&stale).await, Ok(Outcome::Unchanged)));
    assert_eq!(changed(stage.registry.finish(&end).await.expect("finishes")), None);
    assert!(stage.registry.found(engine.id).await.expect("reads").is_none());
    assert_eq!(stage.count("SELECT count(*) FROM engine_vitals").await, 0);
    assert_eq!(stage.count("SELECT total_destroys FROM products").await, 1);
    let ended = stage.registry.operation(operation.id).await.expect("reads").expect("outlives the engine");
    assert_eq!(ended.status, OperationStatus::Succeeded);
    stage.engine(product, "ada").await;
}

#[tokio::test]
async fn legal_pairs_only() {
    let stage = Stage::set().await;
    let product = stage.product("demo", json!({})).await.id;
    let engine = stage.running(product, "ada").await;
    let sql = stage.sql().await;
    for &status in Status::ALL {
        for &desired in Desired::ALL {
            let before = stage.reread(&engine).await.engine;
            let patch =
                EnginePatch { status: Some(status), desired: Some(desired), ..EnginePatch::default() };
            let outcome = stage.registry.change(&change(&before, patch)).await;
            if fleet::lifecycle::is_legal(status, desired) {
                let now = changed(outcome.expect("is legal"));
                assert_eq!((now.status, now.desired), (status, desired));
            } else {
                assert!(matches!(outcome, Err(RegistryError::Defect(_))), "{status}–{desired}: {outcome:?}");
                assert_eq!(stage.reread(&engine).await.engine, before, "{status}–{desired}");
            }
        }
    }
    // Half a pair is judged by what the row then holds.
    sql.execute("UPDATE engines SET status = 'failed', desired = 'running'", &[]).await.expect("sets");
    let failed = stage.reread(&engine).await.engine;
    let outcome = stage.registry.change(&change(&failed, desire(Desired::Sleeping))).await;
    assert!(matches!(outcome, Err(RegistryError::Defect(_))), "{outcome:?}");
}

#[tokio::test]
async fn a_change_needs_the_present_revision_and_no_open_operation() {
    let stage = Stage::set().await;
    let product = stage.product("demo", json!({})).await.id;
    let engine = stage.running(product, "ada").await;
    let crash = EnginePatch {
        status: Some(Status::Failed),
        failure: Some(Some((FailureReason::Crashed, "exit code 1".to_owned()))),
        ..EnginePatch::default()
    };
    let mut wanted = change(&engine, crash.clone());
    wanted.audit = vec![about(
        &engine,
        AuditAction::HealthFailed,
        json!({"reason": "crashed", "from": "running", "to": "failed"}),
    )];
    let mut stale = wanted.clone();
    stale.revision -= 1;
    assert!(matches!(stage.registry.change(&stale).await, Ok(Outcome::Unchanged)));
    let (engine, _) = opened(
        stage.registry.open(&open(&engine, OperationKind::RotateKey, Desired::Running)).await.expect("opens"),
    );
    wanted.revision = engine.revision;
    assert!(matches!(stage.registry.change(&wanted).await, Ok(Outcome::Unchanged)), "an operation is open");
    wanted.only_without_operation = false;
    let failed = changed(stage.registry.change(&wanted).await.expect("changes"));
    assert_eq!(failed.failure_code, Some(FailureReason::Crashed));
    assert_eq!(stage.registry.metrics(product).await.expect("counts").crashes_1h, 1);
    let mut missing = wanted.clone();
    missing.engine_id = contract::EngineId::generate();
    assert!(matches!(stage.registry.change(&missing).await, Ok(Outcome::Missing)));
    // Metadata that is not of the action's shape is refused before anything is written.
    let mut leaking = change(&failed, EnginePatch::default());
    leaking.audit = vec![about(&failed, AuditAction::Stop, json!({"engine_key": "sk-sept-1"}))];
    assert!(matches!(stage.registry.change(&leaking).await, Err(RegistryError::Defect(_))));
    assert_eq!(stage.reread(&failed).await.engine, failed);
}

#[tokio::test]
async fn a_next_key_is_promoted_or_dropped_as_a_whole() {
    let stage = Stage::set().await;
    let product = stage.product("demo", json!({})).await.id;
    let engine = stage.running(product, "ada").await;
    let next = EnginePatch { next_key: Some(Some(key("next"))), ..EnginePatch::default() };
    let rotating = changed(stage.registry.change(&change(&engine, next)).await.expect("changes"));
    assert_eq!(rotating.next_key, Some(key("next")));
    let mut seen = Vec::new();
    stage.registry.keys(|id, key, next| seen.push((id, key, next))).await.expect("walks");
    assert_eq!(seen, vec![(engine.id, key("engine"), Some(key("next")))]);
    let reseal = async |old: &str, next| stage.registry.reseal(engine.id, old, "sealed-anew", next).await;
    assert_eq!(reseal("sealed-other", true).await, Ok(false), "compare and swap");
    assert_eq!(reseal("sealed-next", true).await, Ok(true));
    let promote = EnginePatch { promote_next_key: true, ..EnginePatch::default() };
    let rotated =
        changed(stage.registry.change(&change(&rotating, promote)).await.expect("the revision is the same"));
    assert_eq!(rotated.key, SealedKey { hash: hash_of("next"), sealed: "sealed-anew".to_owned() });
    assert_eq!(rotated.next_key, None);
    assert!(rotated.key_rotated_at.is_some());

    let repair = NewOperation { step: Step::Open, ..new_operation(OperationKind::Recreate) };
    let log = [about(&rotated, AuditAction::RotateKey, json!({"reissued": true}))];
    let replaced =
        stage.registry.replace_key(engine.id, rotated.revision, &key("new"), Some(&repair), &log).await;
    assert_eq!(changed(replaced.expect("replaces")).key, key("new"));
    let again =
        stage.registry.replace_key(engine.id, rotated.revision + 1, &key("newer"), Some(&repair), &log).await;
    assert!(matches!(again, Ok(Outcome::Unchanged)), "its operation is still open");
    assert_eq!(stage.reread(&engine).await.engine.key, key("new"));
}

#[tokio::test]
async fn notifications_come_with_the_commit_and_never_without_it() {
    let stage = Stage::set().await;
    let product = stage.product("demo", json!({})).await.id;
    let engine = stage.running(product, "ada").await;
    let mut notices = stage.replica(1).listen();
    let next = async |notices: &mut tokio::sync::mpsc::Receiver<Notice>| {
        tokio::time::timeout(Duration::from_secs(10), notices.recv())
            .await
            .expect("in time")
            .expect("the task lives")
    };
    assert_eq!(next(&mut notices).await, Notice::Reconnected);
    // Refused in the middle, after its notices were queued in the transaction.
    let illegal = change(&engine, desire(Desired::Destroyed));
    assert!(stage.registry.change(&illegal).await.is_err());
    let mut refused = open(&engine, OperationKind::Start, Desired::Stopped);
    refused.supersede = Some(OperationId::generate());
    assert!(matches!(stage.registry.open(&refused).await, Ok(OpenOutcome::Unchanged)));
    // Leases tell nobody.
    stage.registry.take_lease(engine.id, LEASE).await.expect("takes");
    let (stopping, operation) = opened(
        stage.registry.open(&open(&engine, OperationKind::Stop, Desired::Stopped)).await.expect("opens"),
    );
    let heard = [next(&mut notices).await, next(&mut notices).await, next(&mut notices).await];
    let status = OperationStatus::Open;
    assert_eq!(
        heard,
        [
            Notice::Engine { id: engine.id, product, revision: stopping.revision },
            Notice::Operation { id: operation.id, engine: engine.id, status },
            Notice::Queue,
        ]
    );
    let me = ReplicaId::generate();
    stage.registry.try_lease(me, "one", LEASE).await.expect("takes");
    assert_eq!(stage.registry.release_lease(me).await, Ok(true));
    assert_eq!(next(&mut notices).await, Notice::Lease);
}

#[tokio::test]
async fn deadlocks_are_retried() {
    let stage = Stage::set().await;
    let product = stage.product("demo", json!({})).await.id;
    let engine = stage.running(product, "ada").await;
    let (engine, operation) = opened(
        stage.registry.open(&open(&engine, OperationKind::Stop, Desired::Stopped)).await.expect("opens"),
    );
    let claim = stage
        .registry
        .claim(operation.id, ReplicaId::generate(), LEASE)
        .await
        .expect("claims")
        .expect("free")
        .claim;
    // Somebody locks in the wrong order: operation first, then engine, with patience enough not to be the victim.
    let stranger = stage.sql().await;
    stranger.batch_execute("SET deadlock_timeout = '60s'; BEGIN").await.expect("begins");
    stranger
        .execute("SELECT 1 FROM operations WHERE id = $1 FOR UPDATE", &[&operation.id.uuid()])
        .await
        .expect("locks");
    let mut end = finish(&operation, claim, &engine);
    end.patch.status = Some(Status::Stopped);
    let registry = stage.registry.clone();
    let finishing = tokio::spawn(async move { registry.finish(&end).await });
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
    for left in 0..500 {
        if stage.count(waiting).await > 0 {
            break;
        }
        assert!(left < 499, "finish never waited");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    stranger
        .execute("SELECT 1 FROM engines WHERE id = $1 FOR UPDATE", &[&engine.id.uuid()])
        .await
        .expect("wins");
    stranger.batch_execute("COMMIT").await.expect("commits");
    let stopped = changed(finishing.await.expect("no panic").expect("the second try passes")).expect("stays");
    assert_eq!(stopped.status, Status::Stopped);
}
