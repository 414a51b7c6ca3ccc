//! Bringing an engine down: stop by hand, and removal for good.

use super::{Flow, StepError, Work};
use crate::registry::change::EnginePatch;
use crate::telemetry::Phase;
use fleet::audit::AuditAction;
use fleet::lifecycle::Status;
use fleet::observation::Observation;
use fleet::operation::Step;
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::OwnedSemaphorePermit;

/// Grace of a stop that precedes a removal (§6.7): nobody will ask this engine anything again.
const DESTROY_GRACE: Duration = Duration::from_secs(10);

impl Work {
    /// Step `stop`: SIGTERM, grace, SIGKILL.
    pub(super) async fn stop(&mut self) -> Result<Flow, StepError> {
        let _place = self.stop_place().await?;
        self.may_act()?;
        let began = Instant::now();
        let stopped =
            self.core.backend.stop(self.operation.engine_id, self.core.config.engine_stop_grace_s).await?;
        self.took(Phase::Stop, began);
        if stopped.killed {
            self.notes.insert("killed".to_owned(), json!(true));
        }
        if let Some(code) = stopped.exit_code {
            self.notes.insert("exit_code".to_owned(), json!(code));
        }
        Ok(Flow::Next(self.after(Step::Stop)))
    }

    /// One of the bounded places for stops and removals; given up when the claim is lost while waiting.
    pub(super) async fn stop_place(&self) -> Result<OwnedSemaphorePermit, StepError> {
        tokio::select! {
            place = Arc::clone(&self.core.stops).acquire_owned() => place.map_err(|_| StepError::Lost),
            () = self.claim.lost() => Err(StepError::Lost),
        }
    }

    /// Step `finish` of a stop.
    pub(super) async fn finish_stop(&mut self) -> Result<Flow, StepError> {
        self.end(|work| {
            let mut finish = work.finish(true);
            finish.patch = EnginePatch {
                status: Some(Status::Stopped),
                restart_attempts: Some(0),
                next_restart_in: Some(None),
                failure: Some(None),
                wake_at: Some(None),
                reset_vitals: true,
                ..EnginePatch::default()
            };
            finish.audit = vec![work.entry(AuditAction::Stop, Some(Status::Stopped), None, json!({}))];
            finish
        })
        .await
    }

    /// Step `object` of a removal.
    pub(super) async fn remove_object(&mut self) -> Result<Flow, StepError> {
        let _place = self.stop_place().await?;
        self.may_act()?;
        let id = self.operation.engine_id;
        match self.core.backend.stop(id, DESTROY_GRACE).await {
            Ok(_) => {}
            Err(error) if error.is_transient() => return Err(error.into()),
            // A removal ends it by force.
            Err(error) => tracing::warn!(%error, "an engine that is being removed does not stop in order"),
        }
        self.may_act()?;
        self.core.backend.remove(id).await?;
        Ok(Flow::Next(self.after(Step::Object)))
    }

    /// Step `storage` of a removal.
    pub(super) async fn remove_storage(&mut self) -> Result<Flow, StepError> {
        self.core.backend.destroy(self.operation.engine_id).await?;
        Ok(Flow::Next(self.after(Step::Storage)))
    }

    /// Step `verify` of a removal: nothing is left.
    pub(super) async fn verify_gone(&mut self) -> Result<Flow, StepError> {
        let id = self.operation.engine_id;
        if self.core.backend.observe(id).await? != Observation::Absent {
            return Ok(Flow::Next(Step::Object));
        }
        if self.core.backend.storage_exists(id).await? {
            return Ok(Flow::Next(Step::Storage));
        }
        Ok(Flow::Next(self.after(Step::Verify)))
    }

    /// Step `finish` of a removal: the row goes, and with it port and quota.
    pub(super) async fn finish_destroy(&mut self) -> Result<Flow, StepError> {
        self.end(|work| {
            let engine = work.engine();
            let age = crate::core::between(engine.created_at, work.found.now).as_secs();
            let mut finish = work.finish(true);
            finish.delete_engine = true;
            finish.count_destroy = true;
            let more = json!({"engine_version": engine.engine_version, "age_s": age});
            finish.audit = vec![work.entry(AuditAction::Destroy, None, None, more)];
            finish
        })
        .await
    }
}
