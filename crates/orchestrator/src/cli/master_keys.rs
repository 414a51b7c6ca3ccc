//! `rotate-master-key`: every stored engine key sealed with the first master key, while the replicas serve.
//!
//! Each row is compared and swapped on its old token, so a rotation of that engine's key next to this one loses
//! nothing; it may be interrupted and repeated. The invariant: "the old key may go" is said only after every row was
//! opened with the first key alone.

use super::database::Database;
use super::{Exit, Stop, emit, emit_json};
use crate::keys::EngineKeys;
use crate::registry::rows::{AuditEntry, SealedKey};
use contract::EngineId;
use fleet::audit::AuditAction;
use serde_json::json;

/// Rows between two lines of progress. (contract)
const BATCH: usize = 500;

/// Passes over all rows. A row that changed in one pass is met in the next; more passes only hide a master key that
/// some replica still seals with.
const PASSES: usize = 5;

/// One token to replace.
struct Stale {
    engine: EngineId,
    token: String,
    next: bool,
}

/// What a walk over all rows found.
#[derive(Default)]
struct Walk {
    rows: u64,
    stale: Vec<Stale>,
    unreadable: Vec<EngineId>,
}

impl Walk {
    fn meet(&mut self, keys: &EngineKeys, engine: EngineId, sealed: SealedKey, next: bool) {
        if keys.master.opened_by_first(&sealed.sealed) {
            return;
        }
        if keys.open(&sealed.sealed).is_ok() {
            self.stale.push(Stale { engine, token: sealed.sealed, next });
        } else {
            self.unreadable.push(engine);
        }
    }
}

async fn walk(db: &Database, keys: &EngineKeys) -> Result<Walk, Stop> {
    let mut walk = Walk::default();
    db.registry
        .keys(|engine, key, next| {
            walk.rows += 1;
            walk.meet(keys, engine, key, false);
            if let Some(next) = next {
                walk.meet(keys, engine, next, true);
            }
        })
        .await?;
    Ok(walk)
}

/// Seals everything anew.
pub async fn rotate(db: &Database, json: bool) -> Result<Exit, Stop> {
    let keys = db.keys()?;
    let fingerprints = keys.master.fingerprints();
    let mut resealed: u64 = 0;
    let mut found = walk(db, &keys).await?;
    for _ in 0..PASSES {
        if found.stale.is_empty() {
            break;
        }
        let all = found.stale.len();
        for (index, stale) in found.stale.iter().enumerate() {
            // A token that opened a moment ago opens now, unless it is gone from memory.
            let Ok(plain) = keys.open(&stale.token) else { continue };
            let token = keys.master.seal(plain.expose());
            if db.registry.reseal(stale.engine, &stale.token, &token, stale.next).await? {
                resealed += 1;
            }
            if (index + 1) % BATCH == 0 {
                eprintln!("{} of {all} keys sealed anew", index + 1);
            }
        }
        found = walk(db, &keys).await?;
    }
    if !found.stale.is_empty() {
        let message = format!(
            "{} key(s) are sealed with an old master key again and again: a replica still has it in front; set \
             ORCH_MASTER_KEY=<new>,<old> on all replicas, restart them and repeat",
            found.stale.len()
        );
        return Err(Stop::failed(&message));
    }
    if !found.unreadable.is_empty() {
        let named: Vec<String> = found.unreadable.iter().take(10).map(ToString::to_string).collect();
        let mut stop = Stop::failed(&format!(
            "{resealed} key(s) sealed anew, but {} cannot be opened with any configured key (engines {}); give the \
             missing key, or repair each with `bap-engine engines reissue-key`",
            found.unreadable.len(),
            named.join(", ")
        ));
        stop.details = Some(json!({"resealed": resealed, "unreadable": found.unreadable}));
        return Err(stop);
    }
    let audit = AuditEntry {
        started_at: None,
        product_id: None,
        user_id: None,
        engine_id: None,
        action: AuditAction::RotateMasterKey,
        actor: "admin".to_owned(),
        metadata: json!({
            "rows": resealed, "old_fingerprints": fingerprints[1..].to_vec(), "new_fingerprint": fingerprints[0],
        }),
        has_duration: false,
    };
    db.registry.append(&[audit]).await?;
    if json {
        return Ok(emit_json(
            &json!({"rows": found.rows, "resealed": resealed, "fingerprints": fingerprints}),
        ));
    }
    let advice = match fingerprints.len() {
        1 => String::new(),
        _ => format!("; the old key(s) {} may be removed from ORCH_MASTER_KEY", fingerprints[1..].join(", ")),
    };
    Ok(emit(&format!(
        "{resealed} key(s) sealed anew; all {} engine(s) open with key {} alone{advice}\n",
        found.rows, fingerprints[0]
    )))
}
