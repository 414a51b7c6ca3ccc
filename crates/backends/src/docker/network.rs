//! The network engines share with the orchestrator: made once when missing, and counted before it is full.
//!
//! It refuses to change or remove a network that exists. The one invariant: an engine is made only on a network of
//! that name that has room.

use super::refusal::Refusal;
use crate::{BackendError, Result};
use bollard::Docker;
use bollard::models::{Network, NetworkCreateRequest};
use bollard::query_parameters::{InspectNetworkOptions, ListNetworksOptions};
use contract::{InstanceId, Timestamp};
use fleet::spec::LABEL_INSTANCE;
use std::collections::HashMap;

/// Endpoints after which a network counts as full. A Linux bridge has 1024 ports and ends a little earlier, without
/// a word that could be told from other failures; a lower number wastes a host.
const ENDPOINTS_MAX: usize = 900;

/// The network of this deployment.
#[derive(Debug, Clone)]
pub(crate) struct EngineNetwork {
    /// Its name.
    pub name: String,
    /// Engines do not reach each other.
    pub isolate: bool,
    /// Who makes it.
    pub instance: InstanceId,
}

impl EngineNetwork {
    /// Makes the network if it is missing; [`BackendError::Capacity`] when it is full.
    ///
    /// Older daemons let two replicas make two networks of one name at the same moment, and then refuse the name as
    /// ambiguous. The first made stays; whoever sees the others removes those of ours.
    pub async fn ensure_room(&self, docker: &Docker) -> Result<()> {
        loop {
            let same = self.of_that_name(docker).await?;
            let Some((first, others)) = same.split_first() else {
                self.make(docker).await?;
                continue;
            };
            if others.is_empty() {
                match self.endpoints(docker, first.id.as_deref().unwrap_or(&self.name)).await? {
                    Some(endpoints) => return self.has_room(endpoints),
                    // Gone since it was listed.
                    None => continue,
                }
            }
            if !self.remove_ours(docker, others).await? {
                return Err(BackendError::Refused(format!("several networks are called {}", self.name)));
            }
        }
    }

    fn has_room(&self, endpoints: usize) -> Result<()> {
        if endpoints < ENDPOINTS_MAX {
            return Ok(());
        }
        Err(BackendError::Capacity(format!(
            "network {} has {endpoints} endpoints, at most {ENDPOINTS_MAX} are used",
            self.name
        )))
    }

    /// All networks of exactly that name, the first made first.
    async fn of_that_name(&self, docker: &Docker) -> Result<Vec<Network>> {
        let filters = HashMap::from([("name".to_owned(), vec![self.name.clone()])]);
        let listed = docker
            .list_networks(Some(ListNetworksOptions { filters: Some(filters) }))
            .await
            .map_err(Refusal::from)?;
        let mut same: Vec<Network> =
            listed.into_iter().filter(|network| network.name.as_deref() == Some(&self.name)).collect();
        same.sort_by_cached_key(|network| {
            let created = network.created.clone().unwrap_or_default();
            (Timestamp::parse(&created), created, network.id.clone())
        });
        Ok(same)
    }

    async fn endpoints(&self, docker: &Docker, id: &str) -> Result<Option<usize>> {
        match docker.inspect_network(id, None::<InspectNetworkOptions>).await.map_err(Refusal::from) {
            Ok(network) => Ok(Some(network.containers.map_or(0, |containers| containers.len()))),
            Err(refusal) if refusal.is_absent() => Ok(None),
            Err(refusal) => Err(refusal.into()),
        }
    }

    async fn make(&self, docker: &Docker) -> Result<()> {
        match docker.create_network(self.request()).await.map_err(Refusal::from) {
            Ok(_) => Ok(()),
            Err(refusal) if refusal.is_conflict() => Ok(()),
            Err(refusal) => Err(refusal.into()),
        }
    }

    /// True when there was at least one of ours, now removed by us or by somebody else.
    async fn remove_ours(&self, docker: &Docker, networks: &[Network]) -> Result<bool> {
        let mut any = false;
        for network in networks {
            let label = network.labels.as_ref().and_then(|labels| labels.get(LABEL_INSTANCE));
            let ours = label == Some(&self.instance.to_string());
            let Some(id) = network.id.as_deref().filter(|_| ours) else { continue };
            any = true;
            match docker.remove_network(id).await.map_err(Refusal::from) {
                Ok(()) => {}
                Err(refusal) if refusal.is_absent() => {}
                Err(refusal) => return Err(refusal.into()),
            }
        }
        Ok(any)
    }

    fn request(&self) -> NetworkCreateRequest {
        let option = ("com.docker.network.bridge.enable_icc".to_owned(), (!self.isolate).to_string());
        NetworkCreateRequest {
            name: self.name.clone(),
            driver: Some("bridge".into()),
            options: Some(HashMap::from([option])),
            labels: Some(HashMap::from([(LABEL_INSTANCE.to_owned(), self.instance.to_string())])),
            ..Default::default()
        }
    }
}
