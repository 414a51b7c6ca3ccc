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

/// A turn in this state with a channel state that expires then, a pending question and two events.
async fn turn_in(house: &House, brain: &Brain, name: &str, state: &'static str, expires_at: i64) {
    let id = turn(brain, name).await;
    events(brain, &id, name, 2).await;
    checkpoint(brain, &id, name, expires_at).await;
    let plain = house.plain();
    plain.execute("UPDATE turns SET state = ?2 WHERE turn_id = ?1", (id.as_str(), state)).expect("a state");
    plain
        .execute(
                "INSERT INTO hitl_requests (request_id, task_id, turn_id, tool_call_id, kind, question, options,
                    details_json, state, created_at, expires_at)
                 VALUES ('hitl-' || ?2, ?2, ?1, 'call-' || ?2, 'question', '?', '[]', '{}', 'answered', 1, 1)",
                (id.as_str(), name),
            )
            .expect("a question");
}

#[tokio::test]
async fn the_clock_may_jump_years_and_what_is_open_or_lasting_stays() {
    let house = House::new();
    let brain = house.open();
    for state in ["queued", "running", "paused", "cancelling", "completed", "errored"] {
        turn_in(&house, &brain, state, state, 10).await;
    }
    house
        .plain()
        .execute_batch(
                "INSERT INTO trajectories (turn_id, task_id, agent, outcome, trace_json, trust, created_at, processed_at, state)
                   SELECT turn_id, task_id, 'a', 'completed', '{}', 'user', 1,
                          CASE task_id WHEN 'completed' THEN 5 END,
                          CASE task_id WHEN 'completed' THEN 'processed' ELSE 'pending' END
                   FROM turns WHERE task_id IN ('completed', 'errored');
                 INSERT INTO permissions (id, task_id, tool, rule, request_id, created_at)
                   VALUES ('perm-1', 'completed', 'bash', 'bash:ls', 'hitl-completed', 1);
                 INSERT INTO compactions (task_id, turn_id, up_to_position, summary, strategy, before_tokens, after_tokens, created_at)
                   SELECT task_id, turn_id, 0, '', 'truncate', 2, 1, 1 FROM turns WHERE task_id = 'completed';",
        )
        .expect("rows");
    let before = retention::run_once(&brain, at(9), Policy::default()).await.expect("before its time");
    assert_eq!(before, retention::Report::default(), "nothing goes before its time");
    let later = at(20 * 365 * DAY);
    let report = retention::run_once(&brain, later, Policy::default()).await.expect("a run");
    assert_eq!((report.events, report.channel_states, report.trajectories), (4, 2, 1), "{report:?}");
    let again = retention::run_once(&brain, later, Policy::default()).await.expect("again");
    assert_eq!(again, retention::Report::default());
    brain.close();
    let plain = house.plain();
    let count = |what: &str| number(&plain, &format!("SELECT count(*) FROM {what}"));
    assert_eq!(count("turns"), 6);
    assert_eq!(count("tasks"), 6);
    assert_eq!(count("hitl_requests"), 6, "answered questions go with their turn, which stays");
    assert_eq!(count("events WHERE task_id IN ('queued', 'running', 'paused', 'cancelling')"), 8);
    assert_eq!(count("channel_state_snapshots"), 4, "an open turn keeps its state however old");
    assert_eq!(count("trajectories WHERE state = 'pending'"), 1, "what was not learned from stays");
    assert_eq!((count("permissions"), count("compactions")), (1, 1));
}

#[tokio::test]
async fn authorizations_are_given_ten_minutes_and_replaced_keys_their_day() {
    let house = House::new();
    let brain = house.open();
    house
        .plain()
        .execute_batch(
            "PRAGMA foreign_keys = OFF;
             INSERT INTO oauth_states (state_hash, ref_id, verifier_enc, issuer, redirect_uri, created_at)
                   VALUES ('old', 'conn-1', 'v', 'i', 'r', 0), ('young', 'conn-1', 'v', 'i', 'r', 1000);",
        )
        .expect("rows");
    brain
        .write("test", |tx| {
            let rotation = brain::keys::Rotation {
                current: "c".to_owned(),
                previous: "p".to_owned(),
                env_hash: "e".to_owned(),
                valid_until: at(1000),
                forget_after: at(1000 + DAY),
            };
            brain::keys::put(tx, &rotation, at(0))
        })
        .await
        .expect("rows");
    let run = |now: i64| retention::run_once(&brain, at(now), Policy::default());
    let first = run(600_500).await.expect("a run");
    assert_eq!((first.oauth_states, first.keys), (1, 0));
    let second = run(601_001).await.expect("a run");
    assert_eq!((second.oauth_states, second.keys), (1, 0));
    assert_eq!(run(1000 + DAY).await.expect("a run").keys, 1);
}

#[tokio::test]
async fn one_run_never_holds_the_writer_long_and_gives_space_back_in_small_steps() {
    let house = House::new();
    let brain = house.open();
    for name in 0..40 {
        let name = format!("t{name}");
        let id = turn(&brain, &name).await;
        events(&brain, &id, &name, 500).await;
        checkpoint(&brain, &id, &name, 10).await;
        complete(&brain, &id).await;
    }
    let done = std::sync::atomic::AtomicBool::new(false);
    let waits = async {
        let mut writes = 0;
        while !done.load(std::sync::atomic::Ordering::Relaxed) {
            brain.write("somebody else", |_| Ok(())).await.expect("a write");
            writes += 1;
        }
        writes
    };
    let run = async {
        let report = retention::run_once(&brain, at(DAY), Policy::default()).await;
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        report.expect("a run")
    };
    let (report, others) = tokio::join!(run, waits);
    assert_eq!((report.events, report.channel_states), (20_000, 40));
    // 400 rows a piece, and a quarter of a thousand pages: others come in between again and again
    assert!(others >= 50, "others wrote only {others} times in between");
    assert!(report.pages > 0, "{report:?}");
    brain.close();
}
