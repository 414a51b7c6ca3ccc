//! Start, drain and stop: from a configuration to a serving Engine and back.
//!
//! The port is bound first and /health answers from then on; the brain is opened behind it. After SIGTERM
//! running turns get ENGINE_DRAIN_TIMEOUT_S, then stop at the next safe point; `kill -9` is always safe.

use crate::catalog::entries::HooksFile;
use crate::catalog::snapshot::Models;
use crate::catalog::{self, Shelf};
use crate::config::{self, Config};
use crate::core::{Core, Pulse};
use crate::feed::Feed;
use crate::http::app::{App, Life};
use crate::http::execute::observe;
use crate::http::{admin, routes};
use crate::mcp;
use crate::sandbox::launcher::{Launcher, LauncherConfig};
use crate::sandbox::proxy::Proxy;
use crate::sandbox::scrub::Parent;
use crate::sandbox::{self, Workspace};
use crate::secrets::Known;
use crate::tools::registry::{BadTool, Registry};
use crate::tools::tool::Tool;
use crate::tools::{files, own, search, shell, web};
use crate::turn::coordinator::Coordinator;
use crate::turn::{answers, resume};
use brain::backup::{self, OnExisting, Reason};
use brain::{Brain, OpenError, OpenOptions, lock, retention};
use chassis::config::Report;
use chassis::drain::{Deadline, Drain};
use chassis::http::{
    Guard, HostRule, KeyRing, OriginRule, Preflight, RequestMetrics, Server, ServerLimits, Watch, front,
};
use chassis::telemetry::{IdFields, LogSettings, install, install_metrics, last_words};
use contract::engine_api::KEY_HEADER;
use contract::{ErrorCode, Timestamp};
use http::HeaderName;
use llm::{Herald, ProviderConfig, ProviderKind, Timeouts};
use serde_json::json;
use std::borrow::Cow;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, OnceLock, RwLock};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Ids that stand on every log line.
pub const LOG_IDS: IdFields = &["request_id", "task_id"];
/// How often a brain lock held by somebody else is tried again.
const LOCK_RETRY: Duration = Duration::from_millis(50);
/// How long an address that is taken is tried again. Longer hides for longer that somebody else has it; shorter
/// makes a restart after a crash fail on a loaded machine.
const BIND_PATIENCE: Duration = Duration::from_secs(2);
/// Between two tries. Longer delays a restart, shorter only burns a processor.
const BIND_AGAIN: Duration = Duration::from_millis(5);
/// How often expired data are removed. More often costs wake-ups of an idle machine.
const RETENTION_EVERY: Duration = Duration::from_secs(3600);
/// When they are removed for the first time: soon, because a process may not live for an hour, but not at
/// start, when people wait.
const RETENTION_FIRST: Duration = Duration::from_secs(60);
/// Longest sleep of the expiry timer: a frozen process or a changed clock is noticed within this.
const EXPIRY_CHECK: Duration = Duration::from_secs(15);
/// Least time before a scheduled backup, so that a failing one is not tried in a loop.
const BACKUP_PAUSE_MS: i64 = 60_000;
/// How long halted turns get to leave.
const HALT_WAIT: Duration = Duration::from_secs(2);
/// How long open answers get after the last turn is over.
const CLOSE_WAIT: Duration = Duration::from_secs(2);
/// Threads of the async runtime. The Engine waits more than it computes; more threads cost memory.
const RUNTIME_THREADS: usize = 2;
/// A task's private directory is emptied after this long without use.
const SCRATCH_IDLE: Duration = Duration::from_secs(3600);

/// Exit code: success.
const OK: i32 = 0;
/// Exit code: failure.
const FAILURE: i32 = 1;
/// Exit code: configuration.
const CONFIGURATION: i32 = 2;

/// Serves until a signal; the answer is the exit code of the process.
pub fn run(config: Config, report: Report) -> i32 {
    let started = Instant::now();
    let known = Arc::new(Known::new(config.secret_values().iter().map(|s| s.expose())));
    let in_log = Arc::clone(&known);
    let scrub: chassis::telemetry::Scrub = Arc::new(move |line: String| match in_log.scrub(&line) {
        Cow::Borrowed(_) => line,
        Cow::Owned(clean) => clean,
    });
    let settings = LogSettings {
        level: config.engine_log_level,
        format: config.engine_log_format,
        own: &["engine", "september_engine", "brain", "chassis", "llm", "connectors"],
        // names the address it could not reach, with its query
        silent: &["rmcp"],
        ids: LOG_IDS,
        scrub: Some(Arc::clone(&scrub)),
    };
    if install(&settings).is_err() {
        return FAILURE;
    }
    for warning in &report.warnings {
        tracing::warn!(variable = %warning.name, "{}", warning.text);
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(RUNTIME_THREADS).enable_all().build();
    let code = match runtime {
        Ok(runtime) => runtime.block_on(serve(config, started, known)),
        Err(error) => Err(Stop { code: FAILURE, message: format!("start the runtime: {error}") }),
    };
    match code {
        Ok(()) => OK,
        Err(stop) => {
            let level = chassis::telemetry::LogLevel::Error;
            let extra = json!({"code": stop.code});
            last_words(level, "engine.serve", LOG_IDS, &stop.message, &extra, Some(&scrub));
            stop.code
        }
    }
}

/// Why the process ends.
struct Stop {
    code: i32,
    message: String,
}

impl Stop {
    fn failure(message: impl Into<String>) -> Self {
        Self { code: FAILURE, message: message.into() }
    }
}

async fn serve(config: Config, started: Instant, known: Arc<Known>) -> Result<(), Stop> {
    // Nobody reads this process's memory, environment or descriptors; where the kernel refuses, commands are
    // still kept out by the sandbox.
    if let Err(error) = sandbox::close_engine() {
        tracing::warn!(error = %error, "The process could not be closed to other processes of its user");
    }
    let drain = Drain::on_signals().map_err(|e| Stop::failure(format!("listen for signals: {e}")))?;
    let metrics = install_metrics().map_err(|e| Stop::failure(e.to_string()))?;
    let launcher = Arc::new(launcher_of(&config)?);
    let address = SocketAddr::new(config.engine_host, config.engine_port);
    let server = bind(address).await.map_err(|e| {
        Stop::failure(format!("listen on {address}: {e}; set ENGINE_PORT to a free port, or 0"))
    })?;
    let local = server.local_addr().map_err(|e| Stop::failure(format!("listen on {address}: {e}")))?;
    let env_hash = config.engine_key_hash.ok_or_else(|| Stop {
        code: CONFIGURATION,
        message: "ENGINE_API_KEY or ENGINE_KEY_HASH is needed".into(),
    })?;
    let pulse = Arc::new(Pulse::default());
    let app = Arc::new(App {
        life: RwLock::new(Life::Starting),
        core: OnceLock::new(),
        keys: Arc::new(KeyRing::new(env_hash, &[])),
        drain: drain.clone(),
        pulse: Arc::clone(&pulse),
        launcher: Arc::clone(&launcher),
        metrics: metrics.clone(),
        started,
        max_body: config.engine_max_body_bytes,
    });
    let serving = tokio::spawn(server.run(front_of(&app, &config), drain.clone(), CLOSE_WAIT));

    let result = match open_brain(&app, &config).await {
        Ok(Some(brain)) => live(&app, config, brain, launcher, known, local).await,
        Ok(None) => Ok(()),
        Err(stop) => Err(stop),
    };
    drain.close();
    let _ = serving.await;
    result
}

/// A predecessor that was killed while it was starting a child leaves its sockets to that child until the child
/// runs its program or dies with it: moments, unless the address is somebody else's.
async fn bind(address: SocketAddr) -> io::Result<Server> {
    let end = Instant::now() + BIND_PATIENCE;
    let mut told = false;
    loop {
        match Server::bind(address, ServerLimits::default()).await {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < end => {
                if !std::mem::replace(&mut told, true) {
                    tracing::info!(%address, "The address is taken; trying again for a moment");
                }
                tokio::time::sleep(BIND_AGAIN).await;
            }
            bound => return bound,
        }
    }
}

fn front_of(app: &Arc<App>, config: &Config) -> axum::Router {
    let gate = Arc::clone(app);
    let guard = Guard {
        key_header: HeaderName::from_static(KEY_HEADER),
        keys: Arc::clone(&app.keys),
        keyless: routes::keyless,
        gate: Box::new(move |_, path| if path == "/health" { None } else { gate.not_ready() }),
        hosts: HostRule::new(
            config.engine_allowed_hosts.iter().cloned().chain([config.engine_host.to_string()]),
        ),
        hosts_variable: "ENGINE_ALLOWED_HOSTS",
        origins: OriginRule::new(&config.cors_origins, config.cors_allow_credentials),
        origins_variable: "CORS_ORIGINS",
        preflight: Preflight {
            methods: routes::methods,
            headers: "X-Engine-Key, Content-Type, Idempotency-Key, Last-Event-ID, X-Request-Id",
            expose: "X-Request-Id, Retry-After",
        },
    };
    let watch = Watch {
        metrics: RequestMetrics {
            requests_total: "engine_requests_total",
            errors_total: "engine_errors_total",
            request_duration_seconds: "engine_request_duration_seconds",
        },
        quiet: &["/health", "/metrics"],
    };
    front(routes::router(app), Arc::new(watch), Arc::new(guard))
}

#[allow(
    clippy::disallowed_methods,
    reason = "children inherit from the real environment, scrubbed by the launcher"
)]
fn launcher_of(config: &Config) -> Result<Launcher, Stop> {
    let (mode, scrub) = (config.engine_sandbox, config.subprocess_scrub_mode);
    let limits = sandbox::Limits {
        cpu_s: config.sandbox_cpu_s,
        memory_mb: config.sandbox_memory_mb,
        max_processes: config.sandbox_max_processes,
        max_file_mb: config.sandbox_max_file_mb,
        scratch_bytes: sandbox::SCRATCH_MAX_BYTES,
    };
    let parent = Parent {
        variables: std::env::vars_os().collect(),
        secret_names: config::VARS.iter().filter(|v| v.secret).map(|v| v.name.to_owned()).collect(),
    };
    Launcher::detect(LauncherConfig::new(mode, scrub, limits, parent)).map_err(|e| Stop {
        code: CONFIGURATION,
        message: format!("ENGINE_SANDBOX=required cannot be met: {e}"),
    })
}

/// Opens the brain, saying on /health meanwhile what is waited for. `None` when a signal came first.
async fn open_brain(app: &Arc<App>, config: &Config) -> Result<Option<Brain>, Stop> {
    let options = OpenOptions {
        generation: config.brain_generation.map(|g| i64::try_from(g).unwrap_or(i64::MAX)),
        allow_unsafe_fs: config.brain_allow_unsafe_fs,
        lock_wait: config.brain_lock_wait_s,
        backup_dir: config.backup_dir.clone(),
        migrations: match config.migrations {
            config::MigrationMode::Auto => brain::MigrationMode::Auto,
            config::MigrationMode::Gate => brain::MigrationMode::Gate,
        },
        ..OpenOptions::at(&config.sqlite_db_path)
    };
    let refuse = |e: OpenError| Stop { code: i32::from(e.exit_code()), message: e.to_string() };
    if let Some(dir) = &config.migrations_dir {
        let differences = brain::schema::differences_in(dir, brain::schema::MIGRATIONS);
        if !differences.is_empty() {
            let message = format!("MIGRATIONS_DIR: {}", differences.join("; "));
            return Err(Stop { code: CONFIGURATION, message });
        }
    }
    brain::check_place(&options).map_err(refuse)?;
    let deadline = Instant::now() + config.brain_lock_wait_s;
    let guard = loop {
        match lock::try_acquire(&options.path) {
            Ok(guard) => break guard,
            Err(OpenError::Locked { holder, .. }) => {
                app.set_life(Life::BrainLocked(json!(holder)));
                if Instant::now() >= deadline {
                    return Err(refuse(OpenError::Locked { holder, waited: config.brain_lock_wait_s }));
                }
            }
            Err(error) => return Err(refuse(error)),
        }
        tokio::select! {
            () = tokio::time::sleep(LOCK_RETRY) => {}
            () = app.drain.draining() => return Ok(None),
        }
    };
    app.set_life(Life::Starting);
    // holding the lock, whatever runs with this brain's scratch is left over from an earlier process; the
    // search looks at every process of the machine, so it goes beside the opening
    let searching = std::fs::canonicalize(scratch_path(config))
        .ok()
        .map(|scratch| tokio::task::spawn_blocking(move || crate::sandbox::groups::kill_orphans(&scratch)));
    let opened = tokio::task::spawn_blocking(move || Brain::open_locked(options, guard)).await;
    if let Some(searching) = searching
        && let Ok(killed @ 1..) = searching.await
    {
        tracing::warn!(killed, "Ended processes that an earlier process had left behind");
    }
    match opened {
        Ok(Ok(brain)) => Ok(Some(brain)),
        Ok(Err(OpenError::MigrationRequired { direction, found, wanted, reason })) => {
            let message = format!("the brain has schema {found}, this engine wants {wanted}: {reason}");
            tracing::error!(code = ErrorCode::MigrationRequired.as_str(), "{message}");
            app.set_life(Life::MigrationRequired { direction: direction.as_str(), message });
            app.drain.draining().await;
            Ok(None)
        }
        Ok(Err(error)) => Err(refuse(error)),
        Err(error) => Err(Stop::failure(format!("open the brain: {error}"))),
    }
}

/// What the Engine does with an open brain, until a signal.
async fn live(
    app: &Arc<App>,
    config: Config,
    brain: Brain,
    launcher: Arc<Launcher>,
    known: Arc<Known>,
    local: SocketAddr,
) -> Result<(), Stop> {
    let bad = |what: &str, e: brain::Error| Stop::failure(format!("{what}: {e}"));
    let stored = brain.read("read keys", brain::keys::get).await.map_err(|e| bad("read the keys", e))?;
    let (current, replaced, counts) = admin::ring_of(app.keys.current(), stored.as_ref());
    app.keys.set(current, &replaced);
    if stored.is_some() && !counts {
        brain.write("drop rotation", brain::keys::clear).await.map_err(|e| bad("drop a rotation", e))?;
        tracing::info!("The environment brings a new key; the stored rotation is dropped");
    }
    let custom =
        brain.read("custom skills", brain::skills::list).await.map_err(|e| bad("read the skills", e))?;
    let proxy = proxy_of(&config, &launcher, &known).await?;
    let core = core_of(app, config, brain, launcher, Secrecy { known, proxy }, &custom)?;
    put_soul(&core).await.map_err(|e| bad("write the soul's template", e))?;
    resume::end_orphans(&core).await.map_err(|e| bad("end orphans", e))?;
    // nothing of an earlier process is left in the tasks' private directories
    remove_scratch(&core, Duration::ZERO);
    let clean = !core.brain.is_after_crash();
    let open = resume::recover(&core, clean).await.map_err(|e| bad("resume turns", e))?;
    answers::refresh_expiry(&core).await;
    let directory =
        mcp::open(&core, local).await.map_err(|e| Stop::failure(format!("open the connectors: {e}")))?;
    let _ = core.connectors.set(directory);
    let _ = app.core.set(Arc::clone(&core));
    app.set_life(Life::Ready);
    core.pump();
    announce(&core, local, open);
    tokio::spawn(note_sandbox(Arc::clone(&core)));
    let keepers = [
        tokio::spawn(expire_questions(Arc::clone(&core))),
        tokio::spawn(keep_tidy(Arc::clone(&core))),
        tokio::spawn(back_up(Arc::clone(&core))),
    ];
    app.drain.draining().await;
    tracing::info!("Draining");
    core.coordinator.close();
    let running = || async {
        while core.coordinator.counts().0 > 0 {
            // turns end at their own pace; nothing else can be waited on
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    if Deadline::after(core.config.engine_drain_timeout_s).wait(running()).await.is_none() {
        tracing::info!("The drain time is over; running turns stop and resume at the next start");
        core.halt.cancel();
        let _ = Deadline::after(HALT_WAIT).wait(running()).await;
    }
    core.halt.cancel();
    for keeper in keepers {
        keeper.abort();
    }
    app.drain.close();
    // Open streams still send what was committed, and they read it from the brain: it closes after them. A client
    // that does not read keeps nobody longer than its connection would.
    let streams = || async {
        while app.pulse.open_streams().load(Ordering::Relaxed) > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let _ = Deadline::after(CLOSE_WAIT).wait(streams()).await;
    if let Some(connectors) = core.connectors.get() {
        connectors.close().await;
    }
    let brain = core.brain.clone();
    let _ = tokio::task::spawn_blocking(move || brain.close()).await;
    tracing::info!("Stopped");
    Ok(())
}

fn make_private_dir(dir: &std::path::Path) -> Result<(), Stop> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|e| Stop::failure(format!("make {}: {e}", dir.display())))
}

/// Where tasks' private directories are. One per brain, and not named like the brain's own files, which are
/// sealed.
fn scratch_path(config: &Config) -> PathBuf {
    let brain_name = config.sqlite_db_path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    config.brain_dir().join(format!("scratch-{brain_name}"))
}

/// What keeps secrets in and commands from going out.
struct Secrecy {
    known: Arc<Known>,
    proxy: Option<Arc<Proxy>>,
}

/// The proxy for sandboxed commands, when hosts are named and the kernel can keep commands to it.
async fn proxy_of(config: &Config, launcher: &Launcher, known: &Known) -> Result<Option<Arc<Proxy>>, Stop> {
    if config.tool_network_allowlist.is_empty() {
        return Ok(None);
    }
    if !launcher.can_reach_a_proxy() {
        tracing::warn!(
            "TOOL_NETWORK_ALLOWLIST is set, but commands stay without network: that needs seccomp and landlock 4 (Linux 6.7)"
        );
        return Ok(None);
    }
    let proxy = Proxy::start(web::guard(config)).await;
    let proxy = proxy.map_err(|e| Stop::failure(format!("start the proxy of the sandbox: {e}")))?;
    known.learn(proxy.token());
    Ok(Some(Arc::new(proxy)))
}

fn core_of(
    app: &Arc<App>,
    config: Config,
    brain: Brain,
    launcher: Arc<Launcher>,
    Secrecy { known, proxy }: Secrecy,
    custom: &[brain::skills::Skill],
) -> Result<Arc<Core>, Stop> {
    for root in &config.allowed_roots {
        make_private_dir(root)?;
    }
    let scratch = scratch_path(&config);
    make_private_dir(&scratch)?;
    let scratch = std::fs::canonicalize(&scratch)
        .map_err(|e| Stop::failure(format!("resolve {}: {e}", scratch.display())))?;
    let absolute = |p: &std::path::Path| std::path::absolute(p).unwrap_or_else(|_| p.to_owned());
    let mut workspace = Workspace::new(&config.allowed_roots)
        .map_err(|e| Stop::failure(format!("open ALLOWED_ROOTS: {e}")))?
        .seal_brain(&absolute(&config.sqlite_db_path))
        .seal(&absolute(&config.backup_dir));
    if let Some(catalog) = &config.catalog_dir {
        workspace = workspace.read_only(&absolute(catalog));
    }
    if let Some(hooks) = &config.hooks_settings_path {
        workspace = workspace.seal(&absolute(hooks));
    }
    let tools = platform_tools(&config).map_err(|e| Stop::failure(e.to_string()))?;
    let (shelf, loaded) = Shelf::open(catalog_place(&config), tools, Some(brain.clone()), custom);
    catalog::shelf::log(&loaded.problems);
    let provider = llm::build(ProviderConfig {
        provider: match config.llm_provider {
            config::Provider::Openai => ProviderKind::OpenAi,
            config::Provider::Anthropic => ProviderKind::Anthropic,
            config::Provider::Gemini => ProviderKind::Gemini,
            config::Provider::Offline => ProviderKind::Offline,
        },
        api_key: config.llm_api_key.as_ref().map(|k| k.expose().to_owned()),
        base_url: config.llm_base_url.clone(),
        timeouts: Timeouts {
            connect: config.llm_connect_timeout_s,
            first_byte: config.llm_first_byte_timeout_s,
            idle: config.llm_idle_timeout_s,
        },
    });
    Ok(Arc::new(Core {
        herald: Herald::new(provider, config.llm_max_retries, config.fallback_model.clone()),
        coordinator: Arc::new(Coordinator::new(config.engine_task_slots, config.engine_task_queue)),
        brain,
        feed: Arc::new(Feed::default()),
        catalog: Arc::new(shelf),
        connectors: OnceLock::new(),
        known,
        proxy,
        launcher,
        workspace: Arc::new(workspace),
        groups: Mutex::default(),
        scratch,
        pulse: Arc::clone(&app.pulse),
        halt: CancellationToken::new(),
        config,
    }))
}

/// Every tool of the program.
pub fn platform_tools(config: &Config) -> Result<Registry, BadTool> {
    let mut tools = Registry::default();
    let mut all: Vec<Arc<dyn Tool>> = vec![Arc::new(shell::Bash::new(config.bash_timeout_s))];
    all.extend(files::tools(config.media_max_bytes as u64));
    all.push(Arc::new(search::Grep::new()));
    all.push(Arc::new(search::Find::new()));
    all.extend(web::tools(config));
    all.extend(own::OwnTool::all().into_iter().map(|t| Arc::new(t) as Arc<dyn Tool>));
    for tool in all {
        tools.add(tool)?;
    }
    Ok(tools)
}

/// Where the catalog comes from.
pub fn catalog_place(config: &Config) -> catalog::shelf::Place {
    let hooks = config.hooks_settings_path.clone().filter(|_| config.hooks_settings_load_enabled);
    catalog::shelf::Place {
        dir: config.catalog_dir.clone(),
        hooks: hooks.map(|path| HooksFile { path, roots: config.allowed_roots.clone() }),
        models: Models {
            provider: config.llm_provider,
            has_base_url: config.llm_base_url.is_some(),
            configured: config.llm_model.clone(),
        },
    }
}

/// Writes the soul's template where nobody else has written.
pub async fn put_soul(core: &Core) -> brain::Result<()> {
    let Some(soul) = core.catalog.present().soul().cloned() else { return Ok(()) };
    core.brain
        .write("soul template", move |tx| brain::soul::put_template(tx, &soul, Timestamp::now()))
        .await
        .map(drop)
}

fn remove_scratch(core: &Core, idle: Duration) {
    let Ok(entries) = std::fs::read_dir(&core.scratch) else { return };
    let in_use = core.scratch_in_use();
    for entry in entries.flatten().filter(|entry| !in_use.contains(&entry.path())) {
        // a stdio server may run for days; at start none does
        let of_server = entry.file_name().to_string_lossy().starts_with(mcp::SCRATCH_PREFIX);
        if of_server && !idle.is_zero() {
            continue;
        }
        let age = entry.metadata().and_then(|m| m.modified()).ok().and_then(|t| t.elapsed().ok());
        if age.is_none_or(|a| a >= idle)
            && let Err(error) = sandbox::scratch::remove(&entry.path())
        {
            tracing::warn!(error = %error, "A task's private directory could not be emptied");
        }
    }
}

/// Finds out about the layers that take time to find out about, and says what there is. A sandbox that misses
/// layers is worth an operator's look.
async fn note_sandbox(core: Arc<Core>) {
    let launcher = Arc::clone(&core.launcher);
    if tokio::task::spawn_blocking(move || launcher.settle()).await.is_err() {
        return;
    }
    tracing::info!(layers = %core.launcher.layers().join(","), "Sandbox: {}", core.launcher.details());
    let missing: Vec<String> = core.launcher.missing().iter().map(ToString::to_string).collect();
    if !missing.is_empty() && core.config.engine_sandbox == config::SandboxMode::BestEffort {
        tracing::warn!("The sandbox goes without: {}", missing.join("; "));
        let data = Some(json!({"missing": missing}));
        observe(&core, "sandbox_degraded", "a sandbox layer is missing".into(), data).await;
    }
}

fn announce(core: &Arc<Core>, local: SocketAddr, open: usize) {
    if local.ip().is_unspecified() {
        tracing::warn!("The engine listens on every address of this machine");
    }
    let host = if local.ip().is_unspecified() { "127.0.0.1".to_owned() } else { local.ip().to_string() };
    tracing::info!(
        address = %local,
        brain = %core.config.sqlite_db_path.display(),
        provider = core.config.llm_provider.as_str(),
        model = %core.config.llm_model,
        sandbox = %core.launcher.layers().join(","),
        resumed_turns = open,
        "Ready"
    );
    use std::io::IsTerminal;
    if std::io::stdout().is_terminal() {
        println!(
            "\ncurl -N http://{host}:{}/execute -H \"X-Engine-Key: $ENGINE_API_KEY\" -H 'Content-Type: application/json' \\\n  -d '{{\"task_id\":\"demo\",\"message\":\"run ls\"}}'\n",
            local.port()
        );
    }
}

async fn expire_questions(core: Arc<Core>) {
    loop {
        let wait = match core.pulse.next_hitl_expiry() {
            Some(at) => {
                let left = (at.millis() - Timestamp::now().millis()).max(0).unsigned_abs();
                Duration::from_millis(left).min(EXPIRY_CHECK)
            }
            None => EXPIRY_CHECK,
        };
        tokio::time::sleep(wait).await;
        answers::refresh_expiry(&core).await;
        let due = core.pulse.next_hitl_expiry().is_some_and(|at| at <= Timestamp::now());
        if due && let Err(error) = answers::expire_due(&core).await {
            tracing::error!(code = "INTERNAL", error = %error, "Expired questions could not be settled");
            tokio::time::sleep(EXPIRY_CHECK).await;
        }
    }
}

async fn keep_tidy(core: Arc<Core>) {
    let days = core.config.observability_retention_days.as_secs() / 86_400;
    let policy = retention::Policy { observability_days: u32::try_from(days).unwrap_or(u32::MAX) };
    let mut wait = RETENTION_FIRST;
    loop {
        tokio::time::sleep(wait).await;
        wait = RETENTION_EVERY;
        match retention::run_once(&core.brain, Timestamp::now(), policy).await {
            Ok(report) => {
                tracing::debug!(events = report.events, pages = report.pages, "Expired data were removed")
            }
            Err(error) => {
                tracing::error!(code = "INTERNAL", error = %error, "Expired data could not be removed")
            }
        }
        remove_scratch(&core, SCRATCH_IDLE);
    }
}

async fn back_up(core: Arc<Core>) {
    let Some(every) = core.config.backup_interval_hours else { return };
    let dir = core.config.backup_dir.clone();
    loop {
        // from the last one on disk, or from the brain's first day: a process may not live for a whole period
        let first_day =
            core.brain.read("brain age", |tx| brain::meta::get(tx, brain::meta::CREATED_AT)).await;
        let born = first_day.ok().flatten().and_then(|t| t.parse().ok()).map(Timestamp::from_millis);
        let next = backup_due(backup::last_scheduled(&dir), born, every, Timestamp::now());
        core.pulse.set_next_backup(Some(next));
        let left = (next.millis() - Timestamp::now().millis()).max(0).unsigned_abs();
        tokio::time::sleep(Duration::from_millis(left)).await;
        let target = dir.join(backup::file_name(Reason::Scheduled, Timestamp::now()));
        let made = match backup::make_dir(&dir) {
            Ok(()) => core.brain.backup(target, OnExisting::Refuse).await.map(|_| ()),
            Err(error) => Err(error),
        };
        match made {
            Ok(()) => {
                tracing::info!("A scheduled backup was made");
                if let Err(error) = backup::prune(&dir, core.config.backup_keep) {
                    tracing::warn!(error = %error, "Old scheduled backups could not be removed");
                }
            }
            Err(error) => tracing::error!(code = "INTERNAL", error = %error, "A scheduled backup failed"),
        }
    }
}

/// When the next scheduled backup is due: a period after the newest one, or after the brain was made.
fn backup_due(
    newest: Option<Timestamp>,
    born: Option<Timestamp>,
    every: Duration,
    now: Timestamp,
) -> Timestamp {
    let last = newest.max(born).unwrap_or(now);
    last.plus_millis(crate::core::millis(every)).max(now.plus_millis(BACKUP_PAUSE_MS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scheduled_backup_is_due_a_period_after_the_newest_one_however_often_the_engine_starts() {
        const HOUR: Duration = Duration::from_secs(3600);
        let at = |hours: i64| Timestamp::from_millis(hours * 3_600_000);
        let soon = |now: Timestamp| now.plus_millis(BACKUP_PAUSE_MS);
        assert_eq!(backup_due(Some(at(10)), Some(at(1)), HOUR * 24, at(20)), at(34));
        assert_eq!(backup_due(None, Some(at(1)), HOUR * 24, at(20)), at(25));
        assert_eq!(backup_due(None, None, HOUR * 24, at(20)), at(44));
        assert_eq!(backup_due(Some(at(10)), Some(at(1)), HOUR * 24, at(60)), soon(at(60)));
    }
}
