//! How fast and how small the real Engine is: the release program as a process, a scripted provider on
//! loopback, the numbers as a Markdown table with the machine named.
//!
//! `cargo bench -p testbed --bench engine` (or `make bench`) measures everything. After `--`, words choose
//! parts: start, memory, spawn, first, deltas, streams, replay; `--quick` makes everything ten times smaller;
//! `--program=PATH` measures a program that is built already.
//! What each number means is told in `docs/reference/benchmarks.md`. Nothing here judges: a missed aim is
//! printed, not failed, because the machine is shared.

mod history;
mod machine;
mod process;
mod release;
mod spawn;
mod table;
mod wire;

use machine::{Disk, timed};
use process::Engine;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use table::{Aim, Sample, Table};
use testbed::model::Part;
use testbed::{Gate, Protocol, Reply, Script, ScriptedModel};
use wire::Connection;

/// Starts of a small brain that are timed; of the large one half as many.
const STARTS: usize = 40;
/// Turns whose first byte is timed.
const FIRST_BYTES: usize = 400;
/// Turns before memory is looked at again.
const TURNS: usize = 1000;
/// Deltas of one streamed answer.
const DELTAS: usize = 200_000;
/// Provider frames per write when many arrive at once, as they do when a fast model is read over a network:
/// about what one TLS record or two network packets hold.
const TOGETHER: usize = 16;
/// Answers streamed side by side.
const PARALLEL: usize = 8;
/// Repetitions of a throughput measurement.
const ROUNDS: usize = 5;
/// Idle streams held open.
const STREAMS: usize = 200;
/// Events of the brain with a long past; a little over 1 GB.
const EVENTS: usize = 1_000_000;
/// Quiet time before memory is looked at, so that nothing is under way.
const SETTLE: Duration = Duration::from_secs(2);

/// Everything a measurement needs.
struct Bench {
    runtime: tokio::runtime::Runtime,
    model: ScriptedModel,
    program: PathBuf,
    dir: tempfile::TempDir,
    disk: Disk,
    /// 1, or 10 with `--quick`.
    less: usize,
    table: Table,
    notes: Vec<String>,
}

fn main() {
    // The sandbox starts this program once more inside bubblewrap.
    engine::sandbox::inside::run_if_asked();
    let words: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let quick = words.iter().any(|w| w == "--quick");
    let parts: Vec<&str> = words.iter().map(String::as_str).filter(|w| !w.starts_with("--")).collect();
    let wanted = |part: &str| parts.is_empty() || parts.contains(&part);
    let given = words.iter().find_map(|w| w.strip_prefix("--program="));
    let program = given.map_or_else(release::september_engine, PathBuf::from);
    // on the disk the program was built on: where /tmp is memory, a flush would cost nothing
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let about = machine::describe(dir.path());
    let disk = machine::disk(dir.path());
    let model = runtime.block_on(ScriptedModel::start(answers()));
    let less = if quick { 10 } else { 1 };
    let mut bench =
        Bench { runtime, model, program, dir, disk, less, table: Table::default(), notes: Vec::new() };
    bench.disk();
    if wanted("start") {
        bench.small_starts();
    }
    if wanted("memory") {
        bench.memory();
    }
    if wanted("spawn") {
        let notes = spawn::measure(&bench.runtime, bench.dir.path(), bench.less, &mut bench.table);
        bench.notes.extend(notes);
    }
    if wanted("first") {
        bench.first_bytes();
    }
    if wanted("deltas") {
        bench.deltas(1, 1, "Streamed deltas, durable, one stream", Aim::None);
        bench.deltas(1, TOGETHER, "— as a fast model is read: 16 frames per write", Aim::AtLeast(50_000.0));
        bench.deltas(PARALLEL, TOGETHER, "— 8 streams side by side, together", Aim::AtLeast(50_000.0));
    }
    if wanted("streams") {
        bench.idle_streams();
    }
    if wanted("start") || wanted("replay") {
        bench.long_past(wanted("start"), wanted("replay"));
    }
    bench.model.assert_no_problems();
    println!("Machine: {about}\n\n{}", bench.table.markdown());
    for note in &bench.notes {
        println!("- {note}");
    }
    println!("- Aims missed: {}", bench.table.missed);
}

/// Ordinary turns get a short answer at once.
fn answers() -> Script {
    Script::always(Reply::text("All of this was said without any delay, in twelve short words."))
}

impl Bench {
    fn place(&self, name: &str) -> PathBuf {
        let dir = self.dir.path().join(name);
        std::fs::create_dir_all(&dir).expect("a directory");
        dir.join("brain.sqlite")
    }

    fn start(&self, brain: &Path) -> Engine {
        process::start(&self.program, brain, &self.model.base_url(Protocol::OpenAi))
    }

    fn disk(&mut self) {
        let (appended, overwritten) = (self.disk.appended.clone(), self.disk.overwritten.clone());
        self.table.row("Disk: append 8 KiB, fsync", "ms", &appended, Aim::None);
        self.table.row("Disk: overwrite 8 KiB, fdatasync", "ms", &overwritten, Aim::None);
    }

    fn small_starts(&mut self) {
        let count = (STARTS / self.less).max(3);
        let empty = Sample::of((0..count).map(|n| {
            let engine = self.start(&self.place(&format!("empty-{n}")));
            let took = engine.ready_ms;
            engine.kill();
            took
        }));
        self.table.row("Process start → /health 200, new brain", "ms", &empty, Aim::None);
        let brain = self.place("small");
        let engine = self.start(&brain);
        run_turns(&engine, "small", 100);
        engine.stop();
        let small = self.starts(&brain, count, Engine::stop, false);
        self.table.row("— existing small brain (100 turns)", "ms", &small, Aim::AtMost(15.0));
        let killed = self.starts(&brain, count, Engine::kill, false);
        self.table.row("— the same after `kill -9`", "ms", &killed, Aim::AtMost(15.0));
    }

    fn starts(&mut self, brain: &Path, count: usize, end: fn(Engine), forget: bool) -> Sample {
        let mut read = Vec::new();
        let took: Vec<f64> = (0..count)
            .map(|_| {
                if forget {
                    machine::forget(brain);
                }
                let engine = self.start(brain);
                let took = engine.ready_ms;
                read.push(engine.bytes_from_disk() as f64 / 1024.0);
                end(engine);
                took
            })
            .collect();
        if forget {
            let read = Sample::of(read).median();
            self.notes.push(format!(
                "Page cache dropped: only the brain file's pages, by `posix_fadvise`; the program itself stayed \
                 cached. A start then read {read:.0} KiB from the disk (median)."
            ));
        }
        Sample::of(took)
    }

    fn memory(&mut self) {
        let engine = self.start(&self.place("memory"));
        settle();
        let before = engine.memory();
        self.table.row(
            "Memory idle after start: RSS",
            "MiB",
            &Sample::of([before.resident]),
            Aim::AtMost(15.0),
        );
        self.table.row("— of it anonymous (heap, stacks)", "MiB", &Sample::of([before.anonymous]), Aim::None);
        let turns = TURNS / self.less;
        run_turns(&engine, "memory", turns);
        settle();
        let after = engine.memory();
        self.table.row(
            &format!("Memory idle after {turns} turns: RSS"),
            "MiB",
            &Sample::of([after.resident]),
            Aim::None,
        );
        self.table.row("— of it anonymous (heap, stacks)", "MiB", &Sample::of([after.anonymous]), Aim::None);
        engine.stop();
    }

    fn first_bytes(&mut self) {
        let engine = self.start(&self.place("first"));
        run_turns(&engine, "warm", 20);
        let mut connection = engine.connect();
        let (mut first, mut text, mut whole, mut flushes) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut flusher = machine::Flusher::new(self.dir.path());
        for number in 0..FIRST_BYTES / self.less {
            let times = timed_turn(&mut connection, &format!("first-{number}"));
            first.push(times.first_byte);
            text.push(times.first_text);
            whole.push(times.whole);
            flushes.push(flusher.flush());
        }
        let (first, flushes) = (Sample::of(first), Sample::of(flushes));
        let flush = flushes.median();
        self.notes.push(format!(
            "First byte against the disk's own flush (append, fsync) between the same turns: p50 {:.2} / {flush:.2} \
             ms = {:.1}; one commit lies before it.",
            first.median(),
            first.median() / flush
        ));
        self.table.row("POST /execute → first SSE byte", "ms", &first, Aim::AtMost(2.0));
        self.table.row(
            "— the disk's own append and fsync, between the same turns",
            "ms",
            &flushes,
            Aim::None,
        );
        self.table.row("— → first text_delta", "ms", &Sample::of(text), Aim::None);
        self.table.row("— → last byte of a twelve-word turn", "ms", &Sample::of(whole), Aim::None);
        engine.stop();
    }

    /// `streams` answers at once, with `together` provider frames per write.
    fn deltas(&mut self, streams: usize, together: usize, what: &str, aim: Aim) {
        let count = DELTAS / streams / self.less;
        let mut rates = Vec::new();
        let mut frames = 0;
        for round in 0..ROUNDS {
            let engine = self.start(&self.place(&format!("deltas-{streams}-{together}-{round}")));
            let gates: Vec<Gate> = (0..streams).map(|_| Gate::new()).collect();
            self.model.set_script(streaming(gates.clone(), count, together));
            let readers: Vec<_> = (0..streams)
                .map(|number| {
                    let mut connection = engine.connect();
                    std::thread::spawn(move || stream(&mut connection, number))
                })
                .collect();
            for gate in &gates {
                self.runtime.block_on(gate.reached());
            }
            let started = Instant::now();
            gates.iter().for_each(Gate::open);
            let mut ended = started;
            for reader in readers {
                let (at, read, characters) = reader.join().expect("a reader");
                assert_eq!(characters, count * WORD.len(), "the reply arrives whole");
                ended = ended.max(at);
                frames += read;
            }
            rates.push((count * streams) as f64 / (ended - started).as_secs_f64());
            engine.stop();
        }
        self.model.set_script(answers());
        self.notes.push(format!(
            "{streams} stream(s), {together} provider frame(s) per write: {} deltas became {} frames for the client (merged, \
             committed every 20 ms) per round.",
            count * streams,
            frames / ROUNDS
        ));
        self.table.row(what, "deltas/s", &Sample::of(rates), aim);
    }

    fn idle_streams(&mut self) {
        let engine = self.start(&self.place("streams"));
        run_turns(&engine, "idle", 20);
        settle();
        let before = engine.memory();
        let streams: Vec<Connection> = (0..STREAMS)
            .map(|n| {
                let mut connection = engine.connect();
                let target = format!("/execute/replay?follow=true&task_id=idle-{}", n % 20);
                assert_eq!(connection.ask("GET", &target, "").expect("an answer"), 200);
                assert!(connection.piece(&mut Vec::new()).expect("stored frames"));
                connection
            })
            .collect();
        settle();
        let after = engine.memory();
        let each = (after.resident - before.resident) * 1024.0 / STREAMS as f64;
        self.table.row(
            &format!("{STREAMS} idle streams: RSS they add"),
            "MiB",
            &Sample::of([after.resident - before.resident]),
            Aim::None,
        );
        self.table.row("— each", "KiB", &Sample::of([each]), Aim::None);
        drop(streams);
        engine.stop();
    }

    fn long_past(&mut self, starts: bool, replay: bool) {
        let brain = self.place("long");
        let events = EVENTS / self.less;
        let took = timed(|| self.runtime.block_on(history::write(&brain, events)));
        let size = std::fs::metadata(&brain).expect("the brain").len() as f64 / 1e9;
        self.notes.push(format!(
            "The brain with a long past: {events} events, {size:.2} GB, written in {:.0} s through the `brain` crate.",
            took / 1000.0
        ));
        let what = format!("{size:.1} GB brain, {events} events");
        if starts {
            let count = (STARTS / 2 / self.less).max(3);
            let warm = self.starts(&brain, count, Engine::stop, false);
            self.table.row(&format!("Process start → /health 200, {what}"), "ms", &warm, Aim::AtMost(50.0));
            let cold = self.starts(&brain, count, Engine::stop, true);
            self.table.row("— the same, brain not in the page cache", "ms", &cold, Aim::AtMost(50.0));
            let killed = self.starts(&brain, count, Engine::kill, false);
            self.table.row("— the same after `kill -9`", "ms", &killed, Aim::AtMost(50.0));
        }
        if replay {
            let engine = self.start(&brain);
            let mut rates = Vec::new();
            let mut bytes = Vec::new();
            for _ in 0..3 {
                let (seen, size, seconds) = replay_all(&mut engine.connect());
                assert_eq!(seen, events, "every event is replayed");
                rates.push(seen as f64 / seconds);
                bytes.push(size as f64 / 1e6 / seconds);
            }
            self.table.row("Replay of all events", "events/s", &Sample::of(rates), Aim::None);
            self.table.row("— in bytes", "MB/s", &Sample::of(bytes), Aim::None);
            let after = engine.memory();
            self.table.row("— RSS afterwards", "MiB", &Sample::of([after.resident]), Aim::None);
            engine.stop();
        }
    }
}

fn settle() {
    let until = Instant::now() + SETTLE;
    while let Some(left) = until.checked_duration_since(Instant::now()) {
        std::thread::park_timeout(left);
    }
}

/// Runs turns one after the other, each in a task of its own.
fn run_turns(engine: &Engine, prefix: &str, count: usize) {
    let mut connection = engine.connect();
    for number in 0..count {
        timed_turn(&mut connection, &format!("{prefix}-{number}"));
    }
}

/// Milliseconds after the request was sent.
struct Times {
    first_byte: f64,
    first_text: f64,
    whole: f64,
}

fn timed_turn(connection: &mut Connection, task: &str) -> Times {
    let body = format!("{{\"task_id\":\"{task}\",\"message\":\"Say twelve words.\"}}");
    let started = Instant::now();
    let since = || started.elapsed().as_secs_f64() * 1000.0;
    assert_eq!(connection.ask("POST", "/execute", &body).expect("an answer"), 200);
    let mut all = Vec::new();
    assert!(connection.piece(&mut all).expect("a first frame"));
    let first_byte = since();
    let mut first_text = None;
    loop {
        if first_text.is_none() && wire::find(&all, b"event: text_delta").is_some() {
            first_text = Some(since());
        }
        if !connection.piece(&mut all).expect("frames until the end") {
            break;
        }
    }
    assert!(wire::find(&all, b"\"phase\":\"completed\"").is_some(), "{}", String::from_utf8_lossy(&all));
    Times { first_byte, first_text: first_text.expect("a text_delta"), whole: since() }
}

/// One delta.
const WORD: &str = " word";

/// Streams wait at their gate, so that making the frames is not measured.
fn streaming(gates: Vec<Gate>, count: usize, together: usize) -> Script {
    Script::from_fn(move |request| {
        let number: usize = request.last_user_text().parse().expect("the message is a number");
        Reply::new()
            .hold(&gates[number])
            .part(Part::Text(vec![WORD.to_owned(); count]))
            .frames_per_write(together)
    })
}

/// Reads one streamed turn: when its last frame came, how many frames, how many characters.
fn stream(connection: &mut Connection, number: usize) -> (Instant, usize, usize) {
    let body = format!("{{\"task_id\":\"stream-{number}\",\"message\":\"{number}\"}}");
    assert_eq!(connection.ask("POST", "/execute", &body).expect("an answer"), 200);
    let (mut text, mut frames, mut characters, mut completed) = (Vec::new(), 0, 0, false);
    while connection.piece(&mut text).expect("frames until the end") {
        wire::frames(&mut text, |event, data| {
            frames += 1;
            if event == "text_delta" {
                let data: serde_json::Value = serde_json::from_str(data).expect("JSON");
                characters += data["text"].as_str().expect("text").len();
            }
            completed = event == "thread_lifecycle" && data.contains("\"phase\":\"completed\"");
        });
    }
    assert!(completed, "the turn completes");
    (Instant::now(), frames, characters)
}

/// Reads everything stored: events, bytes, seconds.
fn replay_all(connection: &mut Connection) -> (usize, usize, f64) {
    let started = Instant::now();
    let status = connection.ask("GET", "/execute/replay?follow=false", "").expect("an answer");
    assert_eq!(status, 200);
    let (mut lines, mut bytes, mut piece) = (0, 0, Vec::new());
    while connection.piece(&mut piece).expect("frames until the end") {
        lines += piece.iter().filter(|b| **b == b'\n').count();
        bytes += piece.len();
        piece.clear();
    }
    // id, event, data, blank
    (lines / 4, bytes, started.elapsed().as_secs_f64())
}
