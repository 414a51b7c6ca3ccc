//! What an executor leaves in the row for the next one: the times it took, and the defects it met.

use crate::faults::{books, id_of, rests};
use crate::trial::{Trial, until};
use contract::EngineId;
use orchestrator::failpoint::Failure;
use std::sync::Arc;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_take_over_at_the_finish_keeps_the_time_of_the_boot() {
    let mut trial = Trial::new().await;
    trial.adjust = |config| config.settings.operation_lease_s = Duration::from_secs(3);
    let (mut trial, demo) = trial.ready().await;
    let sql = trial.sql().await;
    trial.world.edit_default(|profile| profile.boot = Duration::from_millis(800));
    let core = Arc::clone(&trial.replicas[0].core);
    core.fail_points.arm("provision.finish.before", Failure::Vanish);
    let caller = tokio::spawn(async move { demo.provision("ada").await });
    let id = id_of(&sql, "ada").await;
    until("it has booted", async || !core.fail_points.is_armed("provision.finish.before")).await;
    trial.kill(0).await;
    let _ = caller.await;
    trial.replica().await;
    rests(&sql, id, "running").await;
    let took = sql.query_one("SELECT boot_duration_ms FROM engines", &[]).await.expect("has a row");
    let took: i32 = took.get(0);
    assert!((700..10_000).contains(&took), "{took} ms");
    let row = trial.row(id, "provision").await;
    assert_eq!(row["metadata"]["boot_ms"], took, "{row:?}");
    let phases = row["metadata"]["timings"].as_object().expect("the phases are told");
    assert!(["pull", "create", "boot"].iter().all(|phase| phases.contains_key(*phase)), "{phases:?}");
}

/// What the registry refuses at every try ends the operation; it does not hold its caller, or the engine, for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_that_the_registry_always_refuses_ends_its_operation() {
    let (trial, demo) = Trial::with_product().await;
    let sql = trial.sql().await;
    let (row, log) = (demo.engine("row").await, demo.engine("log").await);
    sql.batch_execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'a constraint nobody planned'; END $$; \
         CREATE TRIGGER refuse_row BEFORE UPDATE ON engines FOR EACH ROW WHEN (NEW.status = 'stopped') EXECUTE FUNCTION refuse(); \
         CREATE TRIGGER refuse_log BEFORE INSERT ON audit_log FOR EACH ROW WHEN (NEW.user_id = 'log') EXECUTE FUNCTION refuse()",
    )
    .await
    .expect("triggers are made");
    for user in ["row", "log"] {
        let answer = demo.post(user, "stop").await;
        assert_eq!((answer.status, answer.code()), (500, "INTERNAL"), "{user}: {:?}", answer.body);
        assert_eq!(answer.body["error"]["details"]["retrying"], true, "{user}: {:?}", answer.body);
    }
    let ended = async |id: EngineId| {
        let count = "SELECT count(*), max(error_code), max((params->>'defects')::bigint) FROM operations \
                     WHERE engine_id = $1::text::uuid AND kind = 'stop' AND status = 'failed'";
        let row = sql.query_one(count, &[&id.to_string()]).await.expect("the database of the trial is up");
        (row.get::<_, i64>(0), row.get::<_, Option<String>>(1), row.get::<_, Option<i64>>(2))
    };
    for id in [row, log] {
        until("it has ended", async || {
            trial.hurry(&sql).await;
            ended(id).await.0 > 0
        })
        .await;
        let (_, code, defects) = ended(id).await;
        assert_eq!((code.as_deref(), defects), (Some("INTERNAL"), Some(4)), "the fifth is the last");
        assert_eq!(books(&sql, id).await.status, "running", "nothing of it is in the row");
    }
    let closing = trial.row(row, "stop").await;
    assert_eq!(closing["metadata"]["outcome"], "failed", "{closing:?}");
    assert_eq!(closing["metadata"]["error"]["code"], "INTERNAL", "{closing:?}");
    // Mended by a person, the stop that was asked for comes about: the intent was kept.
    sql.batch_execute(
        "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$",
    )
    .await
    .expect("the trigger refuses nothing");
    for id in [row, log] {
        until("it is stopped", async || {
            trial.hurry(&sql).await;
            books(&sql, id).await.status == "stopped"
        })
        .await;
    }
}
