//! A life of 32 days with a real Engine: what its memory is worth, and what must never come of it.
//!
//! A person tells things, takes them back, greets, reads pages that lie and give orders, and asks the same again and
//! again; every evening the Learning Centre reads the day. On four days everything is asked, with memory and without.
//! The provider is scripted ([`player`]) and knows nothing but its requests; the process, its HTTP and its brain are real.
//! `cargo test -p engine --test life -- --nocapture` prints the table of `docs/reference/life.md`.
//!
//! The invariant: the figures depend on the Engine alone; the story has no chance in it.

mod block;
mod clock;
mod player;
mod story;
mod tally;

#[path = "../it"]
mod it {
    #[expect(dead_code, reason = "the whole support of the other tests; a life needs less")]
    pub mod support;
}

use contract::Timestamp;
use it::support::{Engine, Setup};
use player::{Log, Sent, values};
use rusqlite::Connection;
use serde_json::json;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use story::{DAYS, EXAMS, TOPICS};
use tally::{Answers, Exam, Recall, Stores, Tally};
use testbed::{Protocol, ScriptedModel};

/// Least tasks of the life. Fewer days or quieter ones would let a loop stay below what is noticed.
const TASKS: usize = 300;
/// Least part of what was told that must be answered right with memory. 93 % is the least that was measured; higher fails on
/// a tie that is broken the other way, lower lets memory decay unnoticed.
const RIGHT_OF_TOLD: f64 = 0.85;
/// MEMORY_RECALL_MAX_TOKENS of the life.
const BLOCK_TOKENS: f64 = 2000.0;

/// A row of knowledge, as far as a loop would change it.
#[derive(Debug, Clone, PartialEq)]
struct Row {
    content: String,
    confidence: f64,
    confirmed: i64,
    until: Option<i64>,
}

struct Life {
    setup: Setup,
    pages: u16,
    log: Arc<Mutex<Log>>,
    tally: Tally,
    day: usize,
}

#[tokio::test]
async fn a_life_of_32_days_keeps_the_promises_of_memory() {
    let log = Arc::new(Mutex::new(Log::default()));
    let model = ScriptedModel::start(player::script(Arc::clone(&log))).await;
    let pages = strangers().await;
    let setup = Setup::speaking(&model, Protocol::OpenAi)
        .with("TOOL_NETWORK_ALLOWLIST", &format!("127.0.0.1:{pages}"))
        .with("LC_BATCH_INTERVAL_HOURS", "720")
        .with("LC_QUIET_MINUTES", "1440")
        .with("LC_TOKEN_BUDGET", "100000000");
    let mut life = Life { setup, pages, log, tally: Tally::default(), day: 1 };
    while life.day <= DAYS {
        life.lives_a_day().await;
        life.day += 1;
    }
    model.assert_no_problems();
    let tally = &life.tally;
    println!("\n{}", tally.markdown());
    let broken = &tally.broken;
    for (promise, cases) in [
        ("untrusted words are never rendered as instruction", &broken.instructions),
        ("what was answered from memory never becomes memory", &broken.loops),
        ("one statement is one row", &broken.duplicates),
        ("a closed fact is never served as present", &broken.closed),
    ] {
        assert!(
            cases.is_empty(),
            "{promise}, but {} times:\n{}",
            cases.len(),
            cases[..cases.len().min(8)].join("\n")
        );
    }
    // the promises were tried at all
    assert!(tally.tasks >= TASKS, "{} tasks", tally.tasks);
    assert!(tally.pages >= DAYS && tally.closed_ids.len() >= 10 && tally.items > 1000, "{tally:?}");
    for exam in &tally.exams {
        let told = (exam.with.asked - exam.with.untold) as f64;
        let right = exam.with.right as f64 - (exam.with.untold - exam.with.believed) as f64;
        assert!(right / told >= RIGHT_OF_TOLD, "day {}: {:?}", exam.day, exam.with);
        assert!(exam.with.right > exam.without.right && exam.without.believed == 0, "{exam:?}");
        assert_eq!(exam.with.believed, 0, "gossip is no knowledge: {:?}", exam.with);
        assert!(exam.recall.most_bytes as f64 / 3.5 <= BLOCK_TOKENS, "{:?}", exam.recall);
        assert!(exam.with.asked >= 60 && exam.recall.untrusted > 0, "{exam:?}");
    }
}

/// The pages of strangers, by number.
async fn strangers() -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let page = |axum::extract::Path(number): axum::extract::Path<usize>| async move { story::PAGES[number] };
    let app = axum::Router::new().route("/page/{number}", axum::routing::get(page));
    tokio::spawn(async move { axum::serve(listener, app).await });
    port
}

impl Life {
    async fn lives_a_day(&mut self) {
        let engine = start(&self.setup).await;
        let (day, pages) = (self.day, self.pages);
        let plan = story::day(day, |page| format!("http://127.0.0.1:{pages}/page/{page}"));
        for (at, message) in plan.said.iter().enumerate() {
            self.turn(&engine, &format!("day-{day}-{at}"), message).await;
            self.tally.tasks += 1;
            self.tally.pages += usize::from(message.starts_with("Read "));
        }
        self.learns(&engine).await;
        let before = self.knows();
        for (at, question) in plan.asked.iter().enumerate() {
            self.turn(&engine, &format!("day-{day}-asked-{at}"), question).await;
            self.tally.tasks += 1;
        }
        self.tally.asked += plan.asked.len();
        let exam = EXAMS.contains(&day);
        let mut done = Exam { day, stores: self.stores(), ..Exam::default() };
        if exam {
            (done.with, done.recall) = self.exam(&engine, "with").await;
            self.tally.asked += done.with.asked;
        }
        self.learns(&engine).await;
        self.sees_loops(&before);
        self.sees_duplicates();
        stop(engine).await;
        if exam {
            done.without = self.without_memory().await;
            self.tally.exams.push(done);
        }
        clock::a_day_passes(&mut self.brain()).expect("a day passes");
    }

    /// One task of one message; its answer.
    async fn turn(&mut self, engine: &Engine, task: &str, message: &str) -> (String, Sent) {
        // closed before the turn: what a turn closes itself it may have been shown
        let closed: HashSet<String> =
            self.strings("SELECT fact_id FROM knowledge_store WHERE valid_until <= ?1");
        let turn = engine.turn(task, message).await;
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = log.sent.pop().expect("the provider was asked");
        assert_eq!((sent.message.as_str(), log.sent.len()), (message, 0), "one first call for each turn");
        self.tally.broken.instructions.append(&mut log.instructions);
        drop(log);
        self.tally.turns += 1;
        self.tally.blocks += usize::from(sent.bytes > 0);
        self.tally.items += sent.items.len();
        for item in sent.items.iter().filter(|item| closed.contains(&item.id)) {
            self.tally.broken.closed.push(format!("day {}: {message}: {item:?}", self.day));
        }
        self.tally.closed_ids.extend(closed);
        (turn.text(), sent)
    }

    async fn exam(&mut self, engine: &Engine, name: &str) -> (Answers, Recall) {
        let day = self.day;
        let now = Timestamp::now();
        let date = |on: usize| {
            let ago = i64::try_from(day - on).expect("a few days") * clock::DAY_MS;
            now.plus_millis(-ago).to_string()[..10].to_owned()
        };
        let (mut answers, mut recall) = (Answers::default(), Recall::default());
        let junk = self.junk();
        for (at, question) in story::exam(day, date).iter().enumerate() {
            let (answer, sent) = self.turn(engine, &format!("exam-{day}-{name}-{at}"), &question.text).await;
            answers.add(question, &answer);
            recall.add(question, &sent, |item| junk.contains(&item.id));
        }
        (answers, recall)
    }

    /// The same questions to the same brain, of which nothing is recalled.
    async fn without_memory(&mut self) -> Answers {
        let copy = self.setup.path("without.sqlite");
        std::fs::copy(self.setup.brain(), &copy).expect("copied");
        let setup = self.setup.clone().with("SQLITE_DB_PATH", &copy.display().to_string());
        let engine = start(&setup.with("MEMORY_RECALL_LIMIT", "0")).await;
        let (answers, recall) = self.exam(&engine, "without").await;
        assert_eq!(recall.items, 0, "nothing is recalled");
        stop(engine).await;
        answers
    }

    /// The Learning Centre reads everything that waits.
    async fn learns(&self, engine: &Engine) {
        let started = engine.post("/learning/run", json!({})).await.ok().await;
        let id = started["batch_id"].clone();
        let status = engine.until("/learning/status", |s| s["last_batch"]["batch_id"] == id).await;
        assert_eq!(status["last_batch"]["state"], "succeeded", "{status}");
        assert_eq!(status["pending_trajectories"], 0, "{status}");
    }

    fn sees_loops(&mut self, before: &HashMap<String, Row>) {
        for (id, row) in self.knows() {
            if before.get(&id) != Some(&row) {
                let change = format!("day {}: {id}: {:?} became {row:?}", self.day, before.get(&id));
                self.tally.broken.loops.push(change);
            }
        }
    }

    fn sees_duplicates(&mut self) {
        let open = "SELECT subject_norm || ': ' || lower(content) FROM knowledge_store \
             WHERE valid_until IS NULL OR valid_until > ?1 GROUP BY content_hash HAVING count(*) > 1";
        let notes = "SELECT key || ': ' || description FROM episodes WHERE kind <> 'turn' AND occurred_at <= ?1 \
             GROUP BY kind, content_hash, occurred_at / 86400000 HAVING count(*) > 1";
        for twice in self.strings(open).into_iter().chain(self.strings(notes)) {
            self.tally.broken.duplicates.push(format!("day {}: {twice}", self.day));
        }
    }

    fn brain(&self) -> Connection {
        Connection::open(self.setup.brain()).expect("the brain")
    }

    /// One text column; `?1` is now.
    fn strings(&self, sql: &str) -> HashSet<String> {
        let brain = self.brain();
        let mut statement = brain.prepare(sql).expect(sql);
        let rows = statement.query_map([Timestamp::now().millis()], |row| row.get(0)).expect(sql);
        rows.collect::<Result<_, _>>().expect(sql)
    }

    fn knows(&self) -> HashMap<String, Row> {
        let brain = self.brain();
        let sql = "SELECT fact_id, content, confidence, last_confirmed_at, valid_until FROM knowledge_store";
        let mut statement = brain.prepare(sql).expect(sql);
        let row = |row: &rusqlite::Row<'_>| {
            let kept = Row {
                content: row.get(1)?,
                confidence: row.get(2)?,
                confirmed: row.get(3)?,
                until: row.get(4)?,
            };
            Ok((row.get(0)?, kept))
        };
        statement.query_map([], row).expect(sql).collect::<Result<_, _>>().expect(sql)
    }

    /// Ids of what is only politeness: such turns, and what was learned from them.
    fn junk(&self) -> HashSet<String> {
        let mut ids =
            self.strings("SELECT fact_id FROM knowledge_store WHERE subject = 'manners' AND ?1 > 0");
        ids.extend(self.strings(
            "SELECT episode_id FROM episodes WHERE kind = 'turn' AND ?1 > 0 AND value IN ('You are welcome.', 'I am well.')",
        ));
        ids
    }

    fn stores(&self) -> Stores {
        let brain = self.brain();
        let now = Timestamp::now().millis();
        let number = |sql: &str| brain.query_row(sql, [now], |row| row.get::<_, i64>(0)).expect(sql);
        let open = "knowledge_store WHERE (valid_until IS NULL OR valid_until > ?1)";
        let mut stores = Stores {
            episodes: number("SELECT count(*) FROM episodes WHERE ?1 > 0"),
            open: number(&format!("SELECT count(*) FROM {open}")),
            closed: number("SELECT count(*) FROM knowledge_store WHERE valid_until <= ?1"),
            untrusted: number(&format!("SELECT count(*) FROM {open} AND trust = 'untrusted'")),
            junk: number(&format!("SELECT count(*) FROM {open} AND subject = 'manners'")),
            ..Stores::default()
        };
        let trusted = self
            .strings(&format!("SELECT subject || char(10) || content FROM {open} AND trust <> 'untrusted'"));
        let mut said: BTreeMap<(&str, String), i64> = BTreeMap::new();
        for text in &trusted {
            let Some((subject, content)) = text.split_once('\n') else { continue };
            let Some(topic) = TOPICS.iter().find(|topic| topic.name == subject) else { continue };
            let Some(value) = values(content, topic).last().copied() else { continue };
            stores.about += 1;
            stores.outdated +=
                i64::from(!topic.on(self.day).is_some_and(|now| now.eq_ignore_ascii_case(value)));
            *said.entry((topic.name, value.to_lowercase())).or_default() += 1;
        }
        stores.again = said.values().map(|count| count - 1).sum();
        stores
    }
}

async fn start(setup: &Setup) -> Engine {
    let engine = setup.start().await;
    engine.expect_log("TOOL_NETWORK_ALLOWLIST");
    engine
}

async fn stop(mut engine: Engine) {
    engine.signal(rustix::process::Signal::TERM);
    assert_eq!(engine.exit_code().await, 0, "{}", engine.log());
}
