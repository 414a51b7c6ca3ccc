//! Bringing an engine up: image, storage, exactly one object, and what follows when it does not come up.

use super::{Flow, StepError, Work};
use crate::gate::Promise;
use crate::registry::RepickOutcome;
use crate::registry::change::{Change, EnginePatch, Outcome};
use crate::registry::rows::AuditEntry;
use crate::telemetry::Phase;
use crate::telemetry::RestartedBy;
use backends::{BackendError, EngineEndpoint};
use contract::Timestamp;
use fleet::audit::AuditAction;
use fleet::health::{Verdict, verdict};
use fleet::lifecycle::{SleepMode, Status};
use fleet::observation::{Object, ObjectState, Observation};
use fleet::operation::{OperationKind, Step};
use serde_json::{Value, json};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// How often another port is tried when a stranger listens on the one that was picked (§6.1).
const PORTS_TRIED_MAX: u32 = 5;
/// How long a port with a stranger on it is left alone (§6.1).
const QUARANTINE: Duration = Duration::from_secs(600);
/// What is waited for an object on its way down beyond the stop grace (§5.3).
const GOING_DOWN_SLACK: Duration = Duration::from_secs(5);
/// Between two looks at it.
const GOING_DOWN_LOOK: Duration = Duration::from_millis(50);
/// Longest wait for its answer.
const GOING_DOWN_PROBE: Duration = Duration::from_millis(500);
/// How often an exchange of the object's generation is tried against a row that moves.
const RAISES_MAX: u32 = 8;

impl Work {
    /// Step `pull`: the image is there. Not part of the boot time.
    pub(super) async fn pull(&mut self) -> Result<Flow, StepError> {
        let began = Instant::now();
        let image = self.engine().engine_version.clone();
        self.core.backend.ensure_image(&image).await?;
        self.took(Phase::Pull, began);
        Ok(Flow::Next(self.after(Step::Pull)))
    }

    /// Step `storage`: only an engine that has never booted may get new storage.
    pub(super) async fn storage(&mut self) -> Result<Flow, StepError> {
        self.ensure_storage().await?;
        Ok(Flow::Next(self.after(Step::Storage)))
    }

    async fn ensure_storage(&self) -> Result<(), StepError> {
        let may_create = self.engine().boot_duration_ms.is_none();
        self.core.backend.ensure_storage(self.operation.engine_id, may_create).await?;
        Ok(())
    }

    /// Step `create`: ends with exactly one object of this generation, started.
    pub(super) async fn create(&mut self) -> Result<Flow, StepError> {
        self.make_object().await?;
        Ok(Flow::Next(self.after(Step::Create)))
    }

    async fn make_object(&mut self) -> Result<(), StepError> {
        let queued = Instant::now();
        let promise = self.promise.take();
        let _permit = self.permit(promise).await?;
        self.took(Phase::Queue, queued);
        let began = Instant::now();
        for _ in 0..PORTS_TRIED_MAX {
            self.may_act()?;
            let spec = self.core.spec(self.engine(), &self.policy);
            match self.core.backend.create(&spec).await {
                Ok(endpoint) => {
                    self.took(Phase::Create, began);
                    self.notes.remove("port");
                    self.started_at(&endpoint);
                    return Ok(());
                }
                Err(BackendError::PortTaken(port)) => {
                    tracing::warn!(port, "somebody else listens on the engine's port; taking another");
                    self.other_port(port).await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(StepError::Backend(BackendError::Refused(format!(
            "{PORTS_TRIED_MAX} ports in a row were taken by other programs"
        ))))
    }

    async fn other_port(&mut self, taken: u16) -> Result<(), StepError> {
        let Some(range) = self.core.ports() else {
            return Err(StepError::NoPort);
        };
        for _ in 0..RAISES_MAX {
            let (id, revision) = (self.operation.engine_id, self.engine().revision);
            let reason = format!("taken by another program (port {taken})");
            match self.core.registry.repick_port(id, revision, range, QUARANTINE, &reason).await? {
                RepickOutcome::Changed(engine) => {
                    self.found.engine = *engine;
                    return Ok(());
                }
                RepickOutcome::NoPort => return Err(StepError::NoPort),
                RepickOutcome::Missing => return Err(StepError::Lost),
                RepickOutcome::Unchanged => {
                    if !self.refresh().await? {
                        return Err(StepError::Lost);
                    }
                }
            }
        }
        Err(StepError::Lost)
    }

    fn started_at(&mut self, endpoint: &EngineEndpoint) {
        self.started = Some(Instant::now());
        self.address = endpoint.host.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, endpoint.port));
        self.found.engine.container_id.clone_from(&endpoint.container_id);
    }

    /// Step `start`: in place when the object is the one that should exist, else made anew under a raised generation.
    pub(super) async fn start(&mut self) -> Result<Flow, StepError> {
        self.bring_up().await?;
        Ok(Flow::Next(self.after(Step::Start)))
    }

    /// Step `resume` of a wake.
    pub(super) async fn resume(&mut self) -> Result<Flow, StepError> {
        self.bring_up().await?;
        Ok(Flow::Next(self.after(Step::Resume)))
    }

    async fn bring_up(&mut self) -> Result<(), StepError> {
        let id = self.operation.engine_id;
        self.may_act()?;
        let seen = self.past_going_down().await?;
        self.adopt_higher(&seen).await?;
        let wanted = self.core.spec(self.engine(), &self.policy).spec_hash;
        let same =
            |object: &Object, generation: i64| object.generation == generation && object.spec_hash == wanted;
        match &seen {
            Observation::Present(object) if same(object, self.engine().generation) => match &object.state {
                ObjectState::Running { .. } => {
                    self.found.engine.container_id = Some(object.container_id.clone());
                    return Ok(());
                }
                ObjectState::Paused => {
                    let began = Instant::now();
                    let _permit = self.permit(None).await?;
                    self.core.backend.thaw(id).await?;
                    self.took(Phase::Thaw, began);
                    self.started = Some(Instant::now());
                    self.found.engine.container_id = Some(object.container_id.clone());
                    return Ok(());
                }
                ObjectState::Created | ObjectState::Exited { .. } | ObjectState::Restarting { .. }
                    if self.core.backend.capabilities().start_in_place =>
                {
                    match self.start_in_place().await {
                        Err(StepError::Backend(BackendError::PortTaken(port))) => {
                            self.other_port(port).await?
                        }
                        other => return other,
                    }
                }
                ObjectState::Created
                | ObjectState::Exited { .. }
                | ObjectState::Restarting { .. }
                | ObjectState::Removing => {}
            },
            // A drifted object that runs or is frozen is not replaced by a wake: drift waits for the next start.
            Observation::Present(object)
                if self.operation.kind == OperationKind::Wake
                    && object.generation == self.engine().generation =>
            {
                match &object.state {
                    ObjectState::Running { .. } => return Ok(()),
                    ObjectState::Paused => {
                        let began = Instant::now();
                        let _permit = self.permit(None).await?;
                        self.core.backend.thaw(id).await?;
                        self.took(Phase::Thaw, began);
                        self.started = Some(Instant::now());
                        return Ok(());
                    }
                    ObjectState::Created
                    | ObjectState::Exited { .. }
                    | ObjectState::Restarting { .. }
                    | ObjectState::Removing => {}
                }
            }
            Observation::Present(_) | Observation::Absent => {}
        }
        self.make_anew(&seen).await
    }

    /// Looks at the object. One that a superseded stop or sleep is still taking down is waited for, at most its grace
    /// and a little more (§5.3); one that serves after all is taken as it is.
    async fn past_going_down(&mut self) -> Result<Observation, StepError> {
        let id = self.operation.engine_id;
        let superseded = self.operation.params["superseded"].as_str().and_then(OperationKind::parse);
        let mut seen = self.core.backend.observe(id).await?;
        if !matches!(superseded, Some(OperationKind::Stop | OperationKind::Sleep)) {
            return Ok(seen);
        }
        let limit = self.core.config.engine_stop_grace_s + GOING_DOWN_SLACK;
        let began = Instant::now();
        let mut served = 0;
        while let Some(ObjectState::Running { address, .. }) =
            seen.object().map(|object| object.state.clone())
        {
            let reply = match address {
                Some(address) => self.probe(address, GOING_DOWN_PROBE).await,
                None => backends::ProbeReply::Refused,
            };
            served = if verdict(&super::outcome(reply)).serves() { served + 1 } else { 0 };
            // Twice in a row: a process that has just been told to stop answers once more.
            if served >= 2 || began.elapsed() >= limit {
                break;
            }
            tokio::select! {
                () = tokio::time::sleep(GOING_DOWN_LOOK) => {}
                () = self.claim.lost() => return Err(StepError::Lost),
            }
            seen = self.core.backend.observe(id).await?;
        }
        if served < 2 && began.elapsed() >= limit && seen.is_running() {
            self.may_act()?;
            self.core.backend.stop(id, self.core.config.engine_stop_grace_s).await?;
            seen = self.core.backend.observe(id).await?;
        }
        Ok(seen)
    }

    /// The row learns of a higher generation before anything is made: after an older backup of the database an object
    /// under a lower one could never open its brain (§11.4).
    async fn adopt_higher(&mut self, seen: &Observation) -> Result<(), StepError> {
        let Some(observed) = seen.object().map(|object| object.generation) else { return Ok(()) };
        for _ in 0..RAISES_MAX {
            let engine = self.engine();
            if observed <= engine.generation {
                return Ok(());
            }
            self.may_act()?;
            let facts = json!({"field": "generation", "old": engine.generation, "new": observed});
            let change = Change {
                engine_id: engine.id,
                revision: engine.revision,
                only_without_operation: false,
                patch: EnginePatch { generation: Some(observed), ..EnginePatch::default() },
                audit: vec![AuditEntry {
                    started_at: None,
                    product_id: Some(engine.product_id),
                    user_id: Some(engine.user_id.clone()),
                    engine_id: Some(engine.id),
                    action: AuditAction::Adopt,
                    actor: "system".to_owned(),
                    metadata: facts,
                    has_duration: false,
                }],
            };
            if let Outcome::Changed(engine) = self.core.registry.change(&change).await? {
                self.found.engine = engine;
            } else if !self.refresh().await? {
                return Err(StepError::Lost);
            }
        }
        Err(StepError::Lost)
    }

    async fn permit(&self, promise: Option<Promise>) -> Result<crate::gate::Permit, StepError> {
        tokio::select! {
            permit = self.core.gate.acquire(self.class(), self.operation.product_id, promise) => {
                permit.map_err(|full| StepError::Full(full.retry_after_s))
            }
            () = self.claim.lost() => Err(StepError::Lost),
        }
    }

    async fn start_in_place(&mut self) -> Result<(), StepError> {
        let queued = Instant::now();
        let _permit = self.permit(None).await?;
        self.took(Phase::Queue, queued);
        self.may_act()?;
        let began = Instant::now();
        let endpoint = self.core.backend.start(self.operation.engine_id).await?;
        self.took(Phase::Create, began);
        self.started_at(&endpoint);
        Ok(())
    }

    /// A new object under a raised generation; the old one is gone before the new one starts.
    async fn make_anew(&mut self, seen: &Observation) -> Result<(), StepError> {
        let id = self.operation.engine_id;
        self.core.backend.ensure_image(&self.engine().engine_version.clone()).await?;
        self.ensure_storage().await?;
        let raised = self.operation.params["generation"].as_i64();
        if raised != Some(self.engine().generation) {
            self.raise_generation().await?;
        }
        let stale = seen.object().is_some_and(|o| o.generation != self.engine().generation);
        if stale {
            self.may_act()?;
            let running = matches!(
                seen.object().map(|o| &o.state),
                Some(ObjectState::Running { .. } | ObjectState::Paused)
            );
            if running {
                self.core.backend.stop(id, self.core.config.engine_stop_grace_s).await?;
            }
            self.core.backend.remove(id).await?;
        }
        self.notes.insert("recreated".to_owned(), json!(true));
        self.make_object().await
    }

    async fn raise_generation(&mut self) -> Result<(), StepError> {
        for _ in 0..RAISES_MAX {
            let (id, revision) = (self.operation.engine_id, self.engine().revision);
            match self
                .core
                .registry
                .raise_generation(self.operation.id, self.claim.number, id, revision)
                .await?
            {
                Outcome::Changed(engine) => {
                    self.operation.params["generation"] = json!(engine.generation);
                    self.found.engine = engine;
                    return Ok(());
                }
                Outcome::Missing => return Err(StepError::Lost),
                Outcome::Unchanged => {
                    self.may_act()?;
                    if !self.refresh().await? {
                        return Err(StepError::Lost);
                    }
                }
            }
        }
        Err(StepError::Lost)
    }

    /// Step `recheck` of a restart: is there anything to restart?
    pub(super) async fn recheck(&mut self) -> Result<Flow, StepError> {
        let id = self.operation.engine_id;
        let seen = self.core.backend.observe(id).await?;
        if let Observation::Present(object) = &seen
            && object.generation == self.engine().generation
            && let ObjectState::Running { restarts, address: Some(address), .. } = &object.state
        {
            let limit = self.core.config.health_check_timeout_s;
            let verdict = verdict(&super::boot::outcome(self.probe(*address, limit).await));
            if matches!(verdict, Verdict::Healthy { .. } | Verdict::Degraded { .. }) {
                let by_backend = i64::from(*restarts) > i64::from(self.found.vitals.backend_restarts);
                self.notes.insert("by".to_owned(), json!(if by_backend { "backend" } else { "none" }));
                self.address = Some(*address);
                self.found.engine.container_id = Some(object.container_id.clone());
                return Ok(Flow::Next(Step::Boot));
            }
        }
        Ok(Flow::Next(self.after(Step::Recheck)))
    }

    /// Step `stop` of a restart: a running but failing object is stopped, a crashed one left alone.
    pub(super) async fn stop_failing(&mut self) -> Result<Flow, StepError> {
        let id = self.operation.engine_id;
        let seen = self.core.backend.observe(id).await?;
        if matches!(seen.object().map(|o| &o.state), Some(ObjectState::Running { .. } | ObjectState::Paused))
        {
            let began = Instant::now();
            self.may_act()?;
            self.core.backend.stop(id, self.core.config.engine_stop_grace_s).await?;
            self.took(Phase::Stop, began);
        }
        Ok(Flow::Next(self.after(Step::Stop)))
    }

    /// Step `finish` of everything that ends in a running engine.
    pub(super) async fn finish_start(&mut self) -> Result<Flow, StepError> {
        let boot_ms = self.timings.get("boot").copied().unwrap_or(0);
        let boot_ms = i32::try_from(boot_ms).unwrap_or(i32::MAX);
        let spec_hash = match self.core.backend.observe(self.operation.engine_id).await {
            Ok(Observation::Present(object)) => Some((object.spec_hash, object.container_id)),
            _ => None,
        };
        telemetry_of_start(self, boot_ms);
        let rotation =
            super::settled_rotation(&self.core, self.engine(), self.address).await.unwrap_or_default();
        self.end(move |work| {
            let kind = work.operation.kind;
            let engine = work.engine();
            let first = engine.boot_duration_ms.is_none();
            let mut finish = work.finish(true);
            finish.patch = EnginePatch {
                status: Some(Status::Running),
                boot_duration_ms: Some(boot_ms.max(1)),
                container_id: Some(
                    spec_hash.as_ref().map(|s| s.1.clone()).or_else(|| engine.container_id.clone()),
                ),
                spec_hash: spec_hash.as_ref().map(|s| Some(s.0.clone())),
                wake_at: Some(None),
                next_restart_in: Some(None),
                failure: Some(None),
                reset_vitals: true,
                restart_attempts: (kind == OperationKind::Start).then_some(0),
                ..rotation.clone()
            };
            finish.count_provision = first;
            let action = match kind {
                OperationKind::Provision => AuditAction::Provision,
                OperationKind::Wake => AuditAction::Wake,
                OperationKind::Restart => AuditAction::AutoRestartSuccess,
                _ => AuditAction::Start,
            };
            finish.audit =
                vec![work.entry(action, Some(Status::Running), None, work.facts_of_start(boot_ms))];
            finish
        })
        .await
    }

    /// Metadata of the closing row, by kind (§9.2).
    fn facts_of_start(&self, boot_ms: i32) -> Value {
        let params = &self.operation.params;
        match self.operation.kind {
            OperationKind::Provision => json!({
                "via": params["via"], "engine_version": self.engine().engine_version, "port": self.engine().port,
                "boot_ms": boot_ms, "timings": self.timings,
            }),
            OperationKind::Wake => json!({
                "reason": params["reason"],
                "slept_s": crate::core::between(self.slept_since(), self.operation.started_at).as_secs(),
                "mode": self.engine().sleep_mode, "boot_ms": boot_ms,
                "overhead_ms": self.overhead_ms(boot_ms),
                "waiters": self.core.hub.waiting(self.operation.id),
            }),
            OperationKind::Restart => json!({
                "attempt": self.engine().restart_attempts,
                "by": self.notes.get("by").cloned().unwrap_or_else(|| json!("orchestrator")),
                "boot_ms": boot_ms,
            }),
            _ => json!({"boot_ms": boot_ms, "timings": self.timings}),
        }
    }

    fn slept_since(&self) -> Timestamp {
        self.operation.params["slept_since"]
            .as_str()
            .and_then(Timestamp::parse)
            .unwrap_or(self.engine().status_since)
    }

    /// How long a wake took beyond the engine's own boot.
    fn overhead_ms(&self, boot_ms: i32) -> i64 {
        let whole = crate::core::between(self.operation.started_at, self.found.now);
        (crate::core::millis(whole) - i64::from(boot_ms)).max(0)
    }
}

fn telemetry_of_start(work: &Work, boot_ms: i32) {
    let boot = Duration::from_millis(u64::try_from(boot_ms).unwrap_or(0));
    match work.operation.kind {
        OperationKind::Wake => {
            let mode = work.engine().sleep_mode.unwrap_or(SleepMode::Label);
            let whole = crate::core::between(work.operation.started_at, Timestamp::now());
            crate::telemetry::wake_overhead(mode, whole.saturating_sub(boot));
        }
        OperationKind::Restart => {
            match work.notes.get("by").and_then(Value::as_str).unwrap_or("orchestrator") {
                "none" => {}
                "backend" => crate::telemetry::restarted(RestartedBy::Backend),
                _ => crate::telemetry::restarted(RestartedBy::Orchestrator),
            }
        }
        _ => {}
    }
}
