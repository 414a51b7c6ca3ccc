//! A real PostgreSQL for tests: one shared server per test run, a database of its own for every test.
//!
//! The programs come from the cache (`scripts/fetch-postgres.sh`), never from PATH, where distributions keep older
//! ones. Test processes that run side by side share a server; it ends by itself after the last of them. A test that
//! wants to kill, stop or freeze a server starts a private one. Nothing here is durable, and nothing is left behind.

mod programs;
mod server;
mod run_server;

pub use programs::Version;
pub use server::PostgresServer;

use std::path::PathBuf;
use std::time::Duration;
use tokio_postgres::{Client, NoTls};

/// Wait for an answer of the server. Longer hides a hung one; shorter fails on a loaded machine.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// A database that exists as long as this value.
pub struct TestDatabase {
    /// `postgresql://…`, for the program under test.
    pub url: String,
    name: String,
    server: String,
    /// A server that is there for this database alone; ends after it.
    _own: Option<PostgresServer>,
}

impl TestDatabase {
    /// An empty database on a PostgreSQL 18 of its own that flushes every commit to the disk: for measurements.
    pub async fn durable() -> Self {
        let own = PostgresServer::durable(Version::V18).await;
        let mut database = Self::make(own.address(), "").await;
        database._own = Some(own);
        database
    }

    /// An empty database on PostgreSQL 18.
    pub async fn create() -> Self {
        Self::create_on(Version::V18).await
    }

    /// An empty database on this version.
    pub async fn create_on(version: Version) -> Self {
        let server = run_server::server(version).await;
        Self::make(server, "").await
    }

    /// A copy of the template with this name. Whoever comes first makes the template: `fill` gets the URL of an empty
    /// database. The name must change with the contents.
    pub async fn cloned(version: Version, template: &str, fill: impl AsyncFnOnce(String)) -> Self {
        let server = run_server::server(version).await;
        let template = format!("template_{template}");
        assert!(
            template.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'),
            "{template:?} is no plain name"
        );
        let _alone = run_server::lock(version, &template).await;
        let client = connect(&server, "postgres").await;
        let known = client.query_opt("SELECT 1 FROM pg_database WHERE datname = $1", &[&template]).await;
        if known.expect("the server lists its databases").is_none() {
            let raw = format!("{template}_raw");
            run(&client, &format!("DROP DATABASE IF EXISTS {raw} WITH (FORCE)")).await;
            run(&client, &format!("CREATE DATABASE {raw}")).await;
            fill(url(&server, &raw)).await;
            // Connections that are still closing would stand in the way of renaming and copying.
            run(&client, &format!("ALTER DATABASE {raw} WITH ALLOW_CONNECTIONS false")).await;
            for left in 0..100 {
                let ended =
                    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = $1";
                let count: i64 = client.query_one(ended, &[&raw]).await.expect("sessions are listed").get(0);
                if count == 0 {
                    break;
                }
                assert!(left < 99, "sessions on {raw} do not end");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            run(&client, &format!("ALTER DATABASE {raw} RENAME TO {template}")).await;
        }
        Self::make(server, &format!(" TEMPLATE {template}")).await
    }

    async fn make(server: String, from: &str) -> Self {
        let name = format!("test_{:016x}", rand::random::<u64>());
        run(&connect(&server, "postgres").await, &format!("CREATE DATABASE {name}{from}")).await;
        Self { url: url(&server, &name), name, server, _own: None }
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let (server, name) = (self.server.clone(), self.name.clone());
        // The runtime of the test may be ending; this one is its own. What fails here goes with the server.
        let dropping = std::thread::spawn(move || {
            let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
                return;
            };
            runtime.block_on(async {
                let dropped = async {
                    let (client, connection) =
                        tokio_postgres::connect(&url(&server, "postgres"), NoTls).await?;
                    tokio::spawn(connection);
                    client.batch_execute(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await
                };
                let _ = tokio::time::timeout(Duration::from_secs(5), dropped).await;
            });
        });
        let _ = dropping.join();
    }
}

/// The directory with `postgres`, `initdb` and the tools that came with them.
pub fn bin_dir(version: Version) -> PathBuf {
    programs::find(version).unwrap_or_else(|reason| programs::cannot_test(version, &reason))
}

/// The URL of a database on a server at `host:port`.
fn url(server: &str, database: &str) -> String {
    format!("postgresql://postgres@{server}/{database}?sslmode=disable")
}

async fn connect(server: &str, database: &str) -> Client {
    let url = url(server, database);
    let connecting = tokio_postgres::connect(&url, NoTls);
    let (client, connection) = tokio::time::timeout(ANSWER_LIMIT, connecting)
        .await
        .expect("the test server answers in time")
        .expect("the test server takes connections");
    tokio::spawn(connection);
    client
}

async fn run(client: &Client, sql: &str) {
    let ran = tokio::time::timeout(ANSWER_LIMIT, client.batch_execute(sql)).await;
    if let Err(error) = ran.expect("the test server answers in time") {
        panic!("{sql}: {}", error.as_db_error().map_or(error.to_string(), ToString::to_string));
    }
}
