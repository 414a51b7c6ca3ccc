//! The trial of bubblewrap that a killed Engine leaves behind ends by itself, or with the next Engine on its brain.

use crate::sandbox::{processes_mentioning, unique_sleep};
use crate::support::{Engine, LIMIT, Setup, eventually};
use engine::sandbox::groups;
use engine::sandbox::mark::Mark;
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Instant;

/// Starts that are killed: enough to meet every stage of a trial.
const STARTS: usize = 12;

fn carriers(mark: Mark) -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").expect("/proc").flatten();
    let pids = entries.filter_map(|e| e.file_name().to_str()?.parse().ok());
    pids.filter(|&pid| Mark::of_process(pid) == Some(mark)).collect()
}

/// A shell that carries the mark and, told to go on, leaves a sleep behind it and ends.
fn leaves_behind(mark: Mark, sleep: &str) -> std::process::Child {
    let script = format!("read go; sleep {sleep} & read end");
    let child = Command::new("/bin/sh").args(["-c", &script]).stdin(Stdio::piped()).spawn().expect("a shell");
    let limit = Rlimit { current: Some(mark.value()), maximum: Some(mark.value()) };
    prlimit(Some(Pid::from_child(&child)), Resource::Rttime, limit).expect("the limit is set");
    child
}

#[tokio::test]
async fn an_engine_spares_its_own_trial_and_ends_one_that_lost_its_engine() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mark, sleep) = (Mark::of_trial(dir.path()), unique_sleep(30));
    let mut shell = leaves_behind(mark, &sleep);
    let mut say = shell.stdin.take().expect("piped");
    say.write_all(b"go\n").expect("it reads");
    eventually("it sleeps", || processes_mentioning(&sleep).len() == 2).await;
    assert_eq!(groups::kill_orphans(dir.path()), 0, "shell and sleep are below this process");
    assert_eq!(carriers(mark).len(), 2);
    drop(say);
    shell.wait().expect("it ends");
    groups::kill_orphans(&dir.path().join("other"));
    assert_eq!(carriers(mark).len(), 1, "another brain's are left alone");
    assert_eq!(groups::kill_orphans(dir.path()), 0, "a trial is not news");
    eventually("it is dead", || carriers(mark).is_empty()).await;
}

/// Kills the Engine the moment its trial is there, with bubblewrap held where it stands until the Engine is gone.
async fn killed_in_its_trial(setup: &Setup, mark: Mark) -> bool {
    let engine: Engine = setup.spawn();
    let started = Instant::now();
    let held = loop {
        if let Some(first) = carriers(mark).into_iter().min().and_then(Pid::from_raw) {
            // it may be over by now
            let _ = kill_process(first, Signal::STOP);
            break Some(first);
        }
        if engine.log().contains("Sandbox: ") || started.elapsed() > LIMIT {
            break None;
        }
        tokio::task::yield_now().await;
    };
    engine.kill();
    if let Some(pid) = held {
        let _ = kill_process(pid, Signal::CONT);
    }
    held.is_some()
}

#[tokio::test]
async fn a_trial_outlives_no_kill_nine_of_its_engine_even_when_nobody_starts_again() {
    let setup = Setup::offline();
    std::fs::create_dir_all(setup.path("scratch-brain.sqlite")).expect("a directory");
    let scratch = setup.path("scratch-brain.sqlite").canonicalize().expect("is there");
    let mark = Mark::of_trial(&scratch);
    let mut met = 0;
    for _ in 0..STARTS {
        met += usize::from(killed_in_its_trial(&setup, mark).await);
        eventually("the trial has ended by itself", || carriers(mark).is_empty()).await;
    }
    assert!(met > 0 || !std::path::Path::new("/usr/bin/bwrap").exists(), "no trial carries the mark");
}
