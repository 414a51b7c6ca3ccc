//! Room and crowds: a full backend, and many provisions of one product at the same moment.

use crate::trial::{Answer, Product, Trial, until};
use backends::{Call, Fault, FaultKind};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

async fn count(sql: &tokio_postgres::Client, what: &str) -> i64 {
    let row = sql.query_one(&format!("SELECT count(*) FROM {what}"), &[]).await;
    row.expect("the database of the trial is up").get(0)
}

async fn keyed(demo: &Product, user: &str, key: &str) -> Answer {
    demo.call_with("POST", "/engines/provision", ("idempotency-key", key), json!({"user_id": user})).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn network_capacity_is_refused_clearly() {
    let mut trial = Trial::new().await.set("ORCH_PORT_MIN", "9001").set("ORCH_PORT_MAX", "9004");
    trial.replica().await;
    let demo = trial.product("demo", json!({"max_engines": 3})).await;
    let sql = trial.sql().await;
    trial.world.set_capacity(Some(2));
    let ada = keyed(&demo, "ada", "key-a").await;
    assert_eq!(ada.status, 200, "{:?}", ada.body);
    demo.engine("bob").await;
    for _ in 0..3 {
        for refused in
            [demo.provision("eve").await, demo.admit("eve").await, keyed(&demo, "eve", "key-e").await]
        {
            assert_eq!((refused.status, refused.code()), (503, "CAPACITY_EXHAUSTED"), "{:?}", refused.body);
            assert!(refused.retry_after.is_some_and(|s| (1..=60).contains(&s)), "{:?}", refused.retry_after);
            let words = refused.body["error"]["message"].as_str().unwrap_or_default();
            assert!(words.contains("full"), "{words}");
        }
    }
    // Nothing is left of those who were refused.
    assert_eq!(demo.get("eve").await.code(), "ENGINE_NOT_FOUND");
    for (what, left) in [("engines", 2), ("operations", 2), ("idempotency_keys", 1)] {
        assert_eq!(count(&sql, what).await, left, "{what}");
    }
    assert_eq!(trial.rows("user=eve&action=provision&action=provision_failed").await, Vec::<Value>::new());
    let created = trial.world.calls().iter().filter(|call| call.call == Call::Create).count();
    assert_eq!(created, 2, "the backend was asked to make nothing more");
    // Who repeats what was done is told so.
    assert_eq!(demo.provision("ada").await.code(), "ENGINE_ALREADY_EXISTS");
    assert_eq!(keyed(&demo, "ada", "key-a").await.body["engine_id"], ada.body["engine_id"]);
    assert_eq!(
        keyed(&demo, "eve", "key-a").await.code(),
        "INVALID_REQUEST",
        "the key is bound to another body"
    );
    assert_eq!(demo.admit("ada").await.body["admitted"], true);
    // When there is room again, quota and ports are as if nobody had been refused.
    assert_eq!(demo.destroy("bob").await.status, 200);
    demo.engine("eve").await;
    trial.world.set_capacity(None);
    demo.engine("bob").await;
    assert_eq!(demo.provision("dan").await.code(), "QUOTA_EXCEEDED");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_that_does_not_say_whether_it_has_room_refuses_nobody() {
    let (trial, demo) = Trial::with_product().await;
    trial.world.fault(Fault::new(FaultKind::Hang).on(Call::Room));
    let mut herd = JoinSet::new();
    for n in 0..10 {
        let demo = demo.clone();
        herd.spawn(async move { demo.provision(&format!("u{n}")).await });
    }
    let began = Instant::now();
    for answer in herd.join_all().await {
        assert_eq!(answer.status, 200, "{:?}", answer.body);
    }
    assert!(began.elapsed() < Duration::from_secs(8), "they wait at the same time: {:?}", began.elapsed());
}

/// Everybody at once; the answer is how many were answered with what.
async fn crowd(demo: &Product, users: usize) -> BTreeMap<(u16, String), usize> {
    let mut herd = JoinSet::new();
    for n in 0..users {
        let demo = demo.clone();
        herd.spawn(async move {
            let user = format!("u{n}");
            // By both ways.
            if n % 2 == 0 { demo.provision(&user).await } else { demo.admit(&user).await }
        });
    }
    let mut told = BTreeMap::new();
    while let Some(answer) = herd.join_next().await {
        let answer = answer.expect("no caller breaks off");
        assert_ne!(answer.body["admitted"], false, "{:?}", answer.body);
        *told.entry((answer.status, answer.code().to_owned())).or_default() += 1;
    }
    told
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_hundred_provisions_with_a_quota_of_ten_are_all_answered_with_what_is_true() {
    let mut trial = Trial::new().await.set("ORCH_DATABASE_MAX_CONNECTIONS", "10");
    trial.replica().await;
    let demo = trial.product("demo", json!({"max_engines": 10})).await;
    let began = Instant::now();
    let told = crowd(&demo, 200).await;
    println!("200 for a quota of 10: {:?}", began.elapsed());
    let expected = BTreeMap::from([((200, String::new()), 10), ((429, "QUOTA_EXCEEDED".to_owned()), 190)]);
    assert_eq!(told, expected);
    assert_eq!(trial.world.objects().len(), 10);
}

/// The database waits two seconds for a lock and no longer; a line of callers is longer than that.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_crowd_that_outlasts_the_databases_patience_for_locks_is_served_all_the_same() {
    const USERS: usize = 40;
    let (trial, demo) = Trial::with_product().await;
    let sql = trial.sql().await;
    // Every reservation holds the product's row for 150 ms.
    sql.batch_execute(
        "CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS \
           $$ BEGIN PERFORM pg_sleep(0.15); RETURN NEW; END $$; \
         CREATE TRIGGER slowly BEFORE INSERT ON engines FOR EACH ROW EXECUTE FUNCTION slowly()",
    )
    .await
    .expect("nobody writes engines yet");
    let began = Instant::now();
    let told = crowd(&demo, USERS).await;
    assert_eq!(told, BTreeMap::from([((200, String::new()), USERS)]));
    assert!(
        began.elapsed() > Duration::from_secs(4),
        "the line was long enough to tell: {:?}",
        began.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn five_hundred_users_of_one_product_that_come_at_once_are_all_served() {
    const USERS: usize = 500;
    let mut trial = Trial::new()
        .await
        .set("ORCH_DATABASE_MAX_CONNECTIONS", "10")
        .set("ORCH_BOOT_TIMEOUT_S", "60")
        .set("ORCH_OPERATION_LEASE_S", "15");
    trial.replica().await;
    let demo = trial.product("demo", json!({})).await;
    let sql = trial.sql().await;
    let began = Instant::now();
    let told = crowd(&demo, USERS).await;
    println!("{USERS} users at once: {:?}", began.elapsed());
    assert_eq!(told, BTreeMap::from([((200, String::new()), USERS)]));
    assert_eq!(trial.world.running().len(), USERS);
    assert_eq!(count(&sql, "engines WHERE status = 'running'").await, 500);
    assert_eq!(count(&sql, "(SELECT port FROM engines GROUP BY port HAVING count(*) > 1) AS twice").await, 0);
    until("nothing is open", async || count(&sql, "operations WHERE status = 'open'").await == 0).await;
}
