//! Keys of real engines and of the deployment: their windows, their replacement, and a master key that is not the one.

use super::deployment::{Fleet, MASTER_KEY};
use super::process::until;
use chassis::seal::MasterKeys;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_key_works_in_the_window_only() {
    let fleet = Fleet::new()
        .await
        .with("ORCH_ENGINE_ENV_PASSTHROUGH", "LLM_PROVIDER,BAP_KEY_ROTATION_MAX_OVERLAP_SECONDS")
        .with("BAP_KEY_ROTATION_MAX_OVERLAP_SECONDS", "1")
        .ready()
        .await;
    let engine = fleet.engine("ada").await;
    let pid = fleet.process_of(&engine.id);
    let rotated = fleet.post("ada", "rotate-key").await;
    assert_eq!(rotated.status, 200, "{rotated:?}");
    let new = rotated.body["api_key"].as_str().expect("the new key").to_owned();
    assert_ne!(new, engine.key);
    assert_eq!(engine.opens(&new).await, Some(true));
    assert_eq!(fleet.admitted("ada").await.key, new, "admit hands out the new key");
    until("the window of one second is over", async || engine.opens(&engine.key).await == Some(false)).await;
    assert_eq!(engine.opens(&new).await, Some(true));
    assert_eq!(fleet.process_of(&engine.id), pid, "no restart");
    // What the engine stored wins over the environment it is started with.
    fleet.post("ada", "stop").await;
    assert_eq!(fleet.post("ada", "start").await.status, 200);
    assert_eq!((engine.opens(&engine.key).await, engine.opens(&new).await), (Some(false), Some(true)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_keys_work_in_the_window_and_a_second_rotation_waits_for_its_end() {
    let fleet = Fleet::new().await.ready().await;
    let engine = fleet.engine("ada").await;
    let rotated = fleet.post("ada", "rotate-key").await;
    let new = rotated.body["api_key"].as_str().expect("the new key").to_owned();
    assert_eq!(rotated.body["overlap_seconds"], 300, "{rotated:?}");
    assert_eq!((engine.opens(&engine.key).await, engine.opens(&new).await), (Some(true), Some(true)));
    let again = fleet.post("ada", "rotate-key").await;
    assert_eq!((again.status, again.code()), (409, "ENGINE_BUSY"));
    assert_eq!(again.body["error"]["details"]["reason"], "rotation_window");
    assert!(again.retry_after.is_some_and(|s| (1..=300).contains(&s)), "{again:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn boot_refuses_a_wrong_master_key_and_goes_on_with_the_old_one_behind_the_new() {
    let mut fleet = Fleet::new().await.ready().await;
    let (ada, bob) = (fleet.engine("ada").await, fleet.engine("bob").await);
    fleet.stop(0).await;
    let new = MasterKeys::generate().expose().to_owned();
    fleet.set("ORCH_MASTER_KEY", &new);
    fleet.spawn(0, &[]);
    assert_eq!(fleet.end_of(0).await.code(), Some(3));
    let log = fleet.logged(0);
    let last = log.lines().last().expect("last words");
    assert!(last.contains("2 of 2 engine keys cannot be decrypted"), "{last}");
    let fingerprint = MasterKeys::parse(&new).expect("a master key").fingerprints()[0].clone();
    for part in [&ada.id, &bob.id, &fingerprint] {
        assert!(last.contains(part.as_str()), "{part} is not named: {last}");
    }
    assert!(!log.contains(&new) && !log.contains(MASTER_KEY));
    assert_eq!(ada.opens(&ada.key).await, Some(true), "engines serve on");

    fleet.set("ORCH_MASTER_KEY", &format!("{new},{MASTER_KEY}"));
    fleet.start(0).await;
    assert_eq!(fleet.admitted("ada").await.key, ada.key);
    let sealed = fleet.json(&["rotate-master-key", "--json"]).await;
    assert_eq!((&sealed["rows"], &sealed["resealed"]), (&2.into(), &2.into()), "{sealed}");
    fleet.stop(0).await;
    fleet.set("ORCH_MASTER_KEY", &new);
    fleet.start(0).await;
    for engine in [&ada, &bob] {
        assert_eq!(engine.opens(&engine.key).await, Some(true));
    }
    assert_eq!(fleet.admitted("bob").await.key, bob.key);
    let carol = fleet.engine("carol").await;
    carol.turn("thread-1", "hello").await;
    let again = fleet.json(&["rotate-master-key", "--json"]).await;
    assert_eq!((&again["rows"], &again["resealed"]), (&3.into(), &0.into()), "twice is safe: {again}");
    assert!(!fleet.logged(0).contains(&new));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reissue_key_recovers_one_row_and_the_others_never_notice() {
    let fleet = Fleet::new().await.ready().await;
    let (ada, bob, carol) =
        (fleet.engine("ada").await, fleet.engine("bob").await, fleet.engine("carol").await);
    ada.turn("thread-1", "hello").await;
    let stranger = MasterKeys::generate();
    let stranger = MasterKeys::parse(stranger.expose()).expect("a master key").seal("sk-of-nobody");
    let changed = fleet
        .sql()
        .await
        .execute("UPDATE engines SET engine_key_enc = $2 WHERE id::text = $1", &[&ada.id, &stranger])
        .await;
    assert_eq!(changed.expect("the row is there"), 1);
    fleet.stop(0).await;
    fleet.start(0).await;
    let broken = fleet.admit_at(0, "ada").await;
    assert_eq!((broken.status, broken.code()), (500, "INTERNAL"), "{broken:?}");
    assert!(
        broken.body["error"]["message"].as_str().is_some_and(|m| m.contains("reissue-key")),
        "{broken:?}"
    );
    for engine in [&bob, &carol] {
        assert_eq!(engine.opens(&engine.key).await, Some(true));
    }
    let made = fleet.json(&["engines", "reissue-key", "demo/ada", "--json"]).await;
    let key = made["api_key"].as_str().expect("the new key").to_owned();
    fleet.until_status("ada", "running").await;
    let back = fleet.admitted("ada").await;
    assert_eq!(back.key, key);
    assert_eq!(back.texts("thread-1").await.len(), 2, "the brain is the same");
    assert_eq!(back.opens(&ada.key).await, Some(false), "the lost key is dead");
}

/// A brain from before a rotation knows the old key and nothing of the new one: its engine takes the registry's key, with
/// which every start tells it who may enter.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restored_brain_takes_the_present_key() {
    let fleet = Fleet::new().await.ready().await;
    let engine = fleet.engine("ada").await;
    engine.turn("thread-1", "hello").await;
    assert_eq!(fleet.post("ada", "stop").await.status, 200);
    let (directory, backup) = (fleet.directory(&engine.id), fleet.folder.path().join("backup"));
    std::fs::create_dir(&backup).expect("our own directory");
    let brains = |from: &std::path::Path| -> Vec<std::path::PathBuf> {
        let entries = std::fs::read_dir(from).expect("a directory").map(|e| e.expect("an entry").path());
        let is_brain = |p: &std::path::PathBuf| {
            p.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(b"brain.sqlite"))
        };
        entries.filter(is_brain).collect()
    };
    let copy = |from: &std::path::Path, to: &std::path::Path| {
        for file in brains(from) {
            std::fs::copy(&file, to.join(file.file_name().expect("a file"))).expect("copied");
        }
    };
    copy(&directory, &backup);
    assert_eq!(fleet.post("ada", "start").await.status, 200);
    engine.turn("thread-1", "said after the backup").await;
    let rotated = fleet.post("ada", "rotate-key").await;
    let new = rotated.body["api_key"].as_str().unwrap_or_else(|| panic!("{rotated:?}")).to_owned();
    assert_eq!(fleet.post("ada", "stop").await.status, 200);

    for file in brains(&directory) {
        std::fs::remove_file(file).expect("ours");
    }
    copy(&backup, &directory);
    assert_eq!(fleet.post("ada", "start").await.status, 200);
    let back = fleet.admitted("ada").await;
    assert_eq!(back.key, new, "the registry's key is handed out");
    assert_eq!(back.texts("thread-1").await.len(), 2, "and opens the brain of the backup");
    assert_eq!(engine.opens(&engine.key).await, Some(false), "the key of the time of the backup is dead");
}
