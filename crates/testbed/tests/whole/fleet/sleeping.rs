//! Sleep by freezing real processes: nothing is lost, nothing is cut, and waking takes moments.

use super::deployment::{Fleet, stays};
use super::process::{self, until};
use serde_json::json;
use std::time::{Duration, Instant};

/// Longest wake of a frozen process, with the whole HTTP call and a debug build on a loaded machine. A start of the
/// process would take longer than this.
const WAKE_LIMIT: Duration = Duration::from_millis(400);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_engine_wakes_as_the_same_process_in_moments() {
    let fleet = Fleet::new().await.ready().await;
    let engine = fleet.engine("ada").await;
    engine.turn("thread-1", "hello").await;
    let pid = fleet.process_of(&engine.id);
    let mut fastest = Duration::MAX;
    for _ in 0..5 {
        until("the engine sleeps", async || {
            let answer = fleet.post("ada", "sleep").await;
            assert!(answer.status == 200 || answer.code() == "ENGINE_BUSY", "{answer:?}");
            answer.status == 200
        })
        .await;
        assert_eq!(process::state(pid), Some('T'), "the process is frozen");
        assert_eq!(
            fleet.call("POST", "/engines/ada/admit", &json!({})).await.body["reason"],
            "engine_sleeping"
        );
        let began = Instant::now();
        let woken = fleet.admitted("ada").await;
        fastest = fastest.min(began.elapsed());
        assert_eq!((&woken.url, &woken.key), (&engine.url, &engine.key));
        assert_eq!(fleet.process_of(&engine.id), pid);
    }
    eprintln!("wake of a frozen engine, fastest of five: {fastest:?}");
    assert!(fastest < WAKE_LIMIT, "{fastest:?}");
    assert_eq!(engine.texts("thread-1").await.len(), 2);
    let wakes: Vec<_> =
        fleet.audit(&engine.id).await.into_iter().filter(|row| row["action"] == "wake").collect();
    assert_eq!(wakes.len(), 5);
    let overhead = wakes.iter().filter_map(|wake| wake["metadata"]["overhead_ms"].as_u64()).min();
    eprintln!("of it beyond the engine's own boot: {overhead:?} ms");
    for wake in wakes {
        assert_eq!(
            (&wake["metadata"]["mode"], &wake["metadata"]["reason"]),
            (&"freeze".into(), &"admit".into())
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sleep_never_cuts_a_stream() {
    let fleet = Fleet::new().await.with("ORCH_IDLE_SLEEP_AFTER_S", "5").ready().await;
    let engine = fleet.engine("ada").await;
    let mut stream = engine.execute("thread-1", "run sleep 100").await;
    stream.chunk().await.expect("the stream begins").expect("it began");
    let refused = fleet.post("ada", "sleep").await;
    assert_eq!((refused.status, refused.code()), (409, "ENGINE_BUSY"), "{refused:?}");
    let details = &refused.body["error"]["details"];
    assert_eq!((&details["reason"], &details["in_flight_turns"]), (&"active".into(), &1.into()), "{details}");
    assert_eq!(details["open_streams"], 1, "{details}");
    let pid = fleet.process_of(&engine.id);
    // Longer than the idle time and a look of the loop.
    let awake = async || process::state(pid) != Some('T') && fleet.status("ada").await == "running";
    stays(Duration::from_secs(11), "the engine with an open stream is awake", awake).await;
    engine.cancel("thread-1").await;
    let mut last = String::new();
    while let Some(bytes) = stream.chunk().await.expect("the stream ends in order") {
        last.push_str(&String::from_utf8_lossy(&bytes));
    }
    assert!(last.contains("thread_lifecycle"), "{last}");
    // Quiet now, so it goes to sleep by itself; and an admit brings it back.
    fleet.until_status("ada", "sleeping").await;
    assert_eq!(process::state(pid), Some('T'));
    let trail = fleet.audit(&engine.id).await;
    assert_eq!(trail.last().expect("rows")["metadata"]["reason"], "idle", "{trail:?}");
    fleet.admitted("ada").await;
    assert_eq!(fleet.process_of(&engine.id), pid);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_paused_by_a_stranger_is_thawed() {
    let fleet = Fleet::new().await.ready().await;
    let engine = fleet.engine("ada").await;
    let pid = fleet.process_of(&engine.id);
    process::signal(pid, rustix::process::Signal::STOP);
    until("it is thawed", async || process::state(pid).is_some_and(|state| state != 'T')).await;
    fleet.until_status("ada", "running").await;
    assert_eq!(fleet.process_of(&engine.id), pid);
    engine.turn("thread-1", "hello").await;
}

/// The first thing a caller does with a woken engine is to stream, at once, and the sleeper is still about.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stream_survives_wake() {
    let fleet = Fleet::new().await.with("ORCH_IDLE_SLEEP_AFTER_S", "5").ready().await;
    let engine = fleet.engine("ada").await;
    let pid = fleet.process_of(&engine.id);
    for round in 0..3 {
        until("the engine sleeps", async || {
            let answer = fleet.post("ada", "sleep").await;
            assert!(answer.status == 200 || answer.code() == "ENGINE_BUSY", "{answer:?}");
            answer.status == 200
        })
        .await;
        assert_eq!(process::state(pid), Some('T'));
        let woken = fleet.admitted("ada").await;
        let task = format!("thread-{round}");
        // Longer than the lease of the admission that woke it.
        let asked = tokio::spawn({
            let (woken, task) = (woken.clone(), task.clone());
            async move { woken.turn(&task, "run sleep 7").await }
        });
        // Somebody wants it asleep all the time, and gets it only after the last byte.
        while !asked.is_finished() && fleet.post("ada", "sleep").await.code() == "ENGINE_BUSY" {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let turn = asked.await.expect("the stream is whole");
        assert!(turn.0.iter().any(|(event, _)| event == "tool_result"), "{:?}", turn.0);
        assert_eq!(fleet.process_of(&engine.id), pid);
    }
}
