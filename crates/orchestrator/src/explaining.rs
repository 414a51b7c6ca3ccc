//! `explain`: why an engine is in its present state, from the row, the vitals, the backend and the audit log.

use crate::core::Core;
use crate::discovery::Caller;
use crate::idle;
use crate::registry::AuditFilter;
use crate::registry::rows::Found;
use crate::vitals;
use contract::fleet_api::{
    ExplainAdmission, ExplainBackend, ExplainHealth, ExplainReason, ExplainResponse, ExplainSleep,
};
use contract::{FleetCode, FleetError, UserId};
use fleet::audit::AuditAction;
use fleet::explain::{Explained, admission, because, summary};
use fleet::lifecycle::Status;
use fleet::policy::Policy;
use fleet::request::Standing;
use fleet::spec::drift_fields;

/// Rows of the audit log that are shown (§3.4).
const REASONS_MAX: i64 = 20;

impl Core {
    /// Endpoint 10.
    pub async fn explain(&self, caller: &Caller, user: &UserId) -> Result<ExplainResponse, FleetError> {
        let found = self.registry.find(caller.product.id, user).await?.ok_or_else(|| {
            FleetError::new(FleetCode::EngineNotFound, "this product has no engine for this user")
        })?;
        self.explain_found(&found, &caller.policy).await
    }

    /// The same for an engine that was read.
    pub async fn explain_found(&self, found: &Found, policy: &Policy) -> Result<ExplainResponse, FleetError> {
        let engine = &found.engine;
        let observed = self.backend.observe(engine.id).await;
        let observed_at = self.registry.now().await?;
        let vitals = vitals::of_row(&self.latest_vitals(found));
        let open = found.operation.as_ref().map(|o| o.kind);
        let attempts = u32::try_from(engine.restart_attempts).unwrap_or(0);
        let text = summary(&Explained {
            status: engine.status,
            status_since: engine.status_since,
            desired: engine.desired,
            open,
            failure: engine.failure_code,
            vitals: &vitals,
            restart_attempts: attempts,
            restart_max_attempts: self.config.restart_max_attempts,
            next_restart_at: engine.next_restart_at,
            sleep_mode: engine.sleep_mode,
            wake_at: engine.wake_at,
            backend_answers: observed.is_ok(),
        });
        let summary = match (&engine.failure_message, engine.failure_code) {
            (Some(said), Some(_)) if !text.contains(said.as_str()) => format!("{text} ({said})"),
            _ => text,
        };
        let filter = AuditFilter { engine: Some(engine.id), ..AuditFilter::default() };
        let rows = self.registry.audit(&filter, REASONS_MAX, None).await?;
        let reasons = rows
            .into_iter()
            .map(|row| ExplainReason {
                at: row.timestamp,
                because: AuditAction::parse(&row.action).and_then(|action| because(action, &row.metadata)),
                what: row.action,
                audit_id: row.id,
            })
            .collect();
        let rules = idle::rules(self, policy);
        let woken_for = match engine.status {
            Status::Running => self.registry.last_scheduled_wake(engine.id).await?,
            _ => None,
        };
        let facts = idle::facts(found, vitals.activity, woken_for);
        let wanted = self.spec(engine, policy);
        let drift = match observed.as_ref().ok().and_then(|o| o.object()) {
            Some(object) => drift_fields(object, &wanted.image, &wanted.spec_hash),
            None => Vec::new(),
        };
        let (would_admit, reason) =
            admission(Standing { status: engine.status, desired: engine.desired, open });
        Ok(ExplainResponse {
            engine_id: engine.id,
            user_id: engine.user_id.clone(),
            status: engine.status.to_string(),
            desired: engine.desired.to_string(),
            status_since: engine.status_since,
            operation: open.map(|kind| kind.to_string()),
            summary,
            reasons,
            health: ExplainHealth {
                failures: i64::from(vitals.health_failures),
                healthy_streak: i64::from(vitals.healthy_streak),
                last_health_at: vitals.last_health_at,
                degraded_subsystems: vitals.degraded_subsystems().into_iter().map(str::to_owned).collect(),
                restart_attempts: i64::from(engine.restart_attempts),
                restart_max_attempts: i64::from(self.config.restart_max_attempts),
                next_restart_at: engine.next_restart_at,
            },
            sleep: ExplainSleep {
                idle_after_s: rules.idle_after.map_or(0, |span| span.as_secs()),
                // A promise or a grace that still lasts is no idleness; the blockers tell it.
                idle_since: fleet::idle::idle_since(&facts, &rules).filter(|&at| at <= found.now),
                blocked_by: fleet::idle::blockers(&facts, &rules, found.now)
                    .into_iter()
                    .map(|blocker| blocker.to_string())
                    .collect(),
                wake_at: engine.wake_at,
            },
            backend: ExplainBackend {
                kind: engine.backend.to_string(),
                object: format!("engine-{}", engine.id.short()),
                observed: observed.as_ref().ok().map(|o| o.word().to_owned()),
                observed_at: observed.is_ok().then_some(observed_at),
                generation: engine.generation,
                drift: drift.into_iter().map(str::to_owned).collect(),
            },
            admission: ExplainAdmission { would_admit, reason: reason.map(|r| r.to_string()) },
        })
    }
}
