//! Long-term memory for callers: what /memory/* takes and answers, byte for byte where the specification shows it.

mod pages;
mod refused;
mod tools;

use crate::support::http::Ask;
use crate::support::{Engine, Setup};
use serde_json::{Value, json};

/// The fields of an object, sorted.
fn names(value: &Value) -> Vec<&str> {
    let mut names: Vec<&str> = value.as_object().expect("an object").keys().map(String::as_str).collect();
    names.sort_unstable();
    names
}

fn id(item: &Value) -> String {
    item["id"].as_str().expect("an id").to_owned()
}

/// An item without the fields that differ from run to run.
fn lasting(item: &Value) -> Value {
    let mut lasting = item.clone();
    let fields = lasting.as_object_mut().expect("an object");
    for name in ["id", "created_at", "valid_from", "score"] {
        fields.remove(name);
    }
    lasting
}

pub async fn patch(engine: &Engine, target: &str, body: Value) -> crate::support::http::Answer {
    engine.send(Ask::new("PATCH", target).body(body.to_string())).await
}

/// Search results.
pub async fn found(engine: &Engine, store: &str, query: &str) -> Vec<Value> {
    let target = format!("/memory/{store}/search");
    let list = engine.post(&target, json!({"query": query})).await.ok().await;
    list.as_array().expect("a bare array").clone()
}

fn is_time(value: &Value) -> bool {
    value.as_str().is_some_and(|text| text.len() == 24 && text.ends_with('Z'))
}

#[tokio::test]
async fn a_fact_is_kept_found_confirmed_edited_and_forgotten() {
    let setup = Setup::offline();
    let engine = setup.start().await;
    let body = json!({"subject": "testing", "content": "Run the suite before every push", "type": "rule",
        "confidence": 0.92, "valid_from": "2026-04-27T14:34:56+02:00", "rationale": "it broke twice", "surprise": 1});
    let made = engine.post("/memory/knowledge", body.clone()).await.ok().await;
    assert_eq!(names(&made), ["closed", "item", "status"]);
    assert_eq!((&made["status"], &made["closed"]), (&json!("created"), &json!([])));
    let item = made["item"].clone();
    let id = id(&item);
    assert!(id.starts_with("fact-") && is_time(&item["created_at"]), "{item}");
    assert_eq!(item["valid_from"], "2026-04-27T12:34:56.000Z");
    let expected = json!({"subject": "testing", "content": "Run the suite before every push", "type": "rule",
        "confidence": 0.92, "source": "user:api", "valid_until": null, "rationale": "it broke twice", "trust": "user"});
    assert_eq!(lasting(&item), expected);

    let hits = found(&engine, "knowledge", "when do we run the suite?").await;
    assert_eq!(hits.len(), 1, "{hits:?}");
    assert!(hits[0]["score"].as_f64().is_some_and(|s| s > 0.0), "{hits:?}");
    assert_eq!(lasting(&hits[0]), expected);

    let again = engine.post("/memory/knowledge", body).await.ok().await;
    assert_eq!((&again["status"], &again["item"]["id"]), (&json!("duplicate"), &json!(id)));
    let confidence = again["item"]["confidence"].as_f64().expect("a number");
    assert!((confidence - 0.97).abs() < 1e-9, "said again, it is surer: {confidence}");

    let target = format!("/memory/knowledge/{id}");
    let edited =
        patch(&engine, &target, json!({"content": "Run the tests before each merge"})).await.ok().await;
    assert_eq!(names(&edited), ["item", "status"]);
    assert_eq!(edited["status"], "updated");
    assert_eq!(edited["item"]["content"], "Run the tests before each merge");
    assert_eq!(edited["item"]["subject"], "testing", "what is left out stays");
    assert_eq!(edited["item"]["rationale"], "edited over the API", "the reason was that of other words");
    assert_eq!(found(&engine, "knowledge", "merge").await.len(), 1, "the new text is found");
    assert_eq!(found(&engine, "knowledge", "suite push").await, Vec::<Value>::new(), "the old one is not");
    engine.kill();

    let engine = setup.start().await;
    assert_eq!(found(&engine, "knowledge", "merge").await.len(), 1, "it survives kill -9");
    let gone = engine.send(Ask::delete(&target)).await.ok().await;
    assert_eq!(
        gone,
        json!({"status": "deleted", "id": id, "also_deleted": [], "still_said_in": [],
            "still_in_skills": [], "not_learned_from": 0})
    );
    assert_eq!(found(&engine, "knowledge", "").await, Vec::<Value>::new());
    engine.send(Ask::delete(&target)).await.error(404, "MEMORY_NOT_FOUND").await;
    patch(&engine, &target, json!({"content": "x"})).await.error(404, "MEMORY_NOT_FOUND").await;
}

#[tokio::test]
async fn a_preference_closes_the_one_before_it_and_a_null_opens_it_again() {
    let engine = Setup::offline().start().await;
    let prefer = async |content: &str, kind: &str| {
        let body = json!({"subject": "Breakfast", "content": content, "type": kind});
        engine.post("/memory/knowledge", body).await.ok().await
    };
    let old = prefer("The user prefers tea over coffee in the morning", "preference").await;
    let fact = prefer("Tea is drunk in the kitchen, from the blue cup", "fact").await;
    assert_eq!(fact["closed"], json!([]), "a fact replaces nothing");
    let new = prefer("The user prefers coffee over tea in the morning", "preference").await;
    let old_id = id(&old["item"]);
    assert_eq!((&new["status"], &new["closed"]), (&json!("created"), &json!([old_id])));
    let hits = found(&engine, "knowledge", "breakfast tea morning").await;
    let closed = hits.iter().find(|hit| hit["id"] == old_id.as_str()).expect("kept, not deleted");
    assert_eq!(closed["valid_until"], new["item"]["valid_from"]);
    assert_eq!(hits.last().expect("hits")["id"], closed["id"], "what no longer holds comes last: {hits:?}");
    assert_eq!(engine.json("/memory/stats").await["stores"]["knowledge"]["superseded"], 1);

    let target = format!("/memory/knowledge/{old_id}");
    let open = patch(&engine, &target, json!({"valid_until": null})).await.ok().await;
    assert_eq!(open["item"]["valid_until"], Value::Null);
}

#[tokio::test]
async fn an_episode_is_a_note_with_its_time_and_is_found_by_it() {
    let engine = Setup::offline().start().await;
    engine.turn("demo-1", "hello").await;
    let body = json!({"key": "deploy-friday", "description": "Deployment failed on a missing variable",
        "value": "LLM_API_KEY", "occurred_at": "2026-04-24T16:00:00Z", "task_id": "demo-1"});
    let made = engine.post("/memory/episodes", body.clone()).await.ok().await;
    let item = &made["item"];
    assert!(id(item).starts_with("ep-"), "{item}");
    let expected = json!({"key": "deploy-friday", "description": "Deployment failed on a missing variable",
        "value": "LLM_API_KEY", "kind": "note", "task_id": "demo-1", "occurred_at": "2026-04-24T16:00:00.000Z",
        "confidence": 0.8, "source": "user:api", "rationale": "written over the API", "trust": "user"});
    assert_eq!(lasting(item), expected);
    engine
        .post(
            "/memory/episodes",
            json!({"key": "lunch", "description": "Lunch with Ben", "occurred_at": "2026-03-02T12:00:00Z"}),
        )
        .await
        .ok()
        .await;
    let hits = found(&engine, "episodes", "what failed in April 2026?").await;
    assert_eq!(lasting(&hits[0]), expected, "{hits:?}");
    assert_eq!(engine.post("/memory/episodes", body).await.ok().await["status"], "duplicate");

    let target = format!("/memory/episodes/{}", id(item));
    let edited = patch(&engine, &target, json!({"value": null, "confidence": 0.5})).await.ok().await;
    assert_eq!((&edited["item"]["value"], &edited["item"]["confidence"]), (&Value::Null, &json!(0.5)));
    assert_eq!(edited["item"]["rationale"], "edited over the API");
    let why = patch(&engine, &target, json!({"rationale": "Ben was there"})).await.ok().await;
    assert_eq!(why["item"]["rationale"], "Ben was there");
    let newest = found(&engine, "episodes", "").await;
    let keys: Vec<&Value> = newest.iter().filter(|e| e["kind"] == "note").map(|e| &e["key"]).collect();
    assert_eq!(keys, ["lunch", "deploy-friday"], "an empty query lists the newest first");
    let one = engine.post("/memory/episodes/search", json!({"query": "", "limit": 1})).await.ok().await;
    assert_eq!(one.as_array().expect("a list").len(), 1);
}

#[tokio::test]
async fn people_have_names_and_relations_that_are_edited_and_forgotten_by_their_own_ids() {
    let engine = Setup::offline().start().await;
    let body = json!({"name": "Asha", "aliases": ["A.", "Asha"], "attributes": {"city": "Pune"},
        "relationships": [{"relation": "manager_of", "to": "Ben", "confidence": 0.8}]});
    let made = engine.post("/memory/social", body).await.ok().await;
    let asha = made["item"].clone();
    assert_eq!((&made["status"], &made["closed"]), (&json!("created"), &json!([])));
    let relation = asha["relationships"][0].clone();
    assert_eq!(
        names(&asha),
        [
            "aliases",
            "attributes",
            "confidence",
            "created_at",
            "id",
            "kind",
            "name",
            "rationale",
            "relationships",
            "source",
            "trust"
        ]
    );
    assert_eq!(
        names(&relation),
        ["confidence", "id", "relation", "source", "to", "valid_from", "valid_until"],
        "{relation}"
    );
    assert_eq!(
        (&asha["kind"], &asha["aliases"], &asha["attributes"]),
        (&json!("person"), &json!(["A."]), &json!({"city": "Pune"}))
    );
    assert_eq!(
        (&relation["relation"], &relation["to"]["name"], &relation["confidence"]),
        (&json!("manager_of"), &json!("Ben"), &json!(0.8))
    );
    let ben = id(&relation["to"]);
    assert!(ben.starts_with("soc-") && id(&relation).starts_with("rel-"));

    let body = json!({"name": "Acme", "kind": "organization", "relationships": [{"relation": "employs", "to": ben}]});
    let acme = engine.post("/memory/social", body).await.ok().await;
    assert_eq!(
        acme["item"]["relationships"][0]["to"],
        json!({"id": ben, "name": "Ben"}),
        "an id names who is there"
    );
    let hits = found(&engine, "social", "who manages Ben?").await;
    assert!(hits.iter().any(|hit| hit["id"] == asha["id"]), "{hits:?}");

    let of_relation = format!("/memory/social/{}", id(&relation));
    let until = json!({"valid_until": "2100-01-01T00:00:00Z", "relation": "sister_of"});
    let edited = patch(&engine, &of_relation, until).await.ok().await;
    assert_eq!(edited["item"]["id"], asha["id"], "a relation is shown with the one it leads away from");
    let relation = &edited["item"]["relationships"][0];
    assert_eq!(
        (&relation["relation"], &relation["valid_until"]),
        (&json!("sister_of"), &json!("2100-01-01T00:00:00.000Z"))
    );

    let of_asha = format!("/memory/social/{}", id(&asha));
    let renamed = patch(
        &engine,
        &of_asha,
        json!({"name": "Asha Rao", "relationships": [{"relation": "friend_of", "to": "Acme"}]}),
    );
    let renamed = renamed.await.ok().await["item"].clone();
    assert_eq!(
        (&renamed["name"], renamed["relationships"].as_array().map(Vec::len)),
        (&json!("Asha Rao"), Some(2))
    );

    engine.send(Ask::delete(&of_relation)).await.ok().await;
    engine.send(Ask::delete(&of_relation)).await.error(404, "MEMORY_NOT_FOUND").await;
    engine.send(Ask::delete(&format!("/memory/social/{ben}"))).await.ok().await;
    let left = found(&engine, "social", "").await;
    let mut left: Vec<&Value> = left.iter().map(|node| &node["name"]).collect();
    left.sort_by_key(|name| name.to_string());
    assert_eq!(left, ["Acme", "Asha Rao"]);
    let acme = found(&engine, "social", "Acme").await;
    let acme = acme.iter().find(|node| node["name"] == "Acme").expect("Acme");
    assert_eq!(acme["relationships"], json!([]), "a relation goes with its end");
}

#[tokio::test]
async fn what_rests_only_on_a_forgotten_memory_is_forgotten_with_it() {
    let setup = Setup::offline();
    let engine = setup.start().await;
    let write = async |content: &str| {
        let body = json!({"subject": content, "content": content});
        id(&engine.post("/memory/knowledge", body).await.ok().await["item"])
    };
    let (ground, derived) = (write("The lake is deep").await, write("Swimming needs care").await);
    engine.kill();
    rusqlite::Connection::open(setup.brain())
        .expect("the brain")
        .execute(
            "INSERT INTO memory_lineage (memory_id, parent_kind, parent_id) VALUES (?1, 'memory', ?2)",
            [&derived, &ground],
        )
        .expect("a parent");
    let engine = setup.start().await;
    let gone = engine.send(Ask::delete(&format!("/memory/knowledge/{ground}"))).await.ok().await;
    assert_eq!(
        gone,
        json!({"status": "deleted", "id": ground, "also_deleted": [derived], "still_said_in": [],
            "still_in_skills": [], "not_learned_from": 0})
    );
    assert_eq!(found(&engine, "knowledge", "").await, Vec::<Value>::new());
}

#[tokio::test]
async fn the_soul_has_versions_and_belongs_to_who_wrote_it_last() {
    let setup = Setup::offline();
    let engine = setup.start().await;
    let put = async |engine: &Engine, body: Value| {
        engine.send(Ask::new("PUT", "/memory/soul").body(body.to_string())).await
    };
    let first = engine.json("/memory/soul").await;
    assert_eq!(names(&first), ["identity", "patterns", "values"]);
    let full = engine.json("/memory/soul/full").await;
    assert_eq!(
        names(&full),
        ["history", "identity", "patterns", "source", "updated_at", "values", "version"]
    );
    let before = full["version"].as_i64().expect("a version");

    let body = json!({"identity": "I am Mia\u{202E}.", "values": [" honesty ", "", "care"]});
    let written = put(&engine, body.clone()).await.ok().await;
    assert_eq!(
        (&written["identity"], &written["values"]),
        (&json!("I am Mia."), &json!(["honesty", "care"]))
    );
    assert_eq!(written["patterns"], first["patterns"], "what is left out stays");
    assert_eq!((written["version"].as_i64(), &written["source"]), (Some(before + 1), &json!("user")));
    let newest = &written["history"][0];
    assert_eq!(
        names(newest),
        ["created_at", "identity", "patterns", "rationale", "source", "values", "version"]
    );
    assert_eq!((&newest["version"], &newest["identity"]), (&written["version"], &written["identity"]));
    assert_eq!(put(&engine, body).await.ok().await, written, "sent again, it is the same version");
    let third = put(&engine, json!({"patterns": ["Short answers"]})).await.ok().await;
    assert_eq!((third["version"].as_i64(), &third["identity"]), (Some(before + 2), &json!("I am Mia.")));
    engine.kill();

    let engine = setup.start().await;
    assert_eq!(engine.json("/memory/soul/full").await, third, "the template does not come back over it");
    for (body, status, field) in [
        (json!({}), 422, "body"),
        (json!({"identity": "x".repeat(4001)}), 400, "identity"),
        (json!({"identity": 5}), 400, "identity"),
        (json!({"values": "honesty"}), 400, "values"),
        (json!({"values": ["a", 5]}), 400, "values.1"),
        (json!({"values": ["x".repeat(501)]}), 400, "values"),
        (json!({"patterns": vec!["x"; 51]}), 400, "patterns"),
    ] {
        let code = if status == 400 { "INVALID_REQUEST" } else { "VALIDATION_ERROR" };
        let error = put(&engine, body).await.error(status, code).await;
        assert_eq!(error["details"]["field"], field, "{error}");
    }
    assert_eq!(engine.json("/memory/soul/full").await, third, "a refused soul changes nothing");
}

#[tokio::test]
async fn the_same_write_many_times_at_once_is_kept_once() {
    let engine = Setup::offline().start().await;
    let body = json!({"subject": "tides", "content": "High tide comes twice a day", "type": "rule"});
    let writes = (0..20).map(|_| engine.post("/memory/knowledge", body.clone()));
    let mut created = 0;
    for answer in futures::future::join_all(writes).await {
        created += usize::from(answer.ok().await["status"] == "created");
    }
    assert_eq!((created, found(&engine, "knowledge", "").await.len()), (1, 1));
    // two who forget the same thing: one of them is told that it is gone
    let target = format!("/memory/knowledge/{}", id(&found(&engine, "knowledge", "").await[0]));
    let (one, other) = futures::join!(engine.send(Ask::delete(&target)), engine.send(Ask::delete(&target)));
    let mut statuses = [one.status, other.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 404]);
}

#[tokio::test]
async fn the_statistics_count_what_there_is() {
    let engine = Setup::offline().start().await;
    let zero =
        json!({"total": 0, "duplicate": 0, "stale": 0, "superseded": 0, "untrusted": 0, "unembedded": 0});
    let empty = engine.json("/memory/stats").await;
    assert_eq!(empty["stores"], json!({"episodes": zero, "knowledge": zero, "social": zero}));
    assert_eq!(names(&empty["embedding"]), ["dim", "model", "provider", "reembedding"]);
    for content in ["Lime trees bloom in June", "Lime trees bloom in June", "Oaks grow slowly"] {
        engine.post("/memory/knowledge", json!({"subject": "trees", "content": content})).await.ok().await;
    }
    let stats = engine.json("/memory/stats").await;
    assert_eq!(
        (&stats["stores"]["knowledge"]["total"], &stats["stores"]["knowledge"]["duplicate"]),
        (&json!(2), &json!(1))
    );
    let over_rpc = engine.post("/rpc", json!({"method": "memory.stats", "params": {}})).await.ok().await;
    assert_eq!(over_rpc["result"], stats);
}

#[tokio::test]
async fn over_rpc_a_search_is_the_same_search() {
    let engine = Setup::offline().start().await;
    engine
        .post("/memory/knowledge", json!({"subject": "lake", "content": "The lake is deep"}))
        .await
        .ok()
        .await;
    engine
        .post("/memory/episodes", json!({"key": "lake", "description": "We saw the lake"}))
        .await
        .ok()
        .await;
    engine.post("/memory/social", json!({"name": "Lake House", "kind": "organization"})).await.ok().await;
    let rpc = async |method: &str, params: Value| {
        engine.post("/rpc", json!({"method": method, "params": params})).await
    };
    for store in ["knowledge", "episodes", "social"] {
        let over_rpc = rpc(&format!("memory.{store}_search"), json!({"query": "lake"})).await.ok().await;
        let items = over_rpc["result"]["items"].as_array().expect("items");
        assert_eq!(items.len(), 1, "{store}: {over_rpc}");
        let direct = found(&engine, store, "lake").await;
        assert_eq!(lasting(&items[0]), lasting(&direct[0]));
    }
    let error = rpc("memory.knowledge_search", json!({"limit": 5})).await.error(400, "INVALID_REQUEST").await;
    assert_eq!(error["details"]["field"], "query");
    for method in ["memory.search", "memory.episode_search", "memory.", "memory.erase"] {
        rpc(method, json!({"query": "x"})).await.error(404, "NOT_FOUND").await;
    }
    // a tool called outside a turn writes for the person, as over the API
    let input = json!({"subject": "boat", "content": "The boat is green"});
    let written = rpc("tool.knowledge_write", input).await.ok().await["result"]["output"].clone();
    assert_eq!((names(&written), &written["status"]), (vec!["closed", "id", "status"], &json!("created")));
    let boat = &found(&engine, "knowledge", "boat").await[0];
    assert_eq!((&boat["trust"], &boat["source"]), (&json!("user"), &json!("user:api")));
}

#[tokio::test]
async fn everything_of_one_source_can_be_forgotten_at_once() {
    let setup = Setup::offline();
    let engine = setup.start().await;
    let fact = |n: usize| json!({"subject": format!("s {n}"), "content": format!("number {n} was said {}", n * 7919)});
    let mut written = Vec::new();
    for n in 0..60 {
        let item = engine.post("/memory/knowledge", fact(n)).await.ok().await["item"].clone();
        written.push(item["id"].as_str().expect("an id").to_owned());
    }
    engine.kill();
    let brain = rusqlite::Connection::open(setup.brain()).expect("the brain");
    brain
        .execute("UPDATE knowledge_store SET source = 'import:old shop' WHERE fact_id != ?1", [&written[0]])
        .expect("a source");
    // the last but one rests on the last alone
    brain
        .execute("UPDATE knowledge_store SET source = 'user:api' WHERE fact_id = ?1", [&written[58]])
        .expect("one");
    brain
        .execute(
            "INSERT INTO memory_lineage (memory_id, parent_kind, parent_id) VALUES (?1, 'memory', ?2)",
            [&written[58], &written[59]],
        )
        .expect("a parent");
    drop(brain);
    let engine = setup.start().await;
    for none in ["/memory", "/memory?source="] {
        let error = engine.send(Ask::delete(none)).await.error(400, "INVALID_REQUEST").await;
        assert_eq!(error["details"]["field"], "source");
    }
    for other in ["import:old", "import:old%25", "IMPORT:old%20shop"] {
        engine
            .send(Ask::delete(&format!("/memory?source={other}")))
            .await
            .error(404, "MEMORY_NOT_FOUND")
            .await;
    }
    let gone = engine.send(Ask::delete("/memory?source=import:old%20shop")).await.ok().await;
    assert_eq!((&gone["status"], &gone["source"]), (&json!("deleted"), &json!("import:old shop")));
    assert_eq!((&gone["also_deleted"], &gone["total"]), (&json!([written[58]]), &json!(59)));
    let mut named: Vec<&str> =
        gone["deleted"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
    named.sort_unstable();
    let mut expected: Vec<&str> =
        written[1..].iter().map(String::as_str).filter(|id| *id != written[58]).collect();
    expected.sort_unstable();
    assert_eq!(named, expected);
    let left = found(&engine, "knowledge", "").await;
    assert_eq!(left.iter().map(|hit| hit["id"].as_str().expect("an id")).collect::<Vec<_>>(), [&written[0]]);
    engine.send(Ask::delete("/memory?source=import:old%20shop")).await.error(404, "MEMORY_NOT_FOUND").await;
}
