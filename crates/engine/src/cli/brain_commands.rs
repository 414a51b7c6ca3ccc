//! The commands that work on the brain file: backup, restore, verify, migrate, vacuum.
//!
//! Each calls one function of `brain` and tells a person (or, with --json, a program) what came of it.
//! backup, verify and a dry run read beside a running Engine; the others take the brain's lock.

use super::{Exit, emit, emit_json};
use crate::config::{self, Config};
use brain::backup::{self, BackupError, OnExisting, Reason};
use brain::lock::{self, LockGuard};
use brain::memory::index;
use brain::retention::{self, Policy};
use brain::{
    Brain, MigrationMode, OpenError, OpenOptions, migrate as migration, restore as restoration,
    verify as verification,
};
use chassis::terminal;
use contract::Timestamp;
use serde_json::json;
use std::path::{Path, PathBuf};

/// How a brain is opened with this configuration.
pub fn open_options(config: &Config) -> OpenOptions {
    OpenOptions {
        generation: config.brain_generation.map(|g| i64::try_from(g).unwrap_or(i64::MAX)),
        allow_unsafe_fs: config.brain_allow_unsafe_fs,
        lock_wait: config.brain_lock_wait_s,
        backup_dir: config.backup_dir.clone(),
        migrations: match config.migrations {
            config::MigrationMode::Auto => MigrationMode::Auto,
            config::MigrationMode::Gate => MigrationMode::Gate,
        },
        engine_version: env!("CARGO_PKG_VERSION").to_owned(),
        ..OpenOptions::at(&config.sqlite_db_path)
    }
}

/// The exit code that goes with a refusal to open.
pub fn exit_of(error: &OpenError) -> Exit {
    match error {
        OpenError::Locked { .. } | OpenError::Fenced { .. } | OpenError::UnsafeFilesystem { .. } => {
            Exit::Locked
        }
        OpenError::MigrationRequired { .. }
        | OpenError::MigrationChanged { .. }
        | OpenError::MigrationFailed { .. }
        | OpenError::Corrupt { .. }
        | OpenError::NotABrain(_) => Exit::Problems,
        OpenError::NoDirectory(_)
        | OpenError::NotWritable { .. }
        | OpenError::OldSqlite { .. }
        | OpenError::Io { .. } => Exit::Failure,
    }
}

fn refused(error: &OpenError) -> Exit {
    exit_of(error).because(&error.to_string())
}

/// `backup [file]`.
pub fn backup(config: &Config, file: Option<PathBuf>, json: bool) -> Exit {
    let to = match file {
        Some(file) => file,
        None => {
            if let Err(error) = backup::make_dir(&config.backup_dir) {
                return Exit::fail(&error.to_string());
            }
            config.backup_dir.join(backup::file_name(Reason::Asked, Timestamp::now()))
        }
    };
    match backup::online(&config.sqlite_db_path, &to, OnExisting::Refuse) {
        Ok(report) if json => emit_json(&report),
        Ok(report) => emit(&format!(
            "{}\n{}, schema {}, verified, {}\n",
            report.path.display(),
            terminal::bytes(report.bytes),
            report.schema_version,
            terminal::duration(report.duration_ms)
        )),
        Err(error) => backup_failed(&error),
    }
}

fn backup_failed(error: &BackupError) -> Exit {
    let exit = match error {
        BackupError::NotSound(_) => Exit::Problems,
        BackupError::NoRoom { .. } | BackupError::Exists(_) | BackupError::Failed { .. } => Exit::Failure,
    };
    exit.because(&error.to_string())
}

/// `restore <file>`.
pub fn restore(config: &Config, file: &Path, json: bool) -> Exit {
    let options = open_options(config);
    let guard = match lock(&options) {
        Ok(guard) => guard,
        Err(error) => return refused(&error),
    };
    match restoration::run(&options, file, &guard) {
        Ok(report) if json => emit_json(&report),
        Ok(report) => {
            let mut text = format!(
                "restored {} from {}, schema {}\n",
                report.brain.display(),
                report.source.display(),
                report.schema_version
            );
            if let Some(replaced) = &report.replaced {
                text.push_str(&format!("the brain before is kept as {}\n", replaced.display()));
            }
            if let Some(why) = &report.replaced_unreadable {
                text.push_str(&format!(
                    "it could not be read ({why}), so event numbers start again at {}; clients must not resume by \
                     Last-Event-ID from before\n",
                    report.next_seq
                ));
            }
            text.push_str("start the Engine again: september-engine serve\n");
            emit(&text)
        }
        Err(restoration::RestoreError::Backup(error)) => backup_failed(&error),
        Err(restoration::RestoreError::Open(error)) => refused(&error),
        Err(error @ restoration::RestoreError::Newer { .. }) => Exit::Problems.because(&error.to_string()),
    }
}

/// `verify [file]`.
pub fn verify(config: &Config, file: Option<PathBuf>, json: bool) -> Exit {
    let path = file.unwrap_or_else(|| config.sqlite_db_path.clone());
    let report = match verification::run(&path, brain::schema::MIGRATIONS) {
        Ok(report) => report,
        Err(error) => return refused(&error),
    };
    let exit = if report.ok { Exit::Success } else { Exit::Problems };
    if json {
        emit_json(&report);
        return exit;
    }
    let mut text =
        format!("{} · schema {} · SQLite {}\n", path.display(), report.schema_version, report.sqlite_version);
    for finding in &report.findings {
        text.push_str(&format!("✗ {}: {}\n", finding.check, terminal::clean(&finding.detail)));
    }
    let rows: u64 = report.tables.values().sum();
    if report.ok {
        text.push_str(&format!("✓ sound: {} tables, {} rows\n", report.tables.len(), terminal::number(rows)));
    } else {
        text.push_str(&format!(
            "{} problem(s); keep the file, and put a backup in its place: september-engine restore <file>\n",
            report.findings.len()
        ));
    }
    emit(&text);
    exit
}

/// `migrate`.
pub fn migrate(config: &Config, json: bool) -> Exit {
    let options = open_options(config);
    let done = lock(&options).and_then(|guard| migration::run(options, guard));
    match done {
        Ok(report) => told(&report, "applied", json),
        Err(error) => refused(&error),
    }
}

/// `migrate --dry-run`.
pub fn rehearse(config: &Config, json: bool) -> Exit {
    match migration::dry_run(&open_options(config)) {
        Ok(report) => told(&report, "would apply", json),
        Err(error) => refused(&error),
    }
}

fn told(report: &migration::Report, verb: &str, json: bool) -> Exit {
    if json {
        return emit_json(report);
    }
    if report.applied.is_empty() {
        return emit(&format!("nothing to do: the brain has schema {}, the newest\n", report.to));
    }
    let mut text = format!("schema {} → {}\n", report.from, report.to);
    for name in &report.applied {
        text.push_str(&format!("  {verb} {name}\n"));
    }
    if let Some(snapshot) = &report.snapshot {
        text.push_str(&format!("the brain before is kept as {}\n", snapshot.display()));
    }
    emit(&text)
}

/// `vacuum [--rebuild-fts]`.
pub fn vacuum(config: &Config, rebuild_fts: bool, json: bool) -> Exit {
    if let Err(exit) = there_is_a_brain(config) {
        return exit;
    }
    // Cleaning up is no reason to migrate: an older brain is refused with the command to run.
    let options = OpenOptions { migrations: MigrationMode::Gate, ..open_options(config) };
    let brain = match Brain::open(options) {
        Ok(brain) => brain,
        Err(error) => return refused(&error),
    };
    let days = config.observability_retention_days.as_secs() / 86_400;
    let learned = config.trajectory_retention_days.as_secs() / 86_400;
    let policy = Policy {
        observability_days: u32::try_from(days).unwrap_or(u32::MAX),
        trajectory_days: u32::try_from(learned).unwrap_or(u32::MAX),
    };
    let (before, _) = brain.file_sizes();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Exit::fail(&format!("could not start: {error}")),
    };
    let done = runtime.block_on(async {
        let removed = retention::run_once(&brain, Timestamp::now(), policy).await?;
        let rebuilt = match rebuild_fts {
            true => index::rebuild(&brain).await?,
            false => Vec::new(),
        };
        brain.vacuum().await?;
        Ok::<_, brain::Error>((removed, rebuilt))
    });
    brain.close();
    let (after, _) = brain.file_sizes();
    match done {
        Ok((removed, rebuilt)) if json => emit_json(
            &json!({"removed": removed, "rebuilt": rebuilt, "bytes_before": before, "bytes_after": after}),
        ),
        Ok((removed, rebuilt)) => emit(&format!(
            "{} → {}\nremoved {} events, {} notes, {} observability events, {} blobs; summed {} usage rows\n{}",
            terminal::bytes(before),
            terminal::bytes(after),
            removed.events,
            removed.working_memory,
            removed.observability_events,
            removed.blobs,
            removed.usage_rows_summed,
            rebuilt.iter().map(|index| format!("made anew: {index}\n")).collect::<String>()
        )),
        Err(error) => Exit::fail(&error.to_string()),
    }
}

/// The lock, after a look at the place: a lock file must not be left where no brain may be.
fn lock(options: &OpenOptions) -> Result<LockGuard, OpenError> {
    brain::check_place(options)?;
    lock::acquire(&options.path, options.lock_wait)
}

fn there_is_a_brain(config: &Config) -> Result<(), Exit> {
    if config.sqlite_db_path.exists() {
        return Ok(());
    }
    Err(Exit::fail(&format!(
        "there is no brain at {}; the first `serve` makes one, or name another with --brain",
        config.sqlite_db_path.display()
    )))
}
