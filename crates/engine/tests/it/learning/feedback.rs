//! Feedback can be looked through and erased by who gave it.

use super::{batch, contents};
use crate::memory::found;
use crate::support::http::Ask;
use crate::support::{Engine, Setup};
use serde_json::{Value, json};

async fn given(engine: &Engine, body: Value) -> String {
    engine.post("/feedback", body).await.ok().await["signal_id"].as_str().expect("an id").to_owned()
}

fn ids(answer: &Value) -> Vec<&str> {
    let signals = answer["signals"].as_array().expect("a list").iter();
    signals.map(|signal| signal["signal_id"].as_str().expect("an id")).collect()
}

#[tokio::test]
async fn feedback_is_listed_newest_first_page_by_page() {
    let engine = Setup::offline().start().await;
    assert_eq!(engine.json("/feedback").await, json!({"signals": [], "next_cursor": null}));
    let turn = engine.turn("talk", "hello").await;
    let message = turn.last().data["message_id"].clone();
    let mut wanted = Vec::new();
    for n in 0..5 {
        let body = json!({"message_id": message, "rating": "up", "comment": format!("thanks {n}")});
        wanted.insert(0, given(&engine, body).await);
    }
    let first = engine.json("/feedback?limit=2").await;
    assert_eq!(ids(&first), [&*wanted[0], &*wanted[1]]);
    let next = |page: &Value| page["next_cursor"].as_str().expect("there is more").to_owned();
    let mut shown = first["signals"][0].clone();
    assert!(shown.as_object_mut().expect("an object").remove("created_at").is_some_and(|t| t.is_string()));
    assert_eq!(
        shown,
        json!({"signal_id": wanted[0], "message_id": message, "turn_id": turn.turn_id(), "rating": "up",
            "comment": "thanks 4", "corrected": null, "processed_at": null})
    );
    // what comes meanwhile is on no later page
    given(&engine, json!({"message_id": message, "rating": "down"})).await;
    // nor does what was seen and deleted take the place along
    engine.send(Ask::new("DELETE", &format!("/feedback/{}", wanted[1]))).await.ok().await;
    let second = engine.json(&format!("/feedback?limit=2&cursor={}", next(&first))).await;
    assert_eq!(ids(&second), [&*wanted[2], &*wanted[3]]);
    let last = engine.json(&format!("/feedback?limit=2&cursor={}", next(&second))).await;
    assert_eq!((ids(&last), &last["next_cursor"]), (vec![&*wanted[4]], &Value::Null));

    for (query, field) in [("limit=101", "limit"), ("limit=0", "limit"), ("cursor=x", "cursor")] {
        let error = engine.get(&format!("/feedback?{query}")).await.error(400, "INVALID_REQUEST").await;
        assert_eq!(error["details"]["field"], field);
    }
}

#[tokio::test]
async fn erased_feedback_is_not_learned_from_and_what_it_moved_stays_moved() {
    let engine = Setup::offline().start().await;
    let turn = engine.turn("talk", "I prefer green tea.").await;
    let message = turn.last().data["message_id"].clone();
    batch(&engine, json!({})).await;
    let sure = async || found(&engine, "knowledge", "green tea").await[0]["confidence"].as_f64();
    let before = sure().await.expect("learned");
    let down = given(&engine, json!({"message_id": message, "rating": "down"})).await;
    batch(&engine, json!({})).await;
    let moved = sure().await.expect("still there");
    assert!(moved < before, "{moved} is not below {before}");

    let gone = engine.send(Ask::delete(&format!("/feedback/{down}"))).await.ok().await;
    assert_eq!(gone, json!({"status": "deleted", "signal_id": down, "also_deleted": []}));
    engine.send(Ask::delete(&format!("/feedback/{down}"))).await.error(404, "NOT_FOUND").await;
    engine.send(Ask::delete("/feedback/x")).await.error(404, "NOT_FOUND").await;
    assert_eq!(sure().await, Some(moved));
    assert_eq!(engine.json("/feedback").await["signals"], json!([]));

    let corrected = json!({"message_id": message, "corrected": "I prefer white tea."});
    let corrected = given(&engine, corrected).await;
    engine.send(Ask::delete(&format!("/feedback/{corrected}"))).await.ok().await;
    batch(&engine, json!({})).await;
    assert_eq!(contents(&engine, "tea").await, ["The user prefers green tea"]);
}
