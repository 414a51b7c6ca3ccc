//! Backups of a living brain.

use crate::house::{House, SmallDisk, at, names_in, number, options_at, put};
use brain::backup::{self, BackupError, OnExisting, Reason};
use brain::{Brain, meta};
use rusqlite::Connection;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_backup_under_concurrent_writes_is_one_instant() {
    let house = House::new();
    let brain = house.open();
    for n in 0..8_u8 {
        let bytes = vec![n; 1 << 20];
        brain.write("fill", move |tx| brain::blobs::put(tx, &bytes, "x/y", at(1))).await.expect("a blob");
    }
    put(&brain, "left", "0").await.expect("a write");
    put(&brain, "right", "0").await.expect("a write");
    let stop = Arc::new(AtomicBool::new(false));
    let written = Arc::new(AtomicU64::new(0));
    let writer = tokio::spawn({
        let (brain, stop, written) = (brain.clone(), Arc::clone(&stop), Arc::clone(&written));
        async move {
            while !stop.load(Ordering::Relaxed) {
                let n = written.fetch_add(1, Ordering::Relaxed).to_string();
                // Both or neither: a copy that tears a transaction would differ here.
                brain
                    .write("pair", move |tx| {
                        meta::set(tx, "left", &n)?;
                        meta::set(tx, "right", &n)
                    })
                    .await
                    .expect("a write");
            }
        }
    });
    for round in 0..5 {
        let to = house.dir().join(format!("copy-{round}.sqlite"));
        let before = written.load(Ordering::Relaxed);
        let report = brain.backup(to.clone(), OnExisting::Refuse).await.expect("a backup");
        assert!(written.load(Ordering::Relaxed) >= before, "turns go on");
        assert_eq!(report.schema_version, brain.schema_version());
        let copy = Connection::open(&to).expect("open the copy");
        let pairs = "SELECT count(DISTINCT value) FROM brain_meta WHERE key IN ('left', 'right')";
        assert_eq!(number(&copy, pairs), 1);
        assert_eq!(number(&copy, "SELECT count(*) FROM blobs"), 8);
        assert_eq!(std::fs::metadata(&to).expect("the copy").permissions().mode() & 0o777, 0o600);
    }
    stop.store(true, Ordering::Relaxed);
    writer.await.expect("the writer");
    assert!(names_in(house.dir()).iter().all(|n| !n.contains("partial")), "nothing half made is left");
}

#[tokio::test]
async fn a_backup_is_one_file_that_opens_as_a_brain() {
    let house = House::new();
    let brain = house.open();
    put(&brain, "k", "v").await.expect("a write");
    let to = house.dir().join("elsewhere.sqlite");
    brain.backup(to.clone(), OnExisting::Refuse).await.expect("a backup");
    brain::verify::run(&to, brain::schema::MIGRATIONS).expect("a report");
    assert!(names_in(house.dir()).iter().all(|n| !n.starts_with("elsewhere.sqlite-")), "no companions");
    let copy = Brain::open(options_at(to)).expect("opens");
    assert_eq!(crate::house::get(&copy, "k").await.as_deref(), Some("v"));
}

#[tokio::test]
async fn a_taken_name_is_refused_or_replaced_as_asked() {
    let house = House::new();
    let brain = house.open();
    let to = house.dir().join("copy.sqlite");
    std::fs::write(&to, "precious").expect("a file");
    let refused = brain.backup(to.clone(), OnExisting::Refuse).await;
    assert!(matches!(refused, Err(BackupError::Exists(_))), "{refused:?}");
    assert_eq!(std::fs::read(&to).expect("bytes"), b"precious");
    brain.backup(to.clone(), OnExisting::Replace).await.expect("replaced");
    assert_eq!(
        number(&Connection::open(&to).expect("open"), "SELECT count(*) FROM schema_migrations"),
        brain::schema::MIGRATIONS.len() as i64
    );
}

#[tokio::test]
async fn a_backup_that_does_not_fit_leaves_nothing() {
    let house = House::new();
    let brain = house.open();
    let bytes = vec![7; 2 << 20];
    brain.write("fill", move |tx| brain::blobs::put(tx, &bytes, "x/y", at(1))).await.expect("a blob");
    let disk = SmallDisk::new("4m");
    let refused = brain.backup(disk.dir().join("copy.sqlite"), OnExisting::Refuse).await;
    assert!(matches!(refused, Err(BackupError::NoRoom { .. })), "{refused:?}");
    assert_eq!(names_in(disk.dir()), [""; 0]);
}

#[test]
fn only_scheduled_backups_are_pruned_and_the_newest_stay() {
    let house = House::new();
    let touch = |name: &str| std::fs::write(house.dir().join(name), "x").expect("a file");
    for hour in 0..5 {
        touch(&backup::file_name(Reason::Scheduled, at(hour * 3_600_000)));
        touch(&backup::file_name(Reason::Asked, at(hour * 3_600_000 + 1)));
    }
    touch("pre-migration-1-2-20260101T000000000Z.sqlite");
    assert_eq!(backup::prune(house.dir(), 2).expect("prune").len(), 3);
    assert_eq!(backup::prune(house.dir(), 2).expect("again").len(), 0);
    let left = names_in(house.dir());
    assert_eq!(left.len(), 8, "{left:?}");
    assert!(left.contains(&backup::file_name(Reason::Scheduled, at(4 * 3_600_000))));
    assert!(left.contains(&backup::file_name(Reason::Scheduled, at(3 * 3_600_000))));
}

#[test]
fn the_age_of_the_newest_scheduled_backup_is_read_from_its_file() {
    let house = House::new();
    assert_eq!(backup::last_scheduled(&house.dir().join("absent")), None);
    let touch = |reason: Reason, made: i64| {
        let file =
            std::fs::File::create(house.dir().join(backup::file_name(reason, at(made)))).expect("a file");
        let made = std::time::UNIX_EPOCH + std::time::Duration::from_millis(made.unsigned_abs());
        file.set_modified(made).expect("a time");
    };
    touch(Reason::Asked, 9_000_000);
    assert_eq!(backup::last_scheduled(house.dir()), None, "nobody's schedule made it");
    touch(Reason::Scheduled, 3_600_000);
    touch(Reason::Scheduled, 7_200_000);
    touch(Reason::Scheduled, 1_800_000);
    assert_eq!(backup::last_scheduled(house.dir()), Some(at(7_200_000)));
}

#[test]
fn backup_names_sort_by_time() {
    assert_eq!(backup::file_name(Reason::Asked, at(1_777_293_296_789)), "brain-20260427T123456789Z.sqlite");
    assert_eq!(
        backup::file_name(Reason::Scheduled, at(1_777_293_296_789)),
        "brain-20260427T123456789Z-scheduled.sqlite"
    );
}
