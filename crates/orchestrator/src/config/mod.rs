//! The orchestrator's configuration: every variable it reads, as typed fields with the variables' names.
//!
//! [`Settings::load`] reads a [`Source`] and reports all problems together; [`Config`] is the same with the keys a
//! replica cannot serve without. Nothing outside this module knows variable names, and nothing here performs what
//! it configures: the only I/O is looking whether the paths it was given can work.
//!
//! The invariant: `Debug`, the report and every error of this module are free of secrets.

mod check;
mod declare;
pub mod filesystem;
mod words;

pub use check::{database_url_problem, executable};
pub use declare::VARS;
pub use words::{ImagePull, MigrationMode, UrlMode};

use chassis::config::{EnvFileError, Layered, Problem, Problems, Reader, Report, Secret, Source, Values};
use chassis::seal::MasterKeys;
use chassis::telemetry::{LogFormat, LogLevel};
use fleet::lifecycle::{BackendKind, SleepMode};
use fleet::spec::SecurityProfile;
use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What the configuration is read for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To serve: database, master key and admin key are required, and the backend's paths must work.
    Serve,
    /// For the laptop mode, before it has made what is missing.
    Up,
    /// For a command that uses the API only.
    Client,
    /// For a command that works on the database: only what is set must be right.
    Tool,
}

/// A configuration that can serve, and what a person should know about it.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The values.
    pub config: Config,
    /// Every variable with its origin, and the warnings to be logged at start.
    pub report: Report,
}

/// The settings of a command, and what a person should know about them.
#[derive(Debug, Clone)]
pub struct LoadedSettings {
    /// The values.
    pub settings: Settings,
    /// Every variable with its origin, and the warnings.
    pub report: Report,
}

/// How the Docker daemon is reached; the usual variables of its clients.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DockerEnv {
    /// DOCKER_HOST.
    pub host: Option<String>,
    /// DOCKER_TLS_VERIFY is set, to whatever.
    pub tls_verify: bool,
    /// DOCKER_CERT_PATH.
    pub cert_path: Option<PathBuf>,
    /// DOCKER_CONFIG, the directory of `config.json`.
    pub config: Option<PathBuf>,
}

/// [`Settings`] with the keys a replica needs. Its fields of the same names take the place of the optional ones.
#[derive(Debug, Clone)]
pub struct Config {
    /// Encrypts engine keys at rest.
    pub master_key: MasterKeys,
    /// The operator's key; never empty.
    pub admin_key: Secret,
    /// Everything else; reached through `Deref`.
    pub settings: Settings,
}

impl Deref for Config {
    type Target = Settings;

    fn deref(&self) -> &Settings {
        &self.settings
    }
}

impl DerefMut for Config {
    fn deref_mut(&mut self) -> &mut Settings {
        &mut self.settings
    }
}

/// Every variable the orchestrator reads, named without the prefix `ORCH_`; the declarations of the same name say
/// what each is for.
#[derive(Debug, Clone)]
pub struct Settings {
    /// URL of the database; always there for [`Purpose::Serve`].
    pub database_url: Option<Secret>,
    /// Encrypts engine keys at rest.
    pub master_key: Option<MasterKeys>,
    /// The operator's key; never empty.
    pub admin_key: Option<Secret>,

    /// Listener of the API.
    pub bind: SocketAddr,
    /// Listener of metrics and probes.
    pub internal_bind: SocketAddr,
    /// Log level floor.
    pub log_level: LogLevel,
    /// Log rendering.
    pub log_format: LogFormat,
    /// Accepted `Host` names; empty accepts all.
    pub allowed_hosts: Vec<String>,
    /// Longest drain after SIGTERM.
    pub drain_timeout_s: Duration,
    /// Serve reads only.
    pub read_only: bool,
    /// Apply migrations at start, or refuse to serve.
    pub migrations: MigrationMode,
    /// Pool size.
    pub database_max_connections: usize,
    /// Requests that may wait for an engine.
    pub admit_waiters_max: usize,

    /// Where engines run.
    pub engine_backend: BackendKind,
    /// Image of new engines.
    pub engine_image: String,
    /// Variables forwarded to engines, with their values.
    pub engine_env_passthrough: Vec<(String, Secret)>,
    /// Names listed in ORCH_ENGINE_ENV_PASSTHROUGH that are not set.
    pub passthrough_missing: Vec<String>,
    /// Network shared with engines.
    pub engine_network: String,
    /// Which address of an engine products are given.
    pub engine_url_mode: UrlMode,
    /// First host port for engines.
    pub port_min: u16,
    /// Last host port for engines.
    pub port_max: u16,
    /// Catalog as the backend's host sees it.
    pub catalog_mount_path: Option<PathBuf>,
    /// Root of the brains as the backend's host sees it.
    pub data_root_path: Option<PathBuf>,
    /// The same as this process sees it; `None` exactly when `data_root_path` is.
    pub data_root_local_path: Option<PathBuf>,
    /// Memory limit in MiB; 0 is none.
    pub engine_memory_mb: u64,
    /// Processors; 0 is no limit.
    pub engine_cpus: f64,
    /// Processes; 0 is no limit.
    pub engine_pids: u64,
    /// SIGTERM to SIGKILL.
    pub engine_stop_grace_s: Duration,
    /// How strictly engines are confined.
    pub engine_security_profile: SecurityProfile,
    /// When an image is pulled.
    pub image_pull: ImagePull,
    /// Deadline of one pull.
    pub image_pull_timeout_s: Duration,
    /// Program of the subprocess backend: an absolute path where it was found, else as given; may hold `{tag}`.
    pub engine_binary: String,
    /// Seed of the simulated backend.
    pub simulated_seed: u64,

    /// Period of the probes of one engine.
    pub health_check_interval_s: Duration,
    /// Limit of one probe, at most the interval.
    pub health_check_timeout_s: Duration,
    /// Failed probes in a row before `failed`.
    pub health_max_failures: u32,
    /// Wait before the first restart.
    pub restart_backoff_base_s: Duration,
    /// Longest wait between restarts.
    pub restart_backoff_max_s: Duration,
    /// Restarts before giving up; 0 never restarts.
    pub restart_max_attempts: u32,
    /// From "started" to healthy.
    pub boot_timeout_s: Duration,
    /// Idle time before sleep; zero is off.
    pub idle_sleep_after_s: Duration,
    /// How engines sleep.
    pub sleep_mode: SleepMode,
    /// Length of an admit lease.
    pub admit_lease_s: Duration,
    /// Woken this long before scheduled work.
    pub wake_lead_s: Duration,
    /// No idle sleep until this long after scheduled work.
    pub wake_grace_s: Duration,
    /// Period of the full planning pass.
    pub reconcile_interval_s: Duration,
    /// Starts at once; by backend when not set.
    pub start_concurrency: usize,
    /// Starts that may wait.
    pub start_queue_max: usize,
    /// Base deadline of a backend call.
    pub backend_call_timeout_s: Duration,
    /// Supervisor lease.
    pub lease_ttl_s: Duration,
    /// Claim on an operation.
    pub operation_lease_s: Duration,
    /// Age before an orphan may be removed.
    pub orphan_grace_s: Duration,

    /// Window of a rotated engine key.
    pub key_overlap_s: Duration,
    /// Default window of a rotated platform key.
    pub platform_key_overlap_s: Duration,
    /// One `health_check` row per this many probes.
    pub audit_health_sample: u32,
    /// Months kept of the exported audit log; 0 keeps all.
    pub audit_retention_months: u32,
    /// What `up` keeps; `None` without a home directory.
    pub data_dir: Option<PathBuf>,
    /// PostgreSQL programs for `up`.
    pub pg_bin_dir: Option<PathBuf>,

    /// BAP_URL, without trailing slash.
    pub bap_url: String,
    /// BAP_PLATFORM_KEY.
    pub bap_platform_key: Option<Secret>,
    /// How the Docker daemon is reached.
    pub docker: DockerEnv,

    secrets: Vec<Secret>,
}

/// The sources of a start: what the command line says, the process environment, then a `.env` file. A missing
/// file is an error only when it was named with `--env-file`.
pub fn sources(env_file: Option<&Path>, options: Option<Values>) -> Result<Layered, EnvFileError> {
    let file = Values::env_file(env_file.unwrap_or(Path::new(".env")))?;
    if let (Some(path), None) = (env_file, &file) {
        return Err(EnvFileError { path: path.to_owned(), lines: vec![(0, "no such file".to_owned())] });
    }
    Ok(Layered::new(options.into_iter().chain([Values::process()]).chain(file)))
}

/// The output of `check-config` and its exit code: 0 when a replica could serve with this, 2 otherwise.
pub fn check_config(source: &dyn Source, json: bool) -> (String, i32) {
    let (report, problems): (Report, Vec<Problem>) = match Config::load(source, Purpose::Serve) {
        Ok(loaded) => (loaded.report, Vec::new()),
        Err(Problems { problems, report }) => (report, problems),
    };
    let text = if json { format!("{:#}\n", report.to_json(&problems)) } else { report.to_table(&problems) };
    (text, if problems.is_empty() { 0 } else { 2 })
}

/// The text of `docs/reference/orchestrator-variables.md`.
pub fn reference() -> String {
    let intro = format!(
        "Generated from `crates/orchestrator/src/config/declare.rs`; a test compares. To change it, change the \
         declaration and run\n`{}`.\n\nValues come from the process environment, then from a `.env` file in the \
         working directory; an empty value counts as not set. `bap-engine check-config` shows what is in effect and \
         where it comes from. Names ending in `_S` are seconds, whole or decimal. Secret values are never shown or \
         logged, and an engine is given only what ORCH_ENGINE_ENV_PASSTHROUGH names. An `ORCH_*` name that is not \
         listed here is a warning at start.",
        crate::reference::REGENERATE
    );
    chassis::config::reference_page("Orchestrator variables", &intro, VARS)
}

impl Config {
    /// Reads, checks and cross-checks everything; on any problem, all of them. The keys are required whatever the
    /// purpose is.
    pub fn load(source: &dyn Source, purpose: Purpose) -> Result<Loaded, Problems> {
        let mut reader = Reader::new(VARS, source);
        let settings = Settings::read(&mut reader, source, purpose);
        let keys = settings.master_key.clone().zip(settings.admin_key.clone());
        if purpose != Purpose::Serve && keys.is_none() {
            for name in ["ORCH_MASTER_KEY", "ORCH_ADMIN_KEY"] {
                if !reader.is_set(name) {
                    reader.refuse(name, "a key; `bap-engine keygen` makes one", None);
                }
            }
        }
        let report = reader.finish()?;
        match keys {
            Some((master_key, admin_key)) => {
                Ok(Loaded { config: Config { master_key, admin_key, settings }, report })
            }
            // A key that is missing or wrong is a problem above, so this is never reached with an empty list.
            None => Err(Problems { problems: Vec::new(), report }),
        }
    }
}

impl Settings {
    /// Reads, checks and cross-checks everything; on any problem, all of them.
    pub fn load(source: &dyn Source, purpose: Purpose) -> Result<LoadedSettings, Problems> {
        let mut reader = Reader::new(VARS, source);
        let settings = Self::read(&mut reader, source, purpose);
        let report = reader.finish()?;
        Ok(LoadedSettings { settings, report })
    }

    /// Every secret that was configured or is passed through, to be scrubbed from whatever leaves.
    pub fn secret_values(&self) -> &[Secret] {
        &self.secrets
    }

    /// Ports of the range that a listener of this process holds: no engine can be given one. With the defaults it is
    /// the port of the internal listener.
    pub fn ports_kept_from_engines(&self) -> Vec<u16> {
        let held = [self.bind.port(), self.internal_bind.port()];
        held.into_iter().filter(|port| (self.port_min..=self.port_max).contains(port)).collect()
    }

    fn read(r: &mut Reader<'_>, source: &dyn Source, purpose: Purpose) -> Self {
        r.warn_of_undeclared_with("ORCH_");
        let database_url = check::database_url(r, purpose);
        let master_key = check::master_key(r, purpose);
        let admin_key = check::admin_key(r, purpose);
        let engine_backend = words::backend(r);
        let start_concurrency = check::backend(r, engine_backend, purpose);
        let ports = check::Ports::read(r, engine_backend);
        let engine_image = check::image(r, engine_backend);
        let passthrough = check::Passthrough::read(r, source);
        let catalog_mount_path = check::catalog(r, engine_backend, purpose);
        let (data_root_path, data_root_local_path) =
            check::data_root(r, engine_backend, purpose, &passthrough);
        let engine_binary = check::engine_binary(r, source, engine_backend, purpose);
        let health_check_interval_s = r.span("ORCH_HEALTH_CHECK_INTERVAL_S");
        let health_check_timeout_s = check::probe_timeout(r, health_check_interval_s);
        let (restart_backoff_base_s, restart_backoff_max_s) = check::restart_backoff(r);
        let admit_lease_s = r.span("ORCH_ADMIT_LEASE_S");
        let idle_sleep_after_s = check::idle_sleep(r, admit_lease_s);
        let docker = check::docker(r, engine_backend, purpose);
        let data_dir = check::data_dir(r, source);
        let bap_platform_key = check::platform_key(r);
        let mut secrets = r.secrets(&[]);
        secrets.extend(
            passthrough.values.iter().filter(|(name, _)| is_secret_name(name)).map(|(_, v)| v.clone()),
        );

        Settings {
            database_url,
            master_key,
            admin_key,
            bind: ports.bind,
            internal_bind: ports.internal_bind,
            log_level: words::log_level(r),
            log_format: words::log_format(r),
            allowed_hosts: r.list("ORCH_ALLOWED_HOSTS"),
            drain_timeout_s: r.span("ORCH_DRAIN_TIMEOUT_S"),
            read_only: r.flag("ORCH_READ_ONLY"),
            migrations: MigrationMode::of(r),
            database_max_connections: r.int("ORCH_DATABASE_MAX_CONNECTIONS"),
            admit_waiters_max: r.int("ORCH_ADMIT_WAITERS_MAX"),
            engine_backend,
            engine_image,
            engine_env_passthrough: passthrough.values,
            passthrough_missing: passthrough.missing,
            engine_network: r.text("ORCH_ENGINE_NETWORK").unwrap_or_default(),
            engine_url_mode: UrlMode::of(r),
            port_min: ports.min,
            port_max: ports.max,
            catalog_mount_path,
            data_root_path,
            data_root_local_path,
            engine_memory_mb: r.int("ORCH_ENGINE_MEMORY_MB"),
            engine_cpus: r.float("ORCH_ENGINE_CPUS"),
            engine_pids: r.int("ORCH_ENGINE_PIDS"),
            engine_stop_grace_s: r.span("ORCH_ENGINE_STOP_GRACE_S"),
            engine_security_profile: words::security_profile(r),
            image_pull: ImagePull::of(r),
            image_pull_timeout_s: r.span("ORCH_IMAGE_PULL_TIMEOUT_S"),
            engine_binary,
            simulated_seed: r.int("ORCH_SIMULATED_SEED"),
            health_check_interval_s,
            health_check_timeout_s,
            health_max_failures: r.int("ORCH_HEALTH_MAX_FAILURES"),
            restart_backoff_base_s,
            restart_backoff_max_s,
            restart_max_attempts: r.int("ORCH_RESTART_MAX_ATTEMPTS"),
            boot_timeout_s: r.span("ORCH_BOOT_TIMEOUT_S"),
            idle_sleep_after_s,
            sleep_mode: words::sleep_mode(r),
            admit_lease_s,
            wake_lead_s: r.span("ORCH_WAKE_LEAD_S"),
            wake_grace_s: r.span("ORCH_WAKE_GRACE_S"),
            reconcile_interval_s: r.span("ORCH_RECONCILE_INTERVAL_S"),
            start_concurrency,
            start_queue_max: r.int("ORCH_START_QUEUE_MAX"),
            backend_call_timeout_s: r.span("ORCH_BACKEND_CALL_TIMEOUT_S"),
            lease_ttl_s: r.span("ORCH_LEASE_TTL_S"),
            operation_lease_s: r.span("ORCH_OPERATION_LEASE_S"),
            orphan_grace_s: r.span("ORCH_ORPHAN_GRACE_S"),
            key_overlap_s: r.span("ORCH_KEY_OVERLAP_S"),
            platform_key_overlap_s: r.span("ORCH_PLATFORM_KEY_OVERLAP_S"),
            audit_health_sample: r.int("ORCH_AUDIT_HEALTH_SAMPLE"),
            audit_retention_months: r.int("ORCH_AUDIT_RETENTION_MONTHS"),
            data_dir,
            pg_bin_dir: r.path("ORCH_PG_BIN_DIR"),
            bap_url: r.text("BAP_URL").unwrap_or_default().trim_end_matches('/').to_owned(),
            bap_platform_key,
            docker,
            secrets,
        }
    }
}

/// Is the value of a passed-through variable to be kept out of logs? Model and provider names are not: hiding the
/// word `openai` from every line would hide the line.
pub(crate) fn is_secret_name(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    ["KEY", "TOKEN", "SECRET", "PASSWORD", "CREDENTIAL"].iter().any(|word| name.contains(word))
}
