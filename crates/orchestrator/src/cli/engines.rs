//! `engines …` through the database: lists, one engine, changes, orphans, and which backend is ours.
//!
//! Keys are never read for a list; a new one is printed once, where it is made.

use super::changes;
use super::database::Database;
use super::{Exit, Stop, USER_COLUMNS, emit, emit_json};
use crate::registry::rows::{AuditEntry, Found};
use backends::BackendError;
use chassis::config::Secret;
use chassis::terminal::{self, Paint};
use clap::Subcommand;
use contract::fleet_api::{FleetHealth, StatusCounts, StatusResponse};
use contract::{EngineId, ProductId};
use fleet::audit::AuditAction;
use fleet::lifecycle::Status;
use fleet::observation::Observation;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{BufRead as _, IsTerminal as _, Read as _};

/// Rows of one page. More makes one answer large, fewer costs round trips.
const PAGE: i64 = 1000;

/// Most bytes read of a typed name. Smaller than the longest name would make that engine indestructible here; larger only
/// reads what cannot be one.
const TYPED_BYTES: u64 = 4096;

/// What can be done with engines through the database.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List engines of all products
    List {
        /// Only engines in this status
        #[arg(long, value_parser = status_word)]
        status: Option<Status>,
        /// Only engines of this product (id or short name)
        #[arg(long)]
        product: Option<String>,
        /// Only engines of this version
        #[arg(long)]
        version: Option<String>,
    },
    /// Show one engine with its vitals and its open operation
    Show {
        /// <product>/<user>, or the user alone
        engine: String,
    },
    /// Make an engine; prints its key, once
    Provision {
        /// <product>/<user>, or the user alone
        engine: String,
        /// Image [default: ORCH_ENGINE_IMAGE]
        #[arg(long, value_name = "IMAGE")]
        engine_version: Option<String>,
    },
    /// Start a stopped, sleeping or failed engine
    Start {
        /// <product>/<user>, or the user alone
        engine: String,
    },
    /// Stop an engine until it is started again
    Stop {
        /// <product>/<user>, or the user alone
        engine: String,
    },
    /// Put an idle engine to sleep
    Sleep {
        /// <product>/<user>, or the user alone
        engine: String,
    },
    /// Give an engine a new key without restart; prints it, once
    RotateKey {
        /// <product>/<user>, or the user alone
        engine: String,
    },
    /// Remove an engine and its brain; irreversible
    #[command(after_help = "On a terminal it asks for the user's name; without one it needs --yes.")]
    Destroy {
        /// <product>/<user>, or the user alone
        engine: String,
        /// Only drop the row: the host with the object and the brain is lost
        #[arg(long)]
        forget: bool,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// List backend objects that have no row
    Orphans {
        /// Remove them; their brains are kept
        #[arg(long)]
        remove: bool,
    },
    /// Accept the present daemon or cluster as the one engines are on
    #[command(
        after_help = "The orchestrator changes nothing while another daemon answers than the one it knows. \
        Check first that this is the right one: a wrong one makes every engine look lost."
    )]
    AdoptBackend,
    /// Replace an engine key that cannot be decrypted; the engine restarts
    ReissueKey {
        /// <product>/<user>, or the user alone
        engine: String,
    },
}

fn status_word(text: &str) -> Result<Status, String> {
    let words: Vec<&str> = Status::ALL.iter().map(|s| s.as_str()).collect();
    Status::parse(text).ok_or_else(|| format!("expected one of {}", words.join(", ")))
}

/// Performs one of the commands.
pub async fn run(db: &Database, command: Command, json: bool, paint: Paint) -> Result<Exit, Stop> {
    match command {
        Command::List { status, product, version } => {
            list(db, status, product.as_deref(), version.as_deref(), json, paint).await
        }
        Command::Show { engine } => {
            let (product, found) = db.engine(&engine).await?;
            Ok(if json {
                emit_json(&facts(product.slug.as_str(), &found))
            } else {
                emit(&show(&engine, &found))
            })
        }
        Command::Provision { engine, engine_version } => {
            let (id, key) = changes::provision(db, &engine, engine_version.as_deref()).await?;
            Ok(made(&engine, Some(id), "running", Some(&key), None, json))
        }
        Command::Start { engine } => {
            changes::start(db, &engine).await?;
            Ok(made(&engine, None, "running", None, None, json))
        }
        Command::Stop { engine } => {
            changes::stop(db, &engine).await?;
            Ok(made(&engine, None, "stopped", None, None, json))
        }
        Command::Sleep { engine } => {
            let already = changes::sleep(db, &engine).await?;
            let note = already.then(|| "it slept already".to_owned());
            Ok(made(&engine, None, "sleeping", None, note, json))
        }
        Command::RotateKey { engine } => {
            let (key, until) = changes::rotate_key(db, &engine).await?;
            let note = until.map(|at| format!("the old key works until {at}"));
            Ok(made(&engine, None, "running", Some(&key), note, json))
        }
        Command::Destroy { engine, forget: true, yes } => {
            consent(db, &engine, yes).await?;
            let id = changes::forget(db, &engine).await?;
            let note = "its row is gone; object and brain, wherever they are, were not touched".to_owned();
            Ok(made(&engine, Some(id), "destroyed", None, Some(note), json))
        }
        Command::Destroy { engine, forget: false, yes } => {
            consent(db, &engine, yes).await?;
            changes::destroy(db, &engine).await?;
            Ok(made(&engine, None, "destroyed", None, None, json))
        }
        Command::Orphans { remove } => orphans(db, remove, json, paint).await,
        Command::AdoptBackend => adopt_backend(db, json).await,
        Command::ReissueKey { engine } => {
            let key = changes::reissue_key(db, &engine).await?;
            Ok(made(&engine, None, "running", Some(&key), None, json))
        }
    }
}

/// Makes sure that somebody means what nothing brings back: by `--yes`, or by the user's name typed on a terminal.
async fn consent(db: &Database, engine: &str, yes: bool) -> Result<(), Stop> {
    if yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        return Err(Stop::usage("this destroys an engine for good; say --yes, or run it on a terminal"));
    }
    let (product, found) = db.engine(engine).await?;
    let user = found.engine.user_id.as_str();
    eprint!(
        "This destroys the engine of {} of {} and its brain; nothing brings them back.\nType the user's name to go on: ",
        terminal::visible(user),
        product.slug
    );
    let mut typed = String::new();
    let read = std::io::stdin().lock().take(TYPED_BYTES).read_line(&mut typed);
    match read {
        Ok(_) if means(&typed, user) => Ok(()),
        _ => Err(Stop::failed("nothing was destroyed: that is not the user's name")),
    }
}

/// Was exactly this name typed? An empty line never is one.
fn means(typed: &str, user: &str) -> bool {
    typed.strip_suffix('\n').unwrap_or(typed) == user && !user.is_empty()
}

/// Prints what a change led to; a key that was made is shown here and never again.
fn made(
    engine: &str,
    id: Option<EngineId>,
    status: &str,
    key: Option<&Secret>,
    note: Option<String>,
    json: bool,
) -> Exit {
    if json {
        let mut value = json!({"engine": engine, "status": status});
        if let Some(id) = id {
            value["engine_id"] = json!(id);
        }
        if let Some(key) = key {
            value["api_key"] = json!(key.expose());
        }
        if let Some(note) = note {
            value["note"] = json!(note);
        }
        return emit_json(&value);
    }
    let mut text = format!("{}: {status}\n", terminal::visible(engine));
    if let Some(key) = key {
        text.push_str(&format!("key: {}\n", key.expose()));
    }
    if let Some(note) = note {
        text.push_str(&format!("{note}\n"));
    }
    emit(&text)
}

async fn list(
    db: &Database,
    status: Option<Status>,
    product: Option<&str>,
    version: Option<&str>,
    json: bool,
    paint: Paint,
) -> Result<Exit, Stop> {
    let product = match product {
        Some(text) => Some(db.product(text).await?.id),
        None => None,
    };
    let slugs = slugs(db).await?;
    let slug = |id: &ProductId| slugs.get(id).cloned().unwrap_or_else(|| id.to_string());
    let mut rows = vec![
        ["PRODUCT", "USER", "STATUS", "DESIRED", "PORT", "SINCE", "OPERATION", "VERSION"]
            .map(str::to_owned)
            .to_vec(),
    ];
    let mut engines: Vec<Value> = Vec::new();
    let mut offset = 0;
    loop {
        let (page, total) = db.registry.list(product, status, version, PAGE, offset).await?;
        for found in &page {
            let name = slug(&found.engine.product_id);
            if json {
                engines.push(facts(&name, found));
            } else {
                rows.push(line(name, found));
            }
        }
        offset += PAGE;
        if page.is_empty() || offset >= total {
            break;
        }
    }
    Ok(if json {
        emit_json(&json!({ "engines": engines }))
    } else {
        emit(&terminal::table(&rows, paint.columns))
    })
}

async fn slugs(db: &Database) -> Result<BTreeMap<ProductId, String>, Stop> {
    let mut slugs = BTreeMap::new();
    let mut after = None;
    loop {
        let page = db.registry.products(PAGE, after).await?;
        after = page.last().map(|(product, _)| (product.created_at, product.id));
        let full = i64::try_from(page.len()).unwrap_or(PAGE) >= PAGE;
        slugs.extend(page.into_iter().map(|(product, _)| (product.id, product.slug.as_str().to_owned())));
        if !full {
            return Ok(slugs);
        }
    }
}

fn line(product: String, found: &Found) -> Vec<String> {
    let engine = &found.engine;
    let status = if found.vitals.degraded && engine.status == Status::Running {
        format!("{} (degraded)", engine.status)
    } else {
        engine.status.to_string()
    };
    let since = crate::core::millis(crate::core::between(engine.status_since, found.now));
    vec![
        product,
        terminal::cut(&terminal::visible(engine.user_id.as_str()), USER_COLUMNS),
        status,
        engine.desired.to_string(),
        engine.port.map_or("-".to_owned(), |port| port.to_string()),
        terminal::duration(u64::try_from(since).unwrap_or(0)),
        found.operation.as_ref().map_or("-".to_owned(), |o| format!("{} ({})", o.kind, o.step)),
        engine.engine_version.clone(),
    ]
}

/// Row, vitals and open operation, without keys and hashes.
fn facts(product: &str, found: &Found) -> Value {
    let (engine, vitals) = (&found.engine, &found.vitals);
    json!({
        "engine_id": engine.id, "product": product, "user_id": engine.user_id,
        "status": engine.status, "desired": engine.desired, "status_since": engine.status_since,
        "engine_version": engine.engine_version, "target_version": engine.target_version,
        "backend": engine.backend, "port": engine.port, "container_id": engine.container_id,
        "generation": engine.generation, "revision": engine.revision, "boot_duration_ms": engine.boot_duration_ms,
        "sleep_mode": engine.sleep_mode, "wake_at": engine.wake_at, "last_admit_at": engine.last_admit_at,
        "admit_lease_until": engine.admit_lease_until, "key_rotated_at": engine.key_rotated_at,
        "restart_attempts": engine.restart_attempts, "next_restart_at": engine.next_restart_at,
        "failure_code": engine.failure_code, "failure_message": engine.failure_message,
        "created_at": engine.created_at,
        "vitals": {
            "last_health_at": vitals.last_health_at, "last_probe_at": vitals.last_probe_at,
            "health_failures": vitals.health_failures, "healthy_streak": vitals.healthy_streak,
            "healthy_since": vitals.healthy_since, "degraded": vitals.degraded, "subsystems": vitals.subsystems,
            "reported_version": vitals.reported_version, "schema_version": vitals.schema_version,
            "in_flight_turns": vitals.in_flight_turns, "open_streams": vitals.open_streams,
            "last_activity_at": vitals.last_activity_at, "next_scheduled_at": vitals.next_scheduled_at,
            "backend_restarts": vitals.backend_restarts,
        },
        "operation": found.operation.as_ref().map(|o| json!({
            "operation_id": o.id, "kind": o.kind, "step": o.step, "attempt": o.attempt, "actor": o.actor,
            "started_at": o.started_at, "retry_at": o.retry_at, "error_code": o.error_code,
            "error_message": o.error_message,
        })),
    })
}

/// The facts that are there, one per line.
fn show(name: &str, found: &Found) -> String {
    let mut text = format!("{}\n", terminal::visible(name));
    let all = facts("", found);
    let shown = |value: &Value| match value {
        Value::Null => None,
        Value::String(text) if text.is_empty() => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    };
    let clean = |key: &str, text: &str| match key {
        "user_id" => terminal::visible(text),
        _ => terminal::clean(text),
    };
    for (key, value) in all.as_object().into_iter().flatten() {
        match value.as_object() {
            Some(inner) => {
                for (key, value) in inner {
                    text.extend(shown(value).map(|v| format!("  {key:20} {}\n", terminal::clean(&v))));
                }
            }
            None => text.extend(shown(value).map(|v| format!("{key:22} {}\n", clean(key, &v)))),
        }
    }
    text
}

/// Counts by status, of one product or of all.
pub async fn status(db: &Database, product: Option<&str>, json: bool) -> Result<Exit, Stop> {
    let product = match product {
        Some(text) => Some(db.product(text).await?.id),
        None => None,
    };
    let counts = db.registry.status_counts(product).await?;
    let of = |status: Status| counts.get(&status).copied().unwrap_or(0);
    let (total, failed) = (counts.values().sum(), of(Status::Failed));
    let answer = StatusResponse {
        total,
        by_status: StatusCounts {
            provisioning: of(Status::Provisioning),
            running: of(Status::Running),
            sleeping: of(Status::Sleeping),
            stopped: of(Status::Stopped),
            failed,
            destroying: of(Status::Destroying),
        },
        health: crate::http::fleet_status::health(total, failed),
        unhealthy_count: failed,
        degraded_count: db.registry.degraded_count(product).await?,
    };
    if json {
        return Ok(emit_json(&answer));
    }
    let mut text = format!("{} engine(s)\n  {:13} {}\n", answer.total, "health", health_word(answer.health));
    for &status in Status::ALL {
        text.push_str(&format!("  {:13} {}\n", status.as_str(), of(status)));
    }
    text.push_str(&format!("  {:13} {}\n", "degraded", answer.degraded_count));
    Ok(emit(&text))
}

const fn health_word(health: FleetHealth) -> &'static str {
    match health {
        FleetHealth::Ok => "ok",
        FleetHealth::Degraded => "degraded: some engines failed",
        FleetHealth::Critical => "critical: many engines failed",
    }
}

fn backend_stop(error: &BackendError) -> Stop {
    let exit = if error.is_transient() { Exit::Unreachable } else { Exit::Failed };
    Stop::new(exit, error.to_string())
}

/// Objects of ours without a row; removed on demand, their storage never.
async fn orphans(db: &Database, remove: bool, json: bool, paint: Paint) -> Result<Exit, Stop> {
    let place = db.place().await?;
    let mut found: Vec<(EngineId, Observation, bool)> = Vec::new();
    for (id, seen) in place.backend.list().await.map_err(|e| backend_stop(&e))? {
        if db.registry.found(id).await?.is_none() {
            found.push((id, seen, false));
        }
    }
    for (id, seen, removed) in &mut found {
        if !remove {
            continue;
        }
        // Both looked at again: the row may have come, the object may have gone.
        let now = place.backend.observe(*id).await.map_err(|e| backend_stop(&e))?;
        if db.registry.found(*id).await?.is_some() || now.object().is_none() {
            continue;
        }
        place.backend.stop(*id, db.settings.engine_stop_grace_s).await.map_err(|e| backend_stop(&e))?;
        place.backend.remove(*id).await.map_err(|e| backend_stop(&e))?;
        let mut metadata =
            json!({"object": format!("engine-{}", id.short()), "kind": "no_row", "brain": "kept"});
        if let Some(at) = seen.object().and_then(|object| object.created_at) {
            metadata["age_s"] = json!(crate::core::between(at, db.registry.now().await?).as_secs());
        }
        let entry = AuditEntry {
            started_at: None,
            product_id: None,
            user_id: None,
            engine_id: Some(*id),
            action: AuditAction::OrphanRemoved,
            actor: "admin".to_owned(),
            metadata,
            has_duration: false,
        };
        db.registry.append(&[entry]).await?;
        *removed = true;
    }
    if json {
        let rows: Vec<Value> = found
            .iter()
            .map(|(id, seen, removed)| {
                let object = seen.object();
                json!({
                    "engine_id": id, "state": seen.word(), "image": object.map(|o| &o.image),
                    "created_at": object.and_then(|o| o.created_at), "removed": removed,
                })
            })
            .collect();
        return Ok(emit_json(&json!({ "orphans": rows })));
    }
    if found.is_empty() {
        return Ok(emit("every object has its row\n"));
    }
    let head = ["ENGINE", "STATE", "CREATED", "REMOVED", "IMAGE"].map(str::to_owned).to_vec();
    let rows = found.iter().map(|(id, seen, removed)| {
        let object = seen.object();
        vec![
            id.to_string(),
            seen.word().to_owned(),
            object.and_then(|o| o.created_at).map_or("-".to_owned(), |at| at.to_string()),
            if *removed { "yes, its brain is kept" } else { "no" }.to_owned(),
            object.map_or_else(String::new, |o| o.image.clone()),
        ]
    });
    let rows: Vec<Vec<String>> = std::iter::once(head).chain(rows).collect();
    Ok(emit(&terminal::table(&rows, paint.columns)))
}

async fn adopt_backend(db: &Database, json: bool) -> Result<Exit, Stop> {
    let place = db.place().await?;
    let present = place.backend.ping().await.map_err(|e| backend_stop(&e))?;
    let known = db.registry.instance().await?.backend_identity;
    let changed = known.as_deref() != Some(present.id.as_str());
    if changed && !db.registry.set_backend_identity(known.as_deref(), &present.id).await? {
        return Err(Stop::failed("somebody else adopted a backend at this moment; look again"));
    }
    if json {
        return Ok(emit_json(&json!({"before": known, "now": present.id, "changed": changed})));
    }
    Ok(emit(&match (changed, known) {
        (false, _) => format!("{} is the backend already\n", present.id),
        (true, None) => format!("{} is the backend now\n", present.id),
        (true, Some(old)) => format!("{} is the backend now, instead of {old}\n", present.id),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_name_means_the_engine() {
        assert!(means("ada\n", "ada") && means("ada", "ada") && means(" ada\n", " ada"));
        for typed in ["", "\n", "y\n", "ad\n", "Ada\n", "ada \n", "demo/ada\n"] {
            assert!(!means(typed, "ada"), "{typed:?}");
        }
    }
}
