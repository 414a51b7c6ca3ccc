//! What rows of a bundle say of each other, when some of them are merged into what is there.

use super::{MANY, TIME, bundle, export, fact, half_way, import};
use crate::support::http::Ask;
use crate::support::{Engine, Setup};
use serde_json::{Value, json};

const FIAT: &str = "The car is a red Fiat";
const BIKE: &str = "The bike is a green Peugeot";

fn row(n: usize, subject: &str, content: &str) -> Value {
    let mut row = fact(n);
    (row["subject"], row["content"]) = (json!(subject), json!(content));
    row
}

fn resting_on(mut row: Value, id: &Value) -> Value {
    row["lineage"] = json!([{"kind": "memory", "id": id}]);
    row
}

fn ended_by(mut row: Value, by: &Value) -> Value {
    (row["superseded_by"], row["valid_until"]) = (by.clone(), json!(TIME));
    row
}

/// What is said again, what it took the place of, and what rests on it.
fn family(n: usize, subject: &str, said: &str, old: &str, derived: &str) -> [Value; 3] {
    let said = row(n, subject, said);
    let id = said["id"].clone();
    [said, ended_by(row(n + 1, subject, old), &id), resting_on(row(n + 2, "home", derived), &id)]
}

fn cars() -> [Value; 3] {
    family(9_001, "car", FIAT, "The car is a blue Volvo", "The colour of vehicles at home is red")
}

fn bikes() -> [Value; 3] {
    family(9_011, "bike", BIKE, "The bike is a stolen Batavus", "Green frames are liked by the owner")
}

async fn said(engine: &Engine, subject: &str, content: &str) -> Value {
    let body = json!({"subject": subject, "content": content});
    engine.post("/memory/knowledge", body).await.ok().await["item"]["id"].clone()
}

fn find<'a>(exported: &'a Value, id: &Value) -> &'a Value {
    let mut rows = exported["knowledge"].as_array().expect("facts").iter();
    rows.find(|row| row["id"] == *id).unwrap_or_else(|| panic!("{id} is not in {exported}"))
}

/// The references of a family lead to the memory that says what was said again, and forgetting follows them.
async fn leads_to(engine: &Engine, [merged, old, derived]: &[Value; 3], survivor: &Value) {
    let exported = export(engine).await;
    assert_eq!(find(&exported, &old["id"])["superseded_by"], *survivor);
    assert_eq!(find(&exported, &derived["id"])["lineage"], json!([{"kind": "memory", "id": survivor}]));
    let text = exported.to_string();
    assert!(!text.contains(merged["id"].as_str().expect("an id")), "nothing leads to what has no row");
    let target = format!("/memory/knowledge/{}", survivor.as_str().expect("an id"));
    let gone = engine.send(Ask::delete(&target)).await.ok().await;
    assert_eq!(gone["also_deleted"], json!([derived["id"]]));
    assert_eq!(find(&export(engine).await, &old["id"])["valid_until"], Value::Null, "it holds again");
}

#[tokio::test]
async fn what_refers_to_a_merged_row_refers_to_the_one_that_was_there() {
    let engine = Setup::offline().start().await;
    let (car, bike) = (said(&engine, "car", FIAT).await, said(&engine, "bike", BIKE).await);
    let ([fiat, volvo, red], [peugeot, batavus, green]) = (cars(), bikes());
    // one before what refers to it, the other after
    let rows = vec![fiat, volvo, red, batavus, green, peugeot];
    let imported = import(&engine, &bundle(rows), "merge").await;
    assert_eq!((&imported["counts"]["knowledge"], &imported["skipped_duplicates"]), (&json!(4), &json!(2)));
    leads_to(&engine, &cars(), &car).await;
    leads_to(&engine, &bikes(), &bike).await;
}

#[tokio::test]
async fn an_import_that_is_killed_still_knows_what_it_has_merged() {
    let setup = Setup::offline();
    let engine = setup.start().await;
    let (car, bike) = (said(&engine, "car", FIAT).await, said(&engine, "bike", BIKE).await);
    let ([fiat, volvo, red], [peugeot, batavus, green]) = (cars(), bikes());
    let mut rows = vec![fiat, batavus, green];
    rows.extend((0..MANY).map(fact));
    rows.extend([volvo, red, peugeot]);
    let ask = Ask::post("/memory/import", &bundle(rows));
    let port = engine.port;
    let answer = tokio::spawn(async move { crate::support::http::try_send(port, ask).await.is_some() });
    let at = half_way(&engine, "knowledge", |now| now > 10).await;
    assert!(at < MANY as u64, "the import was over before it could be killed");
    engine.kill();
    assert!(!answer.await.expect("a task"), "nobody was told that it is complete");
    let engine = setup.start().await;
    engine.log_line(|line| line["message"] == "An import was completed after a restart").await;
    leads_to(&engine, &cars(), &car).await;
    leads_to(&engine, &bikes(), &bike).await;
}

#[tokio::test]
async fn what_rests_on_a_merged_person_or_relation_rests_on_the_one_that_was_there() {
    let engine = Setup::offline().start().await;
    let asha = json!({"name": "Asha", "relationships": [{"relation": "manager_of", "to": "Ben"}]});
    engine.post("/memory/social", asha).await.ok().await;
    engine.post("/memory/social", json!({"name": "Ben", "aliases": ["Benny"]})).await.ok().await;
    let before = export(&engine).await;
    let node = |name: &str| {
        let mut nodes = before["social"]["nodes"].as_array().expect("nodes").iter();
        nodes.find(|node| node["name"] == name).expect(name)["id"].clone()
    };
    let manages = before["social"]["edges"][0]["id"].clone();
    let standing = json!({"confidence": 0.8, "trust": "user", "created_at": TIME, "valid_from": TIME});
    let with = |mut row: Value, more: Value| {
        for fields in [standing.clone(), more] {
            row.as_object_mut().expect("a row").extend(fields.as_object().expect("fields").clone());
        }
        row
    };
    let person = |id: &str, name: &str| with(json!({"id": id, "name": name, "kind": "person"}), json!({}));
    let edge = |id: &str, from: &str, to: &str, relation: &str, more: Value| {
        with(json!({"id": id, "from": from, "to": to, "relation": relation}), more)
    };
    let mut incoming = bundle(vec![
        resting_on(row(1, "team", "Ben sits on the third floor"), &json!("soc-b")),
        resting_on(row(2, "team", "Asha decides about holidays"), &json!("rel-1")),
        resting_on(row(3, "names", "The two names mean one person"), &json!("rel-2")),
    ]);
    incoming["social"] = json!({
        "nodes": [person("soc-a", "Asha"), person("soc-b", "Ben"), person("soc-c", "Benny"), person("soc-z", "Zoe")],
        "edges": [
            edge("rel-1", "soc-a", "soc-b", "manager_of", json!({})),
            edge("rel-2", "soc-b", "soc-c", "known_as", json!({})),
            // of nobody's word, between two that somebody vouches for
            edge("rel-3", "soc-z", "soc-b", "knows", json!({"trust": "untrusted"})),
        ],
    });
    import(&engine, &incoming, "merge").await;
    let after = export(&engine).await;
    for (n, parent) in [(1, node("Ben")), (2, manages.clone()), (3, node("Ben"))] {
        let row = find(&after, &fact(n)["id"]);
        assert_eq!(row["lineage"], json!([{"kind": "memory", "id": parent}]), "{row}");
    }
    let edges = after["social"]["edges"].as_array().expect("edges");
    let said: Vec<_> = edges.iter().map(|edge| (&edge["id"], &edge["from"], &edge["to"])).collect();
    assert_eq!(
        said,
        [(&manages, &node("Asha"), &node("Ben")), (&json!("rel-3"), &json!("soc-z"), &node("Ben"))]
    );
}
