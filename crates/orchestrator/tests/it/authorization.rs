//! Who may call what, walked over the OpenAPI document: an operation that appears there without a case here fails.

use crate::http::{ADMIN_KEY, Answer, Api, Ask, Owner};
use orchestrator::http::openapi;
use serde_json::{Value, json};

/// A request that succeeds, or is refused for a reason other than its key, when sent with the right key.
fn body_of(method: &str, path: &str) -> Option<Value> {
    match (method, path) {
        ("POST", "/engines/provision") => Some(json!({"user_id": "theirs"})),
        ("POST", "/products/register") => Some(json!({"slug": "new", "display_name": "New"})),
        ("PUT", "/products/{product}/policy") => Some(json!({"policy": {}})),
        _ => None,
    }
}

fn concrete(path: &str) -> String {
    path.replace("{user_id}", "theirs").replace("{product}", "first")
}

async fn send(api: &Api, method: &str, path: &str, ask: Ask) -> Answer {
    let ask = match body_of(method, path) {
        Some(body) => ask.json(&body),
        None => ask,
    };
    api.send(method, &concrete(path), ask).await
}

struct Operation {
    method: String,
    path: String,
    schemes: Vec<String>,
}

/// Every operation of the document with the keys it takes.
fn operations() -> Vec<Operation> {
    let document: Value = serde_json::from_str(openapi::document()).expect("is JSON");
    let mut all = Vec::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("methods") {
            let needed = operation["security"].as_array().expect("every operation says which keys it takes");
            let schemes =
                needed.iter().flat_map(|s| s.as_object().expect("a scheme").keys().cloned()).collect();
            all.push(Operation { method: method.to_uppercase(), path: path.clone(), schemes });
        }
    }
    assert_eq!(all.len(), 22);
    all
}

/// Keys that open nothing: absent, invented, of another kind, twice.
fn wrong_platform_keys(engine_key: &str, right: &str) -> Vec<Ask> {
    let invented = format!("pk-sept-{}", "A".repeat(43));
    vec![
        Ask::new(),
        Ask::new().platform(""),
        Ask::new().platform(&invented),
        Ask::new().platform(engine_key),
        Ask::new().platform(ADMIN_KEY),
        Ask::new().platform(&right[..right.len() - 1]),
        Ask::new().platform(right).platform(right),
        Ask::new().header("x-engine-key", engine_key),
        Ask::new().header("authorization", format!("Bearer {right}")),
    ]
}

fn wrong_admin_keys(platform_key: &str) -> Vec<Ask> {
    vec![
        Ask::new(),
        Ask::new().header("x-admin-key", ""),
        Ask::new().header("x-admin-key", format!("{ADMIN_KEY}x")),
        Ask::new().header("x-admin-key", &ADMIN_KEY[1..]),
        Ask::new().header("x-admin-key", platform_key),
        Ask::new().platform(platform_key),
        Ask::new().platform(ADMIN_KEY),
        Ask::new().admin().admin(),
    ]
}

#[tokio::test]
async fn every_endpoint_refuses_missing_wrong_and_foreign_keys() {
    let api = Api::start().await;
    let first = api.register("first", json!({})).await;
    let other = api.register("other", json!({})).await;
    let engine = api.provision(&first, "theirs").await;
    let engine_key = engine["api_key"].as_str().expect("a key").to_owned();
    let rows = api.stage.count("SELECT count(*) FROM engines").await;

    for operation in operations() {
        let Operation { method, path, schemes } = &operation;
        let what = format!("{method} {path}");
        let schemes: Vec<&str> = schemes.iter().map(String::as_str).collect();
        match schemes.as_slice() {
            [] => {
                assert!(
                    ["/health", "/openapi.json", "/docs"].contains(&path.as_str()),
                    "{what} takes no key"
                );
                let answer = send(&api, method, path, Ask::new().platform("wrong")).await;
                assert!([200, 503].contains(&answer.status.as_u16()), "{what}: {}", answer.text);
                assert!(!answer.text.contains("sk-sept-") && !answer.text.contains("pk-sept-"), "{what}");
            }
            ["platformKey"] => {
                for ask in wrong_platform_keys(&engine_key, &first.key) {
                    send(&api, method, path, ask).await.refused("INVALID_PLATFORM_KEY");
                }
                send(&api, method, path, Ask::new().admin()).await.refused("INVALID_PLATFORM_KEY");
            }
            ["adminKey"] => {
                for ask in wrong_admin_keys(&first.key) {
                    send(&api, method, path, ask).await.refused("INVALID_ADMIN_KEY");
                }
            }
            ["platformKey", "adminKey"] => {
                for ask in wrong_platform_keys(&engine_key, &first.key) {
                    send(&api, method, path, ask).await.refused("INVALID_PLATFORM_KEY");
                }
                for ask in wrong_admin_keys(&first.key)
                    .into_iter()
                    .filter(|a| a.headers.iter().any(|(n, _)| *n == "x-admin-key"))
                {
                    send(&api, method, path, ask.platform(&first.key)).await.refused("INVALID_ADMIN_KEY");
                }
            }
            others => panic!("{what} takes {others:?}, for which there is no case"),
        }
    }
    assert_eq!(api.stage.count("SELECT count(*) FROM engines").await, rows, "nothing was changed");
    assert_eq!(api.get("/engines/theirs", &first.key).await.ok()["status"], "running");

    let mut of_products = operations();
    of_products.retain(|o| o.schemes.iter().any(|s| s == "platformKey"));
    // What makes an engine of its own comes last: the others expect that the caller has none.
    of_products.sort_by_key(|o| o.path == "/engines/provision");
    for operation in &of_products {
        foreign(&api, operation, &first, &other).await;
    }
    assert_eq!(api.get("/engines/theirs", &first.key).await.ok()["engine_id"], engine["engine_id"]);
}

/// With another product's key, the first product's engine is not there.
async fn foreign(api: &Api, operation: &Operation, first: &Owner, other: &Owner) {
    let (method, path) = (operation.method.as_str(), operation.path.as_str());
    let answer = send(api, method, path, Ask::new().platform(&other.key)).await;
    assert!(!answer.text.contains(&first.id), "{method} {path} names the first product: {}", answer.text);
    match (method, path) {
        ("GET" | "DELETE", "/engines/{user_id}")
        | ("POST", "/engines/{user_id}/start")
        | ("POST", "/engines/{user_id}/stop")
        | ("POST", "/engines/{user_id}/sleep")
        | ("POST", "/engines/{user_id}/rotate-key")
        | ("GET", "/engines/{user_id}/explain") => answer.refused("ENGINE_NOT_FOUND"),
        ("POST", "/engines/{user_id}/admit") => assert_eq!(answer.ok()["reason"], "engine_not_found"),
        ("GET", "/engines") => assert_eq!(answer.ok(), json!({"engines": [], "total": 0})),
        ("GET", "/status") => assert_eq!(answer.ok()["total"], 0),
        ("GET", "/metrics") => assert_eq!(answer.ok()["total_provisions"], 0),
        ("GET", "/audit") => {
            let entries = answer.ok()["entries"].clone();
            let own = |e: &Value| e["product_id"] == other.id.as_str();
            assert!(entries.as_array().expect("a list").iter().all(own), "{entries}");
            for named in [&first.slug, &first.id] {
                let ask = Ask::new().platform(&other.key);
                api.send("GET", &format!("/audit?product={named}"), ask).await.refused("PRODUCT_NOT_FOUND");
            }
        }
        // The same user of another product is another engine.
        ("POST", "/engines/provision") => {
            let theirs = api.get("/engines/theirs", &first.key).await.ok();
            assert_ne!(answer.ok()["engine_id"], theirs["engine_id"]);
        }
        (method, path) => panic!("{method} {path} has no case for another product's key"),
    }
}
