//! Admissions as they are counted: every call that is answered once, by what it was answered, charged once.

use crate::trial::{Product, Trial, get_text, until};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use testbed::postgres::{PostgresServer, Version};

/// Answers of admit calls of this product so far, by result.
async fn counted(trial: &Trial, product: &str) -> BTreeMap<String, u64> {
    let text = get_text(&format!("http://{}/metrics", trial.replicas[0].internal)).await;
    let mine = format!("product=\"{product}\"");
    let mut counted = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("bap_admissions_total{") && line.contains(&mine))
    {
        let (_, result) = line.split_once("result=\"").expect("has the label");
        let (result, value) = result.split_once("\"} ").expect("ends with its value");
        counted.insert(result.to_owned(), value.parse().expect("is a number"));
    }
    counted
}

fn of(pairs: &[(&str, u64)]) -> BTreeMap<String, u64> {
    pairs.iter().map(|(result, n)| ((*result).to_owned(), *n)).collect()
}

async fn plainly(product: &Product, user: &str) -> Value {
    product.call("POST", &format!("/engines/{user}/admit"), json!({})).await.body
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_of_an_admit_is_counted_once() {
    let (trial, _) = Trial::with_product().await;
    let product = trial.product("counted-all", json!({})).await;
    let sql = trial.sql().await;
    assert_eq!(plainly(&product, "ada").await["reason"], "engine_not_found");
    assert_eq!(product.admit("ada").await.body["admitted"], true);
    assert_eq!(product.admit("ada").await.body["admitted"], true);
    sql.execute("UPDATE engines SET admit_lease_until = NULL", &[]).await.expect("the fence is taken away");
    assert_eq!(product.post("ada", "sleep").await.status, 200);
    assert_eq!(plainly(&product, "ada").await["reason"], "engine_sleeping");
    assert_eq!(product.admit("ada").await.body["admitted"], true);
    assert_eq!(product.post("ada", "stop").await.status, 200);
    assert_eq!(product.admit("ada").await.body["reason"], "engine_stopped");
    // What is refused after the engine was read, and by none of the reasons.
    product.engine("elsewhere").await;
    assert_eq!(product.post("elsewhere", "sleep").await.status, 200);
    sql.execute("UPDATE engines SET backend = 'docker' WHERE user_id = 'elsewhere'", &[])
        .await
        .expect("the row is there");
    assert_eq!(product.admit("elsewhere").await.code(), "BACKEND_ERROR");
    let limits = json!({"policy": {"max_engines": 0, "rate_limit_rpm": 1}});
    assert_eq!(trial.admin("PUT", "/products/counted-all/policy", limits).await.status, 200);
    assert_eq!(product.admit("bob").await.code(), "QUOTA_EXCEEDED");
    assert_eq!(product.admit("bob").await.code(), "RATE_LIMITED");
    assert_eq!(product.clone().with_key("pk-sept-wrong").admit("bob").await.code(), "INVALID_PLATFORM_KEY");
    assert_eq!(
        counted(&trial, "counted-all").await,
        of(&[
            ("engine_not_found", 1),
            ("provisioned", 1),
            ("admitted", 1),
            ("engine_sleeping", 1),
            ("woken", 1),
            ("engine_stopped", 1),
            ("BACKEND_ERROR", 1),
            ("QUOTA_EXCEEDED", 1),
            ("RATE_LIMITED", 1),
        ])
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_from_memory_and_refusals_of_a_database_that_is_away_are_counted() {
    let server = PostgresServer::private(Version::V18).await;
    let url = server.create_database("orchestrator").await;
    let trial = Trial::new().await.set("ORCH_DATABASE_URL", &url).set("ORCH_ADMIT_LEASE_S", "600");
    let (trial, _) = trial.ready().await;
    let product = trial.product("counted-away", json!({"rate_limit_rpm": 2})).await;
    let stranger = trial.product("counted-stranger", json!({})).await;
    product.engine("ada").await;
    assert_eq!(product.admit("ada").await.body["admitted"], true);
    server.kill_9().await;
    until("the database is away", async || !trial.replicas[0].core.pulse.database_ok()).await;
    let held = product.admit("ada").await;
    assert_eq!(held.body["admitted"], true, "{:?}", held.body);
    assert_eq!(product.admit("ada").await.code(), "RATE_LIMITED", "memory is no way round the limit");
    assert_eq!(product.admit("nobody").await.code(), "DATABASE_UNAVAILABLE");
    assert_eq!(stranger.admit("ada").await.code(), "DATABASE_UNAVAILABLE");
    assert_eq!(
        counted(&trial, "counted-away").await,
        of(&[("admitted", 2), ("RATE_LIMITED", 1), ("DATABASE_UNAVAILABLE", 1)])
    );
    assert_eq!(counted(&trial, "counted-stranger").await, of(&[]), "nobody knows whose key that is");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_admit_that_falls_back_to_memory_is_charged_once() {
    let trial = Trial::new().await.set("ORCH_ADMIT_LEASE_S", "600");
    let (trial, _) = trial.ready().await;
    let product = trial.product("counted-once", json!({"rate_limit_rpm": 2})).await;
    product.engine("ada").await;
    assert_eq!(product.admit("ada").await.body["admitted"], true);
    // The row can be read and not written: its lease is over, and somebody holds the row.
    let mut sql = trial.sql().await;
    sql.execute("UPDATE engines SET admit_lease_until = clock_timestamp()", &[]).await.expect("it is up");
    let holding = sql.transaction().await.expect("begins");
    holding.execute("SELECT 1 FROM engines FOR UPDATE", &[]).await.expect("locks");
    let second = product.admit("ada").await;
    assert_eq!(second.body["admitted"], true, "the second of two a minute: {:?}", second.body);
    assert_eq!(product.admit("ada").await.code(), "RATE_LIMITED");
    drop(holding);
    assert_eq!(counted(&trial, "counted-once").await, of(&[("admitted", 2), ("RATE_LIMITED", 1)]));
}
