//! Disks that are full or cannot be written: refused with a code, nothing acknowledged is lost, and work
//! goes on when there is room again.

use crate::support::sse::{Turn, raw};
use crate::support::{Setup, eventually};
use serde_json::{Value, json};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use testbed::{Gate, Reply, Script, ScriptedModel};

/// A small disk of its own, gone with the value. Needs root, like the containers these tests run in.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new(size: &str) -> Self {
        let disk = Self(tempfile::tempdir().expect("a mount point"));
        disk.mount(&format!("size={size}"));
        disk
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn mount(&self, options: &str) {
        let done = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(self.path())
            .output()
            .expect("the `mount` program");
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "mounting a tmpfs failed; this test needs root: {said}");
    }

    fn setup(&self, setup: Setup) -> Setup {
        setup.with("SQLITE_DB_PATH", &self.path().join("brain.sqlite").display().to_string())
    }

    /// Takes all room, or so much that this many bytes are left.
    fn fill(&self, left: u64) -> PathBuf {
        let path = self.path().join("ballast");
        let mut file = std::fs::File::create(&path).expect("a file");
        while rustix::fs::statvfs(self.path()).is_ok_and(|s| s.f_bavail * s.f_frsize > left) {
            file.write_all(&[1; 4096]).expect("written");
        }
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Left mounted it would only outlive the test.
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

#[tokio::test]
async fn below_the_minimum_of_free_space_new_turns_are_refused_and_everything_else_goes_on() {
    let disk = SmallDisk::new("40m");
    let engine = disk.setup(Setup::offline()).with("BRAIN_MIN_FREE_MB", "16").start().await;
    let turn = engine.turn("a", "hello").await;
    let ballast = disk.fill(8 << 20);
    let refused = engine.post("/execute", json!({"task_id": "b", "message": "x"})).await;
    assert_eq!(refused.error(503, "ENGINE_BUSY").await["details"]["reason"], "disk_full");
    engine.get("/tasks/b").await.error(404, "TASK_NOT_FOUND").await;
    assert_eq!(raw(&engine.stored("").await), turn.raw());
    assert_eq!(engine.health().await["status"], "ok");
    std::fs::remove_file(ballast).expect("room again");
    assert_eq!(engine.turn("b", "hello").await.stop_reason(), "end_turn");
}

#[tokio::test]
async fn a_disk_that_fills_up_under_a_turn_loses_nothing_and_passes() {
    let gate = Gate::new();
    let held = Reply::new().say("before ").hold(&gate).say(&"after ".repeat(200_000));
    let model = ScriptedModel::start(Script::from_fn(move |r| {
        if r.last_user_text() == "hold" { held.clone() } else { Reply::text("room again") }
    }))
    .await;
    let disk = SmallDisk::new("16m");
    let setup = disk.setup(Setup::scripted(&model)).with("BRAIN_MIN_FREE_MB", "0");
    let engine = setup.start().await;
    engine
        .expect_log("disk")
        .expect_log("ENGINE_BUSY")
        .expect_log("could not be written")
        .expect_log("storage");
    let before = engine.turn("a", "hello").await;
    let mut stream = engine.execute(json!({"task_id": "b", "message": "hold"})).await;
    let mut frames = stream.until_event("text_delta").await;
    let ballast = disk.fill(0);
    gate.open();
    let health = engine.until("/health", |h| h["status"] == "error").await;
    assert_eq!(health["subsystems"]["database"], "error");
    let refused = engine.post("/execute", json!({"task_id": "c", "message": "x".repeat(100_000)})).await;
    assert_eq!(refused.error(503, "ENGINE_BUSY").await["details"]["reason"], "disk_full");
    assert!(raw(&engine.stored("&task_id=a").await) == before.raw());
    std::fs::remove_file(ballast).expect("room again");
    frames.extend(stream.rest().await);
    let turn = Turn::checked(frames, false);
    assert_eq!(
        (&turn.error()["error"], &turn.error()["details"]["reason"]),
        (&json!("ENGINE_BUSY"), &json!("disk_full"))
    );
    engine.until("/health", |h| h["status"] == "ok").await;
    assert_eq!(engine.turn("b", "and now?").await.text(), "room again");
    assert_eq!(raw(&engine.stored("&task_id=b").await).find(&turn.raw()), Some(0), "shown frames were lost");
    engine.kill();
    let verified = setup.command(&["verify"]).output().expect("runs");
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
}

#[tokio::test]
async fn a_read_only_disk_is_refused_at_start_with_a_message_that_names_it() {
    let disk = SmallDisk::new("16m");
    let setup = disk.setup(Setup::offline());
    setup.start().await.kill();
    disk.mount("remount,ro");
    let mut engine = setup.spawn();
    engine.expect_log("brain").expect_log("read-only").expect_log("Read-only");
    assert_ne!(engine.exit_code().await, 0);
    let said = engine.log();
    assert!(said.contains(&disk.path().display().to_string()), "{said}");
    assert!(!said.contains("panicked"), "{said}");
}

#[tokio::test]
async fn a_file_that_is_no_brain_is_refused_and_left_alone() {
    let setup = Setup::offline();
    let garbage = vec![7u8; 40_000];
    std::fs::write(setup.brain(), &garbage).expect("written");
    let mut engine = setup.spawn();
    engine.expect_log("restore");
    assert_ne!(engine.exit_code().await, 0);
    let said = engine.log();
    assert!(said.contains("restore") && !said.contains("panicked"), "{said}");
    assert!(std::fs::read(setup.brain()).expect("a file") == garbage, "the file was changed");
    let last: Value = serde_json::from_str(said.lines().last().expect("last words")).expect("one JSON line");
    assert_eq!(last["level"], "ERROR");
    eventually("the lock file stays", || setup.path("brain.sqlite.lock").exists()).await;
}
