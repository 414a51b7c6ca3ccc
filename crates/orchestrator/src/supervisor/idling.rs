//! The idle loop: candidates from memory, then the probe and the fence.

use super::{Supervisor, every, look, never};
use crate::idle::{self, Asked, Slept};
use crate::telemetry;
use contract::{EngineId, FleetError};
use fleet::idle::IdleRules;
use fleet::plan::{idle_facts, idle_rules};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Period (§12.2).
const PERIOD: Duration = Duration::from_secs(5);
/// An engine that turned out to be in use is left alone for so long. Longer delays sleeps; shorter probes busy
/// engines for nothing.
const BUSY_PAUSE: Duration = Duration::from_secs(15);

/// The loop.
pub(super) async fn run(supervisor: Arc<Supervisor>) {
    every("idle", PERIOD, supervisor.over.clone(), never, || async {
        for id in candidates(&supervisor) {
            let Ok(place) = Arc::clone(&supervisor.sleeps).acquire_owned().await else { return Ok(()) };
            let inner = Arc::clone(&supervisor);
            supervisor.spawn(async move {
                if let Err(error) = attempt(&inner, id).await {
                    telemetry::loop_failed("idle", &error);
                }
                drop(place);
            });
        }
        Ok::<(), FleetError>(())
    })
    .await;
}

fn candidates(supervisor: &Supervisor) -> Vec<EngineId> {
    if !supervisor.core.pulse.backend_ok() {
        return Vec::new();
    }
    let (rules, now) = (supervisor.rules(), supervisor.core.clock.now());
    let entries = supervisor.view.lock();
    let idle = entries.iter().filter(|(_, entry)| {
        entry.idle_after.is_some() && entry.no_sleep_before <= Instant::now() && {
            let facts = entry.facts();
            fleet::idle::is_candidate(&idle_facts(&facts), &idle_rules(&facts, &rules), now)
        }
    });
    idle.map(|(id, _)| *id).collect()
}

async fn attempt(supervisor: &Arc<Supervisor>, id: EngineId) -> Result<(), FleetError> {
    let core = &supervisor.core;
    let Some(found) = look::read(supervisor, id).await? else { return Ok(()) };
    let Some(entry) = supervisor.view.lock().get(&id).cloned() else { return Ok(()) };
    let rules = IdleRules {
        idle_after: entry.idle_after,
        mode: core.config.sleep_mode,
        wake_lead: core.config.wake_lead_s,
        wake_grace: core.config.wake_grace_s,
    };
    // Another supervisor may have woken it; only its row of the operation remembers for what.
    let scheduled_wake_at = match entry.scheduled_wake_at {
        Some(at) => Some(at),
        None => core.registry.last_scheduled_wake(id).await?,
    };
    if let Some(entry) = supervisor.view.lock().get_mut(&id) {
        entry.scheduled_wake_at = scheduled_wake_at;
    }
    let asked = Asked::Idle { scheduled_wake_at };
    match idle::put_to_sleep(core, &found, &rules, asked, "system", None).await? {
        Slept::Opened(_) => {}
        Slept::Changed | Slept::Active(_) => {
            if let Some(entry) = supervisor.view.lock().get_mut(&id) {
                entry.no_sleep_before =
                    Instant::now() + BUSY_PAUSE.min(rules.idle_after.unwrap_or(BUSY_PAUSE));
            }
        }
    }
    Ok(())
}
