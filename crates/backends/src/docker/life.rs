//! The life of one container: looked at, made, started, stopped, frozen, taken away.
//!
//! Each step looks first and changes only what is ours; names are used for looking, the daemon's ids for changing, so
//! that nothing is done to a container that took over a name meanwhile. The one invariant: a container of a lower
//! generation is gone before the next one is made.

use super::look::{self, Found};
use super::object::{self, ENGINE_PORT, engine_name};
use super::refusal::Refusal;
use super::{DockerBackend, ProbeAddress, image};
use crate::{BackendError, EngineEndpoint, Result, Stopped};
use bollard::Docker;
use bollard::query_parameters::{
    CreateContainerOptions, InspectContainerOptions, StartContainerOptions, StopContainerOptions,
};
use contract::EngineId;
use fleet::observation::ObjectState;
use fleet::spec::{EngineSpec, ROLE_ENGINE};
use std::time::Duration;

/// Grace for an object that is to go away, ours of an older generation included. Longer lets a stuck engine hold
/// up its own replacement; shorter cuts turns in flight.
const REMOVE_GRACE: Duration = Duration::from_secs(10);
/// How often `create` looks again after somebody else made or removed the name meanwhile. More hides a fight over a
/// name; fewer fails on one unlucky moment.
const CREATE_ATTEMPTS_MAX: usize = 3;
/// Exit code of a process that was killed.
const KILLED: i32 = 137;

/// What stands under a name.
pub(super) enum Seen {
    Nothing,
    Ours(Box<Found>),
    Foreign,
}

/// What becomes of a container whose port somebody else has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum WhenPortTaken {
    Remove,
    Keep,
}

impl DockerBackend {
    /// The engine's container, if it exists and is ours.
    pub(super) async fn find(&self, docker: &Docker, id: EngineId) -> Result<Option<Found>> {
        self.find_named(docker, &engine_name(id), id, ROLE_ENGINE).await
    }

    pub(super) async fn find_named(
        &self,
        docker: &Docker,
        name: &str,
        id: EngineId,
        role: &str,
    ) -> Result<Option<Found>> {
        match self.look(docker, name, id, role).await? {
            Seen::Ours(found) => Ok(Some(*found)),
            Seen::Nothing | Seen::Foreign => Ok(None),
        }
    }

    pub(super) async fn look(&self, docker: &Docker, name: &str, id: EngineId, role: &str) -> Result<Seen> {
        let answer = docker.inspect_container(name, None::<InspectContainerOptions>).await;
        match answer.map_err(Refusal::from) {
            Ok(answer) => {
                let labels = answer.config.as_ref().and_then(|config| config.labels.as_ref());
                if look::is_ours(labels, self.instance, id, role) {
                    return Ok(Seen::Ours(Box::new(look::found(answer, &self.network.name, self.probe))));
                }
                Ok(Seen::Foreign)
            }
            Err(refusal) if refusal.is_absent() => Ok(Seen::Nothing),
            Err(refusal) => Err(refusal.into()),
        }
    }

    pub(super) async fn make(&self, spec: &EngineSpec) -> Result<EngineEndpoint> {
        let (id, name) = (spec.engine_id, engine_name(spec.engine_id));
        let docker = self.daemon.calls().await?;
        for _ in 0..CREATE_ATTEMPTS_MAX {
            match self.look(docker, &name, id, ROLE_ENGINE).await? {
                Seen::Nothing => {}
                Seen::Foreign => return Err(BackendError::Conflict(name)),
                Seen::Ours(found) if found.object.state == ObjectState::Removing => {
                    self.remove_container(docker, &found.id).await?;
                }
                Seen::Ours(found) if found.object.generation == spec.generation => {
                    return self.bring_up(docker, spec.engine_id, &found, WhenPortTaken::Remove).await;
                }
                Seen::Ours(found) if found.object.generation < spec.generation => {
                    self.take_away(docker, &found).await?;
                }
                Seen::Ours(found) => {
                    return Err(BackendError::Conflict(format!(
                        "{name} (generation {})",
                        found.object.generation
                    )));
                }
            }
            let user = image::inspect(docker, &spec.image).await?.config.and_then(|config| config.user);
            self.remember_image(&spec.image);
            if !self.storage(id).exists(docker).await? {
                return Err(BackendError::StorageMissing(id));
            }
            self.storage(id).fit_owner(user.as_deref().and_then(look::numeric_user)).await?;
            self.ensure_network(docker).await?;
            let cpus = self.host_cpus(docker, spec.resources.cpus).await?;
            let body = object::engine(spec, &self.root, &self.network.name, cpus);
            let options = CreateContainerOptions { name: Some(name.clone()), ..Default::default() };
            match docker.create_container(Some(options), body).await.map_err(Refusal::from) {
                // Whether made now or by somebody else meanwhile: the next round finds it and starts it.
                Ok(_) => {}
                Err(refusal) if refusal.is_conflict() || refusal.is_network_ambiguous() => {}
                Err(refusal) if refusal.is_absent() => {
                    return Err(BackendError::ImageMissing(refusal.words().unwrap_or_default().to_owned()));
                }
                Err(refusal) if refusal.is_mount_missing() => return Err(BackendError::StorageMissing(id)),
                Err(refusal) => return Err(refusal.without(spec.env.0.values()).into()),
            }
        }
        match self.find(docker, id).await? {
            Some(found) if found.object.generation == spec.generation => {
                self.bring_up(docker, id, &found, WhenPortTaken::Remove).await
            }
            _ => Err(BackendError::Conflict(name)),
        }
    }

    /// Makes an existing container of ours run, and says where.
    pub(super) async fn bring_up(
        &self,
        docker: &Docker,
        id: EngineId,
        found: &Found,
        when_port_taken: WhenPortTaken,
    ) -> Result<EngineEndpoint> {
        match found.object.state {
            ObjectState::Running { .. } => return Ok(self.endpoint(id, found)),
            ObjectState::Paused => self.unpause(docker, found).await?,
            ObjectState::Created
            | ObjectState::Exited { .. }
            | ObjectState::Restarting { .. }
            | ObjectState::Removing => {
                self.clear_job(docker, id).await?;
                match self.start_container(docker, found).await {
                    Ok(()) => {}
                    Err(refusal) if refusal.is_port_taken() => {
                        if when_port_taken == WhenPortTaken::Remove {
                            self.remove_container(docker, &found.id).await?;
                        }
                        return Err(BackendError::PortTaken(found.port.unwrap_or(0)));
                    }
                    Err(refusal) if refusal.is_mount_missing() => {
                        return Err(BackendError::StorageMissing(id));
                    }
                    Err(refusal) => return Err(refusal.into()),
                }
            }
        }
        match self.find(docker, id).await? {
            Some(now) => Ok(self.endpoint(id, &now)),
            None => Err(BackendError::Refused("the object vanished while it was started".into())),
        }
    }

    /// Starts it; running already is success. Where another replica made the network a second time at this moment,
    /// that is put right first.
    async fn start_container(&self, docker: &Docker, found: &Found) -> std::result::Result<(), Refusal> {
        let mut again = true;
        loop {
            let started = docker.start_container(&found.id, None::<StartContainerOptions>).await;
            match started.map_err(Refusal::from) {
                Err(refusal) if refusal.is_unchanged() => return Ok(()),
                Err(refusal) if refusal.is_network_ambiguous() && again => {
                    again = false;
                    // Whatever is in the way shows at the second start.
                    if self.ensure_network(docker).await.is_err() {
                        return Err(refusal);
                    }
                }
                other => return other,
            }
        }
    }

    async fn ensure_network(&self, docker: &Docker) -> Result<()> {
        let _one = self.making_network.lock().await;
        self.network.ensure_room(docker).await
    }

    fn endpoint(&self, id: EngineId, found: &Found) -> EngineEndpoint {
        let address = match found.object.state {
            ObjectState::Running { address, .. } => address,
            _ => None,
        };
        let (host, port) = match (address, self.probe, found.port) {
            (Some(address), _, _) => (address.ip().to_string(), address.port()),
            (None, ProbeAddress::HostPort, Some(port)) => ("127.0.0.1".to_owned(), port),
            // It ended already; its name is where the next run will be.
            (None, _, _) => (engine_name(id), ENGINE_PORT),
        };
        EngineEndpoint { host, port, container_id: Some(found.id.clone()) }
    }

    /// Stops and removes a container of ours.
    pub(super) async fn take_away(&self, docker: &Docker, found: &Found) -> Result<()> {
        self.halt(docker, found, REMOVE_GRACE.min(self.deadlines.change() / 3)).await?;
        self.remove_container(docker, &found.id).await
    }

    /// SIGTERM, grace, SIGKILL, whatever the container is doing.
    pub(super) async fn halt(&self, docker: &Docker, found: &Found, grace: Duration) -> Result<Stopped> {
        match &found.object.state {
            ObjectState::Created | ObjectState::Removing => return Ok(Stopped::default()),
            ObjectState::Exited { code, .. } => return Ok(Stopped { killed: false, exit_code: *code }),
            ObjectState::Paused => self.unpause(docker, found).await?,
            ObjectState::Running { .. } | ObjectState::Restarting { .. } => {}
        }
        let seconds = i32::try_from(grace.as_millis().div_ceil(1000)).unwrap_or(i32::MAX);
        let options = StopContainerOptions { signal: None, t: Some(seconds) };
        match docker.stop_container(&found.id, Some(options)).await.map_err(Refusal::from) {
            Ok(()) => {}
            Err(refusal) if refusal.is_unchanged() => {}
            Err(refusal) if refusal.is_absent() => return Ok(Stopped::default()),
            Err(refusal) => return Err(refusal.into()),
        }
        let answer = docker.inspect_container(&found.id, None::<InspectContainerOptions>).await;
        match answer.map_err(Refusal::from) {
            Ok(answer) => match look::found(answer, &self.network.name, self.probe).object.state {
                ObjectState::Exited { code, .. } => {
                    Ok(Stopped { killed: code == Some(KILLED), exit_code: code })
                }
                other => Err(BackendError::Refused(format!("the object is {} after a stop", other.word()))),
            },
            Err(refusal) if refusal.is_absent() => Ok(Stopped::default()),
            Err(refusal) => Err(refusal.into()),
        }
    }

    pub(super) async fn unpause(&self, docker: &Docker, found: &Found) -> Result<()> {
        match docker.unpause_container(&found.id).await.map_err(Refusal::from) {
            Ok(()) => Ok(()),
            Err(refusal) if refusal.is_absent() => Ok(()),
            Err(refusal) => self.unless(docker, found, refusal, |state| *state != ObjectState::Paused).await,
        }
    }

    pub(super) async fn pause(&self, docker: &Docker, found: &Found) -> Result<()> {
        match docker.pause_container(&found.id).await.map_err(Refusal::from) {
            Ok(()) => Ok(()),
            Err(refusal) if refusal.is_absent() => Ok(()),
            Err(refusal) => {
                let runs = |state: &ObjectState| matches!(state, ObjectState::Running { .. });
                self.unless(docker, found, refusal, |state| !runs(state)).await
            }
        }
    }

    /// The daemon refused; it does not matter when the container is as wanted all the same.
    pub(super) async fn unless(
        &self,
        docker: &Docker,
        found: &Found,
        refusal: Refusal,
        wanted: impl Fn(&ObjectState) -> bool + Send,
    ) -> Result<()> {
        if refusal.words().is_none() {
            return Err(refusal.into());
        }
        let answer = docker.inspect_container(&found.id, None::<InspectContainerOptions>).await;
        let answer = answer.map_err(Refusal::from)?;
        let now = look::found(answer, &self.network.name, self.probe).object.state;
        if wanted(&now) { Ok(()) } else { Err(refusal.into()) }
    }
}
