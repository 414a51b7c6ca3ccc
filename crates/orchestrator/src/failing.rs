//! From running to failed and back, outside any operation: crashes, failed probes, recoveries.

use crate::core::{Core, between};
use crate::registry::RegistryError;
use crate::registry::change::{Change, EnginePatch, Outcome};
use crate::registry::rows::{AuditEntry, Engine, Found};
use crate::telemetry::{self, RestartedBy, Transition};
use fleet::audit::AuditAction;
use fleet::lifecycle::{FailureReason, Status};
use fleet::operation::OperationKind;
use fleet::restart::Next;
use serde_json::{Value, json};
use std::sync::Arc;

fn entry(found: &Found, action: AuditAction, metadata: Value) -> AuditEntry {
    AuditEntry {
        started_at: None,
        product_id: Some(found.engine.product_id),
        user_id: Some(found.engine.user_id.clone()),
        engine_id: Some(found.engine.id),
        action,
        actor: "system".to_owned(),
        metadata,
        has_duration: false,
    }
}

/// What to write when an engine is found dead or sick: the patch, and the row for the log.
pub(crate) fn crash(
    core: &Core,
    found: &Found,
    reason: FailureReason,
    message: &str,
    facts: Value,
) -> (EnginePatch, AuditEntry) {
    let attempts = u32::try_from(found.engine.restart_attempts).unwrap_or(0);
    let next = core.restart_rules().after_failure(attempts, reason, found.now);
    let due = match next {
        Next::At(at) => Some(at),
        Next::GiveUp => None,
    };
    let patch = EnginePatch {
        status: Some(Status::Failed),
        next_restart_in: Some(due.map(|at| between(found.now, at))),
        failure: Some(Some((reason, message.to_owned()))),
        ..EnginePatch::default()
    };
    let mut metadata = json!({
        "from": found.engine.status, "to": Status::Failed, "reason": reason,
        "failures": found.vitals.health_failures,
    });
    if let Some(at) = due {
        metadata["next_restart_at"] = json!(at);
    }
    if let Some(facts) = facts.as_object() {
        for (name, value) in facts.iter().filter(|(_, v)| !v.is_null()) {
            metadata[name] = value.clone();
        }
    }
    (patch, entry(found, AuditAction::HealthFailed, metadata))
}

/// Marks a running engine failed, with its next restart; `None` when the row moved on or an operation is open. A key
/// rotation touches no object and hides no failure: that it has begun or ended shows in the revision.
pub(crate) async fn fail(
    core: &Arc<Core>,
    found: &Found,
    reason: FailureReason,
    message: &str,
    facts: Value,
) -> Result<Option<Engine>, RegistryError> {
    let (patch, row) = crash(core, found, reason, message, facts);
    let gave_up = patch.next_restart_in == Some(None);
    let mut audit = vec![row];
    if gave_up {
        let attempts = found.engine.restart_attempts;
        let metadata =
            json!({"attempts": attempts, "reason": reason, "from": Status::Failed, "to": Status::Failed});
        audit.push(entry(found, AuditAction::AutoRestartGaveUp, metadata));
    }
    let beside_rotation = found.operation.as_ref().is_some_and(|open| open.kind == OperationKind::RotateKey);
    let change = Change {
        engine_id: found.engine.id,
        revision: found.engine.revision,
        only_without_operation: !beside_rotation,
        patch,
        audit,
    };
    let Outcome::Changed(engine) = core.registry.change(&change).await? else {
        return Ok(None);
    };
    telemetry::transition(Transition {
        engine: engine.id,
        product: engine.product_id,
        from: Some(found.engine.status),
        to: Some(Status::Failed),
        action: AuditAction::HealthFailed.as_str(),
        failure: Some(reason),
    });
    if gave_up {
        telemetry::given_up(engine.id, engine.product_id, engine.restart_attempts, reason.as_str());
        // The object is stopped so that the backend's own policy stops looping.
        let (core, id) = (Arc::clone(core), engine.id);
        let tasks = core.tasks.clone();
        tasks.spawn(async move {
            if let Err(error) = core.backend.stop(id, core.config.engine_stop_grace_s).await {
                tracing::warn!(engine_id = %id, %error, "cannot stop an engine that was given up");
            }
        });
    }
    Ok(Some(engine))
}

/// A failed engine serves again without anything done by us.
pub(crate) async fn recover(
    core: &Arc<Core>,
    found: &Found,
    by_backend: bool,
    container_id: Option<String>,
) -> Result<Option<Engine>, RegistryError> {
    let attempts = found.engine.restart_attempts.saturating_add(i32::from(by_backend));
    let by = if by_backend { "backend" } else { "none" };
    let metadata = json!({"from": Status::Failed, "to": Status::Running, "attempt": attempts, "by": by});
    let change = Change {
        engine_id: found.engine.id,
        revision: found.engine.revision,
        only_without_operation: true,
        patch: EnginePatch {
            status: Some(Status::Running),
            restart_attempts: Some(attempts),
            next_restart_in: Some(None),
            failure: Some(None),
            container_id: container_id.map(Some),
            reset_vitals: true,
            ..EnginePatch::default()
        },
        audit: vec![entry(found, AuditAction::AutoRestartSuccess, metadata)],
    };
    let Outcome::Changed(engine) = core.registry.change(&change).await? else {
        return Ok(None);
    };
    if by_backend {
        telemetry::restarted(RestartedBy::Backend);
    }
    telemetry::transition(Transition {
        engine: engine.id,
        product: engine.product_id,
        from: Some(Status::Failed),
        to: Some(Status::Running),
        action: AuditAction::AutoRestartSuccess.as_str(),
        failure: None,
    });
    Ok(Some(engine))
}
