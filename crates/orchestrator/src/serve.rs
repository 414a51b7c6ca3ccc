//! Start, drain and stop of a replica: from a configuration to a serving process and back.
//!
//! The listeners open first, so that probes get an answer from the first moment on; the database, its schema and the
//! stored keys are checked behind them. Engines are never touched by a start or an end of this process.

mod database;

use crate::audit::Denials;
use crate::claims::Claims;
use crate::config::Config;
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
use crate::registry::{DatabaseSettings, Registry};
use crate::supervisor::background::{self, DatabaseClock};
use crate::watched::{Trust, Watched};
use crate::{telemetry, version};
use backends::EngineBackend;
use chassis::config::{Report, Source, Values};
use chassis::drain::{Deadline, Drain};
use chassis::telemetry::{LogLevel, LogSettings, Scrub, install, last_words};
use contract::ReplicaId;
use database::Database;
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
        silent: &[],
        ids: telemetry::LOG_IDS,
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
                telemetry::LOG_IDS,
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
    app: Arc<App>,
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
        telemetry::no_database_yet();
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
        Ok(Self { core, api, internal, app, drain, over, loops, trust, serving })
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
        // Requests that were accepted stay until they are answered: held ones when their operation ends on whichever
        // replica.
        self.app.accepted.close();
        let _ = deadline.wait(self.app.accepted.wait()).await;
        let _ = deadline.wait(tokio::time::sleep(LINGER.saturating_sub(began.elapsed()))).await;
        self.drain.close();
        let _ = self.serving.await;
        tracing::info!("the replica has stopped; it touches no engine");
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
    let database = Database { registry: &registry, config: &config, drain };
    let now = database.first_word().await?;
    database.migrated(&replica_name).await?;
    let keys = EngineKeys::new(config.master_key.clone());
    let unreadable = database.keys_open(&keys).await?;
    if !config.read_only {
        database.ports_set_aside().await?;
    }
    let instance = database.answer("the instance", async || registry.instance().await).await?;
    let place = match maker {
        Some(make) => make(&instance),
        None => places::place(&config, &instance).await.map_err(|e| Stop::new(CONFIGURATION, e))?,
    };
    let (backend, trust) = Watched::new(place.backend);
    let kind = backend.kind();
    let elsewhere =
        database.answer("the engines elsewhere", async || registry.count_other_backends(kind).await).await?;
    if elsewhere > 0 {
        tracing::warn!(
            engines = elsewhere,
            backend = kind.as_str(),
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
        locks: Arc::default(),
        turns: Arc::default(),
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

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
