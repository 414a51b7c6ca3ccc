//! Leases: of an admitted engine against the fence, and of the supervisor.

use super::registry::*;
use contract::{ReplicaId, Timestamp};
use fleet::lifecycle::{Desired, Status};
use fleet::operation::OperationKind;
use orchestrator::registry::{Open, OpenOutcome};
use serde_json::json;
use std::time::Duration;
use testbed::postgres::Version;

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
