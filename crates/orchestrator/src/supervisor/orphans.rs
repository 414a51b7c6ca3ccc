//! Objects of ours without a row: removed when that is certain, never their storage.

use super::Supervisor;
use crate::registry::RegistryError;
use crate::registry::rows::AuditEntry;
use crate::telemetry;
use contract::{EngineId, Timestamp};
use fleet::audit::AuditAction;
use fleet::observation::Observation;
use serde_json::json;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError};

/// One pass, after the rows were read. Removals go on in their own tasks: the pass does not wait for them.
pub(super) fn pass(
    supervisor: &Arc<Supervisor>,
    listed: &HashMap<EngineId, Observation>,
    rows: &HashSet<EngineId>,
    now: Timestamp,
) {
    let core = &supervisor.core;
    let objects: Vec<(EngineId, Option<Timestamp>)> =
        listed.iter().filter_map(|(id, seen)| seen.object().map(|object| (*id, object.created_at))).collect();
    let pass = {
        let mut memory = supervisor.orphans.lock().unwrap_or_else(PoisonError::into_inner);
        memory.pass(&objects, |id| rows.contains(&id), core.config.orphan_grace_s, now)
    };
    telemetry::orphans(pass.remove.len() + pass.braked.len() + pass.waiting, !pass.braked.is_empty());
    if !pass.braked.is_empty() {
        tracing::warn!(
            objects = pass.braked.len(),
            "many objects have no row; none is removed until `bap-engine engines orphans --remove` says so"
        );
    }
    for id in pass.remove {
        let created = objects.iter().find(|(o, _)| *o == id).and_then(|(_, at)| *at);
        let inner = Arc::clone(supervisor);
        supervisor.spawn_slow(id, async move {
            if let Err(error) = remove(&inner, id, created, now).await {
                telemetry::loop_failed("reconcile", &error);
            }
        });
    }
}

async fn remove(
    supervisor: &Arc<Supervisor>,
    id: EngineId,
    created: Option<Timestamp>,
    now: Timestamp,
) -> Result<(), RegistryError> {
    let core = &supervisor.core;
    // Both looked at again: the row may have come, the object may have gone.
    if core.registry.found(id).await?.is_some() || !supervisor.holds() {
        return Ok(());
    }
    if !matches!(core.backend.observe(id).await, Ok(Observation::Present(_))) {
        return Ok(());
    }
    let removed = async {
        core.backend.stop(id, core.config.engine_stop_grace_s).await?;
        core.backend.remove(id).await
    };
    if let Err(error) = removed.await {
        tracing::warn!(engine_id = %id, %error, "cannot remove an object without a row");
        return Ok(());
    }
    let age = created.map(|at| crate::core::between(at, now).as_secs());
    tracing::info!(engine_id = %id, "removed an object without a row; its storage is kept");
    let mut metadata = json!({"object": format!("engine-{}", id.short()), "kind": "no_row", "brain": "kept"});
    if let Some(age) = age {
        metadata["age_s"] = json!(age);
    }
    core.registry
        .append(&[AuditEntry {
            started_at: None,
            product_id: None,
            user_id: None,
            engine_id: Some(id),
            action: AuditAction::OrphanRemoved,
            actor: "system".to_owned(),
            metadata,
            has_duration: false,
        }])
        .await
}
