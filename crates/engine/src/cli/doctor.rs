//! `september-engine doctor`: everything that could be wrong, in one report, with the fix beside it.
//!
//! Each check looks at one thing and never stops the others. The brain is only read, no lock is taken, and
//! the network is touched only by [`network`]. What a check finds is a [`Check`]: the same facts for people
//! and for programs.

mod network;

use super::brain_commands::open_options;
use super::{Exit, emit, emit_json};
use crate::config::{Config, Purpose};
use crate::sandbox::scrub::{Parent, ScrubMode};
use crate::sandbox::{Launcher, LauncherConfig, Limits, SandboxMode};
use brain::{filesystem, lock, migrate, shim};
use chassis::config::{Layered, Problems};
use chassis::terminal::{self, Paint};
use contract::Timestamp;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// The earliest instant a right clock can show: this version did not exist before. A later bound would
/// accuse right clocks, an earlier one would miss a clock that fell back to a firmware's default.
const EARLIEST: Timestamp = Timestamp::from_millis(1_767_225_600_000); // 2026-01-01
/// The latest plausible instant; beyond it tokens and certificates stop working. 2100-01-01.
const LATEST: Timestamp = Timestamp::from_millis(4_102_444_800_000);

/// Largest brain whose pages are all checked. Checking a larger one takes seconds to minutes, and
/// `verify` does it thoroughly.
const QUICK_CHECK_BYTES: u64 = 512 * 1024 * 1024;

/// How a thing stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Works.
    Ok,
    /// Works, but a person should know.
    Warning,
    /// Does not work.
    Error,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at.
    pub subject: String,
    /// How it stands.
    pub state: State,
    /// What was found.
    pub found: String,
    /// What to do; empty when there is nothing to do.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub fix: String,
}

impl Check {
    fn new(state: State, subject: &str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { subject: subject.to_owned(), state, found: found.into(), fix: fix.into() }
    }

    fn ok(subject: &str, found: impl Into<String>) -> Self {
        Self::new(State::Ok, subject, found, "")
    }

    fn warning(subject: &str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::new(State::Warning, subject, found, fix)
    }

    fn error(subject: &str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::new(State::Error, subject, found, fix)
    }
}

/// Looks at everything; exit 0 when nothing is broken.
pub fn run(source: &Layered, json: bool, touch_network: bool) -> Exit {
    let mut checks = Vec::new();
    configuration(source, &mut checks);
    clock(&mut checks);
    // A configuration that is wrong somewhere is still looked at with everything that can be read.
    match Config::load(source, Purpose::Tool) {
        Ok(loaded) => {
            let config = loaded.config;
            place(&config, &mut checks);
            the_brain(&config, &mut checks);
            catalog(&config, &mut checks);
            sandbox(&config, &mut checks);
            if touch_network {
                checks.extend(network::provider(&config));
            } else {
                checks.push(Check::warning("provider", "not asked (--offline)", ""));
            }
        }
        Err(_) => checks.push(Check::warning(
            "everything else",
            "not looked at, because the configuration cannot be read",
            "repair the variables above and run doctor again",
        )),
    }
    report(&checks, source, json)
}

fn report(checks: &[Check], source: &Layered, json: bool) -> Exit {
    let errors = checks.iter().filter(|c| c.state == State::Error).count();
    let warnings = checks.iter().filter(|c| c.state == State::Warning).count();
    if json {
        emit_json(
            &serde_json::json!({"ok": errors == 0, "errors": errors, "warnings": warnings, "checks": checks}),
        );
    } else {
        emit(&render(checks, Paint::stdout(source)));
    }
    if errors == 0 { Exit::Success } else { Exit::Failure }
}

fn render(checks: &[Check], paint: Paint) -> String {
    let width = checks.iter().map(|c| c.subject.chars().count()).max().unwrap_or(0);
    let mut out = String::new();
    for check in checks {
        let mark = match check.state {
            State::Ok => paint.green("✓"),
            State::Warning => paint.yellow("!"),
            State::Error => paint.red("✗"),
        };
        out.push_str(&format!("{mark} {:width$}  {}\n", check.subject, terminal::clean(&check.found)));
        if !check.fix.is_empty() {
            out.push_str(&format!(
                "  {:width$}  {}\n",
                "",
                paint.dim(&format!("→ {}", terminal::clean(&check.fix)))
            ));
        }
    }
    let count = |state: State| checks.iter().filter(|c| c.state == state).count();
    out.push_str(&match (count(State::Error), count(State::Warning)) {
        (0, 0) => "\nall is well\n".to_owned(),
        (0, warnings) => format!("\nnothing is broken, {warnings} warning(s)\n"),
        (errors, warnings) => format!("\n{errors} problem(s), {warnings} warning(s)\n"),
    });
    out
}

/// Every problem and warning that `serve` would meet.
fn configuration(source: &Layered, checks: &mut Vec<Check>) {
    let (report, problems) = match Config::load(source, Purpose::Serve) {
        Ok(loaded) => (loaded.report, Vec::new()),
        Err(Problems { problems, report }) => (report, problems),
    };
    for problem in &problems {
        let fix = match &problem.nearest {
            Some(nearest) => format!("expected {}; nearest: {nearest}", problem.expected),
            None => format!("expected {}", problem.expected),
        };
        let found = match &problem.value {
            Some(value) => format!("is `{value}`"),
            None => "is not set".to_owned(),
        };
        checks.push(Check::error(&problem.name, found, fix));
    }
    for warning in &report.warnings {
        checks.push(Check::warning(&warning.name, warning.text.clone(), ""));
    }
    if problems.is_empty() {
        let set = report.rows.iter().filter(|r| r.source != "default").count();
        checks
            .push(Check::ok("configuration", format!("valid; {set} of {} variables set", report.rows.len())));
    }
}

fn clock(checks: &mut Vec<Check>) {
    let now = Timestamp::now();
    checks.push(if (EARLIEST..LATEST).contains(&now) {
        Check::ok("clock", now.to_string())
    } else {
        Check::error(
            "clock",
            format!("shows {now}"),
            "set the system clock; certificates and expiry times depend on it",
        )
    });
}

/// The directory of the brain: there, writable, on a sound file system, with room.
fn place(config: &Config, checks: &mut Vec<Check>) {
    let dir = config.brain_dir();
    if !dir.is_dir() {
        let fix = format!("mkdir -p {}, or change SQLITE_DB_PATH", dir.display());
        checks.push(Check::error("brain directory", format!("{} does not exist", dir.display()), fix));
        return;
    }
    let writable = rustix::fs::access(&dir, rustix::fs::Access::WRITE_OK).is_ok();
    checks.push(if writable {
        Check::ok("brain directory", dir.display().to_string())
    } else {
        let fix = "give the Engine's user write access to it, or change SQLITE_DB_PATH";
        Check::error("brain directory", format!("{} cannot be written", dir.display()), fix)
    });
    checks.push(match filesystem::of(&dir) {
        Ok(filesystem::Kind::Local(name)) => Check::ok("file system", name),
        Ok(filesystem::Kind::Refused(name)) if config.brain_allow_unsafe_fs => {
            let found = format!("{name}, allowed by BRAIN_ALLOW_UNSAFE_FS");
            Check::warning("file system", found, "a brain can be damaged there; a local disk is safe")
        }
        Ok(filesystem::Kind::Refused(name)) => {
            let fix = "move the brain to a local disk, or set BRAIN_ALLOW_UNSAFE_FS=true at your own risk";
            Check::error("file system", format!("{name}: a brain can be damaged there"), fix)
        }
        Ok(filesystem::Kind::Unknown(magic)) => {
            Check::warning("file system", format!("unknown ({magic:#x})"), "make sure it is a local disk")
        }
        Err(error) => Check::warning("file system", format!("could not be found out ({error})"), ""),
    });
    let wanted = config.brain_min_free_mb.saturating_mul(1 << 20);
    checks.push(match filesystem::free_bytes(&dir) {
        Some(free) if free < wanted => Check::error(
            "disk",
            format!("{} free, below BRAIN_MIN_FREE_MB={}", terminal::bytes(free), config.brain_min_free_mb),
            "make room: new turns are refused (ENGINE_BUSY) until then",
        ),
        Some(free) => Check::ok("disk", format!("{} free", terminal::bytes(free))),
        None => Check::warning("disk", "the system does not say how much is free", ""),
    });
}

fn the_brain(config: &Config, checks: &mut Vec<Check>) {
    let path = &config.sqlite_db_path;
    holder(path, checks);
    let bytes = std::fs::metadata(path).map_or(0, |m| m.len());
    if bytes == 0 {
        checks.push(Check::ok("brain", format!("none at {} yet; the first start makes it", path.display())));
        return;
    }
    match migrate::pending(&open_options(config)) {
        Ok(pending) if pending.applied.is_empty() => {
            let found = format!("{}, schema {}, {}", path.display(), pending.to, terminal::bytes(bytes));
            checks.push(Check::ok("brain", found));
        }
        Ok(pending) => {
            let found = format!("schema {}, this Engine wants {}", pending.from, pending.to);
            let fix = "it is migrated at the next start, after a snapshot (MIGRATIONS=auto), or by `september-engine migrate`";
            checks.push(Check::warning("brain", found, fix));
        }
        Err(error) => {
            checks.push(Check::error("brain", error.to_string(), ""));
            return;
        }
    }
    fence(config, checks);
    checks.push(if bytes > QUICK_CHECK_BYTES {
        Check::ok(
            "integrity",
            format!(
                "not checked above {}; `september-engine verify` does",
                terminal::bytes(QUICK_CHECK_BYTES)
            ),
        )
    } else {
        let fix = "september-engine verify, then september-engine restore <file>";
        match shim::quick_check(path) {
            Ok(verdict) if verdict == "ok" => Check::ok("integrity", "quick check passed"),
            Ok(fault) => Check::error("integrity", fault, fix),
            Err(error) => Check::error("integrity", error.to_string(), fix),
        }
    });
    if let Some(dir) = &config.migrations_dir {
        for difference in brain::schema::differences_in(dir, brain::schema::MIGRATIONS) {
            let fix = "unset MIGRATIONS_DIR: the migrations are part of the program";
            checks.push(Check::error("MIGRATIONS_DIR", difference, fix));
        }
    }
}

/// Whether this process would be fenced off.
fn fence(config: &Config, checks: &mut Vec<Check>) {
    let stored =
        shim::generation(&config.sqlite_db_path).ok().flatten().and_then(|text| text.parse::<u64>().ok());
    if let (Some(stored), Some(given)) = (stored, config.brain_generation)
        && given < stored
    {
        let found = format!("is {given}, but the brain belongs to generation {stored}");
        let fix = "this process has been replaced and must not run; only the orchestrator raises the number";
        checks.push(Check::error("BRAIN_GENERATION", found, fix));
    }
}

/// Who holds the brain. Looking means trying, but only on a lock file that is there already.
fn holder(path: &Path, checks: &mut Vec<Check>) {
    if !lock::lock_path(path).exists() {
        checks.push(Check::ok("lock", "free"));
        return;
    }
    let free = std::fs::File::open(lock::lock_path(path)).is_ok_and(|file| {
        rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockShared).is_ok()
    });
    checks.push(match (free, lock::holder(path)) {
        (true, _) => Check::ok("lock", "free"),
        (false, Some(holder)) => {
            Check::ok("lock", format!("held by {holder}: an Engine is running on this brain"))
        }
        (false, None) => {
            Check::warning("lock", "held by a process that has not named itself", "try again in a moment")
        }
    });
}

fn catalog(config: &Config, checks: &mut Vec<Check>) {
    match crate::catalog::shelf::look(config) {
        Ok((catalog, problems)) => {
            for problem in &problems {
                let place = format!("{} {}", problem.file, problem.pointer);
                let found = format!("{}: {}", place.trim_end(), problem.why);
                let state = if problem.is_error() { State::Error } else { State::Warning };
                checks.push(Check::new(state, "catalog", found, problem.fix.clone()));
            }
            let counts = catalog.counts();
            let from = match &config.catalog_dir {
                Some(dir) => dir.display().to_string(),
                None => "built-in only (CATALOG_DIR is not set)".to_owned(),
            };
            let found = format!(
                "{from}: {} agents, {} tools, {} skills, {} servers",
                counts["agents"], counts["tools"], counts["skills"], counts["servers"]
            );
            checks.push(Check::ok("catalog", found));
        }
        Err(why) => checks.push(Check::error("catalog", why, "this is a bug of the program")),
    }
    let Some(dir) = &config.catalog_dir else { return };
    let inside = |root: &PathBuf| {
        dir.canonicalize().is_ok_and(|d| root.canonicalize().is_ok_and(|r| d.starts_with(r)))
    };
    if config.allowed_roots.iter().any(inside) {
        let fix = "keep it outside: tools could write what decides what tools may do";
        checks.push(Check::warning("catalog", "lies under ALLOWED_ROOTS", fix));
    }
}

fn sandbox(config: &Config, checks: &mut Vec<Check>) {
    let word = config.engine_sandbox.as_str();
    let Some(mode) = SandboxMode::parse(word) else { return };
    if mode == SandboxMode::Off {
        let fix = "ENGINE_SANDBOX=best-effort uses what the kernel offers";
        checks.push(Check::warning("sandbox", "off: commands are confined by rlimits only", fix));
        return;
    }
    // Best effort, so that every missing layer is listed and not only the first.
    let (scrub, limits, parent) = (ScrubMode::Strict, Limits::default(), Parent::default());
    let probe = LauncherConfig::new(SandboxMode::BestEffort, scrub, limits, parent);
    let launcher = match Launcher::detect(probe) {
        Ok(launcher) => launcher,
        Err(missing) => {
            checks.push(Check::error("sandbox", format!("{} is missing", missing.layer), missing.cause));
            return;
        }
    };
    launcher.settle();
    let fatal = launcher.fatal().map(|missing| missing.layer);
    for missing in launcher.missing() {
        // What the required layers do without is no error: one of landlock and bubblewrap is enough.
        let state = match fatal {
            Some(layer) if mode == SandboxMode::Required && layer == missing.layer => State::Error,
            Some(_) | None => State::Warning,
        };
        checks.push(Check::new(state, "sandbox", format!("{} is missing", missing.layer), missing.cause));
    }
    if !launcher.hides_the_rest() {
        let found = "commands can change mode, owner and times of files of this user outside the workspace";
        let fix = "modes and owners of the brain are put back; bubblewrap, or a user of its own in a container, \
                   leaves nothing to change";
        checks.push(Check::new(State::Warning, "sandbox", found, fix));
    }
    let network = if launcher.network_is_off() { "network off" } else { "network open" };
    let layers = launcher.layers().join(", ");
    checks.push(Check::ok("sandbox", format!("{word}: {layers}; {}, {network}", launcher.details())));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_stands_beside_its_fix() {
        let checks = [Check::ok("clock", "right"), Check::error("disk", "full", "make room")];
        assert_eq!(
            render(&checks, Paint::plain()),
            "✓ clock  right\n✗ disk   full\n         → make room\n\n1 problem(s), 0 warning(s)\n"
        );
    }
}
