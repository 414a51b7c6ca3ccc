//! Rules 1 to 11: what calls that change the place do to it.

use super::words::*;
use crate::conformance::Place;
use backends::BackendError;
use contract::{EngineId, InstanceId};
use fleet::observation::{Object, ObjectState, Observation};
use std::time::{Duration, Instant};

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
    assert_eq!(
        object(&*backend, spec.engine_id).await,
        replaced,
        "a late repeat of an old step changes nothing"
    );

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
        assert!(!backend.stop(nobody, GRACE).await.expect("absent is stopped").killed);
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
