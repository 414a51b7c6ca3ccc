//! Rules that involve more than one variable, and defaults that depend on others.
//!
//! Each function notes its problems and warnings in the reader and answers with a value that lets the reading go
//! on, so that all problems are found in one run.

use super::{Purpose, filesystem};
use chassis::config::{Reader, Secret, Source};
use chassis::seal::MasterKeys;
use fleet::lifecycle::BackendKind;
use rustix::fs::Access;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use url::Url;

/// Shortest admin key without a warning. Shorter ones can be guessed by whoever reaches the listener.
const ADMIN_KEY_CHARS: usize = 32;

/// What libpq calls the ways of TLS.
const SSL_MODES: [&str; 6] = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];

/// Default of ORCH_PORT_MIN and ORCH_PORT_MAX.
const DEFAULT_RANGE: (u16, u16) = (9001, 9999);

/// Port of the default ORCH_INTERNAL_BIND.
const DEFAULT_INTERNAL_PORT: u16 = 9090;

/// Names an engine is given by the orchestrator itself; passed through, they would contradict it.
const RESERVED: [&str; 9] = [
    contract::env::ENGINE_KEY_HASH,
    "ENGINE_API_KEY",
    contract::env::SQLITE_DB_PATH,
    contract::env::CATALOG_DIR,
    contract::env::BRAIN_GENERATION,
    contract::env::ENGINE_HOST,
    contract::env::ENGINE_PORT,
    "PATH",
    "HOME",
];

/// Prefixes of names that are never passed through: our own secrets, and what the dynamic linker obeys.
const RESERVED_PREFIXES: [&str; 2] = ["ORCH_", "LD_"];

/// The URL of the database, if it is one.
pub(super) fn database_url(r: &mut Reader<'_>, purpose: Purpose) -> Option<Secret> {
    const NAME: &str = "ORCH_DATABASE_URL";
    let Some(url) = r.secret(NAME) else {
        if purpose == Purpose::Serve && !r.is_set(NAME) {
            r.refuse(NAME, "postgresql://user:password@host:port/database", None);
        }
        return None;
    };
    if let Err(expected) = database_url_problem(url.expose()) {
        r.refuse(NAME, expected, None);
    }
    Some(url)
}

/// What is wrong with the URL of a database, in words that do not repeat it.
pub fn database_url_problem(text: &str) -> Result<(), String> {
    let form = "postgresql://user:password@host:port/database";
    let url = Url::parse(text).map_err(|_| form.to_owned())?;
    if !matches!(url.scheme(), "postgres" | "postgresql") {
        return Err(format!("{form}; the scheme is neither postgresql nor postgres"));
    }
    let named = |name: &str| url.query_pairs().find(|(n, _)| n == name).map(|(_, value)| value.into_owned());
    if url.host_str().is_none_or(str::is_empty) && named("host").is_none() {
        return Err(format!("{form}; the host is missing"));
    }
    if url.path().trim_start_matches('/').is_empty() && named("dbname").is_none() {
        return Err(format!("{form}; the database is missing"));
    }
    if named("sslmode").is_some_and(|mode| !SSL_MODES.contains(&mode.as_str())) {
        return Err(format!("{form}; sslmode is one of {}", SSL_MODES.join(", ")));
    }
    match named("sslrootcert") {
        Some(file) if file != "system" && !Path::new(&file).is_file() => {
            Err(format!("{form}; the file of sslrootcert does not exist"))
        }
        _ => Ok(()),
    }
}

/// The master keys.
pub(super) fn master_key(r: &mut Reader<'_>, purpose: Purpose) -> Option<MasterKeys> {
    const NAME: &str = "ORCH_MASTER_KEY";
    if !r.is_set(NAME) {
        if purpose == Purpose::Serve {
            r.refuse(NAME, "a Fernet key; `bap-engine keygen master` makes one", None);
        }
        return None;
    }
    // A list whose items have the wrong form was refused by the declaration.
    let list = r.list(NAME);
    if list.is_empty() {
        return None;
    }
    match MasterKeys::parse(&list.join(",")) {
        Ok(keys) => Some(keys),
        Err(error) => {
            r.refuse(NAME, format!("Fernet keys, each once: {error}"), None);
            None
        }
    }
}

/// The operator's key.
pub(super) fn admin_key(r: &mut Reader<'_>, purpose: Purpose) -> Option<Secret> {
    const NAME: &str = "ORCH_ADMIN_KEY";
    let key = r.secret(NAME);
    match &key {
        None if purpose == Purpose::Serve && !r.is_set(NAME) => {
            r.refuse(NAME, "the operator's key; `bap-engine keygen admin` makes one", None);
        }
        Some(key) if purpose != Purpose::Client && key.expose().chars().count() < ADMIN_KEY_CHARS => {
            let text = format!(
                "is shorter than {ADMIN_KEY_CHARS} characters; `bap-engine keygen admin` makes a good one"
            );
            r.warn(NAME, &text);
        }
        _ => {}
    }
    key
}

/// The key a client shows.
pub(super) fn platform_key(r: &mut Reader<'_>) -> Option<Secret> {
    let key = r.secret("BAP_PLATFORM_KEY")?;
    if !key.expose().starts_with(crate::keys::PLATFORM_KEY_PREFIX) {
        r.refuse("BAP_PLATFORM_KEY", "a platform key, pk-sept-…, as `products register` showed it", None);
    }
    Some(key)
}

/// The two listeners and the ports of engines.
pub(super) struct Ports {
    pub(super) bind: SocketAddr,
    pub(super) internal_bind: SocketAddr,
    pub(super) min: u16,
    pub(super) max: u16,
}

impl Ports {
    pub(super) fn read(r: &mut Reader<'_>, backend: BackendKind) -> Self {
        let address = |r: &Reader<'_>, name: &str, port: u16| {
            r.text(name)
                .and_then(|t| t.parse().ok())
                .unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], port)))
        };
        let bind: SocketAddr = address(r, "ORCH_BIND", 8000);
        let internal_bind: SocketAddr = address(r, "ORCH_INTERNAL_BIND", DEFAULT_INTERNAL_PORT);
        let ports = Self { bind, internal_bind, min: r.int("ORCH_PORT_MIN"), max: r.int("ORCH_PORT_MAX") };
        // Port 0 is a free one each time, so two of them never meet.
        if bind == internal_bind && bind.port() != 0 {
            r.refuse("ORCH_INTERNAL_BIND", format!("another address than ORCH_BIND ({bind})"), None);
        }
        if bind.ip().is_unspecified() {
            r.warn("ORCH_BIND", &format!("{bind} listens on every network this machine is in"));
        }
        if internal_bind.ip().is_unspecified() {
            let text = format!("{internal_bind} shows metrics on every network this machine is in");
            r.warn("ORCH_INTERNAL_BIND", &text);
        }
        if ports.min > ports.max {
            let expected = format!("at least ORCH_PORT_MIN ({})", ports.min);
            r.refuse("ORCH_PORT_MAX", expected, Some(ports.min.to_string()));
        } else if backend != BackendKind::Kubernetes {
            for (name, listener) in [("ORCH_BIND", bind), ("ORCH_INTERNAL_BIND", internal_bind)] {
                if ports.range_holds(listener.port()) && !ports.is_default_overlap(listener.port()) {
                    let range = format!("ORCH_PORT_MIN..ORCH_PORT_MAX ({}..{})", ports.min, ports.max);
                    r.refuse(name, format!("a port outside of {range}, which belongs to engines"), None);
                }
            }
        }
        ports
    }

    fn range_holds(&self, port: u16) -> bool {
        (self.min..=self.max).contains(&port)
    }

    /// The default internal listener (9090) lies inside the default range. Nobody who sets nothing may be refused
    /// for it: the port is left to the listener instead ([`super::Settings::ports_kept_from_engines`]).
    fn is_default_overlap(&self, port: u16) -> bool {
        (self.min, self.max) == DEFAULT_RANGE && port == DEFAULT_INTERNAL_PORT
    }
}

/// The backend and what depends on it alone; answers how many starts may run at once.
pub(super) fn backend(r: &mut Reader<'_>, backend: BackendKind, purpose: Purpose) -> usize {
    match backend {
        BackendKind::Kubernetes if purpose != Purpose::Client => {
            let expected = "docker or subprocess: this version has no Kubernetes backend, a later one will";
            r.refuse("ORCH_ENGINE_BACKEND", expected, Some("docker".to_owned()));
        }
        BackendKind::Simulated if purpose != Purpose::Client => {
            r.warn("ORCH_ENGINE_BACKEND", "simulated: no engine really runs, for trials and tests only");
        }
        BackendKind::Docker | BackendKind::Subprocess | BackendKind::Kubernetes | BackendKind::Simulated => {}
    }
    let starts = match backend {
        BackendKind::Docker => 8,
        BackendKind::Subprocess => 32,
        BackendKind::Kubernetes => 64,
        BackendKind::Simulated => 256,
    };
    r.computed("ORCH_START_CONCURRENCY", starts.to_string());
    r.int_opt("ORCH_START_CONCURRENCY").unwrap_or(starts)
}

/// The image of new engines: pinned?
pub(super) fn image(r: &mut Reader<'_>, backend: BackendKind) -> String {
    let image = r.text("ORCH_ENGINE_IMAGE").unwrap_or_default();
    let unpinned = !image.contains('@') && matches!(tag(&image), None | Some("latest"));
    if unpinned && backend == BackendKind::Docker {
        let text = format!("{image} changes under running fleets; pin a version in production");
        r.warn("ORCH_ENGINE_IMAGE", &text);
    }
    image
}

/// The tag of an image reference.
pub(super) fn tag(image: &str) -> Option<&str> {
    let name = image.split('@').next().unwrap_or(image);
    name.rsplit_once(':').map(|(_, tag)| tag).filter(|tag| !tag.contains('/'))
}

/// What engines are given of our environment.
pub(super) struct Passthrough {
    pub(super) values: Vec<(String, Secret)>,
    pub(super) missing: Vec<String>,
}

impl Passthrough {
    pub(super) fn read(r: &mut Reader<'_>, source: &dyn Source) -> Self {
        const NAME: &str = "ORCH_ENGINE_ENV_PASSTHROUGH";
        let mut names = r.list(NAME);
        let mut seen = std::collections::BTreeSet::new();
        names.retain(|name| seen.insert(name.clone()));
        let refused: Vec<&str> = names.iter().map(String::as_str).filter(|name| is_reserved(name)).collect();
        if !refused.is_empty() {
            let expected = format!("names without {}, which engines must not be given", refused.join(", "));
            let rest: Vec<&str> =
                names.iter().map(String::as_str).filter(|name| !is_reserved(name)).collect();
            r.refuse(NAME, expected, Some(rest.join(",")));
        }
        let (mut values, mut missing) = (Vec::new(), Vec::new());
        for name in names.into_iter().filter(|name| !is_reserved(name)) {
            match source.get(&name).filter(|value| !value.is_empty()) {
                Some(value) => values.push((name, Secret::new(value))),
                None => missing.push(name),
            }
        }
        for name in &missing {
            r.warn(NAME, &format!("lists {name}, which is not set: engines start without it"));
        }
        Self { values, missing }
    }

    /// True when engines are told that any file system is good.
    fn allows_unsafe_file_systems(&self) -> bool {
        let allows = |value: &Secret| value.expose().trim().eq_ignore_ascii_case("true");
        self.values.iter().any(|(name, value)| name == "BRAIN_ALLOW_UNSAFE_FS" && allows(value))
    }
}

fn is_reserved(name: &str) -> bool {
    RESERVED.contains(&name) || RESERVED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// Where brains lie, as the backend's host and as this process sees it.
pub(super) fn data_root(
    r: &mut Reader<'_>,
    backend: BackendKind,
    purpose: Purpose,
    passthrough: &Passthrough,
) -> (Option<PathBuf>, Option<PathBuf>) {
    const LOCAL: &str = "ORCH_DATA_ROOT_LOCAL_PATH";
    let root = r.path("ORCH_DATA_ROOT_PATH");
    if let Some(root) = &root {
        r.computed(LOCAL, root.display().to_string());
    }
    // Without a root there is nothing to see locally, wherever the image says it would be.
    let local = match &root {
        Some(_) if r.is_set(LOCAL) => r.path(LOCAL),
        other => other.clone(),
    };
    if purpose == Purpose::Serve {
        match (backend, &local) {
            (BackendKind::Subprocess, None) if !r.is_set("ORCH_DATA_ROOT_PATH") => {
                let expected = "a directory for the brains: the subprocess backend has no volumes";
                r.refuse("ORCH_DATA_ROOT_PATH", expected, None);
            }
            (BackendKind::Docker | BackendKind::Subprocess, Some(dir)) => {
                let name = if r.is_set(LOCAL) { LOCAL } else { "ORCH_DATA_ROOT_PATH" };
                brain_place(r, name, dir, passthrough.allows_unsafe_file_systems());
            }
            (_, None) | (BackendKind::Kubernetes | BackendKind::Simulated, Some(_)) => {}
        }
    }
    (root, local)
}

fn brain_place(r: &mut Reader<'_>, name: &str, dir: &Path, unsafe_allowed: bool) {
    let shown = dir.display();
    if !dir.is_dir() {
        r.refuse(name, format!("an existing directory; make it with: mkdir -p {shown}"), None);
        return;
    }
    if rustix::fs::access(dir, Access::WRITE_OK | Access::EXEC_OK).is_err() {
        r.refuse(name, format!("a writable directory; give this user the right to write in {shown}"), None);
    }
    let refused = filesystem::magic_of(dir).ok().and_then(filesystem::refused);
    match refused {
        Some(kind) if unsafe_allowed => {
            r.warn(
                name,
                &format!("lies on {kind}, allowed by BRAIN_ALLOW_UNSAFE_FS: brains can be damaged there"),
            );
        }
        Some(kind) => {
            let expected = format!(
                "a directory on a local disk, not on {kind}, where brains can be damaged; or pass \
                 BRAIN_ALLOW_UNSAFE_FS=true through at your own risk"
            );
            r.refuse(name, expected, None);
        }
        None => {}
    }
}

/// The program of the subprocess backend: a path when it can be found without knowing a tag, else as given.
pub(super) fn engine_binary(
    r: &mut Reader<'_>,
    source: &dyn Source,
    backend: BackendKind,
    purpose: Purpose,
) -> String {
    const NAME: &str = "ORCH_ENGINE_BINARY";
    let given = r.text(NAME).unwrap_or_default();
    if given.contains("{tag}") {
        return given;
    }
    match executable(&given, source) {
        Some(path) => path.display().to_string(),
        None => {
            if backend == BackendKind::Subprocess && purpose == Purpose::Serve {
                r.refuse(NAME, "an executable file, or the name of one on PATH", None);
            }
            given
        }
    }
}

/// The executable file behind a path, or behind a name by PATH.
pub fn executable(given: &str, source: &dyn Source) -> Option<PathBuf> {
    let usable = |path: &Path| path.is_file() && rustix::fs::access(path, Access::EXEC_OK).is_ok();
    if given.contains('/') {
        let path = std::path::absolute(given).ok()?;
        return usable(&path).then_some(path);
    }
    let path = source.get("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(given)).find(|path| usable(path))
}

/// The catalog; only the subprocess backend's host is certainly this one.
pub(super) fn catalog(r: &mut Reader<'_>, backend: BackendKind, purpose: Purpose) -> Option<PathBuf> {
    let path = r.path("ORCH_CATALOG_MOUNT_PATH")?;
    if backend == BackendKind::Subprocess && purpose == Purpose::Serve && !path.is_dir() {
        r.refuse("ORCH_CATALOG_MOUNT_PATH", "an existing directory", None);
    }
    Some(path)
}

/// The limit of one probe, at most the interval.
pub(super) fn probe_timeout(r: &mut Reader<'_>, interval: Duration) -> Duration {
    const NAME: &str = "ORCH_HEALTH_CHECK_TIMEOUT_S";
    let timeout = r.span(NAME);
    if timeout >= interval {
        let text = format!(
            "is not below ORCH_HEALTH_CHECK_INTERVAL_S ({} s): {} s is used",
            interval.as_secs_f64(),
            interval.as_secs_f64()
        );
        r.warn(NAME, &text);
    }
    timeout.min(interval)
}

/// The waits between restarts.
pub(super) fn restart_backoff(r: &mut Reader<'_>) -> (Duration, Duration) {
    let (base, max) = (r.span("ORCH_RESTART_BACKOFF_BASE_S"), r.span("ORCH_RESTART_BACKOFF_MAX_S"));
    if max < base {
        let least = base.as_secs_f64().to_string();
        let expected = format!("at least ORCH_RESTART_BACKOFF_BASE_S ({least})");
        r.refuse("ORCH_RESTART_BACKOFF_MAX_S", expected, Some(least));
    }
    (base, max)
}

/// The idle time before sleep; zero is off.
pub(super) fn idle_sleep(r: &mut Reader<'_>, lease: Duration) -> Duration {
    let idle = r.span("ORCH_IDLE_SLEEP_AFTER_S");
    if !idle.is_zero() && idle < lease {
        let least = lease.as_secs_f64().to_string();
        let expected = format!("0 or at least ORCH_ADMIT_LEASE_S ({least})");
        r.refuse("ORCH_IDLE_SLEEP_AFTER_S", expected, Some(least));
    }
    idle
}

/// How the Docker daemon is reached.
pub(super) fn docker(r: &mut Reader<'_>, backend: BackendKind, purpose: Purpose) -> super::DockerEnv {
    let docker = super::DockerEnv {
        host: r.text("DOCKER_HOST"),
        tls_verify: r.is_set("DOCKER_TLS_VERIFY"),
        cert_path: r.path("DOCKER_CERT_PATH"),
        config: r.path("DOCKER_CONFIG"),
    };
    let plain_tcp = docker.host.as_deref().is_some_and(|host| {
        let address = host.strip_prefix("tcp://").or_else(|| host.strip_prefix("http://"));
        address.is_some_and(|address| !is_this_machine(address))
    });
    if plain_tcp && !docker.tls_verify && backend == BackendKind::Docker && purpose == Purpose::Serve {
        let expected = "a socket (unix:///var/run/docker.sock), or TCP with DOCKER_TLS_VERIFY=1: whoever \
                        reaches the daemon without TLS is root on its host";
        r.refuse("DOCKER_HOST", expected, None);
    }
    docker
}

/// `127.0.0.1:2375`, `localhost:2375`, `[::1]:2375`.
fn is_this_machine(address: &str) -> bool {
    let authority = address.split('/').next().unwrap_or(address);
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.parse::<u16>().is_ok() => host,
        _ => authority,
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Where `up` keeps what it makes.
pub(super) fn data_dir(r: &mut Reader<'_>, source: &dyn Source) -> Option<PathBuf> {
    let place = |name: &str| source.get(name).filter(|t| Path::new(t).is_absolute()).map(PathBuf::from);
    let default = place("XDG_DATA_HOME")
        .map(|dir| dir.join("bap-engine"))
        .or_else(|| place("HOME").map(|dir| dir.join(".local/share/bap-engine")));
    if let Some(dir) = &default {
        r.computed("ORCH_DATA_DIR", dir.display().to_string());
    }
    r.path("ORCH_DATA_DIR").or(default)
}
