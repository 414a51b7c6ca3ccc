//! A deployment on trial: real PostgreSQL, real HTTP, one or more replicas, engines in a simulated world.

use backends::{Call, Fault, FaultKind, ProbeReply, Prober, SimulatedWorld};
use chassis::config::Values;
use chassis::drain::Drain;
use contract::EngineId;
use orchestrator::config::{Config, Purpose};
use orchestrator::places::Place;
use orchestrator::serve::Replica;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use testbed::postgres::{TestDatabase, Version};
use tokio::task::JoinHandle;

/// Longest wait for anything a test waits for.
pub const PATIENCE: Duration = Duration::from_secs(30);
pub const ADMIN_KEY: &str = "admin-key-of-a-trial-that-is-long-enough";
pub const MASTER_KEY: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

/// One deployment.
pub struct Trial {
    pub world: SimulatedWorld,
    pub database: TestDatabase,
    pub replicas: Vec<Replica>,
    pub variables: BTreeMap<String, String>,
    /// Base deadline of a backend call of replicas started from now on.
    pub call_timeout: Duration,
    /// Changes what the configuration would refuse as too short for real use.
    pub adjust: fn(&mut Config),
    pub probing: Arc<Probing>,
    pub http: reqwest::Client,
}

/// How many probes there are at once, and how long each was waited for that got no answer.
#[derive(Debug, Default)]
pub struct Probing {
    pub now: AtomicUsize,
    pub most: AtomicUsize,
    pub silent: Mutex<Vec<Duration>>,
}

/// The world's prober, counted.
struct Counted {
    world: SimulatedWorld,
    probing: Arc<Probing>,
}

#[async_trait::async_trait]
impl Prober for Counted {
    async fn get_health(&self, address: SocketAddr, timeout: Duration) -> ProbeReply {
        let now = self.probing.now.fetch_add(1, Ordering::Relaxed) + 1;
        self.probing.most.fetch_max(now, Ordering::Relaxed);
        let reply = self.world.get_health(address, timeout).await;
        if reply == ProbeReply::TimedOut {
            self.probing.silent.lock().unwrap_or_else(PoisonError::into_inner).push(timeout);
        }
        self.probing.now.fetch_sub(1, Ordering::Relaxed);
        reply
    }

    async fn call(
        &self,
        address: SocketAddr,
        method: &str,
        path: &str,
        engine_key: &str,
        body: bytes::Bytes,
        timeout: Duration,
    ) -> ProbeReply {
        self.world.call(address, method, path, engine_key, body, timeout).await
    }
}

/// An answer of the API.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub body: Value,
    pub retry_after: Option<u64>,
}

impl Answer {
    pub fn code(&self) -> &str {
        self.body["error"]["code"].as_str().unwrap_or_default()
    }

    /// The engine an answer is about.
    pub fn engine_id(&self) -> EngineId {
        let found = [&self.body["engine_id"], &self.body["engine"]["engine_id"]];
        let text = found.iter().find_map(|v| v.as_str()).unwrap_or_else(|| panic!("{:?}", self.body));
        EngineId::parse(text).expect("an engine has an id")
    }
}

/// A product that calls the API of a replica.
#[derive(Clone)]
pub struct Product {
    pub key: String,
    pub base: String,
    pub http: reqwest::Client,
}

fn client() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    #[allow(clippy::disallowed_methods, reason = "plain HTTP on the loopback")]
    reqwest::Client::builder().no_proxy().build().expect("a client without TLS roots is built")
}

impl Trial {
    /// A database and a world, no replica yet. Intervals are short, so that what takes minutes takes moments.
    pub async fn new() -> Self {
        Self::on(Version::V18).await
    }

    pub async fn on(version: Version) -> Self {
        let database = TestDatabase::create_on(version).await;
        let variables = [
            ("ORCH_MASTER_KEY", MASTER_KEY),
            ("ORCH_ADMIN_KEY", ADMIN_KEY),
            ("ORCH_BIND", "127.0.0.1:0"),
            ("ORCH_INTERNAL_BIND", "127.0.0.1:0"),
            ("ORCH_ENGINE_BACKEND", "simulated"),
            ("ORCH_ENGINE_IMAGE", "september-engine:2.3.0"),
            ("ORCH_HEALTH_CHECK_INTERVAL_S", "1"),
            ("ORCH_HEALTH_CHECK_TIMEOUT_S", "0.5"),
            ("ORCH_RESTART_BACKOFF_BASE_S", "0.2"),
            ("ORCH_RESTART_BACKOFF_MAX_S", "1"),
            ("ORCH_BOOT_TIMEOUT_S", "5"),
            ("ORCH_RECONCILE_INTERVAL_S", "1"),
            ("ORCH_LEASE_TTL_S", "2"),
            ("ORCH_OPERATION_LEASE_S", "5"),
            ("ORCH_ENGINE_STOP_GRACE_S", "2"),
            ("ORCH_ADMIT_LEASE_S", "5"),
        ];
        Self {
            world: SimulatedWorld::new(1),
            database,
            replicas: Vec::new(),
            variables: variables.map(|(n, v)| (n.to_owned(), v.to_owned())).into(),
            call_timeout: Duration::from_secs(3),
            adjust: |_| {},
            probing: Arc::default(),
            http: client(),
        }
    }

    /// Changes a variable for replicas started from now on.
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.variables.insert(name.to_owned(), value.to_owned());
        self
    }

    pub fn config(&self) -> Config {
        let mut variables = self.variables.clone();
        variables.entry("ORCH_DATABASE_URL".to_owned()).or_insert_with(|| self.database.url.clone());
        let source = Values::new("a trial", variables);
        match Config::load(&source, Purpose::Serve) {
            Ok(mut loaded) => {
                (self.adjust)(&mut loaded.config);
                loaded.config
            }
            Err(problems) => panic!("{problems}"),
        }
    }

    /// Starts one more replica and waits until it supervises or another one does.
    pub async fn replica(&mut self) -> &Replica {
        let replica = self.start().await.unwrap_or_else(|stop| panic!("{}", stop.message));
        let core = Arc::clone(&replica.core);
        until("a supervisor with a backend", async || core.pulse.backend_ok() && core.pulse.supervisor_ok())
            .await;
        self.replicas.push(replica);
        self.replicas.last().expect("was just pushed")
    }

    pub async fn start(&self) -> Result<Replica, orchestrator::serve::Stop> {
        let (world, call_timeout) = (self.world.clone(), self.call_timeout);
        let probing = Arc::clone(&self.probing);
        let maker = move |instance: &orchestrator::registry::Instance| Place {
            backend: Arc::new(world.backend(instance.id, call_timeout)),
            prober: Arc::new(Counted { world: world.clone(), probing }) as Arc<dyn Prober>,
            urls_by_network: false,
        };
        Replica::start(self.config(), Drain::new(), Some(Box::new(maker))).await
    }

    /// Starts a replica and registers the product `demo`.
    pub async fn with_product() -> (Self, Product) {
        Self::new().await.ready().await
    }

    pub async fn ready(mut self) -> (Self, Product) {
        self.replica().await;
        let product = self.product("demo", json!({})).await;
        (self, product)
    }

    pub async fn product(&self, slug: &str, policy: Value) -> Product {
        let body = json!({"slug": slug, "display_name": slug, "policy": policy});
        let answer = self.admin("POST", "/products/register", body).await;
        assert_eq!(answer.status, 200, "{:?}", answer.body);
        Product {
            key: answer.body["platform_api_key"].as_str().expect("the key is shown once").to_owned(),
            base: self.base(0),
            http: self.http.clone(),
        }
    }

    pub fn base(&self, replica: usize) -> String {
        format!("http://{}", self.replicas[replica].api)
    }

    pub async fn admin(&self, method: &str, path: &str, body: Value) -> Answer {
        call(&self.http, method, &format!("{}{path}", self.base(0)), ("x-admin-key", ADMIN_KEY), &body).await
    }

    /// Ends a replica as SIGKILL would.
    pub async fn kill(&mut self, replica: usize) {
        self.replicas.remove(replica).vanish().await;
    }

    /// Ends a replica as SIGTERM would.
    pub async fn stop(&mut self, replica: usize) {
        self.replicas.remove(replica).stop().await;
    }

    /// Rows of the audit log, newest first; `filter` is a query string.
    pub async fn rows(&self, filter: &str) -> Vec<Value> {
        let answer = self.admin("GET", &format!("/audit?{filter}&limit=1000"), Value::Null).await;
        answer.body["entries"].as_array().unwrap_or_else(|| panic!("{:?}", answer.body)).clone()
    }

    /// The newest row of this action about this engine.
    pub async fn row(&self, engine: EngineId, action: &str) -> Value {
        let rows = self.rows(&format!("engine={engine}&action={action}")).await;
        rows.into_iter().next().unwrap_or_else(|| panic!("there is no row {action}"))
    }

    /// Requests of this replica that wait for an operation.
    pub fn waiting(&self, replica: usize) -> usize {
        let core = &self.replicas[replica].core;
        core.config.admit_waiters_max - core.waiters.available_permits()
    }

    /// A connection to the database, for what no endpoint shows.
    pub async fn sql(&self) -> tokio_postgres::Client {
        let url = self.variables.get("ORCH_DATABASE_URL").unwrap_or(&self.database.url);
        let connected = tokio_postgres::connect(url, tokio_postgres::NoTls).await;
        let (client, connection) = connected.expect("the database of the trial is up");
        tokio::spawn(connection);
        client
    }

    /// Has what waits for another try tried now.
    pub async fn hurry(&self, sql: &tokio_postgres::Client) {
        sql.batch_execute(
            "UPDATE operations SET retry_at = clock_timestamp() WHERE status = 'open' AND retry_at > clock_timestamp(); \
             SELECT pg_notify('bap_events', '{\"k\":\"queue\"}')",
        )
        .await
        .expect("the database of the trial is up");
    }

    /// The replica that supervises, if one does.
    pub fn supervisor(&self) -> Option<usize> {
        self.replicas.iter().position(|replica| replica.core.pulse.is_supervisor())
    }

    /// The audit actions of one engine, oldest first.
    pub async fn actions(&self, engine: EngineId) -> Vec<String> {
        let answer = self.admin("GET", &format!("/audit?engine={engine}&limit=1000"), Value::Null).await;
        let mut actions: Vec<String> = answer.body["entries"]
            .as_array()
            .unwrap_or_else(|| panic!("{:?}", answer.body))
            .iter()
            .map(|e| e["action"].as_str().unwrap_or_default().to_owned())
            .filter(|a| a != "health_check")
            .collect();
        actions.reverse();
        actions
    }
}

impl Product {
    /// Calls with one more header.
    pub async fn call_with(&self, method: &str, path: &str, header: (&str, &str), body: Value) -> Answer {
        let method = reqwest::Method::from_bytes(method.as_bytes()).expect("a test uses real methods");
        let request = self.http.request(method, format!("{}{path}", self.base));
        let request = request.header("x-platform-key", &self.key).header(header.0, header.1);
        answered(request, &body).await
    }

    /// Why an engine is as it is.
    pub async fn explain(&self, user: &str) -> Value {
        self.call("GET", &format!("/engines/{user}/explain"), Value::Null).await.body
    }

    /// Status and desired, with the open operation if there is one; `none` without a row.
    pub async fn standing(&self, user: &str) -> String {
        let told = self.explain(user).await;
        let word = |name: &str| told[name].as_str().unwrap_or("none").to_owned();
        match (word("status").as_str(), word("operation").as_str()) {
            ("none", _) => "none".to_owned(),
            (status, "none") => format!("{status}-{}", word("desired")),
            (status, operation) => format!("{status}-{}+{operation}", word("desired")),
        }
    }

    /// Waits until the engine stands like this.
    pub async fn until_standing(&self, user: &str, standing: &str) {
        until(&format!("{user} is {standing}"), async || self.standing(user).await == standing).await;
    }

    /// The same product with another key.
    pub fn with_key(self, key: &str) -> Self {
        Self { key: key.to_owned(), ..self }
    }

    /// The same product, calling another replica.
    pub fn at(self, base: String) -> Self {
        Self { base, ..self }
    }

    pub async fn call(&self, method: &str, path: &str, body: Value) -> Answer {
        call(&self.http, method, &format!("{}{path}", self.base), ("x-platform-key", &self.key), &body).await
    }

    pub async fn provision(&self, user: &str) -> Answer {
        self.call("POST", "/engines/provision", json!({"user_id": user})).await
    }

    pub async fn admit(&self, user: &str) -> Answer {
        self.call(
            "POST",
            &format!("/engines/{user}/admit"),
            json!({"auto_provision": true, "auto_wake": true}),
        )
        .await
    }

    pub async fn post(&self, user: &str, what: &str) -> Answer {
        self.call("POST", &format!("/engines/{user}/{what}"), Value::Null).await
    }

    pub async fn get(&self, user: &str) -> Answer {
        self.call("GET", &format!("/engines/{user}"), Value::Null).await
    }

    pub async fn destroy(&self, user: &str) -> Answer {
        self.call("DELETE", &format!("/engines/{user}"), Value::Null).await
    }

    pub async fn status(&self, user: &str) -> String {
        self.get(user).await.body["status"].as_str().unwrap_or("none").to_owned()
    }

    /// Waits until the engine has this status.
    pub async fn until_status(&self, user: &str, status: &str) {
        until(&format!("{user} is {status}"), async || self.status(user).await == status).await;
    }

    /// A call that goes on by itself: `admit`, `provision`, or the request of that name.
    pub fn later(&self, user: &str, what: &'static str) -> JoinHandle<Answer> {
        let (demo, user) = (self.clone(), user.to_owned());
        tokio::spawn(async move {
            match what {
                "admit" => demo.admit(&user).await,
                "provision" => demo.provision(&user).await,
                _ => demo.post(&user, what).await,
            }
        })
    }

    /// Provisions an engine that serves.
    pub async fn engine(&self, user: &str) -> EngineId {
        let answer = self.provision(user).await;
        assert_eq!(answer.status, 200, "{:?}", answer.body);
        answer.engine_id()
    }
}

async fn call(http: &reqwest::Client, method: &str, url: &str, key: (&str, &str), body: &Value) -> Answer {
    let method = reqwest::Method::from_bytes(method.as_bytes()).expect("a test uses real methods");
    answered(http.request(method, url).header(key.0, key.1), body).await
}

async fn answered(mut request: reqwest::RequestBuilder, body: &Value) -> Answer {
    if !body.is_null() {
        request = request.header("content-type", "application/json").body(body.to_string());
    }
    let response = match request.send().await {
        Ok(response) => response,
        Err(error) => {
            return Answer { status: 0, body: json!({"broken": error.to_string()}), retry_after: None };
        }
    };
    let status = response.status().as_u16();
    let retry_after =
        response.headers().get("retry-after").and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok());
    let text = response.text().await.unwrap_or_default();
    Answer { status, body: serde_json::from_str(&text).unwrap_or(Value::String(text)), retry_after }
}

/// The body of a page without authentication, as of the internal listener.
pub async fn get_text(url: &str) -> String {
    match client().get(url).send().await {
        Ok(answer) => answer.text().await.unwrap_or_default(),
        Err(error) => panic!("{url}: {error}"),
    }
}

/// A backend call that does not answer until the world is healed.
pub fn hang(call: Call) -> Fault {
    Fault::new(FaultKind::Hang).on(call)
}

/// Waits until the condition holds; fails the test when it never does.
pub async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < PATIENCE, "still waiting for: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
