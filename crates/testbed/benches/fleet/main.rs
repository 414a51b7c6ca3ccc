//! How fast and how small the orchestrator is: a replica with a real PostgreSQL in this process, engines as real
//! processes, as containers or simulated, the numbers as a Markdown table with the machine named.
//!
//! `cargo bench -p testbed --bench fleet` (or `make bench`) measures everything. After `--`, words choose parts:
//! admit, subprocess, docker, crash, large; `--quick` makes everything ten times smaller.
//! What each number means is told in `docs/reference/benchmarks.md`. Nothing here judges: a missed aim is printed,
//! not failed, because the machine is shared.

#[path = "../engine/machine.rs"]
#[allow(dead_code, reason = "shared with the engine's bench, which uses more of it")]
mod machine;
#[path = "../engine/release.rs"]
mod release;
#[path = "../engine/table.rs"]
mod table;

mod caller;
mod large;
mod places;
mod replica;

use replica::Deployment;
use std::time::Duration;
use table::{Aim, Sample, Table};

/// Admits that are timed one after the other.
const ADMITS: usize = 20_000;
/// Callers at once when throughput is measured.
const CALLERS: usize = 16;
/// How long throughput is measured, per round.
const LOAD: Duration = Duration::from_secs(3);
/// Rounds of it.
const ROUNDS: usize = 5;
/// Provisions that are timed per place.
const PROVISIONS: usize = 30;
/// Crashes that are timed.
const CRASHES: usize = 20;
/// Engines of the large fleet.
const FLEET: usize = 10_000;

/// Everything a measurement needs.
struct Bench {
    runtime: tokio::runtime::Runtime,
    less: usize,
    table: Table,
    notes: Vec<String>,
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|w| w != "--bench").collect();
    let quick = words.iter().any(|w| w == "--quick");
    let parts: Vec<&str> = words.iter().map(String::as_str).filter(|w| !w.starts_with("--")).collect();
    let wanted = |part: &str| parts.is_empty() || parts.contains(&part);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let mut bench = Bench {
        runtime: runtime.expect("a runtime"),
        less: if quick { 10 } else { 1 },
        table: Table::default(),
        notes: Vec::new(),
    };
    let dir = tempfile::tempdir().expect("a directory");
    if wanted("admit") {
        admit(&mut bench);
    }
    if wanted("subprocess") {
        places::subprocess(&mut bench);
    }
    if wanted("docker") {
        places::docker(&mut bench);
    }
    if wanted("crash") {
        places::crash(&mut bench);
    }
    if wanted("large") {
        large::measure(&mut bench);
    }
    println!("\n{}\n", machine::describe(dir.path()));
    println!("PostgreSQL 18 on the same machine, every commit flushed to the disk as in production.\n");
    println!("{}", bench.table.markdown());
    for note in &bench.notes {
        println!("- {note}");
    }
}

/// The steady path: a running engine is admitted again and again.
fn admit(bench: &mut Bench) {
    let runtime = &bench.runtime;
    let deployment = runtime.block_on(Deployment::simulated(&[]));
    let key = runtime.block_on(deployment.product());
    let admit =
        caller::request(deployment.api, "POST", "/engines/ada/admit", &key, r#"{"auto_provision":true}"#);
    assert!(
        caller::Connection::open(deployment.api).ask(&admit).contains("\"admitted\":true"),
        "the first admit"
    );

    let registry = deployment.replica.core.registry.clone();
    let before = registry.statements();
    let count = ADMITS / bench.less;
    let mut connection = caller::Connection::open(deployment.api);
    let times: Vec<f64> = (0..count).map(|_| machine::timed(|| drop(connection.ask(&admit)))).collect();
    let per_admit = (registry.statements() - before) as f64 / count as f64;
    let sample = Sample::of(times);
    bench.table.row("admit of a running engine, one caller", "ms", &sample, Aim::AtMost(0.3));
    bench.table.row("the same, 99th percentile", "ms", &Sample::of([sample.at(0.99)]), Aim::AtMost(10.0));
    bench.table.row(
        "SQL statements per admit (background included)",
        "",
        &Sample::of([per_admit]),
        Aim::AtMost(1.05),
    );

    let rounds =
        (0..ROUNDS).map(|_| caller::throughput(deployment.api, &admit, CALLERS, LOAD / bench.less as u32));
    let rates = Sample::of(rounds.collect::<Vec<f64>>());
    bench.table.row("admits per second, 16 callers on the same cores", "1/s", &rates, Aim::AtLeast(8000.0));
    runtime.block_on(deployment.end());
}
