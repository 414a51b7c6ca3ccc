//! Putting a backup in the brain's place.

use crate::house::{House, events, fact, get, names_in, put, turn};
use brain::backup::OnExisting;
use brain::restore::{self, RestoreError};
use brain::schema::{MIGRATIONS, Migration};
use brain::{Brain, OpenOptions, lock};
use std::path::PathBuf;

async fn backed_up(house: &House, brain: &Brain) -> PathBuf {
    let to = house.dir().join("copy.sqlite");
    brain.backup(to.clone(), OnExisting::Refuse).await.expect("a backup");
    to
}

fn restore(house: &House, from: &std::path::Path) -> Result<restore::Report, RestoreError> {
    let guard = lock::try_acquire(&house.path()).expect("the Engine is stopped");
    restore::run(&house.options(), from, &guard)
}

#[tokio::test]
async fn a_restore_keeps_the_old_brain_and_continues_the_event_numbers() {
    let house = House::new();
    let brain = Brain::open(OpenOptions { generation: Some(3), ..house.options() }).expect("opens");
    let id = turn(&brain, "a").await;
    events(&brain, &id, "a", 10).await;
    put(&brain, "mood", "then").await.expect("a write");
    let copy = backed_up(&house, &brain).await;
    let highest = events(&brain, &id, "a", 90).await;
    put(&brain, "mood", "now").await.expect("a write");
    brain.close();
    Brain::open(OpenOptions { generation: Some(5), ..house.options() }).expect("a newer generation").close();

    let report = restore(&house, &copy).expect("restores");
    assert_eq!(report.next_seq, highest + 1);
    assert_eq!(report.replaced_unreadable, None);
    let kept = report.replaced.expect("the old one is kept");
    let name = kept.file_name().expect("a name").to_string_lossy().into_owned();
    assert!(name.starts_with("brain.sqlite.replaced-"), "{name}");
    assert_eq!(fact(&kept, "mood").as_deref(), Some("now"));

    let brain = house.open();
    assert_eq!(get(&brain, "mood").await.as_deref(), Some("then"));
    assert_eq!(events(&brain, &id, "a", 1).await, highest + 1, "no number is used twice");
    brain.close();
    let fenced = Brain::open(OpenOptions { generation: Some(4), ..house.options() });
    assert!(fenced.is_err(), "a restore does not let a fenced process back in");
}

#[tokio::test]
async fn a_brain_that_died_with_a_log_is_kept_whole() {
    let house = House::new();
    let player = crate::child::Player::writes(&house.path());
    let source = House::new();
    source.open().close();
    player.killed();
    assert!(house.dir().join("brain.sqlite-wal").exists(), "it left a log");
    let report = restore(&house, &source.path()).expect("restores");
    let kept = report.replaced.expect("kept");
    assert!(fact(&kept, "brain_id").is_some());
    let left = names_in(house.dir());
    assert!(!left.contains(&"brain.sqlite-wal".to_owned()), "{left:?}");
    assert_ne!(fact(&house.path(), "brain_id"), fact(&kept, "brain_id"));
}

#[tokio::test]
async fn a_restore_works_over_a_destroyed_brain_and_over_none() {
    let house = House::new();
    let brain = house.open();
    put(&brain, "k", "v").await.expect("a write");
    let copy = backed_up(&house, &brain).await;
    brain.close();
    let rubbish = "rubbish ".repeat(2000);
    std::fs::write(house.path(), &rubbish).expect("damage");
    let report = restore(&house, &copy).expect("restores");
    assert!(report.replaced_unreadable.is_some());
    let kept = report.replaced.expect("even rubbish is kept");
    assert_eq!(std::fs::read_to_string(kept).expect("text"), rubbish);
    assert_eq!(fact(&house.path(), "k").as_deref(), Some("v"));

    let empty = House::new();
    let report = restore(&empty, &copy).expect("restores into nothing");
    assert_eq!(report.replaced, None);
    assert_eq!(fact(&empty.path(), "k").as_deref(), Some("v"));
}

#[tokio::test]
async fn a_bad_backup_changes_nothing() {
    static NEWER: &[Migration] = &[
        Migration { version: 1, name: MIGRATIONS[0].name, sql: MIGRATIONS[0].sql },
        Migration { version: 1000, name: "future", sql: "CREATE TABLE future (x INTEGER);" },
    ];
    let house = House::new();
    let brain = house.open();
    put(&brain, "k", "v").await.expect("a write");
    let copy = backed_up(&house, &brain).await;
    brain.close();
    let before = std::fs::read(house.path()).expect("bytes");

    let mut bytes = std::fs::read(&copy).expect("bytes");
    let middle = bytes.len() / 2;
    bytes[middle..middle + 8192].fill(0xa5);
    let damaged = house.dir().join("damaged.sqlite");
    std::fs::write(&damaged, bytes).expect("a damaged copy");
    assert!(restore(&house, &damaged).is_err(), "damaged");

    let future = House::new();
    Brain::open(OpenOptions { wanted: NEWER, ..future.options() }).expect("the future").close();
    let refused = restore(&house, &future.path()).expect_err("newer");
    assert!(matches!(refused, RestoreError::Newer { found: 1000, .. }), "{refused}");

    assert!(restore(&house, &house.path()).is_err(), "itself");
    assert!(restore(&house, &house.dir().join("nowhere.sqlite")).is_err(), "missing");
    assert_eq!(std::fs::read(house.path()).expect("bytes"), before);
    assert!(names_in(house.dir()).iter().all(|n| !n.contains("partial") && !n.contains("replaced")));
}
