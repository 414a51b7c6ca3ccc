//! Every variable of the orchestrator, once: name, default, accepted values, what it steers and what breaks when it
//! is larger or smaller. Validation, `check-config` and `docs/reference/orchestrator-variables.md` come from this list.
//!
//! Variables marked `.later()` belong to features that are not in this version: they are checked, so that a
//! configuration written for a later version is already right, and setting one is a warning.

use chassis::config::DefaultValue::{Computed, None, Text};
use chassis::config::{Kind, Var};
use std::time::Duration;

const REQUIRED: &str = "Required";
const SERVER: &str = "Server";
const ENGINES: &str = "Engines";
const CARE: &str = "Health, sleep, supervision";
const KEEPING: &str = "Keys, audit, backup, laptop";
const CLIENT: &str = "Client commands";
const USUAL: &str = "Variables of others, with their usual meaning";

const FLAG: Kind = Kind::Flag;

const fn int(min: i64, max: i64) -> Kind {
    Kind::Int { min, max }
}

const fn seconds(min: u64, max: u64) -> Kind {
    Kind::Seconds { min: Duration::from_secs(min), max: Duration::from_secs(max) }
}

/// For what must be longer than nothing.
const fn positive_seconds(max: u64) -> Kind {
    Kind::Seconds { min: Duration::from_millis(1), max: Duration::from_secs(max) }
}

/// Largest memory limit in MiB and largest number of processes: keeps products of them inside 64 bits.
const MAX_LIMIT: i64 = 1_000_000_000;

/// All declarations, in the order of the reference page.
#[rustfmt::skip]
pub const VARS: &[Var] = &[
    Var::new(REQUIRED, "ORCH_DATABASE_URL", None, Kind::Text { min: 1, max: 4096 }, "`postgresql://user:password@host:port/database`; `sslmode` and `sslrootcert` are honoured. A database of its own, PostgreSQL 15 or newer (15 is a warning). Not needed by `up`, which runs one.").secret(),
    Var::new(REQUIRED, "ORCH_MASTER_KEY", None, Kind::List(&Kind::Base64Key32), "Fernet keys that encrypt engine keys at rest: the first encrypts, all decrypt. `bap-engine keygen master` makes one. Losing it makes every stored engine key unreadable.").secret(),
    Var::new(REQUIRED, "ORCH_ADMIN_KEY", None, Kind::Text { min: 1, max: 4096 }, "The operator's key, header `X-Admin-Key`. `bap-engine keygen admin` makes one; shorter than 32 characters is a warning.").secret(),

    Var::new(SERVER, "ORCH_BIND", Text("127.0.0.1:8000"), Kind::SocketAddr, "Listener of the API (the image sets 0.0.0.0:8000). A wildcard address is reachable from everywhere and logged as a warning; TLS ends at a proxy in front."),
    Var::new(SERVER, "ORCH_INTERNAL_BIND", Text("127.0.0.1:9090"), Kind::SocketAddr, "Listener of Prometheus `/metrics`, `/livez` and `/readyz`, without authentication: never expose it. Differs from ORCH_BIND."),
    Var::new(SERVER, "ORCH_LOG_LEVEL", Text("INFO"), Kind::OneOfAnyCase(&["DEBUG", "INFO", "WARNING", "ERROR"]), "Least severe level that is logged."),
    Var::new(SERVER, "ORCH_LOG_FORMAT", Computed("`json`; `pretty` on a terminal"), Kind::OneOf(&["json", "pretty"]), "Log rendering."),
    Var::new(SERVER, "ORCH_ALLOWED_HOSTS", None, Kind::List(&Kind::Host), "When set, a request whose `Host` is not listed gets 400: protection against DNS rebinding. Empty accepts every name."),
    Var::new(SERVER, "ORCH_DRAIN_TIMEOUT_S", Text("50"), seconds(1, 600), "After SIGTERM, time for requests in flight. Keep it below the stop grace of whatever stops the process (`docker stop --time 60`), or they are cut off."),
    Var::new(SERVER, "ORCH_READ_ONLY", Text("false"), FLAG, "Serve reads only; change neither database nor backend (no loops, no lease, no migrations): for restore drills."),
    Var::new(SERVER, "ORCH_MIGRATIONS", Text("auto"), Kind::OneOf(&["auto", "gate"]), "auto applies migrations at start; gate refuses to serve until `bap-engine migrate` has run."),
    Var::new(SERVER, "ORCH_DATABASE_MAX_CONNECTIONS", Text("20"), int(4, 500), "Connections per replica; one further connection listens. More than the server's max_connections over all replicas and some are refused, fewer makes requests wait for each other."),
    Var::new(SERVER, "ORCH_ADMIT_WAITERS_MAX", Text("1024"), int(1, 100_000), "Requests of one replica that may wait for an engine; beyond it 503 CAPACITY_EXHAUSTED. Larger holds more connections open, smaller refuses bursts."),

    Var::new(ENGINES, "ORCH_ENGINE_BACKEND", Text("docker"), Kind::OneOf(&["docker", "subprocess", "kubernetes", "simulated"]), "Where engines run. `simulated` runs nothing and is logged as a warning; `kubernetes` is refused: this version has no Kubernetes backend."),
    Var::new(ENGINES, "ORCH_ENGINE_IMAGE", Text("september-engine:latest"), Kind::ImageReference, "Image of new engines. Pin a version in production; `latest` is a warning."),
    Var::new(ENGINES, "ORCH_ENGINE_ENV_PASSTHROUGH", None, Kind::List(&Kind::VariableName), "Names of variables forwarded unchanged to every engine, usually LLM_PROVIDER,LLM_MODEL,LLM_API_KEY,OPENAI_API_KEY,ANTHROPIC_API_KEY,GEMINI_API_KEY,AD_ENCRYPTION_KEY. A listed name that is not set is skipped with a warning. `ORCH_*`, `LD_*`, PATH, HOME and the names the orchestrator sets itself are refused."),
    Var::new(ENGINES, "ORCH_ENGINE_NETWORK", Text("engine_net"), Kind::ObjectName, "Network shared with engines (Docker); created if missing."),
    Var::new(ENGINES, "ORCH_ENGINE_URL_MODE", Text("auto"), Kind::OneOf(&["auto", "network", "host"]), "`url` given to products: network is `http://engine-{12}:8000`, host is `http://127.0.0.1:<port>`, auto is network when the orchestrator itself runs in a container on that network. `subprocess` is always host."),
    Var::new(ENGINES, "ORCH_PORT_MIN", Text("9001"), int(1024, 65_535), "First host port for engines, bound to 127.0.0.1."),
    Var::new(ENGINES, "ORCH_PORT_MAX", Text("9999"), int(1024, 65_535), "Last host port for engines. Every engine keeps one, so the range is the largest number of engines; neither listener may lie inside (with the defaults, the port of ORCH_INTERNAL_BIND is left out)."),
    Var::new(ENGINES, "ORCH_CATALOG_MOUNT_PATH", None, Kind::AbsolutePath, "Directory of agents, skills, tools and `core_soul.json` as the backend's host sees it, mounted read-only at `/catalog`. Without it the engine's built-in catalog serves."),
    Var::new(ENGINES, "ORCH_DATA_ROOT_PATH", None, Kind::AbsolutePath, "Root of the brains as the backend's host sees it, one directory `<root>/<engine_id>` per engine. Without it Docker keeps each brain in a volume `engine-data-{engine_id}`; `subprocess` needs it."),
    Var::new(ENGINES, "ORCH_DATA_ROOT_LOCAL_PATH", Computed("ORCH_DATA_ROOT_PATH"), Kind::AbsolutePath, "The same root as this process sees it (the image sets /data/engine-data). Must be writable; on NFS, 9p, virtiofs and FUSE an error unless BRAIN_ALLOW_UNSAFE_FS=true is passed through."),
    Var::new(ENGINES, "ORCH_ENGINE_MEMORY_MB", Text("2048"), Kind::IntOrZero { min: 256, max: MAX_LIMIT }, "Memory limit per engine unless the policy says otherwise; 0 is no limit. Smaller kills engines under load, larger lets one starve the host."),
    Var::new(ENGINES, "ORCH_ENGINE_CPUS", Text("0"), Kind::FloatOrZero { min: 0.1, max: 4_096.0 }, "Processors per engine unless the policy says otherwise; 0 is no limit. Capped at the host's number."),
    Var::new(ENGINES, "ORCH_ENGINE_PIDS", Text("512"), Kind::IntOrZero { min: 64, max: MAX_LIMIT }, "Processes and threads per engine; 0 is no limit, which lets a fork bomb reach the host."),
    Var::new(ENGINES, "ORCH_ENGINE_STOP_GRACE_S", Text("30"), seconds(1, 600), "Time between SIGTERM and SIGKILL. Shorter cuts turns in flight, longer delays a stop."),
    Var::new(ENGINES, "ORCH_ENGINE_SECURITY_PROFILE", Text("hardened"), Kind::OneOf(&["hardened", "nested"]), "hardened keeps the daemon's seccomp and AppArmor; nested adds the calls that unprivileged user namespaces need."),
    Var::new(ENGINES, "ORCH_IMAGE_PULL", Text("missing"), Kind::OneOf(&["missing", "always", "never"]), "When an image is pulled."),
    Var::new(ENGINES, "ORCH_IMAGE_PULL_TIMEOUT_S", Text("600"), seconds(10, 3_600), "Deadline of one pull. Shorter fails large images on slow links."),
    Var::new(ENGINES, "ORCH_ENGINE_BINARY", Text("september-engine"), Kind::Path, "Program of the subprocess backend, a path or a name on PATH; `{tag}` is replaced by the tag of the engine's version."),
    Var::new(ENGINES, "ORCH_K8S_NAMESPACE", Text("september-engines"), Kind::DnsLabel, "Namespace of all engine objects.").later(),
    Var::new(ENGINES, "ORCH_K8S_STORAGE_CLASS", Computed("the cluster's default"), Kind::DnsName, "Storage class of each brain.").later(),
    Var::new(ENGINES, "ORCH_K8S_VOLUME_SIZE", Text("10Gi"), Kind::Quantity, "Storage of each brain.").later(),
    Var::new(ENGINES, "ORCH_K8S_CATALOG_CLAIM", None, Kind::DnsName, "Read-only volume claim mounted at `/catalog`.").later(),
    Var::new(ENGINES, "ORCH_K8S_PULL_SECRETS", None, Kind::List(&Kind::DnsName), "Pull secrets of engine pods.").later(),
    Var::new(ENGINES, "ORCH_K8S_RUNTIME_CLASS", None, Kind::DnsName, "Runtime class of engine pods.").later(),
    Var::new(ENGINES, "ORCH_SIMULATED_SEED", Text("1"), int(0, i64::MAX), "Seed of the simulated backend: the same seed gives the same faults."),

    Var::new(CARE, "ORCH_HEALTH_CHECK_INTERVAL_S", Text("30"), seconds(1, 3_600), "Every running engine is probed once per interval. Longer notices trouble later, shorter costs a request per engine."),
    Var::new(CARE, "ORCH_HEALTH_CHECK_TIMEOUT_S", Text("10"), positive_seconds(3_600), "Limit of one probe; not below the interval is a warning, and it is capped to it."),
    Var::new(CARE, "ORCH_HEALTH_MAX_FAILURES", Text("3"), int(1, 100), "Failed probes in a row before an engine is failed. Fewer restarts engines for a hiccup, more leaves a dead one in service."),
    Var::new(CARE, "ORCH_RESTART_BACKOFF_BASE_S", Text("5"), positive_seconds(86_400), "Wait before the first restart; doubles with each attempt."),
    Var::new(CARE, "ORCH_RESTART_BACKOFF_MAX_S", Text("300"), positive_seconds(86_400), "Longest wait between restarts; not below the base."),
    Var::new(CARE, "ORCH_RESTART_MAX_ATTEMPTS", Text("8"), int(0, 1_000), "Restarts before giving up; 0 never restarts."),
    Var::new(CARE, "ORCH_BOOT_TIMEOUT_S", Text("60"), seconds(1, 3_600), "From the backend's \"started\" to healthy. Shorter fails engines with long migrations, longer makes callers wait for a dead one."),
    Var::new(CARE, "ORCH_IDLE_SLEEP_AFTER_S", Text("0"), seconds(0, 31_536_000), "Idle time before sleep; 0 is off, anything else is at least ORCH_ADMIT_LEASE_S. A policy's `idle_sleep_after_s` overrides it."),
    Var::new(CARE, "ORCH_SLEEP_MODE", Text("freeze"), Kind::OneOf(&["freeze", "stop", "label"]), "freeze halts the processes and keeps their memory, stop ends them, label changes only the status."),
    Var::new(CARE, "ORCH_ADMIT_LEASE_S", Text("30"), seconds(5, 600), "How long an admitted engine is certain to stay up. Longer delays sleep, shorter costs more writes."),
    Var::new(CARE, "ORCH_WAKE_LEAD_S", Text("30"), seconds(0, 3_600), "A sleeper is woken this long before work it has scheduled."),
    Var::new(CARE, "ORCH_WAKE_GRACE_S", Text("120"), seconds(0, 3_600), "No idle sleep until this long after scheduled work."),
    Var::new(CARE, "ORCH_RECONCILE_INTERVAL_S", Text("30"), seconds(1, 600), "Period of a relist of the backend and a full planning pass."),
    Var::new(CARE, "ORCH_START_CONCURRENCY", Computed("docker 8, subprocess 32, simulated 256"), int(1, 1_024), "Starts (create, start, thaw) at once per replica. More overload the backend and all boots become slow."),
    Var::new(CARE, "ORCH_START_QUEUE_MAX", Text("256"), int(1, 100_000), "Starts waiting per replica; beyond it 503 CAPACITY_EXHAUSTED."),
    Var::new(CARE, "ORCH_BACKEND_CALL_TIMEOUT_S", Text("30"), seconds(1, 600), "Base deadline of a backend call; the deadline of each call is a multiple of it."),
    Var::new(CARE, "ORCH_LEASE_TTL_S", Text("6"), seconds(2, 60), "Supervisor lease, renewed every third. Shorter changes the supervisor for a hiccup of the database, longer leaves the fleet unwatched after a crash."),
    Var::new(CARE, "ORCH_OPERATION_LEASE_S", Text("15"), seconds(5, 300), "Claim on an operation, renewed every third; after a crash another replica goes on when it ends."),
    Var::new(CARE, "ORCH_ORPHAN_GRACE_S", Text("900"), seconds(60, 86_400), "Age before an object without a row may be removed."),

    Var::new(KEEPING, "ORCH_KEY_OVERLAP_S", Text("300"), seconds(0, 86_400), "Window in which an engine takes its old key, too, after `rotate-key`; the engine clamps it to BAP_KEY_ROTATION_MIN_OVERLAP_SECONDS..BAP_KEY_ROTATION_MAX_OVERLAP_SECONDS."),
    Var::new(KEEPING, "ORCH_PLATFORM_KEY_OVERLAP_S", Text("86400"), seconds(0, 604_800), "Default window in which the old platform key is taken, too, after `rotate-platform-key`."),
    Var::new(KEEPING, "ORCH_AUDIT_HEALTH_SAMPLE", Text("100"), int(1, 1_000_000), "One `health_check` row per this many probes of an engine; smaller makes the audit log grow faster."),
    Var::new(KEEPING, "ORCH_AUDIT_RETENTION_MONTHS", Text("0"), int(0, 120), "Exported partitions of the audit log older than this are dropped monthly; 0 keeps them."),
    Var::new(KEEPING, "ORCH_BACKUP_DIR", None, Kind::AbsolutePath, "Default target of `bap-engine backup`.").later(),
    Var::new(KEEPING, "ORCH_DATA_DIR", Computed("`$XDG_DATA_HOME/bap-engine` or `~/.local/share/bap-engine`"), Kind::AbsolutePath, "Only `up`: private PostgreSQL, keys and brains. Writable; the socket path inside has at most 107 bytes."),
    Var::new(KEEPING, "ORCH_PG_BIN_DIR", None, Kind::AbsolutePath, "Only `up` and tests: directory with `postgres`, `initdb` and `pg_ctl`."),

    Var::new(CLIENT, "BAP_URL", Text("http://127.0.0.1:8000"), Kind::UrlNoQuery, "Address of the API for the commands that use it."),
    Var::new(CLIENT, "BAP_PLATFORM_KEY", None, Kind::Text { min: 1, max: 4096 }, "Platform key for the commands that use the API as a product; `pk-sept-…`.").secret(),

    Var::new(USUAL, "DOCKER_HOST", Computed("`unix:///var/run/docker.sock`"), Kind::Text { min: 1, max: 4096 }, "Address of the Docker daemon; over TCP only with TLS, except on this machine."),
    Var::new(USUAL, "DOCKER_TLS_VERIFY", None, Kind::Text { min: 1, max: 64 }, "Anything but empty: speak TLS with the daemon and verify it."),
    Var::new(USUAL, "DOCKER_CERT_PATH", Computed("`~/.docker`"), Kind::Path, "Directory of `ca.pem`, `cert.pem` and `key.pem`."),
    Var::new(USUAL, "DOCKER_CONFIG", Computed("`~/.docker`"), Kind::Path, "Directory of `config.json` with registry credentials."),
    Var::new(USUAL, "KUBECONFIG", None, Kind::Text { min: 1, max: 4096 }, "Cluster configuration.").later(),
];
