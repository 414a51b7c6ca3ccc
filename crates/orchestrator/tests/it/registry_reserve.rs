//! Reserving engines: quota, ports, idempotency; a refusal leaves nothing.

use super::registry::*;
use contract::EngineId;
use orchestrator::registry::{DeletionMark, ProductRef, RepickOutcome, Reserve, ReserveOutcome};
use serde_json::json;
use std::collections::BTreeSet;
use std::time::Duration;
use testbed::postgres::Version;

async fn quota_holds(version: Version) {
    let stage = Stage::set_on(version).await;
    let product = stage.product("demo", json!({"max_engines": 10})).await.id;
    let replicas = [stage.replica(8), stage.replica(8), stage.replica(8)];
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..200 {
        let replica = replicas[n % 3].clone();
        tasks.spawn(async move {
            replica.reserve(&wish(product, &format!("user-{n}"))).await.expect("an answer")
        });
    }
    let (mut reserved, mut refused) = (0, 0);
    for outcome in tasks.join_all().await {
        match outcome {
            ReserveOutcome::Reserved(_) => reserved += 1,
            ReserveOutcome::QuotaExceeded(limit) => {
                assert_eq!(limit, 10);
                refused += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((reserved, refused), (10, 190));
    assert_eq!(stage.registry.count_engines(product).await.expect("counts"), 10);
    for table in ["engine_vitals", "operations"] {
        assert_eq!(stage.count(&format!("SELECT count(*) FROM {table}")).await, 10, "{table}");
    }
}

#[tokio::test]
async fn quota_of_ten_under_two_hundred_reserves_is_exactly_ten() {
    quota_holds(Version::V18).await;
}

#[tokio::test]
async fn quota_of_ten_holds_on_the_oldest_server() {
    quota_holds(Version::V16).await;
}

fn in_range(mut wanted: Reserve, ports: (u16, u16)) -> Reserve {
    wanted.ports = Some(ports);
    wanted
}

#[tokio::test]
async fn ports_are_never_given_twice_and_run_out_clearly() {
    let stage = Stage::set().await;
    // Several products: one product's reservations already wait for each other.
    let mut products = Vec::new();
    for n in 0..6 {
        products.push(stage.product(&format!("demo-{n}"), json!({})).await.id);
    }
    let replicas = [stage.replica(6), stage.replica(6)];
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..60 {
        let replica = replicas[n % 2].clone();
        let wanted = in_range(wish(products[n % 6], &format!("user-{n}")), (9001, 9040));
        tasks.spawn(async move { replica.reserve(&wanted).await.expect("an answer") });
    }
    let (mut ports, mut none) = (Vec::new(), 0);
    for outcome in tasks.join_all().await {
        match outcome {
            ReserveOutcome::Reserved(both) => ports.push(both.0.port.expect("has a port")),
            ReserveOutcome::NoPort => none += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((ports.len(), none), (40, 20));
    assert_eq!(ports.into_iter().collect::<BTreeSet<_>>(), (9001..=9040).collect());
    assert_eq!(stage.registry.ports_used().await.expect("counts"), 40);
}

#[tokio::test]
async fn the_next_port_is_the_next_one_not_the_one_just_given_back() {
    let stage = Stage::set().await;
    let product = stage.product("demo", json!({})).await.id;
    let sql = stage.sql().await;
    let take = async |name: &str| {
        let wanted = in_range(wish(product, name), (9001, 9003));
        match stage.registry.reserve(&wanted).await.expect("an answer") {
            ReserveOutcome::Reserved(both) => both.0.port.expect("has a port"),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!([take("a").await, take("b").await], [9001, 9002]);
    sql.execute("DELETE FROM engines WHERE user_id = 'a'", &[]).await.expect("deletes");
    assert_eq!([take("c").await, take("d").await], [9003, 9001]);
}

#[tokio::test]
async fn a_stolen_port_is_set_aside_and_another_one_taken() {
    let stage = Stage::set().await;
    let product = stage.product("demo", json!({})).await.id;
    let (engine, _) = stage.engine(product, "ada").await;
    let ten_minutes = Duration::from_secs(600);
    let repick = async |revision, to| {
        stage.registry.repick_port(engine.id, revision, (9001, to), ten_minutes, "taken by a stranger").await
    };
    assert!(matches!(repick(engine.revision + 1, 9002).await, Ok(RepickOutcome::Unchanged)));
    assert!(matches!(repick(engine.revision, 9001).await, Ok(RepickOutcome::NoPort)));
    assert_eq!(stage.count("SELECT count(*) FROM quarantined_ports").await, 0, "a refusal changes nothing");
    let Ok(RepickOutcome::Changed(moved)) = repick(engine.revision, 9002).await else { panic!("not moved") };
    assert_eq!((moved.port, moved.revision), (Some(9002), engine.revision + 1));
    // 9001 is free of engines and still not given out.
    let wanted = in_range(wish(product, "bob"), (9001, 9002));
    assert!(matches!(stage.registry.reserve(&wanted).await, Ok(ReserveOutcome::NoPort)));
    let sql = stage.sql().await;
    sql.execute("UPDATE quarantined_ports SET until = now() - interval '1 second'", &[]).await.expect("ends");
    assert_eq!(stage.registry.housekeeping().await.expect("sweeps").quarantines, 1);
    assert!(matches!(stage.registry.reserve(&wanted).await, Ok(ReserveOutcome::Reserved(_))));
    let stranger = stage.registry.repick_port(EngineId::generate(), 1, (9001, 9002), ten_minutes, "x").await;
    assert!(matches!(stranger, Ok(RepickOutcome::Missing)));
}

#[tokio::test]
async fn no_engine_slips_into_a_product_that_is_being_deleted() {
    let stage = Stage::set().await;
    let replica = stage.replica(4);
    for round in 0..20 {
        let product = stage.product(&format!("demo-{round}"), json!({})).await.id;
        let wanted = wish(product, "ada");
        let (reserved, marked) =
            tokio::join!(replica.reserve(&wanted), stage.registry.mark_deleting(product, false));
        let engines = stage.registry.count_engines(product).await;
        match marked.expect("an answer") {
            DeletionMark::Deleting(0) => {
                assert!(matches!(reserved, Ok(ReserveOutcome::ProductGone)), "{reserved:?}");
                assert_eq!(engines, Ok(0));
            }
            DeletionMark::EnginesLeft(1) => {
                assert!(matches!(reserved, Ok(ReserveOutcome::Reserved(_))), "{reserved:?}");
                let still = stage.registry.product(&ProductRef::Id(product)).await.expect("reads");
                assert!(!still.expect("is there").deleting, "a refusal changes nothing");
                assert_eq!(stage.registry.mark_deleting(product, true).await, Ok(DeletionMark::Deleting(1)));
            }
            other => panic!("{other:?}"),
        }
    }
    let nobody = stage.registry.mark_deleting(contract::ProductId::generate(), true).await;
    assert_eq!(nobody, Ok(DeletionMark::Missing));
}

#[tokio::test]
async fn a_refused_reservation_leaves_nothing() {
    let stage = Stage::set().await;
    let full = stage.product("full", json!({"max_engines": 0})).await.id;
    let gone = stage.product("gone", json!({})).await.id;
    assert!(stage.registry.mark_deleting(gone, false).await.expect("marks") == DeletionMark::Deleting(0));
    let demo = stage.product("demo", json!({})).await.id;
    stage.engine(demo, "ada").await;
    let reserve = async |wanted: Reserve| stage.registry.reserve(&wanted).await.expect("an answer");
    assert!(matches!(reserve(wish(full, "ada")).await, ReserveOutcome::QuotaExceeded(0)));
    assert!(matches!(reserve(wish(gone, "ada")).await, ReserveOutcome::ProductGone));
    assert!(matches!(
        reserve(wish(contract::ProductId::generate(), "ada")).await,
        ReserveOutcome::ProductGone
    ));
    assert!(matches!(reserve(wish(demo, "ada")).await, ReserveOutcome::AlreadyExists));
    for table in ["engines", "engine_vitals", "operations"] {
        assert_eq!(stage.count(&format!("SELECT count(*) FROM {table}")).await, 1, "{table}");
    }
    assert_eq!(stage.count("SELECT count(*) FROM idempotency_keys").await, 0);
}

#[tokio::test]
async fn an_idempotency_key_is_bound_to_its_engine_and_its_body_for_a_day() {
    let stage = Stage::set().await;
    let product = stage.product("demo", json!({})).await.id;
    let mut wanted = wish(product, "ada");
    wanted.idempotency = Some(("key-1".to_owned(), "body-1".to_owned()));
    let ReserveOutcome::Reserved(first) = stage.registry.reserve(&wanted).await.expect("reserves") else {
        panic!("not reserved")
    };
    let again = Reserve { engine_id: EngineId::generate(), ..wanted.clone() };
    assert!(
        matches!(stage.registry.reserve(&again).await, Ok(ReserveOutcome::Replayed(id)) if id == first.0.id)
    );
    let mut other = again.clone();
    other.idempotency = Some(("key-1".to_owned(), "body-2".to_owned()));
    assert!(matches!(stage.registry.reserve(&other).await, Ok(ReserveOutcome::OtherBody)));
    let bound = stage.registry.idempotent(product, "key-1").await.expect("reads");
    assert_eq!(bound, Some((first.0.id, "body-1".to_owned())));
    let sql = stage.sql().await;
    sql.execute("UPDATE idempotency_keys SET created_at = now() - interval '25 hours'", &[])
        .await
        .expect("ages");
    assert_eq!(stage.registry.idempotent(product, "key-1").await.expect("reads"), None);
    assert!(matches!(stage.registry.reserve(&other).await, Ok(ReserveOutcome::AlreadyExists)));
    assert_eq!(stage.registry.housekeeping().await.expect("sweeps").idempotency_keys, 1);
}

#[tokio::test]
async fn the_same_user_reserved_at_once_is_one_engine() {
    let stage = Stage::set().await;
    let product = stage.product("demo", json!({})).await.id;
    let replicas = [stage.replica(8), stage.replica(8)];
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..40 {
        let replica = replicas[n % 2].clone();
        tasks.spawn(async move { replica.reserve(&wish(product, "ada")).await.expect("an answer") });
    }
    let outcomes = tasks.join_all().await;
    assert_eq!(outcomes.iter().filter(|o| matches!(o, ReserveOutcome::Reserved(_))).count(), 1);
    assert_eq!(outcomes.iter().filter(|o| matches!(o, ReserveOutcome::AlreadyExists)).count(), 39);
}
