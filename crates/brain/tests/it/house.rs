//! Words the tests share: a directory with a brain in it, probes, small disks.

use brain::{Brain, OpenOptions, Result, meta};
use contract::conversation::Usage;
use contract::event::Purpose;
use contract::{MessageId, TaskId, Timestamp, TurnId};
use rusqlite::Connection;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// A directory for one test's brain.
pub struct House {
    dir: TempDir,
}

impl House {
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a temporary directory") }
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn path(&self) -> PathBuf {
        self.dir.path().join("brain.sqlite")
    }

    pub fn options(&self) -> OpenOptions {
        options_at(self.path())
    }

    pub fn open(&self) -> Brain {
        Brain::open(self.options()).expect("the brain opens")
    }

    /// The file seen by a stranger with plain SQLite.
    pub fn plain(&self) -> Connection {
        Connection::open(self.path()).expect("plain SQLite opens it")
    }

    pub fn backups(&self) -> Vec<String> {
        names_in(&self.options().backup_dir)
    }
}

/// Options that do not wait for the lock.
pub fn options_at(path: PathBuf) -> OpenOptions {
    OpenOptions { lock_wait: std::time::Duration::ZERO, ..OpenOptions::at(path) }
}

/// Sorted file names of a directory; none when it is not there.
pub fn names_in(dir: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut names: Vec<String> =
        entries.map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Writes a fact and waits for its commit.
pub async fn put(brain: &Brain, key: &str, value: &str) -> Result<()> {
    let (key, value) = (key.to_owned(), value.to_owned());
    brain.write("test.put", move |tx| meta::set(tx, &key, &value)).await
}

/// Reads a fact.
pub async fn get(brain: &Brain, key: &str) -> Option<String> {
    let key = key.to_owned();
    brain.read("test.get", move |tx| meta::get(tx, &key)).await.expect("a read")
}

/// A fact read by plain SQLite from a closed file.
pub fn fact(path: &Path, key: &str) -> Option<String> {
    let conn = Connection::open(path).expect("open");
    conn.query_row("SELECT value FROM brain_meta WHERE key = ?1", [key], |r| r.get(0)).ok()
}

/// A number from plain SQLite.
pub fn number(conn: &Connection, sql: &str) -> i64 {
    conn.query_row(sql, [], |r| r.get(0)).expect(sql)
}

pub fn at(ms: i64) -> Timestamp {
    Timestamp::from_millis(ms)
}

pub fn task(name: &str) -> TaskId {
    TaskId::parse(name).expect("a task id")
}

/// A task with one queued turn.
pub async fn turn(brain: &Brain, name: &str) -> TurnId {
    let (id, task) = (TurnId::generate(), task(name));
    let turn = brain::turns::NewTurn {
        turn_id: id.clone(),
        task_id: task.clone(),
        agent: "chat".to_owned(),
        direct: false,
        super_thinking: false,
        idempotency_key: None,
        request_hash: "0".to_owned(),
        request: serde_json::json!({}),
        output_schema: None,
        user_message_id: MessageId::generate(),
        at: at(1),
    };
    brain
        .write("test.turn", move |tx| {
            brain::tasks::ensure(tx, &task, "title", "chat", at(1))?;
            brain::turns::insert(tx, &turn)
        })
        .await
        .expect("a turn");
    id
}

/// Appends `count` events to a turn's log.
pub async fn events(brain: &Brain, turn: &TurnId, name: &str, count: usize) -> i64 {
    let (turn, task) = (turn.clone(), task(name));
    brain
        .write("test.events", move |tx| {
            let mut last = 0;
            for _ in 0..count {
                let event = contract::Event::TextDelta(contract::event::Delta {
                    text: "x".to_owned(),
                    block_index: 0,
                });
                last = brain::events::append(tx, &task, &turn, &event, None, at(1))?.seq;
            }
            Ok(last)
        })
        .await
        .expect("events")
}

/// One model call's usage.
pub fn call(turn: &TurnId, name: &str, day: i64, offset: i64) -> brain::usage::Call {
    brain::usage::Call {
        turn_id: Some(turn.clone()),
        task_id: Some(task(name)),
        provider: "openai".to_owned(),
        model: "gpt".to_owned(),
        purpose: Purpose::Main,
        usage: Usage { input_tokens: 10, output_tokens: 2, cache_hit_tokens: 1 },
        estimated: false,
        duration_ms: 5,
        at: at(day * 86_400_000 + offset),
    }
}

/// A small disk of its own, gone with the value. Needs root, like the containers these tests run in.
pub struct SmallDisk {
    mount: TempDir,
}

impl SmallDisk {
    pub fn new(size: &str) -> Self {
        let mount = tempfile::tempdir().expect("a mount point");
        let disk = Self { mount };
        disk.mount_with(&format!("size={size}"), &[]);
        disk
    }

    pub fn dir(&self) -> &Path {
        self.mount.path()
    }

    pub fn make_read_only(&self) {
        self.mount_with("remount,ro", &[]);
    }

    fn mount_with(&self, options: &str, more: &[&str]) {
        let done = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options])
            .args(more)
            .args(["tmpfs"])
            .arg(self.mount.path())
            .output()
            .expect("the `mount` program");
        assert!(
            done.status.success(),
            "mounting a tmpfs failed; this test needs root (CAP_SYS_ADMIN): {}",
            String::from_utf8_lossy(&done.stderr)
        );
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.mount.path()).status();
    }
}
