//! Boots that fail and wakes that are refused: taken up once, and again until they succeed.

use crate::faults::{logged, rests};
use crate::trial::{Trial, until};
use backends::{BackendError, Call, Death, Fault};
use std::time::Duration;

/// Two replicas, an engine that never boots: executor, events, sweep and restart loop all see the same failure, and it
/// is one failure.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn failed_boot_is_not_picked_up_by_two_loops() {
    const ATTEMPTS: usize = 3;
    let trial = Trial::new().await.set("ORCH_RESTART_MAX_ATTEMPTS", "3");
    let (mut trial, demo) = trial.ready().await;
    trial.replica().await;
    trial.world.edit_default(|p| {
        p.dies = Some(Death { code: 1, ..Death::after(Duration::from_millis(1)) });
    });
    let failed = demo.provision("ada").await;
    assert_eq!((failed.status, failed.code()), (502, "BACKEND_ERROR"), "{:?}", failed.body);
    let sql = trial.sql().await;
    let id = crate::faults::id_of(&sql, "ada").await;
    until("it is given up", async || logged(&sql, id).await.contains(&"auto_restart_gave_up".to_owned()))
        .await;
    let told = logged(&sql, id).await;
    let count = |action: &str| told.iter().filter(|a| *a == action).count();
    assert_eq!(count("provision_failed"), 1, "{told:?}");
    assert_eq!(count("auto_restart_start"), ATTEMPTS, "{told:?}");
    assert_eq!(count("auto_restart_failed"), ATTEMPTS, "{told:?}");
    assert_eq!(count("auto_restart_gave_up"), 1, "{told:?}");
    assert_eq!(count("health_failed"), 0, "a failed boot is no crash of a running engine: {told:?}");
    let starts = usize::try_from(trial.world.starts(id)).expect("are few");
    assert_eq!(starts, 1 + ATTEMPTS, "each boot was started once");
    let shown = demo.explain("ada").await;
    assert_eq!(shown["health"]["restart_attempts"], ATTEMPTS, "{shown}");
}

/// A sleeping engine with a schedule or an admit comes up, however often the backend refuses to thaw it first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn down_does_not_stay_down() {
    let (trial, demo) = Trial::with_product().await;
    let sql = trial.sql().await;
    let (planned, asked) = (demo.engine("planned").await, demo.engine("asked").await);
    for (user, id) in [("planned", planned), ("asked", asked)] {
        assert_eq!(demo.post(user, "sleep").await.status, 200);
        let refused = BackendError::Refused("not now".into());
        trial.world.fault(Fault::fail(refused).on(Call::Thaw).of(id).times(3));
    }
    let due =
        "UPDATE engines SET wake_at = clock_timestamp(), revision = revision + 1 WHERE user_id = 'planned'";
    sql.execute(due, &[]).await.expect("its time has come");
    until("an admit is answered", async || demo.admit("asked").await.body["admitted"] == true).await;
    for id in [planned, asked] {
        rests(&sql, id, "running").await;
        assert_eq!(trial.world.truth(id).word(), "running");
    }
    let refused =
        |id| trial.world.calls().iter().filter(|c| c.call == Call::Thaw && c.engine == Some(id)).count();
    assert!(refused(planned) >= 1 && refused(asked) >= 1, "the backend refused nothing");
}
