//! The command line as a person or a script meets it: the real binary, its output, its exit codes.

mod chat;
mod fake;

use serde_json::Value;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// Longest run of one command. Every one ends in well under a second; this only keeps a hanging one from
/// hanging the suite.
const LIMIT: Duration = Duration::from_secs(30);

/// A directory to run in, with nothing of this machine's environment.
pub struct Place {
    dir: tempfile::TempDir,
    env: Vec<(String, String)>,
}

/// What a command said.
pub struct Said {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Said {
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {} {}", self.out, self.err))
    }

    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.out, self.err);
        self
    }
}

impl Place {
    /// An offline Engine's place: a brain path and a key.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let brain = dir.path().join("brain.sqlite").display().to_string();
        let place = Self { dir, env: Vec::new() };
        place
            .with("LLM_PROVIDER", "offline")
            .with("SQLITE_DB_PATH", &brain)
            .with("ENGINE_API_KEY", "canary-key-0001")
    }

    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.env.retain(|(n, _)| n != name);
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn without(mut self, name: &str) -> Self {
        self.env.retain(|(n, _)| n != name);
        self
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn run(&self, args: &[&str]) -> Said {
        self.run_with(args, "")
    }

    pub fn run_with(&self, args: &[&str], stdin: &str) -> Said {
        self.run_as("september-engine", args, stdin)
    }

    fn run_as(&self, name: &str, args: &[&str], stdin: &str) -> Said {
        let mut child = Command::new(env!("CARGO_BIN_EXE_september-engine"))
            .arg0(name)
            .args(args)
            .env_clear()
            .envs(self.env.iter().map(|(n, v)| (n, v)))
            .current_dir(self.dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        // A command that does not read its input closes it; that is its right.
        let _ = child.stdin.take().expect("piped").write_all(stdin.as_bytes());
        let pid = child.id();
        let (done, output) = mpsc::channel();
        std::thread::spawn(move || done.send(child.wait_with_output()));
        let output: Output = match output.recv_timeout(LIMIT) {
            Ok(output) => output.expect("output"),
            Err(_) => {
                let pid = rustix::process::Pid::from_raw(pid.try_into().expect("a pid")).expect("a pid");
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                panic!("{name} {args:?} did not end within {LIMIT:?}");
            }
        };
        Said {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// With a brain of the newest schema.
    pub fn with_brain(self) -> Self {
        self.run(&["migrate"]).expect(0);
        self
    }
}

#[test]
fn all_configuration_problems_are_told_at_once_and_secrets_never() {
    let place = Place::new()
        .with("ENGINE_PORT", "99999")
        .with("ENGINE_TASK_SLOTS", "0")
        .with("LC_ENABLED", "yes")
        .with("ENGINE_KEY_HASH", "canary-hash-0002");
    for command in [&["check-config"][..], &["serve"], &[]] {
        let said = place.run(command).expect(2);
        let text = format!("{}{}", said.out, said.err);
        for name in ["ENGINE_PORT", "ENGINE_TASK_SLOTS", "LC_ENABLED", "ENGINE_KEY_HASH"] {
            assert!(text.contains(name), "{command:?} does not name {name}: {text}");
        }
        assert!(!text.contains("canary"), "{command:?} shows a secret: {text}");
    }
    let errors = place.run(&["check-config", "--json"]).expect(2).json();
    assert_eq!(errors["errors"].as_array().map(Vec::len), Some(4), "{errors}");
}

#[test]
fn a_valid_configuration_is_shown_with_where_it_comes_from() {
    let place = Place::new().without("LLM_PROVIDER");
    std::fs::write(place.path("my.env"), "LLM_PROVIDER=offline\n").expect("written");
    let said = place.run(&["check-config", "--json", "--env-file", "my.env"]).expect(0);
    let report = said.json();
    let row = |name: &str| {
        let rows = report["variables"].as_array().expect("rows");
        rows.iter().find(|r| r["name"] == name).cloned().unwrap_or_default()
    };
    assert_eq!(
        (&row("LLM_PROVIDER")["value"], &row("LLM_PROVIDER")["source"]),
        (&"offline".into(), &"--env-file".into())
    );
    assert_eq!(row("SQLITE_DB_PATH")["source"], "environment");
    assert_eq!(row("ENGINE_PORT")["source"], "default");
    assert!(!said.out.contains("canary"), "{}", said.out);
    place.run(&["check-config", "--env-file", "absent.env"]).expect(2);
}

#[test]
fn a_wrong_command_line_is_exit_2_and_help_is_exit_0() {
    let place = Place::new();
    assert!(place.run(&["fly"]).expect(2).err.contains("september-engine"));
    place.run(&["restore"]).expect(2);
    let help = place.run(&["--help"]).expect(0).out;
    for word in [
        "serve",
        "chat",
        "doctor",
        "check-config",
        "backup",
        "restore",
        "verify",
        "migrate",
        "vacuum",
        "hash-key",
        "rekey",
        "health",
        "openapi",
        "version",
        "Examples",
        "Exit codes",
    ] {
        assert!(help.contains(word), "{word} is missing in {help}");
    }
    for absent in ["reference", "rebuild-fts"] {
        assert!(!help.contains(absent), "{absent} is offered");
    }
    for command in
        ["serve", "chat", "doctor", "backup", "restore", "verify", "migrate", "vacuum", "hash-key", "health"]
    {
        assert!(place.run(&[command, "--help"]).expect(0).out.contains("Example"), "{command}");
    }
}

#[test]
fn a_key_becomes_its_standard_hash_and_is_never_an_argument() {
    let place = Place::new();
    let hash = "5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8";
    assert_eq!(place.run_with(&["hash-key"], "password\n").expect(0).out.trim(), hash);
    assert_eq!(place.run_with(&["hash-key", "--json"], "password").expect(0).json()["hash"], hash);
    assert!(place.run_with(&["hash-key"], "short\n").expect(1).err.contains("8..512"));
    assert!(!place.run(&["hash-key", "canary-argument"]).expect(2).out.contains("canary"));

    let new = place.run(&["hash-key", "--new", "--json"]).expect(0).json();
    let key = new["key"].as_str().expect("a key");
    assert!(key.starts_with("sk-sept-"), "{key}");
    assert_eq!(
        place.run_with(&["hash-key"], key).expect(0).out.trim(),
        new["hash"].as_str().expect("a hash")
    );
}

#[test]
fn version_and_openapi_are_machine_readable_without_any_configuration() {
    let place = Place::new().without("LLM_PROVIDER").without("SQLITE_DB_PATH").without("ENGINE_API_KEY");
    let version = place.run(&["version", "--json"]).expect(0).json();
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(version["name"], "september-engine");
    assert!(version["schema_version"].as_u64() >= Some(1), "{version}");
    let document = place.run(&["openapi"]).expect(0).json();
    assert!(document["openapi"].as_str().is_some_and(|v| v.starts_with("3.1")), "{document}");
    for path in ["/execute", "/execute/replay", "/health", "/tasks", "/hitl/respond"] {
        assert!(document["paths"][path].is_object(), "{path} is not described");
    }
}

#[test]
fn a_backup_can_be_made_verified_and_restored() {
    let place = Place::new().with_brain();
    let made = place.run(&["backup", "--json"]).expect(0).json();
    let file = made["path"].as_str().expect("a path").to_owned();
    assert!(Path::new(&file).starts_with(place.path("backups")), "{file}");
    place.run(&["verify", &file]).expect(0);
    assert_eq!(place.run(&["verify", "--json"]).expect(0).json()["ok"], true);
    assert!(place.run(&["backup", &file]).expect(1).err.contains("exists"));

    let restored = place.run(&["restore", &file, "--json"]).expect(0).json();
    let replaced = restored["replaced"].as_str().expect("the brain before is kept");
    assert!(Path::new(replaced).exists(), "{replaced}");
    place.run(&["vacuum", "--json"]).expect(0);
    place.run(&["verify"]).expect(0);
}

#[test]
fn what_is_wrong_with_a_brain_decides_the_exit_code() {
    let place = Place::new();
    assert!(place.run(&["verify"]).expect(1).err.contains("no such file"));
    assert!(place.run(&["vacuum"]).expect(1).err.contains("no brain"));
    place.run(&["restore", "absent.sqlite"]).expect(1);

    std::fs::write(place.path("damaged.sqlite"), vec![7u8; 8192]).expect("written");
    place.run(&["verify", "damaged.sqlite"]).expect(3);
    place.run(&["restore", "damaged.sqlite"]).expect(3);

    let missing = place.path("absent/brain.sqlite");
    let said = place.run(&["migrate", "--brain", missing.to_str().expect("text")]);
    assert!([1, 2].contains(&said.code) && said.err.contains("absent"), "{} {}", said.code, said.err);
}

#[test]
fn a_held_brain_is_exit_4_and_its_holder_is_named() {
    let place = Place::new().with("BRAIN_LOCK_WAIT_S", "0").with_brain();
    let guard = brain::lock::try_acquire(&place.path("brain.sqlite")).expect("free");
    for command in [&["migrate"][..], &["vacuum"], &["restore", "any.sqlite"]] {
        let said = place.run(command).expect(4);
        assert!(said.err.contains(&std::process::id().to_string()), "{command:?}: {}", said.err);
    }
    // These read beside a running Engine.
    place.run(&["backup"]).expect(0);
    place.run(&["verify"]).expect(0);
    place.run(&["migrate", "--dry-run"]).expect(0);
    drop(guard);
    place.run(&["vacuum"]).expect(0);
}

#[test]
fn a_replaced_process_is_exit_4_and_doctor_says_why() {
    let newer = Place::new().with("BRAIN_GENERATION", "5").with_brain();
    newer.run(&["vacuum"]).expect(0);
    let replaced = newer.with("BRAIN_GENERATION", "4");
    assert!(replaced.run(&["vacuum"]).expect(4).err.contains("generation 5"));
    assert!(replaced.run(&["doctor"]).expect(1).out.contains("belongs to generation 5"));
}

#[test]
fn migrating_says_what_it_did_and_a_dry_run_does_nothing() {
    let place = Place::new();
    let plan = place.run(&["migrate", "--dry-run", "--json"]).expect(0).json();
    assert_eq!(plan["from"], 0);
    assert!(!place.path("brain.sqlite").exists(), "a dry run made a brain");
    let done = place.run(&["migrate", "--json"]).expect(0).json();
    assert_eq!(done["applied"], plan["applied"]);
    assert!(place.run(&["migrate"]).expect(0).out.contains("nothing to do"));
}

#[test]
fn doctor_finds_everything_at_once_and_names_the_fix() {
    let place = Place::new().with_brain();
    let well = place.run(&["doctor", "--json"]).expect(0).json();
    assert_eq!(well["ok"], true, "{well}");
    for subject in [
        "configuration",
        "brain",
        "integrity",
        "lock",
        "disk",
        "file system",
        "catalog",
        "sandbox",
        "provider",
        "clock",
    ] {
        let checks = well["checks"].as_array().expect("checks");
        assert!(checks.iter().any(|c| c["subject"] == subject), "{subject} was not looked at: {well}");
    }

    let ill = Place::new()
        .with("SQLITE_DB_PATH", "nowhere/brain.sqlite")
        .with("ENGINE_TASK_SLOTS", "0")
        .run(&["doctor"])
        .expect(1);
    for word in ["✗", "ENGINE_TASK_SLOTS", "nowhere", "→"] {
        assert!(ill.out.contains(word), "{word}: {}", ill.out);
    }
    assert!(!ill.out.contains("canary") && !ill.out.contains('\x1b'), "{}", ill.out);
}

#[test]
fn doctor_tells_a_refused_provider_key_from_an_absent_provider() {
    let refuses = fake::FakeEngine::start(|_| fake::Reply::json(401, r#"{"error":{"message":"bad key"}}"#));
    let place = Place::new().with("LLM_PROVIDER", "openai").with("LLM_API_KEY", "canary-llm-1").with_brain();
    let place = place.with("LLM_BASE_URL", &refuses.url());
    let said = place.run(&["doctor"]).expect(1);
    assert!(said.out.contains("refuses the key") && !said.out.contains("canary"), "{}", said.out);

    let place = place.with("LLM_BASE_URL", "http://127.0.0.1:1/v1");
    assert!(place.run(&["doctor"]).expect(1).out.contains("cannot be reached"));
    place.run(&["doctor", "--offline"]).expect(0);
}

#[test]
fn health_is_exit_0_only_when_the_engine_is_ready() {
    let ready = fake::FakeEngine::start(|_| fake::Reply::json(200, r#"{"status":"ok"}"#));
    let busy = fake::FakeEngine::start(|_| fake::Reply::json(503, r#"{"status":"starting"}"#));
    let place = Place::new();
    assert!(place.run(&["health", "--url", &ready.url()]).expect(0).out.starts_with("ok (200)"));
    assert!(place.run(&["health", "--url", &busy.url()]).expect(1).out.starts_with("starting (503)"));
    assert_eq!(place.run(&["health", "--json", "--url", &ready.url()]).expect(0).json()["status"], "ok");
    assert!(place.run(&["health", "--url", "http://127.0.0.1:1"]).expect(1).err.contains("refused"));
    assert_eq!(ready.seen()[0].path, "/health");

    let port = ready.url().rsplit(':').next().expect("a port").to_owned();
    Place::new().with("ENGINE_HOST", "0.0.0.0").with("ENGINE_PORT", &port).run(&["health"]).expect(0);
}

#[test]
fn under_the_name_sqlite3_it_reads_and_backs_up_and_nothing_else() {
    let place = Place::new().with_brain();
    let sqlite3 = |args: &[&str]| place.run_as("/usr/bin/sqlite3", args, "");
    assert_eq!(sqlite3(&["brain.sqlite", "PRAGMA integrity_check;"]).expect(0).out, "ok\n");
    let rows = sqlite3(&[
        "-readonly",
        "brain.sqlite",
        "SELECT version, name FROM schema_migrations ORDER BY 1 LIMIT 1",
    ]);
    assert_eq!(rows.expect(0).out, "1|engine\n");
    sqlite3(&["brain.sqlite", ".backup 'copy of it.sqlite'"]).expect(0);
    sqlite3(&["brain.sqlite", ".backup main copy2.sqlite"]).expect(0);
    place.run(&["verify", "copy of it.sqlite"]).expect(0);
    for refused in [
        "DELETE FROM tasks",
        "SELECT 1; DROP TABLE tasks",
        ".shell ls",
        "PRAGMA journal_mode=DELETE",
        "VACUUM",
    ] {
        let said = sqlite3(&["brain.sqlite", refused]).expect(1);
        assert!(said.err.starts_with("Error: "), "{refused}: {}", said.err);
    }
    assert!(sqlite3(&["absent.sqlite", "SELECT 1"]).expect(1).err.contains("unable to open"));
    assert!(!place.path("absent.sqlite").exists());
}

#[test]
fn the_reference_pages_say_what_the_program_does() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference");
    let stale: Vec<&str> = engine::reference::pages()
        .into_iter()
        .filter(|(name, text)| {
            std::fs::read_to_string(docs.join(name)).ok().as_deref() != Some(text.as_str())
        })
        .map(|(name, _)| name)
        .collect();
    assert!(
        stale.is_empty(),
        "docs/reference: {stale:?} differ from the declarations; run `{}`",
        engine::reference::REGENERATE
    );
}
