//! A replica in this process, with a database of its own.

use backends::{Prober, SimulatedWorld};
use chassis::config::Values;
use chassis::drain::Drain;
use orchestrator::config::{Config, Purpose};
use orchestrator::places::Place;
use orchestrator::registry::Instance;
use orchestrator::serve::{PlaceMaker, Replica};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use testbed::postgres::TestDatabase;

const ADMIN_KEY: &str = "admin-key-of-a-benchmark-long-enough";
const MASTER_KEY: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
/// Longest wait for anything.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A running replica.
pub struct Deployment {
    pub replica: Replica,
    pub api: SocketAddr,
    _database: TestDatabase,
}

/// The configuration of a replica on this database.
pub fn config(database: &TestDatabase, more: &[(&str, &str)]) -> Config {
    let fixed = [
        ("ORCH_DATABASE_URL", database.url.as_str()),
        ("ORCH_MASTER_KEY", MASTER_KEY),
        ("ORCH_ADMIN_KEY", ADMIN_KEY),
        ("ORCH_BIND", "127.0.0.1:0"),
        ("ORCH_INTERNAL_BIND", "127.0.0.1:0"),
        ("ORCH_ENGINE_BACKEND", "simulated"),
        ("ORCH_ENGINE_IMAGE", "september-engine:bench"),
        ("ORCH_LEASE_TTL_S", "2"),
    ];
    let variables: BTreeMap<&str, &str> = fixed.iter().chain(more).copied().collect();
    let source = Values::new("a benchmark", variables);
    Config::load(&source, Purpose::Serve).unwrap_or_else(|problems| panic!("{problems}")).config
}

impl Deployment {
    /// Engines in memory.
    pub async fn simulated(more: &[(&str, &str)]) -> Self {
        Self::on(TestDatabase::durable().await, SimulatedWorld::new(1), more).await
    }

    /// The same, on a database and a world that exist.
    pub async fn on(database: TestDatabase, world: SimulatedWorld, more: &[(&str, &str)]) -> Self {
        let own = world.clone();
        let maker: PlaceMaker = Box::new(move |instance: &Instance| Place {
            backend: Arc::new(own.backend(instance.id, Duration::from_secs(30))),
            prober: Arc::new(own.clone()) as Arc<dyn Prober>,
            urls_by_network: false,
        });
        let replica = start(config(&database, more), Some(maker)).await;
        Self { api: replica.api, replica, _database: database }
    }

    /// Engines where the configuration says.
    pub async fn real(more: &[(&str, &str)]) -> Self {
        let database = TestDatabase::durable().await;
        let replica = start(config(&database, more), None).await;
        let core = Arc::clone(&replica.core);
        until("the backend answers", || core.pulse.backend_ok() && core.pulse.is_supervisor()).await;
        Self { api: replica.api, replica, _database: database }
    }

    /// Registers a product; the answer is its key.
    pub async fn product(&self) -> String {
        let body = json!({"slug": "bench", "display_name": "Bench"});
        let answer = self.call("POST", "/products/register", ("x-admin-key", ADMIN_KEY), body).await;
        answer["platform_api_key"].as_str().expect("a key").to_owned()
    }

    /// One call of the API.
    pub async fn call(&self, method: &str, path: &str, key: (&str, &str), body: Value) -> Value {
        let _ = rustls::crypto::ring::default_provider().install_default();
        #[allow(clippy::disallowed_methods, reason = "plain HTTP on the loopback")]
        let http = reqwest::Client::builder().no_proxy().build().expect("a client");
        let method = method.parse::<reqwest::Method>().expect("a method");
        let url = format!("http://{}{path}", self.api);
        let mut request = http.request(method, url).header(key.0, key.1);
        if !body.is_null() {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        let text = request.send().await.expect("an answer").text().await.expect("a body");
        serde_json::from_str(&text).unwrap_or(Value::String(text))
    }

    /// Removes every engine and stops.
    pub async fn end(self) {
        self.replica.stop().await;
    }
}

/// Starts a replica.
pub async fn start(config: Config, maker: Option<PlaceMaker>) -> Replica {
    Replica::start(config, Drain::new(), maker).await.unwrap_or_else(|stop| panic!("{}", stop.message))
}

/// Waits for a condition.
pub async fn until(what: &str, holds: impl Fn() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "still waiting for: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
