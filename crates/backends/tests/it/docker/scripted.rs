//! What no real daemon does on demand: a full network, an old version, a daemon that says strange things.

use backends::{
    BackendError, BackendEventKind, DockerBackend, DockerSettings, EngineBackend, JobSpec, ProbeAddress,
    PullPolicy,
};
use contract::{EngineId, InstanceId, ProductId};
use fleet::spec::{EngineEnv, EngineSpec, Resources, SecurityProfile};
use futures::StreamExt;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use testbed::docker::{ScriptedDaemon, Served};

fn settings(host: &str) -> DockerSettings {
    DockerSettings {
        host: Some(host.to_owned()),
        tls: None,
        registry_config: None,
        instance: InstanceId::generate(),
        network: "engine_net".into(),
        isolate: true,
        data_root: None,
        pull: PullPolicy::Missing,
        pull_timeout: Duration::from_secs(10),
        call_timeout: Duration::from_secs(12),
        probe_by: ProbeAddress::Network,
        self_container: Some("me".into()),
    }
}

fn spec(instance: InstanceId) -> EngineSpec {
    EngineSpec {
        instance,
        engine_id: EngineId::generate(),
        product_id: ProductId::generate(),
        generation: 1,
        spec_hash: "0123456789abcdef".into(),
        image: "september-engine:1".into(),
        env: EngineEnv(BTreeMap::from([("LLM_API_KEY".into(), "sk-very-secret".into())])),
        port: Some(9001),
        catalog: None,
        resources: Resources { memory_mb: 256, cpus: 0.0, pids: 64 },
        security: SecurityProfile::Hardened,
    }
}

fn version(api: &str) -> Served {
    Served::Answer(200, json!({"ApiVersion": api, "MinAPIVersion": "1.12"}))
}

fn absent(what: &str) -> Served {
    Served::Answer(404, json!({"message": format!("No such {what}")}))
}

/// Everything `create` asks before the container itself, and a network with that many endpoints.
fn before_create(path: &str, endpoints: usize) -> Served {
    let containers: serde_json::Map<String, Value> =
        (0..endpoints).map(|n| (format!("c{n}"), json!({}))).collect();
    match path.trim_start_matches("/v1.41") {
        "/version" => version("1.41"),
        path if path.starts_with("/images/") => Served::Answer(200, json!({"Id": "sha256:1", "Config": {}})),
        path if path.starts_with("/volumes/") => Served::Answer(
            200,
            json!({"Name": "v", "Driver": "local", "Mountpoint": "/", "Labels": null, "Scope": "local", "Options": null}),
        ),
        path if path.starts_with("/networks?") => Served::Answer(
            200,
            json!([{"Name": "engine_net", "Id": "n"}, {"Name": "engine_net_2", "Id": "n2"}]),
        ),
        "/networks/n" => {
            Served::Answer(200, json!({"Name": "engine_net", "Id": "n", "Containers": containers}))
        }
        _ => absent("container"),
    }
}

#[tokio::test]
async fn a_network_with_900_endpoints_is_full() {
    for (endpoints, full) in [(899, false), (900, true)] {
        let daemon = ScriptedDaemon::serve(move |method, path, _| match (method, path) {
            ("POST", _) => Served::Answer(500, json!({"message": "made"})),
            _ => before_create(path, endpoints),
        });
        let settings = settings(&daemon.host());
        let spec = spec(settings.instance);
        let backend = DockerBackend::connect(settings).expect("a socket");
        let made = backend.create(&spec).await;
        match made {
            Err(BackendError::Capacity(words)) if full => assert!(words.contains("900"), "{words}"),
            Err(BackendError::Refused(words)) if !full => assert_eq!(words, "made"),
            other => panic!("{endpoints} endpoints: {other:?}"),
        }
    }
}

/// Health is asked over the network by the orchestrator: the daemon is told to run no checks, also none of the image's,
/// and is never asked to start anything inside an engine's container.
#[tokio::test]
async fn no_probe_inside_containers() {
    let (seen, made) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Vec::new())));
    let (log, bodies) = (Arc::clone(&seen), Arc::clone(&made));
    let daemon = ScriptedDaemon::serve(move |method, path, body| {
        log.lock().expect("no panic").push(format!("{method} {path}"));
        match (method, path.trim_start_matches("/v1.41")) {
            ("POST", path) if path.starts_with("/containers/create") => {
                bodies.lock().expect("no panic").push(serde_json::from_slice::<Value>(body).expect("JSON"));
                Served::Answer(201, json!({"Id": "c1", "Warnings": []}))
            }
            ("POST", path) if path.ends_with("/wait") => Served::Answer(200, json!({"StatusCode": 0})),
            ("POST", _) => Served::Answer(200, json!({})),
            _ => before_create(path, 1),
        }
    });
    let settings = settings(&daemon.host());
    let spec = spec(settings.instance);
    let id = spec.engine_id;
    let backend = DockerBackend::connect(settings).expect("a socket");
    let _ = backend.create(&spec).await;
    let job = JobSpec { engine: spec.clone(), args: vec!["verify".into(), "/data/brain.sqlite".into()] };
    let _ = backend.run_job(&job).await;
    let _ = (backend.start(id).await, backend.observe(id).await, backend.list().await);
    let _ = (backend.freeze(id).await, backend.thaw(id).await, backend.tail(id, 10).await);
    let _ = (backend.stop(id, Duration::from_secs(1)).await, backend.ping().await, backend.remove(id).await);
    let (seen, made) = (seen.lock().expect("no panic").clone(), made.lock().expect("no panic").clone());
    assert!(seen.len() > 10, "the script was not followed: {seen:?}");
    assert!(seen.iter().all(|call| !call.contains("/exec")), "{seen:?}");
    let roles: Vec<&Value> = made.iter().map(|body| &body["Labels"]["bap-engine/role"]).collect();
    assert!(roles.contains(&&json!("engine")) && roles.contains(&&json!("job")), "{roles:?}: {seen:?}");
    for body in &made {
        assert_eq!(body["Healthcheck"]["Test"], json!(["NONE"]), "{body}");
    }
}

#[tokio::test]
async fn room_is_asked_of_the_daemon_once_per_burst_and_makes_nothing() {
    for (endpoints, full) in [(899, false), (900, true)] {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        let daemon = ScriptedDaemon::serve(move |method, path, _| {
            log.lock().expect("no panic").push(format!("{method} {path}"));
            before_create(path, endpoints)
        });
        let backend = DockerBackend::connect(settings(&daemon.host())).expect("a socket");
        let answers = futures::future::join_all((0..50).map(|_| backend.room())).await;
        for answer in answers {
            match answer {
                Err(BackendError::Capacity(words)) if full => assert!(words.contains("900"), "{words}"),
                Ok(()) if !full => {}
                other => panic!("{endpoints} endpoints: {other:?}"),
            }
        }
        let seen = seen.lock().expect("no panic").clone();
        assert!(seen.iter().all(|call| call.starts_with("GET ")), "{seen:?}");
        // The burst may be longer than the answer is good on a busy machine, but not fifty times.
        let looks = seen.iter().filter(|call| call.ends_with("/networks/n")).count();
        assert!((1..=10).contains(&looks), "{looks} looks for fifty callers: {seen:?}");
    }
}

#[tokio::test]
async fn a_small_network_is_full_when_its_addresses_are_and_a_missing_one_has_room() {
    for (endpoints, full) in [(252, false), (253, true)] {
        let daemon = ScriptedDaemon::serve(move |_, path, _| {
            let mut served = before_create(path, endpoints);
            if let (Served::Answer(_, shown), true) = (&mut served, path.ends_with("/networks/n")) {
                shown["IPAM"] = json!({"Config": [{"Subnet": "10.9.0.0/24", "Gateway": "10.9.0.1"}]});
            }
            served
        });
        let backend = DockerBackend::connect(settings(&daemon.host())).expect("a socket");
        let room = backend.room().await;
        match room {
            Err(BackendError::Capacity(words)) if full => assert!(words.contains("at most 253"), "{words}"),
            Ok(()) if !full => {}
            other => panic!("{endpoints} endpoints: {other:?}"),
        }
    }
    let daemon = ScriptedDaemon::serve(|_, path, _| match path {
        "/version" => version("1.41"),
        path if path.contains("/networks?") => Served::Answer(200, json!([])),
        _ => absent("network"),
    });
    let backend = DockerBackend::connect(settings(&daemon.host())).expect("a socket");
    assert_eq!(backend.room().await, Ok(()));
    let away = DockerBackend::connect(settings("unix:///nowhere/docker.sock")).expect("needs no daemon");
    assert!(away.room().await.is_err_and(|error| error.is_transient()), "silence is not room");
}

#[tokio::test]
async fn of_two_networks_of_one_name_the_younger_of_ours_goes_and_a_strangers_stays() {
    for ours in [true, false] {
        let settings_of = |host: &str, instance| DockerSettings { instance, ..settings(host) };
        let (instance, removed) = (InstanceId::generate(), Arc::new(Mutex::new(Vec::new())));
        let label = if ours { instance } else { InstanceId::generate() };
        let gone = Arc::clone(&removed);
        let daemon = ScriptedDaemon::serve(move |method, path, _| {
            let mut gone = gone.lock().expect("no panic");
            match (method, path.trim_start_matches("/v1.41")) {
                ("DELETE", path) => {
                    gone.push(path.to_owned());
                    Served::Answer(204, Value::Null)
                }
                ("POST", _) => Served::Answer(500, json!({"message": "made"})),
                (_, listed) if listed.starts_with("/networks?") => {
                    let network = |id: &str, created: &str| {
                        json!({"Name": "engine_net", "Id": id, "Created": created,
                               "Labels": {"bap-engine/instance": label.to_string()}})
                    };
                    let first = network("n", "2026-01-02T03:04:05.1Z");
                    let second = network("younger", "2026-01-02T03:04:05.25Z");
                    let both = if gone.is_empty() { json!([second, first]) } else { json!([first]) };
                    Served::Answer(200, both)
                }
                _ => before_create(path, 0),
            }
        });
        let backend = DockerBackend::connect(settings_of(&daemon.host(), instance)).expect("a socket");
        let refused = backend.create(&spec(instance)).await.expect_err("nothing is made here");
        let removed = removed.lock().expect("no panic").clone();
        if ours {
            assert_eq!(
                (refused, removed),
                (BackendError::Refused("made".into()), vec!["/networks/younger".into()])
            );
        } else {
            assert!(
                refused.to_string().contains("several networks") && removed.is_empty(),
                "{refused} {removed:?}"
            );
        }
    }
}

#[tokio::test]
async fn of_two_networks_of_ours_the_one_that_is_used_stays() {
    let (instance, removed) = (InstanceId::generate(), Arc::new(Mutex::new(Vec::new())));
    let gone = Arc::clone(&removed);
    let daemon = ScriptedDaemon::serve(move |method, path, _| {
        let mut gone = gone.lock().expect("no panic");
        match (method, path.trim_start_matches("/v1.41")) {
            ("DELETE", "/networks/n") => Served::Answer(
                403,
                json!({"message": "error while removing network: network engine_net id n has active endpoints"}),
            ),
            ("DELETE", path) => {
                gone.push(path.to_owned());
                Served::Answer(204, Value::Null)
            }
            ("POST", _) => Served::Answer(500, json!({"message": "made"})),
            (_, listed) if listed.starts_with("/networks?") => {
                let network = |id: &str, created: &str| {
                    json!({"Name": "engine_net", "Id": id, "Created": created,
                           "Labels": {"bap-engine/instance": instance.to_string()}})
                };
                let older = network("older", "2026-01-02T03:04:05.1Z");
                let used = network("n", "2026-01-02T03:04:05.25Z");
                Served::Answer(200, if gone.is_empty() { json!([used, older]) } else { json!([used]) })
            }
            _ => before_create(path, 1),
        }
    });
    let settings = DockerSettings { instance, ..settings(&daemon.host()) };
    let backend = DockerBackend::connect(settings).expect("a socket");
    let refused = backend.create(&spec(instance)).await.expect_err("nothing is made here");
    assert_eq!(refused, BackendError::Refused("made".into()), "there is one network now, and it is used");
    assert_eq!(*removed.lock().expect("no panic"), ["/networks/older"]);
}

#[tokio::test]
async fn words_of_the_daemon_never_carry_values_of_the_environment() {
    let daemon = ScriptedDaemon::serve(|method, path, body| match method {
        "POST" => {
            let env = serde_json::from_slice::<Value>(body).expect("JSON")["Env"].clone();
            Served::Answer(400, json!({"message": format!("bad environment {env}")}))
        }
        _ => before_create(path, 0),
    });
    let settings = settings(&daemon.host());
    let spec = spec(settings.instance);
    let refused =
        DockerBackend::connect(settings).expect("a socket").create(&spec).await.expect_err("refused");
    let words = refused.to_string();
    assert!(words.contains("LLM_API_KEY=[redacted]") && !words.contains("sk-very-secret"), "{words}");
}

#[tokio::test]
async fn a_daemon_that_is_too_old_is_named_and_every_request_carries_the_agreed_version() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (log, calls) = (Arc::clone(&seen), AtomicUsize::new(0));
    let daemon = ScriptedDaemon::serve(move |_, path, _| {
        log.lock().expect("no panic").push(path.to_owned());
        match path {
            "/version" if calls.fetch_add(1, Ordering::SeqCst) == 0 => version("1.40"),
            "/version" => version("1.44"),
            _ => absent("container"),
        }
    });
    let backend = DockerBackend::connect(settings(&daemon.host())).expect("a socket");
    let refused = backend.observe(EngineId::generate()).await.expect_err("too old");
    assert!(refused.to_string().contains("1.41 or later"), "{refused}");
    backend.observe(EngineId::generate()).await.expect("updated");
    backend.observe(EngineId::generate()).await.expect("agreed already");
    let seen = seen.lock().expect("no panic").clone();
    assert_eq!(seen.iter().filter(|path| *path == "/version").count(), 2, "{seen:?}");
    assert!(seen[2..].iter().all(|path| path.starts_with("/v1.44/containers/engine-")), "{seen:?}");
}

#[tokio::test]
async fn a_missing_image_is_pulled_by_policy_and_says_why_it_could_not_be() {
    for (policy, pulls) in [(PullPolicy::Never, 0), (PullPolicy::Missing, 1), (PullPolicy::Always, 1)] {
        let pulled = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&pulled);
        let daemon = ScriptedDaemon::serve(move |method, path, _| match (method, path) {
            (_, "/version") => version("1.41"),
            ("POST", "/v1.41/images/create?fromImage=registry.example%2Fengine&tag=7&platform=") => {
                count.fetch_add(1, Ordering::SeqCst);
                Served::Answer(
                    200,
                    json!({"errorDetail": {"message": "no such host"}, "error": "no such host"}),
                )
            }
            ("POST", other) => Served::Answer(400, json!({"message": other})),
            _ => absent("image: registry.example/engine:7"),
        });
        let settings = DockerSettings { pull: policy, ..settings(&daemon.host()) };
        let backend = DockerBackend::connect(settings).expect("a socket");
        let missing = backend.ensure_image("registry.example/engine:7").await;
        let words = if pulls == 0 { "No such image" } else { "no such host" };
        assert!(
            matches!(&missing, Err(BackendError::ImageMissing(said)) if said.contains(words)),
            "{missing:?}"
        );
        assert_eq!(pulled.load(Ordering::SeqCst), pulls, "{policy:?}");
    }
}

#[tokio::test]
async fn a_proxy_without_a_daemon_behind_it_is_silence() {
    let daemon = ScriptedDaemon::serve(|_, path, _| match path {
        "/version" => version("1.41"),
        _ => Served::Answer(503, json!({"message": "no server is available"})),
    });
    let backend = DockerBackend::connect(settings(&daemon.host())).expect("a socket");
    let silence = backend.observe(EngineId::generate()).await;
    assert!(matches!(silence, Err(BackendError::Unreachable(_))), "{silence:?}");
}

#[tokio::test]
async fn a_daemon_that_never_answers_ends_each_call_at_its_deadline() {
    let daemon = ScriptedDaemon::serve(|_, _, _| Served::Silence);
    let settings = DockerSettings { call_timeout: Duration::from_millis(600), ..settings(&daemon.host()) };
    let spec = spec(settings.instance);
    let backend = DockerBackend::connect(settings).expect("a socket");
    let id = spec.engine_id;
    let timed_out = |call, limit_ms| Err::<(), _>(BackendError::TimedOut { call, limit_ms });
    assert_eq!(backend.observe(id).await.map(drop), timed_out("observe", 100));
    assert_eq!(backend.ping().await.map(drop), timed_out("ping", 100));
    assert_eq!(backend.room().await, timed_out("room", 100));
    assert_eq!(backend.freeze(id).await, timed_out("freeze", 100));
    assert_eq!(backend.thaw(id).await, timed_out("thaw", 100));
    assert_eq!(backend.list().await.map(drop), timed_out("list", 300));
    assert_eq!(backend.start(id).await.map(drop), timed_out("start", 600));
    assert_eq!(backend.create(&spec).await.map(drop), timed_out("create", 1200));
    assert_eq!(backend.remove(id).await, timed_out("remove", 1200));
    assert_eq!(backend.destroy(id).await, timed_out("destroy", 1200));
}

#[tokio::test]
async fn whether_we_run_on_the_engines_network_is_read_from_our_own_container() {
    let daemon = ScriptedDaemon::serve(|_, path, _| match path {
        "/version" => version("1.41"),
        "/v1.41/containers/me/json" => {
            Served::Answer(200, json!({"Id": "me", "NetworkSettings": {"Networks": {"engine_net": {}}}}))
        }
        _ => absent("container"),
    });
    let on = DockerBackend::connect(settings(&daemon.host())).expect("a socket");
    assert_eq!(on.runs_on_network().await, Ok(true));
    for (self_container, network) in
        [(None, "engine_net"), (Some("me"), "other"), (Some("gone"), "engine_net")]
    {
        let settings = DockerSettings {
            self_container: self_container.map(str::to_owned),
            network: network.into(),
            ..settings(&daemon.host())
        };
        assert_eq!(DockerBackend::connect(settings).expect("a socket").runs_on_network().await, Ok(false));
    }
}

#[tokio::test]
async fn without_a_socket_every_call_fails_at_once() {
    let backend = DockerBackend::connect(settings("unix:///nowhere/docker.sock")).expect("needs no daemon");
    for _ in 0..3 {
        let gone = backend.observe(EngineId::generate()).await;
        assert!(
            matches!(&gone, Err(BackendError::Unreachable(why)) if why.contains("No such file")),
            "{gone:?}"
        );
    }
}

#[tokio::test]
async fn a_daemon_that_is_away_is_asked_for_events_less_and_less_often() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let daemon = ScriptedDaemon::serve(move |_, _, _| {
        count.fetch_add(1, Ordering::SeqCst);
        Served::Answer(503, json!({"message": "no server is available"}))
    });
    let backend = DockerBackend::connect(settings(&daemon.host())).expect("a socket");
    let mut events = backend.events();
    let began = std::time::Instant::now();
    let fifth = async {
        while asked.load(Ordering::SeqCst) < 5 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        event = events.next() => panic!("{event:?} without a daemon"),
        () = fifth => {}
    }
    assert!(began.elapsed() >= Duration::from_millis(100 + 200 + 400 + 800), "{:?}", began.elapsed());
}

#[tokio::test]
async fn each_connection_of_the_event_stream_begins_with_a_gap() {
    let engine = EngineId::generate();
    let daemon = ScriptedDaemon::serve(move |_, path, _| match path {
        "/version" => version("1.41"),
        "/v1.41/info" => Served::Answer(200, json!({"SystemTime": "2026-01-02T03:04:05.678Z"})),
        path if path.starts_with("/v1.41/events?since=1767323045.678000000&") => Served::Answer(
            200,
            json!({"Type": "container", "Action": "oom",
                   "Actor": {"ID": "c", "Attributes": {"bap-engine/engine-id": engine.to_string()}}}),
        ),
        other => Served::Answer(400, json!({"message": other})),
    });
    let backend = DockerBackend::connect(settings(&daemon.host())).expect("a socket");
    let heard: Vec<_> = backend.events().take(4).map(|event| (event.engine, event.kind)).collect().await;
    let once = [(None, BackendEventKind::Gap), (Some(engine), BackendEventKind::Oom)];
    assert_eq!(heard, [once, once].concat());
}
