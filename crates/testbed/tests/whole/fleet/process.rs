//! Processes of this host: the built programs, who runs in a directory, and signals to them.

use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

/// Longest wait for anything. Everything takes moments; this only keeps a hanging test from hanging the suite.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How often a condition that nobody announces is looked at.
pub const LOOK: Duration = Duration::from_millis(20);

/// A program of this workspace, as it was built beside this test.
pub fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test has a path");
    let program = test.ancestors().nth(2).expect("a target folder").join(name);
    assert!(
        program.is_file(),
        "{} is missing: test the whole workspace, or `cargo build --workspace --bins`",
        program.display()
    );
    program
}

/// Waits until the condition holds; fails the test when it never does.
pub async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    within(PATIENCE, what, holds).await;
}

/// Waits at most this long until the condition holds; the answer is how long it took.
pub async fn within(limit: Duration, what: &str, holds: impl AsyncFn() -> bool) -> Duration {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < limit, "still waiting for: {what}");
        tokio::time::sleep(LOOK).await;
    }
    began.elapsed()
}

/// The child of a process whose title has this word.
pub fn child(parent: i32, word: &str) -> i32 {
    let is_it = |pid: &i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let of = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse::<i32>().ok());
        let title = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        of == Some(parent) && String::from_utf8_lossy(&title).contains(word)
    };
    let all = fs::read_dir("/proc").expect("there is /proc").flatten();
    let mut pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.find(is_it).unwrap_or_else(|| panic!("{parent} has no child {word}"))
}

/// Sends a signal to a process of this test.
pub fn signal(pid: i32, signal: Signal) {
    let pid = Pid::from_raw(pid).expect("a pid is positive");
    kill_process(pid, signal).expect("the process is there and ours");
}

/// Waits for the end of a child.
pub async fn ended(child: &mut Child) -> ExitStatus {
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("our own child") {
            return status;
        }
        assert!(began.elapsed() < PATIENCE, "process {} does not end", child.id());
        tokio::time::sleep(LOOK).await;
    }
}

/// The arguments of a process; empty when it is gone.
pub fn arguments(pid: i32) -> Vec<String> {
    let text = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    text.split(|b| *b == 0).map(|part| String::from_utf8_lossy(part).into_owned()).collect()
}

/// The letter of a process's state; `None` when it is gone.
pub fn state(pid: i32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// Every process of this host that can be looked at.
pub fn all() -> Vec<i32> {
    let entries = fs::read_dir("/proc").expect("/proc is there");
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// Living processes whose environment speaks of a place below this directory.
pub fn told_of(place: &Path) -> Vec<i32> {
    let wanted = place.display().to_string();
    all()
        .into_iter()
        .filter(|pid| state(*pid).is_some_and(|state| state != 'Z'))
        .filter(|pid| {
            let told = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            let told = String::from_utf8_lossy(&told).into_owned();
            told.split('\0')
                .any(|pair| pair.split_once('=').is_some_and(|(_, value)| value.starts_with(&wanted)))
        })
        .collect()
}

/// Does it lead a session of its own, as an engine does? What an engine is just starting looks like the engine itself,
/// arguments and environment, until it has become its program.
fn leads(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let session = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(3)?.parse().ok());
    session == Some(pid)
}

/// Engines that serve this brain's directory.
pub fn engines_in(directory: &Path) -> Vec<i32> {
    let serve = |pid: &i32| arguments(*pid).get(1).is_some_and(|word| word == "serve");
    told_of(directory).into_iter().filter(|pid| serve(pid) && leads(*pid)).collect()
}
