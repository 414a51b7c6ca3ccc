//! What the supervisor remembers of every engine: the row as last read, live vitals, the last observation.
//!
//! All of it can be thrown away and read again. The truth is in the registry and in the backend; this is what loops
//! scan without asking anybody.

use crate::registry::rows::Found;
use contract::{EngineId, Slug, Timestamp};
use fleet::health::Vitals;
use fleet::lifecycle::Status;
use fleet::observation::{ObjectState, Observation};
use fleet::plan::{Claim, EngineFacts, OpenOperation, Seen, Source};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The verdict a boot ends with; the first probe of the sweep that says otherwise is a change.
const AFTER_BOOT: &str = "healthy";

/// One engine.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) found: Found,
    pub(crate) slug: Slug,
    /// Effective idle time of its product.
    pub(crate) idle_after: Option<Duration>,
    pub(crate) vitals: Vitals,
    pub(crate) seen: Seen,
    pub(crate) source: Source,
    pub(crate) observed_at: Timestamp,
    /// Start of the run that is accounted for.
    pub(crate) accounted_start: Option<Timestamp>,
    pub(crate) scheduled_wake_at: Option<Timestamp>,
    /// When it is probed next; `None` = a probe is under way.
    pub(crate) next_probe: Option<Instant>,
    /// The verdict of the last probe, to notice changes.
    pub(crate) last_verdict: Option<&'static str>,
    /// Which of its probes are written down.
    pub(crate) samples: Samples,
    /// Not tried for sleep before.
    pub(crate) no_sleep_before: Instant,
    /// Its object differs from what would be made now.
    pub(crate) drifted: bool,
    /// A probe series for recovery is under way.
    pub(crate) in_series: bool,
    /// The last list lacked its object, and is believed.
    pub(crate) absent_in_list: bool,
}

impl Entry {
    fn new(found: Found, slug: Slug, idle_after: Option<Duration>) -> Self {
        let vitals = crate::vitals::of_row(&found.vitals);
        let last_verdict = match (vitals.health_failures, vitals.degraded) {
            (0, false) => AFTER_BOOT,
            (0, true) => "degraded",
            _ => "failed",
        };
        Self {
            observed_at: Timestamp::from_millis(0),
            samples: Samples::of(found.engine.id),
            found,
            slug,
            idle_after,
            vitals,
            seen: Seen::NoWord,
            source: Source::List,
            accounted_start: None,
            scheduled_wake_at: None,
            next_probe: None,
            last_verdict: Some(last_verdict),
            no_sleep_before: Instant::now(),
            drifted: false,
            in_series: false,
            absent_in_list: false,
        }
    }

    /// Where it answers, by the last observation.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        match &self.seen {
            Seen::Fresh(Observation::Present(object)) => match object.state {
                ObjectState::Running { address, .. } => address,
                _ => None,
            },
            Seen::Fresh(Observation::Absent) | Seen::NoWord => None,
        }
    }

    /// Everything the planner asks for.
    pub(crate) fn facts(&self) -> EngineFacts {
        let engine = &self.found.engine;
        EngineFacts {
            engine_id: engine.id,
            product_id: engine.product_id,
            backend: engine.backend,
            status: engine.status,
            status_since: engine.status_since,
            desired: engine.desired,
            revision: engine.revision,
            generation: engine.generation,
            booted: engine.boot_duration_ms.is_some(),
            container_id: engine.container_id.clone(),
            sleep_mode: engine.sleep_mode,
            wake_at: engine.wake_at,
            admit_lease_until: engine.admit_lease_until,
            next_restart_at: engine.next_restart_at,
            started_at: (engine.status == Status::Running).then_some(engine.status_since),
            scheduled_wake_at: self.scheduled_wake_at,
            idle_after: self.idle_after,
            vitals: self.vitals.clone(),
            open: self.found.operation.as_ref().map(|open| OpenOperation {
                kind: open.kind,
                claim: match (open.owner, open.lease_until) {
                    (Some(_), Some(until)) => Claim::Until(until),
                    _ => Claim::Unowned,
                },
                retry_at: open.retry_at,
            }),
            seen: self.seen.clone(),
            source: self.source,
            observed_at: self.observed_at,
            accounted_start: self.accounted_start,
            rotation_unfinished: engine.next_key.is_some(),
        }
    }
}

/// Counts the probes of one engine, to pick one in so many.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Samples(u32);

impl Samples {
    /// Begins at another place for each engine, so that a fleet that is taken over at once does not write its samples
    /// at once.
    fn of(id: EngineId) -> Self {
        Self(u32::try_from(id.uuid().as_u128() & u128::from(u32::MAX)).unwrap_or(0))
    }

    /// Counts a probe; true for one in so many, false always when that is 0.
    pub(crate) fn takes(&mut self, one_in: u32) -> bool {
        if one_in == 0 {
            return false;
        }
        self.0 = (self.0 % one_in + 1) % one_in;
        self.0 == 0
    }
}

/// All engines.
#[derive(Debug, Default)]
pub(crate) struct View {
    entries: Mutex<HashMap<EngineId, Entry>>,
}

impl View {
    /// The entries, for a short scan; never held across an await.
    pub(crate) fn lock(&self) -> MutexGuard<'_, HashMap<EngineId, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over a row that was read.
    pub(crate) fn put(&self, found: Found, slug: Slug, idle_after: Option<Duration>) {
        let mut entries = self.lock();
        let id = found.engine.id;
        match entries.get_mut(&id) {
            None => {
                entries.insert(id, Entry::new(found, slug, idle_after));
            }
            Some(entry) => {
                // A row that was read earlier says nothing about now.
                if found.engine.revision < entry.found.engine.revision {
                    return;
                }
                let became_running = found.engine.status == Status::Running
                    && found.engine.status_since != entry.found.engine.status_since;
                if became_running {
                    // Another run: its start and its restarts are those of the first look at it.
                    entry.accounted_start = None;
                    entry.vitals = crate::vitals::of_row(&found.vitals);
                    entry.vitals.backend_restarts = u32::MAX;
                    entry.vitals.clear_failures();
                    entry.next_probe = None;
                    entry.last_verdict = Some(AFTER_BOOT);
                }
                if found.engine.status != Status::Running {
                    entry.next_probe = None;
                }
                entry.found = found;
                entry.slug = slug;
                entry.idle_after = idle_after;
            }
        }
    }

    /// Takes over an observation.
    pub(crate) fn see(&self, id: EngineId, seen: Seen, source: Source, at: Timestamp) {
        let mut entries = self.lock();
        let Some(entry) = entries.get_mut(&id) else { return };
        if at < entry.observed_at {
            return;
        }
        if let Seen::Fresh(Observation::Present(object)) = &seen
            && let ObjectState::Running { started_at, restarts, .. } = object.state
            && at >= entry.found.engine.status_since
        {
            // `u32::MAX` marks a run that nobody has looked at yet.
            if entry.vitals.backend_restarts == u32::MAX {
                entry.vitals.backend_restarts = restarts;
            }
            if entry.found.engine.status == Status::Running {
                entry.accounted_start.get_or_insert(started_at);
            }
        }
        entry.seen = seen;
        entry.source = source;
        entry.observed_at = at;
    }

    /// The row is gone.
    pub(crate) fn remove(&self, id: EngineId) {
        self.lock().remove(&id);
    }

    /// How many engines are running and should be.
    pub(crate) fn running(&self) -> usize {
        self.lock().values().filter(|e| crate::discovery::is_admittable(&e.found.engine)).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn one_probe_in_so_many_of_each_engine_is_a_sample() {
        let mut first = BTreeSet::new();
        for _ in 0..200 {
            let mut samples = Samples::of(EngineId::generate());
            let taken: Vec<usize> = (0..1000).filter(|_| samples.takes(100)).collect();
            assert_eq!(taken.len(), 10, "{taken:?}");
            assert!(taken.windows(2).all(|pair| pair[1] - pair[0] == 100), "{taken:?}");
            first.insert(taken[0]);
        }
        assert!(first.len() > 50, "the samples of a fleet come together: {first:?}");
        let mut samples = Samples::of(EngineId::generate());
        assert!((0..10).all(|_| samples.takes(1)));
        assert!((0..10).all(|_| !samples.takes(0)));
    }
}
