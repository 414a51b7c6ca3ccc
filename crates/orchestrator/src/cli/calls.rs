//! Commands that ask the API as a product: one engine's record, an admission, the audit log.
//!
//! A key is shown only with `--show-key`.

use super::api::{Api, As};
use super::{Exit, Stop, USER_COLUMNS, database, emit, emit_json};
use crate::config::Settings;
use chassis::terminal::{self, Paint};
use clap::Args;
use contract::fleet_api::{
    AdmitRefusal, AdmitRequest, AdmitResponse, AuditPage, AuditRecord, EngineRecord, IssuedKey,
};
use contract::{FleetCode, UserId};
use reqwest::Method;
use serde_json::Value;

/// Rows of the log asked for in one page. Larger is refused by the API.
const PAGE: u32 = 1000;

/// What stands for a key that was not asked for.
const HIDDEN: &str = "[hidden; --show-key shows it]";

/// Which rows of the audit log to list.
#[derive(Debug, Args)]
pub struct AuditFilter {
    /// Only this product (id or short name; with the operator's key)
    #[arg(long)]
    product: Option<String>,
    /// Only this user
    #[arg(long)]
    user: Option<String>,
    /// Only this engine id
    #[arg(long)]
    engine: Option<String>,
    /// Only this action; may be given several times
    #[arg(long)]
    action: Vec<String>,
    /// Not before this time, ISO-8601
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Before this time, ISO-8601
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Most rows
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
}

/// The user meant by `<user>` or `<product>/<user>`. The API knows a product by its key alone, and a slash may be part of
/// a user's name: only the database, where it is at hand, tells the product's name from the user's.
pub async fn whose(settings: &Settings, text: &str) -> Result<UserId, Stop> {
    let parse = |user: &str| UserId::parse(user).map_err(|e| Stop::usage(format!("user: {e}")));
    let Some((product, user)) = text.split_once('/') else { return parse(text) };
    let own = match database::connect(settings.database_url.as_ref()) {
        Ok(registry) => database::own_product(&registry, settings).await.ok().flatten(),
        Err(_) => None,
    };
    match own {
        Some(own) if own.slug.as_str() == product || own.id.to_string() == product => parse(user),
        _ => parse(text),
    }
}

/// What to add when nobody has the name that was given.
fn hint(user: &UserId) -> &'static str {
    if user.as_str().contains('/') {
        "; the product is that of BAP_PLATFORM_KEY: give the user alone"
    } else {
        ""
    }
}

/// Shows one engine of the calling product.
pub async fn get(api: &Api, user: &UserId, show_key: bool, json: bool) -> Result<Exit, Stop> {
    let path = ["engines", user.as_str()];
    let asked = api.call(As::Product, Method::GET, &path, &[], None::<&()>).await;
    let record: EngineRecord = asked.map_err(|mut stop| {
        if stop.code.as_deref() == Some(FleetCode::EngineNotFound.as_str()) {
            stop.message.push_str(hint(user));
        }
        stop
    })?;
    Ok(show(record, show_key, json, &[]))
}

/// Asks for admission as a product does before every request.
pub async fn admit(
    api: &Api,
    user: &UserId,
    wish: AdmitRequest,
    show_key: bool,
    json: bool,
) -> Result<Exit, Stop> {
    let path = ["engines", user.as_str(), "admit"];
    let answer: AdmitResponse = api.call(As::Product, Method::POST, &path, &[], Some(&wish)).await?;
    match answer {
        AdmitResponse::Admitted { engine, lease_expires_at } => {
            let lease = [("lease", lease_expires_at.to_string())];
            Ok(show(*engine, show_key, json, &lease))
        }
        AdmitResponse::Refused { reason, retry_after_ms } => {
            let mut stop = Stop::new(Exit::Failed, format!("not admitted: {reason}"));
            stop.code = Some(reason.as_str().to_owned());
            stop.message.push_str(advice(reason));
            if reason == AdmitRefusal::EngineNotFound {
                stop.message.push_str(hint(user));
            }
            if let Some(ms) = retry_after_ms {
                stop.message.push_str(&format!("; again in {}", terminal::duration(ms)));
                stop.details = Some(serde_json::json!({ "retry_after_ms": ms }));
            }
            Err(stop)
        }
    }
}

/// The flag that would have admitted it.
const fn advice(reason: AdmitRefusal) -> &'static str {
    match reason {
        AdmitRefusal::EngineNotFound => "; --auto-provision makes an engine for this user",
        AdmitRefusal::EngineSleeping => "; --auto-wake wakes it",
        AdmitRefusal::EngineStopped => "; `bap-engine engines start` starts it",
        AdmitRefusal::EngineUnhealthy => "; `bap-engine explain` says why",
        AdmitRefusal::EngineDestroying => "",
    }
}

/// Prints a record, the key masked unless it was asked for.
fn show(mut record: EngineRecord, show_key: bool, json: bool, more: &[(&str, String)]) -> Exit {
    if !show_key && record.api_key.is_some() {
        record.api_key = Some(IssuedKey::new(HIDDEN));
    }
    if json {
        let mut value = serde_json::to_value(&record).unwrap_or_default();
        for (name, text) in more {
            value[*name] = Value::from(text.clone());
        }
        return emit_json(&value);
    }
    let mut rows = vec![
        ("user", terminal::visible(record.user_id.as_str())),
        ("engine", record.engine_id.to_string()),
        (
            "status",
            if record.degraded { format!("{} (degraded)", record.status) } else { record.status.clone() },
        ),
        ("url", record.url.clone()),
        ("key", record.api_key.as_ref().map_or("-", IssuedKey::expose).to_owned()),
        ("version", record.engine_version.clone()),
        ("created", record.created_at.to_string()),
        ("healthy", record.last_health_at.map_or("never".to_owned(), |at| at.to_string())),
    ];
    rows.extend(record.operation.clone().map(|kind| ("under way", kind)));
    rows.extend(more.iter().cloned());
    emit(&rows.iter().map(|(name, text)| format!("{name:10} {text}\n")).collect::<String>())
}

/// Lists rows of the audit log, newest first: all products with the operator's key, else the own one.
pub async fn audit_list(api: &Api, filter: &AuditFilter, json: bool, paint: Paint) -> Result<Exit, Stop> {
    let who = if api.has_admin_key() { As::Admin } else { As::Product };
    let mut fixed: Vec<(&str, String)> = Vec::new();
    let parts = [
        ("product", &filter.product),
        ("user", &filter.user),
        ("engine", &filter.engine),
        ("since", &filter.since),
        ("until", &filter.until),
    ];
    fixed.extend(parts.into_iter().filter_map(|(name, value)| Some((name, value.clone()?))));
    fixed.extend(filter.action.iter().map(|action| ("action", action.clone())));
    let mut entries: Vec<AuditRecord> = Vec::new();
    let mut cursor: Option<String> = None;
    while let Some(wanted) = rest(filter.limit, entries.len()) {
        let mut query = fixed.clone();
        query.push(("limit", wanted.min(PAGE).to_string()));
        query.extend(cursor.take().map(|cursor| ("cursor", cursor)));
        let page: AuditPage = api.call(who, Method::GET, &["audit"], &query, None::<&()>).await?;
        let empty = page.entries.is_empty();
        entries.extend(page.entries);
        match page.next_cursor {
            Some(next) if !empty => cursor = Some(next),
            _ => break,
        }
    }
    if json {
        return Ok(emit_json(&serde_json::json!({ "entries": entries })));
    }
    Ok(emit(&table(&entries, paint)))
}

/// How many rows are still wanted; `None` when that is none.
fn rest(limit: u32, have: usize) -> Option<u32> {
    let have = u32::try_from(have).unwrap_or(u32::MAX);
    limit.checked_sub(have).filter(|&left| left > 0)
}

fn table(entries: &[AuditRecord], paint: Paint) -> String {
    let head = ["ID", "TIME", "ACTION", "ACTOR", "USER", "TOOK", "FACTS"].map(str::to_owned).to_vec();
    let rows = entries.iter().map(|e| {
        vec![
            e.id.to_string(),
            e.timestamp.to_string(),
            e.action.clone(),
            terminal::clean(&e.actor),
            e.user_id
                .as_deref()
                .map_or("-".to_owned(), |user| terminal::cut(&terminal::visible(user), USER_COLUMNS)),
            e.duration_ms.and_then(|ms| u64::try_from(ms).ok()).map_or("-".to_owned(), terminal::duration),
            terminal::clean(&e.metadata.to_string()),
        ]
    });
    let rows: Vec<Vec<String>> = std::iter::once(head).chain(rows).collect();
    terminal::table(&rows, paint.columns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_ends_at_its_limit() {
        assert_eq!(rest(100, 0), Some(100));
        assert_eq!(rest(100, 99), Some(1));
        assert_eq!((rest(100, 100), rest(0, 0), rest(1, 7)), (None, None, None));
    }

    #[test]
    fn a_user_whose_name_hides_something_is_told_from_the_one_it_looks_like() {
        let row = |user: &str| AuditRecord {
            id: 1,
            timestamp: contract::Timestamp::now(),
            product_id: None,
            user_id: Some(user.to_owned()),
            engine_id: None,
            action: "stop".to_owned(),
            actor: "demo".to_owned(),
            metadata: Value::Null,
            duration_ms: None,
        };
        let text = table(&[row("ada"), row("\u{feff}ada"), row("ada\u{200b}")], Paint::plain());
        let users: Vec<&str> = text.lines().skip(1).filter_map(|l| l.split_whitespace().nth(4)).collect();
        assert_eq!(users, ["ada", "\\u{feff}ada", "ada\\u{200b}"], "{text}");
    }
}
