//! The words in which the rules are said: an engine that runs, that answers, what is seen of it.

use crate::conformance::Place;
use backends::{BackendError, BackendEvent, BackendEventKind, EngineBackend};
use bytes::Bytes;
use contract::{EngineId, ProductId};
use fleet::observation::{Object, ObjectState, Observation};
use fleet::spec::{EngineEnv, EngineSpec, Resources, SecurityProfile};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, stream};
use std::future::Future;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Longest wait for something that should happen at once. Larger makes a failing suite slow; smaller fails on a
/// machine where every core is busy compiling.
pub const SOON: Duration = Duration::from_secs(30);
/// Base deadline of ordinary rules: observe 5 s.
pub const CALM: Duration = Duration::from_secs(30);
/// Base deadline where deadlines are waited for: observe 200 ms, create 2.4 s.
pub const HASTY: Duration = Duration::from_millis(1200);
/// Between two looks.
pub const POLL: Duration = Duration::from_millis(10);
/// A grace that a fake engine never needs.
pub const GRACE: Duration = Duration::from_secs(20);
/// A value that must appear nowhere but in the engine's environment.
pub const SECRET: &str = "sk-very-secret-3f2a9c1e";

/// A specification that every place can make an object of.
pub async fn spec_of<P: Place>(place: &P, generation: i64) -> EngineSpec {
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
pub fn at_generation(spec: &EngineSpec, generation: i64) -> EngineSpec {
    let mut spec = spec.clone();
    spec.generation = generation;
    spec.env.0.insert(contract::env::BRAIN_GENERATION.to_owned(), generation.to_string());
    spec
}

pub async fn with_storage(backend: &dyn EngineBackend, spec: &EngineSpec) {
    backend.ensure_image(&spec.image).await.expect("the image is there");
    backend.ensure_storage(spec.engine_id, true).await.expect("storage is made");
}

/// An engine that runs and has answered once.
pub async fn running<P: Place>(place: &P, backend: &dyn EngineBackend, generation: i64) -> EngineSpec {
    let spec = spec_of(place, generation).await;
    with_storage(backend, &spec).await;
    create(place, backend, &spec).await;
    spec
}

/// Creates the object and waits until its engine answers.
pub async fn create<P: Place>(place: &P, backend: &dyn EngineBackend, spec: &EngineSpec) -> Object {
    backend.create(spec).await.expect("the object is made");
    healthy(place, backend, spec.engine_id).await
}

pub async fn healthy<P: Place>(place: &P, backend: &dyn EngineBackend, id: EngineId) -> Object {
    eventually("the engine answers /health", || async {
        let Observation::Present(object) = backend.observe(id).await.expect("observes") else { return None };
        let answer = place.get(address_of(&object)?, "/health").await;
        (answer.status() == Some(200)).then_some(object)
    })
    .await
}

pub fn address_of(object: &Object) -> Option<SocketAddr> {
    match object.state {
        ObjectState::Running { address, .. } => address,
        ObjectState::Created
        | ObjectState::Paused
        | ObjectState::Exited { .. }
        | ObjectState::Restarting { .. }
        | ObjectState::Removing => None,
    }
}

pub async fn seen(backend: &dyn EngineBackend, id: EngineId) -> Observation {
    backend.observe(id).await.expect("observes")
}

pub async fn object(backend: &dyn EngineBackend, id: EngineId) -> Object {
    match seen(backend, id).await {
        Observation::Present(object) => object,
        Observation::Absent => panic!("there is no object of {id}"),
    }
}

pub async fn listed(backend: &dyn EngineBackend, id: EngineId) -> Vec<Observation> {
    let all = backend.list().await.expect("lists");
    all.into_iter().filter(|(engine, _)| *engine == id).map(|(_, seen)| seen).collect()
}

/// Waits, with a limit, until the condition yields something.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
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
pub async fn hears(
    events: &mut BoxStream<'static, BackendEvent>,
    engine: Option<EngineId>,
    kind: BackendEventKind,
) {
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

pub fn is_missing(error: &BackendError) -> bool {
    matches!(error, BackendError::StorageMissing(_))
}

pub async fn text_of(backend: &dyn EngineBackend, id: EngineId, path: &str) -> String {
    let chunks: Vec<Bytes> =
        backend.read_file(id, path).await.expect("reads").try_collect().await.expect("reads to the end");
    String::from_utf8(chunks.concat()).expect("the file is text")
}

pub fn bytes(text: &str) -> backends::ByteStream {
    let parts: Vec<std::io::Result<Bytes>> =
        text.as_bytes().chunks(5).map(|part| Ok(Bytes::copy_from_slice(part))).collect();
    stream::iter(parts).boxed()
}
