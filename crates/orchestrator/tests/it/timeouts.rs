//! What runs by the clock goes on by the same clock when an engine sleeps and wakes in between.

use crate::trial::{Trial, until};
use contract::{EngineId, Timestamp};
use serde_json::{Value, json};
use std::time::Instant;

/// Idle time of the product's policy, in milliseconds; the deployment's own is an hour.
const IDLE_MS: i64 = 7_000;
/// Period of the loop that looks for idle engines, in milliseconds.
const LOOP_MS: i64 = 5_000;
/// What a loaded machine adds to a sleep, in milliseconds.
const SLACK_MS: i64 = 6_000;

fn time(value: &Value) -> i64 {
    value.as_str().and_then(Timestamp::parse).unwrap_or_else(|| panic!("no time: {value}")).millis()
}

async fn slept_at(trial: &Trial, id: EngineId, times: usize) -> i64 {
    until("it sleeps again", async || trial.rows(&format!("engine={id}&action=sleep")).await.len() == times)
        .await;
    time(&trial.row(id, "sleep").await["timestamp"])
}

/// Idle time, lease, rotation window and restart back-off: none is shortened, begun anew or forgotten by a sleep.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn timeouts_kept_across_sleep() {
    let (trial, _) = Trial::new().await.set("ORCH_IDLE_SLEEP_AFTER_S", "3600").ready().await;
    let own = trial.product("own", json!({"idle_sleep_after_s": 7})).await;
    let id = own.engine("ada").await;
    trial.world.crash(id, 1, false);
    own.until_status("ada", "failed").await;
    own.until_status("ada", "running").await;
    let attempts = own.explain("ada").await["health"]["restart_attempts"].clone();
    assert_eq!(attempts, 1);

    assert_eq!(own.post("ada", "rotate-key").await.status, 200);
    let window = own.post("ada", "rotate-key").await;
    assert_eq!((window.status, window.code()), (409, "ENGINE_BUSY"), "{:?}", window.body);
    let (opened, rest) = (Instant::now(), window.retry_after.expect("its end is told"));

    for times in 1..=2 {
        let admitted = own.admit("ada").await;
        assert_eq!(admitted.body["admitted"], true, "{:?}", admitted.body);
        let lease = time(&admitted.body["lease_expires_at"]);
        assert!((3_000..=5_100).contains(&(lease - Timestamp::now().millis())), "the lease of {times}");
        let slept = slept_at(&trial, id, times).await;
        let after = slept - lease;
        assert!(after >= IDLE_MS, "asleep {after} ms after the lease in round {times}");
        assert!(
            after <= IDLE_MS + LOOP_MS + SLACK_MS,
            "asleep only {after} ms after the lease in round {times}"
        );
    }

    assert_eq!(own.admit("ada").await.body["admitted"], true);
    let again = own.post("ada", "rotate-key").await;
    assert_eq!((again.status, again.code()), (409, "ENGINE_BUSY"), "{:?}", again.body);
    assert_eq!(again.body["error"]["details"]["reason"], "rotation_window", "{:?}", again.body);
    let (left, passed) = (again.retry_after.expect("its end is told"), opened.elapsed().as_secs());
    assert!(
        left <= rest - passed.min(rest) + 2 && left + passed + 2 >= rest,
        "{rest} s, {passed} s later {left} s"
    );
    assert_eq!(own.explain("ada").await["health"]["restart_attempts"], attempts, "a wake is no recovery");
}
