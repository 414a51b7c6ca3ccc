//! How an operation ends, waits or breaks off: its end with the closing row, its next try, and the defects that end it.
//!
//! Everything is written under the claim; once that is lost nothing is. Refuses to try for ever what waiting cannot
//! mend: a step that the registry itself refuses ends its operation after [`DEFECTS_MAX`] tries.

use super::{AWAY_MAX, DATABASE_AGAIN, Flow, StepError, Work};
use crate::core::{Core, backend_error};
use crate::failing;
use crate::registry::RegistryError;
use crate::registry::change::{EnginePatch, Finish, Outcome};
use crate::registry::rows::{AuditEntry, Engine, Operation};
use crate::telemetry::{self, Transition};
use backends::BackendError;
use contract::{FleetCode, FleetError, Timestamp};
use fleet::audit::{self, AuditAction};
use fleet::lifecycle::{Desired, FailureReason, Status};
use fleet::operation::{OperationKind, OperationStatus, Step};
use serde_json::{Value, json};
use std::time::Duration;

/// First wait after a failure that is tried again; doubles (§6.6, §6.7). Shorter hammers a sick backend.
const RETRY_FIRST: Duration = Duration::from_secs(5);
/// Longest wait between two tries. Longer leaves things undone long after the backend healed.
const RETRY_MAX: Duration = Duration::from_secs(300);
/// How often a commit is repeated because the engine's row moved on. More hides a row that never settles.
const COMMITS_MAX: u32 = 8;
/// Tries that end in a defect of the registry before the operation ends failed, however many executors they are
/// spread over. More holds the engine's operation open in vain; fewer lets a defect that a person is just mending
/// end it.
pub(super) const DEFECTS_MAX: u64 = 5;
/// Where an operation counts them.
const DEFECTS: &str = "defects";
/// What callers read about one.
const DEFECT: &str = "the registry refused a statement of this operation; the log has the details";

impl Work {
    /// The closing row of the log.
    pub(super) fn entry(
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
        put("from", self.begun_from());
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

    /// Where the engine stood before. A key rotation moves nothing, and a crash beside it is written down at once: it
    /// begins where the row stands that its end is written to, or the log would tell of the crash twice.
    fn begun_from(&self) -> Value {
        if self.operation.kind == OperationKind::RotateKey {
            json!(self.engine().status)
        } else {
            self.operation.params["from"].clone()
        }
    }

    /// Writes the end. `ending` is made anew when the engine's row moved on in between.
    pub(super) async fn end(&mut self, ending: impl Fn(&Work) -> Finish + Send) -> Result<Flow, StepError> {
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
        tracing::warn!("the engine's row never stood still; the operation will be looked at again");
        Ok(Flow::Lost)
    }

    /// A finish of this operation that changes nothing yet.
    pub(super) fn finish(&self, succeeded: bool) -> Finish {
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
        if let Some(entry) = finish.audit.first() {
            let from = entry.metadata["from"].as_str().and_then(Status::parse);
            telemetry::transition(Transition {
                engine: self.operation.engine_id,
                product: self.operation.product_id,
                from,
                to: engine.as_ref().map(|e| e.status),
                action: entry.action.as_str(),
                failure: engine.as_ref().and_then(|e| e.failure_code),
            });
        }
        if let Some(engine) = &engine
            && finish.audit.iter().any(|row| row.action == AuditAction::AutoRestartGaveUp)
        {
            failing::tell_given_up(engine);
        }
        self.core.hub.publish(operation);
        self.core.nudge.look_at(self.operation.engine_id);
    }

    /// Keeps the operation open for a later try.
    pub(super) async fn postpone(&mut self, delay: Duration, error: &FleetError) {
        tracing::warn!(code = %error.code, delay_s = delay.as_secs(), "the operation waits: {}", error.message);
        let told = Some((error.code.as_str(), error.message.as_str()));
        let postponed = self.core.registry.postpone(self.operation.id, self.claim.number, delay, told).await;
        match postponed {
            Ok(_) => self.core.hub.poke(self.operation.id),
            Err(error) => tracing::warn!(%error, "cannot record that the operation waits"),
        }
    }

    /// The claim is lost: whoever comes next may act.
    pub(super) async fn let_go(&self) {
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
    pub(super) fn retry_delay(&self, longest: Duration) -> Duration {
        let doublings = u32::try_from(self.operation.attempt.max(1) - 1).unwrap_or(0).min(10);
        (RETRY_FIRST * 2_u32.pow(doublings)).min(longest)
    }

    /// What follows when a step did not succeed.
    pub(super) async fn failed(&mut self, step: Step, error: StepError) -> Flow {
        match self.met(step, error).await {
            Ok(flow) => flow,
            Err(StepError::Lost) => Flow::Lost,
            Err(StepError::Registry(error)) => self.broken(&error).await,
            Err(error) => self.try_again_later(&error),
        }
    }

    async fn met(&mut self, step: Step, error: StepError) -> Result<Flow, StepError> {
        if matches!(error, StepError::Lost | StepError::Registry(_)) {
            return Err(error);
        }
        match self.operation.kind {
            OperationKind::Stop | OperationKind::Destroy | OperationKind::RotateKey => {
                Ok(self.try_again_later(&error))
            }
            OperationKind::Sleep => self.sleep_failed(&error).await,
            _ => self.start_failed(step, &error).await,
        }
    }

    fn try_again_later(&self, error: &StepError) -> Flow {
        let longest = if error.is_transient() { AWAY_MAX } else { RETRY_MAX };
        Flow::Later(self.retry_delay(longest), error.told())
    }

    /// The registry failed inside a step. A database that is away is waited for by whoever takes the operation up
    /// again; a defect is tried again a few times, and then ends it.
    pub(super) async fn broken(&mut self, error: &RegistryError) -> Flow {
        if error.is_unavailable() {
            tracing::warn!(%error, "the database went away inside an operation; it is taken up again");
            return Flow::Lost;
        }
        let count = self.operation.params[DEFECTS].as_u64().unwrap_or(0) + 1;
        tracing::error!(%error, count, limit = DEFECTS_MAX, "the registry refused a statement of this operation");
        let told = FleetError::new(FleetCode::Internal, DEFECT);
        if count >= DEFECTS_MAX {
            return self.end_broken(&told).await;
        }
        // Counted in the row: the next try may be another replica's.
        let (id, claim, step) = (self.operation.id, self.claim.number, self.operation.step);
        let counted = json!({ DEFECTS: count });
        match self.core.registry.step(id, claim, step, Some(&counted), &self.timings).await {
            Ok(true) => Flow::Later(self.retry_delay(RETRY_MAX), told),
            Ok(false) => Flow::Lost,
            Err(error) => {
                tracing::warn!(%error, "cannot count a defect; the operation is taken up again");
                Flow::Lost
            }
        }
    }

    /// The last try ended in a defect: the end with its row for the log, or without it when that is what is refused.
    async fn end_broken(&mut self, told: &FleetError) -> Flow {
        let ended = match self.operation.kind {
            OperationKind::Provision
            | OperationKind::Start
            | OperationKind::Wake
            | OperationKind::Restart => {
                self.end_failed(FailureReason::BackendError, &told.message, None, told).await
            }
            // The intent stays in the row, and the planner opens another operation for it.
            kind => {
                self.end(|work| {
                    let status = work.engine().status;
                    let mut finish = work.finish(false);
                    finish.error = Some((told.code.as_str().to_owned(), told.message.clone()));
                    if kind == OperationKind::Sleep && status == Status::Running {
                        finish.patch = awake();
                    }
                    let action = AuditAction::closing(kind, audit::Outcome::Failed);
                    finish.audit = vec![work.entry(action, Some(status), Some(told), json!({}))];
                    finish
                })
                .await
            }
        };
        match ended {
            Ok(flow) => flow,
            Err(StepError::Registry(error)) if !error.is_unavailable() => {
                tracing::error!(%error, "the end of an operation cannot be written down; it ends without its row in the log");
                Self::close(&self.core, &self.operation, (told.code.as_str(), DEFECT)).await;
                Flow::Ended
            }
            Err(_) => Flow::Lost,
        }
    }

    /// Ends an operation that can never be performed, so that nobody waits for it for ever.
    pub(super) async fn close(core: &Core, operation: &Operation, error: (&str, &str)) {
        match core.registry.close_broken(operation.id, operation.claim, error).await {
            Ok(closed) => tracing::warn!(closed, "the operation cannot be performed: {}", error.1),
            Err(error) => tracing::warn!(%error, "cannot close an operation that cannot be performed"),
        }
        core.hub.poke(operation.id);
    }

    /// Stops the object of an engine that is about to be given up, so that the backend's own policy stops looping
    /// (§7.4). Before that is written: until then the object is this operation's, and a `start` waits.
    pub(super) async fn stop_given_up(&self) -> Result<(), StepError> {
        let _place = self.stop_place().await?;
        self.may_act()?;
        let grace = self.core.config.engine_stop_grace_s;
        if let Err(error) = self.core.backend.stop(self.operation.engine_id, grace).await {
            tracing::warn!(%error, "cannot stop an engine that is given up");
        }
        Ok(())
    }
}

/// A sleep did not come about: the engine is to run.
pub(super) fn awake() -> EnginePatch {
    EnginePatch {
        desired: Some(Desired::Running),
        sleep_mode: Some(None),
        wake_at: Some(None),
        ..EnginePatch::default()
    }
}

impl StepError {
    pub(super) fn is_transient(&self) -> bool {
        matches!(self, StepError::Backend(e) if e.is_transient())
    }

    /// The error as callers see it.
    pub(super) fn told(&self) -> FleetError {
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
    pub(super) fn reason(&self) -> FailureReason {
        match self {
            StepError::Boot(failure) => failure.reason,
            StepError::Backend(BackendError::StorageMissing(_)) => FailureReason::StorageMissing,
            _ => FailureReason::BackendError,
        }
    }
}
