//! Executors: each performs one claimed operation, step by step, and records every step before it acts.
//!
//! A step looks at the world first and does only what is missing, so that repeating it is harmless. Whoever finds an
//! operation with an ended lease goes on at the step that is written in its row. An executor writes under its claim
//! only: once that is lost it lets go and changes nothing more.

mod boot;
mod ending;
mod resting;
mod rotating;
mod starting;

use crate::claims::Claim;
use crate::core::{Core, backend_error};
use crate::gate::Promise;
use crate::registry::ENGINE_GONE;
use crate::registry::ProductRef;
use crate::registry::RegistryError;
use crate::registry::change::{EnginePatch, Finish, Outcome};
use crate::registry::rows::{AuditEntry, Engine, Found, Operation};
use crate::telemetry::{self, Phase, Transition};
use backends::BackendError;
use contract::{FleetCode, FleetError, Timestamp};
use fleet::audit::AuditAction;
use fleet::lifecycle::{Desired, FailureReason, Status};
use fleet::operation::{OperationKind, OperationStatus, Step};
use fleet::policy::Policy;
use fleet::start_queue::Class;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tracing::Instrument;

pub(crate) use boot::{clip, last_words, outcome};
pub(crate) use rotating::with_new_key;

/// Waits between two looks at whether a predecessor has let go.
const SETTLE_LOOK: Duration = Duration::from_millis(20);
/// First wait after a failure that is tried again; doubles (§6.6, §6.7). Shorter hammers a sick backend.
const RETRY_FIRST: Duration = Duration::from_secs(5);
/// Longest wait between two tries. Longer leaves things undone long after the backend healed.
const RETRY_MAX: Duration = Duration::from_secs(300);
/// Longest wait while the backend is away: it comes back for everybody at once.
const AWAY_MAX: Duration = Duration::from_secs(15);
/// How often a commit is repeated because the engine's row moved on. More hides a row that never settles.
const COMMITS_MAX: u32 = 8;
/// Waits between tries to reach the database from inside a step.
const DATABASE_AGAIN: Duration = Duration::from_millis(200);
/// Reads of an engine that end in a defect before its operation is closed. More holds callers in vain; fewer lets a
/// passing defect end an operation.
const LOAD_DEFECTS_MAX: u32 = 5;

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
        let flow = work.perform(step).await;
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
        match flow {
            Ok(Flow::Next(next)) => {
                if !work.advance(next).await {
                    break;
                }
            }
            Ok(Flow::Ended) => return,
            Ok(Flow::Later(delay, error)) => {
                work.postpone(delay, &error).await;
                return;
            }
            Ok(Flow::Lost) | Err(StepError::Lost) => break,
            Err(error) => match work.failed(step, error).await {
                Flow::Next(next) => {
                    if !work.advance(next).await {
                        break;
                    }
                }
                Flow::Later(delay, error) => {
                    work.postpone(delay, &error).await;
                    return;
                }
                Flow::Ended => return,
                Flow::Lost => break,
            },
        }
    }
    work.let_go().await;
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
                    if defects < LOAD_DEFECTS_MAX && claim.holds() {
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

    /// Ends an operation that can never be performed, so that nobody waits for it for ever.
    async fn close(core: &Core, operation: &Operation, error: (&str, &str)) {
        match core.registry.close_broken(operation.id, operation.claim, error).await {
            Ok(closed) => tracing::warn!(closed, "the operation cannot be performed: {}", error.1),
            Err(error) => tracing::warn!(%error, "cannot close an operation that cannot be performed"),
        }
        core.hub.poke(operation.id);
    }

    fn engine(&self) -> &Engine {
        &self.found.engine
    }

    /// Before every side effect.
    fn may_act(&self) -> Result<(), StepError> {
        if self.claim.holds() { Ok(()) } else { Err(StepError::Lost) }
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

    /// Writes the name of the next step before it acts.
    async fn advance(&mut self, next: Step) -> bool {
        loop {
            match self.core.registry.step(self.operation.id, self.claim.number, next, None).await {
                Ok(true) => {
                    self.operation.step = next;
                    return true;
                }
                Ok(false) => return false,
                Err(error) if error.is_unavailable() && self.claim.holds() => {
                    tokio::time::sleep(DATABASE_AGAIN).await;
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot record the next step");
                    return false;
                }
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

    // ---- ends

    /// The closing row of the log.
    fn entry(
        &self,
        action: AuditAction,
        to: Option<Status>,
        error: Option<&FleetError>,
        more: Value,
    ) -> AuditEntry {
        // Notes were taken for the row that was hoped for; the row that is written may know fewer keys.
        let mut metadata = self.notes.clone();
        metadata.retain(|key, _| action.metadata_keys().contains(&key.as_str()));
        let mut put = |name: &str, value: Value| {
            if !value.is_null() {
                metadata.insert(name.to_owned(), value);
            }
        };
        put("operation_id", json!(self.operation.id));
        put("request_id", json!(self.operation.request_id));
        put("from", self.operation.params["from"].clone());
        put("to", json!(to));
        put("superseded", self.operation.params["superseded"].clone());
        if let Some(error) = error {
            put("outcome", json!("failed"));
            put("error", json!({"code": error.code, "message": error.message}));
        }
        if let Some(more) = more.as_object() {
            for (name, value) in more {
                put(name, value.clone());
            }
        }
        AuditEntry {
            started_at: Some(self.operation.started_at),
            product_id: Some(self.operation.product_id),
            user_id: Some(self.operation.user_id.clone()),
            engine_id: Some(self.operation.engine_id),
            action,
            actor: self.operation.actor.clone(),
            metadata: Value::Object(metadata),
            has_duration: true,
        }
    }

    /// Writes the end. `ending` is made anew when the engine's row moved on in between.
    async fn end(&mut self, ending: impl Fn(&Work) -> Finish + Send) -> Result<Flow, StepError> {
        for _ in 0..COMMITS_MAX {
            let finish = ending(self);
            match self.core.registry.finish(&finish).await {
                Ok(Outcome::Changed(engine)) => {
                    self.ended(&finish, engine);
                    return Ok(Flow::Ended);
                }
                Ok(Outcome::Missing) => return Ok(Flow::Lost),
                Ok(Outcome::Unchanged) => {
                    let current = self.core.registry.operation(self.operation.id).await?;
                    let ours = current
                        .is_some_and(|o| o.status == OperationStatus::Open && o.claim == self.claim.number);
                    if !ours || !self.refresh().await? {
                        return Ok(Flow::Lost);
                    }
                }
                Err(error) if error.is_unavailable() && self.claim.holds() => {
                    tokio::time::sleep(DATABASE_AGAIN).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
        tracing::error!("the engine's row never stood still; the operation is taken up again");
        Ok(Flow::Lost)
    }

    /// A finish of this operation that changes nothing yet.
    fn finish(&self, succeeded: bool) -> Finish {
        Finish {
            operation: self.operation.id,
            claim: self.claim.number,
            succeeded,
            error: None,
            params: None,
            timings: self.timings.clone(),
            engine_id: self.operation.engine_id,
            revision: self.engine().revision,
            patch: EnginePatch::default(),
            delete_engine: false,
            count_provision: false,
            count_destroy: false,
            audit: Vec::new(),
        }
    }

    fn ended(&mut self, finish: &Finish, engine: Option<Engine>) {
        let outcome = if finish.succeeded { OperationStatus::Succeeded } else { OperationStatus::Failed };
        let mut operation = self.operation.clone();
        operation.status = outcome;
        operation.timings.clone_from(&finish.timings);
        if let Some((code, message)) = &finish.error {
            operation.error_code = Some(code.clone());
            operation.error_message = Some(message.clone());
        }
        if let Some(Value::Object(more)) = &finish.params {
            for (name, value) in more {
                operation.params[name] = value.clone();
            }
        }
        let took = crate::core::between(self.operation.started_at, Timestamp::now());
        telemetry::operation_ended(operation.kind, outcome, took);
        let from = self.operation.params["from"].as_str().and_then(Status::parse);
        if let Some(entry) = finish.audit.first() {
            telemetry::transition(Transition {
                engine: self.operation.engine_id,
                product: self.operation.product_id,
                from,
                to: engine.as_ref().map(|e| e.status),
                action: entry.action.as_str(),
                failure: engine.as_ref().and_then(|e| e.failure_code),
            });
        }
        self.core.hub.publish(operation);
        self.core.nudge.look_at(self.operation.engine_id);
    }

    /// Keeps the operation open for a later try.
    async fn postpone(&mut self, delay: Duration, error: &FleetError) {
        tracing::warn!(code = %error.code, delay_s = delay.as_secs(), "the operation waits: {}", error.message);
        let told = Some((error.code.as_str(), error.message.as_str()));
        let postponed = self.core.registry.postpone(self.operation.id, self.claim.number, delay, told).await;
        match postponed {
            Ok(_) => self.core.hub.poke(self.operation.id),
            Err(error) => tracing::warn!(%error, "cannot record that the operation waits"),
        }
    }

    /// The claim is lost: whoever comes next may act.
    async fn let_go(&self) {
        let id = self.operation.id;
        let done = if self.core.halt.is_cancelled() {
            self.core.registry.release(id, self.claim.number).await.map(|_| ())
        } else {
            self.core.registry.let_go(id, self.core.replica).await.map(|_| ())
        };
        if let Err(error) = done {
            tracing::debug!(%error, "cannot let go of an operation; its lease ends by itself");
        }
        self.core.hub.poke(id);
    }

    /// The wait before the next try of a step that is tried for ever.
    fn retry_delay(&self, longest: Duration) -> Duration {
        let doublings = u32::try_from(self.operation.attempt.max(1) - 1).unwrap_or(0).min(10);
        (RETRY_FIRST * 2_u32.pow(doublings)).min(longest)
    }

    /// What follows when a step did not succeed.
    async fn failed(&mut self, step: Step, error: StepError) -> Flow {
        let error = match error {
            StepError::Lost => return Flow::Lost,
            StepError::Registry(error) => {
                tracing::warn!(%error, "the registry failed inside an operation; it is taken up again");
                return Flow::Lost;
            }
            other => other,
        };
        let outcome = match self.operation.kind {
            OperationKind::Stop | OperationKind::Destroy => Ok(self.try_again_later(&error)),
            OperationKind::Sleep => self.sleep_failed(&error).await,
            OperationKind::RotateKey => Ok(self.try_again_later(&error)),
            _ => self.start_failed(step, &error).await,
        };
        outcome.unwrap_or(Flow::Lost)
    }

    fn try_again_later(&self, error: &StepError) -> Flow {
        let told = error.told();
        let longest = if error.is_transient() { AWAY_MAX } else { RETRY_MAX };
        Flow::Later(self.retry_delay(longest), told)
    }
}

/// The operation in whose place this one was opened.
fn predecessor(operation: &Operation) -> Option<contract::OperationId> {
    operation.params["superseded_id"].as_str().and_then(|text| contract::OperationId::parse(text).ok())
}

impl StepError {
    fn is_transient(&self) -> bool {
        matches!(self, StepError::Backend(e) if e.is_transient())
    }

    /// The error as callers see it.
    fn told(&self) -> FleetError {
        match self {
            // The row exists by now, so this is no 503 after which nothing does (§3.4, §6.1).
            StepError::Backend(error @ BackendError::Capacity(_)) => {
                FleetError::new(FleetCode::BackendError, error.to_string())
            }
            StepError::Backend(error) => backend_error(error),
            StepError::Boot(failure) => failure.told(),
            StepError::Full(seconds) => crate::discovery::queue_full(*seconds),
            StepError::NoPort => FleetError::new(
                FleetCode::BackendError,
                "the engine's port was taken by another program and no other is free; raise ORCH_PORT_MAX",
            ),
            StepError::Registry(_) | StepError::Lost => {
                FleetError::new(FleetCode::Internal, "the operation broke off")
            }
        }
    }

    /// Why the engine is failed.
    fn reason(&self) -> FailureReason {
        match self {
            StepError::Boot(failure) => failure.reason,
            StepError::Backend(BackendError::StorageMissing(_)) => FailureReason::StorageMissing,
            _ => FailureReason::BackendError,
        }
    }
}
