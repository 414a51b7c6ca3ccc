//! The program as a person calls it: small commands, what is refused, and a fleet driven from the terminal against a
//! replica with the simulated backend.

use serde_json::Value;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use testbed::postgres::TestDatabase;

const ADMIN: &str = "an-admin-key-of-more-than-32-characters";
pub const MASTER: &str = "cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4=";

/// Longest wait for something the program does by itself.
const LIMIT: Duration = Duration::from_secs(30);

/// The program with nothing in its environment but what is given, in an empty directory.
pub struct Program {
    pub dir: tempfile::TempDir,
    pub env: Vec<(String, String)>,
}

impl Program {
    fn new(env: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        Self { dir, env: env.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect() }
    }

    pub fn on(url: &str) -> Self {
        Self::new(&[
            ("ORCH_DATABASE_URL", url),
            ("ORCH_MASTER_KEY", MASTER),
            ("ORCH_ADMIN_KEY", ADMIN),
            ("ORCH_ENGINE_BACKEND", "simulated"),
            ("ORCH_SLEEP_MODE", "label"),
            ("ORCH_ADMIT_LEASE_S", "5"),
            ("ORCH_BIND", "127.0.0.1:0"),
            ("ORCH_INTERNAL_BIND", "127.0.0.1:0"),
        ])
    }

    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.env.retain(|(n, _)| n != name);
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bap-engine"));
        command
            .args(args)
            .env_clear()
            .envs(self.env.iter().map(|(n, v)| (n, v)))
            .current_dir(self.dir.path());
        command
    }

    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).stdin(Stdio::null()).output().expect("the program runs")
    }

    /// Runs it to success and reads its JSON.
    pub fn json(&self, args: &[&str]) -> Value {
        let mut with_json = args.to_vec();
        with_json.push("--json");
        let output = self.run(&with_json);
        assert!(output.status.success(), "{args:?}: {} {}", out(&output), err(&output));
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{args:?}: {e}: {}", out(&output)))
    }

    /// Runs it to the given exit code; the answer is everything it printed.
    pub fn fails(&self, args: &[&str], code: i32) -> String {
        let output = self.run(args);
        let text = format!("{}{}", out(&output), err(&output));
        assert_eq!(output.status.code(), Some(code), "{args:?}: {text}");
        text
    }
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A replica that is killed with the test.
pub struct Replica(Child);

impl Drop for Replica {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Two ports that were free a moment ago.
pub fn free_addresses() -> (String, String) {
    let listeners = [(); 2].map(|()| std::net::TcpListener::bind("127.0.0.1:0").expect("a free port"));
    let [api, internal] = listeners.map(|l| l.local_addr().expect("has one").to_string());
    (api, internal)
}

/// A replica that answers.
pub fn serve(program: Program) -> (Program, Replica) {
    let (api, internal) = free_addresses();
    let url = format!("http://{api}");
    let program = program.with("ORCH_BIND", &api).with("ORCH_INTERNAL_BIND", &internal).with("BAP_URL", &url);
    let log = std::fs::File::create(program.dir.path().join("serve.log")).expect("a log file");
    let child = program.command(&["serve"]).stdout(log.try_clone().expect("a handle")).stderr(log).spawn();
    let replica = Replica(child.expect("the program starts"));
    let began = Instant::now();
    // `status` needs the schema, `products list` a replica that serves.
    while !program.run(&["products", "list"]).status.success() {
        let log = || std::fs::read_to_string(program.dir.path().join("serve.log")).unwrap_or_default();
        assert!(began.elapsed() < LIMIT, "no replica after {LIMIT:?}: {}", log());
    }
    (program, replica)
}

/// The page of metrics, when somebody listens.
fn metrics(internal: &str) -> Option<String> {
    use std::io::{Read as _, Write as _};
    let mut socket = std::net::TcpStream::connect(internal).ok()?;
    socket.set_read_timeout(Some(LIMIT)).ok()?;
    socket.write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").ok()?;
    let mut page = String::new();
    socket.read_to_string(&mut page).ok()?;
    Some(page)
}

/// An alert on `bap_db_up` would never see a replica whose database never came, if it had no value until then.
#[test]
fn before_its_database_has_answered_a_replica_counts_it_as_down() {
    let (_, internal) = free_addresses();
    let program = Program::on("postgresql://postgres@127.0.0.1:9/none?sslmode=disable")
        .with("ORCH_INTERNAL_BIND", &internal);
    let _replica =
        Replica(program.command(&["serve"]).stdout(Stdio::null()).spawn().expect("the program starts"));
    let began = Instant::now();
    let page = loop {
        if let Some(page) = metrics(&internal) {
            break page;
        }
        assert!(began.elapsed() < LIMIT, "nobody listens at {internal}");
    };
    assert!(page.contains("\nbap_db_up 0\n") && page.contains("\nbap_health_ok 0\n"), "{page}");
}

#[test]
fn keygen_prints_lines_an_environment_file_takes() {
    let program = Program::new(&[]);
    let text = out(&program.run(&["keygen"]));
    let values = chassis::config::parse_env(&text).expect("is an environment file");
    assert!(chassis::seal::MasterKeys::parse(&values["ORCH_MASTER_KEY"]).is_ok());
    assert_eq!(values["ORCH_ADMIN_KEY"].len(), 43);
    assert_eq!(out(&program.run(&["keygen", "admin"])).lines().count(), 1);
    assert!(program.json(&["keygen", "master"])["ORCH_MASTER_KEY"].is_string());
    assert_ne!(out(&program.run(&["keygen"])), text);
}

#[test]
fn version_and_openapi_need_no_configuration() {
    let program = Program::new(&[("ORCH_BIND", "nonsense")]);
    let version = program.json(&["version"]);
    assert_eq!(
        (version["name"].as_str(), version["version"].as_str()),
        (Some("bap-engine"), Some(env!("CARGO_PKG_VERSION")))
    );
    assert!(version["schema_level"].as_i64() >= Some(1));
    let document: Value = serde_json::from_slice(&program.run(&["openapi"]).stdout).expect("is JSON");
    assert_eq!(document["openapi"], "3.1.0");
}

#[test]
fn check_config_tells_everything_at_once_and_serve_exits_2() {
    let program =
        Program::new(&[("ORCH_BIND", "nonsense"), ("ORCH_MASTER_KEY", "hunter2"), ("ORCH_LEASE_TTL_S", "1")]);
    let output = program.run(&["check-config", "--json"]);
    assert_eq!(output.status.code(), Some(2));
    let found: Value = serde_json::from_slice(&output.stdout).expect("is JSON");
    assert_eq!(found["errors"].as_array().map(Vec::len), Some(5), "{found}");
    for text in [
        out(&output),
        program.fails(&["serve"], 2),
        program.fails(&[], 2),
        program.fails(&["check-config"], 2),
    ] {
        for name in
            ["ORCH_DATABASE_URL", "ORCH_MASTER_KEY", "ORCH_ADMIN_KEY", "ORCH_BIND", "ORCH_LEASE_TTL_S"]
        {
            assert!(text.contains(name), "{name}: {text}");
        }
        assert!(!text.contains("hunter2"), "{text}");
    }
}

#[test]
fn help_shows_no_value_of_a_secret() {
    let program = Program::on("postgresql://u:hunter2@127.0.0.1:1/o");
    for args in [
        &["--help"][..],
        &["products", "register", "--help"],
        &["engines", "admit", "--help"],
        &["migrate", "--help"],
    ] {
        let text = out(&program.run(args));
        assert!(text.contains("Usage"), "{text}");
        assert!(!text.contains("hunter2") && !text.contains(ADMIN) && !text.contains(MASTER), "{text}");
    }
}

#[test]
fn wrong_usage_is_2_and_nothing_reachable_is_4() {
    let program =
        Program::on("postgresql://u@127.0.0.1:1/o?connect_timeout=2").with("BAP_URL", "http://127.0.0.1:1");
    program.fails(&["engines", "upgrade", "demo/u"], 2);
    program.fails(&["engines", "list", "--status", "asleep"], 2);
    program.fails(&["audit", "list", "--limit", "0"], 2);
    let text = program.fails(&["engines", "get", "u"], 2);
    assert!(text.contains("BAP_PLATFORM_KEY"), "{text}");
    let text = program.fails(&["products", "list"], 4);
    assert!(text.contains("127.0.0.1:1"), "{text}");
    program.fails(&["products", "set-policy", "demo", "--policy", "[]"], 2);
    program.fails(&["engines", "list"], 4);
    program.fails(&["status"], 4);
    let without = Program::new(&[]);
    let text = without.fails(&["engines", "list"], 2);
    assert!(text.contains("ORCH_DATABASE_URL") && !text.contains("--env-file"), "{text}");
    // The file of a fleet lies here: that is what was forgotten.
    let fleet = without.dir.path().join(".september/fleet");
    std::fs::create_dir_all(&fleet).expect("ours");
    std::fs::write(fleet.join("fleet.env"), "ORCH_ADMIN_KEY=x\n").expect("ours");
    for args in [&["engines", "list"][..], &["status"], &["engines", "get", "u"]] {
        let text = without.fails(args, 2);
        assert!(text.contains("bap-engine --env-file .september/fleet/fleet.env"), "{args:?}: {text}");
    }
    let shown = out(&without.run(&["check-config", "--env-file", ".september/fleet/fleet.env"]));
    assert!(shown.contains("[--env-file]") && !shown.contains("[.env]"), "{shown}");
}

#[test]
fn doctor_names_everything_that_is_wrong_with_what_to_do() {
    let program = Program::on("postgresql://u@127.0.0.1:1/o?connect_timeout=2")
        .with("ORCH_ADMIN_KEY", "")
        .with("ORCH_ENGINE_BACKEND", "subprocess")
        .with("ORCH_ENGINE_BINARY", "/no/such/program");
    let root = program.dir.path().join("no-such-root");
    let program = program.with("ORCH_DATA_ROOT_PATH", &root.display().to_string());
    let output = program.run(&["doctor", "--json"]);
    assert_eq!(output.status.code(), Some(1), "{}", err(&output));
    let report: Value = serde_json::from_slice(&output.stdout).expect("is JSON");
    let findings = report["findings"].as_array().expect("a list");
    for subject in [
        "ORCH_ADMIN_KEY",
        "ORCH_ENGINE_BINARY",
        "ORCH_DATA_ROOT_PATH",
        "database",
        "data root",
        "engine program",
    ] {
        let finding = findings
            .iter()
            .find(|f| f["subject"] == subject)
            .unwrap_or_else(|| panic!("{subject}: {report}"));
        assert_eq!(finding["state"], "problem", "{finding}");
        assert!(finding["fix"].as_str().is_some_and(|fix| !fix.is_empty()), "{finding}");
    }
    assert!(!root.exists(), "looking makes nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn migrate_shows_levels_and_sql_and_applies_once() {
    let database = TestDatabase::create().await;
    let program = Program::on(&database.url);
    tokio::task::block_in_place(|| {
        let text = program.fails(&["engines", "list"], 3);
        assert!(text.contains("bap-engine migrate"), "{text}");
        let before = program.json(&["migrate", "--status"]);
        assert_eq!((before["database"].as_i64(), before["current"].as_bool()), (Some(0), Some(false)));
        let sql = out(&program.run(&["migrate", "--dry-run"]));
        assert!(sql.contains("CREATE TABLE"), "{sql}");
        assert_eq!(program.json(&["migrate", "--status"])["database"], 0);
        let report = program.json(&["migrate"]);
        assert_eq!(report["level"], before["program"]);
        assert_eq!(program.json(&["migrate"])["applied"].as_array().map(Vec::len), Some(0));
        assert_eq!(program.json(&["migrate", "--status"])["current"], true);
        assert_eq!(program.json(&["engines", "list"])["engines"].as_array().map(Vec::len), Some(0));
        assert_eq!(program.json(&["status"])["total"], 0);
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_is_driven_from_the_terminal() {
    let database = TestDatabase::create().await;
    let url = database.url.clone();
    tokio::task::spawn_blocking(move || drive(&url)).await.expect("the whole tour works");
}

fn drive(url: &str) {
    let (program, replica) = serve(Program::on(url));
    let product =
        program.json(&["products", "register", "demo", "--name", "Demo", "--policy", "{\"max_engines\":1}"]);
    let platform_key = product["platform_api_key"].as_str().expect("a key").to_owned();
    assert_eq!(program.json(&["products", "list"])["products"][0]["slug"], "demo");
    assert_eq!(program.json(&["products", "show", "demo"])["policy"]["max_engines"], 1);
    assert!(program.fails(&["products", "register", "demo"], 1).contains("PRODUCT_SLUG_EXISTS"));

    let made = program.json(&["engines", "provision", "demo/u-1"]);
    let key = made["api_key"].as_str().expect("a key").to_owned();
    assert!(key.starts_with("sk-sept-"));
    assert!(program.fails(&["engines", "provision", "demo/u-1"], 1).contains("ENGINE_ALREADY_EXISTS"));
    assert!(program.fails(&["engines", "provision", "demo/u-2"], 1).contains("QUOTA_EXCEEDED"));
    program.json(&["products", "set-policy", "demo", "--policy", "{\"max_engines\":2}"]);
    assert!(program.fails(&["engines", "show", "demo/nobody"], 1).contains("no engine"));
    assert!(program.fails(&["engines", "start", "demo/u-1"], 1).contains("ENGINE_ALREADY_RUNNING"));

    let listed = out(&program.run(&["engines", "list"]));
    assert!(listed.contains("u-1") && listed.contains("running"), "{listed}");
    let shown = out(&program.run(&["engines", "show", "demo/u-1", "--json"]));
    assert!(shown.contains("\"status\": \"running\""), "{shown}");
    assert!(!shown.contains(&key) && !listed.contains(&key));

    let product_view = Program { dir: tempfile::tempdir().expect("a directory"), env: program.env.clone() }
        .with("BAP_PLATFORM_KEY", &platform_key);
    let masked = product_view.json(&["engines", "get", "u-1"]);
    assert_ne!(masked["api_key"], key.as_str());
    assert_eq!(product_view.json(&["engines", "get", "u-1", "--show-key"])["api_key"], key.as_str());
    let admitted = product_view.json(&["engines", "admit", "u-1"]);
    assert!(admitted["lease"].is_string() && admitted["status"] == "running", "{admitted}");
    assert_eq!(product_view.json(&["engines", "admit", "demo/u-1"])["engine_id"], admitted["engine_id"]);
    assert_eq!(product_view.json(&["engines", "get", "demo/u-1"])["user_id"], "u-1");
    assert_eq!(program.json(&["engines", "show", "u-1"])["status"], "running", "the only product is meant");
    assert!(product_view.fails(&["engines", "get", "other/u-1"], 1).contains("give the user alone"));
    let refused = product_view.fails(&["engines", "admit", "u-9"], 1);
    assert!(refused.contains("engine_not_found") && refused.contains("--auto-provision"), "{refused}");
    let unknown = program.fails(&["explain", "demo/u-9"], 1);
    assert!(unknown.contains("ENGINE_NOT_FOUND"), "{unknown}");

    // What serves there is this fleet: nothing to warn of.
    let doctor = program.json(&["doctor"]);
    for name in ["ORCH_BIND", "ORCH_INTERNAL_BIND"] {
        let finding = doctor["findings"].as_array().expect("a list").iter().find(|f| f["subject"] == name);
        let found = finding.and_then(|f| f["found"].as_str()).unwrap_or_default();
        assert!(found.ends_with("is served by this fleet"), "{name}: {doctor}");
    }
    let told = out(&program.run(&["status"]));
    assert!(told.contains("  health        ok\n"), "{told}");
    let why = out(&program.run(&["explain", "demo/u-1"]));
    assert!(why.contains("in use: an admission until") && !why.contains("idle since"), "{why}");
    assert!(!why.contains(" 0 probes"), "{why}");

    // The lease of the admission keeps it awake.
    assert!(program.fails(&["engines", "sleep", "demo/u-1"], 1).contains("ENGINE_BUSY"));

    let rotated = program.json(&["engines", "rotate-key", "demo/u-1"]);
    let new_key = rotated["api_key"].as_str().expect("a key");
    assert_ne!(new_key, key);
    assert_eq!(product_view.json(&["engines", "get", "u-1", "--show-key"])["api_key"], new_key);

    assert_eq!(program.json(&["engines", "stop", "demo/u-1"])["status"], "stopped");
    assert!(program.fails(&["engines", "stop", "demo/u-1"], 1).contains("ENGINE_NOT_RUNNING"));
    assert_eq!(program.json(&["status", "--product", "demo"])["by_status"]["stopped"], 1);
    let why = out(&program.run(&["explain", "demo/u-1"]));
    assert!(why.contains("stopped by hand") && why.contains("engine_stopped"), "{why}");
    assert_eq!(program.json(&["engines", "start", "demo/u-1"])["status"], "running");

    let reissued = program.json(&["engines", "reissue-key", "demo/u-1"]);
    let third = reissued["api_key"].as_str().expect("a key");
    assert_eq!(product_view.json(&["engines", "get", "u-1", "--show-key"])["api_key"], third);
    assert_eq!(program.json(&["engines", "show", "demo/u-1"])["status"], "running");

    let entries = program.json(&["audit", "list", "--action", "rotate_key"]);
    let reissues = entries["entries"].as_array().expect("a list");
    assert_eq!(reissues.len(), 2, "{entries}");
    assert!(reissues.iter().all(|e| e["actor"] == "admin"), "{entries}");

    rotate_master_key(&program, third, &product_view);
    let asked = program.fails(&["engines", "destroy", "demo/u-1"], 2);
    assert!(asked.contains("--yes"), "{asked}");
    assert_eq!(program.json(&["engines", "show", "u-1"])["status"], "running", "nobody said yes");
    assert_eq!(program.json(&["engines", "destroy", "demo/u-1", "--yes"])["status"], "destroyed");
    forget(&program);
    let gone = program.json(&["products", "delete", "demo"]);
    assert_eq!(gone["status"], "deleted");
    drop(replica);
}

fn rotate_master_key(program: &Program, key: &str, product_view: &Program) {
    let new = chassis::seal::MasterKeys::generate();
    let both = format!("{},{MASTER}", new.expose());
    let rotating = Program { dir: tempfile::tempdir().expect("a directory"), env: program.env.clone() }
        .with("ORCH_MASTER_KEY", &both);
    let report = rotating.json(&["rotate-master-key"]);
    assert_eq!((report["rows"].as_i64(), report["resealed"].as_i64()), (Some(1), Some(1)), "{report}");
    assert_eq!(rotating.json(&["rotate-master-key"])["resealed"], 0);
    // The running replica has the old key only, so it is told apart from one that could serve this key.
    let shown = product_view.fails(&["engines", "get", "u-1"], 1);
    assert!(shown.contains("INTERNAL") && !shown.contains(key), "{shown}");
    let back = Program { dir: tempfile::tempdir().expect("a directory"), env: program.env.clone() }
        .with("ORCH_MASTER_KEY", &format!("{MASTER},{}", new.expose()));
    assert_eq!(back.json(&["rotate-master-key"])["resealed"], 1);
    assert_eq!(product_view.json(&["engines", "get", "u-1", "--show-key"])["api_key"], key);
    assert!(program.fails(&["rotate-master-key"], 0).contains("open with key"));
}

fn forget(program: &Program) {
    program.json(&["engines", "provision", "demo/lost"]);
    let gone = program.json(&["engines", "destroy", "demo/lost", "--forget", "--yes"]);
    assert_eq!(gone["status"], "destroyed");
    assert!(program.fails(&["engines", "show", "demo/lost"], 1).contains("no engine"));
    let log = program.json(&["audit", "list", "--action", "destroy", "--user", "lost"]);
    assert_eq!(log["entries"][0]["metadata"]["forgotten"], true, "{log}");
    let file = program.dir.path().join("audit.jsonl");
    let exported = program.json(&["audit", "export", "--out", &file.display().to_string()]);
    // Rows of the last 60 seconds stay out, so this young log may be empty; the file and its hash are there.
    let text = std::fs::read_to_string(&file).expect("was written");
    assert_eq!(text.lines().count() as i64, exported["rows"].as_i64().expect("a number"));
    let beside = std::fs::read_to_string(program.dir.path().join("audit.jsonl.sha256")).expect("was written");
    assert!(
        beside.starts_with(exported["sha256"].as_str().expect("a hash"))
            && beside.ends_with("  audit.jsonl\n")
    );
    program.fails(&["audit", "export", "--out", &file.display().to_string()], 2);
    assert_eq!(
        program.json(&["audit", "prune", "--older-than", "13m"])["dropped"].as_array().map(Vec::len),
        Some(0)
    );
}

/// A deployment that was switched to another backend leaves the rows of the old one alone, from the terminal, too.
#[tokio::test(flavor = "multi_thread")]
async fn rows_of_another_backend_are_refused_at_the_terminal_and_can_be_forgotten() {
    let database = TestDatabase::create().await;
    let program = Program::on(&database.url);
    let (program, replica) = tokio::task::block_in_place(|| {
        let (program, replica) = serve(program);
        program.json(&["products", "register", "demo"]);
        program.json(&["engines", "provision", "demo/u"]);
        (program, replica)
    });
    let connected = tokio_postgres::connect(&database.url, tokio_postgres::NoTls).await;
    let (sql, connection) = connected.expect("the server is up");
    tokio::spawn(connection);
    let row = async || {
        let row = sql.query_one("SELECT xmin::text, status, engine_key_hash FROM engines", &[]).await;
        let row = row.expect("there is one engine");
        [row.get::<_, String>(0), row.get(1), row.get(2)]
    };
    sql.execute("UPDATE engines SET backend = 'docker'", &[]).await.expect("the row is there");
    let before = row().await;
    tokio::task::block_in_place(|| {
        for command in ["start", "stop", "sleep", "destroy", "rotate-key", "reissue-key"] {
            let yes = (command == "destroy").then_some("--yes");
            let args: Vec<&str> = ["engines", command, "demo/u"].into_iter().chain(yes).collect();
            let refused = program.fails(&args, 1);
            assert!(refused.contains("runs on the backend docker"), "{command}: {refused}");
        }
    });
    assert_eq!(row().await, before, "nothing was changed");
    tokio::task::block_in_place(|| {
        let gone = program.json(&["engines", "destroy", "demo/u", "--forget", "--yes"]);
        assert_eq!(gone["status"], "destroyed");
        drop(replica);
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_without_a_replica_is_told_and_stays_queued() {
    let database = TestDatabase::create().await;
    let program = Program::on(&database.url);
    tokio::task::block_in_place(|| {
        program.json(&["migrate"]);
        let text = program.fails(&["engines", "start", "demo/u"], 1);
        assert!(text.contains("no product"), "{text}");
        let orphans = out(&program.run(&["engines", "orphans"]));
        assert_eq!(orphans, "every object has its row\n");
        let adopted = program.json(&["engines", "adopt-backend"]);
        assert_eq!(adopted["changed"], true, "{adopted}");
        let doctor = program.run(&["doctor", "--json"]);
        let report: Value = serde_json::from_slice(&doctor.stdout).expect("is JSON");
        assert_eq!(doctor.status.code(), Some(0), "{report}");
        let connected = program.run(&["check-config", "--connect"]);
        assert_eq!(connected.status.code(), Some(0), "{}", out(&connected));
        assert!(out(&connected).contains("schema"), "{}", out(&connected));
    });
}
