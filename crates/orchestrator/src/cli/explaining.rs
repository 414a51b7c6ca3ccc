//! `explain`: why an engine is as it is, as text. What the API's endpoint says, without the comparison of the object
//! with what would be made now, which only a replica can make.

mod told;

use super::database::{Database, policy};
use super::{Exit, Stop, emit, emit_json};
use crate::registry::AuditFilter;
use crate::registry::rows::{Found, Product};
use chassis::terminal::{self, Paint};
use fleet::audit::AuditAction;
use fleet::explain::{Explained, admission, because, summary};
use fleet::idle::IdleRules;
use fleet::request::Standing;
use serde_json::{Value, json};

/// Rows of the audit log that are shown. (contract)
const REASONS_MAX: i64 = 20;

/// Says why.
pub async fn explain(db: &Database, reference: &str, json: bool, paint: Paint) -> Result<Exit, Stop> {
    let (product, found) = db.engine(reference).await?;
    let (answer, lines) = answer(db, &product, &found).await?;
    if json {
        return Ok(emit_json(&answer));
    }
    Ok(emit(&text(reference, &answer, &lines, paint)))
}

/// The lines that say more than the fields of the answer, because they know what belongs together.
struct Lines {
    health: String,
    restarts: String,
    sleep: String,
}

async fn answer(db: &Database, product: &Product, found: &Found) -> Result<(Value, Lines), Stop> {
    let engine = &found.engine;
    let settings = &db.settings;
    // A backend that cannot be asked is a fact to tell, not a reason to tell nothing.
    let observed = match db.place().await {
        Ok(place) => place.backend.observe(engine.id).await.map_err(|error| error.to_string()),
        Err(stop) => Err(stop.message),
    };
    let vitals = crate::vitals::of_row(&found.vitals);
    let open = found.operation.as_ref().map(|o| o.kind);
    let summary = summary(&Explained {
        status: engine.status,
        status_since: engine.status_since,
        desired: engine.desired,
        open,
        failure: engine.failure_code,
        vitals: &vitals,
        restart_attempts: u32::try_from(engine.restart_attempts).unwrap_or(0),
        restart_max_attempts: settings.restart_max_attempts,
        next_restart_at: engine.next_restart_at,
        sleep_mode: engine.sleep_mode,
        wake_at: engine.wake_at,
        backend_answers: observed.is_ok(),
    });
    let filter = AuditFilter { engine: Some(engine.id), ..AuditFilter::default() };
    let reasons: Vec<Value> = db
        .registry
        .audit(&filter, REASONS_MAX, None)
        .await?
        .into_iter()
        .map(|row| {
            let because = AuditAction::parse(&row.action).and_then(|action| because(action, &row.metadata));
            json!({"at": row.timestamp, "what": row.action, "because": because, "audit_id": row.id})
        })
        .collect();
    let asked = policy(product)?
        .idle_sleep_after_s
        .map_or(settings.idle_sleep_after_s, std::time::Duration::from_secs);
    let rules = IdleRules {
        idle_after: (!asked.is_zero()).then(|| asked.max(settings.admit_lease_s)),
        mode: settings.sleep_mode,
        wake_lead: settings.wake_lead_s,
        wake_grace: settings.wake_grace_s,
    };
    let facts = crate::idle::facts(found, vitals.activity, None);
    let blocked = fleet::idle::blockers(&facts, &rules, found.now);
    let blockers: Vec<String> = blocked.iter().map(ToString::to_string).collect();
    // A promise or a grace that still lasts is no idleness; the blockers tell it.
    let idle_since = fleet::idle::idle_since(&facts, &rules).filter(|&at| at <= found.now);
    let lines = Lines {
        health: told::health(engine.status, engine.status_since, &vitals),
        restarts: told::restarts(
            engine.restart_attempts,
            settings.restart_max_attempts,
            engine.next_restart_at,
        ),
        sleep: told::sleep(rules.idle_after, idle_since, engine.admit_lease_until, &blocked),
    };
    let (would_admit, reason) = admission(Standing { status: engine.status, desired: engine.desired, open });
    let key_readable = settings.master_key.as_ref().map(|keys| keys.open(&engine.key.sealed).is_ok());
    let answer = json!({
        "engine_id": engine.id, "user_id": engine.user_id, "status": engine.status, "desired": engine.desired,
        "status_since": engine.status_since, "operation": open, "summary": summary,
        "failure_message": engine.failure_message, "key_readable": key_readable, "reasons": reasons,
        "health": {
            "failures": vitals.health_failures, "healthy_streak": vitals.healthy_streak,
            "last_health_at": vitals.last_health_at, "degraded_subsystems": vitals.degraded_subsystems(),
            "restart_attempts": engine.restart_attempts, "restart_max_attempts": settings.restart_max_attempts,
            "next_restart_at": engine.next_restart_at,
        },
        "sleep": {
            "idle_after_s": rules.idle_after.map_or(0, |span| span.as_secs()),
            "idle_since": idle_since, "blocked_by": blockers, "wake_at": engine.wake_at,
        },
        "backend": {
            "kind": engine.backend, "object": format!("engine-{}", engine.id.short()),
            "observed": observed.as_ref().ok().map(|o| o.word()), "trouble": observed.as_ref().err(),
            "generation": engine.generation,
        },
        "admission": {"would_admit": would_admit, "reason": reason},
    });
    Ok((answer, lines))
}

fn text(reference: &str, answer: &Value, lines: &Lines, paint: Paint) -> String {
    let word = |value: &Value| match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => terminal::clean(text),
        Value::Array(items) if items.is_empty() => "-".to_owned(),
        Value::Array(items) => items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    };
    let mut out = format!("{}: {}\n", terminal::visible(reference), paint.bold(&word(&answer["summary"])));
    if answer["failure_message"].is_string() {
        out.push_str(&format!("  said       {}\n", word(&answer["failure_message"])));
    }
    if answer["key_readable"] == json!(false) {
        out.push_str("  key        cannot be decrypted with ORCH_MASTER_KEY; `bap-engine engines reissue-key` replaces it\n");
    }
    let admission = &answer["admission"];
    out.push_str(&match admission["would_admit"] == json!(true) {
        true => "  admit      would be admitted\n".to_owned(),
        false => format!("  admit      refused: {}\n", word(&admission["reason"])),
    });
    let backend = &answer["backend"];
    out.push_str(&format!("  health     {}\n  restarts   {}\n", lines.health, lines.restarts));
    out.push_str(&format!("  sleep      {}\n", lines.sleep));
    let seen = if backend["observed"].is_null() { &backend["trouble"] } else { &backend["observed"] };
    out.push_str(&format!(
        "  backend    {} {}: {}, generation {}\n",
        word(&backend["kind"]),
        word(&backend["object"]),
        word(seen),
        word(&backend["generation"]),
    ));
    out.push_str("  lately\n");
    let rows: Vec<Vec<String>> = answer["reasons"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|r| vec![String::from("   "), word(&r["at"]), word(&r["what"]), word(&r["because"])])
        .collect();
    out.push_str(&terminal::table(&rows, paint.columns));
    out
}
