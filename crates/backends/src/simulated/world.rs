//! The handle with which tests move the simulated world and ask it what was done to it.
//!
//! Cloning shares the world; several backends (replicas, deployments) live on one. Time is tokio's, so a paused clock
//! moves it. The one invariant: a breach of single writing panics at once, and again when the world is dropped, so
//! that no test passes over one.

use super::fault::{Call, CallRecord, Fault, FaultKind, judge};
use super::hints::EventRules;
use super::profile::EngineProfile;
use super::state::{KILLED, Phase, State};
use super::{SimulatedBackend, state};
use crate::{BackendError, Capabilities, Result};
use contract::engine_api::Activity;
use contract::{EngineId, InstanceId, Timestamp};
use fleet::observation::Observation;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// A simulated place and everything on it.
#[derive(Debug, Clone)]
pub struct SimulatedWorld {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    /// Grows when hanging calls are let go.
    healed: watch::Sender<u64>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        assert!(
            state.breaches.is_empty() || std::thread::panicking(),
            "the simulated world saw: {}",
            state.breaches.join("; ")
        );
    }
}

impl SimulatedWorld {
    /// An empty world. The same seed and the same calls give the same world.
    pub fn new(seed: u64) -> Self {
        Self {
            inner: Arc::new(Inner {
                state: Mutex::new(State::new(seed, Instant::now())),
                healed: watch::Sender::new(0),
            }),
        }
    }

    /// A backend on this world for one deployment.
    pub fn backend(&self, instance: InstanceId, call_timeout: Duration) -> SimulatedBackend {
        SimulatedBackend::new(self.clone(), instance, call_timeout)
    }

    /// Acts on the state at the present moment, then keeps the appointments that came of it.
    pub(super) fn with<T>(&self, act: impl FnOnce(&mut State, Instant) -> T) -> T {
        let now = Instant::now();
        let mut state = self.inner.state.lock().unwrap_or_else(PoisonError::into_inner);
        let known = state.breaches.len();
        let result = act(&mut state, now);
        let breach = state.breaches.get(known).cloned();
        let appointments = std::mem::take(&mut state.appointments);
        drop(state);
        for (id, at) in appointments {
            self.settle_at(id, at);
        }
        if let Some(breach) = breach {
            panic!("the simulated world saw: {breach}");
        }
        result
    }

    /// Looks at the engine at that moment, so that its event is told in time. Without a runtime nobody listens, and
    /// the next look does it.
    fn settle_at(&self, id: EngineId, at: Instant) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let world = Arc::downgrade(&self.inner);
        runtime.spawn(async move {
            tokio::time::sleep_until(at).await;
            if let Some(inner) = world.upgrade() {
                SimulatedWorld { inner }.with(|state, now| state.settle(id, now));
            }
        });
    }

    /// One call of a backend: remembered, spoiled by faults, then done.
    pub(super) async fn perform<T: Send + 'static>(
        &self,
        call: Call,
        instance: InstanceId,
        engine: Option<EngineId>,
        effect: impl FnOnce(&mut State, Instant) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let verdict = self.with(|state, now| {
            let at = state.stamp(now);
            state.remember(CallRecord { call, engine, instance, at });
            judge(&mut state.faults, call, engine)
        });
        if !verdict.latency.is_zero() {
            tokio::time::sleep(verdict.latency).await;
        }
        let act = move |state: &mut State, now: Instant| {
            if state.reachable {
                effect(state, now)
            } else {
                Err(BackendError::Unreachable("the simulated place does not answer".into()))
            }
        };
        match verdict.kind {
            None | Some(FaultKind::Latency(_)) => self.with(act),
            Some(FaultKind::Fail(error)) => Err(error),
            Some(FaultKind::LoseReply) => {
                self.with(act)?;
                Err(BackendError::Unreachable("the answer was lost".into()))
            }
            Some(FaultKind::Late(after)) => {
                let world = self.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(after).await;
                    // whoever asked is gone
                    let _ = world.with(act);
                });
                std::future::pending().await
            }
            Some(FaultKind::Hang) => {
                let mut healed = self.inner.healed.subscribe();
                // the sender lives in `self`
                let _ = healed.changed().await;
                self.with(act)
            }
        }
    }

    // --- what goes wrong

    /// Adds a fault.
    pub fn fault(&self, fault: Fault) {
        self.with(|state, _| state.faults.push(fault));
    }

    /// Forgets all faults and lets hanging calls go on.
    pub fn heal(&self) {
        self.with(|state, _| state.faults.clear());
        self.inner.healed.send_modify(|count| *count += 1);
    }

    /// Does the place answer? Engines live on either way; events are lost meanwhile.
    pub fn set_reachable(&self, reachable: bool) {
        self.with(|state, _| {
            if reachable && !state.reachable {
                state.hints.gap();
            }
            state.reachable = reachable;
        });
    }

    /// Who answers from now on.
    pub fn set_identity(&self, identity: &str) {
        self.with(|state, _| state.identity = identity.to_owned());
    }

    /// What the place can do from now on. With `self_restarts` it brings crashed objects back by itself.
    pub fn set_capabilities(&self, capabilities: Capabilities) {
        self.with(|state, _| state.capabilities = capabilities);
    }

    /// What the place can do.
    pub fn capabilities(&self) -> Capabilities {
        self.with(|state, _| state.capabilities)
    }

    /// The place takes no more than this many objects.
    pub fn set_capacity(&self, objects: Option<usize>) {
        self.with(|state, _| state.capacity = objects);
    }

    /// A stranger listens on this port.
    pub fn steal_port(&self, port: u16) {
        self.with(|state, _| state.stolen_ports.insert(port));
    }

    /// The stranger has left.
    pub fn release_port(&self, port: u16) {
        self.with(|state, _| state.stolen_ports.remove(&port));
    }

    /// An image that is not there.
    pub fn lose_image(&self, image: &str) {
        self.with(|state, _| state.missing_images.insert(image.to_owned()));
    }

    /// The image is there again.
    pub fn find_image(&self, image: &str) {
        self.with(|state, _| state.missing_images.remove(image));
    }

    /// How unreliable events are from now on.
    pub fn set_events(&self, rules: EventRules) {
        self.with(|state, _| state.hints.rules = rules);
    }

    /// Every event stream is interrupted and reconnects: subscribers hear `Gap`.
    pub fn cut_events(&self) {
        self.with(|state, _| state.hints.gap());
    }

    /// From now on `list` answers what is true at this moment, whatever happens.
    pub fn hold_list(&self) {
        self.with(|state, now| {
            let all = state.everything(now);
            state.stale_list = Some(all);
        });
    }

    /// `list` answers the truth again.
    pub fn release_list(&self) {
        self.with(|state, _| state.stale_list = None);
    }

    /// The daemon restarts: engines that were not stopped run again, frozen ones wake if `wakes_paused`.
    pub fn restart_daemon(&self, wakes_paused: bool) {
        self.with(|state, now| {
            state.wakes_paused = wakes_paused;
            state.restart_daemon(now);
        });
    }

    // --- what happens to one engine

    /// The process ends now: with this code, or for lack of memory.
    pub fn crash(&self, id: EngineId, code: i32, oom: bool) {
        self.with(|state, now| state.kill(id, code, oom, false, now));
    }

    /// Somebody kills the process for good: the place does not bring it back.
    pub fn kill(&self, id: EngineId) {
        self.with(|state, now| state.kill(id, KILLED, false, true, now));
    }

    /// Somebody removes the object.
    pub fn lose_object(&self, id: EngineId) {
        self.with(|state, now| state.drop_object(id, now));
    }

    /// Somebody removes the storage.
    pub fn lose_storage(&self, id: EngineId) {
        self.with(|state, _| state.engine(id).storage = None);
    }

    /// A frozen engine runs again without having been asked.
    pub fn wake(&self, id: EngineId) {
        self.with(|state, now| {
            let owner = state.engines.get(&id).and_then(|e| e.object.as_ref()).map(|o| o.instance);
            // its own owner: `Conflict` cannot occur
            owner.map(|owner| state.thaw(id, owner, now))
        });
    }

    /// Changes how this engine behaves.
    pub fn edit(&self, id: EngineId, change: impl FnOnce(&mut EngineProfile)) {
        self.with(|state, _| change(&mut state.engine(id).profile));
    }

    /// Changes how engines behave that the world has not seen yet.
    pub fn edit_default(&self, change: impl FnOnce(&mut EngineProfile)) {
        self.with(|state, _| change(&mut state.default_profile));
    }

    /// What the engine says it is doing; `None` as in older images.
    pub fn set_activity(&self, id: EngineId, activity: Option<Activity>) {
        self.edit(id, |profile| profile.activity = activity);
    }

    // --- what is true, and what was done

    /// The engine's object, whoever owns it.
    pub fn truth(&self, id: EngineId) -> Observation {
        self.with(|state, now| {
            let all = state.engines.get(&id).and_then(|e| e.object.as_ref()).map(|o| o.instance);
            // its own owner: `Conflict` cannot occur
            all.and_then(|owner| state.observe(id, owner, now).ok()).unwrap_or(Observation::Absent)
        })
    }

    /// Is there storage of this engine?
    pub fn has_storage(&self, id: EngineId) -> bool {
        self.with(|state, _| state.storage(id).is_ok())
    }

    /// The highest generation that opened the engine's brain; 0 = none.
    pub fn brain_generation(&self, id: EngineId) -> i64 {
        self.with(|state, _| state.storage(id).map_or(0, |s| s.generation))
    }

    /// Environment of the object.
    pub fn environment(&self, id: EngineId) -> fleet::spec::EngineEnv {
        self.with(|state, _| {
            let object = state.engines.get(&id).and_then(|e| e.object.as_ref());
            object.map(|o| o.env.clone()).unwrap_or_default()
        })
    }

    /// What can be read about the object without its environment's values: one line per fact.
    pub fn shape(&self, id: EngineId) -> Vec<String> {
        self.with(|state, _| {
            let Some(object) = state.engines.get(&id).and_then(|e| e.object.as_ref()) else {
                return Vec::new();
            };
            let port = object.port.map_or_else(|| "none".to_owned(), |p| format!("127.0.0.1:{p}"));
            let catalog = object.catalog.clone().unwrap_or_else(|| "image".to_owned());
            vec![
                format!("image {}", object.image),
                format!("label bap-engine/engine-id={id}"),
                format!("label bap-engine/generation={}", object.generation),
                format!("label bap-engine/instance={}", object.instance),
                format!("label bap-engine/product-id={}", object.product),
                "label bap-engine/role=engine".to_owned(),
                format!("label bap-engine/spec-hash={}", object.spec_hash),
                format!("mount /catalog ro from {catalog}"),
                "mount /data rw from storage".to_owned(),
                format!("name {}", state::name_of(id)),
                format!("port 8000/tcp at {port}"),
            ]
        })
    }

    /// The object that has this name of the place's own and lives, if one does.
    pub fn is_alive(&self, container_id: &str) -> bool {
        self.with(|state, now| {
            state.everything(now).iter().any(|(.., seen)| {
                let object = seen.object().filter(|o| o.container_id == container_id);
                object.is_some_and(|o| matches!(o.state.word(), "running" | "paused"))
            })
        })
    }

    /// Where the engine answers.
    pub fn address(&self, id: EngineId) -> SocketAddr {
        self.with(|state, _| state.engine(id).address)
    }

    /// How often a process of this engine was started.
    pub fn starts(&self, id: EngineId) -> u64 {
        self.with(|state, _| state.engines.get(&id).map_or(0, |e| e.starts))
    }

    /// How often its `/health` was asked.
    pub fn probes(&self, id: EngineId) -> u64 {
        self.with(|state, _| state.engines.get(&id).map_or(0, |e| e.probes))
    }

    /// Engines that have an object, in any state.
    pub fn objects(&self) -> Vec<EngineId> {
        self.with(|state, _| {
            state.engines.iter().filter(|(_, e)| e.object.is_some()).map(|(&id, _)| id).collect()
        })
    }

    /// Engines whose process runs and is not frozen.
    pub fn running(&self) -> Vec<EngineId> {
        self.with(|state, now| {
            let ids: Vec<EngineId> = state.engines.keys().copied().collect();
            ids.iter().for_each(|&id| state.settle(id, now));
            let runs =
                |e: &state::SimEngine| matches!(e.object.as_ref().map(|o| o.phase), Some(Phase::Running(_)));
            state.engines.iter().filter(|(_, e)| runs(e)).map(|(&id, _)| id).collect()
        })
    }

    /// Calls so far that may have changed the place, those that failed included.
    pub fn mutating_calls(&self) -> u64 {
        self.with(|state, _| state.mutations)
    }

    /// The calls so far, oldest first.
    pub fn calls(&self) -> Vec<CallRecord> {
        self.with(|state, _| state.calls.iter().cloned().collect())
    }

    /// Forgets the calls and their count.
    pub fn forget_calls(&self) {
        self.with(|state, _| {
            state.calls.clear();
            state.mutations = 0;
        });
    }

    /// What the simulation's clock says.
    pub fn now(&self) -> Timestamp {
        self.with(|state, now| state.stamp(now))
    }
}
