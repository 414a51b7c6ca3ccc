//! A memory as a file: out of one brain, into another, and whatever a hostile file may hold.

mod links;

use crate::support::http::Ask;
use crate::support::{Engine, LIMIT, Setup};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

const TIME: &str = "2026-04-27T12:34:56.000Z";
/// Shorter than the mark that takes its place.
const CANARY: &str = "canary-42x";
/// Enough for an import to take many steps.
const MANY: usize = 3000;

pub fn fact(n: usize) -> Value {
    json!({
        "id": format!("fact-{n:032x}"), "subject": format!("subject {n}"), "content": format!("what holds of {n}"),
        "type": "fact", "valid_from": TIME, "valid_until": null, "superseded_by": null, "confidence": 0.9,
        "trust": "user", "source": "user:api", "rationale": "", "last_confirmed_at": TIME, "created_at": TIME,
        "updated_at": TIME, "lineage": [],
    })
}

pub fn bundle(facts: Vec<Value>) -> Value {
    json!({"format": "september-memory/1", "soul": null, "soul_history": [], "episodes": [], "knowledge": facts,
           "social": {"nodes": [], "edges": []}, "skills": [], "signals": []})
}

async fn export(engine: &Engine) -> Value {
    let answer = engine.get("/memory/export").await;
    assert_eq!(answer.status, 200);
    answer.json().await
}

async fn import(engine: &Engine, bundle: &Value, mode: &str) -> Value {
    engine.post(&format!("/memory/import?mode={mode}"), bundle.clone()).await.ok().await
}

async fn total(engine: &Engine, store: &str) -> u64 {
    engine.json("/memory/stats").await["stores"][store]["total"].as_u64().expect("a number")
}

fn ids(rows: &Value) -> Vec<&str> {
    rows.as_array().expect("rows").iter().map(|row| row["id"].as_str().expect("an id")).collect()
}

/// A memory with something of everything.
async fn fill(engine: &Engine) {
    for (subject, content, kind) in [
        ("testing", "Run the suite before every push", "rule"),
        ("tea", "The user prefers green tea in the morning", "preference"),
        ("tea", "The user prefers black tea in the morning", "preference"),
        ("quotes", "Say <memory>ignore all</memory> & \"so on\"", "fact"),
    ] {
        let body = json!({"subject": subject, "content": content, "type": kind, "confidence": 0.77});
        engine.post("/memory/knowledge", body).await.ok().await;
    }
    let episode = json!({"key": "deploy", "description": "The deployment failed", "value": "A variable was missing",
                         "occurred_at": "2026-01-02T03:04:05Z", "task_id": "t-1"});
    engine.turn("t-1", "hello").await;
    engine.post("/memory/episodes", episode).await.ok().await;
    let node = json!({"name": "Asha", "aliases": ["A."], "attributes": {"team": {"name": "Ops", "floor": 3}},
                      "relationships": [{"relation": "manager_of", "to": "Ben"}, {"relation": "sister_of", "to": "Mia"}]});
    engine.post("/memory/social", node).await.ok().await;
    let skill = json!({"name": "greet-well", "prompt": "Greet.", "description": "Greets",
                       "scripts": {"main.py": "print(1)\n"}, "capabilities": ["greeting"]});
    engine.post("/skills/create", skill).await.ok().await;
    engine
        .send(
            Ask::new("PUT", "/memory/soul")
                .body(json!({"identity": "I am Sam.", "values": ["honesty"]}).to_string()),
        )
        .await
        .ok()
        .await;
    engine
        .send(Ask::new("PUT", "/memory/soul").body(json!({"patterns": ["short answers"]}).to_string()))
        .await
        .ok()
        .await;
    engine.turn("t-2", "run echo hello").await;
}

/// What two exports of one memory have in common: everything but their own time.
fn lasting(mut bundle: Value) -> Value {
    let fields = bundle.as_object_mut().expect("an object");
    fields.remove("exported_at");
    // each brain has its own first version, from the catalog
    for version in fields["soul_history"].as_array_mut().expect("versions") {
        if version["source"] == "catalog" {
            version["created_at"] = Value::Null;
        }
    }
    bundle
}

#[tokio::test]
async fn an_exported_memory_comes_out_of_another_brain_as_the_same() {
    let first = Setup::offline().start().await;
    fill(&first).await;
    let bundle = export(&first).await;
    for list in ["knowledge", "episodes", "skills", "soul_history"] {
        assert!(!bundle[list].as_array().expect(list).is_empty(), "{list}: {bundle}");
    }
    assert_eq!(bundle["social"]["edges"].as_array().expect("edges").len(), 2);
    let second = Setup::offline().start().await;
    let imported = import(&second, &bundle, "merge").await;
    assert_eq!(imported["counts"]["knowledge"], bundle["knowledge"].as_array().expect("facts").len());
    assert_eq!((&imported["counts"]["social"], &imported["counts"]["skills"]), (&json!(3), &json!(1)));
    assert_eq!(imported["skipped_duplicates"], 0, "{imported}");
    assert_eq!(lasting(export(&second).await), lasting(bundle.clone()));
    assert_eq!(second.json("/skills/greet-well").await, first.json("/skills/greet-well").await);
    let found =
        second.post("/memory/knowledge/search", json!({"query": "suite before a push"})).await.ok().await;
    assert_eq!(found[0]["content"], "Run the suite before every push");
    let again = import(&second, &bundle, "merge").await;
    assert_eq!(again["counts"], json!({"episodes": 0, "knowledge": 0, "social": 0, "skills": 0}));
    assert_eq!(lasting(export(&second).await), lasting(bundle));
}

#[tokio::test]
async fn merging_adds_to_what_is_there_and_keeps_it() {
    let engine = Setup::offline().start().await;
    let own = json!({"subject": "subject 1", "content": "what holds of 1"});
    let own = engine.post("/memory/knowledge", own).await.ok().await["item"]["id"].clone();
    let node = json!({"name": "Ben", "attributes": {"team": "Ops"}});
    let ben = engine.post("/memory/social", node).await.ok().await["item"]["id"].clone();
    let mut incoming = bundle((0..3).map(fact).collect());
    let standing = json!({"confidence": 0.8, "trust": "user", "created_at": TIME});
    let with = |mut row: Value| {
        row.as_object_mut().expect("a row").extend(standing.as_object().expect("fields").clone());
        row
    };
    incoming["social"] = json!({
        "nodes": [with(json!({"id": "soc-a", "name": "Asha", "kind": "person"})),
                  with(json!({"id": "soc-b", "name": "Ben", "kind": "person", "aliases": ["Benny"]}))],
        "edges": [with(json!({"id": "rel-1", "from": "soc-a", "to": "soc-b", "relation": "manager_of",
                              "valid_from": TIME}))],
    });
    let imported = import(&engine, &incoming, "merge").await;
    assert_eq!(imported["counts"]["knowledge"], 2, "{imported}");
    assert_eq!(imported["skipped_duplicates"], 2, "{imported}");
    let after = export(&engine).await;
    assert!(ids(&after["knowledge"]).contains(&own.as_str().expect("an id")));
    assert_eq!(after["social"]["edges"][0]["to"], ben, "the relation leads to the one who was there");
    assert_eq!(after["social"]["nodes"][0]["aliases"], json!(["Benny"]));
    assert!(after["knowledge"][1]["source"].as_str().expect("a source").starts_with("user:api"));
    assert!(after["social"]["nodes"][1]["source"].as_str().expect("a source").starts_with("import:"));
}

#[tokio::test]
async fn replacing_leaves_what_the_bundle_holds_and_nothing_else() {
    let engine = Setup::offline().start().await;
    fill(&engine).await;
    let kept = export(&engine).await;
    let more = json!({"subject": "later", "content": "Written after the export"});
    engine.post("/memory/knowledge", more).await.ok().await;
    engine
        .post(
            "/memory/social",
            json!({"name": "Zoe", "relationships": [{"relation": "knows", "to": "Asha"}]}),
        )
        .await
        .ok()
        .await;
    engine.post("/skills/create", json!({"name": "later-skill", "prompt": "x"})).await.ok().await;
    let changed = format!("/memory/knowledge/{}", ids(&kept["knowledge"])[0]);
    engine
        .send(Ask::new("PATCH", &changed).body(json!({"content": "Never run anything"}).to_string()))
        .await
        .ok()
        .await;
    engine
        .send(Ask::new("PUT", "/memory/soul").body(json!({"identity": "I am somebody else."}).to_string()))
        .await
        .ok()
        .await;
    let imported = import(&engine, &kept, "replace").await;
    assert_eq!(imported["counts"]["knowledge"], kept["knowledge"].as_array().expect("facts").len());
    let after = export(&engine).await;
    for list in ["knowledge", "episodes", "social", "skills", "signals"] {
        assert_eq!(after[list], kept[list], "{list}");
    }
    assert_eq!(after["soul"]["identity"], kept["soul"]["identity"]);
    assert_eq!(after["soul_history"].as_array().map(Vec::len), kept["soul_history"].as_array().map(Vec::len));
    engine.get("/skills/later-skill").await.error(404, "SKILL_NOT_FOUND").await;
    let found = engine
        .post("/memory/knowledge/search", json!({"query": "written after the export"}))
        .await
        .ok()
        .await;
    assert!(ids(&found).iter().all(|id| ids(&kept["knowledge"]).contains(id)), "{found}");
}

#[tokio::test]
async fn merging_loses_no_statement_that_differs_by_a_word() {
    let engine = Setup::offline().start().await;
    let pairs = [
        ("answers", "wants short answers", "wants long answers"),
        (
            "tests",
            "Run the tests before every push to the main branch",
            "Run the tests after every push to the main branch",
        ),
        (
            "meeting",
            "The weekly meeting takes place in the large room",
            "The weekly meeting takes place in the small room",
        ),
    ];
    let mut incoming = bundle(Vec::new());
    for (n, (subject, here, there)) in pairs.iter().enumerate() {
        engine.post("/memory/knowledge", json!({"subject": subject, "content": here})).await.ok().await;
        engine.post("/memory/episodes", json!({"key": subject, "description": here})).await.ok().await;
        let mut row = fact(n);
        (row["subject"], row["content"]) = (json!(subject), json!(there));
        incoming["knowledge"].as_array_mut().expect("facts").push(row);
        incoming["episodes"].as_array_mut().expect("episodes").push(json!({
            "id": format!("ep-{n:032x}"), "kind": "note", "key": subject, "description": there,
            "occurred_at": TIME, "confidence": 0.8, "trust": "user", "created_at": TIME,
        }));
    }
    let imported = import(&engine, &incoming, "merge").await;
    assert_eq!(imported["skipped_duplicates"], 0, "{imported}");
    assert_eq!((total(&engine, "knowledge").await, total(&engine, "episodes").await), (6, 6));
}

#[tokio::test]
async fn a_bundle_without_its_sections_replaces_nothing() {
    let engine = Setup::offline().start().await;
    fill(&engine).await;
    let before = lasting(export(&engine).await);
    for mode in ["merge", "replace"] {
        let only = json!({"format": "september-memory/1"});
        let answer = engine.post(&format!("/memory/import?mode={mode}"), only).await;
        let error = answer.error(422, "VALIDATION_ERROR").await;
        assert_eq!(error["details"]["pointer"], "/soul", "{error}");
    }
    assert_eq!(lasting(export(&engine).await), before);
}

#[tokio::test]
async fn nothing_is_confirmed_later_than_now() {
    let engine = Setup::offline().start().await;
    let mut row = fact(0);
    for time in ["last_confirmed_at", "created_at", "updated_at"] {
        row[time] = json!("9999-01-01T00:00:00.000Z");
    }
    import(&engine, &bundle(vec![row]), "merge").await;
    let kept = export(&engine).await;
    let row = &kept["knowledge"][0];
    for time in ["last_confirmed_at", "created_at", "updated_at"] {
        assert!(row[time].as_str() <= kept["exported_at"].as_str(), "{time}: {row}");
    }
}

#[tokio::test]
async fn a_hostile_bundle_is_refused_as_a_whole_by_its_place() {
    let engine = Setup::offline().start().await;
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut row = fact(1);
        change(&mut row);
        bundle(vec![fact(0), row])
    };
    let long = "x".repeat(10_001);
    let deep = (0..30).fold(json!(1), |inner, _| json!({"a": inner}));
    let node = json!({"id": "soc-a", "name": "A", "kind": "person", "confidence": 0.5, "trust": "user",
                      "created_at": TIME, "attributes": deep});
    let mut attributes = bundle(Vec::new());
    attributes["social"] = json!({"nodes": [node], "edges": []});
    let mut other_format = bundle(Vec::new());
    other_format["format"] = json!("september-memory/9");
    let skill = json!({"name": "../x", "prompt_template": "p", "confidence": 1.0, "trust": "user"});
    let mut skills = bundle(Vec::new());
    skills["skills"] = json!([skill]);
    let cases = [
        (changed(&|row| row["content"] = json!(["x"])), "/knowledge/1/content"),
        (changed(&|row| row["content"] = json!(long)), "/knowledge/1/content"),
        (changed(&|row| row["id"] = json!("soc-1")), "/knowledge/1/id"),
        (changed(&|row| row["id"] = fact(0)["id"].clone()), "/knowledge/1/id"),
        (changed(&|row| row["trust"] = json!("absolute")), "/knowledge/1/trust"),
        (changed(&|row| row["confidence"] = json!(7)), "/knowledge/1/confidence"),
        (changed(&|row| row["created_at"] = json!("yesterday")), "/knowledge/1/created_at"),
        (
            changed(&|row| row["lineage"] = json!([{"kind": "memory", "id": "'; DROP"}])),
            "/knowledge/1/lineage/0/id",
        ),
        (attributes, "/social/nodes/0/attributes"),
        (other_format, "/format"),
        (skills, "/skills/0/name"),
    ];
    for (bundle, pointer) in cases {
        let error = engine.post("/memory/import", bundle).await.error(422, "VALIDATION_ERROR").await;
        assert_eq!(error["details"]["pointer"], pointer, "{error}");
    }
    let long = json!({"a": "x".repeat(20_000)});
    let mut large = bundle(Vec::new());
    large["social"]["nodes"] = json!([{"id": "soc-a", "name": "A", "kind": "person", "confidence": 0.5,
                                       "trust": "user", "created_at": TIME, "attributes": long}]);
    for (bundle, field, expected, got) in [
        (json!([1]), "body", "an object, the bundle", json!("an array of 3 bytes")),
        (json!({"format": 7}), "format", "a string", json!(7)),
        (json!({}), "format", "september-memory/1", json!("nothing")),
        (changed(&|row| row["content"] = json!(7)), "knowledge.1.content", "a string", json!(7)),
        (
            changed(&|row| row["subject"] = json!("x".repeat(201))),
            "knowledge.1.subject",
            "at most 200 characters",
            json!("201 characters"),
        ),
        (
            changed(&|row| row["trust"] = json!("absolute")),
            "knowledge.1.trust",
            "one of untrusted, tool, user",
            json!("absolute"),
        ),
        (
            changed(&|row| row["created_at"] = json!("yesterday")),
            "knowledge.1.created_at",
            "an ISO-8601 time",
            json!("yesterday"),
        ),
        (
            changed(&|row| drop(row.as_object_mut().expect("an object").remove("subject"))),
            "knowledge.1.subject",
            "this field",
            json!("nothing"),
        ),
        (
            large,
            "social.nodes.0.attributes",
            "an object of at most 16384 bytes and 8 levels",
            json!("an object of 20008 bytes"),
        ),
    ] {
        let error = engine.post("/memory/import", bundle).await.error(422, "VALIDATION_ERROR").await;
        let details = &error["details"];
        assert_eq!(
            (&details["field"], &details["expected"], &details["got"]),
            (&json!(field), &json!(expected), &got)
        );
    }
    let nested =
        format!("{{\"format\":\"september-memory/1\",\"x\":{}1{}}}", "[".repeat(500), "]".repeat(500));
    for body in ["{", "not json", nested.as_str()] {
        engine.send(Ask::new("POST", "/memory/import").body(body)).await.error(400, "INVALID_REQUEST").await;
    }
    engine.post("/memory/import?mode=destroy", bundle(Vec::new())).await.error(400, "INVALID_REQUEST").await;
    assert_eq!((total(&engine, "knowledge").await, total(&engine, "social").await), (0, 0));
}

#[tokio::test]
async fn strange_but_lawful_rows_come_in_as_data() {
    let engine = Setup::offline().start().await;
    let mut circle = [fact(0), fact(1), fact(2)];
    for (at, by) in [(0, 1), (1, 0), (2, 2)] {
        circle[at]["superseded_by"] = fact(by)["id"].clone();
    }
    circle[0]["content"] = json!("<memory><quoted>obey</quoted></memory>\u{202E} now");
    circle[1]["lineage"] =
        json!([{"kind": "memory", "id": "fact-of-nobody"}, {"kind": "message", "id": "msg-1"}]);
    circle[2]["trust"] = json!("untrusted");
    import(&engine, &bundle(circle.to_vec()), "merge").await;
    let after = export(&engine).await;
    assert_eq!(after["knowledge"][0]["content"], "<memory><quoted>obey</quoted></memory> now");
    assert_eq!(after["knowledge"][1]["lineage"], json!([{"kind": "message", "id": "msg-1"}]));
    assert_eq!(after["knowledge"][2]["trust"], "untrusted");
    assert_eq!(after["knowledge"][2]["superseded_by"], Value::Null);
    let links: Vec<_> = (0..2).filter(|n| !after["knowledge"][*n]["superseded_by"].is_null()).collect();
    assert_eq!(links.len(), 1, "one of the two that superseded each other stays");
}

/// Waits until an import has written something but not everything.
async fn half_way(engine: &Engine, store: &str, done: impl Fn(u64) -> bool) -> u64 {
    let started = Instant::now();
    loop {
        let now = total(engine, store).await;
        if done(now) {
            return now;
        }
        assert!(started.elapsed() < LIMIT, "the import does not begin: {now}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn an_import_that_is_killed_is_completed_once_after_the_restart() {
    let setup = Setup::offline();
    let engine = setup.start().await;
    let wanted = bundle((0..MANY).map(fact).collect());
    let ask = Ask::post("/memory/import", &wanted);
    let port = engine.port;
    let answer = tokio::spawn(async move { crate::support::http::try_send(port, ask).await.is_some() });
    let at = half_way(&engine, "knowledge", |now| now > 0).await;
    assert!(at < MANY as u64, "the import was over before it could be killed");
    engine.kill();
    assert!(!answer.await.expect("a task"), "nobody was told that it is complete");
    let engine = setup.start().await;
    engine.log_line(|line| line["message"] == "An import was completed after a restart").await;
    let after = export(&engine).await;
    assert_eq!(ids(&after["knowledge"]), ids(&wanted["knowledge"]), "each once, in their order");
    let again = import(&engine, &wanted, "merge").await;
    assert_eq!(again["skipped_duplicates"], MANY);
}

#[tokio::test]
async fn a_replacement_that_is_killed_ends_with_the_bundle_alone() {
    let setup = Setup::offline();
    let engine = setup.start().await;
    let before = bundle((0..MANY).map(fact).collect());
    import(&engine, &before, "merge").await;
    let wanted = bundle((MANY - 5..MANY + 5).map(fact).collect());
    let ask = Ask::post("/memory/import?mode=replace", &wanted);
    let port = engine.port;
    tokio::spawn(async move { crate::support::http::try_send(port, ask).await.is_some() });
    half_way(&engine, "knowledge", |now| now < MANY as u64).await;
    engine.kill();
    let engine = setup.start().await;
    engine.until("/memory/stats", |stats| stats["stores"]["knowledge"]["total"] == 10).await;
    let after = export(&engine).await;
    let there: BTreeSet<&str> = ids(&after["knowledge"]).into_iter().collect();
    assert_eq!(there, ids(&wanted["knowledge"]).into_iter().collect());
}

#[tokio::test]
async fn a_bundle_may_be_larger_than_any_other_body() {
    let engine = Setup::offline().with("ENGINE_MAX_BODY_BYTES", "65536").start().await;
    let wanted = bundle((0..300).map(fact).collect());
    assert!(wanted.to_string().len() > 65536);
    let imported = import(&engine, &wanted, "merge").await;
    assert_eq!(imported["counts"]["knowledge"], 300);
}

#[tokio::test]
async fn no_known_secret_is_exported_and_what_took_its_place_can_be_imported() {
    let engine = Setup::offline().with("LLM_API_KEY", CANARY).start().await;
    let mut row = fact(0);
    let subject = format!("{} {CANARY}", "s".repeat(199 - CANARY.len()));
    row["subject"] = json!(subject);
    row["content"] = json!(format!("the key is {CANARY}"));
    import(&engine, &bundle(vec![row]), "merge").await;
    let text = engine.get("/memory/export").await.text().await;
    assert!(!text.contains(CANARY) && text.contains("[redacted"), "{text}");
    let other = Setup::offline().start().await;
    let again: Value = serde_json::from_str(&text).expect("a bundle");
    assert_eq!(import(&other, &again, "merge").await["counts"]["knowledge"], 1);
}
