//! The planner: facts about one engine and a time give the steps to take (§12.1).
//!
//! Pure and total: every combination of facts has an answer, and the same facts have the same one. It refuses to
//! act on what it does not know: without fresh word from the backend nothing is destroyed, nothing created and no
//! status changed, and what a list says about an absence or an old object is confirmed by a look at the source
//! first. The invariant: an engine that is as recorded gets no step, and that costs no allocation.

use crate::health::Vitals;
use crate::idle::{self, IdleFacts, IdleRules};
use crate::lifecycle::{BackendKind, Desired, FailureReason, SleepMode, Status};
use crate::observation::{Object, ObjectState, Observation};
use crate::operation::OperationKind;
use crate::restart::since;
use contract::{EngineId, ProductId, Timestamp};
use std::time::Duration;

/// So many reconcile intervals after which the last word of the backend is none. More would act on what long
/// changed; fewer would call a single slow list a silence.
pub const STALE_INTERVALS: u32 = 3;

/// What is known about one engine. All times are the database's clock.
#[derive(Debug, Clone, PartialEq)]
pub struct EngineFacts {
    /// Which engine.
    pub engine_id: EngineId,
    /// Whose.
    pub product_id: ProductId,
    /// Backend the row belongs to; rows of another kind are left alone.
    pub backend: BackendKind,
    /// What was last confirmed.
    pub status: Status,
    /// When that was written.
    pub status_since: Timestamp,
    /// What it should be.
    pub desired: Desired,
    /// Revision of the row these facts were read from; the executor's guard.
    pub revision: i64,
    /// Writer generation of the row.
    pub generation: i64,
    /// It has booted once (`boot_duration_ms` is set).
    pub booted: bool,
    /// The backend's name of the object, as recorded.
    pub container_id: Option<String>,
    /// How it sleeps.
    pub sleep_mode: Option<SleepMode>,
    /// When it must be awake.
    pub wake_at: Option<Timestamp>,
    /// End of the last admit lease.
    pub admit_lease_until: Option<Timestamp>,
    /// The next automatic restart; `None` while failed = given up.
    pub next_restart_at: Option<Timestamp>,
    /// Last start or wake.
    pub started_at: Option<Timestamp>,
    /// `wake_at` of the last scheduled wake.
    pub scheduled_wake_at: Option<Timestamp>,
    /// Effective idle time of its product; `None` = never.
    pub idle_after: Option<Duration>,
    /// What probes have added up to.
    pub vitals: Vitals,
    /// The open operation.
    pub open: Option<OpenOperation>,
    /// What the backend says.
    pub seen: Seen,
    /// Who said it.
    pub source: Source,
    /// When the list was asked for, or the look begun.
    pub observed_at: Timestamp,
    /// Start time of the run that is accounted for; `None` = not known (this supervisor has not seen one yet).
    pub accounted_start: Option<Timestamp>,
    /// A next key is stored: a rotation was broken off, and the engine may take either key.
    pub rotation_unfinished: bool,
}

/// The open operation, as far as the planner cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenOperation {
    /// Its kind.
    pub kind: OperationKind,
    /// Whether somebody works on it.
    pub claim: Claim,
    /// Not before then.
    pub retry_at: Option<Timestamp>,
}

/// Who works on an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// Nobody has claimed it.
    Unowned,
    /// A replica has until then.
    Until(Timestamp),
}

/// What the backend says about one engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// Nothing: unreachable, wrong identity, or a list that is not believed.
    NoWord,
    /// It answered.
    Fresh(Observation),
}

/// Where an observation comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// One line of a list; enough to begin with, never enough to remove or to declare dead.
    List,
    /// A look at this object, straight from the source.
    Observe,
}

/// The deployment's side of planning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// The backend this deployment runs.
    pub backend: BackendKind,
    /// `ORCH_RECONCILE_INTERVAL_S`.
    pub reconcile_interval: Duration,
    /// `ORCH_SLEEP_MODE`.
    pub sleep_mode: SleepMode,
    /// `ORCH_WAKE_LEAD_S`.
    pub wake_lead: Duration,
    /// `ORCH_WAKE_GRACE_S`.
    pub wake_grace: Duration,
}

/// One thing to do. The executor performs steps without choices; each is guarded by the facts' revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PlanStep {
    /// Claim the open operation and continue at the step named in its row.
    ClaimAndContinue,
    /// Open an operation that leads where the row says.
    OpenOperation(OperationKind),
    /// Look at the object, straight from the source, and plan again.
    Observe,
    /// The engine stopped serving: `failed` with audit `health_failed`, then the probe series.
    Crashed {
        /// Why.
        reason: FailureReason,
        /// Exit code, when known.
        exit_code: Option<i32>,
        /// Killed for lack of memory.
        oom: bool,
        /// The backend restarted it by itself: what to record as accounted for.
        restarts: Option<u32>,
    },
    /// A stranger froze it: thaw, probe, log WARN.
    ThawStranger,
    /// The object is gone: `failed` with reason `object_missing`.
    ObjectMissing,
    /// Open `restart`.
    OpenRestart,
    /// It may serve again without anybody's help: probe series, then `recovered`.
    ProbeForRecovery,
    /// It was given up on and the backend keeps restarting it: stop the object.
    StopGivenUp,
    /// A sleeper runs again (daemon restarted): fence check, then freeze. Audit `sleep`, `refreeze`.
    Refreeze,
    /// A sleeper that was stopped runs again: fence check, then stop. Audit `sleep`, `refreeze`.
    StopAgain,
    /// Open `wake` for its schedule.
    OpenWake,
    /// Idle by what is remembered: probe, then the fence.
    SleepCandidate,
    /// A stopped engine runs: stop the object, log WARN.
    StopStranger,
    /// Remove the object of an older generation; storage is kept. Audit `orphan_removed`.
    RemoveStale {
        /// Its generation.
        generation: i64,
    },
    /// The row takes over the higher generation. Audit `adopt`.
    Adopt {
        /// The observed one.
        generation: i64,
    },
    /// The row takes over the backend's new name of the same object. Audit `adopt`.
    AdoptContainer {
        /// The observed one.
        container_id: String,
    },
}

/// The steps for one engine now; none for one that is as recorded.
pub fn plan(facts: &EngineFacts, rules: &Rules, now: Timestamp) -> Vec<PlanStep> {
    let mut steps = Vec::new();
    if facts.backend != rules.backend {
        return steps;
    }
    let word = fresh(facts, rules, now);
    match &facts.open {
        Some(open) => {
            with_operation(facts, open, word, now, &mut steps);
            // A key rotation touches no object and must not hide a crash.
            if let (OperationKind::RotateKey, Status::Running, Desired::Running, Some(observation)) =
                (open.kind, facts.status, facts.desired, word)
                && observation.object().is_none_or(|object| object.generation == facts.generation)
            {
                running(facts, rules, observation, now, &mut steps);
            }
        }
        None => {
            if let Some(observation) = word {
                at_rest(facts, rules, observation, now, &mut steps);
            }
        }
    }
    steps
}

/// The backend's word, if it is one: not older than three passes, and not from before the row last changed (a list
/// that was asked for before a boot ended says nothing about the engine that booted).
pub fn fresh<'a>(facts: &'a EngineFacts, rules: &Rules, now: Timestamp) -> Option<&'a Observation> {
    match &facts.seen {
        Seen::NoWord => None,
        Seen::Fresh(observation) => {
            let stale = since(facts.observed_at, now) > rules.reconcile_interval * STALE_INTERVALS;
            (!stale && facts.observed_at >= facts.status_since).then_some(observation)
        }
    }
}

fn with_operation(
    facts: &EngineFacts,
    open: &OpenOperation,
    word: Option<&Observation>,
    now: Timestamp,
    steps: &mut Vec<PlanStep>,
) {
    let held = match open.claim {
        Claim::Unowned => false,
        Claim::Until(until) => until >= now,
    };
    if held || open.retry_at.is_some_and(|at| at > now) {
        return;
    }
    // Whoever continues may make an object: it must know the highest generation there is.
    if facts.status != Status::Destroying
        && let Some(object) = word.and_then(Observation::object)
        && object.generation > facts.generation
    {
        steps.push(PlanStep::Adopt { generation: object.generation });
    }
    steps.push(PlanStep::ClaimAndContinue);
}

fn at_rest(
    facts: &EngineFacts,
    rules: &Rules,
    observation: &Observation,
    now: Timestamp,
    steps: &mut Vec<PlanStep>,
) {
    if let Some(object) = observation.object()
        && facts.status != Status::Destroying
    {
        if object.generation > facts.generation {
            steps.push(PlanStep::Adopt { generation: object.generation });
            return;
        }
        if object.generation < facts.generation {
            confirmed(facts, PlanStep::RemoveStale { generation: object.generation }, steps);
            return;
        }
        if facts.container_id.as_ref().is_some_and(|known| *known != object.container_id) {
            steps.push(PlanStep::AdoptContainer { container_id: object.container_id.clone() });
        }
    }
    match (facts.status, facts.desired) {
        (Status::Provisioning, Desired::Running | Desired::Sleeping) => {
            let kind = if facts.booted { OperationKind::Recreate } else { OperationKind::Provision };
            steps.push(PlanStep::OpenOperation(kind));
        }
        (Status::Destroying, _) | (_, Desired::Destroyed) => {
            steps.push(PlanStep::OpenOperation(OperationKind::Destroy));
        }
        (Status::Provisioning | Status::Running | Status::Sleeping | Status::Failed, Desired::Stopped) => {
            steps.push(PlanStep::OpenOperation(OperationKind::Stop));
        }
        (Status::Running, Desired::Sleeping) => steps.push(PlanStep::OpenOperation(OperationKind::Sleep)),
        (Status::Sleeping, Desired::Running) => steps.push(PlanStep::OpenOperation(OperationKind::Wake)),
        (Status::Stopped, Desired::Running | Desired::Sleeping) => {
            steps.push(PlanStep::OpenOperation(OperationKind::Start));
        }
        (Status::Running, Desired::Running) => running(facts, rules, observation, now, steps),
        (Status::Failed, Desired::Running | Desired::Sleeping) => failed(facts, observation, now, steps),
        (Status::Sleeping, Desired::Sleeping) => sleeping(facts, observation, now, steps),
        (Status::Stopped, Desired::Stopped) => stopped(observation, steps),
    }
}

fn running(
    facts: &EngineFacts,
    rules: &Rules,
    observation: &Observation,
    now: Timestamp,
    steps: &mut Vec<PlanStep>,
) {
    let crashed = |reason, exit_code, oom, restarts| PlanStep::Crashed { reason, exit_code, oom, restarts };
    let object = match observation {
        Observation::Absent => return confirmed(facts, PlanStep::ObjectMissing, steps),
        Observation::Present(object) => object,
    };
    match object.state {
        ObjectState::Running { restarts, .. } if is_another_run(facts, object) => {
            steps.push(crashed(FailureReason::Crashed, None, false, Some(restarts)));
        }
        // Which key it takes is known to nobody but the engine: asked now, before a key is handed out that is none.
        ObjectState::Running { .. } if facts.rotation_unfinished && facts.open.is_none() => {
            steps.push(PlanStep::OpenOperation(OperationKind::RotateKey));
        }
        ObjectState::Running { .. } => {
            if idle::is_candidate(&idle_facts(facts), &idle_rules(facts, rules), now) {
                steps.push(PlanStep::SleepCandidate);
            }
        }
        ObjectState::Exited { code, oom, .. } => {
            steps.push(crashed(FailureReason::of_exit(code, oom), code, oom, None));
        }
        ObjectState::Restarting { code } => {
            steps.push(crashed(FailureReason::of_exit(code, false), code, false, None));
        }
        ObjectState::Created => steps.push(crashed(FailureReason::Crashed, None, false, None)),
        ObjectState::Paused => steps.push(PlanStep::ThawStranger),
        // The next look finds it absent.
        ObjectState::Removing => {}
    }
}

/// A run that began by itself: the backend counted more restarts, or it began later, than is accounted for.
fn is_another_run(facts: &EngineFacts, object: &Object) -> bool {
    match object.state {
        ObjectState::Running { started_at, restarts, .. } => {
            restarts > facts.vitals.backend_restarts
                || facts.accounted_start.is_some_and(|accounted| started_at > accounted)
        }
        ObjectState::Created
        | ObjectState::Paused
        | ObjectState::Exited { .. }
        | ObjectState::Restarting { .. }
        | ObjectState::Removing => false,
    }
}

fn failed(facts: &EngineFacts, observation: &Observation, now: Timestamp, steps: &mut Vec<PlanStep>) {
    if facts.next_restart_at.is_some_and(|due| due <= now) {
        // Its first step probes: an engine that is healthy again is not touched.
        steps.push(PlanStep::OpenRestart);
        return;
    }
    let Observation::Present(object) = observation else { return };
    match object.state {
        // Asked once per run, not once per pass: failed engines are not in the sweep.
        ObjectState::Running { .. } if facts.accounted_start.is_none() || is_another_run(facts, object) => {
            steps.push(PlanStep::ProbeForRecovery);
        }
        ObjectState::Restarting { .. } if facts.next_restart_at.is_none() => {
            steps.push(PlanStep::StopGivenUp)
        }
        ObjectState::Running { .. }
        | ObjectState::Restarting { .. }
        | ObjectState::Created
        | ObjectState::Paused
        | ObjectState::Exited { .. }
        | ObjectState::Removing => {}
    }
}

fn sleeping(facts: &EngineFacts, observation: &Observation, now: Timestamp, steps: &mut Vec<PlanStep>) {
    if facts.wake_at.is_some_and(|due| due <= now) {
        steps.push(PlanStep::OpenWake);
        return;
    }
    if !observation.is_running() || !idle::fence_open(facts.admit_lease_until, now) {
        return;
    }
    match facts.sleep_mode {
        Some(SleepMode::Freeze) => steps.push(PlanStep::Refreeze),
        Some(SleepMode::Stop) => steps.push(PlanStep::StopAgain),
        Some(SleepMode::Label) | None => {}
    }
}

fn stopped(observation: &Observation, steps: &mut Vec<PlanStep>) {
    let Observation::Present(object) = observation else { return };
    match object.state {
        ObjectState::Running { .. } | ObjectState::Restarting { .. } => steps.push(PlanStep::StopStranger),
        ObjectState::Created | ObjectState::Paused | ObjectState::Exited { .. } | ObjectState::Removing => {}
    }
}

/// A list is a hint: what declares dead or removes is preceded by a look at the source.
fn confirmed(facts: &EngineFacts, step: PlanStep, steps: &mut Vec<PlanStep>) {
    match facts.source {
        Source::List => steps.push(PlanStep::Observe),
        Source::Observe => steps.push(step),
    }
}

/// The facts as idleness sees them, by what is remembered of the last probe.
pub fn idle_facts(facts: &EngineFacts) -> IdleFacts {
    IdleFacts {
        status: facts.status,
        desired: facts.desired,
        open: facts.open.map(|open| open.kind),
        lease_until: facts.admit_lease_until,
        activity: facts.vitals.activity,
        started_at: facts.started_at,
        scheduled_wake_at: facts.scheduled_wake_at,
    }
}

/// The rules as idleness sees them, for this engine's product.
pub fn idle_rules(facts: &EngineFacts, rules: &Rules) -> IdleRules {
    IdleRules {
        idle_after: facts.idle_after,
        mode: rules.sleep_mode,
        wake_lead: rules.wake_lead,
        wake_grace: rules.wake_grace,
    }
}

/// When this engine needs a plan although nothing is reported: a due restart or wake. The loops `restart` and
/// `schedule` sleep until the earliest of these.
pub fn due_at(facts: &EngineFacts) -> Option<Timestamp> {
    match facts.status {
        Status::Failed => facts.next_restart_at,
        Status::Sleeping => facts.wake_at,
        Status::Provisioning | Status::Running | Status::Stopped | Status::Destroying => None,
    }
}
