//! The network engines share with the orchestrator: made once when missing, and counted before it is full.
//!
//! It refuses to change or remove a network that exists. The one invariant: an engine is made only on a network of
//! that name that has room.

use super::refusal::Refusal;
use crate::{BackendError, Result};
use bollard::Docker;
use bollard::models::{NetworkCreateRequest, NetworkInspect};
use bollard::query_parameters::{InspectNetworkOptions, ListNetworksOptions};
use contract::InstanceId;
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
    pub async fn ensure_room(&self, docker: &Docker) -> Result<()> {
        let network = match self.inspect(docker).await? {
            Some(network) => network,
            None => {
                self.make(docker).await?;
                return Ok(());
            }
        };
        let endpoints = network.containers.map_or(0, |containers| containers.len());
        if endpoints >= ENDPOINTS_MAX {
            return Err(BackendError::Capacity(format!(
                "network {} has {endpoints} endpoints, at most {ENDPOINTS_MAX} are used",
                self.name
            )));
        }
        Ok(())
    }

    async fn inspect(&self, docker: &Docker) -> std::result::Result<Option<NetworkInspect>, Refusal> {
        match docker.inspect_network(&self.name, None::<InspectNetworkOptions>).await.map_err(Refusal::from) {
            Ok(network) => Ok(Some(network)),
            Err(refusal) if refusal.is_absent() => Ok(None),
            Err(refusal) => Err(refusal),
        }
    }

    async fn make(&self, docker: &Docker) -> Result<()> {
        match docker.create_network(self.request()).await.map_err(Refusal::from) {
            Ok(_) => self.keep_the_first(docker).await,
            Err(refusal) if refusal.is_conflict() => Ok(()),
            Err(refusal) => Err(refusal.into()),
        }
    }

    /// Older daemons let two replicas make two networks of one name at the same moment, and then refuse the name as
    /// ambiguous. The first made stays; whoever sees the others removes those of ours.
    async fn keep_the_first(&self, docker: &Docker) -> Result<()> {
        let filters = HashMap::from([("name".to_owned(), vec![self.name.clone()])]);
        let listed = docker
            .list_networks(Some(ListNetworksOptions { filters: Some(filters) }))
            .await
            .map_err(Refusal::from)?;
        let mut same: Vec<_> =
            listed.into_iter().filter(|network| network.name.as_deref() == Some(&self.name)).collect();
        same.sort_by(|a, b| (&a.created, &a.id).cmp(&(&b.created, &b.id)));
        for network in same.into_iter().skip(1) {
            let ours = network.labels.as_ref().and_then(|labels| labels.get(LABEL_INSTANCE));
            let Some(id) = network.id.filter(|_| ours == Some(&self.instance.to_string())) else { continue };
            match docker.remove_network(&id).await.map_err(Refusal::from) {
                Ok(()) => {}
                Err(refusal) if refusal.is_absent() => {}
                Err(refusal) => return Err(refusal.into()),
            }
        }
        Ok(())
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
