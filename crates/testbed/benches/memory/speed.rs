//! How fast a store of a given size is searched and written, what its codes take in RAM, and what they delay at start.

use crate::machine::timed;
use crate::process;
use crate::store::{self, Known, Writer};
use crate::table::{Aim, Sample, Table};
use contract::Timestamp;
use contract::memory::{EpisodeKind, Store};
use engine::memory::{By, Memory, NewEpisode, Origin, Search, Wanted};
use std::fs;
use std::path::Path;
use std::time::Instant;
use tokio::runtime::Runtime;

/// Searches that are timed, of each kind.
const SEARCHES: usize = 300;
/// Searches before the timed ones.
const WARM: usize = 20;
/// Words of a question.
const WORDS: usize = 8;
/// Items in an answer.
const LIMIT: usize = 20;
/// Single writes that are timed.
const WRITES: usize = 100;
/// Nothing listens there; the program is only started.
const NO_PROVIDER: &str = "http://127.0.0.1:9";

/// A store.
#[derive(Clone, Copy)]
pub struct Size {
    /// Memories.
    pub rows: usize,
    /// Numbers of a vector.
    pub dim: usize,
}

impl Size {
    /// The 95th percentile of a search that is aimed at, in milliseconds.
    fn aim(self) -> Aim {
        match (self.rows, self.dim) {
            (..=100_000, _) => Aim::AtMost(10.0),
            (_, ..=384) => Aim::AtMost(40.0),
            (..) => Aim::None,
        }
    }
}

/// What searches are asked.
struct Asked {
    name: &'static str,
    questions: Vec<String>,
}

/// Measures one store and forgets it.
pub fn measure(runtime: &Runtime, table: &mut Table, size: Size, program: Option<&Path>) {
    let dir = tempfile::tempdir().expect("a directory");
    let (writer, known) = (Writer::new(), Known::new(size.dim));
    let now = Timestamp::now();
    let Size { rows, dim } = size;
    let name = format!("{rows} × {dim}");

    let started = Instant::now();
    {
        let (brain, _memory) = store::open(dir.path(), &known);
        runtime.block_on(store::fill(&brain, &writer, &known, rows, now));
        brain.close();
    }
    let each = started.elapsed().as_secs_f64() * 1e6 / rows as f64;
    table.row(
        &format!("{name}: row with index and vector, many in a commit"),
        "µs",
        &Sample::of([each]),
        Aim::None,
    );
    let bytes = fs::metadata(dir.path().join("brain.sqlite")).expect("a file").len();
    let mib = |bytes: u64| bytes as f64 / 1024.0 / 1024.0;
    table.row("— the file", "MiB", &Sample::of([mib(bytes)]), Aim::None);

    let mut opened = None;
    let open = timed(|| opened = Some(store::open(dir.path(), &known)));
    let (brain, memory) = opened.expect("opened");
    table.row("— opened again", "ms", &Sample::of([open]), Aim::None);
    let first = timed(|| ask(runtime, &memory, &writer.question(rows / 2, WORDS), now, By::Both));
    table.row("— first search, before any code is in RAM", "ms", &Sample::of([first]), Aim::None);
    let before = anonymous();
    let filled = timed(|| runtime.block_on(memory.fill()).expect("codes are read"));
    table.row("— all codes read into RAM, in the background", "ms", &Sample::of([filled]), Aim::None);
    table.row(
        "— RAM that this took",
        "MiB",
        &Sample::of([mib(anonymous().saturating_sub(before))]),
        Aim::None,
    );

    let kinds = [
        Asked {
            name: "8 words of a memory",
            questions: questions(|n| writer.question(place(n, rows), WORDS)),
        },
        Asked { name: "8 common words", questions: questions(|n| writer.common(n, WORDS)) },
    ];
    for kind in kinds {
        for (n, question) in kind.questions.iter().enumerate() {
            known.learn(question, store::vector_of(place(n, rows), rows, dim));
        }
        for (by, way) in [(By::Both, "both"), (By::Words, "words alone"), (By::Vector, "vectors alone")] {
            let (warm, asked) = kind.questions.split_at(WARM);
            warm.iter().for_each(|question| ask(runtime, &memory, question, now, by));
            let before = cpu_ms();
            let times = asked.iter().map(|question| timed(|| ask(runtime, &memory, question, now, by)));
            let sample = Sample::of(times.collect::<Vec<_>>());
            let cpu = (cpu_ms() - before) / asked.len() as f64;
            table.row(&format!("— search, {}, {way}", kind.name), "ms", &sample, Aim::None);
            if by == By::Both {
                table.row("— — its 95th percentile", "ms", &Sample::of([sample.at(0.95)]), size.aim());
            }
            table.row("— — processor time, on the average", "ms", &Sample::of([cpu]), Aim::None);
        }
    }
    let writes = (0..WRITES).map(|n| {
        let wanted = note(&writer.memory(rows + n), n);
        let origin = Origin::api(0.8, String::new());
        timed(|| drop(runtime.block_on(memory.write(wanted, origin)).expect("written")))
    });
    table.row(
        "— one memory through the write gate, one commit",
        "ms",
        &Sample::of(writes.collect::<Vec<_>>()),
        Aim::None,
    );
    brain.close();
    drop((memory, brain));
    if let Some(program) = program {
        // Another embedder than the store's: it starts while all vectors are to be made anew.
        let starts = (0..5).map(|_| {
            let engine = process::start(program, &dir.path().join("brain.sqlite"), NO_PROVIDER);
            let ready = engine.ready_ms;
            engine.stop();
            ready
        });
        table.row("— process start → /health 200", "ms", &Sample::of(starts.collect::<Vec<_>>()), Aim::None);
    }
}

fn ask(runtime: &Runtime, memory: &Memory, question: &str, now: Timestamp, by: By) {
    let ask = Search { store: Store::Episodes, query: question.to_owned(), limit: LIMIT, now };
    let hits = runtime.block_on(memory.search_by(ask, by)).expect("an answer");
    assert!(hits.len() <= LIMIT, "no more than asked for");
}

fn questions(of: impl Fn(usize) -> String) -> Vec<String> {
    (0..WARM + SEARCHES).map(of).collect()
}

/// Rows all over the store.
fn place(n: usize, rows: usize) -> usize {
    n * 7919 % rows
}

fn note(text: &str, n: usize) -> Wanted {
    Wanted::Episode(NewEpisode {
        kind: EpisodeKind::Note,
        key: format!("note-{n}"),
        description: text.to_owned(),
        value: None,
        occurred_at: None,
        task_id: None,
        turn_id: None,
        position: None,
    })
}

/// Bytes of this process that are its own.
fn anonymous() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("this process");
    let line = status.lines().find_map(|l| l.strip_prefix("RssAnon:")).expect("a kernel since 4.5");
    line.split_whitespace().next().and_then(|n| n.parse::<u64>().ok()).expect("a number") * 1024
}

/// Milliseconds that all threads of this process have had a processor, in steps of ten: what a busy machine does not
/// change.
fn cpu_ms() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").expect("this process");
    let (_, fields) = stat.rsplit_once(')').expect("a name in brackets");
    let ticks =
        |n: usize| fields.split_whitespace().nth(n).and_then(|t| t.parse::<f64>().ok()).expect("a number");
    // utime and stime, the 14th and 15th field of all, in hundredths of a second.
    (ticks(11) + ticks(12)) * 10.0
}
