//! `bap-engine up` as a person meets it: one command, lines to copy, Ctrl-C, and the next day.

use super::deployment::{PORTS_EACH, own_ports};
use super::engine::Engine;
use super::process::{self, LOOK, PATIENCE, ended, program, signal, told_of};
use rustix::process::Signal;
use serde_json::Value;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Instant;
use testbed::postgres::{Version, bin_dir};

/// Directories of the search path; no Docker is looked for in any of them.
const PATH: &str = concat!("/usr/local/bin", ":", "/usr/bin", ":", "/bin");

/// A person's directory, and what `up` does in it.
struct Laptop {
    folder: tempfile::TempDir,
    ports: u16,
    _place: File,
}

/// A running `up`.
struct Up {
    child: Child,
    out: PathBuf,
}

impl Laptop {
    fn new() -> Self {
        let (place, ports) = own_ports();
        Self { folder: tempfile::tempdir().expect("a directory"), ports, _place: place }
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn command(&self) -> Command {
        let mut command = Command::new(program("bap-engine"));
        command
            .arg("up")
            .arg("--data-dir")
            .arg(self.data())
            .args(["--port", &self.ports.to_string()])
            .arg("--postgres-bin")
            .arg(bin_dir(Version::V18))
            .env_clear()
            .env("PATH", PATH)
            .env("HOME", self.folder.path())
            .env("ORCH_INTERNAL_BIND", format!("127.0.0.1:{}", self.ports + 1))
            .env("ORCH_PORT_MIN", (self.ports + 8).to_string())
            .env("ORCH_PORT_MAX", (self.ports + PORTS_EACH - 1).to_string())
            .env("ORCH_LOG_LEVEL", "DEBUG")
            // Whoever asks the network for anything through these gets nothing.
            .envs(["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"].map(|name| (name, "http://127.0.0.1:1")))
            .env("DOCKER_HOST", "unix:///nowhere/docker.sock")
            .current_dir(self.folder.path())
            .stdin(Stdio::null());
        command
    }

    /// Starts it.
    fn begin(&self) -> Up {
        self.begin_as(self.command())
    }

    fn begin_as(&self, mut command: Command) -> Up {
        let out = self.folder.path().join("up.out");
        let log = File::create(&out).expect("a file");
        command.stdout(log.try_clone().expect("a handle")).stderr(log);
        Up { child: command.spawn().expect("the program starts"), out }
    }

    /// Where PostgreSQL keeps the rows.
    fn cluster(&self) -> PathBuf {
        fs::canonicalize(self.data().join("postgres")).expect("it was made").join("data")
    }

    /// The process of the server.
    fn postmaster(&self) -> i32 {
        let text = fs::read_to_string(self.cluster().join("postmaster.pid")).expect("it runs");
        text.lines().next().and_then(|line| line.trim().parse().ok()).expect("its number")
    }

    /// Starts it and waits until it has told its story.
    async fn up(&self) -> Up {
        let began = Instant::now();
        let mut up = self.begin();
        while !up.said().contains("Operators look at the fleet") {
            let over = up.child.try_wait().expect("our own child");
            assert!(over.is_none() && began.elapsed() < PATIENCE, "{over:?}: {}", up.said());
            tokio::time::sleep(LOOK).await;
        }
        // The story is written at once, but this is not the place to rely on it.
        tokio::time::sleep(LOOK).await;
        eprintln!("up after {:?}", began.elapsed());
        up
    }

    /// The demo user's engine as an admission hands it out.
    async fn engine(&self) -> Engine {
        let key = fs::read_to_string(self.data().join("demo.key")).expect("the key of the demo product");
        let body = shell(
            self.folder.path(),
            &format!(
                "curl -s -X POST http://127.0.0.1:{}/engines/demo-user-001/admit -H 'X-Platform-Key: {}' -d '{{}}'",
                self.ports,
                key.trim()
            ),
        );
        let body: Value = serde_json::from_str(&body).unwrap_or_else(|e| panic!("{e}: {body}"));
        assert_eq!(body["admitted"], true, "{body}");
        Engine::of(&body["engine"])
    }

    /// Takes away what PostgreSQL cannot start without; what runs does not notice.
    fn break_cluster(&self) {
        let file = self.cluster().join("global/pg_control");
        fs::rename(&file, file.with_extension("away")).expect("ours");
    }

    fn mend_cluster(&self) {
        let file = self.cluster().join("global/pg_control");
        fs::rename(file.with_extension("away"), &file).expect("ours");
    }

    /// Is a request that needs the database answered?
    fn answers(&self) -> bool {
        let ask = Command::new("curl")
            .args(["-sf", "-o", "/dev/null", "--max-time", "10", "-H"])
            .arg(format!("@{}", self.data().join("admin.header").display()))
            .arg(format!("http://127.0.0.1:{}/products", self.ports))
            .status();
        ask.expect("there is curl").success()
    }

    /// Engines of this directory.
    fn serving(&self) -> Vec<i32> {
        process::engines_in(&self.data().join("engines"))
    }

    /// Is the demo user admitted?
    fn admits(&self) -> bool {
        let ask = Command::new("curl")
            .args(["-s", "--max-time", "10", "-X", "POST", "-d", "{}", "-H"])
            .arg(format!("@{}", self.data().join("demo.header").display()))
            .arg(format!("http://127.0.0.1:{}/engines/demo-user-001/admit", self.ports))
            .output();
        String::from_utf8_lossy(&ask.expect("there is curl").stdout).contains("\"admitted\":true")
    }

    /// Everything alive that belongs to this directory, PostgreSQL included.
    fn alive(&self) -> Vec<i32> {
        let mut found = told_of(self.folder.path());
        let homes =
            [self.data(), fs::canonicalize(self.data().join("postgres")).unwrap_or_else(|_| self.data())];
        let homes = homes.map(|home| home.display().to_string());
        found.extend(process::all().into_iter().filter(|pid| {
            let arguments = process::arguments(*pid).join(" ");
            arguments.contains("postgres") && homes.iter().any(|home| arguments.contains(home.as_str()))
        }));
        found.retain(|pid| process::state(*pid).is_some_and(|state| state != 'Z'));
        found
    }
}

impl Drop for Laptop {
    fn drop(&mut self) {
        for pid in self.alive() {
            if let Some(pid) = rustix::process::Pid::from_raw(pid) {
                let _ = rustix::process::kill_process(pid, Signal::KILL);
            }
        }
        // Where root's server keeps its files because its user cannot look into this directory.
        if let Ok(away) = fs::read_link(self.data().join("postgres")) {
            let _ = fs::remove_dir_all(away);
        }
    }
}

impl Up {
    fn said(&self) -> String {
        fs::read_to_string(&self.out).unwrap_or_default()
    }

    async fn interrupt(mut self) -> ExitStatus {
        signal(i32::try_from(self.child.id()).expect("a pid"), Signal::INT);
        ended(&mut self.child).await
    }

    /// As [`Up::interrupt`], with everything it said.
    async fn interrupted(mut self) -> (ExitStatus, String) {
        signal(i32::try_from(self.child.id()).expect("a pid"), Signal::INT);
        let status = ended(&mut self.child).await;
        (status, self.said())
    }

    async fn kill(mut self) {
        self.child.kill().expect("our own child");
        ended(&mut self.child).await;
    }

    /// The commands a person copies: lines that stand four places in, with the lines that go on.
    fn commands(&self) -> Vec<String> {
        let (said, mut commands) = (self.said(), Vec::<String>::new());
        let mut goes_on = false;
        for line in said.lines() {
            if goes_on {
                let command = commands.last_mut().expect("it began");
                command.push('\n');
                command.push_str(line);
            } else if line.starts_with("    ") {
                commands.push(line.to_owned());
            } else {
                continue;
            }
            goes_on = line.ends_with('\\');
        }
        commands
    }

    /// Waits until it has said this so often.
    async fn says(&self, words: &str, times: usize) {
        let enough = || self.said().matches(words).count() >= times;
        if tokio::time::timeout(process::PATIENCE, async {
            while !enough() {
                tokio::time::sleep(process::LOOK).await;
            }
        })
        .await
        .is_err()
        {
            panic!("it never said {words:?}, only:\n{}", self.said());
        }
    }

    /// How it ended without being asked, with everything it said.
    async fn gives_up(mut self) -> (ExitStatus, String) {
        let status = ended(&mut self.child).await;
        (status, self.said())
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Has a shell run a line as it stands.
fn shell(directory: &Path, line: &str) -> String {
    let output =
        Command::new("sh").arg("-c").arg(line).env_clear().env("PATH", PATH).current_dir(directory).output();
    let output = output.expect("there is a shell");
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).permissions().mode() & 0o777
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn up_works_without_network_docker_or_keys() {
    let laptop = Laptop::new();
    let up = laptop.up().await;
    let commands = up.commands();
    assert_eq!(commands.len(), 4, "{commands:#?}");
    shell(laptop.folder.path(), &commands[0]);
    let streamed = shell(laptop.folder.path(), &commands[1]);
    assert!(
        streamed.contains("event: tool_call") && streamed.contains("\"phase\":\"completed\""),
        "{streamed}"
    );
    let products: Value = serde_json::from_str(&shell(laptop.folder.path(), &commands[2])).expect("JSON");
    assert_eq!(
        (&products["products"][0]["slug"], &products["products"][0]["engines"]),
        (&"demo".into(), &1.into())
    );

    // The rest of the command line knows this fleet by the file that is printed.
    let (asked, word) = commands[3].trim().rsplit_once(' ').expect("words");
    assert_eq!(word, "status", "{commands:#?}");
    for (command, wanted) in [
        ("status", "1"),
        ("engines list", "demo-user-001"),
        ("explain demo/demo-user-001", "running"),
        ("doctor", "is served by this fleet"),
        ("products list", "demo"),
    ] {
        let told = shell(laptop.folder.path(), &format!("{asked} {command}"));
        assert!(told.contains(wanted), "{command}: {told}");
    }
    assert!(!laptop.folder.path().join("admitted.json").exists(), "a key lies outside the data directory");

    let data = laptop.data();
    assert_eq!((mode(&data), mode(&data.join("engines"))), (0o700, 0o700));
    for file in ["keys.env", "demo.key", "fleet.env", "demo.header", "admin.header", "admitted.json"] {
        assert_eq!(mode(&data.join(file)), 0o600, "{file}");
    }
    let secrets = fs::read_to_string(data.join("keys.env")).expect("keys");
    let mut secrets: Vec<&str> = secrets.lines().filter_map(|line| Some(line.split_once('=')?.1)).collect();
    let demo = fs::read_to_string(data.join("demo.key")).expect("a key");
    let engine = laptop.engine().await;
    secrets.extend([demo.trim(), engine.key.as_str()]);
    assert_eq!(secrets.len(), 4);
    let told = up.said();
    for secret in secrets {
        assert!(secret.len() > 20 && !told.contains(secret), "a key is printed");
    }
    let (status, said) = up.interrupted().await;
    assert_eq!(status.code(), Some(0));
    assert_eq!(laptop.alive(), [0; 0], "Ctrl-C stops everything");
    assert!(!data.join("api.url").exists(), "others may listen there by now");
    assert!(said.contains("nothing of this fleet runs any more"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn up_twice_is_refused() {
    let laptop = Laptop::new();
    let up = laptop.up().await;
    let mut second = laptop.command();
    second.stdout(Stdio::piped()).stderr(Stdio::piped());
    let second =
        tokio::task::spawn_blocking(move || second.output()).await.expect("no panic").expect("it runs");
    let said =
        String::from_utf8_lossy(&second.stdout).into_owned() + &String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(3), "{said}");
    assert!(said.contains("another `bap-engine up` runs on"), "{said}");
    laptop.engine().await.turn("thread-1", "hello").await;
    assert_eq!(up.interrupt().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_up_finds_everything_as_it_was() {
    let laptop = Laptop::new();
    let up = laptop.up().await;
    let engine = laptop.engine().await;
    engine.turn("thread-1", "hello").await;
    let keys = ["keys.env", "demo.key"].map(|file| fs::read(laptop.data().join(file)).expect("a key file"));
    assert_eq!(up.interrupt().await.code(), Some(0));
    assert_eq!(laptop.alive(), [0; 0]);

    let up = laptop.up().await;
    let again = laptop.engine().await;
    assert_eq!((&again.id, &again.key, &again.url), (&engine.id, &engine.key, &engine.url));
    assert_eq!(again.texts("thread-1").await.len(), 2);
    assert_eq!(
        keys,
        ["keys.env", "demo.key"].map(|file| fs::read(laptop.data().join(file)).expect("a key file"))
    );
    assert_eq!(up.interrupt().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_of_up_ends_its_postgres_and_the_next_up_takes_over_its_engines() {
    let laptop = Laptop::new();
    let up = laptop.up().await;
    let engine = laptop.engine().await;
    engine.turn("thread-1", "hello").await;
    let serving = laptop.serving();
    assert_eq!(serving.len(), 1, "{serving:?}");
    up.kill().await;
    let only_the_engine = async || laptop.alive() == serving;
    process::until("PostgreSQL has ended with it", only_the_engine).await;
    let up = laptop.up().await;
    assert_eq!(laptop.serving(), serving, "the engine went on");
    assert_eq!(laptop.engine().await.texts("thread-1").await.len(), 2);
    assert_eq!(up.interrupt().await.code(), Some(0));
    assert_eq!(laptop.alive(), [0; 0]);
}

/// Nobody has reached the database: it still stops, or it is not there. The engines are found all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ctrl_c_before_the_database_is_reached_stops_the_engines_of_a_killed_up() {
    let laptop = Laptop::new();
    let up = laptop.up().await;
    laptop.engine().await.turn("thread-1", "hello").await;
    let serving = laptop.serving();
    assert_eq!(serving.len(), 1, "{serving:?}");
    // It is told to stop when `up` dies, and cannot without its last checkpoint. The server itself would not stay
    // frozen: the kernel continues a stopped group that loses its parent.
    let server = process::child(laptop.postmaster(), "checkpointer");
    signal(server, Signal::STOP);
    up.kill().await;
    let mut kept = laptop.command();
    kept.arg("--keep-engines");
    let kept = laptop.begin_as(kept);
    kept.says("of an earlier `up` still stops", 1).await;
    let (status, said) = kept.interrupted().await;
    assert_eq!((status.code(), laptop.serving()), (Some(0), serving), "{said}");

    let next = laptop.begin();
    next.says("of an earlier `up` still stops", 1).await;
    let (status, said) = next.interrupted().await;
    assert_eq!((status.code(), laptop.serving()), (Some(0), vec![]), "{said}");
    assert!(!said.contains("\"ERROR\"") && !said.contains(" ERROR "), "{said}");
    signal(server, Signal::CONT);
    process::until("PostgreSQL has ended", async || laptop.alive().is_empty()).await;

    // The database did not hear of it, and still the engine runs again before anything is told.
    let up = laptop.up().await;
    assert!(!up.said().contains("did not come up"), "{}", up.said());
    assert_eq!(laptop.serving().len(), 1);
    assert_eq!(laptop.engine().await.texts("thread-1").await.len(), 2, "nothing is lost");
    up.kill().await;
    let mut elsewhere = laptop.command();
    elsewhere.env("ORCH_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none?sslmode=disable");
    let elsewhere = laptop.begin_as(elsewhere);
    elsewhere.says("the database does not answer", 1).await;
    assert_eq!(laptop.serving().len(), 1);
    let (status, said) = elsewhere.interrupted().await;
    assert_eq!((status.code(), laptop.serving()), (Some(0), vec![]), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_postgres_that_is_killed_is_started_again() {
    let laptop = Laptop::new();
    let up = laptop.up().await;
    let engine = laptop.engine().await;
    engine.turn("thread-1", "hello").await;
    let before = laptop.postmaster();
    signal(before, Signal::KILL);
    up.says("PostgreSQL answers again", 1).await;
    assert_ne!(laptop.postmaster(), before);
    process::until("admissions work again", async || laptop.answers()).await;
    let again = laptop.engine().await;
    assert_eq!((&again.id, &again.url), (&engine.id, &engine.url));
    let (status, said) = up.interrupted().await;
    assert_eq!(status.code(), Some(0), "{said}");
    assert_eq!(laptop.alive(), [0; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ctrl_c_stops_every_engine_while_postgres_cannot_be_started() {
    let laptop = Laptop::new();
    let up = laptop.up().await;
    laptop.engine().await.turn("thread-1", "hello").await;
    laptop.break_cluster();
    signal(laptop.postmaster(), Signal::KILL);
    up.says("starting it again", 2).await;
    let (_, said) = up.interrupted().await;
    assert_eq!(laptop.alive(), [0; 0], "{said}");

    laptop.mend_cluster();
    let up = laptop.up().await;
    // The database did not hear of the stop: to it the engine died, and is started again.
    process::until("the engine is back", async || !laptop.serving().is_empty() && laptop.admits()).await;
    assert_eq!(laptop.engine().await.texts("thread-1").await.len(), 2, "nothing is lost");
    assert_eq!(up.interrupt().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_postgres_that_cannot_be_started_ends_everything_and_says_what_to_do() {
    let laptop = Laptop::new();
    let up = laptop.up().await;
    laptop.break_cluster();
    signal(laptop.postmaster(), Signal::KILL);
    process::until("a refused request", async || !laptop.answers()).await;
    for _ in 0..50 {
        laptop.answers();
    }
    let (status, said) = up.gives_up().await;
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("PostgreSQL cannot be kept running") && said.contains("postgres.log"), "{said}");
    assert_eq!(said.matches("starting it again").count(), 5, "{said}");
    let told =
        said.lines().filter(|l| l.contains("orchestrator.telemetry") && l.contains("cannot be reached"));
    assert!(told.count() <= 6, "one line for many refusals: {said}");
    assert_eq!(laptop.alive(), [0; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn up_waits_for_the_postgres_of_a_killed_up() {
    let laptop = Laptop::new();
    let up = laptop.up().await;
    let server = laptop.postmaster();
    // It is told to stop when `up` dies, and cannot: its last checkpoint takes long.
    let checkpointer = process::child(server, "checkpointer");
    signal(checkpointer, Signal::STOP);
    up.kill().await;
    let mut next = laptop.begin();
    next.says("of an earlier `up` still stops", 1).await;
    assert_eq!(next.child.try_wait().expect("our own child"), None);
    signal(checkpointer, Signal::CONT);
    next.says("Operators look at the fleet", 1).await;
    assert_ne!(laptop.postmaster(), server);
    assert_eq!(next.interrupt().await.code(), Some(0));
    assert_eq!(laptop.alive(), [0; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_keys_never_take_over_an_old_database() {
    let laptop = Laptop::new();
    let up = laptop.up().await;
    let first = laptop.cluster();
    assert_eq!(up.interrupt().await.code(), Some(0));
    let keys = laptop.data().join("keys.env");
    let kept = fs::read(&keys).expect("keys");
    fs::remove_file(&keys).expect("ours");
    let (status, said) = laptop.begin().gives_up().await;
    assert_eq!(status.code(), Some(3), "{said}");
    let home = first.parent().expect("it lies somewhere").display().to_string();
    assert!(said.contains(&format!("rm -r {home}")) && said.contains("Put keys.env back"), "{said}");
    assert!(!keys.exists(), "none were made");

    // Started anew: nothing of the old one is found.
    fs::remove_dir_all(laptop.data()).expect("ours");
    let up = laptop.up().await;
    assert_ne!(fs::read(&keys).expect("keys"), kept);
    assert!(up.said().contains(&format!("The database lies in {}", laptop.cluster().display())));
    assert_eq!(up.interrupt().await.code(), Some(0));
    if laptop.cluster() != first {
        fs::remove_dir_all(home).expect("ours");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_demo_engine_that_does_not_come_up_does_not_stop_the_fleet() {
    let laptop = Laptop::new();
    let engine = laptop.folder.path().join("september-engine");
    fs::write(&engine, "#!/bin/sh\necho 'no such model' >&2\nexit 2\n").expect("a file");
    fs::set_permissions(&engine, fs::Permissions::from_mode(0o755)).expect("ours");
    let mut command = laptop.command();
    command.env("ORCH_ENGINE_BINARY", &engine);
    let mut up = laptop.begin_as(command);
    up.says("Operators look at the fleet", 1).await;
    assert_eq!(up.child.try_wait().expect("our own child"), None);
    let said = up.said();
    assert!(said.contains("The demo user's engine did not come up"), "{said}");
    let log = said.split_once("Read ").and_then(|(_, rest)| rest.split_once(',')).expect("a log is named").0;
    assert!(fs::read_to_string(log).expect("it is there").contains("no such model"), "{log}");
    assert!(laptop.answers(), "it serves all the same");
    let explain = up.commands().into_iter().find(|c| c.contains(" explain ")).expect("it is printed");
    assert!(shell(laptop.folder.path(), &explain).contains("failed"));
    assert_eq!(up.interrupt().await.code(), Some(0));
    assert_eq!(laptop.alive(), [0; 0]);
}
