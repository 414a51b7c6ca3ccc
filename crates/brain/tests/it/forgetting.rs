//! Retention: what goes, what stays.

use crate::house::{House, at, call, events, number, task, turn};
use brain::observability::Observation;
use brain::retention::{self, Policy};
use brain::snapshots::{Snapshot, Step};
use brain::turns::TurnState;
use brain::{Brain, working_memory};
use contract::TurnId;

const DAY: i64 = 86_400_000;

async fn checkpoint(brain: &Brain, turn: &TurnId, name: &str, expires_at: i64) {
    let (turn, task) = (turn.clone(), task(name));
    brain
        .write("test", move |tx| {
            let snapshot = Snapshot { step: Step::Model, state: serde_json::json!({}) };
            brain::snapshots::put(tx, &turn, &task, &snapshot, at(1), at(expires_at))
        })
        .await
        .expect("a checkpoint");
}

async fn complete(brain: &Brain, turn: &TurnId) {
    let turn = turn.clone();
    brain
        .write("test", move |tx| {
            brain::turns::set_state(tx, &turn, &[TurnState::Queued], TurnState::Completed, at(2)).map(|_| ())
        })
        .await
        .expect("a state");
}

#[tokio::test]
async fn events_go_when_their_turn_is_over_and_expired_and_not_before() {
    let house = House::new();
    let brain = house.open();
    for (name, expires_at, over) in [("gone", 100, true), ("running", 100, false), ("fresh", 10_000, true)] {
        let id = turn(&brain, name).await;
        events(&brain, &id, name, 1000).await;
        checkpoint(&brain, &id, name, expires_at).await;
        if over {
            complete(&brain, &id).await;
        }
    }
    let report = retention::run_once(&brain, at(1000), Policy::default()).await.expect("a run");
    assert_eq!((report.events, report.channel_states), (1000, 1));
    let again = retention::run_once(&brain, at(1000), Policy::default()).await.expect("again");
    assert_eq!(again, retention::Report::default());
    brain.close();
    let plain = house.plain();
    let left = |name: &str| number(&plain, &format!("SELECT count(*) FROM events WHERE task_id = '{name}'"));
    assert_eq!((left("gone"), left("running"), left("fresh")), (0, 1000, 1000));
    assert_eq!(number(&plain, "SELECT count(*) FROM turns"), 3, "turns are kept");
}

#[tokio::test]
async fn usage_detail_becomes_one_row_per_day_and_model_and_no_token_is_lost() {
    let house = House::new();
    let brain = house.open();
    let id = turn(&brain, "a").await;
    let record = |day: i64, count: i64| {
        let id = id.clone();
        brain.write("test", move |tx| {
            (0..count).try_for_each(|n| brain::usage::record(tx, &call(&id, "a", day, n)))
        })
    };
    record(10, 700).await.expect("usage");
    record(11, 3).await.expect("usage");
    record(100, 5).await.expect("usage");
    let policy = Policy { observability_days: 30, ..Policy::default() };
    let report = retention::run_once(&brain, at(100 * DAY), policy).await.expect("a run");
    assert_eq!(report.usage_rows_summed, 703);
    record(10, 4).await.expect("a late row of a summed day");
    retention::run_once(&brain, at(100 * DAY), policy).await.expect("again");
    let last = retention::run_once(&brain, at(100 * DAY), policy).await.expect("and again");
    assert_eq!(last.usage_rows_summed, 0, "sums are not summed again");
    brain.close();
    let plain = house.plain();
    assert_eq!(number(&plain, "SELECT count(*) FROM usage_log WHERE turn_id IS NULL"), 2);
    assert_eq!(number(&plain, "SELECT calls FROM usage_log WHERE created_at = 864000000"), 704);
    assert_eq!(number(&plain, "SELECT sum(input_tokens) FROM usage_log"), 712 * 10);
    assert_eq!(number(&plain, "SELECT count(*) FROM usage_log WHERE turn_id IS NOT NULL"), 5);
}

#[tokio::test]
async fn working_memory_fades_and_a_deleted_entry_does_not_come_back() {
    let house = House::new();
    let brain = house.open();
    let id = turn(&brain, "a").await;
    let write = |key: &'static str, value: Option<i64>, expires_at: i64| {
        let id = id.clone();
        brain.write("test", move |tx| {
            let value = value.map(serde_json::Value::from);
            working_memory::write(tx, &task("a"), &id, key, value.as_ref(), at(1), at(expires_at))
        })
    };
    write("faded", Some(1), 100).await.expect("a write");
    write("alive", Some(2), 5000).await.expect("a write");
    write("deleted", Some(3), 5000).await.expect("a write");
    write("deleted", None, 100).await.expect("a deletion under a shorter life");
    let report = retention::run_once(&brain, at(1000), Policy::default()).await.expect("a run");
    assert_eq!(report.working_memory, 1);
    let left =
        brain.read("test", |tx| working_memory::present(tx, &task("a"), at(1000))).await.expect("a read");
    assert_eq!(left.iter().map(|e| e.key.as_str()).collect::<Vec<_>>(), ["alive"]);
    let report = retention::run_once(&brain, at(6000), Policy::default()).await.expect("later");
    assert_eq!(report.working_memory, 3);
}

#[tokio::test]
async fn old_observations_old_keys_and_unreferenced_blobs_go() {
    let house = House::new();
    let brain = house.open();
    brain
        .write("test", |tx| {
            for day in [1, 50] {
                let observation = Observation {
                    kind: "slow_tool_call",
                    code: None,
                    task_id: None,
                    turn_id: None,
                    message: "slow".to_owned(),
                    data: None,
                    at: at(day * DAY),
                };
                brain::observability::note(tx, &observation)?;
            }
            brain::keys::put(
                tx,
                &brain::keys::Rotation {
                    current: "c".to_owned(),
                    previous: "p".to_owned(),
                    env_hash: "e".to_owned(),
                    valid_until: at(DAY),
                    forget_after: at(2 * DAY),
                },
                at(0),
            )?;
            for n in 0..7_u8 {
                let name = brain::blobs::put(tx, &[n; 100], "x/y", at(DAY))?;
                if n == 3 {
                    brain::blobs::refer(tx, &name, "effects", "call-1")?;
                }
            }
            brain::blobs::put(tx, b"young", "x/y", at(60 * DAY))?;
            Ok(())
        })
        .await
        .expect("a write");
    let report = retention::run_once(&brain, at(60 * DAY), Policy::default()).await.expect("a run");
    assert_eq!((report.observability_events, report.keys, report.blobs), (1, 1, 6));
    brain.close();
    let plain = house.plain();
    assert_eq!(number(&plain, "SELECT count(*) FROM blobs"), 2);
    assert_eq!(number(&plain, "SELECT count(*) FROM engine_keys WHERE state = 'current'"), 1);
}

#[tokio::test]
async fn freed_space_goes_back_to_the_file_system() {
    let house = House::new();
    let brain = house.open();
    for n in 0..24_u8 {
        let bytes = vec![n; 1 << 20];
        brain.write("test", move |tx| brain::blobs::put(tx, &bytes, "x/y", at(1))).await.expect("a blob");
    }
    let report = retention::run_once(&brain, at(DAY), Policy::default()).await.expect("a run");
    assert_eq!(report.blobs, 24);
    assert!(report.pages > 4000, "{report:?}");
    brain.vacuum().await.expect("a full vacuum");
    brain.close();
    let (size, wal) = brain.file_sizes();
    assert!(size < 1 << 20, "{size} bytes are left");
    assert_eq!(wal, 0);
    assert_eq!(number(&house.plain(), "PRAGMA auto_vacuum"), 2, "still incremental");
}
