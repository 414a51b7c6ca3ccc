//! From running to failed and back, outside any operation: crashes, failed probes, recoveries.
//!
//! Decides nothing: the rules of restarts say what follows. Refuses to touch an object that somebody else is at. The
//! invariant: whoever reads that an engine was given up finds its object stopped, or being stopped under its lock.

use crate::core::{Core, between};
use crate::locks::{Actor, Held};
use crate::registry::RegistryError;
use crate::registry::change::{Change, EnginePatch, Outcome};
use crate::registry::rows::{AuditEntry, Engine, Found};
use crate::telemetry::{self, RestartedBy, Transition};
use crate::work;
use contract::EngineId;
use fleet::audit::AuditAction;
use fleet::lifecycle::{FailureReason, Status};
use fleet::operation::OperationKind;
use fleet::restart::Next;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

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

/// How long the stop of an engine that is to be given up waits for whoever is at its object, before nothing is
/// written and the next look tries again. Longer holds up other looks; shorter puts off what could be done now.
const GIVE_UP_WAIT: Duration = Duration::from_secs(1);

/// What to write when an engine is found dead or sick.
pub(crate) struct Crash {
    pub(crate) patch: EnginePatch,
    /// Rows for the log: one, or two when it is given up.
    pub(crate) audit: Vec<AuditEntry>,
    pub(crate) gives_up: bool,
}

/// The row that says that nobody tries any more.
pub(crate) fn gave_up_row(found: &Found, reason: FailureReason) -> AuditEntry {
    let attempts = found.engine.restart_attempts;
    let metadata =
        json!({"attempts": attempts, "reason": reason, "from": Status::Failed, "to": Status::Failed});
    entry(found, AuditAction::AutoRestartGaveUp, metadata)
}

/// Tells people and the metric, once it is written.
pub(crate) fn tell_given_up(engine: &Engine) {
    let reason = engine.failure_code.map_or("unknown", FailureReason::as_str);
    telemetry::given_up(engine.id, engine.product_id, engine.restart_attempts, reason);
}

/// A running engine is found dead or sick.
pub(crate) fn crash(core: &Core, found: &Found, reason: FailureReason, message: &str, facts: Value) -> Crash {
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
    let mut audit = vec![entry(found, AuditAction::HealthFailed, metadata)];
    let gives_up = due.is_none();
    if gives_up {
        audit.push(gave_up_row(found, reason));
    }
    Crash { patch, audit, gives_up }
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
    let Crash { patch, audit, gives_up } = crash(core, found, reason, message, facts);
    // Before anybody can learn that it is given up: a `start` that comes at once waits until the object is stopped.
    let held = if gives_up {
        let lock = core.locks.lock(found.engine.id, Actor::GiveUp);
        let Ok(held) = tokio::time::timeout(GIVE_UP_WAIT, lock).await else { return Ok(None) };
        Some(held)
    } else {
        None
    };
    let rotation = found.operation.as_ref().filter(|open| open.kind == OperationKind::RotateKey);
    let change = Change {
        engine_id: found.engine.id,
        revision: found.engine.revision,
        only_without_operation: rotation.is_none(),
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
    if rotation.is_some() {
        hurry_rotation(core, engine.id).await?;
    }
    if let Some(held) = held {
        tell_given_up(&engine);
        let (core, id) = (Arc::clone(core), engine.id);
        let tasks = core.tasks.clone();
        tasks.spawn(async move {
            if let Err(error) = stop_given_up(&core, id, held).await {
                tracing::warn!(engine_id = %id, %error, "cannot stop an engine that was given up");
            }
        });
    }
    Ok(Some(engine))
}

/// A restart waits for the end of an open rotation. One that is under way finds out by itself; one that waits for
/// another try is tried now.
async fn hurry_rotation(core: &Core, id: EngineId) -> Result<(), RegistryError> {
    let open = core.registry.found(id).await?.and_then(|found| found.operation);
    if let Some(open) = open.filter(|open| open.kind == OperationKind::RotateKey && open.owner.is_none()) {
        core.registry.postpone(open.id, open.claim, Duration::ZERO, None).await?;
        core.nudge.claims.notify_one();
    }
    Ok(())
}

/// Stops the object, so that the backend's own policy stops looping; not that of an engine somebody has started since.
async fn stop_given_up(core: &Core, id: EngineId, held: Held) -> Result<(), RegistryError> {
    let Ok(_place) = core.stops.acquire().await else { return Ok(()) };
    let Some(found) = core.registry.found(id).await? else { return Ok(()) };
    let given_up = found.engine.status == Status::Failed && found.engine.next_restart_at.is_none();
    if !given_up || found.operation.is_some() {
        return Ok(());
    }
    if let Err(error) = core.backend.stop(id, core.config.engine_stop_grace_s).await {
        tracing::warn!(engine_id = %id, %error, "cannot stop an engine that was given up");
    }
    drop(held);
    core.nudge.look_at(id);
    Ok(())
}

/// A failed engine serves again, at this address, without anything done by us.
pub(crate) async fn recover(
    core: &Arc<Core>,
    found: &Found,
    by_backend: bool,
    container_id: Option<String>,
    address: SocketAddr,
) -> Result<Option<Engine>, RegistryError> {
    let attempts = found.engine.restart_attempts.saturating_add(i32::from(by_backend));
    let by = if by_backend { "backend" } else { "none" };
    let metadata = json!({"from": Status::Failed, "to": Status::Running, "attempt": attempts, "by": by});
    // Admits hand out its key from the moment on at which it is running.
    let rotation = work::settled_rotation(core, &found.engine, Some(address)).await.unwrap_or_default();
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
            ..rotation
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
