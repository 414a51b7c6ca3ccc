//! Kill the real process at random instants and look at what people would see: the same streams as if
//! nothing had happened, no effect twice, nothing stuck.

mod importing;
mod learning;
mod place;

use contract::engine_api::{IDEMPOTENCY_HEADER, KEY_HEADER, LAST_EVENT_ID_HEADER};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use testbed::model::{Pace, Protocol, Rules, Script, ScriptedModel};
use tokio::time::{Instant, timeout};

const KEY: &str = "crash-test-key";
/// Kills of the real process. The issue asks for at least 200.
const KILLS: u32 = 200;
/// Conversations at once.
const TASKS: usize = 4;
/// Longest wait for anything; reached only when something is stuck.
const STUCK: Duration = Duration::from_secs(60);

/// A frame as a client saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Frame {
    id: i64,
    event: String,
    data: String,
}

/// What all conversations and the killer share.
struct World {
    url: String,
    client: reqwest::Client,
    /// Events the client of each task has seen, so that the killer can wait for progress.
    seen: [AtomicU64; TASKS],
    /// What each client is waiting for, and since when: what is printed when one waits for too long.
    doing: [Mutex<(Instant, String)>; TASKS],
    log: PathBuf,
    over: AtomicBool,
    prompts: AtomicU64,
    finished: Mutex<Vec<Conversation>>,
}

/// One finished turn as its client saw it.
#[derive(Debug)]
struct Conversation {
    task: String,
    message: String,
    token: String,
    frames: Vec<Frame>,
}

struct Engine {
    child: Child,
}

impl Engine {
    fn start(dir: &Path, port: u16, provider: &str) -> Self {
        let log =
            std::fs::OpenOptions::new().create(true).append(true).open(dir.join("log")).expect("log file");
        let child = Command::new(env!("CARGO_BIN_EXE_september-engine"))
            .arg("serve")
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("ENGINE_API_KEY", KEY)
            .env("ENGINE_PORT", port.to_string())
            .env("SQLITE_DB_PATH", dir.join("brain.sqlite"))
            .env("LLM_BASE_URL", provider)
            .env("LLM_MODEL", "scripted")
            .stdout(Stdio::from(log.try_clone().expect("log handle")))
            .stderr(Stdio::from(log))
            .spawn()
            .expect("the engine starts");
        Self { child }
    }

    /// SIGKILL; nothing of the process survives it.
    fn kill(self) {}
}

impl Drop for Engine {
    fn drop(&mut self) {
        // also when a test fails half-way: no process is left behind
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait()) {
            eprintln!("the engine could not be killed: {error}");
        }
    }
}

/// A port that stays free while the engine is dead: below the range from which the kernel gives ports to
/// other programs' connections.
fn free_port() -> u16 {
    let first = 20_000 + u16::try_from(std::process::id() % 10_000).expect("below 10,000");
    (first..32_000)
        .find(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a free port below the ephemeral range")
}

/// Frames in a byte stream cut anywhere; the rest stays in `buffer`.
fn take_frames(buffer: &mut String) -> Vec<Frame> {
    let mut frames = Vec::new();
    while let Some(end) = buffer.find("\n\n") {
        let text: String = buffer.drain(..end + 2).collect();
        let lines: Vec<&str> = text.trim_end_matches('\n').split('\n').collect();
        let [id, event, data] = lines.as_slice() else { panic!("a frame has three lines: {text:?}") };
        frames.push(Frame {
            id: id.strip_prefix("id: ").and_then(|t| t.parse().ok()).expect("id line"),
            event: event.strip_prefix("event: ").expect("event line").to_owned(),
            data: data.strip_prefix("data: ").expect("data line").to_owned(),
        });
    }
    frames
}

fn number_of(task: &str) -> usize {
    task["task-".len()..].parse().expect("task number")
}

impl World {
    fn counts(&self) -> [u64; TASKS] {
        std::array::from_fn(|n| self.seen[n].load(Ordering::Relaxed))
    }

    fn does(&self, task: &str, what: impl Into<String>) {
        *self.doing[number_of(task)].lock().expect("not poisoned") = (Instant::now(), what.into());
    }

    /// The end of the log, what every client waits for, and what the engine says of its tasks.
    async fn picture(&self) -> String {
        let mut lines: Vec<String> = Vec::new();
        for (n, doing) in self.doing.iter().enumerate() {
            let (since, what) = doing.lock().expect("not poisoned").clone();
            lines.push(format!("task-{n}: {what}, for {:?}", since.elapsed()));
        }
        let tasks = self.client.get(format!("{}/tasks", self.url)).header(KEY_HEADER, KEY).send();
        match timeout(STUCK, tasks).await {
            Ok(Ok(answer)) => lines.push(answer.text().await.unwrap_or_default()),
            other => lines.push(format!("GET /tasks: {other:?}")),
        }
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let all: Vec<&str> = log.lines().collect();
        lines.extend(all[all.len().saturating_sub(30)..].iter().map(|line| (*line).to_owned()));
        lines.join("\n")
    }

    async fn up(&self) {
        let until = Instant::now() + STUCK;
        while Instant::now() < until {
            let answer = self.client.get(format!("{}/health", self.url)).send().await;
            if answer.is_ok_and(|a| a.status().is_success()) {
                return;
            }
            tokio::task::yield_now().await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let last: Vec<&str> = log.lines().rev().take(5).collect();
        panic!("the engine did not come back; the end of its log, the last line first: {last:#?}");
    }

    /// Sends a turn and follows it through every death until its final frame.
    async fn converse(self: &Arc<Self>, task: &str, message: &str, token: &str) -> Conversation {
        let mut frames: Vec<Frame> = Vec::new();
        let until = Instant::now() + STUCK * 5;
        loop {
            assert!(
                Instant::now() < until,
                "task {task} is stuck after {} frames: {:?}",
                frames.len(),
                frames.last()
            );
            let request = match frames.last() {
                None => self
                    .client
                    .post(format!("{}/execute", self.url))
                    .header(IDEMPOTENCY_HEADER, token)
                    .json(&json!({"task_id": task, "message": message})),
                Some(last) => self
                    .client
                    .get(format!("{}/execute/replay?task_id={task}", self.url))
                    .header(LAST_EVENT_ID_HEADER, last.id.to_string()),
            };
            self.does(task, format!("sends a request, after {:?}", frames.last().map(|f| f.id)));
            let answer = request.header(KEY_HEADER, KEY).send().await;
            if let Ok(mut answer) = answer
                && answer.status().is_success()
            {
                let mut buffer = String::new();
                self.does(task, format!("reads a stream, after {:?}", frames.last().map(|f| f.id)));
                while let Ok(Ok(Some(chunk))) = timeout(STUCK, answer.chunk()).await {
                    buffer.push_str(std::str::from_utf8(&chunk).expect("frames are UTF-8 at frame ends"));
                    for frame in take_frames(&mut buffer) {
                        if frame.event == "heartbeat" {
                            continue;
                        }
                        if let Some(last) = frames.last() {
                            assert!(frame.id > last.id, "{task}: {} after {}", frame.id, last.id);
                        }
                        self.seen[number_of(task)].fetch_add(1, Ordering::Relaxed);
                        if frame.event == "hitl_request" {
                            self.prompts.fetch_add(1, Ordering::Relaxed);
                            tokio::spawn(Arc::clone(self).answer(frame.data.clone()));
                        }
                        let is_final =
                            frame.event == "thread_lifecycle" && !frame.data.contains("\"started\"");
                        frames.push(frame);
                        if is_final {
                            return Conversation {
                                task: task.into(),
                                message: message.into(),
                                token: token.into(),
                                frames,
                            };
                        }
                    }
                }
            }
            self.does(task, "waits until the engine is up");
            self.up().await;
        }
    }

    /// Answers a question until the engine has taken the answer.
    async fn answer(self: Arc<Self>, data: String) {
        let asked: Value = serde_json::from_str(&data).expect("json");
        let answer = if asked["kind"] == "permission" { "yes" } else { "forty-two" };
        let until = Instant::now() + STUCK;
        while Instant::now() < until {
            let sent = self
                .client
                .post(format!("{}/hitl/respond", self.url))
                .header(KEY_HEADER, KEY)
                .json(&json!({"request_id": asked["request_id"], "answer": answer}))
                .send()
                .await;
            match sent.map(|a| a.status().as_u16()) {
                // 409: an earlier try was committed although its answer was lost
                Ok(200 | 409) => return,
                _ => self.up().await,
            }
        }
        panic!("the answer was never taken");
    }

    async fn stored(&self, task: &str) -> Vec<Frame> {
        let answer = self
            .client
            .get(format!("{}/execute/replay?task_id={task}&follow=false", self.url))
            .header(KEY_HEADER, KEY)
            .send()
            .await
            .expect("replay answers");
        let mut text = answer.text().await.expect("replay ends");
        let frames = take_frames(&mut text);
        assert!(text.is_empty(), "a rest without an end: {text:?}");
        frames
    }
}

fn message_of(turn: u64, outside: &Path) -> (String, String) {
    let token = format!("token-{turn:05}");
    let append = |n: u32| json!({"command": format!("echo {token}-{n} >> effects.log")});
    let mut lines = vec![format!("turn {token}")];
    match turn % 4 {
        0 => lines.push("words 120".into()),
        1 => {
            lines.push(format!("call bash {}", append(1)));
            lines.push(format!("call bash {}", append(2)));
            lines.push(format!(
                "call write_file {}",
                json!({"path": format!("{token}.txt"), "content": token})
            ));
            lines.push("words 40".into());
        }
        2 => {
            let command = format!("rm -rf {}", outside.join(&token).display());
            lines.push(format!("call bash {}", json!({"command": command})));
            lines.push(format!("call bash {}", append(1)));
            lines.push("then".into());
            lines.push(format!("call bash {}", append(2)));
            lines.push("words 20".into());
        }
        _ => {
            lines.push(format!("call ask_user {}", json!({"question": format!("what for {token}?")})));
            lines.push(format!("call working_memory_write {}", json!({"key": "last", "value": token})));
            lines.push("then".into());
            lines.push(format!("call bash {}", append(1)));
            lines.push("words 30".into());
        }
    }
    (lines.join("\n"), token)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_kills_lose_no_event_repeat_no_effect_and_leave_nothing_stuck() {
    let seed: u64 = 20_260_427;
    let dir = tempfile::tempdir().expect("a directory");
    let rules = Rules::new(llm::CONTINUE_REQUEST, Pace { words: 60, pause: Duration::from_millis(2) });
    let model = ScriptedModel::start(Script::rules(rules.clone())).await;
    let provider = model.base_url(Protocol::OpenAi);
    let port = free_port();
    let world = Arc::new(World {
        url: format!("http://127.0.0.1:{port}"),
        client: llm::net::client(Duration::from_secs(2)),
        seen: std::array::from_fn(|_| AtomicU64::new(0)),
        doing: std::array::from_fn(|_| Mutex::new((Instant::now(), "nothing yet".into()))),
        log: dir.path().join("log"),
        over: AtomicBool::new(false),
        prompts: AtomicU64::new(0),
        finished: Mutex::default(),
    });
    let outside: PathBuf = dir.path().join("elsewhere");
    std::fs::create_dir(&outside).expect("a directory outside the workspace");

    let mut engine = Engine::start(dir.path(), port, &provider);
    world.up().await;
    let turns = Arc::new(AtomicU64::new(0));
    let people: Vec<_> = (0..TASKS)
        .map(|n| {
            let (world, turns, outside) = (Arc::clone(&world), Arc::clone(&turns), outside.clone());
            tokio::spawn(async move {
                while !world.over.load(Ordering::Relaxed) {
                    let (message, token) = message_of(turns.fetch_add(1, Ordering::Relaxed), &outside);
                    let done = world.converse(&format!("task-{n}"), &message, &token).await;
                    world.finished.lock().expect("not poisoned").push(done);
                }
            })
        })
        .collect();

    let mut random = StdRng::seed_from_u64(seed);
    for kill in 0..KILLS {
        if kill % 2 == 1 {
            // Three deaths in a row without any progress end a turn by design (specification 6.15), so every
            // second life is long enough for each turn to show something.
            world.up().await;
            let before = world.counts();
            let until = Instant::now() + STUCK;
            while world.counts().iter().zip(&before).any(|(now, before)| now < &(before + 2)) {
                if Instant::now() >= until {
                    panic!("no progress before kill {kill}:\n{}", world.picture().await);
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
        let life = random.random_range(0..120);
        tokio::time::sleep(Duration::from_millis(life)).await;
        engine.kill();
        engine = Engine::start(dir.path(), port, &provider);
    }
    world.over.store(true, Ordering::Relaxed);
    world.up().await;
    for person in people {
        timeout(STUCK * 5, person).await.expect("nothing is stuck").expect("no conversation failed");
    }

    let finished = std::mem::take(&mut *world.finished.lock().expect("not poisoned"));
    let mut in_doubt = 0;
    let mut calls: HashMap<String, u32> = HashMap::new();
    let stored: BTreeMap<usize, Vec<Frame>> = {
        let mut all = BTreeMap::new();
        for n in 0..TASKS {
            all.insert(n, world.stored(&format!("task-{n}")).await);
        }
        all
    };
    let effects = std::fs::read_to_string(dir.path().join("workspace/effects.log")).unwrap_or_default();
    for turn in &finished {
        let number = number_of(&turn.task);
        let first = turn.frames.first().expect("frames").id;
        let last = turn.frames.last().expect("frames").id;
        let log: Vec<Frame> =
            stored[&number].iter().filter(|f| (first..=last).contains(&f.id)).cloned().collect();
        assert_eq!(log, turn.frames, "{}: what was seen is what is stored", turn.token);
        let text = counted_text(&turn.frames);
        assert_eq!(text, rules.full_answer(&turn.message), "{}: the text of an undisturbed run", turn.token);
        assert!(turn.frames.last().is_some_and(|f| f.data.contains("\"completed\"")), "{turn:?}");
        for frame in turn.frames.iter().filter(|f| f.event == "tool_result") {
            let data: Value = serde_json::from_str(&frame.data).expect("json");
            *calls.entry(data["tool_call_id"].to_string()).or_default() += 1;
            in_doubt += u64::from(data["reason"] == "in_doubt");
        }
        let asked = turn.frames.iter().filter(|f| f.event == "hitl_request").count();
        let wanted = turn.message.matches("call ask_user").count() + turn.message.matches("rm -rf").count();
        assert_eq!(asked, wanted, "{}: every question exactly once", turn.token);
        for n in 1..=2 {
            let mark = format!("{}-{n}\n", turn.token);
            assert!(effects.matches(&mark).count() <= 1, "{mark:?} took effect twice");
            if turn.message.contains(mark.trim_end()) && !effects.contains(&mark) {
                assert!(
                    turn.frames.iter().any(|f| f.event == "tool_result" && f.data.contains("in_doubt")),
                    "{mark:?} was lost without a word"
                );
            }
        }
    }
    assert!(calls.values().all(|n| *n == 1), "every call has exactly one result");
    for n in 0..TASKS {
        let task = world
            .client
            .get(format!("{}/tasks/task-{n}", world.url))
            .header(KEY_HEADER, KEY)
            .send()
            .await
            .expect("tasks answer")
            .text()
            .await
            .expect("a body");
        assert!(task.contains("\"status\":\"idle\""), "{task}");
    }
    model.assert_no_problems();
    engine.kill();
    let log = std::fs::read_to_string(dir.path().join("log")).expect("the log");
    assert!(!log.contains("panicked"), "no panic in the log");
    println!(
        "{KILLS} kills, {} turns, {} events seen, {} questions, {in_doubt} calls in doubt, 0 lost, 0 repeated, 0 stuck",
        finished.len(),
        world.counts().iter().sum::<u64>(),
        world.prompts.load(Ordering::Relaxed),
    );
    assert!(finished.len() >= 20, "the test has to see turns end: {}", finished.len());
}

/// The reply: text deltas of blocks that were not discarded, in order.
fn counted_text(frames: &[Frame]) -> String {
    let mut blocks: BTreeMap<u64, String> = BTreeMap::new();
    for frame in frames {
        let data: Value = serde_json::from_str(&frame.data).expect("json");
        let index = data["block_index"].as_u64().unwrap_or(0);
        match frame.event.as_str() {
            "text_delta" => {
                blocks.entry(index).or_default().push_str(data["text"].as_str().unwrap_or_default())
            }
            "content_block_stop" if data["discarded"] == true => {
                blocks.remove(&index);
            }
            _ => {}
        }
    }
    blocks.into_values().collect()
}
