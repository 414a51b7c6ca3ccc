//! What was accepted before a drain is answered during it, whether it waits for an operation or not.

use crate::faults::{id_of, logged, rests};
use crate::trial::{ADMIN_KEY, Answer, Trial, until};
use backends::{Call, Fault, FaultKind};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::task::JoinHandle;

const REMOVAL: &str = "/products/demo?destroy_engines=true";

fn removal(trial: &Trial) -> JoinHandle<Answer> {
    let request = trial.http.delete(format!("{}{REMOVAL}", trial.base(0))).header("x-admin-key", ADMIN_KEY);
    tokio::spawn(async move {
        match request.send().await {
            Ok(answer) => {
                let status = answer.status().as_u16();
                let retry = answer.headers().get("retry-after").and_then(|v| v.to_str().ok()?.parse().ok());
                let body = answer.json().await.unwrap_or(Value::Null);
                Answer { status, body, retry_after: retry }
            }
            Err(error) => Answer { status: 0, body: json!({"broken": error.to_string()}), retry_after: None },
        }
    })
}

async fn destroys(trial: &Trial) {
    until("a removal is under way", async || {
        trial.world.calls().iter().any(|call| call.call == Call::Destroy)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_removal_of_a_product_that_is_held_is_answered_with_its_end() {
    let mut trial = Trial::new().await;
    trial.replica().await;
    trial.replica().await;
    let demo = trial.product("demo", json!({})).await;
    for user in ["ada", "bob", "eve"] {
        demo.engine(user).await;
    }
    trial.world.fault(Fault::new(FaultKind::Latency(Duration::from_millis(1500))).on(Call::Destroy));
    let caller = removal(&trial);
    destroys(&trial).await;
    trial.stop(0).await;
    let answer = caller.await.expect("the caller is answered");
    assert_eq!((answer.status, &answer.body["status"]), (200, &json!("deleted")), "{:?}", answer.body);
    assert_eq!(answer.body["engines_left"], 0);
    assert!(trial.world.objects().is_empty());
    let rows = trial.rows("action=product_delete").await;
    assert_eq!((rows.len(), &rows[0]["metadata"]["engines_destroyed"]), (1, &json!(3)), "{rows:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_removal_of_a_product_that_does_not_end_in_time_is_told_to_ask_again() {
    let trial = Trial::new().await.set("ORCH_DRAIN_TIMEOUT_S", "1");
    let (mut trial, demo) = trial.ready().await;
    demo.engine("ada").await;
    trial.world.fault(Fault::new(FaultKind::Hang).on(Call::Destroy));
    let caller = removal(&trial);
    destroys(&trial).await;
    trial.stop(0).await;
    let answer = caller.await.expect("the caller is answered");
    assert_eq!(
        (answer.status, answer.code(), answer.retry_after),
        (503, "DRAINING", Some(1)),
        "{:?}",
        answer.body
    );
    trial.world.heal();
    trial.replica().await;
    let deleted = trial.admin("DELETE", REMOVAL, Value::Null).await;
    assert_eq!(deleted.body["status"], "deleted", "{:?}", deleted.body);
}

/// A held request that must look again in the middle of a drain is as welcome as before.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_accepted_request_may_join_another_operation_during_the_drain() {
    let mut trial = Trial::new().await;
    trial.replica().await;
    trial.replica().await;
    let demo = trial.product("demo", json!({})).await;
    let sql = trial.sql().await;
    trial.world.edit_default(|profile| profile.boot = Duration::from_secs(3));
    let caller = tokio::spawn({
        let demo = demo.clone();
        async move { demo.admit("ada").await }
    });
    let id = id_of(&sql, "ada").await;
    until("its object boots", async || trial.world.starts(id) == 1).await;
    let second = trial.replicas[1].core.replica.uuid().to_string();
    let stopping = tokio::spawn(trial.replicas.remove(0).stop());
    until("the other replica has the work", async || {
        let row = sql.query_one("SELECT owner::text FROM operations WHERE kind = 'provision'", &[]).await;
        row.expect("the operation is known").get::<_, Option<String>>(0) == Some(second.clone())
    })
    .await;
    // Its operation is lost; the planner of the other replica opens one anew.
    sql.execute("DELETE FROM operations", &[]).await.expect("the database of the trial is up");
    let answer = caller.await.expect("the caller is answered");
    assert_eq!((answer.status, &answer.body["admitted"]), (200, &json!(true)), "{:?}", answer.body);
    stopping.await.expect("the drain ends");
    rests(&sql, id, "running").await;
    assert_eq!(logged(&sql, id).await.len(), 1);
}
