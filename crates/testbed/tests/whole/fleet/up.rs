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

    /// Starts it and waits until it has told its story.
    async fn up(&self) -> Up {
        let out = self.folder.path().join("up.out");
        let log = File::create(&out).expect("a file");
        let mut command = self.command();
        command.stdout(log.try_clone().expect("a handle")).stderr(log);
        let mut up = Up { child: command.spawn().expect("the program starts"), out };
        let began = Instant::now();
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

    async fn kill(mut self) {
        self.child.kill().expect("our own child");
        ended(&mut self.child).await;
    }

    /// The commands a person copies: what begins with `curl`, with the lines that go on.
    fn commands(&self) -> Vec<String> {
        let (said, mut commands) = (self.said(), Vec::<String>::new());
        let mut goes_on = false;
        for line in said.lines() {
            if goes_on {
                let command = commands.last_mut().expect("it began");
                command.push('\n');
                command.push_str(line);
            } else if line.trim_start().starts_with("curl ") {
                commands.push(line.to_owned());
            } else {
                continue;
            }
            goes_on = line.ends_with('\\');
        }
        commands
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
    assert_eq!(commands.len(), 3, "{commands:#?}");
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

    let data = laptop.data();
    assert_eq!((mode(&data), mode(&data.join("engines"))), (0o700, 0o700));
    for file in ["keys.env", "demo.key"] {
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
    assert_eq!(up.interrupt().await.code(), Some(0));
    assert_eq!(laptop.alive(), [0; 0], "Ctrl-C stops everything");
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
    let serving = process::engines_in(&laptop.data().join("engines"));
    assert_eq!(serving.len(), 1, "{serving:?}");
    up.kill().await;
    let only_the_engine = async || laptop.alive() == serving;
    process::until("PostgreSQL has ended with it", only_the_engine).await;
    let up = laptop.up().await;
    assert_eq!(process::engines_in(&laptop.data().join("engines")), serving, "the engine went on");
    assert_eq!(laptop.engine().await.texts("thread-1").await.len(), 2);
    assert_eq!(up.interrupt().await.code(), Some(0));
    assert_eq!(laptop.alive(), [0; 0]);
}
