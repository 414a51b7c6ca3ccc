//! The API over its real router, on a real PostgreSQL and the simulated backend: the stage, and what every endpoint
//! owes its callers.

use crate::registry::Stage;
use axum::Router;
use axum::body::Body;
use chassis::config::Values;
use chassis::drain::Drain;
use chassis::seal::MasterKeys;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt;
use orchestrator::config::{Config, Purpose};
use orchestrator::http::{ApiSettings, App, public_router};
use orchestrator::serve::Replica;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tower::ServiceExt;

pub const ADMIN_KEY: &str = "an-admin-key-of-more-than-32-characters";
/// Longest wait for something that must happen.
const PATIENCE: Duration = Duration::from_secs(30);

/// One replica with its API.
pub struct Api {
    pub app: Arc<App>,
    pub stage: Stage,
    pub replica: Replica,
    routes: Router,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
    pub json: Value,
}

impl Answer {
    /// The code of an error, or an empty text.
    pub fn code(&self) -> &str {
        self.json["error"]["code"].as_str().unwrap_or_default()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|v| v.to_str().ok())
    }

    /// The body of a success.
    pub fn ok(self) -> Value {
        assert_eq!(self.status, 200, "{}", self.text);
        self.json
    }

    /// Asserts a refusal of the right shape.
    pub fn refused(&self, code: &str) {
        let known = contract::FleetCode::parse(self.code()).unwrap_or_else(|| panic!("{}", self.text));
        assert_eq!(self.code(), code, "{}", self.text);
        assert_eq!(self.status.as_u16(), known.status(), "{}", self.text);
        let outer = self.json.as_object().expect("an object");
        assert_eq!(outer.keys().collect::<Vec<_>>(), ["error"], "{}", self.text);
        let inner = self.json["error"].as_object().expect("an object");
        assert!(inner.keys().all(|k| ["code", "message", "details"].contains(&k.as_str())), "{}", self.text);
        assert!(inner["message"].as_str().is_some_and(|m| !m.is_empty()), "{}", self.text);
        assert!(inner.get("details").is_none_or(Value::is_object), "{}", self.text);
        assert_eq!(self.header("content-type"), Some("application/json"));
        assert!(self.header("x-request-id").is_some());
        let retry: Option<u64> = self.header("retry-after").map(|s| s.parse().expect("whole seconds"));
        assert!(retry != Some(0));
        if matches!(self.status.as_u16(), 429 | 503) {
            assert_eq!(retry.is_some(), code != "READ_ONLY", "{}", self.text);
        }
    }

    /// The fields a 400 complains about.
    pub fn fields(&self) -> Vec<String> {
        self.refused("INVALID_REQUEST");
        let fields = self.json["error"]["details"]["fields"].as_array().expect("details.fields");
        fields.iter().map(|f| f["field"].as_str().expect("a name").to_owned()).collect()
    }
}

/// What is sent.
#[derive(Debug, Clone, Default)]
pub struct Ask {
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
}

impl Ask {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn platform(self, key: &str) -> Self {
        self.header("x-platform-key", key)
    }

    pub fn admin(self) -> Self {
        self.header("x-admin-key", ADMIN_KEY)
    }

    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub fn json(mut self, body: &Value) -> Self {
        self.body = body.to_string().into_bytes();
        self.header("content-type", "application/json")
    }

    pub fn raw(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }
}

/// A product as its owner holds it.
pub struct Owner {
    pub id: String,
    pub slug: String,
    pub key: String,
}

pub fn config(url: &str, more: &[(&str, &str)]) -> Config {
    let master = MasterKeys::generate();
    let mut values: Vec<(String, String)> = [
        ("ORCH_DATABASE_URL", url),
        ("ORCH_MASTER_KEY", master.expose()),
        ("ORCH_ADMIN_KEY", ADMIN_KEY),
        ("ORCH_ENGINE_BACKEND", "simulated"),
        ("ORCH_ENGINE_IMAGE", "september-engine:2.3.0"),
    ]
    .map(|(n, v)| (n.to_owned(), v.to_owned()))
    .to_vec();
    values.extend(more.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())));
    Config::load(&Values::new("test", values), Purpose::Serve).expect("is a valid configuration").config
}

impl Api {
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    pub async fn start_with(more: &[(&str, &str)]) -> Self {
        let stage = Stage::set().await;
        let mut config = config(&stage.url, more);
        let free = ([127, 0, 0, 1], 0).into();
        (config.settings.bind, config.settings.internal_bind) = (free, free);
        let (drain, settings) = (Drain::new(), ApiSettings::of(&config));
        let replica = Replica::start(config, drain.clone(), None).await.expect("starts");
        let trusted = tokio::time::timeout(PATIENCE, async {
            while !replica.core.pulse.backend_ok() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        trusted.await.expect("the backend is found");
        let app = App::new(settings, drain);
        app.serve(Arc::clone(&replica.core));
        let routes = public_router(Arc::clone(&app));
        Self { app, stage, replica, routes }
    }

    pub async fn send(&self, method: &str, path: &str, ask: Ask) -> Answer {
        let mut request = Request::builder().method(method).uri(path).header("host", "localhost:8000");
        for (name, value) in &ask.headers {
            request = request.header(*name, value.as_str());
        }
        let request = request.body(Body::from(ask.body)).expect("is well formed");
        let answer = tokio::time::timeout(PATIENCE, self.routes.clone().oneshot(request)).await;
        let (head, body) = answer.expect("is answered in time").expect("is infallible").into_parts();
        let body = body.collect().await.expect("is complete").to_bytes();
        let text = String::from_utf8(body.to_vec()).expect("is UTF-8");
        let json = serde_json::from_str(&text).unwrap_or(Value::Null);
        Answer { status: head.status, headers: head.headers, text, json }
    }

    pub async fn get(&self, path: &str, key: &str) -> Answer {
        self.send("GET", path, Ask::new().platform(key)).await
    }

    pub async fn register(&self, slug: &str, policy: Value) -> Owner {
        let body = json!({"slug": slug, "display_name": "A product", "policy": policy});
        let answer = self.send("POST", "/products/register", Ask::new().admin().json(&body)).await.ok();
        let text = |name: &str| answer[name].as_str().expect(name).to_owned();
        Owner { id: text("product_id"), slug: text("slug"), key: text("platform_api_key") }
    }

    pub async fn provision(&self, owner: &Owner, user: &str) -> Value {
        let ask = Ask::new().platform(&owner.key).json(&json!({"user_id": user}));
        self.send("POST", "/engines/provision", ask).await.ok()
    }
}

#[tokio::test]
async fn an_engine_is_provisioned_found_admitted_listed_and_destroyed() {
    let api = Api::start().await;
    let owner = api.register("demo", json!({})).await;
    let made = api.provision(&owner, "demo-user-001").await;
    assert_eq!(made["status"], "running");
    assert!(made["api_key"].as_str().is_some_and(|k| k.starts_with("sk-sept-") && k.len() == 51), "{made}");

    let found = api.get("/engines/demo-user-001", &owner.key).await.ok();
    assert_eq!(found.as_object().expect("an object").len(), 10);
    assert_eq!((&found["engine_id"], &found["api_key"]), (&made["engine_id"], &made["api_key"]));

    let ask = Ask::new().platform(&owner.key);
    let admitted = api.send("POST", "/engines/demo-user-001/admit", ask.clone()).await.ok();
    assert_eq!((&admitted["admitted"], &admitted["engine"]["api_key"]), (&json!(true), &made["api_key"]));

    let list = api.get("/engines?status=running", &owner.key).await.ok();
    assert_eq!((&list["total"], list["engines"][0].get("api_key")), (&json!(1), None));
    let status = api.get("/status", &owner.key).await.ok();
    assert_eq!(
        (&status["total"], &status["by_status"]["running"], &status["health"]),
        (&json!(1), &json!(1), &json!("ok"))
    );
    let metrics = api.get("/metrics", &owner.key).await.ok();
    assert_eq!((&metrics["provisions_1h"], &metrics["total_provisions"]), (&json!(1), &json!(1)));

    let gone = api.send("DELETE", "/engines/demo-user-001", ask.clone()).await.ok();
    assert_eq!(gone, json!({"status": "destroyed", "engine_id": made["engine_id"]}));
    api.get("/engines/demo-user-001", &owner.key).await.refused("ENGINE_NOT_FOUND");
    api.send("DELETE", "/engines/demo-user-001", ask).await.refused("ENGINE_NOT_FOUND");
}

#[tokio::test]
async fn a_held_answer_tells_where_its_time_went() {
    let api = Api::start().await;
    let owner = api.register("demo", json!({})).await;
    let ask = Ask::new().platform(&owner.key).json(&json!({"user_id": "u"}));
    let answer = api.send("POST", "/engines/provision", ask).await;
    let timing = answer.header("server-timing").expect("a provision is held").to_owned();
    assert!(
        timing.starts_with("queue;dur=")
            && timing.contains(", create;dur=")
            && timing.contains(", boot;dur="),
        "{timing}"
    );
    let again = api.send("POST", "/engines/u/admit", Ask::new().platform(&owner.key)).await;
    assert_eq!((again.status.as_u16(), again.header("server-timing")), (200, None));
}

#[tokio::test]
async fn users_of_any_name_are_reached_and_hostile_paths_are_refused() {
    let api = Api::start().await;
    let owner = api.register("demo", json!({})).await;
    for (user, path) in [
        ("a/b", "a%2Fb"),
        ("provision", "provision"),
        ("..", "%2E%2E"),
        ("jürgen@example.com", "j%C3%BCrgen%40example.com"),
        ("50% + x", "50%25%20+%20x"),
        ("admit", "admit"),
    ] {
        api.provision(&owner, user).await;
        let found = api.get(&format!("/engines/{path}"), &owner.key).await.ok();
        assert_eq!(found["user_id"], user);
        let admit = format!("/engines/{path}/admit");
        assert_eq!(api.send("POST", &admit, Ask::new().platform(&owner.key)).await.ok()["admitted"], true);
        api.send("DELETE", &format!("/engines/{path}"), Ask::new().platform(&owner.key)).await.ok();
    }
    for path in
        ["/engines/%", "/engines/%zz", "/engines/%FF", "/engines/%00", "/engines/%20a", "/engines/a%0Ab"]
    {
        assert_eq!(api.get(path, &owner.key).await.fields(), ["user_id"], "{path}");
    }
    let long = format!("/engines/{}", "x".repeat(257));
    assert_eq!(api.get(&long, &owner.key).await.fields(), ["user_id"]);
    for path in [
        "/engines/",
        "/engines//",
        "/engines/a/b",
        "//engines",
        "/engines/a/admit/",
        "/Engines",
        "/v1/engines",
        "/engines/u/upgrade",
    ] {
        api.get(path, &owner.key).await.refused("ROUTE_NOT_FOUND");
    }
}

#[tokio::test]
async fn another_method_is_told_which_ones_there_are() {
    let api = Api::start().await;
    for (method, path, allow) in [
        ("PATCH", "/engines/u", "DELETE, GET"),
        ("GET", "/engines/u/admit", "POST"),
        ("PUT", "/engines/provision", "DELETE, GET, POST"),
        ("POST", "/health", "GET"),
        ("OPTIONS", "/engines", "GET"),
        ("GET", "/products/demo/policy", "PUT"),
    ] {
        let answer = api.send(method, path, Ask::new()).await;
        answer.refused("METHOD_NOT_ALLOWED");
        assert_eq!(answer.header("allow"), Some(allow), "{method} {path}");
    }
}

#[tokio::test]
async fn bad_bodies_name_every_field_that_is_wrong() {
    let api = Api::start().await;
    let owner = api.register("demo", json!({})).await;
    let provision = async |ask: Ask| api.send("POST", "/engines/provision", ask.platform(&owner.key)).await;
    assert_eq!(provision(Ask::new()).await.fields(), ["user_id"]);
    assert_eq!(provision(Ask::new().raw("{")).await.fields(), ["body"]);
    assert_eq!(provision(Ask::new().raw("[]")).await.fields(), ["body"]);
    assert_eq!(provision(Ask::new().raw(vec![b' '; 64 * 1024 + 1])).await.fields(), ["body"]);
    let both = json!({"user_id": 7, "engine_version": "a b"});
    assert_eq!(provision(Ask::new().json(&both)).await.fields(), ["user_id", "engine_version"]);
    let key = Ask::new().json(&json!({"user_id": "u"})).header("idempotency-key", "x".repeat(129));
    assert_eq!(provision(key).await.fields(), ["Idempotency-Key"]);
    let admit = Ask::new().platform(&owner.key).json(&json!({"auto_wake": "yes", "auto_provision": 1}));
    assert_eq!(api.send("POST", "/engines/u/admit", admit).await.fields(), ["auto_provision", "auto_wake"]);
    for (query, field) in
        [("limit=0", "limit"), ("limit=1001", "limit"), ("offset=-1", "offset"), ("status=asleep", "status")]
    {
        assert_eq!(api.get(&format!("/engines?{query}"), &owner.key).await.fields(), [field]);
    }
    let query = "engine=x&since=yesterday&cursor=abc&action=nap&limit=x&user=%20";
    assert_eq!(
        api.get(&format!("/audit?{query}"), &owner.key).await.fields(),
        ["engine", "user", "since", "cursor", "limit", "action"]
    );
    let ignored = json!({"auto_wake": null, "stranger": {"deep": []}});
    let answer =
        api.send("POST", "/engines/u/admit", Ask::new().platform(&owner.key).json(&ignored)).await.ok();
    assert_eq!(
        answer,
        json!({"admitted": false, "engine": null, "reason": "engine_not_found", "retry_after_ms": null})
    );
}

#[tokio::test]
async fn a_product_is_registered_shown_changed_and_removed() {
    let api = Api::start().await;
    let owner = api.register("demo", json!({"max_engines": 2})).await;
    assert!(owner.key.starts_with("pk-sept-") && owner.key.len() == 51);
    let again = json!({"slug": "demo", "display_name": "Again"});
    api.send("POST", "/products/register", Ask::new().admin().json(&again))
        .await
        .refused("PRODUCT_SLUG_EXISTS");
    let wrong =
        json!({"slug": "-x", "display_name": "", "policy": {"max_engine": 1, "resources": {"gpus": 1}}});
    let answer = api.send("POST", "/products/register", Ask::new().admin().json(&wrong)).await;
    assert_eq!(answer.fields(), ["slug", "display_name", "policy.max_engine", "policy.resources.gpus"]);

    for name in ["demo", owner.id.as_str()] {
        let shown = api.send("GET", &format!("/products/{name}"), Ask::new().admin()).await.ok();
        assert_eq!((&shown["slug"], &shown["policy"]), (&json!("demo"), &json!({"max_engines": 2})));
        assert_eq!((&shown["engines"], &shown["previous_key_expires_at"]), (&json!(0), &Value::Null));
    }
    for missing in ["nobody", "Demo", "%FF", "00000000-0000-4000-8000-000000000000"] {
        api.send("GET", &format!("/products/{missing}"), Ask::new().admin())
            .await
            .refused("PRODUCT_NOT_FOUND");
    }
    let policy = json!({"policy": {"max_engines": 1}});
    let put = Ask::new().admin().json(&policy);
    assert_eq!(api.send("PUT", "/products/demo/policy", put).await.ok(), policy);
    api.provision(&owner, "u1").await;
    let second = Ask::new().platform(&owner.key).json(&json!({"user_id": "u2"}));
    let full = api.send("POST", "/engines/provision", second).await;
    full.refused("QUOTA_EXCEEDED");
    assert_eq!(full.json["error"]["message"], "Product at max_engines limit (1).");

    let refused = api.send("DELETE", "/products/demo", Ask::new().admin()).await;
    refused.refused("PRODUCT_NOT_EMPTY");
    assert_eq!(refused.json["error"]["details"]["engines"], 1);
    let gone = api.send("DELETE", "/products/demo?destroy_engines=true", Ask::new().admin()).await.ok();
    assert_eq!(gone, json!({"product_id": owner.id, "status": "deleted", "engines_left": 0}));
    api.get("/engines", &owner.key).await.refused("INVALID_PLATFORM_KEY");
    api.send("DELETE", "/products/demo", Ask::new().admin()).await.refused("PRODUCT_NOT_FOUND");
}

#[tokio::test]
async fn platform_key_overlap_and_second_rotation() {
    let api = Api::start().await;
    let owner = api.register("demo", json!({})).await;
    let rotate = async |body: Value| {
        let ask = Ask::new().admin().json(&body);
        api.send("POST", "/products/demo/rotate-platform-key", ask).await
    };
    assert_eq!(rotate(json!({"overlap_seconds": 604_801})).await.fields(), ["overlap_seconds"]);
    let first = rotate(json!({"overlap_seconds": 600})).await.ok();
    assert!(first["previous_key_expires_at"].is_string());
    let second_key = first["platform_api_key"].as_str().expect("a key").to_owned();
    api.get("/status", &owner.key).await.ok();
    api.get("/status", &second_key).await.ok();

    let again = rotate(json!({"overlap_seconds": 600})).await.ok();
    let third_key = again["platform_api_key"].as_str().expect("a key").to_owned();
    api.get("/status", &owner.key).await.refused("INVALID_PLATFORM_KEY");
    api.get("/status", &second_key).await.ok();
    let last = rotate(json!({"overlap_seconds": 0})).await.ok();
    assert_eq!(last["previous_key_expires_at"], Value::Null);
    api.get("/status", &third_key).await.refused("INVALID_PLATFORM_KEY");
    api.get("/status", last["platform_api_key"].as_str().expect("a key")).await.ok();
}

#[tokio::test]
async fn lists_go_on_where_the_page_before_ended() {
    let api = Api::start().await;
    for slug in ["p-one", "p-two", "p-three"] {
        api.register(slug, json!({})).await;
    }
    let (mut seen, mut path) = (Vec::new(), "/products?limit=2".to_owned());
    loop {
        let page = api.send("GET", &path, Ask::new().admin()).await.ok();
        seen.extend(page["products"].as_array().expect("a list").iter().map(|p| p["slug"].clone()));
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        path = format!("/products?limit=2&cursor={cursor}");
    }
    assert_eq!(json!(seen), json!(["p-one", "p-two", "p-three"]));

    let (mut ids, mut path) = (Vec::new(), "/audit?action=policy_register&limit=1".to_owned());
    loop {
        let page = api.send("GET", &path, Ask::new().admin()).await.ok();
        ids.extend(
            page["entries"].as_array().expect("a list").iter().map(|e| e["id"].as_i64().expect("an id")),
        );
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        path = format!("/audit?action=policy_register&limit=1&cursor={cursor}");
    }
    assert_eq!(ids.len(), 3);
    assert!(ids.is_sorted_by(|a, b| a > b), "newest first: {ids:?}");
    let of_one = api.send("GET", "/audit?product=p-two", Ask::new().admin()).await.ok();
    assert_eq!(of_one["entries"].as_array().map(Vec::len), Some(1));
    assert_eq!(of_one["entries"][0]["metadata"]["slug"], "p-two");
}

#[tokio::test]
async fn read_only_serves_reads_and_changes_nothing() {
    let api = Api::start_with(&[("ORCH_READ_ONLY", "true")]).await;
    let key = orchestrator::keys::new_platform_key();
    let hash = orchestrator::keys::hash_hex(key.expose());
    let slug = contract::Slug::parse("demo").expect("a slug");
    let entry = crate::registry::entry(
        fleet::audit::AuditAction::PolicyRegister,
        json!({"slug": "demo", "policy": {}}),
    );
    let registered = api.stage.registry.register(&slug, "Demo", &hash, &json!({}), entry).await;
    registered.expect("registers").expect("the slug is free");
    let before = api.stage.count("SELECT count(*) FROM audit_log").await;

    for path in ["/engines", "/status", "/metrics", "/audit"] {
        api.get(path, key.expose()).await.ok();
    }
    for (method, path) in
        [("POST", "/engines/u/admit"), ("POST", "/engines/provision"), ("DELETE", "/engines/u")]
    {
        api.send(method, path, Ask::new().platform(key.expose())).await.refused("READ_ONLY");
    }
    for (method, path) in
        [("POST", "/products/register"), ("DELETE", "/products/demo"), ("PUT", "/products/demo/policy")]
    {
        api.send(method, path, Ask::new().admin()).await.refused("READ_ONLY");
    }
    assert_eq!(api.stage.count("SELECT count(*) FROM audit_log").await, before);
}

#[tokio::test]
async fn while_draining_reads_are_served_and_changes_are_sent_elsewhere() {
    let api = Api::start().await;
    let owner = api.register("demo", json!({})).await;
    api.app.drain.begin();
    api.get("/engines", &owner.key).await.ok();
    let admit = api.send("POST", "/engines/u/admit", Ask::new().platform(&owner.key)).await;
    admit.refused("DRAINING");
    assert_eq!(admit.header("retry-after"), Some("1"));
    let health = api.send("GET", "/health", Ask::new()).await;
    assert_eq!((health.status.as_u16(), &health.json["status"]), (503, &json!("draining")));
}

#[tokio::test]
async fn request_id_travels_end_to_end() {
    let api = Api::start().await;
    let body = json!({"slug": "demo", "display_name": "Demo"});
    let ask = Ask::new().admin().json(&body).header("x-request-id", "trace-42");
    let answer = api.send("POST", "/products/register", ask).await;
    assert_eq!(answer.header("x-request-id"), Some("trace-42"));
    let rows = api.send("GET", "/audit?action=policy_register", Ask::new().admin()).await.ok();
    assert_eq!(rows["entries"][0]["metadata"]["request_id"], "trace-42");
}

#[tokio::test]
async fn idempotency_key_joins_replays_and_rejects_other_bodies() {
    let api = Api::start().await;
    let owner = api.register("demo", json!({})).await;
    let send = async |user: &str| {
        let ask = Ask::new().platform(&owner.key).header("idempotency-key", "sign-up 1");
        api.send("POST", "/engines/provision", ask.json(&json!({"user_id": user}))).await
    };
    let (one, two) = tokio::join!(send("u"), send("u"));
    let one = one.ok();
    assert_eq!(one, two.ok());
    assert_eq!(send("u").await.ok(), one);
    assert_eq!(send("v").await.fields(), ["Idempotency-Key"]);
    let plain = Ask::new().platform(&owner.key).json(&json!({"user_id": "u"}));
    api.send("POST", "/engines/provision", plain).await.refused("ENGINE_ALREADY_EXISTS");
}
