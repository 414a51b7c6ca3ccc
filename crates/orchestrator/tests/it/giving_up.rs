//! The end of trying: what belongs to it wherever it is reached, and who may touch the object meanwhile.

use crate::health::{health, more_probes, restarts_by_itself};
use crate::trial::{Trial, get_text, until};
use backends::{Call, EventRules, Fault, FaultKind, HealthAnswer};
use serde_json::json;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_right_after_giving_up_waits_until_the_object_is_stopped() {
    let (trial, demo) = Trial::new().await.set("ORCH_RESTART_MAX_ATTEMPTS", "0").ready().await;
    let id = demo.engine("ada").await;
    trial.world.edit(id, |p| {
        p.ignores_term = true;
        p.health = HealthAnswer::TimedOut;
    });
    demo.until_status("ada", "failed").await;
    // Its object is being stopped for as long as the grace is, and would serve again at once.
    health(&trial, id, HealthAnswer::Normal);
    assert_eq!(trial.world.truth(id).word(), "running", "the stop takes its time");
    let started = demo.post("ada", "start").await;
    assert_eq!(started.status, 200, "{:?}", started.body);
    assert_eq!(trial.world.starts(id), 2, "what was being stopped was taken for started");
    more_probes(&trial, id, 3).await;
    assert_eq!(demo.standing("ada").await, "running-running");
    let rows = trial.actions(id).await;
    assert_eq!(rows, ["provision", "health_failed", "auto_restart_gave_up", "start"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_was_given_up_is_not_found_healthy_while_it_is_being_stopped() {
    let trial = Trial::new().await.set("ORCH_RESTART_MAX_ATTEMPTS", "0");
    let (trial, demo) = trial.set("ORCH_HEALTH_CHECK_INTERVAL_S", "60").ready().await;
    restarts_by_itself(&trial);
    let id = demo.engine("ada").await;
    let passes = || trial.world.calls().iter().filter(|call| call.call == Call::List).count();
    let more_passes = async || {
        let before = passes();
        until("it was looked at", async || passes() >= before + 3).await;
    };
    more_passes().await;
    // Only a list tells of the crash, when the place has long restarted it: it serves, and takes its time to end.
    trial.world.set_events(EventRules { silent: true, ..EventRules::default() });
    trial.world.edit(id, |p| p.ignores_term = true);
    trial.world.crash(id, 1, false);
    until("the object is down", async || trial.world.truth(id).word() == "exited").await;
    assert_eq!(trial.world.starts(id), 2, "the place has not restarted it: nothing could be found healthy");
    more_passes().await;
    assert_eq!(demo.standing("ada").await, "failed-running");
    assert_eq!(trial.actions(id).await, ["provision", "health_failed", "auto_restart_gave_up"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_a_failed_sleep_kills_for_the_last_time_is_given_up_properly() {
    let mut trial = Trial::new().await.set("ORCH_RESTART_MAX_ATTEMPTS", "0");
    trial.call_timeout = Duration::from_secs(2);
    let (trial, demo) = trial.set("ORCH_HEALTH_CHECK_INTERVAL_S", "60").ready().await;
    let id = demo.engine("ada").await;
    trial.world.fault(Fault::new(FaultKind::Hang).on(Call::Freeze).of(id).times(1));
    let caller = tokio::spawn({
        let demo = demo.clone();
        async move { demo.post("ada", "sleep").await }
    });
    until("it is being frozen", async || trial.world.calls().iter().any(|c| c.call == Call::Freeze)).await;
    trial.world.edit(id, |profile| profile.health = backends::HealthAnswer::Refused);
    let answer = caller.await.expect("is answered");
    assert_eq!((answer.status, answer.code()), (502, "BACKEND_ERROR"), "{:?}", answer.body);
    demo.until_standing("ada", "failed-running").await;
    let log = trial.actions(id).await;
    assert_eq!(log, ["provision", "sleep", "health_failed", "auto_restart_gave_up"]);
    let steps = async |action: &str| {
        let metadata = trial.row(id, action).await["metadata"].clone();
        (metadata["from"].clone(), metadata["to"].clone())
    };
    assert_eq!(steps("sleep").await, (json!("running"), json!("running")));
    assert_eq!(steps("health_failed").await, (json!("running"), json!("failed")));
    assert_eq!(steps("auto_restart_gave_up").await, (json!("failed"), json!("failed")));
    until("the object is stopped", async || trial.world.truth(id).word() == "exited").await;
    let metrics = get_text(&format!("http://{}/metrics", trial.replicas[0].internal)).await;
    let counted = metrics.lines().find(|line| line.starts_with("bap_restarts_given_up_total"));
    assert_eq!(counted.and_then(|line| line.rsplit(' ').next()), Some("1"), "{counted:?}");
}
