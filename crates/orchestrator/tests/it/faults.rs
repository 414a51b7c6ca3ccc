//! Faults inside operations: executors that vanish at every step, and backend calls that fail once.

use crate::trial::{Answer, Product, Trial, until};
use backends::{BackendError, Call, Fault, FaultKind};
use contract::EngineId;
use fleet::operation::{OperationKind, Step};
use futures::future::join_all;
use orchestrator::failpoint::Failure;
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// Lease of operations in these trials.
const LEASE: Duration = Duration::from_secs(3);
/// Period of reconciliation in these trials.
const RECONCILE: Duration = Duration::from_secs(1);
/// What a loaded test machine may add to the promised time.
const SLACK: Duration = Duration::from_secs(12);

/// What the registry and the log say about one engine.
#[derive(Debug, PartialEq, Eq)]
pub struct Books {
    /// `none` without a row.
    pub status: String,
    pub desired: String,
    pub open: i64,
}

pub async fn books(sql: &tokio_postgres::Client, id: EngineId) -> Books {
    let found = sql
        .query_opt(
            "SELECT status, desired, (SELECT count(*) FROM operations WHERE engine_id = e.id AND status = 'open') \
             FROM engines e WHERE id = $1::text::uuid",
            &[&id.to_string()],
        )
        .await
        .expect("the database of the trial is up");
    match found {
        Some(row) => Books { status: row.get(0), desired: row.get(1), open: row.get(2) },
        None => {
            let open = sql
                .query_one(
                    "SELECT count(*) FROM operations WHERE engine_id = $1::text::uuid AND status = 'open'",
                    &[&id.to_string()],
                )
                .await
                .expect("the database of the trial is up")
                .get(0);
            Books { status: "none".to_owned(), desired: "none".to_owned(), open }
        }
    }
}

/// The audit actions of one engine from the table itself, oldest first.
pub async fn logged(sql: &tokio_postgres::Client, id: EngineId) -> Vec<String> {
    let rows = sql
        .query(
            "SELECT action FROM audit_log WHERE engine_id = $1::text::uuid AND action <> 'health_check' ORDER BY id",
            &[&id.to_string()],
        )
        .await
        .expect("the database of the trial is up");
    rows.iter().map(|row| row.get(0)).collect()
}

/// The engine of this user, once its row exists.
pub async fn id_of(sql: &tokio_postgres::Client, user: &str) -> EngineId {
    until(&format!("{user} has a row"), async || look_up(sql, user).await.is_some()).await;
    look_up(sql, user).await.expect("was just seen")
}

async fn look_up(sql: &tokio_postgres::Client, user: &str) -> Option<EngineId> {
    let found = sql.query_opt("SELECT id::text FROM engines WHERE user_id = $1", &[&user]).await;
    let text: String = found.expect("the database of the trial is up")?.get(0);
    EngineId::parse(&text).ok()
}

/// Waits until the engine rests in this status, with nothing open.
pub async fn rests(sql: &tokio_postgres::Client, id: EngineId, status: &str) {
    until(&format!("{id} rests as {status}"), async || {
        let books = books(sql, id).await;
        books.status == status && books.open == 0
    })
    .await;
}

fn request(demo: &Product, user: &str, method: &'static str, path: &str) -> JoinHandle<Answer> {
    let (demo, path) = (demo.clone(), path.replace("{user}", user));
    let body = if path.ends_with("/admit") { json!({"auto_wake": true}) } else { json!(null) };
    tokio::spawn(async move { demo.call(method, &path, body).await })
}

fn post(demo: &Product, user: &str, what: &str) -> JoinHandle<Answer> {
    request(demo, user, "POST", &format!("/engines/{{user}}/{what}"))
}

/// Brings an engine to where this operation is met. With `settle` another one is under way in whose place it comes.
async fn prepare(trial: &Trial, demo: &Product, user: &str, kind: OperationKind, settle: bool) {
    use OperationKind as Op;
    if kind == Op::Provision {
        return;
    }
    let id = demo.engine(user).await;
    match kind {
        Op::Start | Op::Destroy if settle => {
            trial.world.edit(id, |profile| profile.ignores_term = true);
            post(demo, user, "stop");
            demo.until_standing(user, "running-stopped+stop").await;
        }
        Op::Stop if settle => {
            assert_eq!(demo.post(user, "stop").await.status, 200);
            trial.world.edit(id, |profile| profile.boot = Duration::from_secs(2));
            post(demo, user, "start");
            demo.until_standing(user, "stopped-running+start").await;
        }
        Op::Wake if settle => {
            trial
                .world
                .fault(Fault::new(FaultKind::Latency(Duration::from_millis(400))).on(Call::Freeze).of(id));
            post(demo, user, "sleep");
            demo.until_standing(user, "running-sleeping+sleep").await;
        }
        Op::Start => assert_eq!(demo.post(user, "stop").await.status, 200),
        Op::Wake => assert_eq!(demo.post(user, "sleep").await.status, 200),
        _ => {}
    }
}

/// Has the operation begun.
async fn begin(trial: &Trial, demo: &Product, user: &str, kind: OperationKind) -> Option<JoinHandle<Answer>> {
    use OperationKind as Op;
    Some(match kind {
        Op::Provision => {
            let (demo, user) = (demo.clone(), user.to_owned());
            tokio::spawn(async move { demo.provision(&user).await })
        }
        Op::Start => post(demo, user, "start"),
        Op::Stop => post(demo, user, "stop"),
        Op::Sleep => post(demo, user, "sleep"),
        Op::Wake => post(demo, user, "admit"),
        Op::RotateKey => post(demo, user, "rotate-key"),
        Op::Destroy => request(demo, user, "DELETE", "/engines/{user}"),
        _ => {
            let record = demo.get(user).await;
            let id =
                EngineId::parse(record.body["engine_id"].as_str().unwrap_or_default()).expect("has an id");
            trial.world.crash(id, 1, false);
            return None;
        }
    })
}

/// The status in which it ends, the object's state then, and the whole log of the engine.
fn end_of(kind: OperationKind, settle: bool) -> (&'static str, &'static str, Vec<&'static str>) {
    use OperationKind as Op;
    match (kind, settle) {
        (Op::Provision, _) => ("running", "running", vec!["provision"]),
        (Op::Start, false) => ("running", "running", vec!["provision", "stop", "start"]),
        (Op::Start, true) => ("running", "running", vec!["provision", "start"]),
        (Op::Stop, false) => ("stopped", "exited", vec!["provision", "stop"]),
        (Op::Stop, true) => ("stopped", "exited", vec!["provision", "stop", "stop"]),
        (Op::Sleep, _) => ("sleeping", "paused", vec!["provision", "sleep"]),
        (Op::Wake, false) => ("running", "running", vec!["provision", "sleep", "wake"]),
        (Op::Wake, true) => ("running", "running", vec!["provision", "wake"]),
        (Op::RotateKey, _) => ("running", "running", vec!["provision", "rotate_key"]),
        (Op::Destroy, _) => ("none", "absent", vec!["provision", "destroy"]),
        _ => (
            "running",
            "running",
            vec!["provision", "health_failed", "auto_restart_start", "auto_restart_success"],
        ),
    }
}

/// Steps at which an operation of this kind can be found. Only what may supersede another one ever waits for it.
fn steps(kind: OperationKind) -> impl Iterator<Item = Step> {
    use OperationKind as Op;
    let settles = matches!(kind, Op::Start | Op::Stop | Op::Wake | Op::Destroy);
    kind.steps().iter().copied().filter(move |step| settles || *step != Step::Settle)
}

/// One kind, every step: the executor vanishes, its replica is killed, a new one goes on. The answer is the points
/// that were reached and the longest time to the end.
async fn kill_at_every_step(kind: OperationKind, moment: &str) -> (BTreeSet<String>, Duration) {
    let mut trial = Trial::new().await.set("ORCH_DATABASE_MAX_CONNECTIONS", "4");
    trial.adjust = |config| config.settings.operation_lease_s = LEASE;
    let (mut trial, demo) = trial.ready().await;
    let sql = trial.sql().await;
    let mut reached = BTreeSet::new();
    let mut longest = Duration::ZERO;
    let mut made = 0;
    for step in steps(kind) {
        let settle = step == Step::Settle;
        let point = format!("{}.{}.{moment}", kind.as_str(), step.as_str());
        let user = format!("{}-{}", kind.as_str(), step.as_str());
        let demo = demo.clone().at(trial.base(0));
        prepare(&trial, &demo, &user, kind, settle).await;
        let core = Arc::clone(&trial.replicas[0].core);
        core.fail_points.arm(&point, Failure::Vanish);
        let known = look_up(&sql, &user).await;
        let caller = begin(&trial, &demo, &user, kind).await;
        until(&point, async || !core.fail_points.is_armed(&point)).await;
        let id = match known {
            Some(id) => id,
            None => id_of(&sql, &user).await,
        };
        reached.extend(core.fail_points.passed());
        trial.kill(0).await;
        let died = Instant::now();
        if let Some(caller) = caller {
            let _ = caller.await;
        }
        trial.replica().await;
        let (status, object, log) = end_of(kind, settle);
        rests(&sql, id, status).await;
        until(&format!("{point}: the object is {object}"), async || trial.world.truth(id).word() == object)
            .await;
        let took = died.elapsed();
        assert!(took < LEASE + RECONCILE * 2 + SLACK, "{point}: {took:?}");
        longest = longest.max(took);
        made += 1;
        let objects = trial.world.objects().iter().filter(|o| **o == id).count();
        assert_eq!(objects, usize::from(status != "none"), "{point}");
        assert_eq!(trial.world.has_storage(id), status != "none", "{point}");
        assert_eq!(logged(&sql, id).await, log, "{point}");
        if kind == OperationKind::Provision {
            assert_eq!(trial.world.starts(id), 1, "{point}: started twice");
        }
        if status == "running" {
            let demo = demo.clone().at(trial.base(0));
            let admitted = demo.admit(&user).await;
            assert_eq!(admitted.body["admitted"], true, "{point}: {:?}", admitted.body);
        }
        reached.extend(trial.replicas[0].core.fail_points.passed());
    }
    let totals = sql.query_one("SELECT total_provisions, total_destroys FROM products", &[]).await;
    let totals = totals.expect("there is one product");
    let destroyed = if kind == OperationKind::Destroy { made } else { 0 };
    assert_eq!((totals.get::<_, i64>(0), totals.get::<_, i64>(1)), (made, destroyed), "{kind} {moment}");
    // The counters of claims agree: nothing is left open, and what ended has its closing row.
    let unclosed = sql
        .query_one(
            "SELECT count(*) FROM operations o WHERE status <> 'superseded' AND 1 <> (SELECT count(*) FROM audit_log a \
             WHERE a.metadata->>'operation_id' = o.id::text AND a.action NOT IN ('auto_restart_start', 'auto_restart_gave_up'))",
            &[],
        )
        .await
        .expect("the database of the trial is up");
    assert_eq!(unclosed.get::<_, i64>(0), 0, "{kind} {moment}: an operation without exactly one closing row");
    (reached, longest)
}

const KINDS: [OperationKind; 8] = [
    OperationKind::Provision,
    OperationKind::Start,
    OperationKind::Stop,
    OperationKind::Sleep,
    OperationKind::Wake,
    OperationKind::Restart,
    OperationKind::RotateKey,
    OperationKind::Destroy,
];

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn p3_kill_at_every_step_converges() {
    let runs =
        KINDS.iter().flat_map(|kind| ["before", "after"].map(|moment| kill_at_every_step(*kind, moment)));
    let ended = join_all(runs).await;
    let reached: BTreeSet<String> = ended.iter().flat_map(|(points, _)| points.iter().cloned()).collect();
    let mut wanted = BTreeSet::new();
    for kind in KINDS {
        for step in steps(kind) {
            for moment in ["before", "after"] {
                wanted.insert(format!("{}.{}.{moment}", kind.as_str(), step.as_str()));
            }
        }
    }
    assert_eq!(wanted.len(), 60);
    let missed: Vec<_> = wanted.difference(&reached).collect();
    assert!(missed.is_empty(), "never reached: {missed:?}");
    let longest = ended.iter().map(|(_, took)| *took).max().unwrap_or_default();
    println!("{} points, longest recovery {longest:?}", wanted.len());
}

fn unreachable() -> FaultKind {
    FaultKind::Fail(BackendError::Unreachable("the socket is gone".to_owned()))
}

fn refused() -> FaultKind {
    FaultKind::Fail(BackendError::Refused("no".to_owned()))
}

fn timed_out() -> FaultKind {
    FaultKind::Fail(BackendError::TimedOut { call: "any", limit_ms: 1 })
}

fn full() -> FaultKind {
    FaultKind::Fail(BackendError::Capacity("12 objects".to_owned()))
}

fn no_image() -> FaultKind {
    FaultKind::Fail(BackendError::ImageMissing("september-engine:2.3.0".to_owned()))
}

const RESTARTED: [&str; 2] = ["auto_restart_start", "auto_restart_success"];

/// What a caller is told, how the engine rests afterwards, what is written down.
struct Ending {
    code: (u16, &'static str),
    retrying: Option<bool>,
    status: &'static str,
    object: &'static str,
    log: Vec<&'static str>,
}

async fn ends(
    trial: &Trial,
    sql: &tokio_postgres::Client,
    what: &str,
    id: EngineId,
    answer: &Answer,
    ending: Ending,
) {
    assert_eq!((answer.status, answer.code()), ending.code, "{what}: {:?}", answer.body);
    if let Some(retrying) = ending.retrying {
        assert_eq!(answer.body["error"]["details"]["retrying"], retrying, "{what}: {:?}", answer.body);
        assert!(answer.retry_after.is_some(), "{what}: {answer:?}");
    }
    rests(sql, id, ending.status).await;
    until(&format!("{what}: the object is {}", ending.object), async || {
        trial.world.truth(id).word() == ending.object
    })
    .await;
    // What follows by itself has followed: the log is complete, and stays so.
    until(&format!("{what}: the log is complete"), async || logged(sql, id).await.len() >= ending.log.len())
        .await;
    assert_eq!(logged(sql, id).await, ending.log, "{what}");
    assert_eq!(books(sql, id).await.open, 0, "{what}");
}

async fn provision_with(call: Call, kind: FaultKind) {
    let what = format!("provision, {} {kind:?}", call.word());
    let (trial, demo) = Trial::new().await.set("ORCH_DATABASE_MAX_CONNECTIONS", "4").ready().await;
    let sql = trial.sql().await;
    let storage_missing = matches!(kind, FaultKind::Fail(BackendError::StorageMissing(_)));
    let port_taken = matches!(kind, FaultKind::Fail(BackendError::PortTaken(_)));
    let transient = match &kind {
        FaultKind::Fail(error) => error.is_transient(),
        _ => true,
    };
    trial.world.fault(Fault::new(kind).on(call).times(1));
    let answer = demo.provision("ada").await;
    let id = id_of(&sql, "ada").await;
    let mut ending = Ending {
        code: (502, "BACKEND_ERROR"),
        retrying: None,
        status: "running",
        object: "running",
        log: vec!["provision"],
    };
    if port_taken {
        ending.code = (200, "");
    } else if storage_missing {
        (ending.status, ending.object) = ("failed", "absent");
        ending.log = vec!["provision_failed", "auto_restart_gave_up"];
    } else if transient {
        ending.retrying = Some(true);
    } else {
        ending.log = vec!["provision_failed", RESTARTED[0], RESTARTED[1]];
    }
    let served = ending.status == "running";
    ends(&trial, &sql, &what, id, &answer, ending).await;
    if served {
        assert_eq!(trial.world.starts(id), 1, "{what}");
        assert_eq!(demo.admit("ada").await.body["admitted"], true, "{what}");
    } else {
        // Given up at once; a person's start clears that and finds storage again.
        assert_eq!(demo.admit("ada").await.body["reason"], "engine_unhealthy", "{what}");
        assert_eq!(demo.post("ada", "start").await.status, 200, "{what}");
    }
    let first_boots: i64 = sql
        .query_one("SELECT total_provisions FROM products", &[])
        .await
        .expect("there is one product")
        .get(0);
    assert_eq!(first_boots, 1, "{what}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_call_that_fails_once_during_a_provision_is_told_and_mended() {
    let id = EngineId::generate();
    let cases = [
        (Call::EnsureImage, unreachable()),
        (Call::EnsureImage, no_image()),
        (Call::EnsureStorage, timed_out()),
        (Call::EnsureStorage, FaultKind::Fail(BackendError::StorageMissing(id))),
        (Call::EnsureStorage, refused()),
        (Call::Create, unreachable()),
        (Call::Create, FaultKind::LoseReply),
        (Call::Create, FaultKind::Late(Duration::from_millis(200))),
        (Call::Create, refused()),
        (Call::Create, full()),
        (Call::Create, FaultKind::Fail(BackendError::PortTaken(9001))),
    ];
    join_all(cases.map(|(call, kind)| provision_with(call, kind))).await;
}

/// One call of one operation on an engine that exists.
struct Once {
    rest: &'static str,
    ask: &'static str,
    call: Call,
    kind: FaultKind,
    ending: Ending,
}

fn once(rest: &'static str, ask: &'static str, call: Call, kind: FaultKind, ending: Ending) -> Once {
    Once { rest, ask, call, kind, ending }
}

fn ending(
    code: (u16, &'static str),
    retrying: Option<bool>,
    rest: (&'static str, &'static str),
    log: &[&'static str],
) -> Ending {
    Ending { code, retrying, status: rest.0, object: rest.1, log: log.to_vec() }
}

fn every_once() -> Vec<Once> {
    let bad = (502, "BACKEND_ERROR");
    let (up, down, asleep, gone) =
        (("running", "running"), ("stopped", "exited"), ("sleeping", "paused"), ("none", "absent"));
    let started = |more: &[&'static str]| [&["provision", "stop", "start"], more].concat();
    let woken = |more: &[&'static str]| [&["provision", "sleep", "wake"], more].concat();
    let mut cases = vec![
        once("stop", "start", Call::Start, unreachable(), ending(bad, Some(false), down, &started(&[]))),
        once("stop", "start", Call::Start, timed_out(), ending(bad, Some(false), down, &started(&[]))),
        once(
            "stop",
            "start",
            Call::Start,
            FaultKind::LoseReply,
            ending(bad, Some(false), down, &started(&[])),
        ),
        once("stop", "start", Call::Start, refused(), ending(bad, None, up, &started(&RESTARTED))),
        once("stop", "start", Call::Start, full(), ending(bad, None, up, &started(&RESTARTED))),
        once("stop", "start", Call::Start, no_image(), ending(bad, None, up, &started(&RESTARTED))),
        once(
            "stop",
            "start",
            Call::Start,
            FaultKind::Fail(BackendError::StorageMissing(EngineId::generate())),
            ending(bad, None, ("failed", "exited"), &started(&["auto_restart_gave_up"])),
        ),
        once(
            "stop",
            "start",
            Call::Start,
            FaultKind::Fail(BackendError::PortTaken(9001)),
            ending((200, ""), None, up, &started(&[])),
        ),
        once("sleep", "admit", Call::Thaw, unreachable(), ending(bad, Some(false), asleep, &woken(&[]))),
        once("sleep", "admit", Call::Thaw, timed_out(), ending(bad, Some(false), asleep, &woken(&[]))),
        once(
            "sleep",
            "admit",
            Call::Thaw,
            FaultKind::LoseReply,
            ending(bad, Some(false), asleep, &woken(&["sleep"])),
        ),
        once("sleep", "admit", Call::Thaw, refused(), ending(bad, None, up, &woken(&RESTARTED))),
        once("", "sleep", Call::Freeze, refused(), ending(bad, None, up, &["provision", "sleep"])),
        once("", "sleep", Call::Freeze, FaultKind::LoseReply, ending(bad, None, up, &["provision", "sleep"])),
        once("", "sleep", Call::Freeze, unreachable(), ending(bad, None, up, &["provision", "sleep"])),
    ];
    // Our wait ends, and the work is done nevertheless.
    let late = || FaultKind::Late(Duration::from_millis(100));
    cases.push(once("stop", "start", Call::Start, late(), ending(bad, Some(false), down, &started(&[]))));
    cases.push(once(
        "sleep",
        "admit",
        Call::Thaw,
        late(),
        ending(bad, Some(false), asleep, &woken(&["sleep"])),
    ));
    for kind in [unreachable(), refused(), timed_out(), FaultKind::LoseReply, full()] {
        cases.push(once("", "stop", Call::Stop, kind, ending(bad, Some(true), down, &["provision", "stop"])));
    }
    for call in [Call::Stop, Call::Remove, Call::Destroy, Call::StorageExists] {
        for kind in [unreachable(), refused(), FaultKind::LoseReply] {
            // A stop that is refused is no obstacle: the removal after it ends the object by force.
            let by_force = call == Call::Stop && matches!(&kind, FaultKind::Fail(BackendError::Refused(_)));
            let (code, retrying) = if by_force { ((200, ""), None) } else { (bad, Some(true)) };
            cases.push(once("", "", call, kind, ending(code, retrying, gone, &["provision", "destroy"])));
        }
    }
    cases
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_call_that_fails_once_is_told_as_documented_and_leaves_a_clean_world() {
    let (trial, demo) = Trial::with_product().await;
    let sql = trial.sql().await;
    let cases = every_once().into_iter().enumerate().map(async |(at, case)| {
        let user = format!("user-{at}");
        let what = format!("{} {} {:?}", case.ask, case.call.word(), case.kind);
        let id = demo.engine(&user).await;
        if !case.rest.is_empty() {
            assert_eq!(demo.post(&user, case.rest).await.status, 200, "{what}");
        }
        trial.world.fault(Fault::new(case.kind).on(case.call).of(id).times(1));
        let answer = match case.ask {
            "" => demo.destroy(&user).await,
            "admit" => demo.admit(&user).await,
            ask => demo.post(&user, ask).await,
        };
        ends(&trial, &sql, &what, id, &answer, case.ending).await;
    });
    join_all(cases).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sleep_whose_end_is_not_known_never_makes_a_frozen_engine_failed() {
    let (trial, demo) = Trial::with_product().await;
    let sql = trial.sql().await;
    let id = demo.engine("ada").await;
    trial.world.fault(Fault::new(FaultKind::LoseReply).on(Call::Freeze).of(id).times(1));
    trial.world.fault(Fault::new(unreachable()).on(Call::Thaw).of(id).times(1));
    let answer = demo.post("ada", "sleep").await;
    assert_eq!((answer.status, answer.code()), (502, "BACKEND_ERROR"), "{:?}", answer.body);
    assert_eq!(answer.body["error"]["details"]["retrying"], true, "{:?}", answer.body);
    trial.hurry(&sql).await;
    rests(&sql, id, "sleeping").await;
    assert_eq!(trial.world.truth(id).word(), "paused");
    assert_eq!(logged(&sql, id).await, ["provision", "sleep"]);
    assert_eq!(demo.admit("ada").await.body["admitted"], true);
    assert_eq!(trial.world.starts(id), 1, "it was never restarted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotation_whose_engine_does_not_answer_waits_and_then_ends() {
    let (trial, demo) = Trial::with_product().await;
    let sql = trial.sql().await;
    let id = demo.engine("ada").await;
    let before = demo.get("ada").await.body["api_key"].clone();
    trial.world.edit(id, |profile| profile.refuses_calls = true);
    let answer = demo.post("ada", "rotate-key").await;
    assert_eq!((answer.status, answer.code()), (502, "BACKEND_ERROR"), "{:?}", answer.body);
    assert_eq!(answer.body["error"]["details"]["retrying"], true, "{:?}", answer.body);
    assert_eq!(
        demo.get("ada").await.body["api_key"],
        before,
        "the old key is the key until the engine has the new one"
    );
    assert_eq!(demo.admit("ada").await.body["admitted"], true);
    trial.world.edit(id, |profile| profile.refuses_calls = false);
    trial.hurry(&sql).await;
    rests(&sql, id, "running").await;
    assert_ne!(demo.get("ada").await.body["api_key"], before);
    assert_eq!(logged(&sql, id).await, ["provision", "rotate_key"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_freeze_that_comes_after_its_deadline_is_undone() {
    let (trial, demo) = Trial::with_product().await;
    let sql = trial.sql().await;
    let id = demo.engine("ada").await;
    let late = Duration::from_millis(1500);
    trial.world.fault(Fault::new(FaultKind::Late(late)).on(Call::Freeze).of(id).times(1));
    let answer = demo.post("ada", "sleep").await;
    assert_eq!((answer.status, answer.code()), (502, "BACKEND_ERROR"), "{:?}", answer.body);
    let asked =
        trial.world.calls().into_iter().find(|call| call.call == Call::Freeze).expect("it was asked").at;
    until("the place has frozen it after all", async || trial.world.now().millis() > asked.millis() + 1600)
        .await;
    until("it runs", async || trial.world.truth(id).word() == "running").await;
    rests(&sql, id, "running").await;
    assert_eq!(demo.admit("ada").await.body["admitted"], true);
    assert_eq!(logged(&sql, id).await, ["provision", "sleep"]);
    assert_eq!(trial.world.starts(id), 1);
}
