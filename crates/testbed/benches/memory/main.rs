//! How well and how fast memories are found: recall on a corpus made by rule, and the time and room of stores of up to a
//! million memories. Prints Markdown tables with the machine named.
//!
//! `cargo bench -p testbed --bench memory` measures everything but the largest stores. After `--`, words choose parts
//! (recall, speed); `--quick` asks fewer questions and leaves out all but the smallest store; `--large` adds stores of a
//! million memories; `--rows=N` and `--dim=N` measure stores of that size; `--program=PATH` also starts that
//! `september-engine` on each. What each number means is told in
//! `docs/reference/benchmarks-memory.md`. Nothing here judges: the machine is shared.

#[path = "../engine/machine.rs"]
#[allow(dead_code, reason = "shared with the engine's bench, which uses more of it")]
mod machine;
#[path = "../engine/process.rs"]
#[allow(dead_code, reason = "shared with the engine's bench, which uses more of it")]
mod process;
#[path = "../engine/table.rs"]
#[allow(dead_code, reason = "shared with the engine's bench, which uses more of it")]
mod table;

#[path = "../engine/wire.rs"]
#[allow(dead_code, reason = "shared with the engine's bench, which uses more of it")]
mod wire;

mod corpus;
mod date;
mod draw;
mod phrases;
mod recall;
mod speed;
mod store;
mod topics;
mod turn;

use speed::Size;
use table::Table;

/// Memories of the stores that are measured.
const ROWS: [usize; 2] = [10_000, 100_000];
/// The same with `--large`: 2 to 12 GB on the disk and minutes for each.
const LARGE: usize = 1_000_000;
/// Numbers of their vectors: the built-in table, a small model, a large one.
const DIMS: [usize; 3] = [256, 384, 1536];
/// Of how many questions one is asked with `--quick`.
const QUICK: usize = 10;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|w| w != "--bench").collect();
    let has = |flag: &str| words.iter().any(|w| w == flag);
    let parts: Vec<&str> = words.iter().map(String::as_str).filter(|w| !w.starts_with("--")).collect();
    let wanted = |part: &str| parts.is_empty() || parts.contains(&part);
    let quick = has("--quick");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let dir = tempfile::tempdir().expect("a directory");
    println!("{}\n", machine::describe(dir.path()));
    if wanted("recall") {
        println!("{}", recall::measure(&runtime, if quick { QUICK } else { 1 }));
    }
    if wanted("speed") {
        let value = |flag: &str| words.iter().find_map(|w| w.strip_prefix(flag)?.strip_prefix('='));
        let number = |flag: &str| value(flag).map(|n| n.parse::<usize>().expect("a number"));
        let rows = match number("--rows") {
            Some(rows) => vec![rows],
            None if quick => vec![ROWS[0]],
            None if has("--large") => ROWS.into_iter().chain([LARGE]).collect(),
            None => ROWS.to_vec(),
        };
        let dims = number("--dim").map_or_else(|| DIMS.to_vec(), |dim| vec![dim]);
        let program = value("--program").map(std::path::PathBuf::from);
        let mut table = Table::default();
        for rows in rows {
            for dim in &dims {
                speed::measure(&runtime, &mut table, Size { rows, dim: *dim }, program.as_deref());
            }
        }
        println!("{}", table.markdown());
    }
}
