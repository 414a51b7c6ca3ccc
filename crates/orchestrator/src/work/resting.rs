//! Putting an engine to rest, after the fence has been passed.

use super::ends::awake;
use super::outcome;
use super::{Flow, StepError, Work};
use crate::registry::change::EnginePatch;
use crate::telemetry::Phase;
use fleet::audit::AuditAction;
use fleet::health::{Verdict, verdict};
use fleet::lifecycle::{Desired, FailureReason, SleepMode, Status};
use fleet::observation::{ObjectState, Observation};
use fleet::operation::Step;
use fleet::restart::Next;
use serde_json::{Value, json};
use std::time::Instant;

impl Work {
    /// Step `suspend`: freeze, stop, or nothing.
    pub(super) async fn suspend(&mut self) -> Result<Flow, StepError> {
        let id = self.operation.engine_id;
        let mode = self.engine().sleep_mode.unwrap_or(SleepMode::Label);
        let _place = self.stop_place().await?;
        self.may_act()?;
        let began = Instant::now();
        match mode {
            SleepMode::Freeze => self.core.backend.freeze(id).await?,
            SleepMode::Stop => {
                self.core.backend.stop(id, self.core.config.engine_stop_grace_s).await?;
            }
            SleepMode::Label => {}
        }
        self.took(Phase::Stop, began);
        Ok(Flow::Next(self.after(Step::Suspend)))
    }

    fn facts_of_sleep(&self) -> Value {
        let params = &self.operation.params;
        json!({
            "mode": self.engine().sleep_mode, "reason": params["reason"], "idle_s": params["idle_s"],
            "wake_at": self.engine().wake_at,
        })
    }

    /// Step `finish` of a sleep.
    pub(super) async fn finish_sleep(&mut self) -> Result<Flow, StepError> {
        self.end(|work| {
            let mut finish = work.finish(true);
            finish.patch = EnginePatch { status: Some(Status::Sleeping), ..EnginePatch::default() };
            finish.audit =
                vec![work.entry(AuditAction::Sleep, Some(Status::Sleeping), None, work.facts_of_sleep())];
            finish
        })
        .await
    }

    /// The suspension failed: thaw, and running if it is healthy, failed if it is not.
    pub(super) async fn sleep_failed(&mut self, error: &StepError) -> Result<Flow, StepError> {
        let told = error.told();
        let id = self.operation.engine_id;
        if self.engine().status == Status::Sleeping {
            // It was to be frozen again; it sleeps by its row, and the next try is due by itself.
            return Ok(Flow::Later(self.retry_delay(super::AWAY_MAX), told));
        }
        if let Err(error) = self.core.backend.thaw(id).await {
            tracing::warn!(%error, "cannot thaw an engine whose sleep failed");
            if error.is_transient() {
                // It may be frozen, and frozen is not dead: tried again when the backend answers.
                return Ok(Flow::Later(self.retry_delay(super::AWAY_MAX), told));
            }
        }
        let seen = match self.core.backend.observe(id).await {
            Ok(seen) => seen,
            // Nothing is known: try the sleep again when the backend answers.
            Err(error) if error.is_transient() => {
                return Ok(Flow::Later(self.retry_delay(super::AWAY_MAX), told));
            }
            Err(error) => return Err(error.into()),
        };
        let mut healthy = false;
        if let Observation::Present(object) = &seen
            && let ObjectState::Running { address: Some(address), .. } = &object.state
        {
            let reply = self.probe(*address, self.core.config.health_check_timeout_s).await;
            healthy = matches!(verdict(&outcome(reply)), Verdict::Healthy { .. } | Verdict::Degraded { .. });
        }
        let reason = if healthy { None } else { Some(FailureReason::Crashed) };
        if reason.is_some_and(|reason| self.next(reason) == Next::GiveUp) {
            self.stop_given_up().await?;
        }
        self.end(move |work| {
            let mut finish = work.finish(false);
            finish.error = Some((told.code.as_str().to_owned(), told.message.clone()));
            let mut audit = vec![work.entry(
                AuditAction::Sleep,
                // That it did not survive is the next row.
                Some(Status::Running),
                Some(&told),
                work.facts_of_sleep(),
            )];
            finish.patch = match reason {
                None => awake(),
                Some(reason) => {
                    let crash = crate::failing::crash(
                        &work.core,
                        &work.found,
                        reason,
                        "the engine did not survive a failed sleep",
                        json!({}),
                    );
                    audit.extend(crash.audit);
                    EnginePatch { desired: Some(Desired::Running), ..crash.patch }
                }
            };
            finish.audit = audit;
            finish
        })
        .await
    }
}
