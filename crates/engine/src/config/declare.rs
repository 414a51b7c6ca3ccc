//! Every variable of the Engine, once: name, default, accepted values, what it steers and what breaks when
//! it is larger or smaller. Validation, `check-config` and `docs/reference/variables.md` come from this list.

use chassis::config::DefaultValue::{Computed, None, Text};
use chassis::config::{Kind, Var};
use std::time::Duration;

const SERVER: &str = "Server";
const MODELS: &str = "Models";
const EMBEDDINGS: &str = "Embeddings and web";
const STORAGE: &str = "Storage";
const LOOP: &str = "Agent loop and feature flags";
const TOOLS: &str = "Tools, sandbox, connectors, memory";

const KEY: Kind = Kind::Text { min: 1, max: 4096 };
const MODEL: Kind = Kind::Text { min: 1, max: 200 };
const FLAG: Kind = Kind::Flag;

const fn int(min: i64, max: i64) -> Kind {
    Kind::Int { min, max }
}

const fn minutes_to_days(minutes: u64, days: u64) -> Kind {
    Kind::Duration { min: Duration::from_secs(minutes * 60), max: Duration::from_secs(days * 86_400) }
}

/// Largest rlimit value in the units of `SANDBOX_*`: keeps the product with 1 MiB inside 64 bits.
const MAX_LIMIT: i64 = 1_000_000_000;

/// All declarations, in the order of the reference page.
pub const VARS: &[Var] = &[
    // 2.2 Server
    Var::new(SERVER, "ENGINE_HOST", Text("127.0.0.1"), Kind::IpAddr, "Listen address (the image sets 0.0.0.0). A wildcard address is reachable from everywhere and logged as a warning."),
    Var::new(SERVER, "ENGINE_PORT", Text("8000"), int(0, 65_535), "Listen port; 0 takes a free one, printed at start."),
    Var::new(SERVER, "ENGINE_API_KEY", None, Kind::Text { min: 8, max: 512 }, "The key callers present, in plain text, for development; only its SHA-256 is kept. Needed to serve unless ENGINE_KEY_HASH is set.").secret(),
    Var::new(SERVER, "ENGINE_KEY_HASH", None, Kind::Hash64, "SHA-256 of the key callers present, for production. Together with ENGINE_API_KEY it must agree with it.").secret(),
    Var::new(SERVER, "BAP_KEY_ROTATION_MIN_OVERLAP_SECONDS", Text("0"), int(0, 86_400), "Lower clamp of a key rotation window; at most the upper clamp. Larger keeps replaced keys alive longer."),
    Var::new(SERVER, "BAP_KEY_ROTATION_MAX_OVERLAP_SECONDS", Text("300"), int(0, 86_400), "Upper clamp of a key rotation window. Smaller gives callers less time to change keys."),
    Var::new(SERVER, "CORS_ORIGINS", None, Kind::List(&Kind::Origin), "Browser origins that may call; empty allows no cross-origin access, `*` allows every web site and is logged as a warning."),
    Var::new(SERVER, "CORS_ALLOW_CREDENTIALS", Text("false"), FLAG, "Send Access-Control-Allow-Credentials. `true` together with `*` is refused."),
    Var::new(SERVER, "ENGINE_ALLOWED_HOSTS", None, Kind::List(&Kind::HostPattern), "Further `Host` names accepted on requests without a valid key; empty leaves the automatic rule (IP literals, single-label and cluster names)."),
    Var::new(SERVER, "ENGINE_MAX_BODY_BYTES", Text("33554432"), int(65_536, 1_073_741_824), "Largest request body. Larger lets one request take that much memory; smaller refuses media."),
    Var::new(SERVER, "ENGINE_TASK_SLOTS", Text("16"), int(1, 1_024), "Turns that run at once. More compete for memory and the provider's rate limit; fewer wait in the queue."),
    Var::new(SERVER, "ENGINE_TASK_QUEUE", Text("256"), int(0, 100_000), "Turns that may wait; beyond it POST /execute answers ENGINE_BUSY."),
    Var::new(SERVER, "ENGINE_HEARTBEAT_INTERVAL_S", Text("15"), int(1, 300), "Heartbeat period of every open stream. Longer than a proxy's idle limit and quiet streams are cut; shorter costs traffic."),
    Var::new(SERVER, "ENGINE_DRAIN_TIMEOUT_S", Text("25"), int(0, 3_600), "Longest drain after SIGTERM; keep it below the stop grace of whatever stops the process, or it is killed before it has finished."),
    Var::new(SERVER, "ENGINE_LOG_LEVEL", Text("INFO"), Kind::OneOfAnyCase(&["DEBUG", "INFO", "WARNING", "ERROR"]), "Least severe level that is logged."),
    Var::new(SERVER, "ENGINE_LOG_FORMAT", Text("auto"), Kind::OneOf(&["auto", "json", "pretty"]), "Log rendering; auto is pretty on a terminal and json otherwise."),
    // 2.3 Models
    Var::new(MODELS, "LLM_PROVIDER", Text("openai"), Kind::OneOf(&["openai", "anthropic", "gemini", "offline"]), "The model provider. `offline` is a built-in rule set without a model and is never chosen unless named."),
    Var::new(MODELS, "LLM_API_KEY", Computed("the provider's own variable"), KEY, "Key of the model provider; required unless the provider is offline or LLM_BASE_URL is set.").secret(),
    Var::new(MODELS, "OPENAI_API_KEY", None, KEY, "Stands in for LLM_API_KEY with openai; key of OpenAI embeddings.").secret(),
    Var::new(MODELS, "ANTHROPIC_API_KEY", None, KEY, "Stands in for LLM_API_KEY with anthropic.").secret(),
    Var::new(MODELS, "GEMINI_API_KEY", None, KEY, "Stands in for LLM_API_KEY with gemini.").secret(),
    Var::new(MODELS, "LLM_BASE_URL", None, Kind::UrlNoQuery, "Replaces the provider's base URL exactly: compatible servers, proxies, tests."),
    Var::new(MODELS, "LLM_MODEL", Computed("`gpt-4o` (openai), `claude-sonnet-5-5` (anthropic), `gemini-3.8-flash` (gemini), `offline-1` (offline)"), MODEL, "Main model."),
    Var::new(MODELS, "PLANNER_MODEL", Computed("LLM_MODEL"), MODEL, "Model of the planner sub-agent."),
    Var::new(MODELS, "LIGHT_MODEL", Computed("LLM_MODEL"), MODEL, "Model for compaction and summaries; a weaker one is cheaper and forgets more."),
    Var::new(MODELS, "FALLBACK_MODEL", None, MODEL, "Tried once when the primary model finally fails before its first output; same provider."),
    Var::new(MODELS, "MAX_TOKENS", Text("4096"), int(1, 1_000_000), "Most output tokens of one model call. Smaller cuts long answers; larger leaves less of the window for context."),
    Var::new(MODELS, "LLM_CONTEXT_WINDOW", Computed("built-in table by model name; 128000 for a name not in it"), int(2_048, 10_000_000), "Context window in tokens. Larger than the model's real window and calls overflow; smaller and context is compacted too early."),
    Var::new(MODELS, "LLM_CONNECT_TIMEOUT_S", Text("10"), int(1, 3_600), "Longest wait for a connection including TLS."),
    Var::new(MODELS, "LLM_FIRST_BYTE_TIMEOUT_S", Text("120"), int(1, 3_600), "Longest wait from the request to the first byte of the stream. Shorter cuts off models that think long."),
    Var::new(MODELS, "LLM_IDLE_TIMEOUT_S", Text("60"), int(1, 3_600), "Longest silence inside a stream."),
    Var::new(MODELS, "LLM_MAX_RETRIES", Text("2"), int(0, 10), "Retries of connection errors and 5xx before the first output. More hides outages longer."),
    Var::new(MODELS, "SUPER_THINKING_BUDGET_TOKENS", Text("8192"), int(1_024, 200_000), "Thinking budget for models that take a number; used only when the caller asks for super_thinking."),
    // 2.4 Embeddings and web
    Var::new(EMBEDDINGS, "EMBEDDING_PROVIDER", Computed("openai when OPENAI_API_KEY is set, else local"), Kind::OneOf(&["openai", "local"]), "Where embeddings are made; `openai` needs OPENAI_API_KEY or EMBEDDING_BASE_URL."),
    Var::new(EMBEDDINGS, "EMBEDDING_MODEL", Computed("`text-embedding-3-small` (openai), `builtin` (local)"), MODEL, "Embedding model, stored in the brain; `builtin` is the only one for local."),
    Var::new(EMBEDDINGS, "EMBEDDING_DIM", Computed("`1536` (openai), `256` (local)"), int(64, 4_096), "Must match the model's output; for local only 256."),
    Var::new(EMBEDDINGS, "EMBEDDING_BASE_URL", Text("https://api.openai.com/v1"), Kind::Url, "Embeddings endpoint, independent of LLM_BASE_URL."),
    Var::new(EMBEDDINGS, "MEMORY_EMBED_DEADLINE_MS", Text("150"), int(0, 60_000), "How long a memory search waits for its query embedding; shorter falls back to words more often."),
    Var::new(EMBEDDINGS, "BRAVE_API_KEY", None, KEY, "web_search: first choice.").secret(),
    Var::new(EMBEDDINGS, "TAVILY_API_KEY", None, KEY, "web_search: second choice.").secret(),
    Var::new(EMBEDDINGS, "BRAVE_BASE_URL", Computed("the vendor's endpoint"), Kind::Url, "Replaces the endpoint, for proxies and tests."),
    Var::new(EMBEDDINGS, "TAVILY_BASE_URL", Computed("the vendor's endpoint"), Kind::Url, "Replaces the endpoint, for proxies and tests."),
    Var::new(EMBEDDINGS, "WEB_FETCH_ENABLED", Text("true"), FLAG, "Tool web_fetch works; false leaves it registered and answering with an error."),
    // 2.5 Storage
    Var::new(STORAGE, "SQLITE_DB_PATH", Text("/data/brain.sqlite"), Kind::Path, "The brain; its directory must exist and be writable."),
    Var::new(STORAGE, "CATALOG_DIR", None, Kind::Dir, "Catalog directory, may be read-only; none leaves the built-in catalog."),
    Var::new(STORAGE, "MIGRATIONS_DIR", None, Kind::Dir, "Accepted for compatibility: migrations are embedded, and files here must be identical to them."),
    Var::new(STORAGE, "MIGRATIONS", Text("auto"), Kind::OneOf(&["auto", "gate"]), "auto runs migrations at start; gate refuses to serve until `migrate` has run."),
    Var::new(STORAGE, "BRAIN_GENERATION", None, int(0, i64::MAX), "Fencing number from the orchestrator; one lower than the stored number refuses to open the brain."),
    Var::new(STORAGE, "BRAIN_ALLOW_UNSAFE_FS", Text("false"), FLAG, "Allow NFS, 9p, virtiofs and FUSE, where locks may lie and two processes can destroy the brain."),
    Var::new(STORAGE, "BRAIN_LOCK_WAIT_S", Text("10"), int(0, 3_600), "How long a start waits for the brain lock. Shorter fails restarts that overlap; longer delays the report of a real second process."),
    Var::new(STORAGE, "BRAIN_MIN_FREE_MB", Text("64"), int(0, 1_048_576), "Below this free space new turns are refused. Smaller risks a full disk in the middle of a turn."),
    Var::new(STORAGE, "BACKUP_DIR", Computed("`<brain dir>/backups`"), Kind::Path, "Where backups and snapshots before migrations go; created with mode 0700."),
    Var::new(STORAGE, "BACKUP_INTERVAL_HOURS", Text("0"), int(0, 8_760), "Period of the scheduled online backup; 0 is off."),
    Var::new(STORAGE, "BACKUP_KEEP", Text("7"), int(1, 1_000), "Newest scheduled backups that are kept; each takes the size of the brain."),
    Var::new(STORAGE, "CHANNEL_STATE_TTL_ACTIVE", Text("3h"), minutes_to_days(1, 30), "How long events and checkpoint of a turn are kept after its last event. Shorter and clients that come back late cannot replay; longer grows the brain."),
    Var::new(STORAGE, "CHANNEL_STATE_TTL_HITL", Text("72h"), minutes_to_days(1, 90), "The same while paused on a person; also when an unanswered question expires."),
    Var::new(STORAGE, "WORKING_MEMORY_TTL", Text("72h"), minutes_to_days(1, 365), "Life of a working-memory entry since its last write."),
    Var::new(STORAGE, "OBSERVABILITY_RETENTION_DAYS", Text("30"), int(1, 3_650), "How long observability events and usage details are kept."),
    Var::new(STORAGE, "TRAJECTORY_RETENTION_DAYS", Text("90"), int(1, 3_650), "How long processed trajectories are kept."),
    // 2.6 Agent loop and feature flags
    Var::new(LOOP, "AGENT_MAX_ITERATIONS", Text("100"), int(1, 10_000), "Model calls of one turn; smaller stops long work, larger lets a loop cost more."),
    Var::new(LOOP, "CLAUDE_CODE_MAX_TOOL_USE_CONCURRENCY", Text("10"), int(1, 64), "Tool calls at once inside one turn."),
    Var::new(LOOP, "COMPACT_AT_RATIO", Text("0.8"), Kind::Float { min: 0.3, max: 0.95 }, "Share of the context window that triggers compaction before a call. Higher risks overflow, lower forgets early."),
    Var::new(LOOP, "COMPACT_KEEP_TURNS", Text("6"), int(1, 50), "Last turns that are never summarised."),
    Var::new(LOOP, "TOKEN_BUDGET_MAX_CONTINUATIONS", Text("8"), int(1, 1_000), "Ceiling of the continuation loop."),
    Var::new(LOOP, "CACHE_HIT_MIN_RATIO", Text("0.3"), Kind::Float { min: 0.0, max: 1.0 }, "Below it a cache-hit-ratio alert is written."),
    Var::new(LOOP, "HOOKS_SETTINGS_PATH", Computed("`<CATALOG_DIR>/hooks.json`"), Kind::Path, "Hook settings file; must not lie under ALLOWED_ROOTS, where the model could write it."),
    Var::new(LOOP, "TOKEN_BUDGET_ENABLED", Text("false"), FLAG, "Continue past MAX_TOKENS."),
    Var::new(LOOP, "STOP_HOOKS_ENABLED", Text("true"), FLAG, "Run stop hooks."),
    Var::new(LOOP, "PRE_TOOL_HOOKS_ENABLED", Text("true"), FLAG, "Run hooks before a tool call."),
    Var::new(LOOP, "POST_TOOL_HOOKS_ENABLED", Text("true"), FLAG, "Run hooks after a tool call."),
    Var::new(LOOP, "HOOKS_SETTINGS_LOAD_ENABLED", Text("true"), FLAG, "Read the hook settings file."),
    Var::new(LOOP, "REACTIVE_COMPACT_ENABLED", Text("true"), FLAG, "Compaction at all; false answers CONTEXT_OVERFLOW on overflow."),
    Var::new(LOOP, "CACHE_HIT_MONITOR_ENABLED", Text("true"), FLAG, "Write cache-hit-ratio alerts."),
    Var::new(LOOP, "PLANNER_ENABLED", Text("true"), FLAG, "Offer the `plan` tool when `direct` is false."),
    Var::new(LOOP, "MEDIA_PRESEND_VALIDATION_ENABLED", Text("false"), FLAG, "Look at media before they are stored and sent: what is not what its type says, and pictures whose size cannot be read, are refused with 422."),
    Var::new(LOOP, "MEDIA_IMAGE_RESIZE_ENABLED", Text("false"), FLAG, "Make pictures smaller whose longest edge is above MEDIA_IMAGE_MAX_EDGE_PX or that have more than 5 MB. Decoding takes up to half a gigabyte of memory for a moment."),
    Var::new(LOOP, "MEDIA_ERROR_RECOVERY_ENABLED", Text("false"), FLAG, "When the provider refuses a call with 400 and names an image or a document, leave it out and make the call once more; the model is told."),
    Var::new(LOOP, "CONTENT_INGESTION_ENABLED", Text("false"), FLAG, "Text documents above 20000 tokens are set aside in pieces that tool `media_read` reads; the message keeps a pointer."),
    Var::new(LOOP, "MEDIA_MAX_BYTES", Text("20971520"), int(1_024, 1_073_741_824), "Largest decoded media block. Larger than the provider accepts only moves the refusal there."),
    Var::new(LOOP, "MEDIA_IMAGE_MAX_EDGE_PX", Text("2048"), int(256, 16_384), "Longest edge of an image after resizing. Larger costs more tokens, smaller loses small print."),
    // 2.7 Tools, sandbox, connectors, memory
    Var::new(TOOLS, "ALLOWED_ROOTS", Computed("`<brain dir>/workspace`, created with mode 0700"), Kind::List(&Kind::AbsolutePath), "Paths tools may see; the first is the working directory. One of the brain's own files is refused; a directory that contains the brain is a warning, and the brain stays invisible."),
    Var::new(TOOLS, "ENGINE_SANDBOX", Text("best-effort"), Kind::OneOf(&["required", "best-effort", "off"]), "How commands are confined (the image sets required). required refuses to start when a layer is missing; off runs commands with the Engine's own rights."),
    Var::new(TOOLS, "SUBPROCESS_SCRUB_MODE", Text("strict"), Kind::OneOf(&["strict", "standard", "off"]), "Environment of subprocesses: strict passes PATH HOME LANG TERM TMPDIR TZ, standard drops names that look secret, off passes all but the Engine's secrets."),
    Var::new(TOOLS, "ASSET_DIRECTORY_SANDBOXED", Text("true"), FLAG, "MCP servers started as processes run inside the sandbox layers."),
    Var::new(TOOLS, "TOOL_NETWORK_ALLOWLIST", None, Kind::List(&Kind::HostPortPattern), "Hosts that sandboxed commands reach and web_fetch uses without asking; empty is no network inside the sandbox. A host that is named (not by `*`) may be private; an entry without a port means 80 and 443."),
    Var::new(TOOLS, "BASH_TIMEOUT_S", Text("120"), int(1, 3_600), "Default time limit of one `bash` call."),
    Var::new(TOOLS, "TOOL_OUTPUT_MAX_BYTES", Text("65536"), int(1_024, 10_485_760), "Cap of a tool's output; head and tail are kept. Larger fills the context window, smaller hides results."),
    Var::new(TOOLS, "TOOL_SLOW_MS", Text("10000"), int(1, 3_600_000), "A call slower than this writes an observability event."),
    Var::new(TOOLS, "SANDBOX_CPU_S", Text("300"), int(1, MAX_LIMIT), "CPU seconds of one subprocess before it is killed."),
    Var::new(TOOLS, "SANDBOX_MEMORY_MB", Text("2048"), int(1, MAX_LIMIT), "Memory one subprocess may write to, and all it started may hold together. Smaller breaks builds and runtimes, larger can starve the Engine."),
    Var::new(TOOLS, "SANDBOX_MAX_PROCESSES", Text("256"), int(1, MAX_LIMIT), "Processes a subprocess may have. Larger lets a fork bomb hurt, smaller breaks builds."),
    Var::new(TOOLS, "SANDBOX_MAX_FILE_MB", Text("1024"), int(1, MAX_LIMIT), "Largest file a subprocess may write. Larger can fill the disk of the brain."),
    Var::new(TOOLS, "AD_ENCRYPTION_KEY", None, Kind::List(&Kind::Base64Key32), "Fernet keys for connector credentials: the first encrypts, all decrypt.").secret(),
    Var::new(TOOLS, "OAUTH_REDIRECT_BASE_URL", Computed("`http://127.0.0.1:<ENGINE_PORT>`"), Kind::UrlNoSlash, "OAuth redirect URI = this + `/assets/oauth/callback`."),
    Var::new(TOOLS, "OAUTH_RETURN_URL", None, Kind::Url, "Where the browser goes after OAuth; none gives a small answer in place."),
    Var::new(TOOLS, "AD_CALL_TIMEOUT_S", Text("60"), int(1, 3_600), "Time limit of one MCP request."),
    Var::new(TOOLS, "MEMORY_RECALL_LIMIT", Text("12"), int(0, 100), "Most memories recalled into a turn."),
    Var::new(TOOLS, "MEMORY_RECALL_MAX_TOKENS", Text("2000"), int(0, 100_000), "Total size of the memories recalled into a turn."),
    Var::new(TOOLS, "LC_ENABLED", Text("true"), FLAG, "Learning Centre."),
    Var::new(TOOLS, "LC_BATCH_INTERVAL_HOURS", Text("6"), int(1, 720), "Period of learning batches."),
    Var::new(TOOLS, "LC_QUIET_MINUTES", Text("10"), int(1, 1_440), "A task counts as quiet after this."),
    Var::new(TOOLS, "LC_TOKEN_BUDGET", Text("200000"), int(1_000, 100_000_000), "Model tokens of one learning batch."),
    Var::new(TOOLS, "LC_SKILLS_ENABLED", Text("false"), FLAG, "Let the Learning Centre propose custom skills."),
];
