//! Who may call: keys and their rotation, Host and Origin, and the one document that says so.

use crate::support::http::{Answer, Ask};
use crate::support::{Engine, KEY, Setup};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

const NEW: &str = "the-second-key-of-all";
const THIRD: &str = "the-third-key-of-all";

fn hash(key: &str) -> String {
    Sha256::digest(key.as_bytes()).iter().map(|b| format!("{b:02x}")).collect()
}

async fn rotate(engine: &Engine, with: &str, to: &str, overlap: Value) -> Answer {
    let body = json!({"new_key_hash": hash(to), "overlap_seconds": overlap});
    engine.send(Ask::post("/admin/rotate-key", &body).key(with)).await
}

async fn opens(engine: &Engine, key: &str) -> bool {
    let answer = engine.send(Ask::get("/version").key(key)).await;
    answer.status == 200
}

#[tokio::test]
async fn a_missing_and_a_wrong_key_get_the_same_bytes() {
    let engine = Setup::offline().start().await;
    let known = |ask: Ask| ask.header("x-request-id", "same");
    let mut seen = Vec::new();
    for ask in [
        Ask::get("/tasks").without_key(),
        Ask::get("/tasks").key("wrong-key-0001"),
        Ask::get("/tasks").key(""),
        Ask::get("/tasks").key(&KEY.to_uppercase()),
        Ask::get("/tasks").header("x-engine-key", "a second one"),
        Ask::get("/nowhere").without_key(),
        Ask::new("PUT", "/execute").without_key(),
        Ask::new("POST", "/execute").body("{").without_key(),
    ] {
        let answer = engine.send(known(ask)).await;
        let mut headers: Vec<String> = answer
            .headers
            .iter()
            .filter(|(name, _)| name.as_str() != "date")
            .map(|(name, value)| format!("{name}: {value:?}"))
            .collect();
        headers.sort();
        let status = answer.status;
        seen.push((status, headers, answer.text().await));
    }
    assert!(seen.iter().all(|s| *s == seen[0]), "{seen:#?}");
    assert_eq!(seen[0].0, 401);
    assert!(seen[0].2.contains("INVALID_KEY"));
}

#[tokio::test]
async fn every_operation_needs_the_key_except_those_the_document_names_keyless() {
    let engine = Setup::offline().start().await;
    let document = engine.send(Ask::get("/openapi.json").without_key()).await;
    let served = document.text().await;
    let committed =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/openapi.json");
    let committed = std::fs::read_to_string(committed).expect("docs/reference/openapi.json is committed");
    assert_eq!(
        served,
        committed,
        "docs/reference/openapi.json is stale; run {}",
        engine::reference::REGENERATE
    );
    let document: Value = serde_json::from_str(&served).expect("JSON");
    let mut keyless = Vec::new();
    let mut operations = 0;
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("operations") {
            operations += 1;
            let target = path.replace("{id}", "x").replace("{name}", "x");
            let answer = engine.send(Ask::new(&method.to_uppercase(), &target).without_key()).await;
            if operation["security"] == json!([]) {
                let wanted = match path.as_str() {
                    // The browser that comes back from an authorization server has no key; without a `state` it gets 400.
                    "/assets/oauth/callback" => 400,
                    // An Engine that nobody outside can reach has no client document.
                    "/assets/oauth/client.json" => 404,
                    _ => 200,
                };
                assert_eq!(answer.status, wanted, "{method} {path}");
                keyless.push(path.as_str());
            } else {
                answer.error(401, "INVALID_KEY").await;
            }
        }
    }
    assert!(operations > 20, "{operations}");
    keyless.sort_unstable();
    assert_eq!(
        keyless,
        [
            "/assets/oauth/callback",
            "/assets/oauth/client.json",
            "/docs",
            "/docs/app.js",
            "/docs/style.css",
            "/health",
            "/openapi.json"
        ]
    );
}

#[tokio::test]
async fn references_in_the_document_lead_somewhere() {
    let engine = Setup::offline().start().await;
    let document = engine.json("/openapi.json").await;
    assert!(document["openapi"].as_str().is_some_and(|v| v.starts_with("3.1")));
    let mut open = vec![&document];
    while let Some(value) = open.pop() {
        if let Some(target) = value["$ref"].as_str() {
            let pointer = target.strip_prefix('#').expect("inside the document");
            assert!(document.pointer(pointer).is_some(), "{target} leads nowhere");
        }
        open.extend(value.as_object().into_iter().flat_map(|o| o.values()));
        open.extend(value.as_array().into_iter().flatten());
    }
}

#[tokio::test]
async fn a_rotated_key_works_at_once_the_old_one_in_its_window_and_both_survive_a_restart() {
    let setup = Setup::offline();
    let engine = setup.start().await;
    let answer = rotate(&engine, KEY, NEW, json!(200)).await.ok().await;
    assert_eq!(answer["status"], "rotated");
    assert!(opens(&engine, NEW).await && opens(&engine, KEY).await);
    // sent again: the same answer; another one: not now
    assert_eq!(rotate(&engine, NEW, NEW, json!(5)).await.ok().await, answer);
    let refused = rotate(&engine, NEW, THIRD, json!(5)).await.error(409, "CONFLICT").await;
    assert_eq!(refused["details"]["reason"], "rotation_in_progress");
    engine.kill();
    let engine = setup.start().await;
    assert!(opens(&engine, NEW).await && opens(&engine, KEY).await);
    engine.send(Ask::get("/version").key(THIRD)).await.error(401, "INVALID_KEY").await;
    engine.kill();
    // the environment brings the rotated key: the rotation is complete, the window goes on
    let engine = setup.clone().with("ENGINE_API_KEY", NEW).start().await;
    assert!(opens(&engine, NEW).await);
    engine.kill();
    // the environment brings a third key: it wins and the rotation is dropped
    let engine = setup.clone().with("ENGINE_API_KEY", THIRD).start().await;
    assert!(opens(&engine, THIRD).await && !opens(&engine, NEW).await && !opens(&engine, KEY).await);
}

#[tokio::test]
async fn after_the_window_the_old_key_is_told_that_it_was_replaced() {
    let setup = Setup::offline();
    let engine = setup.start().await;
    rotate(&engine, KEY, NEW, json!(0)).await.ok().await;
    let pending = engine.send(Ask::get("/version")).await;
    pending.error(401, "KEY_ROTATION_PENDING").await;
    assert!(opens(&engine, NEW).await);
    engine.kill();
    let engine = setup.start().await;
    engine.send(Ask::get("/version")).await.error(401, "KEY_ROTATION_PENDING").await;
    // the window is over, so the next rotation may come
    rotate(&engine, NEW, THIRD, json!(0)).await.ok().await;
    assert!(opens(&engine, THIRD).await);
    engine.send(Ask::get("/version").key(NEW)).await.error(401, "KEY_ROTATION_PENDING").await;
    engine.kill();
    // the environment still brings the first key, which was replaced by way of the second
    let engine = setup.start().await;
    assert!(opens(&engine, THIRD).await, "a restart lost the second rotation");
    assert!(!opens(&engine, KEY).await, "a restart brought the first key back");
}

#[tokio::test]
async fn the_window_is_clamped_and_bad_rotations_are_refused() {
    let setup = Setup::offline()
        .with("BAP_KEY_ROTATION_MIN_OVERLAP_SECONDS", "100")
        .with("BAP_KEY_ROTATION_MAX_OVERLAP_SECONDS", "200");
    for (asked, least, most) in [(json!(0), 90, 100), (json!(100_000), 190, 200), (json!(null), 190, 200)] {
        let engine = setup.start().await;
        let before = contract::Timestamp::now().millis();
        let answer = rotate(&engine, KEY, NEW, asked.clone()).await.ok().await;
        let until = answer["old_key_valid_until"].as_str().and_then(contract::Timestamp::parse);
        let seconds = (until.expect("a time").millis() - before + 500) / 1000;
        assert!((least..=most + 1).contains(&seconds), "{asked}: {seconds}");
        engine.kill();
        std::fs::remove_file(setup.brain()).expect("a new brain next time");
        for ending in ["-wal", "-shm"] {
            // Absent when the brain was closed well.
            let _ = std::fs::remove_file(format!("{}{ending}", setup.brain().display()));
        }
    }
    let engine = setup.start().await;
    for body in [
        json!({}),
        json!({"new_key_hash": "abc"}),
        json!({"new_key_hash": "g".repeat(64)}),
        json!({"new_key_hash": 5}),
        json!({"new_key_hash": hash(NEW), "overlap_seconds": -1}),
        json!({"new_key_hash": hash(NEW), "overlap_seconds": "5"}),
    ] {
        engine.post("/admin/rotate-key", body).await.error(400, "INVALID_REQUEST").await;
    }
    assert!(opens(&engine, KEY).await);
}

#[tokio::test]
async fn without_a_key_only_names_that_no_public_site_can_have_are_taken_as_host() {
    let engine = Setup::offline().with("ENGINE_ALLOWED_HOSTS", "my.example.com,*.trusted.org").start().await;
    let health = async |host: &str| engine.send(Ask::get("/health").without_key().host(host)).await;
    for fine in [
        "localhost:8000",
        "127.0.0.1",
        "[::1]:8000",
        "engine",
        "engine.ns.svc",
        "a.cluster.local",
        "x.internal",
        "app.localhost",
        "my.example.com",
        "MY.example.com.",
        "a.trusted.org:443",
        "10.1.2.3:80",
    ] {
        assert_eq!(health(fine).await.status, 200, "{fine}");
    }
    for bad in ["evil.example.com", "trusted.org.evil.com", "localhost.evil.com", "127.0.0.1.nip.io", "a b"] {
        let error = health(bad).await.error(403, "PERMISSION_DENIED").await;
        assert!(error["message"].as_str().is_some_and(|m| m.contains("ENGINE_ALLOWED_HOSTS")), "{error}");
    }
    // whoever has the key is no rebound browser page
    assert_eq!(engine.send(Ask::get("/version").host("evil.example.com")).await.status, 200);
}

#[tokio::test]
async fn only_listed_origins_may_call_and_read() {
    let engine = Setup::offline().with("CORS_ORIGINS", "https://app.example.com").start().await;
    let from = |ask: Ask, origin: &str| ask.header("origin", origin);
    for origin in
        ["https://evil.example.com", "null", "http://app.example.com", "https://app.example.com:444"]
    {
        engine.send(from(Ask::get("/version"), origin)).await.error(403, "PERMISSION_DENIED").await;
        engine
            .send(from(Ask::get("/health").without_key(), origin))
            .await
            .error(403, "PERMISSION_DENIED")
            .await;
    }
    let listed = engine.send(from(Ask::get("/version"), "https://app.example.com")).await;
    assert_eq!(listed.status, 200);
    assert_eq!(listed.header("access-control-allow-origin"), Some("https://app.example.com"));
    assert_eq!(listed.header("access-control-expose-headers"), Some("X-Request-Id, Retry-After"));
    assert_eq!(listed.header("access-control-allow-credentials"), None);
    let same = format!("http://127.0.0.1:{}", engine.port);
    assert_eq!(engine.send(from(Ask::get("/version"), &same)).await.status, 200);
    // an error can be read by the page, too
    let wrong = engine.send(from(Ask::get("/version").without_key(), "https://app.example.com")).await;
    assert_eq!(wrong.header("access-control-allow-origin"), Some("https://app.example.com"));
    wrong.error(401, "INVALID_KEY").await;
    let preflight = from(Ask::new("OPTIONS", "/execute").without_key(), "https://app.example.com")
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "x-engine-key");
    let answer = engine.send(preflight).await;
    assert!(answer.status == 200 || answer.status == 204, "{}", answer.status);
    assert!(answer.header("access-control-allow-methods").is_some_and(|m| m.contains("POST")));
    let headers = answer.header("access-control-allow-headers").expect("headers").to_ascii_lowercase();
    for name in ["x-engine-key", "content-type", "idempotency-key", "last-event-id", "x-request-id"] {
        assert!(headers.contains(name), "{headers}");
    }
    assert_eq!(answer.header("access-control-max-age"), Some("600"));
}

#[tokio::test]
async fn the_viewer_loads_nothing_from_elsewhere() {
    let engine = Setup::offline().start().await;
    for path in ["/docs", "/docs/app.js", "/docs/style.css"] {
        let answer = engine.send(Ask::get(path).without_key()).await;
        assert_eq!(answer.status, 200);
        let policy = answer.header("content-security-policy").expect("a policy").to_owned();
        assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        let text = answer.text().await;
        assert!(!text.contains("https://") && !text.contains("//cdn"), "{path} names another host");
    }
}
