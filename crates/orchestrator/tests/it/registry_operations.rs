//! Operations, claims, fences and revisions: what is written together, and what an old right to write changes.

use super::registry::*;
use contract::{OperationId, ReplicaId, Timestamp};
use fleet::audit::AuditAction;
use fleet::lifecycle::{BackendKind, Desired, FailureReason, Status};
use fleet::operation::{OperationKind, OperationStatus, Step};
use orchestrator::registry::{
    AuditFilter, EnginePatch, NewOperation, Notice, Open, OpenOutcome, Outcome, RegistryError, SealedKey,
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
async fn a_claim_is_stolen_after_its_lease_and_the_old_one_changes_nothing() {
    let stage = Stage::set().await;
    let product = stage.product("demo", json!({})).await.id;
    let (engine, operation) = stage.engine(product, "ada").await;
    let (first, second) = (ReplicaId::generate(), ReplicaId::generate());
    let registry = &stage.registry;
    let (held, found) =
        registry.claim_next(first, BackendKind::Simulated, LEASE).await.expect("claims").expect("is free");
    assert_eq!((held.id, held.claim, held.attempt, held.owner), (operation.id, 1, 1, Some(first)));
    assert_eq!(found.operation, Some(held.clone()));
    assert!(registry.claim_next(second, BackendKind::Simulated, LEASE).await.expect("looks").is_none());
    assert!(registry.claim(operation.id, second, LEASE).await.expect("looks").is_none());
    assert_eq!(registry.renew(first, &[(operation.id, 1)], LEASE).await, Ok(vec![operation.id]));
    // The first replica freezes; its lease ends.
    stage
        .sql()
        .await
        .execute("UPDATE operations SET lease_until = now() - interval '1 ms'", &[])
        .await
        .expect("ends");
    let (stolen, _) =
        registry.claim_next(second, BackendKind::Simulated, LEASE).await.expect("claims").expect("is free");
    assert_eq!((stolen.claim, stolen.attempt, stolen.owner), (2, 2, Some(second)));
    // It wakes up: every write under the old claim changes nothing.
    assert_eq!(registry.step(operation.id, 1, Step::Create, None).await, Ok(false));
    assert_eq!(registry.renew(first, &[(operation.id, 1)], LEASE).await, Ok(vec![]));
    assert_eq!(registry.release(operation.id, 1).await, Ok(false));
    assert_eq!(registry.postpone(operation.id, 1, LEASE, None).await, Ok(false));
    let patch = EnginePatch { container_id: Some(Some("x".to_owned())), ..EnginePatch::default() };
    let patched = registry.patch_under_claim(operation.id, 1, engine.id, engine.revision, &patch).await;
    assert!(matches!(patched, Ok(Outcome::Unchanged)));
    let raised = registry.raise_generation(operation.id, 1, engine.id, engine.revision).await;
    assert!(matches!(raised, Ok(Outcome::Unchanged)));
    assert!(matches!(registry.finish(&finish(&operation, 1, &engine)).await, Ok(Outcome::Unchanged)));
    let now = stage.reread(&engine).await;
    assert_eq!(now.engine, engine);
    assert_eq!(now.operation.as_ref().map(|o| (o.step, o.claim)), Some((Step::Pull, 2)));
    // Under the present one they do.
    assert_eq!(registry.step(operation.id, 2, Step::Create, Some(&json!({"tries": 1}))).await, Ok(true));
    let raised = changed(
        registry.raise_generation(operation.id, 2, engine.id, engine.revision).await.expect("raises"),
    );
    assert_eq!((raised.generation, raised.revision), (2, engine.revision + 1));
    let patched = registry
        .patch_under_claim(operation.id, 2, engine.id, raised.revision, &patch)
        .await
        .expect("patches");
    assert_eq!(changed(patched).container_id.as_deref(), Some("x"));
    let params = stage.reread(&engine).await.operation.expect("is open").params;
    assert_eq!(params, json!({"tries": 1, "generation": 2}));
}

#[tokio::test]
async fn a_postponed_operation_waits_and_a_released_one_does_not() {
    let stage = Stage::set().await;
    let product = stage.product("demo", json!({})).await.id;
    let (_, operation) = stage.engine(product, "ada").await;
    let me = ReplicaId::generate();
    let registry = &stage.registry;
    registry.claim(operation.id, me, LEASE).await.expect("claims").expect("is free");
    assert_eq!(registry.release(operation.id, 1).await, Ok(true));
    let again = registry.claim(operation.id, me, LEASE).await.expect("claims").expect("is free at once");
    let why = Some(("BACKEND_ERROR", "the daemon does not answer"));
    assert_eq!(registry.postpone(operation.id, again.claim, Duration::from_secs(60), why).await, Ok(true));
    assert!(registry.claim_next(me, BackendKind::Simulated, LEASE).await.expect("looks").is_none());
    let waiting = registry.operation(operation.id).await.expect("reads").expect("exists");
    assert_eq!((waiting.owner, waiting.error_code.as_deref()), (None, Some("BACKEND_ERROR")));
    assert!(waiting.retry_at > Some(registry.now().await.expect("a clock").plus_millis(50_000)));
    stage.sql().await.execute("UPDATE operations SET retry_at = now()", &[]).await.expect("is due");
    assert_eq!(
        registry
            .claim_next(me, BackendKind::Simulated, LEASE)
            .await
            .expect("claims")
            .expect("is due")
            .0
            .claim,
        3
    );
}

#[tokio::test]
async fn engines_of_another_backend_are_left_alone() {
    let stage = Stage::set().await;
    let product = stage.product("demo", json!({})).await.id;
    let (_, operation) = stage.engine(product, "ada").await;
    let running = stage.running(product, "bob").await;
    let (registry, me) = (&stage.registry, ReplicaId::generate());
    assert!(registry.claim_next(me, BackendKind::Docker, LEASE).await.expect("looks").is_none());
    assert_eq!(registry.count_other_backends(BackendKind::Docker).await, Ok(2));
    assert_eq!(registry.count_other_backends(BackendKind::Simulated).await, Ok(0));
    let wanted = |kind| Open { backend: Some(kind), ..open(&running, OperationKind::Stop, Desired::Stopped) };
    let refused = registry.open(&wanted(BackendKind::Docker)).await;
    assert!(matches!(refused, Ok(OpenOutcome::OtherBackend(BackendKind::Simulated))), "{refused:?}");
    let now = stage.reread(&running).await;
    assert_eq!((now.engine, now.operation), (running.clone(), None), "a refusal changes nothing");
    opened(registry.open(&wanted(BackendKind::Simulated)).await.expect("opens"));
    let claimed = registry.claim_next(me, BackendKind::Simulated, LEASE).await.expect("claims");
    assert_eq!(claimed.expect("is free").0.id, operation.id);
    // Owned, and its executor is gone: the same holds.
    let sql = stage.sql().await;
    sql.execute("UPDATE operations SET lease_until = now() WHERE owner IS NOT NULL", &[])
        .await
        .expect("ends");
    let own = async |kind| registry.claim_own(me, &[], kind, LEASE).await.expect("looks").map(|o| o.id);
    assert_eq!(own(BackendKind::Docker).await, None);
    assert_eq!(own(BackendKind::Simulated).await, Some(operation.id));
}

#[tokio::test]
async fn an_operation_that_cannot_be_performed_is_closed_by_its_claim_only() {
    let stage = Stage::set().await;
    let product = stage.product("demo", json!({})).await.id;
    let (_, operation) = stage.engine(product, "ada").await;
    let registry = &stage.registry;
    let claim = registry.claim(operation.id, ReplicaId::generate(), LEASE).await.expect("claims");
    let claim = claim.expect("is free").claim;
    let told = ("INTERNAL", "damaged");
    assert_eq!(registry.close_broken(operation.id, claim - 1, told).await, Ok(false));
    assert_eq!(registry.close_broken(operation.id, claim, told).await, Ok(true));
    assert_eq!(registry.close_broken(operation.id, claim, told).await, Ok(false));
    let closed = registry.operation(operation.id).await.expect("reads").expect("exists");
    assert_eq!((closed.status, closed.error_code.as_deref()), (OperationStatus::Failed, Some("INTERNAL")));
}

#[tokio::test]
async fn an_operation_without_an_engine_is_closed_and_does_not_hold_up_others() {
    let stage = Stage::set().await;
    let product = stage.product("demo", json!({})).await.id;
    let (lost, orphan) = stage.engine(product, "ada").await;
    let (_, other) = stage.engine(product, "bob").await;
    stage
        .sql()
        .await
        .execute("DELETE FROM engines WHERE id = $1", &[&lost.id.uuid()])
        .await
        .expect("deletes");
    let (claimed, _) = stage
        .registry
        .claim_next(ReplicaId::generate(), BackendKind::Simulated, LEASE)
        .await
        .expect("claims")
        .expect("one is due");
    assert_eq!(claimed.id, other.id);
    let closed = stage.registry.operation(orphan.id).await.expect("reads").expect("exists");
    assert_eq!(
        (closed.status, closed.error_code.as_deref()),
        (OperationStatus::Failed, Some("ENGINE_NOT_FOUND"))
    );
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

    sql.batch_execute("DROP TRIGGER refuse ON audit_log").await.expect("drops the trigger");
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
async fn the_fence_passes_only_without_a_lease() {
    let stage = Stage::set().await;
    let product = stage.product("demo", json!({})).await.id;
    let engine = stage.running(product, "ada").await;
    let registry = &stage.registry;
    let until =
        registry.take_lease(engine.id, Duration::from_secs(30)).await.expect("takes").expect("is running");
    let shorter =
        registry.take_lease(engine.id, Duration::from_secs(5)).await.expect("takes").expect("is running");
    assert_eq!(shorter, until, "a lease is never shortened");
    let fenced = async |t0: Timestamp| {
        let wanted = Open { fence: Some(t0), ..open(&engine, OperationKind::Sleep, Desired::Sleeping) };
        registry.open(&wanted).await.expect("an answer")
    };
    assert!(matches!(fenced(registry.now().await.expect("a clock")).await, OpenOutcome::Unchanged));
    // The lease ended, but less than two seconds before t0.
    assert!(matches!(fenced(until.plus_millis(1_999)).await, OpenOutcome::Unchanged));
    assert_eq!(stage.count("SELECT count(*) FROM operations WHERE status = 'open'").await, 0);
    let (engine, operation) = opened(fenced(until.plus_millis(2_002)).await);
    assert_eq!((engine.status, engine.desired), (Status::Running, Desired::Sleeping));
    assert_eq!(operation.kind, OperationKind::Sleep);
    assert_eq!(
        registry.take_lease(engine.id, LEASE).await,
        Ok(None),
        "no lease on an engine that goes to sleep"
    );
}

#[tokio::test]
async fn a_lease_and_a_fence_never_both_succeed() {
    let stage = Stage::set().await;
    let product = stage.product("demo", json!({})).await.id;
    let mut both_ways = [0, 0];
    for n in 0..20 {
        let engine = stage.running(product, &format!("user-{n}")).await;
        let t0 = stage.registry.now().await.expect("a clock");
        let (one, other) = (stage.replica(1), stage.replica(1));
        // Connections that stand make the race one of statements.
        one.ping().await.expect("answers");
        other.ping().await.expect("answers");
        let wanted = Open { fence: Some(t0), ..open(&engine, OperationKind::Sleep, Desired::Sleeping) };
        let (lease, fence) = tokio::join!(one.take_lease(engine.id, LEASE), other.open(&wanted));
        let (leased, slept) =
            (lease.expect("an answer").is_some(), matches!(fence, Ok(OpenOutcome::Opened(_))));
        assert!(leased != slept, "lease {leased}, fence {slept}");
        both_ways[usize::from(leased)] += 1;
    }
    assert_eq!(both_ways.iter().sum::<i32>(), 20);
}

#[tokio::test]
async fn superseded_operation_lets_go_before_its_successor_acts() {
    let stage = Stage::set().await;
    let product = stage.product("demo", json!({})).await.id;
    let engine = stage.running(product, "ada").await;
    let me = ReplicaId::generate();
    let registry = &stage.registry;
    let mut stop = open(&engine, OperationKind::Stop, Desired::Stopped);
    stop.operation.owner = Some((me, LEASE));
    let (engine, old) = opened(registry.open(&stop).await.expect("opens"));
    assert_eq!((old.claim, old.owner), (1, Some(me)));
    assert_eq!(registry.settled(old.id).await, Ok(Some(false)));

    let mut start = open(&engine, OperationKind::Start, Desired::Running);
    start.supersede = Some(OperationId::generate());
    assert!(matches!(registry.open(&start).await, Ok(OpenOutcome::Unchanged)), "nothing to supersede");
    start.supersede = Some(old.id);
    let (_, new) = opened(registry.open(&start).await.expect("opens"));
    assert_eq!(stage.reread(&engine).await.operation.map(|o| o.id), Some(new.id));
    let superseded = registry.operation(old.id).await.expect("reads").expect("exists");
    assert_eq!((superseded.status, superseded.lease_until), (OperationStatus::Superseded, old.lease_until));
    // The old executor may neither go on nor prolong, and its successor waits until it has let go.
    assert_eq!(registry.step(old.id, 1, Step::Stop, None).await, Ok(false));
    assert_eq!(registry.renew(me, &[(old.id, 1)], LEASE).await, Ok(vec![]));
    assert_eq!(registry.settled(old.id).await, Ok(Some(false)));
    assert_eq!(
        registry.let_go(old.id, ReplicaId::generate()).await,
        Ok(false),
        "only its own executor lets go"
    );
    assert_eq!(registry.let_go(old.id, me).await, Ok(true));
    assert_eq!(registry.settled(old.id).await, Ok(Some(true)));
    assert_eq!(registry.let_go(old.id, me).await, Ok(false));
    assert_eq!(registry.settled(OperationId::generate()).await, Ok(None));
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

async fn supervisor_lease(version: Version) {
    let stage = Stage::set_on(version).await;
    let (one, other) = (ReplicaId::generate(), ReplicaId::generate());
    let (first, second) = (stage.replica(1), stage.replica(1));
    let ttl = Duration::from_secs(60);
    assert_eq!(first.lease_holder().await, Ok(None));
    assert_eq!(first.try_lease(one, "one", ttl).await, Ok(Some(1)));
    assert_eq!(second.try_lease(other, "other", ttl).await, Ok(None));
    assert_eq!(first.try_lease(one, "one", ttl).await, Ok(Some(1)), "a renewal keeps the epoch");
    let (holder, expires) = second.lease_holder().await.expect("reads").expect("is held");
    assert_eq!(holder, one);
    assert!(expires > second.now().await.expect("a clock").plus_millis(50_000));
    assert_eq!(second.release_lease(other).await, Ok(false), "not theirs");
    assert_eq!(first.release_lease(one).await, Ok(true));
    assert_eq!(second.try_lease(other, "other", ttl).await, Ok(Some(2)));
    assert_eq!(first.try_lease(one, "one", ttl).await, Ok(None));
    // Its holder dies; the lease ends by the database clock alone.
    stage
        .sql()
        .await
        .execute("UPDATE leases SET expires_at = now() - interval '1 ms'", &[])
        .await
        .expect("ends");
    assert_eq!(first.release_lease(other).await, Ok(false), "already over");
    assert_eq!(first.try_lease(one, "one", ttl).await, Ok(Some(3)));
    // Many at once: one holder.
    stage
        .sql()
        .await
        .execute("UPDATE leases SET expires_at = now() - interval '1 ms'", &[])
        .await
        .expect("ends");
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let replica = stage.registry.clone();
        tasks.spawn(
            async move { replica.try_lease(ReplicaId::generate(), "x", ttl).await.expect("an answer") },
        );
    }
    assert_eq!(tasks.join_all().await.into_iter().flatten().collect::<Vec<_>>(), [4]);
}

#[tokio::test]
async fn the_supervisor_lease_has_one_holder_and_growing_epochs() {
    supervisor_lease(Version::V18).await;
}

#[tokio::test]
async fn the_supervisor_lease_works_on_the_oldest_server() {
    supervisor_lease(Version::V16).await;
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
