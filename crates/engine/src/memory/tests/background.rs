//! What happens beside searches and writes: late vectors, failing endpoints, restarts, another model.

use super::embedder::{DIM, Mode, ODD, Scripted};
use super::{LIMIT, PATIENT, Place, fact, ids, note};
use brain::memory::jobs::{self, Kind};
use brain::memory::vectors::{self, Model};
use brain::meta;
use contract::Timestamp;
use contract::memory::Store;
use llm::embeddings::Embedder;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Waits for something that the background brings about.
async fn eventually(what: &str, holds: impl AsyncFn() -> bool) {
    let by = Instant::now() + LIMIT;
    while !holds().await {
        assert!(Instant::now() < by, "{what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn a_vector_that_is_late_leaves_the_search_to_words_and_serves_the_next_one() {
    let place = Place::new();
    let embedder = Scripted::new("a");
    let memory = place.patient(&embedder, Duration::from_millis(20));
    let halt = CancellationToken::new();
    memory.start(&halt);
    let car = memory.add(fact("travel", "Ada drives a red car")).await;
    memory.until_embedded().await;
    embedder.turn(Mode::Holding);
    assert!(memory.ask(Store::Knowledge, "automobile").await.is_empty(), "no word in common, no vector yet");
    assert_eq!(
        ids(&memory.ask(Store::Knowledge, "red automobile").await),
        std::slice::from_ref(&car),
        "by a word"
    );
    embedder.turn(Mode::Fine);
    eventually("the late vector came", async || {
        ids(&memory.ask(Store::Knowledge, "automobile").await) == [car.clone()]
    })
    .await;
    assert_eq!(embedder.asked("automobile"), 1, "the late vector was kept");
    assert!(!memory.embeddings_failed());
    halt.cancel();
}

#[tokio::test]
async fn a_failing_embedder_loses_no_text_and_is_told_and_asked_again() {
    let place = Place::new();
    let embedder = Scripted::new("a").is(Mode::Failing);
    let memory = place.scripted(&embedder);
    let halt = CancellationToken::new();
    memory.start(&halt);
    let car = memory.add(fact("travel", "Ada drives a red car")).await;
    eventually("it is told", async || memory.embeddings_failed()).await;
    assert_eq!(memory.unembedded().await, 1);
    assert_eq!(ids(&memory.ask(Store::Knowledge, "red").await), std::slice::from_ref(&car));
    assert!(memory.embeddings_failed(), "a search failed to get its vector, too");
    embedder.turn(Mode::Fine);
    memory.until_embedded().await;
    assert!(!memory.embeddings_failed());
    assert_eq!(ids(&memory.ask(Store::Knowledge, "automobile").await), [car]);
    halt.cancel();
}

#[tokio::test]
async fn a_text_that_the_endpoint_refuses_keeps_no_other_from_its_vector() {
    let place = Place::new();
    let embedder = Scripted::new("a").is(Mode::Failing);
    let memory = place.scripted(&embedder);
    let odd = memory.add(note("odd", &format!("{ODD} number nine"))).await;
    let car = memory.add(note("travel", "Ada drives a red car")).await;
    embedder.turn(Mode::Fine);
    let halt = CancellationToken::new();
    memory.start(&halt);
    memory.until_embedded().await;
    assert_eq!(ids(&memory.ask(Store::Episodes, "automobile").await), [car]);
    assert_eq!(ids(&memory.ask(Store::Episodes, "nine").await), [odd], "it is found by its words");
    assert!(!memory.embeddings_failed());
    halt.cancel();
}

#[tokio::test]
async fn texts_are_embedded_in_batches_of_sixty_four() {
    let place = Place::new();
    let embedder = Scripted::new("a").is(Mode::Failing);
    let memory = place.scripted(&embedder);
    for n in 0..100 {
        memory.add(note(&format!("note {n}"), &format!("number {n} of word{n} and other{n}"))).await;
    }
    embedder.turn(Mode::Fine);
    let before = embedder.calls().len();
    let halt = CancellationToken::new();
    memory.start(&halt);
    memory.until_embedded().await;
    let sizes: Vec<usize> = embedder.calls()[before..].iter().map(Vec::len).collect();
    assert_eq!(sizes, [64, 36]);
    halt.cancel();
}

#[tokio::test]
async fn after_a_restart_words_find_at_once_and_vectors_as_soon_as_the_codes_are_in_ram() {
    let place = Place::new();
    let embedder = Scripted::new("a");
    let (car, halt) = {
        let memory = place.scripted(&embedder);
        let halt = CancellationToken::new();
        memory.start(&halt);
        let car = memory.add(fact("travel", "Ada drives a red car")).await;
        memory.until_embedded().await;
        halt.cancel();
        (car, memory)
    };
    // As after kill -9: nothing of the other memory is used, and its brain is closed first.
    halt.brain.close();
    let memory = place.scripted(&embedder);
    assert!(memory.ask(Store::Knowledge, "automobile").await.is_empty());
    assert_eq!(ids(&memory.ask(Store::Knowledge, "red").await), std::slice::from_ref(&car));
    let halt = CancellationToken::new();
    memory.start(&halt);
    eventually("the codes are filled", async || {
        ids(&memory.ask(Store::Knowledge, "automobile").await) == [car.clone()]
    })
    .await;
    halt.cancel();
}

#[tokio::test]
async fn another_model_embeds_everything_anew_and_until_then_words_find_what_it_has_not_seen() {
    let place = Place::new();
    let first = Scripted::new("first");
    let memory = place.scripted(&first);
    let halt = CancellationToken::new();
    memory.start(&halt);
    let mut added = Vec::new();
    for n in 0..70 {
        added.push(memory.add(note(&format!("trip{n}"), &format!("journey{n} car"))).await);
    }
    memory.until_embedded().await;
    halt.cancel();
    memory.brain.close();

    let second = Scripted::new("second").is(Mode::Holding);
    let memory = place.patient(&second, Duration::from_millis(20));
    let halt = CancellationToken::new();
    memory.start(&halt);
    eventually("the job has begun", async || {
        memory.stats(Timestamp::now()).await.expect("stats")["embedding"]["reembedding"] == true
    })
    .await;
    assert_eq!(memory.unembedded().await, 70);
    assert_eq!(ids(&memory.ask(Store::Episodes, "journey7").await), [added[7].clone()]);
    let jobs = memory.brain.read("jobs", jobs::unfinished).await.expect("jobs");
    assert_eq!(jobs.iter().map(|j| j.kind).collect::<Vec<_>>(), [Kind::Reembed]);

    // The process dies in the middle of it and goes on where it was.
    halt.cancel();
    memory.brain.close();
    second.turn(Mode::Fine);
    let memory = place.scripted(&second);
    let halt = CancellationToken::new();
    memory.start(&halt);
    memory.until_embedded().await;
    eventually("the job is over", async || {
        memory.brain.read("jobs", jobs::unfinished).await.expect("jobs").is_empty()
    })
    .await;
    // What statistics say follows the job's end.
    eventually("the statistics say so", async || {
        memory.stats(Timestamp::now()).await.expect("stats")["embedding"]["reembedding"] == false
    })
    .await;
    let old = Model { name: first.space(), dim: DIM as u32 };
    let (left, named) = memory
        .brain
        .read("old vectors", move |tx| {
            Ok((vectors::count(tx, Store::Episodes, &old)?, meta::get(tx, meta::EMBEDDING_MODEL)?))
        })
        .await
        .expect("read");
    assert_eq!((left, named.as_deref()), (0, Some("second")));
    let found = memory.ask(Store::Episodes, "vehicle journey7").await;
    assert_eq!(found[0].item.id(), added[7]);
    assert!(found.len() > 1, "the other cars are near, too");
    halt.cancel();
}

#[tokio::test]
async fn a_first_start_notes_the_model_and_begins_no_job() {
    let place = Place::new();
    let memory = place.patient(&Scripted::new("a"), PATIENT);
    let halt = CancellationToken::new();
    memory.start(&halt);
    eventually("the model is noted", async || {
        let noted = memory.brain.read("model", |tx| meta::get(tx, meta::EMBEDDING_SPACE)).await;
        noted.expect("read").is_some()
    })
    .await;
    assert!(memory.brain.read("jobs", jobs::unfinished).await.expect("jobs").is_empty());
    halt.cancel();
}
