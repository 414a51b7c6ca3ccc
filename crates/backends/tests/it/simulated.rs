//! The simulated place: the suite, and the ways it goes wrong when told to.

use crate::conformance::{Place, conformance_suite};
use async_trait::async_trait;
use backends::{
    BackendError, BackendEvent, BackendEventKind, Call, Capabilities, Death, EngineBackend, EventRules,
    Fault, FaultKind, HealthAnswer, ProbeReply, Prober, SimulatedBackend, SimulatedWorld,
};
use bytes::Bytes;
use contract::engine_api::{Activity, HealthStatus};
use contract::{EngineId, InstanceId, ProductId};
use fleet::observation::{ObjectState, Observation};
use fleet::spec::{EngineEnv, EngineSpec, Resources, SecurityProfile};
use futures::StreamExt;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

conformance_suite!(Simulated);

const SECOND: Duration = Duration::from_secs(1);
const CALL: Duration = Duration::from_secs(30);

/// The simulated world as a place of the suite.
pub struct Simulated {
    world: SimulatedWorld,
    instance: InstanceId,
    call_timeout: Duration,
    next_port: AtomicU16,
}

#[async_trait]
impl Place for Simulated {
    const GOLDEN: &'static str = "simulated";

    async fn fresh(call_timeout: Duration) -> Self {
        Self {
            world: SimulatedWorld::new(7),
            instance: InstanceId::generate(),
            call_timeout,
            next_port: AtomicU16::new(9001),
        }
    }

    fn instance(&self) -> InstanceId {
        self.instance
    }

    fn backend(&self) -> Arc<dyn EngineBackend> {
        Arc::new(self.world.backend(self.instance, self.call_timeout))
    }

    async fn another(&self, instance: InstanceId) -> Arc<dyn EngineBackend> {
        Arc::new(self.world.backend(instance, self.call_timeout))
    }

    fn image(&self) -> String {
        "september-engine:1.2.3".into()
    }

    fn catalog(&self) -> String {
        "/srv/catalog".into()
    }

    async fn free_port(&self) -> Option<u16> {
        Some(self.next_port.fetch_add(1, Ordering::Relaxed))
    }

    fn make_stubborn(&self, spec: &mut EngineSpec) {
        self.world.edit(spec.engine_id, |profile| profile.ignores_term = true);
    }

    async fn get(&self, address: SocketAddr, path: &str) -> ProbeReply {
        assert_eq!(path, "/health");
        self.world.get_health(address, SECOND).await
    }

    async fn alive(&self, container_id: &str) -> bool {
        self.world.is_alive(container_id)
    }

    async fn environment(&self, id: EngineId) -> BTreeMap<String, String> {
        self.world.environment(id).0
    }

    async fn shape(&self, spec: &EngineSpec) -> String {
        let env = self.world.environment(spec.engine_id).0;
        let mut lines: Vec<String> = env.iter().map(|(name, value)| format!("env {name}={value}")).collect();
        lines.extend(self.world.shape(spec.engine_id));
        lines.sort();
        lines
            .join("\n")
            .replace(&spec.engine_id.to_string(), "<engine>")
            .replace(&spec.engine_id.short(), "<12>")
            .replace(&spec.instance.to_string(), "<instance>")
            .replace(&spec.product_id.to_string(), "<product>")
            .replace(&format!(":{}", spec.port.expect("has one")), ":<port>")
    }

    async fn public_text(&self, id: EngineId) -> String {
        format!("{:?} {:?} {:?}", self.world.shape(id), self.world.truth(id), self.world.calls())
    }

    async fn kill_outside(&self, id: EngineId) {
        self.world.kill(id);
    }

    async fn remove_object_outside(&self, id: EngineId) {
        self.world.lose_object(id);
    }

    async fn remove_storage_outside(&self, id: EngineId) {
        self.world.lose_storage(id);
    }

    async fn traces(&self, id: EngineId) -> Vec<String> {
        let mut traces = self.world.shape(id);
        if self.world.has_storage(id) {
            traces.push("storage".into());
        }
        traces
    }

    async fn make_unreachable(&self) {
        self.world.set_reachable(false);
    }

    async fn make_hang(&self, id: EngineId) {
        self.world.fault(Fault::new(FaultKind::Hang).of(id));
    }

    async fn narrow(&self) -> bool {
        self.world.set_capacity(Some(1));
        true
    }

    async fn heal(&self) {
        self.world.set_reachable(true);
        self.world.heal();
    }

    async fn cut_events(&self) {
        self.world.cut_events();
    }
}

// --- what a test may ask of the simulation

fn sha256(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn spec(instance: InstanceId, generation: i64) -> EngineSpec {
    let mut env = EngineEnv::default();
    env.0.insert("ENGINE_KEY_HASH".into(), sha256("first"));
    EngineSpec {
        instance,
        engine_id: EngineId::generate(),
        product_id: ProductId::generate(),
        generation,
        spec_hash: "feedfacefeedface".into(),
        image: "september-engine:1.2.3".into(),
        env,
        port: None,
        catalog: None,
        resources: Resources { memory_mb: 0, cpus: 0.0, pids: 0 },
        security: SecurityProfile::Hardened,
    }
}

fn place() -> (SimulatedWorld, SimulatedBackend, InstanceId) {
    let (world, instance) = (SimulatedWorld::new(1), InstanceId::generate());
    let backend = world.backend(instance, CALL);
    (world, backend, instance)
}

async fn started(backend: &SimulatedBackend, instance: InstanceId) -> EngineSpec {
    let spec = spec(instance, 1);
    backend.ensure_storage(spec.engine_id, true).await.expect("makes storage");
    backend.create(&spec).await.expect("creates");
    tokio::time::sleep(SECOND).await;
    spec
}

async fn health(world: &SimulatedWorld, id: EngineId) -> (u16, Value) {
    match world.get_health(world.address(id), SECOND).await {
        ProbeReply::Answer { status, body } => (status, serde_json::from_slice(&body).expect("JSON")),
        other => panic!("no answer: {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_gives_the_same_boot_times() {
    let mut seen = Vec::new();
    for seed in [5, 5, 6] {
        let world = SimulatedWorld::new(seed);
        world.edit_default(|profile| profile.boot_jitter = 100 * SECOND);
        let instance = InstanceId::generate();
        let backend = world.backend(instance, CALL);
        let spec = spec(instance, 1);
        backend.ensure_storage(spec.engine_id, true).await.expect("makes storage");
        backend.create(&spec).await.expect("creates");
        let begun = tokio::time::Instant::now();
        while world.get_health(world.address(spec.engine_id), SECOND).await == ProbeReply::Refused {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        seen.push(begun.elapsed().as_millis());
    }
    assert_eq!(seen[0], seen[1]);
    assert_ne!(seen[0], seen[2]);
}

#[tokio::test(start_paused = true)]
async fn health_says_what_the_test_says() {
    let (world, backend, instance) = place();
    let id = started(&backend, instance).await.engine_id;
    let (status, body) = health(&world, id).await;
    assert_eq!((status, &body["status"], &body["version"]), (200, &json!("ok"), &json!("1.2.3")));
    assert_eq!(body["activity"]["in_flight_turns"], 0);
    world.set_activity(
        id,
        Some(Activity {
            in_flight_turns: 2,
            open_streams: 1,
            last_activity_at: None,
            next_scheduled_at: None,
        }),
    );
    world.edit(id, |profile| profile.status = HealthStatus::Draining);
    let (status, body) = health(&world, id).await;
    assert_eq!((status, &body["status"]), (503, &json!("draining")));
    assert_eq!(
        (&body["activity"]["in_flight_turns"], &body["activity"]["open_streams"]),
        (&json!(2), &json!(1))
    );
    world.set_activity(id, None);
    assert_eq!(health(&world, id).await.1.get("activity"), None, "as in older images");

    for (answer, expected) in [
        (HealthAnswer::Refused, ProbeReply::Refused),
        (HealthAnswer::TimedOut, ProbeReply::TimedOut),
        (HealthAnswer::Unreadable, ProbeReply::Unreadable),
        (
            HealthAnswer::Raw { status: 200, body: "?".into() },
            ProbeReply::Answer { status: 200, body: Bytes::from_static(b"?") },
        ),
    ] {
        world.edit(id, |profile| profile.health = answer);
        assert_eq!(world.get_health(world.address(id), SECOND).await, expected);
    }
    world.edit(id, |profile| {
        profile.health = HealthAnswer::Normal;
        profile.answer_takes = 2 * SECOND;
    });
    let begun = tokio::time::Instant::now();
    assert_eq!(world.get_health(world.address(id), SECOND).await, ProbeReply::TimedOut);
    assert_eq!(begun.elapsed(), SECOND, "a probe ends at its own limit");
    assert_eq!(world.probes(id), 8);
    let nobody = SocketAddr::from(([240, 1, 1, 1], 8000));
    assert_eq!(world.get_health(nobody, SECOND).await, ProbeReply::Refused);
}

#[tokio::test(start_paused = true)]
async fn a_rotated_key_survives_the_object_and_the_old_one_ends_with_its_window() {
    let (world, backend, instance) = place();
    let first = started(&backend, instance).await;
    let address = world.address(first.engine_id);
    let body = |key: &str, overlap: u64| {
        Bytes::from(json!({"new_key_hash": sha256(key), "overlap_seconds": overlap}).to_string())
    };
    let version = |key: &'static str| {
        let world = world.clone();
        async move { world.call(address, "GET", "/version", key, Bytes::new(), SECOND).await.status() }
    };
    let rotate = |with: &'static str, to: &'static str| {
        let (world, body) = (world.clone(), body(to, 60));
        async move { world.call(address, "POST", "/admin/rotate-key", with, body, SECOND).await.status() }
    };
    assert_eq!(version("second").await, Some(401));
    assert_eq!(rotate("wrong", "second").await, Some(401));
    assert_eq!(rotate("first", "second").await, Some(200));
    assert_eq!(rotate("first", "second").await, Some(200), "the same again is the same");
    assert_eq!(rotate("second", "third").await, Some(409), "a window is open");
    assert_eq!((version("first").await, version("second").await), (Some(200), Some(200)));
    tokio::time::sleep(61 * SECOND).await;
    assert_eq!((version("first").await, version("second").await), (Some(401), Some(200)));

    let mut next = first.clone();
    next.generation = 2;
    backend.create(&next).await.expect("replaces");
    tokio::time::sleep(SECOND).await;
    assert_eq!(
        (version("first").await, version("second").await),
        (Some(401), Some(200)),
        "the brain knows it"
    );
}

#[tokio::test(start_paused = true)]
async fn transient_errors_pass_lost_replies_leave_their_effect_and_late_work_is_done() {
    let (world, backend, instance) = place();
    let spec = spec(instance, 1);
    let id = spec.engine_id;
    backend.ensure_storage(id, true).await.expect("makes storage");
    let gone = BackendError::Unreachable("socket".into());
    world.fault(Fault::fail(gone.clone()).on(Call::Create).of(id).times(2));
    assert_eq!(backend.create(&spec).await, Err(gone.clone()));
    assert_eq!(backend.create(&spec).await, Err(gone));
    assert_eq!(world.starts(id), 0);
    world.fault(Fault::new(FaultKind::LoseReply).on(Call::Create).times(1));
    assert!(backend.create(&spec).await.is_err_and(|e| e.is_transient()));
    assert_eq!((world.starts(id), world.truth(id).is_running()), (1, true));
    backend.create(&spec).await.expect("keeps");
    assert_eq!(world.starts(id), 1);

    world.fault(Fault::new(FaultKind::Late(90 * SECOND)).on(Call::Remove).times(1));
    let begun = tokio::time::Instant::now();
    assert_eq!(backend.remove(id).await, Err(BackendError::TimedOut { call: "remove", limit_ms: 60_000 }));
    assert_eq!(begun.elapsed(), 60 * SECOND);
    assert!(world.truth(id).is_running());
    tokio::time::sleep(31 * SECOND).await;
    assert_eq!(world.truth(id), Observation::Absent, "a deadline ends our wait, not the work");

    world.fault(Fault::new(FaultKind::Latency(SECOND)).on(Call::Observe));
    let begun = tokio::time::Instant::now();
    assert_eq!(backend.observe(id).await, Ok(Observation::Absent));
    assert_eq!(begun.elapsed(), SECOND);
}

#[tokio::test(start_paused = true)]
async fn calls_are_remembered_and_only_changes_count() {
    let (world, backend, instance) = place();
    let id = started(&backend, instance).await.engine_id;
    world.forget_calls();
    backend.list().await.expect("lists");
    backend.observe(id).await.expect("observes");
    backend.ping().await.expect("pings");
    assert_eq!((world.calls().len(), world.mutating_calls()), (3, 0));
    backend.freeze(id).await.expect("freezes");
    world.set_reachable(false);
    assert!(backend.thaw(id).await.is_err());
    assert_eq!(world.mutating_calls(), 2, "those that failed, too");
    let asked: Vec<Call> = world.calls().iter().map(|record| record.call).collect();
    assert_eq!(asked, [Call::List, Call::Observe, Call::Ping, Call::Freeze, Call::Thaw]);
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_dies_by_itself_is_told_and_comes_back_only_where_the_place_does_that() {
    for comes_back in [false, true] {
        let (world, backend, instance) = place();
        let usual = world.capabilities();
        world.set_capabilities(Capabilities { self_restarts: comes_back, ..usual });
        let spec = spec(instance, 1);
        let id = spec.engine_id;
        world.edit(id, |profile| {
            profile.dies = Some(Death { code: 137, oom: true, times: Some(1), ..Death::after(10 * SECOND) });
        });
        let mut events = backend.events();
        backend.ensure_storage(id, true).await.expect("makes storage");
        backend.create(&spec).await.expect("creates");
        let begun = tokio::time::Instant::now();
        let mut heard = Vec::new();
        while heard.last() != Some(&BackendEventKind::Die) {
            heard.push(events.next().await.expect("goes on").kind);
        }
        use BackendEventKind::{Die, Gap, Oom, Start};
        assert_eq!(heard, [Gap, Start, Oom, Die]);
        assert_eq!(begun.elapsed(), 10 * SECOND, "told when it happens, without anybody looking");
        tokio::time::sleep(SECOND).await;
        let seen = backend.observe(id).await.expect("observes");
        let state = seen.object().expect("is there").state.clone();
        if comes_back {
            assert!(matches!(state, ObjectState::Running { restarts: 1, .. }), "{state:?}");
            assert_eq!(world.starts(id), 2);
        } else {
            assert!(matches!(state, ObjectState::Exited { code: Some(137), oom: true, .. }), "{state:?}");
            assert_eq!(world.starts(id), 1);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn events_are_lost_doubled_and_reordered_on_demand() {
    let (world, backend, instance) = place();
    let id = started(&backend, instance).await.engine_id;
    let mut events = backend.events();
    world.set_events(EventRules { silent: true, ..EventRules::default() });
    backend.freeze(id).await.expect("freezes");
    backend.thaw(id).await.expect("thaws");
    world.set_events(EventRules { duplicate: 1.0, ..EventRules::default() });
    backend.freeze(id).await.expect("freezes");
    world.set_events(EventRules { reorder: 1.0, ..EventRules::default() });
    backend.thaw(id).await.expect("thaws");
    backend.freeze(id).await.expect("freezes");
    world.cut_events();
    let mut kinds = Vec::new();
    for _ in 0..6 {
        kinds.push(events.next().await.expect("goes on"));
    }
    use BackendEventKind::{Gap, Pause, Unpause};
    let of = |kind| BackendEvent { engine: (kind != Gap).then_some(id), kind };
    assert_eq!(kinds, [Gap, Pause, Pause, Pause, Unpause, Gap].map(of));
}

#[tokio::test(start_paused = true)]
async fn a_held_list_is_stale_and_observe_is_not() {
    let (world, backend, instance) = place();
    let id = started(&backend, instance).await.engine_id;
    world.hold_list();
    world.lose_object(id);
    assert!(backend.list().await.expect("lists")[0].1.is_running());
    assert_eq!(backend.observe(id).await, Ok(Observation::Absent));
    world.release_list();
    assert_eq!(backend.list().await, Ok(Vec::new()));
}

#[tokio::test(start_paused = true)]
async fn a_daemon_restart_may_wake_the_frozen_and_leaves_the_stopped() {
    let (world, backend, instance) = place();
    let frozen = started(&backend, instance).await.engine_id;
    let stopped = started(&backend, instance).await.engine_id;
    backend.freeze(frozen).await.expect("freezes");
    backend.stop(stopped, SECOND).await.expect("stops");
    world.restart_daemon(false);
    assert_eq!(world.truth(frozen).word(), "paused");
    world.restart_daemon(true);
    assert_eq!((world.truth(frozen).word(), world.truth(stopped).word()), ("running", "exited"));
    backend.freeze(frozen).await.expect("freezes");
    world.wake(frozen);
    assert!(world.truth(frozen).is_running());
}

#[tokio::test(start_paused = true)]
async fn ports_images_room_and_identity_can_be_taken_away() {
    let (world, backend, instance) = place();
    let mut wanted = spec(instance, 1);
    wanted.port = Some(9001);
    backend.ensure_storage(wanted.engine_id, true).await.expect("makes storage");
    world.steal_port(9001);
    assert_eq!(backend.create(&wanted).await, Err(BackendError::PortTaken(9001)));
    world.release_port(9001);
    world.lose_image(&wanted.image);
    assert!(matches!(backend.create(&wanted).await, Err(BackendError::ImageMissing(_))));
    world.find_image(&wanted.image);
    world.set_capacity(Some(0));
    assert!(matches!(backend.create(&wanted).await, Err(BackendError::Capacity(_))));
    world.set_capacity(None);
    backend.create(&wanted).await.expect("creates");
    let before = backend.ping().await.expect("pings");
    world.set_identity("another daemon");
    assert_ne!(backend.ping().await.expect("pings").id, before.id);
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "generation 1 opened the brain of 2")]
async fn an_older_generation_on_a_brain_panics() {
    let (_world, backend, instance) = place();
    let mut spec = spec(instance, 2);
    backend.ensure_storage(spec.engine_id, true).await.expect("makes storage");
    backend.create(&spec).await.expect("creates");
    backend.remove(spec.engine_id).await.expect("removes");
    spec.generation = 1;
    let _ = backend.create(&spec).await;
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "the simulated world saw")]
async fn a_breach_in_a_task_of_its_own_panics_when_the_world_ends() {
    let (world, backend, instance) = place();
    let mut spec = spec(instance, 2);
    let id = spec.engine_id;
    backend.ensure_storage(id, true).await.expect("makes storage");
    world.fault(Fault::new(FaultKind::Late(SECOND)).on(Call::Create).times(1));
    spec.generation = 1;
    let (late, mine) = (spec.clone(), backend.clone());
    let asked = tokio::spawn(async move { mine.create(&late).await });
    tokio::task::yield_now().await;
    asked.abort();
    spec.generation = 2;
    backend.create(&spec).await.expect("creates");
    backend.remove(id).await.expect("removes");
    tokio::time::sleep(2 * SECOND).await;
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_engines_are_listed_in_a_moment() {
    let (world, backend, instance) = place();
    for _ in 0..10_000 {
        let spec = spec(instance, 1);
        backend.ensure_storage(spec.engine_id, true).await.expect("makes storage");
        backend.create(&spec).await.expect("creates");
    }
    let begun = std::time::Instant::now();
    assert_eq!(backend.list().await.expect("lists").len(), 10_000);
    assert!(begun.elapsed() < SECOND, "{:?}", begun.elapsed());
    assert_eq!(world.running().len(), 10_000);
    let addresses: std::collections::HashSet<_> =
        world.objects().into_iter().map(|id| world.address(id)).collect();
    assert_eq!(addresses.len(), 10_000, "an address each");
}
