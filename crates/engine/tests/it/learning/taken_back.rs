//! What a person forgets or corrects before its turn was learned from.

use super::{answer, batch, contents, facts, is_lesson, line_of};
use crate::memory::found;
use crate::support::http::Ask;
use crate::support::{Engine, Setup};
use serde_json::{Value, json};
use testbed::model::Script;
use testbed::{Reply, ScriptedModel};

async fn only(engine: &Engine, store: &str, query: &str, part: &str) -> Value {
    let hits = found(engine, store, query).await;
    let hit = hits.iter().find(|hit| hit.to_string().contains(part));
    hit.unwrap_or_else(|| panic!("nothing says {part}: {hits:?}"))["id"].clone()
}

async fn change(engine: &Engine, method: &str, store: &str, id: &Value, body: Value) -> Value {
    let target = format!("/memory/{store}/{}", id.as_str().expect("an id"));
    engine.send(Ask::new(method, &target).body(body.to_string())).await.ok().await
}

async fn open(engine: &Engine, part: &str) -> Vec<String> {
    let mut all = contents(engine, part).await;
    all.retain(|content| content.contains(part));
    all
}

#[tokio::test]
async fn what_is_forgotten_before_its_turn_is_learned_from_stays_forgotten() {
    let engine = Setup::offline().start().await;
    engine.turn("a", "remember that my dog is called Brimble").await;
    engine.turn("b", "what do you know about my dog").await;
    engine.turn("c", "I prefer tea.").await;
    let fact = only(&engine, "knowledge", "dog", "Brimble").await;
    change(&engine, "DELETE", "knowledge", &fact, json!({})).await;
    let status = engine.json("/learning/status").await;
    assert_eq!(status["pending_trajectories"], 1, "only the turn about tea is still learned from");
    batch(&engine, json!({})).await;
    assert_eq!(open(&engine, "Brimble").await, [""; 0]);
    assert_eq!(open(&engine, "tea").await, ["The user prefers tea"]);
}

#[tokio::test]
async fn what_is_corrected_before_its_turn_is_learned_from_stays_corrected() {
    let engine = Setup::offline().start().await;
    engine.turn("a", "remember that the door code is 4711").await;
    engine.turn("b", "remember that my boat is blue").await;
    let code = only(&engine, "knowledge", "door code", "4711").await;
    change(&engine, "PATCH", "knowledge", &code, json!({"content": "the door code is 9922"})).await;
    let boat = only(&engine, "knowledge", "boat", "blue").await;
    change(&engine, "PATCH", "knowledge", &boat, json!({"confidence": 0.5})).await;
    let status = engine.json("/learning/status").await;
    assert_eq!(status["pending_trajectories"], 1, "to be less sure of something takes nothing back");
    batch(&engine, json!({})).await;
    assert_eq!(open(&engine, "door code").await, ["the door code is 9922"]);
}

#[tokio::test]
async fn a_person_and_a_turn_that_are_forgotten_are_not_learned_again() {
    let engine = Setup::offline().start().await;
    engine.turn("a", "Hello! My name is Ada Lovelace.").await;
    let turn = only(&engine, "episodes", "Ada Lovelace", "Ada").await;
    change(&engine, "DELETE", "episodes", &turn, json!({})).await;
    batch(&engine, json!({})).await;
    assert_eq!(open(&engine, "Ada").await, [""; 0]);
    assert_eq!(found(&engine, "social", "Ada Lovelace").await, [json!(null); 0]);
}

#[tokio::test]
async fn who_forgets_is_told_what_says_it_still() {
    let engine = Setup::offline().start().await;
    engine.turn("a", "remember that my dog is called Brimble").await;
    let other = json!({"key": "pets", "description": "A dog and a cat were at the door"});
    engine.post("/memory/episodes", other).await.ok().await;
    let fact = only(&engine, "knowledge", "dog", "Brimble").await;
    let turn = only(&engine, "episodes", "dog Brimble", "Brimble").await;
    let forgotten = change(&engine, "DELETE", "knowledge", &fact, json!({})).await;
    assert_eq!(forgotten["still_said_in"], json!([turn]), "the conversation said it");
    let forgotten = change(&engine, "DELETE", "episodes", &turn, json!({})).await;
    assert_eq!(forgotten["still_said_in"], json!([]));
}

#[tokio::test]
async fn an_answer_about_what_was_forgotten_is_not_taken_for_what_the_person_said() {
    let engine = Setup::offline().start().await;
    engine.turn("a", "remember that my boat is called Zora").await;
    let fact = only(&engine, "knowledge", "boat", "Zora").await;
    let forgotten = change(&engine, "DELETE", "knowledge", &fact, json!({})).await;
    assert_eq!(forgotten["still_said_in"].as_array().map(Vec::len), Some(1), "{forgotten}");
    // what the conversation says is still told, and each time the same
    let told = "Your boat is called Zora; you told me: “my boat is called Zora”.";
    for (task, asked) in ["Who is my boat?", "Who is my boat?", "what is my boat called", "Who is my boat?"]
        .into_iter()
        .enumerate()
    {
        let said = engine.turn(&format!("ask-{task}"), asked).await.text();
        assert!(said.ends_with(told), "{task}: {said}");
    }
    let kept = found(&engine, "episodes", "Who is my boat?").await;
    assert_eq!(
        kept.len(),
        3,
        "the telling and two questions; the same answer again is the same turn: {kept:?}"
    );
    for turn in &kept {
        assert!(turn["value"].to_string().matches("Zora").count() <= 2, "no answer holds another: {turn}");
    }
    // a wish to forget teaches nothing and is no statement either
    let said = engine.turn("wish", "forget that my dentist is Doctor Weber").await.text();
    assert!(said.contains("memory forget ID") && !said.contains("Weber"), "{said}");
    batch(&engine, json!({})).await;
    assert_eq!(open(&engine, "Weber").await, [""; 0]);
    let said = engine.turn("dentist", "who is my dentist?").await.text();
    assert!(said.contains("You have not told me your dentist"), "{said}");
}

/// A model that asks something back in turns that name the dog, and remembers nothing by itself.
pub(super) async fn asking() -> ScriptedModel {
    ScriptedModel::start(Script::from_fn(|request| {
        if is_lesson(request) {
            let said =
                line_of(request, "user", "Brimble").map(|line| ("dog", "The dog is called Brimble", line));
            let tea = line_of(request, "user", "tea").map(|line| ("tea", "The user drinks tea", line));
            let found: Vec<_> = said.into_iter().chain(tea).collect();
            let listed: Vec<_> =
                found.into_iter().map(|(about, text, line)| (about, text, "fact", vec![line])).collect();
            return answer(&facts(&listed));
        }
        if request.results().is_empty() && request.last_user_text().contains("ask me") {
            return Reply::new().tool_call("ask_user", json!({"question": "Which of the two?"}));
        }
        Reply::text("Done.")
    }))
    .await
}

#[tokio::test]
async fn a_turn_that_waits_while_what_it_said_is_forgotten_teaches_nothing_of_it() {
    let model = asking().await;
    let engine = Setup::scripted(&model).start().await;
    engine.turn("a", "My dog is called Brimble").await;
    batch(&engine, json!({})).await;
    let fact = only(&engine, "knowledge", "dog", "Brimble").await;
    let mut stream =
        engine.execute(json!({"task_id": "b", "message": "Brimble barks, ask me which dog"})).await;
    stream.until_event("hitl_request").await;
    let mut other = engine.execute(json!({"task_id": "c", "message": "I drink tea, ask me which"})).await;
    other.until_event("hitl_request").await;
    change(&engine, "DELETE", "knowledge", &fact, json!({})).await;
    for (task, stream) in [("b", stream), ("c", other)] {
        engine.answer(json!({"task_id": task, "answer": "the first"})).await;
        stream.rest().await;
    }
    let status = engine.json("/learning/status").await;
    assert_eq!(status["pending_trajectories"], 1, "the turn about tea had nothing to do with it");
    batch(&engine, json!({})).await;
    assert_eq!(open(&engine, "Brimble").await, [""; 0]);
    assert_eq!(open(&engine, "tea").await, ["The user drinks tea"]);
}

#[tokio::test]
async fn feedback_that_waits_or_comes_later_does_not_bring_back_what_was_forgotten() {
    let model = asking().await;
    let engine = Setup::scripted(&model).start().await;
    let said = engine.turn("a", "My dog is called Brimble").await;
    let message = said.last().data["message_id"].clone();
    batch(&engine, json!({})).await;
    let waits = json!({"message_id": message, "rating": "down", "corrected": "Brimble is the dog's name"});
    engine.post("/feedback", waits).await.ok().await;
    let fact = only(&engine, "knowledge", "dog", "Brimble").await;
    change(&engine, "DELETE", "knowledge", &fact, json!({})).await;
    batch(&engine, json!({})).await;
    assert_eq!(open(&engine, "Brimble").await, [""; 0], "the feedback said it");
    let lessons = || model.calls().iter().filter(|call| is_lesson(call)).count();
    let before = lessons();
    engine
        .post("/feedback", json!({"message_id": message, "rating": "up", "comment": "I drink tea, too"}))
        .await
        .ok()
        .await;
    batch(&engine, json!({})).await;
    assert_eq!(open(&engine, "Brimble").await, [""; 0], "the turn is not read again");
    assert_eq!(open(&engine, "tea").await, ["The user drinks tea"], "what the feedback says is");
    assert!(lessons() > before);
}

#[tokio::test]
async fn an_edit_that_adds_takes_nothing_back_and_one_that_removes_only_that() {
    let engine = Setup::offline().start().await;
    let asha = json!({"name": "Asha", "aliases": ["Ash", "Red Fox"], "attributes": {"car": "a blue Volvo"}});
    engine.post("/memory/social", asha).await.ok().await;
    let asha = only(&engine, "social", "Asha", "Asha").await;
    for (task, said) in [
        ("a", "Asha moved to Lisbon"),
        ("b", "Red Fox called"),
        ("c", "Asha has the Volvo at the garage"),
        ("d", "a Volvo is a car"),
    ] {
        engine.turn(task, said).await;
    }
    let pending = async || engine.json("/learning/status").await["pending_trajectories"].clone();
    change(&engine, "PATCH", "social", &asha, json!({"aliases": ["Ash", "Red Fox", "Ashie"]})).await;
    assert_eq!(pending().await, 4, "an alias more");
    change(&engine, "PATCH", "social", &asha, json!({"aliases": ["Ash", "Ashie"]})).await;
    assert_eq!(pending().await, 3, "who said the alias that is gone");
    change(&engine, "PATCH", "social", &asha, json!({"attributes": {"car": "a red Saab"}})).await;
    assert_eq!(pending().await, 2, "who said the car that was hers");
    let nobody = json!({"name": "The Who"});
    engine.post("/memory/social", nobody).await.ok().await;
    let nobody = only(&engine, "social", "The Who", "The Who").await;
    let forgotten = change(&engine, "DELETE", "social", &nobody, json!({})).await;
    assert_eq!((forgotten["not_learned_from"].clone(), pending().await), (json!(0), json!(2)));
}
