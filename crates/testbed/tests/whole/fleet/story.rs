//! The story the documentation prints: register, provision, admit, ask the engine itself, and lose nothing to a crash.

use super::deployment::Fleet;
use super::process::{signal, until};
use rustix::process::Signal;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thread_goes_on_where_it_was_after_kill_9_of_its_engine() {
    let fleet = Fleet::new().await.ready().await;
    let provisioned = fleet.provision("ada").await;
    assert_eq!(
        (provisioned.status, &provisioned.body["status"]),
        (200, &"running".into()),
        "{provisioned:?}"
    );
    let engine = fleet.admitted("ada").await;
    assert_eq!(provisioned.body["api_key"], engine.key.as_str());
    assert_eq!(provisioned.body["url"], engine.url.as_str());
    let first = engine.turn("thread-1", "hello there").await;
    assert!(first.text().contains("offline"), "{}", first.text());
    let (pid, before) = (fleet.process_of(&engine.id), engine.texts("thread-1").await);
    assert_eq!(before.len(), 2, "{before:?}");
    let generation = fleet.record(&engine.id)["generation"].as_i64().expect("a generation");

    signal(pid, Signal::KILL);
    until("the crash is noticed and the engine back", async || {
        fleet.actions(&engine.id).await.last().is_some_and(|a| a == "auto_restart_success")
    })
    .await;
    let again = fleet.admitted("ada").await;
    assert_eq!((&again.url, &again.key), (&engine.url, &engine.key), "its address and key are its own");
    assert_ne!(fleet.process_of(&engine.id), pid);
    assert!(fleet.record(&engine.id)["generation"].as_i64() > Some(generation));
    assert_eq!(again.texts("thread-1").await, before, "what was said is still there");
    assert!(!again.turn("thread-1", "run echo still here").await.0.is_empty());
    assert!(again.texts("thread-1").await.len() > before.len());

    let trail = fleet.audit(&engine.id).await;
    let actions: Vec<&str> = trail.iter().filter_map(|row| row["action"].as_str()).collect();
    assert_eq!(actions, ["provision", "health_failed", "auto_restart_start", "auto_restart_success"]);
    assert_eq!(trail[0]["actor"], "demo");
    assert!(trail[0]["metadata"]["boot_ms"].as_u64().is_some(), "{}", trail[0]);
    assert_eq!(trail[1]["metadata"]["reason"], "crashed", "{}", trail[1]);
    assert_eq!(
        (&trail[1]["metadata"]["from"], &trail[1]["metadata"]["to"]),
        (&"running".into(), &"failed".into())
    );
    assert_eq!(trail[2]["metadata"]["attempt"], 1, "{}", trail[2]);
    assert_eq!(trail[3]["metadata"]["by"], "orchestrator", "{}", trail[3]);
    assert!(trail.iter().all(|row| row["user_id"] == "ada" && row["engine_id"] == engine.id.as_str()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stop_start_and_destroy_do_to_the_process_what_they_say() {
    let fleet = Fleet::new().await.ready().await;
    let engine = fleet.engine("ada").await;
    engine.turn("thread-1", "hello").await;
    let first = fleet.process_of(&engine.id);
    assert_eq!(fleet.post("ada", "stop").await.body["status"], "stopped");
    // What it was just starting dies with it, a moment later, and looks like it until then.
    let directory = fleet.directory(&engine.id);
    until("nothing of it runs", async || super::process::engines_in(&directory).is_empty()).await;
    assert_eq!(super::process::state(first), None, "the process is there");
    assert_eq!(fleet.post("ada", "stop").await.code(), "ENGINE_NOT_RUNNING");
    assert_eq!(fleet.admit_at(0, "ada").await.body["reason"], "engine_stopped");
    assert_eq!(fleet.post("ada", "start").await.body["status"], "running");
    assert_eq!(fleet.post("ada", "start").await.code(), "ENGINE_ALREADY_RUNNING");
    assert_ne!(fleet.process_of(&engine.id), first);
    assert_eq!(engine.texts("thread-1").await.len(), 2);

    let gone = fleet.call("DELETE", "/engines/ada", &serde_json::Value::Null).await;
    assert_eq!(gone.body["status"], "destroyed", "{gone:?}");
    until("nothing of it is left", async || super::process::told_of(&directory).is_empty()).await;
    assert!(!fleet.directory(&engine.id).exists(), "its brain is left");
    assert_eq!(fleet.get("ada").await.code(), "ENGINE_NOT_FOUND");
    assert_eq!(fleet.actions(&engine.id).await, ["provision", "stop", "start", "destroy"]);
    let stop = &fleet.audit(&engine.id).await[1];
    assert_ne!(stop["metadata"]["killed"], true, "it drained in its grace: {stop}");
    assert_eq!(stop["metadata"]["exit_code"], 0, "{stop}");
}
