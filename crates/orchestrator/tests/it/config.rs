//! The declaration against the specification, and the rules that join variables.

use chassis::config::{DefaultValue, Kind, Problems, Secret, Values};
use chassis::seal::MasterKeys;
use chassis::telemetry::{LogFormat, LogLevel};
use fleet::lifecycle::{BackendKind, SleepMode};
use orchestrator::config::{Config, ImagePull, Loaded, MigrationMode, Purpose, Settings, UrlMode, VARS};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

const ADMIN: &str = "an-admin-key-of-more-than-32-characters";

/// A source that could serve, in a directory of its own.
struct Setting {
    dir: tempfile::TempDir,
    values: Vec<(String, String)>,
}

impl Setting {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let key = MasterKeys::generate();
        let values = [
            ("ORCH_DATABASE_URL", "postgresql://orch_user:hunter2@127.0.0.1:5432/orchestrator"),
            ("ORCH_MASTER_KEY", key.expose()),
            ("ORCH_ADMIN_KEY", ADMIN),
            ("ORCH_ENGINE_IMAGE", "september-engine:2.3.0"),
        ];
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
        self.dir.path().join(name).display().to_string()
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
fn the_three_required_variables_are_enough() {
    let loaded = Setting::new().load().expect("is valid");
    assert!(loaded.report.warnings.is_empty(), "{:?}", loaded.report.warnings);
    let c = loaded.config;
    assert_eq!(
        (c.bind.to_string(), c.internal_bind.to_string()),
        ("127.0.0.1:8000".into(), "127.0.0.1:9090".into())
    );
    assert_eq!(
        (c.log_level, c.log_format, c.migrations),
        (LogLevel::Info, LogFormat::Auto, MigrationMode::Auto)
    );
    assert_eq!(
        (c.engine_backend, c.sleep_mode, c.engine_url_mode),
        (BackendKind::Docker, SleepMode::Freeze, UrlMode::Auto)
    );
    assert_eq!((c.port_min, c.port_max, c.start_concurrency), (9001, 9999, 8));
    assert_eq!((c.engine_memory_mb, c.engine_cpus, c.engine_pids), (2048, 0.0, 512));
    assert_eq!(
        (c.idle_sleep_after_s, c.data_root_path.clone(), c.data_root_local_path.clone()),
        (Duration::ZERO, None, None)
    );
    assert_eq!((c.image_pull, c.read_only, c.allowed_hosts.len()), (ImagePull::Missing, false, 0));
    assert_eq!((c.admin_key.expose(), c.engine_binary.ends_with("september-engine")), (ADMIN, true));
    assert_eq!(c.bap_url, "http://127.0.0.1:8000");
    assert!(c.database_url.is_some());
}

/// Name, default as the specification's tables show it, smallest and largest value.
const NUMBERS: &[(&str, Option<&str>, f64, f64)] = &[
    ("ORCH_DRAIN_TIMEOUT_S", Some("50"), 1.0, 600.0),
    ("ORCH_DATABASE_MAX_CONNECTIONS", Some("20"), 4.0, 500.0),
    ("ORCH_ADMIT_WAITERS_MAX", Some("1024"), 1.0, 100_000.0),
    ("ORCH_PORT_MIN", Some("9001"), 1024.0, 65_535.0),
    ("ORCH_PORT_MAX", Some("9999"), 1024.0, 65_535.0),
    ("ORCH_ENGINE_STOP_GRACE_S", Some("30"), 1.0, 600.0),
    ("ORCH_IMAGE_PULL_TIMEOUT_S", Some("600"), 10.0, 3_600.0),
    ("ORCH_HEALTH_CHECK_INTERVAL_S", Some("30"), 1.0, 3_600.0),
    ("ORCH_HEALTH_MAX_FAILURES", Some("3"), 1.0, 100.0),
    ("ORCH_RESTART_MAX_ATTEMPTS", Some("8"), 0.0, 1_000.0),
    ("ORCH_BOOT_TIMEOUT_S", Some("60"), 1.0, 3_600.0),
    ("ORCH_ADMIT_LEASE_S", Some("30"), 5.0, 600.0),
    ("ORCH_WAKE_LEAD_S", Some("30"), 0.0, 3_600.0),
    ("ORCH_WAKE_GRACE_S", Some("120"), 0.0, 3_600.0),
    ("ORCH_RECONCILE_INTERVAL_S", Some("30"), 1.0, 600.0),
    ("ORCH_START_CONCURRENCY", None, 1.0, 1_024.0),
    ("ORCH_START_QUEUE_MAX", Some("256"), 1.0, 100_000.0),
    ("ORCH_BACKEND_CALL_TIMEOUT_S", Some("30"), 1.0, 600.0),
    ("ORCH_LEASE_TTL_S", Some("6"), 2.0, 60.0),
    ("ORCH_OPERATION_LEASE_S", Some("15"), 5.0, 300.0),
    ("ORCH_ORPHAN_GRACE_S", Some("900"), 60.0, 86_400.0),
    ("ORCH_KEY_OVERLAP_S", Some("300"), 0.0, 86_400.0),
    ("ORCH_PLATFORM_KEY_OVERLAP_S", Some("86400"), 0.0, 604_800.0),
    ("ORCH_AUDIT_HEALTH_SAMPLE", Some("100"), 1.0, 1_000_000.0),
    ("ORCH_AUDIT_RETENTION_MONTHS", Some("0"), 0.0, 120.0),
];

#[test]
fn numbers_have_the_defaults_and_ranges_of_the_specification() {
    for &(name, default, min, max) in NUMBERS {
        let var = VARS.iter().find(|v| v.name == name).unwrap_or_else(|| panic!("{name} is not declared"));
        let ends = match var.kind {
            Kind::Int { min, max } => (min as f64, max as f64),
            Kind::Seconds { min, max } => (min.as_secs_f64(), max.as_secs_f64()),
            other => panic!("{name} is {other:?}"),
        };
        assert_eq!(ends, (min, max), "{name}");
        match default {
            Some(text) => assert_eq!(var.default, DefaultValue::Text(text), "{name}"),
            None => assert!(matches!(var.default, DefaultValue::Computed(_)), "{name}"),
        }
        for outside in [min - 1.0, max + 1.0] {
            assert!(var.kind.parse(&outside.to_string()).is_err(), "{name}={outside}");
        }
    }
}

#[test]
fn every_default_is_accepted_by_its_own_kind_and_secrets_have_none() {
    for var in VARS {
        if let DefaultValue::Text(text) = var.default {
            assert!(var.kind.parse(text).is_ok(), "{}", var.name);
            assert!(!var.secret, "{}", var.name);
        }
    }
    let names: BTreeSet<&str> = VARS.iter().map(|v| v.name).collect();
    assert_eq!(names.len(), VARS.len());
    let secret: Vec<&str> = VARS.iter().filter(|v| v.secret).map(|v| v.name).collect();
    assert_eq!(secret, ["ORCH_DATABASE_URL", "ORCH_MASTER_KEY", "ORCH_ADMIN_KEY", "BAP_PLATFORM_KEY"]);
}

#[test]
fn all_configuration_errors_are_reported_together() {
    let setting = Setting::new()
        .with("ORCH_DATABASE_URL", "mysql://root@db/orchestrator")
        .with("ORCH_MASTER_KEY", "hunter2")
        .without("ORCH_ADMIN_KEY")
        .with("ORCH_BIND", "0.0.0.0")
        .with("ORCH_ENGINE_BACKEND", "podman")
        .with("ORCH_LEASE_TTL_S", "6s")
        .with("ORCH_READ_ONLY", "yes")
        .with("ORCH_RESTART_BACKOFF_MAX_S", "4");
    let problems = setting.load().expect_err("is refused").problems;
    let names: BTreeSet<&str> = problems.iter().map(|p| p.name.as_str()).collect();
    let want = [
        "ORCH_ADMIN_KEY",
        "ORCH_BIND",
        "ORCH_DATABASE_URL",
        "ORCH_ENGINE_BACKEND",
        "ORCH_LEASE_TTL_S",
        "ORCH_MASTER_KEY",
        "ORCH_READ_ONLY",
        "ORCH_RESTART_BACKOFF_MAX_S",
    ];
    assert_eq!(names.into_iter().collect::<Vec<_>>(), want);
    assert_eq!(problems.len(), want.len());
    let text: String = problems.iter().map(|p| format!("{p}\n")).collect();
    assert!(!text.contains("hunter2") && !text.contains("mysql"), "{text}");
    assert!(text.contains("nearest: `6`") && text.contains("nearest: `true`"), "{text}");
}

#[test]
fn nothing_shown_contains_a_secret() {
    let setting = Setting::new()
        .with("BAP_PLATFORM_KEY", "pk-sept-hunter3")
        .with("ORCH_ENGINE_ENV_PASSTHROUGH", "OPENAI_API_KEY,LLM_PROVIDER")
        .with("OPENAI_API_KEY", "hunter4")
        .with("LLM_PROVIDER", "openai");
    let loaded = setting.load().expect("is valid");
    let shown =
        format!("{:?}\n{}\n{}", loaded.config, loaded.report.to_table(&[]), loaded.report.to_json(&[]));
    for secret in ["hunter2", "hunter3", "hunter4", ADMIN, &setting.values[1].1] {
        assert!(!shown.contains(secret), "{secret}");
    }
    let kept: Vec<&str> = loaded.config.secret_values().iter().map(Secret::expose).collect();
    assert!(kept.contains(&"hunter4") && kept.contains(&"pk-sept-hunter3") && !kept.contains(&"openai"));
}

#[test]
fn a_database_has_a_scheme_a_host_a_name_and_a_known_way_of_tls() {
    let with = |url: &str| Setting::new().with("ORCH_DATABASE_URL", url);
    for good in [
        "postgres://u@db/orchestrator",
        "postgresql://u:p%40@db:6432/orchestrator?sslmode=verify-full",
        "postgresql:///orchestrator?host=/run/postgresql&user=u",
        "postgresql://u@%2Frun%2Fpostgresql/orchestrator",
    ] {
        assert!(with(good).load().is_ok(), "{good}");
    }
    for bad in [
        "db/orchestrator",
        "http://db/orchestrator",
        "postgresql://u@db",
        "postgresql:///orchestrator",
        "postgresql://u@db/o?sslmode=maybe",
        "postgresql://u@db/o?sslrootcert=/no/such/file",
    ] {
        assert_eq!(with(bad).refused(), ["ORCH_DATABASE_URL"], "{bad}");
    }
}

#[test]
fn master_keys_are_a_list_without_duplicates() {
    let (old, new) = (MasterKeys::generate(), MasterKeys::generate());
    let bare = old.expose().trim_end_matches('=');
    let both = Setting::new().with("ORCH_MASTER_KEY", format!("{}, {bare}", new.expose())).config();
    assert_eq!(both.master_key.fingerprints().len(), 2);
    let twice = Setting::new().with("ORCH_MASTER_KEY", format!("{},{bare}", old.expose()));
    assert_eq!(twice.refused(), ["ORCH_MASTER_KEY"]);
}

#[test]
fn listeners_and_engine_ports_keep_apart() {
    assert_eq!(Setting::new().with("ORCH_INTERNAL_BIND", "127.0.0.1:8000").refused(), ["ORCH_INTERNAL_BIND"]);
    assert_eq!(Setting::new().with("ORCH_BIND", "127.0.0.1:9500").refused(), ["ORCH_BIND"]);
    assert_eq!(Setting::new().with("ORCH_PORT_MAX", "9000").refused(), ["ORCH_PORT_MAX"]);
    assert_eq!(Setting::new().with("ORCH_BIND", "0.0.0.0:8000").warned(), ["ORCH_BIND"]);
    assert_eq!(Setting::new().with("ORCH_INTERNAL_BIND", "[::]:9090").warned(), ["ORCH_INTERNAL_BIND"]);
    assert_eq!(Setting::new().config().ports_kept_from_engines(), [9090]);
    assert_eq!(Setting::new().with("ORCH_PORT_MIN", "9002").refused(), ["ORCH_INTERNAL_BIND"]);
    let apart = Setting::new().with("ORCH_PORT_MIN", "9101").config();
    assert!(apart.ports_kept_from_engines().is_empty());
    let free = Setting::new().with("ORCH_BIND", "127.0.0.1:0").with("ORCH_INTERNAL_BIND", "127.0.0.1:0");
    assert!(free.load().is_ok());
    assert!(Setting::new().with("ORCH_PORT_MIN", "9999").load().is_ok());
}

#[test]
fn passthrough_refuses_reserved_names() {
    let setting =
        Setting::new().with("ORCH_ENGINE_ENV_PASSTHROUGH", "A,ORCH_ADMIN_KEY,LD_PRELOAD,PATH,HOME,B");
    let problem = setting.load().expect_err("is refused").problems.remove(0);
    assert_eq!(problem.nearest.as_deref(), Some("A,B"));
    for name in [
        "ENGINE_KEY_HASH",
        "ENGINE_API_KEY",
        "SQLITE_DB_PATH",
        "CATALOG_DIR",
        "BRAIN_GENERATION",
        "ENGINE_HOST",
        "ENGINE_PORT",
    ] {
        let setting = Setting::new().with("ORCH_ENGINE_ENV_PASSTHROUGH", name).with(name, "x");
        assert_eq!(setting.refused(), ["ORCH_ENGINE_ENV_PASSTHROUGH"], "{name}");
    }
    assert_eq!(
        Setting::new().with("ORCH_ENGINE_ENV_PASSTHROUGH", "9X").refused(),
        ["ORCH_ENGINE_ENV_PASSTHROUGH"]
    );
}

#[test]
fn passthrough_forwards_what_is_set_unchanged_and_warns_of_the_rest() {
    let setting = Setting::new()
        .with("ORCH_ENGINE_ENV_PASSTHROUGH", "LLM_MODEL, GEMINI_API_KEY,LLM_MODEL")
        .with("LLM_MODEL", " spaced ");
    let loaded = setting.load().expect("is valid");
    assert_eq!(loaded.config.engine_env_passthrough, [("LLM_MODEL".to_owned(), Secret::new(" spaced "))]);
    assert_eq!(loaded.config.passthrough_missing, ["GEMINI_API_KEY"]);
    let warning = &loaded.report.warnings[0];
    assert!(warning.text.contains("GEMINI_API_KEY"), "{}", warning.text);
}

#[test]
fn the_backend_decides_what_else_is_needed() {
    let kubernetes = Setting::new().with("ORCH_ENGINE_BACKEND", "kubernetes").load().expect_err("is refused");
    assert_eq!(kubernetes.problems.len(), 1);
    assert!(kubernetes.to_string().contains("no Kubernetes backend"), "{kubernetes}");

    let simulated = Setting::new().with("ORCH_ENGINE_BACKEND", "simulated");
    assert_eq!(
        (simulated.warned(), simulated.config().start_concurrency),
        (vec!["ORCH_ENGINE_BACKEND".into()], 256)
    );

    let subprocess = Setting::new().with("ORCH_ENGINE_BACKEND", "subprocess").with("PATH", "/no/such/dir");
    assert_eq!(subprocess.refused(), ["ORCH_DATA_ROOT_PATH", "ORCH_ENGINE_BINARY"]);
    let root = subprocess.path("");
    let subprocess =
        subprocess.with("ORCH_DATA_ROOT_PATH", root.clone()).with("ORCH_ENGINE_BINARY", "/bin/sh");
    let config = subprocess.config();
    assert_eq!((config.engine_binary.as_str(), config.start_concurrency), ("/bin/sh", 32));
    assert_eq!(config.data_root_local_path, Some(PathBuf::from(root)));
    let tagged = subprocess.with("ORCH_ENGINE_BINARY", "/opt/{tag}/september-engine").config();
    assert_eq!(tagged.engine_binary, "/opt/{tag}/september-engine");
    let chosen = Setting::new().with("ORCH_START_CONCURRENCY", "3").config();
    assert_eq!(chosen.start_concurrency, 3);
}

#[test]
fn a_program_is_found_by_name_on_the_path() {
    let setting = Setting::new()
        .with("PATH", "/no/such/dir:/bin:/usr/bin")
        .with("ORCH_ENGINE_BINARY", "sh")
        .with("ORCH_ENGINE_BACKEND", "subprocess");
    let root = setting.path("");
    let binary = setting.with("ORCH_DATA_ROOT_PATH", root).config().engine_binary.clone();
    assert!(binary == "/bin/sh" || binary == "/usr/bin/sh", "{binary}");
}

#[test]
fn a_data_root_must_exist_where_this_process_sees_it() {
    let setting = Setting::new();
    let root = setting.path("no-such-root");
    let setting = setting.with("ORCH_DATA_ROOT_PATH", root.clone());
    assert_eq!(setting.refused(), ["ORCH_DATA_ROOT_PATH"]);
    let here = setting.path("");
    let setting = setting.with("ORCH_DATA_ROOT_LOCAL_PATH", here.clone());
    let config = setting.config();
    assert_eq!(config.data_root_path, Some(PathBuf::from(root)));
    assert_eq!(config.data_root_local_path, Some(PathBuf::from(here)));
    assert_eq!(
        setting.with("ORCH_DATA_ROOT_LOCAL_PATH", "relative").refused(),
        ["ORCH_DATA_ROOT_LOCAL_PATH"]
    );
    // The image sets the local path whether or not there is a root.
    let volumes = Setting::new().with("ORCH_DATA_ROOT_LOCAL_PATH", "/data/engine-data").config();
    assert_eq!(volumes.data_root_local_path, None);
}

#[test]
fn network_file_systems_are_known_by_their_numbers() {
    use orchestrator::config::filesystem::{free_bytes, magic_of, refused};
    assert_eq!((refused(0x6969), refused(0x6573_5546)), (Some("NFS"), Some("FUSE or virtiofs")));
    assert_eq!(refused(0xef53), None);
    let dir = tempfile::tempdir().expect("a temporary directory");
    assert!(magic_of(dir.path()).is_ok_and(|magic| magic != 0));
    assert!(free_bytes(dir.path()).is_some());
}

#[test]
fn a_probe_never_lasts_longer_than_its_interval() {
    let setting = Setting::new().with("ORCH_HEALTH_CHECK_INTERVAL_S", "2.5");
    assert_eq!(setting.config().health_check_timeout_s, Duration::from_millis(2_500));
    assert_eq!(setting.warned(), ["ORCH_HEALTH_CHECK_TIMEOUT_S"]);
    let below = setting.with("ORCH_HEALTH_CHECK_TIMEOUT_S", "0.25");
    assert_eq!(below.config().health_check_timeout_s, Duration::from_millis(250));
    assert!(below.warned().is_empty());
    assert_eq!(below.with("ORCH_HEALTH_CHECK_TIMEOUT_S", "0").refused(), ["ORCH_HEALTH_CHECK_TIMEOUT_S"]);
}

#[test]
fn idle_sleep_is_off_or_longer_than_a_lease() {
    let setting = Setting::new().with("ORCH_IDLE_SLEEP_AFTER_S", "29");
    assert_eq!(setting.refused(), ["ORCH_IDLE_SLEEP_AFTER_S"]);
    let setting = setting.with("ORCH_IDLE_SLEEP_AFTER_S", "30");
    assert_eq!(setting.config().idle_sleep_after_s, Duration::from_secs(30));
    assert_eq!(setting.with("ORCH_ADMIT_LEASE_S", "31").refused(), ["ORCH_IDLE_SLEEP_AFTER_S"]);
}

#[test]
fn limits_are_zero_or_large_enough() {
    for (name, small, enough) in [
        ("ORCH_ENGINE_MEMORY_MB", "255", "256"),
        ("ORCH_ENGINE_CPUS", "0.05", "0.1"),
        ("ORCH_ENGINE_PIDS", "63", "64"),
    ] {
        assert_eq!(Setting::new().with(name, small).refused(), [name]);
        assert!(Setting::new().with(name, enough).load().is_ok());
        assert!(Setting::new().with(name, "0").load().is_ok());
    }
}

#[test]
fn what_works_but_should_be_known_is_a_warning() {
    for image in ["september-engine", "september-engine:latest", "host:5000/september-engine"] {
        assert_eq!(
            Setting::new().with("ORCH_ENGINE_IMAGE", image).warned(),
            ["ORCH_ENGINE_IMAGE"],
            "{image}"
        );
    }
    let digest = format!("september-engine@sha256:{}", "0".repeat(64));
    assert!(Setting::new().with("ORCH_ENGINE_IMAGE", digest).warned().is_empty());
    assert_eq!(Setting::new().with("ORCH_ADMIN_KEY", "short").warned(), ["ORCH_ADMIN_KEY"]);
    assert_eq!(Setting::new().with("ORCH_K8S_NAMESPACE", "here").warned(), ["ORCH_K8S_NAMESPACE"]);
    let loaded =
        Setting::new().with("ORCH_DRAIN_TIMEOUT", "9").with("ORCH_NONSENSE", "1").load().expect("is valid");
    let text: Vec<String> = loaded.report.warnings.iter().map(|w| format!("{} {}", w.name, w.text)).collect();
    assert_eq!(text.len(), 2, "{text:?}");
    assert!(
        text[0].starts_with("ORCH_DRAIN_TIMEOUT ") && text[0].contains("ORCH_DRAIN_TIMEOUT_S"),
        "{text:?}"
    );
    assert!(text[1].starts_with("ORCH_NONSENSE "), "{text:?}");
}

#[test]
fn docker_over_tcp_needs_tls_unless_it_is_this_machine() {
    let with = |host: &str| Setting::new().with("DOCKER_HOST", host);
    assert_eq!(with("tcp://10.0.0.5:2375").refused(), ["DOCKER_HOST"]);
    assert!(with("tcp://10.0.0.5:2376").with("DOCKER_TLS_VERIFY", "1").load().is_ok());
    for here in
        ["tcp://127.0.0.1:2375", "tcp://localhost:2375", "tcp://[::1]:2375", "unix:///run/docker.sock"]
    {
        assert!(with(here).load().is_ok(), "{here}");
    }
    assert_eq!(with("unix:///x").config().docker.host.as_deref(), Some("unix:///x"));
}

#[test]
fn commands_need_only_what_they_use() {
    let empty = Values::new("environment", Vec::<(String, String)>::new());
    for purpose in [Purpose::Up, Purpose::Client, Purpose::Tool] {
        let settings = Settings::load(&empty, purpose).expect("nothing is wrong").settings;
        assert!(
            settings.database_url.is_none() && settings.master_key.is_none() && settings.admin_key.is_none()
        );
        let problems = Config::load(&empty, purpose).expect_err("keys are missing").problems;
        assert_eq!(problems.len(), 2, "{problems:?}");
    }
    let problems = Config::load(&empty, Purpose::Serve).expect_err("is refused").problems;
    assert_eq!(problems.len(), 3, "{problems:?}");
    let wrong =
        Values::new("environment", [("BAP_PLATFORM_KEY", "sk-sept-x"), ("BAP_URL", "localhost:8000")]);
    let problems = Settings::load(&wrong, Purpose::Client).expect_err("is refused").problems;
    assert_eq!(problems.iter().map(|p| p.name.as_str()).collect::<Vec<_>>(), ["BAP_URL", "BAP_PLATFORM_KEY"]);
}

#[test]
fn the_data_directory_follows_the_usual_places() {
    let dir = |pairs: &[(&str, &str)]| {
        let source = Values::new("environment", pairs.iter().copied());
        Settings::load(&source, Purpose::Up).expect("is valid").settings.data_dir
    };
    assert_eq!(dir(&[("HOME", "/h")]), Some(PathBuf::from("/h/.local/share/bap-engine")));
    assert_eq!(dir(&[("HOME", "/h"), ("XDG_DATA_HOME", "/x")]), Some(PathBuf::from("/x/bap-engine")));
    assert_eq!(dir(&[("HOME", "/h"), ("ORCH_DATA_DIR", "/d")]), Some(PathBuf::from("/d")));
    assert_eq!(dir(&[]), None);
}

#[test]
fn every_variable_is_in_the_reference() {
    let page = orchestrator::config::reference();
    for var in VARS {
        assert!(page.contains(&format!("| `{}`", var.name)), "{}", var.name);
    }
}

/// The pages of `docs/reference` are compared here, where they are made; nobody has to build the other program.
#[test]
fn generated_pages_say_what_the_program_says() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference");
    for (name, expected) in orchestrator::reference::pages() {
        let found = std::fs::read_to_string(folder.join(name)).unwrap_or_default();
        assert!(found == expected, "{name} is out of date; run `{}`", orchestrator::reference::REGENERATE);
    }
}
