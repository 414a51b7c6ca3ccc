//! What follows when an engine did not come up: told and given back, tried again, failed with its next restart, or
//! given up.
//!
//! Refuses to call an engine failed because its backend was away. The invariant: an engine that is given up has its
//! object stopped before anybody reads of it.

use super::boot::clip;
use super::{AWAY_MAX, Flow, StepError, Work};
use crate::registry::change::EnginePatch;
use contract::FleetError;
use fleet::audit::AuditAction;
use fleet::lifecycle::{Desired, FailureReason, Status};
use fleet::observation::{Object, ObjectState, Observation};
use fleet::operation::{OperationKind, Step};
use fleet::restart::Next;
use serde_json::json;

/// When a caller may ask again for a start that found the backend away. Longer holds up users after a blip; shorter
/// is a herd at a sick backend.
const GIVEN_BACK_RETRY_S: u64 = 5;

impl Work {
    /// What follows when a start did not succeed.
    pub(super) async fn start_failed(&mut self, step: Step, error: &StepError) -> Result<Flow, StepError> {
        let kind = self.operation.kind;
        let told = error.told();
        if error.is_transient() || matches!(error, StepError::Full(_)) {
            return match kind {
                // The engine stays what it was; the caller may try again.
                // Once it was started it is not: then it is asked again.
                OperationKind::Start | OperationKind::Wake if self.is_at_rest() && step != Step::Boot => {
                    self.give_back(&told).await
                }
                _ => Ok(Flow::Later(self.retry_delay(AWAY_MAX), told)),
            };
        }
        if kind == OperationKind::Provision && step == Step::Create {
            // Half-made objects go; one that was started is kept for its log.
            let seen = self.core.backend.observe(self.operation.engine_id).await;
            if matches!(seen, Ok(Observation::Present(Object { state: ObjectState::Created, .. }))) {
                let _ = self.core.backend.remove(self.operation.engine_id).await;
            }
        }
        let reason = error.reason();
        let message = clip(told.message.clone());
        let exit_code = match error {
            StepError::Boot(failure) => failure.exit_code,
            _ => None,
        };
        self.end_failed(reason, &message, exit_code, &told).await
    }

    fn is_at_rest(&self) -> bool {
        matches!(self.engine().status, Status::Stopped | Status::Sleeping)
    }

    /// The backend is away: the engine stays what it was, the intent goes back, the caller is told.
    async fn give_back(&mut self, told: &FleetError) -> Result<Flow, StepError> {
        let told = told.clone();
        self.end(move |work| {
            let status = work.engine().status;
            let desired = if status == Status::Sleeping { Desired::Sleeping } else { Desired::Stopped };
            let action = if work.operation.kind == OperationKind::Wake {
                AuditAction::Wake
            } else {
                AuditAction::Start
            };
            let more = if work.operation.kind == OperationKind::Wake {
                json!({"reason": work.operation.params["reason"], "mode": work.engine().sleep_mode})
            } else {
                json!({})
            };
            let mut finish = work.finish(false);
            finish.error = Some((told.code.as_str().to_owned(), told.message.clone()));
            let wait = told.retry_after_s.unwrap_or(GIVEN_BACK_RETRY_S);
            finish.params = Some(json!({"error_details": {"retrying": false}, "retry_after_s": wait}));
            finish.patch = EnginePatch { desired: Some(desired), ..EnginePatch::default() };
            finish.audit = vec![work.entry(action, Some(status), Some(&told), more)];
            finish
        })
        .await
    }

    pub(super) fn next(&self, reason: FailureReason) -> Next {
        let attempts = u32::try_from(self.engine().restart_attempts).unwrap_or(0);
        self.core.restart_rules().after_failure(attempts, reason, self.found.now)
    }

    pub(super) async fn end_failed(
        &mut self,
        reason: FailureReason,
        message: &str,
        exit_code: Option<i32>,
        told: &FleetError,
    ) -> Result<Flow, StepError> {
        let (message, told) = (message.to_owned(), told.clone());
        if self.next(reason) == Next::GiveUp {
            self.stop_given_up().await?;
        }
        self.end(move |work| {
            let kind = work.operation.kind;
            let next = work.next(reason);
            let due = match next {
                Next::At(at) => Some(crate::core::between(work.found.now, at)),
                Next::GiveUp => None,
            };
            let next_at = match next {
                Next::At(at) => Some(at),
                Next::GiveUp => None,
            };
            let mut finish = work.finish(false);
            finish.error = Some((told.code.as_str().to_owned(), message.clone()));
            finish.params = Some(json!({
                "error_details": told.details, "retry_after_s": due.map(|d| d.as_secs().max(1)),
            }));
            finish.patch = EnginePatch {
                status: Some(Status::Failed),
                next_restart_in: Some(due),
                failure: Some(Some((reason, message.clone()))),
                container_id: Some(work.engine().container_id.clone()),
                reset_vitals: true,
                ..EnginePatch::default()
            };
            let attempts = work.engine().restart_attempts;
            let (action, more) = match kind {
                OperationKind::Provision => (
                    AuditAction::ProvisionFailed,
                    json!({"via": work.operation.params["via"], "engine_version": work.engine().engine_version,
                           "reason": reason, "exit_code": exit_code}),
                ),
                OperationKind::Wake => (
                    AuditAction::Wake,
                    json!({"reason": work.operation.params["reason"], "mode": work.engine().sleep_mode}),
                ),
                OperationKind::Restart => (
                    AuditAction::AutoRestartFailed,
                    json!({"attempt": attempts, "reason": reason, "next_restart_at": next_at}),
                ),
                _ => (AuditAction::Start, json!({})),
            };
            let error = (kind != OperationKind::Restart).then_some(&told);
            finish.audit = vec![work.entry(action, Some(Status::Failed), error, more)];
            if next == Next::GiveUp {
                let mut entry = crate::failing::gave_up_row(&work.found, reason);
                entry.metadata["operation_id"] = json!(work.operation.id);
                finish.audit.push(entry);
            }
            finish
        })
        .await
    }
}
