//! Executors: each performs one claimed operation, step by step, and records every step before it acts.
//!
//! A step looks at the world first and does only what is missing, so that repeating it is harmless. Whoever finds an
//! operation with an ended lease goes on at the step that is written in its row. An executor writes under its claim
//! only: once that is lost it lets go and changes nothing more.

mod boot;
mod ending;
mod ends;
mod not_started;
mod resting;
mod rotating;
mod starting;

use crate::claims::Claim;
use crate::core::Core;
use crate::gate::Promise;
use crate::locks::{Actor, Held};
use crate::registry::ENGINE_GONE;
use crate::registry::ProductRef;
use crate::registry::RegistryError;
use crate::registry::change::EnginePatch;
use crate::registry::rows::{Engine, Found, Operation};
use crate::telemetry::{self, Phase};
use backends::BackendError;
use contract::FleetError;
use fleet::lifecycle::{Desired, Status};
use fleet::operation::{OperationKind, Step};
use fleet::policy::Policy;
use fleet::start_queue::Class;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tracing::Instrument;

pub(crate) use boot::{clip, last_words, outcome};
pub(crate) use rotating::{settled_rotation, with_new_key};

/// Waits between two looks at whether a predecessor has let go.
const SETTLE_LOOK: Duration = Duration::from_millis(20);
/// Longest wait while the backend is away: it comes back for everybody at once.
const AWAY_MAX: Duration = Duration::from_secs(15);
/// Waits between tries to reach the database from inside a step.
const DATABASE_AGAIN: Duration = Duration::from_millis(200);

/// How far back superseded operations are followed. Each of them was opened within the lease of the one before, so
/// more than these have long ended; fewer would let two executors act on one object.
const PREDECESSORS_MAX: usize = 32;

/// One operation being performed.
struct Work {
    core: Arc<Core>,
    claim: Arc<Claim>,
    operation: Operation,
    found: Found,
    policy: Policy,
    timings: BTreeMap<String, u64>,
    /// Metadata of the closing audit row besides the common keys.
    notes: Map<String, Value>,
    /// Set by the step that started the object: when it did.
    started: Option<Instant>,
    address: Option<std::net::SocketAddr>,
    /// The place in the start queue that was kept when the request was accepted.
    promise: Option<Promise>,
}

/// What follows a step.
enum Flow {
    /// That step.
    Next(Step),
    /// The operation has ended and its end is written.
    Ended,
    /// Try this step again after a while; the row says why.
    Later(Duration, FleetError),
    /// The claim is lost, or the row is gone.
    Lost,
}

/// Why a step did not succeed.
enum StepError {
    Backend(BackendError),
    Boot(boot::BootFailure),
    Full(u64),
    NoPort,
    Registry(RegistryError),
    Lost,
}

impl From<BackendError> for StepError {
    fn from(error: BackendError) -> Self {
        StepError::Backend(error)
    }
}

impl From<RegistryError> for StepError {
    fn from(error: RegistryError) -> Self {
        StepError::Registry(error)
    }
}

/// What to change in an engine's row when an operation of this kind is opened on it.
pub(crate) fn opening_patch(kind: OperationKind, engine: &Engine) -> EnginePatch {
    let cleared = EnginePatch {
        restart_attempts: Some(0),
        next_restart_in: Some(None),
        failure: Some(None),
        reset_vitals: true,
        ..EnginePatch::default()
    };
    let failed = engine.status == Status::Failed;
    let patch = |desired| {
        let base = if failed { cleared.clone() } else { EnginePatch::default() };
        EnginePatch { desired: Some(desired), ..base }
    };
    match kind {
        OperationKind::Start | OperationKind::Wake => patch(Desired::Running),
        OperationKind::Stop => patch(Desired::Stopped),
        OperationKind::Sleep => EnginePatch { desired: Some(Desired::Sleeping), ..EnginePatch::default() },
        OperationKind::Destroy => EnginePatch {
            status: Some(Status::Destroying),
            desired: Some(Desired::Destroyed),
            ..EnginePatch::default()
        },
        OperationKind::Restart => EnginePatch {
            restart_attempts: Some(engine.restart_attempts.saturating_add(1)),
            next_restart_in: Some(None),
            ..EnginePatch::default()
        },
        OperationKind::Provision
        | OperationKind::RotateKey
        | OperationKind::Upgrade
        | OperationKind::Recreate
        | OperationKind::Restore => EnginePatch::default(),
    }
}

/// Performs an operation this process has claimed with a statement sent at `sent`.
pub(crate) fn spawn(core: &Arc<Core>, operation: Operation, sent: Instant) {
    spawn_promised(core, operation, sent, None);
}

/// The same, with the place in the start queue that was kept for it.
pub(crate) fn spawn_promised(
    core: &Arc<Core>,
    operation: Operation,
    sent: Instant,
    promise: Option<Promise>,
) {
    let Some(claim) = core.claims.take(operation.id, operation.claim, sent) else {
        return;
    };
    let span = tracing::info_span!(
        "operation",
        operation_id = %operation.id,
        engine_id = %operation.engine_id,
        request_id = operation.request_id.as_deref(),
    );
    let core = Arc::clone(core);
    let tasks = core.tasks.clone();
    tasks.spawn(
        async move {
            let held = Arc::clone(&claim);
            let inner = Arc::clone(&core);
            // In a task of its own, so that a defect in one operation ends that operation only.
            let run = tokio::spawn(run(inner, operation, claim, promise).in_current_span());
            if let Err(broken) = run.await {
                telemetry::loop_failed("executor", &broken);
            }
            core.claims.drop_claim(&held);
        }
        .instrument(span),
    );
}

async fn run(core: Arc<Core>, operation: Operation, claim: Arc<Claim>, promise: Option<Promise>) {
    let mut work = match Work::load(&core, &operation, &claim).await {
        Some(work) => work,
        None => return,
    };
    work.promise = promise;
    loop {
        let (kind, step) = (work.operation.kind, work.operation.step);
        if core.fail_points.pass(kind.as_str(), step.as_str(), "before") {
            return;
        }
        let began = Instant::now();
        let Ok(mut held) = work.turn(step).await else { break };
        let claim = Arc::clone(&work.claim);
        let done = under(&mut held, &claim, work.perform(step)).await;
        if core.fail_points.pass(kind.as_str(), step.as_str(), "after") {
            return;
        }
        telemetry::step_ended(
            work.operation.id,
            work.operation.engine_id,
            kind,
            step.as_str(),
            began.elapsed(),
        );
        let mut flow = match done {
            Ok(flow) => flow,
            Err(error) => under(&mut held, &claim, work.failed(step, error)).await,
        };
        drop(held);
        if let Flow::Next(next) = flow {
            match work.advance(next).await {
                None => continue,
                Some(instead) => flow = instead,
            }
        }
        match flow {
            Flow::Ended => return,
            Flow::Later(delay, error) => {
                work.postpone(delay, &error).await;
                return;
            }
            Flow::Next(_) | Flow::Lost => break,
        }
    }
    work.let_go().await;
}

/// Works under the engine's lock, which is given back early when the claim has lapsed: a call that hangs keeps the next
/// one away for as long as a lease, not for ever (§5.3).
async fn under<T>(held: &mut Option<Held>, claim: &Claim, work: impl Future<Output = T>) -> T {
    tokio::pin!(work);
    if held.is_some() {
        tokio::select! {
            done = &mut work => return done,
            () = claim.lapsed() => *held = None,
        }
    }
    work.await
}

impl Work {
    /// Reads what the steps need; waits for the database as long as the claim holds.
    async fn load(core: &Arc<Core>, operation: &Operation, claim: &Arc<Claim>) -> Option<Work> {
        let mut defects = 0;
        loop {
            let read = async {
                let found = core.registry.found(operation.engine_id).await?;
                let product = core.registry.product(&ProductRef::Id(operation.product_id)).await?;
                Ok::<_, RegistryError>(found.zip(product))
            };
            match read.await {
                Ok(Some((found, product))) => {
                    let policy = crate::discovery::parse_policy(&product).unwrap_or_default();
                    return Some(Work {
                        core: Arc::clone(core),
                        claim: Arc::clone(claim),
                        operation: operation.clone(),
                        found,
                        policy,
                        timings: operation.timings.clone(),
                        notes: Map::new(),
                        started: None,
                        address: None,
                        promise: None,
                    });
                }
                Ok(None) => {
                    Self::close(core, operation, ENGINE_GONE).await;
                    return None;
                }
                Err(error) if error.is_unavailable() && claim.holds() => {
                    tokio::time::sleep(DATABASE_AGAIN).await;
                }
                Err(error) if error.is_unavailable() => return None,
                Err(error) => {
                    tracing::error!(%error, "cannot read the engine of this operation");
                    defects += 1;
                    if defects < ends::DEFECTS_MAX && claim.holds() {
                        tokio::time::sleep(DATABASE_AGAIN).await;
                        continue;
                    }
                    let told = ("INTERNAL", "the row of the engine cannot be read; the log has the reason");
                    Self::close(core, operation, told).await;
                    return None;
                }
            }
        }
    }

    fn engine(&self) -> &Engine {
        &self.found.engine
    }

    /// Before every side effect.
    fn may_act(&self) -> Result<(), StepError> {
        if self.claim.holds() { Ok(()) } else { Err(StepError::Lost) }
    }

    /// The engine's lock, for a step that touches its object: nobody else of this process does meanwhile.
    async fn turn(&self, step: Step) -> Result<Option<Held>, StepError> {
        let kind = self.operation.kind;
        if !kind.touches_object(step) {
            return Ok(None);
        }
        tokio::select! {
            held = self.core.locks.lock(self.operation.engine_id, Actor::Operation(kind)) => Ok(Some(held)),
            () = self.claim.lost() => Err(StepError::Lost),
            () = self.core.halt.cancelled() => Err(StepError::Lost),
        }
    }

    async fn perform(&mut self, step: Step) -> Result<Flow, StepError> {
        self.may_act()?;
        if self.core.halt.is_cancelled() {
            return Err(StepError::Lost);
        }
        let kind = self.operation.kind;
        match step {
            Step::Settle => self.settle().await,
            Step::Pull => self.pull().await,
            Step::Storage if kind == OperationKind::Destroy => self.remove_storage().await,
            Step::Storage => self.storage().await,
            Step::Create => self.create().await,
            Step::Start => self.start().await,
            Step::Boot => self.boot().await,
            Step::Recheck => self.recheck().await,
            Step::Suspend => self.suspend().await,
            Step::Resume => self.resume().await,
            Step::Stop if kind == OperationKind::Restart => self.stop_failing().await,
            Step::Stop => self.stop().await,
            Step::Engine => self.tell_engine().await,
            Step::Object => self.remove_object().await,
            Step::Verify => self.verify_gone().await,
            Step::Finish => match kind {
                OperationKind::Stop => self.finish_stop().await,
                OperationKind::Sleep => self.finish_sleep().await,
                OperationKind::Destroy => self.finish_destroy().await,
                OperationKind::RotateKey => self.finish_rotation().await,
                _ => self.finish_start().await,
            },
            Step::Open => Ok(Flow::Next(self.after(Step::Open))),
        }
    }

    /// The step after this one in the list of the kind.
    fn after(&self, step: Step) -> Step {
        let steps = self.operation.kind.steps();
        let at = steps.iter().position(|s| *s == step).map_or(0, |i| i + 1);
        steps.get(at).copied().unwrap_or(Step::Finish)
    }

    /// Writes the name of the next step before it acts, with the times so far. `None`: it may act; else what follows
    /// instead.
    async fn advance(&mut self, next: Step) -> Option<Flow> {
        loop {
            let (id, claim) = (self.operation.id, self.claim.number);
            match self.core.registry.step(id, claim, next, None, &self.timings).await {
                Ok(true) => {
                    self.operation.step = next;
                    return None;
                }
                Ok(false) => return Some(Flow::Lost),
                Err(error) if error.is_unavailable() && self.claim.holds() => {
                    tokio::time::sleep(DATABASE_AGAIN).await;
                }
                Err(error) => return Some(self.broken(&error).await),
            }
        }
    }

    /// Reads the row again; false when it is gone.
    async fn refresh(&mut self) -> Result<bool, StepError> {
        match self.core.registry.found(self.operation.engine_id).await? {
            Some(found) => {
                self.found = found;
                Ok(true)
            }
            None => Ok(false),
        }
    }

    /// Waits until the executor of the superseded operation has let go.
    async fn settle(&mut self) -> Result<Flow, StepError> {
        let mut old = predecessor(&self.operation);
        let waits = old.is_some();
        // All of them: one that was itself superseded while it waited has let go without its own predecessor having.
        for _ in 0..PREDECESSORS_MAX {
            let Some(id) = old else { break };
            while !self.has_settled(id).await? {
                tokio::select! {
                    () = tokio::time::sleep(SETTLE_LOOK) => {}
                    () = self.claim.lost() => return Ok(Flow::Lost),
                }
            }
            old = self.core.registry.operation(id).await?.as_ref().and_then(predecessor);
        }
        if waits && !self.refresh().await? {
            return Ok(Flow::Lost);
        }
        Ok(Flow::Next(self.after(Step::Settle)))
    }

    /// Has the executor of this operation let go, or its lease run out?
    async fn has_settled(&self, id: contract::OperationId) -> Result<bool, StepError> {
        self.may_act()?;
        match self.core.registry.settled(id).await {
            Ok(Some(false)) => Ok(false),
            Ok(Some(true) | None) => Ok(true),
            Err(error) if error.is_unavailable() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// The class in which starts of this operation wait.
    fn class(&self) -> Class {
        match self.operation.kind {
            OperationKind::Provision | OperationKind::Start => Class::Interactive,
            OperationKind::Wake if self.operation.actor == "system" => Class::Schedule,
            OperationKind::Wake => Class::Interactive,
            OperationKind::Restart => Class::Restart,
            OperationKind::Upgrade | OperationKind::Recreate | OperationKind::Restore => Class::Upgrade,
            OperationKind::Stop
            | OperationKind::Sleep
            | OperationKind::RotateKey
            | OperationKind::Destroy => Class::Removal,
        }
    }

    fn took(&mut self, phase: Phase, began: Instant) {
        let ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        *self.timings.entry(phase.as_str().to_owned()).or_insert(0) += ms;
        telemetry::operation_phase(self.operation.kind, phase, began.elapsed());
    }
}

/// The operation in whose place this one was opened.
fn predecessor(operation: &Operation) -> Option<contract::OperationId> {
    operation.params["superseded_id"].as_str().and_then(|text| contract::OperationId::parse(text).ok())
}
