//! The whole fleet on a laptop: a private PostgreSQL, engines as processes, local keys, a demo product and user.
//!
//! `bap-engine up` needs no network, no Docker and no key of anyone. Ctrl-C stops everything; the next `up` on the same
//! directory finds everything as it was. It refuses to run twice on one directory, and to share a database.
//!
//! The invariant: an engine that ran when `up` ended runs again when it begins.

mod postgres;
mod secrets;
mod story;

use crate::config::{self, Config, Purpose};
use crate::core::Core;
use crate::discovery::Caller;
use crate::registry::change::NewOperation;
use crate::registry::rows::{AuditEntry, Found};
use crate::registry::{ProductRef, Registry};
use crate::serve::{CONFIGURATION, FAILURE, OK, REFUSED, Replica, Stop, install_logging};
use chassis::config::{Layered, Source, Values};
use chassis::drain::Drain;
use chassis::telemetry::{LogLevel, last_words};
use contract::{EngineId, RequestId, Slug, UserId};
use fleet::audit::AuditAction;
use fleet::lifecycle::Status;
use fleet::operation::OperationKind;
use postgres::Postgres;
use serde_json::json;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Exit code: nothing there to run (no PostgreSQL).
const NOTHING_THERE: i32 = 4;
/// The product everybody begins with.
const DEMO: &str = "demo";
/// Its user.
const DEMO_USER: &str = "demo-user-001";
/// Longest wait for the backend and the supervisor after the start, and for engines to come back.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// Between two looks at whether they are there.
const LOOK: Duration = Duration::from_millis(10);
/// Names that are forwarded to engines when they are set; the usual ones of the contract and the model's choice.
const FORWARDED: [&str; 9] = [
    "LLM_PROVIDER",
    "LLM_MODEL",
    "LLM_API_KEY",
    "LLM_BASE_URL",
    "OPENAI_API_KEY",
    "ANTHROPIC_API_KEY",
    "GEMINI_API_KEY",
    "AD_ENCRYPTION_KEY",
    "LIGHT_MODEL",
];
/// Of these, the ones that mean that somebody has a provider.
const PROVIDERS: [&str; 6] =
    ["LLM_PROVIDER", "LLM_API_KEY", "LLM_BASE_URL", "OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY"];
/// Engines that ran when `up` ended, one id per line.
const RAN: &str = "running-engines";

/// What the command line says.
#[derive(Debug, Clone, Default)]
pub struct UpOptions {
    /// Where everything is kept.
    pub data_dir: Option<PathBuf>,
    /// Port of the API on 127.0.0.1.
    pub port: Option<u16>,
    /// Directory with `postgres` and `initdb`.
    pub postgres_bin: Option<PathBuf>,
    /// Leave engines running at the end.
    pub keep_engines: bool,
}

/// Runs until Ctrl-C; the answer is the exit code of the process. `env_file` is the file of variables named on the
/// command line.
pub fn run(env_file: Option<&Path>, options: &UpOptions) -> i32 {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return end(&Stop { code: FAILURE, message: format!("start the runtime: {error}") }),
    };
    // On the main thread: PostgreSQL is told to stop when the thread that started it ends.
    match runtime.block_on(up(env_file, options)) {
        Ok(()) => OK,
        Err(stop) => end(&stop),
    }
}

fn end(stop: &Stop) -> i32 {
    let extra = json!({"code": stop.code});
    last_words(LogLevel::Error, "orchestrator.up", crate::telemetry::LOG_IDS, &stop.message, &extra, None);
    stop.code
}

fn stop(code: i32, message: impl Into<String>) -> Stop {
    Stop { code, message: message.into() }
}

async fn up(env_file: Option<&Path>, options: &UpOptions) -> Result<(), Stop> {
    let source = config::sources(env_file, None).map_err(|e| stop(CONFIGURATION, e.to_string()))?;
    let data_dir = data_dir(&source, options)?;
    secrets::private_dir(&data_dir).map_err(|e| stop(FAILURE, format!("{}: {e}", data_dir.display())))?;
    let _lock = lock(&data_dir)?;
    let drain = Drain::on_signals().map_err(|e| stop(FAILURE, format!("listen for signals: {e}")))?;
    let keys = secrets::keys(&data_dir).map_err(|e| stop(FAILURE, format!("keys.env: {e}")))?;

    let mut postgres = None;
    let url = match source.get("ORCH_DATABASE_URL") {
        Some(url) => url,
        None => {
            let bin =
                options.postgres_bin.clone().or_else(|| source.get("ORCH_PG_BIN_DIR").map(PathBuf::from));
            let server = Postgres::start(&data_dir, bin.as_deref(), &source).await?;
            let url = server.url();
            postgres = Some(server);
            url
        }
    };
    let outcome = with_database(env_file, &source, options, &data_dir, keys, &url, &drain).await;
    if let Some(server) = postgres {
        server.stop().await;
    }
    outcome
}

async fn with_database(
    env_file: Option<&Path>,
    source: &Layered,
    options: &UpOptions,
    data_dir: &Path,
    keys: BTreeMap<String, String>,
    url: &str,
    drain: &Drain,
) -> Result<(), Stop> {
    let engines = data_dir.join("engines");
    secrets::private_dir(&engines).map_err(|e| stop(FAILURE, format!("{}: {e}", engines.display())))?;
    let defaults = defaults(source, options, keys, url, &engines);
    let offline = defaults.get("LLM_PROVIDER").is_some_and(|p| p == "offline");
    let given = config::sources(env_file, None).map_err(|e| stop(CONFIGURATION, e.to_string()))?;
    let layers = given.with_defaults(Values::new("up", defaults));
    let loaded = Config::load(&layers, Purpose::Up).map_err(|p| stop(CONFIGURATION, p.to_string()))?;
    if install_logging(&loaded.config, &loaded.report).is_none() {
        return Err(stop(FAILURE, "logging is set up already"));
    }
    let replica = Replica::start(loaded.config, drain.clone(), None).await?;
    let running = async {
        ready(&replica.core, drain).await?;
        start_again(&replica.core, data_dir, drain).await?;
        demo_product(&replica.core.registry, data_dir).await?;
        demo_user(&replica.core).await?;
        story::tell(&replica, data_dir, offline);
        Ok::<(), Stop>(())
    };
    let told = tokio::select! {
        told = running => told,
        () = drain.draining() => Ok(()),
    };
    if told.is_ok() {
        drain.draining().await;
        if !options.keep_engines {
            tracing::info!("stopping engines");
            stop_engines(&replica.core, data_dir).await;
        }
    } else {
        drain.begin();
    }
    replica.stop().await;
    told
}

fn data_dir(source: &Layered, options: &UpOptions) -> Result<PathBuf, Stop> {
    let given = options.data_dir.clone().or_else(|| source.get("ORCH_DATA_DIR").map(PathBuf::from));
    let dir = match given {
        Some(dir) => dir,
        None => {
            let share = source.get("XDG_DATA_HOME").map(PathBuf::from);
            let home = source.get("HOME").map(|home| PathBuf::from(home).join(".local/share"));
            let share = share.or(home);
            share
                .ok_or_else(|| stop(CONFIGURATION, "say where to keep data: --data-dir DIR"))?
                .join("bap-engine")
        }
    };
    std::path::absolute(&dir).map_err(|e| stop(CONFIGURATION, format!("{}: {e}", dir.display())))
}

/// One `up` per directory.
fn lock(data_dir: &Path) -> Result<File, Stop> {
    let path = data_dir.join("up.lock");
    let open = || -> io::Result<Option<File>> {
        let file = File::options().create(true).truncate(false).write(true).open(&path)?;
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    };
    match open() {
        Ok(Some(file)) => Ok(file),
        Ok(None) => Err(stop(
            REFUSED,
            format!(
                "another `bap-engine up` runs on {}; stop it first, or say another --data-dir",
                data_dir.display()
            ),
        )),
        Err(error) => Err(stop(FAILURE, format!("{}: {error}", path.display()))),
    }
}

/// What `up` sets unless somebody set it.
fn defaults(
    source: &Layered,
    options: &UpOptions,
    keys: BTreeMap<String, String>,
    url: &str,
    engines: &Path,
) -> BTreeMap<String, String> {
    let mut values = keys;
    let mut set = |name: &str, value: String| {
        values.insert(name.to_owned(), value);
    };
    set("ORCH_DATABASE_URL", url.to_owned());
    set("ORCH_ENGINE_BACKEND", "subprocess".to_owned());
    set("ORCH_DATA_ROOT_PATH", engines.display().to_string());
    set("ORCH_ALLOWED_HOSTS", "localhost,127.0.0.1,::1".to_owned());
    set("ORCH_ENGINE_IMAGE", format!("september-engine:{}", crate::version::VERSION));
    if let Some(port) = options.port {
        set("ORCH_BIND", format!("127.0.0.1:{port}"));
    }
    let beside = std::env::current_exe().ok().and_then(|own| Some(own.parent()?.join("september-engine")));
    if let Some(program) = beside.filter(|p| p.is_file()) {
        set("ORCH_ENGINE_BINARY", program.display().to_string());
    }
    let mut forwarded: Vec<&str> =
        FORWARDED.iter().copied().filter(|name| source.get(name).is_some()).collect();
    if PROVIDERS.iter().all(|name| source.get(name).is_none()) {
        set("LLM_PROVIDER", "offline".to_owned());
        forwarded.push("LLM_PROVIDER");
    }
    set("ORCH_ENGINE_ENV_PASSTHROUGH", forwarded.join(","));
    values
}

/// Waits until the backend answers and this replica supervises.
async fn ready(core: &Arc<Core>, drain: &Drain) -> Result<(), Stop> {
    let began = Instant::now();
    while !(core.pulse.backend_ok() && core.pulse.is_supervisor()) {
        if began.elapsed() > READY_LIMIT {
            return Err(stop(FAILURE, "the backend or the supervisor did not come up; the log says why"));
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = drain.draining() => return Ok(()),
        }
    }
    Ok(())
}

/// Registers the demo product, or finds it; its key lies in `demo.key`.
async fn demo_product(registry: &Registry, data_dir: &Path) -> Result<(), Stop> {
    let failed = |e: crate::registry::RegistryError| stop(FAILURE, e.to_string());
    let slug = Slug::parse(DEMO).map_err(|e| stop(FAILURE, e.to_string()))?;
    let path = data_dir.join("demo.key");
    let stored = std::fs::read_to_string(&path).map(|text| text.trim().to_owned()).unwrap_or_default();
    if !stored.is_empty()
        && registry.product_by_key(&crate::keys::hash_hex(&stored)).await.map_err(failed)?.is_some()
    {
        return Ok(());
    }
    let key = crate::keys::new_platform_key();
    let hash = crate::keys::hash_hex(key.expose());
    let entry = |action, product_id, metadata| AuditEntry {
        started_at: None,
        product_id,
        user_id: None,
        engine_id: None,
        action,
        actor: "admin".to_owned(),
        metadata,
        has_duration: false,
    };
    let known = registry.product(&ProductRef::Slug(slug.clone())).await.map_err(failed)?;
    match known {
        None => {
            let audit = entry(AuditAction::PolicyRegister, None, json!({"slug": DEMO, "policy": {}}));
            registry.register(&slug, "Demo", &hash, &json!({}), audit).await.map_err(failed)?;
        }
        Some(product) => {
            // The key was lost: a new one, and the old one is dead.
            let audit = entry(AuditAction::RotatePlatformKey, Some(product.id), json!({"overlap_s": 0}));
            registry.rotate_platform_key(product.id, &hash, Duration::ZERO, audit).await.map_err(failed)?;
        }
    }
    secrets::write_private(&path, &format!("{}\n", key.expose()))
        .map_err(|e| stop(FAILURE, format!("{}: {e}", path.display())))
}

/// Provisions the demo user's engine unless there is one.
async fn demo_user(core: &Arc<Core>) -> Result<(), Stop> {
    let failed = |e: contract::FleetError| stop(FAILURE, e.to_string());
    let slug = Slug::parse(DEMO).map_err(|e| stop(FAILURE, e.to_string()))?;
    let user = UserId::parse(DEMO_USER).map_err(|e| stop(FAILURE, e.to_string()))?;
    let product =
        core.registry.product(&ProductRef::Slug(slug)).await.map_err(|e| stop(FAILURE, e.to_string()))?;
    let product = product.ok_or_else(|| stop(FAILURE, "the demo product vanished"))?;
    let found = core.registry.find(product.id, &user).await.map_err(|e| stop(FAILURE, e.to_string()))?;
    if found.is_some() {
        return Ok(());
    }
    let policy = crate::discovery::parse_policy(&product).map_err(failed)?;
    let caller = Caller { product, policy, request_id: RequestId::generate() };
    core.provision(&caller, &user, None, None).await.map(drop).map_err(failed)
}

/// Every engine of this deployment.
async fn all(core: &Core) -> Vec<Found> {
    let mut engines = Vec::new();
    if let Err(error) = core.registry.snapshot(core.backend.kind(), |found, _| engines.push(found)).await {
        tracing::warn!(%error, "cannot read the engines");
    }
    engines
}

/// Starts the engines that ran when the last `up` ended.
async fn start_again(core: &Arc<Core>, data_dir: &Path, drain: &Drain) -> Result<(), Stop> {
    let path = data_dir.join(RAN);
    let Ok(text) = std::fs::read_to_string(&path) else { return Ok(()) };
    let ran: Vec<EngineId> = text.lines().filter_map(|line| EngineId::parse(line.trim()).ok()).collect();
    for found in all(core).await.into_iter().filter(|f| ran.contains(&f.engine.id)) {
        if found.engine.status == Status::Stopped && found.operation.is_none() {
            open(core, &found, OperationKind::Start).await;
        }
    }
    let began = Instant::now();
    loop {
        let engines = all(core).await;
        let coming = engines.iter().filter(|f| ran.contains(&f.engine.id) && f.operation.is_some()).count();
        if coming == 0 || began.elapsed() > READY_LIMIT || drain.is_draining() {
            break;
        }
        tokio::time::sleep(LOOK).await;
    }
    std::fs::remove_file(&path).map_err(|e| stop(FAILURE, format!("{}: {e}", path.display())))
}

async fn open(core: &Arc<Core>, found: &Found, kind: OperationKind) {
    let opening = core.opening(found, kind, false, json!({}), "system", None);
    let NewOperation { id, .. } = opening.operation;
    if let Err(error) = core.begin(opening).await {
        tracing::warn!(engine_id = %found.engine.id, operation_id = %id, code = %error.code, "{}", error.message);
    }
}

/// Stops every engine and writes down which of them ran.
async fn stop_engines(core: &Arc<Core>, data_dir: &Path) {
    let engines = all(core).await;
    let ran: Vec<EngineId> =
        engines.iter().filter(|f| f.engine.status == Status::Running).map(|f| f.engine.id).collect();
    let list: String = ran.iter().map(|id| format!("{id}\n")).collect();
    if let Err(error) = secrets::write_private(&data_dir.join(RAN), &list) {
        tracing::warn!(%error, "cannot write down which engines ran");
    }
    for found in engines.iter().filter(|f| ran.contains(&f.engine.id) && f.operation.is_none()) {
        open(core, found, OperationKind::Stop).await;
    }
    let began = Instant::now();
    let limit = core.config.engine_stop_grace_s + READY_LIMIT / 6;
    loop {
        let left = all(core)
            .await
            .into_iter()
            .filter(|f| ran.contains(&f.engine.id) && f.engine.status != Status::Stopped)
            .count();
        if left == 0 || began.elapsed() > limit {
            break;
        }
        tokio::time::sleep(LOOK).await;
    }
    // Sleepers keep their status: a wake starts them from nothing as well. Their frozen processes end here.
    for found in engines.iter().filter(|f| f.engine.status != Status::Running) {
        if let Err(error) = core.backend.stop(found.engine.id, core.config.engine_stop_grace_s).await {
            tracing::warn!(engine_id = %found.engine.id, %error, "cannot stop an engine's process");
        }
    }
}
