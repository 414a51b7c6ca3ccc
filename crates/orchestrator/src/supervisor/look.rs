//! Looking at one engine, and performing what the planner says about it.

use super::Supervisor;
use super::view::Entry;
use crate::discovery::parse_policy;
use crate::failing;
use crate::locks::Actor;
use crate::registry::change::{Change, EnginePatch};
use crate::registry::rows::{AuditEntry, Found};
use crate::registry::{ProductRef, RegistryError};
use crate::work;
use contract::{EngineId, FleetError, Timestamp};
use fleet::audit::AuditAction;
use fleet::health::{Verdict, boot_probe_delay, verdict};
use fleet::lifecycle::{FailureReason, Status};
use fleet::observation::{ObjectState, Observation};
use fleet::operation::OperationKind;
use fleet::plan::{PlanStep, Seen, Source, plan};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Instant;

/// Lines of an engine's log that are searched for its last error.
const TAIL_LINES: u16 = 50;

/// The loop: engines that somebody asked to be looked at.
pub(super) async fn run(supervisor: Arc<Supervisor>) {
    while !supervisor.over.is_cancelled() {
        // The place comes first: what waits stays in the queue, which is bounded and has each engine once.
        let place = tokio::select! {
            place = Arc::clone(&supervisor.looks).acquire_owned() => place,
            () = supervisor.over.cancelled() => return,
        };
        let Ok(place) = place else { return };
        let Some(id) = supervisor.core.nudge.next() else {
            drop(place);
            tokio::select! {
                () = supervisor.core.nudge.engine.notified() => {}
                () = supervisor.over.cancelled() => return,
            }
            continue;
        };
        let inner = Arc::clone(&supervisor);
        supervisor.spawn(async move {
            if let Err(error) = look(&inner, id).await {
                crate::telemetry::loop_failed("events", &error);
            }
            drop(place);
        });
    }
}

/// Reads the row, looks at the object, plans, performs.
async fn look(supervisor: &Arc<Supervisor>, id: EngineId) -> Result<(), RegistryError> {
    let Some(found) = read(supervisor, id).await? else { return Ok(()) };
    // The clock of the row's own statement: the look begins after it.
    let at = found.now;
    let seen = match supervisor.core.backend.observe(id).await {
        Ok(observation) => Seen::Fresh(observation),
        Err(_) => Seen::NoWord,
    };
    supervisor.view.see(id, seen, Source::Observe, at);
    let Some(entry) = supervisor.view.lock().get(&id).cloned() else { return Ok(()) };
    let steps = plan(&entry.facts(), &supervisor.rules(), at);
    for step in steps {
        if step == PlanStep::ObjectMissing && !entry.absent_in_list {
            // Have the list asked now, which says whether one engine is gone or much of the fleet.
            supervisor.core.nudge.reconcile.notify_one();
        }
        perform(supervisor, &entry, step).await?;
    }
    Ok(())
}

/// Reads the row into the view; `None` when it is gone or belongs to another backend.
pub(super) async fn read(supervisor: &Arc<Supervisor>, id: EngineId) -> Result<Option<Found>, RegistryError> {
    let core = &supervisor.core;
    let found = match core.registry.found(id).await? {
        Some(found) if found.engine.backend == core.backend.kind() => found,
        _ => {
            supervisor.view.remove(id);
            return Ok(None);
        }
    };
    let Some(product) = core.registry.product(&ProductRef::Id(found.engine.product_id)).await? else {
        return Ok(None);
    };
    let idle_after = parse_policy(&product).ok().and_then(|p| core.policy_engine().idle_after(&p));
    supervisor.view.put(found.clone(), product.slug, idle_after);
    Ok(Some(found))
}

/// Performs one step without choices.
pub(super) async fn perform(
    supervisor: &Arc<Supervisor>,
    entry: &Entry,
    step: PlanStep,
) -> Result<(), RegistryError> {
    if !supervisor.holds() {
        return Ok(());
    }
    let core = &supervisor.core;
    let id = entry.found.engine.id;
    match step {
        PlanStep::ClaimAndContinue => core.nudge.claims.notify_one(),
        PlanStep::Observe => core.nudge.look_at(id),
        PlanStep::OpenOperation(kind) => open(supervisor, &entry.found, kind, json!({})).await,
        PlanStep::OpenRestart => open_restart(supervisor, &entry.found).await,
        PlanStep::OpenWake => open_wake(supervisor, &entry.found).await,
        PlanStep::Crashed { reason, exit_code, oom, restarts } => {
            crashed(
                supervisor,
                entry,
                reason,
                json!({"exit_code": exit_code, "oom": oom.then_some(true)}),
                restarts,
            )
            .await?;
        }
        // One look is not enough: a backend that lost much of the fleet is met in the list (§12.3).
        PlanStep::ObjectMissing if !entry.absent_in_list => {}
        PlanStep::ObjectMissing => {
            let message = "the backend object is gone";
            if failing::fail(core, &entry.found, FailureReason::ObjectMissing, message, json!({}))
                .await?
                .is_some()
            {
                core.nudge.look_at(id);
            }
        }
        PlanStep::ProbeForRecovery => series(supervisor, id, false),
        PlanStep::ThawStranger | PlanStep::StopGivenUp | PlanStep::StopStranger => {
            let (inner, found) = (Arc::clone(supervisor), entry.found.clone());
            let thaws = step == PlanStep::ThawStranger;
            supervisor.spawn_slow(id, async move {
                let done = match thaws {
                    true => thaw_stranger(&inner, &found).await,
                    false => stop_stranger(&inner, &found).await,
                };
                if let Err(error) = done {
                    crate::telemetry::loop_failed("reconcile", &error);
                }
            });
        }
        PlanStep::Refreeze | PlanStep::StopAgain => refreeze(supervisor, &entry.found).await,
        PlanStep::SleepCandidate => {}
        PlanStep::RemoveStale { generation } => {
            let (inner, entry) = (Arc::clone(supervisor), entry.clone());
            supervisor.spawn_slow(id, async move {
                if let Err(error) = remove_stale(&inner, &entry, generation).await {
                    crate::telemetry::loop_failed("reconcile", &error);
                }
            });
        }
        PlanStep::Adopt { generation } => {
            let old = entry.found.engine.generation;
            let patch = EnginePatch { generation: Some(generation), ..EnginePatch::default() };
            adopt(supervisor, entry, patch, json!({"field": "generation", "old": old, "new": generation}))
                .await?;
        }
        PlanStep::AdoptContainer { container_id } => {
            let old = entry.found.engine.container_id.clone();
            let facts = json!({"field": "container_id", "old": old, "new": container_id});
            let patch = EnginePatch { container_id: Some(Some(container_id)), ..EnginePatch::default() };
            adopt(supervisor, entry, patch, facts).await?;
        }
    }
    Ok(())
}

/// Whether the object may be touched outside any operation, asked under its lock: this is still the supervisor, nobody
/// has changed the row that was planned on, and nobody is at work. What was seen may be the work of an operation that
/// was opened after the row was read, or while this waited for its place. A key rotation is no such work.
async fn may_touch(supervisor: &Arc<Supervisor>, found: &Found) -> Result<bool, RegistryError> {
    let core = &supervisor.core;
    let now = core.registry.found(found.engine.id).await?;
    let is_as_read = now.is_some_and(|now| {
        now.engine.revision == found.engine.revision
            && now.operation.is_none_or(|open| open.kind == OperationKind::RotateKey)
    });
    if !is_as_read {
        core.nudge.look_at(found.engine.id);
    }
    Ok(is_as_read && supervisor.holds())
}

fn told(id: EngineId, call: &str, error: Option<backends::BackendError>) {
    if let Some(error) = error {
        tracing::warn!(engine_id = %id, call, %error, "a backend call of the supervisor failed");
    }
}

/// Opens an operation on nobody's behalf; one that is open already, or a row that moved on, is left to the next pass.
async fn open(supervisor: &Arc<Supervisor>, found: &Found, kind: OperationKind, params: Value) {
    if kind.steps().is_empty() {
        // A status of a later version: whoever opened it knows how to go on.
        tracing::warn!(engine_id = %found.engine.id, kind = kind.as_str(), "this version cannot perform the operation this engine needs");
        return;
    }
    let opening = supervisor.core.opening(found, kind, false, params, "system", None);
    begun(supervisor.core.begin(opening).await.err(), found.engine.id);
}

fn begun(error: Option<FleetError>, id: EngineId) {
    if let Some(error) = error {
        tracing::warn!(engine_id = %id, code = %error.code, "cannot open an operation: {}", error.message);
    }
}

pub(super) async fn open_restart(supervisor: &Arc<Supervisor>, found: &Found) {
    let core = &supervisor.core;
    if !core.pulse.backend_ok() {
        return;
    }
    let mut opening = core.opening(found, OperationKind::Restart, false, json!({}), "system", None);
    let made = u32::try_from(found.engine.restart_attempts).unwrap_or(0);
    let delay = core.restart_rules().delay(made).as_secs();
    let attempt = found.engine.restart_attempts.saturating_add(1);
    let metadata = json!({
        "attempt": attempt, "delay_s": delay, "operation_id": opening.operation.id,
        "from": Status::Failed, "to": Status::Failed,
    });
    opening.audit = vec![row(found, AuditAction::AutoRestartStart, metadata)];
    begun(core.begin(opening).await.err(), found.engine.id);
}

pub(super) async fn open_wake(supervisor: &Arc<Supervisor>, found: &Found) {
    if let Some(entry) = supervisor.view.lock().get_mut(&found.engine.id) {
        entry.scheduled_wake_at = found.engine.wake_at;
    }
    open(
        supervisor,
        found,
        OperationKind::Wake,
        json!({"reason": "schedule", "wake_at": found.engine.wake_at}),
    )
    .await;
}

fn row(found: &Found, action: AuditAction, metadata: Value) -> AuditEntry {
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

async fn crashed(
    supervisor: &Arc<Supervisor>,
    entry: &Entry,
    reason: FailureReason,
    facts: Value,
    restarts: Option<u32>,
) -> Result<(), RegistryError> {
    let core = &supervisor.core;
    let id = entry.found.engine.id;
    let said = core.backend.tail(id, TAIL_LINES).await.ok().and_then(work::last_words);
    let exit = facts["exit_code"].as_i64().map_or(String::new(), |code| format!(" with exit code {code}"));
    let message = match said {
        Some(line) => work::clip(format!("the engine ended{exit}: {line}")),
        None => format!("the engine ended{exit}"),
    };
    if let Some(engine) = failing::fail(core, &entry.found, reason, &message, facts).await? {
        if let Some(restarts) = restarts
            && let Some(entry) = supervisor.view.lock().get_mut(&id)
        {
            entry.vitals.backend_restarts = restarts;
            entry.accounted_start = None;
        }
        // One that was given up is being stopped: it must not be found healthy meanwhile.
        if core.backend.capabilities().self_restarts && engine.next_restart_at.is_some() {
            series(supervisor, id, true);
        }
        core.nudge.look_at(id);
    }
    Ok(())
}

/// Probes a failed engine as a boot is probed, until it serves or its restart is due.
fn series(supervisor: &Arc<Supervisor>, id: EngineId, by_backend: bool) {
    match supervisor.view.lock().get_mut(&id) {
        Some(entry) if !entry.in_series => entry.in_series = true,
        _ => return,
    }
    let inner = Arc::clone(supervisor);
    supervisor.spawn(async move {
        if let Err(error) = until_recovered(&inner, id, by_backend).await {
            crate::telemetry::loop_failed("events", &error);
        }
        if let Some(entry) = inner.view.lock().get_mut(&id) {
            entry.in_series = false;
        }
    });
}

async fn until_recovered(
    supervisor: &Arc<Supervisor>,
    id: EngineId,
    by_backend: bool,
) -> Result<(), RegistryError> {
    let core = &supervisor.core;
    let began = Instant::now();
    let mut attempt = 0;
    loop {
        let Some(found) = core.registry.found(id).await? else { return Ok(()) };
        // A rotation that the crash has broken off is about to end; until then nobody can write a recovery down.
        let rotates = found.operation.as_ref().is_some_and(|open| open.kind == OperationKind::RotateKey);
        if found.engine.status != Status::Failed || (found.operation.is_some() && !rotates) {
            return Ok(());
        }
        if found.engine.next_restart_at.is_some_and(|due| due <= found.now)
            || began.elapsed() > core.config.boot_timeout_s
        {
            return Ok(());
        }
        let Ok(seen) = core.backend.observe(id).await else { return Ok(()) };
        let Observation::Present(object) = &seen else { return Ok(()) };
        if let ObjectState::Running { address: Some(address), restarts, started_at } = &object.state
            && !rotates
        {
            let reply = core.prober.get_health(*address, fleet::health::BOOT_PROBE_TIMEOUT).await;
            let verdict = verdict(&work::outcome(reply));
            if verdict.serves() {
                // Whoever is at the object (a stop after giving up) has the last word; the next look sees what is left.
                let Some(_held) = core.locks.try_lock(id, Actor::Recovery) else { return Ok(()) };
                if let Some(entry) = supervisor.view.lock().get_mut(&id) {
                    entry.vitals.backend_restarts = *restarts;
                    entry.accounted_start = Some(*started_at);
                    entry.vitals.count(&verdict, found.now);
                    core.note_vitals(id, crate::vitals::to_row(&entry.vitals));
                }
                if failing::recover(core, &found, by_backend, Some(object.container_id.clone()), *address)
                    .await?
                    .is_some()
                {
                    core.nudge.look_at(id);
                }
                return Ok(());
            }
        } else if matches!(object.state, ObjectState::Exited { .. })
            && !core.backend.capabilities().self_restarts
        {
            return Ok(());
        }
        tokio::time::sleep(boot_probe_delay(attempt, began.elapsed())).await;
        attempt += 1;
    }
}

/// A sleeper runs (its daemon was restarted): freeze or stop it again. Nobody can hold a lease on a sleeper, and its
/// revision is the fence. As an operation, so that whoever wakes it meanwhile waits until the freeze is over and then
/// thaws it.
async fn refreeze(supervisor: &Arc<Supervisor>, found: &Found) {
    let core = &supervisor.core;
    let opening =
        core.opening(found, OperationKind::Sleep, false, json!({"reason": "refreeze"}), "system", None);
    begun(core.begin(opening).await.err(), found.engine.id);
}

/// An engine runs that should be down.
async fn stop_stranger(supervisor: &Arc<Supervisor>, found: &Found) -> Result<(), RegistryError> {
    let (core, id) = (&supervisor.core, found.engine.id);
    if may_touch(supervisor, found).await? {
        tracing::warn!(engine_id = %id, status = found.engine.status.as_str(), "an engine that should be down runs; stopping it");
        told(id, "stop", core.backend.stop(id, core.config.engine_stop_grace_s).await.err());
    }
    Ok(())
}

/// A running engine was frozen by somebody else.
async fn thaw_stranger(supervisor: &Arc<Supervisor>, found: &Found) -> Result<(), RegistryError> {
    let (core, id) = (&supervisor.core, found.engine.id);
    if may_touch(supervisor, found).await? {
        tracing::warn!(engine_id = %id, "a running engine was frozen by somebody else; thawing it");
        told(id, "thaw", core.backend.thaw(id).await.err());
        core.nudge.look_at(id);
    }
    Ok(())
}

async fn remove_stale(
    supervisor: &Arc<Supervisor>,
    entry: &Entry,
    generation: i64,
) -> Result<(), RegistryError> {
    let core = &supervisor.core;
    let id = entry.found.engine.id;
    if !may_touch(supervisor, &entry.found).await? {
        return Ok(());
    }
    // Looked at again right before: only the old object goes.
    match core.backend.observe(id).await {
        Ok(Observation::Present(object))
            if supervisor.holds()
                && object.generation == generation
                && generation < entry.found.engine.generation =>
        {
            if let Err(error) = core.backend.stop(id, core.config.engine_stop_grace_s).await {
                told(id, "stop", Some(error));
                return Ok(());
            }
            if let Err(error) = core.backend.remove(id).await {
                told(id, "remove", Some(error));
                return Ok(());
            }
        }
        _ => return Ok(()),
    }
    let metadata =
        json!({"object": format!("engine-{}", id.short()), "kind": "stale_generation", "brain": "kept"});
    core.registry.append(&[row(&entry.found, AuditAction::OrphanRemoved, metadata)]).await?;
    core.nudge.look_at(id);
    Ok(())
}

async fn adopt(
    supervisor: &Arc<Supervisor>,
    entry: &Entry,
    patch: EnginePatch,
    facts: Value,
) -> Result<(), RegistryError> {
    let change = Change {
        engine_id: entry.found.engine.id,
        revision: entry.found.engine.revision,
        only_without_operation: false,
        patch,
        audit: vec![row(&entry.found, AuditAction::Adopt, facts)],
    };
    supervisor.core.registry.change(&change).await?;
    supervisor.core.nudge.look_at(entry.found.engine.id);
    Ok(())
}

/// What the probe loop does with a verdict that is one failure too many.
pub(super) async fn sick(
    supervisor: &Arc<Supervisor>,
    id: EngineId,
    reason: FailureReason,
) -> Result<(), RegistryError> {
    let Some(mut found) = read(supervisor, id).await? else { return Ok(()) };
    let Some(entry) = supervisor.view.lock().get(&id).cloned() else { return Ok(()) };
    found.vitals = crate::vitals::to_row(&entry.vitals);
    let message = fleet::explain::failure(reason, entry.vitals.health_failures);
    if failing::fail(&supervisor.core, &found, reason, &message, json!({})).await?.is_some() {
        // What led to it is in the row as soon as it is.
        supervisor.core.registry.flush_vitals(&[(id, found.vitals)]).await?;
        supervisor.core.nudge.look_at(id);
    }
    Ok(())
}

/// The verdict of a probe, counted.
pub(super) fn counted(entry: &mut Entry, verdict: &Verdict, now: Timestamp) -> bool {
    entry.vitals.count(verdict, now);
    let changed = entry.last_verdict.is_some_and(|last| last != verdict.word());
    entry.last_verdict = Some(verdict.word());
    changed
}
