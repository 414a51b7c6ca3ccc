//! The transition table and the matrix as a product meets them: every request in every status and beside every
//! open operation, through HTTP.

use crate::trial::{Answer, Product, Trial, until};
use backends::{Call, Fault, FaultKind};
use contract::EngineId;
use orchestrator::registry::change::{Change, EnginePatch};
use serde_json::{Value, json};
use std::time::Duration;

const REQUESTS: [&str; 10] = [
    "provision",
    "admit",
    "admit provision",
    "admit wake",
    "admit provision wake",
    "start",
    "stop",
    "sleep",
    "rotate-key",
    "destroy",
];

/// How the engine stands when the request arrives; `open` = the kind that is held open meanwhile.
struct Stand {
    name: &'static str,
    open: Option<&'static str>,
    /// What becomes of it when nobody asks anything: the pair, and the rows.
    alone: (&'static str, &'static [&'static str]),
    /// By request, in the order of [`REQUESTS`]. A word in capitals is a refusal; `no: reason` is `admitted:false`;
    /// `ok` answers 200 and leaves things as `alone` says; `ok: pair row` says what the request made of it.
    cells: [&'static str; 10],
}

const EXISTS: &str = "ENGINE_ALREADY_EXISTS";
const NOT_RUNNING: &str = "ENGINE_NOT_RUNNING";
const BUSY: &str = "ENGINE_BUSY";
const GONE: &str = "ok: none destroy";
const STOPPED: &str = "ok: stopped-stopped stop";
const STARTED: &str = "ok: running-running start";
const WOKEN: &str = "ok: running-running wake";
const UNHEALTHY: &str = "no: engine_unhealthy";
const ASLEEP: &str = "no: engine_sleeping";
const DOWN: &str = "no: engine_stopped";
const NONE: &str = "ENGINE_NOT_FOUND";

#[rustfmt::skip]
const STANDS: [Stand; 14] = [
    Stand { name: "none", open: None, alone: ("none", &[]), cells: [
        "ok: running-running provision", "no: engine_not_found", "ok: running-running provision",
        "no: engine_not_found", "ok: running-running provision", NONE, NONE, NONE, NONE, NONE] },
    Stand { name: "running", open: None, alone: ("running-running", &[]), cells: [
        EXISTS, "ok", "ok", "ok", "ok", "ENGINE_ALREADY_RUNNING", STOPPED, "ok: sleeping-sleeping sleep",
        "ok: running-running rotate_key", GONE] },
    Stand { name: "sleeping", open: None, alone: ("sleeping-sleeping", &[]), cells: [
        EXISTS, ASLEEP, ASLEEP, WOKEN, WOKEN, STARTED, STOPPED, "ok", NOT_RUNNING, GONE] },
    Stand { name: "stopped", open: None, alone: ("stopped-stopped", &[]), cells: [
        EXISTS, DOWN, DOWN, DOWN, DOWN, STARTED, NOT_RUNNING, NOT_RUNNING, NOT_RUNNING, GONE] },
    Stand { name: "failed", open: None, alone: ("failed-running", &[]), cells: [
        EXISTS, UNHEALTHY, UNHEALTHY, UNHEALTHY, UNHEALTHY, STARTED, STOPPED, NOT_RUNNING, NOT_RUNNING, GONE] },
    Stand { name: "given up", open: None, alone: ("failed-running", &[]), cells: [
        EXISTS, UNHEALTHY, UNHEALTHY, UNHEALTHY, UNHEALTHY, STARTED, STOPPED, NOT_RUNNING, NOT_RUNNING, GONE] },
    Stand { name: "provision", open: Some("provision"), alone: ("running-running", &["provision"]), cells: [
        EXISTS, "ok", "ok", "ok", "ok", "ok", STOPPED, NOT_RUNNING, NOT_RUNNING, GONE] },
    Stand { name: "start", open: Some("start"), alone: ("running-running", &["start"]), cells: [
        EXISTS, "ok", "ok", "ok", "ok", "ok", STOPPED, NOT_RUNNING, NOT_RUNNING, GONE] },
    Stand { name: "wake", open: Some("wake"), alone: ("running-running", &["wake"]), cells: [
        EXISTS, "ok", "ok", "ok", "ok", "ok", STOPPED, NOT_RUNNING, NOT_RUNNING, GONE] },
    Stand { name: "restart", open: Some("restart"), alone: ("running-running", &["auto_restart_success"]), cells: [
        EXISTS, UNHEALTHY, UNHEALTHY, UNHEALTHY, UNHEALTHY, "ok", STOPPED, NOT_RUNNING, NOT_RUNNING, GONE] },
    Stand { name: "stop", open: Some("stop"), alone: ("stopped-stopped", &["stop"]), cells: [
        EXISTS, DOWN, DOWN, DOWN, DOWN, STARTED, "ok", BUSY, BUSY, GONE] },
    Stand { name: "sleep", open: Some("sleep"), alone: ("sleeping-sleeping", &["sleep"]), cells: [
        EXISTS, ASLEEP, ASLEEP, WOKEN, WOKEN, STARTED, STOPPED, "ok", BUSY, GONE] },
    Stand { name: "rotate_key", open: Some("rotate_key"), alone: ("running-running", &["rotate_key"]), cells: [
        EXISTS, "ok", "ok", "ok", "ok", "ENGINE_ALREADY_RUNNING", BUSY, BUSY, BUSY, GONE] },
    Stand { name: "destroy", open: Some("destroy"), alone: ("none", &["destroy"]), cells: [
        EXISTS, "no: engine_destroying", "no: engine_destroying", "no: engine_destroying", "no: engine_destroying",
        BUSY, BUSY, BUSY, BUSY, "ok"] },
];

async fn ask(demo: &Product, user: &str, request: &str) -> Answer {
    match request.split(' ').collect::<Vec<_>>().as_slice() {
        ["provision"] => demo.provision(user).await,
        ["admit", flags @ ..] => {
            let body =
                json!({"auto_provision": flags.contains(&"provision"), "auto_wake": flags.contains(&"wake")});
            demo.call("POST", &format!("/engines/{user}/admit"), body).await
        }
        ["destroy"] => demo.destroy(user).await,
        _ => demo.post(user, request).await,
    }
}

/// Leads a fresh engine to the stand, up to where the open operation is held; answers who asked for that operation.
async fn bring(trial: &Trial, demo: &Product, user: &str, stand: &str) -> (Option<EngineId>, usize) {
    let later = |request: &'static str| {
        let (demo, user) = (demo.clone(), user.to_owned());
        tokio::spawn(async move { ask(&demo, &user, request).await });
    };
    if stand == "none" {
        return (None, 0);
    }
    if stand == "provision" {
        later("provision");
        demo.until_standing(user, "provisioning-running+provision").await;
        let id = demo.get(user).await.body["engine_id"].as_str().and_then(|id| EngineId::parse(id).ok());
        return (id, 1);
    }
    let id = demo.engine(user).await;
    let hold = |call| trial.world.fault(Fault::new(FaultKind::Hang).on(call).of(id));
    let waiting = match stand {
        "sleeping" | "wake" => {
            assert_eq!(demo.post(user, "sleep").await.status, 200);
            if stand == "wake" {
                hold(Call::Thaw);
                later("admit wake");
                demo.until_standing(user, "sleeping-running+wake").await;
            }
            usize::from(stand == "wake")
        }
        "stopped" | "start" => {
            assert_eq!(demo.post(user, "stop").await.status, 200);
            if stand == "start" {
                hold(Call::Start);
                later("start");
                demo.until_standing(user, "stopped-running+start").await;
            }
            usize::from(stand == "start")
        }
        "failed" | "given up" | "restart" => {
            trial.world.crash(id, if stand == "given up" { 2 } else { 1 }, false);
            demo.until_standing(user, "failed-running").await;
            if stand == "restart" {
                hold(Call::Start);
                due_now(trial, id).await;
                demo.until_standing(user, "failed-running+restart").await;
            }
            0
        }
        "stop" => {
            hold(Call::Stop);
            later("stop");
            demo.until_standing(user, "running-stopped+stop").await;
            1
        }
        "sleep" => {
            hold(Call::Freeze);
            later("sleep");
            demo.until_standing(user, "running-sleeping+sleep").await;
            1
        }
        "rotate_key" => {
            trial.world.edit(id, |profile| profile.refuses_calls = true);
            later("rotate-key");
            demo.until_standing(user, "running-running+rotate_key").await;
            1
        }
        "destroy" => {
            hold(Call::Destroy);
            later("destroy");
            demo.until_standing(user, "destroying-destroyed+destroy").await;
            1
        }
        _ => 0,
    };
    (Some(id), waiting)
}

/// Makes the restart of a failed engine due.
pub async fn due_now(trial: &Trial, id: EngineId) {
    let core = &trial.replicas[0].core;
    let found = core.registry.found(id).await.expect("the database answers").expect("the engine exists");
    let patch = EnginePatch { next_restart_in: Some(Some(Duration::ZERO)), ..EnginePatch::default() };
    let change = Change {
        engine_id: id,
        revision: found.engine.revision,
        only_without_operation: true,
        patch,
        audit: Vec::new(),
    };
    core.registry.change(&change).await.expect("the database answers");
    core.nudge.look_at(id);
}

fn check_answer(place: &str, request: &str, cell: &str, answer: &Answer) {
    let body = &answer.body;
    if cell.chars().all(|c| c.is_ascii_uppercase() || c == '_') {
        let status = if cell == NONE { 404 } else { 409 };
        assert_eq!((answer.status, answer.code()), (status, cell), "{place}: {body:?}");
        if cell == BUSY {
            assert_eq!(body["error"]["details"]["reason"], "operation", "{place}: {body:?}");
        }
        return;
    }
    assert_eq!(answer.status, 200, "{place}: {body:?}");
    if let Some(reason) = cell.strip_prefix("no: ") {
        assert_eq!((&body["admitted"], &body["engine"]), (&json!(false), &Value::Null), "{place}: {body:?}");
        assert_eq!(body["reason"], reason, "{place}");
        return;
    }
    let told = match request {
        "provision" | "start" => body["status"] == "running",
        "stop" => body["status"] == "stopped",
        "sleep" => body["status"] == "sleeping",
        "destroy" => body["status"] == "destroyed",
        "rotate-key" => body["api_key"].as_str().is_some_and(|key| key.starts_with("sk-sept-")),
        _ => body["admitted"] == true && body["engine"]["status"] == "running",
    };
    assert!(told, "{place}: {body:?}");
}

async fn check_stand(trial: &Trial, demo: &Product, stand: &Stand) {
    if stand.name == "provision" {
        trial.world.fault(Fault::new(FaultKind::Hang).on(Call::EnsureImage));
    }
    let mut engines = Vec::new();
    let mut askers = 0;
    for request in REQUESTS {
        let user = format!("{}-{}", stand.name.replace(' ', "_"), request.replace(' ', "_"));
        let (id, waiting) = bring(trial, demo, &user, stand.name).await;
        askers += waiting;
        let before = match id {
            Some(id) => trial.actions(id).await,
            None => Vec::new(),
        };
        engines.push((request, user, id, before));
    }
    let requests: Vec<_> = engines
        .iter()
        .map(|(request, user, ..)| {
            let (demo, user, request) = (demo.clone(), user.clone(), *request);
            tokio::spawn(async move { ask(&demo, &user, request).await })
        })
        .collect();
    if stand.open.is_some() {
        // The refused are answered; the others wait, and beside them those who asked for what is still open.
        let at_once = if stand.name == "rotate_key" { 4 } else { 0 };
        let held = stand.cells.iter().filter(|cell| cell.starts_with("ok")).count() - at_once;
        let left =
            if askers > 0 { stand.cells.iter().filter(|cell| !cell.starts_with("ok: ")).count() } else { 0 };
        until(&format!("{} requests at {} are held", held + left, stand.name), async || {
            requests.iter().filter(|r| !r.is_finished()).count() == held && trial.waiting(0) == held + left
        })
        .await;
        trial.world.heal();
        for (_, _, id, _) in &engines {
            if let Some(id) = id {
                trial.world.edit(*id, |profile| profile.refuses_calls = false);
            }
        }
    }
    for ((request, user, id, before), answer) in engines.iter().zip(requests) {
        let at = REQUESTS.iter().position(|r| r == request).expect("is one of them");
        let (cell, place) = (stand.cells[at], format!("{request} at {}", stand.name));
        let answer = answer.await.expect("a request is answered");
        check_answer(&place, request, cell, &answer);
        let (pair, rows): (&str, Vec<&str>) =
            match cell.strip_prefix("ok: ").map(|c| c.split(' ').collect::<Vec<_>>()) {
                Some(told) => (told[0], told[1..].to_vec()),
                None => (stand.alone.0, stand.alone.1.to_vec()),
            };
        until(&format!("{place}: {pair}"), async || demo.standing(user).await == pair).await;
        let Some(id) = id.or_else(|| {
            answer.body["engine_id"]
                .as_str()
                .or(answer.body["engine"]["engine_id"].as_str())
                .and_then(|t| EngineId::parse(t).ok())
        }) else {
            continue;
        };
        let after = trial.actions(id).await;
        assert_eq!(after[before.len().min(after.len())..], rows, "{place}: {before:?}");
        if let (Some(open), true) = (stand.open, cell.starts_with("ok: ")) {
            let row = trial.row(id, rows[0]).await;
            assert_eq!(row["metadata"]["superseded"], open, "{place}: {row:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_cell_of_the_table() {
    let mut trial =
        Trial::new().await.set("ORCH_RESTART_BACKOFF_BASE_S", "300").set("ORCH_RESTART_BACKOFF_MAX_S", "300");
    trial.call_timeout = Duration::from_secs(20);
    let (trial, demo) = trial.ready().await;
    for stand in &STANDS {
        check_stand(&trial, &demo, stand).await;
    }
}

/// Two requests that exclude each other: the later one stands, and neither goes on for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_is_superseded_by_a_stop_does_not_come_back() {
    let (trial, demo) = Trial::with_product().await;
    let id = demo.engine("ada").await;
    assert_eq!(demo.post("ada", "stop").await.status, 200);
    trial.world.fault(Fault::new(FaultKind::Hang).on(Call::Start).of(id));
    let start = tokio::spawn({
        let demo = demo.clone();
        async move { demo.post("ada", "start").await }
    });
    demo.until_standing("ada", "stopped-running+start").await;
    let stop = tokio::spawn({
        let demo = demo.clone();
        async move { demo.post("ada", "stop").await }
    });
    demo.until_standing("ada", "stopped-stopped+stop").await;
    trial.world.heal();
    let (start, stop) = (start.await.expect("is answered"), stop.await.expect("is answered"));
    assert_eq!((stop.status, &stop.body["status"]), (200, &json!("stopped")), "{:?}", stop.body);
    assert_eq!((start.status, start.code()), (409, "ENGINE_BUSY"), "{:?}", start.body);
    assert_eq!(demo.standing("ada").await, "stopped-stopped");
    assert_eq!(trial.world.running(), [], "a stopped engine runs");
    assert_eq!(trial.actions(id).await, ["provision", "stop", "stop"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stop_has_a_deadline_and_start_supersedes_it() {
    let (trial, demo) = Trial::with_product().await;
    let id = demo.engine("ada").await;
    trial.world.edit(id, |profile| profile.ignores_term = true);
    let stop = tokio::spawn({
        let demo = demo.clone();
        async move { demo.post("ada", "stop").await }
    });
    demo.until_standing("ada", "running-stopped+stop").await;
    let began = std::time::Instant::now();
    let started = demo.post("ada", "start").await;
    assert_eq!(started.status, 200, "{:?}", started.body);
    assert!(
        began.elapsed() < Duration::from_secs(12),
        "the start waited {:?} for a deaf engine",
        began.elapsed()
    );
    assert_eq!(stop.await.expect("is answered").code(), "ENGINE_BUSY");
    assert_eq!(demo.standing("ada").await, "running-running");
    assert_eq!(trial.actions(id).await, ["provision", "start"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_the_backend_refuses_goes_on_in_the_background() {
    let (trial, demo) = Trial::with_product().await;
    let id = demo.engine("ada").await;
    let refused = backends::BackendError::Refused("not now".into());
    trial.world.fault(Fault::fail(refused).on(Call::Stop).of(id).times(1));
    let stop = demo.post("ada", "stop").await;
    assert_eq!((stop.status, stop.code()), (502, "BACKEND_ERROR"), "{:?}", stop.body);
    assert_eq!(stop.body["error"]["details"]["retrying"], true);
    assert!(stop.retry_after.is_some_and(|s| s >= 1), "a retry is scheduled");
    assert_eq!(demo.admit("ada").await.body["reason"], "engine_stopped");
    demo.until_standing("ada", "stopped-stopped").await;
    assert_eq!(trial.actions(id).await, ["provision", "stop"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_status_can_be_destroyed_while_the_backend_fails() {
    let (trial, demo) = Trial::with_product().await;
    let id = demo.engine("ada").await;
    let refused = backends::BackendError::Refused("not now".into());
    trial.world.fault(Fault::fail(refused).on(Call::Destroy).of(id).times(1));
    let first = demo.destroy("ada").await;
    assert_eq!((first.status, first.code()), (502, "BACKEND_ERROR"), "{:?}", first.body);
    assert_eq!(first.body["error"]["details"]["retrying"], true);
    assert_eq!(demo.status("ada").await, "destroying");
    demo.until_status("ada", "none").await;
    assert!(!trial.world.has_storage(id));
    assert_eq!(trial.actions(id).await, ["provision", "destroy"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sleep_that_is_superseded_by_a_start_does_not_come_back() {
    let (trial, demo) = Trial::with_product().await;
    let id = demo.engine("ada").await;
    trial
        .world
        .fault(Fault::new(FaultKind::Latency(Duration::from_millis(600))).on(Call::Freeze).of(id).times(1));
    let sleep = tokio::spawn({
        let demo = demo.clone();
        async move { demo.post("ada", "sleep").await }
    });
    demo.until_standing("ada", "running-sleeping+sleep").await;
    assert_eq!(demo.post("ada", "start").await.status, 200);
    let sleep = sleep.await.expect("is answered");
    assert_eq!(sleep.status, 409, "{:?}", sleep.body);
    assert_eq!(demo.standing("ada").await, "running-running");
    assert_eq!(trial.world.truth(id).word(), "running");
    assert_eq!(trial.actions(id).await, ["provision", "start"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn first_boot_counts_once_whatever_operation_made_it() {
    let (trial, demo) = Trial::with_product().await;
    trial.world.fault(Fault::new(FaultKind::Hang).on(Call::EnsureImage));
    let provision = tokio::spawn({
        let demo = demo.clone();
        async move { demo.provision("ada").await }
    });
    demo.until_standing("ada", "provisioning-running+provision").await;
    let stop = tokio::spawn({
        let demo = demo.clone();
        async move { demo.post("ada", "stop").await }
    });
    demo.until_standing("ada", "provisioning-stopped+stop").await;
    trial.world.heal();
    assert_eq!(stop.await.expect("is answered").status, 200);
    assert_eq!(provision.await.expect("is answered").code(), "ENGINE_BUSY");
    let total = async || demo.call("GET", "/metrics", Value::Null).await.body["total_provisions"].clone();
    assert_eq!(total().await, 0);
    for _ in 0..2 {
        assert_eq!(demo.post("ada", "start").await.status, 200);
        assert_eq!(total().await, 1);
        assert_eq!(demo.post("ada", "stop").await.status, 200);
    }
    assert_eq!(demo.destroy("ada").await.status, 200);
    let told = demo.call("GET", "/metrics", Value::Null).await.body;
    assert_eq!((&told["total_provisions"], &told["total_destroys"]), (&json!(1), &json!(1)));
}
