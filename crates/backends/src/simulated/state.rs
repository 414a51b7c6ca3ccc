//! The simulated place itself: engines, their objects and storages, and what the calls do to them.
//!
//! No waiting here: every function is told what time it is and takes no time. The one invariant: what happens by
//! itself (an end, a restart by the place) is brought up to date by [`State::settle`] before anything looks.

use super::fault::{CallRecord, Fault};
use super::hints::Hints;
use super::keys::Rotation;
use super::profile::EngineProfile;
use crate::{BackendError, BackendEventKind, EngineEndpoint, Result, Stopped};
use bytes::Bytes;
use contract::{EngineId, InstanceId, ProductId, Timestamp};
use fleet::observation::{Object, ObjectState, Observation};
use fleet::spec::{EngineEnv, EngineSpec};
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;
use tokio::time::Instant;

/// Where a killed process ends.
pub(super) const KILLED: i32 = 137;
/// The port an engine listens on inside.
const ENGINE_PORT: u16 = 8000;
/// Calls that are remembered. Larger holds more memory in a trial that runs for days; smaller than a test makes
/// calls would let an assertion about them pass wrongly.
const CALLS_MAX: usize = 1_000_000;

/// A storage: what is left when the object is gone.
#[derive(Debug, Default)]
pub(super) struct Storage {
    /// Highest generation that opened the brain; 0 = no brain yet.
    pub(super) generation: i64,
    /// The run that has it open.
    pub(super) writer: Option<u64>,
    pub(super) rotation: Option<Rotation>,
    /// Files below `/data/backups`.
    pub(super) files: BTreeMap<String, Bytes>,
    pub(super) log: VecDeque<String>,
}

/// An end that is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ending {
    pub(super) at: Instant,
    pub(super) code: i32,
    pub(super) oom: bool,
    /// Somebody asked for it, so that the place does not restart it.
    pub(super) asked: bool,
    pub(super) killed: bool,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    pub(super) started_at: Timestamp,
    pub(super) ready_at: Instant,
    pub(super) ending: Option<Ending>,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Phase {
    Running(Run),
    Paused(Run),
    Exited { code: Option<i32>, oom: bool, at: Timestamp, killed: bool },
    Restarting { until: Instant, code: i32 },
}

#[derive(Debug)]
pub(super) struct SimObject {
    pub(super) instance: InstanceId,
    pub(super) product: ProductId,
    pub(super) generation: i64,
    pub(super) spec_hash: String,
    pub(super) image: String,
    pub(super) env: EngineEnv,
    pub(super) catalog: Option<String>,
    pub(super) port: Option<u16>,
    container_id: String,
    created_at: Timestamp,
    pub(super) phase: Phase,
    pub(super) restarts: u32,
    /// Stopped by hand: the place does not bring it back.
    pub(super) stopped: bool,
}

#[derive(Debug)]
pub(super) struct SimEngine {
    pub(super) address: SocketAddr,
    pub(super) profile: EngineProfile,
    pub(super) storage: Option<Storage>,
    pub(super) object: Option<SimObject>,
    pub(super) starts: u64,
    pub(super) probes: u64,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) rng: StdRng,
    seed: u64,
    born: (Instant, Timestamp),
    pub(super) reachable: bool,
    pub(super) identity: String,
    pub(super) capabilities: crate::Capabilities,
    pub(super) wakes_paused: bool,
    pub(super) capacity: Option<usize>,
    pub(super) stolen_ports: BTreeSet<u16>,
    pub(super) missing_images: BTreeSet<String>,
    pub(super) default_profile: EngineProfile,
    pub(super) engines: BTreeMap<EngineId, SimEngine>,
    pub(super) by_address: HashMap<SocketAddr, EngineId>,
    ports: HashMap<u16, EngineId>,
    pub(super) faults: Vec<Fault>,
    pub(super) calls: VecDeque<CallRecord>,
    pub(super) mutations: u64,
    pub(super) stale_list: Option<Vec<(InstanceId, EngineId, Observation)>>,
    pub(super) hints: Hints,
    pub(super) breaches: Vec<String>,
    last_number: u64,
    /// Looks that must be taken later, because something will happen by itself.
    pub(super) appointments: Vec<(EngineId, Instant)>,
}

impl State {
    pub(super) fn new(seed: u64, now: Instant) -> Self {
        Self {
            rng: StdRng::seed_from_u64(seed),
            seed,
            born: (now, Timestamp::now()),
            reachable: true,
            identity: format!("simulated-{seed}"),
            capabilities: crate::Capabilities {
                freeze: true,
                start_in_place: true,
                self_restarts: false,
                host_ports: true,
                resource_limits: true,
            },
            wakes_paused: false,
            capacity: None,
            stolen_ports: BTreeSet::new(),
            missing_images: BTreeSet::new(),
            default_profile: EngineProfile::default(),
            engines: BTreeMap::new(),
            by_address: HashMap::new(),
            ports: HashMap::new(),
            faults: Vec::new(),
            calls: VecDeque::new(),
            mutations: 0,
            stale_list: None,
            hints: Hints::new(),
            breaches: Vec::new(),
            last_number: 0,
            appointments: Vec::new(),
        }
    }

    /// The same moment on the wall, as the simulation counts it.
    pub(super) fn stamp(&self, at: Instant) -> Timestamp {
        let ms = |d: Duration| i64::try_from(d.as_millis()).unwrap_or(i64::MAX);
        let (born, wall) = self.born;
        if at >= born { wall.plus_millis(ms(at - born)) } else { wall.plus_millis(-ms(born - at)) }
    }

    pub(super) fn number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    pub(super) fn remember(&mut self, record: CallRecord) {
        if record.call.mutates() {
            self.mutations += 1;
        }
        if self.calls.len() == CALLS_MAX {
            self.calls.pop_front();
        }
        self.calls.push_back(record);
    }

    /// The engine, made with the default profile and an address of its own on first sight.
    pub(super) fn engine(&mut self, id: EngineId) -> &mut SimEngine {
        let next = self.engines.len() as u32 + 1;
        let by_address = &mut self.by_address;
        let profile = &self.default_profile;
        self.engines.entry(id).or_insert_with(|| {
            // 240.0.0.0/4 is reserved: nobody can be called there by mistake
            let ip = Ipv4Addr::from_bits(Ipv4Addr::new(240, 0, 0, 0).to_bits() + next);
            let address = SocketAddr::new(IpAddr::V4(ip), ENGINE_PORT);
            by_address.insert(address, id);
            SimEngine { address, profile: profile.clone(), storage: None, object: None, starts: 0, probes: 0 }
        })
    }

    /// Who answers at this address: the engine's own, or its port on 127.0.0.1.
    pub(super) fn who(&self, address: SocketAddr) -> Option<EngineId> {
        let host = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), address.port());
        let by_port = (address == host).then(|| self.ports.get(&address.port())).flatten();
        self.by_address.get(&address).or(by_port).copied()
    }

    pub(super) fn tell(&mut self, id: EngineId, kind: BackendEventKind) {
        let instance = self.engines.get(&id).and_then(|e| e.object.as_ref()).map(|o| o.instance);
        if let (Some(instance), true) = (instance, self.reachable) {
            self.hints.tell(&mut self.rng, instance, id, kind);
        }
    }

    /// The object of this engine if it is the instance's; `Conflict` if it is somebody else's.
    fn ours(&mut self, id: EngineId, instance: InstanceId) -> Result<Option<&mut SimObject>> {
        match self.engines.get_mut(&id).and_then(|e| e.object.as_mut()) {
            Some(object) if object.instance != instance => Err(BackendError::Conflict(name_of(id))),
            object => Ok(object),
        }
    }

    /// Is there room for one more object?
    pub(super) fn room(&self) -> Result<()> {
        match self.capacity.filter(|limit| self.objects() >= *limit) {
            Some(limit) => Err(BackendError::Capacity(format!("{limit} objects"))),
            None => Ok(()),
        }
    }

    pub(super) fn create(&mut self, spec: &EngineSpec, now: Instant) -> Result<EngineEndpoint> {
        let id = spec.engine_id;
        self.settle(id, now);
        if self.missing_images.contains(&spec.image) {
            return Err(BackendError::ImageMissing(spec.image.clone()));
        }
        if let Some(object) = self.ours(id, spec.instance)? {
            if object.generation == spec.generation {
                return self.start(id, spec.instance, now);
            }
            if object.generation > spec.generation {
                return Err(BackendError::Conflict(name_of(id)));
            }
            self.remove(id, spec.instance, now)?;
        }
        if self.engine(id).storage.is_none() {
            return Err(BackendError::StorageMissing(id));
        }
        self.room()?;
        if let Some(port) = spec.port {
            if self.stolen_ports.contains(&port) || self.ports.contains_key(&port) {
                return Err(BackendError::PortTaken(port));
            }
            self.ports.insert(port, id);
        }
        let number = self.number();
        let object = SimObject {
            instance: spec.instance,
            product: spec.product_id,
            generation: spec.generation,
            spec_hash: spec.spec_hash.clone(),
            image: spec.image.clone(),
            env: spec.env.clone(),
            catalog: spec.catalog.clone(),
            port: spec.port,
            container_id: format!("simulated-{}-{number}", self.seed),
            created_at: self.stamp(now),
            phase: Phase::Exited { code: None, oom: false, at: self.stamp(now), killed: false },
            restarts: 0,
            stopped: false,
        };
        self.engine(id).object = Some(object);
        self.run(id, now);
        self.endpoint(id)
    }

    fn objects(&self) -> usize {
        self.engines.values().filter(|e| e.object.is_some()).count()
    }

    fn endpoint(&self, id: EngineId) -> Result<EngineEndpoint> {
        let engine = self.engines.get(&id);
        let Some((engine, object)) = engine.and_then(|e| Some((e, e.object.as_ref()?))) else {
            return Err(BackendError::Refused(format!("no object {}", name_of(id))));
        };
        let (host, port) = match object.port {
            Some(port) => ("127.0.0.1".to_owned(), port),
            None => (engine.address.ip().to_string(), engine.address.port()),
        };
        Ok(EngineEndpoint { host, port, container_id: Some(object.container_id.clone()) })
    }

    /// Starts what exists; a frozen object is thawed.
    pub(super) fn start(
        &mut self,
        id: EngineId,
        instance: InstanceId,
        now: Instant,
    ) -> Result<EngineEndpoint> {
        self.settle(id, now);
        let Some(object) = self.ours(id, instance)? else {
            return Err(BackendError::Refused(format!("no object {}", name_of(id))));
        };
        let (phase, port) = (object.phase, object.port);
        if let (Phase::Exited { .. } | Phase::Restarting { .. }, Some(port)) = (phase, port)
            && self.stolen_ports.contains(&port)
        {
            return Err(BackendError::PortTaken(port));
        }
        match phase {
            Phase::Running(_) => {}
            Phase::Paused(_) => self.thaw(id, instance, now)?,
            Phase::Exited { .. } | Phase::Restarting { .. } if self.engine(id).storage.is_none() => {
                return Err(BackendError::StorageMissing(id));
            }
            Phase::Exited { .. } | Phase::Restarting { .. } => self.run(id, now),
        }
        self.endpoint(id)
    }

    /// Sends SIGTERM, and SIGKILL after the grace. Answers when the process will have ended.
    pub(super) fn terminate(
        &mut self,
        id: EngineId,
        instance: InstanceId,
        grace: Duration,
        now: Instant,
    ) -> Result<Option<Instant>> {
        self.settle(id, now);
        if self.ours(id, instance)?.is_none() {
            return Ok(None);
        }
        self.thaw(id, instance, now)?;
        let Some(engine) = self.engines.get_mut(&id) else { return Ok(None) };
        let (stop_takes, ignores) = (engine.profile.stop_takes, engine.profile.ignores_term);
        let at = self.stamp(now);
        let Some(object) = self.engines.get_mut(&id).and_then(|e| e.object.as_mut()) else { return Ok(None) };
        object.stopped = true;
        match &mut object.phase {
            Phase::Running(run) => {
                let firm = ignores || stop_takes > grace;
                let (after, code) = if firm { (grace, KILLED) } else { (stop_takes, 0) };
                let ending = Ending { at: now + after, code, oom: false, asked: true, killed: firm };
                if run.ending.is_none_or(|known| known.at > ending.at) {
                    run.ending = Some(ending);
                }
                let end = run.ending.map(|ending| ending.at);
                self.appointments.extend(end.map(|at| (id, at)));
                Ok(end)
            }
            phase @ Phase::Restarting { .. } => {
                *phase = Phase::Exited { code: None, oom: false, at, killed: false };
                Ok(None)
            }
            Phase::Paused(_) | Phase::Exited { .. } => Ok(None),
        }
    }

    /// How a stop went, once its end has come.
    pub(super) fn stopped(&mut self, id: EngineId, now: Instant) -> Stopped {
        self.settle(id, now);
        match self.engines.get(&id).and_then(|e| e.object.as_ref()).map(|o| o.phase) {
            Some(Phase::Exited { code, killed, .. }) => Stopped { killed, exit_code: code },
            Some(Phase::Running(_) | Phase::Paused(_) | Phase::Restarting { .. }) | None => {
                Stopped::default()
            }
        }
    }

    /// Kills and removes the object.
    pub(super) fn remove(&mut self, id: EngineId, instance: InstanceId, now: Instant) -> Result<()> {
        self.settle(id, now);
        if self.ours(id, instance)?.is_some() {
            self.drop_object(id, now);
        }
        Ok(())
    }

    /// Kills and removes whatever object there is.
    pub(super) fn drop_object(&mut self, id: EngineId, now: Instant) {
        self.kill(id, KILLED, false, true, now);
        self.tell(id, BackendEventKind::Destroy);
        let object = self.engines.get_mut(&id).and_then(|e| e.object.take());
        if let Some(port) = object.and_then(|object| object.port) {
            self.ports.remove(&port);
        }
    }

    pub(super) fn destroy(&mut self, id: EngineId, instance: InstanceId, now: Instant) -> Result<()> {
        self.remove(id, instance, now)?;
        if let Some(engine) = self.engines.get_mut(&id) {
            engine.storage = None;
        }
        Ok(())
    }

    pub(super) fn freeze(&mut self, id: EngineId, instance: InstanceId, now: Instant) -> Result<()> {
        self.settle(id, now);
        if let Some(object) = self.ours(id, instance)?
            && let Phase::Running(run) = object.phase
        {
            object.phase = Phase::Paused(run);
            self.tell(id, BackendEventKind::Pause);
        }
        Ok(())
    }

    pub(super) fn thaw(&mut self, id: EngineId, instance: InstanceId, now: Instant) -> Result<()> {
        self.settle(id, now);
        if let Some(object) = self.ours(id, instance)?
            && let Phase::Paused(run) = object.phase
        {
            object.phase = Phase::Running(run);
            self.tell(id, BackendEventKind::Unpause);
            self.settle(id, now);
        }
        Ok(())
    }

    pub(super) fn observe(
        &mut self,
        id: EngineId,
        instance: InstanceId,
        now: Instant,
    ) -> Result<Observation> {
        self.settle(id, now);
        self.ours(id, instance)?;
        Ok(self.observation(id))
    }

    fn observation(&self, id: EngineId) -> Observation {
        let Some((engine, object)) = self.engines.get(&id).and_then(|e| Some((e, e.object.as_ref()?))) else {
            return Observation::Absent;
        };
        let state = match object.phase {
            Phase::Running(run) => ObjectState::Running {
                started_at: run.started_at,
                restarts: object.restarts,
                address: Some(engine.address),
            },
            Phase::Paused(_) => ObjectState::Paused,
            Phase::Exited { code, oom, at, .. } => ObjectState::Exited { code, oom, at: Some(at) },
            Phase::Restarting { code, .. } => ObjectState::Restarting { code: Some(code) },
        };
        Observation::Present(Object {
            state,
            generation: object.generation,
            spec_hash: object.spec_hash.clone(),
            image: object.image.clone(),
            container_id: object.container_id.clone(),
            created_at: Some(object.created_at),
        })
    }

    /// Every object with its deployment, right now.
    pub(super) fn everything(&mut self, now: Instant) -> Vec<(InstanceId, EngineId, Observation)> {
        let due: Vec<EngineId> = self.engines.keys().copied().collect();
        for id in due {
            self.settle(id, now);
        }
        let owned = |e: &SimEngine| e.object.as_ref().map(|o| o.instance);
        self.engines
            .iter()
            .filter_map(|(&id, e)| owned(e).map(|instance| (instance, id, self.observation(id))))
            .collect()
    }

    pub(super) fn list(&mut self, instance: InstanceId, now: Instant) -> Vec<(EngineId, Observation)> {
        let all = match &self.stale_list {
            Some(stale) => stale.clone(),
            None => self.everything(now),
        };
        all.into_iter().filter(|(i, ..)| *i == instance).map(|(_, id, o)| (id, o)).collect()
    }

    pub(super) fn storage(&mut self, id: EngineId) -> Result<&mut Storage> {
        let storage = self.engines.get_mut(&id).and_then(|e| e.storage.as_mut());
        storage.ok_or(BackendError::StorageMissing(id))
    }

    pub(super) fn ensure_storage(&mut self, id: EngineId, may_create: bool) -> Result<()> {
        if may_create {
            self.engine(id).storage.get_or_insert_default();
        }
        self.storage(id).map(|_| ())
    }

    /// Is there a live process of this engine?
    pub(super) fn lives(&mut self, id: EngineId, now: Instant) -> bool {
        self.settle(id, now);
        let phase = self.engines.get(&id).and_then(|e| e.object.as_ref()).map(|o| o.phase);
        matches!(phase, Some(Phase::Running(_) | Phase::Paused(_) | Phase::Restarting { .. }))
    }
}

/// What the object of this engine is called.
pub(super) fn name_of(id: EngineId) -> String {
    format!("engine-{}", id.short())
}
