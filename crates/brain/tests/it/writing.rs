//! Jobs that share a commit, jobs that fail, jobs that panic.

use crate::house::{House, get, put, turn};
use brain::{Brain, Error, meta};
use std::sync::mpsc;
use std::time::Duration;
use tokio::task::JoinSet;

/// Occupies the writer until the returned sender is dropped, so that what follows queues up as one group.
async fn occupied(brain: &Brain) -> (mpsc::Sender<()>, tokio::task::JoinHandle<brain::Result<()>>) {
    let (release, released) = mpsc::channel::<()>();
    let (begun, has_begun) = tokio::sync::oneshot::channel();
    let brain = brain.clone();
    let job = tokio::spawn(async move {
        brain
            .write("test.occupy", move |_| {
                let _ = begun.send(());
                let _ = released.recv_timeout(Duration::from_secs(30));
                Ok(())
            })
            .await
    });
    has_begun.await.expect("the job runs");
    (release, job)
}

#[tokio::test]
async fn a_failing_job_does_not_undo_its_neighbours() {
    let house = House::new();
    let brain = house.open();
    let (release, first) = occupied(&brain).await;
    let mut jobs = JoinSet::new();
    for n in 0..30 {
        let brain = brain.clone();
        jobs.spawn(async move {
            let wrote = brain.write("test.mixed", move |tx| {
                meta::set(tx, &format!("job.{n}"), "done")?;
                match n % 3 {
                    0 => Ok(()),
                    1 => Err(Error::bad_data("test.column", "nonsense")),
                    _ => panic!("job {n} panics"),
                }
            });
            (n, wrote.await)
        });
    }
    tokio::task::yield_now().await;
    drop(release);
    first.await.expect("join").expect("the occupying job");
    for (n, outcome) in jobs.join_all().await {
        match n % 3 {
            0 => assert!(outcome.is_ok(), "{n}: {outcome:?}"),
            1 => assert!(matches!(outcome, Err(Error::BadData { .. })), "{n}: {outcome:?}"),
            _ => {
                let Err(Error::Panicked { name, message }) = outcome else { panic!("{n}: {outcome:?}") };
                assert_eq!((name, message), ("test.mixed", format!("job {n} panics")));
            }
        }
        let kept = get(&brain, &format!("job.{n}")).await;
        assert_eq!(kept.is_some(), n % 3 == 0, "{n}");
    }
    assert!(!brain.is_failed());
}

#[tokio::test]
async fn a_read_sees_every_write_that_returned_before_it() {
    let house = House::new();
    let brain = house.open();
    for n in 0..200 {
        put(&brain, "n", &n.to_string()).await.expect("a write");
        assert_eq!(get(&brain, "n").await, Some(n.to_string()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_caller_ever_hears_that_the_database_is_locked() {
    let house = House::new();
    let brain = house.open();
    let mut jobs = JoinSet::new();
    for n in 0..40 {
        let brain = brain.clone();
        jobs.spawn(async move {
            for m in 0..25 {
                put(&brain, &format!("{n}.{m}"), "v").await.expect("a write");
                assert!(get(&brain, &format!("{n}.{m}")).await.is_some());
            }
        });
    }
    jobs.join_all().await;
}

#[tokio::test]
async fn a_read_cannot_write() {
    let house = House::new();
    let brain = house.open();
    let refused = brain.read("test", |tx| meta::set(tx, "k", "v")).await;
    assert!(matches!(refused, Err(Error::ReadOnly(_))), "{refused:?}");
    assert!(!brain.is_failed());
    assert_eq!(get(&brain, "k").await, None);
}

#[tokio::test]
async fn a_panicking_read_leaves_the_reader_at_work() {
    let house = House::new();
    let brain = house.open();
    for _ in 0..10 {
        let outcome = brain.read("test.panic", |_| -> brain::Result<()> { panic!("{}", "no") }).await;
        assert!(matches!(outcome, Err(Error::Panicked { name: "test.panic", .. })), "{outcome:?}");
    }
    assert!(get(&brain, meta::BRAIN_ID).await.is_some());
}

#[tokio::test]
async fn a_broken_rule_is_told_as_a_constraint() {
    let house = House::new();
    let brain = house.open();
    turn(&brain, "a").await;
    let second = brain
        .write("test", |tx| {
            let turn = brain::turns::open_of(tx, &crate::house::task("a"))?.expect("the open turn");
            brain::blobs::put(tx, b"undone with the rest", "text/plain", crate::house::at(1))?;
            brain::turns::insert(
                tx,
                &brain::turns::NewTurn {
                    turn_id: contract::TurnId::generate(),
                    task_id: turn.task_id,
                    agent: turn.agent,
                    direct: false,
                    super_thinking: false,
                    idempotency_key: None,
                    request_hash: turn.request_hash,
                    request: turn.request,
                    output_schema: None,
                    user_message_id: contract::MessageId::generate(),
                    at: crate::house::at(2),
                },
            )
        })
        .await;
    assert!(matches!(second, Err(Error::Constraint(_))), "{second:?}");
    let name = brain::blobs::name_of(b"undone with the rest");
    let kept = brain.read("test", move |tx| brain::blobs::get(tx, &name)).await.expect("a read");
    assert_eq!(kept, None);
}

#[tokio::test]
async fn closing_finishes_what_was_accepted() {
    let house = House::new();
    let brain = house.open();
    let (release, first) = occupied(&brain).await;
    let mut jobs = JoinSet::new();
    for n in 0..50 {
        let brain = brain.clone();
        jobs.spawn(async move { put(&brain, &format!("late.{n}"), "v").await });
    }
    tokio::task::yield_now().await;
    let closing = tokio::task::spawn_blocking({
        let brain = brain.clone();
        move || brain.close()
    });
    drop(release);
    closing.await.expect("close");
    first.await.expect("join").expect("the occupying job");
    let accepted = jobs.join_all().await.into_iter().filter(Result::is_ok).count();
    let kept =
        crate::house::number(&house.plain(), "SELECT count(*) FROM brain_meta WHERE key LIKE 'late.%'");
    assert_eq!(usize::try_from(kept).expect("a count"), accepted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_log_does_not_grow_without_limit_under_a_long_read() {
    let house = House::new();
    let brain = house.open();
    let (release, released) = mpsc::channel::<()>();
    let (begun, has_begun) = tokio::sync::oneshot::channel();
    let reader = tokio::spawn({
        let brain = brain.clone();
        async move {
            brain
                .read("test.long", move |tx| {
                    meta::get(tx, meta::BRAIN_ID)?;
                    let _ = begun.send(());
                    let _ = released.recv_timeout(Duration::from_secs(60));
                    Ok(())
                })
                .await
        }
    });
    has_begun.await.expect("the reader reads");
    let megabyte = |n: usize| vec![u8::try_from(n % 251).expect("a byte"); 4 << 20];
    for n in 0..20 {
        let bytes = megabyte(n);
        brain
            .write("test.blob", move |tx| brain::blobs::put(tx, &bytes, "x/y", crate::house::at(1)))
            .await
            .expect("a long reader does not stop a writer");
    }
    assert!(brain.file_sizes().1 > 64 << 20, "the reader held the log");
    drop(release);
    reader.await.expect("join").expect("the read");
    let bytes = megabyte(99);
    brain
        .write("test.blob", move |tx| brain::blobs::put(tx, &bytes, "x/y", crate::house::at(1)))
        .await
        .expect("a write");
    // The cut follows the answer; the next answer follows the cut.
    let mut wal = u64::MAX;
    for n in 0..8 {
        let bytes = megabyte(100 + n);
        brain
            .write("test.blob", move |tx| brain::blobs::put(tx, &bytes, "x/y", crate::house::at(1)))
            .await
            .expect("a write");
        wal = brain.file_sizes().1;
    }
    assert!(wal <= 64 << 20, "the log has {wal} bytes after the reader left");
}
