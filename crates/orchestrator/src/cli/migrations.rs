//! `migrate`: levels, pending SQL, and applying it.

use super::database::connect;
use super::{Exit, Stop, emit, emit_json};
use crate::config::{Settings, database_url_problem};
use chassis::config::Secret;
use chassis::terminal;
use chassis::terminal::Paint;
use clap::Args;
use serde_json::json;

/// How to migrate.
#[derive(Debug, Args)]
#[command(
    after_help = "Applies what is pending; replicas that start meanwhile wait. --database-url is for an owner of \
    the schema when the service user may not change it; a password in it is seen by every process of this machine, \
    so prefer ORCH_DATABASE_URL in the environment of this one command.\n\nExample:\n  bap-engine migrate --dry-run"
)]
pub struct Options {
    /// Only show the levels
    #[arg(long, conflicts_with = "dry_run")]
    status: bool,
    /// Only print the SQL that would be applied
    #[arg(long)]
    dry_run: bool,
    /// Another database than ORCH_DATABASE_URL
    #[arg(long, value_name = "URL")]
    database_url: Option<String>,
}

/// Migrates, or tells what would happen.
pub async fn run(settings: &Settings, options: &Options, json: bool) -> Result<Exit, Stop> {
    let url = match &options.database_url {
        Some(text) => {
            database_url_problem(text).map_err(|e| Stop::usage(format!("--database-url: expected {e}")))?;
            Some(Secret::new(text.clone()))
        }
        None => settings.database_url.clone(),
    };
    let registry = connect(url.as_ref())?;
    if options.status {
        let status = registry.schema_status().await?;
        if json {
            let applied: Vec<_> = status
                .applied
                .iter()
                .map(|(level, name, at, by)| json!({"level": level, "name": name, "applied_at": at, "applied_by": by}))
                .collect();
            return Ok(emit_json(&json!({
                "database": status.database, "program": status.program,
                "compatible_from": status.compatible_from, "current": status.is_current(), "applied": applied,
            })));
        }
        let mut text = format!("database at level {}, this program at {}\n", status.database, status.program);
        let rows: Vec<Vec<String>> = status
            .applied
            .iter()
            .map(|(level, name, at, by)| vec![level.to_string(), name.clone(), at.to_string(), by.clone()])
            .collect();
        text.push_str(&terminal::table(&rows, Paint::plain().columns));
        return Ok(emit(&text));
    }
    if options.dry_run {
        let pending = registry.pending_sql().await?;
        if json {
            let files: Vec<_> = pending.iter().map(|(name, sql)| json!({"file": name, "sql": sql})).collect();
            return Ok(emit_json(&json!({ "pending": files })));
        }
        if pending.is_empty() {
            return Ok(emit("-- nothing is pending\n"));
        }
        return Ok(emit(
            &pending.iter().map(|(name, sql)| format!("-- {name}\n{sql}\n")).collect::<String>(),
        ));
    }
    let server = registry.server_version().await?;
    if server < OLDEST_SERVER {
        let message = format!("PostgreSQL {server} is too old; {OLDEST_SERVER} or newer is needed");
        return Err(Stop::new(Exit::Refused, message));
    }
    let report = registry.migrate(&format!("bap-engine {} migrate", crate::version::VERSION)).await?;
    if json {
        return Ok(emit_json(&json!({"applied": report.applied, "level": report.level})));
    }
    Ok(emit(&match report.applied.len() {
        0 => format!("nothing to do, the database is at level {}\n", report.level),
        count => format!("applied {count} migration(s), the database is at level {}\n", report.level),
    }))
}

/// Oldest server the registry runs on.
pub const OLDEST_SERVER: u32 = 15;
/// Oldest server that is supported; the one before it is a warning.
pub const SUPPORTED_SERVER: u32 = 16;
