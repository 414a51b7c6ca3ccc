//! The twenty rules of §10.7, each for any place.

use crate::conformance::Place;
use backends::{BackendError, BackendEvent, BackendEventKind, EngineBackend, JobSpec, ProbeReply};
use bytes::Bytes;
use contract::{EngineId, InstanceId, ProductId};
use fleet::observation::{Object, ObjectState, Observation};
use fleet::spec::{EngineEnv, EngineSpec, Resources, SecurityProfile};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, stream};
use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

/// Longest wait for something that should happen at once. Larger makes a failing suite slow; smaller fails on a
/// machine where every core is busy compiling.
const SOON: Duration = Duration::from_secs(30);
/// Base deadline of ordinary rules: observe 5 s.
const CALM: Duration = Duration::from_secs(30);
/// Base deadline where deadlines are waited for: observe 200 ms, create 2.4 s.
const HASTY: Duration = Duration::from_millis(1200);
/// Between two looks.
const POLL: Duration = Duration::from_millis(10);
/// A grace that a fake engine never needs.
const GRACE: Duration = Duration::from_secs(20);
/// A value that must appear nowhere but in the engine's environment.
const SECRET: &str = "sk-very-secret-3f2a9c1e";

// --- the words of the rules

/// A specification that every place can make an object of.
async fn spec_of<P: Place>(place: &P, generation: i64) -> EngineSpec {
    let mut env = EngineEnv::default();
    for (name, value) in [
        (contract::env::ENGINE_KEY_HASH, "ab".repeat(32).as_str()),
        (contract::env::SQLITE_DB_PATH, "/data/brain.sqlite"),
        (contract::env::CATALOG_DIR, "/catalog"),
        (contract::env::BRAIN_GENERATION, generation.to_string().as_str()),
        (contract::env::LLM_API_KEY, SECRET),
    ] {
        env.0.insert(name.to_owned(), value.to_owned());
    }
    EngineSpec {
        instance: place.instance(),
        engine_id: EngineId::generate(),
        product_id: ProductId::generate(),
        generation,
        spec_hash: "0123456789abcdef".into(),
        image: place.image(),
        env,
        port: place.free_port().await,
        catalog: Some(place.catalog()),
        resources: Resources { memory_mb: 256, cpus: 0.5, pids: 64 },
        security: SecurityProfile::Hardened,
    }
}

/// The same engine with another generation.
fn at_generation(spec: &EngineSpec, generation: i64) -> EngineSpec {
    let mut spec = spec.clone();
    spec.generation = generation;
    spec.env.0.insert(contract::env::BRAIN_GENERATION.to_owned(), generation.to_string());
    spec
}

async fn with_storage(backend: &dyn EngineBackend, spec: &EngineSpec) {
    backend.ensure_image(&spec.image).await.expect("the image is there");
    backend.ensure_storage(spec.engine_id, true).await.expect("storage is made");
}

/// An engine that runs and has answered once.
async fn running<P: Place>(place: &P, backend: &dyn EngineBackend, generation: i64) -> EngineSpec {
    let spec = spec_of(place, generation).await;
    with_storage(backend, &spec).await;
    create(place, backend, &spec).await;
    spec
}

/// Creates the object and waits until its engine answers.
async fn create<P: Place>(place: &P, backend: &dyn EngineBackend, spec: &EngineSpec) -> Object {
    backend.create(spec).await.expect("the object is made");
    healthy(place, backend, spec.engine_id).await
}

async fn healthy<P: Place>(place: &P, backend: &dyn EngineBackend, id: EngineId) -> Object {
    eventually("the engine answers /health", || async {
        let Observation::Present(object) = backend.observe(id).await.expect("observes") else { return None };
        let answer = place.get(address_of(&object)?, "/health").await;
        (answer.status() == Some(200)).then_some(object)
    })
    .await
}

fn address_of(object: &Object) -> Option<SocketAddr> {
    match object.state {
        ObjectState::Running { address, .. } => address,
        ObjectState::Created
        | ObjectState::Paused
        | ObjectState::Exited { .. }
        | ObjectState::Restarting { .. }
        | ObjectState::Removing => None,
    }
}

async fn seen(backend: &dyn EngineBackend, id: EngineId) -> Observation {
    backend.observe(id).await.expect("observes")
}

async fn object(backend: &dyn EngineBackend, id: EngineId) -> Object {
    match seen(backend, id).await {
        Observation::Present(object) => object,
        Observation::Absent => panic!("there is no object of {id}"),
    }
}

async fn listed(backend: &dyn EngineBackend, id: EngineId) -> Vec<Observation> {
    let all = backend.list().await.expect("lists");
    all.into_iter().filter(|(engine, _)| *engine == id).map(|(_, seen)| seen).collect()
}

/// Waits, with a limit, until the condition yields something.
async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let begun = Instant::now();
    loop {
        if let Some(value) = look().await {
            return value;
        }
        assert!(begun.elapsed() < SOON, "not within {SOON:?}: {what}");
        tokio::time::sleep(POLL).await;
    }
}

/// Waits for an event of this kind; others may come before it.
async fn hears(events: &mut BoxStream<'static, BackendEvent>, engine: Option<EngineId>, kind: BackendEventKind) {
    let wait = async {
        while let Some(event) = events.next().await {
            if event == (BackendEvent { engine, kind }) {
                return;
            }
        }
        panic!("the event stream ended before {kind:?}");
    };
    tokio::time::timeout(SOON, wait).await.unwrap_or_else(|_| panic!("no {kind:?} within {SOON:?}"));
}

fn is_missing(error: &BackendError) -> bool {
    matches!(error, BackendError::StorageMissing(_))
}

async fn text_of(backend: &dyn EngineBackend, id: EngineId, path: &str) -> String {
    let chunks: Vec<Bytes> =
        backend.read_file(id, path).await.expect("reads").try_collect().await.expect("reads to the end");
    String::from_utf8(chunks.concat()).expect("the file is text")
}

fn bytes(text: &str) -> backends::ByteStream {
    let parts: Vec<std::io::Result<Bytes>> =
        text.as_bytes().chunks(5).map(|part| Ok(Bytes::copy_from_slice(part))).collect();
    stream::iter(parts).boxed()
}

// --- the rules

/// 1
pub async fn create_twice_is_one_object<P: Place>() {
    let place = P::fresh(CALM).await;
    let backend = place.backend();
    let spec = running(&place, &*backend, 1).await;
    let first = object(&*backend, spec.engine_id).await;
    let again = create(&place, &*backend, &spec).await;
    assert_eq!(again, first, "nothing was restarted or replaced");
    let (a, b) = tokio::join!(backend.create(&spec), backend.create(&spec));
    assert_eq!(a.expect("keeps"), b.expect("keeps"));
    assert_eq!(listed(&*backend, spec.engine_id).await, vec![Observation::Present(first)]);
}

/// 2
pub async fn create_adopts_same_generation_and_replaces_lower<P: Place>() {
    let place = P::fresh(CALM).await;
    let backend = place.backend();
    let spec = running(&place, &*backend, 3).await;
    let first = object(&*backend, spec.engine_id).await;

    let successor = place.another(place.instance()).await;
    let adopted = create(&place, &*successor, &spec).await;
    assert_eq!(adopted.container_id, first.container_id);

    let newer = at_generation(&spec, 4);
    let replaced = create(&place, &*successor, &newer).await;
    assert_ne!(replaced.container_id, first.container_id);
    assert_eq!(replaced.generation, 4);
    assert!(!place.alive(&first.container_id).await, "the lower generation is gone");

    let refused = successor.create(&spec).await;
    assert!(matches!(refused, Err(BackendError::Conflict(_))), "{refused:?}");
    assert_eq!(object(&*backend, spec.engine_id).await, replaced, "a late repeat of an old step changes nothing");

    // a repeated step finds its own object ended: it starts it again
    backend.stop(spec.engine_id, GRACE).await.expect("stops");
    let revived = create(&place, &*successor, &newer).await;
    assert_eq!(revived.generation, 4);
    assert_eq!(listed(&*backend, spec.engine_id).await.len(), 1);
}

/// 3
pub async fn create_refuses_a_foreign_object_of_that_name<P: Place>() {
    let place = P::fresh(CALM).await;
    let (backend, other) = (place.backend(), InstanceId::generate());
    let stranger = place.another(other).await;
    let mut theirs = spec_of(&place, 1).await;
    theirs.instance = other;
    with_storage(&*stranger, &theirs).await;
    let foreign = create(&place, &*stranger, &theirs).await;

    let mut ours = at_generation(&theirs, 7);
    ours.instance = place.instance();
    ours.port = place.free_port().await;
    let refused = backend.create(&ours).await;
    assert!(matches!(refused, Err(BackendError::Conflict(_))), "{refused:?}");
    let id = ours.engine_id;
    assert!(!matches!(backend.is_running(id).await, Ok(true)), "what is not ours is not seen as ours");
    // whatever these answer, they touch nothing
    let _ = backend.stop(id, Duration::ZERO).await;
    let _ = backend.remove(id).await;
    let _ = backend.freeze(id).await;
    let _ = backend.destroy(id).await;
    assert_eq!(object(&*stranger, id).await, foreign);
    assert!(place.alive(&foreign.container_id).await);
    assert!(stranger.storage_exists(id).await.expect("looks"));
    assert_eq!(healthy(&place, &*stranger, id).await, foreign);
}

/// 4
pub async fn storage_is_created_once<P: Place>() {
    let place = P::fresh(CALM).await;
    let backend = place.backend();
    let spec = spec_of(&place, 1).await;
    let id = spec.engine_id;
    assert!(!backend.storage_exists(id).await.expect("looks"));
    let absent = backend.ensure_storage(id, false).await.expect_err("may not be created");
    assert!(is_missing(&absent), "{absent:?}");
    assert!(!backend.storage_exists(id).await.expect("looks"), "asking made nothing");

    with_storage(&*backend, &spec).await;
    assert!(backend.storage_exists(id).await.expect("looks"));
    backend.ensure_storage(id, false).await.expect("it is there");
    create(&place, &*backend, &spec).await;
    backend.write_file(id, "/data/backups/kept", bytes("kept")).await.expect("writes");
    backend.ensure_storage(id, true).await.expect("it is there");
    assert_eq!(text_of(&*backend, id, "/data/backups/kept").await, "kept", "never replaced by an empty one");

    backend.stop(id, GRACE).await.expect("stops");
    backend.remove(id).await.expect("removes");
    place.remove_storage_outside(id).await;
    assert!(!backend.storage_exists(id).await.expect("looks"));
    let gone = backend.ensure_storage(id, false).await.expect_err("an engine that has booted before");
    assert!(is_missing(&gone), "{gone:?}");
    let refused = backend.create(&at_generation(&spec, 2)).await.expect_err("create makes no storage");
    assert!(is_missing(&refused), "{refused:?}");
    assert!(!backend.storage_exists(id).await.expect("looks"));
    assert!(!backend.is_running(id).await.expect("looks"));
}

/// 5
pub async fn at_most_one_writer<P: Place>() {
    let place = P::fresh(CALM).await;
    let backend = place.backend();
    let mut spec = spec_of(&place, 1).await;
    place.make_stubborn(&mut spec);
    with_storage(&*backend, &spec).await;
    let mut before = create(&place, &*backend, &spec).await;
    for generation in 2..=4 {
        let newer = at_generation(&spec, generation);
        // the engine itself refuses a locked brain, so one that answers is alone
        let (created, _) = tokio::join!(backend.create(&newer), place.another(place.instance()));
        created.expect("replaces");
        assert!(!place.alive(&before.container_id).await, "confirmed gone before the new one starts");
        let now = healthy(&place, &*backend, spec.engine_id).await;
        assert_eq!(now.generation, generation);
        before = now;
    }
    // a frozen one is a writer, too
    if backend.capabilities().freeze {
        backend.freeze(spec.engine_id).await.expect("freezes");
        create(&place, &*backend, &at_generation(&spec, 5)).await;
        assert!(!place.alive(&before.container_id).await);
    }
}

/// 6
pub async fn generation_reaches_the_engine<P: Place>() {
    let place = P::fresh(CALM).await;
    let backend = place.backend();
    let spec = running(&place, &*backend, 41).await;
    for generation in [41, 42] {
        let made = create(&place, &*backend, &at_generation(&spec, generation)).await;
        assert_eq!(made.generation, generation);
        let env = place.environment(spec.engine_id).await;
        assert_eq!(env.get("BRAIN_GENERATION"), Some(&generation.to_string()));
    }
}

/// 7
pub async fn stop_is_graceful_then_firm<P: Place>() {
    let place = P::fresh(CALM).await;
    let backend = place.backend();
    let spec = running(&place, &*backend, 1).await;
    let made = object(&*backend, spec.engine_id).await;
    let stopped = backend.stop(spec.engine_id, GRACE).await.expect("stops");
    assert!(!stopped.killed, "it had its grace");
    assert_eq!(stopped.exit_code, Some(0));
    assert!(!place.alive(&made.container_id).await);
    let Observation::Present(Object { state: ObjectState::Exited { code, oom, .. }, .. }) =
        seen(&*backend, spec.engine_id).await
    else {
        panic!("a stopped object is seen as exited");
    };
    assert_eq!((code, oom), (Some(0), false));

    let mut stubborn = spec_of(&place, 1).await;
    place.make_stubborn(&mut stubborn);
    with_storage(&*backend, &stubborn).await;
    let made = create(&place, &*backend, &stubborn).await;
    let begun = Instant::now();
    let stopped = backend.stop(stubborn.engine_id, Duration::from_secs(1)).await.expect("stops");
    assert!(stopped.killed, "its grace ran out");
    assert_eq!(stopped.exit_code, Some(137));
    assert!(begun.elapsed() >= Duration::from_millis(900), "not before the grace");
    assert!(!place.alive(&made.container_id).await);

    if backend.capabilities().freeze {
        let spec = running(&place, &*backend, 1).await;
        backend.freeze(spec.engine_id).await.expect("freezes");
        let stopped = backend.stop(spec.engine_id, GRACE).await.expect("stops");
        assert!(!stopped.killed, "a frozen engine is thawed, so that it can end by itself");
    }
}

/// 8
pub async fn stop_start_remove_destroy_are_idempotent<P: Place>() {
    let place = P::fresh(CALM).await;
    let backend = place.backend();
    let nobody = EngineId::generate();
    for _ in 0..2 {
        assert_eq!(backend.stop(nobody, GRACE).await.expect("absent is stopped").killed, false);
        backend.remove(nobody).await.expect("absent is removed");
        backend.destroy(nobody).await.expect("absent is destroyed");
        backend.remove_file(nobody, "/data/backups/x").await.ok();
    }
    assert_eq!(seen(&*backend, nobody).await, Observation::Absent);

    let spec = running(&place, &*backend, 1).await;
    let id = spec.engine_id;
    let first = object(&*backend, id).await;
    if backend.capabilities().start_in_place {
        backend.start(id).await.expect("running already");
        assert_eq!(object(&*backend, id).await, first);
        backend.stop(id, GRACE).await.expect("stops");
        backend.start(id).await.expect("starts");
        backend.start(id).await.expect("running already");
        let again = healthy(&place, &*backend, id).await;
        assert_eq!((again.generation, again.container_id), (first.generation, first.container_id));
    } else {
        assert!(matches!(backend.start(id).await, Err(BackendError::Unsupported(_))));
    }
    for _ in 0..2 {
        backend.stop(id, GRACE).await.expect("stops");
        assert!(!backend.is_running(id).await.expect("looks"));
    }
    for _ in 0..2 {
        backend.remove(id).await.expect("removes");
        assert_eq!(seen(&*backend, id).await, Observation::Absent);
    }
    for _ in 0..2 {
        backend.destroy(id).await.expect("destroys");
        assert!(!backend.storage_exists(id).await.expect("looks"));
    }
}

/// 9
pub async fn remove_keeps_storage<P: Place>() {
    let place = P::fresh(CALM).await;
    let backend = place.backend();
    let spec = running(&place, &*backend, 1).await;
    let id = spec.engine_id;
    backend.write_file(id, "/data/backups/one", bytes("first version")).await.expect("writes while it runs");
    let made = object(&*backend, id).await;
    backend.remove(id).await.expect("removes a running one");
    assert!(!place.alive(&made.container_id).await);
    assert_eq!(seen(&*backend, id).await, Observation::Absent);
    assert!(listed(&*backend, id).await.is_empty());
    assert!(backend.storage_exists(id).await.expect("looks"));
    assert_eq!(text_of(&*backend, id, "/data/backups/one").await, "first version");

    backend.write_file(id, "/data/backups/one", bytes("second")).await.expect("writes without an object");
    create(&place, &*backend, &at_generation(&spec, 2)).await;
    assert_eq!(text_of(&*backend, id, "/data/backups/one").await, "second");
    for _ in 0..2 {
        backend.remove_file(id, "/data/backups/one").await.expect("removes the file");
        assert!(backend.read_file(id, "/data/backups/one").await.is_err());
    }
    for path in ["/data/brain.sqlite", "/data/backups/../brain.sqlite", "/etc/passwd"] {
        assert!(matches!(backend.read_file(id, path).await, Err(BackendError::Refused(_))), "{path}");
        assert!(matches!(backend.remove_file(id, path).await, Err(BackendError::Refused(_))), "{path}");
        let written = backend.write_file(id, path, bytes("x")).await;
        assert!(matches!(written, Err(BackendError::Refused(_))), "{path}");
    }
}

/// 10
pub async fn destroy_leaves_nothing<P: Place>() {
    let place = P::fresh(CALM).await;
    let backend = place.backend();
    let spec = running(&place, &*backend, 1).await;
    let id = spec.engine_id;
    backend.write_file(id, "/data/backups/one", bytes("x")).await.expect("writes");
    let made = object(&*backend, id).await;
    assert!(!place.traces(id).await.is_empty(), "the place shows what is there");
    backend.destroy(id).await.expect("destroys a running one");
    assert!(!place.alive(&made.container_id).await);
    assert_eq!(place.traces(id).await, Vec::<String>::new());
    assert_eq!(seen(&*backend, id).await, Observation::Absent);
    assert!(!backend.storage_exists(id).await.expect("looks"));

    // its neighbour is not touched, and its port is free
    let neighbour = running(&place, &*backend, 1).await;
    let mut heir = spec_of(&place, 1).await;
    heir.port = spec.port;
    with_storage(&*backend, &heir).await;
    create(&place, &*backend, &heir).await;
    backend.destroy(heir.engine_id).await.expect("destroys");
    assert!(backend.is_running(neighbour.engine_id).await.expect("looks"));
}

/// 11
pub async fn freeze_thaw_keeps_identity<P: Place>() {
    let place = P::fresh(CALM).await;
    let backend = place.backend();
    let spec = running(&place, &*backend, 1).await;
    let id = spec.engine_id;
    if !backend.capabilities().freeze {
        assert!(matches!(backend.freeze(id).await, Err(BackendError::Unsupported(_))));
        assert!(matches!(backend.thaw(id).await, Err(BackendError::Unsupported(_))));
        return;
    }
    let before = object(&*backend, id).await;
    for _ in 0..2 {
        backend.freeze(id).await.expect("freezes");
        let frozen = object(&*backend, id).await;
        assert_eq!(frozen.state, ObjectState::Paused);
        assert_eq!(frozen.container_id, before.container_id);
        assert!(place.alive(&before.container_id).await);
    }
    for _ in 0..2 {
        backend.thaw(id).await.expect("thaws");
        assert_eq!(healthy(&place, &*backend, id).await, before, "the same run goes on");
    }
    backend.stop(id, GRACE).await.expect("stops");
    backend.freeze(id).await.expect("not running is success");
    backend.thaw(id).await.expect("not frozen is success");
    backend.remove(id).await.expect("removes");
    backend.freeze(id).await.expect("absent is success");
    backend.thaw(id).await.expect("absent is success");
}

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
        let ended = matches!(now.state, ObjectState::Exited { code: Some(137), .. } | ObjectState::Restarting { .. });
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
