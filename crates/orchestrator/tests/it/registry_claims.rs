//! Who may work on an operation, and what an old right to work on it changes.

use super::registry::*;
use contract::{OperationId, ReplicaId};
use fleet::lifecycle::{BackendKind, Desired};
use fleet::operation::{OperationKind, OperationStatus, Step};
use orchestrator::registry::{EnginePatch, Open, OpenOutcome, Outcome, Reach};
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;

#[tokio::test]
async fn a_claim_is_stolen_after_its_lease_and_the_old_one_changes_nothing() {
    let stage = Stage::set().await;
    let product = stage.product("demo", json!({})).await.id;
    let (engine, operation) = stage.engine(product, "ada").await;
    let (first, second) = (ReplicaId::generate(), ReplicaId::generate());
    let registry = &stage.registry;
    let (held, found) = registry
        .claim_next(first, Reach::Backend(BackendKind::Simulated), LEASE)
        .await
        .expect("claims")
        .expect("is free");
    assert_eq!((held.id, held.claim, held.attempt, held.owner), (operation.id, 1, 1, Some(first)));
    assert_eq!(found.operation, Some(held.clone()));
    assert!(
        registry
            .claim_next(second, Reach::Backend(BackendKind::Simulated), LEASE)
            .await
            .expect("looks")
            .is_none()
    );
    assert!(registry.claim(operation.id, second, LEASE).await.expect("looks").is_none());
    assert_eq!(registry.renew(first, &[(operation.id, 1)], LEASE).await, Ok(vec![operation.id]));
    // The first replica freezes; its lease ends.
    stage
        .sql()
        .await
        .execute("UPDATE operations SET lease_until = now() - interval '1 ms'", &[])
        .await
        .expect("ends");
    let (stolen, _) = registry
        .claim_next(second, Reach::Backend(BackendKind::Simulated), LEASE)
        .await
        .expect("claims")
        .expect("is free");
    assert_eq!((stolen.claim, stolen.attempt, stolen.owner), (2, 2, Some(second)));
    // It wakes up: every write under the old claim changes nothing.
    let took = BTreeMap::from([("pull".to_owned(), 700)]);
    assert_eq!(registry.step(operation.id, 1, Step::Create, None, &took).await, Ok(false));
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
    let standing = now.operation.as_ref().map(|o| (o.step, o.claim, o.timings.len()));
    assert_eq!(standing, Some((Step::Pull, 2, 0)));
    // Under the present one they do.
    assert_eq!(
        registry.step(operation.id, 2, Step::Create, Some(&json!({"tries": 1})), &took).await,
        Ok(true)
    );
    let raised = changed(
        registry.raise_generation(operation.id, 2, engine.id, engine.revision).await.expect("raises"),
    );
    assert_eq!((raised.generation, raised.revision), (2, engine.revision + 1));
    let patched = registry
        .patch_under_claim(operation.id, 2, engine.id, raised.revision, &patch)
        .await
        .expect("patches");
    assert_eq!(changed(patched).container_id.as_deref(), Some("x"));
    let more = BTreeMap::from([("create".to_owned(), 30)]);
    assert_eq!(registry.step(operation.id, 2, Step::Boot, None, &more).await, Ok(true));
    let now = stage.reread(&engine).await.operation.expect("is open");
    assert_eq!(now.params, json!({"tries": 1, "generation": 2}));
    let all = BTreeMap::from([("pull".to_owned(), 700), ("create".to_owned(), 30)]);
    assert_eq!(now.timings, all, "the times of a step survive whoever took them");
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
    assert!(
        registry
            .claim_next(me, Reach::Backend(BackendKind::Simulated), LEASE)
            .await
            .expect("looks")
            .is_none()
    );
    let waiting = registry.operation(operation.id).await.expect("reads").expect("exists");
    assert_eq!((waiting.owner, waiting.error_code.as_deref()), (None, Some("BACKEND_ERROR")));
    assert!(waiting.retry_at > Some(registry.now().await.expect("a clock").plus_millis(50_000)));
    stage.sql().await.execute("UPDATE operations SET retry_at = now()", &[]).await.expect("is due");
    assert_eq!(
        registry
            .claim_next(me, Reach::Backend(BackendKind::Simulated), LEASE)
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
    assert!(
        registry.claim_next(me, Reach::Backend(BackendKind::Docker), LEASE).await.expect("looks").is_none()
    );
    assert_eq!(registry.count_other_backends(BackendKind::Docker).await, Ok(2));
    assert_eq!(registry.count_other_backends(BackendKind::Simulated).await, Ok(0));
    let wanted = |kind| Open { backend: Some(kind), ..open(&running, OperationKind::Stop, Desired::Stopped) };
    let refused = registry.open(&wanted(BackendKind::Docker)).await;
    assert!(matches!(refused, Ok(OpenOutcome::OtherBackend(BackendKind::Simulated))), "{refused:?}");
    let now = stage.reread(&running).await;
    assert_eq!((now.engine, now.operation), (running.clone(), None), "a refusal changes nothing");
    opened(registry.open(&wanted(BackendKind::Simulated)).await.expect("opens"));
    let claimed =
        registry.claim_next(me, Reach::Backend(BackendKind::Simulated), LEASE).await.expect("claims");
    assert_eq!(claimed.expect("is free").0.id, operation.id);
    // Owned, and its executor is gone: the same holds.
    let sql = stage.sql().await;
    sql.execute("UPDATE operations SET lease_until = now() WHERE owner IS NOT NULL", &[])
        .await
        .expect("ends");
    let own = async |kind| {
        registry.claim_own(me, &[], Reach::Backend(kind), LEASE).await.expect("looks").map(|o| o.id)
    };
    assert_eq!(own(BackendKind::Docker).await, None);
    assert_eq!(own(BackendKind::Simulated).await, Some(operation.id));
}

#[tokio::test]
async fn while_the_backend_is_away_only_what_needs_none_is_taken_up() {
    let stage = Stage::set().await;
    let product = stage.product("demo", json!({})).await.id;
    let (_, waits) = stage.engine(product, "ada").await;
    let running = stage.running(product, "bob").await;
    let (_, ends) = opened(
        stage.registry.open(&open(&running, OperationKind::Stop, Desired::Stopped)).await.expect("opens"),
    );
    let (registry, me) = (&stage.registry, ReplicaId::generate());
    let away = Reach::WithoutBackend(BackendKind::Simulated);
    assert!(registry.claim_next(me, away, LEASE).await.expect("looks").is_none());
    let claimed = registry.claim(ends.id, me, LEASE).await.expect("claims").expect("is free");
    let step = registry.step(ends.id, claimed.claim, Step::Finish, None, &BTreeMap::new()).await;
    assert_eq!(step, Ok(true));
    let sql = stage.sql().await;
    for owner in ["owner", "NULL"] {
        let ended =
            format!("UPDATE operations SET owner = {owner}, lease_until = now() WHERE step = 'finish'");
        sql.execute(&ended, &[]).await.expect("its lease ends");
        let taken = match owner {
            "NULL" => registry.claim_next(me, away, LEASE).await.expect("looks").map(|(o, _)| o.id),
            _ => registry.claim_own(me, &[], away, LEASE).await.expect("looks").map(|o| o.id),
        };
        assert_eq!(taken, Some(ends.id), "owner: {owner}");
    }
    let back = registry.claim_next(me, Reach::Backend(BackendKind::Simulated), LEASE).await.expect("looks");
    assert_eq!(back.map(|(o, _)| o.id), Some(waits.id));
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
        .claim_next(ReplicaId::generate(), Reach::Backend(BackendKind::Simulated), LEASE)
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
    assert_eq!(registry.step(old.id, 1, Step::Stop, None, &BTreeMap::new()).await, Ok(false));
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
