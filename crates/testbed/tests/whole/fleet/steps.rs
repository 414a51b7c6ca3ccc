//! `kill -9` of the orchestrator at every step of every operation, before and after the step's effect.
//!
//! The program kills itself at the place it is told, so every case proves that the place was reached. Afterwards a new
//! process must bring everything to where it was meant to go: one process per engine, nothing half removed, and every
//! ended operation in the audit log exactly once.

use super::deployment::Fleet;
use super::process::{engines_in, signal, told_of, until};
use fleet::operation::OperationKind;
use rustix::process::Signal;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::process::ExitStatusExt;

/// Deployments at once per operation. More only wait for the same two processors.
const LANES: usize = 3;

/// Where the program ends: step and moment.
type Place = (&'static str, &'static str);

/// The places of an operation, in the order they are passed. `settle` waits for somebody whose operation was
/// superseded; without one it is not passed.
fn places(kind: OperationKind) -> Vec<Place> {
    let steps = kind.steps().iter().map(|step| step.as_str()).filter(|step| *step != "settle");
    steps.flat_map(|step| [(step, "before"), (step, "after")]).collect()
}

/// What is done to have the operation performed, and what must be true in the end.
struct Case {
    kind: OperationKind,
    /// Statuses the engine passes before: the calls that lead there.
    before: &'static [&'static str],
    /// Status in the end; `none` = the engine is gone.
    ends: &'static str,
}

async fn survives_everywhere(case: Case) {
    let places = places(case.kind);
    assert!(!places.is_empty());
    let lane = async |lane: usize| {
        let fleet = Fleet::new().await.with("ORCH_HEALTH_CHECK_INTERVAL_S", "3600").ready().await;
        fleet.stop(0).await;
        for (number, place) in places.iter().enumerate().filter(|(n, _)| n % LANES == lane) {
            dies_and_converges(&fleet, &case, &format!("user-{number}"), *place).await;
        }
        complete(&fleet).await;
    };
    futures::future::join_all((0..LANES).map(lane)).await;
}

/// Brings an engine to where the operation begins, dies in the operation, and looks at what a new process makes of it.
async fn dies_and_converges(fleet: &Fleet, case: &Case, user: &str, (step, moment): Place) {
    let name = format!("{}.{step}.{moment}", case.kind);
    fleet.start_with(0, &[("ORCH_TEST_FAIL_POINT", &name)]).await;
    let mut id = None;
    if case.kind != OperationKind::Provision {
        id = Some(fleet.engine(user).await.id);
    }
    for what in case.before {
        assert_eq!(fleet.post(user, what).await.status, 200, "{name}: {what}");
    }
    ask_for(fleet, case.kind, user, id.as_deref()).await;
    let ended = fleet.end_of(0).await;
    assert_eq!(ended.signal(), Some(9), "{name}: the program ended with {ended}");
    fleet.start(0).await;
    let went = async || fleet.status(user).await == case.ends && open_operations(fleet).await == 0;
    until(&format!("{name}: {user} is {}", case.ends), went).await;
    if case.ends == "none" {
        let id = id.expect("it was there");
        assert!(told_of(&fleet.directory(&id)).is_empty(), "{name}: a process is left");
        assert!(!fleet.directory(&id).exists(), "{name}: its directory is left");
    } else {
        let record = fleet.get(user).await.body;
        let id = record["engine_id"].as_str().expect("an id");
        let running = usize::from(case.ends != "stopped");
        assert_eq!(engines_in(&fleet.directory(id)).len(), running, "{name}: processes of one engine");
        if case.ends == "running" {
            let engine = fleet.admitted(user).await;
            assert_eq!(engine.opens(&engine.key).await, Some(true), "{name}: the key handed out is the key");
        }
    }
    let trash: Vec<_> = fs::read_dir(fleet.root())
        .expect("the data root")
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(".trash"))
        .collect();
    assert!(trash.is_empty(), "{name}: half removed: {trash:?}");
    fleet.stop(0).await;
}

/// The caller loses its connection with the process; what it asked for is not lost.
async fn ask_for(fleet: &Fleet, kind: OperationKind, user: &str, id: Option<&str>) {
    let answer = match kind {
        OperationKind::Provision => fleet.provision(user).await,
        OperationKind::Start => fleet.post(user, "start").await,
        OperationKind::Stop => fleet.post(user, "stop").await,
        OperationKind::Sleep => fleet.post(user, "sleep").await,
        OperationKind::Wake => fleet.admit_at(0, user).await,
        OperationKind::RotateKey => fleet.post(user, "rotate-key").await,
        OperationKind::Destroy => fleet.call("DELETE", &format!("/engines/{user}"), &Value::Null).await,
        // Nobody asks for it: the engine crashes.
        OperationKind::Restart => return signal(fleet.process_of(id.expect("it runs")), Signal::KILL),
        OperationKind::Upgrade | OperationKind::Recreate | OperationKind::Restore => {
            panic!("this version does not open {kind}")
        }
    };
    // After the last commit the answer may still have left; anything else is a connection that broke.
    assert!([0, 200].contains(&answer.status), "{kind}: {answer:?}");
}

async fn open_operations(fleet: &Fleet) -> i64 {
    let sql = fleet.sql().await;
    let row = sql.query_one("SELECT count(*) FROM operations WHERE status = 'open'", &[]).await;
    row.expect("the database is up").get(0)
}

/// Every operation that ended as succeeded or failed has one closing row, a superseded one none; and the log replays
/// to the statuses in the rows.
pub async fn complete(fleet: &Fleet) {
    let sql = fleet.sql().await;
    let rows = sql
        .query(
            "SELECT o.id::text, o.kind, o.status, count(a.id) FROM operations o LEFT JOIN audit_log a \
             ON a.metadata->>'operation_id' = o.id::text AND a.action = ANY(CASE o.kind \
               WHEN 'provision' THEN ARRAY['provision', 'provision_failed'] \
               WHEN 'restart' THEN ARRAY['auto_restart_success', 'auto_restart_failed'] ELSE ARRAY[o.kind] END) \
             GROUP BY 1, 2, 3",
            &[],
        )
        .await
        .expect("the database is up");
    assert!(!rows.is_empty());
    let wrong: Vec<String> = rows
        .iter()
        .map(|row| {
            (row.get::<_, String>(0), row.get::<_, String>(1), row.get::<_, String>(2), row.get::<_, i64>(3))
        })
        .filter(|(_, _, status, count)| *count != i64::from(status != "superseded") || status == "open")
        .map(|(id, kind, status, count)| format!("{kind} {id} {status}: {count} closing rows"))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let rows = sql
        .query(
            "SELECT e.user_id, e.status, (SELECT a.metadata->>'to' FROM audit_log a WHERE a.engine_id = e.id \
             AND a.metadata ? 'to' ORDER BY a.id DESC LIMIT 1) FROM engines e",
            &[],
        )
        .await
        .expect("the database is up");
    for row in rows {
        let (user, status, told) =
            (row.get::<_, String>(0), row.get::<_, String>(1), row.get::<_, Option<String>>(2));
        assert_eq!(told.as_deref(), Some(status.as_str()), "{user}: the log ends elsewhere than the row");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provision_survives_kill_9_at_every_step() {
    survives_everywhere(Case { kind: OperationKind::Provision, before: &[], ends: "running" }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_survives_kill_9_at_every_step() {
    survives_everywhere(Case { kind: OperationKind::Start, before: &["stop"], ends: "running" }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_survives_kill_9_at_every_step() {
    survives_everywhere(Case { kind: OperationKind::Stop, before: &[], ends: "stopped" }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sleep_survives_kill_9_at_every_step() {
    survives_everywhere(Case { kind: OperationKind::Sleep, before: &[], ends: "sleeping" }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wake_survives_kill_9_at_every_step() {
    survives_everywhere(Case { kind: OperationKind::Wake, before: &["sleep"], ends: "running" }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_survives_kill_9_at_every_step() {
    survives_everywhere(Case { kind: OperationKind::Restart, before: &[], ends: "running" }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_of_a_key_survives_kill_9_at_every_step() {
    survives_everywhere(Case { kind: OperationKind::RotateKey, before: &[], ends: "running" }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_destroy_survives_kill_9_at_every_step() {
    survives_everywhere(Case { kind: OperationKind::Destroy, before: &[], ends: "none" }).await;
}

/// Every operation of this version is in one of the tests above.
#[test]
fn every_operation_that_is_opened_here_is_killed_here() {
    let opened: Vec<&str> =
        OperationKind::ALL.iter().filter(|kind| kind.is_opened_here()).map(|kind| kind.as_str()).collect();
    assert_eq!(opened, ["provision", "start", "stop", "sleep", "wake", "restart", "rotate_key", "destroy"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_destroy_that_supersedes_the_work_of_a_dead_process_leaves_nothing() {
    for moment in ["before", "after"] {
        let fleet = Fleet::new().await.ready().await;
        fleet.stop(0).await;
        fleet.start_with(0, &[("ORCH_TEST_FAIL_POINT", "provision.boot.before")]).await;
        fleet.provision("ada").await;
        assert_eq!(fleet.end_of(0).await.signal(), Some(9));
        let name = format!("destroy.settle.{moment}");
        fleet.start_with(0, &[("ORCH_TEST_FAIL_POINT", &name)]).await;
        let id = fleet.get("ada").await.body["engine_id"].as_str().expect("its row is there").to_owned();
        // The dead process holds its claim for a while; the removal waits for the end of it, and dies there.
        fleet.call("DELETE", "/engines/ada", &json!(null)).await;
        assert_eq!(fleet.end_of(0).await.signal(), Some(9), "{name}");
        fleet.start(0).await;
        fleet.until_status("ada", "none").await;
        assert!(told_of(&fleet.directory(&id)).is_empty() && !fleet.directory(&id).exists());
        complete(&fleet).await;
    }
}
