//! What a real daemon does to us: it restarts, hangs, loses ports to others, kills for memory.

use super::place::{OnDirectories, OnVolumes};
use crate::conformance::Place;
use backends::{
    BackendError, BackendEventKind, DockerBackend, DockerSettings, EngineBackend, JobSpec, ProbeAddress,
    PullPolicy,
};
use contract::{EngineId, ProductId};
use fleet::observation::{Object, ObjectState, Observation};
use fleet::spec::{EngineEnv, EngineSpec, Resources, SecurityProfile};
use futures::StreamExt;
use rustix::process::Signal;
use serde_json::json;
use std::collections::BTreeMap;
use std::future::Future;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::{Duration, Instant};
use testbed::docker::OwnDaemon;

/// Base of deadlines where nothing hangs.
const CALM: Duration = Duration::from_secs(30);
/// Longest wait for what should happen at once.
const SOON: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);

async fn spec<P: Place>(place: &P, generation: i64) -> EngineSpec {
    let env = BTreeMap::from([
        ("SQLITE_DB_PATH".to_owned(), "/data/brain.sqlite".to_owned()),
        ("BRAIN_GENERATION".to_owned(), generation.to_string()),
    ]);
    EngineSpec {
        instance: place.instance(),
        engine_id: EngineId::generate(),
        product_id: ProductId::generate(),
        generation,
        spec_hash: "0123456789abcdef".into(),
        image: place.image(),
        env: EngineEnv(env),
        port: place.free_port().await,
        catalog: None,
        resources: Resources { memory_mb: 64, cpus: 1000.0, pids: 64 },
        security: SecurityProfile::Hardened,
    }
}

async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let began = Instant::now();
    loop {
        if let Some(value) = look().await {
            return value;
        }
        assert!(began.elapsed() < SOON, "not within {SOON:?}: {what}");
        tokio::time::sleep(POLL).await;
    }
}

async fn state(backend: &dyn EngineBackend, id: EngineId) -> Option<ObjectState> {
    match backend.observe(id).await.expect("observes") {
        Observation::Present(Object { state, .. }) => Some(state),
        Observation::Absent => None,
    }
}

async fn made(backend: &dyn EngineBackend, spec: &EngineSpec) {
    backend.ensure_storage(spec.engine_id, true).await.expect("storage is made");
    backend.create(spec).await.expect("the object is made");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_crashes_is_restarted_by_the_daemon_and_counted() {
    let Some(world) = OnVolumes::new(CALM).await else { return };
    let backend = world.backend();
    let mut spec = spec(&world, 1).await;
    spec.env.0.insert("FAKE_CRASH_AFTER_MS".into(), "150".into());
    spec.env.0.insert("FAKE_CRASH_CODE".into(), "7".into());
    made(&*backend, &spec).await;
    eventually("two restarts are counted", || async {
        let state = state(&*backend, spec.engine_id).await?;
        matches!(state, ObjectState::Running { restarts: 2.., .. }).then_some(())
    })
    .await;
    eventually("between two runs the exit code is seen", || async {
        (state(&*backend, spec.engine_id).await? == ObjectState::Restarting { code: Some(7) }).then_some(())
    })
    .await;
    let stopped = backend.stop(spec.engine_id, Duration::from_secs(5)).await.expect("stops");
    assert!(!stopped.killed);
    assert!(backend.tail(spec.engine_id, 50).await.expect("a log").contains("crashing as told"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_much_memory_is_seen_as_such() {
    let Some(world) = OnVolumes::new(CALM).await else { return };
    let backend = world.backend();
    let mut events = backend.events();
    let gap = tokio::time::timeout(SOON, events.next()).await.expect("in time").expect("endless");
    assert_eq!(gap.kind, BackendEventKind::Gap);
    let mut spec = spec(&world, 1).await;
    spec.env.0.insert("FAKE_ALLOC_MB".into(), "256".into());
    made(&*backend, &spec).await;
    let oom = async {
        while let Some(event) = events.next().await {
            if event.kind == BackendEventKind::Oom {
                return event.engine;
            }
        }
        None
    };
    let engine = tokio::time::timeout(SOON, oom).await.expect("the kernel kills it and the daemon says so");
    assert_eq!(engine, Some(spec.engine_id));
    backend.stop(spec.engine_id, Duration::from_secs(5)).await.expect("stops");
    let ended = state(&*backend, spec.engine_id).await;
    assert!(matches!(ended, Some(ObjectState::Exited { code: Some(137), oom: true, .. })), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_that_a_stranger_has_is_named_and_nothing_is_left() {
    let Some(world) = OnVolumes::new(CALM).await else { return };
    let backend = world.backend();
    let spec = spec(&world, 1).await;
    let port = spec.port.expect("this place has ports");
    let _stranger = std::net::TcpListener::bind(("127.0.0.1", port)).expect("free a moment ago");
    backend.ensure_storage(spec.engine_id, true).await.expect("storage is made");
    assert_eq!(backend.create(&spec).await, Err(BackendError::PortTaken(port)));
    assert_eq!(backend.observe(spec.engine_id).await, Ok(Observation::Absent));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_in_place_on_a_stolen_port_keeps_the_object() {
    let Some(world) = OnVolumes::new(CALM).await else { return };
    let backend = world.backend();
    let spec = spec(&world, 1).await;
    let port = spec.port.expect("this place has ports");
    made(&*backend, &spec).await;
    backend.stop(spec.engine_id, Duration::from_secs(10)).await.expect("stops");
    let stranger =
        eventually("the port is let go", || async { std::net::TcpListener::bind(("127.0.0.1", port)).ok() })
            .await;
    assert_eq!(backend.start(spec.engine_id).await, Err(BackendError::PortTaken(port)));
    drop(stranger);
    backend.start(spec.engine_id).await.expect("the object is still there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_image_ends_promptly_with_the_daemons_words() {
    let Some(world) = OnVolumes::new(CALM).await else { return };
    let settings = DockerSettings { pull: PullPolicy::Never, ..world.settings(world.instance()) };
    let backend = DockerBackend::connect(settings).expect("a socket");
    let missing = backend.ensure_image("september-no-such-image:1").await;
    assert!(
        matches!(&missing, Err(BackendError::ImageMissing(words)) if words.contains("No such image")),
        "{missing:?}"
    );
    let mut spec = spec(&world, 1).await;
    spec.image = "september-no-such-image:1".into();
    backend.ensure_storage(spec.engine_id, true).await.expect("storage is made");
    let missing = backend.create(&spec).await;
    assert!(matches!(missing, Err(BackendError::ImageMissing(_))), "{missing:?}");
    // A registry that is nowhere: refused by the local resolver or a closed port, with no network at all.
    let pulled = world.backend().ensure_image("127.0.0.1:9/september-no-such-image:1").await;
    assert!(matches!(pulled, Err(BackendError::ImageMissing(_))), "{pulled:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_belongs_to_the_images_user_and_is_private() {
    let Some(world) = OnDirectories::new(CALM).await else { return };
    let backend = world.backend();
    let spec = spec(&world, 1).await;
    made(&*backend, &spec).await;
    let (root, _) = world.settings(world.instance()).data_root.expect("directories");
    let found = std::fs::metadata(root.join(spec.engine_id.to_string())).expect("made");
    assert_eq!(found.permissions().mode() & 0o7777, 0o700);
    // Only root may give a directory away.
    if rustix::process::geteuid().is_root() {
        assert_eq!((found.uid(), found.gid()), (10001, 10001));
    }
    backend.destroy(spec.engine_id).await.expect("destroys");
    assert_eq!(std::fs::read_dir(&root).expect("the root stays").count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_network_is_made_once_labelled_and_separates_engines_when_told_to() {
    let Some(world) = OnVolumes::new(CALM).await else { return };
    let settings = DockerSettings { isolate: true, ..world.settings(world.instance()) };
    let name = settings.network.clone();
    let replicas =
        [settings.clone(), settings].map(|settings| DockerBackend::connect(settings).expect("a socket"));
    let (a, b) = (spec(&world, 1).await, spec(&world, 1).await);
    let (one, two) = tokio::join!(
        async {
            replicas[0].ensure_storage(a.engine_id, true).await.expect("made");
            replicas[0].create(&a).await
        },
        async {
            replicas[1].ensure_storage(b.engine_id, true).await.expect("made");
            replicas[1].create(&b).await
        }
    );
    one.and(two).expect("both are made");
    let (_, networks) = world.daemon().call("GET", "/networks", None).await;
    let ours: Vec<_> =
        networks.as_array().expect("a list").iter().filter(|n| n["Name"] == name.as_str()).collect();
    assert_eq!(ours.len(), 1, "{ours:?}");
    assert_eq!(ours[0]["Labels"]["bap-engine/instance"], world.instance().to_string());
    assert_eq!(ours[0]["Options"]["com.docker.network.bridge.enable_icc"], "false");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_has_no_network_and_leaves_nothing_even_when_its_predecessor_was_abandoned() {
    let Some(world) = OnVolumes::new(CALM).await else { return };
    let backend = world.backend();
    let spec = spec(&world, 1).await;
    backend.ensure_storage(spec.engine_id, true).await.expect("storage is made");
    let job = |word: &str| JobSpec { engine: spec.clone(), args: vec![word.to_owned()] };
    // Its caller goes away in the middle; the container goes on.
    let abandoned = tokio::time::timeout(Duration::from_secs(3), backend.run_job(&job("hang"))).await;
    abandoned.expect_err("it hangs");
    assert!(world.traces(spec.engine_id).await.iter().any(|name| name.ends_with("-job")));
    let outcome = backend.run_job(&job("interfaces")).await.expect("runs");
    assert_eq!((outcome.exit_code, outcome.output.trim()), (0, "lo"));
    assert!(!world.traces(spec.engine_id).await.iter().any(|name| name.ends_with("-job")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_nested_profile_is_accepted_by_the_daemon() {
    let Some(world) = OnVolumes::new(CALM).await else { return };
    let backend = world.backend();
    let mut spec = spec(&world, 1).await;
    spec.security = SecurityProfile::Nested;
    made(&*backend, &spec).await;
    let running = state(&*backend, spec.engine_id).await;
    assert!(matches!(running, Some(ObjectState::Running { .. })), "{running:?}");
    let cpus = world.inspect(spec.engine_id).await["HostConfig"]["NanoCpus"].as_i64();
    let host = backend.ping().await.expect("answers").cpus.expect("known");
    assert_eq!(cpus, Some(i64::from(host) * 1_000_000_000), "a thousand processors are capped at the host's");
}

/// What the kernel itself refuses to everybody, no profile can allow.
fn kernel_lets_users_make_namespaces() -> bool {
    let says = |name: &str| std::fs::read_to_string(format!("/proc/sys/{name}")).unwrap_or_default();
    says("kernel/unprivileged_userns_clone").trim() != "0"
        && says("kernel/apparmor_restrict_unprivileged_userns").trim() != "1"
        && says("user/max_user_namespaces").trim() != "0"
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_nested_profile_lets_an_engine_make_user_namespaces() {
    let Some(world) = OnVolumes::new(CALM).await else { return };
    let backend = world.backend();
    let mut spec = spec(&world, 1).await;
    backend.ensure_storage(spec.engine_id, true).await.expect("storage is made");
    let job = |spec: &EngineSpec| JobSpec { engine: spec.clone(), args: vec!["namespaces".to_owned()] };
    let hardened = backend.run_job(&job(&spec)).await.expect("runs");
    assert!(hardened.output.starts_with("unshare: Operation not permitted"), "{}", hardened.output);
    spec.security = SecurityProfile::Nested;
    let nested = backend.run_job(&job(&spec)).await.expect("runs");
    if kernel_lets_users_make_namespaces() {
        assert_eq!((nested.exit_code, nested.output.trim()), (0, "made"));
    } else {
        assert_eq!(nested.exit_code, 3, "{}", nested.output);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn list_and_observe_agree_by_network_address() {
    let Some(world) = OnVolumes::new(CALM).await else { return };
    let settings = DockerSettings { probe_by: ProbeAddress::Network, ..world.settings(world.instance()) };
    let backend = DockerBackend::connect(settings).expect("a socket");
    let spec = spec(&world, 1).await;
    made(&backend, &spec).await;
    let Some(ObjectState::Running { address: Some(address), .. }) = state(&backend, spec.engine_id).await
    else {
        panic!("it runs and has an address");
    };
    assert_eq!(address.port(), 8000);
    eventually("it answers there", || async {
        (world.get(address, "/health").await.status() == Some(200)).then_some(())
    })
    .await;
    let seen = backend.observe(spec.engine_id).await.expect("observes");
    for _ in 0..2 {
        assert_eq!(backend.list().await, Ok(vec![(spec.engine_id, seen.clone())]));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_restarts_or_hangs_is_found_again() {
    let Some(mut daemon) = OwnDaemon::start().await else { return };
    let settings = DockerSettings {
        host: Some(daemon.host()),
        tls: None,
        registry_config: None,
        instance: contract::InstanceId::generate(),
        network: "engine_net".into(),
        isolate: false,
        data_root: None,
        pull: PullPolicy::Never,
        pull_timeout: SOON,
        call_timeout: Duration::from_secs(6),
        probe_by: ProbeAddress::Network,
        self_container: None,
    };
    let backend = DockerBackend::connect(settings).expect("a socket");
    let (id, mut events) = (EngineId::generate(), backend.events());
    let before = backend.ping().await.expect("answers");
    let gap = tokio::time::timeout(SOON, events.next()).await.expect("in time").expect("endless");
    assert_eq!(gap.kind, BackendEventKind::Gap);
    backend.ensure_storage(id, true).await.expect("storage is made");

    daemon.stop().await;
    let gone = backend.observe(id).await;
    assert!(matches!(gone, Err(BackendError::Unreachable(_))), "{gone:?}");
    daemon.start_again().await;
    assert_eq!(backend.ping().await, Ok(before.clone()), "the same daemon");
    assert_eq!(backend.observe(id).await, Ok(Observation::Absent));
    assert_eq!(backend.storage_exists(id).await, Ok(true));
    let gap = tokio::time::timeout(SOON, events.next()).await.expect("reconnects").expect("endless");
    assert_eq!(gap, backends::BackendEvent { engine: None, kind: BackendEventKind::Gap });

    daemon.signal(Signal::STOP);
    assert_eq!(backend.observe(id).await, Err(BackendError::TimedOut { call: "observe", limit_ms: 1000 }));
    daemon.signal(Signal::CONT);
    eventually("it goes on", || async { backend.ping().await.ok() }).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unlabelled_container_of_that_name_is_a_stranger() {
    let Some(world) = OnVolumes::new(CALM).await else { return };
    let backend = world.backend();
    let spec = spec(&world, 1).await;
    backend.ensure_storage(spec.engine_id, true).await.expect("storage is made");
    let path = format!("/containers/create?name=engine-{}", spec.engine_id.short());
    let body = json!({"Image": world.image(), "HostConfig": {"NetworkMode": "none"}});
    let (status, answer) = world.daemon().call("POST", &path, Some(body)).await;
    assert_eq!(status, 201, "{answer}");
    let stranger = answer["Id"].as_str().expect("an id").to_owned();
    assert_eq!(backend.observe(spec.engine_id).await, Ok(Observation::Absent));
    let refused = backend.create(&spec).await;
    let destroyed = backend.destroy(spec.engine_id).await;
    let there = world.daemon().call("GET", &format!("/containers/{stranger}/json"), None).await.0;
    world.daemon().call("DELETE", &format!("/containers/{stranger}?force=true"), None).await;
    assert!(matches!(refused, Err(BackendError::Conflict(_))), "{refused:?}");
    assert!(matches!(destroyed, Err(BackendError::Conflict(_))), "{destroyed:?}");
    assert_eq!((there, backend.storage_exists(spec.engine_id).await), (200, Ok(true)));
}
