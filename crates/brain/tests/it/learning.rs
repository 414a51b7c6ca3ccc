//! Trajectories, feedback, batches and jobs: each moves forward only, and never twice.

use crate::house::{House, at, number, task, turn};
use crate::memories::write;
use brain::memory::batches::{self, Progress, Trigger, Written};
use brain::memory::chunks::{self, Chunk};
use brain::memory::jobs::{self, Kind};
use brain::memory::signals::{self, Signal};
use brain::memory::trajectories::{self, New, State};
use brain::memory::{Change, MemoryId};
use brain::retention::{self, Policy};
use brain::turns;
use contract::memory::{Rating, Trust};
use contract::{BatchId, MessageId, SignalId, TurnId};
use serde_json::json;

const DAY: i64 = 86_400_000;

pub fn signal(turn: &TurnId, message: &MessageId) -> Signal {
    Signal {
        signal_id: SignalId::generate(),
        message_id: message.clone(),
        turn_id: turn.clone(),
        rating: Some(Rating::Down),
        comment: None,
        corrected: Some("Lisbon".to_owned()),
        created_at: at(5),
        processed_at: None,
    }
}

fn trajectory(turn: &TurnId, name: &str, ended: i64) -> New {
    New {
        turn_id: turn.clone(),
        task_id: task(name),
        agent: "chat".to_owned(),
        outcome: "completed".to_owned(),
        trace: json!({"messages": ["msg-1"]}),
        trust: Trust::Tool,
        at: at(ended),
    }
}

#[tokio::test]
async fn a_trajectory_is_learned_from_once_or_given_up_after_three_attempts() {
    let house = House::new();
    let brain = house.open();
    let (good, bad) = (turn(&brain, "good").await, turn(&brain, "bad").await);
    let (one, two) = (trajectory(&good, "good", 20), trajectory(&bad, "bad", 10));
    let expected = two.clone();
    write(&brain, move |tx| {
        trajectories::insert(tx, &one)?;
        trajectories::insert(tx, &two)?;
        trajectories::insert(tx, &two)
    })
    .await;
    let (all, mine, quiet) = write(&brain, |tx| {
        Ok((
            trajectories::pending(tx, None, 10)?,
            trajectories::pending(tx, Some(&task("good")), 10)?,
            trajectories::quiet_since(tx, 10)?,
        ))
    })
    .await;
    assert_eq!(all.iter().map(|t| t.turn.turn_id.clone()).collect::<Vec<_>>(), [bad.clone(), good.clone()]);
    assert_eq!(all[0].turn, expected);
    assert_eq!(mine.len(), 1);
    assert_eq!(quiet, [(task("good"), at(20)), (task("bad"), at(10))]);
    let states = write(&brain, move |tx| {
        let done = [trajectories::processed(tx, &good, at(30))?, trajectories::processed(tx, &good, at(31))?];
        assert_eq!(done, [Change::Changed, Change::Missing]);
        (0..4).map(|n| trajectories::failed(tx, &bad, 3, at(40 + n))).collect::<brain::Result<Vec<_>>>()
    })
    .await;
    assert_eq!(states, [Some(State::Pending), Some(State::Pending), Some(State::Failed), None]);
    assert_eq!(brain.read("test", trajectories::pending_count).await.expect("a read"), 0);
}

#[tokio::test]
async fn a_turn_that_was_passed_over_is_written_down_when_it_ends_and_never_waits() {
    let house = House::new();
    let brain = house.open();
    let id = turn(&brain, "a").await;
    let ended = trajectory(&id, "a", 20);
    let stored = write(&brain, {
        let (id, ended) = (id.clone(), ended.clone());
        move |tx| {
            let under_way = turns::get(tx, &id)?.expect("it is there");
            trajectories::pass_over(tx, &under_way, at(10))?;
            trajectories::pass_over(tx, &under_way, at(11))?;
            trajectories::insert(tx, &ended)?;
            // what a second end says is not taken, and a turn that has ended is not under way
            trajectories::insert(tx, &New { outcome: "another".to_owned(), ..ended })?;
            trajectories::pass_over(tx, &under_way, at(12))?;
            trajectories::get(tx, &id)
        }
    })
    .await
    .expect("a trajectory");
    let mut expected = ended;
    expected.trace["taken_back"] = json!(true);
    assert_eq!((stored.turn, stored.state, stored.processed_at), (expected, State::Processed, Some(at(10))));
}

#[tokio::test]
async fn what_waits_can_be_ended_and_what_was_shown_taken_away_a_page_at_a_time() {
    let house = House::new();
    let brain = house.open();
    let mut turns = Vec::new();
    for name in ["a", "b", "c", "d", "e"] {
        turns.push(turn(&brain, name).await);
        let (id, new) = (turns[turns.len() - 1].clone(), trajectory(&turns[turns.len() - 1], name, 1));
        let given = signal(&id, &MessageId::generate());
        write(&brain, move |tx| {
            trajectories::insert(tx, &new)?;
            trajectories::note_shown(tx, &id, &json!({"patterns": []}))?;
            signals::insert(tx, &given)
        })
        .await;
    }
    let (ended, pages, left, still) = write(&brain, move |tx| {
        let mut ended = Vec::new();
        for _ in 0..3 {
            ended.push((trajectories::end_pending(tx, 3, at(9))?, signals::end_waiting(tx, 4, at(9))?));
        }
        assert!(trajectories::shown_by(tx, &turns[0])?.is_some());
        let (mut after, mut pages) = (None, 0);
        while let Some(last) = trajectories::forget_shown(tx, after.as_ref(), 2)? {
            (after, pages) = (Some(last), pages + 1);
        }
        let left = trajectories::get(tx, &turns[4])?.expect("it is there");
        let still = turns
            .iter()
            .map(|id| Ok(trajectories::shown_by(tx, id)?.is_some()))
            .collect::<brain::Result<Vec<_>>>()?;
        Ok((ended, pages, left, still))
    })
    .await;
    assert_eq!(ended, [(3, 4), (2, 1), (0, 0)]);
    assert_eq!((pages, still), (3, vec![false; 5]));
    assert_eq!((left.state, left.processed_at), (State::Processed, Some(at(9))));
    let rest = json!({"messages": ["msg-1"], "taken_back": true});
    assert_eq!(left.turn.trace, rest, "the rest of the trace stays");
    assert_eq!(brain.read("test", |tx| signals::unprocessed(tx, 9)).await.expect("a read"), []);
}

#[tokio::test]
async fn trajectories_go_their_days_after_processing_and_pending_ones_stay() {
    let house = House::new();
    let brain = house.open();
    for (name, processed) in [("old", Some(DAY)), ("fresh", Some(80 * DAY)), ("pending", None)] {
        let id = turn(&brain, name).await;
        let new = trajectory(&id, name, 1);
        write(&brain, move |tx| {
            trajectories::insert(tx, &new)?;
            processed.map_or(Ok(()), |ms| trajectories::processed(tx, &id, at(ms)).map(drop))
        })
        .await;
    }
    let policy = Policy { trajectory_days: 90, ..Policy::default() };
    let report = retention::run_once(&brain, at(92 * DAY), policy).await.expect("a run");
    assert_eq!(report.trajectories, 1);
    // a task takes its trajectories along
    let piece = write(&brain, |tx| brain::tasks::delete_piece(tx, &task("pending"))).await;
    assert!(piece.done);
    brain.close();
    let plain = house.plain();
    assert_eq!(number(&plain, "SELECT count(*) FROM trajectories"), 1);
    assert_eq!(number(&plain, "SELECT count(*) FROM trajectories WHERE task_id = 'fresh'"), 1);
}

#[tokio::test]
async fn feedback_outlives_its_task_and_is_learned_from_once() {
    let house = House::new();
    let brain = house.open();
    let id = turn(&brain, "a").await;
    let given = signal(&id, &MessageId::generate());
    let (kept, empty) =
        (given.clone(), Signal { rating: None, corrected: None, ..signal(&id, &MessageId::generate()) });
    let refused = brain.write("test", move |tx| signals::insert(tx, &empty)).await;
    assert!(matches!(refused, Err(brain::Error::Constraint(_))), "feedback that says nothing");
    write(&brain, move |tx| signals::insert(tx, &kept)).await;
    assert!(write(&brain, |tx| brain::tasks::delete_piece(tx, &task("a"))).await.done);
    let expected = given.clone();
    let (new, page, done) = write(&brain, move |tx| {
        let new = signals::unprocessed(tx, 10)?;
        let done = [
            signals::processed(tx, &given.signal_id, at(9))?,
            signals::processed(tx, &given.signal_id, at(9))?,
        ];
        assert_eq!(signals::unprocessed(tx, 10)?, []);
        assert_eq!(signals::page(tx, Some(&given.signal_id), 10)?, []);
        Ok((new, signals::page(tx, None, 10)?, done))
    })
    .await;
    assert_eq!((new, done), (vec![expected.clone()], [Change::Changed, Change::Missing]));
    assert_eq!(page, [Signal { processed_at: Some(at(9)), ..expected }]);
}

#[tokio::test]
async fn two_batches_never_run_at_once() {
    let house = House::new();
    let brain = house.open();
    let (first, second) = (BatchId::generate(), BatchId::generate());
    let (a, b) = (first.clone(), second.clone());
    write(&brain, move |tx| {
        assert_eq!(batches::start(tx, &a, Trigger::Schedule, at(1))?, Ok(()));
        let busy = batches::start(tx, &b, Trigger::Manual, at(2))?.expect_err("one is running");
        assert_eq!((busy.batch_id, busy.state), (a.clone(), batches::State::Running));
        let step = Progress {
            trajectories: 1,
            written: Written { episodes: 2, knowledge: 1, social: 0 },
            duplicates: 3,
            tokens_used: 100,
        };
        batches::advance(tx, &a, step)?;
        batches::advance(tx, &a, step)?;
        assert_eq!(
            batches::finish(tx, &a, batches::State::Partial, Some("one failed"), at(3))?,
            Change::Changed
        );
        assert_eq!(batches::advance(tx, &a, step)?, Change::Missing);
        assert_eq!(batches::finish(tx, &a, batches::State::Failed, None, at(4))?, Change::Missing);
        assert_eq!(batches::start(tx, &b, Trigger::Quiet, at(5))?, Ok(()));
        Ok(())
    })
    .await;
    let recent = brain.read("test", |tx| batches::recent(tx, 20)).await.expect("a read");
    assert_eq!(recent.iter().map(|b| b.batch_id.clone()).collect::<Vec<_>>(), [second, first]);
    let done = &recent[1];
    assert_eq!(
        (done.progress.trajectories, done.progress.tokens_used, done.progress.duplicates),
        (2, 200, 6)
    );
    assert_eq!(done.progress.written, Written { episodes: 4, knowledge: 2, social: 0 });
    assert_eq!((done.error.as_deref(), done.ended_at), (Some("one failed"), Some(at(3))));
    brain.close();
    let twice = house.plain().execute("UPDATE learning_batches SET state = 'running'", []);
    assert!(twice.is_err(), "the brain itself refuses the second");
}

#[tokio::test]
async fn a_job_goes_on_where_it_was() {
    let house = House::new();
    let brain = house.open();
    write(&brain, |tx| {
        jobs::start(tx, "job-1", Kind::Import, &json!({"at": 0}), at(1))?;
        jobs::advance(tx, "job-1", &json!({"at": 500})).map(drop)
    })
    .await;
    brain.close();
    let brain = house.open();
    let left = brain.read("test", jobs::unfinished).await.expect("a read");
    assert_eq!(
        left.iter().map(|j| (j.kind, j.state.clone())).collect::<Vec<_>>(),
        [(Kind::Import, json!({"at": 500}))]
    );
    let ends = write(&brain, |tx| {
        let state = json!({"at": 900});
        let ends = [jobs::finish(tx, "job-1", &state, at(2))?, jobs::finish(tx, "job-1", &state, at(3))?];
        assert_eq!(jobs::advance(tx, "job-1", &json!({}))?, Change::Missing);
        assert_eq!(jobs::unfinished(tx)?, []);
        Ok(ends)
    })
    .await;
    assert_eq!(ends, [Change::Changed, Change::Missing]);
}

#[tokio::test]
async fn pieces_of_a_document_live_as_long_as_something_needs_it() {
    let house = House::new();
    let brain = house.open();
    turn(&brain, "a").await;
    turn(&brain, "b").await;
    let name = write(&brain, |tx| {
        let name = brain::blobs::put(tx, b"a document", "text/plain", at(1))?;
        brain::blobs::refer(tx, &name, "conversations", "msg-elsewhere")?;
        let piece =
            |position: i64, text: &str| Chunk { sha256: name.clone(), position, text: text.to_owned() };
        let pieces = [piece(0, "the red chapter"), piece(1, "the blue chapter")];
        for name in ["a", "b"] {
            assert_eq!(chunks::put(tx, &task(name), &pieces, at(1))?, 2);
            assert_eq!(chunks::put(tx, &task(name), &pieces, at(1))?, 0, "twice is once");
        }
        let found = chunks::matching(tx, &task("a"), "blue", 10)?;
        assert_eq!(found, pieces[1..]);
        assert_eq!(chunks::of_document(tx, &task("a"), &name, -1, 10)?, pieces);
        Ok(name)
    })
    .await;
    assert!(write(&brain, |tx| brain::tasks::delete_piece(tx, &task("a"))).await.done);
    let left = brain.read("test", |tx| {
        Ok([
            chunks::matching(tx, &task("a"), "chapter", 10)?.len(),
            chunks::matching(tx, &task("b"), "chapter", 10)?.len(),
        ])
    });
    assert_eq!(left.await.expect("a read"), [0, 2]);
    let kept = retention::run_once(&brain, at(DAY), Policy::default()).await.expect("a run");
    assert_eq!((kept.chunks, kept.blobs), (0, 0), "something refers to it");
    brain.close();
    house.plain().execute("DELETE FROM blob_refs WHERE sha256 = ?1", [name]).expect("let go");
    let brain = house.open();
    let gone = retention::run_once(&brain, at(DAY), Policy::default()).await.expect("a run");
    assert_eq!((gone.chunks, gone.blobs), (2, 1));
    assert_eq!(write(&brain, brain::memory::index::differing).await, [""; 0]);
}

#[tokio::test]
async fn what_was_recalled_into_a_turn_is_known_afterwards() {
    let house = House::new();
    let brain = house.open();
    let id = turn(&brain, "a").await;
    let ids = [MemoryId::parse("fact-1").expect("an id"), MemoryId::parse("ep-2").expect("an id")];
    let expected = ids.to_vec();
    let (before, after) = write(&brain, move |tx| {
        let before = brain::turns::recalled(tx, &id)?;
        brain::turns::set_recalled(tx, &id, &ids)?;
        Ok((before, brain::turns::recalled(tx, &id)?))
    })
    .await;
    assert_eq!((before, after), (Vec::new(), expected));
}
