//! Rules 12 to 20: what the place shows, when it is away, and what it keeps to itself.

use super::words::*;
use crate::conformance::Place;
use backends::{BackendError, BackendEvent, BackendEventKind, JobSpec, ProbeReply};
use contract::InstanceId;
use fleet::observation::{ObjectState, Observation};
use futures::StreamExt;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

/// 12
pub async fn observation_matches_reality_after_outside_change<P: Place>() {
    let place = P::fresh(CALM).await;
    let backend = place.backend();
    let spec = running(&place, &*backend, 1).await;
    let id = spec.engine_id;
    let before = object(&*backend, id).await;
    place.kill_outside(id).await;
    eventually("the end is seen", || async {
        let now = object(&*backend, id).await;
        assert_eq!(now.generation, before.generation);
        // a place may bring it back by itself; then it is another run
        let ended =
            matches!(now.state, ObjectState::Exited { code: Some(137), .. } | ObjectState::Restarting { .. });
        let another_run = matches!(now.state, ObjectState::Running { .. }) && now.state != before.state;
        (ended || (backend.capabilities().self_restarts && another_run)).then_some(())
    })
    .await;
    place.remove_object_outside(id).await;
    eventually("the absence is seen", || async {
        (seen(&*backend, id).await == Observation::Absent).then_some(())
    })
    .await;
    assert!(listed(&*backend, id).await.is_empty());
    assert!(backend.storage_exists(id).await.expect("looks"));
    let again = create(&place, &*backend, &at_generation(&spec, 2)).await;
    assert_ne!(again.container_id, before.container_id);
}

/// 13
pub async fn list_sees_every_state_and_only_our_instance<P: Place>() {
    let place = P::fresh(CALM).await;
    let (backend, other) = (place.backend(), InstanceId::generate());
    assert_eq!(backend.list().await.expect("lists"), Vec::new());
    let stranger = place.another(other).await;
    let mut foreign = spec_of(&place, 1).await;
    foreign.instance = other;
    with_storage(&*stranger, &foreign).await;
    create(&place, &*stranger, &foreign).await;

    let runs = running(&place, &*backend, 5).await;
    let ended = running(&place, &*backend, 1).await;
    backend.stop(ended.engine_id, GRACE).await.expect("stops");
    let removed = running(&place, &*backend, 1).await;
    backend.remove(removed.engine_id).await.expect("removes");
    let mut expected = vec![(runs.engine_id, "running"), (ended.engine_id, "exited")];
    if backend.capabilities().freeze {
        let frozen = running(&place, &*backend, 1).await;
        backend.freeze(frozen.engine_id).await.expect("freezes");
        expected.push((frozen.engine_id, "paused"));
    }
    expected.sort();

    let mut list = backend.list().await.expect("lists");
    list.sort_by_key(|(id, _)| *id);
    let words: Vec<_> = list.iter().map(|(id, seen)| (*id, seen.word())).collect();
    assert_eq!(words, expected);
    for (id, listed) in list {
        assert_eq!(listed, seen(&*backend, id).await, "list and observe agree");
    }
    let (_, of_running) = stranger.list().await.expect("lists").remove(0);
    assert!(of_running.is_running());
    let theirs = stranger.list().await.expect("lists");
    assert_eq!(theirs.iter().map(|(id, _)| *id).collect::<Vec<_>>(), vec![foreign.engine_id]);
}

/// 14
pub async fn unreachable_is_an_error_not_absent<P: Place>() {
    let place = P::fresh(HASTY * 5).await;
    let backend = place.backend();
    let spec = running(&place, &*backend, 1).await;
    let id = spec.engine_id;
    let before = seen(&*backend, id).await;
    place.make_unreachable().await;
    let mut errors = vec![
        ("observe", backend.observe(id).await.err()),
        ("is_running", backend.is_running(id).await.err()),
        ("list", backend.list().await.err()),
        ("storage_exists", backend.storage_exists(id).await.err()),
        ("ensure_storage", backend.ensure_storage(id, true).await.err()),
        ("create", backend.create(&at_generation(&spec, 2)).await.err()),
        ("stop", backend.stop(id, Duration::ZERO).await.err()),
        ("remove", backend.remove(id).await.err()),
        ("destroy", backend.destroy(id).await.err()),
        ("ping", backend.ping().await.err()),
    ];
    if backend.capabilities().freeze {
        errors.push(("freeze", backend.freeze(id).await.err()));
    }
    place.heal().await;
    for (call, error) in errors {
        let error = error.unwrap_or_else(|| panic!("{call} answered without the place"));
        assert!(error.is_transient(), "{call}: {error}");
    }
    let after = eventually("the place answers again", || async { backend.observe(id).await.ok() }).await;
    assert_eq!(after, before, "nothing was lost");
    healthy(&place, &*backend, id).await;
}

/// 15
pub async fn events_are_hints_relist_repairs<P: Place>() {
    let place = P::fresh(CALM).await;
    let backend = place.backend();
    let mut events = backend.events();
    hears(&mut events, None, BackendEventKind::Gap).await;
    let spec = running(&place, &*backend, 1).await;
    let id = spec.engine_id;
    hears(&mut events, Some(id), BackendEventKind::Start).await;
    place.kill_outside(id).await;
    hears(&mut events, Some(id), BackendEventKind::Die).await;

    // nobody listens: what happened is in the list
    drop(events);
    let other = running(&place, &*backend, 1).await;
    backend.stop(other.engine_id, GRACE).await.expect("stops");
    let words: Vec<_> = listed(&*backend, other.engine_id).await.iter().map(Observation::word).collect();
    assert_eq!(words, vec!["exited"]);

    // a new subscriber, and one that was interrupted, are told to look for themselves; then events go on
    let mut events = backend.events();
    hears(&mut events, None, BackendEventKind::Gap).await;
    place.cut_events().await;
    let third = running(&place, &*backend, 1).await;
    eventually("the list repairs what events missed", || async {
        listed(&*backend, third.engine_id).await.first().is_some_and(Observation::is_running).then_some(())
    })
    .await;
    let begun = Instant::now();
    loop {
        let spec = running(&place, &*backend, 1).await;
        let start = BackendEvent { engine: Some(spec.engine_id), kind: BackendEventKind::Start };
        let heard = async { while events.next().await.is_some_and(|event| event != start) {} };
        // it reconnects in its own time: a short wait per try, many tries
        if tokio::time::timeout(Duration::from_secs(2), heard).await.is_ok() {
            return;
        }
        assert!(begun.elapsed() < SOON, "no events after an interruption");
    }
}

/// 16
pub async fn a_hung_call_ends_at_its_deadline<P: Place>() {
    let place = P::fresh(HASTY).await;
    let backend = place.backend();
    let spec = spec_of(&place, 1).await;
    let id = spec.engine_id;
    // the place is slow on a busy machine, and deadlines are short here: repeat until it is up
    eventually("an engine in spite of short deadlines", || async {
        backend.ensure_image(&spec.image).await.ok()?;
        backend.ensure_storage(id, true).await.ok()?;
        backend.create(&spec).await.ok()
    })
    .await;
    place.make_hang(id).await;
    /// A busy machine is late, but not that much.
    const LATE: Duration = Duration::from_secs(5);
    let begun = Instant::now();
    let observed = backend.observe(id).await;
    let observing = begun.elapsed();
    let begun = Instant::now();
    let created = backend.create(&at_generation(&spec, 2)).await;
    let creating = begun.elapsed();
    place.heal().await;
    assert!(observed.as_ref().is_err_and(BackendError::is_transient), "{observed:?}");
    assert!(observing < HASTY / 6 + LATE, "{observing:?}");
    assert!(created.as_ref().is_err_and(BackendError::is_transient), "{created:?}");
    assert!(creating < HASTY * 2 + LATE, "{creating:?}");
    eventually("the place answers again", || async { backend.observe(id).await.ok() }).await;
}

/// 17
pub async fn endpoint_answers_health<P: Place>() {
    let place = P::fresh(CALM).await;
    let backend = place.backend();
    let spec = spec_of(&place, 1).await;
    with_storage(&*backend, &spec).await;
    let endpoint = backend.create(&spec).await.expect("creates");
    let made = healthy(&place, &*backend, spec.engine_id).await;
    assert_eq!(endpoint.container_id.as_deref(), Some(made.container_id.as_str()));
    let ip = endpoint.host.parse().expect("an IP literal here");
    for address in [SocketAddr::new(ip, endpoint.port), address_of(&made).expect("it runs")] {
        let ProbeReply::Answer { status, body } = place.get(address, "/health").await else {
            panic!("no answer at {address}");
        };
        let body: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!((status, body["status"].as_str()), (200, Some("ok")));
    }
    if backend.capabilities().host_ports {
        assert_eq!((endpoint.host.as_str(), Some(endpoint.port)), ("127.0.0.1", spec.port));
        let mut rival = spec_of(&place, 1).await;
        rival.port = spec.port;
        with_storage(&*backend, &rival).await;
        let taken = backend.create(&rival).await;
        assert_eq!(taken, Err(BackendError::PortTaken(endpoint.port)));
        assert!(!backend.is_running(rival.engine_id).await.expect("looks"));
    }
    assert!(!backend.tail(spec.engine_id, 20).await.expect("reads the log").is_empty());
}

/// 18
pub async fn env_labels_mounts_are_exactly_these<P: Place>() {
    let place = P::fresh(CALM).await;
    let backend = place.backend();
    let spec = running(&place, &*backend, 9).await;
    let shape = place.shape(&spec).await;
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/it/golden/{}.txt", P::GOLDEN));
    let expected = std::fs::read_to_string(&golden).unwrap_or_default();
    assert!(shape.trim() == expected.trim(), "{} differs; the place shows:\n{shape}", golden.display());
}

/// 19
pub async fn job_runs_on_stopped_storage_only<P: Place>() {
    let place = P::fresh(CALM).await;
    let backend = place.backend();
    let spec = running(&place, &*backend, 1).await;
    let id = spec.engine_id;
    let job = |args: &[&str]| JobSpec {
        engine: spec.clone(),
        args: args.iter().map(|&arg| arg.to_owned()).collect(),
    };
    let verify = job(&["verify", "/data/brain.sqlite"]);
    let refused = backend.run_job(&verify).await;
    assert!(matches!(refused, Err(BackendError::Refused(_) | BackendError::Conflict(_))), "{refused:?}");
    healthy(&place, &*backend, id).await;

    backend.stop(id, GRACE).await.expect("stops");
    let before = seen(&*backend, id).await;
    for _ in 0..2 {
        let outcome = backend.run_job(&verify).await.expect("runs");
        assert_eq!(outcome.exit_code, 0, "{}", outcome.output);
        assert!(outcome.output.contains("ok"), "{}", outcome.output);
    }
    let copied = backend.run_job(&job(&["backup", "/data/backups/copy"])).await.expect("runs");
    assert_eq!(copied.exit_code, 0, "{}", copied.output);
    assert!(!text_of(&*backend, id, "/data/backups/copy").await.is_empty());
    let wrong = backend.run_job(&job(&["verify", "/data/backups/none"])).await.expect("runs");
    assert_eq!(wrong.exit_code, 3, "{}", wrong.output);
    assert_eq!(seen(&*backend, id).await, before, "a job is not the engine's object");
    assert_eq!(listed(&*backend, id).await, vec![before]);

    backend.remove(id).await.expect("removes");
    let outcome = backend.run_job(&verify).await.expect("runs without an object");
    assert_eq!(outcome.exit_code, 0, "{}", outcome.output);
    backend.destroy(id).await.expect("destroys");
    let missing = backend.run_job(&verify).await.expect_err("no storage, no job");
    assert!(is_missing(&missing), "{missing:?}");
    assert_eq!(place.traces(id).await, Vec::<String>::new());
}

/// 20
pub async fn secrets_appear_only_where_the_contract_puts_them<P: Place>() {
    let place = P::fresh(CALM).await;
    let backend = place.backend();
    let spec = running(&place, &*backend, 1).await;
    let id = spec.engine_id;
    let env = place.environment(id).await;
    assert_eq!(env.get("LLM_API_KEY").map(String::as_str), Some(SECRET), "the contract puts it here");
    let mut public = vec![
        place.public_text(id).await,
        format!("{spec:?}"),
        format!("{:?}", seen(&*backend, id).await),
        format!("{:?}", backend.list().await),
        format!("{:?}", backend.ping().await),
        backend.tail(id, 1000).await.expect("reads the log"),
    ];
    let job = |args: &[&str]| JobSpec {
        engine: spec.clone(),
        args: args.iter().map(|&arg| arg.to_owned()).collect(),
    };
    public.push(format!("{:?}", backend.run_job(&job(&["verify", "/data/brain.sqlite"])).await));
    backend.stop(id, GRACE).await.expect("stops");
    public.push(format!("{:?}", backend.run_job(&job(&["verify", "/data/brain.sqlite"])).await));
    public.push(format!("{:?}", backend.run_job(&job(&["nonsense"])).await));
    public.push(format!("{:?}", backend.create(&at_generation(&spec, 0)).await));
    public.push(place.public_text(id).await);
    for text in public {
        assert!(!text.contains(SECRET), "{text}");
        assert!(!text.contains(&"ab".repeat(32)), "{text}");
    }
}

/// 21
pub async fn room_is_told_before_anything_is_made<P: Place>() {
    let place = P::fresh(CALM).await;
    let backend = place.backend();
    assert_eq!(backend.room().await, Ok(()), "an empty place has room");
    assert_eq!(backend.list().await.expect("lists"), Vec::new(), "asking makes nothing");
    if !place.narrow().await {
        running(&place, &*backend, 1).await;
        assert_eq!(backend.room().await, Ok(()), "nothing limits this place");
        return;
    }
    let first = running(&place, &*backend, 1).await;
    let second = spec_of(&place, 1).await;
    with_storage(&*backend, &second).await;
    let full = |answer: &Result<(), BackendError>| matches!(answer, Err(BackendError::Capacity(_)));
    eventually("it is full", || async { full(&backend.room().await).then_some(()) }).await;
    let refused = backend.create(&second).await.map(drop);
    assert!(full(&refused), "{refused:?}");
    assert_eq!(seen(&*backend, second.engine_id).await, Observation::Absent, "nothing half is left");
    healthy(&place, &*backend, first.engine_id).await;
    backend.remove(first.engine_id).await.expect("removes");
    eventually("there is room again", || async { backend.room().await.ok() }).await;
    create(&place, &*backend, &second).await;
}
