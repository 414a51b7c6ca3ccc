//! The Engine's configuration: every variable it reads, as typed fields with the variables' names.
//!
//! [`Config::load`] reads a [`Source`], reports all problems together, and keeps the caller's key only as
//! a hash. Nothing outside this module knows variable names, and nothing here performs what it configures:
//! the only I/O is looking whether the paths it was given can work.
//!
//! The invariant: `Debug`, the report and every error of this module are free of secrets.

mod check;
mod declare;
#[cfg(test)]
mod tests;
mod words;

pub use declare::VARS;
pub use words::{EmbeddingProvider, MigrationMode, Provider, SandboxMode, ScrubMode};

use chassis::config::{EnvFileError, Layered, Problem, Problems, Reader, Report, Secret, Source, Values};
use chassis::http::KeyHash;
use chassis::telemetry::{LogFormat, LogLevel};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What the configuration is read for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To serve: a key for callers and a key for the provider are required.
    Serve,
    /// For a command that works on the brain: only what is set must be right.
    Tool,
}

/// The configuration and what a person should know about it.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The values.
    pub config: Config,
    /// Every variable with its origin, and the warnings to be logged at start.
    pub report: Report,
}

/// Every variable the Engine reads; the fields are documented by the declarations of the same name.
#[derive(Debug, Clone)]
pub struct Config {
    /// Listen address.
    pub engine_host: IpAddr,
    /// Listen port; 0 takes a free one.
    pub engine_port: u16,
    /// The hash of the key callers present; always there for [`Purpose::Serve`].
    pub engine_key_hash: Option<KeyHash>,
    /// Lower clamp of a rotation window.
    pub bap_key_rotation_min_overlap_seconds: Duration,
    /// Upper clamp of a rotation window.
    pub bap_key_rotation_max_overlap_seconds: Duration,
    /// Allowed browser origins, or `*`.
    pub cors_origins: Vec<String>,
    /// Send Access-Control-Allow-Credentials.
    pub cors_allow_credentials: bool,
    /// Extra accepted `Host` names.
    pub engine_allowed_hosts: Vec<String>,
    /// Largest request body.
    pub engine_max_body_bytes: usize,
    /// Turns that run at once.
    pub engine_task_slots: usize,
    /// Turns that may wait.
    pub engine_task_queue: usize,
    /// Heartbeat period of an open stream.
    pub engine_heartbeat_interval_s: Duration,
    /// Longest drain after SIGTERM.
    pub engine_drain_timeout_s: Duration,
    /// Log level floor.
    pub engine_log_level: LogLevel,
    /// Log rendering.
    pub engine_log_format: LogFormat,

    /// The model provider.
    pub llm_provider: Provider,
    /// The provider's key: LLM_API_KEY, else the provider's own variable.
    pub llm_api_key: Option<Secret>,
    /// Key of OpenAI embeddings.
    pub openai_api_key: Option<Secret>,
    /// Replaces the provider's base URL; without trailing slash.
    pub llm_base_url: Option<String>,
    /// Main model.
    pub llm_model: String,
    /// Model of the planner sub-agent.
    pub planner_model: String,
    /// Model for compaction and summaries.
    pub light_model: String,
    /// Tried once when the primary model fails.
    pub fallback_model: Option<String>,
    /// Most output tokens of one model call.
    pub max_tokens: u32,
    /// Context window when set; use [`Config::context_window`].
    pub llm_context_window: Option<u32>,
    /// Connect timeout including TLS.
    pub llm_connect_timeout_s: Duration,
    /// Request sent to first stream byte.
    pub llm_first_byte_timeout_s: Duration,
    /// Silence inside a stream.
    pub llm_idle_timeout_s: Duration,
    /// Retries before the first delta.
    pub llm_max_retries: u32,
    /// Thinking budget for models that take a number.
    pub super_thinking_budget_tokens: u32,

    /// The brain, as given (absolute or relative).
    pub sqlite_db_path: PathBuf,
    /// Catalog directory.
    pub catalog_dir: Option<PathBuf>,
    /// Hook settings file.
    pub hooks_settings_path: Option<PathBuf>,
    /// Read the hook settings file.
    pub hooks_settings_load_enabled: bool,
    /// Run stop hooks.
    pub stop_hooks_enabled: bool,
    /// Run hooks before a tool call.
    pub pre_tool_hooks_enabled: bool,
    /// Run hooks after a tool call.
    pub post_tool_hooks_enabled: bool,
    /// Directory of migration files to compare with the embedded ones.
    pub migrations_dir: Option<PathBuf>,
    /// Run migrations at start, or refuse.
    pub migrations: MigrationMode,
    /// Fencing number.
    pub brain_generation: Option<u64>,
    /// Allow network file systems.
    pub brain_allow_unsafe_fs: bool,
    /// How long a start waits for the brain lock.
    pub brain_lock_wait_s: Duration,
    /// Below this free space new turns are refused, in MiB.
    pub brain_min_free_mb: u64,
    /// Where backups and snapshots go.
    pub backup_dir: PathBuf,
    /// Period of scheduled backups; `None` is off.
    pub backup_interval_hours: Option<Duration>,
    /// Newest scheduled backups kept.
    pub backup_keep: usize,
    /// Life of a turn's events after its last one.
    pub channel_state_ttl_active: Duration,
    /// The same while paused on a person, and life of a question.
    pub channel_state_ttl_hitl: Duration,
    /// Life of a working-memory entry.
    pub working_memory_ttl: Duration,
    /// Life of observability events and usage details.
    pub observability_retention_days: Duration,
    /// Life of processed trajectories.
    pub trajectory_retention_days: Duration,

    /// Iterations per turn.
    pub agent_max_iterations: u32,
    /// Tool calls at once inside one turn.
    pub claude_code_max_tool_use_concurrency: usize,
    /// Share of the context window that triggers compaction.
    pub compact_at_ratio: f64,
    /// Last turns never summarised.
    pub compact_keep_turns: usize,
    /// Continue past MAX_TOKENS.
    pub token_budget_enabled: bool,
    /// Offer the `plan` tool.
    pub planner_enabled: bool,
    /// Ceiling of the continuation loop.
    pub token_budget_max_continuations: u32,
    /// Compaction at all.
    pub reactive_compact_enabled: bool,
    /// Largest decoded media block.
    pub media_max_bytes: usize,
    /// Look at media before they are stored and sent.
    pub media_presend_validation_enabled: bool,
    /// Make large pictures smaller.
    pub media_image_resize_enabled: bool,
    /// Longest edge of a picture after that.
    pub media_image_max_edge_px: u32,
    /// Set long documents aside, to be read with `media_read`.
    pub content_ingestion_enabled: bool,
    /// Leave refused media out and make the call once more.
    pub media_error_recovery_enabled: bool,
    /// Below it a cache-hit-ratio alert is written.
    pub cache_hit_min_ratio: f64,
    /// Write cache-hit-ratio alerts.
    pub cache_hit_monitor_enabled: bool,

    /// Where embeddings are made.
    pub embedding_provider: EmbeddingProvider,
    /// Embedding model.
    pub embedding_model: String,
    /// Numbers of one embedding.
    pub embedding_dim: usize,
    /// Embeddings endpoint.
    pub embedding_base_url: Option<String>,
    /// How long a memory search waits for its query embedding.
    pub memory_embed_deadline_ms: Duration,
    /// MEMORY_RECALL_LIMIT; 0 recalls nothing.
    pub memory_recall_limit: usize,
    /// MEMORY_RECALL_MAX_TOKENS; 0 recalls nothing.
    pub memory_recall_max_tokens: usize,
    /// Learn from finished turns.
    pub lc_enabled: bool,
    /// How often everything that waits is learned from.
    pub lc_batch_interval_hours: Duration,
    /// How long a task must be left alone before it is learned from by itself.
    pub lc_quiet_minutes: Duration,
    /// Model tokens of one learning batch.
    pub lc_token_budget: u64,
    /// Make drafts of skills from what worked.
    pub lc_skills_enabled: bool,

    /// web_search: first choice.
    pub brave_api_key: Option<Secret>,
    /// web_search: second choice.
    pub tavily_api_key: Option<Secret>,
    /// Replaces Brave's endpoint; without trailing slash.
    pub brave_base_url: Option<String>,
    /// Replaces Tavily's endpoint; without trailing slash.
    pub tavily_base_url: Option<String>,
    /// Tool web_fetch works.
    pub web_fetch_enabled: bool,
    /// Hosts that sandboxed commands reach and web_fetch uses without asking.
    pub tool_network_allowlist: Vec<String>,

    /// Paths tools may see, absolute; never empty, the first is the working directory.
    pub allowed_roots: Vec<PathBuf>,
    /// How commands are confined.
    pub engine_sandbox: SandboxMode,
    /// Environment of subprocesses.
    pub subprocess_scrub_mode: ScrubMode,
    /// Default time limit of one `bash` call.
    pub bash_timeout_s: Duration,
    /// Cap of a tool's output.
    pub tool_output_max_bytes: usize,
    /// A slower call writes an observability event.
    pub tool_slow_ms: Duration,
    /// CPU seconds of one subprocess.
    pub sandbox_cpu_s: u64,
    /// Address space of one subprocess, in MiB.
    pub sandbox_memory_mb: u64,
    /// Processes of a subprocess.
    pub sandbox_max_processes: u64,
    /// Largest file a subprocess may write, in MiB.
    pub sandbox_max_file_mb: u64,

    /// Stdio servers get every sandbox layer.
    pub asset_directory_sandboxed: bool,
    /// Fernet keys of the connectors' credentials; the first encrypts.
    pub ad_encryption_key: Option<Secret>,
    /// Where an authorization comes back, without the path; `None` is this machine and the port listened on.
    pub oauth_redirect_base_url: Option<String>,
    /// Where the browser goes after an authorization.
    pub oauth_return_url: Option<String>,
    /// Time limit of one request to an MCP server.
    pub ad_call_timeout_s: Duration,

    secrets: Vec<Secret>,
}

/// The sources of a start: options of the command line, the process environment, then a `.env` file. A
/// missing file is an error only when it was named with `--env-file`.
pub fn sources(env_file: Option<&Path>, brain: Option<&Path>) -> Result<Layered, EnvFileError> {
    let file = Values::env_file(env_file.unwrap_or(Path::new(".env")))?;
    if let (Some(path), None) = (env_file, &file) {
        return Err(EnvFileError { path: path.to_owned(), lines: vec![(0, "no such file".to_owned())] });
    }
    let option = brain.map(|path| Values::new("command line", [("SQLITE_DB_PATH", path.to_string_lossy())]));
    Ok(Layered::new(option.into_iter().chain([Values::process()]).chain(file)))
}

/// The key a client of the Engine presents, from ENGINE_API_KEY; the configuration itself keeps only a hash.
pub fn plain_engine_key(source: &dyn Source) -> Option<Secret> {
    let key = source.get("ENGINE_API_KEY")?;
    (!key.trim().is_empty()).then(|| Secret::new(key.trim()))
}

/// The output of `check-config` and its exit code: 0 when the Engine could serve with this and all of its catalog, 2
/// otherwise.
pub fn check_config(source: &dyn Source, json: bool) -> (String, i32) {
    let (report, problems): (Report, Vec<Problem>) = match Config::load(source, Purpose::Serve) {
        Ok(loaded) => (loaded.report, Vec::new()),
        Err(Problems { problems, report }) => (report, problems),
    };
    // A bad catalog entry never stops the Engine; it is left out, which whoever asks here should not find out later.
    let catalog = Config::load(source, Purpose::Tool).ok().map(|l| crate::catalog::shelf::look(&l.config));
    let odd = match catalog {
        Some(Ok((_, problems))) => problems,
        Some(Err(_)) | None => Vec::new(),
    };
    let wrong = odd.iter().filter(|p| p.is_error()).count();
    let text = if json {
        let mut report = report.to_json(&problems);
        let shown = |wanted: bool| -> Vec<serde_json::Value> {
            odd.iter().filter(|p| p.is_error() == wanted).map(crate::catalog::Problem::json).collect()
        };
        if wrong > 0 {
            report["valid"] = false.into();
        }
        report["catalog"] = serde_json::json!({"errors": shown(true), "warnings": shown(false)});
        format!("{report:#}\n")
    } else {
        let word = |p: &crate::catalog::Problem| if p.is_error() { "error" } else { "warning" };
        let lines: String = odd.iter().map(|p| format!("\ncatalog {}: {p}\n", word(p))).collect();
        let sum = match odd.len() {
            0 => String::new(),
            _ => format!("\ncatalog: {wrong} error(s), {} warning(s)\n", odd.len() - wrong),
        };
        report.to_table(&problems) + &lines + &sum
    };
    (text, if problems.is_empty() && wrong == 0 { 0 } else { 2 })
}

/// The text of `docs/reference/variables.md`.
pub fn reference() -> String {
    let intro = format!(
        "Generated from `crates/engine/src/config/declare.rs`; a test compares. To change it, change the \
         declaration and run\n`{}`.\n\nValues come from the process environment, then from a `.env` file in the \
         working directory; an empty value counts as not set. `september-engine check-config` shows what is in \
         effect and where it comes from. Secret values are never shown, logged or passed to a subprocess.",
        crate::reference::REGENERATE
    );
    chassis::config::reference_page("Variables", &intro, VARS)
}

impl Config {
    /// Reads, checks and cross-checks everything; on any problem, all of them.
    pub fn load(source: &dyn Source, purpose: Purpose) -> Result<Loaded, Problems> {
        let mut reader = Reader::new(VARS, source);
        let config = Self::read(&mut reader, purpose);
        let report = reader.finish()?;
        Ok(Loaded { config, report })
    }

    /// The context window of a model in tokens: LLM_CONTEXT_WINDOW when set, else by the model's name.
    pub fn context_window(&self, model: &str) -> u32 {
        self.llm_context_window.unwrap_or_else(|| llm::context_window::context_window(model))
    }

    /// Every secret that was configured, to be scrubbed from whatever leaves. The plain ENGINE_API_KEY is
    /// not among them: it is not kept.
    pub fn secret_values(&self) -> &[Secret] {
        &self.secrets
    }

    /// The directory the brain lies in; `.` for a bare file name.
    pub fn brain_dir(&self) -> PathBuf {
        check::brain_dir(&self.sqlite_db_path)
    }

    fn read(r: &mut Reader<'_>, purpose: Purpose) -> Self {
        let seconds = |r: &Reader<'_>, name| Duration::from_secs(r.int(name));
        let days = |r: &Reader<'_>, name| Duration::from_secs(r.int::<u64>(name) * 86_400);

        let engine_host: IpAddr = match r.text("ENGINE_HOST").map(|t| t.parse()) {
            Some(Ok(ip)) => ip,
            _ => IpAddr::V4(Ipv4Addr::LOCALHOST),
        };
        let engine_port: u16 = r.int("ENGINE_PORT");
        let llm_provider = Provider::of(r);
        let sqlite_db_path = r.path("SQLITE_DB_PATH").unwrap_or_default();
        let engine_key_hash = check::engine_key(r, purpose);
        let llm_api_key = check::provider_key(r, llm_provider, purpose);
        let llm_model = check::default_models(r, llm_provider);
        let paths = check::Paths::read(r, &sqlite_db_path);
        check::server(r, engine_host);
        let embedding_provider = check::embeddings(r);
        let oauth_redirect_base_url = r.text("OAUTH_REDIRECT_BASE_URL");
        r.computed("OAUTH_REDIRECT_BASE_URL", format!("http://127.0.0.1:{engine_port}"));

        Config {
            engine_host,
            engine_port,
            engine_key_hash,
            bap_key_rotation_min_overlap_seconds: seconds(r, "BAP_KEY_ROTATION_MIN_OVERLAP_SECONDS"),
            bap_key_rotation_max_overlap_seconds: seconds(r, "BAP_KEY_ROTATION_MAX_OVERLAP_SECONDS"),
            cors_origins: r.list("CORS_ORIGINS"),
            cors_allow_credentials: r.flag("CORS_ALLOW_CREDENTIALS"),
            engine_allowed_hosts: r.list("ENGINE_ALLOWED_HOSTS"),
            engine_max_body_bytes: r.int("ENGINE_MAX_BODY_BYTES"),
            engine_task_slots: r.int("ENGINE_TASK_SLOTS"),
            engine_task_queue: r.int("ENGINE_TASK_QUEUE"),
            engine_heartbeat_interval_s: seconds(r, "ENGINE_HEARTBEAT_INTERVAL_S"),
            engine_drain_timeout_s: seconds(r, "ENGINE_DRAIN_TIMEOUT_S"),
            engine_log_level: words::log_level(r),
            engine_log_format: words::log_format(r),
            llm_provider,
            llm_api_key,
            openai_api_key: r.secret("OPENAI_API_KEY"),
            llm_base_url: r.text("LLM_BASE_URL").map(|url| url.trim_end_matches('/').to_owned()),
            planner_model: r.text("PLANNER_MODEL").unwrap_or_else(|| llm_model.clone()),
            light_model: r.text("LIGHT_MODEL").unwrap_or_else(|| llm_model.clone()),
            llm_model,
            fallback_model: r.text("FALLBACK_MODEL"),
            max_tokens: r.int("MAX_TOKENS"),
            llm_context_window: r.int_opt("LLM_CONTEXT_WINDOW"),
            llm_connect_timeout_s: seconds(r, "LLM_CONNECT_TIMEOUT_S"),
            llm_first_byte_timeout_s: seconds(r, "LLM_FIRST_BYTE_TIMEOUT_S"),
            llm_idle_timeout_s: seconds(r, "LLM_IDLE_TIMEOUT_S"),
            llm_max_retries: r.int("LLM_MAX_RETRIES"),
            super_thinking_budget_tokens: r.int("SUPER_THINKING_BUDGET_TOKENS"),
            sqlite_db_path,
            catalog_dir: r.path("CATALOG_DIR"),
            hooks_settings_path: r
                .path("HOOKS_SETTINGS_PATH")
                .or_else(|| r.path("CATALOG_DIR").map(|dir| dir.join("hooks.json"))),
            hooks_settings_load_enabled: r.flag("HOOKS_SETTINGS_LOAD_ENABLED"),
            stop_hooks_enabled: r.flag("STOP_HOOKS_ENABLED"),
            pre_tool_hooks_enabled: r.flag("PRE_TOOL_HOOKS_ENABLED"),
            post_tool_hooks_enabled: r.flag("POST_TOOL_HOOKS_ENABLED"),
            migrations_dir: r.path("MIGRATIONS_DIR"),
            migrations: MigrationMode::of(r),
            brain_generation: r.int_opt("BRAIN_GENERATION"),
            brain_allow_unsafe_fs: r.flag("BRAIN_ALLOW_UNSAFE_FS"),
            brain_lock_wait_s: seconds(r, "BRAIN_LOCK_WAIT_S"),
            brain_min_free_mb: r.int("BRAIN_MIN_FREE_MB"),
            backup_dir: paths.backup_dir,
            backup_interval_hours: match r.int::<u64>("BACKUP_INTERVAL_HOURS") {
                0 => None,
                hours => Some(Duration::from_secs(hours * 3_600)),
            },
            backup_keep: r.int("BACKUP_KEEP"),
            channel_state_ttl_active: r.span("CHANNEL_STATE_TTL_ACTIVE"),
            channel_state_ttl_hitl: r.span("CHANNEL_STATE_TTL_HITL"),
            working_memory_ttl: r.span("WORKING_MEMORY_TTL"),
            observability_retention_days: days(r, "OBSERVABILITY_RETENTION_DAYS"),
            trajectory_retention_days: days(r, "TRAJECTORY_RETENTION_DAYS"),
            agent_max_iterations: r.int("AGENT_MAX_ITERATIONS"),
            claude_code_max_tool_use_concurrency: r.int("CLAUDE_CODE_MAX_TOOL_USE_CONCURRENCY"),
            compact_at_ratio: r.float("COMPACT_AT_RATIO"),
            compact_keep_turns: r.int("COMPACT_KEEP_TURNS"),
            token_budget_enabled: r.flag("TOKEN_BUDGET_ENABLED"),
            planner_enabled: r.flag("PLANNER_ENABLED"),
            token_budget_max_continuations: r.int("TOKEN_BUDGET_MAX_CONTINUATIONS"),
            reactive_compact_enabled: r.flag("REACTIVE_COMPACT_ENABLED"),
            media_max_bytes: r.int("MEDIA_MAX_BYTES"),
            media_presend_validation_enabled: r.flag("MEDIA_PRESEND_VALIDATION_ENABLED"),
            media_image_resize_enabled: r.flag("MEDIA_IMAGE_RESIZE_ENABLED"),
            content_ingestion_enabled: r.flag("CONTENT_INGESTION_ENABLED"),
            media_error_recovery_enabled: r.flag("MEDIA_ERROR_RECOVERY_ENABLED"),
            media_image_max_edge_px: r.int("MEDIA_IMAGE_MAX_EDGE_PX"),
            cache_hit_min_ratio: r.float("CACHE_HIT_MIN_RATIO"),
            cache_hit_monitor_enabled: r.flag("CACHE_HIT_MONITOR_ENABLED"),
            embedding_provider,
            embedding_model: r
                .text("EMBEDDING_MODEL")
                .unwrap_or_else(|| embedding_provider.default_model().into()),
            embedding_dim: r.int_opt("EMBEDDING_DIM").unwrap_or(embedding_provider.default_dim()),
            embedding_base_url: r.text("EMBEDDING_BASE_URL").map(|url| url.trim_end_matches('/').to_owned()),
            memory_embed_deadline_ms: Duration::from_millis(r.int("MEMORY_EMBED_DEADLINE_MS")),
            memory_recall_limit: r.int("MEMORY_RECALL_LIMIT"),
            memory_recall_max_tokens: r.int("MEMORY_RECALL_MAX_TOKENS"),
            lc_enabled: r.flag("LC_ENABLED"),
            lc_batch_interval_hours: Duration::from_secs(r.int::<u64>("LC_BATCH_INTERVAL_HOURS") * 3600),
            lc_quiet_minutes: Duration::from_secs(r.int::<u64>("LC_QUIET_MINUTES") * 60),
            lc_token_budget: r.int("LC_TOKEN_BUDGET"),
            lc_skills_enabled: r.flag("LC_SKILLS_ENABLED"),
            brave_api_key: r.secret("BRAVE_API_KEY"),
            tavily_api_key: r.secret("TAVILY_API_KEY"),
            brave_base_url: r.text("BRAVE_BASE_URL").map(|url| url.trim_end_matches('/').to_owned()),
            tavily_base_url: r.text("TAVILY_BASE_URL").map(|url| url.trim_end_matches('/').to_owned()),
            web_fetch_enabled: r.flag("WEB_FETCH_ENABLED"),
            tool_network_allowlist: r.list("TOOL_NETWORK_ALLOWLIST"),
            allowed_roots: paths.allowed_roots,
            engine_sandbox: SandboxMode::of(r),
            subprocess_scrub_mode: ScrubMode::of(r),
            bash_timeout_s: seconds(r, "BASH_TIMEOUT_S"),
            tool_output_max_bytes: r.int("TOOL_OUTPUT_MAX_BYTES"),
            tool_slow_ms: Duration::from_millis(r.int("TOOL_SLOW_MS")),
            sandbox_cpu_s: r.int("SANDBOX_CPU_S"),
            sandbox_memory_mb: r.int("SANDBOX_MEMORY_MB"),
            sandbox_max_processes: r.int("SANDBOX_MAX_PROCESSES"),
            sandbox_max_file_mb: r.int("SANDBOX_MAX_FILE_MB"),
            asset_directory_sandboxed: r.flag("ASSET_DIRECTORY_SANDBOXED"),
            ad_encryption_key: Some(r.list("AD_ENCRYPTION_KEY").join(","))
                .filter(|keys| !keys.is_empty())
                .map(Secret::new),
            oauth_redirect_base_url,
            oauth_return_url: r.text("OAUTH_RETURN_URL"),
            ad_call_timeout_s: seconds(r, "AD_CALL_TIMEOUT_S"),
            secrets: r.secrets(&["ENGINE_API_KEY"]),
        }
    }
}
