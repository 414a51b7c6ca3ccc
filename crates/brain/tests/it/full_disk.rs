//! No room left.

use crate::house::{SmallDisk, at, get, options_at, put};
use brain::{Brain, Error, blobs};
use std::time::Duration;
use tokio::task::JoinSet;

#[tokio::test]
async fn a_full_disk_loses_nothing_acknowledged_and_passes() {
    let disk = SmallDisk::new("12m");
    let ballast = disk.dir().join("ballast");
    std::fs::write(&ballast, vec![1; 6 << 20]).expect("ballast");
    let brain = Brain::open(options_at(disk.dir().join("brain.sqlite"))).expect("opens");
    let mut kept = Vec::new();
    let failure = loop {
        // Different bytes each time: the same blob is stored once. More than 255 would not be a small disk.
        let bytes = vec![u8::try_from(kept.len()).expect("the disk fills soon"); 256 << 10];
        let name = blobs::name_of(&bytes);
        match brain.write("test.fill", move |tx| blobs::put(tx, &bytes, "x/y", at(1))).await {
            Ok(_) => kept.push(name),
            Err(error) => break error,
        }
    };
    assert!(matches!(failure, Error::DiskFull), "{failure:?}");
    assert!(brain.is_failed());
    assert!(!kept.is_empty());
    for name in kept {
        let found = brain.read("test.read", move |tx| blobs::get(tx, &name)).await.expect("reads go on");
        assert!(found.is_some());
    }

    std::fs::remove_file(&ballast).expect("make room");
    put(&brain, "after", "room again").await.expect("the next commit succeeds");
    assert!(!brain.is_failed());
    assert_eq!(get(&brain, "after").await.as_deref(), Some("room again"));
    brain.close();
}

#[tokio::test]
async fn a_full_disk_heals_without_anyone_writing() {
    let disk = SmallDisk::new("8m");
    let ballast = disk.dir().join("ballast");
    std::fs::write(&ballast, vec![1; 5 << 20]).expect("ballast");
    let brain = Brain::open(options_at(disk.dir().join("brain.sqlite"))).expect("opens");
    let bytes = vec![0; 4 << 20];
    let answer = brain.write("test.fill", move |tx| blobs::put(tx, &bytes, "x/y", at(1))).await;
    assert!(matches!(answer, Err(Error::DiskFull)), "{answer:?}");
    assert!(brain.is_failed());
    std::fs::remove_file(&ballast).expect("make room");
    let healed = async {
        while brain.is_failed() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), healed).await.expect("the writer tries again by itself");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_full_disk_every_answer_is_true() {
    let disk = SmallDisk::new("16m");
    let brain = Brain::open(options_at(disk.dir().join("brain.sqlite"))).expect("opens");
    let mut jobs = JoinSet::new();
    for n in 0..60_u8 {
        // Some overflow SQLite's cache inside the closure, some only at the commit they share.
        let bytes = vec![n; if n % 5 == 0 { 3 << 20 } else { 30 << 10 }];
        let (brain, name) = (brain.clone(), blobs::name_of(&bytes));
        jobs.spawn(async move {
            let answer = brain.write("test.fill", move |tx| blobs::put(tx, &bytes, "x/y", at(1))).await;
            (name, answer)
        });
    }
    let (mut kept, mut refused) = (0, 0);
    for (name, answer) in jobs.join_all().await {
        let found = brain.read("test.read", move |tx| blobs::get(tx, &name)).await.expect("reads go on");
        match answer {
            Ok(_) => kept += 1,
            Err(Error::DiskFull | Error::Commit(_)) => refused += 1,
            Err(other) => panic!("{other}"),
        }
        assert_eq!(found.is_some(), answer.is_ok(), "{answer:?}");
    }
    assert!(kept > 0 && refused > 0, "{kept} kept, {refused} refused");
}
