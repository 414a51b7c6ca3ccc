//! What a running replica is made of, once its database is known.
//!
//! One [`Core`] per process, shared by every handler, executor and loop. It owns no decision: those are in `fleet`.
//! Nothing in it is the truth about an engine; that is in the registry and in the backend.

use crate::audit::Denials;
use crate::claims::Claims;
use crate::config::Config;
use crate::discovery::turns::Turns;
use crate::failpoint::FailPoints;
use crate::gate::StartGate;
use crate::hub::Hub;
use crate::keys::EngineKeys;
use crate::locks::EngineLocks;
use crate::memory::AdmitMemory;
use crate::rates::Rates;
use crate::registry::rows::{Engine, Instance, Vitals};
use crate::registry::{Registry, RegistryError};
use crate::supervisor::background::DatabaseClock;
use backends::{BackendError, EngineBackend, Prober};
use chassis::drain::Drain;
use contract::{EngineId, FleetCode, FleetError, ReplicaId, Timestamp};
use fleet::lifecycle::BackendKind;
use fleet::policy::Policy;
use fleet::policy::PolicyEngine;
use fleet::restart::RestartRules;
use fleet::spec::{self, EngineSpec, Mount, Resources, Shape};
use serde_json::json;
use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Everything a handler, an executor or a loop may use.
pub struct Core {
    /// Every variable.
    pub config: Config,
    /// Products are given the engine's name on the shared network, not its host port.
    pub urls_by_network: bool,
    /// The rows.
    pub registry: Registry,
    /// Where engines run.
    pub backend: Arc<dyn EngineBackend>,
    /// How engines are asked.
    pub prober: Arc<dyn Prober>,
    /// Engine keys, sealed and opened.
    pub keys: EngineKeys,
    /// This deployment.
    pub instance: Instance,
    /// This process.
    pub replica: ReplicaId,
    /// This process, for people: host name and pid.
    pub replica_name: String,
    /// Who waits for which operation.
    pub hub: Arc<Hub>,
    /// Which operations this process may act on.
    pub claims: Claims,
    /// Who acts on which engine's object.
    pub locks: Arc<EngineLocks>,
    /// Reservations of one product, one after the other.
    pub turns: Arc<Turns>,
    /// Starts at once.
    pub gate: Arc<StartGate>,
    /// Stops and removals at once.
    pub stops: Arc<Semaphore>,
    /// Requests that may be held.
    pub waiters: Arc<Semaphore>,
    /// Admissions per minute.
    pub rates: Rates,
    /// Refusals to be written down.
    pub denials: Denials,
    /// What was admitted lately, for when the database is away.
    pub memory: AdmitMemory,
    /// Vitals to be written in the next batch.
    pub vitals: Mutex<HashMap<EngineId, Vitals>>,
    /// What /health tells.
    pub pulse: Pulse,
    /// Told when the supervisor should look at something now.
    pub nudge: Nudge,
    /// The database's clock, as last read.
    pub clock: DatabaseClock,
    /// Stored keys that no master key opens, counted at boot.
    pub keys_unreadable: AtomicU64,
    /// Processors of the backend's host; 0 = not known.
    pub host_cpus: AtomicU32,
    /// Executors and other work that must end before the process does.
    pub tasks: TaskTracker,
    /// Cancelled when executors must let go at the next step.
    pub halt: CancellationToken,
    /// Refuse work, then close.
    pub drain: Drain,
    /// Where tests make it fail.
    pub fail_points: FailPoints,
}

/// Wakes loops ahead of their period.
#[derive(Debug, Default)]
pub struct Nudge {
    /// The claims loop: there may be an operation without owner.
    pub claims: Notify,
    /// The reconcile loop: look at everything now.
    pub reconcile: Notify,
    /// The lease loop.
    pub lease: Notify,
    /// Engines to look at now; bounded by the supervisor, which reads everything when it overflows.
    pub engines: Mutex<Vec<EngineId>>,
    /// There is something in `engines`.
    pub engine: Notify,
}

/// Most engines remembered in [`Nudge::engines`]; beyond it everything is looked at. Larger costs memory while
/// nobody supervises, smaller makes bursts of events expensive.
const NUDGED_MAX: usize = 4096;

impl Nudge {
    /// Have one engine looked at now.
    pub fn look_at(&self, id: EngineId) {
        let mut engines = self.engines.lock().unwrap_or_else(PoisonError::into_inner);
        if engines.len() < NUDGED_MAX {
            if !engines.contains(&id) {
                engines.push(id);
            }
            drop(engines);
            self.engine.notify_one();
        } else {
            drop(engines);
            self.reconcile.notify_one();
        }
    }

    /// The engine that has waited longest.
    pub fn next(&self) -> Option<EngineId> {
        let mut engines = self.engines.lock().unwrap_or_else(PoisonError::into_inner);
        (!engines.is_empty()).then(|| engines.remove(0))
    }
}

/// Facts for /health that must be had without waiting for anything.
#[derive(Debug)]
pub struct Pulse {
    database: AtomicBool,
    backend: AtomicBool,
    supervised: Mutex<Instant>,
    supervisor_patience: Duration,
    is_supervisor: AtomicBool,
    /// Until when the supervisor lease is believed in.
    supervises_until: Mutex<Instant>,
    epoch: AtomicI64,
}

impl Pulse {
    /// A pulse that begins well; `lease_ttl` is `ORCH_LEASE_TTL_S`.
    pub fn new(lease_ttl: Duration) -> Self {
        Self {
            database: AtomicBool::new(true),
            backend: AtomicBool::new(false),
            supervised: Mutex::new(Instant::now()),
            supervisor_patience: lease_ttl * 3,
            is_supervisor: AtomicBool::new(false),
            supervises_until: Mutex::new(Instant::now()),
            epoch: AtomicI64::new(0),
        }
    }

    /// The last look at the database succeeded.
    pub fn database_ok(&self) -> bool {
        self.database.load(Ordering::Relaxed)
    }

    /// The backend answers and is the one it was.
    pub fn backend_ok(&self) -> bool {
        self.backend.load(Ordering::Relaxed)
    }

    /// Some replica held the supervisor lease lately.
    pub fn supervisor_ok(&self) -> bool {
        self.supervised.lock().unwrap_or_else(PoisonError::into_inner).elapsed() < self.supervisor_patience
    }

    /// This replica is the supervisor.
    pub fn is_supervisor(&self) -> bool {
        self.is_supervisor.load(Ordering::Relaxed)
    }

    /// The epoch of the last lease this replica held.
    pub fn epoch(&self) -> i64 {
        self.epoch.load(Ordering::Relaxed)
    }

    pub(crate) fn set_database(&self, ok: bool) -> bool {
        self.database.swap(ok, Ordering::Relaxed) != ok
    }

    pub(crate) fn set_backend(&self, ok: bool) -> bool {
        self.backend.swap(ok, Ordering::Relaxed) != ok
    }

    pub(crate) fn saw_supervisor(&self) {
        *self.supervised.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// True before the moment up to which the lease is believed in, on the monotonic clock: also in a process that was
    /// frozen in between.
    pub fn may_supervise(&self) -> bool {
        Instant::now() < *self.supervises_until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn believe_until(&self, until: Instant) {
        *self.supervises_until.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }

    pub(crate) fn set_supervisor(&self, epoch: Option<i64>) {
        self.is_supervisor.store(epoch.is_some(), Ordering::Relaxed);
        if let Some(epoch) = epoch {
            self.epoch.store(epoch, Ordering::Relaxed);
        }
    }
}

impl Core {
    /// The rules of automatic restarts.
    pub fn restart_rules(&self) -> RestartRules {
        RestartRules {
            base: self.config.restart_backoff_base_s,
            cap: self.config.restart_backoff_max_s,
            max_attempts: self.config.restart_max_attempts,
        }
    }

    /// The deployment's side of every policy decision.
    pub fn policy_engine(&self) -> PolicyEngine {
        let config = &self.config;
        let cpus = self.host_cpus.load(Ordering::Relaxed);
        PolicyEngine {
            default_image: config.engine_image.clone(),
            default_resources: Resources {
                memory_mb: config.engine_memory_mb,
                cpus: config.engine_cpus,
                pids: config.engine_pids,
            },
            idle_sleep_after: config.idle_sleep_after_s,
            admit_lease: config.admit_lease_s,
            host_cpus: (cpus > 0).then_some(cpus),
        }
    }

    /// Everything the backend must know to make this engine's object.
    pub fn spec(&self, engine: &Engine, policy: &Policy) -> EngineSpec {
        let config = &self.config;
        let passthrough: BTreeMap<String, String> =
            config.engine_env_passthrough.iter().map(|(n, v)| (n.clone(), v.expose().to_owned())).collect();
        let env = spec::env_of(&engine.key.hash, engine.generation, config.engine_stop_grace_s, &passthrough);
        let catalog = config.catalog_mount_path.as_ref().map(|p| p.display().to_string());
        let storage = match &config.data_root_path {
            Some(root) => root.join(engine.id.to_string()).display().to_string(),
            None => format!("engine-data-{}", engine.id),
        };
        let mut mounts = vec![Mount { source: storage, target: "/data".to_owned(), read_only: false }];
        if let Some(source) = catalog.clone() {
            mounts.push(Mount { source, target: spec::CATALOG_PATH.to_owned(), read_only: true });
        }
        let resources = self.policy_engine().resources(policy);
        let network = (engine.backend == BackendKind::Docker).then_some(config.engine_network.as_str());
        let shape = Shape {
            image: &engine.engine_version,
            env: &env,
            mounts: &mounts,
            network,
            port: engine.port,
            resources: &resources,
            security: config.engine_security_profile,
        };
        let spec_hash = spec::spec_hash(&self.instance.spec_salt, &shape);
        EngineSpec {
            instance: self.instance.id,
            engine_id: engine.id,
            product_id: engine.product_id,
            generation: engine.generation,
            spec_hash,
            image: engine.engine_version.clone(),
            env,
            port: engine.port,
            catalog,
            resources,
            security: config.engine_security_profile,
        }
    }

    /// Ports to choose from, where the backend takes ports of the host.
    pub fn ports(&self) -> Option<(u16, u16)> {
        self.backend.capabilities().host_ports.then_some((self.config.port_min, self.config.port_max))
    }

    /// Remembers vitals for the next batch.
    pub fn note_vitals(&self, id: EngineId, vitals: Vitals) {
        self.vitals.lock().unwrap_or_else(PoisonError::into_inner).insert(id, vitals);
    }

    /// Runs work to its end even when the caller stops listening.
    pub async fn to_the_end<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl Future<Output = Result<T, FleetError>> + Send + 'static,
    ) -> Result<T, FleetError> {
        let span = tracing::Span::current();
        match self.tasks.spawn(tracing::Instrument::instrument(work, span)).await {
            Ok(done) => done,
            Err(broken) => {
                tracing::error!(error = %broken, "a request's work ended without an answer");
                Err(FleetError::new(FleetCode::Internal, "the work ended without an answer"))
            }
        }
    }
}

impl From<RegistryError> for FleetError {
    fn from(error: RegistryError) -> Self {
        if error.is_unavailable() {
            crate::telemetry::database_away(&error);
            return FleetError::new(
                FleetCode::DatabaseUnavailable,
                "the database cannot be reached; try again",
            )
            .retry_after(1);
        }
        tracing::error!(error = %error, "the registry refused a statement");
        FleetError::new(FleetCode::Internal, "the registry refused a statement; the log has the details")
    }
}

/// A backend error as callers see it. Transient ones say so.
pub fn backend_error(error: &BackendError) -> FleetError {
    let (code, message) = match error {
        BackendError::Capacity(limit) => {
            (FleetCode::CapacityExhausted, format!("the backend is full: {limit}"))
        }
        BackendError::Unreachable(_) => (FleetCode::BackendError, "the backend cannot be reached".to_owned()),
        other => (FleetCode::BackendError, other.to_string()),
    };
    let answer = FleetError::new(code, message);
    if error.is_transient() { answer.with(json!({"retrying": false})).retry_after(5) } else { answer }
}

/// Milliseconds of a span, for columns and JSON.
pub fn millis(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

/// The span between two moments, zero when they are the other way round.
pub fn between(from: Timestamp, to: Timestamp) -> Duration {
    Duration::from_millis(u64::try_from(to.millis().saturating_sub(from.millis())).unwrap_or(0))
}
