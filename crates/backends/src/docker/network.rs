//! The network engines share with the orchestrator: made once when missing, and counted before it is full.
//!
//! It refuses to change or remove a network that exists. The one invariant: an engine is made only on a network of
//! that name that has room, as few addresses as it may have been given.

use super::refusal::Refusal;
use crate::{BackendError, Result};
use bollard::Docker;
use bollard::models::{IpamConfig, Network, NetworkCreateRequest, NetworkInspect};
use bollard::query_parameters::{InspectNetworkOptions, ListNetworksOptions};
use contract::{InstanceId, Timestamp};
use fleet::spec::LABEL_INSTANCE;
use std::collections::HashMap;
use std::net::Ipv4Addr;

/// Endpoints after which a network counts as full. A Linux bridge has 1024 ports and ends a little earlier, without
/// a word that could be told from other failures; a lower number wastes a host.
const ENDPOINTS_MAX: usize = 900;

/// What became of networks that are too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Removal {
    /// None of them is ours.
    None,
    /// At least one is gone, by us or by somebody else.
    Some,
    /// Ours are in use, so none is gone.
    InUse,
}

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
    /// ambiguous. The first made stays and whoever sees the others removes those of ours; one that an engine is on
    /// already stays in its place.
    pub async fn ensure_room(&self, docker: &Docker) -> Result<()> {
        loop {
            let same = self.of_that_name(docker).await?;
            let Some((first, others)) = same.split_first() else {
                self.make(docker).await?;
                continue;
            };
            if others.is_empty() {
                match self.inspect(docker, first).await? {
                    Some(network) => return self.has_room(&network),
                    // Gone since it was listed.
                    None => continue,
                }
            }
            let removed = match self.remove_ours(docker, others).await? {
                Removal::Some => true,
                Removal::None => false,
                Removal::InUse => {
                    self.remove_ours(docker, std::slice::from_ref(first)).await? == Removal::Some
                }
            };
            if !removed {
                return Err(BackendError::Refused(format!("several networks are called {}", self.name)));
            }
        }
    }

    /// [`BackendError::Capacity`] when the network is full. Makes nothing: one that is missing has room.
    pub async fn room(&self, docker: &Docker) -> Result<()> {
        let same = self.of_that_name(docker).await?;
        let Some(first) = same.first() else { return Ok(()) };
        match self.inspect(docker, first).await? {
            Some(network) => self.has_room(&network),
            None => Ok(()),
        }
    }

    fn has_room(&self, network: &NetworkInspect) -> Result<()> {
        let endpoints = network.containers.as_ref().map_or(0, HashMap::len);
        let most = addresses(network).map_or(ENDPOINTS_MAX, |addresses| addresses.min(ENDPOINTS_MAX));
        if endpoints < most {
            return Ok(());
        }
        Err(BackendError::Capacity(format!(
            "network {} has {endpoints} endpoints, at most {most} are used",
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

    async fn inspect(&self, docker: &Docker, network: &Network) -> Result<Option<NetworkInspect>> {
        let id = network.id.as_deref().unwrap_or(&self.name);
        match docker.inspect_network(id, None::<InspectNetworkOptions>).await.map_err(Refusal::from) {
            Ok(network) => Ok(Some(network)),
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

    /// Removes those of ours that nothing is on.
    async fn remove_ours(&self, docker: &Docker, networks: &[Network]) -> Result<Removal> {
        let mut removal = Removal::None;
        for network in networks {
            let label = network.labels.as_ref().and_then(|labels| labels.get(LABEL_INSTANCE));
            let ours = label == Some(&self.instance.to_string());
            let Some(id) = network.id.as_deref().filter(|_| ours) else { continue };
            removal = match docker.remove_network(id).await.map_err(Refusal::from) {
                Ok(()) => Removal::Some,
                Err(refusal) if refusal.is_absent() => Removal::Some,
                Err(refusal) if refusal.is_network_in_use() && removal == Removal::None => Removal::InUse,
                Err(refusal) if refusal.is_network_in_use() => removal,
                Err(refusal) => return Err(refusal.into()),
            };
        }
        Ok(removal)
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

/// Addresses a network has for containers, over all its ranges; `None` where it does not say.
fn addresses(network: &NetworkInspect) -> Option<usize> {
    let ranges = network.ipam.as_ref()?.config.as_ref()?;
    let counts: Vec<usize> = ranges.iter().filter_map(addresses_in).collect();
    (!counts.is_empty()).then(|| counts.iter().sum())
}

/// Addresses of one range of version 4: all of it but the network's own, the broadcast, the gateway and those that
/// were set aside.
fn addresses_in(range: &IpamConfig) -> Option<usize> {
    let (first, last) = bounds(range.subnet.as_deref()?)?;
    let (from, to) =
        range.ip_range.as_deref().filter(|text| !text.is_empty()).map_or(Some((first, last)), bounds)?;
    let gateway = range.gateway.as_deref().and_then(address).unwrap_or(first.saturating_add(1));
    let aside = range.auxiliary_addresses.iter().flat_map(HashMap::values).filter_map(|text| address(text));
    let mut taken: Vec<u32> = [first, last, gateway].into_iter().chain(aside).collect();
    taken.retain(|taken| (from..=to).contains(taken));
    taken.sort_unstable();
    taken.dedup();
    let all = u64::from(to.saturating_sub(from)) + 1;
    Some(usize::try_from(all).unwrap_or(usize::MAX).saturating_sub(taken.len()))
}

/// First and last address of `a.b.c.d/n`.
fn bounds(text: &str) -> Option<(u32, u32)> {
    let (base, prefix) = text.split_once('/')?;
    let prefix: u32 = prefix.parse().ok().filter(|prefix| *prefix <= 32)?;
    let rest = u32::MAX.checked_shr(prefix).unwrap_or(0);
    let base = address(base)? & !rest;
    Some((base, base | rest))
}

/// An address of version 4, with or without its prefix.
fn address(text: &str) -> Option<u32> {
    let plain = text.split_once('/').map_or(text, |(plain, _)| plain);
    plain.parse::<Ipv4Addr>().ok().map(u32::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(subnet: &str, ip_range: Option<&str>, gateway: Option<&str>, aside: &[&str]) -> IpamConfig {
        IpamConfig {
            subnet: Some(subnet.to_owned()),
            ip_range: ip_range.map(str::to_owned),
            gateway: gateway.map(str::to_owned),
            auxiliary_addresses: (!aside.is_empty())
                .then(|| aside.iter().map(|a| ((*a).to_owned(), (*a).to_owned())).collect()),
        }
    }

    #[test]
    fn a_range_has_its_addresses_without_network_broadcast_gateway_and_those_set_aside() {
        for (range, wanted) in [
            (range("172.18.0.0/16", None, Some("172.18.0.1"), &[]), Some(65_533)),
            (range("10.0.0.0/24", None, None, &[]), Some(253)),
            (range("10.0.0.0/24", None, Some("10.0.0.1/24"), &["10.0.0.7", "10.0.1.7"]), Some(252)),
            (range("10.0.0.0/24", Some("10.0.0.128/25"), Some("10.0.0.1"), &[]), Some(127)),
            (range("10.0.0.0/30", None, Some("10.0.0.1"), &[]), Some(1)),
            (range("10.0.0.8/29", Some(""), Some("10.0.0.14"), &[]), Some(5)),
            (range("0.0.0.0/0", None, None, &[]), Some(4_294_967_293)),
            (range("fd00::/64", None, None, &[]), None),
            (range("10.0.0.0/33", None, None, &[]), None),
            (range("nothing", None, None, &[]), None),
        ] {
            assert_eq!(addresses_in(&range), wanted, "{range:?}");
        }
    }
}
