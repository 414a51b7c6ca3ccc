//! Putting idle engines to sleep: the probe, the rules, and the fence (§6.4).

use crate::core::{Core, between};
use crate::registry::change::EnginePatch;
use crate::registry::rows::Found;
use crate::work;
use contract::{FleetCode, FleetError, OperationId, RequestId, Timestamp};
use fleet::health::{Activity, Verdict, verdict};
use fleet::idle::{Blocker, IdleFacts, IdleRules};
use fleet::lifecycle::{Desired, Status};
use fleet::observation::{ObjectState, Observation};
use fleet::operation::OperationKind;
use fleet::policy::Policy;
use serde_json::json;
use std::sync::Arc;

/// What became of an attempt.
pub(crate) enum Slept {
    /// The fence was passed; this operation suspends the engine.
    Opened(OperationId),
    /// The row moved on, or the fence did not pass: look again.
    Changed,
    /// Somebody is using it.
    Active(FleetError),
}

/// Why an engine is put to sleep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// Endpoint 6.
    ByCaller,
    /// Nobody used it for long enough.
    Idle {
        /// `wake_at` of its last scheduled wake.
        scheduled_wake_at: Option<Timestamp>,
    },
}

impl Asked {
    const fn word(self) -> &'static str {
        match self {
            Asked::ByCaller => "api",
            Asked::Idle { .. } => "idle",
        }
    }

    const fn scheduled_wake_at(self) -> Option<Timestamp> {
        match self {
            Asked::ByCaller => None,
            Asked::Idle { scheduled_wake_at } => scheduled_wake_at,
        }
    }
}

/// The rules of idleness for a product.
pub(crate) fn rules(core: &Core, policy: &Policy) -> IdleRules {
    IdleRules {
        idle_after: core.policy_engine().idle_after(policy),
        mode: core.config.sleep_mode,
        wake_lead: core.config.wake_lead_s,
        wake_grace: core.config.wake_grace_s,
    }
}

/// The facts the rules judge. `activity` is what a probe made now says, or, to explain only, what was last seen.
pub(crate) fn facts(
    found: &Found,
    activity: Option<Activity>,
    scheduled_wake_at: Option<Timestamp>,
) -> IdleFacts {
    let engine = &found.engine;
    IdleFacts {
        status: engine.status,
        desired: engine.desired,
        open: found.operation.as_ref().map(|o| o.kind),
        lease_until: engine.admit_lease_until,
        activity,
        started_at: (engine.status == Status::Running).then_some(engine.status_since),
        scheduled_wake_at,
    }
}

/// Probes, judges, and opens the operation through the fence.
/// `asked`: somebody asked for it, so the idle time does not matter (API 6).
pub(crate) async fn put_to_sleep(
    core: &Arc<Core>,
    found: &Found,
    rules: &IdleRules,
    asked: Asked,
    actor: &str,
    request_id: Option<&RequestId>,
) -> Result<Slept, FleetError> {
    // From the database clock, before the probe: an admit after this moment blocks the fence, and a request begun
    // under a lease that ended before it is visible in the probe.
    let t0 = core.registry.now().await?;
    let seen = core.backend.observe(found.engine.id).await.map_err(|e| crate::core::backend_error(&e))?;
    let address = match &seen {
        Observation::Present(object) => match &object.state {
            ObjectState::Running { address, .. } => *address,
            _ => None,
        },
        Observation::Absent => None,
    };
    let answered = match address {
        Some(address) => {
            let reply = core.prober.get_health(address, core.config.health_check_timeout_s).await;
            match verdict(&work::outcome(reply)) {
                Verdict::Healthy { report } | Verdict::Degraded { report, .. } => Some(report),
                Verdict::Failed { .. } => None,
            }
        }
        None => None,
    };
    // In every mode: what was seen at the last sweep says nothing about a turn that has begun since. Whether an
    // answer without activity is enough, the rules say.
    let Some(report) = answered else {
        return Ok(Slept::Active(
            FleetError::new(FleetCode::EngineBusy, "the engine does not say whether it is idle")
                .with(json!({"reason": "active"}))
                .retry_after(5),
        ));
    };
    let activity = report.activity;
    let facts = facts(found, activity, asked.scheduled_wake_at());
    let blockers = match asked {
        Asked::ByCaller => fleet::idle::request_blockers(&facts, rules, t0),
        Asked::Idle { .. } => fleet::idle::blockers(&facts, rules, t0),
    };
    if !blockers.is_empty() {
        return Ok(Slept::Active(active(&facts, &blockers, t0)));
    }
    let wake_at = fleet::idle::wake_at(activity.and_then(|a| a.next_scheduled_at), rules.wake_lead);
    let idle_s = fleet::idle::idle_since(&facts, rules).map_or(0, |at| between(at, t0).as_secs());
    let mut open = core.opening(
        found,
        OperationKind::Sleep,
        false,
        json!({"reason": asked.word(), "idle_s": idle_s}),
        actor,
        request_id,
    );
    open.fence = Some(t0);
    open.patch = EnginePatch {
        desired: Some(Desired::Sleeping),
        sleep_mode: Some(Some(rules.mode)),
        wake_at: Some(wake_at),
        ..EnginePatch::default()
    };
    Ok(match core.begin(open).await? {
        Some(opened) => Slept::Opened(opened.1.id),
        None => Slept::Changed,
    })
}

fn active(facts: &IdleFacts, blockers: &[Blocker], now: Timestamp) -> FleetError {
    let lease = facts.lease_until.map_or(0, |until| crate::core::millis(between(now, until)));
    let activity = facts.activity.as_ref();
    let words: Vec<&str> = blockers.iter().map(|b| b.as_str()).collect();
    FleetError::new(FleetCode::EngineBusy, format!("the engine is in use ({})", words.join(", ")))
        .with(json!({
            "reason": "active",
            "in_flight_turns": activity.map_or(0, |a| a.in_flight_turns),
            "open_streams": activity.map_or(0, |a| a.open_streams),
            "lease_ms": lease,
        }))
        .retry_after(u64::try_from(lease / 1000 + 1).unwrap_or(1))
}
