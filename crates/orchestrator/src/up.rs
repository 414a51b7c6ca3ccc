//! The whole fleet on a laptop: a private PostgreSQL, engines as processes, local keys, a demo product and user.
//!
//! `bap-engine up` needs no network, no Docker and no key of anyone. Ctrl-C stops everything; the next `up` on the same
//! directory finds everything as it was. It refuses to run twice on one directory, and to share a database.
//!
//! The invariant: an engine that ran when `up` ended runs again when it begins.

mod cluster;
mod ending;
mod postgres;
mod secrets;
mod story;

use crate::config::{self, Config, Purpose, Settings};
use crate::core::Core;
use crate::discovery::Caller;
use crate::registry::rows::AuditEntry;
use crate::registry::{ProductRef, Registry};
use crate::serve::{CONFIGURATION, FAILURE, OK, REFUSED, Replica, Stop, install_logging};
use chassis::config::{Layered, Source, Values};
use chassis::drain::Drain;
use chassis::telemetry::{LogLevel, last_words};
use cluster::Cluster;
use contract::{EngineId, RequestId, Slug, UserId};
use fleet::audit::AuditAction;
use fleet::lifecycle::Status;
use fleet::operation::OperationKind;
use postgres::Postgres;
use serde_json::json;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write as _};
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
    let level = if stop.code == OK { LogLevel::Info } else { LogLevel::Error };
    last_words(level, "orchestrator.up", crate::telemetry::LOG_IDS, &stop.message, &extra, None);
    stop.code
}

fn stop(code: i32, message: impl Into<String>) -> Stop {
    Stop { code, message: message.into() }
}

async fn up(env_file: Option<&Path>, options: &UpOptions) -> Result<(), Stop> {
    let source = config::sources(env_file, None).map_err(|e| stop(CONFIGURATION, e.to_string()))?;
    // Before anything is made: a key or a directory may stand on the line that cannot be read.
    if let Some(fault) = source.faults().first() {
        return Err(stop(CONFIGURATION, fault.to_string()));
    }
    let data_dir = data_dir(&source, options)?;
    secrets::private_dir(&data_dir).map_err(|e| stop(FAILURE, format!("{}: {e}", data_dir.display())))?;
    let _lock = lock(&data_dir)?;
    let _address = story::Address::of(&data_dir);
    let drain = Drain::on_signals().map_err(|e| stop(FAILURE, format!("listen for signals: {e}")))?;
    let url = source.get("ORCH_DATABASE_URL");
    let keys = keys(&data_dir, &source, url.is_none())?;
    let (cluster, url) = match url {
        Some(url) => (None, url),
        None => {
            let bin =
                options.postgres_bin.clone().or_else(|| source.get("ORCH_PG_BIN_DIR").map(PathBuf::from));
            let cluster = Cluster::find(&data_dir, bin.as_deref(), &source)?;
            let url = postgres::url(&cluster);
            (Some(cluster), url)
        }
    };
    // A copied directory leads to the same database; two servers never share one.
    let _home = match &cluster {
        Some(cluster) if cluster.home != data_dir => Some(lock(&cluster.home)?),
        _ => None,
    };
    let engines = data_dir.join("engines");
    secrets::private_dir(&engines).map_err(|e| stop(FAILURE, format!("{}: {e}", engines.display())))?;
    let defaults = defaults(&source, options, keys, &url, &engines);
    let offline = defaults.get("LLM_PROVIDER").is_some_and(|p| p == "offline");
    let layers = source.with_defaults(Values::new("up", defaults));
    let loaded = Config::load(&layers, Purpose::Up).map_err(|p| stop(CONFIGURATION, p.to_string()))?;
    if install_logging(&loaded.config, &loaded.report).is_none() {
        return Err(stop(FAILURE, "logging is set up already"));
    }
    let place = Place { data_dir, layers, offline, database: cluster.as_ref().map(|c| c.data()) };
    let mut postgres = match server(cluster, &drain).await {
        Ok(server) => server,
        Err(why) => return Err(too_early(why, &place, &loaded.config.settings, options).await),
    };
    let outcome = {
        let fleet = with_database(&place, loaded.config, options, &drain);
        tokio::pin!(fleet);
        tokio::select! {
            outcome = &mut fleet => outcome,
            broken = kept(postgres.as_mut()) => {
                tracing::warn!("PostgreSQL is given up; stopping everything");
                drain.begin();
                let _ = fleet.await;
                Err(broken)
            }
        }
    };
    let private = postgres.is_some();
    if let Some(server) = postgres {
        server.stop().await;
    }
    match (&outcome, options.keep_engines, private) {
        (Err(_), ..) => {}
        (Ok(()), true, _) => tracing::info!("stopped; engines go on, as --keep-engines says"),
        (Ok(()), false, true) => {
            tracing::info!(
                "stopped: engines, orchestrator and PostgreSQL; nothing of this fleet runs any more"
            );
        }
        (Ok(()), false, false) => {
            tracing::info!(
                "stopped: engines and orchestrator; the database of ORCH_DATABASE_URL is not ours"
            );
        }
    }
    outcome
}

/// The private server, unless there is a database already, or somebody asks to stop while it starts.
async fn server(cluster: Option<Cluster>, drain: &Drain) -> Result<Option<Postgres>, Stop> {
    let Some(cluster) = cluster else { return Ok(None) };
    tokio::select! {
        started = Postgres::start(cluster) => started.map(Some),
        () = drain.draining() => Err(stop(OK, "asked to stop before PostgreSQL was ready")),
    }
}

/// An end before there was a replica: engines that an earlier, killed `up` left are stopped all the same. Not when the
/// database is somebody else's and nobody asked: then others may be watching them. The answer is why it ends.
async fn too_early(why: Stop, place: &Place, settings: &Settings, options: &UpOptions) -> Stop {
    if options.keep_engines || (place.database.is_none() && why.code != OK) {
        return why;
    }
    match ending::left_behind(settings, &place.data_dir).await {
        0 => why,
        left => stop(FAILURE, format!("{}; {}", why.message, still_running(left))),
    }
}

fn still_running(left: usize) -> String {
    format!("{left} engines still run; the log above says which, and why")
}

/// Keeps the private server alive; never returns when there is none.
async fn kept(postgres: Option<&mut Postgres>) -> Stop {
    match postgres {
        Some(server) => server.keep().await,
        None => std::future::pending().await,
    }
}

/// The keys of this directory. A database that only lost keys open is not taken over with new ones.
fn keys(data_dir: &Path, source: &Layered, private: bool) -> Result<BTreeMap<String, String>, Stop> {
    let given = source.get("ORCH_MASTER_KEY").is_some();
    let database = if private && !given { cluster::existing(data_dir) } else { None };
    let keys = secrets::keys(data_dir, database.as_deref());
    let keys = keys.map_err(|e| stop(FAILURE, format!("{}: {e}", secrets::KEYS)))?;
    keys.ok_or_else(|| {
        let home = database.unwrap_or_default();
        stop(
            REFUSED,
            format!(
                "{} is gone, and only its keys open the database in {}. Put {} back; or give the database and the \
                 engines up with `rm -r {} {}`, and run `up` again",
                data_dir.join(secrets::KEYS).display(),
                home.display(),
                secrets::KEYS,
                story::quoted(&home.display().to_string()),
                story::quoted(&data_dir.display().to_string()),
            ),
        )
    })
}

/// What the parts of `up` know of where it runs.
struct Place {
    data_dir: PathBuf,
    layers: Layered,
    offline: bool,
    /// Where the rows of a private server are.
    database: Option<PathBuf>,
}

async fn with_database(
    place: &Place,
    config: Config,
    options: &UpOptions,
    drain: &Drain,
) -> Result<(), Stop> {
    let settings = config.settings.clone();
    let replica = match Replica::start(config, drain.clone(), None).await {
        Ok(replica) => replica,
        Err(why) => return Err(too_early(why, place, &settings, options).await),
    };
    let core = Arc::clone(&replica.core);
    ending::remember(&place.data_dir, core.instance.id);
    let running = async {
        ready(&core, drain).await?;
        start_again(&core, &place.data_dir, drain).await?;
        demo_product(&core.registry, &place.data_dir).await?;
        let trouble = demo_user(&core, place).await?;
        story::tell(&replica, place, trouble.as_deref());
        Ok::<(), Stop>(())
    };
    let told = tokio::select! {
        told = running => told,
        () = drain.draining() => Ok(()),
    };
    if told.is_ok() {
        drain.draining().await;
    } else {
        drain.begin();
    }
    if options.keep_engines {
        replica.stop().await;
        return told;
    }
    tracing::info!("stopping engines");
    ending::by_the_book(&core, &place.data_dir).await;
    replica.stop().await;
    // Nobody supervises any more: what still runs is ended, whatever the database knows about it.
    let left = ending::by_hand(&core).await;
    match (told, left) {
        (Ok(()), 0) => Ok(()),
        (Ok(()), left) => Err(stop(FAILURE, still_running(left))),
        (told, _) => told,
    }
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

/// One `up` per directory. The file says which process holds it: scripts look whether that one still runs.
fn lock(data_dir: &Path) -> Result<File, Stop> {
    let path = data_dir.join("up.lock");
    let open = || -> io::Result<Option<File>> {
        let mut file = File::options().create(true).truncate(false).write(true).open(&path)?;
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {
                file.set_len(0)?;
                writeln!(file, "{}", std::process::id())?;
                Ok(Some(file))
            }
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

/// Provisions the demo user's engine unless there is one. An engine that does not come up is no reason to stop the
/// fleet; the answer is what to tell people about it.
async fn demo_user(core: &Arc<Core>, place: &Place) -> Result<Option<String>, Stop> {
    let slug = Slug::parse(DEMO).map_err(|e| stop(FAILURE, e.to_string()))?;
    let user = UserId::parse(DEMO_USER).map_err(|e| stop(FAILURE, e.to_string()))?;
    let product =
        core.registry.product(&ProductRef::Slug(slug)).await.map_err(|e| stop(FAILURE, e.to_string()))?;
    let product = product.ok_or_else(|| stop(FAILURE, "the demo product vanished"))?;
    let id = product.id;
    let find = async || core.registry.find(id, &user).await.map_err(|e| stop(FAILURE, e.to_string()));
    let mut why = None;
    if find().await?.is_none() {
        let policy = crate::discovery::parse_policy(&product).map_err(|e| stop(FAILURE, e.to_string()))?;
        let caller = Caller { product, policy, request_id: RequestId::generate() };
        why = core.provision(&caller, &user, None, None).await.err().map(|e| e.to_string());
    }
    let found = find().await?;
    let failed = found.as_ref().is_some_and(|f| f.engine.status == Status::Failed);
    if why.is_none() && !failed {
        return Ok(None);
    }
    let why = why.unwrap_or_else(|| "it failed earlier".to_owned());
    let log = found.map_or_else(
        || place.data_dir.join("engines"),
        |f| place.data_dir.join("engines").join(f.engine.id.to_string()).join("engine.log"),
    );
    Ok(Some(story::no_demo_engine(&why, &log, &place.data_dir)))
}

/// Starts the engines that ran when the last `up` ended.
async fn start_again(core: &Arc<Core>, data_dir: &Path, drain: &Drain) -> Result<(), Stop> {
    let path = data_dir.join(ending::RAN);
    let Ok(text) = std::fs::read_to_string(&path) else { return Ok(()) };
    let ran: Vec<EngineId> = text.lines().filter_map(|line| EngineId::parse(line.trim()).ok()).collect();
    let mut seen: Vec<EngineId> = Vec::new();
    let began = Instant::now();
    // A stop that the last end left half done is finished first; one that the database did not hear of is a crash to it,
    // which is noticed first.
    loop {
        let engines = ending::all(core).await.unwrap_or_default();
        let alive = ending::alive(&*core.backend).await.unwrap_or_default();
        let mut waiting = false;
        for found in engines.iter().filter(|f| ran.contains(&f.engine.id)) {
            let unnoticed = found.engine.status == Status::Running && !alive.contains(&found.engine.id);
            if found.operation.is_some() || unnoticed {
                waiting = true;
            } else if !seen.contains(&found.engine.id) {
                seen.push(found.engine.id);
                if matches!(found.engine.status, Status::Stopped | Status::Failed) {
                    waiting |= ending::open(core, found, OperationKind::Start).await;
                }
            }
        }
        if !waiting || began.elapsed() > READY_LIMIT || drain.is_draining() {
            break;
        }
        tokio::time::sleep(LOOK).await;
    }
    std::fs::remove_file(&path).map_err(|e| stop(FAILURE, format!("{}: {e}", path.display())))
}
