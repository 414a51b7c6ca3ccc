//! When an engine has been idle for so long that it may be put to sleep, and when it must be awake again.
//!
//! It refuses to guess: an engine that does not report its activity is never put to sleep, except in mode `label`,
//! which touches nothing. Reads, probes and refused admits are not activity. The invariant: a sleep that these
//! facts allow still has to pass the fence, which is one database statement and not in here.

use crate::health::Activity;
use crate::lifecycle::{Desired, SleepMode, Status, words};
use crate::operation::OperationKind;
use crate::restart::{later, since};
use contract::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// Room between a sleep and the wake that a schedule asks for, besides the lead. Smaller would freeze engines
/// that are thawed seconds later; larger would keep them up for nothing.
pub const SCHEDULE_MARGIN: Duration = Duration::from_secs(60);
/// How long before the probe a lease must have ended for the fence: a request begun under it has reached the
/// engine by then and is visible in the probe. Smaller would race; larger would delay every sleep.
pub const FENCE_MARGIN: Duration = Duration::from_secs(2);

/// What is known about one engine's use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdleFacts {
    /// What was last confirmed.
    pub status: Status,
    /// What it should be.
    pub desired: Desired,
    /// The open operation.
    pub open: Option<OperationKind>,
    /// End of the last admit lease, past or future.
    pub lease_until: Option<Timestamp>,
    /// Activity as last reported; for the decision itself: from a probe made now.
    pub activity: Option<Activity>,
    /// Last start or wake; an engine never admitted counts from its first boot.
    pub started_at: Option<Timestamp>,
    /// `wake_at` of the last scheduled wake.
    pub scheduled_wake_at: Option<Timestamp>,
}

/// The times idleness is measured by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdleRules {
    /// Effective idle time ([`crate::policy::PolicyEngine::idle_after`]); `None` = never.
    pub idle_after: Option<Duration>,
    /// How the deployment puts engines to sleep.
    pub mode: SleepMode,
    /// `ORCH_WAKE_LEAD_S`.
    pub wake_lead: Duration,
    /// `ORCH_WAKE_GRACE_S`.
    pub wake_grace: Duration,
}

words! {
    /// What keeps an engine awake, as `explain` shows it.
    Blocker {
        /// It does not run, or is on its way elsewhere.
        NotRunning = "not_running",
        /// Another operation is open.
        Operation = "operation",
        /// Idle sleep is off.
        Disabled = "disabled",
        /// A promise that it stays awake.
        Lease = "lease",
        /// Its health does not say what it is doing.
        NoActivityReport = "no_activity_report",
        /// Turns in flight, with or without a stream.
        InFlightTurns = "in_flight_turns",
        /// Open streams, silent or not.
        OpenStreams = "open_streams",
        /// Planned work is near.
        Scheduled = "scheduled",
        /// Used too recently.
        RecentlyActive = "recently_active",
    }
}

/// Everything that keeps the engine awake now, for the idle loop and `explain`. Empty = try the fence.
pub fn blockers(facts: &IdleFacts, rules: &IdleRules, now: Timestamp) -> Vec<Blocker> {
    Blocker::ALL.iter().copied().filter(|&blocker| blocks(blocker, facts, rules, now)).collect()
}

/// What keeps it awake when somebody asks for sleep (API 6): lease, activity and schedule; not the idle time.
/// The same question, without `scheduled`, guards upgrade and re-freeze.
pub fn request_blockers(facts: &IdleFacts, rules: &IdleRules, now: Timestamp) -> Vec<Blocker> {
    let asked = [
        Blocker::Lease,
        Blocker::NoActivityReport,
        Blocker::InFlightTurns,
        Blocker::OpenStreams,
        Blocker::Scheduled,
    ];
    asked.into_iter().filter(|&blocker| blocks(blocker, facts, rules, now)).collect()
}

/// True when nothing blocks; allocates nothing.
pub fn is_candidate(facts: &IdleFacts, rules: &IdleRules, now: Timestamp) -> bool {
    !Blocker::ALL.iter().any(|&blocker| blocks(blocker, facts, rules, now))
}

fn blocks(blocker: Blocker, facts: &IdleFacts, rules: &IdleRules, now: Timestamp) -> bool {
    match blocker {
        Blocker::NotRunning => !(facts.status.is_sleepable() && facts.desired == Desired::Running),
        Blocker::Operation => facts.open.is_some(),
        Blocker::Disabled => rules.idle_after.is_none(),
        Blocker::Lease => facts.lease_until.is_some_and(|until| until > now),
        Blocker::NoActivityReport => facts.activity.is_none() && rules.mode != SleepMode::Label,
        Blocker::InFlightTurns => facts.activity.is_some_and(|activity| activity.in_flight_turns > 0),
        Blocker::OpenStreams => facts.activity.is_some_and(|activity| activity.open_streams > 0),
        Blocker::Scheduled => facts
            .activity
            .and_then(|activity| activity.next_scheduled_at)
            .is_some_and(|due| due <= later(later(now, rules.wake_lead), SCHEDULE_MARGIN)),
        Blocker::RecentlyActive => match (rules.idle_after, idle_since(facts, rules)) {
            (Some(idle_after), Some(idle)) => idle > now || since(idle, now) < idle_after,
            // Nothing is known of its past: not even a boot. Whatever this is, it is not idle.
            (Some(_), None) => true,
            (None, _) => false,
        },
    }
}

/// Since when nothing has happened; may be in the future (a lease, a grace after planned work). `None` = never
/// started.
pub fn idle_since(facts: &IdleFacts, rules: &IdleRules) -> Option<Timestamp> {
    let grace = facts.scheduled_wake_at.map(|at| later(later(at, rules.wake_lead), rules.wake_grace));
    let active = facts.activity.and_then(|activity| activity.last_activity_at);
    [facts.lease_until, active, facts.started_at, grace].into_iter().flatten().max()
}

/// When the engine must be woken for the work it planned: that long before it.
pub fn wake_at(next_scheduled_at: Option<Timestamp>, wake_lead: Duration) -> Option<Timestamp> {
    let lead = i64::try_from(wake_lead.as_millis()).unwrap_or(i64::MAX);
    next_scheduled_at.map(|due| due.plus_millis(-lead))
}

/// The condition the fence puts on the lease, for tests and the memory of it: ended 2 s before the probe began.
pub fn fence_open(lease_until: Option<Timestamp>, probe_began_at: Timestamp) -> bool {
    lease_until.is_none_or(|until| later(until, FENCE_MARGIN) < probe_began_at)
}
