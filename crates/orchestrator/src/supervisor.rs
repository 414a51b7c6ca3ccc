//! The loops without input: look at the world, compare with the rows, perform what the planner says.
//!
//! One replica at a time holds the lease named `supervisor` and runs them ([`tenure`]); claiming abandoned
//! operations, renewing claims and listening run on every replica ([`background`]). A loop is woken by its period and by a signal,
//! may run twice or on two replicas, and does no retry of its own. What it writes is guarded by revisions and claims,
//! so a deposed supervisor is harmless.

mod adoption;
pub(crate) mod background;
mod due;
mod idling;
mod look;
mod orphans;
mod probing;
mod reconcile;
mod upkeep;
pub(crate) mod view;

use crate::core::Core;
use crate::locks::Actor;
use crate::telemetry;
use contract::EngineId;
use fleet::orphans::{Absence, Orphans};
use fleet::plan::Rules;
use futures::FutureExt;
use std::collections::HashSet;
use std::fmt::Display;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use view::View;

/// Engines looked at in parallel. More is load on the backend in a storm of events; fewer is slow after one.
const LOOKS_MAX: usize = 32;
/// Probes in parallel (§7.2).
const PROBES_MAX: usize = 50;
/// Idle engines tried in parallel (§12.2).
const SLEEPS_MAX: usize = 20;

/// One stretch of holding the lease.
pub(crate) struct Supervisor {
    pub(crate) core: Arc<Core>,
    pub(crate) view: View,
    /// Cancelled when the lease is lost or given back.
    pub(crate) over: CancellationToken,
    pub(crate) tasks: TaskTracker,
    looks: Arc<Semaphore>,
    probes: Arc<Semaphore>,
    sleeps: Arc<Semaphore>,
    /// Engines whose object is being stopped or removed outside any operation, or waits for that.
    slow: Mutex<HashSet<EngineId>>,
    orphans: Mutex<Orphans>,
    absence: Mutex<Absence>,
    brake: Mutex<fleet::health::FailureBrake>,
}

impl Supervisor {
    /// The deployment's side of planning.
    pub(crate) fn rules(&self) -> Rules {
        let config = &self.core.config;
        Rules {
            backend: self.core.backend.kind(),
            reconcile_interval: config.reconcile_interval_s,
            sleep_mode: config.sleep_mode,
            wake_lead: config.wake_lead_s,
            wake_grace: config.wake_grace_s,
        }
    }

    /// True while this tenure may act.
    pub(crate) fn holds(&self) -> bool {
        !self.over.is_cancelled() && self.core.pulse.may_supervise()
    }

    /// Runs a piece of work about one engine in its own task: its failure or panic ends nothing else.
    pub(crate) fn spawn(self: &Arc<Self>, work: impl Future<Output = ()> + Send + 'static) {
        let over = self.over.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = work => {}
                () = over.cancelled() => {}
            }
        });
    }

    /// Touches an engine's object outside any operation in its own task, under its lock and in one of the places for
    /// stops: it may take as long as a drain, and looks must go on meanwhile. Nothing happens while that is under way
    /// for the same engine.
    pub(crate) fn spawn_slow(
        self: &Arc<Self>,
        id: EngineId,
        work: impl Future<Output = ()> + Send + 'static,
    ) {
        if !self.slow.lock().unwrap_or_else(PoisonError::into_inner).insert(id) {
            return;
        }
        let mark = SlowMark { supervisor: Arc::clone(self), id };
        self.spawn(async move {
            let core = Arc::clone(&mark.supervisor.core);
            // The lock first: an executor that has it may be waiting for a place.
            let _held = core.locks.lock(mark.id, Actor::Planner).await;
            let Ok(_place) = Arc::clone(&core.stops).acquire_owned().await else { return };
            work.await;
        });
    }
}

/// One engine in [`Supervisor::slow`], for as long as this lives.
struct SlowMark {
    supervisor: Arc<Supervisor>,
    id: EngineId,
}

impl Drop for SlowMark {
    fn drop(&mut self) {
        self.supervisor.slow.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

/// Supervises until `over`, or until one of the loops breaks off; returns when every loop has ended.
pub(crate) async fn tenure(core: Arc<Core>, over: CancellationToken) {
    let supervisor = Arc::new(Supervisor {
        view: View::default(),
        over: over.clone(),
        tasks: TaskTracker::new(),
        looks: Arc::new(Semaphore::new(LOOKS_MAX)),
        probes: Arc::new(Semaphore::new(PROBES_MAX)),
        sleeps: Arc::new(Semaphore::new(SLEEPS_MAX)),
        slow: Mutex::default(),
        orphans: Mutex::default(),
        absence: Mutex::default(),
        brake: Mutex::default(),
        core,
    });
    let mut loops = JoinSet::new();
    loops.spawn(reconcile::run(Arc::clone(&supervisor)));
    loops.spawn(look::run(Arc::clone(&supervisor)));
    loops.spawn(reconcile::events(Arc::clone(&supervisor)));
    loops.spawn(probing::run(Arc::clone(&supervisor)));
    loops.spawn(due::run(Arc::clone(&supervisor)));
    loops.spawn(idling::run(Arc::clone(&supervisor)));
    loops.spawn(upkeep::run(Arc::clone(&supervisor)));
    tokio::select! {
        () = over.cancelled() => {}
        // Loops end with the tenure only. Half of a supervisor must not keep the lease from a whole one.
        ended = loops.join_next() => {
            if let Some(Err(error)) = ended {
                tracing::error!(%error, "a supervisor loop broke off; this replica stops supervising");
            }
            over.cancel();
        }
    }
    while loops.join_next().await.is_some() {}
    supervisor.tasks.close();
    supervisor.tasks.wait().await;
}

/// Runs `round` every `period`, or as soon as `signal` says so, until `over`. A round that fails or panics is counted and
/// told; the next one tries again.
pub(crate) async fn every<E, R, S>(
    name: &'static str,
    period: Duration,
    over: CancellationToken,
    signal: impl Fn() -> S,
    round: impl Fn() -> R,
) where
    E: Display,
    R: Future<Output = Result<(), E>>,
    S: Future<Output = ()>,
{
    let mut due = Instant::now();
    let mut lag_told = false;
    while !over.is_cancelled() {
        let began = Instant::now();
        let late = began.saturating_duration_since(due);
        if late > period * 2 {
            telemetry::loop_lag(name, late);
            if !lag_told {
                tracing::warn!(
                    name,
                    late_ms = late.as_millis() as u64,
                    "Loop {name} missed its period twice"
                );
            }
            lag_told = true;
        } else if lag_told {
            telemetry::loop_lag(name, Duration::ZERO);
            lag_told = false;
        }
        let outcome = tokio::select! {
            outcome = AssertUnwindSafe(round()).catch_unwind() => outcome,
            () = over.cancelled() => return,
        };
        match outcome {
            Ok(Ok(())) => telemetry::loop_ran(name, began.elapsed()),
            Ok(Err(error)) => telemetry::loop_failed(name, &error),
            // What it said is in the log already: the panic hook writes it.
            Err(_) => telemetry::loop_failed(name, &"it panicked"),
        }
        // From the beginning of the round: one that takes many periods is late, too.
        due = began + period;
        tokio::select! {
            () = tokio::time::sleep(period) => {}
            () = signal() => due = Instant::now(),
            () = over.cancelled() => return,
        }
    }
}

/// No signal: the period alone wakes the loop.
pub(crate) async fn never() {
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[tokio::test(start_paused = true)]
    async fn a_round_that_panics_does_not_end_its_loop() {
        let (rounds, over) = (AtomicU32::new(0), CancellationToken::new());
        let round = || async {
            match rounds.fetch_add(1, Ordering::Relaxed) {
                0 => panic!("the first round"),
                1 => Err("the second one fails"),
                2 => Ok(()),
                _ => {
                    over.cancel();
                    Ok(())
                }
            }
        };
        every("test", Duration::from_secs(1), over.clone(), never, round).await;
        assert_eq!(rounds.load(Ordering::Relaxed), 4);
    }
}
