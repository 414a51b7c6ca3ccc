//! The declaration against the specification, and the rules that join variables.

use super::*;
use chassis::config::{DefaultValue, Kind};
use std::collections::BTreeSet;

/// A source that could serve, in a directory of its own.
struct Setting {
    dir: tempfile::TempDir,
    values: Vec<(String, String)>,
}

impl Setting {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let brain = dir.path().join("brain.sqlite").display().to_string();
        let hash = KeyHash::of("correct-horse").to_hex();
        let values = [("SQLITE_DB_PATH", brain.as_str()), ("ENGINE_KEY_HASH", &hash), ("LLM_API_KEY", "k-1")];
        Self { values: values.map(|(n, v)| (n.to_owned(), v.to_owned())).to_vec(), dir }
    }

    fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.values.retain(|(n, _)| n != name);
        self.values.push((name.to_owned(), value.into()));
        self
    }

    fn without(self, name: &str) -> Self {
        self.with(name, "")
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().canonicalize().expect("exists").join(name).display().to_string()
    }

    fn source(&self) -> Values {
        Values::new("environment", self.values.clone())
    }

    fn load(&self) -> Result<Loaded, Problems> {
        Config::load(&self.source(), Purpose::Serve)
    }

    fn config(&self) -> Config {
        self.load().expect("is valid").config
    }

    fn refused(&self) -> Vec<String> {
        self.load().expect_err("is refused").problems.into_iter().map(|p| p.name).collect()
    }

    fn warned(&self) -> Vec<String> {
        self.load().expect("is valid").report.warnings.into_iter().map(|w| w.name).collect()
    }
}

#[test]
fn what_the_orchestrator_passes_is_enough() {
    let setting = Setting::new();
    let catalog = setting.dir.path().display().to_string();
    let setting = setting.with("CATALOG_DIR", catalog);
    let loaded = setting.load().expect("is valid");
    assert!(loaded.report.warnings.is_empty(), "{:?}", loaded.report.warnings);
    let c = loaded.config;
    assert_eq!(
        (c.llm_provider, c.llm_model.as_str(), c.light_model.as_str()),
        (Provider::Openai, "gpt-4o", "gpt-4o")
    );
    assert_eq!((c.engine_host.to_string().as_str(), c.engine_port), ("127.0.0.1", 8000));
    assert_eq!(c.engine_key_hash, Some(KeyHash::of("correct-horse")));
    assert_eq!((c.engine_log_level, c.engine_log_format), (LogLevel::Info, LogFormat::Auto));
    assert_eq!((c.engine_sandbox, c.subprocess_scrub_mode), (SandboxMode::BestEffort, ScrubMode::Strict));
    assert_eq!(
        (c.migrations, c.brain_generation, c.backup_interval_hours),
        (MigrationMode::Auto, None, None)
    );
    assert_eq!(c.channel_state_ttl_active, Duration::from_secs(3 * 3_600));
    assert_eq!(c.channel_state_ttl_hitl, Duration::from_secs(72 * 3_600));
    assert_eq!(c.backup_dir, c.brain_dir().join("backups"));
    assert_eq!(c.allowed_roots, [PathBuf::from(setting.path("workspace"))]);
    assert_eq!(c.context_window("gpt-4o"), 128_000);
    assert_eq!(Setting::new().with("LLM_CONTEXT_WINDOW", "4096").config().context_window("gpt-4o"), 4096);
}

/// Name, default as the specification's table shows it, smallest and largest value.
const NUMBERS: &[(&str, Option<&str>, f64, f64)] = &[
    ("ENGINE_PORT", Some("8000"), 0.0, 65535.0),
    ("BAP_KEY_ROTATION_MIN_OVERLAP_SECONDS", Some("0"), 0.0, 86400.0),
    ("BAP_KEY_ROTATION_MAX_OVERLAP_SECONDS", Some("300"), 0.0, 86400.0),
    ("ENGINE_MAX_BODY_BYTES", Some("33554432"), 65536.0, 1073741824.0),
    ("ENGINE_TASK_SLOTS", Some("16"), 1.0, 1024.0),
    ("ENGINE_TASK_QUEUE", Some("256"), 0.0, 100000.0),
    ("ENGINE_HEARTBEAT_INTERVAL_S", Some("15"), 1.0, 300.0),
    ("ENGINE_DRAIN_TIMEOUT_S", Some("25"), 0.0, 3600.0),
    ("MAX_TOKENS", Some("4096"), 1.0, 1000000.0),
    ("LLM_CONTEXT_WINDOW", None, 2048.0, 10000000.0),
    ("LLM_CONNECT_TIMEOUT_S", Some("10"), 1.0, 3600.0),
    ("LLM_FIRST_BYTE_TIMEOUT_S", Some("120"), 1.0, 3600.0),
    ("LLM_IDLE_TIMEOUT_S", Some("60"), 1.0, 3600.0),
    ("LLM_MAX_RETRIES", Some("2"), 0.0, 10.0),
    ("SUPER_THINKING_BUDGET_TOKENS", Some("8192"), 1024.0, 200000.0),
    ("EMBEDDING_DIM", None, 64.0, 4096.0),
    ("MEMORY_EMBED_DEADLINE_MS", Some("150"), 0.0, 60000.0),
    ("BRAIN_GENERATION", None, 0.0, 9223372036854775807.0),
    ("BRAIN_LOCK_WAIT_S", Some("10"), 0.0, 3600.0),
    ("BRAIN_MIN_FREE_MB", Some("64"), 0.0, 1048576.0),
    ("BACKUP_INTERVAL_HOURS", Some("0"), 0.0, 8760.0),
    ("BACKUP_KEEP", Some("7"), 1.0, 1000.0),
    ("CHANNEL_STATE_TTL_ACTIVE", Some("3h"), 60.0, 30.0 * 86400.0),
    ("CHANNEL_STATE_TTL_HITL", Some("72h"), 60.0, 90.0 * 86400.0),
    ("WORKING_MEMORY_TTL", Some("72h"), 60.0, 365.0 * 86400.0),
    ("OBSERVABILITY_RETENTION_DAYS", Some("30"), 1.0, 3650.0),
    ("TRAJECTORY_RETENTION_DAYS", Some("90"), 1.0, 3650.0),
    ("AGENT_MAX_ITERATIONS", Some("100"), 1.0, 10000.0),
    ("CLAUDE_CODE_MAX_TOOL_USE_CONCURRENCY", Some("10"), 1.0, 64.0),
    ("COMPACT_AT_RATIO", Some("0.8"), 0.3, 0.95),
    ("COMPACT_KEEP_TURNS", Some("6"), 1.0, 50.0),
    ("TOKEN_BUDGET_MAX_CONTINUATIONS", Some("8"), 1.0, 1000.0),
    ("CACHE_HIT_MIN_RATIO", Some("0.3"), 0.0, 1.0),
    ("MEDIA_MAX_BYTES", Some("20971520"), 1024.0, 1073741824.0),
    ("MEDIA_IMAGE_MAX_EDGE_PX", Some("2048"), 256.0, 16384.0),
    ("BASH_TIMEOUT_S", Some("120"), 1.0, 3600.0),
    ("TOOL_OUTPUT_MAX_BYTES", Some("65536"), 1024.0, 10485760.0),
    ("TOOL_SLOW_MS", Some("10000"), 1.0, 3600000.0),
    ("SANDBOX_CPU_S", Some("300"), 1.0, 1e9),
    ("SANDBOX_MEMORY_MB", Some("2048"), 1.0, 1e9),
    ("SANDBOX_MAX_PROCESSES", Some("256"), 1.0, 1e9),
    ("SANDBOX_MAX_FILE_MB", Some("1024"), 1.0, 1e9),
    ("AD_CALL_TIMEOUT_S", Some("60"), 1.0, 3600.0),
    ("MEMORY_RECALL_LIMIT", Some("12"), 0.0, 100.0),
    ("MEMORY_RECALL_MAX_TOKENS", Some("2000"), 0.0, 100000.0),
    ("LC_BATCH_INTERVAL_HOURS", Some("6"), 1.0, 720.0),
    ("LC_QUIET_MINUTES", Some("10"), 1.0, 1440.0),
    ("LC_TOKEN_BUDGET", Some("200000"), 1000.0, 100000000.0),
];

const FLAGS: &[(&str, &str)] = &[
    ("CORS_ALLOW_CREDENTIALS", "false"),
    ("WEB_FETCH_ENABLED", "true"),
    ("BRAIN_ALLOW_UNSAFE_FS", "false"),
    ("TOKEN_BUDGET_ENABLED", "false"),
    ("STOP_HOOKS_ENABLED", "true"),
    ("PRE_TOOL_HOOKS_ENABLED", "true"),
    ("POST_TOOL_HOOKS_ENABLED", "true"),
    ("HOOKS_SETTINGS_LOAD_ENABLED", "true"),
    ("REACTIVE_COMPACT_ENABLED", "true"),
    ("CACHE_HIT_MONITOR_ENABLED", "true"),
    ("PLANNER_ENABLED", "true"),
    ("MEDIA_PRESEND_VALIDATION_ENABLED", "false"),
    ("MEDIA_IMAGE_RESIZE_ENABLED", "false"),
    ("MEDIA_ERROR_RECOVERY_ENABLED", "false"),
    ("CONTENT_INGESTION_ENABLED", "false"),
    ("ASSET_DIRECTORY_SANDBOXED", "true"),
    ("LC_ENABLED", "true"),
    ("LC_SKILLS_ENABLED", "false"),
];

const WORDS: &[(&str, Option<&str>, &[&str])] = &[
    ("ENGINE_LOG_LEVEL", Some("INFO"), &["DEBUG", "INFO", "WARNING", "ERROR"]),
    ("ENGINE_LOG_FORMAT", Some("auto"), &["auto", "json", "pretty"]),
    ("LLM_PROVIDER", Some("openai"), &["openai", "anthropic", "gemini", "offline"]),
    ("EMBEDDING_PROVIDER", None, &["openai", "local"]),
    ("MIGRATIONS", Some("auto"), &["auto", "gate"]),
    ("ENGINE_SANDBOX", Some("best-effort"), &["required", "best-effort", "off"]),
    ("SUBPROCESS_SCRUB_MODE", Some("strict"), &["strict", "standard", "off"]),
];

/// Name and default of everything else.
const OTHERS: &[(&str, Option<&str>)] = &[
    ("ENGINE_HOST", Some("127.0.0.1")),
    ("ENGINE_API_KEY", None),
    ("ENGINE_KEY_HASH", None),
    ("CORS_ORIGINS", None),
    ("ENGINE_ALLOWED_HOSTS", None),
    ("LLM_API_KEY", None),
    ("OPENAI_API_KEY", None),
    ("ANTHROPIC_API_KEY", None),
    ("GEMINI_API_KEY", None),
    ("LLM_BASE_URL", None),
    ("LLM_MODEL", None),
    ("PLANNER_MODEL", None),
    ("LIGHT_MODEL", None),
    ("FALLBACK_MODEL", None),
    ("EMBEDDING_MODEL", None),
    ("EMBEDDING_BASE_URL", Some("https://api.openai.com/v1")),
    ("BRAVE_API_KEY", None),
    ("TAVILY_API_KEY", None),
    ("BRAVE_BASE_URL", None),
    ("TAVILY_BASE_URL", None),
    ("SQLITE_DB_PATH", Some("/data/brain.sqlite")),
    ("CATALOG_DIR", None),
    ("MIGRATIONS_DIR", None),
    ("BACKUP_DIR", None),
    ("HOOKS_SETTINGS_PATH", None),
    ("ALLOWED_ROOTS", None),
    ("TOOL_NETWORK_ALLOWLIST", None),
    ("AD_ENCRYPTION_KEY", None),
    ("OAUTH_REDIRECT_BASE_URL", None),
    ("OAUTH_RETURN_URL", None),
];

#[test]
fn the_declaration_holds_exactly_the_variables_of_the_specification() {
    let names = NUMBERS.iter().map(|n| n.0).chain(FLAGS.iter().map(|f| f.0));
    let wanted: BTreeSet<&str> =
        names.chain(WORDS.iter().map(|w| w.0)).chain(OTHERS.iter().map(|o| o.0)).collect();
    let declared: BTreeSet<&str> = VARS.iter().map(|v| v.name).collect();
    assert_eq!(declared, wanted);
    assert_eq!(declared.len(), VARS.len(), "every name is declared once");
}

#[test]
fn every_default_and_bound_is_the_specifications() {
    let text = |var: &chassis::config::Var| match var.default {
        DefaultValue::Text(text) => Some(text),
        DefaultValue::None | DefaultValue::Computed(_) => None,
    };
    for var in VARS {
        if let Some(default) = text(var) {
            assert!(var.kind.parse(default).is_ok(), "{} admits its own default", var.name);
        }
        if let Some((_, default, min, max)) = NUMBERS.iter().find(|n| n.0 == var.name) {
            let bounds = match var.kind {
                Kind::Int { min, max } => (min as f64, max as f64),
                Kind::Float { min, max } => (min, max),
                Kind::Duration { min, max } => (min.as_secs_f64(), max.as_secs_f64()),
                other => panic!("{} is declared as {other:?}", var.name),
            };
            assert_eq!((text(var), bounds), (*default, (*min, *max)), "{}", var.name);
        } else if let Some((_, default)) = FLAGS.iter().find(|f| f.0 == var.name) {
            assert_eq!((text(var), var.kind), (Some(*default), Kind::Flag), "{}", var.name);
        } else if let Some((_, default, words)) = WORDS.iter().find(|w| w.0 == var.name) {
            let (Kind::OneOf(declared) | Kind::OneOfAnyCase(declared)) = var.kind else {
                panic!("{} is declared as {:?}", var.name, var.kind);
            };
            assert_eq!((text(var), declared), (*default, *words), "{}", var.name);
        } else {
            let default = OTHERS.iter().find(|o| o.0 == var.name).expect("is in the tables").1;
            assert_eq!(text(var), default, "{}", var.name);
        }
    }
}

#[test]
fn exactly_the_specified_variables_are_secret() {
    let secret: BTreeSet<&str> = VARS.iter().filter(|v| v.secret).map(|v| v.name).collect();
    let wanted = [
        "AD_ENCRYPTION_KEY",
        "ANTHROPIC_API_KEY",
        "BRAVE_API_KEY",
        "ENGINE_API_KEY",
        "ENGINE_KEY_HASH",
        "GEMINI_API_KEY",
        "LLM_API_KEY",
        "OPENAI_API_KEY",
        "TAVILY_API_KEY",
    ];
    assert_eq!(secret, BTreeSet::from(wanted));
}

#[test]
fn all_problems_come_in_one_report() {
    let setting = Setting::new()
        .with("ENGINE_PORT", "70000")
        .with("LLM_PROVIDER", "opnai")
        .with("TOKEN_BUDGET_ENABLED", "yes")
        .with("CHANNEL_STATE_TTL_ACTIVE", "5")
        .with("BAP_KEY_ROTATION_MIN_OVERLAP_SECONDS", "400")
        .with("SQLITE_DB_PATH", "/no/such/place/brain.sqlite");
    let problems = setting.load().expect_err("six are wrong");
    let got: Vec<_> = problems.problems.iter().map(|p| (p.name.as_str(), p.nearest.as_deref())).collect();
    let want = [
        ("ENGINE_PORT", Some("65535")),
        ("LLM_PROVIDER", Some("openai")),
        ("CHANNEL_STATE_TTL_ACTIVE", Some("1m")),
        ("TOKEN_BUDGET_ENABLED", Some("true")),
        ("SQLITE_DB_PATH", None),
        ("BAP_KEY_ROTATION_MIN_OVERLAP_SECONDS", Some("300")),
    ];
    assert_eq!(got, want);
    assert!(problems.to_string().contains("mkdir -p /no/such/place"));
}

#[test]
fn a_key_for_callers_is_needed_to_serve_and_two_must_agree() {
    let bare = Setting::new().without("ENGINE_KEY_HASH");
    assert_eq!(bare.refused(), ["ENGINE_KEY_HASH"]);
    assert!(Config::load(&bare.source(), Purpose::Tool).expect("is valid").config.engine_key_hash.is_none());
    let plain = bare.with("ENGINE_API_KEY", "correct-horse");
    assert_eq!(plain.config().engine_key_hash, Some(KeyHash::of("correct-horse")));
    assert_eq!(plain_engine_key(&plain.source()).expect("is set").expose(), "correct-horse");
    let agreeing = Setting::new().with("ENGINE_API_KEY", "correct-horse");
    assert_eq!(agreeing.warned(), ["ENGINE_API_KEY"]);
    assert_eq!(Setting::new().with("ENGINE_API_KEY", "battery-staple").refused(), ["ENGINE_KEY_HASH"]);
    assert_eq!(
        Setting::new().without("ENGINE_KEY_HASH").with("ENGINE_API_KEY", "short").refused(),
        ["ENGINE_API_KEY"]
    );
}

#[test]
fn the_providers_key_comes_from_its_own_variable_when_need_be() {
    let bare = || Setting::new().without("LLM_API_KEY");
    assert_eq!(bare().refused(), ["LLM_API_KEY"]);
    assert!(Config::load(&bare().source(), Purpose::Tool).is_ok());
    assert!(bare().with("LLM_PROVIDER", "offline").config().llm_api_key.is_none());
    assert_eq!(
        bare().with("LLM_PROVIDER", "opnai").refused(),
        ["LLM_PROVIDER"],
        "whose key is not known yet"
    );
    let local = bare().with("LLM_BASE_URL", "http://localhost:11434/v1/").config();
    assert_eq!((local.llm_api_key, local.llm_base_url.as_deref()), (None, Some("http://localhost:11434/v1")));
    for (provider, name, model) in [
        ("openai", "OPENAI_API_KEY", "gpt-4o"),
        ("anthropic", "ANTHROPIC_API_KEY", "claude-sonnet-5-5"),
        ("gemini", "GEMINI_API_KEY", "gemini-3.8-flash"),
    ] {
        let config = bare().with("LLM_PROVIDER", provider).with(name, "own-key").config();
        assert_eq!(config.llm_api_key, Some(Secret::new("own-key")));
        assert_eq!(config.llm_model, model);
    }
}

#[test]
fn a_key_of_another_provider_is_warned_of() {
    assert_eq!(Setting::new().with("LLM_API_KEY", "sk-ant-1").warned(), ["LLM_API_KEY"]);
    let anthropic =
        |key: &str| Setting::new().with("LLM_PROVIDER", "anthropic").with("LLM_API_KEY", key).warned();
    assert_eq!(anthropic("AIza1"), ["LLM_API_KEY"]);
    assert_eq!(anthropic("sk-proj-1"), ["LLM_API_KEY"]);
    assert!(anthropic("sk-ant-1").is_empty());
    let behind = Setting::new().with("LLM_API_KEY", "sk-ant-1").with("LLM_BASE_URL", "http://localhost/v1");
    assert!(behind.warned().is_empty());
}

#[test]
fn a_star_origin_excludes_credentials_and_wildcards_are_warned_of() {
    let star = || Setting::new().with("CORS_ORIGINS", "*");
    assert_eq!(star().warned(), ["CORS_ORIGINS"]);
    assert_eq!(star().with("CORS_ALLOW_CREDENTIALS", "true").refused(), ["CORS_ALLOW_CREDENTIALS"]);
    for wildcard in ["0.0.0.0", "::"] {
        assert_eq!(Setting::new().with("ENGINE_HOST", wildcard).warned(), ["ENGINE_HOST"]);
    }
    assert_eq!(Setting::new().with("CORS_ORIGINS", "https://a.example/x").refused(), ["CORS_ORIGINS"]);
}

#[test]
fn near_misses_of_flags_name_the_flag() {
    let loaded = Setting::new().with("TOKEN_BUGDET_ENABLED", "true").load().expect("is valid");
    assert_eq!(loaded.report.warnings.len(), 1);
    assert!(loaded.report.warnings[0].text.contains("TOKEN_BUDGET_ENABLED"));
}

#[test]
fn every_variable_takes_effect_and_is_checked() {
    let without: Vec<&str> = VARS.iter().filter(|v| !v.takes_effect).map(|v| v.name).collect();
    assert_eq!(without, [""; 0]);
    assert!(Setting::new().with("CONTENT_INGESTION_ENABLED", "true").warned().is_empty());
    assert_eq!(Setting::new().with("MEDIA_IMAGE_MAX_EDGE_PX", "100").refused(), ["MEDIA_IMAGE_MAX_EDGE_PX"]);
    assert_eq!(Setting::new().with("LC_TOKEN_BUDGET", "1").refused(), ["LC_TOKEN_BUDGET"]);
    assert_eq!(Setting::new().with("EMBEDDING_PROVIDER", "openai").refused(), ["EMBEDDING_PROVIDER"]);
    assert_eq!(Setting::new().with("EMBEDDING_DIM", "512").refused(), ["EMBEDDING_DIM"]);
    assert_eq!(Setting::new().with("EMBEDDING_MODEL", "other").refused(), ["EMBEDDING_MODEL"]);
    assert_eq!(Setting::new().with("AD_ENCRYPTION_KEY", "too-short").refused(), ["AD_ENCRYPTION_KEY"]);
}

#[test]
fn roots_may_contain_the_brain_but_not_be_it() {
    let root = |name: &str| {
        let setting = Setting::new();
        let path = setting.path(name);
        setting.with("ALLOWED_ROOTS", path)
    };
    assert!(root("elsewhere").warned().is_empty());
    assert_eq!(root("").warned(), ["ALLOWED_ROOTS"]);
    assert_eq!(root("x/../").warned(), ["ALLOWED_ROOTS"]);
    for own in
        ["brain.sqlite", "brain.sqlite-wal", "brain.sqlite-shm", "brain.sqlite.lock", "x/../brain.sqlite"]
    {
        assert_eq!(root(own).refused(), ["ALLOWED_ROOTS"], "{own}");
    }
    assert_eq!(Setting::new().with("ALLOWED_ROOTS", "relative/path").refused(), ["ALLOWED_ROOTS"]);
    let two = Setting::new().with("ALLOWED_ROOTS", "/srv/a , /srv/b").config();
    assert_eq!(two.allowed_roots, [PathBuf::from("/srv/a"), PathBuf::from("/srv/b")]);
    let setting = root("work");
    let hooks = setting.path("work/hooks.json");
    assert_eq!(setting.with("HOOKS_SETTINGS_PATH", hooks).refused(), ["HOOKS_SETTINGS_PATH"]);
}

#[test]
fn directories_that_are_named_must_exist() {
    for name in ["CATALOG_DIR", "MIGRATIONS_DIR"] {
        assert_eq!(Setting::new().with(name, "/no/such/place").refused(), [name]);
    }
    let setting = Setting::new();
    let dir = setting.path("");
    assert_eq!(setting.with("SQLITE_DB_PATH", dir).refused(), ["SQLITE_DB_PATH"]);
}

#[test]
fn no_secret_shows_anywhere_and_all_are_known_to_the_scrubber() {
    let fernet = format!("{}A=", "c4nary".repeat(7));
    let setting = Setting::new()
        .without("ENGINE_KEY_HASH")
        .with("ENGINE_API_KEY", "c4nary-engine")
        .with("LLM_API_KEY", "c4nary-llm")
        .with("OPENAI_API_KEY", "c4nary-openai")
        .with("ANTHROPIC_API_KEY", "c4nary-anthropic")
        .with("GEMINI_API_KEY", "c4nary-gemini")
        .with("BRAVE_API_KEY", "c4nary-brave")
        .with("TAVILY_API_KEY", "c4nary-tavily")
        .with("AD_ENCRYPTION_KEY", format!("{fernet},{fernet}"));
    let loaded = setting.load().expect("is valid");
    let mut shown = format!("{loaded:?}");
    for json in [false, true] {
        let (text, exit) = check_config(&setting.source(), json);
        assert_eq!(exit, 0, "{text}");
        shown.push_str(&text);
    }
    let broken = setting.with("ENGINE_API_KEY", "c4nary").with("AD_ENCRYPTION_KEY", "c4nary,c4nary");
    let problems = broken.load().expect_err("two are wrong");
    shown.push_str(&format!("{problems}{problems:?}{}", check_config(&broken.source(), false).0));
    assert!(!shown.contains("c4nary"), "{shown}");
    let kept: Vec<&str> = loaded.config.secret_values().iter().map(Secret::expose).collect();
    assert_eq!(kept.len(), 8, "everything but the plain key of callers");
    assert!(kept.iter().all(|s| s.contains("c4nary")) && !kept.contains(&"c4nary-engine"));
}

#[test]
fn check_config_ends_with_2_when_anything_is_wrong() {
    let good = Setting::new();
    assert_eq!(check_config(&good.source(), false).1, 0);
    let (text, exit) = check_config(&good.with("ENGINE_PORT", "x").source(), true);
    let json: serde_json::Value = serde_json::from_str(&text).expect("is JSON");
    assert_eq!((exit, &json["valid"], &json["errors"][0]["name"]), (2, &false.into(), &"ENGINE_PORT".into()));
    assert_eq!(json["variables"].as_array().map(Vec::len), Some(VARS.len()));
}

#[test]
fn every_variable_the_orchestrator_sets_is_declared() {
    use contract::env;
    for name in [
        env::ENGINE_KEY_HASH,
        env::SQLITE_DB_PATH,
        env::CATALOG_DIR,
        env::LLM_API_KEY,
        env::ENGINE_HOST,
        env::ENGINE_PORT,
        env::BRAIN_GENERATION,
    ] {
        assert!(VARS.iter().any(|v| v.name == name && v.takes_effect), "{name}");
    }
}

#[test]
fn the_reference_page_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/variables.md");
    let page = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(page == reference(), "run: {}", crate::reference::REGENERATE);
}

#[test]
fn a_wrong_entry_of_the_catalog_is_counted_and_ends_as_a_wrong_variable_does() {
    let setting = Setting::new();
    let well = check_config(&setting.source(), false);
    assert_eq!(well.1, 0, "{}", well.0);
    assert!(!well.0.contains("catalog:"), "{}", well.0);
    let catalog = setting.dir.path().join("catalog");
    std::fs::create_dir_all(catalog.join("tools")).expect("ours");
    std::fs::write(catalog.join("tools/broken.json"), "{").expect("ours");
    let setting = setting.with("CATALOG_DIR", catalog.display().to_string());
    let (text, code) = check_config(&setting.source(), false);
    assert_eq!(code, 2, "{text}");
    assert!(
        text.contains("\ncatalog error: ") && text.ends_with("catalog: 1 error(s), 0 warning(s)\n"),
        "{text}"
    );
    let (json, code) = check_config(&setting.source(), true);
    let json: serde_json::Value = serde_json::from_str(&json).expect("is JSON");
    assert_eq!((code, &json["valid"]), (2, &serde_json::json!(false)), "{json}");
}
