//! The pool, its connections, and the one way a statement is run: named, prepared once, measured, with a limit.
//!
//! The pool is lazy: it exists while the database is away and heals by itself. Two connections are kept apart from it,
//! so that leases and the pulse never wait behind requests. Refuses statements without a name.
//!
//! The invariant: a connection that still owes an answer is closed, never handed out again.

use super::error::{Fault, RegistryError, chain, classify};
use super::tls;
use chassis::config::Secret;
use deadpool_postgres::{
    GenericClient, Hook, HookError, Manager, ManagerConfig, Object, Pool, RecyclingMethod, Runtime,
    Transaction,
};
use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Config, Connection, IsolationLevel, Row, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

/// Wait for a free connection, and for a new one. Longer makes requests pile up behind a dead database; shorter
/// refuses work in an ordinary burst.
pub(super) const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// What the server itself is told (`statement_timeout` 5 s) and the network on top. Longer would let a frozen server
/// hold callers; shorter would give up on statements that the server is still allowed to finish.
pub(super) const ANSWER_LIMIT: Duration = Duration::from_secs(7);
/// An unacknowledged packet ends the connection after this. Longer keeps dead connections in the pool after a
/// fail-over; shorter ends good ones on a slow network.
const TCP_LIMIT: Duration = Duration::from_secs(15);
/// Silence before a keep-alive. Longer loses connections to idle timeouts of firewalls unnoticed.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);

/// Connections kept for what keeps this replica alive (supervisor lease, claims, pulse), taken from the configured
/// number. More is taken from requests; with one, the pulse waits for a lease that waits for its row.
const KEPT: usize = 2;

/// Limits of every session: a statement 5 s, a lock 2 s, an idle transaction 10 s. Longer lets one stuck statement
/// block the fleet; shorter fails batches on a loaded server.
pub(super) const SESSION: &str = "SET statement_timeout = '5s'; SET lock_timeout = '2s'; \
     SET idle_in_transaction_session_timeout = '10s'; SET timezone = 'UTC'";

/// What the TLS client makes of a socket.
type TlsStream = <MakeRustlsConnect as tokio_postgres::tls::MakeTlsConnect<Socket>>::Stream;

/// Where the registry is and how many connections it may hold.
#[derive(Debug, Clone)]
pub struct DatabaseSettings {
    /// `postgresql://user:password@host:port/database`, with `sslmode` and `sslrootcert`.
    pub url: Secret,
    /// Size of the pool.
    pub max_connections: usize,
    /// Shown by the server in `pg_stat_activity`.
    pub application_name: String,
}

/// A statement and the name under which it is measured.
pub(super) struct Query {
    name: &'static str,
    sql: Cow<'static, str>,
}

impl Query {
    pub(super) const fn new(name: &'static str, sql: &'static str) -> Self {
        Self { name, sql: Cow::Borrowed(sql) }
    }

    /// A statement put together from fixed fragments, never from values.
    pub(super) const fn assembled(name: &'static str, sql: String) -> Self {
        Self { name, sql: Cow::Owned(sql) }
    }
}

/// Parameters of a statement.
pub(super) type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

/// The pools and what is needed for a connection outside of them.
pub(super) struct Database {
    pool: Pool,
    kept: Pool,
    config: Config,
    tls: MakeRustlsConnect,
    statements: AtomicU64,
    /// When a statement was last answered.
    heard: Mutex<tokio::time::Instant>,
}

/// A connection from a pool.
pub(super) struct Conn<'d> {
    database: &'d Database,
    /// `None` only while this is being dropped.
    client: Option<Object>,
    owes: Owes,
}

/// A transaction; dropped without [`Tx::commit`] it is rolled back.
pub(super) struct Tx<'c> {
    database: &'c Database,
    inner: Transaction<'c>,
    owes: &'c Owes,
}

/// Whether the server still owes an answer: it did not come in time, or its caller went away. Whoever used that
/// connection next would wait for it, too.
#[derive(Default)]
struct Owes(AtomicBool);

impl Owes {
    /// Waits for an answer with a limit; from the question to the answer the connection owes.
    async fn settle<T>(
        &self,
        what: &str,
        answer: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, Fault> {
        self.0.store(true, Ordering::Relaxed);
        let answer = tokio::time::timeout(ANSWER_LIMIT, answer).await.map_err(|_| silence(what))?;
        self.0.store(false, Ordering::Relaxed);
        Ok(answer?)
    }

    fn any(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Conn<'_> {
    fn drop(&mut self) {
        if self.owes.any()
            && let Some(client) = self.client.take()
        {
            // Out of the pool; its end closes the connection.
            drop(Object::take(client));
        }
    }
}

impl Database {
    /// Reads the settings; connects when first used.
    pub(super) fn new(settings: &DatabaseSettings) -> Result<Self, RegistryError> {
        let defect = |text: String| RegistryError::Defect(format!("database URL: {text}"));
        let target = tls::parse(settings.url.expose()).map_err(defect)?;
        let tls = target.connector().map_err(defect)?;
        let mut config = target.config;
        config.connect_timeout(CONNECT_LIMIT).tcp_user_timeout(TCP_LIMIT).keepalives_idle(KEEPALIVE_IDLE);
        if config.get_application_name().is_none() {
            config.application_name(&settings.application_name);
        }
        let of = |connections: usize| {
            let manager = Manager::from_config(
                config.clone(),
                tls.clone(),
                ManagerConfig { recycling_method: RecyclingMethod::Fast },
            );
            Pool::builder(manager)
                .max_size(connections)
                .runtime(Runtime::Tokio1)
                .wait_timeout(Some(CONNECT_LIMIT))
                .create_timeout(Some(CONNECT_LIMIT))
                .recycle_timeout(Some(CONNECT_LIMIT))
                .post_create(Hook::async_fn(|client, _| {
                    Box::pin(async move { client.batch_execute(SESSION).await.map_err(HookError::Backend) })
                }))
                .build()
                .map_err(|e| RegistryError::Defect(e.to_string()))
        };
        let pool = of(settings.max_connections.saturating_sub(KEPT).max(1))?;
        let kept = of(KEPT)?;
        Ok(Self {
            pool,
            kept,
            config,
            tls,
            statements: AtomicU64::new(0),
            heard: Mutex::new(tokio::time::Instant::now()),
        })
    }

    /// Hands out no connection any more.
    pub(super) fn close(&self) {
        self.pool.close();
        self.kept.close();
    }

    /// A connection for requests, executors and loops.
    pub(super) async fn conn(&self) -> Result<Conn<'_>, Fault> {
        Ok(Conn { database: self, client: Some(self.pool.get().await?), owes: Owes::default() })
    }

    /// A connection for one statement that keeps this replica alive; requests never hold it.
    pub(super) async fn kept(&self) -> Result<Conn<'_>, Fault> {
        Ok(Conn { database: self, client: Some(self.kept.get().await?), owes: Owes::default() })
    }

    /// A connection outside the pool, to be driven by the caller. Nothing is set on it.
    pub(super) async fn dial(&self) -> Result<(Client, Connection<Socket, TlsStream>), RegistryError> {
        match tokio::time::timeout(CONNECT_LIMIT, self.config.connect(self.tls.clone())).await {
            Ok(Ok(pair)) => Ok(pair),
            Ok(Err(error)) => Err(RegistryError::Unavailable(chain(&error))),
            Err(_) => Err(RegistryError::Unavailable("no connection could be made in time".to_owned())),
        }
    }

    /// A connection outside the pool that drives itself and ends with its handle: for work that takes longer than
    /// a pooled connection allows.
    pub(super) async fn aside(&self) -> Result<Client, RegistryError> {
        let (client, connection) = self.dial().await?;
        tokio::spawn(async move {
            // Whatever ended it is told to the statement that was running.
            let _ = connection.await;
        });
        client.batch_execute("SET timezone = 'UTC'").await.map_err(|e| classify(&e))?;
        Ok(client)
    }

    pub(super) fn gauges(&self) -> (usize, usize) {
        let status = self.pool.status();
        (status.size.saturating_sub(status.available), status.size)
    }

    pub(super) fn statements(&self) -> u64 {
        self.statements.load(Ordering::Relaxed)
    }

    pub(super) fn silence(&self) -> Duration {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    async fn run<C: GenericClient>(
        &self,
        client: &C,
        owes: &Owes,
        query: &Query,
        params: Params<'_>,
    ) -> Result<Vec<Row>, Fault> {
        let began = Instant::now();
        self.statements.fetch_add(1, Ordering::Relaxed);
        let work = async {
            let statement = client.prepare_cached(&query.sql).await?;
            client.query(&statement, params).await
        };
        let answer = owes.settle(query.name, work).await;
        if answer.is_ok() {
            *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = tokio::time::Instant::now();
        }
        metrics::histogram!("bap_db_query_duration_seconds", "query" => query.name)
            .record(began.elapsed().as_secs_f64());
        answer
    }
}

fn silence(what: &str) -> Fault {
    Fault::Told(RegistryError::Unavailable(format!(
        "no answer to {what} within {} s",
        ANSWER_LIMIT.as_secs()
    )))
}

impl Conn<'_> {
    pub(super) async fn rows(&self, query: &Query, params: Params<'_>) -> Result<Vec<Row>, Fault> {
        let client = self.client.as_ref().ok_or_else(gone)?;
        self.database.run(client, &self.owes, query, params).await
    }

    pub(super) async fn maybe(&self, query: &Query, params: Params<'_>) -> Result<Option<Row>, Fault> {
        Ok(self.rows(query, params).await?.into_iter().next())
    }

    pub(super) async fn one(&self, query: &Query, params: Params<'_>) -> Result<Row, Fault> {
        self.maybe(query, params).await?.ok_or_else(|| nothing(query))
    }

    /// Begins a transaction at READ COMMITTED.
    pub(super) async fn begin(&mut self) -> Result<Tx<'_>, Fault> {
        let client = self.client.as_mut().ok_or_else(gone)?;
        let start = client.build_transaction().isolation_level(IsolationLevel::ReadCommitted).start();
        let inner = self.owes.settle("begin", start).await?;
        Ok(Tx { database: self.database, inner, owes: &self.owes })
    }
}

impl Tx<'_> {
    pub(super) async fn rows(&self, query: &Query, params: Params<'_>) -> Result<Vec<Row>, Fault> {
        self.database.run(&self.inner, self.owes, query, params).await
    }

    pub(super) async fn maybe(&self, query: &Query, params: Params<'_>) -> Result<Option<Row>, Fault> {
        Ok(self.rows(query, params).await?.into_iter().next())
    }

    pub(super) async fn one(&self, query: &Query, params: Params<'_>) -> Result<Row, Fault> {
        self.maybe(query, params).await?.ok_or_else(|| nothing(query))
    }

    /// Runs statements that take no parameters and cannot be prepared (DDL), as text made of checked names.
    pub(super) async fn batch(&self, name: &'static str, sql: &str) -> Result<(), Fault> {
        self.database.statements.fetch_add(1, Ordering::Relaxed);
        self.owes.settle(name, self.inner.batch_execute(sql)).await
    }

    pub(super) async fn commit(self) -> Result<(), Fault> {
        self.owes.settle("commit", self.inner.commit()).await
    }
}

/// Cannot be seen by anybody: a connection loses its client only when it is dropped.
fn gone() -> Fault {
    Fault::Told(RegistryError::Defect("a connection was used after its end".to_owned()))
}

fn nothing(query: &Query) -> Fault {
    Fault::Told(RegistryError::Defect(format!("{} answered without a row", query.name)))
}

/// Runs a transaction again when a deadlock or a serialization failure ended it.
macro_rules! retried {
    ($transaction:expr) => {{
        let mut tries = $crate::registry::error::Tries::default();
        loop {
            match $transaction.await {
                Err(fault) if tries.again(&fault) => {}
                result => break result.map_err($crate::registry::error::RegistryError::from),
            }
        }
    }};
}
pub(super) use retried;

/// Kept behind one pointer: the registry is cloned freely.
pub(super) type Shared = Arc<Database>;
