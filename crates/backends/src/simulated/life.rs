//! What happens to simulated engines: they start, open their brain, end, and come back.
//!
//! The one invariant: a brain has at most one live writer, and never one of an older generation. A breach is
//! recorded here, and panics as soon as the state is let go.

use super::state::{Ending, KILLED, Phase, Run, State};
use crate::BackendEventKind;
use contract::EngineId;
use rand::RngExt;
use std::time::Duration;
use tokio::time::Instant;

/// Where an engine ends that cannot open its brain.
const BRAIN_REFUSED: i32 = 4;
/// Wait of the place before it restarts a crashed object by itself. Larger than a look at it, so that `Restarting`
/// can be seen; smaller than any boot deadline.
const RESTART_DELAY: Duration = Duration::from_millis(100);

impl State {
    /// Lets everything happen to this engine that is due.
    pub(super) fn settle(&mut self, id: EngineId, now: Instant) {
        loop {
            let Some(object) = self.engines.get(&id).and_then(|e| e.object.as_ref()) else { return };
            match object.phase {
                Phase::Running(Run { ending: Some(ending), .. }) if ending.at <= now => self.end(id, ending),
                Phase::Restarting { until, .. } if until <= now => {
                    if let Some(object) = self.engines.get_mut(&id).and_then(|e| e.object.as_mut()) {
                        object.restarts += 1;
                    }
                    self.run(id, until);
                }
                Phase::Running(_) | Phase::Restarting { .. } | Phase::Paused(_) | Phase::Exited { .. } => {
                    return;
                }
            }
        }
    }

    fn end(&mut self, id: EngineId, ending: Ending) {
        let at = self.stamp(ending.at);
        let comes_back = self.capabilities.self_restarts && !ending.asked;
        let Some(engine) = self.engines.get_mut(&id) else { return };
        if let Some(storage) = &mut engine.storage {
            storage.writer = None;
            storage.log.push_back(format!("ended with code {}", ending.code));
        }
        let Some(object) = &mut engine.object else { return };
        object.phase = if comes_back && !object.stopped {
            Phase::Restarting { until: ending.at + RESTART_DELAY, code: ending.code }
        } else {
            Phase::Exited { code: Some(ending.code), oom: ending.oom, at, killed: ending.killed }
        };
        if let Phase::Restarting { until, .. } = object.phase {
            self.appointments.push((id, until));
        }
        if ending.oom {
            self.tell(id, BackendEventKind::Oom);
        }
        self.tell(id, BackendEventKind::Die);
    }

    /// Starts the process of the object: it opens the brain.
    pub(super) fn run(&mut self, id: EngineId, now: Instant) {
        let number = self.number();
        let started_at = self.stamp(now);
        let Some(engine) = self.engines.get_mut(&id) else { return };
        let jitter = engine.profile.boot_jitter.mul_f64(self.rng.random());
        let ready_at = now + engine.profile.boot + jitter;
        let Some(object) = &mut engine.object else { return };
        let death = engine.profile.dies.as_mut().filter(|death| death.times != Some(0));
        let ending = death.map(|death| {
            if let Some(times) = &mut death.times {
                *times -= 1;
            }
            Ending { at: now + death.after, code: death.code, oom: death.oom, asked: false, killed: false }
        });
        object.phase = Phase::Running(Run { started_at, ready_at, ending });
        object.stopped = false;
        engine.starts += 1;
        match &mut engine.storage {
            // restarted by the place after its storage went away: it cannot open a brain and ends
            None => {
                object.phase =
                    Phase::Exited { code: Some(BRAIN_REFUSED), oom: false, at: started_at, killed: false };
                return self.tell(id, BackendEventKind::Die);
            }
            Some(storage) => {
                if let Some(writer) = storage.writer {
                    self.breaches
                        .push(format!("engine {id} has two live writers: runs {writer} and {number}"));
                }
                if storage.generation > object.generation {
                    let (old, new) = (object.generation, storage.generation);
                    self.breaches.push(format!("engine {id}: generation {old} opened the brain of {new}"));
                }
                storage.writer = Some(number);
                storage.generation = storage.generation.max(object.generation);
                storage.log.push_back(format!("serving generation {}", object.generation));
                storage.log.extend(engine.profile.says.iter().cloned());
            }
        }
        if let Some(ending) = ending {
            self.appointments.push((id, ending.at));
        }
        self.tell(id, BackendEventKind::Start);
    }

    /// Ends the process now, if one lives.
    pub(super) fn kill(&mut self, id: EngineId, code: i32, oom: bool, asked: bool, now: Instant) {
        self.settle(id, now);
        let phase = self.engines.get(&id).and_then(|e| e.object.as_ref()).map(|o| o.phase);
        if let Some(Phase::Running(_) | Phase::Paused(_)) = phase {
            self.end(id, Ending { at: now, code, oom, asked, killed: true });
        }
    }

    /// The daemon goes away and comes back: objects that were not stopped run again, streams are cut.
    pub(super) fn restart_daemon(&mut self, now: Instant) {
        let ids: Vec<EngineId> = self.engines.keys().copied().collect();
        self.reachable = false;
        let mut again = Vec::new();
        for id in ids {
            self.settle(id, now);
            let Some(object) = self.engines.get(&id).and_then(|e| e.object.as_ref()) else { continue };
            let runs = match object.phase {
                Phase::Running(_) | Phase::Restarting { .. } => true,
                Phase::Paused(_) => self.wakes_paused,
                Phase::Exited { .. } => false,
            };
            if runs && !object.stopped {
                self.kill(id, KILLED, false, true, now);
                again.push(id);
            }
        }
        for id in again {
            self.run(id, now);
        }
        self.reachable = true;
        self.hints.gap();
    }
}
