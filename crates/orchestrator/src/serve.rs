//! Start, drain and stop of a replica: from a configuration to a serving process and back.
//!
//! The listeners open first, so that probes get an answer from the first moment on; the database, its schema and the
//! stored keys are checked behind them. Engines are never touched by a start or an end of this process.

use crate::audit::Denials;
use crate::claims::Claims;
use crate::config::{Config, MigrationMode};
use crate::core::{Core, Nudge, Pulse};
use crate::failpoint::{FailPoints, Failure};
use crate::gate::StartGate;
use crate::http::app::{ApiSettings, App};
use crate::http::serve::{Listeners, bind};
use crate::hub::Hub;
use crate::keys::EngineKeys;
use crate::memory::AdmitMemory;
use crate::places::{self, Place};
use crate::rates::Rates;
use crate::registry::rows::Instance;
use crate::registry::{DatabaseSettings, MigrateError, Registry, RegistryError};
use crate::supervisor::background::{self, DatabaseClock};
use crate::watched::{Trust, Watched};
use crate::{telemetry, version};
use backends::EngineBackend;
use chassis::config::{Report, Source, Values};
use chassis::drain::{Deadline, Drain};
use chassis::telemetry::{LogLevel, LogSettings, Scrub, install, last_words};
use contract::{EngineId, ReplicaId, Timestamp};
use serde_json::json;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Exit code: everything ended as asked.
pub const OK: i32 = 0;
/// Exit code: something failed.
pub const FAILURE: i32 = 1;
/// Exit code: wrong configuration.
pub const CONFIGURATION: i32 = 2;
/// Exit code: refused to run (schema, keys).
pub const REFUSED: i32 = 3;

/// First wait before the database is tried again; doubles up to [`DATABASE_AGAIN_MAX`].
const DATABASE_AGAIN: Duration = Duration::from_millis(100);
/// Longest wait between two tries. Longer leaves the fleet unwatched after the database came back.
const DATABASE_AGAIN_MAX: Duration = Duration::from_secs(2);
/// How often a gated schema is looked at.
const GATE_LOOK: Duration = Duration::from_secs(1);
/// Stops and removals at once (§12.4).
const STOPS_MAX: usize = 32;
/// How long executors get to reach the next step when the process drains.
const LET_GO: Duration = Duration::from_secs(5);
/// How long the listeners stay open at least after the drain began. Answers of that time ask for the connection to be
/// closed, so busy callers move on in order. Longer delays every stop; shorter closes connections that are being
/// written into.
const LINGER: Duration = Duration::from_millis(300);
/// How long open answers get after the work is over.
const CLOSE_WAIT: Duration = Duration::from_secs(2);
/// Engine ids named when the stored keys cannot be read (§13.3).
const KEYS_NAMED: usize = 10;
/// Shorter secrets are not looked for in the log: they would take words out of every line.
const SHORTEST_SCRUBBED: usize = 8;

/// Why the process ends.
#[derive(Debug, Clone)]
pub struct Stop {
    /// Exit code.
    pub code: i32,
    /// For people.
    pub message: String,
}

impl Stop {
    fn new(code: i32, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// Sets up logging as the configuration says; the answer takes secrets out of last words.
pub fn install_logging(config: &Config, report: &Report) -> Option<Scrub> {
    let values = config.secret_values().iter().map(|secret| secret.expose().to_owned());
    let secrets: Vec<String> = values.filter(|s| s.len() >= SHORTEST_SCRUBBED).collect();
    let scrub: Scrub = Arc::new(move |line: String| {
        secrets.iter().fold(line, |line, secret| {
            if line.contains(secret.as_str()) { line.replace(secret.as_str(), "[redacted]") } else { line }
        })
    });
    let settings = LogSettings {
        level: config.log_level,
        format: config.log_format,
        own: &["orchestrator", "bap_engine", "backends", "fleet", "chassis"],
        scrub: Some(Arc::clone(&scrub)),
    };
    install(&settings).ok()?;
    for warning in &report.warnings {
        tracing::warn!(variable = %warning.name, "{}", warning.text);
    }
    Some(scrub)
}

/// Serves until a signal; the answer is the exit code of the process.
pub fn run(config: Config, report: Report) -> i32 {
    let Some(scrub) = install_logging(&config, &report) else { return FAILURE };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(async {
            let drain =
                Drain::on_signals().map_err(|e| Stop::new(FAILURE, format!("listen for signals: {e}")))?;
            let replica = Replica::start(config, drain.clone(), None).await?;
            replica.until_drained().await;
            Ok(())
        }),
        Err(error) => Err(Stop::new(FAILURE, format!("start the runtime: {error}"))),
    };
    match outcome {
        Ok(()) => OK,
        Err(stop) => {
            last_words(
                LogLevel::Error,
                "orchestrator.serve",
                &stop.message,
                &json!({"code": stop.code}),
                Some(&scrub),
            );
            stop.code
        }
    }
}

/// A running replica.
pub struct Replica {
    /// What it is made of.
    pub core: Arc<Core>,
    /// Where its API listens.
    pub api: SocketAddr,
    /// Where metrics and probes are.
    pub internal: SocketAddr,
    drain: Drain,
    over: CancellationToken,
    loops: TaskTracker,
    trust: Trust,
    serving: tokio::task::JoinHandle<()>,
}

/// Makes the place engines run in, once the instance is known.
pub type PlaceMaker = Box<dyn FnOnce(&Instance) -> Place + Send>;

impl Replica {
    /// Opens the listeners, waits for the database, checks schema and keys, starts the loops. `place`: where engines
    /// run, when that is not for the configuration to say.
    pub async fn start(config: Config, drain: Drain, place: Option<PlaceMaker>) -> Result<Self, Stop> {
        telemetry::build(version::VERSION, 0);
        let listeners = bind(config.bind, config.internal_bind).await;
        let listeners = listeners.map_err(|e| {
            Stop::new(
                FAILURE,
                format!(
                    "listen on {} and {}: {e}; set ORCH_BIND and ORCH_INTERNAL_BIND to free ports",
                    config.bind, config.internal_bind
                ),
            )
        })?;
        let (api, internal) = listeners.addresses().map_err(|e| Stop::new(FAILURE, e.to_string()))?;
        let app = App::new(ApiSettings::of(&config), drain.clone());
        let serving = serve_listeners(listeners, Arc::clone(&app));
        tracing::info!(%api, %internal, "listening; waiting for the database");
        let core = match build(config, &drain, place).await {
            Ok(core) => core,
            Err(stop) => {
                drain.begin();
                drain.close();
                let _ = serving.await;
                return Err(stop);
            }
        };
        let (core, trust) = core;
        app.serve(Arc::clone(&core));
        let over = CancellationToken::new();
        let loops = if core.config.read_only {
            background::start_reading(&core, trust.clone(), &over)
        } else {
            background::start(&core, trust.clone(), &over)
        };
        tracing::info!(%api, replica = %core.replica, backend = core.backend.kind().as_str(), "serving");
        Ok(Self { core, api, internal, drain, over, loops, trust, serving })
    }

    /// Waits for the drain to begin, then stops in order (§12.5).
    pub async fn until_drained(self) {
        self.drain.draining().await;
        self.stop().await;
    }

    /// Stops in order: hand over, let go, flush, finish requests, close.
    pub async fn stop(self) {
        let core = &self.core;
        let deadline = Deadline::after(core.config.drain_timeout_s);
        let began = Instant::now();
        self.drain.begin();
        // The lease goes first, so that a successor supervises while requests finish here.
        self.over.cancel();
        let _ = deadline.wait(self.loops.wait()).await;
        core.halt.cancel();
        core.claims.lose_all();
        core.tasks.close();
        let let_go = Deadline::after(LET_GO.min(deadline.remaining()));
        let _ = let_go.wait(core.tasks.wait()).await;
        if let Err(error) = background::flush_vitals(core).await {
            tracing::warn!(%error, "the last vitals are lost");
        }
        if let Err(error) = background::flush_denials(core).await {
            tracing::warn!(code = %error.code, "the last refusals are not written down: {}", error.message);
        }
        // Held admits stay until their operation ends on whichever replica.
        let places = u32::try_from(core.config.admit_waiters_max).unwrap_or(u32::MAX);
        let _ = deadline.wait(core.waiters.acquire_many(places)).await;
        let _ = deadline.wait(tokio::time::sleep(LINGER.saturating_sub(began.elapsed()))).await;
        self.drain.close();
        let _ = self.serving.await;
        tracing::info!("stopped; engines go on");
    }

    /// Vanishes as a killed process would: nothing is released, nothing flushed, nothing more is written or asked of
    /// the backend. For tests.
    pub async fn vanish(self) {
        self.core.registry.close();
        self.trust.set(false);
        self.core.halt.cancel();
        self.core.claims.vanish();
        self.over.cancel();
        self.drain.begin();
        self.drain.close();
        let _ = self.serving.await;
    }
}

fn serve_listeners(listeners: Listeners, app: Arc<App>) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        let closed = listeners.run(app, CLOSE_WAIT).await;
        let _ = closed;
    })
}

/// Everything behind the listeners.
async fn build(config: Config, drain: &Drain, maker: Option<PlaceMaker>) -> Result<(Arc<Core>, Trust), Stop> {
    let replica = ReplicaId::generate();
    let replica_name = format!("{}/{}", host_name(), std::process::id());
    let url =
        config.database_url.clone().ok_or_else(|| Stop::new(CONFIGURATION, "ORCH_DATABASE_URL is needed"))?;
    let settings = DatabaseSettings {
        url,
        max_connections: config.database_max_connections,
        application_name: format!("bap-engine {replica_name}"),
    };
    let registry = Registry::connect(settings).map_err(|e| Stop::new(CONFIGURATION, e.to_string()))?;
    let now = first_word(&registry, drain).await?;
    migrate(&registry, &config, &replica_name, drain).await?;
    let keys = EngineKeys::new(config.master_key.clone());
    let unreadable = check_keys(&registry, &keys, &config).await?;
    if !config.read_only {
        for port in config.ports_kept_from_engines() {
            let aside = registry.set_port_aside(port, "a listener of the orchestrator").await;
            aside.map_err(|e| Stop::new(FAILURE, e.to_string()))?;
        }
    }
    let instance = registry.instance().await.map_err(|e| Stop::new(FAILURE, e.to_string()))?;
    let place = match maker {
        Some(make) => make(&instance),
        None => places::place(&config, &instance).await.map_err(|e| Stop::new(CONFIGURATION, e))?,
    };
    let (backend, trust) = Watched::new(place.backend);
    let elsewhere = registry.count_other_backends(backend.kind()).await;
    let elsewhere = elsewhere.map_err(|e| Stop::new(FAILURE, e.to_string()))?;
    if elsewhere > 0 {
        tracing::warn!(
            engines = elsewhere,
            backend = backend.kind().as_str(),
            "engines of another backend are in the registry; they stay untouched and unmanaged"
        );
    }
    let fail_points = FailPoints::default();
    if let Some(name) = Values::process().get("ORCH_TEST_FAIL_POINT") {
        fail_points.arm(&name, Failure::Kill);
    }
    let core = Core {
        urls_by_network: place.urls_by_network,
        registry,
        backend,
        prober: place.prober,
        keys,
        instance,
        replica,
        replica_name,
        hub: Arc::new(Hub::default()),
        claims: Claims::new(config.operation_lease_s),
        gate: StartGate::new(config.start_concurrency, config.start_queue_max),
        stops: Arc::new(Semaphore::new(STOPS_MAX)),
        waiters: Arc::new(Semaphore::new(config.admit_waiters_max)),
        rates: Rates::default(),
        denials: Denials::default(),
        memory: AdmitMemory::default(),
        vitals: Mutex::default(),
        pulse: Pulse::new(config.lease_ttl_s),
        nudge: Nudge::default(),
        clock: DatabaseClock::new(now),
        keys_unreadable: AtomicU64::new(unreadable),
        host_cpus: AtomicU32::new(0),
        tasks: TaskTracker::new(),
        halt: CancellationToken::new(),
        drain: drain.clone(),
        fail_points,
        config,
    };
    Ok((Arc::new(core), trust))
}

/// Waits until the database answers.
async fn first_word(registry: &Registry, drain: &Drain) -> Result<Timestamp, Stop> {
    let mut wait = DATABASE_AGAIN;
    let mut told = Instant::now();
    let mut first = true;
    loop {
        match registry.now().await {
            Ok(now) => return Ok(now),
            Err(error) => {
                if first || told.elapsed() > Duration::from_secs(10) {
                    tracing::warn!(%error, "the database does not answer yet");
                    told = Instant::now();
                    first = false;
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => wait = (wait * 2).min(DATABASE_AGAIN_MAX),
            () = drain.draining() => return Err(Stop::new(OK, "asked to stop before the database answered")),
        }
    }
}

async fn migrate(registry: &Registry, config: &Config, by: &str, drain: &Drain) -> Result<(), Stop> {
    let refused = |e: MigrateError| match e {
        MigrateError::Registry(error) => Stop::new(FAILURE, error.to_string()),
        other => Stop::new(REFUSED, other.to_string()),
    };
    let version = registry.server_version().await.map_err(|e| Stop::new(FAILURE, e.to_string()))?;
    if version < 15 {
        return Err(Stop::new(REFUSED, format!("PostgreSQL {version} is too old; 16 or newer is supported")));
    }
    if version == 15 {
        tracing::warn!("PostgreSQL 15 works, but 16 or newer is what is supported");
    }
    if config.migrations == MigrationMode::Auto && !config.read_only {
        let report = registry.migrate(by).await.map_err(refused)?;
        if !report.applied.is_empty() {
            tracing::info!(applied = ?report.applied, level = report.level, "migrated the database");
        }
        telemetry::build(version::VERSION, u32::try_from(report.level).unwrap_or(0));
        return Ok(());
    }
    let mut told = false;
    loop {
        let status = registry.schema_status().await.map_err(refused)?;
        if status.is_current() {
            telemetry::build(version::VERSION, u32::try_from(status.database).unwrap_or(0));
            return Ok(());
        }
        if !told {
            tracing::warn!(
                database = status.database,
                program = status.program,
                "waiting for `bap-engine migrate` (ORCH_MIGRATIONS=gate)"
            );
            told = true;
        }
        tokio::select! {
            () = tokio::time::sleep(GATE_LOOK) => {}
            () = drain.draining() => return Err(Stop::new(OK, "asked to stop before the database was migrated")),
        }
    }
}

/// Every stored key must open; a wrong master key stops the start, a damaged row does not (§13.3).
async fn check_keys(registry: &Registry, keys: &EngineKeys, config: &Config) -> Result<u64, Stop> {
    let mut total: u64 = 0;
    let mut unreadable: Vec<EngineId> = Vec::new();
    let walked = registry
        .keys(|id, key, next| {
            total += 1;
            let opens = keys.open(&key.sealed).is_ok() && next.is_none_or(|n| keys.open(&n.sealed).is_ok());
            if !opens {
                unreadable.push(id);
            }
        })
        .await;
    walked.map_err(|e: RegistryError| Stop::new(FAILURE, e.to_string()))?;
    let count = unreadable.len() as u64;
    if count * 2 > total {
        let named: Vec<String> = unreadable.iter().take(KEYS_NAMED).map(ToString::to_string).collect();
        return Err(Stop::new(
            REFUSED,
            format!(
                "{count} of {total} engine keys cannot be decrypted with ORCH_MASTER_KEY (fingerprints {}): engines {}. Put the key they were \
                 encrypted with back, behind the new one, and run `bap-engine rotate-master-key`",
                config.master_key.fingerprints().join(", "),
                named.join(", "),
            ),
        ));
    }
    for id in &unreadable {
        tracing::error!(engine_id = %id, "the stored key of this engine cannot be decrypted; run `bap-engine engines reissue-key`");
    }
    Ok(count)
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
