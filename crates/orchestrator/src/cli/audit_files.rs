//! `audit export` and `audit prune`: the log leaves the house as a file, and months that left may be dropped.
//!
//! The file appears under its name only when it is complete, with its SHA-256 beside it. A month counts as exported
//! only when it is over and all of it was written.

use super::database::Database;
use super::{Exit, Stop, emit, emit_json};
use crate::registry::Partition;
use crate::registry::rows::AuditRow;
use clap::{Args, ValueEnum};
use contract::Timestamp;
use serde_json::json;
use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// How the file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// One JSON object per line
    Jsonl,
    /// Comma-separated values with a heading
    Csv,
}

/// What to export.
#[derive(Debug, Args)]
#[command(
    after_help = "Rows of the last 60 seconds are left out. Whole months that are over are noted as exported, \
    so that `audit prune` may drop them.\n\nExample:\n  bap-engine audit export --since 2026-04-01T00:00:00Z \
    --until 2026-05-01T00:00:00Z --out audit-2026-04.jsonl"
)]
pub struct Export {
    /// Not before this time, ISO-8601
    #[arg(long, value_name = "TIME", value_parser = time)]
    since: Option<Timestamp>,
    /// Before this time, ISO-8601
    #[arg(long, value_name = "TIME", value_parser = time)]
    until: Option<Timestamp>,
    /// How to write it
    #[arg(long, default_value = "jsonl")]
    format: Format,
    /// The file; must not exist
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// What to drop.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  bap-engine audit prune --older-than 13m")]
pub struct Prune {
    /// Months that ended at least this long ago, as 13m
    #[arg(long, value_name = "MONTHS", value_parser = months)]
    older_than: u32,
    /// Also drop months that were not exported; irreversible
    #[arg(long)]
    force: bool,
}

fn time(text: &str) -> Result<Timestamp, String> {
    Timestamp::parse(text).ok_or_else(|| "expected a time as 2026-04-01T00:00:00Z".to_owned())
}

fn months(text: &str) -> Result<u32, String> {
    let number = text.strip_suffix('m').unwrap_or(text).parse().ok();
    number.filter(|&n: &u32| n >= 1).ok_or_else(|| "expected a number of months, as 13m".to_owned())
}

/// A file that is hashed while it is written.
struct Hashed<W: Write> {
    out: W,
    hash: Sha256,
}

impl<W: Write> Hashed<W> {
    fn put(&mut self, text: &str) -> std::io::Result<()> {
        self.hash.update(text.as_bytes());
        self.out.write_all(text.as_bytes())
    }
}

/// What was written of one month.
struct Month {
    partition: Partition,
    rows: i64,
    max_id: i64,
}

/// Writes the file.
pub async fn export(db: &Database, wanted: &Export, json: bool) -> Result<Exit, Stop> {
    let failed = |error: std::io::Error| Stop::failed(&format!("{}: {error}", wanted.out.display()));
    if wanted.out.exists() {
        return Err(Stop::usage(format!("{} exists already", wanted.out.display())));
    }
    let whole = |p: &Partition| {
        p.closed && wanted.since.is_none_or(|t| t <= p.from) && wanted.until.is_none_or(|t| t >= p.until)
    };
    let mut months: Vec<Month> = db
        .registry
        .partitions()
        .await?
        .into_iter()
        .filter(whole)
        .map(|partition| Month { partition, rows: 0, max_id: 0 })
        .collect();
    let temporary = beside(&wanted.out, ".part");
    let file = File::create(&temporary).map_err(failed)?;
    let mut writer = Hashed { out: BufWriter::new(file), hash: Sha256::new() };
    let mut outcome = match wanted.format {
        Format::Csv => writer.put(CSV_HEAD),
        Format::Jsonl => Ok(()),
    };
    let rows = db
        .registry
        .export(wanted.since, wanted.until, |row, recorded| {
            if let Some(month) =
                months.iter_mut().find(|m| (m.partition.from..m.partition.until).contains(&row.timestamp))
            {
                month.rows += 1;
                month.max_id = month.max_id.max(row.id);
            }
            if outcome.is_ok() {
                outcome = writer.put(&match wanted.format {
                    Format::Jsonl => jsonl(&row, recorded),
                    Format::Csv => csv(&row, recorded),
                });
            }
            if outcome.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })
        .await;
    let Hashed { out, hash } = writer;
    let written = outcome.and_then(|()| out.into_inner().map_err(std::io::IntoInnerError::into_error));
    let finished = written.and_then(|file| file.sync_all());
    if rows.is_err() || finished.is_err() {
        // What is left is incomplete and of no use to anybody.
        let _ = std::fs::remove_file(&temporary);
    }
    let rows = rows?;
    finished.map_err(failed)?;
    let sha256: String = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
    let name = wanted.out.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    std::fs::write(beside(&wanted.out, ".sha256"), format!("{sha256}  {name}\n")).map_err(failed)?;
    std::fs::rename(&temporary, &wanted.out).map_err(failed)?;
    for month in &months {
        db.registry.mark_exported(&month.partition.name, month.rows, month.max_id, &sha256).await?;
    }
    let marked: Vec<&str> = months.iter().map(|m| m.partition.name.as_str()).collect();
    if json {
        return Ok(emit_json(
            &json!({"file": wanted.out, "rows": rows, "sha256": sha256, "exported": marked}),
        ));
    }
    Ok(emit(&format!(
        "{rows} row(s) in {}, SHA-256 {sha256}; {} month(s) noted as exported\n",
        wanted.out.display(),
        marked.len()
    )))
}

/// Drops old months.
pub async fn prune(db: &Database, wanted: &Prune, json: bool) -> Result<Exit, Stop> {
    let report = db.registry.prune(wanted.older_than, wanted.force).await?;
    let exit = if report.refused.is_empty() { Exit::Done } else { Exit::Failed };
    if json {
        let _ = emit_json(&json!({"dropped": report.dropped, "refused": report.refused}));
        return Ok(exit);
    }
    let mut text = format!("dropped {} month(s)\n", report.dropped.len());
    for name in &report.dropped {
        let _ = writeln!(text, "  {name}");
    }
    if !report.refused.is_empty() {
        let _ = writeln!(
            text,
            "kept {} month(s) that were not exported; --force drops them, too",
            report.refused.len()
        );
        for name in &report.refused {
            let _ = writeln!(text, "  {name}");
        }
    }
    let _ = emit(&text);
    Ok(exit)
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

const CSV_HEAD: &str =
    "id,timestamp,recorded_at,product_id,user_id,engine_id,action,actor,metadata,duration_ms\n";

fn jsonl(row: &AuditRow, recorded: Timestamp) -> String {
    let value = json!({
        "id": row.id, "timestamp": row.timestamp, "recorded_at": recorded, "product_id": row.product_id,
        "user_id": row.user_id, "engine_id": row.engine_id, "action": row.action, "actor": row.actor,
        "metadata": row.metadata, "duration_ms": row.duration_ms,
    });
    format!("{value}\n")
}

fn csv(row: &AuditRow, recorded: Timestamp) -> String {
    let text = |value: Option<String>| value.unwrap_or_default();
    let cells = [
        row.id.to_string(),
        row.timestamp.to_string(),
        recorded.to_string(),
        text(row.product_id.map(|id| id.to_string())),
        text(row.user_id.clone()),
        text(row.engine_id.map(|id| id.to_string())),
        row.action.clone(),
        row.actor.clone(),
        row.metadata.to_string(),
        text(row.duration_ms.map(|ms| ms.to_string())),
    ];
    let quoted: Vec<String> = cells.iter().map(|cell| quote(cell)).collect();
    format!("{}\n", quoted.join(","))
}

/// A cell as RFC 4180 has it. What a spreadsheet would take for a formula gets a leading apostrophe.
fn quote(cell: &str) -> String {
    let formula = cell.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let cell = if formula { format!("'{cell}") } else { cell.to_owned() };
    if cell.contains(['"', ',', '\n', '\r']) { format!("\"{}\"", cell.replace('"', "\"\"")) } else { cell }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_quoted_and_never_run_as_formulas() {
        assert_eq!(quote("plain"), "plain");
        assert_eq!(quote("a,\"b\""), "\"a,\"\"b\"\"\"");
        assert_eq!(quote("=1+1"), "'=1+1");
        assert_eq!(quote("@x,y"), "\"'@x,y\"");
    }

    #[test]
    fn ages_are_months() {
        assert_eq!((months("13m"), months("1")), (Ok(13), Ok(1)));
        assert!(months("0m").is_err() && months("13d").is_err() && months("").is_err());
        assert!(time("2026-04-01T00:00:00.000Z").is_ok() && time("yesterday").is_err());
    }
}
