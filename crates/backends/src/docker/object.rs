//! What a container must be: the request that makes one engine, one job, or one empty carrier of storage.
//!
//! Pure: specification in, request out; it refuses to know a daemon. The one invariant: nothing reaches a container
//! that is not written here, and the only secrets are the values of the specification's environment.

use bollard::models::{
    ContainerCreateBody, HealthConfig, HostConfig, HostConfigLogConfig, Mount, MountBindOptions,
    MountBindOptionsPropagationEnum, MountType, PortBinding, ResourcesUlimits, RestartPolicy,
    RestartPolicyNameEnum,
};
use contract::{EngineId, InstanceId};
use fleet::spec::{
    CATALOG_PATH, EngineSpec, LABEL_ENGINE, LABEL_INSTANCE, LABEL_ROLE, ROLE_JOB, SecurityProfile,
    job_labels, labels,
};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Port of the engine inside.
pub(crate) const ENGINE_PORT: u16 = 8000;
/// The same, as Docker writes it.
pub(crate) const ENGINE_PORT_KEY: &str = "8000/tcp";

/// Scratch space. Larger lets one engine take the host's memory through a file; smaller breaks archives and builds
/// of tools.
const TMP_OPTIONS: &str = "rw,exec,nosuid,nodev,size=268435456,mode=1777";
/// Open files. More lets a leak reach the host's limit; fewer ends an engine with some hundred open streams.
const OPEN_FILES_MAX: i64 = 8192;
/// Log kept per engine, by the daemon: 500 MB in all. More fills the host, less loses the start of a bad night.
const LOG_MAX_SIZE: &str = "100m";
const LOG_MAX_FILES: &str = "5";
/// Profile `nested`: the usual calls, and those that unprivileged user namespaces need.
const NESTED_SECCOMP: &str = include_str!("../seccomp-nested.json");

const MIB: u64 = 1024 * 1024;

/// Where brains lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum StorageRoot {
    /// One named volume per engine.
    Volumes,
    /// One directory per engine.
    Directories {
        /// The root as the daemon's host sees it.
        host: PathBuf,
        /// The same root as this process sees it.
        local: PathBuf,
    },
}

/// Name of the engine's container.
pub(crate) fn engine_name(id: EngineId) -> String {
    format!("engine-{}", id.short())
}

/// Name of the container of its jobs.
pub(crate) fn job_name(id: EngineId) -> String {
    format!("engine-{}-job", id.short())
}

/// Name of its volume.
pub(crate) fn volume_name(id: EngineId) -> String {
    format!("engine-data-{id}")
}

/// The container that serves.
pub(crate) fn engine(
    spec: &EngineSpec,
    root: &StorageRoot,
    network: &str,
    host_cpus: u32,
) -> ContainerCreateBody {
    let mut host = confined(spec, root, host_cpus);
    host.network_mode = Some(network.into());
    host.restart_policy = restart(RestartPolicyNameEnum::UNLESS_STOPPED);
    host.port_bindings = spec.port.map(|port| {
        let binding = PortBinding { host_ip: Some("127.0.0.1".into()), host_port: Some(port.to_string()) };
        HashMap::from([(ENGINE_PORT_KEY.into(), Some(vec![binding]))])
    });
    ContainerCreateBody {
        image: Some(spec.image.clone()),
        env: Some(environment(spec)),
        labels: Some(labels(spec).into_iter().collect()),
        exposed_ports: Some(vec![ENGINE_PORT_KEY.into()]),
        healthcheck: no_health_check(),
        host_config: Some(host),
        ..Default::default()
    }
}

/// The container of a one-shot command on the same storage: no network, no second try.
pub(crate) fn job(
    spec: &EngineSpec,
    args: &[String],
    root: &StorageRoot,
    host_cpus: u32,
) -> ContainerCreateBody {
    let mut host = confined(spec, root, host_cpus);
    host.network_mode = Some("none".into());
    host.restart_policy = restart(RestartPolicyNameEnum::NO);
    ContainerCreateBody {
        image: Some(spec.image.clone()),
        cmd: Some(args.to_vec()),
        env: Some(environment(spec)),
        labels: Some(job_labels(spec).into_iter().collect()),
        healthcheck: no_health_check(),
        host_config: Some(host),
        ..Default::default()
    }
}

/// A container that carries files in or out of storage: `program` runs in it, or it is never started at all.
pub(crate) fn carrier(
    instance: InstanceId,
    id: EngineId,
    image: &str,
    program: Option<&[String]>,
    root: &StorageRoot,
) -> ContainerCreateBody {
    let host = HostConfig {
        mounts: Some(vec![storage_mount(id, root)]),
        network_mode: Some("none".into()),
        restart_policy: restart(RestartPolicyNameEnum::NO),
        cap_drop: Some(vec!["ALL".into()]),
        security_opt: Some(vec!["no-new-privileges".into()]),
        readonly_rootfs: Some(true),
        log_config: Some(logs()),
        ..Default::default()
    };
    // An image without a command is fine as long as nothing is run: the daemon wants one named all the same.
    let program = program.map_or_else(|| vec!["/carrier".to_owned()], <[String]>::to_vec);
    ContainerCreateBody {
        image: Some(image.into()),
        entrypoint: Some(program),
        labels: Some(HashMap::from([
            (LABEL_INSTANCE.into(), instance.to_string()),
            (LABEL_ENGINE.into(), id.to_string()),
            (LABEL_ROLE.into(), ROLE_JOB.into()),
        ])),
        healthcheck: no_health_check(),
        host_config: Some(host),
        ..Default::default()
    }
}

fn environment(spec: &EngineSpec) -> Vec<String> {
    spec.env.0.iter().map(|(name, value)| format!("{name}={value}")).collect()
}

fn no_health_check() -> Option<HealthConfig> {
    Some(HealthConfig { test: Some(vec!["NONE".into()]), ..Default::default() })
}

fn restart(name: RestartPolicyNameEnum) -> Option<RestartPolicy> {
    Some(RestartPolicy { name: Some(name), maximum_retry_count: None })
}

fn logs() -> HostConfigLogConfig {
    HostConfigLogConfig {
        typ: Some("json-file".into()),
        config: Some(HashMap::from([
            ("max-size".into(), LOG_MAX_SIZE.into()),
            ("max-file".into(), LOG_MAX_FILES.into()),
        ])),
    }
}

/// Everything about confinement, limits, mounts and logs that engines and jobs have in common.
fn confined(spec: &EngineSpec, root: &StorageRoot, host_cpus: u32) -> HostConfig {
    let mut security_opt = vec!["no-new-privileges".to_owned()];
    match spec.security {
        SecurityProfile::Hardened => {}
        SecurityProfile::Nested => {
            security_opt.push(format!("seccomp={NESTED_SECCOMP}"));
            security_opt.push("apparmor=unconfined".to_owned());
        }
    }
    let limit = |value: u64| (value != 0).then(|| i64::try_from(value).unwrap_or(i64::MAX));
    let memory = limit(spec.resources.memory_mb.saturating_mul(MIB));
    let mut mounts = vec![storage_mount(spec.engine_id, root)];
    mounts.extend(spec.catalog.as_deref().map(|path| bind(Path::new(path), CATALOG_PATH, true)));
    HostConfig {
        mounts: Some(mounts),
        tmpfs: Some(HashMap::from([("/tmp".into(), TMP_OPTIONS.into())])),
        cap_drop: Some(vec!["ALL".into()]),
        security_opt: Some(security_opt),
        readonly_rootfs: Some(true),
        init: Some(true),
        ulimits: Some(vec![ResourcesUlimits {
            name: Some("nofile".into()),
            soft: Some(OPEN_FILES_MAX),
            hard: Some(OPEN_FILES_MAX),
        }]),
        memory,
        memory_swap: memory,
        nano_cpus: nano_cpus(spec.resources.cpus, host_cpus),
        pids_limit: limit(spec.resources.pids),
        log_config: Some(logs()),
        ..Default::default()
    }
}

/// Billionths of a processor, at most what the host has (0 = unknown); no limit for 0.
fn nano_cpus(wanted: f64, host: u32) -> Option<i64> {
    if wanted <= 0.0 {
        return None;
    }
    let capped = if host == 0 { wanted } else { wanted.min(f64::from(host)) };
    // Far below 2^53: hosts have at most some thousand processors.
    Some((capped * 1e9).round() as i64)
}

fn storage_mount(id: EngineId, root: &StorageRoot) -> Mount {
    match root {
        StorageRoot::Directories { host, .. } => bind(&host.join(id.to_string()), "/data", false),
        StorageRoot::Volumes => Mount {
            typ: Some(MountType::VOLUME),
            source: Some(volume_name(id)),
            target: Some("/data".into()),
            read_only: Some(false),
            ..Default::default()
        },
    }
}

fn bind(source: &Path, target: &str, read_only: bool) -> Mount {
    Mount {
        typ: Some(MountType::BIND),
        source: Some(source.to_string_lossy().into_owned()),
        target: Some(target.into()),
        read_only: Some(read_only),
        bind_options: Some(MountBindOptions {
            propagation: Some(MountBindOptionsPropagationEnum::RPRIVATE),
            ..Default::default()
        }),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::ProductId;
    use fleet::spec::{EngineEnv, Resources};
    use std::collections::BTreeMap;

    fn spec() -> EngineSpec {
        EngineSpec {
            instance: InstanceId::generate(),
            engine_id: EngineId::generate(),
            product_id: ProductId::generate(),
            generation: 7,
            spec_hash: "0123456789abcdef".into(),
            image: "september-engine:1".into(),
            env: EngineEnv(BTreeMap::from([("B".into(), "2".into()), ("A".into(), "1".into())])),
            port: Some(9001),
            catalog: Some("/srv/catalog".into()),
            resources: Resources { memory_mb: 2048, cpus: 8.0, pids: 512 },
            security: SecurityProfile::Hardened,
        }
    }

    fn host(body: &ContainerCreateBody) -> &HostConfig {
        body.host_config.as_ref().expect("always set")
    }

    #[test]
    fn processors_are_capped_at_the_hosts_count_and_zero_means_no_limit() {
        assert_eq!(nano_cpus(8.0, 2), Some(2_000_000_000));
        assert_eq!(nano_cpus(0.5, 2), Some(500_000_000));
        assert_eq!(nano_cpus(0.0, 2), None);
        let mut free = spec();
        free.resources = Resources { memory_mb: 0, cpus: 0.0, pids: 0 };
        let body = engine(&free, &StorageRoot::Volumes, "net", 2);
        assert_eq!((host(&body).memory, host(&body).memory_swap, host(&body).pids_limit), (None, None, None));
    }

    #[test]
    fn a_job_has_neither_network_nor_port_nor_a_second_try() {
        let body = job(&spec(), &["verify".into()], &StorageRoot::Volumes, 2);
        assert_eq!(host(&body).network_mode.as_deref(), Some("none"));
        assert_eq!(host(&body).port_bindings, None);
        assert_eq!(host(&body).restart_policy, restart(RestartPolicyNameEnum::NO));
        assert_eq!(body.labels.as_ref().and_then(|l| l.get(LABEL_ROLE)).map(String::as_str), Some("job"));
    }

    #[test]
    fn nested_adds_a_seccomp_profile_that_is_json_and_lets_user_namespaces_be_made() {
        let mut nested = spec();
        nested.security = SecurityProfile::Nested;
        let body = engine(&nested, &StorageRoot::Volumes, "net", 2);
        let options = host(&body).security_opt.clone().expect("set");
        assert!(options.contains(&"apparmor=unconfined".to_owned()));
        let profile = options.iter().find_map(|o| o.strip_prefix("seccomp=")).expect("a profile");
        let profile: serde_json::Value = serde_json::from_str(profile).expect("JSON");
        assert_eq!(profile["defaultAction"], "SCMP_ACT_ERRNO");
        let allowed: Vec<&str> = profile["syscalls"]
            .as_array()
            .expect("a list")
            .iter()
            .filter(|rule| rule["action"] == "SCMP_ACT_ALLOW" && rule.get("args").is_none())
            .flat_map(|rule| rule["names"].as_array().expect("names"))
            .filter_map(serde_json::Value::as_str)
            .collect();
        for call in
            ["unshare", "clone", "mount", "umount2", "pivot_root", "landlock_restrict_self", "seccomp"]
        {
            assert!(allowed.contains(&call), "{call}");
        }
        for call in ["bpf", "kexec_load", "init_module", "reboot", "swapon", "add_key", "ptrace"] {
            assert!(!allowed.contains(&call), "{call}");
        }
    }

    #[test]
    fn a_directory_is_mounted_as_the_daemons_host_sees_it() {
        let root = StorageRoot::Directories { host: "/srv/brains".into(), local: "/data/engine-data".into() };
        let spec = spec();
        let body = engine(&spec, &root, "net", 2);
        let mounts = host(&body).mounts.clone().expect("set");
        assert_eq!(mounts[0].source, Some(format!("/srv/brains/{}", spec.engine_id)));
        assert_eq!((mounts[1].target.as_deref(), mounts[1].read_only), (Some("/catalog"), Some(true)));
    }
}
