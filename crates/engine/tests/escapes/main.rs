//! Ways out of the sandbox, tried in every mode this machine has: a table `attempt | mode | …`, and a failure
//! when one of them works although a layer that is there promises that it does not.
//!
//! This program is the Engine, the program inside bubblewrap and the attacker in one, so that it can be
//! copied into a container and to another user as it is. With `--here=NAME` it tries the modes where it is
//! and calls the column NAME; alone it also starts itself as nobody. Every attempt that can be tried without a
//! sandbox, as root, is: there it must work, or it would show nothing.

mod attempt;
mod calls;
mod files;
mod memory;
mod network;
mod resources;
mod world;

use attempt::{Attempt, CANARY, Control, Outcome, Promise, Root, SECRET, Scene};
use engine::sandbox::command::Network;
use engine::sandbox::scrub::{Parent, ScrubMode};
use engine::sandbox::{
    Command, Launcher, LauncherConfig, Limits, Mask, ProcessGroups, Running, SandboxMode, close_engine,
    inside,
};
use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use world::World;

/// The one test, for test runners.
const TEST: &str = "no_attempt_escapes_in_any_mode_of_this_machine";
/// Asks this program to be the attacker.
const ATTEMPT: &str = "__attempt";
/// Exit codes of the attacker; none is one that a shell or a crash would give.
const DID: i32 = 42;
const REFUSED: i32 = 43;
const CANNOT: i32 = 44;
/// The least the issue asks for.
const LEAST: usize = 60;
/// One attempt, the slowest of which waits four seconds.
const ATTEMPT_MAX: Duration = Duration::from_secs(15);
/// Attempts side by side; more only wait for the processors.
const AT_ONCE: usize = 6;
/// A user without rights; where there is no such name, the number means nobody either.
const NOBODY: u32 = 65534;

/// A copy of this program: a build may replace the file while it runs.
static OWN: OnceLock<PathBuf> = OnceLock::new();

fn copy_self(to: &Path) -> std::io::Result<()> {
    std::fs::copy("/proc/self/exe", to)?;
    std::fs::set_permissions(to, std::os::unix::fs::PermissionsExt::from_mode(0o755))
}

fn attempts() -> impl Iterator<Item = &'static Attempt> {
    files::ATTEMPTS.iter().chain(calls::ATTEMPTS).chain(network::ATTEMPTS).chain(greedy())
}

/// Those that take what others need, and so run alone.
fn greedy() -> impl Iterator<Item = &'static Attempt> {
    resources::ATTEMPTS.iter().chain(memory::ATTEMPTS)
}

fn main() -> ExitCode {
    inside::run_if_asked();
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some(ATTEMPT) => attack(args.get(1..).unwrap_or(&[])),
        Some(resources::LINGER) => {
            resources::linger();
            ExitCode::SUCCESS
        }
        Some(resources::HOP) => {
            resources::hop();
            ExitCode::SUCCESS
        }
        // What test runners ask.
        Some("--list") => {
            if !args.iter().any(|a| a == "--ignored") {
                println!("{TEST}: test");
            }
            ExitCode::SUCCESS
        }
        _ => judge(args.iter().find_map(|a| a.strip_prefix("--here="))),
    }
}

/// The hostile program.
fn attack(args: &[String]) -> ExitCode {
    let found = args.split_first().and_then(|(name, rest)| {
        let attempt = attempts().find(|a| a.name == name)?;
        Some((attempt, Scene::from_args(rest)?))
    });
    let (code, text) = match found.map(|(attempt, scene)| (attempt.act)(&scene)) {
        Some(Outcome::Did(text)) => (DID, text),
        Some(Outcome::Refused) => (REFUSED, String::new()),
        Some(Outcome::CannotTry(text)) => (CANNOT, text),
        None => (1, "no such attempt".into()),
    };
    println!("{text}");
    std::process::exit(code)
}

/// One column.
struct Mode {
    name: String,
    mode: SandboxMode,
    mask: Mask,
    /// What is in force, for deciding what is promised.
    landlock: u8,
    wrapped: bool,
}

/// One cell.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Cell {
    Held,
    Escaped(String),
    /// Nothing promises to hold it in this mode; whether it worked.
    NotPromised(bool),
    CannotTry(String),
    /// Without a sandbox: it works, as it should, or not.
    Control(bool),
    NotTried,
}

impl Cell {
    fn text(&self) -> String {
        match self {
            Cell::Held => "held".into(),
            Cell::Escaped(_) => "ESCAPED".into(),
            Cell::NotPromised(true) => "open (no promise)".into(),
            Cell::NotPromised(false) => "held (no promise)".into(),
            Cell::CannotTry(_) => "cannot be tried".into(),
            Cell::Control(true) => "works".into(),
            Cell::Control(false) => "DOES NOT WORK".into(),
            Cell::NotTried => "-".into(),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [
            Cell::Held,
            Cell::Escaped("see above".into()),
            Cell::NotPromised(true),
            Cell::NotPromised(false),
            Cell::CannotTry(String::new()),
            Cell::Control(true),
            Cell::Control(false),
            Cell::NotTried,
        ]
        .into_iter()
        .find(|cell| cell.text() == text)
    }
}

type Column = BTreeMap<&'static str, Cell>;

fn judge(here: Option<&str>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime starts");
    let dir = tempfile::tempdir().expect("a directory");
    copy_self(&dir.path().join("escapes")).expect("this program can be read");
    OWN.set(dir.path().join("escapes")).expect("it is set once");
    close_engine().expect("the kernel closes this process");
    world::listen_for_signals();
    let root = rustix::process::geteuid().is_root();
    let (modes, mut absent) = modes(here, root);
    let mut columns: Vec<(String, Column)> = Vec::new();
    for mode in &modes {
        columns.push((mode.name.clone(), runtime.block_on(column(mode))));
    }
    if here.is_none() && root {
        match as_nobody() {
            Ok(more) => columns.extend(more),
            Err(why) => absent.push(("non-root".into(), why)),
        }
    }
    if here.is_none() {
        absent.push(("docker".into(), "scripts/test-docker.sh tries it in containers".into()));
    }
    print(&columns, &absent);
    let cells = || {
        columns.iter().flat_map(|(mode, column)| column.iter().map(move |(name, cell)| (mode, name, cell)))
    };
    let mut failures = 0;
    for (mode, name, cell) in cells() {
        let why = match cell {
            Cell::Escaped(why) => why.clone(),
            Cell::Control(false) => "it must work without a sandbox, else it shows nothing".into(),
            Cell::Held | Cell::NotPromised(_) | Cell::CannotTry(_) | Cell::Control(true) | Cell::NotTried => {
                continue;
            }
        };
        failures += 1;
        println!("FAILED: {name} ({mode}): {why}");
    }
    let held = cells().filter(|(_, _, cell)| **cell == Cell::Held).count();
    println!(
        "{} attempts, {} columns, {held} times held, {failures} failures",
        attempts().count(),
        columns.len()
    );
    if failures == 0 && held >= LEAST { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The modes that can be had here, and why the others cannot.
fn modes(here: Option<&str>, root: bool) -> (Vec<Mode>, Vec<(String, String)>) {
    let who = here.unwrap_or(if root { "root" } else { "non-root" });
    let plain = Mask { namespaces: true, ..Mask::default() };
    let best = SandboxMode::BestEffort;
    let wanted = [
        ("without", SandboxMode::Off, plain),
        ("", best, plain),
        ("landlock ABI 1", best, Mask { landlock_beyond: Some(1), ..plain }),
        ("no landlock", best, Mask { landlock_beyond: Some(0), ..plain }),
        ("bwrap", best, Mask::default()),
        ("bwrap, no landlock", best, Mask { landlock_beyond: Some(0), ..Mask::default() }),
    ];
    let (mut modes, mut absent) = (Vec::new(), Vec::new());
    for (name, mode, mask) in wanted {
        let title = if name.is_empty() { who.to_owned() } else { format!("{who}: {name}") };
        // Only root without a container can do everything there is to be kept from.
        if mode == SandboxMode::Off && (!root || here.is_some()) {
            continue;
        }
        let launcher = launcher(mode, mask);
        launcher.settle();
        let layers = launcher.layers();
        let has = |layer: &str| layers.iter().any(|l| l == layer);
        let wants_landlock = mode != SandboxMode::Off && mask.landlock_beyond != Some(0);
        let lacks = [
            (wants_landlock && !has("landlock"), "landlock"),
            (mode != SandboxMode::Off && !has("seccomp"), "seccomp"),
            (mode != SandboxMode::Off && !mask.namespaces && !has("bubblewrap"), "bubblewrap"),
        ];
        if let Some((_, layer)) = lacks.iter().find(|(lacks, _)| *lacks) {
            let missing = launcher.missing();
            let cause = missing.iter().find(|m| m.layer == *layer).map_or("not there", |m| &m.cause);
            absent.push((title, format!("{layer}: {cause}")));
            continue;
        }
        let abi = engine::sandbox::kernel::Landlock::detect(mask).map_or(0, |l| l.abi as u8);
        let landlock = if wants_landlock { abi } else { 0 };
        modes.push(Mode { name: title, mode, mask, landlock, wrapped: has("bubblewrap") });
    }
    (modes, absent)
}

fn launcher(mode: SandboxMode, mask: Mask) -> Launcher {
    let variables = [("PATH", "/usr/local/bin:/usr/bin:/bin"), ("CANARY_API_KEY", CANARY), ("OTHER", CANARY)];
    let parent = Parent {
        variables: variables.iter().map(|(n, v)| (n.into(), v.into())).collect(),
        secret_names: vec!["CANARY_API_KEY".into()],
    };
    // Small, so that it does not take long to reach them. Non-root processes are counted per user, and this
    // user may have others.
    let limits =
        Limits { cpu_s: 30, memory_mb: 512, max_processes: 150, max_file_mb: 4, scratch_bytes: 32 << 20 };
    let config = LauncherConfig { mask, ..LauncherConfig::new(mode, ScrubMode::Strict, limits, parent) };
    Launcher::detect(config).expect("best effort always starts")
}

async fn column(mode: &Mode) -> Column {
    let launcher = Arc::new(launcher(mode.mode, mode.mask));
    launcher.settle();
    let without = mode.mode == SandboxMode::Off;
    let (mut column, mut tasks) = (Column::new(), JoinSet::new());
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let neighbour = Arc::new(Neighbour::start(&launcher).await.expect("a command starts in every mode"));
    let alone = |attempt: &Attempt| greedy().any(|greedy| greedy.name == attempt.name);
    for attempt in attempts().filter(|a| !alone(a)) {
        if without && attempt.control == Control::No {
            column.insert(attempt.name, Cell::NotTried);
            continue;
        }
        let place = Arc::clone(&places).acquire_owned().await.expect("nobody closes it");
        let (launcher, neighbour) = (Arc::clone(&launcher), Arc::clone(&neighbour));
        tasks.spawn(async move {
            let outcome = run(&launcher, attempt, &neighbour).await;
            drop(place);
            (attempt, outcome)
        });
    }
    while let Some(done) = tasks.join_next().await {
        let (attempt, outcome) = done.expect("no attempt panics");
        column.insert(attempt.name, cell(mode, attempt, outcome));
    }
    for attempt in greedy() {
        let outcome = if without { None } else { Some(run(&launcher, attempt, &neighbour).await) };
        column.insert(attempt.name, outcome.map_or(Cell::NotTried, |outcome| cell(mode, attempt, outcome)));
        // The dead count as processes of this user until process 1 has let them go.
        tokio::task::spawn_blocking(world::wait_for_the_dead).await.expect("it only waits");
    }
    neighbour.groups.kill_all().await;
    column
}

fn cell(mode: &Mode, attempt: &Attempt, outcome: Result<(Outcome, Vec<String>), String>) -> Cell {
    match outcome {
        Ok((Outcome::CannotTry(why), _)) => Cell::CannotTry(why),
        Ok((outcome, damage)) => verdict(mode, attempt, &outcome, &damage),
        Err(why) => Cell::Escaped(format!("it could not be run: {why}")),
    }
}

fn verdict(mode: &Mode, attempt: &Attempt, outcome: &Outcome, damage: &[String]) -> Cell {
    let escaped = matches!(outcome, Outcome::Did(_)) || !damage.is_empty();
    if mode.mode == SandboxMode::Off {
        return Cell::Control(escaped);
    }
    let promised = match attempt.promise {
        Promise::Always => true,
        Promise::Files => mode.landlock > 0 || mode.wrapped,
        Promise::Signals => mode.landlock >= 6 || mode.wrapped,
        Promise::Namespace => mode.wrapped,
    };
    match (promised, escaped) {
        (true, false) => Cell::Held,
        (true, true) => Cell::Escaped(format!("{outcome:?} {damage:?}")),
        (false, open) => Cell::NotPromised(open),
    }
}

/// A command of another task, to be left alone.
struct Neighbour {
    groups: Arc<ProcessGroups>,
    running: Running,
    _world: World,
}

impl Neighbour {
    async fn start(launcher: &Launcher) -> Result<Self, String> {
        let world = World::new().map_err(|e| chain(&e))?;
        let scratch = world.base.join("data/tmp/t2");
        let workspace = world.workspace(Root::Beside).and_then(|w| w.for_task(&scratch));
        let workspace = workspace.map_err(|e| chain(&e))?;
        let groups = Arc::new(ProcessGroups::new(scratch));
        let own = OWN.get().cloned().unwrap_or_default();
        let mut command = Command::new(&own, [resources::LINGER]);
        command.env = vec![("OTHERS".into(), SECRET.into())];
        command.read = vec![own];
        let running = launcher.spawn(command, &workspace, &groups).await.map_err(|e| chain(&e))?;
        Ok(Self { groups, running, _world: world })
    }
}

async fn run(
    launcher: &Launcher,
    attempt: &Attempt,
    neighbour: &Neighbour,
) -> Result<(Outcome, Vec<String>), String> {
    let world = World::new().map_err(|e| chain(&e))?;
    let own = OWN.get().cloned().unwrap_or_default();
    let workspace = world.workspace(attempt.root).map_err(|e| chain(&e))?;
    let groups = Arc::new(ProcessGroups::new(world.base.join("data/tmp/t1")));
    let mut args = vec![ATTEMPT.to_owned(), attempt.name.to_owned()];
    let scene = world.scene(neighbour.running.pgid());
    args.extend(scene.to_args());
    let mut command = Command::new(&own, args);
    command.network = match attempt.network {
        attempt::Network::Off => Network::Off,
        attempt::Network::Proxy => Network::Proxy(scene.proxy),
    };
    command.read = vec![own];
    let running = launcher.spawn(command, &workspace, &groups).await.map_err(|e| chain(&e))?;
    let finished = running.finish(ATTEMPT_MAX, &CancellationToken::new()).await;
    groups.kill_all().await;
    let damage = tokio::task::spawn_blocking(move || world.damage()).await.map_err(|e| chain(&e))?;
    let said = finished.stdout.into_text().trim().to_owned();
    let outcome = match finished.exit_code {
        DID => Outcome::Did(said),
        CANNOT => Outcome::CannotTry(said),
        // Ended by the kernel for trying, or by the launcher for taking too much.
        REFUSED | 129.. => Outcome::Refused,
        code => return Err(format!("exit code {code}: {said} {}", finished.stderr.into_text())),
    };
    Ok((outcome, damage))
}

fn chain(error: &dyn std::error::Error) -> String {
    let cause = error.source().map(|s| format!(": {s}")).unwrap_or_default();
    format!("{error}{cause}")
}

/// The same as nobody: a copy that this user can reach, the columns read from its table.
fn as_nobody() -> Result<Vec<(String, Column)>, String> {
    let text = |e: std::io::Error| e.to_string();
    let dir = tempfile::tempdir().map_err(text)?;
    let tmp = dir.path().join("tmp");
    std::fs::create_dir(&tmp).map_err(text)?;
    for path in [dir.path(), tmp.as_path()] {
        std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).map_err(text)?;
    }
    let copy: PathBuf = dir.path().join("escapes");
    copy_self(&copy).map_err(text)?;
    let mut command = std::process::Command::new(&copy);
    command.uid(NOBODY).gid(NOBODY).arg("--here=non-root").env("TMPDIR", &tmp).current_dir(dir.path());
    let output = command.output().map_err(text)?;
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    let columns = parse(&table)
        .ok_or_else(|| format!("it wrote no table:\n{table}\n{}", String::from_utf8_lossy(&output.stderr)))?;
    // What it says about failures and missing modes belongs to this report.
    for line in table.lines().filter(|l| l.starts_with("FAILED") || l.starts_with("not had")) {
        println!("{line}");
    }
    Ok(columns)
}

fn print(columns: &[(String, Column)], absent: &[(String, String)]) {
    let width = attempts().map(|a| a.name.len()).max().unwrap_or(0);
    let widths: Vec<usize> = columns.iter().map(|(name, _)| name.len().max(17)).collect();
    let line = |first: &str, cells: Vec<String>| {
        let mut text = format!("| {first:width$} |");
        for (cell, width) in cells.iter().zip(&widths) {
            text.push_str(&format!(" {cell:width$} |"));
        }
        println!("{text}");
    };
    line("attempt", columns.iter().map(|(name, _)| name.clone()).collect());
    line(&"-".repeat(width), widths.iter().map(|w| "-".repeat(*w)).collect());
    for attempt in attempts() {
        let cell = |column: &Column| column.get(attempt.name).map_or("-".into(), Cell::text);
        line(attempt.name, columns.iter().map(|(_, column)| cell(column)).collect());
    }
    for (mode, why) in absent {
        println!("not had: {mode}: {why}");
    }
}

fn parse(table: &str) -> Option<Vec<(String, Column)>> {
    let rows: Vec<Vec<&str>> = table
        .lines()
        .filter(|l| l.starts_with("| "))
        .map(|l| l.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    let (header, rows) = rows.split_first()?;
    let mut columns: Vec<(String, Column)> =
        header.iter().skip(1).map(|name| ((*name).to_owned(), Column::new())).collect();
    for row in rows {
        let Some(attempt) = row.first().and_then(|name| attempts().find(|a| a.name == *name)) else {
            continue;
        };
        for ((_, column), text) in columns.iter_mut().zip(row.iter().skip(1)) {
            column.insert(attempt.name, Cell::parse(text)?);
        }
    }
    (!columns.is_empty()).then_some(columns)
}
