//! Which backend a configuration names, built and ready to be asked.

use crate::config::{ImagePull, Settings, UrlMode};
use crate::engine_client::EngineClient;
use crate::registry::rows::Instance;
use backends::{
    DockerBackend, DockerSettings, EngineBackend, ProbeAddress, Prober, PullPolicy, SimulatedWorld,
    SubprocessBackend, SubprocessSettings,
};
use chassis::config::{Source, Values};
use contract::InstanceId;
use fleet::lifecycle::BackendKind;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A place to run engines, and how engines there are asked.
#[derive(Clone)]
pub struct Place {
    /// Where.
    pub backend: Arc<dyn EngineBackend>,
    /// How.
    pub prober: Arc<dyn Prober>,
    /// Products are given the engine's name on the shared network, not its host port.
    pub urls_by_network: bool,
}

/// Variables of ours that engines on this host get, too (§10.4).
const BASE_ENV: [&str; 5] = ["PATH", "HOME", "TMPDIR", "LANG", "TZ"];

/// The container this process runs in, as the daemon knows it.
pub fn own_container() -> Option<String> {
    if !Path::new("/.dockerenv").exists() && !Path::new("/run/.containerenv").exists() {
        return None;
    }
    let name = std::fs::read_to_string("/etc/hostname").ok()?;
    let name = name.trim();
    (!name.is_empty()).then(|| name.to_owned())
}

/// True when products are given `http://engine-{12}:8000`, as far as the configuration says; `None`: it depends on
/// whether this process runs in a container on the engines' network.
fn urls_by_network(config: &Settings) -> Option<bool> {
    match (config.engine_backend, config.engine_url_mode) {
        (BackendKind::Subprocess, _) => Some(false),
        (BackendKind::Kubernetes, _) | (_, UrlMode::Network) => Some(true),
        (_, UrlMode::Host) => Some(false),
        (BackendKind::Docker, UrlMode::Auto) if own_container().is_some() => None,
        (BackendKind::Docker | BackendKind::Simulated, UrlMode::Auto) => Some(false),
    }
}

/// Builds the place; the message says what to change.
pub async fn place(config: &Settings, instance: &Instance) -> Result<Place, String> {
    let client: Arc<dyn Prober> = Arc::new(EngineClient::new());
    match config.engine_backend {
        BackendKind::Docker => {
            let by_network = match urls_by_network(config) {
                Some(known) => known,
                // A daemon that does not answer now is asked nothing later: most containers of ours are on it.
                None => docker(config, instance, false)?.runs_on_network().await.unwrap_or(true),
            };
            let backend = docker(config, instance, !by_network)?;
            Ok(Place { backend: Arc::new(backend), prober: client, urls_by_network: by_network })
        }
        BackendKind::Subprocess => {
            let backend = subprocess(config, instance.id)?;
            Ok(Place { backend: Arc::new(backend), prober: client, urls_by_network: false })
        }
        BackendKind::Simulated => {
            tracing::warn!("engines are simulated: they exist in this process only and answer nobody");
            let world = SimulatedWorld::new(config.simulated_seed);
            let backend = world.backend(instance.id, config.backend_call_timeout_s);
            Ok(Place {
                backend: Arc::new(backend),
                prober: Arc::new(world),
                urls_by_network: urls_by_network(config).unwrap_or(false),
            })
        }
        BackendKind::Kubernetes => Err("this version has no Kubernetes backend".to_owned()),
    }
}

/// The processes of this host that belong to an instance, without asking anybody else who that is.
pub(crate) fn subprocess(config: &Settings, instance: InstanceId) -> Result<SubprocessBackend, String> {
    let process = Values::process();
    let base_env: BTreeMap<String, String> = BASE_ENV
        .iter()
        .filter_map(|name| process.get(name).map(|value| ((*name).to_owned(), value)))
        .collect();
    let data_root: PathBuf =
        config.data_root_path.clone().ok_or("ORCH_DATA_ROOT_PATH is needed by the subprocess backend")?;
    let backend = SubprocessBackend::new(SubprocessSettings {
        instance,
        binary: config.engine_binary.clone(),
        base_env,
        data_root,
        call_timeout: config.backend_call_timeout_s,
    });
    backend.map_err(|e| format!("ORCH_DATA_ROOT_PATH: {e}"))
}

fn docker(config: &Settings, instance: &Instance, isolate: bool) -> Result<DockerBackend, String> {
    let own = own_container();
    let backend = DockerBackend::connect(DockerSettings {
        host: config.docker.host.clone(),
        tls: config.docker.cert_path.clone().filter(|_| config.docker.tls_verify),
        registry_config: config.docker.config.clone(),
        instance: instance.id,
        network: config.engine_network.clone(),
        isolate,
        data_root: config.data_root_path.clone().zip(config.data_root_local_path.clone()),
        pull: match config.image_pull {
            ImagePull::Missing => PullPolicy::Missing,
            ImagePull::Always => PullPolicy::Always,
            ImagePull::Never => PullPolicy::Never,
        },
        pull_timeout: config.image_pull_timeout_s,
        call_timeout: config.backend_call_timeout_s,
        probe_by: if own.is_some() { ProbeAddress::Network } else { ProbeAddress::HostPort },
        self_container: own,
    });
    backend.map_err(|e| format!("DOCKER_HOST: {e}"))
}
