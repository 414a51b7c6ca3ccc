//! The sweep: every running engine is asked once per interval, spread over it, fifty at a time.

use super::{Supervisor, look, never};
use crate::registry::RegistryError;
use crate::registry::change::{Change, EnginePatch};
use crate::registry::rows::AuditEntry;
use crate::{telemetry, work};
use contract::{EngineId, Timestamp};
use fleet::audit::AuditAction;
use fleet::health::{Verdict, offset, verdict};
use fleet::operation::OperationKind;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

/// How often due probes are looked for. Longer bunches them; shorter is scans of memory for nothing.
const TICK: Duration = Duration::from_millis(100);

/// The loop.
pub(super) async fn run(supervisor: Arc<Supervisor>) {
    while !supervisor.over.is_cancelled() {
        let began = Instant::now();
        for (id, address) in due(&supervisor) {
            let Ok(place) = Arc::clone(&supervisor.probes).acquire_owned().await else { return };
            if !supervisor.holds() {
                // The lease loop ends this tenure, or has just renewed it.
                break;
            }
            let inner = Arc::clone(&supervisor);
            supervisor.spawn(async move {
                if let Err(error) = probe(&inner, id, address).await {
                    telemetry::loop_failed("probe", &error);
                }
                drop(place);
            });
        }
        telemetry::loop_ran("probe", began.elapsed());
        tokio::select! {
            () = tokio::time::sleep(TICK) => {}
            () = supervisor.over.cancelled() => return,
            () = never() => {}
        }
    }
}

/// The engines whose time has come. Their next time is set only when the probe has ended.
fn due(supervisor: &Supervisor) -> Vec<(EngineId, SocketAddr)> {
    let interval = supervisor.core.config.health_check_interval_s;
    let now = Instant::now();
    let clock = supervisor.core.clock.now();
    let mut due = Vec::new();
    for (id, entry) in supervisor.view.lock().iter_mut() {
        let probed = crate::discovery::is_admittable(&entry.found.engine)
            // A key rotation may stay open for long, and must not keep a sick engine.
            && entry.found.operation.as_ref().is_none_or(|open| open.kind == OperationKind::RotateKey)
            // A run nobody has looked at yet is not counted against the last one.
            && entry.vitals.backend_restarts != u32::MAX;
        if !probed {
            continue;
        }
        let Some(address) = entry.address() else { continue };
        let at = *entry.next_probe.get_or_insert_with(|| now + until_offset(*id, interval, clock));
        if at <= now {
            // Nobody takes it up again before the probe under way has ended or its time is long over.
            entry.next_probe = Some(now + interval * 4);
            due.push((*id, address));
        }
    }
    due
}

/// Time until this engine's place in the interval, the same on every replica.
fn until_offset(id: EngineId, interval: Duration, clock: Timestamp) -> Duration {
    let span = interval.as_millis().max(1);
    let now = u128::try_from(clock.millis()).unwrap_or(0) % span;
    let at = offset(id, interval).as_millis();
    Duration::from_millis(u64::try_from((at + span - now) % span).unwrap_or(0))
}

async fn probe(supervisor: &Arc<Supervisor>, id: EngineId, address: SocketAddr) -> Result<(), RegistryError> {
    let core = &supervisor.core;
    let interval = core.config.health_check_interval_s;
    let began = Instant::now();
    let reply = core.prober.get_health(address, core.config.health_check_timeout_s.min(interval)).await;
    let verdict = verdict(&work::outcome(reply));
    telemetry::probe(verdict.word(), began.elapsed());
    // Another supervisor compares what is stored with its own reading: both are the database's.
    let now = core.clock.now();
    let (vitals, told, found) = {
        let mut entries = supervisor.view.lock();
        let Some(entry) = entries.get_mut(&id) else { return Ok(()) };
        entry.next_probe = Some(Instant::now() + until_offset(id, interval, now).max(interval / 2));
        if !crate::discovery::is_admittable(&entry.found.engine) || entry.vitals.backend_restarts == u32::MAX
        {
            return Ok(());
        }
        let changed = look::counted(entry, &verdict, now);
        let sample = entry.samples.takes(core.config.audit_health_sample);
        (entry.vitals.clone(), changed || sample, entry.found.clone())
    };
    core.note_vitals(id, crate::vitals::to_row(&vitals));
    if told {
        write_down(supervisor, &found, &verdict, began.elapsed(), vitals.health_failures).await?;
    }
    match &verdict {
        Verdict::Failed { reason } => {
            if vitals.exhausted(core.config.health_max_failures) {
                let running = supervisor.view.running();
                let allowed = {
                    let mut brake = supervisor.brake.lock().unwrap_or_else(PoisonError::into_inner);
                    let allowed = brake.allows(running, interval, now);
                    telemetry::failure_brake(brake.is_active(interval, now));
                    allowed
                };
                if allowed {
                    look::sick(supervisor, id, *reason).await?;
                } else {
                    tracing::warn!(engine_id = %id, "too many engines look sick at once; this one waits");
                }
            } else {
                // A dead process is seen in milliseconds by looking at it.
                core.nudge.look_at(id);
            }
        }
        Verdict::Healthy { .. } | Verdict::Degraded { .. } => {
            let attempts = u32::try_from(found.engine.restart_attempts).unwrap_or(0);
            if core.restart_rules().resets(attempts, vitals.healthy_since, now) {
                let change = Change {
                    engine_id: id,
                    revision: found.engine.revision,
                    only_without_operation: true,
                    patch: EnginePatch { restart_attempts: Some(0), ..EnginePatch::default() },
                    audit: Vec::new(),
                };
                core.registry.change(&change).await?;
                core.nudge.look_at(id);
            }
        }
    }
    Ok(())
}

async fn write_down(
    supervisor: &Supervisor,
    found: &crate::registry::rows::Found,
    verdict: &Verdict,
    took: Duration,
    failures: u32,
) -> Result<(), RegistryError> {
    let mut metadata = json!({"verdict": verdict.word(), "latency_ms": took.as_millis() as u64});
    if let Some(report) = verdict.report()
        && !report.subsystems.is_empty()
    {
        metadata["subsystems"] = json!(report.subsystems);
    }
    if failures > 0 {
        metadata["failures"] = Value::from(failures);
    }
    supervisor
        .core
        .registry
        .append(&[AuditEntry {
            started_at: None,
            product_id: Some(found.engine.product_id),
            user_id: Some(found.engine.user_id.clone()),
            engine_id: Some(found.engine.id),
            action: AuditAction::HealthCheck,
            actor: "system".to_owned(),
            metadata,
            has_duration: false,
        }])
        .await
}
